"""do-mpc's own simulator and controller see the model that we see."""

import numpy as np
import pytest
from random_systems import random_system

import mpc
from controlrnn.data import Signal
from controlrnn.errors import SettingError

do_mpc = pytest.importorskip("do_mpc")
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")  # do-mpc passes CasADi values to numpy functions


def predictor(feedthrough=False):
    signals = tuple(Signal(f"u{i + 1}", "V", -1.0, 1.0) for i in range(2))
    return mpc.Predictor(
        random_system(4, layers=(2, 3), feedthrough=feedthrough), signals, (Signal("y1"), Signal("y2"))
    )


@pytest.mark.parametrize("feedthrough", [False, True])
def test_its_simulator_makes_the_same_steps(feedthrough):
    ours = predictor(feedthrough)
    model = mpc.to_do_mpc(ours)
    assert (model.n_x, model.n_u, model.n_y) == (ours.nx, 2, 2)
    simulator = do_mpc.simulator.Simulator(model)
    simulator.set_param(t_step=ours.system.dt)
    simulator.setup()
    rng = np.random.default_rng(0)
    x0, u = rng.normal(size=ours.nx), rng.uniform(-1, 1, size=(10, 2))
    simulator.x0 = x0
    simulator.set_initial_guess()
    y, x = ours.system.simulate(u, x0)
    for t in range(10):
        measured = simulator.make_step(u[t][:, None])
        np.testing.assert_allclose(np.ravel(simulator.x0.master), x[t + 1], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(np.ravel(measured), ours.system.output(x[t + 1], u[t]), rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(np.ravel(simulator.data["_aux", "y"][t]), y[t], rtol=1e-12, atol=1e-12)


def test_its_controller_can_be_set_up_on_it():
    ours = predictor()
    model = mpc.to_do_mpc(ours)
    controller = do_mpc.controller.MPC(model)
    controller.set_param(
        n_horizon=5,
        t_step=ours.system.dt,
        store_full_solution=False,
        nlpsol_opts={"ipopt.print_level": 0, "print_time": 0},
    )
    goal = ours.system.simulate(np.tile([0.3, 0.1], (200, 1)))[0][-1]
    cost = sum((model.aux["y"][i] - goal[i]) ** 2 for i in range(2))
    controller.set_objective(mterm=0 * cost, lterm=cost)
    controller.set_rterm(u=1e-6)
    controller.bounds["lower", "_u", "u"], controller.bounds["upper", "_u", "u"] = -1.0, 1.0
    controller.setup()
    x = np.zeros(3)
    controller.x0 = x
    controller.set_initial_guess()
    for _ in range(20):
        u = np.ravel(controller.make_step(x[:, None]))
        x = ours.system.step(x, u)
    np.testing.assert_allclose(ours.system.output(x, u), goal, atol=0.02)


def test_anything_else_is_refused():
    with pytest.raises(SettingError):
        mpc.to_do_mpc(random_system(0))
