"""Attacks reach what they report: for linear systems the worst case, for others a true lower bound."""

import numpy as np
import pytest
from random_systems import random_elman, random_system

from controlrnn.certification import attack_horizon
from controlrnn.errors import SettingError

RANGE = (np.full(2, -2.0), np.full(2, 2.0))


@pytest.mark.parametrize("metric", [None, np.array([[2.0, 0.3], [0.3, 0.5]])])
def test_the_worst_case_of_a_linear_system_is_found(metric):
    system = random_system(1, nx=2, layers=())
    radii = np.array([0.2, 0.1])
    attack = attack_horizon(
        system, 4, initial_radius=0.5, input_radius=radii, metric=metric, input_range=RANGE, starts=4, steps=3, seed=0
    )
    inverse = np.eye(2) if metric is None else np.linalg.inv(metric)
    gain, past = system.C2, 0.0
    for k in range(5):
        # aims are spread over the horizon; here they are all steps
        spread = 0.5 * np.sqrt(np.einsum("ij,jk,ik->i", gain, inverse, gain))
        exact = spread + past + np.abs(system.D22) @ radii
        np.testing.assert_allclose(attack.differences[k], exact, rtol=1e-9)
        past, gain = past + np.abs(gain @ system.B2) @ radii, gain @ system.A


def test_ascent_improves_and_is_reproducible():
    system = random_elman(3)
    one, two = (
        attack_horizon(system, 5, initial_radius=0.3, input_radius=0.1, input_range=RANGE, starts=8, steps=10, seed=1)
        for _ in range(2)
    )
    np.testing.assert_array_equal(one.differences, two.differences)
    assert (one.differences >= one.random).all()
    assert (one.differences[-1] > one.random[-1]).all()
    assert not one.differences.flags.writeable
    assert one.pairs == 6 * system.ny * 8 * 11


def test_no_differences_without_radii():
    system = random_elman(3)
    attack = attack_horizon(system, 3, initial_radius=0.0, input_range=RANGE, starts=2, steps=2, seed=0)
    assert not attack.differences.any()
    with pytest.raises(SettingError, match="lower < upper"):
        attack_horizon(system, 3, initial_radius=0.0, input_range=(np.ones(2), np.ones(2)), seed=0)
