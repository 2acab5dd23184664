"""Figures of the robust-RNN study: accuracy against gain, errors against the level of the inputs, examples."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from controlrnn.checks import Array
from controlrnn.data import Trajectory
from experiments.papers.robust_rnn.judging import FREE, NAMES, PUBLISHED, SIGMAS, TRAINED, Rows


def trade_off(rows: Rows) -> Figure:
    """NSE against the gain found, every seed, with the published values."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    for n, (family, own) in enumerate(rows.items()):
        gain, error = ([row[name] for row in own] for name in ("found", "nse_3"))
        axes.loglog(gain, error, "os"[family in FREE], color=f"C{n}", label=NAMES[family])
        if family in PUBLISHED:
            nse, found = PUBLISHED[family]
            axes.loglog(found, nse, "x", color=f"C{n}", markersize=9)
    handles, _ = axes.get_legend_handles_labels()
    handles.append(Line2D([], [], color="k", marker="x", linestyle="", label="published"))
    axes.legend(handles=handles, fontsize="small", ncols=2)
    axes.set(xlabel="largest gain found [m/N]", ylabel="NSE at sigma = 3")
    axes.grid(visible=True, which="both", alpha=0.3)
    return figure


def generalisation(rows: Rows) -> Figure:
    """Box plots of the error over the level, one panel a family, and the medians of all."""
    figure = Figure(figsize=(13, 8), layout="constrained")
    panels = figure.subplots(3, 4, sharex=True, sharey=True).flatten()
    for n, (family, own) in enumerate(rows.items()):
        quantiles = np.median([row["spread"] for row in own], axis=0)
        boxes = [{"whislo": q[0], "q1": q[1], "med": q[2], "q3": q[3], "whishi": q[4], "fliers": []} for q in quantiles]
        panels[n].bxp(boxes, positions=SIGMAS, widths=0.35, showfliers=False)
        panels[n].set_title(NAMES[family], fontsize="medium")
        panels[-1].semilogy(SIGMAS, quantiles[:, 2], color=f"C{n}", label=NAMES[family])
    panels[-1].set_title("medians", fontsize="medium")
    panels[-2].set_axis_off()
    handles, labels = panels[-1].get_legend_handles_labels()
    panels[-2].legend(handles, labels, loc="center", ncols=2, fontsize="small")
    for panel in (*panels[: len(rows)], panels[-1]):
        panel.axvline(TRAINED, color="0.8", zorder=0)
        panel.set_xticks((1, 3, 5, 7, 9), ("1", "3", "5", "7", "9"))
    panels[0].set(ylim=(0.03, 1.5), xlim=(0, 11))
    figure.supxlabel("level sigma of the inputs (trained at 3); boxes: quartiles, whiskers: 5 and 95 %")
    figure.supylabel("|y - yhat| / |y|")
    return figure


def examples(records: Mapping[str, Trajectory], runs: Mapping[str, Mapping[str, Array]]) -> Figure:
    """Outputs and errors of some families on some records."""
    figure = Figure(figsize=(12, 6), layout="constrained")
    panels = figure.subplots(2, len(records), sharex="col", height_ratios=[2, 1])
    for column, (title, record) in zip(panels.T, records.items(), strict=True):
        column[0].plot(record.time, record.y[:, 0], "k", label="measured")
        for name, run in runs[title].items():
            column[0].plot(record.time, run[:, 0], label=NAMES[name], linewidth=1)
            column[1].plot(record.time, record.y[:, 0] - run[:, 0], label=NAMES[name], linewidth=1)
        column[0].set_title(title)
        column[1].set_xlabel("time [s]")
    panels[0, 0].set_ylabel("position [m]")
    panels[1, 0].set_ylabel("error [m]")
    panels[0, 0].legend(fontsize="small")
    return figure
