"""Simulated closed loops of a road: the plant that they run on, and what they show."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import mpc
from controlrnn.checks import Array
from controlrnn.data import Dataset, Signal, Trajectory
from controlrnn.errors import DataError, SettingError
from controlrnn.road.data.splitting import signals_of
from controlrnn.road.file.schema import RoadFile

_log = logging.getLogger(__name__)


class RecordedErrors:
    """Plant that is the model with the errors which it had on a record: what it should have predicted did happen.

    Its state is the model's and the number of the sample, from which on the errors are repeated.

    Args:
        predictor: The model with channels and limits.
        errors: Outputs minus the model's, shape (T, ny); after the last one the first follows.
    """

    def __init__(self, predictor: mpc.Predictor, errors: Array) -> None:
        self._predictor = predictor
        self._errors = errors
        self.dt = predictor.dt
        self.inputs: tuple[Signal, ...] = predictor.inputs
        self.outputs: tuple[Signal, ...] = predictor.outputs
        self.nx = predictor.nx + 1

    @property
    def samples(self) -> int:
        """Number of errors."""
        return len(self._errors)

    def initial_state(self) -> Array:
        """Steady state in the middle of the actuators' range, at the record's first error, shape (nx,)."""
        return self.start(0)

    def start(self, sample: int) -> Array:
        """Steady state in the middle of the actuators' range, at one of the errors, shape (nx,).

        Args:
            sample: Number of the error.
        """
        middle = np.mean(self._predictor.input_limits(), axis=0)
        return np.concatenate([self._predictor.equilibrium(middle), [float(sample)]])

    def step(self, x: Array, u: Array, w: Any = None) -> Array:  # noqa: ARG002 -- what disturbs it is recorded
        """State one sample later, shape (nx,)."""
        after = self._predictor.system.step(x[:-1], u)
        return np.concatenate([np.asarray(after), [(x[-1] + 1) % len(self._errors)]])

    def output(self, x: Array, u: Array) -> Array:
        """Output with the recorded error of the sample, shape (ny,)."""
        return np.asarray(self._predictor.system.output(x[:-1], u) + self._errors[int(x[-1])])


def recorded_errors(file: RoadFile, data: Dataset, predictor: mpc.Predictor, start: Array) -> tuple[Array, str]:
    """Errors of the model's free run on records, one record after the other, shape (T, ny), and where they are from.

    Args:
        file: The road file.
        data: Data: test records, else others that the model was not fitted to, else training records.
        predictor: The model.
        start: State that runs start from, shape (nx,); its washout is left out.

    Raises:
        DataError: No record is long enough.
    """
    least = file.promise.washout + 2
    for part in ("test", "calibration", "validation", "train"):
        records: Sequence[Trajectory] = [r for r in getattr(data, part) if len(r) >= least]
        if records:
            errors = [(r.y - predictor.predict(start, r.u[:-1]))[file.promise.washout :] for r in records]
            joined = np.concatenate(errors)
            return _filled(joined), f"{len(records)} {part} record(s)"
    raise DataError(f"no record has the {least} samples that the errors of the simulated plant need")


def _filled(errors: Array) -> Array:
    """Errors without missing ones: each takes the last one before it."""
    filled = errors.copy()
    for column in filled.T:
        known = np.flatnonzero(~np.isnan(column))
        last = np.maximum.accumulate(np.where(~np.isnan(column), np.arange(len(column)), -1))
        column[:] = column[np.where(last < 0, known[0], last)]
    return filled


class WithLimits:
    """Plant with the output limits of a road file, which are the ones to be kept, in place of its own.

    Args:
        plant: The plant.
        outputs: Outputs of the road file.
    """

    def __init__(self, plant: Any, outputs: Sequence[Signal]) -> None:
        self._plant = plant
        # Names and units stay the plant's, so that those of another one are noticed.
        own = tuple(plant.outputs)
        pairs = zip(own, outputs, strict=False)  # another number of them is refused by whoever runs loops
        self.outputs = tuple(replace(o, lower=s.lower, upper=s.upper) for o, s in pairs) + own[len(outputs) :]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._plant, name)


def plant_of(name: str, base: Path) -> Any:
    """Plant that a road file names as ``module:object``; a class or function is called.

    Args:
        name: The name.
        base: Folder that modules are looked for in first.

    Raises:
        SettingError: It cannot be imported, or is no plant; the message says what is missing.
    """
    module, _, attribute = name.partition(":")
    sys.path.insert(0, str(base))
    try:
        found: Any = importlib.import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except ImportError as error:
        raise SettingError(
            f"simulate.plant: cannot import {module!r} ({error}): put {module}.py beside the road file, or install it"
        ) from error
    except AttributeError as error:
        raise SettingError(f"simulate.plant: {error}: name an object of {module}") from error
    finally:
        sys.path.remove(str(base))
    try:
        plant = found() if callable(found) else found
    except TypeError as error:
        raise SettingError(
            f"simulate.plant: {name} cannot be called without arguments ({error}): name an object, or a function that "
            "makes one"
        ) from error
    needed = ("dt", "inputs", "outputs", "nx", "initial_state", "step", "output")
    missing = [n for n in needed if not hasattr(plant, n)]
    if missing and hasattr(plant, "dynamics"):
        from plants import as_plant

        return as_plant(plant)
    if missing:
        raise SettingError(
            f"simulate.plant: {name} lacks {', '.join(missing)}: `controlrnn new-plant` writes one that has all"
        )
    return plant


def controller_of(file: RoadFile, observer: mpc.Observer, tightening: mpc.Tightening) -> mpc.TightenedMPC:
    """Controller of a road file.

    Args:
        file: The road file.
        observer: Its observer.
        tightening: Its tightening; one that promises nothing makes a nominal controller.
    """
    moves = [i.move_limit for i in file.inputs]
    predictor = observer.predictor
    lower, upper = predictor.input_limits()
    limit = [float(h - w) if m is None else m for m, w, h in zip(moves, lower, upper, strict=True)]
    return mpc.TightenedMPC(
        predictor,
        observer,
        tightening,
        mpc.Tracking(
            output_weight=[o.weight for o in file.outputs],
            input_move_weight=[i.move_weight for i in file.inputs],
            horizon=file.control.horizon,
            control_horizon=file.control.control_horizon,
            measured_inputs=[i.name for i in file.inputs if i.role == "measured"],
        ),
        limits=mpc.Limits(move_limit=limit if any(m is not None for m in moves) else None, soft=file.control.soft),
    )


def references_of(file: RoadFile) -> Array:
    """Set points of the loops, shape (T, ny): each output's one after the other, the last one held."""
    many = max(len(o.reference) for o in file.outputs)
    columns = [[*o.reference, *[o.reference[-1]] * (many - len(o.reference))] for o in file.outputs]
    return np.repeat(np.array(columns).T, file.simulate.hold, axis=0)


def run_loops(
    file: RoadFile,
    controller: mpc.TightenedMPC,
    plant: Any,
    noise: Array,
    measured: Array | None,
    progress: Callable[[int], None],
) -> list[mpc.ClosedLoopResult]:
    """Closed loops with errors of inputs and forecasts as declared, each from another seed.

    Recorded inputs are the commanded ones here, so that the true ones differ from both by `error`. The future of set
    points is known only where that of measured inputs has to be: what a certificate covers is a forecast that is right
    to within `command_error`.

    Args:
        file: The road file.
        controller: The controller.
        plant: The plant.
        noise: Standard deviation of the noise, shape (ny,).
        measured: Values of measured inputs, shape (T, number), or None.
        progress: Called with the number of loops that are done.
    """
    wanted = references_of(file)
    forecast = [i.command_error for i in file.inputs if i.role == "measured"]
    acting = mpc.Disturbances(
        noise_std=noise, input_error=[i.error for i in file.inputs], forecast_error=forecast or 0.0
    )
    found = []
    for i in range(file.simulate.loops):
        seed = int(np.random.SeedSequence([file.seed, i]).generate_state(1)[0])
        start = None
        if isinstance(plant, RecordedErrors):
            start = mpc.Start(x0=plant.start(int(np.random.default_rng(seed).integers(plant.samples))))
        found.append(
            mpc.run_closed_loop(
                plant,
                controller,
                reference=wanted,
                steps=len(wanted),
                seed=seed,
                start=start,
                disturbances=acting,
                measured_inputs=measured,
                preview=measured is not None,
            )
        )
        progress(i + 1)
    return found


def measured_inputs(file: RoadFile, data: Dataset) -> Array | None:
    """Values of measured inputs during the loops, as they were recorded, shape (T, number); None without such."""
    columns = [j for j, i in enumerate(file.inputs) if i.role == "measured"]
    if not columns:
        return None
    longest = max((*data.test, *data.train), key=len)
    lower, upper = (np.array([getattr(s, side) for s in signals_of(file)[0]])[columns] for side in ("lower", "upper"))
    return np.clip(longest.u[:, columns], lower, upper)


def promise_words(file: RoadFile, error: mpc.ModelError) -> str:
    """What the calibrated promise says of a whole loop, which may be longer than the records, in a sentence.

    Args:
        file: The road file.
        error: The calibrated model error.
    """
    steps = len(references_of(file))
    if steps <= error.starts:
        return f"the promise covers the {steps} steps of a loop with probability {error.coverage:.2g}"
    over = error.coverage_over(steps)
    said = f"with probability {over:.2g}" if over > 0 else "with no probability above 0"
    return (
        f"a loop has {steps} steps, a calibration record {error.starts} predictions: the promise covers a whole loop "
        f"{said} (longer records would promise more)"
    )


def loop_words(name: str, loops: Sequence[mpc.ClosedLoopResult], outputs: Sequence[Signal]) -> str:
    """What loops showed, in a sentence."""
    left = sum(loop.violations > 0 for loop in loops)
    worst = np.max([loop.excess.max(axis=0) for loop in loops], axis=0)
    failed = sum(loop.failed_solves for loop in loops)
    said = f"{name}: {left} of {len(loops)} loops left a limit"
    if left:
        i = int(np.argmax(worst / np.array([_span(o) for o in outputs])))
        said += f", {outputs[i].name} by up to {worst[i]:.3g} {outputs[i].unit}".rstrip()
    said += f"; mean cost {np.mean([loop.cost for loop in loops]):.4g}"
    if any(loop.bounds.any() for loop in loops):
        said += f"; {100 * np.mean([loop.inside for loop in loops]):.1f} % of predictions in their bounds"
    return said + (f"; {failed} problems without a solution" if failed else "")


def _span(signal: Signal) -> float:
    span = signal.upper - signal.lower
    return span if np.isfinite(span) else 1.0
