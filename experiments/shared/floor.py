"""Floor of a guarantee's price: a controller that knows the plant, its state and the declared sets, and keeps limits.

It is the guaranteed controller of `experiments.shared.guaranteed` without what that one has to find out. The plant's
state is told by the simulation (`KnownState`), so that nothing is left of the model's error, of re-initialisation and
of all that happened before. What remains is what nobody can know: the inputs' errors, and disturbances or residuals,
of the samples to come. Two plants:

- *declared*: the model itself; known are x* and, by the reading, the residual now. Errors of the next samples: what
  input errors do, certified from equal states, and by how much residuals may change (`mpc.ErrorMemory`).
- *physical*: the plant's own equations, traced into a system whose inputs are the plant's and its disturbances; the
  latter are commanded as zero, with their declared bound as input error. Nothing else is between it and the plant but
  the traced integration, see `Physics`.

Theorem (docs/theory/floor.md): with e a bound on |x[t+1] - f(x[t], u[t])|_P, the jump of a known state, and limits
tightened by c_1, the effect of one sample's unknowns, and c_{k+1} = c_k + l_k, l_k what is left of it k samples later,
plans that end in a terminal set can be continued for ever, and the outputs keep their limits.

On the physical plant this is the floor: no controller has to make less room for the next sample, if its limits have to
hold whatever the declared sets allow. What could be cheaper is the way back that plans keep: here inputs that are fixed
in advance, not reactions. On the declared sets it is no floor, but a comparison: there the recalling controller's
reading is exact, and tells nearly as much as the state does, while plans from a known state jump at every sample.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from controlrnn.certification import ContractionCertificate, certify_contraction, certify_gains, certify_horizon
from controlrnn.checks import Array, read_only
from controlrnn.data import Signal
from controlrnn.errors import SettingError
from controlrnn.greybox import Equations, trace
from controlrnn.kernels.dense import dot
from experiments.shared.declared_sets import Truth
from mpc import (
    ErrorMemory,
    ModelError,
    Predictor,
    StateError,
    Tightening,
    certify_changes,
    terminal_set,
)
from mpc.observers.base import Observer
from mpc.observers.state_error import ROUNDING
from mpc.tightening.terminal_set import TerminalSet, jump_digest

SMALL = 1e-3  # of the jump: error of a state that is known, so that certificates have an initial radius
SLOWER = 0.1  # of what a rate is below one: at the best rate the metric is ill conditioned
SILENT = 1e-3  # of a disturbance's bound: range in which it is "commanded", without effect


@dataclass(frozen=True, kw_only=True)
class Physics:
    """A plant's equations with its disturbances as further inputs, for a controller that knows it.

    Args:
        equations: Inputs are the plant's, then its disturbances.
        bound: Declared bounds of the disturbances, shape (nw,), in their units.
        integration: Room in each for what the traced sub-steps differ from the plant's own integration by. It is no
            proof: the largest difference of many samples has to be covered five times (tests).
    """

    equations: Equations
    bound: tuple[float, ...]
    integration: float


class KnownState(Observer):
    """The plant's own state, as the simulation tells it; its jump is what the unknowns of one sample do.

    Args:
        predictor: Model.
        contraction: Certificate of the model.
        input_error: Bound on |true - commanded input| per channel.
    """

    def __init__(self, predictor: Predictor, *, contraction: ContractionCertificate, input_error: Array) -> None:
        super().__init__(predictor, 1, contraction=contraction, input_error=input_error)

    def tell(self, x: Array) -> None:
        """Take the plant's state for the coming sample, shape (nx,)."""
        self._state = read_only(np.array(x, dtype=np.float64))

    def _pushed(self) -> float:
        return dot(self._certificate().input_gain, self.input_error) * ROUNDING

    @property
    def error(self) -> StateError:
        """Nothing, but for `SMALL`."""
        return StateError.stated(SMALL * self._pushed(), self._certificate().metric)

    def _own_jump(self) -> StateError:
        return StateError.stated(self._pushed() * (1 + SMALL), self._certificate().metric)

    def _next(self, u: Array, y: Array) -> Array:  # noqa: ARG002 -- the simulation tells the state
        return np.asarray(self.predictor.system.step(self._state, u))

    def describe(self) -> str:
        """One line for reports; see `Observer.describe`."""
        return "the plant's own state"


class Known:
    """A `Truth` that tells the controller its state, and knows its disturbances as inputs where the model does.

    Args:
        truth: The plant, with its adversaries.
        observer: The controller's own observer, a `KnownState`. The plant's first states are those of its model.

    Raises:
        SettingError: The observer is of another kind.
    """

    def __init__(self, truth: Truth, observer: Observer) -> None:
        if not isinstance(observer, KnownState):
            raise SettingError(f"observer must be a KnownState, got {type(observer).__name__}: nobody else is told")
        self.truth = truth
        self.observer = observer
        self.inputs = observer.predictor.inputs
        self._states = observer.predictor.nx
        self.dt = truth.dt
        self.outputs = truth.outputs
        self.nx = truth.nx
        self.nw = truth.nw

    def initial_state(self) -> Array:
        """State at rest."""
        x = self.truth.initial_state()
        self.observer.tell(x[: self._states])
        return x

    def step(self, x: Any, u: Any, w: Any = None) -> Array:
        """Advance one sample; what is commanded as a disturbance has no effect."""
        after = self.truth.step(x, np.asarray(u)[: len(self.truth.inputs)], w)
        self.observer.tell(after[: self._states])
        return after

    def output(self, x: Any, u: Any) -> Array:
        """True output."""
        return np.asarray(self.truth.output(x, np.asarray(u)[: len(self.truth.inputs)]))


@dataclass(frozen=True, kw_only=True, eq=False)
class Parts:
    """What the floor's controller is made of.

    Args:
        observer: Tells the state.
        tightening: Of the unknowns to come.
        terminal: End of its plans.
        moved: Bounds l_k on what one sample's unknowns do to outputs k = 0..N - 1 samples later, shape (N, ny).
        memory: What is known of residuals; None where there are none.
    """

    observer: KnownState
    tightening: Tightening
    terminal: TerminalSet
    moved: Array
    memory: ErrorMemory | None = None


def physical_parts(
    physics: Physics, inputs: tuple[Signal, ...], outputs: tuple[Signal, ...], push: Array, horizon: int, **options: Any
) -> Parts:
    """Parts of the floor on the physical plant.

    Args:
        physics: The plant's equations.
        inputs: Ranges that the controllers may use.
        outputs: The plant's outputs with their limits.
        push: Bound on input errors, shape (nu,).
        horizon: Prediction horizon N.
        **options: For the certificates.
    """
    system = trace(physics.equations).system
    more = tuple(
        Signal(s.name, s.unit, -SILENT * b, SILENT * b)
        for s, b in zip(physics.equations.inputs[len(inputs) :], physics.bound, strict=True)
    )
    pushed = np.concatenate([push, (1 + SILENT) * np.array(physics.bound) + physics.integration])
    predictor = Predictor(system, inputs + more, outputs)
    contraction = certify_contraction(system, slower=SLOWER, input_scale=pushed, output_scale=np.ones(predictor.ny))
    observer = KnownState(predictor, contraction=contraction, input_error=pushed)
    return _parts(observer, np.zeros((horizon + 1, predictor.ny)), **options)


def declared_parts(
    predictor: Predictor,
    contraction: ContractionCertificate,
    push: Array,
    error: ModelError,
    drift: ModelError,
    memory: int,
    **options: Any,
) -> Parts:
    """Parts of the floor on the declared sets.

    Args:
        predictor: The model.
        contraction: Its certificate.
        push: Bound on input errors, shape (nu,).
        error: Declared residuals.
        drift: Their declared changes.
        memory: Samples that a residual is remembered for.
        **options: For the certificates.
    """
    observer = KnownState(predictor, contraction=contraction, input_error=push)
    made = _parts(observer, error.bounds, **options)
    changes = certify_changes(observer, memory, **options)
    room, moved, N = made.tightening.predictive, made.moved, len(error.bounds) - 1
    growth = np.zeros_like(room)  # as of `mpc.make_error_memory`, with the effect of a jump by gains
    for k in range(1, N):
        growth[k + 1] = (growth[k] + 2 * moved[k]) * ROUNDING
    told = ErrorMemory(
        drift=np.maximum.accumulate(drift.bounds[1 : memory + 1]),
        change=np.array([one.bounds[k] for k, one in enumerate(changes, 1)]),
        jump=moved,
        absolute=room,
        growth=growth,
        end=np.maximum(room[N], (room[N - 1] + growth[N - 1] + moved[N - 1]) * ROUNDING),
        promise=made.tightening.promise,
        digests={"system": observer.system.digest, "tightening": made.tightening.digest},
        premises=made.tightening.premises,
    )
    return replace(made, memory=told.on_trust())


def _parts(observer: KnownState, residual: Array, **options: Any) -> Parts:
    """Tightening and terminal set for a known state; residuals (N + 1, ny) are declared and do not fall."""
    contraction, jump, horizon = observer.contraction, observer.jump, len(residual) - 1
    assert contraction is not None
    assert jump is not None
    system, error = observer.system, observer.error
    gains = certify_gains(system, horizon, metric=contraction.metric, **options)
    next_sample = certify_horizon(
        system, 1, initial_radius=error.radius, metric=error.metric, input_radius=observer.input_error, **options
    )
    for certificate in (gains, next_sample):
        certificate.verify(system)
    # What one sample's unknowns do to outputs k = 0..N - 1 samples after they have moved the state.
    moved = gains.inputs[1:] @ observer.input_error * ROUNDING
    # A prediction's error is the last sample's unknowns and what is left of those before it: the sum that (A) asks.
    room = np.zeros_like(residual)
    room[:2] = next_sample.bounds[0], np.minimum(next_sample.bounds[1], moved[0])
    for k in range(1, horizon):
        room[k + 1] = (room[k] + moved[k]) * ROUNDING
    digests = {
        "system": system.digest, "observer": observer.digest, "certificate": next_sample.digest,
        "growth": gains.digest, "jump": jump_digest(jump),
    }  # fmt: skip
    tightening = Tightening(
        model_error=residual,
        reinitialisation=np.zeros_like(residual),
        input_error=room,
        disturbance_gain=None,
        promise="deterministic given the declared sets, with the state known",
        digests=digests,
        premises=observer.premises.also(horizon=horizon),
    )
    end = terminal_set(observer.predictor, contraction, horizon=horizon, jump=jump)
    return Parts(observer=observer, tightening=tightening.on_trust(), terminal=end, moved=read_only(moved))
