"""Bounds on rounding in ball arithmetic: honest ones are accepted, smaller claims and other parts are refused."""

from dataclasses import replace

import numpy as np
import pytest
from random_systems import random_elman, random_system

from controlrnn.certification import certify_contraction, certify_gains, execution_error
from controlrnn.errors import CertificationError, SettingError
from controlrnn.systems import GatedSystem

pytest.importorskip("flint", reason="python-flint gives the ball arithmetic (extra audit)")

from controlrnn.certification.ball import check
from controlrnn.certification.ball.arithmetic import precision, row
from controlrnn.certification.ball.execution import _Format, _Run
from controlrnn.certification.proof.arithmetic.enclosure import Enclosure
from controlrnn.certification.proof.execution import FORMATS, Execution
from controlrnn.systems import Precision

SMALL = random_system(5, nx=2, layers=(3,), coupling=0.2)
SYSTEMS = {
    "tanh": random_elman(0, nx=3),
    "relu": random_elman(1, nx=3, activation="relu", norm=0.7),
    "sigmoid, one state": random_elman(2, nx=1, nu=1, ny=1, activation="sigmoid"),
    "leaky, layers": random_system(3, nx=2, layers=(2, 1), activation="leaky_relu", coupling=0.2),
    "linear": random_system(4, nx=3, layers=(), norm=0.9),
    "tanh, feedthrough": random_system(6, nx=3, layers=(1, 1, 1), coupling=0.2),
    "slow": replace(SMALL, A=np.diag([0.999, -0.998]), B1=SMALL.B1 / 1e4),
    "large bias": replace(SMALL, bx=np.array([1e8, -1e3]), by=np.array([1e6, 0.0])),
    "saturated": replace(SMALL, C1=30 * SMALL.C1, B1=SMALL.B1 / 100, bv=np.array([3e3, -3e3, 9.0])),
}


def boxes(system, u=1.0, x=1.0):
    return {
        "input_range": (np.full(system.nu, -u), np.full(system.nu, u)),
        "state_range": (np.full(system.nx, -x), np.full(system.nx, 0.5 * x)),
    }


@pytest.mark.parametrize("kind", ["float64", "float32"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_honest_bounds_are_accepted(name, kind):
    system = SYSTEMS[name]
    made = execution_error(system, **boxes(system), contraction=certify_contraction(system), precision=kind)
    made.verify(system)
    made.verify(system, rigour="ball")


@pytest.mark.parametrize("size", [0.0, 1e-310, 1e-40, 1e3])
def test_honest_bounds_of_any_size_are_accepted(size):
    system = replace(SMALL, bx=0 * SMALL.bx, bv=0 * SMALL.bv, by=0 * SMALL.by)
    for kind in ("float64", "float32"):
        made = execution_error(
            system, **boxes(system, size, size), contraction=certify_contraction(system), precision=kind
        )
        made.verify(system, rigour="ball")


@pytest.fixture(scope="module")
def parts():
    system = random_system(2, nx=3, layers=(4,), coupling=0.2)
    contraction = certify_contraction(system)
    return system, contraction, certify_gains(system, 6, metric=contraction.metric)


@pytest.mark.parametrize("name", ["alone", "longer", "for ever", "contraction"])
def test_gains_alone_gains_for_ever_and_contraction_alone(name, parts):
    system, contraction, gains = parts
    arguments = {
        "alone": {"gains": gains, "horizon": 6},
        "longer": {"gains": gains, "contraction": contraction, "horizon": 9},
        "for ever": {"gains": gains, "contraction": contraction},
        "contraction": {"contraction": contraction, "horizon": 9},
    }[name]
    made = execution_error(system, **boxes(system), **arguments)
    made.verify(system, rigour="ball")
    last = made.bounds.copy()
    last[-1] *= 0.9
    refused(replace(made, bounds=last), system)


def refused(forged, system):
    for rigour in ("float64", "ball"):
        with pytest.raises(CertificationError):
            forged.verify(system, rigour=rigour)


def test_smaller_claims_and_other_parts_are_refused(parts):
    """By a third: what float64 proves is up to a fifth larger than what the checker needs."""
    system, contraction, gains = parts
    made = execution_error(system, **boxes(system), contraction=contraction, gains=gains, precision="float32")
    other = replace(contraction, rate=0.5 * contraction.rate)
    twice = certify_gains(system, 6, metric=2 * contraction.metric)
    low, high = made.computed_range
    for change in (
        {"bounds": 0.7 * made.bounds}, {"state_error": 0.7 * made.state_error}, {"bounds": 0 * made.bounds},
        {"output_error": 0.7 * made.output_error}, {"computed_range": np.array([0.9 * low, high])},
        {"computed_range": np.array([low, 0.9 * high])}, {"tanh_ulps": 4e3}, {"tanh_ulps": 2e4}, {"tanh_ulps": np.nan},
        {"input_range": 1.1 * made.input_range}, {"state_range": 9 * made.state_range}, {"contraction": other},
        {"input_range": made.input_range[::-1]}, {"bounds": np.nan * made.bounds}, {"contraction": None},
        {"gains": twice}, {"gains": replace(gains, initial=0.9 * gains.initial)}, {"contraction": None, "gains": None},
        {"gains": replace(gains, system_digest="0" * 64)}, {"state_error": made.state_error[:2]},
        {"precision": "float64", "bounds": 1e-12 * made.bounds}, {"input_range": np.full((2, 2), 1e38) * [[-1], [1]]},
    ):  # fmt: skip
        refused(replace(made, **change), system)
    for bounds in (np.array(1.0), made.bounds[0], np.vstack([made.bounds, made.bounds])):
        with pytest.raises(SettingError, match="bounds must have 1 rows"):
            replace(made, bounds=bounds)
    with pytest.raises(CertificationError, match="another system"):
        made.verify(replace(system, dt=2.0), rigour="ball")
    with pytest.raises(SettingError, match="rigour"):
        made.verify(system, rigour="prayer")
    gated = GatedSystem(
        W=np.zeros((3, 1)), U=np.zeros((3, 1)), b=np.zeros(3), C=np.ones((1, 1)), by=np.zeros(1), cell="gru", dt=1.0
    )
    with pytest.raises(CertificationError, match="bound on rounding"):
        check(made, gated)


@pytest.mark.parametrize("kind", ["float64", "float32"])
@pytest.mark.parametrize("name", SYSTEMS)
def test_one_step_is_bounded_alike_by_both(name, kind):
    """The ball checker's constants are those of the theorem, so that its bounds are a little smaller, never larger."""
    system, rng = SYSTEMS[name], np.random.default_rng(0)
    x, u = (Enclosure(rng.standard_normal(n), rng.random(n)) for n in (system.nx, system.nu))
    single = Execution(system, FORMATS[kind], 4.0).step_error(x, u)
    with precision(106):
        run = _Run(system, _Format.of(Precision(kind)), row([4.0])[0])
        ends = [(row(box.mid - box.rad), row(box.mid + box.rad)) for box in (x, u)]
        ball = run.step_error(*ends)
    for one, other in zip(single, ball, strict=True):
        exact = np.array([float(v) for v in other])
        assert (exact <= one).all()
        assert (exact >= 0.9 * one).all()
