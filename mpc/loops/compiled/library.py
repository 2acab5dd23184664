"""Shared libraries from C source: compiled once for a digest of everything they come from, kept in a folder, loaded.

The folder's mode keeps other users' libraries out, the digest beside a library what was damaged, mixed up or copied
there by mistake. Neither keeps out who may act as this user or as the system's administrator, or who owns a folder
above this one and can put another in its place: they may change both files.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path

from controlrnn.errors import SettingError
from controlrnn.records import digest, write_atomic

_log = logging.getLogger(__name__)
FLAGS = ("-std=c99", "-O3", "-ffp-contract=fast", "-fno-math-errno", "-shared", "-fPIC")
# The instructions of this very processor, where the compiler knows them; vectors of 256 bits do not slow it down.
NATIVE = (("-march=native", "-mprefer-vector-width=256"), ("-march=native",), ("-mcpu=native",), ())


class NotCompiledError(Exception):
    """C code that cannot be had here; the message says why."""


def compiler() -> str | None:
    """Path of a C compiler, or None."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


def library(sources: Mapping[str, str], folder: Path) -> tuple[ctypes.CDLL, tuple[Path, Path]]:
    """Compile C sources to a shared library, unless the folder has it already, and load it.

    Args:
        sources: Text by file name; those that end in ``.c`` and do not begin with ``_`` are compiled.
        folder: Where libraries are kept, each with its SHA-256 in a file beside it. One with another digest is not
            loaded but compiled anew.

    Returns:
        The library, and the paths of its file and its digest's.

    Raises:
        NotCompiledError: There is no compiler, or it fails.
        SettingError: The folder belongs to somebody else, or others may access it.
    """
    found = compiler()
    if found is None:
        raise NotCompiledError("there is no C compiler (cc, gcc or clang)")
    _own(folder)
    flags, target_of = _flags(found)
    made_with = {"flags": flags, "compiler": target_of, "machine": platform.machine(), "system": platform.system()}
    target = folder / f"loops-{digest({}, {'sources': dict(sources)} | made_with)[:32]}.so"
    recorded = target.with_suffix(".sha256")
    if not _is_recorded(target, recorded):
        with tempfile.TemporaryDirectory(dir=folder) as scratch:
            for name, text in sources.items():
                Path(scratch, name).write_text(text)
            files = [name for name in sources if name.endswith(".c") and not name.startswith("_")]
            built = subprocess.run(
                [found, *flags, *files, "-o", "built.so", "-lm"],
                check=False,
                capture_output=True,
                text=True,
                cwd=scratch,
            )
            if built.returncode:
                raise NotCompiledError(f"the compiler {found} failed: {built.stderr[-2000:]}")
            new = Path(scratch, "built.so")
            # Each whole or not at all; who stops between the two leaves a pair that does not fit, and is made anew.
            write_atomic(recorded, _sha256(new).encode())
            os.replace(new, target)
    try:
        return ctypes.CDLL(str(target)), (target, recorded)
    except OSError as error:
        raise NotCompiledError(f"{target} cannot be loaded: {error}") from error


@functools.cache
def _asked(compiler: str, flags: tuple[str, ...]) -> tuple[bool, str]:
    """What a compiler defines by itself with these flags (its version, the processor's instructions), or why not."""
    told = subprocess.run(
        [compiler, *flags, "-dM", "-E", "-x", "c", os.devnull], check=False, capture_output=True, text=True
    )
    return told.returncode == 0, told.stdout if told.returncode == 0 else told.stderr[-2000:]


def _flags(compiler: str) -> tuple[tuple[str, ...], str]:
    """Flags for this processor, the first that the compiler takes, and what it defines by itself with them."""
    told = ""
    for native in NATIVE:
        taken, told = _asked(compiler, (*FLAGS, *native))
        if taken:
            return (*FLAGS, *native), told
    raise NotCompiledError(f"the compiler {compiler} failed: {told}")


def _own(folder: Path) -> None:
    """Make the folder, or check that it is this user's, and that nobody else may access it."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not hasattr(os, "getuid"):  # where rights are no bits of a mode
        return
    found = folder.stat()
    if found.st_uid != os.getuid() or stat.S_IMODE(found.st_mode) & 0o077:
        raise SettingError(
            f"the folder of compiled code must be yours, and for you alone (mode 700), got {folder} of user "
            f"{found.st_uid} with mode {stat.S_IMODE(found.st_mode):o}: what is in it is run; `chmod 700` a folder "
            "that only you have written to, or name a new one"
        )


def _is_recorded(target: Path, recorded: Path) -> bool:
    """Whether there is a library, and it is the one that was compiled."""
    if not target.exists():
        return False
    try:
        same = _sha256(target) == recorded.read_text()
    except (OSError, UnicodeDecodeError):
        same = False
    if not same:
        _log.warning("%s is not what was compiled: it is compiled anew", target)
    return same


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
