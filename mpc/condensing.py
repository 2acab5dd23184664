"""Outputs of a whole plan as a linear function of its inputs (condensing), and its second derivatives.

States are eliminated: let Z_k be the derivatives of (x_k, u_k) by all inputs of the plan. With the Jacobians along it,

    x part of Z_{k+1} = [A_k B_k] Z_k,      G_k = [C_k D_k] Z_k,      u part of Z_k = E_k, which picks u_k

(Bock & Plitt, IFAC 1984, section 3). For a Lur'e system only the neurons are curved, so that the Hessian of p'y, summed
over the plan, is one more product of the size of Gauss-Newton's,

    sum_k  (V_k Z_k)' diag(mu_k s''(v_k)) (V_k Z_k),       mu_k: derivative of p'y by the neurons' outputs w_k.
"""

from __future__ import annotations

import numpy as np

from controlrnn.checks import Array
from controlrnn.kernels import propagate
from controlrnn.systems import LureSystem
from controlrnn.systems.linearisation import Linearisation, Lineariser


class Condenser:
    """Condenses plans of one length.

    Args:
        system: A frozen system.
        horizon: N.
        input_scale: What counts as one unit of each input, shape (nu,).
    """

    def __init__(self, system: LureSystem, horizon: int, input_scale: Array) -> None:
        self.system, self.horizon = system, horizon
        self.linearise = Lineariser(system)
        # Z, transposed: inputs from k on do not move x_k, and the others then lie together.
        self._Z = np.zeros((horizon + 1, horizon * system.nu, system.nx + system.nu))
        by_input = self._Z.reshape(horizon + 1, horizon, system.nu, -1)[..., system.nx :]
        samples = np.arange(horizon + 1)
        by_input[samples, np.minimum(samples, horizon - 1)] = np.diag(input_scale)

    def condense(self, x: Array, u: Array) -> tuple[Array, Linearisation]:
        """Condense a plan.

        Args:
            x: States of the plan, shape (N + 1, nx).
            u: Its inputs, the last one twice, shape (N + 1, nu).

        Returns:
            The derivatives of y_0 to y_N by the scaled inputs, shape (N + 1, ny, N nu), and the Jacobians used.
        """
        lin = self.linearise(x, u)
        propagate(self._Z, lin.state)
        return np.ascontiguousarray(self._times(lin.output).transpose(0, 2, 1)), lin

    def curvature(self, lin: Linearisation, prices: Array) -> Array:
        """Hessian of ``sum_k prices_k' y_k`` by the scaled inputs, shape (N nu, N nu).

        Args:
            lin: From the last `condense`.
            prices: Shape (N + 1, ny).
        """
        bend = self._neuron_prices(lin, prices) * self.system.activation.curvature(lin.w)
        V = self._times(lin.V).transpose(1, 0, 2).reshape(self._Z.shape[1], bend.size)
        return np.asarray((V * bend.ravel()) @ V.T)

    def _times(self, J: Array) -> Array:
        """(J_k Z_k)' for all samples, shape (N + 1, N nu, rows of J)."""
        if J.strides[0] == 0:  # one J for all samples: one product
            return np.asarray((self._Z.reshape(-1, J.shape[2]) @ J[0].T).reshape(len(J), self._Z.shape[1], J.shape[1]))
        return np.asarray(self._Z @ J.transpose(0, 2, 1))

    def _neuron_prices(self, lin: Linearisation, prices: Array) -> Array:
        """Derivatives of ``sum_k prices_k' y_k`` by the neurons' outputs, shape (N + 1, nv): the adjoint of a run."""
        system = self.system
        p = np.zeros((self.horizon + 2, system.nx))  # p[k]: derivative by x_k
        direct = (prices[:, None, :] @ lin.C)[:, 0, :]
        A = lin.A
        for k in range(self.horizon, 0, -1):
            np.add(direct[k], p[k + 1] @ A[k], out=p[k])
        mu = p[1:] @ system.B1 + prices @ system.D21
        slope = system.activation.derivative(lin.w)
        for start, stop in reversed(system.blocks[:-1]):
            mu[:, start:stop] += (mu[:, stop:] * slope[:, stop:]) @ system.D11[stop:, start:stop]
        return np.asarray(mu)
