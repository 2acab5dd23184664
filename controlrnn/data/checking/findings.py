"""Findings: one thing that the records show, with what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

from controlrnn.checks import Choice


class Level(Choice):
    """Weight of a finding."""

    NOTE = "note"
    """Good to know."""
    WARNING = "warning"
    """A model will be worse for it, or wrong where nobody looks."""
    FAULT = "fault"
    """No model should be made before this is mended."""


@dataclass(frozen=True)
class Finding:
    """One thing that the records show.

    Args:
        level: Its weight.
        where: The channel or direction.
        what: What is found, with numbers.
        advice: What to do; "" where there is nothing to do.
    """

    level: Level
    where: str
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.level}: {self.where} {self.what}" + (f": {self.advice}" if self.advice else "")
