"""Modes of the controller that a tightening permits, and the limits of its plans."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from controlrnn.checks import Array, count, read_only
from controlrnn.errors import SettingError
from mpc.calibration.residuals import DisturbanceFilter
from mpc.predictor import Predictor
from mpc.problem.settings import Mode
from mpc.promises.made_again import refuse_unverified
from mpc.tightening.error_memory import ErrorMemory
from mpc.tightening.terminal_set import TerminalSet
from mpc.tightening.tightening import NO_CLAIM, Tightening

_DISTURBANCE_GAIN = 0.2  # default for the cost, where the tightening prescribes no gain


def disturbance_mode(
    tightening: Tightening,
    mode: Mode | None,
    gain: float | None,
    terminal: TerminalSet | None,
    memory: ErrorMemory | None,
) -> tuple[Mode, DisturbanceFilter]:
    """Mode and disturbance filter.

    Raises:
        SettingError: ``mode`` or ``gain`` contradicts how errors were calibrated.
        CertificationError: A guarantee would rest on a part that was read from a file and not verified since.
    """
    # A tightening that makes a promise fixes the mode; one without a promise permits both.
    prescribed = tightening.disturbance_gain
    claims = promises(tightening)
    natural = Mode.GUARANTEED if claims and prescribed is None else Mode.PRACTICAL
    mode = natural if mode is None else Mode(mode)
    if claims and mode is not natural:
        raise SettingError(
            f"mode must be {natural} for this tightening, got {mode}: the model error was calibrated "
            f"{'without' if prescribed is None else 'with'} disturbance feedback; calibrate it the other way"
        )
    if prescribed is not None and gain not in (None, prescribed):
        raise SettingError(f"disturbance_gain must be {prescribed} as calibrated, got {gain}: leave it out")
    if mode is Mode.GUARANTEED and claims:
        refuse_unverified(tightening=tightening, terminal=terminal, error_memory=memory)
    return mode, DisturbanceFilter(prescribed or gain or _DISTURBANCE_GAIN)


def covered(tightening: Tightening, horizon: int | None) -> int:
    """Prediction horizon, by default the tightening's; raises SettingError if the tightening is shorter."""
    steps = count("horizon", tightening.horizon if horizon is None else horizon)
    if steps > tightening.horizon:
        raise SettingError(f"the tightening covers {tightening.horizon} steps, got horizon {steps}: shorten it")
    return steps


def promises(tightening: Tightening) -> bool:
    """Whether a tightening promises anything about predictions; otherwise either mode may be used."""
    return not set(tightening.digests) <= NO_CLAIM


def check_terminal(terminal: TerminalSet, tightening: Tightening, horizon: int, mode: Mode | None) -> None:
    """Raise SettingError unless the terminal set belongs to this tightening, horizon and mode."""
    if terminal.horizon != horizon:
        raise SettingError(f"the terminal set is for horizon {terminal.horizon}, got {horizon}: make them equal")
    for name, do in (
        ("system", "certify this model"),
        ("jump", "use make_recursive(...) with the terminal set's jump"),
    ):
        if terminal.digests.get(name) != tightening.digests.get(name, ""):
            raise SettingError(f"tightening and terminal set must rest on the same {name}, got different ones: {do}")
    if mode is Mode.PRACTICAL:
        raise SettingError(f"mode must be {Mode.GUARANTEED} with a terminal set, got {mode}: estimates move the limits")


def check_memory(memory: ErrorMemory, tightening: Tightening, horizon: int) -> None:
    """Raise SettingError unless the error memory was made from this tightening, for its whole horizon."""
    if memory.digests.get("tightening") != tightening.digest:
        raise SettingError(
            "error_memory was made for another tightening: make_error_memory(tightening, ...) with this one"
        )
    if memory.horizon != horizon:
        raise SettingError(f"error_memory is for horizon {memory.horizon}, got {horizon}: make them equal")


def plan_limits(
    tightening: Tightening, predictor: Predictor, horizon: int, terminal: TerminalSet | None
) -> tuple[Array, Array]:
    """Lower and upper limits of plans, each (N + 1, ny); with a terminal set step N has those of the steady state."""
    if terminal is not None:
        end = np.zeros_like(tightening.model_error)
        end[horizon] = terminal.margin  # limits at step N are those of the steady state, condition (3) of the theorem
        tightening = replace(tightening, reinitialisation=tightening.reinitialisation + end)
    lower, upper = tightening.limits(predictor.outputs)
    return lower[: horizon + 1], upper[: horizon + 1]


def unlearnt_errors(tightening: Tightening, horizon: int) -> Array:
    """Lower and upper bounds on prediction errors without learning from measurements, shape (2, N + 1, ny)."""
    bounds = tightening.predictive[: horizon + 1]
    return read_only(np.stack([-bounds, bounds]))
