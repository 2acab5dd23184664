"""Dead times of the inputs: estimate them, remove them from the records, put them back into the identified system.

A recurrent model would need one state per sample of dead time and would have to learn it. It is cheaper to shift the
inputs of the records (`without_delays`), identify, and let a shift register in the system restore the delay
(`with_delays`), so that export, certificates and MPC use the plant's own inputs. (Ljung, "System identification", 2nd
ed., section 4.2, the delay nk.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import scipy.linalg

from controlrnn.checks import Array, count
from controlrnn.data import Trajectory
from controlrnn.errors import DataError, SettingError, ShapeError
from controlrnn.identification.linear.regression import checked, scalers
from controlrnn.systems import LureSystem
from controlrnn.typed import typed


@typed()
def estimate_delays(records: Sequence[Trajectory], most: int, *, memory: int = 3) -> tuple[int, ...]:
    """Estimate the dead time of each input in samples: the one with which a short ARX model predicts best.

    Inputs are searched one after the other, twice over, with the others fixed. A model without feedthrough has one more
    sample of delay than its dead time, so a held input has delay 0 if y[t + 1] already reacts to it.

    Args:
        records: One or more records.
        most: Longest dead time to try.
        memory: Number of past outputs and inputs of the ARX models.

    Raises:
        DataError: The records are too short.
    """
    records, most, memory = checked(records), count("most", most, least=0), count("memory", memory)
    if max(len(r) for r in records) <= most + memory + 1:
        raise DataError(f"a record must be longer than most + memory = {most + memory} samples: lower most")
    inputs, outputs = scalers(records)
    us, ys = [inputs.apply(r.u) for r in records], [outputs.apply_measured(r.y) for r in records]
    delays = [0] * records[0].nu
    for _ in range(2 if len(delays) > 1 else 1):
        for j in range(len(delays)):
            errors = [_arx_error(us, ys, [*delays[:j], d, *delays[j + 1 :]], memory, most) for d in range(most + 1)]
            delays[j] = int(np.argmin(errors))
    return tuple(delays)


@typed()
def without_delays(record: Trajectory, delays: Sequence[int]) -> Trajectory:
    """Shift input j of a record by ``delays[j]`` samples; the result is shorter by the longest delay.

    Args:
        record: The record.
        delays: Dead time of each input [samples].

    Raises:
        ShapeError: There is not one delay per input.
        DataError: The record is not longer than the longest delay.
    """
    delays = _checked(delays, record.nu)
    most = max(delays)
    if len(record) < most + 2:
        raise DataError(f"the record must be longer than the longest delay of {most} samples, got {len(record)}")
    u = np.stack([record.u[most - d : len(record) - d, j] for j, d in enumerate(delays)], axis=1)
    return replace(record[most:], u=u)


@typed()
def with_delays(system: LureSystem, delays: Sequence[int]) -> LureSystem:
    """Add delays of the inputs to a frozen system, with one more state for every sample of delay.

    Args:
        system: A frozen system identified on records `without_delays`.
        delays: Samples of delay of each input.

    Returns:
        System whose states are those of ``system``, then for each delayed input its values from newest to oldest.
    """
    delays = _checked(delays, system.nu)
    nx, nd, nu = system.nx, sum(delays), system.nu
    shift = scipy.linalg.block_diag(*(np.eye(d, k=-1) for d in delays if d)) if nd else np.zeros((0, 0))
    # Maps from the inputs into the shift registers, from these to the model, and from inputs that are not delayed.
    enter, leave = np.zeros((nd, nu)), np.zeros((nu, nd))
    direct = np.diag([0.0 if d else 1.0 for d in delays])
    at = 0
    for j, d in enumerate(delays):
        if d:
            enter[at, j] = leave[j, at + d - 1] = 1.0
            at += d
    s = system
    return replace(
        s,
        A=np.block([[s.A, s.B2 @ leave], [np.zeros((nd, nx)), shift]]),
        B1=np.vstack([s.B1, np.zeros((nd, s.nv))]),
        B2=np.vstack([s.B2 @ direct, enter]),
        bx=np.concatenate([s.bx, np.zeros(nd)]),
        C1=np.hstack([s.C1, s.D12 @ leave]),
        D12=s.D12 @ direct,
        C2=np.hstack([s.C2, s.D22 @ leave]),
        D22=s.D22 @ direct,
    )


def _checked(delays: Sequence[int], nu: int) -> tuple[int, ...]:
    """Return ``delays`` as a tuple after checking that there is one whole number >= 0 per input."""
    if len(delays) != nu:
        raise ShapeError(f"delays must name one number of samples for each of {nu} inputs, got {tuple(delays)}")
    return tuple(count("delays", d, least=0) for d in delays)


def _arx_error(us: Sequence[Array], ys: Sequence[Array], delays: Sequence[int], memory: int, most: int) -> float:
    """Mean squared one-step error of a strictly proper ARX model, on the same samples for all delays."""
    rows, targets = [], []
    first = most + memory + 1  # the first target whose regressors exist for every delay that is tried
    for u, y in zip(us, ys, strict=True):
        T = len(y)
        if first >= T:
            continue
        past = [y[first - k : T - k] for k in range(1, memory + 1)]
        drive = [u[first - k - d : T - k - d, j : j + 1] for j, d in enumerate(delays) for k in range(1, memory + 1)]
        rows.append(np.concatenate([*past, *drive, np.ones((T - first, 1))], axis=1))
        targets.append(y[first:])
    R, Y = np.concatenate(rows), np.concatenate(targets)
    complete = ~np.isnan(np.concatenate([R, Y], axis=1)).any(axis=1)  # equations without a missing sample
    R, Y = R[complete], Y[complete]
    if len(R) <= R.shape[1]:
        raise SettingError(
            f"the records hold {len(R)} usable samples for {R.shape[1]} coefficients: lower most or memory"
        )
    theta = np.linalg.lstsq(R, Y, rcond=None)[0]
    return float(np.mean((Y - R @ theta) ** 2))
