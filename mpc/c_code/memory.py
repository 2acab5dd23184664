"""Sizes of the structs that a generated header declares, by the usual rules of alignment."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable, Mapping

_COMMENT = re.compile(r"/\*.*?\*/", re.DOTALL)
_DEFINE = re.compile(r"^#define (\w+) (.+?)\s*$", re.MULTILINE)
_ENUM = re.compile(r"typedef enum \{.*?\} (\w+);", re.DOTALL)
_STRUCT = re.compile(r"typedef struct \{(.*?)\} (\w+);", re.DOTALL)
_FIELDS = re.compile(r"(signed char|\w+) (.*)", re.DOTALL)
_FIELD = re.compile(r"\s*\w+(?:\[(.*)\])?\s*", re.DOTALL)
_OPERATORS: dict[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
}


def size_of(header: str, name: str) -> int:
    """Size of a struct [bytes] on machines with doubles of 8 bytes and ints of 4, each aligned to its size.

    Args:
        header: Text of the header: structs of doubles, ints, signed chars, enums, earlier structs, and arrays of them.
        name: The struct.
    """
    text = _COMMENT.sub(" ", header)
    macros = dict(_DEFINE.findall(text))
    sizes: dict[str, tuple[int, int]] = {"double": (8, 8), "int": (4, 4), "signed char": (1, 1)} | dict.fromkeys(
        _ENUM.findall(text), (4, 4)
    )
    for body, struct in _STRUCT.findall(text):
        end, most = 0, 1
        for line in filter(str.strip, body.split(";")):
            found = _FIELDS.match(line.strip())
            assert found, line
            size, align = sizes[found[1]]
            most = max(most, align)
            for field in found[2].split(","):
                shape = _FIELD.fullmatch(field)
                assert shape, field
                number = 1 if shape[1] is None else _number(shape[1], macros)
                end = -(-end // align) * align + number * size
        sizes[struct] = (-(-end // most) * most, most)
    return sizes[name][0]


def _number(expression: str, macros: Mapping[str, str]) -> int:
    """Value of a sum of products of whole numbers and macros."""

    def value(node: ast.expr) -> int:
        if isinstance(node, ast.Constant):
            return int(node.value)  # type: ignore[arg-type]
        if isinstance(node, ast.Name):
            return _number(macros[node.id], macros)
        assert isinstance(node, ast.BinOp), ast.dump(node)
        return _OPERATORS[type(node.op)](value(node.left), value(node.right))

    return value(ast.parse(expression.strip(), mode="eval").body)
