"""What is known of wrong inputs: each kind is a set of input differences, and a price for it in the S-procedure.

With the storages of `incremental` |dy_k|^2 <= (initial part) + sum_{j <= k} sum_c rho_j,c du_j,c^2: a kind costs

    box per step       |du_j,c| <= b_c                       sum_j sum_c rho_j,c b_c^2
    ball per step      sum_c (du_j,c / b_c)^2 <= 1           sum_j max_c rho_j,c b_c^2
    few                box, but zero except at m steps       the m largest of sum_c rho_j,c b_c^2
    constant           du_j = du_0 in the box                du is a state: part of the initial difference
    rate-limited       box, |du_j,c - du_j-1,c| <= s_c       du is a state with input s; the box is valid as well

A state du starts anywhere in its box: with dx_0 it lies in {dx'M dx w_0 / r^2 + sum_c w_c (du_c / b_c)^2 <= 1} for all
weights w >= 0 that add up to one, of which the best are taken.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from controlrnn.checks import Array, Choice, as_array, count, read_only
from controlrnn.errors import SettingError
from controlrnn.records import Count, Numbers, Schema, Stored, Text


class InputErrorKind(Choice):
    """Which differences of the inputs are allowed."""

    BOX = "box"
    BALL = "ball"
    FEW = "few"
    CONSTANT = "constant"
    RATE_LIMITED = "rate_limited"


@dataclass(frozen=True, eq=False, kw_only=True)
class InputError(Stored):
    """A set of input differences over a horizon.

    Args:
        kind: Which set.
        radius: b, a number for all channels or shape (nu,), input units; a channel of radius zero is exact.
        rate: s, largest change per step, likewise; for `InputErrorKind.RATE_LIMITED` alone.
        steps: m, number of steps at which inputs are wrong, unknown which; for `InputErrorKind.FEW` alone.
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "input-error", 1,
        arrays={"radius": Numbers("nu", least=0.0), "rate": Numbers("nu", least=0.0, optional=True)},
        meta={"kind": Text(choices=InputErrorKind), "steps": Count(1, none=True)}, zero=("N", "nu", "nv"),
    )  # fmt: skip

    kind: InputErrorKind = InputErrorKind.BOX
    radius: Array | float
    rate: Array | float | None = None
    steps: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", InputErrorKind(self.kind))
        if (self.rate is None) == (self.kind is InputErrorKind.RATE_LIMITED):
            raise SettingError(f"rate belongs to kind 'rate_limited' and to no other, got kind {self.kind!r}")
        if (self.steps is None) == (self.kind is InputErrorKind.FEW):
            raise SettingError(f"steps belongs to kind 'few' and to no other, got kind {self.kind!r}")
        if self.steps is not None:
            object.__setattr__(self, "steps", count("steps", self.steps))

    @classmethod
    def of(cls, value: InputError | Array | float, nu: int) -> InputError:
        """With ``value`` checked and spread over ``nu`` channels; numbers mean a box."""
        error = value if isinstance(value, InputError) else cls(radius=value)
        radius = _per_channel("input_radius", error.radius, nu)
        rate = None if error.rate is None else _per_channel("rate", error.rate, nu)
        return cls(kind=error.kind, radius=radius, rate=rate, steps=error.steps)

    @property
    def b(self) -> Array:
        """Radii (nu,); of an error that went through `of`."""
        return np.asarray(self.radius, dtype=np.float64)

    @property
    def is_state(self) -> bool:
        """Whether a difference of the inputs goes on by itself."""
        return self.kind in (InputErrorKind.CONSTANT, InputErrorKind.RATE_LIMITED)

    @property
    def changes(self) -> Array:
        """Largest change per step (nu,) of differences that are states, zero for exact channels."""
        return np.zeros_like(self.b) if self.rate is None else np.where(self.b > 0, self.rate, 0.0)

    def covered_box(self, horizon: int) -> Array:
        """Radii (nu,) of the largest box per step that is part of the set over ``horizon`` steps."""
        b = self.b
        if self.kind is InputErrorKind.BALL:
            return np.asarray(b / np.sqrt(max(int((b > 0).sum()), 1)) * (1 - 1e-15))
        if self.kind is InputErrorKind.FEW and self.steps is not None:
            return b if self.steps > horizon else np.zeros_like(b)
        if self.kind is InputErrorKind.RATE_LIMITED:
            return np.minimum(b, 0.5 * np.asarray(self.rate))
        return np.zeros_like(b) if self.kind is InputErrorKind.CONSTANT and horizon else b

    def energies(self, rho: Array) -> Array:
        """What inputs contribute to the squared bound at steps 0, 1, .., shape (K,).

        Args:
            rho: By steps to go, shape (K, m) of the channels that differ; of a state's rate where `is_state`.
        """
        use = self.b > 0
        if self.kind is InputErrorKind.CONSTANT:
            return np.zeros(len(rho))
        size = rho * (self.changes[self.changes > 0] if self.is_state else self.b[use]) ** 2
        if self.kind is InputErrorKind.BALL:
            return np.asarray(np.cumsum(size.max(axis=1, initial=0.0)))
        per_step = size.sum(axis=1)
        if self.steps is None or self.steps >= len(rho):
            return np.asarray(np.cumsum(per_step))
        return np.array([np.sort(per_step[: k + 1])[-self.steps :].sum() for k in range(len(rho))])

    def added(self, gains: Array) -> Array:
        """What inputs contribute at most by gains (K, ny, nu) per lag, at steps 0, 1, .., shape (K, ny)."""
        if self.kind is InputErrorKind.BALL:  # sum_c g_c du_c <= |g b| over the ball
            return np.asarray(np.cumsum(np.linalg.norm(gains * self.b, axis=2), axis=0))
        per_lag = gains @ self.b
        if self.steps is None or self.steps >= len(gains):
            return np.asarray(np.cumsum(per_lag, axis=0))
        return np.array([np.sort(per_lag[: k + 1], axis=0)[-self.steps :].sum(axis=0) for k in range(len(gains))])

    def evened(self, rho: Array) -> Array:
        """Larger rho, shape (K, m), of the same price at the last step: storages only shrink with rho."""
        use = self.b > 0
        if not rho.size or not self.b.any():
            return rho
        size = rho * self.b[use] ** 2
        if self.kind is InputErrorKind.BALL:
            return np.asarray(size.max(axis=1, keepdims=True) / self.b[use] ** 2)
        if self.steps is None or self.steps >= len(rho):
            return rho
        per_step = size.sum(axis=1)
        least = np.sort(per_step)[-self.steps]
        return np.asarray(rho * np.maximum(1.0, least / np.maximum(per_step, 1e-300))[:, None])

    def extreme(self, gradient: Array) -> Array:
        """The member that a linear function likes best; for a limited rate one that it likes well.

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
            keep &= np.cumsum(keep, axis=-1) <= self.steps
            return np.asarray(full * keep[..., None])
        if self.kind is InputErrorKind.CONSTANT:
            total = self.b * np.sign(gradient.sum(axis=-2, keepdims=True))
            return np.asarray(np.broadcast_to(total, gradient.shape).copy())
        if self.kind is InputErrorKind.RATE_LIMITED:
            for k in range(1, full.shape[-2]):
                step = np.clip(full[..., k, :] - full[..., k - 1, :], -np.asarray(self.rate), np.asarray(self.rate))
                full[..., k, :] = full[..., k - 1, :] + step
        return np.asarray(full)

    @classmethod
    def _fields(cls, values: dict[str, Any]) -> dict[str, Any]:
        rate = values["rate"]
        return values | {"radius": read_only(values["radius"]), "rate": None if rate is None else read_only(rate)}

    def __str__(self) -> str:
        radii = ", ".join(f"{r:.3g}" for r in np.atleast_1d(self.b))
        text = f"at most ({radii}) per channel and step"
        if self.rate is not None:
            text += f", changing by at most ({', '.join(f'{r:.3g}' for r in np.atleast_1d(np.asarray(self.rate)))})"
        return {
            InputErrorKind.BALL: f"an ellipsoid with half axes ({radii}) per step",
            InputErrorKind.FEW: f"{text}, at no more than {self.steps} steps",
            InputErrorKind.CONSTANT: f"a constant of {text.removesuffix(' and step')}",
        }.get(self.kind, text)


def _per_channel(name: str, value: Array | float, nu: int) -> Array:
    array = np.asarray(value, dtype=np.float64)
    array = np.full(nu, float(array)) if array.ndim == 0 else array
    array = as_array(name, array, (nu,), hint="one radius per input channel")
    if (array < 0).any():
        raise SettingError(f"{name} must be >= 0 in every channel, got {value}")
    return read_only(array)
