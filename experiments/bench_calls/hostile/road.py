"""Calls of the road: files of measurements, road files and folders in which nothing or one stage is done."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from controlrnn import road
from experiments.bench_calls.hostile.call import Call, call, first
from experiments.bench_calls.hostile.kit import Kit


def road_calls(kit: Kit) -> Iterator[Call]:
    """Yield calls of the road's functions."""
    place = Path(kit.folder) / "road_calls"
    place.mkdir(exist_ok=True)
    rng, level = np.random.default_rng(0), 1.0
    rows = ["t,u,y"]
    for t in range(300):
        u = 1.0 + (t // 15) % 2 + 0.5 * ((t // 10) % 3)
        rows.append(f"{t},{u},{level + 0.01 * rng.standard_normal():.6f}")
        level += 0.3 * (u - level)
    (place / "a.csv").write_text("\n".join(rows) + "\n")
    made = road.draft_road([place / "a.csv"], base=place)
    (place / "road.toml").write_text(made.text)
    folder = road.Road.made(place / "road.toml", place / "road").folder
    yield call(
        "controlrnn.road.draft_road", first(road.draft_road, lambda d: d.text), 0.3, files=[str(place / "a.csv")],
        base=str(place), inputs=("u",), outputs=("y",), time="t", dt=1.0, timing="measured_first", budget=20.0,
    )  # fmt: skip
    yield call("controlrnn.road.read_road", first(road.read_road, repr), path=str(place / "road.toml"))
    for name in ("open_road", "Road", "verify_folder"):
        yield call(f"controlrnn.road.{name}", first(getattr(road, name), repr), 0.3, folder=str(folder))
    yield call(
        "controlrnn.road.run_road", first(road.run_road, lambda found: len(found)), 0.1, road=road.Road(folder),
        base=str(place), until="check", redo=True,
    )  # fmt: skip
