"""Linearisation: Jacobians of a Lur'e system at all samples of a trajectory at once.

With z = (x, u), V = dv/dz and W = dw/dz at every sample, and s' the activation's derivative,

    V = [C1 D12] + D11 W,   W = diag(s'(v)) V,   d(x+, y)/dz = [A B2; C2 D22] + [B1; D21] W.

D11 is strictly block lower triangular, so V and W follow block by block without a linear solve.
(Revay, Wang, Manchester, "Recurrent equilibrium networks", IEEE TAC 2023, for the explicit case; the chain rule.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from controlrnn.checks import Array, as_array
from controlrnn.errors import SettingError
from controlrnn.kernels.dense import product
from controlrnn.kernels.scan import rollout
from controlrnn.systems import LureSystem


@dataclass(frozen=True, eq=False, slots=True)
class Linearisation:
    """First derivatives of a system along a trajectory of T samples; treat the arrays as read-only, some are shared.

    Args:
        state: Derivatives of the next state, dx+/d(x, u) = [A B], shape (T, nx, nx + nu).
        output: Derivatives of the output, dy/d(x, u) = [C D], shape (T, ny, nx + nu).
        V: Derivatives of the neurons' inputs, dv/d(x, u), shape (T, nv, nx + nu).
        w: Outputs of the neurons, shape (T, nv).
    """

    state: Array
    output: Array
    V: Array
    w: Array

    @property
    def A(self) -> Array:
        """Derivatives dx+/dx, shape (T, nx, nx)."""
        return self.state[:, :, : self.state.shape[1]]

    @property
    def B(self) -> Array:
        """Derivatives dx+/du, shape (T, nx, nu)."""
        return self.state[:, :, self.state.shape[1] :]

    @property
    def C(self) -> Array:
        """Derivatives dy/dx, shape (T, ny, nx)."""
        return self.output[:, :, : self.state.shape[1]]

    @property
    def D(self) -> Array:
        """Derivatives dy/du, shape (T, ny, nu)."""
        return self.output[:, :, self.state.shape[1] :]


class Lineariser:
    """Lineariser of one frozen system, with everything prepared that does not depend on the trajectory.

    Args:
        system: A frozen system.

    Raises:
        SettingError: The system is not a frozen `LureSystem`.
    """

    def __init__(self, system: LureSystem) -> None:
        if not isinstance(system, LureSystem) or not system.is_frozen:
            raise SettingError(
                f"system must be a frozen LureSystem, got {type(system).__name__}: call model.freeze() first"
            )
        self.system = system
        self._inner = np.hstack([system.C1, system.D12])
        self._direct = np.hstack([system.A, system.B2])
        self._output = np.hstack([system.C2, system.D22])
        # The Elman network, x+ = s(v), is common: spare it a multiplication by the identity.
        square = system.nx == system.nv
        self._states_are_neurons = square and not self._direct.any() and np.array_equal(system.B1, np.eye(system.nx))
        self._outputs_read_neurons = bool(system.D21.any())
        self._repeated: dict[tuple[int, int], Array] = {}

    def __call__(self, x: Array, u: Array) -> Linearisation:
        """Linearise at states x (T, nx) and inputs u (T, nu), unchecked."""
        runs = [rollout(self.system, u[t : t + 1], x[t]).w for t in range(len(x))]
        return self.at(np.concatenate(runs) if runs else np.empty((0, self.system.nv)))

    def at(self, w: Array) -> Linearisation:
        """Linearise where the neurons' outputs are w (T, nv), which determine all derivatives."""
        system = self.system
        V, W = self._neurons(system.activation.derivative(w)[:, :, None])
        state = W if self._states_are_neurons else self._direct + product(system.B1, W)
        output = (
            self._output + product(system.D21, W) if self._outputs_read_neurons else self._same(self._output, len(w))
        )
        return Linearisation(state, output, V, w)

    def _same(self, J: Array, samples: int) -> Array:
        """Repeat J for all samples without copies; kept, because broadcasting takes longer than the arithmetic."""
        key = (id(J), samples)
        if key not in self._repeated:
            self._repeated[key] = np.broadcast_to(J, (samples, *J.shape))
        return self._repeated[key]

    def _neurons(self, slope: Array) -> tuple[Array, Array]:
        """Derivatives V and W of the neurons' inputs and outputs, shape (T, nv, nx + nu) each."""
        blocks, D11 = self.system.blocks, self.system.D11
        if len(blocks) <= 1:
            return self._same(self._inner, len(slope)), slope * self._inner
        V = np.empty((len(slope), *self._inner.shape))
        W = np.empty_like(V)
        for start, stop in blocks:  # layer by layer, as D11 is strictly block lower triangular
            V[:, start:stop] = self._inner[start:stop]
            if start:
                V[:, start:stop] += product(D11[start:stop, :start], W[:, :start])
            np.multiply(slope[:, start:stop], V[:, start:stop], out=W[:, start:stop])
        return V, W


def linearise_trajectory(system: LureSystem, x: Array, u: Array) -> Linearisation:
    """Jacobians of step and output at every sample of a trajectory.

    Args:
        system: A frozen system.
        x: States, shape (T, nx).
        u: Inputs, shape (T, nu).

    Raises:
        SettingError: The system is not a frozen `LureSystem`.
        ShapeError: ``x`` or ``u`` does not fit.
        DataError: ``x`` or ``u`` is not finite.
    """
    lineariser = Lineariser(system)
    x = as_array("x", x, ("T", system.nx))
    return lineariser(x, as_array("u", u, (len(x), system.nu), hint="one input per state"))
