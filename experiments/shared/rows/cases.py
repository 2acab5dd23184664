"""Cases of a study as pure functions of their arguments, in this process or in a worker that runs the same code."""

from __future__ import annotations

import functools
import importlib
import operator
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from controlrnn.errors import ClusterError
from experiments.shared.rows.made_with import made_with
from experiments.shared.rows.tables import plain

Row = dict[str, Any]
CODE = ("sources", "versions", "python")  # of `made_with`: what workers must have as the study has it


def code() -> Row:
    """Digest and versions of the code that runs here."""
    return {name: made_with()[name] for name in CODE}


def function_of(function: Callable[..., Any], expected: Row) -> Callable[..., Any]:
    """The function as a worker calls it: with one thread, and only where it runs the code of the study.

    Args:
        function: The function.
        expected: `code` of the study.
    """
    import torch

    differs = [name for name, value in code().items() if value != expected[name]]
    if differs:
        raise ClusterError(f"a worker has other {', '.join(differs)} than the study: install the same")
    torch.set_num_threads(1)
    return function


def case(function: Callable[..., Mapping[str, Any]], key: str, arguments: Sequence[Any]) -> Row:
    """Row of one case, in this process."""
    began = time.perf_counter()
    try:
        values = plain({"case": key} | dict(function(*arguments)))
    except Exception as error:
        error.add_note(f"in case {key!r}")
        raise
    return dict(values) | {"seconds": round(time.perf_counter() - began, 3)}


def importable(function: Callable[..., Any]) -> Callable[..., Any]:
    """The same function as a worker can import it, where its module was started as a program."""
    if isinstance(function, functools.partial):
        return functools.partial(importable(function.func), *function.args, **function.keywords)
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if getattr(function, "__module__", None) != "__main__" or spec is None:
        return function
    found: Callable[..., Any] = operator.attrgetter(function.__qualname__)(importlib.import_module(spec.name))
    return found


def name_of(function: Callable[..., Any]) -> str:
    """Name of a function, or of the class of what is called, with its module; without arguments that it holds."""
    function = importable(function)
    while isinstance(function, functools.partial):
        function = function.func
    kind = function if hasattr(function, "__qualname__") else type(function)
    return f"{kind.__module__}.{kind.__qualname__}"


@contextmanager
def one_thread() -> Iterator[None]:
    """One thread for torch, as a worker has, on which last bits depend."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
