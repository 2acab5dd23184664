"""Ledger of a road's folder: what each stage was made from and what it wrote, so that only what changed is redone."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

from controlrnn import __version__
from controlrnn.checks import Choice
from controlrnn.errors import ControlRnnError, FileFormatError, SettingError
from controlrnn.records import write_json
from controlrnn.records.writing import is_file, storage
from controlrnn.typed import typed

NAME = "road.json"
FORMAT = 1


class Stage(Choice):
    """Stage of the road, in the order in which they run."""

    CHECK = "check"
    """Data are read, looked at and dealt out."""
    IDENTIFY = "identify"
    """A model is searched for."""
    CERTIFY = "certify"
    """A model is chosen whose contraction and prediction errors are proven."""
    TIGHTEN = "tighten"
    """The model error is calibrated, and joined with what is proven."""
    SIMULATE = "simulate"
    """Closed loops run."""
    REPORT = "report"
    """A page is written for whoever decides."""


@dataclass(frozen=True)
@typed()
class Entry:
    """One stage that was done.

    Args:
        key: Digest of everything that it was made from.
        sources: SHA-256 of every file that it was made from, by name.
        files: SHA-256 of every file that it wrote, by its path in the folder.
        words: What it found, a sentence each.
        figures: Numbers for programs, JSON values by name.
        seconds: Time that it took [s].
        made: When it was done, in UTC.
        version: Version of this library.

    Raises:
        SettingError: A path leads out of the folder.
    """

    key: str
    sources: dict[str, str]
    files: dict[str, str]
    words: tuple[str, ...]
    figures: dict[str, Any]
    seconds: float
    made: str = field(default_factory=lambda: time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()))
    version: str = __version__

    def __post_init__(self) -> None:
        for name in self.files:  # files that a stage no longer writes are removed: nothing outside may be among them
            path = PureWindowsPath(name)  # which knows separators and drives of all systems
            if not path.parts or path.anchor or ".." in path.parts:
                raise SettingError(f"files must have paths in the folder, got {name!r}")


@dataclass(frozen=True)
class Ledger:
    """Stages that were done in a folder.

    Args:
        folder: The folder.
        entries: Entry of each stage that is done, by its name.
    """

    folder: Path
    entries: dict[str, Entry] = field(default_factory=dict)

    @classmethod
    def read(cls, folder: Path) -> Ledger:
        """Ledger of a folder; an empty one where nothing was done yet.

        Raises:
            FileFormatError: The file is no ledger.
        """
        path = folder / NAME
        if not is_file(path):
            return cls(folder)
        with storage("read", path):
            raw = path.read_bytes()
        try:
            content = json.loads(raw)
            if content["format"] != FORMAT:
                raise FileFormatError(f"{path} has format {content['format']}, expected {FORMAT}: run the road anew")
            entries = {str(Stage(name)): Entry(**one) for name, one in content["stages"].items()}
        except FileFormatError:
            raise
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError, ControlRnnError) as error:
            raise FileFormatError(
                f"{path} is no ledger of a road ({error}): delete it, and run the road anew"
            ) from error
        return cls(folder, entries)

    def with_entry(self, stage: Stage, entry: Entry) -> Ledger:
        """Write the ledger with one more stage done, and return it; files that the stage no longer writes go."""
        old = self.entries.get(str(stage))
        entries = self.entries | {str(stage): entry}
        kept = {name for one in entries.values() for name in one.files}
        write_json(self.folder / NAME, {"format": FORMAT, "stages": {n: asdict(e) for n, e in entries.items()}})
        for name in () if old is None else old.files.keys() - kept:
            (self.folder / name).unlink(missing_ok=True)
        return Ledger(self.folder, entries)

    def is_done(self, stage: Stage, key: str) -> bool:
        """Whether a stage was done from just this, and what it wrote is there unchanged."""
        entry = self.entries.get(str(stage))
        return entry is not None and entry.key == key and not self.changed(stage)

    def changed(self, stage: Stage) -> list[str]:
        """Files of a stage that are missing, or are not what the stage wrote."""
        files = self.entries[str(stage)].files
        return [name for name, sha in files.items() if sha_of(self.folder / name) != sha]

    def outputs(self, stage: Stage) -> dict[str, str]:
        """SHA-256 of the files of a stage; empty where it is not done."""
        entry = self.entries.get(str(stage))
        return {} if entry is None else entry.files


def sha_of(path: Path) -> str:
    """SHA-256 of a file; "" where there is none."""
    if not is_file(path):
        return ""
    with storage("read", path), path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
