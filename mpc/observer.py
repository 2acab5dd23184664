"""Where a prediction starts: estimates of the model's state, each with a certified error.

The state x* that an estimate is compared with is the state of the *model* when it is driven from the far past by the
true inputs; no measurement enters it. With a contraction certificate (rate p, metric P, input gains g) it is within
R0 = m / (1 - p) of any state x_c, where m = sup_u |f(x_c, u) - x_c|_P (`mpc.state_error`). So W steps of the model from
x_c over recorded inputs, which differ from the true ones by at most d_j, leave

    |x* - xhat|_P <= p^W R0 + (1 - p^W) / (1 - p) sum_j g_j d_j .

A plan made at t expects f(xhat[t], u[t]) at t + 1. What re-initialisation changes about that is the *jump*. A washout
window that moves on by one sample drops its oldest input v: f(xhat[t], u[t]) and xhat[t+1] are runs over the same W
inputs that start at f(x_c, v) and at x_c, so

    |xhat[t+1] - f(xhat[t], u[t])|_P <= p^W m = p^W (1 - p) R0 ,

a small part, 1 - p, of what the error forgets last. Running on makes no jump. Where the recorded inputs differ from the
commanded ones that the plan was made with by at most c_j, sum_j g_j c_j comes on top. All of
that is for inputs within the actuators' range; what others, or unknown ones, do: `mpc.straying`.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from controlrnn.checks import Array, as_array, count, read_only
from controlrnn.errors import SettingError
from controlrnn.kernels import step
from controlrnn.kernels.dense import dot
from controlrnn.records import digest
from controlrnn.systems import LureSystem
from controlrnn.typed import typed
from mpc.predictor import Predictor
from mpc.premises import Premises, observer_premises
from mpc.state_error import ROUNDING as ROUNDING
from mpc.state_error import StateError as StateError
from mpc.state_error import largest_step
from mpc.state_error import per_channel as per_channel
from mpc.state_error import stretch as stretch
from mpc.straying import anywhere, astray, followed, strayed

if TYPE_CHECKING:  # deployment reads certificates; it does not need what makes them
    from controlrnn.certification import ContractionCertificate


class Observer(ABC):
    """Turns the record so far into the state that the next prediction starts from.

    ``update(u, y)`` is called once per sample, with the input that acts from this sample on and the measurement taken
    at it, and returns the estimate for the *next* sample.

    Attributes:
        predictor: The model observed.
        steps: Samples that must have been seen before the estimate may be used.
        input_error: Bound on |true - recorded input| per channel, shape (nu,).
        command_error: Bound on |recorded - commanded input| per channel, shape (nu,); zero where the commands are what
            is recorded. It counts for the jump and for predictions, not for the estimate.
        initial_state: State that the estimate starts from, shape (nx,).
        contraction: Certificate of the model, or None: then there is no certified error.
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
    ) -> None:
        self.predictor = predictor
        self.steps = count("steps", steps)
        self.input_error = per_channel("input_error", input_error, predictor.nu)
        self.command_error = per_channel("command_error", command_error, predictor.nu)
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
        """Forget everything."""
        self._state, self._seen = self.initial_state, 0
        self._undo: tuple[tuple[tuple[str, Any], ...], Array] | None = None  # what an update replaced, and its reading
        self._doubt: Array | None = None
        self._lost, self._excess = False, 0.0  # whether the last input is unknown, or out of range; r of `mpc.straying`
        self._resume()

    def start_over(self) -> None:
        """Forget estimates while the plant goes on: not where inputs out of range may have led the model's state."""
        excess = self._excess
        self.start()
        self._excess = excess
        self._resume()

    def _resume(self) -> None:  # noqa: B027
        """Start from anywhere the model's state may be, which `_excess` says."""

    def update(self, u: ArrayLike, y: ArrayLike, *, doubt: ArrayLike | None = None) -> Array:
        """Take one sample into account.

        Args:
            u: Input that acts from this sample to the next, shape (nu,).
            y: Measurement at this sample, shape (ny,); NaN where it is missing.
            doubt: By how much more than `input_error` the input may be off, (nu,): who knows what acted, and how long?

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
        """Replace the input of the last update by what is known to have acted; says whether that was possible.

        Args:
            u: The input, shape (nu,).
            doubt: As of `update`.
        """
        if self._undo is None or not self._revisable:
            return False
        before, y = self._undo
        vars(self).update(before)
        self._undone()
        self.update(u, y, doubt=doubt)
        return True

    _revisable = True  # but not once a late measurement has changed the state

    def _undone(self) -> None:  # noqa: B027
        """Take back what an update changed in place; most change nothing."""

    def implausible(self, y: Array) -> tuple[NDArray[np.bool_], str]:
        """Which readings (ny,) cannot be while all that is declared holds, and why, with names and numbers."""
        return np.zeros(len(y), dtype=bool), ""

    @property
    def state(self) -> Array:
        """The estimate for the coming sample, shape (nx,)."""
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
        """Which readings of the last update cannot be while all that is declared holds, with numbers; mostly empty."""
        return ""

    def estimates(self, u: Array, y: Array) -> Array:
        """Estimates along a whole record, from a fresh start.

        Args:
            u: Inputs, shape (T, nu).
            y: Measurements, shape (T, ny).

        Returns:
            Shape (T + 1, nx): the estimate for each sample and the one after the last; NaN while not ready.
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
        """SHA-256 of what the estimates depend on; the same on every processor.

        What was computed from the model counts as what it was computed from: the bits of a steady state differ.
        """
        meta = {"kind": type(self).__name__, "steps": self.steps, "system": self.system.digest}
        start = self._input_range() if self._settles else {"initial_state": self.initial_state}
        return digest(start | self._arrays(), meta | self._settings())

    @property
    def promise(self) -> str:
        """What `error` rests on, in words."""
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
        """The certified error; see the module docstring. Raises SettingError without a certificate."""
        return self._memory_error(self.steps)

    @property
    def restart(self) -> StateError | None:
        """Certified distance of x* from the state that the last `steps` recorded inputs are simulated from.

        None where the estimate is not a plain simulation over that window. Raises SettingError without a certificate.
        """
        return None

    @property
    def jump(self) -> StateError | None:
        """Certified bound on what one `update` changes about the plan: |xhat[t+1] - f(xhat[t], u[t])|.

        f is the model's step and u the *commanded* input, as the plan assumes; it holds where `certified` is true at
        both samples. None where nothing is certified; `describe` then says what is missing.
        """
        own = self._own_jump()
        if own is None or not self.command_error.any():
            return own
        if self.contraction is None:
            return None
        push = StateError(dot(self.contraction.input_gain, self.command_error), self.contraction.metric)
        return StateError.stated((own.radius + push.radius_in(own.metric)) * ROUNDING, own.metric)

    def correct(self, age: int, y: ArrayLike) -> Array:
        """Take in a measurement that has come late.

        Args:
            age: How many updates after its own sample's it comes; 0 is the last update's sample.
            y: Measurement, shape (ny,); channels that are NaN stay as they are.

        Returns:
            The corrected estimate for the coming sample, shape (nx,); the old one where the measurement is too old, or
            where the estimate uses no measurements.
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
        """The jump with respect to the recorded inputs."""
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
        """What defaults are computed from, besides the model."""
        return dict(zip(("input_lower", "input_upper"), self.predictor.input_limits(), strict=True))

    def _settings(self) -> dict[str, Any]:
        return {}

    def _declared(self) -> dict[str, Any]:
        """What the certified error rests on besides, though no estimate does."""
        return {} if self.contraction is None else {"contraction": self.contraction.digest}

    @property
    def premises(self) -> Premises:
        """What the certified error rests on."""
        return observer_premises(self)

    def _copy(self) -> Self:
        """A copy that may run on its own after `start`."""
        return copy.copy(self)

    def _certificate(self) -> ContractionCertificate:
        if self.contraction is None:
            raise SettingError(
                "the observer's error needs a certificate, got none: pass contraction=certify_contraction(system)"
            )
        return self.contraction

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


class Washout(Observer):
    """Starts anew at every sample: the model runs from ``initial_state`` over the last ``steps`` recorded inputs.

    The estimate depends on nothing older, so a wrong estimate heals after ``steps`` samples.
    """

    def _resume(self) -> None:
        self._record = np.zeros((0, self.predictor.nu))
        self._astray = astray(self)  # z and d of `mpc.straying`
        #: Samples since the model's state is known to be where inputs in range lead to.
        self._clean = self.steps if self._astray is None else 0

    @property
    def restart(self) -> StateError:
        """See `Observer.restart`: the reachable radius about ``initial_state``."""
        return StateError.stated(self._reach(), self._certificate().metric)

    def _own_jump(self) -> StateError | None:
        # What the two restarts, one sample apart, still differ by at the end of the window.
        if self.contraction is None:
            return None
        radius = self._motion * self.contraction.rate**self.steps * ROUNDING
        return StateError.stated(radius, self.contraction.metric)

    @property
    def certified(self) -> bool:
        """See `Observer.certified`.

        False after an input outside of the actuators' range, or one in doubt, until the model's state is back where
        inputs in range lead to, and a window of clean inputs has passed since then.
        """
        return super().certified and self._clean >= self.steps

    def _next(self, u: Array, y: Array) -> Array:  # noqa: ARG002 -- open loop: the measurement is not used
        if self.contraction is not None:
            self._clean = 0 if self._lost or self._astray is not None else min(self._clean + 1, self.steps)
            self._astray = followed(self, u)
        self._record = np.vstack([self._record, u])[-self.steps :]
        return np.asarray(self.predictor.states(self.initial_state, self._record)[-1])

    def estimates(self, u: Array, y: Array) -> Array:
        """See `Observer.estimates`; all windows run as one batch."""
        u, y = self._samples(u, y)
        rows = np.full((len(u) + 1, self.predictor.nx), np.nan)
        if len(u) >= self.steps:
            windows = np.lib.stride_tricks.sliding_window_view(u, self.steps, axis=0).swapaxes(1, 2)
            rows[self.steps :] = self.predictor.states(self.initial_state, windows)[:, -1]
        return rows

    def describe(self) -> str:
        """See `Observer.describe`."""
        return f"washout of {self.steps} steps at every sample; {self._error_text()}"


class RunningOn(Observer):
    """Simulates on from one sample to the next and never re-initialises; usable after ``steps`` samples."""

    @property
    def restart(self) -> StateError:
        """See `Observer.restart`: the error of any earlier estimate, the first one or one of running on since then."""
        certificate = self._certificate()
        settled = dot(certificate.input_gain, self.input_error) / (1 - float(certificate.rate)) * ROUNDING
        return StateError.stated(max(self._reach(), settled), certificate.metric)

    def _resume(self) -> None:
        self._bound = np.inf if self.contraction is None else self._reach() + self._excess

    @property
    def certified(self) -> bool:
        """See `Observer.certified`; False after inputs in doubt or out of range until they are forgotten."""
        return super().certified and self._bound <= self._promised

    @cached_property
    def _promised(self) -> float:
        return self.error.radius

    def _next(self, u: Array, y: Array) -> Array:  # noqa: ARG002
        after = step(self.system, self._state, u)
        if self._lost:
            self._bound = anywhere(self, after)
        elif self.contraction is not None:
            self._bound = self.contraction.rate * self._bound + dot(self.contraction.input_gain, self.input_error)
        return after

    def _own_jump(self) -> StateError:
        return StateError(0.0, np.eye(self.predictor.nx) if self.contraction is None else self.contraction.metric)

    def describe(self) -> str:
        """See `Observer.describe`."""
        return f"running on, used after {self.steps} steps; {self._error_text()}"


def _measured(y: ArrayLike, ny: int) -> Array:
    seen = as_array("y", y, (ny,), finite=False)
    return np.where(np.isfinite(seen), seen, np.nan)
