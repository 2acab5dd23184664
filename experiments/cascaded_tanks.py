"""Identification on the cascaded-tanks benchmark: measured data, official split and score.

Score: RMSE [V] of the free run over the test record without its first 50 samples; the initial state is estimated from
these. Parameters are fitted to the first 700 samples of the estimation record and chosen on its other 324. Linear
baselines (ARX, subspace), an Elman network, and a contracting R2DN whose predictions forget a wrong initial state for
every value of its parameters; networks from several starts, of which the validation error picks one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from controlrnn.checks import Array
from controlrnn.data import Dataset, Trajectory, benchmarks
from controlrnn.identification import (
    FitResult,
    FitStatus,
    SimulationError,
    TqdmProgress,
    free_run,
    identify,
    identify_subspace,
    initial_states,
    score,
    select_arx,
)  # fmt: skip
from controlrnn.models import ContractingR2DN, Elman, Model
from controlrnn.systems import LureSystem
from experiments._study import Row, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SKIP = 50
TARGET = 0.5  # [V]
STARTS = {"elman": 3, "contracting_r2dn": 5}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("cascaded_tanks", __doc__, arguments)
    data = benchmarks.load("cascaded_tanks")
    systems = linear_baselines(study, data)
    for name in STARTS:
        systems[name] = networks(study, data, name).system
    (test,) = data.test
    runs = {
        name: free_run(system, [test], initial_states(system, [test], SKIP))[0][0] for name, system in systems.items()
    }
    study.figure("test_record", comparison(test, runs))
    results: Row = {}
    for name in STARTS:
        cases = [row for row in study.rows if row["model"] == name]
        values = [row["test_rmse"] for row in cases]
        chosen = min(cases, key=lambda row: float(row["validation_rmse"]))
        results[name] = {"chosen": chosen["test_rmse"], "median": np.median(values), "best": min(values)}
    reached = results["contracting_r2dn"]["chosen"]
    study.target("contracting_r2dn_test_rmse", f"<= {TARGET} V", reached, reached <= TARGET)
    linear = min(row["test_rmse"] for row in study.rows if row["model"] in ("arx", "subspace"))
    study.target("better_than_linear", f"< {linear:.3f} V", reached, reached < linear)
    return study.finish(summary=results)


def linear_baselines(study: Study, data: Dataset) -> dict[str, LureSystem]:
    """ARX and subspace models; each order is chosen by the free run over the validation record."""
    arx = select_arx(data.train, data.validation, orders=range(1, 11), skip=SKIP, strictly_proper=True)
    candidates = [identify_subspace(data.train, n, strictly_proper=True) for n in (1, 2, 3, 4)]
    errors = [score(m.system, data.validation, skip=SKIP, estimate=True).rmse[0] for m in candidates]
    subspace = candidates[int(np.argmin(errors))]
    systems = {"arx": arx.system, "subspace": subspace.system}
    for name, system in systems.items():
        study.row(name, lambda name=name, system=system: row(name, system, data))  # type: ignore[misc]
    return systems


def build(name: str, seed: int) -> Model:
    """A fresh network. Two states, as two tanks have: more states overfit 700 samples."""
    if name == "elman":
        return Elman(nu=1, ny=1, nx=8, memory=1.0, seed=seed)
    return ContractingR2DN(nu=1, ny=1, nx=2, nv=2, layers=(6,), seed=seed)


def networks(study: Study, data: Dataset, name: str) -> FitResult:
    """Train from several starts; returns the one with the lowest validation error."""
    starts = 2 if study.quick else STARTS[name]
    fits = []
    for seed in range(study.seed, study.seed + starts):
        case = f"{name}_{seed}"
        path = study.path(f"{case}.npz")

        def train(seed: int = seed, case: str = case, path: Path = path) -> Row:
            fit = identify(
                build(name, seed), data, loss=SimulationError(), steps=250 if study.quick else 1000, batch_size=1,
                window=700, learning_rate=5e-3, validate_every=25, skip=SKIP, initial_state="estimated", seed=seed,
                checkpoint=study.path(f"{case}.checkpoint.npz"), callbacks=[TqdmProgress(case)],
            )  # fmt: skip
            if fit.status is FitStatus.INTERRUPTED:
                raise KeyboardInterrupt
            fit.save(path)
            study.path(f"{case}.checkpoint.npz").unlink(missing_ok=True)
            return row(name, fit.system, data) | {
                "status": str(fit.status),
                "parameters": build(name, seed).n_parameters,
            }

        study.row(case, train, files=[path.name])
        fits.append(FitResult.load(path))
    best = min(fits, key=lambda fit: fit.best_validation)
    study.figure(f"{name}_residual", best.plot(data.test[0]))
    return best


def row(name: str, system: LureSystem, data: Dataset) -> Row:
    """Scores of one system on every part, in V."""
    scores = {
        part: score(system, getattr(data, part), skip=SKIP, estimate=True) for part in ("train", "validation", "test")
    }
    result: Row = {"model": name, "nx": system.nx, "nv": system.nv}
    result |= {f"{part}_rmse": s.rmse[0] for part, s in scores.items()}
    return result | {"test_fit_percent": scores["test"].fit_percent[0]}


def comparison(test: Trajectory, runs: dict[str, Array]) -> Figure:
    """Measured test record and every model's free run, errors below."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    above.plot(test.time, test.y[:, 0], color="black", linewidth=1.5, label="measured")
    for name, run in runs.items():
        (line,) = above.plot(test.time, run[:, 0], linewidth=1, label=name.replace("_", " "))
        below.plot(test.time, test.y[:, 0] - run[:, 0], linewidth=1, color=line.get_color())
    for panel in (above, below):
        panel.axvspan(0, SKIP * test.dt, color="0.92", zorder=0)
    above.set_ylabel(test.outputs[0].label)
    below.set_ylabel("error [V]")
    below.set_xlabel("time [s] (shaded: initial state is estimated here, not scored)")
    above.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=5, frameon=False)
    return figure


if __name__ == "__main__":
    sys.exit(main())
