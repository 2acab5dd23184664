"""Networks in ONNX become the systems that they are, and what is no Lur'e system is refused by name."""

import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_systems import random_system

from controlrnn.certification import certify_horizon
from controlrnn.errors import FileFormatError, SettingError, StorageError
from controlrnn.exchange import from_onnx
from controlrnn.export import to_onnx

onnx = pytest.importorskip("onnx", reason="the extra onnx is not installed")
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

ACTIVATIONS = ("tanh", "relu", "sigmoid", "leaky_relu")


@settings(max_examples=30)
@given(
    st.integers(0, 10_000), st.sampled_from([(4,), (2, 3), (1, 1, 2)]), st.sampled_from(ACTIVATIONS[:3]), st.booleans()
)
def test_what_we_wrote_is_read_again(tmp_path_factory, seed, layers, activation, feedthrough):
    system = random_system(seed, layers=layers, activation=activation, feedthrough=feedthrough)
    path = to_onnx(system, tmp_path_factory.mktemp("onnx") / "m.onnx")
    read = from_onnx(path)
    assert (read.dt, read.nx, read.nu, read.ny) == (system.dt, system.nx, system.nu, system.ny)
    u = np.random.default_rng(seed).normal(size=(20, system.nu))
    x0 = np.ones(system.nx)
    for ours, again in zip(system.simulate(u, x0), read.simulate(u, x0), strict=True):
        np.testing.assert_allclose(again, ours, rtol=1e-10, atol=1e-10)


def test_one_layer_reads_as_the_very_same_matrices(tmp_path):
    system = random_system(3)
    read = from_onnx(to_onnx(system, tmp_path / "m.onnx"))
    for name in ("A", "B1", "C1", "D12", "C2", "D21", "bv"):
        np.testing.assert_allclose(getattr(read, name), getattr(system, name), rtol=1e-13, atol=1e-13)
    certificate = certify_horizon(read, 3, initial_radius=0.1)  # and it can be certified
    assert certificate.verify(read) > 0


class Network(torch.nn.Module):
    """As people write them: concatenation, layers, a skip connection, two activations, an output of its own."""

    def __init__(self, nx=3, nu=2, ny=2):
        super().__init__()
        self.first, self.second = torch.nn.Linear(nx + nu, 6), torch.nn.Linear(6, 5)
        self.state, self.output = torch.nn.Linear(5, nx), torch.nn.Linear(nx + 4, ny)
        self.side = torch.nn.Linear(nx, 4, bias=False)

    def forward(self, x, u):
        hidden = torch.relu(self.second(torch.tanh(self.first(torch.cat([x, u], dim=1)))))
        y = self.output(torch.cat([torch.sigmoid(self.side(x)), x], dim=1))
        return 0.5 * x + self.state(hidden), y[:, :2] - u / 4.0


@pytest.mark.parametrize("opset", [13, 17, 20])
@pytest.mark.parametrize("double", [False, True])
@pytest.mark.parametrize("batch", [1, None])
def test_torch_networks_are_read(tmp_path, opset, double, batch):
    torch.manual_seed(0)
    network, kind = Network().eval(), torch.float64 if double else torch.float32
    network.to(kind)
    path = tmp_path / "network.onnx"
    free = None if batch else {name: {0: "batch"} for name in ("state", "input", "next", "out")}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch recommends another exporter, which needs one more package
        torch.onnx.export(
            network,
            (torch.zeros(1, 3, dtype=kind), torch.zeros(1, 2, dtype=kind)),
            path,
            dynamo=False,
            opset_version=opset,
            input_names=["state", "input"],
            output_names=["next", "out"],
            dynamic_axes=free,
        )
    system = from_onnx(path, dt=0.1, state="state", input="input", next_state="next", output="out")
    assert (system.nx, system.nu, system.ny, system.nv) == (3, 2, 2, 15)
    assert len(system.layers) == 2
    rng = np.random.default_rng(1)
    x, u = rng.normal(size=(9, 3)), rng.normal(size=(9, 2))
    theirs = [v.detach().numpy() for v in network.double()(torch.tensor(x), torch.tensor(u))]
    np.testing.assert_allclose(system.step(x, u), theirs[0], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(system.output(x, u), theirs[1], rtol=1e-12, atol=1e-12)


def graph(
    nodes,
    constants=(),
    *,
    outputs=("x_next", "y"),
    inputs=("x", "u"),
    opset=17,
    props=None,
    n=2,
    batch="batch",
    first=(),
):
    """A model of two states, two inputs and two outputs; ``first``: ports before these."""

    def ports(names):
        return [helper.make_tensor_value_info(p, TensorProto.DOUBLE, [batch, n]) for p in names]

    made = helper.make_model(
        helper.make_graph(
            nodes,
            "g",
            [*first, *ports(inputs)],
            ports(outputs),
            [numpy_helper.from_array(np.asarray(v), k) for k, v in dict(constants).items()],
        ),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=8,
    )
    helper.set_model_props(made, {"dt": "0.5"} if props is None else props)
    return made


def saved(made, tmp_path):
    path = tmp_path / "m.onnx"
    path.write_bytes(made.SerializeToString())
    return path


def node(kind, inputs, output, **attributes):
    return helper.make_node(kind, inputs, [output], **attributes)


W = np.array([[1.0, 2.0], [3.0, 4.0]])
Y = node("Identity", ["x"], "y")
READ = {
    "gemm": ([node("Gemm", ["x", "W", "b"], "x_next", alpha=2.0, beta=3.0), Y], {"W": W, "b": np.array([1.0, 2.0])}),
    "gemm transposed": ([node("Gemm", ["x", "W"], "x_next", transB=1), Y], {"W": W}),
    "transposed": ([node("Transpose", ["W"], "Wt"), node("MatMul", ["u", "Wt"], "x_next"), Y], {"W": W}),
    "constant minus value": ([node("Sub", ["one", "x"], "x_next"), Y], {"one": np.array([1.0])}),
    "quotient": ([node("Div", ["x", "two"], "x_next"), Y], {"two": np.array(2.0)}),
    "negative": ([node("Neg", ["u"], "x_next"), Y], {}),
    "leaky": ([node("LeakyRelu", ["x"], "x_next", alpha=0.01), Y], {}),
    "constant node": ([node("Constant", [], "c", value=numpy_helper.from_array(np.array([[5.0, 6.0]]))),
                       node("Add", ["x", "c"], "x_next"), Y], {}),
    "neurons of neurons, of one and of two layers": (
        [node("Tanh", ["x"], "a"), node("Add", ["a", "u"], "b"), node("Relu", ["b"], "c"), node("Add", ["a", "c"], "d"),
         node("Tanh", ["d"], "e"), node("Sub", ["e", "a"], "x_next"), Y], {}),
    "slices": ([node("Slice", ["x", "s", "t", "a"], "p"), node("Concat", ["p", "p"], "x_next", axis=-1), Y],
               {"s": np.array([-1]), "t": np.array([2**62]), "a": np.array([1])}),
    "an output of nothing": ([node("Add", ["x", "u"], "x_next"), node("Mul", ["x", "zero"], "y")],
                             {"zero": np.array([0.0, 0.0])}),
}  # fmt: skip


@pytest.mark.parametrize("case", READ)
def test_operators_compute_what_the_reference_evaluator_computes(case, tmp_path):
    made = graph(*READ[case])
    system = from_onnx(saved(made, tmp_path))
    rng = np.random.default_rng(7)
    x, u = rng.normal(size=(5, 2)), rng.normal(size=(5, 2))
    x_next, y = ReferenceEvaluator(made).run(None, {"x": x, "u": u})
    rtol = 1e-7 if case == "leaky" else 1e-12  # ONNX stores the slope in single precision
    np.testing.assert_allclose(system.step(x, u), x_next, rtol=rtol, atol=1e-12)
    np.testing.assert_allclose(system.output(x, u), y, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batch", [3, 64, 100])
def test_batches_of_a_fixed_size_are_compared_whatever_it_is(batch, tmp_path):
    system = from_onnx(saved(graph(*READ["gemm"], batch=batch), tmp_path))
    np.testing.assert_array_equal(system.A, 2.0 * W.T)
    np.testing.assert_array_equal(system.bx, [3.0, 6.0])


def test_constants_may_be_ports_as_in_old_files(tmp_path):
    """Up to IR version 3 every constant is a port, too, and may come before the others; here one without axes."""
    nodes, constants = READ["quotient"]
    made = graph(nodes, constants, opset=8, first=[helper.make_tensor_value_info("two", TensorProto.DOUBLE, [])])
    made.ir_version = 3
    np.testing.assert_array_equal(from_onnx(saved(made, tmp_path)).A, 0.5 * np.eye(2))


@pytest.mark.parametrize("batch", ["batch", 1, 2])
def test_slices_without_axes_are_those_of_the_batch(batch, tmp_path):
    nodes = [node("Slice", ["x", "s", "t"], "x_next"), Y]
    made = graph(nodes, {"s": np.array([0]), "t": np.array([2])}, batch=batch)
    with pytest.raises(SettingError, match=r"operator Slice .* last axis"):
        from_onnx(saved(made, tmp_path))


def test_what_only_the_evaluator_refuses_is_an_error_of_ours(tmp_path):
    made = graph([node("Add", ["x", "u"], "x_next"), node("Identity", ["c"], "y")], {"c": np.ones((3, 2))})
    with pytest.raises((SettingError, FileFormatError)):
        from_onnx(saved(made, tmp_path))


def test_further_outputs_of_an_operator_are_refused_by_name(tmp_path):
    nodes = [
        helper.make_node("Dropout", ["x"], ["d", "mask"]), node("Cast", ["mask"], "m", to=TensorProto.DOUBLE),
        node("Mul", ["d", "m"], "x_next"), Y,
    ]  # fmt: skip
    with pytest.raises(SettingError, match="operator Cast uses 'mask'"):
        from_onnx(saved(graph(nodes), tmp_path))


REFUSED = {
    "operator Sin": [node("Sin", ["x"], "x_next"), Y],
    "operator Softmax": [node("Softmax", ["x"], "x_next"), Y],
    "operator Mul": [node("Mul", ["x", "u"], "x_next"), Y],
    "operator Div": [node("Div", ["one", "x"], "x_next"), Y],
    "operator MatMul": [node("MatMul", ["W", "W"], "q"), node("Add", ["x", "u"], "x_next"), Y],
    "slope of 0.01": [node("LeakyRelu", ["x"], "x_next", alpha=0.2), Y],
    "last axis": [node("Concat", ["x", "u"], "q", axis=0), node("Add", ["x", "u"], "x_next"), Y],
    "no operator makes": None,
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_is_no_lure_system_is_refused_by_name(words, tmp_path):
    nodes = REFUSED[words]
    if nodes is None:
        made = graph([node("Add", ["x", "u"], "x_next"), Y])
        made.graph.node.pop()
        with pytest.raises((SettingError, FileFormatError)):
            from_onnx(saved(made, tmp_path))
        return
    used = {name for one in nodes for name in one.input}
    constants = {k: v for k, v in {"W": W, "one": np.array([1.0])}.items() if k in used}
    with pytest.raises(SettingError, match=words):
        from_onnx(saved(graph(nodes, constants), tmp_path))


def test_ports_and_sample_time_have_to_be_there(tmp_path):
    nodes = [node("Add", ["x", "u"], "x_next"), Y]
    path = saved(graph(nodes), tmp_path)
    assert from_onnx(path).dt == 0.5
    assert from_onnx(path, dt=2.0).dt == 2.0
    for wrong in ({"state": "h"}, {"output": "z"}, {"input": "x"}, {"next_state": "y"}):
        with pytest.raises(SettingError):
            from_onnx(path, **wrong)
    with pytest.raises(SettingError, match="pass dt="):
        from_onnx(saved(graph(nodes, props={"author": "me"}), tmp_path))
    with pytest.raises(SettingError, match="further inputs"):
        from_onnx(saved(graph(nodes, inputs=("x", "u", "w")), tmp_path))
    with pytest.raises(SettingError, match="known n"):
        from_onnx(saved(graph(nodes, n="n"), tmp_path))


def test_files_that_are_no_networks_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "m.onnx"
    for content in (b"", b"not a model", b"\x00" * 200):
        path.write_bytes(content)
        with pytest.raises(FileFormatError):
            from_onnx(path)
    good = saved(graph([node("Add", ["x", "u"], "x_next"), Y]), tmp_path).read_bytes()
    path.write_bytes(good[: len(good) // 2])
    with pytest.raises((FileFormatError, SettingError)):
        from_onnx(path)
    with pytest.raises(FileNotFoundError):
        from_onnx(tmp_path / "none.onnx")
    with pytest.raises(StorageError):
        from_onnx(tmp_path)
    path = saved(graph([node("Add", ["x", "c"], "x_next"), Y], {"c": np.array([np.nan, 1.0])}), tmp_path)
    with pytest.raises(FileFormatError, match="not finite"):
        from_onnx(path)
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(SettingError, match=r"controlrnn\[onnx\]"):
        from_onnx(path)


def test_a_graph_that_computes_something_else_than_was_read_is_refused(tmp_path, monkeypatch):
    """The comparison is no formality: a reader that forgets an attribute is found out."""
    from controlrnn.exchange import onnx_networks

    made = graph([node("Gemm", ["x", "W"], "x_next", alpha=2.0), Y], {"W": W})
    rules = onnx_networks.from_onnx.__wrapped__.__globals__["_RULES"]
    monkeypatch.setitem(rules, "Gemm", lambda inputs, _: inputs[0].mapped(inputs[1]))
    with pytest.raises(FileFormatError, match="next state differs"):
        from_onnx(saved(made, tmp_path))


def test_weights_in_other_files_are_not_read(tmp_path):
    made = graph([node("Gemm", ["x", "W"], "x_next"), Y], {"W": W})
    tensor = made.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, location="../secret.bin")
    tensor.ClearField("raw_data")
    with pytest.raises((FileFormatError, SettingError)):
        from_onnx(saved(made, tmp_path))


def test_a_system_of_laws_is_read_as_laws(tmp_path):
    system = replace(random_system(1), activation="relu")
    assert str(from_onnx(to_onnx(system, tmp_path / "m.onnx")).activation) == "relu"
