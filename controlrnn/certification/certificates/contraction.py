"""Contraction over the infinite horizon: a metric in which any two trajectories approach each other.

    |x1+ - x2+|_P <= rate |x1 - x2|_P + sum_c gain_c |u1_c - u2_c|,      |x|_P = sqrt(x' P x)

The first part is the stationary case of the finite-horizon inequality, rate^2 P - T'PT - S(lambda) >= 0 with one P and
one set of diagonal multipliers (for Elman networks the incremental ISS condition of D'Amico, La Bella, Farina 2022,
arXiv 2210.09721). The second is a one-step bound per input channel with multipliers of its own, at equal states; the
triangle inequality joins them (proof: docs/theory/contraction.md). Iterated, it bounds differences after any number of
steps: `error_after`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from controlrnn.certification import figures
from controlrnn.certification.certificate import PROOF_ROOM, Certificate, certificate_schema, current_versions, in_words
from controlrnn.certification.proof.arithmetic.enclosure import divide_up, sum_up, times_up
from controlrnn.certification.proof.incremental import IncrementalForm, observer_spread, schur_top
from controlrnn.certification.proof.stationary import error_after, input_margin, prove_contraction
from controlrnn.certification.search.stationary import Point, contract, metric_for_inputs, slowed
from controlrnn.certification.search.units import Units
from controlrnn.checks import Array, channels, count, nonnegative, number, read_only, scales
from controlrnn.errors import CertificationError, SettingError
from controlrnn.records import Number, Numbers, Schema
from controlrnn.systems import LureSystem, observer_system
from controlrnn.typed import typed

_MULTIPLES = (1.0, 1.1, 1.5, 2.0, 4.0, 16.0, 256.0)  # of multipliers that were found for something else

_log = logging.getLogger(__name__)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True, eq=False)
@typed(infinite=("*",), stored=False)
class ContractionCertificate(Certificate):
    """Proof that two trajectories approach each other in `metric`, up to what different inputs do.

    Args:
        rate: In (0, 1); smaller forgets faster.
        metric: P, shape (nx, nx), positive definite.
        multipliers: Shape (nv,).
        input_gain: Shape (nu,): how far, in the metric, a unit difference of one input moves the next state.
        input_multipliers: Shape (nu, nv).
    """

    KIND: ClassVar[str] = "contraction-certificate"
    UNITS: ClassVar[dict[str, str]] = {
        "rate": "per step",
        "metric": "|dx|_P^2 = dx' P dx is dimensionless",
        "input_gain": "|dx|_P per input unit",
    }

    SCHEMA: ClassVar[Schema] = certificate_schema(
        KIND,
        UNITS,
        arrays={
            "metric": Numbers("nx", "nx"),
            "multipliers": Numbers("nv", least=0.0),
            "input_gain": Numbers("nu", least=0.0),
            "input_multipliers": Numbers("nu", "nv", least=0.0),
        },
        meta={"rate": Number(above=0.0, below=1.0)},
    )

    rate: float
    metric: Array
    multipliers: Array
    input_gain: Array
    input_multipliers: Array

    def __post_init__(self) -> None:
        for name in ("metric", "multipliers", "input_gain", "input_multipliers"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    @typed(infinite=("initial",), results=False)
    def error_after(self, steps: int, initial: float, input_radius: float | Array = 0.0) -> float:
        """Bound on the state difference, in the metric, after ``steps`` steps.

        Args:
            steps: Number of steps.
            initial: Difference at the start, in the metric; may be infinite.
            input_radius: Largest difference of each input per step, shape (nu,) or a number for all.

        Returns:
            rate^steps initial + (1 - rate^steps) / (1 - rate) * sum_c gain_c radius_c, never rounded down.
        """
        steps = count("steps", steps, least=0)
        initial = number("initial", initial, least=0, infinite=True, what="a number >= 0")
        radius = nonnegative("input_radius", channels("input_radius", input_radius, len(self.input_gain)), ("nu",))
        return error_after(self.rate, self.input_gain, steps, initial, radius)

    def reachable_radius(self, half_range: float | Array) -> float:
        """Largest distance, in the metric, of a settled state from the middle input's equilibrium.

        Args:
            half_range: Half the width of each input's range, shape (nu,), input units.
        """
        push = times_up(self.input_gain, np.broadcast_to(half_range, self.input_gain.shape))
        return float(divide_up(sum_up(push), np.nextafter(1 - self.rate, 0.0)))

    def _prove(self, system: LureSystem, room: float) -> float:
        return prove_contraction(
            system, self.rate, self.metric, self.multipliers, self.input_gain, self.input_multipliers, room=room
        )

    def prove_observer(self, system: LureSystem, gain: Array, *, room: float = 1.0) -> float:
        """Prove contraction of an innovation observer, its matrices rounded or exact; returns the margin.

        Args:
            system: The observed system; the certificate is one of ``observer_system(system, gain)``.
            gain: L, shape (nx, ny).
            room: See `controlrnn.certification.proof.arithmetic.definite`.

        Raises:
            CertificationError: It is of another observer, or does not hold for both.
        """
        observer = observer_system(system, gain)
        self._check_digest(observer)
        try:
            with np.errstate(all="ignore"):
                return prove_contraction(
                    observer,
                    self.rate,
                    self.metric,
                    self.multipliers,
                    self.input_gain,
                    self.input_multipliers,
                    room=room,
                    spread=observer_spread(system, gain),
                )
        except CertificationError as error:
            raise CertificationError(
                f"the certificate does not hold for the observer without the rounding of A - L C: {error}; certify a "
                "slightly larger rate, or take a smaller gain",
                margin=error.margin,
            ) from error

    def _claim(self) -> str:
        gains = ", ".join(f"{g:.3g}" for g in self.input_gain)
        memory = -1 / np.log(self.rate)
        return (
            f"Contraction certificate for system {self.system_digest[:12]}: state differences shrink by "
            f"{self.rate:.5f} per step (time constant {memory:.1f} steps) in a metric of condition "
            f"{np.linalg.cond(self.metric):.3g}; input gains ({gains}). "
            f"Proven in float64, smallest relative pivot {self.margin:.2g}."
        )

    def plot(self, labels: Sequence[str] = ()) -> Figure:
        """Draw how state differences decay, and what lasting input differences build up to.

        Args:
            labels: One for each input.
        """
        sizes = np.linalg.eigvalsh(self.metric)
        return figures.decay(
            self.rate, self.input_gain, float(np.sqrt(sizes[-1] / sizes[0])), float(sizes[0] ** -0.5), "2-norm", labels
        )


@typed()
@in_words
def certify_contraction(
    system: LureSystem,
    rate: float | None = None,
    *,
    slower: float = 0.0,
    input_scale: float | Array = 1.0,
    output_scale: float | Array = 1.0,
) -> ContractionCertificate:
    """Prove that a frozen system contracts, and how fast.

    Among the metrics of one rate the one is taken in which inputs of size ``input_scale`` move the state least,
    measured in outputs of size ``output_scale``. The search takes some 2 s of one core at 32 states, and 40 s at 64: a
    metric has nx^2 / 2 entries, and each step solves for all of them.

    Args:
        system: A frozen system.
        rate: Rate in (0, 1) to prove; None for the smallest that the method finds.
        slower: Without a rate: how much slower than the smallest, as a share in [0, 1) of what is left to one. At the
            smallest rate itself the metric is stretched and inputs move it far: 0.1 makes most bounds smaller. Where
            nothing is proven there, the certificate is of the smallest rate.
        input_scale: Typical input difference per channel, shape (nu,) or a number for all, input units.
        output_scale: Typical output difference per channel, likewise, output units.

    Raises:
        CertificationError: No metric and diagonal multipliers prove it. That does not mean that it is false.
    """
    if not system.is_frozen:
        raise SettingError("a certificate needs a frozen system, got one of tensors: call model.freeze() first")
    if rate is not None and not 0 < rate < 1:
        raise SettingError(f"rate must lie in (0, 1), got {rate}: 1 would prove nothing about the infinite horizon")
    slower = number("slower", slower, least=0.0, below=1.0)
    if rate is not None and slower:
        raise SettingError(
            f"slower is relative to the smallest rate, got {slower} beside rate {rate}: leave one of them out"
        )
    inputs = scales("input_scale", input_scale, system.nu)
    outputs = scales("output_scale", output_scale, system.ny)
    units = Units.of(system, inputs, outputs)
    # The search runs in balanced units, so that its result does not depend on the user's.
    scaled = units.system(system)
    still = IncrementalForm.of(scaled, np.zeros(system.nu, bool))
    try:
        point = contract(still, None if rate is None else float(rate) ** 2)
    except CertificationError as error:
        if rate is not None:
            raise CertificationError(f"no contraction at rate {rate:.5f} was found: allow a larger rate") from error
        raise CertificationError(
            f"the system cannot be shown to contract: {error}. A finite-horizon certificate may still exist; for an "
            "infinite one train a model that contracts by design",
            margin=error.margin,
        ) from error
    if slower:
        wanted = slowed(float(np.sqrt(point.s)), slower)
        try:
            return _with_metric(system, contract(still, wanted**2), scaled, units, wanted).issue(system)
        except CertificationError as error:
            _log.info("no contraction at rate %.5f, %.3g slower than the smallest: %s", wanted, slower, error)
    # Near the best rate the metric may be stretched too far for a proof in float64.
    for share in (0.0,) if rate is not None else (0.0, 0.01, 0.1):
        slow = replace(point, s=slowed(point.s, share))
        try:
            return _with_metric(system, slow, scaled, units, np.sqrt(slow.s) if rate is None else rate).issue(system)
        except CertificationError as error:
            failure = error
    raise failure


def _with_metric(
    system: LureSystem, point: Point, scaled: LureSystem, units: Units, rate: float
) -> ContractionCertificate:
    """Draft of the certificate, with the metric of `metric_for_inputs`; ``point`` is of the ``scaled`` system."""
    floor = scaled.C2.T @ scaled.C2
    # A direction that no output sees still needs some metric.
    seen = float(np.trace(np.linalg.solve(point.metric, floor))) / system.nx
    floor = floor + 1e-4 * max(seen, 1e-12) * point.metric
    still = IncrementalForm.of(scaled, np.zeros(system.nu, bool))
    channels = [IncrementalForm.of_input(scaled, c) for c in range(system.nu)]
    P, lam, lams = metric_for_inputs(still, channels, point, np.ones(system.nu), floor)
    # Back to the user's units, in which everything is proven.
    P = P / units.x[:, None] / units.x
    P, channels = 0.5 * (P + P.T), [IncrementalForm.of_input(system, c) for c in range(system.nu)]
    gains, used = smallest_input_gains(channels, P, lams, lam)
    return ContractionCertificate(
        system_digest=system.digest,
        method="barrier",
        solver_status="",
        margin=0.0,
        versions=current_versions(),
        rate=float(rate),
        metric=P,
        multipliers=lam,
        input_gain=gains,
        input_multipliers=used,
    )


def smallest_input_gains(
    channels: list[IncrementalForm], P: Array, multipliers: Array, fallback: Array
) -> tuple[Array, Array]:
    """Search multiples of given multipliers for the least provable input gains (nu,); returns gains and multipliers.

    Tried are the multipliers (nu, nv) of each channel and multiples of ``fallback`` (nv,).

    Raises:
        CertificationError: None of them proves a gain.
    """
    gains, used = np.full(len(channels), np.inf), np.repeat(fallback[None], len(channels), axis=0)
    for c, (form, own) in enumerate(zip(channels, multipliers, strict=True)):
        # This input reaches neither states nor neurons.
        if not (form.T[:, 0].any() or form.N[:, 0].any()):
            gains[c] = 0.0
            continue
        for lam in (np.maximum(own, 1e-9 * own.max(initial=0.0)), *(m * fallback for m in _MULTIPLES)):
            square = schur_top(form.T.T @ P @ form.T + form.multiplier_form(lam))
            for inflation in (1e-9, 1e-6, 1e-3, 0.1):
                gain = float(np.sqrt(max(square, 1e-300)) * (1 + inflation))
                if not gain < gains[c]:
                    break
                if input_margin(form, P, gain, lam, PROOF_ROOM) > 0:
                    gains[c], used[c] = gain, lam
                    break
    if not np.isfinite(gains).all():
        raise CertificationError("this metric and these multipliers prove no bound on what the inputs do to the state")
    return gains, used
