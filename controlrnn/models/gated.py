"""LSTM and GRU networks, baselines without a guarantee; the equations are those of `GatedSystem`.

Long memory needs the right gate biases: a unit forgets with time constant tau if its forget gate (LSTM), or its update
gate (GRU), is sig(log(tau - 1)) = 1 - 1 / tau. The constants are spread over some 5 to 50 samples (Tallec & Ollivier,
"Can recurrent neural networks warp time?", ICLR 2018); torch's zero biases would forget within two samples.
"""

from __future__ import annotations

import torch
from torch import nn

from controlrnn.checks import size
from controlrnn.models.base import Model
from controlrnn.models.parts.draws import generator, uniform
from controlrnn.systems import Cell, GatedSystem
from controlrnn.typed import typed


class _Gated(Model[GatedSystem]):
    """Base class of `LSTM` and `GRU`."""

    CELL: Cell

    @typed()
    def __init__(self, *, nu: int, ny: int, nx: int, feedthrough: bool = False, dt: float = 1.0, seed: int = 0) -> None:
        units = size("nx", nx)
        super().__init__(nu=nu, ny=ny, nx=units * (2 if self.CELL is Cell.LSTM else 1), dt=dt)
        self.feedthrough = bool(feedthrough)
        rng, rows, bound = generator(seed), self.CELL.gates * units, units**-0.5
        self.W = uniform(rng, rows, nu, bound=bound)
        self.U = uniform(rng, rows, units, bound=bound)
        # Biases log(tau - 1) for time constants tau of 5 to 50 samples.
        memory = torch.log(4 + 45 * torch.rand(units, generator=rng))
        zero = torch.zeros_like(memory)
        # Orders (i, f, o, g) and (r, z, n). The input gate opens by as much as the forget gate closes.
        gates = (-memory, memory, zero, zero) if self.CELL is Cell.LSTM else (zero, memory, zero)
        self.b = nn.Parameter(torch.cat(gates))
        self.C = uniform(rng, ny, units, bound=bound)
        self.by = nn.Parameter(torch.zeros(ny))

    def system(self) -> GatedSystem:
        """The explicit system, in scaled units."""
        return GatedSystem(
            W=self.W, U=self.U, b=self.b, C=self.C, by=self.by, cell=self.CELL, feedthrough=self.feedthrough, dt=self.dt
        )


class LSTM(_Gated):
    """Long short-term memory network (LSTM).

    Args:
        nu: Number of inputs.
        ny: Number of outputs.
        nx: Number of hidden units; the model's and system's own ``nx`` is twice that, the state being (h, c).
        feedthrough: Whether ``y[t]`` may depend on ``u[t]``.
        dt: Sample time [s].
        seed: Seed of the initial parameters.
    """

    CELL = Cell.LSTM


class GRU(_Gated):
    """Network of gated recurrent units (GRU).

    Args:
        nu: Number of inputs.
        ny: Number of outputs.
        nx: Number of hidden units, which are the states.
        feedthrough: Whether ``y[t]`` may depend on ``u[t]``.
        dt: Sample time [s].
        seed: Seed of the initial parameters.
    """

    CELL = Cell.GRU
