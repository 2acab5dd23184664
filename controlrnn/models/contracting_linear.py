"""The linear core shared by the contracting models: every parameter value gives a contracting state map.

With a free X (2nx, 2nx), a free skew part Y and any G = blkdiag(G1, G2) >= 0 that the nonlinearity needs,

    H = p^2 X'X / |X|_F^2 + eps I + G = [H11 H21'; H21 H22],   P = H22,   E = (H11 + P / rate^2 + Y - Y') / 2,

A = E^-1 H21 satisfies |A dx|_M <= rate |dx|_M in the metric M = E' P^-1 E, because
rate^2 E' P^-1 E >= E + E' - P / rate^2 = H11. (Revay, Wang, Manchester, "Recurrent equilibrium networks", TAC 2023,
eqs. 28-33; the polar form p and the eps follow their code. See also R2DN, arXiv 2504.01250.)
"""

from __future__ import annotations

import logging

import numpy as np
import scipy.linalg
import torch
from torch import Tensor, nn

from controlrnn.checks import Array, as_array
from controlrnn.errors import SettingError
from controlrnn.models.base import normal

# Large enough that matrices computed from float32 parameters still satisfy the inequality in float64.
EPS = 1e-6
_log = logging.getLogger(__name__)


class ContractingLinear(nn.Module):
    """Free parameters X, p, Y of a contracting state map.

    Args:
        nx: Number of states.
        rate: Contraction rate in (0, 1]; smaller forgets faster.
        rng: Generator of the initial parameters.

    Raises:
        SettingError: ``rate`` is outside (0, 1].
    """

    def __init__(self, nx: int, rate: float, rng: torch.Generator) -> None:
        super().__init__()
        if not 0 < rate <= 1:
            raise SettingError(f"rate must lie in (0, 1], got {rate}: 1 is contraction without a prescribed speed")
        self.nx, self.rate = nx, float(rate)
        self.X = nn.Parameter(torch.empty(2 * nx, 2 * nx))
        self.p = nn.Parameter(torch.empty(()))
        self.Y = normal(rng, nx, nx, std=0.0)
        # Time constants of some 5 to 50 samples: data of a plant are sampled several times per time constant.
        poles = self.rate * (1 - 0.02 - 0.18 * torch.rand(nx, generator=rng).double().numpy())
        self.start_at(np.diag(poles))

    def implicit(self, G1: Tensor | None = None, G2: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The matrices (E, F, P); the explicit map is ``A = E^-1 F``, and an implicit input map B_i becomes E^-1 B_i.

        Args:
            G1: Addition to H11, shape (nx, nx), positive semidefinite.
            G2: Addition to H22, likewise.
        """
        n, X = self.nx, self.X
        H = self.p**2 / (X**2).sum() * (X.T @ X) + EPS * torch.eye(2 * n, dtype=X.dtype, device=X.device)
        H11, F, P = H[:n, :n], H[n:, :n], H[n:, n:]
        H11 = H11 if G1 is None else H11 + G1
        P = P if G2 is None else P + G2
        E = 0.5 * (H11 + P / self.rate**2 + self.Y - self.Y.T)
        return E, F, P

    @torch.no_grad()
    def start_at(self, A: Array, G1: Array | None = None) -> Array:
        """Set the parameters so that ``implicit(G1)`` gives exactly this state map, with E symmetric.

        Args:
            A: Shape (nx, nx). Where its spectral radius is not below ``rate`` its poles are moved inside first.
            G1: The addition to H11 that the caller will pass, shape (nx, nx); E is scaled up to make room for it.

        Returns:
            The state map that was really set.
        """
        n, rate = self.nx, self.rate
        A = inside_disc(as_array("A", A, (n, n)), rate)
        P = scipy.linalg.solve_discrete_lyapunov(A.T / rate, np.eye(n))
        P = 0.5 * (P + P.T)
        G1 = np.zeros((n, n)) if G1 is None else G1
        # [P, A'P; PA, rate^2 P] > 0; blowing it up makes room for G1 and eps without touching A.
        core = np.block([[P, A.T @ P], [P @ A, rate**2 * P]])
        room = np.linalg.eigvalsh(core)[0]
        core *= max(1.0, 2 * (np.linalg.norm(G1, 2) + EPS) / room)
        core[:n, :n] -= G1
        X = np.linalg.cholesky(core - EPS * np.eye(2 * n)).T
        self.X.copy_(torch.as_tensor(X))
        self.p.copy_(torch.as_tensor(np.linalg.norm(X)))
        self.Y.zero_()
        return A


def inside_disc(A: Array, rate: float) -> Array:
    """Shrink ``A`` so that its spectral radius is at most 0.995 ``rate``; unchanged where it already is."""
    radius = float(np.abs(np.linalg.eigvals(A)).max(initial=0.0))
    limit = 0.995 * rate
    if radius <= limit:
        return A
    _log.info("moved the poles of the linear model inside |z| <= %.4f (spectral radius was %.4f)", limit, radius)
    return np.asarray(A * (limit / radius))
