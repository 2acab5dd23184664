"""Output feedback: the estimate is corrected with the measurement.

    xhat+ = f(xhat, u) + L (y - g(xhat, u))

is itself a Lur'e system with the inputs (u, y), so the certifier of models certifies it: with rate q, metric S and
gains (s_u, s_y) of that system, x* is its trajectory under (u_true, y - r) where r = y - g(x*, u) is the model's
simulation residual, hence after W steps from x0

    |x* - xhat|_S <= q^W k R0 + (1 - q^W) / (1 - q) ( sum s_u d_u + sum s_y rmax ),     k^2 = lambda_max(S, P)

with R0, d_u as in `mpc.observer`. The residual bound rmax is what the data have to give; the rest is certified.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike
from scipy.linalg import solve_discrete_are

from controlrnn.checks import Array, as_array, positive, read_only
from controlrnn.errors import SettingError
from controlrnn.systems import observer_system
from mpc.observer import ROUNDING, Observer, StateError, per_channel, stretch
from mpc.predictor import Predictor

if TYPE_CHECKING:
    from controlrnn.certification import ContractionCertificate


def kalman_gain(
    predictor: Predictor,
    *,
    output_noise_std: ArrayLike,
    input_noise_std: ArrayLike = 0.0,
    state_noise_std: float = 0.0,
    u: ArrayLike | None = None,
) -> Array:
    """Innovation gain (nx, ny) of the steady-state Kalman filter of the model linearised at an equilibrium.

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
    Q = spread @ spread.T + positive("state_noise_std", state_noise_std, zero=True) ** 2 * np.eye(predictor.nx)
    noise = per_channel("output_noise_std", output_noise_std, predictor.ny)
    if not (noise > 0).all() or not Q.any():
        raise SettingError(
            "a Kalman gain needs output_noise_std > 0 and input_noise_std or state_noise_std > 0: their ratio counts"
        )
    try:
        P = solve_discrete_are(A.T, C.T, Q, np.diag(noise**2))
    except (np.linalg.LinAlgError, ValueError) as error:
        raise SettingError(f"no stabilising Kalman gain at u = {point}: {error}; is the model detectable?") from error
    return np.asarray(np.linalg.solve(C @ P @ C.T + np.diag(noise**2), C @ P @ A.T).T)


class StateObserver(Observer):
    """Innovation observer with a constant gain.

    A sample with a missing measurement (NaN) skips the innovation: the estimate then runs open loop, where the model's
    certificate holds instead of the observer's. The bound is carried along, changing metric at both ends of the gap
    (which costs the metrics' condition), and `certified` is False while it exceeds `error`.

    Args:
        predictor: Model.
        gain: L, shape (nx, ny), e.g. from `kalman_gain`.
        steps: Samples before the estimate may be used.
        residual_bound: Bound rmax on |y - g(x*, u)| per output, shape (ny,); needed for the certified error.
        initial_state: Start of the estimate; the equilibrium at the middle of the actuators' range when left out.
        contraction: Certificate of the *model* (radius of its reachable set).
        observer_contraction: Certificate of `observer_system(system, gain)`.
        input_error: Bound on |true - recorded input| per channel.

    Raises:
        CertificationError: A certificate does not belong to the system that it is passed for.
    """

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
    ) -> None:
        self.gain = read_only(as_array("gain", gain, (predictor.nx, predictor.ny)))
        self.dynamics = observer_system(predictor.system, self.gain)
        if observer_contraction is not None:
            observer_contraction.verify(self.dynamics)
        self.observer_contraction = observer_contraction
        self.residual_bound = (
            None if residual_bound is None else per_channel("residual_bound", residual_bound, predictor.ny)
        )
        super().__init__(
            predictor, steps, initial_state=initial_state, contraction=contraction, input_error=input_error
        )

    def start(self) -> None:
        """Forget everything."""
        super().start()
        self._bound = self._start_bound() if self._complete else np.inf

    @property
    def _complete(self) -> bool:
        parts = (self.contraction, self.observer_contraction, self.residual_bound)
        return all(part is not None for part in parts)

    def _arrays(self) -> dict[str, Array]:
        return {"gain": self.gain}

    def _next(self, u: Array, y: Array) -> Array:
        gap = bool(np.isnan(y).any())
        if self._complete:
            self._bound = self._bound_after(gap)
        if gap:
            return np.asarray(self.system.step(self._state, u))
        return np.asarray(self.dynamics.step(self._state, np.concatenate([u, y])))

    @property
    def certified(self) -> bool:
        """See `Observer.certified`; False as well until the effect of a gap in the measurements has faded."""
        return self.ready and self._complete and self._bound <= self.error.radius

    @property
    def error(self) -> StateError:
        """The certified error; see the module docstring.

        Raises:
            SettingError: One of the two certificates or the residual bound was not given.
        """
        _, own, residual = self._parts()
        radius = own.error_after(self.steps, self._start_bound(), np.concatenate([self.input_error, residual]))
        return StateError(radius * ROUNDING, own.metric)

    def _parts(self) -> tuple[ContractionCertificate, ContractionCertificate, Array]:
        model, own, residual = self._certificate(), self.observer_contraction, self.residual_bound
        if own is None or residual is None:
            raise SettingError("the error of a StateObserver needs observer_contraction and residual_bound: pass both")
        return model, own, residual

    def _start_bound(self) -> float:
        model, own, _ = self._parts()
        return stretch(own.metric, model.metric) * self._reach()

    def _bound_after(self, gap: bool) -> float:
        model, own, residual = self._parts()
        if not gap:
            return own.error_after(1, self._bound, np.concatenate([self.input_error, residual]))
        there = stretch(model.metric, own.metric) * self._bound
        return stretch(own.metric, model.metric) * model.error_after(1, there, self.input_error)

    def describe(self) -> str:
        """See `Observer.describe`."""
        text = f"certified 2-norm error {self.error.euclidean:.3g}" if self._complete else "no certified error"
        return f"innovation observer, used after {self.steps} steps; {text}"
