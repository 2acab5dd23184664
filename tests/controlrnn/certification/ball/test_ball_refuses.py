"""Claims that are false and once passed for proven, by what they exploit: refused, and shown to be false by a run.

Each takes numbers of a real proof to where they prove something else, or to where float64 loses them.
"""

import dataclasses
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_systems import random_elman, random_system

from controlrnn.certification import (
    ContractionCertificate,
    GainCertificate,
    InputError,
    L2GainCertificate,
    certify_around,
    certify_contraction,
    certify_delta_iss,
    certify_gains,
    certify_horizon,
    certify_l2_gain,
    certify_lipschitz,
    certify_reinitialisation,
)
from controlrnn.certification.families import Family
from controlrnn.errors import CertificationError, ControlRnnError
from controlrnn.systems import GatedSystem, LureSystem

pytest.importorskip("flint", reason="python-flint gives the ball arithmetic (extra audit)")

from controlrnn.certification.refutation import (
    Pair,
    Scenario,
    refute_around,
    refute_contraction,
    refute_contraction_at,
    refute_delta_iss,
    refute_dissipation,
    refute_gains,
    refute_horizon,
    refute_lipschitz,
    refute_reinitialisation,
)

TINY = 5e-324  # the smallest number; its products are lost in float64


def lure(A, B2, C2, *, B1=None, C1=None, D12=None, D22=None, activation="tanh"):
    """A system of what is given and zeros."""
    A, B2, C2 = (np.atleast_2d(np.array(M, float)) for M in (A, B2, C2))
    nx, nu, ny, nv = len(A), B2.shape[1], len(C2), 0 if B1 is None else np.shape(B1)[1]
    zero = np.zeros
    return LureSystem(
        A=A, B1=zero((nx, nv)) if B1 is None else B1, B2=B2, bx=zero(nx), C1=zero((nv, nx)) if C1 is None else C1,
        D11=zero((nv, nv)), D12=zero((nv, nu)) if D12 is None else D12, bv=zero(nv), C2=C2, D21=zero((ny, nv)),
        D22=zero((ny, nu)) if D22 is None else np.array(D22, float), by=zero(ny), activation=activation,
        layers=(nv,) if nv else (), dt=1.0,
    )  # fmt: skip


def refused(certificate, system, rigours=("float64", "ball")):
    for rigour in rigours:
        with pytest.raises(CertificationError):
            certificate.verify(system, rigour=rigour)
    return True


def contraction(system, **claim):
    return ContractionCertificate(
        system_digest=system.digest, method="forged", solver_status="", margin=0.3, versions={}, **claim
    )


@pytest.mark.parametrize("error", [
    InputError(radius=np.array([1.0])), InputError(kind="ball", radius=np.array([1.0])),
    InputError(kind="few", radius=np.array([1.0]), steps=2),
], ids=lambda e: str(e.kind))  # fmt: skip
def test_a_proof_for_constant_errors_of_inputs_is_none_for_arbitrary_ones(error):
    """y = u[k] - u[k - 1]: constant errors cancel from the second step on."""
    system = lure([[0.0]], [[1.0]], [[-1.0]], D22=[[1.0]])
    honest = certify_horizon(system, 4, initial_radius=0.0, input_radius=InputError(kind="constant", radius=1.0))
    assert honest.verify(system, rigour="ball") > 0
    assert honest.bounds[4, 0] < 0.01
    lifted = tuple(f for f in honest.families if f.shares.size)
    box = np.zeros(1) if error.kind == "few" else np.ones(1)
    forged = replace(honest, input_error=error, input_radius=box, families=lifted)
    assert refused(forged, system)
    du = np.array([[0.0], [0.0], [0.0], [1.0], [-1.0]])
    zero = np.zeros((5, 1))
    assert refute_horizon(system, forged, Pair(np.zeros(1), zero, np.zeros(1), du))
    constant = Pair(np.zeros(1), zero, np.zeros(1), zero + 1)
    assert not refute_horizon(system, honest, constant)
    assert not refute_horizon(system, honest, Pair(np.zeros(1), zero, np.zeros(1), du)), "not in the honest claim's set"


def test_slowly_changing_errors_are_proven_at_their_own_rate_only():
    system = random_elman(0, nx=3)
    error = InputError(kind="rate_limited", radius=0.1, rate=1e-3)
    made = certify_horizon(system, 4, initial_radius=0.1, input_radius=error, iterations=10)
    lifted = replace(made, families=tuple(f for f in made.families if f.shares.size))
    faster = replace(lifted, input_error=InputError(kind="rate_limited", radius=np.full(2, 0.1), rate=np.full(2, 0.2)))
    assert refused(replace(faster, input_radius=np.full(2, 0.1)), system)


def test_bounds_inside_of_boxes_do_not_cover_what_nothing_keeps_inside():
    """Re-initialisation with horizons for saturated neurons, far away from where it works."""
    system = random_elman(0)
    low, high, error, W, N = np.array([-1.0, -0.5]), np.array([1.0, 1.5]), np.array([0.05, 0.02]), 8, 4
    made = certify_reinitialisation(
        system, washout=W, horizon=N, input_range=(low, high), input_error=error, iterations=10
    )
    assert made.verify(system, rigour="ball") > 0
    far = np.linalg.lstsq(system.D12, np.ones(4), rcond=None)[0]
    far = 1e4 * far / np.linalg.norm(far)
    boxes = {"input_range": (far, far), "state_range": (np.zeros(4), np.zeros(4))}

    def saturated(radius):
        return certify_horizon(
            system,
            W + N,
            initial_radius=radius,
            input_radius=error,
            metric=made.contraction.metric,
            iterations=2,
            **boxes,
        )

    forged = replace(made, washed=saturated(made.radius), running=saturated(made.running_error))
    assert forged.output_bounds(W).max() < 1e-3 * made.output_bounds(W).max()
    assert refused(forged, system)
    u = np.tile(high - error, (W + N + 1, 1))
    off = 0.99 * error  # rounded sums of error would be beyond it
    scenario = Scenario(past=low, recorded_past=low + off, u=u, recorded=u + off, washout=W)
    assert refute_reinitialisation(system, forged, scenario)
    assert not refute_reinitialisation(system, made, scenario)


@pytest.mark.parametrize("neurons", [False, True])
def test_nothing_underflows_a_metric_of_the_smallest_numbers(neurons):
    n = 10
    W, ones = 0.49 * np.ones((n, n)), np.ones((n, 1))
    system = (
        lure(np.zeros((n, n)), 0 * ones, ones.T, B1=np.eye(n), C1=W, D12=0.3 * ones)
        if neurons
        else lure(W, 0.4 * ones, ones.T)
    )
    nv = n if neurons else 0
    forged = contraction(
        system,
        rate=0.75,
        metric=TINY * np.eye(n),
        multipliers=np.full(nv, TINY),
        input_gain=np.array([3e-162]),
        input_multipliers=np.full((1, nv), TINY),
    )
    assert refused(forged, system)
    assert refute_contraction_at(system, forged, np.zeros(n), np.zeros(1))
    apart = np.full(n, 1e-3)
    assert refute_contraction(system, forged, Pair(-apart, np.zeros((1, 1)), apart, np.zeros((1, 1))))


def test_nor_a_gain_in_units_whose_squares_are_lost():
    n, scale = 10, np.array([2.0**537])
    system = lure(0.49 * np.ones((n, n)), 0.4 * np.ones((n, 1)), 0.49 * np.ones((1, n)))
    forged = L2GainCertificate(
        system_digest=system.digest,
        method="forged",
        solver_status="",
        margin=0.3,
        versions={},
        rate=1.0,
        metric=TINY * np.eye(n),
        multipliers=np.zeros(0),
        Q=-np.diag(scale**-2.0),
        S=np.zeros((1, 1)),
        R=np.diag(scale**-2.0),
        gamma=1.0,
        input_scale=scale,
        output_scale=scale,
    )
    assert refused(forged, system)
    push = Pair(np.zeros(n), np.zeros((3, 1)), np.zeros(n), np.array([[1.0], [0.0], [0.0]]))
    assert refute_dissipation(system, forged, push)


def test_overflow_and_nan_prove_nothing():
    system = lure([[5.0, 0.0], [5.0, 0.0]], [[0.0], [0.0]], [[1.0, 1.0]])
    metric = 1.2e308 * np.array([[1.0, -0.9995], [-0.9995, 1.0]])
    forged = contraction(
        system,
        rate=0.9,
        metric=metric,
        multipliers=np.zeros(0),
        input_gain=np.array([1e140]),
        input_multipliers=np.zeros((1, 0)),
    )
    assert refused(forged, system)
    assert refute_contraction_at(system, forged, np.zeros(2), np.zeros(1))


@pytest.mark.parametrize("radius", [1e-160, 1e-170, 1e-300, TINY])
def test_a_radius_whose_square_is_lost_is_still_a_radius(radius):
    system = random_elman(0, nx=3)
    made = certify_horizon(system, 3, initial_radius=1.0, iterations=5)
    forged = replace(made, initial_radius=radius, bounds=np.zeros_like(made.bounds))
    assert refused(forged, system)
    first = np.array([0.5 * radius, 0.0, 0.0]) if radius > TINY else np.array([radius, 0.0, 0.0])
    assert refute_horizon(system, forged, Pair(np.zeros(3), np.zeros((4, 2)), first, np.zeros((4, 2))))
    assert replace(made, initial_radius=radius, bounds=made.bounds * max(radius, 1e-300) * 1.001 + TINY).verify(
        system, rigour="ball"
    )
    inputs = certify_horizon(system, 3, initial_radius=0.0, input_radius=1.0, iterations=5)
    small = InputError(radius=np.full(2, radius))
    forged = replace(inputs, input_error=small, input_radius=small.b, bounds=0 * inputs.bounds)
    assert refused(forged, system)
    du = np.zeros((4, 2))
    du[0] = radius
    assert refute_horizon(system, forged, Pair(np.zeros(3), np.zeros((4, 2)), np.zeros(3), du))


def test_a_rate_is_squared_without_rounding():
    """A stable-looking claim of an unstable system, with numbers of order one and a metric of condition 1e14."""
    A = [[1.009473271037464, 0.010262665394676093], [0.010262665394676105, 1.0082855178633423]]
    P = [[1.0195175857900436, -1.080220284438617], [-1.080220284438617, 1.144537258774619]]
    system = lure(A, np.zeros((2, 1)), [[1.0, 1.0]])
    forged = contraction(
        system,
        rate=0.9985995602881843,
        metric=np.array(P),
        multipliers=np.zeros(0),
        input_gain=np.array([1e-3]),
        input_multipliers=np.zeros((1, 0)),
    )
    assert refused(forged, system)
    assert refute_contraction_at(system, forged, np.zeros(2), np.zeros(1))


def test_multipliers_and_shares_of_a_tube_do_not_underflow():
    n = 10
    system = lure(
        np.zeros((n, n)),
        np.zeros((n, 1)),
        np.ones((1, n)) / n**0.5,
        B1=np.eye(n),
        C1=0.9 * np.ones((n, n)) / n,
        activation="relu",
    )
    made = certify_around(system, np.zeros(n), np.zeros((2, 1)), initial_radius=1e-9)
    assert made.verify(system, rigour="ball") > 0
    forged = replace(
        made,
        multipliers=np.full((1, 1, n), TINY),
        shares=np.full((1, 1, 1), TINY),
        focus=(None,),
        bounds=np.array([[1.001e-9], [0.53 * 0.9e-9]]),
    )
    assert refused(forged, system)
    near = np.full(n, 1e-9 / n**0.5 * (1 - 1e-12))
    assert refute_around(system, forged, Pair(np.zeros(n), np.zeros((2, 1)), near, np.zeros((2, 1))))


def test_the_size_of_an_ellipsoid_does_not_underflow():
    system = replace(random_system(0, layers=(), norm=0.9), bx=np.zeros(3), by=np.zeros(2))
    x0, u = np.zeros(3), np.zeros((6, 2))
    made = certify_around(system, x0, u, initial_radius=1e-9, focus=[])
    shares = np.array(made.shares)
    shares[:, :2] = 1e-162
    forged = replace(made, shares=shares, bounds=np.vstack([made.bounds[:1], 0 * made.bounds[1:]]))
    assert refused(forged, system)
    near = np.array([1e-9, 0.0, 0.0])
    assert refute_around(system, forged, Pair(x0, u, near, u))
    assert not refute_around(system, made, Pair(x0, u, near, u))


def test_bounds_are_of_real_arithmetic():
    """Runs in float64 may differ by more, by their rounding; runs without rounding do not."""
    system = replace(random_elman(0, nx=3), by=np.array([1e6, -3e5]))
    made = certify_horizon(system, 3, initial_radius=1e-11, iterations=10)
    assert made.verify(system, rigour="ball") > 0
    rng = np.random.default_rng(0)
    x, u = rng.standard_normal((500, 3)), rng.standard_normal((500, 4, 2))
    apart = 0.9e-11 * np.eye(3)[rng.integers(0, 3, 500)]
    seen = np.abs(system.simulate(u, x)[0] - system.simulate(u, x + apart)[0])
    worst = int((seen - made.bounds).max(axis=(1, 2)).argmax())
    assert (seen[worst] > made.bounds).any()
    assert not refute_horizon(system, made, Pair(x[worst], u[worst], x[worst] + apart[worst], u[worst]))


def test_true_claims_are_not_refuted_and_slightly_smaller_ones_are():
    """For linear systems the bounds are reached: a little below them a run shows that the claim is false."""
    system = lure([[0.5]], [[1.0]], [[2.0]], D22=[[1.0]])
    one, zero = np.ones(1), np.zeros((3, 1))
    start, push = Pair(0 * one, zero, one, zero), Pair(0 * one, zero, 0 * one, np.array([[1.0], [0.0], [0.0]]))

    def small(array):
        return np.asarray(array) * (1 - 1e-6)

    horizon = certify_horizon(system, 2, initial_radius=1.0)
    assert not refute_horizon(system, horizon, start)
    assert refute_horizon(system, replace(horizon, bounds=small(horizon.bounds)), start)
    gains = certify_gains(system, 2)
    for pair, name in ((start, "initial"), (push, "inputs")):
        assert not refute_gains(system, gains, pair)
        low = replace(gains, **{name: getattr(gains, name) * (1 - 1e-4)})
        assert refute_gains(system, low, pair)
        assert refused(low, system)
    constant = certify_lipschitz(system, 0)
    first = Pair(0 * one, zero[:1], 2 * one, one[None])  # y = 2 x + u
    assert not refute_lipschitz(system, constant, first)
    assert refute_lipschitz(system, replace(constant, constant=0.98 * constant.constant), first)
    rate = certify_contraction(system)
    assert not refute_contraction(system, rate, start)
    assert not refute_contraction_at(system, rate, np.zeros(1), np.zeros(1))
    slow = replace(rate, rate=0.4999)
    assert refute_contraction(system, slow, start)
    assert refute_contraction_at(system, slow, np.zeros(1), np.zeros(1))
    assert refused(slow, system)
    gain = certify_l2_gain(system)
    long = np.ones((60, 1))
    held = Pair(0 * one, 0 * long, 0 * one, long)
    assert not refute_dissipation(system, gain, held)
    low = replace(gain, gamma=0.9 * gain.gamma)
    assert refute_dissipation(system, low, held)
    assert refused(low, system)


def test_gains_of_nothing_are_zero_whatever_the_multipliers():
    """The state reaches the output at once only, an input one step later, another input never; neurons do nothing."""
    system = lure([[0.0]], [[1.0, 0.0]], [[2.0]], B1=np.zeros((1, 2)), C1=np.ones((2, 1)), D12=np.zeros((2, 2)))
    claim = GainCertificate(
        system_digest=system.digest,
        method="given",
        solver_status="",
        margin=0.1,
        versions={},
        horizon=2,
        metric=np.eye(1),
        initial=np.array([[3.0], [0.0], [0.0]]),
        families=(Family(0, np.ones((3, 2)), np.zeros((3, 0)), 1e-11),),
        inputs=np.array([[[0.0, 0.0]], [[3.0, 0.0]], [[0.0, 0.0]]]),
        input_multipliers=np.ones((3, 1, 2, 2)),
    )
    assert claim.verify(system, rigour="ball") > 0
    for name, index in (("initial", (0, 0)), ("inputs", (1, 0, 0))):
        low = np.array(getattr(claim, name))
        low[index] = 1.9
        assert refused(replace(claim, **{name: low}), system)


def test_accepted_forgeries_are_true():
    """Claims and multipliers changed at random: what is accepted is never refuted, what is refuted never accepted."""
    rng, accepted, refuted = np.random.default_rng(0), 0, 0
    system = replace(random_elman(3, nx=2, nu=1, ny=1, norm=0.8, activation="relu"), bv=np.zeros(2))
    honest = certify_horizon(system, 2, initial_radius=0.5, input_radius=0.1, iterations=10)
    rate = certify_contraction(system)
    for _ in range(60):
        a, b, c, d = rng.uniform(0.4, 1.6, 4)
        families = tuple(replace(f, multipliers=f.multipliers * a, rho=f.rho * b) for f in honest.families)
        bounds = replace(honest, families=families, bounds=honest.bounds * c)
        contracts = replace(
            rate,
            rate=min(rate.rate * a, 0.999),
            input_gain=rate.input_gain * b,
            multipliers=rate.multipliers * c,
            input_multipliers=rate.input_multipliers * d,
        )
        for claim, refute in ((bounds, refute_horizon), (contracts, refute_contraction)):
            false = False
            for _ in range(20):
                x, u, dx = 3 * rng.standard_normal(2), 3 * rng.standard_normal((3, 1)), rng.standard_normal(2)
                dx *= 0.499 / np.linalg.norm(dx)
                du = 0.099 * rng.choice([-1.0, 1.0], (3, 1))
                false = false or refute(system, claim, Pair(x, u, x + dx, u + du))
            try:
                claim.verify(system, rigour="ball")
            except CertificationError:
                refuted += false
                continue
            assert not false
            accepted += 1
    assert accepted > 5
    assert refuted > 5


def test_gated_networks():
    draw = np.random.default_rng(0).standard_normal
    system = GatedSystem(
        W=0.5 * draw((9, 2)), U=0.03 * draw((9, 3)), b=0.5 * draw(9), C=draw((2, 3)), by=draw(2), cell="gru", dt=1.0
    )
    made = certify_delta_iss(system, input_range=(-np.ones(2), np.ones(2)))
    u = np.zeros((3, 2))
    pair = Pair(np.zeros(3), u, np.array([0.5, 0.5, -0.5]), u)
    assert not refute_delta_iss(system, made, pair)
    fast = replace(made, rate=1e-3)
    assert refute_delta_iss(system, fast, pair)
    assert refused(fast, system)
    narrow = replace(made, state_bound=np.full(3, 0.6), input_low=-30 * np.ones(2))
    assert refused(narrow, system)


HOSTILE = [np.nan, np.inf, -np.inf, 0.0, -0.0, TINY, -TINY, 1e-160, 1e308, -1.0, 1.0]


def made_of_all_kinds():
    system = random_elman(1, nx=2, nu=1, ny=1)
    rng = np.random.default_rng(0)
    error = InputError(kind="rate_limited", radius=0.1, rate=0.05)
    yield certify_horizon(system, 2, initial_radius=0.5, input_radius=error, iterations=2), system
    yield certify_gains(system, 2, iterations=2), system
    yield certify_lipschitz(system, 2, iterations=2), system
    yield certify_contraction(system), system
    yield certify_l2_gain(system), system
    yield certify_around(system, np.zeros(2), rng.standard_normal((3, 1)), initial_radius=0.1, focus=[]), system
    yield (
        certify_reinitialisation(
            system, washout=1, horizon=1, input_range=(-np.ones(1), np.ones(1)), input_error=0.1, iterations=2
        ),
        system,
    )
    draw = rng.standard_normal
    gated = GatedSystem(
        W=0.5 * draw((12, 1)), U=0.03 * draw((12, 3)), b=draw(12), C=draw((1, 3)), by=draw(1), cell="lstm", dt=1.0
    )
    yield certify_delta_iss(gated, input_range=(-np.ones(1), np.ones(1))), gated


@pytest.fixture(scope="module")
def every():
    return list(made_of_all_kinds())


def test_fields_of_other_forms_are_refused_by_name(every):
    for certificate, system in every:
        names = [n for n, v in vars(certificate).items() if isinstance(v, np.ndarray) and v.size]
        assert names
        for name in names:
            value = getattr(certificate, name)
            for wrong in (value[None], value[..., :0], value.astype(np.float32), value.tolist(), None, "text"):
                forged = replace(certificate)
                object.__setattr__(forged, name, wrong)
                assert refused(forged, system, ("ball",)), name


PLACES = st.integers(0, 2**20)


@settings(max_examples=60)
@given(kind=PLACES, field=PLACES, place=PLACES, value=st.sampled_from(HOSTILE))
def test_one_hostile_number_anywhere_is_refused_or_harmless(every, kind, field, place, value):
    certificate, system = every[kind % len(every)]
    # Not `vars`: verifications leave what they computed in the instance.
    numbers = {f.name: getattr(certificate, f.name) for f in dataclasses.fields(certificate) if f.name != "margin"}
    fields = [n for n, v in numbers.items() if isinstance(v, np.ndarray | float | int) and np.size(v)]
    name = fields[field % len(fields)]
    new = value
    if isinstance(numbers[name], np.ndarray):
        new = np.array(numbers[name])
        new.flat[place % new.size] = value
    forged = replace(certificate)
    object.__setattr__(forged, name, new)
    try:
        assert forged.verify(system, rigour="ball") > 0
    except CertificationError:
        return
    # Accepted: then it says something weaker, or the same with other multipliers.
    assert np.isfinite(np.asarray(new)).all()


def test_parts_of_other_kinds_are_refused(every):
    for certificate, system in every:
        for name, value in vars(certificate).items():
            if isinstance(value, tuple) or hasattr(value, "system_digest"):
                for wrong in (None, 3, (None,), every[0][0]):
                    forged = replace(certificate)
                    object.__setattr__(forged, name, wrong)
                    if name == "focus":
                        continue
                    with pytest.raises(ControlRnnError):
                        forged.verify(system, rigour="ball")
