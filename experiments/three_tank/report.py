"""Figures and the self-contained HTML page of the three-tank study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from controlrnn.checks import Array
from controlrnn.data import Dataset
from controlrnn.identification import FitResult
from controlrnn.records import load_record
from controlrnn.report import Listing, Page, Picture, Section, Table, Words, write_page
from experiments.shared.study import Study
from experiments.three_tank import stages
from experiments.three_tank.config import Config
from experiments.three_tank.kept import ATTACK, REALISED
from experiments.three_tank.stages import Controller
from mpc import ErrorMemory, Tightening
from plants import MultiTank

_COLOURS = {
    Controller.NOMINAL: "C1", Controller.BACKED_OFF: "C4", Controller.CALIBRATED: "C0", Controller.RECALLING: "C2",
}  # fmt: skip
_FOUR_CONTROLLERS = (
    "Four controllers with the same model, solver and weights, on the same noise and disturbances; most of the time "
    "the reference is the limit itself."
)
_IN_HINDSIGHT = (
    "In hindsight the least constant that would have kept the limits in these very runs is {distance:g} cm, at a mean "
    "cost of {cost:.4g}: nobody knows it beforehand."
)
_WHAT_IS_PROMISED = (
    "The calibrated controller promises for loops like those it was calibrated on, programme of references included. "
    "The recalling one promises for every reference, and knows of nothing but experiments and proofs; that is what its "
    "price buys."
)
_SCATTER = (
    "The promise is about records still to come, over the choice of the calibration records as well; the share of a "
    "few test records scatters about it."
)
# What the numbers are called for a reader, and their units.
_LABELS = {
    "runs": "runs", "steps": "control steps", "runs_with_violation": "runs with a violation",
    "max_violation": "largest violation [cm]", "cost": "mean cost (tracking and pump moves)",
    "failed_solves": "failed solves", "inside_bound": "share of realised prediction errors inside the bound",
    "runs_in_limits": "runs within their limits", "runs_in_limits_lower": "their probability, 95 % interval from",
    "runs_in_limits_upper": "to", "runs_inside_bound": "runs with all errors inside the bound",
    "runs_inside_bound_lower": "their probability, 95 % interval from", "runs_inside_bound_upper": "up to",
    "solve_time_median": "time per control step, median [s]", "solve_time_p95": "time per control step, 95 % [s]",
    "solve_time_max": "time per control step, largest [s]", "deadline_misses": "steps that took longer than a sample",
    "fallbacks": "steps with a fallback", "readings_rejected": "readings not used",
    "steps_outside": "steps whose measurement contradicted what was known",
    "verified": "proof checked again, from the file", "margin": "margin of the proof (above 0: proven)",
    "rate": "contraction rate per sample",
    "initial_radius": "radius of the set that the washout starts in (own metric)",
    "input_radius": "error of each pump [L/min]", "bound_first": "bound at the start of the prediction [cm]",
    "bound_last": "bound at its last step [cm]", "pairs": "pairs of runs tried by gradient ascent",
    "random_pairs": "random pairs of runs tried",
    "bound_holds": "all of them inside the bound", "bound_over_attack_median": "bound over gradient ascent, median",
    "bound_over_attack_worst": "bound over gradient ascent, largest",
    "bound_over_random_median": "bound over random pairs, median",
    "promised": "promised share of records inside the model error",
    "model_error_records_inside": "test records inside it at all times",
    "model_error_steps_inside": "single steps inside it",
    "total_records_inside": "test records inside the total bound at all times",
    "total_steps_inside": "single steps inside the total bound", "records": "test records",
    "intervals_records_inside": "test records inside the learnt intervals at all times",
    "intervals_steps_inside": "single steps inside them", "contradictions": "measurements that contradicted them",
    "drift_first": "drift within a sample [cm]", "drift_last": "drift within the time remembered [cm]",
    "change_first": "certified change within a sample [cm]",
    "change_last": "certified change within the time remembered [cm]",
    "without_measurements": "tightening at step 1 without measurements [cm]",
    "distance": "distance from the limits [cm]", "loops": "trial loops", "all_loops": "trial loops in all",
    "probability": "promised probability that a loop keeps its limits", "loops_confirmed": "fresh loops run",
    "loops_needed": "of which had to keep their limits", "kept": "of which did",
    "attempts_paid_for": "attempts that the promise pays for", "rounds": "rounds", "loops_in_all": "loops in all",
    "width_first": "mean width of the intervals at step 1, share of that without measurements",
    "width_remembered": "the same at the last step remembered",
    "tightening_first": "tightening at step 1 [cm]", "tightening_last": "tightening at the last step [cm]",
}  # fmt: skip


def figures(
    study: Study,
    config: Config,
    dataset: Dataset,
    fits: Mapping[str, FitResult],
    tightening: Tightening,
    recalled: ErrorMemory,
    loops: Mapping[Controller, Mapping[str, Array]],
) -> list[tuple[str, str]]:
    """Draw all figures; returns (name, caption) in the order of the report."""
    drawn = [
        ("excitation", "One of the experiments: the pumps move at random, the levels follow. The models see no more.",
         dataset.test[0].plot()),
        ("fit", "A test record, which no model has seen, against free simulation: models get the pumps, never a level. "
         "Shaded: the washout, in which they forget that they started at the wrong state; it is not scored. Below: how "
         "training went.",
         fit_figure(dataset, fits)),
        ("error_bound", "What a prediction can be off by, k steps after the model was re-initialised. The stack is the "
         "tightening: calibrated model error, certified effects of re-initialisation and of the actuators. "
         "Dots: the largest errors met on test records. Crosses: the largest differences that an attack by gradient "
         "ascent reached, to be compared with the certified part.", bound_figure(study, config, tightening)),
        ("washout", "Certified difference of two model runs that start anywhere in the reachable set and see inputs "
         "within the actuators' accuracy: forgetting takes time, and what the inputs leave stays.",
         washout_figure(study, config)),
        ("recall", "What a measured error says about errors k steps later: they differ from it by no more than the "
         "stack. Line: what holds for an error of which nothing is known. Measurements of several samples are put "
         "together, so that what is known can be less than any of them says.",
         recalled.plot([s.label for s in MultiTank().outputs])),
        ("closed_loop", "Every run, same noise and disturbances for all. Most of the time the reference is the limit "
         "itself. The tightened limits hold for predictions: the true level may pass them by the prediction error, "
         "which is what the distance to the limit is for. Those of the recalling controller move with what it has "
         "measured, noise included; shown for the first run. Below: the pumps in the first run.",
         loop_figure(config, loops)),
    ]  # fmt: skip
    for name, _, figure in drawn:
        study.figure(name, figure)
    return [(name, caption) for name, caption, _ in drawn]


def fit_figure(dataset: Dataset, fits: Mapping[str, FitResult]) -> Figure:
    """Plot measured and simulated levels of one test record, and the validation errors of training."""
    record, outputs = dataset.test[0], MultiTank().outputs
    figure = Figure(figsize=(9, 8), layout="constrained")
    panels = figure.subplots(len(outputs) + 1, 1)
    hours = record.time / 3600
    for i, signal in enumerate(outputs):
        panels[i].plot(hours, record.y[:, i], color="0.6", lw=2.5, label="measured")
        for name, fit in fits.items():
            share = fit.scores["test"].fit_percent[i]
            panels[i].plot(hours, fit.simulate(record)[:, i], lw=1, label=f"{name}, fit {share:.1f} %")
        panels[i].axvspan(0, hours[fit.skip], color="0.93", zorder=0)
        panels[i].set_ylabel(signal.label)
        panels[i].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=3, fontsize="small", frameon=False)
    panels[-2].set_xlabel("time [h]")
    for name, fit in fits.items():
        panels[-1].semilogy(fit.history["step"], fit.history["validation"], label=name)
    panels[-1].set(xlabel="training step", ylabel="validation error [std]")
    panels[-1].legend(fontsize="small")
    return figure


def bound_figure(study: Study, config: Config, tightening: Tightening) -> Figure:
    """Plot the parts of the tightening over the horizon, with realised errors and attacks."""
    realised = load_record(study.path("realised.npz"), REALISED)[0]["largest"]
    reached = load_record(study.path("attack.npz"), ATTACK)[0]["gradient"][config.washout :]
    outputs, steps = MultiTank().outputs, np.arange(config.horizon + 1)
    figure = Figure(figsize=(10, 4.4), layout="constrained")
    panels = figure.subplots(1, len(outputs))
    parts = (tightening.model_error, tightening.reinitialisation, tightening.input_error)
    labels = ("model error (calibrated)", "re-initialisation (certified)", "input error (certified)")
    certified = tightening.reinitialisation + tightening.input_error
    for i, (panel, signal) in enumerate(zip(panels, outputs, strict=True)):
        panel.stackplot(steps, [p[:, i] for p in parts], labels=labels, colors=("#9ecae1", "#fdae6b", "#fdd0a2"))
        panel.plot(steps, certified[:, i], color="C3", lw=1, label="certified part alone")
        panel.plot(steps, reached[:, i], "x", color="C3", ms=4, label="attack on the certified part")
        panel.plot(steps, realised[:, i], ".", color="k", label="largest realised error")
        panel.set(title=signal.name, xlabel="step", ylabel=f"error [{signal.unit}]", ylim=(0, None))
    figure.legend(*panels[0].get_legend_handles_labels(), fontsize="small", loc="outside lower center", ncols=3)
    return figure


def washout_figure(study: Study, config: Config) -> Figure:
    """Plot the certificates over washout and prediction."""
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    panel = figure.subplots()
    reached = load_record(study.path("attack.npz"), ATTACK)[0]["gradient"]
    for name, style, label in (
        ("certificate", "-", "with actuator errors"),
        ("certificate_initial", "--", "exact inputs"),
    ):
        bounds = stages.horizon_of(study.path(f"{name}.npz")).bounds
        for i, signal in enumerate(MultiTank().outputs):
            panel.semilogy(bounds[:, i], style, color=f"C{i}", label=f"{signal.name}, {label}")
    for i in range(reached.shape[1]):
        panel.semilogy(reached[:, i], ":", color=f"C{i}", lw=1, label="attack" if i == 0 else None)
    panel.axvspan(config.washout, config.washout + config.horizon, color="0.9", label="prediction")
    panel.set(xlabel="steps since the restart", ylabel="difference [cm]")
    panel.legend(fontsize="x-small", ncols=2)
    return figure


def loop_figure(config: Config, loops: Mapping[Controller, Mapping[str, Array]]) -> Figure:
    """Plot all closed loops: level of tank 1 with its limits, and the pumps of the first run."""
    plant = MultiTank()
    minutes = np.arange(config.control_steps + 1) * plant.dt / 60
    limit = plant.outputs[0].upper
    figure = Figure(figsize=(9, 1.9 * len(loops) + 1.9), layout="constrained")
    panels = figure.subplots(len(loops) + 1, 1, sharex=True, height_ratios=[2] * len(loops) + [1.2])
    lowest = min(data["y"][:, :, 0].min() for data in loops.values())
    for panel, (kind, data) in zip(panels, loops.items(), strict=False):
        panel.plot(minutes, data["y"][:, :, 0].T, color=_COLOURS[kind], lw=0.6, alpha=0.7)
        panel.step(minutes, data["reference"][0, :, 0], where="post", color="0.5", label="reference")
        panel.axhline(limit, color="C3", label="limit")
        for i, (k, style) in enumerate(((1, "--"), (config.horizon, ":"))):
            known = data["room"][0, :, i]
            if known.any() and (i == 0 or (known != data["room"][0, :, 0]).any()):
                panel.step(
                    minutes[:-1],
                    limit - known,
                    style,
                    where="post",
                    color="C3",
                    lw=1,
                    label=f"tightened limit, step {k}",
                )
        violated = int((data["y"][:, :, 0] > limit).any(axis=1).sum())
        panel.set(ylabel=plant.outputs[0].label, title=f"{kind}: {violated} of {len(data['y'])} runs above the limit")
        panel.set_ylim(lowest - 2.5, limit + 2)
        panel.legend(fontsize="small", loc="lower center", ncols=4)
    for kind, data in loops.items():
        for j, style in enumerate(("-", "--")):
            panels[-1].step(minutes[:-1], data["u"][0, :, j], style, where="post", color=_COLOURS[kind])
    for j, style in enumerate(("-", "--")):
        panels[-1].plot([], [], style, color="0.4", label=plant.inputs[j].name)
    panels[-1].set(xlabel="time [min]", ylabel="flow [L/min]", title="pumps in the first run, colours as above")
    panels[-1].legend(loc="lower right", bbox_to_anchor=(1, 1), ncols=2, fontsize="small", frameon=False)
    return figure


def write(
    study: Study, drawn: Sequence[tuple[str, str]], extra: Mapping[str, Any], promises: Mapping[str, str]
) -> None:
    """Write ``report.html``, with all figures inside.

    Args:
        study: The study, whose figures are drawn.
        drawn: (name, caption) of each figure.
        extra: The top-level entries of ``results.json``.
        promises: What the parts promise, by what they are about.
    """
    loops, promised = extra["closed_loop"], extra["promises"]
    low = loops[Controller.NOMINAL]
    # What has no bound on its predictions has no share of errors inside.
    unbounded = dict.fromkeys([name for name in low if "inside_bound" in name])
    bare = {kind: loops[kind] | unbounded for kind in loops if kind is not Controller.RECALLING}
    prices = [
        {
            "controller": str(kind),
            "runs that leave a limit": f"{row['runs_with_violation']} of {row['runs']}",
            "largest violation [cm]": row["max_violation"],
            "probability of none, 95 % interval": [row[f"runs_in_limits_{end}"] for end in ("lower", "upper")],
            "mean cost": row["cost"],
            "cost over nominal": row["cost"] / low["cost"],
            "what is promised": promised[kind],
        }
        for kind, row in loops.items()
    ]
    fits = [
        {"model": r["case"]}
        | {f"fit, {s.name} [%]": float(v) for s, v in zip(MultiTank().outputs, r["fit_percent"], strict=True)}
        | {"parameters": r.get("parameters")}
        for r in study.rows
        if "fit_percent" in r
    ]
    goals = [{"aim": name, "wanted": t["target"], "reached": t["value"], "met": t["met"]} for name, t in study.targets]
    sections = [
        Section(
            "Price and promise",
            [Words(_IN_HINDSIGHT.format(**extra["best_constant"])), Table.of(prices), Words(_WHAT_IS_PROMISED)],
        ),
        Section("Aims", [Table.of(goals)]),
        Section("What the parts promise", [Listing({what: f"{text}." for what, text in promises.items()})]),
        *(
            Section(_title(name), [Picture(study.path(f"{name}.png").read_bytes(), _title(name), caption)])
            for name, caption in drawn
        ),
        Section("Scores on the test records", [Table.of(fits)]),
        Section("Closed loops in numbers", [Table.of(quantity_rows(**(loops | bare)))]),
        Section("Certificate", [Table.of(quantity_rows(value=extra["certificate"]))]),
        Section("Coverage on held-out records", [Words(_SCATTER), Table.of(quantity_rows(value=extra["coverage"]))]),
        Section("Calibration in closed loop", [Table.of(quantity_rows(value=extra["calibration"]))]),
        Section("The constant of an engineer", [Table.of(quantity_rows(value=extra["back_off"]))]),
        Section("What is learnt from measurements", [Table.of(quantity_rows(value=extra["recall"]))]),
        Section("Environment", [Table.of(quantity_rows(value=study.environment))]),
    ]
    about = f"Chosen model: {extra['chosen']}. {_FOUR_CONTROLLERS}"
    title = "Three tanks: from the first experiment to an MPC that keeps its limits"
    write_page(Page(title, sections, about), study.path("report.html"))


def _title(name: str) -> str:
    return name.replace("_", " ").capitalize()


def quantity_rows(**columns: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Format a table with one row a quantity and one column a case."""
    names = dict.fromkeys(name for case in columns.values() for name in case)
    return [{"": _LABELS.get(n, n.replace("_", " "))} | {c: v.get(n) for c, v in columns.items()} for n in names]
