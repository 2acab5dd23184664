"""Ellipsoidal bounds on state errors, and the reachable radius of a contracting model.

A contraction certificate (rate p, metric P, input gains g) states

    |x1+ - x2+|_P <= p |x1 - x2|_P + sum_j g_j |u1_j - u2_j| .

Let x_c be any state and m = sup_u |f(x_c, u) - x_c|_P over the actuators' range. The model's state, driven from the far
past by inputs in that range, lies within

    R0 = m / (1 - p)

of x_c (proof: docs/theory/reinitialisation.md).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.linalg import eigh

from controlrnn.checks import Array, definite, positive, put
from controlrnn.errors import SettingError
from controlrnn.kernels import dense
from controlrnn.portable import published
from controlrnn.typed import typed
from mpc.predictor import Predictor

if TYPE_CHECKING:  # deployment reads certificates; it does not need what makes them
    from controlrnn.certification import ContractionCertificate

ROUNDING = (
    1.0 + 1e-9
)  # factor that covers rounding in radii and in steps of their recursions: sums of a few float64 terms
_CELLS = 4096  # cells that the inputs' range is divided into, to bound the largest step


@dataclass(frozen=True, eq=False)
@typed()
class StateError:
    """Bound on a state error e = x* - xhat: ``sqrt(e' metric e) <= radius``.

    Args:
        radius: Radius in the metric, used as initial radius of certificates.
        metric: Shape (nx, nx), positive definite.
        needed: Radius that was proven and that certificates have to cover, where ``radius`` has a margin for the
            rounding of other machines; ``radius`` when left out.

    Raises:
        SettingError: A radius is negative or not finite, or the metric not positive definite.
        ShapeError: The metric is not square.
    """

    radius: float
    metric: Array
    needed: float | None = None

    @classmethod
    def stated(cls, proven: float, metric: Array) -> StateError:
        """Make the bound from a proven radius, with a margin so that certificates for it are valid on every machine.

        Args:
            proven: Radius in the metric.
            metric: Shape (nx, nx).
        """
        return cls(published(proven), metric, float(proven))

    def __post_init__(self) -> None:
        for name in ("radius",) if self.needed is None else ("radius", "needed"):
            put(self, **{name: positive(name, getattr(self, name), zero=True, what="a radius >= 0")})
        put(self, metric=definite("metric", self.metric, has_factor=dense.positive_definite))

    @property
    def euclidean(self) -> float:
        """Radius of the smallest 2-norm ball that contains this one."""
        return self.radius_in(np.eye(len(self.metric)))

    def radius_in(self, metric: Array) -> float:
        """Radius, in another metric (nx, nx), of the smallest ball that contains this one; with margin as `radius`."""
        if metric is self.metric:
            return self.radius
        metric = definite("metric", metric, len(self.metric))
        if np.array_equal(metric, self.metric):
            return self.radius
        return published(self.radius * stretch(metric, self.metric) * ROUNDING)

    def needed_in(self, metric: Array) -> float:
        """Radius, in a metric (nx, nx), that a certificate has to cover: `radius_in` without the margin."""
        needed = self.radius if self.needed is None else self.needed
        if np.array_equal(metric, self.metric):
            return needed
        return needed * stretch(metric, self.metric) * ROUNDING


def largest_step(predictor: Predictor, contraction: ContractionCertificate, centre: Array, input_error: Array) -> float:
    """Bound on the largest step m = sup_u |f(centre, u) - centre|_P over the actuators' range.

    The range of the inputs is divided into cells. The step is evaluated at their middles, and the certified input gains
    cover the rest of each.

    Args:
        predictor: Model with the actuators' limits.
        contraction: Its certificate.
        centre: Any state, shape (nx,).
        input_error: Bound on the distance of true inputs outside the limits, shape (nu,).
    """
    lower, upper = predictor.input_limits()
    low, width = lower - input_error, upper - lower + 2 * input_error
    each = max(1, int(_CELLS ** (1 / predictor.nu) + 1e-9))
    middles = [a + w * (np.arange(each) + 0.5) / each for a, w in zip(low, width, strict=True)]
    u = np.stack(np.meshgrid(*middles, indexing="ij"), axis=-1).reshape(-1, predictor.nu)
    moves = predictor.system.step(np.broadcast_to(centre, (len(u), predictor.nx)), u) - centre
    farthest = float(np.sqrt(np.einsum("ti,ij,tj->t", moves, contraction.metric, moves).max()))
    return (farthest + float(contraction.input_gain @ width) / (2 * each)) * ROUNDING


def stretch(to: Array, of: Array) -> float:
    """Least factor k with |e|_to <= k |e|_of for all e; both metrics (nx, nx).

    Raises:
        SettingError: float64 cannot say.
    """
    try:
        factor = float(np.sqrt(eigh(to, of, eigvals_only=True)[-1]))
    except np.linalg.LinAlgError:  # entries of very different sizes
        factor = np.nan
    if not np.isfinite(factor):
        raise SettingError("a radius in one metric is beyond float64 in the other: check the units of the states")
    return factor
