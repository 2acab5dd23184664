"""The report of a road from data to a controller: its sections, from whatever parts there are."""

from __future__ import annotations

import os
from pathlib import Path

from controlrnn.report.blocks import Page
from controlrnn.report.page import write_page
from controlrnn.report.parts import Parts
from controlrnn.report.sections.bounds import bounds_section
from controlrnn.report.sections.budget import budget_section
from controlrnn.report.sections.data import data_section
from controlrnn.report.sections.loops import loops_section
from controlrnn.report.sections.models import models_section, residual_section
from controlrnn.report.sections.origins import checked_now, origins_section
from controlrnn.report.sections.promises import promises_section
from controlrnn.report.sections.summary import summary_section
from controlrnn.typed import typed


@typed()
def write_report(parts: Parts, path: str | os.PathLike[str]) -> Path:
    """Write a report as one HTML file that needs nothing else; returns its path.

    Args:
        parts: What it is made of.
        path: The file; parent folders are made.

    Raises:
        SettingError: jinja2 is not installed: ``pip install 'controlrnn[report]'``.
        StorageError: The file cannot be written.
    """
    return write_page(report_page(parts), path)


@typed()
def report_page(parts: Parts) -> Page:
    """Make the page of a report, to which sections of one's own can be added before `write_page`.

    Certificates are verified meanwhile, and free runs of the models are made.

    Args:
        parts: What it is made of.
    """
    proofs = checked_now(parts)
    sections = [
        summary_section(parts, proofs),
        data_section(parts),
        models_section(parts),
        residual_section(parts),
        budget_section(parts),
        bounds_section(parts),
        loops_section(parts),
        promises_section(parts),
        origins_section(parts, proofs),
    ]
    return Page(parts.title, [s for s in sections if s is not None and s.blocks], parts.about)
