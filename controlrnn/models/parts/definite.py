"""Parameterisation of positive definite matrices, in polar form: every parameter value gives one.

    H = p^2 X'X / |X|_F^2 + (eps p^2 / m + tiny) I,      X (m, m), p a number

The size p is apart from the direction X, as in the code of Revay, Wang, Manchester ("Recurrent equilibrium networks",
TAC 2023). Their eps is absolute; here it grows with H, so that the condition of H stays below m / eps for all
parameters and scales, and H > 0 survives the rounding of everything that is computed from it in float64. Training in
float32 does no harm: the matrices are computed anew in float64 from the trained parameters.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn

from controlrnn.checks import Array
from controlrnn.errors import SettingError

EPS = 1e-5  # lower bound of the least eigenvalue of H relative to the mean one
ROOM = 1e-4  # share of the mean eigenvalue of an addition to H that is added for rounding
_TINY = 1e-12  # keeps H definite where its size is zero
_LEAST = 1e-18  # of |X|^2; its square is a float32 number


class PositiveDefinite(nn.Module):
    """Positive definite matrix (m, m) for every value of its parameters; the identity at the start."""

    def __init__(self, m: int) -> None:
        super().__init__()
        self.m = m
        self.X = nn.Parameter(torch.empty(m, m))
        self.p = nn.Parameter(torch.empty(()))
        self.start_at(np.eye(m))

    @property
    def size(self) -> Tensor:
        """Mean eigenvalue of `matrix`, up to eps."""
        return self.p**2 / self.m

    def matrix(self) -> Tensor:
        """Positive definite matrix H, shape (m, m)."""
        X, size = self.X, self.p**2
        eye = torch.eye(self.m, dtype=X.dtype, device=X.device)
        # The bound keeps value and gradient finite at X = 0, where H is what the last term leaves of it.
        return size / (X**2).sum().clamp_min(_LEAST) * (X.T @ X) + (EPS * size / self.m + _TINY) * eye

    def plus(self, G: Tensor | None) -> Tensor:
        """Sum of `matrix` and a positive semidefinite G (m, m), with a margin for rounding; None stands for zero."""
        return self.matrix() if G is None else self.matrix() + with_room(G)

    @torch.no_grad()
    def start_at(self, H: Array) -> None:
        """Set the parameters so that `matrix` returns ``H`` (m, m).

        Raises:
            SettingError: ``H`` is too close to semidefinite.
        """
        size = max((float(np.trace(H)) - self.m * _TINY) / (1 + EPS), 0.0)
        try:
            X = np.linalg.cholesky(H - (EPS * size / self.m + _TINY) * np.eye(self.m)).T
        except np.linalg.LinAlgError as error:
            low = float(np.linalg.eigvalsh(H)[0])
            raise SettingError(
                f"the inequality behind the guarantee must hold with room to spare, got smallest eigenvalue {low:.3g} "
                f"at mean {size / self.m:.3g}: start from a model that contracts faster or has less gain"
            ) from error
        self.X.copy_(torch.as_tensor(X))
        self.p.fill_(size**0.5)


def with_room(G: Tensor) -> Tensor:
    """Add `ROOM` times its mean eigenvalue to ``G`` (m, m), so that rounding of a large G spoils no definiteness."""
    eye = torch.eye(len(G), dtype=G.dtype, device=G.device)
    return G + ROOM * G.diagonal().mean() * eye
