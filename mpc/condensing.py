"""Outputs of a whole plan as a linear function of its inputs (condensing), and its second derivatives.

States are eliminated: let Z_k be the derivatives of (x_k, u_k) by all inputs of the plan. With the Jacobians along it,

    x part of Z_{k+1} = [A_k B_k] Z_k,      G_k = [C_k D_k] Z_k,      u part of Z_k = E_k, which picks u_k

(Bock & Plitt, IFAC 1984, section 3). Plans may have fewer inputs than samples; the last one is then held. For a Lur'e
system only the neurons are curved, so that the Hessian of p'y, summed over the plan, is one more product of the size of
Gauss-Newton's,

    sum_k  (V_k Z_k)' diag(mu_k s''(v_k)) (V_k Z_k),       mu_k: derivative of p'y by the neurons' outputs w_k.

Where a plan is to end near a steady state x_s = f(x_s, u_s) of its last input, sample N is x_s instead of x_N: the x
part of Z_N is then (I - A_s)^-1 B_s E_N, and the gap x_N - x_s has derivatives of its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import Array
from controlrnn.kernels import propagate
from controlrnn.systems import LureSystem
from controlrnn.systems.linearisation import Linearisation, Lineariser


class Condenser:
    """Condenses plans of one length.

    Args:
        system: A frozen system.
        horizon: N.
        input_scale: What counts as one unit of each chosen input, shape (nu,).
        control_horizon: Number M <= N of inputs, the last of which is held; N when left out.
        steady: Whether sample N is the steady state of the last input.
        chosen: Places of the nu inputs that the plan decides about among those of the system; all when left out.

    Attributes:
        gap: Derivatives of x_N - x_s by the scaled inputs, from the last `condense`, shape (M nu, nx); ``steady`` only.
    """

    gap: Array

    def __init__(
        self,
        system: LureSystem,
        horizon: int,
        input_scale: Array,
        *,
        control_horizon: int | None = None,
        steady: bool = False,
        chosen: NDArray[np.intp] | None = None,
    ) -> None:
        self.system, self.horizon, self.steady = system, horizon, steady
        self.linearise = Lineariser(system)
        inputs, places = control_horizon or horizon, np.arange(system.nu) if chosen is None else chosen
        # Z, transposed: inputs from k on do not move x_k, and the others then lie together.
        self._Z = np.zeros((horizon + 1, inputs * len(places), system.nx + system.nu))
        by_input = self._Z.reshape(horizon + 1, inputs, len(places), -1)[..., system.nx :]
        samples = np.arange(horizon + 1)
        by_input[samples, np.minimum(samples, inputs - 1)] = np.eye(system.nu)[places] * input_scale[:, None]

    def condense(self, x: Array, u: Array) -> tuple[Array, Linearisation]:
        """Condense a plan.

        Args:
            x: States of the plan, shape (N + 1, nx); the last one is x_s where ``steady``.
            u: Its inputs at every sample, shape (N + 1, nu).

        Returns:
            The derivatives of y_0 to y_N by the scaled inputs, shape (N + 1, ny, M nu), and the Jacobians used.
        """
        lin = self.linearise(x, u)
        propagate(self._Z, lin.state)
        if self.steady:
            self._settle(lin)
        return np.ascontiguousarray(self._times(lin.output).transpose(0, 2, 1)), lin

    def curvature(self, lin: Linearisation, prices: Array, end: Array | None = None) -> Array:
        """Hessian of ``sum_k prices_k' y_k + end' (x_N - x_s)`` by the scaled inputs, shape (M nu, M nu).

        Args:
            lin: From the last `condense`.
            prices: Shape (N + 1, ny).
            end: Shape (nx,), where ``steady``; zero when left out.
        """
        bend = self._neuron_prices(lin, prices, end) * self.system.activation.curvature(lin.w)
        V = self._times(lin.V).transpose(1, 0, 2).reshape(self._Z.shape[1], bend.size)
        return np.asarray((V * bend.ravel()) @ V.T)

    def _settle(self, lin: Linearisation) -> None:
        """Make the last sample that of the steady state."""
        last, nx, nu = self._Z[-1], self.system.nx, self.system.nu
        self.gap = last[:, :nx].copy()
        by_held = np.linalg.solve(np.eye(nx) - lin.A[-1], lin.B[-1]) @ last[-nu:, nx:].T
        last[:, :nx] = 0.0
        last[-nu:, :nx] = by_held.T
        self.gap -= last[:, :nx]

    def _times(self, J: Array) -> Array:
        """(J_k Z_k)' for all samples, shape (N + 1, M nu, rows of J)."""
        if J.strides[0] == 0:  # one J for all samples: one product
            return np.asarray((self._Z.reshape(-1, J.shape[2]) @ J[0].T).reshape(len(J), self._Z.shape[1], J.shape[1]))
        return np.asarray(self._Z @ J.transpose(0, 2, 1))

    def _neuron_prices(self, lin: Linearisation, prices: Array, end: Array | None) -> Array:
        """Derivatives of the priced sum by the neurons' outputs, shape (N + 1, nv): the adjoint of a run."""
        system, N = self.system, self.horizon
        p = np.zeros((N + 2, system.nx))  # p[k]: derivative by x_k
        direct = (prices[:, None, :] @ lin.C)[:, 0, :]
        A = lin.A
        if self.steady:
            p[N] = 0.0 if end is None else end
            # x_s is what a run without end under u_s leads to: p[N + 1] = direct + p[N + 1] A_s.
            p[N + 1] = np.linalg.solve(np.eye(system.nx) - A[N].T, direct[N] - p[N])
        for k in range(N - self.steady, 0, -1):
            np.add(direct[k], p[k + 1] @ A[k], out=p[k])
        mu = p[1:] @ system.B1 + prices @ system.D21
        slope = system.activation.derivative(lin.w)
        for start, stop in reversed(system.blocks[:-1]):
            mu[:, start:stop] += (mu[:, stop:] * slope[:, stop:]) @ system.D11[stop:, start:stop]
        return np.asarray(mu)
