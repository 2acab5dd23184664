"""A short road on one tank, of linear models: every part that a report can be made of, in some seconds."""

from __future__ import annotations

from functools import cache, partial
from types import SimpleNamespace

import numpy as np

import mpc
from controlrnn.certification import attack_horizon, certify_contraction
from controlrnn.data import Dataset, Signal, check_data
from controlrnn.identification import identify_best
from plants import MultiTank, excitation, simulate

HORIZON, WASHOUT, LIMIT = 6, 30, 12.0


@cache
def road():
    """Parts of the road, by name."""
    tank = MultiTank(1, dt=20.0)
    plant = SimpleNamespace(
        dt=tank.dt,
        nx=tank.nx,
        inputs=tank.inputs,
        outputs=(Signal("level 1", "cm", 0.0, LIMIT),),
        step=tank.step,
        output=tank.output,
        initial_state=tank.initial_state,
    )
    limits = [(1.0, 3.0)]
    u = np.stack([excitation.random_steps(120, limits, hold=(3, 15), seed=s) for s in range(16)])
    data = Dataset.split(simulate(tank, u, noise_std=0.05, seed=0), (3, 2, 1, 10), seed=0)
    fit = identify_best(data, budget=1.0, families=(), skip=20)
    contraction = certify_contraction(fit.system)
    predictor = mpc.Predictor(fit.system, plant.inputs, plant.outputs)
    observer = mpc.Washout(predictor, WASHOUT, contraction=contraction, input_error=0.02)
    error = mpc.calibrate(
        fit.system, data.calibration, horizon=HORIZON, washout=WASHOUT, scale_trajectories=data.validation, coverage=0.9
    )
    predictions = mpc.certify_predictions(observer, HORIZON)
    tightening = mpc.tighten(error, predictions, observer=observer)
    attack = attack_horizon(
        fit.system,
        predictions.horizon,
        initial_radius=predictions.initial_radius,
        metric=predictions.metric,
        input_radius=predictions.input_radius,
        input_range=(np.array([1.0]), np.array([3.0])),
        starts=4,
        steps=5,
        seed=0,
    )
    untouched = mpc.no_tightening(fit.system.digest, HORIZON, 1)
    loops = {
        "tightened": mpc.monte_carlo(partial(setup, plant, predictor, observer, tightening), range(3)),
        "nominal": mpc.monte_carlo(partial(setup, plant, predictor, observer, untouched), range(3)).results[0],
    }
    return SimpleNamespace(
        plant=plant,
        data=data,
        checked=check_data(data),
        fit=fit,
        contraction=contraction,
        observer=observer,
        error=error,
        predictions=predictions,
        tightening=tightening,
        attack=attack,
        loops=loops,
    )


def setup(plant, predictor, observer, tightening):
    """A closed loop near the upper limit."""
    controller = mpc.TightenedMPC(
        predictor, observer, tightening, mpc.Tracking(output_weight=1.0, input_move_weight=0.1)
    )
    options = {"reference": [LIMIT], "steps": 40, "noise_std": 0.2}
    return mpc.ClosedLoopSetup(plant, controller, options)
