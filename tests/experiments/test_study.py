import json
import os
import signal
import time
import types
from functools import partial

import numpy as np
import pytest
from matplotlib.figure import Figure

from experiments.shared.rows import made_with as _made_with
from experiments.shared.rows.tables import plain, table, tables
from experiments.shared.study import Study


def study(out, *options):
    return Study.from_command_line("demo", "A study.", ["--out", str(out), *options])


def test_results_hold_environment_rows_and_targets(tmp_path, capsys):
    run = study(tmp_path, "--seed", "7")
    run.row("a", lambda: {"rmse": np.float64(0.25), "bad": np.nan, "list": np.arange(2)})
    run.target("rmse", "<= 0.1", np.float64(0.25), np.bool_(False))
    run.figure("empty", Figure())
    assert run.finish(note="x") == 0  # a missed target is a result, not an error
    results = json.loads((tmp_path / "results.json").read_text())
    (row,) = results["rows"]
    assert (row["case"], row["rmse"], row["bad"], row["list"]) == ("a", 0.25, None, [0, 1])
    assert results["targets"] == {"rmse": {"target": "<= 0.1", "value": 0.25, "met": False}}
    assert {"versions", "threads", "commit", "device"} <= set(results["environment"])
    assert (results["seed"], results["note"]) == (7, "x")
    assert (tmp_path / "empty.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "table.md").read_text().strip() in capsys.readouterr().out


def test_a_stopped_study_goes_on_where_it_was(tmp_path):
    calls = []

    def compute(name):
        calls.append(name)
        (tmp_path / name).touch()
        if name == "b" and len(calls) == 2:
            raise RuntimeError("power cut")
        return {"value": len(calls)}

    def run(*options, needs=None):
        current = study(tmp_path, *options)
        return [current.row(n, lambda n=n: compute(n), needs=needs, files=[n])["value"] for n in "ab"]

    with pytest.raises(RuntimeError, match="power cut"):
        run()
    assert run() == [1, 3]
    assert calls == ["a", "b", "b"]
    assert run() == [1, 3]
    (tmp_path / "a").unlink()
    assert run() == [4, 3]  # its file is gone
    assert run(needs={"steps": 3}) == [5, 6]
    assert run("--seed", "1") == [7, 8]
    assert run("--seed", "1", "--fresh") == [9, 10]
    for path in (tmp_path / "rows").iterdir():
        path.write_bytes(path.read_bytes()[:-40])
    assert run("--seed", "1") == [11, 12]


def test_arrays_stay_until_what_they_depend_on_changes_and_a_crash_leaves_no_part(tmp_path, monkeypatch):
    computed = []

    def arrays():
        computed.append(1)
        return {"y": np.arange(3.0) + len(computed)}

    for current in (study(tmp_path), study(tmp_path)):
        np.testing.assert_array_equal(current.arrays("experiments", arrays, needs=1)["y"], [1.0, 2.0, 3.0])
    np.testing.assert_array_equal(current.arrays("experiments", arrays, needs=2)["y"], [2.0, 3.0, 4.0])
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        current.arrays("experiments", arrays, needs=3)
    monkeypatch.undo()
    np.testing.assert_array_equal(current.arrays("experiments", arrays, needs=3)["y"], [4.0, 5.0, 6.0])


def test_without_a_size_the_long_version_runs_and_both_are_none(tmp_path, capsys):
    assert study(tmp_path, "--quick").quick
    assert not study(tmp_path).quick
    assert not study(tmp_path, "--full").quick
    with pytest.raises(SystemExit):
        study(tmp_path, "--quick", "--full")
    assert "not allowed with" in capsys.readouterr().err


def test_two_rows_need_two_names(tmp_path):
    run = study(tmp_path)
    run.row("a", dict)
    with pytest.raises(ValueError, match="name of its own"):
        run.row("a", dict)


def test_table_and_plain_values():
    rows = [{"a": 1.23456, "b": True, "pair": [1.0, 2.5], "long": [1] * 5, "nested": {}}, {"a": None, "c": "x"}]
    assert [line.replace(" ", "") for line in table(rows).splitlines()] == [
        "|a|b|pair|c|",
        "|-------|-----|-------|---|",
        "|1.235|yes|12.5|-|",
        "|-|-|-|x|",
    ]
    several = tables([{"a": 1}, {"b": 2}, {"a": 3}])
    assert [block.splitlines()[0].strip("| ") for block in several.split("\n\n")] == ["a", "b"]
    assert plain({"a": (np.float32(1), np.inf), "b": {"c": np.bool_(True)}}) == {"a": [1.0, None], "b": {"c": True}}


@pytest.mark.parametrize(
    ("options", "pieces"),
    [
        (["--out", "FILE/below"], ["--out", "folder that can be written to", "FILE/below"]),
        (["--seed", "-1"], ["--seed", ">= 0", "got -1"]),
        (["--seed", "one"], ["--seed", "'one'"]),
        (["--fast"], ["--fast"]),
        (["--workers", "0"], ["--workers", "from 1 to 4096", "got 0"]),
        (["--workers", "2", "--scheduler", "tcp://h:1"], ["--workers", "--scheduler"]),
    ],
)
def test_a_wrong_command_line_says_what_is_wrong_before_any_work(options, pieces, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "FILE").write_text("in the way")
    with pytest.raises(SystemExit) as ended:
        Study.from_command_line("demo", "A study.", options)
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert all(piece in said for piece in pieces)
    assert [p.name for p in tmp_path.iterdir()] == ["FILE"]


def test_a_row_that_was_interrupted_is_not_stored_whatever_became_of_the_interrupt(tmp_path):
    def goes_on_regardless():
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            return {"value": "half-trained"}
        return {"value": "not interrupted"}

    run, before = study(tmp_path), signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        run.row("a", goes_on_regardless)
    assert signal.getsignal(signal.SIGINT) is before
    assert run.rows == []
    assert study(tmp_path).row("a", lambda: {"value": "whole"})["value"] == "whole"
    assert study(tmp_path).row("a", goes_on_regardless)["value"] == "whole"


def test_rows_know_what_they_were_made_with(tmp_path, monkeypatch):
    def value(new):
        return study(tmp_path).row("a", lambda: {"value": new})["value"]

    assert [value(1), value(2)] == [1, 1]
    here = _made_with.arithmetic()
    for n, part in enumerate(("library", "bits"), 10):
        monkeypatch.setattr(_made_with, "arithmetic", lambda part=part: here | {part: "another"})
        assert [value(n), value(0)] == [n, n]
    monkeypatch.setattr(_made_with, "arithmetic", lambda: here | {"processor": "one"})
    assert value(20) == 1  # of the first machine, which is kept
    monkeypatch.setattr(_made_with, "arithmetic", lambda: here | {"processor": "another that computes the same"})
    assert value(0) == 1
    monkeypatch.setattr(_made_with, "package_versions", lambda: {"numpy": "0.1"})
    assert value(30) == 30
    monkeypatch.setattr(_made_with, "sources", lambda: "changed")
    assert value(40) == 40


@pytest.mark.parametrize("file", ["new.py", "c/new.c", "c/new.h"])
def test_sources_are_what_is_on_disk_known_to_git_or_not(file, tmp_path, monkeypatch):
    package = types.ModuleType("package")
    package.__file__ = str(tmp_path / "__init__.py")
    (tmp_path / "c").mkdir()
    (tmp_path / "notes.txt").write_text("1")
    monkeypatch.setattr(_made_with, "mpc", package)
    before = _made_with.sources.__wrapped__()
    (tmp_path / "notes.txt").write_text("2")
    assert _made_with.sources.__wrapped__() == before
    (tmp_path / file).write_text("int x;")
    after = _made_with.sources.__wrapped__()
    assert after != before
    (tmp_path / file).write_text("int y;")
    assert _made_with.sources.__wrapped__() not in (before, after)


VALUES = [
    0.1 + 0.2,
    -0.0,
    5e-324,
    2**53 + 1,
    2**70,
    True,
    None,
    "text",
    [0.1, 1e300],
    [1, 2],
    [1, 0.5],
    [],
    {"a": [None]},
]


def test_values_come_back_as_what_they_were(tmp_path):
    """Also beside rows of other types, in one file or after files were gathered, and from a study that is resumed."""
    made = {f"{i}": {"value": value, "more": i} for i, value in enumerate(VALUES)} | {
        "none": {"value": None, "more": 1.5}
    }
    first = study(tmp_path)
    for key, row in made.items():
        first.row(key, lambda row=row: row)
    first.close()
    again = study(tmp_path)
    for key, row in made.items():
        found = again.row(key, lambda: {"value": "computed again"})
        assert repr([found["value"], found["more"]]) == repr([row["value"], row["more"]])
    assert len(list((tmp_path / "rows").iterdir())) < len(made)


def squares(base, n):
    return {"square": n * n + base}


def test_many_cases_become_rows_in_order_and_those_of_a_stream_do_not(tmp_path):
    cases = {f"n = {n}": (n,) for n in range(8)}
    first = study(tmp_path, "--workers", "1")
    half = dict(list(cases.items())[::2])
    first.each(partial(squares, 1), half, needs=1)
    first.close()
    again = study(tmp_path, "--workers", "1")
    rows = again.each(partial(squares, 100), cases, needs=1)  # needs do not say what the function holds
    assert [r["square"] for r in rows] == [n * n + (100 if n % 2 else 1) for n in range(8)]
    assert again.rows == rows
    streamed = study(tmp_path / "other", "--workers", "1")
    found = [r["square"] for r in streamed.stream(partial(squares, 0), ((str(n), (n,)) for n in range(2500)))]
    assert found == [n * n for n in range(2500)]
    assert streamed.rows == []
    streamed.close()
    assert streamed.computed == 2500
    assert len(list((tmp_path / "other" / "rows").iterdir())) == 1
    resumed = study(tmp_path / "other", "--workers", "1").stream(
        partial(squares, 7), ((str(n), (n,)) for n in range(2501))
    )
    assert [r["square"] for r in resumed] == [*found, 2500 * 2500 + 7]
    twice = study(tmp_path / "twice", "--workers", "1").stream(partial(squares, 0), [("a", (1,)), ("a", (2,))])
    with pytest.raises(ValueError, match="'a' exists already"):
        list(twice)


def test_an_error_names_its_case_and_rows_before_it_are_kept(tmp_path):
    def fails(n):
        if n == 3:
            raise ZeroDivisionError("n = 3")
        return {"n": n}

    with pytest.raises(ZeroDivisionError) as found:
        study(tmp_path, "--workers", "1").each(fails, {str(n): (n,) for n in range(5)})
    assert found.value.__notes__ == ["in case '3'"]
    kept = study(tmp_path, "--workers", "1").each(lambda n: {"n": -n}, {str(n): (n,) for n in range(3)})
    assert [r["n"] for r in kept] == [0, -1, -2]  # another function's rows
