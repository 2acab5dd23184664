"""A controller on a plant: what was promised, what happened.

Timing of sample t: the output is measured (just before the input changes), the controller chooses u[t], the actuator
applies it with its error, and the plant moves on to t + 1 under it and the disturbance.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from controlrnn.checks import Array, as_array, count, read_only
from controlrnn.data import Signal
from controlrnn.errors import SettingError, ShapeError
from controlrnn.records import load_record, save_record
from mpc.controller import Fallback, Mode, MpcStep, TightenedMPC
from mpc.observer import per_channel
from mpc.ocp import Status

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_VERSION = 1
Disturbance = ArrayLike | Callable[[np.random.Generator], ArrayLike]


class Plant(Protocol):
    """What the closed loop needs of a plant."""

    @property
    def dt(self) -> float:
        """Sample time [s]."""

    @property
    def inputs(self) -> tuple[Signal, ...]:
        """Inputs with limits."""

    @property
    def outputs(self) -> tuple[Signal, ...]:
        """Outputs with limits."""

    @property
    def nx(self) -> int:
        """Number of states."""

    def initial_state(self) -> Array:
        """Where a run starts, shape (nx,)."""

    def step(self, x: Any, u: Any, w: Any = None) -> Array:
        """State one sample later."""

    def output(self, x: Any, u: Any) -> Any:
        """Output without noise."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ClosedLoopResult:
    """One run of ``steps`` samples after the warm-up.

    Args:
        y: True outputs, shape (steps + 1, ny); the last row is where the last input led to.
        measured: Measured outputs (NaN where missing), shape (steps, ny).
        u: Commanded inputs, shape (steps, nu).
        applied: Inputs that the plant saw, shape (steps, nu).
        u_before: Input ahead of the first one, shape (nu,).
        reference: Shape (steps + 1, ny).
        x: State estimates, shape (steps, model nx).
        disturbance: Output disturbance estimates, shape (steps, ny).
        predicted: Predictions as planned, shape (steps, N + 1, ny).
        errors: True output minus prediction from the same estimates under the inputs that were commanded, shape
            (steps, N + 1, ny); NaN beyond the end of the run.
        bounds: Tightening, shape (N + 1, ny).
        slack: Largest use of soft limits per sample, shape (steps,), output units.
        solve_time: Seconds per step, shape (steps,).
        iterations: Shape (steps,).
        status: `Status` per step.
        fallback: `Fallback` per step.
        certified: Whether the certified error of the estimate held, shape (steps,).
        lower: Plant's output limits, shape (ny,).
        upper: Plant's output limits, shape (ny,).
        cost: Tracking and move cost with the controller's weights, on true outputs.
        dt: Sample time [s].
        seed: Seed of the run.
        names: Labels of outputs, then inputs.
    """

    y: Array
    measured: Array
    u: Array
    applied: Array
    u_before: Array
    reference: Array
    x: Array
    disturbance: Array
    predicted: Array
    errors: Array
    bounds: Array
    slack: Array
    solve_time: Array
    iterations: NDArray[np.int64]
    status: tuple[Status, ...]
    fallback: tuple[Fallback, ...]
    certified: NDArray[np.bool_]
    lower: Array
    upper: Array
    cost: float
    dt: float
    seed: int
    names: tuple[str, ...]

    def __post_init__(self) -> None:
        for f in fields(self):
            value = getattr(self, f.name)
            if isinstance(value, np.ndarray):
                kept = value.copy()
                kept.setflags(write=False)
                object.__setattr__(self, f.name, kept)
        object.__setattr__(self, "status", tuple(Status(s) for s in self.status))
        object.__setattr__(self, "fallback", tuple(Fallback(f) for f in self.fallback))

    @property
    def steps(self) -> int:
        """Number of control steps."""
        return len(self.u)

    @property
    def excess(self) -> Array:
        """How far true outputs lie outside of the plant's limits, shape (steps + 1, ny); 0 inside."""
        return np.maximum(np.maximum(self.y - self.upper, self.lower - self.y), 0.0)

    @property
    def violations(self) -> int:
        """Samples at which some true output is outside of its limits."""
        return int((self.excess > 0).any(axis=1).sum())

    @property
    def max_violation(self) -> float:
        """Largest excess over all samples and outputs."""
        return float(self.excess.max())

    @property
    def failed_solves(self) -> int:
        """Steps without a solution."""
        return sum(s not in (Status.SOLVED, Status.WARMING_UP) for s in self.status)

    @property
    def inside(self) -> float:
        """Share of realised prediction errors within the tightening, over all samples and steps."""
        known = ~np.isnan(self.errors).any(axis=2)
        inside = np.all(np.abs(self.errors) <= self.bounds, axis=2)
        return float(np.asarray(inside)[known].mean())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a ``.npz`` record (atomic, no pickle)."""
        save_record(path, "closed-loop", _VERSION, *self.parts())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> ClosedLoopResult:
        """Read what `save` wrote. Raises FileFormatError for anything else."""
        return cls.from_parts(*load_record(path, "closed-loop", _VERSION))

    def parts(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON values that `from_parts` restores the result from."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
        meta = {name: value for name, value in values.items() if name not in arrays}
        return arrays, {k: [str(v) for v in value] if isinstance(value, tuple) else value for k, value in meta.items()}

    @classmethod
    def from_parts(cls, arrays: dict[str, NDArray[Any]], meta: dict[str, Any]) -> ClosedLoopResult:
        """The inverse of `parts`."""
        values: dict[str, Any] = {**arrays, **meta, "names": tuple(meta["names"])}
        return cls(**values)

    def plot(self) -> Figure:
        """Draw outputs with limits, tightened limits and references, then inputs."""
        from matplotlib.figure import Figure

        ny, nu = self.y.shape[1], self.u.shape[1]
        time = np.arange(self.steps + 1) * self.dt
        figure = Figure(figsize=(9, 1.9 * (ny + nu)), layout="constrained")
        panels = figure.subplots(ny + nu, 1, sharex=True, squeeze=False)[:, 0]
        for i, panel in enumerate(panels[:ny]):
            panel.step(time, self.reference[:, i], where="post", color="0.6", label="reference")
            panel.plot(time, self.y[:, i], label="output")
            for limit, sign in ((self.lower[i], 1.0), (self.upper[i], -1.0)):
                if np.isfinite(limit):
                    panel.axhline(limit, color="C3", label="limit")
                    panel.axhline(limit + sign * self.bounds[-1, i], color="C3", ls=":", label="tightened, last step")
            panel.set_ylabel(self.names[i])
        for i, panel in enumerate(panels[ny:]):
            panel.step(time[:-1], self.u[:, i], where="post", color="0.3")
            panel.set_ylabel(self.names[ny + i])
        marks = dict(zip(*reversed(panels[0].get_legend_handles_labels()), strict=True))
        panels[0].legend(marks.values(), marks.keys(), loc="best", fontsize="small")
        panels[-1].set_xlabel("time [s]")
        return figure


@dataclass
class _Actor:
    """The plant with everything that disturbs it; the only place that draws random numbers."""

    plant: Plant
    x: Array
    before: Array
    noise: Array
    missing: NDArray[np.bool_]
    input_errors: Array
    disturbance: Array | None
    t: int = 0

    def measure(self) -> Array:
        y = np.asarray(self.plant.output(self.x, self.before)) + self.noise[self.t]
        return np.where(self.missing[self.t], np.nan, y)

    def apply(self, u: Array) -> tuple[Array, Array]:
        """Apply ``u``; returns the true output under it and the input that the plant saw."""
        lower, upper = ([getattr(s, side) for s in self.plant.inputs] for side in ("lower", "upper"))
        seen = np.clip(u + self.input_errors[self.t], lower, upper)
        y = np.asarray(self.plant.output(self.x, seen))
        w = () if self.disturbance is None else (self.disturbance[self.t],)
        self.x, self.before, self.t = self.plant.step(self.x, seen, *w), seen, self.t + 1
        return y, seen


def run_closed_loop(
    plant: Plant,
    controller: TightenedMPC,
    *,
    reference: ArrayLike,
    steps: int,
    seed: int,
    x0: ArrayLike | None = None,
    warm_up: int | None = None,
    warm_up_input: ArrayLike | None = None,
    noise_std: ArrayLike = 0.0,
    disturbance: Disturbance | None = None,
    input_error: ArrayLike = 0.0,
    missing: float = 0.0,
    preview: bool = True,
) -> ClosedLoopResult:
    """Run ``controller`` (reset first) on ``plant``.

    Args:
        plant: The process.
        controller: The controller.
        reference: Shape (ny,), or (T, ny) from the first control step on; its last row is held.
        steps: Control steps.
        seed: Seed of noise, input errors, missing samples and of the disturbance.
        x0: Plant state at the start of the warm-up; its ``initial_state()`` when left out.
        warm_up: Samples of constant input ahead, that give the observer its record; what the observer needs when left
            out.
        warm_up_input: Shape (nu,); the controller's safe input when left out.
        noise_std: Standard deviation of white Gaussian measurement noise, scalar or (ny,).
        disturbance: Passed to ``plant.step`` as ``w``: shape (T, nw) for the control steps (its first row also acts
            during the warm-up, its last row is held), or a function that draws one from a generator.
        input_error: Bound of errors between commanded and applied inputs, drawn uniformly, scalar or (nu,).
        missing: Probability with which each measurement is missing.
        preview: Whether the controller sees the future of the reference.

    Raises:
        SettingError: The plant is not the controller's (channels, sample time), or a parameter is out of range.
        ShapeError: An array does not fit.
    """
    predictor, steps = controller.predictor, count("steps", steps)
    _same_channels(plant, controller)
    warm_up = controller.observer.steps if warm_up is None else count("warm_up", warm_up, least=0)
    held = as_array("warm_up_input", controller.safe_input if warm_up_input is None else warm_up_input, (predictor.nu,))
    wanted = _rows("reference", reference, predictor.ny, steps + controller.horizon + 1)
    actor = _actor(plant, x0, held, warm_up, steps, noise_std, disturbance, input_error, missing, seed)
    controller.reset()
    for _ in range(warm_up):
        controller.record(actor.measure(), held)
        actor.apply(held)
    taken: list[MpcStep] = []
    true, measured, applied = [], [], []
    for t in range(steps):
        measured.append(actor.measure())
        taken.append(controller.step(measured[-1], wanted[t:] if preview else wanted[t]))
        y, seen = actor.apply(taken[-1].u)
        true.append(y)
        applied.append(seen)
    true.append(np.asarray(plant.output(actor.x, actor.before)))
    return _result(plant, controller, taken, np.array(true), np.array(measured), np.array(applied), held, wanted, seed)


def _result(
    plant: Plant,
    controller: TightenedMPC,
    taken: Sequence[MpcStep],
    y: Array,
    measured: Array,
    applied: Array,
    held: Array,
    wanted: Array,
    seed: int,
) -> ClosedLoopResult:
    u, reference = np.array([s.u for s in taken]), wanted[: len(taken) + 1]
    x, disturbance = np.array([s.x for s in taken]), np.array([s.disturbance for s in taken])
    return ClosedLoopResult(
        y=y,
        measured=measured,
        u=u,
        applied=applied,
        u_before=held,
        reference=reference,
        x=x,
        disturbance=disturbance,
        predicted=np.array([s.y_predicted for s in taken]),
        errors=_realised(controller, x, u, y, disturbance),
        bounds=controller.tightening.total[: controller.horizon + 1],
        slack=np.array([s.slack.max() for s in taken]),
        solve_time=np.array([s.solve_time for s in taken]),
        iterations=np.array([s.iterations for s in taken]),
        status=tuple(s.status for s in taken),
        fallback=tuple(s.fallback for s in taken),
        certified=np.array([s.certified for s in taken]),
        lower=np.array([s.lower for s in plant.outputs]),
        upper=np.array([s.upper for s in plant.outputs]),
        # Sample 0 was not the controller's doing; the output after the last input is.
        cost=controller.problem.cost(y[1:], reference[1:], u, held),
        dt=float(plant.dt),
        seed=seed,
        names=tuple(s.label for s in (*plant.outputs, *plant.inputs)),
    )


def _realised(controller: TightenedMPC, x: Array, u: Array, y: Array, disturbance: Array) -> Array:
    """Errors of predictions from each estimate under the inputs commanded since, (steps, N + 1, ny)."""
    N, steps = controller.horizon, len(u)
    ahead = np.minimum(np.arange(steps)[:, None] + np.arange(N), steps - 1)
    predicted = controller.predictor.predict(x, u[ahead])
    if controller.mode is Mode.PRACTICAL:
        predicted = predicted + disturbance[:, None, :]
    target = np.arange(steps)[:, None] + np.arange(N + 1)
    errors = y[np.minimum(target, steps)] - predicted
    errors[target > steps] = np.nan
    return np.asarray(errors)


def _actor(
    plant: Plant,
    x0: ArrayLike | None,
    held: Array,
    warm_up: int,
    steps: int,
    noise_std: ArrayLike,
    disturbance: Disturbance | None,
    input_error: ArrayLike,
    missing: float,
    seed: int,
) -> _Actor:
    ny, nu, total = len(plant.outputs), len(plant.inputs), warm_up + steps
    if not 0 <= missing <= 1:
        raise SettingError(f"missing must be a probability, got {missing!r}")
    # One stream per cause, so that changing one leaves the others as they are.
    noise, errors, gaps, pushes = (np.random.default_rng(s) for s in np.random.SeedSequence(seed).spawn(4))
    w = disturbance(pushes) if callable(disturbance) else disturbance
    rows = None
    if w is not None:
        given = as_array("disturbance", w, ("T", "nw"))
        rows = given[np.clip(np.arange(total) - warm_up, 0, len(given) - 1)]
    return _Actor(
        plant=plant,
        x=as_array("x0", plant.initial_state() if x0 is None else x0, (plant.nx,)),
        before=held,
        noise=per_channel("noise_std", noise_std, ny) * noise.standard_normal((total, ny)),
        missing=gaps.random((total, ny)) < missing,
        input_errors=per_channel("input_error", input_error, nu) * errors.uniform(-1, 1, (total, nu)),
        disturbance=rows,
    )


def _rows(name: str, value: ArrayLike, n: int, rows: int) -> Array:
    given = np.atleast_2d(as_array(name, value, (n,) if np.ndim(value) < 2 else ("T", n)))
    if not len(given):
        raise ShapeError(f"{name} must have at least one row, got {given.shape}")
    return read_only(given[np.minimum(np.arange(rows), len(given) - 1)])


def _same_channels(plant: Plant, controller: TightenedMPC) -> None:
    predictor = controller.predictor
    got, expected = (len(plant.inputs), len(plant.outputs)), (predictor.nu, predictor.ny)
    if got != expected or not np.isclose(plant.dt, predictor.dt, rtol=1e-9, atol=0):
        raise SettingError(
            f"the plant must have the model's (nu, ny, dt) = {(*expected, predictor.dt)}, got {(*got, plant.dt)}"
        )
