"""The model for do-mpc's own controllers, estimators and simulators, for those who have a loop of theirs."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

from controlrnn.export import to_casadi
from controlrnn.typed import typed
from mpc.predictor import Predictor

if TYPE_CHECKING:
    import do_mpc


@typed()
def to_do_mpc(predictor: Predictor) -> do_mpc.model.Model:
    """Make a ``do_mpc.model.Model`` of a predictor's model, in discrete time and physical units.

    Its states are ``x`` (nx), its inputs ``u`` (nu), its measurements and the expression of the same name ``y`` (ny).
    Limits and sample time are set on do-mpc's controller: ``predictor.inputs``, ``predictor.outputs`` and
    ``predictor.system.dt``. Nothing that is certified here holds for what do-mpc makes of it.

    Args:
        predictor: The model with its channels.
    """
    with warnings.catch_warnings():  # do-mpc warns about optional features that are not installed
        warnings.simplefilter("ignore")
        import do_mpc

    step, output = to_casadi(predictor.system)
    model = do_mpc.model.Model("discrete", "SX")
    x, u = model.set_variable("_x", "x", (predictor.nx, 1)), model.set_variable("_u", "u", (predictor.nu, 1))
    y = output(x, u)
    model.set_expression("y", y)
    model.set_meas("y", y, meas_noise=False)
    model.set_rhs("x", step(x, u))
    with warnings.catch_warnings():  # do-mpc passes CasADi values to numpy functions, about which CasADi warns
        warnings.simplefilter("ignore", FutureWarning)
        model.setup()
    return model
