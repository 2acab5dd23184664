"""How a model runs fast: compiled scans and their adjoints."""

from controlrnn.kernels.responses import Responses
from controlrnn.kernels.scan import Recording, output, rollout, simulate, step

__all__ = ["Recording", "Responses", "output", "rollout", "simulate", "step"]
