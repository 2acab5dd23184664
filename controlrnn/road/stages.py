"""Running of a road's stages: each is redone only where what it is made from has changed."""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

import mpc
from controlrnn.checks import Array
from controlrnn.data import check_data
from controlrnn.errors import DataError, StorageError
from controlrnn.export import save_system
from controlrnn.records import write_atomic
from controlrnn.road.certifying import certify_best
from controlrnn.road.data.splitting import PARTS, records_of, split
from controlrnn.road.keys import key_of, settings_of, sources_of
from controlrnn.road.ledger import Entry, Stage, sha_of
from controlrnn.road.loop_plants import RecordedErrors, WithLimits, plant_of, recorded_errors
from controlrnn.road.loops import loop_words, measured_inputs, promise_words, run_loops, start_of, tracking_words
from controlrnn.road.making import calibrate_error, error_budget, make_tightening
from controlrnn.road.road import Road, one_step_noise
from controlrnn.typed import typed

if TYPE_CHECKING:  # torch takes seconds to import, and what verifies needs none
    from controlrnn.identification import Callback

_log = logging.getLogger(__name__)
_LOCK = ".running"


class Listener(Protocol):
    """Listener to a run."""

    def begins(self, stage: Stage) -> None:
        """Called before a stage is done."""

    def ends(self, stage: Stage, entry: Entry, kept: bool) -> None:
        """Called after it, or where it is kept from an earlier run."""

    def moves(self, done: int, total: int) -> None:
        """Called while closed loops run."""

    def search(self) -> Sequence[Callback]:
        """Listeners to the search for a model."""


class Quiet:
    """Listener that does nothing."""

    def begins(self, stage: Stage) -> None:
        """Nothing."""

    def ends(self, stage: Stage, entry: Entry, kept: bool) -> None:
        """Nothing."""

    def moves(self, done: int, total: int) -> None:
        """Nothing."""

    def search(self) -> Sequence[Callback]:
        """None."""
        return ()


@dataclass(frozen=True)
class Done:
    """Result of one stage: its files and its findings.

    Args:
        files: Paths in the folder.
        words: Sentences.
        figures: JSON values by name.
    """

    files: list[str]
    words: list[str]
    figures: dict[str, Any]


@typed(unchecked=("listener",))
def run_road(
    road: Road,
    base: str | os.PathLike[str],
    *,
    until: Stage = Stage.REPORT,
    redo: bool = False,
    listener: Listener | None = None,
) -> dict[Stage, Entry]:
    """Do all stages up to one, leaving out those whose results are there and made from just this.

    Args:
        road: The road's folder.
        base: Folder that paths in the road file are relative to.
        until: The last stage.
        redo: Whether the last stage is done even if nothing changed.
        listener: Who is told.

    Returns:
        What each stage found.

    Raises:
        ControlRnnError: A stage cannot be done; the message says what to do. Stages before it are kept.
        StorageError: Another process is at work in the folder.
    """
    listener, until, base = listener or Quiet(), Stage(until), Path(base)
    found: dict[Stage, Entry] = {}
    with _alone(road.folder):
        road.keep_file()
        for stage in list(Stage)[: list(Stage).index(until) + 1]:
            ledger = road.ledger
            sources = sources_of(stage, road.file, ledger, base)
            key = key_of(stage, settings_of(stage, road.file), sources)
            if ledger.is_done(stage, key) and not (redo and stage is until):
                found[stage] = ledger.entries[str(stage)]
                listener.ends(stage, found[stage], True)
                continue
            listener.begins(stage)
            _log.info("stage %s", stage)
            began = time.monotonic()
            done = _MAKERS[stage](road, base, listener)
            entry = Entry(
                key=key,
                sources=sources,
                files={name: sha_of(road.folder / name) for name in done.files},
                words=tuple(done.words),
                figures=done.figures,
                seconds=round(time.monotonic() - began, 3),
            )
            ledger.with_entry(stage, entry)
            _forget(road)
            found[stage] = entry
            listener.ends(stage, entry, False)
    return found


@contextlib.contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder for one process; a lock of a process that died holds nothing."""
    try:
        import fcntl
    except ImportError:  # Windows: files there cannot be replaced while another process has them open
        yield
        return
    handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise StorageError(
                f"another process is at work in {folder}: wait for it, or choose another folder"
            ) from error
        yield
    finally:
        os.close(handle)


def _forget(road: Road) -> None:
    """Drop what was read from the folder before a stage wrote anew."""
    for name in list(vars(road)):
        if name not in ("folder", "file", "_newer"):
            vars(road).pop(name)


def _check(road: Road, base: Path, listener: Listener) -> Done:  # noqa: ARG001
    file = road.file
    records = records_of(file, base)
    seen = check_data([r for r, part in records if part != "test"])
    needed = file.promise.washout + file.control.horizon + 1
    data = split(records, file.split, seed=file.seed, needed=needed)
    if seen.faults and file.data.faults == "stop":
        raise DataError(
            "the data have faults, from which no good model comes:\n"
            + "\n".join(f"  {f}" for f in seen.faults)
            + '\nmend them, or set data.faults = "accept" if you know what they mean'
        )
    names = []
    for part in PARTS:
        for i, record in enumerate(getattr(data, part)):
            names.append(f"data/{part}_{i}.npz")
            record.save(road.folder / names[-1])
    write_atomic(road.folder / "data" / "report.txt", (str(seen) + "\n").encode())
    counts = {part: [len(r) for r in getattr(data, part)] for part in PARTS}
    words = [*str(seen).splitlines(), "; ".join(f"{part}: {_lengths(n)}" for part, n in counts.items())]
    findings = [{"level": str(f.level), "where": f.where, "what": f.what, "advice": f.advice} for f in seen.findings]
    return Done([*names, "data/report.txt"], words, {"samples": counts, "dt": data.dt, "findings": findings})


def _lengths(counts: list[int]) -> str:
    if not counts:
        return "none"
    same = len(set(counts)) == 1
    return (
        f"{len(counts)} of {counts[0]} samples" if same else f"{len(counts)} of {min(counts)} to {max(counts)} samples"
    )


def _identify(road: Road, base: Path, listener: Listener) -> Done:  # noqa: ARG001
    from controlrnn.identification import Family, identify_best

    plan = road.file.identify
    # Calibration records are for the bound alone: the search does not get them.
    fit = identify_best(
        replace(road.data, calibration=()),
        budget=plan.budget,
        clock=plan.clock,
        families=[Family(f) for f in plan.families],
        seed=road.file.seed,
        folder=road.folder / "search",
        callbacks=listener.search(),
    )
    fit.save(road.folder / "fit.npz")
    entries = [
        {
            "name": e.name,
            "what": e.what,
            "error": e.error,
            "test_rmse": None if e.test is None else e.test.rmse.tolist(),
        }
        for e in fit.entries
    ]
    words = repr(fit).splitlines()
    return Done(["fit.npz"], words, {"chosen": fit.chosen, "entries": entries})


def _certify(road: Road, base: Path, listener: Listener) -> Done:  # noqa: ARG001
    best, words = certify_best(road.file, road.fit, road.data)
    save_system(best.system, road.folder / "model.npz")
    best.contraction.save(road.folder / "contraction.npz")
    best.horizon.save(road.folder / "horizon.npz")
    names = ["model.npz", "contraction.npz", "horizon.npz"]
    if best.initial is not None:
        best.initial.save(road.folder / "horizon_initial.npz")
        names.append("horizon_initial.npz")
    figures = {
        "model": best.name, "digest": best.system.digest, "rate": float(best.contraction.rate), "steps": best.steps,
        "certified_error": best.seen.tolist(), "margin": float(best.horizon.margin),
    }  # fmt: skip
    wait = best.steps * best.system.dt
    return Done(names, [*words, f"a controller is certified from sample {best.steps} on ({wait:g} s)"], figures)


def _tighten(road: Road, base: Path, listener: Listener) -> Done:  # noqa: ARG001
    error = calibrate_error(road.file, road.data, road.observer)
    error.save(road.folder / "model_error.npz")
    tightening = make_tightening(road.file, error, road.observer, road.certificate, road.initial_certificate)
    tightening.save(road.folder / "tightening.npz")
    words = [*error_budget(road.file, tightening), f"promise: {tightening.promise}"]
    figures = {
        "total": tightening.total.max(axis=0).tolist(), "model_error": error.bounds.max(axis=0).tolist(),
        "coverage": error.coverage, "records": error.n, "sources": error.sources,
    }  # fmt: skip
    return Done(["model_error.npz", "tightening.npz"], words, figures)


def _simulate(road: Road, base: Path, listener: Listener) -> Done:
    file = road.file
    known = measured_inputs(file, road.data)
    held, began = start_of(file, road.predictor, road.tightening, known)
    if file.simulate.plant == "model":
        errors, origin = recorded_errors(file, road.data, road.predictor, road.observer.initial_state)
        plant: Any = RecordedErrors(road.predictor, errors, held)
        noise: Array = np.zeros(len(file.outputs))
        words = [
            f"plant: the model with the errors that it had on {origin}, which hold its noise; inputs off by up to what "
            "is declared"
        ]
    else:
        plant = WithLimits(plant_of(file.simulate.plant, base), road.predictor.outputs)
        given = file.simulate.noise
        noise = one_step_noise(road) if given is None else np.array(given)
        words = [f"plant: {file.simulate.plant}, noise {', '.join(f'{n:.3g}' for n in noise)}"]
    words.append(began)
    names, figures = [], dict[str, Any]()
    kinds = ["tightened", "nominal"] if file.simulate.nominal else ["tightened"]
    total = file.simulate.loops * len(kinds)
    for k, kind in enumerate(kinds):

        def moved(n: int, before: int = k * file.simulate.loops) -> None:
            listener.moves(before + n, total)

        loops = run_loops(file, road.controller(nominal=kind == "nominal"), plant, held, noise, known, moved)
        names.append(f"loops_{kind}.npz")
        mpc.MonteCarloResult(tuple(loops)).save(road.folder / names[-1])
        words.append(f"{loop_words(kind, loops, road.predictor.outputs)}; {tracking_words(file, loops)}")
        figures[kind] = {
            "loops": len(loops),
            "loops_that_left_limits": sum(loop.violations > 0 for loop in loops),
            "largest_violation": np.max([loop.excess.max(axis=0) for loop in loops], axis=0).tolist(),
            "cost": float(np.mean([loop.cost for loop in loops])),
        }
    return Done(names, [*words, promise_words(file, road.model_error)], figures)


def _report(road: Road, base: Path, listener: Listener) -> Done:  # noqa: ARG001
    from controlrnn.road.page import write_page

    write_page(road, road.folder / "report.html")
    return Done(["report.html"], [f"open {road.folder / 'report.html'}"], {})


_MAKERS: dict[Stage, Callable[[Road, Path, Listener], Done]] = {
    Stage.CHECK: _check, Stage.IDENTIFY: _identify, Stage.CERTIFY: _certify, Stage.TIGHTEN: _tighten,
    Stage.SIMULATE: _simulate, Stage.REPORT: _report,
}  # fmt: skip
