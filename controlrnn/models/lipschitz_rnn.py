"""Lipschitz RNN: a continuous-time network with symmetric-skew matrices, discretised.

Erichson, Azencot, Queiruga, Hodgkinson, Mahoney, "Lipschitz recurrent neural networks", ICLR 2021, eqs. 3-4:

    h' = A h + s(W h + U u + b),  y = D h + d,  A = (1 - beta)(M + M') + beta (M - M') - gamma I, W alike from another

Two statements of the paper need correcting:

* Proposition 2 subtracts gamma twice. Right: with (A + A')/2 = (1 - beta)(M + M') - gamma I,
  (1 - beta) lambda_min(M + M') - gamma <= Re lambda_i(A) <= (1 - beta) lambda_max(M + M') - gamma.
* Proposition 1 calls an equilibrium stable if A is Hurwitz. It is not: h' = -0.1 h + tanh(5 h) is unstable at 0.
  The proof needs |W| < lambda_min(Q) / (2 |P|) for A'P + P A = -Q. For P = I that is lambda_max(A + A')/2 + |W| < 0.

The discrete map is what runs, and nothing is guaranteed for it by construction: use `certify_contraction` after
training. With rho, the *implicitness* of the linear part (eq. 14), and alpha, its weight (eq. 16),

    h+ = h + e s(v) + e alpha ((1 - rho) A h + rho A h+)

is a Lur'e system with K = (I - e alpha rho A)^-1:  A_d = K (I + e alpha (1 - rho) A),  B1 = e K,  C1 = W. The explicit
Euler step has rho = 0, the implicit-explicit one (IMEX) rho = 1, which keeps the poles inside the circle for any step
if A + A' < 0, and so does every rho >= 1/2. K exists unless 1 / (e alpha rho) is an eigenvalue of A.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from controlrnn.checks import positive
from controlrnn.errors import SettingError
from controlrnn.models.base import Model, lure
from controlrnn.models.parts.draws import generator, normal, uniform
from controlrnn.systems import Activation, LureSystem
from controlrnn.typed import typed


class LipschitzRNN(Model):
    """Lipschitz recurrent network (without a guarantee for the discrete map).

    The paper's code classifies 784 pixels with step 0.03, beta 0.75, gamma 0.001 and ``init_std = 0.1 / nx``.

    Args:
        nu: Number of inputs.
        ny: Number of outputs.
        nx: Number of states, which are the neurons.
        step: Step e of the discretisation, in units of the network's own time per sample.
        beta: Weight of the skew part of A, and of W, in [0, 1]; 1 neither damps nor excites.
        gamma: Damping in A, and in W, >= 0.
        beta_w: Weight for W; that of A when left out.
        gamma_w: Damping for W; that of A when left out.
        alpha: Weight of the linear part A h, >= 0; without it, alpha = 0, this is a neural differential equation.
        implicitness: Implicit share rho of the linear part in [0, 1]: 0 is the explicit Euler step, 1 IMEX.
        init_std: Standard deviation of the initial entries of the matrices that A and W are made of; 0.1 / sqrt(nx)
            when left out, because with the paper's 0.1 / nx the states of a small network stay all alike.
        activation: Activation function s.
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
        step: float = 0.1,
        beta: float = 0.75,
        gamma: float = 0.001,
        beta_w: float | None = None,
        gamma_w: float | None = None,
        alpha: float = 1.0,
        implicitness: float = 0.0,
        init_std: float | None = None,
        activation: Activation | str = Activation.TANH,
        dt: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(nu=nu, ny=ny, nx=nx, dt=dt)
        self.step = positive("step", step)
        self.activation = Activation(activation)
        self.alpha = positive("alpha", alpha, zero=True)
        self.implicitness = _fraction("implicitness", implicitness, "0 is explicit, 1 implicit")
        mix = "0 is symmetric, 1 is skew"
        self.beta = (_fraction("beta", beta, mix), _fraction("beta_w", beta if beta_w is None else beta_w, mix))
        dampings = (("gamma", gamma), ("gamma_w", gamma if gamma_w is None else gamma_w))
        self.gamma = tuple(positive(name, value, zero=True) for name, value in dampings)
        rng = generator(seed)
        std = 0.1 * nx**-0.5 if init_std is None else positive("init_std", init_std)
        self.M = normal(rng, nx, nx, std=std)
        self.V = normal(rng, nx, nx, std=std)
        self.U = uniform(rng, nx, nu, bound=nu**-0.5)
        self.b = nn.Parameter(torch.zeros(nx))
        self.D = uniform(rng, ny, nx, bound=nx**-0.5)
        self.d = nn.Parameter(torch.zeros(ny))

    def system(self) -> LureSystem:
        """The explicit system, in scaled units."""
        A, W = (_mixed(M, b, g) for M, b, g in zip((self.M, self.V), self.beta, self.gamma, strict=True))
        eye, step = torch.eye(self.nx, dtype=A.dtype, device=A.device), self.step * self.alpha
        Ad, B1 = eye + step * (1 - self.implicitness) * A, self.step * eye
        if self.implicitness:
            Ad, B1 = torch.linalg.solve(eye - step * self.implicitness * A, torch.stack([Ad, B1]))
        return lure(
            A=Ad,
            B1=B1,
            B2=torch.zeros_like(self.U),
            C1=W,
            D12=self.U,
            bv=self.b,
            C2=self.D,
            by=self.d,
            activation=self.activation,
            layers=(self.nx,),
            dt=self.dt,
        )


def _mixed(M: Tensor, beta: float, gamma: float) -> Tensor:
    """Mix of symmetric and skew part: (1 - beta)(M + M') + beta (M - M') - gamma I."""
    eye = torch.eye(len(M), dtype=M.dtype, device=M.device)
    return (1 - beta) * (M + M.T) + beta * (M - M.T) - gamma * eye


def _fraction(name: str, value: float, ends: str) -> float:
    """Return ``value`` as float after checking that it lies in [0, 1], between ``ends``."""
    if not 0 <= value <= 1:
        raise SettingError(f"{name} must lie in [0, 1], got {value}: {ends}")
    return float(value)
