"""The two studies of the guaranteed mode after identification: runs, targets, figures."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from controlrnn.checks import Array
from controlrnn.data import Dataset
from controlrnn.errors import CertificationError, InfeasibleError
from controlrnn.records import load_record
from experiments.shared.guaranteed import PARTS, TRUTHS, Case, Controller, prove
from experiments.shared.guaranteed_loops import KNOWING, LOOPS, choose_back_off, close, close_floor, seeds_of
from experiments.shared.study import Row, Study
from mpc import ErrorMemory, Tightening

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Curves = dict[tuple[str, Controller], dict[str, Array]]
MOST = 20.0  # % above the nominal cost
_COMPARED = (Controller.BACKED_OFF, Controller.RECALLING)
PRICE = 1.25  # times the cost of the floor
_COLOURS = {
    Controller.NOMINAL: "C1", Controller.BACKED_OFF: "C6",
    Controller.CONFORMAL: "C4", Controller.CERTIFIED: "C2", Controller.GUARANTEED: "C0",
    Controller.RECALLING: "C5",
}  # fmt: skip


def run(study: Study, case: Case, dataset: Dataset) -> int:
    """Prove, run the loops and report; returns the exit status."""
    with study.stage("proofs"):
        proofs = prove(study, case, dataset)
    study.say(
        f"what is declared comes from {proofs['declared_from_records']} records: another record of an experiment stays "
        f"inside with probability >= {proofs['declared_probability']:.2g} (order statistics); "
        f"{proofs['held_out_inside']} of {proofs['held_out']} held-out records did; closed loops are promised nothing"
    )
    choose_back_off(study, case)
    rows: dict[tuple[str, Controller], Row] = {}
    curves: Curves = {}
    for truth in TRUTHS:
        for controller in Controller:
            row, file = close(study, case, controller, truth)
            rows[truth, controller], curves[truth, controller] = row, _curves(study, file)
            study.say(
                f"{row['case']}: {row['runs_with_violation']} of {row['runs']} runs violate, cost {row['cost']:.4g}"
            )
    eaten = removals(study, case, curves)
    floors = floor(study, case, curves)
    segments(study, case, curves, floors)
    targets(study, rows, eaten)
    figures(study, case, curves, eaten)
    if "physical" in floors:
        costs = {str(c): curves["physical", c]["running"] for c in (*_COMPARED, Controller.NOMINAL)}
        study.figure("price", price(case, costs | {"floor": floors["physical"]["running"]}))
    seeds = {truth: seeds_of(study, truth, case.runs) for truth in TRUTHS}
    return study.finish(
        cost_percent=eaten, proofs=proofs, seeds=seeds, reference=case.reference, declared=_declared(case, proofs)
    )


def removals(study: Study, case: Case, curves: Curves) -> dict[str, float]:
    """Cost above nominal [%] of every controller, and of the recalling one without each of its parts.

    Costs are means over the same seeds on the physical plant; what removing a part saves is what the part costs.
    """
    base = curves["physical", Controller.NOMINAL]["cost"]
    eaten = {
        f"{truth}, {controller}": above(curves[truth, controller]["cost"], curves[truth, Controller.NOMINAL]["cost"])
        for truth, controller in curves
    }
    few = base[: case.removals]
    eaten["physical, recalling, runs with parts removed"] = above(
        curves["physical", Controller.RECALLING]["cost"][: case.removals], few
    )
    for part in PARTS:
        _, file = close(study, case, Controller.RECALLING, "physical", removed=part)
        eaten[f"without {part.replace('_', ' ')}"] = above(_curves(study, file)["cost"], few)
    full = eaten["physical, recalling, runs with parts removed"]
    for name, value in eaten.items():
        found: Row = {"above_nominal_percent": value, "saves": full - value if name.startswith("without") else None}
        study.row(f"cost, {name}", functools.partial(dict, found), needs=found)
    return eaten


def floor(study: Study, case: Case, curves: Curves) -> dict[str, dict[str, Array]]:
    """Run the floor and report the price: the costs of the guaranteed controllers over its own, on the same seeds.

    Returns:
        The floor's curves by plant.
    """
    found: dict[str, dict[str, Array]] = {}
    for truth in TRUTHS:
        try:
            closed = close_floor(study, case, truth)
        except (CertificationError, InfeasibleError) as error:  # no part of the guarantee itself
            study.say(f"{truth}: no controller that knows the state, {error}")
            continue
        if closed is None:
            study.say(f"{truth}: no floor, since the plant's equations cannot be shown to contract")
            continue
        row, file = closed
        found[truth] = _curves(study, file)
        cost, few = found[truth]["cost"], case.removals
        price = {str(c): float(curves[truth, c]["cost"][:few].mean() / cost.mean()) for c in Controller}
        study.row(f"price, {truth}", functools.partial(dict, price), needs=price)
        for name in ("violations", "infeasible", "failed"):
            study.target(f"{truth}, {KNOWING[truth]}: {name}", 0, row[name], row[name] == 0)
        paid = price[Controller.RECALLING]
        if truth == "physical":  # on the declared sets it is no floor: see `experiments.shared.floor`
            study.target(f"{truth}, recalling: cost over the floor's", f"<= {PRICE:g}", paid, paid <= PRICE)
        study.say(f"{truth}: knowing the state costs {cost.mean():.4g}, the recalling controller {paid:.3g} times that")
    return found


def segments(study: Study, case: Case, curves: Curves, floors: Mapping[str, dict[str, Array]]) -> None:
    """Cost of the guarantee along the segments of the reference, above nominal and above the floor."""
    wanted, unit = case.reference[:, case.limited], case.plant.outputs[case.limited].unit
    starts = np.flatnonzero(np.diff(wanted, prepend=np.nan))
    for truth in TRUTHS:
        parts = {str(c): np.add.reduceat(curves[truth, c]["running"], starts) for c in Controller}
        known = KNOWING[truth]
        parts |= {known: np.add.reduceat(floors[truth]["running"], starts)} if truth in floors else {}
        surplus = {
            base: parts[Controller.RECALLING] - parts[base] for base in (Controller.NOMINAL, known) if base in parts
        }
        for i, start in enumerate(starts):
            found = {name: float(part[i]) for name, part in parts.items()}
            found |= {f"share_above_{b}_percent": float(100 * s[i] / s.sum()) for b, s in surplus.items()}
            study.row(f"{truth}, segment at {wanted[start]:.4g} {unit}", functools.partial(dict, found), needs=found)


def above(cost: Array, base: Array) -> float:
    """Excess of mean costs over others [%]."""
    return float(100 * (cost.mean() / base.mean() - 1))


def targets(study: Study, rows: Mapping[tuple[str, Controller], Row], eaten: Mapping[str, float]) -> None:
    """Compare the rows with the study's targets."""
    for truth in TRUTHS:
        for mode in (Controller.GUARANTEED, Controller.RECALLING):
            row = rows[truth, mode]
            for name in ("violations", "infeasible", "failed"):
                study.target(f"{truth}, {mode}: {name}", 0, row[name], row[name] == 0)
            largest = row["error_over_bound"]
            study.target(f"{truth}, {mode}: largest error over bound", "<= 1", largest, largest <= 1)
            unseen = row["runs"] - row["loops_inside"] - row["outside_noticed"]
            study.target(f"{truth}, {mode}: loops outside what is declared, unnoticed", 0, unseen, unseen == 0)
            cost = eaten[f"{truth}, {mode}"]
            study.target(f"{truth}, {mode}: cost above nominal [%]", f"<= {MOST:g}", cost, cost <= MOST)
        low = rows[truth, Controller.NOMINAL]
        study.target(
            f"{truth}: the nominal controller violates", "> 0", low["runs_with_violation"], low["violations"] > 0
        )


def figures(study: Study, case: Case, curves: Curves, eaten: Mapping[str, float]) -> None:
    """Draw the figures of the study."""
    tightening = Tightening.load(study.path("guaranteed.npz"))
    study.figure("tightening", tightening.plot(case.plant.outputs))
    labels = [s.label for s in case.plant.outputs]
    study.figure("recall", ErrorMemory.load(study.path("recall_guaranteed.npz")).plot(labels))
    study.figure("error_over_bound", _errors(curves))
    for truth in TRUTHS:
        study.figure(f"envelopes_{truth}", _envelopes(case, {c: curves[truth, c] for c in Controller}))
    study.figure("costs", _costs(eaten))


def price(case: Case, running: Mapping[str, Array]) -> Figure:
    """Plot where along the reference the cost above the nominal controller's arises, on the physical plant.

    Args:
        case: The case.
        running: Mean cost of each sample by controller, with the nominal one.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(2, 1))
    time = np.arange(1, case.steps + 1) * case.plant.dt
    base = running[str(Controller.NOMINAL)]
    for name, cost in running.items():
        if name != Controller.NOMINAL:
            colour = _COLOURS[Controller(name)] if name in set(Controller) else "k"
            above.plot(time, np.cumsum(cost - base), color=colour, label=name)
    above.set_ylabel("cost above nominal, summed up")
    above.legend(fontsize="small")
    signal = case.plant.outputs[case.limited]
    below.step(time, case.reference[:, case.limited], where="pre", color="0.6", label="reference")
    below.axhline(signal.upper, color="C3", label="limit")
    below.set(xlabel="time [s]", ylabel=signal.label)
    below.legend(fontsize="small", loc="center left")
    below.margins(x=0)
    return figure


def _errors(curves: Curves) -> Figure:
    """Plot realised prediction errors over their bounds per prediction step, worst output."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    for panel, truth in zip(figure.subplots(1, 2, sharey=True), TRUTHS, strict=True):
        for name, curve in zip(
            ("largest", "99 %", "median"), curves[truth, Controller.CERTIFIED]["ratio"], strict=True
        ):
            panel.plot(np.arange(1, len(curve) + 1), curve, label=f"{name}, predictive bound")
        learnt = curves[truth, Controller.RECALLING]["ratio"][0]
        panel.plot(np.arange(1, len(learnt) + 1), learnt, color="C0", ls=":", label="largest, interval learnt")
        panel.axhline(1.0, color="C3", label="bound")
        panel.set(xlabel="prediction step", title=f"{truth} truth", ylim=(0, None))
        panel.margins(x=0)
    panel.legend(fontsize="small")
    figure.axes[0].set_ylabel("realised error / bound")
    return figure


def _envelopes(case: Case, curves: Mapping[Controller, dict[str, Array]]) -> Figure:
    """Plot the limited output of all runs against its limits, one panel a controller."""
    from matplotlib.figure import Figure

    i, signal = case.limited, case.plant.outputs[case.limited]
    shown = [part["envelope"][:, :, i] for part in curves.values()] + [case.reference[:, i]]
    least, most = min(part.min() for part in shown), max(part.max() for part in shown)
    figure = Figure(figsize=(9, 2 * len(curves)), layout="constrained")
    time = np.arange(case.steps + 1) * case.plant.dt
    for panel, (controller, part) in zip(
        figure.subplots(len(curves), 1, sharex=True, sharey=True), curves.items(), strict=True
    ):
        low, _, middle, _, high = part["envelope"][:, :, i]
        panel.fill_between(time, low, high, alpha=0.35, color=_COLOURS[controller], label="all runs")
        panel.plot(time, middle, color=_COLOURS[controller], label="median")
        panel.step(time[:-1], case.reference[:, i], where="post", color="0.6", lw=1, label="reference")
        for limit in (signal.lower, signal.upper):
            if least <= limit + 0.2 * abs(limit) and limit <= most + 0.2 * abs(limit):
                panel.axhline(limit, color="C3", label="limit")
        violating = int((part["violations"] > 0).sum())
        panel.set_title(
            f"{controller}: {violating} of {len(part['violations'])} runs violate a limit", fontsize="medium"
        )
        panel.set_ylabel(signal.label)
        panel.margins(x=0)
    marks = dict(zip(*reversed(panel.get_legend_handles_labels()), strict=True))
    panel.legend(marks.values(), marks.keys(), fontsize="small", loc="lower left")
    panel.set_xlabel("time [s]")
    return figure


def _costs(eaten: Mapping[str, float]) -> Figure:
    """Plot cost above nominal: controllers, and the recalling one without each part."""
    from matplotlib.figure import Figure

    shown = {k: v for k, v in eaten.items() if Controller.NOMINAL not in k}
    figure = Figure(figsize=(8, 0.36 * len(shown) + 1), layout="constrained")
    panel = figure.subplots()
    colours = ["C2" if k.startswith("without") else "C0" for k in shown]
    panel.barh(list(shown), list(shown.values()), color=colours)
    panel.axvline(MOST, color="C3", ls=":")
    panel.invert_yaxis()
    panel.set_xlabel("cost above nominal [%]")
    return figure


def _declared(case: Case, proofs: Row) -> dict[str, Any]:
    return {
        "residual": proofs["residual_bound"], "input_error": case.actuator, "restart_radius": proofs["restart_radius"],
        "noise_std": case.noise, "probability": proofs["declared_probability"],
    }  # fmt: skip


def _curves(study: Study, file: str) -> dict[str, Array]:
    return load_record(study.path(file), LOOPS)[0]
