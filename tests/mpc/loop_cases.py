"""Results of closed loops whose violations are known in advance."""

import numpy as np

from mpc import ClosedLoopResult

N, LIMIT = 3, 1.0
MODEL = 64 * "a"


def loop(tightening, seed, *, push=0.3, error=0.05, steps=12, slope=0.0):
    """A loop at its tightened limit: output 1 passes it by up to ``push``, output 2 never comes near its own."""
    rng = np.random.default_rng(seed)
    c = tightening.total[1, 0]
    over = push * rng.random((steps + 1, 1)) + slope * c
    y = np.hstack([LIMIT - c + over - push * (rng.random((steps + 1, 1)) > 0.8), 0.1 * rng.random((steps + 1, 1))])
    errors = error * rng.uniform(-1, 1, (steps, N + 1, 2)) * np.arange(1, N + 2)[:, None]
    for t in range(steps):
        errors[t, steps - t + 1 :] = np.nan
    return ClosedLoopResult(
        y=y,
        readings=y[:-1],
        u=np.zeros((steps, 1)),
        applied=np.zeros((steps, 1)),
        u_before=np.zeros(1),
        reference=y,
        x=np.zeros((steps, 1)),
        disturbance=np.zeros((steps, 2)),
        predicted=np.zeros((steps, N + 1, 2)),
        errors=errors,
        bounds=tightening.total,
        slack=np.zeros(steps),
        solve_time=np.zeros(steps),
        iterations=np.zeros(steps, int),
        status=("solved",) * steps,
        fallback=("none",) * steps,
        certified=np.ones(steps, bool),
        verdicts=np.zeros((steps, 2), np.int8),
        faults=np.zeros((steps, 0), bool),
        lower=np.full(2, -LIMIT),
        upper=np.full(2, LIMIT),
        cost=float(c),
        dt=1.0,
        seed=seed,
        names=("y1", "y2", "u"),
    )
