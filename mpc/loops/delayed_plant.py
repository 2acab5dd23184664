"""A plant whose inputs act one sample after they are computed, as behind a controller that needs that long."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np

from controlrnn.checks import Array
from controlrnn.data import Signal, Timing
from controlrnn.errors import SettingError

if TYPE_CHECKING:
    from mpc.loops.plant import Plant

_DELAY = """
#include <string.h>

int ${name}_step(double *x, const double *u, const double *w)
{
    if (${name}_undelayed_step(x, x + $n, w)) return 1;
    memcpy(x + $n, u, $nu * sizeof *x);
    return 0;
}

int ${name}_output(const double *x, const double *u, double *y)
{
    (void)u;
    return ${name}_undelayed_output(x, x + $n, y);
}
"""
_NEEDED = ("dt", "inputs", "outputs", "nx", "initial_state", "step", "output")


@dataclass(frozen=True, eq=False)
class DelayedPlant:
    """A plant with the input under way among its states (docs/timing.md), for `mpc.run_closed_loop`.

    Args:
        plant: The process, whose outputs do not answer at once.

    Raises:
        SettingError: It is no plant, or has the delay already.
    """

    plant: Plant

    def __post_init__(self) -> None:
        lacking = [name for name in _NEEDED if not hasattr(self.plant, name)]
        if lacking or isinstance(self.plant, DelayedPlant):
            what = f"has no {lacking[0]}" if lacking else "has the delay already"
            raise SettingError(
                f"plant must be a process as for run_closed_loop, got {type(self.plant).__name__}: {what}"
            )

    #: What controllers of it are for; see `mpc.Predictor.delayed`.
    timing = Timing.DELAYED

    @property
    def dt(self) -> float:
        """Sample time [s]."""
        return self.plant.dt

    @property
    def inputs(self) -> tuple[Signal, ...]:
        """Inputs with limits."""
        return self.plant.inputs

    @property
    def outputs(self) -> tuple[Signal, ...]:
        """Outputs with limits."""
        return self.plant.outputs

    @property
    def nx(self) -> int:
        """Number of the plant's states and inputs."""
        return self.plant.nx + len(self.plant.inputs)

    @property
    def move_limit(self) -> Any:
        """Largest change of inputs per sample that the actuators manage, as the plant says it; None: any."""
        return getattr(self.plant, "move_limit", None)

    @property
    def nw(self) -> int:
        """Number of the plant's disturbances; 0 where it does not say it."""
        return getattr(self.plant, "nw", 0)

    @property
    def c_code(self) -> Callable[[str], str]:
        """C source of the plant with the delay; see `mpc.loops.compiled.engine`.

        Raises:
            AttributeError: The plant has no C source.
        """
        inner: Callable[[str], str] = self.plant.c_code  # type: ignore[attr-defined]
        sizes = {"n": self.plant.nx, "nu": len(self.plant.inputs)}
        return lambda name: inner(f"{name}_undelayed") + Template(_DELAY).substitute(name=name, **sizes)

    def initial_state(self) -> Array:
        """Initial state, shape (nx,): the plant's own, with the middle of the inputs' limits under way."""
        ends = np.array([[s.lower, s.upper] for s in self.plant.inputs])
        middle = np.where(np.isfinite(ends).all(axis=1), ends.mean(axis=1), 0.0)
        return np.concatenate([self.plant.initial_state(), middle])

    def step(self, x: Any, u: Any, w: Any = None) -> Array:
        """State one sample later: the input under way acts, and u is under way."""
        n, more = self.plant.nx, () if w is None else (w,)
        return np.concatenate([self.plant.step(x[:n], x[n:], *more), np.asarray(u, dtype=float)])

    def output(self, x: Any, u: Any) -> Any:  # noqa: ARG002
        """Output without noise; no input moves it at once."""
        n = self.plant.nx
        return self.plant.output(x[:n], x[n:])
