"""Frozen systems for others to run: CasADi functions and model files."""

from controlrnn.export.casadi_functions import Symbolic, to_casadi
from controlrnn.export.files import load_system, save_system

__all__ = ["Symbolic", "load_system", "save_system", "to_casadi"]
