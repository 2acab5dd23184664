"""Application of faults to readings, commands and the solver during a run."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np

from controlrnn.checks import Array
from mpc.loops.faults import ActuatorFault, Fault, Late, Mask, SensorFault
from mpc.problem.ocp import Backend, Solution, StepData
from mpc.problem.solver_options import Status


class FaultRun:
    """Faults applied during one run.

    Args:
        faults: The faults.
        steps: Number of control steps.
        ny: Number of outputs.
        nu: Number of inputs.
        rng: Generator for the samples at which faults act, and for signs.

    Attributes:
        kinds: Kinds of faults, sorted.
        flags: Whether a fault of a kind acts at a step, shape (steps, len(kinds)).
        signs: Random signs -1 or 1 of each sample's readings, shape (steps, ny).
        acting: Step, fault and channels of all that acts, sorted by step, at a step in the order of the faults.
    """

    def __init__(self, faults: Sequence[Fault], steps: int, ny: int, nu: int, rng: np.random.Generator) -> None:
        self.kinds = tuple(sorted({fault.kind for fault in faults}))
        self.flags = np.zeros((steps, len(self.kinds)), dtype=np.bool_)
        self.acting: list[tuple[int, Fault, Mask]] = []
        self.signs = rng.choice([-1.0, 1.0], (steps, ny)) if faults else np.ones((steps, ny))
        self._sensors: dict[int, list[tuple[SensorFault, Mask]]] = defaultdict(list)
        self._actuators: dict[int, list[tuple[ActuatorFault, Mask]]] = defaultdict(list)
        self._late: set[int] = set()
        self._under_way: dict[int, list[tuple[int, Array]]] = defaultdict(list)
        # Which faults act is drawn here for the whole run, so that it does not depend on the controller.
        memory = 1
        for fault in faults:
            channels = ny if isinstance(fault, SensorFault) else nu if isinstance(fault, ActuatorFault) else 1
            mask = fault.acts(rng, steps, channels)
            acting = np.flatnonzero(mask.any(axis=1))
            self.flags[acting, self.kinds.index(fault.kind)] = True
            if isinstance(fault, Late):
                memory = max(memory, fault.delay + 1)
            for t in acting.tolist():
                self.acting.append((t, fault, mask[t]))
                if isinstance(fault, SensorFault):
                    self._sensors[t].append((fault, mask[t]))
                elif isinstance(fault, ActuatorFault):
                    self._actuators[t].append((fault, mask[t]))
                else:
                    self._late.add(t)
        self.acting.sort(key=lambda one: one[0])
        self._memory = memory
        self._past = np.zeros((0, ny))
        self._last = np.full(ny, np.nan)

    @property
    def times_out(self) -> bool:
        """Whether the solver runs out of time at some step."""
        return bool(self._late)

    def measure(self, t: int, y: Array) -> Array:
        """Readings (ny,) with faults at control step ``t`` (t < 0 during the warm-up) for true readings ``y`` (ny,)."""
        self._past = np.vstack([self._past, y])[-self._memory :]
        now = y
        for fault, mask in self._sensors.get(t, ()):
            if isinstance(fault, Late) and fault.stamped:
                self._under_way[t + fault.delay].append((fault.delay, np.where(mask, now, np.nan)))
            # At the start there is no last reading to repeat: the present one is used.
            last = np.where(np.isnan(self._last), now, self._last)
            now = np.where(mask, fault.reading(now, self._past, last, self.signs[t]), now)
        self._last = now
        return now

    def arriving(self, t: int) -> list[tuple[int, Array]]:
        """Late readings with time stamps that arrive at control step ``t``: pairs (samples late, reading (ny,)).

        Oldest first; NaN in channels that were not late, or missing.
        """
        return sorted(self._under_way.pop(t, []), key=lambda late: -late[0])

    def apply(self, t: int, u: Array, last: Array) -> Array:
        """Input that reaches the plant at control step ``t`` for the command ``u`` (nu,), after ``last`` (nu,)."""
        for fault, mask in self._actuators.get(t, ()):
            u = np.where(mask, fault.flow(u, last), u)
        return u

    def late(self, t: int) -> bool:
        """Whether the solver runs out of time at control step ``t``."""
        return t in self._late


class Interruptible:
    """Wrapper of a solver that runs out of time while ``late`` is set.

    Args:
        backend: The solver.
    """

    def __init__(self, backend: Backend) -> None:
        self.backend = backend
        self.late = False

    def solve(self, data: StepData) -> Solution:
        """Solve one sample, or return a time-out without calling the solver."""
        if not self.late:
            return self.backend.solve(data)
        return Solution(
            status=Status.TIME_LIMIT,
            u=data.guess,
            slack=np.zeros_like(data.lower),
            cost=np.nan,
            iterations=0,
            message="fault: time-out",
        )

    def reset(self) -> None:
        """Reset the solver; see `mpc.problem.ocp.Backend`."""
        self.backend.reset()
