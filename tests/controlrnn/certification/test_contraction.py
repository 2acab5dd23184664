"""Contraction certificates: what they claim holds on trajectories, and what does not hold is not certified."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from random_systems import random_elman, random_system

from controlrnn import models
from controlrnn.certification import certify_by_construction, certify_contraction
from controlrnn.certification.proof.incremental import IncrementalForm
from controlrnn.certification.search import sdp
from controlrnn.certification.search.stationary import contract
from controlrnn.errors import CertificationError, SettingError, ShapeError

SYSTEMS = {
    "elman": lambda: random_elman(0, nx=3),
    "elman-relu": lambda: random_elman(1, nx=3, norm=0.8, activation="relu"),
    "layered": lambda: random_system(2, layers=(2, 2), coupling=0.1),
    "sigmoid": lambda: random_system(3, layers=(4,), activation="sigmoid"),
    "leaky": lambda: random_system(4, layers=(2, 1), coupling=0.1, activation="leaky_relu"),
    "linear": lambda: random_system(5, layers=(), norm=0.8),
}


@pytest.fixture(scope="module", params=SYSTEMS)
def certified(request):
    system = SYSTEMS[request.param]()
    return system, certify_contraction(system)


def norms(certificate, dx):
    return np.sqrt(np.einsum("...i,ij,...j->...", dx, certificate.metric, dx))


def test_states_approach_at_the_certified_rate(certified):
    system, certificate = certified
    rng = np.random.default_rng(0)
    scale = 10.0 ** rng.uniform(-1, 1, (5000, 1))
    x, dx, u = (scale * rng.standard_normal((5000, n)) for n in (system.nx, system.nx, system.nu))
    dx *= 10.0 ** rng.uniform(-2, 0, (5000, 1))
    after = norms(certificate, system.step(x + dx, u) - system.step(x, u))
    assert (after <= certificate.rate * norms(certificate, dx) * (1 + 1e-9) + 1e-12).all()


def test_inputs_move_the_state_by_at_most_their_gains(certified):
    system, certificate = certified
    rng = np.random.default_rng(1)
    x, u = 3 * rng.standard_normal((5000, system.nx)), 3 * rng.standard_normal((5000, system.nu))
    for c in range(system.nu):
        du = np.zeros_like(u)
        du[:, c] = 10.0 ** rng.uniform(-3, 1, 5000)
        moved = norms(certificate, system.step(x, u + du) - system.step(x, u))
        assert (moved <= certificate.input_gain[c] * du[:, c] * (1 + 1e-9) + 1e-12).all()
        assert moved.max() > 0


def test_error_after_bounds_simulations(certified):
    system, certificate = certified
    rng = np.random.default_rng(2)
    radii = np.array([0.3, 0.1])
    u = 2 * rng.standard_normal((500, 20, 2))
    du = radii * rng.choice([-1.0, 1.0], (500, 20, 2))
    x0, dx0 = rng.standard_normal((500, system.nx)), rng.standard_normal((500, system.nx))
    start = norms(certificate, dx0)
    distance = norms(certificate, system.simulate(u + du, x0 + dx0)[1] - system.simulate(u, x0)[1])
    for k in range(21):
        bound = np.array([certificate.error_after(k, s, radii) for s in start])
        assert (distance[:, k] <= bound * (1 + 1e-9)).all()


def test_settled_states_stay_within_the_reachable_radius(certified):
    system, certificate = certified
    rng = np.random.default_rng(3)
    middle, half = np.array([0.5, -1.0]), np.array([0.7, 0.2])
    rest = system.simulate(np.tile(middle, (3000, 1)))[1][-1]
    u = middle + half * np.repeat(rng.choice([-1.0, 1.0], (50, 40, 2)), 5, axis=1)
    x = system.simulate(u, rest)[1]
    assert norms(certificate, x - rest).max() <= certificate.reachable_radius(half) * (1 + 1e-9)


@pytest.mark.parametrize("rate", [0.5, 0.99, 1 - 1e-6, 1 - 1e-9])
@pytest.mark.parametrize("steps", [0, 1, 2, 7, 50])
def test_error_after_is_never_rounded_down(rate, steps):
    """Against rational arithmetic; 1 - rate^steps cancels where the rate is near one."""
    made = certify_contraction(random_elman(0, nx=2))
    certificate = replace(made, rate=rate, input_gain=np.array([0.7, 0.3]))
    decay, one = Fraction(rate) ** steps, Fraction(1)
    push = (one - decay) / (one - Fraction(rate)) * (Fraction(0.7) + Fraction(0.3)) * Fraction(0.2)
    exact = decay * Fraction(1.5) + push
    assert exact <= Fraction(certificate.error_after(steps, 1.5, 0.2)) <= exact * Fraction(1 + 1e-11)


def test_error_after_forgets_even_a_start_far_away():
    certificate = replace(certify_contraction(random_elman(0, nx=2)), rate=0.5)
    assert certificate.error_after(10, np.inf) == np.inf
    push = certificate.error_after(10**6, 1e300, 0.2)
    assert push == pytest.approx(2 * 0.2 * certificate.input_gain.sum())


def test_states_in_very_different_units_change_nothing():
    system, size = random_system(1, layers=(2, 2), coupling=0.2), np.diag([1e4, 1e-3, 1.0])
    back = np.linalg.inv(size)
    rescaled = replace(
        system,
        A=size @ system.A @ back,
        B1=size @ system.B1,
        B2=size @ system.B2,
        bx=size @ system.bx,
        C1=system.C1 @ back,
        C2=system.C2 @ back,
    )
    assert certify_contraction(rescaled).rate == pytest.approx(certify_contraction(system).rate, abs=2e-3)


@pytest.mark.parametrize("share", [0.05, 0.5])
def test_a_slower_rate_is_so_by_its_share(certified, share):
    system, certificate = certified
    slower = certify_contraction(system, slower=share)
    slower.verify(system)
    assert slower.rate == pytest.approx(certificate.rate + share * (1 - certificate.rate), rel=1e-3)
    at_rate = certify_contraction(system, slower.rate)
    assert (at_rate.rate, at_rate.input_gain.tolist()) == (slower.rate, slower.input_gain.tolist())
    assert certify_contraction(system, slower=0.0).digest == certificate.digest


def test_where_nothing_slower_is_proven_the_smallest_rate_is(certified, monkeypatch):
    system, certificate = certified

    def only_the_smallest(form, target=None):
        if target is not None:
            raise CertificationError("nothing there")
        return contract(form, target)

    monkeypatch.setattr("controlrnn.certification.certificates.contraction.contract", only_the_smallest)
    assert certify_contraction(system, slower=0.1).digest == certificate.digest


@pytest.mark.parametrize("seed", range(3))
def test_linear_rate_is_the_spectral_radius(seed):
    system = random_system(seed, layers=(), norm=0.9)
    radius = np.abs(np.linalg.eigvals(system.A)).max()
    certificate = certify_contraction(system)
    assert radius <= certificate.rate <= radius + 5e-3
    assert certify_contraction(system, 0.5 * (1 + radius)).rate == 0.5 * (1 + radius)
    with pytest.raises(CertificationError):
        certify_contraction(system, 0.99 * radius)


@pytest.mark.parametrize("name", ["elman", "layered", "sigmoid"])
def test_no_general_solver_finds_a_faster_rate(name):
    system = SYSTEMS[name]()
    rate = certify_contraction(system).rate
    still = IncrementalForm.of(system, np.zeros(system.nu, bool))
    assert sdp.contraction_slack(still, rate + 1e-3) > 0
    assert sdp.contraction_slack(still, rate - 1e-2 * (1 - rate)) < 1e-8


@pytest.mark.parametrize(
    "model",
    [
        pytest.param(lambda: models.ContractingREN(nu=2, ny=2, nx=3, nv=6, dt=1.0, seed=0), id="ren"),
        pytest.param(
            lambda: models.ContractingR2DN(nu=2, ny=2, nx=3, nv=3, layers=(4, 4), rate=0.9, dt=1.0, seed=0), id="r2dn"
        ),
    ],
)
def test_no_slower_than_by_construction(model):
    own = certify_by_construction(model())
    assert certify_contraction(own.system).rate <= own.contraction.rate
    assert certify_contraction(own.system, own.contraction.rate).rate == own.contraction.rate


@pytest.mark.parametrize(
    "system",
    [
        pytest.param(random_elman(0, nx=3, norm=1.5, activation="relu"), id="elman"),
        pytest.param(random_system(0, layers=(3,), norm=3.0, coupling=1.0), id="lure"),
    ],
)
def test_unstable_systems_are_refused(system):
    with pytest.raises(CertificationError):
        certify_contraction(system)


def test_the_boundary_of_stability():
    """A rotation by any angle keeps distances: no rate below one exists."""
    base = random_system(0, nx=2, layers=())
    turn = np.array([[np.cos(1.0), -np.sin(1.0)], [np.sin(1.0), np.cos(1.0)]])
    for factor in (1.0, 1 + 1e-6):
        with pytest.raises(CertificationError):
            certify_contraction(replace(base, A=factor * turn))
    assert certify_contraction(replace(base, A=0.99 * turn)).rate < 0.9905


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"rate": 1.0}, SettingError),
        ({"rate": 0.0}, SettingError),
        ({"rate": np.nan}, SettingError),
        ({"slower": -0.1}, SettingError),
        ({"slower": 1.0}, SettingError),
        ({"slower": np.nan}, SettingError),
        ({"slower": 0.1, "rate": 0.99}, SettingError),
        ({"input_scale": 0.0}, SettingError),
        ({"input_scale": np.ones(3)}, ShapeError),
        ({"output_scale": np.ones(3)}, ShapeError),
    ],
)
def test_bad_arguments_to_contraction_are_refused(arguments, error):
    with pytest.raises(error):
        certify_contraction(random_elman(0, nx=2), **arguments)


def test_a_solver_that_panics_is_a_refusal_and_an_interrupt_stays_one(monkeypatch):
    form = IncrementalForm.of(random_system(0, layers=(3,)), np.zeros(2, bool))
    panic = type("PanicException", (BaseException,), {})  # as Rust's reach Python

    def solve(error):
        def raising(self, **options):
            raise error

        monkeypatch.setattr("cvxpy.Problem.solve", raising)

    solve(panic("Eigval error"))
    with pytest.raises(CertificationError, match="failed: Eigval error"):
        sdp.contraction_slack(form, 0.9)
    solve(KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        sdp.contraction_slack(form, 0.9)
