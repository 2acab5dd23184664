"""Initial values of parameters, drawn from a generator of their own."""

from __future__ import annotations

import torch
from torch import nn

from controlrnn.checks import checked_seed


def generator(seed: int) -> torch.Generator:
    """A torch generator of its own, so that models never touch the global one."""
    return torch.Generator().manual_seed(checked_seed(seed))


def uniform(rng: torch.Generator, *shape: int, bound: float) -> nn.Parameter:
    """A parameter drawn uniformly from [-bound, bound]."""
    return nn.Parameter((2 * torch.rand(*shape, generator=rng) - 1) * bound)


def normal(rng: torch.Generator, *shape: int, std: float) -> nn.Parameter:
    """A parameter drawn from N(0, std^2)."""
    return nn.Parameter(torch.randn(*shape, generator=rng) * std)
