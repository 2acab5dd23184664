"""Structure found by tests before any network: feedthrough, dead times, and what the free run needs to start.

Both tests compare least-squares ARX models by the Bayesian information criterion, N log(variance) + k log N (Schwarz,
"Estimating the dimension of a model", Annals of Statistics 1978): a structure with more freedom has to pay for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from controlrnn.checks import Array
from controlrnn.data import Timing, Trajectory
from controlrnn.errors import ControlRnnError
from controlrnn.identification.linear.arx import identify_arx
from controlrnn.identification.linear.delays import estimate_delays, without_delays

_SKIP = 50  # samples that the nonlinear benchmarks leave out
_ORDER = 6  # of the ARX models of the tests
_GAIN = 0.95  # a dead time has to lower the error to this share of what none gives


@dataclass(frozen=True)
class Structure:
    """Structure that was found before any network: feedthrough, dead times, samples to skip, with reasons.

    Args:
        skip: Samples at the start of a record that scores leave out; the initial state is estimated from them.
        feedthrough: Whether y[t] may depend on u[t].
        delays: Dead time of each input [samples].
        reasons: A sentence for each decision.
    """

    skip: int
    feedthrough: bool
    delays: tuple[int, ...]
    reasons: tuple[str, ...]


def find_structure(records: Sequence[Trajectory], skip: int | None) -> Structure:
    """Decide on skip, feedthrough and dead times by the estimation records."""
    shortest = min(map(len, records))
    reasons = []
    if skip is None:
        # Blocks that are left out are a fifth of short records: two thirds of them shall count.
        skip = max(1, min(_SKIP, shortest // 6, sum(map(len, records)) // 15))
        reasons.append(f"initial states are estimated from {skip} samples, which scores leave out")
    delays, why = _delays(records)
    reasons.append(why)
    moved = [without_delays(r, delays) if any(delays) else r for r in records]
    feedthrough, why = _feedthrough(moved, delays)
    return Structure(skip, feedthrough, delays, (*reasons, why))


def _feedthrough(records: Sequence[Trajectory], delays: Sequence[int]) -> tuple[bool, str]:
    """Whether a feedthrough pays, and the sentence that says so."""
    if any(r.timing is Timing.MEASURED_FIRST for r in records):
        return False, "no feedthrough: outputs are measured before the input of the same sample acts"
    if any(delays):
        return False, "no feedthrough: there is a dead time"
    with_it, without = (_criterion(records, strictly_proper) for strictly_proper in (False, True))
    found = with_it < without
    compared = f"the criterion is {with_it:.6g} with and {without:.6g} without it"
    return found, f"{'feedthrough' if found else 'no feedthrough'}: {compared}"


def _criterion(records: Sequence[Trajectory], strictly_proper: bool) -> float:
    """Bayesian information criterion of an ARX model, summed over the outputs."""
    order = max(1, min(_ORDER, min(map(len, records)) // 8))
    model = identify_arx(records, order, order, strictly_proper=strictly_proper)
    errors = np.concatenate([_one_step(model.A, model.B, model.c, *_scaled(model, r)) for r in records])
    n = len(errors)
    unknowns = order * records[0].ny + (order + (not strictly_proper)) * records[0].nu + 1
    variance = np.maximum(np.mean(np.square(errors), axis=0), 1e-300)
    return float(n * np.log(variance).sum() + records[0].ny * unknowns * np.log(n))


def _scaled(model: object, record: Trajectory) -> tuple[Array, Array]:
    """Inputs and outputs in the coordinates of an ARX model."""
    return model.inputs.apply(record.u), model.outputs.apply(record.y)  # type: ignore[attr-defined]


def _one_step(A: Array, B: Array, c: Array, u: Array, y: Array) -> Array:
    """One-step errors of an ARX model, shape (T - order, ny), less those for which a sample is missing."""
    lag, T = max(len(A), len(B) - 1), len(y)
    expected = c + sum(y[lag - k : T - k] @ A[k - 1].T for k in range(1, len(A) + 1))
    expected = expected + sum(u[lag - k : T - k] @ B[k].T for k in range(len(B)))
    errors = np.asarray(y[lag:] - expected)
    return np.asarray(errors[~np.isnan(errors).any(axis=1)])


def _delays(records: Sequence[Trajectory]) -> tuple[tuple[int, ...], str]:
    """Dead times that pay, and the sentence that says so."""
    nu = records[0].nu
    none = (0,) * nu
    most = min(20, min(map(len, records)) // 10)
    if most < 1:
        return none, "no dead time looked for: the records are too short"
    try:
        found = estimate_delays(records, most)
        if not any(found):
            return none, "no dead time"
        moved = [without_delays(r, found) for r in records]
        cut = [r[max(found) :] for r in records]
        error, plain = (_error(r) for r in (moved, cut))
    except ControlRnnError as failure:
        return none, f"no dead time looked for: {failure}"
    if error > _GAIN * plain:
        return (
            none,
            f"no dead time: {found} samples would lower the prediction error by {100 * (1 - error / plain):.1f} %",
        )
    return found, f"dead times of {found} samples lower the prediction error by {100 * (1 - error / plain):.0f} %"


def _error(records: Sequence[Trajectory]) -> float:
    """Root mean square one-step error of an ARX model of the tests' order."""
    model = identify_arx(records, _ORDER, _ORDER, strictly_proper=True)
    errors = np.concatenate([_one_step(model.A, model.B, model.c, *_scaled(model, r)) for r in records])
    return float(np.sqrt(np.mean(np.square(errors))))
