"""Trainable models with guarantees: the parameterisation of one paper in each file."""

from controlrnn.models.base import Model
from controlrnn.models.cayley_rnn import CayleyRNN
from controlrnn.models.contracting_r2dn import ContractingR2DN
from controlrnn.models.contracting_ren import ContractingREN
from controlrnn.models.dissipative_ren import DissipativeREN
from controlrnn.models.elman import Elman
from controlrnn.models.gated import GRU, LSTM
from controlrnn.models.implicit_rnn import ContractingImplicitRNN
from controlrnn.models.lipschitz_r2dn import LipschitzR2DN
from controlrnn.models.lipschitz_ren import LipschitzREN
from controlrnn.models.lipschitz_rnn import LipschitzRNN
from controlrnn.models.lti import LTI
from controlrnn.models.ode_rnn import AntisymmetricRNN, NeuralODERNN
from controlrnn.models.residual_rnn import ResidualRNN
from controlrnn.models.robust_rnn import RobustRNN
from controlrnn.models.stable_rnn import StableRNN

__all__ = [
    "GRU",
    "LSTM",
    "LTI",
    "AntisymmetricRNN",
    "CayleyRNN",
    "ContractingImplicitRNN",
    "ContractingR2DN",
    "ContractingREN",
    "DissipativeREN",
    "Elman",
    "LipschitzR2DN",
    "LipschitzREN",
    "LipschitzRNN",
    "Model",
    "NeuralODERNN",
    "ResidualRNN",
    "RobustRNN",
    "StableRNN",
]
