"""Framework of every study: options, rows that survive a restart, targets, figures, a table, `results.json`.

    def main(arguments=None):
        study = Study.from_command_line("cascaded_tanks", __doc__, arguments)
        row = study.row("arx", lambda: {"rmse": ...}, needs={"orders": 8})
        study.figure("fit", figure)
        study.target("rmse", "<= 0.5", row["rmse"], row["rmse"] <= 0.5)
        return study.finish()

A row is stored the moment it is computed. The next run of the same study with the same options, needs, sources (Python
and C, whether or not git knows them), packages and processor skips it, so a study that was stopped goes on where it
was. A row during which Ctrl-C was pressed is not stored, even if what it called went on with what it had. A missed
target is a result, not an error.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import importlib.metadata
import io
import json
import math
import os
import platform
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

import controlrnn
import experiments
import mpc
import plants
from controlrnn.arithmetic import arithmetic
from controlrnn.errors import StorageError
from controlrnn.records import digest, write_atomic, write_json

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Row = dict[str, Any]
_PACKAGES = ("controlrnn", "numpy", "scipy", "torch", "casadi", "cvxpy", "clarabel", "daqp", "do-mpc", "numba")


class Study:
    """One run of one study.

    Args:
        name: Name of the study, for files and messages.
        quick: Whether to run the short version.
        seed: Seed of everything random.
        out: Folder for the results.
        fresh: Whether to forget rows of earlier runs.
    """

    def __init__(self, name: str, *, quick: bool, seed: int, out: Path, fresh: bool = False) -> None:
        self.name, self.quick, self.seed, self.out = name, quick, seed, Path(out)
        self.out.mkdir(parents=True, exist_ok=True)
        self.environment = environment()
        self._rows: dict[str, Row] = {}
        self._targets: dict[str, dict[str, Any]] = {}
        self._cache = {} if fresh else _stored(self.out / "rows.json")
        self._began = time.perf_counter()

    @classmethod
    def from_command_line(cls, name: str, about: str | None, arguments: Sequence[str] | None = None) -> Study:
        """Read ``--quick --seed --out --fresh`` from ``arguments`` (the command line when left out)."""
        parser = argparse.ArgumentParser(
            prog=f"python -m experiments.{name}", description=about, formatter_class=argparse.RawTextHelpFormatter
        )
        parser.add_argument("--quick", action="store_true", help="short version: checks that everything runs")
        parser.add_argument("--seed", type=int, default=0, help="seed of everything random (default 0)")
        parser.add_argument("--out", type=Path, help=f"folder for the results (default runs/{name})")
        parser.add_argument("--fresh", action="store_true", help="compute everything anew, forget stored rows")
        options = parser.parse_args(arguments)
        out = options.out or Path("runs") / name
        if options.seed < 0:
            parser.error(f"argument --seed: must be a whole number >= 0, got {options.seed}")
        try:
            out.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=out).close()
        except OSError as error:
            parser.error(f"argument --out: must be a folder that can be written to, got {out} ({error.strerror})")
        return cls(name, quick=options.quick, seed=options.seed, out=out, fresh=options.fresh)

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
        if key in self._rows:
            raise ValueError(f"row {key!r} exists already: give every case a name of its own")
        mark = digest({}, {"key": key, "quick": self.quick, "seed": self.seed, "needs": needs} | _made_with())
        stored = self._cache.get(key)
        if stored is not None and stored["mark"] == mark and all(self.path(file).exists() for file in files):
            self.say(f"{key}: taken from the earlier run")
        else:
            began = time.perf_counter()
            with _interrupts() as interrupted:
                values = plain({"case": key} | dict(compute()))
            if interrupted:
                raise KeyboardInterrupt(f"row {key!r} was interrupted, and is not stored")
            stored = {"mark": mark, "row": values | {"seconds": round(time.perf_counter() - began, 3)}}
            self._cache[key] = stored
            try:
                write_json(self.out / "rows.json", self._cache)
            except StorageError as error:
                self.say(f"{key}: {error}; the study goes on, but this row is not kept for a next run")
        self._rows[key] = dict(stored["row"])
        return self._rows[key]

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
        """Write ``results.json`` and ``table.md``, print the table and the targets; returns the exit status 0.

        Args:
            extra: Further top-level entries of ``results.json``.
        """
        rows = self.rows
        text = f"# {self.name}\n\n{tables(rows)}\n"
        if self._targets:
            goals = [{"target": n} | {"aim": g["target"]} | _without(g, "target") for n, g in self._targets.items()]
            text += f"\n{table(goals)}\n"
        write_atomic(self.path("table.md"), text.encode())
        results = {
            "study": self.name, "quick": self.quick, "seed": self.seed,
            "seconds": round(time.perf_counter() - self._began, 3), "environment": self.environment,
            "rows": rows, "targets": self._targets,
        }  # fmt: skip
        write_json(self.path("results.json"), results | plain(extra))
        self.say(f"\n{text}\nresults: {self.path('results.json')}")
        return 0


def tables(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format one Markdown table for each kind of row; rows with the same columns belong together."""
    kinds: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        kinds.setdefault(tuple(row), []).append(row)
    return "\n\n".join(table(kind) for kind in kinds.values())


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Format rows as an aligned Markdown table.

    Columns in order of first appearance; long and nested values are left out, names of cases are not.
    """
    columns = list(dict.fromkeys(k for row in rows for k, v in row.items() if k == "case" or _is_short(v)))
    cells = [columns] + [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(line, widths, strict=True)) + " |" for line in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (w + 2) for w in widths) + "|", *lines[1:]])


def environment() -> Row:
    """Describe versions, threads, commit, sources, processor and device, on which a study's numbers depend."""
    import torch

    return {
        "python": platform.python_version(), "platform": platform.platform(), "versions": package_versions(),
        "cpus": os.cpu_count(), "threads": torch.get_num_threads(), "commit": code_version(),
        "sources": sources(), **arithmetic(),
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else platform.processor() or "cpu",
    }  # fmt: skip


def _made_with() -> Row:
    """Parts of the environment that every row depends on."""
    import torch  # noqa: F401  # so that `arithmetic` includes it

    here = arithmetic()
    return {
        "sources": sources(), "versions": package_versions(), "python": platform.python_version(),
        "library": here["library"], "bits": here["bits"],
    }  # fmt: skip


@functools.cache
def package_versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


@functools.cache
def sources() -> str:
    """Digest of all Python and C files of our packages as they are on disk."""
    sha = hashlib.sha256()
    for package in (controlrnn, mpc, plants, experiments):
        folder = Path(str(package.__file__)).parent
        for path in sorted(p for p in folder.rglob("*") if p.suffix in (".py", ".c", ".h")):
            content = path.read_bytes()
            sha.update(f"{folder.name}/{path.relative_to(folder).as_posix()}|{len(content)}|".encode())
            sha.update(content)
    return sha.hexdigest()


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


@functools.cache
def code_version() -> str | None:
    """Commit of the working tree, with a digest of local changes where there are any; None outside of git."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> bytes:
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, check=True).stdout

    try:
        commit, changes = git("rev-parse", "HEAD").decode().strip(), git("diff", "HEAD", "--", "*.py")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + (f"+{digest({'d': np.frombuffer(changes, np.uint8)}, {})[:8]}" if changes else "")


def plain(value: Any) -> Any:
    """Convert ``value`` to what JSON can hold: numpy to numbers and lists, non-finite numbers to None."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, str):
        return str(value)
    return value


def _stored(path: Path) -> dict[str, Any]:
    """Load the rows of an earlier run; none where the file is absent or was damaged."""
    try:
        rows = json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return {}
    return rows if isinstance(rows, dict) else {}


def _without(row: Mapping[str, Any], name: str) -> Row:
    return {k: v for k, v in row.items() if k != name}


def _is_short(value: Any) -> bool:
    if isinstance(value, list):
        return len(value) <= 4 and all(isinstance(v, int | float) for v in value)
    return not isinstance(value, dict) and not (isinstance(value, str) and len(value) > 40)


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return " ".join(_cell(v) for v in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
