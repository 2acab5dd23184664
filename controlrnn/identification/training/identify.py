"""Identification by training: `identify` fits a model's free parameters to records and returns a frozen system."""

from __future__ import annotations

import copy
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, Unpack

import numpy as np
import torch

from controlrnn.arithmetic import arithmetic
from controlrnn.checks import Array
from controlrnn.data import Dataset, Scaler
from controlrnn.data.checking.excitation import input_scaler
from controlrnn.errors import DataError, SettingError, ShapeError, StorageError, TrainingError
from controlrnn.identification.linear.regression import answers_late
from controlrnn.identification.linear.subspace import identify_subspace
from controlrnn.identification.losses.base import Loss, SimulationError
from controlrnn.identification.scores.free_run import score
from controlrnn.identification.states.measured import measured_states
from controlrnn.identification.training.checkpoint import fingerprint, load_checkpoint, save_checkpoint
from controlrnn.identification.training.loop import Trainer, beginnings
from controlrnn.identification.training.progress import Callback
from controlrnn.identification.training.refinement import Refinement, check_refinable
from controlrnn.identification.training.result import FitResult
from controlrnn.identification.training.settings import FitStatus, InitialState, Keep, Options, Refine, Settings, Start
from controlrnn.models import Model
from controlrnn.models.parts.contracting_linear import POLE, largest_pole
from controlrnn.models.parts.linear_start import Linear
from controlrnn.records.writing import exists
from controlrnn.typed import typed

_log = logging.getLogger(__name__)
_HELD = 0.9  # share of the samples that is in records which are long enough for a window


@typed()
def identify(
    model: Model,
    dataset: Dataset,
    *,
    loss: Loss | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    callbacks: Sequence[Callback] = (),
    **options: Unpack[Options],
) -> FitResult:
    """Fit ``model`` to the training records and keep the parameters that simulate the validation records best.

    Adam minimises the loss on random windows; every `Settings.validate_every` steps the model is frozen and simulates
    whole validation records freely. After a step whose loss or gradient is not finite, training returns to the best
    parameters and halves the learning rate. Then, if ``refine`` asks for it, L-BFGS or Levenberg-Marquardt continues
    from the best parameters in float64, on the loss over whole training records, whose initial states become variables
    with ``initial_state="estimated"``. Ctrl-C ends training with the best parameters so far. The same seed gives the
    same result on the same processor and library (`controlrnn.arithmetic`); elsewhere rounding differs, and long
    training amplifies that.

    Args:
        model: Model whose parameters are the starting point. It is copied, not changed.
        dataset: Records in physical units; the scaling is fitted to the training records and stored in the model.
        loss: Loss to minimise; `SimulationError` with a washout of 20 samples when left out.
        checkpoint: File that the state of training is written to at every validation. If it exists, training continues
            from there, to the same bits as without a break; one that another processor made is refused.
        callbacks: Listeners, e.g. `TqdmProgress`.
        options: Fields of `Settings`, e.g. ``steps=3000, window=200, seed=1``; editors complete them.

    Returns:
        The identified system with history and scores.

    Raises:
        SettingError: An option is unknown or out of range, the loss leaves nothing of a window, the model has nothing
            to train, or a feedthrough that the records cannot have (see `controlrnn.data.Timing`).
        ShapeError: Model and records have different channels.
        DataError: A record is too short (the message says which).
        TrainingError: The loss is not finite from the very first step, or the checkpoint is another run's.
        FileFormatError: The checkpoint is damaged.
        KeyboardInterrupt: Ctrl-C was pressed before any parameters gave a finite validation error.
    """
    began = time.perf_counter()
    loss = SimulationError(washout=20) if loss is None else loss
    settings = _settings(dict(options))
    window, skip = _lengths(model, dataset, loss, settings)
    if getattr(model, "D22", None) is not None or getattr(model, "feedthrough", False):
        answers_late(dataset.train, False)
    if not dataset.validation and settings.keep is Keep.BEST:
        _log.warning("no validation records: the best parameters are chosen on the training records")
    mark = fingerprint(model, dataset, loss, settings)
    model = copy.deepcopy(model)
    measured = settings.initial_state is InitialState.MEASURED
    if settings.start is not Start.CONTINUE:
        states = Scaler.fit(measured_states(dataset.train, model.nx)) if measured else None
        outputs = Scaler.fit([r.y for r in dataset.train])
        model.set_units(input_scaler(dataset.train), outputs, dataset.dt, states)
    if not measured:  # a subspace model has states of its own
        start_at_linear(model, dataset, settings.start, horizon=settings.start_horizon)
    model.to(settings.dtype)
    trainer = Trainer(model, dataset, loss, settings, window, skip)
    ended, refinement = None, None
    if checkpoint and exists(checkpoint):
        ended, refinement = load_checkpoint(checkpoint, trainer, mark)
    status = ended or _train(trainer, refinement, callbacks, checkpoint, mark)
    for callback in callbacks:
        callback.on_end(status)
    trainer.restore_best()
    if not trainer.history["validation"] or min(trainer.history["validation"]) == float("inf"):
        if status is FitStatus.INTERRUPTED:
            raise KeyboardInterrupt  # there is nothing to return
        raise TrainingError(
            "no validation gave a finite simulation error: the model is unstable over whole records; use a contracting "
            "model, or a longer window"
        )
    system = model.freeze()
    parts = {name: getattr(dataset, name) for name in ("train", "validation", "test") if getattr(dataset, name)}
    scores = {
        name: score(system, records, skip=skip, x0=beginnings(system, records, settings.initial_state, skip))
        for name, records in parts.items()
    }
    history = {name: np.asarray(values, dtype=np.float64) for name, values in trainer.history.items()}
    return FitResult(system, model, history, scores, status, settings, skip, time.perf_counter() - began, arithmetic())


def start_at_linear(model: Model, dataset: Dataset, start: Start, *, horizon: int | None = None) -> None:
    """Start ``model`` at a subspace model of the training records, if ``start`` asks for it and the model allows it.

    Raises:
        SettingError: ``start`` insists and the model cannot start at a linear one.
        DataError: ``start`` insists and the records do not allow a subspace model.
    """
    can = hasattr(model, "start_linear")
    if start in (Start.AS_IS, Start.CONTINUE) or (start is Start.AUTO and not can):
        return
    if not can:
        raise SettingError(f"{type(model).__name__} cannot start at a linear model: use start='auto' or 'as_is'")
    # A prescribed contraction rate limits the poles; close to the limit the guarantee may leave no margin for neurons.
    rate = float(getattr(model, "rate", 1.0))
    failure: SettingError | DataError | None = None
    for limit in sorted({largest_pole(rate), POLE * rate}, reverse=True):
        try:
            by = _start_at_subspace(model, dataset, start, horizon, limit)
            break
        except (SettingError, DataError) as error:
            failure = error
    else:
        assert failure is not None
        if start is Start.LINEAR:
            raise failure
        _log.warning("no linear start: %s", failure)
        return
    # `start_linear` sets offsets to zero; the subspace model has one for the outputs.
    offset = getattr(model, "by", None)
    if isinstance(offset, torch.nn.Parameter):
        with torch.no_grad():
            offset.copy_(torch.tensor(by))


def _start_at_subspace(model: Model, dataset: Dataset, start: Start, horizon: int | None, limit: float) -> Array:
    """Start ``model`` at a subspace model with poles up to ``limit``; returns its output offset, shape (ny,)."""
    linear = identify_subspace(
        dataset.train,
        model.nx,
        horizon=horizon,
        strictly_proper=getattr(model, "D22", None) is None,  # a feedthrough only if the model has one
        max_radius=limit,
        inputs=model.input_scaler,
        outputs=model.output_scaler,
    )
    # Copies, because torch does not take read-only arrays.
    found = Linear(*(np.array(M) for M in (linear.A, linear.B, linear.C, linear.D)))
    found = found if start is Start.LINEAR else found.with_gain_below(getattr(model, "gamma", None), limit)
    model.start_linear(found.A, found.B, found.C, found.D)  # type: ignore[operator]
    return linear.by


def _train(
    trainer: Trainer,
    refinement: Refinement | None,
    callbacks: Sequence[Callback],
    checkpoint: str | os.PathLike[str] | None,
    mark: dict[str, str],
) -> FitStatus:
    """Run Adam and the refinement to their end, with a checkpoint right after every validation."""

    def keep(refinement: Refinement | None, status: FitStatus | None) -> None:
        if checkpoint:
            try:
                save_checkpoint(checkpoint, trainer, refinement, mark, str(status or ""))
            except StorageError as error:
                _log.warning("step %d: %s; training goes on without a new checkpoint", trainer.step, error)

    try:
        if refinement is None:
            status = _adam(trainer, callbacks, lambda end: keep(None, end))
            if trainer.settings.refine is Refine.NONE:
                keep(None, status)
                return status
            trainer.begin_refinement()
            refinement = Refinement(trainer)
        status = _refine(trainer, refinement, callbacks, lambda end: keep(refinement, end))
        keep(refinement, status)
        return status
    except KeyboardInterrupt:
        _log.warning("interrupted at step %d: the best parameters so far are returned", trainer.step)
        if not trainer.history["validation"]:
            trainer.validate()
        return FitStatus.INTERRUPTED


def _adam(trainer: Trainer, callbacks: Sequence[Callback], keep: Callable[[FitStatus | None], None]) -> FitStatus:
    """Run the steps of Adam on windows; ``keep`` is called whenever a checkpoint may be written, except at the end."""
    settings = trainer.settings
    while True:
        done = trainer.step >= settings.steps
        if trainer.step % settings.validate_every == 0 or done:
            if trainer.validated != trainer.step:
                trainer.validate()
            if done:
                return FitStatus.FINISHED
            if trainer.out_of_patience:
                return FitStatus.STOPPED_EARLY
            keep(None)
            trainer.carry()
        if not trainer.advance():
            return FitStatus.DIVERGED
        for callback in callbacks:
            callback.on_step(trainer.progress)


def _refine(
    trainer: Trainer, refinement: Refinement, callbacks: Sequence[Callback], keep: Callable[[FitStatus | None], None]
) -> FitStatus:
    """Run the second-order iterations on whole records; ``keep`` is called after every validation."""
    while True:
        done = refinement.done
        if refinement.iterations and (refinement.due or done):
            if trainer.validated != trainer.step:
                trainer.validate()
            keep(None)
        if done:
            return FitStatus.FINISHED
        if trainer.out_of_patience:
            return FitStatus.STOPPED_EARLY
        refinement.advance()
        for callback in callbacks:
            callback.on_step(trainer.progress)


def _settings(options: dict[str, Any]) -> Settings:
    """Make the settings from the options of `identify`, refusing unknown names."""
    known = [f.name for f in fields(Settings)]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise SettingError(f"unknown option(s) {', '.join(unknown)}: identify takes {', '.join(known)}")
    return Settings(**options)


def _check_states(model: Model, dataset: Dataset, settings: Settings) -> None:
    """Refuse what does not fit measured states, or the units of a model that has such ones."""
    if settings.initial_state is InitialState.MEASURED:
        for records in (dataset.train, dataset.validation, dataset.test):
            measured_states(records, model.nx)
        if settings.start is Start.LINEAR:
            raise SettingError(
                "start='linear' starts at a subspace model, whose states are its own and not the measured ones: take "
                "start='auto' or 'as_is'"
            )
        if settings.refine is not Refine.NONE and len(dataset.train) <= model.nx:
            # An affine change of coordinates may leave as many points where they are.
            raise SettingError(
                f"a refinement knows states only where records begin: with initial_state='measured' it needs more than "
                f"nx = {model.nx} training records, got {len(dataset.train)}: take refine='none', or cut the records"
            )
    elif settings.start is Start.CONTINUE and model.state_scaler is not None:
        raise SettingError(
            f"the states of this model are measured ones: continue with initial_state='measured', got "
            f"{str(settings.initial_state)!r}, or start anew"
        )


def _window(dataset: Dataset, wanted: int) -> int:
    """Samples of a window when none are asked for: as wanted, or fewer, so that records of 9 in 10 samples hold one."""
    lengths = np.sort([len(r) for r in dataset.train])[::-1]
    enough = lengths[int(np.searchsorted(lengths.cumsum(), _HELD * lengths.sum()))]
    window = min(int(enough), wanted)
    short = int((lengths < window).sum())
    if short:
        _log.warning("%d training records are shorter than a window of %d samples and give none", short, window)
    return window


def _lengths(model: Model, dataset: Dataset, loss: Loss, settings: Settings) -> tuple[int, int]:
    """Lengths (window, skip) in samples, after checking that model, records, loss and settings fit together."""
    if (model.nu, model.ny) != (dataset.nu, dataset.ny):
        raise ShapeError(
            f"model and records must have the same channels, got nu, ny = {model.nu}, {model.ny} for the model and "
            f"{dataset.nu}, {dataset.ny} for the records: build the model with dataset.nu and dataset.ny"
        )
    if not any(p.requires_grad for p in model.parameters()):
        raise SettingError(
            f"{type(model).__name__} must have parameters to train, got none that asks for a gradient: call "
            "model.requires_grad_(True), or model.freeze() for its system as it is"
        )
    window = _window(dataset, loss.washout + 250) if settings.window is None else settings.window
    if loss.washout >= window:
        raise SettingError(
            f"washout must be shorter than a window of {window} samples, got {loss.washout}: nothing would be scored"
        )
    skip = loss.washout if settings.skip is None else settings.skip
    if settings.initial_state is InitialState.ESTIMATED and skip * model.ny < model.nx:
        raise SettingError(
            f"initial_state='estimated' needs skip * ny >= nx = {model.nx} samples to estimate from, got skip = {skip}"
        )
    check_refinable(model, loss, settings)
    _check_states(model, dataset, settings)
    for part in ("train", "validation", "test"):
        for i, record in enumerate(getattr(dataset, part)):
            if record.missing[skip:].all():  # also where nothing is left
                raise DataError(
                    f"{part} record {i} ({record.name!r}) has {len(record)} samples, of which skip = {skip} leaves "
                    "none that was measured: lower skip or drop it"
                )
    return window, skip
