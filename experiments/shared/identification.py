"""Shared by the identification studies: linear baselines, scores as rows, certificates, figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.linalg
from scipy.ndimage import uniform_filter1d

from controlrnn.certification import (
    ContractionCertificate,
    certificate_from,
    certify_by_construction,
    certify_contraction,
)
from controlrnn.checks import Array
from controlrnn.data import Dataset, Trajectory
from controlrnn.errors import CertificationError
from controlrnn.identification import (
    FitResult,
    FitStatus,
    SimulationError,
    Starts,
    TqdmProgress,
    free_run,
    identify,
    identify_arx,
    identify_subspace,
    initial_states,
    rmse,
    score,
    select_arx,
)
from controlrnn.models import Model
from controlrnn.systems import LureSystem
from experiments.shared.study import Row, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LONG = 4000  # samples that can be told apart as lines


def linear_baselines(
    study: Study,
    data: Dataset,
    *,
    skip: int,
    arx: Sequence[int],
    subspace: Sequence[int],
    strictly_proper: bool,
    estimate: bool = True,
    unit: float = 1.0,
    final: Sequence[Trajectory] = (),
) -> dict[str, LureSystem]:
    """Fit ARX and subspace models as rows; orders are chosen by the free run over validation records.

    Args:
        study: The study.
        data: Training records, the validation records that choose, and test records that are scored.
        skip: Samples that the score leaves out; the initial state is estimated from them.
        arx: Candidate orders of ARX models.
        subspace: Candidate orders of subspace models.
        strictly_proper: Whether outputs answer a sample late.
        estimate: Whether the initial state is estimated; it is zero otherwise.
        unit: What RMSE are multiplied by, e.g. 1000 for mV.
        final: Records to which the chosen orders are fitted at last, where the networks see more than training records.
    """
    best = select_arx(data.train, data.validation, orders=arx, skip=skip, strictly_proper=strictly_proper)
    candidates = [identify_subspace(data.train, n, strictly_proper=strictly_proper) for n in subspace]
    errors = [np.mean(score(m.system, data.validation, skip=skip, estimate=estimate).nrmse) for m in candidates]
    chosen = candidates[int(np.argmin(errors))]
    if final:
        best = identify_arx(final, best.na, best.nb, strictly_proper=strictly_proper)
        chosen = identify_subspace(final, chosen.nx, strictly_proper=strictly_proper)
    systems = {"arx": best.system, "subspace": chosen.system}
    for name, system in systems.items():
        values = {"model": name, "nx": system.nx, "nv": 0, "certified_rate": certified_rate(system)}
        study.row(name, lambda v=values, s=system: v | errors_of(s, data, skip, unit, estimate))  # type: ignore[misc]
    return systems


def errors_of(system: LureSystem, data: Dataset, skip: int, unit: float = 1.0, estimate: bool = True) -> Row:
    """RMSE of the free run on each part and test record, mean over outputs, in the outputs' unit times ``unit``."""
    row: Row = {}
    for part in ("train", "validation"):
        records = getattr(data, part)
        if records:
            row[f"{part}_rmse"] = unit * float(np.mean(score(system, records, skip=skip, estimate=estimate).rmse))
    for i, record in enumerate(data.test):
        name = "test_rmse" if len(data.test) == 1 else f"test{i + 1}_rmse"
        row[name] = unit * float(np.mean(score(system, [record], skip=skip, estimate=estimate).rmse))
    return row


def run_of(system: LureSystem, record: Trajectory, skip: int, estimate: bool = True) -> Array:
    """Free run over one record from the initial state that scoring uses."""
    return free_run(system, [record], initial_states(system, [record], skip if estimate else 0))[0][0]


def whole_record_options(iterations: Mapping[str, int], **more: Any) -> dict[str, dict[str, Any]]:
    """Options of `identify`, by family: linear start, Levenberg-Marquardt on whole records, little Adam.

    Args:
        iterations: Of Levenberg-Marquardt, by family.
        more: Further options, for all families.
    """
    common = {"loss": SimulationError(), "steps": 1, "window": 512, "batch_size": 1, "start": "linear",
              "refine": "levenberg_marquardt"}  # fmt: skip
    return {name: common | {"refine_steps": n} | more for name, n in iterations.items()}


def networks(
    study: Study,
    data: Dataset,
    fitted: Dataset,
    families: Mapping[str, Callable[[int], Model]],
    *,
    skip: int,
    seeds: int,
    unit: float = 1.0,
    options: Mapping[str, Mapping[str, Any]],
) -> dict[str, FitResult]:
    """Train every family from several seeds; a row for each, and the one with the lowest validation error.

    Args:
        study: The study.
        data: What is scored.
        fitted: What is trained and validated on: ``data`` without its test records, or a part of that.
        families: Builders by name, from a seed.
        skip: Samples that the score leaves out; the initial state is estimated from them.
        seeds: Number of seeds.
        unit: What RMSE are multiplied by, e.g. 1000 for mV.
        options: Of `identify`, by family.
    """
    best: dict[str, FitResult] = {}
    for name, build in families.items():
        fits = []
        for seed in range(study.seed, study.seed + seeds):
            case = f"{name}_{seed}"
            path, checkpoint = study.path(f"{case}.npz"), study.path(f"{case}.checkpoint.npz")

            def train(  # bound now: the loop goes on
                name: str = name,
                build: Callable[[int], Model] = build,
                seed: int = seed,
                case: str = case,
                path: Path = path,
                checkpoint: Path = checkpoint,
            ) -> Row:
                fit = identify(
                    build(seed),
                    fitted,
                    skip=skip,
                    initial_state="estimated",
                    seed=seed,
                    checkpoint=checkpoint,
                    callbacks=[TqdmProgress(case)],
                    **options[name],
                )
                if fit.status is FitStatus.INTERRUPTED:
                    raise KeyboardInterrupt
                fit.save(path)
                checkpoint.unlink(missing_ok=True)
                row = {"model": name, "nx": fit.system.nx, "nv": fit.system.nv, "certified_rate": proven_rate(fit)}
                return row | errors_of(fit.system, data, skip, unit)

            study.row(case, train, needs=repr(options[name]), files=[path.name])
            fits.append(FitResult.load(path))
        best[name] = min(fits, key=lambda fit: fit.best_validation)
    return best


def start_of(model: Model) -> str:
    """Where `identify` starts a model by default: at a linear one where the class can, else at random parameters."""
    return "linear" if hasattr(model, "start_linear") else "random"


def medians(study: Study, name: str) -> Row:
    """Median over the seeds of every error of one family, and its spread."""
    rows = [row for row in study.rows if row["model"] == name]
    columns = [column for column in rows[0] if column.endswith("_rmse")]
    return {
        column: {"median": np.median(values), "mean": np.mean(values), "least": min(values), "most": max(values)}
        for column, values in ((c, [row[c] for row in rows]) for c in columns)
    }


def root_mean_square(measured: Trajectory, run: Array, skip: int) -> float:
    """RMSE of a run, mean over outputs."""
    return float(np.mean(rmse(measured.y, run, skip=skip)))


def certified_rate(system: LureSystem) -> float | None:
    """Proven contraction rate, None where none was found."""
    try:
        certificate = certify_contraction(system)
    except CertificationError:
        return None
    certificate.verify(system)
    return certificate.rate


def proven_rate(fit: FitResult) -> float | None:
    """Proven contraction rate of one fit, by construction where it has one; None where none was found."""
    try:
        return _member(fit).rate
    except CertificationError:
        return None


def average_rate(starts: Starts) -> float | None:
    """Proven contraction rate of the mean of several models as one system; None where none was found.

    Metrics and multipliers of the members, by construction or searched for, stand side by side.
    """
    system = starts.average()
    try:
        parts = [_member(fit) for fit in starts.fits]
        metric = np.asarray(scipy.linalg.block_diag(*(part.metric for part in parts)))
        proof = certificate_from(system, metric, np.concatenate([part.multipliers for part in parts]))
    except CertificationError:
        return None
    proof.verify(system)
    return proof.rate


def _member(fit: FitResult) -> ContractionCertificate:
    if fit.model is not None and fit.model.guarantee() is not None:
        return certify_by_construction(fit.model).contraction
    return certify_contraction(fit.system)


def comparison(record: Trajectory, runs: Mapping[str, Array], *, skip: int, most: int = 2000) -> Figure:
    """Plot the measured record, free runs of several models over the first ``most`` samples, and errors.

    Lines of more than `LONG` samples would hide each other: of these the figure shows the record and, by model, the
    root mean square of the error over stretches of `LONG` / 20 samples.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    time, long = record.time[:most], min(most, len(record)) > LONG
    above.plot(time, record.y[:most, 0], color="black", linewidth=0.3 if long else 1.5, label="measured")
    for i, (name, run) in enumerate(runs.items()):
        error, look = record.y[:most, 0] - run[:most, 0], {"color": f"C{i}", "linewidth": 1}
        if long:
            error = np.sqrt(uniform_filter1d(error**2, LONG // 20, mode="nearest"))
            below.semilogy(time, error, label=name.replace("_", " "), **look)
        else:
            above.plot(time, run[:most, 0], label=name.replace("_", " "), **look)
            below.plot(time, error, **look)
    for panel in (above, below):
        panel.axvspan(0, skip * record.dt, color="0.92", zorder=0)
    above.set_ylabel(record.outputs[0].label)
    below.set_ylabel(f"{'RMS of error' if long else 'error'} [{record.outputs[0].unit}]")
    below.set_xlabel("time [s] (shaded: not scored)")
    figure.legend(loc="outside upper center", ncols=6, frameon=False)
    return figure
