"""Animated GIF of a closed loop: past outputs and inputs, plans, and bounds on prediction errors."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from controlrnn.checks import count
from controlrnn.records import write_atomic
from mpc.loops.result import ClosedLoopResult

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_DPI = 70


def animate(
    result: ClosedLoopResult,
    path: str | os.PathLike[str],
    *,
    every: int = 1,
    milliseconds: int = 80,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write an animated GIF of a run.

    Args:
        result: The run.
        path: Target, usually ``*.gif``.
        every: Control steps per picture.
        milliseconds: Time per picture.
        progress: Called with (pictures done, pictures).

    Returns:
        Number of pictures.

    Raises:
        SettingError: ``every`` or ``milliseconds`` is not positive.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    steps = range(0, result.steps, count("every", every))
    milliseconds = count("milliseconds", milliseconds, least=20)  # below that viewers fall back to a slow default
    figure, update = _scene(result)
    canvas: Any = FigureCanvasAgg(figure)
    pictures = []
    for done, t in enumerate(steps, start=1):
        update(t)
        canvas.draw()
        figure.set_layout_engine("none")  # the first picture's layout serves all
        pictures.append(Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("P", palette=Image.Palette.ADAPTIVE))
        if progress is not None:
            progress(done, len(steps))
    content = io.BytesIO()
    pictures[0].save(
        content, format="GIF", save_all=True, append_images=pictures[1:], duration=milliseconds, loop=0, disposal=2
    )
    write_atomic(path, content.getvalue())
    return len(pictures)


def _scene(result: ClosedLoopResult) -> tuple[Figure, Callable[[int], None]]:
    """Make the figure, and the function that updates it for a control step."""
    from matplotlib.figure import Figure

    ny, nu = result.y.shape[1], result.u.shape[1]
    figure = Figure(figsize=(8, 1.7 * (ny + nu)), layout="constrained", dpi=_DPI)
    panels = figure.subplots(ny + nu, 1, sharex=True, squeeze=False)[:, 0]
    time, N = np.arange(result.steps + 1) * result.dt, len(result.bounds) - 1
    panels[-1].set_xlim(0, (result.steps + N) * result.dt)
    panels[-1].set_xlabel("time [s]")
    moving: list[Any] = []
    least, most = (result.predicted + ends for ends in result.error_ends)  # where outputs may be by the bounds
    for i, panel in enumerate(panels[:ny]):
        panel.step(time, result.reference[:, i], where="post", color="0.7", lw=1)
        seen = [result.y[:, i], least[..., i].ravel(), most[..., i].ravel()]
        for limit in (result.lower[i], result.upper[i]):
            if np.isfinite(limit):
                panel.axhline(limit, color="C3")
                seen.append(np.array([limit]))
        low, high = (f(np.concatenate(seen)) for f in (np.min, np.max))
        panel.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
        panel.set_ylabel(result.names[i])
        moving.append((*panel.plot([], [], color="C0"), *panel.plot([], [], color="C0", ls=":"), panel))
    for i, panel in enumerate(panels[ny:]):
        panel.set_ylabel(result.names[ny + i])
        low, high = result.u[:, i].min(), result.u[:, i].max()
        margin = 0.05 * (high - low) or 1.0
        panel.set_ylim(low - margin, high + margin)
        moving.append(panel.plot([], [], color="0.3", drawstyle="steps-post")[0])
    bands: list[Any] = []

    def update(t: int) -> None:
        while bands:  # matplotlib cannot move a filled band: it is drawn again
            bands.pop().remove()
        ahead = (t + np.arange(N + 1)) * result.dt
        for i, (past, plan, panel) in enumerate(moving[:ny]):
            past.set_data(time[: t + 1], result.y[: t + 1, i])
            plan.set_data(ahead, result.predicted[t, :, i])
            bands.append(panel.fill_between(ahead, least[t, :, i], most[t, :, i], color="C0", alpha=0.25, lw=0))
        for i, line in enumerate(moving[ny:]):
            line.set_data(time[: t + 1], result.u[: t + 1, i])
        if result.faults[t].any():
            what = ", ".join(k for k, on in zip(result.fault_kinds, result.faults[t], strict=True) if on)
            panels[0].set_title(f"fault: {what}", fontsize="small", color="C3")
        else:
            panels[0].set_title(f"t = {time[t]:g} s", fontsize="small")

    return figure, update
