"""The attack on the guarantee: its enemies stay within what is declared, its judge finds what is broken."""

import json
import shutil

import numpy as np
import pytest

from experiments.guarantee_attack import study as guarantee_attack
from experiments.guarantee_attack.enemies import ENEMIES, Enemy
from experiments.guarantee_attack.kinds import KINDS
from experiments.guarantee_attack.loops import Loop, Sample
from experiments.guarantee_attack.pool import OBSERVERS, Spec, build


@pytest.fixture(scope="module")
def member():
    return build(1, 0)


def wrong(verdict):
    return [verdict.violations, verdict.infeasible, verdict.beyond, verdict.late]


def quiet(member, enemy, **options):
    loop = Loop(member, Enemy(enemy), 3, member.controller(**options))
    loop.run(lambda *_: Sample(), lambda *_: False, loop.warm + 12)
    return loop


@pytest.mark.parametrize("enemy", ENEMIES)
def test_enemies_use_what_is_declared_and_no_more(member, enemy):
    loop = Loop(member, Enemy(enemy), 1, member.controller())
    rows = []
    for t in range(loop.warm + 12):
        loop.t = t
        loop.one(Sample(), False)
        rows.append(loop.w + loop.v)
        assert (np.abs(rows[-1]) <= member.residual * (1 + 1e-12)).all()
        assert (np.abs(loop.enemy.input(loop)) <= member.input_error * (1 + 1e-12)).all()
    for k in (1, 2):
        change = np.abs(np.array(rows[k:]) - rows[:-k]).max(axis=0)
        assert (change <= member.drifted(k) * (1 + 1e-9)).all()
    assert np.max(np.abs(rows) / member.residual) > 0.7
    verdict = loop.end()
    assert wrong(verdict) == [0, 0, 0, 0]
    assert verdict.uncertified == 0


def test_the_judge_finds_a_broken_bound(member):
    loop = quiet(member, "noise")
    before = loop.output()
    loop.x = loop.x + 100.0
    step = loop.one(Sample(off=before - loop.output()), False)  # which no reading shows
    assert step.certified
    assert loop.verdict.late == 1
    assert any("bounds away" in note for note in loop.verdict.notes)


def test_the_judge_finds_a_broken_limit(member):
    loop = quiet(member, "noise")
    loop.w = 10 * member.half
    loop.one(Sample(), False)
    assert loop.verdict.violations == 1


def test_blind_kinds_are_what_nobody_can_know(member):
    """So the judge has something to find."""
    kind = KINDS["blind: actuator stuck, no read-back"]
    loops = [Loop(member, Enemy("noise"), seed, member.controller()) for seed in range(3)]
    found = [loop.run(kind.script, kind.broken, loop.stop + 2) for loop in loops]
    assert any(verdict.late for verdict in found)


@pytest.mark.parametrize("name", ["manual out, then cleared", "read-back wrong", "sample twice", "one outlier"])
def test_broken_premises_are_found_and_forgotten(member, name):
    kind = KINDS[name]
    loop = Loop(member, Enemy("switch"), 5, member.controller())
    verdict = loop.run(kind.script, kind.broken, kind.last(loop))
    assert wrong(verdict) == [0, 0, 0, 0], verdict.notes
    assert verdict.named
    assert verdict.returned


def test_every_part_of_the_library_is_attacked():
    specs = [Spec.of(index) for index in range(guarantee_attack.MEMBERS)]
    assert {s.observer for s in specs} == set(OBSERVERS)
    assert len({s.model for s in specs}) == 4
    assert {s.ny for s in specs} == {1, 2, 3}
    for what in ("terminal", "recalls", "soft", "inexact"):
        assert len({getattr(s, what) for s in specs}) == 2, what
    assert sum(not kind.blind and not kind.harmless for kind in KINDS.values()) >= 20


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("cc") is None and shutil.which("gcc") is None, reason="no C compiler")
def test_a_short_attack_finds_nothing(tmp_path):
    assert guarantee_attack.main(["--quick", "--out", str(tmp_path)]) == 0
    found = json.loads((tmp_path / "results.json").read_text())
    assert all(target["met"] for target in found["targets"].values()), found["targets"]
