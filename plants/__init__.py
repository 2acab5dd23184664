"""Simulated plants with units, limits and equilibria; their equations are written once for numpy and CasADi."""

from collections.abc import Callable
from types import MappingProxyType

from controlrnn.data import Signal
from plants import excitation
from plants.adapted import as_plant
from plants.base import Plant
from plants.cascaded_tanks import CascadedTanks
from plants.export import to_casadi
from plants.mass_spring_damper import MassSpringDamperChain
from plants.multi_tank import MultiTank
from plants.pendulum import Pendulum
from plants.quadruple_tank import QuadrupleTank
from plants.reaction_diffusion import ReactionDiffusion
from plants.simulate import simulate

# The contract tests run over these; add a new plant here.
PLANTS: MappingProxyType[str, Callable[[], Plant]] = MappingProxyType(
    {
        "three_tank": MultiTank,
        "five_tank": lambda: MultiTank(5),
        "single_tank": lambda: MultiTank(1),
        "quadruple_tank": QuadrupleTank,
        "quadruple_tank_nonminimum_phase": QuadrupleTank.nonminimum_phase,
        "cascaded_tanks": CascadedTanks,
        "mass_spring_damper": MassSpringDamperChain,
        "single_mass": lambda: MassSpringDamperChain(1),
        "pendulum": Pendulum,
        "reaction_diffusion": ReactionDiffusion,
    }
)

__all__ = [
    "PLANTS",
    "CascadedTanks",
    "MassSpringDamperChain",
    "MultiTank",
    "Pendulum",
    "Plant",
    "QuadrupleTank",
    "ReactionDiffusion",
    "Signal",
    "as_plant",
    "excitation",
    "simulate",
    "to_casadi",
]
