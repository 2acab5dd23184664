"""The inequality of a horizon certificate and its proof: numpy only, no search.

See `controlrnn.certification.incremental` for the inequality and `controlrnn.certification.psd` for the proof.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controlrnn.certification import incremental
from controlrnn.certification.incremental import IncrementalForm
from controlrnn.certification.psd import proven_margin
from controlrnn.checks import Array, as_array, count, positive, read_only
from controlrnn.errors import CertificationError, DataError, SettingError
from controlrnn.systems import LureSystem


@dataclass(frozen=True, eq=False)
class Family:
    """Multipliers for one output, indexed by the number of steps to go, so that one sweep serves every step.

    Args:
        row: The output.
        multipliers: Shape (K, nv).
        rho: Shape (K, number of channels that differ).
        padding: Relative enlargement of the storages in the recursion.
    """

    row: int
    multipliers: Array
    rho: Array
    padding: float

    def __post_init__(self) -> None:
        for name in ("multipliers", "rho"):
            object.__setattr__(self, name, read_only(getattr(self, name)))


class Problem:
    """The checked arguments and what follows from them; used to find multipliers and to prove them."""

    def __init__(
        self, system: LureSystem, horizon: int, radius: float, metric: Array | None, input_radius: float | Array
    ) -> None:
        if not system.is_frozen:
            raise SettingError("a certificate needs a frozen system, got one of tensors: call model.freeze() first")
        self.horizon = count("horizon", horizon, least=0)
        self.radius = positive("initial_radius", radius, what="a number >= 0", zero=True)
        radii = np.asarray(input_radius, dtype=np.float64)
        if radii.ndim == 0:
            radii = np.full(system.nu, float(radii))
        radii = as_array("input_radius", radii, (system.nu,), hint="one radius per input channel")
        if (radii < 0).any():
            raise SettingError(f"input_radius must be >= 0 in every channel, got {input_radius}")
        self.input_radius = radii
        self.metric = np.eye(system.nx) if metric is None else as_array("metric", metric, (system.nx, system.nx))
        if not np.array_equal(self.metric, self.metric.T) or proven_margin(self.metric, 0 * self.metric) <= 0:
            raise DataError(
                "metric must be symmetric and positive definite: symmetrise it, or check where it comes from"
            )
        self.form = IncrementalForm.of(system, self.input_radius > 0)
        self.b = self.input_radius[self.input_radius > 0]

    def terminal(self, row: int) -> tuple[Array, Array]:
        """The row c (1, nz) and c'c."""
        c = self.form.Y[[row]]
        return c, c.T @ c

    def storages(self, family: Family) -> list[Array]:
        """P_0 .. P_N of a family, as its proof computes them."""
        terminal = self.terminal(family.row)[1]
        return incremental.storages(self.form, terminal, family.multipliers, family.rho, family.padding)[0]

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
        margin, energy, bounds = np.inf, 0.0, np.empty(K)
        for j in range(K):
            margin = min(margin, incremental.stage_margin(form, P[j], rho[j], lam[j], P[j - 1] if j else c, not j))
            if margin <= 0:
                raise CertificationError(f"stage {j} of output {family.row}: the proof fails", margin=float(margin))
            energy += float(rho[j] @ self.b**2)
            start = self.radius**2 * incremental.largest_ratio(P[j], self.metric) if self.radius else 0.0
            # Far more than the rounding of these few additions.
            bounds[j] = np.sqrt(start + energy) * (1 + 1e-12)
        return bounds, float(margin)
