"""Controllers whose model errors are calibrated for slow inputs: of a washout, and with limits that learn."""

from dataclasses import replace
from functools import cache

import numpy as np
from one_tank import DRIFT, RESIDUAL, M, N, error, running_parts
from premise_cases import CONTRACTION, STEPS, SYSTEM, predictor, road, washout

from mpc import Premises, RunningOn, TightenedMPC, Tracking, certify_changes, make_error_memory, tighten
from mpc.control.settings import grouped
from mpc.problem.settings import Limits

LIMIT, WINDOW, W, K = 0.2, 20, 30, 2


def slow_error(system, bounds, gain=None, limit=LIMIT, window=WINDOW):
    """Declared, for slow inputs."""
    stated = Premises(system=system.digest, dt=1.0, move_limit=[limit], move_window=window)
    return replace(error(system, bounds, gain), washout=window, premises=stated)


@cache
def parts():
    tightening, terminal = road(washout(STEPS))
    stated = tighten(slow_error(SYSTEM, np.full(N + 1, RESIDUAL)), None, observer=washout(STEPS)).premises
    return replace(tightening, premises=stated).on_trust(), terminal


def slow(observer=None, **options):
    """A guaranteed controller that moves slowly."""
    tightening, terminal = parts()
    settings = dict(output_weight=1.0, input_move_weight=1e-3, control_horizon=4, move_limit=LIMIT, **options)
    return TightenedMPC(predictor(), observer or washout(STEPS), tightening, terminal=terminal, **grouped(settings))


def slow_corrected():
    """Predictions and limits are corrected by a filter that remembers for longer than the window."""
    observer = washout(STEPS)
    tightening = tighten(slow_error(SYSTEM, np.full(N + 1, RESIDUAL), 0.05), None, observer=observer)
    tracking = Tracking(output_weight=1.0, input_move_weight=1e-3, control_horizon=4)
    return TightenedMPC(predictor(), observer, tightening, tracking, limits=Limits(move_limit=LIMIT))


@cache
def memory():
    made_for, contraction, tightening, _, _ = running_parts()
    drift = slow_error(made_for.system, np.r_[0.0, np.full(N, DRIFT)], 1.0)
    observer = RunningOn(made_for, W, contraction=contraction)
    return make_error_memory(tightening, drift, certify_changes(observer, K), observer=observer)


def slow_recalling(**options):
    """Limits that learn from a drift that is calibrated for slow inputs; all else is for any."""
    made_for, contraction, tightening, terminal, _ = running_parts()
    return TightenedMPC(
        made_for,
        RunningOn(made_for, W, contraction=contraction),
        tightening,
        Tracking(output_weight=1.0, input_move_weight=1e-4, control_horizon=M),
        terminal=terminal,
        error_memory=memory(),
        limits=Limits(move_limit=LIMIT),
        **options,
    )


__all__ = [
    "CONTRACTION",
    "LIMIT",
    "WINDOW",
    "memory",
    "parts",
    "slow",
    "slow_corrected",
    "slow_error",
    "slow_recalling",
]
