"""Subspace identification of linear state-space models (past-output MOESP).

Verhaegen, "Identification of the deterministic part of MIMO state space models given in innovations form from
input-output data", Automatica 1994; Van Overschee & De Moor, "N4SID", Automatica 1994. With block Hankel matrices of
future inputs U_f, past data W_p = [U_p; Y_p] and future outputs Y_f of all records side by side, the LQ factorisation

    [1; U_f]   [L11  0    0 ] [Q1]
    [W_p   ] = [L21 L22   0 ] [Q2]        has  range(L32) = range of the extended observability matrix
    [Y_f   ]   [L31 L32 L33 ] [Q3]

for any noise, as long as the inputs are exciting. Its SVD gives the order, C and A; B, D, the initial states and the
output offset follow by linear least squares on the simulated output. The row of ones removes constant offsets.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from controlrnn.checks import Array, count, positive, read_only
from controlrnn.data import Scaler, Trajectory
from controlrnn.data.checking.excitation import moved_directions
from controlrnn.errors import DataError, SettingError
from controlrnn.identification.linear.regression import answers_late, checked, lti, scalers
from controlrnn.kernels import simulate
from controlrnn.systems import LureSystem
from controlrnn.typed import typed

_WHOLE = 0.5  # share of the windows that have to be complete; else missing samples are filled
_ROUNDS = 5


@dataclass(frozen=True, eq=False)
@typed()
class SubspaceModel:
    """Linear model from subspace identification: its matrices in scaled coordinates, its system in physical units.

    Args:
        A: State map, shape (nx, nx).
        B: Input map, shape (nx, nu).
        C: Output map, shape (ny, nx).
        D: Feedthrough, shape (ny, nu).
        by: Output offset, shape (ny,).
        x0: Initial state of each record, shape (R, nx).
        singular_values: Singular values of the projected future outputs, descending; they drop after the order.
        inputs: Scaler of the inputs that A, B, C, D refer to.
        outputs: Scaler of the outputs.
        dt: Sample time [s].
    """

    A: Array
    B: Array
    C: Array
    D: Array
    by: Array
    x0: Array
    singular_values: Array
    inputs: Scaler
    outputs: Scaler
    dt: float

    def __post_init__(self) -> None:
        for name in ("A", "B", "C", "D", "by", "x0", "singular_values"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    @property
    def nx(self) -> int:
        """Number of states."""
        return len(self.A)

    @property
    def system(self) -> LureSystem:
        """Frozen system in physical units; its states keep the coordinates of A."""
        return lti(self.A, self.B, self.C, self.D, self.dt, by=self.by).scaled(self.inputs, self.outputs)


@typed()
def identify_subspace(
    records: Sequence[Trajectory],
    nx: int | None = None,
    *,
    horizon: int | None = None,
    strictly_proper: bool | None = None,
    max_radius: float = 1.0,
    inputs: Scaler | None = None,
    outputs: Scaler | None = None,
) -> SubspaceModel:
    """Identify a linear state-space model of order ``nx`` by past-output MOESP.

    Args:
        records: One or more records of any lengths.
        nx: Order; None takes the largest relative drop of the singular values.
        horizon: Samples of past and of future; a longer one resolves slower dynamics and averages more noise.
        strictly_proper: Whether D is fixed at zero. When left out, it is if y[t] was measured before u[t] acts (see
            `controlrnn.data.Timing`), because an input that has not acted yet cannot move the output.
        max_radius: Poles beyond this radius are moved inside before B, D, x0 are fitted: a plant that ran for a whole
            record is taken to be stable.
        inputs: Scaler of the inputs to work with; fitted to the records when left out.
        outputs: Scaler of the outputs; likewise.

    Raises:
        DataError: Too few samples for the horizon, or inputs that are not exciting.
        SettingError: ``nx`` does not fit ``horizon``.
    """
    records = checked(records)
    strictly_proper = answers_late(records, strictly_proper)
    if inputs is None or outputs is None:
        inputs, outputs = scalers(records)
    wanted = 1 if nx is None else count("nx", nx)
    horizon = max(15, 2 * -(-wanted // records[0].ny) + 1) if horizon is None else count("horizon", horizon, least=2)
    (found,) = _identified(records, [nx], horizon, strictly_proper, max_radius, inputs, outputs)
    return found


def subspace_models(
    records: Sequence[Trajectory], orders: Sequence[int], horizon: int, strictly_proper: bool
) -> Iterator[SubspaceModel]:
    """Models of several orders, as `identify_subspace` finds them, from one factorisation of the Hankel matrices.

    Args:
        records: As for `identify_subspace`.
        orders: Orders of the models.
        horizon: Samples of past and of future.
        strictly_proper: Whether D is fixed at zero.

    Raises:
        DataError: Too few samples for the horizon, or inputs that are not exciting.
        SettingError: An order does not fit ``horizon``.
    """
    records = checked(records)
    return _identified(records, orders, horizon, strictly_proper, 1.0, *scalers(records))


def _identified(
    records: Sequence[Trajectory],
    orders: Sequence[int | None],
    horizon: int,
    strictly_proper: bool,
    max_radius: float,
    inputs: Scaler,
    outputs: Scaler,
) -> Iterator[SubspaceModel]:
    """Models of the orders, one after the other; what does not depend on the order is computed once."""
    ny = records[0].ny
    for nx in orders:
        if nx is not None and nx > (horizon - 1) * ny:
            raise SettingError(f"nx must be at most (horizon - 1) ny = {(horizon - 1) * ny}, got {nx}: raise horizon")
    moved = moved_directions(records, inputs)  # along all others B and D are zero
    us, ys = [inputs.apply(r.u) @ moved for r in records], [outputs.apply_measured(r.y) for r in records]
    observability, values = _observability(us, _known_or_filled(us, ys, horizon, strictly_proper), horizon)
    for nx in orders:
        A, C = _state_map(observability, values, nx, horizon, ny, max_radius)
        B, D, by, x0 = _input_maps(A, C, us, ys, strictly_proper)
        # The states so far have the scale of the Hankel matrices, which grows with the data: bring them to order one.
        states = np.concatenate([_states(A, B, u, x) for u, x in zip(us, x0, strict=True)])
        size = np.sqrt(np.mean(states**2, axis=0))
        size = np.where(size > 0, size, 1.0)
        A, B, C, x0 = A * size / size[:, None], B / size[:, None], C * size, x0 / size
        yield SubspaceModel(A, B @ moved.T, C, D @ moved.T, by, x0, values, inputs, outputs, records[0].dt)


def _state_map(
    observability: Array, values: Array, nx: int | None, horizon: int, ny: int, max_radius: float
) -> tuple[Array, Array]:
    """State map A, stable, and output map C from the range of the extended observability matrix."""
    order = order_from_gap(values[: (horizon - 1) * ny]) if nx is None else nx
    # Balanced by the square roots of the singular values, so that states have comparable sizes.
    gamma = observability[:, :order] * np.sqrt(np.maximum(values[:order], 1e-300))
    # The first block row is C; all but the first are all but the last times A (shift invariance).
    C = gamma[:ny]
    A = np.linalg.lstsq(gamma[:-ny], gamma[ny:], rcond=None)[0]
    return A * min(1.0, positive("max_radius", max_radius) / max(np.abs(np.linalg.eigvals(A)).max(), 1e-300)), C


def _known_or_filled(us: Sequence[Array], ys: Sequence[Array], horizon: int, strictly_proper: bool) -> Sequence[Array]:
    """Outputs for the Hankel matrices: as measured, or with missing samples filled where too few windows are complete.

    Missing samples are first interpolated, then taken from the free run of a model of what is there, a few times over:
    the state map needs whole windows. The input maps, which do not, are fitted to what was measured alone.
    """
    missing = [np.isnan(y) for y in ys]
    windows = [max(0, len(y) - 2 * horizon + 1) for y in ys]
    whole = sum(_hankel(u, y, horizon).shape[1] for u, y, n in zip(us, ys, windows, strict=True) if n)
    if not any(m.any() for m in missing) or whole >= _WHOLE * sum(windows):
        return ys
    filled = [_interpolated(y) for y in ys]
    ny = filled[0].shape[1]
    for _ in range(_ROUNDS):
        observability, values = _observability(us, filled, horizon)
        A, C = _state_map(observability, values, None, horizon, ny, 1.0)
        B, D, by, x0 = _input_maps(A, C, us, ys, strictly_proper)
        model = lti(A, B, C, D, 1.0, by=by)
        runs = [simulate(model, u, x)[0] for u, x in zip(us, x0, strict=True)]
        filled = [np.where(m, run, y) for m, run, y in zip(missing, runs, ys, strict=True)]
    return filled


def _interpolated(y: Array) -> Array:
    """Outputs (T, ny) with missing samples on straight lines between their neighbours; zero, the mean, without any."""
    t, found = np.arange(len(y)), np.zeros_like(y)
    for j, column in enumerate(y.T):
        known = ~np.isnan(column)
        if known.any():
            found[:, j] = np.interp(t, t[known], column[known])
    return found


def order_from_gap(singular_values: Array) -> int:
    """Order after which the singular values drop most, by ratio; values below 1e-12 of the first count as zero."""
    values = np.maximum(singular_values, 1e-12 * singular_values[0])
    return int(np.argmax(values[:-1] / values[1:])) + 1 if len(values) > 1 else 1


def _observability(us: Sequence[Array], ys: Sequence[Array], horizon: int) -> tuple[Array, Array]:
    """Left singular vectors and values of L32 of the module docstring, which span the observability matrix."""
    nu, ny = us[0].shape[1], ys[0].shape[1]
    rows = 1 + 2 * horizon * (nu + ny)
    blocks = [_hankel(u, y, horizon) for u, y in zip(us, ys, strict=True) if len(u) >= 2 * horizon]
    columns = sum(b.shape[1] for b in blocks)
    if columns < rows:
        raise DataError(
            f"subspace identification with horizon {horizon} needs {rows} overlapping stretches of {2 * horizon} "
            f"samples, got {columns}: record more samples or lower horizon"
        )
    L = np.asarray(np.linalg.qr(np.concatenate(blocks, axis=1).T / np.sqrt(columns), mode="r")).T
    first, second = 1 + horizon * nu, 1 + horizon * (2 * nu + ny)
    # A vanishing diagonal entry: that row of future inputs is a combination of the rows before it.
    drive = np.abs(np.diag(L[:first, :first]))
    if drive.min() <= 1e-13 * drive.max():
        raise DataError(
            f"the inputs do not excite all of {horizon} successive samples: use random steps, PRBS or a multisine with "
            "enough lines, leave out inputs that never move, or lower horizon"
        )
    vectors, values, _ = np.linalg.svd(L[second:, first:second], full_matrices=False)
    return vectors, values


def _hankel(u: Array, y: Array, horizon: int) -> Array:
    """Data matrix [1; U_f; U_p; Y_p; Y_f] of one record, whose columns are its windows of 2 ``horizon`` samples."""

    def stack(z: Array) -> Array:
        views = np.lib.stride_tricks.sliding_window_view(z, 2 * horizon, axis=0)  # (N, n, 2 horizon)
        return np.ascontiguousarray(views.transpose(2, 1, 0))  # (2 horizon, n, N)

    U, Y = stack(u), stack(y)
    N = U.shape[2]
    parts = [U[horizon:], U[:horizon], Y[:horizon], Y[horizon:]]
    H = np.concatenate([np.ones((1, N)), *(part.reshape(-1, N) for part in parts)])
    return H[:, ~np.isnan(H).any(axis=0)]  # stretches in which no sample is missing


def _input_maps(
    A: Array, C: Array, us: Sequence[Array], ys: Sequence[Array], strictly_proper: bool
) -> tuple[Array, Array, Array, Array]:
    """Fit B, D, the output offset and the initial states of all records by least squares on the simulated output."""
    nx, ny, nu, R = len(A), len(C), us[0].shape[1], len(us)
    probe = lti(A, np.eye(nx), C, np.zeros((ny, nx)), 1.0)
    blocks = []
    for i, u in enumerate(us):
        T = len(u)
        # Response to each input acting on each state, and to each initial state: one batch of nx (nu + 1) runs.
        drive = np.concatenate([np.einsum("tj,ik->jitk", u, np.eye(nx)).reshape(-1, T, nx), np.zeros((nx, T, nx))])
        start = np.concatenate([np.zeros((nx * nu, nx)), np.eye(nx)])
        y, _ = simulate(probe, drive, start)
        free = np.zeros((T, ny, R * nx))
        free[:, :, i * nx : (i + 1) * nx] = y[nx * nu :].transpose(1, 2, 0)
        through = np.einsum("tj,ok->tojk", u, np.eye(ny)).reshape(T, ny, -1)
        offset = np.broadcast_to(np.eye(ny), (T, ny, ny))
        parts = [y[: nx * nu].transpose(1, 2, 0), offset, free] + ([] if strictly_proper else [through])
        blocks.append(np.concatenate(parts, axis=2).reshape(T * ny, -1))
    seen = np.concatenate([y.reshape(-1) for y in ys])
    known = ~np.isnan(seen)
    solution = np.linalg.lstsq(np.concatenate(blocks)[known], seen[known], rcond=None)[0]
    B, by, x0, D = np.split(solution, np.cumsum([nx * nu, ny, R * nx]))
    D = np.zeros((ny, nu)) if strictly_proper else D.reshape(nu, ny).T
    return B.reshape(nu, nx).T, D, by, x0.reshape(R, nx)


def _states(A: Array, B: Array, u: Array, x0: Array) -> Array:
    """States (T + 1, nx) of a run of x+ = A x + B u."""
    nx = len(A)
    _, x = simulate(lti(A, B, np.eye(nx), np.zeros((nx, u.shape[1])), 1.0), u, x0)
    return np.asarray(x)
