"""What a certificate says is what is proven: every field of a claim, also of the certificates inside of another one."""

from dataclasses import replace

import numpy as np
import pytest
from random_systems import random_elman, random_system

from controlrnn.certification import (
    DeltaIssCertificate,
    InputError,
    L2GainCertificate,
    certificate_from,
    certify_around,
    certify_contraction,
    certify_gains,
    certify_horizon,
    certify_lipschitz,
    certify_reinitialisation,
)
from controlrnn.errors import CertificationError, ControlRnnError, SettingError
from controlrnn.systems import GatedSystem, LureSystem

SYSTEM = random_elman(0, nx=2, nu=1, ny=1)
TINY = 5e-324


def refused(certificate, system=SYSTEM, match=None):
    with pytest.raises(CertificationError, match=match):
        certificate.verify(system)


@pytest.fixture(scope="module")
def horizon():
    return certify_horizon(SYSTEM, 2, initial_radius=0.5, input_radius=0.1, iterations=5, focus=[2])


@pytest.fixture(scope="module")
def reinitialisation():
    ends = -np.ones(1), np.ones(1)
    return certify_reinitialisation(
        SYSTEM,
        washout=2,
        horizon=1,
        input_range=ends,
        input_error=0.1,
        observer_gain=np.full((2, 1), 0.01),
        residual_bound=0.1,
        iterations=5,
    )


@pytest.mark.parametrize("radius", [1e-150, 1e-170, 1e-300, TINY])
def test_small_radii_give_small_bounds_and_never_none(radius):
    unit = certify_horizon(SYSTEM, 2, initial_radius=1.0, iterations=5, focus=[2])
    small = certify_horizon(SYSTEM, 2, initial_radius=radius, iterations=5, focus=[2])
    assert small.verify(SYSTEM) > 0
    assert (small.bounds > 0).all()
    if radius > TINY:
        assert small.bounds == pytest.approx(unit.bounds * radius, rel=1e-6)
    inputs = certify_horizon(SYSTEM, 2, initial_radius=0.0, input_radius=radius, iterations=5, focus=[2])
    assert (inputs.bounds[1:] > 0).all()
    if radius < 1e-150:
        with pytest.raises(CertificationError, match="rescale"):
            certify_around(SYSTEM, np.zeros(2), np.zeros((3, 1)), initial_radius=radius, passes=1)
    else:
        around = certify_around(SYSTEM, np.zeros(2), np.zeros((3, 1)), initial_radius=radius, passes=1)
        assert (around.bounds[0] >= 0.9 * radius * np.abs(SYSTEM.C2).max()).all()


def test_numbers_that_somebody_else_found_are_proven_like_any():
    n = 10
    z = np.zeros
    system = LureSystem(
        A=np.full((n, n), 0.49), B1=z((n, 0)), B2=np.full((n, 1), 0.4), bx=z(n), C1=z((0, n)), D11=z((0, 0)),
        D12=z((0, 1)), bv=z(0), C2=np.full((1, n), 0.49), D21=z((1, 0)), D22=z((1, 1)), by=z(1), layers=(), dt=1.0,
    )  # fmt: skip
    with pytest.raises(CertificationError):
        certificate_from(system, TINY * np.eye(n), z(0), 0.75)
    scale = np.array([2.0**537])
    with pytest.raises(CertificationError):
        L2GainCertificate.prove_gain(
            system, 1.0, metric=TINY * np.eye(n), multipliers=z(0), input_scale=scale, output_scale=scale
        )


def test_bounds_are_finite_and_of_the_claims_shape(horizon):
    assert horizon.verify(SYSTEM) > 0
    for bounds in (np.full((3, 1), np.inf), np.full((3, 1), np.nan), -horizon.bounds, 0 * horizon.bounds,
                   horizon.bounds[:-1], np.vstack([horizon.bounds, horizon.bounds[-1:]])):  # fmt: skip
        refused(replace(horizon, bounds=bounds))
    constant = certify_lipschitz(SYSTEM, 1, iterations=5)
    for value in (np.inf, np.nan, -constant.constant, 0.0):
        refused(replace(constant, constant=value))
    refused(replace(constant, horizon=0))
    around = certify_around(SYSTEM, np.zeros(2), np.zeros((3, 1)), initial_radius=0.1, passes=1)
    for bounds in (np.full((3, 1), np.inf), -around.bounds, around.bounds[1:]):
        refused(replace(around, bounds=bounds))


def test_boxes_have_two_ends(horizon):
    one, two = np.ones(1), np.ones(2)
    boxed = certify_horizon(
        SYSTEM,
        2,
        initial_radius=0.5,
        input_radius=0.1,
        iterations=5,
        focus=[2],
        input_range=(-one, one),
        state_range=(-two, two),
    )
    assert (boxed.bounds < horizon.bounds).any()
    none = np.zeros((2, 0))
    for change in ({"input_range": none, "state_range": none}, {"input_range": 9 * boxed.input_range},
                   {"state_range": 9 * boxed.state_range}, {"state_range": none}, {"input_range": none},
                   {"input_range": boxed.input_range[::-1]}, {"input_range": np.vstack([boxed.input_range, [[5.0]]])},
                   {"input_range": boxed.input_range[:1], "state_range": boxed.state_range[:1]},
                   {"state_range": np.nan * boxed.state_range}):  # fmt: skip
        refused(replace(boxed, **change))


def test_rows_are_whole_numbers(horizon):
    for row in (True, False, 0.5, -1, 1, np.nan):
        refused(replace(horizon, families=tuple(replace(f, row=row) for f in horizon.families)))
    gains = certify_gains(SYSTEM, 1, iterations=5)
    for row in (False, True, 1):
        refused(replace(gains, families=tuple(replace(f, row=row) for f in gains.families), initial=0 * gains.initial))
    refused(replace(gains, initial=np.full((2, 1), np.inf)))
    refused(replace(gains, inputs=0 * gains.inputs))


@pytest.mark.parametrize("kind", ["box", "ball", "few"])
def test_input_errors_are_those_of_the_claim(kind):
    """A proof for constant errors, or for smaller ones, is none for others."""
    error = InputError(kind="constant", radius=np.array([0.1]))
    made = certify_horizon(SYSTEM, 2, initial_radius=0.0, input_radius=error, iterations=5, focus=[2])
    lifted = tuple(f for f in made.families if f.shares.size)
    other = InputError(kind=kind, radius=np.array([0.1]), steps=1 if kind == "few" else None)
    for families in (lifted, made.families):
        claim = replace(made, input_error=other, input_radius=other.covered_box(2), families=families)
        refused(claim)
    refused(replace(made, input_radius=made.input_radius + 0.1))
    refused(replace(made, input_error=InputError(kind="constant", radius=np.array([0.2]))))


def test_gains_inside_are_of_the_same_claim(horizon):
    gains = certify_gains(SYSTEM, 2, iterations=5)
    claim = replace(horizon, families=(), gains=gains, bounds=gains.bounds(0.5, 0.1))
    assert claim.verify(SYSTEM) > 0
    refused(replace(claim, bounds=claim.bounds * (1 - 1e-12)))
    refused(replace(claim, gains=replace(gains, metric=2 * gains.metric)), match="metric")
    refused(replace(claim, gains=certify_gains(SYSTEM, 3, iterations=5)), match="horizon")
    refused(replace(claim, gains=replace(gains, initial=0.5 * gains.initial)), match="gain")
    refused(replace(claim, gains=replace(gains, system_digest="0" * 64)), match="speaks of")
    refused(replace(claim, gains=None))


NESTED = {
    "radius": lambda c: {"radius": 0.5 * c.radius},
    "no radius": lambda _c: {"radius": np.nan},
    "infinite radius": lambda _c: {"radius": np.inf},
    "start": lambda c: {"start": c.start + 10},
    "range": lambda c: {"input_high": 50 * c.input_high},
    "empty range": lambda c: {"input_high": c.input_low - 1},
    "input error": lambda c: {"input_error": 1.01 * c.input_error},
    "negative error": lambda c: {"input_error": -c.input_error},
    "residual": lambda c: {"residual_bound": 1.01 * c.residual_bound},
    "nan residual": lambda c: {"residual_bound": np.nan * c.residual_bound},
    "gain": lambda c: {"observer_gain": 1.01 * c.observer_gain},
    "longer": lambda c: {"horizon": c.horizon + 1},
    "washout": lambda c: {"washout": c.washout - 1},
    "negative": lambda c: {"washout": -1, "horizon": c.washout + c.horizon + 1},
    "no observer": lambda _c: {"observer": None},
    "no outputs": lambda _c: {"observed": None},
    "rate": lambda c: {"contraction": replace(c.contraction, rate=0.9 * c.contraction.rate)},
    "digest": lambda c: {"contraction": replace(c.contraction, system_digest="0" * 64)},
    "digest of outputs": lambda c: {"washed": replace(c.washed, system_digest="0" * 64)},
    "digest of the observer": lambda c: {"observer": replace(c.observer, system_digest=c.system_digest)},
    "metric": lambda c: {"contraction": replace(c.contraction, metric=4 * c.contraction.metric)},
    "exchanged": lambda c: {"washed": c.running, "running": c.washed},
    "observed": lambda c: {"observed": c.washed},
    "washed radius": lambda c: {"washed": replace(c.washed, initial_radius=0.9 * c.washed.initial_radius)},
    "washed bounds": lambda c: {"washed": replace(c.washed, bounds=0.9 * c.washed.bounds)},
    "running bounds": lambda c: {"running": replace(c.running, bounds=0.9 * c.running.bounds)},
    "observed bounds": lambda c: {"observed": replace(c.observed, bounds=0.9 * c.observed.bounds)},
    "boxes": lambda c: {"washed": certify_horizon(
        SYSTEM, 3, initial_radius=c.washed.initial_radius, input_radius=0.1, metric=c.contraction.metric, iterations=3,
        input_range=(1e4 * np.ones(1), 1e4 * np.ones(1)), state_range=(np.zeros(2), np.zeros(2)))},
    "fewer errors": lambda c: {"washed": certify_horizon(
        SYSTEM, 3, initial_radius=c.washed.initial_radius, metric=c.contraction.metric, iterations=3,
        input_radius=InputError(kind="few", steps=1, radius=0.1))},
}  # fmt: skip


@pytest.mark.parametrize("name", NESTED)
def test_parts_of_a_reinitialisation_cover_what_they_are_put_together_for(reinitialisation, name):
    refused(replace(reinitialisation, **NESTED[name](reinitialisation)))


def test_gains_of_an_observer_that_only_rounding_makes_stable():
    """Honest calls too: A - L C contracts as rounded to float64, and diverges without rounding."""
    z = np.zeros
    C = np.array([[1 / 3], [1 / 3 * (1 + 2.0**-52)]])
    system = LureSystem(
        A=np.array([[0.9]]), B1=z((1, 0)), B2=np.ones((1, 1)), bx=z(1), C1=z((0, 1)), D11=z((0, 0)), D12=z((0, 1)),
        bv=z(0), C2=C, D21=z((2, 0)), D22=z((2, 1)), by=z(2), layers=(), dt=1.0,
    )  # fmt: skip
    with pytest.raises(CertificationError):
        certify_reinitialisation(
            system,
            washout=2,
            horizon=2,
            input_range=(-np.ones(1), np.ones(1)),
            observer_gain=np.array([[7e15, -6999999999999993.0]]),
            iterations=5,
        )


def test_gates_that_underflow_let_something_through():
    z = np.zeros
    for b, U, scale, bound in (
        ([0.0, -800.0, 5.0, 0.0], 0.0, [1e-300, 1e308], [1.0, 2.0]),
        ([0.0, -1.0, -690.0, 0.0], 1e-30, [1e-300, 1e-30], [1.0, 1e308]),
    ):
        weights = z((4, 1))
        weights[1] = U
        system = GatedSystem(W=z((4, 1)), U=weights, b=np.array(b), C=np.ones((1, 1)), by=z(1), cell="lstm", dt=1.0)
        claim = DeltaIssCertificate(
            system_digest=system.digest,
            method="forged",
            solver_status="",
            margin=0.1,
            versions={},
            rate=0.5,
            scale=np.array(scale),
            input_gain=np.ones(1),
            input_low=z(1),
            input_high=z(1),
            state_bound=np.array(bound),
        )
        refused(claim, system, match="rate")


def test_rates_and_gains_of_a_contraction():
    made = certify_contraction(SYSTEM)
    wrong = [
        {"rate": made.rate * (1 - 1e-3)}, {"rate": 1.0}, {"rate": np.nan}, {"input_gain": 0.99 * made.input_gain},
        {"metric": np.diag([1.0, 1e-3]) @ made.metric}, {"multipliers": 0 * made.multipliers},
        {"input_gain": np.full(2, 9.0)}, {"system_digest": "0" * 64},
    ]  # fmt: skip
    for change in wrong:
        refused(replace(made, **change))
    refused(made, random_system(0, nx=2, nu=1, ny=1))
    assert made.reachable_radius(0.0) == 0
    with pytest.raises(ControlRnnError):
        made.error_after(-1, 1.0)


def test_what_cannot_be_stored_is_refused_before_it_is_proven():
    system = random_system(0, layers=(2,))
    with pytest.raises(SettingError, match="method must be a text of at most 200 characters, got 201"):
        certificate_from(system, np.eye(system.nx), np.ones(2), 0.75, method="x" * 201)
