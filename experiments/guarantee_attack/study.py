"""The enemy of the guarantee: closed loops on random systems, in which every claim is held to the simulated truth.

Systems, observers and limits are random (`experiments.guarantee_attack.pool`), certified once, and attacked in many
loops:

- *declared*: an adversary uses up all that is declared, at extreme points: residual, its drift, noise, errors of inputs
  and commands, the initial state, any set point. Limits hold, plans stay feasible where there is a terminal set, and
  estimates, jumps and predictions stay within their bounds at every certified step.
- *broken*: one premise is broken at a time. ``certified`` is false no later than the first sample at which the estimate
  is beyond its bound, and the loop ends certified and inside its limits once the premise holds again. Kinds called
  *blind* give the controller nothing to notice them by, and promise nothing.
- *failing*: the solver fails, runs out of time, or talks nonsense; loops start outside of their limits. With a terminal
  set limits are kept all the same; else what is applied exceeds them no more than the last plan, the held and the safe
  input would, or comes back sooner.

On observers that have C code, the generated code acts as well, in loops of its own with other seeds; "c_loops" counts
these. Compiled with address and undefined-behaviour sanitisers, it then repeats every call of both. "Differs" counts
loops with another decision (status, certified, feasible, premises) or another input, "other_stand_in" those that part
after a sample without a solution, where several plans exceed limits equally little.
"""

from __future__ import annotations

import logging
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from experiments.bench_mpc.c_code import compiler
from experiments.guarantee_attack.c_code import Harness
from experiments.guarantee_attack.enemies import ENEMIES, Enemy
from experiments.guarantee_attack.failures import FAILURES, failing, run_failing, run_from_outside
from experiments.guarantee_attack.kinds import KINDS
from experiments.guarantee_attack.loops import Loop, Sample, Told, Verdict
from experiments.guarantee_attack.native import NativeController
from experiments.guarantee_attack.pool import OBSERVERS, Member, Spec, build
from experiments.shared.study import Row, Study
from mpc import SolverOptions, TightenedMPC

MEMBERS, QUICK = 20, 3
SHARE, TURNS = 3, 3  # of the loops that break something, every third in Python; turns of all of them in C
_COUNTS = ("loops", "violations", "infeasible", "beyond", "late", "unnoticed", "not_returned", "uncertified")
_C_COUNTS = ("c_loops", "repeated", "differs", "other_stand_in")


@dataclass(frozen=True)
class Attack:
    """One loop on one member.

    Args:
        family: ``declared``, ``broken`` or ``failing``.
        kind: Row that it counts for.
        run: Runs it.
        which: Controller whose C code repeats it; empty: none does.
    """

    family: str
    kind: str
    run: Callable[[], Loop]
    which: str = "plain"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("guarantee_attack", __doc__, arguments)
    logging.getLogger("mpc").setLevel(logging.CRITICAL)  # what is reported there is what is attacked here
    here = study.environment
    study.say(f"{here['platform']}, {here['cpus']} processors, {here['threads']} threads, {here['versions']}")
    count = QUICK if study.quick else MEMBERS
    found = [member_row(study, index, 1 if study.quick else TURNS) for index in study.progress(range(count), "systems")]
    totals = kinds(found)
    for (family, kind), row in totals.items():
        study.row(f"{family}: {kind}", row.copy, needs=row)
    judge(study, totals)
    return study.finish()


def member_row(study: Study, index: int, turns: int) -> Row:
    """All loops on one system."""

    def compute() -> Row:
        return attacked(
            build(index, study.seed), [study.seed + index + 1000 * turn for turn in range(turns + 1)], study
        )

    return study.row(f"{index}: {Spec.of(index).name}", compute, needs=[SHARE, turns])


def attacked(member: Member, seeds: Sequence[int], study: Study) -> Row:
    """Loops with the Python controller from the first seed, with the C code from the others."""
    counts: dict[str, Row] = {}
    notes: list[str] = []
    stopped = ""
    acting = {"plain": member.controller(), "hurried": hurried(member)}
    calls = attack_all(member, acting, seeds[0], counts, notes, study)
    if member.spec.observer in OBSERVERS[:3] and compiler():
        with tempfile.TemporaryDirectory() as folder:
            native = {which: NativeController(made, _made(folder, which)) for which, made in acting.items()}
            for seed in seeds[1:]:
                more = attack_all(member, native, seed, counts, notes, study)
                calls = {which: [*calls[which], *more[which]] for which in calls}
            try:
                for which, loops in calls.items():
                    notes += repeated(acting[which], Path(folder), loops, counts)
            except RuntimeError as error:
                stopped = str(error)
    return {
        "rate": float(member.contraction.rate), "loops": sum(c["loops"] for c in counts.values()), "counts": counts,
        "notes": "; ".join(notes)[:6000] or " " * 41, "c_stopped": stopped or " " * 41, "c_failed": bool(stopped),
    }  # fmt: skip


def _made(folder: str, which: str) -> Path:
    path = Path(folder) / which
    path.mkdir()
    return path


def attack_all(
    member: Member, acting: dict[str, Any], seed: int, counts: dict[str, Row], notes: list[str], study: Study
) -> dict[str, list[tuple[str, list[Told]]]]:
    """All loops of some controllers; gives what was called in each, by controller."""
    native = isinstance(acting["plain"], NativeController)
    picked = list(attacks(member, seed, acting))
    if not native:
        picked = [a for i, a in enumerate(picked) if a.family != "broken" or i % SHARE == seed % SHARE]
    calls: dict[str, list[tuple[str, list[Told]]]] = {"plain": [], "hurried": []}
    for attack in study.progress(picked, f"{member.spec.name}{', C' if native else ''}"):
        key = f"{attack.family}: {attack.kind}"
        loop = attack.run()
        told, verdict = loop.told, loop.verdict
        row = counts.setdefault(key, dict.fromkeys((*_COUNTS, *_C_COUNTS), 0))
        row["c_loops"] += native
        add(row, verdict)
        notes += [f"{key}{' in C' if native else ''}: {text}" for text in verdict.notes if attack.family != "blind"]
        if attack.which:
            calls[attack.which].append((key, told))
    return calls


def hurried(member: Member) -> TightenedMPC:
    """A controller that has no time to come to an end."""
    return member.controller(options=SolverOptions(max_iterations=1))


def add(row: Row, verdict: Verdict) -> None:
    """Count one loop."""
    row["loops"] += 1
    for name in ("violations", "infeasible", "beyond", "late"):
        row[name] += int(getattr(verdict, name) > 0)
    row["unnoticed"] += int(not verdict.named)
    row["not_returned"] += int(not verdict.returned)
    row["uncertified"] += int(verdict.uncertified > 0)


def repeated(
    controller: TightenedMPC, folder: Path, loops: list[tuple[str, list[Told]]], counts: dict[str, Row]
) -> list[str]:
    """Let the sanitised C code of one controller repeat loops; what differs, in words."""
    notes = []
    results = Harness(controller, folder).repeat([told for _, told in loops])
    for (key, _), result in zip(loops, results, strict=True):
        counts[key]["repeated"] += 1
        counts[key]["differs"] += result.differs
        counts[key]["other_stand_in"] += result.other
        notes += [f"{key} repeated in C: {result.first}"] if result.differs else []
    return notes


def attacks(member: Member, seed: int, acting: dict[str, Any]) -> Iterator[Attack]:
    """All loops on one system."""
    quiet, n = Sample(), len(ENEMIES)

    def declared(turn: int) -> Loop:
        loop = Loop(member, Enemy(ENEMIES[turn % n], odd=turn >= n), seed + turn, acting["plain"])
        loop.run(lambda *_: quiet, lambda *_: False, loop.warm + 45)
        return loop

    def breaking(name: str) -> Loop:
        number, what = zlib.crc32(f"{name} {seed}".encode()), KINDS[name]
        loop = Loop(member, Enemy(ENEMIES[number % n]), number, acting["plain"])
        loop.run(what.script, what.broken, what.last(loop))
        return loop

    def outside(which: str, turn: int) -> Loop:
        return run_from_outside(member, Enemy(ENEMIES[turn]), seed + turn, acting[which])

    for turn, kind in enumerate((*ENEMIES, *ENEMIES)):
        yield Attack("declared", kind, partial(declared, turn))
    for name, broken in KINDS.items():
        if broken.outputs <= member.predictor.ny:
            family = "blind" if broken.blind else "broken"
            yield Attack(family, name.removeprefix("blind: "), partial(breaking, name))
    for turn in range(2):
        for which in acting:
            yield Attack("failing", f"from outside, {which}", partial(outside, which, turn), which)
    yield Attack(
        "failing",
        "out of time at every sample",
        partial(run_failing, member, Enemy("limit"), seed, acting["hurried"]),
        "hurried",
    )
    if isinstance(acting["plain"], NativeController):
        return
    for turn, how in enumerate(FAILURES):
        run = partial(run_failing, member, Enemy(ENEMIES[turn]), seed + turn, failing(member, how, seed + turn))
        yield Attack("failing", f"solver {how}", run, "")


def kinds(rows: Sequence[Row]) -> dict[tuple[str, str], Row]:
    """Counts of all systems together, by family and kind."""
    totals: dict[tuple[str, str], Row] = {}
    for row in rows:
        for key, counts in row["counts"].items():
            family, _, kind = key.partition(": ")
            total = totals.setdefault((family, kind), dict.fromkeys((*_COUNTS, *_C_COUNTS), 0))
            for name, value in counts.items():
                total[name] += value
    order = ("declared", "broken", "failing", "blind")
    return dict(sorted(totals.items(), key=lambda item: order.index(item[0][0])))


def judge(study: Study, totals: dict[tuple[str, str], Row]) -> None:
    """Targets: what has to be zero, and how much was tried."""

    def over(family: str, *names: str) -> int:
        return sum(row[name] for (f, _), row in totals.items() for name in names if f == family)

    def zero(name: str, value: int) -> None:
        study.target(name, 0, value, value == 0)

    zero("declared: loops beyond limits", over("declared", "violations"))
    zero("declared: loops without a feasible plan", over("declared", "infeasible"))
    zero(
        "declared: loops beyond a certified bound, or not certified", over("declared", "beyond", "late", "uncertified")
    )
    zero("broken: loops certified beside a broken bound", over("broken", "late", "beyond"))
    zero("broken: loops that did not come back", over("broken", "not_returned"))
    zero(
        "broken: loops beyond limits, or infeasible, while nothing was broken",
        over("broken", "violations", "infeasible"),
    )
    zero("failing: limits neither kept nor exceeded least", over("failing", "violations", "infeasible"))
    zero("failing: loops certified beside a broken bound", over("failing", "late", "beyond"))
    zero("failing: loops that did not come back", over("failing", "not_returned"))
    zero("C: loops with another decision or input", sum(row["differs"] for row in totals.values()))
    zero("C: systems on which a sanitiser stopped the code", sum(row.get("c_failed", False) for row in study.rows))
    loops, broken = sum(row["loops"] for row in totals.values()), sum(f == "broken" for f, _ in totals)
    study.target("closed loops", "-" if study.quick else ">= 2000", loops, study.quick or loops >= 2000)
    study.target("kinds of broken premises", ">= 20", broken, broken >= 20)
