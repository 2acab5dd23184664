"""Comparison systems of gated networks, against ball arithmetic: no difference grows by more."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from inequality_cases import FAST, SEEDS

from controlrnn.certification.proof.gated import Comparison
from controlrnn.errors import CertificationError
from controlrnn.systems import GatedSystem

pytest.importorskip("flint", reason="python-flint gives the ball arithmetic (extra audit)")

from controlrnn.certification.ball.arithmetic import number, precision, row
from controlrnn.certification.refutation.trajectories import step


def lstm(b, U=0.0, W=0.0):
    z = np.zeros
    ones = np.ones((4, 1))
    return GatedSystem(W=W * ones, U=U * ones, b=np.array(b, float), C=np.ones((1, 1)), by=z(1), cell="lstm", dt=1.0)


def test_gates_that_underflow_still_let_something_through():
    """s(-800) = 4e-348 is no float64, but what it lets through of 1e308 is more than 1e-300 of another unit."""
    system = lstm([0.0, -800.0, 5.0, 0.0])
    bound = Comparison(system, (np.zeros(1), np.zeros(1)), np.array([1.0, 2.0]))
    assert bound.rate(np.array([1e-300, 1e308])) > 1e200
    system = lstm([0.0, -1.0, -690.0, 0.0], U=np.array([[0.0], [1e-30], [0.0], [0.0]]))
    bound = Comparison(system, (np.zeros(1), np.zeros(1)), np.array([1.0, 1e308]))
    assert bound.rate(np.array([1e-300, 1e-30])) > 1e7


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@FAST
@given(seed=SEEDS)
def test_comparison_systems_bound_every_difference(cell, seed):
    rng = np.random.default_rng(seed)
    n, gates = 2, 4 if cell == "lstm" else 3
    draw = rng.standard_normal
    system = GatedSystem(
        W=draw((gates * n, 1)), U=0.4 * draw((gates * n, n)), b=rng.uniform(-2, 2) + draw(gates * n), C=np.ones((1, n)),
        by=np.zeros(1), cell=cell, dt=1.0,
    )  # fmt: skip
    low = rng.uniform(-1, 0, 1)
    ends = low, low + rng.random(1) * 10.0 ** rng.uniform(-6, 0)
    bound = Comparison(system, ends)
    x = rng.uniform(-1, 1, (2, system.nx)) * bound.state
    x[1] = np.clip(x[0] + 10.0 ** rng.uniform(-9, 0) * rng.standard_normal(system.nx), -bound.state, bound.state)
    u = rng.uniform(*ends, (2, 1))
    dx, du = np.abs(x[1] - x[0]), np.abs(u[1] - u[0])
    with precision(300):
        one, other = (step(system, row(a), row(b))[0] for a, b in zip(x, u, strict=True))
        moved = [abs(b - a) for a, b in zip(one, other, strict=True)]
        most = bound(dx * (1 + 2.0**-52), du * (1 + 2.0**-52))
        assert all(m <= number(b) for m, b in zip(moved, most, strict=True))
        assert all(abs(v) <= number(b) for v, b in zip([*one, *other], [*bound.state, *bound.state], strict=True))
    scale = 0.5 + rng.random(system.nx)
    assert bound.rate(scale) >= (bound(scale, np.zeros(1)) / scale).max()
    assert bound.gains(scale)[0] >= (bound(np.zeros(system.nx), np.ones(1)) / scale).max()
    with pytest.raises(CertificationError, match="state_bound"):
        Comparison(system, ends, 0.999 * bound.state)
    with pytest.raises(CertificationError, match="state_bound"):
        Comparison(system, ends, np.concatenate([np.full(n, 1.5), 2 * bound.state[n:]]))
    Comparison(system, ends, np.concatenate([np.ones(n), 2 * bound.state[n:]]))


def test_gates_without_slack_are_met():
    """A GRU of one unit without inputs: the bound of small differences is nearly the derivative's."""
    z = np.zeros
    system = GatedSystem(
        W=z((3, 1)), U=np.array([[0.0], [0.0], [0.5]]), b=z(3), C=np.ones((1, 1)), by=z(1), cell="gru", dt=1.0
    )
    bound = Comparison(system, (np.zeros(1), np.zeros(1)))
    assert bound(np.ones(1), np.zeros(1))[0] == pytest.approx(0.5 + 0.5 * 0.5 * 0.5, rel=1e-12)
    tight = lstm([0.0, 0.0, 0.0, 0.5])
    found = Comparison(tight, (np.zeros(1), np.zeros(1)))
    cell = 0.5 * np.tanh(0.5) / 0.5
    assert found.state == pytest.approx([1.0, cell], rel=1e-12)
    assert found(np.array([0.0, 1.0]), np.zeros(1)) == pytest.approx([0.25, 0.5], rel=1e-12)
    driven = lstm([0.0, 0.0, 0.0, 0.0], W=1.0)
    found = Comparison(driven, (np.zeros(1), np.zeros(1)))
    # dc = i dg + c df + g di with c = g = 0, dg = du; dh = o dc + tanh(c) do
    assert found(np.zeros(2), np.ones(1)) == pytest.approx([0.25, 0.5], rel=1e-9, abs=1e-9)
    with pytest.raises(CertificationError, match="overflow"), np.errstate(all="ignore"):
        Comparison(replace(driven, b=np.full(4, 1e308), W=np.full((4, 1), 1e308)), (np.ones(1), np.ones(1)))
    with pytest.raises(CertificationError, match="forget"):
        Comparison(lstm([0.0, 60.0, 0.0, 0.0]), (np.zeros(1), np.zeros(1)))
