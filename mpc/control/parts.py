"""Parts and state of a controller, as the modules see them that a controller is made of."""

from __future__ import annotations

from abc import ABC, abstractmethod

from numpy.typing import ArrayLike

from controlrnn.checks import Array
from mpc.calibration.region import RegionWatch
from mpc.calibration.residuals import DisturbanceFilter
from mpc.control.offset_free import OutputDisturbance
from mpc.observers.base import Observer
from mpc.predictor import Predictor
from mpc.problem.answers import Answers
from mpc.problem.ocp import Backend, OptimalControlProblem, StepData
from mpc.problem.set_points import SetPoints
from mpc.problem.settings import Mode
from mpc.promises.premises import Premises
from mpc.safety.fallback import Fallbacks
from mpc.safety.move_watch import MoveWatch
from mpc.safety.premise_watch import PremiseWatch
from mpc.safety.range_watch import RangeWatch
from mpc.tightening.learnt_errors import LearntErrors
from mpc.tightening.terminal_set import TerminalSet
from mpc.tightening.tightening import Tightening


class ControllerParts(ABC):
    """Declares the attributes that `mpc.TightenedMPC` fills, so that its parts need not import it."""

    predictor: Predictor
    observer: Observer
    tightening: Tightening
    terminal: TerminalSet | None
    premises: Premises
    problem: OptimalControlProblem
    backend: Backend
    filter: DisturbanceFilter
    disturbance: OutputDisturbance
    set_points: SetPoints
    region_watch: RegionWatch | None
    premise_watch: PremiseWatch
    range_watch: RangeWatch
    move_watch: MoveWatch
    learnt_errors: LearntErrors | None
    horizon: int
    mode: Mode
    safe_input: Array
    last_data: StepData | None
    _answers: Answers
    _fallbacks: Fallbacks
    _measured_inputs: list[int]
    _wider: tuple[Array, Array] | None
    _lower: Array
    _upper: Array
    # What is remembered from sample to sample.
    _previous: Array | None
    _plan: Array | None
    _forecast: Array | None
    _came_from: tuple[Array, Array] | None
    _age: int
    _doubted: bool

    @property
    @abstractmethod
    def _span(self) -> Array:
        """Widths of the actuators' ranges, shape (nu,)."""

    @abstractmethod
    def reset(self) -> None:
        """Forget all samples."""

    @abstractmethod
    def _measurement(self, y: ArrayLike) -> Array:
        """Readings (ny,), checked; NaN for missing ones."""

    @abstractmethod
    def _reference(self, reference: ArrayLike) -> Array:
        """Set points over the horizon, shape (N + 1, ny)."""

    @abstractmethod
    def _data(self, x: Array, wanted: Array) -> StepData:
        """Data of one optimal control problem, from state x (nx,) and set points (N + 1, ny)."""

    @abstractmethod
    def _shifted(self, plan: Array) -> Array:
        """Plan (N, nu) as seen from the present sample, its last input held."""

    @abstractmethod
    def _feasible(self, plan: Array) -> Array:
        """Clip a plan (N, nu) to input and move limits, and insert the forecast of measured inputs."""

    @abstractmethod
    def _advance(self, u: Array, y: Array, doubt: Array | None = None) -> str:
        """Take in a sample with its input u (nu,); returns a text of what lies outside the calibrated region."""

    @property
    @abstractmethod
    def u_previous(self) -> Array:
        """Input (nu,) that acts until the next one is applied."""

    @property
    @abstractmethod
    def tightened_limits(self) -> tuple[Array, Array]:
        """Lower and upper limits of readings in plans, each (N + 1, ny), before measurements widen them."""

    @abstractmethod
    def clear_estimate(self) -> None:
        """Reset estimates and what limits have learnt."""
