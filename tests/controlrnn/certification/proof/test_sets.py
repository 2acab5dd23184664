"""Slopes, intervals, reachable sets, gates and tubes against ball arithmetic: sets hold what they are said to hold."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from exact_numbers import definite, exact
from hypothesis import example, given, settings
from hypothesis import strategies as st
from random_systems import random_elman, random_system

from controlrnn.certification.proof import intervals, reachable, slopes, tube
from controlrnn.certification.proof.arithmetic.enclosure import Enclosure
from controlrnn.certification.proof.gated import Comparison
from controlrnn.certification.proof.stationary import prove_contraction
from controlrnn.errors import CertificationError, ControlRnnError
from controlrnn.systems import GatedSystem, LureSystem
from controlrnn.systems.activations import LEAK

flint = pytest.importorskip("flint", reason="python-flint gives the ball arithmetic (extra audit)")

from controlrnn.certification.ball.arithmetic import number, precision, row  # noqa: E402
from controlrnn.certification.ball.intervals import apply, derivative  # noqa: E402
from controlrnn.certification.refutation.trajectories import neurons, simulate, step  # noqa: E402
from controlrnn.systems import Activation  # noqa: E402

SEEDS = st.integers(0, 2**32 - 1)
FAST = settings(max_examples=40, deadline=None)
ACTIVATIONS = ["tanh", "sigmoid", "relu", "leaky_relu"]


def slope_of(activation, v):
    if activation in ("tanh", "sigmoid"):
        return derivative(Activation(activation), number(v))
    return number(1.0 if v > 0 else LEAK if activation == "leaky_relu" else 0.0)


def chord(activation, a, b):
    s = Activation(activation)
    return (apply(s, number(b)) - apply(s, number(a))) / (number(b) - number(a))


def test_the_same_leak_everywhere():
    assert slopes.LEAK == LEAK


@pytest.mark.parametrize("activation", ACTIVATIONS)
@FAST
@given(seed=SEEDS)
def test_slopes_on_intervals(activation, seed):
    rng = np.random.default_rng(seed)
    size = 10.0 ** rng.uniform(-9, 2)
    low = size * rng.standard_normal(6)
    high = low + size * 10.0 ** rng.uniform(-6, 1) * rng.random(6)
    alpha, beta = slopes.slopes_on(activation, (low, high))
    least, most = slopes.global_slopes(activation)
    with precision(200):
        for a, b, p, q in zip(low, high, alpha, beta, strict=True):
            points = [float(a), float(b), *(rng.uniform(a, b, 3))]
            points += [0.0] if a <= 0 <= b and "relu" not in activation else []
            found = [slope_of(activation, v) for v in points if a <= v <= b]
            assert all(number(p) <= s <= number(q) for s in found)
            if "relu" not in activation:
                assert p >= max(float(min(map(float, found))) - 1.1e-12, least) - 1e-15
                assert q <= min(float(max(map(float, found))) + 1.1e-12, most) + 1e-15
            assert least <= p <= q <= most


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_slopes_where_they_are_known(activation):
    ends = np.array([-np.inf, -3.0, 2.0, 0.0, -1.0]), np.array([np.inf, -2.0, 3.0, 1.0, 0.0])
    alpha, beta = slopes.slopes_on(activation, ends)
    least, most = slopes.global_slopes(activation)
    assert (alpha[0], beta[0]) == (least, most)
    if "relu" in activation:
        assert np.allclose(alpha, [least, least, 1, 1, least], atol=2e-12, rtol=0)
        assert np.allclose(beta, [1, least, 1, 1, least], atol=2e-12, rtol=0)
    else:
        assert beta[3] == beta[4] == most
        assert beta[1] == beta[2] < 0.8 * most
    chords = slopes.secant_slopes(activation, np.array([-3.0, 3.0, 0.0]), np.zeros(3), np.array([1.0, 1.0, 1e-200]))
    if "relu" in activation:
        assert np.allclose(chords, [[least, 1, least], [least, 1, 1]], atol=2e-12, rtol=0)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@settings(max_examples=60, deadline=None)
@given(seed=SEEDS, base=st.floats(-6, 6), le=st.floats(-12, 0.5), lr=st.floats(-9, 1.5))
@example(seed=0, base=0.0, le=-12.0, lr=0.0)
@example(seed=0, base=0.5, le=-12.0, lr=0.3)
@example(seed=0, base=1.0, le=-3.0, lr=1.0)
def test_chords_with_one_known_end(activation, seed, base, le, lr):
    rng = np.random.default_rng(seed)
    error, reach = rng.random() * 10.0**le * (rng.random() < 0.7), rng.random() * 10.0**lr
    (alpha,), (beta,) = slopes.secant_slopes(activation, np.array([base]), np.array([error]), np.array([reach]))
    least, most = slopes.global_slopes(activation)
    assert least <= alpha <= beta <= most
    with precision(200):
        for a in (base - error, base, base + error):
            for b in (a + reach * np.array([-1.0, -0.7, -0.4, -0.1, 0.01, 0.5, 1.0])).tolist():
                allowed = abs(Fraction(a) - Fraction(base)) <= Fraction(error)
                if allowed and a != b and abs(Fraction(b) - Fraction(a)) <= Fraction(reach):
                    found = chord(activation, a, b)
                    assert not found < number(alpha)
                    assert not found > number(beta)
    if error < 1e-9 and reach > 1e-3:  # and no looser than it has to be
        steps = reach * np.linspace(-1, 1, 800)
        values = (intervals.values_at(activation, base + steps) - intervals.values_at(activation, base)) / steps
        assert alpha >= values.min() - 2e-3 * (1 + reach) - 1e-3 * ("relu" in activation)
        assert beta <= values.max() + 2e-3 * (1 + reach)


def test_chords_that_touch():
    """From a to the far side of zero the steepest chord touches the curve, whatever lies beyond."""
    a = np.array([0.3, 1.0, 2.0, 5.0, 7.9999, 9.0, 0.30003])
    _, beta = slopes.secant_slopes("tanh", a, np.zeros(7), np.full(7, 50.0))
    for x, b in zip(a, beta, strict=True):
        h = np.linspace(-2 * x, -x * 0.5, 20001)
        found = float(((np.tanh(x + h) - np.tanh(x)) / h).max())
        assert found - 1e-14 <= b <= found + (3e-4 if x < 8 else 0.05)
    _, near = slopes.secant_slopes("tanh", a, np.zeros(7), np.full(7, 0.01))
    assert (near < beta).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
@FAST
@given(seed=SEEDS)
def test_images_of_intervals(activation, seed):
    rng = np.random.default_rng(seed)
    mid = rng.standard_normal(5) * 10.0 ** rng.uniform(-300, 3, 5)
    rad = np.abs(mid) * 10.0 ** rng.uniform(-18, 1, 5) * (rng.random(5) < 0.7)
    image = intervals.activated(activation, Enclosure(mid, rad))
    low, high = exact(image.mid) - exact(image.rad), exact(image.mid) + exact(image.rad)
    with precision(1400):
        for k in range(5):
            for v in (mid[k] - rad[k], mid[k], mid[k] + rad[k]):
                value = apply(Activation(activation), number(v))
                lower, upper = (flint.arb(flint.fmpq(x.numerator, x.denominator)) for x in (low[k], high[k]))
                assert lower <= value <= upper
    width = np.abs(intervals.values_at(activation, mid + rad) - intervals.values_at(activation, mid - rad))
    size = np.abs(mid) + rad + (activation == "sigmoid")
    assert (2 * image.rad <= width + 4e-14 * np.minimum(size, np.abs(image.mid) + image.rad + 1) + 1e-290).all()


@FAST
@given(low=st.floats(-1e300, 1e300), width=st.sampled_from([0.0, 5e-324, 1e-20, 1.0, 1e300]))
@example(low=5e-324, width=0.0)
def test_boxes_are_rounded_outwards(low, width):
    high = low + width
    box = intervals.box_of((np.array([low]), np.array([high])))
    mid, rad = Fraction(box.mid[0]), Fraction(box.rad[0])
    assert mid - rad <= Fraction(low) <= Fraction(high) <= mid + rad
    assert (
        rad <= (Fraction(high) - Fraction(low)) * Fraction(0.5 + 1e-15) + Fraction(1e-300) + abs(Fraction(low)) / 2**52
    )
    if low == high and abs(low) > 1e-300:
        assert rad == 0


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("seed", range(3))
def test_systems_of_intervals(activation, seed):
    system = random_system(seed, layers=(3, 2), activation=activation)
    rng = np.random.default_rng(seed)
    x0, u0 = rng.standard_normal(3), rng.standard_normal(2)
    rx, ru = 0.1 * rng.random(3) * (seed > 0), 0.1 * rng.random(2) * (seed > 1)
    X, U = Enclosure(x0, rx), Enclosure(u0, ru)
    v, w = intervals.neurons(system, X, U)
    after, y = intervals.next_state(system, X, U), intervals.outputs(system, X, U)
    total = np.concatenate([v.rad, w.rad, after.rad, y.rad])
    assert (total < (1e-13 if seed == 0 else 10)).all()
    with precision(200):
        for _ in range(10):
            x, u = (m + rng.choice([-1.0, 0.0, 1.0], m.shape) * r for m, r in ((x0, rx), (u0, ru)))
            x, u = np.clip(x, X.lower(), X.upper()), np.clip(u, U.lower(), U.upper())
            one = neurons(system, row(x), row(u))
            for found, true in zip((v, w, after, y), (*one, *step(system, row(x), row(u))), strict=True):
                for m, r, t in zip(found.mid, found.rad, true, strict=True):
                    assert abs(t - number(m)) <= number(r) * (1 + number(1e-12))


@pytest.mark.parametrize("seed", range(4))
def test_slopes_in_boxes(seed):
    """Over all steps of runs from the box; wider boxes know less; boxes that explode know nothing."""
    system = random_system(seed, layers=(2, 2), activation=ACTIVATIONS[seed])
    rng = np.random.default_rng(seed)
    u, x = (-0.1 * np.ones(2), 0.2 * np.ones(2)), (-0.1 * np.ones(3), 0.1 * np.ones(3))
    alpha, beta = intervals.local_slopes(system, u, x, 3)
    least, most = slopes.global_slopes(system.activation)
    assert ((least <= alpha) & (alpha <= beta) & (beta <= most)).all()
    for _ in range(40):
        state = rng.uniform(*x)
        for _ in range(4):
            at = rng.uniform(*u)
            v, _ = intervals.neurons(system, Enclosure.of(state), Enclosure.of(at))
            low, high = slopes.slopes_on(system.activation, (v.mid, v.mid))
            assert ((alpha <= low + 2e-12) & (high <= beta + 2e-12)).all()
            state = system.step(state, at)
    wide = intervals.local_slopes(system, u, x, 5)
    assert ((wide[0] <= alpha) & (beta <= wide[1])).all()
    far = intervals.local_slopes(replace(system, A=1e200 * np.eye(3)), u, x, 3)
    assert (far[0] == least).all()
    assert (far[1] == most).all()
    for bad in ({"steps": -1}, {"input_range": (u[1], u[0])}, {"state_range": (x[1], x[0])},
                {"input_range": (u[0][:1], u[1])}, {"state_range": (x[0], x[1] * np.nan)}):  # fmt: skip
        with pytest.raises(ControlRnnError):
            intervals.local_slopes(system, **({"input_range": u, "state_range": x, "steps": 2} | bad))


@FAST
@given(seed=SEEDS, log=st.integers(-200, 100))
def test_the_largest_norm_in_a_box(seed, log):
    rng = np.random.default_rng(seed)
    B, unit = rng.standard_normal((3, 3)), 10.0**log
    P = B @ B.T + 0.1 * np.eye(3)
    P = 0.5 * (P + P.T)
    mid, rad = unit * rng.standard_normal(3), unit * rng.random(3) * (rng.random() < 0.7)
    found = intervals.norm_up(Enclosure(mid, rad), P)
    M = exact(P)
    corners = [exact(mid) + exact(rad) * exact(np.array(s)) for s in ([1, 1, 1], [1, -1, 1], [-1, 1, 1], [1, 1, -1])]
    assert all(Fraction(found) ** 2 >= c.dot(M).dot(c) for c in corners)
    most = np.sqrt(float(exact(mid).dot(M).dot(exact(mid)))) + np.sqrt(np.abs(rad) @ np.abs(P) @ np.abs(rad))
    assert found <= most * (1 + 1e-9) + 1e-140


def test_common_parts_of_intervals():
    a, b = Enclosure(np.array([0.0, 1.0]), np.array([1.0, 1.0])), Enclosure(np.array([1.0, 1.0]), np.array([0.5, 3.0]))
    both = intervals.intersection(a, b)
    assert np.allclose(both.mid, [0.75, 1.0])
    assert np.allclose(both.rad, [0.25, 1.0])
    assert intervals.settles(a)
    assert not intervals.settles(Enclosure(np.array([np.nan]), np.zeros(1)))
    assert not intervals.settles(Enclosure(np.zeros(1), np.array([np.inf])))


@FAST
@given(a=st.floats(0.05, 0.95), centre=st.floats(-3, 3), low=st.floats(-2, 2), width=st.floats(0, 2))
def test_settled_states_of_a_filter(a, centre, low, width):
    """x+ = a x + (1 - a) u settles in the range of its inputs, so that the radius is known."""
    z, system = np.zeros, _filter(a)
    rate, gain = a * (1 + 1e-9), np.array([(1 - a) * 2 * (1 + 1e-9)])
    metric = np.array([[4.0]])
    prove_contraction(system, rate, metric, z(0), gain, z((1, 0)))
    ends = np.array([low]), np.array([low + width])
    found = reachable.settled_radius(system, rate, metric, gain, np.array([centre]), ends)
    true = 2 * max(abs(low - centre), abs(low + width - centre))
    assert found >= true * (1 - 1e-12)  # (1 - a) is rounded
    assert found <= true * (1 + 1e-3) + 1e-6 + 2 * width


def _filter(a):
    z = np.zeros
    return LureSystem(
        A=np.array([[a]]), B1=z((1, 0)), B2=np.array([[1 - a]]), bx=z(1), C1=z((0, 1)), D11=z((0, 0)), D12=z((0, 1)),
        bv=z(0), C2=np.ones((1, 1)), D21=z((1, 0)), D22=z((1, 1)), by=z(1), layers=(), dt=1.0,
    )  # fmt: skip


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu"])
@pytest.mark.parametrize("seed", range(3))
def test_settled_states_of_networks(activation, seed):
    system = random_elman(seed, nx=3, norm=0.5, activation=activation)
    system = replace(system, A=0.2 * np.eye(3)) if seed else system
    rate, metric, lam, gain = 0.9, np.eye(3), np.full(3, 1.0), np.full(2, 30.0)
    prove_contraction(system, rate, metric, lam, gain, np.ones((2, 3)))
    ends = -np.ones(2), 0.5 * np.ones(2)
    found = reachable.settled_radius(system, rate, metric, gain, np.full(3, 0.3), ends)
    rng = np.random.default_rng(seed)
    u = np.where(rng.random((300, 60, 2)) < 0.5, *ends)
    x = system.simulate(u, np.zeros((300, 3)))[1][:, -1]
    reached = np.linalg.norm(x - 0.3, axis=1).max()
    assert reached <= found
    assert found < 5 * reached  # far below gain' h / (1 - rate) = 450
    u, known = intervals.box_of(ends), Enclosure(np.zeros(3), np.full(3, 1e3))
    box = reachable.settled_box(system, ends, known)
    assert ((box.lower() <= x) & (x <= box.upper())).all()
    bounded = reachable._bounded_box(system, u)
    if activation == "relu":
        assert bounded is None
    else:
        assert ((bounded.lower() <= x) & (x <= bounded.upper())).all()
        assert reachable._bounded_box(replace(system, A=1.01 * np.eye(3)), u) is None
        assert (bounded.rad < 2).all()


def lstm(b, U=0.0, W=0.0):
    z = np.zeros
    ones = np.ones((4, 1))
    return GatedSystem(W=W * ones, U=U * ones, b=np.array(b, float), C=np.ones((1, 1)), by=z(1), cell="lstm", dt=1.0)


def test_gates_that_underflow_still_let_something_through():
    """s(-800) = 4e-348 is no float64, but what it lets through of 1e308 is more than 1e-300 of another unit."""
    system = lstm([0.0, -800.0, 5.0, 0.0])
    bound = Comparison(system, (np.zeros(1), np.zeros(1)), np.array([1.0, 2.0]))
    assert bound.rate(np.array([1e-300, 1e308])) > 1e200
    system = lstm([0.0, -1.0, -690.0, 0.0], U=np.array([[0.0], [1e-30], [0.0], [0.0]]))
    bound = Comparison(system, (np.zeros(1), np.zeros(1)), np.array([1.0, 1e308]))
    assert bound.rate(np.array([1e-300, 1e-30])) > 1e7


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@FAST
@given(seed=SEEDS)
def test_comparison_systems_bound_every_difference(cell, seed):
    rng = np.random.default_rng(seed)
    n, gates = 2, 4 if cell == "lstm" else 3
    draw = rng.standard_normal
    system = GatedSystem(
        W=draw((gates * n, 1)), U=0.4 * draw((gates * n, n)), b=rng.uniform(-2, 2) + draw(gates * n), C=np.ones((1, n)),
        by=np.zeros(1), cell=cell, dt=1.0,
    )  # fmt: skip
    low = rng.uniform(-1, 0, 1)
    ends = low, low + rng.random(1) * 10.0 ** rng.uniform(-6, 0)
    bound = Comparison(system, ends)
    x = rng.uniform(-1, 1, (2, system.nx)) * bound.state
    x[1] = np.clip(x[0] + 10.0 ** rng.uniform(-9, 0) * rng.standard_normal(system.nx), -bound.state, bound.state)
    u = rng.uniform(*ends, (2, 1))
    dx, du = np.abs(x[1] - x[0]), np.abs(u[1] - u[0])
    with precision(300):
        one, other = (step(system, row(a), row(b))[0] for a, b in zip(x, u, strict=True))
        moved = [abs(b - a) for a, b in zip(one, other, strict=True)]
        most = bound(dx * (1 + 2.0**-52), du * (1 + 2.0**-52))
        assert all(m <= number(b) for m, b in zip(moved, most, strict=True))
        assert all(abs(v) <= number(b) for v, b in zip([*one, *other], [*bound.state, *bound.state], strict=True))
    scale = 0.5 + rng.random(system.nx)
    assert bound.rate(scale) >= (bound(scale, np.zeros(1)) / scale).max()
    assert bound.gains(scale)[0] >= (bound(np.zeros(system.nx), np.ones(1)) / scale).max()
    with pytest.raises(CertificationError, match="state_bound"):
        Comparison(system, ends, 0.999 * bound.state)
    with pytest.raises(CertificationError, match="state_bound"):
        Comparison(system, ends, np.concatenate([np.full(n, 1.5), 2 * bound.state[n:]]))
    Comparison(system, ends, np.concatenate([np.ones(n), 2 * bound.state[n:]]))


def test_gates_without_slack_are_met():
    """A GRU of one unit without inputs: the bound of small differences is nearly the derivative's."""
    z = np.zeros
    system = GatedSystem(
        W=z((3, 1)), U=np.array([[0.0], [0.0], [0.5]]), b=z(3), C=np.ones((1, 1)), by=z(1), cell="gru", dt=1.0
    )
    bound = Comparison(system, (np.zeros(1), np.zeros(1)))
    assert bound(np.ones(1), np.zeros(1))[0] == pytest.approx(0.5 + 0.5 * 0.5 * 0.5, rel=1e-12)
    tight = lstm([0.0, 0.0, 0.0, 0.5])
    found = Comparison(tight, (np.zeros(1), np.zeros(1)))
    cell = 0.5 * np.tanh(0.5) / 0.5
    assert found.state == pytest.approx([1.0, cell], rel=1e-12)
    assert found(np.array([0.0, 1.0]), np.zeros(1)) == pytest.approx([0.25, 0.5], rel=1e-12)
    driven = lstm([0.0, 0.0, 0.0, 0.0], W=1.0)
    found = Comparison(driven, (np.zeros(1), np.zeros(1)))
    # dc = i dg + c df + g di with c = g = 0, dg = du; dh = o dc + tanh(c) do
    assert found(np.zeros(2), np.ones(1)) == pytest.approx([0.25, 0.5], rel=1e-9, abs=1e-9)
    with pytest.raises(CertificationError, match="overflow"), np.errstate(all="ignore"):
        Comparison(replace(driven, b=np.full(4, 1e308), W=np.full((4, 1), 1e308)), (np.ones(1), np.ones(1)))
    with pytest.raises(CertificationError, match="forget"):
        Comparison(lstm([0.0, 60.0, 0.0, 0.0]), (np.zeros(1), np.zeros(1)))


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
    alone, tight = (claim.run(m, shares[0], 1e-7, None) for m in multipliers)
    helped = claim.run(multipliers[0], shares[0], 1e-7, tight)
    d, known, least = (np.array([one.d for one in run.steps]) for run in (helped, alone, tight))
    assert (d <= known).all()
    assert (d <= least * (1 + 1e-12)).all()
    assert (d < 0.9 * known).any()
    widths = [np.array([one.slopes[1] - one.slopes[0] for one in run.steps]) for run in (helped, alone)]
    assert (widths[0] <= widths[1]).all()
    assert (widths[0] < 0.9 * widths[1]).any()
    assert (helped.factors[-1].max() < alone.factors[-1].max()) or (helped.bounds[-1] < alone.bounds[-1]).any()


def test_tubes_of_a_linear_system_are_its_ellipsoids():
    """x+ = A x, y = C x with tau a little above |A|^2: what is known is reached, times sqrt(tau^k)."""
    a = 0.5
    system = replace(_filter(a), B2=np.zeros((1, 1)))
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


@FAST
@given(seed=SEEDS, log=st.integers(-100, 100))
def test_rounding_of_the_nominal_path_is_covered(seed, log):
    rng = np.random.default_rng(seed)
    F = np.tril(rng.standard_normal((3, 3)) + 3 * np.eye(3)) * 10.0 ** rng.uniform(-2, 2, (3, 1))
    error = 10.0**log * rng.random(3)
    rho = Fraction(tube._covered_rounding(F, error))
    rows = exact(F)
    worst = 0.0
    for signs in ([1, 1, 1], [1, -1, 1], [-1, 1, 1], [1, 1, -1]):
        e, xi = exact(error) * exact(np.array(signs)), []
        for i in range(3):
            xi.append((e[i] - sum((rows[i, j] * xi[j] for j in range(i)), Fraction(0))) / rows[i, i])
        assert sum(v * v for v in xi) <= rho * rho
        worst = max(worst, float(sum(v * v for v in xi)) ** 0.5)
    assert float(rho) <= np.linalg.norm(np.abs(np.linalg.inv(F)) @ error) * (1 + 1e-6)
    assert tube._covered_rounding(F, np.zeros(3)) == 0
    for flat in (0.0, np.nan):
        with pytest.raises(CertificationError, match="flat"), np.errstate(all="ignore"):
            tube._covered_rounding(np.diag([1.0, 1.0, flat]), error)
