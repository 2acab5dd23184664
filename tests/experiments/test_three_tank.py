import json
import re

import numpy as np
import pytest

from controlrnn.certification import load_certificate
from controlrnn.export import load_system
from experiments.three_tank import __main__ as study
from experiments.three_tank import report, stages
from experiments.three_tank.config import Config
from mpc import Tightening
from plants import MultiTank

LOOP = {"runs", "steps", "runs_with_violation", "max_violation", "cost", "failed_solves"}


@pytest.mark.slow
def test_the_whole_road_runs_reports_and_resumes(tmp_path, capsys):
    assert study.main(["--quick", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    config = Config.of(quick=True)
    assert results["targets"]
    assert all(set(t) == {"target", "value", "met"} for t in results["targets"].values())
    assert len(results["fit_percent"]) == 3
    assert min(results["fit_percent"]) > 80
    assert results["certificate"]["verified"] is True
    assert results["certificate"]["bound_holds"] is True
    assert results["certificate"]["pairs"] >= 10_000
    assert results["coverage"]["promised"] == config.coverage
    assert results["coverage"]["total_steps_inside"] >= config.coverage
    loops = results["closed_loop"]
    for row in (loops["nominal"], loops["tightened"]):
        assert set(row) >= LOOP
        assert (row["runs"], row["steps"]) == (config.runs, config.runs * config.control_steps)
        assert row["failed_solves"] == 0
    assert loops["tightened"]["runs_with_violation"] == 0
    assert loops["nominal"]["runs_with_violation"] > config.runs / 2
    check_artefacts(tmp_path)
    capsys.readouterr()
    assert study.main(["--quick", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert said.count("taken from the earlier run") == len(results["rows"])
    assert json.loads((tmp_path / "results.json").read_text())["rows"] == results["rows"]


def check_artefacts(folder):
    """Model, certificate and tightening belong together, and the page needs nothing from outside."""
    system = load_system(folder / "model.npz")
    certificate = load_certificate(folder / "certificate.npz")
    assert certificate.verify(system) > 0
    digests = Tightening.load(folder / "tightening.npz").digests
    assert (digests["system"], digests["certificate"]) == (system.digest, certificate.digest)
    page = (folder / "report.html").read_text()
    links = re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page)
    assert len(links) == 5
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert "url(" not in page
    assert "@import" not in page
    for name in ("excitation", "fit", "error_bound", "washout", "closed_loop"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_quick_changes_the_effort_not_the_plant():
    full, quick = Config(), Config.of(quick=True)
    same = ("noise", "inflow", "actuator", "excitation", "washout", "horizon", "coverage", "pump_2", "levels")
    assert all(getattr(full, name) == getattr(quick, name) for name in same)
    assert quick.steps < full.steps
    np.testing.assert_allclose(full.half_range, [0.8, 0.7])


def test_inflows_are_bounded_correlated_and_of_the_configured_size():
    config = Config()
    w = stages.inflows(config, np.random.default_rng(0), 20_000, 3)
    assert w.shape == (20_000, 3)
    assert np.abs(w).max() <= 3 * config.inflow
    np.testing.assert_allclose(w.std(axis=0), config.inflow, rtol=0.15)
    correlation = [np.corrcoef(w[:-20, i], w[20:, i])[0, 1] for i in range(3)]
    np.testing.assert_allclose(correlation, np.exp(-1), atol=0.1)
    assert np.abs(np.corrcoef(w.T) - np.eye(3)).max() < 0.2


def test_inflows_repeat_with_their_generator():
    first, again, other = (stages.inflows(Config(), np.random.default_rng(s), 50, 3) for s in (1, 1, 2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 0


def test_reference_is_made_of_steady_states_with_tank_1_at_the_wanted_levels():
    config, plant = Config(), MultiTank()
    wanted = stages.reference(config)
    assert wanted.shape == (config.control_steps, 3)
    steady, first = np.unique(wanted, axis=0, return_index=True)
    np.testing.assert_allclose([wanted[i, 0] for i in sorted(first)], config.levels, atol=1e-6)
    at_limit = np.isclose(wanted[:, 0], plant.outputs[0].upper)
    assert at_limit.mean() > 0.5
    for y in steady:
        u = stages.steady_input(config, y[0])
        np.testing.assert_allclose(plant.step(y, u), y, atol=1e-6)
        low, high = np.array(config.excitation).T
        assert ((low <= u) & (u <= high)).all()  # the model has seen such inputs


def test_experiments_are_dealt_out_by_record_and_stay_within_the_excited_range():
    config = Config(records=(2, 1, 1, 1), samples=40)
    data = stages.experiments(config, seed=3)
    assert [len(part) for part in (data.train, data.validation, data.test, data.calibration)] == [2, 1, 1, 1]
    low, high = np.array(config.excitation).T
    for record in data.all:
        assert len(record) == config.samples
        assert ((low <= record.u) & (record.u <= high)).all()
        assert (record.x < MultiTank().height).all()
    residual = np.concatenate([r.y - r.x for r in data.all])
    np.testing.assert_allclose(residual.std(), config.noise, rtol=0.1)
    again = stages.experiments(config, seed=3)
    np.testing.assert_array_equal(again.test[0].y, data.test[0].y)


def test_tables_of_the_report_name_quantities_and_escape_texts():
    rows = report._columns(nominal={"runs": 2, "inside_bound": None}, tightened={"runs": 3, "own_word": True})
    assert rows == [
        {"": "runs", "nominal": 2, "tightened": 3},
        {"": "share of realised prediction errors inside the bound", "nominal": None, "tightened": None},
        {"": "own word", "nominal": None, "tightened": True},
    ]
    assert report._table([{"a": 0.123456, "b": [1.0, 2.5]}, {"a": None, "b": "<x>"}]) == (
        "<table><tr><th>a</th><th>b</th></tr><tr><td>0.1235</td><td>1, 2.5</td></tr>"
        "<tr><td>–</td><td>&lt;x&gt;</td></tr></table>"
    )
