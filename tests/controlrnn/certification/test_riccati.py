"""The optimisation through the backward recursion: its gradient, its starting point, its descent."""

from dataclasses import replace

import numpy as np
import pytest
from random_systems import random_elman, random_system

from controlrnn.certification import incremental, riccati
from controlrnn.certification.incremental import IncrementalForm
from controlrnn.certification.riccati import Task
from controlrnn.errors import CertificationError

SYSTEMS = [
    pytest.param(random_elman(1, nx=3), id="elman"),
    pytest.param(random_system(2, layers=(2, 2)), id="layered"),
    pytest.param(random_system(3, layers=(3,), activation="sigmoid"), id="sigmoid"),
    pytest.param(random_system(4, layers=(2, 1), activation="leaky_relu"), id="leaky"),
    pytest.param(random_system(5, layers=()), id="linear"),
    pytest.param(random_system(6, layers=(3,), norm=1.5, coupling=1.0), id="unstable"),
]


def make_task(system, steps=4, radius=0.7, smooth=False):
    form = IncrementalForm.of(system)
    c = form.Y[[0]]
    weights = np.linspace(0.2, 1, steps)
    return Task(form, c.T @ c, weights, radius, np.array([0.3, 0.1]), smooth)


@pytest.mark.parametrize("system", SYSTEMS)
@pytest.mark.parametrize("smooth", [True, False])
@pytest.mark.parametrize("radius", [0.7, 0.0])
def test_gradient_matches_differences(system, smooth, radius):
    task = make_task(system, radius=radius, smooth=smooth)
    theta = np.log(np.hstack(riccati.interior(task)))
    value, gradient = riccati._value_and_gradient(task, theta)
    assert np.isfinite(value)
    rng, h = np.random.default_rng(0), 1e-5
    for _ in range(10):
        direction = rng.standard_normal(theta.shape)
        up, _ = riccati._value_and_gradient(task, theta + h * direction)
        down, _ = riccati._value_and_gradient(task, theta - h * direction)
        assert (up - down) / (2 * h) == pytest.approx((gradient * direction).sum(), rel=1e-5, abs=1e-7)


@pytest.mark.parametrize("system", SYSTEMS)
def test_interior_is_feasible_and_the_search_descends(system):
    task = make_task(system)
    start = riccati.interior(task)
    found, n = incremental.storages(task.form, task.terminal, *start, padding=0.0)
    assert n == len(found) == 4
    values = [riccati._value_and_gradient(task, np.log(np.hstack(start)))[0]]
    for steps in (5, 200):
        better = riccati.minimise(task, start, steps=steps)
        values.append(riccati._value_and_gradient(task, np.log(np.hstack(better)))[0])
        assert all((part > 0).all() for part in better)
    assert values[0] > values[1] >= values[2]


@pytest.mark.parametrize("system", SYSTEMS)
def test_objective_is_what_it_says(system):
    """The value is the logarithm of the weighted sum of radius^2 max eig(P_k) + sum_{j<=k} rho_j b^2."""
    task = make_task(system)
    lam, rho = riccati.interior(task)
    P, _ = incremental.storages(task.form, task.terminal, lam, rho, padding=0.0)
    total = sum(
        w * (0.7**2 * np.linalg.eigvalsh(P[k])[-1] + (rho[: k + 1] @ task.b**2).sum())
        for k, w in enumerate(task.weights)
    )
    value, _ = riccati._value_and_gradient(task, np.log(np.hstack([lam, rho])))
    assert np.exp(value) == pytest.approx(total, rel=1e-10)


def test_infeasible_start_is_refused():
    task = make_task(random_system(2, layers=(2, 2)))
    lam, rho = riccati.interior(task)
    with pytest.raises(CertificationError, match="not feasible"):
        riccati.minimise(task, (1e-9 * lam, rho))


def test_nothing_to_choose_returns_the_start():
    task = make_task(random_system(5, layers=()))
    form = IncrementalForm.of(random_system(5, layers=()), np.zeros(2, bool))
    none = replace(task, form=form, terminal=task.terminal[:3, :3], b=np.zeros(0))
    start = riccati.interior(none)
    assert riccati.minimise(none, start) is start
