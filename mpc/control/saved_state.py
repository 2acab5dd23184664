"""Saving and restoring the state of a running controller, bit by bit, as a dictionary of arrays.

Everything that changes from sample to sample is plain data: None, arrays, scalars, texts, and tuples, lists or deques
of them, in attributes of the controller and of the parts that only it uses (observer, disturbance filter, learnt
errors, watches). All such attributes are saved. Those that are settings are the same in the restored controller, since
a state that was saved with other parts is refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlrnn.errors import DataError
from mpc.observers.moving_horizon import EstimateInfo
from mpc.observers.window_fit import Fit

Arrays = dict[str, NDArray[Any]]
_ROWS: dict[str, Callable[..., Any]] = {"tuple": tuple, "list": list, "deque": list}
_RECORDS = {kind.__name__: kind for kind in (Fit, EstimateInfo)}
_SCALARS: dict[str, Callable[[Any], Any]] = {"bool": bool, "int": int, "float": float, "str": str}


class _Setting(Exception):  # noqa: N818 -- never leaves this file
    """Raised for an attribute that is not plain data."""


def saved(part: Any, at: str = "controller") -> Arrays:
    """Collect the plain data of a part, and of the parts that only it uses, by path."""
    found: Arrays = {}
    for name, value in vars(part).items():
        try:
            found |= dict(_flat(f"{at}.{name}", value))
        except _Setting:  # an object: a part with state of its own, or a setting
            if _is_part(value):
                found |= saved(value, f"{at}.{name}")
    return found


def told(setting: Any) -> Any:
    """JSON value that tells a setting from others of its kind, by digests of what has one, by fields of the rest."""
    if setting is None or isinstance(setting, bool | int | float):
        return setting
    if isinstance(setting, str):  # also names of enums
        return str(setting)
    if hasattr(setting, "digest"):
        return setting.digest
    if isinstance(setting, np.ndarray | np.generic):
        return setting.tolist()
    if isinstance(setting, Mapping):
        return {str(name): told(one) for name, one in setting.items()}
    if isinstance(setting, list | tuple):
        return [told(one) for one in setting]
    if is_dataclass(setting):
        return {field.name: told(getattr(setting, field.name)) for field in fields(setting)}
    return type(setting).__name__


def restore_into(part: Any, memory: Arrays, at: str = "controller") -> None:
    """Restore what `saved` collected; raises DataError where something is missing."""
    known = {key.rsplit(":", 1)[0]: (key.rsplit(":", 1)[1], value) for key, value in memory.items()}
    _put_back(part, known, at)


def _put_back(part: Any, known: dict[str, tuple[str, NDArray[Any]]], at: str) -> None:
    for name, value in vars(part).items():
        try:
            list(_flat(name, value))  # only to see whether it is plain data
        except _Setting:
            if _is_part(value):
                _put_back(value, known, f"{at}.{name}")
            continue
        if f"{at}.{name}" in known:
            made = _built(f"{at}.{name}", known)
            # Lists of rows are stored alike: a deque keeps its own maximal length.
            vars(part)[name] = deque(made, maxlen=value.maxlen) if isinstance(value, deque) else made


def _is_part(value: Any) -> bool:
    """Whether a value is a part with state of its own: one of ours that has `reset` or `start`, and is no solver."""
    own = type(value).__module__.startswith("mpc.") and hasattr(value, "__dict__") and not callable(value)
    return own and hasattr(value, "reset") != hasattr(value, "start") and not hasattr(value, "solve")


def _flat(at: str, value: Any) -> Iterator[tuple[str, NDArray[Any]]]:
    if isinstance(value, Enum):  # a text to Python, but a setting to us
        raise _Setting
    # The key ends with the type, which `_built` needs.
    kind = type(value).__name__
    if value is None:
        yield f"{at}:none", np.zeros(0)
    elif isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        yield f"{at}:{'array' if value.flags.writeable else 'fixed'}", value.copy()
    elif isinstance(value, np.generic):
        yield f"{at}:fixed", np.array(value)
    elif kind in _SCALARS:
        yield f"{at}:{kind}", np.array(value)
    elif kind in _ROWS:
        yield f"{at}:{kind}", np.array(len(value))
        for i, row in enumerate(value):
            yield from _flat(f"{at}.{i}", row)
    elif kind in _RECORDS:
        yield f"{at}:{kind}", np.zeros(0)
        for name in _RECORDS[kind].__dataclass_fields__:
            yield from _flat(f"{at}.{name}", getattr(value, name))
    else:
        raise _Setting


def _built(at: str, known: dict[str, tuple[str, NDArray[Any]]]) -> Any:
    if at not in known:
        raise DataError(f"the state lacks {at}: save it with the same version")
    kind, value = known[at]
    if kind == "none":
        return None
    if kind in ("array", "fixed"):
        array = np.array(value)
        array.setflags(write=kind == "array")
        return array
    if kind in _SCALARS:
        return _SCALARS[kind](value[()])
    if kind in _RECORDS:
        return _RECORDS[kind](**{n: _built(f"{at}.{n}", known) for n in _RECORDS[kind].__dataclass_fields__})
    if kind in _ROWS:
        return _ROWS[kind](_built(f"{at}.{i}", known) for i in range(int(value)))
    raise DataError(f"the state holds a {kind} at {at}, which no controller remembers")
