"""Records that share measurements are found, and one long record is cut into parts that share none."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from controlrnn.data import Dataset, Scaler, Trajectory
from controlrnn.data.copies import LEAST, Shared, shared_stretches
from controlrnn.errors import DataError, SettingError


def record(seed, T=200, digits=6):
    rng = np.random.default_rng(seed)
    return Trajectory(rng.normal(size=(T, 1)).round(1), rng.normal(size=(T, 2)).round(digits), 1.0, name=f"r{seed}")


@given(st.integers(0, 100), st.integers(0, 150), st.integers(LEAST, 60), st.booleans())
def test_a_common_stretch_is_found_wherever_it_lies(a, b, samples, gaps):
    one, two = record(1, 250), record(2, 250)
    u, y = two.u.copy(), two.y.copy()
    z = one.y.copy()
    if gaps:
        z[a + 5] = np.nan
    u[b : b + samples], y[b : b + samples] = one.u[a : a + samples], z[a : a + samples]
    one, two = replace(one, y=z), replace(two, u=u, y=y)
    (found,) = shared_stretches([record(3), one, two])
    assert (found.first, found.second) == (1, 2)
    assert samples <= found.samples <= samples + 2  # a neighbouring sample may be equal by chance


def test_what_only_looks_alike_is_no_copy():
    rest = Trajectory(np.ones((90, 1)), np.full((90, 2), 0.5), 1.0)
    assert shared_stretches([rest, rest[:50]]) == ()  # at rest there is nothing to tell
    toggling = replace(rest, y=np.tile([[0.5, 0.5], [0.6, 0.5]], (45, 1)))  # a last digit that flickers
    assert shared_stretches([toggling, toggling[1:]]) == ()
    clean = record(1)
    noisy = replace(clean, y=clean.y + 1e-9 * np.random.default_rng(0).normal(size=clean.y.shape))
    assert shared_stretches([clean, noisy]) == ()  # the same inputs once more are another experiment
    assert shared_stretches([record(s, digits=1) for s in range(40)]) == ()  # coarse readings
    assert shared_stretches([clean]) == ()


def test_records_shorter_than_a_stretch_are_compared_as_a_whole():
    short = record(1, 8)
    assert shared_stretches([short, replace(short, name="again"), record(2, 8)]) == (Shared(0, 1, 8),)


def test_a_dataset_has_no_sample_in_two_parts():
    r, others = record(0), [record(s) for s in range(1, 5)]
    copy = Trajectory(r.u.copy(), r.y.copy(), 1.0, name="loaded again")
    with pytest.raises(DataError, match=r"'r0' \(train\) and 'loaded again' \(test\) have 200 samples"):
        Dataset((r,), test=(copy,))
    with pytest.raises(DataError, match="50 samples in common"):
        Dataset((r[:150],), calibration=(r[100:],))
    with pytest.raises(DataError, match="leave out copies"):
        Dataset((others[0], copy), (others[1], r))
    with pytest.raises(DataError, match=r"\(calibration\)"):
        Dataset((others[0],), calibration=(r[:150], r[50:]))
    rest = Trajectory(np.ones((9, 1)), np.ones((9, 1)), 1.0)
    with pytest.raises(DataError, match="two parts"):
        Dataset((rest,), (rest,))


def test_copies_within_a_part_are_said_where_they_count(caplog):
    r = record(0)
    Dataset((record(1),), test=(r, r[:80]))
    assert not caplog.records
    Dataset((r, r[:80]))
    assert "count twice" in caplog.text


@given(
    st.integers(150, 400), st.integers(0, 12), st.integers(1, 3), st.lists(st.integers(0, 4), min_size=1, max_size=4)
)
def test_parts_of_one_record_lie_in_order_with_the_gap_between_them(T, gap, pieces, weights):
    weights[0] = max(weights[0], 1)
    time = np.arange(float(T))[:, None]
    whole = Trajectory(time, time, 1.0)
    data = Dataset.from_record(whole, [w / sum(weights) for w in weights], gap=gap, pieces=pieces)
    starts = [int(r.u[0, 0]) for r in data.all]
    ends = [int(r.u[-1, 0]) for r in data.all]
    assert starts[0] == 0
    assert [a - b - 1 for a, b in zip(starts[1:], ends, strict=False)] == [gap] * (len(starts) - 1)
    assert T - len(data.all) - gap * (len(starts) - 1) <= sum(len(r) for r in data.all) <= T
    assert len(data.calibration) == (pieces if len(weights) == 4 and weights[3] else 0)
    assert len({r.part_of for r in data.all}) == 1


def test_parts_that_do_not_fit_are_refused():
    r = record(0, 50)
    with pytest.raises(DataError, match="3 gaps of 20 samples leave -10 of 50"):
        Dataset.from_record(r, (0.4, 0.2, 0.2, 0.2), gap=20)
    for fractions in ((0.5, 0.4), (0.0, 1.0), (1.5, -0.5), (0.2,) * 5, ()):
        with pytest.raises(SettingError, match="fractions must be"):
            Dataset.from_record(r, fractions, gap=1)
    whole = Dataset.from_record(r, (1.0,), gap=9)
    assert len(whole.train[0]) == 50
    assert whole.train[0].part_of == ""


def test_scaling_leaves_missing_samples_out():
    y = np.random.default_rng(0).normal(3.0, 2.0, (50, 2))
    holes = y.copy()
    holes[3, 0] = holes[7:9, 1] = np.nan
    scaler = Scaler.fit([holes[:20], holes[20:]])
    for j in range(2):
        known = holes[~np.isnan(holes[:, j]), j]
        assert scaler.shift[j] == pytest.approx(known.mean())
        assert scaler.scale[j] == pytest.approx(known.std())
    scaled = scaler.apply_measured(holes)
    np.testing.assert_array_equal(np.isnan(scaled), np.isnan(holes))
    np.testing.assert_array_equal(scaled[~np.isnan(holes)], scaler.apply(y)[~np.isnan(holes)])
    with pytest.raises(DataError):
        scaler.apply(holes)
    with pytest.raises(DataError, match="number in every channel"):
        Scaler.fit([np.full((5, 1), np.nan)])
