"""Checkpoints of a training run, from which training continues to the same bits as without a break.

A checkpoint is one record (atomic, no pickle): parameters, best parameters, Adam's moments or the state of the
refinement, the random generator, counters, history, and a fingerprint of everything that the run depends on, the
processor's rounding included: the same bits are only computed where `controlrnn.arithmetic` is the same.
"""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from controlrnn.arithmetic import arithmetic, same_arithmetic
from controlrnn.data import Dataset
from controlrnn.errors import FileFormatError, TrainingError
from controlrnn.identification.training.loop import HISTORY, Trainer
from controlrnn.identification.training.refinement import Refinement
from controlrnn.identification.training.settings import FitStatus, InitialState, Settings
from controlrnn.models import Model
from controlrnn.records import FreeArrays, Numbers, Schema, TableOf, Text, digest, load_record, restoring, save_record

_SCHEMA = Schema(
    "training-checkpoint", 3,
    arrays={
        "rng": Numbers("R", dtype="|u1"), "losses": Numbers("L", nan=True, infinite=True),
        "counters": Numbers(6, infinite=True),
    },
    meta={"fingerprint": TableOf(Text(10**6)), "status": Text(choices=("", *FitStatus))},
    free={
        "now": FreeArrays(finite=False), "best": FreeArrays(finite=False), "adam": FreeArrays(finite=False),
        "history": FreeArrays(("<f8",), finite=False), "refine": FreeArrays(("<f8",), finite=False),
    },
    zero=("L",),
)  # fmt: skip
_COUNTERS = ("step", "validated", "best", "since_best", "rate_factor", "recoveries")


def fingerprint(model: Model, dataset: Dataset, loss: object, settings: Settings) -> dict[str, str]:
    """Fingerprint of everything that a run depends on, part by part, so that a mismatch can be named."""
    parameters = {n: p.detach().cpu().numpy() for n, p in model.state_dict().items()}
    names = "uyx" if settings.initial_state is InitialState.MEASURED else "uy"
    records = enumerate(dataset.train + dataset.validation)
    data = {f"{i}/{n}": getattr(r, n) for i, r in records for n in names if getattr(r, n) is not None}
    return {
        "model": type(model).__name__ + " " + digest(parameters, {"text": repr(model)})[:16],
        "data": digest(data, {"dt": dataset.dt})[:16],
        "loss": repr(loss),
        "settings": repr(asdict(settings)),
        **arithmetic(),
    }


def save_checkpoint(
    path: str | os.PathLike[str], trainer: Trainer, refinement: Refinement | None, mark: dict[str, str], status: str
) -> None:
    """Write the state of a training run; ``status`` is a `FitStatus`, or "" while training goes on."""
    save_record(path, _SCHEMA, state_arrays(trainer, refinement), {"fingerprint": mark, "status": status})


def state_arrays(trainer: Trainer, refinement: Refinement | None) -> dict[str, NDArray[Any]]:
    """Arrays of the state of a training run: everything that the rest of it depends on."""
    arrays: dict[str, NDArray[Any]] = {f"now/{n}": p.numpy() for n, p in trainer.model.state_dict().items()}
    arrays |= {f"best/{n}": p.numpy() for n, p in trainer.best_parameters.items()}
    arrays |= {f"history/{n}": np.asarray(v, dtype=np.float64) for n, v in trainer.history.items()}
    arrays["rng"] = trainer.rng.get_state().numpy()
    arrays["losses"] = np.asarray(trainer.losses, dtype=np.float64)
    if refinement is not None:
        arrays |= {f"refine/{n}": v for n, v in refinement.arrays().items()}
    arrays |= adam_arrays(trainer.optimiser)
    # Counters as an array: the best error may still be infinite, which JSON does not know.
    arrays["counters"] = np.array([getattr(trainer, n) for n in _COUNTERS], dtype=np.float64)
    return arrays


def adam_arrays(optimiser: torch.optim.Optimizer) -> dict[str, NDArray[Any]]:
    """Adam's moments and counts of steps, as arrays named ``adam/PARAMETER/NAME``."""
    state = optimiser.state_dict()["state"]
    return {f"adam/{i}/{n}": v.cpu().numpy() for i, moments in state.items() for n, v in moments.items()}


def restore_adam(optimiser: torch.optim.Optimizer, arrays: dict[str, NDArray[Any]]) -> None:
    """Set an optimiser to what `adam_arrays` gave."""
    moments: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors_of(arrays, "adam/").items():
        i, name = key.split("/")
        moments.setdefault(int(i), {})[name] = value
    optimiser.load_state_dict({"state": moments, "param_groups": optimiser.state_dict()["param_groups"]})


def tensors_of(arrays: dict[str, NDArray[Any]], prefix: str) -> dict[str, torch.Tensor]:
    """Tensors of the arrays whose names begin with ``prefix``, by the rest of the name."""
    return {k.removeprefix(prefix): torch.from_numpy(v.copy()) for k, v in arrays.items() if k.startswith(prefix)}


def load_checkpoint(
    path: str | os.PathLike[str], trainer: Trainer, mark: dict[str, str]
) -> tuple[FitStatus | None, Refinement | None]:
    """Set ``trainer`` to the state on file; returns how that run ended (None: it did not), and its refinement.

    Raises:
        TrainingError: The file belongs to a run with another model, data, loss or settings, or to another processor.
        FileFormatError: The file is no checkpoint, or damaged.
    """
    arrays, meta = load_record(path, _SCHEMA)
    made = meta["fingerprint"]
    if not same_arithmetic(made, mark):
        here, there = (", ".join(str(m.get(n)) for n in ("processor", "library")) for m in (mark, made))
        raise TrainingError(
            f"checkpoint {path} was made by another processor or library, whose last digits are others: training "
            f"cannot go on to the same bits. It was made on {there}; this is {here}. Go on there, or delete it to "
            "start anew here"
        )
    other = [name for name in mark if name != "processor" and made.get(name) != mark[name]]
    if other:
        raise TrainingError(
            f"checkpoint {path} belongs to a run with different {', '.join(other)}: delete it to start anew, or call "
            "identify with what it was made with"
        )

    with restoring(path):
        _refuse_misfits(arrays, trainer)

    refined = {k.removeprefix("refine/"): v.copy() for k, v in arrays.items() if k.startswith("refine/")}
    if refined:
        trainer.begin_refinement()  # in float64 before the parameters are, so that they lose no digits
    trainer.model.load_state_dict(tensors_of(arrays, "now/"))
    trainer.best_parameters = tensors_of(arrays, "best/")
    trainer.rng.set_state(torch.from_numpy(arrays["rng"].copy()))
    trainer.history = {n: arrays[f"history/{n}"].tolist() for n in HISTORY}
    trainer.losses = arrays["losses"].tolist()
    restore_adam(trainer.optimiser, arrays)
    for name, value in zip(_COUNTERS, arrays["counters"].tolist(), strict=True):
        setattr(trainer, name, value if name in ("best", "rate_factor") else int(value))
    with restoring(path):
        refinement = Refinement(trainer, refined) if refined else None
    return (FitStatus(meta["status"]) if meta["status"] else None), refinement


def _refuse_misfits(arrays: dict[str, NDArray[Any]], trainer: Trainer) -> None:
    """Raise FileFormatError unless all arrays have the shapes and ranges of this run's state."""
    shapes = {n: tuple(p.shape) for n, p in trainer.model.state_dict().items()}
    expected = {f"{when}/{n}": shape for when in ("now", "best") for n, shape in shapes.items()}
    if any(name.startswith("adam/") for name in arrays):
        for i, p in enumerate(trainer.model.parameters()):
            shape = tuple(p.shape)
            expected |= {f"adam/{i}/step": (), f"adam/{i}/exp_avg": shape, f"adam/{i}/exp_avg_sq": shape}
    expected |= {f"history/{n}": (len(arrays.get(f"history/{HISTORY[0]}", ())),) for n in HISTORY}
    got = {n: a.shape for n, a in arrays.items() if n.partition("/")[0] in ("now", "best", "adam", "history")}
    if got != expected:
        wrong = sorted(n for n in {*got, *expected} if got.get(n) != expected.get(n))
        raise FileFormatError(f"{wrong[0][:64]!r} must have shape {expected.get(wrong[0])}, got {got.get(wrong[0])}")
    values = dict(zip(_COUNTERS, arrays["counters"].tolist(), strict=True))
    whole = [n for n in _COUNTERS if n not in ("best", "rate_factor")]
    bad = [n for n in whole if not (values[n].is_integer() and -1 <= values[n] <= trainer.settings.all_steps + 1)]
    if bad or not 0 < values["rate_factor"] <= 1 or values["step"] < 0:
        raise FileFormatError(f"its counters make no sense: {values}")
    try:
        torch.Generator().set_state(torch.from_numpy(arrays["rng"].copy()))
    except RuntimeError as error:
        raise FileFormatError(f"its random generator cannot be set ({error})") from error
