"""Regions by hand: distances, words, checks of successive samples, and how centres, shapes and limits are learnt."""

import logging
from dataclasses import replace

import numpy as np
import pytest
from mpc_networks import elman, switching

from controlrnn.data import Signal, Trajectory
from controlrnn.errors import ControlRnnError, DataError, SettingError, ShapeError
from mpc import OperatingRegion, Predictor, RegionStatus, RegionWatch, Washout, learn_region
from mpc.calibration.region import EDGE, RegionShape
from mpc.promises.records import data_digest

W = 2
CHANNELS = (Signal("pump", "L/min", -1, 1), Signal("valve", "%", -1, 1)), (Signal("level", "cm"), Signal("flow", "L/s"))
LABELS = ("pump [L/min]", "valve [%]", "level [cm]", "flow [L/s]")
C = np.array([[4.0, 1.0], [1.0, 2.0]])


@pytest.fixture(scope="module")
def observer():
    return Washout(Predictor(elman(), *CHANNELS), W)


def made(**fields):
    claim = {
        "shape": "box", "centres": (np.array([0.5, -0.5]), np.zeros(2), np.array([0.0, 1.0])),
        "covariances": (np.diag([4.0, 1.0]), np.diag([0.25, 0.25]), np.diag([1.0, 9.0])), "limits": (2.0, 3.0, 1.5),
        "labels": LABELS, "coverage": 0.9, "n": 19, "observer_digest": 64 * "a", "data_digest": 64 * "b",
    }  # fmt: skip
    return OperatingRegion(**(claim | fields))


def test_distances_in_a_box():
    one = made()
    status = one.check([4.5, 0.5], [-1.5, 1.0], previous=[4.25, 0.25])
    assert status.ratios == pytest.approx({"input": 2 / 2, "input move": 0.5 / 3, "residual": 1.5 / 1.5})
    assert status.inside
    assert status.message == ""
    for u, residual, previous, name, ratio in (
        ([4.6, 0.5], [0.0, 1.0], None, "input", 2.05 / 2), ([0.5, 1.6], [0.0, 1.0], None, "input", 2.1 / 2),
        ([0.5, -2.6], [0.0, 1.0], None, "input", 2.1 / 2), ([0.5, 0.0], [0.0, 6.0], None, "residual", 5 / 3 / 1.5),
        ([0.5, 0.0], [0.0, 1.0], [0.5, 2.0], "input move", 4 / 3),
    ):  # fmt: skip
        status = one.check(u, residual, previous=previous)
        assert status.ratios[name] == pytest.approx(ratio)
        assert not status.inside
        assert ("input move" in status.ratios) is (previous is not None)


def test_distances_in_an_ellipsoid():
    one = made(shape="ellipsoid", covariances=(C, C, C))
    e = np.array([1.0, -2.0])
    status = one.check(one.centres[0] + e, one.centres[2] + e, previous=one.centres[0])
    size = np.sqrt(e @ np.linalg.solve(C, e))
    assert status.ratios == pytest.approx({"input": size / 2, "input move": size / 3, "residual": size / 1.5})
    part = one.check(one.centres[0], np.array([np.nan, 3.0]))
    assert part.ratios["residual"] == pytest.approx(2.0 / np.sqrt(2) / 1.5)  # of the known channel alone
    assert "residual" not in one.check(one.centres[0], np.full(2, np.nan)).ratios
    assert made().check([0.5, -0.5], [np.nan, 7.0]).ratios["residual"] == pytest.approx(2.0 / 1.5)


def test_the_very_edge_is_inside():
    one = made()
    for factor, inside in ((1.0, True), (1 + 0.5 * EDGE, True), (1 + 2 * EDGE, False)):
        assert one.check([0.5 + 4 * factor, -0.5], [0.0, 1.0]).inside is inside
    assert not one.check([1e308, -1e308], [0.0, 1.0]).inside


def test_what_lies_outside_is_said_in_words():
    one = made()
    status = one.check([5.5, -0.6], [-3.0, 10.0], previous=[5.5, 2.4])
    assert status.message == (
        "input pump [L/min]: 5.5, calibrated on -3.5 to 4.5; input move valve [%]: -3, calibrated on -1.5 to 1.5; "
        "residual level [cm]: -3, calibrated on -1.5 to 1.5"
    )
    assert one.check([0.5, -0.5], [1.0, 6.0]).message == "residual flow [L/s]: 6, calibrated on -3.5 to 5.5"
    assert one.check([0.5, -0.5], [np.nan, 6.0]).message == "residual flow [L/s]: 6, calibrated on -3.5 to 5.5"
    tilted = made(shape="ellipsoid", covariances=(C, C, C), limits=(1.0, 1.0, 1.0))
    odd = tilted.check(tilted.centres[0] + [1.5, -1.3], tilted.centres[2])
    assert (
        odd.message == "input valve [%]: -1.8, each within what was calibrated, but not together with the other inputs"
    )


GROUPS, WIDTHS, DEFINITE, EYE = "a region has 3 groups", "positive diagonal", "positive definite", np.eye(2)
ELLIPSOID, SKEW = {"shape": "ellipsoid"}, np.array([[1e-9, 1e-10], [2e-10, 1e-9]])


@pytest.mark.parametrize(("wrong", "words"), [
    ({"centres": (np.zeros(2), np.zeros(3), np.zeros(2))}, GROUPS),
    ({"centres": (np.zeros(2), np.zeros(2))}, "centres must have 3 entries, got 2"),
    ({"centres": (np.zeros(0), np.zeros(0), np.zeros(2)), "labels": LABELS[2:]}, GROUPS),
    ({"centres": (np.zeros(2), np.zeros(2), np.zeros(0)), "labels": LABELS[:2]}, GROUPS),
    ({"centres": (np.zeros(2), np.zeros(2), np.array([np.nan, 0.0]))}, "NaN"),
    ({"covariances": (EYE, EYE)}, "covariances must have 3 entries, got 2"),
    ({"covariances": (EYE, EYE, np.eye(3))}, r"covariance of residual must have shape \(2, 2\)"),
    ({"covariances": (EYE, EYE, np.diag([1.0, 0.0]))}, f"residual must have a {WIDTHS}"),
    ({"covariances": (np.diag([1.0, -1.0]), EYE, EYE)}, f"input must have a {WIDTHS}"),
    ({"labels": LABELS[:3]}, "labels must name 4 channels, got 3"),
    ({"limits": (1.0, 1.0)}, "limits must have 3 entries"), ({"limits": (1.0, np.inf, 1.0)}, "limits"),
    ({"limits": (1.0, 0.0, 1.0)}, "three positive numbers"), ({"limits": (1.0, -1.0, 1.0)}, "three positive numbers"),
    ({"n": 0}, "n must be"), ({"coverage": 0.0}, "coverage must be"), ({"coverage": 1.0}, "coverage must be"),
    ({"shape": "ball"}, "region_shape must be one of"),
    (ELLIPSOID | {"covariances": (np.array([[1.0, 2.0], [2.0, 1.0]]), EYE, EYE)}, f"of input must be {DEFINITE}"),
    (ELLIPSOID | {"covariances": (EYE, np.diag([1.0, 0.0]), EYE)}, f"of input move must be {DEFINITE}"),
    (ELLIPSOID | {"covariances": (np.array([[1.0, 0.1], [0.2, 1.0]]), EYE, EYE)}, "of input must be symmetric"),
    (ELLIPSOID | {"covariances": (np.array([[1.0, 0.1], [0.1 + 1e-7, 1.0]]), EYE, EYE)}, "must be symmetric"),
    (ELLIPSOID | {"covariances": (EYE, EYE, SKEW)}, "of residual must be symmetric"),
], ids=lambda w: "-".join(w) if isinstance(w, dict) else "")  # fmt: skip
def test_regions_that_make_no_sense(wrong, words):
    with pytest.raises(ControlRnnError, match=words) as said:
        made(**wrong)
    assert "read again" not in str(said.value)  # said before the check that guards files


def test_a_region_of_more_inputs_than_outputs():
    one = made(centres=(np.zeros(2), np.zeros(2), np.zeros(1)), covariances=(EYE, EYE, np.eye(1)), labels=LABELS[:3])
    assert one.check([0.0, 0.0], [2.0]).message == "residual level [cm]: 2, calibrated on -1.5 to 1.5"
    assert type(one.shape) is RegionShape


def test_samples_have_the_shapes_of_the_region():
    one = made()
    for arguments in (([0.5], [0.0, 1.0], None), ([0.5, 0.5], [0.0], None), ([0.5, 0.5], [0.0, 1.0], [0.0]),
                      ([np.nan, 0.5], [0.0, 1.0], None)):  # fmt: skip
        with pytest.raises(ControlRnnError):
            one.check(arguments[0], arguments[1], previous=arguments[2])
    assert made(covariances=(np.eye(2),) * 3, limits=[1, 1, 1]).limits == (1.0, 1.0, 1.0)
    assert one.promise == (
        "a trajectory of the same kind, no longer and under the same feedback as the 19 calibration trajectories gives "
        "a warning with probability <= 0.1"
    )
    assert not any(part.flags.writeable for part in (*one.centres, *one.covariances))
    assert OperatingRegion.from_record(*one.record()).digest == one.digest
    assert RegionStatus({}, "").inside
    assert not RegionStatus({}, "x").inside


def test_a_watch_tells_when_operation_leaves_and_returns(observer, caplog):
    watch = RegionWatch(made(observer_digest=observer.digest), observer)
    calm, far, still = np.array([0.5, -0.5]), np.array([9.0, -0.5]), np.array([0.0, 1.0])
    with caplog.at_level(logging.INFO):
        assert watch.check(calm, still, None).inside
        assert not watch.check(far, still, far).inside
        assert not watch.check(far, still, far).inside
        assert watch.check(calm, still, calm).inside
    assert not watch.check(calm, still, far).inside
    assert watch.check(calm, still, calm).inside
    assert [r.levelname for r in caplog.records][:2] == ["WARNING", "INFO"]
    assert "outside of the calibrated region: input pump [L/min]: 9" in caplog.text
    assert "back in the calibrated region" in caplog.text
    assert watch.revise(calm) == ""
    assert "input pump [L/min]: 9, calibrated" in watch.revise(far)
    assert "input move" in watch.revise(far)  # from the input before the one that was checked
    watch.skip()
    assert watch.revise(far) == ""
    watch.check(calm, still, None)
    assert "input move" not in watch.revise(far)
    watch.reset()
    assert watch.revise(far) == ""
    caplog.clear()
    assert watch.check(calm, still, None).inside
    assert not caplog.records
    with pytest.raises(SettingError, match="another observer"):
        RegionWatch(made(), observer)


def pool(n, seed, length=9):
    found = []
    for i in range(n):
        rng = np.random.default_rng([seed, i])
        u = switching(rng, length, 2, hold=2) * rng.uniform(0.3, 0.6, (1, 2)) + np.array([0.1, -0.2])
        y = elman().simulate(u)[0] + 0.05 * rng.standard_normal((length, 2)) * np.array([1.0, 3.0])
        found.append(Trajectory(u=u, y=y, dt=1.0, name=f"record {seed}.{i}"))
    return found


def samples(observer, record):
    x = observer.estimates(record.u, record.y)[W:-1]
    e = record.y[W:] - observer.system.output(x, record.u[W:])
    return record.u[W:], np.diff(record.u, axis=0)[W - 1 :], e


@pytest.mark.parametrize("shape", ["box", "ellipsoid"])
@pytest.mark.parametrize(("coverage", "rank"), [(0.9, 9), (0.5, 5)])
def test_centres_shapes_and_limits_are_those_of_the_records(observer, shape, coverage, rank):
    records, others = pool(9, 0), pool(4, 1)
    found = learn_region(observer, records, scale_trajectories=others, coverage=coverage, shape=shape)
    seen = [samples(observer, r) for r in others]
    scale, centres, matrices = [], [], []
    for g in range(3):
        p = np.concatenate([one[g] for one in seen])
        if shape == "box":
            centre, half = 0.5 * (p.min(axis=0) + p.max(axis=0)), 0.5 * (p.max(axis=0) - p.min(axis=0))
            matrix = np.diag(half**2)
        else:
            centre, matrix = p.mean(axis=0), np.cov(p.T)
        np.testing.assert_allclose(found.centres[g], centre, atol=1e-12)
        np.testing.assert_allclose(
            found.covariances[g], matrix, rtol=1e-5 if shape == "ellipsoid" else 1e-12, atol=1e-12
        )
        centres.append(centre)
        matrices.append(found.covariances[g])

    def largest(one):
        out = []
        for s, c, M in zip(one, centres, matrices, strict=True):
            e = s - c
            size = (
                np.abs(e) / np.sqrt(np.diag(M))
                if shape == "box"
                else np.sqrt(np.einsum("ti,ij,tj->t", e, np.linalg.inv(M), e))
            )
            out.append(size.max())
        return np.array(out)

    scale = np.max([largest(one) for one in seen], axis=0)
    scores = np.sort([(largest(samples(observer, r)) / scale).max() for r in records])
    np.testing.assert_allclose(found.limits, scale * scores[rank - 1], rtol=1e-9)
    assert (found.n, found.coverage, found.labels) == (9, coverage, LABELS)
    assert found.observer_digest == observer.digest
    assert found.data_digest == data_digest((*records, *others))


@pytest.mark.parametrize("shape", ["box", "ellipsoid"])
def test_channels_that_never_moved_keep_a_little_width(observer, shape):
    def still(records, channels):
        made = []
        for r in records:
            u = np.where(channels, 0.25, r.u)
            made.append(replace(r, u=u, y=elman().simulate(u)[0] + (r.y - elman().simulate(r.u)[0])))
        return made

    found = learn_region(
        observer, still(pool(9, 0), [False, True]), scale_trajectories=still(pool(4, 1), [False, True]), shape=shape
    )
    for g in (0, 1):
        first, second = np.sqrt(np.diag(found.covariances[g]))
        assert second == pytest.approx(1e-6 * first, rel=1e-6)
    none = learn_region(
        observer, still(pool(9, 0), [True, True]), scale_trajectories=still(pool(4, 1), [True, True]), shape=shape
    )
    for g in (0, 1):
        np.testing.assert_allclose(found.centres[g][1], none.centres[g][1])
        np.testing.assert_allclose(none.covariances[g], np.eye(2), rtol=1e-9, atol=1e-9)
        assert 0 < none.limits[g] < 1e-5
    held, away = np.full(2, 0.25), np.array([0.25, 0.2501])
    assert none.check(held, np.full(2, np.nan), previous=held).inside
    assert not none.check(away, np.full(2, np.nan)).inside
    assert not none.check(held, np.full(2, np.nan), previous=away).inside


def test_records_that_teach_nothing_are_refused(observer):
    records, others = pool(9, 0), pool(3, 1)
    with pytest.raises(DataError, match="scale_trajectories, got none"):
        learn_region(observer, records, scale_trajectories=())
    with pytest.raises(DataError, match="needs at least"):
        learn_region(observer, records[:8], scale_trajectories=others)
    with pytest.raises(DataError, match="once"):
        learn_region(observer, records, scale_trajectories=[*others, records[0]])
    with pytest.raises(DataError, match=f"'record 0.0' must have at least {W + 2} samples, got {W + 1}"):
        learn_region(observer, [records[0][: W + 1], *records[1:]], scale_trajectories=others)
    learn_region(observer, [records[0][: W + 2], *records[1:]], scale_trajectories=others)
    gaps = replace(records[0], y=np.where(np.arange(9)[:, None] >= W, np.nan, records[0].y))
    with pytest.raises(DataError, match=r"'record 0\.0' has no complete measurement after 2 samples"):
        learn_region(observer, [gaps, *records[1:]], scale_trajectories=others)
    half = replace(records[0], y=np.where((np.arange(9)[:, None] == 4) & [True, False], np.nan, records[0].y))
    assert learn_region(observer, [half, *records[1:]], scale_trajectories=others).n == 9
    narrow = [Trajectory(u=r.u[:, :1], y=r.y, dt=1.0) for r in records]
    with pytest.raises(ShapeError):
        learn_region(observer, narrow, scale_trajectories=others)
