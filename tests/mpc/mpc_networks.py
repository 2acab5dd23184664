"""Small contracting networks with certificates that follow from norms alone, and plants made of such networks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from controlrnn.certification import ContractionCertificate
from controlrnn.data import Signal
from controlrnn.errors import CertificationError
from controlrnn.systems import LureSystem, observer_system
from experiments.shared.declared_probability import declared_error as declared_error  # of tests, too


def elman(nx: int = 4, nu: int = 2, ny: int = 2, *, rate: float = 0.8, seed: int = 8, gain: float = 0.5) -> LureSystem:
    """x+ = tanh(A x + B u + b), y = C x + c with |A|_2 = rate: it contracts at that rate in the 2-norm."""
    rng = np.random.default_rng(seed)
    A = rng.standard_normal((nx, nx))
    return LureSystem(
        A=np.zeros((nx, nx)),
        B1=np.eye(nx),
        B2=np.zeros((nx, nu)),
        bx=np.zeros(nx),
        C1=A * rate / np.linalg.norm(A, 2),
        D11=np.zeros((nx, nx)),
        D12=gain * rng.standard_normal((nx, nu)),
        bv=0.1 * rng.standard_normal(nx),
        C2=rng.standard_normal((ny, nx)) / np.sqrt(nx),
        D21=np.zeros((ny, nx)),
        D22=np.zeros((ny, nu)),
        by=0.1 * rng.standard_normal(ny),
        layers=(nx,),
        dt=1.0,
    )


@dataclass(frozen=True, eq=False)
class NormContraction:
    """Contraction by the triangle inequality, for slopes in [0, 1] and D11 = 0; P is the identity."""

    system_digest: str
    rate: float
    metric: np.ndarray
    input_gain: np.ndarray
    digest: str = 64 * "0"

    @classmethod
    def of(cls, system: LureSystem) -> NormContraction:
        norm = np.linalg.norm
        through = norm(system.B1, 2)
        rate = norm(system.A, 2) + through * norm(system.C1, 2)
        assert rate < 1
        gain = norm(system.B2, axis=0) + through * norm(system.D12, axis=0)
        return cls(system.digest, float(rate), np.eye(system.nx), gain)

    error_after = ContractionCertificate.error_after

    def verify(self, system: LureSystem) -> float:
        if system.digest != self.system_digest:
            raise CertificationError("another system")
        return 1.0

    def prove_observer(self, system: LureSystem, gain: np.ndarray) -> float:
        return self.verify(observer_system(system, gain))


@dataclass(frozen=True, eq=False)
class NormHorizon:
    """The horizon bound that follows from `NormContraction`."""

    system_digest: str
    bounds: np.ndarray
    horizon: int
    initial_radius: float
    metric: np.ndarray
    input_radius: np.ndarray
    input_range: np.ndarray = field(default_factory=lambda: np.zeros((2, 0)))
    digest: str = 64 * "0"

    @classmethod
    def of(cls, system: LureSystem, horizon: int, radius: float, input_radius: Any = 0.0) -> NormHorizon:
        one = NormContraction.of(system)
        d = np.broadcast_to(input_radius, (system.nu,))
        fade = one.rate ** np.arange(horizon + 1)
        state = fade * radius + one.input_gain @ d * (1 - fade) / (1 - one.rate)
        bounds = state[:, None] * np.linalg.norm(system.C2, axis=1)
        return cls(system.digest, bounds, horizon, radius, np.eye(system.nx), d)

    verify = NormContraction.verify


@dataclass(frozen=True, eq=False)
class LurePlant:
    """A plant made of a network; ``w`` acts on the outputs (held in no state, bounded by whoever passes it)."""

    system: LureSystem
    inputs: tuple[Signal, ...]
    outputs: tuple[Signal, ...]

    @property
    def dt(self) -> float:
        return self.system.dt

    @property
    def nx(self) -> int:
        return self.system.nx + self.system.ny

    @property
    def nw(self) -> int:
        return self.system.ny

    def initial_state(self) -> np.ndarray:
        return np.zeros(self.nx)

    def step(self, x: Any, u: Any, w: Any = None) -> np.ndarray:
        push = np.zeros(self.system.ny) if w is None else np.asarray(w)
        return np.concatenate([self.system.step(x[: self.system.nx], u), push])

    def output(self, x: Any, u: Any) -> Any:
        return self.system.output(x[: self.system.nx], u) + x[self.system.nx :]


def signals(letter: str, n: int, limit: float) -> tuple[Signal, ...]:
    return tuple(Signal(f"{letter}{i + 1}", lower=-limit, upper=limit) for i in range(n))


def switching(rng: np.random.Generator, steps: int, nu: int, hold: int = 5) -> np.ndarray:
    """Inputs at their limits, the worst that the actuators can do."""
    return np.repeat(rng.choice([-1.0, 1.0], (steps // hold + 1, nu)), hold, axis=0)[:steps]
