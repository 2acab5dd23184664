"""Operating region of a calibrated bound: a set of inputs, input moves and residuals, with few false alarms.

A conformal bound holds for trajectories like those it was calibrated on. Operation elsewhere is detected by the same
method: records set aside give centre and shape of a region for each group of signals, the score of a trajectory is its
largest ratio to that shape over all samples and groups, and the conformal quantile of the scores inflates all shapes
alike. A trajectory that is exchangeable with the calibration trajectories thus leaves the region, at any of its
samples, with probability at most 1 - coverage. (Vovk, Gammerman, Shafer 2005; as in `mpc.calibration.model_error`.)
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import ArrayLike, NDArray

from controlrnn.checks import Array, Choice, as_array, count, definite, number, put, read_only
from controlrnn.data import Trajectory
from controlrnn.errors import DataError, SettingError, ShapeError
from controlrnn.kernels.dense import solve
from controlrnn.records import Count, Digest, ListOf, Number, Numbers, Schema, Stored, Text
from controlrnn.records.stored import as_json
from controlrnn.typed import typed
from mpc.calibration.residuals import measured_errors
from mpc.observers.base import Observer
from mpc.promises.order_statistics import conformal_rank
from mpc.promises.records import data_digest, fits_system, refuse_copies, sources_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_log = logging.getLogger(__name__)
_GROUPS = ("input", "input move", "residual")
EDGE = 1e-9  # of a limit: operation at the very edge of the calibration records is inside
_FLOOR = 1e-6  # least half width, as a share of the largest in the group, for channels that never moved


class RegionShape(Choice):
    """Shape of the set for a group of signals."""

    BOX = "box"
    ELLIPSOID = "ellipsoid"


@dataclass(frozen=True)
@typed()
class RegionStatus:
    """Result of the check of one sample.

    Args:
        ratios: Distance over limit for each group, up to 1 inside. Groups that could not be checked are missing.
        message: Text of what lies outside, with names and units; empty where nothing does.
    """

    ratios: Mapping[str, float]
    message: str

    @property
    def inside(self) -> bool:
        """Whether everything that could be checked lies inside."""
        return not self.message


@dataclass(frozen=True, kw_only=True, eq=False)
@typed()
class OperatingRegion(Stored):
    """Region of inputs, moves and residuals; a group's set is ``{v: distance(v - centre) <= limit}``.

    Args:
        shape: Box: the distance is the largest |v_i - centre_i| / sqrt(covariance_ii); ellipsoid: Mahalanobis distance.
        centres: Centres of inputs (nu,), moves (nu,) and residuals (ny,).
        covariances: Covariances, likewise; for a box only the diagonal is used.
        limits: Largest distance for each of the three groups.
        labels: Names with units, inputs then outputs.
        coverage: Probability that a trajectory like the calibration trajectories stays inside at all its samples.
        n: Number of calibration trajectories.
        observer_digest: Digest of the observer behind the residuals.
        data_digest: Digest of the records.
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "operating-region", 2,
        arrays={
            "centre0": Numbers("nu"), "centre1": Numbers("nu"), "centre2": Numbers("ny"),
            "covariance0": Numbers("nu", "nu"), "covariance1": Numbers("nu", "nu"), "covariance2": Numbers("ny", "ny"),
        },
        meta={
            "shape": Text(choices=RegionShape), "limits": ListOf(Number(above=0.0), 3),
            "labels": ListOf(Text(), "nu + ny"), "coverage": Number(above=0.0, below=1.0), "n": Count(1),
            "observer_digest": Digest(), "data_digest": Digest(),
        },
    )  # fmt: skip

    shape: RegionShape
    centres: tuple[Array, Array, Array]
    covariances: tuple[Array, Array, Array]
    limits: tuple[float, float, float]
    labels: tuple[str, ...]
    coverage: float
    n: int
    observer_digest: str
    data_digest: str

    def __post_init__(self) -> None:
        put(self, shape=RegionShape(self.shape), n=count("n", self.n))
        put(self, coverage=number("coverage", self.coverage, above=0, below=1, what="a probability in (0, 1)"))
        for name in ("centres", "covariances"):
            object.__setattr__(self, name, tuple(read_only(part) for part in getattr(self, name)))
        self._check()

    def _check(self) -> None:
        """Raise unless sizes, covariances and limits are consistent and positive."""
        sizes = [len(np.atleast_1d(centre)) for centre in self.centres]
        if sizes[0] != sizes[1] or not all(sizes):
            raise ShapeError(f"a region has {len(_GROUPS)} groups, two of inputs and one of outputs, got {sizes}")
        if len(self.labels) != sizes[0] + sizes[2]:
            raise ShapeError(f"labels must name {sizes[0] + sizes[2]} channels, got {len(self.labels)}")
        for name, n, centre, covariance in zip(_GROUPS, sizes, self.centres, self.covariances, strict=True):
            as_array(f"centre of {name}", centre, (n,))
            C = as_array(f"covariance of {name}", covariance, (n, n))
            if self.shape is RegionShape.ELLIPSOID:
                definite(f"covariance of {name}", C)
            elif not (np.diag(C) > 0).all():
                raise SettingError(f"the covariance of {name} must have a positive diagonal: learn_region anew")
        if not all(x > 0 for x in self.limits):
            raise SettingError(f"limits must be three positive numbers, got {self.limits}: learn_region anew")

    @property
    def promise(self) -> str:
        """Text of the bound on the probability of a false alarm."""
        return (
            f"a trajectory of the same kind, no longer and under the same feedback as the {self.n} calibration "
            "trajectories gives a warning with probability <= "
            f"{1 - self.coverage:.3g}"
        )

    def check(self, u: ArrayLike, residual: ArrayLike, *, previous: ArrayLike | None = None) -> RegionStatus:
        """Check whether a sample lies inside the region.

        Args:
            u: Input, shape (nu,).
            residual: Measurement minus the output of the estimate, shape (ny,); NaN where there is none.
            previous: Input one sample before, shape (nu,); None: the move is not checked.
        """
        nu, ny = len(self.centres[0]), len(self.centres[2])
        u = as_array("u", u, (nu,))
        move = np.full(nu, np.nan) if previous is None else u - as_array("previous", previous, (nu,))
        values = (u, move, as_array("residual", residual, (ny,), finite=False))
        ratios, outside = {}, []
        for g, (name, value) in enumerate(zip(_GROUPS, values, strict=True)):
            if np.isnan(value).all():
                continue
            ratios[name] = float(_distance(value[None] - self.centres[g], self.covariances[g], self.shape)[0])
            ratios[name] /= self.limits[g]
            if not ratios[name] <= 1 + EDGE:  # also where an overflow gives NaN
                outside.append(self._words(g, value))
        return RegionStatus(ratios, "; ".join(outside))

    def plot(self) -> Figure:
        """Draw the range of every channel, one panel a group."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 3), layout="constrained")
        nu = len(self.centres[0])
        labels = (self.labels[:nu], self.labels[:nu], self.labels[nu:])
        for g, axes in enumerate(figure.subplots(1, 3)):
            half = self.limits[g] * np.sqrt(np.diag(self.covariances[g]))
            axes.errorbar(range(len(half)), self.centres[g], yerr=half, fmt="o", capsize=4)
            axes.set_xticks(range(len(half)), labels[g], rotation=30, ha="right")
            axes.set(title=f"{_GROUPS[g]}s", xlim=(-0.5, len(half) - 0.5))
        return figure

    def _words(self, group: int, value: Array) -> str:
        """Text about the channel of a group that is furthest out."""
        # Also for ellipsoids by the marginal spread, which names a channel best.
        away = (value - self.centres[group]) / np.sqrt(np.diag(self.covariances[group]))
        i = int(np.nanargmax(np.abs(away)))
        label = self.labels[i + (len(self.centres[0]) if group == 2 else 0)]
        half = self.limits[group] * float(np.sqrt(self.covariances[group][i, i]))
        centre = self.centres[group][i]
        seen = f"calibrated on {centre - half:.4g} to {centre + half:.4g}"
        if abs(away[i]) <= self.limits[group]:
            seen = f"each within what was calibrated, but not together with the other {_GROUPS[group]}s"
        return f"{_GROUPS[group]} {label}: {value[i]:.4g}, {seen}"

    def record(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and metadata to store; see `Stored.record`."""
        pairs = (("centre", self.centres), ("covariance", self.covariances))
        arrays = {f"{name}{g}": np.asarray(part) for name, parts in pairs for g, part in enumerate(parts)}
        return arrays, {name: as_json(getattr(self, name)) for name in self.SCHEMA.meta}

    @classmethod
    def _fields(cls, values: dict[str, Any]) -> dict[str, Any]:
        parts = {f"{name}s": tuple(values[f"{name}{g}"] for g in range(3)) for name in ("centre", "covariance")}
        return {name: values[name] for name in cls.SCHEMA.meta} | parts


class RegionWatch:
    """Checks of successive samples against a region; logs when operation leaves it and when it returns.

    Args:
        region: The region.
        observer: The controller's observer.

    Raises:
        SettingError: The region was learnt with another observer.
    """

    @typed()
    def __init__(self, region: OperatingRegion, observer: Observer) -> None:
        if region.observer_digest != observer.digest:
            raise SettingError("region was learnt with another observer: run learn_region with the controller's")
        self.region = region
        self.reset()

    def reset(self) -> None:
        """Forget the last sample."""
        self._before: Array | None = None
        self._checked = False
        self._inside = True

    def check(self, u: Array, residual: Array, previous: Array | None) -> RegionStatus:
        """Check a sample by `OperatingRegion.check`, whose arguments these are."""
        self._before = None if previous is None else read_only(previous)
        self._checked = True
        return self._told(self.region.check(u, residual, previous=previous))

    def skip(self) -> None:
        """Note that the present sample is not checked, since its estimate may not be used."""
        self._checked = False

    def revise(self, u: Array) -> str:
        """Check the input that is known to have acted in place of the one checked last; returns what lies outside.

        Args:
            u: The input, shape (nu,).
        """
        if not self._checked:
            return ""
        nothing = np.full(len(self.region.centres[2]), np.nan)
        return self._told(self.region.check(u, nothing, previous=self._before)).message

    def _told(self, status: RegionStatus) -> RegionStatus:
        if self._inside and not status.inside:
            _log.warning("outside of the calibrated region: %s", status.message)
        elif not self._inside and status.inside:
            _log.info("back in the calibrated region")
        self._inside = status.inside
        return status


@typed()
def learn_region(
    observer: Observer,
    trajectories: Sequence[Trajectory],
    *,
    scale_trajectories: Sequence[Trajectory],
    coverage: float = 0.9,
    shape: RegionShape = RegionShape.BOX,
) -> OperatingRegion:
    """Calibrate the operating region of a model error.

    Args:
        observer: The controller's observer; residuals are formed with its estimates, as in the controller.
        trajectories: The calibration records.
        scale_trajectories: Other records of the same kind, which give centres and shapes.
        coverage: Wanted probability, in (0, 1).
        shape: Shape of the set for each group.

    Raises:
        DataError: Too few or too short records, or one that serves both purposes.
        ShapeError: A record's channels are not the model's.
    """
    records, others, shape = tuple(trajectories), tuple(scale_trajectories), RegionShape(shape)
    rank = conformal_rank(len(records), coverage)
    if not others:
        raise DataError("learn_region needs scale_trajectories, got none: set some records aside")
    refuse_copies(records, others)
    sources_of(records)
    seen = [_samples(observer, record) for record in others]
    pooled = [np.concatenate([one[g] for one in seen]) for g in range(3)]
    if shape is RegionShape.BOX:
        # Middle and half width of the range, so that a uniform excitation fills the box.
        centres = tuple(0.5 * (p.min(axis=0) + p.max(axis=0)) for p in pooled)
        covariances = tuple(np.diag(_widths(0.5 * (p.max(axis=0) - p.min(axis=0))) ** 2) for p in pooled)
    else:
        centres = tuple(p.mean(axis=0) for p in pooled)
        covariances = tuple(_covariance(p) for p in pooled)

    def distances(samples: Sequence[Array]) -> Array:
        pairs = zip(samples, centres, covariances, strict=True)
        return np.array([_distance(s - c, C, shape).max() for s, c, C in pairs])

    # Relative sizes of the three groups from the records set aside; the quantile of the scores inflates all alike.
    scale = np.maximum(np.max([distances(one) for one in seen], axis=0), _FLOOR)  # a group may never have moved
    scores = np.sort([(distances(_samples(observer, record)) / scale).max() for record in records])
    channels = (*observer.predictor.inputs, *observer.predictor.outputs)
    a, b, c = (float(x) for x in scale * scores[rank - 1])
    return OperatingRegion(
        shape=shape,
        centres=(centres[0], centres[1], centres[2]),
        limits=(a, b, c),
        coverage=coverage,
        covariances=(covariances[0], covariances[1], covariances[2]),
        labels=tuple(s.label for s in channels),
        n=len(records),
        observer_digest=observer.digest,
        data_digest=data_digest(records + others),
    )


def _samples(observer: Observer, record: Trajectory) -> tuple[Array, Array, Array]:
    """Inputs, moves and residuals of a record from the observer's first usable estimate on."""
    fits_system(observer.system, record)
    first = observer.steps
    if len(record) < first + 2:
        raise DataError(f"record {record.name!r} must have at least {first + 2} samples, got {len(record)}")
    errors = measured_errors(observer.system, observer.estimates(record.u, record.y)[:-1], record.u, record.y)[first:]
    complete = errors[~np.isnan(errors).any(axis=1)]  # samples with a missing reading are left out
    if not len(complete):
        raise DataError(f"record {record.name!r} has no complete measurement after {first} samples: leave it out")
    return record.u[first:], np.diff(record.u, axis=0)[first - 1 :], complete


def _distance(e: Array, covariance: Array, shape: RegionShape) -> Array:
    """Distances of rows e (T, n) from the centre, shape (T,); channels that are NaN are left out."""
    if shape is RegionShape.BOX:
        return np.asarray(np.nanmax(np.abs(e) / np.sqrt(np.diag(covariance)), axis=1))
    # The distance in the known channels: their marginal covariance is the corresponding block.
    known = ~np.isnan(e).any(axis=0)
    part = e[:, known]
    pulled = solve(covariance[np.ix_(known, known)], part.T)
    if pulled is None:
        raise SettingError(f"the covariance of a group must not be singular, got {covariance}")
    return np.asarray(np.sqrt((part.T * pulled).sum(axis=0)))


def _covariance(samples: Array) -> Array:
    spread = np.atleast_2d(np.cov(samples.T))  # regularised, so that channels that never moved have some width
    return np.asarray(spread + np.diag(_widths(np.zeros(len(spread)), np.sqrt(np.diag(spread)).max())) ** 2)


def _widths(half: Array, largest: float | None = None) -> Array:
    """Half widths (n,) with zeros replaced by a small share of the largest."""
    floor = _FLOOR * float(half.max() if largest is None else largest)
    return np.maximum(half, floor if floor > 0 else 1.0)
