"""Signals: the name, unit and limits of a channel of an array."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from controlrnn.errors import InfeasibleError, SettingError
from controlrnn.records import Number, Schema, Stored, Text
from controlrnn.records.stored import Arrays, Meta
from controlrnn.typed import typed


@dataclass(frozen=True)
@typed(infinite=("lower", "upper"))
class Signal(Stored):
    """Name, unit and limits of one input or output channel.

    Args:
        name: Short name, e.g. ``"level 1"``.
        unit: Physical unit, e.g. ``"m"``; ``""`` for a dimensionless signal.
        lower: Lower limit in that unit; minus infinity where there is none.
        upper: Upper limit in that unit; infinity where there is none.

    Raises:
        SettingError: A limit is NaN.
        InfeasibleError: The limits leave no room between them.
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "signal", 1, meta={"name": Text(), "unit": Text(), "lower": Number(none=True), "upper": Number(none=True)}
    )

    ADVICE: ClassVar[str] = 'write Signal("pump", "V", 0.0, 10.0), with the unit and the limits that are known'

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

    def record(self) -> tuple[Arrays, Meta]:
        """Arrays and JSON values of this signal; JSON has no infinity, so an absent limit is null."""
        arrays, meta = super().record()
        return arrays, {n: None if isinstance(v, float) and math.isinf(v) else v for n, v in meta.items()}

    @classmethod
    def _fields(cls, values: Meta) -> Meta:
        return {name: value for name, value in values.items() if value is not None}
