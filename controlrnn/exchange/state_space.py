"""Linear models of python-control and scipy, in and out.

Neither library is needed to read: anything with ``A``, ``B``, ``C``, ``D`` and ``dt`` is taken, such as
``control.StateSpace`` and ``scipy.signal.StateSpace``. Writing makes a ``control.StateSpace`` (extra ``control``).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from controlrnn.checks import Array, as_array, channels, number, shown
from controlrnn.data import Signal
from controlrnn.errors import DataError, SettingError
from controlrnn.systems import LureSystem
from controlrnn.typed import typed

if TYPE_CHECKING:
    import control


@typed(unchecked=("model", "input_offset", "output_offset"))
def from_state_space(model: Any, *, input_offset: Any = 0.0, output_offset: Any = 0.0) -> LureSystem:
    """Make a system of a linear state-space model in discrete time.

    The system has no neurons: x+ = A x + B (u - u0), y = C x + D (u - u0) + y0.

    Args:
        model: Anything with matrices ``A, B, C, D`` and a sample time ``dt`` [s]: ``control.StateSpace``,
            ``scipy.signal.StateSpace``.
        input_offset: Inputs u0 at which the model was linearised, a number or shape (nu,).
        output_offset: Outputs y0 there, a number or shape (ny,).

    Raises:
        SettingError: The model has no such matrices, or is in continuous time or of no stated sample time.
        ShapeError, DataError: They do not fit together, or are not finite.
    """
    if isinstance(model, type) or not all(hasattr(model, name) for name in ("A", "B", "C", "D", "dt")):
        raise SettingError(
            f"model must have A, B, C, D and dt, as control.StateSpace has, got {shown(model)}: convert it with "
            "control.ss(...)"
        )
    if model.dt is None or isinstance(model.dt, bool) or not number("dt", model.dt) > 0:
        raise SettingError(
            f"model must be in discrete time with its sample time in seconds, got dt = {model.dt!r}: discretise it, "
            "control.sample_system(model, dt)"
        )
    A, B, C, D = (as_array(name, getattr(model, name), ("n", "m")) for name in "ABCD")
    nx, nu, ny = len(A), B.shape[1], len(C)
    u0, y0 = channels("input_offset", input_offset, nu), channels("output_offset", output_offset, ny)
    return LureSystem(
        A=A, B1=np.zeros((nx, 0)), B2=as_array("B", B, (nx, nu)), bx=-B @ u0, C1=np.zeros((0, nx)),
        D11=np.zeros((0, 0)), D12=np.zeros((0, nu)), bv=np.zeros(0), C2=as_array("C", C, (ny, nx)),
        D21=np.zeros((ny, 0)), D22=as_array("D", D, (ny, nu)), by=y0 - D @ u0, layers=(), dt=float(model.dt),
    )  # fmt: skip


@typed()
def to_state_space(
    system: LureSystem,
    *,
    deviations: bool = False,
    inputs: Sequence[Signal] = (),
    outputs: Sequence[Signal] = (),
) -> control.StateSpace:
    """Make a ``control.StateSpace`` of a linear system.

    Args:
        system: A frozen system without neurons.
        deviations: Whether a model of deviations is wanted, for a system with offsets (``bx``, ``by``), which a
            state-space model cannot have: differences of any two of its runs.
        inputs: Signals that name the inputs.
        outputs: Signals that name the outputs.

    Raises:
        SettingError: The system has neurons or offsets, is not frozen, or python-control is not installed:
            ``pip install 'controlrnn[control]'``.
        DataError: There are more or fewer names than channels.
    """
    if not system.is_frozen:
        raise SettingError("to_state_space needs a frozen system, got one of tensors: call model.freeze() first")
    if system.nv:
        raise SettingError(
            f"to_state_space takes linear systems, got one of {system.nv} neurons: use to_casadi, to_c or to_onnx"
        )
    if not deviations and (np.any(system.bx) or np.any(system.by)):
        raise SettingError(
            "a state-space model has no offsets, but bx and by of this system are not zero: pass deviations=True for "
            "the model of deviations from an operating point"
        )
    try:
        import control
    except ModuleNotFoundError as error:
        raise SettingError("this needs python-control: pip install 'controlrnn[control]'") from error
    names: dict[str, Any] = {}
    for kind, signals, n in (("inputs", inputs, system.nu), ("outputs", outputs, system.ny)):
        if signals and len(signals) != n:
            raise DataError(f"{kind} must name {n} channels, got {len(signals)}")
        names |= {kind: [s.name for s in signals]} if signals else {}
    matrices: list[Array] = [np.array(m) for m in (system.A, system.B2, system.C2, system.D22)]
    return control.StateSpace(*matrices, system.dt, remove_useless_states=False, **names)
