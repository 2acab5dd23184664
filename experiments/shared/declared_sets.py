"""Plants for trying a guarantee: all declared unknowns are drawn from their sets, or lie at the sets' edge.

Declared are, at every sample: the residual |y - g(x*, u)| <= r per output, by how much it changes within k samples
(noise is part of both, as in the records that they come from), the error |true - commanded input| <= d per
channel, and the state that the washout starts from, anywhere in a ball. Two plants use them up:

- `DeclaredTruth` is the model itself with residuals on its outputs: here a theorem must hold without exception;
- `PhysicalTruth` is the plant with its unmeasured disturbances, where the residual is what it is.

A run's unknowns are rows of numbers in [-1, 1] drawn from the run's seed. What an adversary decides by looking (which
limit is near, what moves the output there) is decided at the sample. Its worst directions are those of the model
linearised at the limit; a bang-bang input error in step with the pulse response is the worst one of a linear model.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, ClassVar

import numpy as np

from controlrnn.certification import ContractionCertificate
from controlrnn.checks import Array
from controlrnn.data import Signal
from experiments.shared.declared_c import DECLARED, PHYSICAL, truth_code
from mpc import Predictor, StateError, Washout, steady_input
from mpc.loops.plant import Plant
from mpc.observers.state_error import ROUNDING

MEMORY = 60  # samples of pulse response that a switching adversary plays


class Kind(IntEnum):
    """How a run's unknowns are chosen."""

    RANDOM = 0
    """Anywhere in their sets: levels held for 1 to 30 samples, restarts anywhere in the ball."""
    CONSTANT = 1
    """At a corner of their sets, always the same."""
    OUTWARD = 2
    """At the edge, always such that the output moves towards its nearer limit and the estimate lags behind."""
    SWITCHING = 3
    """At the edge, first holding the output back, then letting it go; input errors in step with the pulse response."""


class AnywhereWashout(Washout):
    """A washout that starts from any state within a ball about ``initial_state``, a new one at every sample.

    With x_c the centre, m the largest |f(x_c, u) - x_c|, s the ball's radius and z, z' two starts: |z' - f(z, u)| <=
    s + m + p s, of which W steps leave the share p^W: the jump (compare `mpc.observers.base`).

    Args:
        predictor: Model.
        steps: Samples W that are washed in.
        contraction: Certificate of the model.
        input_error: Bound on |true - recorded input| per channel.
        spread: Radius s in the certificate's metric; None takes the reachable one, so that any state may be the start.
    """

    def __init__(
        self,
        predictor: Predictor,
        steps: int,
        *,
        contraction: ContractionCertificate,
        input_error: float,
        spread: float | None = None,
    ) -> None:
        self._spread = 0.0
        self.offset: Array = np.zeros(predictor.nx)
        super().__init__(predictor, steps, contraction=contraction, input_error=input_error)
        self._spread = self._reach() if spread is None else spread

    @property
    def spread(self) -> float:
        """Radius of the ball of starts."""
        return self._spread

    @property
    def jump(self) -> StateError:
        """Bound on the jump of the estimate; see `Observer.jump`."""
        certificate = self._certificate()
        centred = super().jump
        assert centred is not None
        moved = (1 + certificate.rate) * self._spread * certificate.rate**self.steps * ROUNDING
        return StateError.stated(centred.needed_in(certificate.metric) + moved, certificate.metric)

    def start(self) -> None:
        """Start a new run; see `Observer.start`."""
        super().start()
        self.offset = np.zeros(self.predictor.nx)

    def _reach(self) -> float:
        return super()._reach() + self._spread

    def _arrays(self) -> dict[str, Array]:
        return {"spread": np.array(self._spread)}

    def _next(self, u: Array, y: Array) -> Array:  # noqa: ARG002 -- open loop: the measurement is not used
        self._record = np.vstack([self._record, u])[-self.steps :]
        if len(self._record) < self.steps:
            return self._state  # nobody may use it yet
        return np.asarray(self.predictor.states(self.initial_state + self.offset, self._record)[-1])


@dataclass(frozen=True)
class Unknowns:
    """Layout of a row of unknowns: plant disturbances, residual (ny), input error (nu), restart (nx), kind."""

    plant: int
    ny: int
    nu: int
    nx: int

    def split(self, row: Array) -> tuple[Array, Array, Array, Array, Kind]:
        """Split a row into its parts."""
        ends = np.cumsum([self.plant, self.ny, self.nu, self.nx])
        plant, residual, push, restart, kind = np.split(row, ends)
        return plant, residual, push, restart, Kind(int(kind[0]))

    def draw(self, rng: np.random.Generator, pulses: Array, steps: int) -> Array:
        """Draw the rows of one run without the plant's part, shape (steps, ny + nu + nx + 1).

        Half of the runs are random, the others one of the three adversaries. Runs start at rest: all levels of the
        first row are zero. ``pulses`` (MEMORY, nu) are the signs of the pulse response from inputs to the limited
        output.
        """
        kind = Kind.RANDOM if rng.random() < 0.5 else Kind(int(rng.integers(1, 4)))
        free = self.ny + self.nu
        restart = rng.standard_normal((steps, self.nx))
        restart /= np.linalg.norm(restart, axis=1, keepdims=True)
        if kind is Kind.RANDOM:
            levels = np.column_stack([held(rng, steps) for _ in range(free)])
            restart *= rng.random((steps, 1)) ** (1 / self.nx)
        elif kind is Kind.CONSTANT:
            levels = np.tile(rng.choice([-1.0, 1.0], free), (steps, 1))
            restart = np.tile(restart[:1], (steps, 1))
        elif kind is Kind.OUTWARD:
            levels, restart = np.ones((steps, free)), np.ones((steps, self.nx))
        else:
            period = int(rng.integers(4, MEMORY))
            turn = np.arange(steps) + int(rng.integers(period))
            let_go = np.where(turn % period < period // 2, -1.0, 1.0)
            # The pulse at lag k meets the target at the end of the period.
            in_step = pulses[(period - 1 - turn % period)]
            levels = np.column_stack([np.tile(let_go[:, None], (1, self.ny)), in_step])
            restart = np.tile(np.where(turn % 2, 1.0, -1.0)[:, None], (1, self.nx))
        levels[0] = 0.0
        return np.column_stack([levels, restart, np.full(steps, float(kind))])


def held(rng: np.random.Generator, steps: int, most: int = 30) -> Array:
    """Draw uniform levels in [-1, 1], each held for 1 to ``most`` samples, shape (steps,)."""
    holds = rng.integers(1, most + 1, steps)
    return np.repeat(rng.uniform(-1, 1, steps), holds)[:steps]


def wandering(rng: np.random.Generator, steps: int, size: float, channels: int, memory: float = 20.0) -> Array:
    """Draw unmeasured disturbances, shape (steps, channels): AR(1), cut at 3 standard deviations, first zero."""
    keep, w = float(np.exp(-1 / memory)), np.zeros((steps, channels))
    w[1:] = np.sqrt(1 - keep**2) * rng.standard_normal((max(steps - 1, 0), channels))
    for t in range(1, steps):
        w[t] += keep * w[t - 1]
    return np.asarray(size * np.clip(w, -3, 3))


class Truth(ABC):
    """A plant whose unknowns come in rows of `Unknowns`; it also sets where the washout starts.

    Args:
        plant: Gives channels and limits, and the physics where they are used.
        observer: The controller's observer.
        push: Bound d on input errors, shape (nu,).
        residual: Bound r on residuals, shape (ny,).
        drift: Bounds on their changes within k = 1..K samples, shape (K, ny), not decreasing.
        disturbances: Number of plant disturbances in a row.
        limited: Output whose limits an adversary aims at.
        held: Input of the steady state that runs start from, shape (nu,).
    """

    def __init__(
        self,
        plant: Plant,
        observer: AnywhereWashout,
        *,
        push: Array,
        residual: Array,
        drift: Array,
        disturbances: int,
        limited: int,
        held: Array,
    ) -> None:
        self.drift = drift
        self.plant = plant
        self.observer = observer
        self.push = push
        self.residual = residual
        self.limited = limited
        self.held = held
        model = observer.predictor
        self.dt = plant.dt
        self.inputs = plant.inputs
        self.outputs = plant.outputs
        self.unknowns = Unknowns(disturbances, model.ny, model.nu, model.nx)
        self.pulses, self._outward, self._behind, self._root = worst_directions(observer, plant.outputs, limited)
        signal = plant.outputs[limited]
        self._middle = 0.5 * (signal.lower + signal.upper)

    #: C code of the plant says where the controller's washout starts.
    restarts = True
    BODY: ClassVar[str]

    @property
    def nw(self) -> int:
        """Numbers in a row of unknowns."""
        return self.unknowns.plant + self.unknowns.ny + self.unknowns.nu + self.unknowns.nx + 1

    @property
    @abstractmethod
    def nx(self) -> int:
        """Number of states."""

    @abstractmethod
    def initial_state(self) -> Array:
        """State at rest."""

    @abstractmethod
    def step(self, x: Any, u: Any, w: Any = None) -> Array:
        """Advance one sample; see `pushed`."""

    @abstractmethod
    def output(self, x: Any, u: Any) -> Array:
        """True output."""

    def c_code(self, name: str) -> str:
        """C source of the plant; see `mpc.loops.compiled.engine`."""
        return truth_code(name, self, self.BODY)

    def pushed(self, y: Array, u: Array, row: Array) -> tuple[Array, Array, Array]:
        """True input, residual in units, and plant disturbances of a row; also sets the washout's next start."""
        plant, residual, push, restart, kind = self.unknowns.split(row)
        side = 1.0 if y[self.limited] >= self._middle else -1.0
        if kind is Kind.OUTWARD:
            residual, push, restart = side * residual, side * push * self._outward, -side * self._behind
        elif kind is Kind.SWITCHING:
            residual, push, restart = side * residual, side * push, restart * self._behind
        self.observer.offset = np.asarray(self.observer.spread * np.linalg.solve(self._root, restart), dtype=np.float64)
        return u + self.push * push, self.residual * residual, plant


class DeclaredTruth(Truth):
    """The model as the plant, with declared residuals.

    The state is x* and the last K residuals, the newest first.
    """

    BODY = DECLARED

    @property
    def nx(self) -> int:
        """Number of states of the model and of stored residuals."""
        return self.observer.predictor.nx + self.drift.size

    def initial_state(self) -> Array:
        """State at rest, without a residual."""
        return np.concatenate([self.observer.predictor.equilibrium(self.held), np.zeros(self.drift.size)])

    def step(self, x: Any, u: Any, w: Any = None) -> Array:
        """Advance one sample; see `Truth.pushed`.

        Residuals go where they are wanted as fast as their drift allows.
        """
        n, past = self.observer.predictor.nx, self._past(x)
        true, wanted, _ = self.pushed(self.output(x, u), np.asarray(u), np.asarray(w))
        residual = np.clip(wanted, (past - self.drift).max(axis=0), (past + self.drift).min(axis=0))
        return np.concatenate([self.observer.system.step(x[:n], true), residual, past[:-1].ravel()])

    def output(self, x: Any, u: Any) -> Array:
        """Output g(x*, u) plus the residual."""
        return np.asarray(self.observer.system.output(x[: self.observer.predictor.nx], u) + self._past(x)[0])

    def _past(self, x: Any) -> Array:
        return np.asarray(x[self.observer.predictor.nx :]).reshape(self.drift.shape)


class PhysicalTruth(Truth):
    """The plant with its own disturbances and inexact actuators."""

    BODY = PHYSICAL

    def __init__(self, plant: Any, observer: AnywhereWashout, **options: Any) -> None:
        super().__init__(plant, observer, **options)
        self._rest = np.asarray(plant.equilibrium(self.held))

    @property
    def nx(self) -> int:
        """Number of states of the plant."""
        return self.plant.nx

    def initial_state(self) -> Array:
        """State of the plant at rest."""
        return self._rest

    def step(self, x: Any, u: Any, w: Any = None) -> Array:
        """Advance one sample; see `Truth.pushed`."""
        true, _, disturbance = self.pushed(self.output(x, u), np.asarray(u), np.asarray(w))
        if not disturbance.any() and np.array_equal(true, self.held) and np.array_equal(x, self._rest):
            return self._rest  # that is what a steady state is; a warm-up need not integrate it
        low, high = (np.array([getattr(s, side) for s in self.inputs]) for side in ("lower", "upper"))
        return self.plant.step(x, np.clip(true, low, high), disturbance)

    def output(self, x: Any, u: Any) -> Array:
        """True output."""
        return np.asarray(self.plant.output(x, u))


def worst_directions(
    observer: AnywhereWashout, outputs: tuple[Signal, ...], limited: int
) -> tuple[Array, Array, Array, Array]:
    """Directions in which an adversary that knows the model pushes one output to its upper limit.

    Returns:
        Signs of the pulse response (MEMORY, nu); of the static gain (nu,); the restart, in the unit ball, after which
        the estimate is highest (nx,); R with R'R = P.
    """
    model = observer.predictor
    target = np.array([np.clip(s.upper, -1e3, 1e3) for s in outputs])
    scale = np.where(np.arange(model.ny) == limited, 1.0, 1e3)
    u = steady_input(model, target, scale)
    A, B, C, _ = model.linearise(model.equilibrium(u), u)
    row, pulses = C[limited], []
    for _ in range(MEMORY):
        pulses.append(row @ B)
        row = row @ A
    gain = C[limited] @ np.linalg.solve(np.eye(model.nx) - A, B)
    root = np.linalg.cholesky(observer.restart.metric).T
    seen = np.linalg.solve(root.T, C[limited] @ np.linalg.matrix_power(A, observer.steps + 1))
    behind = seen / np.linalg.norm(seen) if seen.any() else np.eye(model.nx)[0]
    return np.sign(pulses), np.sign(gain), np.asarray(behind, dtype=np.float64), np.asarray(root, dtype=np.float64)
