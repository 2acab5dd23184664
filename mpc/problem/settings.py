"""Settings of the optimal control problem: tracking weights, economic prices, limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from controlrnn.checks import Choice, flag, items, put
from controlrnn.typed import typed


class Mode(Choice):
    """Use of the disturbance estimate; see `mpc.control.controller`."""

    GUARANTEED = "guaranteed"
    PRACTICAL = "practical"


@dataclass(frozen=True, kw_only=True, eq=False)
@typed()
class Tracking:
    """Weights of the tracking cost, the horizon, and how the disturbance estimate enters.

    Args:
        output_weight: Cost of output errors per unit^2, scalar or shape (ny,).
        input_move_weight: Cost of input moves per unit^2, scalar or shape (nu,).
        terminal_weight: Cost of output errors at step N, with a terminal set of those of the steady state;
            ``output_weight`` when left out.
        horizon: Number N of steps; the tightening's when left out, and at most that.
        control_horizon: Number M of free inputs, the last of which is held. N when left out; N / 2 with a terminal set,
            so that the plan comes to rest in the steps after M.
        measured_inputs: Names of inputs that are measured disturbances: `TightenedMPC.step` gets their forecast and
            decides about the other inputs only, which alone have limits, moves, weights and prices. The limits of a
            measured input's `Signal` are the range of its values, for bounds on the state. The tightening's input
            radius for it has to cover the errors of its forecast. Not with a terminal set.
        mode: Use of the disturbance estimate; given by the tightening when left out.
        disturbance_gain: Gain of the disturbance filter; the tightening's when left out, else 0.2.
    """

    output_weight: ArrayLike
    input_move_weight: ArrayLike
    terminal_weight: ArrayLike | None = None
    horizon: int | None = None
    control_horizon: int | None = None
    measured_inputs: Sequence[str] = ()
    mode: Mode | None = None
    disturbance_gain: float | None = None

    def __post_init__(self) -> None:
        if self.mode is not None:
            put(self, mode=Mode(self.mode))


@dataclass(frozen=True, kw_only=True, eq=False)
@typed()
class Prices:
    """Economic costs, in addition to tracking or instead of it; see `mpc.problem.economy`.

    Args:
        input_price: Cost per unit of input and step, scalar or shape (nu,), either sign.
        output_price: Cost per unit of output and step, scalar or shape (ny,), either sign.
        input_weight: Cost of an input's distance from ``input_reference`` per unit^2 and step, scalar or shape (nu,).
        input_reference: Wanted inputs, scalar or shape (nu,); the middle of their range when left out.
    """

    input_price: ArrayLike = 0.0
    output_price: ArrayLike = 0.0
    input_weight: ArrayLike = 0.0
    input_reference: ArrayLike | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
@typed(infinite=("move_limit",))
class Limits:
    """Move limits, and hardness, priorities and penalties of the output limits given by the channels' `Signal`.

    Args:
        move_limit: Largest change of each input per step, scalar or shape (nu,); none when left out.
        soft: Whether output limits may be violated at an exact penalty, for all or for each output; if not, limits are
            hard, and a solve may be infeasible. By default only without a terminal set.
        priority: Order in which limits are kept if not all can be, shape (ny,), 1 first; strictly, see
            `mpc.problem.priorities`. When left out, all hard ones before all soft ones. Only with our solver.
        penalty: Cost per unit of slack, scalar or shape (ny,); `mpc.problem.ocp.default_penalty` when left out.
    """

    move_limit: ArrayLike | None = None
    soft: bool | Sequence[bool] | None = None
    priority: Sequence[int] | None = None
    penalty: ArrayLike | None = None

    def __post_init__(self) -> None:
        if self.soft is not None:
            many = isinstance(self.soft, Sequence | np.ndarray) and not isinstance(self.soft, str)
            each = tuple(bool(s) for s in items("soft", self.soft, (bool, np.bool_))) if many else ()
            put(self, soft=each or flag("soft", self.soft))


def by_record(
    records: Mapping[str, type[Any]], settings: Mapping[str, Any], before: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Group single settings by name into arguments that are records of settings.

    Args:
        records: Class of each argument that is a record.
        settings: Fields of the records, or whole arguments.
        before: Arguments to change; those not named stay as they are.
    """
    record_of = {field.name: name for name, kind in records.items() for field in fields(kind)}
    made = dict(before or {})
    parts: dict[str, dict[str, Any]] = {}
    for name, value in settings.items():
        if name in record_of:
            parts.setdefault(record_of[name], {})[name] = value
        else:
            made[name] = value
    for name, values in parts.items():
        given = made.get(name)
        made[name] = records[name](**values) if given is None else replace(given, **values)
    return made
