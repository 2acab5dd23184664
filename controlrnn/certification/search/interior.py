"""Starting points of the multiplier search: well inside the feasible set, found stage after stage.

Greedy, so loose over long horizons (ECLipsE, Xu & Sivaranjani, NeurIPS 2024, stops there), but never absurd: deep
networks need their layers weighted by orders of magnitude, which no fixed pattern hits.
"""

from __future__ import annotations

import numpy as np

from controlrnn.certification.proof.incremental import IncrementalForm
from controlrnn.certification.search.riccati import HorizonObjective, Multipliers, Objective, minimise, stage_of
from controlrnn.checks import Array
from controlrnn.errors import CertificationError

_MARGIN = 1.5  # how far inside the feasible set
_FIRST, _LATER = 150, 30  # iterations at the first stages, and at those that start near the one before


def interior(task: HorizonObjective) -> Multipliers:
    """Find multipliers (K, nv) and rho (K, nu) for which every stage exists with room to spare.

    Raises:
        CertificationError: The gains over this horizon overflow, or the matrices are too badly scaled.
    """
    form, demand, pattern = task.form.at(0), task.terminal, neuron_weights(task.form.at(0))
    # An output that sees nothing asks for nothing; without a size to go by the multipliers would run off to zero.
    least = 1e-24 * max(float((form.Y**2).sum()), 1e-60)
    if float(np.trace(demand)) < least:
        demand = demand + least * np.diag(np.arange(form.nz) < form.nx)
    lams, rhos = [], []
    for j in range(len(task.weights)):
        form = task.form.at(j)
        stage = HorizonObjective(form, demand, np.ones(1), np.ones(1), task.b, Objective.TRACE)
        lam, rho = minimise(stage, reach(form, demand, pattern), steps=_FIRST if j < 3 else _LATER, tolerance=1e-3)
        # The greedy minimum touches the boundary of the feasible set, where the joint search could not move.
        lam, rho, P = inflate(form, demand, lam[0], rho[0])
        lams.append(lam)
        rhos.append(rho)
        pattern, demand = lam, form.T.T @ P @ form.T
    return np.array(lams).reshape(len(lams), form.nv), np.array(rhos).reshape(len(rhos), form.nu)


def inflate(
    form: IncrementalForm, demand: Array, lam: Array, rho: Array, factor: float = _MARGIN
) -> tuple[Array, Array, Array]:
    """Enlarge the multipliers of one stage by ``factor``, and rho until the stage exists; returns them and P."""
    # Where little is demanded the feasible set is a cone: inside of it rho has to grow against the multipliers.
    lam, rho = factor * lam, 1.2 * factor * rho
    for _ in range(60):
        stage = stage_of(form, demand, lam, rho)
        if stage is not None and np.isfinite(stage[0]).all():
            return lam, rho, stage[0]
        lam, rho = 1.2 * lam, 2 * rho
    raise CertificationError(
        "there are no multipliers at a stage, since the gains overflow or the matrices are too badly scaled"
    )


def reach(form: IncrementalForm, demand: Array, pattern: Array) -> Multipliers:
    """Scale a multiplier ``pattern`` (nv,) until the stage exists, and find a rho for it; shapes (1, nv), (1, nu)."""
    n, u = form.nx, form.nu
    small = 1e-12 * max(float(np.trace(demand)), 1e-200)
    lam = pattern
    if form.nv:
        block = -form.multiplier_form(pattern)[n + u :, n + u :]
        need = _largest_generalised(demand[n + u :, n + u :], block)
        lam = max(_MARGIN * need, small / float(np.trace(block))) * pattern
    G = demand + form.multiplier_form(lam)
    uw = G[n : n + u, n + u :]
    cost = G[n : n + u, n : n + u] + (uw @ np.linalg.solve(-G[n + u :, n + u :], uw.T) if form.nv else 0.0)
    rho = _MARGIN * max(u, 1) * np.maximum(cost.diagonal(), small)
    return lam[None, :], rho[None, :]


def neuron_weights(form: IncrementalForm) -> Array:
    """Multiplier pattern (nv,) with -S_ww > 0.

    It exists since D11 is triangular: later neurons get smaller weights.
    """
    for alone in (False, True):
        pattern = _weights(form, alone=alone)
        if _room_of(form, pattern) > 0:
            break
    return pattern


def _weights(form: IncrementalForm, *, alone: bool) -> Array:
    """Multiplier pattern of `neuron_weights`, neuron after neuron.

    Args:
        form: The difference system.
        alone: Whether neurons to come are left out. With slopes above zero they support the earlier ones, which are
            on their own as soon as the later weights shrink.
    """
    n, nv = form.nx + form.nu, form.nv
    pattern = np.ones(nv)
    for i in range(1, nv + 1):
        # Shrink neuron i - 1 until the leading block stays positive definite with room to spare.
        for _ in range(200):
            known = np.where(np.arange(nv) < i, pattern, 0.0) if alone else pattern
            block = -form.multiplier_form(known)[n : n + i, n : n + i]
            scale = 1 / np.sqrt(np.abs(block.diagonal()))
            if np.linalg.eigvalsh(scale[:, None] * block * scale)[0] > 0.3 / i:
                break
            pattern[i - 1] *= 0.7
    return pattern


def _room_of(form: IncrementalForm, pattern: Array) -> float:
    """Least eigenvalue of -S_ww in units in which its diagonal is one."""
    block = -form.multiplier_form(pattern)[form.nx + form.nu :, form.nx + form.nu :]
    if not form.nv:
        return 1.0
    scale = 1 / np.sqrt(np.abs(block.diagonal()))
    return float(np.linalg.eigvalsh(scale[:, None] * block * scale)[0])


def _largest_generalised(a: Array, b: Array) -> float:
    """Largest eigenvalue of b^-1 a for symmetric a >= 0 and b > 0."""
    L = np.linalg.cholesky(b)
    half = np.linalg.solve(L, a)
    return max(float(np.linalg.eigvalsh(np.linalg.solve(L, half.T))[-1]), 0.0)
