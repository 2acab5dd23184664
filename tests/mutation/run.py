"""Would the tests notice a change of the code? ``python tests/mutation/run.py SET [--first] [PATTERN ..]``.

A set is a section ``[mutmut.SET]`` of setup.cfg: which files are changed, and which tests have to notice. mutmut makes
the mutants, in a copy of the working tree, ``mutants/SET``; `judge` runs the tests. Verdicts go to ``verdicts.jsonl``
there: they stand as long as function and tests are the same, so that a stopped run goes on. With
patterns (as ``*.tube.*``) only mutants of such names are judged, those of the first pattern first. ``beside`` in the
section names the tests of each file, so that a file's mutants have to be noticed by these. ``--first`` tries a fifth of
hypothesis' examples and brief tests, and leaves it at that. Prints the survivors that `survivors.toml` does not list
with a reason, and what it lists although a test notices it or there is no such mutant; fails where there is either.
"""

from __future__ import annotations

import ast
import configparser
import fnmatch
import functools
import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from pathlib import Path

import pytest
from alike import alike
from judge import Judge, Task
from survivors import complaints, listed, named

ROOT = Path(__file__).parents[2]
NEEDED = ("controlrnn", "mpc", "plants", "experiments", "tests")


def workplace(name: str, patterns: tuple[str, ...]) -> tuple[Path, configparser.SectionProxy]:
    """A copy of the working tree for this set, and the set's settings: of the files that patterns name, or of all."""
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(ROOT / "setup.cfg")
    if f"mutmut.{name}" not in settings:
        known = [section.removeprefix("mutmut.") for section in settings.sections() if section.startswith("mutmut.")]
        raise SystemExit(f"there is no set {name!r} of mutants in setup.cfg, only {', '.join(known)}")
    settings["mutmut"] = dict(settings[f"mutmut.{name}"])
    place = ROOT / "mutants" / name
    shutil.rmtree(place / "mutants", ignore_errors=True)
    for folder in NEEDED:
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(ROOT / folder, place / folder, dirs_exist_ok=True, ignore=ignored)
    files = [file for glob in settings["mutmut"]["only_mutate"].split() for file in sorted(place.glob(glob))]
    named = [file for file in files if any(f".{file.stem}." in pattern for pattern in patterns)] or files
    settings["mutmut"]["only_mutate"] = "\n".join(str(file.relative_to(place)) for file in named)
    with (place / "setup.cfg").open("w") as file:
        settings.write(file)
    for changed in named:
        changed.write_text(undecorated(changed.read_text()))
    return place, settings["mutmut"]


def undecorated(source: str) -> str:
    """The same code with decorators of functions applied below them: mutmut leaves out what is decorated."""
    lines, after = source.splitlines(), dict[int, list[str]]()
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.FunctionDef) or [ast.unparse(d) for d in node.decorator_list] == ["classmethod"]:
            continue
        call = node.name
        for decorator in reversed(node.decorator_list):
            lines[decorator.lineno - 1 : decorator.end_lineno] = [""] * (decorator.end_lineno - decorator.lineno + 1)
            call = f"{ast.unparse(decorator)}({call})"
        if node.decorator_list:
            after.setdefault(node.end_lineno, []).append(f"{' ' * node.col_offset}{node.name} = {call}")
    return "\n".join(text for i, line in enumerate(lines, 1) for text in (line, *after.get(i, ()))) + "\n"


def mutants(place: Path) -> dict[str, str]:
    """Make them all: name of each, and a digest of the function that it is of."""
    os.chdir(place)
    from mutmut import __main__ as mutmut  # reads setup.cfg there

    mutmut.copy_src_dir()
    mutmut.copy_also_copy_files()
    mutmut.create_mutants(1)
    found = {}
    for marks in sorted((place / "mutants").rglob("*.py.meta")):
        texts = functions(marks.with_suffix(""))
        for name in json.loads(marks.read_text())["exit_code_by_key"]:
            original = texts[f"{name.rpartition('.')[2].rpartition('__mutmut_')[0]}__mutmut_orig"]
            found[name] = hashlib.sha256(original.encode()).hexdigest()
    return found


def kept(verdicts: Path, task: Task) -> list[dict[str, str]]:
    """Verdicts of before that stand: of other mutants, and where function and tests are the same, or one noticed."""
    if not verdicts.exists():
        return []
    found = [json.loads(line) for line in verdicts.read_text().splitlines()]
    return [
        one
        for one in found
        if (name := one["name"]) not in task.sources
        or (one["source"] == task.sources[name] and (one["verdict"] == "killed" or one["tests"] == task.tests[name]))
    ]


def tests_beside(name: str, settings: configparser.SectionProxy) -> tuple[str, ...]:
    """Files or folders of tests that have to notice a mutant: those beside its file, or all of the set."""
    for line in settings.get("beside", "").strip().splitlines():
        file, _, tests = line.partition(":")
        if f".{file}." in name:
            return tuple(tests.split())
    return tuple(settings["pytest_add_cli_args_test_selection"].strip().splitlines())


@functools.cache
def digest(place: Path, tests: tuple[str, ...]) -> str:
    """SHA-256 of these tests."""
    files = [file for one in tests for file in (sorted((place / one).rglob("*.py")) or [place / one])]
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


@functools.cache
def functions(file: Path) -> dict[str, str]:
    """Texts of all functions of a file by name, each named f in its text."""
    found = [node for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)]
    return {node.name: ast.unparse(node).replace(f"def {node.name}(", "def f(", 1) for node in found}


def texts_of(place: Path, name: str) -> tuple[str, str]:
    """Texts of a function as it is, and as it is in a mutant."""
    module, _, function = name.rpartition(".")
    texts = functions((place / "mutants" / Path(*module.split("."))).with_suffix(".py"))
    return texts[f"{function.rpartition('__mutmut_')[0]}__mutmut_orig"], texts[function]


def main(name: str, *patterns: str) -> int:
    """Judge the mutants of a set; returns how many complaints there are about the list of survivors."""
    shares = (5,) if "--first" in patterns else (5, 1)
    patterns = tuple(one for one in patterns if one != "--first")
    place, settings = workplace(name, patterns)
    known = mutants(place)
    chosen = list(dict.fromkeys(one for pattern in patterns or ("*",) for one in fnmatch.filter(known, pattern)))
    made = len(chosen)
    chosen = [one for one in chosen if not alike(*texts_of(place, one))]
    beside = {one: tests_beside(one, settings) for one in chosen}
    marks = {one: f"{digest(place, beside[one])}/{shares[-1]}" for one in chosen}
    task = Task({one: known[one] for one in chosen}, beside, marks, place / "verdicts.jsonl", shares)
    before = kept(task.verdicts, task)
    task.verdicts.write_text("".join(json.dumps(one) + "\n" for one in before))

    os.chdir(place / "mutants")
    sys.path[:] = [str(place / "mutants"), *(part for part in sys.path if Path(part).resolve() != place)]
    arguments = ["-q", "-n", "0", "--rootdir=.", "--tb=native", "-p", "no:faulthandler"]
    arguments += settings["pytest_add_cli_args"].strip().splitlines()
    arguments += sorted({test for tests in beside.values() for test in tests})
    pytest.main(arguments, plugins=[Judge(task)])
    found = [one for one in map(json.loads, task.verdicts.read_text().splitlines()) if one["name"] in beside]
    killed = [one["name"] for one in found if one["verdict"] == "killed"]
    left = [one["name"] for one in found if one["verdict"] != "killed"]
    said = complaints(named({one: texts_of(place, one) for one in known}), left, killed, listed())
    print(*said, sep="\n")
    print(f"{made} mutants, {made - len(chosen)} of them alike, {dict(Counter(one['verdict'] for one in found))}")
    return len(said)


if __name__ == "__main__":
    raise SystemExit(min(main(*sys.argv[1:]), 1))
