"""Tubes, against ball arithmetic: no run leaves them, and what proves nothing is refused."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from exact_numbers import definite, exact
from hypothesis import given
from hypothesis import strategies as st
from inequality_cases import FAST, SEEDS, linear
from random_systems import random_system

from controlrnn.certification.proof import tube
from controlrnn.errors import CertificationError, ControlRnnError
from controlrnn.systems import LureSystem

pytest.importorskip("flint", reason="python-flint gives the ball arithmetic (extra audit)")

from controlrnn.certification.ball.arithmetic import number, precision, row
from controlrnn.certification.refutation.trajectories import simulate

ACTIVATIONS = ["tanh", "sigmoid", "relu", "leaky_relu"]


def claim_of(system, radius, steps=4, b=0.0, x=None, metric=None):
    rng = np.random.default_rng(1)
    x = rng.standard_normal(system.nx) if x is None else x
    return tube.TubeClaim(system, x, rng.standard_normal((steps, system.nu)), radius, metric, b)


def some_proof(claim, passes=1, padding=1e-7, tau=(1.0, 2.0, 4.0, 8.0, 16.0)):
    """Bounds by multipliers and shares that anybody may guess: the smallest tau that is accepted."""
    nv, m = claim.system.nv, len(claim.b)
    for t in (0.3, 1.0, 3.0):
        for one in tau:
            shares = np.tile(np.concatenate([[one], np.full(m, one)]), (passes, claim.steps, 1))
            try:
                return claim.prove(np.full((passes, claim.steps, nv), t), shares, padding), t, one
            except CertificationError:
                continue
    raise AssertionError("no guess is accepted")


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layers", [(3,), (2, 1), ()])
@pytest.mark.parametrize(("radius", "b"), [(0.3, 0.0), (1e-9, 1e-9), (0.0, 0.2), (0.2, 0.1)])
def test_no_run_leaves_its_tube(activation, layers, radius, b):
    system = random_system(5, nx=2, layers=layers, activation=activation, feedthrough=activation != "relu")
    metric = np.array([[2.0, 0.3], [0.3, 1.0]])
    claim = claim_of(system, radius, b=np.array([b, 0.0]), metric=metric)
    (bounds, margin), *_ = some_proof(claim)
    assert 0 < margin <= 1
    rng, L = np.random.default_rng(0), np.linalg.cholesky(np.linalg.inv(metric))
    with precision(300):
        nominal = simulate(system, row(claim.x0), claim.u.tolist())
        for _ in range(12):
            xi = rng.standard_normal(2)
            x = claim.x0 + radius * (1 - 1e-7) * (L @ (xi / np.linalg.norm(xi)))
            u = claim.u + np.array([b, 0.0]) * (1 - 1e-7) * rng.choice([-1.0, 1.0], claim.u.shape)
            other = simulate(system, row(x), u.tolist())
            for p, q, most in zip(nominal.y, other.y, bounds, strict=True):
                assert all(abs(v - w) <= number(m) for v, w, m in zip(p, q, most, strict=True))
    reached = np.abs(system.simulate(u, x)[0] - system.simulate(claim.u, claim.x0)[0]).max()
    assert bounds.max() < 1e3 * (reached + 1e-12)


def test_a_second_pass_is_no_worse_and_bounds_stay_true():
    system = random_system(2, nx=2, layers=(3,), activation="tanh")
    claim = claim_of(system, 0.3, b=0.05)
    (first, _), t, tau = some_proof(claim)
    shares = np.tile([tau] * (1 + len(claim.b)), (2, claim.steps, 1))
    multipliers = np.stack([np.full((claim.steps, 3), factor * t) for factor in (1.0, 0.5)])
    both, _ = claim.prove(multipliers, shares, 1e-7)
    (own, _), (other, _) = (claim.prove(multipliers[[i]], shares[[i]], 1e-7) for i in (0, 1))
    assert (own == first).all()
    assert (both <= np.minimum(own, other) * (1 + 1e-9)).all()
    turned, _ = claim.prove(multipliers[::-1], shares[::-1], 1e-7)
    assert (turned <= np.minimum(own, other) * (1 + 1e-9)).all()
    alone, tight = (claim.run(m, shares[0], 1e-7, None) for m in multipliers)
    helped = claim.run(multipliers[0], shares[0], 1e-7, tight)
    d, known, least = (np.array([one.d for one in run.steps]) for run in (helped, alone, tight))
    assert (d <= known).all()
    assert (d <= least * (1 + 1e-12)).all()
    assert (d < 0.9 * known).any()
    widths = [np.array([one.slopes[1] - one.slopes[0] for one in run.steps]) for run in (helped, alone)]
    assert (widths[0] <= widths[1]).all()
    assert (widths[0] < 0.9 * widths[1]).any()
    flat = np.array([1 - np.tanh(v) ** 2 for v in helped.v[: len(helped.steps)]])
    low, high = (np.array([one.slopes[i] for one in helped.steps]) for i in (0, 1))
    assert (low <= flat).all()
    assert (flat <= high).all()
    assert (helped.factors[-1].max() < alone.factors[-1].max()) or (helped.bounds[-1] < alone.bounds[-1]).any()


def test_bounds_are_in_the_units_of_the_outputs():
    system = random_system(5, nx=2, layers=(3,))
    claim = claim_of(system, 0.3, b=0.1)
    (bounds, _), t, tau = some_proof(claim)
    for factor in (1e-3, 1e3):
        names = ("C2", "D21", "D22", "by")
        other = claim_of(replace(system, **{name: factor * getattr(system, name) for name in names}), 0.3, b=0.1)
        shares = np.full((1, other.steps, 3), tau)
        found, _ = other.prove(np.full((1, other.steps, 3), t), shares, 1e-7)
        assert found == pytest.approx(factor * bounds, rel=1e-6)


def test_steps_that_lead_on_to_an_ellipsoid():
    """As many as the horizon, and one more where neurons reach the outputs."""
    for steps in (1, 4):
        for feedthrough, more in ((False, 0), (True, 1)):
            system = random_system(5, nx=2, layers=(3,), feedthrough=feedthrough)
            assert claim_of(system, 0.3, steps=steps).steps == steps - 1 + more
        ones = replace(system, D21=np.ones_like(system.D21))
        assert claim_of(ones, 0.3, steps=steps).steps == steps
    alone = claim_of(random_system(5, nx=2, layers=(), feedthrough=False), 0.3, steps=1)
    bounds, margin = alone.prove(np.zeros((1, 0, 0)), np.zeros((1, 0, 1)), 1e-7)
    assert margin == 1
    assert (bounds > 0).all()


def test_a_nominal_trajectory_that_overflows_is_refused():
    for size in (1e200, np.inf):
        system = linear([[1e200]], B2=[[0.0]])
        with pytest.raises(ControlRnnError):
            tube.TubeClaim(system, np.array([size]), np.zeros((4, 1)), 0.25, None, 0.0).prove(
                np.zeros((1, 3, 0)), np.full((1, 3, 1), 0.8), 1e-9
            )


def test_a_point_has_differences_too():
    """Where nothing differs, what is divided by is still positive."""
    system = random_system(5, nx=2, layers=(3,))
    one = tube.Tube(system, np.zeros((1, 2)), np.zeros((1, 2)), np.zeros((2, 2)), np.zeros(2))
    one.v_error = np.zeros((1, 3))
    found = one.look()
    assert (found.d > 0).all()
    assert (found.rows.rad >= 0).all()


def test_tubes_of_a_linear_system_are_its_ellipsoids():
    """x+ = A x, y = C x with tau a little above |A|^2: what is known is reached, times sqrt(tau^k)."""
    a = 0.5
    system = linear([[a]], B2=[[0.0]])
    claim = tube.TubeClaim(system, np.array([1.0]), np.zeros((4, 1)), 0.25, None, 0.0)
    bounds, _ = claim.prove(np.zeros((1, 3, 0)), np.full((1, 3, 1), 0.8), 1e-9)
    true = 0.25 * a ** np.arange(4)
    assert (bounds[:, 0] >= true).all()
    assert np.allclose(bounds[:, 0], true, rtol=1e-6)
    assert (claim.rounding() < 1e-15).all()


def test_levels_of_tubes_that_underflow_are_no_proof():
    """tau of 1e-162 each: their product is no float64, but the ellipsoid is as large as the difference."""
    system = random_system(0, nx=3, layers=(), norm=0.9)
    claim = tube.TubeClaim(system, np.zeros(3), np.zeros((6, 2)), 1e-9, None, 0.0)
    shares = np.full((1, 5, 1), 1.0)
    shares[:, :2] = 1e-162
    try:
        bounds, _ = claim.prove(np.zeros((1, 5, 0)), shares, 1e-9)
    except CertificationError:
        return
    dx = 1e-9 * np.eye(3)
    reached = np.abs(system.simulate(claim.u, np.zeros(3))[0] - system.simulate(np.zeros((3, 6, 2)), dx)[0]).max(axis=0)
    assert (bounds >= reached * (1 - 1e-6)).all()


def test_multipliers_of_tubes_that_underflow_are_no_proof():
    n, least = 10, 5e-324
    z = np.zeros
    system = LureSystem(
        A=z((n, n)), B1=np.eye(n), B2=z((n, 1)), bx=z(n), C1=np.full((n, n), 0.9 / n), D11=z((n, n)), D12=z((n, 1)),
        bv=z(n), C2=np.ones((1, n)) / np.sqrt(n), D21=z((1, n)), D22=z((1, 1)), by=z(1), activation="relu",
        layers=(n,), dt=1.0,
    )  # fmt: skip
    claim = tube.TubeClaim(system, z(n), z((2, 1)), 1e-9, None, 0.0)
    with pytest.raises(CertificationError):
        claim.prove(np.full((1, 1, n), least), np.full((1, 1, 1), least), 1e-9)


def test_tubes_without_states():
    """A static network: its outputs differ as much as its inputs make them, whatever the ellipsoids say."""
    z = np.zeros
    system = LureSystem(
        A=z((0, 0)), B1=z((0, 1)), B2=z((0, 1)), bx=z(0), C1=z((1, 0)), D11=z((1, 1)), D12=np.ones((1, 1)), bv=z(1),
        C2=z((1, 0)), D21=np.ones((1, 1)), D22=z((1, 1)), by=z(1), layers=(1,), dt=1.0,
    )  # fmt: skip
    claim = tube.TubeClaim(system, z(0), z((3, 1)), 0.0, None, 0.5)
    (bounds, _), *_ = some_proof(claim)
    assert (bounds >= np.tanh(0.5)).all()
    assert (bounds <= 0.6).all()
    still = tube.Tube(system, z((1, 0)), z((1, 1)), z((0, 0)), z(1))
    still.v_error = z((1, 1))
    assert (still.look().d > 0).all()


@pytest.mark.parametrize("bad", [
    {"multipliers": -1.0}, {"multipliers": np.nan}, {"multipliers": np.inf}, {"shares": -1.0}, {"shares": np.nan},
    {"shares": np.inf}, {"shares": 0.0}, {"padding": 0.0}, {"padding": 1.0}, {"padding": np.nan},
], ids=lambda bad: "-".join(bad))  # fmt: skip
def test_passes_that_prove_nothing(bad):
    claim = claim_of(random_system(5, nx=2, layers=(3,)), 0.3, b=0.1)
    _, t, tau = some_proof(claim)
    numbers = {"multipliers": t, "shares": tau, "padding": 1e-7} | bad
    multipliers, shares = np.full((1, claim.steps, 3), t), np.full((1, claim.steps, 3), tau)
    multipliers[0, 1], shares[0, 1] = numbers["multipliers"], numbers["shares"]
    with pytest.raises(CertificationError):
        claim.prove(multipliers, shares, numbers["padding"])
    good = np.full((1, claim.steps, 3), t), np.full((1, claim.steps, 3), tau), 1e-7
    assert claim.prove(*good)[1] > 0
    for wrong in ((good[0][:, 1:], good[1]), (good[0], good[1][:, 1:]), (good[0][:0], good[1][:0]),
                  (np.concatenate([good[0]] * 2), good[1]), (good[0][..., 1:], good[1])):  # fmt: skip
        with pytest.raises(CertificationError, match="shapes"):
            claim.prove(*wrong, 1e-7)


def test_a_path_that_starts_elsewhere_is_refused():
    class Elsewhere:
        def __init__(self, system):
            self._system = system

        def __getattr__(self, name):
            return getattr(self._system, name)

        def simulate(self, u, x0):
            return self._system.simulate(u, np.asarray(x0) + 1.0)

    with pytest.raises(CertificationError, match="start"):
        claim_of(Elsewhere(random_system(5, nx=2, layers=(3,))), 0.3)


@FAST
@given(seed=SEEDS, log=st.integers(-100, 100))
def test_starting_ellipsoids_cover_the_set(seed, log):
    rng = np.random.default_rng(seed)
    B = rng.standard_normal((3, 3)) + 2 * np.eye(3)
    M, r = 0.5 * (B @ B.T + (B @ B.T).T), 10.0**log
    L = tube.covering(M, r)
    K = exact(L).T.dot(exact(M)).dot(exact(L))
    assert definite(K - Fraction(r) ** 2 * exact(np.eye(3)))
    assert not definite(K - (Fraction(r) * Fraction(1 + 1e-6)) ** 2 * exact(np.eye(3)))
    assert not tube.covering(M, 0.0).any()
    for bad in (-M, np.full((3, 3), np.nan)):
        with pytest.raises(CertificationError):
            tube.covering(bad, r)


@pytest.mark.parametrize("log", [8, 10, 12])
@pytest.mark.parametrize("seed", range(4))
def test_starting_ellipsoids_of_flat_sets_cover_them_or_are_refused(seed, log):
    """Where the inverse has lost digits, the first guess covers too little."""
    rng = np.random.default_rng(seed)
    Q = np.linalg.qr(rng.standard_normal((3, 3)))[0]
    M = Q @ np.diag([1.0, 10.0 ** (-0.5 * log), 10.0**-log]) @ Q.T
    M = 0.5 * (M + M.T)
    try:
        L = tube.covering(M, 1.0)
    except CertificationError:
        return
    assert definite(exact(L).T.dot(exact(M)).dot(exact(L)) - exact(np.eye(3)))


@pytest.mark.parametrize("seed", range(4))
def test_rounding_in_ellipsoids_whose_inverse_is_not_known_well(seed):
    rng = np.random.default_rng(seed)
    for log in (5.0, 6.5, *np.arange(7.0, 8.5, 0.02)):  # in the end F^-1 is not known at all
        F = np.eye(3) + np.tril(10.0**log * rng.uniform(0.5, 1, (3, 3)), -1)
        F[2, 0] = -F[2, 0]  # so that both ways to the last state add up
        try:
            rho = Fraction(tube.covered_rounding(F, np.ones(3)))
        except CertificationError:
            assert log > 7
            continue
        rows, xi = exact(F), []
        e = exact(np.array([1.0, -1.0, 1.0]))
        for i in range(3):
            xi.append(e[i] - sum((rows[i, j] * xi[j] for j in range(i)), Fraction(0)))
        assert sum(v * v for v in xi) <= rho * rho


@FAST
@given(seed=SEEDS, log=st.integers(-100, 100))
def test_rounding_of_the_nominal_path_is_covered(seed, log):
    rng = np.random.default_rng(seed)
    F = np.tril(rng.standard_normal((3, 3)) + 3 * np.eye(3)) * 10.0 ** rng.uniform(-2, 2, (3, 1))
    error = 10.0**log * rng.random(3)
    rho = Fraction(tube.covered_rounding(F, error))
    rows = exact(F)
    worst = 0.0
    for signs in ([1, 1, 1], [1, -1, 1], [-1, 1, 1], [1, 1, -1]):
        e, xi = exact(error) * exact(np.array(signs)), []
        for i in range(3):
            xi.append((e[i] - sum((rows[i, j] * xi[j] for j in range(i)), Fraction(0))) / rows[i, i])
        assert sum(v * v for v in xi) <= rho * rho
        worst = max(worst, float(sum(v * v for v in xi)) ** 0.5)
    assert float(rho) <= np.linalg.norm(np.abs(np.linalg.inv(F)) @ error) * (1 + 1e-6)
    assert tube.covered_rounding(F, np.zeros(3)) == 0
    for flat in (0.0, np.nan):
        with pytest.raises(CertificationError, match="flat"), np.errstate(all="ignore"):
            tube.covered_rounding(np.diag([1.0, 1.0, flat]), error)
