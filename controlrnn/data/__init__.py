"""Records of experiments, from arrays, files and data frames: signals, trajectories, data sets, scaling; numpy only."""

from controlrnn.data.checking.advice import Advice
from controlrnn.data.checking.dynamics import Dynamics
from controlrnn.data.checking.findings import Finding, Level
from controlrnn.data.checking.report import DataReport, check_data
from controlrnn.data.dataset import Dataset
from controlrnn.data.files import read_records
from controlrnn.data.reading.options import Doubled, Reading
from controlrnn.data.scaling import Scaler
from controlrnn.data.signal import Signal
from controlrnn.data.trajectory import Timing, Trajectory

__all__ = [
    "Advice",
    "DataReport",
    "Dataset",
    "Doubled",
    "Dynamics",
    "Finding",
    "Level",
    "Reading",
    "Scaler",
    "Signal",
    "Timing",
    "Trajectory",
    "check_data",
    "read_records",
]
