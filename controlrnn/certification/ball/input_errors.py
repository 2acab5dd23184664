"""Cost of each kind of input error in ball arithmetic: largest sums over the set of differences."""

from __future__ import annotations

from fractions import Fraction
from typing import TYPE_CHECKING

import numpy as np

from controlrnn.certification.ball.arithmetic import flint, number, row, total
from controlrnn.certification.input_error import InputError, InputErrorKind
from controlrnn.checks import Array
from controlrnn.errors import CertificationError

if TYPE_CHECKING:
    from flint import arb


def changing(error: InputError) -> list[int]:
    """Indices of the differing channels that may change from step to step, for differences that are states."""
    rate = np.zeros_like(error.b) if error.rate is None else np.asarray(error.rate)
    return [i for i, c in enumerate(np.flatnonzero(error.b > 0)) if rate[c] > 0]


def energies(error: InputError, rho: Array, *, lifted: bool) -> list[arb]:
    """Largest sum_{j <= k} sum_c rho_{k-j,c} du_{j,c}^2 over the set, for k = 0, 1, ..

    Args:
        error: The set.
        rho: By steps to go, shape (K, m): of the channels that differ, or of the changes where ``lifted``.
        lifted: Whether the differences are a part of the state, so that only their changes are inputs.
    """
    use = error.b[error.b > 0]
    size = np.asarray(error.rate)[error.b > 0][changing(error)] if lifted and error.rate is not None else use
    # A constant error is part of the state and never changes.
    if lifted and error.rate is None:
        return [number(0)] * len(rho)
    prices = [[Fraction(float(r)) * Fraction(float(b)) ** 2 for r, b in zip(one, size, strict=True)] for one in rho]
    if error.kind is InputErrorKind.BALL:
        return _largest_sums([max(one, default=Fraction(0)) for one in prices], None)
    return _largest_sums([sum(one, Fraction(0)) for one in prices], None if lifted else error.steps)


def added(error: InputError, gains: Array) -> list[arb]:
    """Largest sum_{j <= k} sum_c gains_{k-j,c} |du_{j,c}| over the set, for k = 0, 1, ..

    Args:
        error: The set.
        gains: By lag, shape (K, nu).
    """
    if error.kind is InputErrorKind.BALL:  # the largest of a linear function over a ball
        sizes = [total((g * b) ** 2 for g, b in zip(row(one), row(error.b), strict=True)).sqrt() for one in gains]
        return [total(sizes[: k + 1]) for k in range(len(gains))]
    per_lag = [
        sum((Fraction(float(g)) * Fraction(float(b)) for g, b in zip(one, error.b, strict=True)), Fraction(0))
        for one in gains
    ]
    return _largest_sums(per_lag, error.steps)


def _largest_sums(values: list[Fraction], most: int | None) -> list[arb]:
    """Sums of the ``most`` largest of values 0 .. k for every k; of all of them where ``most`` is None."""
    few = len(values) if most is None else most
    chosen: list[list[Fraction]] = [sorted(values[: k + 1], reverse=True)[:few] for k in range(len(values))]
    return [total(_ball(v) for v in one) for one in chosen]


def _ball(value: Fraction) -> arb:
    """Convert a rational number to a ball."""
    exact: arb = flint().arb(flint().fmpq(value.numerator, value.denominator))
    return exact


def check_box(error: InputError, radius: Array, horizon: int) -> None:
    """Prove that the box of this radius (nu,) per step lies within the set over steps 0 .. ``horizon``.

    Raises:
        CertificationError: It does not.
    """
    b, r = ([Fraction(float(v)) for v in values] for values in (error.b, radius))
    inside = all(x <= y for x, y in zip(r, b, strict=True))
    anything = any(r)
    if error.kind is InputErrorKind.BALL:
        inside = inside and sum((x / y) ** 2 for x, y in zip(r, b, strict=True) if y) <= 1
    elif error.kind is InputErrorKind.FEW and error.steps is not None:
        inside = inside and (not anything or error.steps > horizon)
    elif error.kind is InputErrorKind.CONSTANT:
        inside = inside and not (anything and horizon)
    elif error.rate is not None:
        rate = [Fraction(float(v)) for v in np.asarray(error.rate)]
        inside = inside and (not horizon or all(2 * x <= y for x, y in zip(r, rate, strict=True)))
    if not inside:
        raise CertificationError("input_radius must be that of a box within input_error: the file was altered")
