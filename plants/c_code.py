"""Plants as C99: one sample by the integrator of `plants.integrate`, around CasADi's code of the dynamics.

The text defines ``NAME_step(x, u, w)``, which replaces x by the state one sample later and returns 0, and
``NAME_output(x, u, y)``. Inputs, states and disturbances are held to their limits as `Plant.step` holds them; anything
else than 0 is returned where that raises an error. Sums have another order than numpy's: results agree up to rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from string import Template
from typing import Any, Protocol

import numpy as np
from scipy.integrate import DOP853

from controlrnn.checks import Array
from controlrnn.data import Signal
from plants.integrate import _ATOL, _MOST, _RTOL, _STAGES
from plants.ops import CASADI, Ops, Value


class Described(Protocol):
    """What the C code needs of a `plants.Plant`."""

    dt: float

    @property
    def inputs(self) -> tuple[Signal, ...]:
        """Input signals."""

    @property
    def states(self) -> tuple[Signal, ...]:
        """State signals."""

    @property
    def disturbances(self) -> tuple[Signal, ...]:
        """Disturbance signals."""

    @property
    def outputs(self) -> tuple[Signal, ...]:
        """Output signals."""

    def _rate(self, x: Value, u: Value, ops: Ops, w: Value | None) -> Value:
        """Time derivative of the states, unchecked."""

    def _read(self, x: Value, u: Value, ops: Ops) -> Value:
        """Outputs, unchecked."""


def plant_code(plant: Described, name: str, slack: float) -> str:
    """C source of a plant.

    Args:
        plant: The plant.
        name: Prefix of its functions.
        slack: Share of a range by which limits may be left, and inputs are clipped.
    """
    import casadi

    sizes = {"nx": len(plant.states), "nu": len(plant.inputs), "nw": len(plant.disturbances)}
    x, u, w = (casadi.SX.sym(letter, 1, n) for letter, n in zip("xuw", sizes.values(), strict=True))
    functions = (
        casadi.Function(f"{name}_rate", [x, u, w], [casadi.densify(plant._rate(x, u, CASADI, w))]),
        casadi.Function(f"{name}_read", [x, u], [casadi.densify(plant._read(x, u, CASADI))]),
    )
    generator = casadi.CodeGenerator(f"{name}_casadi", {"casadi_int": "int"})
    for function in functions:
        generator.add(function)
    tables = {
        "nodes": DOP853.A[:_STAGES, :_STAGES], "weights": DOP853.B, "error_weights": DOP853.E5,
        **_limits("x", plant.states, slack), **_limits("u", plant.inputs, slack),
        **_limits("w", plant.disturbances, slack),
        "input_ends": [[s.lower for s in plant.inputs], [s.upper for s in plant.inputs]],
    }  # fmt: skip
    words = sizes | {
        "name": name, "ny": len(plant.outputs), "dt": repr(float(plant.dt)), "stages": _STAGES,
        "rtol": repr(_RTOL), "atol": repr(_ATOL), "most": _MOST, "work": 1 + max(f.sz_w() for f in functions),
        "whole": 1 + max(f.sz_iw() for f in functions),
        "tables": "\n".join(_table(f"{name}_{key}", value) for key, value in tables.items()),
    }  # fmt: skip
    return str(generator.dump()) + Template(_CODE).substitute(words)


def _limits(letter: str, signals: Sequence[Signal], slack: float) -> dict[str, Any]:
    lower, upper = (np.array([getattr(s, side) for s in signals]) for side in ("lower", "upper"))
    span = upper - lower
    room = np.where(np.isfinite(span), slack * span, 0.0)
    return {f"{letter}_low": lower - room, f"{letter}_high": upper + room}


def _table(name: str, values: Array | list[list[float]]) -> str:
    numbers = [repr(float(v)) for v in np.ravel(values)] or ["0.0"]
    text = ", ".join(numbers).replace("inf", "INFINITY")
    return f"static const double {name}[{len(numbers)}] = {{{text}}};"


_CODE = """
#include <math.h>
#include <string.h>

$tables

static int ${name}_within(int n, const double *v, const double *low, const double *high)
{
    for (int i = 0; i < n; ++i)
        if (!(v[i] >= low[i] && v[i] <= high[i] && isfinite(v[i]))) return 0;
    return 1;
}

/* dx/dt */
static void ${name}_slope(const double *x, const double *u, const double *w, double *out)
{
    const double *given[3];
    double *found[1], work[$work];
    int whole[$whole];
    given[0] = x;
    given[1] = u;
    given[2] = w;
    found[0] = out;
    ${name}_rate(given, found, whole, work, 0);
}

/* One attempt of length h: the new state, its slope stages[$stages], and the error over its tolerance. */
static double ${name}_attempt(const double *x, const double *u, const double *w, double h, double stages[][$nx],
    double *after)
{
    double at[$nx], worst = 0;
    for (int s = 1; s <= $stages; ++s) {
        const double *a = s < $stages ? ${name}_nodes + s * $stages : ${name}_weights;
        for (int i = 0; i < $nx; ++i) {
            double sum = 0;
            for (int k = 0; k < s; ++k) sum += a[k] * stages[k][i];
            at[i] = x[i] + h * sum;
        }
        ${name}_slope(at, u, w, stages[s]);
    }
    memcpy(after, at, sizeof at);
    for (int i = 0; i < $nx; ++i) {
        double sum = 0, share;
        for (int k = 0; k <= $stages; ++k) sum += ${name}_error_weights[k] * stages[k][i];
        share = fabs(h * sum / ($atol + $rtol * fmax(fabs(x[i]), fabs(after[i]))));
        if (!(share <= worst)) worst = share; /* keeps NaN */
        if (isnan(share)) return share;
    }
    return worst;
}

int ${name}_step(double *x, const double *u, const double *w)
{
    static const double none[$nw + 1] = {0};
    double held[$nu], stages[$stages + 1][$nx], after[$nx], left = $dt, h = $dt;
    if (!w) w = none;
    if (!${name}_within($nx, x, ${name}_x_low, ${name}_x_high)) return 1;
    if (!${name}_within($nu, u, ${name}_u_low, ${name}_u_high)) return 1;
    if (!${name}_within($nw, w, ${name}_w_low, ${name}_w_high)) return 1;
    for (int j = 0; j < $nu; ++j) held[j] = fmin(fmax(u[j], ${name}_input_ends[j]), ${name}_input_ends[$nu + j]);
    ${name}_slope(x, held, w, stages[0]);
    for (int attempts = 1; left > 0; ++attempts) {
        double error, factor;
        h = fmin(h, left);
        error = ${name}_attempt(x, held, w, h, stages, after);
        factor = isfinite(error) ? fmin(fmax(0.9 * pow(error, -1.0 / 6.0), 0.2), 10.0) : 0.2;
        if (error <= 1) {
            left -= h;
            memcpy(x, after, sizeof after);
            memcpy(stages[0], stages[$stages], sizeof stages[0]);
        } else factor = fmin(factor, 0.9);
        h *= factor;
        if (left > 0 && (h < 1e-12 * $dt || attempts > $most)) return 1;
    }
    return 0;
}

int ${name}_output(const double *x, const double *u, double *y)
{
    const double *given[2];
    double *found[1], work[$work];
    int whole[$whole];
    given[0] = x;
    given[1] = u;
    found[0] = y;
    return ${name}_read(given, found, whole, work, 0);
}
"""
