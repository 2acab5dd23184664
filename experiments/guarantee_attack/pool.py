"""Random systems with everything a guarantee asks for: what `experiments.guarantee_attack` is made against.

Nothing is identified or calibrated: residuals, their drift, input and command errors are *declared*, so that an
adversary knows exactly what it may use up. Certificates are the library's own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from controlrnn.certification import ContractionCertificate, certify_contraction, certify_horizon
from controlrnn.checks import Array
from controlrnn.data import Scaler, Signal
from controlrnn.errors import CertificationError, ControlRnnError
from controlrnn.identification.states.encoder import StateEncoder
from controlrnn.systems import Activation, LureSystem, observer_system
from experiments.shared.declared_probability import declared_error
from mpc import (
    EncoderObserver,
    ErrorMemory,
    MovingHorizonObserver,
    Predictor,
    RunningOn,
    SolverOptions,
    StateObserver,
    TightenedMPC,
    Tightening,
    Washout,
    certify_changes,
    kalman_gain,
    make_error_memory,
    make_recursive,
    terminal_set,
    tighten,
)
from mpc.control.settings import grouped
from mpc.observers.base import Observer
from mpc.tightening.terminal_set import TerminalSet

OBSERVERS = ("washout", "running on", "innovation", "moving horizon", "encoder")
MODELS = ("elman", "layers", "feedthrough", "through neurons")
N, MOVES, K = 6, 3, 2
DRIFT, NOISE = 0.25, 0.2  # of the residual bound: its change per sample, and what readings alone have of it
_TRIES = 20


@dataclass(frozen=True, kw_only=True, eq=False)
class Spec:
    """What a member of the pool is like.

    Args:
        observer: One of `OBSERVERS`.
        model: One of `MODELS`.
        ny: Outputs.
        nu: Inputs.
        terminal: Whether plans end in a terminal set, with hard limits.
        recalls: Whether limits learn from measurements.
        soft: Whether limits are soft, where there is no terminal set.
        inexact: Whether inputs and commands have errors.
        rti: Iterations after which a plan counts as a solution; 0: it has to converge.
    """

    observer: str
    model: str
    ny: int
    nu: int
    terminal: bool
    recalls: bool
    soft: bool
    inexact: bool
    rti: int

    @classmethod
    def of(cls, index: int) -> Spec:
        """The ``index``-th: all observers and models come up with all the rest."""
        observer, turn = OBSERVERS[index % len(OBSERVERS)], index // len(OBSERVERS)
        terminal = turn % 3 != 1
        return cls(
            observer=observer,
            model=MODELS[(index + turn) % len(MODELS)],
            ny=1 + (turn + index) % 3,
            nu=1 + (index // 2 + turn) % 2,
            terminal=terminal,
            recalls=terminal and turn % 2 == 0,
            soft=turn % 2 == 0,
            inexact=(turn + index // 2) % 3 == 0,
            rti=0 if index % 7 == 3 else 2,
        )

    @property
    def name(self) -> str:
        """In words."""
        kind = "recall" if self.recalls else "terminal" if self.terminal else "soft" if self.soft else "hard"
        return f"{self.observer}, {self.model}, {self.nu}x{self.ny}, {kind}{', inexact' if self.inexact else ''}"


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """A system with its controller's parts.

    Args:
        spec: What it is like.
        predictor: Model with limits.
        contraction: Its certificate.
        make: Makes a fresh observer.
        tightening: What limits are tightened by.
        terminal: The terminal set, or None.
        error_memory: What measurements say, or None.
        residual: Declared bound on |reading - output of the model's own state|, shape (ny,).
        noise: The share of the residual that only the reading has, not the plant's output, shape (ny,).
        input_error: Declared, shape (nu,).
        command_error: Declared, shape (nu,).
    """

    spec: Spec
    predictor: Predictor
    contraction: ContractionCertificate
    make: Callable[[], Observer]
    tightening: Tightening
    terminal: TerminalSet | None
    error_memory: ErrorMemory | None
    residual: Array
    noise: Array
    input_error: Array
    command_error: Array

    def controller(self, **options: Any) -> TightenedMPC:
        """A fresh controller."""
        settings: dict[str, Any] = {"output_weight": 1.0 / self.half**2, "input_move_weight": 0.02}
        settings["control_horizon"] = MOVES
        settings |= {"terminal": self.terminal, "error_memory": self.error_memory} if self.terminal is not None else {}
        settings |= {"soft": self.spec.soft} if self.terminal is None else {}
        settings |= {"options": SolverOptions(rti=self.spec.rti)}
        return TightenedMPC(self.predictor, self.make(), self.tightening, **grouped(settings | options))

    def drifted(self, steps: int) -> Array:
        """Declared bound on the residual's change within some samples, shape (ny,): noise may turn around at once."""
        return np.asarray(min(DRIFT * steps + 2 * NOISE, 2.0) * (steps > 0) * self.residual)

    @property
    def limits(self) -> Array:
        """Limits of outputs, shape (2, ny)."""
        return np.array([[s.lower for s in self.predictor.outputs], [s.upper for s in self.predictor.outputs]])

    @property
    def half(self) -> Array:
        """Half their distance, shape (ny,)."""
        return np.asarray(0.5 * (self.limits[1] - self.limits[0]))


def random_model(rng: np.random.Generator, spec: Spec) -> LureSystem:
    """A system that contracts in practice."""
    layers = (2, 2) if spec.model == "layers" else (3,)
    nx, nv = 3, sum(layers)
    if spec.model == "elman":
        nv, layers = nx, (nx,)

    def matrix(rows: int, columns: int, size: float) -> Array:
        M = rng.standard_normal((rows, columns))
        return np.asarray(size * M / np.linalg.norm(M, 2))

    starts = np.repeat(np.cumsum([0, *layers[:-1]]), layers).astype(int)
    elman, through = spec.model == "elman", spec.model == "through neurons"
    return LureSystem(
        A=np.zeros((nx, nx)) if elman else matrix(nx, nx, rng.uniform(0.4, 0.75)),
        B1=np.eye(nx) if elman else matrix(nx, nv, 0.4),
        B2=np.zeros((nx, spec.nu)) if elman else matrix(nx, spec.nu, 0.5),
        bx=np.zeros(nx) if elman else 0.1 * rng.standard_normal(nx),
        C1=matrix(nv, nx, rng.uniform(0.5, 0.8) if elman else 0.4),
        D11=matrix(nv, nv, 0.3) * (np.arange(nv)[None, :] < starts[:, None]),
        D12=matrix(nv, spec.nu, 0.6), bv=0.2 * rng.standard_normal(nv), C2=matrix(spec.ny, nx, 1.0),
        D21=matrix(spec.ny, nv, 0.15 * through) if through else np.zeros((spec.ny, nv)),
        D22=matrix(spec.ny, spec.nu, 0.1) if spec.model == "feedthrough" else np.zeros((spec.ny, spec.nu)),
        by=0.2 * rng.standard_normal(spec.ny), activation=Activation.TANH, layers=layers, dt=0.5,
    )  # fmt: skip


def build(index: int, seed: int) -> Member:
    """The ``index``-th member of the pool; where limits leave nothing, with smaller errors or another system."""
    spec, size = Spec.of(index), 0.08
    for turn in range(_TRIES):
        rng = np.random.default_rng([seed, index, turn])
        try:
            return _build(spec, rng, size)
        except ControlRnnError:
            size *= 0.7
    raise CertificationError(f"no system of the kind {spec.name!r} was found in {_TRIES} tries: try another seed")


def _build(spec: Spec, rng: np.random.Generator, size: float) -> Member:
    free = Predictor(
        random_model(rng, spec), tuple(Signal(f"u{i}", lower=-1.0 - 0.5 * i, upper=1.0 + i) for i in range(spec.nu))
    )
    system, (low, high) = free.system, free.input_limits()
    contraction = certify_contraction(system)
    if float(contraction.rate) > 0.8:
        raise CertificationError(f"contracts at {contraction.rate:.2f} only")
    reached = np.array([free.steady_output(u) for u in rng.uniform(low, high, (60, spec.nu))])
    middle, half = 0.5 * (reached.max(axis=0) + reached.min(axis=0)), 0.35 * np.ptp(reached, axis=0)
    outputs = tuple(
        Signal(f"y{i}", lower=a, upper=b) for i, (a, b) in enumerate(zip(middle - half, middle + half, strict=True))
    )
    predictor = replace(free, outputs=outputs)
    errors = 0.05 * size * spec.inexact * (high - low)
    residual = size * half
    make = observers(spec, predictor, contraction, rng, residual, errors)
    tightening, terminal, memory = promises(spec, predictor, contraction, make(), residual)
    member = Member(
        spec=spec,
        predictor=predictor,
        contraction=contraction,
        make=make,
        tightening=tightening,
        terminal=terminal,
        error_memory=memory,
        residual=residual,
        noise=NOISE * residual,
        input_error=errors,
        command_error=errors * (spec.observer in OBSERVERS[:3]),
    )
    member.controller()
    return member


def observers(
    spec: Spec,
    predictor: Predictor,
    contraction: ContractionCertificate,
    rng: np.random.Generator,
    residual: Array,
    errors: Array,
) -> Callable[[], Observer]:
    """What makes fresh observers of a kind."""
    W = min(max(math.ceil(math.log(0.02) / math.log(float(contraction.rate))), 6), 24)
    known: dict[str, Any] = {"contraction": contraction, "input_error": errors}
    if spec.observer == "washout":
        return lambda: Washout(predictor, W, command_error=errors, **known)
    if spec.observer == "running on":
        return lambda: RunningOn(predictor, W, command_error=errors, **known)
    if spec.observer == "innovation":
        gain = 0.3 * kalman_gain(predictor, output_noise_std=0.1, state_noise_std=0.05)
        if predictor.carries:
            gain[-predictor.nu :] = 0.0
        own = certify_contraction(observer_system(predictor.system, gain))
        known |= {"observer_contraction": own, "residual_bound": residual, "command_error": errors}
        return lambda: StateObserver(predictor, gain, W, **known)
    guards = (RunningOn, Washout)
    guard = guards[int(rng.integers(2))]
    if spec.observer == "moving horizon":
        return lambda: MovingHorizonObserver(
            predictor,
            W,
            window=4,
            output_std=float(residual.max()),
            guard=guard(predictor, W, **known),
            trust=0.5,
            **known,
        )
    encoder = wild_encoder(predictor, rng)
    return lambda: EncoderObserver(predictor, encoder, W, guard=guard(predictor, W, **known), trust=0.5, **known)


def wild_encoder(predictor: Predictor, rng: np.random.Generator, past: int = 3) -> StateEncoder:
    """An encoder that nobody fitted: a guard has to hold whatever it says."""
    nx, features, hidden = predictor.nx, past * (predictor.nu + predictor.ny), 4
    scalers = [Scaler(shift=np.zeros(n), scale=np.ones(n)) for n in (predictor.nu, predictor.ny)]
    return StateEncoder(
        past=past,
        inputs=scalers[0],
        outputs=scalers[1],
        linear=rng.standard_normal((nx, 1 + features)),
        inner=rng.standard_normal((hidden, features)),
        bias=rng.standard_normal(hidden),
        outer=rng.standard_normal((nx, hidden)),
        system_digest=predictor.system.digest,
    )


def promises(
    spec: Spec, predictor: Predictor, contraction: ContractionCertificate, observer: Observer, residual: Array
) -> tuple[Tightening, TerminalSet | None, ErrorMemory | None]:
    """Tightening, terminal set and error memory, as a user makes them."""
    system, W, jump = predictor.system, observer.steps, observer.jump
    assert jump is not None
    start, ahead = (observer.error, 0) if observer.restart is None else (observer.restart, W)
    joint = certify_horizon(
        system,
        ahead + N,
        initial_radius=start.radius,
        metric=start.metric,
        input_radius=observer.prediction_input_error,
        focus=[ahead + 1, ahead + N],
        iterations=100,
    )
    rows = np.tile(residual, (N + 1, 1))
    tightening = tighten(declared_error(system, rows), joint, observer=observer)
    if not spec.terminal:
        return tightening, None, None
    growth = None
    if jump.radius:
        growth = certify_horizon(system, N, initial_radius=jump.radius, metric=jump.metric, iterations=100)
    tightening = make_recursive(tightening, growth, observer=observer)
    terminal = terminal_set(predictor, contraction, horizon=N, jump=jump)
    if not spec.recalls:
        return tightening, terminal, None
    moves = np.minimum(DRIFT * np.arange(N + 1)[:, None] + 2 * NOISE, 2.0) * residual
    moves[0] = 0.0
    changes = certify_changes(observer, K, iterations=60)
    return (
        tightening,
        terminal,
        make_error_memory(tightening, declared_error(system, moves, 1.0), changes, observer=observer, growth=growth),
    )
