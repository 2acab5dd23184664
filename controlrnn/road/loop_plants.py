"""Plants that a road's simulated loops run on: the model with recorded errors, or one of the user's."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import mpc
from controlrnn.checks import Array
from controlrnn.data import Dataset, Signal, Trajectory
from controlrnn.errors import DataError, SettingError
from controlrnn.road.file.schema import RoadFile


class RecordedErrors:
    """Plant that is the model with the errors which it had on a record: what it should have predicted did happen.

    Its state is the model's and the number of the sample, from which on the errors are repeated.

    Args:
        predictor: The model with channels and limits.
        errors: Outputs minus the model's, shape (T, ny); after the last one the first follows.
        held: Input that its steady state at the start belongs to, shape (nu,).
    """

    def __init__(self, predictor: mpc.Predictor, errors: Array, held: Array) -> None:
        self._predictor = predictor
        self._errors = errors
        self._held = held
        self.dt = predictor.dt
        self.inputs: tuple[Signal, ...] = predictor.inputs
        self.outputs: tuple[Signal, ...] = predictor.outputs
        self.nx = predictor.nx + 1

    @property
    def samples(self) -> int:
        """Number of errors."""
        return len(self._errors)

    def initial_state(self) -> Array:
        """Steady state under the held input, at the record's first error, shape (nx,)."""
        return self.start(0)

    def start(self, sample: int) -> Array:
        """Steady state under the held input, at one of the errors, shape (nx,).

        Args:
            sample: Number of the error.
        """
        return np.concatenate([self._predictor.equilibrium(self._held), [float(sample)]])

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
        data: Data: test records, else others that the model was not fitted to, else training records; of them the first
            in which every output was measured.
        predictor: The model.
        start: State that runs start from, shape (nx,); its washout is left out.

    Raises:
        DataError: No part has records that are long enough, and measured.
    """
    least = file.promise.washout + 2
    for part in ("test", "calibration", "validation", "train"):
        records: Sequence[Trajectory] = [r for r in getattr(data, part) if len(r) >= least]
        if records:
            errors = [(r.y - predictor.predict(start, r.u[:-1]))[file.promise.washout :] for r in records]
            joined = np.concatenate(errors)
            if (~np.isnan(joined)).any(axis=0).all():  # else nothing says what the errors of some output are
                return _filled(joined), f"{len(records)} {part} record(s)"
    raise DataError(
        f"no part of the data has records of the {least} samples that the errors of the simulated plant need, with "
        "readings of every output: record more, or name a plant in simulate.plant"
    )


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
