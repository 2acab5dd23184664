"""Plants with C code beside their Python."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from mpc_networks import LurePlant, signals

from controlrnn.export import to_c

_LURE = """
int {name}_step(double *x, const double *u, const double *w)
{{
    {name}_model_step(x, u, x);
    for (int i = 0; i < NY; ++i) x[NX + i] = w ? w[i] : 0;
    return 0;
}}

int {name}_output(const double *x, const double *u, double *y)
{{
    {name}_model_output(x, u, y);
    for (int i = 0; i < NY; ++i) y[i] += x[NX + i];
    return 0;
}}
"""


@dataclass(frozen=True, eq=False)
class CompiledLure(LurePlant):
    """A network as the plant, in Python and in C."""

    @property
    def nw(self) -> int:
        return self.system.ny

    def c_code(self, name: str) -> str:
        with tempfile.TemporaryDirectory() as folder:
            source, header = to_c(self.system, Path(folder, "model.c"), name=f"{name}_model")
            text = source.read_text().replace('#include "model.h"', header.read_text())
        return text + _LURE.format(name=name)


class Tank:
    """x+ = 0.9 x + u, y = x, as `one_tank`."""

    dt, nx, nw = 1.0, 1, 0
    inputs, outputs = signals("u", 1, 1.0), signals("y", 1, 1.0)

    def initial_state(self) -> np.ndarray:
        return np.zeros(1)

    def step(self, x: Any, u: Any, w: Any = None) -> Any:  # noqa: ARG002
        return 0.9 * x + u

    def output(self, x: Any, u: Any) -> Any:  # noqa: ARG002
        return x

    def c_code(self, name: str) -> str:
        return (
            f"int {name}_step(double *x, const double *u, const double *w)\n"
            "{ (void)w; *x = 0.9 * *x + *u; return 0; }\n"
            f"int {name}_output(const double *x, const double *u, double *y) {{ (void)u; *y = *x; return 0; }}\n"
        )
