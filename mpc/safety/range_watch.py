"""Check that operation stays in the declared ranges of laws: the premise on which a grey box is its physics.

Outside of its range a law goes on as a straight line (`controlrnn.systems.laws`). All certificates hold there too:
they are about the system. That the system is the plant's physics, and errors are as calibrated, does not. So a sample
whose estimate and input take an argument out of its range contradicts a premise. The model's state then runs on as
another system than the plant, and what that leaves is forgotten as what an unknown input leaves is: the estimate is
treated as if nobody knew the input of that sample (`mpc.observers.straying`; docs/theory/grey_boxes.md).
"""

from __future__ import annotations

import numpy as np

from controlrnn.checks import Array, read_only
from controlrnn.kernels import rollout
from controlrnn.kernels.dense import product
from controlrnn.systems import Laws, LureSystem
from mpc.c_tables import RangeTable

EDGE = 1e-9  # of a range: an argument at its very end is inside


class RangeWatch:
    """Checks the arguments of curved laws at a state and an input.

    Saturations, dead zones, straight lines and laws without a range are exact everywhere.

    Args:
        system: The model of a controller's plans.
    """

    def __init__(self, system: LureSystem) -> None:
        laws = system.activation if isinstance(system.activation, Laws) else None
        self._neurons = [] if laws is None else laws.neurons
        self._places = [i for i, neuron in enumerate(self._neurons) if neuron.law.is_curved]
        ends = np.array([(self._neurons[i].low, self._neurons[i].high) for i in self._places]).reshape(-1, 2)
        room = EDGE * (ends[:, 1] - ends[:, 0])
        self._system = system
        self._table = RangeTable(
            matrix=read_only(np.hstack([system.C1, system.D12, system.D11])[self._places]),
            bias=read_only(system.bv[self._places]),
            least=read_only(ends[:, 0] - room),
            most=read_only(ends[:, 1] + room),
        )

    def check(self, x: Array, u: Array) -> str:
        """Text of the argument that is furthest out of its range; empty where all are inside.

        Args:
            x: State, shape (nx,).
            u: Input that acts from this sample on, shape (nu,).
        """
        if not self._places:
            return ""
        table = self._table
        v = product(table.matrix, np.concatenate([x, u, rollout(self._system, u[None], x).w[0]])) + table.bias
        inside = (v >= table.least) & (v <= table.most)  # NaN is outside
        if inside.all():
            return ""
        out = np.maximum(table.least - v, v - table.most) / (table.most - table.least)
        i = int(np.argmax(np.where(inside, -np.inf, np.nan_to_num(out, nan=np.inf))))
        place, many = self._places[i], int(np.sum(~inside))
        neuron, more = self._neurons[place], f" (and {many - 1} more)" if many > 1 else ""
        return (
            f"{neuron.law} of neuron {place} is at {v[i]:.4g}, declared for {neuron.low:.4g} to {neuron.high:.4g}{more}"
        )

    def c_table(self) -> RangeTable | None:
        """Numbers that C code needs; None where no law has a range to leave."""
        return self._table if self._places else None
