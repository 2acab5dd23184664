"""Neurons with laws of their own: slope bounds against ball arithmetic, every kind of certificate, and attacks."""

from dataclasses import replace

import numpy as np
import pytest
from random_systems import mixed_system, random_neuron, random_pairs

from controlrnn.certification import (
    attack_around,
    attack_horizon,
    certify_around,
    certify_contraction,
    certify_gains,
    certify_horizon,
    certify_l2_gain,
    certify_lipschitz,
    certify_reinitialisation,
    execution_error,
    load_certificate,
    local_slopes,
)
from controlrnn.certification.ball.arithmetic import number, precision
from controlrnn.certification.ball.laws import derivative, slopes, value
from controlrnn.certification.proof.arithmetic.enclosure import Enclosure
from controlrnn.certification.proof.intervals import activated
from controlrnn.certification.proof.slopes import global_slopes, secant_slopes, slopes_on
from controlrnn.errors import CertificationError
from controlrnn.systems import Law, Laws, Neuron

flint = pytest.importorskip("flint")
OWN = [law for law in Law if law.activation is None]
# Ranges and arguments at the ends of what is allowed, beside ordinary ones.
EXTREME = [
    Neuron("root", 1e-12, 1e12),
    Neuron("reciprocal", 1e-12, 1e12),
    Neuron("square", 0.0, 1e12),
    Neuron("square", 0.0, 1e-12),
    Neuron("sine", -1.5, 1.5),
    Neuron("exponential", -300.0, 300.0),
    Neuron("signed_root", -1e12, 1e12, 1e-12),
    Neuron("signed_root", -1.0, 0.0, 1e12),
    Neuron("signed_root", 0.0, 1e-12, 1e-12),
    Neuron("saturation", -1e12, 1e12),
    Neuron("dead_zone", 0.0, 1e-12),
]
POINTS = [-1e300, -1e13, -3.0, -1e-13, -5e-324, 0.0, 5e-324, 1e-13, 1e-12, 1.0, 299.9, 1e12, 1e13, 1e300]


def neurons(seed=0):
    rng = np.random.default_rng(seed)
    return [random_neuron(rng, law) for law in OWN for _ in range(12)] + EXTREME


def ends(neuron, rng):
    """Ends of intervals about the range of a neuron, exactly at its ends, and far away."""
    low, high = neuron.low, neuron.high
    a = rng.uniform(low - 2 * (high - low), high + (high - low), 12)
    b = a + (high - low) * 10.0 ** rng.uniform(-9, 1, 12)
    special = [(low, high), (low, low), (high, high), (np.nextafter(low, -np.inf), np.nextafter(high, np.inf))]
    points = rng.choice(POINTS, (12, 2))
    return np.array([*zip(a, b, strict=True), *special, *np.sort(points, axis=1)])


def test_slope_bounds_on_intervals_hold_in_ball_arithmetic_and_are_tight():
    rng = np.random.default_rng(1)
    for neuron in neurons():
        laws = Laws([neuron])
        box = ends(neuron, rng)
        low, high = (end[:, 0] for end in slopes_on(laws, (box[:, :1], box[:, 1:])))
        with precision(300):
            for (a, b), least, most in zip(box, low, high, strict=True):
                exact = slopes(neuron, number(a), number(b))
                assert number(least) <= exact[0] and exact[1] <= number(most), (neuron, a, b)  # noqa: PT018
                # Known slopes keep a width without which no multipliers could be found.
                most, least = (most, least) if neuron.law.is_curved else (most - 2e-3, least + 2e-3)
                assert float(exact[1]) * (1 + 1e-11) >= most, (neuron, a, b)
                assert float(exact[0]) * (1 - 1e-11) <= least, (neuron, a, b)
                for share in (0.0, 0.3, 1.0):
                    slope = derivative(neuron, number(float(min(max(a * (1 - share) + b * share, a), b))))
                    if slope is not None:  # no kink
                        assert exact[0] <= slope.upper(), (neuron, a, b)
                        assert slope.lower() <= exact[1], (neuron, a, b)


def test_chords_from_a_known_end_stay_within_their_bounds():
    rng = np.random.default_rng(2)
    for neuron in neurons():
        laws, span = Laws([neuron]), neuron.high - neuron.low if neuron.law.has_range else 1.0
        base = rng.uniform(neuron.low - span, neuron.high + span, 40)
        error, reach = span * 10.0 ** rng.uniform(-12, -1, 40), span * 10.0 ** rng.uniform(-6, 0.5, 40)
        with precision(300):
            for b, e, r in zip(base, error, reach, strict=True):
                one = (np.array([number_]) for number_ in (b, e, r))
                low, high = (float(end[0]) for end in secant_slopes(laws, *one))
                for share in (-1.0, 0.4, 1.0):
                    start = number(b) + number(e) * number(share)
                    for part in (-1.0, -1e-3, 1e-5, 1.0):
                        step = number(r) * number(part)
                        chord = (value(neuron, start + step) - value(neuron, start)) / step
                        assert number(low) <= chord.upper(), (neuron, b, e, r)
                        assert chord.lower() <= number(high), (neuron, b, e, r)


def test_values_on_intervals_hold_in_ball_arithmetic():
    rng = np.random.default_rng(3)
    for neuron in neurons():
        box = ends(neuron, rng)
        mid, rad = 0.5 * box.sum(axis=1), np.abs(box[:, 1] - box[:, 0])
        keep = np.abs(mid) + rad < 1e200  # beyond that values overflow, and nothing is known
        image = activated(Laws([neuron]), Enclosure(mid[keep, None], rad[keep, None]))
        with precision(300):
            for m, r, low, high in zip(mid[keep], rad[keep], image.lower()[:, 0], image.upper()[:, 0], strict=True):
                assert number(low) <= value(neuron, number(m) - number(r)).upper(), (neuron, m, r)
                assert value(neuron, number(m) + number(r)).lower() <= number(high), (neuron, m, r)


def test_where_nothing_is_known_the_slopes_are_those_of_all_arguments():
    laws = Laws([n for n in neurons() if np.isfinite(n.low)])
    unknown = np.full(len(laws), np.nan)
    for found, expected in zip(slopes_on(laws, (unknown, unknown)), global_slopes(laws), strict=True):
        assert np.array_equal(found, expected)
    low, high = secant_slopes(laws, unknown, np.zeros(len(laws)), np.ones(len(laws)))
    assert (low == global_slopes(laws)[0]).all()
    assert (high == global_slopes(laws)[1]).all()


def contracting(seed, **options):
    return mixed_system(seed, nx=3, nu=2, ny=2, layers=(2, 3), norm=0.5, coupling=0.12, **options)


MAKE = {
    "horizon": lambda s: certify_horizon(s, 4, initial_radius=0.5, input_radius=0.1, iterations=20),
    "boxed horizon": lambda s: certify_horizon(
        s, 4, initial_radius=0.5, input_radius=0.1, iterations=20, input_range=(-np.ones(2), np.ones(2)),
        state_range=(-np.ones(3), np.ones(3)),
    ),
    "gains": lambda s: certify_gains(s, 3),
    "lipschitz": lambda s: certify_lipschitz(s, 3),
    "contraction": certify_contraction,
    "l2 gain": certify_l2_gain,
    "tube": lambda s: certify_around(s, np.zeros(3), np.ones((4, 2)), initial_radius=0.3, input_radius=0.1),
    "reinitialisation": lambda s: certify_reinitialisation(
        s, washout=3, horizon=2, input_range=(-np.ones(2), np.ones(2)), input_error=0.1, residual_bound=0.1,
        iterations=10,
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("seed", range(3))
def test_every_kind_proves_itself_again_also_in_ball_arithmetic_and_refuses_other_ranges(kind, seed, tmp_path):
    system = contracting(seed, feedthrough=kind != "reinitialisation")
    certificate = MAKE[kind](system)
    certificate.save(tmp_path / "c.npz")
    again = load_certificate(tmp_path / "c.npz")
    again.verify(system)
    again.verify(system, rigour="ball")
    for i, neuron in enumerate(system.activation.neurons):
        if neuron.law.has_range:
            wider = replace(neuron, high=neuron.high + 0.01 * (neuron.high - neuron.low))
            others = [wider if k == i else n for k, n in enumerate(system.activation.neurons)]
            with pytest.raises(CertificationError):
                again.verify(replace(system, activation=Laws(others)))


@pytest.mark.parametrize("seed", range(6))
def test_no_attack_beats_a_horizon_certificate(seed):
    system = contracting(seed)
    certificate = certify_horizon(system, 5, initial_radius=0.5, input_radius=0.2, iterations=30)
    one, other = random_pairs(system, 6, radius=0.5, input_radius=0.2, seed=seed)
    assert (np.abs(one - other).max(axis=0) <= certificate.bounds).all()
    found = attack_horizon(
        system,
        5,
        initial_radius=0.5,
        input_radius=0.2,
        input_range=(-2 * np.ones(2), 2 * np.ones(2)),
        starts=8,
        steps=60,
        seed=seed,
    )
    assert (found.differences <= certificate.bounds).all()
    assert found.differences.max() > 0.05 * certificate.bounds.max()  # an attack that finds something


@pytest.mark.parametrize("seed", range(4))
def test_no_attack_beats_a_tube(seed):
    system, rng = contracting(seed), np.random.default_rng(seed)
    x0, u = rng.standard_normal(3), rng.standard_normal((5, 2))
    certificate = certify_around(system, x0, u, initial_radius=0.3, input_radius=0.1)
    xi = rng.standard_normal((4000, 3))
    xi *= 0.3 / np.linalg.norm(xi, axis=1, keepdims=True)
    du = 0.1 * rng.choice([-1.0, 1.0], (4000, 5, 2))
    found = attack_around(system, x0, u, initial_radius=0.3, input_radius=0.1, starts=4, steps=40, seed=seed)
    assert (found.differences <= certificate.bounds).all()
    apart = system.simulate(u + du, x0 + xi)[0] - system.simulate(u, x0)[0]
    assert (np.abs(apart).max(axis=0) <= certificate.bounds).all()


@pytest.mark.parametrize("seed", range(4))
def test_slopes_in_boxes_hold_along_runs(seed):
    system, rng = contracting(seed), np.random.default_rng(seed)
    box_u, box_x = (-np.ones(2), np.ones(2)), (-np.ones(3), np.ones(3))
    low, high = local_slopes(system, box_u, box_x, 5)
    u, x0 = rng.uniform(-1, 1, (2000, 6, 2)), rng.uniform(-1, 1, (2000, 3))
    _, x = system.simulate(u, x0)
    w = system.neurons(x[:, :-1].reshape(-1, 3), u.reshape(-1, 2) @ system.D12.T + system.bv)
    slope = system.activation.derivative(w)
    tight = 1e-9 * (1 + np.abs(high))
    assert (low - tight <= slope).all()
    assert (slope <= high + tight).all()


def test_rounding_is_bounded_in_double_precision_and_refused_in_single():
    system = contracting(0)
    contraction = certify_contraction(system)
    boxes = {"input_range": (-np.ones(2), np.ones(2)), "state_range": (-np.ones(3), np.ones(3))}
    gains = certify_gains(system, 10, metric=contraction.metric)
    bound = execution_error(system, gains=gains, horizon=10, contraction=contraction, **boxes)
    bound.verify(system)
    bound.verify(system, rigour="ball")
    assert np.isfinite(bound.bounds).all()
    assert bound.bounds.max() < 1e-9
    with pytest.raises(CertificationError, match="declared ranges"):
        execution_error(system, gains=gains, contraction=contraction, precision="float32", **boxes)
