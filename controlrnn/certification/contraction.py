"""Infinite horizon: a metric in which any two trajectories approach each other.

    |x1+ - x2+|_P <= rate |x1 - x2|_P + sum_c gain_c |u1_c - u2_c|,      |x|_P = sqrt(x' P x)

The first part is the stationary case of the finite-horizon inequality, rate^2 P - T'PT - S(lambda) >= 0 with one P and
one set of diagonal multipliers (for Elman networks the incremental ISS condition of D'Amico, La Bella, Farina 2022,
arXiv 2210.09721). The second is a one-step bound per input channel with multipliers of its own, at equal states; the
triangle inequality joins them. Everything about re-initialisation follows in closed form: `error_after`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from scipy.linalg import lapack

from controlrnn.certification import figures
from controlrnn.certification.certificate import Certificate, certificate_schema, current_versions
from controlrnn.certification.incremental import IncrementalForm, stage_margin
from controlrnn.certification.psd import UNIT, proven_margin
from controlrnn.certification.stationary import Point, contract, metric_for_inputs
from controlrnn.checks import Array, read_only, scales
from controlrnn.errors import CertificationError, SettingError
from controlrnn.records import Number, Numbers, Schema
from controlrnn.systems import LureSystem

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True, eq=False)
class ContractionCertificate(Certificate):
    """Two trajectories approach each other in `metric`, up to what different inputs do.

    Args:
        rate: In (0, 1); smaller forgets faster.
        metric: P, shape (nx, nx), positive definite.
        multipliers: Shape (nv,).
        input_gain: Shape (nu,): how far, in the metric, a unit difference of one input moves the next state.
        input_multipliers: Shape (nu, nv).
    """

    KIND: ClassVar[str] = "contraction-certificate"
    UNITS: ClassVar[dict[str, str]] = {
        "rate": "per step", "metric": "|dx|_P^2 = dx' P dx is dimensionless", "input_gain": "|dx|_P per input unit",
    }  # fmt: skip

    SCHEMA: ClassVar[Schema] = certificate_schema(
        KIND, UNITS,
        arrays={
            "metric": Numbers("nx", "nx"), "multipliers": Numbers("nv", least=0.0),
            "input_gain": Numbers("nu", least=0.0), "input_multipliers": Numbers("nu", "nv", least=0.0),
        },
        meta={"rate": Number(above=0.0, below=1.0)},
    )  # fmt: skip

    rate: float
    metric: Array
    multipliers: Array
    input_gain: Array
    input_multipliers: Array

    def __post_init__(self) -> None:
        for name in ("metric", "multipliers", "input_gain", "input_multipliers"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    def error_after(self, steps: int, initial: float, input_radius: float | Array = 0.0) -> float:
        """Largest state difference, in the metric, after ``steps`` steps.

        Args:
            steps: Number of steps.
            initial: Difference at the start, in the metric; may be infinite.
            input_radius: Largest difference of each input per step, shape (nu,) or a number for all.

        Returns:
            rate^steps initial + (1 - rate^steps) / (1 - rate) * sum_c gain_c radius_c.
        """
        # 1 - rate^steps without the cancellation that a rate near 1 would suffer.
        decay, grown = self.rate**steps, -np.expm1(steps * np.log(self.rate))
        push = float(np.sum(self.input_gain * np.broadcast_to(input_radius, self.input_gain.shape)))
        # An upper bound must not be rounded down; 1e-12 is far more than these few operations lose.
        forgotten = decay * initial if decay else 0.0
        return float((forgotten + grown / (1 - self.rate) * push) * (1 + 1e-12))

    def reachable_radius(self, half_range: float | Array) -> float:
        """How far, in the metric, the state can ever be from the equilibrium of the middle input, once it has settled.

        Args:
            half_range: Half the width of each input's range, shape (nu,), input units.
        """
        push = np.sum(self.input_gain * np.broadcast_to(half_range, self.input_gain.shape))
        return float(push / (1 - self.rate) * (1 + 1e-12))

    def _prove(self, system: LureSystem) -> float:
        shapes = {
            "metric": (system.nx, system.nx), "multipliers": (system.nv,),
            "input_gain": (system.nu,), "input_multipliers": (system.nu, system.nv),
        }  # fmt: skip
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise CertificationError(
                    f"{name} must have shape {shape}, got {getattr(self, name).shape}: the certificate was altered"
                )
        if not 0 < self.rate < 1 or not np.array_equal(self.metric, self.metric.T):
            raise CertificationError(f"rate must lie in (0, 1) and metric be symmetric, got rate {self.rate}")
        if (self.multipliers < 0).any() or (self.input_multipliers < 0).any() or (self.input_gain < 0).any():
            raise CertificationError("multipliers and gains must be >= 0: the certificate was altered")
        margins = [proven_margin(self.metric, 0 * self.metric)]
        still = IncrementalForm.of(system, np.zeros(system.nu, bool))
        margins.append(
            stage_margin(still, self.rate**2 * self.metric, np.zeros(0), self.multipliers, self.metric, False)
        )
        for c, (gain, lam) in enumerate(zip(self.input_gain, self.input_multipliers, strict=True)):
            one = _channel(system, c)
            margins.append(stage_margin(one, np.zeros((0, 0)), np.array([gain**2]), lam, self.metric, False))
        margin = float(min(margins))
        if not margin > 0:
            raise CertificationError("the contraction inequality is not proven: certify again", margin=margin)
        return margin

    def summary(self) -> str:
        """What is claimed, in words and numbers."""
        gains = ", ".join(f"{g:.3g}" for g in self.input_gain)
        memory = -1 / np.log(self.rate)
        return (
            f"Contraction certificate for system {self.system_digest[:12]}: state differences shrink by "
            f"{self.rate:.5f} per step (time constant {memory:.1f} steps) in a metric of condition "
            f"{np.linalg.cond(self.metric):.3g}; input gains ({gains}). "
            f"Proven in float64, smallest relative pivot {self.margin:.2g}."
        )

    def plot(self, labels: Sequence[str] = ()) -> Figure:
        """Draw how differences of states are forgotten, and what lasting differences of inputs build up to.

        Args:
            labels: One for each input.
        """
        sizes = np.linalg.eigvalsh(self.metric)
        return figures.decay(
            self.rate, self.input_gain, float(np.sqrt(sizes[-1] / sizes[0])), float(sizes[0] ** -0.5), "2-norm", labels
        )


def certify_contraction(
    system: LureSystem, rate: float | None = None, *, input_scale: float | Array = 1.0,
    output_scale: float | Array = 1.0,
) -> ContractionCertificate:  # fmt: skip
    """Prove that a frozen system contracts, and how fast.

    Among the metrics of one rate the one is taken in which inputs of size ``input_scale`` move the state least,
    measured in outputs of size ``output_scale``.

    Args:
        system: A frozen system.
        rate: Rate in (0, 1) to prove; None for the smallest that the method finds.
        input_scale: Typical input difference per channel, shape (nu,) or a number for all, input units.
        output_scale: Typical output difference per channel, likewise, output units.

    Raises:
        CertificationError: No metric and diagonal multipliers prove it. That does not mean that it is false.
    """
    if not system.is_frozen:
        raise SettingError("a certificate needs a frozen system, got one of tensors: call model.freeze() first")
    if rate is not None and not 0 < rate < 1:
        raise SettingError(f"rate must lie in (0, 1), got {rate}: 1 would prove nothing about the infinite horizon")
    inputs = scales("input_scale", input_scale, system.nu)
    outputs = system.C2 / scales("output_scale", output_scale, system.ny)[:, None]
    still = IncrementalForm.of(system, np.zeros(system.nu, bool))
    try:
        point = contract(still, None if rate is None else float(rate) ** 2)
    except CertificationError as error:
        if rate is not None:
            raise CertificationError(f"no contraction at rate {rate:.5f} was found: allow a larger rate") from error
        raise CertificationError(
            f"the system cannot be shown to contract: {error}. A finite-horizon certificate may still exist; for an "
            "infinite one train a model that contracts by design", margin=error.margin
        ) from error  # fmt: skip
    # Near the best rate the metric may be stretched too far for a proof in float64.
    for slower in (0.0,) if rate is not None else (0.0, 0.01, 0.1):
        slow = replace(point, s=point.s + slower * (1 - point.s))
        draft = _with_metric(system, slow, inputs, outputs, np.sqrt(slow.s) if rate is None else rate)
        try:
            return replace(draft, margin=draft.verify(system))
        except CertificationError as error:
            failure = error
    raise failure


def _with_metric(
    system: LureSystem, point: Point, inputs: Array, outputs: Array, rate: float
) -> ContractionCertificate:
    """The draft whose metric suits inputs of size ``inputs`` (nu,) and the output map ``outputs`` (ny, nx)."""
    floor = outputs.T @ outputs
    # A direction that no output sees still needs some metric.
    seen = float(np.trace(np.linalg.solve(point.metric, floor))) / system.nx
    floor = floor + 1e-4 * max(seen, 1e-12) * point.metric
    still = IncrementalForm.of(system, np.zeros(system.nu, bool))
    channels = [_channel(system, c) for c in range(system.nu)]
    P, lam, lams = metric_for_inputs(still, channels, point, inputs, floor)
    gains, used = _input_gains(channels, P, lams, lam)
    return ContractionCertificate(
        system_digest=system.digest, method="barrier", solver_status="", margin=0.0, versions=current_versions(),
        rate=float(rate), metric=P, multipliers=lam, input_gain=gains, input_multipliers=used,
    )  # fmt: skip


def _channel(system: LureSystem, c: int) -> IncrementalForm:
    use = np.zeros(system.nu, bool)
    use[c] = True
    return IncrementalForm.of(system, use).at_equal_states()


def _input_gains(channels: list[IncrementalForm], P: Array, multipliers: Array, fallback: Array) -> tuple[Array, Array]:
    """Gains (nu,) that the multipliers (nu, nv) prove; where those fail, the ones of the contraction inequality."""
    gains, used = [], []
    for form, own in zip(channels, multipliers, strict=True):
        for lam in (np.maximum(own, 1e-9 * own.max(initial=0.0)), fallback):
            G = form.T.T @ P @ form.T + form.multiplier_form(lam)
            if not form.nv:
                break
            factor, info = lapack.dpotrf(-G[1:, 1:], lower=1)
            if info == 0:
                break
        through = lapack.dtrtrs(factor, G[1:, :1], lower=1)[0] if form.nv else np.zeros(1)
        square = float(G[0, 0] + (through**2).sum()) * (1 + 1e-9) + 1e3 * UNIT * float(np.abs(G).max())
        gains.append(np.sqrt(max(square, 0.0)))
        used.append(lam)
    return np.array(gains), np.array(used).reshape(len(channels), len(fallback))
