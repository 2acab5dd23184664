"""The bench of closed loops in bulk: what it says of its loops is so."""

import json
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from controlrnn.systems import LureSystem
from experiments.bench_loops import study as bench_loops
from mpc import (
    ClosedLoopSetup,
    Predictor,
    RunningOn,
    Solver,
    SolverOptions,
    TightenedMPC,
    Tracking,
    no_tightening,
)
from mpc.loops.compiled.library import compiler
from plants import MultiTank

N, STEPS = 8, 12


def maker(_folder, _case, _controller, truth, *, travels):
    assert travels
    return partial(small, truth)


def small(truth):
    """One tank and a linear model of it; "declared": filled above its limit before."""
    plant, zero = MultiTank(1, level_limit=20.0), np.zeros
    system = LureSystem(
        A=np.array([[0.95]]), B1=zero((1, 0)), B2=np.array([[1.0]]), bx=zero(1), C1=zero((0, 1)), D11=zero((0, 0)),
        D12=zero((0, 1)), bv=zero(0), C2=np.eye(1), D21=zero((1, 0)), D22=zero((1, 1)), by=zero(1), layers=(),
        dt=plant.dt,
    )  # fmt: skip
    predictor = Predictor(system, plant.inputs, plant.outputs)
    made = TightenedMPC(
        predictor,
        RunningOn(predictor, 5),
        no_tightening(system.digest, N, 1),
        Tracking(output_weight=1.0, input_move_weight=0.1),
        solver=Solver(options=SolverOptions(rti=2)),
    )
    high = {"x0": np.array([64.0]), "warm_up_input": [plant.pump]} if truth == "declared" else {}
    return ClosedLoopSetup(plant, made, {"reference": [10.0], "steps": STEPS, "noise_std": 0.05, "warm_up": 5} | high)


@pytest.mark.slow
@pytest.mark.skipif(compiler() is None, reason="no C compiler (cc, gcc or clang) on the path")
def test_loops_are_counted_with_what_they_violated(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_loops, "maker", maker)
    monkeypatch.setattr(bench_loops, "prove", lambda *_: None)
    monkeypatch.setattr(bench_loops.guaranteed_tanks, "identified", lambda *_: None)
    monkeypatch.setattr(bench_loops.guaranteed_tanks, "settings", lambda _: (None, SimpleNamespace(steps=STEPS)))
    monkeypatch.setattr(bench_loops.stages, "experiments", lambda *_: None)
    assert bench_loops.main(["--quick", "--loops", "6", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    rows = {row["case"]: row for row in found["rows"]}
    targets = found["targets"]
    many = rows["6 guaranteed loops"]
    assert targets["outputs of both engines apart"]["met"]
    assert many["steps"] == 6 * STEPS
    assert many["violations"] > 0  # of the tank that was too full at first
    assert not targets["violations in 6 loops"]["met"]
    assert many["nearest_to_a_limit_cm"] < 0
    assert many["most_iterations"] == 2
    minutes = targets["minutes for 10000 loops on two workers, clock"]["value"]
    assert minutes == pytest.approx(many["wall_s"] / 60 * 10000 / 6)  # of the clock, not what it was in the loops
    assert many["wall_s"] > many["loops_wall_s"]
    assert (many["computed"], many["workers"]) == (6, 1)
    gains = rows["compiled, workers: 1 and 2"]
    for way in ("Dask", "bare"):  # one round
        ratio = gains[f"{way}_loops_a_second_2"] / gains[f"{way}_loops_a_second_1"]
        assert gains[f"{way}_gain"] == pytest.approx(ratio)
    assert rows["compiled, 1 process"]["loops_a_cpu_second"] > rows["python, 1 process"]["loops_a_cpu_second"]
    # Rows of other proofs are no rows of these.
    capsys.readouterr()
    assert bench_loops.main(["--quick", "--loops", "6", "--out", str(tmp_path)]) == 0
    assert "6 guaranteed loops: taken from the earlier run" in capsys.readouterr().out
    (tmp_path / "terminal.npz").write_bytes(b"another proof")
    assert bench_loops.main(["--quick", "--loops", "6", "--out", str(tmp_path)]) == 0
    assert "taken from the earlier run" not in capsys.readouterr().out
