"""One call of a compiled loop: its arguments as C wants them, hooks for what decides by looking, and its results."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import Array
from mpc.loops.fault_run import FaultRun
from mpc.loops.faults import (
    ActuatorFault,
    ActuatorOffset,
    DropOut,
    Fault,
    FrozenSensor,
    Late,
    Outlier,
    SaturatedActuator,
    SaturatedSensor,
    SensorFault,
    StuckActuator,
    TimeOut,
)
from mpc.loops.plant import Plant
from mpc.loops.run import Drawn

_DOUBLES, _BYTES = ctypes.POINTER(ctypes.c_double), ctypes.POINTER(ctypes.c_int8)
_INTS = ctypes.POINTER(ctypes.c_int32)
_MEASURE = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, _DOUBLES, _DOUBLES)
_FLOW = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, _DOUBLES, _DOUBLES, _DOUBLES)
_PLANT = ctypes.CFUNCTYPE(ctypes.c_int, _DOUBLES, _DOUBLES, _DOUBLES)
# In the order of the enum in templates/loop.c, each with its numbers.
_KINDS: dict[type[Fault], Callable[[Any], tuple[float, float]]] = {
    DropOut: lambda _: (0.0, 0.0),
    Outlier: lambda fault: (fault.size, 0.0),
    FrozenSensor: lambda _: (0.0, 0.0),
    SaturatedSensor: lambda fault: (fault.lower, fault.upper),
    Late: lambda fault: (fault.delay, 0.0),
    StuckActuator: lambda _: (0.0, 0.0),
    SaturatedActuator: lambda fault: (fault.lower, fault.upper),
    ActuatorOffset: lambda fault: (fault.size, 0.0),
    TimeOut: lambda _: (0.0, 0.0),
}


class Call(ctypes.Structure):
    """The struct ``Loop`` of ``mpc/c_code/templates/loop.c``."""

    _fields_ = [
        *((name, ctypes.c_int) for name in ("steps", "warm_up", "preview", "pushed", "faults")),
        *((name, _DOUBLES) for name in ("x0", "held", "noise", "input_error", "push", "reference", "signs")),
        ("missing", _BYTES),
        *((name, _INTS) for name in ("fault_at", "fault_kind")),
        ("fault_on", _BYTES),
        *((name, _DOUBLES) for name in ("fault_low", "fault_high")),
        ("measure", _MEASURE),
        ("flow", _FLOW),
        ("plant_step", _PLANT),
        ("plant_output", _PLANT),
        ("state", ctypes.c_void_p),
        ("history", _DOUBLES),
        *(
            (name, _DOUBLES)
            for name in (
                "y", "after", "readings", "u", "applied", "x", "disturbance", "predicted", "errors", "intervals",
                "slack", "seconds",
            )
        ),
        *((name, _INTS) for name in ("iterations", "outside")),
        *((name, _BYTES) for name in ("status", "fallback", "certified", "missed")),
    ]  # fmt: skip


class Prepared:
    """A call with the memory that it points to.

    Args:
        loop: The run.
        hooked: Whether the plant has no C code.
        state: Size of the controller's memory [bytes].

    Attributes:
        found: Results by their names in C.
        hooks: Hooks in use, which keep what went wrong in them.
    """

    def __init__(self, loop: Drawn, *, hooked: bool, state: int) -> None:
        actor, controller = loop.actor, loop.controller
        ny, nu, N = controller.predictor.ny, controller.predictor.nu, controller.horizon
        steps = len(actor.faults.flags)
        self.call = Call()
        self.hooks = Hooks(actor.plant, actor.faults, ny, nu)
        self._kept: list[NDArray[Any]] = []  # as long as C may read it
        push = np.zeros((1, 0)) if actor.disturbance is None else actor.disturbance
        for name, number in (("steps", steps), ("warm_up", actor.warm_up), ("preview", int(loop.preview))):
            setattr(self.call, name, number)
        self.call.pushed = self.hooks.pushed = push.shape[1]
        self._give(
            x0=actor.x,
            held=loop.held,
            noise=actor.noise,
            input_error=actor.input_errors,
            reference=loop.wanted,
            missing=actor.missing.astype(np.int8),
            signs=actor.faults.signs,
            history=np.zeros_like(actor.noise),
        )
        if actor.disturbance is not None:
            self._give(push=push)
        self._faults(actor.faults, max(ny, nu))
        if hooked:
            self.call.plant_step = self.hooks.plant_step
            self.call.plant_output = self.hooks.plant_output
        self._state = np.zeros(state // 8 + 1)
        self.call.state = self._state.ctypes.data
        learnt = (steps, 2, N + 1, ny) if controller.recalls else (0, 2, 0, 0)
        shapes: dict[str, tuple[int, ...]] = {
            "y": (steps + 1, ny), "after": (steps, ny), "readings": (steps, ny), "u": (steps, nu),
            "applied": (steps, nu), "x": (steps, controller.predictor.nx), "disturbance": (steps, ny),
            "predicted": (steps, N + 1, ny), "errors": (steps, N + 1, ny), "intervals": learnt,
            "slack": (steps,), "seconds": (steps,),
        }  # fmt: skip
        self.found: dict[str, NDArray[Any]] = {name: np.zeros(shape) for name, shape in shapes.items()}
        self.found |= {name: np.zeros(steps, dtype=np.int32) for name in ("iterations", "outside")}
        self.found |= {name: np.zeros(steps, dtype=np.int8) for name in ("status", "fallback", "certified")}
        self.found["missed"] = np.zeros((steps, ny), dtype=np.int8)
        self._give(**self.found)

    def _faults(self, faults: FaultRun, channels: int) -> None:
        """Tables of the faults that C knows, hooks for the others."""
        sensors = all(type(fault) in _KINDS for _, fault, _ in faults.acting if isinstance(fault, SensorFault))
        actuators = all(type(fault) in _KINDS for _, fault, _ in faults.acting if isinstance(fault, ActuatorFault))
        if not sensors:
            self.call.measure = self.hooks.measure
        if not actuators:
            self.call.flow = self.hooks.flow
        known = [
            one
            for one in faults.acting
            if not (isinstance(one[1], SensorFault) and not sensors)
            and not (isinstance(one[1], ActuatorFault) and not actuators)
        ]
        self.call.faults = len(known)
        on = np.zeros((len(known), channels), dtype=np.int8)
        for row, (_, _, mask) in zip(on, known, strict=True):
            row[: len(mask)] = mask
        numbers = np.array([_KINDS[type(fault)](fault) for _, fault, _ in known]).reshape(-1, 2)
        self._give(
            fault_at=np.array([t for t, _, _ in known], dtype=np.int32),
            fault_kind=np.array([list(_KINDS).index(type(fault)) for _, fault, _ in known], dtype=np.int32),
            fault_on=on,
            fault_low=numbers[:, 0].copy(),
            fault_high=numbers[:, 1].copy(),
        )

    def _give(self, **arrays: NDArray[Any]) -> None:
        for name, array in arrays.items():
            whole = np.ascontiguousarray(array)
            self._kept.append(whole)
            pointer: Any = type(getattr(self.call, name))
            setattr(self.call, name, whole.ctypes.data_as(pointer))


class Hooks:
    """Functions that C calls for what has no C code: faults of the user's own, and plants.

    An error cannot pass through C: it is kept in ``errors``, and the loop ends.

    Args:
        plant: The plant.
        faults: The faults.
        ny: Number of outputs.
        nu: Number of inputs.
    """

    def __init__(self, plant: Plant, faults: FaultRun, ny: int, nu: int) -> None:
        self.errors: list[BaseException] = []

        def array(pointer: Any, n: int) -> Array:
            return np.ctypeslib.as_array(pointer, shape=(n,))

        def measure(t: int, y: Any, seen: Any) -> int:
            with _Kept(self.errors) as kept:
                array(seen, ny)[:] = faults.measure(t, array(y, ny).copy())
            return kept.failed

        def flow(t: int, wanted: Any, last: Any, reached: Any) -> int:
            with _Kept(self.errors) as kept:
                array(reached, nu)[:] = faults.apply(t, array(wanted, nu).copy(), array(last, nu).copy())
            return kept.failed

        def plant_step(x: Any, u: Any, w: Any) -> int:
            with _Kept(self.errors) as kept:
                at = array(x, plant.nx)
                more = (array(w, self.pushed).copy(),) if self.pushed else ()
                at[:] = plant.step(at.copy(), array(u, nu).copy(), *more)
            return kept.failed

        def plant_output(x: Any, u: Any, y: Any) -> int:
            with _Kept(self.errors) as kept:
                array(y, ny)[:] = plant.output(array(x, plant.nx).copy(), array(u, nu).copy())
            return kept.failed

        self.pushed = 0
        self.measure = _MEASURE(measure)
        self.flow = _FLOW(flow)
        self.plant_step = _PLANT(plant_step)
        self.plant_output = _PLANT(plant_output)


class _Kept:
    """Context that keeps the error raised in it."""

    def __init__(self, errors: list[BaseException]) -> None:
        self._errors = errors
        self.failed = 0

    def __enter__(self) -> _Kept:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: TracebackType | None) -> bool:
        if error is not None:
            self.failed = 1
            self._errors.append(error)
        return True
