"""Errors that the library raises on purpose, under one base class.

Messages say *what* was wrong, what was *got*, what was *expected* and what to *do*. Each class also derives from the
builtin that a caller would guess, so ``except ValueError`` keeps working.
"""

from __future__ import annotations


class ControlRnnError(Exception):
    """Base class of all errors raised by controlrnn, plants and mpc."""


class ShapeError(ControlRnnError, ValueError):
    """An array has the wrong number of axes or the wrong length along one."""


class DataError(ControlRnnError, ValueError):
    """Data are unusable: not finite, too short, inconsistent between records."""


class SettingError(ControlRnnError, ValueError):
    """An argument has a wrong type, or a value for which the result would be meaningless."""


class MissingDataError(ControlRnnError, FileNotFoundError):
    """A data file that the user has to supply was not found."""


class FileFormatError(ControlRnnError, ValueError):
    """A file is not what it claims to be: wrong kind, unknown version, damaged or altered content."""


class ForeignPackageError(ControlRnnError, ImportError):
    """Another package has the name of one of ours, `mpc` or `plants`, and hides it."""


class StorageError(ControlRnnError, OSError):
    """A file cannot be read or written: no permission, disk full, a folder in its place; the message says which."""


class SignatureError(ControlRnnError, ValueError):
    """A folder differs from what was signed, or was not signed by the trusted key."""


class TrainingError(ControlRnnError, RuntimeError):
    """Training cannot go on: the loss is not finite from the very first step, or a checkpoint does not fit."""


class ClusterError(ControlRnnError, RuntimeError):
    """The scheduler or the workers of a cluster are gone, or run other code than this process."""


class UnreachableError(ControlRnnError, ConnectionError):
    """A server cannot be reached, or does not hold what is asked of it."""


class InfeasibleError(ControlRnnError, ValueError):
    """Limits contradict each other, so that no controller could satisfy them."""


class CertificationError(ControlRnnError, RuntimeError):
    """A claim could not be proven. It may still be true; it must not be used.

    Attributes:
        status: The solver's status in the solver's words, or "" where no solver took part.
        margin: The margin reached (negative or zero: violated), or None where none was computed.
    """

    def __init__(self, message: str, *, status: str = "", margin: float | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.margin = margin
