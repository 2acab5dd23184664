"""Mutants that are the same code by construction: only words of errors, pictures, or guesses differ."""

from __future__ import annotations

import ast
from pathlib import Path

# Read and not imported: what is imported here would be tested in place of the mutants.
_SOURCE = (Path(__file__).parents[2] / "controlrnn" / "checks.py").read_text()
_FUNCTIONS = [node for node in ast.parse(_SOURCE).body if isinstance(node, ast.FunctionDef)]
CHECKS = {node.name for node in _FUNCTIONS} | {"checked_box", "_per_channel"}
# Of these the first argument is but a name for messages.
NAMED = {node.name for node in _FUNCTIONS if node.args.args[0].arg == "name"} | {"checked_box", "_per_channel"}
# Methods that compare, and say by these names of theirs what differs.
COMPARISONS = {"refuse_other"}
# Where numbers are of another type they become float64 in the next operation; words; guesses that a residual judges.
WORDS = {"dtype", "hint", "what", "advice", "room"}


def alike(one: str, other: str) -> bool:
    """Whether two texts of a function differ in nothing but words, pictures and guesses."""
    return _draws(one) or ast.dump(_Plain().visit(ast.parse(one))) == ast.dump(_Plain().visit(ast.parse(other)))


def _draws(text: str) -> bool:
    """Whether a function makes a picture, which people judge by looking at it."""
    function = ast.parse(text).body[0]
    if not isinstance(function, ast.FunctionDef):
        return False
    return ast.unparse(function.returns or ast.Constant(None)) == "Figure" or "panels" in ast.unparse(function.args)


class _Plain(ast.NodeTransformer):
    """Leaves out what is only wording."""

    def visit_Raise(self, _: ast.Raise) -> ast.stmt:
        return ast.Raise()

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.name = ""
        own = node.args.args[len(node.args.args) - len(node.args.defaults) :]
        for i, argument in enumerate(own):
            if argument.arg in WORDS:
                node.args.defaults[i] = ast.Constant(None)
        for argument, default in zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True):
            if argument.arg in WORDS and default is not None:
                node.args.kw_defaults[node.args.kwonlyargs.index(argument)] = ast.Constant(None)
        return self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        called = ast.unparse(node.func)
        if called.startswith("_log."):
            return ast.Constant(None)
        node.keywords = [keyword for keyword in node.keywords if keyword.arg not in WORDS]
        if called in NAMED and node.args:
            node.args[0] = ast.Constant("")
        if called in CHECKS:  # names of axes
            node.args = [_Unnamed().visit(argument) for argument in node.args]
        if called.rpartition(".")[2] in COMPARISONS:
            node.args = [ast.Constant("") if isinstance(one, ast.Constant) else one for one in node.args]
        return self.generic_visit(node)


class _Unnamed(ast.NodeTransformer):
    """Leaves out texts."""

    def visit_Constant(self, node: ast.Constant) -> ast.Constant:
        return ast.Constant("") if isinstance(node.value, str) else node
