"""The list of survivors, `survivors.toml`: mutants that no test notices, each with the reason why it is no hole.

A mutant is named by its function and by what it changes, as ``old ==> new``, so that an entry stays valid when code
moves. Of a long line only the changed part is quoted, with what stands around it. Where a function has several mutants
that read alike, the second is ``old ==> new (2)``.
"""

from __future__ import annotations

import difflib
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path

FILE = Path(__file__).with_name("survivors.toml")
ARROW = " ==> "
_LONG, _AROUND = 110, 40  # characters of a line, and of what is quoted of a longer one on either side

Mutant = tuple[str, str]  # function, change


def listed(file: Path = FILE) -> dict[Mutant, str]:
    """Survivors that are known, with the reason of each."""
    found: dict[Mutant, str] = {}
    for group in tomllib.loads(file.read_text())["survivor"]:
        for change in group["changes"]:
            if (group["function"], change) in found:
                raise ValueError(f"{group['function']} lists {change!r} twice")
            found[group["function"], change] = group["why"]
    return found


def function_of(name: str) -> str:
    """Dotted name of the function that a mutant of mutmut's name is of."""
    module, _, own = name.rpartition("__mutmut_")[0].rpartition(".")
    inner = own.removeprefix("xǁ").replace("ǁ", ".") if own.startswith("xǁ") else own.removeprefix("x_")
    return f"{module}.{inner}"


def change_of(original: str, mutated: str) -> str:
    """What differs between two texts of a function."""
    pairs: tuple[list[str], list[str]] = ([], [])
    for line in difflib.unified_diff(original.splitlines(), mutated.splitlines(), lineterm="", n=0):
        if line[:3] not in ("---", "+++") and line[0] in "-+":
            pairs[line[0] == "+"].append(" ".join(line[1:].split()))
    old, new = (" / ".join(lines) for lines in pairs)
    if max(len(old), len(new)) > _LONG:
        before = _alike(old, new)
        after = _alike(old[before:][::-1], new[before:][::-1])
        old, new = (_part(text, before, len(text) - after) for text in (old, new))
    return f"{old}{ARROW}{new}"


def _alike(one: str, other: str) -> int:
    """Number of characters at the start that two texts share."""
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _part(text: str, start: int, stop: int) -> str:
    start, stop = max(start - _AROUND, 0), min(max(start, stop) + _AROUND, len(text))
    return f"{'…' if start else ''}{text[start:stop]}{'…' if stop < len(text) else ''}"


def named(texts: Mapping[str, tuple[str, str]]) -> dict[str, Mutant]:
    """Function and change of each mutant.

    Args:
        texts: Texts of the function as it is and as it is in the mutant, by mutmut's name; all mutants of a function.
    """
    seen: Counter[Mutant] = Counter()
    found = {}
    for name in sorted(texts, key=lambda n: (n.rpartition("_")[0], int(n.rpartition("_")[2]))):
        mutant = function_of(name), change_of(*texts[name])
        seen[mutant] += 1
        found[name] = (mutant[0], mutant[1] + (f" ({seen[mutant]})" if seen[mutant] > 1 else ""))
    return found


def complaints(
    made: Mapping[str, Mutant], survived: Iterable[str], killed: Iterable[str], known: Mapping[Mutant, str]
) -> list[str]:
    """What is wrong with the list: survivors that it lacks, as entries to fill in, and what it should not hold.

    Args:
        made: All mutants of the files that were looked at, by mutmut's name.
        survived: Names of those that no test noticed.
        killed: Names of those that a test noticed.
        known: The list.
    """
    lacking: dict[str, list[str]] = {}
    for name in survived:
        if made[name] not in known:
            lacking.setdefault(made[name][0], []).append(made[name][1])
    said = [_entry(function, changes) for function, changes in sorted(lacking.items())]
    said += [f"listed, but noticed by a test: {': '.join(made[name])}" for name in killed if made[name] in known]
    modules, mutants = {name.rpartition(".")[0] for name in made}, set(made.values())
    return said + [
        f"listed, but there is no such mutant: {': '.join(one)}"
        for one in known
        if any(one[0].startswith(f"{module}.") for module in modules) and one not in mutants
    ]


def _entry(function: str, changes: list[str]) -> str:
    lines = "".join(f"  {_quoted(change)},\n" for change in changes)
    return f'[[survivor]]\nfunction = "{function}"\nwhy = ""\nchanges = [\n{lines}]\n'


def _quoted(text: str) -> str:
    if "'" not in text:
        return f"'{text}'"
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
