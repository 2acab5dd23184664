"""One constant in known boxes, with slopes of each step: it holds inside, and no other slopes are taken for granted."""

from dataclasses import replace

import numpy as np
import pytest
from random_systems import random_elman, random_system

from controlrnn.certification import certify_lipschitz
from controlrnn.certification.proof import horizon, incremental
from controlrnn.certification.proof.arithmetic.enclosure import Enclosure
from controlrnn.certification.proof.intervals import local_slopes, neurons, slopes_by_step
from controlrnn.errors import CertificationError
from controlrnn.kernels import Recording

N = 4
SYSTEMS = [
    pytest.param(random_elman(1, nx=3), id="elman"),
    pytest.param(random_system(2, layers=(2, 2)), id="layered"),
    pytest.param(random_system(3, layers=(3,), activation="sigmoid"), id="sigmoid"),
    pytest.param(random_elman(5, nx=3, activation="relu"), id="relu"),
    pytest.param(random_system(4, layers=(2, 1), activation="leaky_relu", norm=1.2), id="unstable"),
]
FORM = "controlrnn.certification.{}.lipschitz_form"
SEARCH, PROOF = FORM.format("certificates.lipschitz"), FORM.format("proof.horizon")


def boxes_of(system, inputs=0.5, states=2.0):
    """Inputs in a small box, states from a large one: the first steps know less than the later ones."""
    return {
        "input_range": (-inputs * np.ones(system.nu), inputs * np.ones(system.nu)),
        "state_range": (-states * np.ones(system.nx), states * np.ones(system.nx)),
    }


def joined_form(system, steps, boxes):
    """The same with the slopes of all steps joined."""
    return incremental.IncrementalForm.of(system, slopes=local_slopes(system, *boxes, steps))


def ratios(system, pair):
    """Ratios (S,) of the last outputs' differences to those of everything before, and their gradients by both runs."""
    runs = [Recording(system, u, x) for u, x in pair]
    dy = runs[0].y[:, -1] - runs[1].y[:, -1]
    du, dx = pair[0][0] - pair[1][0], pair[0][1] - pair[1][1]
    square, top = (du**2).sum(axis=(1, 2)) + (dx**2).sum(axis=1), np.linalg.norm(dy, axis=1)
    slopes = []
    for run, sign in zip(runs, (1, -1), strict=True):
        seed = np.zeros_like(run.y)
        seed[:, -1] = sign * dy / np.maximum(top**2, 1e-300)[:, None]
        gu, gx = run.pullback(seed)
        slopes.append((gu - sign * du / square[:, None, None], gx - sign * dx / square[:, None]))
    return top / np.sqrt(square), slopes


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("method", ["sdp", "riccati"])
def test_no_random_pair_and_no_ascent_in_the_boxes_exceeds_the_constant(system, method):
    ends = boxes_of(system)
    constant = certify_lipschitz(system, N, method=method, **ends).constant
    rng = np.random.default_rng(0)
    pair = [
        [
            rng.uniform(*ends["input_range"], (400, N + 1, system.nu)),
            rng.uniform(*ends["state_range"], (400, system.nx)),
        ]
        for _ in range(2)
    ]
    best = first = ratios(system, pair)[0].max()
    for step in range(300):
        value, slopes = ratios(system, pair)
        best = max(best, value.max())
        for run, gradients in zip(pair, slopes, strict=True):
            for place, (end, gradient) in enumerate(zip(ends.values(), gradients, strict=True)):
                size = np.abs(gradient).reshape(len(value), -1).max(axis=1).reshape(-1, *[1] * (gradient.ndim - 1))
                run[place] = np.clip(run[place] + 0.05 * 0.99**step * gradient / np.maximum(size, 1e-300), *end)
    assert first < best <= constant
    # A bound that nothing comes near would hold for the wrong slopes, too.
    assert best > 0.75 * constant


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_step_has_the_slopes_of_its_own_time(system):
    """Chords between any two runs in the boxes have slopes of the form at as many steps to go, and of no fewer."""
    ends = boxes_of(system)
    form = horizon.lipschitz_form(system, N, tuple(ends.values()))
    rng = np.random.default_rng(1)
    states = [rng.uniform(*ends["state_range"], (2000, system.nx)) for _ in range(2)]
    for k in range(N + 1):
        inputs = [rng.uniform(*ends["input_range"], (2000, system.nu)) for _ in range(2)]
        v, w = zip(
            *(
                (a.mid, b.mid)
                for a, b in (neurons(system, *map(Enclosure.of, run)) for run in zip(states, inputs, strict=True))
            ),
            strict=True,
        )
        apart = np.abs(v[0] - v[1]) > 1e-6
        slopes = np.where(apart, (w[0] - w[1]) / np.where(apart, v[0] - v[1], 1.0), form.at(N - k).beta)
        assert (slopes >= form.at(N - k).alpha - 1e-9).all()
        assert (slopes <= form.at(N - k).beta + 1e-9).all()
        states = [
            np.array([system.step(x, u) for x, u in zip(*run, strict=True)]) for run in zip(states, inputs, strict=True)
        ]
    by_step = slopes_by_step(system, *ends.values(), N)
    for own, every in zip((form.alpha, form.beta), by_step, strict=True):
        np.testing.assert_array_equal(own, every[::-1])
    low, high = local_slopes(system, *ends.values(), N)
    np.testing.assert_array_equal(low, by_step[0].min(axis=0))
    np.testing.assert_array_equal(high, by_step[1].max(axis=0))


@pytest.mark.parametrize("system", SYSTEMS[:3])
@pytest.mark.parametrize("togo", range(N + 1))
def test_a_box_of_one_step_that_was_narrowed_by_hand_is_refused(system, togo, monkeypatch):
    ends = boxes_of(system)
    honest = horizon.lipschitz_form

    def narrowed(*arguments):
        form = honest(*arguments)
        beta = form.beta.copy()
        beta[togo] -= 0.1 * (form.beta - form.alpha)[togo]
        return replace(form, beta=beta)

    for name in (SEARCH, PROOF):
        monkeypatch.setattr(name, narrowed)
    forged = certify_lipschitz(system, N, method="sdp", **ends)
    monkeypatch.undo()
    for rigour in ("float64", "ball"):
        with pytest.raises(CertificationError):
            forged.verify(system, rigour=rigour)
        certify_lipschitz(system, N, method="sdp", **ends).verify(system, rigour=rigour)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("size", [0.3, 1.0, 3.0])
def test_slopes_of_each_step_never_give_more_than_joined_ones(system, size, monkeypatch):
    ends = boxes_of(system, size, size)
    own = certify_lipschitz(system, N, method="sdp", **ends).constant
    for name in (SEARCH, PROOF):
        monkeypatch.setattr(name, joined_form)
    joined = certify_lipschitz(system, N, method="sdp", **ends).constant
    assert own <= (1 + 1e-5) * joined


def test_slopes_of_each_step_give_less_where_a_wide_start_is_forgotten(monkeypatch):
    system = random_elman(1, nx=3)
    ends = boxes_of(system, 0.3, 3.0)
    own = certify_lipschitz(system, N, method="sdp", **ends).constant
    for name in (SEARCH, PROOF):
        monkeypatch.setattr(name, joined_form)
    assert own < 0.99 * certify_lipschitz(system, N, method="sdp", **ends).constant


@pytest.mark.parametrize("method", ["sdp", "riccati"])
def test_equal_boxes_give_the_same(method, monkeypatch):
    """Neurons that see the inputs alone have the same slopes at all steps: joined or not, bit for bit."""
    system = random_system(2, layers=(2, 2))
    system = replace(system, C1=0 * system.C1)
    ends = boxes_of(system)
    own = certify_lipschitz(system, N, method=method, **ends)
    assert horizon.lipschitz_form(system, N, tuple(ends.values())).alpha.shape == (N + 1, system.nv)
    for name in (SEARCH, PROOF):
        monkeypatch.setattr(name, joined_form)
    joined = certify_lipschitz(system, N, method=method, **ends)
    assert own.constant == joined.constant
    np.testing.assert_array_equal(own.multipliers, joined.multipliers)


def test_boxes_that_explode_on_the_way_are_known_before_that():
    system = random_system(4, layers=(2, 1), activation="leaky_relu", norm=1e120)
    ends = boxes_of(system)
    alpha, beta = slopes_by_step(system, *ends.values(), 4)
    low, high = local_slopes(system, *ends.values(), 4)
    assert (low, high) == (pytest.approx(0.01), pytest.approx(1.0))
    first = slopes_by_step(system, *ends.values(), 0)
    np.testing.assert_array_equal((alpha[0], beta[0]), (first[0][0], first[1][0]))
    np.testing.assert_array_equal((alpha[-1], beta[-1]), (low, high))


def test_a_form_of_several_recursions_counts_its_stages_through():
    form = replace(
        incremental.IncrementalForm.of(random_elman(1, nx=3)),
        alpha=np.arange(6.0).reshape(2, 3) / 10,
        beta=np.ones((2, 3)),
    )
    np.testing.assert_array_equal(form.at(np.array([0, 1, 2, 3])).alpha, form.alpha[[0, 1, 0, 1]])
    np.testing.assert_array_equal(form.at(1).alpha, form.alpha[1])
    lam, rng = np.random.default_rng(0).random((3, 2, 3)), np.random.default_rng(1)
    z = rng.standard_normal(form.nz)
    S = form.multiplier_form(lam)
    for f in range(3):
        for j in range(2):
            np.testing.assert_allclose(S[f, j], form.at(j).multiplier_form(lam[f, j]))
            np.testing.assert_allclose(form.lower[j] @ z, form.at(j).lower @ z)
            np.testing.assert_allclose(form.upper[j] @ z, form.at(j).upper @ z)
