"""Section on premises and promises: what holds, of whom, as long as what holds."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import numpy as np

from controlrnn.report.blocks import Block, Listing, Section, Table, Words
from controlrnn.report.cells import cell
from controlrnn.report.parts import Parts

_SAID = {
    "system": "model", "timing": "order within a sample", "dt": "sample time [s]", "inputs": "inputs",
    "input_units": "their units", "outputs": "outputs", "output_units": "their units",
    "input_lower": "inputs not below", "input_upper": "inputs not above", "move_limit": "largest change per sample",
    "input_error": "true minus recorded input, at most", "command_error": "recorded minus commanded input, at most",
    "observer": "observer", "horizon": "prediction steps", "length": "samples of the shortest calibration record",
    "missing": "share of missing readings", "loop": "feedback of the calibration records", "region": "operating region",
}  # fmt: skip


def promises(parts: Parts) -> dict[str, str]:
    """Texts of all that is promised, by what promises it.

    Args:
        parts: What the report is made of.
    """
    found = {}
    if parts.tightening is not None:
        found["Predictions and limits"] = parts.tightening.promise
    if parts.model_error is not None:
        found["Model error"] = parts.model_error.promise
    if parts.observer is not None:
        found["State estimate"] = f"{parts.observer.describe()}. {parts.observer.promise}"
    found |= {name: one.promise for name, one in parts.promises.items()}
    return found | {f"Certificate, {name}": one.summary() for name, one in parts.certificates.items()}


def promises_section(parts: Parts) -> Section | None:
    """The section; None where nothing is promised.

    Args:
        parts: What the report is made of.
    """
    said, blocks = promises(parts), list[Block]()
    premises = getattr(parts.tightening, "premises", None)
    if said:
        blocks.append(Listing(said))
    if premises is not None:
        blocks.append(
            Words("All of this holds as long as the following does, which a controller watches at every step.")
        )
        blocks.append(Table(["premise", "as stated"], _rows(premises)))
    elif parts.tightening is not None:
        blocks.append(Words("No premises are stated: nothing says when these limits hold.", strong=True))
    return Section("Promises and premises", blocks) if blocks else None


def _rows(premises: Any) -> list[list[str]]:
    rows = []
    for one in fields(premises):
        value = getattr(premises, one.name)
        if value is None or (isinstance(value, tuple | str | dict) and not value):
            continue
        if isinstance(value, np.ndarray) and np.isinf(value).all():
            continue
        text = value[:16] if one.name in ("system", "region") else cell(value)
        rows.append([_SAID.get(one.name, one.name.replace("_", " ")), text])
    return rows
