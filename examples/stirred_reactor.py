"""
A stirred reactor, from equations to a loop
===========================================

Arrhenius kinetics with four unknown constants, identified from noisy records, certified, and controlled near a limit of
temperature that the loop keeps. Time is in minutes.
"""

from types import SimpleNamespace

import numpy as np

import mpc
from controlrnn.certification import certify_contraction
from controlrnn.data import Dataset, Signal, Trajectory
from controlrnn.greybox import Equations, FitOptions, Parameter, beyond_ranges, fit_equations, trace
from plants import excitation


def rates(x, u, p, ops):
    """Change of concentration [mol/L] and temperature [K] per minute."""
    c, T = ops.columns(x, 0, 1), ops.columns(x, 1, 2)
    r = p["k"] * ops.exp(p["E"] * (1 / 350 - 1 / T)) * c
    return ops.join([1.0 - c - r, 350.0 - T + p["heat"] * r + p["cool"] * (u - T)])


STATES, COOLANT = (Signal("c", "mol/L", 0.3, 0.7), Signal("T", "K", 340.0, 360.0)), (Signal("Tc", "K", 343.0, 351.0),)
TRUE = {"k": 1.0, "E": 8750.0, "heat": 10.0, "cool": 2.1}
REACTOR = Equations(
    dynamics=rates, output=lambda x, u, p, ops: 1.0 * x, states=STATES, inputs=COOLANT, dt=0.1, substeps=2,
    parameters=[Parameter(name, 1.2 * value, 0.2 * value, 5 * value) for name, value in TRUE.items()],
)  # fmt: skip


# The plant: the same equations in finer steps, with the true parameters.
TRUTH = trace(Equations(**(vars(REACTOR) | {"substeps": 10})), TRUE).system
PLANT = SimpleNamespace(
    dt=0.1, nx=2, inputs=COOLANT, outputs=(STATES[0], Signal("T", "K", 340.0, 352.0)),
    initial_state=lambda: np.array([0.5, 350.0]), step=lambda x, u, w=None: TRUTH.step(x, u), output=lambda x, u: x,
)  # fmt: skip


def main():
    rng, noise = np.random.default_rng(0), np.array([0.002, 0.05])
    u = [excitation.random_steps(300, COOLANT, hold=(5, 30), seed=s) for s in range(16)]
    y = [TRUTH.simulate(one, PLANT.initial_state())[0] for one in u]
    records = [Trajectory(a, b + noise * rng.normal(size=b.shape), 0.1) for a, b in zip(u, y, strict=True)]
    data = Dataset.split(records, (1, 3, 2, 10), seed=0)
    fit = fit_equations(REACTOR, data.train, FitOptions(deviation=noise))
    predictor = mpc.Predictor(fit.system, PLANT.inputs, PLANT.outputs)
    observer = mpc.Washout(predictor, 60, contraction=certify_contraction(fit.system), input_error=0.05)
    error = mpc.calibrate(fit.system, data.calibration, horizon=15, washout=60, scale_trajectories=data.validation)
    room = mpc.tighten(error, mpc.certify_predictions(observer, 15), observer=observer)
    controller = mpc.TightenedMPC(
        predictor, observer, room, mpc.Tracking(output_weight=[0.0, 1.0], input_move_weight=0.1)
    )
    acting = mpc.Disturbances(noise_std=noise, input_error=0.05)
    run = mpc.run_closed_loop(PLANT, controller, reference=[0.5, 352.0], steps=60, disturbances=acting, seed=1)
    inside = not beyond_ranges(fit.system, np.asarray(run.y)[:-1], np.asarray(run.u)).any()
    print(fit, f"tightening {room.total[1]}, violations {run.violations}, in the ranges: {inside}", sep="\n")
    return fit, run, inside


if __name__ == "__main__":
    fit, run, inside = main()
    figure = run.plot()
