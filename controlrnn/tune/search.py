"""`tune`: trials in several processes or on several machines, kept in a database from which a search goes on.

Every worker asks the database for a setting, tries it and tells what it found. While it tries, it says every few
seconds that it is alive; a trial whose worker has fallen silent is marked as failed by the others, and its setting is
put first in the queue. So a search survives the loss of workers and of the process that started them, and several
machines may work on one search through a common database.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np

from controlrnn.checks import checked_seed, count, shown
from controlrnn.errors import CertificationError, ClusterError, InfeasibleError, SettingError
from controlrnn.tune.result import TradeOff, Trial, Tuning
from controlrnn.tune.space import Dimension
from controlrnn.typed import typed
from controlrnn.workers import Workers

ALIVE, SILENT = 3.0, 20.0  # seconds between signs of life, and without one until a trial is taken for dead
RETRIES = 3  # of a setting whose workers die
_log = logging.getLogger(__name__)
Evaluate = Callable[[Mapping[str, Any]], TradeOff]


@typed()
def tune(
    evaluate: Callable[[Mapping[str, Any]], TradeOff],
    space: Mapping[str, Dimension],
    *,
    trials: int = 50,
    storage: str | os.PathLike[str],
    name: str = "tune",
    seed: int = 0,
    workers: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> Tuning:
    """Search the settings that no other beats in cost, conservatism and solve time.

    A search that was stopped, or whose workers were killed, goes on where it was: what had ended is kept, what was
    being tried is tried again. What comes next depends on what has ended; with several workers, whose trials end in any
    order, two searches of one seed need not propose the same settings. What a setting is worth is up to ``evaluate``.

    Args:
        evaluate: Says what a setting is worth. A `CertificationError` or an `InfeasibleError` refuses the setting, any
            other error ends the search. With several workers they import it: a function of a module, or a
            ``functools.partial`` of one.
        space: What each setting may be, by name.
        trials: Number of trials that have ended, refused ones included, when the search ends; one a worker may be added
            where workers end at the same moment.
        storage: File of an SQLite database on a local disk, or the URL of any database that SQLAlchemy speaks to, such
            as ``postgresql+psycopg://user@host/tune``.
        name: Name of the search in the database.
        seed: Seed of the first worker's proposals.
        workers: Processes; 1 is this one.
        progress: Called with (trials ended, trials) when this has changed.

    Raises:
        SettingError: The space is empty, or the database holds a search of this name in another space.
        ClusterError: Workers died again and again.
    """
    if not space or not all(isinstance(d, Dimension) for d in space.values()):
        raise SettingError("space must hold at least one Real, Whole or Choice by name, and nothing else")
    if not name or len(name) > 200 or not name.isprintable():
        raise SettingError(f"name must be 1 to 200 printable characters, got {shown(name)}")
    trials, workers, url = count("trials", trials), count("workers", workers, most=4096), _url(storage)
    search = (url, name, dict(space), trials)
    with _quiet(), _opened(url, name, space, checked_seed(seed)) as (study, _):
        if workers == 1:
            _work(evaluate, search, seed, progress)
        else:
            _side_by_side(evaluate, search, seed, workers, _reporting(study, trials, progress))
        return _result(study)


def _reporting(study: Any, trials: int, progress: Callable[[int, int], None] | None) -> Callable[[], None]:
    """Function that reports progress where there is some."""
    before = -1

    def report() -> None:
        nonlocal before
        if progress is not None and (now := min(_ended(study), trials)) != before:
            before = now
            progress(now, trials)

    return report


def _side_by_side(evaluate: Evaluate, search: _Search, seed: int, workers: int, report: Callable[[], None]) -> None:
    """Let workers search; where one dies, all are started again (the pool ends with the first that does)."""
    starts = 1 + RETRIES * workers
    for start in range(starts):
        with contextlib.suppress(BrokenProcessPool), Workers(workers) as pool:
            pending = {pool.submit(_work, evaluate, search, seed + start * workers + i, None) for i in range(workers)}
            while pending:
                done, pending = wait(pending, timeout=1.0, return_when=FIRST_COMPLETED)
                report()
                for future in done:
                    future.result()
            return
        _log.warning("a worker of the search %r died: all are started again", search[1])
    raise ClusterError(f"workers of the search {search[1]!r} died {starts} times: look at their memory")


_Open = tuple[Any, Any]  # an optuna.Study and its storage
_Search = tuple[str, str, dict[str, Dimension], int]


def _work(evaluate: Evaluate, search: _Search, seed: int, progress: Callable[[int, int], None] | None) -> None:
    """Try settings until enough trials have ended; one worker's part."""
    url, name, space, trials = search
    with _quiet(), _opened(url, name, space, seed) as (study, storage):
        report = _reporting(study, trials, progress)
        while True:
            _redo_dead(study)
            found = study.get_trials(deepcopy=False)
            ended, running = sum(map(_has_ended, found)), sum(t.state.name == "RUNNING" for t in found)
            report()
            if ended >= trials:
                return
            if ended + running >= trials and not any(t.state.name == "WAITING" for t in found):
                time.sleep(0.5)  # the others may die of what they try
                continue
            _try(study, storage, evaluate, space)


def _try(study: Any, storage: Any, evaluate: Evaluate, space: Mapping[str, Dimension]) -> None:
    """One trial."""
    from optuna.trial import TrialState

    trial = study.ask()
    with _alive(trial, storage):
        setting = {name: space[name].suggested(trial, name) for name in space}
        try:
            found = evaluate(setting)
            if not isinstance(found, TradeOff):
                raise SettingError(f"evaluate must return a TradeOff, got {type(found).__name__}")
        except (CertificationError, InfeasibleError) as error:
            with _unless_ended():
                trial.set_user_attr("refused", str(error) or type(error).__name__)
                study.tell(trial, state=TrialState.FAIL)
            return
        except BaseException as error:  # it is tried again in the next search, which may know better
            with _unless_ended():
                study.tell(trial, state=TrialState.FAIL)
                study.enqueue_trial(trial.params)
            error.add_note(f"with the setting {setting}")
            raise
    with _unless_ended():
        study.tell(trial, [found.cost, found.conservatism, found.solve_time])


def _unless_ended() -> contextlib.suppress:
    """Let pass that a trial was taken for dead by another worker, which has its setting tried again."""
    from optuna.exceptions import UpdateFinishedTrialError

    return contextlib.suppress(UpdateFinishedTrialError, ValueError)


@contextlib.contextmanager
def _alive(trial: Any, storage: Any) -> Iterator[None]:
    """Say in the database that a trial is being tried, until it ends."""
    from optuna.exceptions import StorageInternalError

    over = threading.Event()

    def tell() -> None:
        while True:
            with contextlib.suppress(StorageInternalError), _unless_ended():  # a database that is busy for once
                trial.set_user_attr("alive", time.time())
            if over.wait(ALIVE):
                storage.remove_session()  # of this thread
                return

    trial.set_user_attr("alive", time.time())
    teller = threading.Thread(target=tell, daemon=True, name="alive")
    teller.start()
    try:
        yield
    finally:
        over.set()
        teller.join()


def _redo_dead(study: Any) -> None:
    """Put settings first whose workers have fallen silent."""
    from optuna.trial import TrialState

    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        begun = trial.datetime_start.timestamp() if trial.datetime_start else 0.0
        if time.time() - trial.user_attrs.get("alive", begun) < SILENT:
            continue
        before = trial.user_attrs.get("retries", 0)
        with _unless_ended():  # where another worker is faster, it does the rest as well
            study.tell(trial.number, state=TrialState.FAIL)
            if before < RETRIES:
                study.enqueue_trial(trial.params, user_attrs={"retries": before + 1, "instead_of": trial.number})
            _log.warning("the worker of trial %d fell silent: its setting is tried again", trial.number)


def _ended(study: Any) -> int:
    return sum(_has_ended(t) for t in study.get_trials(deepcopy=False))


def _has_ended(trial: Any) -> bool:
    return trial.state.name == "COMPLETE" or "refused" in trial.user_attrs


def _result(study: Any) -> Tuning:
    found = []
    for trial in study.get_trials(deepcopy=False):
        if _has_ended(trial):
            worth = TradeOff(*trial.values) if trial.state.name == "COMPLETE" else None
            found.append(Trial(trial.number, dict(trial.params), worth, trial.user_attrs.get("refused", "")))
    return Tuning(tuple(found))


@contextlib.contextmanager
def _opened(url: str, name: str, space: Mapping[str, Dimension], seed: int) -> Iterator[_Open]:
    """Open the search in the database, or begin it; its connections are closed afterwards."""
    import optuna

    own = int(np.random.SeedSequence(seed).generate_state(1)[0])  # Optuna takes 32 bits
    engine = {"connect_args": {"timeout": 60.0}} if url.startswith("sqlite") else {"pool_pre_ping": True}
    storage = optuna.storages.RDBStorage(url, engine_kwargs=engine)
    try:
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            load_if_exists=True,
            directions=["minimize"] * 3,
            sampler=optuna.samplers.TPESampler(seed=own),
        )
        described = json.dumps({n: d.described() for n, d in space.items()})
        if (before := study.user_attrs.get("space")) is None:
            study.set_user_attr("space", described)
        elif before != described:
            raise SettingError(
                f"the database holds a search {name!r} in the space {before}, got {described}: choose another name"
            )
        yield study, storage
    finally:
        storage.remove_session()
        storage.engine.dispose()


def _url(storage: str | os.PathLike[str]) -> str:
    text = os.fspath(storage)
    if "://" in text:
        return text
    path = Path(text).absolute()
    path.parent.mkdir(parents=True, exist_ok=True)
    return f"sqlite:///{path}"


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna from printing its own messages meanwhile; warnings still come."""
    try:
        import optuna  # noqa: F401
    except ModuleNotFoundError as error:
        raise SettingError("tune needs Optuna: pip install 'controlrnn[tune]'") from error
    logger = logging.getLogger("optuna")
    before = logger.level
    logger.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger.setLevel(before)
