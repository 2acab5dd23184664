"""Residual network: a linear system plus a small network, without a guarantee by construction.

    x+ = A x + B2 u + bx + B1 s(C1 x + D12 u + bv),   y = C2 x + D22 u + by

This is the polynomial nonlinear state-space structure of Paduart et al., "Identification of nonlinear systems using
polynomial nonlinear state space models", Automatica 2010, with neurons instead of monomials (Suykens, De Moor,
Vandewalle 1995); as there, training starts at a linear model. Contraction is checked after training, by
`certify_contraction`.
"""

from __future__ import annotations

import torch
from torch import nn

from controlrnn.checks import Array, size
from controlrnn.models.base import Model, lure
from controlrnn.models.parts.contracting_linear import slow_poles
from controlrnn.models.parts.draws import generator, normal, uniform
from controlrnn.models.parts.linear_start import put_linear
from controlrnn.systems import Activation, LureSystem
from controlrnn.typed import typed


class ResidualRNN(Model):
    """Linear system with a residual network of one layer.

    Args:
        nu: Number of inputs.
        ny: Number of outputs.
        nx: Number of states.
        nv: Number of neurons.
        activation: Activation function s.
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
        activation: Activation | str = Activation.TANH,
        feedthrough: bool = False,
        dt: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(nu=nu, ny=ny, nx=nx, dt=dt)
        self.nv = size("nv", nv)
        self.activation = Activation(activation)
        rng = generator(seed)
        self.A = nn.Parameter(torch.as_tensor(slow_poles(nx, 1.0, rng), dtype=torch.get_default_dtype()))
        self.B1 = normal(rng, nx, nv, std=0.1 * nv**-0.5)
        self.B2 = normal(rng, nx, nu, std=0.3 * nu**-0.5)
        self.C1 = normal(rng, nv, nx, std=(nx + nu) ** -0.5)
        self.D12 = normal(rng, nv, nu, std=(nx + nu) ** -0.5)
        # Spread over the range of the signals, so that the neurons bend in different places.
        self.bv = uniform(rng, nv, bound=1.0)
        self.C2 = normal(rng, ny, nx, std=nx**-0.5)
        self.D22 = nn.Parameter(torch.zeros(ny, nu)) if feedthrough else None
        self.bx = nn.Parameter(torch.zeros(nx))
        self.by = nn.Parameter(torch.zeros(ny))

    def system(self) -> LureSystem:
        """The explicit system, in scaled units."""
        return lure(
            A=self.A,
            B1=self.B1,
            B2=self.B2,
            bx=self.bx,
            C1=self.C1,
            D12=self.D12,
            bv=self.bv,
            C2=self.C2,
            D22=self.D22,
            by=self.by,
            activation=self.activation,
            layers=(self.nv,),
            dt=self.dt,
        )

    @torch.no_grad()
    def start_linear(self, A: Array, B: Array, C: Array, D: Array | None = None) -> None:
        """Start at the linear model (A, B, C, D), given in scaled units; the network has no effect yet (B1 = 0)."""
        self.A.copy_(torch.as_tensor(A))
        self.B1.zero_()
        put_linear(self, A, B, C, D)
