"""Parts of a report: plain results of every stage of the road, each of which may be missing.

Results of `mpc` are taken as what they offer, not by their class: this package stands below it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from controlrnn.certification import Certificate
from controlrnn.checks import Array, as_array, items, put, read_only, shown
from controlrnn.data import DataReport, Dataset, Signal
from controlrnn.errors import SettingError, ShapeError
from controlrnn.systems import GatedSystem, LureSystem
from controlrnn.typed import typed

if TYPE_CHECKING:  # torch takes seconds to import, and a report of loops needs none
    from controlrnn.certification import Attack
    from controlrnn.greybox import GreyBoxFit
    from controlrnn.identification import BestFit, FitResult, ResidualTest


@runtime_checkable
class Promising(Protocol):
    """Anything that says what it promises: `mpc.ModelError`, a closed-loop calibration."""

    @property
    def promise(self) -> str:
        """Text of what holds."""

    @property
    def digest(self) -> str:
        """SHA-256 of everything that is stored."""


@runtime_checkable
class Tightened(Promising, Protocol):
    """A tightening in parts: `mpc.Tightening`."""

    @property
    def model_error(self) -> Array:
        """Calibrated part, shape (N + 1, ny)."""

    @property
    def reinitialisation(self) -> Array:
        """Certified effect of the estimate's error."""

    @property
    def input_error(self) -> Array:
        """Certified effect of input errors."""

    @property
    def growth(self) -> Array | None:
        """What recursive feasibility adds."""

    @property
    def execution(self) -> Array | None:
        """Proven effect of rounding."""

    @property
    def digests(self) -> dict[str, str]:
        """Digests of the sources."""

    @property
    def premises(self) -> Any:
        """Premises, or None."""

    @property
    def total(self) -> Array:
        """Sum of the parts, shape (N + 1, ny)."""

    @property
    def predictive(self) -> Array:
        """The sum without growth."""


@runtime_checkable
class Observing(Protocol):
    """A state observer: `mpc.Observer`."""

    @property
    def promise(self) -> str:
        """Text of what holds of the estimate."""

    def describe(self) -> str:
        """One line for reports."""


@runtime_checkable
class Loop(Protocol):
    """One closed loop: `mpc.ClosedLoopResult`."""

    @property
    def y(self) -> Array:
        """True outputs, shape (steps + 1, ny)."""

    @property
    def u(self) -> Array:
        """Inputs, shape (steps, nu)."""

    @property
    def reference(self) -> Array:
        """Set points, shape (steps + 1, ny)."""

    @property
    def bounds(self) -> Array:
        """Tightening, shape (N + 1, ny)."""

    @property
    def lower(self) -> Array:
        """Lower limits, shape (ny,)."""

    @property
    def upper(self) -> Array:
        """Upper limits, shape (ny,)."""

    @property
    def certified(self) -> NDArray[np.bool_]:
        """Whether each step was certified, shape (steps,)."""

    @property
    def cost(self) -> float:
        """Tracking and move cost."""

    @property
    def dt(self) -> float:
        """Sample time [s]."""

    @property
    def names(self) -> tuple[str, ...]:
        """Labels of outputs, then inputs."""

    @property
    def steps(self) -> int:
        """Number of control steps."""

    @property
    def violations(self) -> int:
        """Samples at which some output is outside its limits."""

    @property
    def max_violation(self) -> float:
        """Largest violation."""

    @property
    def realised(self) -> Array:
        """Largest prediction error per step and output, shape (N + 1, ny)."""

    @property
    def error_use(self) -> Array:
        """Prediction errors over their bounds, shape (steps, N + 1, ny)."""

    @property
    def times(self) -> dict[str, float]:
        """Time per step [s]."""


@runtime_checkable
class Loops(Protocol):
    """Several closed loops: `mpc.MonteCarloResult`."""

    @property
    def results(self) -> tuple[Any, ...]:
        """The runs."""

    def summary(self) -> dict[str, float | int]:
        """Numbers for a table."""


@dataclass(frozen=True, kw_only=True, eq=False)
@typed(unchecked=("model_error", "tightening", "observer", "promises", "loops", "attack", "fit", "residuals"))
class Parts:
    """Results that a report is made of; what is left out is not in it.

    Args:
        title: Heading of the report.
        about: What has to be decided, in one or two sentences.
        inputs: Inputs with their limits; those of the data when left out.
        outputs: Outputs with their limits; those of the data when left out.
        data: The records.
        checked: From `controlrnn.data.check_data`.
        fit: From `identify_best`, `identify` or `fit_equations`.
        baselines: Other models by name, to be scored on the same records.
        residuals: From `check_residuals`; made from the test records when left out.
        certificates: Certificates by what they are called. Those of the model are verified while the report is made.
        attack: Differences of the predictions' outputs that an attack reached, shape (N + 1, ny), or its result.
        realised: Largest prediction errors met on records, shape (N + 1, ny), NaN where none was.
        model_error: From `mpc.calibrate`.
        observer: The observer.
        tightening: From `mpc.tighten` or `mpc.make_recursive`.
        promises: Other parts that promise something, by what they are called.
        loops: Closed loops by what their controllers are called: `mpc.ClosedLoopResult` or `mpc.MonteCarloResult`.
        files: Name of the file of each part, by what it is called.
        verify: Commands that verify these files.
        notes: More to know, by what it is about.

    Raises:
        SettingError: A part is not what it should be.
        ShapeError: Parts are of different numbers of channels or steps.
    """

    title: str
    about: str = ""
    inputs: Sequence[Signal] = ()
    outputs: Sequence[Signal] = ()
    data: Dataset | None = None
    checked: DataReport | None = None
    fit: BestFit | FitResult | GreyBoxFit | None = None
    baselines: Mapping[str, LureSystem | GatedSystem] = field(default_factory=dict)
    residuals: ResidualTest | None = None
    certificates: Mapping[str, Certificate] = field(default_factory=dict)
    attack: Attack | Array | None = None
    realised: Array | None = None
    model_error: Promising | None = None
    observer: Observing | None = None
    tightening: Tightened | None = None
    promises: Mapping[str, Promising] = field(default_factory=dict)
    loops: Mapping[str, Loop | Loops] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    verify: Sequence[str] = ()
    notes: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, kind, what in (
            ("model_error", Promising, "mpc.calibrate"),
            ("observer", Observing, "mpc.Washout(...)"),
            ("tightening", Tightened, "mpc.tighten"),
        ):
            if getattr(self, name) is not None:
                _like(name, getattr(self, name), (kind,), what)
        for name, one in _named("promises", self.promises).items():
            _like(f"promises[{name!r}]", one, (Promising,), "mpc.calibrate")
        for name, loop in _named("loops", self.loops).items():
            _like(f"loops[{name!r}]", loop, (Loop, Loops), "mpc.run_closed_loop or mpc.monte_carlo")
        for name, certificate in _named("certificates", self.certificates).items():
            _like(f"certificates[{name!r}]", certificate, (Certificate,), "certify_horizon and others")
        for name, model in _named("baselines", self.baselines).items():
            _like(f"baselines[{name!r}]", model, (LureSystem, GatedSystem), "identify_subspace(...).system")
        if self.fit is not None and not isinstance(getattr(self.fit, "system", None), LureSystem | GatedSystem):
            raise SettingError(
                f"fit must be a result of identify_best, identify or fit_equations, got {shown(self.fit)}"
            )
        if self.residuals is not None and not hasattr(self.residuals, "cross_outside"):
            raise SettingError(f"residuals must be from check_residuals, got {shown(self.residuals)}")
        self._settle()

    def _settle(self) -> None:
        """Fill in channels and arrays, and check that they fit together."""
        first = None if self.data is None else self.data.all[0]
        inputs = tuple(self.inputs) or (() if first is None else first.inputs)
        outputs = tuple(self.outputs) or (() if first is None else first.outputs)
        attack = getattr(self.attack, "differences", self.attack)
        ny: int | str = len(outputs) or "ny"
        put(
            self,
            inputs=inputs,
            outputs=outputs,
            attack=None if attack is None else read_only(as_array("attack", attack, ("N + 1", ny))),
            realised=None
            if self.realised is None
            else read_only(as_array("realised", self.realised, ("N + 1", ny), finite=False)),
        )
        if outputs and self.tightening is not None and self.tightening.total.shape[1] != len(outputs):
            raise ShapeError(
                f"tightening must be of {len(outputs)} outputs, got {self.tightening.total.shape[1]}: name its outputs"
            )

    @property
    def system(self) -> LureSystem | GatedSystem | None:
        """The model that the report is about."""
        return None if self.fit is None else self.fit.system

    def name(self, i: int) -> str:
        """Name of an output.

        Args:
            i: Its number.
        """
        return self.outputs[i].name if i < len(self.outputs) else f"y{i + 1}"

    def unit(self, i: int) -> str:
        """Unit of an output.

        Args:
            i: Its number.
        """
        return self.outputs[i].unit if i < len(self.outputs) else ""

    def label(self, i: int) -> str:
        """Name of an output with its unit.

        Args:
            i: Its number.
        """
        return self.outputs[i].label if i < len(self.outputs) else f"y{i + 1}"


def _like(name: str, value: Any, kinds: tuple[type, ...], source: str) -> None:
    if not isinstance(value, kinds):
        raise SettingError(f"{name} must be a result of {source}, got {shown(value)}")


def _named(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in items(name, value, object)):
        raise SettingError(f"{name} must be a mapping from names to parts, got {shown(value)}")
    return value
