"""Description of this machine's arithmetic: processor, linear algebra library, its kernel, and their rounding.

Two processors, or two kernels of one library, round the last bits of a matrix product or a tanh differently. The same
seed gives the same result where `arithmetic` says the same; elsewhere results agree up to rounding, which long training
and chaotic loops may blow up.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import platform
import sys
from pathlib import Path
from typing import Any

import numpy as np

_CORE_NAMES = ("scipy_openblas_get_corename64_", "scipy_openblas_get_corename", "openblas_get_corename")


@functools.cache
def arithmetic() -> dict[str, str]:
    """Describe this machine's arithmetic: processor and library by name, and a digest of what they compute.

    Returns:
        ``processor``: its name; ``library``: numpy's linear algebra library with version and kernel, and torch's
        instructions where torch is loaded; ``bits``: the digest of a short calculation. Two machines that agree in
        ``library`` and ``bits`` repeat each other's results.
    """
    torch = sys.modules.get("torch")
    library = _library() + ("" if torch is None else f"; torch {torch.__version__} {_capability(torch)}")
    return {"processor": processor(), "library": f"numpy {np.__version__}, {library}", "bits": _bits(torch)}


def same_arithmetic(one: dict[str, str], other: dict[str, str]) -> bool:
    """Whether two machines repeat each other's results to the last bit, from what `arithmetic` says of each."""
    return all(one.get(part) == other.get(part) for part in ("library", "bits"))


@functools.cache
def processor() -> str:
    """Name of the processor, as the operating system reports it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
        named = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Model"))]
    except OSError:
        named = []
    return (named[0] if named else platform.processor()) or platform.machine()


def _library() -> str:
    """Linear algebra library that numpy was built with: name, version, and the kernel it chose for this processor."""
    config: Any = np.show_config(mode="dicts")
    blas = config.get("Build Dependencies", {}).get("blas", {})
    return f"{blas.get('name', 'unknown')} {blas.get('version', '')} {_kernel()}".strip()


def _kernel() -> str:
    """Name of the OpenBLAS kernel in use; "" for another library."""
    package = Path(np.__file__).parent
    folders = (package.parent / "numpy.libs", package / ".dylibs", package / ".libs")
    for path in (p for folder in folders for p in sorted(folder.glob("*openblas*"))):
        try:
            library = ctypes.CDLL(str(path))  # loaded already: this only finds it
        except OSError:
            continue
        for name in _CORE_NAMES:
            if hasattr(library, name):
                ask = getattr(library, name)
                ask.restype = ctypes.c_char_p
                return (ask() or b"").decode(errors="replace")
    return ""


def _capability(torch: Any) -> str:
    """Instruction set that torch uses on this processor, e.g. ``AVX2``."""
    return str(torch.backends.cpu.get_cpu_capability())


def _bits(torch: Any) -> str:
    """Digest of products, functions and a factorisation of fixed numbers, in both precisions."""
    n = 37  # not a multiple of any vector register's length
    # Multiples of the golden ratio modulo 1: fixed numbers that fill [-0.5, 0.5] without a random generator.
    base = np.modf(np.arange(1.0, n * n + 1) * 0.6180339887498949)[0].reshape(n, n) - 0.5
    sha = hashlib.sha256()
    for kind in (np.float64, np.float32):
        M: Any = base.astype(kind)
        for result in (M @ M, M @ M[0], np.tanh(8 * M), np.exp(M), np.linalg.cholesky(M @ M.T + np.eye(n, dtype=kind))):
            sha.update(np.ascontiguousarray(result).tobytes())
        if torch is not None:
            T = torch.tensor(M)
            for tensor in (
                T @ T,
                torch.tanh(8 * T),
                T.sum(0),
                torch.linalg.solve(T + 9 * torch.eye(n, dtype=T.dtype), T),
            ):
                sha.update(tensor.numpy().tobytes())
    return sha.hexdigest()[:16]
