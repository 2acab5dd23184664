"""The difference system against two runs, sector by sector; its recursion and an observer's rounding by formula."""

from dataclasses import replace

import numpy as np
import pytest
from exact_numbers import exact
from random_systems import random_system

from controlrnn.certification.proof import incremental as inc
from controlrnn.certification.proof.incremental import IncrementalForm
from controlrnn.certification.proof.slopes import global_slopes
from controlrnn.errors import CertificationError
from controlrnn.systems.activations import LEAK


def a_system(activation="leaky_relu", seed=3, **more):
    return random_system(seed, nx=2, nu=3, ny=2, layers=(2, 1), activation=activation, **more)


def neurons(s, x, u):
    w = np.zeros(s.nv)
    for start, stop in s.blocks:
        v = s.C1 @ x + s.D11 @ w + s.D12 @ u + s.bv
        values = {"tanh": np.tanh, "leaky_relu": lambda v: np.where(v > 0, v, LEAK * v), "relu": lambda v: v.clip(0)}
        w[start:stop] = values[str(s.activation)](v)[start:stop]
    return s.C1 @ x + s.D11 @ w + s.D12 @ u + s.bv, w


def two_runs(s, use, seed=0):
    """Differences dx, du (of the inputs in use), dw, dv, dx+ and dy of two runs."""
    rng = np.random.default_rng(seed)
    x, u = rng.standard_normal(s.nx), rng.standard_normal(s.nu)
    dx, du = rng.standard_normal(s.nx), np.where(use, rng.standard_normal(s.nu), 0.0)
    (v, w), (v2, w2) = neurons(s, x, u), neurons(s, x + dx, u + du)
    after, y = s.step(x + dx, u + du) - s.step(x, u), s.output(x + dx, u + du) - s.output(x, u)
    return dx, du[use], w2 - w, v2 - v, after, y


@pytest.mark.parametrize("activation", ["tanh", "leaky_relu", "relu"])
@pytest.mark.parametrize("use", [None, [True, False, True], [False, False, False]])
def test_differences_of_two_runs(activation, use):
    s = a_system(activation)
    flags = np.ones(3, bool) if use is None else np.array(use)
    form = IncrementalForm.of(s, None if use is None else flags)
    assert (form.nx, form.nu, form.nv, form.nz) == (2, flags.sum(), 3, 5 + flags.sum())
    dx, du, dw, dv, after, y = two_runs(s, flags)
    z = np.concatenate([dx, du, dw])
    for M, wanted in ((form.T, after), (form.Y, y), (form.N, dv), (form.W, dw)):
        np.testing.assert_allclose(M @ z, wanted, atol=1e-13)
    low, high = global_slopes(activation)
    assert form.alpha.tolist() == [low] * 3
    assert form.beta.tolist() == [high] * 3
    np.testing.assert_allclose(form.lower @ z, dw - low * dv, atol=1e-13)
    np.testing.assert_allclose(form.upper @ z, high * dv - dw, atol=1e-13)
    assert form.spread is None


def test_the_difference_of_one_input_at_equal_states():
    s = a_system()
    for channel in range(3):
        flags = np.arange(3) == channel
        _, du, _, _, _, _ = two_runs(s, flags)
        w = np.array([0.3, -0.7, 1.1])
        form = IncrementalForm.of_input(s, channel)
        assert (form.nx, form.nu, form.nz) == (0, 1, 4)
        z = np.concatenate([du, w])
        np.testing.assert_allclose(form.T @ z, s.B2[:, channel] * du[0] + s.B1 @ w, atol=1e-13)
        np.testing.assert_allclose(form.Y @ z, s.D22[:, channel] * du[0] + s.D21 @ w, atol=1e-13)
        np.testing.assert_allclose(form.N @ z, s.D12[:, channel] * du[0] + s.D11 @ w, atol=1e-13)


def test_slopes_and_spreads_are_passed_on():
    s = a_system()
    slopes = np.array([0.1, 0.2, 0.3]), np.array([0.5, 0.6, 0.7])
    spread = np.arange(16.0).reshape(2, 8)
    flags = np.array([True, False, True])
    form = IncrementalForm.of(s, flags, slopes, spread)
    assert form.alpha is slopes[0]
    assert form.beta is slopes[1]
    assert form.spread.tolist() == np.delete(spread, 3, axis=1).tolist()
    still = IncrementalForm.of_input(s, 2, spread)
    assert still.spread.tolist() == spread[:, [4, 5, 6, 7]].tolist()
    assert still.T.tolist() == np.hstack([s.B2[:, [2]], s.B1]).tolist()
    with pytest.raises(CertificationError, match="exactly"):
        form.with_inputs_as_states(np.array([True, True]))
    equal = form.at_equal_states()
    assert (equal.nx, equal.nu) == (0, 2)
    assert equal.alpha is slopes[0]
    assert equal.beta is slopes[1]
    assert equal.N.tolist() == form.N[:, 2:].tolist()
    assert equal.Y.tolist() == form.Y[:, 2:].tolist()


def test_other_coordinates():
    form, rng = IncrementalForm.of(a_system()), np.random.default_rng(0)
    left, right = rng.standard_normal((2, 2)), rng.standard_normal((8, 8))
    other = form.in_coordinates(left, right)
    np.testing.assert_allclose(other.T, left @ form.T @ right)
    np.testing.assert_allclose(other.Y, form.Y @ right)
    np.testing.assert_allclose(other.N, form.N @ right)
    assert (other.nx, other.nu, other.alpha is form.alpha, other.beta is form.beta) == (2, 3, True, True)


def test_inputs_that_are_states_change_by_the_new_inputs():
    s = a_system()
    flags, change = np.array([True, False, True]), np.array([False, True])
    form = IncrementalForm.of(s, flags).with_inputs_as_states(change)
    assert (form.nx, form.nu, form.nv) == (4, 1, 3)
    dx, du, dw, dv, after, y = two_runs(s, flags)
    moved = np.array([0.25])
    z = np.concatenate([dx, du - np.array([0.0, 0.25]), moved, dw])
    np.testing.assert_allclose(form.T @ z, np.concatenate([after, du]), atol=1e-13)
    np.testing.assert_allclose(form.Y @ z, y, atol=1e-13)
    np.testing.assert_allclose(form.N @ z, dv, atol=1e-13)
    assert form.alpha.tolist() == [LEAK] * 3
    assert form.beta.tolist() == [1.0] * 3


@pytest.mark.parametrize("activation", ["tanh", "leaky_relu"])
def test_sectors_and_supplies(activation):
    form, rng = IncrementalForm.of(a_system(activation)), np.random.default_rng(0)
    lam, z = rng.random((2, 4, 3)), rng.standard_normal(8)
    S = form.multiplier_form(lam)
    assert S.shape == (2, 4, 8, 8)
    dv, dw = form.N @ z, form.W @ z
    wanted = (2 * lam * (dw - form.alpha * dv) * (form.beta * dv - dw)).sum(axis=-1)
    np.testing.assert_allclose(np.einsum("i,abij,j->ab", z, S, z), wanted, rtol=1e-12)
    np.testing.assert_allclose(S, S.swapaxes(-1, -2))
    P, rho = np.array([[2.0, 0.5], [0.5, 1.0]]), np.array([3.0, 4.0, 5.0])
    dx, du = z[:2], z[2:5]
    assert z @ form.supply(P, rho) @ z == pytest.approx(dx @ P @ dx + rho @ du**2, rel=1e-12)


@pytest.mark.parametrize("ny", [1, 4])
def test_what_rounding_does_to_an_observer(ny):
    rng = np.random.default_rng(ny)
    s = random_system(ny, nx=3, nu=2, ny=ny, layers=(2,))
    gain = rng.standard_normal((3, ny))
    spread = inc.observer_spread(s, gain)
    assert spread.shape == (3, 3 + 2 + ny + 2)
    first = 0
    for X, Y in ((s.A, s.C2), (s.B2, s.D22), (None, None), (s.B1, s.D21)):
        if X is None:
            assert not spread[:, first : first + ny].any()
            first += ny
            continue
        columns = slice(first, first + X.shape[1])
        first += X.shape[1]
        size = np.abs(X) + np.abs(gain) @ np.abs(Y)
        assert (spread[:, columns] >= (ny + 1) * 2.0**-53 * size).all()
        assert (spread[:, columns] <= (ny + 5) * 2.0**-53 * size).all()
        true = exact(X) - exact(gain).dot(exact(Y))
        for order in (np.arange(ny), np.arange(ny)[::-1]):
            found = X.copy()
            for i in order:
                found = found - gain[:, [i]] * Y[[i]]
            error = np.abs(exact(found) - true)
            assert (error <= exact(spread[:, columns])).all()


def holds(form, P, rho, demanded, lam):
    """Whether blkdiag(P, R, 0) - H - S is positive definite."""
    return np.linalg.eigvalsh(form.supply(P, rho) - demanded - form.multiplier_form(lam))[0] > 0


@pytest.mark.parametrize("activation", ["tanh", "leaky_relu"])
def test_the_smallest_storage(activation):
    form = IncrementalForm.of(a_system(activation, coupling=0.1))
    lam, rho = np.full(3, 3.0), np.full(3, 200.0)
    demanded = form.Y.T @ form.Y
    P = inc.smallest_storage(form, demanded, lam, rho, 0.0)
    assert (P == P.T).all()
    skew = 1e-9 * np.abs(demanded).max() * np.triu(np.ones_like(demanded))
    assert (askew := inc.smallest_storage(form, demanded + skew, lam, rho, 0.0)) is not None
    assert (askew == askew.T).all()
    more = inc.smallest_storage(form, demanded, lam, rho, 1e-6)
    assert holds(form, more, rho, demanded, lam)
    assert not holds(form, P * (1 - 1e-6), rho, demanded, lam)
    np.testing.assert_allclose(more, P, rtol=2e-5)
    scale = np.sqrt(np.diag(P))
    row = (np.abs(P) / scale).max(axis=1)  # in units in which the diagonal is one, largest entry of a row
    np.testing.assert_allclose(np.diag(more - P), 1e-6 * scale * (row + scale), rtol=1e-4)
    assert (more - P)[0, 1] == 0
    assert inc.smallest_storage(form, demanded, lam, np.full(3, 1e-3), 0.0) is None
    unseen = inc.smallest_storage(form, 0 * demanded, np.full(3, 1e-300), rho, 0.0)
    assert unseen is not None
    assert (np.diag(unseen) > 0).all()


def test_nothing_is_stored_where_there_is_no_state():
    still = IncrementalForm.of(a_system()).at_equal_states()
    P = inc.smallest_storage(still, still.Y.T @ still.Y, np.full(3, 30.0), np.full(3, 200.0), 1e-9)
    assert P.shape == (0, 0)


def test_storages_of_several_recursions():
    s = a_system("tanh", coupling=0.1)
    form = IncrementalForm.of(s)
    lam, rho = np.random.default_rng(0).uniform(3, 4, (2, 3, 3)), np.full((2, 3, 3), 300.0)
    terminal = np.array([np.outer(y, y) for y in form.Y])
    padding = np.array([1e-9, 1e-3])
    found, stages = inc.all_storages(form, terminal, lam, rho, padding)
    assert stages == len(found) == 3
    for f in range(2):
        demanded = terminal[f]
        for j in range(3):
            P = inc.smallest_storage(form, demanded, lam[f, j], rho[f, j], padding[f])
            np.testing.assert_allclose(found[j][f], P, rtol=1e-9)
            demanded = form.T.T @ P @ form.T
        alone, count = inc.storages(form, terminal[f], lam[f], rho[f], padding[f])
        assert count == 3
        for j in range(3):
            np.testing.assert_array_equal(alone[j], found[j][f])
    little = rho.copy()
    little[1, 2] = 1e-6
    found, stages = inc.all_storages(form, terminal, lam, little, padding)
    assert (len(found), stages) == (2, 2)


@pytest.mark.parametrize("unit", [1e-60, 1.0, 1e60])
def test_states_that_no_output_sees_have_a_storage_in_any_unit(unit):
    s = random_system(0, nx=2, nu=1, ny=1, layers=())
    s = replace(s, A=np.diag([0.5, 0.5]), C2=np.array([[unit, 0.0]]), B2=0 * s.B2, D22=0 * s.D22)
    form = IncrementalForm.of(s, np.zeros(1, bool))
    found, _ = inc.storages(form, form.Y.T @ form.Y, np.zeros((3, 0)), np.zeros((3, 0)), 1e-9)
    for j, P in enumerate(found):
        assert P[0, 0] == pytest.approx(unit**2 * 0.25**j, rel=1e-6)
        assert 0 < P[1, 1] < 1e-200 * max(unit**2, 1.0)


def test_the_largest_value_of_a_quadratic():
    G = np.array([[2.0, 0.5, -0.3], [0.5, -1.0, 0.2], [-0.3, 0.2, -3.0]])
    best = np.linalg.solve(-G[1:, 1:], G[1:, 0])
    assert inc.schur_top(G) == pytest.approx(np.r_[1, best] @ G @ np.r_[1, best], rel=1e-12)
    assert inc.schur_top(G[:1, :1]) == 2.0
    assert inc.schur_top(G[:2, :2]) == pytest.approx(2.25, rel=1e-12)
    assert inc.schur_top(-G) == np.inf


@pytest.mark.parametrize(
    ("scale", "value", "expected"),
    [(1.0, 1e-240, 1e-240), (1e250, 1e-20, 1e-270), (1e250, 1.0, 1e-250), (1e-250, 1e-250, 1.0), (1.0, 0.0, 2.5e-251)],
)
def test_ratios_to_metrics_of_any_size(scale, value, expected):
    """That of nothing is stated as the least that can be proven with a metric of that size."""
    found = inc.largest_ratio(value * np.diag([1.0, 0.5]), scale * np.diag([1.0, 4.0]))
    assert expected * (1 - 1e-15) <= found <= expected * (1 + 1e-9)
