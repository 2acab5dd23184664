"""The Lipschitz RNN's study: propositions, perturbed images, curvature, and claims that need long training."""

import json
import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from paper_claims import NO, OPEN, YES, decisions
from torch.nn.functional import cross_entropy

from controlrnn.models import Elman
from experiments.papers import classification, curvature, lipschitz_claims, lipschitz_rnn, perturbations
from experiments.papers.classification import Digits, Sequences, answers, explicit


def sequences(n, seed, steps=6):
    """Class 1 where the mean of the rows is positive."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(2, (n,), generator=rng)
    return Sequences(torch.randn(n, steps, 2, generator=rng) + (2.0 * labels - 1)[:, None, None], labels)


def test_propositions_fail_as_printed_and_hold_as_corrected():
    row = lipschitz_rnn.propositions(0)
    assert row["printed_2"] < 0.9
    real = np.linalg.eigvals(lipschitz_rnn.mixed(np.random.default_rng(0).normal(size=(6, 6)), 1.0, 0.5)).real
    np.testing.assert_allclose(real, -0.5, atol=1e-9, err_msg="of the skew mixture: below the printed ends, both 0")
    assert row["corrected_2"] == row["corrected_1"] == 1
    assert row["conditions"] >= 20
    assert row["grown_1"] > 1e5


def test_the_studys_units_are_the_papers():
    """A of eq. (9) from the model's own parameters, steps and starts of the released code."""
    model = lipschitz_rnn.UNITS["lipschitz"][0](seed=0).double()
    A = lipschitz_rnn.mixed(model.M.detach().numpy(), 0.75, 0.001)
    np.testing.assert_allclose(model.freeze().A, np.eye(128) + 0.03 * A, atol=1e-12)
    assert model.M.std().item() == pytest.approx(0.1 / 128, rel=0.03)
    for unit, step in (("antisymmetric", 0.01), ("ode", 0.03)):
        np.testing.assert_allclose(lipschitz_rnn.UNITS[unit][0](seed=0).freeze().B1, step * np.eye(128), atol=1e-9)


def test_units_learn_the_pendulum_and_a_skew_mixture_attracts_nothing():
    """Figure 1 of the paper: with beta = 1 trajectories go round an equilibrium instead of into it."""
    ends = {}
    for beta in (0.65, 1.0):
        x = torch.tensor([[1.0, 0.0]], dtype=torch.float64)
        system = lipschitz_rnn.pendulum_unit(beta, 0).system()
        runs = [x]
        with torch.no_grad():
            for _ in range(400):
                runs.append(lipschitz_rnn.stepped(system, runs[-1]))
        ends[beta] = torch.cat(runs[-100:]).std(dim=0).norm().item()
    assert ends[0.65] < 0.01
    assert ends[1.0] > 0.3
    assert len(lipschitz_rnn.vector_fields(0).axes) == len(lipschitz_rnn.FIELDS)


def test_perturbed_images_are_perturbed_as_told():
    rng = torch.Generator().manual_seed(0)
    data = Sequences(torch.full((50, 98, 8), 0.5), torch.zeros(50).long())
    pixels = perturbations.salted(data, 0.2, rng).u
    for value in (0.0, 1.0):
        assert (pixels == value).float().mean().item() == pytest.approx(0.1, rel=0.1)
    assert (pixels == 0.5).float().mean().item() == pytest.approx(0.8, rel=0.02)
    assert (perturbations.white(data, 0.3, rng).u - 0.5).std().item() == pytest.approx(0.3, rel=0.02)


def test_the_attack_raises_the_loss_within_its_radius_and_the_pixels():
    data = sequences(60, 0)
    data = replace(data, u=data.u.sigmoid())
    system = explicit(Elman(nu=2, ny=2, nx=5, seed=1))
    moved = perturbations.attacked(system, data)
    assert (moved.u - data.u).abs().max() <= 0.07 + 1e-6
    assert moved.u.min() >= 0
    assert moved.u.max() <= 1
    before, after = (torch.nn.functional.cross_entropy(answers(system, d.u), d.labels) for d in (data, moved))
    assert after > before


@pytest.mark.parametrize("short", [True, False])
def test_claims_on_units_need_long_training(short):
    row = {"accuracy": 97.0, "pgd": 90.0, "white": [96.0, 90.0, 70.0], "salt": [95.0, 90.0, 80.0]}
    rows = {unit: [dict(row, accuracy=row["accuracy"] + 0.1 * n) for n in range(3)] for unit in lipschitz_rnn.UNITS}
    for n, one in enumerate(rows["cayley"]):
        one["accuracy"] = 94.0 + 0.1 * n
    theory = lipschitz_rnn.propositions(0)
    decided = decisions(lipschitz_rnn.claims(rows, theory, short=short))
    assert decided["more accurate than cayley: clean"] is (OPEN if short else YES)
    assert decided["more accurate than ode: after PGD"] is OPEN
    assert decided["a Hurwitz A makes every equilibrium stable"] is NO
    assert decided["Re lambda(A) - gamma lies within (1 - beta) lambda(M + M') - gamma"] is NO
    assert decided["Re lambda(A) lies within (1 - beta) lambda(M + M') - gamma"] is YES


def test_deepfool_finds_the_distance_of_a_linear_boundary_in_both_norms():
    """An RNN of one sample and slope one is linear; the distance to its boundary is known."""
    model = Elman(nu=3, ny=2, nx=3, activation="relu", memory=None, seed=1).double()
    with torch.no_grad():
        model.b.fill_(100.0)  # far inside the linear part
    system, u = explicit(model), torch.rand(20, 1, 3, dtype=torch.float64)
    gap = answers(system, u).diff(dim=1)[:, 0].abs()
    normal = (system.C2[1] - system.C2[0]) @ system.D12
    for infinity, dual, order in ((False, normal.norm(), 2.0), (True, normal.abs().sum(), torch.inf)):
        size = torch.linalg.vector_norm(u.flatten(1), ord=order, dim=1)
        found = perturbations.fooling(system, u, infinity=infinity)
        torch.testing.assert_close(found, 1.02 * gap / dual / size, rtol=1e-3, atol=1e-5)


def test_what_cannot_be_fooled_says_so():
    model = Elman(nu=2, ny=2, nx=3, memory=None, seed=0)
    with torch.no_grad():
        model.C.zero_()
        model.d.copy_(torch.tensor([5.0, -5.0]))
    assert torch.isinf(perturbations.fooling(explicit(model), torch.rand(4, 3, 2), infinity=False)).all()


def test_the_spectrum_is_that_of_the_hessian():
    model, data = Elman(nu=2, ny=2, nx=3, memory=None, seed=0).double(), sequences(30, 0, steps=4)
    weights = [model.W, model.U, model.C]  # as many as the study's: without d and b

    def loss(*values):
        W, U, C = values
        x = torch.zeros(30, 3, dtype=torch.float64)
        for t in range(4):
            x = torch.tanh(x @ W.T + data.u[:, t].double() @ U.T + model.b)
        return cross_entropy(x @ C.T + model.d, data.labels)

    blocks = torch.autograd.functional.hessian(loss, tuple(weights))
    sizes = [w.numel() for w in weights]
    H = torch.cat(
        [
            torch.cat([b.reshape(m, n) for b, n in zip(row, sizes, strict=True)], 1)
            for row, m in zip(blocks, sizes, strict=True)
        ]
    )
    values = torch.linalg.eigvalsh(H)
    found = curvature.spectrum(model, data, steps=sum(sizes), draws=400, seed=0)
    assert found.largest == pytest.approx(values[-1].item(), rel=1e-4)
    assert found.least == pytest.approx(values[0].item(), rel=1e-2, abs=1e-5)
    # Four deviations of Hutchinson's estimate.
    doubt = 4 * (2 * (H.square().sum() - H.diagonal().square().sum()).item() / 400) ** 0.5
    assert found.trace == pytest.approx(values.sum().item(), abs=doubt)


def test_permuted_digits_are_the_same_pixels_in_one_other_order():
    data = Digits(sequences(5, 0), sequences(4, 1), sequences(3, 2))
    moved = lipschitz_rnn.permuted(data)
    for before, after in zip((data.train, data.test), (moved.train, moved.test), strict=True):
        torch.testing.assert_close(before.u.flatten(1).sort().values, after.u.flatten(1).sort().values)
        assert not torch.equal(before.u, after.u)
    both = torch.cat([data.train.u, data.test.u]).flatten(1), torch.cat([moved.train.u, moved.test.u]).flatten(1)
    order = [int((both[0] == both[1][:, k : k + 1]).all(dim=0).nonzero()[0]) for k in range(12)]
    assert sorted(order) == list(range(12))


def more_rows():
    rows = {
        unit: [
            {
                "permuted": {"accuracy": a + 0.1 * n},
                "deepfool_2": f,
                "deepfool_inf": None,
                "largest": big,
                "trace": 10 * big,
                "least": -0.1,
            }
            for n in range(3)
        ]
        for unit, a, f, big in (
            ("lipschitz", 90.0, 0.2, 0.1),
            ("antisymmetric", 80.0, 0.1, 0.3),
            ("ode", 95.0, 0.2, 0.2),
            ("cayley", 80.0, 0.1, 0.3),
        )
    }
    variants = {
        "alpha": {v: [{"accuracy": 90 - 9 * abs(v - 1) + 0.1 * n} for n in range(3)] for v in lipschitz_rnn.ALPHAS},
        "beta": {v: [{"accuracy": 90 - 9 * abs(v - 0.65) + 0.1 * n} for n in range(3)] for v in lipschitz_rnn.BETAS},
        "implicitness": {v: [{"accuracy": 90 + 0.1 * n} for n in range(3)] for v in (0.0, 1.0)},
    }
    carts = {unit: {"rate": 0.9, "nse_3": 0.1} for unit in lipschitz_rnn.UNITS}
    return rows, variants, carts, {"ordered 128": [{"accuracy": 99.0 + 0.01 * n} for n in range(3)]}


def test_further_claims_follow_from_the_rows():
    found = decisions(lipschitz_claims.more_claims(*more_rows(), short=False))
    assert found["99.0 % of single pixels with 128 states, ordered"] is YES
    assert found["97.2 % of single pixels with 128 states, permuted"] is OPEN
    assert found["98.1 % of single pixels with 64 states, ordered"] is OPEN
    assert found["more accurate than antisymmetric: permuted pixels"] is YES
    assert found["more accurate than ode: permuted pixels"] is NO
    assert found["harder to fool than antisymmetric: DeepFool, 2-norm"] is YES
    assert found["harder to fool than antisymmetric: DeepFool, inf-norm"] is OPEN
    assert found["flatter than ode: trace of the Hessian"] is YES
    assert found["the linear part helps: alpha 1 before 0"] is YES
    assert found["mixtures are best: beta 0.65 before 1"] is YES
    assert found["the explicit scheme is as accurate as IMEX"] is YES
    assert found["the Hessian has a condition number"] is NO
    assert found["units identified on the carts are stable"] is YES
    assert found["most accurate on pixels of CIFAR10"] is OPEN


def test_a_short_training_decides_no_claim_about_it():
    rows, variants, carts, pixels = more_rows()
    carts["ode"]["rate"] = None
    short = decisions(lipschitz_claims.more_claims(rows, variants, carts, pixels, short=True))
    assert set(short.values()) == {OPEN}


@pytest.mark.slow
@pytest.mark.skipif("CONTROLRNN_DATA" not in os.environ, reason="set CONTROLRNN_DATA to the folder of measured data")
def test_quick_lipschitz_rnn(tmp_path, monkeypatch):
    whole = classification.digits

    def some(shape, **options):
        data = whole(shape, **options | {"most": 500})
        return replace(data, test=data.test.take(torch.arange(300)))

    tiny = replace(lipschitz_rnn.QUICK, epochs=1, fooled=5, lanczos=3, carts=20)
    monkeypatch.setattr(lipschitz_rnn, "QUICK", tiny)
    monkeypatch.setattr(lipschitz_rnn, "digits", some)
    assert lipschitz_rnn.main(["--quick", "--out", str(tmp_path)]) == 0
    claims = json.loads((tmp_path / "results.json").read_text())["claims"]
    assert {c["decided"] for c in claims} == {"yes", "no", "not decided"}
    assert (tmp_path / "perturbed.png").exists()
