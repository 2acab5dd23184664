"""
A tank at its limit
===================

From noisy experiments to a controller that keeps a level below 20 cm although its set point is that limit: a
contracting network, a certified bound on what re-initialising it costs, errors calibrated on held-out records, limits
tightened by both. Beside it the same controller without tightening, which takes predictions for the truth.
"""

import numpy as np
from matplotlib.figure import Figure

from controlrnn.certification import certify_contraction
from controlrnn.data import Dataset
from controlrnn.identification import SimulationError, identify
from controlrnn.models import ContractingREN
from mpc import (
    Disturbances,
    Predictor,
    TightenedMPC,
    Tracking,
    Washout,
    calibrate,
    certify_predictions,
    no_tightening,
    run_closed_loop,
    tighten,
)
from plants import MultiTank, excitation, simulate

HORIZON, WASHOUT = 10, 80


def main():
    plant = MultiTank(1, dt=10.0, level_limit=20.0)  # one pump [L/min], one level [cm]
    u = np.stack([excitation.random_steps(250, [(1.0, 4.0)], hold=(4, 30), seed=s) for s in range(30)])
    data = Dataset.split(simulate(plant, u, noise_std=0.1, seed=0), (10, 5, 5, 10), seed=0)
    model = ContractingREN(nu=1, ny=1, nx=2, nv=8, seed=0)
    system = identify(model, data, loss=SimulationError(washout=WASHOUT), window=150, steps=300, seed=0).system
    predictor = Predictor(system, plant.inputs, plant.outputs)
    observer = Washout(predictor, WASHOUT, contraction=certify_contraction(system), input_error=0.01)
    settings = {"horizon": HORIZON, "washout": WASHOUT, "coverage": 0.9, "scale_trajectories": data.validation}
    error = calibrate(system, data.calibration, **settings)
    room = tighten(error, certify_predictions(observer, HORIZON), observer=observer)
    print(room.promise)
    runs = {}
    for name, used in {"tightened": room, "as predicted": no_tightening(system.digest, HORIZON, 1)}.items():
        controller = TightenedMPC(predictor, observer, used, Tracking(output_weight=1.0, input_move_weight=1.0))
        acting = Disturbances(noise_std=0.1, input_error=0.01)
        runs[name] = run_closed_loop(plant, controller, reference=[20.0], steps=80, disturbances=acting, seed=1)
        print(f"{name}: {runs[name].violations} samples above the limit, at most {runs[name].y.max():.2f} cm")
    figure = Figure(figsize=(7, 3), layout="constrained")
    panel = figure.subplots()
    for (name, run), colour in zip(runs.items(), ("C0", "C3"), strict=True):
        panel.plot(run.y[:, 0], color=colour, label=name)
    panel.axhline(20.0, color="k", linestyle=":", label="limit and set point")
    panel.set(xlabel="sample (10 s)", ylabel="level [cm]", ylim=(15, None))
    panel.legend(loc="lower right")
    return room, runs, figure


if __name__ == "__main__":
    room, runs, figure = main()
