"""Tables from data frames of pandas, and of what gives itself out as one."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import shown
from controlrnn.data.reading.table import Column, Table
from controlrnn.errors import DataError, SettingError


def is_frame(value: Any) -> bool:
    """Whether a value is a data frame of pandas or polars; neither is imported."""
    return any(
        c.__name__ == "DataFrame" and c.__module__.split(".")[0] in ("pandas", "polars") for c in type(value).__mro__
    )


def frame_table(frame: Any, source: str = "the data frame") -> Table:
    """Table of a data frame; its index, where it has a name or holds dates, is a column of that name or ``index``.

    Raises:
        SettingError: It is no data frame.
        DataError: It has no rows, or columns of several levels.
    """
    if not is_frame(frame):
        raise SettingError(f"a data frame of pandas or polars is expected, got {shown(frame)}")
    if hasattr(frame, "to_pandas"):  # polars
        frame = frame.to_pandas()
    if getattr(frame.columns, "nlevels", 1) > 1 or getattr(frame.index, "nlevels", 1) > 1:
        raise DataError(f"{source} has columns or rows of several levels: flatten them, or reset_index()")
    if not len(frame):
        raise DataError(f"{source} has no rows")
    columns = []
    if frame.index.name is not None or frame.index.dtype.kind in "mM":
        columns.append(_column(str(frame.index.name or "index"), frame.index))
    columns += [_column(str(name), frame.iloc[:, j]) for j, name in enumerate(frame.columns)]
    return Table(source, tuple(columns), np.arange(len(frame)))


def _column(name: str, series: Any) -> Column:
    """Column of a series or index."""
    zone = getattr(getattr(series, "dt", series), "tz", None) if _are_dates(series) else None
    if zone is not None:
        series = series.dt.tz_convert("UTC") if hasattr(series, "dt") else series.tz_convert("UTC")
        return Column(name, _bare(series), utc=True)
    return Column(name, _bare(series))


def _are_dates(series: Any) -> bool:
    return str(series.dtype).startswith(("datetime64", "timestamp"))


def _bare(series: Any) -> NDArray[Any]:
    """Values as numpy holds them; nullable numbers as float64 with NaN, anything else as objects."""
    if _are_dates(series):
        return np.asarray(series.to_numpy(dtype="datetime64[ns]"))
    if isinstance(series.dtype, np.dtype):
        return np.asarray(series.to_numpy())
    kind = str(getattr(series.dtype, "numpy_dtype", None) or series.dtype).lower()
    if any(kind.startswith(k) for k in ("int", "uint", "float", "double")):
        return np.asarray(series.to_numpy(dtype=np.float64, na_value=np.nan))
    return np.asarray(series.astype(object).to_numpy())
