"""Noise-robust learning: the covariance against Monte Carlo, the bound above it, and the printed formula's fault."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from random_systems import random_elman, random_system

from controlrnn.data import Dataset, Trajectory
from controlrnn.errors import SettingError, ShapeError
from controlrnn.identification import (
    Batch,
    Decaying,
    NoiseCovariance,
    NoiseUpperBound,
    Simulation,
    SimulationError,
    StretchPenalty,
    identify,
    last_output_covariance,
    output_covariance,
    output_noise_bound,
    step_norm,
)
from controlrnn.kernels import simulate
from controlrnn.models import ContractingR2DN
from controlrnn.systems import MATRICES, GatedSystem, LureSystem

STRUCTURES = [(), (4,), (3, 2), (1, 1, 1), (4, 3, 2)]


def tensors(system):
    return replace(system, **{n: torch.tensor(np.array(getattr(system, n))) for n in MATRICES})


def inputs(system, batch=1, steps=12, seed=0):
    return np.random.default_rng(seed).normal(size=(batch, steps, system.nu))


def trace(R):
    return R.diagonal(dim1=-2, dim2=-1).sum(-1)


def noisy_runs(system, u, draws, *, input_std, state_std=0.0, initial_std=0.0, seed=1):
    """Noisy outputs less the clean ones, shape (draws, T, ny). State noise enters through inputs of its own."""
    rng = np.random.default_rng(seed)
    nx, nv, ny = system.nx, system.nv, system.ny
    wide = replace(
        system,
        B2=np.hstack([system.B2, np.eye(nx)]),
        D12=np.hstack([system.D12, np.zeros((nv, nx))]),
        D22=np.hstack([system.D22, np.zeros((ny, nx))]),
    )
    clean = np.hstack([u, np.zeros((len(u), nx))])
    noise = np.concatenate([np.broadcast_to(input_std, system.nu), np.broadcast_to(state_std, nx)])
    y, _ = simulate(
        wide, clean + noise * rng.normal(size=(draws, *clean.shape)), initial_std * rng.normal(size=(draws, nx))
    )
    return y - simulate(wide, clean)[0]


@pytest.mark.parametrize("layers", STRUCTURES, ids=str)
def test_covariance_is_that_of_a_hundred_thousand_noisy_runs(layers):
    system = random_system(1, layers=layers)
    u = inputs(system)
    std = {"input_std": (0.01, 0.02), "state_std": 0.01, "initial_std": 0.03}
    model = tensors(system)
    R = output_covariance(model, torch.tensor(u), simulate(model, torch.tensor(u))[1], **std)[0].numpy()
    found = noisy_runs(system, u[0], 100_000, **std)
    for t in range(u.shape[1]):
        np.testing.assert_allclose(np.cov(found[:, t].T), R[t], rtol=0, atol=0.03 * np.trace(R[t]))
        np.testing.assert_allclose(found[:, t].var(axis=0), R[t].diagonal(), rtol=0.03)


def test_covariance_of_a_linear_system_solves_the_lyapunov_equation():
    system = random_system(0, layers=(), norm=0.6)
    model, u = tensors(system), torch.zeros(1, 200, 2, dtype=torch.float64)
    R = output_covariance(model, u, simulate(model, u)[1], input_std=0.5)[0, -1].numpy()
    P = np.linalg.solve(np.eye(9) - np.kron(system.A, system.A), 0.25 * (system.B2 @ system.B2.T).ravel()).reshape(3, 3)
    np.testing.assert_allclose(R, system.C2 @ P @ system.C2.T + 0.25 * system.D22 @ system.D22.T, rtol=1e-9)


def test_covariance_takes_gated_cells():
    rng = np.random.default_rng(0)
    draw = lambda *shape: torch.tensor(rng.normal(size=shape))  # noqa: E731
    model = GatedSystem(W=draw(9, 1), U=0.3 * draw(9, 3), b=draw(9), C=draw(2, 3), by=draw(2), cell="gru", dt=1.0)
    system, u = model.frozen(), inputs(model, steps=6)
    R = trace(output_covariance(model, torch.tensor(u), model.simulate(torch.tensor(u))[1], input_std=0.01))[0].numpy()
    noise = 0.01 * rng.normal(size=(30_000, 6, 1))
    found = (system.simulate(u + noise)[0] - system.simulate(u)[0]).var(axis=0).sum(axis=-1)
    np.testing.assert_allclose(found[1:], R[1:], rtol=0.04)


@pytest.mark.parametrize("feedthrough", [True, False])
@pytest.mark.parametrize("layers", STRUCTURES, ids=str)
def test_covariance_of_the_last_output_is_that_of_noisy_runs(layers, feedthrough):
    """Also of what the last input adds: without feedthrough it shows in the output after it."""
    system = random_system(1, layers=layers, feedthrough=feedthrough)
    u = inputs(system, steps=8)
    std = {"input_std": (0.01, 0.02), "state_std": 0.01, "initial_std": 0.03}
    model = tensors(system)
    read = torch.tensor(u if feedthrough else u[:, :-1])
    R = last_output_covariance(model, read, simulate(model, read)[1], **std)[0].numpy()
    found = noisy_runs(system, u[0], 100_000, **std)[:, -1]
    np.testing.assert_allclose(np.cov(found.T), R, rtol=0, atol=0.03 * np.trace(R))
    # Noise on the inputs has a share that these runs can tell.
    held = noisy_runs(system, u[0], 100_000, **std | {"input_std": 0.0})[:, -1]
    assert found.var(axis=0).sum() > 1.1 * held.var(axis=0).sum()


@pytest.mark.parametrize("cell", ["gru", "lstm", "relu", "tanh"])
@pytest.mark.parametrize("feedthrough", [True, False])
def test_adjoint_and_forward_recursion_agree(cell, feedthrough):
    """The forward recursion reads the output after the last input when one more sample, of no effect, follows."""
    rng = np.random.default_rng(0)
    draw = lambda *shape: torch.tensor(rng.normal(size=shape))  # noqa: E731
    if cell in ("gru", "lstm"):
        rows = 12 if cell == "lstm" else 9
        arrays = {"W": draw(rows, 2), "U": 0.3 * draw(rows, 3), "b": draw(rows), "C": draw(2, 3), "by": draw(2)}
        model = GatedSystem(**arrays, cell=cell, feedthrough=feedthrough, dt=1.0)
    else:
        model = tensors(random_system(2, layers=(3, 1, 2), activation=cell, feedthrough=feedthrough))
    u = torch.tensor(inputs(model, batch=3, steps=7))
    std = {"input_std": (0.1, 0.2), "state_std": 0.3, "initial_std": 0.4}
    x = model.simulate(u)[1]
    longer = u if feedthrough else torch.cat([u, draw(3, 1, 2)], dim=1)
    expected = output_covariance(model, longer, x[:, : longer.shape[1]], **std)[:, -1]
    torch.testing.assert_close(last_output_covariance(model, u, x, **std), expected, rtol=1e-10, atol=1e-12)
    one = last_output_covariance(model, u[:, :1], x[:, :2], **std)
    expected = output_covariance(model, longer[:, : 1 if feedthrough else 2], x[:, : 1 if feedthrough else 2], **std)
    torch.testing.assert_close(one, expected[:, -1], rtol=1e-10, atol=1e-12)


def test_a_basic_rnn_passes_on_the_noise_of_its_last_input():
    """h+ = s(A h + B u), y = C h: the output after one step has covariance C J B S B' J C', and y[0] has none."""
    system = random_elman(0)
    model, u = tensors(system), torch.tensor(inputs(system, steps=1))
    x = simulate(model, u)[1]
    J = 1 - x[0, 1].numpy() ** 2
    expected = (system.C2 * J) @ system.D12 @ system.D12.T @ (system.C2 * J).T
    np.testing.assert_allclose(last_output_covariance(model, u, x, input_std=1.0)[0], expected, rtol=1e-12)
    assert not output_covariance(model, u, x, input_std=1.0)[:, -1].any()


@pytest.mark.usefixtures("one_thread")
def test_the_adjoint_is_cheaper():
    """The classifier of the paper: 28 inputs, 60 neurons, 10 classes, 28 samples."""
    system = random_elman(0, nx=60, nu=28, ny=10, activation="relu")
    model, u = tensors(system), torch.tensor(inputs(system, batch=5, steps=28))
    x = simulate(model, u)[1]
    times = []
    for spread in (output_covariance, last_output_covariance):
        spread(model, u, x, input_std=0.1)
        runs = []
        for _ in range(5):
            begin = time.process_time()
            spread(model, u, x, input_std=0.1)
            runs.append(time.process_time() - begin)
        times.append(min(runs))
    assert times[1] < 0.5 * times[0]


@pytest.mark.parametrize("layers", STRUCTURES, ids=str)
@pytest.mark.parametrize("activation", ["tanh", "relu", "leaky_relu", "sigmoid"])
@pytest.mark.parametrize("size", [0.05, 1.0])
def test_bound_lies_above_monte_carlo_and_above_the_covariance(layers, activation, size):
    std = {"input_std": (size, 0.5 * size), "state_std": 0.3 * size, "initial_std": size}
    for seed in range(3):
        system = random_system(seed, layers=layers, activation=activation, norm=0.9)
        model, u = tensors(system), inputs(system, seed=seed)
        bound = output_noise_bound(model, u.shape[1], **std).numpy()
        found = np.square(noisy_runs(system, u[0], 2000, **std)).sum(axis=-1)
        error = found.std(axis=0) / 2000**0.5
        assert (found.mean(axis=0) <= bound + 4 * error).all()
        linear = trace(output_covariance(model, torch.tensor(u), simulate(model, torch.tensor(u))[1], **std))[0]
        assert (linear.numpy() <= bound * (1 + 1e-9)).all()


def test_bound_is_attained():
    """One linear state of gain 0.8: noise adds up to exactly the geometric sum."""
    one = np.ones((1, 1))
    system = LureSystem(
        A=0.8 * one, B1=one[:, :0], B2=2 * one, bx=np.zeros(1), C1=one[:0], D11=one[:0, :0], D12=one[:0],
        bv=np.zeros(0), C2=3 * one, D21=one[:, :0], D22=0 * one, by=np.zeros(1), layers=(), dt=1.0,
    )  # fmt: skip
    found = output_noise_bound(tensors(system), 5, input_std=0.5, initial_std=0.1).numpy()
    powers = 0.64 ** np.arange(5)
    np.testing.assert_allclose(found, 9 * (0.01 * powers + 4 * 0.25 * (np.cumsum(powers) - powers)), rtol=1e-12)


def proven(A, B, C, steps, variance, start):
    """Eq. (16) of the paper for the basic RNN, samples 0 .. steps - 1; ``variance`` is tr S, ``start`` is tr Gamma."""
    a, b, c = (np.linalg.norm(M, 2) ** 2 for M in (A, B, C))
    return np.array([c * (a**t * start + sum(a**i * b * variance for i in range(t))) for t in range(steps)])


def printed(A, B, C, steps, variance, start):
    """Eq. (11) as printed, with the constants of the basic RNN."""
    a, b, c = (np.linalg.norm(M, 2) for M in (A, B, C))
    terms = range(steps)
    return np.array(
        [c**2 * ((2 * a**2) ** t * start + b * sum((2 * a**2) ** i * variance for i in range(t))) for t in terms]
    )


@pytest.mark.parametrize("seed", range(6))
def test_bound_of_a_basic_rnn_is_at_most_the_proven_one(seed):
    system = random_elman(seed, activation="relu")
    bound = output_noise_bound(tensors(system), 20, input_std=0.4, initial_std=0.2).numpy()
    paper = proven(system.C1, system.D12, system.C2, 20, 2 * 0.16, 4 * 0.04)
    assert (bound <= paper * (1 + 1e-9)).all()
    one_input = replace(system, B2=system.B2[:, :1], D12=system.D12[:, :1], D22=system.D22[:, :1])
    bound = output_noise_bound(tensors(one_input), 20, input_std=0.4, initial_std=0.2).numpy()
    np.testing.assert_allclose(bound, proven(one_input.C1, one_input.D12, system.C2, 20, 0.16, 4 * 0.04), rtol=1e-9)


def test_the_printed_bound_is_violated():
    """An input gain of 4 squares to 16, of which the printed formula counts 4."""
    A, B, C = (np.array([[value]]) for value in (0.1, 4.0, 1.0))
    zero = np.zeros((1, 1))
    system = LureSystem(
        A=zero, B1=zero + 1, B2=zero, bx=np.zeros(1), C1=A, D11=zero, D12=B, bv=np.full(1, 3.0), C2=C, D21=zero,
        D22=zero, by=np.zeros(1),
        activation="relu", layers=(1,), dt=1.0,
    )  # fmt: skip
    found = np.square(noisy_runs(system, np.zeros((6, 1)), 20_000, input_std=0.1)).sum(axis=-1).mean(axis=0)
    assert (found[1:] > 3 * printed(A, B, C, 6, 0.01, 0.0)[1:]).all()
    assert (found <= 1.05 * proven(A, B, C, 6, 0.01, 0.0)).all()
    assert (found <= 1.05 * output_noise_bound(tensors(system), 6, input_std=0.1).numpy()).all()


@pytest.mark.parametrize("layers", [(2,), (2, 1)], ids=str)
def test_gradients(layers):
    system = tensors(random_system(3, nx=2, nu=1, ny=1, layers=layers))
    names = ["A", "B1", "B2", "C1", "D12", "bv", "C2", "D21", "D22"]
    u = torch.tensor(inputs(system, batch=2, steps=4))

    def covariance(*values):
        run = replace(system, **dict(zip(names, values, strict=True)))
        return output_covariance(run, u, simulate(run, u)[1], input_std=0.5, initial_std=0.2)

    def bound(*values):
        run = replace(system, **dict(zip(names, values, strict=True)))
        return torch.cat([output_noise_bound(run, 4, input_std=0.5, initial_std=0.2), step_norm(run)[None]])

    def last(*values):
        run = replace(system, **dict(zip(names, values, strict=True)))
        return last_output_covariance(run, u, simulate(run, u)[1], input_std=0.5, state_std=0.1, initial_std=0.2)

    values = [getattr(system, n).clone().requires_grad_() for n in names]
    assert torch.autograd.gradcheck(covariance, values)
    assert torch.autograd.gradcheck(last, values)
    assert torch.autograd.gradcheck(bound, values)


def test_gradients_are_finite_without_noise_or_gain():
    zero = replace(tensors(random_system(0)), **{n: torch.zeros(4, 3, dtype=torch.float64) for n in ("C1",)})
    leaves = replace(zero, **{n: getattr(zero, n).float().requires_grad_() for n in MATRICES})
    (output_noise_bound(leaves, 5, input_std=0.0).sum() + step_norm(leaves)).backward()
    for n in MATRICES:
        grad = getattr(leaves, n).grad
        assert grad is None or torch.isfinite(grad).all(), n


@pytest.mark.parametrize("layers", STRUCTURES, ids=str)
def test_no_step_stretches_more_than_its_norm(layers):
    rng = np.random.default_rng(0)
    for seed in range(5):
        system = random_system(seed, layers=layers)
        x, u = 3 * rng.normal(size=(2, 3000, 3)), rng.normal(size=(3000, 2))
        stretch = np.linalg.norm(system.step(x[0], u) - system.step(x[1], u), axis=1) / np.linalg.norm(
            x[0] - x[1], axis=1
        )
        assert stretch.max() <= float(step_norm(tensors(system))) * (1 + 1e-12)


@given(seed=st.integers(0, 999), factor=st.floats(1.1, 4))
@settings(max_examples=15)
def test_more_noise_gives_more_of_both(seed, factor):
    model = tensors(random_system(seed, layers=(2, 2)))
    u = torch.tensor(inputs(model, steps=5))
    x = simulate(model, u)[1]
    for kind in ("input_std", "state_std", "initial_std"):
        less = {"input_std": 0.1, "state_std": 0.1, "initial_std": 0.1}
        more = less | {kind: 0.1 * factor}
        a, b = (trace(output_covariance(model, u, x, **std))[0] for std in (less, more))
        c, d = (output_noise_bound(model, 5, **std) for std in (less, more))
        assert (b >= a - 1e-12).all()
        assert (d >= c - 1e-12).all()
        assert b.sum() > a.sum()
        assert d.sum() > c.sum()


def record(seed, steps=200):
    plant, u = random_system(7, nu=1, ny=1), np.random.default_rng(seed).normal(size=(steps, 1))
    return Trajectory(u, simulate(plant, u)[0], 0.5)


def test_terms_join_the_simulation_error():
    data = Dataset((record(0), record(1)), (record(2),), (record(3),))
    model = ContractingR2DN(nu=1, ny=1, nx=3, nv=2, layers=(3,), rate=0.95, seed=0)
    options = {"steps": 3, "window": 20, "batch_size": 8, "seed": 0, "start": "as_is"}
    extra = NoiseCovariance(0.3, windows=4) + 0.1 * NoiseUpperBound((0.3,)) + StretchPenalty(0.3)
    plain, robust = (
        identify(model, data, loss=loss, **options) for loss in (SimulationError(5), SimulationError(5) + extra)
    )
    assert (robust.history["loss"][1:] > plain.history["loss"][1:]).all()


@pytest.mark.parametrize(
    "term", [NoiseCovariance(0.3), NoiseUpperBound(0.3), StretchPenalty(0.3)], ids=lambda t: type(t).__name__
)
def test_training_lowers_what_the_terms_measure(term):
    model = ContractingR2DN(nu=1, ny=1, nx=3, nv=2, layers=(3,), rate=0.95, seed=0)
    optimiser = torch.optim.Adam(model.parameters(), lr=0.02)
    u = torch.randn(4, 10, 1, generator=torch.Generator().manual_seed(0))
    values = []
    for _ in range(30):
        system = model.system()
        run = Simulation(*simulate(system, u))
        value = term(system, Batch(u, run.y, run.x[:, 0], 0), run)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
        values.append(value.item())
    assert values[-1] < 0.6 * values[0]


def test_a_classifier_learns_under_noise():
    """Class: the sign of the mean input; logits are the last output. Robust training pays less for noise."""
    rng = torch.Generator().manual_seed(0)
    label = torch.randint(2, (24,), generator=rng)
    u = torch.randn(24, 6, 1, generator=rng) + (2.0 * label - 1)[:, None, None]
    passed = []
    for weight in (0.0, 2.0):
        model = ContractingR2DN(nu=1, ny=2, nx=3, nv=2, layers=(3,), rate=0.95, seed=0)
        optimiser = torch.optim.Adam(model.parameters(), lr=0.1)
        for _ in range(30):
            system = model.system()
            y, x = simulate(system, u)
            noise = trace(last_output_covariance(system, u, x, input_std=0.5)).mean()
            optimiser.zero_grad()
            (torch.nn.functional.cross_entropy(y[:, -1], label) + weight * noise).backward()
            optimiser.step()
        passed.append(noise.item())
        assert (y[:, -1].argmax(dim=1) == label).float().mean() > 0.9
    assert passed[1] < 0.5 * passed[0]


def test_washout_and_windows_select():
    model = tensors(random_system(2))
    u = torch.tensor(inputs(model, batch=3, steps=9))
    run = Simulation(*simulate(model, u))
    batch = Batch(u, run.y, run.x[:, 0], 0)
    traces = trace(output_covariance(model, u, run.x, input_std=0.1))
    torch.testing.assert_close(NoiseCovariance(0.1, washout=4, windows=2)(model, batch, run), traces[:2, 4:].mean())
    last = trace(last_output_covariance(model, u, run.x, input_std=0.1))
    torch.testing.assert_close(NoiseCovariance(0.1, windows=2, last=True)(model, batch, run), last[:2].mean())
    bound = output_noise_bound(model, 9, input_std=0.1)
    torch.testing.assert_close(NoiseUpperBound(0.1, washout=4)(model, batch, run), bound[4:].mean())
    assert (SimulationError(washout=2) + NoiseUpperBound(0.1, washout=4)).washout == 4


@pytest.mark.parametrize("feedthrough", [True, False])
def test_the_bound_of_the_last_output_counts_the_last_input(feedthrough):
    model = tensors(random_system(2, feedthrough=feedthrough))
    u = torch.tensor(inputs(model, batch=2, steps=1))
    run = Simulation(*simulate(model, u))
    bound = NoiseUpperBound(0.3, last=True)(model, Batch(u, run.y, run.x[:, 0], 0), run)
    assert bound >= trace(last_output_covariance(model, u, run.x, input_std=0.3)).max()
    assert trace(last_output_covariance(model, u, run.x, input_std=0.3)).min() > 0


@pytest.mark.parametrize(("step", "weight"), [(0, 1), (9, 1), (10, 1 / 2), (25, 1 / 3)])
def test_a_decaying_term_has_the_weight_of_its_epoch(step, weight):
    model = tensors(random_system(2))
    u = torch.tensor(inputs(model, batch=3, steps=9))
    run = Simulation(*simulate(model, u))
    batch = Batch(u, run.y, run.x[:, 0], step)
    plain = NoiseUpperBound(0.1, washout=4)
    faded = 0.015 * Decaying(plain, period=10)
    torch.testing.assert_close(faded(model, batch, run), 0.015 * weight * plain(model, batch, run))
    assert faded.washout == 4


@pytest.mark.parametrize("term", [NoiseCovariance, NoiseUpperBound])
@pytest.mark.parametrize(
    "bad",
    [{"input_std": -1}, {"input_std": np.nan}, {"input_std": 1, "state_std": [[1]]}, {"input_std": 1, "washout": -1}],
)
def test_bad_settings_are_refused(term, bad):
    with pytest.raises(SettingError):
        term(**bad)
    with pytest.raises(SettingError):
        NoiseCovariance(0.1, windows=0)
    with pytest.raises(SettingError, match="washout"):
        NoiseCovariance(0.1, washout=2, last=True)
    with pytest.raises(SettingError, match="washout"):
        NoiseUpperBound(0.1, washout=2, last=True)
    with pytest.raises(SettingError, match="period"):
        Decaying(SimulationError(), period=0)
    with pytest.raises(SettingError):
        StretchPenalty(0.0)


def test_bad_shapes_and_systems_are_refused():
    system = random_system(0)
    model, u = tensors(system), torch.tensor(inputs(system))
    x = simulate(model, u)[1]
    for arguments in ((model, u[0], x), (model, u[..., :1], x), (model, u, x[:, 2:]), (model, u, x[..., :1])):
        with pytest.raises(ShapeError):
            output_covariance(*arguments, input_std=0.1)
        with pytest.raises(ShapeError):
            last_output_covariance(*arguments, input_std=0.1)
    with pytest.raises(ShapeError, match="x must"):
        last_output_covariance(model, u, x[:, :-1], input_std=0.1)
    with pytest.raises(ShapeError, match="input_std"):
        output_covariance(model, u, x, input_std=(0.1, 0.1, 0.1))
    with pytest.raises(SettingError, match="tensors"):
        output_covariance(system, u, x, input_std=0.1)
    with pytest.raises(SettingError, match="tensors"):
        step_norm(system)
    with pytest.raises(SettingError, match="tensors"):
        output_noise_bound(system, 5, input_std=0.1)
