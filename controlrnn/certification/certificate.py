"""What all certificates share: they name the system they speak of, are proven without a solver, and save themselves."""

from __future__ import annotations

import os
import platform
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from controlrnn import __version__, records
from controlrnn.checks import Array
from controlrnn.errors import CertificationError, FileFormatError
from controlrnn.systems import System

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT_VERSION = 1
_KINDS: dict[str, type[Certificate]] = {}


@dataclass(frozen=True, kw_only=True, eq=False)
class Certificate(ABC):
    """A proven statement about one frozen system.

    Args:
        system_digest: SHA-256 of the system, `LureSystem.digest`.
        method: How the multipliers were found; the proof does not depend on it.
        solver_status: The solver's own word, "" where none took part.
        margin: Smallest relative pivot of the proof, > 0.
        versions: Versions of what made it.
    """

    KIND: ClassVar[str]
    UNITS: ClassVar[dict[str, str]] = {}  # of the claim's numbers, stored with them for whoever reads the file

    system_digest: str
    method: str
    solver_status: str
    margin: float
    versions: dict[str, str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        _KINDS[cls.KIND] = cls

    def verify(self, system: System) -> float:
        """Prove the statement again for ``system``, with numpy alone and in float64.

        Returns:
            The margin, > 0.

        Raises:
            CertificationError: Another system, an altered certificate, or a proof that fails.
        """
        if system.digest != self.system_digest:
            raise CertificationError(
                f"the certificate speaks of system {self.system_digest[:12]}, got {system.digest[:12]}: "
                "the weights differ, so nothing is proven; certify this system"
            )
        return self._prove(system)

    @abstractmethod
    def _prove(self, system: Any) -> float:
        """The proof itself; raises CertificationError where it fails."""

    @abstractmethod
    def summary(self) -> str:
        """What is claimed, in words and numbers."""

    @abstractmethod
    def plot(self, labels: Sequence[str] = ()) -> Figure:
        """Draw what is claimed.

        Args:
            labels: Names of the channels that the figure tells apart, outputs or inputs.
        """

    @abstractmethod
    def _arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays to store."""

    @abstractmethod
    def _meta(self) -> dict[str, Any]:
        """The JSON values to store, beside those of this class."""

    @classmethod
    @abstractmethod
    def _restore(cls, arrays: dict[str, NDArray[Any]], meta: dict[str, Any], common: dict[str, Any]) -> Certificate:
        """The inverse of `_arrays` and `_meta`."""

    @property
    def digest(self) -> str:
        """SHA-256 of the certificate's content."""
        return records.digest(self._arrays(), self._all_meta())

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a ``.npz`` record (atomic, no pickle)."""
        records.save_record(path, self.KIND, FORMAT_VERSION, self._arrays(), self._all_meta())

    def _all_meta(self) -> dict[str, Any]:
        common = {
            "system_digest": self.system_digest,
            "method": self.method,
            "solver_status": self.solver_status,
            "margin": self.margin,
            "versions": dict(self.versions),
        }
        return {"common": common, "claim": self._meta(), "units": dict(self.UNITS)}


def load_certificate(path: str | os.PathLike[str]) -> Certificate:
    """Read a certificate of any kind. It is a claim until its `verify` has passed.

    Args:
        path: A file that a certificate's `save` wrote.

    Raises:
        FileFormatError: Not a certificate, or its content was altered.
    """
    kind, arrays, meta = records.peek_record(path, FORMAT_VERSION)
    if kind not in _KINDS:
        raise FileFormatError(f"{path} must hold a certificate ({', '.join(sorted(_KINDS))}), got a {kind!r}")
    try:
        return _KINDS[kind]._restore(arrays, meta["claim"], meta["common"])
    except (KeyError, TypeError, ValueError) as error:
        raise FileFormatError(f"{path} does not hold a complete {kind} ({error}): certify again") from error


def current_versions() -> dict[str, str]:
    """Versions that a certificate records."""
    return {
        "controlrnn": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": version("scipy"),
        "cvxpy": version("cvxpy"),
    }


def bounds_at_a_glance(bounds: Array) -> list[str]:
    """Lines that name the bounds (N + 1, ny) at some steps of the horizon."""
    last = len(bounds) - 1
    return [
        f"  step {k:4d}: " + ", ".join(f"{b:.4g}" for b in bounds[k]) for k in sorted({0, last // 4, last // 2, last})
    ]
