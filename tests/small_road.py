"""A small tank whose records and road file take seconds: what the tests of the road and of the command share."""

import re

from controlrnn.road import Road, Stage, draft_road, run_road
from plants import MultiTank, excitation, simulate


def write_csv(path, samples=600, seed=1):
    """Record of a tank as a file of measurements."""
    plant = MultiTank(1, dt=10.0)
    u = excitation.random_steps(samples, [(1.0, 4.0)], hold=(4, 30), seed=seed)
    record = simulate(plant, u[None], noise_std=0.1, seed=seed)[0]
    rows = [f"{10 * t},{record.u[t, 0]:.6g},{record.y[t, 0]:.6g}" for t in range(samples)]
    path.write_text("\n".join(["time [s],pump [L/min],level [cm]", *rows]) + "\n")
    return path


def set_fields(path, **fields):
    """Change fields of a road file that stand in it once, also those that are left out."""
    text = path.read_text()
    for name, value in fields.items():
        text, n = re.subn(rf"^(# )?{name} = .*$", f"{name} = {value}", text, flags=re.MULTILINE)
        assert n == 1, (name, n)
    path.write_text(text)


def write_road(place):
    """Measurements and a road file in a folder, with settings that take seconds."""
    write_csv(place / "tank.csv")
    (place / "road.toml").write_text(draft_road([place / "tank.csv"], base=place).text)
    set_fields(place / "road.toml", **QUICK)


QUICK = {"budget": 2.0, "iterations": 60, "loops": 2, "hold": 12, "horizon": 8, "control_horizon": 4}

DONE = [Stage.CHECK, Stage.IDENTIFY, Stage.CERTIFY, Stage.TIGHTEN, Stage.SIMULATE]


class Seen:
    """What a run did and what it kept."""

    def __init__(self):
        self.made, self.kept, self.moved = [], [], []

    def begins(self, stage):
        self.made.append(stage)

    def ends(self, stage, entry, kept):  # noqa: ARG002
        if kept:
            self.kept.append(stage)

    def moves(self, done, total):
        self.moved.append((done, total))

    def search(self):
        return ()


def drive(place, until=Stage.SIMULATE, **options):
    seen = Seen()
    road = Road.made(place / "road.toml", place / "road")
    run_road(road, place, until=until, listener=seen, **options)
    return seen
