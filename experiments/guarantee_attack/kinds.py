"""What can be broken, one premise at a time: scripts for `experiments.guarantee_attack.loops.Loop`.

A *blind* kind gives the controller nothing to notice it by (no read-back, no time stamp); no promise is made about it,
and its row shows what that costs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from controlrnn.checks import Array
from experiments.guarantee_attack.loops import Loop, Sample

Break = Callable[[int, Loop], Sample]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One way to break a premise.

    Args:
        during: What happens at the n-th broken sample.
        length: Number of broken samples.
        after: What happens at the first sample that is not.
        stamps: Whether samples carry time stamps.
        early: Whether it happens while the observer warms up.
        blind: Whether nothing tells the controller.
        harmless: Whether nothing that is declared is broken by it.
        far: Whether inputs out of range lead the model's state far away.
        outputs: Outputs that it needs.
    """

    during: Break
    length: int = 8
    after: Break | None = None
    stamps: bool = False
    early: bool = False
    blind: bool = False
    harmless: bool = False
    far: bool = False
    outputs: int = 1

    def begins(self, loop: Loop) -> int:
        """First broken sample."""
        return 1 if self.early else loop.start

    def script(self, t: int, loop: Loop) -> Sample:
        """What is different at a sample."""
        n = t - self.begins(loop)
        now = Sample()
        if 0 <= n < self.length:
            now = self.during(n, loop)
        elif n == self.length and self.after is not None:
            now = self.after(n, loop)
        if self.stamps and now.stamp is None:
            now.stamp = 0.0
        return now

    def last(self, loop: Loop) -> int:
        """Number of samples after which everything has to be as before."""
        return self.begins(loop) + self.length + 5 + loop.recovery(1e-10 if self.far else 1e-4)

    def broken(self, t: int, loop: Loop) -> bool:
        """Whether something that was declared does not hold at a sample."""
        n = t - self.begins(loop)
        return not self.harmless and 0 <= n < self.length + (self.after is not None)


def out(loop: Loop, ranges: float, sign: float = 1.0) -> Array:
    """An input so many half ranges from the middle."""
    return 0.5 * (loop.low + loop.high) + sign * ranges * 0.5 * (loop.high - loop.low)


def anything(loop: Loop) -> Array:
    """An input within the range."""
    return np.asarray(loop.rng.uniform(loop.low, loop.high))


def manual(ranges: float, *, alternating: bool = False) -> Break:
    """Somebody else acts out of range, and says so."""
    return lambda n, loop: Sample(manual=out(loop, ranges, -1.0 if alternating and n % 2 else 1.0))


def biased(size: Callable[[int], float]) -> Break:
    """Readings off by a multiple of the residual bound."""
    return lambda n, loop: Sample(off=size(n) * loop.member.residual)


def _read(loop: Loop) -> Array:
    return loop.output() + loop.w + loop.v


def _frozen(n: int, loop: Loop) -> Sample:
    if n == 0:
        loop.kept = _read(loop)
    return Sample(off=loop.kept - _read(loop))


def _liar(n: int, loop: Loop) -> Sample:  # noqa: ARG001
    """The largest innovation that is let pass, always to the same side."""
    observer = loop.controller.observer
    if loop.member.spec.observer != "innovation":
        return Sample(off=0.999 * loop.controller.tightening.predictive[0])
    kept, added = observer._largest_readings
    wanted = loop.system.output(observer.state, np.zeros(len(loop.low))) + 0.999 * (kept * observer._bound + added)
    return Sample(off=wanted - _read(loop))


def _creeping(n: int, loop: Loop) -> Sample:
    """Drifts away as slowly as it takes to be let pass, and for long."""
    return Sample(off=0.2 * (n + 1) * loop.member.residual)


def _swapped(n: int, loop: Loop) -> Sample:  # noqa: ARG001
    return Sample(off=np.roll(_read(loop), 1) - _read(loop))


def _stuck(n: int, loop: Loop, told: bool = True) -> Sample:
    if n == 0:
        loop.kept = anything(loop)
    return Sample(acted=loop.kept, told="truth" if told else None)


def _middle_clear(n: int, loop: Loop) -> Sample:
    return Sample(manual=out(loop, 6.0), before=("clear",) if n == 4 else ())


def _then_gap(n: int, loop: Loop) -> Sample:
    return Sample(manual=out(loop, 6.0)) if n < 7 else Sample(missed=1500)


def _held_out(n: int, loop: Loop) -> Sample:
    """An actuator far out, read back, and then nobody calls for long."""
    if n == 0:
        return Sample(acted=out(loop, 6.0), told="truth", missed=1500)
    return Sample()


def _late_wrong(n: int, loop: Loop) -> Sample:
    return Sample(off=np.full(loop.member.predictor.ny, np.nan) if n < 5 else 8.0 * loop.member.residual)


def _unannounced(n: int, loop: Loop) -> Sample:
    """Somebody else acts and nobody says so; then the controller is told what acts now."""
    if n == 0:
        loop.kept = anything(loop)
        return Sample(missed=10, drive=loop.kept)
    loop.u = loop.kept
    return Sample(before=("start",))


KINDS: dict[str, Kind] = {
    # inputs
    "manual 5 % out of range": Kind(far=True, during=manual(1.05)),
    "manual 6 ranges out": Kind(far=True, during=manual(6.0)),
    "manual 200 ranges out": Kind(far=True, during=manual(200.0), length=2),
    "manual out, to and fro": Kind(far=True, during=manual(4.0, alternating=True)),
    "manual out while warming up": Kind(far=True, during=manual(6.0), early=True, length=3),
    "manual out, then cleared": Kind(far=True, during=manual(6.0), after=lambda *_: Sample(before=("clear",))),
    "cleared while manual out": Kind(far=True, during=_middle_clear),
    "manual out, then restored": Kind(far=True, during=manual(6.0), after=lambda *_: Sample(before=("restore",))),
    "recorded out, was in range": Kind(
        during=lambda _, loop: Sample(manual=anything(loop), recorded=out(loop, 5.0))
    ),
    "recorded 1e308": Kind(
        during=lambda _, loop: Sample(manual=anything(loop), recorded=np.full(len(loop.low), 1e308)), length=2
    ),
    "manual out, then a long gap": Kind(far=True, during=_then_gap, stamps=True),
    # actuators
    "actuator stuck, read back": Kind(during=_stuck),
    "actuator out of range, read back": Kind(
        far=True, during=lambda _, loop: Sample(acted=out(loop, 4.0), told="truth")
    ),
    "actuator does anything, read back": Kind(during=lambda _, loop: Sample(acted=anything(loop), told="truth")),
    "read-back wrong": Kind(during=lambda _, loop: Sample(told=anything(loop))),
    "read-back wrong, out of range": Kind(during=lambda _, loop: Sample(told=out(loop, 5.0))),
    "read-back 1e308": Kind(during=lambda _, loop: Sample(told=np.full(len(loop.low), 1e308)), length=1),
    "actuator far out, then a long gap": Kind(far=True, during=_held_out, length=2, stamps=True),
    # time
    "samples missed": Kind(during=lambda n, _: Sample(missed=3 * (n == 0)), length=2, stamps=True),
    "samples missed, others acted": Kind(
        during=lambda n, loop: Sample(missed=30 * (n == 0), drive=anything(loop)), length=2, stamps=True
    ),
    "a long gap": Kind(
        during=lambda n, loop: Sample(missed=1500 * (n == 0), drive=anything(loop)), length=2, stamps=True
    ),
    "sample late": Kind(
        during=lambda n, loop: Sample(stamp=0.3 * (n == 1), acted=anything(loop) if n == 0 else None), length=3,
        stamps=True,
    ),
    "sample twice": Kind(during=lambda n, _: Sample(frozen=n % 2 == 0), length=6, stamps=True),
    "clock set back": Kind(during=lambda n, _: Sample(stamp=-50.0 * (n % 2)), length=4, stamps=True),
    # readings
    "reading 1e30": Kind(during=lambda *_: Sample(off=1e30), length=2),
    "reading 1e308": Kind(during=lambda *_: Sample(off=1e308), length=2),
    "readings infinite": Kind(during=lambda *_: Sample(off=np.inf)),
    "one outlier": Kind(during=biased(lambda _: 30.0), length=1),
    "outliers to and fro": Kind(during=biased(lambda n: 6.0 * (-1.0) ** n)),
    "sensor off by 3 bounds": Kind(during=biased(lambda _: 3.0), length=20),
    "sensor off by 10 bounds": Kind(during=biased(lambda _: 10.0), length=20),
    "sensor creeps away": Kind(during=_creeping, length=60),
    "sensor freezes": Kind(during=_frozen, length=25),
    "sensor turned around": Kind(
        during=lambda _, loop: Sample(off=-2 * (_read(loop) - loop.member.limits.mean(axis=0))), length=15
    ),
    "wrong unit": Kind(during=lambda _, loop: Sample(off=0.8 * _read(loop)), length=15),
    "sensors swapped": Kind(during=_swapped, length=15, outputs=2),
    "a liar who knows the bounds": Kind(during=_liar, length=25),
    "missing, then wrong": Kind(during=_late_wrong, length=10),
    # operation
    "others act unannounced, then handed over": Kind(during=_unannounced, length=2),
    "saved and restored": Kind(
        during=lambda n, _: Sample(before=("restore",) if n == 3 else ()), harmless=True
    ),
    "manual within range, with stamps": Kind(
        during=lambda _, loop: Sample(manual=anything(loop)), stamps=True, harmless=True
    ),
    # what nobody can know
    "blind: actuator stuck, no read-back": Kind(during=lambda n, loop: _stuck(n, loop, False), blind=True),
    "blind: samples missed, no stamps": Kind(
        during=lambda n, loop: Sample(missed=3 * (n == 0), drive=anything(loop)), length=2, blind=True
    ),
    "blind: sample twice, no stamps": Kind(during=lambda n, _: Sample(frozen=n % 2 == 0), length=6, blind=True),
}  # fmt: skip
