"""Counts every BLAS and LAPACK routine that numpy or scipy enter: a library that is loaded first and passes calls on.

It defines each OpenBLAS symbol that their extension modules import, as a counter and a jump to the real routine, so
that arguments and results are left alone. x86-64 Linux with a C compiler and wheels that bring OpenBLAS, else it does
not apply. Thresholds play no part: also a call too small to wake a thread counts.
"""

from __future__ import annotations

import ctypes
import os
import platform
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import scipy

_LIBRARY = "CONTROLRNN_BLAS_CALLS"
_SOURCE = """#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#define N {n}
const char *names[N] = {{ {names} }};
void *real_routine[N];
unsigned long calls[N];
__attribute__((constructor)) static void load(void)
{{
    const char *paths[] = {{ {paths} }};
    for (unsigned p = 0; p < sizeof paths / sizeof *paths; ++p) {{
        void *library = dlopen(paths[p], RTLD_NOW | RTLD_LOCAL);
        for (int i = 0; library && i < N; ++i)
            if (!real_routine[i]) real_routine[i] = dlsym(library, names[i]);
    }}
}}
"""
_JUMP = """    .globl {name}
{name}:
    lock incq calls+{at}(%rip)
    jmp *real_routine+{at}(%rip)
"""


def missing() -> str:
    """Why calls cannot be counted here; empty where they can."""
    if platform.system() != "Linux" or platform.machine() != "x86_64":
        return "calls are counted on x86-64 Linux"
    tools = [tool for tool in ("gcc", "nm") if shutil.which(tool) is None]
    return f"needs {tools}" if tools else "" if _libraries() else "numpy and scipy bring no OpenBLAS of their own"


def environment(folder: Path) -> dict[str, str]:
    """Build the library in ``folder``; what a Python process needs in its environment to count."""
    names = sorted(_imported())
    parts = {"n": len(names), "names": ", ".join(f'"{n}"' for n in names)}
    parts["paths"] = ", ".join(f'"{path}"' for path in _libraries())
    (folder / "calls.c").write_text(_SOURCE.format(**parts))
    jumps = "".join(_JUMP.format(name=name, at=8 * i) for i, name in enumerate(names))
    (folder / "jumps.s").write_text(f'    .text\n{jumps}    .section .note.GNU-stack,"",@progbits\n')
    library = folder / "calls.so"
    # Bound within the library: the jumps must use its own tables.
    flags = ["-shared", "-fPIC", "-O1", "-Wl,-Bsymbolic"]
    subprocess.run(["gcc", *flags, "-o", library, folder / "calls.c", folder / "jumps.s", "-ldl"], check=True)
    (folder / "names").write_text("\n".join(names))
    return os.environ | {"LD_PRELOAD": str(library), _LIBRARY: str(folder)}


class Calls:
    """Calls since the last look; only in a process that was started with `environment`."""

    def __init__(self) -> None:
        folder = Path(os.environ[_LIBRARY])
        self._names = (folder / "names").read_text().split()
        library = ctypes.CDLL(str(folder / "calls.so"))
        self._calls = (ctypes.c_ulong * len(self._names)).in_dll(library, "calls")
        self._before = list(self._calls)

    def look(self) -> Counter[str]:
        """Routines entered since the last look."""
        now = list(self._calls)
        found = Counter({n: b - a for n, a, b in zip(self._names, self._before, now, strict=True) if b > a})
        self._before = now
        return found


def _libraries() -> list[Path]:
    folders = [Path(package.__file__).parent.with_name(f"{package.__name__}.libs") for package in (np, scipy)]
    return [path for folder in folders for path in sorted(folder.glob("libscipy_openblas*.so*"))]


def _imported() -> set[str]:
    modules = [p for package in (np, scipy) for p in Path(package.__file__).parent.rglob("*.so")]
    listed = subprocess.run(["nm", "-D", "--undefined-only", *modules], capture_output=True, text=True, check=True)
    names = {line.split()[-1] for line in listed.stdout.splitlines() if line.split()[-1:]}
    return {name for name in names if name.startswith("scipy_") and not name.startswith("scipy_openblas")}
