"""Lower bounds of Lipschitz constants: ascent on the gain of the linearisation along a trajectory.

Two runs a distance h apart in the direction d have outputs J d apart, so that their difference is a lower bound of the
constant, and the difference of their gradients is the derivative of |J d| by the trajectory: ascent needs no second
derivatives. The direction follows by power iteration, d <- J'J d, the trajectory by Adam with a falling rate. Where an
ascent starts decides what it finds: random inputs keep a network in its saturation, so that half of the starts are
operating points, states that held or slowly changing inputs lead to, and the best runs of the last length go on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from controlrnn.checks import Array
from controlrnn.kernels import Recording
from controlrnn.systems import LureSystem

_H = 1e-4  # distance of the two runs: its square is small, and rounding divided by it too
_CARRIED = 4


@dataclass(frozen=True, eq=False)
class Reached:
    """Largest gains found per sequence length.

    Args:
        ascent: Largest gains after the ascent.
        random: Largest gains of as many random trajectories in the box, along their own worst directions.
    """

    ascent: list[float]
    random: list[float]


def attack_lengths(
    system: LureSystem,
    lengths: Sequence[int],
    *,
    input_limit: float,
    state_limit: float,
    boxed: bool,
    inputs_differ: bool = True,
    states_differ: bool = True,
    starts: int = 32,
    steps: int = 120,
    seed: int,
) -> Reached:
    """Lower bounds of the constant from (initial state, inputs) to the last output, for rising lengths.

    Args:
        system: A frozen system.
        lengths: Steps from the initial state to the output that is looked at, rising.
        input_limit: Starts have inputs within plus and minus this, in every channel.
        state_limit: The same for initial states.
        boxed: Whether the ascent has to stay within these limits.
        inputs_differ: Whether inputs of the two runs differ.
        states_differ: Whether their initial states differ.
        starts: Random starts per length.
        steps: Steps of the ascent.
        seed: Seed of the starts.
    """
    rng = np.random.default_rng(seed)
    ascent, random = [], []
    carried: tuple[Array, Array] | None = None
    for length in lengths:
        u, x = _starts(system, length, input_limit, state_limit, starts, rng)
        if carried is not None:
            more = np.repeat(carried[0][:, :1], length + 1 - carried[0].shape[1], axis=1)
            u, x = np.concatenate([np.concatenate([more, carried[0]], axis=1), u]), np.concatenate([carried[1], x])
        climb = _Ascent(system, u, x, inputs_differ, states_differ, rng)
        limits = (input_limit - _H, state_limit - _H) if boxed else (np.inf, np.inf)
        climb.run(steps, limits)
        # Random trajectories stand last; what they have before they climb is random sampling at its best.
        random.append(float(climb.first[-(starts - starts // 2) :].max()))
        ascent.append(float(climb.best.max()))
        top = np.argsort(climb.best)[-_CARRIED:]
        carried = climb.best_u[top], climb.best_x[top]
    return Reached(ascent, random)


def _starts(
    system: LureSystem, length: int, u_limit: float, x_limit: float, starts: int, rng: np.random.Generator
) -> tuple[Array, Array]:
    """Starting inputs (starts, length + 1, nu) and states (starts, nx): settled runs first, then random ones."""
    T, m, settled = length + 1, system.nu, starts // 2
    size = u_limit * rng.uniform(0, 1, (settled, 1, 1))
    hold = int(rng.integers(5, 30))
    slow = size * np.repeat(rng.uniform(-1, 1, (settled, (200 + T) // hold + 1, m)), hold, axis=1)
    slow[::2] = slow[::2, :1]
    x = system.simulate(slow[:, :200])[1][:, 200]
    u = rng.uniform(-u_limit, u_limit, (starts - settled, T, m))
    away = rng.uniform(-x_limit, x_limit, (starts - settled, system.nx))
    return np.concatenate([slow[:, 200 : 200 + T], u]), np.concatenate([x, away])


class _Ascent:
    """Gradient ascent of one batch of trajectories."""

    def __init__(
        self,
        system: LureSystem,
        u: Array,
        x: Array,
        inputs_differ: bool,
        states_differ: bool,
        rng: np.random.Generator,
    ) -> None:
        self.system = system
        self.u = u
        self.x = x
        self.masks = float(inputs_differ), float(states_differ)
        self.du = rng.normal(size=u.shape)
        self.dx = rng.normal(size=x.shape)
        self.best = np.zeros(len(u))
        self.first = np.zeros(len(u))
        self.best_u = u.copy()
        self.best_x = x.copy()

    def run(self, steps: int, limits: tuple[float, float], *, settle: int = 8, rate: float = 0.1) -> None:
        """Run the ascent; the first ``settle`` steps only turn the directions."""
        moments = [np.zeros_like(a) for a in (self.u, self.x, self.u, self.x)]
        for step in range(settle + steps):
            gain, slopes = self._gains()
            better = gain > self.best
            self.best = np.maximum(gain, self.best)
            self.best_u[better], self.best_x[better] = self.u[better], self.x[better]
            if step < settle:
                self.first = self.best.copy()
                continue
            n = step - settle + 1
            size = rate * 0.5 * (1 + np.cos(np.pi * n / (steps + 1)))
            for k, (value, limit) in enumerate(zip((self.u, self.x), limits, strict=True)):
                g = slopes[k] / np.maximum(gain, 1e-300).reshape(-1, *[1] * (value.ndim - 1))
                first, second = moments[k], moments[k + 2]
                first += 0.1 * (g - first)
                second += 0.01 * (g * g - second)
                value += size * (first / (1 - 0.9**n)) / (np.sqrt(second / (1 - 0.99**n)) + 1e-12)
                np.clip(value, -limit, limit, out=value)

    def _gains(self) -> tuple[Array, tuple[Array, Array]]:
        """Gains (S,) along the directions and their derivatives by u and x; also turns the directions."""
        du, dx = self.du * self.masks[0], self.dx * self.masks[1]
        size = np.maximum(np.sqrt((du**2).sum(axis=(1, 2)) + (dx**2).sum(axis=1)), 1e-300)
        du, dx = du / size[:, None, None], dx / size[:, None]
        one, two = (Recording(self.system, self.u + 0.5 * h * du, self.x + 0.5 * h * dx) for h in (_H, -_H))
        dy = (one.y[:, -1] - two.y[:, -1]) / _H
        gain = np.linalg.norm(dy, axis=1)
        seed_y = np.zeros_like(one.y)
        seed_y[:, -1] = dy / np.maximum(gain, 1e-300)[:, None]
        (pu, px), (mu, mx) = one.pullback(seed_y), two.pullback(seed_y)
        self.du = 0.5 * (pu + mu)
        self.dx = 0.5 * (px + mx)
        return gain, ((pu - mu) / _H, (px - mx) / _H)
