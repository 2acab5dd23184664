"""Lur'e systems: a linear system in feedback with a slope-restricted static nonlinearity.

    x+ = A x + B1 w + B2 u + bx          nx states, nu inputs, ny outputs, nv neurons
    v  = C1 x + D11 w + D12 u + bv       D11 strictly block lower triangular, blocks = layers
    w  = s(v)                            elementwise, each neuron with its own law where they differ
    y  = C2 x + D21 w + D22 u + by

Every robust recurrent network of the papers is of this form: an Elman network has ``A = 0, B1 = I, D11 = 0``; an
acyclic REN has layers of one neuron; an R2DN folds its feed-forward network into C1, D11, B1, D21.
(Revay, Wang, Manchester, "Recurrent equilibrium networks", IEEE TAC 2023, eqs. 1-3; here with an explicit D11.)
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import as_array, count, evaluated, items, positive, put, read_only, rows
from controlrnn.data.scaling import Scaler
from controlrnn.errors import FileFormatError, SettingError, ShapeError
from controlrnn.portable import product
from controlrnn.printing import brief
from controlrnn.records import Count, ListOf, Number, Numbers, Schema, Text, digest
from controlrnn.systems.activations import Activation
from controlrnn.systems.laws import Law, Laws, Neuron
from controlrnn.systems.ops import Value, initial_state, matrix, ops_for, run_arguments, takes_numpy, to_numpy

MATRICES = ("A", "B1", "B2", "bx", "C1", "D11", "D12", "bv", "C2", "D21", "D22", "by")
# One activation for all neurons, or law:number for each run of neurons.
_RUN = f"(?:{'|'.join(Law)}):[1-9][0-9]{{0,8}}"
_ACTIVATION = Text(
    most=1_000_000,
    pattern=re.compile(f"{'|'.join(Activation)}|{_RUN}(?: {_RUN})*"),
    form=f"one of {', '.join(Activation)}, or law:number for each run of neurons with a law of {', '.join(Law)}",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class LureSystem:
    """Discrete-time linear system in feedback with an elementwise nonlinearity of restricted slope.

    Every frozen model is one::

        x+ = A x + B1 w + B2 u + bx,    v = C1 x + D11 w + D12 u + bv,    w = s(v),    y = C2 x + D21 w + D22 u + by

    With numpy arrays it is *frozen*: float64 copies that cannot be written to, and a `digest` that certificates refer
    to. With torch tensors it is the differentiable form that `model.system()` returns; gradients flow through.

    Args:
        A: Shape (nx, nx).
        B1: Shape (nx, nv).
        B2: Shape (nx, nu).
        bx: Shape (nx,).
        C1: Shape (nv, nx).
        D11: Shape (nv, nv), zero on and above the block diagonal of ``layers``.
        D12: Shape (nv, nu).
        bv: Shape (nv,).
        C2: Shape (ny, nx).
        D21: Shape (ny, nv).
        D22: Shape (ny, nu).
        by: Shape (ny,).
        activation: Activation function s of all neurons, or `Laws` with one law for each.
        layers: Sizes of the blocks of D11, in order of evaluation; they add up to nv.
        dt: Sample time [s].

    Raises:
        ShapeError: The matrices do not fit together.
        DataError: A frozen matrix is not finite.
        SettingError: ``layers`` does not add up, or D11 has an entry that would make the system implicit.
    """

    # Set by models whose layers form a feedforward network (`controlrnn.models.base.lure`): the first alone reads
    # states and inputs, every other one the layer before it, and states and outputs read the last. Entries elsewhere
    # are zero and get no gradient. What `replace` makes of such a system does not say so: then all entries get one.
    feedforward: ClassVar[bool] = False
    KIND: ClassVar[str] = "lure-system"
    SCHEMA: ClassVar[Schema] = Schema(
        KIND, 2,
        arrays={
            "A": Numbers("nx", "nx"), "B1": Numbers("nx", "nv"), "B2": Numbers("nx", "nu"), "bx": Numbers("nx"),
            "C1": Numbers("nv", "nx"), "D11": Numbers("nv", "nv"), "D12": Numbers("nv", "nu"), "bv": Numbers("nv"),
            "C2": Numbers("ny", "nx"), "D21": Numbers("ny", "nv"), "D22": Numbers("ny", "nu"), "by": Numbers("ny"),
            "laws": Numbers("nv", 3, optional=True),
        },
        meta={
            "activation": _ACTIVATION, "layers": ListOf(Count(1)),
            "dt": Number(above=0.0),
        },
        zero=("nu", "nv"),
    )  # fmt: skip

    A: Value
    B1: Value
    B2: Value
    bx: Value
    C1: Value
    D11: Value
    D12: Value
    bv: Value
    C2: Value
    D21: Value
    D22: Value
    by: Value
    activation: Activation | Laws = Activation.TANH
    layers: tuple[int, ...]
    dt: float

    __repr__ = brief

    def __post_init__(self) -> None:
        layers = tuple(count("layers", n, least=0) for n in items("layers", self.layers, object))
        dt = positive("dt", self.dt, what="a positive sample time in seconds")
        put(self, activation=_activation(self.activation), layers=layers, dt=dt)
        put(self, **{name: matrix(name, getattr(self, name)) for name in MATRICES})
        # The sizes are read off these three, so their axes are checked first.
        if len(self.B1.shape) != 2 or len(self.B2.shape) != 2 or len(self.by.shape) != 1:
            raise ShapeError(
                "B1 (nx, nv), B2 (nx, nu) and by (ny,) fix the sizes, got shapes "
                f"{self.B1.shape}, {self.B2.shape} and {self.by.shape}"
            )
        shapes = _shapes(self.nx, self.nu, self.ny, self.nv)
        for name, shape in shapes.items():
            value = getattr(self, name)
            if isinstance(value, np.ndarray):
                put(self, **{name: read_only(as_array(name, value, shape, hint=f"(nx, nu, ny, nv) = {self.sizes}"))})
            elif tuple(value.shape) != shape:
                raise ShapeError(
                    f"{name} must have shape {shape}, got {tuple(value.shape)}: (nx, nu, ny, nv) = {self.sizes}"
                )
        if any(n < 1 for n in self.layers) or sum(self.layers) != self.nv:
            raise SettingError(f"layers must be positive and add up to nv = {self.nv}, got {self.layers}")
        if isinstance(self.activation, Laws) and len(self.activation) != self.nv:
            raise SettingError(
                f"activation must give one law for each of nv = {self.nv} neurons, got {len(self.activation)}"
            )
        if self.is_frozen and any(self.D11[a:b, a:].any() for a, b in self.blocks):
            raise SettingError("D11 must be zero on and above its block diagonal: reorder the neurons or their layers")

    @property
    def nx(self) -> int:
        """Number of states."""
        return int(self.B1.shape[0])

    @property
    def nu(self) -> int:
        """Number of inputs."""
        return int(self.B2.shape[1])

    @property
    def ny(self) -> int:
        """Number of outputs."""
        return int(self.by.shape[0])

    @property
    def nv(self) -> int:
        """Number of neurons."""
        return int(self.B1.shape[1])

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Sizes (nx, nu, ny, nv)."""
        return self.nx, self.nu, self.ny, self.nv

    @cached_property
    def blocks(self) -> tuple[tuple[int, int], ...]:
        """First and one past the last neuron (start, stop) of each layer."""
        return tuple(pairwise(np.cumsum([0, *self.layers]).tolist()))

    @property
    def is_frozen(self) -> bool:
        """Whether the matrices are read-only numpy arrays."""
        return isinstance(self.A, np.ndarray)

    @cached_property
    def has_feedthrough(self) -> bool:
        """Whether ``y[t]`` depends on ``u[t]``, judged by which entries of the matrices are exactly zero."""
        if bool((self.D22 != 0).any()):
            return True
        if not self.nv:
            return False
        D11, D12, D21 = (to_numpy(part) != 0 for part in (self.D11, self.D12, self.D21))
        driven = D12.any(axis=1)  # neurons that the input reaches: directly, then through earlier layers
        for start, stop in self.blocks[1:]:
            driven[start:stop] |= (D11[start:stop, :start] & driven[:start]).any(axis=1)
        return bool(D21[:, driven].any())

    @cached_property
    def digest(self) -> str:
        """SHA-256 of everything that defines a frozen system; two systems with the same digest behave identically."""
        return digest(*self.record())

    def record(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON values that define a frozen system."""
        if not self.is_frozen:
            raise SettingError("only a frozen system has a digest and can be stored: call model.freeze() first")
        meta = {"activation": str(self.activation), "layers": list(self.layers), "dt": self.dt}
        arrays = {name: getattr(self, name) for name in MATRICES}
        if isinstance(self.activation, Laws):
            arrays["laws"] = self.activation.parameters
        return arrays, meta

    @classmethod
    def from_record(cls, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> LureSystem:
        """Restore a system from what `record` returned."""
        matrices = {name: arrays[name] for name in MATRICES}
        activation = _activation_of(meta["activation"], arrays.get("laws"))
        return cls(**matrices, activation=activation, layers=tuple(meta["layers"]), dt=meta["dt"])

    def frozen(self) -> LureSystem:
        """Copy of the system with float64 arrays instead of tensors."""
        return replace(self, **{name: to_numpy(getattr(self, name)) for name in MATRICES})

    def neurons(self, x: Value, drive: Value) -> Value:
        """Neuron outputs w (..., nv) from states x (..., nx) and ``drive = D12 u + bv`` (..., nv)."""
        if takes_numpy(self, x, drive):
            return evaluated(self._neurons, x=rows("x", x, self.nx), drive=rows("drive", drive, self.nv))
        return self._neurons(x, drive)

    def _neurons(self, x: Value, drive: Value) -> Value:
        """Neuron outputs as `neurons`, unchecked."""
        ops = ops_for(drive)
        v = x @ self.C1.T + drive
        outputs: list[Value] = []
        for start, stop in self.blocks:  # layer by layer: each reads the outputs of those before it
            layer = ops.columns(v, start, stop)
            if outputs:
                layer = layer + ops.join(outputs) @ self.D11[start:stop, :start].T
            if isinstance(self.activation, Laws):
                outputs.append(self.activation.apply(ops, layer, start, stop))
            else:
                outputs.append(self.activation.apply(ops, layer))
        return ops.join(outputs) if outputs else v

    def step(self, x: Value, u: Value) -> Value:
        """Next state (..., nx) from state x (..., nx) and input u (..., nu); numpy, torch, or CasADi rows (1, n).

        Raises:
            ShapeError: An array does not fit.
            DataError: An array of numpy, or the result, is not finite.
        """
        if takes_numpy(self, x, u):
            return evaluated(self._step, x=rows("x", x, self.nx), u=rows("u", u, self.nu))
        return self._step(x, u)

    def _step(self, x: Value, u: Value) -> Value:
        """Next state as `step`, unchecked."""
        ops = ops_for(x)
        w = self._neurons(x, u @ self.D12.T + ops.row(self.bv))
        return x @ self.A.T + w @ self.B1.T + u @ self.B2.T + ops.row(self.bx)

    def output(self, x: Value, u: Value) -> Value:
        """Output (..., ny) at state x (..., nx) and input u (..., nu); backends and errors as in `step`."""
        if takes_numpy(self, x, u):
            return evaluated(self._output, x=rows("x", x, self.nx), u=rows("u", u, self.nu))
        return self._output(x, u)

    def _output(self, x: Value, u: Value) -> Value:
        """Output as `output`, unchecked."""
        ops = ops_for(x)
        w = self._neurons(x, u @ self.D12.T + ops.row(self.bv))
        return x @ self.C2.T + w @ self.D21.T + u @ self.D22.T + ops.row(self.by)

    def simulate(self, u: Value, x0: Value = None) -> tuple[Value, Value]:
        """Simulate a free run.

        Args:
            u: Inputs, shape (T, nu) or (B, T, nu).
            x0: Initial state, shape (nx,) or (B, nx); zero when left out.

        Returns:
            ``(y, x)``: outputs (..., T, ny) and states (..., T + 1, nx); ``x[..., t, :]`` is the state at sample t, the
            last one follows the last input, so that a run can be continued from it.

        Raises:
            ShapeError: ``u`` or ``x0`` does not fit.
            DataError: ``u`` or ``x0`` is an array of numpy and not finite. (A run that diverges raises nothing: its
                result is not finite.)
        """
        u, x0 = run_arguments(self, u, x0)
        x = initial_state(self, u, x0)
        ops = ops_for(u)
        # The inputs' part of all samples in one product each; only the recursion is left for the loop.
        drive, push = u @ self.D12.T + self.bv, u @ self.B2.T + self.bx
        states, outputs = [x], []
        for driven, pushed in zip(ops.samples(drive), ops.samples(push), strict=True):
            w = self._neurons(x, driven)
            x = x @ self.A.T + w @ self.B1.T + pushed
            states.append(x)
            outputs.append(w)
        path = ops.stack(states)
        y = path[..., :-1, :] @ self.C2.T + ops.stack(outputs) @ self.D21.T + u @ self.D22.T + self.by
        return y, path

    def scaled(self, inputs: Scaler, outputs: Scaler) -> LureSystem:
        """Convert a frozen system of signals scaled by ``inputs`` and ``outputs`` to physical units.

        The state keeps its coordinates.
        """
        # Put u_scaled = (u - shift) / scale into the equations, scale y back; `product` has the same bits everywhere.
        gain = 1.0 / inputs.scale
        B2, D12, D22 = self.B2 * gain, self.D12 * gain, self.D22 * gain * outputs.scale[:, None]
        return replace(
            self,
            B2=B2,
            D12=D12,
            D22=D22,
            bx=self.bx - product(B2, inputs.shift),
            bv=self.bv - product(D12, inputs.shift),
            C2=self.C2 * outputs.scale[:, None],
            D21=self.D21 * outputs.scale[:, None],
            by=self.by * outputs.scale + outputs.shift - product(D22, inputs.shift),
        )

    def with_states_in(self, states: Scaler) -> LureSystem:
        """Convert a frozen system whose states are scaled by ``states`` to states in physical units."""
        # Put x_scaled = (x - shift) / scale into the equations, scale x+ back.
        A, C1, C2 = (M * (1.0 / states.scale) for M in (self.A, self.C1, self.C2))
        A, rows = A * states.scale[:, None], states.scale[:, None]
        return replace(
            self,
            A=A,
            B1=self.B1 * rows,
            B2=self.B2 * rows,
            bx=self.bx * states.scale + states.shift - product(A, states.shift),
            C1=C1,
            bv=self.bv - product(C1, states.shift),
            C2=C2,
            by=self.by - product(C2, states.shift),
        )

    def _initial_state(self, u: Value, x0: Value) -> Value:
        """Initial state of a run; see `controlrnn.systems.ops.initial_state`."""
        return initial_state(self, u, x0)


def _activation(value: Any) -> Activation | Laws:
    """The activation of a system; laws that are all one activation are that activation, so that digests agree."""
    if isinstance(value, Laws):
        return value.alike or value
    if isinstance(value, str | Activation) and str(value) not in set(Activation) and str(value) in set(Law):
        raise SettingError(f"{value} is the law of single neurons, got it for all: give Laws with their ranges")
    return Activation(value)


def _activation_of(words: str, parameters: NDArray[Any] | None) -> Activation | Laws:
    """Restore what `LureSystem.record` returned."""
    if ":" not in words:
        if parameters is not None:
            raise FileFormatError(f"laws belong to neurons that differ, got them with the activation {words!r}")
        return Activation(words)
    runs = [(Law(law), int(n)) for law, _, n in (one.partition(":") for one in words.split())]
    if parameters is None or sum(n for _, n in runs) != len(parameters):
        raise FileFormatError(f"laws must have one row for each neuron of {words[:80]!r}")
    laws = [law for law, n in runs for _ in range(n)]
    made = Laws(Neuron(law, *row) for law, row in zip(laws, parameters.tolist(), strict=True))
    if str(made) != words:
        raise FileFormatError(f"activation must name each run of equal laws once, got {words[:80]!r}")
    return made


def _shapes(nx: int, nu: int, ny: int, nv: int) -> dict[str, tuple[int, ...]]:
    """Shapes of `MATRICES` by name."""
    return {
        "A": (nx, nx), "B1": (nx, nv), "B2": (nx, nu), "bx": (nx,),
        "C1": (nv, nx), "D11": (nv, nv), "D12": (nv, nu), "bv": (nv,),
        "C2": (ny, nx), "D21": (ny, nv), "D22": (ny, nu), "by": (ny,),
    }  # fmt: skip
