"""Results as tables of pandas and as labelled arrays of xarray, both imported on use only (extra ``frames``).

What a record declares of its arrays (`controlrnn.records.Schema`: which lengths are the same) is what xarray calls
dimensions, so that one rule serves every result that can be saved. Results of several packages are taken as what they
hold, not by their class.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import shown
from controlrnn.data import Dataset, Signal
from controlrnn.errors import SettingError
from controlrnn.records import Numbers, Schema

if TYPE_CHECKING:
    import pandas
    import xarray

_PARTS = ("train", "validation", "test", "calibration")
# Lengths that count samples: their coordinate is the time [s].
_SAMPLES = ("T", "K", "K + 1")


def to_frame(result: Any) -> pandas.DataFrame:
    """Make a table of a result.

    - `Trajectory`: a row a sample, a column a channel, named with its unit; indexed by time [s];
    - `Dataset`: the same, indexed by part, record and time;
    - `mpc.ClosedLoopResult`: a row a control step: outputs, set points, inputs, status, times;
    - `mpc.MonteCarloResult`: the same, indexed by run and time;
    - `FitResult`: the history, a row a validation;
    - `BestFit`: a row a model: size, errors and scores;
    - anything else that saves: its arrays along the length that most of them share, such as steps of a horizon.

    Args:
        result: The result.

    Raises:
        SettingError: It is none, holds no such arrays, or pandas is missing: ``pip install 'controlrnn[frames]'``.
    """
    pd = _imported("pandas")
    if isinstance(result, Dataset):
        tables = {(part, k): to_frame(record) for part in _PARTS for k, record in enumerate(getattr(result, part))}
        return pd.concat(tables, names=["part", "record"]).sort_index()
    if _has(result, "results", "summary"):
        return pd.concat({k: to_frame(one) for k, one in enumerate(result.results)}, names=["run"])
    if _has(result, "readings", "applied", "reference"):
        return _loop(pd, result)
    if _has(result, "u", "y", "dt", "inputs", "outputs"):
        columns = _named([*zip(result.inputs, result.u.T, strict=True), *zip(result.outputs, result.y.T, strict=True)])
        columns |= {} if result.x is None else {f"x{i + 1}": x for i, x in enumerate(result.x.T)}
        return _table(pd, columns, result.time, {"name": result.name, "dt": result.dt, "timing": str(result.timing)})
    if _has(result, "history", "settings"):
        history = {name: np.asarray(values) for name, values in result.history.items()}
        return pd.DataFrame(history).set_index("step")
    if _has(result, "entries", "chosen"):
        return pd.DataFrame([_entry(e, result.chosen) for e in result.entries]).set_index("model")
    return _generic(pd, result)


def to_xarray(result: Any) -> xarray.Dataset | xarray.DataTree:
    """Make labelled arrays of a result.

    Dimensions are the lengths that the result's record declares (``"T"``, ``"ny"``, ``"N + 1"``); channels have their
    names and samples their time [s] as coordinates; numbers and texts become attributes. A result that is made of
    several ones becomes a tree: a `Dataset` with ``"/train/0"``, `mpc.MonteCarloResult` with ``"/results/0"``, and so
    on for every result inside a result but channels.

    Args:
        result: Anything that can be saved, or a `Dataset`.

    Raises:
        SettingError: It is something else, or xarray is not installed: ``pip install 'controlrnn[frames]'``.
    """
    xr = _imported("xarray")
    if isinstance(result, Dataset):
        nodes = {f"/{p}/{k}": _arrays(xr, one) for p in _PARTS for k, one in enumerate(getattr(result, p))}
        return xr.DataTree.from_dict(nodes)
    if _has(result, "history", "settings"):
        step, *others = result.history
        variables = {name: ("step", np.asarray(result.history[name])) for name in others}
        return xr.Dataset(variables, {"step": np.asarray(result.history[step])}, {"status": str(result.status)})
    _refuse_other(result)
    nodes = dict(_nodes(xr, "/", result))
    return nodes["/"] if len(nodes) == 1 else xr.DataTree.from_dict(nodes)


def _imported(name: str) -> ModuleType:
    import importlib

    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise SettingError(f"this needs {name}: pip install 'controlrnn[frames]'") from error


def _has(result: Any, *names: str) -> bool:
    """Whether a result, which is no class, has all of these attributes."""
    return not isinstance(result, type) and all(hasattr(result, name) for name in names)


def _named(pairs: Iterable[tuple[Signal, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """Columns by their labels; of channels of one name the later ones are numbered."""
    found: dict[str, NDArray[Any]] = {}
    for signal, values in pairs:
        _put(found, signal.label, values)
    return found


def _put(columns: dict[str, NDArray[Any]], label: str, values: NDArray[Any]) -> None:
    free = (f"{label} ({k})" for k in range(2, len(columns) + 3))
    columns[label if label not in columns else next(name for name in free if name not in columns)] = values


def _table(pd: Any, columns: Mapping[str, Any], time: NDArray[Any], attributes: Mapping[str, Any]) -> Any:
    table = pd.DataFrame(dict(columns), index=pd.Index(time, name="time"))
    table.attrs |= dict(attributes)
    return table


def _loop(pd: Any, result: Any) -> Any:
    """Rows of a closed loop's control steps."""
    ny, columns = result.y.shape[1], dict[str, NDArray[Any]]()
    outputs, inputs = result.names[:ny], result.names[ny:]
    for title, names, values in (
        ("", outputs, result.y[:-1]),
        ("set point of ", outputs, result.reference[:-1]),
        ("reading of ", outputs, result.readings),
        ("", inputs, result.u),
        ("applied ", inputs, result.applied),
    ):
        for name, column in zip(names, values.T, strict=True):
            _put(columns, f"{title}{name}", column)
    more = {
        "violation": result.excess[:-1].max(axis=1), "slack": result.slack, "solve time [s]": result.solve_time,
        "iterations": result.iterations, "certified": result.certified,
        "status": [str(s) for s in result.status], "fallback": [str(f) for f in result.fallback],
        "outside": list(result.outside),
    }  # fmt: skip
    for name, values in more.items():
        _put(columns, name, values)
    return _table(pd, columns, np.arange(result.steps) * result.dt, {"seed": result.seed, "cost": result.cost})


def _entry(entry: Any, chosen: str) -> dict[str, Any]:
    row = {
        "model": entry.name, "what": entry.what, "chosen": entry.name == chosen, "states": entry.system.nx,
        "neurons": entry.system.nv, "error": entry.error,
        "rate": np.nan if entry.contraction is None else float(entry.contraction.rate),
    }  # fmt: skip
    for part in ("train", "test"):
        scores = getattr(entry, part)
        for name in ("rmse", "fit_percent") if scores is not None else ():
            row |= {f"{part} {name} {i + 1}": float(v) for i, v in enumerate(getattr(scores, name))}
    return row


def _generic(pd: Any, result: Any) -> Any:
    """Arrays of a result along the length that most of them begin with."""
    _refuse_other(result)
    given = [(n, k, np.asarray(getattr(result, n, None))) for n, k in result.SCHEMA.arrays.items() if k.shape]
    arrays = [
        (name, str(kind.shape[0]), array)
        for name, kind, array in given
        if array.ndim == len(kind.shape) <= 2 and array.size and array.dtype.kind in "fiub"
    ]
    lengths = [length for _, length, _ in arrays]
    if not lengths:
        raise SettingError(f"{type(result).__name__} holds no arrays along one length: use to_xarray")
    along = max(dict.fromkeys(lengths), key=lambda n: (lengths.count(n), max(len(a) for _, m, a in arrays if m == n)))
    columns: dict[str, NDArray[Any]] = {}
    for name, length, array in arrays:
        if length == along:
            for i, column in enumerate(array.T if array.ndim == 2 else [array]):
                _put(columns, f"{name} {i + 1}" if array.ndim == 2 else name, column)
    return pd.DataFrame(columns).rename_axis(along)


def _refuse_other(result: Any) -> None:
    if not isinstance(getattr(type(result), "SCHEMA", None), Schema):
        raise SettingError(f"result must be one that can be saved, got {shown(result)}")
    if not getattr(result, "is_frozen", True):
        raise SettingError("a system must be frozen, got one of tensors: call model.freeze() first")


def _nodes(xr: Any, path: str, result: Any) -> Iterable[tuple[str, Any]]:
    """A result and the results inside of it, each with its path in a tree."""
    yield path, _arrays(xr, result)
    for name, part in result.SCHEMA.parts.items():
        if part.of is Signal:
            continue
        inside = getattr(result, name, None)
        many: Sequence[Any] = inside if part.many and inside is not None else ()
        for k, one in enumerate(many):
            yield from _nodes(xr, f"{path.rstrip('/')}/{name}/{k}", one)
        if not part.many and isinstance(getattr(type(inside), "SCHEMA", None), Schema):
            yield from _nodes(xr, f"{path.rstrip('/')}/{name}", inside)


def _arrays(xr: Any, result: Any) -> Any:
    """Arrays, coordinates and attributes of one result, without those inside of it."""
    variables, sizes = {}, dict[str, int]()
    for name, kind in result.SCHEMA.arrays.items():
        value = getattr(result, name, None)
        array = None if value is None else np.asarray(value)
        if array is None or array.ndim != len(kind.shape) or array.dtype.kind == "O" or (not array.size and array.ndim):
            continue
        dims = _dims(kind, array.shape)
        variables[name] = (dims, array)
        sizes |= dict(zip(dims, array.shape, strict=True))
    attributes = {
        name: value if isinstance(value, int | float) else str(value)
        for name in result.SCHEMA.meta
        if (value := getattr(result, name, None)) is not None
    }
    return xr.Dataset(variables, {n: v for n, v in _coordinates(result).items() if len(v) == sizes.get(n)}, attributes)


def _dims(kind: Numbers, shape: tuple[int, ...]) -> tuple[str, ...]:
    """Names of the dimensions; of a square matrix the second one is marked."""
    dims: list[str] = []
    for declared, _ in zip(kind.shape, shape, strict=True):
        name = str(declared)
        dims.append(name if name not in dims else f"{name}'")
    return tuple(dims)


def _coordinates(result: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if _has(result, "inputs", "outputs") and all(isinstance(s, Signal) for s in (*result.inputs, *result.outputs)):
        found |= {"nu": [s.label for s in result.inputs], "ny": [s.label for s in result.outputs]}
    elif _has(result, "names", "u", "y"):
        ny = result.y.shape[1]
        found |= {"ny": list(result.names[:ny]), "nu": list(result.names[ny:])}
    if _has(result, "dt", "u"):
        steps = len(result.u)
        found |= {n: np.arange(steps + (n == "K + 1")) * result.dt for n in _SAMPLES}
    return found
