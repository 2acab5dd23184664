"""Records of experiments, from arrays, files and data frames: signals, trajectories, data sets, scaling; numpy only."""

from controlrnn.data.dataset import Dataset
from controlrnn.data.files import read_records
from controlrnn.data.reading.options import Doubled, Reading
from controlrnn.data.scaling import Scaler
from controlrnn.data.signal import Signal
from controlrnn.data.trajectory import Timing, Trajectory

__all__ = ["Dataset", "Doubled", "Reading", "Scaler", "Signal", "Timing", "Trajectory", "read_records"]
