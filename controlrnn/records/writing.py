"""Atomic writing of files: a crash leaves either the old file or the new one, never a part of it.

The new content is written to a file beside the target, flushed to the disk, and moved over the old one. A symbolic link
is followed and kept, and so are the permissions of the old file (those of a new file follow the process's umask).
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from controlrnn.errors import StorageError

_ADVICE = {
    errno.ENOSPC: "the disk is full: make room",
    errno.EDQUOT: "the disk quota is used up: make room",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EACCES: "permission denied: choose another folder, or change its permissions",
    errno.EPERM: "permission denied: choose another folder, or change its permissions",
    errno.ENAMETOOLONG: "the name is too long: shorten it",
    errno.ENOTDIR: "a part of the path is a file: choose another folder",
    errno.EISDIR: "it is a folder: name a file",
    errno.EEXIST: "a part of the path is a file: choose another folder",
    errno.ELOOP: "its symbolic links lead round in a circle: remove them",
}


@contextlib.contextmanager
def storage(what: str, path: str | os.PathLike[str]) -> Iterator[None]:
    """Context manager that turns an OSError into a `StorageError` that names the path, the cause and what to do.

    Args:
        what: ``"read"`` or ``"write"``.
        path: The file.
    """
    try:
        yield
    except (FileNotFoundError, StorageError):
        raise
    except OSError as error:
        cause = _ADVICE.get(error.errno or 0, os.strerror(error.errno) if error.errno else str(error))
        raised = StorageError(f"cannot {what} {os.fspath(path)}: {cause}")
        raised.errno = error.errno
        raise raised from error


def exists(path: str | os.PathLike[str]) -> bool:
    """Whether there is a file or folder of that name.

    Args:
        path: Its path.

    Raises:
        StorageError: That cannot be told, e.g. for lack of permission, or since the name is too long.
    """
    with storage("read", path):
        return Path(path).exists()


def is_file(path: str | os.PathLike[str]) -> bool:
    """Whether there is a file of that name.

    Args:
        path: Its path.

    Raises:
        StorageError: That cannot be told, as with `exists`.
    """
    with storage("read", path):
        return Path(path).is_file()


def write_atomic(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write ``content`` to ``path`` so that a crash leaves either the old file or the new one, never a part.

    Args:
        path: Target; parent folders are made. A symbolic link stays, what it points to is written.
        content: The bytes.

    Raises:
        StorageError: The folder may not be written to, the disk is full, or the target is no plain file.
    """
    with storage("write", path):
        target = Path(os.path.realpath(path))
        if target.is_symlink():  # realpath could not resolve it: the links lead round in a circle
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target.parent.mkdir(parents=True, exist_ok=True)
        before = _status(target)
        # A short name, however long the target's; a secret file has its permissions from the first byte on.
        temporary = target.parent / f".{secrets.token_hex(8)}.part"
        mode = 0o666 if before is None else stat.S_IMODE(before.st_mode) & 0o777
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            if before is not None:
                _as_before(temporary, before)
            os.replace(temporary, target)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)  # gone already where the file is complete
        _sync_folder(target.parent)
    return Path(path)


def write_json(path: str | os.PathLike[str], value: Any) -> Path:
    """Write ``value`` as indented JSON, atomically. NaN is refused: it is not JSON.

    Args:
        path: Target file; parent folders are made.
        value: What JSON can hold.
    """
    return write_atomic(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def _status(target: Path) -> os.stat_result | None:
    """Status of the file that will be replaced; None where there is none yet."""
    try:
        status = target.stat()
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(status.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    if not stat.S_ISREG(status.st_mode):
        raise OSError("it is a device or a pipe, which cannot be replaced as a whole: name a plain file")
    return status


def _as_before(temporary: Path, before: os.stat_result) -> None:
    """Give the new file the permissions and, where that is allowed, the owner of the file that it replaces."""
    if hasattr(os, "chown"):
        with contextlib.suppress(OSError):  # only the administrator may give files away
            os.chown(temporary, before.st_uid, before.st_gid)
    os.chmod(temporary, stat.S_IMODE(before.st_mode))


def _sync_folder(folder: Path) -> None:
    """Flush the new name to the disk, where the system can do that for folders."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
