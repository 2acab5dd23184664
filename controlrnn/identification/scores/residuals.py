"""Residual tests: auto-correlation, and cross-correlation with the inputs, with confidence bands.

Ljung, "System identification", 2nd ed. 1999, section 16.6. With e and u made zero-mean and N samples,

    r_ee(k) = sum_t e[t] e[t + k] / sum_t e[t]^2     N(0, N_k / N^2) for white e, k > 0
    r_ue(k) = sum_t u[t] e[t + k] / (|u| |e|)        N(0, P N_k / N^2) for e independent of u, P = sum_k r_ee(k) r_uu(k)

with N_k the number of pairs k samples apart, N - k for one record: the sums of far lags have fewer terms than N. (Ljung
writes 1 / N, which is the limit for N >> k; at N = 60 a band of 95 % would hold 97.5 % of 25 lags.)

A residual that correlates with *past inputs* (k >= 0) shows dynamics that the model misses; one that correlates with
*future* inputs shows feedback in the data. For a simulation model e is coloured as the noise is, so only the second
test judges the model; the first shows whether a noise model (an observer) could still improve predictions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from scipy.stats import norm

from controlrnn.checks import Array, count, read_only
from controlrnn.data import Trajectory
from controlrnn.errors import DataError, SettingError, ShapeError
from controlrnn.records import Number, Numbers, Schema, Stored
from controlrnn.typed import typed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_FIELDS = ("auto", "cross", "auto_band", "cross_band")


@dataclass(frozen=True, eq=False)
@typed()
class ResidualTest(Stored):
    """Correlations of the residuals, with the bands that hold them at the given confidence where nothing correlates.

    Args:
        auto: Auto-correlation r_ee(k) for k = 0..lags, shape (lags + 1, ny).
        cross: Cross-correlation r_ue(k) for k = -lags..lags, shape (2 lags + 1, ny, nu).
        auto_band: Half width of the band of ``auto``, shape (lags + 1,).
        cross_band: Half width of the band of ``cross``, shape (2 lags + 1, ny, nu).
        confidence: Probability of the band, for every lag on its own.
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "residual-test", 3,
        arrays={
            "auto": Numbers("lags + 1", "ny"), "cross": Numbers("2 * lags + 1", "ny", "nu"),
            "auto_band": Numbers("lags + 1", above=0.0), "cross_band": Numbers("2 * lags + 1", "ny", "nu", above=0.0),
        },
        meta={"confidence": Number(above=0.0, below=1.0)},
    )  # fmt: skip

    auto: Array
    cross: Array
    auto_band: Array
    cross_band: Array
    confidence: float

    def __post_init__(self) -> None:
        for name in _FIELDS:
            object.__setattr__(self, name, read_only(getattr(self, name)))

    @property
    def lags(self) -> int:
        """Longest lag."""
        return len(self.auto) - 1

    @property
    def auto_outside(self) -> Array:
        """Share of the lags 1..lags outside the band, shape (ny,); for white residuals expect 1 - confidence."""
        return np.asarray(np.mean(np.abs(self.auto[1:]) > self.auto_band[1:, None], axis=0))

    @property
    def cross_outside(self) -> Array:
        """Share of the lags 0..lags outside the band, shape (ny, nu); for independent ones expect 1 - confidence."""
        return np.asarray(np.mean((np.abs(self.cross) > self.cross_band)[self.lags :], axis=0))

    def plot(self) -> Figure:
        """Draw all correlations with their bands; returns the figure."""
        from matplotlib.figure import Figure

        ny, nu = self.cross.shape[1:]
        figure = Figure(figsize=(4 * (1 + nu), 2.4 * ny), layout="constrained")
        panels = figure.subplots(ny, 1 + nu, squeeze=False)
        for i in range(ny):
            for j in range(1 + nu):
                values = self.auto[:, i] if j == 0 else self.cross[:, i, j - 1]
                band = self.auto_band if j == 0 else self.cross_band[:, i, j - 1]
                panel, lags = panels[i, j], np.arange(len(values)) - (0 if j == 0 else self.lags)
                panel.fill_between(lags, -band, band, color="0.9", zorder=0)
                panel.stem(lags, values, markerfmt=".", basefmt="0.6")
                panel.set_title(f"e{i + 1}" + ("" if j == 0 else f" with u{j}"), fontsize="medium")
                panel.set_xlabel("lag")
        return figure


@typed(infinite=("simulated",))
def check_residuals(
    records: Sequence[Trajectory],
    simulated: Sequence[Array],
    *,
    lags: int = 25,
    confidence: float = 0.99,
    skip: int = 0,
) -> ResidualTest:
    """Test the residuals of simulated or predicted records.

    Args:
        records: Measured records.
        simulated: Outputs of the model, one array (T, ny) a record.
        lags: Longest lag.
        confidence: Probability of the bands.
        skip: Samples dropped at the start of every record.

    Samples that are missing enter no product; the bands are those of the samples that were measured.

    Raises:
        ShapeError: A run does not fit its record.
        DataError: A record is too short, or residuals are not finite or all zero.
        SettingError: ``confidence`` is outside (0, 1).
    """
    lags, skip = count("lags", lags), count("skip", skip, least=0)
    if not 0 < confidence < 1:
        raise SettingError(f"confidence must lie in (0, 1), got {confidence}")
    if len(records) != len(simulated) or any(r.y.shape != y.shape for r, y in zip(records, simulated, strict=False)):
        raise ShapeError("simulated must hold one array (T, ny) for each record: simulate every record over its length")
    if not all(np.isfinite(y).all() for y in simulated):
        raise DataError("simulated must be finite: the model diverges on these records")
    e = [(r.y - y)[skip:] for r, y in zip(records, simulated, strict=True)]
    u = [r.u[skip:] for r in records]
    if not e or min(map(len, e)) <= 2 * lags:
        raise DataError(
            f"every record must keep more than 2 lags = {2 * lags} samples: lower lags or drop short records"
        )
    known = [(~np.isnan(r)).astype(np.float64) for r in e]
    e, u = _centred("residuals", e), _centred("inputs", u)
    ee, uu = _correlation(e, e, lags), _correlation(u, u, lags)
    ny, nu = e[0].shape[1], u[0].shape[1]
    own, drive = ee[:, range(ny), range(ny)], uu[:, range(nu), range(nu)]
    width = float(norm.ppf(0.5 + 0.5 * confidence))  # two-sided, in standard deviations
    # Estimated far lags may make P negative: the band is never narrower than that of white residuals.
    spread = np.maximum(np.einsum("ki,kj->ij", own, drive), 1.0)
    cross = _correlation(u, e, lags).transpose(0, 2, 1)
    # Products of measured samples, (lags + 1, ny); of an output and an input, of which all are known, (lags + 1, ny).
    n, N = np.sum([k.sum(axis=0) for k in known], axis=0), sum(map(len, e))
    pairs = np.array([np.sum([(k[: len(k) - d] * k[d:]).sum(axis=0) for k in known], axis=0) for d in range(lags + 1)])
    late = np.array([np.sum([k[d:].sum(axis=0) for k in known], axis=0) for d in range(lags + 1)])
    early = np.array([np.sum([k[: len(k) - d].sum(axis=0) for k in known], axis=0) for d in range(lags + 1)])
    band = width * (np.sqrt(pairs) / n).max(axis=1)  # of the output with the fewest samples
    both = width * np.sqrt(np.concatenate([early[:0:-1], late]) / (n * N))  # lags -lags to lags
    return ResidualTest(own[lags:], cross, band, both[:, :, None] * np.sqrt(spread), confidence)


def _centred(name: str, records: Sequence[Array]) -> list[Array]:
    """Subtract the mean over all records, after checking that the signals are not constant; missing ones are zero."""
    pooled = np.concatenate(records)
    if np.isnan(pooled).all(axis=0).any():
        raise DataError(f"{name} must be known in every channel: an output was never measured in these records")
    centred = [np.nan_to_num(r - np.nanmean(pooled, axis=0)) for r in records]
    if (np.square(np.concatenate(centred)).sum(axis=0) == 0).any():
        raise DataError(f"{name} must vary in every channel: a constant signal has no correlation")
    return centred


def _correlation(a: Sequence[Array], b: Sequence[Array], lags: int) -> Array:
    """Normalised correlation sum_t a[t] b[t + k]' over all records for k = -lags..lags, shape (2 lags + 1, na, nb)."""
    size = [np.sqrt(sum(np.square(r).sum(axis=0) for r in z)) for z in (a, b)]
    sums = []
    for k in range(-lags, lags + 1):
        pairs = [
            (x[max(0, -k) : len(x) - max(0, k)], z[max(0, k) : len(z) - max(0, -k)]) for x, z in zip(a, b, strict=True)
        ]
        sums.append(sum(x.T @ z for x, z in pairs))
    return np.asarray(np.stack(sums) / np.outer(*size))
