"""Base class of all certificates: proof for one frozen system without a solver, summary, saving and loading."""

from __future__ import annotations

import os
import platform
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import wraps
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, ClassVar, ParamSpec, Self, TypeVar

import numpy as np

from controlrnn import __version__
from controlrnn.certification.proof.arithmetic.enclosure import arithmetic_is_ieee
from controlrnn.certification.proof.slopes import Box
from controlrnn.checks import Array, Choice
from controlrnn.errors import CertificationError, ControlRnnError
from controlrnn.records import (
    Digest,
    Exactly,
    Number,
    Numbers,
    Part,
    Schema,
    Stored,
    TableOf,
    Text,
    Value,
    load_one_of,
    restoring,
)
from controlrnn.systems import System
from controlrnn.typed import typed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMAT_VERSION = 2
LONGEST_METHOD = 200  # characters of what a certificate says about how it was found
ZERO = ("N", "nu", "nv", "m", "p")  # lengths that may be zero: horizon, inputs, neurons, channels that differ, shares
# An issuer proves with more room than a verifier needs, who may round differently and owes no slack.
PROOF_ROOM = 8.0
P = ParamSpec("P")
R = TypeVar("R")
_REMEDY = (
    "bring radii, metric and scales nearer to the sizes of states, inputs and outputs, measure these in other units, "
    "or shorten the horizon"
)
CERTIFICATE_KINDS: dict[str, type[Certificate]] = {}


class Rigour(Choice):
    """Arithmetic in which a certificate is proven again."""

    FLOAT64 = "float64"
    """Rounding is bounded: milliseconds."""
    BALL = "ball"
    """Balls of many bits, by other code (`controlrnn.certification.ball`): seconds; needs ``controlrnn[audit]``."""


@dataclass(frozen=True, kw_only=True, eq=False)
@typed(stored=False)
class Certificate(Stored, ABC):
    """A proven statement about one frozen system.

    Args:
        system_digest: SHA-256 of the system, `LureSystem.digest`.
        method: How the multipliers were found; the proof does not depend on it.
        solver_status: The solver's own word, "" where none took part.
        margin: Smallest relative pivot of the proof, > 0.
        versions: Versions of what made it.
    """

    KIND: ClassVar[str]
    EXECUTION: ClassVar[str] = "what execution in floating point adds: execution_error"
    UNITS: ClassVar[dict[str, str]] = {}  # of the claim's numbers, stored with them for whoever reads the file

    system_digest: str
    method: str
    solver_status: str
    margin: float
    versions: dict[str, str]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        CERTIFICATE_KINDS[cls.KIND] = cls

    def verify(self, system: System, *, rigour: Rigour | str = Rigour.FLOAT64) -> float:
        """Prove the statement again for ``system``, without a solver.

        Args:
            system: The frozen system that the certificate was made of.
            rigour: In float64 with numpy alone, or in ball arithmetic as a second opinion.

        Returns:
            The margin, > 0.

        Raises:
            SettingError: Another rigour.
            CertificationError: Another system, an altered certificate, or a proof that fails.
            ModuleNotFoundError: Ball arithmetic without python-flint: install ``controlrnn[audit]``.
        """
        if Rigour(rigour) is Rigour.BALL:
            self._check_digest(system)
            from controlrnn.certification.ball import check  # it knows every kind, and needs an extra

            return check(self, system)
        return self._proven(system, 1.0)

    def issue(self, system: System) -> Self:
        """Return this certificate with its margin, once it is proven with room for other orders of the operations.

        Raises:
            CertificationError: As `verify`.
        """
        self._proven(system, PROOF_ROOM)
        # The margin that is stored is the verifier's, without the extra room.
        return replace(self, margin=self.verify(system))

    def _check_digest(self, system: System) -> None:
        """Raise a CertificationError if the certificate was made of another system."""
        if system.digest != str(self.system_digest):
            raise CertificationError(
                f"the certificate speaks of system {str(self.system_digest)[:12]}, got {system.digest[:12]}: "
                "the weights differ, so nothing is proven; certify this system, or load the one that was certified "
                "(a model that is frozen again on another processor differs in its last bits)"
            )

    def _proven(self, system: System, room: float) -> float:
        """Prove the claim with ``room`` and return the margin; whatever goes wrong becomes a CertificationError."""
        self._check_digest(system)
        if not arithmetic_is_ieee():
            raise CertificationError(
                "nothing can be proven: this thread does not round to nearest with subnormal numbers as IEEE 754 asks; "
                "some library switched that off"
            )
        try:
            with np.errstate(all="ignore"):  # what overflows refuses, see `proof.enclosure`
                margin = float(self._prove(system, room))
        except CertificationError:
            raise
        except (ControlRnnError, ArithmeticError, AttributeError, IndexError, TypeError, ValueError) as error:
            raise CertificationError(f"the certificate makes no sense: {error}; certify again") from error
        if not margin > 0:
            raise CertificationError("the proof fails: certify again", margin=margin)
        return margin

    @abstractmethod
    def _prove(self, system: Any, room: float) -> float:
        """Prove the claim and return the margin, or raise a CertificationError; ``room``: see `proof.definite`."""

    def summary(self) -> str:
        """Describe the claim in words and numbers, and the arithmetic in which it holds."""
        return f"{self._claim()} Holds in real arithmetic; {self.EXECUTION}."

    @abstractmethod
    def _claim(self) -> str:
        """Describe the claim in words and numbers."""

    @abstractmethod
    def plot(self, labels: Sequence[str] = ()) -> Figure:
        """Draw the claimed bounds.

        Args:
            labels: Names of the channels that the figure tells apart, outputs or inputs.
        """

    @property
    def units(self) -> dict[str, str]:
        """Units of the claim's numbers, by field."""
        return dict(self.UNITS)

    @classmethod
    def _fields(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Constructor arguments from the values of a record, which also holds the units."""
        return {name: value for name, value in values.items() if name != "units"}


def in_words(search: Callable[P, R]) -> Callable[P, R]:
    """Decorate a search: where its numbers overflow or vanish it refuses with a remedy, and numpy does not warn."""

    @wraps(search)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            with np.errstate(all="ignore"):
                return search(*args, **kwargs)
        except (np.linalg.LinAlgError, OverflowError, ZeroDivisionError) as error:
            raise CertificationError(
                f"nothing could be proven: numbers overflow or vanish in float64 ({error}): {_REMEDY}"
            ) from error
        except CertificationError as error:
            if any(sign in str(error) for sign in (":", ";", ". ")):  # it says what to do
                raise
            raise CertificationError(f"{error}: {_REMEDY}", margin=error.margin, status=error.status) from error

    return wrapper


@typed()
def load_certificate(path: str | os.PathLike[str]) -> Certificate:
    """Read a certificate of any kind; nothing is proven until its `verify` has passed.

    Args:
        path: A file that a certificate's `save` wrote.

    Raises:
        FileFormatError: Not a certificate, or its content was altered.
    """
    schemas = {kind: one.SCHEMA for kind, one in CERTIFICATE_KINDS.items()}
    kind, arrays, meta = load_one_of(path, schemas, "a certificate")
    with restoring(path):
        return CERTIFICATE_KINDS[kind].from_record(arrays, meta)


def certificate_schema(
    kind: str,
    units: Mapping[str, str],
    *,
    arrays: Mapping[str, Numbers],
    meta: Mapping[str, Value],
    parts: Mapping[str, Part] | None = None,
) -> Schema:
    """Build the schema of a certificate's record: the common fields and those of the claim.

    Args:
        kind: `Certificate.KIND`.
        units: `Certificate.UNITS`.
        arrays: Arrays of the claim and of its proof.
        meta: Numbers of the claim.
        parts: Certificates and multipliers inside of it.
    """
    common: dict[str, Value] = {
        "system_digest": Digest(),
        "method": Text(LONGEST_METHOD),
        "solver_status": Text(200),
        "margin": Number(above=0.0),
        "versions": TableOf(Text(100)),
        "units": Exactly(dict(units)),
    }
    return Schema(kind, FORMAT_VERSION, arrays=arrays, meta={**common, **meta}, parts=parts or {}, zero=ZERO)


def boxes_of(inputs: Array, states: Array) -> tuple[Box, Box] | None:
    """Convert stored ends to the boxes in which a certificate holds; None where it holds everywhere."""
    if inputs.shape == states.shape == (2, 0):
        return None
    if len(inputs) != 2 or len(states) != 2:
        raise CertificationError("boxes must have two ends, both of inputs and states: the certificate was altered")
    return (inputs[0], inputs[1]), (states[0], states[1])


def current_versions() -> dict[str, str]:
    """Versions of the packages that a certificate records."""
    return {
        "controlrnn": __version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": version("scipy"),
        "cvxpy": version("cvxpy"),
    }


def bounds_at_a_glance(bounds: Array) -> list[str]:
    """Format the bounds (N + 1, ny) at some steps of the horizon as lines of text."""
    last = len(bounds) - 1
    return [
        f"  step {k:4d}: " + ", ".join(f"{b:.4g}" for b in bounds[k]) for k in sorted({0, last // 4, last // 2, last})
    ]
