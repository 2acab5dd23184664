"""Linear models go to python-control and come back, and behave there as here."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_systems import random_system
from scipy import signal

from controlrnn.data import Signal
from controlrnn.errors import ControlRnnError, DataError, SettingError
from controlrnn.exchange import from_state_space, to_state_space

control = pytest.importorskip("control", reason="the extra control is not installed")


def model(seed, nx, nu, ny):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(nx, nx))
    return control.ss(
        0.9 * A / max(np.abs(np.linalg.eigvals(A)).max(), 1e-3),
        rng.normal(size=(nx, nu)),
        rng.normal(size=(ny, nx)),
        rng.normal(size=(ny, nu)),
        0.25,
        remove_useless_states=False,
    )


@settings(max_examples=25)
@given(st.integers(0, 1000), st.integers(1, 5), st.integers(1, 3), st.integers(1, 3))
def test_both_ways_and_the_same_response(seed, nx, nu, ny):
    theirs = model(seed, nx, nu, ny)
    ours = from_state_space(theirs)
    back = to_state_space(ours)
    for name in "ABCD":
        np.testing.assert_array_equal(getattr(back, name), getattr(theirs, name))
    assert back.dt == ours.dt == 0.25
    u = np.random.default_rng(seed).normal(size=(20, nu))
    response = control.forced_response(theirs, U=u.T, squeeze=False)
    np.testing.assert_allclose(ours.simulate(u)[0], response.outputs.T, rtol=1e-9, atol=1e-9)


def test_the_operating_point_is_kept():
    theirs, u0, y0 = model(3, 2, 2, 1), np.array([1.0, -2.0]), np.array([5.0])
    ours = from_state_space(theirs, input_offset=u0, output_offset=y0)
    np.testing.assert_allclose(ours.step(np.zeros(2), u0), 0, atol=1e-12)
    np.testing.assert_allclose(ours.output(np.zeros(2), u0), y0)
    with pytest.raises(SettingError, match="deviations=True"):
        to_state_space(ours)
    np.testing.assert_array_equal(to_state_space(ours, deviations=True).B, theirs.B)


def test_scipy_is_taken_too_and_names_are_handed_on():
    discrete = signal.StateSpace([[0.5]], [[1.0]], [[2.0]], [[0.0]], dt=0.1)
    ours = from_state_space(discrete)
    assert (ours.dt, ours.C2[0, 0]) == (0.1, 2.0)
    named = to_state_space(ours, inputs=[Signal("pump")], outputs=[Signal("level")])
    assert (named.input_labels, named.output_labels) == (["pump"], ["level"])


@pytest.mark.parametrize("wrong", [
    control.ss([[-1]], [[1]], [[1]], [[0]]), control.ss([[0.5]], [[1]], [[1]], [[0]], True),
    signal.StateSpace([[-1.0]], [[1.0]], [[1.0]], [[0.0]]), 3, None, "ss", np.zeros((2, 2)), control.StateSpace,
    control.ss([[np.nan]], [[1]], [[1]], [[0]], 1.0),
])  # fmt: skip
def test_other_models_are_refused(wrong):
    with pytest.raises(ControlRnnError):
        from_state_space(wrong)


def test_networks_wrong_names_and_a_missing_package_are_refused(monkeypatch):
    with pytest.raises(SettingError, match="neurons"):
        to_state_space(random_system(0))
    linear = from_state_space(model(0, 1, 1, 1))
    with pytest.raises(DataError, match="name 1 channels"):
        to_state_space(linear, inputs=[Signal("a"), Signal("b")])
    monkeypatch.setitem(sys.modules, "control", None)
    with pytest.raises(SettingError, match=r"controlrnn\[control\]"):
        to_state_space(linear)
