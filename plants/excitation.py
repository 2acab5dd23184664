"""Test signals for identification experiments: shape (T, nu), within the limits of each input, repeatable by seed.

L. Ljung, "System identification", 2nd ed. 1999, section 13.3; R. Pintelon, J. Schoukens, "System identification: a
frequency domain approach", 2nd ed. 2012, section 5.3.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import xor

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import Array, as_array, count, items, positive, shown
from controlrnn.data import Signal
from controlrnn.errors import DataError, InfeasibleError, SettingError
from controlrnn.typed import typed

Limits = Sequence[Signal] | Sequence[tuple[float, float]]

# Taps of primitive polynomials by order (P. Alfke, Xilinx application note XAPP052, 1996, table 3).
TAPS = {
    2: (2, 1), 3: (3, 2), 4: (4, 3), 5: (5, 3), 6: (6, 5), 7: (7, 6), 8: (8, 6, 5, 4), 9: (9, 5), 10: (10, 7),
    11: (11, 9), 12: (12, 6, 4, 1), 13: (13, 4, 3, 1), 14: (14, 5, 3, 1), 15: (15, 14), 16: (16, 15, 13, 4),
    17: (17, 14), 18: (18, 11), 19: (19, 6, 2, 1), 20: (20, 17),
}  # fmt: skip


@typed()
def prbs(length: int, limits: Limits, *, hold: int = 1, order: int | None = None, seed: int) -> Array:
    """Pseudo-random binary sequences of maximum length; each input jumps between its two limits.

    One period has 2^order - 1 levels of ``hold`` samples each; its circular autocorrelation is that of white noise.
    Inputs share the sequence, shifted against each other by equal parts of the period, and so are all but uncorrelated
    over lags shorter than such a part.

    Args:
        length: Number of samples T.
        limits: One `Signal` or (lower, upper) per input.
        hold: Samples for which a level is held.
        order: Length of the shift register, 2 to 20; by default the least whose period covers ``length``.
        seed: Chooses where in the period the sequence starts.

    Raises:
        SettingError: ``order`` out of range, or too many inputs for its period.
    """
    length, hold = count("length", length), count("hold", hold)
    lower, upper = _bounds(limits)
    levels = -(-length // hold)  # rounded up
    if order is None:
        order = max(int(np.ceil(np.log2(max(levels, len(lower)) + 1))), 2)
    if order not in TAPS:
        raise SettingError(f"order must lie in 2 to 20, got {order}: hold longer, or give a smaller order that repeats")
    period = 2**order - 1
    if len(lower) > period:
        raise SettingError(f"a period of {period} levels cannot serve {len(lower)} inputs: choose a higher order")
    shifts = np.random.default_rng(seed).integers(period) + np.arange(len(lower)) * period // len(lower)
    samples = (np.arange(length)[:, None] // hold + shifts) % period
    return np.where(register(order)[samples] > 0, upper, lower)


def register(order: int) -> NDArray[np.int8]:
    """Bits of one period of the maximum-length shift register of ``order`` (2 to 20), shape (2^order - 1,)."""
    order = count("order", order, least=min(TAPS), most=max(TAPS))
    bits = [1] * order
    for k in range(order, 2**order - 1):
        bits.append(reduce(xor, (bits[k - tap] for tap in TAPS[order])))
    return np.array(bits[: 2**order - 1], dtype=np.int8)


@typed()
def random_steps(length: int, limits: Limits, *, hold: int | tuple[int, int], seed: int) -> Array:
    """Steps to uniformly random levels, drawn for each input on its own; they visit all operating points of a plant.

    Args:
        length: Number of samples T.
        limits: One `Signal` or (lower, upper) per input.
        hold: Samples for which a level is held: a number, or (least, most), drawn uniformly for every step.
        seed: Seed of levels and durations.
    """
    length = count("length", length)
    lower, upper = _bounds(limits)
    many = not isinstance(hold, str | bytes) and (isinstance(hold, Sequence) or np.ndim(hold) > 0)
    ends = items("hold", hold, object) if many else (hold,)
    ends = ends * 2 if len(ends) == 1 else ends
    if len(ends) != 2:
        raise SettingError(f"hold must be a number or (least, most), got {shown(hold)}")
    least, most = count("hold[0]", ends[0]), count("hold[1]", ends[1])
    if least > most:
        raise SettingError(f"hold must be (least, most) with least <= most, got {hold}: swap them?")
    rng = np.random.default_rng(seed)
    signal = np.empty((length, len(lower)))
    for i, (low, high) in enumerate(zip(lower, upper, strict=True)):
        # As many steps as the shortest holds need, and one; what exceeds the length is cut off.
        steps = length // least + 1
        levels = rng.uniform(low, high, steps)
        signal[:, i] = np.repeat(levels, rng.integers(least, most, steps, endpoint=True))[:length]
    return signal


@typed()
def multisine(
    length: int, limits: Limits, *, dt: float = 1.0, band: tuple[float, float] | None = None, seed: int
) -> Array:
    """Random-phase multisines: a flat spectrum inside a band, nothing outside, periodic in ``length`` samples.

    Inputs take turns with the frequency lines, so they are uncorrelated over a period. Phases start at random and are
    then improved so that the peak is low against the power (E. Van der Ouderaa, J. Schoukens, J. Renneboog, "Peak
    factor minimization using a time-frequency domain swapping algorithm", IEEE Trans. Instrum. Meas. 37, 1988).

    Args:
        length: Number of samples T, at least 4.
        limits: One `Signal` or (lower, upper) per input; the signal touches at least one of them.
        dt: Sample time [s].
        band: Lowest and highest excited frequency [Hz]; by default everything between 0 and Nyquist's, exclusively.
        seed: Seed of the phases.

    Raises:
        SettingError: The band holds fewer frequency lines than there are inputs.
    """
    length, dt = count("length", length, least=4), positive("dt", dt)
    lower, upper = _bounds(limits)
    low, high = (0.0, 0.5 / dt) if band is None else band
    if not 0 <= low < high:
        raise SettingError(f"band must be (lowest, highest) with 0 <= lowest < highest, got {band}: widen it")
    lines = np.arange(1, (length - 1) // 2 + 1)
    frequency = lines / (length * dt)
    # The band's ends count as inside, however they were rounded.
    lines = lines[(frequency >= low * (1 - 1e-9)) & (frequency <= high * (1 + 1e-9))]
    if len(lines) < len(lower):
        raise SettingError(
            f"band = ({low:g}, {high:g}) Hz holds {len(lines)} of the lines k / {length * dt:g} s below "
            f"{0.5 / dt:g} Hz, expected at least one for each of {len(lower)} inputs: widen it or lengthen the record"
        )
    rng = np.random.default_rng(seed)
    signal = np.empty((length, len(lower)))
    for i, (bottom, top) in enumerate(zip(lower, upper, strict=True)):
        wave = _low_peak(length, lines[i :: len(lower)], rng)
        scaled = 0.5 * (bottom + top) + 0.5 * (top - bottom) * wave / np.abs(wave).max()
        signal[:, i] = np.clip(scaled, bottom, top)  # rounding only
    return signal


def _low_peak(length: int, lines: NDArray[np.intp], rng: np.random.Generator) -> Array:
    """Multisine of equal amplitudes at ``lines`` with a low peak, found by clipping and keeping the phases in turn."""
    spectrum = np.zeros(length // 2 + 1, dtype=np.complex128)
    spectrum[lines] = np.exp(2j * np.pi * rng.random(len(lines)))
    best = wave = np.fft.irfft(spectrum, length)
    for share in np.linspace(0.75, 0.95, 100):
        peak = share * np.abs(wave).max()
        phases = np.angle(np.fft.rfft(np.clip(wave, -peak, peak))[lines])
        spectrum[lines] = np.exp(1j * phases)
        wave = np.fft.irfft(spectrum, length)
        if np.abs(wave).max() < np.abs(best).max():
            best = wave
    return np.asarray(best, dtype=np.float64)


def _bounds(limits: Limits) -> tuple[Array, Array]:
    """Lower and upper limits as arrays of shape (nu,), after checking them."""
    pairs = [(s.lower, s.upper) if isinstance(s, Signal) else s for s in items("limits", limits, object)]
    bounds = as_array("limits", pairs, ("nu", 2), hint="give one Signal or (lower, upper) per input", finite=False)
    if not len(bounds):
        raise DataError("limits must name at least one input, got none: give one Signal or (lower, upper) per input")
    if not np.isfinite(bounds).all():
        raise DataError(
            f"limits must be finite to be excited, got {bounds.tolist()}: give (lower, upper) pairs instead"
        )
    if (bounds[:, 0] >= bounds[:, 1]).any():
        raise InfeasibleError(f"limits must satisfy lower < upper, got {bounds.tolist()}: swap them?")
    return bounds[:, 0], bounds[:, 1]
