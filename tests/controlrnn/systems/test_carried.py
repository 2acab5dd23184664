"""The system that carries its last input: exact, without feedthrough, and copied to the bit."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from random_systems import random_system

from controlrnn.errors import SettingError
from controlrnn.systems import MATRICES, carries_input, carry_input, just_after, without_feedthrough

SYSTEMS = {
    "one layer": random_system(0),
    "two layers": random_system(1, layers=(3, 2), nu=3, ny=1),
    "linear feedthrough": replace(random_system(2), D21=np.zeros((2, 4))),
    "neurons without inputs": replace(random_system(3, activation="relu"), D12=np.zeros((4, 2))),
    "no neurons": random_system(4, layers=()),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_output_is_that_under_the_input_before(name):
    rng, system = np.random.default_rng(0), SYSTEMS[name]
    carried = carry_input(system)
    u, x0, before = rng.standard_normal((20, system.nu)), rng.standard_normal(system.nx), rng.standard_normal(system.nu)
    x = system.simulate(u, x0)[1]
    y, states = carried.simulate(u, np.concatenate([x0, before]))
    acting = np.vstack([before, u[:-1]])
    np.testing.assert_allclose(y, system.output(x[:-1], acting), rtol=0, atol=1e-12)
    np.testing.assert_allclose(states[:, : system.nx], x, rtol=0, atol=1e-12)
    np.testing.assert_array_equal(states[1:, system.nx :], u)
    assert not carried.has_feedthrough
    assert carries_input(carried)
    assert not carries_input(system)
    assert carried.nv == system.nv * (2 if "layer" in name else 1)


@pytest.mark.parametrize("name", SYSTEMS)
def test_every_entry_is_a_copy_a_zero_or_a_one(name):
    system = SYSTEMS[name]
    carried = carry_input(system)
    known = {0.0, 1.0}.union(*(getattr(system, part).ravel().tolist() for part in MATRICES))
    for part in MATRICES:
        assert set(getattr(carried, part).ravel().tolist()) <= known
    assert without_feedthrough(system).digest == carried.digest == carry_input(system).digest


def test_systems_that_answer_late_are_left_alone():
    system = random_system(0, feedthrough=False)
    assert without_feedthrough(system) is system
    assert without_feedthrough(carry_input(random_system(0))).has_feedthrough is False


@pytest.mark.parametrize("name", SYSTEMS)
def test_outputs_just_after_an_input_are_those_of_the_model(name):
    rng, system = np.random.default_rng(1), SYSTEMS[name]
    both = just_after(carry_input(system))
    x, p, u = (
        rng.standard_normal((9, system.nx)),
        rng.standard_normal((9, system.nu)),
        rng.standard_normal((9, system.nu)),
    )
    state = np.hstack([x, p])
    y = both.output(state, u)
    np.testing.assert_allclose(y[:, : system.ny], system.output(x, p), rtol=0, atol=1e-12)
    np.testing.assert_allclose(y[:, system.ny :], system.output(x, u), rtol=0, atol=1e-12)
    np.testing.assert_allclose(both.step(state, u)[:, : system.nx], system.step(x, u), rtol=0, atol=1e-12)
    with pytest.raises(SettingError, match="carries"):
        just_after(system)
