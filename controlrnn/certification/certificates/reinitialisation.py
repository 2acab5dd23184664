"""Re-initialisation: bounds on the error of an initial state that is found again, and of predictions from it.

Let x* be the model's state under the true inputs since the far past, and the recorded inputs off by at most d. With a
contraction certificate (rate p, metric P, gains g), R0 from `proof.reachable`, and an innovation observer's own
certificate (q, S, s) whose measurements differ from the model's outputs by at most r,

    washout of W steps   |x* - xhat|_P <= p^W R0 + (1 - p^W) / (1 - p) g'd
    running on           |x* - xhat|_P <= g'd / (1 - p)
    observer             |x* - xhat|_S <= q^W k R0 + (1 - q^W) / (1 - q) s'(d, r),   k^2 = max eig (S, P)

and the outputs follow from horizon certificates: one of W + N steps from R0 covers every shorter washout (proof:
docs/theory/reinitialisation.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from controlrnn.certification import figures
from controlrnn.certification.certificate import Certificate, certificate_schema, current_versions, in_words
from controlrnn.certification.certificates.contraction import ContractionCertificate, certify_contraction
from controlrnn.certification.certificates.horizon import HorizonCertificate, certify_horizon
from controlrnn.certification.proof.arithmetic.enclosure import root_up, times_up
from controlrnn.certification.proof.incremental import largest_ratio
from controlrnn.certification.proof.intervals import checked_box
from controlrnn.certification.proof.reachable import settled_radius
from controlrnn.checks import Array, as_array, count, read_only
from controlrnn.errors import CertificationError, SettingError
from controlrnn.portable import published
from controlrnn.records import Count, Number, Numbers, Part, Schema
from controlrnn.systems import LureSystem
from controlrnn.systems.observer import observer_system
from controlrnn.typed import typed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SLOWER = 0.1  # of what is left to one


@dataclass(frozen=True, kw_only=True, eq=False)
@typed(infinite=("*",), stored=False)
class ReinitialisationCertificate(Certificate):
    """Proven state and output errors after a washout, after running on, and after an observer.

    Args:
        washout: Most steps of washout.
        horizon: Prediction horizon N.
        start: State that washout and observer start from, shape (nx,).
        input_low: Lower limits of the true inputs, shape (nu,).
        input_high: Upper limits, likewise.
        input_error: Largest error of each recorded or planned input, shape (nu,).
        radius: R0, in the metric of `contraction`.
        contraction: Contraction certificate of the model.
        washed: Bounds on outputs from an initial error of R0, over washout + horizon steps.
        running: Bounds on outputs from the error of running on, over washout + horizon steps.
        observer_gain: L, shape (nx, ny); zero without an observer.
        residual_bound: Largest difference between measurement and model, shape (ny,).
        observer: Contraction certificate of the observer, or None.
        observed: Bounds on outputs over the horizon after `washout` steps of the observer, or None.
    """

    KIND: ClassVar[str] = "reinitialisation-certificate"
    UNITS: ClassVar[dict[str, str]] = {
        "washout": "steps",
        "horizon": "steps",
        "start": "state units",
        "input_low": "input units",
        "input_high": "input units",
        "input_error": "input units",
        "radius": "|dx|_P of the contraction certificate",
        "residual_bound": "output units",
        "observer_gain": "state units per output unit",
    }

    SCHEMA: ClassVar[Schema] = certificate_schema(
        KIND,
        UNITS,
        arrays={
            "start": Numbers("nx"),
            "input_low": Numbers("nu"),
            "input_high": Numbers("nu"),
            "input_error": Numbers("nu", least=0.0),
            "observer_gain": Numbers("nx", "ny"),
            "residual_bound": Numbers("ny", least=0.0),
        },
        meta={"washout": Count(), "horizon": Count(), "radius": Number(least=0.0)},
        parts={
            "contraction": Part(ContractionCertificate, own=True),
            "washed": Part(HorizonCertificate, own=True),
            "running": Part(HorizonCertificate, own=True),
            "observer": Part(ContractionCertificate, none=True, own=True),
            "observed": Part(HorizonCertificate, none=True, own=True),
        },
    )

    washout: int
    horizon: int
    start: Array
    input_low: Array
    input_high: Array
    input_error: Array
    radius: float
    contraction: ContractionCertificate
    washed: HorizonCertificate
    running: HorizonCertificate
    observer_gain: Array
    residual_bound: Array
    observer: ContractionCertificate | None
    observed: HorizonCertificate | None

    def __post_init__(self) -> None:
        for name in self._names():
            object.__setattr__(self, name, read_only(getattr(self, name)))

    def washout_error(self, steps: int) -> float:
        """Bound on the state's error after a washout of ``steps`` steps, in the metric of `contraction`."""
        return self.contraction.error_after(steps, self.radius, self.input_error)

    @property
    def running_error(self) -> float:
        """Bound on the state's error after running on since the far past, in the metric of `contraction`."""
        return self.contraction.reachable_radius(self.input_error)

    def observer_error(self, steps: int) -> float:
        """Bound on the state's error after ``steps`` steps of the observer, in the metric of `observer`.

        Raises SettingError without an observer.
        """
        if self.observer is None:
            raise SettingError("this certificate covers no observer: pass observer_gain to certify_reinitialisation")
        # k R0: the initial radius in the observer's metric.
        first = times_up(root_up(largest_ratio(self.observer.metric, self.contraction.metric)), self.radius)
        errors = np.concatenate([self.input_error, self.residual_bound])
        return self.observer.error_after(steps, float(first), errors)

    def output_bounds(self, steps: int) -> Array:
        """Bounds (N + 1, ny) on output errors over the prediction horizon after a washout of ``steps`` steps.

        At most `washout` steps.
        """
        if count("steps", steps, least=0) > self.washout:
            raise SettingError(f"steps must be at most washout = {self.washout}, got {steps}: certify a longer one")
        return self.washed.bounds[steps : steps + self.horizon + 1]

    @property
    def running_bounds(self) -> Array:
        """Bounds (N + 1, ny) on output errors over the prediction horizon after running on.

        The error of running on held W steps ago as well, and what it became since then is bounded jointly with the
        inputs since then: the best W for each step counts.
        """
        windows = np.lib.stride_tricks.sliding_window_view(self.running.bounds, self.horizon + 1, axis=0)
        return np.asarray(windows.min(axis=0).T)

    def enough_washout(self, factor: float = 1.1) -> int | None:
        """Fewest washout steps whose output errors are within ``factor`` of those of running on.

        Args:
            factor: Above 1; of the largest error over the prediction horizon.

        Returns:
            Steps, or None where not even `washout` steps are enough.
        """
        limit = factor * self.running_bounds.max(axis=0)
        found = (W for W in range(self.washout + 1) if (self.output_bounds(W).max(axis=0) <= limit).all())
        return next(found, None)

    def _prove(self, system: LureSystem, room: float) -> float:
        self._check_shapes(system)
        margins = [self.contraction._proven(system, room)]
        P, N = self.contraction.metric, self.horizon
        # R0 is computed anew, not taken from the file.
        needed = _settled(system, self.contraction, self.start, (self.input_low, self.input_high))
        if not needed <= self.radius < np.inf:
            raise CertificationError(f"radius must be at least {needed:.17g}, got {self.radius:.17g}: certify again")
        margins.append(self._covers(system, self.washed, P, self.radius, self.washout + N, room))
        margins.append(self._covers(system, self.running, P, self.running_error, self.washout + N, room))
        if (self.observer is None) != (self.observed is None):
            raise CertificationError("observer and observed belong together: the certificate was altered")
        if self.observer is not None and self.observed is not None:
            # Of the exact A - L C2 and of the rounded ones: what runs is one of them, or between.
            margins.append(self.observer.prove_observer(system, self.observer_gain, room=room))
            error = self.observer_error(self.washout)
            margins.append(self._covers(system, self.observed, self.observer.metric, error, N, room))
        return float(min(margins))

    def _covers(
        self, system: LureSystem, outputs: HorizonCertificate, metric: Array, radius: float, horizon: int, room: float
    ) -> float:
        """Prove a horizon certificate and check that it covers this radius and the input errors; returns its margin."""
        margin = outputs._proven(system, room)
        if outputs.input_range.size or outputs.state_range.size:
            raise CertificationError(
                "a horizon certificate holds in boxes of inputs and states only, expected everywhere: certify again"
            )
        if not (
            outputs.horizon == horizon
            and np.array_equal(outputs.metric, metric)
            and outputs.initial_radius >= radius
            and (outputs.input_radius >= self.input_error).all()
        ):
            raise CertificationError(
                f"a horizon certificate covers a radius of {outputs.initial_radius:.17g} over {outputs.horizon} steps, "
                f"expected {radius:.17g} over {horizon} in the metric of the state's error: certify again"
            )
        return margin

    def _check_shapes(self, system: LureSystem) -> None:
        """Raise a CertificationError unless all fields have sensible shapes and signs."""
        nx, nu, ny = system.nx, system.nu, system.ny
        shapes = {
            "start": (nx,),
            "input_low": (nu,),
            "input_high": (nu,),
            "input_error": (nu,),
            "observer_gain": (nx, ny),
            "residual_bound": (ny,),
        }
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value.shape != shape or not np.isfinite(value).all():
                raise CertificationError(f"{name} must be finite, shape {shape}, got {value.shape}: certify again")
        signs = (self.input_error >= 0).all() and (self.residual_bound >= 0).all()
        if not signs or not (self.input_low <= self.input_high).all() or self.washout < 0 or self.horizon < 0:
            raise CertificationError("an error, a range or a length makes no sense: the certificate was altered")

    def _claim(self) -> str:
        lines = [
            f"Re-initialisation certificate for system {self.system_digest[:12]}: 2-norm error of the state, then the "
            f"largest error of each output over the {self.horizon} steps predicted from it:"
        ]
        stretch = np.sqrt(largest_ratio(np.eye(len(self.start)), self.contraction.metric))
        for W in sorted({0, self.washout // 4, self.washout // 2, self.washout}):
            lines.append(_line(f"washout {W:4d}", stretch * self.washout_error(W), self.output_bounds(W)))
        lines.append(_line("running on  ", stretch * self.running_error, self.running_bounds))
        if self.observer is not None and self.observed is not None:
            stretch = np.sqrt(largest_ratio(np.eye(len(self.start)), self.observer.metric))
            error = stretch * self.observer_error(self.washout)
            lines.append(_line(f"observer {self.washout:3d}", error, self.observed.bounds))
        enough = self.enough_washout()
        lines.append(
            f"No washout of up to {self.washout} steps comes within 10 % of running on."
            if enough is None
            else f"After a washout of {enough} steps predictions are within 10 % of those of running on."
        )
        return "\n".join([*lines, f"Proven in float64, smallest relative pivot {self.margin:.2g}."])

    def plot(self, labels: Sequence[str] = ()) -> Figure:
        """Draw the state's error over the washout, the largest output errors, and these by prediction step.

        Args:
            labels: One for each output.
        """
        ny, positive = self.washed.bounds.shape[1], self.running_error > 0
        figure, (left, cost, *right) = figures.panels(2 + ny)
        steps = np.arange(self.washout + 1)
        names = [figures.label(labels, i, "y") for i in range(ny)]
        stretch = np.sqrt(largest_ratio(np.eye(len(self.start)), self.contraction.metric))
        left.semilogy(steps, [stretch * self.washout_error(W) for W in steps.tolist()], label="washout")
        if positive:  # else there is nothing to see on a logarithmic axis
            left.axhline(stretch * self.running_error, color="k", ls="--", label="running on")
        if self.observer is not None:
            wider = np.sqrt(largest_ratio(np.eye(len(self.start)), self.observer.metric))
            left.semilogy(steps, [wider * self.observer_error(W) for W in steps.tolist()], label="observer")
        left.set(xlabel="washout [steps]", ylabel="certified 2-norm error of the state")
        left.legend()
        most = np.array([self.output_bounds(W).max(axis=0) for W in steps.tolist()])
        for i, name in enumerate(names):
            cost.semilogy(steps, most[:, i], color=f"C{i}", label=name)
            if positive:
                cost.axhline(self.running_bounds[:, i].max(), color=f"C{i}", ls="--")
        cost.set(xlabel="washout [steps]", ylabel="largest error over the horizon")
        cost.legend()
        for i, axes in enumerate(right):
            for W in sorted({0, self.washout // 4, self.washout // 2, self.washout}):
                axes.plot(self.output_bounds(W)[:, i], marker=".", label=f"washout {W}")
            axes.plot(self.running_bounds[:, i], "k--", label="running on")
            if self.observed is not None:
                axes.plot(self.observed.bounds[:, i], ls=":", label="observer")
            axes.set(xlabel="steps ahead", ylabel=f"certified error of {names[i]}")
            axes.set_yscale("log" if positive and self.running_bounds[:, i].min() > 0 else "linear")
            axes.legend()
        return figure

    def _names(self) -> tuple[str, ...]:
        """Names of the fields that are arrays."""
        return ("start", "input_low", "input_high", "input_error", "observer_gain", "residual_bound")


@typed()
@in_words
def certify_reinitialisation(
    system: LureSystem,
    *,
    washout: int,
    horizon: int,
    input_range: tuple[Array, Array],
    input_error: float | Array = 0.0,
    start: Array | None = None,
    contraction: ContractionCertificate | None = None,
    observer_gain: Array | None = None,
    residual_bound: float | Array = 0.0,
    observer_contraction: ContractionCertificate | None = None,
    iterations: int = 300,
) -> ReinitialisationCertificate:
    """Bound the state errors that washout, running on and an observer leave, and the output errors that follow.

    Args:
        system: A frozen system that can be shown to contract.
        washout: Most steps of washout; every shorter one is covered.
        horizon: Prediction horizon N.
        input_range: Lower and upper limits of the true inputs since the far past, each shape (nu,).
        input_error: Largest difference between true and recorded (or planned) inputs, shape (nu,) or one for all.
        start: State that washout and observer start from, shape (nx,); the equilibrium of the middle input if None.
        contraction: Certificate of the system; made here, a little above the smallest rate, if None.
        observer_gain: L (nx, ny) of an innovation observer to cover as well.
        residual_bound: Largest difference between measurements and the model's outputs, shape (ny,) or one for all.
        observer_contraction: Certificate of the observer's system; made here if None.
        iterations: As in `certify_horizon`.

    Returns:
        A certificate that has been verified.

    Raises:
        SettingError, ShapeError, DataError: An argument makes no sense.
        CertificationError: No contraction can be shown, or a certificate is of another system.
    """
    if not system.is_frozen:
        raise SettingError("a certificate needs a frozen system, got one of tensors: call model.freeze() first")
    washout, horizon = count("washout", washout, least=0), count("horizon", horizon, least=0)
    low, high = checked_box("input_range", input_range, system.nu)
    if (low >= high).any():
        raise SettingError(f"input_range must satisfy lower < upper, got {low} and {high}")
    errors = _errors("input_error", input_error, system.nu)
    residual = _errors("residual_bound", residual_bound, system.ny)
    if contraction is None:
        contraction = certify_contraction(system, slower=_SLOWER, input_scale=high - low)
    contraction.verify(system)
    if start is None:
        # A contracting system settles at the equilibrium of its input.
        start = system.simulate(np.tile(0.5 * (low + high), (2000, 1)))[1][-1]
    start = as_array("start", start, (system.nx,))
    radius = published(_settled(system, contraction, start, (low, high)))

    def outputs(steps: int, initial: float, metric: Array) -> HorizonCertificate:
        # From a little further away than this machine asks for: another one may ask for a little more.
        return certify_horizon(
            system, steps, initial_radius=published(initial), input_radius=errors, metric=metric, iterations=iterations
        )

    still = contraction.reachable_radius(errors)
    draft = ReinitialisationCertificate(
        system_digest=system.digest,
        method="contraction and horizon",
        solver_status="",
        margin=0.0,
        versions=current_versions(),
        washout=washout,
        horizon=horizon,
        start=start,
        input_low=low,
        input_high=high,
        input_error=errors,
        radius=radius,
        contraction=contraction,
        residual_bound=residual,
        washed=outputs(washout + horizon, radius, contraction.metric),
        running=outputs(washout + horizon, still, contraction.metric),
        observer_gain=np.zeros((system.nx, system.ny)),
        observer=None,
        observed=None,
    )
    if observer_gain is not None:
        observing = observer_system(system, observer_gain)
        own = certify_contraction(observing) if observer_contraction is None else observer_contraction
        draft = replace(draft, observer_gain=np.asarray(observer_gain, dtype=np.float64), observer=own)
        draft = replace(draft, observed=outputs(horizon, draft.observer_error(washout), own.metric))
    return draft.issue(system)


def _settled(
    system: LureSystem, contraction: ContractionCertificate, start: Array, input_range: tuple[Array, Array]
) -> float:
    """Upper bound of the distance from ``start`` to any settled state, in the metric of ``contraction``."""
    return settled_radius(system, contraction.rate, contraction.metric, contraction.input_gain, start, input_range)


def _errors(name: str, value: float | Array, n: int) -> Array:
    """Check error bounds and spread them over n channels, shape (n,)."""
    array = as_array(name, np.full(n, value) if np.ndim(value) == 0 else value, (n,), hint="one number per channel")
    if (array < 0).any():
        raise SettingError(f"{name} must be >= 0 in every channel, got {array}")
    return array


def _line(name: str, error: float, bounds: Array) -> str:
    """One line of the summary: name, state error and largest output errors."""
    return f"  {name}: {error:.4g}; " + ", ".join(f"{b:.4g}" for b in bounds.max(axis=0))
