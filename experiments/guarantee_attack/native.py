"""The generated C controller as the one that acts, for loops that take a tenth of the time.

It says what `mpc.MpcStep` says but for plans and predictions; the estimate is read from its state.
"""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from controlrnn.checks import Array
from experiments.bench_mpc.c_code import CompiledController
from mpc import TightenedMPC


class NativeController:
    """Stands in for a `TightenedMPC` in `experiments.guarantee_attack.loops.Loop`.

    Args:
        controller: Whose C code acts.
        folder: Where to compile.
    """

    def __init__(self, controller: TightenedMPC, folder: Path) -> None:
        self._compiled = CompiledController(controller, folder, flags=("-O1",))
        self.observer: Any = _Observer(controller.observer, self._compiled)
        self.tightening = controller.tightening
        self.horizon = controller.horizon
        for name in ("reset", "record", "clear_estimate", "start_from"):
            setattr(self, name, getattr(self._compiled, name))

    def step(self, y: Array, reference: Array, **more: Any) -> SimpleNamespace:
        """As `TightenedMPC.step`, without plan and predictions."""
        found = self._compiled.step(y, reference, **more)
        return SimpleNamespace(**vars(found), x=self._compiled.look()[1])

    def again(self) -> None:
        """Copy the state away and back."""
        self._compiled.save()
        self._compiled.load()


class _Observer:
    """Constants from Python, what changes from C."""

    def __init__(self, observer: Any, compiled: CompiledController) -> None:
        self._of = observer
        self._compiled = compiled
        self.error = observer.error
        self.jump = observer.jump
        self.steps = observer.steps

    @property
    def state(self) -> Array:
        return self._compiled.look()[0]

    @property
    def _bound(self) -> float:
        return float(self._compiled.look()[2][0])

    def __getattr__(self, name: str) -> Any:
        return getattr(self._of, name)
