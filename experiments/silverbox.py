"""Identification on the Silverbox: an electronic oscillator with a hardening spring, measured data, official scores.

Score: RMSE [mV] of the free run over three test records without their first 50 samples, from which the initial state is
estimated: a multisine like the training data, an arrow whose amplitude grows beyond them, and the part of the arrow
that does not. Linear, free and contracting models on a stretch of the training multisine, Levenberg-Marquardt on whole
records; beside them the oscillator's own equation with eight parameters, on three stretches of the same length.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

from controlrnn.data import Dataset, Signal
from controlrnn.greybox import Equations, FitOptions, Method, Parameter, fit_equations, trace
from controlrnn.models import LTI, ContractingR2DN, ResidualRNN
from controlrnn.systems import LureSystem
from experiments.shared.benchmark import Benchmark
from experiments.shared.identification import certified_rate, comparison, errors_of, medians, run_of
from experiments.shared.study import Row, Study

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
    systems["physics"] = physics(study, data)
    summary["physics"] = medians(study, "physics")
    for name, (column, aim) in TARGETS.items():
        reached = summary["residual"][column]["median"]
        study.target(f"{name}_rmse", f"<= {aim} mV", reached, reached <= aim)
        known = summary["physics"][column]["median"]
        study.target(f"{name}_rmse_of_physics", f"<= {aim} mV", known, known <= aim)
    for i, name in enumerate(("multisine", "arrow")):
        runs = {model: run_of(system, data.test[i], CASE.skip) for model, system in systems.items() if model != "arx"}
        study.figure(name, comparison(data.test[i], runs, skip=CASE.skip, most=1000 if i == 0 else len(data.test[i])))
    return study.finish(summary=summary)


def oscillator(x: Any, u: Any, p: Any, ops: Any) -> Any:
    """Duffing's equation: position and scaled velocity, each [V], by the second.

    A voltage that moves between samples acts on the position at once, too: ``kick``, with the output's ``direct``,
    stands for how it moves there.
    """
    y, v = ops.columns(x, 0, 1), ops.columns(x, 1, 2)
    square = y * y
    spring = y + p["square"] * square + p["cube"] * square * y
    push = p["gain"] * (u + p["offset"])
    return ops.join([p["omega"] * (v + p["kick"] * u), p["omega"] * (push - spring - p["damping"] * v)])


def equations(dt: float) -> Equations:
    """The oscillator with what is known of it: a resonance of some 70 Hz, little damping, a spring that hardens."""
    return Equations(
        dynamics=oscillator,
        output=lambda x, u, p, ops: ops.columns(x, 0, 1) + p["direct"] * u,
        states=[Signal("position", "V", -0.5, 0.5), Signal("velocity", "V", -0.5, 0.5)],
        inputs=[Signal("voltage", "V", -0.2, 0.2)],
        parameters=[
            Parameter("omega", 440.0, 100.0, 1000.0, unit="1/s"),
            Parameter("damping", 0.05, 0.001, 0.5),
            Parameter("square", 0.0, -3.0, 3.0, unit="1/V"),
            Parameter("cube", 4.0, 0.0, 30.0, unit="1/V2"),
            Parameter("gain", 1.0, 0.0, 5.0),
            Parameter("offset", 0.0, -0.1, 0.1, unit="V"),
            Parameter("kick", 0.0, -3.0, 3.0),
            Parameter("direct", 0.0, -1.0, 1.0),
        ],
        dt=dt,
        substeps=1,
        method=Method.RK4,
    )


def physics(study: Study, data: Dataset) -> LureSystem:
    """Fit the equation to three stretches, a row each; returns the first one's system."""
    (record,), length = data.train, CASE.samples[0 if study.quick else 1]

    def fitted(k: int) -> Row:
        stretch = record[k * length : (k + 1) * length]
        fit = fit_equations(equations(record.dt), [stretch], FitOptions(deviation=[1e-3]))  # 1 mV
        row: Row = {"model": "physics", "nx": fit.system.nx, "nv": fit.system.nv, "values": fit.values}
        row |= {"deviations": fit.deviations, "certified_rate": certified_rate(fit.system)}
        return row | errors_of(fit.system, Dataset((stretch,), data.validation, data.test), CASE.skip, unit=1e3)

    rows = [study.row(f"physics_{k}", partial(fitted, k)) for k in range(1 if study.quick else 3)]
    return trace(equations(record.dt), rows[0]["values"]).system


if __name__ == "__main__":
    sys.exit(main())
