"""An enemy of the region watch: what leaves the region is named at that sample, in Python and in C, and nothing else.

What lies outside is found by a reckoner of its own, from the inputs that acted, the readings and the model.
"""

from __future__ import annotations

import copy

import numpy as np
import pytest
from premise_cases import STEPS, SYSTEM, washing

from experiments.bench_mpc.c_code import CompiledController, compiler
from mpc import OperatingRegion, Premise, RegionShape

HALF = {"input": 0.6, "move": 0.4, "residual": 0.018}
SANITISED = ("-O1", "-g", "-fsanitize=undefined", "-fno-sanitize-recover=all")
DEEDS = (
    "quiet", "quiet", "jump", "creep", "creep blind", "reading", "reading creeps", "edge", "beyond the edge",
    "read back", "cleared", "taken over", "restored", "copied", "changed", "gap", "hand",
)  # fmt: skip
IN_C = tuple(d for d in DEEDS if d not in ("copied", "changed"))


def regional(shape=RegionShape.BOX):
    made = washing()
    region = OperatingRegion(
        shape=shape,
        centres=(np.zeros(1), np.zeros(1), np.zeros(1)),
        covariances=(np.full((1, 1), 0.04),) * 3,
        limits=tuple(half / 0.2 for half in HALF.values()),
        labels=("valve [%]", "level [m]"),
        coverage=0.9,
        n=20,
        observer_digest=made.observer.digest,
        data_digest="0" * 64,
    )
    return washing(region=region)


class Reckoner:
    """Says what lies outside, from what was told."""

    def __init__(self, start):
        self.start, self.inputs, self.before, self.last = start, [], None, None

    def outside(self, u, y):
        """Of one sample; afterwards it is past."""
        found, self.last = False, None
        if len(self.inputs) >= STEPS:
            x = self.start
            for row in self.inputs[-STEPS:]:
                x = SYSTEM.step(x, row)
            residual = y - SYSTEM.output(x, u)
            found = self._input(u, self.before) or bool((np.abs(residual) > HALF["residual"]).any())
            self.last = self.before
        self.inputs.append(u)
        self.before = u
        return found

    def _input(self, u, before):
        moved = before is not None and (np.abs(u - before) > HALF["move"] * (1 + 1e-9)).any()
        return bool(moved or (np.abs(u) > HALF["input"] * (1 + 1e-9)).any())

    def acted(self, u):
        """It was not what was told last."""
        checked, self.before, self.inputs[-1] = len(self.inputs) > STEPS, u, u
        return checked and self._input(u, self.last)


class Attack:
    """One loop with random deeds."""

    def __init__(self, controller, seed, deeds, initial):
        self.controller, self.rng, self.deeds = controller, np.random.default_rng(seed), deeds
        self.reckoner = Reckoner(initial)
        self.x, self.u, self.clock, self.deed, self.age = np.zeros(1), np.zeros(1), 0.0, "quiet", 0
        self.applied, self.last = None, None
        self.suspicious = self.pending = False  # outside since the last certified step, and since the last step
        self.alarms, self.outside = 0, 0

    def run(self, samples):
        for t in range(samples):
            if self.age == 0:
                quiet = t > samples - 3 * STEPS
                self.deed, self.age = (
                    "quiet" if quiet else str(self.rng.choice(self.deeds)),
                    int(self.rng.integers(2, 9)),
                )
            self.sample(getattr(self, f"_{self.deed.replace(' ', '_')}")(self.age))
            self.age -= 1

    def sample(self, now):
        manual, off, acted, missed = (now.get(k) for k in ("manual", "off", "acted", "missed"))
        y = SYSTEM.output(self.x, self.u) + (0.0 if off is None else off)
        used = np.where(np.abs(y) < 1e3, y, np.nan)  # what cannot be right is not used, and named as a reading
        if manual is not None:
            u = np.array([manual])
            self._note(self.reckoner.outside(u, used))
            self.controller.record(y, u)
            self.applied = None
            self.u = u
        else:
            step = self.controller.step(y, [0.15 * np.sin(self.clock / 15)], applied=self.applied, time=self.clock)
            self._note(self.reckoner.outside(step.u, used))
            named, self.last = Premise.REGION in step.broken, step
            self.alarms += named
            assert named >= self.pending, (self.deed, "left the region, and nobody said so")
            assert not (named and step.certified)
            assert named <= self.suspicious, (self.deed, "never left the region", step.broken)
            self.pending, self.suspicious = False, self.suspicious and not step.certified
            self.u = step.u if acted is None else np.array([acted])
            self.applied = self.u
            if acted is not None:
                self._note(self.reckoner.acted(self.u))
        for k in range(1 + (missed or 0)):
            self.x = SYSTEM.step(self.x, self.u)
            self.clock += 1.0
            if k:
                self._note(self.reckoner.outside(self.u, np.full(1, np.nan)))

    def _note(self, outside):
        self.outside += outside
        self.pending, self.suspicious = self.pending or outside, self.suspicious or outside

    # deeds, by samples left

    def _quiet(self, _):
        return {}

    def _jump(self, _):
        return {"manual": float(self.rng.choice([-0.9, 0.9]))}

    def _hand(self, _):
        return {"manual": float(self.rng.uniform(-0.5, 0.5))}

    def _creep(self, _):
        return {"manual": float(np.clip(self.u[0] + 0.15, -1, 1))}

    def _creep_blind(self, left):
        return self._creep(left) | {"off": np.nan}

    def _reading(self, _):
        return {"off": float(self.rng.choice([0.019, -0.5, np.nan, 1e300, np.inf]))}

    def _reading_creeps(self, left):
        return {"off": 0.004 * (9 - left)}

    def _edge(self, _):
        return {"manual": 0.6 if self.u[0] > 0.2 else float(self.u[0] + 0.4)}

    def _beyond_the_edge(self, _):
        return {"manual": 0.6 + 1e-6}

    def _read_back(self, _):
        return {"acted": float(self.rng.choice([0.7, -0.7, 0.2]))}

    def _cleared(self, left):
        """Moves of samples that are not checked end in a jump at the first one that is, or in none."""
        if left > 1:
            return self._hand(left)
        self.controller.clear_estimate()
        self.reckoner.inputs.clear()
        self.applied = None
        for _ in range(STEPS):
            self.sample({"manual": float(self.rng.uniform(-1, 1))})
        return {"manual": float(self.rng.uniform(-1, 1))}

    def _taken_over(self, left):
        """Somebody else has moved the actuator, and says where it is now."""
        if left > 1:
            return {}
        self.u = self.rng.uniform(-1, 1, 1)
        self.controller.start_from(self.u)
        self.reckoner.inputs.clear()
        self.reckoner.before, self.applied = self.u, None
        for _ in range(STEPS):
            self.sample({"manual": float(self.u[0])})
        return {"manual": float(self.u[0])}

    def _restored(self, left):
        if left > 1:
            return {}
        if isinstance(self.controller, CompiledController):
            self.controller.save()
            self.controller.reset()
            self.controller.load()
        else:
            fresh, state = copy.deepcopy(self.controller), self.controller.state()
            fresh.reset()
            fresh.restore(state)
            self.controller = fresh
        return self._jump(left)

    def _copied(self, left):
        if left == 1:
            self.controller = copy.deepcopy(self.controller)
        return self._jump(left)

    def _changed(self, left):
        if left > 1:
            return {}
        self.controller.change(input_move_weight=float(self.rng.uniform(1e-3, 1e-2)))
        return self._jump(left)

    def _gap(self, left):
        return {"missed": 3} if left == 1 else {}


def attacked(controller, seed, deeds, initial):
    controller.reset()
    made = Attack(controller, seed, deeds, initial)
    for _ in range(STEPS):
        made.sample({"manual": 0.0})
    made.run(220)
    assert made.last.certified, (seed, made.last.broken)
    return made.alarms, made.outside


@pytest.mark.parametrize("shape", list(RegionShape))
def test_whatever_leaves_the_region_is_named_and_nothing_else(shape):
    controller = regional(shape)
    found = [attacked(controller, seed, DEEDS, controller.observer.initial_state) for seed in range(8)]
    assert sum(alarms for alarms, _ in found) > 40
    assert sum(outside for _, outside in found) > 70


@pytest.mark.skipif(compiler() is None, reason="no C compiler (cc or gcc) on the path")
def test_c_names_it_too(tmp_path):
    ours = regional()
    theirs = CompiledController(ours, tmp_path, flags=SANITISED)
    found = [attacked(theirs, seed, IN_C, ours.observer.initial_state) for seed in range(8)]
    assert sum(alarms for alarms, _ in found) > 40
