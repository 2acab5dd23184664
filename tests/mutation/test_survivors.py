"""The list of survivors: every entry is of code that is there, and complaints are made where it is wrong."""

import ast
from pathlib import Path

import pytest
from by_hand import MUTANTS
from survivors import ARROW, change_of, complaints, function_of, listed, named

ROOT = Path(__file__).parents[2]
KNOWN = listed()


def function(name: str) -> str:
    """Text of a function as mutmut's mutants have it: without decorators."""
    parts = name.split(".")
    depth = next(i for i in range(len(parts), 0, -1) if (ROOT / Path(*parts[:i])).with_suffix(".py").is_file())
    found: ast.AST = ast.parse((ROOT / Path(*parts[:depth])).with_suffix(".py").read_text())
    for part in parts[depth:]:
        found = next(n for n in ast.iter_child_nodes(found) if getattr(n, "name", "") == part)
    assert isinstance(found, ast.FunctionDef)
    found.decorator_list = []
    return ast.unparse(found)


@pytest.mark.parametrize("name", sorted({name for name, _ in KNOWN}))
def test_what_is_listed_is_still_in_the_code(name):
    text = " ".join(function(name).replace(f"def {name.rpartition('.')[2]}(", "def f(").split())
    for of, change in KNOWN:
        if of == name:
            for line in change.partition(ARROW)[0].split(" / ") if " / " not in text else [change.partition(ARROW)[0]]:
                assert line.strip("…") in text, change


def test_every_entry_has_a_reason():
    assert all(len(why) >= 8 for why in KNOWN.values())


def test_changes_are_named_by_what_they_change():
    assert function_of("mpc.a.x__b__mutmut_3") == "mpc.a._b"
    assert function_of("mpc.a.xǁCǁ__init____mutmut_12") == "mpc.a.C.__init__"
    long = "def f():\n    return call(" + ", ".join(f"argument_{i}" for i in range(20)) + ")"
    short = change_of("def f():\n    a = 1\n    return a", "def f():\n    a = 2\n    return a")
    assert short == "a = 1 ==> a = 2"
    cut = change_of(long, long.replace("argument_7,", "None,"))
    assert cut == (
        "…_3, argument_4, argument_5, argument_6, argument_7, argument_8, argument_9, argument_10, a… ==> "
        "…_3, argument_4, argument_5, argument_6, None, argument_8, argument_9, argument_10, a…"
    )
    texts = {"m.x_f__mutmut_10": ("a = 1\na = 1", "a = 1\na = 2"), "m.x_f__mutmut_9": ("a = 1\na = 1", "a = 2\na = 1")}
    assert named(texts) == {
        "m.x_f__mutmut_9": ("m.f", "a = 1 ==> a = 2"),
        "m.x_f__mutmut_10": ("m.f", "a = 1 ==> a = 2 (2)"),
    }


def test_survivors_without_an_entry_and_entries_without_a_survivor_are_named():
    made = {"m.x_f__mutmut_1": ("m.f", "a ==> b"), "m.x_f__mutmut_2": ("m.f", "a ==> 'c'")}
    survived, killed = ["m.x_f__mutmut_2"], ["m.x_f__mutmut_1"]
    entry = '[[survivor]]\nfunction = "m.f"\nwhy = ""\nchanges = [\n  "a ==> \'c\'",\n]\n'
    assert complaints(made, survived, killed, {}) == [entry]
    right = {("m.f", "a ==> 'c'"): "equal"}
    assert complaints(made, survived, killed, right) == []
    assert complaints(made, survived, killed, right | {("m.f", "a ==> b"): ""}) == [
        "listed, but noticed by a test: m.f: a ==> b"
    ]
    assert complaints(made, survived, killed, right | {("m.g", "a ==> b"): "", ("n.g", "a ==> b"): ""}) == [
        "listed, but there is no such mutant: m.g: a ==> b"
    ]


@pytest.mark.parametrize("one", MUTANTS, ids=lambda one: one.name)
def test_changes_by_hand_still_apply(one):
    assert (ROOT / one.file).read_text().count(one.before) == 1
    assert one.after != one.before
    assert next((ROOT / "tests").rglob(f"{one.tests}.py"))
