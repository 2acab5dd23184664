"""One tank that premises are broken on: its parts, a controller on a washout, and a loop whose true state is known."""

from functools import cache

import numpy as np
from one_tank import RESIDUAL, N, error, tank

from controlrnn.certification import certify_contraction, certify_horizon
from controlrnn.data import Signal
from mpc import Predictor, TightenedMPC, Washout, make_recursive, terminal_set, tighten
from mpc.control.settings import grouped

SYSTEM = tank(0.3)
CONTRACTION = certify_contraction(SYSTEM)
STEPS = 25  # of the washout


def predictor(*, reach=1.0, unit="m", name="level", upper=1.0):
    return Predictor(SYSTEM, (Signal("valve", "%", -reach, reach),), (Signal(name, unit, -1.0, upper),))


def road(observer):
    start = observer.restart
    joint = certify_horizon(
        SYSTEM,
        observer.steps + N,
        initial_radius=start.radius,
        metric=start.metric,
        input_radius=observer.prediction_input_error,
        focus=[observer.steps, observer.steps + N],
    )
    jump = observer.jump
    growth = certify_horizon(SYSTEM, N, initial_radius=jump.radius, metric=jump.metric) if jump.radius else None
    tightening = make_recursive(
        tighten(error(SYSTEM, np.full(N + 1, RESIDUAL)), joint, observer=observer), growth, observer=observer
    )
    return tightening, terminal_set(observer.predictor, CONTRACTION, horizon=N, jump=jump)


def washout(steps=60, of=None, **options):
    return Washout(of or predictor(), steps, contraction=CONTRACTION, **options)


@cache
def parts():
    return road(washout(STEPS))


def washing(**options):
    tightening, terminal = parts()
    return TightenedMPC(
        predictor(),
        washout(STEPS),
        tightening,
        terminal=terminal,
        **grouped(dict(output_weight=1.0, input_move_weight=1e-3, control_horizon=4, **options)),
    )


class Loop:
    """The tank behind a controller, whose true state is known."""

    def __init__(self, controller, system=SYSTEM, warm_up=None):
        self.controller, self.system = controller, system
        self.x, self.u, self.steps, self.errors, self.true = np.zeros(1), np.zeros(1), [], [], []
        for _ in range(controller.observer.steps if warm_up is None else warm_up):
            self.record(0.0)

    def reading(self, off=0.0):
        return self.system.output(self.x, self.u) + off

    def record(self, u):
        self.controller.record(self.reading(), [u])
        self.u = np.array([u], dtype=float)
        self.x = self.system.step(self.x, self.u)

    def step(self, reference=5.0, off=0.0, acted=None, **options):
        before = self.controller.observer
        taken = self.controller.step(self.reading(off), [reference], **options)
        self.errors.append(abs(self.x - taken.x)[0] / before.error.euclidean)
        self.u = taken.u if acted is None else np.array([acted])
        self.x = self.system.step(self.x, self.u)
        self.steps.append(taken)
        self.true.append(self.x[0])
        return taken

    def sound(self):
        """Nowhere certified beside a broken bound."""
        return all(e <= 1 for e, s in zip(self.errors, self.steps, strict=True) if s.certified)
