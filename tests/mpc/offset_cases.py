"""A network, all observers of it, and a plant with an inflow or a gain that nobody knows of."""

from __future__ import annotations

import numpy as np
from mpc_networks import LurePlant, NormContraction, elman, signals

from controlrnn.data import Trajectory
from controlrnn.identification import fit_encoder
from mpc import EncoderObserver, MovingHorizonObserver, Predictor, RunningOn, StateObserver, Washout, kalman_gain
from plants import excitation

N = 10
SYSTEM = elman(rate=0.9, seed=2)
PREDICTOR = Predictor(SYSTEM, signals("u", 2, 1.0), signals("y", 2, 1.0))
CONTRACTION = NormContraction.of(SYSTEM)
REST = np.array([0.2, -0.3])
GOAL = PREDICTOR.steady_output(REST)
INFLOW = np.array([0.08, -0.05, 0.06, 0.03])


def innovation():
    gain = kalman_gain(PREDICTOR, output_noise_std=0.05, input_noise_std=0.3)
    return StateObserver(PREDICTOR, gain, 10)


def moving_horizon(**options):
    return MovingHorizonObserver(
        PREDICTOR, 12, window=8, output_std=0.05, input_error=0.05, tolerance=1e-14, iterations=20, **options
    )


def encoder():
    u = [excitation.random_steps(150, PREDICTOR.inputs, hold=(2, 9), seed=s) for s in range(3)]
    records = [Trajectory(one, SYSTEM.simulate(one)[0], 1.0) for one in u]
    return EncoderObserver(PREDICTOR, fit_encoder(SYSTEM, records, past=6, washout=60, hidden=4, steps=30))


OBSERVERS = {
    "running on": lambda: RunningOn(PREDICTOR, 10, contraction=CONTRACTION),
    "short washout": lambda: Washout(PREDICTOR, 5, contraction=CONTRACTION),
    "innovation": innovation,
    "moving horizon": moving_horizon,
    "moving horizon with offset": lambda: moving_horizon(offset_std=0.1),
    "guarded": lambda: moving_horizon(guard=RunningOn(PREDICTOR, 10, contraction=CONTRACTION, input_error=0.05)),
    "encoder": encoder,
}


class Other(LurePlant):
    """The model with another gain and an inflow into its states that nobody knows of."""

    gain, inflow = 1.0, np.zeros(4)

    def step(self, x, u, w=None):  # noqa: ARG002
        n = self.system.nx
        return np.concatenate([self.system.step(x[:n], np.asarray(u) * self.gain) + self.inflow, x[n:]])


def plant(kind):
    made = Other(SYSTEM, PREDICTOR.inputs, PREDICTOR.outputs)
    made.__dict__.update({"inflow": INFLOW} if kind == "inflow" else {"gain": 1.3})
    return made
