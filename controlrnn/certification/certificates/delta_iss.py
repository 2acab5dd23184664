"""Incremental input-to-state stability (delta-ISS) of LSTM and GRU networks over a range of inputs.

For two runs whose inputs stay in the range and whose states start within `DeltaIssCertificate.state_bound`,

    max_i |dx_i+| / d_i <= rate max_i |dx_i| / d_i + sum_c gain_c |du_c| .

It is shown by a monotone, sublinear map F(|dx|, |du|) that bounds |dx+| entrywise, of
`controlrnn.certification.proof.gated`, and a vector d > 0 with F(d, 0) <= rate d (proof: docs/theory/delta_iss.md).

With d constant over the units these are the conditions of Bonassi, Farina, Scattolini, "On the stability properties of
gated recurrent units neural networks", Syst. Control Lett. 2021, and Terzi, Bonassi, Farina, Scattolini, "Learning
model predictive control with long short-term memory networks", Int. J. Robust Nonlinear Control 2021; here d is the
best one (nonlinear Perron-Frobenius iteration), every unit counts with its own row, and slopes over the range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from controlrnn.certification import figures
from controlrnn.certification.certificate import Certificate, certificate_schema, current_versions, in_words
from controlrnn.certification.proof.gated import Comparison
from controlrnn.certification.proof.intervals import checked_box
from controlrnn.certification.proof.stationary import error_after
from controlrnn.checks import Array, channels, count, nonnegative, number, read_only
from controlrnn.errors import CertificationError, SettingError
from controlrnn.portable import ROOM
from controlrnn.records import Number, Numbers, Schema
from controlrnn.systems import GatedSystem
from controlrnn.typed import typed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LEAST = 1e-11  # what cells have to forget in a step
_GATES = 1e-13  # by how much more another machine may find a gate to be open: a hundred units in the last place


@dataclass(frozen=True, kw_only=True, eq=False)
@typed(infinite=("*",), stored=False)
class DeltaIssCertificate(Certificate):
    """Proof that two runs of a gated network approach each other, up to what different inputs do.

    It speaks of states within `state_bound`, which no run from there (from zero, say) leaves while its inputs stay in
    their range. Distances are max_i |dx_i| / scale_i.

    Args:
        rate: In (0, 1); smaller forgets faster.
        scale: d, shape (nx,), positive.
        input_gain: Shape (nu,): how far a unit difference of one input moves the next state.
        input_low: Lower limits of the inputs, shape (nu,), input units.
        input_high: Upper limits, likewise.
        state_bound: Shape (nx,): |x| entrywise.
    """

    KIND: ClassVar[str] = "delta-iss-certificate"
    EXECUTION: ClassVar[str] = "what execution in floating point adds is not bounded for gated systems"
    UNITS: ClassVar[dict[str, str]] = {
        "rate": "per step",
        "scale": "states, dimensionless",
        "input_gain": "distance per input unit",
        "input_low": "input units",
        "input_high": "input units",
        "state_bound": "states, dimensionless",
    }

    SCHEMA: ClassVar[Schema] = certificate_schema(
        KIND,
        UNITS,
        arrays={
            "scale": Numbers("nx", above=0.0),
            "input_gain": Numbers("nu", least=0.0),
            "input_low": Numbers("nu"),
            "input_high": Numbers("nu"),
            "state_bound": Numbers("nx", least=0.0),
        },
        meta={"rate": Number(above=0.0, below=1.0)},
    )

    rate: float
    scale: Array
    input_gain: Array
    input_low: Array
    input_high: Array
    state_bound: Array

    def __post_init__(self) -> None:
        for name in self._names():
            object.__setattr__(self, name, read_only(getattr(self, name)))

    def distance(self, dx: Array) -> Array:
        """Distance max_i |dx_i| / scale_i of state differences (..., nx), shape (...)."""
        return np.asarray((np.abs(dx) / self.scale).max(axis=-1))

    @typed(infinite=("initial",), results=False)
    def error_after(self, steps: int, initial: float, input_radius: float | Array = 0.0) -> float:
        """Bound on the distance of two states after ``steps`` steps.

        Args:
            steps: Number of steps.
            initial: Distance at the start.
            input_radius: Largest difference of each input per step, shape (nu,) or a number for all.
        """
        steps = count("steps", steps, least=0)
        initial = number("initial", initial, least=0, infinite=True, what="a number >= 0")
        radius = nonnegative("input_radius", channels("input_radius", input_radius, len(self.input_gain)), ("nu",))
        return error_after(self.rate, self.input_gain, steps, initial, radius)

    def _prove(self, system: GatedSystem, _: float) -> float:
        shapes = {
            "scale": system.nx,
            "input_gain": system.nu,
            "input_low": system.nu,
            "input_high": system.nu,
            "state_bound": system.nx,
        }
        for name, n in shapes.items():
            value = getattr(self, name)
            if value.shape != (n,) or not np.isfinite(value).all():
                raise CertificationError(f"{name} must be finite, shape {(n,)}: the certificate was altered")
        if not (0 < self.rate < 1 and (self.scale > 0).all() and (self.input_low <= self.input_high).all()):
            raise CertificationError("rate, scale or input range make no sense: the certificate was altered")
        bound = Comparison(system, (self.input_low, self.input_high), self.state_bound)
        needed = bound.rate(self.scale)
        if not (needed <= self.rate and (bound.gains(self.scale) <= self.input_gain).all()):
            raise CertificationError(
                f"the rate {self.rate:.17g} or a gain {self.input_gain} is not proven: the comparison system gives "
                f"{needed:.17g} and {bound.gains(self.scale)}; certify again",
                margin=self.rate - needed,
            )
        return 1 - self.rate

    def _claim(self) -> str:
        gains = ", ".join(f"{g:.3g}" for g in self.input_gain)
        ranges = ", ".join(f"{a:.3g}..{b:.3g}" for a, b in zip(self.input_low, self.input_high, strict=True))
        return (
            f"Delta-ISS certificate for system {self.system_digest[:12]}: with inputs in {ranges}, state differences "
            f"shrink by {self.rate:.5f} per step; input gains ({gains}). Proven in float64."
        )

    def plot(self, labels: Sequence[str] = ()) -> Figure:
        """Draw how state differences decay, and what lasting input differences build up to.

        Args:
            labels: One for each input.
        """
        largest, least = float(self.scale.max()), float(self.scale.min())
        return figures.decay(self.rate, self.input_gain, largest / least, largest, "largest entry", labels)

    def _names(self) -> tuple[str, ...]:
        """Names of the fields that are arrays."""
        return ("scale", "input_gain", "input_low", "input_high", "state_bound")


@typed()
@in_words
def certify_delta_iss(
    system: GatedSystem, *, input_range: tuple[Array, Array], iterations: int = 3000
) -> DeltaIssCertificate:
    """Prove that two runs of an LSTM or GRU network approach each other, for inputs within a range.

    Args:
        system: A frozen gated system.
        input_range: Lower and upper limits, each shape (nu,), input units; narrower ranges are easier to prove.
        iterations: Most iterations of the search for the scale.

    Raises:
        CertificationError: The sufficient condition fails. The network may still be stable.
    """
    if not isinstance(system, GatedSystem) or not system.is_frozen:
        raise SettingError(
            f"system must be a frozen GatedSystem, got {type(system).__name__}: for Lur'e systems use "
            "certify_contraction; call model.freeze() first"
        )
    low, high = checked_box("input_range", input_range, system.nu)
    bound, still = Comparison(system, (low, high)), np.zeros(system.nu)
    d, rate = np.ones(system.nx), np.inf
    for _ in range(iterations):
        # A power iteration towards the Perron vector of the monotone map.
        after = bound(d, still)
        reached = float((after / d).max())
        if reached < rate:
            best, rate = d, reached
        if reached - float((after / d).min()) < 1e-6:
            break
        # Averaged, lest units that only feed each other make it swing; never so small that an entry would vanish.
        d = np.maximum(0.5 * (d + after / after.max()), 1e-9)
        d = d / d.max()
    if not rate < 1:
        raise CertificationError(
            f"delta-ISS cannot be shown for inputs in this range: the sufficient condition gives a rate of {rate:.4g}, "
            "not below 1. Narrow input_range, or train with smaller recurrent weights",
            margin=1 - rate,
        )
    # Gates as other machines compute them: their last bits count for much where a cell forgets hardly anything.
    room = np.concatenate([np.ones(system.units), ROOM + _GATES / bound.forgets])[: system.nx]
    issued = Comparison(system, (low, high), bound.state * room)
    proven = issued.rate(best)
    if not (bound.forgets.min() > _LEAST and 1 - proven > _LEAST):
        raise CertificationError(
            f"delta-ISS cannot be shown: memory lasts for more than {1 / _LEAST:.0e} steps, and the rounding of gates "
            "would decide; narrow input_range",
            margin=1 - proven,
        )
    certificate = DeltaIssCertificate(
        system_digest=system.digest,
        method="comparison system",
        solver_status="",
        margin=1 - rate,
        versions=current_versions(),
        rate=proven + min(proven * (ROOM - 1), 0.1 * (1 - proven)),
        scale=best,
        input_gain=issued.gains(best) * ROOM,
        input_low=low,
        input_high=high,
        state_bound=issued.state,
    )
    return certificate.issue(system)
