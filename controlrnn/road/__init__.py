"""The road as a file: ``road.toml`` leads from measurements to a certified model, a controller and its closed loops.

The command ``controlrnn`` does the same from a shell. `open_road` gives what a folder holds as objects.
"""

from controlrnn.road.data.draft import Draft, draft_road
from controlrnn.road.file.reading import read_road
from controlrnn.road.file.schema import RoadFile
from controlrnn.road.ledger import Entry, Stage
from controlrnn.road.proving import Verdict, verify_folder
from controlrnn.road.road import Road, open_road
from controlrnn.road.stages import run_road

__all__ = [
    "Draft",
    "Entry",
    "Road",
    "RoadFile",
    "Stage",
    "Verdict",
    "draft_road",
    "open_road",
    "read_road",
    "run_road",
    "verify_folder",
]
