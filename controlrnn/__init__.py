"""controlrnn: from plant data to recurrent models whose prediction error is certified.

The stages: ``plants -> data -> models -> identification -> certification -> export -> mpc``. Import what you need
from the stage it belongs to, e.g. ``from controlrnn.models import ContractingR2DN``; importing this package alone
is cheap and pulls in neither torch nor casadi.
"""

import logging

__version__ = "0.1.0"

logging.getLogger(__name__).addHandler(logging.NullHandler())
