"""Identification on the Silverbox: an electronic oscillator with a hardening spring, measured data, official scores.

Score: RMSE [mV] of the free run over three test records without their first 50 samples, from which the initial state is
estimated: a multisine like the training data, an arrow whose amplitude grows beyond them, and the part of the arrow
that does not. Linear, free and contracting models on a stretch of the training multisine, Levenberg-Marquardt on whole
records.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from controlrnn.models import LTI, ContractingR2DN, ResidualRNN
from experiments.shared.benchmark import Benchmark
from experiments.shared.identification import comparison, run_of
from experiments.shared.study import Study

TARGETS = {"multisine": ("test1_rmse", 1.0), "arrow": ("test2_rmse", 2.0)}  # [mV]
CASE = Benchmark(
    name="silverbox",
    skip=50,
    samples=(2048, 16384),
    orders=(2, 3, 4),
    strictly_proper=False,
    families={
        "linear": lambda seed: LTI(nu=1, ny=1, nx=2, feedthrough=True, seed=seed),
        "residual": lambda seed: ResidualRNN(nu=1, ny=1, nx=2, nv=8, feedthrough=True, seed=seed),
        "contracting_r2dn": lambda seed: ContractingR2DN(
            nu=1, ny=1, nx=2, nv=2, layers=(10,), feedthrough=True, seed=seed
        ),
    },
    iterations={"linear": 60, "residual": 60, "contracting_r2dn": 200},
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line(CASE.name, __doc__, arguments)
    data, systems, summary = CASE.run(study)
    for name, (column, aim) in TARGETS.items():
        reached = summary["residual"][column]["median"]
        study.target(f"{name}_rmse", f"<= {aim} mV", reached, reached <= aim)
    for i, name in enumerate(("multisine", "arrow")):
        runs = {model: run_of(system, data.test[i], CASE.skip) for model, system in systems.items() if model != "arx"}
        study.figure(name, comparison(data.test[i], runs, skip=CASE.skip, most=1000 if i == 0 else len(data.test[i])))
    return study.finish(summary=summary)


if __name__ == "__main__":
    sys.exit(main())
