"""Identification on the F-16 ground vibration test: measured accelerations at a bolted, clattering wing joint.

Score: RMSE [m/s2] per accelerometer of the free run over the official test record (level 4) without its first 50
samples, from which the initial state is estimated; training records are periods of levels 3 and 5 around it. Linear,
free and contracting models, all started at a subspace model that sees many oscillations of the lightly damped
structure, all refined by Levenberg-Marquardt on whole records for as many steps. Published results use more levels than
these, so the aim is to be better than the refined linear model.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import numpy as np

from controlrnn.data import Dataset, benchmarks
from controlrnn.identification import identify_subspace, score
from controlrnn.models import LTI, ContractingR2DN, ResidualRNN
from controlrnn.systems import LureSystem
from experiments.shared.identification import (
    certified_rate,
    comparison,
    errors_of,
    medians,
    networks,
    run_of,
    whole_record_options,
)
from experiments.shared.study import Row, Study

SKIP = 50
PERIOD = 8192
NX, HORIZON = 12, 80
FAMILIES = {
    "linear": lambda seed: LTI(nu=1, ny=3, nx=NX, feedthrough=True, seed=seed),
    "residual": lambda seed: ResidualRNN(nu=1, ny=3, nx=NX, nv=8, feedthrough=True, seed=seed),
    "contracting_r2dn": lambda seed: ContractingR2DN(nu=1, ny=3, nx=NX, nv=4, layers=(8,), feedthrough=True, seed=seed),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("f16", __doc__, arguments)
    data = benchmarks.load("f16")
    length = 2048 if study.quick else PERIOD
    fitted = Dataset(tuple(r[2 * PERIOD : 2 * PERIOD + length] for r in data.train), data.validation)
    linear = identify_subspace(fitted.train, NX, horizon=HORIZON).system
    scored = Dataset(fitted.train, data.validation, data.test)
    values = {"model": "subspace", "nx": NX, "nv": 0, "certified_rate": certified_rate(linear)}
    study.row("subspace", lambda: values | errors_of(linear, scored, SKIP) | by_sensor(linear, data))
    options = whole_record_options(dict.fromkeys(FAMILIES, 5 if study.quick else 40), start_horizon=HORIZON)
    fits = networks(study, scored, fitted, FAMILIES, skip=SKIP, seeds=1 if study.quick else 2, options=options)
    sensors = {name: by_sensor(fit.system, data) for name, fit in fits.items()}
    summary = {name: medians(study, name) | sensors[name] for name in FAMILIES}
    baseline = min(study.rows[0]["test_rmse"], summary["linear"]["test_rmse"]["median"])
    for name in [name for name in FAMILIES if name != "linear"]:
        reached = summary[name]["test_rmse"]["median"]
        study.target(f"{name}_better_than_linear", f"< {baseline:.3g} m/s2", reached, reached < baseline)
    systems = {"subspace": linear} | {name: fit.system for name, fit in fits.items()}
    (test,) = data.test
    runs = {model: run_of(system, test, SKIP) for model, system in systems.items()}
    study.figure("test_record", comparison(test, runs, skip=SKIP, most=800))
    return study.finish(summary=summary)


def by_sensor(system: LureSystem, data: Dataset) -> Row:
    """RMSE of every accelerometer on the test record."""
    errors = score(system, data.test, skip=SKIP, estimate=True).rmse
    return {f"sensor{i + 1}": float(e) for i, e in enumerate(np.asarray(errors))}


if __name__ == "__main__":
    sys.exit(main())
