"""Probability with which a plant stays inside the sets that a study declares, and how often it did.

Residuals and their drift are declared by the largest ones of n records, inflated. That is an order statistic: a new
record of the same kind passes one of d such numbers with probability <= 1 / (n + 1), any with <= d / (n + 1), here
with d = ny for the residual and K ny for the drift within 1..K samples; what inflating adds no theorem says. And it
speaks of records of experiments: of the loop that a controller closes it promises nothing. There, loops are counted.
"""

from __future__ import annotations

import numpy as np

from controlrnn.checks import Array
from controlrnn.data import Dataset, Trajectory
from controlrnn.systems import LureSystem
from experiments.shared.study import Row
from mpc import CalibrationMethod, CoverageMet, DisturbanceFilter, ModelError, Observer, calibration_errors
from mpc.promises.coverage_met import met


def declared_error(
    system: LureSystem, bounds: Array, gain: float | None = None, *, washout: int = 20, n: int = 1
) -> ModelError:
    """A model error that is declared rather than calibrated.

    Args:
        system: The model.
        bounds: Its bounds, shape (N + 1, ny), output units.
        gain: Gain of the disturbance filter; None without one.
        washout: As of a calibration.
        n: Records that it is said to be from.
    """
    return ModelError(
        bounds=bounds,
        method=CalibrationMethod.SET_MEMBERSHIP,
        coverage=1.0,
        n=n,
        length=100,
        starts=50,
        washout=washout,
        disturbance_gain=gain,
        system_digest=system.digest,
        data_digest=64 * "d",
        observer_digest="",
    )


def declared_probability(residual: ModelError, memory: int) -> float:
    """Lower bound of the probability that a new record stays inside; 0 where records are too few.

    Args:
        residual: Set-membership bound without a disturbance filter.
        memory: Samples K within which drift is declared.
    """
    numbers = int(residual.bounds.shape[1]) * (1 + memory)
    return max(0.0, 1.0 - numbers / (residual.n + 1))


def held_out(
    observer: Observer, records: list[Trajectory], residual: ModelError, drift: ModelError, memory: int
) -> CoverageMet:
    """Count the held-out records that stay inside, with an interval for the probability."""
    inside = [_inside(observer, record, residual, drift, memory) for record in records]
    return met("held-out records", np.array(inside))


def _inside(observer: Observer, record: Trajectory, residual: ModelError, drift: ModelError, memory: int) -> bool:
    both = []
    for error, disturbance, rows in (
        (residual, None, slice(None)),
        (drift, DisturbanceFilter(1.0), slice(1, memory + 1)),
    ):
        found = calibration_errors(
            observer.system,
            record,
            horizon=error.horizon,
            washout=error.washout,
            disturbance=disturbance,
            initial_state=observer.initial_state,
        )
        both.append(bool((np.abs(found[:, rows]) <= error.bounds[rows]).all()))
    return all(both)


def promised(observer: Observer, dataset: Dataset, errors: dict[str, ModelError], memory: int) -> Row:
    """Summarise what is known of the declared sets before any loop is closed.

    Args:
        observer: The observer.
        dataset: Its validation and test records declared nothing.
        errors: Set-membership bounds: ``set_membership`` and ``drift``.
        memory: Samples K within which drift is declared.
    """
    residual, drift = errors["set_membership"], errors["drift"]
    kept = held_out(observer, [*dataset.validation, *dataset.test], residual, drift, memory)
    return {
        "declared_from_records": residual.n, "declared_probability": declared_probability(residual, memory),
        "held_out_inside": kept.inside, "held_out": kept.n, "held_out_lower": kept.lower, "held_out_upper": kept.upper,
    }  # fmt: skip
