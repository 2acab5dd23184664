"""Three tanks, from the first experiment to an MPC that keeps its limits.

Excite the simulated plant, identify models, certify the chosen one, calibrate its model error, tighten the limits and
run the plant near its limit, with four controllers side by side, what they cost and what they promise:

- nominal: limits as they are, corrected by the disturbance estimate;
- backed off: the same, a constant away from its limits at which a few trial loops kept them; promises nothing;
- closed-loop calibrated: the same with a constant that fresh loops of the very controller confirmed, which promises
  that a loop like those keeps its limits with a stated probability;
- recalling: limits tightened by no more than what measurements leave of errors that are calibrated on experiments and
  certified; a theorem keeps limits wherever those bounds hold, whatever the reference.

The report is ``report.html`` in the output folder.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import numpy as np
from tqdm import tqdm

from controlrnn.certification import HorizonCertificate, load_certificate
from controlrnn.checks import Array
from controlrnn.data import Dataset
from controlrnn.identification import FitResult
from controlrnn.models import Model
from controlrnn.records import load_record, save_record
from experiments.shared.study import Row, Study
from experiments.three_tank import backing_off, recalling, report, stages
from experiments.three_tank.config import Config
from experiments.three_tank.kept import ATTACK, CLOSED_LOOPS, REALISED
from experiments.three_tank.stages import Controller
from mpc import ClosedLoopCalibration, ErrorMemory, ModelError, MonteCarloResult, Tightening, Washout
from mpc.promises.coverage_met import met

CHOSEN = "contracting R2DN"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("three_tank", __doc__, arguments)
    logging.getLogger("controlrnn").setLevel(logging.WARNING)
    config = Config.of(study.quick)
    road = tqdm(total=8, desc="three tanks", unit="stage")
    with study.stage("experiments on the plant"):
        dataset = stages.experiments(config, study.seed)
    road.update()
    fits, fit_rows = _identify(study, config, dataset)
    road.update()
    certificate_row = _certify(study, config, dataset)
    road.update()
    observer, error, tightening, coverage_row = _calibrate(study, config, dataset)
    road.update()
    recalled, recall_row = _recall(study, config, dataset, observer)
    road.update()
    constant_row = _back_off(study, config)
    calibrated, calibration_row = _calibrate_closed_loop(study, config)
    road.update()
    loops = {kind: _control(study, config, kind) for kind in Controller}
    road.update()
    best = _best_constant(study, config)
    _targets(study, config, fit_rows, certificate_row, coverage_row, loops, best)
    curves = {kind: _curves(study, kind) for kind in Controller}
    figures = report.figures(study, config, dataset, fits, tightening, recalled, curves)
    promises = {
        Controller.NOMINAL: "nothing",
        Controller.BACKED_OFF: f"nothing: {constant_row['distance']:g} cm, at which {constant_row['loops']} trial "
        "loops kept their limits, and with a step less not all",
        Controller.CALIBRATED: calibrated.promise,
        Controller.RECALLING: f"{recalled.promise}; both bounds hold together with probability >= {config.coverage:g} "
        "(union bound), on trajectories like those of the experiments",
    }
    extra: dict[str, Any] = {
        "chosen": CHOSEN,
        "fit_percent": fit_rows[CHOSEN]["fit_percent"],
        "certificate": _plain(certificate_row),
        "coverage": _plain(coverage_row),
        "recall": _plain(recall_row),
        "back_off": _plain(constant_row),
        "calibration": _plain(calibration_row),
        "best_constant": _plain(best),
        "closed_loop": loops,
        "promises": promises,
        "config": asdict(config),
    }
    parts = {
        "Bound on the model error": error.promise,
        "Tightening": tightening.promise,
        "State estimate": observer.describe(),
    }
    report.write(study, figures, extra, parts)
    road.update()
    road.close()
    study.say(f"report: {study.path('report.html')}")
    return study.finish(**extra)


def _identify(study: Study, config: Config, dataset: Dataset) -> tuple[dict[str, FitResult], dict[str, Row]]:
    """Train every candidate; fits are read back from their files, whether they are new or not."""
    study.row("subspace (linear)", lambda: {"fit_percent": stages.linear_baseline(dataset, config)})
    fits, rows = {}, {}
    for name, model in stages.candidates(study.seed).items():
        stem = name.replace(" ", "_")

        def compute(name: str = name, stem: str = stem, model: Model = model) -> Row:
            fit = stages.train(model, dataset, config, study.path(f"{stem}.checkpoint.npz"), name, study.seed)
            fit.save(study.path(f"{stem}.npz"))
            if name == CHOSEN:
                stages.save_model(fit.system, study.out)
            test = fit.scores["test"]
            return {
                "fit_percent": test.fit_percent, "rmse": test.rmse, "parameters": model.n_parameters,
                "status": str(fit.status), "training_seconds": fit.seconds, "digest": fit.system.digest,
            }  # fmt: skip

        files = [f"{stem}.npz", *(["model.npz"] if name == CHOSEN else [])]
        rows[name] = study.row(name, compute, needs=asdict(config), files=files)
        fits[name] = FitResult.load(study.path(f"{stem}.npz"))
    return fits, rows


def _certify(study: Study, config: Config, dataset: Dataset) -> Row:
    """Prove contraction and the horizon bounds, verify them from their files, and attack them."""

    def compute() -> Row:
        system = stages.model_of(study.out)
        contraction = stages.contraction(system, dataset, config)
        contraction.save(study.path("contraction.npz"))
        observer = stages.make_observer(system, contraction, config)
        joint, initial = stages.horizon_certificates(observer, config)
        joint.save(study.path("certificate.npz"))
        initial.save(study.path("certificate_initial.npz"))
        loaded = load_certificate(study.path("certificate.npz"))
        assert isinstance(loaded, HorizonCertificate)
        margin = loaded.verify(system)  # raises where the proof fails
        starts = 40 if study.quick else 60
        attack = stages.attack(system, loaded, config, starts=starts, steps=30, seed=study.seed)
        drawn, pairs = stages.random_pairs(system, loaded, config, batches=1 if study.quick else 8, seed=study.seed)
        save_record(
            study.path("attack.npz"),
            ATTACK,
            {
                "gradient": attack.differences,
                "random": drawn,
            },
            {"pairs": attack.pairs},
        )
        gap = loaded.bounds[config.washout :] / attack.differences[config.washout :]
        random_gap = (loaded.bounds / drawn)[config.washout :]
        return {
            "verified": margin > 0, "margin": margin, "rate": contraction.rate,
            "initial_radius": observer.restart.radius, "input_radius": joint.input_radius,
            "bound_first": loaded.bounds[config.washout],
            "bound_last": loaded.bounds[-1], "pairs": attack.pairs, "random_pairs": pairs,
            "bound_holds": bool((np.maximum(attack.differences, drawn) <= loaded.bounds).all()),
            "bound_over_attack_median": float(np.median(gap)), "bound_over_attack_worst": float(gap.max()),
            "bound_over_random_median": float(np.median(random_gap)),
        }  # fmt: skip

    files = ["contraction.npz", "certificate.npz", "certificate_initial.npz", "attack.npz"]
    return study.row("certificate", compute, needs=_model_digest(study, config), files=files)


def _calibrate(study: Study, config: Config, dataset: Dataset) -> tuple[Washout, ModelError, Tightening, Row]:
    """Calibrate the model error, build the tightening, and measure coverage on the test records."""
    system = stages.model_of(study.out)
    observer = stages.make_observer(system, stages.contraction_of(study.path("contraction.npz")), config)

    def compute() -> Row:
        error = stages.model_error(system, observer, dataset, config)
        tightening = stages.tightening(error, study.out, observer)
        error.save(study.path("model_error.npz"))
        tightening.save(study.path("tightening.npz"))
        inside = error.coverage_on(system, dataset.test, initial_state=observer.initial_state)
        total, realised = stages.coverage_of_total(tightening, observer, dataset, config, study.seed)
        save_record(study.path("realised.npz"), REALISED, {"largest": realised}, {})
        return {
            "promised": config.coverage, "model_error_records_inside": inside.trajectories,
            "model_error_steps_inside": inside.steps, "total_records_inside": total.trajectories,
            "total_steps_inside": total.steps, "records": len(dataset.test),
            "tightening_first": tightening.total[1], "tightening_last": tightening.total[-1],
        }  # fmt: skip

    row = study.row(
        "coverage",
        compute,
        needs=_model_digest(study, config),
        files=["model_error.npz", "tightening.npz", "realised.npz"],
    )
    error, tightening = ModelError.load(study.path("model_error.npz")), Tightening.load(study.path("tightening.npz"))
    tightening.verify(
        error, stages.horizon_of(study.path("certificate.npz")), observer=observer
    )  # a file may claim anything
    return observer, error, tightening, row


def _recall(study: Study, config: Config, dataset: Dataset, observer: Washout) -> tuple[ErrorMemory, Row]:
    """Build the error memory, and check its intervals on the test records."""

    def compute() -> Row:
        with tqdm(total=config.memory, desc="certificates of change", leave=False) as bar:

            def progress(done: int, _total: int) -> None:
                bar.update(done - bar.n)

            tightening, recalled = recalling.parts(observer, dataset, config, study.out, progress)
        tightening.save(study.path("tightening_recalling.npz"))
        recalled.save(study.path("recall.npz"))
        inside, contradictions, widths = recalling.coverage_of_intervals(
            recalled, observer, dataset, config, study.seed
        )
        return {
            "intervals_records_inside": inside.trajectories, "intervals_steps_inside": inside.steps,
            "records": inside.n, "contradictions": contradictions, "drift_first": recalled.drift[0],
            "drift_last": recalled.drift[-1], "change_first": recalled.change[0], "change_last": recalled.change[-1],
            "without_measurements": recalled.absolute[1], "width_first": widths[1],
            "width_remembered": widths[config.memory],
        }  # fmt: skip

    files = ["tightening_recalling.npz", "recall.npz"]
    row = study.row("recall", compute, needs=_model_digest(study, config), files=files)
    return ErrorMemory.load(study.path("recall.npz")), row


def _back_off(study: Study, config: Config) -> Row:
    """Find the least constant back-off at which some trial loops keep their limits."""

    def compute() -> Row:
        system = stages.model_of(study.out)
        seeds = backing_off.seeds_of(study.seed, backing_off.TRIALS, config.runs)
        with _bar("trial loops") as progress:
            distance, found, used = backing_off.least(study.out, config, seeds, progress)
        tightening = backing_off.constant(system, config, distance)
        tightening.save(study.path(f"tightening_{Controller.BACKED_OFF.file}.npz"))
        return {"distance": distance, "loops": len(seeds), "all_loops": used} | backing_off.summary(found.results)

    files = [f"tightening_{Controller.BACKED_OFF.file}.npz"]
    return study.row("constant back-off", compute, needs=_model_digest(study, config), files=files)


def _calibrate_closed_loop(study: Study, config: Config) -> tuple[ClosedLoopCalibration, Row]:
    """Find the constant that fresh loops confirm, with its probability."""

    def compute() -> Row:
        with _bar("calibration in closed loop") as progress:
            found = backing_off.calibrated(study.out, config, study.seed, progress)
        found.save(study.path("closed_loop_calibration.npz"))
        found.tightening.save(study.path(f"tightening_{Controller.CALIBRATED.file}.npz"))
        study.path("calibration_rounds.npz").unlink(missing_ok=True)
        return {
            "probability": found.coverage, "distance": found.tightening.total[1], "loops_confirmed": found.n,
            "loops_needed": found.rank, "kept": found.rounds[-1].kept, "attempts_paid_for": found.attempts,
            "rounds": len(found.rounds), "loops_in_all": found.n * len(found.rounds),
        }  # fmt: skip

    files = ["closed_loop_calibration.npz", f"tightening_{Controller.CALIBRATED.file}.npz"]
    row = study.row("closed-loop calibration", compute, needs=_model_digest(study, config), files=files)
    return ClosedLoopCalibration.load(study.path("closed_loop_calibration.npz")), row


def _best_constant(study: Study, config: Config) -> Row:
    """Find, in hindsight, the least constant that keeps the limits in the compared loops themselves."""

    def compute() -> Row:
        with _bar("best constant in hindsight") as progress:
            distance, found, _ = backing_off.least(study.out, config, stages.loop_seeds(study.seed, config), progress)
        return {"distance": distance} | backing_off.summary(found.results)

    return study.row("best constant, in hindsight", compute, needs=_model_digest(study, config))


def _control(study: Study, config: Config, kind: Controller) -> Row:
    """Run the closed loops of one controller."""

    def compute() -> Row:
        with _bar(f"closed loops, {kind}") as progress:
            result: MonteCarloResult = stages.closed_loops(study.out, config, kind, study.seed, progress)
        arrays = {n: np.stack([getattr(r, n) for r in result.results]) for n in ("y", "u", "errors", "reference")}
        # What the level of tank 1 stays below its limit by, at steps 1 and N of each prediction.
        arrays["room"] = np.stack([r.error_ends[1][:, [1, -1], 0] for r in result.results])
        save_record(study.path(f"closed_loop_{kind.file}.npz"), CLOSED_LOOPS, arrays, {})
        result.results[0].save(study.path(f"closed_loop_{kind.file}_first.npz"))
        return dict(result.summary())

    row = study.row(
        f"closed loop, {kind}", compute, needs=_model_digest(study, config), files=[f"closed_loop_{kind.file}.npz"]
    )
    return _plain(row)


def _plain(row: Row) -> Row:
    return {k: v for k, v in row.items() if k not in ("case", "seconds")}


@contextmanager
def _bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar for a known number of things, again and again."""
    with tqdm(desc=title, leave=False) as bar:

        def progress(done: int, total: int) -> None:
            bar.total = total
            bar.n = done
            bar.refresh()

        yield progress


def _curves(study: Study, kind: Controller) -> dict[str, Array]:
    return load_record(study.path(f"closed_loop_{kind.file}.npz"), CLOSED_LOOPS)[0]


def _model_digest(study: Study, config: Config) -> dict[str, Any]:
    return {"model": stages.model_of(study.out).digest, "config": asdict(config)}


def _targets(
    study: Study,
    config: Config,
    fits: dict[str, Row],
    certificate: Row,
    coverage: Row,
    loops: dict[Controller, Row],
    best: Row,
) -> None:
    """Compare the rows with the study's targets."""
    worst = min(fits[CHOSEN]["fit_percent"])
    study.target("fit of the chosen model, every output", ">= 90 %", worst, worst >= 90)
    study.target("certificate verified", True, certificate["verified"], certificate["verified"])
    study.target("bound holds for all attacked pairs", True, certificate["bound_holds"], certificate["bound_holds"])
    inside = np.arange(coverage["records"]) < round(coverage["total_records_inside"] * coverage["records"])
    kept = met("held-out records", inside)
    name = f"held-out records always inside the total bound (probability up to {kept.upper:.3g} not refuted)"
    study.target(name, f">= {config.coverage}", coverage["total_records_inside"], not kept.contradicts(config.coverage))
    for kind in (Controller.CALIBRATED, Controller.RECALLING):
        safe = loops[kind]["runs_with_violation"]
        study.target(f"{kind} runs with a violation", 0, safe, safe == 0)
    ratio = loops[Controller.CALIBRATED]["cost"] / best["cost"]
    study.target("cost of closed-loop calibrated over that of the best constant", "<= 1.3", ratio, ratio <= 1.3)
    unsafe = loops[Controller.NOMINAL]["runs_with_violation"]
    study.target("nominal runs with a violation", f"> {config.runs // 2}", unsafe, unsafe > config.runs / 2)


if __name__ == "__main__":
    sys.exit(main())
