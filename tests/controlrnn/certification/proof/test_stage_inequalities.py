"""The inequalities of one step against rational arithmetic: what is accepted holds exactly."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from exact_numbers import definite, exact, holds, sector
from hypothesis import given
from hypothesis import strategies as st
from inequality_cases import FAST, SEEDS, blocks, form_of, stage_margins

from controlrnn.certification.proof import incremental as inc
from controlrnn.certification.proof.arithmetic.enclosure import Enclosure
from controlrnn.certification.proof.arithmetic.twofold import Twofold
from controlrnn.errors import CertificationError

KINDS = [Enclosure, Twofold]


@pytest.mark.parametrize("kind", KINDS)
@FAST
@given(seed=SEEDS, log=st.integers(-250, 100))
def test_terms_of_the_inequalities(kind, seed, log):
    form, rng = form_of(seed), np.random.default_rng(seed)
    lam = 10.0**log * rng.random((2, form.nv))
    P = rng.standard_normal((2, form.nx, form.nx))
    P = 10.0**log * (P + P.swapaxes(1, 2))
    rho, c = rng.random((2, form.nu)), form.Y[:1]
    without, supplied = (kind.of(np.zeros((2, form.nz, form.nz))) for _ in range(2))
    inc.subtract_sector(without, form, lam)
    inc.add_supply(supplied, form, kind.of(P), kind.of(rho))
    found = [
        (-without).enclosure(),
        inc.demand(kind, form, P).enclosure(),
        inc.square(kind, c).enclosure(),
        supplied.enclosure(),
    ]
    T, row = exact(form.T), exact(c)
    wanted = [
        np.array([sector(form, one) for one in lam]),
        np.array([T.T.dot(exact(one)).dot(T) for one in P]),
        row.T.dot(row)[None],
        np.array([blocks(form, one, r) for one, r in zip(P, rho, strict=True)]),
    ]
    for value, true in zip(found, wanted, strict=True):
        assert value.mid.shape == true.shape
        assert holds(value, true)
    rounded = form.multiplier_form(lam)
    assert holds(Enclosure(rounded, np.full(rounded.shape, 1e-13 * np.abs(rounded).max())), wanted[0])
    assert np.allclose(form.supply(P[0], rho[0]), wanted[3][0].astype(float))


@pytest.mark.parametrize("kind", KINDS)
def test_matrices_that_are_known_up_to_a_spread(kind):
    form, rng = form_of(3), np.random.default_rng(3)
    spread = 10.0 ** rng.uniform(-14, -3, form.T.shape)
    wide = replace(form, spread=spread)
    P = np.array([[[2.0, 0.3], [0.3, 1.0]]])
    found = inc.demand(kind, wide, P).enclosure()
    for signs in (1, -1, rng.choice([-1.0, 0.0, 1.0], spread.shape)):
        T = exact(form.T) + exact(spread) * exact(np.array(signs * np.ones(spread.shape)))
        assert holds(found, T.T.dot(exact(P[0])).dot(T)[None])
    for one in (wide.through(slice(1, None), 1, 2), wide.at_equal_states()):
        assert one.spread.shape == one.T.shape
    with pytest.raises(CertificationError, match="exactly"):
        wide.with_inputs_as_states(np.ones(2, bool))


@FAST
@given(seed=SEEDS, log=st.floats(-18, -6), scale=st.integers(-120, 120))
def test_stages_are_accepted_only_where_they_hold(seed, log, scale):
    """Storages that are a hair too small or too large."""
    form, rng = form_of(seed), np.random.default_rng(seed)
    unit = 2.0**scale
    lam, rho = unit**2 * rng.uniform(0.5, 3, (3, form.nv)), unit**2 * rng.uniform(5, 30, (3, form.nu))
    c = unit * form.Y[:1]
    P, stages = inc.storages(form, c.T @ c, lam, rho, 1e-13)
    P = np.array(P).reshape(-1, 2, 2)
    P[:, np.arange(2), np.arange(2)] *= 1 + rng.choice([-1, 0, 1], (len(P), 2)) * 10.0**log
    margins = stage_margins(form, P, rho[:stages], lam[:stages], c) if stages else []
    T, row = exact(form.T), exact(c)
    for j, margin in enumerate(margins):
        demanded = row.T.dot(row) if j == 0 else T.T.dot(exact(P[j - 1])).dot(T)
        whole = blocks(form, P[j], rho[j]) - demanded - sector(form, lam[j])
        if margin > 0:
            assert definite(whole)
        else:
            assert margin == -np.inf


def test_stages_with_room_are_accepted_whatever_their_unit():
    form = form_of(8)
    rng = np.random.default_rng(8)
    lam, rho, c = rng.uniform(1, 2, (4, form.nv)), np.full((4, form.nu), 400.0), form.Y[:1]
    for unit in (1.0, 2.0**-150, 2.0**150):
        P, stages = inc.storages(form, unit * c.T @ c, unit * lam, unit * rho, 1e-6)
        assert stages == 4
        margins = stage_margins(form, np.array(P), unit * rho, unit * lam, np.sqrt(unit) * c)
        assert (margins > 1e-9).all()
        assert (stage_margins(form, np.array(P), unit * rho, unit * lam, np.sqrt(unit) * c, room=1e9) < 0).any()


@pytest.mark.parametrize("seed", range(3))
def test_the_second_arithmetic_proves_what_the_first_cannot(seed):
    """A storage a relative 1e-12 above the least one, where float64 with its radii sees nothing."""
    form, rng = form_of(seed), np.random.default_rng(seed)
    lam, rho, c = rng.uniform(3, 4, (2, form.nv)), np.full((2, form.nu), 4000.0), 0.3 * form.Y[:1]
    P, stages = inc.storages(form, c.T @ c, lam, rho, 1e-12)
    assert stages == 2
    assert (stage_margins(form, np.array(P), rho, lam, c) > 0).all()


@pytest.mark.parametrize("together", [1, 200, 30_000])
def test_several_recursions_at_once(monkeypatch, together):
    """Each with its own output; a storage that is too small is refused where it stands, and nowhere else."""
    monkeypatch.setattr(inc, "TOGETHER", together)
    form, rng = form_of(14, norm=1.6), np.random.default_rng(8)
    F, K, unit = 3, 4, np.array([1.0, 100.0, 0.01])[:, None, None]
    c = np.sqrt(unit) * form.Y[:1]
    lam, rho = unit * rng.uniform(3, 4, (F, K, form.nv)), unit * np.full((F, K, form.nu), 4000.0)
    found = [inc.storages(form, c[f].T @ c[f], lam[f], rho[f], 1e-6) for f in range(F)]
    assert [stages for _, stages in found] == [K] * F
    P = np.array([storage for storage, _ in found])
    margins = inc.stage_margins(form, P, rho, lam, c)
    assert margins.shape == (F, K)
    assert (margins > 0).all()
    for f in range(F):
        assert np.allclose(margins[f], stage_margins(form, P[f], rho[f], lam[f], c[f]), rtol=1e-3)
        for k in range(K):
            less = P.copy()
            less[f, k] *= 1 - 1e-3
            refused = ~(inc.stage_margins(form, less, rho, lam, c) > 0)
            assert refused[f, k]
            assert refused.sum() == 1


def test_ratios_with_a_metric_each():
    """Of one scale or another, so that some are proven before others."""
    rng = np.random.default_rng(1)
    B = rng.standard_normal((4, 3, 3))
    M = B @ B.swapaxes(1, 2) + 0.1 * np.eye(3)
    M = 0.5 * (M + M.swapaxes(1, 2))
    M[1] = np.diag([1.0, 1e-13, 1e13])
    P = M + 1e-14 * np.eye(3)
    P[3] = 7 * M[3]
    P[1] = np.array([[1.0, 1e-7, 0.0], [1e-7, 1e-13, 0.0], [0.0, 0.0, 1e13]])
    found = inc.largest_ratios(Enclosure.of(P), Enclosure.of(M))
    for p, m, ratio in zip(P, M, found, strict=True):
        assert definite(Fraction(ratio) * exact(m) - exact(p))
        assert not definite(Fraction(ratio * (1 - 1e-2)) * exact(m) - exact(p))
    assert np.allclose(found, inc.largest_ratios(Enclosure.of(P[::-1]), Enclosure.of(M[::-1]))[::-1])
    less_known = np.array([0.0, 0.0, 1e-7, 1e-4])[:, None, None] * np.ones(P.shape)
    later = inc.largest_ratios(Enclosure(P, less_known), Enclosure.of(M))
    assert (later[:2] == found[:2]).all()
    assert (later[2:] > found[2:] * [1 + 1e-8, 1 + 1e-5]).all()
    assert (later < 1.1 * found).all()
    for p, m, e, ratio in zip(P, M, less_known, later, strict=True):
        assert definite(Fraction(ratio) * exact(m) - exact(p) - exact(e))


def test_ratios():
    rng = np.random.default_rng(0)
    B = rng.standard_normal((3, 3, 3))
    P, M = B @ B.swapaxes(1, 2), np.diag([1.0, 1e-8, 1e8])
    found = inc.largest_ratios(Enclosure.of(P), Enclosure.of(M[None]))
    for p, ratio in zip(P, found, strict=True):
        assert definite(Fraction(ratio) * exact(M) - exact(0.5 * (p + p.T)))
        assert not definite(Fraction(ratio * (1 - 1e-6)) * exact(M) - exact(0.5 * (p + p.T)))
    wide = inc.largest_ratios(Enclosure(P, np.full(P.shape, 0.1)), Enclosure.of(M[None]))
    assert (wide > found * 1.01).all()
    assert inc.largest_ratios(Enclosure.of(np.zeros((2, 0, 0))), Enclosure.of(np.zeros((1, 0, 0)))).tolist() == [0, 0]
    assert 0 < inc.largest_ratio(np.zeros((2, 2)), np.eye(2)) < 1e-200
    for bad_P, bad_M in ((np.full((2, 2), np.inf), np.eye(2)), (np.eye(2), np.full((2, 2), np.nan)),
                         (np.eye(2), -np.eye(2)), (np.eye(2), np.zeros((2, 2)))):  # fmt: skip
        with pytest.raises(CertificationError):
            inc.largest_ratio(bad_P, bad_M)
