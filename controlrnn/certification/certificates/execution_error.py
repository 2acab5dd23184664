"""Execution error: what floating-point execution adds to bounds that hold in real arithmetic.

The proof is in `controlrnn.certification.proof.execution`; `docs/execution.md` says what is assumed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from controlrnn.certification import figures
from controlrnn.certification.certificate import Rigour, in_words
from controlrnn.certification.certificates.contraction import ContractionCertificate
from controlrnn.certification.certificates.gains import GainCertificate
from controlrnn.certification.proof.arithmetic.enclosure import Enclosure, arithmetic_is_ieee
from controlrnn.certification.proof.execution import FORMATS, Execution, output_gain, plus
from controlrnn.certification.proof.intervals import box_of, checked_box
from controlrnn.certification.proof.slopes import Box
from controlrnn.checks import Array, count, positive, read_only
from controlrnn.errors import CertificationError, SettingError
from controlrnn.records import Count, Digest, Number, Numbers, Part, Schema, Stored, Text
from controlrnn.systems import LureSystem, Precision
from controlrnn.typed import typed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_ROOM = 1 + 1e-3  # what is published exceeds what is proven, so that another processor proves it too


@dataclass(frozen=True, kw_only=True, eq=False)
@typed(infinite=("*",), stored=False)
class ExecutionError(Stored):
    """Proven bound on |output as computed - output in real arithmetic| of a run.

    Args:
        system_digest: SHA-256 of the system.
        precision: Floating-point format of the run.
        tanh_ulps: Trusted accuracy of the library's tanh, units in the last place.
        horizon: Number of steps that are covered; None for all.
        input_range: Least and greatest inputs, shape (2, nu).
        state_range: Least and greatest initial states, shape (2, nx).
        computed_range: Box that no computed state leaves, proven, shape (2, nx).
        state_error: Rounding of one step, shape (nx,), state units.
        output_error: Rounding of one output, shape (ny,), output units.
        bounds: Shape (horizon + 1, ny), output units; one row that holds at all steps where ``horizon`` is None.
        gains: Gains from the state that the proof uses, or None.
        contraction: Contraction that the proof uses, or None.
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "execution-error",
        1,
        arrays={
            "input_range": Numbers(2, "nu"),
            "state_range": Numbers(2, "nx"),
            "computed_range": Numbers(2, "nx"),
            "state_error": Numbers("nx", least=0.0),
            "output_error": Numbers("ny", least=0.0),
            "bounds": Numbers("N + 1", "ny", least=0.0),
        },
        meta={
            "system_digest": Digest(),
            "precision": Text(choices=Precision),
            "tanh_ulps": Number(above=0.0),
            "horizon": Count(0, none=True),
        },
        parts={
            "gains": Part(GainCertificate, none=True, own=True),
            "contraction": Part(ContractionCertificate, none=True, own=True),
        },
        zero=("N", "nu"),
    )

    system_digest: str
    precision: Precision
    tanh_ulps: float
    horizon: int | None
    input_range: Array
    state_range: Array
    computed_range: Array
    state_error: Array
    output_error: Array
    bounds: Array
    gains: GainCertificate | None = None
    contraction: ContractionCertificate | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "precision", Precision(self.precision))
        for name in self.SCHEMA.arrays:
            object.__setattr__(self, name, read_only(getattr(self, name)))
        rows = 1 if self.horizon is None else self.horizon + 1
        if self.bounds.ndim != 2 or len(self.bounds) != rows:
            raise SettingError(
                f"bounds must have {rows} rows for horizon {self.horizon}, got shape {self.bounds.shape}"
            )

    def over(self, horizon: int, *, first: int = 0) -> Array:
        """Bounds at the steps ``first`` .. ``first + horizon``, shape (horizon + 1, ny).

        Raises:
            SettingError: Fewer steps are covered.
        """
        horizon, first = count("horizon", horizon, least=0), count("first", first, least=0)
        if self.horizon is None:
            return np.repeat(self.bounds, horizon + 1, axis=0)
        if self.horizon < first + horizon:
            raise SettingError(
                f"the execution error must cover {first + horizon} steps, got {self.horizon}: pass a longer horizon, "
                "or contraction= and horizon=None for all steps"
            )
        return np.asarray(self.bounds[first : first + horizon + 1])

    def verify(self, system: LureSystem, *, rigour: Rigour | str = Rigour.FLOAT64) -> None:
        """Prove the bounds again, and the certificates that they rest on.

        Args:
            system: The system executed.
            rigour: In float64 with numpy alone, or in ball arithmetic as a second opinion.

        Raises:
            SettingError: Another rigour.
            CertificationError: Another system, a certificate that does not hold, or less is claimed than follows.
            ModuleNotFoundError: Ball arithmetic without python-flint: install ``controlrnn[audit]``.
        """
        kind = Rigour(rigour)
        if self.system_digest != system.digest:
            raise CertificationError("the execution error speaks of another system: compute it for this one")
        if kind is Rigour.BALL:
            from controlrnn.certification.ball import check  # it knows every kind, and needs an extra

            check(self, system)
            return
        proven = _proven(
            system,
            self.gains,
            self.contraction,
            self.input_range,
            self.state_range,
            self.precision,
            self.tanh_ulps,
            self.horizon,
        )
        for name in ("state_error", "output_error", "bounds"):
            claimed, found = getattr(self, name), proven[name]
            if claimed.shape != found.shape or not (found <= claimed).all():
                raise CertificationError(f"{name} is less than what is proven: the execution error was altered")
        if np.shape(self.computed_range) != np.shape(proven["computed_range"]):
            raise CertificationError("computed_range must be (lower, upper): the execution error was altered")
        (low, high), (least, greatest) = self.computed_range, proven["computed_range"]
        if not ((low <= least).all() and (greatest <= high).all()):
            raise CertificationError("computed_range is less than what is proven: the execution error was altered")

    def summary(self) -> str:
        """Describe the bounds, and what is trusted, in words and numbers."""
        steps = "at all steps" if self.horizon is None else f"over {self.horizon} steps"
        largest = np.array2string(self.bounds.max(axis=0), precision=3)
        return (
            f"Execution error of system {self.system_digest[:12]} in {self.precision}, {steps}, while inputs stay in "
            f"their range: outputs as computed differ from real arithmetic by at most {largest}, of which one output's "
            f"own rounding is {np.array2string(self.output_error, precision=3)}. Trusted: IEEE arithmetic that rounds "
            f"to nearest, tanh within {self.tanh_ulps:g} units in the last place."
        )

    def plot(self, labels: Sequence[str] = ()) -> Figure:
        """Draw the bounds over the steps.

        Args:
            labels: One for each output.
        """
        return figures.over_horizon(self.bounds, labels, f"execution error, {self.precision}")


@typed()
@in_words
def execution_error(
    system: LureSystem,
    *,
    input_range: Box,
    state_range: Box,
    gains: GainCertificate | None = None,
    contraction: ContractionCertificate | None = None,
    horizon: int | None = None,
    precision: Precision | str = Precision.FLOAT64,
    tanh_ulps: float = 4.0,
) -> ExecutionError:
    """Bound what rounding adds to the outputs of a run, whatever the order of operations, fused or not.

    Args:
        system: A frozen Lur'e system.
        input_range: Least and greatest inputs, each shape (nu,).
        state_range: Least and greatest initial states, each shape (nx,).
        gains: Gains from the state; bounds up to their horizon alone, or for ever together with ``contraction`` in the
            same metric (``certify_gains(system, N, metric=contraction.metric)``).
        contraction: Keeps the computed states in a box, and bounds all steps.
        horizon: Number of steps to cover; None for all (needs ``contraction``).
        precision: Floating-point format in which the system is computed.
        tanh_ulps: Largest error of the library's tanh, units in the last place, in that precision. numpy and the
            compiled loops promise 4 and 3; glibc's list says 2, but 2.2 were met: 3 there. Others: look up. Trusted.

    Raises:
        SettingError, ShapeError, DataError: An argument makes no sense.
        CertificationError: A certificate does not hold, or no bound can be proven: the computed states may leave every
            box, overflow, or rounding moves the state by more than contraction takes back.
    """
    if not isinstance(system, LureSystem) or not system.is_frozen:
        raise SettingError(f"system must be a frozen LureSystem, got {type(system).__name__}: call model.freeze()")
    if gains is None and contraction is None:
        raise SettingError("gains or contraction must be given, got neither: certify_contraction(system)")
    if horizon is None and contraction is None:
        raise SettingError("horizon=None covers all steps, which needs contraction=: pass it, or a horizon")
    boxes = [_ends("input_range", input_range, system.nu), _ends("state_range", state_range, system.nx)]
    steps = None if horizon is None else count("horizon", horizon, least=0)
    if gains is not None and contraction is not None and not np.array_equal(gains.metric, contraction.metric):
        raise SettingError(
            "gains and contraction must share a metric: certify_gains(system, N, metric=contraction.metric)"
        )
    if contraction is None and gains is not None and steps is not None and steps > gains.horizon:
        raise SettingError(f"gains must cover the horizon {steps}, got {gains.horizon} lags: certify more of them")
    kind, ulps = Precision(precision), positive("tanh_ulps", tanh_ulps)
    proven = _proven(system, gains, contraction, boxes[0], boxes[1], kind, ulps, steps)
    for name in ("state_error", "output_error", "bounds"):
        proven[name] = np.nextafter(proven[name] * _ROOM, np.inf)
    low, high = proven["computed_range"]
    # Relative to the box, or to its numbers where it is a point, which rounds as well.
    more = (_ROOM - 1) * np.maximum(high - low, 1e-9 * np.maximum(np.abs(low), np.abs(high)))
    proven["computed_range"] = np.array([np.nextafter(low - more, -np.inf), np.nextafter(high + more, np.inf)])
    return ExecutionError(
        system_digest=system.digest,
        precision=kind,
        tanh_ulps=ulps,
        horizon=steps,
        input_range=boxes[0],
        state_range=boxes[1],
        gains=gains,
        contraction=contraction,
        **proven,
    )


def _proven(
    system: LureSystem,
    gains: GainCertificate | None,
    contraction: ContractionCertificate | None,
    input_range: Array,
    state_range: Array,
    precision: Precision,
    ulps: float,
    horizon: int | None,
) -> dict[str, Array]:
    """Compute the proven state, output and accumulated errors, before any room is added."""
    if gains is not None and contraction is not None and not np.array_equal(gains.metric, contraction.metric):
        raise CertificationError("gains and contraction do not share a metric: the execution error was altered")
    if input_range.shape != (2, system.nu) or state_range.shape != (2, system.nx):
        raise CertificationError("the boxes do not fit the system: the execution error was altered")
    if not ((input_range[0] <= input_range[1]).all() and (state_range[0] <= state_range[1]).all()):
        raise CertificationError("a box is empty: the execution error was altered")
    for certificate in (gains, contraction):
        if certificate is not None:
            certificate.verify(system)
    if not arithmetic_is_ieee():
        raise CertificationError("nothing can be proven: this thread does not round to nearest as IEEE 754 asks")
    run = Execution(system, FORMATS[str(precision)], ulps)
    inputs, start = box_of((input_range[0], input_range[1])), box_of((state_range[0], state_range[1]))
    with np.errstate(all="ignore"):  # what overflows refuses
        stored = run.stored(start.magnitude())
        start = Enclosure(start.mid, plus(start.rad, stored))
        if contraction is None:
            if gains is None or horizon is None:
                raise CertificationError("gains alone bound a horizon only")
            box = run.carried(start, inputs, horizon)
            used, metric, rate = gains.initial, gains.metric, None
        else:
            metric, rate = contraction.metric, contraction.rate
            box = run.confined(start, inputs, rate, metric, contraction.input_gain)
            # Without gains of many lags the contraction itself makes them fall from that of lag 0.
            used = output_gain(system, metric)[None] if gains is None else gains.initial
        bounds = run.accumulated(box, inputs, stored, used, metric, rate, horizon)
        state, output = run.step_error(box, inputs)
    if not np.isfinite(bounds).all():
        raise CertificationError("the execution error is not finite: narrow input_range or state_range")
    ends = np.array([box.lower(), box.upper()])
    return {"computed_range": ends, "state_error": state, "output_error": output, "bounds": bounds}


def _ends(name: str, box: Box, n: int) -> Array:
    """Check a box and return its ends, shape (2, n)."""
    return np.array(checked_box(name, box, n))
