"""Shared libraries from C source: compiled once for a digest of everything they come from, kept in a folder, loaded."""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from controlrnn.records import digest

FLAGS = ("-std=c99", "-O2", "-shared", "-fPIC")


class NotCompiledError(Exception):
    """C code that cannot be had here; the message says why."""


def compiler() -> str | None:
    """Path of a C compiler, or None."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def library(sources: Mapping[str, str], folder: Path) -> ctypes.CDLL:
    """Compile C sources to a shared library, unless the folder has it already, and load it.

    Args:
        sources: Text by file name; those that end in ``.c`` and do not begin with ``_`` are compiled.
        folder: Where libraries are kept. Whoever may write to it decides what runs here.

    Raises:
        NotCompiledError: There is no compiler, or it fails.
    """
    found = compiler()
    if found is None:
        raise NotCompiledError("there is no C compiler (cc, gcc or clang)")
    said = subprocess.run([found, "--version"], check=False, capture_output=True, text=True).stdout.splitlines()
    made_with = {"flags": FLAGS, "compiler": said[:1], "machine": platform.machine(), "system": platform.system()}
    target = folder / f"loops-{digest({}, {'sources': dict(sources)} | made_with)[:32]}.so"
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            for name, text in sources.items():
                Path(scratch, name).write_text(text)
            files = [name for name in sources if name.endswith(".c") and not name.startswith("_")]
            built = subprocess.run(
                [found, *FLAGS, *files, "-o", "built.so", "-lm"],
                check=False, capture_output=True, text=True, cwd=scratch,
            )  # fmt: skip
            if built.returncode:
                raise NotCompiledError(f"the compiler {found} failed: {built.stderr[-2000:]}")
            os.replace(Path(scratch, "built.so"), target)  # whole or not at all, also beside other processes
    try:
        return ctypes.CDLL(str(target))
    except OSError as error:
        raise NotCompiledError(f"{target} cannot be loaded: {error}") from error
