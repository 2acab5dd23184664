"""What every kind of certificate promises: append a `Kind` for a new one."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import cvxpy
import numpy as np
import pytest
from random_systems import random_elman

from controlrnn.certification import (
    Certificate,
    DissipationCertificate,
    HorizonCertificate,
    InputError,
    Rigour,
    certify_around,
    certify_contraction,
    certify_delta_iss,
    certify_gains,
    certify_horizon,
    certify_l2_gain,
    certify_lipschitz,
    certify_reinitialisation,
    load_certificate,
)
from controlrnn.certification.certificate import CERTIFICATE_KINDS
from controlrnn.errors import CertificationError, ControlRnnError, FileFormatError
from controlrnn.export import save_system
from controlrnn.records import read_record, write_record
from controlrnn.systems import GatedSystem, LureSystem

SYSTEM = random_elman(0, nx=4, nu=2, ny=2)


def gated(seed: int, gain: float = 0.03) -> GatedSystem:
    draw = np.random.default_rng(seed).standard_normal
    return GatedSystem(
        W=0.5 * draw((9, 2)), U=gain * draw((9, 3)), b=0.5 * draw(9), C=draw((2, 3)), by=draw(2), cell="gru", dt=1.0
    )


@dataclass(frozen=True)
class Kind:
    """How to make a certificate, and alterations that turn its claim into one that is not proven.

    ``system`` is what it is made of, ``other`` a system of the same size for which the claim is false.
    """

    make: Callable[[Any], Certificate]
    altered: dict[str, Callable[[Any], dict[str, Any]]]
    system: Any = SYSTEM
    other: Any = random_elman(1, nx=4, nu=2, ny=2, norm=1.5)  # noqa: RUF009


def _families(certificate: HorizonCertificate, **change: Callable[[Any], Any]) -> dict[str, Any]:
    return {
        "families": tuple(
            replace(f, **{name: edit(getattr(f, name)) for name, edit in change.items()}) for f in certificate.families
        )
    }


def _one(array: np.ndarray, index: Any, factor: float) -> np.ndarray:
    changed = np.array(array)
    changed[index] *= factor
    return changed


def _dissipation(system: LureSystem) -> DissipationCertificate:
    c = certify_l2_gain(system)
    return DissipationCertificate.prove(
        system, metric=c.metric, multipliers=c.multipliers, rate=c.rate, method="gain", Q=c.Q, S=c.S, R=c.R
    )


def _reinitialisation(system: LureSystem) -> Certificate:
    return certify_reinitialisation(
        system,
        washout=3,
        horizon=2,
        input_range=(-np.ones(2), np.ones(2)),
        input_error=0.1,
        residual_bound=0.1,
        observer_gain=np.full((4, 2), 0.01),
        iterations=20,
    )


DISSIPATION: dict[str, Callable[[Any], dict[str, Any]]] = {
    "rate": lambda c: {"rate": 0.98 * c.rate},
    "rate above one": lambda _c: {"rate": 1.01},
    "nan rate": lambda _c: {"rate": np.nan},
    "metric": lambda c: {"metric": c.metric * np.outer([1, 1, 1, 0.3], [1, 1, 1, 0.3])},
    "indefinite metric": lambda c: {"metric": -c.metric},
    "skewed metric": lambda c: {"metric": c.metric + np.triu(np.ones((4, 4)), 1)},
    "small metric": lambda c: {"metric": c.metric[:3, :3]},
    "multipliers": lambda c: {"multipliers": 0.5 * c.multipliers},
    "negative multipliers": lambda c: {"multipliers": -c.multipliers},
    "nan multipliers": lambda c: {"multipliers": np.nan * c.multipliers},
    "short multipliers": lambda c: {"multipliers": c.multipliers[:-1]},
    "supply of inputs": lambda c: {"R": 0.999 * c.R},
    "supply of outputs": lambda c: {"Q": 1.001 * c.Q},
    "nan supply": lambda c: {"R": np.nan * c.R},
    "fewer outputs": lambda c: {"Q": c.Q[:1, :1], "S": c.S[:, :1]},
}


KINDS = {
    "horizon": Kind(
        lambda s: certify_horizon(s, 6, initial_radius=0.5, input_radius=0.1, iterations=40),
        {
            "bounds": lambda c: {"bounds": 0.999 * c.bounds},
            "one bound by a hair": lambda c: {"bounds": _one(c.bounds, (3, 1), 1 - 3e-9)},
            "nan bound": lambda c: {"bounds": _one(c.bounds, (0, 0), np.nan)},
            "fewer outputs": lambda c: {"bounds": c.bounds[:, :1]},
            "longer": lambda c: {"horizon": c.horizon + 1},
            "longer with bounds": lambda c: {"horizon": 7, "bounds": np.vstack([c.bounds, c.bounds[-1:]])},
            "initial radius": lambda c: {"initial_radius": 1.01 * c.initial_radius},
            "input radius": lambda c: {"input_radius": 1.01 * c.input_radius},
            "larger input error": lambda c: {"input_error": InputError(radius=1.01 * c.input_error.b)},
            "another kind of input error": lambda _c: {"input_error": InputError(kind="few", steps=2, radius=0.1)},
            "metric": lambda c: {"metric": 0.98 * c.metric},
            "indefinite metric": lambda c: {"metric": -c.metric},
            "multipliers": lambda c: _families(c, multipliers=lambda m: 0.5 * m),
            "negative multipliers": lambda c: _families(c, multipliers=lambda m: -m),
            "nan multipliers": lambda c: _families(c, multipliers=lambda m: np.nan * m),
            "short multipliers": lambda c: _families(c, multipliers=lambda m: m[:-1]),
            "rho": lambda c: _families(c, rho=lambda r: 0.5 * r),
            "padding": lambda c: _families(c, padding=lambda _p: -1e-6),
            "no proof at all": lambda _c: {"families": ()},
            "one output unproven": lambda c: {"families": tuple(f for f in c.families if f.row == 0)},
            "foreign row": lambda c: _families(c, row=lambda _r: 5),
        },
    ),
    "tube": Kind(
        lambda s: certify_around(s, np.ones(4), np.ones((6, 2)), initial_radius=0.5, input_radius=0.1),
        {
            "bounds": lambda c: {"bounds": 0.999 * c.bounds},
            "one bound by a hair": lambda c: {"bounds": _one(c.bounds, (3, 1), 1 - 3e-9)},
            "nan bound": lambda c: {"bounds": _one(c.bounds, (0, 0), np.nan)},
            "fewer outputs": lambda c: {"bounds": c.bounds[:, :1]},
            "longer": lambda c: {"horizon": c.horizon + 1},
            "initial radius": lambda c: {"initial_radius": 1.01 * c.initial_radius},
            "input radius": lambda c: {"input_radius": 1.01 * c.input_radius},
            "another start": lambda c: {"x0": c.x0 - 1},
            "other inputs": lambda c: {"u": c.u - 1},
            "metric": lambda c: {"metric": 0.98 * c.metric},
            "indefinite metric": lambda c: {"metric": -c.metric},
            "multipliers": lambda c: {"multipliers": 0.5 * c.multipliers},
            "negative multipliers": lambda c: {"multipliers": -c.multipliers},
            "nan multipliers": lambda c: {"multipliers": np.nan * c.multipliers},
            "short multipliers": lambda c: {"multipliers": c.multipliers[:, :-1]},
            "shares": lambda c: {"shares": 1.1 * c.shares},
            "negative shares": lambda c: {"shares": -c.shares},
            "negative padding": lambda c: {"padding": -c.padding},
            "no proof at all": lambda c: {"multipliers": c.multipliers[:0], "shares": c.shares[:0]},
        },
    ),
    "horizon in boxes": Kind(
        lambda s: certify_horizon(
            s,
            4,
            initial_radius=0.5,
            input_radius=InputError(kind="rate_limited", radius=0.1, rate=0.01),
            iterations=20,
            input_range=(-np.ones(2), np.ones(2)),
            state_range=(-0.1 * np.ones(4), 0.1 * np.ones(4)),
        ),
        {
            "bounds": lambda c: {"bounds": 0.999 * c.bounds},
            "faster": lambda c: {"input_error": replace(c.input_error, rate=1.5 * np.asarray(c.input_error.rate))},
            "wider inputs": lambda c: {"input_range": 1.1 * c.input_range},
            "wider states": lambda c: {"state_range": 1.1 * c.state_range},
            "shares": lambda c: _families(c, shares=lambda a: -a),
            "short shares": lambda c: _families(c, shares=lambda a: a[:-1]),
        },
    ),
    "horizon with gains": Kind(
        lambda s: certify_horizon(
            s,
            4,
            initial_radius=0.5,
            input_radius=0.1,
            iterations=0,
            focus=[4],
            gains=certify_gains(s, 4, iterations=20),
        ),
        {
            "bounds": lambda c: {"bounds": 0.999 * c.bounds},
            "without gains": lambda _c: {"gains": None},
            "smaller gains": lambda c: {"gains": replace(c.gains, initial=0.99 * c.gains.initial)},
            "gains in another metric": lambda c: {"metric": 0.5 * c.metric},
        },
    ),
    "gains": Kind(
        lambda s: certify_gains(s, 4, iterations=40),
        {
            "initial gains": lambda c: {"initial": 0.999 * c.initial},
            "one input gain": lambda c: {"inputs": _one(c.inputs, (2, 1, 0), 0.99)},
            "nan gain": lambda c: {"inputs": _one(c.inputs, (2, 1, 0), np.nan)},
            "longer": lambda c: {"horizon": c.horizon + 1},
            "metric": lambda c: {"metric": 0.98 * c.metric},
            "multipliers": lambda c: _families(c, multipliers=lambda m: 0.5 * m),
            "negative multipliers": lambda c: {"input_multipliers": -c.input_multipliers},
            "input multipliers": lambda c: {"input_multipliers": 0.3 * c.input_multipliers},
            "one output unproven": lambda c: {"families": tuple(f for f in c.families if f.row == 0)},
        },
    ),
    "lipschitz": Kind(
        lambda s: certify_lipschitz(s, 4, iterations=40),
        {
            "constant": lambda c: {"constant": 0.999 * c.constant},
            "nan constant": lambda _c: {"constant": float("nan")},
            "longer": lambda c: {"horizon": c.horizon + 1},
            "multipliers": lambda c: {"multipliers": 0.5 * c.multipliers},
            "negative rho": lambda c: {"rho": -c.rho},
        },
    ),
    "lipschitz in boxes": Kind(
        lambda s: certify_lipschitz(
            s, 4, iterations=40, input_range=(-np.ones(2), np.ones(2)), state_range=(-np.ones(4), np.ones(4))
        ),
        {
            "constant": lambda c: {"constant": 0.999 * c.constant},
            "wider inputs": lambda c: {"input_range": 1.1 * c.input_range},
            "wider start": lambda c: {"state_range": 1.1 * c.state_range},
            "anywhere": lambda _c: {"input_range": np.zeros((2, 0)), "state_range": np.zeros((2, 0))},
            "nan range": lambda c: {"state_range": np.nan * c.state_range},
            "empty range": lambda c: {"input_range": -c.input_range},
            "longer": lambda c: {"horizon": c.horizon + 1},
            "multipliers of other steps": lambda c: {"multipliers": c.multipliers[::-1]},
        },
    ),
    "dissipation": Kind(_dissipation, DISSIPATION),
    "l2 gain": Kind(
        certify_l2_gain,
        DISSIPATION
        | {
            "gain": lambda c: {"gamma": 0.999 * c.gamma},
            "gain with its supply": lambda c: {"gamma": 0.999 * c.gamma, "Q": c.Q / 0.999, "R": 0.999 * c.R},
            "negative gain": lambda c: {"gamma": -c.gamma},
            "nan gain": lambda _c: {"gamma": np.nan},
            "input scale": lambda c: {"input_scale": 1.01 * c.input_scale},
            "output scale": lambda c: {"output_scale": 0.99 * c.output_scale},
            "one scale for all": lambda c: {"input_scale": c.input_scale[:1]},
        },
    ),
    "re-initialisation": Kind(
        _reinitialisation,
        {
            "radius": lambda c: {"radius": 0.99 * c.radius},
            "nan radius": lambda _c: {"radius": np.nan},
            "wider range": lambda c: {"input_high": 1.1 * c.input_high},
            "nan range": lambda c: {"input_high": np.nan * c.input_high},
            "empty range": lambda c: {"input_high": -2 + 0 * c.input_high},
            "input error": lambda c: {"input_error": 1.01 * c.input_error},
            "residual": lambda c: {"residual_bound": 1.1 * c.residual_bound},
            "another start": lambda c: {"start": c.start + 1},
            "longer washout": lambda c: {"washout": c.washout + 1},
            "longer horizon": lambda c: {"horizon": c.horizon + 1},
            "another observer": lambda c: {"observer_gain": 1.01 * c.observer_gain},
            "observer without outputs": lambda _c: {"observed": None},
            "swapped proofs": lambda c: {"washed": c.running},
            "altered part": lambda c: {"washed": replace(c.washed, bounds=0.999 * c.washed.bounds)},
            "altered contraction": lambda c: {"contraction": replace(c.contraction, rate=0.9 * c.contraction.rate)},
        },
    ),
    "delta-ISS": Kind(
        lambda s: certify_delta_iss(s, input_range=(-np.ones(2), np.ones(2))),
        {
            "rate": lambda c: {"rate": 0.999 * c.rate},
            "rate above one": lambda _c: {"rate": 1.01},
            "nan rate": lambda _c: {"rate": np.nan},
            "input gain": lambda c: {"input_gain": _one(c.input_gain, 1, 0.99)},
            "nan gain": lambda c: {"input_gain": np.nan * c.input_gain},
            "scale": lambda c: {"scale": c.scale * np.geomspace(1, 1e3, 3)},
            "negative scale": lambda c: {"scale": -c.scale},
            "wider range": lambda c: {"input_high": 1.1 * c.input_high},
            "empty range": lambda c: {"input_high": c.input_low - 1},
            "smaller states": lambda c: {"state_bound": 0.9 * c.state_bound},
            "fewer states": lambda c: {"scale": c.scale[:2], "state_bound": c.state_bound[:2]},
        },
        gated(0),
        gated(1, 2.0),
    ),
    "contraction": Kind(
        certify_contraction,
        {
            "rate": lambda c: {"rate": 0.98 * c.rate},
            "rate above one": lambda _c: {"rate": 1.5},
            "nan rate": lambda _c: {"rate": np.nan},
            "metric": lambda c: {"metric": c.metric * np.outer([1, 1, 1, 0.3], [1, 1, 1, 0.3])},
            "metric grows past the gains": lambda c: {"metric": 1.01 * c.metric},
            "indefinite metric": lambda c: {"metric": -c.metric},
            "skewed metric": lambda c: {"metric": c.metric + np.triu(np.ones((4, 4)), 1)},
            "multipliers": lambda c: {"multipliers": 0.5 * c.multipliers},
            "negative multipliers": lambda c: {"multipliers": -c.multipliers},
            "nan multipliers": lambda c: {"multipliers": np.nan * c.multipliers},
            "gain": lambda c: {"input_gain": 0.999 * c.input_gain},
            "one gain": lambda c: {"input_gain": _one(c.input_gain, 1, 0.99)},
            "nan gain": lambda c: {"input_gain": np.nan * c.input_gain},
            "input multipliers": lambda c: {"input_multipliers": 0.5 * c.input_multipliers},
            "dropped channel": lambda c: {
                "input_gain": c.input_gain[:1],
                "input_multipliers": c.input_multipliers[:1],
            },
        },
    ),
}


@pytest.fixture(scope="module")
def made():
    return {name: kind.make(kind.system) for name, kind in KINDS.items()}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture
def certificate(kind, made):
    return made[kind]


@pytest.fixture
def system(kind):
    return KINDS[kind].system


def test_all_kinds_are_held_to_the_contract(made):
    assert {c.KIND for c in made.values()} == set(CERTIFICATE_KINDS)


def test_verify_passes_for_its_own_system_and_for_an_equal_one(certificate, system):
    assert certificate.verify(system) == certificate.margin > 0
    assert certificate.verify(replace(system)) > 0
    assert certificate.system_digest == system.digest


def weights():
    """Every matrix of every kind's system."""
    for name, one in KINDS.items():
        arrays = [f.name for f in dataclasses.fields(one.system) if isinstance(getattr(one.system, f.name), np.ndarray)]
        assert len(arrays) > 4
        yield from ((name, a) for a in arrays)


@pytest.mark.parametrize(("kind", "name"), list(weights()))
def test_one_changed_weight_is_refused(certificate, system, name):
    """The largest entry by one unit in the last place; a zero becomes the smallest number."""
    matrix = np.array(getattr(system, name))
    if not matrix.size:
        pytest.skip("an empty matrix has no weight")
    index = np.unravel_index(np.abs(matrix).argmax(), matrix.shape)
    if name == "D11":  # has to stay strictly lower triangular: these systems have none
        with pytest.raises(ControlRnnError):
            replace(system, D11=matrix + np.eye(len(matrix)))
        return
    matrix[index] = np.nextafter(matrix[index], np.inf)
    with pytest.raises(CertificationError, match="weights differ"):
        certificate.verify(replace(system, **{name: matrix}))


def test_another_sample_time_or_cell_is_refused(certificate, system):
    other = {"activation": "sigmoid"} if isinstance(system, LureSystem) else {"feedthrough": True}
    for change in (other, {"dt": 2.0}):
        with pytest.raises(CertificationError, match="weights differ"):
            certificate.verify(replace(system, **change))


def test_the_summary_says_of_what_and_how_well_proven(certificate, system):
    text = certificate.summary()
    assert system.digest[:12] in text
    assert "roven in float64" in text
    assert "Holds in real arithmetic; what execution in floating point adds" in text
    assert len(text) > 80
    assert all(len(line) < 500 for line in text.splitlines())
    assert "nan" not in text


def test_it_draws_itself_with_names_of_the_channels(certificate, tmp_path):
    for labels in ((), ("first", "second", "third", "fourth")):
        figure = certificate.plot(labels)
        assert figure.axes
        drawn = [np.asarray(line.get_ydata(), float) for axes in figure.axes for line in axes.lines]
        assert sum(len(d) for d in drawn) > 5
        assert all(np.isfinite(d).all() for d in drawn)
        assert all(axes.get_xlabel() or axes.get_title() or axes.images for axes in figure.axes if axes.lines)
        figure.savefig(tmp_path / "c.png")
    assert (tmp_path / "c.png").stat().st_size > 5000


def test_the_record_says_what_made_it_and_in_which_units(certificate, tmp_path):
    certificate.save(tmp_path / "c.npz")
    kind, _, arrays, meta = read_record(tmp_path / "c.npz")
    assert kind == certificate.KIND
    assert meta["method"]
    assert meta["margin"] == certificate.margin
    assert isinstance(meta["solver_status"], str)
    assert {"controlrnn", "numpy", "scipy", "python"} <= set(meta["versions"])
    stored = set(arrays) | set(meta)
    assert meta["units"]
    assert set(meta["units"]) <= stored, "a unit of something that is not stored"


@pytest.mark.parametrize(("name", "alteration"), [(n, a) for n, k in KINDS.items() for a in k.altered])
def test_altered_claims_are_refused_even_with_a_fresh_checksum(name, alteration, tmp_path, made):
    certificate, system = made[name], KINDS[name].system
    forged = replace(certificate, **KINDS[name].altered[alteration](certificate))
    assert forged.digest != certificate.digest
    with pytest.raises(ControlRnnError):
        forged.verify(system)
    write_record(tmp_path / "forged.npz", forged.KIND, forged.SCHEMA.version, *forged.record())
    with pytest.raises(ControlRnnError):
        load_certificate(tmp_path / "forged.npz").verify(system)


@pytest.mark.parametrize("rigour", Rigour)
def test_a_claim_borrowed_for_another_system_is_refused(certificate, kind, rigour):
    other = KINDS[kind].other
    with pytest.raises(CertificationError):
        replace(certificate, system_digest=other.digest).verify(other, rigour=rigour)


def test_ball_arithmetic_gives_the_same_answers(certificate, kind, system):
    assert certificate.verify(system, rigour="ball") > 0
    # Enlargements that leave room for rounding are no part of a claim, nor of a proof without rounding.
    alterations = {n: a for n, a in KINDS[kind].altered.items() if "padding" not in n}
    assert alterations
    accepted = []
    for name, alteration in alterations.items():
        try:
            replace(certificate, **alteration(certificate)).verify(system, rigour="ball")
            accepted.append(name)
        except CertificationError:
            continue
    assert not accepted
    with pytest.raises(CertificationError, match="weights differ"):
        certificate.verify(replace(system, dt=2.0), rigour="ball")


def test_saving_is_exact_and_the_digest_stable(certificate, system, tmp_path):
    path = tmp_path / "deep" / "c.npz"
    certificate.save(path)
    again = load_certificate(path)
    assert type(again) is type(certificate)
    assert again.digest == certificate.digest
    assert again.versions == certificate.versions
    for (name, a), (other, b) in zip(arrays_of(certificate), arrays_of(again), strict=True):
        assert name == other
        assert a.tobytes() == b.tobytes()
        assert a.shape == b.shape
    assert again.verify(system) == certificate.margin
    again.save(path)
    assert load_certificate(path).digest == certificate.digest


def arrays_of(value, name=""):
    """Every array inside of a certificate, with where it stands."""
    if isinstance(value, np.ndarray):
        return [(name, value)]
    if dataclasses.is_dataclass(value):
        return [a for f in dataclasses.fields(value) for a in arrays_of(getattr(value, f.name), f"{name}.{f.name}")]
    if isinstance(value, (tuple, list)):
        return [a for i, v in enumerate(value) for a in arrays_of(v, f"{name}[{i}]")]
    return []


def test_everything_is_read_only(certificate, tmp_path):
    certificate.save(tmp_path / "c.npz")
    for one in (certificate, load_certificate(tmp_path / "c.npz")):
        assert len(arrays_of(one)) > 2
        for name, array in arrays_of(one):
            assert array.dtype == np.float64, name
            with pytest.raises(ValueError, match="read-only"):
                array[...] = 0
        for field in dataclasses.fields(one):
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(one, field.name, None)


def test_other_kinds_and_damaged_files_are_refused(certificate, system, tmp_path):
    path = tmp_path / "c.npz"
    save_system(system, path)
    with pytest.raises(FileFormatError, match="must hold a certificate"):
        load_certificate(path)
    certificate.save(path)
    raw = path.read_bytes()
    _, version, arrays, meta = read_record(path)
    path.write_bytes(raw[: len(raw) // 2])
    with pytest.raises(FileFormatError):
        load_certificate(path)
    edited = bytearray(raw)
    largest = max(arrays, key=lambda name: arrays[name].size)
    start = raw.index(arrays[largest].tobytes())
    edited[start] ^= 1
    path.write_bytes(edited)
    with pytest.raises(FileFormatError):
        load_certificate(path)
    others = [k for k in CERTIFICATE_KINDS if k != certificate.KIND]
    assert others
    for name in others:  # its content under the name of another kind
        write_record(path, name, version, arrays, meta)
        with pytest.raises((FileFormatError, CertificationError)):
            load_certificate(path).verify(system)
    write_record(path, certificate.KIND, version, {n: a for n, a in arrays.items() if n != largest}, meta)
    with pytest.raises(FileFormatError):
        load_certificate(path)
    with pytest.raises(FileNotFoundError):
        load_certificate(tmp_path / "none.npz")


def test_verifying_needs_no_solver_and_no_search_and_takes_milliseconds(certificate, system, monkeypatch):
    def forbidden(*_args: object, **_more: object) -> None:
        raise AssertionError("verify called a solver")

    monkeypatch.setattr(cvxpy.Problem, "solve", forbidden)
    monkeypatch.setattr("controlrnn.certification.search.riccati.minimise", forbidden)
    monkeypatch.setattr("controlrnn.certification.search.barrier.BarrierProgram.centre", forbidden)
    times = []
    for _ in range(5):
        start = time.process_time()
        certificate.verify(system)
        times.append(time.process_time() - start)
    assert min(times) < 0.05
