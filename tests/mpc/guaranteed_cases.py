"""Controllers with a terminal set on random contracting systems, and estimates that jump as an adversary wants."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import numpy as np
from mpc_networks import signals
from random_systems import random_elman, random_system

from controlrnn.certification import certify_contraction, certify_horizon
from controlrnn.data import Signal
from controlrnn.systems import LureSystem
from mpc import (
    MpcStep,
    Predictor,
    StateError,
    TerminalSet,
    TightenedMPC,
    Tightening,
    make_recursive,
    no_tightening,
    terminal_set,
)
from mpc.control.settings import grouped
from mpc.observers.base import Observer

N, M = 16, 6
SYSTEMS: dict[str, LureSystem] = {
    "elman": random_elman(0),
    "slow elman": random_elman(1),
    "layers": random_system(3, layers=(3, 2), coupling=0.25, feedthrough=False),
    "feedthrough": replace(random_system(0), D21=np.zeros((2, 4))),
    "feedthrough through neurons": random_system(0),
}


class Jumping(Observer):
    """Runs on, and then goes by the certified jump (times ``size``) in whatever direction ``draw`` says."""

    draw: Callable[[int], np.ndarray] = staticmethod(lambda _: np.zeros(0))
    size = 1.0

    def __init__(self, predictor: Predictor, contraction: Any, jump: StateError) -> None:
        self._jump = jump
        super().__init__(predictor, 1, contraction=contraction)

    @property
    def jump(self) -> StateError:
        return self._jump

    def describe(self) -> str:
        return "jumps"

    def _next(self, u: np.ndarray, y: np.ndarray) -> np.ndarray:  # noqa: ARG002
        went = np.array(self.draw(self._seen))
        if self.predictor.carries:  # the last input is known
            went[-self.predictor.nu :] = 0.0
        if went.any():
            went = went * (self.size * self._jump.radius / np.sqrt(went @ self._jump.metric @ went))
        return np.asarray(self.system.step(self._state, u)) + went


@dataclass(frozen=True, eq=False)
class Guaranteed:
    """What a controller with a terminal set is made of."""

    predictor: Predictor
    contraction: Any
    observer: Jumping
    tightening: Tightening
    terminal: TerminalSet
    middle: np.ndarray
    half: np.ndarray
    weight: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", 1.0 / self.half**2)

    def controller(self, **options: Any) -> TightenedMPC:
        """A controller that has seen one sample at rest."""
        settings = {"output_weight": self.weight, "input_move_weight": 0.05, "control_horizon": M} | options
        settings = {"terminal": self.terminal, "tightening": self.tightening} | settings
        made = TightenedMPC(self.predictor, self.observer, **grouped(settings))
        made.record(self.predictor.system.output(self.observer.state, np.zeros(2)), np.zeros(2))
        return made

    def references(self, steps: int, reach: float) -> np.ndarray:
        """Corners of the limits times ``reach`` in turn, then the middle; shape (steps, 2)."""
        corners = np.array([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0], [0.0, 0.0]])
        return self.middle + reach * self.half * corners[5 * np.arange(steps) // steps]

    def towards_limits(self, t: int) -> np.ndarray:
        """The direction that moves an output furthest, turning around now and then."""
        C = self.predictor.system.C2[t // 30 % 2]
        return np.linalg.solve(self.observer.jump.metric, C) * np.sign(np.sin(t / 25 + 1))


@cache
def guaranteed(name: str, jump: float = 0.02) -> Guaranteed:
    """``jump`` is what one jump can do to an output, in half ranges between its limits."""
    free = Predictor(SYSTEMS[name], signals("u", 2, 1.0))
    system = free.system
    contraction = certify_contraction(system)
    P = np.asarray(contraction.metric)
    reached = np.array([free.steady_output(u) for u in np.random.default_rng(0).uniform(-1, 1, (40, 2))])
    middle, half = reached.mean(axis=0), 0.3 * np.ptp(reached, axis=0)
    limits = zip(middle - half, middle + half, strict=True)
    predictor = replace(free, outputs=tuple(Signal(f"y{i}", lower=a, upper=b) for i, (a, b) in enumerate(limits)))
    answer = np.sqrt(np.einsum("ij,ji->i", system.C2, np.linalg.solve(P, system.C2.T)))
    error = StateError(jump * float((half / answer).min()), P)
    observer = Jumping(predictor, contraction, error)
    growth = certify_horizon(system, N, initial_radius=error.radius, metric=P) if jump else None
    tightening = make_recursive(no_tightening(system.digest, N, 2), growth, observer=observer)
    terminal = terminal_set(predictor, contraction, horizon=N, jump=error)
    return Guaranteed(predictor, contraction, observer, tightening, terminal, middle, half)


def run(
    case: Guaranteed, controller: TightenedMPC, references: Sequence[Any] | np.ndarray, y: Any = None
) -> tuple[list[MpcStep], np.ndarray]:
    """A loop in which the estimate is all there is; the steps, and by how much each shifted plan broke its limits."""
    steps, excess = [], []
    for t, reference in enumerate(references):
        seen = case.predictor.system.output(controller.observer.state, controller.u_previous) if y is None else y
        steps.append(controller.step(seen, reference))
        data = controller.last_data
        if t > 0 and data is not None:  # the guess is the plan of the sample before, shifted
            excess.append(controller.problem.excess(data, data.guess))
    return steps, np.array(excess)
