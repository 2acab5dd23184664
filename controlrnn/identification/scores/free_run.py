"""Free runs of whole records, and their scores."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from controlrnn.checks import Array, as_array, count
from controlrnn.data import Trajectory
from controlrnn.errors import DataError, SettingError
from controlrnn.identification.scores.metrics import Scores
from controlrnn.identification.states.initial_state import estimate_initial_states
from controlrnn.kernels import simulate
from controlrnn.systems import GatedSystem, LureSystem
from controlrnn.typed import typed


@typed(unchecked=("system",))
def initial_states(system: LureSystem | GatedSystem, records: Sequence[Trajectory], samples: int) -> Array:
    """Estimate the initial state of each record by least squares, shape (R, nx).

    Args:
        system: A frozen system, physical units.
        records: Records of at least ``samples`` samples.
        samples: Samples at the start of each record to fit; 0 returns zero states.
    """
    if count("samples", samples, least=0) == 0 or not records:
        return np.zeros((len(records), system.nx))
    u, y = (np.stack([getattr(r, name)[:samples] for r in records]) for name in "uy")
    return estimate_initial_states(system, u, y)


@typed(unchecked=("system",))
def free_run(
    system: LureSystem | GatedSystem, records: Sequence[Trajectory], x0: Array | None = None
) -> tuple[list[Array], list[Array]]:
    """Simulate every record over its whole length with its own inputs only.

    Args:
        system: A frozen system, physical units.
        records: Records of any lengths.
        x0: Initial states, shape (R, nx); zero when left out.

    Returns:
        ``(y, x)``, lists with outputs (T, ny) and states (T + 1, nx) of each record. Values overflow to infinity where
        the system is unstable.
    """
    if not system.is_frozen:
        raise SettingError("free runs need a frozen system: pass model.freeze()")
    if not records:
        raise DataError("free_run needs at least one record, got none")
    start = np.zeros((len(records), system.nx)) if x0 is None else as_array("x0", x0, (len(records), system.nx))
    lengths = [len(r) for r in records]
    # One batch for all: in a causal system the padding does not change the samples before it.
    u = np.stack([np.pad(r.u, ((0, max(lengths) - len(r)), (0, 0)), mode="edge") for r in records])
    with np.errstate(over="ignore", invalid="ignore"):
        y, x = simulate(system, u, start)
    return [y[i, :n] for i, n in enumerate(lengths)], [x[i, : n + 1] for i, n in enumerate(lengths)]


@typed(unchecked=("system",))
def score(
    system: LureSystem | GatedSystem,
    records: Sequence[Trajectory],
    *,
    skip: int = 0,
    estimate: bool = False,
    x0: Array | None = None,
) -> Scores:
    """Score free runs over whole records.

    Args:
        system: A frozen system, physical units.
        records: Measured records.
        skip: Samples at the start of each record that do not count.
        estimate: Whether to start from the state that fits the first ``skip`` samples best, instead of from zero.
        x0: Initial states where they are known, shape (R, nx).

    Raises:
        DataError: The simulation is not finite, or ``skip`` leaves no sample.
    """
    start = initial_states(system, records, skip if estimate else 0) if x0 is None else x0
    y, _ = free_run(system, records, start)
    return Scores.of([r.y for r in records], y, skip=skip)
