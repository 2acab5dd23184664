"""Robust RNN (2020): convex sets of contracting (Theta_*) or gain-bounded (Theta_gamma) networks, kept by a barrier.

Revay, Wang, Manchester, "A convex parameterization of robust recurrent neural networks", IEEE L-CSS 2020:

    E x+ = F x + B1 w + B2 u + bx,   w = s(v),   L v = C1 x + D12 u + L bv,   y = C2 x + D21 w + D22 u + by

    Theta_*  [E+E'-P  -C1'  F' ]          Theta_gamma  [E+E'-P  -C1'   0          F'   C2' ]
             [-C1      2L   B1'] > 0                   [-C1      2L   -D12        B1'  D21']
             [ F       B1   P  ]                       [ 0      -D12'  gamma^2 I  B2'  D22'] > 0,     L diagonal
                                                       [ F       B1    B2         P    0   ]
                                                       [ C2      D21   D22        0    I   ]

Both are linear in the decision variables E, P, F, B1, ..., L, so the sets are convex: training adds a log-det barrier
(`penalty`), and a step that leaves the set is halved until it does not (`after_step`; half way back to a point inside
always ends inside). The paper's supply gamma^2 |du|^2 - |dy|^2 is multiplied by a fixed number here, which gives E the
size of one, so that an optimiser moves all variables alike. With a rate, P / rate^2 replaces P in the first block
(ours). The guarantee holds inside the set, not for every parameter value.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import scipy.linalg
import torch
from torch import Tensor, nn

from controlrnn.checks import Array, number, size
from controlrnn.errors import SettingError
from controlrnn.models.base import Model, lure
from controlrnn.models.parts.contracting_linear import checked_rate, inside_disc, slow_poles
from controlrnn.models.parts.draws import generator, normal
from controlrnn.models.parts.guarantee import Promise, Supply, metric_of
from controlrnn.models.parts.linear_start import Linear, balancing, gain_refusal, storages
from controlrnn.systems import Activation, LureSystem
from controlrnn.typed import typed

_LARGEST = 1e100  # gain, whose square float64 holds together with what it is multiplied by
_ROOM = 1e-5  # least eigenvalue of the inequality, scaled to a diagonal of ones, so that it survives freezing
_BARRIER = (1e-2, 1e-6)  # weight of the barrier at the start and at the end of training (the paper's 1 / mu)


class RobustRNN(Model):
    """Robust recurrent network of Revay, Wang and Manchester (2020), contracting or of bounded incremental l2 gain.

    Args:
        nu: Number of inputs.
        ny: Number of outputs.
        nx: Number of states.
        nv: Number of neurons.
        gamma: Largest incremental l2 gain, in scaled units, at most 1e100; None for contraction alone (Theta_*).
        rate: Contraction rate in (0, 1].
        activation: Activation; its slope must lie in [0, 1]. The paper's is relu.
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
        nv: int = 16,
        gamma: float | None = None,
        rate: float = 1.0,
        activation: Activation | str = Activation.RELU,
        feedthrough: bool = False,
        dt: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(nu=nu, ny=ny, nx=nx, dt=dt)
        self.nv = size("nv", nv)
        self.activation = Activation(activation)
        self.seed = int(seed)
        self.rate = checked_rate(rate)
        self.gamma = (
            None if gamma is None else number("gamma", gamma, above=0.0, most=_LARGEST, what="a gain in (0, 1e100]")
        )
        rng = generator(seed)
        self.E = nn.Parameter(torch.zeros(nx, nx))
        self.P = nn.Parameter(torch.zeros(nx, nx))
        self.F = nn.Parameter(torch.zeros(nx, nx))
        self.B1 = nn.Parameter(torch.zeros(nx, nv))
        self.B2 = nn.Parameter(torch.zeros(nx, nu))
        self.C1 = nn.Parameter(torch.zeros(nv, nx))
        self.D12 = nn.Parameter(torch.zeros(nv, nu))
        self.L = nn.Parameter(torch.ones(nv))
        self.C2 = normal(rng, ny, nx, std=nx**-0.5)
        self.D21 = nn.Parameter(torch.zeros(ny, nv)) if feedthrough else None
        self.D22 = nn.Parameter(torch.zeros(ny, nu)) if feedthrough else None
        self.bx = nn.Parameter(torch.zeros(nx))
        self.bv = normal(rng, nv, std=0.5)
        self.by = nn.Parameter(torch.zeros(ny))
        self.scale: Tensor
        self.register_buffer("scale", torch.ones(()))
        B = (torch.randn(nx, nu, generator=rng) * 0.3 * nu**-0.5).double().numpy()
        start = Linear(slow_poles(nx, self.rate, rng), B, self.C2.detach().double().numpy(), np.zeros((ny, nu)))
        shrink = 1.0 if self.gamma is None else min(1.0, (0.5 * self.gamma / start.gain(self.rate)) ** 0.5)
        self._start_at(Linear(start.A, start.B * shrink, start.C * shrink, start.D))

    def system(self) -> LureSystem:
        """The explicit system, in scaled units."""
        n, k = self.nx, self.nx + self.nv
        AB = torch.linalg.solve(self.E, torch.cat([self.F, self.B1, self.B2], dim=1))
        return lure(
            A=AB[:, :n],
            B1=AB[:, n:k],
            B2=AB[:, k:],
            bx=self.bx,
            C1=self.C1 / self.L[:, None],
            D12=self.D12 / self.L[:, None],
            bv=self.bv,
            C2=self.C2,
            D21=self.D21,
            D22=self.D22,
            by=self.by,
            activation=self.activation,
            layers=(self.nv,),
            dt=self.dt,
        )

    def inequality(self) -> Tensor:
        """Matrix of the inequality of Theta_* or Theta_gamma, positive definite inside the set."""
        return self._inequality(dict(self.named_parameters()), self.scale)

    def _inequality(self, values: Mapping[str, Tensor], scale: Tensor) -> Tensor:
        """The matrix at decision variables given by name."""
        # The supply is multiplied by `scale`: the block of the inputs by it, those of the outputs by its root.
        E, F, B1, C1, D12, L = (values[name] for name in ("E", "F", "B1", "C1", "D12", "L"))
        nx, nv = self.nx, self.nv
        P = 0.5 * (values["P"] + values["P"].T)
        corner = E + E.T - P / self.rate**2
        if self.gamma is None:
            rows = [[corner, -C1.T, F.T], [-C1, 2 * torch.diag(L), B1.T], [F, B1, P]]
            return torch.cat([torch.cat(row, dim=1) for row in rows])
        u, y = torch.eye(self.nu).to(E), torch.eye(self.ny).to(E)
        C2, root = scale.sqrt() * values["C2"], scale.sqrt()
        D21 = root * values["D21"] if "D21" in values else E.new_zeros(self.ny, nv)
        D22 = root * values["D22"] if "D22" in values else E.new_zeros(self.ny, self.nu)
        B2, xu, xy = values["B2"], E.new_zeros(nx, self.nu), E.new_zeros(nx, self.ny)
        rows = [
            [corner, -C1.T, xu, F.T, C2.T],
            [-C1, 2 * torch.diag(L), -D12, B1.T, D21.T],
            [xu.T, -D12.T, scale * self.gamma**2 * u, B2.T, D22.T],
            [F, B1, B2, P, xy],
            [C2, D21, D22, xy.T, y],
        ]
        return torch.cat([torch.cat(row, dim=1) for row in rows])

    def barrier(self) -> Tensor:
        """Log-det barrier of the set: -log det of the inequality - sum log L; infinite outside."""
        factor, info = torch.linalg.cholesky_ex(self.inequality())
        if info != 0 or (self.L <= 0).any():
            return torch.full_like(self.L.sum(), torch.inf)
        value: Tensor = -2 * factor.diagonal().log().sum() - self.L.log().sum()
        return value

    @torch.no_grad()
    def is_feasible(self) -> bool:
        """Whether the parameters lie inside the set with a small margin, decided in float64."""
        # A step asks up to a hundred times, so that the model is not copied for it.
        values = {name: p.detach().to("cpu", torch.float64) for name, p in self.named_parameters()}
        M = self._inequality(values, self.scale.to("cpu", torch.float64)).numpy()
        diagonal = M.diagonal()
        if not np.isfinite(M).all() or (diagonal <= 0).any():
            return False
        size = diagonal**-0.5  # scales the diagonal to ones, so that the units of the variables do not matter
        return bool(np.linalg.eigvalsh(size[:, None] * M * size)[0] > _ROOM)

    def penalty(self, progress: float) -> Tensor:
        """Barrier with a weight that falls from 1e-2 to 1e-6 as training goes on."""
        first, last = _BARRIER
        return float(first * (last / first) ** progress) * self.barrier()

    @torch.no_grad()
    def after_step(self, before: list[Tensor]) -> None:
        """Halve the optimiser step until it ends inside the set."""
        for _ in range(100):
            if self.is_feasible():
                return
            for p, old in zip(self.parameters(), before, strict=True):
                p.copy_(0.5 * (p + old))
        for p, old in zip(self.parameters(), before, strict=True):
            p.copy_(old)

    @typed()
    @balancing
    def start_linear(self, A: Array, B: Array, C: Array, D: Array | None = None) -> None:
        """Start exactly at the linear model (A, B, C, D), given in scaled units, inside the set.

        The neurons keep their inputs from state and input, but have no effect yet (B1 = D21 = 0).

        Raises:
            SettingError: Its gain is not below gamma, or it has a feedthrough where this model has none.
        """
        self._start_at(Linear.of((self.nx, self.nu, self.ny), A, B, C, D))

    @torch.no_grad()
    def _start_at(self, linear: Linear) -> None:
        """Set all parameters to start at a linear model inside the set; see `start_linear`."""
        if self.D22 is None and linear.D.any():
            raise SettingError("the linear model has a feedthrough D, the network has none: pass feedthrough=True")
        # Random directions of the neurons' input, of about unit size for states and inputs of unit size.
        draw = torch.randn(self.nv, self.nx + self.nu, generator=generator(self.seed + 1), dtype=torch.float64).numpy()
        V = draw / np.sqrt([self.nx] * self.nx + [self.nu] * self.nu)
        if self.gamma is None:
            # Without a gain bound any Lyapunov matrix of the state map is a storage.
            A = inside_disc(linear.A, self.rate)
            N: Array = np.asarray(scipy.linalg.solve_discrete_lyapunov(A.T / self.rate, np.eye(self.nx)), np.float64)
            L = 1 / float(np.linalg.norm(V[:, : self.nx], 2)) ** 2
            return self._put(Linear(A, linear.B, linear.C, linear.D), N / self.rate**2, L, V)
        supply = Supply.of(-np.eye(self.ny), np.zeros((self.nu, self.ny)), self.gamma**2 * np.eye(self.nu))
        for N, weight in storages(linear, V, supply, self.rate):
            self._put(linear, N, 2 * weight, V)
            if self.is_feasible():
                return None
        raise SettingError(gain_refusal(linear, self.gamma, self.rate))

    def _put(self, linear: Linear, N: Array, L: float, V: Array) -> None:
        """Set all parameters for a storage N (nx, nx) and multipliers L of neurons driven by V (x, u)."""
        c = self.nx / (self.rate**2 * float(np.trace(N)))  # gives E the mean eigenvalue one
        E = c * self.rate**2 * 0.5 * (N + N.T)
        self.put(
            c,
            E=E,
            P=self.rate**2 * E,
            F=E @ linear.A,
            B1=np.zeros((self.nx, self.nv)),
            B2=E @ linear.B,
            C1=c * L * V[:, : self.nx],
            D12=c * L * V[:, self.nx :],
            L=np.full(self.nv, c * L),
            C2=linear.C,
            D21=np.zeros((self.ny, self.nv)),
            D22=linear.D,
            bx=np.zeros(self.nx),
            by=np.zeros(self.ny),
        )

    @torch.no_grad()
    def put(self, scale: float, **values: Array) -> None:
        """Set the decision variables by name, and ``scale``, the factor of the supply."""
        self.scale.fill_(scale)
        for name, value in values.items():
            parameter = getattr(self, name)
            if parameter is not None:
                parameter.copy_(torch.as_tensor(value))

    def _promise(self) -> Promise | None:
        if not self.is_feasible():
            return None
        metric = metric_of(self.E, 0.5 * (self.P + self.P.T))
        if self.gamma is None:
            return Promise(metric, self.L, self.rate)
        # Inside, the supply is `scale` gamma times that of the gain.
        size = float(self.scale) * self.gamma
        return Promise(metric / size, self.L / size, self.rate, Supply.gain(self.gamma, self.nu, self.ny))
