from dataclasses import replace

import numpy as np
import pytest
import torch
from mpc_networks import NormContraction, NormHorizon, elman, signals, switching
from record_cases import N, model_error, records

from controlrnn import kernels
from controlrnn.certification import certify_contraction, execution_error
from controlrnn.data import Signal, Trajectory
from controlrnn.errors import CertificationError, FileFormatError, InfeasibleError, SettingError, ShapeError
from controlrnn.systems import MATRICES
from mpc import (
    DisturbanceFilter,
    RunningOn,
    Tightening,
    Washout,
    calibrate,
    no_tightening,
    prediction_errors,
    tighten,
)


@pytest.fixture(scope="module")
def observer(predictor):
    return Washout(predictor, 12, contraction=NormContraction.of(predictor.system), input_error=0.02)


def test_parts_add_up_and_name_their_sources(system, observer):
    joint = NormHorizon.of(system, N + 2, observer.error.euclidean, 0.02)
    first = NormHorizon.of(system, N, observer.error.euclidean)
    found = tighten(model_error(system), joint, observer=observer, initial_only=first)
    np.testing.assert_allclose(found.total, 0.05 + joint.bounds[: N + 1])
    np.testing.assert_allclose(found.reinitialisation, first.bounds)
    assert (found.input_error[1:] > 0).all()
    assert set(found.digests) == {"system", "model_error", "observer", "certificate"}
    together = tighten(model_error(system), joint, observer=observer)
    np.testing.assert_allclose(together.total, found.total)
    assert "NOT covered" in tighten(model_error(system), None, observer=observer).promise


def test_total_bounds_every_prediction_error(system, predictor, observer, rng):
    """The whole chain against a plant whose output wanders within a known bound and whose inputs are not exact."""
    joint = NormHorizon.of(system, N, observer.error.euclidean, 0.02)
    found = tighten(model_error(system, size=0.05), joint, observer=observer)
    true = switching(rng, 500, 2)
    wander = 0.05 * np.sin(np.arange(500) / 3)[:, None] * [1, -1]
    y = system.simulate(true)[0] + wander
    recorded = np.clip(true + 0.02 * rng.choice([-1, 1], true.shape), -1, 1)
    errors = prediction_errors(observer, Trajectory(recorded, y, 1.0)[200:], horizon=N)
    assert (np.abs(errors) <= found.total).all()
    assert np.abs(errors).max() > 0.05  # the model error alone would not have been enough


def test_disturbance_estimated_with_another_observer_costs_the_first_bound(system, predictor, observer, rng):
    """dhat calibrated with x* but formed with estimates, or with exact inputs: the difference is covered."""
    gain, sure = DisturbanceFilter(0.5), Washout(predictor, 12, contraction=NormContraction.of(system))

    def with_dhat_of(calibrated, other):
        bounded = NormHorizon.of(system, N, other.error.euclidean, other.input_error)
        error = model_error(system, gain=0.5, observer_digest=calibrated)
        return tighten(error, bounded, observer=other).total - error.bounds - bounded.bounds, bounded.bounds[0]

    np.testing.assert_allclose(with_dhat_of(sure.digest, sure)[0], 0.0, atol=1e-12)
    for calibrated, other in (("", sure), (observer.digest, observer)):
        added, first = with_dhat_of(calibrated, other)
        np.testing.assert_allclose(added, np.tile(first, (N + 1, 1)))
    short = Washout(predictor, 3, contraction=NormContraction.of(system))
    certificate = NormHorizon.of(system, N, short.error.euclidean)
    u = switching(rng, 400, 2)
    clean = Trajectory(u, system.simulate(u)[0], 1.0)[200:]
    found = tighten(model_error(system, size=0.0, gain=0.5), certificate, observer=short)
    errors = prediction_errors(short, clean, horizon=N, disturbance=gain)
    assert (np.abs(errors) <= found.total).all()


def test_limits_move_inwards_on_both_sides(system, observer):
    found = tighten(model_error(system), None, observer=observer)
    lower, upper = found.limits((Signal("a", lower=-1.0, upper=2.0), Signal("b", upper=3.0)))
    np.testing.assert_allclose(lower[:, 0], -0.95)
    np.testing.assert_allclose(upper[:, 0], 1.95)
    assert np.isneginf(lower[:, 1]).all()


def test_nothing_left_names_output_and_step(system, observer):
    found = tighten(model_error(system), None, observer=observer)
    bounds = found.model_error.copy()
    bounds[3, 1] = 0.7
    grown = replace(found, model_error=bounds)
    with pytest.raises(InfeasibleError, match=r"'y2' at step 3.*model error 0\.7"):
        grown.limits(signals("y", 2, 0.6))
    bounds = found.model_error.copy()
    bounds[0, 1] = 0.7  # the present: nothing can be done about it, and nothing is asked
    replace(found, model_error=bounds).limits(signals("y", 2, 0.6))
    with pytest.raises(ShapeError):
        found.limits(signals("y", 3, 0.6))


def test_certificate_must_cover_what_the_observer_leaves(system, observer):
    size, one = model_error(system), observer.error.euclidean
    with pytest.raises(CertificationError, match="initial radius"):
        tighten(size, NormHorizon.of(system, N, 0.9 * one, 0.02), observer=observer)
    with pytest.raises(CertificationError, match="input radius"):
        tighten(size, NormHorizon.of(system, N, one, 0.01), observer=observer)
    with pytest.raises(SettingError, match="horizon"):
        tighten(size, NormHorizon.of(system, N - 1, one, 0.02), observer=observer)
    good = NormHorizon.of(system, N, one, 0.02)
    with pytest.raises(SettingError, match="input radius 0"):
        tighten(size, good, observer=observer, initial_only=good)


def test_parts_of_different_models_are_refused(system, observer):
    other = elman(seed=5)
    good = NormHorizon.of(system, N, observer.error.euclidean, 0.02)
    with pytest.raises(SettingError, match="different models"):
        tighten(model_error(other), good, observer=observer)
    with pytest.raises(SettingError, match="different models"):
        tighten(model_error(system), NormHorizon.of(other, N, 1.0, 0.02), observer=observer)


def test_tightening_survives_its_file_and_a_changed_one_is_refused(system, observer, tmp_path):
    found = tighten(model_error(system, gain=0.5), None, observer=observer)
    found.save(tmp_path / "t.npz")
    again = Tightening.load(tmp_path / "t.npz")
    assert again.digest == found.digest
    assert again.disturbance_gain == 0.5
    content = bytearray((tmp_path / "t.npz").read_bytes())
    content[content.index(found.model_error.tobytes())] ^= 1
    (tmp_path / "t.npz").write_bytes(bytes(content))
    with pytest.raises(FileFormatError):
        Tightening.load(tmp_path / "t.npz")
    assert len(found.plot(signals("y", 2, 1.0)).axes) == 2


def test_nominal_takes_nothing(system):
    found = no_tightening(system.digest, N, 2)
    assert not found.total.any()
    assert "nothing" in found.promise


def test_calibrated_error_goes_through(system, observer):
    made = records(system, range(20))
    size = calibrate(system, made[:10], scale_trajectories=made[10:], horizon=N, washout=20)
    found = tighten(size, NormHorizon.of(system, N, observer.error.euclidean, 0.02), observer=observer)
    assert (found.total > size.bounds).all()
    assert "0.9" in found.promise


def test_a_certificate_for_boxes_alone_is_refused(system, observer):
    boxed = replace(NormHorizon.of(system, N, observer.error.euclidean, 0.02), input_range=np.zeros((2, 2)))
    with pytest.raises(SettingError, match="boxes"):
        tighten(model_error(system), boxed, observer=observer)


def executed(observer, precision="float32", beyond=0.02, **arguments):
    """The execution error that a tightening asks for."""
    start, (low, high) = observer.initial_state, observer.predictor.input_limits()
    arguments = {"contraction": certify_contraction(observer.system), "precision": precision} | arguments
    return execution_error(
        observer.system, input_range=(low - beyond, high + beyond), state_range=(start, start), **arguments
    )


def test_a_controller_in_float32_is_covered_by_a_part_of_its_own(system, predictor, rng):
    observer = Washout(predictor, 90, contraction=NormContraction.of(system))
    certificate = NormHorizon.of(system, N, observer.error.euclidean)
    execution = executed(observer)
    size = model_error(system, size=0.0)
    plain = tighten(size, certificate, observer=observer)
    found = tighten(size, certificate, observer=observer, execution=execution)
    assert not plain.execution.any()
    assert "rounding is not counted" in plain.promise
    assert "rounding in float32 is counted" in found.promise
    assert found.digests == plain.digests | {"execution": execution.digest}
    np.testing.assert_allclose(found.execution, np.tile(2 * execution.bounds, (N + 1, 1)), rtol=1e-8)
    np.testing.assert_allclose(found.total, plain.total + found.execution)
    u = switching(rng, 400, 2)
    y = system.simulate(u)[0]
    single = replace(system, **{n: torch.tensor(getattr(system, n), dtype=torch.float32) for n in MATRICES})
    worst = np.zeros((N + 1, 2))
    for t in range(200, 390):
        window = torch.tensor(u[t - 90 : t + N + 1], dtype=torch.float32)
        start = torch.tensor(observer.initial_state, dtype=torch.float32)
        worst = np.maximum(worst, np.abs(kernels.simulate(single, window, start)[0].numpy()[90:] - y[t : t + N + 1]))
    assert (worst <= found.total).all()
    assert (worst > plain.total).any()  # rounding alone breaks what is certified in real arithmetic
    found.verify(size, certificate, observer=observer, execution=execution)
    filtered = tighten(model_error(system, gain=0.5), certificate, observer=observer, execution=execution)
    np.testing.assert_allclose(filtered.execution, 2 * found.execution)
    for forged in (replace(found, execution=0.5 * found.execution), replace(found, execution=None), plain):
        with pytest.raises(CertificationError):
            forged.verify(size, certificate, observer=observer, execution=execution)
    smaller = replace(execution, bounds=0.5 * execution.bounds)
    with pytest.raises(CertificationError):
        tighten(size, certificate, observer=observer, execution=smaller)


def test_execution_must_cover_what_the_observer_meets(system, predictor, observer):
    size = model_error(system)
    good = executed(observer)
    assert tighten(size, None, observer=observer, execution=good).execution.any()
    assert tighten(size, None, observer=RunningOn(predictor, 5), execution=good).execution.any()
    with pytest.raises(SettingError, match="input error"):
        tighten(size, None, observer=observer, execution=executed(observer, beyond=0.0))
    with pytest.raises(SettingError, match="horizon=None"):
        tighten(size, None, observer=observer, execution=executed(observer, horizon=30))
    elsewhere = Washout(predictor, 12, initial_state=observer.initial_state + 0.5)
    with pytest.raises(SettingError, match="initial state"):
        tighten(size, None, observer=elsewhere, execution=good)
    with pytest.raises(SettingError, match="different models"):
        tighten(size, None, observer=observer, execution=replace(good, system_digest="0" * 64))
