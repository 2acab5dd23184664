"""Constraint tightening per prediction step and output, from calibrated and certified parts.

tightening[k] = model error[k] + effect of re-initialisation and input errors[k]: the first is calibrated
(`mpc.calibration.model_error`), the second certified (`controlrnn.certification.HorizonCertificate`). Proof:
docs/theory/tightening.md.

Such a tightening is *predictive*: it covers the error of every prediction. `make_recursive` adds a growth along the
horizon that covers jumps of the estimate, so that plans stay feasible for ever: see `mpc.tightening.terminal_set`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from controlrnn.checks import Array, items, nonnegative, put, read_only, size
from controlrnn.data import Signal
from controlrnn.errors import CertificationError, InfeasibleError, SettingError, ShapeError
from controlrnn.portable import told_apart
from controlrnn.records import Digest, Number, Numbers, Part, Schema, TableOf, Text
from controlrnn.typed import typed
from mpc.calibration.model_error import ModelError
from mpc.calibration.residuals import DisturbanceFilter
from mpc.observers.base import Observer
from mpc.observers.state_error import ROUNDING, StateError
from mpc.promises.made_again import MadeAgain, refuse_other, refuse_other_words
from mpc.promises.premises import Premises
from mpc.tightening.execution_part import NOT_COUNTED, execution_part
from mpc.tightening.predictions import checked_part, covers_inputs, refuse_boxes
from mpc.tightening.premises import calibrated_premises
from mpc.tightening.terminal_set import jump_digest

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from controlrnn.certification import ExecutionError, HorizonCertificate

_PARTS = ("model_error", "reinitialisation", "input_error", "execution", "growth")
_SOURCES = (
    "system", "model_error", "certificate", "execution", "difference", "plan", "observer", "growth", "jump",
    "closed_loop", "closed_loop_limits", "closed_loop_predictions",
)  # fmt: skip
# Sources of tightenings that promise nothing about predictions (none, a back-off, limits calibrated in closed loop).
NO_CLAIM = frozenset({"system", "observer", "closed_loop"})


@dataclass(frozen=True, kw_only=True, eq=False)
@typed()
class Tightening(MadeAgain):
    """Constraint tightening as the sum of its parts, each (horizon + 1, ny) in output units.

    Args:
        model_error: Calibrated part.
        reinitialisation: Certified effect of the estimate's error (and of input errors if not separate).
        input_error: Certified effect of input errors.
        disturbance_gain: Gain of the disturbance filter that corrects the predictions; None: no correction.
        promise: Text of what holds.
        digests: Sources by name: ``system``, ``model_error``, ``certificate``, ``observer``, ``growth``, ``jump``.
        growth: Additional tightening for recursive feasibility; zero when left out.
        execution: Proven effect of rounding; zero when left out.
        premises: Premises of the tightening; None where it promises nothing.
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "tightening", 6,  # 1: no growth; 2: unchecked; 3: no execution; 4: no premises; 5: no move_window in them
        arrays={name: Numbers("N + 1", "ny", least=0.0) for name in _PARTS},
        meta={
            "disturbance_gain": Number(above=0.0, most=1.0, none=True), "promise": Text(),
            "digests": TableOf(Digest(), _SOURCES),
        },
        parts={"premises": Part(Premises, none=True, own=True)},
    )  # fmt: skip

    model_error: Array
    reinitialisation: Array
    input_error: Array
    disturbance_gain: float | None
    promise: str
    digests: dict[str, str] = field(default_factory=dict)
    growth: Array | None = None
    execution: Array | None = None
    premises: Premises | None = None

    def __post_init__(self) -> None:
        if self.disturbance_gain is not None:
            DisturbanceFilter(self.disturbance_gain)
        for name in ("growth", "execution"):
            if getattr(self, name) is None:
                put(self, **{name: np.zeros_like(self.model_error)})
        shape: tuple[int | str, ...] = ("horizon + 1", "ny")
        for name in _PARTS:
            part = nonnegative(name, getattr(self, name), shape, hint="one row per step, one column per output")
            put(self, **{name: part})
            shape = part.shape

    @property
    def total(self) -> Array:
        """Sum of the parts, shape (horizon + 1, ny)."""
        return read_only(sum(getattr(self, name) for name in _PARTS))

    @property
    def predictive(self) -> Array:
        """Bound on the error of each prediction: the sum without growth, shape (horizon + 1, ny)."""
        return read_only(sum(getattr(self, name) for name in _PARTS[:-1]))

    @property
    def horizon(self) -> int:
        """Number of prediction steps."""
        return len(self.model_error) - 1

    def verify(
        self,
        model_error: ModelError,
        certificate: HorizonCertificate | None,
        *,
        observer: Observer,
        execution: ExecutionError | None = None,
        growth: HorizonCertificate | None = None,
        jump: StateError | None = None,
    ) -> None:
        """Recompute the tightening from its sources and raise unless it agrees with them.

        A file may hold any numbers, zeros for instance, under a right checksum: a guaranteed controller takes a
        tightening that was read from one only after this has passed, or `on_trust`.

        Args:
            model_error: As given to `tighten`; its own promise is trusted.
            certificate: Likewise; verified here.
            observer: The controller's observer.
            execution: As given to `tighten`; verified here.
            growth: As given to `make_recursive`.
            jump: Likewise.

        Raises:
            CertificationError: A certificate does not hold, or the tightening does not follow from its sources.
            SettingError: The parts do not belong together.
        """
        made = tighten(model_error, certificate, observer=observer, execution=execution)
        if growth is not None or jump is not None or "jump" in self.digests:
            made = make_recursive(made, growth, observer=observer, jump=jump)
        self.agrees_with(made)

    def agrees_with(self, made: Tightening) -> None:
        """Raise CertificationError unless this tightening equals ``made``, the one recomputed from its sources.

        The certified part may be given as one part or as two. The tightening is then as good as ``made``.
        """
        parts: list[dict[str, Array]] = []
        for one in (self, made):
            certified = one.reinitialisation + one.input_error
            parts.append({"model_error": one.model_error, "certified part": certified})
            parts[-1] |= {"execution": np.asarray(one.execution), "total": one.total}
        words = (
            {"disturbance_gain": t.disturbance_gain, "promise": t.promise, **t.digests, **_premises_word(t)}
            for t in (self, made)
        )
        refuse_other("the tightening", *parts)
        refuse_other_words("the tightening", *words)
        self._made(made)

    def limits(self, outputs: tuple[Signal, ...]) -> tuple[Array, Array]:
        """Tightened limits of the outputs.

        Args:
            outputs: The outputs with their limits.

        Returns:
            (lower, upper), each (horizon + 1, ny); infinite where there is no limit.

        Raises:
            InfeasibleError: The limits are empty at some step >= 1 (no input changes step 0, the present).
        """
        total, outputs = self.total, items("outputs", outputs, Signal)
        if len(outputs) != total.shape[1]:
            raise ShapeError(f"outputs must name {total.shape[1]} channels, got {len(outputs)}: one Signal per output")
        lower = np.array([s.lower for s in outputs]) + total
        upper = np.array([s.upper for s in outputs]) - total
        empty = np.argwhere(lower[1:] >= upper[1:])
        if len(empty):
            k, i = int(empty[0, 0]) + 1, int(empty[0, 1])
            signal = outputs[i]
            raise InfeasibleError(
                f"tightening leaves nothing of output {signal.name!r} at step {k}: limits [{signal.lower:g}, "
                f"{signal.upper:g}] {signal.unit} minus {total[k, i]:.3g} on either side (model error "
                f"{self.model_error[k, i]:.3g}, re-initialisation {self.reinitialisation[k, i]:.3g}, input error "
                f"{self.input_error[k, i]:.3g}, execution {np.asarray(self.execution)[k, i]:.3g}, growth "
                f"{total[k, i] - self.predictive[k, i]:.3g}): reduce the largest part, or shorten the horizon"
            )
        return read_only(lower), read_only(upper)

    def plot(self, outputs: tuple[Signal, ...] = ()) -> Figure:
        """Draw the parts over the horizon, stacked, one panel per output."""
        from matplotlib.figure import Figure

        n = self.model_error.shape[1]
        figure = Figure(figsize=(6, 2.2 * n), layout="constrained")
        panels = figure.subplots(n, 1, sharex=True, squeeze=False)[:, 0]
        labels = (
            "model error (calibrated)",
            "re-initialisation (certified)",
            "input error (certified)",
            "execution (proven)",
            "growth for recursive feasibility (certified)",
        )
        for i, panel in enumerate(panels):
            stack = [getattr(self, name)[:, i] for name in _PARTS]
            panel.stackplot(range(self.horizon + 1), *stack, labels=labels, step="mid", alpha=0.8)
            panel.set_ylabel(outputs[i].label if outputs else f"output {i + 1}")
            panel.margins(x=0)
        panels[0].legend(loc="upper left", fontsize="small")
        panels[-1].set_xlabel("prediction step")
        return figure


@typed()
def tighten(
    model_error: ModelError,
    certificate: HorizonCertificate | None,
    *,
    observer: Observer,
    initial_only: HorizonCertificate | None = None,
    execution: ExecutionError | None = None,
) -> Tightening:
    """Make a tightening from the calibrated model error and a certificate, and check that they fit together.

    Args:
        model_error: From `mpc.calibrate`.
        certificate: Bound on the effect of an initial error and of input errors, verified here. It starts either at the
            prediction, with the observer's certified error as initial radius, or (tighter, since no ball is put around
            the estimate in between) at the beginning of the washout, ``observer.steps`` samples earlier, with
            ``observer.restart`` as initial radius; its longer horizon shows which. Its input radius covers
            ``observer.prediction_input_error``: predictions are made with commanded inputs, which may be further from
            the true ones than the recorded inputs of the washout. None leaves the part out, and the promise says so.
        observer: The controller's observer.
        initial_only: A second certificate with input radius zero. Only separates the parts; the sum is the same.
        execution: Bound on rounding in the model's runs, verified here; see `mpc.tightening.execution_part`. None: the
            tightening holds in real arithmetic, and its promise says so.

    Returns:
        The tightening. Where the disturbance estimate was calibrated with another observer, or with exact inputs while
        those may be wrong, the certified bound at step 0 is added: the estimate is an average of output errors, each
        changed by the state estimate's error by at most that.

    Raises:
        SettingError: The parts belong to different models, or the certificate covers too little.
        CertificationError: The certificate does not hold.
    """
    if observer.system.digest != model_error.system_digest:
        raise SettingError("model_error and observer belong to different models: calibrate the observer's model")
    digests = {"system": model_error.system_digest, "model_error": model_error.digest, "observer": observer.digest}
    zero = np.zeros_like(model_error.bounds)
    if certificate is None:
        text = f"model error only ({model_error.promise}); the error of re-initialisation is NOT covered"
        return counted(_build(model_error, zero, zero, text, digests, observer), execution, observer)
    joint = checked_part(certificate, model_error, observer)
    if not covers_inputs(certificate, observer):
        raise CertificationError(
            "the certificate's input radius must cover input_error + command_error (observer.prediction_input_error) "
            f"{observer.prediction_input_error}, got {certificate.input_radius}: use certify_predictions with this "
            "observer"
        )
    reinitialisation, inputs = joint, zero
    if initial_only is not None:
        if np.any(np.asarray(initial_only.input_radius) > 0):
            raise SettingError(
                "initial_only must have input radius 0, got a positive one: certify it without input errors"
            )
        reinitialisation = np.minimum(joint, checked_part(initial_only, model_error, observer))
        inputs = joint - reinitialisation
    other = model_error.observer_digest != observer.digest or observer.prediction_input_error.any()
    if model_error.disturbance_gain is not None and other:
        reinitialisation = reinitialisation + joint[0]
    digests["certificate"] = certificate.digest
    text = f"deterministic given the model error, which {model_error.promise}; state estimate: {observer.promise}"
    return counted(_build(model_error, reinitialisation, inputs, text, digests, observer), execution, observer)


def counted(tightening: Tightening, execution: ExecutionError | None, observer: Observer) -> Tightening:
    """Add the part for rounding to a tightening; without an execution error its promise says that it is missing."""
    if execution is None:
        return replace(tightening, promise=f"{tightening.promise}; {NOT_COUNTED}")._made(tightening)
    filtered = tightening.disturbance_gain is not None
    part, words = execution_part(execution, observer, tightening.horizon, filtered=filtered)
    digests = tightening.digests | {"execution": execution.digest}
    promise = f"{tightening.promise}; {words}"
    return replace(tightening, execution=part, promise=promise, digests=digests)._made(tightening)


@typed()
def make_recursive(
    tightening: Tightening,
    growth: HorizonCertificate | None,
    *,
    observer: Observer,
    jump: StateError | None = None,
) -> Tightening:
    """Let a tightening grow from step to step, by the least that keeps plans recursively feasible after a jump.

    The theorem is that of `mpc.tightening.terminal_set`.

    Args:
        tightening: From `tighten`, without disturbance feedback, over the whole prediction horizon N.
        growth: Bound l_k on the effect of the jump on outputs k steps later, over at least N - 1 steps, from an initial
            radius that covers the jump; verified here. May be None where there is no jump.
        observer: The controller's observer.
        jump: Bound on the jump of the estimate; ``observer.jump`` when left out.

    Returns:
        The tightening with growth; its other parts are unchanged, and so are its premises: those of the observer would
        stand in for what a promise never stated. Verified if ``tightening`` is.

    Raises:
        SettingError: The parts belong to different models, the observer states no jump, or disturbance feedback.
        CertificationError: The certificate does not hold, or covers a smaller jump.
    """
    if tightening.disturbance_gain is not None:
        raise SettingError(
            "disturbance feedback moves the limits: calibrate with disturbance=None for guaranteed plans"
        )
    if not observer.system.digest == tightening.digests.get("system"):
        raise SettingError("tightening and observer belong to different models: tighten with this observer")
    if tightening.digests.get("observer", observer.digest) != observer.digest:
        raise SettingError("tightening was made for another observer: tighten with this one")
    if tightening.premises is not None:
        tightening.premises.refuse_other("the tightening", observer.premises, "the observer")
    jump = observer.jump if jump is None else jump
    if jump is None:
        raise SettingError(f"the observer states no jump, got None ({observer.describe()}): certify it, or pass jump=")
    c, first = tightening.predictive, int(not observer.predictor.answers)  # with feedthrough step 0 is limited, too
    needed, least = growth_per_step(growth, jump, observer, c), np.array(c)
    for k in range(first, tightening.horizon):
        # Step k + 1 of a plan is step k of the next one, moved by the jump: it must be tighter by that much.
        least[k + 1] = np.maximum(c[k + 1], (least[k] + needed[k]) * ROUNDING)
    digests = tightening.digests | {"jump": jump_digest(jump)}
    if growth is not None:
        digests["growth"] = growth.digest
    most = jump.euclidean
    text = f"{tightening.promise}; plans stay feasible while the estimate jumps by at most {most:.3g} (2-norm)"
    return replace(tightening, growth=least - c, promise=text, digests=digests)._made(tightening)


def growth_per_step(growth: HorizonCertificate | None, jump: StateError, observer: Observer, like: Array) -> Array:
    """Bound on the effect of the estimate's jump on outputs 0..N - 1 steps later, shape (N, ny), after checks.

    Args:
        growth: Certificate that covers the jump; may be None where there is no jump.
        jump: Bound on the jump of the estimate.
        observer: The controller's observer.
        like: Any array with N + 1 rows and ny columns.

    Raises:
        SettingError: The certificate is missing or for another model or a shorter horizon.
        CertificationError: It does not hold or covers a smaller jump.
    """
    horizon = len(like) - 1
    if growth is None:
        if jump.radius > 0:
            raise SettingError(
                f"a jump of radius {jump.radius:.4g} needs a certificate, got growth=None: certify_horizon(system, N, "
                "initial_radius=jump.radius, metric=jump.metric)"
            )
        return np.zeros((horizon, like.shape[1]))
    if growth.system_digest != observer.system.digest or growth.horizon < horizon - 1:
        raise SettingError(
            f"growth must be certified for the observer's model over at least {horizon - 1} steps, got "
            f"{growth.horizon} steps for system {growth.system_digest[:12]}"
        )
    refuse_boxes(growth)
    radius = jump.needed_in(growth.metric)
    if not radius <= growth.initial_radius:
        needed, got = told_apart(radius, growth.initial_radius)
        raise CertificationError(
            f"the initial radius of growth must cover the jump {needed}, got {got}: certify "
            "with initial_radius=jump.radius, metric=jump.metric",
            margin=float(growth.initial_radius - radius),
        )
    growth.verify(observer.system)
    return np.asarray(growth.bounds[:horizon])


@typed()
def no_tightening(system_digest: str, horizon: int, ny: int) -> Tightening:
    """Zero tightening, which promises nothing, for comparison.

    Args:
        system_digest: The model's digest.
        horizon: Number of predicted steps.
        ny: Number of outputs.
    """
    zero = np.zeros((size("horizon", horizon) + 1, size("ny", ny)))
    return Tightening(
        model_error=zero,
        reinitialisation=zero,
        input_error=zero,
        disturbance_gain=None,
        promise="nothing: constraints are not tightened",
        digests={"system": system_digest},
    )._made()


def _premises_word(tightening: Tightening) -> dict[str, str]:
    return {} if tightening.premises is None else {"premises": tightening.premises.digest}


def _build(
    model_error: ModelError, first: Array, second: Array, promise: str, digests: dict[str, str], observer: Observer
) -> Tightening:
    return Tightening(
        model_error=model_error.bounds,
        reinitialisation=first,
        input_error=second,
        disturbance_gain=model_error.disturbance_gain,
        promise=promise,
        digests=digests,
        premises=calibrated_premises(model_error, observer),
    )._made()
