"""Records of experiments: signals, trajectories, data sets and scaling; numpy only."""

from controlrnn.data.dataset import Dataset
from controlrnn.data.scaling import Scaler
from controlrnn.data.signal import Signal
from controlrnn.data.trajectory import Timing, Trajectory

__all__ = ["Dataset", "Scaler", "Signal", "Timing", "Trajectory"]
