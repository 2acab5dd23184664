"""Binary files: MATLAB, HDF5, Parquet."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy.io

from controlrnn.data import Trajectory, read_records
from experiments.bad_data.case import DT, TIME, Case, N, refused, right, signals

U, Y = signals()


def mat(variables: dict[str, Any], outputs: tuple[str, ...] = ("level",), cut: int = 0) -> Any:
    """Case of a MATLAB file of version 5, whole or cut at its end."""

    def run(folder: Path) -> tuple[Trajectory, ...]:
        path = folder / "log.mat"
        scipy.io.savemat(path, variables)
        path.write_bytes(path.read_bytes()[: -cut or None])
        timed = "time" in variables
        return read_records(
            path, inputs=["pump"], outputs=outputs, time="time" if timed else None, dt=None if timed else DT
        )

    return run


def hdf5(fill: Callable[[Any], None], name: str = "log.h5", cut: int = 0) -> Any:
    """Case of an HDF5 file, whole or cut at its end."""

    def run(folder: Path) -> tuple[Trajectory, ...]:
        import h5py

        with h5py.File(folder / name, "w", userblock_size=512 if name.endswith(".mat") else 0) as file:
            fill(file)
        raw = (folder / name).read_bytes()
        if name.endswith(".mat"):
            raw = b"MATLAB 7.3 MAT-file, made by a test".ljust(512, b" ") + raw[512:]
        (folder / name).write_bytes(raw[: len(raw) - cut])
        return read_records(folder / name, inputs=["pump"], outputs=["plant/level"], time="time")

    return run


def parquet(folder: Path) -> tuple[Trajectory, ...]:
    """Columns with a zone and with nullable numbers."""
    import pandas as pd

    table = pd.DataFrame({"pump [V]": U, "level [m]": pd.array(Y, dtype="Float64")})
    table.index = pd.date_range("2024-03-31 01:59:50", periods=N, freq="100ms", tz="Europe/Berlin", name="time")
    table.to_parquet(folder / "log.parquet")
    return read_records(folder / "log.parquet", inputs=["pump"], outputs=["level"], time="time")


def by_matlab(file: Any) -> None:
    """What MATLAB v7.3 writes: rows and columns swapped, texts and references beside the numbers."""
    file["time"], file["pump"] = TIME[None], U[None]
    file.create_group("plant")["level"] = Y[None]
    note = file.create_dataset("note", data=np.frombuffer(b"h\0i\0", dtype=np.uint16)[:, None])
    note.attrs["MATLAB_class"] = np.bytes_("char")
    file.create_group("#refs#")["a"] = np.arange(3.0)


def with_unit(file: Any) -> None:
    """Data sets with an attribute for the unit."""
    file["time"], file["pump"], file["plant/level"] = TIME, U, Y
    file["plant/level"].attrs["units"] = "m"


def complex_level(file: Any) -> None:
    """A data set of complex numbers."""
    file["time"], file["pump"], file["plant/level"] = TIME, U, Y + 0j


def same(records: tuple[Trajectory, ...]) -> bool:
    """Whether the record holds what was written."""
    (r,) = records
    return r.dt == DT and np.array_equal(r.u[:, 0], U) and np.array_equal(r.y[:, 0], Y)


def cut_parquet(folder: Path) -> tuple[Trajectory, ...]:
    """A file that was not copied whole."""
    parquet(folder)
    path = folder / "log.parquet"
    path.write_bytes(path.read_bytes()[:-100])
    return read_records(path, inputs=["pump"], outputs=["level"], time="time")


def pointer(folder: Path) -> tuple[Trajectory, ...]:
    """What a clone without its large files holds."""
    (folder / "log.h5").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 7\n")
    return read_records(folder / "log.h5", inputs=["pump"], outputs=["level"], time="time")


def archive(folder: Path) -> tuple[Trajectory, ...]:
    """An archive of numpy."""
    np.savez(folder / "log.npz", u=U, y=Y)
    return read_records(folder / "log.npz", inputs=["u"], outputs=["y"], dt=DT)


BOTH = np.stack([Y, 2 * Y])
MATRIX = {"time": TIME, "pump": U, "Y": BOTH}
CASES: list[Case] = [
    right(
        "MATLAB v5: rows, scalars and texts beside the data",
        mat({"time": TIME[None], "pump": U[None], "level": Y[:, None], "Ts": 0.1, "note": "a text"}),
        same,
    ),
    right("MATLAB v5: a structure", mat({"time": TIME, "pump": U, "plant": {"level": Y}}, ("plant.level",)), same),
    right(
        "MATLAB v5: a matrix of outputs, time along its second axis",
        mat(MATRIX, ("Y 1", "Y 2")),
        lambda r: bool(r[0].ny == 2 and np.array_equal(r[0].y, BOTH.T)),
    ),
    right(
        "MATLAB v5: the same, time along its first axis",
        mat(MATRIX | {"Y": BOTH.T}, ("Y 1", "Y 2")),
        lambda r: bool(r[0].ny == 2 and np.array_equal(r[0].y, BOTH.T)),
    ),
    refused("MATLAB v5: a square matrix", mat({"pump": U[:9], "level": Y[:9], "Y": np.eye(9)}, ("Y 1",)), "which side"),
    refused("MATLAB v5: complex outputs", mat({"time": TIME, "pump": U, "level": Y + 1j}), "complex"),
    refused("MATLAB v5: a file not copied whole", mat(MATRIX, cut=300), "no whole MATLAB file"),
    refused("MATLAB v5: no numbers at all", mat({"note": "a text"}), "no arrays of numbers"),
    right("MATLAB v7.3", hdf5(by_matlab, "log.mat"), same),
    right(
        "HDF5: groups, and units as attributes",
        hdf5(with_unit),
        lambda r: same(r) and r[0].outputs[0].label == "plant/level [m]",
    ),
    refused("HDF5: complex outputs", hdf5(complex_level), "complex"),
    refused("HDF5: a file not copied whole", hdf5(with_unit, cut=1000), "no whole HDF5 file"),
    refused("HDF5: a pointer of Git LFS in its place", pointer, "was not fetched"),
    right("Parquet: a time zone over the change of clocks, nullable numbers", parquet, same),
    refused("Parquet: a file not copied whole", cut_parquet, "Parquet"),
    refused("an archive of numpy", archive, "Trajectory.load"),
]
