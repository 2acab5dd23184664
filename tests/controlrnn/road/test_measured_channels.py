"""A road with two inputs, of which one is a measured disturbance with forecasts, and a washout observer."""

import numpy as np
import pytest
from small_road import set_fields

import mpc
from controlrnn.road import Road, Stage, draft_road, run_road, verify_folder
from plants import MultiTank, excitation, simulate


def write_two_tanks(path):
    plant = MultiTank(2, dt=10.0)
    u = excitation.random_steps(900, [(1.0, 2.6), (1.0, 2.4)], hold=(6, 40), seed=3)
    record = simulate(plant, u[None], noise_std=0.1, seed=0)[0]
    rows = ["t,pump 1 [L/min],pump 2 [L/min],level 1 [cm],level 2 [cm]"]
    rows += [",".join(f"{v:.6g}" for v in (10 * t, *record.u[t], *record.y[t])) for t in range(len(record))]
    path.write_text("\n".join(rows) + "\n")


@pytest.mark.slow
def test_forecasts_are_covered_as_declared(tmp_path):
    write_two_tanks(tmp_path / "two.csv")
    made = draft_road([tmp_path / "two.csv"], base=tmp_path, budget=3.0)
    text = made.text
    at = text.index('name = "pump 2"')
    after = text[at:].replace('role = "manipulated"', 'role = "measured"', 1)
    (tmp_path / "road.toml").write_text(text[:at] + after.replace("command_error = 0.0", "command_error = 0.05", 1))
    set_fields(tmp_path / "road.toml", kind='"washout"', loops=2, hold=20, horizon=12, control_horizon=5, iterations=80)
    road = Road.made(tmp_path / "road.toml", tmp_path / "road")
    found = run_road(road, tmp_path, until=Stage.SIMULATE)
    assert isinstance(road.observer, mpc.Washout)
    np.testing.assert_allclose(
        road.certificate.input_radius, [i.error + i.command_error for i in road.file.inputs], rtol=1e-12
    )
    # The controller moves one pump; the other one does what it did on record.
    assert road.controller().problem.chosen.tolist() == [0]
    first, second = (loop.u[:, 1] for loop in road.loops.results)
    np.testing.assert_allclose(first, second)
    assert np.ptp(first) > 0
    assert road.loops.runs_with_violation == 0
    assert all(loop.inside == 1.0 for loop in road.loops.results)
    assert any("whole loop" in w or "covers the" in w for w in found[Stage.SIMULATE].words)
    assert all(v.holds for v in verify_folder(tmp_path / "road"))
