"""Differences of two trajectories of a Lur'e system, and proofs of quadratic inequalities that bound them.

With z = (dx, du, dw) the differences obey dx+ = T z, dv = N z, dw = W z, dy = Y z. A slope in [alpha, beta] means, for
every neuron and any multiplier lambda >= 0,

    2 lambda (dw - alpha dv)(beta dv - dw) >= 0        (Fazlyab et al., LipSDP, NeurIPS 2019; diagonal multipliers only:
                                                        coupled ones are invalid for incremental bounds)

so that z' S(lambda) z >= 0 with, for a = lambda (alpha + beta), b = lambda alpha beta (diagonal matrices),

    S(lambda) = W'a N + N'a W - 2 W'lambda W - 2 N'b N.

alpha and beta are float64 numbers outside of which no slope lies, so that nothing in S is rounded but the products.
Neuron by neuron any slopes belong to some pair of points (ReLU: for any dv; tanh: for small ones). What holds for all
differences thus holds for all slope patterns, and no further constraint on differences, also none special to ReLU, can
prove less than the worst pattern reaches; `experiments.bench_around` measures what that leaves. A *storage* is a matrix
P_j per number j of steps to go with

    blkdiag(P_j, R_j, 0) - H_j - S(lambda_j) >= 0,   H_0 = c'c (the output looked at),   H_j = T' P_{j-1} T.    (*)

Then |c z_k|^2 <= dx_0' P_k dx_0 + sum_j du' R_j du (proof: docs/theory/incremental.md). For given multipliers the
smallest P_j is a Schur complement, so a whole horizon is one backward recursion; the same sweep serves every shorter
horizon. The recursion, `storages`, needs no trust: whatever symmetric P_j it returns, (*) is what is proven.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlrnn.certification.proof.arithmetic.definite import definite_margins
from controlrnn.certification.proof.arithmetic.enclosure import Array, Enclosure, dot_up, gamma, times_up
from controlrnn.certification.proof.arithmetic.matrices import Matrices
from controlrnn.certification.proof.arithmetic.twofold import Twofold
from controlrnn.certification.proof.slopes import global_slopes
from controlrnn.errors import CertificationError

_FLOOR = 1e-280  # of a storage of an output of order one
TOGETHER = 30_000  # entries of matrices of stages that are looked at together: a quarter of a megabyte, for the cache
_TWICE = (Enclosure, Twofold)  # in the order tried: the second where the terms all but cancel


@dataclass(frozen=True, eq=False)
class IncrementalForm:
    """Linear maps and slope bounds of the difference system, columns ordered z = (dx, du, dw).

    Args:
        T: dx+ = T z, shape (nx, nz).
        Y: dy = Y z, shape (ny, nz).
        N: dv = N z, shape (nv, nz).
        alpha: Least slopes, shape (nv,), or (K, nv) where every number of steps to go has its own (see `at`).
        beta: Greatest slopes, likewise.
        nx: Number of states.
        nu: Number of inputs that differ.
        spread: Bound on the distance of the true T from T, entry by entry, shape (nx, nz); None for an exact T.
    """

    T: Array
    Y: Array
    N: Array
    alpha: Array
    beta: Array
    nx: int
    nu: int
    spread: Array | None = None

    @property
    def nz(self) -> int:
        """Length of z = (dx, du, dw)."""
        return int(self.T.shape[1])

    @property
    def nv(self) -> int:
        """Number of neurons."""
        return int(self.N.shape[0])

    @cached_property
    def W(self) -> Array:
        """The selection matrix with dw = W z, shape (nv, nz)."""
        return np.eye(self.nv, self.nz, k=self.nz - self.nv)

    @cached_property
    def lower(self) -> Array:
        """The matrix with dw - alpha dv = lower z, shape (..., nv, nz); rounded: for searches."""
        return np.asarray(self.W - self.alpha[..., None] * self.N)

    @cached_property
    def upper(self) -> Array:
        """The matrix with beta dv - dw = upper z, shape (..., nv, nz); rounded: for searches."""
        return np.asarray(self.beta[..., None] * self.N - self.W)

    @classmethod
    def of(
        cls,
        system: Matrices,
        channels: NDArray[np.bool_] | None = None,
        slopes: tuple[Array, Array] | None = None,
        spread: Array | None = None,
    ) -> IncrementalForm:
        """The difference system of a frozen system.

        Args:
            system: The system.
            channels: Flags of the inputs that may differ, shape (nu,); None for all.
            slopes: Alpha and beta per neuron, each shape (nv,) or (K, nv), where more is known than the activation's
                slope.
            spread: Bound on the distance of the true (A, B2, B1) from the system's, entry by entry, shape
                (nx, nx + nu + nv); None for exact ones.
        """
        use = np.ones(system.nu, bool) if channels is None else channels
        if slopes is None:
            least, greatest = global_slopes(system.activation)
            slopes = np.full(system.nv, least), np.full(system.nv, greatest)
        N = np.hstack([system.C1, system.D12[:, use], system.D11])
        T = np.hstack([system.A, system.B2[:, use], system.B1])
        Y = np.hstack([system.C2, system.D22[:, use], system.D21])
        if spread is not None:
            spread = spread[:, np.concatenate([np.ones(system.nx, bool), use, np.ones(system.nv, bool)])]
        return cls(T, Y, N, *slopes, system.nx, int(use.sum()), spread)

    @classmethod
    def of_input(cls, system: Matrices, channel: int, spread: Array | None = None) -> IncrementalForm:
        """The form of one step from equal states when a single input differs; ``spread`` as in `of`."""
        return cls.of(system, np.arange(system.nu) == channel, spread=spread).at_equal_states()

    def at(self, stages: int | NDArray[np.intp]) -> IncrementalForm:
        """The form with the slopes of some numbers of steps to go, which count on through recursions of K stages."""
        if self.alpha.ndim == 1:
            return self
        own = np.asarray(stages) % len(self.alpha)
        return replace(self, alpha=self.alpha[own], beta=self.beta[own])

    def through(self, columns: Any, nx: int, nu: int) -> IncrementalForm:
        """The form restricted to some ``columns`` of z, with this many states and inputs."""
        return IncrementalForm(
            self.T[:, columns],
            self.Y[:, columns],
            self.N[:, columns],
            self.alpha,
            self.beta,
            nx,
            nu,
            None if self.spread is None else self.spread[:, columns],
        )

    def in_coordinates(self, left: Array, right: Array) -> IncrementalForm:
        """The form in new coordinates; rounded: for searches.

        States become left dx, and z = right z' with ``right`` (nz, nz), the identity on dw.
        """
        return IncrementalForm(
            left @ self.T @ right, self.Y @ right, self.N @ right, self.alpha, self.beta, self.nx, self.nu
        )

    def at_equal_states(self) -> IncrementalForm:
        """The form of one step from equal states: the columns of dx are dropped."""
        return self.through(slice(self.nx, None), 0, self.nu)

    def with_inputs_as_states(self, change: NDArray[np.bool_]) -> IncrementalForm:
        """The form in which the inputs' difference is a part of the state and its change per step is the input.

        Args:
            change: Flags of the inputs that may change from step to step, shape (nu,).
        """
        n, m = self.nx, self.nu
        if self.spread is not None:
            raise CertificationError("inputs are states of systems that are known exactly only")

        def spread(X: Array) -> Array:
            inputs = X[:, n : n + m]
            return np.hstack([X[:, :n], inputs, inputs[:, change], X[:, n + m :]])

        keep = np.eye(m)
        hold = np.hstack([np.zeros((m, n)), keep, keep[:, change], np.zeros((m, self.nv))])
        T = np.vstack([spread(self.T), hold])
        return IncrementalForm(T, spread(self.Y), spread(self.N), self.alpha, self.beta, n + m, int(change.sum()))

    def multiplier_form(self, multipliers: Array) -> Array:
        """S(lambda), shape (..., nz, nz), for ``multipliers`` (..., nv), rounded: for searches and recursions.

        Where every stage has its own slopes the multipliers are (..., K, nv).
        """
        first, index = self.nz - self.nv, np.arange(self.nz - self.nv, self.nz)
        rows = (multipliers * (self.alpha + self.beta))[..., None] * self.N
        S = np.zeros((*multipliers.shape[:-1], self.nz, self.nz))
        S[..., first:, :] = rows
        S[..., :, first:] += rows.swapaxes(-1, -2)
        S[..., index, index] -= 2 * multipliers
        if self.alpha.any():
            S -= self.N.T @ ((2 * multipliers * self.alpha * self.beta)[..., None] * self.N)
        return S

    def supply(self, P: Array, rho: Array) -> Array:
        """The matrix blkdiag(P, diag(rho), 0), shape (nz, nz)."""
        M = np.zeros((self.nz, self.nz))
        M[: self.nx, : self.nx] = P
        index = np.arange(self.nx, self.nx + self.nu)
        M[index, index] = rho
        return M


def proven_margins(
    form: IncrementalForm, part: Callable[[type[Any], NDArray[np.intp]], Any], multipliers: Array, *, room: float = 1.0
) -> Array:
    """Prove the inequalities (part)_j - S(lambda_j) > 0 and return their margins.

    Args:
        form: The difference system.
        part: Gives, in an arithmetic, the other terms of the inequalities of some j, shape (len(j), nz, nz).
        multipliers: lambda, shape (K, nv), finite and >= 0.
        room: See `definite_margins`.

    Returns:
        Shape (K,), see `definite_margins`.
    """
    margins, chunk = np.full(len(multipliers), -np.inf), max(TOGETHER // max(form.nz, 1) ** 2, 1)
    for kind in _TWICE:
        # Only what the cheaper arithmetic left open is tried again.
        rest = np.flatnonzero(~(margins > 0))
        for which in (rest[i : i + chunk] for i in range(0, len(rest), chunk)):
            total = part(kind, which)
            subtract_sector(total, form.at(which), multipliers[which])
            margins[which] = definite_margins(total.enclosure(), room=room)
    return margins


def subtract_sector(total: Any, form: IncrementalForm, multipliers: Array) -> None:
    """Subtract S(lambda) from ``total`` (K, nz, nz), in its arithmetic and in place, for ``multipliers`` (K, nv)."""
    kind, first = type(total), form.nz - form.nv
    lam, alpha, beta = kind.of(multipliers), kind.of(form.alpha), kind.of(form.beta)
    rows = (lam * (alpha + beta))[:, :, None] * kind.of(-form.N)
    total.add_at((slice(None), slice(first, None), slice(None)), rows)
    total.add_at((slice(None), slice(None), slice(first, None)), rows.T)
    index = np.arange(first, form.nz)
    # Twice a float64 number is exact, so that no rounding is left out here.
    total.add_at((slice(None), index, index), kind.of(2 * multipliers))
    if form.alpha.any():
        N = kind.of(form.N)
        total.add_at((), N.T @ ((kind.of(2 * multipliers) * (alpha * beta))[:, :, None] * N))


def demand(kind: type[Any], form: IncrementalForm, P: Array) -> Any:
    """The matrices T'PT in an arithmetic, shape (K, nz, nz), for P (K, nx, nx), taken as exact."""
    T = kind.of(form.T, form.spread)
    return T.T @ (kind.of(P) @ T)


def square(kind: type[Any], rows: Array) -> Any:
    """The matrix c'c in an arithmetic, shape (1, nz, nz), for ``rows`` c (p, nz)."""
    c = kind.of(rows[None])
    return c.T @ c


def add_supply(total: Any, form: IncrementalForm, P: Any, rho: Any) -> None:
    """Add blkdiag(P, diag(rho), 0) to ``total`` (K, nz, nz), in place, for P (K, nx, nx) and rho (K, nu)."""
    n, index = form.nx, np.arange(form.nx, form.nx + form.nu)
    total.add_at((slice(None), slice(0, n), slice(0, n)), P)
    if form.nu:
        total.add_at((slice(None), index, index), rho)


def stage_margins(
    form: IncrementalForm, P: Array, rho: Array, multipliers: Array, c: Array, *, room: float = 1.0
) -> Array:
    """Prove inequality (*) for all stages of several recursions, for the float64 numbers given, taken as exact.

    Args:
        form: The difference system.
        P: Storages of F recursions, shape (F, K, nx, nx), symmetric.
        rho: Shape (F, K, nu).
        multipliers: Shape (F, K, nv).
        c: The rows (F, p, nz) of the outputs looked at.
        room: See `definite_margins`.

    Returns:
        Shape (F, K), see `definite_margins`.
    """
    F, K = multipliers.shape[:2]
    P, rho = P.reshape(F * K, form.nx, form.nx), rho.reshape(F * K, form.nu)

    def part(kind: type[Any], which: NDArray[np.intp]) -> Any:
        total = -demand(kind, form, P[np.maximum(which - 1, 0)])
        for place in np.flatnonzero(which % K == 0):  # next to the output nothing is behind but the output itself
            total.set_at(slice(place, place + 1), -square(kind, c[which[place] // K]))
        add_supply(total, form, kind.of(P[which]), kind.of(rho[which]))
        return total

    return proven_margins(form, part, multipliers.reshape(F * K, form.nv), room=room).reshape(F, K)


def largest_ratios(P: Enclosure, metric: Enclosure, *, room: float = 1.0) -> Array:
    """Proven upper bounds of max x'P x / x'metric x, shape (K,).

    Args:
        P: Shape (K, n, n), symmetric.
        metric: Shape (K, n, n) or (1, n, n), positive definite.
        room: See `definite_margins`.

    Raises:
        CertificationError: ``metric`` is not positive definite, or nothing can be proven.
    """
    count, n = P.mid.shape[:2]
    if not n:
        return np.zeros(count)
    if not (np.isfinite(P.mid).all() and np.isfinite(metric.mid).all()):
        raise CertificationError("the matrices of a ratio must be finite, but their numbers overflow")
    try:
        root = np.linalg.inv(np.linalg.cholesky(metric.mid))
        top = np.linalg.eigvalsh(root @ P.mid @ root.swapaxes(1, 2))[:, -1]
    except np.linalg.LinAlgError as error:
        raise CertificationError(f"the metric is not positive definite, or float64 cannot tell ({error})") from error
    ratios, found = np.full(count, np.inf), np.zeros(count)
    # Not so small that metric * ratio underflows.
    least = np.maximum(1e-250 / np.maximum(np.abs(metric.mid).max(axis=(1, 2)), 1.0), 1e-300)
    top = np.maximum(top, least)
    # The eigenvalue is a guess: it is raised until metric * ratio - P is proven positive definite.
    for inflation in 10.0 ** np.arange(-12, 1):
        rest = np.flatnonzero(~np.isfinite(ratios))
        if not len(rest):
            return ratios
        found[rest] = top[rest] * (1 + inflation)
        own = metric if len(metric.mid) == 1 else metric[rest]
        whole = Enclosure.of(found[rest])[:, None, None] * own - P[rest]
        margins = definite_margins(whole, room=room)
        ratios[rest[margins > 0]] = found[rest[margins > 0]]
    if not np.isfinite(ratios).all():
        raise CertificationError("the largest ratio of two matrices cannot be proven, since they are too badly scaled")
    return ratios


def largest_ratio(P: Array, metric: Array) -> float:
    """Proven upper bound of max x'P x / x'metric x for a single pair of matrices, taken as exact."""
    return float(largest_ratios(Enclosure.of(P[None]), Enclosure.of(metric[None]))[0])


def smallest_storage(
    form: IncrementalForm, demanded: Array, multipliers: Array, rho: Array, padding: float
) -> Array | None:
    """The smallest P for which (*) holds, enlarged by ``padding``; None where no P does. Not trusted.

    Args:
        form: The difference system.
        demanded: H_j, shape (nz, nz).
        multipliers: lambda_j, shape (nv,).
        rho: Diagonal of R_j, shape (nu,).
        padding: Relative enlargement, which leaves room for the rounding that the proof has to cover.

    Returns:
        P_j, shape (nx, nx), symmetric.
    """
    G = demanded + form.multiplier_form(multipliers)
    P = _smallest(form, G[None], rho[None], np.array([padding]), np.array([_FLOOR]))
    return None if P is None else np.asarray(P[0])


def observer_spread(system: Matrices, gain: Array) -> Array:
    """Bounds on the rounding of an observer's matrices A - L C2, B2 - L D22 (and L), B1 - L D21.

    Args:
        system: The observed system.
        gain: L, shape (nx, ny).

    Returns:
        Bound (nx, nx + nu + ny + nv), whatever the order of the ny + 1 terms of each entry.
    """
    L, units = np.abs(gain), gamma(system.ny + 2)
    parts = [
        times_up(units, np.abs(X) + dot_up(L, np.abs(Y)))
        for X, Y in ((system.A, system.C2), (system.B2, system.D22), (system.B1, system.D21))
    ]
    return np.hstack([*parts[:2], np.zeros_like(gain), parts[2]])


def _smallest(form: IncrementalForm, G: Array, rho: Array, padding: Array, floor: Array) -> Array | None:
    """`smallest_storage` of F recursions, G = H_j + S(lambda_j) of shape (F, nz, nz); None where one has none."""
    n, index = form.nx, np.arange(form.nx)
    K, inputs = -G[:, n:, n:], np.arange(form.nu)
    K[:, inputs, inputs] += rho
    try:
        # P is the Schur complement of what (*) leaves for inputs and neurons.
        half = np.linalg.solve(np.linalg.cholesky(K), G[:, n:, :n])
    except np.linalg.LinAlgError:
        return None
    P = G[:, :n, :n] + half.swapaxes(1, 2) @ half
    P = 0.5 * (P + P.swapaxes(1, 2))
    # Relative to the row in units in which the diagonal is one, so that no state drowns another.
    # The floor is nothing, but without it a state that no output ever sees could not be proven.
    size = np.sqrt(np.maximum(P[:, index, index], 1e-295))
    row = (np.abs(P) / size[:, None, :]).max(axis=2, initial=0.0)
    P[:, index, index] += padding[:, None] * size * (row + size) + floor[:, None]
    return np.asarray(P)


def storages(
    form: IncrementalForm, terminal: Array, multipliers: Array, rho: Array, padding: float
) -> tuple[list[Array], int]:
    """Run the backward recursion for the storages P_0, P_1, .. of given multipliers. Not trusted.

    Args:
        form: The difference system.
        terminal: H_0, shape (nz, nz), positive semidefinite.
        multipliers: Shape (K, nv), row j for j steps to go.
        rho: Shape (K, nu).
        padding: See `smallest_storage`.

    Returns:
        The storages found and the index of the first stage that has none (K where all have one).
    """
    found, stages = all_storages(form, terminal[None], multipliers[None], rho[None], np.array([padding]))
    return [P[0] for P in found], stages


def all_storages(
    form: IncrementalForm, terminal: Array, multipliers: Array, rho: Array, padding: Array
) -> tuple[list[Array], int]:
    """Run `storages` for F recursions at once, which stop together; every argument has a first axis of length F."""
    found: list[Array] = []
    demanded, S = terminal, form.multiplier_form(multipliers)
    floor = _FLOOR * np.clip(np.trace(terminal, axis1=1, axis2=2), 1e-18, 1e18)
    for j in range(multipliers.shape[1]):
        P = _smallest(form, demanded + S[:, j], rho[:, j], padding, floor)
        if P is None:
            return found, j
        found.append(P)
        demanded = form.T.T @ (P @ form.T)
    return found, len(found)


def schur_top(G: Array) -> float:
    """The maximum over w of (1, w)' G (1, w), rounded; infinity where there is none. For searches."""
    if len(G) == 1:
        return float(G[0, 0])
    try:
        half = np.linalg.solve(np.linalg.cholesky(-G[1:, 1:]), G[1:, 0])
    except np.linalg.LinAlgError:
        return np.inf
    return float(G[0, 0] + (half**2).sum())
