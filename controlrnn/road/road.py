"""`Road`: a folder with everything from measurements to closed loops, and the stages that fill it."""

from __future__ import annotations

import logging
import os
import re
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

import mpc
from controlrnn.certification import ContractionCertificate, HorizonCertificate, load_certificate
from controlrnn.checks import Array
from controlrnn.data import DataReport, Dataset, Trajectory, check_data
from controlrnn.errors import FileFormatError, MissingDataError, SettingError
from controlrnn.export import load_system
from controlrnn.records import write_atomic
from controlrnn.records.writing import is_file
from controlrnn.road.data.splitting import PARTS
from controlrnn.road.file.reading import read_road
from controlrnn.road.file.schema import RoadFile
from controlrnn.road.ledger import Entry, Ledger, Stage, sha_of
from controlrnn.road.making import observer_of, predictor_of
from controlrnn.systems import LureSystem
from controlrnn.typed import typed

if TYPE_CHECKING:
    from controlrnn.identification import BestFit

C = TypeVar("C")
_log = logging.getLogger(__name__)
COPY = "road.toml"  # the road file as it was when the folder was made


class Road:
    """Folder of a road, with the same objects that Python would make.

    What is read from files is checked as their records are; the tightening is made again from its sources, so that a
    controller may use it. `controlrnn.road.verify_folder` proves everything again.

    Args:
        folder: The folder.

    Raises:
        MissingDataError: It is no folder of a road.
        SettingError: Its copy of the road file is not valid.
    """

    @typed()
    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)
        if not is_file(self.folder / COPY):
            raise MissingDataError(f"{self.folder} is no folder of a road: it lacks {COPY}; `controlrnn run` makes one")
        self.file: RoadFile = read_road(self.folder / COPY)
        self._newer: bytes | None = None

    @classmethod
    def made(cls, file: str | os.PathLike[str], folder: str | os.PathLike[str]) -> Road:
        """The folder of a road file, made where it is not there yet, with a copy of the file as it is now.

        Args:
            file: The road file.
            folder: The folder.
        """
        read = read_road(file)
        content = Path(file).read_bytes()
        target = Path(folder) / COPY
        if not is_file(target):
            write_atomic(target, content)
        road = cls(folder)
        road.file = read
        road._newer = content
        return road

    def keep_file(self) -> None:
        """Make the folder's copy of the road file the one that `made` was given; whoever runs stages calls it."""
        target = self.folder / COPY
        if self._newer is not None and target.read_bytes() != self._newer:
            write_atomic(target, self._newer)

    def __repr__(self) -> str:
        done = [f"  {name}: {'; '.join(entry.words[-1:])}" for name, entry in self.ledger.entries.items()]
        return "\n".join([f"Road in {self.folder}: {len(done)} of {len(Stage)} stages done", *done])

    @property
    def ledger(self) -> Ledger:
        """Ledger of the stages that were done, read from the folder anew each time."""
        return Ledger.read(self.folder)

    def entry(self, stage: Stage | str) -> Entry:
        """Findings of a stage, from the ledger.

        Args:
            stage: The stage.

        Raises:
            MissingDataError: It is not done.
        """
        found = self.ledger.entries.get(str(Stage(stage)))
        if found is None:
            raise MissingDataError(f"{self.folder}: stage {str(stage)!r} is not done: `controlrnn {stage}`")
        return found

    def path(self, stage: Stage, name: str) -> Path:
        """Path of a file that a stage wrote.

        Args:
            stage: The stage.
            name: The file's path in the folder.

        Raises:
            MissingDataError: The stage is not done.
            FileFormatError: The file is missing, or is not what the stage wrote.
        """
        sha = self.entry(stage).files.get(name)
        if sha is None:
            raise MissingDataError(f"stage {str(stage)!r} wrote no {name}")
        if sha_of(self.folder / name) != sha:
            raise FileFormatError(
                f"{self.folder / name} is missing or was changed after stage {str(stage)!r}: `controlrnn {stage}` "
                "makes it anew"
            )
        return self.folder / name

    @cached_property
    def data(self) -> Dataset:
        """Records, each with its purpose."""
        names = sorted(self.entry(Stage.CHECK).files, key=_numbered)
        found = {
            part: [Trajectory.load(self.path(Stage.CHECK, n)) for n in names if n.startswith(f"data/{part}_")]
            for part in PARTS
        }
        return Dataset(*(tuple(found[part]) for part in PARTS))

    @cached_property
    def data_report(self) -> DataReport:
        """Report of the data: what `check_data` found in them."""
        return check_data(self.data)

    @cached_property
    def fit(self) -> BestFit:
        """Models of the search, with their scores."""
        from controlrnn.identification import BestFit

        return BestFit.load(self.path(Stage.IDENTIFY, "fit.npz"))

    @cached_property
    def system(self) -> LureSystem:
        """The certified model that the controller predicts with."""
        system = load_system(self.path(Stage.CERTIFY, "model.npz"))
        if not isinstance(system, LureSystem):
            raise FileFormatError(f"{self.folder}/model.npz must hold a Lur'e system, got {type(system).__name__}")
        return system

    @property
    def predictor(self) -> mpc.Predictor:
        """The model with channels and limits."""
        return self._parts[0]

    @property
    def observer(self) -> mpc.Observer:
        """The controller's observer."""
        return self._parts[1]

    @cached_property
    def _parts(self) -> tuple[mpc.Predictor, mpc.Observer]:
        predictor = predictor_of(self.file, self.system)
        steps = self.entry(Stage.CERTIFY).figures.get("steps")
        if not isinstance(steps, int):
            raise FileFormatError(f"{self.folder}: the ledger must hold a whole number of steps, got {steps!r}")
        return predictor, observer_of(self.file, predictor, self.contraction, steps)

    @cached_property
    def contraction(self) -> ContractionCertificate:
        """Proof that the model forgets its start."""
        return self._certificate("contraction.npz", ContractionCertificate)

    @cached_property
    def certificate(self) -> HorizonCertificate:
        """Bounds on the prediction errors of the model."""
        return self._certificate("horizon.npz", HorizonCertificate)

    @cached_property
    def initial_certificate(self) -> HorizonCertificate | None:
        """The same without errors of inputs, which tells the parts apart; None where no errors are declared."""
        if "horizon_initial.npz" not in self.entry(Stage.CERTIFY).files:
            return None
        return self._certificate("horizon_initial.npz", HorizonCertificate)

    def _certificate(self, name: str, kind: type[C]) -> C:
        found = load_certificate(self.path(Stage.CERTIFY, name))
        if not isinstance(found, kind):
            raise FileFormatError(f"{self.folder / name} must hold a {kind.__name__}, got {type(found).__name__}")
        return found

    @cached_property
    def model_error(self) -> mpc.ModelError:
        """Calibrated bound on the model error."""
        return mpc.ModelError.load(self.path(Stage.TIGHTEN, "model_error.npz"))

    @cached_property
    def tightening(self) -> mpc.Tightening:
        """Room that limits are tightened by, made again from its sources."""
        found = mpc.Tightening.load(self.path(Stage.TIGHTEN, "tightening.npz"))
        found.verify(self.model_error, self.certificate, observer=self.observer)
        return found

    def controller(self, *, nominal: bool = False) -> mpc.TightenedMPC:
        """A new controller.

        Args:
            nominal: Whether its limits are not tightened, for comparison.
        """
        from controlrnn.road.loops import controller_of

        tightening = self.tightening
        if nominal:
            tightening = mpc.no_tightening(self.system.digest, tightening.horizon, self.system.ny)
        return controller_of(self.file, self.observer, tightening)

    @cached_property
    def loops(self) -> mpc.MonteCarloResult:
        """Closed loops with tightened limits."""
        return mpc.MonteCarloResult.load(self.path(Stage.SIMULATE, "loops_tightened.npz"))

    @cached_property
    def nominal_loops(self) -> mpc.MonteCarloResult | None:
        """The same loops without tightening; None where they did not run."""
        if "loops_nominal.npz" not in self.entry(Stage.SIMULATE).files:
            return None
        return mpc.MonteCarloResult.load(self.path(Stage.SIMULATE, "loops_nominal.npz"))


def _numbered(name: str) -> tuple[str, int]:
    """Order of files with numbers in their names: 2 before 10."""
    number = re.search(r"(\d+)\.npz$", name)
    return (name, 0) if number is None else (name[: number.start()], int(number[1]))


@typed()
def open_road(folder: str | os.PathLike[str]) -> Road:
    """Open a folder that ``controlrnn run`` filled: the same objects as in Python.

    Args:
        folder: The folder.

    Raises:
        MissingDataError: It is no folder of a road.
    """
    return Road(folder)


def one_step_noise(road: Road) -> Array:
    """Standard deviation of what a linear one-step prediction leaves of each output, shape (ny,)."""
    dynamics = road.data_report.dynamics
    if dynamics is None:
        raise SettingError("simulate.noise is needed: the data show no dynamics to take it from")
    return np.asarray(dynamics.noise, dtype=np.float64)
