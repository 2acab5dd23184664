"""Kernels: fast compiled simulation of Lur'e systems, and its derivatives."""

from controlrnn.kernels.responses import Responses
from controlrnn.kernels.scan import Recording, output, rollout, simulate, step, value_and_gradient

__all__ = ["Recording", "Responses", "output", "rollout", "simulate", "step", "value_and_gradient"]
