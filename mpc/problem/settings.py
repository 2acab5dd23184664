"""Settings of the optimal control problem, in small records: what is tracked, what has a price, what is limited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from numpy.typing import ArrayLike

from controlrnn.checks import Choice
from controlrnn.typed import typed


class Mode(Choice):
    """What the disturbance estimate may do; see `mpc.control.controller`."""

    GUARANTEED = "guaranteed"
    PRACTICAL = "practical"


@dataclass(frozen=True, kw_only=True, eq=False)
@typed()
class Tracking:
    """Weights of the tracking cost, the horizon, and how the disturbance estimate enters.

    Args:
        output_weight: Cost of output errors per unit^2, scalar or shape (ny,).
        input_move_weight: Cost of input moves per unit^2, scalar or shape (nu,).
        terminal_weight: Cost of output errors at step N, or with a terminal set of those of the steady state;
            ``output_weight`` when left out.
        horizon: Steps N; the tightening's when left out, and at most that.
        control_horizon: Number M of free inputs, the last of which is held. N when left out, N / 2 with a terminal
            set, where the steps after M are what brings the plan to rest.
        measured: Names of inputs that are known disturbances: `TightenedMPC.step` is told their future, and decides
            about the other inputs only; limits, moves, weights and prices are for those. The limits of a measured
            input's `Signal` say what it may be, for bounds on the state. The tightening's radius for it covers the
            errors of its forecast. Not with a terminal set.
        mode: What the disturbance estimate may do; fixed by the tightening when left out.
        disturbance_gain: Gain of the disturbance filter; the tightening's when left out, else 0.2.
    """

    output_weight: ArrayLike
    input_move_weight: ArrayLike
    terminal_weight: ArrayLike | None = None
    horizon: int | None = None
    control_horizon: int | None = None
    measured: Sequence[str] = ()
    mode: Mode | None = None
    disturbance_gain: float | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
@typed()
class Prices:
    """Prices of running the plant, beside or instead of tracking; see `mpc.problem.economy`.

    Args:
        input_price: Cost per unit of input and step, scalar or shape (nu,), either sign.
        output_price: Cost per unit of output and step, scalar or shape (ny,), either sign.
        input_weight: Cost of an input's distance from ``input_reference`` per unit^2 and step, scalar or shape (nu,).
        input_reference: Where inputs belong, scalar or shape (nu,); the middle of their range when left out.
    """

    input_price: ArrayLike = 0.0
    output_price: ArrayLike = 0.0
    input_weight: ArrayLike = 0.0
    input_reference: ArrayLike | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
@typed(infinite=("move_limit",))
class Limits:
    """Limits beside those of the channels' `Signal`, and how hard they are.

    Args:
        move_limit: Largest change of each input per step, scalar or shape (nu,); none when left out.
        soft: Allow slack on output limits at an exact penalty, for all or for each output. False: limits are hard, a
            solve may be infeasible. Soft without a terminal set, hard with one, when left out.
        priority: Which limits are kept first where not all can be, shape (ny,), 1 first; strictly, see
            `mpc.problem.priorities`. All hard ones alike, then all soft ones, when left out. With our solver only.
        penalty: Cost per unit of slack, scalar or shape (ny,); `mpc.problem.ocp.default_penalty` when left out.
    """

    move_limit: ArrayLike | None = None
    soft: bool | Sequence[bool] | None = None
    priority: Sequence[int] | None = None
    penalty: ArrayLike | None = None
