"""Contracting implicit RNN (ci-RNN): a plain recurrent network with an implicit weight, contracting by construction.

Revay & Manchester, "Contracting implicit recurrent neural networks", L4DC 2020:

    E x+ = s(H x + K u + b),   y = C x + d,      [E + E' - P / rate^2, H'; H, P] > 0,   P diagonal

The paper keeps the inequality by a barrier. It has a direct parameterisation (ours): with P = diag(exp p), a free G > 0
(`PositiveDefinite`) with G = L L', a free skew Y and a matrix N of norm below one (`StrictContraction`),

    E = (G + P / rate^2 + Y - Y') / 2,   H = P^1/2 N L'.

Then |E dx+|^2 in P^-1 is at most |H dx|^2 in P^-1 < dx'G dx <= rate^2 |E dx|^2 in P^-1, with multipliers P^-1.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from controlrnn.models.base import Model, lure
from controlrnn.models.parts.contracting_linear import checked_rate, slow_poles
from controlrnn.models.parts.definite import PositiveDefinite
from controlrnn.models.parts.draws import generator, uniform
from controlrnn.models.parts.guarantee import Promise
from controlrnn.models.parts.strict_contraction import StrictContraction
from controlrnn.systems import Activation, LureSystem
from controlrnn.typed import typed


class ContractingImplicitRNN(Model):
    """Contracting implicit recurrent network; as a Lur'e system A = 0, B1 = E^-1, C1 = H.

    Starts at x+ = s(F x + ...) with a diagonal F of time constants of 5 to 50 samples.

    Args:
        nu: Number of inputs.
        ny: Number of outputs.
        nx: Number of states, which are the neurons.
        rate: Contraction rate in (0, 1].
        activation: Activation function s; its slope must lie in [0, 1].
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
        rate: float = 1.0,
        activation: Activation | str = Activation.TANH,
        dt: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(nu=nu, ny=ny, nx=nx, dt=dt)
        self.rate = checked_rate(rate)
        self.activation = Activation(activation)
        rng = generator(seed)
        self.G = PositiveDefinite(nx)
        self.p = nn.Parameter(torch.zeros(nx))
        self.Y = nn.Parameter(torch.zeros(nx, nx))
        self.N = StrictContraction(nx, nx)
        self.K = uniform(rng, nx, nu, bound=nx**-0.5)
        self.b = uniform(rng, nx, bound=nx**-0.5)
        self.C = uniform(rng, ny, nx, bound=nx**-0.5)
        self.d = nn.Parameter(torch.zeros(ny))
        # P = rate^2 and G = 1 give E = 1, so that H = rate N is the state map.
        with torch.no_grad():
            self.p.fill_(2 * torch.tensor(self.rate).log())
        self.N.start_at(slow_poles(nx, self.rate, rng) / self.rate)

    def system(self) -> LureSystem:
        """The explicit system, in scaled units."""
        E, H, _ = self._implicit()
        inverse = torch.linalg.inv(E)
        return lure(
            A=torch.zeros_like(inverse),
            B1=inverse,
            B2=torch.zeros_like(self.K),
            C1=H,
            D12=self.K,
            bv=self.b,
            C2=self.C,
            by=self.d,
            activation=self.activation,
            layers=(self.nx,),
            dt=self.dt,
        )

    def _implicit(self) -> tuple[Tensor, Tensor, Tensor]:
        """Implicit matrices E and H, and the diagonal of P."""
        # Limited, so that the optimiser cannot make P singular.
        G, p = self.G.matrix(), torch.exp(self.p.clamp(-10.0, 10.0))
        E = 0.5 * (G + torch.diag(p / self.rate**2) + self.Y - self.Y.T)
        return E, p.sqrt()[:, None] * self.N.matrix() @ torch.linalg.cholesky(G).T, p

    def _promise(self) -> Promise:
        E, _, p = self._implicit()
        return Promise(E.T @ (E / p[:, None]), 1 / p, self.rate)
