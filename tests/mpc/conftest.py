from __future__ import annotations

import numpy as np
import pytest
from mpc_networks import elman, signals

from controlrnn.systems import LureSystem
from mpc import Predictor


@pytest.fixture(scope="session")
def system() -> LureSystem:
    return elman()


@pytest.fixture(scope="session")
def predictor(system: LureSystem) -> Predictor:
    return Predictor(system, signals("u", 2, 1.0), signals("y", 2, 0.6))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)
