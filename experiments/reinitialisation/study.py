"""State estimators of a recurrent model before it predicts: their errors, and their cost to the controller.

Three tanks, the model of the demo. Washouts of many lengths, running on over exact and inexact inputs, a state
observer, a moving horizon estimate and a learned encoder: the certified (for the encoder alone: calibrated) error of
state and outputs against what happens on held-out records and from the edge of the declared sets, the jump per step,
the tightening over the prediction, and cost and violations of the closed loop, beside the nominal controller and one
that is a constant away from its limits, the least at which trial loops kept them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from controlrnn.certification import ContractionCertificate, certify_contraction
from controlrnn.checks import Array
from controlrnn.data import Dataset
from controlrnn.errors import CertificationError
from controlrnn.identification import fit_encoder
from controlrnn.systems import LureSystem, observer_system
from experiments.reinitialisation import cases as work
from experiments.reinitialisation.cases import Method
from experiments.shared.study import Row, Study
from experiments.three_tank import stages
from experiments.three_tank.__main__ import CHOSEN
from experiments.three_tank.config import Config
from mpc import (
    EncoderObserver,
    ModelError,
    MovingHorizonObserver,
    RunningOn,
    StateObserver,
    Tightening,
    Washout,
    calibrate_estimates,
    kalman_gain,
)
from mpc.calibration.residuals import calibration_errors

WASHOUTS = (0, 5, 10, 20, 50, 100, 140, 200)
PAST = 15  # samples that the encoder sees
WINDOW = 15  # samples of the moving horizon
MARGIN = 1.2  # on the largest residual seen in calibration: what the plant is declared to stay below
TRUST, JUMP_SHARE = 0.25, 0.05  # of the guard's error: what a guarded estimate may be away by, and jump by
ITERATIONS = 60  # of the multipliers, per output
LOOPS = (
    "washout 50", "washout 100", "washout 140", "running on", "state observer", "moving horizon", "encoder, guarded",
    "encoder, calibrated", "running on, exact inputs",
)  # fmt: skip
BASELINES = ("nominal", "backed off")  # promise nothing


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("reinitialisation", __doc__, arguments)
    logging.getLogger("mpc").setLevel(logging.ERROR)  # a nominal controller warns at each of its failures
    config = replace(Config.of(study.quick), runs=3 if study.quick else 15)
    with study.stage("plant, model, contraction"):
        dataset, system, contraction = _model(study, config)
    with study.stage("residuals, model error"):
        error, residual, spread = _residuals(system, dataset, config)
    with study.stage("estimators"):
        methods = _methods(study, config, dataset, system, contraction, residual, spread)
    rows = {m.name: _judge(study, config, dataset, contraction, error, residual, m) for m in methods}
    edges = {w: _edge(study, config, dataset, contraction, w, methods) for w in WASHOUTS}
    loops = _loops(study, config, methods, rows)
    _targets(study, rows, edges, loops, _residuals_held(system, dataset, residual, config))
    study.figure("reinitialisation", _figure(rows, edges, config))
    study.figure("closed_loop", _loop_figure(loops))
    return study.finish(
        config=asdict(config),
        residual_bound=residual,
        model_error=error.bounds,
        describe={m.name: m.observer.describe() for m in methods},
        best=_best(loops),
    )


def _model(study: Study, config: Config) -> tuple[Dataset, LureSystem, ContractionCertificate]:
    dataset = stages.experiments(config, study.seed)

    def compute() -> Row:
        candidate = stages.candidates(study.seed)[CHOSEN]
        fit = stages.train(candidate, dataset, config, study.path("checkpoint.npz"), CHOSEN, study.seed)
        stages.save_model(fit.system, study.out)
        proof = stages.contraction(fit.system, dataset, config)
        proof.save(study.path("contraction.npz"))
        return {"fit_percent": fit.scores["test"].fit_percent, "rate": proof.rate, "digest": fit.system.digest}

    study.row("model", compute, needs=asdict(config), files=["model.npz", "contraction.npz"])
    return dataset, stages.model_of(study.out), stages.contraction_of(study.path("contraction.npz"))


def _residuals(system: LureSystem, dataset: Dataset, config: Config) -> tuple[ModelError, Array, Array]:
    """Calibrate the model error; also the declared bound and the standard deviation of the residual."""
    plain = Washout(stages.predictor(system, config), config.washout)
    error = stages.model_error(system, plain, dataset, config)
    seen = np.concatenate(
        [
            calibration_errors(system, r, horizon=1, washout=config.washout, initial_state=plain.initial_state)[:, 0]
            for r in (*dataset.calibration, *dataset.validation)
        ]
    )
    return error, MARGIN * np.abs(seen).max(axis=0), seen.std(axis=0)


def _residuals_held(system: LureSystem, dataset: Dataset, residual: Array, config: Config) -> float:
    """Largest residual of the test records over its declared bound."""
    start = Washout(stages.predictor(system, config), 1).initial_state
    seen = [calibration_errors(system, r, horizon=1, washout=config.washout, initial_state=start) for r in dataset.test]
    return float(max((np.abs(s) / residual).max() for s in seen))


def _methods(
    study: Study,
    config: Config,
    dataset: Dataset,
    system: LureSystem,
    contraction: ContractionCertificate,
    residual: Array,
    spread: Array,
) -> list[Method]:
    """All estimators under test; slow ones are tried on fewer records."""
    predictor, many, few = stages.predictor(system, config), len(dataset.test), 2 if study.quick else 5
    settings: dict[str, Any] = {"contraction": contraction, "input_error": config.actuator}
    W = config.washout
    methods = [Method(f"washout {w}", Washout(predictor, w, **settings), many) for w in WASHOUTS if w]
    methods += [
        Method("running on", RunningOn(predictor, W, **settings), many),
        Method("washout 140, exact inputs", Washout(predictor, W, contraction=contraction), many),
        Method("running on, exact inputs", RunningOn(predictor, W, contraction=contraction), many),
        Method("state observer", _observer(predictor, W, residual, spread, settings), many),
    ]
    guard = RunningOn(predictor, W, **settings)
    limits: dict[str, Any] = {"guard": guard, "trust": TRUST, "jump_limit": JUMP_SHARE * guard.error.radius}
    encoder = fit_encoder(system, dataset.train, past=PAST, washout=W, seed=study.seed)
    free = EncoderObserver(predictor, encoder, W, **settings)
    measured = calibrate_estimates(free, dataset.calibration, washout=W, coverage=config.coverage, seed=study.seed)
    return [
        *methods,
        Method("moving horizon", MovingHorizonObserver(
            predictor, W, window=WINDOW, output_std=config.noise, offset_std=spread, **limits, **settings), few),
        Method("encoder, guarded", EncoderObserver(predictor, encoder, W, **limits, **settings), many),
        Method("encoder, calibrated", EncoderObserver(
            predictor, encoder, W, calibration=measured, **settings), many, certified=False),
    ]  # fmt: skip


def _observer(predictor: Any, W: int, residual: Array, spread: Array, settings: dict[str, Any]) -> StateObserver:
    """Observer with the Kalman gain, or with as large a share of it as can be certified."""
    system = predictor.system
    optimal = kalman_gain(predictor, output_noise_std=spread, input_noise_std=settings["input_error"] / np.sqrt(3))
    for share in 0.5 ** np.arange(8):
        try:
            proof = certify_contraction(observer_system(system, share * optimal))
        except CertificationError:
            continue
        return StateObserver(
            predictor, share * optimal, W, residual_bound=residual, observer_contraction=proof, **settings
        )
    raise CertificationError("no share of the Kalman gain could be certified")


def _judge(
    study: Study,
    config: Config,
    dataset: Dataset,
    contraction: ContractionCertificate,
    error: ModelError,
    residual: Array,
    method: Method,
) -> Row:
    """Compare the promise of one estimator with what happens."""

    def compute() -> Row:
        tightening = work.tightening_of(error, method, work.certify(method, config, ITERATIONS))
        tightening.save(study.path(f"{_stem(method.name)}.npz"))
        bounds, jump = tightening.reinitialisation, method.observer.jump
        seen = work.realised(method, contraction, dataset.test, residual, config, study.seed)
        states, P = np.concatenate(seen.state), contraction.metric
        share = bounds / np.maximum(seen.outputs, 1e-12)
        return {
            "state_bound": method.observer.error.radius_in(P), "state_largest": states.max(),
            "state_alike": max(seen.alike), "state_median": np.median(states),
            "jump_bound": None if jump is None else jump.radius_in(P),
            "jump_largest": seen.jump, "output_first_cm": bounds[0], "output_last_cm": bounds[-1],
            "bound_over_seen": float(share.min()), "tightening_last_cm": tightening.total[-1],
            "records_inside": float(np.mean(np.array(seen.alike) <= method.observer.error.radius_in(P))),
            "sample_ms": seen.milliseconds, "certified": method.certified,
            "outputs": bounds, "outputs_largest": seen.outputs, "tightening": tightening.total,
        }  # fmt: skip

    return study.row(
        method.name,
        compute,
        needs={"observer": method.observer.digest, "config": asdict(config)},
        files=[f"{_stem(method.name)}.npz"],
    )


def _edge(
    study: Study,
    config: Config,
    dataset: Dataset,
    contraction: ContractionCertificate,
    washout: int,
    methods: Sequence[Method],
) -> Row:
    """Errors after restarts at the edge of the reachable ball, with input errors at their corners."""
    like = next(m.observer for m in methods if m.name == "washout 140")

    def compute() -> Row:
        starts = 5 if study.quick else 40
        state, outputs = work.from_the_edge(washout, like, contraction, dataset.test, config, starts, study.seed)
        radius = like.restart.radius if like.restart is not None else np.inf
        exact = contraction.error_after(washout, radius)
        bound = contraction.error_after(washout, radius, like.input_error)
        return {
            "washout": washout, "edge_state_bound": bound, "edge_state_largest": state, "exact_inputs_bound": exact,
            "edge_output_first_cm": outputs[0], "edge_output_last_cm": outputs[-1], "edge_outputs": outputs,
        }  # fmt: skip

    return study.row(f"from the edge, washout {washout}", compute, needs={"observer": like.digest})


def _loops(study: Study, config: Config, methods: Sequence[Method], rows: dict[str, Row]) -> dict[str, Row]:
    """Run closed loops with each estimator's tightening, with none, and with a constant chosen by trial."""
    named, found = {m.name: m for m in methods}, {}
    base = named["washout 140"].observer
    found["nominal"] = study.row(
        "closed loop, nominal", lambda: work.closed_loops(base, None, config, study.seed), needs=asdict(config)
    )
    found["backed off"] = study.row(
        "closed loop, backed off", lambda: work.baseline(base, config, study.seed), needs=asdict(config)
    )
    for name in LOOPS:
        method = named[name]

        def compute(method: Method = method) -> Row:
            tightening = Tightening.load(study.path(f"{_stem(method.name)}.npz")).on_trust()
            return work.closed_loops(method.observer, tightening, config, study.seed)

        needs = {"observer": method.observer.digest, "tightening": rows[name]["tightening"]}
        found[name] = study.row(f"closed loop, {name}", compute, needs=needs)
        study.say(f"closed loop, {name}: cost {found[name]['cost']}, violations {found[name]['runs_with_violation']}")
    return found


def _best(loops: dict[str, Row]) -> str | None:
    """Name of the certified estimator with inexact inputs that costs least without leaving the limits."""
    costs = {
        name: row["cost"]
        for name, row in loops.items()
        if name not in (*BASELINES, "encoder, calibrated")
        and "exact" not in name
        and row["cost"] is not None
        and row["runs_with_violation"] == 0
    }
    return min(costs, key=lambda name: costs[name]) if costs else None


def _targets(
    study: Study, rows: dict[str, Row], edges: dict[int, Row], loops: dict[str, Row], residual_ratio: float
) -> None:
    """Check that bounds hold wherever they are claimed."""
    proven = {name: row for name, row in rows.items() if row["certified"]}
    state = max(row["state_largest"] / row["state_bound"] for row in proven.values())
    study.target("state error over its certificate, all estimators", "<= 1", state, state <= 1)
    outputs = min(row["bound_over_seen"] for row in proven.values())
    study.target("certificate over output error, all estimators and steps", ">= 1", outputs, outputs >= 1)
    rounding = 1e-9  # of a run that is computed in two ways
    jump = max(row["jump_largest"] - row["jump_bound"] for row in proven.values())
    study.target("jump beyond its certificate, all estimators", "<= 0", jump, jump <= rounding)
    edge = max(row["edge_state_largest"] / row["edge_state_bound"] for row in edges.values())
    study.target("state error from the edge over its certificate", "<= 1", edge, edge <= 1 + rounding)
    outer = [
        np.max(np.array(edges[w]["edge_outputs"]) / np.array(rows[f"washout {w}"]["outputs"])) for w in WASHOUTS if w
    ]
    study.target("output error from the edge over its certificate", "<= 1", float(max(outer)), max(outer) <= 1)
    study.target("test residuals over the declared bound", "<= 1", residual_ratio, residual_ratio <= 1)
    covered = rows["encoder, calibrated"]["records_inside"]
    study.target("test records inside the encoder's calibrated error", ">= 0.9", covered, covered >= 0.9)
    unsafe = sum(row["runs_with_violation"] or 0 for name, row in loops.items() if name not in BASELINES)
    study.target("tightened runs with a violation", 0, unsafe, unsafe == 0)


def _figure(rows: dict[str, Row], edges: dict[int, Row], config: Config) -> Figure:
    """Plot error against washout, errors and bounds of all estimators, and tightening."""
    figure = Figure(figsize=(14, 4.6), layout="constrained")
    left, middle, right = figure.subplots(1, 3)
    _against_washout(left, rows, edges)
    names = [n for n in rows if not n.startswith("washout")]
    floor = 0.01 * min(rows[name]["state_bound"] for name in names)
    for i, name in enumerate(names):
        largest = "state_largest" if rows[name]["certified"] else "state_alike"  # what its bound speaks of
        seen = np.maximum([rows[name]["state_median"], rows[name][largest]], floor)
        middle.plot(seen, [i, i], color=f"C{i}", lw=3)
        middle.plot(rows[name]["state_bound"], i, marker="|", ms=14, mew=2.5, color=f"C{i}")
    middle.set_yticks(range(len(names)), names)
    middle.set(xscale="log", xlabel="error of the state (metric): median to largest, and bound (|)", xlim=(floor, None))
    steps = np.arange(config.horizon + 1)
    for i, name in enumerate(names):
        right.plot(steps, np.array(rows[name]["tightening"])[:, 0], f"C{i}", ls="--" if i % 2 else "-", label=name)
    for name, grey in (("washout 50", "0.75"), ("washout 100", "0.5"), ("washout 140", "0.25")):
        right.plot(steps, np.array(rows[name]["tightening"])[:, 0], color=grey, ls=":", lw=2, label=name)
    right.set(xlabel="prediction step", ylabel="tightening of tank 1 [cm]", ylim=(0, None))
    right.legend(fontsize="x-small", ncols=2)
    return figure


def _against_washout(axes: Axes, rows: dict[str, Row], edges: dict[int, Row]) -> None:
    seen = [w for w in WASHOUTS if w]
    for column, style, label in (
        ("edge_state_bound", "k.-", "certified"),
        ("exact_inputs_bound", "k:", "certified, exact inputs"),
        ("edge_state_largest", "C3.-", "largest, from the edge"),
    ):
        axes.semilogy(WASHOUTS, [edges[w][column] for w in WASHOUTS], style, label=label)
    for column, style, label in (
        ("state_largest", "C0.-", "largest, held-out records"),
        ("state_median", "C0--", "median, held-out records"),
    ):
        axes.semilogy(seen, [rows[f"washout {w}"][column] for w in seen], style, label=label)
    lowest = min(rows[f"washout {w}"]["state_median"] for w in seen)
    axes.set(xlabel="washout [samples]", ylabel="error of the state (metric)", ylim=(0.3 * lowest, None))
    axes.legend(fontsize="small")


def _loop_figure(loops: dict[str, Row]) -> Figure:
    """Plot the cost of the closed loops, with the runs that left the limits."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    known = {name: row for name, row in loops.items() if row["cost"] is not None}
    costs = [row["cost"] for row in known.values()]
    bars = axes.barh(list(known), costs, color="C0")
    axes.bar_label(
        bars,
        [
            f" {row['cost']:.0f}; {row['runs_with_violation']} of {row['runs']} leave the limits"
            for row in known.values()
        ],
        fontsize="small",
    )
    axes.invert_yaxis()
    axes.set(xlabel="mean closed-loop cost", xlim=(0, 1.4 * max(costs)))
    return figure


def _stem(name: str) -> str:
    return name.replace(",", "").replace(" ", "_")
