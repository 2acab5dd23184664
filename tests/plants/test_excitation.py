"""Excitation signals keep limits, repeat by seed and have the spectra that they promise."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controlrnn.errors import DataError, InfeasibleError, SettingError, ShapeError
from plants import Signal, excitation
from plants.excitation import TAPS, multisine, prbs, random_steps, register

LIMITS = (Signal("a", "V", -1.0, 3.0), Signal("b", "V", 0.0, 10.0))


@pytest.mark.parametrize("order", [n for n in TAPS if n <= 17])
def test_shift_register_has_maximum_length(order):
    bits = register(order)
    # A register of maximum length meets every word but zero exactly once a period.
    words = sum(np.roll(bits.astype(np.int64), -i) << i for i in range(order))
    assert len(np.unique(words)) == 2**order - 1
    assert words.min() == 1


@pytest.mark.slow
@pytest.mark.parametrize("order", [18, 19, 20])
def test_long_shift_register_has_maximum_length(order):
    bits = register(order)
    words = sum(np.roll(bits.astype(np.int64), -i) << i for i in range(order))
    assert len(np.unique(words)) == 2**order - 1


@pytest.mark.parametrize("order", [5, 8, 11])
def test_prbs_has_white_autocorrelation(order):
    n = 2**order - 1
    signal = prbs(n, [(-1.0, 1.0)], order=order, seed=3)[:, 0]
    spectrum = np.abs(np.fft.rfft(signal)) ** 2
    autocorrelation = np.fft.irfft(spectrum, n) / n
    np.testing.assert_allclose(autocorrelation[0], 1.0)
    np.testing.assert_allclose(autocorrelation[1:], -1.0 / n, atol=1e-12)


def test_prbs_repeats_and_holds_and_channels_are_uncorrelated():
    signal = prbs(2 * 127 * 3, LIMITS, hold=3, order=7, seed=0)
    np.testing.assert_array_equal(signal[: 127 * 3], signal[127 * 3 :])
    np.testing.assert_array_equal(signal[::3], signal[2::3])
    assert set(signal[:, 0]) == {-1.0, 3.0}
    assert set(signal[:, 1]) == {0.0, 10.0}
    chips = np.sign(signal[: 127 * 3 : 3] - [1.0, 5.0])
    for lag in range(-60, 61):
        assert np.mean(chips[:, 0] * np.roll(chips[:, 1], lag)) == pytest.approx(-1 / 127)


def test_random_steps_hold_as_long_as_asked_and_cover_the_range():
    signal = random_steps(20000, LIMITS, hold=(5, 15), seed=0)
    for channel, (low, high) in zip(signal.T, [(-1, 3), (0, 10)], strict=True):
        runs = np.diff(np.flatnonzero(np.diff(channel)))
        assert runs.min() == 5
        assert runs.max() == 15
        shares, _ = np.histogram(channel, bins=4, range=(low, high))
        np.testing.assert_allclose(shares / len(channel), 0.25, atol=0.04)
    assert abs(np.corrcoef(signal.T)[0, 1]) < 0.1
    np.testing.assert_array_equal(
        random_steps(12, LIMITS, hold=4, seed=1)[4:8], random_steps(12, LIMITS, hold=4, seed=1)[[4] * 4]
    )


def test_multisine_excites_its_band_only_and_flat():
    dt, n = 0.5, 1000
    signal = multisine(n, LIMITS, dt=dt, band=(0.05, 0.3), seed=0)
    spectrum = np.abs(np.fft.rfft(signal - signal.mean(axis=0), axis=0))
    frequency = np.fft.rfftfreq(n, dt)
    inside = (frequency >= 0.05 - 1e-9) & (frequency <= 0.3 + 1e-9)
    assert spectrum[~inside].max() < 1e-9 * spectrum.max()
    for i in range(2):
        lines = spectrum[:, i] > 1e-6 * spectrum.max()
        assert lines.sum() == pytest.approx(inside.sum() / 2, abs=1)
        assert np.ptp(spectrum[lines, i]) < 1e-9 * spectrum.max()
    # No line is shared, so the channels are uncorrelated over the record.
    assert abs(np.corrcoef(signal.T)[0, 1]) < 1e-12


@pytest.mark.parametrize("seed", range(5))
def test_multisine_has_a_low_peak(seed):
    signal = multisine(1024, [(-1.0, 1.0)], band=(0.0, 0.1), seed=seed)[:, 0]
    assert np.abs(signal).max() == pytest.approx(1.0)
    assert np.abs(signal).max() / signal.std() < 2.2  # random phases alone give about 3


@settings(max_examples=40)
@given(st.integers(4, 300), st.integers(1, 20), st.integers(0, 2**31), st.sampled_from([prbs, random_steps, multisine]))
def test_all_signals_keep_limits_and_repeat_by_seed(length, hold, seed, make):
    extra = {} if make is multisine else {"hold": hold}
    limits = LIMITS[: 1 if length < 6 else 2]
    signal = make(length, limits, seed=seed, **extra)
    assert signal.shape == (length, len(limits))
    for channel, s in zip(signal.T, limits, strict=True):
        assert s.lower <= channel.min() <= channel.max() <= s.upper
    np.testing.assert_array_equal(signal, make(length, limits, seed=seed, **extra))


def test_seeds_differ():
    for make, extra in ((prbs, {}), (random_steps, {"hold": 2}), (multisine, {})):
        assert not np.array_equal(make(100, LIMITS, seed=0, **extra), make(100, LIMITS, seed=1, **extra))


@pytest.mark.parametrize(
    ("call", "error"),
    [
        (lambda: prbs(0, LIMITS, seed=0), SettingError),
        (lambda: prbs(100, LIMITS, order=21, seed=0), SettingError),
        (lambda: prbs(100, [(0.0, 1.0)] * 4, order=2, seed=0), SettingError),
        (lambda: prbs(100, (0.0, 1.0), seed=0), ShapeError),
        (lambda: prbs(100, [], seed=0), (ShapeError, DataError)),
        (lambda: prbs(100, [Signal("free", "N")], seed=0), DataError),
        (lambda: random_steps(100, [(1.0, 0.0)], hold=2, seed=0), InfeasibleError),
        (lambda: random_steps(100, LIMITS, hold=(5, 2), seed=0), SettingError),
        (lambda: random_steps(100, LIMITS, hold=0, seed=0), SettingError),
        (lambda: multisine(100, LIMITS, band=(0.6, 0.7), seed=0), SettingError),
        (lambda: multisine(100, LIMITS, band=(0.011, 0.019), seed=0), SettingError),
    ],
)
def test_bad_requests_are_refused(call, error):
    with pytest.raises(error):
        call()


def test_module_is_reachable_from_the_package():
    assert excitation.prbs is prbs
