from __future__ import annotations

import numpy as np
import pytest
from mpc_networks import NormContraction, elman, signals

from controlrnn.systems import LureSystem
from mpc import Predictor, observer_system


@pytest.fixture(scope="session")
def system() -> LureSystem:
    return elman()


@pytest.fixture(scope="session")
def predictor(system: LureSystem) -> Predictor:
    return Predictor(system, signals("u", 2, 1.0), signals("y", 2, 0.6))


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(7)


@pytest.fixture(scope="session")
def gentle() -> tuple[Predictor, np.ndarray, NormContraction, NormContraction]:
    """A model whose innovation observer contracts by norms: predictor, gain, both contractions."""
    system = elman(rate=0.6, seed=2)
    predictor = Predictor(system, signals("u", 2, 1.0), signals("y", 2, 1.0))
    gain = 0.3 * system.C2.T / np.linalg.norm(system.C2, 2) ** 2
    return predictor, gain, NormContraction.of(system), NormContraction.of(observer_system(system, gain))
