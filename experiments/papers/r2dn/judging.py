"""Claims of the R2DN paper, decided by measured times and trained models."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import numpy as np

from experiments.bench_scan import equal_size
from experiments.papers.claims import Claim, Decision, claimed, decide, decide_all, joined
from experiments.papers.r2dn.timing import R2DN_SIZES, REN_SIZES
from experiments.shared.study import Row

PAPER = "R2DN"
SPEED_UP = {"F-16": 5.05, "observer": 1.35, "feedback": 10.4}  # total training time, figures of the paper's code
LOSS = {"F-16": (0.523, 0.613), "observer": (8.3e-6, 6.3e-6), "feedback": (1.268, 1.270)}  # REN, R2DN
SLOPES = {"training": (0.61, 0.098), "inference": (0.63, 0.073)}  # backward and forward over 1 / NRMSE
GROWN = {  # (records, samples) of a batch over which times grow
    "batch": ((1, 256), (4, 256), (16, 256)), "length": ((16, 64), (16, 256), (16, 1024)),
}  # fmt: skip
_NEAR = 1.2
_SLOPE = 0.01  # difference of slopes that is none
_PATHS = ("fused", "eager")
Trained = Mapping[str, Mapping[str, Sequence[Row]]]
_claim = partial(claimed, PAPER)


def claims(
    times: Mapping[str, Row], trained: Trained, sizes: Mapping[tuple[int, int], Row], scaled: Row, *, short: bool
) -> list[Claim]:
    """Decide the paper's claims; losses are open after a short training."""
    return [
        *_speed(times), *_sizes(sizes), *_grown(sizes), *_growth(scaled), *_losses(trained, short=short),
        *_certificates(trained),
    ]  # fmt: skip


def _speed(times: Mapping[str, Row]) -> Iterator[Claim]:
    """Training and inference of the three tasks, a value a turn."""
    for task, row in times.items():
        for what in ("training", "inference"):
            published = f"{SPEED_UP[task]} times on a GPU" if what == "training" else "faster (abstract)"
            for path in _PATHS:
                ren, r2dn = (np.array(row[f"{what}_{path}_{kind}"]) for kind in ("ren", "r2dn"))
                yield _claim(
                    f"{task}: {what} is faster than with REN ({path})",
                    published,
                    ren / r2dn,
                    decide(np.log(ren / r2dn)),
                    "times",
                    f"REN {np.median(ren):.3g} ms, R2DN {np.median(r2dn):.3g} ms a batch, one thread's time",
                )
        yield _claim(
            f"{task}: training is faster on a GPU",
            f"{SPEED_UP[task]} times",
            [],
            Decision.NOT_DECIDED,
            "",
            "no GPU at hand",
        )


def _sizes(sizes: Mapping[tuple[int, int], Row]) -> Iterator[Claim]:
    """Gradients by all matrices at the four sizes of the F-16 benchmark."""
    for records, samples in equal_size.SIZES:
        row = sizes[records, samples]
        yield _claim(
            f"at least as fast as REN on the fused scan, F-16 size, {records} records of {samples} samples",
            "faster (abstract)",
            row["ratio"],
            decide(np.log(row["ratio"])),
            "times",
            f"REN {np.median(row['ren_ms']):.3g} ms, R2DN {np.median(row['r2dn_ms']):.3g} ms a gradient",
        )


def _grown(sizes: Mapping[tuple[int, int], Row]) -> Iterator[Claim]:
    """Slope of log time of a gradient over log batch size, and over log length, a value a round."""
    for name, shapes in GROWN.items():
        at = [records if name == "batch" else samples for records, samples in shapes]
        ren, r2dn = (
            _slopes(at, np.transpose([sizes[shape][f"{kind}_ms"] for shape in shapes]).tolist())
            for kind in ("ren", "r2dn")
        )
        yield _claim(
            f"time of a gradient grows less with {name} than REN's (fused)",
            "larger batches and sequences become feasible (abstract)",
            ren - r2dn,
            decide(ren - r2dn, error=_SLOPE),
            "difference of log-log slopes",
            f"REN {np.median(ren):.2f}, R2DN {np.median(r2dn):.2f} over {name} {at[0]} to {at[-1]}, F-16 size",
        )


def _growth(scaled: Row) -> Iterator[Claim]:
    """Slope of log time over log 1 / NRMSE, a value a turn, at the published error of each size."""
    for what, (ren, r2dn) in SLOPES.items():
        for path in _PATHS:
            slopes = [
                _slopes([1 / published[n] for n in scaled["sizes"][kind]], scaled[f"{what}_{path}_{kind}"])
                for kind, published in (("ren", REN_SIZES), ("r2dn", R2DN_SIZES))
            ]
            yield _claim(
                f"{what} time grows less with expressivity ({path})",
                f"slopes {ren} and {r2dn}",
                slopes[0] - slopes[1],
                decide(slopes[0] - slopes[1]),
                "difference of log-log slopes",
                f"REN {np.median(slopes[0]):.2f}, R2DN {np.median(slopes[1]):.2f} over 1 / NRMSE as published",
            )


def _slopes(expressive: Sequence[float], times: Sequence[Sequence[float]]) -> np.ndarray:
    return np.array([np.polyfit(np.log(expressive), np.log(turn), 1)[0] for turn in times])


def _losses(trained: Trained, *, short: bool) -> Iterator[Claim]:
    """Training and test losses, a ratio a seed."""
    remark = "quick: too few steps to decide" if short else ""
    for task, rows in trained.items():
        for column in ("loss", "test"):
            ren, r2dn = (np.array([row[column] for row in rows[kind]]) for kind in ("ren", "r2dn"))
            decided = decide(np.log(_NEAR) - np.log(r2dn / ren))
            where = "training loss" if column == "loss" else "error on unseen data"
            same = (column == "test") == (task == "feedback")  # where the paper's figure shows it
            yield _claim(
                f"{task}: {where} at most 20 % above REN's",
                f"{LOSS[task][0]:g}, R2DN {LOSS[task][1]:g}" if same else "similar (abstract)",
                r2dn / ren,
                Decision.NOT_DECIDED if short else decided,
                "times",
                joined(f"REN {np.median(ren):.3g}, R2DN {np.median(r2dn):.3g}", remark),
            )


def _certificates(trained: Trained) -> Iterator[Claim]:
    """Contraction of every trained model, proven and verified."""
    for kind in ("ren", "r2dn"):
        rates = [row["rate"] for rows in trained.values() for row in rows[kind]]
        yield _claim(
            f"every trained {kind.upper()} contracts",
            "by construction",
            [r for r in rates if r is not None],
            decide_all([rate is not None for rate in rates]),
            "proven rate",
            f"{len(rates)} trained models, certificates verified in float64",
        )
