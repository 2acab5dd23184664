import numpy as np
import pytest
import torch

from controlrnn.errors import ShapeError
from controlrnn.kernels.sensitivity import Sensitivities
from controlrnn.systems import MATRICES, LureSystem

ACTIVATIONS = ["tanh", "relu", "sigmoid", "leaky_relu"]


def system(layers, activation, rng, nx=3, nu=2, ny=2):
    nv = sum(layers)
    shapes = {
        "A": (nx, nx), "B1": (nx, nv), "B2": (nx, nu), "bx": (nx,), "C1": (nv, nx), "D11": (nv, nv), "D12": (nv, nu),
        "bv": (nv,), "C2": (ny, nx), "D21": (ny, nv), "D22": (ny, nu), "by": (ny,),
    }  # fmt: skip
    values = {n: 0.3 * rng.normal(size=s) for n, s in shapes.items()}
    layer = np.repeat(np.arange(len(layers)), layers)
    below = layer[:, None] > layer[None, :]
    values["D11"] = values["D11"] * below
    mask = np.concatenate([below.ravel() if n == "D11" else np.ones(v.size, bool) for n, v in values.items()])
    return LureSystem(**values, layers=layers, activation=activation, dt=1.0), mask


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("layers", [(), (4,), (1, 1, 1), (2, 3)])
def test_derivatives_equal_those_of_automatic_differentiation(layers, activation):
    rng = np.random.default_rng(7)
    frozen, mask = system(layers, activation, rng)
    u, x0 = rng.normal(size=(9, 2)), rng.normal(size=3)
    tensors = [torch.tensor(getattr(frozen, n)) for n in MATRICES]

    def outputs(x0, *matrices):
        same = LureSystem(**dict(zip(MATRICES, matrices, strict=True)), layers=layers, activation=activation, dt=1.0)
        y, x = same.simulate(torch.tensor(u), x0)
        return torch.cat([y.reshape(-1), x[-1]])

    parts = torch.autograd.functional.jacobian(outputs, (torch.tensor(x0), *tensors))
    by_entries = np.concatenate([p.reshape(len(p), -1).numpy() for p in parts[1:]], axis=1)
    expected = np.concatenate([by_entries[:, mask], parts[0].numpy()], axis=1)
    x = frozen.simulate(u, x0)[1]
    tool = Sensitivities(frozen, mask)
    dy, dx = tool.run(u, x[:-1], tool.start())
    np.testing.assert_allclose(np.concatenate([dy.reshape(18, -1), dx]), expected, atol=1e-12)
    # In two pieces it is the same: long records are followed piece by piece.
    first, middle = tool.run(u[:4], x[:4], tool.start())
    second, end = tool.run(u[4:], x[4:-1], middle)
    np.testing.assert_allclose(np.concatenate([first, second]), dy, atol=1e-14)
    np.testing.assert_allclose(end, dx, atol=1e-14)
    # A selection gives the same columns.
    some = mask & (rng.random(len(mask)) < 0.5)
    part, _ = Sensitivities(frozen, some).run(u, x[:-1], Sensitivities(frozen, some).start())
    np.testing.assert_allclose(part[..., : some.sum()], dy[..., np.flatnonzero(some[mask])], atol=1e-14)


def test_entries_that_are_zero_by_definition_cannot_be_selected():
    frozen, mask = system((2, 2), "tanh", np.random.default_rng(0))
    with pytest.raises(ShapeError, match="block diagonal"):
        Sensitivities(frozen, np.ones_like(mask))
    with pytest.raises(ShapeError, match="flatten"):
        Sensitivities(frozen, mask[:-1])
