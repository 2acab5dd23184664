"""Base class of recurrent equilibrium networks (REN): the map from free parameters to the explicit system.

Revay, Wang, Manchester, "Recurrent equilibrium networks: flexible dynamic models with guaranteed stability and
robustness", IEEE TAC 2023, eqs. 20-33, with acyclic D11 (strictly lower triangular: one neuron a layer). A positive
definite

    H = [H11 .   .  ]     P = H33,  F = H31,  B1i = H32,  C1i = -H21,  E = (H11 + P / rate^2 + h (Y - Y')) / 2,
        [H21 H22 .  ]     L = diag(H22) / 2,   D11i = -tril(H22, -1)
        [H31 H32 H33]

gives A = E^-1 F, B1 = E^-1 B1i, C1 = L^-1 C1i, D11 = L^-1 D11i, and storage |dx|^2 in E'P^-1E with multipliers L prove
contraction; h is the size of H, so that Y counts relative to it. The kinds of REN differ only in what they add to a
free H: nothing for contraction, a term for a supply rate.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from controlrnn.checks import Array, size
from controlrnn.models.base import Model, lure
from controlrnn.models.parts.contracting_linear import checked_rate
from controlrnn.models.parts.definite import PositiveDefinite
from controlrnn.models.parts.draws import generator, normal
from controlrnn.models.parts.guarantee import Promise, metric_of
from controlrnn.systems import Activation, LureSystem
from controlrnn.typed import typed


@dataclass(frozen=True, eq=False)
class Implicit:
    """Implicit matrices of a REN; ``L`` (nv,) is the diagonal of a matrix."""

    E: Tensor
    F: Tensor
    P: Tensor
    B1: Tensor
    C1: Tensor
    D11: Tensor
    L: Tensor


class REN(Model):
    """Base class of `ContractingREN`, `LipschitzREN` and `DissipativeREN`.

    Args:
        nu: Number of inputs.
        ny: Number of outputs.
        nx: Number of states.
        nv: Number of neurons.
        rate: Contraction rate in (0, 1].
        activation: Activation; its slope must lie in [0, 1].
        feedthrough: Whether ``y[t]`` may depend on ``u[t]``; without it D21 = D22 = 0.
        dt: Sample time [s].
        seed: Seed of the initial parameters.
    """

    @typed()
    def __init__(
        self,
        *,
        nu: int,
        ny: int,
        nx: int,
        nv: int,
        rate: float,
        activation: Activation | str,
        feedthrough: bool,
        dt: float,
        seed: int,
    ) -> None:
        super().__init__(nu=nu, ny=ny, nx=nx, dt=dt)
        self.nv = size("nv", nv)
        self.rate = checked_rate(rate)
        self.activation = Activation(activation)
        self.seed = int(seed)
        rng = generator(seed)
        self.H = PositiveDefinite(2 * nx + nv)
        self.Y = nn.Parameter(torch.zeros(nx, nx))
        self.C2 = normal(rng, ny, nx, std=nx**-0.5)
        self.D21 = nn.Parameter(torch.zeros(ny, nv)) if feedthrough else None
        self.bx = nn.Parameter(torch.zeros(nx))
        self.bv = normal(rng, nv, std=0.3)
        self.by = nn.Parameter(torch.zeros(ny))

    @abstractmethod
    def _added(self) -> Tensor | None:
        """Term that this kind of REN adds to the free H, shape (2 nx + nv, 2 nx + nv); None for zero."""

    @abstractmethod
    def _input_maps(self, implicit: Implicit) -> tuple[Tensor, Tensor, Tensor | None]:
        """Explicit input maps B2, D12 and D22."""

    def system(self) -> LureSystem:
        """The explicit system, in scaled units."""
        n, nv = self.nx, self.nv
        m = self._implicit()
        B2, D12, D22 = self._input_maps(m)
        AB = torch.linalg.solve(m.E, torch.cat([m.F, m.B1], dim=1))
        return lure(
            A=AB[:, :n],
            B1=AB[:, n:],
            B2=B2,
            bx=self.bx,
            C1=m.C1 / m.L[:, None],
            D11=m.D11 / m.L[:, None],
            D12=D12,
            bv=self.bv,
            C2=self.C2,
            D21=self.D21,
            D22=D22,
            by=self.by,
            activation=self.activation,
            layers=(1,) * nv,
            dt=self.dt,
        )

    def _drive(self) -> Array:
        """Random map C1 (nv, nx) from the state to the neurons, for a start at a linear model."""
        rng = generator(self.seed + 1)
        C1: Array = torch.randn(self.nv, self.nx, generator=rng, dtype=torch.float64).numpy() * self.nx**-0.5
        return C1

    def _implicit(self) -> Implicit:
        """Implicit matrices, read from the blocks of H; see the module docstring."""
        n, k = self.nx, self.nx + self.nv
        H, Y = self.H.plus(self._added()), self.H.size * (self.Y - self.Y.T)
        P, H22 = H[k:, k:], H[n:k, n:k]
        E = 0.5 * (H[:n, :n] + P / self.rate**2 + Y)
        return Implicit(E, H[k:, :n], P, H[k:, n:k], -H[n:k, :n], -torch.tril(H22, -1), 0.5 * H22.diagonal())

    def _promise(self) -> Promise:
        m = self._implicit()
        return Promise(metric_of(m.E, m.P), m.L, self.rate)
