"""Random initial values of parameters, drawn from a given generator."""

from __future__ import annotations

import torch
from torch import nn

from controlrnn.checks import checked_seed


def generator(seed: int) -> torch.Generator:
    """Make a torch generator from a seed, so that models never touch the global one."""
    return torch.Generator().manual_seed(checked_seed(seed))


def uniform(rng: torch.Generator, *shape: int, bound: float) -> nn.Parameter:
    """Draw a parameter uniformly from [-bound, bound]."""
    return nn.Parameter((2 * torch.rand(*shape, generator=rng) - 1) * bound)


def normal(rng: torch.Generator, *shape: int, std: float) -> nn.Parameter:
    """Draw a parameter from the normal distribution N(0, std^2)."""
    return nn.Parameter(torch.randn(*shape, generator=rng) * std)
