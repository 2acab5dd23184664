"""Training loop of `identify`: optimiser steps, validation, the best parameters, recovery from a bad step."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from controlrnn.checks import Array
from controlrnn.data import Dataset, Trajectory
from controlrnn.errors import DataError, TrainingError
from controlrnn.identification.losses.base import Loss, Simulation
from controlrnn.identification.losses.windows import Windows
from controlrnn.identification.scores.free_run import free_run, initial_states
from controlrnn.identification.states.measured import measured_states
from controlrnn.identification.training.progress import Progress
from controlrnn.identification.training.settings import InitialState, Keep, Settings
from controlrnn.kernels import simulate
from controlrnn.models import Model
from controlrnn.systems import GatedSystem, LureSystem

HISTORY = ("step", "loss", "validation", "learning_rate")
_MOST_RECOVERIES = 8
_Singular: type[Exception] = torch.linalg.LinAlgError  # type: ignore[attr-defined]  # missing in torch's own stubs
_log = logging.getLogger(__name__)


def beginnings(system: LureSystem | GatedSystem, records: Sequence[Trajectory], kind: InitialState, skip: int) -> Array:
    """Initial states of free runs, as `Settings.initial_state` asks for, shape (R, nx)."""
    if kind is InitialState.MEASURED:
        return np.array([x[0] for x in measured_states(records, system.nx)]).reshape(len(records), system.nx)
    return initial_states(system, records, skip if kind is InitialState.ESTIMATED else 0)


class Trainer:
    """State of a training run, with its steps and validations; `checkpoint` writes and reads it.

    Args:
        model: The model to train, in place; its scalers are set.
        dataset: Records; the training records serve as validation records where there are none.
        loss: Loss to minimise.
        settings: Options.
        window: Samples per window.
        skip: Samples left out by validation.
    """

    def __init__(self, model: Model, dataset: Dataset, loss: Loss, settings: Settings, window: int, skip: int) -> None:
        self.model = model
        self.loss = loss
        self.settings = settings
        self.skip = skip
        self.train = dataset.train
        self.validation = dataset.validation or dataset.train
        # A window that was not asked for is not set by one short record: that one gives no windows.
        self.windowed = tuple(r for r in self.train if settings.window is not None or len(r) >= window)
        self.windows = Windows(self.windowed, window, model.input_scaler, model.output_scaler, model.nx, settings.dtype)
        if settings.initial_state is InitialState.MEASURED:
            # `carry` leaves out the state after the last sample.
            measured = (self._scaled(x) for x in measured_states(self.windowed, model.nx))
            self.windows.carry([np.concatenate([x, x[-1:]]) for x in measured])
        self.rng = torch.Generator().manual_seed(settings.seed)
        self.optimiser = self._new_optimiser()
        self.step = 0
        self.validated = -1
        self.best = np.inf
        self.best_parameters = copy.deepcopy(model.state_dict())
        self.since_best = 0
        self.rate_factor = 1.0
        self.recoveries = 0
        self.refining = False
        self.losses: list[float] = []
        self.history: dict[str, list[float]] = {name: [] for name in HISTORY}

    @property
    def learning_rate(self) -> float:
        """Learning rate of the next step; NaN in a refinement, which has none."""
        s = self.settings
        if self.refining:
            return np.nan
        return s.learning_rate * self.rate_factor * s.schedule.factor(self.step, s.steps)

    @property
    def out_of_patience(self) -> bool:
        """Whether the validation error has stopped improving."""
        return self.settings.patience is not None and self.since_best >= self.settings.patience

    @property
    def progress(self) -> Progress:
        """State of the run as the callbacks get it."""
        last = self.history["validation"][-1] if self.history["validation"] else np.inf
        loss = self.losses[-1] if self.losses else np.nan
        return Progress(self.step, self.settings.all_steps, loss, last, self.best, self.learning_rate)

    def validate(self) -> None:
        """Simulate the validation records freely, record the error and keep the best parameters."""
        error = self.validation_error()
        for name, value in zip(HISTORY, (self.step, self._mean_loss(), error, self.learning_rate), strict=True):
            self.history[name].append(float(value))
        _log.info(
            "step %d: loss %.4g, validation NRMSE %.4g, lowest %.4g",
            self.step,
            self.history["loss"][-1],
            error,
            min(error, self.best),
        )
        self.losses.clear()
        self.validated = self.step
        better = error < self.best
        self.best = error if better else self.best
        self.since_best = 0 if better else self.since_best + 1
        if better or (self.settings.keep is Keep.LAST and np.isfinite(error)):
            self.best_parameters = copy.deepcopy(self.model.state_dict())

    def validation_error(self) -> float:
        """Root mean square of the scaled free-run error over all validation records; infinite if a run diverges."""
        system = self._frozen()
        if system is None:
            return np.inf
        runs, _ = self._run(system, self.validation)
        scale = self.model.output_scaler.scale
        errors = [
            ((y - r.y) / scale)[self.skip :][~r.missing[self.skip :]]
            for y, r in zip(runs, self.validation, strict=True)
        ]
        with np.errstate(over="ignore", invalid="ignore"):
            value = float(np.sqrt(np.mean(np.square(np.concatenate(errors)))))
        return value if np.isfinite(value) else np.inf

    def carry(self) -> None:
        """Set the initial states of the windows from a free run of the training records at the present parameters."""
        system = self._frozen() if self.settings.initial_state is InitialState.ESTIMATED else None
        if system is None:
            return
        _, states = self._run(system, self.windowed)
        if all(np.isfinite(x).all() for x in states):
            self.windows.carry(states)

    def advance(self) -> bool:
        """Take one optimiser step; returns False after too many steps whose loss was not finite.

        Raises:
            TrainingError: The loss is not finite at the very first step.
        """
        loss = self._loss()
        if loss is None:
            if self.step == 0:
                raise TrainingError(
                    "the loss is not finite at the first step: the initial model is unstable over a window; shorten "
                    "window, or start from another seed or a linear model"
                )
            self._recover()
        else:
            self.losses.append(float(loss.detach()))
        self.step += 1
        return self.recoveries <= _MOST_RECOVERIES

    def begin_refinement(self) -> None:
        """Switch to the refinement: the best parameters, float64, and a patience counted anew."""
        self.restore_best()
        self.model.double()
        self.best_parameters = copy.deepcopy(self.model.state_dict())
        self.since_best = 0
        self.refining = True

    def starting_states(self) -> Array | None:
        """Initial states of the training records at the present parameters; None where they are zero by setting."""
        kind = self.settings.initial_state
        if kind is InitialState.ZERO:
            return None
        return self._scaled(beginnings(self.model.freeze(), self.train, kind, self.skip))

    def restore_best(self) -> None:
        """Set the model to the best parameters."""
        self.model.load_state_dict(self.best_parameters)

    def _loss(self) -> Tensor | None:
        """Take a gradient step and return the loss before it; None, without a step, where something is not finite."""
        batch = self.windows.draw(self.settings.batch_size, self.rng, self.step)
        self.optimiser.zero_grad(set_to_none=True)
        try:
            system = self.model.system()
            loss = self.loss(system, batch, Simulation(*simulate(system, batch.u, batch.x0)))
            penalty = self.model.penalty(self.step / self.settings.steps)
            total = loss if penalty is None else loss + penalty
            if not torch.isfinite(total):
                return None
            total.backward()  # type: ignore[no-untyped-call]
        except _Singular:  # the direct parameters grew until a matrix became singular
            return None
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.clip)
        if not torch.isfinite(norm):
            return None
        self.optimiser.param_groups[0]["lr"] = self.learning_rate
        # `after_step` may have to go back from the new parameters towards these.
        before = [p.detach().clone() for p in self.model.parameters()]
        self.optimiser.step()
        self.model.after_step(before)
        return loss

    def _recover(self) -> None:
        """Return to the best parameters, with half the learning rate and a fresh optimiser."""
        self.recoveries += 1
        self.rate_factor /= 2
        self.restore_best()
        self.optimiser = self._new_optimiser()
        _log.warning("step %d: loss not finite; back to the best parameters, learning rate halved", self.step)

    def _new_optimiser(self) -> torch.optim.Adam:
        """Adam without moments of earlier steps."""
        return torch.optim.Adam(self.model.parameters(), lr=self.settings.learning_rate)

    def _frozen(self) -> LureSystem | None:
        """Frozen system at the present parameters; None where its matrices are not finite."""
        try:
            return self.model.freeze()
        except (DataError, _Singular):  # matrices that are not finite
            return None

    def _run(self, system: LureSystem, records: tuple[Trajectory, ...]) -> tuple[list[Array], list[Array]]:
        """Outputs and states of free runs, from initial states as the settings ask for."""
        return free_run(system, records, beginnings(system, records, self.settings.initial_state, self.skip))

    def _scaled(self, states: Array) -> Array:
        """States in the model's units."""
        scaler = self.model.state_scaler
        return states if scaler is None else scaler.apply(states)

    def _mean_loss(self) -> float:
        """Mean loss since the last validation; NaN before the first step."""
        return float(np.mean(self.losses)) if self.losses else np.nan
