"""`check_data`: what records say before any model, as a report to read and to decide by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from controlrnn.checks import items
from controlrnn.data.checking.advice import Advice, advise, dynamics_findings, excitation_findings
from controlrnn.data.checking.dynamics import Dynamics, dynamics_of
from controlrnn.data.checking.findings import Finding, Level
from controlrnn.data.checking.readings import reading_faults
from controlrnn.data.copies import shared_stretches
from controlrnn.data.dataset import Dataset, belong_together
from controlrnn.data.signal import Signal
from controlrnn.data.trajectory import Trajectory
from controlrnn.errors import SettingError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LINES = 20


@dataclass(frozen=True, eq=False)
class DataReport:
    """What records show before any model is made; ``print(report)`` shows it in 20 lines.

    Args:
        inputs: Signals of the inputs.
        outputs: Signals of the outputs.
        samples: Number of samples of each record.
        dt: Sample time [s].
        findings: Faults, warnings and notes, the gravest first.
        dynamics: Linear dynamics; None where an output or all inputs never move.
        advice: Settings that follow from the dynamics; None likewise.
    """

    inputs: tuple[Signal, ...]
    outputs: tuple[Signal, ...]
    samples: tuple[int, ...]
    dt: float
    findings: tuple[Finding, ...]
    dynamics: Dynamics | None
    advice: Advice | None

    @property
    def faults(self) -> tuple[Finding, ...]:
        """Findings that have to be mended before a model is made."""
        return tuple(f for f in self.findings if f.level is Level.FAULT)

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Findings that make a model worse."""
        return tuple(f for f in self.findings if f.level is Level.WARNING)

    def __str__(self) -> str:
        lines = [
            f"{len(self.samples)} record(s) of {min(self.samples)} to {max(self.samples)} samples, dt = {self.dt:g} s, "
            f"{len(self.inputs)} inputs, {len(self.outputs)} outputs"
        ]
        if self.dynamics is not None and self.advice is not None:
            d, a = self.dynamics, self.advice
            times = d.time_constants[np.isfinite(d.time_constants)]
            lasting = f"{times.min():.3g} to {times.max():.3g} s" if len(times) else "unknown"
            noise = ", ".join(f"{n:.2g} {s.unit}".strip() for n, s in zip(d.noise[:4], self.outputs, strict=False))
            lines += [
                f"linear order {d.order}, time constants {lasting}, one-step error {noise}",
                f"identify with washout {a.washout}, window {a.window}, initial_state '{a.initial_state}', {a.states} "
                f"states, {a.neurons} neurons; leave gaps of {a.gap} samples",
                f"control with horizon {a.horizon}, inputs moving in {a.control_horizon} of them",
            ]
        room = _LINES - len(lines)
        shown = self.findings if len(self.findings) <= room else self.findings[: room - 1]
        lines += [str(f) for f in shown]
        if len(shown) < len(self.findings):
            lines.append(f"and {len(self.findings) - len(shown)} more findings")
        return "\n".join(lines)

    def plot(self) -> Figure:
        """Draw the gains, delays and time constants that were found, one panel a pair; returns the figure.

        Raises:
            SettingError: The records show no dynamics.
        """
        from matplotlib.figure import Figure

        if self.dynamics is None:
            raise SettingError("there are no dynamics to draw: mend the faults first, see findings")
        d, ny, nu = self.dynamics, len(self.outputs), len(self.inputs)
        figure = Figure(figsize=(2.6 * nu + 1, 1.8 * ny + 0.6), layout="constrained")
        panels = figure.subplots(ny, nu, squeeze=False, sharex=True)
        longest = float(
            np.nanmax(np.nan_to_num(d.delays) * self.dt + 5 * np.nan_to_num(d.time_constants), initial=self.dt)
        )
        t = np.linspace(0.0, longest, 200)
        for i in range(ny):
            for j in range(nu):
                panel, tau, gain = panels[i, j], d.time_constants[i, j], d.gains[i, j]
                if np.isfinite(tau):
                    rise = 1.0 - np.exp(-np.maximum(t - (d.delays[i, j] + 1) * self.dt, 0.0) / tau)
                    panel.plot(t, rise * (gain if np.isfinite(gain) else 1.0))
                    panel.set_title(f"gain {gain:.3g}, {tau:.3g} s" if np.isfinite(gain) else "integrates", fontsize=8)
                else:
                    panel.set_title("nothing seen", fontsize=8)
                panel.axhline(0.0, color="0.8", lw=0.8, zorder=0)
                if j == 0:
                    panel.set_ylabel(self.outputs[i].label)
                if i == ny - 1:
                    panel.set_xlabel(f"s after {self.inputs[j].label}")
        return figure


def check_data(data: Dataset | Trajectory | Sequence[Trajectory]) -> DataReport:
    """Look at records before any model: excitation, faulty readings, linear dynamics, and the advice that follows.

    A long ARX model with standard errors is the instrument; what it finds is linear and an estimate. Feedback, delays
    and feedthrough are stated where they are six standard errors from nothing.

    Args:
        data: A data set, of which the test records are not looked at, or records of one plant.

    Returns:
        The report; `DataReport.faults` is empty where a model may be made.

    Raises:
        DataError: The records do not belong together, or hold too few samples.
        SettingError: Something else is given.
    """
    records = _records(data)
    found = [*reading_faults(records)]
    for shared in shared_stretches(records):
        one, two = (records[k].name or f"number {k + 1}" for k in (shared.first, shared.second))
        found.append(
            Finding(
                Level.WARNING, f"records {one!r} and {two!r}", f"share {shared.samples} samples", "leave out copies"
            )
        )
    moves = np.ptp(np.concatenate([r.u for r in records]), axis=0).max(initial=0.0) > 0
    dynamics = advice = None
    if not moves:
        found.append(Finding(Level.FAULT, "inputs", "never move: the data hold nothing to learn from", "move them"))
    elif not any(f.level is Level.FAULT for f in found):
        dynamics = dynamics_of(records)
        advice = advise(records, dynamics)
        found += [*excitation_findings(records, dynamics), *dynamics_findings(records, dynamics, advice)]
    order = [Level.FAULT, Level.WARNING, Level.NOTE]
    return DataReport(
        inputs=records[0].inputs,
        outputs=records[0].outputs,
        samples=tuple(len(r) for r in records),
        dt=records[0].dt,
        findings=tuple(sorted(found, key=lambda f: order.index(f.level))),
        dynamics=dynamics,
        advice=advice,
    )


def _records(data: Dataset | Trajectory | Sequence[Trajectory]) -> tuple[Trajectory, ...]:
    """Records to look at, which belong together."""
    if isinstance(data, Dataset):
        return data.train + data.validation + data.calibration
    if isinstance(data, Trajectory):
        return (data,)
    records: tuple[Trajectory, ...] = items("data", data, Trajectory, least=1)
    belong_together(records)
    return records
