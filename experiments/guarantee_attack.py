"""The enemy of the guarantee: closed loops on random systems, in which every claim is held to the simulated truth.

Systems, observers and limits are random (`experiments._attack_pool`), certified once, and attacked in many loops:

- *declared*: an adversary uses up all that is declared, at extreme points: residual, its drift, noise, errors of inputs
  and commands, the initial state, any set point. Limits hold, plans stay feasible where there is a terminal set, and
  estimates, jumps and predictions stay within their bounds at every certified step.
- *broken*: one premise is broken at a time. ``certified`` is false no later than the first sample at which the estimate
  is beyond its bound, and the loop ends certified and inside its limits once the premise holds again. Kinds called
  *blind* give the controller nothing to notice them by, and promise nothing.
- *failing*: the solver fails, runs out of time, or talks nonsense; loops start outside of their limits. With a terminal
  set limits are kept all the same; else what is applied exceeds them no more than the last plan, the held and the safe
  input would, or comes back sooner.

The generated C code, compiled with address and undefined-behaviour sanitisers, repeats every loop of an observer that
has C code. "Differs" counts loops with another decision (status, certified, feasible, premises) or another input;
"other stand-in" those that part after a sample without a solution, where several plans exceed limits equally little.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments._attack_c import Harness
from experiments._attack_enemies import ENEMIES, Enemy
from experiments._attack_failures import FAILURES, failing, run_failing, run_from_outside
from experiments._attack_kinds import KINDS
from experiments._attack_loops import Loop, Sample, Told, Verdict
from experiments._attack_pool import OBSERVERS, Member, Spec, build
from experiments._bench_mpc_c import compiler
from experiments._study import Row, Study
from mpc import SolverOptions

MEMBERS, QUICK = 32, 3
_COUNTS = ("loops", "violations", "infeasible", "beyond", "late", "unnoticed", "not_returned", "uncertified")
_C_COUNTS = ("c_loops", "c_differs", "c_other_stand_in")


@dataclass(frozen=True)
class Attack:
    """One loop on one member.

    Args:
        family: ``declared``, ``broken`` or ``failing``.
        kind: Row that it counts for.
        run: Gives its calls and what became of it.
        which: Controller whose C code repeats it; empty: none does.
    """

    family: str
    kind: str
    run: Callable[[], tuple[list[Told], Verdict]]
    which: str = "plain"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("guarantee_attack", __doc__, arguments)
    logging.getLogger("mpc").setLevel(logging.CRITICAL)  # what is reported there is what is attacked here
    here = study.environment
    study.say(f"{here['platform']}, {here['cpus']} processors, {here['threads']} threads, {here['versions']}")
    count = QUICK if study.quick else MEMBERS
    found = [member_row(study, index, QUICK if study.quick else 1) for index in study.progress(range(count), "systems")]
    totals = kinds(found)
    for (family, kind), row in totals.items():
        study.row(f"{family}: {kind}", row.copy, needs=row)
    judge(study, totals)
    return study.finish()


def member_row(study: Study, index: int, share: int) -> Row:
    """All loops on one system; with a share of n only every n-th of those that break or fail something."""

    def compute() -> Row:
        member = build(index, study.seed)
        picked = [
            a for i, a in enumerate(attacks(member, study.seed + index)) if share == 1 or i % share == index % share
        ]
        return attacked(member, list(study.progress(picked, Spec.of(index).name)))

    return study.row(f"{index}: {Spec.of(index).name}", compute, needs=share)


def attacked(member: Member, picked: Sequence[Attack]) -> Row:
    """Run loops, and let C repeat them."""
    counts: dict[str, Row] = {}
    calls: dict[str, list[tuple[str, list[Told]]]] = {}
    notes, steps = [], 0
    for attack in picked:
        key = f"{attack.family}: {attack.kind}"
        told, verdict = attack.run()
        row = counts.setdefault(key, dict.fromkeys((*_COUNTS, *_C_COUNTS), 0))
        add(row, verdict)
        steps += verdict.steps
        notes += [f"{key}: {text}" for text in verdict.notes if "blind" not in key]
        if attack.which and member.spec.observer in OBSERVERS[:3]:
            calls.setdefault(attack.which, []).append((key, told))
    stopped = ""
    for which, loops in calls.items() if compiler() else ():
        try:
            notes += repeated(member, which, loops, counts)
        except RuntimeError as error:
            stopped = str(error)
    return {
        "rate": float(member.contraction.rate), "loops": len(picked), "steps": steps, "counts": counts,
        "notes": "; ".join(notes)[:4000] or " " * 41, "c_stopped": stopped or " " * 41, "c_failed": bool(stopped),
    }  # fmt: skip


def add(row: Row, verdict: Verdict) -> None:
    """Count one loop."""
    row["loops"] += 1
    for name in ("violations", "infeasible", "beyond", "late"):
        row[name] += int(getattr(verdict, name) > 0)
    row["unnoticed"] += int(not verdict.named)
    row["not_returned"] += int(not verdict.returned)
    row["uncertified"] += int(verdict.uncertified > 0)


def repeated(member: Member, which: str, loops: list[tuple[str, list[Told]]], counts: dict[str, Row]) -> list[str]:
    """Let the C code of one controller repeat its loops; what differs, in words."""
    notes = []
    with tempfile.TemporaryDirectory() as folder:
        results = Harness(controllers(member)[which](), Path(folder)).repeat([told for _, told in loops])
    for (key, _), result in zip(loops, results, strict=True):
        counts[key]["c_loops"] += 1
        counts[key]["c_differs"] += result.differs
        counts[key]["c_other_stand_in"] += result.other
        notes += [f"{key} in C: {result.first}"] if result.differs else []
    return notes


def controllers(member: Member) -> dict[str, Callable[[], Any]]:
    """Those that have C code; the hurried one has hardly any time to solve."""
    return {
        "plain": member.controller,
        "hurried": lambda: member.controller(options=SolverOptions(max_iterations=2)),
        "stopped": lambda: member.controller(options=SolverOptions(max_iterations=1)),
    }


def attacks(member: Member, seed: int) -> Iterator[Attack]:
    """All loops on one system."""
    plain, quiet = member.controller(), Sample()

    def finished(loop: Loop) -> tuple[list[Told], Verdict]:
        return loop.told, loop.verdict

    for turn, kind in enumerate((*ENEMIES, *ENEMIES)):

        def declared(kind: str = kind, turn: int = turn) -> tuple[list[Told], Verdict]:
            loop = Loop(member, Enemy(kind, odd=turn >= len(ENEMIES)), seed + turn, plain)
            loop.run(lambda *_: quiet, lambda *_: False, loop.warm + 60)
            return finished(loop)

        yield Attack("declared", kind, declared)
    for name, broken in KINDS.items():
        if broken.outputs > member.predictor.ny:
            continue

        def breaking(name: str = name) -> tuple[list[Told], Verdict]:
            number, what = zlib.crc32(f"{name} {seed}".encode()), KINDS[name]
            loop = Loop(member, Enemy(ENEMIES[number % len(ENEMIES)]), number, plain)
            loop.run(what.script, what.broken, what.last(loop))
            return finished(loop)

        yield Attack("blind" if broken.blind else "broken", name.removeprefix("blind: "), breaking)
    for turn, how in enumerate(FAILURES):

        def fails(how: str = how, turn: int = turn) -> tuple[list[Told], Verdict]:
            controller = failing(member, how, seed + turn)
            return finished(run_failing(member, Enemy(ENEMIES[turn]), seed + turn, controller))

        yield Attack("failing", f"solver {how}", fails, "")
    for which in ("plain", "hurried", "stopped"):
        made = controllers(member)[which]()
        for turn in range(2):

            def outside(made: Any = made, turn: int = turn) -> tuple[list[Told], Verdict]:
                return finished(run_from_outside(member, Enemy(ENEMIES[turn]), seed + turn, made))

            yield Attack("failing", f"from outside, {which}", outside, which)
        if which != "plain":

            def hurried(made: Any = made) -> tuple[list[Told], Verdict]:
                return finished(run_failing(member, Enemy("limit"), seed, made))

            yield Attack("failing", f"{which}", hurried, which)


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
    zero("C: loops with another decision or input", sum(row["c_differs"] for row in totals.values()))
    zero("C: systems on which a sanitiser stopped the code", sum(row.get("c_failed", False) for row in study.rows))
    loops, broken = sum(row["loops"] for row in totals.values()), sum(f == "broken" for f, _ in totals)
    study.target("closed loops", "-" if study.quick else ">= 2000", loops, study.quick or loops >= 2000)
    study.target("kinds of broken premises", ">= 20", broken, broken >= 20)


if __name__ == "__main__":
    sys.exit(main())
