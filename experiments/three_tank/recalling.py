"""The recalling controller, whose limits adapt to the prediction errors that measurements leave possible.

See `mpc.tightening.error_memory`.

It rests on two calibrated bounds, the error of the model and its drift, and fails only if a trajectory breaks one of
them. Each is calibrated with half of the probability of failure allowed, so that both hold together with probability
>= coverage (union bound): the tightened controller and this one make the same promise. All else is certified.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from controlrnn.certification import HorizonCertificate
from controlrnn.checks import Array
from controlrnn.data import Dataset, Trajectory
from experiments.three_tank import stages
from experiments.three_tank.config import Config
from mpc import (
    Coverage,
    DisturbanceFilter,
    ErrorMemory,
    Tightening,
    Washout,
    certify_changes,
    certify_jump,
    make_error_memory,
    prediction_errors,
)
from mpc.calibration.residuals import measured_errors
from mpc.tightening.learnt_errors import LearntErrors


def parts(
    observer: Washout, dataset: Dataset, config: Config, folder: Path, progress: Callable[[int, int], None]
) -> tuple[Tightening, ErrorMemory]:
    """Calibrate error and drift, certify changes and jumps, and build the tightening and the error memory from them."""
    system, each = observer.system, 0.5 * (1 + config.coverage)
    error = stages.model_error(system, observer, dataset, config, coverage=each)
    drift = stages.model_error(system, observer, dataset, config, coverage=each, disturbance=DisturbanceFilter(1.0))
    tightening = stages.tightening(error, folder, observer)
    changes = certify_changes(observer, config.memory, iterations=config.change_iterations, progress=progress)
    return tightening, make_error_memory(
        tightening, drift, changes, observer=observer, growth=_growth(observer, config)
    )


def learnt_intervals(recalled: ErrorMemory, observer: Washout, record: Trajectory) -> tuple[Array, int]:
    """Error intervals that the controller would learn along a record.

    Returns:
        Ends of what errors may be, shape (starts, 2, horizon + 1, ny) in the order of `mpc.prediction_errors`, and the
        number of measurements that contradicted them.
    """
    learnt = LearntErrors(recalled, observer.predictor.outputs, None)
    states = observer.estimates(record.u, record.y)[:-1]
    seen = measured_errors(observer.system, states, record.u, record.y)[observer.steps : len(record) - recalled.horizon]
    ends, contradictions = np.empty((len(seen), 2, recalled.horizon + 1, seen.shape[1])), 0
    for t, error in enumerate(seen):
        contradictions += bool(learnt.update(error, certified=True))
        ends[t] = learnt.interval
        learnt.advance()
    return ends, contradictions


def coverage_of_intervals(
    recalled: ErrorMemory, observer: Washout, dataset: Dataset, config: Config, seed: int
) -> tuple[Coverage, int, Array]:
    """Coverage, contradictions and mean relative widths of the learnt intervals on the test records.

    The widths have shape (horizon + 1, ny), shares in [0, 1]. Inputs are as in `stages.coverage_of_total`.
    """
    inside, widths, contradictions = [], [], 0
    for record in stages.as_commanded(dataset.test, config, seed):
        errors = prediction_errors(observer, record, horizon=config.horizon)
        ends, contradicted = learnt_intervals(recalled, observer, record)
        inside.append(((ends[:, 0] <= errors) & (errors <= ends[:, 1])).all(axis=2))
        widths.append((ends[:, 1] - ends[:, 0]).mean(axis=0) / (2 * recalled.absolute))
        contradictions += contradicted
    whole = float(np.mean([part.all() for part in inside]))
    pooled = float(np.concatenate([part.ravel() for part in inside]).mean())
    return Coverage(whole, pooled, len(inside)), contradictions, np.mean(widths, axis=0)


def _growth(observer: Washout, config: Config) -> HorizonCertificate:
    """Certify the effect of a jump of the estimate on the plan's outputs."""
    return certify_jump(observer, config.horizon, iterations=config.change_iterations)
