"""Search for stationary certificates: one metric P and one set of diagonal multipliers for all time.

    contraction   s E'PE - T'PT - S(lambda) > 0,   E z = dx,   s = rate^2
    gains         gain_c - T_c'PT_c - S(lambda_c) > 0 for each input channel, at equal states
    l2 gain       blkdiag(P, rho R, 0) - Y'Y - T'PT - S(lambda) > 0,   rho = gamma^2
    peak          blkdiag(P, rho I, 0) - T'PT - S(lambda) > 0,  blkdiag(P, rho I, 0) - Y'Y - S(mu) > 0,  P < rho I

The smallest s is a generalised eigenvalue problem; it is solved by the method of centres (Boyd & El Ghaoui, "Method of
centers for minimizing generalized eigenvalues", 1993): centre, take the least s that the centre proves, go on.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import matrix_balance

from controlrnn.certification.proof.incremental import IncrementalForm, smallest_storage
from controlrnn.certification.search.barrier import BarrierProgram, Block, Term
from controlrnn.certification.search.interior import neuron_weights, reach
from controlrnn.checks import Array
from controlrnn.errors import CertificationError

_log = logging.getLogger(__name__)
_SHARE = 0.2  # of the way back to the last s, where the next centre is sought
# What nothing else bounds may grow so far beyond its size at the start: multipliers there, metrics and the rest here,
# where growth costs digits (a state that no input reaches has no other bound).
_FREE, _ROOM = 1e7, 1e4


@dataclass(frozen=True, eq=False)
class Point:
    """A metric (nx, nx) and multipliers (nv,) strictly inside the contraction inequality at s = rate^2."""

    metric: Array
    multipliers: Array
    s: float


def contract(form: IncrementalForm, target: float | None = None, *, resolution: float = 4e-4) -> Point:
    """Find the least s with a feasible point, or the centre of the feasible set at a given s.

    Args:
        form: The difference system; inputs are ignored.
        target: s to prove; None for the least below one that diagonal multipliers prove.
        resolution: Relative to 1 - s, where to stop.

    Raises:
        CertificationError: No point at ``target``, or none for any s < 1, as far as the search sees.
    """
    form = without_inputs(form)
    size = _state_sizes(form)
    P = np.diag(size**-2.0)
    lam = reach(form, form.T.T @ P @ form.T, neuron_weights(form))[0][0]
    p, limit = _pack(P, lam), 1.0 if target is None else target
    bound = np.concatenate([_diagonal(size**2) / form.nx, 1 / (_FREE * lam)])
    s, filled = 1.5 * _least(form, P, lam) + 1e-6, 0.5
    centres: list[tuple[Array, float]] = []
    for _ in range(200):
        # Centres fill most of what `bound` allows: the next one is sought from as full a point.
        centre = _contraction(form, s, bound).centre(p * (filled / float(bound @ p)))
        filled = float(bound @ centre)
        centres = [*centres[-1:], (centre, s)]
        # Centres lie nearly on a line: extrapolating saves most of the iterations.
        p, least = _further(form, centres)
        ahead = least + _SHARE * (s - least)
        _log.debug("method of centres: s %.9g, least %.9g", s, least)
        if target is not None and ahead < target:
            return Point(*_unpack(form, _contraction(form, target, bound).centre(p * filled / (bound @ p))), target)
        if s - ahead <= resolution * (1 - ahead) and target is None:
            return Point(*_unpack(form, centre), s + 5 * resolution * (1 - s))
        # No progress to speak of above the limit: diagonal multipliers prove nothing here.
        if s - ahead <= 1e-7 * max(s - limit, 1e-6):
            break
        s = ahead
    raise CertificationError(
        f"no metric with diagonal multipliers was found for any rate below {np.sqrt(s):.7g}", margin=limit - s
    )


def slowed(rate: float, share: float) -> float:
    """Rate above a proven one by a share of what is left to 1: at the least rate metrics are stretched, bounds large.

    Args:
        rate: Rate of contraction, or its square, in (0, 1).
        share: Share of 1 - rate.
    """
    return rate + share * (1 - rate)


def _further(form: IncrementalForm, centres: list[tuple[Array, float]]) -> tuple[Array, float]:
    """Extrapolate the last two ``centres``; returns the point that proves the least s, and that s."""
    (p, s), found = centres[-1], []
    steps = (p - centres[0][0]) / max(centres[0][1] - s, 1e-300)
    for ahead in (0.0, 0.25, 0.5, 1.0, 2.0):
        q = p + ahead * (centres[0][1] - s) * steps
        P, lam = _unpack(form, q)
        if (lam > 0).all() and _is_definite(P):
            found.append((q, _least(form, P, lam)))
    if not found:
        raise CertificationError("the metric is too badly scaled to go on: scale the states, or the inputs and outputs")
    return min(found, key=lambda pair: pair[1])


def _is_definite(P: Array) -> bool:
    """Whether P is positive definite, in units in which its diagonal is one."""
    size = np.sqrt(np.maximum(P.diagonal(), 1e-300))
    return bool(np.linalg.eigvalsh(P / size[:, None] / size)[0] > 0)


def metric_for_inputs(
    form: IncrementalForm, channels: list[IncrementalForm], start: Point, weights: Array, floor: Array
) -> tuple[Array, Array, Array]:
    """Find the metric P >= floor of a given rate that minimises sum_c weights_c^2 gain_c^2 over the inputs.

    Args:
        form: The difference system; inputs are ignored.
        channels: One form per input channel, at equal states.
        start: A point inside the contraction inequality; its s is kept.
        weights: Size of each input, shape (nu,).
        floor: Shape (nx, nx), positive definite.

    Returns:
        P (nx, nx), multipliers (nv,), multipliers per channel (nu, nv), strictly inside.
    """
    form = without_inputs(form)
    n, nv, nu = form.nx, form.nv, len(channels)
    into = n * (n + 1) // 2
    size = 2 * top_ratio(floor, start.metric)
    P, lam = size * start.metric, size * start.multipliers
    blocks = [_inequality(form, start.s), Block(-floor, (_square(n, np.eye(n)),))]
    gains = np.empty(nu)
    for c, one in enumerate(channels):
        own, here = into + nv * (1 + c) + np.arange(nv), np.eye(one.nz)[:1]
        terms = (
            _square(n, one.T, -1.0),
            _products(own, -one.lower, one.upper),
            _products(np.array([into + nv * (1 + nu) + c]), here, 0.5 * here),
        )
        blocks.append(Block(np.zeros((one.nz, one.nz)), terms))
        gains[c] = 2 * _least_supply(-one.T.T @ P @ one.T - one.multiplier_form(lam), slice(0, 1)) + 1e-9 * np.trace(P)
    p = np.concatenate([_pack(P, lam), np.tile(lam, nu), gains])
    # A metric larger than needed would only blur the proof.
    slight = 1e-6 * float(weights**2 @ gains) * _diagonal(1 / P.diagonal()) / n
    cost = np.concatenate([slight, np.zeros(nv * (1 + nu)), weights**2])
    blocks.append(_room(n, p))
    p = BarrierProgram(tuple(blocks), np.arange(len(p)) >= into).minimise(p, cost, tolerance=1e-3)
    return *_unpack(form, p), p[into + nv : into + nv * (1 + nu)].reshape(nu, nv)


def least_gain(form: IncrementalForm, start: Point, *, tolerance: float = 1e-4) -> tuple[float, Array, Array]:
    """Find the least rho = gamma^2 of the l2 gain inequality, with R = I.

    Args:
        form: The difference system, inputs and outputs in units of the gain.
        start: A point inside the contraction inequality with s < 1.
        tolerance: Relative, of rho.

    Returns:
        rho, P (nx, nx), multipliers (nv,), strictly inside.
    """
    n, nu = form.nx, form.nu
    inputs, rest = slice(n, n + nu), np.r_[0:n, n + nu : form.nz]
    seen = form.Y.T @ form.Y
    plain = form.supply(start.metric, np.zeros(nu)) - form.T.T @ start.metric @ form.T
    plain = plain - form.multiplier_form(start.multipliers)
    # The inequality of contraction has room, which a large multiple of it makes enough for any output.
    size = 2 * top_ratio(seen[np.ix_(rest, rest)], plain[np.ix_(rest, rest)]) + 1e-12 * float(np.trace(seen))
    size = size or 1.0
    P, lam = size * start.metric, size * start.multipliers
    rho = 2 * _least_supply(size * plain - seen, inputs) + 1e-12 * size * float(np.trace(start.metric))
    p = np.concatenate([_pack(P, lam), [rho]])
    main = _inequality(form, 1.0, -seen)
    picks = [np.eye(form.nz)[[c]] for c in range(n, n + nu)]
    supply = tuple(_products(np.array([len(p) - 1]), here, 0.5 * here) for here in picks)
    blocks = (Block(main.constant, main.terms + supply), Block(np.zeros((n, n)), (_square(n, np.eye(n)),)), _room(n, p))
    cost = np.zeros_like(p)
    cost[-1] = 1.0
    p = BarrierProgram(blocks, np.arange(len(p)) >= n * (n + 1) // 2).minimise(p, cost, tolerance=tolerance)
    return float(p[-1]), *_unpack(form, p)


def least_peak(form: IncrementalForm, start: Point, *, tolerance: float = 1e-3) -> tuple[float, Array, Array]:
    """Find the least rho with |dy_k|^2 <= rho (|dx_0|^2 + sum_j |du_j|^2) for every k.

    Args:
        form: The difference system.
        start: A point inside the contraction inequality with s < 1.
        tolerance: Relative, of rho.

    Returns:
        rho, multipliers (nv,) of every stage, multipliers (nv,) of the stage next to the output, strictly inside.
    """
    n, nu, nv, seen = form.nx, form.nu, form.nv, form.Y.T @ form.Y
    inputs, rest = slice(n, n + nu), np.r_[0:n, n + nu : form.nz]
    kept = form.supply(start.metric, np.zeros(nu)) - form.multiplier_form(start.multipliers)
    plain = kept - form.T.T @ start.metric @ form.T
    # Multiples of the contraction inequality's own numbers have room for any output.
    size = 2 * top_ratio(seen[np.ix_(rest, rest)], kept[np.ix_(rest, rest)]) + 1e-12 * float(np.trace(seen))
    size = size or 1.0
    need = max(size * _least_supply(plain, inputs), _least_supply(size * kept - seen, inputs))
    rho = 2 * max(need, size * float(np.linalg.eigvalsh(start.metric)[-1]))
    into = n * (n + 1) // 2
    p = np.concatenate([_pack(size * start.metric, size * start.multipliers), size * start.multipliers, [rho]])
    last, eye, main = np.array([len(p) - 1]), np.eye(form.nz), _inequality(form, 1.0)
    supply = tuple(_products(last, eye[[c]], 0.5 * eye[[c]]) for c in range(n, n + nu))
    own = into + nv + np.arange(nv)
    first = (_square(n, eye[:n]), _products(own, -form.lower, form.upper))
    ball = tuple(_products(last, row[None], 0.5 * row[None]) for row in np.eye(n))
    blocks = (
        Block(main.constant, main.terms + supply),
        Block(-seen, first + supply),
        Block(np.zeros((n, n)), (_square(n, np.eye(n), -1.0), *ball)),
        Block(np.zeros((n, n)), (_square(n, np.eye(n)),)),
        _room(n, p),
    )
    cost = np.zeros_like(p)
    cost[-1] = 1.0
    p = BarrierProgram(blocks, np.arange(len(p)) >= into).minimise(p, cost, tolerance=tolerance)
    return float(p[-1]), p[into : into + nv], p[into + nv : -1]


def top_ratio(a: Array, b: Array) -> float:
    """The maximum of x'ax / x'bx for a >= 0, b > 0."""
    L = np.linalg.cholesky(b)
    half = np.linalg.solve(L, a)
    return max(float(np.linalg.eigvalsh(np.linalg.solve(L, half.T))[-1]), 0.0)


def without_inputs(form: IncrementalForm) -> IncrementalForm:
    """The form at equal inputs, whose columns are dropped."""
    return form.through(np.r_[0 : form.nx, form.nx + form.nu : form.nz], form.nx, 0)


def _state_sizes(form: IncrementalForm) -> Array:
    """Units for the states, shape (nx,), that balance the loop through neurons and states."""
    n = form.nx
    through = np.abs(form.T[:, n:]) @ (np.abs(form.lower[:, :n]) + np.abs(form.upper[:, :n]))
    loop = np.abs(form.T[:, :n]) + through
    if not np.isfinite(loop).all():
        raise CertificationError("what states do to themselves through neurons overflows: scale the states")
    _, (scale, _) = matrix_balance(loop, permute=False, separate=True)
    return np.asarray(scale)


def _contraction(form: IncrementalForm, s: float, bound: Array) -> BarrierProgram:
    """Program of the contraction inequality at s with P > 0 and bound'p < 1."""
    n = form.nx
    blocks = (_inequality(form, s), Block(np.zeros((n, n)), (_square(n, np.eye(n)),)), _bound(bound))
    return BarrierProgram(blocks, np.arange(len(bound)) >= n * (n + 1) // 2)


def _inequality(form: IncrementalForm, s: float, constant: Array | None = None) -> Block:
    """Block of the inequality constant + s E'PE - T'PT - S(lambda) > 0."""
    n = form.nx
    own = n * (n + 1) // 2 + np.arange(form.nv)
    terms = (_square(n, np.eye(form.nz)[:n], s), _square(n, form.T, -1.0), _products(own, -form.lower, form.upper))
    return Block(np.zeros((form.nz, form.nz)) if constant is None else constant, terms)


def _square(n: int, X: Array, factor: float = 1.0) -> Term:
    """Term factor X'PX for the unknowns p = upper triangle of P (n, n), with X (n, nz)."""
    a, b = np.triu_indices(n)
    return Term(np.arange(len(a)), X, X, a, b, factor * np.where(a == b, 0.5, 1.0))


def _products(index: NDArray[np.intp], L: Array, U: Array) -> Term:
    """Term sum_k p[index_k] (L_k'U_k + U_k'L_k)."""
    every = np.arange(len(index))
    return Term(index, L, U, every, every, np.ones(len(index)))


def _bound(weights: Array) -> Block:
    """Block of the inequality 1 - weights'p > 0."""
    index = np.flatnonzero(weights)
    return Block(np.ones((1, 1)), (_products(index, -weights[index, None], np.full((len(index), 1), 0.5)),))


def _room(n: int, p: Array) -> Block:
    """Bound on all unknowns far beyond their sizes in ``p``, whose first entries are a metric (n, n)."""
    into = n * (n + 1) // 2
    metric = _diagonal(1 / _diagonal_of(n, p)) / n
    others: Array = np.divide(1.0, len(p) * p[into:], out=np.zeros(len(p) - into), where=p[into:] > 0)
    return _bound(np.concatenate([metric, others]) / _ROOM)


def _diagonal(weights: Array) -> Array:
    """Coefficients of sum_i weights_i P_ii in the upper triangle of P, shape (n (n + 1) / 2,)."""
    a, b = np.triu_indices(len(weights))
    return np.where(a == b, weights[a], 0.0)


def _diagonal_of(n: int, p: Array) -> Array:
    """Diagonal of the metric (n, n) whose upper triangle is the first part of p."""
    a, b = np.triu_indices(n)
    return np.asarray(p[: len(a)][a == b])


def _pack(P: Array, lam: Array) -> Array:
    """Unknowns p: the upper triangle of P, then the multipliers."""
    return np.concatenate([P[np.triu_indices(len(P))], lam])


def _unpack(form: IncrementalForm, p: Array) -> tuple[Array, Array]:
    """Metric P and multipliers from the unknowns p."""
    n = form.nx
    into = n * (n + 1) // 2
    P = np.zeros((n, n))
    P[np.triu_indices(n)] = p[:into]
    return P + np.triu(P, 1).T, p[into : into + form.nv]


def _least(form: IncrementalForm, P: Array, lam: Array) -> float:
    """Least s that P and the multipliers prove."""
    after = smallest_storage(form, form.T.T @ P @ form.T, lam, np.zeros(0), 0.0)
    return np.inf if after is None else top_ratio(after, P)


def _least_supply(matrix: Array, inputs: slice) -> float:
    """Least rho >= 0 with matrix + rho (identity on ``inputs``) >= 0, whose other block is positive definite."""
    rest = np.delete(np.arange(len(matrix)), inputs)
    across = matrix[inputs, rest]
    schur = matrix[inputs, inputs] - across @ np.linalg.solve(matrix[np.ix_(rest, rest)], across.T)
    return max(-float(np.linalg.eigvalsh(schur)[0]), 0.0) if len(schur) else 0.0
