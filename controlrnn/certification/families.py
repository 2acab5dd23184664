"""The inequality of a horizon certificate and its proof: numpy only, no search.

See `controlrnn.certification.incremental` for the inequality and `controlrnn.certification.psd` for the proof.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from scipy.linalg import eigh

from controlrnn.certification import incremental
from controlrnn.certification.incremental import IncrementalForm
from controlrnn.certification.input_error import InputError
from controlrnn.certification.psd import proven_margin
from controlrnn.certification.slopes import Box, local_slopes
from controlrnn.checks import Array, as_array, count, positive, read_only
from controlrnn.errors import CertificationError, DataError, SettingError
from controlrnn.records import Count, Number, Numbers, Schema, Stored
from controlrnn.systems import LureSystem


@dataclass(frozen=True, eq=False)
class Family(Stored):
    """Multipliers for one output, indexed by the number of steps to go, so that one sweep serves every step.

    Args:
        row: The output.
        multipliers: Shape (K, nv).
        rho: Shape (K, number of channels that differ).
        padding: Relative enlargement of the storages in the recursion.
        shares: Of the initial state and of each input that is a state, in the initial set, shape (K, 1 + m); empty
            where no input is a state (see `controlrnn.certification.input_error`).
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "family", 1,
        arrays={
            "multipliers": Numbers("N + 1", "nv", least=0.0), "rho": Numbers("N + 1", "m", least=0.0),
            "shares": Numbers("N + 1", "p", least=0.0, otherwise=(0, 0)),
        },
        meta={"row": Count(), "padding": Number(least=0.0)}, zero=("N", "nu", "nv", "m", "p"),
    )  # fmt: skip

    row: int
    multipliers: Array
    rho: Array
    padding: float
    shares: Array = field(default_factory=lambda: np.zeros((0, 0)))

    def __post_init__(self) -> None:
        for name in ("multipliers", "rho", "shares"):
            object.__setattr__(self, name, read_only(getattr(self, name)))


class Problem:
    """The checked arguments and what follows from them; used to find multipliers and to prove them.

    Args:
        system: A frozen system.
        horizon: N.
        radius: Of the set of initial differences.
        metric: Shape (nx, nx), or None for the identity.
        input_radius: What is known of wrong inputs; numbers mean a box.
        boxes: Ends of the boxes that inputs and initial states stay in, (2, nu) and (2, nx), where they are known.
        lifted: Whether the inputs' difference is a state (`InputError.is_state`); otherwise it may be anything in its
            box at every step, which holds for every kind that is a part of the box.
    """

    def __init__(
        self, system: LureSystem, horizon: int, radius: float, metric: Array | None,
        input_radius: float | Array | InputError, *, boxes: tuple[Box, Box] | None = None, lifted: bool = False,
    ) -> None:  # fmt: skip
        if not system.is_frozen:
            raise SettingError("a certificate needs a frozen system, got one of tensors: call model.freeze() first")
        self.horizon = count("horizon", horizon, least=0)
        self.radius = positive("initial_radius", radius, what="a number >= 0", zero=True)
        error = InputError.of(input_radius, system.nu)
        self.input_radius, self.lifted = error.b, lifted
        self.error = InputError(radius=error.b) if error.is_state and not lifted else error
        self.metric = np.eye(system.nx) if metric is None else as_array("metric", metric, (system.nx, system.nx))
        if not np.array_equal(self.metric, self.metric.T) or proven_margin(self.metric, 0 * self.metric) <= 0:
            raise DataError(
                "metric must be symmetric and positive definite: symmetrise it, or check where it comes from"
            )
        slopes = None if boxes is None else local_slopes(system, boxes[0], boxes[1], self.horizon)
        self.form = IncrementalForm.of(system, error.b > 0, slopes)
        self.b = error.b[error.b > 0]
        if lifted:
            # An initial state without difference gets some room: its part of the metric must be finite.
            room = self.radius or 1e-6 * float(np.linalg.norm(self.b))
            self._parts = self.metric / room**2, self.b
            self.form = self.form.with_inputs_as_states(error.changes[error.b > 0] > 0)
            self.b = error.changes[error.changes > 0]
            self.metric, self.radius = self.joint_metric(np.full(1 + len(self._parts[1]), 1.0)), 1.0

    def joint_metric(self, shares: Array) -> Array:
        """The metric in which the initial set of states and input differences is within one, for shares (1 + m,)."""
        weights = shares / shares.sum() * (1 - 1e-14)
        metric, b = self._parts
        n = len(metric)
        joint = np.zeros((n + len(b), n + len(b)))
        joint[:n, :n] = weights[0] * metric
        joint[np.arange(n, len(joint)), np.arange(n, len(joint))] = weights[1:] / b**2
        return joint

    def terminal(self, row: int) -> tuple[Array, Array]:
        """The row c (1, nz) and c'c."""
        c = self.form.Y[[row]]
        return c, c.T @ c

    def storages(self, family: Family) -> list[Array]:
        """P_0 .. P_N of a family, as its proof computes them."""
        terminal = self.terminal(family.row)[1]
        return incremental.storages(self.form, terminal, family.multipliers, family.rho, family.padding)[0]

    def family(self, row: int, multipliers: Array, rho: Array, padding: float) -> Family:
        """A family that makes the best of given multipliers."""
        found = Family(row, multipliers, self.error.evened(rho), padding)
        if not self.lifted:
            return found
        shares = np.array([self._best_shares(P) for P in self.storages(found)])
        return Family(row, found.multipliers, found.rho, padding, shares)

    def _best_shares(self, P: Array) -> Array:
        """Shares (1 + m,) for which the largest ratio of P to the joint metric is small."""
        n, shares = len(self._parts[0]), np.ones(1 + len(self._parts[1]))
        best, chosen = np.inf, shares
        for _ in range(6):
            values, vectors = eigh(P, self.joint_metric(shares))
            if values[-1] < best:
                best, chosen = float(values[-1]), shares
            # For P = p p' the best shares are the sizes of p's parts, which this step finds at once.
            top = self.joint_metric(np.ones(len(shares))) @ vectors[:, -1] ** 2
            shares = np.sqrt(np.maximum(np.concatenate([[top[:n].sum()], top[n:]]), 1e-8 * top.sum())) * shares
            shares = np.maximum(shares / shares.sum(), 1e-6)
        return chosen

    def prove(self, family: Family) -> tuple[Array, float]:
        """Recompute the storages of ``family``, prove every stage, and return bounds (N + 1,) and the margin."""
        form, K = self.form, self.horizon + 1
        lam, rho = family.multipliers, family.rho
        if lam.shape != (K, form.nv) or rho.shape != (K, form.nu) or not 0 <= family.row < len(form.Y):
            raise CertificationError(
                f"multipliers must have shapes {(K, form.nv)} and {(K, form.nu)}, got {lam.shape}, {rho.shape}"
            )
        if not (np.isfinite(lam).all() and np.isfinite(rho).all() and (lam >= 0).all() and (rho >= 0).all()):
            raise CertificationError("multipliers must be finite and >= 0: the certificate was altered")
        c, terminal = self.terminal(family.row)
        P, found = incremental.storages(form, terminal, lam, rho, family.padding)
        if found < K:
            raise CertificationError(
                f"stage {found} of output {family.row} has no storage for these multipliers", margin=-1.0
            )
        margins = incremental.stage_margins(form, np.array(P), rho, lam, c)
        if not (margins > 0).all():
            stage = int(np.argmin(margins))
            raise CertificationError(
                f"stage {stage} of output {family.row}: the proof fails", margin=float(margins[stage])
            )
        # Far more than the rounding of these few additions.
        bounds = np.sqrt(self._initial(np.array(P), family.shares) + self.error.energies(rho)) * (1 + 1e-12)
        return bounds, float(margins.min())

    def _initial(self, P: Array, shares: Array) -> Array:
        """Squared bounds of the initial difference's part, shape (K,)."""
        if not self.radius:
            return np.zeros(len(P))
        if not self.lifted:
            return self.radius**2 * incremental.largest_ratios(P, self.metric)
        if shares.shape != (len(P), 1 + len(self._parts[1])) or not (shares > 0).all():
            raise CertificationError("shares must be > 0 and have one row per step: the certificate was altered")
        pairs = zip(P, shares, strict=True)
        return np.array([incremental.largest_ratio(one, self.joint_metric(share)) for one, share in pairs])
