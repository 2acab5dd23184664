"""The optimisation through the backward recursion: its gradient, its starting point, its descent."""

from dataclasses import replace

import numpy as np
import pytest
from random_systems import random_elman, random_system

from controlrnn.certification.proof import incremental
from controlrnn.certification.proof.incremental import IncrementalForm
from controlrnn.certification.search import riccati
from controlrnn.certification.search.interior import interior
from controlrnn.certification.search.riccati import HorizonObjective, Objective
from controlrnn.errors import CertificationError

SYSTEMS = [
    pytest.param(random_elman(1, nx=3), id="elman"),
    pytest.param(random_system(2, layers=(2, 2)), id="layered"),
    pytest.param(random_system(3, layers=(3,), activation="sigmoid"), id="sigmoid"),
    pytest.param(random_system(4, layers=(2, 1), activation="leaky_relu"), id="leaky"),
    pytest.param(random_system(5, layers=()), id="linear"),
    pytest.param(random_system(6, layers=(3,), norm=1.5, coupling=1.0), id="unstable"),
]


def make_task(system, steps=4, radius=0.7, goal=Objective.WEIGHTED_SUM):
    form = IncrementalForm.of(system)
    c = form.Y[[0]]
    weights = np.linspace(0.2, 1, steps)
    return HorizonObjective(form, c.T @ c, weights, weights * radius**2, np.array([0.3, 0.1]), goal)


def value_of(task, pair):
    theta = np.log(np.hstack(pair)) - np.log(riccati.sizes(task, *pair))[:, None]
    return riccati.Sweep(task).value_and_gradient(theta)[0]


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("goal", list(Objective))
@pytest.mark.parametrize("radius", [0.7, 0.0])
def test_gradient_matches_differences(system, goal, radius):
    task = make_task(system, radius=radius, goal=goal)
    pair = interior(task)
    theta = np.log(np.hstack(pair)) - np.log(riccati.sizes(task, *pair))[:, None]
    sweep = riccati.Sweep(task)
    value, gradient = sweep.value_and_gradient(theta)
    assert np.isfinite(value)
    rng, h = np.random.default_rng(0), 1e-6
    for _ in range(10):
        direction = rng.standard_normal(theta.shape)
        up, _ = sweep.value_and_gradient(theta + h * direction)
        down, _ = sweep.value_and_gradient(theta - h * direction)
        assert (up - down) / (2 * h) == pytest.approx((gradient * direction).sum(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("system", SYSTEMS)
def test_compiled_sweep_is_the_recursion(system):
    task = make_task(system)
    lam, rho = interior(task)
    theta = np.log(np.hstack([lam, rho])) - np.log(riccati.sizes(task, lam, rho))[:, None]
    values, _, P, Z, through = riccati.Sweep(task).forward(theta)
    np.testing.assert_allclose(values, np.hstack([lam, rho]), rtol=1e-9)
    demand = task.terminal
    for j in range(4):
        plain = riccati.stage_of(task.form, demand, lam[j], rho[j])
        np.testing.assert_allclose(P[j], plain[0], rtol=1e-8, atol=1e-10 * np.abs(plain[0]).max())
        np.testing.assert_allclose(Z[j], plain[1], rtol=1e-7, atol=1e-9 * np.abs(plain[1]).max())
        np.testing.assert_allclose(through[j], task.form.T @ Z[j], atol=1e-9)
        demand = task.form.T.T @ plain[0] @ task.form.T


@pytest.mark.parametrize("system", SYSTEMS)
def test_interior_is_feasible_and_the_search_descends(system):
    task = make_task(system)
    start = interior(task)
    found, n = incremental.storages(task.form, task.terminal, *start, padding=0.0)
    assert n == len(found) == 4
    values = [value_of(task, start)]
    for steps in (5, 200):
        better = riccati.minimise(task, start, steps=steps)
        values.append(value_of(task, better))
        assert all((part > 0).all() for part in better)
    assert values[0] > values[1] >= values[2]


@pytest.mark.parametrize("system", SYSTEMS)
def test_objective_is_a_close_upper_bound_of_what_it_says(system):
    """The weighted sum of radius^2 max eig(P_k) + sum_{j<=k} rho_j b^2, the eigenvalue smoothed upwards."""
    task = make_task(system)
    lam, rho = interior(task)
    P, _ = incremental.storages(task.form, task.terminal, lam, rho, padding=0.0)
    total = sum(
        w * (0.7**2 * np.linalg.eigvalsh(P[k])[-1] + (rho[: k + 1] @ task.b**2).sum())
        for k, w in enumerate(task.weights)
    )
    value = np.exp(value_of(task, (lam, rho)))
    assert total * (1 - 1e-9) <= value <= 1.02 * total


def test_infeasible_start_is_refused():
    task = make_task(random_system(2, layers=(2, 2)))
    lam, rho = interior(task)
    with pytest.raises(CertificationError, match="not feasible"):
        riccati.minimise(task, (1e-9 * lam, rho))


def test_nothing_to_choose_returns_the_start():
    task = make_task(random_system(5, layers=()))
    form = IncrementalForm.of(random_system(5, layers=()), np.zeros(2, bool))
    none = replace(task, form=form, terminal=task.terminal[:3, :3], b=np.zeros(0))
    start = interior(none)
    assert riccati.minimise(none, start) is start
