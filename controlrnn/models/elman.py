"""Elman network (1990): the plain recurrent network, a baseline without any guarantee.

x+ = s(W x + U u + b),   y = C x + d
"""

from __future__ import annotations

import torch
from torch import nn

from controlrnn.models.base import Model, lure
from controlrnn.models.parts.draws import generator, normal, uniform
from controlrnn.systems import Activation, LureSystem
from controlrnn.typed import typed


class Elman(Model):
    """Elman network; as a Lur'e system A = 0, B1 = I, C1 = W.

    Args:
        nu: Number of inputs.
        ny: Number of outputs.
        nx: Number of states, which are the neurons.
        activation: Activation function s.
        memory: W starts as ``memory`` times the identity plus noise; a value near 1 gives the long memory that slow
            plants need, where the usual random start forgets within a few samples. None is that start: as of
            ``torch.nn.RNN``, all weights uniform within 1 / sqrt(nx), and b the sum of two such vectors.
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
        activation: Activation | str = Activation.TANH,
        memory: float | None = 0.9,
        dt: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(nu=nu, ny=ny, nx=nx, dt=dt)
        self.activation = Activation(activation)
        rng = generator(seed)
        if memory is None:
            self.W = uniform(rng, nx, nx, bound=nx**-0.5)
        else:
            self.W = nn.Parameter(memory * torch.eye(nx) + normal(rng, nx, nx, std=0.1 / nx**0.5).detach())
        self.U = uniform(rng, nx, nu, bound=nx**-0.5)
        self.b = uniform(rng, nx, bound=nx**-0.5)
        if memory is None:  # torch has one bias for the input and one for the state
            self.b = nn.Parameter((self.b + uniform(rng, nx, bound=nx**-0.5)).detach())
        self.C = uniform(rng, ny, nx, bound=nx**-0.5)
        self.d = nn.Parameter(torch.zeros(ny))

    def system(self) -> LureSystem:
        """The explicit system, in scaled units."""
        eye = torch.eye(self.nx, dtype=self.W.dtype, device=self.W.device)
        return lure(
            A=torch.zeros_like(eye),
            B1=eye,
            B2=torch.zeros_like(self.U),
            C1=self.W,
            D12=self.U,
            bv=self.b,
            C2=self.C,
            by=self.d,
            activation=self.activation,
            layers=(self.nx,),
            dt=self.dt,
        )
