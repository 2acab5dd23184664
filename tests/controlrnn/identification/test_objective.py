import numpy as np
import pytest

from controlrnn.data import Trajectory
from controlrnn.errors import SettingError
from controlrnn.identification import SimulationError
from controlrnn.identification.losses.objective import Objective, square_weight
from controlrnn.identification.losses.regularisers import L2, GroupLasso
from controlrnn.models import ContractingR2DN, Elman, ResidualRNN

MODELS = {
    "residual": lambda: ResidualRNN(nu=2, ny=2, nx=2, nv=3, feedthrough=True, seed=1),
    "elman": lambda: Elman(nu=2, ny=2, nx=3, seed=1),
    "r2dn": lambda: ContractingR2DN(nu=2, ny=2, nx=2, nv=2, layers=(3, 2), feedthrough=True, seed=1),
}


def records(seed=0):
    rng = np.random.default_rng(seed)
    return tuple(Trajectory(rng.normal(size=(T, 2)), rng.normal(size=(T, 2)), 1.0) for T in (23, 40, 23))


def problem(name, loss, segment=None, states=True):
    model = MODELS[name]().double()
    rng = np.random.default_rng(5)
    for p in model.parameters():  # away from the special zeros of an initial model
        p.data += 0.1 * p.new_tensor(rng.normal(size=tuple(p.shape)))
    x0 = rng.normal(size=(3, model.nx)) if states else None
    return Objective(model, records(), loss, x0, segment=segment, stiffness=0.3)


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("segment", [None, 9])
def test_gradient_and_gauss_newton_agree_with_differences(name, segment):
    f = problem(name, 0.7 * SimulationError() + 0.01 * L2(), segment)
    rng = np.random.default_rng(1)
    v = f.start() + 0.01 * rng.normal(size=len(f.start()))
    value, gradient, hessian = f.gauss_newton(v)
    assert value == pytest.approx(f.value(v), rel=1e-12)
    steps = 1e-6 * np.eye(len(v))
    differences = np.array([(f.value(v + h) - f.value(v - h)) / 2e-6 for h in steps])
    np.testing.assert_allclose(gradient, differences, atol=1e-7 * max(1, np.abs(gradient).max()))
    np.testing.assert_allclose(hessian, hessian.T, atol=1e-12 * np.abs(hessian).max())
    assert np.linalg.eigvalsh(hessian)[0] > -1e-10 * np.abs(hessian).max()


@pytest.mark.parametrize("segment", [None, 9])
def test_gauss_newton_is_the_hessian_where_the_residual_vanishes(segment):
    """At a perfect fit the term that Gauss-Newton leaves out is zero, so its Hessian must equal the true one."""
    f = problem("residual", SimulationError(), segment)
    v = f.start()
    f.put(v)
    system = f.model.system().frozen()
    table, perfect = v[f.n_parameters :].reshape(-1, 2), []
    rng = np.random.default_rng(3)
    for i in range(3):
        u = rng.normal(size=((23, 40, 23)[i], 2))
        perfect.append(Trajectory(u, system.simulate(u, table[i])[0], 1.0))
    f = Objective(f.model, perfect, SimulationError(), table[:3], segment=segment, stiffness=0.3)
    v = f.start()
    value, _, hessian = f.gauss_newton(v)
    assert value < 1e-25
    for direction in rng.normal(size=(5, len(v))):
        h = 1e-4 * direction
        curvature = (f.value(v + h) + f.value(v - h) - 2 * value) / 1e-8
        assert direction @ hessian @ direction == pytest.approx(curvature, rel=1e-4)


def test_fixed_states_and_a_washout():
    f = problem("residual", SimulationError(washout=5), states=False)
    assert f.n_states == 0
    value, gradient, hessian = f.gauss_newton(f.start())
    assert hessian.shape == (f.n_parameters, f.n_parameters)
    step = -1e-3 * gradient / np.linalg.norm(gradient)
    assert f.value(f.start() + step) < value


def test_a_model_that_diverges_has_an_infinite_loss():
    model = ResidualRNN(nu=2, ny=2, nx=2).double()
    model.A.data = 1e30 * model.A.data
    f = Objective(model, records(), SimulationError(), np.ones((3, 2)))
    assert f.value(f.start()) == np.inf
    assert f.value_and_gradient(f.start())[0] == np.inf


def test_what_has_no_squares_or_no_states_is_refused():
    with pytest.raises(SettingError, match="one SimulationError"):
        square_weight(L2())
    with pytest.raises(SettingError, match="one SimulationError"):
        square_weight(SimulationError(2) + SimulationError(3))
    with pytest.raises(SettingError, match="shooting needs"):
        problem("residual", SimulationError(), segment=5, states=False)
    assert square_weight(0.5 * SimulationError(3) + 2 * GroupLasso()) == 0.5
