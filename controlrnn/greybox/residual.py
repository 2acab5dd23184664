"""Residual network beside the equations: a few tanh neurons, small by a penalty, for what physics leaves unexplained.

    x+ = f(x, u, p) + S W tanh(G (x - m_x) / h_x + H (u - m_u) / h_u + b)

with middles m and half widths h of the boxes; S is a tenth of the states' half widths, so that |W| = 1 is much. The
ridge on W lets physics explain first.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from controlrnn.checks import Array
from controlrnn.greybox.equations import Equations
from controlrnn.greybox.tracing import Traced
from controlrnn.systems import MATRICES, Law, Laws, LureSystem, Neuron

_SIZE = 0.1


@dataclass(frozen=True)
class Residual:
    """Tanh neurons beside equations, by their numbers theta = (G, H, b, W), flattened.

    Args:
        equations: The equations.
        neurons: Number of neurons n.
    """

    equations: Equations
    neurons: int

    @property
    def sizes(self) -> tuple[int, int, int, int]:
        """Numbers in G, H, b and W."""
        n, nx, nu = self.neurons, len(self.equations.states), len(self.equations.inputs)
        return n * nx, n * nu, n, nx * n

    @property
    def weights(self) -> slice:
        """Place of W in theta."""
        total = sum(self.sizes)
        return slice(total - self.sizes[3], total)

    def start(self, rng: np.random.Generator) -> Array:
        """Starting values: random input weights, and output weights of zero, so that there is no effect yet."""
        nz = len(self.equations.states) + len(self.equations.inputs)
        theta = np.asarray(rng.standard_normal(sum(self.sizes)) / np.sqrt(max(nz, 1)))
        theta[self.weights] = 0.0
        return theta

    def added(self, traced: Traced, theta: Array) -> Traced:
        """The system with these neurons in front, and its derivatives by (parameters, theta)."""
        n, system, Q = self.neurons, traced.system, len(theta)
        if not n:
            return traced
        nx, nu, ny, nv = system.sizes
        states, inputs = self.equations.boxes()
        (mx, hx), (mu, hu) = ((box.mean(axis=1), 0.5 * (box[:, 1] - box[:, 0])) for box in (states, inputs))
        one = np.eye(Q)
        G, H, b, W = np.split(theta, np.cumsum(self.sizes)[:-1])
        dG, dH, db, dW = np.split(one, np.cumsum(self.sizes)[:-1])
        new = {
            "C1": (G.reshape(n, nx) / hx, dG.reshape(n, nx, Q) / hx[:, None]),
            "D12": (H.reshape(n, nu) / hu, dH.reshape(n, nu, Q) / hu[:, None]),
            "B1": (_SIZE * hx[:, None] * W.reshape(nx, n), _SIZE * hx[:, None, None] * dW.reshape(nx, n, Q)),
        }
        bias = [b - new["C1"][0] @ mx - new["D12"][0] @ mu]
        bias.append(db - np.einsum("nxq,x->nq", new["C1"][1], mx) - np.einsum("nuq,u->nq", new["D12"][1], mu))
        new["bv"] = (bias[0], bias[1])
        none = np.zeros
        new["D11"] = none((n, n)), none((n, n, Q))
        new["D21"] = none((ny, n)), none((ny, n, Q))
        P = next(iter(traced.derivatives.values())).shape[-1]
        matrices, derivatives = {}, {}
        for name in MATRICES:
            old, by = getattr(system, name), traced.derivatives[name]
            own = np.concatenate([by, none((*old.shape, Q))], axis=-1)
            if name not in new:
                matrices[name], derivatives[name] = old, own
                continue
            value, slope = new[name]
            slope = np.concatenate([none((*value.shape, P)), slope], axis=-1)
            if name == "D11":
                matrices[name] = np.block([[value, none((n, nv))], [none((nv, n)), old]])
                derivatives[name] = none((n + nv, n + nv, P + Q))
                derivatives[name][n:, n:] = own
            else:
                axis = 1 if name in ("B1", "D21") else 0
                matrices[name] = np.concatenate([value, old], axis=axis)
                derivatives[name] = np.concatenate([slope, own], axis=axis)
        rest = list(system.activation.neurons) if isinstance(system.activation, Laws) else _alike(system)
        layers = (n + system.layers[0], *system.layers[1:]) if system.layers else (n,)
        laws = Laws([Neuron(Law.TANH)] * n + rest)
        return Traced(LureSystem(**matrices, activation=laws, layers=layers, dt=system.dt), derivatives)

    def share(self, system: LureSystem, x: Array, u: Array) -> Array:
        """Share of the variance of the states' changes that these neurons make, shape (nx,), along a run.

        Args:
            system: From `added`.
            x: States, shape (T, nx).
            u: Inputs, shape (T, nu).
        """
        drive = u @ system.D12.T + system.bv
        own = system.neurons(x, drive)[:, : self.neurons] @ system.B1[:, : self.neurons].T
        change = system.step(x, u) - x
        return np.asarray(own.var(axis=0) / np.maximum(change.var(axis=0), 1e-300))


def _alike(system: LureSystem) -> list[Neuron]:
    return [Neuron(Law(str(system.activation)))] * system.nv


def without(system: LureSystem, neurons: int) -> LureSystem:
    """The system without the effect of its first ``neurons`` neurons: physics alone."""
    B1 = np.array(system.B1)
    B1[:, :neurons] = 0.0
    return replace(system, B1=B1)
