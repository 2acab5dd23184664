"""Trainings of classifiers that go on after a kill: their state after every epoch, on file.

The file is a record (atomic, no pickle): parameters, Adam's moments, the random generator, the best epoch's system and
the accuracies so far, with a fingerprint of all that the training depends on. What it does not fit is trained anew, as
a stored row would be computed anew; from one that fits, training goes on to the same bits as without a break.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from controlrnn.checks import Array
from controlrnn.identification.training.checkpoint import adam_arrays, restore_adam, tensors_of
from controlrnn.models import Model
from controlrnn.records import FreeArrays, Numbers, Schema, Text, digest, load_record, save_record
from controlrnn.systems import MATRICES, LureSystem
from experiments.shared.rows.made_with import made_with
from experiments.shared.study import Row, Study

_SCHEMA = Schema(
    "classifier-training", 1,
    arrays={"rng": Numbers("R", dtype="|u1"), "validation": Numbers("E", least=0.0, most=1.0)},
    meta={"fingerprint": Text(64)},
    free={name: FreeArrays(finite=False) for name in ("now", "adam", "best")},
)  # fmt: skip


@dataclass(eq=False)
class Progress:
    """State of a training between two epochs: everything that the rest of it depends on.

    Args:
        model: The classifier, as it is now.
        optimiser: Its optimiser.
        rng: What draws the order of the sequences.
        best: System of the epoch that is best on the validation sequences.
        validation: Accuracy on the validation sequences after every epoch so far.
    """

    model: Model
    optimiser: torch.optim.Adam
    rng: torch.Generator
    best: LureSystem
    validation: list[float]

    def save(self, path: Path, mark: str) -> None:
        """Write the state to a file; ``mark`` is from `fingerprint`."""
        arrays = {f"now/{name}": _numbers(value) for name, value in self.model.state_dict().items()}
        arrays |= {f"best/{name}": _numbers(getattr(self.best, name)) for name in MATRICES}
        arrays |= adam_arrays(self.optimiser)
        arrays |= {"rng": self.rng.get_state().numpy(), "validation": np.array(self.validation)}
        save_record(path, _SCHEMA, arrays, {"fingerprint": mark})

    def load(self, path: Path, mark: str) -> bool:
        """Go back to the state on file; returns whether there is one with this ``mark``.

        Raises:
            FileFormatError: The file is damaged.
        """
        if not path.exists():
            return False
        arrays, meta = load_record(path, _SCHEMA)
        if meta["fingerprint"] != mark:
            return False

        device = next(self.model.parameters()).device
        self.model.load_state_dict(tensors_of(arrays, "now/"))
        best: dict[str, Any] = {name: value.to(device) for name, value in tensors_of(arrays, "best/").items()}
        self.best = replace(self.best, **best)
        self.rng.set_state(torch.tensor(arrays["rng"]))
        self.validation[:] = arrays["validation"].tolist()
        restore_adam(self.optimiser, arrays)
        return True


def fingerprint(model: Model, arrays: Mapping[str, torch.Tensor], *others: Any) -> str:
    """Digest of what a training depends on: the model at its start, the data, settings and functions, the code."""
    own = {f"model/{name}": _numbers(value) for name, value in model.state_dict().items()}
    data = {f"data/{name}": _numbers(value) for name, value in arrays.items()}
    texts = [_name(one) if callable(one) else repr(one) for one in (repr(model), *others)]
    return digest(own | data, {"texts": texts} | made_with())


def training_row(study: Study, key: str, work: Callable[..., Row], *, needs: Any) -> Row:
    """Row of a training, ``work``, that goes on where it was stopped: from ``checkpoint``, a file that then goes."""
    path = study.path(f"{key.replace(' ', '_')}.training")
    if study.fresh:
        path.unlink(missing_ok=True)
    row = study.row(key, lambda: work(checkpoint=path), needs=[needs, study.device])
    path.unlink(missing_ok=True)
    return row


def _numbers(value: torch.Tensor) -> Array:
    return np.asarray(value.detach().cpu().numpy())


def _name(function: Any) -> str:
    """Name of a function, or of what a partial calls; repr would name its place in memory."""
    inner = getattr(function, "func", function)
    return f"{inner.__module__}.{inner.__qualname__}"
