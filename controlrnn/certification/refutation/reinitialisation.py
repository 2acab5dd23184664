"""Proof that the claim of a `ReinitialisationCertificate` is false, by a scenario of inputs since the far past."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from controlrnn.certification.ball.arithmetic import Row, matrix, number, precision, row, total
from controlrnn.certification.ball.contraction import check_contraction
from controlrnn.certification.ball.model import Plant
from controlrnn.certification.certificates.reinitialisation import ReinitialisationCertificate
from controlrnn.certification.refutation.trajectories import BITS, Run, minus, quadratic, simulate, step
from controlrnn.checks import Array, as_array, read_only
from controlrnn.errors import CertificationError, ShapeError
from controlrnn.systems import LureSystem

if TYPE_CHECKING:
    from flint import arb


@dataclass(frozen=True, eq=False)
class Scenario:
    """True and recorded inputs: constant since the far past, then over W steps and the horizon.

    Args:
        past: True input up to the first step, shape (nu,).
        recorded_past: Recorded input up to the first step, shape (nu,).
        u: True inputs from the first step on, shape (T, nu).
        recorded: Recorded or planned ones, likewise.
        washout: W, the step at which the prediction starts; outputs are compared from there on.
        residual: Measurement minus model's output at the first W steps, shape (W, ny); None for zero.

    Raises:
        ShapeError, DataError: They do not fit together, or are not finite.
    """

    past: Array
    recorded_past: Array
    u: Array
    recorded: Array
    washout: int
    residual: Array | None = None

    def __post_init__(self) -> None:
        u = as_array("u", self.u, ("T", "nu"))
        shapes = {"past": u.shape[1:], "recorded_past": u.shape[1:], "u": u.shape, "recorded": u.shape}
        for name, shape in shapes.items():
            object.__setattr__(self, name, read_only(as_array(name, getattr(self, name), shape)))
        if self.residual is not None:
            object.__setattr__(self, "residual", read_only(as_array("residual", self.residual, (self.washout, "ny"))))
        if not 0 <= self.washout < len(u):
            raise ShapeError(f"u must have more than washout = {self.washout} rows, got {len(u)}: add the horizon's")


def refute_reinitialisation(system: LureSystem, certificate: ReinitialisationCertificate, scenario: Scenario) -> bool:
    """Whether a scenario that the claim covers has a larger error of the state or of an output than claimed.

    States that the far past led to are enclosed with the certificate's contraction, once that is proven; a certificate
    whose contraction is false is for `refute_contraction`.

    Args:
        system: The system that the certificate speaks of.
        certificate: The claim.
        scenario: At most washout + horizon + 1 steps.
    """
    c, s = certificate, scenario
    if not _covered(system, c, s):
        return False
    with precision(BITS):
        try:
            check_contraction(Plant.of(system), c.contraction)
            settled = _settled(system, c, s.past)
            # A model that ran on since the far past is at the recorded input's equilibrium.
            recorded_state = _settled(system, c, s.recorded_past)
        except CertificationError:
            return False
        P, start = c.contraction.metric, row(c.start)
        if quadratic(P, minus(settled, start)) > number(c.radius) ** 2:
            return True
        true = simulate(system, settled, s.u.tolist())
        washed = simulate(system, start, s.recorded.tolist())
        running = simulate(system, recorded_state, s.recorded.tolist())
        W = s.washout
        found = _worse(true, washed, W, P, c.washout_error(W), c.output_bounds(W))
        found = found or _worse(true, running, W, P, c.running_error, c.running_bounds)
        if c.observer is None or c.observed is None or found:
            return found
        # Outputs after the observer are claimed for the full washout alone.
        bounds = c.observed.bounds if c.washout == W else np.full_like(c.observed.bounds, np.inf)
        observed = _observe(system, c, s, true)
        return _worse(true, observed, W, c.observer.metric, c.observer_error(W), bounds)


def _covered(system: LureSystem, c: ReinitialisationCertificate, s: Scenario) -> bool:
    """Whether the scenario's inputs, errors and lengths are among those that the certificate covers."""
    if s.u.shape[1] != system.nu or s.washout > c.washout or len(s.u) > s.washout + c.horizon + 1:
        return False
    u, recorded = np.vstack([s.past, s.u]), np.vstack([s.recorded_past, s.recorded])
    inside = bool(((c.input_low <= u) & (u <= c.input_high)).all())
    if s.residual is not None:
        inside = inside and bool((np.abs(s.residual) <= c.residual_bound).all())
    with precision(BITS):
        close = all(
            abs(number(a) - number(b)) <= number(e)
            for one, other in zip(u, recorded, strict=True)
            for a, b, e in zip(one, other, c.input_error, strict=True)
        )
    return inside and close


def _settled(system: LureSystem, c: ReinitialisationCertificate, u: Array) -> Row:
    """Enclosure of a constant input's equilibrium: |x - equilibrium| <= |f(x) - x| / (1 - rate) in the metric."""
    x = row(system.simulate(np.tile(u, (2000, 1)))[1][-1])
    for _ in range(20):
        x = [v.mid() for v in step(system, x, row(u))[0]]
    P = c.contraction.metric
    moved = minus(step(system, x, row(u))[0], x)
    away = (quadratic(P, moved).max(number(0)).sqrt() / (1 - number(c.contraction.rate))).upper()
    inverse = matrix(P).inv()
    return [v + _within((inverse[i, i].sqrt() * away).upper()) for i, v in enumerate(x)]


def _within(radius: arb) -> arb:
    """Ball of all numbers between -radius and radius."""
    made: arb = radius.union(-radius)
    return made


def _worse(true: Run, other: Run, W: int, P: Array, error: float, bounds: Array) -> bool:
    """Whether the state at step W, or an output from there on, is farther off than claimed."""
    if quadratic(P, minus(other.x[W], true.x[W])) > number(error) ** 2:
        return True
    return any(
        abs(a - b) > number(most)
        for p, q, line in zip(true.y[W:], other.y[W:], bounds, strict=False)
        for a, b, most in zip(p, q, line, strict=True)
    )


def _observe(system: LureSystem, c: ReinitialisationCertificate, s: Scenario, true: Run) -> Run:
    """Run an innovation observer over the first W steps, then predict."""
    x, states, outputs = row(c.start), [row(c.start)], []
    L = [row(line) for line in c.observer_gain]
    for t, u in enumerate(s.recorded):
        after, y = step(system, x, row(u))
        if t < s.washout:
            extra = [number(0)] * system.ny if s.residual is None else row(s.residual[t])
            innovation = [a + e - b for a, e, b in zip(true.y[t], extra, y, strict=True)]
            pulled = (total(g * i for g, i in zip(line, innovation, strict=True)) for line in L)
            after = [v + p for v, p in zip(after, pulled, strict=True)]
        states.append(after)
        outputs.append(y)
        x = after
    return Run(states, outputs)
