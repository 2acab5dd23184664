"""Faulty signals, and plants whose records ask for care: what `check_data` says of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from controlrnn.data import DataReport, Timing, Trajectory, check_data
from experiments.bad_data.case import Case, Ending, refused, right

T = 600


def steps(seed: int, nu: int = 1, hold: tuple[int, int] = (4, 20), length: int = T) -> np.ndarray:
    """Random steps, shape (length, nu)."""
    rng, u = np.random.default_rng(seed), np.empty((length, nu))
    for j in range(nu):
        t = 0
        while t < length:
            n = int(rng.integers(*hold))
            u[t : t + n, j] = rng.uniform(-1, 1)
            t += n
    return u


def run(
    u: np.ndarray, A: Any = ((0.9,),), B: Any = None, C: Any = None, seed: int = 0, noise: float = 0.02
) -> np.ndarray:
    """Outputs of a linear plant, with noise."""
    A = np.asarray(A)
    B = np.full((len(A), u.shape[1]), 0.1) if B is None else np.asarray(B)
    C = np.eye(len(A))[:1] if C is None else np.asarray(C)
    x, y = np.zeros(len(A)), np.empty((len(u), len(C)))
    for t, now in enumerate(u):
        y[t] = C @ x
        x = A @ x + B @ now
    return y + noise * np.random.default_rng([seed, 3]).standard_normal(y.shape)


def seen(
    change: Any = lambda u, y: (u, y), n: int = 4, nu: int = 1, timing: Timing = Timing.MEASURED_FIRST, **plant: Any
) -> Any:
    """Case of a report on records of a plant, changed by ``change``."""

    def report(_: Path) -> DataReport:
        records = []
        for s in range(n):
            u = steps(s, nu)
            u, y = change(u, run(u, seed=s, **plant))
            records.append(Trajectory(u, y, 1.0, name=f"r{s}", timing=timing))
        return check_data(records)

    return report


def says(*pieces: str) -> Any:
    """Check that findings hold all of these words."""

    def check(report: DataReport) -> bool:
        text = "\n".join(str(f) for f in report.findings)
        return all(piece in text for piece in pieces) and len(str(report).splitlines()) <= 20

    return check


def found(kind: str, report: Any, *pieces: str) -> Case:
    """Case whose report has to say these words."""
    return Case(kind, report, Ending.WARNED, pieces, says(*pieces))


def controlled(_: Path) -> DataReport:
    """Records under a proportional controller whose set point moves."""
    records = []
    for s in range(4):
        goal, rng, y, u = steps(s)[:, 0], np.random.default_rng(s), np.zeros(T), np.zeros(T)
        x = 0.0
        for t in range(T):
            y[t] = x + 0.05 * rng.standard_normal()
            u[t] = 2.0 * (goal[t] - y[t])
            x = 0.9 * x + 0.1 * u[t]
        records.append(Trajectory(u[:, None], y[:, None], 1.0, name=f"r{s}"))
    return check_data(records)


def held(y: np.ndarray) -> np.ndarray:
    """Outputs of which a stretch hangs at the value before it."""
    y = y.copy()
    y[200:290] = y[200]
    return y


def sine(_: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """One sine in place of the input."""
    u = np.sin(0.3 * np.arange(T) + y[0, 0])[:, None]
    return u, run(u) + 0.02 * (y - y.mean())


def slow(u: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Three long steps, of a plant that has long settled when the next one comes."""
    u = np.repeat(u[::60][:6], 100, axis=0)
    return u, run(u, A=[[0.3]], B=[[0.7]]) + 0.02 * (y - y.mean())


def bend(u: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A valve that is not linear."""
    return u, run(np.sign(u) * u**2, noise=0.005) + 0.001 * y


LAG: dict[str, Any] = {"A": [[0.9, 0.0], [0.0, 0.7]], "B": [[0.1], [0.3]], "C": [[3.0, -1.5]]}  # first the wrong way
CASES: list[Case] = [
    right(
        "good records of a first-order plant",
        seen(),
        lambda r: (
            not r.findings
            and r.dynamics.order == 1
            and abs(r.dynamics.gains[0, 0] - 1) < 0.1
            and abs(r.dynamics.time_constants[0, 0] - 9.5) < 1.5
        ),
    ),
    found("an input that never moves", seen(lambda u, y: (np.hstack([u, 0 * u + 3]), y)), "u2 never moves", "no gain"),
    found("inputs that move together", seen(lambda u, y: (np.hstack([u, 2 * u + 1]), y)), "u1 and u2 move together"),
    found(
        "inputs that all but move together",
        seen(lambda u, y: (np.hstack([u, 2 * u + 1e-5 * steps(9)]), y)),
        "u1 and u2 move together",
    ),
    found(
        "three inputs of which one is a mix of the others",
        seen(lambda u, y: (np.hstack([u, u[:, :1] - u[:, 1:]]), y), nu=2),
        "u1 and u2 and u3 move together",
    ),
    found("no input moves", seen(lambda u, y: (0 * u, y)), "never move: the data hold nothing"),
    found(
        "an input that nothing answers to", seen(lambda u, y: (np.hstack([u, steps(77)]), y)), "u2 is not seen to act"
    ),
    found("an input that is one sine", seen(sine), "u1 excites 2 coefficients", "random steps"),
    found("an input that moves too slowly", seen(slow), "u1", "move it faster"),
    found("an output that never moves", seen(lambda u, y: (u, np.hstack([y, 0 * y + 7.3]))), "y2 never moves from 7.3"),
    found(
        "an output that is clipped", seen(lambda u, y: (u, np.clip(y, -0.25, 0.25))), "largest value 0.25", "clipped"
    ),
    found("an output that hung", seen(lambda u, y: (u, held(y))), "stuck"),
    found("an output of coarse steps", seen(lambda u, y: (u, np.round(y / 0.2) * 0.2)), "reads in steps of 0.2"),
    found("two outputs that are one", seen(lambda u, y: (u, np.hstack([y, 3 * y + 1]))), "y1 and y2 are one signal"),
    found("records under feedback", controlled, "recorded under feedback"),
    found(
        "an output that answers at once to an input that acts later",
        seen(lambda u, y: (u, y + 0.5 * u)),
        "answers to u1 of the same sample",
        "input_first",
    ),
    right(
        "the same, where it is said that the input acts first",
        seen(lambda u, y: (u, y + 0.5 * u), timing=Timing.INPUT_FIRST),
        lambda r: bool(r.dynamics.direct[0, 0]) and not r.faults,
    ),
    found("a dead time", seen(lambda u, y: (u, np.vstack([np.zeros((6, 1)), y[:-6]])), noise=0.005), "dead time of 6"),
    found("an integrator", seen(A=[[1.0]], noise=0.005), "integrates, or forgets too slowly"),
    found("a plant that first goes the wrong way", seen(**LAG), "first goes the wrong way"),
    found("a bend", seen(bend), "is not linear"),
    found(
        "records that are shorter than the plant's memory",
        seen(lambda u, y: (u[:60], y[:60]), n=30, A=[[0.99]], noise=0.002),
        "forgets too slowly to tell",
    ),
    found(
        "much that is missing",
        seen(lambda u, y: (u, np.where(np.arange(T)[:, None] % 10 == 3, np.nan, y))),
        "10 % of the samples are missing",
    ),
    refused(
        "too few samples to look at",
        lambda _: check_data(Trajectory(steps(0, hold=(2, 3))[:12], steps(1)[:12], 1.0)),
        "record more",
    ),
    refused(
        "records of different plants to look at",
        lambda _: check_data([Trajectory(steps(0), steps(1), 1.0), Trajectory(steps(0, 2), steps(1), 1.0)]),
        "by plant",
    ),
]
