"""Realised coverage of statistical promises, where they are made and where their premises are broken.

Every repetition calibrates anew and looks at one fresh record, step or closed loop, so that repetitions are independent
and hits are binomial. A promise p counts as broken if so few hits have probability < 1 % / (number of promised rows)
under p (exact one-sided binomial test, Bonferroni). Rows without a promise show what happens outside of its conditions;
there, what was calibrated has to say itself that it promises nothing or less.

Records: a model plus an error that wanders (AR(1), 0.97 per sample), of a size that differs from record to record in
the rows called heavy. Closed loops: `experiments.coverage.loops`, where experiments never build up a slow mode that
the controller does.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.signal import lfilter
from scipy.stats import binom

from controlrnn.data import Trajectory
from controlrnn.errors import CertificationError
from experiments.coverage.loops import STEPS, FastLoops, experiment, first_order
from experiments.shared.study import Row, Study
from mpc import (
    CalibrationMethod,
    CoverageUnit,
    DisturbanceFilter,
    LoopEffort,
    LoopTarget,
    ModelError,
    Operation,
    Premises,
    calibrate,
    calibrate_closed_loop,
    calibration_errors,
    clopper_pearson,
    no_tightening,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SYSTEM, LENGTH, WASHOUT, HORIZON = first_order(0.5), 60, 8, 6
LEVEL = 0.01  # of all promised rows together
SET: dict[str, Any] = {"horizon": HORIZON, "washout": WASHOUT}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("coverage", __doc__, arguments)
    repetitions = 100 if study.quick else 1000
    for case in cases():
        run(study, case, repetitions)
    tested = judge(study)
    broken = [name for name, kept in tested.items() if not kept]
    study.target("promised rows whose promise is broken", 0, len(broken), not broken)
    silent = [r["case"] for r in study.rows if r["promised"] is None and not r["says_so"]]
    study.target("rows without a promise that do not say so", 0, len(silent), not silent)
    study.figure("coverage", figure(study.rows))
    return study.finish(level=LEVEL, kept=tested)


@dataclass(frozen=True)
class Outcome:
    """Outcome of one repetition.

    Args:
        inside: Whether the fresh record or loop was inside.
        promised: Probability promised; None: nothing.
        says: Whether what was calibrated says of itself what it promises.
        accepted: Whether there was anything to promise for: a calibration in closed loop may accept no controller.
    """

    inside: bool
    promised: float | None
    says: bool
    accepted: bool = True


@dataclass(frozen=True)
class Case:
    """One row of the study: what is varied, and its trial.

    Args:
        name: What is varied.
        trial: One repetition, from a generator.
    """

    name: str
    trial: Callable[[np.random.Generator], Outcome]


def cases() -> Iterator[Case]:
    """Yield all rows of the study."""
    for heavy in (False, True):
        for n, coverage in ((9, 0.9), (19, 0.9), (19, 0.95), (10, 0.7)):
            trial = functools.partial(record_trial, n=n, coverage=coverage, heavy=heavy)
            yield Case(f"{n} records, coverage {coverage:g}{', heavy' if heavy else ''}", trial)
    for times in (2, 4, 16):
        yield Case(f"{times} times the length", functools.partial(record_trial, n=39, coverage=0.95, times=times))
    yield Case("16 times the length, fewer records", functools.partial(record_trial, n=19, coverage=0.9, times=16))
    for times in (1, 4, 16):
        yield Case(f"single step, {times} times the length", functools.partial(step_trial, n=19, times=times))
    for missing in (0.1, 0.3, 0.6):
        yield Case(
            f"{missing:g} missing, calibrated without", functools.partial(missing_trial, missing=missing, known=0.0)
        )
        yield Case(
            f"{missing:g} missing, calibrated with", functools.partial(missing_trial, missing=missing, known=missing)
        )
    for n, confidence in ((10, None), (22, None), (22, 0.9), (59, 0.95)):
        name = "on average only" if confidence is None else f"confidence {confidence:g}"
        yield Case(f"this set of {n} records, {name}", functools.partial(set_trial, n=n, confidence=confidence))
    yield Case("largest of 19 records", functools.partial(record_trial, n=19, coverage=None))
    yield Case("closed loop, calibrated on experiments", functools.partial(experiment_trial, n=19))
    yield Case(
        "closed loop, calibrated on its own loops: limits", functools.partial(loop_trial, target=LoopTarget.LIMITS)
    )
    yield Case(
        "closed loop, calibrated on its own loops: predictions",
        functools.partial(loop_trial, target=LoopTarget.PREDICTIONS),
    )
    yield Case(
        "closed loop, limits, confidence 0.9",
        functools.partial(loop_trial, target=LoopTarget.LIMITS, confidence=0.9),
    )


def run(study: Study, case: Case, repetitions: int) -> Row:
    """Repeat one case with independent random streams, so that rows do not depend on each other."""

    def compute() -> Row:
        seeds = np.random.SeedSequence([study.seed, *case.name.encode()]).spawn(repetitions)
        found = [case.trial(np.random.default_rng(s)) for s in study.progress(seeds, case.name)]
        hits, promised = sum(f.inside for f in found), {f.promised for f in found}
        assert len(promised) == 1  # the promise depends on the settings alone
        low, high = clopper_pearson(hits, repetitions)
        return {
            "promised": promised.pop(), "realised": hits / repetitions, "hits": hits, "repetitions": repetitions,
            "lower": low, "upper": high, "says_so": all(f.says for f in found),
            "accepted": float(np.mean([f.accepted for f in found])),
        }  # fmt: skip

    return study.row(case.name, compute, needs=repetitions)


def judge(study: Study) -> dict[str, bool]:
    """Test whether each promise is compatible with what happened."""
    promised = [r for r in study.rows if r["promised"] is not None]
    return {
        r["case"]: bool(binom.cdf(r["hits"], r["repetitions"], r["promised"]) >= LEVEL / len(promised))
        for r in promised
    }


def record(rng: np.random.Generator, *, length: int = LENGTH, heavy: bool = False) -> Trajectory:
    """Record of the model under random inputs plus a stationary error, of random size where it is ``heavy``."""
    u = rng.uniform(-1, 1, (length, 1))
    pushes, keep = rng.standard_normal(length), 0.97
    pushes[1:] *= np.sqrt(1 - keep**2)
    e = lfilter([1.0], [1.0, -keep], pushes)
    size = np.exp(rng.standard_normal()) if heavy else 1.0
    return Trajectory(u=u, y=lfilter([0.0, 0.5], [1.0, -0.5], u, axis=0) + size * e[:, None], dt=1.0)


def record_trial(
    rng: np.random.Generator, *, n: int, coverage: float | None, heavy: bool = False, times: int = 1
) -> Outcome:
    """Trial: a whole record, as long as the others or longer; without a coverage the largest error of all."""
    made = [record(rng, heavy=heavy) for _ in range(n + 3)]
    if coverage is None:
        found = calibrate(SYSTEM, made[3:], method=CalibrationMethod.SET_MEMBERSHIP, **SET)
    else:
        found = calibrate(SYSTEM, made[3:], scale_trajectories=made[:3], coverage=coverage, **SET)
    starts = found.starts * times
    fresh = record(rng, length=starts + WASHOUT + HORIZON, heavy=heavy)
    inside = found.coverage_on(SYSTEM, [fresh])
    promised = found.coverage_over(starts)
    return Outcome(inside.trajectories == 1.0, promised or None, times == 1 or bool(inside.differs))


def step_trial(rng: np.random.Generator, *, n: int, times: int) -> Outcome:
    """Trial: one step drawn at random."""
    made = [record(rng) for _ in range(n + 3)]
    found = calibrate(SYSTEM, made[3:], scale_trajectories=made[:3], coverage=0.9, unit=CoverageUnit.STEP, **SET)
    errors = calibration_errors(SYSTEM, record(rng, length=LENGTH * times), **SET)
    drawn = errors[rng.integers(len(errors))]
    return Outcome(bool((np.abs(drawn) <= found.bounds).all()), found.coverage_over(1), "at random" in found.promise)


def missing_trial(rng: np.random.Generator, *, missing: float, known: float) -> Outcome:
    """Trial: a record with missing readings, during which the disturbance estimate goes stale."""
    made, filtered = [record(rng) for _ in range(22)], DisturbanceFilter(0.8)
    operation = Operation(missing=known, seed=int(rng.integers(2**31)))
    found = calibrate(
        SYSTEM, made[3:], scale_trajectories=made[:3], coverage=0.9, disturbance=filtered, operation=operation, **SET
    )
    now = Operation(missing=missing, seed=int(rng.integers(2**31)))
    inside = found.coverage_on(SYSTEM, [record(rng)], operation=now)
    promised = found.coverage if known == missing else None
    return Outcome(inside.trajectories == 1.0, promised, bool(inside.differs) == (known != missing))


@functools.cache
def _pool() -> tuple[ModelError, list[Trajectory], np.ndarray[Any, Any]]:
    """Records with their scores in the scale of a few others, on which a set's coverage is measured."""
    rng = np.random.default_rng(0)
    scale = [record(rng) for _ in range(3)]
    base = calibrate(SYSTEM, [record(rng) for _ in range(9)], scale_trajectories=scale, coverage=0.9, **SET)
    pool = [record(rng) for _ in range(8000)]
    scores = [np.abs(calibration_errors(SYSTEM, r, **SET) / base.bounds).max() for r in pool]
    return base, scale, np.sort(scores)


def set_trial(rng: np.random.Generator, *, n: int, confidence: float | None) -> Outcome:
    """Trial: whether this set of records gives a coverage of 0.9, measured on 8000 others."""
    base, scale, scores = _pool()
    made = [record(rng) for _ in range(n)]
    found = calibrate(SYSTEM, made, scale_trajectories=scale, coverage=0.9, confidence=confidence, **SET)
    share = np.searchsorted(scores, found.bounds.max() / base.bounds.max(), side="right") / len(scores)
    says = "over the choice of the calibration trajectories" in found.promise
    return Outcome(bool(share >= 0.9), confidence, says == (confidence is None))


def experiment_trial(rng: np.random.Generator, *, n: int) -> Outcome:
    """Trial: a closed loop against a bound from experiments in the same range of inputs."""
    system = first_order(0.8)
    made = [experiment(int(rng.integers(2**31))) for _ in range(n + 3)]
    found = calibrate(system, made[3:], scale_trajectories=made[:3], coverage=0.9, horizon=1, washout=0)
    total = no_tightening(system.digest, 1, 1)
    tightening = type(total)(
        model_error=found.bounds,
        reinitialisation=0 * found.bounds,
        input_error=0 * found.bounds,
        disturbance_gain=None,
        promise=found.promise,
        digests=total.digests,
    )
    (loop,) = FastLoops()(tightening, [int(rng.integers(2**31))])
    return Outcome(loop.inside == 1.0, None, "open-loop (not under feedback)" in found.promise)


def loop_trial(rng: np.random.Generator, *, target: LoopTarget, confidence: float | None = None) -> Outcome:
    """Trial: calibrate in closed loop, then run one fresh loop.

    What is not accepted has promised nothing and failed nobody.

    Accepted ones alone are not what is promised: it is that a controller is accepted *and* its next loop fails.
    With a confidence: whether the accepted controller's loops keep as often as 0.9, measured on 400 of them.
    """
    start = no_tightening(first_order(0.8).digest, 1, 1)
    try:
        found = calibrate_closed_loop(
            FastLoops(),
            start,
            seed=int(rng.integers(2**31)),
            target=target,
            coverage=0.9,
            confidence=confidence,
            premises=Premises(system=start.digests["system"], dt=1.0, observer={"kind": "the model run alone"}),
            effort=LoopEffort(loops=58 if confidence else None),
        )
    except CertificationError:
        return Outcome(inside=True, promised=confidence or 0.9, says=True, accepted=False)

    def keeps(count: int) -> float:
        loops = FastLoops()(found.tightening, [int(s) for s in rng.integers(2**31, size=count)])
        return float(np.mean([r.violations == 0 if target is LoopTarget.LIMITS else r.inside == 1.0 for r in loops]))

    says = found.starts == STEPS and f"{STEPS} steps" in found.promise
    return Outcome(keeps(1) == 1.0 if confidence is None else keeps(400) >= 0.9, confidence or 0.9, says)


def figure(rows: Sequence[Row]) -> Figure:
    """Plot realised shares with their intervals against what is promised."""
    from matplotlib.figure import Figure

    drawn = Figure(figsize=(9, 0.32 * len(rows) + 1), layout="constrained")
    panel = drawn.subplots()
    at = np.arange(len(rows))
    for i, row in zip(at, rows, strict=True):
        colour = "0.6" if row["promised"] is None else "C0"
        panel.plot([row["lower"], row["upper"]], [i, i], color=colour, lw=3)
        panel.plot(row["realised"], i, "o", color=colour, ms=4)
        if row["promised"] is not None:
            panel.plot(row["promised"], i, "|", color="C3", ms=12, mew=2)
    panel.set_yticks(at, [r["case"] for r in rows], fontsize="small")
    panel.set(xlabel="share of repetitions inside; red: promised; grey: nothing is promised", xlim=(0, 1.01))
    panel.invert_yaxis()
    panel.grid(axis="x", alpha=0.3)
    return drawn
