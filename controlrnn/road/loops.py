"""Simulated closed loops of a road: where they begin, how they run, and what they show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import mpc
from controlrnn.checks import Array
from controlrnn.data import Dataset, Signal
from controlrnn.road.data.splitting import signals_of
from controlrnn.road.file.schema import RoadFile
from controlrnn.road.loop_plants import RecordedErrors
from mpc.predictor import output_scale

_EDGE = 1e-6  # of an output's range: a steady state this near to a limit is within it


def controller_of(file: RoadFile, observer: mpc.Observer, tightening: mpc.Tightening) -> mpc.TightenedMPC:
    """Controller of a road file.

    Args:
        file: The road file.
        observer: Its observer.
        tightening: Its tightening; one that promises nothing makes a nominal controller.
    """
    moves = [i.move_limit for i in file.inputs]
    predictor = observer.predictor
    lower, upper = predictor.input_limits()
    limit = [float(h - w) if m is None else m for m, w, h in zip(moves, lower, upper, strict=True)]
    return mpc.TightenedMPC(
        predictor,
        observer,
        tightening,
        mpc.Tracking(
            output_weight=[o.weight for o in file.outputs],
            input_move_weight=[i.move_weight for i in file.inputs],
            horizon=file.control.horizon,
            control_horizon=file.control.control_horizon,
            measured_inputs=[i.name for i in file.inputs if i.role == "measured"],
        ),
        limits=mpc.Limits(move_limit=limit if any(m is not None for m in moves) else None, soft=file.control.soft),
    )


def references_of(file: RoadFile) -> Array:
    """Set points of the loops, shape (T, ny): each output's one after the other, the last one held."""
    many = max(len(o.reference) for o in file.outputs)
    columns = [[*o.reference, *[o.reference[-1]] * (many - len(o.reference))] for o in file.outputs]
    return np.repeat(np.array(columns).T, file.simulate.hold, axis=0)


def seed_of(file: RoadFile, number: int) -> int:
    """Seed of a loop by its number, from 0: each has other errors."""
    return int(np.random.SeedSequence([file.seed, number]).generate_state(1)[0])


def start_of(
    file: RoadFile, predictor: mpc.Predictor, tightening: mpc.Tightening, measured: Array | None
) -> tuple[Array, str]:
    """Input that loops begin with, and what steady output that means, in a sentence.

    Of the inputs whose steady output of the model keeps the tightened limits, it is the one nearest to the first set
    point: a loop that begins outside of its limits says nothing about who keeps them.

    Args:
        file: The road file.
        predictor: The model.
        tightening: The tightening.
        measured: Values of measured inputs, shape (T, number), or None.

    Returns:
        The input, shape (nu,), and the sentence.
    """
    lower, upper = tightening.limits(predictor.outputs)
    inner = lower[1:].max(axis=0), upper[1:].min(axis=0)
    given = np.full(predictor.nu, np.nan)
    if measured is not None:
        given[[i.role == "measured" for i in file.inputs]] = measured[0]
    scale = output_scale(predictor)
    held = mpc.steady_input(predictor, references_of(file)[0], scale, given=given, limits=inner)
    y = predictor.steady_output(held)
    out = np.maximum(np.maximum(inner[0] - y, y - inner[1]), 0.0)
    shown = ", ".join(f"{o.name} {v:.3g} {o.unit}".strip() for o, v in zip(predictor.outputs, y, strict=True))
    said = f"loops begin at a steady state, {shown}"
    if (out > _EDGE * scale).any():
        i = int(np.argmax(out / scale))
        name, unit = predictor.outputs[i].name, predictor.outputs[i].unit
        said += (
            f": no steady state was found within the tightened limits, {name} is {out[i]:.3g} {unit}".rstrip()
            + " outside of its own, so that what happens at first is not the controller's doing"
        )
    return held, said


def run_loops(
    file: RoadFile,
    controller: mpc.TightenedMPC,
    plant: Any,
    held: Array,
    noise: Array,
    measured: Array | None,
    progress: Callable[[int], None],
) -> list[mpc.ClosedLoopResult]:
    """Closed loops with errors of inputs and forecasts as declared, each from another seed.

    Recorded inputs are the commanded ones here, so that the true ones differ from both by `error`. The future of set
    points is known only where that of measured inputs has to be: what a certificate covers is a forecast that is right
    to within `command_error`.

    Args:
        file: The road file.
        controller: The controller.
        plant: The plant.
        held: Input before the first step, which a plant of the user's starts with from its own initial state.
        noise: Standard deviation of the noise, shape (ny,).
        measured: Values of measured inputs, shape (T, number), or None.
        progress: Called with the number of loops that are done.
    """
    wanted = references_of(file)
    forecast = [i.command_error for i in file.inputs if i.role == "measured"]
    acting = mpc.Disturbances(
        noise_std=noise, input_error=[i.error for i in file.inputs], forecast_error=forecast or 0.0
    )
    found = []
    for i in range(file.simulate.loops):
        seed = seed_of(file, i)
        x0 = None
        if isinstance(plant, RecordedErrors):
            x0 = plant.start(int(np.random.default_rng(seed).integers(plant.samples)))
        found.append(
            mpc.run_closed_loop(
                plant,
                controller,
                reference=wanted,
                steps=len(wanted),
                seed=seed,
                start=mpc.Start(x0=x0, warm_up_input=held),
                disturbances=acting,
                measured_inputs=measured,
                preview=measured is not None,
            )
        )
        progress(i + 1)
    return found


def measured_inputs(file: RoadFile, data: Dataset) -> Array | None:
    """Values of measured inputs during the loops, as they were recorded, shape (T, number); None without such."""
    columns = [j for j, i in enumerate(file.inputs) if i.role == "measured"]
    if not columns:
        return None
    longest = max((*data.test, *data.train), key=len)
    lower, upper = (np.array([getattr(s, side) for s in signals_of(file)[0]])[columns] for side in ("lower", "upper"))
    return np.clip(longest.u[:, columns], lower, upper)


def promise_words(file: RoadFile, error: mpc.ModelError) -> str:
    """What the calibrated promise says of a whole loop, which may be longer than the records, in a sentence.

    Args:
        file: The road file.
        error: The calibrated model error.
    """
    steps = len(references_of(file))
    if steps <= error.starts:
        return f"the promise covers the {steps} steps of a loop with probability {error.coverage:.2g}"
    over = error.coverage_over(steps)
    said = f"with probability {over:.2g}" if over > 0 else "with no probability above 0"
    return (
        f"a loop has {steps} steps, a calibration record {error.starts} predictions: the promise covers a whole loop "
        f"{said} (longer records would promise more)"
    )


def loop_words(name: str, loops: Sequence[mpc.ClosedLoopResult], outputs: Sequence[Signal]) -> str:
    """What loops showed, in a sentence."""
    left = sum(loop.violations > 0 for loop in loops)
    worst = np.max([loop.excess.max(axis=0) for loop in loops], axis=0)
    failed = sum(loop.failed_solves for loop in loops)
    said = f"{name}: {left} of {len(loops)} loops left a limit"
    if left:
        i = int(np.argmax(worst / np.array([_span(o) for o in outputs])))
        said += f", {outputs[i].name} by up to {worst[i]:.3g} {outputs[i].unit}".rstrip()
        outside = sum(bool(((loop.y[0] > loop.upper) | (loop.y[0] < loop.lower)).any()) for loop in loops)
        if outside:
            said += f" ({outside} of them already outside before the controller moved anything)"
    said += f"; mean cost {np.mean([loop.cost for loop in loops]):.4g}"
    if any(loop.bounds.any() for loop in loops):
        said += f"; {100 * np.mean([loop.inside for loop in loops]):.1f} % of predictions in their bounds"
    least = _EDGE * min(_span(o) for o in outputs)
    if soft := sum(int((loop.slack > least).sum()) for loop in loops):
        said += f"; soft limits gave way in {soft} of {sum(loop.steps for loop in loops)} plans"
    return said + (f"; {failed} problems without a solution" if failed else "")


def tracking_words(file: RoadFile, loops: Sequence[mpc.ClosedLoopResult]) -> str:
    """How far from its set points a controller ends up, in a sentence.

    Counted is what it steers, its prediction for the present sample, so that errors of the model are not held against
    it; a set point beyond the tightened limits is replaced by the limit.

    Args:
        file: The road file.
        loops: Its loops.
    """
    missed = []
    for loop in loops:
        ends = np.arange(file.simulate.hold, loop.steps + 1, file.simulate.hold) - 1
        room = loop.bounds[1:].max(axis=0)
        goal = np.clip(loop.reference[ends], loop.lower + room, loop.upper - room)
        missed.append(np.abs(loop.predicted[ends, 0] - goal).max(axis=0))
    far = np.max(missed, axis=0)
    parts = [f"{o.name} {m:.3g} {o.unit}".strip() for o, m in zip(file.outputs, far, strict=True) if o.weight > 0]
    return f"farthest from a set point within the limits of plans when its time was up: {', '.join(parts) or 'none'}"


def _span(signal: Signal) -> float:
    span = signal.upper - signal.lower
    return span if np.isfinite(span) else 1.0
