"""Parameterisation of matrices of norm below one: every parameter value gives one.

Cayley transform of a matrix with positive definite symmetric part (Revay, Wang, Manchester, TAC 2023, sec. V-B):

    M = X'X + Y - Y' + Z'Z,   X, Y (d, d),   Z (|rows - columns|, d),   d = min(rows, columns)
    N = [(I - M)(I + M)^-1; -2 Z (I + M)^-1]  for rows >= columns, the transpose of that otherwise,   N'N <= I.

A factor just below one makes it strict. The inverse map, for a linear start, is ours: with W = (I + N1)^-1 and N1 the
square part, M = 2 W - I, Z = -N2 W, and sym(M) - Z'Z = W'(I - N'N) W is positive definite.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from controlrnn.checks import Array, as_array
from controlrnn.errors import SettingError

STRICT = 1 - 1e-4


class StrictContraction(nn.Module):
    """Matrix N (rows, columns) with norm below one for every value of its parameters; zero at the start.

    Args:
        rows: Number of rows.
        columns: Number of columns.
        size: Factor that N will be multiplied by. The free parameters are divided by it, so that one step of an
            optimiser moves the product equally far for any size; with size 1 a large gain bound would make it jump.
    """

    def __init__(self, rows: int, columns: int, *, size: float = 1.0) -> None:
        super().__init__()
        self.rows = rows
        self.columns = columns
        self.size = float(size)
        d = min(rows, columns)
        self.X = nn.Parameter(torch.zeros(d, d))
        self.Y = nn.Parameter(torch.zeros(d, d))
        self.Z = None if rows == columns else nn.Parameter(torch.zeros(abs(rows - columns), d))

    def matrix(self) -> Tensor:
        """Matrix N, shape (rows, columns)."""
        eye = torch.eye(len(self.X), dtype=self.X.dtype, device=self.X.device)
        X, Y = eye + self.X / self.size, self.Y / self.size  # M = I at the start, so that N is zero there
        Z = X.new_zeros(0, len(X)) if self.Z is None else self.Z / self.size
        M = X.T @ X + Y - Y.T + Z.T @ Z
        # (I - M)(I + M)^-1 = 2 (I + M)^-1 - I, and one factorisation serves both parts.
        inverse = torch.linalg.inv(eye + M)
        N = torch.cat([2 * inverse - eye, -2 * Z @ inverse])
        return STRICT * (N if self.rows >= self.columns else N.T)

    @torch.no_grad()
    def start_at(self, N: Array) -> None:
        """Set the parameters so that `matrix` returns ``N``.

        Raises:
            SettingError: The norm of ``N`` is not below one, or it has the eigenvalue -1 all but exactly.
        """
        N = as_array("N", N, (self.rows, self.columns)) / STRICT
        N = N if self.rows >= self.columns else N.T
        norm = float(np.linalg.norm(N, 2))
        if norm >= 1:
            raise SettingError(f"the matrix must have norm below {STRICT:.4f}, got {norm * STRICT:.6g}: scale it down")
        d = len(self.X)
        W = np.linalg.inv(np.eye(d) + N[:d])
        Z = -N[d:] @ W
        sym = W.T @ (np.eye(d) - N.T @ N) @ W
        X, Y = np.linalg.cholesky(0.5 * (sym + sym.T)).T, 0.5 * (W - W.T)
        for parameter, value in ((self.X, X - np.eye(d)), (self.Y, Y), (self.Z, Z)):
            if parameter is not None:
                parameter.copy_(torch.as_tensor(value * self.size))
