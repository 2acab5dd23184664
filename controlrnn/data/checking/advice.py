"""Advice that follows from records: what to identify with, and what to record next."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from controlrnn.checks import Array
from controlrnn.data.checking.dynamics import Dynamics
from controlrnn.data.checking.excitation import excitation_orders, power_shares, still_inputs, unmoved_directions
from controlrnn.data.checking.findings import Finding, Level
from controlrnn.data.trajectory import Timing, Trajectory

_LINEAR = 0.05  # share of the one-step error that bends explain, below which a linear model will do
_FEW = 5  # time constants that a record should last, at least


@dataclass(frozen=True)
class Advice:
    """Settings that follow from the dynamics.

    Args:
        washout: Samples at the start of a record or window that are not scored.
        window: Samples of a training window.
        initial_state: ``"zero"`` where records are long against the washout, else ``"estimated"``.
        horizon: Prediction steps of a controller.
        control_horizon: Steps of them in which inputs move.
        states: Number of states of a model.
        neurons: Number of neurons; 0 where a linear model will do.
        gap: Samples to leave out between parts of one record.
        dt: Sample time [s] that suits the time constants.
    """

    washout: int
    window: int
    initial_state: str
    horizon: int
    control_horizon: int
    states: int
    neurons: int
    gap: int
    dt: float


def advise(records: Sequence[Trajectory], found: Dynamics) -> Advice:
    """Advise settings for the identification of these records.

    Args:
        records: The records.
        found: Their dynamics.
    """
    dt, memory = records[0].dt, max(found.memory, 2)
    dead = int(np.nanmax(found.delays, initial=0.0))
    shortest = min(len(r) for r in records)
    short = memory > shortest // 3
    washout = min(memory, max(shortest // 3, 1))
    slow = np.nanmax(found.time_constants, initial=dt)
    fast = np.nanmin(np.where(found.time_constants > 0, found.time_constants, np.nan), initial=slow)
    horizon = min(60, max(5, dead + math.ceil(2.0 * slow / dt)))
    states = found.order + (dead if dead <= 3 else 0)
    return Advice(
        washout=washout,
        window=min(shortest, washout + max(50, 2 * memory)),
        initial_state="estimated" if short else "zero",
        horizon=horizon,
        control_horizon=max(2, min(horizon, math.ceil(horizon / 3))),
        states=states,
        neurons=0 if float(found.bent.max()) < _LINEAR else max(4, 4 * states),
        gap=memory,
        dt=float(f"{fast / 8:.1g}") if (fast / dt > 80 and not found.swinging) or fast / dt < 1.0 else dt,
    )


def excitation_findings(records: Sequence[Trajectory], found: Dynamics) -> Iterator[Finding]:
    """Findings on the excitation: what the inputs do not teach, and what to move more.

    Args:
        records: The records.
        found: Their dynamics.
    """
    signals, still = records[0].inputs, still_inputs(records)
    for signal, quiet in zip(signals, still, strict=True):
        if quiet:
            yield Finding(
                Level.WARNING,
                f"input {signal.label}",
                "never moves: its gain is not in the data",
                "move it, or leave it out; a model gives it no gain",
            )
    for direction in unmoved_directions(records).T:
        parts = np.flatnonzero(np.abs(direction) > 0.1)
        if len(parts) < 2 or still[parts].any():
            continue
        names = " and ".join(signals[j].label for j in parts)
        yield Finding(
            Level.WARNING,
            f"inputs {names}",
            "move together: their gains cannot be told apart",
            "move them independently of each other, or join them to one input",
        )
    orders = excitation_orders(records)
    corner = found.corner
    shares = power_shares(records, np.array([0.2 * corner, 5.0 * corner]))
    for j, signal in enumerate(signals):
        if still[j]:
            continue
        if orders[j] <= 2 * found.order:
            yield Finding(
                Level.WARNING,
                f"input {signal.label}",
                f"excites {orders[j]} coefficients, a model of order {found.order} has {2 * found.order + 1}",
                "use random steps, PRBS or a multisine of more lines",
            )
        elif shares[1, j] < 0.05:
            where = "slower" if shares[2, j] > shares[0, j] else "faster"
            yield Finding(
                Level.WARNING,
                f"input {signal.label}",
                f"has {100 * shares[1, j]:.1g} % of its power around the corner frequency of {corner:.3g} Hz",
                f"move it {where}: steps held for about {0.2 / corner:.2g} s",
            )


def dynamics_findings(records: Sequence[Trajectory], found: Dynamics, advice: Advice) -> Iterator[Finding]:
    """Findings on the dynamics: what they mean for a model and a controller.

    Args:
        records: The records.
        found: Their dynamics.
        advice: What follows from them.
    """
    yield from _causes_and_signs(records[0], found, advice)
    yield from _times_and_bends(records, found, advice)


def _causes_and_signs(record: Trajectory, found: Dynamics, advice: Advice) -> Iterator[Finding]:
    """Feedback, feedthrough, integrators, and outputs that first go the wrong way."""
    inputs, outputs = record.inputs, record.outputs
    for j in np.flatnonzero(found.feedback).tolist():
        yield Finding(
            Level.WARNING,
            f"input {inputs[j].label}",
            "answers to the outputs: recorded under feedback",
            "add test signals at the set point or the input; residuals under feedback do not judge a model",
        )
    late = record.timing is not Timing.INPUT_FIRST
    for i, j in np.argwhere(found.direct).tolist():
        if late and not found.feedback[j]:
            yield Finding(
                Level.FAULT,
                f"output {outputs[i].label}",
                f"answers to {inputs[j].label} of the same sample, which acts only after it was measured",
                "say timing='input_first' if the input acted first, or find the feedback",
            )
    for i in np.flatnonzero(found.integrating).tolist():
        yield Finding(
            Level.WARNING,
            f"output {outputs[i].label}",
            "integrates, or forgets too slowly to tell in these records",
            "a contracting model forgets: keep it at a set point, or take its rate of change as the output",
        )
    for i, j in np.argwhere(found.inverse).tolist():
        yield Finding(
            Level.NOTE,
            f"output {outputs[i].label}",
            f"first goes the wrong way after {inputs[j].label} moves",
            f"the horizon has to be longer than that: {advice.horizon} steps",
        )


def _times_and_bends(records: Sequence[Trajectory], found: Dynamics, advice: Advice) -> Iterator[Finding]:
    """Dead times, lengths of records and of samples, and outputs that are not linear."""
    inputs, outputs, dt = records[0].inputs, records[0].outputs, records[0].dt
    # Of inputs that move together nothing can be said, nor of still ones.
    mixed = np.asarray((np.abs(unmoved_directions(records)) > 0.1).any(axis=1))
    for j, signal in enumerate(inputs):
        if np.isnan(found.delays[:, j]).all() and not mixed[j]:
            yield Finding(Level.WARNING, f"input {signal.label}", "is not seen to act on any output", "leave it out?")
        elif (dead := _dead_time(found.delays[:, j])) >= 2:
            yield Finding(
                Level.NOTE,
                f"input {signal.label}",
                f"acts after a dead time of {dead} samples ({dead * dt:g} s)",
                "take it out with without_delays, identify, and put it back",
            )
    shortest = min(len(r) for r in records)
    if shortest < _FEW * found.memory / 4.6:
        yield Finding(
            Level.WARNING,
            "records",
            f"are as short as {shortest} samples, responses last {found.memory}",
            "record for longer, and estimate initial states",
        )
    if advice.dt != dt:
        word = "slow" if advice.dt < dt else "fast"
        yield Finding(
            Level.NOTE,
            "sample time",
            f"of {dt:g} s is {word} against the time constants",
            f"about {advice.dt:g} s suits",
        )
    for i in np.flatnonzero(found.bent >= _LINEAR).tolist():
        yield Finding(
            Level.NOTE,
            f"output {outputs[i].label}",
            f"is not linear: bends explain {100 * found.bent[i]:.0f} % of the error of a linear prediction",
            f"take a model with neurons, about {advice.neurons}",
        )


def _dead_time(delays: Array) -> int:
    """Shortest of the delays (ny,) of an input; 0 where it is seen to act on no output."""
    return 0 if np.isnan(delays).all() else int(np.nanmin(delays))
