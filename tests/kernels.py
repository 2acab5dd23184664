"""Other processors on this one: environments in which OpenBLAS and numpy choose what they would choose there.

Matrix products of Haswell (AVX2), Sandybridge (AVX), Nehalem (SSE) and SkylakeX (AVX-512) add in different orders, and
numpy's tanh and exp differ in their last bits with the instructions they may use. (In the OpenBLAS of numpy's wheels
the cores called Zen run Haswell's kernels.) What is made in one environment and used in another has changed processor.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

ROOT = Path(__file__).parents[1]
_AVX512 = any(on and (name.startswith("AVX512") or name == "X86_V4") for name, on in __cpu_features__.items())
# The most different ones first: where three are enough, these are taken.
KERNELS = ("Sandybridge", "Haswell", *(["SkylakeX"] if _AVX512 else []), "Nehalem")
REASON = "" if platform.machine() in ("x86_64", "AMD64") else f"{platform.machine()} has other kernels than x86-64"


def environment(kernel: str, threads: int = 1) -> dict[str, str]:
    """Variables for a subprocess that computes as a processor of the kind ``kernel`` does."""
    modern = {"SkylakeX": 3, "Haswell": 2}.get(kernel, 1)
    absent = [f for f in __cpu_dispatch__ if __cpu_features__[f] and _generation(f) > modern]
    paths = [str(ROOT / name) for name in (".", "tests", "tests/mpc", "tests/contracts")]
    return os.environ | {
        "OPENBLAS_CORETYPE": kernel, "OMP_NUM_THREADS": str(threads), "OPENBLAS_NUM_THREADS": str(threads),
        "NPY_DISABLE_CPU_FEATURES": " ".join(absent), "ATEN_CPU_CAPABILITY": "avx2" if modern >= 2 else "default",
        "PYTHONPATH": os.pathsep.join(paths), "PYTHONWARNINGS": "error",
    }  # fmt: skip


def run_under(jobs: Sequence[tuple[Sequence[str], str, int]]) -> list[str]:
    """What Python prints, two at a time, for each of ``jobs``: arguments, kernel, threads. Fails where one fails."""
    printed: list[str] = []
    for pair in (jobs[i : i + 2] for i in range(0, len(jobs), 2)):
        runs = [
            subprocess.Popen(
                [sys.executable, *arguments],
                env=environment(kernel, threads),
                text=True,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            for arguments, kernel, threads in pair
        ]
        outputs = [run.communicate() for run in runs]
        for run, (_, errors), (_, kernel, threads) in zip(runs, outputs, pair, strict=True):
            assert run.returncode == 0, f"under {kernel} with {threads} threads: {errors[-4000:]}"
        printed += [output for output, _ in outputs]
    return printed


def _generation(feature: str) -> int:
    """3: AVX-512, 2: AVX2 and fused products, 1: before."""
    if feature.startswith("AVX512") or feature == "X86_V4":
        return 3
    return 2 if feature in ("X86_V3", "AVX2", "FMA3", "F16C", "FMA4", "XOP") else 1


if __name__ == "__main__":
    sys.stdout.write(" ".join(KERNELS) + "\n")
