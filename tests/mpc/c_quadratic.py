"""The QP solver of the C code by itself, compiled for the tests, and programs that are hard for such solvers."""

from __future__ import annotations

import ctypes
import subprocess
from importlib import resources
from pathlib import Path
from string import Template

import numpy as np

MOST = 40  # variables, and rows

_HARNESS = """
#include <math.h>
#include <string.h>
#define QP_VARIABLES $most
#define QP_ROWS $most
#define MARK 0xA5
$header
typedef qp_qp Quadratic;
$source
static Quadratic memory;

int run(int n, int m, const double *H, const double *g, const double *C, const double *lower, const double *upper,
        const double *price, double *z, double *multiplier, int again)
{
    int status;
    if (!again) memset(&memory, MARK, sizeof memory);
    status = (again ? qp_solve_again : qp_solve)(&memory, n, m, H, g, C, lower, upper, price);
    memcpy(z, memory.z, (size_t)n * sizeof *z);
    memcpy(multiplier, memory.multiplier, (size_t)(n + m) * sizeof *multiplier);
    return status;
}

int pivots(void) { return memory.pivots; }

static int changed(const void *array, size_t used, size_t all)
{
    const unsigned char *byte = array;
    for (size_t i = used; i < all; ++i)
        if (byte[i] != MARK) return 1;
    return 0;
}

/* Whether anything was written beyond what n variables and m rows need. */
int beyond(int n, int m)
{
    int found = 0;
#define LOOK(array, used) found |= changed(array, (size_t)(used) * sizeof *array, sizeof array)
    LOOK(memory.J, n * n); LOOK(memory.R, n * n); LOOK(memory.z, n); LOOK(memory.d, n); LOOK(memory.r, n);
    LOOK(memory.direction, n); LOOK(memory.active, n); LOOK(memory.multiplier, n + m); LOOK(memory.size, n + m);
    LOOK(memory.over, n + m); LOOK(memory.under, n + m); LOOK(memory.value, n + m); LOOK(memory.columns, n * m);
    LOOK(memory.kind, n + m); LOOK(memory.side, n + m);
    return found;
}
"""


class CQuadratic:
    """The compiled solver; ``solve`` returns (status, z, multipliers of bounds and rows)."""

    def __init__(self, compiler: str, folder: Path) -> None:
        texts = resources.files("mpc.c_code") / "templates"
        words = {"name": "qp", "NAME": "QP", "most": MOST}
        parts = {
            "header": Template((texts / "quadratic.h").read_text()).substitute(words),
            "source": Template((texts / "quadratic.c").read_text()).substitute(words),
        }
        source, target = folder / "qp.c", folder / "qp.so"
        source.write_text(Template(_HARNESS).substitute(words | parts))
        flags = ["-std=c99", "-Wall", "-Wextra", "-Werror", "-O2", "-shared", "-fPIC"]
        subprocess.run([compiler, *flags, str(source), "-o", str(target), "-lm"], check=True)
        self.library = ctypes.CDLL(str(target))

    def solve(self, H, g, C, lower, upper, price, *, again=False):
        n, m = len(g), len(price)
        z, multipliers = np.full(n, np.nan), np.full(n + m, np.nan)
        arrays = [np.ascontiguousarray(a, dtype=float) for a in (H, g, C, lower, upper, price, z, multipliers)]
        pointers = (a.ctypes.data_as(ctypes.POINTER(ctypes.c_double)) for a in arrays)
        status = self.library.run(n, m, *pointers, int(again))
        return ("solved", "infeasible", "failed")[status], arrays[-2], arrays[-1]


def program(seed: int, kind: str):
    """(H, g, C, lower, upper, price) of a random program of a kind."""
    rng = np.random.default_rng(seed)
    n, m = int(rng.integers(1, 13)), int(rng.integers(0, 15))
    root = rng.standard_normal((n, n))
    H = root @ root.T / n + 10.0 ** rng.uniform(-4, 0) * np.eye(n)
    g, C = 3 * rng.standard_normal(n), rng.standard_normal((m, n))
    high = rng.uniform(-1, 1, m)
    low = high - rng.uniform(0.1, 1, m)
    price = 10.0 ** rng.uniform(-1, 2, m)
    lower, upper = -np.ones(n), np.ones(n)
    inside = rng.uniform(-0.9, 0.9, n)  # keeps what must be kept
    if kind in ("hard", "moves", "repeated", "vertex"):
        if kind == "moves":
            C = (np.eye(n) - np.eye(n, k=-1))[rng.integers(0, n, m)] if m else C
        if kind == "repeated" and m:
            C = C[rng.integers(0, max(m // 3, 1), m)] * rng.choice([-1.0, 1.0, 1e-3], m)[:, None]
        keep = rng.random(m) < 0.6
        high = np.where(keep, np.maximum(high, C @ inside), high)
        low = np.where(keep, np.minimum(low, C @ inside), low)
        price = np.where(keep, np.inf, price)
    if kind == "vertex":  # all limits meet in one point, where the solution may be
        low, high = C @ inside - rng.uniform(0, 1, m) * (rng.random(m) < 0.5), C @ inside
        lower, upper = np.where(rng.random(n) < 0.5, inside, lower), np.where(rng.random(n) < 0.3, inside, upper)
        g = np.where(rng.random() < 0.5, -H @ inside, g)
    if kind == "bounds_again" and m:
        C = np.eye(n)[rng.integers(0, n, m)] * rng.choice([-1.0, 1.0], m)[:, None]
        low, high = -np.ones(m), np.where(rng.random(m) < 0.5, 1.0, high)
    if kind == "equalities":  # rows and variables with one admissible value
        k = min(m, n // 3)
        low[:k] = high[:k] = C[:k] @ inside
        price[:k] = np.inf
        fixed = rng.random(n) < 0.2
        lower, upper = np.where(fixed, inside, lower), np.where(fixed, inside, upper)
    if kind == "flat":  # more directions without curvature than with
        thin = rng.standard_normal((max(n // 3, 1), n))
        H = thin.T @ thin
        H += 1e-10 * H.max() * np.eye(n)
    if kind == "zero_rows" and m:
        C[rng.random(m) < 0.5] = 0.0
        low, high = np.where(rng.random(m) < 0.5, -np.inf, low), high
    return H, g, C, np.concatenate([lower, low]), np.concatenate([upper, high]), price


KINDS = ("soft", "hard", "moves", "repeated", "vertex", "bounds_again", "zero_rows", "equalities", "flat")


def objective(z, H, g, C, lower, upper, price):
    """Value at z and the largest violation of what must be kept."""
    n, values = len(z), C @ z
    excess = np.maximum(np.maximum(values - upper[n:], lower[n:] - values), 0.0)
    soft = np.isfinite(price)
    bounds = np.maximum(np.maximum(z - upper[:n], lower[:n] - z), 0.0)
    kept = np.concatenate([excess[~soft], bounds])
    return float(z @ H @ z / 2 + g @ z + price[soft] @ excess[soft]), float(kept.max(initial=0.0))
