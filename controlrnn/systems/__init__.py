"""What a model is: systems that run on numpy, torch and CasADi from one set of equations."""

from controlrnn.systems.activations import Activation
from controlrnn.systems.lure import MATRICES, LureSystem

__all__ = ["MATRICES", "Activation", "LureSystem"]
