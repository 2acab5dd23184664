"""Result of `identify`: the deployed system, the trained model, the history of training and the scores."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from controlrnn.checks import Array, count, positive, put, read_only, shown, texts
from controlrnn.data import Scaler, Trajectory
from controlrnn.errors import FileFormatError, SettingError
from controlrnn.identification.scores.free_run import free_run
from controlrnn.identification.scores.metrics import Scores
from controlrnn.identification.training.loop import beginnings
from controlrnn.identification.training.settings import FitStatus, Settings
from controlrnn.models import Model
from controlrnn.records import (
    Count,
    FreeArrays,
    Number,
    Numbers,
    Part,
    Schema,
    Stored,
    TableOf,
    Text,
    load_record,
    restoring,
)
from controlrnn.records.stored import Arrays, Meta
from controlrnn.systems import GatedSystem, LureSystem
from controlrnn.systems.ops import frozen
from controlrnn.typed import typed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_HISTORY = {f"history_{name}": name for name in ("step", "loss", "validation", "learning_rate")}
_PARTS = ("train", "validation", "test")


@dataclass(frozen=True, eq=False)
class _Kept(Stored):
    """Parts of a fit that are stored as records of their own."""

    SCHEMA: ClassVar[Schema] = Schema(
        "fit-parts", 1,
        parts={
            "system": Part((LureSystem, GatedSystem), own=True), "settings": Part(Settings, own=True),
            **{name: Part(Scores, none=True, own=True) for name in _PARTS},
            **{name: Part(Scaler, none=True, own=True) for name in ("inputs", "outputs", "states")},
        },
    )  # fmt: skip

    system: Any
    settings: Settings
    train: Scores | None
    validation: Scores | None
    test: Scores | None
    inputs: Scaler | None
    outputs: Scaler | None
    states: Scaler | None


@dataclass(frozen=True, eq=False)
@typed(unchecked=("system",))
class FitResult(Stored):
    """Identified system, with the trained model, the history of training and the scores.

    Args:
        system: The frozen system with the best validation error, physical units.
        model: The trained model with these parameters; None after `load` without one.
        history: Arrays ``step, loss, validation, learning_rate``, one entry per validation. Losses are mean values
            since the last validation (NaN before the first step), in scaled units; validation is the root mean square
            free-run error in units of the training outputs' standard deviation.
        scores: Scores of each non-empty part of the dataset (``"train"``, ``"validation"``, ``"test"``).
        status: How training ended.
        settings: Options of the training.
        skip: Samples at the start of each record that scores leave out.
        seconds: Wall time of this call [s].
        arithmetic: Processor and library that it was trained on, see `controlrnn.arithmetic`: elsewhere the same seed
            gives another result.
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "fit-result", 5,  # 4: without scalers of measured states
        arrays={name: Numbers("V", nan=True, infinite=True) for name in _HISTORY},
        meta={
            "status": Text(choices=FitStatus), "skip": Count(), "seconds": Number(least=0.0),
            "arithmetic": TableOf(Text(1000)),
        },
        parts=_Kept.SCHEMA.parts, free={"parameters": FreeArrays()},
    )  # fmt: skip

    system: LureSystem
    model: Model | None
    history: Mapping[str, Array]
    scores: Mapping[str, Scores]
    status: FitStatus
    settings: Settings
    skip: int
    seconds: float
    arithmetic: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if set(self.history) != set(_HISTORY.values()) or len({len(v) for v in self.history.values()}) > 1:
            raise SettingError(
                f"history must have arrays of one length by the names {', '.join(_HISTORY.values())}, got "
                f"{', '.join(f'{n}: {np.shape(v)}' for n, v in self.history.items()) or 'none'}"
            )
        history = {n: read_only(v) for n, v in self.history.items()}
        if not isinstance(self.system, LureSystem | GatedSystem):
            raise SettingError(f"system must be a LureSystem or a GatedSystem, got {shown(self.system)}")
        frozen(self.system)
        put(
            self,
            history=MappingProxyType(history),
            scores=MappingProxyType(dict(self.scores)),
            status=FitStatus(self.status),
            skip=count("skip", self.skip, least=0),
            seconds=positive("seconds", self.seconds, zero=True),
            arithmetic=MappingProxyType(texts("arithmetic", self.arithmetic)),
        )

    def __repr__(self) -> str:
        system = self.system
        neurons = f", {system.nv} neurons" if isinstance(system, LureSystem) else f", {system.units} units"
        model = type(system).__name__ if self.model is None else type(self.model).__name__
        digits, ny = "{:.4g}", system.ny
        lines = [
            f"FitResult of {model}: {system.nx} states{neurons}, {system.nu} inputs, {ny} outputs, dt {system.dt:g} s",
            f"  {self.status} after {int(self.history['step'][-1]) if len(self.history['step']) else 0} steps and "
            f"{self.seconds:.1f} s, seed {self.seed}, lowest validation NRMSE {self.best_validation:.4g}",
        ]
        for part, found in self.scores.items():
            for name, values in (("RMSE", found.rmse), ("fit %", found.fit_percent)):
                shown = " ".join(digits.format(v) for v in values[:8]) + (" ..." if ny > 8 else "")
                lines.append(f"  {part:<10} {name:<5} {shown}")
        return "\n".join([*lines, f"  scores leave out the first {self.skip} samples; digest {system.digest[:16]}"])

    @property
    def seed(self) -> int:
        """Seed of the windows drawn in training."""
        return self.settings.seed

    @property
    def best_validation(self) -> float:
        """Lowest validation error."""
        return float(np.min(self.history["validation"]))

    def simulate(self, record: Trajectory) -> Array:
        """Simulate ``record`` freely from the initial state that scoring uses, shape (T, ny), physical units."""
        x0 = beginnings(self.system, [record], self.settings.initial_state, self.skip)
        return free_run(self.system, [record], x0)[0][0]

    def record(self) -> tuple[Arrays, Meta]:
        """Arrays and JSON values of this result, the model's parameters included."""
        scores: dict[str, Any] = {name: self.scores.get(name) for name in _PARTS}
        names = {"inputs": "input_scaler", "outputs": "output_scaler", "states": "state_scaler"}
        scalers = {name: getattr(self.model, own, None) for name, own in names.items()}
        kept = _Kept(self.system, self.settings, **scores, **scalers)
        arrays, meta = kept.record()
        arrays |= {stored: np.asarray(self.history[name]) for stored, name in _HISTORY.items()}
        if self.model is not None:
            arrays |= {f"parameters/{n}": p.detach().cpu().numpy() for n, p in self.model.state_dict().items()}
        return arrays, meta | {"status": str(self.status), "skip": self.skip, "seconds": self.seconds} | {
            "arithmetic": dict(self.arithmetic)
        }

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Model | None = None) -> FitResult:
        """Read a result from a file that `save` wrote.

        Args:
            path: The file.
            model: A model built like the trained one; it takes the saved parameters, their precision and the units.

        Raises:
            FileFormatError: The file holds no result, or its parameters do not fit ``model``.
        """
        arrays, meta = load_record(path, cls.SCHEMA)
        with restoring(path):
            kept = _Kept.from_record(
                {n: a for n, a in arrays.items() if n not in _HISTORY and not n.startswith("parameters/")},
                {n: meta[n] for n in _Kept.SCHEMA.parts},
            )
            if model is not None:
                _put(model, {n.removeprefix("parameters/"): a for n, a in arrays.items() if "/" in n}, kept)
            scores = {p: s for p in _PARTS if (s := getattr(kept, p)) is not None}
            history = {name: arrays[stored] for stored, name in _HISTORY.items()}
            status, skip, seconds = FitStatus(meta["status"]), meta["skip"], meta["seconds"]
            return cls(kept.system, model, history, scores, status, kept.settings, skip, seconds, meta["arithmetic"])

    def plot(self, record: Trajectory) -> Figure:
        """Draw measured and simulated outputs and the residual over time; returns the figure."""
        from matplotlib.figure import Figure

        simulated = self.simulate(record)
        figure = Figure(figsize=(9, 2.8 * record.ny), layout="constrained")
        panels = figure.subplots(2 * record.ny, 1, sharex=True, height_ratios=[2, 1] * record.ny, squeeze=False)[:, 0]
        for i, signal in enumerate(record.outputs):
            above, below = panels[2 * i], panels[2 * i + 1]
            above.plot(record.time, record.y[:, i], color="0.3", label="measured")
            above.plot(record.time, simulated[:, i], color="C1", label="simulated")
            above.set_ylabel(signal.label)
            above.legend(loc="best")
            below.plot(record.time, record.y[:, i] - simulated[:, i], color="C3", linewidth=0.8)
            below.axhline(0.0, color="0.6", linewidth=0.6)
            below.set_ylabel("residual")
            for panel in (above, below):  # the samples that scores leave out
                panel.axvspan(0.0, self.skip * record.dt, color="0.93", zorder=0)
        panels[-1].set_xlabel("time [s]")
        return figure


def _put(model: Model, found: Mapping[str, NDArray[Any]], kept: _Kept) -> None:
    """Set the parameters and units of ``model`` to those on file, after checking that they fit."""
    if kept.inputs is None or kept.outputs is None or not found:
        raise FileFormatError("it holds no parameters of a model: load it without one")
    expected = {n: tuple(p.shape) for n, p in model.state_dict().items()}
    got = {n: a.shape for n, a in found.items()}
    if got != expected or (len(kept.inputs.shift), len(kept.outputs.shift)) != (model.nu, model.ny):
        other = sorted(n for n in {*got, *expected} if got.get(n) != expected.get(n))
        raise FileFormatError(f"it holds parameters of another model ({', '.join(other[:3])} differ): build it alike")
    parameters = {n: torch.from_numpy(a) for n, a in found.items()}
    floating = [p.dtype for p in parameters.values() if p.is_floating_point()]
    if len(set(floating)) != 1:
        raise FileFormatError("its parameters must be of one precision")
    model.to(floating[0])
    model.load_state_dict(parameters)
    model.set_units(kept.inputs, kept.outputs, kept.system.dt, kept.states)
