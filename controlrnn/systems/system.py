"""Protocol that all systems fulfil, for simulation, export and identification."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Protocol, Self

from numpy.typing import NDArray

from controlrnn.data.scaling import Scaler
from controlrnn.records import Schema
from controlrnn.systems.ops import Value


class System(Protocol):
    """Protocol of discrete-time systems with states x, inputs u and outputs y: `LureSystem` and `GatedSystem`."""

    KIND: ClassVar[str]
    SCHEMA: ClassVar[Schema]

    @property
    def nx(self) -> int:
        """Number of states."""

    @property
    def nu(self) -> int:
        """Number of inputs."""

    @property
    def ny(self) -> int:
        """Number of outputs."""

    @property
    def dt(self) -> float:
        """Sample time [s]."""

    @property
    def is_frozen(self) -> bool:
        """Whether the matrices are read-only numpy arrays."""

    @property
    def has_feedthrough(self) -> bool:
        """Whether ``y[t]`` depends on ``u[t]``."""

    @property
    def digest(self) -> str:
        """SHA-256 of everything that defines a frozen system."""

    def step(self, x: Value, u: Value) -> Value:
        """Next state (..., nx) from state x (..., nx) and input u (..., nu)."""

    def output(self, x: Value, u: Value) -> Value:
        """Output (..., ny) at state x (..., nx) and input u (..., nu)."""

    def simulate(self, u: Value, x0: Value = None) -> tuple[Value, Value]:
        """Outputs (..., T, ny) and states (..., T + 1, nx) of a free run."""

    def scaled(self, inputs: Scaler, outputs: Scaler) -> Self:
        """Convert a frozen system of scaled signals to physical units."""

    def frozen(self) -> Self:
        """Copy of the system with float64 arrays instead of tensors."""

    def record(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON values that define a frozen system."""

    @classmethod
    def from_record(cls, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]) -> Self:
        """Restore a system from what `record` returned."""
