"""A slow mode that experiments never build up: what their records promise under feedback, and who notices.

The inputs of the loop are those of the experiments. Only what feedback makes of them is not.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from mpc_networks import signals
from one_tank import tank

from controlrnn.certification import certify_contraction
from controlrnn.data import Trajectory
from experiments.bench_mpc.c_code import CompiledController, compiler
from mpc import (
    Predictor,
    Premise,
    Safety,
    TightenedMPC,
    Tracking,
    Washout,
    Watching,
    calibrate,
    certify_predictions,
    learn_region,
    tighten,
)

W, N, LIMIT = 40, 10, 0.8
PREDICTOR = Predictor(tank(0.2, a=0.8), signals("u", 1, 1.0), signals("y", 1, LIMIT))
CONTRACTION = certify_contraction(PREDICTOR.system)


def moved(x, u):
    return np.array([0.8 * x[0] + 0.2 * u, 0.99 * x[1] + 0.005 * u])


def record(rng, samples=250):
    u = np.repeat(rng.uniform(-1, 1, samples), rng.integers(2, 9, samples))[:samples]
    x, y = np.zeros(2), []
    for row in u:
        y.append(x.sum() + 0.01 * rng.standard_normal())
        x = moved(x, row)
    return Trajectory(u=u[:, None], y=np.array(y)[:, None], dt=1.0)


@cache
def parts():
    rng = np.random.default_rng(0)
    records = [record(rng) for _ in range(50)]
    observer = Washout(PREDICTOR, W, contraction=CONTRACTION)
    error = calibrate(
        PREDICTOR.system, records[:20], horizon=N, washout=W, coverage=0.9, scale_trajectories=records[20:30]
    )
    region = learn_region(observer, records[:20], scale_trajectories=records[20:30], coverage=0.9)
    return tighten(error, certify_predictions(observer, N), observer=observer), error, region, records[30:]


def controller(reaction):
    room, _, region, _ = parts()
    watching = Watching(reactions=dict.fromkeys(("region", "model_error"), reaction), safe_reference=[0.0])
    return TightenedMPC(
        PREDICTOR,
        Washout(PREDICTOR, W, contraction=CONTRACTION),
        room,
        Tracking(output_weight=1.0, input_move_weight=0.01),
        safety=Safety(watching=watching, region=region),
    )


def loops(acting, count=6, samples=200):
    """Of each loop: first violation, first warning (``samples`` if none), samples that lie, and those beyond limits."""
    found = []
    for seed in range(count):
        rng, x, u = np.random.default_rng(seed), np.zeros(2), 0.0
        acting.reset()
        for _ in range(W):
            acting.record([x.sum() + 0.01 * rng.standard_normal()], [0.0])
        passed, warned, wrong, beyond = samples, samples, 0, 0
        for t in range(samples):
            step = acting.step([x.sum() + 0.01 * rng.standard_normal()], [LIMIT if seed % 2 else -LIMIT])
            u = float(step.u[0])
            x = moved(x, u)
            passed = min(passed, t) if abs(x.sum()) > LIMIT else passed
            warned = min(warned, t) if step.broken else warned
            beyond += abs(x.sum()) > LIMIT
            wrong += bool(step.broken) == step.certified
        found.append((passed, warned, wrong, beyond))
    return np.array(found)


def test_records_of_experiments_promise_nothing_under_feedback_and_the_watch_says_so():
    room, error, _, fresh = parts()
    assert error.coverage_on(PREDICTOR.system, fresh).trajectories >= 0.8  # of 20, promised 0.9
    assert "not under feedback" in room.promise
    assert room.premises.loop == "open"
    told = loops(controller("report"))
    assert (told[:, 0] < 200).all()  # every loop leaves its limit
    assert (told[:, 1] < told[:, 0]).all()  # and none without a warning before
    assert not told[:, 2].any()


def test_backing_off_at_each_warning_takes_most_of_the_violation_away():
    """Not all: the loop goes back to its set point whenever nothing is contradicted, and the mode is still there."""
    told, safe = loops(controller("report")), loops(controller("back_off"))
    assert safe[:, 3].sum() < 0.2 * told[:, 3].sum()
    assert (safe[:, 0] >= told[:, 0]).all()


@pytest.mark.skipif(compiler() is None, reason="no C compiler (cc or gcc) on the path")
def test_c_warns_and_backs_off_too(tmp_path):
    ours = controller("back_off")
    theirs = CompiledController(ours, tmp_path)
    np.testing.assert_array_equal(loops(theirs), loops(ours))


def test_premise_of_the_warning_is_the_region_or_the_error():
    made, x = controller("report"), np.zeros(2)
    for _ in range(W):
        made.record([0.0], [0.0])
    named = set()
    for _ in range(150):
        step = made.step([x.sum()], [LIMIT])
        named |= set(step.broken)
        x = moved(x, float(step.u[0]))
    assert named == {Premise.REGION, Premise.MODEL_ERROR}
