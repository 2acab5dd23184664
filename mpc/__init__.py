"""MPC with certified recurrent models: observers, calibration, constraint tightening, controllers, closed loops.

``Predictor`` and an observer estimate the state and predict, `calibrate` and `tighten` bound prediction errors,
`TightenedMPC` controls, `run_closed_loop` and `monte_carlo` simulate. do-mpc is imported only if its backend is used.
"""

from controlrnn.systems import observer_system
from mpc.c_code.writer import controller_to_c
from mpc.calibration.model_error import CalibrationMethod, Coverage, ModelError, calibrate, coverage_of
from mpc.calibration.plausibility import PlausibilityLimits, PlausibilityRun, Verdict
from mpc.calibration.region import OperatingRegion, RegionShape, RegionStatus, RegionWatch, learn_region
from mpc.calibration.residuals import DisturbanceFilter, calibration_errors, prediction_errors
from mpc.control.adaptive import Adaptation, AdaptiveMPC
from mpc.control.controller import TightenedMPC
from mpc.control.settings import Safety, Solver
from mpc.control.step import MpcStep
from mpc.loops.animation import animate
from mpc.loops.calibration import ClosedLoopCalibration, LoopEffort, back_off, calibrate_closed_loop
from mpc.loops.delayed_plant import DelayedPlant
from mpc.loops.faults import (
    ActuatorFault,
    ActuatorOffset,
    DropOut,
    Fault,
    FrozenSensor,
    Late,
    Outlier,
    RandomFaults,
    SaturatedActuator,
    SaturatedSensor,
    SensorFault,
    StuckActuator,
    TimeOut,
)
from mpc.loops.monte_carlo import ClosedLoopSetup, LoopEngine, MonteCarloResult, monte_carlo
from mpc.loops.result import ClosedLoopResult
from mpc.loops.rounds import LoopRound, SimulatedLoops
from mpc.loops.run import run_closed_loop
from mpc.loops.settings import Disturbances, Start
from mpc.loops.signals import RandomSteps, Wandering, staircase
from mpc.observers.base import Observer
from mpc.observers.encoder import EncoderObserver
from mpc.observers.estimate_error import EstimateError, calibrate_estimates, estimate_errors
from mpc.observers.guarded import GuardedObserver
from mpc.observers.innovation import StateObserver, kalman_gain
from mpc.observers.moving_horizon import EstimateInfo, MovingHorizonObserver
from mpc.observers.state_error import StateError
from mpc.observers.washout import RunningOn, Washout
from mpc.online.opc_ua import OpcUaNodes, Operated, operate
from mpc.predictor import Predictor
from mpc.problem.ocp import Backend, OptimalControlProblem, Solution, StepData
from mpc.problem.settings import Limits, Mode, Prices, Tracking
from mpc.problem.solver_options import SolverOptions, Status
from mpc.problem.steady_input import steady_input
from mpc.promises.coverage_met import CoverageMet
from mpc.promises.order_statistics import anytime_interval, clopper_pearson, confident_rank, conformal_rank
from mpc.promises.premises import Premises, premises_of
from mpc.promises.promise import CoverageUnit, Loop, LoopTarget, Operation
from mpc.safety.coverage_watch import CoveragePromise
from mpc.safety.fallback import Fallback
from mpc.safety.premise_watch import Premise, Reaction, Watching
from mpc.solvers.chain import chain
from mpc.solvers.dompc_model import to_do_mpc
from mpc.tightening.around_plan import certify_plan, plan_digest, tighten_around
from mpc.tightening.error_memory import ErrorMemory, certify_changes, make_error_memory
from mpc.tightening.guarded import tighten_guarded
from mpc.tightening.predictions import certify_jump, certify_predictions
from mpc.tightening.terminal_set import TerminalSet, terminal_set
from mpc.tightening.tightening import Tightening, make_recursive, no_tightening, tighten

__all__ = [
    "ActuatorFault",
    "ActuatorOffset",
    "Adaptation",
    "AdaptiveMPC",
    "Backend",
    "CalibrationMethod",
    "ClosedLoopCalibration",
    "ClosedLoopResult",
    "ClosedLoopSetup",
    "Coverage",
    "CoverageMet",
    "CoveragePromise",
    "CoverageUnit",
    "DelayedPlant",
    "DisturbanceFilter",
    "Disturbances",
    "DropOut",
    "EncoderObserver",
    "ErrorMemory",
    "EstimateError",
    "EstimateInfo",
    "Fallback",
    "Fault",
    "FrozenSensor",
    "GuardedObserver",
    "Late",
    "Limits",
    "Loop",
    "LoopEffort",
    "LoopEngine",
    "LoopRound",
    "LoopTarget",
    "Mode",
    "ModelError",
    "MonteCarloResult",
    "MovingHorizonObserver",
    "MpcStep",
    "Observer",
    "OpcUaNodes",
    "Operated",
    "OperatingRegion",
    "Operation",
    "OptimalControlProblem",
    "Outlier",
    "PlausibilityLimits",
    "PlausibilityRun",
    "Predictor",
    "Premise",
    "Premises",
    "Prices",
    "RandomFaults",
    "RandomSteps",
    "Reaction",
    "RegionShape",
    "RegionStatus",
    "RegionWatch",
    "RunningOn",
    "Safety",
    "SaturatedActuator",
    "SaturatedSensor",
    "SensorFault",
    "SimulatedLoops",
    "Solution",
    "Solver",
    "SolverOptions",
    "Start",
    "StateError",
    "StateObserver",
    "Status",
    "StepData",
    "StuckActuator",
    "TerminalSet",
    "TightenedMPC",
    "Tightening",
    "TimeOut",
    "Tracking",
    "Verdict",
    "Wandering",
    "Washout",
    "Watching",
    "animate",
    "anytime_interval",
    "back_off",
    "calibrate",
    "calibrate_closed_loop",
    "calibrate_estimates",
    "calibration_errors",
    "certify_changes",
    "certify_jump",
    "certify_plan",
    "certify_predictions",
    "chain",
    "clopper_pearson",
    "confident_rank",
    "conformal_rank",
    "controller_to_c",
    "coverage_of",
    "estimate_errors",
    "kalman_gain",
    "learn_region",
    "make_error_memory",
    "make_recursive",
    "monte_carlo",
    "no_tightening",
    "observer_system",
    "operate",
    "plan_digest",
    "prediction_errors",
    "premises_of",
    "run_closed_loop",
    "staircase",
    "steady_input",
    "terminal_set",
    "tighten",
    "tighten_around",
    "tighten_guarded",
    "to_do_mpc",
]
