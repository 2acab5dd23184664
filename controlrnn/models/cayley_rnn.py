"""Cayley RNN: a plain recurrent network with an orthogonal weight, by the Cayley transform.

Helfrich, Willmott, Ye, "Orthogonal recurrent neural networks with scaled Cayley transform", ICML 2018, without the
scaling matrix, as in the experiments of Erichson et al., "Lipschitz recurrent neural networks", ICLR 2021:

    h+ = s(W h + U u + b),   y = D h + d,   W = (I + S)^-1 (I - S),   S = C - C'

S is skew, so that I + S is invertible and W orthogonal for every C; W never has the eigenvalue -1. With slopes in
[0, 1], |dh+| <= |W dh| = |dh| at equal inputs: differences of trajectories never grow, but need not shrink.
"""

from __future__ import annotations

import torch
from torch import nn

from controlrnn.checks import positive
from controlrnn.models.base import Model, lure
from controlrnn.models.parts.draws import generator, normal, uniform
from controlrnn.systems import Activation, LureSystem
from controlrnn.typed import typed


class CayleyRNN(Model):
    """Recurrent network with an orthogonal weight; as a Lur'e system A = 0, B1 = I, C1 = W.

    It promises no contraction: use `certify_contraction` after training.

    Args:
        nu: Number of inputs.
        ny: Number of outputs.
        nx: Number of states, which are the neurons.
        init_std: Standard deviation of the initial entries of C; W starts near the identity, and the network remembers.
            0.1 / sqrt(nx) when left out.
        activation: Activation function s; its slopes must lie in [0, 1] for the statement above.
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
        init_std: float | None = None,
        activation: Activation | str = Activation.TANH,
        dt: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(nu=nu, ny=ny, nx=nx, dt=dt)
        self.activation = Activation(activation)
        rng = generator(seed)
        self.C = normal(rng, nx, nx, std=0.1 * nx**-0.5 if init_std is None else positive("init_std", init_std))
        self.U = uniform(rng, nx, nu, bound=nu**-0.5)
        self.b = nn.Parameter(torch.zeros(nx))
        self.D = uniform(rng, ny, nx, bound=nx**-0.5)
        self.d = nn.Parameter(torch.zeros(ny))

    def system(self) -> LureSystem:
        """The explicit system, in scaled units."""
        eye = torch.eye(self.nx, dtype=self.C.dtype, device=self.C.device)
        S = self.C - self.C.T
        return lure(
            A=torch.zeros_like(eye),
            B1=eye,
            B2=torch.zeros_like(self.U),
            C1=torch.linalg.solve(eye + S, eye - S),
            D12=self.U,
            bv=self.b,
            C2=self.D,
            by=self.d,
            activation=self.activation,
            layers=(self.nx,),
            dt=self.dt,
        )
