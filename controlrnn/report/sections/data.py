"""Section on the data: records, channels, findings before any model, advice, and how a record looks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from controlrnn.data import Advice, DataReport, Dataset, Dynamics, Signal, Trajectory
from controlrnn.report.blocks import Block, Section, Table, Words
from controlrnn.report.cells import Mark, Marked
from controlrnn.report.charts import Chart, Line, Panel, Style
from controlrnn.report.parts import Parts

_PARTS = {
    "train": "estimation", "validation": "validation", "test": "test (seen by no model)",
    "calibration": "calibration (seen by no model)",
}  # fmt: skip
_LEVELS = {"fault": Mark.BAD, "warning": Mark.WARNING}
_PANELS = 12  # channels that are drawn


def data_section(parts: Parts) -> Section | None:
    """The section; None where there are neither records nor a report of them.

    Args:
        parts: What the report is made of.
    """
    blocks: list[Block] = []
    if parts.data is not None:
        blocks += [_records(parts.data), _channels(parts.data, parts.inputs, parts.outputs)]
    if parts.checked is not None:
        blocks += list(_findings(parts.checked))
    if parts.data is not None:
        shown = (parts.data.test or parts.data.train)[0]
        blocks.append(_chart(shown))
    return Section("Data", blocks) if blocks else None


def _records(data: Dataset) -> Table:
    rows = []
    for name, what in _PARTS.items():
        records: tuple[Trajectory, ...] = getattr(data, name)
        if records:
            samples = sum(len(r) for r in records)
            missing = float(np.mean(np.concatenate([r.missing.ravel() for r in records])))
            rows.append([what, len(records), samples, samples * data.dt, 100 * missing])
    return Table(["used for", "records", "samples", "duration [s]", "missing outputs [%]"], rows)


def _channels(data: Dataset, inputs: Sequence[Signal], outputs: Sequence[Signal]) -> Table:
    u, y = (np.concatenate([getattr(r, name) for r in data.all]) for name in "uy")
    rows = []
    for kind, signals, values in (("input", inputs, u), ("output", outputs, y)):
        for signal, column in zip(signals, values.T, strict=False):
            limits = [None if np.isinf(v) else v for v in (signal.lower, signal.upper)]
            rows.append(
                [
                    kind,
                    signal.name,
                    signal.unit,
                    *limits,
                    float(np.nanmin(column)),
                    float(np.nanmax(column)),
                    float(np.nanstd(column)),
                ]
            )
    return Table(
        ["channel", "name", "unit", "lower limit", "upper limit", "smallest", "largest", "standard deviation"],
        rows,
        f"Channels, over all {len(data.all)} records; sample time {data.dt:g} s.",
    )


def _findings(checked: DataReport) -> Iterator[Block]:
    if checked.findings:
        yield Table(
            ["weight", "where", "what", "what to do"],
            [
                [
                    Marked(str(f.level), _LEVELS[f.level]) if f.level in _LEVELS else str(f.level),
                    f.where,
                    f.what,
                    f.advice or None,
                ]
                for f in checked.findings
            ],
            "What the records show before any model; the test records were not looked at.",
        )
    else:
        yield Words("Nothing was found that would make a model worse.")
    if checked.dynamics is None or checked.advice is None:
        yield Words("The linear dynamics were not estimated: faults have to be mended first.", strong=True)
    else:
        yield _dynamics(checked, checked.dynamics)
        yield _advice(checked.advice)


def _dynamics(checked: DataReport, found: Dynamics) -> Table:
    rows = [
        [
            one.name,
            other.name,
            float(found.gains[i, j]),
            float(found.delays[i, j]),
            float(found.time_constants[i, j]),
        ]
        for i, other in enumerate(checked.outputs)
        for j, one in enumerate(checked.inputs)
    ]
    return Table(
        ["from", "to", "gain", "dead time [samples]", "time constant [s]"],
        rows,
        f"Linear dynamics of order {found.order}, estimated from the records: what acts on what. A dash: nothing seen, "
        "or no end of it.",
    )


def _advice(advice: Advice) -> Table:
    columns = {
        "washout": advice.washout, "window": advice.window, "initial state": advice.initial_state,
        "horizon": advice.horizon, "inputs move in": advice.control_horizon, "states": advice.states,
        "neurons": advice.neurons, "gap": advice.gap, "sample time [s]": advice.dt,
    }  # fmt: skip
    return Table.of([columns], "Settings that follow from them, in samples.")


def _chart(record: Trajectory) -> Chart:
    panels = [
        Panel(signal.label, [Line(record.time, values, "", "ink", Style.STEP)])
        for signal, values in zip(record.inputs, record.u.T, strict=True)
    ]
    panels += [
        Panel(signal.label, [Line(record.time, values, "", 0)])
        for signal, values in zip(record.outputs, record.y.T, strict=True)
    ]
    more = "" if len(panels) <= _PANELS else f" The first {_PANELS} of {len(panels)} channels."
    name = f" {record.name!r}" if record.name else ""
    return Chart(
        "A record",
        panels[:_PANELS],
        "time [s]",
        f"Record{name}: {len(record)} samples, inputs above outputs.{more}",
        height=90,
    )
