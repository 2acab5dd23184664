"""Feed-forward networks of sandwich layers, 1-Lipschitz for every parameter value.

Wang & Manchester, "Direct parameterization of Lipschitz-bounded deep networks", ICML 2023, eqs. 8-13.

A layer n_in -> n with free U (n, n), V (n_in, n), d (n), b (n):

    Z = U - U' + V'V,   A' = (I + Z)^-1 (I - Z),   B' = -2 V (I + Z)^-1,   so that A A' + B B' = I,
    h -> sqrt2 A' Psi s(sqrt2 Psi^-1 B h + b),     Psi = diag(exp d);

the last layer is linear, h -> B h + b. The multiplier that proves it 1-Lipschitz is Psi^2:

    |h|^2 - |out|^2 - 2 w'Psi^2 (v - w) = |h - sqrt2 B'Psi w|^2 >= 0      (differences of two evaluations)

That is only semidefinite. Here a factor just below one multiplies both sqrt2, which adds 2 (1 - factor^2) |Psi w|^2, so
that the inequality survives rounding.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from controlrnn.models.parts.draws import normal

_ROOT = (2 * (1 - 1e-6)) ** 0.5


@dataclass(frozen=True, eq=False)
class Folded:
    """Network h -> y with the linear maps between its activations multiplied out.

    v = Cin h + D11 w + bv,  w = s(v),  y = Cout w + bout. Shapes: Cin (nv, n_in), D11 (nv, nv), Cout (n_out, nv);
    multipliers (nv,) prove |dy| <= |dh|.
    """

    Cin: Tensor
    D11: Tensor
    bv: Tensor
    Cout: Tensor
    bout: Tensor
    multipliers: Tensor
    layers: tuple[int, ...]


class CayleyPair(nn.Module):
    """Parameterisation of a pair A (n, n), B (n, n_in) with A A' + B B' = I."""

    def __init__(self, n_in: int, n: int, rng: torch.Generator) -> None:
        super().__init__()
        self.n = n
        self.XY = normal(rng, n + n_in, n, std=(n + n_in) ** -0.5)
        self.a = nn.Parameter(self.XY.detach().norm())

    def pair(self) -> tuple[Tensor, Tensor]:
        """Matrices A and B."""
        n = self.n
        # The bound keeps the pair finite at XY = 0, where it is (I, 0).
        UV = self.a / self.XY.norm().clamp_min(1e-9) * self.XY
        U, V = UV[:n], UV[n:]
        eye = torch.eye(n, dtype=UV.dtype, device=UV.device)
        Z = U - U.T + V.T @ V
        # A' and B' both contain (I + Z)^-1: one factorisation serves the two.
        inverse = torch.linalg.inv(eye + Z)
        return (inverse @ (eye - Z)).T, (-2 * V @ inverse).T


class SandwichNetwork(nn.Module):
    """Network R^n_in -> R^n_out that is 1-Lipschitz for every parameter value.

    Args:
        n_in: Number of inputs.
        n_out: Number of outputs.
        layers: Sizes of the hidden layers, at least one.
        rng: Generator of the initial parameters.
    """

    def __init__(self, n_in: int, n_out: int, layers: tuple[int, ...], rng: torch.Generator) -> None:
        super().__init__()
        self.layers = tuple(layers)
        widths = [n_in, *layers, n_out]
        self.maps = nn.ModuleList(CayleyPair(a, b, rng) for a, b in pairwise(widths))
        self.d = nn.ParameterList(nn.Parameter(torch.zeros(n)) for n in layers)
        self.b = nn.ParameterList(normal(rng, n, std=0.3) for n in layers)
        self.b_out = nn.Parameter(torch.zeros(n_out))

    def fold(self) -> Folded:
        """Multiply out the linear maps between activations, as the Lur'e form needs them."""
        Cin: list[Tensor] = []
        rows: list[Tensor] = []
        back: Tensor | None = None  # the map from the last activation to the next layer's input
        for cayley, d, n in zip(self.maps, self.d, self.layers, strict=False):
            A, B = cayley.pair()  # type: ignore[operator]  # ModuleList forgets the type of its members
            psi = torch.exp(_bounded(d))[:, None]
            into = _ROOT * B / psi
            Cin.append(into if back is None else into.new_zeros(n, Cin[0].shape[1]))
            done = sum(self.layers[: len(rows)])
            # A layer reads the activations of the layer before it only: zeros to the left of that block.
            left = into.new_zeros(n, done) if back is None else _pad_left(into @ back, done)
            rows.append(torch.cat([left, into.new_zeros(n, sum(self.layers) - done)], dim=1))
            back = _ROOT * A.T * psi.T
        _, B_out = self.maps[-1].pair()  # type: ignore[operator]
        assert back is not None
        return Folded(
            torch.cat(Cin),
            torch.cat(rows),
            torch.cat(list(self.b)),
            _pad_left(B_out @ back, sum(self.layers)),
            self.b_out,
            torch.exp(2 * _bounded(torch.cat(list(self.d)))),
            self.layers,
        )

    def forward(self, h: Tensor) -> Tensor:
        """Evaluate the network with tanh, (..., n_in) -> (..., n_out), for tests of the Lipschitz bound."""
        net = self.fold()
        v, start = h @ net.Cin.T + net.bv, 0
        w: list[Tensor] = []
        for n in self.layers:
            layer = v[..., start : start + n]
            if w:
                layer = layer + torch.cat(w, -1) @ net.D11[start : start + n, :start].T
            w.append(torch.tanh(layer))
            start += n
        return torch.cat(w, -1) @ net.Cout.T + net.bout


def _bounded(d: Tensor) -> Tensor:
    """Limit ``d`` so that the multipliers exp(2 d) stay between 2e-9 and 5e8, which no network needs to leave."""
    return d.clamp(-10.0, 10.0)


def _pad_left(block: Tensor, width: int) -> Tensor:
    """Put zero columns in front of ``block`` so that it has ``width`` columns."""
    return torch.cat([block.new_zeros(block.shape[0], width - block.shape[1]), block], dim=1)
