import numpy as np
import pytest
import torch

from controlrnn.data import Dataset, Trajectory
from controlrnn.errors import SettingError
from controlrnn.identification import (
    L2,
    GroupLasso,
    SimulationError,
    WeightedSum,
    group_norms,
    identify,
    without_states,
)
from controlrnn.models import ResidualRNN


def test_values_are_those_of_the_formulas():
    system = ResidualRNN(nu=2, ny=2, nx=3, nv=4, seed=2).double().system()
    assert float(L2()(system, None, None).detach()) == pytest.approx(
        sum(float((getattr(system, n) ** 2).sum().detach()) for n in ("B1", "C1", "D12"))
    )
    assert float(L2(("A",))(system, None, None).detach()) == pytest.approx(float((system.A**2).sum().detach()))
    frozen = system.frozen()
    for group in ("states", "inputs"):
        norms = group_norms(frozen, group)
        assert float(GroupLasso(group, rounding=1e-9)(system, None, None).detach()) == pytest.approx(norms.sum())
    inputs = [np.sqrt((np.vstack([frozen.B2, frozen.D12, frozen.D22])[:, j] ** 2).sum()) for j in range(2)]
    np.testing.assert_allclose(group_norms(frozen, "inputs"), inputs)


def test_a_term_has_a_finite_gradient_where_a_group_is_empty():
    model = ResidualRNN(nu=1, ny=1, nx=2).double()
    with torch.no_grad():
        model.B2.zero_()
        model.D12.zero_()
    GroupLasso("inputs")(model.system(), None, None).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_the_group_lasso_drops_superfluous_states_and_idle_inputs():
    """One true state and one true input; the model has three and two."""
    rng = np.random.default_rng(0)

    def record(T):
        u, x = rng.normal(size=(T, 2)), 0.0
        y = np.zeros((T, 1))
        for t in range(T):
            y[t] = x + 0.02 * rng.normal()
            x = 0.8 * x + u[t, 0]
        return Trajectory(u, y, 1.0)

    data = Dataset((record(400),), (record(200),))
    loss = SimulationError(washout=20) + 1e-2 * GroupLasso() + 1e-2 * GroupLasso("inputs")
    fit = identify(
        ResidualRNN(nu=2, ny=1, nx=3, nv=1),
        data,
        loss=loss,
        steps=1,
        batch_size=1,
        refine="lbfgs",
        refine_steps=300,
        keep="last",
    )
    states, inputs = np.sort(group_norms(fit.system)), group_norms(fit.system, "inputs")
    assert states[1] < 0.05 * states[2]
    assert inputs[1] < 0.02 * inputs[0]
    small = without_states(fit.system, group_norms(fit.system) < 0.05 * states[2])
    assert small.nx == 1
    u = data.validation[0].u
    np.testing.assert_allclose(small.simulate(u)[0], fit.system.simulate(u)[0], atol=0.05)


def test_bad_input_is_refused():
    with pytest.raises(SettingError, match="matrices must be among"):
        L2(("A", "E"))
    with pytest.raises(SettingError, match="at least one"):
        L2(())
    with pytest.raises(SettingError, match="group must be one of"):
        GroupLasso("neurons")
    with pytest.raises(SettingError, match="leave a state"):
        without_states(ResidualRNN(nu=1, ny=1, nx=2).freeze(), [True, True])


def test_sums_hold_terms_only():
    record = Trajectory(np.zeros((9, 1)), np.zeros((9, 1)), 1.0)
    for terms in ((), ((1.0, record),), ((1.0, None),), ((1.0, SimulationError()), (1.0, lambda *_: 0.0))):
        with pytest.raises(SettingError, match="terms must"):
            WeightedSum(terms)
    assert WeightedSum(((2.0, SimulationError(washout=3)), (1.0, L2()))).washout == 3
