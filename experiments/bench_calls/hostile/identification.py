"""Calls of `controlrnn.identification`."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch

from controlrnn import identification, models
from experiments.bench_calls.hostile.call import Call, again, call, first
from experiments.bench_calls.hostile.kit import Kit
from experiments.bench_calls.hostile.parts import NU, NX, NY, fields_of


def identification_calls(kit: Kit) -> Iterator[Call]:
    """Yield calls of everything that fits, scores and tests."""
    at, r = "controlrnn.identification", kit.records
    yield from _metrics(kit)
    yield call(f"{at}.identify_arx", identification.identify_arx, records=r, na=1, nb=1, strictly_proper=True)
    yield call(f"{at}.select_arx", identification.select_arx, train=r[:2], validation=r[2:3], orders=(1, 2), skip=2)
    yield call(f"{at}.identify_subspace", identification.identify_subspace, records=r, nx=2, horizon=4,
                max_radius=0.99)  # fmt: skip
    yield call(f"{at}.select_order", identification.select_order, 0.5, train=r[:2], validation=r[2:3], orders=(1, 2),
                skip=3, horizon=4)  # fmt: skip
    yield call(f"{at}.estimate_delays", identification.estimate_delays, records=r, most=3, memory=2)
    yield call(f"{at}.with_delays", identification.with_delays, system=kit.system, delays=(1, 2))
    yield call(f"{at}.without_delays", identification.without_delays, record=r[0], delays=(1, 2),
                _infinite=("lower", "upper"))  # fmt: skip
    yield call(f"{at}.fit_encoder", identification.fit_encoder, 0.2, system=kit.system, records=r, past=3, washout=5,
                hidden=2, steps=2, ridge=1e-4, seed=0)  # fmt: skip
    yield call(f"{at}.StateEncoder.estimate", kit.encoder.estimate, u=r[0].u[:3], y=r[0].y[:3])
    yield call(f"{at}.check_residuals", identification.check_residuals, records=r, simulated=kit.runs, lags=5,
                confidence=0.9, skip=2)  # fmt: skip
    yield call(f"{at}.score_predictions", identification.score_predictions, system=kit.system, records=r, horizon=3,
                past=5, stride=2)  # fmt: skip
    options = {"steps": 2, "batch_size": 2, "window": 10, "validate_every": 2, "learning_rate": 1e-3, "clip": 1.0,
               "patience": 3, "skip": 4, "initial_state": "zero", "start": "as_is", "schedule": "cosine",
               "precision": "float64", "keep": "best", "seed": 1}  # fmt: skip
    model, loss = models.Elman(nu=NU, ny=NY, nx=NX), identification.SimulationError(washout=4)
    nan = ("history",)
    yield call(f"{at}.identify", identification.identify, 0.15, model=model, dataset=kit.dataset, loss=loss,
                _infinite=nan, _varies=("seconds", "model"), **options)  # fmt: skip
    yield call(f"{at}.identify_starts", identification.identify_starts, 0.05, build=_elman,
                dataset=kit.dataset, loss=loss, starts=2, seed=0, jobs=1, client=None, steps=1, batch_size=1, window=8,
                _infinite=nan, _varies=("seconds", "model"),
                _spoils=("starts", "seed", "client", "steps", "batch_size", "window"))  # fmt: skip
    yield call(f"{at}.Settings", identification.Settings, **fields_of(identification.Settings(
        window=10, patience=3, skip=4, start_horizon=4, shooting=5)))  # fmt: skip
    yield call(f"{at}.Scores.of", identification.Scores.of, measured=r[0].y, simulated=r[1].y, skip=1,
                _infinite=("rmse", "nrmse", "fit_percent", "r2"))  # fmt: skip
    for result in (kit.arx, kit.subspace, kit.orders, kit.residuals, kit.predictions, kit.encoder):
        yield again(f"{at}.{type(result).__name__}", result, _infinite=("errors", "rmse", "nrmse", "persistence"))
    yield again(f"{at}.FitResult", kit.fit, _infinite=nan, _varies=("model",))
    yield call(f"{at}.FitResult.simulate", kit.fit.simulate, record=r[0])
    yield call(f"{at}.Starts", identification.Starts, fits=(kit.fit,), _infinite=nan, _varies=("model",))
    yield call(f"{at}.Progress", identification.Progress, step=1, steps=2, loss=0.1, validation=0.1, best=0.1,
                learning_rate=0.1, _infinite=("loss", "validation", "best", "learning_rate"))  # fmt: skip
    yield call(f"{at}.TqdmProgress", identification.TqdmProgress, label="x", leave=False)
    yield from _losses(kit)
    yield from _searches(kit)


def _searches(kit: Kit) -> Iterator[Call]:
    at, best = "controlrnn.identification", kit.best
    trial = identification.Trial(
        identification.Candidate(identification.Family.FREE, 2, 3, ridge=1e-3), np.ones(3), 2, 0.1
    )
    yield call(f"{at}.identify_best", identification.identify_best, 0.05, data=kit.long, budget=2.0,
                clock="processor", families=(), skip=5, seed=1, _varies=("seconds", "mark"),
                _infinite=("rmse", "nrmse", "fit_percent", "r2"))  # fmt: skip
    yield again(f"{at}.Candidate", trial.candidate)
    yield again(f"{at}.Trial", trial, _infinite=("curve",))
    yield again(f"{at}.Work", identification.Work(1, 2, 3))
    yield again(f"{at}.Entry", best.entries[0], _infinite=("error", "rmse", "nrmse", "fit_percent", "r2"))
    yield again(f"{at}.BestFit", best, _infinite=("rmse", "nrmse", "fit_percent", "r2"))
    yield call(f"{at}.BestFit.simulate", best.simulate, record=kit.long[0], name="arx")


def _elman(seed: int) -> models.Elman:
    return models.Elman(nu=NU, ny=NY, nx=NX, seed=seed)


def _metrics(kit: Kit) -> Iterator[Call]:
    at, r, system = "controlrnn.identification", kit.records, kit.system
    for name in ("rmse", "nrmse", "fit_percent", "r2"):
        # A run that is not finite is infinitely wrong, and a channel that never moves has no spread.
        for pair in ({"measured": r[0].y, "simulated": r[1].y}, {"measured": [r[0].y], "simulated": [r[1].y]}):
            yield call(f"{at}.{name}", getattr(identification, name), **pair, skip=2, _infinite=("",))
    scores = ("rmse", "nrmse", "fit_percent", "r2")
    yield call(f"{at}.Scores", identification.Scores, **{n: np.ones(2) for n in scores}, _infinite=scores)
    yield call(f"{at}.score", identification.score, system=system, records=r, skip=4, estimate=True, _infinite=scores)
    yield call(f"{at}.free_run", identification.free_run, system=system, records=r, x0=np.zeros((len(r), NX)))
    yield call(f"{at}.initial_states", identification.initial_states, system=system, records=r, samples=4)
    yield call(f"{at}.estimate_initial_state", identification.estimate_initial_state, system=system, u=r[0].u,
                y=r[0].y, n=4, iterations=3)  # fmt: skip
    observing, _ = kit.observing
    yield call(f"{at}.estimate_states", identification.estimate_states, observer=observing, record=r[0],
                x0=np.zeros(NX))  # fmt: skip
    yield call(f"{at}.observer_dataset", identification.observer_dataset, dataset=kit.dataset,
                _infinite=("lower", "upper"))  # fmt: skip
    yield call(f"{at}.average", identification.average, systems=[system, system])
    yield call(f"{at}.group_norms", identification.group_norms, system=system, group="states")
    yield call(f"{at}.without_states", identification.without_states, system=system,
                dropped=np.array([True, False, False]))  # fmt: skip
    yield call(f"{at}.step_norm", identification.step_norm, system=kit.double)


def _losses(kit: Kit) -> Iterator[Call]:
    at = "controlrnn.identification"
    u, x = torch.zeros((2, 5, NU), dtype=torch.float64), torch.zeros((2, 6, NX), dtype=torch.float64)
    std = {"input_std": 0.1, "state_std": 0.1, "initial_std": 0.1}
    for name in ("output_covariance", "last_output_covariance"):
        spread = getattr(identification, name)
        yield call(f"{at}.{name}", spread, 0.3, system=kit.double, u=u, x=x, **std, _infinite=("",))
    yield call(
        f"{at}.output_noise_bound",
        identification.output_noise_bound,
        system=kit.double,
        steps=3,
        **std,
        _infinite=("",),
    )
    yield call(f"{at}.NoiseCovariance", identification.NoiseCovariance, **std, washout=2, windows=2)
    yield call(f"{at}.NoiseCovariance", identification.NoiseCovariance, **std, windows=2, last=True)
    yield call(f"{at}.NoiseUpperBound", identification.NoiseUpperBound, **std, washout=2)
    yield call(f"{at}.NoiseUpperBound", identification.NoiseUpperBound, **std, last=True)
    yield call(f"{at}.SimulationError", identification.SimulationError, washout=2)
    yield call(f"{at}.StretchPenalty", identification.StretchPenalty, rate=0.9)
    yield call(f"{at}.GroupLasso", identification.GroupLasso, group="states", rounding=1e-4)
    yield call(f"{at}.L2", identification.L2, matrices=("B1", "C1"))
    loss = identification.SimulationError(washout=2)
    yield call(f"{at}.Decaying", identification.Decaying, term=loss, period=10)
    yield call(f"{at}.WeightedSum", identification.WeightedSum, terms=((1.0, loss), (0.1, identification.L2())))
    M = np.eye(NX)
    yield call(f"{at}.start_robust_rnn", first(identification.start_robust_rnn, lambda _: None), 0.02,
                model=copy.deepcopy(kit.robust), A=0.5 * M, B=np.ones((NX, NU)), C=np.ones((NY, NX)),
                D=np.zeros((NY, NU)), samples=40, spread=2.0, seed=0)  # fmt: skip
