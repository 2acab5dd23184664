"""Training of observers: contracting models from inputs and measurements (u, y) to the state of the plant.

Any model of `controlrnn.models` is trained on records of a simulator, whose true states are known, with inputs and
measurements as its inputs and the states as its outputs. Contraction makes estimates from any two initial states
converge at the model's rate, for all parameters; training makes them converge to the true state.
(Revay, Wang, Manchester, "Recurrent equilibrium networks", IEEE TAC 2023, sec. VIII; Barbara, Wang, Manchester,
"R2DN: scalable parameterization of contracting and Lipschitz recurrent deep networks", 2025, second benchmark.)
"""

from __future__ import annotations

import numpy as np

from controlrnn.checks import Array
from controlrnn.data import Dataset, Signal, Timing, Trajectory
from controlrnn.errors import DataError, ShapeError
from controlrnn.identification.scores.free_run import free_run
from controlrnn.systems import LureSystem
from controlrnn.typed import typed


@typed()
def observer_dataset(dataset: Dataset) -> Dataset:
    """Convert the records of a simulator to those of an observer, with inputs (u, y) and outputs x.

    Train on it as on any other: ``identify(ContractingREN(nu=nu + ny, ny=plant.nx, ...), observer_dataset(data))``.

    Args:
        dataset: Records with their true states ``x``; measurement noise belongs into their ``y``.

    Raises:
        DataError: A record has no states (the message says which).
    """
    parts = (dataset.train, dataset.validation, dataset.test, dataset.calibration)
    return Dataset(*(tuple(_seen_by_observer(record) for record in part) for part in parts))


@typed()
def estimate_states(observer: LureSystem, record: Trajectory, x0: Array | None = None) -> Array:
    """Estimate the states of the plant along a record of its inputs and outputs.

    Args:
        observer: A frozen system that was trained on `observer_dataset`.
        record: Inputs and outputs of the plant; its states are not used.
        x0: Initial state of the observer, shape (observer.nx,), in the observer's own coordinates; zero when left out.

    Returns:
        Shape (T, nx of the plant); the estimate at sample t uses the inputs and outputs before t, and those at t where
        the model has a feedthrough.

    Raises:
        ShapeError: The observer does not take this record's channels.
    """
    if observer.nu != record.nu + record.ny:
        raise ShapeError(
            f"the observer must have nu + ny = {record.nu} + {record.ny} inputs, got {observer.nu}: train it on "
            "observer_dataset(...)"
        )
    _refuse_missing(record)
    # A free run uses the inputs only; the outputs are placeholders.
    seen = Trajectory(np.hstack([record.u, record.y]), np.zeros((len(record), observer.ny)), record.dt)
    return free_run(observer, [seen], None if x0 is None else np.asarray(x0, dtype=np.float64)[None])[0][0]


def _refuse_missing(record: Trajectory) -> None:
    """Raise DataError where a reading is missing, which a trained observer takes as an input."""
    if not record.is_complete:
        raise DataError(
            f"record {record.name!r} misses {int(record.missing.sum())} readings, which are inputs of a trained "
            "observer: cut it there, or use an observer of mpc, which goes on without them"
        )


def _seen_by_observer(record: Trajectory) -> Trajectory:
    """Record with inputs (u, y) and outputs x."""
    if record.x is None:
        raise DataError(f"record {record.name!r} must know its true states x, got none: simulate the plant")
    _refuse_missing(record)
    states = tuple(Signal(f"x{i + 1}") for i in range(record.x.shape[1]))
    u = np.hstack([record.u, record.y])
    # An observer has the reading of a sample before it estimates, so that it may have a feedthrough.
    timing = Timing.INPUT_FIRST
    return Trajectory(u, record.x, record.dt, None, record.inputs + record.outputs, states, record.name, timing)
