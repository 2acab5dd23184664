"""A long ARX model of records with its standard errors, as an instrument to look with, not as a model to use.

    y_t = sum_{k=1..n} A_k y_{t-k} + sum_{k=0..n} B_k u_{t-k} + c + e_t

With n large enough e is white, so that estimates are consistent and their covariance is s^2 (R'R)^-1 (Ljung, "System
Identification", 2nd ed. 1999, sections 9.4 and 10.1). Rows with a missing sample are left out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from controlrnn.checks import Array
from controlrnn.data.checking.excitation import still_inputs
from controlrnn.data.scaling import Scaler
from controlrnn.data.trajectory import Trajectory
from controlrnn.errors import DataError

_MOST = 25  # lags
_ROWS = 30_000  # rows that are enough
_EACH = 8  # rows for each coefficient, at least


@dataclass(frozen=True, eq=False)
class Regression:
    """Coefficients in scaled units, with standard errors.

    Args:
        A: Coefficients of past outputs, shape (n, ny, ny).
        B: Coefficients of inputs, shape (n + 1, ny, nu); zero for inputs that never move.
        B_std: Their standard errors, infinite for inputs that never move.
        inverse: Inverse (R'R)^-1 of the regressors, shape (p, p), zero for inputs that never move.
        error: Errors of all rows, shape (N, ny).
        inputs: Scaler of the inputs.
        outputs: Scaler of the outputs.
    """

    A: Array
    B: Array
    B_std: Array
    inverse: Array
    error: Array
    inputs: Scaler
    outputs: Scaler

    @property
    def noise(self) -> Array:
        """Root mean square error of one step, output units, shape (ny,)."""
        return np.asarray(self.error.std(axis=0) * self.outputs.scale)

    def impulse_response(self, length: int) -> Array:
        """Response of the outputs to a unit sample of each input, scaled units, shape (length, ny, nu).

        Args:
            length: Number of samples.
        """
        n, ny, nu = len(self.A), *self.B.shape[1:]
        g = np.zeros((length, ny, nu))
        for k in range(length):
            g[k] = self.B[k] if k <= n else 0.0
            for m in range(1, min(k, n) + 1):
                g[k] += self.A[m - 1] @ g[k - m]
            if np.abs(g[k]).max(initial=0.0) > 1e6:
                return g[:k]
        return g

    def sum_std(self, lags: int) -> Array:
        """Standard error of the sum of the coefficients of each input up to a lag, shape (ny, nu).

        Args:
            lags: The last lag.
        """
        n, ny, nu = len(self.A), *self.B.shape[1:]
        at = [n * ny + nu * np.arange(lags + 1) + j for j in range(nu)]
        variance = np.array([self.inverse[np.ix_(k, k)].sum() for k in at])
        return np.asarray(self.error.std(axis=0)[:, None] * np.sqrt(np.maximum(variance, 0.0)))

    def first_lags(self, sure: float) -> Array:
        """First lag at which each input is seen to act on each output, shape (ny, nu); NaN where it is at none.

        The statistic of the coefficients up to a lag, b' cov(b)^-1 b, is chi square where they are all zero: together
        they show what each of them, of an input that is held for long, does not.

        Args:
            sure: Standard deviations by which it has to exceed its mean.
        """
        n, ny, nu = len(self.A), *self.B.shape[1:]
        deviation = np.maximum(self.error.std(axis=0), 1e-12)
        first = np.full((ny, nu), np.nan)
        for j in range(nu):
            at = n * ny + nu * np.arange(n + 1) + j
            for k in range(n, -1, -1):
                covariance = self.inverse[np.ix_(at[: k + 1], at[: k + 1])]
                if not covariance.any():
                    break
                weight = np.linalg.pinv(covariance, rcond=1e-10, hermitian=True)
                b = self.B[: k + 1, :, j] / deviation
                statistic = np.einsum("ki,kl,li->i", b, weight, b)
                q = k + 1
                first[statistic > q + sure * (2.0 * q) ** 0.5 + 2.5 * sure, j] = k
        return first


def regress(records: Sequence[Trajectory]) -> Regression:
    """Fit the model to all records together.

    Raises:
        DataError: There are too few samples for the shortest one.
    """
    nu, ny = records[0].nu, records[0].ny
    inputs, outputs = Scaler.fit([r.u for r in records]), Scaler.fit([r.y for r in records])
    total = sum(len(r) for r in records)
    lags = min(_MOST, total // (_EACH * (nu + ny)), max(len(r) for r in records) // 4)
    if lags < 2:
        raise DataError(f"check_data needs at least {2 * _EACH * (nu + ny)} samples, got {total}: record more")
    R, Y = rows(records, lags, inputs, outputs)
    while len(R) < 2 * R.shape[1] and lags > 2:  # stretches without a missing sample are shorter
        lags = max(2, (2 * lags) // 3)
        R, Y = rows(records, lags, inputs, outputs)
    if len(R) < 2 * R.shape[1]:
        raise DataError(
            f"check_data needs {2 * R.shape[1]} complete stretches of {lags} samples, got {len(R)}: record more"
        )
    still = np.concatenate([np.zeros(lags * ny, bool), np.tile(still_inputs(records), lags + 1), [False]])
    G = R.T @ R
    values, vectors = np.linalg.eigh(G[np.ix_(~still, ~still)])
    keep = values > 1e-10 * values.max()
    inverse = (vectors[:, keep] / values[keep]) @ vectors[:, keep].T
    theta = np.zeros((R.shape[1], ny))
    theta[~still] = inverse @ (R[:, ~still].T @ Y)
    error = Y - R @ theta
    deviation = np.sqrt((error**2).sum(axis=0) / max(len(R) - R.shape[1], 1))
    std = np.full(R.shape[1], np.inf)
    std[~still] = np.sqrt(np.maximum(np.diag(inverse), 0.0))
    A = theta[: lags * ny].reshape(lags, ny, ny).transpose(0, 2, 1)
    B = theta[lags * ny : -1].reshape(lags + 1, nu, ny).transpose(0, 2, 1)
    B_std = std[lags * ny : -1].reshape(lags + 1, 1, nu) * np.maximum(deviation, 1e-12)[:, None]
    whole = np.zeros((R.shape[1], R.shape[1]))
    whole[np.ix_(~still, ~still)] = inverse
    return Regression(A, B, B_std, whole, error, inputs, outputs)


def rows(records: Sequence[Trajectory], lags: int, inputs: Scaler, outputs: Scaler) -> tuple[Array, Array]:
    """Complete rows of regressors y_{t-1}.., u_t, u_{t-1}.., 1 and their targets y_t.

    Args:
        records: The records.
        lags: Number n of lags.
        inputs: Scaler of the inputs.
        outputs: Scaler of the outputs.
    """
    R, Y, count = [], [], 0
    for r in records:
        u, y, T = inputs.apply(r.u), outputs.apply_measured(r.y), len(r)
        if lags >= T or count >= _ROWS:
            continue
        past = [y[lags - k : T - k] for k in range(1, lags + 1)] + [u[lags - k : T - k] for k in range(lags + 1)]
        z = np.concatenate([*past, np.ones((T - lags, 1))], axis=1)
        complete = ~np.isnan(np.concatenate([z, y[lags:]], axis=1)).any(axis=1)
        R.append(z[complete][: _ROWS - count])
        Y.append(y[lags:][complete][: _ROWS - count])
        count += len(R[-1])
    if not R:
        return np.zeros((0, lags * (records[0].ny + records[0].nu) + records[0].nu + 1)), np.zeros((0, records[0].ny))
    return np.concatenate(R), np.concatenate(Y)
