"""Stable RNN (s-RNN): the plain recurrent network whose weight has a norm below one.

    x+ = s(W x + U u + b),   y = C x + d,   |W| < rate

(Miller & Hardt, "Stable recurrent models", ICLR 2019, who clamp the singular values after every step; in the comparison
of Revay, Wang, Manchester, L-CSS 2020.) By default W = rate N with a `StrictContraction` N, so that no gradient step is
ever undone; ``clamp=True`` is the papers' projection.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from controlrnn.models.base import Model, lure
from controlrnn.models.parts.contracting_linear import checked_rate, slow_poles
from controlrnn.models.parts.draws import generator, uniform
from controlrnn.models.parts.guarantee import Promise
from controlrnn.models.parts.strict_contraction import STRICT, StrictContraction
from controlrnn.systems import Activation, LureSystem
from controlrnn.typed import typed


class StableRNN(Model):
    """Stable recurrent network; as a Lur'e system A = 0, B1 = I, C1 = W. It contracts in the 2-norm.

    Args:
        nu: Number of inputs.
        ny: Number of outputs.
        nx: Number of states, which are the neurons.
        rate: Contraction rate in (0, 1].
        clamp: Whether the norm is kept by clamping singular values after each optimiser step; then the promise holds
            after `after_step`, which `identify` calls, and not for every parameter value.
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
        clamp: bool = False,
        activation: Activation | str = Activation.TANH,
        dt: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(nu=nu, ny=ny, nx=nx, dt=dt)
        self.rate = checked_rate(rate)
        self.activation = Activation(activation)
        rng = generator(seed)
        start = slow_poles(nx, self.rate, rng)
        self.N: StrictContraction | None = None
        self.W: nn.Parameter | None = None
        if clamp:
            self.W = nn.Parameter(torch.tensor(start, dtype=torch.get_default_dtype()))
        else:
            self.N = StrictContraction(nx, nx)
            self.N.start_at(start / self.rate)
        self.U = uniform(rng, nx, nu, bound=nx**-0.5)
        self.b = uniform(rng, nx, bound=nx**-0.5)
        self.C = uniform(rng, ny, nx, bound=nx**-0.5)
        self.d = nn.Parameter(torch.zeros(ny))

    def system(self) -> LureSystem:
        """The explicit system, in scaled units."""
        W = self._weight()
        eye = torch.eye(self.nx, dtype=W.dtype, device=W.device)
        return lure(
            A=torch.zeros_like(W),
            B1=eye,
            B2=torch.zeros_like(self.U),
            C1=W,
            D12=self.U,
            bv=self.b,
            C2=self.C,
            by=self.d,
            activation=self.activation,
            layers=(self.nx,),
            dt=self.dt,
        )

    @torch.no_grad()
    def after_step(self, before: list[Tensor]) -> None:  # noqa: ARG002  # the projection needs no memory
        """Clamp the singular values of W if the model was made with ``clamp=True``."""
        if self.W is not None:
            U, s, Vh = torch.linalg.svd(self.W)
            self.W.copy_(U * s.clamp(max=STRICT * self.rate) @ Vh)

    def _weight(self) -> Tensor:
        """Recurrent weight W, shape (nx, nx)."""
        return self.W if self.N is None or self.W is not None else self.rate * self.N.matrix()  # type: ignore[return-value]

    def _promise(self) -> Promise | None:
        W = self._weight()
        if torch.linalg.matrix_norm(W, 2) >= self.rate:
            return None
        # |W dx| <= |W| |dx| and slopes in [0, 1]: the 2-norm is the metric, with multipliers one.
        eye = torch.eye(self.nx, dtype=W.dtype)
        return Promise(eye, torch.ones(self.nx, dtype=W.dtype), self.rate)
