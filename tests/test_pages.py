"""What the pages say is true: every block of Python runs, every command, link and test that is named exists."""

import builtins
import contextlib
import io
import re
import shlex
import tokenize
from pathlib import Path
from unittest import SkipTest
from urllib.parse import urlparse

import pytest
from sybil import Sybil
from sybil.parsers.markdown import CodeBlockParser, PythonCodeBlockParser, SkipParser

from controlrnn.command.app import main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = {
    p.relative_to(ROOT).as_posix(): p.read_text()
    for p in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md")))
    if "_build" not in p.parts
}
# Names on the pages that no code uses: a section of docstrings, an extra.
ALSO = {"Raises", "audit", "opcua"}
FENCE = re.compile(r"^ *```([^\n]*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


def with_code(pages):
    for page in pages:
        runs = "```python" in PAGES[page] or re.search(r"^controlrnn ", PAGES[page], re.MULTILINE)
        if runs and page != "README.md":  # that one runs in test_readme.py
            yield page


def run_console(example):
    """Run the lines of a console block that call our command; ``# exit 4`` behind a call is the code that it ends with.

    The others are looked at by `test_blocks_say_what_they_are`.
    """
    for line in example.parsed.splitlines():
        call, _, said = line.partition("#")
        if not call.startswith("controlrnn "):
            continue
        words, _, target = call.partition(">")
        expected = re.search(r"exit (\d+)", said)
        shown = io.StringIO()
        with contextlib.redirect_stdout(shown), pytest.raises(SystemExit) as end:
            main(shlex.split(words)[1:])
        assert (end.value.code or 0) == (int(expected[1]) if expected else 0), line
        if target.strip():
            Path(target.strip()).write_text(shown.getvalue())


@pytest.mark.parametrize("page", list(with_code(PAGES)))
def test_code_on_the_page_runs(page, tmp_path, monkeypatch):
    """Block after block, in one namespace. What cannot run says why: ``<!-- skip: next "reason" -->``."""
    monkeypatch.chdir(tmp_path)
    ran, reasons = 0, []
    parsers = [PythonCodeBlockParser(), CodeBlockParser(language="console", evaluator=run_console), SkipParser()]
    for example in Sybil(parsers=parsers).parse(ROOT / page).examples():
        try:
            example.evaluate()
            ran += 1
        except SkipTest as skipped:
            reasons.append(str(skipped))
    assert ran
    assert all(len(reason) > 10 for reason in reasons), reasons


@pytest.mark.parametrize("page", PAGES)
def test_blocks_say_what_they_are(page):
    for language, text in FENCE.findall(PAGES[page]):
        assert language in {"python", "console", "text"} or language.startswith("{"), f"{page}: ```{language}"
        if language == "console":
            for line in text.splitlines():
                assert_there_is(line.split("#")[0].strip(), page)
                if line.startswith("controlrnn "):
                    assert page == "README.md" or page in RUN, f"{page}: {line} is run by no test"
    assert len(re.findall(r"^ *```", PAGES[page], re.MULTILINE)) == 2 * len(FENCE.findall(PAGES[page])), page


def assert_there_is(command, page):
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    extras = re.findall(r"^(\w+) =$", (ROOT / "setup.cfg").read_text(), re.MULTILINE)
    for target in re.findall(r"(?:^|&& )make ([\w-]+)", command):
        assert target in targets, f"{page}: make {target}"
    for extra in re.findall(r"controlrnn\[(\w+)\]", command):
        assert extra in extras, f"{page}: {command}"
    for module in re.findall(r"python -m (experiments\.\w+)", command):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or path.is_dir(), f"{page}: {command}"
    words = ("make", "pip install", "python -m", "export", ". .venv", ".ci/run", "uv pip", "controlrnn ")
    assert not command or re.sub(r"^[A-Z_]+=\S+ ", "", command).startswith(words), f"{page}: what is {command!r}?"


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_names_exists(page):
    text = PAGES[page]
    for link in re.findall(r"\]\(([^)\s#]+)(?:#[^)]*)?\)", text):
        address = urlparse(link)
        if address.scheme:
            assert address.scheme == "https", f"{page}: {link}"
            assert "." in address.netloc, f"{page}: {link}"
        else:
            assert (ROOT / page).parent.joinpath(link).exists(), f"{page}: {link}"
    for test in re.findall(r"`(test_\w+)`", text):
        there = re.search(rf"def {test}\(", TESTS) or any((ROOT / "tests").rglob(f"{test}.py"))
        assert there, f"{page}: there is no {test}"
    for path in re.findall(r"`((?:controlrnn|experiments|mpc|plants|tests)/[\w/.]*)`", FENCE.sub("", text)):
        assert (ROOT / path).exists(), f"{page}: {path}"
    for module in re.findall(r"experiments\.(\w+)`", text):
        path = ROOT / "experiments" / module
        assert path.with_suffix(".py").exists() or path.is_dir() or module == "NAME", f"{page}: {module}"


def identifiers():
    """Every name that the code of the library, its studies and its tests uses, and every word of the C templates."""
    found = set()
    for folder in ("controlrnn", "mpc", "plants", "experiments", "tests"):
        for file in (ROOT / folder).rglob("*.py"):
            for token in tokenize.generate_tokens(io.StringIO(file.read_text()).readline):
                if token.type == tokenize.NAME or re.fullmatch(r"""["']\w+["']""", token.string):
                    found.add(token.string.strip("\"'"))
        for file in (ROOT / folder).rglob("*.[ch]"):
            found |= set(re.findall(r"\w+", file.read_text()))
    return found | {p.stem for p in ROOT.glob("*/**/*.py")} | set(dir(builtins)) | ALSO


def test_names_on_the_pages_are_names_in_the_code():
    """Inline code that looks like Python: each of its names is one, so that no page speaks of what was renamed."""
    known, stale = identifiers(), []
    for page, text in PAGES.items():
        for code in re.findall(r"(?<!`)`([^`\n]+)`(?!`)", FENCE.sub("", text)):
            if re.fullmatch(r"[A-Za-z_]\w*(\.\w+)*(\(.*\))?", code) and not code.endswith(
                (".md", ".cfg", ".npz", ".py")
            ):
                stale += [
                    f"{page}: {code}"
                    for name in code.split("(")[0].split(".")
                    if name.removeprefix("NAME_") not in known
                ]
    assert not stale, "\n".join(stale)


RUN = set(with_code(PAGES))
TESTS = "".join(p.read_text() for p in sorted((ROOT / "tests").rglob("test_*.py")))
