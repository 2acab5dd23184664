"""Framework of every study: options, rows that survive a restart, targets, figures, a table, `results.json`.

    def main(arguments=None):
        study = Study.from_command_line("cascaded_tanks", __doc__, arguments)
        row = study.row("arx", lambda: {"rmse": ...}, needs={"orders": 8})
        study.figure("fit", figure)
        study.target("rmse", "<= 0.5", row["rmse"], row["rmse"] <= 0.5)
        return study.finish()

Many cases of one kind are `Study.each` (rows of the table) or `Study.stream` (too many for a table: stored, and handed
out one after the other): a function that workers can import, called with each case's arguments. They run on a Dask
cluster: the one at ``--scheduler``, or one of this study's own with ``--workers`` processes; 1 is serial, and gives the
same rows to the last bit where it has one thread as workers have (``OMP_NUM_THREADS=1``).

A row is stored the moment it is computed, in Parquet files in the folder ``rows``. The next run of the same study with
the same options, needs, sources (Python and C, whether or not git knows them), packages and processor skips it, so a
study that was stopped goes on where it was. A row during which Ctrl-C was pressed is not stored, even if what it called
went on with what it had. A missed target is a result, not an error.
"""

from __future__ import annotations

import argparse
import functools
import io
import itertools
import os
import signal
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from controlrnn.checks import Array
from controlrnn.errors import ClusterError
from controlrnn.records import digest, write_atomic, write_json
from experiments.shared.rows.cases import CODE, case, code, function_of, importable, name_of, one_thread
from experiments.shared.rows.made_with import environment, made_with
from experiments.shared.rows.stored import StoredRows
from experiments.shared.rows.tables import plain, table, tables

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from controlrnn.cluster import Client

Row = dict[str, Any]


class Study:
    """One run of one study.

    Args:
        name: Name of the study, for files and messages.
        quick: Whether to run the short version.
        seed: Seed of everything random.
        out: Folder for the results.
        fresh: Whether to forget rows of earlier runs.
        workers: Processes for `each`, `stream` and what takes `client`; 1 is this one.
        scheduler: Address of a scheduler whose workers do it instead.
        device: Torch's name of the device of trainings that may run on any.

    Attributes:
        computed: Number of rows so far that this run has computed, not taken from an earlier one.
    """

    def __init__(
        self,
        name: str,
        *,
        quick: bool,
        seed: int,
        out: Path,
        fresh: bool = False,
        workers: int = 1,
        scheduler: str | None = None,
        device: str = "cpu",
    ) -> None:
        self.name = name
        self.quick = quick
        self.seed = seed
        self.out = Path(out)
        self.workers = workers
        self.scheduler = scheduler
        self.device = device
        self.fresh = fresh
        self.out.mkdir(parents=True, exist_ok=True)
        self.environment = environment()
        self.computed = 0
        self._rows: dict[str, Row] = {}
        self._targets: dict[str, dict[str, Any]] = {}
        self._stored = StoredRows(self.out / "rows", fresh=fresh, say=self.say)
        self._cluster = ExitStack()
        self._client: Client | None = None
        self._began = time.perf_counter()

    @classmethod
    def from_command_line(cls, name: str, about: str | None, arguments: Sequence[str] | None = None) -> Study:
        """Read the options of every study from ``arguments`` (the command line when left out)."""
        parser = argparse.ArgumentParser(
            prog=f"python -m experiments.{name}", description=about, formatter_class=argparse.RawTextHelpFormatter
        )
        size = parser.add_mutually_exclusive_group()
        size.add_argument("--quick", action="store_true", help="short version: checks that everything runs")
        size.add_argument("--full", action="store_true", help="long version; what runs without either")
        parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default 0)")
        parser.add_argument("--out", type=Path, help=f"folder for the results (default runs/{name})")
        parser.add_argument("--fresh", action="store_true", help="compute everything anew, forget stored rows")
        parser.add_argument("--workers", type=int, help="processes for cases (default one a processor, 1 if quick)")
        parser.add_argument("--scheduler", help="address of a Dask scheduler that has workers, such as tcp://host:8786")
        parser.add_argument("--device", default="cpu", help="torch device of classifiers' trainings (default cpu)")
        options = parser.parse_args(arguments)
        out = options.out or Path("runs") / name
        if options.seed < 0:
            parser.error(f"argument --seed: must be a whole number >= 0, got {options.seed}")
        if options.workers is not None and not 1 <= options.workers <= 4096:
            parser.error(f"argument --workers: must be a whole number from 1 to 4096, got {options.workers}")
        if options.workers is not None and options.scheduler is not None:
            parser.error("argument --workers: the workers of --scheduler are used, give one of the two")
        try:
            out.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=out).close()
        except OSError as error:
            parser.error(f"argument --out: must be a folder that can be written to, got {out} ({error.strerror})")
        return cls(
            name,
            quick=options.quick,
            seed=options.seed,
            out=out,
            fresh=options.fresh,
            workers=options.workers or (1 if options.quick else _processors()),
            scheduler=options.scheduler,
            device=options.device,
        )

    @property
    def rows(self) -> list[Row]:
        """The rows so far, in order."""
        return list(self._rows.values())

    @property
    def targets(self) -> list[tuple[str, Row]]:
        """The targets so far with their values, in order."""
        return list(self._targets.items())

    def path(self, name: str) -> Path:
        """Path of a file in the study's folder."""
        return self.out / name

    def row(
        self, key: str, compute: Callable[[], Mapping[str, Any]], *, needs: Any = None, files: Sequence[str] = ()
    ) -> Row:
        """Compute one case, or take it from an earlier run.

        Args:
            key: Name of the case; becomes the row's ``case``.
            compute: Gives the row: numbers, texts, flags.
            needs: JSON value of what the row depends on beside the study's options and the code; when it changes the
                row is computed anew.
            files: Names of files in the study's folder that ``compute`` writes; when one is gone it is called again.

        Returns:
            The row, with ``case`` and ``seconds`` added. Numbers that are not finite become None, as JSON asks.

        Raises:
            KeyboardInterrupt: Ctrl-C was pressed meanwhile, whether or not ``compute`` noticed.
        """
        self._is_new(key)
        mark = self._mark(key, needs)
        stored = self._stored.get(mark)
        if stored is not None and all(self.path(file).exists() for file in files):
            self.say(f"{key}: taken from the earlier run")
        else:
            began = time.perf_counter()
            with _interrupts() as interrupted:
                values = plain({"case": key} | dict(compute()))
            if interrupted:
                raise KeyboardInterrupt(f"row {key!r} was interrupted, and is not stored")
            stored = values | {"seconds": round(time.perf_counter() - began, 3)}
            self._stored.put(mark, stored)
            self.computed += 1
        self._rows[key] = stored
        return stored

    def each(
        self, function: Callable[..., Mapping[str, Any]], cases: Mapping[str, Sequence[Any]], *, needs: Any = None
    ) -> list[Row]:
        """Compute many cases side by side, or take them from an earlier run; they become rows in their order.

        Args:
            function: Gives the row of one case from its arguments alone. Workers import it: a function of a module, or
                a ``functools.partial`` of one, whose arguments travel once to each worker.
            cases: Arguments of each case by its name.
            needs: As in `row`, of all cases.
        """
        for key in cases:
            self._is_new(key)
        rows = []
        for row in self.stream(function, cases.items(), needs=needs, total=len(cases)):
            rows.append(row)
            self._rows[row["case"]] = row
        return rows

    def stream(
        self,
        function: Callable[..., Mapping[str, Any]],
        cases: Iterable[tuple[str, Sequence[Any]]],
        *,
        needs: Any = None,
        total: int | None = None,
        title: str = "cases",
    ) -> Iterator[Row]:
        """Like `each` for any number of cases: rows are stored and handed out in order, but kept in no table.

        Args:
            function: As in `each`.
            cases: Name and arguments of each case; drawn as they are needed.
            needs: As in `row`, of all cases.
            total: Number of cases, for the progress bar.
            title: Its title.
        """
        keys: set[str] = set()
        order: deque[tuple[str, bool]] = deque()  # marks that were drawn, and whether their rows have to be computed
        marks: dict[int, str] = {}  # of those on their way
        numbers = itertools.count()

        def todo() -> Iterator[tuple[str, Sequence[Any]]]:
            for key, arguments in cases:
                if key in keys:
                    raise _twice(key)
                keys.add(key)
                mark = self._mark(key, [name_of(function), needs])
                order.append((mark, mark not in self._stored))
                if order[-1][1]:
                    marks[next(numbers)] = mark
                    yield key, arguments

        def arrived(number: int, row: Row) -> None:
            self._stored.put(marks.pop(number), row, now=False)
            self.computed += 1

        with tqdm(total=total, desc=title, leave=False) as bar:

            def known() -> Iterator[Row]:
                while order and not order[0][1]:
                    row = self._stored.get(order.popleft()[0])
                    assert row is not None  # it was there when its case was drawn
                    yield row
                    bar.initial += 1  # does not count in the rate
                    bar.update()

            try:
                for row in self._computed(function, todo(), arrived):
                    yield from known()
                    order.popleft()
                    bar.update()
                    yield row
                yield from known()
            finally:
                self._stored.write()

    def _computed(
        self,
        function: Callable[..., Mapping[str, Any]],
        todo: Iterator[tuple[str, Sequence[Any]]],
        arrived: Callable[[int, Row], None],
    ) -> Iterator[Row]:
        """Yield the rows of cases in their order, here or on the cluster; ``arrived`` is called as soon as one is."""
        first = next(todo, None)
        if first is None:
            return
        todo, client = itertools.chain([first], todo), self.client
        if client is not None:
            from controlrnn import cluster

            self._same_code(client)
            make = functools.partial(function_of, functools.partial(case, importable(function)), code())
            yield from cluster.stream(client, make, todo, arrived=arrived)
            return
        for number, (key, arguments) in enumerate(todo):
            with _interrupts() as interrupted, one_thread():
                row = case(function, key, arguments)
            if interrupted:
                raise KeyboardInterrupt(f"row {key!r} was interrupted, and is not stored")
            arrived(number, row)
            yield row

    def side_by_side(self, function: Callable[[Any], Any], tasks: Iterable[Any]) -> list[Any]:
        """Results of a function for all tasks, in their order; within a row, as they are not stored.

        Args:
            function: As in `each`.
            tasks: Its arguments, one a call.
        """
        if (client := self.client) is None:
            with one_thread():
                return [function(task) for task in tasks]
        from controlrnn import cluster

        self._same_code(client)
        make = functools.partial(function_of, importable(function), code())
        return list(cluster.stream(client, make, ((task,) for task in tasks)))

    @property
    def client(self) -> Client | None:
        """Client of the cluster, which is started when it is first asked for; None where the study is serial."""
        if self._client is None and (self.scheduler is not None or self.workers > 1):
            try:
                from controlrnn import cluster
            except ModuleNotFoundError as error:
                raise ClusterError(
                    f"{error.name} is missing: pip install 'controlrnn[cluster]', or take --workers 1"
                ) from error
            start = cluster.connected(self.scheduler) if self.scheduler else cluster.local_client(self.workers)
            self._client = self._cluster.enter_context(start)
        return self._client

    def _same_code(self, client: Client) -> None:
        """Refuse workers that run other code; say where their arithmetic is another."""
        here = made_with()
        for address, there in sorted(client.run(made_with).items()):
            differs = [name for name in CODE if there[name] != here[name]]
            if differs:
                raise ClusterError(
                    f"worker {address} has other {', '.join(differs)} than this process: install the same"
                )
            if there != here:
                self.say(f"worker {address} has other arithmetic ({there['library']}): rows agree up to rounding")

    def _is_new(self, key: str) -> None:
        if key in self._rows:
            raise _twice(key)

    def _mark(self, key: str, needs: Any) -> str:
        """Digest of everything that a row depends on."""
        own = {"study": self.name, "key": key, "quick": self.quick, "seed": self.seed, "needs": needs}
        return digest({}, own | made_with())

    def arrays(self, name: str, compute: Callable[[], Mapping[str, Array]], *, needs: Any = None) -> dict[str, Array]:
        """Compute arrays, or take them from the study's folder, where they stay for as long as a row would.

        Args:
            name: Start of the file's name.
            compute: Gives the arrays by name.
            needs: As in `row`.
        """
        path = self.path(f"{name}_{self._mark(name, needs)[:16]}.npz")
        if not path.exists():
            content = io.BytesIO()
            np.savez(content, **{key: np.asarray(value) for key, value in compute().items()})  # type: ignore[arg-type]
            write_atomic(path, content.getvalue())
        with np.load(path) as stored:
            return dict(stored)

    def target(self, name: str, target: Any, value: Any, met: bool) -> None:
        """Record a target: the aim, the value reached, and whether that is enough."""
        self._targets[name] = plain({"target": target, "value": value, "met": bool(met)})

    def figure(self, name: str, figure: Figure) -> Path:
        """Save a figure as ``name.png``."""
        content = io.BytesIO()
        figure.savefig(content, format="png", dpi=130)
        return write_atomic(self.path(f"{name}.png"), content.getvalue())

    @contextmanager
    def stage(self, title: str) -> Iterator[None]:
        """Announce a stage, and log how long it took."""
        self.say(f"{title} ...")
        began = time.perf_counter()
        yield
        self.say(f"{title}: {time.perf_counter() - began:.1f} s")

    def progress(self, items: Sequence[Any], title: str) -> Iterator[Any]:
        """Iterate with a progress bar."""
        return iter(tqdm(items, desc=title, leave=False))

    def say(self, text: str) -> None:
        """Print a line without tearing a progress bar."""
        tqdm.write(text, file=sys.stdout)

    def finish(self, **extra: Any) -> int:
        """Write ``results.json`` and ``table.md``, print the table and the targets, end the study's own cluster.

        Args:
            extra: Further top-level entries of ``results.json``.

        Returns:
            The exit status 0.
        """
        self.close()
        text = f"# {self.name}\n\n{tables(self.rows)}\n"
        if self._targets:
            goals = [{"target": n} | {"aim": g["target"]} | _without(g, "target") for n, g in self._targets.items()]
            text += f"\n{table(goals)}\n"
        write_atomic(self.path("table.md"), text.encode())
        results = {
            "study": self.name, "quick": self.quick, "seed": self.seed,
            "seconds": round(time.perf_counter() - self._began, 3), "environment": self.environment,
            "rows": self.rows, "targets": self._targets,
        }  # fmt: skip
        write_json(self.path("results.json"), results | plain(extra))
        self.say(f"\n{text}\nresults: {self.path('results.json')}")
        return 0

    def close(self) -> None:
        """Store what waits to be stored, and end the study's own cluster."""
        self._stored.close()
        self._client = None
        self._cluster.close()


def _twice(key: str) -> ValueError:
    return ValueError(f"row {key!r} exists already: give every case a name of its own")


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Record Ctrl-C, whether or not it is caught further down."""
    noted: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield noted
        return

    def note(number: int, frame: FrameType | None) -> None:
        noted.append(number)
        before(number, frame)

    signal.signal(signal.SIGINT, note)
    try:
        yield noted
    finally:
        signal.signal(signal.SIGINT, before)


def _without(row: Mapping[str, Any], name: str) -> Row:
    return {k: v for k, v in row.items() if k != name}


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
