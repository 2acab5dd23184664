"""Curvature of the loss over a classifier's recurrent weights: ends of the Hessian's spectrum and its trace.

Products of the Hessian and a vector are differences of gradients in float64, so that the compiled scan gives them. The
ends are Ritz values of Lanczos with full orthogonalisation, from within; the trace is Hutchinson's estimate.
(Golub & Van Loan, "Matrix computations", 4th ed. 2013, section 10.1; Yao et al., "PyHessian", 2019.)
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from controlrnn.kernels import simulate
from controlrnn.models import Model
from experiments.papers.classification import Sequences, readout

_STEP = 1e-4
_READOUT = ("D", "d", "b")  # parameters that are not recurrent weights


class Spectrum(NamedTuple):
    """Largest and least eigenvalue, and trace; the condition number is their ratio where the least is positive."""

    largest: float
    least: float
    trace: float


def spectrum(model: Model, data: Sequences, *, steps: int, draws: int, seed: int) -> Spectrum:
    """Spectrum of the Hessian of the cross-entropy by the recurrent weights.

    Args:
        model: The classifier.
        data: Sequences over which the loss is taken.
        steps: Steps of Lanczos.
        draws: Draws of the trace's estimate.
        seed: Seed of the first vector and of the draws.
    """
    product, n = _products(model, data)
    rng = np.random.default_rng(seed)
    basis = [rng.normal(size=n)]
    basis[0] /= np.linalg.norm(basis[0])
    diagonal, beside = [], []
    for _ in range(min(steps, n)):
        w = product(basis[-1])
        diagonal.append(float(basis[-1] @ w))
        for _ in range(2):  # twice is enough
            w = w - sum((w @ v) * v for v in basis)
        size = float(np.linalg.norm(w))
        if size < 1e-10:
            break
        beside.append(size)
        basis.append(w / size)
    k = len(diagonal)
    ends = np.linalg.eigvalsh(np.diag(diagonal) + np.diag(beside[: k - 1], 1) + np.diag(beside[: k - 1], -1))
    signs = rng.choice([-1.0, 1.0], (draws, n))
    return Spectrum(float(ends[-1]), float(ends[0]), float(np.mean([s @ product(s) for s in signs])))


def _products(model: Model, data: Sequences) -> tuple[Callable[[np.ndarray], np.ndarray], int]:
    """The map v to H v, and the number of weights."""
    twin = copy.deepcopy(model).double()
    weights = [p for name, p in twin.named_parameters() if name not in _READOUT]
    u, start = data.u.double(), [p.detach().clone() for p in weights]

    def gradient() -> Tensor:
        system = twin.system()
        loss = cross_entropy(readout(system, simulate(system, u)[1]), data.labels)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)])

    def moved(v: Tensor) -> Tensor:
        with torch.no_grad():
            for p, p0, part in zip(weights, start, torch.split(v, [p.numel() for p in weights]), strict=True):
                p.copy_(p0 + part.reshape(p.shape))
        return gradient()

    def product(v: np.ndarray) -> np.ndarray:
        size = _STEP / max(float(np.abs(v).max()), 1e-300)
        step = torch.tensor(size * v)
        difference: np.ndarray = ((moved(step) - moved(-step)) / (2 * size)).numpy()
        return difference

    return product, sum(p.numel() for p in weights)
