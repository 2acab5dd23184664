"""A named, bounded, physical quantity: what a channel of an array means."""

from __future__ import annotations

import math
from dataclasses import dataclass

from controlrnn.errors import InfeasibleError, SettingError


@dataclass(frozen=True)
class Signal:
    """One input or output channel.

    Args:
        name: Short name, e.g. ``"level 1"``.
        unit: Physical unit, e.g. ``"m"``; ``""`` for a dimensionless signal.
        lower: Lower limit in that unit; minus infinity where there is none.
        upper: Upper limit in that unit; infinity where there is none.

    Raises:
        SettingError: A limit is NaN.
        InfeasibleError: The limits leave no room between them.
    """

    name: str
    unit: str = ""
    lower: float = -math.inf
    upper: float = math.inf

    def __post_init__(self) -> None:
        if math.isnan(self.lower) or math.isnan(self.upper):
            raise SettingError(f"limits of signal {self.name!r} must be numbers, got [{self.lower}, {self.upper}]")
        if not self.lower < self.upper:
            raise InfeasibleError(
                f"limits of {self.name!r} must satisfy lower < upper, got [{self.lower}, {self.upper}]: swap them?"
            )

    @property
    def label(self) -> str:
        """Name with unit, for axes and tables."""
        return f"{self.name} [{self.unit}]" if self.unit else self.name
