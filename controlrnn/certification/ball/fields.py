"""Checks of a certificate's fields before they are used: the file may come from an adversary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from controlrnn.certification.input_error import InputError, InputErrorKind
from controlrnn.checks import Array
from controlrnn.errors import CertificationError


def array(name: str, value: Any, shape: Sequence[int], *, least: float = -np.inf) -> Array:
    """Check that a field is a float64 array of this shape, finite and at least ``least``.

    Raises:
        CertificationError: It is not.
    """
    if not isinstance(value, np.ndarray) or value.dtype != np.float64 or value.shape != tuple(shape):
        got = f"{value.dtype} of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
        raise CertificationError(f"{name} must be float64 of shape {tuple(shape)}, got {got}: the file was altered")
    if not (np.isfinite(value).all() and (value >= least).all()):
        raise CertificationError(f"{name} must be finite and >= {least}: the file was altered")
    return value


def metric(name: str, value: Any, n: int) -> Array:
    """Check that a field is a symmetric matrix (n, n); the proof decides whether it is positive definite."""
    checked = array(name, value, (n, n))
    if not np.array_equal(checked, checked.T):
        raise CertificationError(f"{name} must be symmetric: the file was altered")
    return checked


def scalar(name: str, value: Any, *, above: float = -np.inf, most: float = np.inf) -> float:
    """Check that a field is a finite number, > ``above`` and <= ``most``."""
    number = isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
    if not number or not np.isfinite(value) or not above < value <= most:
        raise CertificationError(f"{name} must lie in ({above}, {most}], got {value!r}: the file was altered")
    return float(value)


def length(name: str, value: Any) -> int:
    """Check that a field is a whole number >= 0."""
    if not isinstance(value, (int, np.integer)) or isinstance(value, bool) or value < 0:
        raise CertificationError(f"{name} must be a whole number >= 0, got {value!r}: the file was altered")
    return int(value)


def box(inputs: Any, states: Any, nu: int, nx: int) -> tuple[Array, Array] | None:
    """Check ends of the boxes of inputs (2, nu) and initial states (2, nx); None where anything is allowed."""
    if all(isinstance(side, np.ndarray) and side.shape == (2, 0) for side in (inputs, states)):
        return None
    u, x = array("input_range", inputs, (2, nu)), array("state_range", states, (2, nx))
    if (u[0] > u[1]).any() or (x[0] > x[1]).any():
        raise CertificationError("input_range and state_range must not be empty: the file was altered")
    return u, x


def input_error(value: Any, nu: int) -> InputError:
    """Check a set of input errors and spread its radius and rate over the channels."""
    if not isinstance(value, InputError):
        raise CertificationError(f"input_error must be an InputError, got {type(value).__name__}")
    radius = _spread("the radius of input_error", value.radius, nu)
    rate = None if value.rate is None else _spread("the rate of input_error", value.rate, nu)
    if value.kind is InputErrorKind.FEW and (value.steps is None or length("steps", value.steps) < 1):
        raise CertificationError("input_error must say at how many steps: the file was altered")
    if (value.kind is InputErrorKind.RATE_LIMITED) != (rate is not None):
        raise CertificationError("input_error must have a rate exactly where it is limited: the file was altered")
    return InputError(kind=value.kind, radius=radius, rate=rate, steps=value.steps)


def _spread(name: str, value: Any, nu: int) -> Array:
    """Check numbers >= 0 and spread them over ``nu`` channels."""
    try:
        whole = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise CertificationError(f"{name} must be numbers: {error}") from error
    return array(name, np.full(nu, float(whole)) if whole.ndim == 0 else whole, (nu,), least=0.0)
