"""Training of classifiers that read the last state: epochs without replacement, validation images, the best epoch.

A classifier reads a sequence and answers with the output after its last sample, y = C x[T] + d, of a model without
feedthrough. `identify` is for records of plants: its validation is a simulation error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from controlrnn.data import benchmarks
from controlrnn.errors import SettingError
from controlrnn.kernels import simulate
from controlrnn.models import Model
from controlrnn.systems import MATRICES, LureSystem
from experiments.papers.resuming import Progress, fingerprint

MEAN, DEVIATION = 0.1307, 0.3081  # of MNIST's pixels in 0..1
_VALIDATION = 2000
AT_ONCE = 1000  # sequences that are simulated together

# Value that is added to the loss of a batch: of the system, the inputs, the states of the run, and the epoch from 0.
Extra = Callable[[LureSystem, Tensor, Tensor, int], Tensor]


@dataclass(frozen=True, eq=False)
class Sequences:
    """Labelled sequences: u (n, T, nu) and labels (n,)."""

    u: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, which: Tensor) -> Sequences:
        """Some of the sequences."""
        return Sequences(self.u[which], self.labels[which])

    def to(self, device: torch.device) -> Sequences:
        """The same sequences on a device."""
        return Sequences(self.u.to(device), self.labels.to(device))


@dataclass(frozen=True, eq=False)
class Digits:
    """MNIST as sequences, in the given split; validation images are some of the training set."""

    train: Sequences
    validation: Sequences
    test: Sequences


def digits(shape: tuple[int, int], *, standardised: bool, most: int | None = None, seed: int = 1234) -> Digits:
    """Read MNIST as sequences of ``shape`` (samples, pixels a sample), 2000 of the training images for validation.

    Args:
        shape: (28, 28) for rows, (98, 8), (784, 1).
        standardised: Whether pixels have mean 0 and variance 1 instead of lying in 0..1.
        most: Number of training images; None for all.
        seed: Seed of the choice of validation images.
    """
    images = benchmarks.load("mnist")
    order = np.random.default_rng(seed).permutation(len(images.train))

    def sequences(pixels: np.ndarray, labels: np.ndarray) -> Sequences:
        u = torch.tensor(pixels.reshape(len(pixels), *shape), dtype=torch.float32) / 255
        return Sequences((u - MEAN) / DEVIATION if standardised else u, torch.tensor(labels, dtype=torch.int64))

    held, rest = order[:_VALIDATION], order[_VALIDATION:][:most]
    return Digits(
        sequences(images.train[rest], images.train_labels[rest]),
        sequences(images.train[held], images.train_labels[held]),
        sequences(images.test, images.test_labels),
    )


@dataclass(frozen=True, kw_only=True)
class Training:
    """Settings of a training.

    Args:
        epochs: Passes over the training sequences.
        batch_size: Sequences a step.
        learning_rate: Of Adam.
        drop_at: Epoch from which the learning rate is a tenth; None for never.
        seed: Seed of the order of the sequences.
        device: Torch's name of the device that it runs on; the result is on the CPU.
    """

    epochs: int
    batch_size: int
    learning_rate: float
    drop_at: int | None = None
    seed: int = 0
    device: str = "cpu"

    def rate(self, epoch: int) -> float:
        """Learning rate of an epoch."""
        return self.learning_rate * (0.1 if self.drop_at is not None and epoch >= self.drop_at else 1.0)


@dataclass(frozen=True, eq=False)
class Trained:
    """What a training left: the best epoch's system and the validation accuracy of every epoch."""

    system: LureSystem
    validation: list[float]


def train(
    model: Model,
    data: Digits,
    settings: Training,
    *,
    extra: Extra | None = None,
    after_step: Callable[[], None] | None = None,
    checkpoint: Path | None = None,
) -> Trained:
    """Train a classifier by cross-entropy and return the epoch that is best on the validation sequences.

    Stopped and called again with the same ``checkpoint`` it goes on after the last epoch, to the same bits.

    Args:
        model: The classifier; its parameters change.
        data: The sequences.
        settings: Settings.
        extra: A term that is added to the loss.
        after_step: Called after every step, e.g. to bring parameters back into a set.
        checkpoint: File of the state after every epoch; None for none.

    Raises:
        SettingError: The device is not there.
        FileFormatError: The checkpoint is damaged.
    """
    mark = ""
    if checkpoint is not None:
        arrays = {"u": data.train.u, "labels": data.train.labels, "held": data.validation.u}
        mark = fingerprint(model, arrays, settings, *(f for f in (extra, after_step) if f is not None))
    device = _device(settings.device)
    model.to(device)
    sequences, held = data.train.to(device), data.validation.to(device)
    optimiser = torch.optim.Adam(model.parameters(), lr=settings.learning_rate)
    now = Progress(model, optimiser, torch.Generator().manual_seed(settings.seed), explicit(model), [])
    if checkpoint is not None:
        now.load(checkpoint, mark)
    for epoch in range(len(now.validation), settings.epochs):
        optimiser.param_groups[0]["lr"] = settings.rate(epoch)
        for which in torch.split(torch.randperm(len(sequences), generator=now.rng), settings.batch_size):
            batch = sequences.take(which.to(device))
            system = model.system()
            _, x = simulate(system, batch.u)
            loss = cross_entropy(readout(system, x), batch.labels)
            if extra is not None:
                loss = loss + extra(system, batch.u, x, epoch)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            if after_step is not None:
                after_step()
        system = explicit(model)
        found = accuracy(system, held)
        if found > max(now.validation, default=-1.0):
            now.best = system
        now.validation.append(found)
        if checkpoint is not None:
            now.save(checkpoint, mark)
    model.to("cpu")
    return Trained(explicit_on(now.best, "cpu"), now.validation)


def explicit(model: Model) -> LureSystem:
    """The model's present system, as tensors of its own that later steps do not change."""
    return explicit_on(model.system(), next(model.parameters()).device)


def explicit_on(system: LureSystem, device: torch.device | str) -> LureSystem:
    """A system of tensors of their own on a device, without gradients."""
    return replace(system, **{name: getattr(system, name).detach().clone().to(device) for name in MATRICES})


def _device(name: str) -> torch.device:
    """The device of a name."""
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise SettingError(f"device must be one that torch has here, got {name!r} ({error}): take 'cpu'") from error
    return device


def readout(system: LureSystem, x: Tensor) -> Tensor:
    """Answers (n, classes) from the states (n, T + 1, nx) of runs."""
    answers: Tensor = x[:, -1] @ system.C2.T + system.by
    return answers


@torch.no_grad()
def answers(system: LureSystem, u: Tensor) -> Tensor:
    """Answers (n, classes) to sequences (n, T, nu)."""
    return torch.cat([readout(system, simulate(system, part)[1]) for part in torch.split(u, AT_ONCE)])


def accuracy(system: LureSystem, data: Sequences) -> float:
    """Share of sequences that are classified rightly."""
    return float((answers(system, data.u).argmax(dim=1) == data.labels).double().mean())
