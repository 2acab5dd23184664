"""How a model runs fast: compiled scans and their adjoints."""

from controlrnn.kernels.responses import Responses
from controlrnn.kernels.scan import Recording, simulate

__all__ = ["Recording", "Responses", "simulate"]
