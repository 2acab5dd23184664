"""ARX models by least squares, the simplest linear baseline.

    y_t = sum_{k=1..na} A_k y_{t-k} + sum_{k=0 or 1..nb} B_k u_{t-k} + c + e_t

(Ljung, "System Identification", 2nd ed., section 4.2.) Estimates are consistent if e is white; for a free run the
orders are therefore chosen by the free-run error on validation records, not by the equation error. The realisation is
the block observer form x_k+ = x_{k+1} + A_k x_1 + (B_k + A_k B_0) u, y = x_1 + B_0 u, with max(na, nb) ny states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from controlrnn.checks import Array, count, read_only
from controlrnn.data import Scaler, Trajectory
from controlrnn.data.checking.excitation import moved_directions
from controlrnn.errors import DataError
from controlrnn.identification.linear.regression import answers_late, checked, lti, scalers
from controlrnn.identification.scores.free_run import free_run, initial_states
from controlrnn.identification.scores.metrics import rmse
from controlrnn.systems import LureSystem
from controlrnn.typed import typed


@dataclass(frozen=True, eq=False)
@typed()
class ArxModel:
    """ARX model: its coefficients in scaled coordinates, and its system in physical units.

    Args:
        A: Coefficients of past outputs, shape (na, ny, ny).
        B: Coefficients of inputs, shape (nb + 1, ny, nu); ``B[0]`` is zero for a strictly proper model.
        c: Constant, shape (ny,).
        inputs: Scaler of the inputs that the coefficients refer to.
        outputs: Scaler of the outputs.
        dt: Sample time [s].
    """

    A: Array
    B: Array
    c: Array
    inputs: Scaler
    outputs: Scaler
    dt: float

    def __post_init__(self) -> None:
        for name in ("A", "B", "c"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    @property
    def na(self) -> int:
        """Number of past outputs."""
        return len(self.A)

    @property
    def nb(self) -> int:
        """Number of past inputs."""
        return len(self.B) - 1

    @property
    def system(self) -> LureSystem:
        """Frozen system in physical units, in block observer form."""
        n, (ny, nu) = max(self.na, self.nb), self.B.shape[1:]
        A, B, C = np.zeros((n * ny, n * ny)), np.zeros((n * ny, nu)), np.zeros((ny, n * ny))
        D, bx = self.B[0], np.zeros(n * ny)
        A[:-ny, ny:] = np.eye((n - 1) * ny)
        for k in range(n):
            block = slice(k * ny, (k + 1) * ny)
            if k < self.na:
                A[block, :ny] += self.A[k]
                B[block] += self.A[k] @ D
            if k < self.nb:
                B[block] += self.B[k + 1]
        C[:, :ny], bx[:ny] = np.eye(ny), self.c
        return lti(A, B, C, D, self.dt, bx=bx).scaled(self.inputs, self.outputs)


@typed()
def identify_arx(records: Sequence[Trajectory], na: int, nb: int, *, strictly_proper: bool | None = None) -> ArxModel:
    """Fit an ARX model by least squares over all records.

    Args:
        records: One or more records of any lengths.
        na: Number of past outputs, at least 1.
        nb: Number of past inputs, at least 1.
        strictly_proper: Whether y[t] does not depend on u[t]; as in `identify_subspace` when left out.

    Raises:
        DataError: Fewer equations than coefficients.
        SettingError: An order is not a positive number.
    """
    records = checked(records)
    strictly_proper = answers_late(records, strictly_proper)
    na, nb = count("na", na), count("nb", nb)
    inputs, outputs = scalers(records)
    moved = moved_directions(records, inputs)  # along all others B is zero
    ny, nu, lag, first = records[0].ny, moved.shape[1], max(na, nb), 1 if strictly_proper else 0
    regressors, targets = [], []
    for record in records:
        u, y, T = inputs.apply(record.u) @ moved, outputs.apply_measured(record.y), len(record)
        if lag >= T:
            continue
        # Row t - lag holds the regressors of y[t].
        past = [y[lag - k : T - k] for k in range(1, na + 1)] + [u[lag - k : T - k] for k in range(first, nb + 1)]
        rows = np.concatenate([*past, np.ones((T - lag, 1))], axis=1)
        complete = ~np.isnan(np.concatenate([rows, y[lag:]], axis=1)).any(axis=1)  # equations without a missing sample
        regressors.append(rows[complete])
        targets.append(y[lag:][complete])
    equations, unknowns = sum(map(len, targets)), na * ny + (nb + 1 - first) * nu + 1
    if equations < unknowns:
        raise DataError(
            f"ARX({na}, {nb}) needs at least {unknowns} samples after the first {lag} of each record, got {equations}: "
            "lower the orders or record more"
        )
    theta = np.linalg.lstsq(np.concatenate(regressors), np.concatenate(targets), rcond=None)[0].T
    A = theta[:, : na * ny].reshape(ny, na, ny).transpose(1, 0, 2)
    B = theta[:, na * ny : -1].reshape(ny, -1, nu).transpose(1, 0, 2)
    B = np.concatenate([np.zeros((first, ny, nu)), B]) @ moved.T
    return ArxModel(A, B, theta[:, -1], inputs, outputs, records[0].dt)


@typed()
def select_arx(
    train: Sequence[Trajectory],
    validation: Sequence[Trajectory],
    *,
    orders: Sequence[int] = range(1, 9),
    skip: int = 0,
    strictly_proper: bool | None = None,
) -> ArxModel:
    """Fit ARX models of several orders na = nb and return the one whose free run fits the validation records best.

    Args:
        train: Records to fit.
        validation: Records to choose by.
        orders: Candidate orders.
        skip: Samples at the start of each validation record that do not count; the initial state is estimated from them
            (0: it is zero).
        strictly_proper: Whether y[t] does not depend on u[t]; as in `identify_subspace` when left out.

    Raises:
        DataError: No order gives a finite simulation.
    """
    train, validation = checked(train), checked(validation)
    best, least = None, np.inf
    for order in orders:
        model = identify_arx(train, order, order, strictly_proper=strictly_proper)
        y, _ = free_run(model.system, validation, initial_states(model.system, validation, skip))
        if not all(np.isfinite(run).all() for run in y):
            continue
        error = float(np.mean(rmse([r.y for r in validation], y, skip=skip) / model.outputs.scale))
        if error < least:
            best, least = model, error
    if best is None:
        raise DataError(
            f"every ARX model of the orders {list(orders)} is unstable in a free run: use identify_subspace instead"
        )
    return best
