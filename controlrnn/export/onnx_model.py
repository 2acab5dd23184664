"""Export of frozen systems as ONNX models, traced from the same equations that simulate them.

Step and output are called on symbolic values that record every operation; equal operations, such as those of the
neurons, are kept once. The operators are MatMul, Add, Sub, Mul, Div, Min, Max, Sqrt, Exp, Sin,
Tanh, Relu, Sigmoid, Slice and Concat (opset 17), in float64.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from controlrnn.errors import SettingError
from controlrnn.records import write_atomic
from controlrnn.systems import System
from controlrnn.systems.ops import Ops, Value
from controlrnn.typed import typed

_OPSET, _IR = 17, 8


@typed()
def to_onnx(system: System, path: str | os.PathLike[str]) -> Path:
    """Write one step of a frozen system as an ONNX model.

    Its inputs are ``x`` (batch, nx) and ``u`` (batch, nu), its outputs ``x_next`` (batch, nx) and ``y`` (batch, ny),
    doubles in physical units. The metadata hold the ``digest`` that certificates name, and ``dt`` [s].

    Args:
        system: A frozen system.
        path: Target file; parent folders are made.

    Returns:
        The path.

    Raises:
        SettingError: ``system`` is not frozen.
        ModuleNotFoundError: The package ``onnx`` is missing: install ``controlrnn[onnx]``.
    """
    if not system.is_frozen:
        raise SettingError("to_onnx needs a frozen system, got one of tensors: call model.freeze() first")
    from onnx import TensorProto, checker, helper

    # The system's own equations run on symbolic values, whose operations become the graph.
    graph = _Graph()
    x, u = _Traced(graph, "x"), _Traced(graph, "u")
    for name, value in (("x_next", system.step(x, u)), ("y", system.output(x, u))):
        graph.nodes.append(helper.make_node("Identity", [value.name], [name]))
    ports = {"x": system.nx, "u": system.nu, "x_next": system.nx, "y": system.ny}
    x_in, u_in, x_out, y_out = (
        helper.make_tensor_value_info(name, TensorProto.DOUBLE, ["batch", n]) for name, n in ports.items()
    )
    model = helper.make_model(
        helper.make_graph(graph.nodes, system.KIND, [x_in, u_in], [x_out, y_out], graph.constants),
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR,
        producer_name="controlrnn",
    )
    helper.set_model_props(model, {"digest": system.digest, "dt": repr(system.dt)})
    checker.check_model(model, full_check=True)
    return write_atomic(path, model.SerializeToString())


class _Graph:
    """ONNX graph under construction: nodes and constants, of which equal ones are kept once."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self._known: dict[Any, str] = {}

    def apply(self, operator: str, *inputs: Value, **attributes: int) -> _Traced:
        """Add an operator on traced values and constants, unless the same is there, and return its result."""
        from onnx import helper

        names = [self.name(value) for value in inputs]
        key = (operator, *names, *sorted(attributes.items()))
        if key not in self._known:
            self._known[key] = f"v{len(self.nodes)}"
            self.nodes.append(helper.make_node(operator, names, [self._known[key]], **attributes))
        return _Traced(self, self._known[key])

    def name(self, value: Value) -> str:
        """Name in the graph of a traced value or of a constant, which is added where it is new."""
        from onnx import numpy_helper

        if isinstance(value, _Traced):
            return value.name
        array = np.array(value, dtype=None if _is_integer(value) else np.float64, order="C")
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            self._known[key] = f"c{len(self.constants)}"
            self.constants.append(numpy_helper.from_array(array, self._known[key]))
        return self._known[key]


def _is_integer(value: Value) -> bool:
    """Whether ``value`` is an array of integers, as Slice takes its indices."""
    return isinstance(value, np.ndarray) and value.dtype == np.int64


class _TracingOps:
    """Backend `controlrnn.systems.ops.Ops` for traced values, as far as a single step needs it."""

    def tanh(self, v: Value) -> Value:
        return v.graph.apply("Tanh", v)

    def relu(self, v: Value) -> Value:
        return v.graph.apply("Relu", v)

    def sigmoid(self, v: Value) -> Value:
        return v.graph.apply("Sigmoid", v)

    def sqrt(self, v: Value) -> Value:
        return v.graph.apply("Sqrt", v)

    def exp(self, v: Value) -> Value:
        return v.graph.apply("Exp", v)

    def sin(self, v: Value) -> Value:
        return v.graph.apply("Sin", v)

    def clip(self, v: Value, low: Value, high: Value) -> Value:
        return v.graph.apply("Min", v.graph.apply("Max", v, low), high)

    def constants(self, values: Value, like: Value) -> Value:  # noqa: ARG002  # constants need no precedent
        return values

    def row(self, bias: Value) -> Value:
        return bias

    def columns(self, v: Value, start: int, stop: int) -> Value:
        return v.graph.apply("Slice", v, *(np.array([n], dtype=np.int64) for n in (start, stop, 1)))

    def join(self, parts: Sequence[Value]) -> Value:
        return parts[0].graph.apply("Concat", *parts, axis=1)

    def stack(self, rows: Sequence[Value]) -> Value:  # noqa: ARG002  # one step has no time axis
        raise SettingError("only single steps are traced, got several samples to stack")

    def samples(self, path: Value) -> Sequence[Value]:  # one step has no time axis
        return (path,)

    def zeros(self, shape: tuple[int, ...], like: Value) -> Value:  # noqa: ARG002  # constants need no precedent
        return np.zeros(shape)


class _Traced:
    """Symbolic value (batch, n) of an ONNX graph, whose operations are recorded."""

    OPS: ClassVar[Ops] = _TracingOps()
    __array_ufunc__ = None  # so that numpy leaves ``array + value`` to us

    def __init__(self, graph: _Graph, name: str) -> None:
        self.graph = graph
        self.name = name

    def __matmul__(self, other: Value) -> _Traced:
        return self.graph.apply("MatMul", self, other)

    def __add__(self, other: Value) -> _Traced:
        return self.graph.apply("Add", self, other)

    def __mul__(self, other: Value) -> _Traced:
        return self.graph.apply("Mul", self, other)

    def __sub__(self, other: Value) -> _Traced:
        return self.graph.apply("Sub", self, other)

    def __truediv__(self, other: Value) -> _Traced:
        return self.graph.apply("Div", self, other)

    def __rtruediv__(self, other: Value) -> _Traced:
        return self.graph.apply("Div", other, self)

    def __rsub__(self, other: Value) -> _Traced:
        return self.graph.apply("Sub", other, self)

    def __rmul__(self, other: Value) -> _Traced:
        return self.graph.apply("Mul", other, self)
