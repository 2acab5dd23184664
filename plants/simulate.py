"""Simulated experiments on a plant: from inputs to noisy records with the true states.

The timing is that of docs/timing.md: at sample t first y[t] is measured, while u[t - 1] still acts, then u[t] acts
until t + 1. The order matters only for plants whose output depends on the input at the same moment.
"""

from __future__ import annotations

from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import Array, channels
from controlrnn.data import Trajectory
from controlrnn.errors import SettingError, ShapeError
from controlrnn.typed import typed
from plants.adapted import as_plant
from plants.base import Plant, checked
from plants.integrate import integrate
from plants.ops import NUMPY


@overload
def simulate(
    plant: Plant | Any,
    u: np.ndarray[tuple[int, int], Any],
    x0: Any = None,
    *,
    noise_std: Any = 0.0,
    disturbance: Any = None,
    u_before: Any = None,
    seed: int | None = None,
) -> Trajectory: ...
@overload
def simulate(
    plant: Plant | Any,
    u: np.ndarray[tuple[int, int, int], Any],
    x0: Any = None,
    *,
    noise_std: Any = 0.0,
    disturbance: Any = None,
    u_before: Any = None,
    seed: int | None = None,
) -> tuple[Trajectory, ...]: ...
@overload
def simulate(
    plant: Plant | Any,
    u: Any,
    x0: Any = None,
    *,
    noise_std: Any = 0.0,
    disturbance: Any = None,
    u_before: Any = None,
    seed: int | None = None,
) -> Any: ...
@typed(unchecked=("plant",))
def simulate(
    plant: Plant | Any,
    u: NDArray[Any] | Any,
    x0: Any = None,
    *,
    noise_std: Any = 0.0,
    disturbance: Any = None,
    u_before: Any = None,
    seed: int | None = None,
) -> Trajectory | tuple[Trajectory, ...]:
    """Simulate one experiment, or many at once.

    Args:
        plant: The process: a `Plant`, or any object that `plants.as_plant` takes.
        u: Inputs within their limits, shape (T, nu), or (B, T, nu) for B experiments, which are integrated together:
            much faster than one by one, with the same result (see `plants.integrate`).
        x0: State at sample 0, shape (nx,) or, for a batch, (B, nx); the plant's `initial_state` when left out.
        noise_std: Standard deviation of the white Gaussian measurement noise, one number or one per output.
        disturbance: Unmeasured disturbances, of the leading shape of ``u`` and with nw channels; None for none.
        u_before: Input that acts until sample 0, shape (nu,) or, for a batch, (B, nu); the plant's ``nominal_input``
            when left out. It matters for y[0] only, and there only with feedthrough.
        seed: Seed of the noise. None draws a fresh one, so the record cannot be repeated.

    Returns:
        The record, with true states and signals; a tuple of B records for a batch.

    Raises:
        ShapeError: An array has the wrong shape.
        DataError: Values that are not finite or outside of their limits (the message names the sample), fewer than 2
            samples.
        SettingError: A negative standard deviation.
    """
    plant = as_plant(plant)
    inputs = plant.checked_input(u)
    if inputs.ndim == 3 and not len(inputs):
        raise ShapeError("u must hold at least one experiment, got none")
    if inputs.ndim not in (2, 3):
        raise ShapeError(
            f"u must have shape (T, {plant.nu}) or (B, T, {plant.nu}), got {inputs.shape}: add the time axis"
        )
    single = inputs.ndim == 2
    std = _noise_std(noise_std, plant.ny)
    w = None if disturbance is None else checked("disturbance", disturbance, plant.disturbances)
    if w is not None and w.shape[:-1] != inputs.shape[:-1]:
        raise ShapeError(
            f"disturbance must have shape {(*inputs.shape[:-1], plant.nw)}, got {w.shape}: give one row per sample of u"
        )
    start = checked("x0", plant.initial_state() if x0 is None else x0, plant.states)
    batch = inputs.shape[:-2]
    if start.shape[:-1] not in ((), batch):
        expected = f"({plant.nx},)" if single else f"({plant.nx},) or {(*batch, plant.nx)}"
        raise ShapeError(f"x0 must have shape {expected}, got {start.shape}: give one state per experiment")
    x = _states(plant, np.broadcast_to(start, (*batch, plant.nx)), inputs, w)
    before = plant.checked_input(plant.nominal_input if u_before is None else u_before)
    if before.shape[:-1] not in ((), batch):
        raise ShapeError(f"u_before must have shape ({plant.nu},) or {(*batch, plant.nu)}, got {before.shape}")
    # The reading y[t] is taken while u[t - 1] still acts.
    acting = np.concatenate([np.broadcast_to(before, (*batch, plant.nu))[..., None, :], inputs[..., :-1, :]], axis=-2)
    y = np.asarray(plant.output(x, acting, NUMPY), dtype=np.float64)
    if std.any():
        y = y + std * np.random.default_rng(seed).standard_normal(y.shape)

    def record(u: Array, y: Array, x: Array, name: str) -> Trajectory:
        return Trajectory(u, y, plant.dt, x, plant.inputs, plant.outputs, name)

    name = type(plant).__name__
    if single:
        return record(inputs, y, x, name)
    return tuple(record(inputs[b], y[b], x[b], f"{name} {b}") for b in range(len(inputs)))


def _states(plant: Plant, start: Array, u: Array, w: Array | None) -> Array:
    """States at all samples, shape (..., T, nx)."""
    x = np.empty((*u.shape[:-1], plant.nx))
    if u.shape[-2]:
        x[..., 0, :] = start
    for t in range(u.shape[-2] - 1):
        x[..., t + 1, :] = integrate(plant, x[..., t, :], u[..., t, :], None if w is None else w[..., t, :])
    return x


def _noise_std(value: Any, ny: int) -> Array:
    """Standard deviations of the noise, shape (ny,), after checking that none is negative."""
    std = channels("noise_std", value, ny)
    if (std < 0).any():
        raise SettingError(f"noise_std must be >= 0 in every output, got {std}")
    return std
