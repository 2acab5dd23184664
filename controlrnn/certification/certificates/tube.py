"""Bounds around a known trajectory, such as a plan, where slopes are known and bounds therefore tighter.

The proof is one or several passes forward (`controlrnn.certification.proof.tube`, docs/theory/prediction_tube.md);
their multipliers come from `controlrnn.certification.search.tube`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from controlrnn.certification import figures
from controlrnn.certification.certificate import (
    PROOF_ROOM,
    Certificate,
    bounds_at_a_glance,
    certificate_schema,
    current_versions,
    in_words,
)
from controlrnn.certification.proof.tube import TubeClaim
from controlrnn.certification.search.tube import PADDINGS, TubeSearch
from controlrnn.checks import Array, count, read_only
from controlrnn.errors import CertificationError, SettingError
from controlrnn.portable import ROOM
from controlrnn.records import Count, ListOf, Number, Numbers, Schema
from controlrnn.systems import LureSystem
from controlrnn.typed import typed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_log = logging.getLogger(__name__)

Focus = tuple[tuple[int, int] | None, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
@typed(infinite=("*",), stored=False)
class TubeCertificate(Certificate):
    """Proof that neighbours of a nominal trajectory have outputs within `bounds` of its outputs.

    Two such trajectories differ by at most twice the bounds.

    Args:
        horizon: N; steps 0..N are covered.
        x0: Nominal initial state, shape (nx,).
        u: Nominal inputs, shape (N + 1, nu).
        initial_radius: Radius of the set of initial differences from x0, {dx' metric dx <= radius^2}.
        metric: Shape (nx, nx), positive definite.
        input_radius: Largest difference from the nominal input per channel and step, shape (nu,), input units.
        bounds: Shape (N + 1, ny), output units.
        multipliers: Relative to the size of the differences, shape (passes, steps, nv).
        shares: Weights of the state's difference and of each input that may differ, shape (passes, steps, 1 + m).
        padding: Relative enlargement of the ellipsoids, which leaves room for the proof.
        focus: The step and output that each pass was made for; None: for all of them.
    """

    KIND: ClassVar[str] = "tube-certificate"
    UNITS: ClassVar[dict[str, str]] = {
        "initial_radius": "sqrt(dx' metric dx)",
        "metric": "per state unit squared",
        "input_radius": "input units",
        "u": "input units",
        "bounds": "output units",
    }

    SCHEMA: ClassVar[Schema] = certificate_schema(
        KIND,
        UNITS,
        arrays={
            "x0": Numbers("nx"),
            "u": Numbers("N + 1", "nu"),
            "metric": Numbers("nx", "nx"),
            "input_radius": Numbers("nu", least=0.0),
            "bounds": Numbers("N + 1", "ny", least=0.0),
            "multipliers": Numbers("passes", "steps", "nv", least=0.0),
            "shares": Numbers("passes", "steps", "p", least=0.0),
        },
        meta={
            "horizon": Count(size="N"),
            "initial_radius": Number(least=0.0),
            "padding": Number(least=0.0),
            "focus": ListOf(ListOf(Count(), 2, none=True), "passes"),
        },
    )

    horizon: int
    x0: Array
    u: Array
    initial_radius: float
    metric: Array
    input_radius: Array
    bounds: Array
    multipliers: Array
    shares: Array
    padding: float
    focus: Focus

    def __post_init__(self) -> None:
        for name in ("x0", "u", "metric", "input_radius", "bounds", "multipliers", "shares"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    def _prove(self, system: LureSystem, room: float) -> float:
        case = TubeClaim(system, self.x0, self.u, self.initial_radius, self.metric, self.input_radius)
        if self.horizon != case.horizon:
            raise CertificationError(f"the horizon must be {case.horizon}, the last input's, got {self.horizon}")
        proven, margin = case.prove(self.multipliers, self.shares, self.padding, room=room)
        finite = np.isfinite(self.bounds).all()
        if self.bounds.shape != proven.shape or not (finite and (proven <= self.bounds).all()):
            raise CertificationError("a bound is not proven by the multipliers: certify again", margin=margin)
        return margin

    def around(self, system: LureSystem, x0: Array, u: Array, *, iterations: int = 5) -> TubeCertificate:
        """Prove the same radii around another trajectory from these multipliers, much faster than by a search.

        Args:
            system: The certified system.
            x0: Nominal initial state, shape (nx,).
            u: Nominal inputs, shape (N + 1, nu), with the N of this certificate.
            iterations: By how many the multipliers of each step are adapted; 0 takes them as they are, which suffices
                for a trajectory close by.

        Raises:
            CertificationError: The multipliers prove nothing there: use `certify_around`.
        """
        case = TubeSearch(system, x0, u, self.initial_radius, self.metric, self.input_radius)
        if case.horizon != self.horizon:
            raise SettingError(f"u must have {self.horizon + 1} rows as in the certificate, got {case.horizon + 1}")
        if not count("iterations", iterations, least=0):
            passes = tuple(zip(self.multipliers, self.shares, strict=True))
            return _certificate(case, passes, self.focus, method="reused")
        # The adjoints of this certificate's own passes are the weights for the new trajectory.
        here = TubeSearch(system, self.x0, self.u, self.initial_radius, self.metric, self.input_radius)
        tube, trial, every = None, None, []
        for one in zip(self.multipliers, self.shares, self.focus, strict=True):
            tube = here.run(*one[:2], self.padding, tube)
            trial, *found = case.search(trial, here.adjoint(tube, one[1], one[2]), one[:2], iterations)
            every.append(found)
        return _certificate(case, every, self.focus, method="reused")

    def _claim(self) -> str:
        radii = ", ".join(f"{r:.3g}" for r in self.input_radius)
        lines = [
            f"Tube certificate for system {self.system_digest[:12]}, {self.horizon} steps around a known trajectory.",
            f"What starts within {self.initial_radius:.3g} of its initial state in the certificate's metric and has",
            f"inputs within ({radii}) of its inputs per channel and step differs from its outputs by at most:",
        ]
        return "\n".join(
            [*lines, *bounds_at_a_glance(self.bounds), f"Proven in float64, smallest relative pivot {self.margin:.2g}."]
        )

    def plot(self, labels: Sequence[str] = ()) -> Figure:
        """Draw the bounds over the horizon, one line an output; returns the figure."""
        return figures.over_horizon(self.bounds, labels, "certified distance from the nominal output")

    @classmethod
    def _fields(cls, values: dict[str, Any]) -> dict[str, Any]:
        focus = tuple((one[0], one[1]) if one else None for one in values["focus"])
        return super()._fields(values) | {"focus": focus}


@typed()
@in_words
def certify_around(
    system: LureSystem,
    x0: Array,
    u: Array,
    *,
    initial_radius: float,
    input_radius: float | Array = 0.0,
    metric: Array | None = None,
    focus: Sequence[int] | None = None,
    passes: int = 3,
) -> TubeCertificate:
    """Bound how far the outputs can be from those of a known trajectory.

    Args:
        system: A frozen system. It need not be stable.
        x0: Nominal initial state, shape (nx,).
        u: Nominal inputs, shape (N + 1, nu): steps 0..N are covered.
        initial_radius: Radius >= 0 of the set of initial differences from x0.
        input_radius: Largest difference from the nominal inputs per step, a number or shape (nu,), input units.
        metric: Shape (nx, nx): initial differences satisfy dx' metric dx <= initial_radius^2; a 2-norm ball if None.
        focus: Steps whose bounds are to be tightest; each costs one pass per output. Every step is covered whatever
            the choice. Default: the last one.
        passes: Most passes for all outputs and steps together.

    Returns:
        A certificate that has been verified. Its `TubeCertificate.around` proves the same radii around other
        trajectories in milliseconds.

    Raises:
        SettingError, ShapeError, DataError: An argument makes no sense.
        CertificationError: Nothing could be proven, for example because the differences overflow.
    """
    if not system.is_frozen:
        raise SettingError("a certificate needs a frozen system, got one of tensors: call model.freeze() first")
    case = TubeSearch(system, x0, u, initial_radius, metric, input_radius)
    steps = [case.horizon] if focus is None else [count("focus", k, least=0) for k in focus]
    if max(steps, default=0) > case.horizon:
        raise SettingError(f"focus must name steps within 0..{case.horizon}, got {steps}")
    tube, *first = case.search(None, None, None)
    for _ in range(count("passes", passes) - 1):
        # Passes alternate with adjoints until they agree, see `search.tube`.
        trial, *found = case.search(None, case.adjoint(tube, first[1]), first)
        gain = float(np.log(np.maximum(tube.bounds, 1e-200) / np.maximum(trial.bounds, 1e-200)).mean())
        _log.debug("all steps: %.4f gained", gain)
        if gain > 0:
            tube, first = trial, found
        if not gain > 0.005:
            break
    # With slopes known, passes that aim at one output and step can only tighten the bounds.
    every, aims = [first], list[tuple[int, int] | None]([None])
    for step in dict.fromkeys(steps):
        for row in range(system.ny):
            trial, *found = case.search(tube, case.adjoint(tube, every[-1][1], (step, row)), first)
            _log.debug("step %d, output %d: %.6g -> %.6g", step, row, tube.bounds[step][row], trial.bounds[step][row])
            if trial.bounds[step][row] < 0.999 * tube.bounds[step][row]:
                tube = trial
                every.append(found)
                aims.append((step, row))
    return _certificate(case, every, tuple(aims), method="passes")


def _certificate(case: TubeSearch, every: Sequence[Sequence[Array]], focus: Focus, *, method: str) -> TubeCertificate:
    """Prove passes of multipliers and shares with the least padding that works; returns the certificate."""
    multipliers, shares = (np.array(part) for part in zip(*every, strict=True))
    failure = CertificationError("no padding")
    for padding in PADDINGS:
        try:
            bounds, margin = case.prove(multipliers, shares, padding, room=PROOF_ROOM)
            certificate = TubeCertificate(
                system_digest=case.system.digest,
                method=method,
                solver_status="",
                margin=margin,
                versions=current_versions(),
                horizon=case.horizon,
                x0=case.x0,
                u=case.u,
                initial_radius=case.radius,
                metric=case.metric,
                input_radius=case.input_radius,
                multipliers=multipliers,
                shares=shares,
                # Another processor rounds the nominal trajectory differently.
                bounds=bounds * ROOM + 4 * case.rounding(),
                padding=padding,
                focus=focus,
            )
            return replace(certificate, margin=certificate.verify(case.system))
        except CertificationError as error:
            failure = error
    raise failure
