"""Identification on the Silverbox: an electronic oscillator with a hardening spring, measured data, official scores.

Score: RMSE [mV] of the free run over three test records without their first 50 samples, from which the initial state is
estimated: a multisine like the training data, an arrow whose amplitude grows beyond them, and the part of the arrow
that does not. Linear, free and contracting models on a stretch of the training multisine, Levenberg-Marquardt on whole
records.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from controlrnn.data import Dataset, benchmarks
from controlrnn.models import LTI, ContractingR2DN, ResidualRNN
from experiments.shared.identification import (
    comparison,
    linear_baselines,
    medians,
    networks,
    run_of,
    whole_record_options,
)
from experiments.shared.study import Study

SKIP = 50
ORDERS = (2, 3, 4)
TARGETS = {"multisine": ("test1_rmse", 1.0), "arrow": ("test2_rmse", 2.0)}  # [mV]
FAMILIES = {
    "linear": lambda seed: LTI(nu=1, ny=1, nx=2, feedthrough=True, seed=seed),
    "residual": lambda seed: ResidualRNN(nu=1, ny=1, nx=2, nv=8, feedthrough=True, seed=seed),
    "contracting_r2dn": lambda seed: ContractingR2DN(nu=1, ny=1, nx=2, nv=2, layers=(10,), feedthrough=True, seed=seed),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("silverbox", __doc__, arguments)
    data = benchmarks.load("silverbox")
    fitted = Dataset((data.train[0][: 2048 if study.quick else 16384],), data.validation)
    linear = Dataset(fitted.train, data.validation, data.test)
    systems = linear_baselines(study, linear, skip=SKIP, strictly_proper=False, unit=1e3, arx=ORDERS, subspace=ORDERS)
    iterations = dict.fromkeys(FAMILIES, 8) if study.quick else {"linear": 60, "residual": 60, "contracting_r2dn": 200}
    options = whole_record_options(iterations)
    fits = networks(study, data, fitted, FAMILIES, skip=SKIP, seeds=1 if study.quick else 3, unit=1e3, options=options)
    systems |= {name: fit.system for name, fit in fits.items()}
    summary = {name: medians(study, name) for name in FAMILIES}
    for name, (column, aim) in TARGETS.items():
        reached = summary["residual"][column]["median"]
        study.target(f"{name}_rmse", f"<= {aim} mV", reached, reached <= aim)
    for i, name in enumerate(("multisine", "arrow")):
        runs = {model: run_of(system, data.test[i], SKIP) for model, system in systems.items() if model != "arx"}
        study.figure(name, comparison(data.test[i], runs, skip=SKIP, most=1000 if i == 0 else len(data.test[i])))
    return study.finish(summary=summary)


if __name__ == "__main__":
    sys.exit(main())
