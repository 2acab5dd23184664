"""Hostile calls of all public names: each must end in one of our errors or in a right result.

One argument at a time of a valid call (`experiments.bench_calls.hostile`) is replaced: by NaN, infinity, 1e300, a
subnormal, a negative number, nothing, another shape or type, text, None, a huge integer, a numpy number, a strided,
read-only or masked array. A call may end

    refused      in a `ControlRnnError`, or for a path in a FileNotFoundError
    right        in a result that is finite, can be saved and read again where it can be saved at all, and is that of
                 the valid call where the value was the valid one in other clothes (a list, a numpy number)
    absurd       in a TypeError or AttributeError, where a thing of a wrong type was given (a dict for a number)

and must not end in another exception (raw), a result that is not finite (infinite), that cannot be saved (lost) or is
another than that of the same value (other), in the end of the process (crash) or not at all (hang: over 10 s of
processor time, or five minutes).
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import multiprocessing
import os
import signal
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from controlrnn.errors import ControlRnnError
from experiments.bench_calls.hostile import calls, uncalled
from experiments.bench_calls.hostile.call import Call
from experiments.bench_calls.hostile.kit import Kit
from experiments.bench_calls.hostile.values import Kind, hostile
from experiments.shared.study import Study

SECONDS = 10.0  # a call that takes longer hangs; processor time, as the machine may have other work
WAITS = 30.0  # times so many seconds on the clock, for calls that wait for something
MEMORY = 6 * 2**30
CALLS, QUICK = 120_000, 3_000
Make = Callable[[Kit], list[Call]]


class Ending(StrEnum):
    """How a hostile call ended; see the module docstring."""

    REFUSED = "refused"
    RIGHT = "right"
    ABSURD = "absurd"
    RAW = "raw"
    INFINITE = "infinite"
    LOST = "lost"
    OTHER = "other"
    CRASH = "crash"
    HANG = "hang"


GOOD = (Ending.REFUSED, Ending.RIGHT, Ending.ABSURD)


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Outcome of one hostile call.

    Args:
        call: Public name.
        argument: Argument that was spoilt.
        label: Value that replaced it.
        ending: How it ended.
        detail: Description of what went wrong.
    """

    call: str
    argument: str
    label: str
    ending: Ending
    detail: str = ""


class Caller:
    """Caller of public functions with hostile values, in this process.

    Args:
        folder: Where files go, those of relative paths, too.
        seed: Seed of all values.
        make: Makes the valid calls.
    """

    def __init__(self, folder: Path, seed: int, make: Make = calls) -> None:
        self.kit = Kit(folder)
        self.seed = seed
        self.folder = folder
        self.calls = make(self.kit)
        self.usable: dict[int, list[float | str]] = {}

    def __call__(self, number: int, turn: int) -> Outcome:
        """Make the ``turn``-th hostile call of valid call ``number``."""
        call = self.calls[number]
        rng = np.random.default_rng([self.seed, zlib.crc32(call.name.encode()), number, turn])
        argument = call.arguments[int(rng.integers(len(call.arguments)))]
        chosen = hostile(call.given[argument], rng, self.kit.anything)
        outcome = Outcome(call.name, argument, chosen.label, Ending.RIGHT)
        try:
            # A text may be taken for a relative path, and written to.
            with warnings.catch_warnings(), contextlib.chdir(self.folder):
                warnings.simplefilter("ignore")
                result = call.function(**(dict(call.given) | {argument: chosen.value}))
                ending, detail = self._judged(number, result, chosen.kind)
        except ControlRnnError:
            ending, detail = Ending.REFUSED, ""
        except FileNotFoundError as error:
            ending, detail = (Ending.REFUSED, "") if argument == "path" else (Ending.RAW, _where(error))
        except (TypeError, AttributeError) as error:
            ending, detail = (Ending.ABSURD, "") if chosen.kind is Kind.ABSURD else (Ending.RAW, _where(error))
        except Exception as error:  # noqa: BLE001  # what is looked for
            ending, detail = Ending.RAW, _where(error)
        return dataclasses.replace(outcome, ending=ending, detail=detail)

    def _judged(self, number: int, result: Any, kind: Kind) -> tuple[Ending, str]:
        call = self.calls[number]
        found = next((p for p, v in _leaves(result, call) if isinstance(v, float) and not math.isfinite(v)), None)
        if found is not None:
            return Ending.INFINITE, found
        try:
            _kept(result, self.folder)
        except Exception as error:  # noqa: BLE001  # what is looked for
            return Ending.LOST, _where(error)
        if kind is Kind.SAME and not _alike(self._values(result, call), self.valid(number)):
            return Ending.OTHER, ""
        return Ending.RIGHT, ""

    def valid(self, number: int) -> list[float | str]:
        """Values of the valid call's result."""
        if number not in self.usable:
            call = self.calls[number]
            self.usable[number] = self._values(call.function(**call.given), call)
        return self.usable[number]

    @staticmethod
    def _values(result: Any, call: Call) -> list[float | str]:
        return [value for _, value in _leaves(result, call, every=True)]


def _leaves(result: Any, call: Call, *, every: bool = False, path: str = "") -> Iterator[tuple[str, float | str]]:
    """Yield the numbers and texts of a result with their paths; without ``every`` those that must be finite."""
    name = path.rpartition(".")[2].partition("[")[0]
    if name in call.varies or (not every and name in call.infinite):
        return
    if isinstance(result, torch.Tensor):
        result = result.detach().numpy()
    if isinstance(result, bool | np.bool_ | int | np.integer | str):
        yield path, str(result)
    elif isinstance(result, float | np.floating):
        yield path, float(result)
    elif isinstance(result, np.ndarray):
        if result.dtype.kind in "fc":
            for value in result.ravel().tolist() if every else [0.0 if np.isfinite(result).all() else math.nan]:
                yield path, value
        elif result.dtype.kind in "biu":
            yield path, str(result.tolist())
    elif isinstance(result, Mapping):
        for key, value in result.items():
            yield from _leaves(value, call, every=every, path=f"{path}.{key}")
    elif isinstance(result, list | tuple):
        for i, value in enumerate(result):
            yield from _leaves(value, call, every=every, path=f"{path}[{i}]")
    elif dataclasses.is_dataclass(result) and not isinstance(result, type):
        for field in dataclasses.fields(result):
            yield from _leaves(getattr(result, field.name), call, every=every, path=f"{path}.{field.name}")


def _kept(result: Any, folder: Path) -> None:
    """Save a result that can be saved, and check that it is read again as it was."""
    _ = getattr(result, "digest", None)
    if hasattr(result, "save") and hasattr(type(result), "load"):
        path = folder / "kept.npz"
        result.save(path)
        again = type(result).load(path)
        whole = getattr(result, "model", None) is None  # a fit is read without its model's parameters
        if whole and getattr(result, "digest", None) != getattr(again, "digest", None):
            raise ValueError("another digest after it was saved and loaded")


def _alike(a: list[float | str], b: list[float | str]) -> bool:
    if len(a) != len(b):
        return False
    size = max((abs(v) for v in b if isinstance(v, float) and math.isfinite(v)), default=1.0)
    for one, two in zip(a, b, strict=True):
        if isinstance(one, float) and isinstance(two, float):
            if not (one == two or (one != one and two != two) or abs(one - two) <= 1e-6 * (abs(two) + 1e-3 * size)):
                return False
        elif isinstance(one, float) or isinstance(two, float):
            return False
    return True


def _where(error: BaseException) -> str:
    frames = [f for f in traceback.extract_tb(error.__traceback__) if f"{os.sep}experiments{os.sep}" not in f.filename]
    ours = [f for f in frames if any(f"{os.sep}{p}{os.sep}" in f.filename for p in ("controlrnn", "mpc", "plants"))]
    at = f"{os.path.basename(ours[-1].filename)}:{ours[-1].lineno}" if ours else ""
    return f"{type(error).__name__} {at}: {str(error)[:120]}".replace("\n", " ")


def _work(pipe: Connection, clock: Any, folder: str, seed: int, make: Make) -> None:
    """Run a worker: takes (call, first turn, last turn), sends outcomes.

    ``clock`` is (time of the last start, turn, processor time then).
    """
    import resource

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    caller = Caller(Path(folder), seed, make)
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    pipe.send(True)
    while (task := _received(pipe)) is not None:
        number, first, last = task
        outcomes = []
        for turn in range(first, last):
            clock[0], clock[1], clock[2] = time.monotonic(), turn, time.process_time()
            outcomes.append(caller(number, turn))
            clock[0] = 0.0
            if len(outcomes) == 20:
                pipe.send(outcomes)
                outcomes = []
        pipe.send(outcomes)
        pipe.send(None)


def _received(pipe: Connection) -> Any:
    try:
        return pipe.recv()
    except (EOFError, OSError):  # the study has ended
        return None


class Workforce:
    """A process that makes hostile calls with a limited memory, restarted where a call hangs or kills it.

    Args:
        seed: Seed of all values.
        make: Makes the valid calls; importable.
        seconds: A call that takes more processor time hangs.
    """

    def __init__(self, seed: int, make: Make = calls, seconds: float = SECONDS) -> None:
        self.seed = seed
        self.make = make
        self.seconds = seconds
        self._start()

    def _start(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.folder = tempfile.TemporaryDirectory()
        self.pipe, theirs = context.Pipe()
        self.clock = context.Array("d", 3)
        self.process = context.Process(
            target=_work, args=(theirs, self.clock, self.folder.name, self.seed, self.make), daemon=True
        )
        self.process.start()
        theirs.close()
        self.pipe.recv()  # it is ready

    def run(self, names: Sequence[str], task: tuple[int, int, int]) -> Iterator[Outcome]:
        """Outcomes of turns ``first`` to ``last`` of a call."""
        number, first, last = task
        while first < last:
            self.pipe.send((number, first, last))
            ended = None
            while ended is None:
                if self.pipe.poll(0.2):
                    try:
                        outcomes = self.pipe.recv()
                    except EOFError:
                        ended = Ending.CRASH
                        continue
                    if outcomes is None:
                        return
                    yield from outcomes
                    first += len(outcomes)
                elif self._hangs():
                    ended = Ending.HANG
            turn = int(self.clock[1])
            yield Outcome(names[number], "?", f"turn {turn}", ended, f"number {number}")
            self.close()
            self._start()
            first = turn + 1  # up to 19 calls before it that were not sent yet are not counted

    def _hangs(self) -> bool:
        """Whether the present call takes too long."""
        began, _, used = (float(value) for value in self.clock[:])
        waited = time.monotonic() - began
        if not began > 0 or waited <= self.seconds:
            return False
        return waited > WAITS * self.seconds or processor_time(self.process.pid, waited + used) - used > self.seconds

    def close(self) -> None:
        """End the process."""
        self.pipe.close()
        self.process.kill()
        self.process.join()
        self.folder.cleanup()


def processor_time(pid: int | None, other: float) -> float:
    """Processor time of a process so far [s], or ``other`` where the system does not say (it has no /proc)."""
    try:
        after = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return other
    return (int(after[11]) + int(after[12])) / os.sysconf("SC_CLK_TCK")


def turns(weights: Sequence[float], total: int) -> list[int]:
    """Number of hostile calls for each valid call."""
    unit = total / sum(weights)
    return [max(math.ceil(unit * w), 1) for w in weights]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("bench_calls", __doc__, arguments)
    total = QUICK if study.quick else CALLS
    with tempfile.TemporaryDirectory() as folder:
        known = calls(Kit(Path(folder)))
    missing, often = uncalled(known), turns([c.weight for c in known], total)
    workers = Workforce(study.seed)
    try:
        for package in sorted({_package(c.name) for c in known}):
            tasks = [(i, 0, n) for i, n in enumerate(often) if _package(known[i].name) == package]
            compute = partial(_row, study, workers, known, tasks, package)
            study.row(package, compute, needs={"total": total})
    finally:
        workers.close()
    rows = study.rows
    made = sum(row["calls"] for row in rows)
    study.target("calls", f">= {total}", made, made >= total)
    for ending in Ending:
        if ending not in GOOD:
            n = sum(row[str(ending)] for row in rows)
            study.target(f"{ending} endings", 0, n, n == 0)
    study.target("public names without a call", 0, len(missing), not missing)
    return study.finish(uncalled=missing)


def _row(
    study: Study, workers: Workforce, known: Sequence[Call], tasks: Sequence[tuple[int, int, int]], package: str
) -> dict[str, Any]:
    """Make all hostile calls of one package and summarise them."""
    seen: Counter[Ending] = Counter()
    faults: Counter[str] = Counter()
    names = [c.name for c in known]
    for task in study.progress(tasks, package):
        for outcome in workers.run(names, task):
            seen[outcome.ending] += 1
            if outcome.ending not in GOOD:
                faults[f"{outcome.call}({outcome.argument}) {outcome.label}: {outcome.ending} {outcome.detail}"] += 1
    for text, n in faults.most_common(100):
        study.say(f"{n:5d} {text}")
    ended = {str(e): seen[e] for e in Ending}
    return {"package": package, "calls": sum(seen.values()), **ended, "faults": dict(faults.most_common(1000))}


def _package(name: str) -> str:
    return ".".join(name.split(".")[: 2 if name.startswith("controlrnn") else 1])
