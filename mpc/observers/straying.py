"""Bounds on the model's state after inputs outside the actuators' range.

The bound R0 on the distance of x* from x_c (`mpc.observers.state_error`) is for inputs within the range. An input that
exceeds it by o_j may drive x* out of that ball, and changes a washout's jump once it leaves the window. Two bounds then
tell when x* is back. The model's run z over the recorded inputs from x_c is within d of x*, with d = R0 at first and
d+ = p d + sum_j g_j d_j. The run under inputs clipped to the range, which stays in the ball, is within r of x*, with
r+ = p r + sum_j g_j o_j. As soon as |z - x_c|_P + d <= R0, or r is below rounding, x* is in the ball again, and stays
there under inputs in range; one window later everything holds that `mpc.observers.base` proves.

An observer that runs on does not need the ball: two runs under the same inputs approach each other for all inputs. Only
an unknown input matters to it, and counts as input error.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from controlrnn.checks import Array
from controlrnn.kernels import step
from controlrnn.kernels.dense import dot, length
from controlrnn.systems import LureSystem

if TYPE_CHECKING:
    from controlrnn.certification import ContractionCertificate

_FORGOTTEN = 1e-10  # of R0: a tenth of the margin that R0 has for rounding
_ROUNDING = 1.0 + 1e-9  # factor that covers rounding in one step of the recursions


def beyond(u: Array, lower: Array, upper: Array) -> Array:
    """Distance of inputs outside a range, shape (nu,), each >= 0; ends count as inside up to rounding.

    Args:
        u: Inputs, shape (nu,).
        lower: Lower ends, shape (nu,).
        upper: Upper ends, shape (nu,).
    """
    out = np.maximum(np.maximum(u - upper, lower - u), 0.0)
    return np.asarray(np.where(out <= 1e-9 * (np.abs(lower) + np.abs(upper)), 0.0, out))


@dataclass(frozen=True, eq=False)
class Straying:
    """Bounds on the model's state while it may be outside its ball.

    Args:
        z: State of the run over the recorded inputs, shape (nx,).
        away: Bound d on its distance from x*, in the certificate's metric.
        excess: Bound r on the distance of x* from a state in the ball, likewise.
    """

    z: Array
    away: float
    excess: float

    def after(
        self, system: LureSystem, certificate: ContractionCertificate, u: Array, out: Array, off: Array
    ) -> Straying:
        """Propagate the bounds by one sample.

        Args:
            system: The model.
            certificate: Its contraction certificate.
            u: Recorded input, shape (nu,).
            out: Its distance outside the range, shape (nu,).
            off: Bound on |true - recorded input|, shape (nu,).
        """
        rate, gain = float(certificate.rate), certificate.input_gain
        return Straying(
            step(system, self.z, u),
            (rate * self.away + dot(gain, off)) * _ROUNDING,
            (rate * self.excess + dot(gain, out)) * _ROUNDING,
        )

    def is_back(self, certificate: ContractionCertificate, centre: Array, reach: float) -> bool:
        """Whether the model's state is certainly in the ball again.

        Args:
            certificate: The model's contraction certificate.
            centre: x_c, shape (nx,).
            reach: R0.
        """
        far = length(self.z - centre, certificate.metric) * _ROUNDING + self.away
        return far <= reach or self.excess <= _FORGOTTEN * reach
