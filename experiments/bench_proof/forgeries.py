"""Forged certificates: fields of honest ones altered, exchanged, and pushed to where proofs fail.

A forgery names the system that it is shown to (the digest is no secret). What is accepted is decided in ball
arithmetic: the checker proves the claim again from its multipliers, or a pair of runs refutes it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from controlrnn.certification import (
    Certificate,
    ContractionCertificate,
    DeltaIssCertificate,
    DissipationCertificate,
    GainCertificate,
    HorizonCertificate,
    InputError,
    InputErrorKind,
    L2GainCertificate,
    LipschitzCertificate,
    ReinitialisationCertificate,
    TubeCertificate,
)
from controlrnn.certification import refutation as false
from controlrnn.certification.proof.stationary import gain_supply
from controlrnn.checks import Array
from controlrnn.errors import CertificationError, ControlRnnError
from controlrnn.systems import GatedSystem, LureSystem

Rng = np.random.Generator
System = LureSystem | GatedSystem

_LEFT = {"system_digest", "method", "solver_status", "versions", "margin", "focus"}
_FACTORS = (0.0, 5e-324, 1e-308, 1e-300, 1e-200, 1e-162, 1e-154, 1e-100, 1e-30, 1e-8, 0.5, 0.9, 0.99, 1.01, 1.1, 2.0,
            1e8, 1e30, 1e100, 1e154, 1e200, 1e300, 1e308, np.inf, np.nan, -1.0)  # fmt: skip


@dataclass(frozen=True)
class Verdict:
    """Outcome of a forgery: refused, or accepted and then proven, refuted or undecided."""

    accepted: bool
    proven: bool = False
    refuted: bool = False
    error: str = ""


def judge(certificate: Certificate, system: System, rng: Rng) -> Verdict:
    """Verify a forgery; one that is accepted is decided in ball arithmetic."""
    try:
        certificate.verify(system)
    except CertificationError:
        return Verdict(False)
    try:
        certificate.verify(system, rigour="ball")
        return Verdict(True, proven=True)
    except (CertificationError, ControlRnnError) as error:
        return Verdict(True, refuted=refuted(certificate, system, rng), error=str(error))


def forged(rng: Rng, honest: Certificate, donors: Sequence[Certificate], digest: str) -> Certificate | None:
    """Alter an honest certificate in one to three places and aim it at a system; None where no object results."""
    try:
        with np.errstate(all="ignore"):
            certificate = _aimed(honest, digest)
            for _ in range(int(rng.choice([1, 1, 2, 3]))):
                certificate = _changed(rng, certificate, donors)
        aimed: Certificate = _aimed(certificate, digest)
        return aimed
    except (ControlRnnError, ArithmeticError, AttributeError, IndexError, TypeError, ValueError):
        return None


def _aimed(value: Any, digest: str) -> Any:
    """Put this system's digest into every part but observers, which are of systems of their own."""
    changes: dict[str, Any] = {"system_digest": digest} if hasattr(value, "system_digest") else {}
    for field in dataclasses.fields(value):
        part = getattr(value, field.name)
        if isinstance(part, Certificate) and field.name != "observer":
            changes[field.name] = _aimed(part, digest)
    return replace(value, **changes) if changes else value


def _changed(rng: Rng, value: Any, donors: Sequence[Any]) -> Any:
    """Change one field of a dataclass."""
    names = [f.name for f in dataclasses.fields(value) if f.name not in _LEFT]
    name = str(rng.choice(names))
    old = getattr(value, name)
    given = [getattr(d, name) for d in donors if type(d) is type(value)]
    if given and rng.random() < 0.35:
        return replace(value, **{name: given[int(rng.integers(len(given)))]})
    return replace(value, **{name: _altered(rng, old, [v for v in given if type(v) is type(old)])})


def _altered(rng: Rng, old: Any, given: Sequence[Any]) -> Any:
    """Alter a value, by its type."""
    match old:
        case None:
            return given[int(rng.integers(len(given)))] if given else old
        case bool() | str():
            return old
        case int():
            return int(rng.choice([old - 1, old + 1, 0, 2 * old, 10**6, -1]))
        case float():
            return float(old * _factor(rng)) if rng.random() < 0.8 else float(rng.choice(_FACTORS))
        case np.ndarray():
            return _array(rng, old)
        case tuple():
            return _tuple(rng, old, given)
        case InputError():
            return _input_error(rng, old)
    if dataclasses.is_dataclass(old):
        return _changed(rng, old, given)
    return old


def _factor(rng: Rng) -> float:
    """Draw a factor of any size; half of them are close to one."""
    if rng.random() < 0.4:
        return float(1 + rng.choice([-1, 1]) * 10.0 ** rng.uniform(-16, -1))
    return float(rng.choice(_FACTORS))


def _array(rng: Rng, old: Array) -> Array:
    new = np.array(old)
    kind = rng.integers(8)
    if not new.size:
        return np.full(tuple(max(n, 1) for n in new.shape), float(rng.choice(_FACTORS)))
    if kind == 0:
        new[tuple(rng.integers(n) for n in new.shape)] *= _factor(rng)
    elif kind == 1:
        new[tuple(rng.integers(n) for n in new.shape)] = rng.choice(_FACTORS)
    elif kind == 2:
        new[...] = rng.choice(_FACTORS) * (np.eye(len(new)) if new.ndim == 2 and len(new) == new.shape[1] else 1.0)
    elif kind == 3:
        new = new[rng.permutation(len(new))]
    elif kind == 4:
        new = new[:-1] if rng.random() < 0.5 else np.concatenate([new, new[-1:]])
    elif kind == 5 and new.ndim > 1:
        new = new[..., ::-1]
    else:
        new = new * _factor(rng)
    return new


def _tuple(rng: Rng, old: tuple[Any, ...], given: Sequence[Any]) -> tuple[Any, ...]:
    others = [one for many in given for one in many if dataclasses.is_dataclass(one)]
    if not old or (others and rng.random() < 0.3):
        return tuple(rng.choice(np.array([*old, *others, None], dtype=object)[:-1], max(len(old), 1)))
    if rng.random() < 0.1:
        return old[:-1]
    where = int(rng.integers(len(old)))
    return (*old[:where], _altered(rng, old[where], others), *old[where + 1 :])


def _input_error(rng: Rng, old: InputError) -> InputError:
    kind = str(rng.choice(["box", "ball", "few", "constant", "rate_limited", "same"]))
    if kind == "same":
        return replace(old, radius=np.abs(np.asarray(old.radius) * _factor(rng)))
    rate = np.asarray(old.radius) * rng.choice([0.0, 0.1, 1.0]) if kind == "rate_limited" else None
    return InputError(kind=InputErrorKind(kind), radius=old.radius, rate=rate, steps=1 if kind == "few" else None)


EDGES: Mapping[type[Certificate], Sequence[str]] = {
    HorizonCertificate: ("bounds", "families.multipliers", "families.rho", "initial_radius"),
    GainCertificate: ("initial", "inputs", "input_multipliers"),
    LipschitzCertificate: ("constant", "multipliers", "rho"),
    ContractionCertificate: ("rate", "input_gain", "multipliers", "input_multipliers"),
    L2GainCertificate: ("gamma", "multipliers", "rate"),
    DissipationCertificate: ("rate", "multipliers", "R", "Q"),
    ReinitialisationCertificate: ("radius", "input_error", "residual_bound", "input_high"),
    TubeCertificate: ("bounds", "multipliers", "shares", "initial_radius"),
    DeltaIssCertificate: ("rate", "input_gain", "state_bound"),
}


def edges(certificate: Certificate, system: System, tries: int) -> list[Certificate]:
    """Yield claims at the edge of acceptance: a field is scaled down and up until `verify` changes its mind.

    Returns:
        Every certificate that was tried on the way.
    """
    tried: list[Certificate] = []
    for path in next((names for kind, names in EDGES.items() if isinstance(certificate, kind)), ()):
        for beyond in (0.0, 4.0):
            inside, outside = 1.0, beyond
            for _ in range(tries):
                middle = 0.5 * (inside + outside)
                one = _scaled(certificate, path.split("."), middle)
                tried.append(one)
                if _accepted(one, system):
                    inside = middle
                else:
                    outside = middle
    return tried


def _scaled(value: Any, path: Sequence[str], factor: float) -> Any:
    name, *rest = path
    old = getattr(value, name)
    if rest:
        return replace(value, **{name: tuple(_scaled(one, rest, factor) for one in old)})
    if name == "gamma":
        Q, S, R = gain_supply(old * factor, value.input_scale, value.output_scale)
        return replace(value, gamma=old * factor, Q=Q, S=S, R=R)
    return replace(value, **{name: old * factor})


def _accepted(certificate: Certificate, system: System) -> bool:
    try:
        return certificate.verify(system) > 0
    except CertificationError:
        return False


def unstable_pair(rng: Rng) -> tuple[LureSystem, ContractionCertificate]:
    """A 2 x 2 system with an eigenvalue at or above the rate, and a badly conditioned metric that hides it.

    The metric's condition is up to 1e16.

    The metric all but vanishes in the direction x of the slow mode, so that it takes more than float64 to tell
    rate^2 x'Px from x'A'PAx.
    """
    a, b = rng.uniform(1, 2, 2)
    off, rate = 10.0 ** rng.uniform(-16, -10), 1 - 10.0 ** rng.uniform(-5, -1)
    P = np.array([[a * a, -a * b * (1 - off)], [-a * b * (1 - off), b * b]])
    P *= 2.0 ** int(rng.choice([0, 0, -500, 500]))
    x = np.array([b, a])
    normal = np.array([-(P @ x)[1], (P @ x)[0]])
    V = np.column_stack([x, normal / max(float(np.abs(normal).max()), 1e-300)])
    beside = 10.0 ** rng.uniform(-14, -0.5) if rng.random() < 0.8 else -(10.0 ** rng.uniform(-14, -3))
    slow = rate * (1 + beside)
    A = V @ np.diag([slow, rate * (1 - 10.0 ** rng.uniform(-15.7, -0.1))]) @ np.linalg.pinv(V)
    A = A + 1.1e-16 * rng.integers(-2, 3, (2, 2))
    zero = np.zeros
    system = LureSystem(
        A=A, B1=zero((2, 0)), B2=zero((2, 1)), bx=zero(2), C1=zero((0, 2)), D11=zero((0, 0)), D12=zero((0, 1)),
        bv=zero(0), C2=np.ones((1, 2)), D21=zero((1, 0)), D22=zero((1, 1)), by=zero(1), layers=(), dt=1.0,
    )  # fmt: skip
    return system, ContractionCertificate(
        system_digest=system.digest, method="forged", solver_status="", margin=1.0, versions={}, rate=float(rate),
        metric=P, multipliers=zero(0), input_gain=zero(1), input_multipliers=zero((1, 0)),
    )  # fmt: skip


def refuted(certificate: Certificate, system: System, rng: Rng, tries: int = 100) -> bool:
    """Whether one of some pairs of runs at the edge of the claim's premises breaks it."""
    if isinstance(certificate, ContractionCertificate) and isinstance(system, LureSystem):
        points = rng.standard_normal((8, system.nx)), rng.standard_normal((8, system.nu))
        if any(false.refute_contraction_at(system, certificate, x, u) for x, u in zip(*points, strict=True)):
            return True
    check = _CHECKS.get(type(certificate))
    if check is None:
        return False
    with np.errstate(all="ignore"):
        return any(_breaks(check, certificate, system, _pair(certificate, system, rng)) for _ in range(tries))


def _breaks(check: Callable[..., bool], certificate: Certificate, system: System, pair: Any) -> bool:
    try:
        return bool(check(system, certificate, pair))
    except (ControlRnnError, ArithmeticError, TypeError, ValueError):
        return False


def _pair(c: Any, system: System, rng: Rng) -> Any:
    """Draw two runs that start as far apart as allowed, and whose inputs differ as much."""
    steps, nx, nu = int(getattr(c, "horizon", 5)) + 1, system.nx, system.nu
    size = 10.0 ** rng.uniform(-3, 1)
    x, u = getattr(c, "x0", size * rng.standard_normal(nx)), getattr(c, "u", size * rng.standard_normal((steps, nu)))
    radius, metric = float(getattr(c, "initial_radius", 10.0 ** rng.uniform(-6, 1))), getattr(c, "metric", np.eye(nx))
    xi = rng.standard_normal(nx)
    if isinstance(c, DeltaIssCertificate):
        x, u = rng.uniform(-1, 1, nx) * c.state_bound, rng.uniform(c.input_low, c.input_high, (steps, nu))
        return false.Pair(x, u, np.clip(x + radius * xi, -c.state_bound, c.state_bound), u)
    length = max(float(xi @ metric @ xi), 1e-300) ** 0.5
    dx = (1 - 1e-6) * radius * xi / length
    known = getattr(c, "input_error", None) or InputError(radius=getattr(c, "input_radius", 0.1))
    b: Array = np.broadcast_to(np.asarray(known.radius, dtype=np.float64), (nu,))
    du = (1 - 1e-6) * b * rng.choice([-1.0, 1.0], (steps, nu)) * rng.choice([0.0, 1.0])
    if rng.random() < 0.5:
        du[1:] = du[0] if rng.random() < 0.5 else 0.0
    return false.Pair(x, u, x + dx, u + du)


_CHECKS: dict[type[Certificate], Callable[..., bool]] = {
    HorizonCertificate: false.refute_horizon,
    GainCertificate: false.refute_gains,
    LipschitzCertificate: false.refute_lipschitz,
    ContractionCertificate: false.refute_contraction,
    DissipationCertificate: false.refute_dissipation,
    TubeCertificate: false.refute_around,
    DeltaIssCertificate: false.refute_delta_iss,
}
