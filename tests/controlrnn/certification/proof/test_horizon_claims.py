"""Bounds over a horizon, gains and one constant, against exact numbers."""

from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from inequality_cases import FAST, SEEDS, Family, linear, system_of
from random_systems import random_system

from controlrnn.certification.input_error import InputError
from controlrnn.certification.proof import horizon as h
from controlrnn.certification.proof import incremental as inc
from controlrnn.certification.proof.incremental import IncrementalForm
from controlrnn.certification.proof.input_error import InputDifferences
from controlrnn.certification.proof.structure import reaching
from controlrnn.errors import CertificationError, ControlRnnError


@FAST
@given(a=st.floats(-2, 2), c=st.floats(0.1, 3), r=st.sampled_from([1.0, 1e-170, 1e170, 5e-324]))
def test_horizons_of_scalar_systems(a, c, r):
    system, K = linear([[a]], C2=[[c]]), 4
    inequality = h.HorizonInequality(system, K - 1, r, None, 0.0)
    bounds, margin = inequality.prove(Family(0, np.zeros((K, 0)), np.zeros((K, 0)), padding=1e-10))
    assert margin > 0
    for k, bound in enumerate(bounds):
        true = Fraction(c) * abs(Fraction(a)) ** k * Fraction(r)
        assert Fraction(bound) >= true
        assert bound <= float(true) * (1 + 1e-9) + 1e-120 * r + 1e-323


@pytest.mark.parametrize(("kind", "factor"), [
    ({"kind": "box"}, lambda k: k + 1), ({"kind": "ball"}, lambda k: k + 1),
    ({"kind": "few", "steps": 2}, lambda k: min(k + 1, 2)), ({"kind": "constant"}, lambda k: k + 1),
    ({"kind": "rate_limited", "rate": 0.5}, lambda k: k + 1),
], ids=lambda v: v.get("kind") if isinstance(v, dict) else "")  # fmt: skip
@pytest.mark.parametrize("unit", [1.0, 1e-170, 1e150])
def test_inputs_of_an_integrator(kind, factor, unit):
    """x+ = x + u, y = x + u: the bound at step k is the number of inputs that count, for arbitrary weights."""
    system, K = linear([[1.0]], C2=[[1.0]], D22=[[1.0]]), 4
    kind = {k: v * unit if k == "rate" else v for k, v in kind.items()}
    error = InputDifferences(radius=np.array([unit]), **kind)
    rho = np.full((K, 1), 7.0)  # of K = 4 steps: 1 / 7 + 3 / 7 + ... < 1
    inequality = h.HorizonInequality(system, K - 1, 0.0, None, error)
    bounds, _ = inequality.prove(Family(0, np.zeros((K, 0)), rho))
    for k, bound in enumerate(bounds):
        assert bound >= factor(k) * unit
        assert bound == pytest.approx(np.sqrt(7.0 * factor(k)) * unit, rel=1e-9)


def test_claims_without_steps_and_without_inputs():
    still = linear([[2.0]], B2=np.zeros((1, 0)), C2=[[3.0]], D22=np.zeros((1, 0)))
    for K in (1, 3):
        claim = h.HorizonInequality(still, K - 1, 0.5, np.array([[4.0]]), 0.0)
        assert claim.input_radius.shape == claim.b.shape == (0,)
        bounds, _ = claim.prove(Family(0, np.zeros((K, 0)), np.zeros((K, 0)), 1e-12))
        assert bounds == pytest.approx(0.75 * 2.0 ** np.arange(K), rel=1e-9)
        constant, _ = h.prove_lipschitz(still, K - 1, np.zeros((K, 0)), np.zeros((K, 0)), 1e-12, None)
        assert constant == pytest.approx(3 * 2.0 ** (K - 1), rel=1e-9)
    with pytest.raises(CertificationError, match="shares"):
        claim.prove(Family(0, np.zeros((3, 0)), np.zeros((3, 0)), 1e-12, np.ones((1, 1))))


def test_inputs_that_differ_and_those_that_change():
    system, b = linear(np.eye(2), B2=np.ones((2, 3)), C2=np.eye(2), D22=np.ones((2, 3))), np.array([0.4, 0.0, 0.2])
    claim = h.HorizonInequality(system, 3, 1.0, None, b)
    assert claim.input_radius.tolist() == b.tolist()
    assert claim.b.tolist() == [0.4, 0.2]
    error = InputDifferences(kind="rate_limited", radius=b, rate=np.array([0.05, 0.1, 0.0]))
    claim = h.HorizonInequality(system, 3, 1.0, None, error, lifted=True)
    assert claim.input_radius.tolist() == b.tolist()
    assert claim.b.tolist() == [0.05]
    # Searches ask the set for more than proofs do.
    assert type(h.HorizonInequality(system, 3, 1.0, None, InputError(kind="ball", radius=b)).error) is InputError


def test_several_families_and_nothing_that_differs():
    system = system_of(3)
    families = [Family(i, np.full((4, 2), 3.0), np.full((4, 2), 400.0)) for i in range(2)]
    claim = h.HorizonInequality(system, 3, 1.0, None, 0.1)
    bounds, margin = claim.prove_all(families)
    alone = [claim.prove(family) for family in families]
    np.testing.assert_allclose(bounds, [one for one, _ in alone], rtol=1e-9)
    assert margin == pytest.approx(min(one for _, one in alone), rel=1e-3)
    still, _ = h.HorizonInequality(system, 3, 0.0, None, 0.0).prove(Family(0, np.full((4, 2), 3.0), np.zeros((4, 0))))
    assert (still == 0).all()


def test_many_inputs_that_are_states():
    m = 60
    system = linear([[0.0]], B2=np.zeros((1, m)), C2=[[0.0]], D22=np.ones((1, m)))
    error = InputDifferences(kind="constant", radius=np.ones(m))
    claim = h.HorizonInequality(system, 0, 0.0, None, error, lifted=True)
    shares = np.concatenate([[1e-9], np.ones(m)])[None]
    bounds, _ = claim.prove(Family(0, np.zeros((1, 0)), np.zeros((1, 0)), 1e-10, shares))
    assert bounds[0] >= m
    assert bounds[0] == pytest.approx(m, rel=1e-6)


def test_multipliers_are_of_the_size_of_the_outputs():
    system = system_of(3)
    good = Family(0, np.full((4, 2), 3.0), np.full((4, 2), 400.0))
    bounds, _ = h.HorizonInequality(system, 3, 1.0, None, 0.1).prove(good)
    small = replace(system, C2=1e-3 * system.C2, D21=1e-3 * system.D21, D22=1e-3 * system.D22)
    scaled = replace(good, multipliers=1e-6 * good.multipliers, rho=1e-6 * good.rho)
    found, _ = h.HorizonInequality(small, 3, 1.0, None, 0.1).prove(scaled)
    assert found == pytest.approx(1e-3 * bounds, rel=1e-6)


def test_inputs_that_are_states():
    """y = u_k - u_{k-1}: constant errors cancel, slow ones hardly count, and no other kind may be taken for them."""
    system, K, b = linear([[0.0]], C2=[[-1.0]], D22=[[1.0]]), 4, np.array([1.0])
    shares = np.tile([1e-9, 1.0], (K, 1))
    constant = h.HorizonInequality(system, K - 1, 0.0, None, InputDifferences(kind="constant", radius=b), lifted=True)
    bounds, _ = constant.prove(Family(0, np.zeros((K, 0)), np.zeros((K, 0)), 1e-10, shares))
    assert bounds[0] == pytest.approx(1.0, rel=1e-6)
    assert (bounds[1:] < 1e-3).all()
    slow = InputDifferences(kind="rate_limited", radius=b, rate=np.array([0.1]))
    limited = h.HorizonInequality(system, K - 1, 0.0, None, slow, lifted=True)
    bounds, _ = limited.prove(Family(0, np.zeros((K, 0)), np.full((K, 1), 1.5), 1e-10, shares))
    assert (bounds[1:] >= 0.1).all()
    assert (bounds[1:] < 0.5).all()
    for kind in ({"kind": "box"}, {"kind": "ball"}, {"kind": "few", "steps": 2}):
        with pytest.raises(CertificationError, match="no states"):
            h.HorizonInequality(system, K - 1, 0.0, None, InputDifferences(radius=b, **kind), lifted=True)
    box = h.HorizonInequality(system, K - 1, 0.0, None, InputDifferences(kind="constant", radius=b))
    for family in (Family(0, np.zeros((K, 0)), np.zeros((K, 0)), 1e-10, shares),
                   Family(0, np.zeros((K, 0)), np.full((K, 1), 3.0), 1e-10, shares)):  # fmt: skip
        with pytest.raises(CertificationError):
            box.prove(family)
    assert box.prove(Family(0, np.zeros((K, 0)), np.full((K, 1), 3.0)))[0][-1] >= 2


def test_the_set_of_states_and_of_inputs_that_are_states():
    """Before anything moves |dy| is the norm of (C, D) in the weighted set, for every sign of every entry."""
    metric, r, b = np.array([[2.0, 0.3], [0.3, 1.0]]), 0.5, np.array([0.4, 0.0, 0.2])
    C, D = np.array([[1.0, 2.0], [1.0, -2.0]]), np.array([[3.0, 5.0, 1.0], [3.0, 5.0, -1.0]])
    system = linear(0.1 * np.eye(2), B2=0.1 * np.ones((2, 3)), C2=C, D22=D)
    error = InputDifferences(kind="constant", radius=b)
    claim = h.HorizonInequality(system, 1, r, metric, error, lifted=True)
    shares = np.array([[1.0, 2.0, 5.0], [2.0, 1.0, 1.0]])
    families = [Family(i, np.zeros((2, 0)), np.zeros((2, 0)), 1e-12, shares) for i in range(2)]
    bounds, _ = claim.prove_all(families)
    assert bounds.shape == (2, 2)
    for c, d, bound in zip(C, D, bounds, strict=True):
        square = 8 * r**2 * (c @ np.linalg.solve(metric, c)) + 4 * (d[0] * b[0]) ** 2 + 8 / 5 * (d[2] * b[2]) ** 2
        assert bound[0] == pytest.approx(np.sqrt(square), rel=1e-9)


@pytest.mark.parametrize("shares", [
    [[1.0, -0.5]], [[0.0, 1.0]], [[1.0, np.nan]], [[np.inf, 1.0]], [[1.0]], [[1.0, 1.0, 1.0]], [[1e308, 1e308]],
])  # fmt: skip
def test_shares_of_the_initial_set(shares):
    system, K = linear([[0.0]], C2=[[-1.0]], D22=[[1.0]]), 3
    error = InputDifferences(kind="constant", radius=np.array([1.0]))
    constant = h.HorizonInequality(system, K - 1, 1.0, None, error, lifted=True)
    family = Family(0, np.zeros((K, 0)), np.zeros((K, 0)), 1e-10, np.tile([0.5, 0.5], (K, 1)))
    bounds, _ = constant.prove(family)
    assert bounds[0] >= 2  # a state and an input of one each, however they are weighed
    scaled, _ = constant.prove(replace(family, shares=1e-300 * family.shares))
    assert scaled == pytest.approx(bounds, rel=1e-9)
    with pytest.raises(CertificationError), np.errstate(over="ignore"):
        constant.prove(replace(family, shares=np.tile(shares, (K, 1))))
    with pytest.raises(CertificationError, match="shares"):
        constant.prove(replace(family, shares=family.shares[:-1]))
    with pytest.raises(CertificationError, match="shares"):
        constant.prove(replace(family, shares=np.zeros((0, 0))))


FAMILIES = {
    "row": {"row": 2}, "negative row": {"row": -1}, "flag": {"row": False}, "part": {"row": 0.5},
    "short": {"multipliers": np.ones((3, 2))}, "wide": {"multipliers": np.ones((4, 3))},
    "negative": {"multipliers": -np.ones((4, 2))}, "nan": {"multipliers": np.full((4, 2), np.nan)},
    "infinite": {"multipliers": np.full((4, 2), np.inf)}, "rho": {"rho": np.full((4, 2), -1.0)},
    "nan rho": {"rho": np.full((4, 2), np.nan)}, "infinite rho": {"rho": np.full((4, 2), np.inf)},
    "rho shape": {"rho": np.ones((4, 1))}, "padding": {"padding": 1.0}, "negative padding": {"padding": -1e-9},
    "nan padding": {"padding": np.nan}, "shares": {"shares": np.ones((4, 3))}, "small": {"rho": np.full((4, 2), 1e-9)},
    "short rho": {"rho": np.full((3, 2), 400.0)},
}  # fmt: skip


@pytest.mark.parametrize("name", FAMILIES)
def test_families_that_prove_nothing(name):
    inequality = h.HorizonInequality(system_of(3), 3, 1.0, None, 0.1)
    good = Family(0, np.full((4, 2), 3.0), np.full((4, 2), 400.0))
    assert inequality.prove(good)[1] > 0
    with pytest.raises(ControlRnnError):
        inequality.prove(replace(good, **FAMILIES[name]))


@pytest.mark.parametrize("bad", [
    {"horizon": -1}, {"horizon": 1.5}, {"radius": -1.0}, {"radius": np.nan}, {"radius": np.inf},
    {"metric": -np.eye(2)}, {"metric": np.triu(np.ones((2, 2)))}, {"metric": np.eye(3)},
    {"metric": np.full((2, 2), np.nan)}, {"metric": np.zeros((2, 2))}, {"input_radius": -0.1},
    {"input_radius": np.nan}, {"input_radius": np.ones(3)},
], ids=lambda bad: "-".join(bad))  # fmt: skip
def test_claims_over_a_horizon_that_make_no_sense(bad):
    claim = {"horizon": 3, "radius": 1.0, "metric": None, "input_radius": 0.1}
    with pytest.raises(ControlRnnError):
        h.HorizonInequality(system_of(3), **(claim | bad))


@pytest.mark.parametrize("seed", range(3))
def test_gains_are_accepted_only_where_they_hold(seed):
    system, K = system_of(seed), 3
    rng = np.random.default_rng(seed)
    inequality = h.HorizonInequality(system, K - 1, 1.0, None, 0.0)
    families = [Family(i, rng.uniform(6, 9, (K, 2)), np.zeros((K, 0)), 1e-8) for i in range(2)]
    mu = rng.uniform(6, 9, (K, 2, 2, 2))
    least = np.empty((K, 2, 2))
    for family in families:
        P = inequality.prove_storages([family])[0][0]
        for c in range(2):
            form = IncrementalForm.of_input(system, c)
            for lag in range(K):
                seen = form.Y[[family.row]]
                H = form.T.T @ P[lag - 1] @ form.T if lag else seen.T @ seen
                least[lag, family.row, c] = np.sqrt(inc.schur_top(H + form.multiplier_form(mu[lag, family.row, c])))
    initial, margin = h.prove_gains(system, K - 1, np.eye(2), families, mu, least * (1 + 1e-6))
    assert margin > 0
    assert (initial > 0).all()
    for lag in range(K):
        for i in range(2):
            for c in range(2):
                less = least * (1 + 1e-6)
                less[lag, i, c] = least[lag, i, c] * (1 - 1e-6)
                with pytest.raises(CertificationError, match=f"input {c} at lag {lag} on output {i}"):
                    h.prove_gains(system, K - 1, np.eye(2), families, mu, less)
    for wrong in (families[:1], [*families, families[0]], [families[0], families[0]], []):
        with pytest.raises(CertificationError, match="family"):
            h.prove_gains(system, K - 1, np.eye(2), wrong, mu, least * 1.1)


def test_gains_of_a_chain_come_when_they_arrive():
    """u reaches y after two steps only; before that its gain is nothing, and that is proven without multipliers."""
    system = linear([[0.0, 1.0], [0.0, 0.0]], B2=[[0.0], [2.0]], C2=[[3.0, 0.0]])
    families = [Family(0, np.zeros((4, 0)), np.zeros((4, 0)), 1e-10)]
    mu, gains = np.zeros((4, 1, 1, 0)), np.array([0.0, 0.0, 6.0001, 0.0]).reshape(4, 1, 1)
    initial, margin = h.prove_gains(system, 3, np.eye(2), families, mu, gains)
    assert margin > 0
    assert initial[:, 0] == pytest.approx([3.0, 3.0, 0.0, 0.0], rel=1e-6)
    assert (initial[2:] == 0).all()
    other, _ = h.prove_gains(system, 3, np.diag([4.0, 9.0]), families, mu, gains)
    assert other[:, 0] == pytest.approx([1.5, 1.0, 0.0, 0.0], rel=1e-6)
    gains[2] = 5.9999
    with pytest.raises(CertificationError):
        h.prove_gains(system, 3, np.eye(2), families, mu, gains)
    states, inputs = reaching(system, 0, 4)
    assert states.tolist() == [[True, False], [False, True], [False, False], [False, False]]
    assert inputs.ravel().tolist() == [False, False, True, False]


@pytest.mark.parametrize("seed", range(12))
def test_what_reaches_an_output(seed):
    """Zeros are drawn at random; what is flagged as unreached changes nothing at all, and little else does."""
    rng = np.random.default_rng(seed)
    full = random_system(seed, nx=3, nu=2, ny=1, layers=(2, 1))
    names = ("A", "B1", "B2", "C1", "D11", "D12", "C2", "D21", "D22")
    system = replace(full, **{n: getattr(full, n) * (rng.random(getattr(full, n).shape) < 0.35) for n in names})
    states, inputs = reaching(system, 0, 4)
    x, u = rng.standard_normal(3), rng.standard_normal((4, 2))
    y = system.simulate(u, x)[0][:, 0]
    reached, pushed = np.zeros((4, 3), bool), np.zeros((4, 2), bool)
    for _ in range(8):
        for i in range(3):
            reached[:, i] |= system.simulate(u, x + np.eye(3)[i] * rng.standard_normal())[0][:, 0] != y
        for c in range(2):
            du = np.zeros((4, 2))
            du[0, c] = rng.standard_normal()
            pushed[:, c] |= system.simulate(u + du, x)[0][:, 0] != y
    assert not (reached & ~states).any()
    assert not (pushed & ~inputs).any()
    assert (reached == states).mean() > 0.7
    assert (pushed == inputs).mean() > 0.7


@FAST
@given(seed=SEEDS)
def test_one_constant_of_linear_systems(seed):
    """The true constant is the largest singular value of (C A^N, C A^N-1 B, .., D)."""
    rng = np.random.default_rng(seed)
    draw, N = rng.standard_normal, 2
    system = linear(0.5 * draw((2, 2)), B2=draw((2, 1)), C2=draw((2, 2)), D22=draw((2, 1)))
    rho = np.full((N + 1, 1), float(10.0 ** rng.uniform(0, 4)))
    try:
        constant, margin = h.prove_lipschitz(system, N, np.zeros((N + 1, 0)), rho, 1e-9, None)
    except CertificationError:
        return
    A, B, C = system.A, system.B2, system.C2
    true = np.linalg.norm(np.hstack([C @ A @ A, C @ A @ B, C @ B, system.D22]), 2)
    assert margin > 0
    assert constant >= true
    assert constant >= np.sqrt(rho.max())


def test_one_constant_of_a_static_gain():
    system = linear([[0.0]], B2=[[0.0]], C2=[[3.0], [4.0]], D22=[[0.0], [0.0]])
    constant, _ = h.prove_lipschitz(system, 0, np.zeros((1, 0)), np.full((1, 1), 1.0), 1e-12, None)
    assert constant == pytest.approx(5.0, rel=1e-9)
    small = linear([[0.0]], B2=[[0.0]], C2=[[0.3]], D22=[[0.4]])  # (dx, du) -> 0.3 dx + 0.4 du
    found, _ = h.prove_lipschitz(small, 0, np.zeros((1, 0)), np.full((1, 1), 0.25 * (1 + 1e-6)), 1e-12, None)
    assert found == pytest.approx(0.5, rel=1e-5)
    for bad in ({"horizon": -1}, {"horizon": 1}, {"rho": -np.ones((1, 1))}, {"padding": np.nan}):
        claim = {"horizon": 0, "multipliers": np.zeros((1, 0)), "rho": np.ones((1, 1)), "padding": 1e-12, "boxes": None}
        with pytest.raises(ControlRnnError):
            h.prove_lipschitz(system, **(claim | bad))


def test_one_constant_inside_of_boxes():
    """Neurons that are saturated in the boxes pass less on; anything goes outside of them."""
    system = random_system(3, nx=2, nu=1, ny=1, layers=(2,), activation="tanh")
    system = replace(system, bv=np.full(2, 6.0))
    boxes = (-0.1 * np.ones(1), 0.1 * np.ones(1)), (-0.1 * np.ones(2), 0.1 * np.ones(2))
    numbers = np.full((2, 2), 4.0), np.full((2, 1), 2.0), 1e-9
    assert h.prove_lipschitz(system, 1, *numbers, boxes)[1] > 0
    with pytest.raises(CertificationError):
        h.prove_lipschitz(system, 1, *numbers, None)
    lam = np.full((2, 2), 4.0)
    assert _largest_storage(system, lam, boxes) < 0.9 * _largest_storage(system, lam, None)
    with pytest.raises(ControlRnnError):
        h.prove_lipschitz(system, 1, *numbers, (boxes[0], boxes[0]))


def _largest_storage(system, lam, boxes):
    inequality = h.HorizonInequality(system, 1, 1.0, None, 0.0, boxes=boxes)
    return inequality.prove(Family(0, lam, np.zeros((2, 0)), 1e-9))[0][-1]
