import copy
import json
import re
from dataclasses import fields, replace

import numpy as np
import pytest

from controlrnn.certification import load_certificate
from controlrnn.export import load_system
from controlrnn.identification import identify_subspace
from experiments.shared import back_off as _back_off
from experiments.three_tank import __main__ as study
from experiments.three_tank import backing_off, recalling, report, stages
from experiments.three_tank.config import Config
from mpc import ErrorMemory, Tightening, back_off
from mpc.problem.ocp import default_penalty
from mpc.solvers.dompc import DoMpcBackend
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
    assert results["coverage"]["total_records_inside"] >= config.coverage
    loops = results["closed_loop"]
    assert list(loops) == list(stages.Controller)
    for row in loops.values():
        assert set(row) >= LOOP
        assert (row["runs"], row["steps"]) == (config.runs, config.runs * config.control_steps)
        assert row["failed_solves"] == 0
    assert loops["closed-loop calibrated"]["runs_with_violation"] == 0
    assert loops["backed off"]["cost"] < loops["recalling"]["cost"]
    assert loops["closed-loop calibrated"]["cost"] <= 1.3 * results["best_constant"]["cost"]
    assert results["best_constant"]["runs_with_violation"] == 0
    assert results["calibration"]["probability"] == config.coverage
    assert results["calibration"]["kept"] >= results["calibration"]["loops_needed"]
    assert "nothing" in results["promises"]["backed off"]
    assert "probability >= 0.9" in results["promises"]["closed-loop calibrated"]
    assert loops["recalling"]["runs_with_violation"] == 0
    assert results["recall"]["intervals_records_inside"] >= config.coverage
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
    recalled, start = ErrorMemory.load(folder / "recall.npz"), Tightening.load(folder / "tightening_recalling.npz")
    assert (recalled.digests["system"], recalled.digests["tightening"]) == (system.digest, start.digest)
    assert recalled.promise.count("probability >= 0.95") == 2  # which makes 0.9 for both
    page = (folder / "report.html").read_text()
    links = [a for a in re.findall(r"""(?:src|href)\s*=\s*["']([^"']*)""", page) if not a.startswith("#")]
    assert len(links) == 6
    assert all(link.startswith("data:image/png;base64,") for link in links)
    assert "url(" not in page
    assert "@import" not in page
    for name in ("excitation", "fit", "error_bound", "washout", "recall", "closed_loop"):
        assert (folder / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_every_purpose_has_loops_of_its_own():
    config = Config()
    compared, tried = stages.loop_seeds(0, config), backing_off.seeds_of(0, backing_off.TRIALS, config.runs)
    assert len(set(compared) | set(tried)) == 2 * config.runs


def test_the_least_constant_is_a_multiple_of_the_step_that_every_loop_keeps(monkeypatch, tmp_path):
    """On loops whose largest excess is known: 0.43 cm without any distance, and the distance less of it."""
    tried = []

    class Loop:
        def __init__(self, violation):
            self.max_violation, self.cost, self.violations = max(violation, 0.0), 1.0, int(violation > 0)

    def loops(build, seeds, progress):
        distance = float(build.args[2].total[1, 0])
        tried.append(distance)
        return MonteCarlo(tuple(Loop(0.43 - 0.04 * s - distance) for s in seeds))

    class MonteCarlo:
        def __init__(self, results):
            self.results = results

    class Model:
        digest, ny = 64 * "a", 3

    monkeypatch.setattr(_back_off, "monte_carlo", loops)
    monkeypatch.setattr(backing_off.stages, "model_of", lambda _: Model())
    distance, found, used = backing_off.least(tmp_path, Config(), [0, 1, 2], lambda *_: None)
    assert backing_off.summary(found.results) == {"cost": 1.0, "runs_with_violation": 0}
    assert (distance, used, tried) == (0.5, 9, [0.0, 0.4, 0.5])
    tried.clear()
    steps = replace(Config(), back_off_step=0.03)
    assert backing_off.least(tmp_path, steps, [0], lambda *_: None)[::2] == (0.45, 3)
    assert tried == [0.0, 0.42, 0.45]


def test_a_distance_that_was_too_far_is_halved_until_one_step_less_fails(monkeypatch):
    """Loops whose excess falls faster than the distance grows: 0.43 cm lacks 0.43, but 0.2 cm is enough."""

    class Loop:
        def __init__(self, violation):
            self.max_violation = max(violation, 0.0)

    class Found:
        def __init__(self, distance):
            self.results = (Loop(0.43 - 2.2 * distance),)

    tried = []
    monkeypatch.setattr(_back_off, "monte_carlo", lambda make, *_, **__: tried.append(make) or Found(make))
    distance, found, used = _back_off.least_distance(lambda d: d, [0], 0.1)
    assert (distance, used, tried) == (0.2, 4, [0.0, 0.4, 0.2, 0.1])
    assert found.results[0].max_violation == 0
    monkeypatch.setattr(_back_off, "monte_carlo", lambda *_, **__: Found(-1.0))
    with pytest.raises(RuntimeError, match="no constant"):
        _back_off.least_distance(lambda d: d, [0], 0.1)


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


@pytest.fixture(scope="module")
def recalling_case(tmp_path_factory):
    """The recalling controller's parts on a linear model, with short horizons."""
    config = Config(
        records=(8, 4, 4, 10),
        samples=150,
        washout=40,
        horizon=6,
        coverage=0.8,
        memory=2,
        certificate_iterations=5,
        change_iterations=5,
    )
    folder, data = tmp_path_factory.mktemp("recalling"), stages.experiments(config, seed=0)
    system = identify_subspace(data.train, 3, strictly_proper=True).system
    observer = stages.make_observer(system, stages.contraction(system, data, config), config)
    for proof, name in zip(stages.horizon_certificates(observer, config), ("", "_initial"), strict=True):
        proof.save(folder / f"certificate{name}.npz")
    seen = []
    parts = recalling.parts(observer, data, config, folder, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 2), (2, 2)]
    return config, data, observer, *parts


def test_error_and_drift_share_what_may_fail(recalling_case):
    """1 - 0.8 in two halves, each calibrated on its own; nothing is believed for longer than it was calibrated."""
    config, data, observer, tightening, recalled = recalling_case
    assert recalled.promise.count("probability >= 0.9,") == 2
    assert (recalled.steps, recalled.horizon) == (config.memory, config.horizon)
    single = stages.model_error(observer.system, observer, data, config)
    assert (tightening.model_error >= single.bounds).all()
    assert (recalled.absolute == tightening.predictive).all()


def test_learnt_intervals_are_those_of_the_controller(recalling_case):
    config, data, observer, tightening, recalled = recalling_case
    record = data.test[0]
    ends, contradictions = recalling.learnt_intervals(recalled, observer, record)
    assert ends.shape == (config.samples - config.washout - config.horizon, 2, config.horizon + 1, 3)
    assert contradictions == 0
    controller = stages.setup(observer, tightening, config, memory=recalled).controller
    last = 30
    for y, u in zip(record.y[: config.washout + last + 1], record.u, strict=False):
        controller.record(y, u)
    known, widest = controller.learnt_errors.interval, recalled.absolute[:-1]
    for side, sign in ((0, -1), (1, 1)):  # one sample later
        expected = np.clip(ends[last, side, 1:] + sign * recalled.jump, -widest, widest)
        np.testing.assert_allclose(known[side, :-1], expected, rtol=1e-12)


def test_learnt_intervals_cover_held_out_errors_and_are_narrower_than_the_tightening(recalling_case):
    config, data, observer, _, recalled = recalling_case
    inside, contradictions, widths = recalling.coverage_of_intervals(recalled, observer, data, config, seed=0)
    assert inside.n == len(data.test)
    assert inside.steps >= config.coverage
    assert contradictions <= inside.n
    assert (widths <= 1 + 1e-12).all()
    assert (widths[1] < 0.9).all()
    too_sure = replace(recalled, drift=0.2 * recalled.drift, change=0.2 * recalled.change)
    assert (
        recalling.coverage_of_intervals(too_sure, observer, data, config, seed=0)[0].trajectories < inside.trajectories
    )


def test_controllers_solve_one_problem_and_differ_by_their_limits_alone(recalling_case):
    """A baseline that is rigged, by cheap limits or another weight, would make the others look well."""
    config, _, observer, tightening, recalled = recalling_case
    apart = back_off(observer.system.digest, config.horizon, np.full(3, 0.5))
    first, *others = (
        stages.setup(observer, one, config, memory=memory).controller.problem
        for one, memory in ((None, None), (apart, None), (tightening, recalled))
    )
    np.testing.assert_array_equal(first.penalty, default_penalty(config.horizon, first.cost_scale, first.output_scale))
    for other in others:
        for f in fields(first):
            if f.name != "predictor":
                np.testing.assert_array_equal(getattr(other, f.name), getattr(first, f.name), err_msg=f.name)


def test_solvers_follow_limits_that_move_from_sample_to_sample(recalling_case):
    """do-mpc and our own solver plan alike, within what was learnt, and closer to the limit than the tightening."""
    config, _, observer, tightening, recalled = recalling_case
    plant, start = MultiTank(), stages.steady_input(config, 46.0)
    levels, beyond = plant.equilibrium(start), plant.equilibrium(stages.steady_input(config, 62.0))
    own, other = (
        stages.setup(copy.copy(observer), tightening, config, backend, memory=recalled).controller
        for backend in (None, DoMpcBackend)
    )
    for controller in (own, other):
        for _ in range(config.washout + 1):
            controller.record(levels, start)
    limit, first, beyond_tightened = plant.outputs[0].upper, [], []
    for _ in range(12):
        step, twin = (controller.step(levels, beyond) for controller in (own, other))
        np.testing.assert_allclose(step.u, twin.u, atol=2e-3)
        assert step.feasible
        assert twin.feasible
        known = limit - twin.error_interval[1, :, 0]
        assert (twin.y_predicted[1:, 0] <= known[1:] + 1e-3).all()
        first.append(known[1])
        beyond_tightened.append(twin.y_predicted[1, 0] - (limit - recalled.absolute[1, 0]))
        levels = plant.step(levels, step.u)
    assert max(beyond_tightened) > 0.1
    assert np.ptp(first) > 0.1


def test_tables_of_the_report_name_quantities():
    rows = report.quantity_rows(nominal={"runs": 2, "inside_bound": None}, tightened={"runs": 3, "own_word": True})
    assert rows == [
        {"": "runs", "nominal": 2, "tightened": 3},
        {"": "share of realised prediction errors inside the bound", "nominal": None, "tightened": None},
        {"": "own word", "nominal": None, "tightened": True},
    ]
