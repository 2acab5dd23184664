"""Interval propagation of boxes of states and inputs through a Lur'e system, rounded outwards.

RNN-SDP's input constraints (algorithm 1): boxes are carried through the system, which tells how steep each neuron can
be at each step, or at any of them. Intervals forget correlations, so the gain is small unless the boxes are.

Intervals are enclosures, a middle and a half width, so that the rounding of sums and products is accounted for where
all rounding is (`controlrnn.certification.proof.arithmetic.enclosure`). The values of activations at the ends come from
numpy's tanh, which is trusted to err by at most 32 units in the last place (its vectorised versions promise 4).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from controlrnn.certification.proof.arithmetic.enclosure import TINY, UNIT, Array, Enclosure, root_up, sum_up, times_up
from controlrnn.certification.proof.arithmetic.matrices import Matrices
from controlrnn.certification.proof.laws import Laws, values
from controlrnn.certification.proof.slopes import LEAK, Box, slopes_on, within
from controlrnn.checks import as_array, count, items
from controlrnn.errors import SettingError, ShapeError

_OF_ALL = ("tanh", "relu", "sigmoid", "leaky_relu")
_ULPS = 64 * UNIT  # 32 units in the last place of tanh, relative


def values_at(activation: str, v: Array) -> Array:
    """Evaluate an activation elementwise, in the formula whose rounding `activated` covers."""
    if activation == "tanh":
        return np.asarray(np.tanh(v))
    if activation == "sigmoid":
        return np.asarray(0.5 + 0.5 * np.tanh(0.5 * v))
    below = {"relu": 0.0, "leaky_relu": LEAK}[str(activation)]
    return np.asarray(below * v + (1 - below) * np.maximum(v, 0.0))


def between(low: Array, high: Array) -> Enclosure:
    """The smallest enclosure of the intervals [low, high], rounded outwards."""
    mid = 0.5 * low + 0.5 * high
    rad = np.nextafter(np.maximum(high - mid, mid - low), np.inf)
    return Enclosure(mid, np.where(low == high, 0.0, np.maximum(rad, 0.0)) + TINY * (low != mid))


def box_of(box: Box) -> Enclosure:
    """Convert a box given by its ends to an enclosure."""
    return between(*(np.asarray(end, dtype=np.float64) for end in box))


def neurons(system: Matrices, x: Enclosure, u: Enclosure) -> tuple[Enclosure, Enclosure]:
    """Intervals of pre-activations v and outputs w of the neurons, each (..., nv), for boxes of states and inputs.

    States have shape (..., nx), inputs (..., nu).
    """
    v = x @ Enclosure.of(system.C1).T + u @ Enclosure.of(system.D12).T + Enclosure.of(system.bv)
    v = Enclosure(v.mid.copy(), v.rad.copy())
    w = Enclosure(np.zeros_like(v.mid), np.zeros_like(v.mid))
    for start, stop in system.blocks:
        here, before = (..., slice(start, stop)), (..., slice(0, start))
        if start:
            total = v[here] + w[before] @ Enclosure.of(system.D11[start:stop, :start]).T
            v.mid[here], v.rad[here] = total.mid, total.rad
        image = activated(within(system.activation, start, stop), v[here])
        w.mid[here], w.rad[here] = image.mid, image.rad
    return v, w


def activated(activation: str | Laws, v: Enclosure) -> Enclosure:
    """Intervals of the values of an activation or of laws, which rise, on intervals of their arguments (..., nv)."""
    if not isinstance(activation, str):
        image = Enclosure(np.empty_like(v.mid), np.empty_like(v.rad))
        for law, start, stop in activation.groups:
            here = (..., slice(start, stop))
            if str(law) in _OF_ALL:
                one = activated(str(law), v[here])
            else:
                parameters = activation.parameters[start:stop]
                low, high = values(str(law), parameters, v[here].lower()), values(str(law), parameters, v[here].upper())
                one = between(low[0], high[1])
            image.mid[here], image.rad[here] = one.mid, one.rad
        return image
    ends = [values_at(activation, end) for end in (v.lower(), v.upper())]
    # The sigmoid rounds a sum of order one as well.
    pad = [_ULPS * (np.abs(end) + (activation == "sigmoid")) + TINY for end in ends]
    return between(np.nextafter(ends[0] - pad[0], -np.inf), np.nextafter(ends[1] + pad[1], np.inf))


def next_state(system: Matrices, x: Enclosure, u: Enclosure) -> Enclosure:
    """Interval of the next state, shape (..., nx), for boxes of states and inputs."""
    _, w = neurons(system, x, u)
    return linear_part(system, x, u) + w @ Enclosure.of(system.B1).T


def linear_part(system: Matrices, x: Enclosure, u: Enclosure) -> Enclosure:
    """Interval of A x + B2 u + bx, shape (..., nx)."""
    return x @ Enclosure.of(system.A).T + u @ Enclosure.of(system.B2).T + Enclosure.of(system.bx)


def outputs(system: Matrices, x: Enclosure, u: Enclosure) -> Enclosure:
    """Interval of the output, shape (..., ny), for boxes of states and inputs."""
    _, w = neurons(system, x, u)
    straight = x @ Enclosure.of(system.C2).T + u @ Enclosure.of(system.D22).T + Enclosure.of(system.by)
    return straight + w @ Enclosure.of(system.D21).T


def intersection(a: Enclosure, b: Enclosure) -> Enclosure:
    """The intersection of two boxes, entry by entry and rounded outwards."""
    low, high = np.maximum(a.lower(), b.lower()), np.minimum(a.upper(), b.upper())
    # The ends cross only where nothing lies in both boxes: any interval will do.
    return between(low, np.maximum(high, low))


def norm_up(x: Enclosure, metric: Array) -> float:
    """Upper bound of |x|_metric over a box: the norm of its middle plus the distance to the farthest point."""
    P = Enclosure.of(metric)
    middle = max(float(((Enclosure.of(x.mid) @ P) @ Enclosure.of(x.mid)).upper()), 0.0)
    spread = float(sum_up(times_up(x.rad[:, None], np.abs(metric), x.rad)))
    return float(sum_up(np.array([root_up(middle), root_up(spread)])))


def settles(value: Any) -> bool:
    """Whether both ends of all intervals are finite."""
    return bool(np.isfinite(value.mid).all() and np.isfinite(value.rad).all())


def local_slopes(system: Matrices, input_range: Box, state_range: Box, steps: int) -> Box:
    """Slope bounds alpha, beta, each shape (nv,), at all steps of runs from a box of states under inputs in a box.

    Args:
        system: A frozen system.
        input_range: Least and greatest inputs, each shape (nu,).
        state_range: Least and greatest initial states, each shape (nx,).
        steps: Number of steps N; the neurons at the steps 0..N are covered.

    Raises:
        ShapeError, DataError: The boxes do not fit.
        SettingError: A box is empty.
    """
    alpha, beta = slopes_by_step(system, input_range, state_range, steps)
    return alpha.min(axis=0), beta.max(axis=0)


def slopes_by_step(system: Matrices, input_range: Box, state_range: Box, steps: int) -> Box:
    """Slope bounds alpha, beta, each shape (N + 1, nv), at each step of runs from a box of states, inputs in a box.

    Arguments and errors are those of `local_slopes`.
    """
    if not getattr(system, "is_frozen", True):
        raise SettingError("slopes need a frozen system, got one of tensors: call model.freeze() first")
    u = box_of(checked_box("input_range", input_range, system.nu))
    x = box_of(checked_box("state_range", state_range, system.nx))
    high = np.full((count("steps", steps, least=0) + 1, system.nv), np.inf)
    low = -high
    with np.errstate(over="ignore", invalid="ignore"):
        for k in range(len(high)):
            v, _ = neurons(system, x, u)
            if not (settles(v) and settles(x)):
                # The intervals have exploded: from here on nothing is known, which the activation's own slope says.
                break
            low[k], high[k] = v.lower(), v.upper()
            x = next_state(system, x, u)
    return slopes_on(system.activation, (low, high))


def checked_box(name: str, box: Box, n: int) -> Box:
    """Check a box and return its lower and upper ends, each shape (n,)."""
    ends = items(name, box, object)
    if len(ends) != 2:
        raise ShapeError(f"{name} must be (lower, upper), got {len(ends)} parts")
    low, high = (as_array(name, side, (n,), hint="give lower and upper ends") for side in ends)
    if (low > high).any():
        raise SettingError(f"{name} must satisfy lower <= upper, got {low} and {high}: swap them?")
    return low, high
