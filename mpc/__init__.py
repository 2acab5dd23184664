"""mpc: from a certified model to a controller that keeps its limits.

``Predictor`` and an observer estimate and predict, `calibrate` and `tighten` say how far predictions can be off,
`TightenedMPC` controls, `run_closed_loop` and `monte_carlo` try it. do-mpc is imported only when its backend is used.
"""

from controlrnn.systems import observer_system
from mpc.adaptive import Adaptation, AdaptiveMPC
from mpc.c_controller import controller_to_c
from mpc.closed_loop import run_closed_loop
from mpc.closed_loop_calibration import ClosedLoopCalibration, LoopEffort, back_off, calibrate_closed_loop
from mpc.closed_loop_result import ClosedLoopResult
from mpc.closed_loop_rounds import LoopRound, SimulatedLoops
from mpc.control_step import Fallback, MpcStep
from mpc.controller import Mode, TightenedMPC
from mpc.coverage_met import CoverageMet
from mpc.coverage_watch import CoveragePromise
from mpc.delayed_plant import DelayedPlant
from mpc.encoder_observer import EncoderObserver
from mpc.engines import chain
from mpc.estimate_error import EstimateError, calibrate_estimates, estimate_errors
from mpc.faults import (
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
from mpc.guarded import GuardedObserver
from mpc.guarded_tightening import tighten_guarded
from mpc.local_tightening import certify_plan, plan_digest, tighten_around
from mpc.measurement_guard import GuardRun, MeasurementGuard, Verdict
from mpc.model_error import CalibrationMethod, Coverage, ModelError, calibrate, coverage_of
from mpc.monte_carlo import ClosedLoopSetup, MonteCarloResult, monte_carlo
from mpc.moving_horizon import EstimateInfo, MovingHorizonObserver
from mpc.observer import Observer, RunningOn, Washout
from mpc.ocp import Backend, OptimalControlProblem, Solution, SolverOptions, Status, StepData
from mpc.order_statistics import anytime_interval, clopper_pearson, confident_rank, conformal_rank
from mpc.predictor import Predictor
from mpc.premises import Premises, premises_of
from mpc.programmes import RandomSteps, Wandering, staircase
from mpc.promise import CoverageUnit, Loop, LoopTarget, Operation
from mpc.recall import Recall, certify_changes, remember
from mpc.region import OperatingRegion, RegionShape, RegionStatus, RegionWatch, learn_region
from mpc.residuals import DisturbanceFilter, calibration_errors, prediction_errors
from mpc.state_error import StateError
from mpc.state_observer import StateObserver, kalman_gain
from mpc.terminal import TerminalSet, terminal_set
from mpc.tightening import Tightening, nominal, recursive, tighten
from mpc.watch import Premise, Reaction, Watching

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
    "DropOut",
    "EncoderObserver",
    "EstimateError",
    "EstimateInfo",
    "Fallback",
    "Fault",
    "FrozenSensor",
    "GuardRun",
    "GuardedObserver",
    "Late",
    "Loop",
    "LoopEffort",
    "LoopRound",
    "LoopTarget",
    "MeasurementGuard",
    "Mode",
    "ModelError",
    "MonteCarloResult",
    "MovingHorizonObserver",
    "MpcStep",
    "Observer",
    "OperatingRegion",
    "Operation",
    "OptimalControlProblem",
    "Outlier",
    "Predictor",
    "Premise",
    "Premises",
    "RandomFaults",
    "RandomSteps",
    "Reaction",
    "Recall",
    "RegionShape",
    "RegionStatus",
    "RegionWatch",
    "RunningOn",
    "SaturatedActuator",
    "SaturatedSensor",
    "SensorFault",
    "SimulatedLoops",
    "Solution",
    "SolverOptions",
    "StateError",
    "StateObserver",
    "Status",
    "StepData",
    "StuckActuator",
    "TerminalSet",
    "TightenedMPC",
    "Tightening",
    "TimeOut",
    "Verdict",
    "Wandering",
    "Washout",
    "Watching",
    "anytime_interval",
    "back_off",
    "calibrate",
    "calibrate_closed_loop",
    "calibrate_estimates",
    "calibration_errors",
    "certify_changes",
    "certify_plan",
    "chain",
    "clopper_pearson",
    "confident_rank",
    "conformal_rank",
    "controller_to_c",
    "coverage_of",
    "estimate_errors",
    "kalman_gain",
    "learn_region",
    "monte_carlo",
    "nominal",
    "observer_system",
    "plan_digest",
    "prediction_errors",
    "premises_of",
    "recursive",
    "remember",
    "run_closed_loop",
    "staircase",
    "terminal_set",
    "tighten",
    "tighten_around",
    "tighten_guarded",
]
