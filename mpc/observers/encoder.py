"""Encoder observer: the state from a window of inputs and outputs by a learned encoder.

Beintema, Schoukens, Toth, "Deep subspace encoders for nonlinear system identification", Automatica 2023; fitted by
`controlrnn.identification.fit_encoder` to a model that keeps its certificates. Nothing is proven about the encoder: its
error is calibrated (`mpc.calibrate_estimates`), or certified by a guard that limits the estimate
(`mpc.observers.guarded`).
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from controlrnn.checks import Array
from controlrnn.errors import SettingError
from controlrnn.records import digest
from controlrnn.typed import typed
from mpc.observers.guarded import GuardedObserver
from mpc.predictor import Predictor

if TYPE_CHECKING:  # an encoder is fitted with torch; one that is given needs none
    from controlrnn.identification import StateEncoder


class EncoderObserver(GuardedObserver):
    """Observer that estimates the state with a fitted encoder.

    While a measurement of the window is missing, the model runs on from the last estimate. Late measurements enter
    through `correct` while their sample is within the window.

    Args:
        predictor: The model that the encoder was fitted to.
        encoder: From `controlrnn.identification.fit_encoder`.
        steps: Samples before the estimate may be used; the encoder's window when left out, and not less.
        options: Arguments of `GuardedObserver`, among them ``guard`` and ``calibration``.

    Raises:
        SettingError: The encoder belongs to another model, or ``steps`` is less than its window.
    """

    @typed()
    def __init__(self, predictor: Predictor, encoder: StateEncoder, steps: int | None = None, **options: Any) -> None:
        if encoder.system_digest != predictor.system.digest:
            raise SettingError("encoder and predictor must belong to one model, got different digests")
        steps = encoder.past if steps is None else steps
        if steps < encoder.past:
            raise SettingError(f"steps must be at least the encoder's window {encoder.past}, got {steps}")
        self.encoder = encoder
        super().__init__(predictor, steps, **options)

    def start(self) -> None:
        """Start again with an empty window."""
        super().start()
        self._past: deque[tuple[Array, Array]] = deque(maxlen=self.encoder.past)

    def _method(self) -> str:
        return f"encoder of the last {self.encoder.past} samples, used after {self.steps} steps"

    def _settings(self) -> dict[str, Any]:
        e = self.encoder
        weights = {"linear": e.linear, "inner": e.inner, "bias": e.bias, "outer": e.outer}
        scalers = {
            f"{n}_{k}": getattr(s, k) for n, s in (("u", e.inputs), ("y", e.outputs)) for k in ("shift", "scale")
        }
        return super()._settings() | {"encoder": digest(weights | scalers, {"past": e.past})}

    def _propose(self, u: Array, y: Array) -> Array:
        self._past.append((u, y))
        return self._encode()

    def _late(self, age: int, y: Array) -> Array:
        if age >= len(self._past):
            return self.state
        u, seen = self._past[-1 - age]
        self._past[-1 - age] = (u, np.where(np.isnan(y), seen, y))
        return self._accept(self._encode())

    def _encode(self) -> Array:
        u, y = (np.array(rows) for rows in zip(*self._past, strict=True))
        if len(u) < self.encoder.past or np.isnan(y).any():
            return np.full(self.predictor.nx, np.nan)  # no proposal
        estimate = np.array(self.encoder.estimate(u, y))
        if self.predictor.carries:
            estimate[-self.predictor.nu :] = u[-1]  # known, not estimated
        return estimate
