"""Interface of state observers, and the certified error that all of them start from.

Estimates are compared with x*, the state of the *model* driven from the far past by the true inputs; no measurement
enters it. With a contraction certificate (rate p, metric P, input gains g) it is within R0 = m / (1 - p) of any state
x_c, where m = sup_u |f(x_c, u) - x_c|_P (`mpc.observers.state_error`). After W steps of the model from x_c over
recorded inputs, which differ from the true ones by at most d_j,

    |x* - xhat|_P <= p^W R0 + (1 - p^W) / (1 - p) sum_j g_j d_j .

A plan made at t expects the state f(xhat[t], u[t]) at t + 1. The *jump* is the difference of the next estimate from
that. A washout over a window of W samples has

    |xhat[t+1] - f(xhat[t], u[t])|_P <= p^W m = p^W (1 - p) R0 ,

and an observer that runs on has no jump. Where the recorded inputs differ from the commanded ones that the plan was
made with by at most c_j, sum_j g_j c_j is added. (Proofs: docs/theory/reinitialisation.md.) Inputs outside the
actuators' range, and unknown ones, are treated in `mpc.observers.straying`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from controlrnn.checks import Array, as_array, count, per_channel, read_only
from controlrnn.errors import SettingError
from controlrnn.kernels.dense import dot
from controlrnn.records import digest
from controlrnn.systems import LureSystem
from controlrnn.typed import typed
from mpc.c_tables import ObserverTable
from mpc.observers.state_error import ROUNDING, StateError, largest_step
from mpc.observers.straying import strayed
from mpc.predictor import Predictor
from mpc.promises.premises import Premises, premises_of, setting_text

if TYPE_CHECKING:  # deployment reads certificates; it does not need what makes them
    from controlrnn.certification import ContractionCertificate


class Observer(ABC):
    """State observer: estimates the state that the next prediction starts from.

    ``update(u, y)`` is called once per sample, with the input that acts from this sample on and the measurement taken
    at it, and returns the estimate for the *next* sample.

    Attributes:
        predictor: The model observed.
        steps: Samples that must have been seen before the estimate may be used.
        input_error: Bound on |true - recorded input| per channel, shape (nu,).
        command_error: Bound on |recorded - commanded input|, shape (nu,), for the jump and predictions only.
        input_drift: Bound on how much true minus recorded inputs change from sample to sample, shape (nu,), zero for
            errors that stay; None: they may be others at every sample. What is certified of predictions and of what
            limits learn then counts on it; the estimate's own certified error holds for all errors.
        initial_state: State that the estimate starts from, shape (nx,).
        contraction: Contraction certificate of the model; without one (None) there is no certified error.
    """

    @typed()
    def __init__(
        self,
        predictor: Predictor,
        steps: int,
        *,
        initial_state: ArrayLike | None = None,
        contraction: ContractionCertificate | None = None,
        input_error: ArrayLike = 0.0,
        command_error: ArrayLike = 0.0,
        input_drift: ArrayLike | None = None,
    ) -> None:
        self.predictor = predictor
        self.steps = count("steps", steps)
        self.input_error = per_channel("input_error", input_error, predictor.nu)
        self.command_error = per_channel("command_error", command_error, predictor.nu)
        self.input_drift = None if input_drift is None else per_channel("input_drift", input_drift, predictor.nu)
        if self.input_drift is not None and self.command_error.any():
            raise SettingError(
                "input_drift is about inputs that act as they are recorded, but for an error that stays; got a "
                "command_error as well, which is another one at every sample: leave one of them out"
            )
        self._settles = initial_state is None
        if initial_state is None:
            initial_state = predictor.equilibrium(np.mean(predictor.input_limits(), axis=0))
        self.initial_state = read_only(as_array("initial_state", initial_state, (predictor.nx,)))
        if contraction is not None:
            contraction.verify(predictor.system)
        self.contraction = contraction
        if contraction is not None:
            self._motion  # noqa: B018 -- computed now, not in the control step that asks first
        self._state = self.initial_state
        self._seen = 0
        self.start()

    @property
    def system(self) -> LureSystem:
        """The model observed."""
        return self.predictor.system

    @property
    def prediction_input_error(self) -> Array:
        """Bound on |true - commanded input| per channel, shape (nu,): predictions are made with commanded inputs."""
        return read_only(self.input_error + self.command_error)

    def start(self) -> None:
        """Start again from the initial state."""
        self._state = self.initial_state
        self._seen = 0
        self._undo: tuple[tuple[tuple[str, Any], ...], Array] | None = None  # what an update replaced, and its reading
        self._doubt: Array | None = None
        self._lost = False  # whether the last input is unknown, or out of range
        self._excess = 0.0  # r of `mpc.observers.straying`
        self._resume()

    def start_over(self) -> None:
        """Forget the estimates while the plant goes on; what inputs out of range may have done (`strayed`) stays."""
        excess = self._excess
        self.start()
        self._excess = excess
        self._resume()

    def _resume(self) -> None:  # noqa: B027
        """Start from anywhere the model's state may be, which `_excess` says."""

    def update(self, u: ArrayLike, y: ArrayLike, *, doubt: ArrayLike | None = None) -> Array:
        """Update the estimate with one sample; returns that for the next sample, shape (nx,).

        Args:
            u: Input that acts from this sample to the next, shape (nu,).
            y: Measurement at this sample, shape (ny,); NaN where it is missing.
            doubt: Input error in addition to `input_error`, shape (nu,), where the input that acted, or for how long,
                is not known.

        Returns:
            The estimate for the next sample, shape (nx,).
        """
        u = as_array("u", u, (self.predictor.nu,))
        y = _measured(y, self.predictor.ny)
        before = dict(vars(self))
        self._doubt = None if doubt is None else as_array("doubt", doubt, (self.predictor.nu,))
        if self.contraction is not None:
            self._excess, self._lost = strayed(self, u, doubted=self._doubt is not None)
        self._state = read_only(self._next(u, y))
        self._seen += 1
        self._undo = tuple((k, v) for k, v in before.items() if vars(self)[k] is not v and k != "_undo"), y
        return self._state

    def revise(self, u: ArrayLike, *, doubt: ArrayLike | None = None) -> bool:
        """Repeat the last update with the input that is known to have acted; False if that is not possible.

        Args:
            u: The input, shape (nu,).
            doubt: As in `update`.
        """
        if self._undo is None or not self._revisable:
            return False
        before, y = self._undo
        vars(self).update(before)
        self._undone()
        self.update(u, y, doubt=doubt)
        return True

    _revisable = True  # whether `revise` may restore what was before; not once a late measurement changed the state

    def _undone(self) -> None:  # noqa: B027
        """Undo changes that an update made in place; most observers make none."""

    def implausible(self, y: Array) -> tuple[NDArray[np.bool_], str]:
        """Flags (ny,) of readings that contradict the declared bounds, and a text with names and numbers."""
        return np.zeros(len(y), dtype=bool), ""

    @property
    def strayed(self) -> float:
        """Bound on how far inputs out of range may have led the model's state out of the ball that others keep."""
        return self._excess

    @property
    def state(self) -> Array:
        """Estimate for the coming sample, shape (nx,)."""
        return self._state

    @property
    def ready(self) -> bool:
        """Whether enough samples have been seen."""
        return self._seen >= self.steps

    @property
    def certified(self) -> bool:
        """Whether the certified error holds for the present estimate."""
        return self.ready and self.contraction is not None

    @property
    def contradiction(self) -> str:
        """Text of the readings of the last update that contradict the declared bounds; empty if none does."""
        return ""

    def estimates(self, u: Array, y: Array) -> Array:
        """Estimates along a whole record, starting from the initial state.

        Args:
            u: Inputs, shape (T, nu).
            y: Measurements, shape (T, ny).

        Returns:
            Shape (T + 1, nx): the estimate for each sample and for the one after the last; NaN while not ready.
        """
        u, y = self._samples(u, y)
        worker = self._copy()
        worker.start()
        rows = np.full((len(u) + 1, self.predictor.nx), np.nan)
        for t in range(len(u)):
            worker.update(u[t], y[t])
            if worker.ready:
                rows[t + 1] = worker.state
        return rows

    def _samples(self, u: Array, y: Array) -> tuple[Array, Array]:
        """Inputs (T, nu) and measurements (T, ny) of a record, checked; missing ones are NaN."""
        u = as_array("u", u, ("T", self.predictor.nu))
        y = as_array("y", y, (len(u), self.predictor.ny), hint="one row per input", finite=False)
        return u, np.where(np.isfinite(y), y, np.nan)

    @property
    def digest(self) -> str:
        """SHA-256 of the settings and the model that the estimates depend on; the same on every processor.

        Values computed from the model enter by what they were computed from, since their last bits differ.
        """
        meta = {"kind": type(self).__name__, "steps": self.steps, "system": self.system.digest}
        start = self._input_range() if self._settles else {"initial_state": self.initial_state}
        return digest(start | self._arrays(), meta | self._settings())

    @property
    def promise(self) -> str:
        """Text of the conditions under which `error` holds."""
        return "certified for all inputs within the actuators' range and the declared input error"

    @property
    def error_radius(self) -> float:
        """Certified radius of |x* - xhat| in `error_metric`. Raises SettingError without a certificate."""
        return self.error.radius

    @property
    def error_metric(self) -> Array:
        """Metric of `error_radius`, shape (nx, nx)."""
        return self.error.metric

    @property
    def error(self) -> StateError:
        """Certified bound on x* - xhat; see the module docstring. Raises SettingError without a certificate."""
        return self._memory_error(self.steps)

    @property
    def restart(self) -> StateError | None:
        """Certified bound on the distance of x* from the state that the window of `steps` inputs is simulated from.

        None where the estimate is not a plain simulation over that window. Raises SettingError without a certificate.
        """
        return None

    @property
    def jump(self) -> StateError | None:
        """Certified bound on the jump |xhat[t+1] - f(xhat[t], u[t])| of the estimate from what a plan expects.

        f is the model's step and u the *commanded* input, as the plan assumes; the bound holds where `certified` is
        true at both samples. None where nothing is certified; `describe` then says what is missing.
        """
        own = self._own_jump()
        if own is None or not self.command_error.any():
            return own
        if self.contraction is None:
            return None
        push = StateError(dot(self.contraction.input_gain, self.command_error), self.contraction.metric)
        return StateError.stated((own.radius + push.radius_in(own.metric)) * ROUNDING, own.metric)

    def correct(self, age: int, y: ArrayLike) -> Array:
        """Correct the estimate for the coming sample with a late measurement; returns it, shape (nx,).

        It stays the same where the measurement is too old, or where the estimate uses no measurements.

        Args:
            age: Number of updates since that of its own sample; 0 for the last update's sample.
            y: Measurement, shape (ny,); channels that are NaN stay as they are.
        """
        age = count("age", age, least=0)
        y = _measured(y, self.predictor.ny)
        if age >= self._seen:
            raise SettingError(f"age must be less than the {self._seen} samples seen so far, got {age}")
        if not np.isnan(y).all():
            late = self._late(age, y)
            self._undo = self._undo if late is self._state else None
            self._state = read_only(late)
        return self._state

    def _own_jump(self) -> StateError | None:
        """Certified jump with respect to the recorded inputs; None where nothing is certified."""
        return None

    def _late(self, age: int, y: Array) -> Array:  # noqa: ARG002 -- open loop unless a subclass says otherwise
        return self._state

    @abstractmethod
    def _next(self, u: Array, y: Array) -> Array: ...

    @abstractmethod
    def describe(self) -> str:
        """One line for reports: how the state is re-initialised and what error that leaves."""

    def _arrays(self) -> dict[str, Array]:
        return {}

    def _input_range(self) -> dict[str, Array]:
        """Actuators' range as digest entries, in place of defaults computed from it."""
        return dict(zip(("input_lower", "input_upper"), self.predictor.input_limits(), strict=True))

    def _settings(self) -> dict[str, Any]:
        return {}

    def _declared(self) -> dict[str, Any]:
        """Settings that the certified error depends on, but no estimate does."""
        found = {} if self.contraction is None else {"contraction": self.contraction.digest}
        return found if self.input_drift is None else found | {"input_drift": self.input_drift}

    @property
    def premises(self) -> Premises:
        """Premises of the certified error."""
        settings: dict[str, Any] = {"kind": type(self).__name__, "steps": self.steps}
        settings |= {} if self._settles else {"initial_state": self.initial_state}
        settings |= self._arrays() | self._settings() | self._declared()
        return premises_of(self.predictor).also(
            input_error=self.input_error,
            command_error=self.command_error,
            observer={name: setting_text(value) for name, value in settings.items() if name != "input_error"},
        )

    def _copy(self) -> Self:
        """Copy that may run on its own after `start`."""
        return copy.copy(self)

    def _certificate(self) -> ContractionCertificate:
        if self.contraction is None:
            raise SettingError(
                "the observer's error needs a certificate, got none: pass contraction=certify_contraction(system)"
            )
        return self.contraction

    def c_table(self) -> ObserverTable:
        """Numbers of the certified error that C code needs; zeros without a certificate."""
        certificate = self.contraction
        return ObserverTable(
            certified=certificate is not None,
            promised=None,
            reach=0.0 if certificate is None else self._reach(),
            rate=0.0 if certificate is None else float(certificate.rate),
            added=0.0 if certificate is None else dot(certificate.input_gain, self.input_error),
            input_gain=np.zeros(self.predictor.nu) if certificate is None else certificate.input_gain,
            metric=np.eye(self.predictor.nx) if certificate is None else certificate.metric,
        )

    @cached_property
    def _motion(self) -> float:
        return largest_step(self.predictor, self._certificate(), self.initial_state, self.input_error)

    def _reach(self) -> float:
        return self._motion / (1 - float(self._certificate().rate)) * ROUNDING

    def _memory_error(self, steps: int) -> StateError:
        certificate = self._certificate()
        radius = certificate.error_after(steps, self._reach(), self.input_error)
        return StateError.stated(radius * ROUNDING, certificate.metric)

    def _error_text(self) -> str:
        if self.contraction is None:
            return f"no certified error{self._jump_text()}: pass contraction=certify_contraction(system)"
        return f"certified 2-norm error {self.error.euclidean:.3g}{self._jump_text()}"

    def _jump_text(self) -> str:
        jump = self.jump
        return ", no certified jump" if jump is None else f", jump per step at most {jump.euclidean:.3g}"


def _measured(y: ArrayLike, ny: int) -> Array:
    seen = as_array("y", y, (ny,), finite=False)
    return np.where(np.isfinite(seen), seen, np.nan)
