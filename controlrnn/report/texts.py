"""Texts of pages: what does not print is replaced, so that no name can hide or turn what stands beside it."""

from __future__ import annotations

INSTEAD = "\N{REPLACEMENT CHARACTER}"


def readable(text: str) -> str:
    """A text of which every character can be seen; line breaks stay.

    Control characters, marks that turn the direction of writing, and halves of characters are replaced: names of
    channels and records come from files, and may come from anyone.

    Args:
        text: Any text.
    """
    return "".join(c if c.isprintable() or c == "\n" else INSTEAD for c in text)
