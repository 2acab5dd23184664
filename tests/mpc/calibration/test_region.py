import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mpc_networks import LurePlant, elman, switching

from controlrnn.data import Signal, Trajectory
from controlrnn.errors import DataError, SettingError, ShapeError
from mpc import (
    ClosedLoopResult,
    ClosedLoopSetup,
    MonteCarloResult,
    OperatingRegion,
    Outlier,
    Predictor,
    RegionShape,
    RegionStatus,
    Safety,
    TightenedMPC,
    Tracking,
    Washout,
    learn_region,
    monte_carlo,
    no_tightening,
    run_closed_loop,
)
from mpc.calibration.residuals import measured_errors
from mpc.loops.settings import loop_settings

SHAPES = list(RegionShape)
CHANNELS = (Signal("pump", "L/min", -1, 1), Signal("valve", "%", -1, 1)), (Signal("level", "cm"), Signal("flow", "L/s"))


def make_records(n, seed, noise=0.05, length=80):
    found = []
    for child in np.random.SeedSequence(seed).spawn(n):
        rng = np.random.default_rng(child)
        u = switching(rng, length, 2) * rng.uniform(0.3, 0.6, (1, 1))
        y = elman().simulate(u)[0] + noise * rng.standard_normal((length, 2))
        found.append(Trajectory(u=u, y=y, dt=1.0, name="r"))
    return found


@pytest.fixture(scope="module")
def observer():
    return Washout(Predictor(elman(), *CHANNELS), 20)


@pytest.fixture(scope="module", params=SHAPES)
def region(observer, request):
    return learn_region(observer, make_records(19, 0), scale_trajectories=make_records(10, 1), shape=request.param)


def test_trajectories_of_the_same_kind_stay_inside_as_often_as_promised(observer, region):
    """One region has a conditional coverage of its own: Beta(18, 2) is above 0.6 with probability 0.998."""
    inside = []
    for record in make_records(60, 2):
        x = observer.estimates(record.u, record.y)[:-1]
        e = record.y - np.vstack([np.zeros((20, 2)), observer.system.output(x[20:], record.u[20:])])
        status = [region.check(record.u[t], e[t], previous=record.u[t - 1]) for t in range(20, 80)]
        inside.append(all(s.inside for s in status))
    assert np.mean(inside) >= 0.6
    assert region.promise.endswith("<= 0.1")


@pytest.mark.parametrize(("coverage", "rank"), [(0.9, 18), (0.95, 19), (0.5, 10)])
@pytest.mark.parametrize("shape", SHAPES)
def test_the_region_holds_exactly_as_many_calibration_records_as_its_rank(observer, shape, coverage, rank):
    records = make_records(19, 0)
    region = learn_region(observer, records, scale_trajectories=make_records(10, 1), shape=shape, coverage=coverage)

    def worst(record):
        x = observer.estimates(record.u, record.y)[:-1]
        e = measured_errors(observer.system, x, record.u, record.y)
        return max(
            max(region.check(record.u[t], e[t], previous=record.u[t - 1]).ratios.values()) for t in range(20, 80)
        )

    ratios = np.sort([worst(record) for record in records])
    assert ratios[rank - 1] == pytest.approx(1.0, abs=1e-9)  # the record that decides lies on the edge
    assert (ratios[: rank - 1] < 1 - 1e-9).all()
    assert (ratios[rank:] > 1 + 1e-9).all()


def test_what_lies_outside_is_named_with_its_unit(region):
    calm = region.check([0.2, 0.1], [0.01, -0.02], previous=[0.2, 0.1])
    assert calm.inside
    assert calm.message == ""
    assert set(calm.ratios) == {"input", "input move", "residual"}
    pushed = region.check([0.2, 5.0], [0.0, 0.0], previous=[0.2, 5.0])
    assert not pushed.inside
    assert "input valve [%]: 5, calibrated on" in pushed.message
    assert "residual" not in pushed.message
    moved = region.check([0.6, 0.6], [0.0, 0.0], previous=[-0.9, -0.6])
    assert "input move" in moved.message
    off = region.check([0.2, 0.1], [0.0, 3.0])
    assert "residual flow [L/s]: 3" in off.message
    assert "input move" not in off.ratios


def test_missing_measurements_leave_their_channel_out(region):
    assert "residual" not in region.check([0.2, 0.1], [np.nan, np.nan]).ratios
    assert region.check([0.2, 0.1], [np.nan, 0.01]).inside
    assert not region.check([0.2, 0.1], [np.nan, 3.0]).inside


def test_an_ellipsoid_sees_combinations_that_a_box_does_not(observer):
    def coupled(n, seed):
        rng, found = np.random.default_rng(seed), []
        for record in make_records(n, seed):
            common = rng.standard_normal((80, 1))
            noise = 0.2 * common + 0.01 * rng.standard_normal((80, 2))
            found.append(Trajectory(u=record.u, y=record.y + noise, dt=1.0, name="r"))
        return found

    settings = {"scale_trajectories": coupled(10, 5)}
    box, ball = (learn_region(observer, coupled(19, 4), shape=shape, **settings) for shape in SHAPES)
    odd = np.array([0.4, -0.4])
    assert box.check([0.4, 0.4], odd).inside
    status = ball.check([0.4, 0.4], odd)
    assert "not together with the other residuals" in status.message
    assert ball.check([0.4, 0.4], np.array([0.4, 0.4])).inside


@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=2), st.floats(1.0, 100.0))
def test_further_out_is_never_further_in(value, factor):
    region = OperatingRegion(
        shape="ellipsoid",
        centres=(np.zeros(2),) * 3,
        covariances=(np.array([[2.0, 0.5], [0.5, 1.0]]),) * 3,
        limits=(1.0, 1.0, 1.0),
        labels=("a", "b", "c", "d"),
        coverage=0.9,
        n=9,
        observer_digest=64 * "d",
        data_digest=64 * "d",
    )
    near, far = (region.check(np.array(value) * k, np.zeros(2)).ratios["input"] for k in (1.0, factor))
    assert far >= near * (1 - 1e-9)


def test_it_survives_its_file_and_plots(region, tmp_path):
    region.save(tmp_path / "region.npz")
    again = OperatingRegion.load(tmp_path / "region.npz")
    assert again.digest == region.digest
    sample = ([0.3, 0.9], [0.1, 0.2])
    assert again.check(*sample) == region.check(*sample)
    assert isinstance(again.check(*sample), RegionStatus)
    assert len(region.plot().axes) == 3


def test_channels_that_never_moved_have_no_room(observer):
    def still(n, seed):
        return [
            Trajectory(u=r.u * [1.0, 0.0], y=elman().simulate(r.u * [1.0, 0.0])[0], dt=1.0, name="r")
            for r in make_records(n, seed)
        ]

    for shape in SHAPES:
        region = learn_region(observer, still(19, 6), scale_trajectories=still(4, 7), shape=shape)
        assert region.check([0.3, 0.0], np.zeros(2)).inside
        assert not region.check([0.3, 0.1], np.zeros(2)).inside


def test_bad_input_is_refused(observer, region):
    records, others = make_records(19, 0), make_records(3, 1)
    with pytest.raises(DataError, match="serve once"):
        learn_region(observer, records, scale_trajectories=records[:2])
    with pytest.raises(DataError, match="scale_trajectories"):
        learn_region(observer, records, scale_trajectories=[])
    with pytest.raises(DataError, match="at least"):
        learn_region(observer, records[:2], scale_trajectories=others)
    with pytest.raises(DataError, match="samples"):
        learn_region(observer, make_records(19, 0, length=21), scale_trajectories=others)
    with pytest.raises(SettingError):
        learn_region(observer, records, scale_trajectories=others, shape="cone")
    with pytest.raises(ShapeError):
        region.check([0.1], [0.0, 0.0])
    with pytest.raises(DataError):
        region.check([np.nan, 0.0], [0.0, 0.0])


def test_the_controller_flags_and_logs_what_leaves_the_region(caplog):
    limits = (Signal("pump", "L/min", -1, 1), Signal("valve", "%", -1, 1)), (Signal("level"), Signal("flow"))
    washout = Washout(Predictor(elman(), *limits), 20)
    region = learn_region(washout, make_records(19, 0), scale_trajectories=make_records(10, 1))
    free = no_tightening(elman().digest, 4, 2)
    controller = TightenedMPC(
        washout.predictor,
        washout,
        free,
        Tracking(output_weight=1.0, input_move_weight=0.1),
        safety=Safety(region=region),
    )
    x, wanted = np.zeros(4), washout.predictor.steady_output(np.array([0.3, 0.2]))
    for _ in range(20):
        controller.record(elman().output(x, np.zeros(2)), np.zeros(2))
        x = elman().step(x, np.zeros(2))
    with caplog.at_level("INFO", logger="mpc.calibration.region"):
        steps = []
        for t in range(30):
            y = elman().output(x, np.zeros(2)) + (3.0 if 10 <= t < 15 else 0.0)
            steps.append(controller.step(y, wanted))
            x = elman().step(x, steps[-1].u)
    outside = [bool(s.outside) for s in steps]
    assert all(outside[10:15])
    assert "residual" in steps[12].outside
    assert not outside[-1]
    assert sum("outside of the calibrated region" in r.message for r in caplog.records) >= 1
    assert caplog.records[-1].message == "back in the calibrated region"
    plain = TightenedMPC(washout.predictor, washout, free, Tracking(output_weight=1.0, input_move_weight=0.1))
    assert plain.step(np.zeros(2), wanted).outside == ""
    with pytest.raises(SettingError, match="another observer"):
        TightenedMPC(
            washout.predictor,
            Washout(washout.predictor, 5),
            free,
            Tracking(output_weight=1.0, input_move_weight=0.1),
            safety=Safety(region=region),
        )


def test_closed_loops_keep_what_lay_outside(tmp_path):
    limits = tuple(tuple(Signal(s.name, s.unit, -1, 1) for s in group) for group in CHANNELS)
    washout = Washout(Predictor(elman(), *limits), 20)
    region = learn_region(washout, make_records(19, 0), scale_trajectories=make_records(10, 1))
    controllers = [
        TightenedMPC(
            washout.predictor,
            washout,
            no_tightening(elman().digest, 4, 2),
            Tracking(output_weight=1.0, input_move_weight=0.1),
            safety=Safety(region=r),
        )
        for r in (region, None)
    ]
    plant = LurePlant(elman(), *limits)
    options = {
        "reference": washout.predictor.steady_output(np.array([0.3, 0.2])), "steps": 20,
        "faults": [Outlier(size=3.0, start=10, stop=15, channel=1)], "warm_up_input": np.zeros(2),
    }  # fmt: skip
    result, plain = (run_closed_loop(plant, c, seed=0, **loop_settings(options)) for c in controllers)
    assert len(result.outside) == 20
    assert all("residual flow [L/s]" in text for text in result.outside[10:15])
    assert 5 <= result.steps_outside == sum(text != "" for text in result.outside) < 15
    assert (plain.steps_outside, plain.outside) == (0, ("",) * 20)
    np.testing.assert_array_equal(plain.u, result.u)

    result.save(tmp_path / "run.npz")
    assert ClosedLoopResult.load(tmp_path / "run.npz").outside == result.outside
    runs = monte_carlo(lambda: ClosedLoopSetup(plant, controllers[0], options), [0, 1])
    assert runs.summary()["steps_outside"] == sum(r.steps_outside for r in runs.results)
    runs.save(tmp_path / "runs.npz")
    assert MonteCarloResult.load(tmp_path / "runs.npz").results[0].outside == result.outside

    label = "outside of the calibrated region"
    (marks,) = [line for line in result.plot().axes[-1].lines if line.get_label() == label]
    np.testing.assert_array_equal(marks.get_xdata(), [t for t, text in enumerate(result.outside) if text])
    assert label in [text.get_text() for text in result.plot().axes[-1].get_legend().get_texts()]
    assert label not in [line.get_label() for line in plain.plot().axes[-1].lines]
