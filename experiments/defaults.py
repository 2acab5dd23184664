"""`identify_best` without options, against ARX, subspace models and the models that our studies tuned by hand.

Each data set gets the same budget of processor time and nothing else: no size, no order, no option. Score: RMSE of the
free run over the official test records, mean over outputs and records, after the samples that the search leaves out,
from which the initial state is estimated. For the hand-tuned models the figure is what their own study writes, where it
has been run (its folder of results), scored as there; they had more time, several seeds and a person.

Aims: at least as good as the best of the three within 10 %, never worse than ARX.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from controlrnn.data import Dataset, benchmarks
from controlrnn.errors import MissingDataError
from controlrnn.identification import BestFit, TqdmProgress, identify_best
from experiments import four_carts
from experiments.shared.study import Row, Study
from experiments.three_tank import stages
from experiments.three_tank.config import Config

BUDGET = 180.0  # [s] of processor time, for each data set
# Test error of the models that a study tuned by hand: its folder under runs/, the families, the column.
TUNED = {
    "cascaded_tanks": ("cascaded_tanks", ("residual", "contracting_r2dn"), ("test_rmse",)),
    "silverbox": ("silverbox", ("residual", "contracting_r2dn"), ("test1_rmse", "test2_rmse", "test3_rmse")),
    "wiener_hammerstein": ("wiener_hammerstein", ("residual", "contracting_r2dn"), ("test_rmse",)),
    "f16": ("f16", ("residual", "contracting_r2dn"), ("test_rmse",)),
}
UNITS = {"silverbox": 1e3, "wiener_hammerstein": 1e3}  # [mV]
ROOM = 1.1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("defaults", __doc__, arguments)
    budget = 4.0 if study.quick else BUDGET
    for name, load in DATA.items():
        try:
            data = load(study)
        except MissingDataError as missing:
            study.say(f"{name}: left out, {missing}")
            continue
        row = study.row(name, lambda n=name, d=data: fitted(study, n, d, budget), needs=budget)  # type: ignore[misc]
        judge(study, name, row)
    return study.finish()


def fitted(study: Study, name: str, data: Dataset, budget: float) -> Row:
    """Row of one data set: the search, its choice and its baselines on the test records."""
    began, wall = time.process_time(), time.perf_counter()
    fit = identify_best(
        data,
        budget=budget,
        clock="processor",
        seed=study.seed,
        folder=study.path(f"search_{name}"),
        callbacks=[TqdmProgress(name)],
    )
    spent, passed = time.process_time() - began, time.perf_counter() - wall
    study.say(f"{name}\n{fit}")
    study.figure(f"{name}_test", fit.plot(data.test[0][:2000]))
    study.figure(f"{name}_search", fit.plot_search())
    unit = UNITS.get(name, 1.0)
    errors = {f"{e.name}_rmse": unit * error(fit, e.name, data) for e in fit.entries}
    certified = fit.certified
    return errors | {
        "chosen": fit.chosen, "chosen_rmse": unit * error(fit, fit.chosen, data), "nx": fit.system.nx,
        "nv": fit.system.nv, "candidates": len(fit.trials), "skip": fit.skip, "feedthrough": fit.feedthrough,
        "certified_rate": None if certified is None or certified.contraction is None else certified.contraction.rate,
        "processor_seconds": spent, "wall_seconds": passed, "reason": fit.reason,
    }  # fmt: skip


def error(fit: BestFit, name: str, data: Dataset) -> float:
    """RMSE of one entry, mean over outputs and over test records."""
    runs = [(record.y, fit.simulate(record, name)) for record in data.test]
    return float(np.mean([np.sqrt(np.mean(np.square(y - run)[fit.skip :], axis=0)).mean() for y, run in runs]))


def judge(study: Study, name: str, row: Row) -> None:
    """Targets of one data set."""
    linear = {n: row[f"{n}_rmse"] for n in ("arx", "subspace") if row.get(f"{n}_rmse") is not None}
    tuned = by_hand(name)
    known = linear | ({} if tuned is None else {"tuned": tuned})
    best = min(known, key=lambda n: known[n])
    reached = row["chosen_rmse"]
    study.target(f"{name}_as_good", f"<= {ROOM:g} x {best} {known[best]:.4g}", reached, reached <= ROOM * known[best])
    if "arx" in linear:
        study.target(f"{name}_arx", f"<= arx {linear['arx']:.4g}", reached, reached <= linear["arx"])


def by_hand(name: str) -> float | None:
    """Lowest median test error of the families that a study tuned by hand; None where it has not been run."""
    if name not in TUNED:
        return None
    folder, families, columns = TUNED[name]
    path = Path("runs") / folder / "results.json"
    if not path.is_file():
        return None
    rows: list[dict[str, Any]] = json.loads(path.read_text())["rows"]
    found = []
    for family in families:
        own = [np.mean([r[c] for c in columns]) for r in rows if r.get("model") == family and columns[0] in r]
        found += [float(np.median(own))] if own else []
    return min(found, default=None)


def three_tanks(study: Study) -> Dataset:
    """Records of the three-tank study."""
    return stages.experiments(Config.of(study.quick), study.seed)


DATA: dict[str, Callable[[Study], Dataset]] = {
    "cascaded_tanks": lambda _: benchmarks.load("cascaded_tanks"),
    "three_tanks": three_tanks,
    "four_carts": four_carts.experiments,
    "wiener_hammerstein": lambda _: benchmarks.load("wiener_hammerstein"),
    "silverbox": lambda _: benchmarks.load("silverbox"),
    "f16": lambda _: benchmarks.load("f16"),
}


if __name__ == "__main__":
    sys.exit(main())
