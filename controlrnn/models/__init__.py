"""How to train a model with its guarantee: one paper's parameterisation a file."""

from controlrnn.models.base import Model
from controlrnn.models.contracting_r2dn import ContractingR2DN
from controlrnn.models.elman import Elman
from controlrnn.models.lti import LTI

__all__ = ["LTI", "ContractingR2DN", "Elman", "Model"]
