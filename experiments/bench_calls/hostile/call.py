"""A valid call of a public function, and short ways to write it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.bench_calls.hostile.parts import NU, fields_of

BOX = (-np.ones(NU), np.ones(NU))


QUICK = 1.0


@dataclass(frozen=True)
class Call:
    """A valid call of a public function.

    Args:
        name: Dotted public name.
        function: The function called; it leaves no state behind.
        given: Its arguments by name, all valid.
        weight: Relative number of calls: fewer where a call takes long.
        spoils: Names of the arguments to spoil; all of ``given`` when left out.
        infinite: Names of fields of the result that may hold NaN or infinity by their documentation; "" is the result.
        varies: Names of fields of the result that differ from call to call.
    """

    name: str
    function: Callable[..., Any]
    given: Mapping[str, Any]
    weight: float = QUICK
    spoils: tuple[str, ...] = ()
    infinite: frozenset[str] = frozenset()
    varies: frozenset[str] = frozenset()

    @property
    def arguments(self) -> tuple[str, ...]:
        """Names of the arguments that may be spoilt."""
        return self.spoils or tuple(self.given)


def call(name: str, function: Callable[..., Any], weight: float = QUICK, /, **given: Any) -> Call:
    """Make a `Call`; its options are written with a leading underscore, to tell them from arguments."""
    infinite, varies = frozenset(given.pop("_infinite", ())), frozenset(given.pop("_varies", ()))
    return Call(name, function, given, weight, tuple(given.pop("_spoils", ())), infinite, varies)


def again(name: str, instance: Any, /, **options: Any) -> Call:
    """Call that makes a dataclass again from the fields of an instance."""
    return call(name, type(instance), **fields_of(instance), **options)


def first(function: Callable[..., Any], then: Callable[[Any], Any]) -> Callable[..., Any]:
    """Compose two functions: ``then`` of what ``function`` returns, with the signature of ``function``."""

    def both(**given: Any) -> Any:
        return then(function(**given))

    return both
