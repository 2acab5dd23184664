"""What rests on certificates verifies itself against them: anything else that a file claims is refused."""

import copy
import pickle
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from mpc_networks import elman
from mpc_networks import signals as channels

from controlrnn.certification import certify_contraction, certify_horizon
from controlrnn.errors import CertificationError, ControlRnnError
from controlrnn.records import write_record
from mpc import (
    ErrorMemory,
    ModelError,
    Predictor,
    TerminalSet,
    TightenedMPC,
    Tightening,
    Washout,
    make_error_memory,
    make_recursive,
    no_tightening,
    terminal_set,
    tighten,
)
from mpc.control.settings import grouped
from mpc.tightening.error_memory import certify_changes

N, W, PUSH = 6, 8, 0.01


def calibrated(system, bounds, gain):
    return ModelError(
        bounds=bounds,
        method="conformal",
        coverage=0.9,
        n=20,
        length=200,
        starts=100,
        washout=20,
        disturbance_gain=gain,
        system_digest=system.digest,
        data_digest="0" * 64,
        observer_digest="",
    )


@pytest.fixture(scope="module")
def road():
    """The whole road from a model to what a guaranteed controller rests on, with every source."""
    system = elman()
    predictor = Predictor(system, channels("u", 2, 1.0), channels("y", 2, 5.0))
    contraction = certify_contraction(system)
    observer = Washout(predictor, W, contraction=contraction, input_error=PUSH)
    start, jump = observer.restart, observer.jump
    joint = certify_horizon(
        system, W + N, initial_radius=start.radius, metric=start.metric, input_radius=PUSH, iterations=20
    )
    growth = certify_horizon(system, N, initial_radius=jump.radius, metric=jump.metric, iterations=20)
    error = calibrated(system, np.full((N + 1, 2), 0.05), None)
    drift = calibrated(system, 0.01 * np.arange(N + 1.0)[:, None] * np.ones(2), 1.0)
    tightening = make_recursive(tighten(error, joint, observer=observer), growth, observer=observer)
    outputs = certify_horizon(system, 0, initial_radius=0.5, metric=contraction.metric)
    changes = certify_changes(observer, 2, iterations=10)
    return SimpleNamespace(
        system=system,
        observer=observer,
        contraction=contraction,
        joint=joint,
        growth=growth,
        error=error,
        drift=drift,
        tightening=tightening,
        outputs=outputs,
        changes=changes,
        terminal=terminal_set(predictor, contraction, horizon=N, jump=jump, outputs=outputs),
        memory=make_error_memory(tightening, drift, changes, observer=observer, growth=growth),
    )


def stored(one, tmp_path, **changed):
    """What a file of ``one`` gives with some arrays or values changed and its checksum made anew."""
    arrays, meta = one.record()
    new = {n: v for n, v in changed.items() if n in arrays}
    path = write_record(
        tmp_path / "r.npz",
        one.SCHEMA.kind,
        one.SCHEMA.version,
        arrays | new,
        meta | {n: v for n, v in changed.items() if n not in new},
    )
    return type(one).load(path)


def test_what_was_made_is_verified_from_its_files(road, tmp_path):
    stored(road.tightening, tmp_path).verify(road.error, road.joint, observer=road.observer, growth=road.growth)
    stored(road.memory, tmp_path).verify(
        road.tightening, road.drift, road.changes, observer=road.observer, growth=road.growth
    )
    stored(road.terminal, tmp_path).verify(road.system, road.contraction, road.outputs, jump=road.observer.jump)
    plain = tighten(road.error, None, observer=road.observer)
    stored(plain, tmp_path).verify(road.error, None, observer=road.observer)


def test_the_way_the_certified_part_is_shown_does_not_matter(road, tmp_path):
    still = certify_horizon(
        road.system, W + N, initial_radius=road.joint.initial_radius, metric=road.joint.metric, iterations=20
    )
    shown = tighten(road.error, road.joint, observer=road.observer, initial_only=still)
    assert shown.input_error.any()
    stored(shown, tmp_path).verify(road.error, road.joint, observer=road.observer)


PARTS = ("model_error", "reinitialisation", "input_error", "growth")


@pytest.mark.parametrize(
    "change",
    [
        *({name: lambda a: 0 * a} for name in PARTS if name != "input_error"),
        {name: lambda a: 0 * a for name in PARTS},
        {"reinitialisation": lambda a: a * (1 - 1e-9)},
        {"growth": lambda a: a * (1 - 1e-6)},
        {"model_error": lambda a: np.where(np.arange(len(a))[:, None] == 3, 0.9 * a, a)},
        {"input_error": lambda a: a + 1.0},
    ],
)
def test_an_altered_tightening_is_refused(road, tmp_path, change):
    forged = stored(road.tightening, tmp_path, **{n: f(getattr(road.tightening, n)) for n, f in change.items()})
    with pytest.raises(CertificationError, match="its sources give"):
        forged.verify(road.error, road.joint, observer=road.observer, growth=road.growth)


def test_other_words_and_other_sources_are_refused(road, tmp_path):
    verify = {"observer": road.observer, "growth": road.growth}
    for changed, match in (
        ({"promise": "holds always"}, "names another promise"),
        ({"disturbance_gain": 0.5}, "disturbance_gain"),
        ({"digests": road.tightening.digests | {"certificate": "1" * 64}}, "names another certificate"),
        ({"digests": {n: d for n, d in road.tightening.digests.items() if n != "growth"}}, "names another growth"),
    ):
        with pytest.raises(CertificationError, match=match):
            stored(road.tightening, tmp_path, **changed).verify(road.error, road.joint, **verify)
    smaller = replace(road.error, bounds=0.5 * road.error.bounds)
    with pytest.raises(CertificationError):
        road.tightening.verify(smaller, road.joint, **verify)
    with pytest.raises(CertificationError):
        road.tightening.verify(road.error, replace(road.joint, bounds=0.9 * road.joint.bounds), **verify)
    with pytest.raises(ControlRnnError):
        road.tightening.verify(road.error, None, **verify)
    with pytest.raises(ControlRnnError):
        road.tightening.verify(road.error, road.joint, observer=road.observer)
    other = Washout(road.observer.predictor, W + 1, contraction=road.contraction, input_error=PUSH)
    with pytest.raises(ControlRnnError):
        road.tightening.verify(road.error, road.joint, observer=other, growth=road.growth)


@pytest.mark.parametrize("name", ["drift", "change", "jump", "absolute", "growth", "end"])
def test_an_altered_recall_is_refused(road, tmp_path, name):
    forged = stored(road.memory, tmp_path, **{name: 0.99 * getattr(road.memory, name)})
    with pytest.raises(CertificationError, match=f"claims {name}"):
        forged.verify(road.tightening, road.drift, road.changes, observer=road.observer, growth=road.growth)


def test_a_terminal_set_for_smaller_jumps_or_of_other_sources_is_refused(road, tmp_path):
    for changed, match in (
        ({"jump": 0.5 * road.terminal.jump}, "jump does not follow"),
        ({"margin": 0.5 * road.terminal.margin}, "margin does not follow"),
        ({"digests": road.terminal.digests | {"outputs": "1" * 64}}, "names another outputs"),
        ({"digests": road.terminal.digests | {"jump": "1" * 64}}, "names another jump"),
    ):
        forged = stored(road.terminal, tmp_path, **changed)
        with pytest.raises(CertificationError, match=match):
            forged.verify(road.system, road.contraction, road.outputs, jump=road.observer.jump)
    assert isinstance(road.terminal, TerminalSet)
    assert isinstance(road.memory, ErrorMemory)
    assert isinstance(road.tightening, Tightening)


def controller(road, **parts):
    return TightenedMPC(
        road.observer.predictor,
        road.observer,
        parts.pop("tightening", road.tightening),
        **grouped(dict(output_weight=1.0, input_move_weight=0.1, **parts)),
    )


def verify_all(road, tightening, terminal, error_memory):
    tightening.verify(road.error, road.joint, observer=road.observer, growth=road.growth)
    terminal.verify(road.system, road.contraction, road.outputs, jump=road.observer.jump)
    error_memory.verify(tightening, road.drift, road.changes, observer=road.observer, growth=road.growth)


def test_guarantees_rest_on_nothing_that_was_read_and_not_verified(road, tmp_path):
    own = {"tightening": road.tightening, "terminal": road.terminal, "error_memory": road.memory}
    assert all(part.verified for part in own.values())
    controller(road, **own)
    read = {name: stored(part, tmp_path) for name, part in own.items()}
    for name, part in read.items():
        assert part.digest == own[name].digest
        assert not part.verified
        with pytest.raises(CertificationError, match=f"the {name} was read from a file.*{name}.verify"):
            controller(road, **(own | {name: part}))
        controller(road, **(own | {name: part.on_trust()}))
        assert not part.on_trust().verified
        assert not part.verified
    verify_all(road, **read)
    assert all(part.verified for part in read.values())
    controller(road, **read)


def test_zeros_are_not_taken_for_a_guarantee(road, tmp_path):
    zero = stored(road.tightening, tmp_path, **dict.fromkeys(PARTS, 0 * road.tightening.total))
    with pytest.raises(CertificationError, match="not verified"):
        controller(road, tightening=zero)
    with pytest.raises(CertificationError):
        zero.verify(road.error, road.joint, observer=road.observer, growth=road.growth)
    assert not zero.verified
    plain = tighten(road.error, road.joint, observer=road.observer)
    with pytest.raises(CertificationError, match="not verified"):
        controller(
            road,
            tightening=make_recursive(replace(plain, model_error=0 * plain.total), road.growth, observer=road.observer),
        )
    remembered = make_error_memory(
        stored(road.tightening, tmp_path), road.drift, road.changes, observer=road.observer, growth=road.growth
    )
    assert not remembered.verified


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one))])  # noqa: S301
def test_a_copy_stays_verified_until_it_is_changed(road, copied):
    for one in (road.tightening, road.terminal, road.memory, road.tightening.on_trust()):
        assert copied(one).verified
        assert not replace(one).verified
    bent = copied(road.tightening)
    object.__setattr__(bent, "model_error", 0 * bent.model_error)  # past all checks
    assert not bent.verified
    with pytest.raises(CertificationError, match="not verified"):
        controller(road, tightening=bent)
    trusted = copied(replace(road.tightening).on_trust())
    assert not trusted.verified
    controller(road, tightening=trusted)
    object.__setattr__(trusted, "growth", 0 * trusted.growth)
    with pytest.raises(CertificationError, match="not verified"):
        controller(road, tightening=trusted)


def test_what_is_made_from_trusted_parts_is_trusted_and_no_more(road):
    plain = replace(tighten(road.error, road.joint, observer=road.observer)).on_trust()
    grown = make_recursive(plain, road.growth, observer=road.observer)
    assert not grown.verified
    controller(road, tightening=grown)


def test_a_terminal_set_whose_jump_was_not_compared_is_not_verified(road, tmp_path):
    read = stored(road.terminal, tmp_path)
    read.verify(road.system, road.contraction, road.outputs)
    assert not read.verified


def test_what_promises_nothing_needs_no_verification(road, tmp_path):
    controller(road, tightening=stored(no_tightening(road.system.digest, N, 2), tmp_path))
