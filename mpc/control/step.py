"""Result of one control step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import Array
from mpc.problem.solver_options import Status
from mpc.safety.fallback import Fallback
from mpc.safety.premise_watch import Premise


@dataclass(frozen=True, kw_only=True, eq=False)
class MpcStep:
    """Result of one control step: the input, the plan, and how they came about.

    Args:
        u: Input to apply now, shape (nu,); measured inputs as they are.
        status: Status of the solve.
        fallback: Source of the plan where there is no solution: the last plan shifted; the solver's last iterate, or a
            plan that is back inside its limits soonest; an input held on the way to the best steady one; the safe
            input. See `mpc.safety.fallback`. With a terminal set, PLAN may be the shifted plan improved by a solve that
            was stopped early.
        solve_time: Wall time of the whole step [s].
        iterations: Solver iterations.
        cost: Objective, slack included; NaN unless solved.
        x: State estimate, shape (nx,).
        disturbance: Output disturbance estimate, shape (ny,).
        u_planned: Planned inputs, shape (N, nu).
        y_predicted: Predicted outputs under them, shape (N + 1, ny): the model's plus ``shift``.
        shift: Correction of the model's outputs in limits, shape (N + 1, ny); see `mpc.control.offset_free`.
        slack: Use of soft limits per step and output, shape (N + 1, ny), output units.
        missing: Flags of missing measurements, shape (ny,), bool.
        certified: Whether the certified error of the state estimate holds at this step.
        feasible: Whether the plan keeps all tightened limits; with a terminal set, also that it ends there.
        inside_after: First step from which on the plan keeps the tightened output limits, the hard ones where some are
            hard: 0 if it does from the start, N + 1 if it does not within the horizon, or if there is no plan yet.
        set_point: Set point in use, shape (ny,): the reference, or its replacement where it is missing or out of reach;
            see `mpc.problem.set_points`.
        message: The solver's message.
        outside: Text of what contradicts a premise at this sample, or lies outside the calibrated region, with names
            and units; empty where nothing does.
        error_interval: Lower and upper bounds on the errors of predictions from ``x``, shape (2, N + 1, ny): those of
            `mpc.tightening.error_memory`, else the tightening.
        verdicts: `mpc.Verdict` on each reading, shape (ny,); without `Watching.plausibility` only MISSING is told from
            FINE.
        broken: Premises that are contradicted now, or were and still have an effect; see `mpc.safety.premise_watch`.
    """

    u: Array
    status: Status
    fallback: Fallback
    solve_time: float
    iterations: int
    cost: float
    x: Array
    disturbance: Array
    u_planned: Array
    y_predicted: Array
    shift: Array
    slack: Array
    missing: Array
    certified: bool
    feasible: bool
    inside_after: int
    set_point: Array
    message: str
    error_interval: Array
    verdicts: NDArray[np.int8]
    outside: str = ""
    broken: tuple[Premise, ...] = ()
