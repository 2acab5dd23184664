"""Lipschitz REN: the incremental l2 gain from input to output is at most gamma, for every parameter value.

Revay, Wang, Manchester, "Recurrent equilibrium networks", IEEE TAC 2023, sec. V-B: the dissipative REN with
Q = -I / gamma, S = 0, R = gamma I.
"""

from __future__ import annotations

from controlrnn.checks import size
from controlrnn.models.dissipative_ren import DissipativeREN
from controlrnn.models.parts.guarantee import Supply, gain_bound
from controlrnn.models.parts.linear_start import Linear, gain_refusal
from controlrnn.systems import Activation
from controlrnn.typed import typed


class LipschitzREN(DissipativeREN):
    """Recurrent equilibrium network with a bounded incremental l2 gain; further arguments as in `REN`.

    The bound is one of *scaled* signals: outputs in units of their scaler per inputs in units of theirs.

    Args:
        nu: Number of inputs.
        ny: Number of outputs.
        nx: Number of states.
        gamma: Largest incremental l2 gain.
        nv: Number of neurons.
        rate: Contraction rate in (0, 1]; below 1 the gain bound holds with exponential weights as well.
        activation: Activation; its slope must lie in [0, 1].
        feedthrough: Whether ``y[t]`` may depend on ``u[t]``.
        dt: Sample time [s].
        seed: Seed of the initial parameters.
    """

    @typed()
    def __init__(
        self,
        *,
        nu: int,
        ny: int,
        nx: int,
        gamma: float,
        nv: int = 16,
        rate: float = 1.0,
        activation: Activation | str = Activation.TANH,
        feedthrough: bool = False,
        dt: float = 1.0,
        seed: int = 0,
    ) -> None:
        self.gamma = gain_bound(gamma)
        supply = Supply.gain(self.gamma, size("nu", nu), size("ny", ny))
        super().__init__(
            nu=nu,
            ny=ny,
            nx=nx,
            Q=supply.Q,
            S=supply.S,
            R=supply.R,
            nv=nv,
            rate=rate,
            activation=activation,
            feedthrough=feedthrough,
            dt=dt,
            seed=seed,
        )
        self.supply = supply

    def _refusal(self, linear: Linear) -> str:
        return gain_refusal(linear, self.gamma, self.rate)
