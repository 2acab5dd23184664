"""Calibrated bounds on the error of state estimates, for observers without a certified error.

Split-conformal as in `mpc.calibration.model_error`: the score of a trajectory is its largest error over all its
samples, and of n scores the ceil((n + 1) coverage)-th smallest bounds that of a new trajectory with probability >=
coverage (Lei et al., JASA 2018, theorem 2.2). x* is the model's run under the record's inputs, which are taken as the
true ones; the observer gets them with errors drawn within its declared bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from controlrnn.checks import Array, as_array, count, definite, put, read_only
from controlrnn.data import Trajectory
from controlrnn.errors import DataError, SettingError
from controlrnn.kernels import simulate
from controlrnn.records import Digest, Number, Numbers, Schema, Stored
from controlrnn.typed import typed
from mpc.observers.state_error import StateError
from mpc.promises.order_statistics import conformal_rank
from mpc.promises.records import data_digest, fits_system, refuse_copies, sources_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mpc.observers.base import Observer


@dataclass(frozen=True, kw_only=True, eq=False)
@typed()
class EstimateError(Stored):
    """Calibrated bounds on the error and on the jump of an observer's estimates, each in `metric`.

    Args:
        error_scores: Largest |x* - xhat| of each trajectory, shape (n,).
        jump_scores: Largest |xhat[t+1] - f(xhat[t], u[t])| of each trajectory, shape (n,).
        metric: Positive definite matrix, shape (nx, nx).
        coverage: Probability that a new trajectory stays below, for each of the two bounds.
        observer_digest: Digest of the observer.
        data_digest: Digest of the records.
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "estimate-error", 2,
        arrays={
            "error_scores": Numbers("n", least=0.0), "jump_scores": Numbers("n", least=0.0),
            "metric": Numbers("nx", "nx"),
        },
        meta={
            "coverage": Number(above=0.0, below=1.0), "observer_digest": Digest(), "data_digest": Digest(),
        },
    )  # fmt: skip

    error_scores: Array
    jump_scores: Array
    metric: Array
    coverage: float
    observer_digest: str
    data_digest: str

    def __post_init__(self) -> None:
        scores = as_array("error_scores", self.error_scores, ("n",))
        jumps = as_array("jump_scores", self.jump_scores, (len(scores),))
        if not len(scores) or (scores < 0).any() or (jumps < 0).any():
            raise SettingError("scores must be at least one each, and >= 0")
        put(self, error_scores=read_only(scores), jump_scores=read_only(jumps), metric=definite("metric", self.metric))
        conformal_rank(self.n, self.coverage)

    @property
    def n(self) -> int:
        """Number of trajectories."""
        return len(self.error_scores)

    @property
    def error(self) -> StateError:
        """Bound on the error |x* - xhat|."""
        return StateError(self._quantile(self.error_scores), self.metric)

    @property
    def jump(self) -> StateError:
        """Bound on the jump |xhat[t+1] - f(xhat[t], u[t])|."""
        return StateError(self._quantile(self.jump_scores), self.metric)

    @property
    def promise(self) -> str:
        """Text of what the bounds promise."""
        return (
            f"with probability >= {self.coverage:g}, a new trajectory of the same kind, no longer and under the same "
            f"feedback as the {self.n} calibration trajectories keeps the error of the estimate at all its samples "
            "(and likewise, on its own, the jump)"
        )

    def plot(self) -> Figure:
        """Draw the scores of the trajectories and the two bounds."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3.2), layout="constrained")
        axes = figure.subplots()
        share = np.arange(1, self.n + 1) / self.n
        for name, scores, bound in (
            ("error", self.error_scores, self.error.radius),
            ("jump", self.jump_scores, self.jump.radius),
        ):
            line = axes.step(np.sort(scores), share, where="post", label=f"{name} of the estimate")[0]
            axes.axvline(bound, color=line.get_color(), ls="--", label=f"bound on the {name}")
        axes.set(xlabel="largest over a trajectory, in the metric", ylabel="share of trajectories", xlim=(0, None))
        axes.legend()
        return figure

    def _quantile(self, scores: Array) -> float:
        return float(np.sort(scores)[conformal_rank(self.n, self.coverage) - 1])


@typed()
def estimate_errors(
    observer: Observer, record: Trajectory, *, washout: int, recorded: Array | None = None
) -> tuple[Array, Array]:
    """Errors and jumps of an observer's estimates along a record.

    Args:
        observer: The observer; it is not changed.
        record: Record whose inputs are taken as the true ones.
        washout: Samples after which the model's run is taken as x*.
        recorded: Inputs that the observer gets, shape (T, nu); the true ones when left out.

    Returns:
        x* - xhat from the first sample on that counts, shape (K, nx), and xhat[t+1] - f(xhat[t], u[t]), (K - 1, nx).

    Raises:
        DataError: The record is too short.
        ShapeError: Its channels are not the model's.
    """
    system = observer.system
    fits_system(system, record)
    first = max(count("washout", washout, least=0), observer.steps)
    if len(record) < first + 1:
        raise DataError(f"record {record.name!r} must have more than {first} samples, got {len(record)}")
    seen = record.u if recorded is None else recorded
    x = observer.estimates(seen, record.y)[first:]
    # x* started somewhere else; after the washout the difference is forgotten.
    true = simulate(system, record.u, observer.initial_state)[1][first:]
    return np.asarray(true - x), np.asarray(x[1:] - system._step(x[:-1], seen[first:]))


@typed()
def calibrate_estimates(
    observer: Observer,
    trajectories: Sequence[Trajectory],
    *,
    washout: int,
    coverage: float = 0.9,
    metric: Array | None = None,
    seed: int = 0,
) -> EstimateError:
    """Bound the error and the jump of an observer's estimates from held-out records.

    Args:
        observer: Any observer; it is not changed.
        trajectories: Records used for nothing else; their inputs are taken as the true ones.
        washout: Samples after which the model's run is taken as x*.
        coverage: Wanted probability, in (0, 1).
        metric: Shape (nx, nx); that of the observer's contraction certificate when left out, else the identity.
        seed: Seed of the input errors, which are drawn within ``observer.input_error``, half of them at its edge.

    Raises:
        DataError: Too few records for the coverage, too short ones, or one that occurs twice.
        SettingError: A parameter is out of range.
    """
    records = tuple(trajectories)
    conformal_rank(len(records), coverage)
    refuse_copies(records)
    sources_of(records)
    if metric is None:
        metric = np.eye(observer.predictor.nx) if observer.contraction is None else observer.contraction.metric
    metric = definite("metric", metric, observer.predictor.nx)
    scores: tuple[list[float], list[float]] = ([], [])
    for record, child in zip(records, np.random.SeedSequence(seed).spawn(len(records)), strict=True):
        # The record's inputs are taken as true: the observer gets them with errors as declared.
        recorded = record.u + drawn_errors(observer.input_error, len(record), np.random.default_rng(child))
        for kept, e in zip(scores, estimate_errors(observer, record, washout=washout, recorded=recorded), strict=True):
            # Score of a trajectory: its largest error over all samples, in the metric.
            kept.append(float(np.sqrt(np.einsum("ti,ij,tj->t", e, metric, e).max())))
    return EstimateError(
        error_scores=np.array(scores[0]),
        jump_scores=np.array(scores[1]),
        metric=metric,
        coverage=coverage,
        observer_digest=observer.digest,
        data_digest=data_digest(records),
    )


def drawn_errors(bound: Array, steps: int, rng: np.random.Generator) -> Array:
    """Draw input errors within ``bound`` (nu,), shape (steps, nu): with even odds uniform, or at a corner."""
    uniform = rng.uniform(-1, 1, (steps, len(bound)))
    return np.asarray(bound * np.where(rng.random((steps, 1)) < 0.5, uniform, np.sign(uniform)))
