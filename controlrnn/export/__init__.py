"""Export of frozen systems: CasADi functions, C code, ONNX models, FMUs and model files."""

from controlrnn.export.c_code import to_c
from controlrnn.export.casadi_functions import Symbolic, to_casadi
from controlrnn.export.files import load_system, save_system
from controlrnn.export.fmu import to_fmu
from controlrnn.export.onnx_model import to_onnx

__all__ = ["Symbolic", "load_system", "save_system", "to_c", "to_casadi", "to_fmu", "to_onnx"]
