"""Lipschitz R2DN: a linear system around a 1-Lipschitz deep network, with incremental l2 gain at most gamma.

Claimed in Manchester, Barbara, Wang, "R2DN", arXiv 2504.01250, without a public reference code; the parameterisation
here is derived and checked, so cite it as such. Seen as a linear system with inputs (z, u) and outputs (v, y),

    x+ = A x + B1 z + B2 u,   v = C1 x + D12 u,   y = C2 x + D21 z + D22 u,   z = phi(v), |dz| <= |dv|,

the loop has gain gamma if that system dissipates m |dz|^2 + g |du|^2 - m |dv|^2 - |dy|^2 g / gamma^2 (g = gamma^2 here,
m > 0 any constant). With Cb = [C1; C2], Bb = [B1i B2i], Db = [0 D12; D21 D22], Qb, Rb the two sides of that supply,

    Rc = Rb - Db'Qb Db > 0,
    H = H0 + blkdiag(Cb'Qb Cb, 0) + [-Cb'Qb Db; Bb] Rc^-1 [-Db'Qb Cb, Bb'] = [H11 .; H21 H22],
    P = H22,  E = (H11 + P / rate^2 + h (Y - Y')) / 2,  A = E^-1 H21,  [B1 B2] = E^-1 Bb.

Rc > 0 for every parameter by Parrott's theorem: in scaled signals [0 b; c d], with contractions b, c, Z and
d = (I - c c')^1/2 Z (I - b'b)^1/2; Cholesky factors do as well as these roots. Without feedthrough D21 = D22 = 0 and
b alone remains. As in `DissipativeREN` the contractions are scaled for the optimiser, so that large gain bounds train.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from controlrnn.checks import Array, size
from controlrnn.errors import SettingError
from controlrnn.models.base import Model, lure
from controlrnn.models.parts.contracting_linear import ContractingLinear, slow_poles
from controlrnn.models.parts.definite import with_room
from controlrnn.models.parts.draws import generator, normal
from controlrnn.models.parts.guarantee import Promise, Supply, gain_bound, metric_of
from controlrnn.models.parts.linear_start import Linear, balancing, gain_refusal, storages
from controlrnn.models.parts.sandwich import SandwichNetwork
from controlrnn.models.parts.strict_contraction import StrictContraction
from controlrnn.systems import Activation, LureSystem
from controlrnn.typed import typed


class LipschitzR2DN(Model):
    """Recurrent deep network (R2DN) with a bounded incremental l2 gain.

    The bound is one of *scaled* signals: outputs in units of their scaler per inputs in units of theirs.

    Args:
        nu: Number of inputs.
        ny: Number of outputs.
        nx: Number of states.
        gamma: Largest incremental l2 gain.
        nv: Width of the channel between linear system and network.
        layers: Hidden layers of the network.
        rate: Contraction rate in (0, 1].
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
        gamma: float,
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
        self.gamma = gain_bound(gamma)
        self.activation = Activation(activation)
        self.nv = size("nv", nv)
        self.seed = int(seed)
        rng = generator(seed)
        self.core = ContractingLinear(nx, rate, rng)
        self.rate = self.core.rate
        self.phi = SandwichNetwork(nv, nv, tuple(size("layers", n) for n in layers), rng)
        self.C1 = normal(rng, nv, nx, std=nx**-0.5)
        self.C2 = normal(rng, ny, nx, std=nx**-0.5)
        self.B = nn.Parameter(torch.zeros(nx, nv + nu))
        # Fixed numbers: the weight m of the network's channel, and the size of E as in `ContractingR2DN`.
        self.m: Tensor
        self.gain: Tensor
        self.register_buffer("m", torch.ones(()))
        self.register_buffer("gain", torch.ones(()))
        self.b = StrictContraction(nv, nu, size=max(1.0, self.gamma))
        self.c = StrictContraction(ny, nv) if feedthrough else None
        self.Z = StrictContraction(ny, nu, size=max(1.0, self.gamma)) if feedthrough else None
        self.bx = nn.Parameter(torch.zeros(nx))
        self.by = nn.Parameter(torch.zeros(ny))
        B = (torch.randn(nx, nu, generator=rng) * 0.3 * nu**-0.5).double().numpy()
        self._start_within(
            Linear(slow_poles(nx, self.rate, rng), B, self.C2.detach().double().numpy(), np.zeros((ny, nu)))
        )

    @property
    def D22(self) -> Tensor | None:
        """Direct feedthrough of the linear system, shape (ny, nu); None for a model without feedthrough."""
        return None if self.Z is None else self._scaled()[3]

    def system(self) -> LureSystem:
        """The explicit system, in scaled units."""
        n, nv = self.nx, self.nv
        E, F, _ = self._implicit()
        AB = torch.linalg.solve(E, torch.cat([F, self.gain * self.B], dim=1))
        A, B1, B2 = AB[:, :n], AB[:, n : n + nv], AB[:, n + nv :]
        _, D12, D21, D22 = self._scaled()
        net = self.phi.fold()
        return lure(
            A=A,
            B1=B1 @ net.Cout,
            B2=B2,
            bx=self.bx + B1 @ net.bout,
            C1=net.Cin @ self.C1,
            D11=net.D11,
            D12=net.Cin @ D12,
            bv=net.bv,
            C2=self.C2,
            D21=D21 @ net.Cout,
            D22=D22,
            by=self.by + D21 @ net.bout,
            activation=self.activation,
            layers=net.layers,
            dt=self.dt,
            feedforward=True,
        )

    @typed()
    @balancing
    def start_linear(self, A: Array, B: Array, C: Array, D: Array | None = None) -> None:
        """Start exactly at the linear model (A, B, C, D), given in scaled units.

        The network keeps its inputs from state and input, but has no effect yet (B1 = D21 = 0).

        Raises:
            SettingError: Its gain is not below gamma, or it has a feedthrough where this model has none.
        """
        self._start_at(Linear.of((self.nx, self.nu, self.ny), A, B, C, D))

    @torch.no_grad()
    def _start_at(self, linear: Linear) -> None:
        """Set all parameters to start at a linear model of gain below gamma; see `start_linear`."""
        if self.Z is None and linear.D.any():
            raise SettingError("the linear model has a feedthrough D, the network has none: pass feedthrough=True")
        n, rng, g = self.nx, generator(self.seed + 1), self.gamma
        # Random directions of the network's input, of about unit size for states and inputs of unit size.
        draw = torch.randn(self.nv, n + self.nu, generator=rng, dtype=torch.float64).numpy()
        V = draw / np.sqrt([n] * n + [self.nu] * self.nu)
        supply = Supply.of(-np.eye(self.ny), np.zeros((self.nu, self.ny)), g**2 * np.eye(self.nu))
        failure: SettingError | None = None
        # The candidates leave less and less margin: take the first that the parameterisation can represent.
        for storage, m in storages(linear, V, supply, self.rate):
            try:
                self._put(linear, storage, m, V)
            except SettingError as error:
                failure = error
            else:
                return
        raise SettingError(gain_refusal(linear, g, self.rate)) from failure

    def _put(self, linear: Linear, storage: Array, m: float, V: Array) -> None:
        """Set all parameters for a ``storage`` E'P^-1E (nx, nx) and weight m of a network driven by V (x, u)."""
        n, g, E = self.nx, self.gamma, self.rate**2 * storage
        b: Array = m**0.5 / g * V[:, n:]
        self.m.fill_(m)
        self.gain.fill_(float(np.linalg.norm(E)) / n**0.5)
        self.b.start_at(b)
        if self.c is not None and self.Z is not None:
            self.c.start_at(np.zeros((self.ny, self.nv)))
            root = np.linalg.cholesky(np.eye(self.nu) - b.T @ b)
            self.Z.start_at(np.linalg.solve(root, linear.D.T / g).T)
        B = np.hstack([np.zeros((n, self.nv)), E @ linear.B]) / float(self.gain)
        for parameter, value in ((self.B, B), (self.C1, V[:, :n]), (self.C2, linear.C)):
            parameter.copy_(torch.as_tensor(value))
        for free in (self.core.Y, self.bx, self.by):
            free.zero_()
        F = E @ linear.A
        # H of the storage; the addition that the gain needs is subtracted, as `implicit` will add it again.
        H = np.block([[E, F.T], [F, self.rate**2 * E]])
        self.core.H.start_at(H - with_room(self._twin()._added()).numpy())

    def _start_within(self, linear: Linear) -> None:
        """Start at ``linear`` with inputs and outputs scaled down until its gain is below gamma."""
        peak = linear.gain(self.rate)
        shrink = min(1.0, (0.5 * self.gamma / peak) ** 0.5)
        self._start_at(Linear(linear.A, linear.B * shrink, linear.C * shrink, linear.D))

    def _implicit(self) -> tuple[Tensor, Tensor, Tensor]:
        """Implicit matrices (E, F, P), with the addition to H that the gain bound needs."""
        return self.core.implicit(self._added())

    def _scaled(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Feedthrough matrices: Db in signals scaled to unit supply, then D12, D21 and D22."""
        b, root = self.b.matrix(), self.m.sqrt()
        if self.c is None or self.Z is None:
            c, d = b.new_zeros(self.ny, self.nv), b.new_zeros(self.ny, self.nu)
        else:
            c = self.c.matrix()
            d = _root(c @ c.T) @ self.Z.matrix() @ _root(b.T @ b).T
        Db = torch.cat([torch.cat([b.new_zeros(self.nv, self.nv), b], 1), torch.cat([c, d], 1)])
        return Db, self.gamma / root * b, root * c, self.gamma * d

    def _added(self) -> Tensor:
        """Addition to H that the gain bound needs, shape (2 nx, 2 nx), in signals scaled to unit supply."""
        root = self.m.sqrt()
        Cb = torch.cat([root * self.C1, self.C2])
        Bi = self.gain * self.B
        Bb = torch.cat([Bi[:, : self.nv] / root, Bi[:, self.nv :] / self.gamma], dim=1)
        Db = self._scaled()[0]
        Rc = torch.eye(len(Db.T), dtype=Db.dtype, device=Db.device) - Db.T @ Db
        rows = torch.cat([-Db.T @ Cb, Bb.T], dim=1)
        outputs = torch.cat([Cb, torch.zeros_like(Cb)], dim=1)
        added: Tensor = outputs.T @ outputs + rows.T @ torch.linalg.solve(Rc, rows)
        return added

    def _promise(self) -> Promise:
        E, _, P = self._implicit()
        supply = Supply.gain(self.gamma, self.nu, self.ny)
        # Inside, the supply is gamma times the promised one.
        multipliers = self.phi.fold().multipliers * self.m
        return Promise(metric_of(E, P) / self.gamma, multipliers / self.gamma, self.rate, supply)


def _root(K: Tensor) -> Tensor:
    """Cholesky factor L, L L' = I - K, for symmetric K < I."""
    eye = torch.eye(len(K), dtype=K.dtype, device=K.device)
    L: Tensor = torch.linalg.cholesky(eye - K)
    return L
