"""Records of a model with errors of a kind that is known, and a model error as `calibrate` would state it."""

from dataclasses import replace

import numpy as np
from mpc_networks import declared_error, switching

from controlrnn.data import Trajectory

N = 6


def record(system, seed, steps=60, offset=(0.0, 0.0), wobble=0.0):
    rng = np.random.default_rng(seed)
    u = switching(rng, steps, system.nu)
    y = system.simulate(u)[0] + np.asarray(offset) + wobble * rng.standard_normal((steps, system.ny))
    return Trajectory(u, y, system.dt, name=f"record {seed}")


def records(system, seeds, **options):
    """Exchangeable trajectories: each has an amplitude of its own, and errors correlated in time."""
    made = []
    for seed in seeds:
        rng = np.random.default_rng([seed, 1])
        clean = record(system, seed, **options)
        drift = rng.gamma(2.0) * np.cumsum(rng.standard_normal((len(clean), 2)), axis=0) / 30
        made.append(replace(clean, y=clean.y + drift))
    return made


def model_error(system, size=0.05, gain=None, observer_digest=""):
    return replace(declared_error(system, size * np.ones((N + 1, 2)), gain, n=10), observer_digest=observer_digest)
