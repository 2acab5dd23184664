"""Settings of a closed loop: its start and its disturbances."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from controlrnn.checks import Array, as_array, put, read_only
from controlrnn.errors import ShapeError
from controlrnn.typed import typed
from mpc.problem.settings import by_record

Disturbance = ArrayLike | Callable[[np.random.Generator], ArrayLike]
Reference = ArrayLike | Callable[[np.random.Generator], ArrayLike]


@dataclass(frozen=True, kw_only=True, eq=False)
@typed()
class Start:
    """Initial state of the plant, and the warm-up with constant input during which the observer collects its record.

    Args:
        x0: Plant state at the start of the warm-up; its ``initial_state()`` when left out.
        warm_up: Samples before the first control step; the number that the observer needs when left out.
        warm_up_input: Constant input, shape (nu,); the controller's safe input when left out.
    """

    x0: ArrayLike | None = None
    warm_up: int | None = None
    warm_up_input: ArrayLike | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
@typed()
class Disturbances:
    """Noise, disturbances, input errors, missing readings and forecast errors in a closed loop.

    Args:
        noise_std: Standard deviation of white Gaussian measurement noise, scalar or (ny,).
        disturbance: Passed to ``plant.step`` as ``w``: shape (T, nw) for the control steps (its first row also acts
            during the warm-up, its last row is held), or a function that draws one from a generator.
        input_error: Bound of errors between commanded and applied inputs, drawn uniformly, scalar or (nu,).
        input_drift: Largest change of these errors from sample to sample, drawn uniformly, scalar or (nu,): zero for
            errors that stay for a whole run. None: every sample has another one.
        missing: Probability with which each measurement is missing.
        forecast_error: Bound on errors of the forecasts of measured inputs, drawn uniformly for every sample ahead of
            every step (the present value is known), scalar or one per measured input. A tightening covers it if the
            input radius of its certificate does.
    """

    noise_std: ArrayLike = 0.0
    disturbance: Disturbance | None = None
    input_error: ArrayLike = 0.0
    input_drift: ArrayLike | None = None
    missing: float = 0.0
    forecast_error: ArrayLike = 0.0

    def __post_init__(self) -> None:
        if self.disturbance is not None and not callable(self.disturbance):
            put(self, disturbance=disturbance_rows(self.disturbance))


def disturbance_rows(given: ArrayLike) -> Array:
    """Disturbances as an array (T, nw) after checking that they are finite and have a row."""
    rows = read_only(as_array("disturbance", given, ("T", "nw")))
    if not len(rows):
        raise ShapeError(f"disturbance must have at least one row, got {rows.shape}")
    return rows


_RECORDS: dict[str, type[Any]] = {"start": Start, "disturbances": Disturbances}


def loop_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Group single settings by name into the arguments of `mpc.run_closed_loop`.

    Args:
        settings: Fields of the settings records, or whole arguments.
    """
    return by_record(_RECORDS, settings)
