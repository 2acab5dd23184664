"""Where the model's state can be after inputs outside of the actuators' range.

That x* is within R0 of x_c (`mpc.observers.state_error`) is for inputs within the range. One beyond it, by o_j, may
lead x* out of that ball, and changes a washout's jump once it leaves the window. The model z run on over the recorded
inputs from x_c, of error d = R0 at first, then says where x* is, d+ = p d + sum_j g_j d_j; and so does the distance r+
= p r + sum_j g_j o_j from what inputs cut to the range would have led to, which lies in the ball. As soon as |z -
x_c|_P + d <= R0, or r is below rounding, x* is in the ball again, and stays there under inputs in range; a window later
everything holds that `mpc.observers.base` proves.

An estimate that runs on does not ask where x* is: two runs under the same inputs approach each other whatever these
are, and only an input that nobody knows costs, its doubt counting as input error.
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

_FORGOTTEN = 1e-10  # of R0: a tenth of what its own rounding was given
_ROUNDING = 1.0 + 1e-9


def beyond(u: Array, lower: Array, upper: Array) -> Array:
    """How far inputs are outside of a range, each >= 0; what rounding makes of its ends is inside.

    Args:
        u: Inputs, shape (nu,).
        lower: Lower ends, shape (nu,).
        upper: Upper ends, shape (nu,).
    """
    out = np.maximum(np.maximum(u - upper, lower - u), 0.0)
    return np.asarray(np.where(out <= 1e-9 * (np.abs(lower) + np.abs(upper)), 0.0, out))


@dataclass(frozen=True, eq=False)
class Straying:
    """What is known of the model's state while it may be outside of the ball.

    Args:
        z: Run over the recorded inputs, shape (nx,).
        away: d, in the certificate's metric.
        excess: r, likewise.
    """

    z: Array
    away: float
    excess: float

    def after(
        self, system: LureSystem, certificate: ContractionCertificate, u: Array, out: Array, off: Array
    ) -> Straying:
        """One sample later.

        Args:
            system: The model.
            certificate: Its contraction.
            u: Recorded input, shape (nu,).
            out: How far it is outside of the range, shape (nu,).
            off: Bound on |true - recorded input|, shape (nu,).
        """
        rate, gain = float(certificate.rate), certificate.input_gain
        return Straying(
            step(system, self.z, u),
            (rate * self.away + dot(gain, off)) * _ROUNDING,
            (rate * self.excess + dot(gain, out)) * _ROUNDING,
        )

    def is_back(self, certificate: ContractionCertificate, centre: Array, reach: float) -> bool:
        """Whether the model's state is in the ball.

        Args:
            certificate: The model's contraction.
            centre: x_c, shape (nx,).
            reach: R0.
        """
        far = length(self.z - centre, certificate.metric) * _ROUNDING + self.away
        return far <= reach or self.excess <= _FORGOTTEN * reach
