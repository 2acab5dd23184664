"""Promises and outcomes of each state estimator: certificates, records, worst restarts, closed loops."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from controlrnn.certification import ContractionCertificate, HorizonCertificate, certify_horizon
from controlrnn.checks import Array
from controlrnn.data import Trajectory
from controlrnn.errors import InfeasibleError
from controlrnn.kernels import simulate
from controlrnn.systems import LureSystem
from experiments.shared.back_off import backed_off, trial_seeds
from experiments.shared.study import Row
from experiments.three_tank import stages
from experiments.three_tank.config import Config
from mpc import (
    ClosedLoopSetup,
    GuardedObserver,
    ModelError,
    Observer,
    Tightening,
    Washout,
    monte_carlo,
    tighten,
    tighten_guarded,
)
from mpc.observers.estimate_error import drawn_errors


@dataclass(frozen=True)
class Method:
    """An estimator of the state under test.

    Args:
        name: As in tables and figures.
        observer: The observer.
        records: How many held-out records it is tried on: fewer for slow ones.
        certified: Whether its bounds are proven; calibrated otherwise.
    """

    name: str
    observer: Observer
    records: int
    certified: bool = True


@dataclass(eq=False)
class Realised:
    """Largest errors seen, and all state errors for the median.

    Args:
        state: Sizes of state errors in the metric, one array a run.
        alike: Largest state error of each run that is like the calibration records: with drawn input errors.
        jump: Largest jump, in the metric.
        outputs: Largest output errors over the prediction, shape (N + 1, ny).
        milliseconds: CPU time per sample.
    """

    state: list[Array]
    alike: list[float]
    jump: float
    outputs: Array
    milliseconds: float


def certify(method: Method, config: Config, iterations: int) -> tuple[HorizonCertificate, HorizonCertificate | None]:
    """Certify the effect of state and input errors on the outputs over the horizon.

    A plain run over the last samples is certified from their beginning: no ball is put around its estimate. A guarded
    estimate needs its guard's certificate, and one for the difference between the two.
    """
    observer, N, more = method.observer, config.horizon, None
    if isinstance(observer, GuardedObserver) and observer.guard is not None and observer.guard_distance is not None:
        more = certify_horizon(
            observer.system,
            N,
            initial_radius=observer.guard_distance.radius,
            metric=observer.guard_distance.metric,
            iterations=iterations,
        )
        observer = observer.guard
    ahead, start = (0, observer.error) if observer.restart is None else (observer.steps, observer.restart)
    first = certify_horizon(
        observer.system,
        ahead + N,
        initial_radius=start.radius,
        metric=start.metric,
        input_radius=observer.input_error,
        focus=sorted({ahead, ahead + N}),
        iterations=iterations,
    )
    return first, more


def tightening_of(
    error: ModelError, method: Method, parts: tuple[HorizonCertificate, HorizonCertificate | None]
) -> Tightening:
    """Tightening that a controller with this estimator needs."""
    first, more = parts
    if more is not None and isinstance(method.observer, GuardedObserver):
        return tighten_guarded(error, first, more, observer=method.observer)
    return tighten(error, first, observer=method.observer)


def size(e: Array, metric: Array) -> Array:
    """Norm of rows e (..., nx) in the metric."""
    return np.asarray(np.sqrt(np.maximum(np.einsum("...i,ij,...j->...", e, metric, e), 0.0)))


def realised(
    method: Method,
    contraction: ContractionCertificate,
    records: Sequence[Trajectory],
    residual: Array,
    config: Config,
    seed: int,
) -> Realised:
    """Measure errors along held-out records, with drawn input errors and with the worst of the allowed ones.

    x* is the model's run under the record's inputs. At the corners the measurements are the model's outputs plus a
    constant residual at the edge of what was declared: the worst that a plant may do within its promise.
    """
    found = Realised([], [], 0.0, np.zeros((config.horizon + 1, len(residual))), 0.0)
    samples, began = 0, time.process_time()
    for record, recorded, alike in _variants(method, records[: method.records], residual, seed):
        _follow(method.observer, contraction, record, recorded, config, found)
        samples += len(record)
        if alike:
            found.alike.append(float(found.state[-1].max()))
    found.milliseconds = 1e3 * (time.process_time() - began) / samples
    return found


def _variants(
    method: Method, records: Sequence[Trajectory], residual: Array, seed: int
) -> Iterator[tuple[Trajectory, Array, bool]]:
    """Yield records with the inputs that the observer is told, and whether calibration records are like them.

    What it is told is within the actuators' range: beyond, nothing is certified.
    """
    d, system = method.observer.input_error, method.observer.system
    ends = method.observer.predictor.input_limits()
    for i, record in enumerate(records):
        yield record, np.clip(record.u + drawn_errors(d, len(record), np.random.default_rng((seed, i))), *ends), True
        signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(d))))
        corner = signs[i % len(signs)]
        lift = residual * np.resize(corner, len(residual))
        exact = simulate(system, record.u, method.observer.initial_state)[0]
        yield replace(record, y=exact + lift), np.clip(record.u + d * corner, *ends), False


def _follow(
    observer: Observer,
    contraction: ContractionCertificate,
    record: Trajectory,
    recorded: Array,
    config: Config,
    found: Realised,
) -> None:
    system, N, P = observer.system, config.horizon, contraction.metric
    first = max(config.washout, observer.steps)
    xhat = observer.estimates(recorded, record.y)
    y, x = simulate(system, record.u, observer.initial_state)
    found.state.append(size(x[first:] - xhat[first:], P))
    moved = xhat[first + 1 :] - system.step(xhat[first:-1], recorded[first:])
    found.jump = max(found.jump, float(size(moved, P).max()))
    windows = [np.lib.stride_tricks.sliding_window_view(a[first:], N + 1, axis=0).swapaxes(1, 2) for a in (recorded, y)]
    predicted = simulate(system, np.ascontiguousarray(windows[0]), xhat[first : first + len(windows[0])])[0]
    found.outputs = np.maximum(found.outputs, np.abs(windows[1] - predicted).max(axis=0))


def from_the_edge(
    washout: int,
    observer: Observer,
    contraction: ContractionCertificate,
    records: Sequence[Trajectory],
    config: Config,
    starts: int,
    seed: int,
) -> tuple[float, Array]:
    """Largest errors after restarts at the edge of the reachable ball, in the slowest directions.

    Returns:
        The state error in the metric, and output errors over the prediction, shape (N + 1, ny).
    """
    system, N, rng = observer.system, config.horizon, np.random.default_rng(seed)
    root = np.asarray(np.linalg.cholesky(contraction.metric).T)
    radius = Washout(
        observer.predictor, max(washout, 1), contraction=contraction, input_error=observer.input_error
    ).restart.radius
    corners = np.array(list(itertools.product((-1.0, 0.0, 1.0), repeat=system.nu)))
    state, outputs = 0.0, np.zeros((N + 1, system.ny))
    for _ in range(starts):
        record = records[int(rng.integers(len(records)))]
        t = int(rng.integers(config.washout, len(record) - washout - N))
        x = simulate(system, record.u[:t], observer.initial_state)[1][-1]
        u = record.u[t : t + washout + N + 1]
        moves = np.concatenate([_slow_directions(system, x, u[:washout], root), rng.standard_normal((2, system.nx))])
        moves *= radius / size(moves, contraction.metric)[:, None]
        pairs = list(itertools.product(np.concatenate([moves, -moves]), corners))
        wrong = np.stack([u + observer.input_error * corner for _, corner in pairs])
        y, xs = simulate(system, wrong, np.stack([x + move for move, _ in pairs]))
        true_y, true_x = simulate(system, u, x)
        state = max(state, float(size(xs[:, washout] - true_x[washout], contraction.metric).max()))
        outputs = np.maximum(outputs, np.abs(y - true_y)[:, washout:].max(axis=0))
    return state, outputs


def _slow_directions(system: LureSystem, x: Array, u: Array, root: Array) -> Array:
    """Directions that a run forgets last: right singular vectors of its derivative by its start."""
    step = 1e-5
    starts = x + step * np.linalg.inv(root).T
    ends = simulate(system, np.tile(u, (len(starts), 1, 1)), starts)[1][:, -1] if len(u) else starts
    end = simulate(system, u, x)[1][-1] if len(u) else x
    map_ = root @ ((ends - end) / step).T  # unit steps in the metric to their ends in the metric
    return np.asarray(np.linalg.solve(root, np.linalg.svd(map_)[2][:2].T).T)


def _setup(observer: Any, config: Config, tightened: Tightening | None) -> ClosedLoopSetup:
    setup = stages.setup(observer, tightened, config)
    return replace(setup, options={**setup.options, "input_error": observer.input_error})


def baseline(observer: Any, config: Config, seed: int) -> Row:
    """The nominal controller a constant away from its limits, chosen on trial loops, in the loops of all others."""
    room, used = backed_off(
        partial(_setup, observer, config),
        observer.system,
        config.horizon,
        config.back_off_step,
        trial_seeds(seed, config.runs),
    )
    said = {"note": f"{room.total[0, 0]:g} cm, by {used} trial loops"}
    return closed_loops(observer, room, config, seed) | said


def closed_loops(observer: Any, tightened: Tightening | None, config: Config, seed: int) -> Row:
    """Run the closed loops of one controller; noise and disturbances are the same for all."""
    seeds = [int(s.generate_state(1)[0]) for s in np.random.SeedSequence(seed).spawn(config.runs)]
    try:
        setup = _setup(observer, config, tightened)
    except InfeasibleError as error:
        return {"runs": 0, "cost": None, "runs_with_violation": None, "max_violation_cm": None, "failed_solves": None,
                "step_ms": None, "note": str(error)[:90]}  # fmt: skip
    found = monte_carlo(lambda: setup, seeds).summary()
    return {
        "runs": found["runs"], "cost": found["cost"], "runs_with_violation": found["runs_with_violation"],
        "max_violation_cm": found["max_violation"], "failed_solves": found["failed_solves"],
        "step_ms": 1e3 * found["solve_time_median"], "note": "",
    }  # fmt: skip
