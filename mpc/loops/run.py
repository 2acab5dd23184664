"""Closed-loop simulation of a controller on a plant, with noise, disturbances, faults and missing readings.

Timing of sample t (docs/timing.md): the output is measured (just before the input changes), the controller chooses
u[t], the actuator applies it with its error, and the plant moves on to t + 1 under it and the disturbance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from controlrnn.checks import Array, as_array, count, items, per_channel, read_only
from controlrnn.errors import SettingError, ShapeError
from controlrnn.typed import typed
from mpc.control.controller import TightenedMPC
from mpc.control.step import MpcStep
from mpc.loops.fault_run import FaultRun, Interruptible
from mpc.loops.faults import Fault, Faults
from mpc.loops.plant import Plant, held_to
from mpc.loops.result import ClosedLoopResult
from mpc.loops.settings import Disturbances, Reference, Start, disturbance_rows


@dataclass
class Actor:
    """Plant with noise, input errors, disturbances and faults, all drawn before the run.

    Args:
        plant: The plant.
        x: Its state, shape (nx,).
        before: Input that acts now, shape (nu,).
        noise: Noise of the readings, shape (samples, ny), from the first sample of the warm-up on.
        missing: Whether readings are missing, shape (samples, ny).
        input_errors: Errors of actuators, shape (samples, nu).
        disturbance: The plant's disturbances, shape (samples, nw), or None.
        faults: Faults.
        warm_up: Samples of the warm-up.
        t: Samples since its start.
    """

    plant: Plant
    x: Array
    before: Array
    noise: Array
    missing: NDArray[np.bool_]
    input_errors: Array
    disturbance: Array | None
    faults: FaultRun
    warm_up: int
    t: int = 0

    def output(self) -> Array:
        """True output, under the input that acts now."""
        return np.asarray(self.plant.output(self.x, self.before))

    def measure(self) -> Array:
        """Reading of the present sample."""
        y = self.output() + self.noise[self.t]
        return self.faults.measure(self.t - self.warm_up, np.where(self.missing[self.t], np.nan, y))

    def apply(self, u: Array) -> tuple[Array, Array]:
        """Apply the command ``u`` (nu,); returns the true output just after it and the input that reached the plant."""
        lower, upper = ([getattr(s, side) for s in self.plant.inputs] for side in ("lower", "upper"))
        # In this order: faults of the actuator, its error, its range.
        reached = self.faults.apply(self.t - self.warm_up, u, self.before)
        seen = np.clip(reached + self.input_errors[self.t], lower, upper)
        y = np.asarray(self.plant.output(self.x, seen))
        w = () if self.disturbance is None else (self.disturbance[self.t],)
        self.x = self.plant.step(self.x, seen, *w)
        self.before = seen
        self.t += 1
        return y, seen


@typed()
def run_closed_loop(
    plant: Plant,
    controller: TightenedMPC,
    *,
    reference: Reference,
    steps: int,
    seed: int,
    start: Start | None = None,
    disturbances: Disturbances | None = None,
    preview: bool = True,
    measured_inputs: Reference | None = None,
    faults: Faults = (),
) -> ClosedLoopResult:
    """Simulate ``controller``, which is reset first, on ``plant``.

    Args:
        plant: The process.
        controller: The controller.
        reference: Shape (ny,), or (T, ny) from the first control step on (its last row is held), or a function that
            draws one from a generator, e.g. `mpc.RandomSteps`.
        steps: Control steps.
        seed: Seed of all random numbers, with an independent stream for each cause.
        start: Initial state of the plant, and the warm-up.
        disturbances: Noise, disturbances and errors that act in the loop.
        preview: Whether the controller knows the future of the reference and of measured inputs.
        measured_inputs: Values of the controller's measured inputs, as ``reference`` with one column each; the first
            row also acts during the warm-up.
        faults: Faults during the control steps, or a function that draws them, e.g. `mpc.RandomFaults`.

    Raises:
        SettingError: The plant does not fit the controller (channels, sample time), or a parameter is out of range.
        ShapeError: An array does not fit.
    """
    more: dict[str, Any] = {"preview": preview, "measured_inputs": measured_inputs, "faults": faults}
    loop = drawn(
        plant, controller, reference=reference, steps=steps, seed=seed, start=start, disturbances=disturbances, **more
    )
    actor, told = loop.actor, loop.told
    # Warm-up: a constant input, while the observer fills its window.
    controller.reset()
    for _ in range(actor.warm_up):
        controller.record(actor.measure(), loop.held)
        actor.apply(loop.held)
    taken: list[MpcStep] = []
    rows: tuple[list[Array], ...] = ([], [], [], [])
    with _interruptible(controller, actor.faults) as time_out:
        for t in range(steps):
            for delay, late in actor.faults.arriving(t):  # late readings come before the sample's own
                controller.correct(delay - 1, late)
            said = actor.measure()
            time_out(t)
            coming = None if told is None else told[t]
            taken.append(controller.step(said, loop.wanted[t:] if preview else loop.wanted[t], coming))
            true = actor.output()
            after, seen = actor.apply(taken[-1].u)
            for row, value in zip(rows, (true, after, said, seen), strict=True):
                row.append(value)
    rows[0].append(actor.output())  # the output that the last input has led to
    y, after, readings, applied = (np.array(row) for row in rows)
    happened = {"y": y, "after": after, "readings": readings, "applied": applied}
    return loop.result(happened | _decisions(controller, taken, y))


def drawn(
    plant: Plant,
    controller: TightenedMPC,
    *,
    reference: Reference,
    steps: int,
    seed: int,
    start: Start | None = None,
    disturbances: Disturbances | None = None,
    preview: bool = True,
    measured_inputs: Reference | None = None,
    faults: Faults = (),
) -> Drawn:
    """Check the arguments of `run_closed_loop` and draw everything random of one run.

    Args:
        plant: See `run_closed_loop`, also for the others.
        controller: Not stepped.
        reference: Set points.
        steps: Control steps.
        seed: Seed.
        start: Start.
        disturbances: Disturbances.
        preview: Whether the future is known.
        measured_inputs: Measured inputs.
        faults: Faults.
    """
    start, acting = start or Start(), disturbances or Disturbances()
    predictor, steps = controller.predictor, count("steps", steps)
    errors: dict[str, Any] = {"input_error": acting.input_error, "input_drift": acting.input_drift}
    held_to(controller, plant, **errors, missing=acting.missing, steps=steps)
    warm_up = controller.observer.steps if start.warm_up is None else count("warm_up", start.warm_up, least=0)
    held = controller.safe_input if start.warm_up_input is None else start.warm_up_input
    held = as_array("warm_up_input", held, (predictor.nu,))
    streams = [np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(9)]
    goal = reference(streams[4]) if callable(reference) else reference
    wanted = _rows("reference", goal, predictor.ny, steps + controller.horizon + 1)
    known, held = _known_inputs(controller, measured_inputs, steps, streams[7], held)
    told = _forecasts(known, steps, controller.horizon, preview, acting.forecast_error, streams[8])
    programme = items("faults", faults(streams[5]) if callable(faults) else faults, Fault)
    carried = FaultRun(programme, steps, predictor.ny, predictor.nu, streams[6])
    x0 = as_array("x0", plant.initial_state() if start.x0 is None else start.x0, (plant.nx,))
    actor = _actor(plant, x0, held, warm_up, acting, carried, streams)
    return Drawn(controller, actor, wanted, told, held, preview, seed)


@dataclass(frozen=True)
class Drawn:
    """One run before it begins: everything random is drawn.

    Args:
        controller: The controller.
        actor: Plant with noise, input errors, disturbances and faults.
        wanted: Set points, shape (steps + N + 1, ny).
        told: Forecasts of measured inputs at each step, or None.
        held: Input during the warm-up, shape (nu,).
        preview: Whether the controller knows the future of set points.
        seed: The run's seed.
    """

    controller: TightenedMPC
    actor: Actor
    wanted: Array
    told: Array | None
    held: Array
    preview: bool
    seed: int

    def result(self, found: dict[str, Any]) -> ClosedLoopResult:
        """Result of the run.

        Args:
            found: What happened and what was decided, by the names of `ClosedLoopResult`.
        """
        plant, controller = self.actor.plant, self.controller
        y, u = found["y"], found["u"]
        reference = self.wanted[: len(y)]
        return ClosedLoopResult(
            u_before=self.held,
            reference=reference,
            bounds=controller.tightening.total[: controller.horizon + 1],
            faults=self.actor.faults.flags,
            fault_kinds=self.actor.faults.kinds,
            lower=np.array([s.lower for s in plant.outputs]),
            upper=np.array([s.upper for s in plant.outputs]),
            # Sample 0 was not the controller's doing; the output after the last input is.
            cost=controller._answers.cost(controller.problem, y[1:], reference[1:], u, self.held),
            dt=float(plant.dt),
            seed=self.seed,
            names=tuple(s.label for s in (*plant.outputs, *plant.inputs)),
            **found,
        )


@contextmanager
def _interruptible(controller: TightenedMPC, faults: FaultRun) -> Iterator[Callable[[int], None]]:
    """Replace the controller's solver during a run by one that runs out of time where the faults say so."""
    if not faults.times_out:
        yield lambda _: None
        return
    backend = controller.backend
    solver = Interruptible(backend)

    def time_out(t: int) -> None:
        solver.late = faults.late(t)

    controller.backend = solver
    try:
        yield time_out
    finally:
        controller.backend = backend


def _decisions(controller: TightenedMPC, taken: Sequence[MpcStep], y: Array) -> dict[str, Any]:
    """Fields of `ClosedLoopResult` that come from the controller's steps."""
    u, x = np.array([s.u for s in taken]), np.array([s.x for s in taken])
    return {
        "u": u,
        "x": x,
        "disturbance": np.array([s.disturbance for s in taken]),
        "predicted": np.array([s.y_predicted for s in taken]),
        "errors": _realised(controller, taken, x, u, y),
        "intervals": np.array([s.error_interval for s in taken]) if controller.recalls else np.zeros((0, 2, 0, 0)),
        "slack": np.array([s.slack.max() for s in taken]),
        "solve_time": np.array([s.solve_time for s in taken]),
        "iterations": np.array([s.iterations for s in taken]),
        "status": tuple(s.status for s in taken),
        "fallback": tuple(s.fallback for s in taken),
        "certified": np.array([s.certified for s in taken]),
        "verdicts": np.array([s.verdicts for s in taken], dtype=np.int8),
        "outside": tuple(s.outside for s in taken),
    }


def _realised(controller: TightenedMPC, taken: Sequence[MpcStep], x: Array, u: Array, y: Array) -> Array:
    """Errors of predictions from each estimate under the inputs commanded since, shape (steps, N + 1, ny).

    Measured inputs are not commanded: their forecasts are used.
    """
    N, steps = controller.horizon, len(u)
    inputs = u[np.minimum(np.arange(steps)[:, None] + np.arange(N), steps - 1)]
    forecast = list(controller.problem.measured_inputs)
    # The plan holds the forecast of measured inputs at the time of the prediction.
    inputs[..., forecast] = np.array([s.u_planned for s in taken])[..., forecast]
    predicted = controller.predictor.predict(x, inputs) + np.array([s.shift for s in taken])
    target = np.arange(steps)[:, None] + np.arange(N + 1)  # sample that each prediction is for
    errors = y[np.minimum(target, steps)] - predicted
    errors[target > steps] = np.nan
    return np.asarray(errors)


def _actor(
    plant: Plant,
    x0: Array,
    held: Array,
    warm_up: int,
    acting: Disturbances,
    faults: FaultRun,
    streams: Sequence[np.random.Generator],
) -> Actor:
    ny, nu, total = len(plant.outputs), len(plant.inputs), warm_up + len(faults.flags)
    if not 0 <= acting.missing <= 1:
        raise SettingError(f"missing must be a probability, got {acting.missing!r}")
    noise, errors, gaps, pushes = streams[:4]  # one per cause: changing one leaves the others as they are
    w = acting.disturbance(pushes) if callable(acting.disturbance) else acting.disturbance
    rows = None
    if w is not None:
        given = disturbance_rows(w)
        nw = getattr(plant, "nw", 0) or given.shape[1]
        if given.shape[1] != nw:
            raise ShapeError(f"disturbance must have shape (T, nw) = (T, {nw}), got {given.shape}: check its columns")
        rows = given[np.clip(np.arange(total) - warm_up, 0, len(given) - 1)]
    return Actor(
        plant=plant,
        x=x0,
        before=held,
        noise=per_channel("noise_std", acting.noise_std, ny) * noise.standard_normal((total, ny)),
        missing=gaps.random((total, ny)) < acting.missing,
        input_errors=_input_errors(acting, errors.uniform(-1, 1, (total, nu))),
        disturbance=rows,
        faults=faults,
        warm_up=warm_up,
    )


def _input_errors(acting: Disturbances, draws: Array) -> Array:
    """Input errors (samples, nu) within their bounds from draws in [-1, 1]."""
    nu = draws.shape[1]
    bound = per_channel("input_error", acting.input_error, nu)
    if acting.input_drift is None:
        return np.asarray(bound * draws)
    rows, change = bound * draws, per_channel("input_drift", acting.input_drift, nu)
    for t in range(1, len(rows)):
        rows[t] = np.clip(rows[t - 1] + change * draws[t], -bound, bound)
    return np.asarray(rows)


def _known_inputs(
    controller: TightenedMPC, measured: Reference | None, steps: int, rng: np.random.Generator, held: Array
) -> tuple[Array | None, Array]:
    """Values of measured inputs from the first control step on, and the warm-up's input with the first of them."""
    places = list(controller.problem.measured_inputs)
    if (measured is None) != (not places):
        names = [controller.predictor.inputs[i].name for i in places]
        raise SettingError(f"measured_inputs must say what the measured inputs {names} do, and is for them only")
    if measured is None:
        return None, held
    given = measured(rng) if callable(measured) else measured
    known = _rows("measured_inputs", given, len(places), steps + controller.horizon)
    held = held.copy()
    held[places] = known[0]
    return known, read_only(held)


def _forecasts(
    known: Array | None, steps: int, horizon: int, preview: bool, error: ArrayLike, rng: np.random.Generator
) -> Array | None:
    """Forecasts of measured inputs at each step, with their errors, shape (steps, horizon, d); row 0 is true."""
    if np.any(error) and (known is None or not preview):
        raise SettingError(
            f"forecast_error is for forecasts of measured inputs, got {error!r} without any: pass measured_inputs and "
            "preview=True, or leave it out"
        )
    if known is None:
        return None
    told = np.array(known[np.arange(steps)[:, None] + np.arange(horizon) * preview])
    bound = per_channel("forecast_error", error, known.shape[1])
    told[:, 1:] += bound * rng.uniform(-1, 1, told[:, 1:].shape)
    return told


def _rows(name: str, value: ArrayLike, n: int, rows: int) -> Array:
    given = np.atleast_2d(as_array(name, value, (n,) if np.ndim(value) < 2 else ("T", n)))
    if not len(given):
        raise ShapeError(f"{name} must have at least one row, got {given.shape}")
    return read_only(given[np.minimum(np.arange(rows), len(given) - 1)])
