"""What limits that learn are made of: every part by its formula, every check at its edge; bounds are from norms."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
from mpc_networks import NormContraction, NormHorizon, declared_error

from controlrnn import certification
from controlrnn.errors import CertificationError, SettingError, ShapeError
from controlrnn.records import digest
from controlrnn.systems import change_system
from mpc import ErrorMemory, StateError, Washout, certify_changes, make_error_memory, make_recursive, tighten
from mpc.observers.state_error import ROUNDING

N, K, W, INPUT = 5, 3, 6, np.array([0.01, 0.02])


@dataclass(frozen=True)
class Case:
    observer: Washout
    tightening: object
    drift: object
    changes: tuple
    growth: object

    def made(self, **changed):
        given = {n: getattr(self, n) for n in ("tightening", "drift", "changes", "observer", "growth")} | changed
        return make_error_memory(
            given["tightening"], given["drift"], given["changes"], observer=given["observer"], growth=given["growth"]
        )


def change(observer, k, **fields):
    """Bounds on a change that grow with the steps, for what the observer leaves."""
    system, start = change_system(observer.system, k), observer.restart
    end = W + k
    bounds = 0.1 * (1 + np.arange(end + 1))[:, None] * np.array([1.0, 2.0])
    claim = {"initial_radius": start.radius, "metric": np.eye(system.nx), "input_radius": INPUT, "digest": f"{k:064d}"}
    return NormHorizon(system_digest=system.digest, bounds=bounds, horizon=end, **(claim | fields))


@pytest.fixture(scope="module")
def case(predictor):
    system = predictor.system
    observer = Washout(predictor, W, contraction=NormContraction.of(system), input_error=INPUT)
    joint = NormHorizon.of(system, W + N, observer.restart.radius, INPUT)
    growth = replace(NormHorizon.of(system, N, observer.jump.radius), digest=64 * "9")
    steps = np.arange(N + 1)[:, None] * np.array([1.0, 0.5])
    room = tighten(declared_error(system, 0.02 + 0.01 * steps), joint, observer=observer)
    tightening = make_recursive(room, growth, observer=observer)
    rising = np.array([0.0, 0.03, 0.01, 0.05, 0.04, 0.06])[:, None] * np.array([1.0, 2.0])
    drift = declared_error(system, rising, 1.0)
    return Case(observer, tightening, drift, tuple(change(observer, k) for k in range(1, K + 1)), growth)


def test_every_part_is_what_its_formula_says(case):
    made, a, jumps = case.made(), case.tightening.predictive, case.growth.bounds[:N]
    assert (made.steps, made.horizon) == (K, N)
    assert made.drift.tolist() == (np.array([0.03, 0.03, 0.05])[:, None] * [1.0, 2.0]).tolist()
    assert made.change.tolist() == [case.changes[k - 1].bounds[W + k].tolist() for k in range(1, K + 1)]
    assert made.jump.tolist() == jumps.tolist()
    assert made.absolute.tolist() == a.tolist()
    G = np.zeros((N + 1, 2))
    for k in range(1, N):
        G[k + 1] = G[k] + 2 * jumps[k]
    assert (made.growth >= G).all()
    np.testing.assert_allclose(made.growth, G, rtol=1e-8)
    assert not made.growth[:2].any()
    needed = np.maximum(case.tightening.total[N], (a[N - 1] + made.growth[N - 1] + jumps[N - 1]))
    assert (made.end >= needed).all()
    np.testing.assert_allclose(made.end, needed, rtol=1e-8)
    np.testing.assert_allclose(made.spread, (made.drift + made.change) * ROUNDING, rtol=1e-15)
    assert not made.spread.flags.writeable
    promised = f"errors drift within {K} samples by no more than a bound which {case.drift.promise}"
    assert made.promise == f"{case.tightening.promise}; {promised}"
    assert made.digests == {
        "system": case.observer.system.digest,
        "observer": case.observer.digest,
        "tightening": case.tightening.digest,
        "drift": case.drift.digest,
        "growth": 64 * "9",
        "changes": digest({}, {str(k): f"{k:064d}" for k in range(1, K + 1)}),
    }
    assert made.premises.digest == case.tightening.premises.digest
    assert made.verified
    still = case.made(tightening=replace(case.tightening, premises=None))
    assert still.premises.horizon == N
    assert (still.premises.length, still.premises.missing, still.premises.loop) == (None, None, None)
    assert not still.verified


def test_the_last_step_of_all_counts_too(case):
    """The whole horizon may be learnt, and no more of it."""
    long = tuple(change(case.observer, k) for k in range(1, N + 1))
    assert case.made(changes=long).steps == N
    with pytest.raises(SettingError, match=rf"changes must name 1\.\.{N} steps, got {N + 1}"):
        case.made(changes=(*long, change(case.observer, N + 1)))
    short = replace(case.drift, bounds=case.drift.bounds[: K + 1])
    assert case.made(drift=short).steps == K
    with pytest.raises(SettingError, match=r"changes must name 1\.\.2 steps, got 3"):
        case.made(drift=replace(case.drift, bounds=case.drift.bounds[:K]))
    with pytest.raises(SettingError, match=r"got 0"):
        case.made(changes=())
    one = case.made(changes=case.changes[:1])
    assert one.steps == 1


def test_parts_that_do_not_belong_together_are_refused(case, predictor):
    silent = Washout(predictor, W)
    other = Washout(predictor, W + 1, contraction=case.observer.contraction, input_error=INPUT)
    named = case.tightening.digests
    for changed, match in (
        ({"observer": silent}, "states no jump"), ({"observer": other}, "certified for this observer"),
        ({"drift": replace(case.drift, system_digest=64 * "e")}, "different models"),
        ({"tightening": replace(case.tightening, digests=named | {"system": 64 * "e"})}, "different models"),
        ({"tightening": replace(case.tightening, digests={n: d for n, d in named.items() if n != "certificate"})},
         "certified for this observer"),
        ({"tightening": replace(case.tightening, digests=named | {"execution": 64 * "e"})}, "count rounding"),
        ({"tightening": replace(case.tightening, disturbance_gain=0.5)}, "without disturbance feedback"),
        ({"drift": replace(case.drift, disturbance_gain=0.5)}, "got gain 0.5"),
        ({"drift": replace(case.drift, disturbance_gain=None)}, "got gain None"),
        ({"drift": replace(case.drift, observer_digest=64 * "e")}, "without an observer"),
        ({"growth": None}, "growth=None"), ({"changes": [1, 2, 3]}, "certificates from certify_changes"),
        ({"changes": case.changes[1:]}, r"change 1 must be certified for change_system\(model, 1\) over 7 steps"),
    ):  # fmt: skip
        with pytest.raises(SettingError, match=match):
            case.made(**changed)


def test_records_of_drifts_may_miss_more_readings_than_those_of_errors(case):
    """Both promises stand side by side, each with its own conditions."""
    premises = case.tightening.premises.also(length=100, missing=0.5, loop="closed")
    tightening = replace(case.tightening, premises=premises)
    made = case.made(tightening=tightening, drift=replace(case.drift, length=7, missing=0.25))
    assert made.premises.digest == premises.digest


def test_a_memory_without_jumps_needs_no_certificate_for_them(case):
    class Still(Washout):
        @property
        def jump(self):
            return StateError(0.0, np.eye(self.predictor.nx))

    still = Still(case.observer.predictor, W, contraction=case.observer.contraction, input_error=INPUT)
    named = case.tightening.digests | {"observer": still.digest}
    room = replace(case.tightening, digests=named, premises=None)
    made = case.made(observer=still, growth=None, tightening=room)
    assert not made.jump.any()
    assert "growth" not in made.digests


def test_changes_cover_what_the_observer_leaves(case):
    good, radius = case.changes, case.observer.restart.needed_in(np.eye(case.observer.system.nx))
    case.made(changes=(replace(good[0], initial_radius=radius), *good[1:]))
    case.made(changes=(replace(good[0], initial_radius=2 * radius, input_radius=2 * INPUT), *good[1:]))
    longer = replace(good[1], horizon=W + 3, bounds=np.vstack([good[1].bounds, [[9.0, 9.0]]]))
    assert case.made(changes=(good[0], longer, good[2])).change.tolist() == case.made().change.tolist()
    for k in range(K):
        for fields, kind, match in (
            (
                {"initial_radius": radius * (1 - 1e-6)},
                CertificationError,
                f"change {k + 1} must cover an initial error",
            ),
            ({"input_radius": INPUT * np.array([1.0, 0.999])}, CertificationError, "and input errors"),
            ({"input_radius": INPUT * np.array([0.999, 1.0])}, CertificationError, "and input errors"),
            ({"horizon": W + k}, SettingError, f"over {W + k + 1} steps, got {W + k} steps"),
            ({"system_digest": 64 * "e"}, SettingError, "for system eeeeeeeeeeee"),
            ({"input_range": np.zeros((2, 2))}, SettingError, "boxes"),
            ({"metric": 0.25 * np.eye(case.observer.system.nx + 2 * (k + 1))}, None, ""),
            ({"metric": 4.0 * np.eye(case.observer.system.nx + 2 * (k + 1))}, CertificationError, "must cover"),
        ):
            bad = tuple(replace(one, **fields) if i == k else one for i, one in enumerate(good))
            if kind is None:
                assert case.made(changes=bad).steps == K
                continue
            with pytest.raises(kind, match=match):
                case.made(changes=bad)


class Refusing(NormHorizon):
    def verify(self, system):
        raise CertificationError(f"{system.nx} states: not proven")


@pytest.mark.parametrize("k", range(1, K + 1))
def test_every_change_is_verified_for_its_own_system(case, k):
    fields = {n: getattr(case.changes[k - 1], n) for n in NormHorizon.__dataclass_fields__}
    bad = tuple(Refusing(**fields) if i == k else one for i, one in enumerate(case.changes, 1))
    nx = change_system(case.observer.system, k).nx
    with pytest.raises(CertificationError, match=f"{nx} states: not proven"):
        case.made(changes=bad)


def test_verification_recomputes_everything(case):
    made = case.made()
    sources = {"observer": case.observer, "growth": case.growth}
    read = replace(made)
    assert not read.verified
    read.verify(case.tightening, case.drift, case.changes, **sources)
    assert read.verified
    for name in ("drift", "change", "jump", "absolute", "growth", "end"):
        with pytest.raises(CertificationError, match=f"the error memory claims {name}"):
            replace(made, **{name: getattr(made, name) + 0.01}).verify(
                case.tightening, case.drift, case.changes, **sources
            )
    for changed, what in (
        ({"promise": "anything"}, "promise"),
        ({"digests": made.digests | {"drift": 64 * "e"}}, "drift"),
        ({"digests": {n: d for n, d in made.digests.items() if n != "growth"}}, "growth"),
    ):  # fmt: skip
        with pytest.raises(CertificationError, match=f"the error memory names another {what}"):
            replace(made, **changed).verify(case.tightening, case.drift, case.changes, **sources)
    other = replace(made, premises=made.premises.also(length=5))
    with pytest.raises(CertificationError, match="the error memory names another premises"):
        other.verify(case.tightening, case.drift, case.changes, **sources)
    trusted = replace(made)
    trusted.verify(replace(case.tightening).on_trust(), case.drift, case.changes, **sources)
    assert trusted.usable
    assert not trusted.verified  # it rests on what was not
    with pytest.raises(CertificationError, match=r"the error memory lacks premises\."):
        replace(made, premises=None).verify(case.tightening, case.drift, case.changes, **sources)
    with pytest.raises(CertificationError, match="the error memory claims"):
        made.verify(case.tightening, replace(case.drift, bounds=2 * case.drift.bounds), case.changes, **sources)


def test_rows_of_the_parts_fit_each_other(case):
    made = case.made()
    rows = {"drift": K, "change": K, "jump": N, "absolute": N + 1, "growth": N + 1}
    for name in rows:
        part = getattr(made, name)
        for wrong in (part[:-1], np.vstack([part, part[-1:]])):
            with pytest.raises(SettingError, match="rows"):
                replace(made, **{name: wrong})
        with pytest.raises(ShapeError):
            replace(made, **{name: part[:, :1]})
        with pytest.raises(SettingError, match=">= 0"):
            replace(made, **{name: -part - 1})
    with pytest.raises(SettingError, match=">= 0"):
        replace(made, end=-made.end)
    with pytest.raises(ShapeError):
        replace(made, end=made.end[:, None])
    with pytest.raises(SettingError, match="1 <= K <= N"):
        replace(made, drift=made.drift[:0], change=made.change[:0])
    whole = np.ones((N, 2))
    assert replace(made, drift=whole, change=whole).steps == N
    more = np.ones((N + 1, 2))
    with pytest.raises(SettingError, match="1 <= K <= N"):
        replace(made, drift=more, change=more)


def test_without_a_jump_nothing_grows(case):
    calm = replace(case.growth, bounds=0 * case.growth.bounds)
    made = case.made(growth=calm)
    assert not made.growth.any()
    assert not made.jump.any()


def test_changes_are_certified_for_what_the_observer_leaves(case, monkeypatch):
    """The search itself is not run: what it is asked for is looked at."""
    asked, told = [], []

    def search(system, horizon, **arguments):
        asked.append((system, horizon, arguments))
        return f"bound {len(asked)}"

    monkeypatch.setattr(certification, "certify_horizon", search)
    found = certify_changes(case.observer, K, iterations=7, progress=lambda *done: told.append(done))
    assert found == ("bound 1", "bound 2", "bound 3")
    assert told == [(1, K), (2, K), (3, K)]
    start, n = case.observer.restart, case.observer.system.nx
    for k, (system, horizon, arguments) in enumerate(asked, 1):
        assert system.digest == change_system(case.observer.system, k).digest
        assert horizon == W + k
        assert arguments["initial_radius"] == start.radius
        assert arguments["input_radius"].radius.tolist() == INPUT.tolist()
        assert arguments["input_radius"].kind == "box"
        assert arguments["focus"] == [W + k]
        assert arguments["iterations"] == 7
        wanted = 1e3 * np.linalg.eigvalsh(start.metric)[-1] * np.eye(system.nx)
        wanted[:n, :n] = start.metric
        np.testing.assert_allclose(arguments["metric"], wanted)
    P = np.diag([2.0, 9.0, 3.0, 4.0])
    stretched = Washout(case.observer.predictor, W, contraction=replace(case.observer.contraction, metric=P))
    certify_changes(stretched, 1)
    wanted = 9e3 * np.eye(change_system(case.observer.system, 1).nx)
    wanted[:n, :n] = P
    np.testing.assert_allclose(asked[-1][2]["metric"], wanted)
    certify_changes(case.observer, 1)
    assert asked[-1][2]["iterations"] == 200
    with pytest.raises(SettingError, match="steps"):
        certify_changes(case.observer, 0)


def test_parts_are_named_in_what_is_stored(case):
    made = case.made()
    assert ErrorMemory.from_record(*made.record()).digest == made.digest
    bare = replace(made, digests={})
    assert bare.digests == {}
