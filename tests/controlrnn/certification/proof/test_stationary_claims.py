"""Contraction, dissipation and what follows from them, against rational arithmetic."""

from fractions import Fraction

import numpy as np
import pytest
from exact_numbers import definite, exact, holds, sector
from hypothesis import example, given
from hypothesis import strategies as st
from inequality_cases import FAST, SEEDS, blocks, linear, system_of

from controlrnn.certification.proof import incremental as inc
from controlrnn.certification.proof import stationary
from controlrnn.certification.proof.arithmetic.enclosure import Enclosure
from controlrnn.certification.proof.incremental import IncrementalForm
from controlrnn.errors import CertificationError, ControlRnnError
from controlrnn.systems import observer_system


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
    "no metric": {"metric": np.zeros((2, 2))}, "rate too small": {"rate": 0.4999},
    "indefinite": {"metric": np.diag([1.0, -1.0])},
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
    for B2 in (0.0, 1e-9):  # it may be reached where the matrix is not known exactly
        system = linear(0.5 * np.eye(2), B2=np.array([[1.0, B2], [1.0, B2]]))
        with pytest.raises(CertificationError):
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
    true = np.hstack(
        [
            exact(system.A) - X.dot(exact(system.C2)),
            exact(system.B2) - X.dot(exact(system.D22)),
            X,
            exact(system.B1) - X.dot(exact(system.D21)),
        ]
    )
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
    "no metric": {"metric": np.zeros((2, 2))},
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
@example(rate=0.999, steps=1, initial=1.0, radius=0.0)
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
