"""Lipschitz constant of RNN-SDP: from the initial state and all inputs to the last output.

    |y_N - y_N'|_2 <= L |(x_0, u_0, .., u_N) - (x_0', u_0', .., u_N')|_2

(Hamelbeck & Schiffer 2025, arXiv 2509.17898, whose networks have no input at the last step; with diagonal multipliers,
which are the valid ones; proof: docs/theory/lipschitz.md.) One number for states and inputs of different units: for
tightening use `certify_horizon`. With known boxes of inputs and initial states every neuron has at every step the
slopes that it can have there (`controlrnn.certification.proof.intervals`).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from controlrnn.certification import figures
from controlrnn.certification.certificate import Certificate, boxes_of, certificate_schema, current_versions, in_words
from controlrnn.certification.certificates.horizon import Method
from controlrnn.certification.proof.horizon import lipschitz_form, prove_lipschitz
from controlrnn.certification.proof.incremental import IncrementalForm, largest_ratio, storages
from controlrnn.certification.proof.slopes import Box
from controlrnn.certification.search.horizon import PADDINGS, SHARES
from controlrnn.certification.search.interior import interior
from controlrnn.certification.search.riccati import HorizonObjective, Multipliers, Objective, minimise
from controlrnn.certification.search.stationary import contract, least_peak
from controlrnn.certification.search.units import Units
from controlrnn.checks import Array, count, read_only
from controlrnn.errors import CertificationError, SettingError
from controlrnn.portable import ROOM
from controlrnn.records import Count, Number, Numbers, Schema
from controlrnn.systems import LureSystem
from controlrnn.typed import typed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_log = logging.getLogger(__name__)
_MORE = (1.0, 10.0, 100.0)  # times the least padding
_ORDERS = (8.0, 64.0, 512.0)  # from smooth to close to the largest value


@dataclass(frozen=True, kw_only=True, eq=False)
@typed(infinite=("*",), stored=False)
class LipschitzCertificate(Certificate):
    """Proof of a Lipschitz constant from the initial state and all inputs to the last output.

    Args:
        horizon: N.
        constant: L.
        multipliers: Shape (N + 1, nv), by steps to go.
        rho: Shape (N + 1, nu).
        padding: Relative enlargement of the storages, which leaves room for the proof.
        input_range: Ends of the box that inputs stay in, shape (2, nu); (2, 0) where anything is allowed.
        state_range: Ends of the box that initial states stay in, shape (2, nx); (2, 0) likewise.
    """

    KIND: ClassVar[str] = "lipschitz-certificate"
    UNITS: ClassVar[dict[str, str]] = {
        "constant": "output units per (state units, input units)",
        "input_range": "input units",
        "state_range": "state units",
    }

    SCHEMA: ClassVar[Schema] = certificate_schema(
        KIND,
        UNITS,
        arrays={
            "multipliers": Numbers("N + 1", "nv", least=0.0),
            "rho": Numbers("N + 1", "nu", least=0.0),
            "input_range": Numbers(2, "nu", otherwise=(2, 0)),
            "state_range": Numbers(2, "nx", otherwise=(2, 0)),
        },
        meta={"horizon": Count(size="N"), "constant": Number(least=0.0), "padding": Number(least=0.0, below=1.0)},
    )

    horizon: int
    constant: float
    multipliers: Array
    rho: Array
    padding: float
    input_range: Array
    state_range: Array

    def __post_init__(self) -> None:
        for name in ("multipliers", "rho", "input_range", "state_range"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    def _prove(self, system: LureSystem, room: float) -> float:
        constant, margin = prove_lipschitz(
            system,
            self.horizon,
            self.multipliers,
            self.rho,
            self.padding,
            boxes_of(self.input_range, self.state_range),
            room=room,
        )
        if not constant <= self.constant < np.inf:
            raise CertificationError(
                f"the constant {self.constant:.17g} is not proven: its multipliers give {constant:.17g}", margin=margin
            )
        return margin

    def _claim(self) -> str:
        where = "inputs and initial states in the given boxes" if self.input_range.size else "all inputs and states"
        return (
            f"Lipschitz certificate for system {self.system_digest[:12]}: (initial state, inputs) to output "
            f"{self.horizon}, constant {self.constant:.6g}, for {where}. Proven in float64, smallest "
            f"relative pivot {self.margin:.2g}."
        )

    def plot(self, labels: Sequence[str] = ()) -> Figure:
        """Draw the gain bound of each input by steps before the output, beside the constant.

        Args:
            labels: One for each input.
        """
        figure, (axes,) = figures.panels(1)
        for c, weight in enumerate(self.rho.T):
            axes.plot(np.sqrt(weight), marker=".", label=figures.label(labels, c, "u"))
        axes.axhline(self.constant, color="k", ls="--", label="constant")
        axes.set(xlabel="steps before the output", ylabel="gain at most, by input", ylim=(0, None))
        axes.legend()
        return figure


@typed()
@in_words
def certify_lipschitz(
    system: LureSystem,
    horizon: int,
    *,
    input_range: Box | None = None,
    state_range: Box | None = None,
    method: Method | str = Method.RICCATI,
    solver: str = "CLARABEL",
    solver_options: dict[str, Any] | None = None,
    iterations: int = 300,
) -> LipschitzCertificate:
    """Prove one Lipschitz constant from (initial state, inputs 0..N) to the output at step N.

    Args:
        system: A frozen system.
        horizon: N >= 0.
        input_range: Box of the inputs, each end shape (nu,); with ``state_range`` or not at all.
        state_range: Box of the initial states, each end shape (nx,).
        method: Where the multipliers come from. The semidefinite program finds the least constant that they prove, to
            the solver's tolerance; our own search ends up to some half per cent above it, sooner on long horizons.
        solver: cvxpy's solver, for `Method.SDP`.
        solver_options: Passed on to it.
        iterations: Most iterations, for `Method.RICCATI`.

    Returns:
        A certificate that has been verified.

    Raises:
        SettingError, ShapeError, DataError: An argument makes no sense.
        CertificationError: No constant could be proven.
    """
    if not system.is_frozen:
        raise SettingError("a certificate needs a frozen system, got one of tensors: call model.freeze() first")
    horizon, method = count("horizon", horizon, least=0), Method(method)
    if (input_range is None) != (state_range is None):
        raise SettingError("input_range and state_range must be given together: intervals need both")
    boxes = None if input_range is None or state_range is None else (input_range, state_range)
    # One unit for all outputs: the norm of all of them counts.
    size = float(np.linalg.norm(np.hstack([system.C2, system.D21, system.D22]))) or 1.0
    units = Units(np.ones(system.nx), np.ones(system.nu), np.full(system.ny, size))
    form = lipschitz_form(units.system(system), horizon, boxes)
    K = horizon + 1
    last = np.zeros(K)
    last[-1] = 1.0
    task = HorizonObjective(form, form.Y.T @ form.Y, last, last, np.ones(system.nu), Objective.LARGEST)
    inside = _inside(task)
    status = ""
    if method is Method.RICCATI:
        found = _by_riccati(task, inside, iterations)
    else:
        from controlrnn.certification.search import sdp  # cvxpy takes seconds to import

        stages, _ = storages(task.form, task.terminal, *inside, 0.0)
        sizes = np.array([max(float(np.trace(P)) / len(P), 1e-100) for P in stages])
        least, weights, status = sdp.solve_horizon(task, sizes, solver=solver, options=solver_options)
        found = least, weights
    stored = [np.zeros((2, 0)) if boxes is None else np.array(box, dtype=np.float64) for box in boxes or (None, None)]
    claimed, failure = lipschitz_form(system, horizon, boxes), CertificationError("no multipliers exist at every stage")
    for square, lam, rho, padding in _candidates(claimed, units, size, found, inside):
        candidate = LipschitzCertificate(
            system_digest=system.digest,
            method=str(method),
            solver_status=status,
            margin=0.0,
            versions=current_versions(),
            horizon=horizon,
            constant=float(np.sqrt(square)) * ROOM,
            multipliers=lam,
            rho=rho,
            padding=padding,
            input_range=stored[0],
            state_range=stored[1],
        )
        try:
            return candidate.issue(system)
        except CertificationError as error:
            failure = error
    raise failure


def _by_riccati(task: HorizonObjective, start: Multipliers, iterations: int) -> Multipliers:
    """Search through the recursion of the storages, with norms that come closer and closer to the largest value."""
    found = start
    for order in _ORDERS:
        try:
            found = minimise(replace(task, order=order), found, steps=iterations, tolerance=1e-6)
        except CertificationError as error:
            # What the last search found touches the boundary of the feasible set: it is as far as one gets.
            _log.debug("no search at order %g: %s", order, error)
            break
    return found


def _candidates(
    form: IncrementalForm, units: Units, size: float, found: Multipliers, inside: Multipliers
) -> list[tuple[float, Array, Array, float]]:
    """Squared constants with multipliers, rho and padding on the way from ``found`` to ``inside``, the best first.

    What a solver found may lie outside of the feasible set, or so close to its boundary that storages blow up. Room for
    the proof costs less by padding than by going inside.
    """
    tried: list[tuple[float, Array, Array, float]] = []
    pairs = ((share, more * least) for share, least in zip(SHARES, PADDINGS, strict=True) for more in _MORE)
    for share, padding in pairs:
        lam, rho = ((1 - share) * a + share * b for a, b in zip(found, inside, strict=True))
        lam, rho = units.back(lam, rho, size, units.u)
        # Twice the padding: other machines round differently (see `search.issued_bounds`).
        P, stages = storages(form, form.Y.T @ form.Y, lam, rho, 2 * padding)
        if stages < len(lam):
            continue
        try:
            square = max(largest_ratio(P[-1], np.eye(form.nx)), float(rho.max(initial=0.0)))
        except CertificationError as error:
            _log.debug("no constant at a share of %g: %s", share, error)
            continue
        tried.append((square, lam, rho, padding))
    return sorted(tried, key=lambda candidate: candidate[0])


def _inside(task: HorizonObjective) -> Multipliers:
    """Feasible multipliers to start from: stationary ones if they exist, else those of `interior`.

    In `interior` every storage is a little larger than it has to be, a loss that grows exponentially with the length.
    Stationary multipliers are for the slopes of all stages joined. With d (dw - a dv)(b dv - dw) / (b - a) for the
    slopes [a, b] of one stage in place of d (dw - A dv)(B dv - dw) / (B - A) for the joined [A, B] a square is left:
    so weighted they prove no less.
    """
    form, K = task.form, len(task.weights)
    joined = replace(form, alpha=np.atleast_2d(form.alpha).min(axis=0), beta=np.atleast_2d(form.beta).max(axis=0))
    try:
        rho, main, first = least_peak(joined, contract(joined, 1.0), tolerance=0.03)
    except CertificationError:
        return interior(task)
    widths = joined.beta - joined.alpha, form.beta - form.alpha
    grown = np.divide(*widths, out=np.ones_like(widths[1]), where=widths[1] > 0)
    found = np.vstack([first, np.tile(main, (K - 1, 1))]) * grown, np.full((K, form.nu), rho)
    # Slopes that are all but known leave numbers of very different sizes.
    return found if storages(form, task.terminal, *found, 0.0)[1] == K else interior(task)
