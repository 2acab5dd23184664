"""Writing: links, permissions and long names are kept, and what is in the way is named."""

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from controlrnn.data import Dataset, Trajectory
from controlrnn.errors import FileFormatError, StorageError
from controlrnn.identification import FitStatus, identify
from controlrnn.models import Elman
from controlrnn.records import read_record, write_atomic
from experiments.shared.study import Study


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def full_disk(*_args: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_symbolic_link_stays_and_its_target_is_written(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "data" / "real")
    for content in (b"first", b"second"):  # also while it leads nowhere yet
        write_atomic(tmp_path / "link", content)
        assert (tmp_path / "link").is_symlink()
        assert (tmp_path / "data" / "real").read_bytes() == content
    (tmp_path / "outer").symlink_to(tmp_path / "link")
    write_atomic(tmp_path / "outer", b"third")
    assert (tmp_path / "outer").is_symlink()
    assert (tmp_path / "data" / "real").read_bytes() == b"third"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["data", "link", "outer", "real"]
    (tmp_path / "round").symlink_to(tmp_path / "round")
    with pytest.raises(StorageError, match="circle"):
        write_atomic(tmp_path / "round", b"")


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_new_files_follow_the_umask(tmp_path, umask):
    script = f"import os; os.umask({umask}); from controlrnn.records import write_atomic; write_atomic('f', b'x')"
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=env, check=True)
    assert mode(tmp_path / "f") == 0o666 & ~umask


@pytest.mark.parametrize("before", [0o600, 0o640, 0o664, 0o444])
def test_existing_permissions_are_kept_and_never_wider_in_between(tmp_path, before, monkeypatch):
    target, seen = tmp_path / "f", []
    target.write_bytes(b"old")
    target.chmod(before)
    real = os.fsync

    def spying(handle: int) -> None:
        seen.append(stat.S_IMODE(os.fstat(handle).st_mode))
        real(handle)

    monkeypatch.setattr(os, "fsync", spying)
    write_atomic(target, b"new")
    assert mode(target) == before
    assert seen[0] & ~before == 0
    assert target.read_bytes() == b"new"


def test_names_of_any_length_that_the_system_takes(tmp_path):
    longest = "x" * 255
    write_atomic(tmp_path / longest, b"x")
    assert [p.name for p in tmp_path.iterdir()] == [longest]
    with pytest.raises(StorageError, match="name is too long"):
        write_atomic(tmp_path / (longest + "x"), b"x")


def test_a_full_disk_is_named_and_leaves_the_old_file(tmp_path, monkeypatch):
    write_atomic(tmp_path / "f", b"old")
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(StorageError, match=r"cannot write .*f: the disk is full: make room") as caught:
        write_atomic(tmp_path / "f", b"new")
    assert caught.value.errno == errno.ENOSPC
    assert isinstance(caught.value, OSError)
    assert (tmp_path / "f").read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["f"]


def test_no_permission_and_folders_in_the_way_are_named(tmp_path, monkeypatch):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    for name, match in (("folder", "it is a folder"), ("file/x", "is a file"), ("pipe", "a device or a pipe")):
        with pytest.raises(StorageError, match=match):
            write_atomic(tmp_path / name, b"")
        with pytest.raises((StorageError, FileFormatError)):
            read_record(tmp_path / name)

    def denied(*_args: object, **_more: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(os, "open", denied)  # the administrator, who may run this, is never denied anything
    with pytest.raises(StorageError, match="permission denied: choose another folder"):
        write_atomic(tmp_path / "new", b"")


def data() -> Dataset:
    rng = np.random.default_rng(0)
    u = rng.standard_normal((60, 1))
    return Dataset(train=(Trajectory(u, 0.5 * np.roll(u, 1, axis=0), 1.0),))


@pytest.mark.parametrize("refine", ["none", "lbfgs"])
def test_training_goes_on_when_its_checkpoint_cannot_be_written(tmp_path, monkeypatch, caplog, refine):
    options = {"steps": 6, "validate_every": 2, "window": 30, "batch_size": 2, "refine": refine, "refine_steps": 3}
    expected = identify(Elman(nu=1, ny=1, nx=2), data(), **options)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full_disk)
        found = identify(Elman(nu=1, ny=1, nx=2), data(), checkpoint=tmp_path / "c.npz", **options)
    assert found.status is FitStatus.FINISHED
    assert len(found.history["step"]) == len(expected.history["step"])
    assert "the disk is full" in caplog.text
    assert "training goes on" in caplog.text
    assert not list(tmp_path.iterdir())


def test_studies_go_on_when_their_rows_cannot_be_kept(tmp_path, monkeypatch, capsys):
    study = Study("s", quick=True, seed=0, out=tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full_disk)
        assert study.row("one", lambda: {"x": 1})["x"] == 1
    assert "the disk is full" in capsys.readouterr().out
    study.row("two", lambda: {"x": 2})
    assert study.finish() == 0
    # The first row was written with the second one.
    again = Study("s", quick=True, seed=0, out=tmp_path)
    assert [again.row(key, lambda: {"x": 3})["x"] for key in ("one", "two")] == [1, 2]
