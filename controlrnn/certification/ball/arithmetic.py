"""Ball arithmetic: numbers with a proven bound on their own error (Johansson, "Arb", IEEE Trans. Comput. 2017).

Every float64 is a ball of radius zero, exponents have no limits, so that nothing underflows or overflows, and a
comparison of balls is true only where it holds for all that they contain. What is left open is tried again with more
bits. python-flint is imported at the first use: the extra ``audit`` installs it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from controlrnn.errors import CertificationError

if TYPE_CHECKING:
    from flint import arb, arb_mat

PRECISIONS = (106, 212, 424, 848, 2000)  # bits, tried in this order
_DECIDED = 212  # bits from which on a negative pivot is final
_lock = threading.RLock()

Row = list["arb"]


class UndecidedError(CertificationError):
    """The balls are too wide to decide; more bits may help."""


def flint() -> Any:
    """Import the package python-flint.

    Raises:
        ModuleNotFoundError: It is missing: install ``controlrnn[audit]``.
    """
    try:
        import flint as module
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            "rigour 'ball' needs ball arithmetic, but python-flint is not installed: pip install 'controlrnn[audit]'"
        ) from error
    return module


@contextmanager
def precision(bits: int) -> Iterator[None]:
    """Set flint's precision to ``bits`` bits within a block.

    The setting is global, so that one thread works at a time; it is put back afterwards.
    """
    with _lock, flint().ctx.workprec(bits):
        yield


def decide(claim: Callable[[], float]) -> float:
    """Evaluate ``claim`` with more and more bits until it decides, and return its value.

    Raises:
        CertificationError: The claim refuses, or 2000 bits do not decide.
    """
    undecided: CertificationError | None = None
    for bits in PRECISIONS:
        try:
            with precision(bits):
                return claim()
        except ZeroDivisionError as error:  # flint's word for a matrix that may be singular
            undecided = UndecidedError(f"a matrix may be singular: {error}", margin=0.0)
        except CertificationError as error:
            if bits >= _DECIDED and not isinstance(error, UndecidedError):
                raise
            undecided = error
    raise CertificationError(f"not decided with {PRECISIONS[-1]} bits: {undecided}", margin=0.0)


def number(value: Any) -> arb:
    """Convert a float or int to a ball of radius zero."""
    exact: arb = flint().arb(value if isinstance(value, int) else float(value))
    return exact


def row(values: Iterable[Any]) -> Row:
    """Convert numbers to balls of radius zero."""
    return [number(v) for v in values]


def matrix(array: NDArray[Any]) -> arb_mat:
    """Convert a float64 matrix (m, n) to balls of radius zero."""
    exact: arb_mat = flint().arb_mat(*array.shape, [float(v) for v in array.ravel()])
    return exact


def from_rows(rows: Sequence[Sequence[Any]], columns: int) -> arb_mat:
    """Build a matrix from rows of balls, with so many columns (there may be no rows)."""
    made: arb_mat = flint().arb_mat(len(rows), columns, [v for one in rows for v in one])
    return made


def diagonal(values: Sequence[arb]) -> arb_mat:
    """Build a diagonal matrix."""
    n = len(values)
    made: arb_mat = flint().arb_mat(n, n)
    for i, v in enumerate(values):
        made[i, i] = v
    return made


def column(values: Sequence[arb]) -> arb_mat:
    """Build a matrix of one column."""
    return from_rows([[v] for v in values], 1)


def beside(*parts: arb_mat) -> arb_mat:
    """Concatenate matrices with the same number of rows: [A B ..]."""
    tables: list[list[Row]] = [part.tolist() if part.ncols() else [[]] * part.nrows() for part in parts]
    rows = [[v for one in line for v in one] for line in zip(*tables, strict=True)]
    return from_rows(rows, sum(part.ncols() for part in parts))


def total(values: Iterable[arb]) -> arb:
    """Sum of balls; zero for none."""
    return sum(values, number(0))


def eliminate(A: arb_mat, count: int) -> tuple[list[Row], float]:
    """Prove that the leading ``count`` rows and columns of a symmetric matrix are positive semidefinite.

    A pivot must be positive, or exactly zero with nothing but zeros beside it.

    Args:
        A: Shape (n, n); the upper triangle is read.
        count: Number of rows.

    Returns:
        The Schur complement as rows (n - count, n - count), upper triangle, and the least pivot relative to its
        diagonal (infinity where there is none).

    Raises:
        CertificationError: A pivot is negative.
        UndecidedError: A pivot is not known well enough.
    """
    rows = A.tolist()
    n, least = len(rows), np.inf
    before = [rows[k][k] for k in range(count)]
    for k in range(count):
        line = rows[k]
        pivot = line[k]
        if not pivot > 0:
            if all(v.is_zero() for v in line[k:]):
                continue
            # Zero beside an entry that is not makes a matrix indefinite.
            certain = pivot < 0 or pivot.is_zero()
            raise (CertificationError if certain else UndecidedError)(f"pivot {k} is not positive", margin=-1.0)
        least = min(least, max(float((pivot / before[k]).lower()), 0.0))
        for i in range(k + 1, n):
            if not line[i].is_zero():
                factor, target = line[i] / pivot, rows[i]
                target[i:] = [a - factor * b for a, b in zip(target[i:], line[i:], strict=True)]
    return [line[count:] for line in rows[count:]], least


def semidefinite(A: arb_mat) -> float:
    """Prove that a matrix is positive semidefinite; returns the least relative pivot. Raises as `eliminate`."""
    return eliminate(A, A.nrows())[1]


def symmetric(upper: Sequence[Row], sign: int = 1) -> arb_mat:
    """Build the symmetric matrix of an upper triangle, times ``sign``."""
    n = len(upper)
    return from_rows([[sign * upper[min(i, j)][max(i, j)] for j in range(n)] for i in range(n)], n)


def exact_above(A: arb_mat) -> arb_mat:
    """Matrix without errors that is >= all symmetric matrices in a matrix of balls.

    The middle, with the radii added to its diagonal: 2 |x_i x_j| <= t x_i^2 + x_j^2 / t with t = d_i / d_j, and d_i^2
    about the size of A_ii.
    """
    n, rows = A.nrows(), A.tolist()
    d = [_root_size(rows[i][i]) for i in range(n)]
    made = A.mid()
    for i in range(n):
        radii = [rows[i][j].rad() * number(2) ** (d[i] - d[j]) for j in range(n)]
        if not all(r.is_zero() for r in radii):
            made[i, i] = (made[i, i] + total(radii)).upper()
    return made


def _root_size(value: arb) -> int:
    """About half of log2 |value|; a very negative number for zero."""
    man, exp = value.abs_upper().man_exp()
    return int(int(man).bit_length() + int(exp)) // 2 if man else -10000
