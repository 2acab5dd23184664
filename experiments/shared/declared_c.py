"""The plants of `experiments.shared.declared_sets` in C, for compiled loops; adversaries look as they do in Python."""

from __future__ import annotations

import tempfile
from pathlib import Path
from string import Template
from typing import Any

import numpy as np

from controlrnn.checks import Array
from controlrnn.export import to_c
from controlrnn.export.c_code import constants
from controlrnn.systems import LureSystem


def truth_code(name: str, truth: Any, body: str) -> str:
    """C source of a `declared_sets.Truth`.

    Args:
        name: Prefix of its functions.
        truth: The plant.
        body: `DECLARED` or `PHYSICAL`.
    """
    unknowns, observer, plant = truth.unknowns, truth.observer, truth.plant
    low, high = (np.array([getattr(s, side) for s in truth.inputs]) for side in ("lower", "upper"))
    tables: dict[str, Array] = {
        "push_bound": truth.push, "residual_bound": truth.residual, "outward": truth._outward,
        "behind": truth._behind, "offsets": observer.spread * np.linalg.inv(truth._root), "held_input": truth.held,
        "drift_bound": truth.drift, "low": low, "high": high, "rest": np.zeros(1),
    }  # fmt: skip
    if body is DECLARED:
        inner = system_code(observer.system, f"{name}_model")
    else:
        inner = plant.c_code(f"{name}_physics")
        tables["rest"] = truth._rest
    words = {
        "name": name, "tables": constants({f"{name}_{key}": table for key, table in tables.items()}),
        "nw": unknowns.plant, "ny": unknowns.ny, "nu": unknowns.nu, "nx": unknowns.nx, "limited": truth.limited,
        "middle": repr(float(truth._middle)), "memory": len(truth.drift),
    }  # fmt: skip
    return inner + Template(_PUSHED + body).substitute(words | {"states": plant.nx})


def system_code(system: LureSystem, name: str) -> str:
    """C source of a system in one text: ``NAME_step(x, u, x_next)`` and ``NAME_output(x, u, y)``.

    Args:
        system: A frozen system.
        name: Prefix.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, header = to_c(system, Path(folder, "system.c"), name=name)
        return source.read_text().replace('#include "system.h"', header.read_text())


_PUSHED = """
#include <math.h>
#include <string.h>

$tables

enum { RANDOM, CONSTANT, OUTWARD, SWITCHING };

static double ${name}_offset[$nx];

void ${name}_restart(double *offset) { memcpy(offset, ${name}_offset, sizeof ${name}_offset); }

/* True input and residual of a row of unknowns, of which an adversary goes by the output y; sets the next restart. */
static void ${name}_pushed(const double *y, const double *u, const double *row, double *input, double *residual)
{
    const double *r = row + $nw, *p = r + $ny, *z = p + $nu, side = y[$limited] >= $middle ? 1 : -1;
    const int kind = (int)z[$nx];
    double restart[$nx];
    for (int i = 0; i < $ny; ++i) residual[i] = ${name}_residual_bound[i] * (kind >= OUTWARD ? side * r[i] : r[i]);
    for (int j = 0; j < $nu; ++j) {
        const double push = kind == OUTWARD ? side * p[j] * ${name}_outward[j] : kind == SWITCHING ? side * p[j] : p[j];
        input[j] = u[j] + ${name}_push_bound[j] * push;
    }
    for (int i = 0; i < $nx; ++i)
        restart[i] = kind == OUTWARD ? -side * ${name}_behind[i] : kind == SWITCHING ? z[i] * ${name}_behind[i] : z[i];
    for (int i = 0; i < $nx; ++i) {
        ${name}_offset[i] = 0;
        for (int k = 0; k < $nx; ++k) ${name}_offset[i] += ${name}_offsets[i * $nx + k] * restart[k];
    }
}
"""

DECLARED = """
int ${name}_output(const double *x, const double *u, double *y)
{
    ${name}_model_output(x, u, y);
    for (int i = 0; i < $ny; ++i) y[i] += x[$nx + i];
    return 0;
}

/* The model's state, then the last residuals, the newest first; a new one goes as far as its drift allows. */
int ${name}_step(double *x, const double *u, const double *w)
{
    double y[$ny], input[$nu], residual[$ny], *past = x + $nx;
    if (!w) return 1;
    ${name}_output(x, u, y);
    ${name}_pushed(y, u, w, input, residual);
    for (int i = 0; i < $ny; ++i) {
        double low = -INFINITY, high = INFINITY;
        for (int k = 0; k < $memory; ++k) {
            low = fmax(low, past[k * $ny + i] - ${name}_drift_bound[k * $ny + i]);
            high = fmin(high, past[k * $ny + i] + ${name}_drift_bound[k * $ny + i]);
        }
        residual[i] = fmin(fmax(residual[i], low), high);
    }
    ${name}_model_step(x, input, x);
    memmove(past + $ny, past, ($memory - 1) * $ny * sizeof *past);
    memcpy(past, residual, sizeof residual);
    return 0;
}
"""

PHYSICAL = """
int ${name}_output(const double *x, const double *u, double *y) { return ${name}_physics_output(x, u, y); }

int ${name}_step(double *x, const double *u, const double *w)
{
    double y[$ny], input[$nu], residual[$ny];
    int rests = 1;
    if (!w || ${name}_output(x, u, y)) return 1;
    ${name}_pushed(y, u, w, input, residual);
    for (int i = 0; i < $nw; ++i) rests = rests && w[i] == 0;
    for (int j = 0; j < $nu; ++j) rests = rests && input[j] == ${name}_held_input[j];
    for (int i = 0; i < $states; ++i) rests = rests && x[i] == ${name}_rest[i];
    if (rests) return 0; /* that is what a steady state is */
    for (int j = 0; j < $nu; ++j) input[j] = fmin(fmax(input[j], ${name}_low[j]), ${name}_high[j]);
    return ${name}_physics_step(x, input, w);
}
"""
