"""Export of frozen systems as CasADi functions, from the same equations that simulate them."""

from __future__ import annotations

from typing import Any

from controlrnn.checks import Choice
from controlrnn.errors import SettingError
from controlrnn.systems import System
from controlrnn.typed import typed


class Symbolic(Choice):
    """CasADi's two kinds of expression graph: SX, scalar and fast for small models, and MX, of whole matrices."""

    SX = "SX"
    MX = "MX"


@typed()
def to_casadi(system: System, *, symbolic: Symbolic | str = Symbolic.SX) -> tuple[Any, Any]:
    """Export the step and output map of a system as ``casadi.Function``.

    Args:
        system: A frozen system; physical units.
        symbolic: Kind of graph to build; both evaluate to the same numbers.

    Returns:
        ``(step, output)``: ``step(x, u) -> x_next`` and ``output(x, u) -> y`` on columns (nx, 1), (nu, 1), (ny, 1),
        as CasADi and do-mpc expect them.

    Raises:
        SettingError: ``system`` is not frozen.
    """
    import casadi

    if not system.is_frozen:
        raise SettingError("to_casadi needs a frozen system, got one of tensors: call model.freeze() first")
    kind = getattr(casadi, Symbolic(symbolic))
    # The system computes with rows, CasADi's users with columns: hence the transposes.
    x, u = kind.sym("x", system.nx), kind.sym("u", system.nu)
    step = casadi.Function("step", [x, u], [system.step(x.T, u.T).T], ["x", "u"], ["x_next"])
    output = casadi.Function("output", [x, u], [system.output(x.T, u.T).T], ["x", "u"], ["y"])
    return step, output
