"""Shared by the two studies of the guaranteed mode: proofs, six controllers, loops on two kinds of plant.

The six controllers, on one model, one washout and one cost:

- nominal: limits as they are, shifted by the disturbance estimate (practical mode);
- backed off: the nominal one a constant away from its limits, the least at which trial loops on the physical plant kept
  them: what an engineer builds in an hour, and promises nothing;
- conformal: limits tightened by the conformal model error alone, with the disturbance estimate (practical mode);
- certified: limits tightened by the set-membership model error and the certified effects of re-initialisation and input
  errors; sound for each prediction, soft where a problem has no solution;
- guaranteed: the same with growth and terminal set, hard limits: recursively feasible;
- recalling: the same with limits that learn from measurements what errors can be next (`mpc.tightening.error_memory`):
  still so.

Their price is reported over the nominal one, which violates, and over the floor: a controller that knows the plant, its
state and the declared sets, and keeps its limits (`experiments.shared.floor`).

All solve by real-time iteration: two steps of sequential quadratic programming a sample, as a plant would be run.

"Infeasible" counts steps whose limits (each controller's own) could not all be kept: slack of more than a thousandth of
an output's range was used, or hard limits had no solution. "Failed" counts steps without a plan from the solver,
"fallbacks" those where another input stood in for it. "Contradictions" are measurements that drifted faster than
declared, see `mpc.tightening.error_memory`. "Loops inside" had every prediction error within its bound: on the physical
plant nothing promises that, since the bounds come from records of experiments; the interval says what the loops show.
"Noticed" counts loops outside in which the controller's own data said so: a measurement further from the estimate's
output than declared, or one that contradicts an earlier one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from controlrnn.certification import (
    ContractionCertificate,
    HorizonCertificate,
    certify_contraction,
    load_certificate,
)
from controlrnn.checks import Array
from controlrnn.data import Dataset, Signal
from controlrnn.export import load_system
from controlrnn.systems import LureSystem
from experiments.shared.declared_probability import promised
from experiments.shared.declared_sets import AnywhereWashout, DeclaredTruth, PhysicalTruth, Truth
from experiments.shared.floor import Physics
from experiments.shared.rows.tables import plain
from experiments.shared.study import Row, Study
from mpc import (
    CalibrationMethod,
    ClosedLoopSetup,
    DisturbanceFilter,
    ErrorMemory,
    Mode,
    ModelError,
    Operation,
    Predictor,
    SolverOptions,
    TightenedMPC,
    Tightening,
    calibrate,
    certify_changes,
    certify_jump,
    certify_predictions,
    make_error_memory,
    make_recursive,
    no_tightening,
    terminal_set,
    tighten,
)
from mpc.control.settings import grouped
from mpc.loops.plant import Plant
from mpc.tightening.terminal_set import TerminalSet

if TYPE_CHECKING:
    from controlrnn.cluster import Parcel

SOLVER = SolverOptions(rti=2)


class Controller(StrEnum):
    """The six controllers that are compared; see the module docstring."""

    NOMINAL = "nominal"
    BACKED_OFF = "backed off"
    CONFORMAL = "conformal"
    CERTIFIED = "certified"
    GUARANTEED = "guaranteed"
    RECALLING = "recalling"


TRUTHS = {"physical": PhysicalTruth, "declared": DeclaredTruth}
PARTS = ("model_error", "reinitialisation", "input_error", "growth", "terminal")


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """One plant with all settings of its study.

    Args:
        plant: The plant with its limits.
        inputs: Ranges that the controllers may use: where there are data.
        washout: Samples W that the estimate is washed in.
        settle: Samples at the start of calibration records that the model needs to forget their initial state.
        horizon: Prediction horizon N.
        moves: Free inputs M; the last one is held until N.
        actuator: Bound on |true - commanded input| per channel.
        noise: Standard deviation of the measurements.
        unmeasured: Gives the plant's disturbances (steps, nw) from a generator and a number of steps.
        output_weight: Cost of output errors, shape (ny,).
        move_weight: Cost of input moves.
        reference: Shape (steps, ny).
        held: Input of the steady state that runs start from, shape (nu,).
        limited: Output that an adversary aims at.
        runs: Closed loops per controller and truth.
        removals: Closed loops per removed part.
        memory: Samples K that a measurement is remembered for.
        iterations: Spent on the multipliers of horizon certificates.
        inflation: Factor on the largest residual seen.
        coverage: Of the conformal bound.
        gain: Of the disturbance filter.
        move_limit: Move limit of controllers with tightened limits, for which errors are calibrated; None: for any.
        physics: The plant's equations, for the controller that knows them; None where they cannot be shown to contract.
    """

    plant: Plant
    inputs: tuple[Signal, ...]
    washout: int
    settle: int
    horizon: int
    moves: int
    memory: int
    actuator: float
    noise: float
    unmeasured: Callable[[np.random.Generator, int], Array]
    output_weight: tuple[float, ...]
    move_weight: float
    reference: Array
    held: tuple[float, ...]
    limited: int = 0
    runs: int = 500
    removals: int = 60
    iterations: int = 200
    inflation: float = 1.2
    coverage: float = 0.9
    gain: float = 0.2
    move_limit: float | None = None
    physics: Physics | None = None

    @property
    def steps(self) -> int:
        """Samples per closed loop."""
        return len(self.reference)


def needs(case: Case, folder: Path) -> Row:
    """Settings that stored rows depend on, as JSON."""
    kept = {k: v for k, v in vars(case).items() if k not in ("plant", "inputs", "unmeasured", "physics")}
    if case.move_limit is None:
        del kept["move_limit"]
    ranges = [[s.lower, s.upper] for s in case.inputs]
    return dict(plain(kept | {"inputs": ranges, "model": model_of(folder).digest}))


def watch_of(case: Case, folder: Path) -> AnywhereWashout:
    """Build the observer of all controllers."""
    proof = load_certificate(folder / "contraction.npz")
    assert isinstance(proof, ContractionCertificate)
    predictor = Predictor(model_of(folder), case.inputs, case.plant.outputs)
    return AnywhereWashout(predictor, case.washout, contraction=proof, input_error=case.actuator)


def prove(study: Study, case: Case, dataset: Dataset) -> Row:
    """Calibrate, certify and tighten the model in ``model.npz``; every artefact lands in the study's folder."""

    def compute() -> Row:
        contraction(case, study.out, dataset).save(study.path("contraction.npz"))
        observer = watch_of(case, study.out)
        errors = calibrated(case, dataset, observer)
        for name, error in errors.items():
            error.save(study.path(f"model_error_{name}.npz"))
        certificates = certified(case, observer)
        for name, certificate in certificates.items():
            certificate.save(study.path(f"certificate_{name}.npz"))
        rooms(observer, errors, certificates, study.out)
        with tqdm(total=case.memory, desc="changes", leave=False) as bar:

            def advance(_done: int, _total: int) -> None:
                bar.update()

            changes = certify_changes(observer, case.memory, iterations=case.iterations, progress=advance)
        remembered(observer, errors["drift"], changes, certificates["growth"], study.out)
        terminal = terminal_of(case, observer)
        terminal.save(study.path("terminal.npz"))
        tightening = Tightening.load(study.path("guaranteed.npz"))
        joint, growth = certificates["joint"], certificates["growth"]
        tightening.verify(
            errors["set_membership"], joint, observer=observer, growth=growth
        )  # raises where the file claims else
        parts = {name: getattr(tightening, name)[-1] for name in PARTS[:-1]}
        return promised(observer, dataset, errors, case.memory) | {
            "rate": observer.contraction.rate if observer.contraction else None,
            "restart_radius": observer.restart.radius, "jump": observer.jump.radius,
            "residual_bound": errors["set_membership"].bounds[0],
            "terminal_radius": terminal.radius, "terminal_margin": terminal.margin,
            "total_first": tightening.total[1], "total_last": tightening.total[-1],
        } | {f"{name}_last": value for name, value in parts.items()}  # fmt: skip

    names = (
        "recall_guaranteed",
        "contraction",
        "conformal",
        "certified",
        "guaranteed",
        "terminal",
        "model_error_set_membership",
    )
    return study.row("proofs", compute, needs=needs(case, study.out), files=[f"{n}.npz" for n in names])


def contraction(case: Case, folder: Path, dataset: Dataset) -> ContractionCertificate:
    """Certify contraction a little slower than possible: at the best rate the metric is ill conditioned."""
    half = np.array([0.5 * (s.upper - s.lower) for s in case.inputs])
    sizes = np.std(np.concatenate([r.y for r in dataset.train]), axis=0)
    return certify_contraction(model_of(folder), slower=0.1, input_scale=half, output_scale=sizes)


def model_of(folder: Path) -> LureSystem:
    """Load the identified model."""
    system = load_system(folder / "model.npz")
    assert isinstance(system, LureSystem)
    return system


def calibrated(case: Case, dataset: Dataset, observer: AnywhereWashout) -> dict[str, ModelError]:
    """Calibrate the declared sets by set membership, and a conformal bound for the practical modes."""
    settings: dict[str, Any] = {
        "horizon": case.horizon, "washout": case.settle, "initial_state": observer.initial_state,
        "operation": Operation(move_limit=case.move_limit),
    }  # fmt: skip
    largest = calibrate(
        observer.system,
        dataset.calibration,
        method=CalibrationMethod.SET_MEMBERSHIP,
        inflation=case.inflation,
        **settings,
    )
    conformal = calibrate(
        observer.system,
        dataset.calibration,
        scale_trajectories=dataset.validation,
        coverage=case.coverage,
        disturbance=DisturbanceFilter(case.gain),
        **settings,
    )
    drift = calibrate(
        observer.system,
        dataset.calibration,
        method=CalibrationMethod.SET_MEMBERSHIP,
        inflation=case.inflation,
        disturbance=DisturbanceFilter(1.0),
        **settings,
    )
    flat = np.tile(largest.bounds.max(axis=0), (case.horizon + 1, 1))
    return {"set_membership": replace(largest, bounds=flat), "conformal": conformal, "drift": drift}


def certified(case: Case, observer: AnywhereWashout) -> dict[str, HorizonCertificate]:
    """Certify washout and prediction as one horizon, with and without input errors, and the effect of a jump."""
    horizon, options = case.horizon, {"iterations": case.iterations}
    return {
        "joint": certify_predictions(observer, horizon, input_error=case.actuator, **options),
        "initial": certify_predictions(observer, horizon, input_error=0.0, **options),
        "growth": certify_jump(observer, horizon, **options),
    }


def rooms(
    observer: AnywhereWashout, errors: dict[str, ModelError], certificates: dict[str, HorizonCertificate], folder: Path
) -> None:
    """Write the tightening of every controller, and those with one part removed."""
    tighten(errors["conformal"], None, observer=observer).save(folder / "conformal.npz")
    tightening = tighten(
        errors["set_membership"], certificates["joint"], observer=observer, initial_only=certificates["initial"]
    )
    tightening.save(folder / "certified.npz")
    make_recursive(tightening, certificates["growth"], observer=observer).save(folder / "guaranteed.npz")
    for part in PARTS[:3]:
        gone: dict[str, Any] = {part: np.zeros_like(tightening.total), "promise": f"nothing: {part} was removed"}
        less = replace(tightening, **gone)
        make_recursive(less, certificates["growth"], observer=observer).save(folder / f"without_{part}.npz")


def remembered(
    observer: AnywhereWashout,
    drift: ModelError,
    changes: Sequence[HorizonCertificate],
    growth: HorizonCertificate,
    folder: Path,
) -> None:
    """Write the `ErrorMemory` of the whole tightening, and those with one part removed."""
    gone_with = {"without_input_error": "change", "certified": "growth"}
    for name in ("guaranteed", "certified", "without_reinitialisation", "without_input_error"):
        tightening = Tightening.load(folder / f"{name}.npz")
        whole = make_error_memory(tightening, drift, changes, observer=observer, growth=growth)
        gone = gone_with.get(name)
        less: dict[str, Any] = {gone: np.zeros_like(getattr(whole, gone))} if gone else {}
        replace(whole, **less).save(folder / f"recall_{name}.npz")


def terminal_of(case: Case, observer: AnywhereWashout) -> TerminalSet:
    """Terminal set of the guaranteed mode."""
    assert observer.contraction is not None
    return terminal_set(observer.predictor, observer.contraction, horizon=case.horizon, jump=observer.jump)


def build(folder: Path, case: Case, controller: Controller, truth: str, removed: str | None = None) -> ClosedLoopSetup:
    """Build plant and controller from the artefacts in ``folder``; importable, for worker processes.

    Args:
        folder: The study's folder.
        case: The case.
        controller: The controller to build.
        truth: Which plant, a key of `TRUTHS`.
        removed: Part that the guaranteed controller goes without, one of `PARTS`.
    """
    observer = watch_of(case, folder)
    plant = truth_of(folder, case, observer, truth)
    options = loop_of(case, plant) | {
        "warm_up": case.washout, "warm_up_input": np.array(case.held),
        "noise_std": case.noise if truth == "physical" else 0.0,  # declared residuals contain the noise
    }  # fmt: skip
    return ClosedLoopSetup(plant, controller_of(folder, case, observer, controller, removed), options)


def truth_of(folder: Path, case: Case, observer: AnywhereWashout, truth: str) -> Truth:
    """Build the plant with its adversaries.

    Args:
        folder: The study's folder.
        case: The case.
        observer: The controllers' observer.
        truth: Which plant, a key of `TRUTHS`.
    """
    made: Truth = TRUTHS[truth](
        case.plant,
        observer,
        push=np.full(len(case.inputs), case.actuator),
        residual=ModelError.load(folder / "model_error_set_membership.npz").bounds[0],
        drift=ErrorMemory.load(folder / "recall_guaranteed.npz").drift,
        disturbances=case.unmeasured(np.random.default_rng(0), 1).shape[1],
        limited=case.limited,
        held=np.array(case.held),
    )
    return made


def loop_of(case: Case, plant: Truth) -> dict[str, Any]:
    """Reference and unknowns of a loop; the latter depend on its seed alone."""

    def unknowns(rng: np.random.Generator) -> Array:
        return np.column_stack([case.unmeasured(rng, case.steps), plant.unknowns.draw(rng, plant.pulses, case.steps)])

    return {"reference": case.reference, "steps": case.steps, "disturbance": unknowns}


def maker(
    folder: Path, case: Case, controller: Controller, truth: str, removed: str | None = None, *, travels: bool = False
) -> Callable[[], ClosedLoopSetup]:
    """Function that calls `build`; one that travels takes the artefacts along to machines without the folder."""
    if not travels:
        return partial(build, folder, case, controller, truth, removed)
    return partial(_unpacked, artefacts(folder), case, controller, truth, removed)


def artefacts(folder: Path) -> Parcel:
    """Model and proofs in a folder, without loops that were run with them."""
    from controlrnn.cluster import Parcel

    return Parcel.of(p for p in folder.glob("*.npz") if not p.name.endswith("_loops.npz"))


def _unpacked(files: Parcel, *arguments: Any) -> ClosedLoopSetup:
    return build(files.folder(), *arguments)


def controller_of(
    folder: Path, case: Case, observer: AnywhereWashout, controller: Controller, removed: str | None
) -> TightenedMPC:
    settings: dict[str, Any] = {
        "output_weight": case.output_weight, "input_move_weight": case.move_weight, "disturbance_gain": case.gain,
        "safe_input": case.held, "control_horizon": case.moves, "options": SOLVER,
    }  # fmt: skip
    if controller is Controller.NOMINAL:
        tightening = no_tightening(observer.system.digest, case.horizon, observer.predictor.ny)
        return TightenedMPC(observer.predictor, observer, tightening, **grouped(dict(mode=Mode.PRACTICAL, **settings)))
    if controller is Controller.BACKED_OFF:
        return TightenedMPC(
            observer.predictor,
            observer,
            Tightening.load(folder / "backed_off.npz"),
            **grouped(dict(mode=Mode.PRACTICAL, **settings)),
        )
    settings["move_limit"] = case.move_limit  # of those whose errors are calibrated for it
    if controller not in (Controller.GUARANTEED, Controller.RECALLING):
        trusted = Tightening.load(folder / f"{controller}.npz").on_trust()
        return TightenedMPC(observer.predictor, observer, trusted, **grouped(settings))
    name = {None: "guaranteed", "terminal": "guaranteed", "growth": "certified"}.get(removed, f"without_{removed}")
    terminal = None if removed in ("growth", "terminal") else TerminalSet.load(folder / "terminal.npz").on_trust()
    if controller is Controller.RECALLING and removed != "model_error":  # nothing drifts where nothing may be off
        settings["error_memory"] = ErrorMemory.load(folder / f"recall_{name}.npz").on_trust()
    tightening = Tightening.load(folder / f"{name}.npz").on_trust()  # of this study, which verified the whole one
    return TightenedMPC(
        observer.predictor, observer, tightening, terminal=terminal, **grouped(dict(soft=False, **settings))
    )
