"""One step of a tube against rational arithmetic: rows, differences, bounds and the inequality that is proven."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from exact_numbers import definite, exact, holds
from hypothesis import given
from hypothesis import strategies as st
from inequality_cases import FAST, SEEDS, linear
from random_systems import random_system

from controlrnn.certification.proof import intervals, tube
from controlrnn.certification.proof.arithmetic.enclosure import UNIT, Enclosure
from controlrnn.certification.proof.slopes import secant_slopes
from controlrnn.systems import Laws, LureSystem, Neuron

pytest.importorskip("flint", reason="python-flint gives the ball arithmetic (extra audit)")

from controlrnn.certification.ball.arithmetic import number, precision, row
from controlrnn.certification.refutation.trajectories import neurons, step

ROUNDED, SHARES = 1e-3, np.array([2.0, 1.5, 0.75])  # an error that can be seen; tau and the shares of two inputs


LAWS = Laws([Neuron("square", 0.0, 1e8), Neuron("tanh"), Neuron("exponential", -3.0, 1.0)])


def two_steps(activation="tanh", seed=5, **parts):
    """Two steps of a tube of a network of two layers and two uncertain inputs, with rounding as large as ROUNDED."""
    system = random_system(seed, nx=2, layers=(2, 1))
    if activation is LAWS:  # of slopes near 20 000 in the first neuron, whose middle rounds by more than that of others
        weighted = {name: getattr(system, name) * [1e-4, 1.0, 1.0] for name in ("B1", "D11", "D21")}
        system = replace(system, **weighted, bv=system.bv + np.array([1e4, 0.0, 0.0]))
    system = replace(system, activation=activation, **parts)
    rng = np.random.default_rng(seed)
    x0, u = rng.standard_normal(2), rng.standard_normal((3, 2))
    path = system.simulate(u, x0)[1][:-1]
    one = tube.Tube(system, path, u, np.array([[0.3, 0.0], [0.1, 0.2]]), np.array([0.1, 0.05]))
    one.v_error, one.y_error, one.drift = one.v_error + ROUNDED, one.y_error + ROUNDED, 0.01
    for _ in range(2):
        one.look()
        one.advance(np.full(3, 0.3), SHARES, 1e-7)
    return one


def exact_step(one, k):
    """Exact rows of (dv, dy, dx+), with the rest in units of the differences."""
    step, n, m = one.steps[k], 2, 2
    low, high = step.slopes
    rounded = 4 * UNIT * np.maximum(high, 1.0)
    middle, half = exact(0.5 * (low + high)), exact(np.maximum(0.5 * (high - low) + rounded, 1e-6))
    assert (exact(high) - middle <= half).all()
    assert (middle - exact(low) <= half).all()
    E, own, rows = exact(one.E), np.hstack([exact(one.C).dot(exact(one.factors[k][:n, :n])), exact(one.D)]), []
    for i in range(len(E)):
        line = np.concatenate([own[i], np.zeros(3, dtype=object) + Fraction(0)])
        for j in range(min(i, 3)):
            line = line + E[i, j] * middle[j] * rows[j]
            line[n + m + j] += E[i, j] * half[j] * Fraction(step.d[j])
        rows.append(line)
    return np.array(rows)


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "leaky_relu", LAWS], ids=str)
@pytest.mark.parametrize("k", [0, 1])
def test_a_step_holds_all_differences(activation, k):
    one = two_steps(activation)
    found, rows = one.steps[k], exact_step(one, k)
    scaled = np.vstack([rows[:3] / exact(found.d)[:, None], rows[5:], rows[3:5]])
    assert holds(found.rows, scaled)
    assert (found.rows.rad <= 1e-14).all()
    level, drift = (1.0, 0.01) if k == 0 else (SHARES.sum(), None)
    size = np.abs(rows.astype(float))
    spread = np.linalg.norm(size[:, :2], axis=1)
    reach = np.sqrt(level) * spread + size[:, 2:4] @ one.b + size[:, 4:].sum(axis=1)
    assert (found.d >= reach[:3] * (1 - 1e-12)).all()
    if drift is None:
        return
    error = np.zeros(3)
    for i in range(3):
        error[i] = drift * spread[i] + (size[i, 4:] / found.d) @ error + ROUNDED
    assert (found.d >= 2 * error * (1 - 1e-12)).all()
    assert found.d == pytest.approx(np.maximum(reach[:3], 2 * error), rel=1e-9)
    slopes = secant_slopes(activation, one.v[0], error, found.d)
    assert np.allclose(found.slopes, slopes, rtol=1e-11, atol=1e-11)
    small = drift * spread[3:5] + (size[3:5, 4:] / found.d) @ error + 2 * ROUNDED
    first = tube.Tube(one.system, np.zeros((1, 2)), np.zeros((1, 2)), one.factors[0], np.array([0.1, 0.05]))
    first.v, first.drift = one.v, drift
    first.v_error, first.y_error = first.v_error + ROUNDED, first.y_error + ROUNDED
    first.look()
    assert (first.bounds[0] >= (reach[3:5] + small) * (1 - 1e-12)).all()
    assert first.bounds[0] == pytest.approx(reach[3:5] + small, rel=1e-9)


@pytest.mark.parametrize("size", [0.0, 1e-100, 1e300])
def test_rows_of_differences_of_any_size(size):
    """Also of a neuron that nothing reaches."""
    system = random_system(5, nx=2, layers=(2, 1))
    system = replace(
        system, C1=system.C1 * [[0.0], [1.0], [1.0]], D12=system.D12 * [[0.0], [1.0], [1.0]], bv=0 * system.bv
    )
    one = tube.Tube(system, np.zeros((1, 2)), np.zeros((1, 2)), 1e-9 * np.eye(2), 1e-9 * np.ones(2))
    one.v_error = np.full((1, 3), size)
    one.look()
    found, rows = one.steps[0], exact_step(one, 0)
    assert (found.d > 0).all()
    assert (found.d >= 2 * size).all()
    assert (found.rows.rad >= 0).all()
    assert holds(found.rows, np.vstack([rows[:3] / exact(found.d)[:, None], rows[5:], rows[3:5]]))


@FAST
@given(seed=SEEDS, log=st.floats(-16, -5), which=st.sampled_from(["factor", "multiplier", "tau", "share"]))
def test_steps_are_accepted_only_where_they_hold(seed, log, which):
    """Ellipsoids, multipliers and shares that are a hair too small or too large."""
    one, rng = two_steps(seed=7), np.random.default_rng(seed)
    change = 1 + rng.choice([-1, 1]) * 10.0**log
    shares = np.tile(SHARES, (2, 1))
    if which == "factor":
        one.factors[1] = one.factors[1] * change
    elif which == "multiplier":
        one.used[0] = one.used[0] * change
    else:
        shares[0, 0 if which == "tau" else rng.integers(1, 3)] *= change
    one.factors[2] = 2 * one.factors[2]
    if one.margin(shares) > 0:
        assert _inequality_holds(one, shares[0])
    else:
        assert which != "factor" or change < 1 + 1e-9


def test_the_matrices_that_are_proven_hold_the_exact_ones(monkeypatch):
    """Every entry, also where supplies round or all but vanish, and no neuron feels the inputs, which hides it."""
    given = []
    monkeypatch.setattr(tube, "definite_margins", lambda whole, **_: given.append(whole) or np.ones(2))
    one, rng = two_steps(D12=np.zeros((3, 2)), seed=7), np.random.default_rng(7)
    for unit in (1.0, 1e-3, 1e-312, 3e-323):
        shares = np.array([1.0, unit, unit]) * rng.uniform(1, 3, (2, 3))
        one.b = rng.uniform(0.1, 3, 2)
        one.steps = [replace(step, b=one.b) for step in one.steps]
        one.margin(shares)
        for k in range(2):
            assert holds(given[-1][k], _inequality(one, shares[k], k))
            assert (given[-1].rad[k] <= 1e-13 * np.abs(given[-1].mid[k]).max()).all()


def test_supplies_that_all_but_vanish(monkeypatch):
    """Without neurons, whose products have room of their own."""
    given = []
    monkeypatch.setattr(tube, "definite_margins", lambda whole, **_: given.append(whole) or np.ones(1))
    b, shares = np.array([0.7, 3.0]), np.array([[1.0, 1e-323, 1e-322]])
    one = tube.Tube(linear([[0.8]], B2=[[0.5, 0.25]]), np.zeros((2, 1)), np.zeros((2, 2)), np.eye(1), b)
    one.look()
    one.advance(np.zeros(0), np.ones(3), 1e-7)
    one.margin(shares)
    supplied = Enclosure(given[0].mid[0, [1, 2], [1, 2]], given[0].rad[0, [1, 2], [1, 2]])
    assert holds(supplied, exact(shares[0, 1:]) / exact(b) / exact(b))


def test_outputs_that_the_next_ellipsoid_bounds_better():
    """A neuron and an output that differ in other directions: they cannot both be largest."""
    z = np.zeros
    system = LureSystem(
        A=0.5 * np.eye(2), B1=z((2, 1)), B2=z((2, 1)), bx=z(2), C1=np.array([[1.0, 0.0]]), D11=z((1, 1)), D12=z((1, 1)),
        bv=z(1), C2=np.array([[0.0, 1.0], [1.0, 0.0]]), D21=np.ones((2, 1)), D22=z((2, 1)), by=z(2), activation="relu",
        layers=(1,), dt=1.0,
    )  # fmt: skip
    one = tube.Tube(system, z((1, 2)), z((1, 1)), 0.2 * np.eye(2), z(1))
    one.y_error, one.drift = one.y_error + ROUNDED, 0.01
    one.look()
    before, tau, t = one.bounds[0], 0.7, 0.2
    # Slopes of 0 to 1: dy = (0.1, 0.2) xi + 0.1 eta and dy = 0.3 xi_1 + 0.1 eta.
    straight = np.hypot(0.1, 0.2) * 1.01 + 0.1 * 1.01, 0.3 * 1.01 + 0.1 * 1.01
    assert before == pytest.approx(np.array(straight) + 2 * ROUNDED, rel=1e-2)
    one.advance(np.full(1, t), np.array([tau]), 1e-7)
    square = 0.1**2 / (tau - 2 * t) + 0.2**2 / tau + 0.1**2 / (2 * t)
    reached = np.sqrt(square) * (np.sqrt(tau) + np.sqrt(tau) * 0.01) + 2 * ROUNDED
    assert reached < before[0]
    assert one.bounds[0] == pytest.approx([reached, before[1]], rel=1e-6)


def test_the_inequality_of_every_step_is_proven():
    one, shares = two_steps(), np.tile(SHARES, (2, 1))
    assert one.margin(shares) > 0
    assert _inequality_holds(one, SHARES)
    for k in (1, 2):
        bad = two_steps()
        bad.factors[k] = 0.999 * bad.factors[k]
        assert not bad.margin(shares) > 0
    for k in (0, 1):
        for i in range(3):
            less = shares.copy()
            less[k, i] *= 0.9
            assert not one.margin(less) > 0
    assert not one.margin(shares, room=1e15) > 0
    for k in (0, 1):
        large = two_steps()  # what neurons pass on may not be more than what the shares leave for it
        large.used[k] = 50 * large.used[k]
        large.factors = [10 * one for one in large.factors]
        assert not large.margin(shares) > 0


def _inequality_holds(one, shares):
    return definite(_inequality(one, shares, 0))


def _inequality(one, shares, k):
    rows = exact_step(one, k)
    N, Z, F = rows[:3] / exact(one.steps[k].d)[:, None], np.vstack([rows[5:], rows[3:5]]), exact(one.factors[k + 1])
    b, t = exact(one.b), exact(one.used[k])
    supply = np.concatenate([exact(shares[[0, 0]]), exact(shares[1:]) / b / b, 2 * t])
    W = np.diag(supply) - 2 * N.T.dot(t[:, None] * N)
    return np.block([[W, Z.T], [Z, F.dot(F.T)]])


@pytest.mark.parametrize("off", [0.0, 1e-7])
def test_ellipsoids_of_a_linear_system_with_inputs(off):
    """Everything by formula, also where the nominal path is off by more than rounding."""
    a, B, c, D = 0.8, np.array([0.5, -0.25]), 2.0, np.array([0.1, 0.3])
    system = linear([[a]], B2=[B], C2=[[c]], D22=[D])
    b, shares, padding = np.array([0.3, 0.2]), np.array([0.9, 0.2, 0.1]), 1e-6
    u = np.random.default_rng(0).standard_normal((4, 2))
    path = system.simulate(u, np.array([1.0]))[1][:-1] + off * np.arange(4)[:, None] ** 2
    one = tube.Tube(system, path, u, np.array([[0.25]]), b)
    level, drift, L = 1.0, 0.0, 0.25
    for k in range(4):
        one.look()
        assert one.bounds[k][0] == pytest.approx(c * L * (np.sqrt(level) + drift) + np.abs(D) @ b, rel=1e-11)
        if k == 3:
            break
        one.advance(np.zeros(0), shares, padding)
        moved = abs(a * path[k, 0] + B @ u[k] - path[k + 1, 0])
        square = (a * L) ** 2 / shares[0] + ((B * b) ** 2 / shares[1:]).sum()
        L = np.sqrt(square * (1 + padding) + (1e5 * moved) ** 2)
        assert one.factors[-1][0, 0] == pytest.approx(L, rel=1e-11)
        level, drift = shares[0] * level + shares[1:].sum(), np.sqrt(shares[0]) * drift + moved / L
        assert one.level == pytest.approx(level, rel=1e-13)
        assert one.drift == pytest.approx(drift, rel=1e-8, abs=1e-14)
    assert one.margin(np.tile(shares, (3, 1))) > 0


@pytest.mark.parametrize("seed", range(3))
def test_what_a_nominal_path_is_off_by(seed):
    system, rng = random_system(seed, nx=2, layers=(2, 1)), np.random.default_rng(seed)
    u, x0 = rng.standard_normal((4, 2)), rng.standard_normal(2)
    path = system.simulate(u, x0)[1][:-1] + 1e-6 * rng.standard_normal((4, 2))
    v, v_error, x_error, y_error = tube.nominal_path(system, path, u)
    assert (np.concatenate([v_error.ravel(), y_error.ravel(), x_error[-1]]) < 1e-13).all()
    with precision(200):
        for k in range(4):
            true, _ = neurons(system, row(path[k]), row(u[k]))
            after, y = step(system, row(path[k]), row(u[k]))
            assert all(abs(t - number(m)) <= number(r) for t, m, r in zip(true, v[k], v_error[k], strict=True))
            at = intervals.outputs(system, Enclosure.of(path[k]), Enclosure.of(u[k])).mid
            assert all(abs(t - number(m)) <= number(r) for t, m, r in zip(y, at, y_error[k], strict=True))
            if k < 3:
                assert all(
                    abs(t - number(m)) <= number(r) for t, m, r in zip(after, path[k + 1], x_error[k], strict=True)
                )
