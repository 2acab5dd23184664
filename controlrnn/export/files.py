"""Model files: one ``.npz`` with the matrices and a JSON header; exact, versioned, no pickle."""

from __future__ import annotations

import os

from controlrnn.errors import SettingError
from controlrnn.records import load_one_of, restoring, save_record
from controlrnn.systems import GatedSystem, LureSystem, System
from controlrnn.systems.kinds import SYSTEMS
from controlrnn.typed import typed


@typed()
def save_system(system: System, path: str | os.PathLike[str]) -> None:
    """Write a frozen system to a file; `load_system` restores it bit for bit.

    Args:
        system: A frozen system.
        path: Target file; parent folders are made.

    Raises:
        SettingError: ``system`` is not frozen.
    """
    if not system.is_frozen:
        raise SettingError("save_system needs a frozen system, got one of tensors: call model.freeze() first")
    save_record(path, system.SCHEMA, *system.record())


@typed()
def load_system(path: str | os.PathLike[str]) -> LureSystem | GatedSystem:
    """Read a system from a file written by `save_system`.

    Args:
        path: The file.

    Raises:
        FileFormatError: Not a system file, or its content was altered.
    """
    kind, arrays, meta = load_one_of(path, {kind: one.SCHEMA for kind, one in SYSTEMS.items()}, "a system")
    with restoring(path):
        return SYSTEMS[kind].from_record(arrays, meta)
