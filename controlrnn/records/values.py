"""Declarations of the JSON values of a record, and the comparison of shapes whose lengths are letters."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from controlrnn.errors import FileFormatError

Sizes = dict[str, int]
NAMES = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ \-]{0,63}")  # names of the entries in a table
ANYTHING = re.compile(r"(?s).*")
_HEX = re.compile("[0-9a-f]{64}")
_MOST = 2**31  # largest count


class Value(Protocol):
    """Declaration of a JSON value of some kind."""

    def check(self, where: str, value: Any, sizes: Sizes) -> None:
        """Refuse ``value``, which is at ``where`` in the record, unless it is of this kind."""


@dataclass(frozen=True)
class Number:
    """Declaration of a finite number, not a truth value.

    Args:
        least: Smallest value allowed.
        most: Largest value allowed.
        above: The value must be larger.
        below: The value must be smaller.
        none: Whether null is allowed instead.
    """

    least: float = -math.inf
    most: float = math.inf
    above: float = -math.inf
    below: float = math.inf
    none: bool = False

    def check(self, where: str, value: Any, sizes: Sizes) -> None:  # noqa: ARG002
        """Refuse a value that is no finite number or out of range."""
        if value is None and self.none:
            return
        if type(value) not in (int, float) or not math.isfinite(value):
            raise wrong(where, "a finite number", value)
        if not (self.least <= value <= self.most and self.above < value < self.below):
            raise wrong(where, range_of(self), value)


@dataclass(frozen=True)
class Count:
    """Declaration of a whole number, which may be the value of a letter in shapes.

    Args:
        least: Smallest value allowed.
        most: Largest value allowed.
        size: The letter; none when left out.
        none: Whether null is allowed instead.
    """

    least: int = 0
    most: int = _MOST
    size: str = ""
    none: bool = False

    def check(self, where: str, value: Any, sizes: Sizes) -> None:
        """Refuse a value that is no whole number, out of range, or not what its letter stands for."""
        if value is None and self.none:
            return
        if type(value) is not int or not self.least <= value <= self.most:
            raise wrong(where, f"a whole number from {self.least} to {self.most}", value)
        if self.size and sizes.setdefault(self.size, value) != value:
            raise wrong(where, f"{self.size} = {sizes[self.size]}", value)


@dataclass(frozen=True)
class Exactly:
    """Declaration of the only value allowed.

    Args:
        value: That value.
    """

    value: Any

    def check(self, where: str, value: Any, sizes: Sizes) -> None:  # noqa: ARG002
        """Refuse every other value."""
        if value != self.value:
            raise wrong(where, f"{self.value}", value)


@dataclass(frozen=True)
class Flag:
    """Declaration of a truth value."""

    def check(self, where: str, value: Any, sizes: Sizes) -> None:  # noqa: ARG002
        """Refuse a value other than true and false."""
        if type(value) is not bool:
            raise wrong(where, "true or false", value)


@dataclass(frozen=True)
class Text:
    """Declaration of a text.

    Args:
        most: Largest number of characters.
        choices: The texts allowed; any when left out.
        pattern: Pattern that the whole text must match.
        form: What such a text is, in words, for the message.
        none: Whether null is allowed instead.
    """

    most: int = 10_000
    choices: type[StrEnum] | tuple[str, ...] = ()
    pattern: re.Pattern[str] = ANYTHING
    form: str = "a Unicode text"
    none: bool = False

    def check(self, where: str, value: Any, sizes: Sizes) -> None:  # noqa: ARG002
        """Refuse a value that is no text of the declared form."""
        if value is None and self.none:
            return
        if not isinstance(value, str) or len(value) > self.most:
            raise wrong(where, f"a text of at most {self.most} characters", value)
        choices = [str(choice) for choice in self.choices]
        if choices and value not in choices:
            raise wrong(where, f"one of {', '.join(choices)}", value)
        # Lone surrogates are no Unicode text: they could not be written to a file again.
        if not self.pattern.fullmatch(value) or any(0xD800 <= ord(c) <= 0xDFFF for c in value):
            raise wrong(where, self.form, value)


@dataclass(frozen=True)
class Digest:
    """Declaration of a SHA-256 in hexadecimal digits.

    Args:
        empty: Whether "" is allowed instead.
    """

    empty: bool = False

    def check(self, where: str, value: Any, sizes: Sizes) -> None:  # noqa: ARG002
        """Refuse a value that is not a SHA-256."""
        if not isinstance(value, str) or not (_HEX.fullmatch(value) or (self.empty and not value)):
            raise wrong(where, "a SHA-256 in 64 hexadecimal digits", value)


@dataclass(frozen=True)
class ListOf:
    """Declaration of a list of values of one kind.

    Args:
        of: Declaration of its values.
        length: Its length or the letter for it; any when left out.
        none: Whether null is allowed instead.
    """

    of: Value
    length: int | str = ""
    none: bool = False

    def check(self, where: str, value: Any, sizes: Sizes) -> None:
        """Refuse a value that is no list, or of wrong length or items."""
        if value is None and self.none:
            return
        if not isinstance(value, list):
            raise wrong(where, "a list", value)
        if self.length != "":
            same_shape(where, (len(value),), (self.length,), sizes)
        for i, one in enumerate(value):
            self.of.check(f"{where}[{i}]", one, sizes)


@dataclass(frozen=True)
class TableOf:
    """Declaration of an object (a dictionary) whose values are of one kind.

    Args:
        of: Declaration of its values.
        names: Pattern that a name must match, or all names that are allowed.
        most: Largest number of entries.
    """

    of: Value
    names: re.Pattern[str] | Collection[str] = NAMES
    most: int = 1000

    def check(self, where: str, value: Any, sizes: Sizes) -> None:
        """Refuse a value that is no object, or has unknown names or wrong values."""
        if not isinstance(value, dict) or len(value) > self.most:
            raise wrong(where, f"an object of at most {self.most} entries", value)
        for name, one in value.items():
            known = self.names.fullmatch(name) if isinstance(self.names, re.Pattern) else name in self.names
            if not known:
                raise FileFormatError(f"{where} has an unknown entry {name[:64]!r}")
            self.of.check(f"{where}.{name}", one, sizes)


def fits(got: tuple[int, ...], expected: Sequence[int | str], sizes: Sizes) -> bool:
    """Whether a shape is as expected; if so, letters that were unknown are added to ``sizes``."""
    trial = dict(sizes)
    found = len(got) == len(expected) and all(_solve(e, n, trial) for e, n in zip(expected, got, strict=True))
    if found:
        sizes.update(trial)
    return found


def same_shape(where: str, got: tuple[int, ...], expected: Sequence[int | str], sizes: Sizes) -> None:
    """Refuse a shape that is not as expected."""
    if not fits(got, expected, sizes):
        known = ", ".join(f"{letter} = {n}" for letter, n in sizes.items())
        wanted = ", ".join(str(e) for e in expected) + ("," if len(expected) == 1 else "")
        raise FileFormatError(f"{where} must have shape ({wanted}){f' with {known}' if known else ''}, got {got}")


def _solve(expected: int | str, got: int, sizes: Sizes) -> bool:
    """Whether a length is as expected; a letter that is not known yet is solved for and added to ``sizes``."""
    if isinstance(expected, int):
        return expected == got
    rest, factor, unknown = got, 0, ""  # the equation left to solve: rest = factor * unknown
    for term in expected.split("+"):
        product, letter = 1, ""
        for word in term.split("*"):
            name = word.strip()
            if name.lstrip("-").isdigit():
                product *= int(name)
            elif name in sizes:
                product *= sizes[name]
            else:
                letter = name
        if letter:
            if unknown not in ("", letter):
                raise ValueError(f"{expected} has two unknown lengths: order the schema's arrays otherwise")
            factor, unknown = factor + product, letter
        else:
            rest -= product
    if not unknown:
        return rest == 0
    if factor <= 0 or rest < 0 or rest % factor:
        return False
    sizes[unknown] = rest // factor
    return True


def range_of(kind: Any) -> str:
    """Range of a declaration of numbers in words, for messages."""
    words = [
        f"{sign} {limit:g}"
        for sign, limit, none in (
            (">=", kind.least, -math.inf),
            ("<=", kind.most, math.inf),
            (">", kind.above, -math.inf),
            ("<", kind.below, math.inf),
        )
        if limit != none
    ]
    return " and ".join(words)


def wrong(where: str, expected: str, got: Any) -> FileFormatError:
    """Error of a value at ``where`` that says what was expected and what was got."""
    shown = repr(got) if isinstance(got, int | float | str | bool | None) else type(got).__name__
    return FileFormatError(f"{where} must be {expected}, got {shown[:80]}")
