"""Exit codes of the command: scripts can tell what went wrong without reading texts."""

from __future__ import annotations

from enum import IntEnum

from controlrnn import errors


class Exit(IntEnum):
    """Exit code; `WORDS` says what each means."""

    DONE = 0
    BUG = 1
    USAGE = 2
    DATA = 3
    NOT_PROVEN = 4
    NO_ROOM = 5
    LIMITS = 6
    INTERRUPTED = 130


WORDS = {
    Exit.DONE: "done, and what was to be verified holds",
    Exit.BUG: "an error that nobody expected: please report it",
    Exit.USAGE: "the command line or the road file is wrong",
    Exit.DATA: "data or files cannot be used",
    Exit.NOT_PROVEN: "a certificate was not found, or does not hold",
    Exit.NO_ROOM: "the tightening leaves nothing between the limits",
    Exit.LIMITS: "simulated loops with tightened limits left them",
    Exit.INTERRUPTED: "interrupted; the same command goes on from there",
}

# The first class that fits decides.
_CODES: tuple[tuple[type[errors.ControlRnnError], Exit], ...] = (
    (errors.CertificationError, Exit.NOT_PROVEN),
    (errors.SignatureError, Exit.NOT_PROVEN),
    (errors.InfeasibleError, Exit.NO_ROOM),
    (errors.MissingDataError, Exit.DATA),
    (errors.FileFormatError, Exit.DATA),
    (errors.StorageError, Exit.DATA),
    (errors.DataError, Exit.DATA),
    (errors.ShapeError, Exit.DATA),
    (errors.ControlRnnError, Exit.USAGE),
)


def exit_of(error: errors.ControlRnnError) -> Exit:
    """Exit code of an error.

    Args:
        error: The error.
    """
    return next(code for kind, code in _CODES if isinstance(error, kind))


def table() -> str:
    """Exit codes in words, for the help."""
    return "; ".join(f"{code.value}: {words}" for code, words in WORDS.items())
