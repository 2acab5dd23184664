"""Innovation observer (Luenberger observer, Kalman filter gain) with a certified error.

The observer

    xhat+ = f(xhat, u) + L (y - g(xhat, u))

is itself a Lur'e system with the inputs (u, y), so that it is certified like a model, with rate q, metric S and gains
(s_u, s_y). x* is its trajectory under (u_true, y - r), where r = y - g(x*, u) is the model's simulation residual, hence
after W steps from x0

    |x* - xhat|_S <= q^W k R0 + (1 - q^W) / (1 - q) ( sum s_u d_u + sum s_y rmax ),     k^2 = lambda_max(S, P)

with R0, d_u as in `mpc.observers.base`. The residual bound rmax has to come from data; the rest is certified.

The jump is L times the innovation, bounded with each innovation in `mpc.observers.innovation_bounds`. An innovation
above its bound proves that the reading, or a declared bound, is wrong: such a sample is treated as missing, so that the
certified error of the estimate remains valid. See also docs/theory/reinitialisation.md.

Readings that drift away slowly take the estimate with them, and no innovation shows it. So the model runs on beside the
observer, over the inputs alone: its state z is within b of x*, b+ = p b + sum g d_u, whatever readings say. Estimates
further from z than their own bound and b together are impossible while the residual bound holds; then their distance
and b are the bound from which the recursion continues. What passes unnoticed is an error above the bound by less than
2 b: by nothing, in the end, where inputs are exact.
"""

from __future__ import annotations

import logging
from collections import deque
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_discrete_are

from controlrnn.checks import Array, as_array, per_channel, positive, read_only
from controlrnn.errors import SettingError
from controlrnn.kernels import output, step
from controlrnn.kernels.dense import dot, length
from controlrnn.portable import chosen
from controlrnn.systems import observer_system
from controlrnn.typed import typed
from mpc.c_tables import InnovationTable, ObserverTable
from mpc.observers.base import Observer
from mpc.observers.innovation_bounds import innovation_radius, largest_innovations
from mpc.observers.state_error import ROUNDING, StateError, stretch
from mpc.observers.straying import anywhere
from mpc.predictor import Predictor

if TYPE_CHECKING:
    from controlrnn.certification import ContractionCertificate

_log = logging.getLogger(__name__)
_MEMORY = 256  # largest age of a late measurement in samples


@typed()
def kalman_gain(
    predictor: Predictor,
    *,
    output_noise_std: ArrayLike,
    input_noise_std: ArrayLike = 0.0,
    state_noise_std: float = 0.0,
    u: ArrayLike | None = None,
) -> Array:
    """Innovation gain (nx, ny) of the steady-state Kalman filter of the model linearised at an equilibrium.

    The gain is rounded to 16 bits of its largest entry, so that the same call gives the same gain on every processor
    and a certificate of `observer_system(system, gain)` stays valid. (Entries within 1e-10 of halfway may still round
    either way: store the gain with the certificate that was made for it.)

    Args:
        predictor: Model.
        output_noise_std: Standard deviation of the measurement noise per output, positive [output units].
        input_noise_std: Standard deviation of white noise on the inputs [input units].
        state_noise_std: Standard deviation of white noise on each state.
        u: Input of the equilibrium, shape (nu,); the middle of the actuators' range when left out.

    Raises:
        SettingError: No noise drives the state, or the Riccati equation has no stabilising solution.
    """
    point = np.mean(predictor.input_limits(), axis=0) if u is None else as_array("u", u, (predictor.nu,))
    A, B, C, _ = predictor.linearise(predictor.equilibrium(point), point)
    spread = B * per_channel("input_noise_std", input_noise_std, predictor.nu)
    with np.errstate(over="ignore"):
        drive = np.square(positive("state_noise_std", state_noise_std, zero=True))
        Q = spread @ spread.T + np.diag(np.full(predictor.nx, drive))
    if not np.isfinite(Q).all():
        raise SettingError("input_noise_std and state_noise_std must have finite squares: give them in other units")
    noise = per_channel("output_noise_std", output_noise_std, predictor.ny)
    if not (noise > 0).all() or not Q.any():
        raise SettingError(
            "a Kalman gain needs output_noise_std > 0 and input_noise_std or state_noise_std > 0: their ratio counts"
        )
    try:
        P = solve_discrete_are(A.T, C.T, Q, np.diag(noise**2))
    except (np.linalg.LinAlgError, ValueError) as error:
        raise SettingError(f"no stabilising Kalman gain at u = {point}: {error}; is the model detectable?") from error
    return chosen(np.asarray(np.linalg.solve(C @ P @ C.T + np.diag(noise**2), C @ P @ A.T).T))


class StateObserver(Observer):
    """Innovation observer with a constant gain.

    A sample with a missing measurement (NaN) skips the innovation: the estimate then runs open loop, where the model's
    certificate holds instead of the observer's. The error bound is propagated with a change of metric at both ends of
    the gap (at the cost of the metrics' condition), and `certified` is False while it exceeds `error`. A sample with an
    innovation above its certified bound is treated alike, and reported by `contradiction`. A late measurement is taken
    in by `correct`, up to 256 samples later.

    Args:
        predictor: Model.
        gain: L, shape (nx, ny), e.g. from `kalman_gain`; without rows for a carried input these are zero.
        steps: Samples before the estimate may be used.
        residual_bound: Bound rmax on |y - g(x*, u)| per output, shape (ny,); needed for the certified error.
        initial_state: Start of the estimate; the equilibrium at the middle of the actuators' range when left out.
        contraction: Certificate of the *model* (radius of its reachable set).
        observer_contraction: Certificate of `observer_system(system, gain)`.
        input_error: Bound on |true - recorded input| per channel.
        command_error: Bound on |recorded - commanded input| per channel.

    Raises:
        CertificationError: A certificate does not belong to the system that it is passed for.
    """

    @typed()
    def __init__(
        self,
        predictor: Predictor,
        gain: ArrayLike,
        steps: int,
        *,
        residual_bound: ArrayLike | None = None,
        initial_state: ArrayLike | None = None,
        contraction: ContractionCertificate | None = None,
        observer_contraction: ContractionCertificate | None = None,
        input_error: ArrayLike = 0.0,
        command_error: ArrayLike = 0.0,
    ) -> None:
        if predictor.carries and np.shape(gain) == (predictor.nx - predictor.nu, predictor.ny):
            gain = np.vstack([gain, np.zeros((predictor.nu, predictor.ny))])  # the carried input is known
        self.gain = read_only(as_array("gain", gain, (predictor.nx, predictor.ny)))
        if predictor.carries and self.gain[-predictor.nu :].any():
            raise SettingError(
                f"gain must be zero in the rows of the carried input, got {self.gain[-predictor.nu :]}: leave them out"
            )
        self.dynamics = observer_system(predictor.system, self.gain)
        if observer_contraction is not None:
            observer_contraction.verify(self.dynamics)
            observer_contraction.prove_observer(predictor.system, self.gain)  # A - L C as it is without rounding, too
        self.observer_contraction = observer_contraction
        self.residual_bound = (
            None if residual_bound is None else per_channel("residual_bound", residual_bound, predictor.ny)
        )
        super().__init__(
            predictor,
            steps,
            initial_state=initial_state,
            contraction=contraction,
            input_error=input_error,
            command_error=command_error,
        )
        if self._complete:
            self._largest_innovation, self._largest_readings  # noqa: B018 -- now, not in the step that asks first

    def start(self) -> None:
        """Start again from the initial state."""
        super().start()
        self._past: deque[tuple[Array, float, Array, Array]] = deque(maxlen=_MEMORY)
        self._planned = self.initial_state, np.zeros(self.predictor.nu)
        self._leapt = False
        self._impossible = ""
        self._known = _MEMORY  # updates since an input was in doubt

    def _resume(self) -> None:
        # z and its bound are in the model's metric, the bound on x* - xhat is in the observer's.
        self._beside = self.initial_state
        self._beside_bound = np.inf
        self._bound = np.inf
        self._estranged = ""
        if self._complete:
            self._beside_bound = self._reach() + self._excess
            self._bound = self._stretches[1] * self._beside_bound

    @property
    def _complete(self) -> bool:
        parts = (self.contraction, self.observer_contraction, self.residual_bound)
        return all(part is not None for part in parts)

    def _arrays(self) -> dict[str, Array]:
        return {"gain": self.gain}

    def _declared(self) -> dict[str, Any]:
        found = super()._declared()
        if self.observer_contraction is not None:
            found["observer_contraction"] = self.observer_contraction.digest
        return found | ({} if self.residual_bound is None else {"residual_bound": self.residual_bound})

    def _next(self, u: Array, y: Array) -> Array:
        self._past.append((self._state, self._bound, u, y))
        self._planned = (self._state, u)
        self._leapt = False
        self._known = 0 if self._lost else min(self._known + 1, _MEMORY)
        if self._complete:
            self._run_beside(u)
        after = self._follow(u, y)
        if self._complete:
            self._compare(after)
        if self._impossible:
            _log.warning("%s", self._impossible)
        return after

    def _run_beside(self, u: Array) -> None:
        """One step of z and b of the module docstring."""
        model = self._certificate()
        self._beside = step(self.system, self._beside, u)
        kept = float(model.rate) * self._beside_bound + dot(model.input_gain, self.input_error)
        self._beside_bound = anywhere(self, self._beside) if self._lost else kept

    def _compare(self, after: Array) -> None:
        """Start the bound anew where the estimate (nx,) is further from z than everything declared allows."""
        own, stretched = self._parts()[1], self._stretches[1] * self._beside_bound
        if self._lost:
            self._bound = self._stretches[1] * anywhere(self, after)
        far = length(after - self._beside, own.metric)
        self._estranged = ""
        if far > (self._bound + stretched) * ROUNDING:
            possible = self._bound + stretched
            self._estranged = f"readings have led the estimate {far:.3g} from the model, possible {possible:.3g}"
            self._bound = float((far + stretched) * ROUNDING)

    @property
    def contradiction(self) -> str:
        """Text of the readings that were not used since their innovation exceeded its certified bound; mostly empty."""
        return self._impossible

    def _late(self, age: int, y: Array) -> Array:
        """Repeat the updates from the measurement's sample on with the measurement put in its place."""
        if age >= min(len(self._past), self._known):
            return self._state
        again = [self._past.pop() for _ in range(age + 1)][::-1]
        self._state, self._bound, u, seen = again[0]
        again[0] = (self._state, self._bound, u, np.where(np.isnan(y), seen, y))
        for _, _, u, seen in again:
            self._past.append((self._state, self._bound, u, seen))
            self._state = read_only(self._follow(u, seen))
        if self._complete:  # the plan knew nothing of the correction: its jump may be more than one innovation
            self._compare(self._state)
            away = self._state - step(self.system, *self._planned)
            self._leapt = length(away, self._largest_innovation.metric) > self._largest_innovation.radius
        return self._state

    def _follow(self, u: Array, y: Array) -> Array:
        gap = bool(np.isnan(y).any())
        if self._complete:
            self._impossible = self._beyond(u, y)
            gap = gap or bool(self._impossible)
            self._bound = self._bound_after(self._bound, gap=gap)
        if gap:
            return step(self.system, self._state, u)
        return step(self.dynamics, self._state, np.concatenate([u, y]))

    def _undone(self) -> None:
        self._past.pop()

    def implausible(self, y: Array) -> tuple[NDArray[np.bool_], str]:
        """Flags of innovations above their certified bounds, with a text; see `Observer.implausible`."""
        if not self._complete:
            return super().implausible(y)
        kept, added = self._largest_readings
        innovation = y - output(self.system, self._state, self._any_input)
        wrong = np.asarray(np.abs(innovation) > kept * self._bound + added)
        words = self._beyond(self._any_input, y) if wrong.any() else ""
        return wrong, "; ".join(text for text in (self._estranged, words) if text)

    @cached_property
    def _any_input(self) -> Array:
        """Zero input (nu,) for evaluating outputs, which do not depend on it: the model has no feedthrough."""
        return np.zeros(self.predictor.nu)

    def _beyond(self, u: Array, y: Array) -> str:
        """Text of the readings whose innovation exceeds its certified bound; empty if none does."""
        kept, added = self._largest_readings
        most, innovation = kept * self._bound + added, y - output(self.system, self._state, u)
        wrong = np.flatnonzero(np.abs(innovation) > most)
        return "; ".join(
            f"{self.predictor.outputs[i].name} measured {innovation[i]:.3g} from the estimate, possible {most[i]:.3g}"
            for i in wrong
        )

    @cached_property
    def _largest_readings(self) -> tuple[Array, Array]:
        """Slope and offset, each (ny,), of the bound on innovations as an affine function of the error bound."""
        _, own, residual = self._parts()
        ends = [
            largest_innovations(self.system, StateError(e, own.metric), self.input_error, residual) for e in (0.0, 1.0)
        ]
        return (ends[1] - ends[0]) * ROUNDING, ends[0] * ROUNDING

    @property
    def certified(self) -> bool:
        """Whether the certified error holds for the present estimate.

        False also until the effect of a gap in the measurements has faded, and right after a late measurement whose
        correction was larger than `jump`.
        """
        return self.ready and self._complete and not self._leapt and self._bound <= self.error.radius

    @property
    def error(self) -> StateError:
        """Certified bound on x* - xhat, valid from the first sample at which the observer is ready.

        Raises:
            SettingError: One of the two certificates or the residual bound was not given.
        """
        self._parts()
        return self._settled

    @cached_property
    def _settled(self) -> StateError:
        _, own, residual = self._parts()
        push = np.concatenate([self.input_error, residual])
        # The bound approaches this limit, possibly from below: it must hold at all later samples as well.
        limit = float(own.input_gain @ push) / (1 - own.rate) * ROUNDING
        radius = own.error_after(self.steps, max(self._start_bound(), limit), push)
        return StateError.stated(radius * ROUNDING, own.metric)

    def _own_jump(self) -> StateError | None:
        return self._largest_innovation if self._complete else None

    @cached_property
    def _largest_innovation(self) -> StateError:
        _, own, residual = self._parts()
        radius = innovation_radius(self.system, self.gain, self.error, self.input_error, residual)
        return StateError.stated(radius, own.metric)

    def _parts(self) -> tuple[ContractionCertificate, ContractionCertificate, Array]:
        model, own, residual = self._certificate(), self.observer_contraction, self.residual_bound
        if own is None or residual is None:
            raise SettingError("the error of a StateObserver needs observer_contraction and residual_bound: pass both")
        return model, own, residual

    def _start_bound(self) -> float:
        return self._stretches[1] * self._reach()

    def _bound_after(self, bound: float, *, gap: bool) -> float:
        """Bound on the error one sample after it was ``bound``, in the observer's metric."""
        model, own, residual = self._parts()
        if not gap:
            return own.error_after(1, bound, np.concatenate([self.input_error, residual]))
        to_model, to_own = self._stretches
        there = to_model * bound
        return to_own * model.error_after(1, there, self.input_error)

    def c_table(self) -> ObserverTable:
        """Numbers of the certified error that C code needs; see `Observer.c_table`."""
        nothing, nx = np.zeros(self.predictor.ny), self.predictor.nx
        if not self._complete:
            found = InnovationTable(
                kept=0.0,
                added=0.0,
                kept_in_gap=0.0,
                added_in_gap=0.0,
                to_own=1.0,
                metric=np.eye(nx),
                readings_kept=nothing,
                readings_added=nothing,
            )
            return replace(super().c_table(), certified=False, promised=0.0, innovation=found)
        # The bound grows by an affine rule, which its values at 0 and 1 tell.
        (zero, one), (zero_gap, one_gap) = (
            [self._bound_after(start, gap=gap) for start in (0.0, 1.0)] for gap in (False, True)
        )
        kept, added = self._largest_readings
        found = InnovationTable(
            kept=one - zero,
            added=zero,
            kept_in_gap=one_gap - zero_gap,
            added_in_gap=zero_gap,
            to_own=self._stretches[1],
            metric=self._parts()[1].metric,
            readings_kept=kept,
            readings_added=added,
        )
        return replace(super().c_table(), certified=True, promised=self.error.radius, innovation=found)

    @cached_property
    def _stretches(self) -> tuple[float, float]:
        """Factors on a radius for changing from the observer's metric to the model's, and back."""
        model, own, _ = self._parts()
        return stretch(model.metric, own.metric), stretch(own.metric, model.metric)

    def describe(self) -> str:
        """One line for reports; see `Observer.describe`."""
        text = "no certified error, no certified jump: pass contraction, observer_contraction and residual_bound"
        if self._complete:
            text = f"certified 2-norm error {self.error.euclidean:.3g}{self._jump_text()}"
        return f"innovation observer, used after {self.steps} steps; {text}"
