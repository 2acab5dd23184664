"""The linear core shared by the contracting models: every parameter value gives a contracting state map.

With a free H0 > 0 (`PositiveDefinite`), a free skew part Y and any G >= 0 that the nonlinearity or a gain bound needs,

    H = H0 + G = [H11 H21'; H21 H22],   P = H22,   E = (H11 + P / rate^2 + h (Y - Y')) / 2,

with h the size of H0 (its mean eigenvalue), so that Y counts relative to it. A = E^-1 H21 satisfies
|A dx|_M <= rate |dx|_M in the metric M = E' P^-1 E, because rate^2 E' P^-1 E >= E + E' - P / rate^2 = H11.
(Revay, Wang, Manchester, "Recurrent equilibrium networks", TAC 2023, eqs. 28-33. See also R2DN, arXiv 2504.01250.)
"""

from __future__ import annotations

import logging

import numpy as np
import scipy.linalg
import torch
from torch import Tensor, nn

from controlrnn.checks import Array, as_array
from controlrnn.errors import SettingError
from controlrnn.models.parts.definite import EPS, ROOM, PositiveDefinite, with_room
from controlrnn.models.parts.draws import normal

_log = logging.getLogger(__name__)


class ContractingLinear(nn.Module):
    """Free parameters H0 and Y of a contracting state map.

    Args:
        nx: Number of states.
        rate: Contraction rate in (0, 1]; smaller forgets faster.
        rng: Generator of the initial parameters.

    Raises:
        SettingError: ``rate`` is outside (0, 1].
    """

    def __init__(self, nx: int, rate: float, rng: torch.Generator) -> None:
        super().__init__()
        self.nx, self.rate = nx, checked_rate(rate)
        self.H = PositiveDefinite(2 * nx)
        self.Y = normal(rng, nx, nx, std=0.0)
        self.start_at(slow_poles(nx, self.rate, rng))

    def implicit(self, G: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """The matrices (E, F, P); the explicit map is ``A = E^-1 F``, and an implicit input map B_i becomes E^-1 B_i.

        Args:
            G: Addition to H, shape (2 nx, 2 nx), positive semidefinite.
        """
        n = self.nx
        H = self.H.plus(G)
        H11, F, P = H[:n, :n], H[n:, :n], H[n:, n:]
        return 0.5 * (H11 + P / self.rate**2 + self.H.size * (self.Y - self.Y.T)), F, P

    @torch.no_grad()
    def start_at(self, A: Array, G1: Array | None = None) -> Array:
        """Set the parameters so that ``implicit`` gives exactly this state map, with E symmetric.

        Args:
            A: Shape (nx, nx). Where it contracts too slowly for ``rate`` it is shrunk first.
            G1: The addition to H11 that the caller will pass, shape (nx, nx); E is scaled up to make room for it.

        Returns:
            The state map that was really set.
        """
        n, rate = self.nx, self.rate
        G1 = np.zeros((n, n)) if G1 is None else G1
        A = inside_disc(as_array("A", A, (n, n)), rate)
        while True:
            P = scipy.linalg.solve_discrete_lyapunov(A.T / rate, np.eye(n))
            P = 0.5 * (P + P.T)
            # [P, A'P; PA, rate^2 P] > 0; blowing it up makes room for G1 without touching A, but none for eps.
            core = np.block([[P, A.T @ P], [P @ A, rate**2 * P]])
            room = np.linalg.eigvalsh(core)[0] - 2 * EPS * np.trace(core) / (2 * n)
            if room > 0:
                break
            A = 0.99 * A
            _log.info("shrank the state map by 1 %%: it is too far from normal for the rate %.4f", rate)
        G = scipy.linalg.block_diag(G1, np.zeros((n, n)))
        core *= max(1.0, 2 * (1 + ROOM) * np.linalg.norm(G1, 2) / room)
        self.H.start_at(core - with_room(torch.as_tensor(G)).numpy())
        self.Y.zero_()
        return A


def checked_rate(rate: float) -> float:
    """``rate`` as float.

    Raises:
        SettingError: It is outside [1e-6, 1]: below, the equations that prescribe it are singular in float32.
    """
    if not 1e-6 <= rate <= 1:
        raise SettingError(f"rate must lie in [1e-6, 1], got {rate}: 1 is contraction without a prescribed speed")
    return float(rate)


def slow_poles(nx: int, rate: float, rng: torch.Generator) -> Array:
    """A diagonal state map with time constants of some 5 to 50 samples: plants are sampled so often."""
    return np.diag(rate * (1 - 0.02 - 0.18 * torch.rand(nx, generator=rng).double().numpy()))


POLE = 0.995  # times the rate: where a linear start that contracts too slowly has its slowest pole in the end


def largest_pole(rate: float) -> float:
    """Up to where the poles of a linear start are left alone: inside ``rate`` with room for what training adds.

    Without a prescribed speed that is close to the circle, where lightly damped and slow plants have theirs.
    """
    return 0.9995 if rate == 1 else POLE * rate


def inside_disc(A: Array, rate: float) -> Array:
    """Shrink ``A`` to a spectral radius of 0.995 ``rate``; unchanged where it is below `largest_pole`."""
    radius, limit = float(np.abs(np.linalg.eigvals(A)).max(initial=0.0)), POLE * rate
    if radius <= largest_pole(rate):
        return A
    _log.info("moved the poles of the linear model inside |z| <= %.4f (spectral radius was %.4f)", limit, radius)
    return np.asarray(A * (limit / radius))
