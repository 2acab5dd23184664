"""Explanation in words: what each part of the tightening takes of the outputs' ranges, and what a plan violates."""

from __future__ import annotations

import numpy as np

from controlrnn.checks import Array
from mpc.control.parts import ControllerParts
from mpc.problem.ranking import KEPT

# Part of a tightening: its name in words, and what makes it smaller.
_PARTS = {
    "model_error": ("model error", "a better model, or limits that learn (mpc.make_error_memory)"),
    "reinitialisation": ("error of the state estimate", "a longer washout, or smaller input errors"),
    "input_error": ("input errors", "more accurate actuators, or a reading of what they did"),
    "growth": ("growth for recursive feasibility", "a shorter horizon, or an observer that jumps less"),
    "execution": ("rounding", "double precision"),
    "terminal": ("terminal set", "a smaller share=... of mpc.terminal_set, or a longer horizon"),
}


def shares(controller: ControllerParts) -> dict[str, Array]:
    """Tightening by each part on either side of the outputs' ranges, by name, each (N + 1, ny), output units."""
    N, tightening = controller.horizon, controller.tightening
    parts = {name: getattr(tightening, name, None) for name in _PARTS}
    found = {name: np.asarray(part)[: N + 1] for name, part in parts.items() if part is not None}
    if controller.terminal is not None:
        end = np.zeros_like(found["model_error"])
        end[-1] = controller.terminal.margin
        found["terminal"] = end
    return found


def explanation(controller: ControllerParts) -> str:
    """Text of the largest shares of each output's range, of violated limits, and of what would reduce them."""
    parts, lines = shares(controller), []
    total = np.sum(list(parts.values()), axis=0)
    for i, signal in enumerate(controller.predictor.outputs):
        span = signal.upper - signal.lower
        if not np.isfinite(span):
            continue
        k = int(total[1:, i].argmax()) + 1  # the step with the largest tightening; step 0 is not limited
        eaten = {name: 200.0 * float(part[k, i]) / span for name, part in parts.items() if part[k, i] > 0}
        largest = max(eaten, key=lambda name: eaten[name], default=None)
        words = ", ".join(f"{_PARTS[name][0]} {share:.3g} %" for name, share in eaten.items()) or "nothing"
        help_ = "" if largest is None else f"; what would help most: {_PARTS[largest][1]}"
        lines.append(
            f"{signal.name!r}: of the range {signal.lower:g} to {signal.upper:g} {signal.unit}".rstrip()
            + f", {words} is taken at step {k}, {max(100 - 200 * total[k, i] / span, 0):.3g} % is left{help_}"
        )
    return "; ".join([*_exceeded(controller), *lines]) or "no output has limits"


def _exceeded(controller: ControllerParts) -> list[str]:
    """Texts about the limits that the plan of the last step violates."""
    data, plan = controller.last_data, controller._plan
    if data is None or plan is None:
        return []
    problem = controller.problem
    over = problem.excess_of(data, problem.outcome(data.x, controller._shifted(plan))[0])
    found = []
    for i in np.flatnonzero((over > KEPT).any(axis=0)):
        k, scale = int(over[:, i].argmax()), problem.output_scale[i]
        found.append(
            f"the plan exceeds the tightened limits of {problem.predictor.outputs[i].name!r} at "
            f"{int((over[:, i] > KEPT).sum())} of its steps, most at step {k}, by {over[k, i] * scale:.3g}: wider "
            "limits, moves or actuators would help"
        )
    return found
