"""Predictor: a frozen model with named channels and their limits, for predictions from a state estimate.

The equations are those of `controlrnn.systems.LureSystem`; this file adds names and limits, steady states and
derivatives (from `controlrnn.kernels.linearisation`; for small models compiled from the CasADi export).
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import casadi
import numpy as np

from controlrnn.checks import Array, as_array, read_only
from controlrnn.data import Signal, Timing
from controlrnn.errors import SettingError, ShapeError
from controlrnn.export import to_casadi
from controlrnn.kernels import output, rollout, simulate, step
from controlrnn.kernels.dense import solve
from controlrnn.kernels.linearisation import Lineariser
from controlrnn.systems import (
    LureSystem,
    answers_late,
    carries_input,
    delay_input,
    just_after,
    without_feedthrough,
)
from controlrnn.systems.ops import run_arguments
from controlrnn.typed import typed

SETTLE = 200  # free-run steps before Newton: a contracting model is then in its region of convergence
NEWTON = 50  # most Newton steps after a free run
NEWTON_NEAR = 8  # most Newton steps from a given guess; a guess that needs more is dropped for a free run
COMPILED = 10_000  # products in a Jacobian: above, compiled scalar code is slower than matrix products


@dataclass(frozen=True, eq=False)
@typed()
class Predictor:
    """Predicts outputs from a state estimate and planned inputs.

    A sample's output is what is measured before its input acts (docs/timing.md). A model with feedthrough is therefore
    replaced by `controlrnn.systems.carry_input` of it, whose state contains the last input: certify and calibrate
    ``predictor.system``.

    Args:
        system: Frozen model in physical units.
        inputs: One `Signal` per input with the actuator's limits; unlimited ``u1, u2, ...`` when left out.
        outputs: One `Signal` per output with the limits to keep; unlimited ``y1, y2, ...`` when left out.
        timing: When inputs act; see `delayed` for one sample after they are computed.

    Raises:
        SettingError: The system is not frozen, or does not have its ``timing``.
        ShapeError: The number of signals does not fit the system.
    """

    system: LureSystem
    inputs: tuple[Signal, ...] = ()
    outputs: tuple[Signal, ...] = ()
    timing: Timing = Timing.MEASURED_FIRST

    def __post_init__(self) -> None:
        if not isinstance(self.system, LureSystem) or not self.system.is_frozen:
            raise SettingError(f"system must be a frozen LureSystem, got {type(self.system).__name__}: model.freeze()")
        object.__setattr__(self, "system", without_feedthrough(self.system))
        object.__setattr__(self, "timing", Timing(self.timing))
        if self.timing is Timing.INPUT_FIRST:
            raise SettingError("timing must be 'measured_first' or 'delayed', got 'input_first': see docs/timing.md")
        if self.timing is Timing.DELAYED and (not carries_input(self.system) or answers_late(self.system)):
            raise SettingError("timing 'delayed' needs a system from delay_input: use Predictor.delayed(model, ...)")
        for name, letter, n in (("inputs", "u", self.system.nu), ("outputs", "y", self.system.ny)):
            signals = tuple(getattr(self, name)) or tuple(Signal(f"{letter}{i + 1}") for i in range(n))
            if len(signals) != n:
                raise ShapeError(f"{name} must name {n} channels of the model, got {len(signals)}: one Signal each")
            object.__setattr__(self, name, signals)
        # Compiled code is loaded now, so that the first control step does not wait for it.
        rollout(self.system, np.zeros((1, self.nu)), np.zeros(self.nx))

    @classmethod
    def delayed(
        cls, system: LureSystem, inputs: tuple[Signal, ...] = (), outputs: tuple[Signal, ...] = ()
    ) -> Predictor:
        """A predictor for loops whose inputs act one sample after they are computed.

        The input under way becomes a state (`controlrnn.systems.delay_input`), so that certificates, observers,
        terminal sets and plans of ``predictor.system`` hold as they are; its records are `Trajectory.delayed`.

        Args:
            system: Frozen model of the plant itself, whose output does not answer at once.
            inputs: See the class.
            outputs: See the class.

        Raises:
            SettingError: The system is not frozen, or answers at once.
        """
        if not isinstance(system, LureSystem) or not system.is_frozen:
            raise SettingError(f"system must be a frozen LureSystem, got {type(system).__name__}: model.freeze()")
        return cls(delay_input(system), inputs, outputs, Timing.DELAYED)

    def __getstate__(self) -> dict[str, Any]:
        """Fields for pickling, without compiled functions, which are rebuilt on first use."""
        return {name: getattr(self, name) for name in ("system", "inputs", "outputs", "timing")}

    def __deepcopy__(self, memo: dict[int, Any]) -> Predictor:
        return self  # immutable, so that copies may share it

    @property
    def nx(self) -> int:
        """Number of states."""
        return self.system.nx

    @property
    def nu(self) -> int:
        """Number of inputs."""
        return self.system.nu

    @property
    def ny(self) -> int:
        """Number of outputs."""
        return self.system.ny

    @property
    def carries(self) -> bool:
        """Whether the state contains the last input, as its last nu entries."""
        return carries_input(self.system)

    @property
    def answers(self) -> bool:
        """Whether the model has feedthrough: its readings then depend on the last input, which the state carries."""
        return answers_late(self.system)

    @cached_property
    def with_answers(self) -> Predictor:
        """Predictor with 2 ny outputs: every output just before, then just after the sample's input acts.

        The same object for a model without feedthrough. Otherwise its system has feedthrough, and is for plans only.
        """
        if not self.answers:
            return self
        # Made without __init__, which would take the feedthrough out again.
        made = object.__new__(Predictor)
        after = tuple(replace(s, name=f"{s.name} just after its input") for s in self.outputs)
        made.__dict__.update(system=just_after(self.system), inputs=self.inputs, outputs=self.outputs + after)
        return made

    @property
    def dt(self) -> float:
        """Sample time [s]."""
        return self.system.dt

    @cached_property
    def casadi(self) -> tuple[Any, Any]:
        """CasADi functions (step, output) on column vectors."""
        step, output = to_casadi(self.system)
        return step, output

    @cached_property
    def _lineariser(self) -> Lineariser:
        return Lineariser(self.system)

    @cached_property
    def gap(self) -> Callable[[Array, Array], tuple[Array, Array]]:
        """Function of (x, u) for finding steady states: f(x, u) - x, shape (nx,), and I - df/dx, shape (nx, nx)."""
        scalars = self.nx * self.system.nv * (self.nx + self.system.nv)
        return _CompiledGap(self) if scalars <= COMPILED else self._dense_gap

    def _dense_gap(self, x: Array, u: Array) -> tuple[Array, Array]:
        return step(self.system, x, u) - x, np.eye(self.nx) - self._linearise(x, u)[0]

    def input_limits(self) -> tuple[Array, Array]:
        """Lower and upper limits of the actuators, shape (nu,) each.

        Raises:
            SettingError: A limit is missing; a controller and a reachable set both need all of them.
        """
        return self._input_limits

    @cached_property
    def _input_limits(self) -> tuple[Array, Array]:
        # Kept, because every control step asks for them.
        lower, upper = (np.array([getattr(s, side) for s in self.inputs]) for side in ("lower", "upper"))
        for signal, low, high in zip(self.inputs, lower, upper, strict=True):
            if not np.isfinite([low, high]).all():
                raise SettingError(
                    f"input {signal.name!r} must have finite limits, got [{low}, {high}]: give the actuator's range"
                )
        return read_only(lower), read_only(upper)

    def states(self, x: Array, u: Array) -> Array:
        """States under planned inputs: x (..., nx), u (..., N, nu) -> (..., N + 1, nx), the first being ``x``.

        Samples after a run has diverged are not finite.
        """
        u, x = run_arguments(self.system, u, x)
        return np.asarray(simulate(self.system, u, x)[1])

    def predict(self, x: Array, u: Array) -> Array:
        """Outputs under planned inputs.

        Args:
            x: State estimate, shape (nx,) or (B, nx).
            u: Planned inputs, shape (N, nu) or (B, N, nu).

        Returns:
            Outputs of samples 0 to N, shape (..., N + 1, ny), each as measured before its sample's input acts.

        Raises:
            ShapeError: ``x`` or ``u`` does not fit.
        """
        return self.rollout(x, u)[0]

    def rollout(self, x: Array, u: Array) -> tuple[Array, Array]:
        """Outputs (..., N + 1, ny) and states (..., N + 1, nx) under planned inputs; arguments as `predict`."""
        u, x = run_arguments(self.system, u, x)
        if u.ndim not in (2, 3) or u.shape[-1] != self.nu or u.shape[-2] < 1:
            raise ShapeError(f"u must have shape (N, {self.nu}) or (B, N, {self.nu}), got {u.shape}: one row per step")
        held = np.concatenate([u, u[..., -1:, :]], axis=-2)  # simulate wants an input for sample N, too
        y, states = simulate(self.system, held, x)
        return np.asarray(y), np.asarray(states[..., :-1, :])

    def linearise(self, x: Array, u: Array) -> tuple[Array, Array, Array, Array]:
        """Jacobians (A, B, C, D) of step and output at state x (nx,) and input u (nu,)."""
        return self._linearise(as_array("x", x, (self.nx,)), as_array("u", u, (self.nu,)))

    def _linearise(self, x: Array, u: Array) -> tuple[Array, Array, Array, Array]:
        lin = self._lineariser(x[None], u[None])
        return lin.A[0], lin.B[0], lin.C[0], lin.D[0]

    def equilibrium(self, u: Array, *, guess: Array | None = None) -> Array:
        """Steady state under a constant input, by Newton's method from a guess or from the end of a free run.

        Args:
            u: The input, shape (nu,).
            guess: State to start from, shape (nx,); the end of a free run from zero when left out.

        Returns:
            The steady state, shape (nx,).

        Raises:
            SettingError: None was found: the model has no steady state there, or is unstable.
        """
        u = as_array("u", u, (self.nu,))
        guess = None if guess is None else as_array("guess", guess, (self.nx,))
        found = None if guess is None else self._settle(u, guess, NEWTON_NEAR)
        if found is not None:
            return found
        start = np.zeros(self.nx) if guess is None else guess
        x = self._settle(u, np.asarray(simulate(self.system, np.tile(u, (SETTLE, 1)), start)[1])[-1], NEWTON)
        if x is None:
            raise SettingError(f"no steady state found at u = {u}: does the model integrate, is it stable?")
        return x

    def _settle(self, u: Array, x: Array, iterations: int) -> Array | None:
        """Steady state x = f(x, u) by Newton's method from ``x``; None where it does not converge."""
        for _ in range(iterations):
            gap, slope = self.gap(x, u)
            # As exact as rounding allows.
            if np.abs(gap).max() <= 1e-13 * (1.0 + np.abs(x).max()):
                return np.asarray(x)
            change = solve(slope, gap)
            if change is None:
                return None
            x = x + change
            if np.abs(change).max() <= 1e-14 * (1.0 + np.abs(x).max()):
                break
        # Rounding in large or stiff models may stop Newton's steps before the tight tolerance: a looser one decides.
        gap = self.gap(x, u)[0]
        return np.asarray(x) if np.abs(gap).max() <= 1e-9 * (1.0 + np.abs(x).max()) else None

    def steady_output(self, u: Array) -> Array:
        """Steady output (ny,) under the constant input u (nu,)."""
        u = as_array("u", u, (self.nu,))
        return output(self.system, self.equilibrium(u), u)


def output_scale(predictor: Predictor) -> Array:
    """Typical range of each output: the distance of its limits, or of its steady values where a limit is missing.

    Steady values are taken with all inputs at their lower limits, in their middles and at their upper limits.

    Returns:
        Shape (ny,), positive.
    """
    lower, upper = predictor.input_limits()
    limits = np.array([[s.lower, s.upper] for s in predictor.outputs])
    span = limits[:, 1] - limits[:, 0]
    if not np.isfinite(span).all():
        reached = np.array([predictor.steady_output(u) for u in (lower, 0.5 * (lower + upper), upper)])
        steady = reached.max(axis=0) - reached.min(axis=0)
        span = np.where(np.isfinite(span), span, np.where(steady > 0, steady, 1.0))
    return np.asarray(span)


class _CompiledGap(threading.local):
    """Residual f(x, u) - x and matrix I - df/dx from a compiled CasADi function, in memory that is used again.

    Plans with a terminal set evaluate it often. Each thread has its own memory; results are valid until its next call.
    """

    def __init__(self, predictor: Predictor) -> None:
        x, u = casadi.SX.sym("x", predictor.nx), casadi.SX.sym("u", predictor.nu)
        after = predictor.casadi[0](x, u)
        both = casadi.horzcat(after - x, casadi.SX.eye(predictor.nx) - casadi.jacobian(after, x))
        function: Any = casadi.Function("gap", [x, u], [casadi.densify(both)])
        self._buffer, self._evaluate = function.buffer()
        self._x = np.zeros(predictor.nx)
        self._u = np.zeros(predictor.nu)
        self._both = np.zeros((1 + predictor.nx, predictor.nx))  # a matrix's columns, as CasADi stores them
        for i, part in enumerate((self._x, self._u)):
            self._buffer.set_arg(i, part.data)
        self._buffer.set_res(0, self._both.data)

    def __call__(self, x: Array, u: Array) -> tuple[Array, Array]:
        """Residual (nx,) and I - df/dx (nx, nx) at state x (nx,) and input u (nu,)."""
        self._x[:], self._u[:] = x, u
        self._evaluate()
        return self._both[0], self._both[1:].T
