"""Budget of a search: seconds on a clock, or counted steps that give the same result on a slower machine.

The order of all work is fixed by the seed; time only decides where it ends. What was done is counted in iterations of
the optimiser, so that a search with the same counts repeats it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import ClassVar

from controlrnn.checks import Choice, count
from controlrnn.identification.training.progress import Callback, Progress
from controlrnn.identification.training.settings import FitStatus
from controlrnn.records import Count, Schema, Stored
from controlrnn.typed import typed


class Clock(Choice):
    """Clock that a budget is measured by."""

    WALL = "wall"
    """Time as it passes."""
    PROCESSOR = "processor"
    """Time that this process computes, on all its threads: what others do on the machine does not matter."""

    @property
    def now(self) -> Callable[[], float]:
        """Function that reads the clock [s]."""
        return time.perf_counter if self is Clock.WALL else time.process_time


class Phase(Choice):
    """Part of a search with a share of its budget."""

    LINEAR = "linear"
    """Refining a linear model: as many iterations as the budget plans, whatever the time they take."""
    SEARCH = "search"
    """Comparing candidates."""
    FIRST = "first"
    """Final fit of the best candidate."""
    SECOND = "second"
    """Final fit of the best candidate of the other family."""


# Share of the seconds at which each phase ends; the rest is for scores and certificates. Final fits of short records
# take as long as a few trials, those of long ones as long as they are given.
_ENDS = {Phase.SEARCH: 0.50, Phase.FIRST: 0.76, Phase.SECOND: 0.96}
_ORDERS = 0.3  # share of the seconds after which no other order of linear models is begun
_SHORT = {Phase.SEARCH: 0.80, Phase.FIRST: 0.88, Phase.SECOND: 0.96}


@dataclass(frozen=True)
@typed()
class Work(Stored):
    """Work of a search, counted: the same counts repeat its result, whatever the time they take.

    Args:
        search: Iterations spent on comparing candidates; of trials that came to their end.
        first: Iterations spent on the final fit of the best candidate.
        second: Iterations spent on that of the best candidate of the other family.
        orders: Orders of linear models that were refined before networks; the first always is.
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "search-work", 2, meta={"search": Count(), "first": Count(), "second": Count(), "orders": Count()}
    )  # fmt: skip

    search: int = 0
    first: int = 0
    second: int = 0
    orders: int = 0

    def __post_init__(self) -> None:
        for name in ("search", "first", "second", "orders"):
            count(name, getattr(self, name), least=0)


class Meter:
    """Reader of the budget of one search.

    Args:
        seconds: The budget [s].
        clock: What the seconds are.
        work: Counts to stop at instead; None stops by the clock.
    """

    def __init__(self, seconds: float, clock: Clock, work: Work | None) -> None:
        self.seconds = seconds
        self._now = clock.now
        self._began = self._now()
        self._work = work
        self.phase = Phase.SEARCH
        self.short = False  # whether records are short, which decides on the shares
        self.counts = dict.fromkeys(Phase, 0)
        self.orders = 0  # of linear models that were refined

    @property
    def elapsed(self) -> float:
        """Seconds spent, those of earlier runs included."""
        return self._now() - self._began

    def credit(self, seconds: float) -> None:
        """Count seconds that an earlier run of the same search took [s]."""
        self._began -= seconds

    @contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """Count what happens inside as another phase."""
        before, self.phase = self.phase, phase
        try:
            yield
        finally:
            self.phase = before

    @property
    def more_orders(self) -> bool:
        """Whether linear models of another order are to be refined; of one they always are."""
        enough = self.elapsed >= _ORDERS * self.seconds if self._work is None else self.orders >= self._work.orders
        return self.orders == 0 or not enough

    @property
    def over(self) -> bool:
        """Whether the present phase has to end."""
        if self.phase is Phase.LINEAR:
            return False
        if self._work is not None:
            return self.counts[self.phase] > int(getattr(self._work, str(self.phase)))
        return self.elapsed >= (_SHORT if self.short else _ENDS)[self.phase] * self.seconds

    @property
    def work(self) -> Work:
        """Work of the search so far, counted."""
        counts = {str(phase): n for phase, n in self.counts.items() if phase is not Phase.LINEAR}
        return Work(**counts, orders=self.orders)


class Stop(Callback):
    """Callback that counts iterations, ends a fit when the phase is over, and tells listeners of the search.

    Args:
        meter: The budget.
        listeners: They get seconds for steps, and the lowest error of the search.
        best: Lowest error of the search so far.
    """

    def __init__(self, meter: Meter, listeners: tuple[Callback, ...] = (), best: float = float("inf")) -> None:
        self._meter = meter
        self._listeners = listeners
        self._best = best
        self.iterations = 0
        self.stopped = False

    def on_step(self, progress: Progress) -> None:
        """Count one iteration; raises KeyboardInterrupt when the phase is over.

        A fit that goes on from a checkpoint begins with the iterations of the earlier run.
        """
        self.reach(progress.step)
        meter = self._meter
        whole = max(1, int(meter.seconds))
        told = Progress(
            min(int(meter.elapsed), whole),
            whole,
            progress.loss,
            progress.validation,
            min(self._best, progress.best),
            progress.learning_rate,
        )
        for listener in self._listeners:
            listener.on_step(told)
        if meter.over:
            # The iteration is lost: it was not validated. A search with these counts ends at the same one.
            meter.counts[meter.phase] -= 1
            self.stopped = True
            raise KeyboardInterrupt

    def reach(self, step: int) -> None:
        """Count the iterations up to a step of the fit."""
        self._meter.counts[self._meter.phase] += step - self.iterations
        self.iterations = step

    def on_end(self, status: FitStatus) -> None:
        """Do nothing at the end of a fit: the search goes on."""
