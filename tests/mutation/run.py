"""Would the tests notice a change of the code? Runs mutmut over one set of files: ``python tests/mutation/run.py SET``.

A set is a section ``[mutmut.SET]`` of setup.cfg. mutmut knows one section and one folder only, so that each set gets a
copy of the working tree, ``mutants/SET``, in which its section is named ``[mutmut]``. Mutants that a stopped run has
judged keep their verdict as long as the copy stands: ``make clean`` removes it. After the names of mutants (patterns
as ``*.tube.*``) nothing else is run; these are judged anew.
"""

from __future__ import annotations

import ast
import configparser
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
NEEDED = ("controlrnn", "mpc", "plants", "experiments", "tests")


def workplace(name: str) -> Path:
    """A copy of the working tree for this set; files that have changed since are copied anew."""
    settings = configparser.ConfigParser(interpolation=None)
    settings.read(ROOT / "setup.cfg")
    if f"mutmut.{name}" not in settings:
        known = [section.removeprefix("mutmut.") for section in settings.sections() if section.startswith("mutmut.")]
        raise SystemExit(f"there is no set {name!r} of mutants in setup.cfg, only {', '.join(known)}")
    settings["mutmut"] = dict(settings[f"mutmut.{name}"])
    place = ROOT / "mutants" / name
    for folder in NEEDED:
        ignored = shutil.ignore_patterns("__pycache__", "*.pyc")
        shutil.copytree(ROOT / folder, place / folder, dirs_exist_ok=True, ignore=ignored)
    with (place / "setup.cfg").open("w") as file:
        settings.write(file)
    for pattern in settings["mutmut"]["only_mutate"].split():
        for file in place.glob(pattern):
            file.write_text(undecorated(file.read_text()))
            shutil.copystat(ROOT / file.relative_to(place), file)  # mutmut looks at the time to see what changed
    return place


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


def main(name: str, *patterns: str) -> int:
    """Run, then list what survived."""
    place = workplace(name)
    mutmut = [sys.executable, "-m", "mutmut"]
    ran = subprocess.run([*mutmut, "run", "--max-children", "1", *patterns], cwd=place, check=False).returncode
    subprocess.run([*mutmut, "results"], cwd=place, check=False)
    return ran


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
