"""From records to an identified system: training, linear baselines, initial states, scores."""

from controlrnn.identification.arx import ArxModel, identify_arx, select_arx
from controlrnn.identification.delays import estimate_delays, with_delays, without_delays
from controlrnn.identification.encoder import StateEncoder, fit_encoder
from controlrnn.identification.fit import identify
from controlrnn.identification.initial_state import estimate_initial_state
from controlrnn.identification.losses import Batch, Loss, Simulation, SimulationError, Term, WeightedSum
from controlrnn.identification.metrics import Scores, fit_percent, nrmse, r2, rmse
from controlrnn.identification.noise_bound import NoiseUpperBound, StretchPenalty, output_noise_bound, step_norm
from controlrnn.identification.noise_covariance import NoiseCovariance, output_covariance
from controlrnn.identification.observer import estimate_states, observer_dataset
from controlrnn.identification.order import OrderSelection, select_order
from controlrnn.identification.prediction import PredictionScores, score_predictions
from controlrnn.identification.progress import Callback, Progress, TqdmProgress
from controlrnn.identification.regularisers import L2, Group, GroupLasso, group_norms, without_states
from controlrnn.identification.residuals import ResidualTest, check_residuals
from controlrnn.identification.result import FitResult
from controlrnn.identification.robust_start import start_robust_rnn
from controlrnn.identification.settings import FitStatus, InitialState, Keep, Refine, Schedule, Settings, Start
from controlrnn.identification.simulation import free_run, initial_states, score
from controlrnn.identification.starts import Starts, average, identify_starts
from controlrnn.identification.subspace import SubspaceModel, identify_subspace

__all__ = [
    "L2",
    "ArxModel",
    "Batch",
    "Callback",
    "FitResult",
    "FitStatus",
    "Group",
    "GroupLasso",
    "InitialState",
    "Keep",
    "Loss",
    "NoiseCovariance",
    "NoiseUpperBound",
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
    "WeightedSum",
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
    "identify_starts",
    "identify_subspace",
    "initial_states",
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
