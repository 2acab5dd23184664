"""The equilibrium networks: dissipation, gain and contraction for any sizes and parameters; exact linear starts."""

import numpy as np
import pytest
import torch
from attacks import dissipation_gaps, worst_gain
from hypothesis import given, settings
from hypothesis import strategies as st

from controlrnn.certification import certify_by_construction
from controlrnn.data import Scaler
from controlrnn.errors import ControlRnnError, SettingError
from controlrnn.models import ContractingREN, DissipativeREN, LipschitzR2DN, LipschitzREN
from controlrnn.models.parts.linear_start import Linear


def randomise(model, seed, scale):
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=rng))
    return model


def supply(nu, ny, seed):
    rng = np.random.default_rng(seed)
    return {"Q": -0.5 * np.eye(ny), "S": rng.normal(size=(nu, ny)), "R": 0.1 * np.eye(nu)}


BOUNDED = {
    "LipschitzREN": lambda gamma, **k: LipschitzREN(gamma=gamma, nv=5, **k),
    "LipschitzR2DN": lambda gamma, **k: LipschitzR2DN(gamma=gamma, nv=3, layers=(5, 4), **k),
}
bounded = pytest.mark.parametrize("make", BOUNDED.values(), ids=list(BOUNDED))


@bounded
@settings(max_examples=15)
@given(
    seed=st.integers(0, 10**6), nu=st.integers(1, 3), ny=st.integers(1, 3), scale=st.sampled_from([0.3, 1.0, 10.0]),
    rate=st.sampled_from([0.9, 1.0]), gamma=st.sampled_from([0.01, 2.0, 1e4]), feedthrough=st.booleans(),
)  # fmt: skip
def test_bounded_models_dissipate_for_any_sizes_and_parameters(make, seed, nu, ny, scale, rate, gamma, feedthrough):
    model = make(gamma, nu=nu, ny=ny, nx=3, rate=rate, feedthrough=feedthrough, seed=seed % 100)
    randomise(model, seed, scale)
    rng = np.random.default_rng(seed)
    model.set_units(
        Scaler(rng.normal(size=nu), rng.uniform(0.1, 10, nu)),
        Scaler(rng.normal(size=ny), rng.uniform(0.1, 10, ny)),
        1.0,
    )
    promise, system = model.guarantee(), model.freeze()
    gaps, size = dissipation_gaps(system, promise, seed=seed)
    assert (gaps >= -1e-8 * size).all()
    assert feedthrough or not system.has_feedthrough


@bounded
@pytest.mark.parametrize("sizes", [(1, 1), (2, 3), (3, 2)], ids=str)
@pytest.mark.parametrize("seed", [0, 1])
def test_no_attack_exceeds_the_gain_bound(make, sizes, seed):
    nu, ny = sizes
    model = randomise(make(2.0, nu=nu, ny=ny, nx=3, feedthrough=True, seed=seed), seed, 0.4)
    model.set_units(Scaler(np.zeros(nu), np.full(nu, 0.1)), Scaler(np.zeros(ny), np.full(ny, 30.0)), 1.0)
    found = worst_gain(model.freeze(), np.full(nu, 0.1), np.full(ny, 30.0), seed=seed)
    assert 1e-3 < found <= 2.0, "above the bound, or so far below that nothing was tested"


def test_the_attack_comes_close_to_a_linear_gain():
    A, B, C = np.array([[0.7]]), np.array([[1.0]]), np.array([[0.3]])
    for make in BOUNDED.values():
        model = make(1.05, nu=1, ny=1, nx=1).double()
        model.start_linear(A, B, C)
        assert 0.9 < worst_gain(model.freeze(), np.ones(1), np.ones(1), steps=200, length=40) <= 1.05


@pytest.mark.parametrize("sizes", [(1, 1), (2, 3), (3, 2)], ids=str)
@pytest.mark.parametrize("seed", range(3))
def test_dissipative_ren_keeps_its_supply(sizes, seed):
    nu, ny = sizes
    model = DissipativeREN(nu=nu, ny=ny, nx=3, nv=5, rate=0.95, feedthrough=True, seed=seed, **supply(nu, ny, seed))
    randomise(model, seed, 0.7)
    gaps, size = dissipation_gaps(model.freeze(), model.guarantee(), seed=seed)
    assert (gaps >= -1e-8 * size).all()
    assert certify_by_construction(model).dissipation.margin > 0


def test_a_passive_network_never_gives_more_than_it_took():
    nu = 2
    model = DissipativeREN(
        nu=nu, ny=nu, nx=3, nv=5, Q=-1e-3 * np.eye(nu), S=0.5 * np.eye(nu), R=np.zeros((nu, nu)), feedthrough=True
    )
    system = randomise(model, 1, 0.5).freeze()
    rng = np.random.default_rng(0)
    u = rng.normal(size=(2, 20, 50, nu)) * 3
    y = [system.simulate(v, np.zeros((20, 3)))[0] for v in u]
    work = np.cumsum(((y[0] - y[1]) * (u[0] - u[1])).sum(axis=-1), axis=-1)
    assert (work > 0).all()
    gaps, size = dissipation_gaps(system, model.guarantee())
    assert (gaps >= -1e-8 * size).all()
    proof = certify_by_construction(model).dissipation
    assert proof.margin > 0
    assert not proof.R.any()
    with pytest.raises(SettingError, match="feedthrough=True"):
        DissipativeREN(nu=1, ny=1, nx=1, Q=-np.eye(1), S=np.eye(1), R=np.zeros((1, 1)))


@pytest.mark.parametrize("bad", [
    {"Q": np.eye(1)}, {"Q": np.zeros((1, 1))}, {"R": -np.eye(1)}, {"S": np.zeros((2, 1))},
])  # fmt: skip
def test_impossible_supplies_are_refused(bad):
    good = {"Q": -np.eye(1), "S": np.zeros((1, 1)), "R": np.eye(1)}
    with pytest.raises(ValueError, match=r"Q|R|S"):
        DissipativeREN(nu=1, ny=1, nx=1, **(good | bad))


@pytest.mark.parametrize("name", ["ContractingREN", *BOUNDED])
@pytest.mark.parametrize("sizes", [(1, 1), (2, 3), (3, 2)], ids=str)
@pytest.mark.parametrize("feedthrough", [False, True])
@pytest.mark.parametrize("rate", [0.95, 1.0])
def test_linear_start_is_exact(name, sizes, feedthrough, rate):
    nu, ny = sizes
    rng = np.random.default_rng(nu + 10 * ny)
    A = rng.normal(size=(4, 4))
    A *= 0.85 / np.abs(np.linalg.eigvals(A)).max()
    B, C, D = rng.normal(size=(4, nu)), rng.normal(size=(ny, 4)), feedthrough * rng.normal(size=(ny, nu))
    gain = Linear(A, B, C, D).gain(rate)
    options = {"nu": nu, "ny": ny, "nx": 4, "rate": rate, "feedthrough": feedthrough}
    model = ContractingREN(**options) if name == "ContractingREN" else BOUNDED[name](1.05 * gain, **options)
    model = randomise(model, 3, 0.3).double()
    model.start_linear(A, B, C, D)
    system = model.freeze()
    for found, expected in ((system.A, A), (system.B2, B), (system.C2, C), (system.D22, D)):
        np.testing.assert_allclose(found, expected, atol=1e-8)
    assert np.abs(system.B1).max() < 1e-8
    assert np.abs(system.D21).max() < 1e-8
    assert np.abs(system.C1).max() > 1e-3, "the neurons are cut off, so training could not move them"
    assert certify_by_construction(model).contraction.margin > 0
    if name != "ContractingREN":
        with pytest.raises(SettingError, match=r"gain.*below gamma.*got at least"):
            BOUNDED[name](0.9 * gain, **options).start_linear(A, B, C, D)


@pytest.mark.parametrize("gamma", [1.0, 1e6])
def test_a_large_bound_trains_as_well_as_none(gamma):
    """One Adam step moves D22 and the dynamics by about the learning rate, whatever gamma."""
    model = LipschitzREN(nu=1, ny=1, nx=2, gamma=gamma, feedthrough=True)
    before = model.freeze()
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
    (model(torch.ones(20, 1)) - 3).square().mean().backward()
    optimiser.step()
    after = model.freeze()
    assert 1e-3 < np.abs(after.D22 - before.D22).max() < 0.1
    assert 1e-4 < np.abs(after.B2 - before.B2).max() < 0.3
    assert np.abs(after.A - before.A).max() < 0.5


@bounded
def test_float32_training_freezes_to_a_float64_proof(make):
    for seed in range(4):
        model = randomise(make(3.0, nu=1, ny=2, nx=3, feedthrough=bool(seed % 2), seed=seed), seed, 0.3)
        optimiser = torch.optim.Adam(model.parameters(), lr=1e-2)
        u = torch.randn(4, 20, 1, generator=torch.Generator().manual_seed(seed))
        for _ in range(3):
            optimiser.zero_grad()
            (model(u) - u).square().mean().backward()
            optimiser.step()
        assert all(p.dtype is torch.float32 for p in model.parameters())
        construction = certify_by_construction(model)
        assert construction.contraction.margin > 0
        assert construction.dissipation.margin > 0


@pytest.mark.slow
@bounded
def test_a_hundred_float32_parameter_sets_are_proven(make):
    for seed in range(100):
        model = randomise(
            make(3.0, nu=2, ny=2, nx=4, feedthrough=bool(seed % 2), seed=seed), seed, 10.0 ** (seed % 3 - 1)
        )
        assert certify_by_construction(model).dissipation.margin > 0


@bounded
@pytest.mark.parametrize("feedthrough", [False, True])
def test_gain_bounds_are_of_a_size_that_parameters_can_hold(make, feedthrough):
    make(1e15, nu=1, ny=1, nx=2, feedthrough=feedthrough).freeze()
    for gamma in (1.1e15, 1.7e308, 0.9e-15, 5e-324, 0.0, np.nan):
        with pytest.raises(SettingError, match="gamma must be a"):
            make(gamma, nu=1, ny=1, nx=2, feedthrough=feedthrough)


@pytest.mark.parametrize("sizes", [
    (1.0, 1e300, 1.0), (5e-324, 1.0, 1.0), (1.0, 1e150, 1e308), (1e-300, 1e10, 1.0), (1e308, 1e308, 1e308),
    (1e-308, 0.0, 1e308), (1e-150, 1e-200, 1e308),
])  # fmt: skip
def test_supplies_that_float64_cannot_hold_are_refused_or_made(sizes):
    q, s, r = sizes
    Q, S, R = -q * np.eye(2), s * np.eye(2), r * np.eye(2)
    for feedthrough in (False, True):
        try:
            system = DissipativeREN(nu=2, ny=2, nx=2, Q=Q, S=S, R=R, feedthrough=feedthrough).freeze()
        except ControlRnnError:
            continue
        assert all(np.isfinite(getattr(system, name)).all() for name in ("A", "B1", "B2", "C1", "C2", "D22"))
