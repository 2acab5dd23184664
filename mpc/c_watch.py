"""The numbers that C code watches premises with, from a controller's own watch (`mpc.watch`)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from controlrnn.errors import SettingError
from controlrnn.kernels.dense import dot
from mpc import straying
from mpc.observer import Observer, RunningOn, Washout
from mpc.region import RegionShape
from mpc.state_observer import StateObserver
from mpc.watch import ORDER, Premise, Reaction
from mpc.watching import MOST_MISSED

if TYPE_CHECKING:
    from mpc.controller import TightenedMPC

Arrays = dict[str, NDArray[Any]]


def refuse_unwatched(controller: TightenedMPC) -> None:
    """Raise SettingError for what C code does not watch.

    Args:
        controller: The controller.
    """
    if controller._watched.watching.guard is not None:
        raise SettingError("C code has no guard of readings besides the absurd ones: leave watching's guard out")
    if controller._watched.watching.promised is not None:
        raise SettingError("C code does not count how often a promise is kept: leave watching's promised out")
    if controller.watch is not None and controller.watch.region.shape is not RegionShape.BOX:
        raise SettingError("C code watches regions that are boxes: learn_region(..., shape='box')")


def bits(premises: tuple[Premise, ...]) -> int:
    """Premises as the header's bits.

    Args:
        premises: Those contradicted.
    """
    return sum(1 << ORDER.index(p) for p in premises)


def watch_words(controller: TightenedMPC) -> dict[str, Any]:
    """What templates leave open about watching.

    Args:
        controller: The controller.
    """
    names = [*(f"{r.name} = {i}" for i, r in enumerate(Reaction)), f"PREMISES = {len(ORDER)}"]
    names += [f"{p.name}_AT = {ORDER.index(p)}" for p in (Premise.INNOVATION, Premise.MODEL_ERROR)]
    return {
        "region": int(controller.watch is not None),
        "watching": ", ".join([*names, f"MOST_MISSED = {MOST_MISSED}"]),
    }


def watch_scalars(controller: TightenedMPC) -> dict[str, float]:
    """Constants by name, only those that the observer's code reads.

    Args:
        controller: The controller.
    """
    observer, found = controller.observer, {"JITTER": controller._watched.watching.jitter}
    certified, span = observer.contraction is not None, controller._span
    if isinstance(observer, Washout):
        found |= {
            "REACH": observer._reach() if certified else 0.0,
            "RATE": float(observer._certificate().rate) if certified else 0.0,
            "ROUNDING": straying._ROUNDING, "FORGOTTEN": straying._FORGOTTEN,
        }  # fmt: skip
    elif isinstance(observer, StateObserver):
        doubts = [0.0, 0.0]
        if observer._complete:
            model, own, _ = observer._parts()
            doubts = [dot(own.input_gain[: len(span)], span), dot(model.input_gain, span) * observer._stretches[1]]
        found |= {"DOUBT": doubts[0], "DOUBT_IN_GAP": doubts[1]}
    else:
        found["DOUBT"] = dot(observer._certificate().input_gain, span) if certified else 0.0
    return found


def running_bounds(observer: Observer) -> dict[str, float]:
    """How the bound on the error of an estimate that runs on goes on, and what it has to reach.

    Args:
        observer: A `RunningOn` or `Washout`.
    """
    none = {"BOUND_AT_START": 0.0, "BOUND_PROMISED": 0.0}
    if not isinstance(observer, RunningOn):
        return none
    if observer.contraction is None:
        return none | {"bound_kept": 0.0, "bound_added": 0.0}
    return {
        "BOUND_AT_START": observer._reach(), "BOUND_PROMISED": observer._promised,
        "bound_kept": float(observer.contraction.rate),
        "bound_added": dot(observer.contraction.input_gain, observer.input_error),
    }  # fmt: skip


def watch_tables(controller: TightenedMPC) -> Arrays:
    """Tables by name, only those that are read.

    Args:
        controller: The controller.
    """
    watch, observer = controller._watched, controller.observer
    ny, N = controller.predictor.ny, controller.horizon
    safe = np.zeros(ny) if watch.watching.safe_reference is None else np.asarray(watch.watching.safe_reference)
    own = (controller._lower, controller._upper) if controller._wider is None else controller._wider
    low, high = controller._answers.limits(*own, own)
    tables: Arrays = {
        "range_low": watch._lower, "range_high": watch._upper, "absurd": watch.absurd, "reading_bound": watch.bounds,
        "command_error": observer.command_error, "span": controller._span,
        "reactions": np.array([list(Reaction).index(watch.watching.reactions[p]) for p in ORDER], dtype=int),
        "safe_reference": np.tile(safe, (N + 1, 1)).ravel(), "wide_low": low.ravel(), "wide_high": high.ravel(),
    }  # fmt: skip
    if isinstance(observer, Washout):
        certified, nx = observer.contraction is not None, controller.predictor.nx
        ends = np.array(controller.predictor.input_limits())
        tables |= {
            "range_end": ends.ravel(), "range_room": 1e-9 * np.abs(ends).sum(axis=0),
            "input_error": observer.input_error,
            "input_gain": observer._certificate().input_gain if certified else np.zeros(ends.shape[1]),
            "metric": (observer._certificate().metric if certified else np.eye(nx)).ravel(),
        }  # fmt: skip
    if controller.watch is not None:
        region = controller.watch.region
        halves = [a * np.sqrt(np.diag(C)) for a, C in zip(region.limits, region.covariances, strict=True)]
        tables |= {"region_middle": np.concatenate(region.centres), "region_half": np.concatenate(halves)}
    return tables
