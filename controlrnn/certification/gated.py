"""Incremental input-to-state stability (delta-ISS) of LSTM and GRU networks over a range of inputs.

With s = sigmoid and bars for the largest values over the inputs' range, the states of two runs differ by at most

    GRU    |dh+| <= z |dh| + (1 - z) |dn| + |dz| |h - n|,   |dn| <= n' (|Wn||du| + |Un|(r |dh| + |dr| |h|))
    LSTM   |dc+| <= f |dc| + c |df| + i |dg| + g |di|,      |dh+| <= o |dc+| + |do| tanh c,   c = i g / (1 - f)

entrywise, where every gate's difference is at most its largest slope times |W||du| + |U||dh|. The right-hand side is a
monotone, sublinear map F(|dx|, |du|), so a vector d > 0 with F(d, 0) <= rate d shows

    max_i |dx_i+| / d_i <= rate max_i |dx_i| / d_i + sum_c gain_c |du_c| .

With d constant over the units these are the conditions of Bonassi, Farina, Scattolini, "On the stability properties of
gated recurrent units neural networks", Syst. Control Lett. 2021, and Terzi, Bonassi, Farina, Scattolini, "Learning
model predictive control with long short-term memory networks", Int. J. Robust Nonlinear Control 2021; here d is the
best one (nonlinear Perron-Frobenius iteration), every unit counts with its own row, and slopes over the range.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from controlrnn.certification import figures
from controlrnn.certification.certificate import Certificate, certificate_schema, current_versions
from controlrnn.checks import Array, as_array, read_only
from controlrnn.errors import CertificationError, SettingError
from controlrnn.portable import ROOM
from controlrnn.records import Number, Numbers, Schema
from controlrnn.systems import GatedSystem
from controlrnn.systems.gated import Cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# All that follows the bounds of the gates adds and multiplies nonnegative numbers: this is far more than that rounds.
_ROUNDING = 1 + 1e-10
_ULP = 1e-14  # of exp, tanh and what is made of them: far more than they err
_TINY = 1e-290


@dataclass(frozen=True, kw_only=True, eq=False)
class DeltaIssCertificate(Certificate):
    """Two runs of a gated network approach each other, up to what different inputs do.

    It speaks of states within `state_bound`, which no run from there (from zero, say) leaves while its inputs stay in
    their range. Distances are max_i |dx_i| / `scale`_i.

    Args:
        rate: In (0, 1); smaller forgets faster.
        scale: d, shape (nx,), positive.
        input_gain: Shape (nu,): how far a unit difference of one input moves the next state.
        input_low: Lower limits of the inputs, shape (nu,), input units.
        input_high: Upper limits, likewise.
        state_bound: Shape (nx,): |x| entrywise.
    """

    KIND: ClassVar[str] = "delta-iss-certificate"
    UNITS: ClassVar[dict[str, str]] = {
        "rate": "per step", "scale": "states, dimensionless", "input_gain": "distance per input unit",
        "input_low": "input units", "input_high": "input units", "state_bound": "states, dimensionless",
    }  # fmt: skip

    SCHEMA: ClassVar[Schema] = certificate_schema(
        KIND, UNITS,
        arrays={
            "scale": Numbers("nx", above=0.0), "input_gain": Numbers("nu", least=0.0), "input_low": Numbers("nu"),
            "input_high": Numbers("nu"), "state_bound": Numbers("nx", least=0.0),
        },
        meta={"rate": Number(above=0.0, below=1.0)},
    )  # fmt: skip

    rate: float
    scale: Array
    input_gain: Array
    input_low: Array
    input_high: Array
    state_bound: Array

    def __post_init__(self) -> None:
        for name in self._names():
            object.__setattr__(self, name, read_only(getattr(self, name)))

    def distance(self, dx: Array) -> Array:
        """max_i |dx_i| / scale_i of state differences (..., nx), shape (...)."""
        return np.asarray((np.abs(dx) / self.scale).max(axis=-1))

    def error_after(self, steps: int, initial: float, input_radius: float | Array = 0.0) -> float:
        """Largest distance after ``steps`` steps.

        Args:
            steps: Number of steps.
            initial: Distance at the start.
            input_radius: Largest difference of each input per step, shape (nu,) or a number for all.
        """
        decay, grown = self.rate**steps, -np.expm1(steps * np.log(self.rate))
        push = float(np.sum(self.input_gain * np.broadcast_to(input_radius, self.input_gain.shape)))
        return float((decay * initial + grown / (1 - self.rate) * push) * (1 + 1e-12))

    def _prove(self, system: GatedSystem) -> float:
        shapes = {"scale": system.nx, "input_gain": system.nu, "input_low": system.nu, "input_high": system.nu,
                  "state_bound": system.nx}  # fmt: skip
        for name, n in shapes.items():
            value = getattr(self, name)
            if value.shape != (n,) or not np.isfinite(value).all():
                raise CertificationError(f"{name} must be finite, shape {(n,)}: the certificate was altered")
        if not (0 < self.rate < 1 and (self.scale > 0).all() and (self.input_low <= self.input_high).all()):
            raise CertificationError("rate, scale or input range make no sense: the certificate was altered")
        bound = Comparison(system, self.input_low, self.input_high, self.state_bound)
        needed = float(np.max(bound(self.scale, np.zeros(system.nu)) / self.scale))
        gains = bound.gains(self.scale)
        if not (needed <= self.rate and (gains <= self.input_gain).all()):
            raise CertificationError(
                f"the rate {self.rate:.17g} or a gain {self.input_gain} is not proven: the comparison system gives "
                f"{needed:.17g} and {gains}; certify again", margin=self.rate - needed
            )  # fmt: skip
        return 1 - self.rate

    def summary(self) -> str:
        """What is claimed, in words and numbers."""
        gains = ", ".join(f"{g:.3g}" for g in self.input_gain)
        ranges = ", ".join(f"{a:.3g}..{b:.3g}" for a, b in zip(self.input_low, self.input_high, strict=True))
        return (
            f"Delta-ISS certificate for system {self.system_digest[:12]}: with inputs in {ranges}, state differences "
            f"shrink by {self.rate:.5f} per step; input gains ({gains}). Proven in float64."
        )

    def plot(self, labels: Sequence[str] = ()) -> Figure:
        """Draw how differences of states are forgotten, and what lasting differences of inputs build up to.

        Args:
            labels: One for each input.
        """
        largest, least = float(self.scale.max()), float(self.scale.min())
        return figures.decay(self.rate, self.input_gain, largest / least, largest, "largest entry", labels)

    def _names(self) -> tuple[str, ...]:
        return ("scale", "input_gain", "input_low", "input_high", "state_bound")


def certify_delta_iss(
    system: GatedSystem, *, input_range: tuple[Array, Array], iterations: int = 3000
) -> DeltaIssCertificate:
    """Prove that two runs of an LSTM or GRU network approach each other, for inputs within a range.

    Args:
        system: A frozen gated system.
        input_range: Lower and upper limits, each shape (nu,), input units; narrower ranges are easier to prove.
        iterations: Most iterations of the search for the scale.

    Raises:
        CertificationError: The sufficient condition fails. The network may still be stable.
    """
    if not isinstance(system, GatedSystem) or not system.is_frozen:
        raise SettingError(
            f"system must be a frozen GatedSystem, got {type(system).__name__}: for Lur'e systems use "
            "certify_contraction; call model.freeze() first"
        )
    low, high = (as_array("input_range", side, (system.nu,)) for side in input_range)
    if (low > high).any():
        raise SettingError(f"input_range must satisfy lower <= upper, got {low} and {high}")
    bound, still = Comparison(system, low, high), np.zeros(system.nu)
    d, rate = np.ones(system.nx), np.inf
    for _ in range(iterations):
        after = bound(d, still)
        reached = float((after / d).max())
        if reached < rate:
            best, rate = d, reached
        if reached - float((after / d).min()) < 1e-6:
            break
        # Averaged, lest units that only feed each other make it swing; never so small that an entry would vanish.
        d = np.maximum(0.5 * (d + after / after.max()), 1e-9)
        d = d / d.max()
    rate *= ROOM
    if not rate < 1:
        raise CertificationError(
            f"delta-ISS cannot be shown for inputs in this range: the sufficient condition gives a rate of {rate:.4g}, "
            "not below 1. Narrow input_range, or train with smaller recurrent weights", margin=1 - rate
        )  # fmt: skip
    certificate = DeltaIssCertificate(
        system_digest=system.digest, method="comparison system", solver_status="", margin=1 - rate,
        versions=current_versions(), rate=rate, scale=best, input_gain=bound.gains(best) * ROOM, input_low=low,
        input_high=high, state_bound=bound.state,
    )  # fmt: skip
    return replace(certificate, margin=certificate.verify(system))


class Comparison:
    """F of the module docstring for states within a bound, never rounded down.

    Args:
        system: A frozen gated system.
        low: Lower limits of the inputs, shape (nu,).
        high: Upper limits, shape (nu,).
        state: Bound on |x|, shape (nx,): 1 for h, and for cells at least what no run leaves; if None a little more.

    Raises:
        CertificationError: A forget gate may stay open, so that a cell's memory has no bound; or runs leave ``state``.
    """

    def __init__(self, system: GatedSystem, low: Array, high: Array, state: Array | None = None) -> None:
        self._system, n = system, system.units
        self._W, self._U = np.abs(system.W), np.abs(system.U)
        middle, half = 0.5 * (low + high), 0.5 * (high - low)
        centre = system.W @ middle + system.b
        # Of the hidden state only |h| <= 1 is used; the GRU's candidate sees r h, which is no larger.
        spread = self._W @ half + self._U.sum(axis=1)
        size = self._W @ (np.abs(middle) + half) + self._U.sum(axis=1) + np.abs(system.b)
        spread = spread * _ROUNDING + 4 * (system.nu + n + 8) * 2.0**-53 * size + _TINY
        self._lowest, self._highest = centre - spread, centre + spread
        least, stated = self._states()
        self.state = stated if state is None else state
        if not (np.array_equal(self.state[:n], least[:n]) and (self.state >= least).all()):
            raise CertificationError(f"state_bound must be 1 for h, at least {least} for all, got {self.state}")

    def _states(self) -> tuple[Array, Array]:
        """What no run leaves, and the same with room for other machines; shape (nx,) each."""
        h = np.ones(self._system.units)
        if self._system.cell is Cell.GRU:
            return h, h
        i, f, _ = (self._largest(k, _sigmoid) for k in range(3))
        if not (f < 1).all():
            raise CertificationError("delta-ISS cannot be shown: a forget gate may stay open; narrow input_range")
        c = i * self._largest(3, np.tanh) / (1 - f) * _ROUNDING
        # What another machine makes of f differs by less than its padding, which 1 - f may magnify.
        return np.concatenate([h, c]), np.concatenate([h, c * (ROOM + 2 * _ULP / (1 - f))])

    def __call__(self, dx: Array, du: Array) -> Array:
        """Bound on the next |dx| (nx,) from |dx| (nx,) and |du| (nu,)."""
        grown = self._gru(dx, du) if self._system.cell is Cell.GRU else self._lstm(dx, du)
        return grown * _ROUNDING + _TINY

    def gains(self, scale: Array) -> Array:
        """Shape (nu,): distance, in units of ``scale``, that a unit difference of each input makes in one step."""
        still = np.zeros(self._system.nx)
        return np.array([np.max(self(still, e) / scale) for e in np.eye(self._system.nu)]) * _ROUNDING

    def _gru(self, dh: Array, du: Array) -> Array:
        n = self._system.units
        rows = [slice(k * n, (k + 1) * n) for k in range(3)]
        dr, dz = (self._slope(k, 0.25) * (self._W[rows[k]] @ du + self._U[rows[k]] @ dh) for k in range(2))
        r, largest_z, least_z = self._largest(0, _sigmoid), *self._between(1, _sigmoid)[::-1]
        least_n, largest_n = self._between(2, np.tanh)
        dn = self._slope(2, 1.0) * (self._W[rows[2]] @ du + self._U[rows[2]] @ (r * dh + dr))
        mixed = np.maximum(largest_z * dh + (1 - largest_z) * dn, least_z * dh + (1 - least_z) * dn)
        return np.asarray(mixed + dz * np.maximum(1 - least_n, 1 + largest_n))

    def _lstm(self, dx: Array, du: Array) -> Array:
        n = self._system.units
        gates = self._W @ du + self._U @ dx[:n]
        di, df, do = (self._slope(k, 0.25) * gates[k * n : (k + 1) * n] for k in range(3))
        dg = self._slope(3, 1.0) * gates[3 * n :]
        i, f, o = (self._largest(k, _sigmoid) for k in range(3))
        c = self.state[n:]
        dc = f * dx[n:] + c * df + i * dg + self._largest(3, np.tanh) * di
        return np.concatenate([o * dc + np.tanh(c) * (1 + _ULP) * do, dc])

    def _between(self, gate: int, function: Any) -> tuple[Array, Array]:
        """Least and largest value of a gate, shape (n,) each."""
        n = self._system.units
        rows = slice(gate * n, (gate + 1) * n)
        least, largest = function(self._lowest[rows]), function(self._highest[rows])
        return least - _ULP * np.abs(least), np.minimum(largest + _ULP * np.abs(largest), 1.0)

    def _largest(self, gate: int, function: Any) -> Array:
        """Largest absolute value of a gate, shape (n,)."""
        least, largest = self._between(gate, function)
        return np.minimum(np.maximum(np.abs(least), np.abs(largest)), 1.0)

    def _slope(self, gate: int, most: float) -> Array:
        """Largest derivative of a gate over its range, shape (n,); ``most`` at zero: 1/4 for sigmoid, 1 for tanh."""
        n = self._system.units
        rows = slice(gate * n, (gate + 1) * n)
        nearest = np.maximum(np.maximum(self._lowest[rows], -self._highest[rows]), 0.0)
        # 1 / cosh^2, of v for tanh and of v / 2 for the sigmoid, is even and falls.
        return np.asarray(np.minimum(most * np.cosh(np.minimum(nearest * (1.0 if most == 1.0 else 0.5), 300.0)) ** -2.0
                                     * (1 + 100 * _ULP), most))  # fmt: skip


def _sigmoid(v: Array) -> Array:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-v)))
