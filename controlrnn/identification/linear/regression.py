"""Functions shared by the linear methods: scaling, realisation as a `LureSystem` without neurons, checks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from controlrnn.checks import Array
from controlrnn.data import Scaler, Timing, Trajectory
from controlrnn.data.sampling import all_same_dt
from controlrnn.errors import DataError, SettingError
from controlrnn.systems import LureSystem


def scalers(records: Sequence[Trajectory]) -> tuple[Scaler, Scaler]:
    """Scalers of inputs and outputs, fitted to all records together."""
    return Scaler.fit([r.u for r in records]), Scaler.fit([r.y for r in records])


def checked(records: Iterable[Trajectory]) -> tuple[Trajectory, ...]:
    """Return the records as a tuple after checking that there is at least one and that they belong together."""
    records = tuple(records)
    if not records:
        raise DataError("linear identification needs at least one record, got none")
    if len({(r.nu, r.ny) for r in records}) != 1 or not all_same_dt(r.dt for r in records):
        raise DataError(f"records must share nu, ny and dt, got {sorted({(r.nu, r.ny, r.dt) for r in records})}")
    return records


def answers_late(records: Sequence[Trajectory], strictly_proper: bool | None) -> bool:
    """Whether a model without feedthrough is to be identified: as asked for, else if u[t] acts only after y[t].

    Raises:
        SettingError: A feedthrough is asked for, but u[t] acts only after y[t] was measured.
    """
    first = any(r.timing is Timing.MEASURED_FIRST for r in records)
    if first and strictly_proper is False:
        raise SettingError(
            "y[t] cannot answer to u[t], which acts after it was measured (timing='measured_first'): leave the "
            "feedthrough out and give the model nu more states, or say timing='input_first' if the records are so"
        )
    return first if strictly_proper is None else strictly_proper


def lti(
    A: Array, B: Array, C: Array, D: Array, dt: float, *, bx: Array | None = None, by: Array | None = None
) -> LureSystem:
    """Make the linear system x+ = A x + B u + bx, y = C x + D u + by as a frozen system without neurons."""
    (nx, nu), ny = B.shape, len(C)
    return LureSystem(
        A=A, B1=np.zeros((nx, 0)), B2=B, bx=np.zeros(nx) if bx is None else bx,
        C1=np.zeros((0, nx)), D11=np.zeros((0, 0)), D12=np.zeros((0, nu)), bv=np.zeros(0),
        C2=C, D21=np.zeros((ny, 0)), D22=D, by=np.zeros(ny) if by is None else by, layers=(), dt=dt,
    )  # fmt: skip
