"""Bounds on how far two trajectories can drift apart over a finite horizon, per step and output.

The S-procedure with free weights: for every step k and output i

    |dy_k,i|^2 <= dx_0' P_k dx_0 + sum_{j <= k} sum_c rho_j,c du_c^2 <= radius^2 rho_x + sum_j sum_c rho_j,c b_c^2

with the storages of `incremental` (proof: docs/theory/horizon.md). It generalises RNN-SDP (Hamelbeck & Schiffer 2025,
arXiv 2509.17898), which has one weight for everything, one output norm and the last step only; storage form and chordal
exactness: see also Xue et al., CDC 2022 (arXiv 2204.00846).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from controlrnn.certification import figures
from controlrnn.certification.certificate import (
    Certificate,
    bounds_at_a_glance,
    boxes_of,
    certificate_schema,
    current_versions,
    in_words,
)
from controlrnn.certification.certificates.gains import GainCertificate
from controlrnn.certification.families import Family, PredictionInequality
from controlrnn.certification.input_error import InputError
from controlrnn.certification.proof.horizon import HorizonInequality
from controlrnn.certification.proof.intervals import checked_box
from controlrnn.certification.proof.slopes import Box
from controlrnn.certification.search.horizon import Search, families_for, issued_bounds, tail_for
from controlrnn.certification.search.units import Units
from controlrnn.checks import Array, Choice, count, read_only
from controlrnn.errors import CertificationError, SettingError
from controlrnn.portable import ROOM
from controlrnn.records import Count, Number, Numbers, Part, Schema
from controlrnn.systems import LureSystem
from controlrnn.typed import typed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_log = logging.getLogger(__name__)


class Method(Choice):
    """Methods that find the multipliers of a horizon certificate."""

    RICCATI = "riccati"  # our optimisation through the backward recursion
    SDP = "sdp"  # the semidefinite program, through cvxpy


@dataclass(frozen=True, kw_only=True, eq=False)
@typed(infinite=("*",), stored=False)
class HorizonCertificate(Certificate):
    """Proof that trajectories with close initial states and inputs have outputs within `bounds` of each other.

    Args:
        horizon: N; steps 0..N are covered.
        initial_radius: Radius of the set of initial state differences, {dx' metric dx <= radius^2}.
        metric: Shape (nx, nx), positive definite; the identity for a ball in the 2-norm.
        input_radius: Largest input difference per channel and step, shape (nu,), input units: of the largest box that
            ``input_error`` holds.
        input_error: Which input differences are covered.
        input_range: Ends of the box that inputs stay in, shape (2, nu); (2, 0) where anything is allowed.
        state_range: Ends of the box that initial states stay in, shape (2, nx); (2, 0) likewise.
        bounds: Shape (N + 1, ny), output units.
        families: The multipliers that prove them.
        gains: A proof of gains, whose sum bounds the differences too; None where it is nowhere tighter.
    """

    KIND: ClassVar[str] = "horizon-certificate"
    UNITS: ClassVar[dict[str, str]] = {
        "initial_radius": "sqrt(dx' metric dx)",
        "metric": "per state unit squared",
        "input_radius": "input units",
        "bounds": "output units",
    }

    SCHEMA: ClassVar[Schema] = certificate_schema(
        KIND,
        UNITS,
        arrays={
            "metric": Numbers("nx", "nx"),
            "input_radius": Numbers("nu", least=0.0),
            "input_range": Numbers(2, "nu", otherwise=(2, 0)),
            "state_range": Numbers(2, "nx", otherwise=(2, 0)),
            "bounds": Numbers("N + 1", "ny", least=0.0),
        },
        meta={"horizon": Count(size="N"), "initial_radius": Number(least=0.0)},
        parts={
            "families": Part(Family, many=True),
            "input_error": Part(InputError),
            "gains": Part(GainCertificate, none=True, own=True),
        },
    )

    horizon: int
    initial_radius: float
    metric: Array
    input_radius: Array
    input_error: InputError
    input_range: Array
    state_range: Array
    bounds: Array
    families: tuple[Family, ...]
    gains: GainCertificate | None = None

    def __post_init__(self) -> None:
        for name in ("metric", "input_radius", "input_range", "state_range", "bounds"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    def _prove(self, system: LureSystem, room: float) -> float:
        shape = (self.horizon + 1, system.ny)
        if self.bounds.shape != shape or not np.isfinite(self.bounds).all():
            raise CertificationError(f"bounds must be finite, of shape {shape}, got {self.bounds.shape}")
        proven, margin = np.full(shape, np.inf), np.inf
        error = InputError.of(self.input_error, system.nu)
        if not np.array_equal(self.input_radius, error.covered_box(self.horizon)):
            raise CertificationError("input_radius must be that of the largest box within input_error: altered")
        boxes = boxes_of(self.input_range, self.state_range)
        # The claim, not the multipliers, says whether inputs may be taken for states.
        for lifted in (False, True):
            families = [family for family in self.families if (error.is_state and family.shares.size > 0) == lifted]
            if families:
                inequality = HorizonInequality(
                    system, self.horizon, self.initial_radius, self.metric, error, boxes=boxes, lifted=lifted
                )
                bounds, found = inequality.prove_all(families, room=room)
                for family, bound in zip(families, bounds, strict=True):
                    proven[:, family.row] = np.minimum(proven[:, family.row], bound)
                margin = min(margin, found)
        if self.gains is not None:
            if self.gains.horizon != self.horizon or not np.array_equal(self.gains.metric, self.metric):
                raise CertificationError("the gains are of another horizon or metric: the certificate was altered")
            margin = min(margin, self.gains._proven(system, room))
            proven = np.minimum(proven, self.gains.bounds(self.initial_radius, error))
        if not (proven <= self.bounds).all():
            k, i = (int(n) for n in np.argwhere(~(proven <= self.bounds))[0])
            raise CertificationError(
                f"the bound {self.bounds[k, i]:.17g} at step {k}, output {i} is not proven: its multipliers give "
                f"{proven[k, i]:.17g}; certify again",
                margin=float(margin),
            )
        return float(margin)

    def _claim(self) -> str:
        boxed = " stay in the certificate's boxes," if self.input_range.size else ""
        lines = [
            f"Horizon certificate for system {self.system_digest[:12]}, {self.horizon} steps ({self.method}).",
            f"Two trajectories that{boxed} start within {self.initial_radius:.3g} of each other in the certificate's",
            f"metric and whose inputs differ by {self.input_error} differ by at most:",
        ]
        return "\n".join(
            [*lines, *bounds_at_a_glance(self.bounds), f"Proven in float64, smallest relative pivot {self.margin:.2g}."]
        )

    def plot(self, labels: Sequence[str] = ()) -> Figure:
        """Draw the bounds over the horizon, one line an output; returns the figure."""
        return figures.over_horizon(self.bounds, labels, "certified difference")


@typed()
@in_words
def certify_horizon(
    system: LureSystem,
    horizon: int,
    *,
    initial_radius: float,
    input_radius: float | Array | InputError = 0.0,
    metric: Array | None = None,
    input_range: Box | None = None,
    state_range: Box | None = None,
    gains: GainCertificate | None = None,
    method: Method | str = Method.RICCATI,
    focus: Sequence[int] | None = None,
    solver: str = "CLARABEL",
    solver_options: dict[str, Any] | None = None,
    iterations: int = 300,
) -> HorizonCertificate:
    """Bound, for steps 0..horizon and every output, how far two trajectories can differ.

    Around a known trajectory `certify_around` is tighter.

    Args:
        system: A frozen system. It need not be stable.
        horizon: Number of steps N >= 0.
        initial_radius: Radius >= 0 of the set of initial state differences.
        input_radius: Largest difference of each input channel per step, a number for all or shape (nu,), input units;
            or an `InputError`: balls, errors at few steps, constant ones, or such that change slowly.
        metric: Shape (nx, nx): initial differences satisfy dx' metric dx <= initial_radius^2; a 2-norm ball if None.
        input_range: Box that all inputs stay in, each end shape (nu,), from which slopes are known; with
            ``state_range`` or not at all.
        state_range: Box that the initial states are in, each end shape (nx,).
        gains: From `certify_gains` with this horizon and metric: where their sum is tighter, it counts.
        method: Where the multipliers come from.
        focus: Steps whose bounds are to be tightest; each costs one optimisation per output. Every step is covered
            whatever the choice. Default: all steps together, and the last one.
        solver: cvxpy's solver, for `Method.SDP`.
        solver_options: Passed on to it.
        iterations: Most iterations, for `Method.RICCATI`.

    Returns:
        A certificate that has been verified.

    Raises:
        SettingError, ShapeError, DataError: An argument makes no sense.
        CertificationError: No bound could be proven.
    """
    if (input_range is None) != (state_range is None):
        raise SettingError("input_range and state_range must be given together: intervals need both")
    ends = [
        np.zeros((2, 0)) if box is None else np.array(checked_box(name, box, n))
        for name, box, n in (("input_range", input_range, system.nu), ("state_range", state_range, system.nx))
    ]
    error = InputError.of(input_radius, system.nu)
    arguments: dict[str, Any] = {"boxes": boxes_of(*ends)}
    problem = PredictionInequality(system, horizon, initial_radius, metric, error, **arguments)
    problems = [problem]
    if error.is_state and error.b.any():
        problems.append(PredictionInequality(system, horizon, initial_radius, metric, error, lifted=True, **arguments))
    method = Method(method)
    steps = [problem.horizon] if focus is None else [count("focus", k, least=0) for k in focus]
    if not steps or max(steps) > problem.horizon:
        raise SettingError(f"focus must name steps within 0..{problem.horizon}, got {steps}")
    families: list[Family] = []
    statuses: set[str] = set()
    bounds = np.full((problem.horizon + 1, system.ny), np.inf)
    units = Units.of(system, error.b, start=problem.radius / np.sqrt(problem.metric.diagonal()))
    for one in problems:
        scaled, found = units.problem(one, system, arguments["boxes"]), list[Family]()
        try:
            tail = tail_for(scaled)
            for row in range(system.ny):
                search = Search(one, scaled, units, row, tail)
                if method is Method.RICCATI:
                    found += families_for(search, steps, focus is None, iterations)
                else:
                    more, status = _by_sdp(search, steps, focus is None, solver, solver_options)
                    found, statuses = found + more, statuses | status
        except (CertificationError, np.linalg.LinAlgError) as failure:
            if not one.lifted:
                raise
            _log.warning("what is known of the inputs beyond their sizes is not used: %s", failure)
        for family in found:
            bounds[:, family.row] = np.minimum(bounds[:, family.row], issued_bounds(one, family))
        families += found
    if gains is not None:
        added = gains.bounds(problem.radius, error) * ROOM
        gains = gains if (added < bounds).any() else None
        bounds = bounds if gains is None else np.minimum(bounds, added)
    certificate = HorizonCertificate(
        system_digest=system.digest,
        method=str(method),
        solver_status=",".join(sorted(statuses)),
        margin=0.0,
        versions=current_versions(),
        horizon=problem.horizon,
        initial_radius=problem.radius,
        metric=problem.metric,
        input_radius=error.covered_box(problem.horizon),
        input_error=error,
        input_range=ends[0],
        state_range=ends[1],
        bounds=bounds,
        families=tuple(families),
        gains=gains,
    )
    return certificate.issue(system)


def _by_sdp(
    search: Search, steps: Sequence[int], together: bool, solver: str, options: dict[str, Any] | None
) -> tuple[list[Family], set[str]]:
    """Find families for one output by the semidefinite program; returns them and the solver's statuses."""
    if search.head < search.stages:
        raise SettingError(
            f"method 'sdp' takes at most {search.head - 1} steps, got {search.stages - 1}: use 'riccati'"
        )
    families, statuses = [], set()
    for weights in search.plan(steps, together):
        from controlrnn.certification.search import sdp  # cvxpy takes seconds to import

        lam, rho, status = sdp.solve_horizon(search.task(weights), search.sizes(), solver=solver, options=options)
        families.append(search.settle((lam, rho)))
        statuses.add(status)
    return families, statuses
