"""Ball-arithmetic check of a `ReinitialisationCertificate`: state errors of washout, running on and observer.

Every part is proven by itself, and that the parts cover what they are put together for: radii without rounding, the
observer's dynamics A - L C with and without rounding, and horizons that hold everywhere, not in boxes of their own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from controlrnn.certification.ball import fields, intervals
from controlrnn.certification.ball.arithmetic import (
    Row,
    column,
    matrix,
    number,
    row,
    semidefinite,
    total,
)
from controlrnn.certification.ball.contraction import check_contraction
from controlrnn.certification.ball.horizon import check_horizon, holds
from controlrnn.certification.ball.model import Plant, neurons, next_states
from controlrnn.certification.certificates.contraction import ContractionCertificate
from controlrnn.certification.certificates.horizon import HorizonCertificate
from controlrnn.certification.certificates.reinitialisation import ReinitialisationCertificate
from controlrnn.checks import Array
from controlrnn.errors import CertificationError
from controlrnn.systems import Activation, LureSystem
from controlrnn.systems.observer import observer_system

if TYPE_CHECKING:
    from flint import arb, arb_mat

_SHRINKINGS = 100


def check_reinitialisation(system: LureSystem, c: ReinitialisationCertificate) -> float:
    """Prove a re-initialisation certificate; returns the least relative pivot of its parts."""
    W, N = fields.length("washout", c.washout), fields.length("horizon", c.horizon)
    nx, nu, ny = system.nx, system.nu, system.ny
    low, high = (fields.array(n, getattr(c, n), (nu,)) for n in ("input_low", "input_high"))
    if (low > high).any():
        raise CertificationError("input_low must be <= input_high: the file was altered")
    error = fields.array("input_error", c.input_error, (nu,), least=0.0)
    start = fields.array("start", c.start, (nx,))
    radius = fields.scalar("radius", c.radius, above=-5e-324)
    gain = fields.array("observer_gain", c.observer_gain, (nx, ny))
    residual = fields.array("residual_bound", c.residual_bound, (ny,), least=0.0)
    _same_system(system, c.contraction, c.washed, c.running)
    plant = Plant.of(system)
    margin = check_contraction(plant, c.contraction)
    needed = settled_radius(system, c.contraction, start, low, high)
    holds(needed <= number(radius), needed > number(radius))
    P, lasting = c.contraction.metric, _pushed(c.contraction, error, None)
    margin = min(margin, _covers(system, c.washed, P, number(radius), error, W + N))
    margin = min(margin, _covers(system, c.running, P, lasting, error, W + N))
    if lasting > number(c.running_error):
        raise CertificationError("the error of running on is larger than said: the file was altered")
    for steps in range(W + 1):
        # Radii are claimed for every length of the washout, computed in float64.
        left = number(c.contraction.rate) ** steps * number(radius) + _pushed(c.contraction, error, steps)
        holds(left <= number(c.washout_error(steps)), left > number(c.washout_error(steps)))
    if (c.observer is None) != (c.observed is None):
        raise CertificationError("observer and observed belong together: the file was altered")
    if c.observer is not None and c.observed is not None:
        _same_system(system, c.observed)
        rounded = observer_system(system, gain)
        _same_system(rounded, c.observer)
        # What runs is one of the two, or neither where it rounds otherwise: both are proven.
        margin = min(margin, check_contraction(plant.observer(gain), c.observer))
        margin = min(margin, check_contraction(Plant.of(rounded), c.observer))
        push = np.concatenate([error, residual])
        margin = min(margin, _observes(c, c.observer, c.observed, push))
        margin = min(margin, _covers(system, c.observed, c.observer.metric, number(0), error, N))
    return margin


def _same_system(system: LureSystem, *parts: ContractionCertificate | HorizonCertificate) -> None:
    """Raise a CertificationError unless all parts are about this system."""
    if any(part.system_digest != system.digest for part in parts):
        raise CertificationError("a part speaks of another system: the file was altered")


def _pushed(c: ContractionCertificate, error: Array, steps: int | None) -> arb:
    """Effect of input errors, (1 - rate^steps) / (1 - rate) sum_c gain_c error_c; the limit for None."""
    rate, push = number(c.rate), total(g * e for g, e in zip(row(c.input_gain), row(error), strict=True))
    grown = number(1) if steps is None else 1 - rate**steps
    return grown / (1 - rate) * push


def _covers(
    system: LureSystem, outputs: HorizonCertificate, metric: Array, radius: arb, error: Array, horizon: int
) -> float:
    """Prove a horizon certificate and that it covers this radius and these errors, for all states and inputs."""
    if outputs.input_range.size or outputs.state_range.size:
        raise CertificationError("outputs are bounded inside of boxes only, which nothing keeps: the file was altered")
    if outputs.horizon != horizon or not np.array_equal(outputs.metric, metric):
        raise CertificationError(f"outputs must be bounded over {horizon} steps in the metric of the state's error")
    margin = check_horizon(system, outputs)
    if not (outputs.input_radius >= error).all():
        raise CertificationError("outputs are bounded for smaller input errors: the file was altered")
    covered = number(outputs.initial_radius)
    holds(radius <= covered, radius > covered)
    return margin


def _observes(
    c: ReinitialisationCertificate, observer: ContractionCertificate, observed: HorizonCertificate, push: Array
) -> float:
    """Prove the observer's error after every number of steps: q^W k R0 + pushed, with k^2 P >= S."""
    first = None
    for steps in range(c.washout + 1):
        claimed = [number(c.observer_error(steps))]
        if steps == c.washout:
            claimed.append(number(observed.initial_radius))
        for most in claimed:
            room = most - _pushed(observer, push, steps)
            if not c.radius:
                holds(room >= 0, room < 0)
            else:
                # The largest k that this claim allows; the least of all has to satisfy k^2 P >= S.
                k = room / (number(observer.rate) ** steps * number(c.radius))
                holds(k >= 0, k < 0)
                first = k if first is None else first.min(k)
    if first is None:
        return np.inf
    return semidefinite(first**2 * matrix(c.contraction.metric) - matrix(observer.metric))


def settled_radius(system: LureSystem, c: ContractionCertificate, centre: Array, low: Array, high: Array) -> arb:
    """Upper bound of the distance from ``centre`` to any settled state, in the metric.

    |x+ - centre| <= rate |x - centre| + gain' |u - middle| + |f(centre, middle) - centre| bounds it by a ball; the
    images of any box that holds all settled states hold them too, and so do intersections.
    """
    P, mid = matrix(c.metric), [(number(a) + number(b)) / 2 for a, b in zip(low, high, strict=True)]
    point = row(centre)
    ends = [v.lower() for v in mid], [v.upper() for v in mid]
    moved = _step(system, (point, point), ends)
    half = [(number(b) - number(a)) / 2 for a, b in zip(low, high, strict=True)]
    push = total(g * h for g, h in zip(row(c.input_gain), half, strict=True))
    ball = ((push + _farthest(moved, point, P)) / (1 - number(c.rate))).upper()
    inverse = P.inv()
    # |e_i| <= sqrt((P^-1)_ii) |e|_P.
    spread = [(inverse[i, i].sqrt() * ball).upper() for i in range(len(point))]
    box = (
        [(x - s).lower() for x, s in zip(point, spread, strict=True)],
        [(x + s).upper() for x, s in zip(point, spread, strict=True)],
    )
    inputs = row(low), row(high)
    bounded = _bounded_box(system, inputs)
    if bounded is not None:
        box = _intersection(box, bounded)
    for _ in range(_SHRINKINGS):
        smaller = _intersection(box, _step(system, box, inputs))
        before, after = (total(b - a for a, b in zip(*one, strict=True)) for one in (box, smaller))
        box = smaller
        if before - after <= after * number(1e-6):
            break
    return ball.min(_farthest(box, point, P))


def _step(system: LureSystem, x: intervals.Box, u: intervals.Box) -> intervals.Box:
    """Intervals of the next state."""
    return next_states(system, x, neurons(system, x, u)[1], u)


def _intersection(a: intervals.Box, b: intervals.Box) -> intervals.Box:
    """Intersection of two boxes."""
    return [p.max(q) for p, q in zip(a[0], b[0], strict=True)], [p.min(q) for p, q in zip(a[1], b[1], strict=True)]


def _farthest(box: intervals.Box, centre: Row, P: arb_mat) -> arb:
    """Bound on |x - centre|_P over a box: the distance to its middle plus that to its farthest point."""
    offset = [(a + b) / 2 - c for a, b, c in zip(*box, centre, strict=True)]
    half = [(b - a) / 2 for a, b in zip(*box, strict=True)]
    table = P.tolist()
    n = range(len(table))
    straight = total(offset[i] * table[i][j] * offset[j] for i in n for j in n)
    rest = total(half[i] * abs(table[i][j]) * half[j] for i in n for j in n)
    return (straight.max(number(0)).sqrt() + rest.sqrt()).upper()


def _bounded_box(system: LureSystem, inputs: intervals.Box) -> intervals.Box | None:
    """Box |x - c| <= r, r = |A| r + p, of settled states with bounded activations; None where there is none.

    (I - |A|) q = (1, .., 1) with q > 0 shows that I - |A| is an M-matrix, whose inverse is >= 0: then every bounded
    sequence with |x+ - c| <= |A| |x - c| + p since ever satisfies |x - c| <= r.
    """
    if system.activation not in (Activation.TANH, Activation.SIGMOID):
        return None
    n, least = system.nx, -1 if system.activation is Activation.TANH else 0
    w = [number(least)] * system.nv, [number(1)] * system.nv
    A, zero = matrix(system.A), row(np.zeros(system.nx))
    push = intervals.added(
        intervals.image([row(line) for line in system.B1], w, row(system.bx)),
        intervals.image([row(line) for line in system.B2], inputs, zero),
    )
    eye = matrix(np.eye(n))
    shrinks = eye - matrix(np.abs(system.A))
    try:
        q = shrinks.solve(column([number(1)] * n))
    except ZeroDivisionError:
        return None
    if not all(q[i, 0] > 0 for i in range(n)):
        return None
    centre = (eye - A).solve(column([(a + b) / 2 for a, b in zip(*push, strict=True)])).mid()
    # Around a middle that is not exact the push is off by as much as A moves it.
    drift = A * centre - centre
    off = [(a + drift[i, 0], b + drift[i, 0]) for i, (a, b) in enumerate(zip(*push, strict=True))]
    p = [a.abs_upper().max(b.abs_upper()) for a, b in off]
    r = shrinks.solve(column(p))
    return [(centre[i, 0] - r[i, 0]).lower() for i in range(n)], [(centre[i, 0] + r[i, 0]).upper() for i in range(n)]
