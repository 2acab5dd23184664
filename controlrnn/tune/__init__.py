"""Trade-offs: which settings are not beaten in cost, conservatism and solve time at once, found by many trials.

The search is Optuna's (extra ``tune``; Akiba et al., KDD 2019), by its sampler for several objectives (Ozaki et al.,
JAIR 2022); what a setting is worth is a function of yours, which builds and tries a controller.
"""

from controlrnn.tune.result import TradeOff, Trial, Tuning
from controlrnn.tune.search import tune
from controlrnn.tune.space import Choice, Dimension, Real, Whole

__all__ = ["Choice", "Dimension", "Real", "TradeOff", "Trial", "Tuning", "Whole", "tune"]
