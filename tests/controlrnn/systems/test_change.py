"""The output of the change system is what its name says."""

import numpy as np
import pytest
from random_systems import random_system

from controlrnn.errors import SettingError
from controlrnn.systems import change_system


@pytest.mark.parametrize("delay", [1, 2, 5])
@pytest.mark.parametrize("layers", [(), (4,), (3, 2)])
def test_its_output_is_the_change_within_the_delay(delay, layers):
    rng = np.random.default_rng(1)
    system = random_system(2, layers=layers)
    changed = change_system(system, delay)
    u, x0, stored = rng.standard_normal((20, 2)), rng.standard_normal(3), rng.standard_normal(2 * delay)
    y, _ = system.simulate(u, x0)
    found, states = changed.simulate(u, np.concatenate([x0, stored]))
    np.testing.assert_allclose(found[delay:], y[delay:] - y[:-delay], atol=1e-12)
    np.testing.assert_allclose(found[0], y[0] - stored[-2:], atol=1e-12)
    np.testing.assert_allclose(states[delay, 3:], y[:delay][::-1].ravel(), atol=1e-12)


def test_a_delay_is_needed():
    with pytest.raises(SettingError, match="delay"):
        change_system(random_system(2), 0)
