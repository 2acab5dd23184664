"""Bounds on the model's state after inputs that are outside of the actuators' range, or that nobody knows.

That x* is within R0 of x_c (`mpc.observers.state_error`) is for inputs within the range. One beyond it, by o_j, may
lead x* out of that ball, no further than the distance r+ = p r + sum_j g_j o_j from what inputs cut to the range would
have led to. So at every time, and whatever is known of the last inputs and of how many samples they acted for,

    |x* - x_c|_P <= R0 + r ,      hence      |x* - xhat|_P <= |xhat - x_c|_P + R0 + r .

This is where a bound starts anew when an input is outside of the range (it may have acted so, or be recorded wrongly),
when nobody knows it, or when a sample did not come when it was due; r then does not fade for that sample. It is what an
observer starts from that forgets its estimates while the plant goes on.

A washout asks where x* was at the beginning of its window. The model z run on over the recorded inputs from x_c, of
error d = R0 + r at first, d+ = p d + sum_j g_j d_j, says so: as soon as |z - x_c|_P + d <= R0, or r is below rounding,
x* is in the ball again, and stays there under inputs in range; a window later everything holds that
`mpc.observers.base` proves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import numpy as np

from controlrnn.checks import Array
from controlrnn.kernels import step
from controlrnn.kernels.dense import dot, length
from controlrnn.systems import LureSystem
from mpc.observers.state_error import ROUNDING
from mpc.predictor import Predictor

if TYPE_CHECKING:
    from controlrnn.certification import ContractionCertificate

FORGOTTEN = 1e-10  # of R0: a tenth of the margin that R0 has for rounding


class Follower(Protocol):
    """Protocol of the attributes of an observer (`mpc.observers.base.Observer`) that these functions read and move."""

    contraction: ContractionCertificate | None
    initial_state: Array
    input_error: Array
    predictor: Predictor
    _excess: float
    _lost: bool

    @property
    def system(self) -> LureSystem:
        """The model."""

    def _certificate(self) -> ContractionCertificate:
        """The contraction certificate; raises where there is none."""

    def _reach(self) -> float:
        """R0: how far the model's state can be from its initial state under inputs in range."""


def beyond(u: Array, lower: Array, upper: Array) -> Array:
    """Distance of inputs outside a range, shape (nu,), each >= 0; ends count as inside up to rounding.

    Args:
        u: Inputs, shape (nu,).
        lower: Lower ends, shape (nu,).
        upper: Upper ends, shape (nu,).
    """
    out = np.maximum(np.maximum(u - upper, lower - u), 0.0)
    return np.asarray(np.where(out <= 1e-9 * (np.abs(lower) + np.abs(upper)), 0.0, out))


def strayed(observer: Follower, u: Array, *, doubted: bool) -> tuple[float, bool]:
    """Distance that the model's state may be out of the ball one sample later, and whether a bound has to start anew.

    Args:
        observer: With a certificate.
        u: The recorded input, shape (nu,).
        doubted: Whether nobody knows what acted, or for how long.
    """
    certificate, out = observer._certificate(), beyond(u, *observer.predictor.input_limits())
    after = (float(certificate.rate) * observer._excess + dot(certificate.input_gain, out)) * ROUNDING
    after = max(after, observer._excess) if doubted else after
    # Below rounding it counts as forgotten.
    return 0.0 if after <= FORGOTTEN * observer._reach() else after, doubted or bool(out.any())


def astray(observer: Follower) -> tuple[Array, float] | None:
    """The run z that follows the model's state, and its error d, to begin with; None where it is in the ball.

    Args:
        observer: Of any kind.
    """
    return (observer.initial_state, observer._reach() + observer._excess) if observer._excess else None


def followed(observer: Follower, before: tuple[Array, float] | None, u: Array) -> tuple[Array, float] | None:
    """Move the run of `astray` and its error to the next sample; None once the model's state is back in the ball.

    Args:
        observer: With a certificate, which has just taken the input in.
        before: z and d one sample earlier.
        u: The recorded input, shape (nu,).
    """
    if before is None or observer._lost:
        return astray(observer) if observer._lost else None
    certificate, reach = observer._certificate(), observer._reach()
    z = step(observer.system, before[0], u)
    d = float((certificate.rate * before[1] + dot(certificate.input_gain, observer.input_error)) * ROUNDING)
    back = length(z - observer.initial_state, certificate.metric) * ROUNDING + d <= reach or not observer._excess
    return None if back else (z, d)


def led_astray(observer: Follower, u: Array, *, held: bool = False) -> None:
    """Take into account that an input may have acted which no update has been told of.

    Args:
        observer: Of any kind.
        u: The input, shape (nu,).
        held: Whether it may have acted for any number of samples.
    """
    if observer.contraction is not None:
        pushed = dot(observer.contraction.input_gain, beyond(u, *observer.predictor.input_limits()))
        observer._excess += pushed / (1.0 - float(observer.contraction.rate)) if held else pushed
    guard = getattr(observer, "guard", None)
    if guard is not None:
        led_astray(guard, u, held=held)


def anywhere(observer: Follower, x: Array) -> float:
    """Bound on |x* - x|_P whatever the last inputs were, with r.

    Args:
        observer: With a certificate.
        x: A state, shape (nx,).
    """
    away = length(x - observer.initial_state, observer._certificate().metric)
    return float(away * ROUNDING + observer._reach() + observer._excess)
