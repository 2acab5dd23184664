"""A tank whose outflow is a law with a declared range, and what its physics does outside of it."""

from functools import cache

import numpy as np
from one_tank import RESIDUAL, N, error
from premise_cases import STEPS

from controlrnn.certification import certify_contraction, certify_horizon
from controlrnn.data import Signal
from controlrnn.systems import Law, Laws, LureSystem, Neuron
from mpc import Predictor, TightenedMPC, Washout, make_recursive, terminal_set, tighten
from mpc.control.settings import grouped

LOW, HIGH = -0.8, 0.6  # of x + 0.1 u, the law's argument
WIDTH = 0.5


def system(low=LOW, high=HIGH):
    """x+ = 0.7 x + 0.05 s(x + 0.1 u) + 0.3 u."""
    return LureSystem(
        A=np.full((1, 1), 0.7), B1=np.full((1, 1), 0.05), B2=np.full((1, 1), 0.3), bx=np.zeros(1),
        C1=np.eye(1), D11=np.zeros((1, 1)), D12=np.full((1, 1), 0.1), bv=np.zeros(1), C2=np.eye(1),
        D21=np.zeros((1, 1)), D22=np.zeros((1, 1)), by=np.zeros(1), layers=(1,), dt=1.0,
        activation=Laws([Neuron(Law.SIGNED_ROOT, low, high, WIDTH)]),
    )  # fmt: skip


RANGED = system()
CONTRACTION = certify_contraction(RANGED)


def physics(x, u, bend=0.25):
    """The system in the range; outside, another law than its straight line."""
    v = float(x[0] + 0.1 * u[0])
    beyond = min(v - LOW, 0.0) + max(v - HIGH, 0.0)
    return RANGED.step(x, u) - bend * np.array([beyond])


def washout(steps=STEPS, **options):
    predictor = Predictor(RANGED, (Signal("valve", "%", -1.0, 1.0),), (Signal("level", "m", -1.0, 1.0),))
    return Washout(predictor, steps, contraction=CONTRACTION, **options)


@cache
def parts():
    observer = washout()
    start, jump = observer.restart, observer.jump
    joint = certify_horizon(
        RANGED,
        observer.steps + N,
        initial_radius=start.radius,
        metric=start.metric,
        focus=[observer.steps, observer.steps + N],
    )
    growth = certify_horizon(RANGED, N, initial_radius=jump.radius, metric=jump.metric)
    declared = error(RANGED, np.full(N + 1, RESIDUAL))
    room = make_recursive(tighten(declared, joint, observer=observer), growth, observer=observer)
    return room, terminal_set(observer.predictor, CONTRACTION, horizon=N, jump=jump)


def ranged(observer=None, **options):
    """A guaranteed controller; with an observer of its own, one of plain limits."""
    settings = dict(output_weight=1.0, input_move_weight=1e-3, control_horizon=4, **options)
    if observer is None:
        observer, (room, terminal) = washout(), parts()
    else:
        room, terminal = tighten(error(RANGED, np.full(N + 1, 0.05)), None, observer=observer), None
    return TightenedMPC(observer.predictor, observer, room, terminal=terminal, **grouped(settings))
