"""Small records of every kind that the library saves, for `bench_files` to damage and read again."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from controlrnn.certification import (
    ExecutionError,
    InputError,
    InputErrorKind,
    certify_around,
    certify_contraction,
    certify_delta_iss,
    certify_gains,
    certify_horizon,
    certify_l2_gain,
    certify_lipschitz,
    certify_reinitialisation,
    execution_error,
    load_certificate,
)
from controlrnn.certification.certificate import Certificate
from controlrnn.certification.certificates.dissipation import DissipationCertificate
from controlrnn.data import Dataset, Scaler, Signal, Trajectory
from controlrnn.errors import FileFormatError, TrainingError
from controlrnn.export import load_system, save_system
from controlrnn.greybox import GreyBoxFit
from controlrnn.identification import (
    BestFit,
    Candidate,
    Clock,
    Entry,
    Family,
    FitResult,
    Scores,
    SimulationError,
    StateEncoder,
    Trial,
    Work,
    check_residuals,
    identify,
)
from controlrnn.identification.selection.finals import Piece
from controlrnn.identification.training.checkpoint import fingerprint, load_checkpoint, state_arrays
from controlrnn.identification.training.loop import Trainer
from controlrnn.identification.training.settings import Settings
from controlrnn.models import Elman
from controlrnn.records import Stored, digest
from controlrnn.systems import Activation, GatedSystem, LureSystem
from controlrnn.systems.gated import Cell
from mpc import (
    CalibrationMethod,
    ClosedLoopCalibration,
    ClosedLoopResult,
    ErrorMemory,
    EstimateError,
    Fallback,
    LoopTarget,
    ModelError,
    MonteCarloResult,
    OperatingRegion,
    Premises,
    RegionShape,
    Status,
    TerminalSet,
    Tightening,
)
from mpc.loops.rounds import ClosedLoopRounds, LoopRound

NAME = "0" * 63 + "1"  # any digest


@dataclass(frozen=True)
class Sample:
    """A record on disk, with the way to read and to use it.

    Args:
        content: The file's bytes.
        load: Reads a file and returns an object with a digest.
        digest: Digest of the object that the undamaged file holds.
        use: Uses a loaded object; may raise the library's own errors.
    """

    content: bytes
    load: Callable[[Path], Any]
    digest: str
    use: Callable[[Any], None] = lambda _: None


def samples(seed: int, *, all_kinds: bool = True) -> dict[str, Sample]:
    """Make a record of every kind, by name.

    Args:
        seed: Seed of the numbers in the records.
        all_kinds: Whether to include kinds that take a search or a training.
    """
    rng = np.random.default_rng(seed)
    lure, gru = _lure(rng), _gru(rng)
    found = {name: _of(one) for name, one in {**_results(rng), **_control(rng), **_records(rng, lure)}.items()}
    for name, system in (("lure system", lure), ("gated system", gru)):
        found[name] = _sample(partial(save_system, system), load_system, _run)
    if not all_kinds:
        return found
    executed = execution_error(
        lure,
        input_range=(-np.ones(2), np.ones(2)),
        state_range=(np.zeros(2), np.ones(2)),
        contraction=certify_contraction(lure),
    )
    found["execution error"] = _sample(executed.save, ExecutionError.load, _verify(lure))
    for name, (certificate, system) in _certificates(lure, gru).items():
        found[name] = _sample(certificate.save, load_certificate, _verify(system))
    return found | _training(rng)


def _of(one: Stored) -> Sample:
    use: Callable[[Any], None] = lambda _: None  # noqa: E731
    if isinstance(one, OperatingRegion):
        use = _outside
    elif isinstance(one, Tightening):
        use = _limits
    return _sample(one.save, type(one).load, use)


def _sample(save: Callable[[Path], Any], load: Callable[[Path], Any], use: Callable[[Any], None]) -> Sample:
    handle, name = tempfile.mkstemp(suffix=".npz")
    os.close(handle)
    path = Path(name)
    try:
        save(path)
        return Sample(path.read_bytes(), load, load(path).digest, use)
    finally:
        path.unlink()


def _run(system: Any) -> None:
    """Simulate a system that was loaded; only overflow is tolerated."""
    with np.errstate(all="ignore"):
        system.simulate(np.zeros((3, system.nu)))


def _outside(region: OperatingRegion) -> None:
    """Check that an operating region that was loaded tells inside from outside."""
    with np.errstate(all="ignore"):
        far = np.full(len(region.centres[0]), np.finfo(float).max)
        status = region.check(far, region.centres[2])
        reach = np.log(region.limits[0]) + 0.5 * np.log(np.diag(region.covariances[0]))
        within = np.log(np.abs(far - region.centres[0])) <= reach + 1e-6
    if status.inside and not within.all():
        raise AssertionError("an input counts as inside that lies out of reach")


def _limits(tightening: Tightening) -> None:
    """Check that a tightening that was loaded leaves finite limits, or refuses."""
    with np.errstate(all="ignore"):
        lower, upper = tightening.limits(
            (Signal("a", "", -1.0, 1.0), Signal("b", "", -9.0, 9.0))[: tightening.total.shape[1]]
        )
    if not (np.isfinite(lower[1:]).all() and np.isfinite(upper[1:]).all()):
        raise AssertionError("a limit is no number")


def _verify(system: Any) -> Callable[[Any], None]:
    def use(certificate: Certificate | ExecutionError) -> None:
        with np.errstate(all="ignore"):
            certificate.verify(system)

    return use


def _lure(rng: np.random.Generator) -> LureSystem:
    draw = rng.standard_normal
    return LureSystem(
        A=0.3 * np.eye(2), B1=0.2 * draw((2, 3)), B2=draw((2, 2)), bx=0.1 * draw(2), C1=0.3 * draw((3, 2)),
        D11=np.zeros((3, 3)), D12=draw((3, 2)), bv=draw(3), C2=draw((2, 2)), D21=np.zeros((2, 3)),
        D22=np.zeros((2, 2)), by=draw(2), layers=(3,), dt=0.5,
    )  # fmt: skip


def _gru(rng: np.random.Generator) -> GatedSystem:
    draw = rng.standard_normal
    return GatedSystem(
        W=0.5 * draw((9, 2)), U=0.03 * draw((9, 3)), b=0.5 * draw(9), C=draw((2, 3)), by=draw(2), cell=Cell.GRU, dt=1.0
    )


def _certificates(lure: LureSystem, gru: GatedSystem) -> dict[str, tuple[Certificate, Any]]:
    box = (-np.ones(2), np.ones(2))
    errors = InputError(kind=InputErrorKind.RATE_LIMITED, radius=0.1, rate=0.01)
    gain = certify_l2_gain(lure)
    general = DissipationCertificate.prove(
        lure, metric=gain.metric, multipliers=gain.multipliers, rate=gain.rate, method="", Q=gain.Q, S=gain.S, R=gain.R
    )
    gains = certify_gains(lure, 2, iterations=5)
    made: dict[str, tuple[Certificate, Any]] = {
        "contraction": (certify_contraction(lure), lure), "l2 gain": (gain, lure), "dissipation": (general, lure),
        "gains": (gains, lure), "lipschitz": (certify_lipschitz(lure, 2, iterations=5), lure),
        "horizon": (
            certify_horizon(lure, 2, initial_radius=0.5, input_radius=0.1, gains=gains, iterations=0), lure,
        ),
        "horizon, constant errors in boxes": (
            certify_horizon(
                lure, 2, initial_radius=0.5, input_radius=errors, iterations=5, input_range=box, state_range=box
            ), lure,
        ),
        "tube": (certify_around(lure, np.zeros(2), np.zeros((3, 2)), initial_radius=0.1, passes=1), lure),
        "re-initialisation": (
            certify_reinitialisation(
                lure, washout=2, horizon=1, input_range=box, input_error=0.1, observer_gain=np.full((2, 2), 0.01),
                residual_bound=0.1, iterations=5,
            ), lure,
        ),
        "delta-ISS": (certify_delta_iss(gru, input_range=box), gru),
    }  # fmt: skip
    return made


def _results(rng: np.random.Generator) -> dict[str, Stored]:
    """Records of closed-loop results."""
    K, N, ny, nu = 4, 2, 2, 2
    draw = rng.standard_normal
    loop = ClosedLoopResult(
        y=draw((K + 1, ny)),
        readings=np.where(draw((K, ny)) > 1, np.nan, draw((K, ny))),
        u=draw((K, nu)),
        applied=draw((K, nu)),
        u_before=draw(nu),
        reference=draw((K + 1, ny)),
        x=draw((K, 3)),
        disturbance=draw((K, ny)),
        predicted=draw((K, N + 1, ny)),
        errors=draw((K, N + 1, ny)),
        bounds=np.abs(draw((N + 1, ny))),
        slack=np.abs(draw(K)),
        solve_time=np.abs(draw(K)),
        iterations=np.arange(K),
        status=(Status.SOLVED,) * K,
        fallback=(Fallback.NONE,) * (K - 1) + (Fallback.PLAN,),
        certified=np.ones(K, bool),
        verdicts=np.zeros((K, ny), np.int8),
        faults=np.zeros((K, 1), bool),
        lower=np.array([-np.inf, 0.0]),
        upper=np.ones(ny),
        cost=1.5,
        dt=0.5,
        seed=3,
        names=("a", "b", "c", "d"),
        fault_kinds=("drop out",),
        outside=("", "far out", "", ""),
        intervals=np.abs(draw((K, 2, N + 1, ny))),
    )
    total = np.abs(draw((N + 1, ny)))
    rounds = tuple(
        LoopRound(total=total, wanted=2 * total, excess=draw((3, ny)), kept=2, cost=1.0, attempt=last)
        for last in (False, True)
    )
    return {
        "closed loop": loop, "monte carlo": MonteCarloResult((loop, replace(loop, seed=4))),
        "closed-loop round": rounds[0],
        "closed-loop rounds": ClosedLoopRounds(settings=NAME, steps=20, missing=0.1, rounds=rounds),
        "closed-loop calibration": ClosedLoopCalibration(
            tightening=_tightening(rng, N, ny), target=LoopTarget.LIMITS, coverage=0.9, confidence=None, n=3, rank=2,
            attempts=1, starts=20, missing=0.0, rounds=rounds,
        ),
    }  # fmt: skip


def _tightening(rng: np.random.Generator, N: int, ny: int) -> Tightening:
    parts = ("model_error", "reinitialisation", "input_error", "growth", "execution")
    arrays: dict[str, Any] = {name: 0.01 * np.abs(rng.standard_normal((N + 1, ny))) for name in parts}
    return Tightening(**arrays, disturbance_gain=0.5, promise="some", digests={"system": NAME, "jump": NAME})


def _control(rng: np.random.Generator) -> dict[str, Stored]:
    """Records of the parts of a controller."""
    draw = rng.standard_normal
    N, K, ny = 4, 2, 2

    def positive(*shape: int) -> Any:
        return 0.01 * np.abs(draw(shape))

    names: dict[str, Any] = {"system_digest": NAME, "data_digest": NAME}
    root = draw((2, 2)) + 3 * np.eye(2)
    region: dict[str, Any] = {
        "centres": (draw(2), draw(2), draw(2)), "covariances": tuple(np.eye(2) * s for s in (1.0, 0.1, 0.01)),
        "limits": (1.0, 2.0, 3.0), "labels": ("u1", "u2", "y1", "y2"), "coverage": 0.9, "n": 20,
        "observer_digest": NAME, "data_digest": NAME,
    }  # fmt: skip
    return {
        "model error": ModelError(
            bounds=positive(N + 1, ny), method=CalibrationMethod.CONFORMAL, coverage=0.9, n=20, length=200, starts=100,
            washout=20, disturbance_gain=None, observer_digest="", **names,
        ),
        "premises": Premises(
            system=NAME, dt=0.5, inputs=("a", "b"), input_units=("", "V"), outputs=("y", "z"), output_units=("", "cm"),
            input_lower=-np.ones(2), input_upper=np.ones(2), input_error=positive(2), observer={"kind": "Washout"},
            horizon=N, length=200, missing=0.1, region=NAME,
        ),
        "tightening": _tightening(rng, N, ny),
        "recall": ErrorMemory(
            drift=positive(K, ny), change=positive(K, ny), jump=positive(N, ny), absolute=positive(N + 1, ny),
            growth=positive(N + 1, ny), end=positive(ny), promise="some", digests={"system": NAME, "drift": NAME},
        ),
        "terminal set": TerminalSet(
            metric=root.T @ root, radius=1.0, rate=0.8, horizon=10, jump=0.1, margin=positive(ny),
            digests={"system": NAME},
        ),
        "region, boxes": OperatingRegion(shape=RegionShape.BOX, **region),
        "region, ellipsoids": OperatingRegion(shape=RegionShape.ELLIPSOID, **region),
        "estimate error": EstimateError(
            error_scores=positive(20), jump_scores=positive(20), metric=root.T @ root, coverage=0.9,
            observer_digest=NAME, data_digest=NAME,
        ),
    }  # fmt: skip


def _records(rng: np.random.Generator, system: LureSystem) -> dict[str, Stored]:
    """Records of data, and of what is identified from them."""
    record = Trajectory(
        rng.standard_normal((40, 2)),
        rng.standard_normal((40, 2)),
        0.5,
        rng.standard_normal((40, 3)),
        (Signal("pump", "L/min", 0.0, 10.0), Signal("valve")),
        (Signal("level", "cm", upper=3.0), Signal("flow")),
        "ü",
    )
    past, hidden, nx = 2, 3, 2
    encoder = StateEncoder(
        past=past,
        inputs=Scaler(np.zeros(2), np.ones(2)),
        outputs=Scaler(np.ones(2), 2 * np.ones(2)),
        linear=rng.standard_normal((nx, 1 + past * 4)),
        inner=rng.standard_normal((hidden, past * 4)),
        bias=rng.standard_normal(hidden),
        outer=rng.standard_normal((nx, hidden)),
        system_digest=system.digest,
    )
    return {
        "trajectory": record, "residual test": check_residuals([record], [np.zeros((40, 2))], lags=5),
        "encoder": encoder, "grey box fit": _grey_box(rng, system), **_search(rng, system),
    }  # fmt: skip


def _grey_box(rng: np.random.Generator, system: LureSystem) -> GreyBoxFit:
    """An identified grey box with a fixed parameter and one that the records say nothing about."""
    return GreyBoxFit(
        system,
        system,
        {"drain": 0.06, "pump 1": 0.1, "area": 154.0},
        {"drain": 0.001, "pump 1": np.inf, "area": 0.0},
        np.eye(2),
        17.0,
        np.full(system.nx, 0.02),
        rng.standard_normal((3, system.nx)),
        np.array([0.5, 0.6]),
    )


def _search(rng: np.random.Generator, system: LureSystem) -> dict[str, Stored]:
    """Records of a search for a good model."""
    scores = Scores(*rng.uniform(0.1, 1.0, (4, system.ny)))
    trial = Trial(Candidate(Family.FREE, 2, 3, Activation.RELU, 1e-3), rng.uniform(0.1, 1.0, 4), 3, 0.5)
    entry = Entry("arx", "order 2", system, 0.25, None, scores, scores)
    fit = BestFit(
        entries=(entry, replace(entry, name="free", test=None, contraction=certify_contraction(system))),
        chosen="arx",
        reason="ü",
        notes=("no dead time",),
        trials=(trial,),
        work=Work(3, 2, 1),
        skip=5,
        feedthrough=True,
        delays=(0, 2),
        budget=10.0,
        clock=Clock.PROCESSOR,
        seconds=9.5,
        seed=1,
        mark=NAME,
    )
    return {
        "candidate": trial.candidate,
        "trial": trial,
        "search entry": entry,
        "search work": fit.work,
        "best fit": fit,
        "search piece": Piece(trial, "a" * 64, system.digest),
    }


@dataclass(frozen=True)
class _State:
    """State that a trainer restores from a checkpoint."""

    digest: str


def _training(rng: np.random.Generator) -> dict[str, Sample]:
    """A finished fit, and checkpoints of unfinished ones in either stage."""
    u = rng.standard_normal((40, 1))
    data = Dataset(train=(Trajectory(u, 0.5 * np.roll(u, 1, axis=0), 1.0),))
    found: dict[str, Sample] = {}
    for name, options in (
        ("checkpoint", {"steps": 3, "validate_every": 2}),
        ("checkpoint, refinement", {"steps": 2, "validate_every": 2, "refine": "lbfgs", "refine_steps": 3}),
    ):
        torch_model = _seeded(lambda: Elman(nu=1, ny=1, nx=2))
        loss = SimulationError(washout=5)
        settings = Settings(window=20, batch_size=2, start="as_is", **options)  # type: ignore[arg-type]
        mark = fingerprint(torch_model, data, loss, settings)

        def read(path: Path, loss: Any = loss, settings: Any = settings, mark: Any = mark) -> _State:
            model = _seeded(lambda: Elman(nu=1, ny=1, nx=2))
            trainer = Trainer(model, data, loss, settings, 20, 5)
            try:
                _, refinement = load_checkpoint(path, trainer, mark)
            except TrainingError as error:  # a sound file, of another run
                raise FileFormatError(str(error)) from error
            return _State(digest(state_arrays(trainer, refinement), {}))

        def make(path: Path, model: Any = torch_model, loss: Any = loss, options: Any = options) -> None:
            path.unlink()
            identify(model, data, loss=loss, checkpoint=path, window=20, batch_size=2, start="as_is", **options)

        found[name] = _sample(make, read, lambda _: None)
        if name == "checkpoint":
            fit = identify(torch_model, data, loss=loss, window=20, batch_size=2, start="as_is", **options)
            found["fit"] = _sample(fit.save, FitResult.load, lambda _: None)
            found["fit, into a model"] = _sample(
                fit.save, lambda path: FitResult.load(path, _seeded(lambda: Elman(nu=1, ny=1, nx=2))), lambda _: None
            )
    return found


def _seeded(build: Callable[[], Any]) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build()
