"""What `identify` returns: the deployed system, the trained model, how training went and how good it is."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from controlrnn.checks import Array, read_only
from controlrnn.data import Scaler, Trajectory
from controlrnn.errors import FileFormatError
from controlrnn.identification.metrics import Scores
from controlrnn.identification.settings import FitStatus, InitialState, Settings
from controlrnn.identification.simulation import free_run, initial_states
from controlrnn.models import Model
from controlrnn.records import load_record, save_record
from controlrnn.systems import LureSystem
from controlrnn.systems.kinds import SYSTEMS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_VERSION = 2


@dataclass(frozen=True, eq=False)
class FitResult:
    """An identified system.

    Args:
        system: The frozen system with the best validation error, physical units.
        model: The trained model with these parameters; None after `load` without one.
        history: Arrays ``step, loss, validation, learning_rate``, one entry per validation. Losses are mean values
            since the last validation (NaN before the first step), in scaled units; validation is the root mean square
            free-run error in units of the training outputs' standard deviation.
        scores: For each non-empty part of the dataset (``"train"``, ``"validation"``, ``"test"``).
        status: How training ended.
        settings: The options it ran with.
        skip: Samples at the start of each record that scores leave out.
        seconds: Wall time of this call [s].
    """

    system: LureSystem
    model: Model | None
    history: Mapping[str, Array]
    scores: Mapping[str, Scores]
    status: FitStatus
    settings: Settings
    skip: int
    seconds: float

    def __post_init__(self) -> None:
        put = object.__setattr__
        put(self, "history", MappingProxyType({n: read_only(v) for n, v in self.history.items()}))
        put(self, "scores", MappingProxyType(dict(self.scores)))

    @property
    def seed(self) -> int:
        """Seed of the windows drawn in training."""
        return self.settings.seed

    @property
    def best_validation(self) -> float:
        """Lowest validation error."""
        return float(np.min(self.history["validation"]))

    def simulate(self, record: Trajectory) -> Array:
        """Free run over ``record`` from the initial state that scoring uses, shape (T, ny), physical units."""
        estimate = self.settings.initial_state is InitialState.ESTIMATED
        x0 = initial_states(self.system, [record], self.skip if estimate else 0)
        return free_run(self.system, [record], x0)[0][0]

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write everything, the model's parameters included, to a record (atomic, no pickle)."""
        matrices, described = self.system.record()
        arrays: dict[str, NDArray[Any]] = {f"system/{n}": matrix for n, matrix in matrices.items()}
        arrays |= {f"history/{n}": v for n, v in self.history.items()}
        arrays |= {f"scores/{part}/{n}": v for part, s in self.scores.items() for n, v in vars(s).items()}
        if self.model is not None:
            arrays |= {f"parameters/{n}": p.detach().cpu().numpy() for n, p in self.model.state_dict().items()}
            for name, scaler in (("inputs", self.model.input_scaler), ("outputs", self.model.output_scaler)):
                arrays |= {f"units/{name}/shift": scaler.shift, f"units/{name}/scale": scaler.scale}
        meta = {
            **described, "kind": self.system.KIND,
            "status": str(self.status), "settings": asdict(self.settings), "skip": self.skip, "seconds": self.seconds,
        }  # fmt: skip
        save_record(path, "fit-result", _VERSION, arrays, meta)

    @classmethod
    def load(cls, path: str | os.PathLike[str], model: Model | None = None) -> FitResult:
        """Read what `save` wrote.

        Args:
            path: The file.
            model: A model built like the trained one; it takes the saved parameters, their precision and the units.

        Raises:
            FileFormatError: Not such a file, or parameters that do not fit ``model``.
        """
        arrays, meta = load_record(path, "fit-result", _VERSION)

        def part(name: str) -> dict[str, Array]:
            return {k.removeprefix(name): v for k, v in arrays.items() if k.startswith(name)}

        if model is not None:
            parameters = {n: torch.from_numpy(v) for n, v in part("parameters/").items()}
            if parameters:
                model.to(next(iter(parameters.values())).dtype)
            try:
                model.load_state_dict(parameters)
            except RuntimeError as error:
                raise FileFormatError(f"{path} holds parameters of another model: build it alike ({error})") from error
            inputs, outputs = (Scaler(**part(f"units/{name}/")) for name in ("inputs", "outputs"))
            model.set_units(inputs, outputs, meta["dt"])
        system: Any = SYSTEMS[meta["kind"]].from_record(part("system/"), meta)
        parts = {k.split("/")[1] for k in arrays if k.startswith("scores/")}
        scores = {p: Scores(**{f.name: arrays[f"scores/{p}/{f.name}"] for f in fields(Scores)}) for p in parts}
        return cls(
            system, model, part("history/"), scores, FitStatus(meta["status"]), Settings(**meta["settings"]),
            meta["skip"], meta["seconds"],
        )  # fmt: skip

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
            for panel in (above, below):
                panel.axvspan(0.0, self.skip * record.dt, color="0.93", zorder=0)
        panels[-1].set_xlabel("time [s]")
        return figure
