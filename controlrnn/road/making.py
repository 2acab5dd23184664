"""Observers, model errors and tightenings of a road, from its file and earlier results."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

import mpc
from controlrnn.certification import ContractionCertificate, HorizonCertificate
from controlrnn.checks import Array
from controlrnn.data import Dataset
from controlrnn.errors import DataError, InfeasibleError
from controlrnn.road.data.splitting import signals_of
from controlrnn.road.file.schema import RoadFile
from controlrnn.systems import LureSystem


def predictor_of(file: RoadFile, system: LureSystem) -> mpc.Predictor:
    """Predictor with the channels and limits of the road file.

    Args:
        file: The road file.
        system: The model.
    """
    return mpc.Predictor(system, *signals_of(file))


def observer_of(
    file: RoadFile, predictor: mpc.Predictor, contraction: ContractionCertificate, steps: int
) -> mpc.Observer:
    """Observer that the road file asks for.

    Args:
        file: The road file.
        predictor: The model.
        contraction: Its certificate.
        steps: Samples after which estimates are used.
    """
    kind: Any = mpc.RunningOn if file.observer.kind == "running_on" else mpc.Washout
    made: mpc.Observer = kind(
        predictor,
        steps,
        contraction=contraction,
        input_error=[i.error for i in file.inputs],
        command_error=[i.command_error for i in file.inputs],
    )
    return made


def calibrate_error(file: RoadFile, data: Dataset, observer: mpc.Observer) -> mpc.ModelError:
    """Calibrated model error, as the road file promises it.

    Args:
        file: The road file.
        data: Data; the calibration records give the bound, others its shape.
        observer: The controller's observer.

    Raises:
        DataError: Too few records for the promise.
    """
    least = file.promise.washout + file.control.horizon + 1
    shape = [r for r in (*data.validation, *data.train) if len(r) >= least]
    if not shape:
        raise DataError(
            f"a training or validation record must have at least {least} samples (promise.washout + control.horizon + "
            "1) to give the bound its shape: shorten one of them"
        )
    return mpc.calibrate(
        observer.system,
        data.calibration,
        horizon=file.control.horizon,
        washout=file.promise.washout,
        coverage=file.promise.coverage,
        confidence=file.promise.confidence,
        unit=mpc.CoverageUnit(file.promise.unit),
        scale_trajectories=shape,
        initial_state=observer.initial_state,
    )


def make_tightening(
    file: RoadFile,
    error: mpc.ModelError,
    observer: mpc.Observer,
    horizon: HorizonCertificate,
    initial: HorizonCertificate | None,
) -> mpc.Tightening:
    """Tightening of the limits, with room left between them.

    Args:
        file: The road file.
        error: The calibrated model error.
        observer: The controller's observer.
        horizon: Certified prediction errors.
        initial: Those without errors of inputs, to tell the parts apart.

    Raises:
        InfeasibleError: Nothing is left between the limits; the message says what takes the room, and what to do.
    """
    tightening = mpc.tighten(error, horizon, observer=observer, initial_only=initial)
    try:
        tightening.limits(observer.predictor.outputs)
    except InfeasibleError as failure:
        raise InfeasibleError(f"{failure}\n{room_advice(file, tightening)}") from failure
    return tightening


def room_advice(file: RoadFile, tightening: mpc.Tightening) -> str:
    """What would leave more room between the limits, for the largest part of the tightening."""
    parts = {
        "model error": (tightening.model_error, "a better model (identify.budget), more data, or a smaller coverage"),
        "re-initialisation": (tightening.reinitialisation, "more observer.steps, or a model that forgets faster"),
        "input error": (tightening.input_error, "smaller inputs.error, if the sensors and actuators are that exact"),
    }
    span = np.array([
        np.inf if o.lower is None or o.upper is None else o.upper - o.lower for o in file.outputs
    ])  # fmt: skip
    name, (_, remedy) = max(parts.items(), key=lambda item: float(np.max(item[1][0][1:] / span)))
    return f"largest is the {name}: {remedy} would shrink it; or set wider limits"


def error_budget(file: RoadFile, tightening: mpc.Tightening) -> list[str]:
    """What eats the range of each output, at the step where most of it is gone, a sentence each."""
    words = []
    for i, output in enumerate(file.outputs):
        k = 1 + int(np.argmax(tightening.total[1:, i]))
        total = float(tightening.total[k, i])
        sides = sum(limit is not None for limit in (output.lower, output.upper))
        share = ""
        if output.lower is not None and output.upper is not None:
            share = f", {100 * 2 * total / (output.upper - output.lower):.0f} % of its range on both sides"
        parts: Sequence[tuple[str, Array]] = (
            ("model error", tightening.model_error),
            ("re-initialisation", tightening.reinitialisation),
            ("input error", tightening.input_error),
        )
        eaten = ", ".join(f"{name} {float(part[k, i]):.3g}" for name, part in parts)
        where = "each limit" if sides else "limits, of which it has none,"
        words.append(
            f"{output.name} stays {total:.3g} {output.unit} away from {where}{share} ({eaten})".replace("  ", " ")
        )
    return words
