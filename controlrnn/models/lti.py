"""Linear time-invariant model that contracts for every parameter value: the linear baseline.

x+ = A x + B u + bx,   y = C x + D u + by      with A from `ContractingLinear`
"""

from __future__ import annotations

import torch
from torch import nn

from controlrnn.checks import Array
from controlrnn.models.base import Model, lure
from controlrnn.models.parts.contracting_linear import ContractingLinear
from controlrnn.models.parts.draws import generator, normal
from controlrnn.models.parts.guarantee import Promise, metric_of
from controlrnn.models.parts.linear_start import balancing, put_linear
from controlrnn.systems import LureSystem
from controlrnn.typed import typed


class LTI(Model):
    """Contracting linear time-invariant model.

    Args:
        nu: Number of inputs.
        ny: Number of outputs.
        nx: Number of states.
        rate: Contraction rate in (0, 1].
        feedthrough: Whether ``y[t]`` may depend on ``u[t]``; leave off for sampled plants with a held input.
        dt: Sample time [s].
        seed: Seed of the initial parameters.
    """

    @typed()
    def __init__(
        self, *, nu: int, ny: int, nx: int, rate: float = 1.0, feedthrough: bool = False, dt: float = 1.0, seed: int = 0
    ) -> None:
        super().__init__(nu=nu, ny=ny, nx=nx, dt=dt)
        rng = generator(seed)
        self.core = ContractingLinear(nx, rate, rng)
        self.rate = self.core.rate
        self.B2 = normal(rng, nx, nu, std=0.3 * nu**-0.5)
        self.C2 = normal(rng, ny, nx, std=nx**-0.5)
        self.D22 = nn.Parameter(torch.zeros(ny, nu)) if feedthrough else None
        self.bx = nn.Parameter(torch.zeros(nx))
        self.by = nn.Parameter(torch.zeros(ny))

    def system(self) -> LureSystem:
        """The explicit system, in scaled units."""
        E, F, _ = self.core.implicit()
        A = torch.linalg.solve(E, F)
        return lure(A=A, B2=self.B2, bx=self.bx, C2=self.C2, D22=self.D22, by=self.by, dt=self.dt)

    def _promise(self) -> Promise:
        E, _, P = self.core.implicit()
        return Promise(metric_of(E, P), E.new_zeros(0), self.core.rate)

    @typed()
    @balancing
    def start_linear(self, A: Array, B: Array, C: Array, D: Array | None = None) -> None:
        """Start at the linear model (A, B, C, D), given in scaled units; see `put_linear`."""
        put_linear(self, self.core.start_at(A), B, C, D)
