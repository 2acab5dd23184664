"""Hostile calls end in our errors or in right results; whoever makes them notices what does not."""

import os
import time
from pathlib import Path

import numpy as np
import pytest

from controlrnn.errors import SettingError
from experiments.bench_calls import study as bench_calls
from experiments.bench_calls.hostile import uncalled
from experiments.bench_calls.hostile.call import Call
from experiments.bench_calls.hostile.library import data_calls, plant_calls, system_calls
from experiments.bench_calls.hostile.values import Kind, hostile
from experiments.bench_calls.study import GOOD, Caller, Ending, Workforce, turns


def quick_calls(kit):
    return [*plant_calls(kit), *data_calls(kit), *system_calls(kit)]


def faults(caller, often):
    """What did not end well, of ``often`` times the weight of each call."""
    found = (caller(i, t) for i, call in enumerate(caller.calls) for t in range(max(round(often * call.weight), 1)))
    return [o for o in found if o.ending not in GOOD]


def test_quick_calls_end_well(tmp_path):
    assert faults(Caller(tmp_path, 11, quick_calls), 5) == []


@pytest.mark.slow
def test_calls_of_everything_end_well(tmp_path):
    caller = Caller(tmp_path, 12)
    assert uncalled(caller.calls) == []
    assert faults(caller, 8) == []


@pytest.mark.slow
def test_the_bench_runs(tmp_path, monkeypatch):
    monkeypatch.setattr(bench_calls, "QUICK", 400)
    assert bench_calls.main(["--quick", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "results.json").exists()


def careless(x):
    if isinstance(x, str):
        raise KeyError(x)
    if isinstance(x, np.ndarray):
        return {"y": np.array([0.0, np.nan])}
    if x is None:
        return Lost()
    if isinstance(x, np.generic):
        return 7.0
    raise SettingError("no")


class Lost:
    def save(self, path):  # noqa: ARG002
        raise TypeError("cannot")

    load = save


def test_whatever_goes_wrong_is_noticed(tmp_path):
    caller = Caller(tmp_path, 0, lambda _: [Call("careless", careless, {"x": 1.0})])
    caller.usable[0] = [6.0]
    seen = {caller(0, t).ending for t in range(400)}
    assert {Ending.RAW, Ending.INFINITE, Ending.LOST, Ending.OTHER, Ending.REFUSED} <= seen


def leaves_a_file(x):
    Path("left").write_text(str(x))


def test_files_that_calls_leave_stay_in_their_folder(tmp_path):
    here = Path.cwd()
    caller = Caller(tmp_path, 0, lambda _: [Call("leaves", leaves_a_file, {"x": 1.0})])
    assert caller(0, 0).ending is not Ending.RAW
    assert (tmp_path / "left").exists()
    assert Path.cwd() == here


def stuck(x):
    time.sleep(60 if x == 1 else 0)


def gone(x):
    os._exit(1 if x == 1 else 0)


def bad_calls(_):
    return [Call("stuck", stuck, {"x": np.ones(1)}), Call("gone", gone, {"x": np.ones(1)}),
            Call("fine", abs, {"x": 1.0})]  # fmt: skip


@pytest.mark.slow
def test_hangs_and_crashes_are_noticed_and_the_rest_goes_on():
    workers = Workforce(0, bad_calls, seconds=0.5)
    try:
        assert Ending.HANG in {o.ending for o in workers.run(["stuck", "gone"], (0, 0, 12))}
        assert {o.ending for o in workers.run(["stuck", "gone"], (1, 0, 3))} == {Ending.CRASH}
    finally:
        workers.close()


def test_every_kind_of_value_has_hostile_ones():
    rng = np.random.default_rng(0)
    for value in (1, 1.0, True, "a", np.ones((2, 3)), (1.0, 2.0), (np.ones(2),), None, object()):
        kinds = {hostile(value, rng, [1, 2]).kind for _ in range(300)}
        assert Kind.ABSURD in kinds
        assert value is None or not isinstance(value, int | float | np.ndarray) or Kind.SAME in kinds


def test_the_same_seed_makes_the_same_calls(tmp_path):
    one, two = (Caller(tmp_path, 3, quick_calls) for _ in range(2))
    assert [one(i, i) for i in range(40)] == [two(i, i) for i in range(40)]
    assert turns([1.0, 0.5, 1e-9], 150) == [100, 50, 1]
