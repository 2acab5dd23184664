"""mpc: from a certified model to a controller that keeps its limits.

``Predictor`` and an observer estimate and predict, `calibrate` and `tighten` say how far predictions can be off,
`TightenedMPC` controls, `run_closed_loop` and `monte_carlo` try it. do-mpc is imported only when its backend is used.
"""

from controlrnn.systems import observer_system
from mpc.closed_loop import ClosedLoopResult, run_closed_loop
from mpc.controller import Fallback, Mode, MpcStep, TightenedMPC
from mpc.engines import chain
from mpc.model_error import CalibrationMethod, Coverage, ModelError, calibrate, coverage_of
from mpc.monte_carlo import ClosedLoopSetup, MonteCarloResult, monte_carlo
from mpc.observer import Observer, RunningOn, Washout
from mpc.ocp import Backend, OptimalControlProblem, Solution, SolverOptions, Status, StepData
from mpc.predictor import Predictor
from mpc.residuals import DisturbanceFilter, calibration_errors, prediction_errors
from mpc.state_error import StateError
from mpc.state_observer import StateObserver, kalman_gain
from mpc.terminal import TerminalSet, terminal_set
from mpc.tightening import Tightening, nominal, recursive, tighten

__all__ = [
    "Backend",
    "CalibrationMethod",
    "ClosedLoopResult",
    "ClosedLoopSetup",
    "Coverage",
    "DisturbanceFilter",
    "Fallback",
    "Mode",
    "ModelError",
    "MonteCarloResult",
    "MpcStep",
    "Observer",
    "OptimalControlProblem",
    "Predictor",
    "RunningOn",
    "Solution",
    "SolverOptions",
    "StateError",
    "StateObserver",
    "Status",
    "StepData",
    "TerminalSet",
    "TightenedMPC",
    "Tightening",
    "Washout",
    "calibrate",
    "calibration_errors",
    "chain",
    "coverage_of",
    "kalman_gain",
    "monte_carlo",
    "nominal",
    "observer_system",
    "prediction_errors",
    "recursive",
    "run_closed_loop",
    "terminal_set",
    "tighten",
]
