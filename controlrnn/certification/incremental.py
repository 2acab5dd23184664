"""The difference of two trajectories of a Lur'e system, and the quadratic forms that bound it.

With z = (dx, du, dw) the differences obey dx+ = T z, dv = N z, dw = W z, dy = Y z. A slope in [alpha, beta] means, for
every neuron and any multiplier lambda >= 0,

    2 lambda (dw - alpha dv)(beta dv - dw) >= 0        (Fazlyab et al., LipSDP, NeurIPS 2019; diagonal multipliers only:
                                                        coupled ones are invalid for incremental bounds)

so that z' S(lambda) z >= 0 with S as built here. Neuron by neuron any slopes belong to some pair of points (ReLU: for
any dv; tanh: for small ones). What holds for all differences thus holds for all slope patterns, and no further
constraint on differences, also none special to ReLU, can prove less than the worst pattern reaches;
`experiments.bench_around` measures what that leaves. A *storage* is a matrix P_j per number j of steps to go with

    blkdiag(P_j, R_j, 0) - H_j - S(lambda_j) >= 0,   H_0 = c'c (the output looked at),   H_j = T' P_{j-1} T.    (*)

Summed along a trajectory: |c z_k|^2 <= dx_0' P_k dx_0 + sum_j du' R_j du. For given multipliers the smallest P_j is a
Schur complement, so a whole horizon is one backward recursion; the same sweep serves every shorter horizon.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from controlrnn.certification.psd import UNIT, proven_margin, proven_margins
from controlrnn.checks import Array
from controlrnn.systems import LureSystem


@dataclass(frozen=True, eq=False)
class IncrementalForm:
    """The maps of the difference system, columns ordered z = (dx, du, dw).

    Args:
        T: dx+ = T z, shape (nx, nz).
        Y: dy = Y z, shape (ny, nz).
        lower: dw - alpha dv = lower z, shape (nv, nz).
        upper: beta dv - dw = upper z, shape (nv, nz).
        nx: Number of states.
        nu: Number of inputs that differ.
    """

    T: Array
    Y: Array
    lower: Array
    upper: Array
    nx: int
    nu: int

    @property
    def nz(self) -> int:
        """Length of z."""
        return int(self.T.shape[1])

    @property
    def nv(self) -> int:
        """Number of neurons."""
        return int(self.lower.shape[0])

    @classmethod
    def of(
        cls, system: LureSystem, channels: NDArray[np.bool_] | None = None, slopes: tuple[Array, Array] | None = None
    ) -> IncrementalForm:
        """The form of a frozen system.

        Args:
            system: The system.
            channels: Which inputs may differ, shape (nu,); None: all.
            slopes: Alpha and beta per neuron, each shape (nv,), where more is known than the activation's slope.
        """
        use = np.ones(system.nu, bool) if channels is None else np.asarray(channels, bool)
        alpha, beta = system.activation.slope if slopes is None else (slopes[0][:, None], slopes[1][:, None])
        W = np.hstack([np.zeros((system.nv, system.nx + int(use.sum()))), np.eye(system.nv)])
        N = np.hstack([system.C1, system.D12[:, use], system.D11])
        T = np.hstack([system.A, system.B2[:, use], system.B1])
        Y = np.hstack([system.C2, system.D22[:, use], system.D21])
        return cls(T, Y, W - alpha * N, beta * N - W, system.nx, int(use.sum()))

    def at_equal_states(self) -> IncrementalForm:
        """The form of one step from equal states: the columns of dx are dropped."""
        n = self.nx
        return IncrementalForm(self.T[:, n:], self.Y[:, n:], self.lower[:, n:], self.upper[:, n:], 0, self.nu)

    def with_inputs_as_states(self, change: NDArray[np.bool_]) -> IncrementalForm:
        """The form in which the inputs' difference is a part of the state, and its change per step the input.

        Args:
            change: Which of them may change, shape (nu,).
        """
        n, m = self.nx, self.nu

        def spread(X: Array) -> Array:
            inputs = X[:, n : n + m]
            return np.hstack([X[:, :n], inputs, inputs[:, change], X[:, n + m :]])

        keep = np.eye(m)
        hold = np.hstack([np.zeros((m, n)), keep, keep[:, change], np.zeros((m, self.nv))])
        maps = (np.vstack([spread(self.T), hold]), spread(self.Y), spread(self.lower), spread(self.upper))
        return IncrementalForm(*maps, n + m, int(change.sum()))

    def multiplier_form(self, multipliers: Array) -> Array:
        """S(lambda), shape (nz, nz), for ``multipliers`` (nv,)."""
        half = self.lower.T @ (multipliers[:, None] * self.upper)
        return half + half.T

    def supply(self, P: Array, rho: Array) -> Array:
        """blkdiag(P, diag(rho), 0), shape (nz, nz)."""
        M = np.zeros((self.nz, self.nz))
        M[: self.nx, : self.nx] = P
        index = np.arange(self.nx, self.nx + self.nu)
        M[index, index] = rho
        return M


def smallest_storage(
    form: IncrementalForm, demand: Array, multipliers: Array, rho: Array, padding: float
) -> Array | None:
    """The smallest P for which (*) holds, enlarged by ``padding``; None where no P does.

    Args:
        form: The difference system.
        demand: H_j, shape (nz, nz).
        multipliers: lambda_j, shape (nv,).
        rho: Diagonal of R_j, shape (nu,).
        padding: Relative enlargement, which leaves room for the rounding that the proof has to cover.

    Returns:
        P_j, shape (nx, nx), symmetric.
    """
    return _smallest(form, demand + form.multiplier_form(multipliers), rho, padding)


def _smallest(form: IncrementalForm, G: Array, rho: Array, padding: float) -> Array | None:
    """`smallest_storage` for G = H_j + S(lambda_j)."""
    n = form.nx
    P = G[:n, :n]
    if n < len(G):  # LAPACK refuses empty matrices
        K = -G[n:, n:]
        K.ravel()[: form.nu * (len(K) + 1) : len(K) + 1] += rho
        factor, info = lapack.dpotrf(K, lower=1, overwrite_a=1)
        if info != 0:
            return None
        half, _ = lapack.dtrtrs(factor, G[n:, :n], lower=1)
        P = P + half.T @ half
    P = 0.5 * (P + P.T)
    # Scaled like the diagonal, so that small states are not drowned by large ones.
    # The floor is nothing in any unit, but without it a state that no output ever sees could not be proven.
    P.ravel()[:: n + 1] += padding * (np.abs(P).max(axis=1, initial=0.0) + P.diagonal()) + 1e-280
    return np.asarray(P)


def schur_top(G: Array) -> float:
    """The maximum over w of (1, w)' G (1, w), G_11 + G_1w K^-1 G_w1 with K = -G_ww; infinity where K is not > 0."""
    if len(G) == 1:  # LAPACK refuses empty matrices
        return float(G[0, 0])
    factor, info = lapack.dpotrf(-G[1:, 1:], lower=1)
    if info != 0:
        return np.inf
    half, _ = lapack.dtrtrs(factor, G[1:, :1], lower=1)
    return float(G[0, 0] + (half**2).sum())


def storages(
    form: IncrementalForm, terminal: Array, multipliers: Array, rho: Array, padding: float
) -> tuple[list[Array], int]:
    """The backward recursion.

    Args:
        form: The difference system.
        terminal: H_0, shape (nz, nz), positive semidefinite.
        multipliers: Shape (K, nv), row j for j steps to go.
        rho: Shape (K, nu).
        padding: See `smallest_storage`.

    Returns:
        The storages found and the index of the first stage that has none (K where all have one).
    """
    found: list[Array] = []
    demand = terminal
    half = form.lower.T @ (multipliers[:, :, None] * form.upper)
    S = half + half.swapaxes(1, 2)
    for j, r in enumerate(rho):
        P = _smallest(form, demand + S[j], r, padding)
        if P is None:
            return found, j
        found.append(P)
        demand = form.T.T @ P @ form.T
    return found, len(found)


def stage_margin(
    form: IncrementalForm, P: Array, rho: Array, multipliers: Array, before: Array, terminal: bool
) -> float:
    """Prove (*) for the float64 numbers given, taken as exact; see `proven_margin` for the value.

    Args:
        form: The difference system.
        P: P_j, shape (nx, nx).
        rho: Diagonal of R_j, shape (nu,).
        multipliers: lambda_j, shape (nv,).
        before: P_{j-1} (nx, nx), or the rows c (p, nz) of the output looked at for j = 0.
        terminal: Whether ``before`` is c.
    """
    supply = form.supply(P, rho)
    squares: list[tuple[Array, Array | None, float]] = (
        [(form.T, before, -1.0)] if not terminal else [(before, None, -1.0)]
    )
    return inequality_margin(form, supply, squares, multipliers)


def stage_margins(form: IncrementalForm, P: Array, rho: Array, multipliers: Array, c: Array) -> Array:
    """`stage_margin` of all stages of a recursion at once, shape (K,).

    Args:
        form: The difference system.
        P: Storages, shape (K, nx, nx).
        rho: Shape (K, nu).
        multipliers: Shape (K, nv).
        c: The rows (p, nz) of the output looked at.
    """
    n, u, K = form.nx, form.nu, len(P)
    low, high, T = np.abs(form.lower), np.abs(form.upper), np.abs(form.T)
    half = form.lower.T @ (multipliers[:, :, None] * form.upper)
    sector = low.T @ (multipliers[:, :, None] * high)
    sector = sector + sector.swapaxes(1, 2)
    demand, size = np.empty((K, form.nz, form.nz)), sector.copy()
    demand[0], demand[1:] = c.T @ c, form.T.T @ (P[:-1] @ form.T)
    size[0] += np.abs(c).T @ np.abs(c)
    size[1:] += T.T @ (np.abs(P[:-1]) @ T)
    M = -demand - half - half.swapaxes(1, 2)
    index = np.arange(n, n + u)
    M[:, :n, :n] += P
    size[:, :n, :n] += np.abs(P)
    M[:, index, index] += rho
    size[:, index, index] += rho
    # As in `inequality_margin`, which decides where this is not precise enough.
    M = 0.5 * (M + M.swapaxes(1, 2))
    exact = np.isin(form.lower, (0.0, 1.0)).all()
    error = 1.01 * (max(form.nv, 2 * n, 2 * len(c)) + 12) * UNIT * size + 2 * UNIT * np.abs(M)
    if not exact:
        error += 4 * UNIT * sector
    margins = proven_margins(M, error)
    for j in np.flatnonzero(~(margins > 0)):
        margins[j] = stage_margin(form, P[j], rho[j], multipliers[j], P[j - 1] if j else c, not j)
    return margins


def inequality_margin(
    form: IncrementalForm, constant: Array, squares: list[tuple[Array, Array | None, float]], multipliers: Array
) -> float:
    """Prove constant + sum_i sign_i X_i' W_i X_i - S(lambda) >= 0 for the float64 numbers given, taken as exact.

    Where ordinary precision does not suffice (the terms all but cancel), the matrix is formed in extended precision.

    Args:
        form: The difference system.
        constant: Shape (nz, nz), symmetric.
        squares: Triples X (m, nz), symmetric W (m, m) or None for the identity, and a sign.
        multipliers: lambda, shape (nv,).
    """
    sector = np.abs(form.lower).T @ (multipliers[:, None] * np.abs(form.upper))
    size = np.abs(constant) + sector + sector.T
    inner = form.nv
    for X, W, _ in squares:
        weighted = np.abs(X) if W is None else np.abs(W) @ np.abs(X)
        size, inner = size + np.abs(X).T @ weighted, max(inner, 2 * len(X))
    # With slopes from 0 to a power of two `lower` and `upper` are exact; other slopes rounded them.
    rounded_slopes = 0.0 if np.isin(form.lower, (0.0, 1.0)).all() else 4 * UNIT
    margin = -np.inf
    kinds: tuple[Any, ...] = (np.float64, np.longdouble)
    for kind in kinds:
        M = constant.astype(kind)
        for X, W, sign in squares:
            Xk = X.astype(kind)
            M = M + sign * (Xk.T @ (Xk if W is None else W.astype(kind) @ Xk))
        half = form.lower.astype(kind).T @ (multipliers.astype(kind)[:, None] * form.upper.astype(kind))
        M = M - half - half.T
        # Products of length m err by at most gamma_m of the product of absolute values; adding the parts errs a little
        # more (4 parts, 8 roundings). 1.01 covers higher orders. The last term is the rounding of M to float64.
        unit = float(np.finfo(kind).eps) / 2
        rounded = (0.5 * (M + M.T)).astype(np.float64)
        error = (
            1.01 * (max(inner, form.nv) + 12) * unit * size
            + rounded_slopes * (sector + sector.T)
            + 2 * UNIT * np.abs(rounded)
        )
        margin = proven_margin(rounded, error)
        if margin > 0:
            break
    return margin


def largest_ratio(P: Array, metric: Array) -> float:
    """A proven upper bound of max x'Px / x'metric x; ``metric`` (n, n) positive definite, P (n, n).

    Raises:
        np.linalg.LinAlgError: ``metric`` is not positive definite.
    """
    eigenvalues, _, info = lapack.dsygvd(P, metric, jobz="N")
    if info != 0:
        raise np.linalg.LinAlgError("the metric is not positive definite")
    top = max(float(eigenvalues[-1]), 1e-150)
    for inflation in 10.0 ** np.arange(-12, 0):
        ratio = top * (1 + inflation)
        if proven_margin(ratio * metric - P, 4 * UNIT * (ratio * np.abs(metric) + np.abs(P))) > 0:
            return float(ratio)
    return np.inf


def largest_ratios(P: Array, metric: Array) -> Array:
    """`largest_ratio` of many matrices, shape (K, n, n), the result (K,)."""
    root = np.linalg.inv(np.linalg.cholesky(metric))
    # A little above the largest eigenvalue, where the proof nearly always passes.
    ratios = np.maximum(np.linalg.eigvalsh(root @ P @ root.T)[:, -1], 1e-150) * (1 + 1e-12)
    scaled = ratios[:, None, None] * metric
    margins = proven_margins(scaled - P, 4 * UNIT * (np.abs(scaled) + np.abs(P)))
    for j in np.flatnonzero(~(margins > 0)):
        ratios[j] = largest_ratio(P[j], metric)
    return np.asarray(ratios)
