"""From an installed wheel, the commands of the README on measured tanks: certified model, verified folder, report."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import numpy as np
import pytest

from controlrnn.data import benchmarks

ROOT = Path(__file__).parents[3]


def measured():
    """The two experiments on the cascaded tanks, an hour apart, as a logger would have written them."""
    try:
        data = benchmarks.load("cascaded_tanks")
    except FileNotFoundError:
        pytest.skip("the cascaded tanks are not in CONTROLRNN_DATA")
    first = [np.concatenate([getattr(r, n) for r in (*data.train, *data.validation)]) for n in "uy"]
    rows, start = ["time [s],pump [V],level [V]"], 0.0
    for u, y in (first, [data.test[0].u, data.test[0].y]):
        rows += [f"{start + data.dt * t:g},{u[t, 0]:.6g},{y[t, 0]:.6g}" for t in range(len(u))]
        start += data.dt * len(u) + 3600
    return "\n".join(rows) + "\n"


def installed(folder):
    """Command of a wheel in an environment of its own, which sees our dependencies and not the checkout.

    The dependencies are those of this environment, by a path file: nothing is fetched.
    """
    source = folder / "source"
    names = ("controlrnn", "mpc", "plants", "setup.cfg", "pyproject.toml", "README.md", "LICENSE")
    for name in names:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        source.mkdir(exist_ok=True)
        copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip"]
    build = [*pip, "wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(source)]
    subprocess.run(build, check=True, capture_output=True)
    (wheel,) = folder.glob("*.whl")
    environment = folder / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    python = environment / "bin" / "python"
    where = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    paths = dict.fromkeys([sysconfig.get_paths()["purelib"], sysconfig.get_paths()["platlib"]])
    (Path(where) / "dependencies.pth").write_text("\n".join(paths) + "\n")
    install = [*pip, "--python", str(python), "install", "--quiet", "--no-deps", "--no-index", str(wheel)]
    subprocess.run(install, check=True, capture_output=True)
    return environment / "bin" / "controlrnn"


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="paths of environments are those of POSIX")
def test_the_readme_on_measured_tanks(tmp_path):
    text = measured()
    pytest.importorskip("setuptools", reason="wheels are built with setuptools")
    command = installed(tmp_path)
    place = tmp_path / "work"
    place.mkdir()
    (place / "tanks.csv").write_text(text)
    calls = re.findall(r"^controlrnn (.*?)(?:\s+#.*)?$", (ROOT / "README.md").read_text(), re.MULTILINE)
    assert [c.split()[0] for c in calls] == ["init", "run"]
    clean = {n: v for n, v in os.environ.items() if not n.startswith("PYTHON")} | {"OMP_NUM_THREADS": "1"}
    began = time.monotonic()
    for call in calls:
        done = subprocess.run(
            [command, *call.split()], cwd=place, env=clean, capture_output=True, text=True, check=False, timeout=3000
        )
        assert done.returncode == 0, done.stderr
    seconds = time.monotonic() - began
    assert done.stdout.count("holds: ") == 8
    assert "FAILS" not in done.stdout
    ledger = json.loads((place / "road" / "road.json").read_text())["stages"]
    print(f"{seconds:.0f} s in all:", {name: entry["seconds"] for name, entry in ledger.items()})  # noqa: T201
    for name, entry in ledger.items():
        print(name, *entry["words"], sep="\n  ")  # noqa: T201
    loops = ledger["simulate"]["figures"]
    assert loops["tightened"]["loops_that_left_limits"] == 0
    assert ledger["certify"]["figures"]["margin"] > 0
    # The search has 180 s; everything else together takes less than that on two cores that are free.
    assert (place / "road" / "report.html").stat().st_size > 10_000
    done = subprocess.run(
        [command, "verify", "road"], cwd=place, env=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("holds: ") == 8
