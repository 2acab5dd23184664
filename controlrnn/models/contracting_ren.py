"""Contracting REN: any two trajectories under the same input approach each other, for every parameter value.

Revay, Wang, Manchester, "Recurrent equilibrium networks", IEEE TAC 2023, sec. V-A. H is free; the input maps B2, D12
and the output maps do not affect contraction and are free as well.
"""

from __future__ import annotations

import numpy as np
import scipy.linalg
import torch
from torch import Tensor, nn

from controlrnn.checks import Array, as_array
from controlrnn.models.parts.contracting_linear import inside_disc, slow_poles
from controlrnn.models.parts.draws import generator, normal
from controlrnn.models.parts.linear_start import balancing, put_linear
from controlrnn.models.ren import REN, Implicit
from controlrnn.systems import Activation
from controlrnn.typed import typed


class ContractingREN(REN):
    """Contracting recurrent equilibrium network (REN); arguments as in `REN`."""

    @typed()
    def __init__(
        self,
        *,
        nu: int,
        ny: int,
        nx: int,
        nv: int = 16,
        rate: float = 1.0,
        activation: Activation | str = Activation.TANH,
        feedthrough: bool = False,
        dt: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(
            nu=nu, ny=ny, nx=nx, nv=nv, rate=rate, activation=activation, feedthrough=feedthrough, dt=dt, seed=seed
        )
        rng = generator(self.seed + 2)
        self.B2 = normal(rng, nx, nu, std=0.3 * nu**-0.5)
        self.D12 = normal(rng, nv, nu, std=nu**-0.5)
        self.D22 = nn.Parameter(torch.zeros(ny, nu)) if feedthrough else None
        self._start_at(slow_poles(nx, self.rate, rng))

    @typed()
    @balancing
    def start_linear(self, A: Array, B: Array, C: Array, D: Array | None = None) -> None:
        """Start exactly at the linear model (A, B, C, D), given in scaled units; see `put_linear`.

        The neurons keep their inputs from state and input, but have no effect yet (B1 = D21 = 0). Poles that are not
        inside the circle of radius ``rate`` are moved there.
        """
        put_linear(self, self._start_at(as_array("A", A, (self.nx, self.nx))), B, C, D)
        if self.D21 is not None:
            torch.nn.init.zeros_(self.D21)

    @torch.no_grad()
    def _start_at(self, A: Array) -> Array:
        """Set the state map to ``A``, shrunk where the rate demands it; returns what was set."""
        n, nv, rate = self.nx, self.nv, self.rate
        A = inside_disc(A, rate)
        # With A'PA / rate^2 - P = -I, the Schur complement of H has a margin of I for the neurons.
        P = scipy.linalg.solve_discrete_lyapunov(A.T / rate, np.eye(n))
        P = 0.5 * (P + P.T)
        C1 = self._drive()
        # The neurons take L / 2 |C1 dx|^2 of that margin: at most half.
        L = 1 / np.linalg.norm(C1, 2) ** 2
        zero = np.zeros((n, nv))
        H = np.block([
            [P, -L * C1.T, (P @ A).T],
            [-L * C1, 2 * L * np.eye(nv), zero.T],
            [P @ A, zero, rate**2 * P],
        ])  # fmt: skip
        self.H.start_at(H)
        self.Y.zero_()
        return A

    def _added(self) -> Tensor | None:
        return None

    def _input_maps(self, implicit: Implicit) -> tuple[Tensor, Tensor, Tensor | None]:  # noqa: ARG002
        return self.B2, self.D12, self.D22
