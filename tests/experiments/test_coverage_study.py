"""The coverage study: its judge finds broken promises, its rows are independent, and its fast loops are loops."""

import json

import numpy as np
import pytest

from experiments.coverage import study as coverage
from experiments.coverage.loops import LIMIT, STEPS, FastLoops, experiment, first_order
from experiments.shared.study import Study
from mpc import LoopTarget, back_off


def judged(tmp_path, promised, hits, n=1000):
    study = Study("coverage", quick=True, seed=0, out=tmp_path)
    study.row("a row", lambda: {"promised": promised, "hits": hits, "repetitions": n})
    return coverage.judge(study)


def test_a_broken_promise_is_found_and_a_kept_one_let_pass(tmp_path):
    assert judged(tmp_path / "1", 0.9, 900) == {"a row": True}
    assert judged(tmp_path / "2", 0.9, 885) == {"a row": True}  # 1.6 standard deviations: chance
    assert judged(tmp_path / "3", 0.9, 870) == {"a row": False}  # 3.2 of them
    assert judged(tmp_path / "4", None, 0) == {}


def test_fast_loops_follow_their_limit_and_each_seed_is_a_loop_of_its_own():
    tightening = back_off(first_order(0.8).digest, 1, np.array([0.3]))
    loops = FastLoops()(tightening, [1, 2, 3])
    assert len({r.y.tobytes() for r in loops}) == 3
    for r, seed in zip(loops, (1, 2, 3), strict=True):
        assert r.seed == seed
        assert r.steps == STEPS
        assert np.abs(r.predicted[:, 1]).max() <= LIMIT - 0.3 + 1e-12
        np.testing.assert_allclose(r.errors[:, 1], r.y[1:] - r.predicted[:, 1])
        np.testing.assert_array_equal(FastLoops()(tightening, [seed])[0].y, r.y)
        model = first_order(0.8).simulate(r.u, np.zeros(1))
        np.testing.assert_allclose(r.predicted[:, 0], model[0], atol=1e-12)


def test_feedback_builds_up_what_experiments_do_not():
    system = first_order(0.8)
    residuals = [np.abs(r.y - system.simulate(r.u, np.zeros(1))[0]).max() for r in map(experiment, range(40))]
    (loop,) = FastLoops()(back_off(system.digest, 1, np.zeros(1)), [0])
    assert np.nanmax(np.abs(loop.errors)) > np.quantile(residuals, 0.9)


def test_one_repetition_of_every_kind():
    for case in coverage.cases():
        if "this set" in case.name or "confidence" in case.name:
            continue  # measured on thousands of records
        found = case.trial(np.random.default_rng(1))
        assert found.promised is None or 0 < found.promised < 1
        assert found.says


def test_a_calibrated_loop_promises_what_it_was_asked_for():
    found = coverage.loop_trial(np.random.default_rng(0), target=LoopTarget.LIMITS)
    assert (found.promised, found.accepted) == (0.9, True)


@pytest.mark.slow
def test_quick_study_keeps_its_promises(tmp_path):
    assert coverage.main(["--quick", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    assert all(goal["met"] for goal in results["targets"].values())
    rows = {r["case"]: r for r in results["rows"]}
    assert rows["closed loop, calibrated on experiments"]["promised"] is None
    assert rows["closed loop, calibrated on experiments"]["realised"] < 0.5
    assert rows["0.6 missing, calibrated without"]["realised"] < 0.5
    assert (tmp_path / "coverage.png").stat().st_size > 10_000
