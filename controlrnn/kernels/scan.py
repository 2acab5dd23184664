"""Fast simulation of Lur'e systems by one compiled time loop, which also computes the gradients.

Backpropagation through time is a Lur'e system that runs backwards; the derivation is in
`controlrnn.kernels.compiled.scan`.
(Werbos, "Backpropagation through time", Proc. IEEE 1990; for systems Kailath, "Linear Systems", 1980, the adjoint.)
"""

from __future__ import annotations

from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import numpy as np

from controlrnn.checks import Array, as_array, count, numbers, shown
from controlrnn.errors import DataError, SettingError, ShapeError
from controlrnn.kernels._engine import Floats, Packed, Run, usable
from controlrnn.kernels.compiled.runs import forward_rows
from controlrnn.kernels.squared_error import squared_error
from controlrnn.systems import MATRICES, GatedSystem, LureSystem
from controlrnn.systems.ops import TORCH, Value, frozen, ops_for, run_arguments, takes_numpy

# A frozen system never changes, so its packed form is made once.
_packed: WeakKeyDictionary[LureSystem, Packed] = WeakKeyDictionary()


def simulate(system: LureSystem | Any, u: Value, x0: Value = None) -> tuple[Value, Value]:
    """Simulate a free run: the same result as ``system.simulate``, orders of magnitude faster.

    Runs the compiled loop for frozen Lur'e systems with numpy inputs, and for Lur'e and gated systems of CPU tensors of
    one precision, where both outputs are differentiable by every matrix, ``u`` and ``x0``. All else (CUDA, mixed types,
    torch.func transforms, other systems) takes the eager path of ``system.simulate``. The result does not depend on the
    number of threads, which is torch's where torch is loaded.

    Args:
        system: The system; any other than a `LureSystem` or a `GatedSystem` of tensors simulates itself.
        u: Inputs, shape (T, nu) or (B, T, nu).
        x0: Initial state, shape (nx,) or (B, nx); zero when left out.

    Returns:
        ``(y, x)``: outputs (..., T, ny) and states (..., T + 1, nx).

    Raises:
        ShapeError: ``u`` or ``x0`` does not fit.
        DataError: ``u`` or ``x0`` does not hold numbers. (NaN is allowed: it affects its own run, from its sample on.)
    """
    if isinstance(system, LureSystem) and takes_numpy(system, u, *(() if x0 is None else (x0,))):
        u, x0 = run_arguments(system, u, x0, finite=False)
        run = _run(system, u, x0, keep=False)
        return run.y.reshape(*u.shape[:-1], system.ny), run.x.reshape(*u.shape[:-2], u.shape[-2] + 1, system.nx)
    if isinstance(system, LureSystem) and ops_for(u) is TORCH:
        from controlrnn.kernels._autograd import simulate_tensors

        return simulate_tensors(system, u, x0)
    if isinstance(system, GatedSystem) and not system.is_frozen and ops_for(u) is TORCH:
        from controlrnn.kernels.gated_scan import simulate_gated

        return simulate_gated(system, u, x0)
    return system.simulate(u, x0)


class Rollout(NamedTuple):
    """Simulation of one record: outputs y (T, ny), states x (T + 1, nx), and the neurons' outputs w (T, nv)."""

    y: Array
    x: Array
    w: Array


def rollout(system: LureSystem, u: Array, x0: Array) -> Rollout:
    """Simulate one run of a frozen system in the calling thread.

    Args:
        system: The system.
        u: Inputs, shape (T, nu).
        x0: Initial state, shape (nx,).

    Raises:
        ShapeError: ``u`` or ``x0`` does not fit.
    """
    packed = packed_of(system)
    (nx, nu, ny, nv), u, x0 = system.sizes, numbers("u", u), numbers("x0", x0)
    if x0.shape != (nx,) or u.ndim != 2 or u.shape[1] != nu:
        raise ShapeError(f"x0 and u must have shapes ({nx},) and (T, {nu}), got {x0.shape} and {u.shape}")
    steps = len(u)
    first, stride = 1 + nu + nx, packed.sizes.nz + packed.line
    x, y = np.empty((1, steps + 1, nx)), np.empty((1, steps, ny))
    x[0, 0] = x0
    Z = np.empty((steps + 1) * stride + 4 * packed.line)
    forward_rows(
        *packed.arranged(False).arguments,
        packed.code,
        packed.laws,
        usable(u, packed.dtype)[None],
        x,
        0,
        0,
        steps,
        packed.line,
        Z,
        y,
    )
    w = Z[: steps * stride].reshape(steps, stride)[:, first : first + nv]
    return Rollout(y[0], x[0], np.ascontiguousarray(w))


def step(system: LureSystem, x: Array, u: Array) -> Array:
    """Next state (nx,) as of ``system.step``, computed in the calling thread.

    Args:
        system: A frozen system.
        x: State, shape (nx,).
        u: Input, shape (nu,).
    """
    return np.asarray(rollout(system, _row(u), x).x[1])


def output(system: LureSystem, x: Array, u: Array) -> Array:
    """Output (ny,) as of ``system.output``, computed in the calling thread.

    Args:
        system: A frozen system.
        x: State, shape (nx,).
        u: Input, shape (nu,).
    """
    return np.asarray(rollout(system, _row(u), x).y[0])


def _row(u: Array) -> Array:
    """One input as a record of one sample, shape (1, nu)."""
    return numbers("u", u)[None]


class Recording:
    """Simulation of a frozen system that can be differentiated by its inputs and initial state, without torch.

    Args:
        system: A frozen system.
        u: Inputs, shape (B, T, nu).
        x0: Initial state, shape (nx,) or (B, nx); zero when left out.

    Attributes:
        y: Outputs, shape (B, T, ny).
        x: States, shape (B, T + 1, nx).

    Raises:
        ShapeError: ``u`` or ``x0`` does not fit.
    """

    def __init__(self, system: LureSystem, u: Floats, x0: Floats | None = None) -> None:
        self._run = _run(system, *_floats(u, x0), keep=True)
        self.y = self._run.y
        self.x = self._run.x

    def pullback(self, gy: Floats | None = None, gx: Floats | None = None) -> tuple[Floats, Floats]:
        """Gradients by u (B, T, nu) and x0 (B, nx) of a cost with derivatives ``gy`` by y and ``gx`` by x."""
        given = [(n, g, a) for n, g, a in (("gy", gy, self.y), ("gx", gx, self.x)) if g is not None]
        for name, gradient, like in given:
            as_array(name, gradient, like.shape, finite=False)
        gu, gx0, _ = self._run.pullback(gy, gx)
        return gu, gx0


def value_and_gradient(
    system: LureSystem, u: Value, y: Value, x0: Value = None, *, washout: int = 0
) -> tuple[float, dict[str, Value]]:
    """Mean squared error of free runs against measured outputs, and its gradient by every matrix of the system.

    For optimisers of one's own: torch's graph, which takes longer than the loops of a small network, is not involved.
    `simulate` is for everything that a graph leads to or from.

    Args:
        system: A frozen system, or one of CPU tensors of one precision.
        u: Inputs, shape (B, T, nu): numbers for a frozen system, else tensors, as are y and x0.
        y: Measured outputs, shape (B, T, ny); NaN where a sample is missing, which does not count.
        x0: Initial state, shape (nx,) or (B, nx); zero when left out.
        washout: Samples at the start of each run that do not count.

    Returns:
        The mean over runs, samples and outputs, and the gradients by name of the matrix: arrays for a frozen system,
        else tensors, of matrices that require a gradient only.

    Raises:
        ShapeError: ``u``, ``y`` or ``x0`` does not fit.
        DataError: Inputs or initial state of a frozen system are not finite, or its outputs infinite.
        SettingError: The system is none of these, or ``washout`` leaves no sample.
    """
    if not isinstance(system, LureSystem):
        raise SettingError(f"system must be a LureSystem, got {shown(system)}")
    given = (u, y) if x0 is None else (u, y, x0)
    frozen_run = takes_numpy(system, *given)
    if frozen_run:
        u, y = numbers("u", u), numbers("y", y)
    elif not all(ops_for(value) is TORCH for value in given):
        raise SettingError("u, y and x0 must be numbers for a frozen system, and tensors for one of tensors")
    shape = (*u.shape[:-1], system.ny)
    if len(shape) != 3 or u.shape[-1] != system.nu or y.shape != shape or 0 in shape[:2]:
        raise ShapeError(
            f"u and y must have shapes (B, T, nu = {system.nu}) and (B, T, ny = {system.ny}), got {tuple(u.shape)} and "
            f"{tuple(y.shape)}"
        )
    washout = count("washout", washout, least=0, most=shape[1] - 1)
    if frozen_run:
        if np.isinf(y).any():
            raise DataError("y must be finite, or NaN where a sample is missing, got infinite values")
        packed, (u, x0) = packed_of(system), _floats(u, x0)
        start, want = system._initial_state(u, x0), ((True,) * len(MATRICES), system.feedforward)
        found = {n: np.empty(s) for n, s in zip(MATRICES, packed.sizes.shapes, strict=True)}
        value = squared_error(packed, (u, y, washout), start, want, [g.ctypes.data for g in found.values()])
        return value, found
    from controlrnn.kernels._autograd import value_and_gradient_of_tensors

    return value_and_gradient_of_tensors(system, u, y, x0, washout)


def _floats(u: Value, x0: Value) -> tuple[Floats, Floats | None]:
    """Inputs (B, T, nu) and initial state as float64 arrays, after checking them."""
    u = as_array("u", u, ("B", "T", "nu"))
    if 0 in u.shape[:2]:
        raise ShapeError(f"u must have shape (B, T, nu) with at least one run of one sample, got {u.shape}")
    x0 = None if x0 is None else numbers("x0", x0)
    return u, x0 if x0 is None else as_array("x0", x0, ["n"] * x0.ndim)


def _run(system: LureSystem, u: Floats, x0: Floats | None, *, keep: bool) -> Run:
    """Run a frozen system with inputs (T, nu) or (B, T, nu)."""
    packed = packed_of(system)
    start = system._initial_state(u, x0)
    batch = (1, *u.shape) if u.ndim == 2 else u.shape
    return packed.run(u.reshape(batch), start.reshape(batch[0], system.nx), keep=keep)


def packed_of(system: LureSystem) -> Packed:
    """Packed form of a frozen system, made at the first use."""
    if not isinstance(system, LureSystem):
        raise SettingError(f"system must be a LureSystem, got {shown(system)}")
    packed = _packed.get(system)
    if packed is None:
        packed = Packed.of([getattr(frozen(system), name) for name in MATRICES], system.activation, system.layers)
        _packed[system] = packed
    return packed
