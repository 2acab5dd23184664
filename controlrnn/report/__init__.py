"""Reports: one self-contained HTML file for the engineer who has to decide, from results of any stage of the road.

`write_report` makes it of `Parts`, each of which may be missing. `Page` and its blocks are for pages of one's own.
Needs the extra ``report``.
"""

from controlrnn.report.blocks import Code, Listing, Page, Picture, Section, Table, Words
from controlrnn.report.cells import Mark, Marked
from controlrnn.report.charts import Band, Chart, Line, Panel, Span, Style
from controlrnn.report.page import write_page
from controlrnn.report.parts import Parts
from controlrnn.report.road import report_page, write_report

__all__ = [
    "Band",
    "Chart",
    "Code",
    "Line",
    "Listing",
    "Mark",
    "Marked",
    "Page",
    "Panel",
    "Parts",
    "Picture",
    "Section",
    "Span",
    "Style",
    "Table",
    "Words",
    "report_page",
    "write_page",
    "write_report",
]
