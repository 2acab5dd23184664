"""Theorems over a finite horizon, proven by storages: output differences, gains per lag, a Lipschitz constant.

Each function has a claim and multipliers; the claim decides what has to be shown, the multipliers are not trusted.
The inequality (*) of `incremental` is proven stage by stage. Then, for an initial difference in {dx'M dx <= r^2},

    |dy_k|^2 <= r^2 max (x'P_k x / x'M x) + (price of the input differences, see `input_error`)

(proofs: docs/theory/horizon.md and docs/theory/lipschitz.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from controlrnn.certification.proof.arithmetic.definite import definite_margin
from controlrnn.certification.proof.arithmetic.enclosure import (
    UNIT,
    Array,
    Enclosure,
    ldexp_up,
    root_up,
    sum_up,
    times_up,
)
from controlrnn.certification.proof.arithmetic.matrices import Matrices
from controlrnn.certification.proof.incremental import (
    IncrementalForm,
    all_storages,
    demand,
    largest_ratios,
    proven_margins,
    square,
    stage_margins,
)
from controlrnn.certification.proof.input_error import InputDifferences
from controlrnn.certification.proof.intervals import local_slopes, slopes_by_step
from controlrnn.certification.proof.slopes import Box
from controlrnn.certification.proof.structure import reaching
from controlrnn.checks import as_array, count, positive
from controlrnn.errors import CertificationError, DataError


class Multipliers(Protocol):
    """Multipliers for one output, indexed by the number of steps to go; not trusted. See `families.Family`."""

    @property
    def row(self) -> int:
        """Index of the output that the multipliers are for."""

    @property
    def multipliers(self) -> Array:
        """Sector multipliers lambda of the neurons, shape (K, nv), >= 0."""

    @property
    def rho(self) -> Array:
        """Multipliers of the input differences, shape (K, number of channels that differ), >= 0."""

    @property
    def padding(self) -> float:
        """Relative enlargement of the storages in the recursion."""

    @property
    def shares(self) -> Array:
        """Weights of the initial state and of each input that is a state, shape (K, 1 + m); or empty."""


class HorizonInequality:
    """The claim of a horizon certificate without its bounds: the sets of initial and input differences.

    Args:
        system: A frozen system.
        horizon: N.
        radius: Radius of the set of initial differences.
        metric: Shape (nx, nx), or None for the identity.
        input_radius: Set of input differences; numbers mean a box.
        boxes: Ends of the boxes that inputs and initial states stay in, (2, nu) and (2, nx), where they are known.
        lifted: Whether the inputs' difference is a state, which is allowed only for errors of that kind
            (`InputError.is_state`); otherwise it may be anything in its box at every step, which holds for every kind
            that is a part of the box.

    Raises:
        SettingError, ShapeError, DataError: An argument makes no sense.
    """

    def __init__(
        self,
        system: Matrices,
        horizon: int,
        radius: float,
        metric: Array | None,
        input_radius: float | Array | InputDifferences,
        *,
        boxes: tuple[Box, Box] | None = None,
        lifted: bool = False,
    ) -> None:
        self.horizon = count("horizon", horizon, least=0)
        self.radius = positive("initial_radius", radius, what="a number >= 0", zero=True)
        kind = type(input_radius) if isinstance(input_radius, InputDifferences) else InputDifferences
        error = kind.of(input_radius, system.nu)
        self.input_radius = error.b
        self.lifted = lifted
        if lifted and not error.is_state:
            raise CertificationError(
                f"inputs that differ by {error} are no states: multipliers of another kind of error"
            )
        self.error = kind(radius=error.b) if error.is_state and not lifted else error
        self.metric = np.eye(system.nx) if metric is None else as_array("metric", metric, (system.nx, system.nx))
        if not np.array_equal(self.metric, self.metric.T) or not definite_margin(Enclosure.of(self.metric)) > 0:
            raise DataError(
                "metric must be symmetric and positive definite: symmetrise it, or check where it comes from"
            )
        slopes = None if boxes is None else local_slopes(system, boxes[0], boxes[1], self.horizon)
        self.form = IncrementalForm.of(system, error.b > 0, slopes)
        self.b = error.b[error.b > 0]
        # Differences are scaled by a power of two, so that squares of small ones do not vanish.
        self._exponent = int(np.frexp(max(self.radius, float(error.b.max(initial=0.0))))[1])
        self._initial_set = self.radius, self.metric, self.b
        if lifted:
            # The state grows by the inputs that differ; the new inputs are their changes per step.
            self.form = self.form.with_inputs_as_states(error.changes[error.b > 0] > 0)
            self.b = error.changes[error.changes > 0]

    def prove(self, family: Multipliers, *, room: float = 1.0) -> tuple[Array, float]:
        """Prove bounds (N + 1,) on one output's difference by a family; returns them and the margin.

        Args:
            family: Multipliers, which need not be trusted.
            room: See `definite_margins`.

        Raises:
            CertificationError: They prove nothing.
        """
        bounds, margin = self.prove_all([family], room=room)
        return np.asarray(bounds[0]), margin

    def prove_all(self, families: Sequence[Multipliers], *, room: float = 1.0) -> tuple[Array, float]:
        """Prove bounds (F, N + 1) by several families at once; returns them and the smallest margin."""
        P, margin = self.prove_storages(families, room=room)
        return self.bounds(families, P, room=room), margin

    def prove_storages(self, families: Sequence[Multipliers], *, room: float = 1.0) -> tuple[Array, float]:
        """Prove inequality (*) for storages (F, K, nx, nx) of several families; returns them and the smallest margin.

        Args:
            families: Multipliers, which need not be trusted.
            room: See `definite_margins`.

        Raises:
            CertificationError: They prove nothing.
        """
        rows = [count("row", family.row, least=0) for family in families]
        for row, family in zip(rows, families, strict=True):
            _check_multipliers(self.form, self.horizon + 1, family.multipliers, family.rho, family.padding)
            if row >= len(self.form.Y):
                raise CertificationError(f"the row must be that of an output, 0..{len(self.form.Y) - 1}, got {row}")
            if (family.shares.size > 0) != self.lifted:
                raise CertificationError(
                    "shares belong to inputs that are states: multipliers of another kind of error"
                )
        c = np.array([self.form.Y[[row]] for row in rows])
        lam, rho = (np.array([getattr(family, name) for family in families]) for name in ("multipliers", "rho"))
        return _proven_storages(self.form, c, lam, rho, np.array([family.padding for family in families]), room)

    def bounds(self, families: Sequence[Multipliers], P: Array, *, room: float = 1.0) -> Array:
        """Bounds (F, K) on the outputs' differences, from storages that are proven.

        Args:
            families: Families whose storages ``P`` are.
            P: Shape (F, K, nx, nx).
            room: See `definite_margins`.

        Raises:
            CertificationError: They prove nothing.
        """
        error = self.error.scaled(self._exponent)
        initial = self._initial(P, [family.shares for family in families], room)
        squares = initial + np.array([error.energies(family.rho) for family in families])
        # One step up covers the rounding of the sum; an exact zero stays one.
        return ldexp_up(root_up(np.nextafter(squares, np.inf) * (squares > 0)), self._exponent)

    def _initial(self, P: Array, shares: Sequence[Array], room: float) -> Array:
        """Upper bounds of the initial difference's part in the squared bounds, in units of 4^exponent.

        Args:
            P: Proven storages, shape (F, K, n, n).
            shares: Shares of each family.
            room: See `definite_margins`.

        Returns:
            Shape (F, K).
        """
        F, K, flat = len(P), P.shape[1], P.reshape(-1, *P.shape[2:])
        radius, metric, b = self._initial_set
        r = float(ldexp_up(radius, -self._exponent))
        if not self.lifted:
            if not radius:
                return np.zeros((F, K))
            ratios = largest_ratios(Enclosure.of(flat), Enclosure.of(metric[None]), room=room)
            return times_up(r, r, ratios).reshape(F, K)
        m, n = len(b), len(metric)
        if not all(one.shape == (K, 1 + m) and (one > 0).all() and np.isfinite(one).all() for one in shares):
            raise CertificationError("shares must be finite and > 0, one row per step: the certificate was altered")
        parts = np.concatenate(list(shares))
        # A little less than one in all, so that rounding cannot make them more; checked below.
        weights = parts / parts.sum(axis=1, keepdims=True) * (1 - 4 * (m + 9) * UNIT)
        if not (sum_up(weights, axis=1) <= 1).all():
            raise CertificationError("shares must add up to one: the certificate was altered")
        # The set is {w_0 xi'M xi + sum_c w_c e_c^2 <= 1} in the coordinates dx = r xi, du_c = b_c e_c.
        size = np.concatenate([np.full(n, r), ldexp_up(b, -self._exponent)])
        inside = Enclosure.of(size[:, None]) * Enclosure.of(size) * Enclosure.of(flat)
        index = np.arange(n, n + m)
        joint = Enclosure.of(np.zeros((F * K, n + m, n + m)))
        joint.add_at((slice(None), slice(0, n), slice(0, n)), Enclosure.of(weights[:, :1, None]) * Enclosure.of(metric))
        joint.add_at((slice(None), index, index), Enclosure.of(weights[:, 1:]))
        return largest_ratios(inside, joint, room=room).reshape(F, K)


def prove_gains(
    system: Matrices,
    horizon: int,
    metric: Array,
    families: Sequence[Multipliers],
    input_multipliers: Array,
    inputs: Array,
    *,
    room: float = 1.0,
) -> tuple[Array, float]:
    """Prove gains per lag from single inputs and from the initial state; returns the latter (N + 1, ny) and a margin.

    A step from equal states under one input that differs by du: gain^2 - T_c' P_{m-1} T_c - S(mu) >= 0.

    Args:
        system: A frozen system.
        horizon: N.
        metric: Norm of the initial difference, shape (nx, nx).
        families: One per output.
        input_multipliers: mu, shape (N + 1, ny, nu, nv).
        inputs: Claimed gains per lag, shape (N + 1, ny, nu).
        room: See `definite_margins`.

    Returns:
        The gains from the initial state, and the smallest margin of all inequalities.

    Raises:
        CertificationError: A gain is not proven.
    """
    if sorted(family.row for family in families) != list(range(system.ny)):
        raise CertificationError("every output needs exactly one family of multipliers")
    inequality, K = HorizonInequality(system, horizon, 1.0, metric, 0.0), horizon + 1
    initial, margin = np.empty((K, system.ny)), np.inf
    for family in families:
        every, found = inequality.prove_storages([family], room=room)
        P, bounds = every[0], inequality.bounds([family], every, room=room)[0]
        states, reached = reaching(system, family.row, K)
        # No multipliers show a gain of zero; zeros of the matrices do.
        initial[:, family.row] = np.where(states.any(axis=1), bounds, 0.0)
        margin = min(margin, found)
        for c in range(system.nu):
            gains, mu = inputs[:, family.row, c], input_multipliers[:, family.row, c]
            margins = gain_margins(system, family.row, c, P, mu, gains, room=room)
            margins[~reached[:, c]] = np.inf  # nothing is what cannot reach the output
            margin = min(margin, float(margins.min()))
            if not margin > 0:
                lag = int(np.argmin(margins))
                raise CertificationError(
                    f"the gain of input {c} at lag {lag} on output {family.row} is not proven", margin=margin
                )
    return initial, float(margin)


def gain_margins(
    system: Matrices, row: int, channel: int, P: Array, multipliers: Array, gains: Array, *, room: float = 1.0
) -> Array:
    """Prove the gains of one input on one output for every lag; returns margins (K,), see `definite_margins`.

    Args:
        system: A frozen system.
        row: The output.
        channel: The input.
        P: Proven storages of the output, shape (K, nx, nx).
        multipliers: mu, shape (K, nv).
        gains: Claimed, shape (K,).
        room: See `definite_margins`.
    """
    form = IncrementalForm.of_input(system, channel)

    def part(kind: type[Any], which: NDArray[np.intp]) -> Any:
        gain, total = kind.of(gains[which]), -demand(kind, form, P[np.maximum(which - 1, 0)])
        # At lag 0 the output itself is demanded, at lag m the storage of m - 1 steps to go.
        for place in np.flatnonzero(which == 0):
            total.set_at(slice(place, place + 1), -square(kind, form.Y[[row]]))
        total.add_at((slice(None), 0, 0), gain * gain)
        return total

    return proven_margins(form, part, multipliers, room=room)


def lipschitz_form(system: Matrices, horizon: int, boxes: tuple[Box, Box] | None) -> IncrementalForm:
    """Difference system for one constant at step N; in ``boxes`` (see `HorizonInequality`) steps have own slopes."""
    if boxes is None:
        return IncrementalForm.of(system)
    # At j steps to go it is step N - j.
    alpha, beta = slopes_by_step(system, boxes[0], boxes[1], horizon)
    return IncrementalForm.of(system, slopes=(alpha[::-1], beta[::-1]))


def prove_lipschitz(
    system: Matrices,
    horizon: int,
    multipliers: Array,
    rho: Array,
    padding: float,
    boxes: tuple[Box, Box] | None,
    *,
    room: float = 1.0,
) -> tuple[float, float]:
    """Prove a Lipschitz constant from (initial state, inputs 0..N) to all outputs at step N; returns it and a margin.

    Args:
        system: A frozen system.
        horizon: N.
        multipliers: Shape (N + 1, nv), by steps to go.
        rho: Shape (N + 1, nu).
        padding: Relative enlargement of the storages.
        boxes: As in `HorizonInequality`.
        room: See `definite_margins`.

    Raises:
        CertificationError: The multipliers prove nothing.
    """
    form = lipschitz_form(system, count("horizon", horizon, least=0), boxes)
    _check_multipliers(form, horizon + 1, multipliers, rho, padding)
    numbers = multipliers[None], rho[None], np.array([padding])
    P, margin = _proven_storages(form, form.Y[None], *numbers, room)
    # L^2 has to bound the storage of the initial state and the weight rho of every input.
    top = largest_ratios(Enclosure.of(P[0, -1:]), Enclosure.of(np.eye(system.nx)[None]), room=room)
    return float(root_up(max(float(top[0]), float(rho.max(initial=0.0))))), margin


def _check_multipliers(form: IncrementalForm, K: int, lam: Array, rho: Array, padding: float) -> None:
    """Raise a CertificationError unless multipliers have the right shapes, signs and padding."""
    if lam.shape != (K, form.nv) or rho.shape != (K, form.nu):
        raise CertificationError(
            f"multipliers must have shapes {(K, form.nv)} and {(K, form.nu)}, got {lam.shape}, {rho.shape}"
        )
    if not (np.isfinite(lam).all() and np.isfinite(rho).all() and (lam >= 0).all() and (rho >= 0).all()):
        raise CertificationError("multipliers must be finite and >= 0: the certificate was altered")
    if not 0 <= padding < 1:
        raise CertificationError(f"padding must lie in [0, 1), got {padding}: the certificate was altered")


def _proven_storages(
    form: IncrementalForm, c: Array, lam: Array, rho: Array, padding: Array, room: float
) -> tuple[Array, float]:
    """Compute and prove the storages (F, K, nx, nx) of given multipliers; returns them and the smallest margin."""
    found, stages = all_storages(form, c.swapaxes(1, 2) @ c, lam, rho, padding)
    if stages < lam.shape[1]:
        raise CertificationError(f"stage {stages} has no storage for these multipliers", margin=-1.0)
    P = np.stack(found, axis=1)
    margins = stage_margins(form, P, rho, lam, c, room=room)
    if not (margins > 0).all():
        raise CertificationError(
            f"the proof fails at stage {int(np.argmin(margins)) % lam.shape[1]}", margin=float(margins.min())
        )
    return P, float(margins.min())
