"""Perturbed images: white noise, salt and pepper, projected gradient ascent of the loss, DeepFool.

(Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018; Moosavi-Dezfooli, Fawzi,
Frossard, "DeepFool", CVPR 2016, algorithm 2 and its remark on other norms.) Pixels lie in 0..1.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from controlrnn.kernels import simulate
from controlrnn.systems import LureSystem
from experiments.papers.classification import Sequences, readout

STEPS, STEP = 7, 0.01  # of the paper
_AT_ONCE = 250
_BEYOND = 1.02  # DeepFool's step across the boundary


def white(data: Sequences, sigma: float, rng: torch.Generator) -> Sequences:
    """White noise of deviation ``sigma`` on every pixel."""
    return replace(data, u=data.u + sigma * torch.randn(data.u.shape, generator=rng))


def salted(data: Sequences, part: float, rng: torch.Generator) -> Sequences:
    """Replace a ``part`` of the pixels by 0 or 1, each as often; eqs. 17-19."""
    chance = torch.rand(data.u.shape, generator=rng)
    u = torch.where(chance < part / 2, torch.ones_like(data.u), data.u)
    return replace(data, u=torch.where((chance >= part / 2) & (chance < part), torch.zeros_like(u), u))


def attacked(system: LureSystem, data: Sequences, *, steps: int = STEPS, size: float = STEP) -> Sequences:
    """Images after projected gradient ascent of the loss within the box of pixels 0..1."""
    u = data.u.clone()
    for _ in range(steps):
        moved: list[Tensor] = []
        for part, labels in zip(torch.split(u, _AT_ONCE), torch.split(data.labels, _AT_ONCE), strict=True):
            at = part.clone().requires_grad_()
            loss = cross_entropy(readout(system, simulate(system, at)[1]), labels)
            (gradient,) = torch.autograd.grad(loss, at)
            moved.append((part + size * gradient.sign()).clamp(0, 1))
        u = torch.cat(moved)
    return replace(data, u=u)


def fooling(system: LureSystem, u: Tensor, *, infinity: bool, steps: int = STEPS) -> Tensor:
    """Relative size |r| / |u| of DeepFool's perturbation r of each sequence (n,); infinite where it did not fool.

    Args:
        system: The classifier.
        u: Sequences, shape (n, T, nu).
        infinity: Whether sizes are those of the largest pixel, instead of Euclidean.
        steps: Largest number of steps.
    """
    with torch.no_grad():
        first = readout(system, simulate(system, u)[1]).argmax(dim=1)
    rows, at = torch.arange(len(u)), u.clone()
    fooled = torch.zeros(len(u), dtype=torch.bool)
    for _ in range(steps):
        at.requires_grad_()
        answers = readout(system, simulate(system, at)[1])
        slopes = torch.stack(
            [torch.autograd.grad(answers[:, k].sum(), at, retain_graph=True)[0] for k in range(answers.shape[1])], dim=1
        ).flatten(2)  # (n, classes, pixels)
        answers, at = answers.detach(), at.detach()
        gaps, normals = answers - answers[rows, first, None], slopes - slopes[rows, first, None]
        # The size that crosses each linearised boundary, in the norm dual to that of the slopes.
        dual = normals.abs().sum(-1) if infinity else normals.norm(dim=-1)
        distance = gaps.abs() / dual.clamp_min(1e-12)
        distance[rows, first] = torch.inf
        nearest = distance.argmin(dim=1)
        normal = normals[rows, nearest]
        direction = normal.sign() if infinity else normal / normal.norm(dim=-1, keepdim=True).clamp_min(1e-12)
        step = (_BEYOND * distance[rows, nearest] + 1e-6)[:, None] * direction
        at = torch.where(fooled[:, None, None], at, at + step.reshape(at.shape))
        with torch.no_grad():
            fooled = readout(system, simulate(system, at)[1]).argmax(dim=1) != first
    order = torch.inf if infinity else 2.0
    moved, size = (torch.linalg.vector_norm(v.flatten(1), ord=order, dim=1) for v in (at - u, u))
    return torch.where(fooled, moved / size, torch.inf)
