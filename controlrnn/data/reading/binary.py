"""Binary files of columns: MATLAB (v4 to v7.3), HDF5 and Parquet. A matrix is as many columns as its shorter side."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlrnn.data.reading.frame import frame_table
from controlrnn.data.reading.table import Column, Table
from controlrnn.errors import DataError, FileFormatError, SettingError

_RATIO = 2  # a matrix whose sides are closer than this may lie either way


def needed(module: str, what: str) -> Any:
    """Import a module of the extra ``data``.

    Raises:
        SettingError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise SettingError(f"{what} needs {module.split('.')[0]}: pip install 'controlrnn[data]'") from error


def read_parquet(path: Path) -> Table:
    """Read a Parquet file."""
    parquet, arrow = needed("pyarrow.parquet", "reading Parquet"), needed("pyarrow", "reading Parquet")
    needed("pandas", "reading Parquet")
    try:
        frame = parquet.read_table(path).to_pandas()
    except (arrow.ArrowException, OSError) as error:
        raise FileFormatError(f"{path} is no whole Parquet file: {error}") from error
    return frame_table(frame, str(path))


def read_hdf5(path: Path) -> Table:
    """Read an HDF5 file, also one that MATLAB wrote (v7.3)."""
    h5py = needed("h5py", "reading HDF5 and MATLAB v7.3")
    try:
        with h5py.File(path, "r") as file:
            return _columns(str(path), list(_datasets(file, "", h5py)))
    except OSError as error:
        raise FileFormatError(f"{path} is no whole HDF5 file: {error}") from error


def read_mat(path: Path) -> Table:
    """Read a MATLAB file of the versions 4 to 7."""
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    try:
        contents = loadmat(path, squeeze_me=True, struct_as_record=False)
    except (ValueError, TypeError, OSError, MatReadError, RuntimeError) as error:
        raise FileFormatError(f"{path} is no whole MATLAB file: {error}") from error
    return _columns(str(path), list(_variables({k: v for k, v in contents.items() if not k.startswith("__")}, "")))


def _datasets(group: Any, path: str, h5py: Any) -> Iterator[tuple[str, NDArray[Any], str]]:
    """Name, values and unit of every dataset of numbers or texts below a group."""
    for name, item in group.items():
        if name.startswith("#"):  # MATLAB's store of what cells refer to
            continue
        full = f"{path}/{name}" if path else str(name)
        if isinstance(item, h5py.Group):
            yield from _datasets(item, full, h5py)
            continue
        if not isinstance(item, h5py.Dataset) or item.attrs.get("MATLAB_class", b"double") in (b"char", b"cell"):
            continue
        values = np.asarray(item[()])
        if values.dtype.names == ("real", "imag"):
            values = values["real"] + 1j * values["imag"]
        unit = next((item.attrs[n] for n in ("unit", "units", "Unit", "Units") if n in item.attrs), "")
        texts = h5py.check_string_dtype(item.dtype) is not None
        if texts:
            values = np.array(
                [v.decode("utf-8", "replace") if isinstance(v, bytes) else v for v in values.ravel()], dtype=object
            )
        if texts or values.dtype.kind in "biufc":
            yield full, values, unit.decode() if isinstance(unit, bytes) else str(unit)


def _variables(contents: dict[str, Any], path: str) -> Iterator[tuple[str, NDArray[Any], str]]:
    """Name, values and (no) unit of every numeric variable, also inside of structures."""
    for name, value in contents.items():
        full = f"{path}.{name}" if path else name
        if hasattr(value, "_fieldnames"):
            yield from _variables({n: getattr(value, n) for n in value._fieldnames}, full)
        elif isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            yield full, value, ""


def _columns(source: str, found: list[tuple[str, NDArray[Any], str]]) -> Table:
    """Table of the arrays that are as long as most samples are; matrices are taken apart."""
    series = [(name, np.squeeze(v), unit) for name, v, unit in found if v.size > 1]
    vectors = [len(v) for _, v, _ in series if v.ndim == 1]
    longest = max(vectors or [max(v.shape) for _, v, _ in series if v.ndim == 2] or [0])
    columns = []
    for name, values, unit in series:
        if values.ndim == 1 and len(values) == longest:
            columns.append(Column(name, values, unit))
        elif values.ndim == 2 and longest in values.shape:
            columns += _of_matrix(source, name, values, unit, longest, bool(vectors))
    if not columns:
        names = ", ".join(f"{n} {v.shape}" for n, v, _ in found[:10]) or "no arrays of numbers"
        raise DataError(
            f"{source} holds no arrays of numbers of one length, got {names}: save inputs, outputs and time as arrays "
            "(of timeseries and table objects: their values)"
        )
    return Table(source, tuple(columns), np.arange(1, longest + 1), row="sample")


def _of_matrix(source: str, name: str, values: NDArray[Any], unit: str, T: int, sure: bool) -> list[Column]:
    """Columns ``name 1``, ``name 2``, ... of a matrix whose side of length T is time."""
    a, b = values.shape
    if a == b or (not sure and max(a, b) < _RATIO * min(a, b)):
        raise DataError(
            f"{source}: which side of {name!r} {values.shape} is time? Save a vector of time stamps of {T} with it, or "
            "its columns one by one"
        )
    by_time = values if a == T else values.T
    if by_time.shape[1] == 1:
        return [Column(name, by_time[:, 0], unit)]
    return [Column(f"{name} {j + 1}", column, unit) for j, column in enumerate(by_time.T)]
