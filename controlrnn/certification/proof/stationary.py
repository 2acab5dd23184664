"""Theorems over the infinite horizon: contraction and incremental dissipation.

    contraction   rate^2 P - T'PT - S(lambda) > 0 without inputs, gain_c^2 - T_c'PT_c - S(lambda_c) > 0 at equal states
    dissipation   blkdiag(rate^2 P, 0, 0) + (dy, du)'[Q S'; S R](dy, du) - T'PT - S(lambda) > 0

All numbers are taken as exact; squares and products of them are enclosed (proofs of the claims:
docs/theory/contraction.md and docs/theory/dissipation.md).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlrnn.certification.proof.arithmetic.definite import definite_margin
from controlrnn.certification.proof.arithmetic.enclosure import (
    TINY,
    Array,
    Enclosure,
    divide_down,
    divide_up,
    sum_up,
    times_up,
)
from controlrnn.certification.proof.arithmetic.matrices import Matrices
from controlrnn.certification.proof.incremental import IncrementalForm, add_supply, demand, proven_margins
from controlrnn.checks import count
from controlrnn.errors import CertificationError, SettingError


def prove_contraction(
    system: Matrices,
    rate: float,
    metric: Array,
    multipliers: Array,
    input_gain: Array,
    input_multipliers: Array,
    *,
    room: float = 1.0,
    spread: Array | None = None,
) -> float:
    """Prove |x1+ - x2+|_P <= rate |x1 - x2|_P + sum_c gain_c |u1_c - u2_c|; returns the smallest margin.

    Args:
        system: A frozen system.
        rate: In (0, 1).
        metric: P, shape (nx, nx).
        multipliers: Shape (nv,).
        input_gain: Shape (nu,).
        input_multipliers: Shape (nu, nv).
        room: See `definite_margins`.
        spread: Bound on the distance of the true (A, B2, B1) from the system's, shape (nx, nx + nu + nv): the proof
            covers all of them.

    Raises:
        CertificationError: It is not proven.
    """
    nx, nu, nv = system.nx, system.nu, system.nv
    given = tuple(value.shape for value in (metric, multipliers, input_gain, input_multipliers))
    if given != ((nx, nx), (nv,), (nu,), (nu, nv)):
        raise CertificationError("metric, multipliers or gains do not fit the system: the certificate was altered")
    if not 0 < rate < 1:
        raise CertificationError(f"rate must lie in (0, 1), got {rate}")
    _check_metric(metric)
    _check_positive(multipliers, input_gain, input_multipliers)
    still = IncrementalForm.of(system, np.zeros(system.nu, bool), spread=spread)
    margins = [
        definite_margin(Enclosure.of(metric), room=room),
        _contraction_margin(still, rate, metric, multipliers, room),
    ]
    for c in range(nu):
        form = IncrementalForm.of_input(system, c, spread)
        # What no input reaches in one step needs no proof.
        reached = form.T if form.spread is None else np.abs(form.T) + form.spread
        if reached[:, 0].any() or form.N[:, 0].any():
            margins.append(input_margin(form, metric, float(input_gain[c]), input_multipliers[c], room))
    margin = float(min(margins))
    if not margin > 0:
        raise CertificationError("the contraction inequality is not proven: certify again", margin=margin)
    return margin


def _contraction_margin(form: IncrementalForm, rate: float, metric: Array, multipliers: Array, room: float) -> float:
    """Prove rate^2 P - T'PT - S(lambda) > 0 at equal inputs; returns the margin."""

    def part(kind: type[Any], _: NDArray[np.intp]) -> Any:
        r, total = kind.of(np.full((1, 1, 1), rate)), -demand(kind, form, metric[None])
        add_supply(total, form, r * r * kind.of(metric[None]), kind.of(np.zeros((1, form.nu))))
        return total

    return float(proven_margins(form, part, multipliers[None], room=room)[0])


def input_margin(form: IncrementalForm, metric: Array, gain: float, multipliers: Array, room: float = 1.0) -> float:
    """Prove gain^2 - T'PT - S(lambda) > 0 for a form of one input `at_equal_states`; returns the margin."""

    def part(kind: type[Any], _: NDArray[np.intp]) -> Any:
        g, total = kind.of(np.full((1,), gain)), -demand(kind, form, metric[None])
        total.add_at((slice(None), 0, 0), g * g)
        return total

    return float(proven_margins(form, part, multipliers[None], room=room)[0])


def prove_dissipation(
    system: Matrices,
    rate: float,
    metric: Array,
    multipliers: Array,
    supply: tuple[Array, Array, Array],
    *,
    room: float = 1.0,
) -> float:
    """Prove |dx+|_P^2 <= rate^2 |dx|_P^2 + dy'Q dy + 2 du'S dy + du'R du; returns the margin.

    Args:
        system: A frozen system.
        rate: In (0, 1].
        metric: P, shape (nx, nx).
        multipliers: Shape (nv,).
        supply: Q (ny, ny) symmetric, S (nu, ny), R (nu, nu) symmetric.
        room: See `definite_margins`.

    Raises:
        CertificationError: It is not proven.
    """
    nx, nu, ny, nv = system.nx, system.nu, system.ny, system.nv
    wanted = ((nx, nx), (nv,), (ny, ny), (nu, ny), (nu, nu))
    if tuple(value.shape for value in (metric, multipliers, *supply)) != wanted:
        raise CertificationError("metric, multipliers or supply do not fit the system: the certificate was altered")
    if not 0 < rate <= 1:
        raise CertificationError(f"rate must lie in (0, 1], got {rate}")
    Q, S, R = supply
    _check_metric(metric)
    _check_positive(multipliers)
    if not (np.array_equal(Q, Q.T) and np.array_equal(R, R.T) and all(np.isfinite(part).all() for part in supply)):
        raise CertificationError("the supply must be finite and symmetric: the certificate was altered")
    form = IncrementalForm.of(system)
    pick = np.eye(nu, form.nz, k=nx)
    # The supply is a quadratic form of (dy, du), which are rows of z.
    z, whole = np.vstack([form.Y, pick]), np.block([[Q, S.T], [S, R]])

    def part(kind: type[Any], _: NDArray[np.intp]) -> Any:
        r, seen = kind.of(np.full((1, 1, 1), rate)), kind.of(z)
        total = seen.T @ (kind.of(whole[None]) @ seen) - demand(kind, form, metric[None])
        add_supply(total, form, r * r * kind.of(metric[None]), kind.of(np.zeros((1, nu))))
        return total

    margin = min(
        definite_margin(Enclosure.of(metric), room=room),
        float(proven_margins(form, part, multipliers[None], room=room)[0]),
    )
    if not margin > 0:
        raise CertificationError("the dissipation inequality is not proven: certify again", margin=margin)
    return float(margin)


def gain_supply(gamma: float, input_scale: Array, output_scale: Array) -> tuple[Array, Array, Array]:
    """Supply (Q, S, R) that implies a gain of ``gamma`` in physical units, rounded towards the stronger claim.

    Args:
        gamma: Gain, > 0.
        input_scale: Unit of each input, shape (nu,), > 0.
        output_scale: Unit of each output, shape (ny,), > 0.
    """
    # |Q| is rounded up and R down: a proof for these numbers proves the exact gain as well.
    drawn = divide_up(divide_up(divide_up(1.0, output_scale), output_scale), gamma)
    given = divide_down(divide_down(gamma, input_scale), input_scale)
    return -np.diag(drawn), np.zeros((len(input_scale), len(output_scale))), np.diag(given)


def error_after(rate: float, input_gain: Array, steps: int, initial: float, input_radius: float | Array) -> float:
    """Upper bound of rate^steps initial + (1 + rate + .. + rate^(steps - 1)) sum_c gain_c radius_c.

    Args:
        rate: In (0, 1).
        input_gain: Shape (nu,).
        steps: Number of steps >= 0.
        initial: Difference at the start, >= 0; may be infinite.
        input_radius: Largest difference of each input per step, >= 0, shape (nu,) or a number for all.

    Raises:
        SettingError: A number makes no sense.
    """
    steps = count("steps", steps, least=0)
    radius = np.broadcast_to(np.asarray(input_radius, dtype=np.float64), input_gain.shape)
    if not 0 < rate < 1 or not initial >= 0 or not (radius >= 0).all():
        raise SettingError(f"rate must lie in (0, 1), differences be >= 0, got {rate}, {initial} and {input_radius}")
    push = sum_up(times_up(input_gain, radius))
    if not steps:
        return float(initial)
    # log, exp and expm1 of numpy are trusted to 45 units in the last place; 1 - rate is exact or rounded once.
    log = float(np.log(rate))
    decay = max(float(np.exp(steps * log * (1 - 1e-14))) * (1 + 1e-13), TINY)
    # 1 - rate^steps without cancellation where the rate is close to one.
    grown = min(-float(np.expm1(steps * log * (1 + 1e-14))) * (1 + 1e-13), 1.0)
    lasting = divide_up(grown, np.nextafter(1 - rate, 0.0))
    return float(sum_up(np.array([times_up(decay, initial), times_up(lasting, push)])))


def _check_metric(metric: Array) -> None:
    """Raise a CertificationError unless the metric is finite and symmetric."""
    if not np.isfinite(metric).all() or not np.array_equal(metric, metric.T):
        raise CertificationError("metric must be finite and symmetric: the certificate was altered")


def _check_positive(*values: Array) -> None:
    """Raise a CertificationError unless all numbers are finite and >= 0."""
    if not all(np.isfinite(value).all() and (value >= 0).all() for value in values):
        raise CertificationError("multipliers and gains must be finite and >= 0: the certificate was altered")
