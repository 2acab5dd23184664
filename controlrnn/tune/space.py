"""Dimensions of a space of settings: real numbers, whole numbers, choices."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from controlrnn.errors import SettingError
from controlrnn.typed import typed


class Dimension(ABC):
    """Base class of the dimensions: values that one setting may have."""

    @abstractmethod
    def suggested(self, trial: Any, name: str) -> Any:
        """Value that Optuna suggests.

        Args:
            trial: An ``optuna.Trial``.
            name: Name of the setting.
        """

    @abstractmethod
    def described(self) -> list[Any]:
        """The dimension as a JSON value, by which a stored search is known again."""


@dataclass(frozen=True)
@typed()
class Real(Dimension):
    """A real number.

    Args:
        low: Least value.
        high: Largest value.
        log: Whether its logarithm is searched.
    """

    low: float
    high: float
    log: bool = False

    def __post_init__(self) -> None:
        _ordered(self.low, self.high, self.log)

    def suggested(self, trial: Any, name: str) -> float:
        """Value that Optuna suggests; arguments as `Dimension.suggested`."""
        return float(trial.suggest_float(name, self.low, self.high, log=self.log))

    def described(self) -> list[Any]:
        """The dimension as a JSON value."""
        return ["real", self.low, self.high, self.log]


@dataclass(frozen=True)
@typed()
class Whole(Dimension):
    """A whole number.

    Args:
        low: Least value.
        high: Largest value.
        log: Whether its logarithm is searched.
    """

    low: int
    high: int
    log: bool = False

    def __post_init__(self) -> None:
        _ordered(self.low, self.high, self.log)

    def suggested(self, trial: Any, name: str) -> int:
        """Value that Optuna suggests; arguments as `Dimension.suggested`."""
        return int(trial.suggest_int(name, self.low, self.high, log=self.log))

    def described(self) -> list[Any]:
        """The dimension as a JSON value."""
        return ["whole", self.low, self.high, self.log]


@dataclass(frozen=True)
@typed()
class Choice(Dimension):
    """One of several names, for instance of models.

    Args:
        of: The names.
    """

    of: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.of or len(set(self.of)) < len(self.of):
            raise SettingError(f"a Choice must be of different names, at least one, got {self.of}")

    def suggested(self, trial: Any, name: str) -> str:
        """Value that Optuna suggests; arguments as `Dimension.suggested`."""
        return str(trial.suggest_categorical(name, self.of))

    def described(self) -> list[Any]:
        """The dimension as a JSON value."""
        return ["choice", *self.of]


def _ordered(low: float, high: float, log: bool) -> None:
    if not low <= high:
        raise SettingError(f"low must be <= high, got {low} and {high}")
    if log and low <= 0:
        raise SettingError(f"low must be > 0 where a logarithm is searched, got {low}")
