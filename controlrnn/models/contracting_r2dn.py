"""Contracting R2DN: a linear system around a 1-Lipschitz deep network.

Manchester, Barbara, Wang, "R2DN: scalable parameterization of contracting and Lipschitz recurrent deep networks",
arXiv 2504.01250:

    x+ = A x + B1 z + B2 u + bx,   z = phi(C1 x + D12 u),   y = C2 x + D21 z + D22 u + by

phi is 1-Lipschitz by its sandwich layers. With ``G1 = C1'C1`` and ``G2 = B1i B1i'`` the linear part dissipates
|z|^2 - |C1 x|^2, so the loop contracts for every parameter value. The prescribed rate (E from P / rate^2) is our
consistent extension; the paper has rate = 1. The network's linear maps fold into the Lur'e form.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from controlrnn.checks import Array, size
from controlrnn.errors import SettingError
from controlrnn.models.base import Model, lure
from controlrnn.models.parts.contracting_linear import ContractingLinear
from controlrnn.models.parts.draws import generator, normal
from controlrnn.models.parts.guarantee import Promise, metric_of
from controlrnn.models.parts.linear_start import balancing, put_linear
from controlrnn.models.parts.sandwich import SandwichNetwork
from controlrnn.systems import Activation, LureSystem
from controlrnn.typed import typed


class ContractingR2DN(Model):
    """Contracting recurrent deep network.

    Args:
        nu: Number of inputs.
        ny: Number of outputs.
        nx: Number of states.
        nv: Width of the channel between linear system and network.
        layers: Hidden layers of the network.
        rate: Contraction rate in (0, 1]: the factor per sample by which the distance of two states shrinks at least, in
            the model's own metric.
        activation: Activation of the network; its slope must lie in [0, 1].
        feedthrough: Whether ``y[t]`` may depend on ``u[t]``; leave off for sampled plants with a held input.
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
        nv: int = 8,
        layers: Sequence[int] = (16, 16),
        rate: float = 1.0,
        activation: Activation | str = Activation.TANH,
        feedthrough: bool = False,
        dt: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(nu=nu, ny=ny, nx=nx, dt=dt)
        if not layers:
            raise SettingError("layers must name at least one hidden layer, got none: use LTI for a linear model")
        self.activation = Activation(activation)
        rng = generator(seed)
        self.core = ContractingLinear(nx, rate, rng)
        self.rate = self.core.rate
        self.phi = SandwichNetwork(size("nv", nv), nv, tuple(size("layers", n) for n in layers), rng)
        self.C1 = normal(rng, nv, nx, std=nx**-0.5)
        self.D12 = normal(rng, nv, nu, std=nu**-0.5)
        self.B = nn.Parameter(torch.zeros(nx, nv))
        self.gain: Tensor
        self.register_buffer("gain", torch.ones(()))
        self.B2 = normal(rng, nx, nu, std=0.3 * nu**-0.5)
        self.C2 = normal(rng, ny, nx, std=nx**-0.5)
        self.D21 = nn.Parameter(torch.zeros(ny, nv)) if feedthrough else None
        self.D22 = nn.Parameter(torch.zeros(ny, nu)) if feedthrough else None
        self.bx = nn.Parameter(torch.zeros(nx))
        self.by = nn.Parameter(torch.zeros(ny))
        self._start_at(self._state_map())

    @property
    def B1i(self) -> Tensor:
        """Implicit map of the network's output to the state, B1 = E^-1 B1i, as ``gain`` times a free B.

        A slow state map has a large E; without the gain an optimiser with the same step size for all parameters would
        hardly move B1.
        """
        return self.gain * self.B

    def system(self) -> LureSystem:
        """The explicit system, in scaled units."""
        B1i = self.B1i
        E, F, _ = self._implicit()
        AB = torch.linalg.solve(E, torch.cat([F, B1i], dim=1))
        A, B1 = AB[:, : self.nx], AB[:, self.nx :]
        # The network's linear maps fold into those around it: what remains between them is one Lur'e system.
        net = self.phi.fold()
        through = None if self.D21 is None else self.D21 @ net.Cout
        return lure(
            A=A,
            B1=B1 @ net.Cout,
            B2=self.B2,
            bx=self.bx + B1 @ net.bout,
            C1=net.Cin @ self.C1,
            D11=net.D11,
            D12=net.Cin @ self.D12,
            bv=net.bv,
            C2=self.C2,
            D21=through,
            D22=self.D22,
            by=self.by if self.D21 is None else self.by + self.D21 @ net.bout,
            activation=self.activation,
            layers=net.layers,
            dt=self.dt,
            feedforward=True,
        )

    @balancing
    @torch.no_grad()
    def start_linear(self, A: Array, B: Array, C: Array, D: Array | None = None) -> None:
        """Start exactly at the linear model (A, B, C, D), given in scaled units; see `put_linear`.

        The network keeps its inputs from state (C1) and input (D12), but has no effect yet (B = D21 = 0); so the first
        gradient step already moves it.
        """
        self.B.zero_()
        if self.D21 is not None:
            self.D21.zero_()
        put_linear(self, self._start_at(A), B, C, D)

    @torch.no_grad()
    def _start_at(self, A: Array) -> Array:
        """Set the state map to ``A``, its poles inside the rate, and choose the gain; returns what was set."""
        A = self.core.start_at(A, self._G1())
        E, _, _ = self._implicit()
        self.gain.copy_(0.1 * torch.linalg.svdvals(E).mean())  # a tenth of the size of E
        return A

    def _implicit(self) -> tuple[Tensor, Tensor, Tensor]:
        """Implicit matrices (E, F, P), with the addition to H that the network needs."""
        B1i = self.B1i
        G: Tensor = torch.block_diag(self.C1.T @ self.C1, B1i @ B1i.T)  # type: ignore[no-untyped-call]
        return self.core.implicit(G)

    def _promise(self) -> Promise:
        E, _, P = self._implicit()
        return Promise(metric_of(E, P), self.phi.fold().multipliers, self.core.rate)

    def _G1(self) -> Array:
        """Addition C1'C1 to H11, shape (nx, nx)."""
        C1 = self.C1.detach().double().numpy()
        return C1.T @ C1  # type: ignore[no-any-return]

    def _state_map(self) -> Array:
        """Explicit state map A of the linear core alone, shape (nx, nx)."""
        E, F, _ = self.core.implicit()
        A: Array = torch.linalg.solve(E, F).detach().double().numpy()
        return A
