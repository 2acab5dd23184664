"""Packages that are called as ours are noticed when ours is imported."""

import subprocess
import sys
from pathlib import Path

import pytest

from controlrnn.neighbours import OURS, refuse_foreign

ROOT = Path(__file__).parents[2]


def imported(folder):
    """What importing ours says, with ``folder`` first on the path."""
    code = f"import sys; sys.path[:0] = [{str(folder)!r}, {str(ROOT)!r}]; import controlrnn"
    return subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("name", OURS)
@pytest.mark.parametrize("kind", ["module", "package", "package with our words"])
def test_a_foreign_package_is_named_with_its_path(tmp_path, name, kind):
    path = tmp_path / f"{name}.py" if kind == "module" else tmp_path / name / "__init__.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text("from controlrnn import data\n" if "our" in kind else "x = 1\n")
    done = imported(tmp_path)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert "ForeignPackageError" in last
    assert str(path) in last
    assert "rename it" in last


def test_a_package_written_over_ours_is_noticed(tmp_path):
    """As `pip install mpc` would: its first file takes the place of ours, our other files stay."""
    (tmp_path / "mpc" / "tightening").mkdir(parents=True)
    (tmp_path / "mpc" / "tightening" / "tightening.py").write_text("")
    (tmp_path / "mpc" / "__init__.py").write_text("from . import mpc\n")
    assert "pip uninstall mpc" in imported(tmp_path).stderr


def test_ours_are_taken(tmp_path):
    refuse_foreign()
    assert imported(tmp_path).returncode == 0
    (tmp_path / "mpc").mkdir()  # a folder without code hides nothing
    assert imported(tmp_path).returncode == 0
