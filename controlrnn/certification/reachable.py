"""Where the state of a model can be that was driven from the far past by inputs within their range.

Two answers, of which the better one counts. With a contraction certificate (rate p, metric P, gains g), u_c the middle
of the range, h its half and x_c any state, the distance r of the state to x_c obeys r+ <= p r + g'h + |f(x_c, u_c) -
x_c|_P, so that it settles within a ball. And settled states lie in a box if the box is so large that the system maps
it into itself and everything else towards it: with bounded activations, |A| r + |B1| w + |B2| h <= r, |A| r < r. Since
settled states are images of settled states, either set may then be intersected with its image as often as one likes.
"""

from __future__ import annotations

import numpy as np

from controlrnn.certification.contraction import ContractionCertificate
from controlrnn.certification.incremental import largest_ratio
from controlrnn.certification.slopes import Box, interval_sum, neuron_intervals
from controlrnn.checks import Array
from controlrnn.systems import Activation, LureSystem

_ROUNDING = 1 + 1e-9
_SHRINKINGS = 100
# Middle and half width of the values of bounded activations.
_VALUES = {Activation.TANH: (0.0, 1.0), Activation.SIGMOID: (0.5, 0.5)}


def settled_radius(
    system: LureSystem, contraction: ContractionCertificate, centre: Array, input_low: Array, input_high: Array
) -> float:
    """How far from ``centre``, in the certificate's metric, a settled state can be; never rounded down.

    Args:
        system: A frozen system.
        contraction: Its verified certificate.
        centre: Any state, shape (nx,).
        input_low: Lower limits of the inputs, shape (nu,).
        input_high: Upper limits, likewise.
    """
    P = np.asarray(contraction.metric)
    middle = 0.5 * (input_low + input_high)
    half = 0.5 * (input_high - input_low) * _ROUNDING + 1e-15 * np.abs(middle)
    drift = _step(system, (centre, centre), (middle, middle))
    away = _farthest((drift[0], drift[1]), centre, P)
    ball = (float(contraction.input_gain @ half) + away) / (1 - contraction.rate) * _ROUNDING
    spread = np.array([np.sqrt(largest_ratio(np.outer(e, e), P)) for e in np.eye(system.nx)]) * ball * _ROUNDING
    box = settled_box(system, (input_low, input_high), (centre - spread, centre + spread))
    return min(ball, _farthest(box, centre, P))


def settled_box(system: LureSystem, inputs: Box, known: Box) -> Box:
    """A box that holds all settled states.

    Args:
        system: A frozen system.
        inputs: Limits of the inputs, each shape (nu,).
        known: A box that is known to hold them, each shape (nx,).
    """
    box, bounded = known, _bounded_box(system, inputs)
    if bounded is not None:
        box = _intersection(box, bounded)
    for _ in range(_SHRINKINGS):
        smaller = _intersection(box, _step(system, box, inputs))
        gained = float((box[1] - box[0]).sum() - (smaller[1] - smaller[0]).sum())
        box = smaller
        if gained <= 1e-4 * float((box[1] - box[0]).sum()):
            break
    return box


def _bounded_box(system: LureSystem, inputs: Box) -> Box | None:
    """The box that bounded activations imply; None where they are not bounded, or |A| does not contract."""
    if system.activation not in _VALUES:
        return None
    middle, half = _VALUES[system.activation]
    w = np.full(system.nv, middle - half), np.full(system.nv, middle + half)
    push = interval_sum([(system.B1, w), (system.B2, inputs)], system.bx)
    size, n = np.abs(system.A), system.nx
    if float(np.abs(np.linalg.eigvals(size)).max()) >= 1 - 1e-6:
        return None
    centre = np.linalg.solve(np.eye(n) - system.A, 0.5 * (push[0] + push[1]))
    room = 1e-9 * (1 + np.abs(centre))
    r = np.linalg.solve(np.eye(n) - size, 0.5 * (push[1] - push[0]) + room)
    box = centre - r, centre + r
    image = interval_sum([(system.A, box), (system.B1, w), (system.B2, inputs)], system.bx)
    inside = (image[0] >= box[0]).all() and (image[1] <= box[1]).all() and ((size @ r) * _ROUNDING < r).all()
    return box if inside else None


def _step(system: LureSystem, x: Box, u: Box) -> Box:
    """A box that holds the next states of a box of states and one of inputs."""
    _, w = neuron_intervals(system, x, u)
    return interval_sum([(system.A, x), (system.B1, w), (system.B2, u)], system.bx)


def _intersection(a: Box, b: Box) -> Box:
    return np.maximum(a[0], b[0]), np.minimum(a[1], b[1])


def _farthest(box: Box, centre: Array, P: Array) -> float:
    """Bound on |x - centre|_P over the box: its middle, and then from there to the farthest point."""
    size = np.abs(P)
    offset, half = 0.5 * (box[0] + box[1]) - centre, 0.5 * (box[1] - box[0]) + 1e-15 * np.abs(box).max(axis=0)
    middle = float(offset @ P @ offset) + 1e-12 * float(np.abs(offset) @ size @ np.abs(offset))
    return float(np.sqrt(max(middle, 0.0)) + np.sqrt(half @ size @ half)) * _ROUNDING
