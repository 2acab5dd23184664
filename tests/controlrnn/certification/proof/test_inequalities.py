"""The inequalities behind certificates against rational arithmetic: what is accepted holds exactly."""

from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
import pytest
from exact_numbers import definite, exact, holds, sector
from hypothesis import given, settings
from hypothesis import strategies as st
from random_systems import random_system

from controlrnn.certification.proof import horizon as h
from controlrnn.certification.proof import incremental as inc
from controlrnn.certification.proof import stationary
from controlrnn.certification.proof.arithmetic.enclosure import Enclosure
from controlrnn.certification.proof.arithmetic.twofold import Twofold
from controlrnn.certification.proof.incremental import IncrementalForm
from controlrnn.certification.proof.input_error import InputDifferences
from controlrnn.certification.proof.structure import reaching
from controlrnn.errors import CertificationError, ControlRnnError
from controlrnn.systems import LureSystem, observer_system

SEEDS = st.integers(0, 2**32 - 1)
FAST = settings(max_examples=40, deadline=None)
KINDS = [Enclosure, Twofold]


@dataclass(frozen=True)
class Family:
    row: int
    multipliers: np.ndarray
    rho: np.ndarray
    padding: float = 1e-9
    shares: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))


def linear(A, B2=None, C2=None, D22=None):
    A, C2 = np.atleast_2d(np.array(A, float)), np.atleast_2d(np.array(C2 if C2 is not None else np.ones(len(A)), float))
    B2 = np.ones((len(A), 1)) if B2 is None else np.array(B2, float)
    z, n, u, p = np.zeros, len(A), B2.shape[1], len(C2)
    return LureSystem(
        A=A, B1=z((n, 0)), B2=B2, bx=z(n), C1=z((0, n)), D11=z((0, 0)), D12=z((0, u)), bv=z(0), C2=C2, D21=z((p, 0)),
        D22=z((p, u)) if D22 is None else np.array(D22, float), by=z(p), layers=(), dt=1.0,
    )  # fmt: skip


def system_of(seed, **more):
    rng = np.random.default_rng(seed)
    shape = {"nx": 2, "nu": 2, "ny": 2, "layers": (2,), "coupling": 0.3} | more
    return random_system(seed, activation=str(rng.choice(["tanh", "leaky_relu", "sigmoid"])), **shape)


def form_of(seed, **more):
    form = IncrementalForm.of(system_of(seed, **more))
    rng = np.random.default_rng(seed)
    alpha = rng.uniform(0, 0.3, form.nv) * (rng.random() < 0.6)
    return replace(form, alpha=alpha, beta=alpha + rng.uniform(0.1, 0.7, form.nv))


def blocks(form, P, rho):
    whole = np.zeros((form.nz, form.nz), dtype=object) + Fraction(0)
    whole[: form.nx, : form.nx] = exact(P)
    for c, r in enumerate(exact(rho)):
        whole[form.nx + c, form.nx + c] = r
    return whole


def stage_margins(form, P, rho, lam, c, **settings):
    return inc.stage_margins(form, P[None], rho[None], lam[None], c[None], **settings)[0]


@pytest.mark.parametrize("kind", KINDS)
@FAST
@given(seed=SEEDS, log=st.integers(-250, 100))
def test_terms_of_the_inequalities(kind, seed, log):
    form, rng = form_of(seed), np.random.default_rng(seed)
    lam = 10.0**log * rng.random((2, form.nv))
    P = rng.standard_normal((2, form.nx, form.nx))
    P = 10.0**log * (P + P.swapaxes(1, 2))
    rho, c = rng.random((2, form.nu)), form.Y[:1]
    without, supplied = (kind.of(np.zeros((2, form.nz, form.nz))) for _ in range(2))
    inc.subtract_sector(without, form, lam)
    inc.add_supply(supplied, form, kind.of(P), kind.of(rho))
    found = [
        (-without).enclosure(),
        inc.demand(kind, form, P).enclosure(),
        inc.square(kind, c).enclosure(),
        supplied.enclosure(),
    ]
    T, row = exact(form.T), exact(c)
    wanted = [
        np.array([sector(form, one) for one in lam]),
        np.array([T.T.dot(exact(one)).dot(T) for one in P]),
        row.T.dot(row)[None],
        np.array([blocks(form, one, r) for one, r in zip(P, rho, strict=True)]),
    ]
    for value, true in zip(found, wanted, strict=True):
        assert value.mid.shape == true.shape
        assert holds(value, true)
    rounded = form.multiplier_form(lam)
    assert holds(Enclosure(rounded, np.full(rounded.shape, 1e-13 * np.abs(rounded).max())), wanted[0])
    assert np.allclose(form.supply(P[0], rho[0]), wanted[3][0].astype(float))


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_that_are_known_up_to_a_spread(kind):
    form, rng = form_of(3), np.random.default_rng(3)
    spread = 10.0 ** rng.uniform(-14, -3, form.T.shape)
    wide = replace(form, spread=spread)
    P = np.array([[[2.0, 0.3], [0.3, 1.0]]])
    found = inc.demand(kind, wide, P).enclosure()
    for signs in (1, -1, rng.choice([-1.0, 0.0, 1.0], spread.shape)):
        T = exact(form.T) + exact(spread) * exact(np.array(signs * np.ones(spread.shape)))
        assert holds(found, T.T.dot(exact(P[0])).dot(T)[None])
    for one in (wide.through(slice(1, None), 1, 2), wide.at_equal_states()):
        assert one.spread.shape == one.T.shape
    with pytest.raises(CertificationError, match="exactly"):
        wide.with_inputs_as_states(np.ones(2, bool))


@FAST
@given(seed=SEEDS, log=st.floats(-18, -6), scale=st.integers(-120, 120))
def test_stages_are_accepted_only_where_they_hold(seed, log, scale):
    """Storages that are a hair too small or too large."""
    form, rng = form_of(seed), np.random.default_rng(seed)
    unit = 2.0**scale
    lam, rho = unit**2 * rng.uniform(0.5, 3, (3, form.nv)), unit**2 * rng.uniform(5, 30, (3, form.nu))
    c = unit * form.Y[:1]
    P, stages = inc.storages(form, c.T @ c, lam, rho, 1e-13)
    P = np.array(P).reshape(-1, 2, 2)
    P[:, np.arange(2), np.arange(2)] *= 1 + rng.choice([-1, 0, 1], (len(P), 2)) * 10.0**log
    margins = stage_margins(form, P, rho[:stages], lam[:stages], c) if stages else []
    T, row = exact(form.T), exact(c)
    for j, margin in enumerate(margins):
        demanded = row.T.dot(row) if j == 0 else T.T.dot(exact(P[j - 1])).dot(T)
        whole = blocks(form, P[j], rho[j]) - demanded - sector(form, lam[j])
        if margin > 0:
            assert definite(whole)
        else:
            assert margin == -np.inf


def test_stages_with_room_are_accepted_whatever_their_unit():
    form = form_of(8)
    rng = np.random.default_rng(8)
    lam, rho, c = rng.uniform(1, 2, (4, form.nv)), np.full((4, form.nu), 400.0), form.Y[:1]
    for unit in (1.0, 2.0**-150, 2.0**150):
        P, stages = inc.storages(form, unit * c.T @ c, unit * lam, unit * rho, 1e-6)
        assert stages == 4
        margins = stage_margins(form, np.array(P), unit * rho, unit * lam, np.sqrt(unit) * c)
        assert (margins > 1e-9).all()
        assert (stage_margins(form, np.array(P), unit * rho, unit * lam, np.sqrt(unit) * c, room=1e9) < 0).any()


@pytest.mark.parametrize("seed", range(3))
def test_the_second_arithmetic_proves_what_the_first_cannot(seed):
    """A storage a relative 1e-12 above the least one, where float64 with its radii sees nothing."""
    form, rng = form_of(seed), np.random.default_rng(seed)
    lam, rho, c = rng.uniform(3, 4, (2, form.nv)), np.full((2, form.nu), 4000.0), 0.3 * form.Y[:1]
    P, stages = inc.storages(form, c.T @ c, lam, rho, 1e-12)
    assert stages == 2
    assert (stage_margins(form, np.array(P), rho, lam, c) > 0).all()


@FAST
@given(seed=SEEDS, log=st.floats(-16, -2))
def test_contraction_is_accepted_only_where_it_holds(seed, log):
    """Metrics of condition up to 1e15 whose slowest direction contracts at the rate, give or take a little."""
    rng = np.random.default_rng(seed)
    a, b, off = rng.uniform(1, 2), rng.uniform(1, 2), 10.0 ** rng.uniform(-15, -2)
    P = np.array([[a * a, -a * b * (1 - off)], [-a * b * (1 - off), b * b]])
    rate, x = 1 - 10.0 ** rng.uniform(-4, -1), np.array([b, a])
    normal = np.array([-(P @ x)[1], (P @ x)[0]])
    V = np.column_stack([x, normal / max(np.abs(normal).max(), 1e-300)])
    A = V @ np.diag([rate * (1 + rng.choice([-1, 1]) * 10.0**log), 0.5 * rate]) @ np.linalg.pinv(V)
    system = linear(A, B2=np.zeros((2, 1)))
    try:
        stationary.prove_contraction(system, rate, P, np.zeros(0), np.zeros(1), np.zeros((1, 0)))
    except CertificationError:
        return
    P, A = exact(P), exact(A)
    assert definite(P)
    assert definite(Fraction(rate) ** 2 * P - A.T.dot(P).dot(A))


@FAST
@given(seed=SEEDS, log=st.floats(-15, -1))
def test_contraction_with_neurons_and_inputs(seed, log):
    system, rng = system_of(seed, coupling=0.2, norm=0.4), np.random.default_rng(seed)
    form = IncrementalForm.of(system, np.zeros(2, bool))
    lam, P = rng.uniform(0.5, 2, 2), np.eye(2) + 0.1
    least = inc.smallest_storage(form, form.T.T @ P @ form.T, lam, np.zeros(0), 0.0)
    if least is None:
        return
    rate = float(np.sqrt(inc.largest_ratio(least, P))) * (1 + rng.choice([-1, 1]) * 10.0**log)
    if not rate < 1:
        return
    gains, channels = np.empty(2), [IncrementalForm.of_input(system, c) for c in range(2)]
    for c, one in enumerate(channels):
        square = inc.schur_top(one.T.T @ P @ one.T + one.multiplier_form(lam))
        gains[c] = np.sqrt(square) * (1 + rng.choice([-1, 1]) * 10.0**log) if np.isfinite(square) else 1e3
    try:
        stationary.prove_contraction(system, rate, P, lam, gains, np.tile(lam, (2, 1)))
    except CertificationError:
        return
    T = exact(form.T)
    kept = blocks(form, P, []) * Fraction(rate) ** 2
    assert definite(kept - T.T.dot(exact(P)).dot(T) - sector(form, lam))
    for gain, one in zip(gains, channels, strict=True):
        T, kept = exact(one.T), np.zeros((one.nz, one.nz), dtype=object) + Fraction(0)
        kept[0, 0] = Fraction(gain) ** 2
        assert definite(kept - T.T.dot(exact(P)).dot(T) - sector(one, lam))


CONTRACTION = {
    "rate of one": {"rate": 1.0}, "no rate": {"rate": 0.0}, "nan rate": {"rate": np.nan},
    "rate too small": {"rate": 0.4999}, "indefinite": {"metric": np.diag([1.0, -1.0])},
    "skewed": {"metric": np.array([[1.0, 0.1], [0.0, 1.0]])}, "nan metric": {"metric": np.full((2, 2), np.nan)},
    "infinite metric": {"metric": np.diag([np.inf, 1.0])}, "shape": {"metric": np.eye(3)},
    "gain too small": {"input_gain": np.array([1.4])}, "negative gain": {"input_gain": np.array([-1.5])},
    "nan gain": {"input_gain": np.array([np.nan])}, "infinite gain": {"input_gain": np.array([np.inf])},
    "two gains": {"input_gain": np.array([2.0, 2.0])}, "multipliers": {"multipliers": np.ones(1)},
    "input multipliers": {"input_multipliers": np.ones((1, 1))},
}  # fmt: skip


@pytest.mark.parametrize("name", CONTRACTION)
def test_claims_of_contraction_that_make_no_sense_or_do_not_hold(name):
    system = linear(0.5 * np.eye(2), B2=np.ones((2, 1)))
    claim = {"rate": 0.51, "metric": np.eye(2), "multipliers": np.zeros(0), "input_gain": np.array([1.5]),
             "input_multipliers": np.zeros((1, 0))}  # fmt: skip
    assert stationary.prove_contraction(system, **claim) > 1e-3
    with pytest.raises(CertificationError):
        stationary.prove_contraction(system, **(claim | CONTRACTION[name]))


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_multipliers_are_numbers_at_least_zero(bad):
    system = system_of(1, coupling=0.1, norm=0.3)
    claim = {"rate": 0.95, "metric": np.eye(2), "multipliers": np.ones(2), "input_gain": np.full(2, 50.0),
             "input_multipliers": np.ones((2, 2))}  # fmt: skip
    assert stationary.prove_contraction(system, **claim) > 0
    for name, value in (("multipliers", np.array([1.0, bad])), ("input_multipliers", np.array([[1, 1], [1, bad]]))):
        with pytest.raises(CertificationError):
            stationary.prove_contraction(system, **(claim | {name: value}))


def test_what_no_input_reaches_moves_by_nothing():
    system = linear(0.5 * np.eye(2), B2=np.array([[1.0, 0.0], [1.0, 0.0]]))
    gains = np.array([1.5, 0.0])
    assert stationary.prove_contraction(system, 0.6, np.eye(2), np.zeros(0), gains, np.zeros((2, 0))) > 0
    with pytest.raises(CertificationError):  # it may be reached where the matrix is not known exactly
        stationary.prove_contraction(
            system, 0.6, np.eye(2), np.zeros(0), gains, np.zeros((2, 0)), spread=np.full((2, 4), 1e-9)
        )


def test_an_observer_is_proven_as_it_is_without_rounding():
    """The rounded A - L C contracts at 0.6 and the true one not at all: gains as large as one over the rounding."""
    C = np.array([[1 / 3], [1 / 3 * (1 + 2.0**-52)]])
    system, L = linear([[0.9]], C2=C), np.array([[7e15, -6999999999999993.0]])
    observer = observer_system(system, L)
    true = Fraction(0.9) - sum(exact(L[0]) * exact(C[:, 0]))
    spread = inc.observer_spread(system, L)
    assert abs(observer.A[0, 0]) < 0.61 < 1 < abs(true)
    assert abs(true - Fraction(observer.A[0, 0])) <= Fraction(spread[0, 0])
    claim = 0.7, np.eye(1), np.zeros(0), np.array([2.0, 1e16, 1e16]), np.zeros((3, 0))
    assert stationary.prove_contraction(observer, *claim) > 0
    with pytest.raises(CertificationError):
        stationary.prove_contraction(observer, *claim, spread=spread)


@FAST
@given(seed=SEEDS)
def test_the_rounding_of_observers(seed):
    system, rng = system_of(seed), np.random.default_rng(seed)
    L = rng.standard_normal((2, 2)) * 10.0 ** rng.uniform(-3, 12, (2, 2))
    observer, spread = observer_system(system, L), inc.observer_spread(system, L)
    X = exact(L)
    true = np.hstack([
        exact(system.A) - X.dot(exact(system.C2)), exact(system.B2) - X.dot(exact(system.D22)), X,
        exact(system.B1) - X.dot(exact(system.D21)),
    ])  # fmt: skip
    rounded = np.hstack([observer.A, observer.B2, observer.B1])
    assert spread.shape == rounded.shape
    assert holds(Enclosure(rounded, spread), true)
    sizes = [np.abs(M) + np.abs(L) @ np.abs(N) for M, N in ((system.A, system.C2), (system.B2, system.D22))]
    assert (spread[:, :4] <= 6e-16 * np.hstack(sizes)).all()


@FAST
@given(seed=SEEDS, log=st.floats(-15, -1))
def test_dissipation_is_accepted_only_where_it_holds(seed, log):
    system, rng = system_of(seed, coupling=0.2, norm=0.4), np.random.default_rng(seed)
    form, rate = IncrementalForm.of(system), rng.choice([1.0, 0.97])
    lam, P = rng.uniform(5, 20, 2), 40 * np.eye(2)
    Q, S = -0.5 * np.eye(2), 0.1 * rng.standard_normal((2, 2))
    z = np.vstack([form.Y, np.eye(2, form.nz, k=2)])
    rest = form.T.T @ P @ form.T + form.multiplier_form(lam) - z.T @ np.block([[Q, S.T], [S, 0 * Q]]) @ z
    rest[:2, :2] -= rate**2 * P
    keep = np.r_[0:2, 4 : form.nz]
    if np.linalg.eigvalsh(-rest[np.ix_(keep, keep)])[0] <= 0:
        return
    schur = rest[2:4, 2:4] + rest[2:4][:, keep] @ np.linalg.solve(-rest[np.ix_(keep, keep)], rest[keep][:, 2:4])
    R = 0.5 * (schur + schur.T) + rng.choice([-1, 1]) * 10.0**log * np.eye(2)
    try:
        stationary.prove_dissipation(system, rate, P, lam, (Q, S, R))
    except CertificationError:
        return
    T, seen = exact(form.T), exact(z)
    whole = blocks(form, P, [0.0, 0.0]) * Fraction(rate) ** 2 + seen.T.dot(exact(np.block([[Q, S.T], [S, R]]))).dot(
        seen
    )
    assert definite(whole - T.T.dot(exact(P)).dot(T) - sector(form, lam))


DISSIPATION = {
    "rate": {"rate": 1.01}, "no rate": {"rate": 0.0}, "metric": {"metric": np.diag([1.0, -1.0])},
    "skewed": {"metric": np.triu(np.ones((2, 2)))}, "nan": {"R": np.array([[np.nan]])},
    "infinite R": {"R": np.array([[np.inf]])}, "infinite S": {"S": np.array([[np.inf]])},
    "infinite Q": {"Q": np.array([[-np.inf]])}, "Q": {"Q": np.array([[-1.01]])}, "R": {"R": np.array([[0.49]])},
    "shape": {"R": np.eye(2)}, "S": {"S": np.array([[5.0]])},
}  # fmt: skip


@pytest.mark.parametrize("name", DISSIPATION)
def test_claims_of_dissipation_that_do_not_hold(name):
    system = linear(0.0 * np.eye(2), B2=np.array([[0.0], [0.5]]), C2=[[0.0, 1.0]], D22=[[0.5]])
    claim = {"rate": 1.0, "metric": np.eye(2), "Q": -0.5 * np.eye(1), "S": np.zeros((1, 1)), "R": np.eye(1)}

    def prove(rate, metric, Q, S, R):
        return stationary.prove_dissipation(system, rate, metric, np.zeros(0), (Q, S, R))

    assert prove(**claim) > 0
    with pytest.raises(CertificationError):
        prove(**(claim | DISSIPATION[name]))


def test_skewed_supplies_are_refused():
    system = linear(0.1 * np.eye(2), B2=0.1 * np.eye(2), C2=np.eye(2))
    Q, S, R, skew = -0.1 * np.eye(2), np.zeros((2, 2)), np.eye(2), np.array([[0.0, 1e-3], [0.0, 0.0]])
    assert stationary.prove_dissipation(system, 1.0, np.eye(2), np.zeros(0), (Q, S, R)) > 0
    for supply in ((Q + skew, S, R), (Q, S, R + skew)):
        with pytest.raises(CertificationError, match="symmetric"):
            stationary.prove_dissipation(system, 1.0, np.eye(2), np.zeros(0), supply)


@FAST
@given(gamma=st.floats(1e-150, 1e150), scale=st.floats(1e-150, 1e150))
def test_the_supply_of_a_gain_draws_no_less_and_gives_no_more(gamma, scale):
    with np.errstate(over="ignore"):
        Q, S, R = stationary.gain_supply(gamma, np.array([scale, 1.0]), np.array([scale]))
    g, s = Fraction(gamma), Fraction(scale)
    assert (Q.shape, S.shape, R.shape) == ((1, 1), (2, 1), (2, 2))
    assert not S.any()
    assert not np.isfinite(Q[0, 0]) or Fraction(-Q[0, 0]) >= 1 / (s * s * g)
    assert 0 <= Fraction(R[0, 0]) <= g / s / s
    assert 0 < Fraction(R[1, 1]) <= g
    assert R[1, 1] >= gamma * (1 - 1e-15)
    assert not np.isfinite(Q[0, 0]) or Fraction(-Q[0, 0]) <= 1 / (s * s * g) * Fraction(1 + 1e-15) + Fraction(1e-150)


@FAST
@given(
    rate=st.one_of(st.floats(1e-300, 0.999), st.sampled_from([0.5, 1 - 2.0**-53, 1e-9])), steps=st.integers(0, 60),
    initial=st.sampled_from([0.0, 5e-324, 1e-170, 1.0, 1e300]), radius=st.sampled_from([0.0, 5e-324, 1e-170, 1.0]),
)  # fmt: skip
def test_errors_after_some_steps(rate, steps, initial, radius):
    found = stationary.error_after(rate, np.array([0.5, 0.25]), steps, initial, radius)
    p = Fraction(rate)
    true = p**steps * Fraction(initial) + sum((p**j for j in range(steps)), Fraction(0)) * Fraction(radius) * Fraction(
        3, 4
    )
    assert Fraction(found) >= true
    assert found <= float(true) * (1 + 1e-10) + 1e-290 * (1 + initial)
    assert (found == 0) == (true == 0)


def test_errors_after_no_number_of_steps():
    gain = np.array([1.0])
    assert stationary.error_after(0.5, gain, 3, np.inf, 0.0) == np.inf
    assert stationary.error_after(0.5, gain, 0, 2.0, 7.0) == 2.0
    for bad in ({"steps": -1}, {"steps": 1.5}, {"initial": -1.0}, {"initial": np.nan}, {"input_radius": -1.0},
                {"input_radius": np.nan}, {"rate": 1.0}, {"rate": 0.0}, {"rate": np.nan}):  # fmt: skip
        with pytest.raises(ControlRnnError):
            stationary.error_after(
                **({"rate": 0.5, "input_gain": gain, "steps": 2, "initial": 1.0, "input_radius": 0.0} | bad)
            )


@FAST
@given(a=st.floats(-2, 2), c=st.floats(0.1, 3), r=st.sampled_from([1.0, 1e-170, 1e170, 5e-324]))
def test_horizons_of_scalar_systems(a, c, r):
    system, K = linear([[a]], C2=[[c]]), 4
    inequality = h.HorizonInequality(system, K - 1, r, None, 0.0)
    bounds, margin = inequality.prove(Family(0, np.zeros((K, 0)), np.zeros((K, 0)), padding=1e-10))
    assert margin > 0
    for k, bound in enumerate(bounds):
        true = Fraction(c) * abs(Fraction(a)) ** k * Fraction(r)
        assert Fraction(bound) >= true
        assert bound <= float(true) * (1 + 1e-9) + 1e-120 * r + 1e-323


@pytest.mark.parametrize(("kind", "factor"), [
    ({"kind": "box"}, lambda k: k + 1), ({"kind": "ball"}, lambda k: k + 1),
    ({"kind": "few", "steps": 2}, lambda k: min(k + 1, 2)), ({"kind": "constant"}, lambda k: k + 1),
    ({"kind": "rate_limited", "rate": 0.5}, lambda k: k + 1),
], ids=lambda v: v.get("kind") if isinstance(v, dict) else "")  # fmt: skip
@pytest.mark.parametrize("unit", [1.0, 1e-170, 1e150])
def test_inputs_of_an_integrator(kind, factor, unit):
    """x+ = x + u, y = x + u: the bound at step k is the number of inputs that count, for arbitrary weights."""
    system, K = linear([[1.0]], C2=[[1.0]], D22=[[1.0]]), 4
    kind = {k: v * unit if k == "rate" else v for k, v in kind.items()}
    error = InputDifferences(radius=np.array([unit]), **kind)
    rho = np.full((K, 1), 7.0)  # of K = 4 steps: 1 / 7 + 3 / 7 + ... < 1
    inequality = h.HorizonInequality(system, K - 1, 0.0, None, error)
    bounds, _ = inequality.prove(Family(0, np.zeros((K, 0)), rho))
    for k, bound in enumerate(bounds):
        assert bound >= factor(k) * unit
        assert bound == pytest.approx(np.sqrt(7.0 * factor(k)) * unit, rel=1e-9)


def test_inputs_that_are_states():
    """y = u_k - u_{k-1}: constant errors cancel, slow ones hardly count, and no other kind may be taken for them."""
    system, K, b = linear([[0.0]], C2=[[-1.0]], D22=[[1.0]]), 4, np.array([1.0])
    shares = np.tile([1e-9, 1.0], (K, 1))
    constant = h.HorizonInequality(system, K - 1, 0.0, None, InputDifferences(kind="constant", radius=b), lifted=True)
    bounds, _ = constant.prove(Family(0, np.zeros((K, 0)), np.zeros((K, 0)), 1e-10, shares))
    assert bounds[0] == pytest.approx(1.0, rel=1e-6)
    assert (bounds[1:] < 1e-3).all()
    slow = InputDifferences(kind="rate_limited", radius=b, rate=np.array([0.1]))
    limited = h.HorizonInequality(system, K - 1, 0.0, None, slow, lifted=True)
    bounds, _ = limited.prove(Family(0, np.zeros((K, 0)), np.full((K, 1), 1.5), 1e-10, shares))
    assert (bounds[1:] >= 0.1).all()
    assert (bounds[1:] < 0.5).all()
    for kind in ({"kind": "box"}, {"kind": "ball"}, {"kind": "few", "steps": 2}):
        with pytest.raises(CertificationError, match="no states"):
            h.HorizonInequality(system, K - 1, 0.0, None, InputDifferences(radius=b, **kind), lifted=True)
    box = h.HorizonInequality(system, K - 1, 0.0, None, InputDifferences(kind="constant", radius=b))
    for family in (Family(0, np.zeros((K, 0)), np.zeros((K, 0)), 1e-10, shares),
                   Family(0, np.zeros((K, 0)), np.full((K, 1), 3.0), 1e-10, shares)):  # fmt: skip
        with pytest.raises(CertificationError):
            box.prove(family)
    assert box.prove(Family(0, np.zeros((K, 0)), np.full((K, 1), 3.0)))[0][-1] >= 2


@pytest.mark.parametrize("shares", [
    [[1.0, -0.5]], [[0.0, 1.0]], [[1.0, np.nan]], [[np.inf, 1.0]], [[1.0]], [[1.0, 1.0, 1.0]], [[1e308, 1e308]],
])  # fmt: skip
def test_shares_of_the_initial_set(shares):
    system, K = linear([[0.0]], C2=[[-1.0]], D22=[[1.0]]), 3
    error = InputDifferences(kind="constant", radius=np.array([1.0]))
    constant = h.HorizonInequality(system, K - 1, 1.0, None, error, lifted=True)
    family = Family(0, np.zeros((K, 0)), np.zeros((K, 0)), 1e-10, np.tile([0.5, 0.5], (K, 1)))
    bounds, _ = constant.prove(family)
    assert bounds[0] >= 2  # a state and an input of one each, however they are weighed
    scaled, _ = constant.prove(replace(family, shares=1e-300 * family.shares))
    assert scaled == pytest.approx(bounds, rel=1e-9)
    with pytest.raises(CertificationError), np.errstate(over="ignore"):
        constant.prove(replace(family, shares=np.tile(shares, (K, 1))))
    with pytest.raises(CertificationError, match="shares"):
        constant.prove(replace(family, shares=family.shares[:-1]))
    with pytest.raises(CertificationError, match="shares"):
        constant.prove(replace(family, shares=np.zeros((0, 0))))


FAMILIES = {
    "row": {"row": 2}, "negative row": {"row": -1}, "flag": {"row": False}, "part": {"row": 0.5},
    "short": {"multipliers": np.ones((3, 2))}, "wide": {"multipliers": np.ones((4, 3))},
    "negative": {"multipliers": -np.ones((4, 2))}, "nan": {"multipliers": np.full((4, 2), np.nan)},
    "infinite": {"multipliers": np.full((4, 2), np.inf)}, "rho": {"rho": np.full((4, 2), -1.0)},
    "nan rho": {"rho": np.full((4, 2), np.nan)}, "infinite rho": {"rho": np.full((4, 2), np.inf)},
    "rho shape": {"rho": np.ones((4, 1))}, "padding": {"padding": 1.0}, "negative padding": {"padding": -1e-9},
    "nan padding": {"padding": np.nan}, "shares": {"shares": np.ones((4, 3))}, "small": {"rho": np.full((4, 2), 1e-9)},
    "short rho": {"rho": np.full((3, 2), 400.0)},
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_families_that_prove_nothing(name):
    inequality = h.HorizonInequality(system_of(3), 3, 1.0, None, 0.1)
    good = Family(0, np.full((4, 2), 3.0), np.full((4, 2), 400.0))
    assert inequality.prove(good)[1] > 0
    with pytest.raises(ControlRnnError):
        inequality.prove(replace(good, **FAMILIES[name]))


@pytest.mark.parametrize("bad", [
    {"horizon": -1}, {"horizon": 1.5}, {"radius": -1.0}, {"radius": np.nan}, {"radius": np.inf},
    {"metric": -np.eye(2)}, {"metric": np.triu(np.ones((2, 2)))}, {"metric": np.eye(3)},
    {"metric": np.full((2, 2), np.nan)}, {"metric": np.zeros((2, 2))}, {"input_radius": -0.1},
    {"input_radius": np.nan}, {"input_radius": np.ones(3)},
], ids=str)  # fmt: skip
def test_claims_over_a_horizon_that_make_no_sense(bad):
    claim = {"horizon": 3, "radius": 1.0, "metric": None, "input_radius": 0.1}
    with pytest.raises(ControlRnnError):
        h.HorizonInequality(system_of(3), **(claim | bad))


@pytest.mark.parametrize("seed", range(3))
def test_gains_are_accepted_only_where_they_hold(seed):
    system, K = system_of(seed), 3
    rng = np.random.default_rng(seed)
    inequality = h.HorizonInequality(system, K - 1, 1.0, None, 0.0)
    families = [Family(i, rng.uniform(6, 9, (K, 2)), np.zeros((K, 0)), 1e-8) for i in range(2)]
    mu = rng.uniform(6, 9, (K, 2, 2, 2))
    least = np.empty((K, 2, 2))
    for family in families:
        P = inequality.prove_storages([family])[0][0]
        for c in range(2):
            form = IncrementalForm.of_input(system, c)
            for lag in range(K):
                seen = form.Y[[family.row]]
                H = form.T.T @ P[lag - 1] @ form.T if lag else seen.T @ seen
                least[lag, family.row, c] = np.sqrt(inc.schur_top(H + form.multiplier_form(mu[lag, family.row, c])))
    initial, margin = h.prove_gains(system, K - 1, np.eye(2), families, mu, least * (1 + 1e-6))
    assert margin > 0
    assert (initial > 0).all()
    for lag in range(K):
        for i in range(2):
            for c in range(2):
                less = least * (1 + 1e-6)
                less[lag, i, c] = least[lag, i, c] * (1 - 1e-6)
                with pytest.raises(CertificationError, match=f"input {c} at lag {lag} on output {i}"):
                    h.prove_gains(system, K - 1, np.eye(2), families, mu, less)
    for wrong in (families[:1], [*families, families[0]], [families[0], families[0]], []):
        with pytest.raises(CertificationError, match="family"):
            h.prove_gains(system, K - 1, np.eye(2), wrong, mu, least * 1.1)


def test_gains_of_a_chain_come_when_they_arrive():
    """u reaches y after two steps only; before that its gain is nothing, and that is proven without multipliers."""
    system = linear([[0.0, 1.0], [0.0, 0.0]], B2=[[0.0], [2.0]], C2=[[3.0, 0.0]])
    families = [Family(0, np.zeros((4, 0)), np.zeros((4, 0)), 1e-10)]
    mu, gains = np.zeros((4, 1, 1, 0)), np.array([0.0, 0.0, 6.0001, 0.0]).reshape(4, 1, 1)
    initial, margin = h.prove_gains(system, 3, np.eye(2), families, mu, gains)
    assert margin > 0
    assert initial[:, 0] == pytest.approx([3.0, 3.0, 0.0, 0.0], rel=1e-6)
    gains[2] = 5.9999
    with pytest.raises(CertificationError):
        h.prove_gains(system, 3, np.eye(2), families, mu, gains)
    states, inputs = reaching(system, 0, 4)
    assert states.tolist() == [[True, False], [False, True], [False, False], [False, False]]
    assert inputs.ravel().tolist() == [False, False, True, False]


@pytest.mark.parametrize("seed", range(12))
def test_what_reaches_an_output(seed):
    """Zeros are drawn at random; what is flagged as unreached changes nothing at all, and little else does."""
    rng = np.random.default_rng(seed)
    full = random_system(seed, nx=3, nu=2, ny=1, layers=(2, 1))
    names = ("A", "B1", "B2", "C1", "D11", "D12", "C2", "D21", "D22")
    system = replace(full, **{n: getattr(full, n) * (rng.random(getattr(full, n).shape) < 0.35) for n in names})
    states, inputs = reaching(system, 0, 4)
    x, u = rng.standard_normal(3), rng.standard_normal((4, 2))
    y = system.simulate(u, x)[0][:, 0]
    reached, pushed = np.zeros((4, 3), bool), np.zeros((4, 2), bool)
    for _ in range(8):
        for i in range(3):
            reached[:, i] |= system.simulate(u, x + np.eye(3)[i] * rng.standard_normal())[0][:, 0] != y
        for c in range(2):
            du = np.zeros((4, 2))
            du[0, c] = rng.standard_normal()
            pushed[:, c] |= system.simulate(u + du, x)[0][:, 0] != y
    assert not (reached & ~states).any()
    assert not (pushed & ~inputs).any()
    assert (reached == states).mean() > 0.7
    assert (pushed == inputs).mean() > 0.7


@FAST
@given(seed=SEEDS)
def test_one_constant_of_linear_systems(seed):
    """The true constant is the largest singular value of (C A^N, C A^N-1 B, .., D)."""
    rng = np.random.default_rng(seed)
    draw, N = rng.standard_normal, 2
    system = linear(0.5 * draw((2, 2)), B2=draw((2, 1)), C2=draw((2, 2)), D22=draw((2, 1)))
    rho = np.full((N + 1, 1), float(10.0 ** rng.uniform(0, 4)))
    try:
        constant, margin = h.prove_lipschitz(system, N, np.zeros((N + 1, 0)), rho, 1e-9, None)
    except CertificationError:
        return
    A, B, C = system.A, system.B2, system.C2
    true = np.linalg.norm(np.hstack([C @ A @ A, C @ A @ B, C @ B, system.D22]), 2)
    assert margin > 0
    assert constant >= true
    assert constant >= np.sqrt(rho.max())


def test_one_constant_of_a_static_gain():
    system = linear([[0.0]], B2=[[0.0]], C2=[[3.0], [4.0]], D22=[[0.0], [0.0]])
    constant, _ = h.prove_lipschitz(system, 0, np.zeros((1, 0)), np.full((1, 1), 1.0), 1e-12, None)
    assert constant == pytest.approx(5.0, rel=1e-9)
    small = linear([[0.0]], B2=[[0.0]], C2=[[0.3]], D22=[[0.4]])  # (dx, du) -> 0.3 dx + 0.4 du
    found, _ = h.prove_lipschitz(small, 0, np.zeros((1, 0)), np.full((1, 1), 0.25 * (1 + 1e-6)), 1e-12, None)
    assert found == pytest.approx(0.5, rel=1e-5)
    for bad in ({"horizon": -1}, {"horizon": 1}, {"rho": -np.ones((1, 1))}, {"padding": np.nan}):
        claim = {"horizon": 0, "multipliers": np.zeros((1, 0)), "rho": np.ones((1, 1)), "padding": 1e-12, "boxes": None}
        with pytest.raises(ControlRnnError):
            h.prove_lipschitz(system, **(claim | bad))


def test_ratios():
    rng = np.random.default_rng(0)
    B = rng.standard_normal((3, 3, 3))
    P, M = B @ B.swapaxes(1, 2), np.diag([1.0, 1e-8, 1e8])
    found = inc.largest_ratios(Enclosure.of(P), Enclosure.of(M[None]))
    for p, ratio in zip(P, found, strict=True):
        assert definite(Fraction(ratio) * exact(M) - exact(0.5 * (p + p.T)))
        assert not definite(Fraction(ratio * (1 - 1e-6)) * exact(M) - exact(0.5 * (p + p.T)))
    wide = inc.largest_ratios(Enclosure(P, np.full(P.shape, 0.1)), Enclosure.of(M[None]))
    assert (wide > found * 1.01).all()
    assert inc.largest_ratios(Enclosure.of(np.zeros((2, 0, 0))), Enclosure.of(np.zeros((1, 0, 0)))).tolist() == [0, 0]
    assert 0 < inc.largest_ratio(np.zeros((2, 2)), np.eye(2)) < 1e-200
    for bad_P, bad_M in ((np.full((2, 2), np.inf), np.eye(2)), (np.eye(2), np.full((2, 2), np.nan)),
                         (np.eye(2), -np.eye(2)), (np.eye(2), np.zeros((2, 2)))):  # fmt: skip
        with pytest.raises(CertificationError):
            inc.largest_ratio(bad_P, bad_M)


@FAST
@given(seed=SEEDS, kind=st.sampled_from(["box", "ball", "few", "constant", "rate_limited"]))
def test_prices_of_input_errors(seed, kind):
    """No member of the set costs more than its price; the worst that is known costs as much."""
    rng, K = np.random.default_rng(seed), 4
    more = (
        {"steps": int(rng.integers(1, 6))}
        if kind == "few"
        else {"rate": rng.random(2)}
        if kind == "rate_limited"
        else {}
    )
    b = rng.random(2) * 10.0 ** rng.uniform(-3, 3, 2)
    error = InputDifferences.of(InputDifferences(kind=kind, radius=b, **more), 2)
    rho, gains = rng.random((K, 2)), rng.random((K, 1, 2))
    added = error.added(gains)
    size, sums = (gains[:, 0] * b), (rho * b * b)
    for k in range(K):
        many = slice(0, k + 1)
        steps = min(more.get("steps", K), k + 1)
        if kind == "ball":
            wanted = np.sqrt((size[many] ** 2).sum(axis=1)).sum()
            price = sums[many].max(axis=1).sum()
        else:
            wanted = np.sort(size[many].sum(axis=1))[-steps:].sum()
            price = np.sort(sums[many].sum(axis=1))[-steps:].sum()
        assert wanted <= added[k, 0] <= wanted * (1 + 1e-12)
        if not error.is_state:
            assert price <= error.energies(rho)[k] <= price * (1 + 1e-12)
    if kind == "constant":
        assert not error.energies(np.zeros((K, 0))).any()
    if kind == "rate_limited":
        price = np.cumsum((rho * error.changes**2).sum(axis=1))
        assert np.allclose(error.energies(rho), price, rtol=1e-12)
        assert (error.energies(rho) >= price * (1 - 1e-15)).all()


def test_boxes_within_input_errors():
    b = np.array([3.0, 0.0, 4.0])

    def box(horizon, **kind):
        return InputDifferences.of(InputDifferences(radius=b, **kind), 3).covered_box(horizon)

    assert box(5).tolist() == b.tolist()
    small = InputDifferences.of(InputDifferences(kind="ball", radius=np.array([0.3, 0.0])), 2).covered_box(5)
    assert 0.3 * (1 - 1e-15) <= small[0] <= 0.3  # a ball of one channel is a box
    small = InputDifferences.of(InputDifferences(kind="ball", radius=np.full(2, 0.3)), 2).covered_box(5)
    assert 2 * (small[0] / 0.3) ** 2 <= 1
    ball = exact(box(5, kind="ball"))
    assert (ball[0] / 3) ** 2 + (ball[2] / 4) ** 2 <= 1
    assert float(ball[0]) == pytest.approx(3 / np.sqrt(2), rel=1e-12)
    assert box(5, kind="constant").tolist() == [0, 0, 0]
    assert box(0, kind="constant").tolist() == b.tolist()
    assert box(2, kind="few", steps=3).tolist() == b.tolist()
    assert box(3, kind="few", steps=3).tolist() == [0, 0, 0]
    assert box(3, kind="rate_limited", rate=5.0).tolist() == [2.5, 0, 2.5]
    assert box(3, kind="rate_limited", rate=7.0).tolist() == [3.0, 0, 3.5]
    for ulps in (1, 2, 3, 5):
        rate = ulps * 5e-324
        assert 2 * Fraction(box(3, kind="rate_limited", rate=rate)[0]) <= Fraction(rate)
    assert InputDifferences.of(0.5, 3).b.tolist() == [0.5] * 3
    assert InputDifferences.of(InputDifferences(kind="rate_limited", radius=b, rate=2.0), 3).changes.tolist() == [
        2,
        0,
        2,
    ]


@pytest.mark.parametrize("bad", [
    {"radius": -1.0}, {"radius": np.nan}, {"radius": np.inf}, {"radius": np.ones(2)}, {"kind": "few"},
    {"kind": "few", "steps": 0}, {"kind": "few", "steps": 1.5}, {"kind": "rate_limited"}, {"rate": 1.0},
    {"kind": "rate_limited", "rate": -1.0}, {"kind": "rate_limited", "rate": np.nan}, {"steps": 2}, {"kind": "wild"},
], ids=str)  # fmt: skip
def test_input_errors_that_make_no_sense(bad):
    with pytest.raises(ControlRnnError):
        InputDifferences.of(InputDifferences(**({"radius": 1.0} | bad)), 3)


def test_scaled_input_errors_and_their_words():
    error = InputDifferences.of(InputDifferences(kind="rate_limited", radius=1e-300, rate=5e-324), 2).scaled(-990)
    assert error.b == pytest.approx(np.ldexp(1e-300, 990))
    assert (error.changes >= np.ldexp(5e-324, 990)).all()
    for kind, word in (({"kind": "ball"}, "ellipsoid"), ({"kind": "few", "steps": 3}, "no more than 3 steps"),
                       ({"kind": "constant"}, "a constant"), ({"kind": "rate_limited", "rate": 0.25}, "changing by"),
                       ({"kind": "box"}, "per channel and step")):  # fmt: skip
        text = str(InputDifferences.of(InputDifferences(radius=0.5, **kind), 1))
        assert word in text
        assert "0.5" in text
    assert "step" not in str(InputDifferences(kind="constant", radius=0.5))


def test_one_constant_inside_of_boxes():
    """Neurons that are saturated in the boxes pass less on; anything goes outside of them."""
    system = random_system(3, nx=2, nu=1, ny=1, layers=(2,), activation="tanh")
    system = replace(system, bv=np.full(2, 6.0))
    boxes = (-0.1 * np.ones(1), 0.1 * np.ones(1)), (-0.1 * np.ones(2), 0.1 * np.ones(2))
    numbers = np.full((2, 2), 4.0), np.full((2, 1), 60.0), 1e-9
    inside, _ = h.prove_lipschitz(system, 1, *numbers, boxes)
    anywhere, _ = h.prove_lipschitz(system, 1, *numbers, None)
    assert inside <= anywhere
    lam = np.full((2, 2), 4.0)
    assert _largest_storage(system, lam, boxes) < 0.9 * _largest_storage(system, lam, None)
    with pytest.raises(ControlRnnError):
        h.prove_lipschitz(system, 1, *numbers, (boxes[0], boxes[0]))


def _largest_storage(system, lam, boxes):
    inequality = h.HorizonInequality(system, 1, 1.0, None, 0.0, boxes=boxes)
    return inequality.prove(Family(0, lam, np.zeros((2, 0)), 1e-9))[0][-1]
