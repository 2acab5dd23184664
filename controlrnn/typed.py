"""Checks of arguments against their annotations: the decorator `typed` for functions, `__init__` and dataclasses.

An annotation says what an argument is; it is written once, for the type checker, the reader and this check. ``int``
becomes a whole number, ``float`` a real one, ``Array`` a finite float64 array, from values of any library;
``bool``, ``str``, callables, and classes are checked; sequences are checked item by item. Ranges and shapes are left to
the function. Functions that are called at every sample are not decorated; they check by hand what they need.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import typing
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, TypeVar

import numpy as np

from controlrnn.checks import as_array, checked_seed, count, flag, number, numbers, put, shown, text, texts
from controlrnn.errors import DataError, SettingError
from controlrnn.printing import brief

F = TypeVar("F", bound=Callable[..., Any])
Check = Callable[[str, Any], Any]

_LARGEST = 2**63


def typed(
    *, infinite: Iterable[str] = (), unchecked: Iterable[str] = (), stored: bool = True, results: bool = True
) -> Callable[[F], F]:
    """Decorator that checks and converts the arguments of a function, a method, ``__init__`` or a dataclass.

    A dataclass is decorated below ``@dataclass``; its fields are converted before its own ``__post_init__`` runs.

    Args:
        infinite: Names of arguments of numbers that may be NaN or infinite; "*" for all.
        unchecked: Names of arguments that are more than their annotation says, and checked by the function itself.
        stored: Whether a dataclass that saves itself has to be one that could be read again. Certificates need not:
            their proof checks them.
        results: Whether a number or an array that a function returns has to be finite.
    """
    loose, left = frozenset(infinite), frozenset(unchecked)

    def decorate(target: F) -> F:
        if inspect.isclass(target):
            return _dataclass(target, loose, left, stored)  # type: ignore[return-value]
        return typing.cast(F, _function(target, loose, left, results))

    return decorate


def _function(
    function: Callable[..., Any], loose: frozenset[str], left: frozenset[str], results: bool
) -> Callable[..., Any]:
    """Wrap ``function`` so that its arguments are checked and converted at every call; arguments as in `typed`."""
    signature = inspect.signature(function)

    # Made at the first call: annotations may name classes that are defined further down in the module.
    @functools.cache
    def checks() -> dict[str, Check]:
        found = _checks(function.__annotations__, _names(function), loose)
        return {n: c for n, c in found.items() if n in signature.parameters and n != "return" and n not in left}

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{function.__qualname__.removesuffix('.__init__')}: {error}") from None
        for name, check in checks().items():
            if name not in bound.arguments:
                continue
            kind, value = signature.parameters[name].kind, bound.arguments[name]
            if kind is inspect.Parameter.VAR_POSITIONAL:
                bound.arguments[name] = tuple(check(name, v) for v in value)
            elif kind is not inspect.Parameter.VAR_KEYWORD:
                bound.arguments[name] = check(name, value) if value is not signature.parameters[name].default else value
        result = function(*bound.args, **bound.kwargs)
        if results and not _finite(result):
            raise DataError(
                f"{function.__name__} has no finite result: its arguments are beyond what float64 can hold; check units"
            )
        return result

    return wrapper


def _dataclass(cls: type, loose: frozenset[str], left: frozenset[str], stored: bool) -> type:
    """Give ``cls`` a ``__post_init__`` that checks and converts its fields, then calls its own; see `typed`."""
    stored = stored and hasattr(cls, "conform")
    own: Callable[..., None] | None = cls.__dict__.get("__post_init__")
    inherited = getattr(cls, "__post_init__", None)

    @functools.cache
    def checks() -> dict[str, Check]:
        hints = {
            n: a for n, a in inspect.get_annotations(cls).items() if not str(a).startswith("ClassVar") and n not in left
        }
        return _checks(hints, _names(cls), loose)

    def __post_init__(self: Any) -> None:  # noqa: N807
        for name, check in checks().items():
            put(self, **{name: check(name, getattr(self, name))})
        if own is not None:
            own(self)
        elif inherited is not None:
            inherited(self)
        if stored and type(self) is cls:  # a subclass conforms once all of its own fields are set
            self.conform()  # type: ignore[attr-defined]  # of `Stored`

    cls.__post_init__ = __post_init__  # type: ignore[attr-defined]
    if "__repr__" not in cls.__dict__:  # `dataclass` keeps what is there
        cls.__repr__ = brief  # type: ignore[method-assign, assignment]
    return cls


def _finite(result: Any) -> bool:
    """Whether a result, or everything in a tuple or list of results, is finite where it is a number."""
    if isinstance(result, float | np.floating):
        return math.isfinite(result)
    if isinstance(result, np.ndarray):
        return result.dtype.kind != "f" or bool(np.isfinite(result).all())
    if type(result) is tuple or type(result) is list:
        return all(_finite(r) for r in result)
    return True


def _names(of: Any) -> dict[str, Any]:
    """Names that annotations of a function or class may use: those of its module."""
    module = inspect.getmodule(of)
    return vars(module) if module is not None else {}


def _checks(annotations: Mapping[str, Any], names: Mapping[str, Any], loose: frozenset[str]) -> dict[str, Check]:
    """Checks by argument, for all annotations that say something that can be checked."""
    found = {n: _check(str(a), names, n in loose or "*" in loose, n) for n, a in annotations.items()}
    return {n: c for n, c in found.items() if c is not None}


def _check(annotation: str, names: Mapping[str, Any], loose: bool, name: str) -> Check | None:
    """Build the check for one annotation; None where it says nothing that can be checked."""
    options = [part.strip() for part in _split(annotation, "|")]
    optional = "None" in options
    rest = [o for o in options if o != "None"]
    made = _union(rest, names, loose, name)
    if made is None or not optional:
        return made
    return lambda n, value: None if value is None else made(n, value)


def _union(options: list[str], names: Mapping[str, Any], loose: bool, name: str) -> Check | None:
    """Build the check for a union of annotations other than None; None where there is nothing to check."""
    kinds = {o.partition("[")[0].rpartition(".")[2] for o in options}
    if len(options) == 1:
        return _one(options[0], names, loose, name)
    if kinds <= {"float", "Array", "ArrayLike", "NDArray"}:  # one number for all channels, or one for each
        return _any_numbers(loose)
    if kinds == {"str", "PathLike"}:
        return _path
    if kinds <= {"bool", "int"}:
        return lambda n, value: bool(value) if isinstance(value, bool | np.bool_) else _whole(n, value)
    classes = tuple(_class(o, names) for o in options)
    if all(c is not None for c in classes):
        return lambda n, value: _instance(n, value, classes)
    return None


def _one(annotation: str, names: Mapping[str, Any], loose: bool, name: str) -> Check | None:
    """Build the check for an annotation without ``|``; None where there is nothing to check."""
    base, _, inner = annotation.partition("[")
    inner = inner.removesuffix("]")
    if annotation == "int":
        return (lambda n, value: checked_seed(value, n)) if name == "seed" else _whole
    if annotation == "float":
        return _loose_number if loose else lambda n, value: number(n, value)
    if annotation == "bool":
        return flag
    if annotation == "str":
        return text
    if base == "Array" or base == "ArrayLike":
        return _any_numbers(loose)
    if base in ("Sequence", "Iterable", "tuple", "list") and inner:
        return _items(inner, names, loose)
    if base in ("Mapping", "dict") and inner == "str, str":
        return texts
    if base in ("Mapping", "dict"):
        return lambda n, value: _instance(n, value, (Mapping,))
    if base == "Callable":
        return _callable
    kind = _class(base, names)
    return None if kind is None else lambda n, value: _instance(n, value, (kind,))


def _class(name: str, names: Mapping[str, Any]) -> Any:
    """Class of that name if ``isinstance`` can be used with it; None for enums (made from text) and protocols."""
    kind: Any = names
    for part in name.partition("[")[0].split("."):
        kind = kind.get(part) if isinstance(kind, Mapping) else getattr(kind, part, None)
    checkable = inspect.isclass(kind) and kind not in (object, Any) and not issubclass(kind, Enum)
    return kind if checkable and not getattr(kind, "_is_protocol", False) else None


def _items(inner: str, names: Mapping[str, Any], loose: bool) -> Check | None:
    """Build the check for a sequence whose items are annotated with ``inner``; None where there is nothing to check."""
    parts = [p.strip() for p in _split(inner, ",")]
    repeated = len(parts) == 1 or parts[-1] == "..."
    each = [_check(p, names, loose, "") for p in parts if p != "..."]
    if each == [None] and not repeated:
        return None

    def check(name: str, value: Any) -> Any:
        if isinstance(value, str | bytes | Mapping | set) or _is_number(value) or not isinstance(value, Iterable):
            raise SettingError(f"{name} must be a sequence, got {shown(value)}")
        found = tuple(value)
        if not repeated and len(found) != len(each):
            raise SettingError(f"{name} must have {len(each)} entries, got {len(found)}")
        made = each * len(found) if repeated else each
        return tuple(v if c is None else c(f"{name}[{i}]", v) for i, (c, v) in enumerate(zip(made, found, strict=True)))

    return check


def _any_numbers(loose: bool) -> Check:
    """Build the check for an array of any shape, finite unless ``loose``."""

    def check(name: str, value: Any) -> Any:
        array = numbers(name, value)
        return array if loose else as_array(name, array, ["n"] * array.ndim)

    return check


def _loose_number(name: str, value: Any) -> float:
    """Return ``value`` as float after checking that it is a real number, NaN and infinity included."""
    real = numbers(name, value)
    return float(real) if real.ndim == 0 and not isinstance(value, bool) else number(name, value)


def _whole(name: str, value: Any) -> int:
    """Return ``value`` as int after checking that it is a whole number of any sign."""
    try:
        return count(name, value, least=-_LARGEST, most=_LARGEST)
    except SettingError:
        raise SettingError(f"{name} must be a whole number of at most 64 bits, got {shown(value)}") from None


def _path(name: str, value: Any) -> Any:
    """Return ``value`` after checking that it may be the path of a file."""
    if not isinstance(value, str | os.PathLike) or "\x00" in os.fspath(value) or not os.fspath(value):
        raise SettingError(f"{name} must be the path of a file, got {shown(value)}")
    return value


def _callable(name: str, value: Any) -> Any:
    """Return ``value`` after checking that it can be called."""
    if not callable(value):
        raise SettingError(f"{name} must be a function, got {shown(value)}")
    return value


def _instance(name: str, value: Any, kinds: tuple[Any, ...]) -> Any:
    """Return ``value`` after checking that it is an instance of one of ``kinds``; their ADVICE ends the message."""
    if not isinstance(value, kinds):
        advice = next((a for k in (type(value), *kinds) if (a := getattr(k, "ADVICE", ""))), "")
        wanted = " or ".join(k.__name__ for k in kinds)
        raise SettingError(f"{name} must be of {wanted}, got {shown(value)}{': ' if advice else ''}{advice}")
    return value


def _split(annotation: str, at: str) -> list[str]:
    """Split ``annotation`` at each ``at`` that stands outside of brackets."""
    parts, depth, start = [], 0, 0
    for i, letter in enumerate(annotation):
        depth += (letter == "[") - (letter == "]")
        if letter == at and depth == 0:
            parts.append(annotation[start:i])
            start = i + 1
    return [*parts, annotation[start:]]


def _is_number(value: Any) -> bool:
    """Whether ``value`` is an array without axes, which has an ``__iter__`` that fails."""
    return isinstance(value, np.ndarray | np.generic) and value.ndim == 0
