"""A small network, its plant, and the sizes used by all hostile calls."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from controlrnn.data import Signal
from controlrnn.systems import LureSystem

N, NX, NU, NY, WASHOUT = 4, 3, 2, 2, 6


def network(seed: int, *, nx: int = NX, nu: int = NU, ny: int = NY, norm: float = 0.7) -> LureSystem:
    """The network x+ = tanh(W x + U u + b), y = C x + d with |W|_2 = norm."""
    rng, zero = np.random.default_rng(seed), np.zeros
    W = rng.standard_normal((nx, nx))
    return LureSystem(
        A=zero((nx, nx)), B1=np.eye(nx), B2=zero((nx, nu)), bx=zero(nx),
        C1=W * norm / np.linalg.norm(W, 2), D11=zero((nx, nx)), D12=0.5 * rng.standard_normal((nx, nu)), bv=zero(nx),
        C2=rng.standard_normal((ny, nx)), D21=zero((ny, nx)), D22=zero((ny, nu)), by=zero(ny),
        layers=(nx,), dt=1.0,
    )  # fmt: skip


def signals(letter: str, n: int, limit: float) -> tuple[Signal, ...]:
    """Make channels with limits of both signs."""
    return tuple(Signal(f"{letter}{i + 1}", "m", -limit, limit) for i in range(n))


class Plant:
    """The network itself as a plant, whose state can be set."""

    def __init__(self, system: LureSystem) -> None:
        self.system = system
        self.dt = system.dt
        self.nx = system.nx
        self.nw = system.nx
        self.inputs = signals("u", system.nu, 1.0)
        self.outputs = signals("y", system.ny, 4.0)

    def initial_state(self) -> Any:
        """State zero."""
        return np.zeros(self.nx)

    def step(self, x: Any, u: Any, w: Any = None) -> Any:
        """Next state of the network; ``w`` is added to the state."""
        return self.system.step(x, u) + (0.0 if w is None else w)

    def output(self, x: Any, u: Any) -> Any:
        """Output of the network."""
        return self.system.output(x, u)


def fields_of(instance: Any) -> dict[str, Any]:
    """Constructor arguments that make a dataclass anew."""
    return {f.name: getattr(instance, f.name) for f in fields(instance) if f.init}
