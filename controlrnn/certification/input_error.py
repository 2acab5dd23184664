"""Input errors as a stored record; see `controlrnn.certification.proof.input_error` for their kinds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from controlrnn.certification.proof.input_error import InputDifferences, InputErrorKind
from controlrnn.checks import Array, read_only
from controlrnn.records import Count, Numbers, Schema, Stored, Text
from controlrnn.typed import typed

__all__ = ["InputError", "InputErrorKind"]


@dataclass(frozen=True, eq=False, kw_only=True)
@typed(stored=False)
class InputError(InputDifferences, Stored):
    """A set of input differences over a horizon, as certificates store it.

    Args:
        kind: Kind of the set.
        radius: b, a number for all channels or shape (nu,), input units; a channel of radius zero is exact.
        rate: s, largest change per step, likewise; for `InputErrorKind.RATE_LIMITED` alone.
        steps: m, number of steps at which inputs are wrong, unknown which; for `InputErrorKind.FEW` alone.
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "input-error", 1,
        arrays={
            "radius": Numbers("nu", least=0.0, otherwise=()),
            "rate": Numbers("nu", least=0.0, otherwise=(), optional=True),
        },
        meta={"kind": Text(choices=InputErrorKind), "steps": Count(1, none=True)}, zero=("N", "nu", "nv"),
    )  # fmt: skip

    def evened(self, rho: Array) -> Array:
        """Enlarge the multipliers rho of the inputs, shape (K, m), as far as the bound at the last step stays the same.

        Storages only shrink with rho.
        """
        use = self.b > 0
        if not rho.size or not self.b.any():
            return rho
        size = rho * self.b[use] ** 2
        if self.kind is InputErrorKind.BALL:
            return np.asarray(size.max(axis=1, keepdims=True) / self.b[use] ** 2)
        if self.steps is None or self.steps >= len(rho):
            return rho
        per_step = size.sum(axis=1)
        # Only the largest steps cost: the others can be raised to the least of them for nothing.
        least = np.sort(per_step)[-self.steps]
        return np.asarray(rho * np.maximum(1.0, least / np.maximum(per_step, 1e-300))[:, None])

    def extreme(self, gradient: Array) -> Array:
        """The member of the set that maximises a linear function; a good one, not the best, for a limited rate.

        Args:
            gradient: Shape (..., K, nu).

        Returns:
            The differences, of the same shape.
        """
        full = self.b * np.sign(gradient)
        if self.kind is InputErrorKind.BALL:
            scaled = gradient * self.b
            return np.asarray(self.b * scaled / np.maximum(np.linalg.norm(scaled, axis=-1, keepdims=True), 1e-300))
        if self.steps is not None:
            value = np.abs(gradient) @ self.b
            least = np.sort(value, axis=-1)[..., -min(self.steps, value.shape[-1])]
            keep = value >= least[..., None]
            # Ties could keep more steps than allowed.
            keep &= np.cumsum(keep, axis=-1) <= self.steps
            return np.asarray(full * keep[..., None])
        if self.kind is InputErrorKind.CONSTANT:
            total = self.b * np.sign(gradient.sum(axis=-2, keepdims=True))
            return np.asarray(np.broadcast_to(total, gradient.shape).copy())
        if self.kind is InputErrorKind.RATE_LIMITED:
            for k in range(1, full.shape[-2]):
                # Greedy: towards the best value as fast as the rate allows.
                step = np.clip(full[..., k, :] - full[..., k - 1, :], -np.asarray(self.rate), np.asarray(self.rate))
                full[..., k, :] = full[..., k - 1, :] + step
        return np.asarray(full)

    @classmethod
    def _fields(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Constructor arguments from the values of a record, arrays made read-only."""
        rate = values["rate"]
        return values | {"radius": read_only(values["radius"]), "rate": None if rate is None else read_only(rate)}
