"""Identification on the Wiener-Hammerstein benchmark 2009: a diode between two filters, measured data, official score.

Score: RMSE [mV] of the free run over the last 78800 samples without their first 50, from which the initial state is
estimated. Linear, free and contracting models with the six states of the two filters, started at a subspace model,
Levenberg-Marquardt on a stretch of the training record.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from controlrnn.models import LTI, ContractingR2DN, ResidualRNN
from experiments.shared.benchmark import Benchmark
from experiments.shared.identification import comparison, run_of
from experiments.shared.study import Study

TARGET = 1.0  # [mV]
CASE = Benchmark(
    name="wiener_hammerstein",
    skip=50,
    samples=(3000, 20000),
    orders=(4, 6, 8),
    strictly_proper=True,
    families={
        "linear": lambda seed: LTI(nu=1, ny=1, nx=6, seed=seed),
        "residual": lambda seed: ResidualRNN(nu=1, ny=1, nx=6, nv=10, seed=seed),
        "contracting_r2dn": lambda seed: ContractingR2DN(nu=1, ny=1, nx=6, nv=2, layers=(10,), seed=seed),
    },
    iterations={"linear": 60, "residual": 100, "contracting_r2dn": 200},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line(CASE.name, __doc__, arguments)
    data, systems, summary = CASE.run(study)
    reached = summary["residual"]["test_rmse"]["median"]
    study.target("test_rmse", f"<= {TARGET} mV", reached, reached <= TARGET)
    (test,) = data.test
    runs = {model: run_of(system, test, CASE.skip) for model, system in systems.items() if model != "arx"}
    study.figure("test_record", comparison(test, runs, skip=CASE.skip, most=600))
    return study.finish(summary=summary)


if __name__ == "__main__":
    sys.exit(main())
