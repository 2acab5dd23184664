"""Searches end in a proven certificate or in words that say what to do, whatever the sizes of their numbers."""

import warnings
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_systems import random_system

from controlrnn.certification import (
    InputError,
    InputErrorKind,
    certify_around,
    certify_contraction,
    certify_gains,
    certify_horizon,
    certify_l2_gain,
    certify_lipschitz,
    certify_reinitialisation,
    execution_error,
)
from controlrnn.errors import ControlRnnError, ShapeError
from experiments.bench_proof.study import in_units

KINDS = ("box", "ball", "few", "constant", "rate_limited")


def differing(kind: str, radius) -> InputError:
    return InputError(
        kind=InputErrorKind(kind),
        radius=radius,
        rate=0.2 * radius if kind == "rate_limited" else None,
        steps=1 if kind == "few" else None,
    )


def answered(call):
    """A certificate, or what the refusal says."""
    try:
        return call(), ""
    except ControlRnnError as refused:
        return None, str(refused)


@pytest.mark.parametrize("kind", ["constant", "rate_limited"])
@pytest.mark.parametrize("radius", [0.0, 0.5])
def test_inputs_and_states_of_very_different_size_change_no_bound(kind, radius):
    system, bounds = random_system(2, nx=4, layers=(4,)), []
    for span in (0, 6, 12):
        x, u = 10.0 ** np.linspace(-span, span, 4), 10.0 ** np.array([span, -span])
        found = certify_horizon(
            in_units(system, x, u, np.ones(2)),
            2,
            initial_radius=radius,
            metric=np.diag(x**-2.0),
            input_radius=differing(kind, u * [0.1, 1e-3]),
            iterations=10,
        )
        assert any(family.shares.size for family in found.families)  # what is known of inputs is used at any scale
        bounds.append(found.bounds)
    np.testing.assert_allclose(bounds[1:], [bounds[0]] * 2, rtol=1e-4)


@pytest.mark.parametrize("radius", [1e-170, 1e-300, 1e150])
def test_radii_that_float64_cannot_square_are_right_or_refused(radius):
    system = random_system(3)
    for kind in KINDS:
        radii = {"initial_radius": radius, "input_radius": differing(kind, np.full(2, 0.1))}
        found, refused = answered(lambda: certify_horizon(system, 1, iterations=5, **radii))  # noqa: B023
        if found is None:
            assert "in other units" in refused
        else:
            assert found.verify(system) > 0
            assert (found.bounds[0] > 0).all()


sizes = st.integers(-40, 40)


@settings(max_examples=4)
@given(
    seed=st.integers(0, 10**6), layers=st.sampled_from([(), (1,), (3,), (2, 2)]), kind=st.sampled_from(KINDS),
    activation=st.sampled_from(["tanh", "relu", "sigmoid", "leaky_relu"]), exponents=st.tuples(*[sizes] * 7),
    zero=st.sampled_from(["", "A", "B1", "B2", "C1", "C2", "D11", "D12", "D21", "D22"]),
    radius=st.sampled_from([0.0, 0.5, 1e-8, 1e8, 1e-170, 1e150]),
)  # fmt: skip
def test_honest_calls_are_answered(seed, layers, kind, activation, exponents, zero, radius):
    x, u, y = (10.0 ** np.array(part, dtype=float) for part in (exponents[:3], exponents[3:5], exponents[5:]))
    system = in_units(random_system(seed, layers=layers, activation=activation, norm=0.9), x, u, y)
    if zero:
        system = replace(system, **{zero: np.zeros_like(getattr(system, zero))})
    ball = {"initial_radius": radius, "metric": np.diag(x**-2.0)}
    calls = [
        lambda: certify_horizon(system, 2, input_radius=differing(kind, u * [0.1, 1e-3]), iterations=5, **ball),
        lambda: certify_around(system, x, u * np.ones((3, 2)), input_radius=0.1 * u, passes=1, **ball),
        lambda: certify_gains(system, 2, metric=ball["metric"], iterations=5),
        lambda: certify_lipschitz(system, 2, iterations=5),
        lambda: certify_contraction(system, input_scale=u, output_scale=y),
        lambda: certify_l2_gain(system, input_scale=u, output_scale=y),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for call in calls:
            found, refused = answered(call)
            if found is None:
                assert any(sign in refused for sign in (":", ";", ". ")), refused  # it says what to do
            else:
                assert found.verify(system) > 0


@pytest.mark.parametrize("scale", [1e-310, 1e-320, 1e250])
def test_a_metric_that_float64_cannot_handle_is_refused_with_what_to_do(scale):
    """Or the claim is that of the same set in units of its own, no looser."""
    system = random_system(0, nx=2, nu=1)
    for certify in (
        lambda r, m: certify_horizon(system, 2, initial_radius=r, metric=m, iterations=10),
        lambda r, m: certify_around(system, np.zeros(2), np.zeros((3, 1)), initial_radius=r, metric=m),
    ):
        found, refused = answered(lambda: certify(float(np.sqrt(scale)), scale * np.eye(2)))  # noqa: B023
        if found is None:
            assert "nearer to the sizes" in refused or "rescale" in refused, refused
        else:
            np.testing.assert_allclose(found.bounds, certify(1.0, np.eye(2)).bounds, rtol=1e-3)


@pytest.mark.parametrize(
    "box", ["", "ab", 5, np.True_, (), (1,), (1, 2, 3), np.zeros((0, 1)), (0.1, [1.0]), ([1.0], [0.0])]
)
def test_what_is_no_box_is_refused_wherever_there_is_one(box):
    system = random_system(0, nx=1, nu=1)
    other, contraction = ([-1.0], [1.0]), certify_contraction(system)
    for ends in ({"input_range": box, "state_range": other}, {"input_range": other, "state_range": box}):
        for call in (
            lambda: certify_horizon(system, 1, initial_radius=0.1, **ends),  # noqa: B023
            lambda: certify_lipschitz(system, 1, **ends),  # noqa: B023
            lambda: execution_error(system, contraction=contraction, **ends),  # noqa: B023
        ):
            with pytest.raises(ControlRnnError):
                call()
    with pytest.raises(ControlRnnError):
        certify_reinitialisation(system, washout=1, horizon=1, input_range=box, input_error=0.1)


def test_every_input_error_that_can_be_made_can_be_saved(tmp_path):
    for values in (
        {"radius": 0.1}, {"radius": [0.1, 5e-324]}, {"kind": "rate_limited", "radius": [1.0, 2.0], "rate": 0.5},
        {"kind": "rate_limited", "radius": 1.0, "rate": [0.5, 0.1]},
    ):  # fmt: skip
        error = InputError(**values)
        error.save(tmp_path / "e.npz")
        again = InputError.load(tmp_path / "e.npz")
        assert again.digest == error.digest
        np.testing.assert_array_equal(InputError.of(again, 2).b, InputError.of(error, 2).b)
    with pytest.raises(ShapeError, match="one number per channel"):
        InputError(kind="rate_limited", radius=[1.0, 2.0], rate=[1.0, 2.0, 3.0])
