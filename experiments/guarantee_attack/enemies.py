"""Who uses up what is declared: residuals and their drift, noise, input and command errors, references.

At every sample an enemy chooses an extreme point of the declared sets: the corner that moves the output nearest to its
limit over it, by the gradient of the outputs two samples on, or the one that takes the estimate furthest from the
model's own state, by looking at all corners. Others switch at random, ramp as fast as drift allows, or lie still.
"""

from __future__ import annotations

import itertools

import numpy as np

from controlrnn.checks import Array
from experiments.guarantee_attack.loops import Loop
from experiments.guarantee_attack.pool import DRIFT

ENEMIES = ("limit", "estimate", "switch", "ramp", "noise", "edge")
_ODD = (np.nan, np.inf, -np.inf, 1e300)


class Enemy:
    """One of `ENEMIES`.

    Args:
        kind: Which.
        odd: Whether references are sometimes no numbers.
    """

    def __init__(self, kind: str, *, odd: bool = False) -> None:
        self.kind = kind
        self.odd = odd
        self._side: Array | None = None
        self._until = 0
        self._wanted: Array | None = None
        self._wanted_until = -1

    def reference(self, loop: Loop) -> Array:
        """Far outside of the limits, turning around now and then."""
        if loop.t > self._wanted_until or self._wanted is None:
            low, high = loop.member.limits
            ny = len(low)
            self._wanted = 0.5 * (low + high) + loop.rng.uniform(0.5, 3.0) * loop.member.half * loop.rng.choice(
                [-1.0, 1.0], ny
            )
            if self.odd and loop.rng.random() < 0.3:
                self._wanted[loop.rng.integers(ny)] = _ODD[int(loop.rng.integers(len(_ODD)))]
            self._wanted_until = loop.t + int(loop.rng.integers(4, 18))
        return self._wanted

    def command(self, loop: Loop) -> Array:
        """Recorded less commanded input; what repeats a loop commands the same but for rounding."""
        return 0.99 * np.asarray(loop.member.command_error * loop.rng.choice([-1.0, 1.0], len(loop.low)))

    def input(self, loop: Loop) -> Array:
        """True less recorded input."""
        size, nu = loop.member.input_error, len(loop.low)
        if not size.any():
            return np.zeros(nu)
        if self.kind == "limit":
            return np.asarray(size * self._gradient(loop))
        if self.kind == "estimate":
            corners = [size * np.array(c) for c in itertools.product((-1.0, 1.0), repeat=nu)]
            metric, here = loop.controller.observer.error.metric, loop.controller.observer.state
            from_here = loop.system.step(here, loop.u)
            away = [loop.system.step(loop.x, loop.u + c) - from_here for c in corners]
            return np.asarray(corners[int(np.argmax([e @ metric @ e for e in away]))])
        if self.kind in ("edge", "ramp"):
            return np.asarray(size * (1.0 if loop.t // 20 % 2 else -1.0))
        return np.asarray(size * loop.rng.choice([-1.0, 1.0], nu))

    def next(self, loop: Loop, true: Array) -> tuple[Array, Array]:
        """Parts w, of outputs, and v, of readings alone, of the next sample's residual, under the true input (nu,)."""
        member = loop.member
        most = member.residual - member.noise
        w, v = self._wish(loop, true)
        w = np.clip(w, -1, 1) * most
        if member.error_memory is not None:
            w = np.clip(w, loop.w - DRIFT * member.residual, loop.w + DRIFT * member.residual)
        return np.clip(w, -most, most), np.clip(v, -1, 1) * member.noise

    def _wish(self, loop: Loop, true: Array) -> tuple[Array, Array]:
        """The same in shares of what is declared."""
        ny = loop.member.predictor.ny
        if self.kind == "noise":
            return loop.rng.uniform(-1, 1, ny), loop.rng.uniform(-1, 1, ny)
        if self.kind == "ramp":
            wave = np.abs((loop.t / 8 + np.arange(ny)) % 4 - 2) - 1
            return wave, np.sign(wave)
        if self.kind == "limit":
            y = loop.output(loop.system.step(loop.x, true))
            side = np.sign(y - loop.member.limits.mean(axis=0))
            return side, -side  # the reading hides it
        if self.kind == "estimate":
            return self._misleading(loop)
        if self._side is None or loop.t >= self._until:
            self._side = loop.rng.choice([-1.0, 1.0], ny)
            self._until = loop.t + (25 if self.kind == "edge" else int(loop.rng.integers(1, 9)))
        return self._side, self._side if self.kind == "edge" else loop.rng.choice([-1.0, 1.0], ny)

    def _misleading(self, loop: Loop) -> tuple[Array, Array]:
        """The corner that takes an innovation observer's estimate furthest away."""
        ny, observer = loop.member.predictor.ny, loop.controller.observer
        if loop.member.spec.observer != "innovation":
            side = loop.rng.choice([-1.0, 1.0], ny)
            return side, side
        error = loop.x - observer.state
        corners = [np.array(c) for c in itertools.product((-1.0, 1.0), repeat=ny)]
        away = [error - observer.gain @ (c * loop.member.residual) for c in corners]
        side = corners[int(np.argmax([e @ observer.error.metric @ e for e in away]))]
        return side, side

    def _gradient(self, loop: Loop) -> Array:
        """Signs of the inputs that move the output nearest to a limit towards it, two samples on, shape (nu,)."""
        low, high = loop.member.limits
        y = loop.output()
        share = (y - 0.5 * (low + high)) / loop.member.half
        i = int(np.argmax(np.abs(share)))

        def later(u: Array) -> float:
            x = loop.system.step(loop.system.step(loop.x, u), u)
            return float(loop.output(x)[i] * np.sign(share[i]))

        base, step = later(loop.u), 1e-4
        return np.array([1.0 if later(loop.u + step * e) >= base else -1.0 for e in np.eye(len(loop.u))])
