"""Records of a simulated Wiener system, for tests of searches."""

import numpy as np

from controlrnn.data import Timing, Trajectory


def record(T, seed, *, bend=1.0, noise=0.02, delay=0, through=0.0, timing=Timing.MEASURED_FIRST):
    """A Wiener system: a lag, then a saturation where ``bend`` is 1."""
    rng = np.random.default_rng(seed)
    u = np.repeat(rng.uniform(-2, 2, T // 5 + 1), 5)[:T, None]
    x, y = 0.0, np.zeros((T, 1))
    for t in range(T):
        held = u[max(t - delay, 0), 0]
        y[t] = (1 - bend) * x + bend * np.tanh(1.5 * x) + through * u[t, 0]
        x = 0.8 * x + 0.2 * held
    return Trajectory(u, 3 + y + noise * rng.normal(size=(T, 1)), 0.5, name=f"record {seed}", timing=timing)
