"""Grey boxes: physical equations with parameters as Lur'e systems, whose laws are neurons with known slopes."""

from controlrnn.greybox.equations import Equations, Method, Parameter
from controlrnn.greybox.fitting import FitOptions, GreyBoxFit, fit_equations
from controlrnn.greybox.ranges import beyond_ranges
from controlrnn.greybox.tracing import Traced, trace

__all__ = [
    "Equations",
    "FitOptions",
    "GreyBoxFit",
    "Method",
    "Parameter",
    "Traced",
    "beyond_ranges",
    "fit_equations",
    "trace",
]
