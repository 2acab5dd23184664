"""Values of a network's graph as affine maps of its states, inputs and neurons: how a graph becomes a Lur'e system.

Every value (batch, n) is ``[x u w] M' + b`` with the outputs w of all neurons met so far. An elementwise activation
makes new neurons of its argument; their layer lies one above the highest that the argument reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from controlrnn.checks import Array
from controlrnn.systems import Activation, Law, Laws, LureSystem, Neuron


@dataclass(frozen=True, eq=False)
class Affine:
    """A value of the graph.

    Args:
        weight: Shape (n, nx + nu + neurons so far).
        bias: Shape (n,).
    """

    weight: Array
    bias: Array

    @property
    def size(self) -> int:
        """Number n of its entries."""
        return len(self.bias)

    def mapped(self, matrix: Array) -> Affine:
        """The value times a matrix (n, m) from the right."""
        return Affine(matrix.T @ self.weight, self.bias @ matrix)

    def scaled(self, factor: Array) -> Affine:
        """The value times a number, or one for each entry."""
        factor = np.broadcast_to(factor, self.bias.shape)
        return Affine(self.weight * factor[:, None], self.bias * factor)

    def plus(self, other: Affine | Array) -> Affine:
        """The sum with another value, or with numbers."""
        if not isinstance(other, Affine):
            return Affine(self.weight, self.bias + np.broadcast_to(other, self.bias.shape))
        n = max(self.weight.shape[1], other.weight.shape[1])
        return Affine(wide(self.weight, n) + wide(other.weight, n), self.bias + other.bias)

    def cut(self, start: int, stop: int) -> Affine:
        """The entries from ``start`` to before ``stop``."""
        return Affine(self.weight[start:stop], self.bias[start:stop])


@dataclass
class Network:
    """A Lur'e system under construction.

    Args:
        nx: Number of states.
        nu: Number of inputs.
    """

    nx: int
    nu: int
    _arguments: list[Affine] = field(default_factory=list)
    _kinds: list[Activation] = field(default_factory=list)
    _layers: list[int] = field(default_factory=list)

    def state(self) -> Affine:
        """The states."""
        return Affine(np.eye(self.nx, self.nx + self.nu), np.zeros(self.nx))

    def input(self) -> Affine:
        """The inputs."""
        return Affine(np.eye(self.nx + self.nu)[self.nx :], np.zeros(self.nu))

    def neurons(self, kind: Activation, argument: Affine) -> Affine:
        """Outputs of new neurons.

        Args:
            kind: Their activation.
            argument: What it is applied to.
        """
        first, offset = len(self._kinds), self.nx + self.nu
        for i in range(argument.size):
            one = argument.cut(i, i + 1)
            read = np.flatnonzero(one.weight[0, offset:])
            self._arguments.append(one)
            self._layers.append(1 + max((self._layers[k] for k in read), default=0))
        self._kinds += [kind] * argument.size
        columns = np.zeros((argument.size, offset + len(self._kinds)))
        columns[:, offset + first :] = np.eye(argument.size)
        return Affine(columns, np.zeros(argument.size))

    def system(self, next_state: Affine, output: Affine, dt: float) -> LureSystem:
        """The system.

        Args:
            next_state: Value of the next state.
            output: Value of the output.
            dt: Sample time [s].
        """
        nv, nx, at = len(self._kinds), self.nx, self.nx + self.nu
        order = np.argsort(np.array(self._layers, dtype=int), kind="stable")
        sizes = np.bincount(np.array(self._layers, dtype=int), minlength=1)[1:]
        v = joined([Affine(wide(a.weight, at + nv), a.bias) for a in self._arguments], at + nv)
        kinds = [self._kinds[k] for k in order]
        rows = {"v": Affine(v.weight[order], v.bias[order])}
        rows |= {"x": Affine(wide(next_state.weight, at + nv), next_state.bias)}
        rows |= {"y": Affine(wide(output.weight, at + nv), output.bias)}
        parts = {n: (r.weight[:, :nx], r.weight[:, nx:at], r.weight[:, at:][:, order], r.bias) for n, r in rows.items()}
        (C1, D12, D11, bv), (A, B2, B1, bx), (C2, D22, D21, by) = parts["v"], parts["x"], parts["y"]
        laws = Laws(Neuron(Law(str(kind))) for kind in kinds) if kinds else Activation.TANH
        return LureSystem(
            A=A, B1=B1, B2=B2, bx=bx, C1=C1, D11=D11, D12=D12, bv=bv, C2=C2, D21=D21, D22=D22, by=by,
            activation=laws, layers=tuple(int(n) for n in sizes), dt=dt,
        )  # fmt: skip


def joined(values: Sequence[Affine], columns: int) -> Affine:
    """Values after each other.

    Args:
        values: The values; there may be none.
        columns: Number of columns of their weights, at least.
    """
    n = max([columns, *(v.weight.shape[1] for v in values)])
    return Affine(
        np.concatenate([np.zeros((0, n)), *(wide(v.weight, n) for v in values)]),
        np.concatenate([np.zeros(0), *(v.bias for v in values)]),
    )


def wide(weight: Array, n: int) -> Array:
    """A weight with zeros for neurons that came later.

    Args:
        weight: Shape (m, columns so far).
        n: Number of columns.
    """
    return np.pad(weight, ((0, 0), (0, n - weight.shape[1])))
