"""s-RNN, ci-RNN and Theta_* as sets of networks: each inside the next by construction, and what the next has more.

A ci-RNN E x+ = s(H x + K u + b) with diagonal P lies in Theta_* for the same states: with X = E'P^-1 E,

    E_r = P_r = X,   F = 0,   B1 = E'P^-1,   C1 = P^-1 H,   D12 = P^-1 K,   L = P^-1

The Schur complement by the last block leaves [X, -H'P^-1; -P^-1 H, P^-1] > 0, that is X > H'P^-1 H, which holds since
X >= E + E' - P.

The other way: x+ = a x + u, y = x lies in Theta_*, and its output takes both signs; a ci-RNN of one ReLU state has
y >= d ever after, or y <= d. With two ReLU states, x = x1 - x2, and |a| < 1/2 even an s-RNN is that system: the sets
differ at equal numbers of states. And positive scalings pass through a ReLU: with T = P^1/2 the states T^-1 E x of a
ci-RNN are those of an s-RNN, whose weight T^-1 H E^-1 T has norm below one. Under tanh, equal behaviour of minimal
networks means equal weights up to order and signs (Albertini & Sontag, "For neural networks, function determines form",
Neural Networks 1993), so that there a ci-RNN with |H E^-1| >= 1 is no s-RNN of as many states.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from controlrnn.checks import Array
from controlrnn.kernels import simulate
from controlrnn.models import ContractingImplicitRNN, Model, RobustRNN, StableRNN
from controlrnn.systems import LureSystem
from experiments.shared.study import Row

NX = 5
_DRAWS, _STEPS = 20, 200
_CLOSE = 1e-6  # difference of outputs, relative, up to which two networks are the same


def check(seed: int) -> Row:
    """Whether each inclusion holds in every draw, the largest difference of outputs, and what the other way gives."""
    rng = np.random.default_rng(seed)
    u = rng.uniform(-3, 3, (4, _STEPS, 1))
    row: Row = {}
    draws: dict[str, list[tuple[Model, Model]]] = {
        "s_in_ci": [_s_in_ci(_stable(rng, seed + n, kind)) for n in range(_DRAWS) for kind in ("relu", "tanh")],
        "ci_in_star": [_ci_in_star(implicit(seed + n, kind)) for n in range(_DRAWS) for kind in ("relu", "tanh")],
        "relu_ci_in_s": [_ci_in_s(implicit(seed + n, "relu")) for n in range(_DRAWS)],
    }
    for name, pairs in draws.items():
        gaps = [gap(inner.system(), outer.system(), u) for inner, outer in pairs]
        row[f"{name}_gap"] = max(gaps)
        row[name] = max(gaps) < _CLOSE and all(outer.guarantee() is not None for _, outer in pairs)
    norms = [_norm(implicit(seed + n, "tanh")) for n in range(_DRAWS)]
    return row | {"tanh_norm": max(norms)} | _linear(u)


def _linear(u: Array) -> Row:
    """x+ = a x + u as a member of Theta_*: outputs of both signs; two ReLU states of an s-RNN that do the same."""
    robust = RobustRNN(nu=1, ny=1, nx=1, nv=1, activation="relu").double()
    robust.start_linear(np.array([[0.4]]), np.array([[1.0]]), np.array([[1.0]]))
    y, _ = simulate(robust.freeze(), u)
    one = ContractingImplicitRNN(nu=1, ny=1, nx=1, activation="relu").double()
    z = simulate(one.freeze(), u)[0][:, 1:] - one.d.item()
    two = StableRNN(nu=1, ny=1, nx=2, activation="relu").double()
    assert two.N is not None
    two.N.start_at(0.4 * np.array([[1.0, -1.0], [-1.0, 1.0]]))
    put(two, U=np.array([[1.0], [-1.0]]), b=np.zeros(2), C=np.array([[1.0, -1.0]]), d=np.zeros(1))
    return {
        "linear_in_star": robust.guarantee() is not None, "linear_low": float(y.min()), "linear_high": float(y.max()),
        "one_state_signs": int((z > 1e-9).any()) + int((z < -1e-9).any()),
        "two_states_gap": gap(two.system(), robust.system(), u),
        "two_states_in_s": two.guarantee() is not None,
    }  # fmt: skip


def _stable(rng: np.random.Generator, seed: int, kind: str) -> StableRNN:
    """s-RNN with a weight of random norm below one."""
    model = StableRNN(nu=1, ny=1, nx=NX, activation=kind, seed=seed).double()
    W = rng.normal(size=(NX, NX))
    assert model.N is not None
    model.N.start_at(rng.uniform(0.5, 0.99) * W / np.linalg.norm(W, 2))
    return model


def implicit(seed: int, kind: str) -> ContractingImplicitRNN:
    """ci-RNN with random parameters, all of which lie in the set."""
    model = ContractingImplicitRNN(nu=1, ny=1, nx=NX, activation=kind, seed=seed).double()
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.5 * torch.randn(parameter.shape, generator=rng, dtype=torch.float64))
    return model


def _s_in_ci(inner: StableRNN) -> tuple[StableRNN, ContractingImplicitRNN]:
    """The s-RNN and the ci-RNN with E = P = I, H = W, which meets the inequality where |W| < 1."""
    outer = ContractingImplicitRNN(nu=1, ny=1, nx=NX, activation=inner.activation).double()
    outer.N.start_at(inner.system().C1.detach().numpy())
    put(outer, K=inner.U, b=inner.b, C=inner.C, d=inner.d)
    return inner, outer


def _ci_in_star(inner: ContractingImplicitRNN) -> tuple[ContractingImplicitRNN, RobustRNN]:
    """The ci-RNN and the member of Theta_* that it is; see the module docstring."""
    E, H, p = (M.detach().numpy() for M in inner._implicit())
    X, weight = E.T @ (E / p[:, None]), 1 / p
    outer = RobustRNN(nu=1, ny=1, nx=NX, nv=NX, activation=inner.activation).double()
    put(
        outer,
        E=X,
        P=X,
        F=np.zeros((NX, NX)),
        B1=E.T * weight,
        B2=np.zeros((NX, 1)),
        C1=weight[:, None] * H,
        D12=weight[:, None] * inner.K.detach().numpy(),
        L=weight,
        C2=inner.C,
        bx=np.zeros(NX),
        bv=inner.b,
        by=inner.d,
    )
    return inner, outer


def _ci_in_s(inner: ContractingImplicitRNN) -> tuple[ContractingImplicitRNN, StableRNN]:
    """The ReLU ci-RNN and the s-RNN that it is in scaled states; see the module docstring."""
    E, H, p = (M.detach().numpy() for M in inner._implicit())
    T = p**0.5
    W = H @ np.linalg.inv(E) * T / T[:, None]
    outer = StableRNN(nu=1, ny=1, nx=NX, activation="relu").double()
    assert outer.N is not None
    outer.N.start_at(W)
    put(
        outer,
        U=inner.K.detach().numpy() / T[:, None],
        b=inner.b.detach().numpy() / T,
        C=inner.C.detach().numpy() @ np.linalg.inv(E) * T,
        d=inner.d,
    )
    return inner, outer


def _norm(model: ContractingImplicitRNN) -> float:
    """Norm of the weight H E^-1 of a ci-RNN in the states E x."""
    E, H, _ = (M.detach().numpy() for M in model._implicit())
    return float(np.linalg.norm(H @ np.linalg.inv(E), 2))


@torch.no_grad()
def put(model: torch.nn.Module, **values: Any) -> None:
    """Set parameters by name."""
    for name, value in values.items():
        getattr(model, name).copy_(torch.as_tensor(value))


@torch.no_grad()
def gap(one: LureSystem, other: LureSystem, u: Array) -> float:
    """Largest difference of outputs from rest, relative to the largest output; states must both start where x is 0."""
    first, second = (simulate(system, torch.tensor(u))[0] for system in (one, other))
    return float((first - second).abs().max() / first.abs().max())
