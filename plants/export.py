"""Plants as CasADi functions, for controllers that know the physics and for comparison."""

from __future__ import annotations

from typing import Any

from controlrnn.checks import count
from controlrnn.typed import typed
from plants.adapted import as_plant
from plants.base import Plant
from plants.ops import CASADI


@typed(unchecked=("plant",))
def to_casadi(plant: Plant | Any, *, substeps: int = 20) -> tuple[Any, Any]:
    """Export one sample of a plant as CasADi functions: the classical Runge-Kutta method of order 4, fixed substeps.

    `Plant.step` is the reference; with the default substeps both agree to 2e-4 of the states' range everywhere, and
    to 1e-7 of it about the usual operating point, away from corners (rims, springs) and empty tanks.

    Args:
        plant: The process: a `Plant`, or any object that `plants.as_plant` takes.
        substeps: Runge-Kutta steps within a sample.

    Returns:
        CasADi Functions ``step(x, u, w) -> x_next`` and ``output(x, u) -> y``; all arguments are columns, ``w`` is the
        disturbance (zeros for none).
    """
    import casadi

    plant = as_plant(plant)

    n = count("substeps", substeps)
    x, u, w = (casadi.SX.sym(name, size) for name, size in (("x", plant.nx), ("u", plant.nu), ("w", plant.nw)))

    def rate(state: Any) -> Any:
        return plant.dynamics(state, u.T, CASADI, w.T)

    h, state = plant.dt / n, x.T
    for _ in range(n):
        k1 = rate(state)
        k2 = rate(state + 0.5 * h * k1)
        k3 = rate(state + 0.5 * h * k2)
        k4 = rate(state + h * k3)
        state = state + h / 6.0 * (k1 + 2.0 * k2 + 2.0 * k3 + k4)
    names = ["x", "u", "w"], ["x_next"]
    step = casadi.Function("step", [x, u, w], [state.T], *names)
    output = casadi.Function("output", [x, u], [plant.output(x.T, u.T, CASADI).T], ["x", "u"], ["y"])
    return step, output
