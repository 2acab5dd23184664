"""Records: copies, overlaps, missing samples on the whole way, one record for everything."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from controlrnn.data import Dataset, Trajectory
from controlrnn.identification import SimulationError, identify, identify_arx, identify_subspace, score
from controlrnn.models import LTI
from controlrnn.systems import LureSystem
from experiments.bad_data.case import Case, refused, right, warned
from mpc import ModelError, calibrate

PLANT = LureSystem(
    A=np.array([[0.8]]), B1=np.zeros((1, 0)), B2=np.array([[0.4]]), bx=np.zeros(1), C1=np.zeros((0, 1)),
    D11=np.zeros((0, 0)), D12=np.zeros((0, 1)), bv=np.zeros(0), C2=np.eye(1), D21=np.zeros((1, 0)),
    D22=np.zeros((1, 1)), by=np.zeros(1), layers=(), dt=1.0,
)  # fmt: skip
SET: dict[str, Any] = {"horizon": 3, "washout": 20}


def record(seed: int, T: int = 200, share: float = 0.0) -> Trajectory:
    """A noisy run of a first-order plant of gain 2, of which a share of the outputs is missing."""
    rng = np.random.default_rng(seed)
    u = np.repeat(rng.uniform(-1, 1, (-(-T // 5), 1)), 5, axis=0)[:T]
    y = PLANT.simulate(u)[0] + 0.05 * rng.standard_normal((T, 1))
    return Trajectory(u, np.where(rng.random((T, 1)) < share, np.nan, y), 1.0, name=f"r{seed}")


FIRST, LONG = record(0), record(99, 2000)
COPY = Trajectory(FIRST.u.copy(), FIRST.y.copy(), 1.0, name="loaded twice")
MANY = [record(s) for s in range(1, 25)]


def calibrated(records: Any, coverage: float = 0.9, **options: Any) -> Any:
    """Case of a calibration on these records."""
    return lambda _: calibrate(PLANT, records, scale_trajectories=MANY[-2:], coverage=coverage, **SET, **options)


def trained(share: float) -> Any:
    """Case of a model from records of which a share of the outputs is missing."""

    def run(_: Any) -> Any:
        data = Dataset(tuple(record(s, share=share) for s in range(4)), (record(8, share=share),))
        return identify(LTI(nu=1, ny=1, nx=1, seed=0), data, loss=SimulationError(washout=20), steps=60, window=80)

    return run


def fits(fit: Any) -> bool:
    """Whether a model that was identified simulates the plant."""
    return bool(score(fit.system, [record(50)], skip=20).fit_percent[0] > 90)


def pieces(_: Any) -> ModelError:
    """A calibration on pieces of one record."""
    data = Dataset.from_record(LONG, (0.3, 0.1, 0.1, 0.5), gap=20, pieces=10)
    return calibrate(PLANT, data.calibration, scale_trajectories=data.validation, coverage=0.9, **SET)


def gains(model: Any) -> Any:
    """Steady gains of a linear model."""
    s = model.system
    return (s.C2 @ np.linalg.solve(np.eye(s.nx) - s.A, s.B2) + s.D22).ravel()


def mixed(second: Any) -> list[Trajectory]:
    """Records with a second input, made from the first one, that does nothing of its own."""
    return [replace(r, u=np.hstack([r.u, second(r.u)]), inputs=()) for r in MANY[:4]]


CASES: list[Case] = [
    warned(
        "a linear model of an input that never moves",
        lambda _: gains(identify_subspace(mixed(lambda u: 0 * u + 3), 1)),
        lambda g: abs(g[0] - 2) < 0.1 and g[1] == 0,
        "gain zero",
    ),
    warned(
        "a linear model of inputs that move together",
        lambda _: gains(identify_arx(mixed(lambda u: u), 1, 1)),
        lambda g: abs(g[0] - 1) < 0.05 and abs(g[1] - 1) < 0.05,
        "gain zero",
    ),
    refused(
        "one record in training and test, loaded twice",
        lambda _: Dataset((FIRST,), test=(COPY,)),
        "'r0' (train)",
        "'loaded twice' (test)",
        "200 samples",
    ),
    refused(
        "overlapping windows in training and calibration",
        lambda _: Dataset((FIRST[:150],), calibration=(FIRST[100:],)),
        "50 samples in common",
    ),
    warned(
        "a record twice in training",
        lambda _: Dataset((FIRST, COPY), (MANY[0],)),
        lambda d: len(d.train) == 2,
        "count twice",
    ),
    refused("copies among the calibration records", calibrated([*MANY[:9], MANY[0]]), "samples in common"),
    refused(
        "30 shifted windows of one record for a promise of 0.95",
        calibrated([LONG[10 * k : 10 * k + 200] for k in range(30)], 0.95),
        "do not overlap",
    ),
    refused("a calibration record that also gives the scale", calibrated([*MANY[:9], MANY[-1][30:]]), "in common"),
    warned(
        "pieces of one record for a promise",
        pieces,
        lambda e: e.sources == 1 and "pieces of 1 experiment" in e.promise,
        "pieces of 1",
    ),
    refused(
        "pieces of one record for a promise with confidence",
        calibrated([LONG[k : k + 60] for k in range(0, 1900, 80)], 0.8, confidence=0.9),
        "independent records",
    ),
    refused(
        "one record that is too short for its parts",
        lambda _: Dataset.from_record(record(1, 60), (0.5, 0.2, 0.1, 0.2), gap=20),
        "record for longer",
    ),
    refused(
        "records of different plants",
        lambda _: Dataset((FIRST,), (replace(FIRST, u=np.ones((200, 2)), inputs=()),)),
        "split the data by plant",
    ),
    right("a tenth of the outputs missing: training", trained(0.1), fits),
    right(
        "a tenth of the outputs missing: a linear model by subspaces",
        lambda _: identify_subspace([record(s, share=0.1) for s in range(4)], 1),
        fits,
    ),
    right(
        "a tenth of the outputs missing: calibration, which says so",
        calibrated([record(100 + s, share=0.1) for s in range(12)]),
        lambda e: "of the outputs were measured" in e.promise and e.bounds.max() < 0.5,
    ),
]
