"""Systems: the equations of a model, written once for numpy, torch and CasADi."""

from controlrnn.systems.activations import Activation
from controlrnn.systems.carried import (
    answers_late,
    answers_through_neurons,
    carries_input,
    carry_input,
    delay_input,
    just_after,
    without_feedthrough,
)
from controlrnn.systems.change import change_system
from controlrnn.systems.gated import Cell, GatedSystem
from controlrnn.systems.laws import Law, Laws, Neuron
from controlrnn.systems.lure import MATRICES, LureSystem
from controlrnn.systems.observer import observer_system
from controlrnn.systems.precision import Precision
from controlrnn.systems.system import System

__all__ = [
    "MATRICES",
    "Activation",
    "Cell",
    "GatedSystem",
    "Law",
    "Laws",
    "LureSystem",
    "Neuron",
    "Precision",
    "System",
    "answers_late",
    "answers_through_neurons",
    "carries_input",
    "carry_input",
    "change_system",
    "delay_input",
    "just_after",
    "observer_system",
    "without_feedthrough",
]
