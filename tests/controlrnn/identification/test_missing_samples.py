"""Outputs that are missing at single samples are skipped, by everything that looks at outputs."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from random_systems import random_system

from controlrnn.data import Dataset, Trajectory
from controlrnn.errors import DataError
from controlrnn.identification import (
    SimulationError,
    check_residuals,
    estimate_delays,
    estimate_initial_state,
    fit_encoder,
    identify,
    identify_arx,
    identify_subspace,
    nrmse,
    observer_dataset,
    rmse,
    score,
    score_predictions,
    select_order,
)
from controlrnn.identification.losses.base import Batch, Simulation
from controlrnn.identification.losses.objective import Objective
from controlrnn.models import LTI

DC = np.array([[0.8, 0.2], [-0.1, 0.7]])


def system(noise=0.0):
    base = random_system(0, nx=2, nu=1, ny=2, layers=(), feedthrough=False, dt=1.0)
    return replace(base, A=DC, B2=np.array([[0.5], [1.0]]), C2=np.array([[1.0, 0.0], [0.3, 1.0]]))


def holed(record, share=0.1, seed=0):
    gone = np.random.default_rng([seed, 7]).random(record.y.shape) < share
    return replace(record, y=np.where(gone, np.nan, record.y))


def record(seed, T=300, noise=0.02, share=0.1):
    rng = np.random.default_rng(seed)
    u = np.repeat(rng.uniform(-1, 1, (-(-T // 4), 1)), 4, axis=0)[:T]
    y = system().simulate(u)[0] + noise * rng.standard_normal((T, 2))
    return holed(Trajectory(u, y, 1.0, name=f"r{seed}"), share, seed)


def gains(model):
    return model.C2 @ np.linalg.solve(np.eye(model.nx) - model.A, model.B2)


def test_scores_are_those_of_the_samples_that_are_there():
    r = record(1)
    simulated = system().simulate(r.u)[0]
    for j in range(2):
        known = ~r.missing[30:, j]
        e = (r.y - simulated)[30:, j][known]
        assert rmse(r.y, simulated, skip=30)[j] == pytest.approx(np.sqrt(np.mean(e**2)))
        wanted = np.sqrt(np.mean(e**2)) / r.y[30:, j][known].std()
        assert nrmse(r.y, simulated, skip=30)[j] == pytest.approx(wanted)


def test_the_loss_and_its_gradient_do_not_see_what_is_missing():
    rng = np.random.default_rng(0)
    y = torch.as_tensor(rng.normal(size=(3, 20, 2)))
    y[0, 5:9, 0] = y[2, 12:, 1] = np.nan
    run = torch.tensor(rng.normal(size=(3, 20, 2)), requires_grad=True)
    u, x0 = torch.zeros(3, 20, 1), torch.zeros(3, 2)
    loss = SimulationError(washout=4)(system(), Batch(u, y, x0, 0), Simulation(run, torch.zeros(3, 21, 2)))
    known = ~y[:, 4:].isnan()
    assert loss.item() == pytest.approx(((run - y)[:, 4:][known] ** 2).mean().item())
    loss.backward()
    assert (run.grad[:, 4:][~known] == 0).all()
    assert (run.grad[:, 4:][known] != 0).all()


def test_nothing_measured_is_no_loss():
    y = torch.full((1, 5, 1), torch.nan)
    loss = SimulationError()(system(), Batch(y, y, y[:, 0], 0), Simulation(torch.ones(1, 5, 1), y))
    assert loss.item() == 0.0


def test_the_objective_and_its_hessian_are_means_over_what_is_there():
    model = LTI(nu=1, ny=2, nx=2, seed=0).double()
    records = [record(1, 40), record(2, 60)]
    objective = Objective(model, records, SimulationError(washout=5), np.zeros((2, 2)))
    at = objective.start()
    objective.put(at)
    with torch.no_grad():
        frozen = model.system().frozen()
    errors = [(frozen.simulate(r.u)[0] - r.y)[5:][~r.missing[5:]] for r in records]
    assert objective.value(at) == pytest.approx(np.mean(np.concatenate(errors) ** 2))
    _, gradient, hessian = objective.gauss_newton(at)
    rng, step = np.random.default_rng(0), 1e-6
    for _ in range(3):
        d = rng.standard_normal(len(at))
        slope = (objective.value(at + step * d) - objective.value(at - step * d)) / (2 * step)
        assert slope == pytest.approx(gradient @ d, rel=1e-5, abs=1e-8)

    def residuals(vector):
        objective.put(vector)
        with torch.no_grad():
            s = model.system().frozen()
        starts = vector[-4:].reshape(2, 2)
        runs = [(s.simulate(r.u, x)[0] - r.y)[5:][~r.missing[5:]] for r, x in zip(records, starts, strict=True)]
        return np.concatenate(runs)

    n = len(residuals(at))
    J = np.stack([(residuals(at + 1e-6 * e) - residuals(at - 1e-6 * e)) / 2e-6 for e in np.eye(len(at))], axis=1)
    np.testing.assert_allclose(hessian, 2 / n * J.T @ J, atol=1e-5 * np.abs(hessian).max())


def test_linear_methods_find_the_plant():
    clean = [record(s, 600, noise=0.0, share=0.03) for s in range(3)]
    truth = gains(system())
    np.testing.assert_allclose(gains(identify_arx(clean, 2, 2).system), truth, atol=1e-8)
    model = identify_subspace(clean, 2, horizon=5)
    np.testing.assert_allclose(gains(model.system), truth, atol=1e-8)
    assert select_order(clean[:2], clean[2:], orders=(1, 2, 3), horizon=5).by_validation == 2
    late = [replace(r, u=np.roll(r.u, -2, axis=0))[:-2] for r in clean]
    assert estimate_delays(late, 4, memory=1) == (2,)


def test_a_subspace_model_is_found_where_hardly_any_window_is_complete():
    holes = [record(s, 600, noise=0.01, share=0.2) for s in range(3)]
    model = identify_subspace(holes, 2)  # of 30 samples of two outputs, one window in a million
    np.testing.assert_allclose(gains(model.system), gains(system()), rtol=0.03)
    assert score(model.system, [record(9, noise=0.0, share=0.0)], skip=30).fit_percent.min() > 97


def test_initial_states_are_found_without_all_samples():
    s, x0 = system(), np.array([0.7, -1.2])
    u = np.random.default_rng(0).normal(size=(30, 1))
    y = s.simulate(u, x0)[0]
    y[[0, 3, 4], 0] = y[1:20, 1] = np.nan
    np.testing.assert_allclose(estimate_initial_state(s, u, y, 12), x0, atol=1e-7)
    y[:, 1] = np.nan
    np.testing.assert_allclose(estimate_initial_state(s, u, y, 12), x0, atol=1e-7)
    with pytest.raises(DataError, match="infinite"):
        estimate_initial_state(s, u, np.full_like(y, np.inf), 12)


def test_training_goes_on_where_samples_are_missing():
    data = Dataset((record(1, 400), record(2, 400)), (record(3),), (record(4),))
    for options in ({}, {"initial_state": "estimated"}, {"refine": "levenberg_marquardt", "refine_steps": 5}):
        fit = identify(
            LTI(nu=1, ny=2, nx=2, seed=0), data, loss=SimulationError(washout=20), steps=60, window=80, **options
        )
        assert fit.scores["test"].fit_percent.min() > 90, options
    empty = replace(record(5), y=np.where(np.arange(300)[:, None] < 20, record(5).y, np.nan))
    with pytest.raises(DataError, match="none that was measured"):
        identify(LTI(nu=1, ny=2, nx=2), Dataset((record(1),), (empty,)), loss=SimulationError(washout=20), steps=1)


def test_predictions_are_scored_where_they_can_be():
    full = record(6, noise=0.0, share=0.0)
    found = score_predictions(system(), [holed(full, 0.2)], 5, past=10)
    np.testing.assert_allclose(found.rmse, 0, atol=1e-7)
    whole = score_predictions(system(), [full], 5, past=10)
    np.testing.assert_allclose(found.persistence, whole.persistence, rtol=0.4)
    with pytest.raises(DataError, match="never measured"):
        score_predictions(
            system(), [replace(full, y=np.where(np.arange(300)[:, None] < 10, full.y, np.nan))], 5, past=10
        )


def test_white_residuals_stay_in_their_band():
    rng = np.random.default_rng(0)
    outside = []
    for seed in range(40):
        r = record(seed, 200, noise=0.0, share=0.0)
        noisy = holed(replace(r, y=r.y + rng.standard_normal(r.y.shape)), 0.3, seed)
        test = check_residuals([noisy], [r.y], lags=20, confidence=0.9)
        outside.append(np.mean(test.auto_outside))
    assert np.mean(outside) == pytest.approx(0.1, abs=0.07)
    with pytest.raises(DataError, match="diverges"):
        check_residuals([r], [np.full_like(r.y, np.nan)])


def test_the_encoder_learns_from_complete_windows():
    records = [record(s, share=0.05) for s in range(2)]
    encoder = fit_encoder(system(), records, past=4, washout=30, hidden=0)
    full = record(9, noise=0.0, share=0.0)
    x = system().simulate(full.u)[1]
    np.testing.assert_allclose(encoder.estimate(full.u[96:100], full.y[96:100]), x[100], atol=0.1)
    with pytest.raises(DataError, match="complete samples in a row"):
        fit_encoder(system(), [record(1, share=0.9)], past=4, washout=30)


def test_observers_that_take_readings_as_inputs_refuse_gaps():
    r = record(1)
    with pytest.raises(DataError, match="inputs of a trained observer"):
        observer_dataset(Dataset((replace(r, x=np.zeros((len(r), 2))),)))


def test_scores_of_whole_datasets_are_finite():
    assert np.isfinite(score(system(), [record(1), record(2)], skip=20).rmse).all()
