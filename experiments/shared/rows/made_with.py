"""What a study's numbers depend on beside its options: packages, sources, arithmetic, threads, commit."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

import controlrnn
import experiments
import mpc
import plants
from controlrnn.arithmetic import arithmetic
from controlrnn.records import digest

_PACKAGES = ("controlrnn", "numpy", "scipy", "torch", "casadi", "cvxpy", "clarabel", "daqp", "do-mpc", "numba")


def environment() -> dict[str, Any]:
    """Describe versions, threads, commit, sources, processor and device, on which a study's numbers depend."""
    import torch

    return {
        "python": platform.python_version(), "platform": platform.platform(), "versions": package_versions(),
        "cpus": os.cpu_count(), "threads": torch.get_num_threads(), "commit": code_version(),
        "sources": sources(), **arithmetic(),
        "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else platform.processor() or "cpu",
    }  # fmt: skip


def made_with() -> dict[str, Any]:
    """Parts of the environment that every row depends on."""
    import torch  # noqa: F401  # so that `arithmetic` includes it

    here = arithmetic()
    return {
        "sources": sources(), "versions": package_versions(), "python": platform.python_version(),
        "library": here["library"], "bits": here["bits"],
    }  # fmt: skip


@functools.cache
def package_versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for package in _PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


@functools.cache
def sources() -> str:
    """Digest of all Python and C files of our packages as they are on disk."""
    sha = hashlib.sha256()
    for package in (controlrnn, mpc, plants, experiments):
        folder = Path(str(package.__file__)).parent
        for path in sorted(p for p in folder.rglob("*") if p.suffix in (".py", ".c", ".h")):
            content = path.read_bytes()
            sha.update(f"{folder.name}/{path.relative_to(folder).as_posix()}|{len(content)}|".encode())
            sha.update(content)
    return sha.hexdigest()


@functools.cache
def code_version() -> str | None:
    """Commit of the working tree, with a digest of local changes where there are any; None outside of git."""
    folder = Path(__file__).parent

    def git(*arguments: str) -> bytes:
        return subprocess.run(["git", *arguments], cwd=folder, capture_output=True, check=True).stdout

    try:
        commit, changes = git("rev-parse", "HEAD").decode().strip(), git("diff", "HEAD", "--", "*.py")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + (f"+{digest({'d': np.frombuffer(changes, np.uint8)}, {})[:8]}" if changes else "")
