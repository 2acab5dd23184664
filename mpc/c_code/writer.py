"""Export of controllers as plain C99: model, observer, condensing, QP solver and fallbacks in one source file.

The tables are those of `controlrnn.export.to_c` and of `mpc.solvers.condensed_problem`. The templates in
``mpc/c_code/templates`` follow `mpc.control.controller`, `mpc.solvers.condensed`, `mpc.control.offset_free` and
`mpc.tightening.learnt_errors` step by step, with a dual active-set QP solver of their own (Goldfarb & Idnani,
Mathematical Programming 27, 1983, multipliers bounded by the penalties). All memory is one struct of fixed size.
"""

from __future__ import annotations

import copy
import os
import sys
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from numpy.typing import NDArray

import controlrnn
from controlrnn.checks import Array
from controlrnn.errors import SettingError
from controlrnn.export.c_code import AFFINE, checked_target, comment, constants, lure_code
from controlrnn.export.c_laws import LAW_DERIVATIVES
from controlrnn.records import write_atomic
from controlrnn.systems import Activation, Laws
from controlrnn.systems.activations import LEAK
from controlrnn.typed import typed
from mpc import predictor as predictor_module
from mpc.c_code.memory import size_of
from mpc.c_code.watch import bits, refuse_unwatched, watch_scalars, watch_tables, watch_words
from mpc.c_tables import ControllerTable, ObserverTable, SolverTable
from mpc.control.agreement import agreed
from mpc.control.controller import TightenedMPC
from mpc.control.modes import promises
from mpc.observers.base import Observer
from mpc.observers.innovation import StateObserver
from mpc.observers.washout import RunningOn, Washout
from mpc.problem import priorities
from mpc.problem.ocp import OptimalControlProblem, StepData
from mpc.problem.ranking import KEPT
from mpc.problem.settings import Mode
from mpc.problem.solver_options import Status
from mpc.problem.steady_input import HeldCost
from mpc.safety import fallback
from mpc.safety.fallback import Fallback
from mpc.solvers import condensed, condensed_problem
from mpc.solvers.condensed import CondensedBackend
from mpc.tightening import learnt_errors
from mpc.tightening.learnt_errors import LearntErrors

Arrays = dict[str, NDArray[Any]]
_NAME = "controlrnn_mpc"  # default name of the files in a folder
_TESTED = 40  # samples of the self-test after the warm-up
_DERIVATIVES = {
    Activation.TANH: ("1 - w * w", "-2 * w * (1 - w * w)"),
    Activation.RELU: ("w > 0 ? 1 : 0", "0 * w"),
    Activation.SIGMOID: ("w * (1 - w)", "w * (1 - w) * (1 - 2 * w)"),
    Activation.LEAKY_RELU: (f"w > 0 ? 1 : {LEAK!r}", "0 * w"),
}
# In the order of the header's enums.
STATUSES = (Status.SOLVED, Status.MAX_ITERATIONS, Status.INFEASIBLE, Status.FAILED, Status.WARMING_UP)
FALLBACKS = (Fallback.NONE, Fallback.PLAN, Fallback.LEAST, Fallback.STEADY, Fallback.SAFE)


@typed()
def controller_to_c(
    controller: TightenedMPC, path: str | os.PathLike[str], *, name: str | None = None
) -> tuple[Path, Path]:
    """Write a controller as C source and header.

    The code offers ``NAME_init(state)``, ``NAME_step(state, y, reference, u, info)``, ``NAME_step_preview`` with one
    row of references for each predicted sample, and ``NAME_record(state, y, u)``. They do what `TightenedMPC` does,
    with the same statuses and fallbacks, in plain C99 with the maths library, and use no memory but ``NAME_state``.
    Compiled with ``-DNAME_SELF_TEST`` (the name in capitals) the source is a program that repeats a loop recorded with
    ``controller`` and exits with 0 if it computes the same inputs.

    Differences from Python: there is no clock; the steady input of the fallbacks comes from another least-squares
    method, which may choose differently where several inputs are equally good; late measurements
    (`TightenedMPC.correct`) are not supported. Premises are monitored as in Python, and ``info`` has a bit for each
    that is contradicted; ``NAME_step_watched`` takes read-back and time stamps. Where limits learn from measurements,
    the state contains the intervals and ``info`` counts the outputs that contradict them.

    Args:
        controller: Controller with the default solver, `mpc.solvers.condensed.CondensedBackend`; its own state is
            neither used nor changed.
        path: The source file, ending in ``.c``, or a folder, in which it is named ``controlrnn_mpc.c``; the header is
            put beside it. Folders are created.
        name: Prefix of everything public; the file's stem when left out.

    Returns:
        Paths of the source and the header.

    Raises:
        SettingError: The controller has a part without C code (solver, observer, time limit, prices, measured inputs),
            its parts rest on different premises, or ``name`` is not a C identifier.
    """
    source = Path(path)
    source = source if source.suffix == ".c" else source / f"{_NAME}.c"
    name = source.stem if name is None else name
    checked_target(source, name)
    code, declared = controller_code(controller, name, f"{source.stem}.h")
    # The header first: an interrupted export then leaves a header alone, which does no harm.
    header = write_atomic(source.with_suffix(".h"), declared.encode())
    return write_atomic(source, code.encode()), header


def controller_code(
    controller: TightenedMPC,
    name: str,
    header: str,
    *,
    tested: bool = True,
    restarts: bool = False,
    wide: bool = False,
) -> tuple[str, str]:
    """C source of a controller, and its header.

    Args:
        controller: As for `controller_to_c`.
        name: Prefix of everything public.
        header: Name of the header's file.
        tested: Whether the source contains the self-test.
        restarts: Whether whoever includes the source says where a washout starts, so that its observer may be of a
            subclass of `Washout`.
        wide: As in `lure_code`.

    Raises:
        SettingError: The controller has a part without C code.
    """
    _check(controller, restarts)
    own, solver = controller.c_table(), _solver_table(controller)
    words = _words(controller, own, solver, name, header)
    tables = _tables(controller, own, solver) | watch_tables(controller, own)
    model_tables, model = lure_code(controller.problem.predictor.system, wide=wide)
    words["tables"] = constants(model_tables | tables)
    parts = [_part("tables.c", words), AFFINE, Template(model).substitute(name=f"{name}_model"), "\n"]
    files = (
        "quadratic.c",
        "model.c",
        "condensed.c",
        "fallback.c",
        "ranks.c",
        "error_memory.c",
        "watch.c",
        "level.c",
        "controller.c",
    )
    parts += [_part(file, words) for file in files]
    if tested:
        parts.append(_part("self_test.c", words | {"samples": _samples(controller)}))
    words["quadratic"] = _part("quadratic.h", words)
    words["memory"] = size_of(_part("controller.h", words), f"{name}_state")
    return "".join(parts), _part("controller.h", words)


def _check(controller: TightenedMPC, restarts: bool) -> None:
    learnt, region = controller.learnt_errors, controller.region_watch
    agreed(  # also of parts that were exchanged after the controller was made
        controller.observer,
        controller.predictor,
        controller.tightening,
        controller.terminal,
        None if learnt is None else learnt.memory,
        None if region is None else region.region,
    )
    backend = controller.backend
    if type(backend) is not CondensedBackend:
        raise SettingError(
            f"C code exists for CondensedBackend only, got {type(backend).__name__}: leave the controller's backend out"
        )
    if type(controller) is not TightenedMPC:
        raise SettingError(f"C code exists for TightenedMPC itself, got {type(controller).__name__}: its limits change")
    if backend.options.max_wall_time is not None:
        raise SettingError("C code has no clock to keep max_wall_time with: limit max_iterations instead")
    if controller.problem.economy is not None:
        raise SettingError("C code knows neither prices nor weights of inputs: leave input_price and its like out")
    refuse_unwatched(controller)
    if controller.problem.measured_inputs:
        raise SettingError("C code takes no forecast: leave measured_inputs out")
    known = isinstance(controller.observer, Washout) if restarts else type(controller.observer) is Washout
    if not known and type(controller.observer) not in (RunningOn, StateObserver):
        raise SettingError(
            f"observer must be a Washout, RunningOn or StateObserver, got {type(controller.observer).__name__}"
        )


def _solver_table(controller: TightenedMPC) -> SolverTable:
    backend = controller.backend
    assert isinstance(backend, CondensedBackend)  # `_check` has seen to it
    return backend.c_table()


def _part(file: str, words: dict[str, Any]) -> str:
    return Template((resources.files("mpc.c_code") / "templates" / file).read_text()).substitute(words)


def _words(
    controller: TightenedMPC, own: ControllerTable, solver: SolverTable, name: str, header: str
) -> dict[str, Any]:
    """Values for the templates' placeholders, without the tables."""
    predictor, tightening = controller.problem.predictor, controller.tightening
    system, model = predictor.system, controller.predictor.system
    observer, problem, N, M = controller.observer, controller.problem, controller.horizon, solver.inputs
    options = controller.backend.options  # type: ignore[attr-defined]
    limited, bounded = len(solver.limited), len(solver.bounded)
    digests = {"model": model.digest, "tightening": tightening.digest} | tightening.digests
    if problem.terminal is not None:
        digests["terminal set"] = problem.terminal.digest
    memory = None if controller.learnt_errors is None else controller.learnt_errors.memory
    if memory is not None:
        digests |= memory.digests | {"error_memory": memory.digest}
    ranks = [0] * predictor.ny if problem.ranking is None else problem.ranking.rank
    hard_ranks = {r for r, hard in zip(ranks, problem.hard, strict=True) if hard}
    named = {k: v for k, v in digests.items() if k != "system"}
    # Elman networks, x+ = w: the C code then skips products with zeros and ones.
    elman = system.nx == system.nv and not (system.A.any() or system.B2.any() or system.bx.any())
    return {
        "name": name, "NAME": name.upper(), "header": header, "version": controlrnn.__version__,
        "nx": system.nx, "nu": system.nu, "ny": system.ny, "measured": model.ny, "nv": system.nv,
        "nv_size": max(system.nv, 1), "wider": max(system.nv, system.ny, 1), "memory": 0,
        "nz": system.nx + system.nu + system.nv, "horizon": N, "dt": repr(system.dt),
        "planned": N if np.isfinite(problem.move_limit).any() else M,
        "inputs": M, "first": problem.first, "terminal": int(problem.terminal is not None),
        "rows": max((N + 1 - problem.first) * limited + int(problem.terminal is not None) + M * bounded, 1),
        "record": observer.steps if isinstance(observer, Washout) else 1, "steps": observer.steps,
        "observer": _kind(observer),
        "limited": limited, "bounded": bounded, "layers": len(system.layers),
        "layer_matrices": ", ".join(f"M{k + 1}" for k in range(len(system.layers))) or "0",
        "max_iterations": options.max_iterations, "rti": int(options.rti), "steep": int(solver.steep),
        "ranks": 1 + max(ranks), "returns": int(len(hard_ranks) == 1), "soonest": N + 2 if len(hard_ranks) == 1 else 1,
        "practical": int(controller.mode is Mode.PRACTICAL), "promises": int(promises(controller.tightening)),
        "forgets": int(controller.disturbance.forgets),
        "states_are_neurons": int(elman and np.array_equal(system.B1, np.eye(system.nx))),
        "derivatives": _derivatives(system.activation),
        "digest": model.digest, "tightening_digest": tightening.digest,
        "promise": comment((tightening if memory is None else memory).promise),
        "error_memory": int(memory is not None), "memory_steps": 0 if memory is None else memory.steps,
        "learning": 0 if own.learnt is None else own.learnt.learning,
        "errors": 1 if memory is None else memory.absolute.size,
        "digests": "\n".join(f"     {comment(k, 99):<12} {comment(v, 99)}" for k, v in named.items()),
        "KEPT": KEPT, "EQUAL": priorities.EQUAL,
        "RIDGE": condensed_problem.RIDGE, "FLATTEST": condensed_problem.FLATTEST,
        "SUFFICIENT": condensed.SUFFICIENT, "SHORTEST": condensed.SHORTEST, "SLOW": condensed.SLOW,
        "NEAR": condensed.NEAR, "NOISE": condensed.NOISE,
        "CORRECTIONS": condensed.CORRECTIONS, "INSIDE": repr(solver.inside),
        "SHARES": fallback.SHARES,
        "SETTLE": predictor_module.SETTLE, "NEWTON": predictor_module.NEWTON,
        "NEWTON_NEAR": predictor_module.NEWTON_NEAR,
    } | watch_words(controller, own) | _scalars(controller, own, solver)  # fmt: skip


def _derivatives(activation: Activation | Laws) -> str:
    """C functions ``derivative`` and ``curvature`` of a neuron."""
    if isinstance(activation, Laws):
        return LAW_DERIVATIVES
    pairs = zip(("derivative", "curvature"), _DERIVATIVES[activation], strict=True)
    return "".join(f"static double {name}(int i, double w) {{ (void)i; return {of}; }}\n" for name, of in pairs)


def _kind(observer: Observer) -> str:
    if isinstance(observer, Washout):
        return "WASHOUT"
    return "INNOVATION" if isinstance(observer, StateObserver) else "PLAIN"


def _scalars(controller: TightenedMPC, own: ControllerTable, solver: SolverTable) -> dict[str, Any]:
    terminal = controller.problem.terminal
    scalars = (
        {
            "ACCURACY": solver.accuracy,
            "COST_SCALE": controller.problem.cost_scale,
            "DISTURBANCE_GAIN": controller.filter.gain,
            "END_PRICE": solver.end_price,
        }
        | _error_bounds(own.observer)
        | watch_scalars(own)
    )
    if terminal is not None:
        scalars["TERMINAL_RADIUS"] = terminal.radius
    if controller.recalls:
        scalars["MEASURED"] = learnt_errors.MEASURED
    lines = (f"static const double {key} = {float(value)!r};" for key, value in scalars.items())
    return {"certified": int(own.observer.certified), "scalars": "\n".join(lines)}


def _error_bounds(observer: ObserverTable) -> dict[str, float]:
    """Constants of the recursion of the error bound, and what it has to reach for a certified estimate."""
    # A washout goes by its window instead of a bound.
    promised = sys.float_info.max if observer.promised is None else observer.promised
    found, own = {"BOUND_PROMISED": promised}, observer.innovation
    if own is None:
        return found
    return found | {
        "bound_kept": own.kept,
        "bound_added": own.added,
        "bound_kept_in_gap": own.kept_in_gap,
        "bound_added_in_gap": own.added_in_gap,
    }


def _tables(controller: TightenedMPC, own: ControllerTable, solver: SolverTable) -> Arrays:
    problem, limited = controller.problem, solver.limited
    tables: Arrays = {
        "layer_start": np.array([0, *np.cumsum(problem.predictor.system.layers)], dtype=int),
        "limited": _filled(limited),
        "bounded": _filled(solver.bounded),
        "middle": solver.middle,
        "half": solver.half,
        "input_low": solver.input_low,
        "input_high": solver.input_high,
        "scale": solver.scale,
        "root": solver.root.ravel(),
        "price": _filled(solver.prices),
        "move_root": solver.move_root,
        "move_limit": solver.move_limit,
        "largest_move": problem.move_limit,
        "safe_input": controller.safe_input,
        "initial_state": controller.observer.initial_state,
    }
    tables |= _held(controller, limited)
    if problem.terminal is not None:
        tables["terminal_root"] = problem.terminal.root.ravel()
    if isinstance(controller.observer, StateObserver) and own.observer.innovation is not None:
        tables["observer_gain"] = controller.observer.gain.ravel()
        readings = own.observer.innovation
        tables |= {"reading_kept": readings.readings_kept, "reading_added": readings.readings_added}
    return tables | _limits(controller, own)


def _held(controller: TightenedMPC, limited: NDArray[np.intp]) -> Arrays:
    """Tables for the assessment of fallback plans and for the clipping of set points."""
    problem, points = controller.problem, controller.set_points
    cost, scale = HeldCost.of(problem, _nowhere(problem)), problem.output_scale
    margin = np.zeros(problem.predictor.ny)
    ranks = np.zeros(len(margin), dtype=int) if problem.ranking is None else np.array(problem.ranking.rank)
    if problem.terminal is not None:
        margin = np.resize(problem.terminal.margin, margin.shape) / scale
    return {
        "held_weight": cost.weight,
        "held_price": _filled(cost.penalty[limited]),
        "limit_weight": _filled(problem.limit_weight[limited]),
        "limit_rank": _filled(ranks[limited]),
        "limit_hard": _filled(problem.hard[limited].astype(int)),
        "limit_counted": _filled(problem.counted[limited].astype(int)),
        "terminal_margin": _filled(margin[limited]),
        "set_point_low": points.lower,
        "set_point_high": points.upper,
    }


def _nowhere(problem: OptimalControlProblem) -> StepData:
    """Sample of zeros, for a `HeldCost` of which only the problem's settings are used."""
    predictor, rows = problem.predictor, np.zeros((problem.horizon + 1, problem.predictor.ny))
    return StepData(
        x=np.zeros(predictor.nx),
        previous_input=np.zeros(predictor.nu),
        reference=rows,
        lower=rows,
        upper=rows,
        guess=np.zeros((problem.horizon, predictor.nu)),
    )


def _limits(controller: TightenedMPC, own: ControllerTable) -> Arrays:
    """Tables of the output limits, and if they learn from measurements of the bounds that they are learnt with."""
    tables: Arrays = {"output_low": own.lower.ravel(), "output_high": own.upper.ravel()}
    if controller.learnt_errors is None:
        return tables
    memory = controller.learnt_errors.memory
    return tables | {
        "memory_absolute": memory.absolute.ravel(),
        "memory_around": memory.spread.ravel(),
        "memory_jump": memory.jump.ravel(),
    }


def _filled(array: NDArray[Any]) -> NDArray[Any]:
    """Array with a zero in place of an empty one, since C has no empty arrays."""
    return array if len(array) else np.zeros(1, dtype=array.dtype)


def _samples(controller: TightenedMPC) -> str:
    """C tables of the self-test: a loop with noise and missing measurements, with the controller's inputs."""
    worker = copy.copy(controller)  # an independent one: the controller itself does not change
    worker.reset()
    y, wanted = _programme(controller)
    steps, rng, odd = [], np.random.default_rng(1), len(y) - _TESTED // 4
    for t, reference in enumerate(wanted):
        # Such noise would contradict every interval: limits that learn get plausible readings, but for one.
        if worker.learnt_errors is not None and t != odd:
            y[t] = np.where(np.isnan(y[t]), np.nan, _expected(worker, worker.learnt_errors, rng))
        steps.append(worker.step(y[t], reference))
    u = np.array([step.u for step in steps])
    status = np.array([STATUSES.index(step.status) for step in steps])
    fallback = np.array([FALLBACKS.index(step.fallback) for step in steps])
    tables: Arrays = {
        "test_y": y,
        "test_reference": wanted,
        "test_u": u,
        "test_status": status,
        "test_fallback": fallback,
        "test_broken": np.array([bits(step.broken) for step in steps], dtype=int),
    }
    return f"enum {{ TESTED = {len(y)} }};\n{constants(tables)}"


def _expected(worker: TightenedMPC, learnt: LearntErrors, rng: np.random.Generator) -> Array:
    """Draw a reading (ny,) within the interval that earlier readings allow."""
    low, high = learnt.interval[:, 0]
    estimated = worker.predictor.system.output(worker.observer.state, worker.u_previous)
    return np.asarray(estimated + rng.uniform(low, high))


def _programme(controller: TightenedMPC) -> tuple[Array, Array]:
    """Readings under random inputs with noise and a missing sample, and references that step between model outputs."""
    predictor, rng = controller.predictor, np.random.default_rng(0)
    count = controller.observer.steps + _TESTED
    lower, upper = predictor.input_limits()
    u = rng.uniform(lower, upper, (count // 10 + 1, predictor.nu)).repeat(10, axis=0)[:count]
    y = predictor.predict(controller.observer.initial_state, u)[:-1]
    wanted = y[np.minimum(np.arange(9, count + 9) // 10 * 10, count - 1)]
    y = y + 0.05 * controller.problem.output_scale[: predictor.ny] * rng.standard_normal(y.shape)
    y[-_TESTED // 2] = np.nan
    return y, wanted
