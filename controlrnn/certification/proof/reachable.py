"""Settled states: where inputs within their range, applied since the far past, can have brought the state.

Two answers, of which the better one counts. With a contraction certificate (rate p, metric P, gains g), u_c the middle
of the range, h its half and x_c any state, the distance r of the state to x_c obeys r+ <= p r + g'h + |f(x_c, u_c) -
x_c|_P, so that it settles within a ball. And settled states lie in a box if the box is so large that the system maps
it into itself and everything else towards it: with bounded activations, |A| r + |B1| w + |B2| h <= r, |A| r < r. Since
settled states are images of settled states, either set may then be intersected with its image as often as one likes.
"""

from __future__ import annotations

import numpy as np

from controlrnn.certification.proof.arithmetic.enclosure import (
    Array,
    Enclosure,
    divide_up,
    dot_up,
    root_up,
    sum_up,
    times_up,
)
from controlrnn.certification.proof.arithmetic.matrices import Matrices
from controlrnn.certification.proof.incremental import largest_ratios
from controlrnn.certification.proof.intervals import between, box_of, intersection, linear_part, next_state, norm_up
from controlrnn.certification.proof.slopes import Box

_SHRINKINGS = 100
# Ends of the values of bounded activations.
_VALUES = {"tanh": (-1.0, 1.0), "sigmoid": (0.0, 1.0)}


def settled_radius(
    system: Matrices, rate: float, metric: Array, input_gain: Array, centre: Array, input_range: Box
) -> float:
    """Upper bound of the distance from ``centre`` to any settled state, in the metric of a proven contraction.

    Args:
        system: A frozen system.
        rate: Proven, in (0, 1).
        metric: P of that proof, shape (nx, nx).
        input_gain: Gains of that proof, shape (nu,).
        centre: Any state, shape (nx,).
        input_range: Lower and upper limits of the inputs, each shape (nu,).
    """
    inputs = box_of(input_range)
    still = Enclosure.of(inputs.mid)
    drift = next_state(system, Enclosure.of(centre), still) - Enclosure.of(centre)
    push = sum_up(np.array([norm_up(drift, metric), sum_up(times_up(input_gain, inputs.rad))]))
    ball = float(divide_up(push, np.nextafter(1 - rate, 0.0)))
    units = np.eye(system.nx)
    # Their roots are the half widths of the metric's unit ball.
    ratios = largest_ratios(Enclosure.of(units[:, :, None] * units[:, None, :]), Enclosure.of(metric[None]))
    box = settled_box(system, input_range, Enclosure(centre, times_up(root_up(ratios), ball)))
    return min(ball, norm_up(box - Enclosure.of(centre), metric))


def settled_box(system: Matrices, inputs: Box, known: Enclosure) -> Enclosure:
    """Box that holds all settled states.

    Args:
        system: A frozen system.
        inputs: Limits of the inputs, each shape (nu,).
        known: A box that is known to hold them.
    """
    # Settled states are images of settled states: intersecting with the image loses none.
    u, box = box_of(inputs), known
    bounded = bounded_box(system, u)
    if bounded is not None:
        box = intersection(box, bounded)
    for _ in range(_SHRINKINGS):
        smaller = intersection(box, next_state(system, box, u))
        gained = float(box.rad.sum() - smaller.rad.sum())
        box = smaller
        if not gained > 1e-4 * float(box.rad.sum()):
            break
    return box


def bounded_box(system: Matrices, u: Enclosure) -> Enclosure | None:
    """Box of settled states from bounded activations; None where they are unbounded or |A| does not contract.

    The solution of the linear equations is a guess; that the box is mapped into itself, and |A| r < r, is proven.
    """
    if system.activation not in _VALUES:
        return None
    low, high = _VALUES[system.activation]
    w = between(np.full(system.nv, low), np.full(system.nv, high)) @ Enclosure.of(system.B1).T
    size, n = np.abs(system.A), system.nx
    if not float(np.abs(np.linalg.eigvals(size)).max(initial=0.0)) < 1 - 1e-6:
        return None
    push = linear_part(system, Enclosure.of(np.zeros(n)), u) + w
    centre = np.linalg.solve(np.eye(n) - system.A, push.mid)
    # A little more than the solution, so that strict inequalities can be proven below.
    r = np.linalg.solve(np.eye(n) - size, push.rad + 1e-9 * (np.abs(centre) + push.rad) + 1e-100)
    box = Enclosure(centre, r)
    image = linear_part(system, box, u) + w
    inside = np.nextafter(np.abs(image.mid - centre) * (1 + 1e-15), np.inf) + image.rad * (1 + 1e-15)
    return box if (inside < r).all() and (dot_up(size, r) < r).all() else None
