"""Trade-offs: the front, and searches that are killed and go on."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("optuna", reason="the extra tune is not installed")

from controlrnn.errors import CertificationError, SettingError
from controlrnn.tune import Choice, Real, TradeOff, Trial, Tuning, Whole, tune

SPACE = {"horizon": Whole(2, 40, log=True), "weight": Real(0.01, 1.0, log=True), "model": Choice(("small", "large"))}


def worth(setting, log=None, pause=0.0):
    """A made-up controller: longer horizons cost less, are tighter and slower; too long ones are not certified."""
    if log is not None:
        with Path(log).open("a") as file:
            file.write(json.dumps(setting | {"pid": os.getpid()}) + "\n")
        time.sleep(pause)
    n, size = setting["horizon"], 1 if setting["model"] == "small" else 3
    if n > 30:
        raise CertificationError("the bound grows without end")
    return TradeOff(
        cost=1 / n + abs(np.log10(setting["weight"]) + 1), conservatism=n / 100 / size, solve_time=1e-4 * n * size
    )


def test_any_seed_is_taken_and_makes_proposals_of_its_own(tmp_path):
    seeds = (0, 2**32, 10**18)
    found = [tune(worth, SPACE, trials=3, storage=tmp_path / f"{seed}.db", seed=seed) for seed in seeds]
    assert len({json.dumps(f.trials[0].setting) for f in found}) == 3


def test_the_front_is_what_no_other_beats(tmp_path):
    found = tune(worth, SPACE, trials=24, storage=tmp_path / "s.db", seed=1)
    assert len(found.trials) == 24
    refused = [t for t in found.trials if t.found is None]
    assert {t.refused for t in refused} == {"the bound grows without end"}
    assert all(t.setting["horizon"] > 30 for t in refused)
    front = {t.number for t in found.front}
    for t in found.trials:
        if t.found is not None:
            assert t.found == worth(t.setting)
            assert any(o.found.beats(t.found) for o in found.front) == (t.number not in front)
    costs = [t.found.cost for t in found.front]
    assert costs == sorted(costs)
    assert np.mean([t.found.cost for t in found.trials[14:] if t.found]) < np.mean(
        [t.found.cost for t in found.trials[:8] if t.found]
    )  # it learns
    again = tune(worth, SPACE, trials=24, storage=f"sqlite:///{tmp_path / 'other.db'}", seed=1)
    assert again == found  # one worker repeats itself
    assert f"{len(front)} of 24 trials" in found.summary()
    found.plot().savefig(tmp_path / "front.png")
    assert (tmp_path / "front.png").stat().st_size > 10_000


def test_few_bad_trials_do_not_press_the_good_ones_into_a_corner():
    good = [TradeOff(5 + k, 0.5 - 0.1 * k, 1e-3) for k in range(3)]
    for worst, scale in (((900, 0.6, 2e-3), "log"), ((9, 0.6, 2e-3), "linear")):
        found = Tuning(tuple(Trial(i, {}, t) for i, t in enumerate([*good, TradeOff(*worst)])))
        panels = found.plot().axes
        assert [panel.get_xscale() for panel in panels] == [scale, scale, "linear"]
        assert {panel.get_yscale() for panel in panels} == {"linear"}
        assert len(panels[0].texts) == len(found.front)
    assert Tuning(()).plot().axes[0].get_xscale() == "linear"


def test_ties_and_single_objectives():
    a, b, c = TradeOff(1, 0.5, 1), TradeOff(1, 0.5, 1), TradeOff(2, 0.4, 1)
    assert not a.beats(b)
    assert not a.beats(c)
    assert a.beats(TradeOff(1, 0.6, 1))
    found = Tuning(tuple(Trial(i, {}, t) for i, t in enumerate((a, b, c, TradeOff(3, 0.6, 1)))))
    assert [t.number for t in found.front] == [0, 1, 2]


def test_a_search_goes_on_and_tries_again_what_failed(tmp_path):
    calls = []

    def breaks(setting):
        calls.append(setting)
        if len(calls) == 4:
            raise ZeroDivisionError("an error of the user's")
        return worth(setting | {"horizon": 3})

    options = {"storage": tmp_path / "s.db", "seed": 3}
    with pytest.raises(ZeroDivisionError) as error:
        tune(breaks, SPACE, trials=6, **options)
    assert "with the setting" in error.value.__notes__[0]
    found = tune(breaks, SPACE, trials=6, **options)
    assert len(found.trials) == 6
    assert len(calls) == 7
    assert calls[4] == calls[3]
    assert tune(breaks, SPACE, trials=6, **options) == found
    assert len(calls) == 7
    with pytest.raises(SettingError, match="in the space"):
        tune(breaks, SPACE | {"more": Real(0, 1)}, trials=6, **options)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Real(2, 1), "low must be <= high"),
        (lambda: Whole(0, 3, log=True), "low must be > 0"),
        (lambda: Choice(("a", "a")), "different names"),
        (lambda: TradeOff(1, -0.1, 1), "conservatism"),
        (lambda: TradeOff(float("nan"), 0.1, 1), "cost"),
        (lambda: tune(worth, {}, storage="never.db"), "space must hold"),
        (lambda: tune(worth, {"a": 3}, storage="never.db"), "space must hold"),
        (lambda: tune(worth, SPACE, storage="never.db", trials=0), "trials"),
    ],
)
def test_bad_input_is_refused_before_any_work(make, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((SettingError, ValueError), match=says):
        make()
    assert not list(tmp_path.iterdir())


def test_what_is_no_trade_off_ends_the_search(tmp_path):
    with pytest.raises(SettingError, match="must return a TradeOff, got float"):
        tune(lambda _: 1.0, SPACE, trials=2, storage=tmp_path / "s.db")


RUN = """
import sys
from functools import partial
from controlrnn.tune import search, tune
import test_tune
search.SILENT, search.ALIVE = 3.0, 0.5  # in workers, too
if __name__ == "__main__":
    worth = partial(test_tune.worth, log=sys.argv[1], pause=0.4)
    tune(worth, test_tune.SPACE, trials=16, storage=sys.argv[2], workers=2)
"""


def survives(storage, tmp_path):
    """A search in two workers: one worker is killed, then the process that started them, then it goes on."""
    log, here = tmp_path / "log", Path(__file__)
    script = tmp_path / "run.py"
    script.write_text(RUN)
    env = os.environ | {"PYTHONPATH": f"{here.parent}:{here.parents[2]}"}

    def start():
        with (tmp_path / "said").open("ab") as said:
            return subprocess.Popen([sys.executable, script, log, storage], env=env, stderr=said)

    def lines():
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def until(condition):
        end = time.monotonic() + 180
        while not condition():
            assert time.monotonic() < end, (tmp_path / "said").read_text()
            time.sleep(0.05)

    first = start()
    until(lambda: len({line["pid"] for line in lines()}) == 2)
    os.kill(lines()[-1]["pid"], signal.SIGKILL)
    until(lambda: len({line["pid"] for line in lines()}) >= 4)  # both were started again
    first.kill()
    first.wait()
    time.sleep(1.0)  # its workers have ended
    before = lines()
    assert len(before) < 16
    assert start().wait(timeout=240) == 0, (tmp_path / "said").read_text()
    found = tune(worth, SPACE, trials=16, storage=storage)
    assert 16 <= len(found.trials) <= 18
    tried = [json.dumps({k: line[k] for k in SPACE}) for line in lines()]
    ended = [json.dumps({k: t.setting[k] for k in SPACE}) for t in found.trials]
    assert set(tried) == set(ended)  # what was killed was tried again, and ended
    assert len(tried) > len(ended)


@pytest.mark.slow
def test_a_search_in_sqlite_survives_its_workers_and_its_driver(tmp_path):
    survives(str(tmp_path / "s.db"), tmp_path)


def postgres():
    """Folder of PostgreSQL's programs, or None."""
    found = shutil.which("initdb")
    places = [Path(found).parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    return places[-1] if places else None


@pytest.fixture
def database():
    """URL of a PostgreSQL server for this test, which a user other than root runs."""
    programs = postgres()
    if programs is None:
        pytest.skip("PostgreSQL's initdb is neither on the path nor in /usr/lib/postgresql")
    pytest.importorskip("psycopg", reason="psycopg, the driver of PostgreSQL, is not installed")
    folder, user = Path(tempfile.mkdtemp(prefix="controlrnn-pg-")), None
    if os.getuid() == 0:  # as whom it refuses to run
        try:
            user = pwd.getpwnam("postgres").pw_name
        except KeyError:
            pytest.skip("PostgreSQL refuses to run as root, and there is no user postgres")
        shutil.chown(folder, user)

    def run(*command):
        subprocess.run(list(map(str, command)), check=True, user=user, cwd="/", stdout=subprocess.DEVNULL)

    run(programs / "initdb", "-D", folder / "data", "-U", "tune", "-A", "trust", "--no-sync")
    options = f"-c listen_addresses='' -c unix_socket_directories={folder} -c fsync=off"
    run(programs / "pg_ctl", "-D", folder / "data", "-w", "-o", options, "-l", folder / "log", "start")
    yield f"postgresql+psycopg://tune@/postgres?host={folder}"
    run(programs / "pg_ctl", "-D", folder / "data", "-m", "immediate", "stop")
    shutil.rmtree(folder)


@pytest.mark.slow
def test_a_search_in_postgresql_survives_its_workers_and_its_driver(database, tmp_path):
    survives(database, tmp_path)
