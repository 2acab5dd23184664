"""Condensing: first and second derivatives of the outputs of a whole plan by its inputs.

States are eliminated, which leaves the derivatives G_k of y_k by all inputs of the plan (Bock & Plitt, IFAC 1984,
section 3; the recursion is in `controlrnn.kernels.responses`). Plans may have fewer inputs than samples; the last one
is then held. In a Lur'e system only the neurons are nonlinear, so that the Hessian of p'y, summed over the plan, is one
more product of the size of Gauss-Newton's,

    sum_k  V_k' diag(mu_k s''(v_k)) V_k,      V_k: derivatives of v_k by the inputs, mu_k: of p'y by w_k = s(v_k).

With a terminal set sample N is the steady state x_s = f(x_s, u_s) of the last input instead of x_N: its derivatives are
(I - A_s)^-1 B_s times those of u_s, and the gap x_N - x_s has derivatives of its own.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import Array
from controlrnn.errors import SettingError
from controlrnn.kernels import Responses
from controlrnn.kernels.dense import product, solve, weighted_squares
from controlrnn.kernels.linearisation import Linearisation, Lineariser
from controlrnn.systems import LureSystem


class Condenser:
    """Derivatives of plans of one length by their inputs.

    Args:
        system: A frozen system.
        horizon: Number N of steps.
        input_scale: Unit of each chosen input, shape (nu,).
        control_horizon: Number M <= N of inputs, the last of which is held; N when left out.
        steady: Whether sample N is the steady state of the last input.
        chosen: Indices of the nu inputs that the plan decides about among those of the system; all when left out.

    Attributes:
        run: Simulates inputs for every sample, (N + 1, inputs), from a state: see `Responses.run`.
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
        self.system = system
        self.horizon = horizon
        self.steady = steady
        self.linearise = Lineariser(system)
        inputs, places = control_horizon or horizon, np.arange(system.nu) if chosen is None else chosen
        by_input = np.zeros((horizon + 1, system.nu, inputs, len(places)))
        samples = np.arange(horizon + 1)
        by_input[samples, :, np.minimum(samples, inputs - 1)] = np.eye(system.nu)[:, places] * input_scale
        self._by_input = by_input.reshape(horizon + 1, system.nu, -1)
        self._responses = Responses(system, self._by_input)
        self.run = self._responses.run
        self._single = Responses(system, self._by_input[:1])

    def at(self, x: Array, u: Array) -> tuple[Array, Array]:
        """Output (ny,) and the neurons' outputs (nv,) at state x (nx,) and input u (inputs,)."""
        y, _, w = self._single.run(u[None], x)
        return y[0], w[0]

    def condense(self, w: Array) -> Array:
        """Derivatives of the outputs of a plan by its scaled inputs.

        Args:
            w: Outputs of the neurons at every sample, shape (N + 1, nv), C-contiguous; if ``steady`` the last ones are
                those of x_s.

        Returns:
            The derivatives of y_0 to y_N, shape (N + 1, ny, M nu); the next call overwrites them.
        """
        responses, N = self._responses, self.horizon
        if self.steady:
            responses.follow(w, 0, N)
            self._settle(w)
            responses.follow(w, N)
        else:
            responses.follow(w)
        return responses.outputs

    def curvature(self, w: Array, prices: Array, end: Array | None = None) -> Array:
        """Hessian of ``sum_k prices_k' y_k + end' (x_N - x_s)`` by the scaled inputs, shape (M nu, M nu).

        Args:
            w: Outputs of the neurons as for the last `condense`.
            prices: Shape (N + 1, ny).
            end: Shape (nx,), only if ``steady``; zero when left out.
        """
        # Only neurons are curved: each adds its price times its second derivative, along how inputs move its argument.
        bend = self._neuron_prices(self.linearise.at(w), prices, end) * self.system.activation.curvature(w)
        V = self._responses.neurons.reshape(bend.size, self._by_input.shape[2])
        return weighted_squares(V, bend.ravel())

    def _settle(self, w: Array) -> None:
        """Replace the derivatives of x_N by those of the steady state, and set those of the gap."""
        last, nx, lin = self._responses.states[self.horizon], self.system.nx, self.linearise.at(w[-1:])
        # Implicit function theorem: x_s = f(x_s, u_s) gives dx_s = (I - A)^-1 B du_s.
        by_held = product(_solved(np.eye(nx) - lin.A[0], lin.B[0]), self._by_input[-1])
        self.gap = (last - by_held).T
        last[:] = by_held

    def _neuron_prices(self, lin: Linearisation, prices: Array, end: Array | None) -> Array:
        """Derivatives of the priced sum by the neurons' outputs, shape (N + 1, nv), by the adjoint of a simulation."""
        system, N = self.system, self.horizon
        p = np.zeros((N + 2, system.nx))  # p[k]: derivative by x_k
        direct = product(prices[:, None, :], lin.C)[:, 0, :]
        A = lin.A
        if self.steady:
            p[N] = 0.0 if end is None else end
            # x_s is a fixed point under u_s, and so is its adjoint: p[N + 1] = direct - p[N] + p[N + 1] A_s.
            p[N + 1] = _solved(np.eye(system.nx) - A[N].T, direct[N] - p[N])
        for k in range(N - self.steady, 0, -1):
            np.add(direct[k], product(p[k + 1], A[k]), out=p[k])
        mu = product(p[1:], system.B1) + product(prices, system.D21)
        slope = system.activation.derivative(lin.w)
        # Neurons of a layer act on the priced sum also through later layers.
        for start, stop in reversed(system.blocks[:-1]):
            mu[:, start:stop] += product(mu[:, stop:] * slope[:, stop:], system.D11[stop:, start:stop])
        return np.asarray(mu)


def _solved(A: Array, b: Array) -> Array:
    x = solve(A, b)
    if x is None:
        raise SettingError("the steady state at the end of a plan is not the only one near: the model must contract")
    return x
