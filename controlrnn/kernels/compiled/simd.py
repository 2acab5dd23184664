# mypy: allow-untyped-decorators
# ruff: noqa: ARG001, ARG005 (numba reads the signatures of intrinsics and of their generators)
"""Vector operations for the time loops, written as LLVM instructions because numba has no vector type.

A *line* is one vector register's worth of numbers that lie next to each other: 16 float32 or 8 float64 with AVX-512,
half of that elsewhere. numba leaves it to the optimiser to find vectors in loops, and it does not find them where the
sums run over an outer loop, as they do in every matrix product here. What is elementwise stays in plain numba.

Arrays are addressed by a pointer and offsets in elements; nothing checks bounds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import factorial
from typing import Any

import llvmlite.binding  # type: ignore[import-untyped]
import llvmlite.ir as ir  # type: ignore[import-untyped]
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from controlrnn.systems.activations import LEAK

_WIDE = bool(llvmlite.binding.get_host_cpu_features().get("avx512f", False))
_LINE_BYTES = 64 if _WIDE else 32
# The accumulators of a `dot` tile must fit into the 32 or 16 registers beside their operands.
DOT_ROWS, DOT_COLS = 4, (4 if _WIDE else 2)
# a * b + c may become one fused instruction where the machine has it; nothing else is relaxed.
_FMA = ("contract",)


def line_length(itemsize: int) -> int:
    """Numbers in a line, by the size of a number in bytes."""
    return _LINE_BYTES // itemsize


@intrinsic
def line_of(typing: Any, like: Any) -> Any:
    """Numbers in a line of an array, as a constant that the optimiser knows."""
    length = line_length(_scalar(like)[1])
    return types.intp(like), lambda context, builder, signature, args: context.get_constant(types.intp, length)


def _scalar(array: Any) -> tuple[ir.Type, int]:
    """LLVM type and size in bytes of an array's elements."""
    return (ir.FloatType(), 4) if array.dtype == types.float32 else (ir.DoubleType(), 8)


class _Pointer:
    """Pointer to an array argument, for loads and stores at offsets in elements."""

    def __init__(self, context: Any, builder: Any, array: Any, value: Any) -> None:
        self.builder = builder
        self.element, self.size = _scalar(array)
        self.line = ir.VectorType(self.element, line_length(self.size))
        self.data = context.make_array(array)(context, builder, value).data

    def at(self, offset: Any, kind: ir.Type) -> Any:
        return self.builder.bitcast(self.builder.gep(self.data, [offset]), kind.as_pointer())

    def load(self, offset: Any) -> Any:
        return self.builder.load(self.at(offset, self.line), align=self.size)

    def store(self, value: Any, offset: Any) -> None:
        self.builder.store(value, self.at(offset, self.line), align=self.size)

    def splat(self, offset: Any) -> Any:
        """Load one number and repeat it in a whole line."""
        number = self.builder.load(self.builder.gep(self.data, [offset]))
        undefined, zero = ir.Constant(self.line, ir.Undefined), ir.Constant(ir.IntType(32), 0)
        first = self.builder.insert_element(undefined, number, zero)
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), self.line.count), [0] * self.line.count)
        return self.builder.shuffle_vector(first, undefined, lanes)


def _multiply_add(builder: Any, a: Any, b: Any, total: Any) -> None:
    """Emit ``total += a * b``, with the total in a stack slot that the optimiser turns into a register."""
    builder.store(builder.fadd(builder.load(total), builder.fmul(a, b, flags=_FMA), flags=_FMA), total)


def _accumulators(builder: Any, kind: ir.Type, n: int) -> list[Any]:
    slots = [cgutils.alloca_once(builder, kind) for _ in range(n)]
    for slot in slots:
        builder.store(ir.Constant(kind, [0.0] * kind.count), slot)
    return slots


def _product(rows: int, lines: int, unroll: int, *, add: bool = False) -> Callable[..., Any]:
    """Make ``out[o + (i lines + l) line] = sum_k S[s + i si + k sk] * line V[v + k vk + l line]``, i < rows, l < lines.

    ``unroll`` sums are kept apart and added at the end, which hides the latency of the additions where a sum has few
    neighbours. ``add`` adds to what is in ``out``.
    """

    def product(
        typing: Any, S: Any, s: Any, si: Any, sk: Any, V: Any, v: Any, vk: Any, out: Any, o: Any, n: Any
    ) -> Any:
        n_int = types.intp
        signature = types.void(S, n_int, n_int, n_int, V, n_int, n_int, out, n_int, n_int)

        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            of = signature.args
            scalars = _Pointer(context, builder, of[0], args[0])
            vectors = _Pointer(context, builder, of[4], args[4])
            target = _Pointer(context, builder, of[7], args[7])
            s, si, sk, v, vk, o, n = (args[i] for i in (1, 2, 3, 5, 6, 8, 9))
            length = vectors.line.count
            slots = _accumulators(builder, vectors.line, rows * lines * unroll)

            def term(k: Any, turn: int) -> None:
                place, start = builder.add(v, builder.mul(k, vk)), builder.add(s, builder.mul(k, sk))
                loaded = [vectors.load(builder.add(place, n.type(line * length))) for line in range(lines)]
                for i in range(rows):
                    number = scalars.splat(builder.add(start, builder.mul(n.type(i), si)))
                    for line in range(lines):
                        _multiply_add(builder, number, loaded[line], slots[(i * lines + line) * unroll + turn])

            whole = builder.mul(builder.sdiv(n, n.type(unroll)), n.type(unroll))
            with cgutils.for_range_slice(builder, n.type(0), whole, n.type(unroll)) as (k, _):
                for turn in range(unroll):
                    term(builder.add(k, n.type(turn)), turn)
            with cgutils.for_range_slice(builder, whole, n, n.type(1)) as (k, _):
                term(k, 0)
            for i in range(rows * lines):
                total = builder.load(slots[i * unroll])
                for turn in range(1, unroll):
                    total = builder.fadd(total, builder.load(slots[i * unroll + turn]))
                place = builder.add(o, n.type(i * length))
                target.store(builder.fadd(target.load(place), total) if add else total, place)
            return context.get_dummy_value()

        return signature, generate

    return intrinsic(product)  # type: ignore[no-any-return]


product8, product4, scale_line = _product(8, 1, 1), _product(4, 1, 1), _product(1, 1, 1)
product1, product1x2, product1x4 = _product(1, 1, 4), _product(1, 2, 4), _product(1, 4, 2)
add_product8, add_product4 = _product(8, 1, 1, add=True), _product(4, 1, 1, add=True)
add_product1, add_product1x2 = _product(1, 1, 4, add=True), _product(1, 2, 4, add=True)
add_product1x4 = _product(1, 4, 2, add=True)


@intrinsic
def transpose(typing: Any, V: Any, v: Any, vi: Any, out: Any, o: Any, oj: Any) -> Any:
    """Transpose a block of lines: ``out[o + j oj + i] = V[v + i vi + j]`` for i, j < line."""
    size = types.intp

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source = _Pointer(context, builder, signature.args[0], args[0])
        target = _Pointer(context, builder, signature.args[3], args[3])
        v, vi, o, oj = (args[i] for i in (1, 2, 4, 5))
        length, half = source.line.count, 1
        rows = [source.load(builder.add(v, builder.mul(v.type(i), vi))) for i in range(length)]
        while half < length:
            # Swap the off-diagonal blocks of this size between pairs of rows.
            upper, lower = (
                ir.Constant(ir.VectorType(ir.IntType(32), length), order)
                for order in (
                    [length + k - half if k & half else k for k in range(length)],
                    [length + k if k & half else k + half for k in range(length)],
                )
            )
            for i in range(length):
                if not i & half:
                    a, b = rows[i], rows[i + half]
                    rows[i], rows[i + half] = (builder.shuffle_vector(a, b, order) for order in (upper, lower))
            half *= 2
        for j, row in enumerate(rows):
            target.store(row, builder.add(o, builder.mul(o.type(j), oj)))
        return context.get_dummy_value()

    return types.void(V, size, size, out, size, size), generate


@intrinsic
def load_at(typing: Any, like: Any, address: Any, index: Any) -> Any:
    """Load the number at ``address`` plus ``index`` elements of the type of the array ``like``."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(_address(context, builder, signature, args))

    return like.dtype(like, types.intp, types.intp), generate


@intrinsic
def store_at(typing: Any, like: Any, address: Any, index: Any, value: Any) -> Any:
    """Store a number where `load_at` would load it."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[3], _address(context, builder, signature, args))
        return context.get_dummy_value()

    return types.void(like, types.intp, types.intp, like.dtype), generate


def _address(context: Any, builder: Any, signature: Any, args: Any) -> Any:
    pointer = builder.inttoptr(args[1], _scalar(signature.args[0])[0].as_pointer())
    return builder.gep(pointer, [args[2]])


@intrinsic
def dot(typing: Any, P: Any, p: Any, pt: Any, Q: Any, q: Any, qt: Any, n: Any, out: Any, o: Any, oi: Any) -> Any:
    """Add ``sum_t line P[p + i lines + t pt] . line Q[q + j lines + t qt]`` to a DOT_ROWS x DOT_COLS tile of out."""
    size = types.intp
    signature = types.void(P, size, size, Q, size, size, size, out, size, size)

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        of = signature.args
        left = _Pointer(context, builder, of[0], args[0])
        right = _Pointer(context, builder, of[3], args[3])
        target = _Pointer(context, builder, of[7], args[7])
        p, pt, q, qt, n, o, oi = (args[i] for i in (1, 2, 4, 5, 6, 8, 9))
        slots = _accumulators(builder, left.line, DOT_ROWS * DOT_COLS)
        length = left.line.count
        with cgutils.for_range(builder, n, intp=n.type) as loop:
            here, there = (builder.add(a, builder.mul(loop.index, b)) for a, b in ((p, pt), (q, qt)))
            ps = [left.load(builder.add(here, n.type(i * length))) for i in range(DOT_ROWS)]
            qs = [right.load(builder.add(there, n.type(j * length))) for j in range(DOT_COLS)]
            for i in range(DOT_ROWS):
                for j in range(DOT_COLS):
                    _multiply_add(builder, ps[i], qs[j], slots[i * DOT_COLS + j])
        for i in range(DOT_ROWS):
            for j in range(DOT_COLS):
                total = _sum_of_line(builder, builder.load(slots[i * DOT_COLS + j]), left)
                place = builder.gep(target.data, [builder.add(builder.add(o, builder.mul(n.type(i), oi)), n.type(j))])
                builder.store(builder.fadd(builder.load(place), total), place)
        return context.get_dummy_value()

    return signature, generate


def _sum_of_line(builder: Any, line: Any, of: _Pointer) -> Any:
    """Sum the numbers of a line by halving it, always in the same order."""
    undefined, length = ir.Constant(of.line, ir.Undefined), of.line.count
    half = length // 2
    while half:
        order = [(i + half) % length for i in range(length)]
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), length), order)
        line = builder.fadd(line, builder.shuffle_vector(line, undefined, lanes))
        half //= 2
    return builder.extract_element(line, ir.Constant(ir.IntType(32), 0))


def _elementwise(function: Callable[[Any, Any, Any], Any]) -> Callable[..., Any]:
    """Make ``out[o + k] = function(V[v + k], W[w + k])`` for one line; unused arguments are not loaded."""

    def elementwise(typing: Any, V: Any, v: Any, W: Any, w: Any, out: Any, o: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            kinds = (signature.args[i] for i in (0, 2, 4))
            source, other, target = (
                _Pointer(context, builder, kind, args[i]) for kind, i in zip(kinds, (0, 2, 4), strict=True)
            )
            target.store(function(builder, source.load(args[1]), other.load(args[3])), args[5])
            return context.get_dummy_value()

        return types.void(V, types.intp, W, types.intp, out, types.intp), generate

    return intrinsic(elementwise)  # type: ignore[no-any-return]


def _fill(kind: ir.Type, value: float) -> Any:
    """Constant of a scalar or vector type."""
    return ir.Constant(kind, [value] * kind.count if isinstance(kind, ir.VectorType) else value)


def _where_positive(builder: Any, at: Any, value: Any, factor: float) -> Any:
    """Select ``value`` where ``at`` is not <= 0 (a NaN stays), else ``factor value``."""
    below = _fill(at.type, 0.0) if factor == 0 else builder.fmul(value, _fill(at.type, factor))
    return builder.select(builder.fcmp_ordered("<=", at, _fill(at.type, 0.0)), below, value)


def _sigmoid(builder: Any, v: Any) -> Any:
    half = _fill(v.type, 0.5)
    return builder.fadd(half, builder.fmul(half, _tanh(builder, builder.fmul(half, v))))


def _one_minus(builder: Any, value: Any) -> Any:
    return builder.fsub(_fill(value.type, 1.0), value)


def _reversed(builder: Any, line: Any) -> Any:
    order = ir.Constant(ir.VectorType(ir.IntType(32), line.type.count), list(range(line.type.count))[::-1])
    return builder.shuffle_vector(line, ir.Constant(line.type, ir.Undefined), order)


def _of_numbers(function: Callable[[Any, Any, Any], Any]) -> Callable[..., Any]:
    """Make ``function(v, w)`` for two numbers of one precision."""

    def of_numbers(typing: Any, v: Any, w: Any) -> Any:
        if v not in (types.float32, types.float64) or v != w:
            return None
        return v(v, w), lambda context, builder, signature, args: function(builder, args[0], args[1])

    return intrinsic(of_numbers)  # type: ignore[no-any-return]


@intrinsic
def add_scaled_line(typing: Any, factor: Any, V: Any, v: Any, out: Any, o: Any) -> Any:
    """Add ``factor V[v + k]`` to ``out[o + k]`` for one line, the product rounded first."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        source = _Pointer(context, builder, signature.args[1], args[1])
        target = _Pointer(context, builder, signature.args[3], args[3])
        undefined, zero = ir.Constant(source.line, ir.Undefined), ir.Constant(ir.IntType(32), 0)
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), source.line.count), [0] * source.line.count)
        splat = builder.shuffle_vector(builder.insert_element(undefined, args[0], zero), undefined, lanes)
        product = builder.fmul(splat, source.load(args[2]))
        target.store(builder.fadd(target.load(args[4]), product), args[4])
        return context.get_dummy_value()

    return types.void(V.dtype, V, types.intp, out, types.intp), generate


def _tanh_slope(builder: Any, v: Any, w: Any) -> Any:
    return builder.fmul(v, _one_minus(builder, builder.fmul(w, w)))


def _sigmoid_slope(builder: Any, v: Any, w: Any) -> Any:
    return builder.fmul(v, builder.fmul(w, _one_minus(builder, w)))


copy_line, add_line = _elementwise(lambda _, v, w: v), _elementwise(lambda b, v, w: b.fadd(v, w))
reverse_line = _elementwise(lambda b, v, w: _reversed(b, v))
tanh_line = _elementwise(lambda b, v, w: _tanh(b, v))
# Activations, of a line and of a number, and for adjoints v times the slope at the neuron output w.
sigmoid_line, sigmoid = (make(lambda b, v, w: _sigmoid(b, v)) for make in (_elementwise, _of_numbers))
relu_line, relu = (make(lambda b, v, w: _where_positive(b, v, v, 0.0)) for make in (_elementwise, _of_numbers))
leaky_relu_line, leaky_relu = (
    make(lambda b, v, w: _where_positive(b, v, v, LEAK)) for make in (_elementwise, _of_numbers)
)
tanh_slope_line, tanh_slope = (make(_tanh_slope) for make in (_elementwise, _of_numbers))
sigmoid_slope_line, sigmoid_slope = (make(_sigmoid_slope) for make in (_elementwise, _of_numbers))
relu_slope_line, relu_slope = (
    make(lambda b, v, w: _where_positive(b, w, v, 0.0)) for make in (_elementwise, _of_numbers)
)
leaky_relu_slope_line, leaky_relu_slope = (
    make(lambda b, v, w: _where_positive(b, w, v, LEAK)) for make in (_elementwise, _of_numbers)
)


@intrinsic
def tanh(typing: Any, x: Any) -> Any:
    """Hyperbolic tangent of a float32 or float64; see `_tanh`."""
    if x not in (types.float32, types.float64):
        return None
    return x(x), lambda context, builder, signature, args: _tanh(builder, args[0])


def _tanh(builder: Any, x: Any) -> Any:
    """Emit the hyperbolic tangent of a number or line, without a branch.

    tanh|x| = e / (e + 2) with e = expm1(2|x|) = (2^k - 1) + 2^k expm1(r), 2|x| = k ln 2 + r, |r| <= ln(2) / 2.
    No cancellation: for k = 0 the polynomial alone is e. Within 3 ulp; NaN stays NaN.
    """
    number = x.type
    single = number in (ir.FloatType(), ir.VectorType(ir.FloatType(), getattr(number, "count", 0)))
    bits, shift, bias = (24, 23, 127) if single else (53, 52, 1023)  # of the IEEE 754 format
    whole = ir.IntType(32 if single else 64)
    whole = ir.VectorType(whole, number.count) if isinstance(number, ir.VectorType) else whole
    # tanh is 1 to the last bit beyond `limit`; k ln2_hi is exact for the k that occur (split as in fdlibm).
    limit, ln2_hi, ln2_lo, degree = (
        (10.0, 6.9313812256e-01, 9.0580006145e-06, 7)
        if single
        else (20.0, 6.93147180369123816490e-01, 1.90821492927058770002e-10, 13)
    )
    magic = 1.5 * 2.0 ** (bits - 1)

    def const(value: float) -> Any:
        return _fill(number, value)

    def fma(a: Any, b: Any, c: Any) -> Any:
        return builder.fadd(builder.fmul(a, b, flags=_FMA), c, flags=_FMA)

    sign = builder.and_(builder.bitcast(x, whole), _fill(whole, 1 << (31 if single else 63)))
    magnitude = builder.bitcast(builder.xor(builder.bitcast(x, whole), sign), number)
    magnitude = builder.select(builder.fcmp_ordered(">", magnitude, const(limit)), const(limit), magnitude)
    y = builder.fadd(magnitude, magnitude)
    # Adding the magic number rounds to a whole number and leaves it in the low bits.
    shifted = fma(y, const(1.4426950408889634), const(magic))
    k = builder.fsub(shifted, const(magic))
    r = fma(k, const(-ln2_lo), fma(k, const(-ln2_hi), y))
    exponent = builder.add(builder.bitcast(shifted, whole), _fill(whole, bias))
    power = builder.bitcast(builder.shl(exponent, _fill(whole, shift)), number)
    squares = [r, builder.fmul(r, r)]
    tail = _polynomial([const(1 / factorial(i)) for i in range(2, degree + 1)], squares, fma, builder)
    e = fma(power, fma(squares[1], tail, r), builder.fsub(power, const(1.0)))
    value = builder.fdiv(e, builder.fadd(e, const(2.0)))
    return builder.bitcast(builder.or_(builder.bitcast(value, whole), sign), number)


def _polynomial(coefficients: Sequence[Any], squares: list[Any], fma: Callable[..., Any], builder: Any) -> Any:
    """Evaluate a polynomial by Estrin's scheme, whose chain of dependent steps is logarithmic in the degree.

    ``squares`` holds x, x^2, x^4, ... and is extended as needed.
    """
    level, terms = 0, list(coefficients)
    while len(terms) > 1:
        if level == len(squares):
            squares.append(builder.fmul(squares[-1], squares[-1]))
        pairs = [fma(terms[i + 1], squares[level], terms[i]) for i in range(0, len(terms) - 1, 2)]
        terms = pairs + terms[len(pairs) * 2 :]
        level += 1
    return terms[0]
