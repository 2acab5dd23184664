"""Networks in ONNX that are Lur'e systems: one step of a recurrent network becomes a system, exactly.

The graph is read as affine maps (Gemm, MatMul, Add, Sub, Mul, Div, Neg, Concat, Slice, ...) and elementwise activations
(Tanh, Relu, Sigmoid, LeakyRelu), in the opsets that torch writes. Any other operator is refused by its name: what
multiplies two values that depend on the state is no Lur'e system. Afterwards the system is compared with ONNX's own
reference evaluator on the graph.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from controlrnn.checks import Array, positive
from controlrnn.errors import DataError, FileFormatError, SettingError, StorageError
from controlrnn.exchange.affine import Affine, Network, joined
from controlrnn.systems import Activation, LureSystem
from controlrnn.systems.activations import LEAK
from controlrnn.typed import typed

_ACTIVATIONS = {"Tanh": Activation.TANH, "Relu": Activation.RELU, "Sigmoid": Activation.SIGMOID}
_SAME = ("Identity", "Dropout", "Cast")
_COMPARED, _AGREES = 64, {10: 1e-3, 1: 2e-5, 11: 1e-10}  # tolerance by the type of the graph's numbers
_LEAKY = 1e-7  # slopes are stored in single precision
_LARGEST = 2**28  # bytes
Value = Affine | Array


@typed()
def from_onnx(
    path: str | os.PathLike[str],
    *,
    dt: float | None = None,
    state: str = "x",
    input: str = "u",
    next_state: str = "x_next",
    output: str = "y",
) -> LureSystem:
    """Read one step of a network as a system.

    The network's inputs are a state (batch, nx) and an input (batch, nu), its outputs the next state (batch, nx) and an
    output (batch, ny). Weights in single precision are taken as the doubles that they are; the system computes in
    double precision.

    Args:
        path: The file.
        dt: Sample time [s]; what the file's metadata say under ``dt`` when left out, as `controlrnn.export.to_onnx`
            writes it.
        state: Name of the graph's input that is the state.
        input: Name of the graph's input that is the input.
        next_state: Name of the graph's output that is the next state.
        output: Name of the graph's output that is the output.

    Raises:
        SettingError: An operator is none of a Lur'e system, a name is not there, no sample time is known, or ``onnx``
            is missing: ``pip install 'controlrnn[onnx]'``.
        FileFormatError: The file is no valid ONNX model, or its graph computes something else than was read.
        FileNotFoundError: There is no such file.
    """
    model = _loaded(path)
    graph = model.graph
    said = {entry.key: entry.value for entry in model.metadata_props}
    time = _sample_time(said, dt)
    sizes = {port.name: _size(port) for port in (*graph.input, *graph.output)}
    ports = {"state": state, "input": input, "next_state": next_state, "output": output}
    _refuse_ports(graph, ports, sizes)
    network = Network(sizes[state], sizes[input])
    values: dict[str, Value] = {state: network.state(), input: network.input()}
    values |= {one.name: _numbers(one) for one in graph.initializer}
    for node in graph.node:
        values[node.output[0]] = _applied(network, node, values)
    ends = [_depending(network, values.get(name), name) for name in (next_state, output)]
    if ends[0].size != sizes[state]:
        raise SettingError(f"{next_state} must have {sizes[state]} entries as the state has, got {ends[0].size}")
    try:
        system = network.system(ends[0], ends[1], time)
    except DataError as error:
        raise FileFormatError(f"{os.fspath(path)} holds weights that are not finite: {error}") from error
    _compare(model, system, ports)
    return system


def _loaded(path: str | os.PathLike[str]) -> Any:
    """The model of a file, checked; data in other files are not read."""
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ModuleNotFoundError as error:
        raise SettingError("this needs onnx: pip install 'controlrnn[onnx]'") from error
    try:
        if os.stat(path).st_size > _LARGEST:
            raise FileFormatError(f"{os.fspath(path)} is larger than {_LARGEST} bytes: no network of a controller")
        model = onnx.load(os.fspath(path), load_external_data=False)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise StorageError(f"cannot read {os.fspath(path)}: {error.strerror}") from error
    except (DecodeError, ValueError) as error:
        raise FileFormatError(f"{os.fspath(path)} is no ONNX model: {error}") from error
    try:
        onnx.checker.check_model(model, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError, ValueError) as error:
        raise FileFormatError(f"{os.fspath(path)} is no valid ONNX model: {str(error)[:300]}") from error
    return model


def _sample_time(said: Mapping[str, str], dt: float | None) -> float:
    if dt is not None:
        return positive("dt", dt, what="a positive sample time in seconds")
    try:
        return positive("dt", float(said["dt"]), what="a positive sample time in seconds")
    except (KeyError, ValueError):
        raise SettingError("the file does not say its sample time: pass dt=") from None


def _size(port: Any) -> int:
    """Number of entries of a graph's input or output (batch, n); 0 where it has another shape."""
    dims = port.type.tensor_type.shape.dim
    return int(dims[1].dim_value) if len(dims) == 2 else 0


def _refuse_ports(graph: Any, ports: Mapping[str, str], sizes: Mapping[str, int]) -> None:
    known = {one.name for one in graph.initializer}
    there = {"in": [p.name for p in graph.input if p.name not in known], "out": [p.name for p in graph.output]}
    for what, side in (("state", "in"), ("input", "in"), ("next_state", "out"), ("output", "out")):
        if ports[what] not in there[side]:
            raise SettingError(f"{what} must be one of the graph's {side}puts {there[side]}, got {ports[what]!r}")
    if ports["state"] == ports["input"] or ports["next_state"] == ports["output"]:
        raise SettingError(f"state and input, next_state and output must be different ports, got {dict(ports)}")
    if more := set(there["in"]) - {ports["state"], ports["input"]}:
        raise SettingError(f"the graph has further inputs {sorted(more)}: a step has a state and an input")
    for what in ("state", "input"):
        if sizes[ports[what]] < 1:
            raise SettingError(f"{what} {ports[what]!r} must have the shape (batch, n) with a known n")


def _numbers(tensor: Any) -> Array:
    """Values of a constant; floats as doubles, whole numbers as they are."""
    from onnx import TensorProto, numpy_helper

    if tensor.data_location == TensorProto.EXTERNAL:
        raise FileFormatError(f"{tensor.name} is stored in another file: save the model with its weights inside")
    array = np.asarray(numpy_helper.to_array(tensor))
    if array.dtype.kind not in "fiu":
        raise SettingError(f"{tensor.name} must be numbers, got {array.dtype}")
    return array.astype(np.float64) if array.dtype.kind == "f" else array


def _applied(network: Network, node: Any, values: Mapping[str, Value]) -> Value:
    """Value of a node; operators that no Lur'e system has are refused by their name."""
    if node.domain not in ("", "ai.onnx"):
        raise SettingError(f"operator {node.domain}.{node.op_type} is none of a Lur'e system")
    attributes, kind = {a.name: a for a in node.attribute}, node.op_type
    if unknown := [name for name in node.input if name and name not in values]:
        raise SettingError(f"operator {kind} uses {unknown[0]!r}, which is a further output of an operator or sparse")
    inputs = [values[name] for name in node.input if name]
    if kind in _ACTIVATIONS or kind == "LeakyRelu":
        return _activated(network, kind, inputs[0], attributes)
    if kind == "Constant":
        if "value" not in attributes:
            raise SettingError("operator Constant is read with a tensor as its value only")
        return _numbers(attributes["value"].t)
    if kind in _SAME:
        return inputs[0]
    rule = _RULES.get(kind)
    if rule is None:
        raise SettingError(
            f"operator {kind} is none of a Lur'e system; those that are read: "
            f"{', '.join(sorted([*_ACTIVATIONS, 'LeakyRelu', 'Constant', *_SAME, *_RULES]))}"
        )
    try:
        return rule(inputs, attributes)
    except (ValueError, IndexError) as error:
        raise SettingError(
            f"operator {kind} ({node.name or node.output[0]}) is not read as it is used: {error}"
        ) from error


def _activated(network: Network, kind: str, value: Value, attributes: Mapping[str, Any]) -> Value:
    if not isinstance(value, Affine):
        raise SettingError(f"operator {kind} is applied to a constant: fold constants before saving the model")
    if kind == "LeakyRelu":
        slope = float(attributes["alpha"].f) if "alpha" in attributes else 0.01
        if abs(slope - LEAK) > 1e-8:
            raise SettingError(f"operator LeakyRelu is read with a slope of {LEAK}, got {slope:g}")
        return network.neurons(Activation.LEAKY_RELU, value)
    return network.neurons(_ACTIVATIONS[kind], value)


def _gemm(inputs: list[Value], attributes: Mapping[str, Any]) -> Value:
    first, matrix = inputs[0], inputs[1]
    if attributes.get("transA") is not None and attributes["transA"].i:
        raise ValueError("its first factor is transposed")
    matrix = _matrix(matrix)
    matrix = matrix.T if "transB" in attributes and attributes["transB"].i else matrix
    alpha, beta = (float(attributes[n].f) if n in attributes else 1.0 for n in ("alpha", "beta"))
    product = _product([first, alpha * matrix], {})
    return _sum([product, _times(inputs[2], np.array(beta))], {}) if len(inputs) > 2 else product


def _product(inputs: list[Value], _: Mapping[str, Any]) -> Value:
    first, second = inputs
    if not isinstance(first, Affine):
        raise ValueError("its first factor is a constant, where a value (batch, n) is read")
    return first.mapped(_matrix(second))


def _sum(inputs: list[Value], _: Mapping[str, Any]) -> Value:
    first, second = inputs
    if isinstance(first, Affine):
        if isinstance(second, Affine) and second.size != first.size:
            raise ValueError(f"values of {first.size} and {second.size} entries")
        return first.plus(second if isinstance(second, Affine) else _row(second))
    return second.plus(_row(first)) if isinstance(second, Affine) else first + second


def _difference(inputs: list[Value], _: Mapping[str, Any]) -> Value:
    return _sum([inputs[0], _times(inputs[1], np.array(-1.0))], {})


def _multiplied(inputs: list[Value], _: Mapping[str, Any]) -> Value:
    first, second = inputs
    if isinstance(first, Affine) and isinstance(second, Affine):
        raise ValueError("two values that depend on state or input are multiplied, which no Lur'e system does")
    return _times(first, second) if isinstance(first, Affine) else _times(second, first)


def _divided(inputs: list[Value], _: Mapping[str, Any]) -> Value:
    if isinstance(inputs[1], Affine):
        raise ValueError("it divides by a value that depends on state or input, which no Lur'e system does")
    with np.errstate(divide="ignore"):
        return _times(inputs[0], 1.0 / np.asarray(inputs[1], dtype=np.float64))


def _negated(inputs: list[Value], _: Mapping[str, Any]) -> Value:
    return _times(inputs[0], np.array(-1.0))


def _concatenated(inputs: list[Value], attributes: Mapping[str, Any]) -> Value:
    if attributes["axis"].i not in (1, -1) or not all(isinstance(v, Affine) for v in inputs):
        raise ValueError("values (batch, n) are put beside each other, along their last axis")
    return joined([v for v in inputs if isinstance(v, Affine)], 0)


def _sliced(inputs: list[Value], _: Mapping[str, Any]) -> Value:
    value, *given = inputs
    where = [[int(n) for n in np.ravel(w)] for w in given if not isinstance(w, Affine)]
    if len(where) < 2:
        raise ValueError("where it begins and ends are no constants")
    start, stop, axes, steps = [*where, *(list(range(len(where[0]))), [1])[len(where) - 2 :]]
    if not isinstance(value, Affine) or axes not in ([1], [-1]) or steps != [1]:
        raise ValueError("entries of a value (batch, n) are cut out along its last axis, one after the other")
    first, last = slice(start[0], stop[0]).indices(value.size)[:2]
    return value.cut(first, max(first, last))


def _transposed(inputs: list[Value], attributes: Mapping[str, Any]) -> Value:
    if isinstance(inputs[0], Affine):
        raise ValueError("a value (batch, n) is transposed")
    return np.transpose(inputs[0], [int(i) for i in attributes["perm"].ints] if "perm" in attributes else None)


_RULES = {
    "Gemm": _gemm, "MatMul": _product, "Add": _sum, "Sub": _difference, "Mul": _multiplied, "Div": _divided,
    "Neg": _negated, "Concat": _concatenated, "Slice": _sliced, "Transpose": _transposed,
}  # fmt: skip


def _times(value: Value, factor: Value) -> Value:
    if isinstance(factor, Affine):
        raise ValueError("two values that depend on state or input are multiplied, which no Lur'e system does")
    return value.scaled(_row(factor)) if isinstance(value, Affine) else value * factor


def _matrix(value: Value) -> Array:
    if isinstance(value, Affine) or value.ndim != 2:
        raise ValueError("its second factor is no constant matrix")
    return value


def _row(value: Array) -> Array:
    """A constant that is the same for all of a batch, as a number or a row."""
    array = np.asarray(value, dtype=np.float64)
    if array.ndim > 2 or (array.ndim == 2 and len(array) != 1):
        raise ValueError(f"a constant of shape {array.shape} differs within a batch")
    return array.reshape(-1) if array.size > 1 else array.reshape(())


def _depending(network: Network, value: Value | None, name: str) -> Affine:
    if value is None:
        raise SettingError(f"no operator makes {name!r}")
    if isinstance(value, Affine):
        return value
    return Affine(np.zeros((value.size, network.nx + network.nu)), np.asarray(value, dtype=np.float64).ravel())


def _compare(model: Any, system: LureSystem, ports: Mapping[str, str]) -> None:
    """Raise FileFormatError unless the system computes what ONNX's reference evaluator computes from the graph."""
    from onnx import helper
    from onnx.reference import ReferenceEvaluator

    ports_in = {port.name: port.type.tensor_type for port in model.graph.input}
    kinds = {name: port.elem_type for name, port in ports_in.items()}
    fixed = (ports_in[ports[what]].shape.dim[0].dim_value for what in ("state", "input"))
    batch = max(fixed)  # 0 where it is free
    compared = max(_COMPARED, batch)
    rng, given = np.random.default_rng(0), {}
    for what, n in (("state", system.nx), ("input", system.nu)):
        numbers = rng.normal(size=(compared, n)) * np.logspace(-2, 1, compared)[:, None]
        given[ports[what]] = numbers.astype(helper.tensor_dtype_to_np_dtype(kinds[ports[what]]))
    rows = [slice(k, k + batch) for k in range(0, compared - batch + 1, batch)] if batch else [slice(None)]
    evaluator, allowed = ReferenceEvaluator(model), _AGREES.get(kinds[ports["state"]], 1e-3)
    if any(node.op_type == "LeakyRelu" for node in model.graph.node):
        allowed = max(allowed, _LEAKY)
    x, u = (np.concatenate([given[ports[n]][row] for row in rows]).astype(np.float64) for n in ("state", "input"))
    own = {"next state": system.step(x, u), "output": system.output(x, u)}
    try:
        made = [
            evaluator.run([ports["next_state"], ports["output"]], {name: one[row] for name, one in given.items()})
            for row in rows
        ]
        theirs = [
            np.concatenate([np.broadcast_to(part, (batch or compared, ours.shape[1])) for part in parts])
            for ours, parts in zip(own.values(), zip(*made, strict=True), strict=True)
        ]
    except (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        raise FileFormatError(f"the graph cannot be evaluated as it was read: {error}") from error
    for (what, ours), there in zip(own.items(), theirs, strict=True):
        apart = float(np.abs(ours - there).max())
        if not apart <= allowed * (1.0 + float(np.abs(ours).max())):
            raise FileFormatError(
                f"the graph's {what} differs from what was read by {apart:.3g}: it is not used as read"
            )
