"""Everything that goes from the computer that certifies to the one that controls: made in one folder, used from there.

``python portable_folder.py make FOLDER`` models, certifies and calibrates, under whatever kernels the process runs;
``use FOLDER...`` loads, verifies and controls, and prints what it did and what it was refused as JSON.
"""

from __future__ import annotations

import json
import logging
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from mpc_networks import LurePlant, declared_error, elman, signals
from test_every_certificate import KINDS

from controlrnn.certification import (
    certificate_from,
    certify_around,
    certify_contraction,
    certify_delta_iss,
    certify_horizon,
    certify_l2_gain,
    load_certificate,
)
from controlrnn.data import Trajectory
from controlrnn.export import load_system, save_system
from controlrnn.models import ContractingR2DN
from controlrnn.systems import GatedSystem, LureSystem, change_system
from mpc import (
    Disturbances,
    ErrorMemory,
    MovingHorizonObserver,
    OperatingRegion,
    Predictor,
    Start,
    StateObserver,
    TerminalSet,
    TightenedMPC,
    Tightening,
    Washout,
    calibrate_estimates,
    certify_changes,
    controller_to_c,
    kalman_gain,
    learn_region,
    make_error_memory,
    make_recursive,
    observer_system,
    run_closed_loop,
    terminal_set,
    tighten,
    tighten_guarded,
)
from mpc.calibration.model_error import ModelError
from mpc.control.settings import grouped
from mpc.observers.estimate_error import EstimateError

N, BACK, WANDER, LIMIT, STEPS = 10, 2, 0.03, 0.4, 15
OBSERVERS = ("washout", "innovation")


# --- what both sides do ---------------------------------------------------------------------------------------------


def predictor_of(system: LureSystem) -> Predictor:
    return Predictor(system, signals("u", 2, 1.0), signals("y", 2, LIMIT))


def observer_of(kind: str, predictor: Predictor, folder: Path, made: bool) -> Any:
    """As a user writes it: everything from its arguments, certificates alone from files."""
    contraction = load_certificate(folder / "contraction.npz")
    if kind == "washout":
        return Washout(predictor, 6, contraction=contraction, input_error=0.002, command_error=0.001)
    gain = 0.1 * kalman_gain(predictor, output_noise_std=0.03, state_noise_std=0.02)
    path = folder / "observer.npz"
    if not made:
        certify_contraction(observer_system(predictor.system, gain)).save(path)
    return StateObserver(
        predictor,
        gain,
        20,
        contraction=contraction,
        observer_contraction=load_certificate(path),
        residual_bound=WANDER,
    )


def controller_of(
    observer: Any, tightening: Tightening, terminal: TerminalSet, memory: ErrorMemory, **more: Any
) -> Any:
    return TightenedMPC(
        observer.predictor,
        observer,
        tightening,
        terminal=terminal,
        error_memory=memory,
        **grouped(dict(output_weight=1.0, input_move_weight=0.02, **more)),
    )


def loop(controller: Any) -> Any:
    """References beyond the limits, outputs that wander to the edge of the declared set."""
    plant = LurePlant(controller.predictor.system, controller.predictor.inputs, controller.predictor.outputs)
    wander = WANDER * np.random.default_rng(2).choice([-1.0, 1.0], (STEPS, 2))
    return run_closed_loop(
        plant,
        controller,
        reference=np.array([0.8, -0.8]),
        steps=STEPS,
        seed=1,
        disturbances=Disturbances(disturbance=wander),
        start=Start(warm_up=30),
    )


def records(system: LureSystem, n: int) -> list[Trajectory]:
    rng = np.random.default_rng(5)
    inputs = np.repeat(rng.uniform(-1, 1, (n, 12, 2)), 5, axis=1)
    return [Trajectory(u, system.simulate(u)[0] + WANDER * rng.uniform(-1, 1, (len(u), 2)), 1.0) for u in inputs]


def further_certificates() -> dict[str, tuple[Any, Callable[[Any], Any]]]:
    """Beside one of each kind in the contract: a cell with memory, a given metric, a long horizon, radii of zero."""
    draw = np.random.default_rng(3).standard_normal
    lstm = GatedSystem(
        W=0.5 * draw((12, 2)), U=0.03 * draw((12, 3)), b=0.5 * draw(12), C=draw((2, 3)), by=draw(2), cell="lstm", dt=1.0
    )

    def own(system: LureSystem) -> Any:
        best = certify_contraction(system)
        return certificate_from(system, best.metric, best.multipliers)

    box, few = (-np.ones(2), np.ones(2)), {"input_radius": 0.1, "iterations": 10}

    def long(system: LureSystem) -> Any:
        return certify_horizon(system, 230, initial_radius=0.5, **few)

    def without_start(system: LureSystem) -> Any:
        return certify_horizon(system, 6, initial_radius=0.0, **few)

    def from_point(system: LureSystem) -> Any:
        return certify_around(system, np.ones(4), np.ones((6, 2)), initial_radius=0.0, input_radius=0.1)

    def in_units(system: LureSystem) -> Any:
        return certify_l2_gain(system, input_scale=np.array([0.3, 2.7]), output_scale=np.array([1.3, 7e-3]))

    return {
        "l2 gain in units": (elman(seed=8), in_units),
        "delta-ISS of an LSTM": (lstm, lambda s: certify_delta_iss(s, input_range=box)),
        "contraction of a given metric": (elman(seed=4), own),
        "long horizon": (elman(seed=5), long),
        "no initial difference": (elman(seed=6), without_start),
        "tube from a point": (elman(seed=7), from_point),
    }


# --- making ---------------------------------------------------------------------------------------------------------


def make(folder: Path) -> None:
    kinds = {name: (kind.system, kind.make) for name, kind in KINDS.items()} | further_certificates()
    for name, (system, certify) in kinds.items():
        save_system(system, folder / "certificates" / f"{name}.system.npz")
        certify(system).save(folder / "certificates" / f"{name}.npz")
    save_system(ContractingR2DN(nu=2, ny=2, nx=3, nv=3, layers=(5,), seed=1).freeze(), folder / "r2dn.npz")
    certify_contraction(load_system(folder / "r2dn.npz")).save(folder / "r2dn.contraction.npz")
    system = elman()  # its scaling is LAPACK's: every kernel makes a model of its own
    save_system(system, folder / "model.npz")
    predictor = predictor_of(system)
    certify_contraction(system).save(folder / "contraction.npz")
    for kind in OBSERVERS:
        (folder / kind).mkdir()
        make_controller(folder, kind, observer_of(kind, predictor, folder, made=False))
    make_guarded(folder, predictor)


def make_controller(folder: Path, kind: str, observer: Any) -> None:
    own, system = folder / kind, observer.system
    error = replace(declared_error(system, np.full((N + 1, 2), WANDER)), data_digest="0" * 64)
    drift = replace(error, bounds=2 * error.bounds, disturbance_gain=1.0)
    start, ahead = (observer.error, 0) if observer.restart is None else (observer.restart, observer.steps)
    certificate = certify_horizon(
        system,
        ahead + N,
        initial_radius=start.radius,
        metric=start.metric,
        input_radius=observer.prediction_input_error,
        iterations=30,
    )
    jump = observer.jump
    growth = certify_horizon(system, N, initial_radius=jump.radius, metric=jump.metric, iterations=30)
    contraction = load_certificate(folder / "contraction.npz")
    made = terminal_set(observer.predictor, contraction, horizon=N, jump=jump)
    outputs = certify_horizon(system, 0, initial_radius=made.radius, metric=contraction.metric)
    terminal = terminal_set(observer.predictor, contraction, horizon=N, jump=jump, outputs=outputs)
    tightening = make_recursive(tighten(error, certificate, observer=observer), growth, observer=observer)
    changes = certify_changes(observer, BACK, iterations=20)
    memory = make_error_memory(tightening, drift, changes, observer=observer, growth=growth)
    seen = records(system, 20)
    region = learn_region(observer, seen[:10], scale_trajectories=seen[10:])
    parts = {"error": error, "drift": drift, "certificate": certificate, "growth": growth, "outputs": outputs,
             "terminal": terminal, "tightening": tightening, "recall": memory, "region": region}  # fmt: skip
    parts |= {f"change{k}": one for k, one in enumerate(changes)}
    for name, part in parts.items():
        part.save(own / f"{name}.npz")
    controller = controller_of(observer, tightening, terminal, memory, region=region)
    controller_to_c(controller, own / "controller.c")
    np.save(own / "inputs.npy", loop(controller).u)


def make_guarded(folder: Path, predictor: Predictor) -> None:
    """A moving horizon estimate, guarded, and one that is calibrated."""
    guard = observer_of("washout", predictor, folder, made=True)
    observer, free = moving(predictor, guard), moving(predictor, None)
    restart, room = guard.restart, observer.guard_distance
    arguments = {"iterations": 20}
    certify_horizon(
        predictor.system,
        guard.steps + N,
        initial_radius=restart.radius,
        metric=restart.metric,
        input_radius=guard.prediction_input_error,
        **arguments,
    ).save(folder / "guard.npz")
    certify_horizon(predictor.system, N, initial_radius=room.radius, metric=room.metric, **arguments).save(
        folder / "difference.npz"
    )
    calibrate_estimates(free, records(predictor.system, 10), washout=20).save(folder / "estimates.npz")


def moving(predictor: Predictor, guard: Any, **more: Any) -> MovingHorizonObserver:
    return MovingHorizonObserver(predictor, 6, window=4, output_std=WANDER, guard=guard, trust=0.5, **more)


# --- using ----------------------------------------------------------------------------------------------------------


class Tally:
    """What was done, and what was refused."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.refused: dict[str, str] = {}

    @contextmanager
    def trying(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # noqa: BLE001 -- whatever it is, it is a refusal
            self.refused[what] = (
                f"{type(error).__name__}: {error} ({traceback.extract_tb(error.__traceback__)[-1].name})"
            )
        else:
            self.done.append(what)


def use(folder: Path, tally: Tally) -> None:
    for path in sorted((folder / "certificates").glob("*.system.npz")):
        with tally.trying(f"certificate: {path.name.removesuffix('.system.npz')}"):
            certificate = load_certificate(path.with_name(path.name.replace(".system", "")))
            assert certificate.verify(load_system(path)) > 0
    with tally.trying("a model frozen from its parameters"):
        load_certificate(folder / "r2dn.contraction.npz").verify(load_system(folder / "r2dn.npz"))
    predictor = predictor_of(load_system(folder / "model.npz"))
    for kind in OBSERVERS:
        with tally.trying(f"controller: {kind}"):
            use_controller(folder, kind, observer_of(kind, predictor, folder, made=True), tally)
    with tally.trying("guarded estimates"):
        guard = observer_of("washout", predictor, folder, made=True)
        error = ModelError.load(folder / "washout" / "error.npz")
        parts = (load_certificate(folder / f"{name}.npz") for name in ("guard", "difference"))
        tighten_guarded(error, *parts, observer=moving(predictor, guard))
        moving(predictor, None, calibration=EstimateError.load(folder / "estimates.npz"))


def use_controller(folder: Path, kind: str, observer: Any, tally: Tally) -> None:
    own, system = folder / kind, observer.system
    contraction = load_certificate(folder / "contraction.npz")
    certificate, growth, outputs = (load_certificate(own / f"{n}.npz") for n in ("certificate", "growth", "outputs"))
    changes = [load_certificate(own / f"change{k}.npz") for k in range(BACK)]
    error, drift = (ModelError.load(own / f"{name}.npz") for name in ("error", "drift"))
    tightening, terminal = Tightening.load(own / "tightening.npz"), TerminalSet.load(own / "terminal.npz")
    memory, region = ErrorMemory.load(own / "recall.npz"), OperatingRegion.load(own / "region.npz")
    with tally.trying(f"tightening: {kind}"):
        tightening.verify(error, certificate, observer=observer, growth=growth)
    with tally.trying(f"terminal set: {kind}"):
        terminal.verify(system, contraction, outputs, jump=observer.jump)
    with tally.trying(f"recall: {kind}"):
        for k, one in enumerate(changes, 1):
            one.verify(change_system(system, k))
        memory.verify(tightening, drift, changes, observer=observer, growth=growth)
    with tally.trying(f"control: {kind}"):
        controlled(controller_of(observer, tightening, terminal, memory), own)
        loop(controller_of(observer, tightening, terminal, memory, region=region))
    with tally.trying(f"parts of here with parts of there: {kind}"):
        here = make_recursive(tighten(error, certificate, observer=observer), growth, observer=observer)
        remembered = make_error_memory(here, drift, changes, observer=observer, growth=growth)
        end = terminal_set(observer.predictor, contraction, horizon=N, jump=observer.jump)
        assert here.digest == tightening.digest
        controlled(controller_of(observer, tightening, end, memory), own)
        controlled(controller_of(observer, here, terminal, remembered), own)


def controlled(controller: Any, own: Path) -> None:
    """The loop is certified, keeps its limits, and does what it did where it was made."""
    result = loop(controller)
    assert result.certified.all(), "not certified"
    assert {str(s) for s in result.status} == {"solved"}, result.status
    assert result.max_violation <= 0, result.max_violation
    np.testing.assert_allclose(result.u, np.load(own / "inputs.npy"), atol=1e-5)


def main(command: str, *folders: str) -> None:
    logging.getLogger("mpc").setLevel(
        logging.ERROR
    )  # the wandering outputs leave the calibrated region, as they should
    found = {}
    for folder in folders:
        if command == "make":
            make(Path(folder))
            continue
        tally = Tally()
        use(Path(folder), tally)
        found[folder] = {"done": tally.done, "refused": tally.refused}
    sys.stdout.write(json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
