"""What every model promises, checked for every model of `controlrnn.models`."""

import dataclasses
import inspect

import cvxpy
import numpy as np
import pytest
import torch
from zoo import ZOO, randomise

from controlrnn import kernels, models
from controlrnn.certification import certify_by_construction, certify_contraction
from controlrnn.data import Scaler
from controlrnn.errors import CertificationError, FileFormatError, SettingError
from controlrnn.export import load_system, save_system, to_casadi

CONTRACTING = [name for name, entry in ZOO.items() if entry.promises]
every_model = pytest.mark.parametrize("entry", ZOO.values(), ids=list(ZOO))
every_contracting_model = pytest.mark.parametrize("entry", [ZOO[n] for n in CONTRACTING], ids=CONTRACTING)


def scalers(model, seed=0):
    rng = np.random.default_rng(seed)
    return (
        Scaler(rng.normal(size=model.nu), rng.uniform(0.1, 10, model.nu)),
        Scaler(rng.normal(size=model.ny), rng.uniform(0.1, 10, model.ny)),
    )


def arrays_of(system):
    found = {f.name: getattr(system, f.name) for f in dataclasses.fields(system)}
    return {name: value for name, value in found.items() if isinstance(value, np.ndarray)}


def test_the_zoo_is_complete():
    assert set(ZOO) == set(models.__all__) - {"Model"}


@every_model
def test_arguments_are_keywords_and_unknown_ones_raise(entry):
    parameters = list(inspect.signature(entry.make.__init__).parameters.values())[1:]
    assert {"nu", "ny", "nx", "dt", "seed"} <= {p.name for p in parameters}
    assert all(p.kind is inspect.Parameter.KEYWORD_ONLY for p in parameters)
    with pytest.raises(TypeError):
        entry.make(nu=1, ny=1, nx=2, no_such_setting=3)
    for bad in ({"nu": 0}, {"ny": 1.5}, {"nx": -1}, {"dt": 0.0}):
        with pytest.raises(SettingError):
            entry(**bad)


@every_model
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float32", "float64"])
@pytest.mark.parametrize("sizes", [(2, 2, 3), (1, 3, 4), (3, 1, 1)], ids=str)
def test_shapes_and_precision(entry, dtype, sizes):
    nu, ny, nx = sizes
    model = entry(nu=nu, ny=ny, nx=nx).to(dtype)
    u, x0 = torch.randn(4, 6, nu, dtype=dtype), torch.randn(4, model.nx, dtype=dtype)
    batch = model(u, x0)
    single = model(u[1], x0[1])
    assert batch.shape == (4, 6, ny)
    assert single.shape == (6, ny)
    assert batch.dtype == single.dtype == dtype
    tolerance = 1e-4 if dtype is torch.float32 else 1e-10
    torch.testing.assert_close(batch[1], single, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(
        model(u)[2], model(u[2], torch.zeros(model.nx, dtype=dtype)), rtol=tolerance, atol=tolerance
    )


@every_model
def test_gradients_reach_every_parameter(entry):
    model = randomise(entry().double(), 1)
    u = torch.randn(2, 5, model.nu, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x0 = torch.ones(2, model.nx, dtype=torch.float64)
    penalty = model.penalty(0.5)
    ((model(u, x0) ** 2).sum() + (0 if penalty is None else penalty)).backward()
    for name, p in model.named_parameters():
        assert p.grad is not None, name
        assert torch.isfinite(p.grad).all(), name
        assert p.grad.abs().sum() > 0, name


@every_model
def test_gradients_are_right(entry):
    model = randomise(entry(nu=1, ny=1, nx=2).double(), 2)
    names = [name for name, _ in model.named_parameters()]
    u = torch.randn(3, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1), requires_grad=True)
    x0 = torch.linspace(0.3, -0.4, model.nx, dtype=torch.float64).requires_grad_()

    def outputs(u, x0, *values):
        return torch.func.functional_call(model, dict(zip(names, values, strict=True)), (u, x0))

    values = [p.detach().clone().requires_grad_() for p in model.parameters()]
    assert torch.autograd.gradcheck(outputs, (u, x0, *values), atol=1e-6)


@every_model
def test_same_seed_same_parameters_and_no_global_state(entry):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, two, other = entry(seed=3), entry(seed=3), entry(seed=4)
    assert torch.equal(torch.rand(3), expected), "the model drew from torch's global generator"
    for (name, a), (_, b) in zip(one.named_parameters(), two.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    assert any(not torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True)), (
        "the seed has no effect"
    )


@every_model
def test_freezing_gives_private_read_only_float64(entry):
    model = randomise(entry(), 3)
    before = [p.detach().clone() for p in model.parameters()]
    system = model.freeze()
    assert arrays_of(system)
    for name, array in arrays_of(system).items():
        assert array.dtype == np.float64, name
        with pytest.raises(ValueError, match="read-only"):
            array[...] = 0
    digest = system.digest
    assert digest == model.freeze().digest
    assert all(p.dtype == torch.float32 and torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))
    randomise(model, 4)
    assert system.digest == digest != model.freeze().digest
    assert (system.nx, system.nu, system.ny, system.dt) == (model.nx, model.nu, model.ny, model.dt)


@every_model
def test_frozen_system_works_in_physical_units(entry):
    model = randomise(entry().double(), 5)
    plain = model.freeze()
    inputs, outputs = scalers(model)
    model.set_units(inputs, outputs, 0.25)
    rng = np.random.default_rng(1)
    u, x0 = inputs.invert(rng.normal(size=(3, 20, model.nu))), rng.normal(size=(3, model.nx))
    y, x = model.freeze().simulate(u, x0)
    scaled_y, scaled_x = plain.simulate(inputs.apply(u), x0)
    np.testing.assert_allclose(x, scaled_x, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(y, outputs.invert(scaled_y), rtol=1e-9, atol=1e-9)
    assert model.freeze().dt == 0.25


@every_model
def test_all_backends_agree(entry):
    model = randomise(entry().double(), 6)
    inputs, outputs = scalers(model, 1)
    scaled_u = np.random.default_rng(2).normal(size=(2, 15, model.nu))
    x0 = np.random.default_rng(3).normal(size=(2, model.nx))
    with torch.no_grad():
        reference = outputs.invert(model(torch.tensor(scaled_u), torch.tensor(x0)).numpy())
    model.set_units(inputs, outputs, 1.0)
    system, u = model.freeze(), inputs.invert(scaled_u)
    size = np.abs(reference).max()
    numpy_y, numpy_x = system.simulate(u, x0)
    kernel_y, kernel_x = kernels.simulate(system, u, x0)
    np.testing.assert_allclose(numpy_y, reference, rtol=0, atol=1e-10 * size)
    np.testing.assert_allclose(kernel_y, reference, rtol=0, atol=1e-10 * size)
    np.testing.assert_allclose(kernel_x, numpy_x, rtol=0, atol=1e-10 * max(1.0, np.abs(numpy_x).max()))
    for symbolic in ("SX", "MX"):
        step, output = to_casadi(system, symbolic=symbolic)
        x, y = x0[0], []
        for t in range(u.shape[1]):
            y.append(output(x, u[0, t]).full().ravel())
            x = step(x, u[0, t]).full().ravel()
        np.testing.assert_allclose(y, reference[0], rtol=0, atol=1e-10 * size)
        np.testing.assert_allclose(x, numpy_x[0, -1], rtol=0, atol=1e-10 * max(1.0, np.abs(numpy_x).max()))


@every_model
def test_files_are_exact_and_tampering_is_refused(entry, tmp_path):
    system = randomise(entry(), 7).freeze()
    path = tmp_path / "model.npz"
    save_system(system, path)
    again = load_system(path)
    assert type(again) is type(system)
    assert again.digest == system.digest
    for name, array in arrays_of(system).items():
        assert getattr(again, name).tobytes() == array.tobytes(), name
    content = dict(np.load(path))
    name = max(arrays_of(system), key=lambda n: arrays_of(system)[n].size)
    content[name] = content[name] + 1e-12
    np.savez(path, **content)
    with pytest.raises(FileFormatError):
        load_system(path)


@every_model
def test_training_state_round_trips(entry):
    model = randomise(entry(seed=1), 8)
    twin = entry(seed=2)
    twin.load_state_dict(model.state_dict())
    assert twin.freeze().digest == model.freeze().digest


@every_contracting_model
@pytest.mark.parametrize("orders", [0, 1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_trajectories_contract_for_any_parameters(entry, orders, seed):
    model = randomise(entry(seed=seed), seed, orders=orders)
    model.set_units(*scalers(model), 1.0)
    promise, system = model.guarantee(), model.freeze()
    root = np.linalg.cholesky(promise.metric).T
    rng = np.random.default_rng(seed)
    u = 10.0 ** rng.uniform(-2, 2, (40, 1, 1)) * rng.normal(size=(40, 25, model.nu))
    x0 = 10.0 ** rng.uniform(-2, 2, (2, 40, 1)) * rng.normal(size=(2, 40, model.nx))
    one, two = (system.simulate(u, start)[1] for start in x0)
    distance = np.linalg.norm((one - two) @ root.T, axis=-1)
    # Rounding: states may be far larger than their difference.
    noise = 1e-11 * np.linalg.norm(root, 2) * (np.abs(one) + np.abs(two)).max(axis=(1, 2))[:, None]
    assert (distance[:, 1:] <= promise.rate * distance[:, :-1] * (1 + 1e-9) + noise).all()
    assert (distance[:, 0] > noise[:, 0]).any(), "rounding hides everything, so that nothing was tested"


@every_contracting_model
@pytest.mark.parametrize("orders", [0, 1, 3])
@pytest.mark.parametrize("seed", range(4))
def test_the_promise_is_proven_without_a_solver(entry, orders, seed, monkeypatch):
    monkeypatch.setattr(cvxpy.Problem, "solve", None)
    model = randomise(entry(seed=seed), seed, orders=orders)
    model.set_units(*scalers(model), 1.0)
    construction = certify_by_construction(model)
    assert construction.system.digest == model.freeze().digest
    assert construction.contraction.verify(construction.system) > 0
    assert construction.contraction.rate <= model.guarantee().rate
    if construction.dissipation is not None:
        assert construction.dissipation.verify(construction.system) > 0


@every_contracting_model
@pytest.mark.parametrize("seed", range(2))
def test_the_certifier_finds_contraction_by_itself(entry, seed):
    model = randomise(entry(seed=seed), seed)
    model.set_units(*scalers(model), 1.0)
    system = model.freeze()
    certificate = certify_contraction(system, 0.5 * (1 + model.guarantee().rate))
    assert certificate.verify(system) > 0


@pytest.mark.parametrize("name", [n for n in ZOO if n not in CONTRACTING])
def test_models_without_a_promise_say_so(name):
    model = ZOO[name]()
    assert model.guarantee() is None
    with pytest.raises(CertificationError, match="promises nothing"):
        certify_by_construction(model)


@pytest.mark.parametrize("name", [n for n, e in ZOO.items() if hasattr(e.make, "start_linear")])
@pytest.mark.parametrize("seed", range(3))
def test_linear_start_is_the_linear_model(name, seed):
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(3, 3))
    A *= 0.8 / np.abs(np.linalg.eigvals(A)).max()
    B, C, D = rng.normal(size=(3, 2)), rng.normal(size=(2, 3)), rng.normal(size=(2, 2))
    model = randomise(ZOO[name]().double(), seed)
    feedthrough = ZOO[name].settings.get("feedthrough", False)
    model.start_linear(A, B, C, D if feedthrough else None)
    u, x = rng.normal(size=(30, 2)), rng.normal(size=3)
    y, _ = model.freeze().simulate(u, x)
    for t in range(30):
        np.testing.assert_allclose(y[t], C @ x + (D @ u[t] if feedthrough else 0), rtol=0, atol=1e-8)
        x = A @ x + B @ u[t]


def test_an_unstable_model_without_guarantee_is_not_certified():
    with pytest.raises(CertificationError):
        certify_contraction(models.Elman(nu=1, ny=1, nx=2, memory=1.5).freeze())
