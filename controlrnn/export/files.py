"""Model files: one ``.npz`` with the matrices and a JSON header; exact, versioned, no pickle."""

from __future__ import annotations

import os

from controlrnn.errors import FileFormatError, SettingError
from controlrnn.records import peek_record, save_record
from controlrnn.systems import GatedSystem, LureSystem, System
from controlrnn.systems.kinds import SYSTEMS

_VERSION = 1


def save_system(system: System, path: str | os.PathLike[str]) -> None:
    """Write a frozen system; `load_system` restores it bit for bit.

    Args:
        system: A frozen system.
        path: Target file; parent folders are made.

    Raises:
        SettingError: ``system`` is not frozen.
    """
    if not system.is_frozen:
        raise SettingError("save_system needs a frozen system, got one of tensors: call model.freeze() first")
    arrays, meta = system.record()
    save_record(path, system.KIND, _VERSION, arrays, {**meta, "digest": system.digest})


def load_system(path: str | os.PathLike[str]) -> LureSystem | GatedSystem:
    """Read a system written by `save_system`.

    Args:
        path: The file.

    Raises:
        FileFormatError: Not a system file, or its content was altered.
    """
    kind, arrays, meta = peek_record(path, _VERSION)
    if kind not in SYSTEMS:
        raise FileFormatError(f"{path} must hold a system ({', '.join(SYSTEMS)}), got a {kind!r}: pass a model file")
    try:
        system, expected = SYSTEMS[kind].from_record(arrays, meta), meta["digest"]
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"{path} does not hold a complete system ({error}): save it again") from error
    if system.digest != expected:
        raise FileFormatError(f"{path}: the matrices have digest {system.digest[:12]}, the file names {expected[:12]}")
    return system
