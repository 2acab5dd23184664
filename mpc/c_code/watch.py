"""Constants and tables for the monitoring of premises in C, from a controller's `mpc.safety.premise_watch`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from controlrnn.errors import SettingError
from controlrnn.kernels.dense import dot
from mpc.calibration.region import RegionShape
from mpc.control.watching import MOST_MISSED
from mpc.observers import straying
from mpc.observers.base import Observer
from mpc.observers.innovation import StateObserver
from mpc.observers.open_loop import RunningOn
from mpc.observers.state_error import ROUNDING
from mpc.safety.premise_watch import ABSURD, ORDER, Premise, Reaction

if TYPE_CHECKING:
    from mpc.control.controller import TightenedMPC

Arrays = dict[str, NDArray[Any]]


def refuse_unwatched(controller: TightenedMPC) -> None:
    """Raise SettingError for monitoring that has no C code.

    Args:
        controller: The controller.
    """
    if controller._watched.watching.guard is not None:
        raise SettingError("C code has no guard of readings besides the absurd ones: leave watching's guard out")
    if controller._watched.watching.promised is not None:
        raise SettingError("C code does not count how often a promise is kept: leave watching's promised out")
    if controller.region_watch is not None and controller.region_watch.region.shape is not RegionShape.BOX:
        raise SettingError("C code watches regions that are boxes: learn_region(..., shape='box')")


def bits(premises: tuple[Premise, ...]) -> int:
    """Encode premises as the bits of the C header.

    Args:
        premises: Contradicted premises.
    """
    return sum(1 << ORDER.index(p) for p in premises)


def watch_words(controller: TightenedMPC) -> dict[str, Any]:
    """Values for the templates' placeholders about monitoring.

    Args:
        controller: The controller.
    """
    names = [*(f"{r.name} = {i}" for i, r in enumerate(Reaction)), f"PREMISES = {len(ORDER)}"]
    names += [f"{p.name}_AT = {ORDER.index(p)}" for p in (Premise.INNOVATION, Premise.MODEL_ERROR)]
    return {
        "region": int(controller.region_watch is not None),
        "ABSURD": ABSURD,
        "watching": ", ".join([*names, f"MOST_MISSED = {MOST_MISSED}"]),
    }


def watch_scalars(controller: TightenedMPC) -> dict[str, float]:
    """Scalar constants by name, only those that the observer's code uses.

    Args:
        controller: The controller.
    """
    observer, certificate = controller.observer, controller.observer.contraction
    found = {
        "JITTER": controller._watched.watching.jitter, "ROUNDING": ROUNDING,
        "FORGOTTEN": straying.FORGOTTEN, "REACH": 0.0, "RATE": 0.0, "MODEL_ADDED": 0.0,
    }  # fmt: skip
    if certificate is not None:
        added = dot(certificate.input_gain, observer.input_error)
        found |= {"REACH": observer._reach(), "RATE": float(certificate.rate), "MODEL_ADDED": added}
    if isinstance(observer, StateObserver):
        found["TO_OWN"] = observer._stretches[1] if observer._complete else 1.0
    return found


def running_bounds(observer: Observer) -> dict[str, float]:
    """Constants of the error bound for an observer that runs on: what it has to reach.

    Args:
        observer: A `RunningOn` or `Washout`.
    """
    if isinstance(observer, RunningOn) and observer.contraction is not None:
        return {"BOUND_PROMISED": observer._promised}
    return {"BOUND_PROMISED": sys.float_info.max}  # a washout goes by its window instead


def watch_tables(controller: TightenedMPC) -> Arrays:
    """Arrays by name, only those that the code uses.

    Args:
        controller: The controller.
    """
    watch, observer = controller._watched, controller.observer
    ny, N = controller.predictor.ny, controller.horizon
    safe = np.zeros(ny) if watch.watching.safe_reference is None else np.asarray(watch.watching.safe_reference)
    # Limits for the reaction WIDEN; without one the ordinary limits fill the table, and are not used.
    own = (controller._lower, controller._upper) if controller._wider is None else controller._wider
    low, high = controller._answers.limits(*own, own)
    tables: Arrays = {
        "range_low": watch._lower,
        "range_high": watch._upper,
        "absurd": watch.absurd,
        "reading_bound": watch.bounds,
        "command_error": observer.command_error,
        "span": controller._span,
        "reactions": np.array([list(Reaction).index(watch.watching.reactions[p]) for p in ORDER], dtype=int),
        "safe_reference": np.tile(safe, (N + 1, 1)).ravel(), "wide_low": low.ravel(), "wide_high": high.ravel(),
    }  # fmt: skip
    certificate, nx = observer.contraction, controller.predictor.nx
    ends = np.array(controller.predictor.input_limits())
    tables |= {
        "range_end": ends.ravel(), "range_room": 1e-9 * np.abs(ends).sum(axis=0),
        "input_gain": np.zeros(ends.shape[1]) if certificate is None else certificate.input_gain,
        "metric": (np.eye(nx) if certificate is None else certificate.metric).ravel(),
    }  # fmt: skip
    if isinstance(observer, StateObserver):
        tables["own_metric"] = (observer._parts()[1].metric if observer._complete else np.eye(nx)).ravel()
    if controller.region_watch is not None:
        region = controller.region_watch.region
        halves = [a * np.sqrt(np.diag(C)) for a, C in zip(region.limits, region.covariances, strict=True)]
        tables |= {"region_middle": np.concatenate(region.centres), "region_half": np.concatenate(halves)}
    return tables
