"""Proven ellipsoids around a nominal trajectory that hold all its neighbours, step by step.

Let n be the nominal trajectory and o one that starts within its initial radius of n and whose inputs stay within their
radii of the nominal ones. At every step o - n = L xi with |xi|^2 <= e (`Tube.factors`). Then, at that very step,

    |v_i(o) - v_i(n)| <= d_i                     rows of C1 L, of D12 on the inputs, of D11 with the slopes before,
    dw_i = m_i dv_i + r_i d_i eta_i, |eta_i| <= |dv_i| / d_i      chords with one end at v_i(n), `secant_slopes`,
    [W  Z'; Z  F F'] >= 0,   W = blkdiag(tau I, rho, 2 diag t) - 2 N' diag(t) N,   dv / d = N z,   (dx+, dy) = Z z

with z = (xi, du, eta): the form of diagonal multipliers t / (r d)^2 (`incremental`), with its slopes centred, so that
every quantity is of order one, also where an ellipsoid is flat or a point. Hence (dx+, dy) = F xi+ with |xi+|^2 <=
tau e + rho b^2: the next ellipsoid (proof: docs/theory/prediction_tube.md). The smallest F F' is Z W^-1 Z' (Schur
complement). Nothing is assumed: one pass forward proves slopes and ellipsoids together.

The nominal trajectory is computed in float64. What rounding does to it is another small difference, r+ <= sqrt(tau) r +
rounding in the same ellipsoids, for which the ends of the chords have room and which the bounds include: they hold
around the exact trajectory and around the computed one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controlrnn.certification.proof.arithmetic.definite import definite_margin, definite_margins
from controlrnn.certification.proof.arithmetic.enclosure import (
    TINY,
    UNIT,
    Array,
    Enclosure,
    divide_up,
    dot_up,
    root_up,
    sum_up,
    times_up,
)
from controlrnn.certification.proof.arithmetic.matrices import Matrices
from controlrnn.certification.proof.horizon import HorizonInequality
from controlrnn.certification.proof.intervals import neurons, next_state, outputs
from controlrnn.certification.proof.slopes import Box, secant_slopes, within
from controlrnn.checks import as_array, count
from controlrnn.errors import CertificationError

_FLATTEST = 1e-6  # half width that slopes are given at least
_REDUCTIONS = 100
_ROUNDING = 1e5  # how much larger than its rounding an ellipsoid is kept in every direction


@dataclass(frozen=True, eq=False)
class Step:
    """One step of a tube in the coordinates z = (xi, du, eta), for its search and its proof.

    Args:
        rows: Enclosure of (dv / d, dx+, dy) as rows, shape (nv + nx + outputs, nz).
        slopes: Alpha and beta, each shape (nv,).
        d: Largest differences |dv|, shape (nv,).
        b: Input radii, shape (m,).
    """

    rows: Enclosure
    slopes: Box
    d: Array
    b: Array

    @property
    def N(self) -> Array:
        """The matrix with dv / d = N z, shape (nv, nz), rounded."""
        return self.rows.mid[: len(self.d)]

    @property
    def Z(self) -> Array:
        """The matrix with (dx+, dy) = Z z, shape (nx + rows, nz), rounded."""
        return self.rows.mid[len(self.d) :]

    def supply(self, multipliers: Array, shares: Array) -> Array:
        """Diagonal of blkdiag(tau I, rho, 2 diag t), shape (nz,), where ``shares`` (1 + m,) = (tau, rho b^2)."""
        n = self.N.shape[1] - len(self.b) - len(self.N)
        return np.concatenate([np.full(n, shares[0]), shares[1:] / self.b / self.b, 2 * multipliers])

    def form(self, multipliers: Array, shares: Array) -> Array:
        """The matrix W of the stage inequality, shape (nz, nz), rounded."""
        root = np.sqrt(2 * multipliers)[:, None] * self.N
        W = -(root.T @ root)
        W[np.diag_indices(len(W))] += self.supply(multipliers, shares)
        return np.asarray(W)

    def smallest(self, multipliers: Array, shares: Array) -> Array | None:
        """The smallest F F' = Z W^-1 Z', shape (nx + rows, nx + rows), rounded; None unless W is positive definite."""
        try:
            factor = np.linalg.cholesky(self.form(multipliers, shares))
        except np.linalg.LinAlgError:
            return None
        root = np.linalg.solve(factor, self.Z.T)
        return np.asarray(root.T @ root)


class Tube:
    """A forward pass along the trajectory: `look` at a step, then `advance` to the next.

    Args:
        system: A frozen system.
        path: Computed nominal states, shape (K, nx), of which the first must be exact; anything close will do.
        u: Nominal inputs, shape (K, nu).
        start: Factor L of the initial ellipsoid, shape (nx, nx).
        input_radius: Largest input difference per step, shape (nu,).
        known: A finished pass, whose slopes and differences are proven already.
    """

    def __init__(
        self, system: Matrices, path: Array, u: Array, start: Array, input_radius: Array, known: Tube | None = None
    ) -> None:
        use = input_radius > 0
        self.system = system
        self.b = input_radius[use]
        # The output is a row of Z only where neurons reach it; otherwise its bound follows from L directly.
        self.rows = system.ny if (system.D21 != 0).any() else 0
        # Neurons, outputs and next states are rows of (dx, du, dw).
        self.C = np.vstack([system.C1, system.C2, system.A])
        self.D = np.vstack([system.D12, system.D22, system.B2])[:, use]
        self.E = np.vstack([system.D11, system.D21, system.B1])
        self.v, self.v_error, self.x_error, self.y_error = nominal_path(system, path, u)
        self.level = 1.0  # e: squared size of the present ellipsoid
        self.drift = 0.0  # r: size of the rounding of the nominal trajectory, in the same ellipsoid
        self.known = known
        self.factors = [start]
        self.steps = list[Step]()
        self.bounds = list[Array]()
        self.used = list[Array]()

    def look(self) -> Step:
        """Bound differences, slopes and outputs at the present step."""
        system, k, m = self.system, len(self.steps), len(self.b)
        n, ny, nv = system.nx, system.ny, system.nv
        # Rows of (xi, du, rest), where dw_j = middle_j dv_j + rest_j, |rest_j| <= half_j d_j.
        mid, rad = np.zeros((len(self.C), n + m + nv)), np.zeros((len(self.C), n + m + nv))
        first = Enclosure.of(self.C) @ Enclosure.of(self.factors[-1][:n, :n])
        mid[:, :n], rad[:, :n], mid[:, n : n + m] = first.mid, first.rad, self.D
        low, high, middle, half, d, error = (np.zeros(nv) for _ in range(6))
        for start, stop in (*system.blocks, (nv, len(mid))):
            E, here = self.E[start:stop, :start], slice(start, stop)
            through = Enclosure.of(E) * Enclosure.of(middle[:start])
            rest = Enclosure.of(E).placed((stop - start, n + m + nv), (slice(None), slice(n + m, n + m + start)))
            total = Enclosure(mid[here], rad[here]) + through @ Enclosure(mid[:start], rad[:start]) + rest
            mid[here], rad[here] = total.mid, total.rad
            size = total.magnitude()
            spread = root_up(sum_up(times_up(size[:, :n], size[:, :n]), axis=1))
            other = times_up(size[:, n + m : n + m + start], half[:start])
            reach = [
                times_up(root_up(self.level), spread),
                dot_up(size[:, n : n + m], self.b),
                dot_up(other, d[:start]),
            ]
            small = sum_up(np.array([times_up(self.drift, spread), dot_up(other, error[:start])]), axis=0)
            farthest = sum_up(np.array(reach), axis=0)
            if start < nv:
                error[here] = sum_up(np.array([small, self.v_error[k, here]]), axis=0)
                d[here] = np.maximum(farthest, 2 * error[here]) + 1e-200
                self._slopes(here, low, high, d, error)
                middle[here] = 0.5 * (low[here] + high[here])
                # Slopes are at most one, but for those of neurons with laws of their own.
                rounded = 4 * UNIT * np.maximum(high[here], 1.0)
                half[here] = np.maximum(0.5 * (high[here] - low[here]) + rounded, _FLATTEST)
        bound = sum_up(np.array([farthest[:ny], small[:ny], 2 * self.y_error[k]]), axis=0)
        self.bounds.append(bound if self.known is None else np.minimum(bound, self.known.bounds[k]))
        # In units of the differences: of eta where it stands for the rest, and of d where dv does.
        unit = np.concatenate([np.ones(n + m), times_up(half, d)])
        R = Enclosure(mid, rad) * Enclosure(unit, 4 * UNIT * unit * (np.arange(n + m + nv) >= n + m))
        inverse = 1 / d[:, None]
        N = R[:nv] * Enclosure(inverse, 2 * UNIT * inverse + TINY)
        seen = np.r_[nv + ny : len(mid), nv : nv + self.rows]
        rows = Enclosure(np.vstack([N.mid, R.mid[seen]]), np.vstack([N.rad, R.rad[seen]]))
        self.steps.append(Step(rows, (low, high), d, self.b))
        return self.steps[-1]

    def _slopes(self, layer: slice, low: Array, high: Array, d: Array, error: Array) -> None:
        """Set the slope bounds of a layer, with all that the pass before has proven of its slopes and differences."""
        k = len(self.steps)
        if self.known is not None:
            d[layer] = np.minimum(d[layer], np.maximum(self.known.steps[k].d[layer], 2 * error[layer]))
        laws = within(self.system.activation, layer.start, layer.stop)
        low[layer], high[layer] = secant_slopes(laws, self.v[k, layer], error[layer], d[layer])
        if self.known is not None:
            low[layer] = np.maximum(low[layer], self.known.steps[k].slopes[0][layer])
            high[layer] = np.minimum(high[layer], self.known.steps[k].slopes[1][layer])

    def advance(self, multipliers: Array, shares: Array, padding: float) -> None:
        """Compute the next ellipsoid with these multipliers t.

        Around another trajectory than that of the search they may be too large: they are reduced until W is positive
        definite, which it is for small ones.
        """
        step, n, k = self.steps[-1], self.system.nx, len(self.steps) - 1
        X = step.smallest(multipliers, shares)
        for _ in range(_REDUCTIONS):
            if X is not None:
                break
            multipliers = 0.7 * multipliers
            X = step.smallest(multipliers, shares)
        if X is None or not np.isfinite(X).all():
            raise CertificationError(f"step {k} of the tube has no ellipsoid for these multipliers")
        # Room for the proof, and for the rounding of the nominal trajectory, which must be small in every direction.
        room = np.concatenate([(_ROUNDING * self.x_error[k]) ** 2, np.zeros(self.rows)])
        X[np.diag_indices(len(X))] += padding * X.diagonal() + room + 1e-250
        size = np.sqrt(X.diagonal())
        try:
            factor = np.linalg.cholesky(X / np.outer(size, size))
        except np.linalg.LinAlgError as error:
            raise CertificationError(f"step {k} of the tube is too flat for its padding", margin=-1.0) from error
        F = size[:, None] * np.tril(factor)
        # |xi+|^2 <= tau e + rho b^2.
        self.level = float(sum_up(np.array([times_up(shares[0], self.level), *shares[1:]])))
        moved = covered_rounding(F[:n, :n], self.x_error[k])
        drift = float(times_up(root_up(shares[0]), self.drift))
        if self.rows:
            size = np.abs(F[n:])
            spread = root_up(sum_up(times_up(size, size), axis=1))
            reached = times_up(sum_up(np.array([root_up(self.level), drift])), spread)
            self.bounds[-1] = np.minimum(self.bounds[-1], sum_up(np.array([reached, 2 * self.y_error[k]]), axis=0))
        self.drift = float(sum_up(np.array([drift, moved])))
        self.factors.append(F)
        self.used.append(multipliers)

    def margin(self, shares: Array, *, room: float = 1.0) -> float:
        """Prove the inequalities of all steps taken; returns the smallest margin, see `definite_margins`.

        ``shares``, of shape (K, 1 + m), are those that the pass used.
        """
        done = self.steps[: len(self.used)]
        if not done:
            return np.inf
        nv, n = self.system.nv, self.system.nx
        rows = Enclosure(np.array([step.rows.mid for step in done]), np.array([step.rows.rad for step in done]))
        N, Z, t = rows[:, :nv], rows[:, nv:], np.array(self.used)
        count, nz, F = len(done), N.mid.shape[2], Enclosure.of(np.array(self.factors[1:]))
        supply = np.concatenate(
            [np.repeat(shares[:count, :1], n, axis=1), shares[:count, 1:] / self.b / self.b, 2 * t], axis=1
        )
        # Of the supply only rho = share / b^2 was rounded.
        exact = (np.arange(nz) < n) | (np.arange(nz) >= nz - nv)
        diagonal = Enclosure(supply, (4 * UNIT * supply + TINY) * ~exact)
        shape, index = (count, nz + Z.mid.shape[1], nz + Z.mid.shape[1]), np.arange(nz)
        upper, right = slice(0, nz), slice(nz, None)
        # The matrix [W Z'; Z F F'] of every step.
        W = N.T @ (Enclosure.of(2 * t[:, :, None]) * N)
        whole = diagonal.placed(shape, (slice(None), index, index)) - W.placed(shape, (slice(None), upper, upper))
        whole = whole + Z.placed(shape, (slice(None), right, upper)) + Z.T.placed(shape, (slice(None), upper, right))
        whole = whole + (F @ F.T).placed(shape, (slice(None), right, right))
        return float(definite_margins(whole, room=room).min())


class TubeClaim:
    """The claim of a tube certificate without its bounds: a nominal trajectory and the set of its neighbours.

    Args:
        system: A frozen system.
        x0: Nominal initial state, shape (nx,).
        u: Nominal inputs, shape (N + 1, nu).
        radius: Radius of the set of initial differences, >= 0.
        metric: Shape (nx, nx), or None for the identity.
        input_radius: Largest input difference, a number for all channels or shape (nu,).

    Raises:
        SettingError, ShapeError, DataError: An argument makes no sense.
        CertificationError: The trajectory overflows, or the metric is too badly scaled.
    """

    def __init__(
        self, system: Matrices, x0: Array, u: Array, radius: float, metric: Array | None, input_radius: float | Array
    ) -> None:
        self.u = as_array("u", u, ("N + 1", system.nu))
        self.horizon = count("the number of inputs", len(self.u)) - 1
        claim = HorizonInequality(system, self.horizon, radius, metric, input_radius)
        self.system = system
        self.radius = claim.radius
        self.metric = claim.metric
        self.input_radius = claim.input_radius
        self.b = claim.b
        self.x0 = as_array("x0", x0, (system.nx,))
        self.start = covering(self.metric, self.radius)
        # Where neurons reach the outputs the last sample leads on to an ellipsoid too.
        self.steps = self.horizon + bool((system.D21 != 0).any())
        with np.errstate(over="ignore", invalid="ignore"):
            self.path = np.asarray(system.simulate(self.u, self.x0)[1][:-1])
        if not (self.path.shape == (self.horizon + 1, system.nx) and np.array_equal(self.path[0], self.x0)):
            raise CertificationError("the nominal trajectory must start in the initial state")

    def run(self, multipliers: Array, shares: Array, padding: float, known: Tube | None) -> Tube:
        """Run one pass with given multipliers (steps, nv) and shares (steps, 1 + m)."""
        tube = Tube(self.system, self.path, self.u, self.start, self.input_radius, known)
        for k in range(self.horizon + 1):
            tube.look()
            if k < self.steps:
                tube.advance(multipliers[k], shares[k], padding)
        return tube

    def prove(self, multipliers: Array, shares: Array, padding: float, *, room: float = 1.0) -> tuple[Array, float]:
        """Prove bounds (N + 1, ny) on outputs by passes with given multipliers; returns them and the margin.

        Args:
            multipliers: Shape (passes, steps, nv).
            shares: Shape (passes, steps, 1 + m).
            padding: In (0, 1).
            room: See `definite_margins`.

        Raises:
            CertificationError: They prove nothing.
        """
        expected = (self.steps, self.system.nv), (self.steps, 1 + len(self.b))
        if (multipliers.shape[1:], shares.shape[1:]) != expected or not len(multipliers) == len(shares) > 0:
            raise CertificationError(
                f"multipliers and shares must have shapes {expected} per pass, got {multipliers.shape} and "
                f"{shares.shape}: the certificate was altered, or belongs to another number of steps"
            )
        if not (np.isfinite(multipliers).all() and (multipliers >= 0).all() and np.isfinite(shares).all()):
            raise CertificationError("multipliers must be finite and >= 0: the certificate was altered")
        if not (shares >= 0).all() or not 0 < padding < 1:
            raise CertificationError("shares must be >= 0 and the padding in (0, 1): the certificate was altered")
        margin, tube = 1.0, None
        for lam, share in zip(multipliers, shares, strict=True):
            tube = self.run(lam, share, padding, tube)
            margin = min(margin, tube.margin(share, room=room))
        bounds = np.array(tube.bounds if tube is not None else [])
        if not (margin > 0 and np.isfinite(bounds).all()):
            raise CertificationError("the proof of the tube fails at a step: certify again", margin=margin)
        return bounds, float(margin)

    def rounding(self) -> Array:
        """Bound on the rounding of the nominal outputs, shape (N + 1, ny), by which processors may differ."""
        return nominal_path(self.system, self.path, self.u)[3]


def covering(metric: Array, radius: float) -> Array:
    """Matrix L (nx, nx), proven to map the unit ball onto a superset of {dx' metric dx <= radius^2}.

    Raises:
        CertificationError: The metric is not positive definite, or nothing can be proven.
    """
    if not radius:
        return np.zeros_like(metric)
    try:
        exact = radius * np.linalg.inv(np.linalg.cholesky(metric)).T
    except np.linalg.LinAlgError as error:
        raise CertificationError(f"the metric is not positive definite, or float64 cannot tell ({error})") from error
    r, M = Enclosure.of(np.full((1, 1), radius)), Enclosure.of(metric)
    for inflation in 10.0 ** np.arange(-13, -1):
        L = Enclosure.of(exact * (1 + inflation))
        # L'metric L >= radius^2 I: whatever is outside of the ellipsoid is outside of the set.
        if definite_margin(L.T @ (M @ L) - r * r * Enclosure.of(np.eye(len(metric)))) > 0:
            return L.mid
    raise CertificationError("the metric is too badly scaled for a proof, or the radius too small: rescale the states")


def covered_rounding(F: Array, error: Array) -> float:
    """Radius rho, never rounded down, with {|e_i| <= error_i} inside of {F xi: |xi| <= rho}, for F triangular.

    With any X close to the inverse, F^-1 = (I - (I - X F))^-1 X, so |F^-1 e| <= | |X| |e| | / (1 - |I - X F|).
    """
    if not error.any():
        return 0.0
    size = np.abs(F.diagonal())
    try:
        X = np.linalg.inv(F / size[:, None]) / size
    except np.linalg.LinAlgError as failure:
        raise CertificationError("an ellipsoid of the tube is too flat", margin=-1.0) from failure
    rest = (Enclosure.of(np.eye(len(F))) - Enclosure.of(X) @ Enclosure.of(F)).magnitude()
    lost = float(root_up(sum_up(times_up(rest, rest))))
    if not lost < 0.5:
        raise CertificationError("an ellipsoid of the tube is too flat", margin=-1.0)
    reached = dot_up(np.abs(X), error)
    return float(divide_up(root_up(sum_up(times_up(reached, reached))), np.nextafter(1 - lost, 0.0)))


def nominal_path(s: Matrices, path: Array, u: Array) -> tuple[Array, Array, Array, Array]:
    """Pre-activations (K, nv) along the computed path, and error bounds of v, x+ and y there."""
    if not np.isfinite(path).all():
        raise CertificationError("the nominal trajectory overflows: shorten the horizon")
    x, inputs = Enclosure.of(path), Enclosure.of(u)
    v, _ = neurons(s, x, inputs)
    after = next_state(s, x, inputs)
    # What the last step leads to is no part of the path.
    off = np.vstack([(after[:-1] - x[1:]).magnitude(), np.zeros((1, s.nx))])
    return v.mid, np.nextafter(v.rad, np.inf), off, outputs(s, x, inputs).rad
