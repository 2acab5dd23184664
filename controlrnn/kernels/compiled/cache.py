"""Compiled code on disk stands only for the sources that it was made from.

numba keeps compiled functions in `__pycache__` and looks at the time stamp of the file that a function is in, not at
those of the functions that it calls. So a change of one of ours would leave old code of its callers in use.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

HERE = Path(__file__).parent.parent


def forget_stale(folder: Path = HERE) -> bool:
    """Remove compiled code that other sources than the present ones made; returns whether there may have been some.

    Args:
        folder: Package whose Python files, with those below, call each other; each caches in its own `__pycache__`.
    """
    sha = hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        content = path.read_bytes()
        sha.update(f"{path.relative_to(folder).as_posix()}|{len(content)}|".encode() + content)
    mark = folder / "__pycache__" / "compiled_from.txt"
    with contextlib.suppress(OSError):  # a folder that cannot be written to holds no compiled code of ours either
        if mark.exists() and mark.read_text() == sha.hexdigest():
            return False
        for index in folder.rglob("__pycache__/*.nbi"):
            index.unlink(missing_ok=True)
        mark.parent.mkdir(exist_ok=True)
        mark.write_text(sha.hexdigest())
    return True
