"""Part of a tightening that covers rounding errors of the model's execution.

The model error is calibrated on computed runs, and the controller's estimates and predictions are computed, too: each
differs from real arithmetic by at most the execution error, which therefore counts twice. A disturbance estimate is an
average of output errors of both kinds, which adds it twice more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from controlrnn.checks import Array
from controlrnn.errors import SettingError
from mpc.observers.base import Observer
from mpc.observers.state_error import ROUNDING
from mpc.observers.washout import RunningOn, Washout

if TYPE_CHECKING:
    from controlrnn.certification import ExecutionError

NOT_COUNTED = "all of it in real arithmetic: rounding is not counted"


def execution_part(execution: ExecutionError, observer: Observer, horizon: int, *, filtered: bool) -> tuple[Array, str]:
    """Part of a tightening that covers rounding, shape (horizon + 1, ny), and the text of its condition.

    Args:
        execution: Execution error of the observer's model, for all inputs and initial states in use; verified here.
        observer: The controller's observer.
        horizon: Number of predicted steps N.
        filtered: Whether predictions are corrected by a disturbance estimate.

    Raises:
        SettingError: It covers another model, too few steps, or too small a range; or the observer corrects its
            estimate by measurements, the rounding of which is not bounded.
        CertificationError: It does not hold.
    """
    if execution.system_digest != observer.system.digest:
        raise SettingError("execution and observer belong to different models: compute it for observer.system")
    if type(observer) not in (Washout, RunningOn):
        raise SettingError(
            f"the rounding of a {type(observer).__name__} is not bounded, only that of models which run on their own: "
            "use a Washout or RunningOn, or leave execution out"
        )
    if execution.horizon is not None:
        raise SettingError(
            f"calibration runs over whole records, got an execution error over {execution.horizon} steps: pass "
            "contraction= and horizon=None to execution_error"
        )
    low, high = observer.predictor.input_limits()
    if not (
        (execution.input_range[0] <= low - observer.input_error).all()
        and (high + observer.input_error <= execution.input_range[1]).all()
    ):
        raise SettingError(
            f"execution must cover the actuators' range and the input error, {low - observer.input_error} to "
            f"{high + observer.input_error}, got {execution.input_range[0]} to {execution.input_range[1]}: pass that "
            "as input_range"
        )
    start = observer.initial_state
    if not ((execution.state_range[0] <= start).all() and (start <= execution.state_range[1]).all()):
        raise SettingError(
            f"execution must cover the observer's initial state {start}, got {execution.state_range[0]} to "
            f"{execution.state_range[1]}: pass state_range=(observer.initial_state, observer.initial_state), or more"
        )
    execution.verify(observer.system)
    counted = 4 if filtered else 2
    part = counted * ROUNDING * execution.over(horizon)
    words = f"rounding in {execution.precision} is counted, while recorded inputs stay within execution's input range"
    return np.asarray(part), words
