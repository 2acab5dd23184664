"""Damaged and forged files of all kinds of records: each must load rightly or be refused with a clear error.

Bits are flipped, archives taken apart and put together wrongly, headers exchanged, and contents changed under a
checksum that is right. Reading ends in a `FileFormatError`, or in an object that is valid and whose digest says that
it is another one; never in another error, never after more than a second, never with more than 300 MB.
"""

from __future__ import annotations

import functools
import logging
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from controlrnn.errors import ControlRnnError, FileFormatError
from controlrnn.records import Stored
from experiments.bench_files.every_record import Sample, samples
from experiments.bench_files.mutations import MUTATIONS, SIGNED
from experiments.shared.study import Row, Study

FILES = 850  # of each way to spoil a record, for each kind of record
LONGEST, LARGEST = 1.0, 300e6  # seconds of the processor, bytes
_BATCH = 50  # files between two looks at where memory starts from, which takes longer than reading


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("bench_files", __doc__, arguments)
    logging.getLogger("controlrnn").setLevel(logging.ERROR)
    kinds = samples(study.seed)
    each = 15 if study.quick else FILES
    with tempfile.TemporaryDirectory() as folder:
        for name in study.progress(list(kinds), "kinds of records"):
            seed = [study.seed, list(kinds).index(name)]
            study.row(name, functools.partial(spoil, kinds[name], Path(folder), seed, each), needs=each)
    rows = study.rows
    files = sum(row["files"] for row in rows)
    study.target("files", ">= 1e5", files, files >= 1e5)
    for column, why in (
        ("raw", "other errors than FileFormatError"),
        ("unnoticed", "damage without a new checksum that was let in"),
        ("invalid", "objects let in that cannot be used or saved"),
        ("slow", f"more than {LONGEST:g} s"),
    ):
        total = sum(row[column] for row in rows)
        study.target(f"{column}: {why}", 0, total, total == 0)
    memory = max(row["memory_mb"] for row in rows)
    study.target("memory [MB]", f"<= {LARGEST / 1e6:g}", memory, memory <= LARGEST / 1e6)
    return study.finish()


def spoil(sample: Sample, folder: Path, seed: Sequence[int], each: int) -> Row:
    """Read ``each`` files of every mutation of one record and count the outcomes."""
    rng, path = np.random.default_rng(seed), folder / "r.npz"
    path.write_bytes(sample.content)
    if sample.load(path).digest != sample.digest:
        raise AssertionError("the untouched file is another object")
    counts: Counter[str] = Counter(
        dict.fromkeys(("refused", "another", "same", "raw", "unnoticed", "invalid", "slow"), 0)
    )
    errors: Counter[str] = Counter()
    longest, largest, before = 0.0, 0.0, 0.0
    for mutation, change in MUTATIONS.items():
        for i in range(each):
            path.write_bytes(change(sample.content, rng))
            if i % _BATCH == 0:
                before = _resident_afresh()
            began = time.process_time()
            outcome, error = read(sample, path, folder)
            seconds = time.process_time() - began
            counts[outcome] += 1
            counts["slow"] += seconds > LONGEST
            counts["unnoticed"] += outcome == "another" and mutation not in SIGNED
            errors.update([error] if error else [])
            longest, largest = max(longest, seconds), max(largest, _peak() - before)
    return {
        "files": each * len(MUTATIONS), **counts, "longest_ms": 1e3 * longest, "memory_mb": largest / 1e6,
        "errors": dict(errors.most_common(20)),
    }  # fmt: skip


def read(sample: Sample, path: Path, folder: Path) -> tuple[str, str]:
    """Read one file; returns the outcome, and the error in words where it was none of ours."""
    try:
        found = sample.load(path)
    except FileFormatError:
        return "refused", ""
    except (Exception, RecursionError) as error:  # noqa: BLE001 -- that is what is counted
        return "raw", f"{type(error).__name__}: {error}"[:200]
    try:
        if found.digest == sample.digest:
            return "same", ""
        if isinstance(found, Stored):
            found.save(folder / "again.npz")
            if sample.load(folder / "again.npz").digest != found.digest:
                return "invalid", "another digest after saving"
        sample.use(found)
    except ControlRnnError as error:
        # A certificate that is refused, a tightening that leaves nothing: said in words. It has to be saved, though.
        if isinstance(error, FileFormatError) or "could not be read again" in str(error):
            return "invalid", f"{type(error).__name__}: {error}"[:200]
    except (Exception, RecursionError) as error:  # noqa: BLE001
        return "invalid", f"{type(error).__name__}: {error}"[:200]
    return "another", ""


def _resident_afresh() -> float:
    """Bytes in memory now, from which `_peak` counts; 0 where the system does not tell."""
    try:
        with open("/proc/self/clear_refs", "w") as stream:
            stream.write("5")
        return _status("VmRSS")
    except OSError:
        return 0.0


def _peak() -> float:
    try:
        return _status("VmHWM")
    except OSError:
        return 0.0


def _status(name: str) -> float:
    with open("/proc/self/status") as stream:
        return next(1024.0 * float(line.split()[1]) for line in stream if line.startswith(f"{name}:"))
