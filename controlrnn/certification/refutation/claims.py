"""Proofs that a claim is false, by a pair of runs that it covers and that breaks it.

Premises (differences within the radii, inputs and states within the boxes) are compared as rational numbers, runs are
computed in ball arithmetic. True means: the claim is false, whatever any proof says. False means only that this pair
does not show it. A premise that is not finite covers no pair; a bound that is NaN or infinity is refuted by none.
"""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING, Any

import numpy as np

from controlrnn.certification.ball.arithmetic import flint, number, precision, row, total
from controlrnn.certification.certificates.contraction import ContractionCertificate
from controlrnn.certification.certificates.delta_iss import DeltaIssCertificate
from controlrnn.certification.certificates.dissipation import DissipationCertificate
from controlrnn.certification.certificates.gains import GainCertificate
from controlrnn.certification.certificates.horizon import HorizonCertificate
from controlrnn.certification.certificates.l2_gain import L2GainCertificate
from controlrnn.certification.certificates.lipschitz import LipschitzCertificate
from controlrnn.certification.certificates.tube import TubeCertificate
from controlrnn.certification.input_error import InputError, InputErrorKind
from controlrnn.certification.refutation.trajectories import (
    BITS,
    Pair,
    Run,
    ball,
    jacobian,
    minus,
    quadratic,
    simulate,
)
from controlrnn.checks import Array
from controlrnn.systems import GatedSystem, LureSystem

if TYPE_CHECKING:
    from flint import arb


def refute_horizon(system: LureSystem, certificate: HorizonCertificate, pair: Pair) -> bool:
    """Whether a pair of runs that the claim covers differs by more than its bounds at a step.

    Args:
        system: The system that the certificate speaks of.
        certificate: The claim.
        pair: Two runs of at most horizon + 1 steps.
    """
    c, steps = certificate, len(pair.u)
    covered = (
        pair.fits(system)
        and steps <= c.horizon + 1
        and _finite(c.input_error.radius, c.input_error.rate)
        and _starts_within(pair, c.metric, c.initial_radius)
        and in_set(InputError.of(c.input_error, system.nu), pair.input_differences())
        and _boxed(pair, c.input_range, c.state_range)
    )
    if not covered:
        return False
    with precision(pair.bits):
        return _apart(*_runs(system, pair), c.bounds)


def refute_gains(system: LureSystem, certificate: GainCertificate, pair: Pair) -> bool:
    """Whether a pair differs by more than the sum of the gains times its differences, at any step.

    Args:
        system: The system that the certificate speaks of.
        certificate: The claim.
        pair: Two runs of at most horizon + 1 steps; to refute one gain, with one difference.
    """
    c, steps = certificate, len(pair.u)
    if not pair.fits(system) or steps > c.horizon + 1:
        return False
    with precision(pair.bits):
        size = quadratic(c.metric, [ball(v) for v in pair.initial_difference()])
        if size < 0:
            return True  # no metric
        du = [[abs(ball(v)) for v in one] for one in pair.input_differences()]
        one, other = _runs(system, pair)
        for k in range(steps):
            for i in range(system.ny):
                most = number(c.initial[k, i]) * _root(size)
                for j in range(k + 1):
                    most += total(g * d for g, d in zip(row(c.inputs[k - j, i]), du[j], strict=True))
                if abs(other.y[k][i] - one.y[k][i]) > most:
                    return True
    return False


def refute_lipschitz(system: LureSystem, certificate: LipschitzCertificate, pair: Pair) -> bool:
    """Whether the last outputs of a pair differ by more than the constant allows.

    Args:
        system: The system that the certificate speaks of.
        certificate: The claim.
        pair: Two runs of horizon + 1 steps.
    """
    c = certificate
    if not pair.fits(system) or len(pair.u) != c.horizon + 1 or not _boxed(pair, c.input_range, c.state_range):
        return False
    given = sum((v * v for one in (pair.initial_difference(), *pair.input_differences()) for v in one), Fraction(0))
    with precision(pair.bits):
        one, other = _runs(system, pair)
        reached = total(v * v for v in minus(other.y[-1], one.y[-1]))
        return c.constant < 0 or bool(reached > number(c.constant) ** 2 * ball(given))


def refute_around(system: LureSystem, certificate: TubeCertificate, pair: Pair) -> bool:
    """Whether a run near the nominal trajectory has outputs farther away than the bounds.

    Args:
        system: The system that the certificate speaks of.
        certificate: The claim.
        pair: The nominal run of the certificate, or its beginning, and the other one.
    """
    c, steps = certificate, len(pair.u)
    # Only a pair that the claim covers, by exact comparison, can refute it.
    covered = (
        pair.fits(system)
        and steps <= c.horizon + 1
        and np.array_equal(pair.x0, c.x0)
        and np.array_equal(pair.u, c.u[:steps])
        and _finite(c.input_radius)
        and _starts_within(pair, c.metric, c.initial_radius)
        and in_set(InputError(radius=c.input_radius), pair.input_differences())
    )
    if not covered:
        return False
    with precision(pair.bits):
        return _apart(*_runs(system, pair), c.bounds)


def refute_contraction(system: LureSystem, certificate: ContractionCertificate, pair: Pair) -> bool:
    """Whether a pair approaches more slowly than the rate and the input gains allow, at any of its steps.

    Args:
        system: The system that the certificate speaks of.
        certificate: The claim.
        pair: Two runs of any length.
    """
    c = certificate
    if not pair.fits(system):
        return False
    with precision(pair.bits):
        sizes, pushes = _sizes(system, c.metric, pair), pair.input_differences()
        if any(size < 0 for size in sizes):
            return True  # no metric
        for t, du in enumerate(pushes):
            push = total(g * abs(ball(v)) for g, v in zip(row(c.input_gain), du, strict=True))
            if sizes[t + 1] > (number(c.rate) * _root(sizes[t]) + push) ** 2:
                return True
    return False


def refute_contraction_at(system: LureSystem, certificate: ContractionCertificate, x: Array, u: Array) -> bool:
    """Whether the derivative of the system at a point has an eigenvalue that no metric contracts at the rate.

    Args:
        system: The system that the certificate speaks of.
        certificate: The claim.
        x: A state, shape (nx,).
        u: An input, shape (nu,).
    """
    with precision(BITS):
        return bool(slowest_mode(system, x, u) > number(certificate.rate))


def slowest_mode(system: LureSystem, x: Array, u: Array) -> arb:
    """Lower bound of the spectral radius of the derivative at (x, u), as a ball; zero where there is none.

    Arguments as `refute_contraction_at`. Eigenvalues are enclosed; where they are too close together for that, from
    |tr J^k| <= nx radius^k for powers k of two.
    """
    J = jacobian(system, x, u)
    best = number(0)
    if J is None:
        return best
    try:
        values = flint().acb_mat(J).eig()
    except ValueError:
        power = J
        for doubled in range(12):
            trace = abs(power.trace()) / system.nx
            best = best.max((trace.abs_lower().log() / 2**doubled).exp().lower()) if trace > 0 else best
            power = power * power
        return best
    for value in values:
        best = best.max(abs(value).abs_lower())
    return best


def refute_dissipation(system: LureSystem, certificate: DissipationCertificate, pair: Pair) -> bool:
    """Whether a pair stores more at a step than the supply allows, or has a larger l2 gain than claimed.

    Args:
        system: The system that the certificate speaks of.
        certificate: The claim, of any supply; of an `L2GainCertificate` also the gain over the whole pair.
        pair: Two runs of any length.
    """
    c = certificate
    if not pair.fits(system):
        return False
    with precision(pair.bits):
        sizes, runs = _sizes(system, c.metric, pair), _runs(system, pair)
        if any(size < 0 for size in sizes):
            return True  # no metric
        du = [[ball(v) for v in one] for one in pair.input_differences()]
        dy = [minus(b, a) for a, b in zip(runs[0].y, runs[1].y, strict=True)]
        for t, (u, y) in enumerate(zip(du, dy, strict=True)):
            cross = total(u[i] * number(c.S[i, j]) * y[j] for i in range(len(u)) for j in range(len(y)))
            supplied = quadratic(c.Q, y) + 2 * cross + quadratic(c.R, u)
            if sizes[t + 1] > number(c.rate) ** 2 * sizes[t] + supplied:
                return True
        if isinstance(c, L2GainCertificate):
            gamma = number(c.gamma)
            seen = total((v / s) ** 2 for y in dy for v, s in zip(y, row(c.output_scale), strict=True))
            given = total((v / s) ** 2 for u in du for v, s in zip(u, row(c.input_scale), strict=True))
            return bool(seen > gamma**2 * given + gamma * sizes[0])
    return False


def refute_delta_iss(system: GatedSystem, certificate: DeltaIssCertificate, pair: Pair) -> bool:
    """Whether a pair leaves the states' bound, or approaches more slowly than the rate and the input gains allow.

    Args:
        system: The system that the certificate speaks of.
        certificate: The claim.
        pair: Two runs from within the states' bound with inputs in their range.
    """
    c = certificate
    starts = all((np.abs(x) <= c.state_bound).all() for x in (pair.x0, pair.other_x0)) if pair.fits(system) else False
    driven = all(((c.input_low <= u) & (u <= c.input_high)).all() for u in (pair.u, pair.other_u)) if starts else False
    if not driven:
        return False
    with precision(pair.bits):
        one, other = _runs(system, pair)
        bound = row(c.state_bound)
        if any(abs(v) > b for run in (one, other) for x in run.x for v, b in zip(x, bound, strict=True)):
            return True
        apart = [
            [abs(a - b) / d for a, b, d in zip(p, q, row(c.scale), strict=True)]
            for p, q in zip(one.x, other.x, strict=True)
        ]
        for t, du in enumerate(pair.input_differences()):
            push = total(g * abs(ball(v)) for g, v in zip(row(c.input_gain), du, strict=True))
            most = number(0)
            for v in apart[t]:
                most = most.max(v)
            if any(v > number(c.rate) * most + push for v in apart[t + 1]):
                return True
    return False


def in_set(error: InputError, differences: list[list[Fraction]]) -> bool:
    """Whether input differences, T lists of nu, belong to a set of input errors.

    Args:
        error: The set, with a radius per channel.
        differences: Exact numbers.
    """
    b = [Fraction(float(v)) for v in error.b]
    if error.kind is InputErrorKind.BALL:
        return all(
            all(not v for v, r in zip(one, b, strict=True) if not r)
            and sum(((v / r) ** 2 for v, r in zip(one, b, strict=True) if r), Fraction(0)) <= 1
            for one in differences
        )
    inside = all(abs(v) <= r for one in differences for v, r in zip(one, b, strict=True))
    if error.kind is InputErrorKind.FEW and error.steps is not None:
        return inside and sum(any(one) for one in differences) <= error.steps
    if error.kind is InputErrorKind.CONSTANT:
        return inside and all(one == differences[0] for one in differences)
    if error.rate is not None:
        rate = [Fraction(float(v)) for v in np.broadcast_to(np.asarray(error.rate), error.b.shape)]
        pairs = zip(differences[1:], differences[:-1], strict=True)
        return inside and all(abs(p - q) <= r for a, c in pairs for p, q, r in zip(a, c, rate, strict=True))
    return inside


def _finite(*premises: Any) -> bool:
    """Whether premises are numbers; others cover no pair."""
    return all(one is None or bool(np.isfinite(one).all()) for one in premises)


def _starts_within(pair: Pair, metric: Array, radius: float) -> bool:
    """Whether the initial difference lies within the radius, in the metric; exact."""
    if not _finite(metric, radius):
        return False
    dx = pair.initial_difference()
    M = [[Fraction(float(v)) for v in line] for line in metric]
    size = sum((dx[i] * M[i][j] * dx[j] for i in range(len(dx)) for j in range(len(dx))), Fraction(0))
    return bool(size <= Fraction(float(radius)) ** 2)


def _boxed(pair: Pair, inputs: Array, states: Array) -> bool:
    """Whether inputs and initial states of both runs lie in the boxes."""
    if not inputs.size and not states.size:
        return True
    u = all(((inputs[0] <= one) & (one <= inputs[1])).all() for one in (pair.u, pair.other_u))
    return u and all(((states[0] <= x) & (x <= states[1])).all() for x in (pair.x0, pair.other_x0))


def _runs(system: Any, pair: Pair) -> tuple[Run, Run]:
    """Simulate both runs of a pair."""
    return (
        simulate(system, row(pair.x0), pair.u.tolist()),
        simulate(system, row(pair.other_x0), pair.other_u.tolist()),
    )


def _apart(one: Run, other: Run, bounds: Array) -> bool:
    """Whether outputs differ by more than the bounds of their step."""
    return any(
        abs(a - b) > number(most)
        for p, q, line in zip(one.y, other.y, bounds, strict=False)
        for a, b, most in zip(p, q, line, strict=True)
    )


def _sizes(system: LureSystem, P: Array, pair: Pair) -> list[arb]:
    """Squared differences |dx|_P^2 of the states at every step."""
    one, other = _runs(system, pair)
    first = quadratic(P, [ball(v) for v in pair.initial_difference()])
    return [first, *(quadratic(P, minus(b, a)) for a, b in zip(one.x[1:], other.x[1:], strict=True))]


def _root(square: arb) -> arb:
    """Square root of a ball that is known to be >= 0, though the ball may reach below zero."""
    return square.max(number(0)).sqrt()
