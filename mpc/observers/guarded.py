"""Guarded observers: estimates from measurements, confined to the certified ball of another observer.

Least squares on measurements, or a learned encoder, often come nearer to the model's state x* than an open-loop run,
but nothing proves it. A *guard*, an observer with a certified ball |x* - c|_S <= e around its own estimate c, therefore
limits the estimate: |xhat - c|_S <= s e with the trust s in [0, 1], hence

    |x* - xhat|_S <= (1 + s) e

for all measurements. The jump is limited as well. With k the contraction factor of the model's step in S and j the
guard's own jump, z = f(xhat, u) is within k s e + j of the guard's next estimate, so at most a = k s e + j - s e (or
zero) outside the next ball. From the point of the ball nearest to z the estimate moves towards the proposal, until it
would leave the ball or be further than max(jump_limit, a) from z. Therefore

    |xhat+ - z|_S <= min( max(jump_limit, a), (1 + k) s e + j ) .

A guard that runs on over exact inputs has j = 0 and k < 1, hence a = 0: any jump limit may then be asked for. See also
docs/theory/reinitialisation.md.
"""

from __future__ import annotations

from abc import abstractmethod
from functools import cached_property
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import ArrayLike

from controlrnn.checks import Array, positive
from controlrnn.errors import SettingError
from controlrnn.kernels import step
from controlrnn.kernels.dense import dot, product
from controlrnn.kernels.dense import length as _size
from controlrnn.typed import typed
from mpc.observers.base import Observer
from mpc.observers.estimate_error import EstimateError
from mpc.observers.state_error import ROUNDING, StateError, stretch
from mpc.predictor import Predictor

if TYPE_CHECKING:
    from controlrnn.certification import ContractionCertificate


class GuardedObserver(Observer):
    """Base of observers whose estimates are confined to the certified ball of a guard; see the module docstring.

    Args:
        predictor: Model.
        steps: Samples before the estimate may be used.
        guard: Observer of the same model with a certified error; None: proposals are not limited, and without
            ``calibration`` nothing is known about their error.
        trust: Share s of the guard's ball that estimates may use, in [0, 1].
        jump_limit: Largest jump wanted, in the guard's metric.
        calibration: From `mpc.calibrate_estimates`: the stated error and jump where there is no guard.
        initial_state: As in `Observer`.
        contraction: As in `Observer`.
        input_error: As in `Observer`.
        command_error: As in `Observer`.

    Raises:
        SettingError: The guard is of another model, or certifies nothing; a setting is out of range.
    """

    @typed()
    def __init__(
        self,
        predictor: Predictor,
        steps: int,
        *,
        guard: Observer | None = None,
        trust: float = 1.0,
        jump_limit: float = np.inf,
        calibration: EstimateError | None = None,
        initial_state: ArrayLike | None = None,
        contraction: ContractionCertificate | None = None,
        input_error: ArrayLike = 0.0,
        command_error: ArrayLike = 0.0,
    ) -> None:
        if not 0 <= positive("trust", trust, zero=True) <= 1:
            raise SettingError(f"trust must lie in [0, 1], got {trust!r}: a guard vouches for its own ball only")
        if not jump_limit >= 0:
            raise SettingError(f"jump_limit must be >= 0, got {jump_limit!r}")
        if guard is not None and guard.system.digest != predictor.system.digest:
            raise SettingError("guard must observe the predictor's model, got another digest")
        self.guard = guard
        self.trust = float(trust)
        self.jump_limit = float(jump_limit)
        self._accepted = 1.0
        super().__init__(
            predictor,
            steps,
            initial_state=initial_state,
            contraction=contraction,
            input_error=input_error,
            command_error=command_error,
        )
        if guard is not None:
            guard.error  # noqa: B018 -- raises where the guard certifies nothing
            if (guard.input_error < self.input_error).any():
                raise SettingError(
                    f"the guard must allow for input errors of {self.input_error}, got {guard.input_error}"
                )
        if calibration is not None and calibration.observer_digest != self.digest:
            raise SettingError("calibration is of another observer: run calibrate_estimates on this one")
        self.calibration = calibration
        if guard is not None:
            self._leap  # noqa: B018 -- computed now, not in the first control step

    def start(self) -> None:
        """Start again, together with the guard."""
        super().start()
        self._expected = self.initial_state
        if self.guard is not None:
            self.guard.start()

    def start_over(self) -> None:
        """See `Observer.start_over`: the guard as well."""
        excess = 0.0 if self.guard is None else self.guard._excess
        super().start_over()
        if self.guard is not None:
            self.guard._excess = excess
            self.guard._resume()

    @property
    def accepted(self) -> float:
        """Share of the way to the proposal that the last estimate went: 1 all of it, 0 none."""
        return self._accepted

    @property
    def certified(self) -> bool:
        """Whether the certified error holds for the present estimate, which is so where the guard's does."""
        return self.ready and self.guard is not None and self.guard.certified

    @property
    def contradiction(self) -> str:
        """Text of the readings that contradict the guard's declared bounds; see `Observer.contradiction`."""
        return "" if self.guard is None else self.guard.contradiction

    @property
    def error(self) -> StateError:
        """Bound on x* - xhat: certified, 1 + trust times the guard's error; without a guard the calibrated one.

        Raises:
            SettingError: There is neither guard nor calibration.
        """
        if self.guard is not None:
            return StateError.stated((1 + self.trust) * self._ball.radius * ROUNDING, self._ball.metric)
        if self.calibration is not None:
            return self.calibration.error
        raise SettingError("the error of this observer needs a guard, or calibration=calibrate_estimates(...)")

    @property
    def guard_distance(self) -> StateError | None:
        """Certified bound on the distance of the estimate from the guard's; None without a guard."""
        return None if self.guard is None else StateError.stated(self.trust * self._ball.radius, self._ball.metric)

    @property
    def promise(self) -> str:
        """Text of the conditions under which `error` holds."""
        if self.guard is not None:
            return self.guard.promise
        return "nothing is known about it" if self.calibration is None else self.calibration.promise

    def describe(self) -> str:
        """One line for reports; see `Observer.describe`."""
        if self.guard is not None:
            text = (
                f"certified 2-norm error {self.error.euclidean:.3g}{self._jump_text()}, guarded by {_kind(self.guard)}"
            )
        elif self.calibration is not None:
            text = f"calibrated 2-norm error {self.error.euclidean:.3g}{self._jump_text()} ({self.promise})"
        else:
            text = "no certified error, no certified jump: pass a guard"
        return f"{self._method()}; {text}"

    @abstractmethod
    def _propose(self, u: Array, y: Array) -> Array:
        """Estimate for the next sample from measurements, shape (nx,), before limits; not finite if there is none."""

    @abstractmethod
    def _method(self) -> str: ...

    def _next(self, u: Array, y: Array) -> Array:
        self._expected = step(self.system, self._state, u)
        if self.guard is not None:
            self.guard.update(u, y, doubt=self._doubt)
        return self._accept(self._propose(u, y))

    def _accept(self, proposal: Array) -> Array:
        z = self._expected
        if not np.isfinite(proposal).all():
            proposal = z
        self._accepted = 1.0
        if self.guard is None or not self.guard.certified:
            return proposal  # there is no ball to confine it to, and nothing is certified
        c, ball = self.guard.state, self._ball
        radius = self.trust * ball.radius
        away = _size(z - c, ball.metric)
        # Start at the point of the guard's ball nearest to z; go towards the proposal while both limits hold.
        start = z if away <= radius else c + (z - c) * (radius / away)
        move = proposal - start
        self._accepted = min(
            _reach(start - c, move, ball.metric, radius),
            _reach(start - z, move, ball.metric, self._leap),
        )
        return np.asarray(start + self._accepted * move)

    _revisable = False

    def _settings(self) -> dict[str, Any]:
        guard = "" if self.guard is None else self.guard.digest
        return {"guard": guard, "trust": self.trust, "jump_limit": str(self.jump_limit)}

    def _declared(self) -> dict[str, Any]:
        found = super()._declared()
        if self.guard is not None:
            found["guard premises"] = self.guard.premises.digest
        return found | ({} if self.calibration is None else {"calibration": self.calibration.digest})

    def _copy(self) -> Self:
        worker = super()._copy()
        if self.guard is not None:
            worker.guard = self.guard._copy()
        return worker

    @cached_property
    def _ball(self) -> StateError:
        """Certified error of the guard; radius 0 where there is no guard."""
        return StateError(0.0, np.eye(self.predictor.nx)) if self.guard is None else self.guard.error

    @cached_property
    def _drift(self) -> float:
        """Bound k s e + j on the distance of the expected state from the guard's next estimate; infinite if unknown."""
        theirs = None if self.guard is None else self.guard._own_jump()
        certificate = None if self.guard is None else self.guard.contraction
        if theirs is None or certificate is None:
            return np.inf
        S, P = self._ball.metric, certificate.metric
        # The rate holds in the certificate's metric P: converted to S it may exceed 1.
        k = float(certificate.rate)
        if not np.array_equal(S, P):
            k *= stretch(S, P) * stretch(P, S)
        return (k * self.trust * self._ball.radius + theirs.radius_in(S)) * ROUNDING

    @cached_property
    def _leap(self) -> float:
        """Largest distance max(jump_limit, a) of an estimate from the expected state; see the module docstring."""
        return max(self.jump_limit, self._drift - self.trust * self._ball.radius)

    def _own_jump(self) -> StateError | None:
        if self.guard is None:
            return None if self.calibration is None else self.calibration.jump
        radius = min(self._leap, self._drift + self.trust * self._ball.radius)
        return StateError.stated(radius * ROUNDING, self._ball.metric) if np.isfinite(radius) else None


def _reach(start: Array, move: Array, metric: Array, radius: float) -> float:
    """Largest t in [0, 1] with |start + t move| <= radius, where |start| <= radius but for rounding."""
    if radius == np.inf or _size(start + move, metric) <= radius:
        return 1.0
    onto = product(metric, move)
    # The larger root of |start|^2 + 2 b t + a t^2 = radius^2.
    a, b = dot(move, onto), dot(start, onto)
    inside = max(radius**2 - dot(start, product(metric, start)), 0.0)
    root = float(np.sqrt(b * b + a * inside))
    t = (root - b) / a if b <= 0 else inside / (b + root)  # the form without cancellation
    return min(max(t, 0.0), 1.0)


def _kind(guard: Observer) -> str:
    return guard.describe().split(";")[0]
