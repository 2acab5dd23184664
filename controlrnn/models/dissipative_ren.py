"""Dissipative REN: differences of trajectories dissipate dy'Q dy + 2 du'S dy + du'R du, for every parameter value.

Revay, Wang, Manchester, "Recurrent equilibrium networks", IEEE TAC 2023, sec. V-B, eqs. 28-33. With -Q = LQ'LQ and
R - S Q^-1 S' = LR'LR,

    D22 = -Q^-1 S' + LQ^-1 N LR,   N'N < I,        Rc = R + S D22 + D22'S' + D22'Q D22 > 0,
    C2c = (D22'Q + S) C2,          D21c = (D22'Q + S) D21 - D12i',
    H = H0 + [C2c'; D21c'; B2i] Rc^-1 [C2c D21c B2i'] - [C2'; D21'; 0] Q [C2 D21 0].

N has the shape of D22, (ny, nu). Its free parameters are divided by |LQ^-1| |LR|: with the papers' D22 = gamma N one
optimiser step moves D22 by gamma times the step, and large gain bounds cannot be trained; here the model tends to the
contracting REN as the bound grows. For the same reason the supply is multiplied by 1 / (|Q| + |S|) inside, so that H
keeps its size. Without feedthrough D22 = D21 = 0, which needs R > 0.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from controlrnn.checks import Array, as_array
from controlrnn.errors import SettingError
from controlrnn.models.parts.contracting_linear import slow_poles
from controlrnn.models.parts.definite import with_room
from controlrnn.models.parts.draws import generator, normal
from controlrnn.models.parts.guarantee import Promise, Supply, metric_of, representable
from controlrnn.models.parts.linear_start import Linear, balancing, storages
from controlrnn.models.parts.strict_contraction import StrictContraction
from controlrnn.models.ren import REN, Implicit
from controlrnn.systems import Activation
from controlrnn.typed import typed


class DissipativeREN(REN):
    """Recurrent equilibrium network that dissipates a given supply rate; further arguments as in `REN`.

    The supply is one of *scaled* signals, those that the model works on; `Model.guarantee` states it for physical ones.

    Args:
        nu: Number of inputs.
        ny: Number of outputs.
        nx: Number of states.
        Q: Weight of the outputs, shape (ny, ny), symmetric negative definite; a small multiple of -I for passivity.
        S: Cross weight, shape (nu, ny).
        R: Weight of the inputs, shape (nu, nu), symmetric, with R - S Q^-1 S' positive definite.
        nv: Number of neurons.
        rate: Contraction rate in (0, 1].
        activation: Activation; its slope must lie in [0, 1].
        feedthrough: Whether ``y[t]`` may depend on ``u[t]``; needed where R is not positive definite.
        dt: Sample time [s].
        seed: Seed of the initial parameters.

    Raises:
        SettingError: The supply does not meet these conditions.
    """

    @typed()
    def __init__(
        self,
        *,
        nu: int,
        ny: int,
        nx: int,
        Q: Array,
        S: Array,
        R: Array,
        nv: int = 16,
        rate: float = 1.0,
        activation: Activation | str = Activation.TANH,
        feedthrough: bool = False,
        dt: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            nu=nu, ny=ny, nx=nx, nv=nv, rate=rate, activation=activation, feedthrough=feedthrough, dt=dt, seed=seed
        )
        with representable("the supply"):
            self.supply: Supply = _checked(Q, S, R, nu, ny, feedthrough)
            # Never zero, because Q is not; R may be, as for passivity.
            self._size = float(np.linalg.norm(self.supply.Q, 2) + np.linalg.norm(self.supply.S, 2))
            self._cost = self.supply.times(1 / self._size)
            self._left, self._right = _factors(self.supply)
        size = float(np.linalg.norm(self._left, 2) * np.linalg.norm(self._right, 2))
        rng = generator(self.seed + 2)
        self.N = StrictContraction(ny, nu, size=size) if feedthrough else None
        self.B = normal(rng, nx, nu, std=0.0)
        self.D12i = normal(rng, nv, nu, std=0.0)
        self.gain: Tensor
        self.register_buffer("gain", torch.ones(()))
        D = _middle(self.supply) if feedthrough else np.zeros((ny, nu))
        B = (torch.randn(nx, nu, generator=rng) * 0.3 * nu**-0.5).double().numpy()
        with representable("the supply"):
            self._start_within(Linear(slow_poles(nx, self.rate, rng), B, self.C2.detach().double().numpy(), D))

    @property
    def D22(self) -> Tensor | None:
        """Direct feedthrough, shape (ny, nu); None for a model without feedthrough."""
        if self.N is None:
            return None
        return self._constant(_middle(self.supply)) + self._constant(self._left) @ self.N.matrix() @ self._constant(
            self._right
        )

    @property
    def B2i(self) -> Tensor:
        """Implicit input map, B2 = E^-1 B2i, as a fixed gain times a free B, so that an optimiser can move it."""
        return self.gain * self.B

    @typed()
    @balancing
    def start_linear(self, A: Array, B: Array, C: Array, D: Array | None = None) -> None:
        """Start exactly at the linear model (A, B, C, D), given in scaled units.

        The neurons keep their inputs from state and input, but have no effect yet (B1 = D21 = 0).

        Raises:
            SettingError: The linear model does not dissipate the supply itself, or has a feedthrough where this model
                has none.
        """
        self._start_at(Linear.of((self.nx, self.nu, self.ny), A, B, C, D))

    @torch.no_grad()
    def _start_at(self, linear: Linear) -> None:
        """Set all parameters to start at a linear model that dissipates the supply; see `start_linear`."""
        if self.N is None and linear.D.any():
            raise SettingError("the linear model has a feedthrough D, the network has none: pass feedthrough=True")
        if self.N is not None:
            offset = linear.D - _middle(self.supply)
            self.N.start_at(np.linalg.solve(self._left, offset) @ np.linalg.inv(self._right))
        rng = generator(self.seed + 3)
        D12 = torch.randn(self.nv, self.nu, generator=rng, dtype=torch.float64).numpy() * self.nu**-0.5
        V = np.hstack([self._drive(), D12])
        failure: SettingError | None = None
        # The candidates leave less and less margin: take the first that the parameterisation can represent.
        for storage, weight in storages(linear, V, self._cost, self.rate):
            try:
                self._put(linear, storage, 2 * weight, V)
            except SettingError as error:
                failure = error
            else:
                return
        raise SettingError(self._refusal(linear)) from failure

    def _put(self, linear: Linear, storage: Array, L: float, V: Array) -> None:
        """Set all parameters for a ``storage`` E'P^-1E (nx, nx) and multipliers L of neurons driven by V."""
        n, nv, r2 = self.nx, self.nv, self.rate**2
        E = r2 * storage
        F, C1i, zero = E @ linear.A, L * V[:, :n], np.zeros((n, nv))
        self.gain.copy_(torch.as_tensor(np.linalg.norm(E) / n**0.5))
        for parameter, value in (
            (self.B, E @ linear.B / self.gain.double().cpu().numpy()),
            (self.D12i, L * V[:, n:]),
            (self.C2, linear.C),
        ):
            parameter.copy_(torch.as_tensor(value))
        for free in (self.Y, self.bx, self.by, self.D21):
            if free is not None:
                free.zero_()
        H = np.block([[E, -C1i.T, F.T], [-C1i, 2 * L * np.eye(nv), zero.T], [F, zero, r2 * E]])
        self.H.start_at(H - with_room(self._twin()._added()).numpy())

    def _start_within(self, linear: Linear) -> None:
        """Start at ``linear`` with its inputs and outputs scaled down until it dissipates the supply."""
        for _ in range(60):
            try:
                return self._start_at(linear)
            except SettingError:
                linear = Linear(linear.A, linear.B * 0.7, linear.C * 0.7, linear.D)
        return self._start_at(linear)

    def _refusal(self, linear: Linear) -> str:  # noqa: ARG002  # a gain bound says more
        """Message of the error that refuses ``linear`` as a start."""
        return (
            f"the linear model does not dissipate the supply at rate {self.rate} with room to spare: weaken the supply "
            "or the rate, or start from a linear model that does"
        )

    def _added(self) -> Tensor:
        """Terms that the supply adds to H; see the module docstring."""
        Q, S, R = (self._constant(M) for M in (self._cost.Q, self._cost.S, self._cost.R))
        D22 = self.D22
        C2, D21 = self.C2, self.C2.new_zeros(self.ny, self.nv) if self.D21 is None else self.D21
        cross = S if D22 is None else D22.T @ Q + S
        Rc = R if D22 is None else R + S @ D22 + D22.T @ S.T + D22.T @ Q @ D22
        rows = torch.cat([cross @ C2, cross @ D21 - self.D12i.T, self.B2i.T], dim=1)
        outputs = torch.cat([C2, D21, C2.new_zeros(self.ny, self.nx)], dim=1)
        added: Tensor = rows.T @ torch.linalg.solve(Rc, rows) - outputs.T @ Q @ outputs
        return added

    def _promise(self) -> Promise:
        # Inside, the supply is divided by its size.
        m = self._implicit()
        return Promise(metric_of(m.E, m.P) * self._size, m.L * self._size, self.rate, self.supply)

    def _input_maps(self, implicit: Implicit) -> tuple[Tensor, Tensor, Tensor | None]:
        return torch.linalg.solve(implicit.E, self.B2i), self.D12i / implicit.L[:, None], self.D22

    def _constant(self, value: Array) -> Tensor:
        """Convert a constant to the model's precision; it is kept in float64, so that freezing gets it unrounded."""
        return torch.tensor(value, dtype=self.C2.dtype, device=self.C2.device)


def _checked(Q: Array, S: Array, R: Array, nu: int, ny: int, feedthrough: bool) -> Supply:
    """Make the supply, after checking that the parameterisation exists for it."""
    Q, S, R = as_array("Q", Q, (ny, ny)), as_array("S", S, (nu, ny)), as_array("R", R, (nu, nu))
    if not (np.array_equal(Q, Q.T) and np.array_equal(R, R.T)):
        raise SettingError("Q and R must be symmetric: pass 0.5 * (Q + Q.T)")
    if np.linalg.eigvalsh(Q)[-1] >= 0:
        raise SettingError("Q must be negative definite: use a small multiple of -I where outputs do not count")
    inverse = np.linalg.inv(Q)
    rest = R - S @ inverse @ S.T
    if not all(np.isfinite(M).all() for M in (inverse, rest)):
        raise SettingError("Q^-1 and R - S Q^-1 S' overflow: measure signals in units of their sizes")
    if np.linalg.eigvalsh(rest)[0] <= 0:
        raise SettingError("R - S Q^-1 S' must be positive definite: no system dissipates this supply strictly")
    if not feedthrough and np.linalg.eigvalsh(R)[0] <= 0:
        raise SettingError("without feedthrough R must be positive definite: pass feedthrough=True, or a larger R")
    return Supply.of(Q, S, R)


def _middle(supply: Supply) -> Array:
    """Central feedthrough -Q^-1 S', around which all allowed ones lie."""
    return np.asarray(-np.linalg.solve(supply.Q, supply.S.T), dtype=np.float64)


def _factors(supply: Supply) -> tuple[Array, Array]:
    """Factors LQ^-1 and LR of the module docstring."""
    LQ = np.linalg.cholesky(-supply.Q).T
    LR = np.linalg.cholesky(supply.R - supply.S @ np.linalg.solve(supply.Q, supply.S.T)).T
    return np.asarray(np.linalg.inv(LQ), dtype=np.float64), np.asarray(LR, dtype=np.float64)
