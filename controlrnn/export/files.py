"""Model files: one ``.npz`` with the matrices and a JSON header; exact, versioned, no pickle."""

from __future__ import annotations

import os

from controlrnn.errors import FileFormatError, SettingError
from controlrnn.records import load_record, save_record
from controlrnn.systems import MATRICES, LureSystem

_KIND, _VERSION = "lure-system", 1


def save_system(system: LureSystem, path: str | os.PathLike[str]) -> None:
    """Write a frozen system; `load_system` restores it bit for bit.

    Raises:
        SettingError: ``system`` is not frozen.
    """
    if not system.is_frozen:
        raise SettingError("save_system needs a frozen system, got one of tensors: call model.freeze() first")
    meta = {
        "activation": str(system.activation),
        "layers": list(system.layers),
        "dt": system.dt,
        "digest": system.digest,
    }
    save_record(path, _KIND, _VERSION, {name: getattr(system, name) for name in MATRICES}, meta)


def load_system(path: str | os.PathLike[str]) -> LureSystem:
    """Read a system written by `save_system`.

    Raises:
        FileFormatError: Not a system file, or its content was altered.
    """
    arrays, meta = load_record(path, _KIND, _VERSION)
    try:
        matrices = {name: arrays[name] for name in MATRICES}
        system = LureSystem(**matrices, activation=meta["activation"], layers=tuple(meta["layers"]), dt=meta["dt"])
        expected = meta["digest"]
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"{path} does not hold a complete system ({error}): save it again") from error
    if system.digest != expected:
        raise FileFormatError(f"{path}: the matrices have digest {system.digest[:12]}, the file names {expected[:12]}")
    return system
