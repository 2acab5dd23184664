"""Gated recurrent systems, LSTM and GRU, with the same methods as `LureSystem`.

    GRU   r, z = sig(W u + U h + b),  n = tanh(Wn u + Un (r h) + bn),  h+ = (1 - z) n + z h             state x = h
    LSTM  i, f, o = sig(W u + U h + b),  g = tanh(Wg u + Ug h + bg),
          c+ = f c + i g,  h+ = o tanh(c+)                                                              state x = (h, c)
    y = C h + by,  or C h+ + by with feedthrough

Gates are stacked in the orders (r, z, n) and (i, f, o, g). Products of gates and states are elementwise.
(Cho et al., "Learning phrase representations", 2014, eqs. 5-8; Hochreiter & Schmidhuber 1997 with the forget gate of
Gers, Schmidhuber, Cummins, "Learning to forget", 2000.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import Choice, as_array, evaluated, flag, positive, put, read_only, rows
from controlrnn.data.scaling import Scaler
from controlrnn.errors import SettingError, ShapeError
from controlrnn.portable import product
from controlrnn.printing import brief
from controlrnn.records import Flag, Number, Numbers, Schema, Text, digest
from controlrnn.systems.ops import Value, initial_state, matrix, ops_for, run_arguments, takes_numpy, to_numpy


class Cell(Choice):
    """Kind of gated cell."""

    LSTM = "lstm"
    GRU = "gru"

    @property
    def gates(self) -> int:
        """Number of stacked gates, candidate included."""
        return 4 if self is Cell.LSTM else 3


_MATRICES = ("W", "U", "b", "C", "by")


@dataclass(frozen=True, kw_only=True, eq=False)
class GatedSystem:
    """A discrete-time gated recurrent system; frozen with numpy arrays, differentiable with torch tensors.

    Args:
        W: Input weights, shape (g n, nu): g gates of n units.
        U: Recurrent weights, shape (g n, n).
        b: Biases, shape (g n,).
        C: Output weights, shape (ny, n).
        by: Output bias, shape (ny,).
        cell: Kind of cell.
        feedthrough: Whether ``y[t]`` is computed from the next state, which depends on ``u[t]``.
        dt: Sample time [s].

    Raises:
        ShapeError: The matrices do not fit together.
        DataError: A frozen matrix is not finite.
    """

    KIND: ClassVar[str] = "gated-system"
    ADVICE: ClassVar[str] = (
        "a gated network (LSTM, GRU) is no Lur'e system; it has certify_delta_iss and exports. For the other "
        "certificates and for predictors identify a Lur'e model, e.g. ContractingR2DN"
    )
    SCHEMA: ClassVar[Schema] = Schema(
        KIND, 2,
        arrays={
            "W": Numbers("gates", "nu"), "U": Numbers("gates", "n"), "b": Numbers("gates"), "C": Numbers("ny", "n"),
            "by": Numbers("ny"),
        },
        meta={"cell": Text(choices=Cell), "feedthrough": Flag(), "dt": Number(above=0.0)}, zero=("nu",),
    )  # fmt: skip

    W: Value
    U: Value
    b: Value
    C: Value
    by: Value
    cell: Cell
    feedthrough: bool = False
    dt: float

    __repr__ = brief

    def __post_init__(self) -> None:
        dt = positive("dt", self.dt, what="a positive sample time in seconds")
        put(self, cell=Cell(self.cell), dt=dt, feedthrough=flag("feedthrough", self.feedthrough))
        put(self, **{name: matrix(name, getattr(self, name)) for name in _MATRICES})
        if len(self.W.shape) != 2 or len(self.C.shape) != 2:
            raise ShapeError(f"W (g n, nu) and C (ny, n) fix the sizes, got {self.W.shape} and {self.C.shape}")
        rows = self.cell.gates * self.units
        shapes: dict[str, tuple[int, ...]] = {
            "W": (rows, self.nu),
            "U": (rows, self.units),
            "b": (rows,),
            "C": (self.ny, self.units),
            "by": (self.ny,),
        }
        for name, shape in shapes.items():
            value = getattr(self, name)
            if isinstance(value, np.ndarray):
                put(self, **{name: read_only(as_array(name, value, shape, hint=f"{self.cell}, {self.units} units"))})
            elif tuple(value.shape) != shape:
                raise ShapeError(f"{name} must have shape {shape}, got {tuple(value.shape)}: {self.units} units")

    @property
    def units(self) -> int:
        """Number of hidden units n."""
        return int(self.C.shape[1])

    @property
    def nx(self) -> int:
        """Number of states: those of h, for the LSTM also those of c."""
        return self.units * (2 if self.cell is Cell.LSTM else 1)

    @property
    def nu(self) -> int:
        """Number of inputs."""
        return int(self.W.shape[1])

    @property
    def ny(self) -> int:
        """Number of outputs."""
        return int(self.C.shape[0])

    @property
    def is_frozen(self) -> bool:
        """Whether the matrices are read-only numpy arrays."""
        return isinstance(self.W, np.ndarray)

    @property
    def has_feedthrough(self) -> bool:
        """Whether ``y[t]`` depends on ``u[t]``."""
        return self.feedthrough

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that defines a frozen system; two systems with the same digest behave identically."""
        arrays, meta = self.record()
        return digest(arrays, {"kind": self.KIND, **meta})

    def step(self, x: Value, u: Value) -> Value:
        """Next state (..., nx) from state x (..., nx) and input u (..., nu); see `LureSystem.step`."""
        if takes_numpy(self, x, u):
            return evaluated(self._step, x=rows("x", x, self.nx), u=rows("u", u, self.nu))
        return self._step(x, u)

    def _step(self, x: Value, u: Value) -> Value:
        """Next state as `step`, unchecked."""
        return self.advance(x, u @ self.W.T + ops_for(x).row(self.b))

    def output(self, x: Value, u: Value) -> Value:
        """Output (..., ny) at state x (..., nx) and input u (..., nu); see `LureSystem.step`."""
        if takes_numpy(self, x, u):
            return evaluated(self._output, x=rows("x", x, self.nx), u=rows("u", u, self.nu))
        return self._output(x, u)

    def _output(self, x: Value, u: Value) -> Value:
        """Output as `output`, unchecked."""
        ops = ops_for(x)
        state = self._step(x, u) if self.feedthrough else x
        return ops.columns(state, 0, self.units) @ self.C.T + ops.row(self.by)

    def simulate(self, u: Value, x0: Value = None) -> tuple[Value, Value]:
        """Simulate a free run: outputs (..., T, ny) and states (..., T + 1, nx); see `LureSystem.simulate`.

        Raises:
            ShapeError: ``u`` or ``x0`` does not fit.
        """
        u, x0 = run_arguments(self, u, x0)
        x = initial_state(self, u, x0)
        drive, states = u @ self.W.T + self.b, [x]  # the inputs' part of all samples in one product
        for driven in ops_for(drive).samples(drive):
            x = self.advance(x, driven)
            states.append(x)
        path = ops_for(u).stack(states)
        return self.read(path), path

    def read(self, path: Value) -> Value:
        """Outputs (..., T, ny) along the states (..., T + 1, nx) of a run, unchecked."""
        read = path[..., 1:, : self.units] if self.feedthrough else path[..., :-1, : self.units]
        return read @ self.C.T + self.by

    def scaled(self, inputs: Scaler, outputs: Scaler) -> GatedSystem:
        """Convert a frozen system of scaled signals to physical units; the state keeps its coordinates."""
        W = self.W / inputs.scale
        C, by = self.C * outputs.scale[:, None], self.by * outputs.scale + outputs.shift
        return replace(self, W=W, b=self.b - product(W, inputs.shift), C=C, by=by)

    def frozen(self) -> GatedSystem:
        """Copy of the system with float64 arrays instead of tensors."""
        return replace(self, **{name: to_numpy(getattr(self, name)) for name in _MATRICES})

    def record(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON values that define a frozen system."""
        if not self.is_frozen:
            raise SettingError("only a frozen system has a digest and can be stored: call model.freeze() first")
        meta = {"cell": str(self.cell), "feedthrough": self.feedthrough, "dt": self.dt}
        return {name: getattr(self, name) for name in _MATRICES}, meta

    @classmethod
    def from_record(cls, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> GatedSystem:
        """Restore a system from what `record` returned."""
        matrices = {name: arrays[name] for name in _MATRICES}
        return cls(**matrices, cell=Cell(meta["cell"]), feedthrough=meta["feedthrough"], dt=meta["dt"])

    def advance(self, x: Value, drive: Value) -> Value:
        """Next state from x (..., nx) and the inputs' part of the gates, ``drive = W u + b`` (..., g n), unchecked."""
        ops, n = ops_for(x), self.units
        h = ops.columns(x, 0, n)
        if self.cell is Cell.GRU:
            # The candidate reads r h, so its gate cannot be stacked with the other two.
            gates = ops.sigmoid(ops.columns(drive, 0, 2 * n) + h @ self.U[: 2 * n].T)
            r, z = ops.columns(gates, 0, n), ops.columns(gates, n, 2 * n)
            candidate = ops.tanh(ops.columns(drive, 2 * n, 3 * n) + (r * h) @ self.U[2 * n :].T)
            return (1 - z) * candidate + z * h
        v = drive + h @ self.U.T
        gates = ops.sigmoid(ops.columns(v, 0, 3 * n))
        i, f, o = (ops.columns(gates, k * n, (k + 1) * n) for k in range(3))
        c = f * ops.columns(x, n, 2 * n) + i * ops.tanh(ops.columns(v, 3 * n, 4 * n))
        return ops.join([o * ops.tanh(c), c])
