"""Whether the packages beside this one are ours: others are called ``mpc`` and ``plants``, too, and would hide them."""

from __future__ import annotations

import importlib.util
import os

from controlrnn.errors import ForeignPackageError

# Our packages beside this one, and a file of each that no other has.
OURS = {"mpc": "tightening/tightening.py", "plants": "mass_spring_damper.py"}


def refuse_foreign() -> None:
    """Raise ForeignPackageError where ``mpc`` or ``plants`` is another package than ours, or was written over it.

    Without any package of the name nothing is said: what needs it says so.
    """
    for name, file in OURS.items():
        try:
            found = importlib.util.find_spec(name)
        except ValueError:  # made by hand, as some test tools do
            continue
        if found is None or found.origin is None:
            continue
        if not os.path.isfile(found.origin):  # inside of an archive
            continue
        if not _is_ours(found.origin, file):
            raise ForeignPackageError(
                f"{name!r} is {found.origin}, which is not the package of controlrnn with that name, and hides it: "
                f"rename it if it is yours; if it came from a package index, `pip uninstall {name}` and then "
                "`pip install --force-reinstall --no-deps controlrnn`",
                name=name,
                path=found.origin,
            )


def _is_ours(origin: str, file: str) -> bool:
    """Whether a package has our file, and still our first one: a package written over ours replaces that."""
    if os.path.basename(origin) != "__init__.py" or not os.path.isfile(os.path.join(os.path.dirname(origin), file)):
        return False
    with open(origin, encoding="utf-8", errors="replace") as stream:
        return "from controlrnn" in stream.read()
