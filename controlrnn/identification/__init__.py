"""Identification of systems from records: training, linear baselines, initial states, scores."""

from controlrnn.identification.linear.arx import ArxModel, identify_arx, select_arx
from controlrnn.identification.linear.delays import estimate_delays, with_delays, without_delays
from controlrnn.identification.linear.order import OrderSelection, select_order
from controlrnn.identification.linear.subspace import SubspaceModel, identify_subspace
from controlrnn.identification.losses.base import Batch, Decaying, Loss, Simulation, SimulationError, Term, WeightedSum
from controlrnn.identification.losses.noise_bound import NoiseUpperBound, StretchPenalty, output_noise_bound, step_norm
from controlrnn.identification.losses.noise_covariance import (
    NoiseCovariance,
    last_output_covariance,
    output_covariance,
)
from controlrnn.identification.losses.regularisers import L2, Group, GroupLasso, group_norms, without_states
from controlrnn.identification.scores.free_run import free_run, initial_states, score
from controlrnn.identification.scores.metrics import Scores, fit_percent, nrmse, r2, rmse
from controlrnn.identification.scores.prediction import PredictionScores, score_predictions
from controlrnn.identification.scores.residuals import ResidualTest, check_residuals
from controlrnn.identification.selection.best import identify_best
from controlrnn.identification.selection.candidates import Candidate, Family
from controlrnn.identification.selection.meter import Clock, Work
from controlrnn.identification.selection.result import BestFit, Entry
from controlrnn.identification.selection.trials import Trial
from controlrnn.identification.states.encoder import StateEncoder, fit_encoder
from controlrnn.identification.states.initial_state import estimate_initial_state
from controlrnn.identification.training.identify import identify
from controlrnn.identification.training.observer_training import estimate_states, observer_dataset
from controlrnn.identification.training.progress import Callback, Progress, TqdmProgress
from controlrnn.identification.training.result import FitResult
from controlrnn.identification.training.robust_start import start_robust_rnn
from controlrnn.identification.training.settings import (
    FitStatus,
    InitialState,
    Keep,
    Options,
    Refine,
    Schedule,
    Settings,
    Start,
)
from controlrnn.identification.training.starts import Starts, average, identify_starts

__all__ = [
    "L2",
    "ArxModel",
    "Batch",
    "BestFit",
    "Callback",
    "Candidate",
    "Clock",
    "Decaying",
    "Entry",
    "Family",
    "FitResult",
    "FitStatus",
    "Group",
    "GroupLasso",
    "InitialState",
    "Keep",
    "Loss",
    "NoiseCovariance",
    "NoiseUpperBound",
    "Options",
    "OrderSelection",
    "PredictionScores",
    "Progress",
    "Refine",
    "ResidualTest",
    "Schedule",
    "Scores",
    "Settings",
    "Simulation",
    "SimulationError",
    "Start",
    "Starts",
    "StateEncoder",
    "StretchPenalty",
    "SubspaceModel",
    "Term",
    "TqdmProgress",
    "Trial",
    "WeightedSum",
    "Work",
    "average",
    "check_residuals",
    "estimate_delays",
    "estimate_initial_state",
    "estimate_states",
    "fit_encoder",
    "fit_percent",
    "free_run",
    "group_norms",
    "identify",
    "identify_arx",
    "identify_best",
    "identify_starts",
    "identify_subspace",
    "initial_states",
    "last_output_covariance",
    "nrmse",
    "observer_dataset",
    "output_covariance",
    "output_noise_bound",
    "r2",
    "rmse",
    "score",
    "score_predictions",
    "select_arx",
    "select_order",
    "start_robust_rnn",
    "step_norm",
    "with_delays",
    "without_delays",
    "without_states",
]  # fmt: skip
