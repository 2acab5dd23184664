"""Soundness and cost of `verify`: forged certificates, honest ones in all units, and the time of a proof.

(a) Forgeries of every kind, and claims driven to the edge of what is accepted: each accepted one is decided in ball
    arithmetic (`experiments.bench_proof.forgeries`). Accepted and false must be none.
(b) Certificates of systems of many sizes, activations and units, against attacks and the ball checker.
(c) Time of verification, in float64 and in ball arithmetic.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import numpy as np

from controlrnn.certification import (
    Certificate,
    DissipationCertificate,
    InputError,
    InputErrorKind,
    attack_around,
    attack_horizon,
    certify_around,
    certify_contraction,
    certify_delta_iss,
    certify_gains,
    certify_horizon,
    certify_l2_gain,
    certify_lipschitz,
    certify_reinitialisation,
)
from controlrnn.checks import Array
from controlrnn.errors import CertificationError, ControlRnnError
from controlrnn.systems import Activation, Cell, GatedSystem, LureSystem
from experiments.bench_proof.forgeries import Rng, System, edges, forged, judge, refuted, unstable_pair
from experiments.shared.study import Row, Study

_BATCH, _PIECES = 2000, 4  # of a row, side by side; edges: one certificate a piece
_ROUNDED = 1 + 1e-6  # attacks are computed in float64, whose rounding the bounds do not cover
_STEPS = 5
_UNITS = (1e-8, 1e-4, 1.0, 1e4, 1e8)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("bench_proof", __doc__, arguments)
    with study.stage("forgeries"):
        forgeries(study)
    with study.stage("honest certificates"):
        honest(study)
    with study.stage("time"):
        cost(study)
    return study.finish()


def network(
    seed: int,
    *,
    nx: int = 2,
    nu: int = 1,
    ny: int = 1,
    layers: tuple[int, ...] = (2,),
    activation: str = "tanh",
    norm: float = 0.6,
) -> LureSystem:
    """A random system with feedthrough whose linear part has this norm."""
    rng = np.random.default_rng(seed)
    draw, nv = rng.standard_normal, sum(layers)
    A, place = draw((nx, nx)), np.repeat(np.arange(len(layers)), layers)
    return LureSystem(
        A=A * norm / np.linalg.norm(A, 2), B1=0.3 * draw((nx, nv)) / max(nv, 1) ** 0.5, B2=draw((nx, nu)),
        bx=0.3 * draw(nx), C1=draw((nv, nx)) / nx**0.5,
        D11=np.where(place[:, None] > place, 0.5 * draw((nv, nv)), 0.0), D12=draw((nv, nu)), bv=0.5 * draw(nv),
        C2=draw((ny, nx)), D21=0.5 * draw((ny, nv)), D22=draw((ny, nu)), by=draw(ny),
        activation=Activation(activation), layers=layers, dt=1.0,
    )  # fmt: skip


def gated(seed: int, cell: str) -> GatedSystem:
    """A random network of two units."""
    draw, rows = np.random.default_rng(seed).standard_normal, 8 if cell == "lstm" else 6
    return GatedSystem(
        W=0.5 * draw((rows, 1)), U=0.05 * draw((rows, 2)), b=0.5 * draw(rows), C=draw((1, 2)), by=draw(1),
        cell=Cell(cell), dt=1.0,
    )  # fmt: skip


def _dissipation(system: LureSystem) -> DissipationCertificate:
    c = certify_l2_gain(system)
    return DissipationCertificate.prove(
        system, metric=c.metric, multipliers=c.multipliers, rate=c.rate, method="gain", Q=c.Q, S=c.S, R=c.R
    )


def _horizon(system: LureSystem, kind: str) -> Certificate:
    b, one, far = np.full(system.nu, 0.1), np.ones(system.nu), np.ones(system.nx)
    rate = 0.2 * b if kind == "rate_limited" else None
    name = InputErrorKind.BOX if kind == "boxes" else InputErrorKind(kind)
    error = InputError(kind=name, radius=b, rate=rate, steps=1 if kind == "few" else None)
    boxed: dict[str, Any] = {"input_range": (-one, one), "state_range": (-far, far)} if kind == "boxes" else {}
    return certify_horizon(system, 2, initial_radius=0.5, input_radius=error, iterations=10, focus=[2], **boxed)


def _reinitialisation(system: LureSystem) -> Certificate:
    return certify_reinitialisation(
        system,
        washout=2,
        horizon=1,
        input_range=(-np.ones(system.nu), np.ones(system.nu)),
        input_error=0.1,
        observer_gain=np.full((system.nx, system.ny), 0.01),
        residual_bound=0.1,
        iterations=5,
    )


def _tube(system: LureSystem) -> Certificate:
    return certify_around(
        system, np.ones(system.nx), np.ones((3, system.nu)), initial_radius=0.5, input_radius=0.1, passes=1
    )


MAKERS: Mapping[str, Callable[[Any], Certificate]] = {
    **{f"horizon, {k}": partial(_horizon, kind=k)
       for k in ("box", "ball", "few", "constant", "rate_limited", "boxes")},
    "gains": lambda s: certify_gains(s, 2, iterations=10),
    "lipschitz": lambda s: certify_lipschitz(s, 2, iterations=10),
    "contraction": certify_contraction,
    "dissipation": _dissipation,
    "l2 gain": certify_l2_gain,
    "tube": _tube,
    "re-initialisation": _reinitialisation,
}  # fmt: skip
# Batches of forgeries of each kind, 6 if not named; a proof of re-initialisation contains five others.
BATCHES = {"tube": 3, "re-initialisation": 2, "gains": 8, "contraction": 8} | dict.fromkeys(
    ("lipschitz", "l2 gain", "delta-iss"), 14
)


@dataclass(frozen=True)
class Material:
    """Honest certificates by kind, from which forgeries are made, and the systems that they are shown to."""

    own: dict[str, list[Any]]
    shown: dict[str, list[System]]

    @classmethod
    def made(cls) -> Material:
        """Make the material, the same in every process."""
        activations = ("tanh", "relu", "sigmoid", "leaky_relu")
        systems: list[System] = [network(i, activation=a) for i, a in enumerate(activations)]
        more = [network(5, norm=1.3, activation="relu"), network(6, layers=()), network(7, layers=(1, 1), norm=1.05)]
        gates = [gated(seed, cell) for seed, cell in enumerate(("lstm", "gru", "lstm", "gru"))]
        ranges = [(-np.ones(1), np.ones(1)), (-0.1 * np.ones(1), 0.2 * np.ones(1))]
        own = {n: [c for s in systems if (c := _made(make, s)) is not None] for n, make in MAKERS.items()}
        own["delta-iss"] = [certify_delta_iss(g, input_range=r) for g in gates for r in ranges]
        return cls(own, {n: list(gates) if n == "delta-iss" else [*systems, *more] for n in own})


@cache
def material_here() -> Material:
    """The material, made once in every process."""
    return Material.made()


def forgeries(study: Study) -> None:
    """Judge forgeries: rows by kind and batch, and the targets."""
    total, batch = Counter[str](), 60 if study.quick else _BATCH

    def row(key: str, work: Callable[[Any], Row], tasks: Sequence[Any]) -> None:
        found = study.row(key, lambda: _together(study.side_by_side(work, tasks)), needs=len(tasks))
        total.update({k: v for k, v in found.items() if isinstance(v, int)})

    for name in (*MAKERS, "delta-iss"):
        for part in range(1 if study.quick else BATCHES.get(name, 6)):
            seeds = [[study.seed, part, piece, *name.encode()] for piece in range(_PIECES)]
            row(f"forged {name} {part}", _batch, [(seed, name, -(-batch // _PIECES)) for seed in seeds])
        row(f"edges of {name}", _edges, [(study.seed, name, i, 3 if study.quick else 30) for i in range(_PIECES)])
    for part in range(1 if study.quick else 12):
        row(
            f"hidden modes {part}",
            _hidden,
            [([study.seed, 77, part, piece], 50 if study.quick else 250) for piece in range(_PIECES)],
        )
    least = 500 if study.quick else 200_000
    study.target("forged certificates", f">= {least}", total["forged"], total["forged"] >= least)
    study.target("accepted and false", 0, total["false"], total["false"] == 0)
    study.target("accepted, neither proven nor refuted", "listed", total["undecided"], total["undecided"] == 0)


def _made(make: Callable[[Any], Certificate], system: Any) -> Certificate | None:
    try:
        return make(system)
    except CertificationError:
        return None


def _batch(task: tuple[list[int], str, int]) -> Row:
    seed, name, count = task
    material, rng, tally, texts = material_here(), np.random.default_rng(seed), Counter[str](), list[str]()
    own, systems = material.own[name], material.shown[name]
    donors = [c for many in material.own.values() for c in many]
    while tally["forged"] < count:
        system = systems[int(rng.integers(len(systems)))]
        one = forged(rng, own[int(rng.integers(len(own)))], donors, system.digest)
        if one is not None:
            _count(tally, texts, one, system, rng)
    return _tallied(tally, texts)


def _edges(task: tuple[int, str, int, int]) -> Row:
    seed, name, index, tries = task
    tally, texts, rng = Counter[str](), list[str](), np.random.default_rng(seed)
    certificate = material_here().own[name][index]
    system = next(s for s in material_here().shown[name] if s.digest == certificate.system_digest)
    for one in edges(certificate, system, tries):
        _count(tally, texts, one, system, rng)
    return _tallied(tally, texts)


def _hidden(task: tuple[list[int], int]) -> Row:
    seed, count = task
    tally, texts, rng = Counter[str](), list[str](), np.random.default_rng(seed)
    for _ in range(count):
        system, certificate = unstable_pair(rng)
        _count(tally, texts, certificate, system, rng)
    return _tallied(tally, texts)


def _count(tally: Counter[str], texts: list[str], certificate: Certificate, system: System, rng: Rng) -> None:
    verdict = judge(certificate, system, rng)
    tally["forged"] += 1
    tally["accepted"] += verdict.accepted
    tally["proven"] += verdict.proven
    tally["false"] += verdict.refuted
    if verdict.accepted and not verdict.proven:
        tally["undecided"] += not verdict.refuted
        texts.append(f"{certificate.KIND}: {verdict.error}")


_NAMES = ("forged", "accepted", "proven", "false", "undecided")


def _tallied(tally: Counter[str], texts: list[str]) -> Row:
    return {**{n: int(tally[n]) for n in _NAMES}, "what": "; ".join(texts[:20])}


def _together(parts: Sequence[Row]) -> Row:
    return {n: sum(part[n] for part in parts) for n in _NAMES} | {
        "what": "; ".join(p["what"] for p in parts if p["what"])
    }


def in_units(system: LureSystem, x: Array, u: Array, y: Array) -> LureSystem:
    """The same system measured in units that are ``x``, ``u``, ``y`` times smaller for states, inputs and outputs."""
    return replace(
        system,
        A=x[:, None] * system.A / x,
        B1=x[:, None] * system.B1,
        B2=x[:, None] * system.B2 / u,
        bx=x * system.bx,
        C1=system.C1 / x,
        D12=system.D12 / u,
        C2=y[:, None] * system.C2 / x,
        D21=y[:, None] * system.D21,
        D22=y[:, None] * system.D22 / u,
        by=y * system.by,
    )


def honest(study: Study) -> None:
    """Rows by kind, over systems and units: issued or refused, against attacks and the ball checker."""
    rng = np.random.default_rng(study.seed)
    sizes: list[dict[str, Any]] = [
        {"nx": 2, "layers": (2,)}, {"nx": 4, "nu": 2, "ny": 2, "layers": (5,)}, {"nx": 3, "nu": 2, "layers": (3, 2)},
        {"nx": 6, "nu": 1, "ny": 2, "layers": (8,)}, {"nx": 3, "ny": 2, "layers": ()},
    ]  # fmt: skip
    cases = []
    for i, size in enumerate(sizes[: 2 if study.quick else None]):
        for j, unit in enumerate(_UNITS[::2] if study.quick else _UNITS):
            system = network(10 * i + j, activation=("tanh", "relu", "sigmoid", "leaky_relu")[(i + j) % 4], **size)
            mixed = unit ** rng.choice([-1.0, 1.0], system.nx)
            scales = mixed, np.full(system.nu, unit), np.full(system.ny, unit ** rng.choice([-1.0, 1.0]))
            cases.append((f"{system.nx} states, {system.nv} neurons, {unit:g}", system, scales))
    outcome = Counter[str]()
    for name, system, scales in cases:
        row = study.row(f"honest: {name}", partial(_honest, study, system, scales))
        outcome.update({k: v for k, v in row.items() if isinstance(v, int)})
    for cell in ("lstm", "gru"):
        row = study.row(f"honest: {cell}", partial(_honest_gates, study, cell))
        outcome.update({k: v for k, v in row.items() if isinstance(v, int)})
    issued, wrong = outcome["issued"], outcome["not_agreed"] + outcome["beaten"] + outcome["raw"]
    study.say(f"honest calls: {issued} of {outcome['calls']} issued, {outcome['refused']} refused")
    study.target("honest: refused here, issued in other units", 0, outcome["needless"], outcome["needless"] == 0)
    mute = outcome["without_remedy"]
    study.target("honest: refused without a remedy", 0, mute, mute == 0)
    study.target("honest: attack above bound, ball disagrees, or another error", 0, wrong, wrong == 0)


def _honest(study: Study, system: LureSystem, scales: tuple[Array, Array, Array]) -> Row:
    there, tally, texts = in_units(system, *scales), Counter[str](), list[str]()
    x0, inputs, radii = _case(system, *scales[:2])
    ends = -1.0 * scales[1], 1.0 * scales[1]
    plain = _calls(system, *(np.ones_like(one) for one in scales))
    for kind, make in _calls(there, *scales).items():
        found = _called(kind, make, there, tally, texts)
        if found is None:
            tally["needless"] += int(_made(lambda _, kind=kind: plain[kind](), system) is not None)  # type: ignore[misc]
        if kind == "horizon" and found is not None:
            reached = attack_horizon(there, _STEPS, input_range=ends, starts=16, steps=20, seed=study.seed, **radii)
            tally["beaten"] += int((reached.differences > _ROUNDED * found.bounds).any())
        if kind == "tube" and found is not None:
            near = attack_around(there, x0, inputs, starts=4, steps=15, seed=study.seed, **radii)
            tally["beaten"] += int((near.differences > _ROUNDED * found.bounds).any())
        if found is not None and kind not in ("horizon", "tube", "re-initialisation"):
            tally["beaten"] += refuted(found, there, np.random.default_rng(study.seed), tries=5)
    return _said(tally, texts)


def _case(system: LureSystem, x: Array, u: Array) -> tuple[Array, Array, dict[str, Any]]:
    """A nominal run and radii around it, in units of these sizes."""
    radii = {"initial_radius": 0.5, "input_radius": 0.1 * u, "metric": np.diag(x**-2.0)}
    return x * np.ones(system.nx), u * np.sin(np.arange(_STEPS + 1))[:, None], radii


def _calls(system: LureSystem, x: Array, u: Array, y: Array) -> Mapping[str, Callable[[], Certificate]]:
    """One call of each kind for a system in units of these sizes."""
    x0, inputs, radii = _case(system, x, u)
    scale: dict[str, Any] = {"input_scale": u, "output_scale": y}
    return {
        "horizon": lambda: certify_horizon(system, _STEPS, iterations=60, **radii),
        "tube": lambda: certify_around(system, x0, inputs, **radii),
        "gains": lambda: certify_gains(system, _STEPS, metric=radii["metric"], iterations=60),
        "lipschitz": lambda: certify_lipschitz(system, _STEPS, iterations=60),
        "contraction": lambda: certify_contraction(system, **scale),
        "l2": lambda: certify_l2_gain(system, **scale),
        "re-initialisation": lambda: certify_reinitialisation(
            system, washout=4, horizon=3, input_range=(-u, u), input_error=0.1 * u, iterations=30
        ),
    }


def _honest_gates(study: Study, cell: str) -> Row:
    tally, texts = Counter[str](), list[str]()
    for seed in range(2 if study.quick else 10):
        system, unit = gated(seed, cell), float(_UNITS[seed % len(_UNITS)])
        there = replace(system, W=system.W / unit)
        ends = -unit * np.ones(1), unit * np.ones(1)
        found = _called(cell, partial(certify_delta_iss, there, input_range=ends), there, tally, texts)
        if found is not None:
            tally["beaten"] += refuted(found, there, np.random.default_rng(seed), tries=5)
    return _said(tally, texts)


def _called(
    kind: str, make: Callable[[], Certificate], system: System, tally: Counter[str], texts: list[str]
) -> Any | None:
    tally["calls"] += 1
    try:
        found = make()
    except ControlRnnError as error:
        tally["refused"] += 1
        tally["without_remedy"] += not any(sign in str(error) for sign in (":", ";", ". "))
        texts.append(f"{kind}: {error}")
        return None
    except (ArithmeticError, ValueError, TypeError, IndexError) as error:
        tally["raw"] += 1
        texts.append(f"{kind}: {type(error).__name__} {error}")
        return None
    tally["issued"] += 1
    try:
        found.verify(system, rigour="ball")
    except ControlRnnError as error:
        tally["not_agreed"] += 1
        texts.append(f"{kind}, ball: {error}")
    return found


def _said(tally: Counter[str], texts: list[str]) -> Row:
    names = ("calls", "issued", "refused", "needless", "without_remedy", "raw", "not_agreed", "beaten")
    return {**{n: int(tally[n]) for n in names}, "what": "; ".join(texts)}


def cost(study: Study) -> None:
    """Time a verification of 16 states, 16 neurons and 50 steps, by one output and by all."""
    n, T = (4, 8) if study.quick else (16, 50)
    system = network(1, nx=n, nu=2, ny=1, layers=(n,))

    def compute() -> Row:
        found = certify_horizon(system, T, initial_radius=0.5, input_radius=0.05, iterations=60, focus=[T])
        one = replace(found, families=found.families[:1])
        bounds = replace(one, bounds=10 * found.bounds)
        each = [_milliseconds(lambda: bounds.verify(system)) for _ in range(30)]
        began = time.process_time()
        found.verify(system, rigour="ball")
        threads = study.environment["threads"]
        return {
            "states": n, "steps": T, "families": len(found.families), "threads": threads,
            "verify_one_ms": float(np.median(each)), "verify_one_least_ms": min(each),
            "verify_all_ms": float(np.median([_milliseconds(lambda: found.verify(system)) for _ in range(10)])),
            "ball_s": time.process_time() - began,
        }  # fmt: skip

    row = study.row("time of verification", compute)
    study.say(f"verification with {row['threads']} thread(s): {row['verify_one_ms']:.1f} ms")
    least = row["verify_one_ms"]
    study.target("verification of one sweep at n = 16, T = 50", "<= 10 ms", least, least <= 10)


def _milliseconds(call: Callable[[], Any]) -> float:
    began = time.process_time()
    call()
    return 1e3 * (time.process_time() - began)
