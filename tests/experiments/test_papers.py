"""The papers' studies: what decides a claim, the parts they are made of, and the page; whole studies are slow."""

import json
import os
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from html_pages import Read
from paper_claims import NO, OPEN, YES, decisions

from controlrnn.errors import FileFormatError, MissingDataError, SettingError
from controlrnn.models import Elman
from controlrnn.systems import MATRICES
from experiments.papers import __main__ as papers
from experiments.papers import classification, noise_plants, noise_robust, rnn_sdp
from experiments.papers.__main__ import STUDIES
from experiments.papers.claims import Claim, decide, decide_all, decide_value, summary
from experiments.papers.classification import Digits, Sequences, Training, accuracy, answers, explicit, train
from experiments.papers.page import COLUMNS, write_page
from experiments.papers.resuming import training_row
from experiments.shared.study import Study


@pytest.mark.parametrize(
    ("differences", "error", "decided"),
    [
        ([1.0, 1.1, 0.9], 0.0, YES),
        ([-1.0, -1.1, -0.9], 0.0, NO),
        ([1.0, -1.0, 0.5], 0.0, OPEN),
        ([1.0, 1.1, 0.9], 1.2, OPEN),
        ([1.0, 1.1], 0.0, OPEN),
        ([], 0.0, OPEN),
        ([1.0, 1.1, None], 0.0, OPEN),
        ([1.0, 1.1, float("nan")], 0.0, OPEN),
        ([0.0, 0.0, 0.0], 0.0, OPEN),
    ],
)
def test_claims_are_decided_where_spread_and_error_allow(differences, error, decided):
    assert decide(differences, error=error) is decided


def test_more_seeds_decide_what_few_leave_open():
    rng = np.random.default_rng(0)
    values = 0.3 + rng.normal(size=400)  # of deviation one, so that few cannot tell
    assert decide(values[:6]) is OPEN
    assert decide(values) is YES


def test_claims_about_every_case_fail_by_one():
    assert decide_all([True, True]) is YES
    assert decide_all([True, False]) is NO
    assert decide_all([]) is OPEN
    assert decide_all([True, None]) is OPEN
    assert decide_all([None, False, True]) is NO


def test_a_published_value_is_met_within_a_half_of_it():
    assert decide_value([0.9, 1.0, 1.1], 1.0) is YES
    assert decide_value([0.9, 1.0, 1.1], 3.0) is NO
    assert decide_value([0.1, 1.0, 1.9], 1.0) is OPEN
    assert decide_value([1.0], 1.0) is OPEN


def test_values_are_told_by_median_and_range():
    assert summary([1.0, float("nan"), 3.0, 2.0]) == "2 (1 .. 3)"
    assert summary([0.5]) == "0.5"
    assert summary([]) == "-"


def sequences(n, seed, steps=6):
    """Class 1 where the mean of the rows is positive."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (n,), generator=rng)
    return Sequences(torch.randn(n, steps, 2, generator=rng) + (2.0 * labels - 1)[:, None, None], labels)


def test_a_classifier_learns_keeps_its_best_epoch_and_does_not_mix_in_test_images():
    data = Digits(sequences(400, 0), sequences(100, 1), sequences(300, 2))
    settings = Training(epochs=4, batch_size=150, learning_rate=0.02)
    models = [Elman(nu=2, ny=2, nx=5, memory=None, seed=0) for _ in range(2)]
    seen = []

    def extra(system, u, x, epoch):
        assert x.shape == (len(u), 7, 5)
        seen.append((epoch, len(u)))
        return 0.0 * system.by.sum()

    trained = train(models[0], data, settings, extra=extra)
    # Every epoch takes every sequence once.
    assert seen == [(epoch, n) for epoch in range(4) for n in (150, 150, 100)]
    assert accuracy(trained.system, data.test) > 0.95
    assert max(trained.validation) == accuracy(trained.system, data.validation)
    again = train(
        Elman(nu=2, ny=2, nx=5, memory=None, seed=0), data, Training(epochs=4, batch_size=150, learning_rate=0.02)
    )
    assert again.validation == trained.validation


def a_training(checkpoint, stop_in=None, **changes):
    """Train for five epochs with a falling rate and a projection; stopped in the middle of an epoch if asked to."""
    data = Digits(sequences(200, 0), sequences(100, 1), sequences(10, 2))
    model = Elman(nu=2, ny=2, nx=5, memory=None, seed=0)
    seen = []

    def extra(system, u, x, epoch):
        seen.append(epoch)
        if epoch == stop_in and seen.count(epoch) == 2:
            raise KeyboardInterrupt
        return 0.1 * x[:, -1].square().mean()

    settings = Training(**{"epochs": 5, "batch_size": 60, "learning_rate": 0.02, "drop_at": 3} | changes)
    cut = partial(noise_robust.cut_norm, model)
    trained = train(model, data, settings, extra=extra, after_step=cut, checkpoint=checkpoint)
    return trained, model.state_dict(), seen


def same_training(one, other):
    for name in MATRICES:
        torch.testing.assert_close(getattr(one[0].system, name), getattr(other[0].system, name), rtol=0, atol=0)
    for name, value in one[1].items():
        torch.testing.assert_close(value, other[1][name], rtol=0, atol=0)
    return one[0].validation == other[0].validation


@pytest.mark.parametrize("stop_in", [0, 1, 4])
def test_a_training_that_was_stopped_goes_on_to_the_same_bits(stop_in, tmp_path):
    file = tmp_path / "a.training"
    whole = a_training(None)
    with pytest.raises(KeyboardInterrupt):
        a_training(file, stop_in=stop_in)
    assert file.exists() == (stop_in > 0)
    rest = a_training(file)
    assert sorted(set(rest[2])) == list(range(stop_in, 5))
    assert same_training(whole, rest)
    again = a_training(file)  # the end is on file, too
    assert not again[2]
    assert same_training(whole, again)


def test_a_checkpoint_of_another_training_is_not_taken(tmp_path):
    file = tmp_path / "a.training"
    a_training(file, epochs=2)
    assert sorted(set(a_training(file, learning_rate=0.01)[2])) == list(range(5))
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(FileFormatError):
        a_training(file)


def test_a_device_that_is_not_there_is_refused():
    for name in ("nothing", f"cuda:{torch.cuda.device_count()}"):
        with pytest.raises(SettingError, match="device"):
            a_training(None, device=name)


def test_a_stopped_row_leaves_its_training_and_a_stored_one_does_not(tmp_path):
    def study(*more):
        return Study.from_command_line("demo", None, ["--quick", "--out", str(tmp_path), *more])

    epochs = []

    def work(checkpoint, stop_in=None):
        trained, _, seen = a_training(checkpoint, stop_in=stop_in)
        epochs.append(sorted(set(seen)))
        return {"validation": trained.validation}

    def stopped(checkpoint):
        return work(checkpoint, stop_in=2)

    file = tmp_path / "one_0.training"
    with pytest.raises(KeyboardInterrupt):
        training_row(study(), "one 0", stopped, needs=1)
    assert file.exists()
    row = training_row(study(), "one 0", work, needs=1)
    assert not file.exists()
    assert epochs == [[2, 3, 4]]
    with pytest.raises(KeyboardInterrupt):
        training_row(study("--fresh"), "one 0", stopped, needs=1)
    assert training_row(study("--fresh"), "one 0", work, needs=1)["validation"] == row["validation"]
    assert epochs[1:] == [[0, 1, 2, 3, 4]]


def test_what_is_kept_does_not_change_with_the_model():
    model = Elman(nu=1, ny=2, nx=3)
    kept = explicit(model)
    before = kept.C1.clone()
    with torch.no_grad():
        model.W.add_(1)
    torch.testing.assert_close(kept.C1, before)
    assert not kept.C1.requires_grad


def test_answers_are_read_after_the_last_sample(monkeypatch):
    monkeypatch.setattr(classification, "AT_ONCE", 3)
    model = Elman(nu=2, ny=2, nx=4).double()
    u = torch.randn(8, 5, 2, dtype=torch.float64)
    x = torch.zeros(8, 4, dtype=torch.float64)
    for t in range(5):
        x = torch.tanh(x @ model.W.T + u[:, t] @ model.U.T + model.b)
    torch.testing.assert_close(answers(explicit(model), u), (x @ model.C.T + model.d).detach())


def test_the_noise_level_is_where_the_error_crosses():
    found = noise_robust.level(lambda sigma: 2 + 4 * sigma, 5)
    assert found == pytest.approx(0.75, abs=0.01)
    assert noise_robust.level(lambda sigma: 6 + sigma, 5) is None
    assert noise_robust.level(lambda sigma: 1.0 + 0 * sigma, 5) is None


def test_the_cut_leaves_singular_values_below():
    model = Elman(nu=2, ny=2, nx=6, memory=None)
    with torch.no_grad():
        model.W.mul_(4)
    before = torch.linalg.svdvals(model.W)
    noise_robust.cut_norm(model)
    torch.testing.assert_close(torch.linalg.svdvals(model.W), before.clamp(max=0.99), rtol=1e-5, atol=1e-6)


def test_bound_16_counts_every_row_and_lies_above_the_noise():
    model = Elman(nu=4, ny=3, nx=5, activation="relu", memory=None, seed=1).double()
    with torch.no_grad():
        model.b.add_(2)
    system = explicit(model)
    a, b, c = (float(torch.linalg.matrix_norm(M, 2)) ** 2 for M in (system.C1, system.D12, system.C2))
    assert float(noise_robust.basic_bound(system, 3)) == pytest.approx(c * b * (1 + a + a**2))
    row = noise_robust.monte_carlo(system, Sequences(torch.randn(20, 28, 4).double(), torch.zeros(20).long()), 0)
    assert all(row[f"{name}_{size}"] for name in ("bound", "theorem_1") for size in ("small", "unit"))
    assert row["estimate_over_found_small"] == pytest.approx(1, abs=0.1)


def test_one_neuron_breaks_the_printed_inequality():
    row = noise_robust.printed_bound()
    assert row["over_printed"] > 3
    assert row["over_proven"] == pytest.approx(1, abs=0.05)


def noise_rows(**changes):
    row = {
        "test_error": 4.0, "norm": 1.0, "sigmas": [None, 0.5, 1.0], "sigma_added": 1.0,
        "curve": [0.0] * len(noise_robust.SIGMAS),
        "theorem_1_small": 0.2, "theorem_1_unit": 0.3, "bound_small": True, "bound_unit": True,
        "estimate_over_found_small": 1.0, "estimate_over_found_unit": 0.9,
    } | changes  # fmt: skip
    return [row | {"norm": row["norm"] * (1 + 0.01 * n)} for n in range(3)]


def test_claims_on_noise_follow_from_the_rows():
    rows = {way: noise_rows() for way in noise_robust.WAYS}
    rows["estimate"] = noise_rows(sigmas=[None, 2.0, 4.0], sigma_added=4.0)
    rows["stable"] = noise_rows(test_error=6.0, norm=0.9)
    printed = {"over_printed": 3.9, "over_proven": 0.99}
    decided = decisions(noise_robust.claims(rows, printed, epochs=200))
    for where in ("an error of 10 %", "its own error plus 10 points"):
        assert decided[f"estimate bears more noise than regular at {where}"] is YES
        assert decided[f"bound bears more noise than regular at {where}"] is OPEN
    assert decided["estimate bears more noise than regular at an error of 3 %"] is OPEN
    assert decided["estimate bears at least three times the noise of regular training (an error of 10 %)"] is YES
    missed = "bound bears 50 % more than the noise of regular training (an error of 10 %)"
    assert decided[missed] is NO
    assert decided["stable training is least accurate"] is YES
    assert decided["noise for an error of 5 %: regular"] is YES, "0.5, published 0.54"
    assert decided["noise for an error of 5 %: estimate"] is YES, "2.0, published 1.47"
    assert decided["noise for an error of 10 %: stable"] is NO, "1.0, published 0.25"
    assert decided["noise for an error of 3 %: bound"] is OPEN, "an error that is larger without noise"
    assert decided["|A| of stable"] is YES
    assert decided["|A| of regular"] is NO
    assert decided["theorem 1: the expected loss grows by at most kappa_L sqrt(rho)"] is YES
    assert decided["the printed inequality (11) bounds the noise"] is NO
    assert decided["inequality (16), with all rows counted, bounds the noise"] is YES
    short = decisions(noise_robust.claims(rows, printed, epochs=4))
    assert short["a basic RNN reaches 98.03 %"] is OPEN
    assert short[missed] is OPEN, "a short training refutes nothing"
    assert short["stable training is least accurate"] is YES
    assert short["noise for an error of 10 %: stable"] is OPEN
    rows["bound"] = noise_rows(bound_unit=False, theorem_1_unit=1.01)
    decided = decisions(noise_robust.claims(rows, printed, epochs=4))
    assert decided["inequality (16), with all rows counted, bounds the noise"] is NO
    assert decided["theorem 1: the expected loss grows by at most kappa_L sqrt(rho)"] is NO


def test_the_tank_is_identified_from_noisy_inputs_and_judged_by_true_levels():
    data, tests, spread = noise_plants.experiments(0)
    again, _, _ = noise_plants.experiments(0)
    np.testing.assert_array_equal(data.train[0].u, again.train[0].u)
    system = noise_plants.model_and_loss("stable", 0)[0].freeze()
    clean, noisy = (noise_plants.prediction_error(system, tests, s * spread, 0) for s in (0.0, 1.0))
    assert clean != noisy
    assert clean == noise_plants.prediction_error(system, tests, 0.0 * spread, 1), "seeds matter only with noise"
    assert noise_plants.tank().inputs[0].upper >= max(r.u.max() for r in tests)


def test_claims_on_the_tank_follow_from_the_rows():
    rows = {
        way: [{"curve": [1.0] * 5 + [size + 0.01 * n], "loops": [1.0, 1.0, 2.0 - 0.01 * n]} for n in range(3)]
        for way, size in (("stable", 3.0), ("regular", 2.0), ("bound", 4.0), ("estimate", 1.0))
    }
    for short, missed in (("", NO), ("briefly trained", OPEN)):
        found = decisions(noise_plants.claims(rows, noise_robust.ORDER, short))
        prediction = "prediction of a tank, noise of twice the inputs' spread"
        assert found[f"estimate errs less than regular: {prediction}"] is YES
        assert found[f"bound errs less than regular: {prediction}"] is missed
        assert found["estimate errs less than bound: closed loop with a tank, actuators off by 0.6 L/min"] is OPEN


def sdp_rows(**changes):
    names = ("sdp", "riccati", "sdp_boxed", "riccati_boxed", "state", "inputs", "active", "active_boxed", "random")
    row = {name: [1.0, 0.8, 0.8] for name in names}
    row |= {"active": [0.995, 0.7, 0.6], "active_boxed": [0.99, 0.69, 0.59], "random": [0.5, 0.4, 0.3]} | changes
    return [{k: (1 + 0.001 * n) * np.array(v) for k, v in row.items()} for n in range(4)]


def test_claims_on_the_constant_follow_from_the_rows():
    rows = [{k: list(v) for k, v in row.items()} for row in sdp_rows()]
    decided = decisions(rnn_sdp.claims(rows, (1, 10, 30)))
    assert decided["no attack exceeds a certified constant"] is YES
    assert decided["the gap to the ascent is below 1 % at length 1"] is YES
    # An ascent that finds little refutes nothing.
    assert decided["the gap stays within 30 % (length 30)"] is OPEN
    assert decided["the constant falls with the sequence length at first (1 to 10)"] is YES
    assert decided["the constant is flat after ten steps (to 30)"] is YES
    assert decided["known boxes save 1.2 % at length 10"] is NO
    saving = [{k: list(v) for k, v in row.items()} for row in sdp_rows(sdp_boxed=[1.0, 0.8 * 0.99, 0.8])]
    assert decisions(rnn_sdp.claims(saving, (1, 10, 30)))["known boxes save 1.2 % at length 10"] is YES
    assert decided["random sampling stays far below the ascent"] is YES
    rows = [{k: list(v) for k, v in row.items()} for row in sdp_rows(active=[1.1, 0.7, 0.6])]
    assert rnn_sdp.claims(rows, (1, 10, 30))[0].decided is NO
    assert rnn_sdp.long_claim([]).decided is OPEN
    assert rnn_sdp.long_claim([{"gap": [9.0, 20.0 + n]} for n in range(5)]).decided is YES
    assert rnn_sdp.long_claim([{"gap": [9.0, 50.0 + n]} for n in range(5)]).decided is OPEN


def test_the_page_holds_claims_and_figures_and_needs_no_other_file(tmp_path):
    claim = Claim(
        paper="P", claim="a < b", published="1 (sec. I)", ours=(1.0, 2.0), decided=NO, unit="%", remark="<remark>"
    )
    folder = tmp_path / "one"
    folder.mkdir()
    (folder / "results.json").write_text(json.dumps({"quick": True, "seconds": 3.0, "claims": [claim.row()]}))
    (folder / "figure.png").write_bytes(b"\x89PNG\r\n\x1a\npicture")
    text = write_page(tmp_path / "papers.html", {"one": folder}).read_text()
    read = Read(text)
    assert [dict(claim.row())] == read.table(*COLUMNS)
    assert "a &lt; b" in text
    assert "&lt;remark&gt;" in text
    assert "1.5 (1 .. 2) %" in text
    assert "data:image/png;base64,iVBORw0KGgpwaWN0dXJl" in text
    assert "1 no" in text
    assert "What does not hold a < b 1.5 (1 .. 2) %" in " ".join(part.strip() for part in read.texts if part.strip())
    assert "What holds" not in text
    assert "What is open" not in text
    (folder / "results.json").write_text(json.dumps({"quick": True, "seconds": 3.0, "claims": [{"claim": "x"}]}))
    for broken in (folder, tmp_path / "absent"):
        with pytest.raises(FileFormatError, match=r"claims"):
            write_page(tmp_path / "papers.html", {"one": broken})


def test_all_studies_run_into_folders_of_their_own_and_a_second_run_takes_over_their_rows(tmp_path, monkeypatch):
    computed = []

    def study_of(name):
        def run(arguments):
            study = Study.from_command_line(f"papers.{name}", None, arguments)
            value = study.row("case", lambda: {"value": computed.append(name) or 1.0})["value"]
            claim = Claim(paper=name, claim="a", published="1", ours=(value,), decided=YES)
            return study.finish(claims=[claim.row()])

        return run

    monkeypatch.setattr(papers, "STUDIES", {name: study_of(name) for name in ("one", "two")})
    for _ in range(2):
        assert papers.main(["--quick", "--out", str(tmp_path)]) == 0
    assert computed == ["one", "two"]
    text = (tmp_path / "papers.html").read_text()
    assert "2 claims: 2 yes" in text
    assert text.count("<h2>") == 2
    assert json.loads((tmp_path / "two" / "results.json").read_text())["quick"]


def test_missing_data_are_said_before_any_study_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("CONTROLRNN_DATA", str(tmp_path))
    ran = []
    monkeypatch.setattr(papers, "STUDIES", {"robust_rnn": ran.append, "noise_robust": ran.append})
    with pytest.raises(MissingDataError, match="mnist"):
        papers.main(["--quick", "--out", str(tmp_path / "out")])
    assert not ran


@pytest.mark.parametrize("options", [[], ["--full"]])
def test_a_full_run_says_its_hours_first(options, tmp_path, monkeypatch, capsys):
    said = []

    def run(arguments):
        said.append(capsys.readouterr().out)
        study = Study.from_command_line("papers.rnn_sdp", None, arguments)
        return study.finish(claims=[])

    assert set(papers.HOURS) == set(papers.STUDIES)
    monkeypatch.setattr(papers, "STUDIES", {"rnn_sdp": run})
    assert papers.main([*options, "--workers", "1", "--out", str(tmp_path)]) == 0
    assert f"rnn_sdp {papers.HOURS['rnn_sdp']}" in said[0]
    assert not json.loads((tmp_path / "rnn_sdp" / "results.json").read_text())["quick"]


@pytest.mark.slow
def test_quick_rnn_sdp(tmp_path, monkeypatch):
    monkeypatch.setattr(rnn_sdp, "NETWORKS", (3, 100))
    assert STUDIES["rnn_sdp"](["--quick", "--out", str(tmp_path)]) == 0
    claims = json.loads((tmp_path / "results.json").read_text())["claims"]
    assert all(set(claim) == set(COLUMNS) for claim in claims)
    assert claims[0]["decided"] == "yes"


@pytest.mark.slow
@pytest.mark.skipif("CONTROLRNN_DATA" not in os.environ, reason="set CONTROLRNN_DATA to the folder of measured data")
def test_quick_noise_robust(tmp_path, monkeypatch):
    whole = classification.digits  # here a thousand training and test images

    def some(shape, **options):
        data = whole(shape, **options | {"most": 1000})
        return replace(data, test=data.test.take(torch.arange(1000)))

    monkeypatch.setattr(noise_robust, "digits", some)
    assert STUDIES["noise_robust"](["--quick", "--out", str(tmp_path)]) == 0
    claims = {c["claim"]: c for c in json.loads((tmp_path / "results.json").read_text())["claims"]}
    assert claims["theorem 1: the expected loss grows by at most kappa_L sqrt(rho)"]["decided"] == "yes"
    assert claims["the printed inequality (11) bounds the noise"]["decided"] == "no"
