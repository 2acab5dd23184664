"""ONNX models: evaluated by the format's reference implementation, they give the numbers of the system."""

import numpy as np
import onnx
import pytest
import torch
from export_cases import SYSTEMS
from onnx.reference import ReferenceEvaluator
from random_systems import random_system

from controlrnn.errors import SettingError
from controlrnn.export import to_onnx
from controlrnn.models import LTI


@pytest.mark.parametrize("system", SYSTEMS.values(), ids=list(SYSTEMS))
def test_model_is_the_step_of_the_system(system, tmp_path):
    model = onnx.load(to_onnx(system, tmp_path / "new folder" / "model.onnx"))
    evaluator = ReferenceEvaluator(model)
    assert (evaluator.input_names, evaluator.output_names) == (["x", "u"], ["x_next", "y"])
    rng = np.random.default_rng(0)
    for batch in (1, 7):
        x, u = rng.normal(size=(batch, system.nx)), 2 * rng.normal(size=(batch, system.nu))
        x_next, y = evaluator.run(None, {"x": x, "u": u})
        assert x_next.dtype == y.dtype == np.float64
        np.testing.assert_allclose(x_next, system.step(x, u), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(y, system.output(x, u), rtol=1e-12, atol=1e-12)


def test_neurons_are_computed_once_and_the_model_says_what_it_is(tmp_path):
    system = random_system(0, layers=(3, 2))
    model = onnx.load(to_onnx(system, tmp_path / "m.onnx"))
    assert [node.op_type for node in model.graph.node].count("Tanh") == 2
    assert {p.key: p.value for p in model.metadata_props} == {"digest": system.digest, "dt": "0.5"}


def test_systems_of_tensors_are_refused(tmp_path):
    with torch.no_grad(), pytest.raises(SettingError, match="frozen"):
        to_onnx(LTI(nu=1, ny=1, nx=2).system(), tmp_path / "m.onnx")
