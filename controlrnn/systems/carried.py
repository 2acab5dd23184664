"""Systems with feedthrough as a controller measures them: the last input becomes a state, the output depends on it.

In the convention of docs/timing.md y[t] is measured before u[t] acts. Where a model has feedthrough, y = g(x, u), the
reading is therefore

    y[t] = g(x[t], u[t-1]) ,

an output without feedthrough of the system whose state (x, p) carries the last input, p[t+1] = u[t]. Where the
feedthrough goes through neurons (D21 s(.. + D12 u)), these are there twice: driven by u for x+, by p for y. Every entry
is a copy or zero, so that the carried system has the same bits on every processor.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import Array
from controlrnn.errors import SettingError
from controlrnn.systems.laws import Laws
from controlrnn.systems.lure import LureSystem
from controlrnn.systems.ops import frozen
from controlrnn.typed import typed

Places = NDArray[np.intp]


@typed()
def carry_input(system: LureSystem) -> LureSystem:
    """Append the last input to the states and let the output depend on it; exact, and without feedthrough.

    Args:
        system: Frozen model, y[t] = g(x[t], u[t]).

    Returns:
        System with nx + nu states (x[t], u[t - 1]) and output g(x[t], u[t - 1]); it has all neurons twice where the
        feedthrough goes through neurons.
    """
    system = frozen(system)
    nx, nu, ny, nv = system.sizes
    none = np.zeros
    # Whether the feedthrough may go through neurons, which then are needed under both inputs.
    through = bool(nv) and bool((system.D21 != 0).any()) and bool((system.D12 != 0).any())
    new, old, blocks, later = _layers(system) if through else (np.arange(nv), np.arange(nv), system.layers, 0)
    n = nv + later
    # Neurons at `new` are driven by the present input, those at `old` by the carried one; they are the same ones where
    # nothing has to be doubled.
    C1, D11, D12, bv = none((n, nx + nu)), none((n, n)), none((n, nu)), none(n)
    B1, D21 = none((nx + nu, n)), none((ny, n))
    C1[new, :nx], D12[new], bv[new], B1[:nx, new] = system.C1, system.D12, system.bv, system.B1
    D11[np.ix_(new, new)] = system.D11
    if through:
        C1[old, :nx], C1[old, nx:], bv[old] = system.C1, system.D12, system.bv
        D11[np.ix_(old, old)] = system.D11
    D21[:, old] = system.D21
    activation = system.activation
    if through and isinstance(activation, Laws):
        whose = np.empty(n, dtype=np.intp)
        whose[new] = whose[old] = np.arange(nv)
        activation = activation.take(whose)
    return replace(
        system,
        A=np.block([[system.A, none((nx, nu))], [none((nu, nx)), none((nu, nu))]]),
        B1=B1,
        B2=np.vstack([system.B2, np.eye(nu)]),
        bx=np.concatenate([system.bx, none(nu)]),
        C1=C1,
        D11=D11,
        D12=D12,
        bv=bv,
        C2=np.hstack([system.C2, system.D22]),
        D21=D21,
        D22=none((ny, nu)),
        layers=blocks,
        activation=activation,
    )


@typed()
def just_after(carried: LureSystem) -> LureSystem:
    """Double the outputs of a system from `carry_input`: as read just before the new input acts, and just after.

    Args:
        carried: System from `carry_input`.

    Returns:
        System with the same states and neurons and 2 ny outputs, g(x[t], u[t - 1]) and g(x[t], u[t]).

    Raises:
        SettingError: The last nu states are not the last input.
    """
    if not carries_input(carried):
        raise SettingError("just_after needs a system that carries its last input: carry_input(system)")
    known = carried.nx - carried.nu
    # Below: the present input takes the part that the carried one has above.
    C2, D21 = np.array(carried.C2), np.array(carried.D21)
    C2[:, known:] = 0.0
    if answers_through_neurons(carried):
        D21 = np.zeros_like(D21)
        start = 0
        for size in carried.layers:  # in each layer, neurons driven by u come first, their copies driven by p second
            half = start + size // 2
            D21[:, start:half] = carried.D21[:, half : start + size]
            start += size
    return replace(
        carried,
        C2=np.vstack([carried.C2, C2]),
        D21=np.vstack([carried.D21, D21]),
        D22=np.vstack([carried.D22, carried.C2[:, known:]]),
        by=np.concatenate([carried.by, carried.by]),
    )


@typed()
def delay_input(system: LureSystem) -> LureSystem:
    """The system whose inputs act one sample after they are given, with the input under way among its states: exact.

    Args:
        system: Frozen model whose output does not answer at once.

    Returns:
        System with nx + nu states (x[t], u[t - 1]), x[t + 1] = f(x[t], u[t - 1]) and output g(x[t]).

    Raises:
        SettingError: The output answers at once: the reading then hangs on the input before the one under way.
    """
    system = frozen(system)
    if system.has_feedthrough:
        raise SettingError(
            "delay_input needs a system whose output does not answer at once, got feedthrough: identify a model "
            "without it that has nu more states"
        )
    nx, nu, ny, nv = system.sizes
    none = np.zeros
    return replace(
        system,
        A=np.block([[system.A, system.B2], [none((nu, nx)), none((nu, nu))]]),
        B1=np.vstack([system.B1, none((nu, nv))]),
        B2=np.vstack([none((nx, nu)), np.eye(nu)]),
        bx=np.concatenate([system.bx, none(nu)]),
        C1=np.hstack([system.C1, system.D12]),
        D12=none((nv, nu)),
        C2=np.hstack([system.C2, none((ny, nu))]),
    )


@typed()
def answers_late(carried: LureSystem) -> bool:
    """Whether the output of a system whose states hold its last input (`carry_input`) depends on that input.

    Args:
        carried: The system.
    """
    nu = carried.nu
    if not carries_input(carried):
        return False
    under = (carried.C1[:, -nu:] != 0).any(axis=1)  # neurons that the carried input moves, at first directly
    for start, stop in carried.blocks[1:]:
        under[start:stop] |= ((carried.D11[start:stop, :start] != 0) & under[:start]).any(axis=1)
    return bool(carried.C2[:, -nu:].any() or carried.D21[:, under].any())


@typed()
def answers_through_neurons(carried: LureSystem) -> bool:
    """Whether the neurons of a system from `carry_input` depend on the last input.

    Args:
        carried: The system.
    """
    return bool(carried.C1[:, carried.nx - carried.nu :].any())


@typed()
def without_feedthrough(system: LureSystem) -> LureSystem:
    """Return a system without feedthrough as it is, and any other with its last input carried by `carry_input`.

    Args:
        system: Frozen model.
    """
    return carry_input(system) if frozen(system).has_feedthrough else system


@typed()
def carries_input(system: LureSystem) -> bool:
    """Whether the last nu states of a frozen system hold its last input.

    Args:
        system: The system.
    """
    nx, nu = system.nx, system.nu
    if nx < nu or not nu:
        return False
    rows: tuple[Array, ...] = (system.A[-nu:], system.B1[-nu:], system.bx[-nu:])
    return not any(part.any() for part in rows) and bool(np.array_equal(system.B2[-nu:], np.eye(nu)))


def _layers(system: LureSystem) -> tuple[Places, Places, tuple[int, ...], int]:
    """Layout of doubled neurons: places of those driven by u and by p, sizes of the layers, number of added ones."""
    new: list[int] = []
    old: list[int] = []
    start = 0
    for size in system.layers:
        new += range(start, start + size)
        old += range(start + size, start + 2 * size)
        start += 2 * size
    return (
        np.array(new, dtype=np.intp),
        np.array(old, dtype=np.intp),
        tuple(2 * size for size in system.layers),
        system.nv,
    )
