"""Linear core of the contracting models: every value of its parameters gives a contracting state map.

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
_LARGEST = 1e70  # of an entry whose fourth power is far from overflow


class ContractingLinear(nn.Module):
    """Contracting state map for every value of its free parameters H0 and Y.

    Args:
        nx: Number of states.
        rate: Contraction rate in (0, 1]; a smaller one forgets the initial state faster.
        rng: Generator of the initial parameters.

    Raises:
        SettingError: ``rate`` is outside (0, 1].
    """

    def __init__(self, nx: int, rate: float, rng: torch.Generator) -> None:
        super().__init__()
        self.nx = nx
        self.rate = checked_rate(rate)
        self.H = PositiveDefinite(2 * nx)
        self.Y = normal(rng, nx, nx, std=0.0)
        self.start_at(slow_poles(nx, self.rate, rng))

    def implicit(self, G: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Implicit matrices (E, F, P); the explicit maps are ``A = E^-1 F`` and, for an input map B_i, ``E^-1 B_i``.

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
            A: State map, shape (nx, nx). Where it contracts too slowly for ``rate`` its poles are moved inwards first,
                with a warning.
            G1: Addition to H11 that the caller will pass to `implicit`, shape (nx, nx); E is scaled up to allow it.

        Returns:
            The state map that was set.

        Raises:
            SettingError: Its transients are too large for the parameterisation, in these coordinates.
        """
        n, rate = self.nx, self.rate
        G1 = np.zeros((n, n)) if G1 is None else G1
        A = inside_disc(as_array("A", A, (n, n)), rate)
        if np.abs(A).max() > _LARGEST:
            raise SettingError(
                f"A must have entries of at most {_LARGEST:g}, got {np.abs(A).max():g}: scale the states"
            )
        P = scipy.linalg.solve_discrete_lyapunov(A.T / rate, np.eye(n))
        P = 0.5 * (P + P.T)
        # [P, A'P; PA, rate^2 P] > 0. Scaling it up allows for G1 without changing A, but not for eps.
        core = np.block([[P, A.T @ P], [P @ A, rate**2 * P]])
        room = np.linalg.eigvalsh(core)[0] - 2 * EPS * np.trace(core) / (2 * n)
        if not room > 0:
            raise SettingError(
                f"the state map must be nearer to a normal one for the rate {rate:g}, got one whose transients are "
                f"{np.sqrt(np.linalg.cond(P)):.3g} times its state: balance its states, or raise the rate"
            )
        G = scipy.linalg.block_diag(G1, np.zeros((n, n)))
        core *= max(1.0, 2 * (1 + ROOM) * np.linalg.norm(G1, 2) / room)
        # `implicit` adds G, and its margin for rounding, to H again.
        self.H.start_at(core - with_room(torch.as_tensor(G)).numpy())
        self.Y.zero_()
        return A


def checked_rate(rate: float) -> float:
    """Return ``rate`` as float after checking that it lies in [1e-6, 1].

    Raises:
        SettingError: It is outside [1e-6, 1]; smaller rates would make the equations singular in float32.
    """
    if not 1e-6 <= rate <= 1:
        raise SettingError(f"rate must lie in [1e-6, 1], got {rate}: 1 is contraction without a prescribed speed")
    return float(rate)


def slow_poles(nx: int, rate: float, rng: torch.Generator) -> Array:
    """Random diagonal state map with time constants of some 5 to 50 samples, as sampled plants have them."""
    return np.diag(rate * (1 - 0.02 - 0.18 * torch.rand(nx, generator=rng).double().numpy()))


POLE = 0.995  # times the rate: the slowest pole of a linear start that contracted too slowly and was shrunk


def largest_pole(rate: float) -> float:
    """Largest pole radius of a linear start that is not changed: inside ``rate``, with a margin for training.

    With rate 1 it is close to the unit circle, where lightly damped and slow plants have their poles.
    """
    return 0.9995 if rate == 1 else POLE * rate


def inside_disc(A: Array, rate: float) -> Array:
    """Shrink ``A`` to a spectral radius of 0.995 ``rate``; unchanged where it is below `largest_pole`."""
    radius, limit = float(np.abs(np.linalg.eigvals(A)).max(initial=0.0)), POLE * rate
    if radius <= largest_pole(rate) * (1 + 1e-9):  # other coordinates change it by rounding
        return A
    _log.warning(
        "the linear start is another model: its poles were moved inside |z| <= %.4f for the rate %.4f (their radius "
        "was %.4f); raise the rate to keep it",
        limit,
        rate,
        radius,
    )
    return np.asarray(A * (limit / radius))
