"""Identification on the Wiener-Hammerstein benchmark 2009: a diode between two filters, measured data, official score.

Score: RMSE [mV] of the free run over the last 78800 samples without their first 50, from which the initial state is
estimated. Linear, free and contracting models with the six states of the two filters, started at a subspace model,
Levenberg-Marquardt on a stretch of the training record.
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
ORDERS = (4, 6, 8)
TARGET = 1.0  # [mV]
FAMILIES = {
    "linear": lambda seed: LTI(nu=1, ny=1, nx=6, seed=seed),
    "residual": lambda seed: ResidualRNN(nu=1, ny=1, nx=6, nv=10, seed=seed),
    "contracting_r2dn": lambda seed: ContractingR2DN(nu=1, ny=1, nx=6, nv=2, layers=(10,), seed=seed),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("wiener_hammerstein", __doc__, arguments)
    data = benchmarks.load("wiener_hammerstein")
    fitted = Dataset((data.train[0][: 3000 if study.quick else 20000],), data.validation)
    linear = Dataset(fitted.train, data.validation, data.test)
    systems = linear_baselines(study, linear, skip=SKIP, strictly_proper=True, unit=1e3, arx=ORDERS, subspace=ORDERS)
    iterations = dict.fromkeys(FAMILIES, 8) if study.quick else {"linear": 60, "residual": 100, "contracting_r2dn": 200}
    options = whole_record_options(iterations)
    fits = networks(study, data, fitted, FAMILIES, skip=SKIP, seeds=1 if study.quick else 3, unit=1e3, options=options)
    systems |= {name: fit.system for name, fit in fits.items()}
    summary = {name: medians(study, name) for name in FAMILIES}
    reached = summary["residual"]["test_rmse"]["median"]
    study.target("test_rmse", f"<= {TARGET} mV", reached, reached <= TARGET)
    (test,) = data.test
    runs = {model: run_of(system, test, SKIP) for model, system in systems.items() if model != "arx"}
    study.figure("test_record", comparison(test, runs, skip=SKIP, most=600))
    return study.finish(summary=summary)


if __name__ == "__main__":
    sys.exit(main())
