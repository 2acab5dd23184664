"""Functions that numpy, torch and CasADi spell differently, so that a model's equations are written once.

The equations use the operators ``+ - * @`` and these functions; the type of the values selects the backend. CasADi
values are rows, shape (1, n), so that the same ``x @ A.T`` serves all three.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

import numpy as np

from controlrnn.checks import Array, as_array, numbers
from controlrnn.errors import SettingError, ShapeError

# A matrix or vector of any backend. numpy, torch and CasADi share no common base class.
Value = Any


class Ops(Protocol):
    """Functions that a backend provides."""

    def tanh(self, v: Value) -> Value: ...
    def relu(self, v: Value) -> Value: ...
    def sigmoid(self, v: Value) -> Value: ...
    def sqrt(self, v: Value) -> Value: ...
    def exp(self, v: Value) -> Value: ...
    def sin(self, v: Value) -> Value: ...
    def clip(self, v: Value, low: Value, high: Value) -> Value:
        """Values clipped to [low, high]; the ends are from `constants`."""

    def constants(self, values: Array, like: Value) -> Value:
        """Numbers (n,) that do not change, as a row of the precision and device of ``like``."""

    def row(self, bias: Value) -> Value:
        """Reshape a stored vector (n,) so that it broadcasts against a row."""

    def columns(self, v: Value, start: int, stop: int) -> Value:
        """Columns ``v[..., start:stop]`` of a row."""

    def join(self, parts: Sequence[Value]) -> Value:
        """Concatenate rows along the last axis."""

    def stack(self, rows: Sequence[Value]) -> Value:
        """Stack states (..., n) of successive samples to (..., T, n)."""

    def samples(self, path: Value) -> Iterable[Value]:
        """Rows (..., n) of the successive samples of ``path`` (..., T, n)."""

    def zeros(self, shape: tuple[int, ...], like: Value) -> Value:
        """Zeros of the precision and device of ``like``."""


class NumpyOps:
    """Backend for numpy arrays (..., n)."""

    def tanh(self, v: Value) -> Value:
        return np.tanh(v)

    def relu(self, v: Value) -> Value:
        return np.maximum(v, 0.0)

    def sigmoid(self, v: Value) -> Value:
        return 0.5 + 0.5 * np.tanh(0.5 * v)  # the same function, without an exponential that could overflow

    def sqrt(self, v: Value) -> Value:
        return np.sqrt(v)

    def exp(self, v: Value) -> Value:
        return np.exp(v)

    def sin(self, v: Value) -> Value:
        return np.sin(v)

    def clip(self, v: Value, low: Value, high: Value) -> Value:
        return np.clip(v, low, high)

    def constants(self, values: Array, like: Value) -> Value:  # everything here is float64
        return values

    def row(self, bias: Value) -> Value:
        return bias

    def columns(self, v: Value, start: int, stop: int) -> Value:
        return v[..., start:stop]

    def join(self, parts: Sequence[Value]) -> Value:
        return np.concatenate(parts, axis=-1)

    def stack(self, rows: Sequence[Value]) -> Value:
        return np.stack(rows, axis=-2)

    def samples(self, path: Value) -> Iterable[Value]:
        samples: Iterable[Value] = np.moveaxis(path, -2, 0)
        return samples

    def zeros(self, shape: tuple[int, ...], like: Value) -> Value:
        return np.zeros(shape)


class TorchOps:
    """Backend for torch tensors (..., n); imports torch on use only."""

    def tanh(self, v: Value) -> Value:
        return v.tanh()

    def relu(self, v: Value) -> Value:
        return v.relu()

    def sigmoid(self, v: Value) -> Value:
        return v.sigmoid()

    def sqrt(self, v: Value) -> Value:
        return v.sqrt()

    def exp(self, v: Value) -> Value:
        return v.exp()

    def sin(self, v: Value) -> Value:
        return v.sin()

    def clip(self, v: Value, low: Value, high: Value) -> Value:
        return v.clip(low, high)

    def constants(self, values: Array, like: Value) -> Value:
        return like.new_tensor(values.tolist())

    def row(self, bias: Value) -> Value:
        return bias

    def columns(self, v: Value, start: int, stop: int) -> Value:
        return v[..., start:stop]

    def join(self, parts: Sequence[Value]) -> Value:
        import torch

        return torch.cat(list(parts), dim=-1)

    def stack(self, rows: Sequence[Value]) -> Value:
        import torch

        return torch.stack(list(rows), dim=-2)

    def samples(self, path: Value) -> Iterable[Value]:
        # Unbound at once: the gradient of indexing at every sample would fill the whole tensor each time.
        samples: tuple[Value, ...] = path.unbind(-2)
        return samples

    def zeros(self, shape: tuple[int, ...], like: Value) -> Value:
        return like.new_zeros(shape)


class CasadiOps:
    """Backend for CasADi rows (1, n) of type SX, MX or DM, by CasADi's own functions (``np.tanh`` is deprecated)."""

    def tanh(self, v: Value) -> Value:
        import casadi

        return casadi.tanh(v)

    def relu(self, v: Value) -> Value:
        import casadi

        return casadi.if_else(v < 0, 0, v)  # `fmax` would turn NaN into zero

    def sigmoid(self, v: Value) -> Value:
        import casadi

        return 0.5 + 0.5 * casadi.tanh(0.5 * v)

    def sqrt(self, v: Value) -> Value:
        import casadi

        return casadi.sqrt(v)

    def exp(self, v: Value) -> Value:
        import casadi

        return casadi.exp(v)

    def sin(self, v: Value) -> Value:
        import casadi

        return casadi.sin(v)

    def clip(self, v: Value, low: Value, high: Value) -> Value:
        import casadi

        return casadi.fmin(casadi.fmax(v, low), high)

    def constants(self, values: Array, like: Value) -> Value:  # CasADi has one precision
        return values.reshape(1, -1)

    def row(self, bias: Value) -> Value:
        return np.asarray(bias).reshape(1, -1)

    def columns(self, v: Value, start: int, stop: int) -> Value:
        return v[:, start:stop]

    def join(self, parts: Sequence[Value]) -> Value:
        import casadi

        return casadi.horzcat(*parts)

    def stack(self, rows: Sequence[Value]) -> Value:
        import casadi

        return casadi.vertcat(*rows)

    def samples(self, path: Value) -> Iterable[Value]:
        return (path[t, :] for t in range(path.shape[0]))

    def zeros(self, shape: tuple[int, ...], like: Value) -> Value:
        return np.zeros(shape)


NUMPY, TORCH, CASADI = NumpyOps(), TorchOps(), CasadiOps()


def ops_for(value: Value) -> Ops:
    """Backend that ``value`` belongs to, by its type; a type of this library names it in an attribute ``OPS``."""
    own: Ops | None = getattr(type(value), "OPS", None)  # e.g. the values that ONNX export traces
    if own is not None:
        return own
    package = type(value).__module__.partition(".")[0]  # by name, so that neither package is imported for it
    if package == "torch":
        return TORCH
    if package == "casadi":
        return CASADI
    return NUMPY


def to_numpy(value: Value) -> Any:
    """Convert a tensor (on any device, detached) or an array to a float64 array."""
    return np.asarray(value.detach().cpu() if ops_for(value) is TORCH else value, dtype=np.float64)


def matrix(name: str, value: Value) -> Value:
    """Convert a matrix of a system to a float64 array, unless it is a tensor or symbol."""
    return numbers(name, value) if ops_for(value) is NUMPY else value


def frozen(system: Any, what: str = "system") -> Any:
    """Return ``system`` after checking that it is frozen.

    Raises:
        SettingError: Its matrices are tensors or symbols.
    """
    if not system.is_frozen:
        raise SettingError(f"{what} must be frozen, got one of tensors: call model.freeze() first")
    return system


def takes_numpy(system: Any, *values: Value) -> bool:
    """Whether the system is frozen and all values are numbers, not tensors or symbols."""
    return bool(system.is_frozen) and all(ops_for(v) is NUMPY for v in values)


def run_arguments(system: Any, u: Value, x0: Value, *, finite: bool = True) -> tuple[Value, Value]:
    """Return inputs and initial state of a run, numbers as float64 arrays; with ``finite`` they must be finite.

    Raises:
        DataError: The values are not numbers, or not finite.
    """
    if not takes_numpy(system, u, *(() if x0 is None else (x0,))):
        return u, x0
    u, x0 = numbers("u", u), None if x0 is None else numbers("x0", x0)
    for name, array in (("u", u), ("x0", x0)):
        if finite and array is not None and not np.isfinite(array).all():
            as_array(name, array, ["n"] * array.ndim)
    return u, x0


def initial_state(system: Any, u: Value, x0: Value) -> Value:
    """Initial state (..., nx) of a run with inputs ``u`` (..., T, nu), after checking the shapes of both.

    Raises:
        ShapeError: ``u`` or ``x0`` does not fit ``system``.
    """
    if len(u.shape) not in (2, 3) or u.shape[-1] != system.nu or u.shape[-2] < 1:
        raise ShapeError(
            f"u must have shape (T, nu) = (T, {system.nu}) or (B, T, {system.nu}), got {tuple(u.shape)}: "
            "check the input columns"
        )
    shape = (*u.shape[:-2], system.nx)
    zeros = ops_for(u).zeros(shape, u)
    if x0 is None:
        return zeros
    if tuple(x0.shape) not in ((system.nx,), shape):
        raise ShapeError(f"x0 must have shape {shape} or ({system.nx},), got {tuple(x0.shape)}: one state per record")
    return x0 + zeros  # one state for all records is repeated
