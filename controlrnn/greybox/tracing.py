"""From equations to a Lur'e system: evaluated once on values that record themselves, with derivatives by parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import groupby

import numpy as np

from controlrnn.checks import Array, number
from controlrnn.errors import SettingError
from controlrnn.greybox.equations import Equations
from controlrnn.greybox.operations import TRACE
from controlrnn.greybox.values import Row, Tape
from controlrnn.systems import MATRICES, Activation, Laws, LureSystem
from controlrnn.typed import typed


@dataclass(frozen=True, eq=False)
class Traced:
    """Equations as a system.

    Args:
        system: The system; exact where all arguments of neurons are in their ranges, as they are while states (those
            of sub-steps included) and inputs are in their boxes.
        derivatives: Derivatives of its matrices by the parameters, by name, shape (..., P) each.
    """

    system: LureSystem
    derivatives: dict[str, Array]


@typed()
def trace(equations: Equations, values: Mapping[str, float] | None = None) -> Traced:
    """Make a Lur'e system of equations.

    Args:
        equations: The equations.
        values: Values of the parameters; as believed when left out.

    Raises:
        SettingError: The equations use what has no law, or a law outside of where it is defined.
    """
    given = equations.believed if values is None else {n: float(number(n, v)) for n, v in dict(values).items()}
    if set(given) != set(equations.believed):
        raise SettingError(f"values must name {sorted(equations.believed)}, got {sorted(given)}")
    nx, nu, P = len(equations.states), len(equations.inputs), len(equations.parameters)
    tape = Tape(1 + nu + nx, P)
    states, inputs = equations.boxes()
    x, u = _variables(tape, 1 + nu, states), _variables(tape, 1, inputs)
    p = {one.name: _parameter(tape, i, given[one.name]) for i, one in enumerate(equations.parameters)}

    def within(state: Row) -> Row:
        return Row(tape, state.grown(), states[:, 0], states[:, 1])

    rates = equations.dynamics(within(x), u, p, TRACE)
    if isinstance(rates, Row) and len(rates.low) != nx:
        raise SettingError(f"dynamics must give one rate for each of {nx} states, got {len(rates.low)}")
    after = equations.step(x, u, TRACE, p, within)
    y = equations.output(x, u, p, TRACE)
    rows = [one if isinstance(one, Row) else x[0:1] * 0.0 + one for one in (after, y)]
    return _assembled(tape, nx, nu, equations.dt, rows[0].grown(), rows[1].grown())


def _variables(tape: Tape, first: int, box: Array) -> Row:
    """Inputs or states as a row."""
    n = len(box)
    data = np.zeros((n, tape.size, 1 + tape.parameters))
    data[np.arange(n), first + np.arange(n), 0] = 1.0
    return Row(tape, data, box[:, 0].copy(), box[:, 1].copy())


def _parameter(tape: Tape, index: int, value: float) -> Row:
    """A parameter as a row of one."""
    data = np.zeros((1, tape.size, 1 + tape.parameters))
    data[0, 0, 0], data[0, 0, 1 + index] = float(value), 1.0
    return Row(tape, data, np.array([float(value)]), np.array([float(value)]))


def _assembled(tape: Tape, nx: int, nu: int, dt: float, after: Array, y: Array) -> Traced:
    """Put the rows into the matrices of a system, with the neurons that are used, in the order of their depth."""
    used = _used(tape, after, y)
    order = sorted(used, key=lambda i: (tape.depths[i], list(type(tape.neurons[i].law)).index(tape.neurons[i].law), i))
    layers = tuple(len(list(run)) for _, run in groupby(order, key=lambda i: tape.depths[i]))
    columns = np.concatenate([np.arange(tape.first), tape.first + np.array(order, dtype=np.intp)])
    v = np.zeros((len(order), tape.size, 1 + tape.parameters))
    for row, i in enumerate(order):
        v[row, : len(tape.arguments[i])] = tape.arguments[i]
    found: dict[str, Array] = {}
    for names, rows in (
        (("bv", "D12", "C1", "D11"), v),
        (("bx", "B2", "A", "B1"), after),
        (("by", "D22", "C2", "D21"), y),
    ):
        parts = np.split(rows[:, columns], np.cumsum([1, nu, nx]), axis=1)
        found |= dict(zip(names, parts, strict=True))
    found |= {name: found[name][:, 0] for name in ("bv", "bx", "by")}
    activation = Laws([tape.neurons[i] for i in order]) if order else Activation.TANH
    matrices = {name: found[name][..., 0] for name in MATRICES}
    if not all(np.isfinite(m).all() for m in matrices.values()):
        raise SettingError("the equations overflow: check the parameters and the boxes")
    system = LureSystem(**matrices, activation=activation, layers=layers, dt=dt)
    return Traced(system, {name: found[name][..., 1:] for name in MATRICES})


def _used(tape: Tape, *rows: Array) -> set[int]:
    """Neurons that some rows depend on, directly or through other neurons."""
    found: set[int] = set()
    waiting = {int(i) for row in rows for i in np.flatnonzero(row[:, tape.first :].any(axis=(0, 2)))}
    while waiting:
        i = waiting.pop()
        found.add(i)
        below = np.flatnonzero(tape.arguments[i][tape.first :].any(axis=1))
        waiting |= {int(j) for j in below} - found
    return found
