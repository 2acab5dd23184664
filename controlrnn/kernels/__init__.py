"""How a model runs fast: compiled scans and their adjoints."""

from controlrnn.kernels.responses import propagate
from controlrnn.kernels.scan import Recording, simulate

__all__ = ["Recording", "propagate", "simulate"]
