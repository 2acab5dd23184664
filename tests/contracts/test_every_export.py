"""Every model of `controlrnn.models`, exported as C and ONNX, gives the numbers of its frozen system."""

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from random_systems import mixed_system
from zoo import ZOO, randomise

from controlrnn.data import Scaler
from controlrnn.errors import SettingError
from controlrnn.export import to_c, to_onnx
from experiments.model_zoo import run_c

every_model = pytest.mark.parametrize("entry", ZOO.values(), ids=list(ZOO))


def deployed(entry):
    """A frozen system in physical units, inputs (T, nu) and outputs (T, ny) of its free run."""
    model, rng = randomise(entry(), 1), np.random.default_rng(0)
    model.set_units(
        Scaler(rng.normal(size=2), np.array([0.1, 7.0])), Scaler(rng.normal(size=2), np.array([3.0, 0.2])), 0.5
    )
    system, u = model.freeze(), rng.normal(size=(20, 2)) * [0.1, 7.0]
    return system, u, system.simulate(u)[0]


@every_model
def test_c_code_agrees(entry):
    system, u, expected = deployed(entry)
    found = run_c(system, u)
    if found is None:
        pytest.skip("no C compiler (gcc or cc) on the path")
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


@every_model
def test_onnx_agrees(entry, tmp_path):
    system, u, expected = deployed(entry)
    evaluator = ReferenceEvaluator(onnx.load(to_onnx(system, tmp_path / "model.onnx")))
    x, y = np.zeros((1, system.nx)), []
    for row in u:
        x, out = evaluator.run(None, {"x": x, "u": row[None]})
        y.append(out[0])
    np.testing.assert_allclose(y, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


@pytest.mark.parametrize("seed", range(4))
def test_neurons_with_laws_of_their_own_are_exported(seed, tmp_path):
    system = mixed_system(seed, layers=(6, 5))
    u = 3 * np.random.default_rng(seed).standard_normal((20, 2))
    expected = system.simulate(u)[0]
    atol = 1e-10 * np.abs(expected).max()
    evaluator = ReferenceEvaluator(onnx.load(to_onnx(system, tmp_path / "model.onnx")))
    x = np.zeros((1, system.nx))
    for row, y in zip(u, expected, strict=True):
        x, out = evaluator.run(None, {"x": x, "u": row[None]})
        np.testing.assert_allclose(out[0], y, rtol=0, atol=atol)
    with pytest.raises(SettingError, match="declared ranges"):
        to_c(system, tmp_path / "model.c", precision="float32")
    found = run_c(system, u)
    if found is None:
        pytest.skip("no C compiler (gcc or cc) on the path")
    np.testing.assert_allclose(found, expected, rtol=0, atol=atol)
