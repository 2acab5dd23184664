"""Constants and tables for the monitoring of premises in C, from a controller's `mpc.safety.premise_watch`."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlrnn.errors import SettingError
from mpc.c_tables import ControllerTable
from mpc.calibration.region import EDGE, RegionShape
from mpc.control.controller import TightenedMPC
from mpc.control.watching import MOST_MISSED
from mpc.observers import straying
from mpc.observers.state_error import ROUNDING
from mpc.promises.promise import LoopTarget
from mpc.safety.premise_watch import ABSURD, ORDER, Premise, Reaction

Arrays = dict[str, NDArray[Any]]


def refuse_unwatched(controller: TightenedMPC) -> None:
    """Raise SettingError for monitoring that has no C code.

    Args:
        controller: The controller.
    """
    if controller.premise_watch.watching.plausibility is not None:
        raise SettingError("C code refuses absurd readings only: leave watching's plausibility out")
    if controller.region_watch is not None and controller.region_watch.region.shape is not RegionShape.BOX:
        raise SettingError("C code watches regions that are boxes: learn_region(..., shape='box')")


def bits(premises: tuple[Premise, ...]) -> int:
    """Encode premises as the bits of the C header.

    Args:
        premises: Contradicted premises.
    """
    return sum(1 << ORDER.index(p) for p in premises)


def watch_words(controller: TightenedMPC, own: ControllerTable) -> dict[str, Any]:
    """Values for the templates' placeholders about monitoring.

    Args:
        controller: The controller.
        own: Its numbers.
    """
    names = [*(f"{r.name} = {i}" for i, r in enumerate(Reaction)), f"PREMISES = {len(ORDER)}"]
    names += [f"{p.name}_AT = {ORDER.index(p)}" for p in (Premise.INNOVATION, Premise.MODEL_ERROR)]
    promised = controller.premise_watch.watching.promised
    if promised is not None:
        limits = int(promised.target is LoopTarget.LIMITS)
        names += [f"STRETCH = {promised.stretch}", f"LIMITS_COUNTED = {limits}"]
    return {
        "region": int(controller.region_watch is not None),
        "coverage": int(promised is not None),
        "ranges": 0 if own.ranges is None else len(own.ranges.bias),
        "moves": 0 if own.moves is None else own.moves.window,
        "ABSURD": ABSURD,
        "watching": ", ".join([*names, f"MOST_MISSED = {MOST_MISSED}"]),
    }


def watch_scalars(own: ControllerTable) -> dict[str, float]:
    """Scalar constants by name, only those that the observer's code uses.

    Args:
        own: Numbers of the controller.
    """
    observer = own.observer
    found = {
        "JITTER": own.premises.jitter, "ROUNDING": ROUNDING,
        "FORGOTTEN": straying.FORGOTTEN, "REACH": observer.reach, "RATE": observer.rate, "MODEL_ADDED": observer.added,
    }  # fmt: skip
    if own.moves is not None:
        found["LAST_PLACES"] = own.moves.last_places
    counted = own.premises.counted
    if counted is not None:
        found |= {"FACTOR_INSIDE": counted.inside, "FACTOR_OUTSIDE": counted.outside, "PATIENCE": counted.patience}
    return found if observer.innovation is None else found | {"TO_OWN": observer.innovation.to_own}


def watch_tables(controller: TightenedMPC, own: ControllerTable) -> Arrays:
    """Arrays by name, only those that the code uses.

    Args:
        controller: The controller.
        own: Its numbers.
    """
    premises, observer, ends = own.premises, own.observer, np.array(controller.predictor.input_limits())
    tables: Arrays = {
        "range_low": premises.range_low,
        "range_high": premises.range_high,
        "absurd": premises.absurd,
        "reading_bound": premises.bounds,
        "command_error": controller.observer.command_error,
        "span": own.span,
        "reactions": premises.reactions,
        "safe_reference": np.tile(premises.safe, (controller.horizon + 1, 1)).ravel(),
        "wide_low": own.wider_lower.ravel(),
        "wide_high": own.wider_upper.ravel(),
        "range_end": ends.ravel(),
        "range_room": 1e-9 * np.abs(ends).sum(axis=0),
        "input_gain": observer.input_gain,
        "metric": observer.metric.ravel(),
    }
    if observer.innovation is not None:
        tables["own_metric"] = observer.innovation.metric.ravel()
    if premises.counted is not None:
        tables |= {"counted_low": premises.counted.lower, "counted_high": premises.counted.upper}
    if own.ranges is not None:
        tables |= {"range_matrix": own.ranges.matrix.ravel(), "range_bias": own.ranges.bias}
        tables |= {"range_least": own.ranges.least, "range_most": own.ranges.most}
    if own.moves is not None:
        tables["calibrated_moves"] = np.minimum(own.moves.limit, np.finfo(np.float64).max)
    if controller.region_watch is not None:
        region = controller.region_watch.region
        halves = [a * (1 + EDGE) * np.sqrt(np.diag(C)) for a, C in zip(region.limits, region.covariances, strict=True)]
        tables |= {"region_middle": np.concatenate(region.centres), "region_half": np.concatenate(halves)}
    return tables
