"""A report shows the numbers of its parts, and does without any part."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import mpc
from controlrnn.certification import certify_contraction, certify_delta_iss
from controlrnn.data import Dataset, Signal, Trajectory
from controlrnn.errors import SettingError, ShapeError
from controlrnn.greybox import Equations, FitOptions, Parameter, fit_equations, trace
from controlrnn.identification import (
    Candidate,
    Family,
    SimulationError,
    Trial,
    free_run,
    identify,
    identify_arx,
    initial_states,
)
from controlrnn.models import GRU, LSTM, Elman
from controlrnn.report import Parts, report_page, write_report
from controlrnn.report.page import html_of
from tests.html_pages import Read
from tests.road_case import HORIZON, LIMIT, road

PARTS = (
    "about", "outputs", "inputs", "data", "checked", "fit", "certificates", "attack", "model_error", "observer",
    "tightening", "loops", "files",
)  # fmt: skip


def given_parts():
    r = road()
    return {
        "title": "One tank", "about": "May it run near its limit?", "outputs": r.plant.outputs,
        "inputs": r.plant.inputs,
        "data": r.data, "checked": r.checked, "fit": r.fit,
        "certificates": {"contraction": r.contraction, "predictions": r.predictions}, "attack": r.attack,
        "model_error": r.error, "observer": r.observer, "tightening": r.tightening, "loops": r.loops,
        "files": {"model": "model.npz"},
    }  # fmt: skip


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = write_report(Parts(**given_parts()), tmp_path_factory.mktemp("report") / "report.html")
    return Read(path.read_text(encoding="utf-8"))


def test_data_are_those_of_the_records(page):
    r = road()
    parts = {row["used for"]: row for row in page.table("used for", "records")}
    assert parts["estimation"]["samples"] == str(sum(len(t) for t in r.data.train))
    assert parts["calibration (seen by no model)"]["records"] == "10"
    level = page.table("channel", "smallest")[1]
    y = np.concatenate([t.y for t in r.data.all])
    assert (level["name"], level["unit"], level["upper limit"]) == ("level 1", "cm", "12")
    assert level["largest"] == f"{y.max():.4g}"
    found = page.table("weight", "where")
    assert [row["what"] for row in found] == [f.what for f in r.checked.findings]
    gains = page.table("from", "gain")
    assert gains[0]["time constant [s]"] == f"{r.checked.dynamics.time_constants[0, 0]:.4g}"
    assert page.table("washout", "window")[0]["horizon"] == str(r.checked.advice.horizon)


def test_models_stand_side_by_side_with_their_errors(page):
    fit = road().fit
    rows = {row["model"]: row for row in page.table("model", "states")}
    assert set(rows) == {f"{fit.chosen} (chosen)", *(e.name for e in fit.entries if e.name != fit.chosen)}
    for entry in fit.entries:
        row = rows[f"{entry.name} (chosen)" if entry.name == fit.chosen else entry.name]
        assert row["RMSE level 1 [cm]"] == f"{entry.test.rmse[0]:.4g}"
        assert row["fit level 1 [%]"] == f"{entry.test.fit_percent[0]:.4g}"
        assert row["states"] == str(entry.system.nx)
    assert fit.reason in page.text


def test_the_budget_adds_up(page):
    t = road().tightening
    k = 1 + int(t.total[1:, 0].argmax())
    rows = page.table("taken on each side", "of half the range [%]")
    *parts, whole = rows
    assert rows[0]["output"] == "level 1 [cm]"
    assert rows[0]["step"] == str(k)
    named = {row["part"]: row for row in parts}
    assert named["model error (calibrated)"]["taken on each side"] == f"{t.model_error[k, 0]:.4g}"
    assert named["error of the state estimate (certified)"]["taken on each side"] == f"{t.reinitialisation[k, 0]:.4g}"
    assert len(named) == 2  # what takes nothing is not there
    assert whole["taken on each side"] == f"{t.total[k, 0]:.4g}"
    assert whole["of half the range [%]"].startswith(f"{100 * t.total[k, 0] / (LIMIT / 2):.4g};")
    assert sum(bool(row["what would shrink it"]) for row in rows) == 1


def test_bounds_stand_against_what_was_reached_and_met(page):
    r = road()
    certified, met = r.tightening.reinitialisation + r.tightening.input_error, r.loops["tightened"].realised
    row = page.table("reached by attack", "largest error met")[-1]
    assert row["step"] == str(HORIZON)
    assert row["certified part"] == f"{certified[-1, 0]:.4g}"
    assert row["reached by attack"] == f"{r.attack.differences[-1, 0]:.4g}"
    assert row["certified part over attack"] == f"{certified[-1, 0] / r.attack.differences[-1, 0]:.4g}"
    assert row["largest error met"] == f"{met[-1, 0]:.4g}"
    assert row["of the bound [%]"] == f"{100 * met[-1, 0] / r.tightening.predictive[-1, 0]:.4g}"


def test_loops_are_counted(page):
    r = road()
    many, one = r.loops["tightened"].summary(), r.loops["nominal"]
    rows = {row[""]: row for row in page.table("tightened", "nominal")}
    assert rows["runs within their limits"]["tightened"] == f"{3 - many['runs_with_violation']} of 3"
    assert rows["runs within their limits"]["nominal"] == f"{int(one.violations == 0)} of 1"
    assert rows["largest violation"]["nominal"] == f"{one.max_violation:.4g}"
    assert one.violations > 0  # so that the two differ
    assert rows["mean cost (tracking and moves)"]["tightened"] == f"{many['cost']:.4g}"
    met = r.loops["tightened"].coverage_met()
    assert rows["probability of that, 95 % interval"]["tightened"] == f"{met.lower:.3g} to {met.upper:.3g}"
    assert rows["probability of that, 95 % interval"]["nominal"] == "–"


def test_promises_premises_and_digests_are_word_for_word(page):
    r = road()
    for promise in (r.tightening.promise, r.error.promise, r.predictions.summary(), r.observer.describe()):
        assert " ".join(promise.split()) in " ".join(page.text.split())
    stated = {row["premise"]: row["as stated"] for row in page.table("premise", "as stated")}
    assert stated["true minus recorded input, at most"] == "0.02"
    assert stated["prediction steps"] == str(HORIZON)
    digests = {row["part"]: row["SHA-256 of its values"] for row in page.table("part", "SHA-256 of its values")}
    assert digests["model"] == r.fit.system.digest
    assert digests["tightening"] == r.tightening.digest
    assert digests["certificate, predictions"] == r.predictions.digest
    proofs = {row["certificate"]: row for row in page.table("certificate", "speaks of model")}
    assert proofs["contraction"]["proven again for this report"] == f"holds, margin {r.contraction.margin:.4g}"


def test_the_summary_says_it_in_short(page):
    rows = {row[""]: row["found"] for row in page.table("", "found")}
    assert rows["certificates"] == "2 of 2 proven again for this report"
    assert rows["loops, nominal"] == "0 of 1 runs within their limits"
    share = 100 * road().tightening.total[1:, 0].max() / (LIMIT / 2)
    assert rows["range of level 1"].startswith(f"{share:.3g} % is taken")
    assert rows["promise"] == road().tightening.promise


def test_charts_are_there_with_texts_for_those_who_do_not_see_them(page):
    charts = [a for a in page.all("svg") if a.get("class") == "chart"]
    assert len(charts) == page.elements.count(("title", {})) - 1  # each says what it is, and so does the page
    assert len(charts) == 7


@pytest.mark.parametrize("left_out", [*PARTS, None])
def test_every_part_may_be_missing(left_out):
    parts = given_parts()
    parts = {"title": parts["title"]} if left_out is None else {k: v for k, v in parts.items() if k != left_out}
    assert Read(html_of(report_page(Parts(**parts)))).text


@pytest.mark.parametrize("alone", PARTS)
def test_every_part_may_be_alone(alone):
    assert Read(html_of(report_page(Parts(title="t", **{alone: given_parts()[alone]})))).text


@pytest.mark.slow
def test_a_trained_network_shows_its_training_and_a_worse_one_is_marked():
    r = road()
    data = Dataset(r.data.train, r.data.validation, r.data.test)
    fit = identify(
        Elman(nu=1, ny=1, nx=2),
        data,
        loss=SimulationError(washout=20),
        steps=4,
        window=40,
        batch_size=2,
        validate_every=2,
        skip=20,
    )
    arx = identify_arx(r.data.train, 1, 1, strictly_proper=True).system
    page = Read(html_of(report_page(Parts(title="t", data=data, fit=fit, baselines={"arx": arx}))))
    rows = page.table("model", "states")
    assert [row["model"] for row in rows] == ["Elman (chosen)", "arx"]
    assert rows[0]["RMSE level 1 [cm]"].endswith("worse than linear")
    assert "How training went" in page.text
    alone = Read(html_of(report_page(Parts(title="t", data=data, fit=fit))))
    assert alone.table("model", "states")[0]["RMSE level 1 [cm]"] == f"{fit.scores['test'].rmse[0]:.4g}"
    assert "nothing shows whether the network pays" in alone.text


@pytest.mark.parametrize("kind", [LSTM, GRU])
def test_a_gated_fit_is_reported_as_any_other_with_its_certificate(kind):
    r = road()
    model = kind(nu=1, ny=1, nx=2)
    with torch.no_grad():
        for weight in model.parameters():
            weight.mul_(0.3)
    fit = identify(
        model,
        r.data,
        loss=SimulationError(washout=20),
        steps=2,
        window=40,
        batch_size=2,
        validate_every=1,
        start="as_is",
        skip=20,
    )
    proof = certify_delta_iss(fit.system, input_range=(np.array([1.0]), np.array([3.0])))
    arx = identify_arx(r.data.train, 1, 1, strictly_proper=True).system
    parts = Parts(title="t", data=r.data, fit=fit, baselines={"arx": arx}, certificates={"delta-ISS": proof})
    page = Read(html_of(report_page(parts)))
    (own, linear) = page.table("model", "states")
    assert own["model"] == f"{kind.__name__} (chosen)"
    assert (own["states"], own["neurons"]) == (str(fit.system.nx), "2")
    runs, _ = free_run(fit.system, r.data.test, initial_states(fit.system, r.data.test, 20))
    expected = np.sqrt(np.mean([np.square(y - t.y)[20:] for y, t in zip(runs, r.data.test, strict=True)]))
    assert float(own["RMSE level 1 [cm]"].split(",")[0]) == pytest.approx(expected, rel=1e-3)
    assert linear["model"] == "arx"
    assert page.table("certificate", "made by")[0]["proven again for this report"].startswith("holds")
    assert fit.system.digest in page.text
    turned = Parts(title="t", data=r.data, fit=r.fit, baselines={"gated": fit.system})
    assert "gated" in {row["model"] for row in Read(html_of(report_page(turned))).table("model", "states")}


def test_candidates_of_a_search_are_listed_the_best_first():
    r = road()
    sizes = [Candidate(Family.FREE, 2, n) for n in (3, 5)]
    trials = [Trial(one, np.array([1.0, e]), 2, 0.1) for one, e in zip(sizes, (0.7, 0.4), strict=True)]
    page = Read(html_of(report_page(Parts(title="t", data=r.data, fit=replace(r.fit, trials=tuple(trials))))))
    rows = page.table("candidate", "error, left-out blocks")
    assert [row["candidate"] for row in rows] == [sizes[1].label, sizes[0].label]
    assert [row["error, left-out blocks"] for row in rows] == ["0.4", "0.7"]


def test_a_grey_box_shows_its_parameters_with_their_deviations():
    level, pump = Signal("level", "cm", 1.0, 60.0), Signal("pump", "L/min", 0.0, 4.0)
    equations = Equations(
        dynamics=lambda x, u, p, ops: p["b"] * u - p["k"] * ops.sqrt(x),
        output=lambda x, u, p, ops: 1.0 * x,  # noqa: ARG005  # the signature of equations
        states=[level],
        inputs=[pump],
        parameters=[Parameter("k", 0.1, 0.0, 1.0), Parameter("b", 0.2, 0.0, 1.0)],
        dt=10.0,
        substeps=1,
    )
    rng, truth = np.random.default_rng(0), trace(equations).system
    records = []
    for _ in range(3):
        u = np.repeat(rng.uniform(1.0, 3.0, size=(12, 1)), 5, axis=0)
        y = truth.simulate(u, np.array([20.0]))[0] + 0.05 * rng.normal(size=(60, 1))
        records.append(Trajectory(u, y, 10.0, inputs=(pump,), outputs=(level,)))
    fit = fit_equations(equations, records[:2], FitOptions(iterations=20))
    page = Read(html_of(report_page(Parts(title="t", data=Dataset(records[:2], (), records[2:]), fit=fit))))
    rows = {row["parameter"]: row for row in page.table("parameter", "standard deviation")}
    assert rows["k"]["value"] == f"{fit.values['k']:.4g}"
    assert rows["b"]["standard deviation"] == f"{fit.deviations['b']:.4g}"
    assert float(page.table("model", "states")[0]["RMSE level [cm]"]) < 0.1


def test_a_proof_that_fails_and_one_of_another_model_are_said():
    r = road()
    forged = replace(r.contraction, rate=0.5 * r.contraction.rate)
    other = certify_contraction(next(e.system for e in r.fit.entries if e.name != r.fit.chosen))
    stranger = certify_contraction(identify_arx(r.data.train[:1], 1, 1, strictly_proper=True).system)
    certificates = {"forged": forged, "other": other, "stranger": stranger}
    page = Read(html_of(report_page(Parts(title="t", fit=r.fit, certificates=certificates))))
    rows = {row["certificate"]: row["proven again for this report"] for row in page.table("certificate", "made by")}
    assert rows["forged"].startswith("fails: ")
    assert rows["other"].startswith("holds")
    assert rows["stranger"].startswith("not tried")
    (row,) = [row for row in page.table("", "found") if row[""] == "certificates"]
    assert row["found"].startswith("1 of 3")


def test_a_bound_that_an_attack_or_a_loop_breaks_is_marked():
    r = road()
    parts = given_parts() | {"attack": 3 * r.attack.differences}
    assert "the bound is broken" in Read(html_of(report_page(Parts(**parts)))).text
    parts = given_parts() | {"realised": 10 * r.tightening.predictive}
    page = Read(html_of(report_page(Parts(**parts))))
    assert "1000, exceeded" in page.text
    (row,) = [row for row in page.table("", "found") if row[""] == "bounds"]
    assert row["found"].endswith("1e+03 % of its bound")


def test_errors_of_loops_under_other_limits_are_not_held_against_this_bound():
    r = road()
    others = {
        "other": mpc.MonteCarloResult(
            tuple(replace(one, bounds=2 * one.bounds) for one in r.loops["tightened"].results)
        )
    }
    page = Read(html_of(report_page(Parts(title="t", tightening=r.tightening, loops=others))))
    assert "largest error met" not in page.text


def test_models_that_diverge_and_missing_samples_do_not_hide_the_rest():
    r = road()
    some = r.data.test[0]
    y = np.array(some.y)
    y[30:40] = np.nan
    data = Dataset(r.data.train, (), (replace(some, y=y),))
    system = r.fit.system
    wild = replace(system, A=np.full((system.nx, system.nx), 60.0))
    page = Read(html_of(report_page(Parts(title="t", data=data, fit=r.fit, baselines={"wild": wild}))))
    rows = {row["model"]: row for row in page.table("model", "states")}
    assert rows["wild"]["RMSE level 1 [cm]"] == "inf"
    assert float(rows["arx"]["RMSE level 1 [cm]"]) < 1
    parts = page.table("used for", "missing outputs [%]")
    assert parts[-1]["missing outputs [%]"] == f"{100 * 10 / 120:.4g}"
    paths = [a["d"] for a in page.all("path") if "d" in a]
    assert not any("nan" in d or "inf" in d for d in paths)


def test_wrong_parts_are_refused():
    r = road()
    for wrong, error in (
        ({"fit": 3}, SettingError), ({"tightening": r.error}, SettingError), ({"loops": {"a": 3}}, SettingError),
        ({"loops": [r.loops["nominal"]]}, SettingError), ({"certificates": {"a": r.error}}, SettingError),
        ({"observer": "washout"}, SettingError), ({"baselines": {"a": 1}}, SettingError), ({"data": 3}, SettingError),
        ({"attack": np.zeros(3)}, ShapeError), ({"residuals": r.error}, SettingError),
        ({"tightening": r.tightening, "outputs": [Signal("a"), Signal("b")]}, ShapeError),
    ):  # fmt: skip
        with pytest.raises(error):
            Parts(title="t", **wrong)
