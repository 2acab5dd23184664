"""Delta-ISS of LSTM and GRU: runs approach each other as claimed, and the published conditions are met by ours."""

from dataclasses import replace

import numpy as np
import pytest

from controlrnn.certification import certify_delta_iss, load_certificate
from controlrnn.certification.proof import gated
from controlrnn.errors import CertificationError, SettingError, ShapeError
from controlrnn.systems import Cell, GatedSystem

RANGE = (np.array([-1.0, 0.5]), np.array([1.0, 2.0]))


def network(seed, cell, *, n=4, gain=0.03, feedthrough=False):
    rng = np.random.default_rng(seed)
    rows = Cell(cell).gates * n
    return GatedSystem(
        W=0.5 * rng.standard_normal((rows, 2)), U=gain * rng.standard_normal((rows, n)) / n**0.5,
        b=0.5 * rng.standard_normal(rows), C=rng.standard_normal((2, n)), by=rng.standard_normal(2),
        cell=cell, feedthrough=feedthrough, dt=1.0,
    )  # fmt: skip


def runs(system, certificate, seed, radius):
    """Two batches of runs from anywhere within the bound, with inputs at the limits, held or switching."""
    rng = np.random.default_rng(seed)
    low, high = RANGE
    u = rng.uniform(low, high, (2, 500, 30, 2))
    extreme = rng.random((2, 500, 30, 2)) < 0.5
    u[:, ::2] = np.where(extreme, low, high)[:, ::2]
    u[:, ::5] = u[:, ::5, :1]
    u[1] = np.clip(u[0] + radius * rng.choice([-1, 1], u[0].shape), low, high)
    x0 = certificate.state_bound * rng.uniform(-1, 1, (2, 500, system.nx))
    x0[:, ::3] = np.sign(x0[:, ::3]) * certificate.state_bound
    return u, x0


@pytest.mark.parametrize("cell", ["lstm", "gru"])
@pytest.mark.parametrize("seed", range(5))
def test_runs_approach_each_other_as_certified(cell, seed):
    system = network(seed, cell, n=2 + seed)
    certificate = certify_delta_iss(system, input_range=RANGE)
    assert certificate.verify(system) > 0
    radius = np.array([0.2, 0.1])
    u, x0 = runs(system, certificate, seed, radius)
    x1, x2 = (system.simulate(one, start)[1] for one, start in zip(u, x0, strict=True))
    assert (np.abs(np.concatenate([x1, x2])) <= certificate.state_bound * (1 + 1e-12)).all()
    distance = certificate.distance(x1 - x2)
    push = np.abs(u[0] - u[1]) @ certificate.input_gain
    assert (distance[:, 1:] <= certificate.rate * distance[:, :-1] + push + 1e-12).all()
    for k in range(31):
        bound = np.array([certificate.error_after(k, d, radius) for d in distance[:, 0]])
        assert (distance[:, k] <= bound + 1e-12).all()
    equal = certificate.distance(system.simulate(u[0], x0[0])[1] - system.simulate(u[0], x0[1])[1])
    assert (equal <= certificate.rate ** np.arange(31) * equal[:, :1] + 1e-12).all()


def bonassi(system, low, high):
    """The GRU condition of the paper, in infinity norms, for inputs within +-1 and states within one."""
    n = system.units
    most = np.maximum(np.abs(low), np.abs(high))

    def norm(M):
        return np.abs(M).sum(axis=1).max()

    def sigmoid(v):
        return 1 / (1 + np.exp(-v))

    rows = [slice(k * n, (k + 1) * n) for k in range(3)]
    whole = [norm(np.hstack([system.W[r] * most, system.U[r], system.b[r, None]])) for r in rows]
    f, z, phi = sigmoid(whole[0]), sigmoid(whole[1]), np.tanh(whole[2])
    Uf, Uz, Ur = (norm(system.U[r]) for r in rows)
    return Ur * (0.25 * Uf + f) < 1 - 0.25 * (1 + phi) / (1 - z) * Uz


def terzi(system, low, high):
    """The LSTM condition of the paper: a two by two matrix of infinity norms is Schur."""
    n = system.units
    most = np.maximum(np.abs(low), np.abs(high))

    def norm(M):
        return np.abs(M).sum(axis=1).max()

    rows = [slice(k * n, (k + 1) * n) for k in range(4)]
    whole = [norm(np.hstack([system.W[r] * most, system.U[r], system.b[r, None]])) for r in rows]
    i, f, o = (1 / (1 + np.exp(-v)) for v in whole[:3])
    g = np.tanh(whole[3])
    Ui, Uf, Uo, Ug = (norm(system.U[r]) for r in rows)
    c = i * g / (1 - f)
    alpha = 0.25 * Uf * c + i * Ug + 0.25 * Ui * g
    return max(abs(np.linalg.eigvals([[f, alpha], [o * f, alpha * o + 0.25 * np.tanh(c) * Uo]]))) < 1


@pytest.mark.parametrize(("cell", "condition"), [("gru", bonassi), ("lstm", terzi)])
def test_less_conservative_than_the_published_condition(cell, condition):
    met = more = 0
    for seed in range(60):
        system = network(seed, cell, n=3, gain=0.01 + 0.004 * seed)
        try:
            certify_delta_iss(system, input_range=RANGE)
        except CertificationError:
            assert not condition(system, *RANGE)
            continue
        if condition(system, *RANGE):
            met += 1
        else:
            more += 1
    assert met > 3
    assert more > 3


@pytest.mark.parametrize("cell", ["lstm", "gru"])
def test_claims_are_refused_once_altered(cell, tmp_path):
    system = network(0, cell)
    certificate = certify_delta_iss(system, input_range=RANGE)
    certificate.save(tmp_path / "c.npz")
    assert load_certificate(tmp_path / "c.npz").verify(system) == certificate.margin
    for change in (
        {"rate": 0.999 * certificate.rate},
        {"input_gain": 0.999 * certificate.input_gain},
        {"input_high": certificate.input_high + 0.1},
        {"state_bound": 0.9 * certificate.state_bound},
        {"state_bound": 1.1 * certificate.state_bound},
        {"scale": -certificate.scale},
        {"scale": certificate.scale * np.geomspace(1, 1e3, system.nx)},
        {"scale": np.nan * certificate.scale},
        {"rate": 1.5},
    ):
        with pytest.raises(CertificationError):
            replace(certificate, **change).verify(system)
    with pytest.raises(CertificationError, match="weights differ"):
        certificate.verify(replace(system, U=1.0001 * system.U))


def test_a_network_with_two_steady_states_is_refused():
    """h = z h + (1 - z) tanh(5 h): both ends attract, so runs stay apart."""
    system = GatedSystem(
        W=np.zeros((3, 1)), U=np.array([[0.0], [0.0], [5.0]]), b=np.array([9.0, 0.0, 0.0]), C=np.ones((1, 1)),
        by=np.zeros(1), cell="gru", dt=1.0,
    )  # fmt: skip
    with pytest.raises(CertificationError, match="rate of"):
        certify_delta_iss(system, input_range=(np.zeros(1), np.zeros(1)))
    saturated = replace(network(0, "lstm"), b=np.full(16, 100.0))
    with pytest.raises(CertificationError, match="forget gate"):
        certify_delta_iss(saturated, input_range=RANGE)


def test_bad_arguments_are_refused():
    system = network(0, "gru")
    with pytest.raises(SettingError, match="lower <= upper"):
        certify_delta_iss(system, input_range=RANGE[::-1])
    with pytest.raises(ShapeError):
        certify_delta_iss(system, input_range=(np.zeros(3), np.ones(3)))
    with pytest.raises(SettingError, match="GatedSystem"):
        certify_delta_iss("network", input_range=RANGE)


def remembering(share):
    """An LSTM whose cells keep all but a share of their content."""
    n, rows = 2, 8
    b = np.concatenate([np.zeros(n), np.full(n, -np.log(share)), np.zeros(2 * n)])
    rng = np.random.default_rng(0)
    W = np.concatenate([np.zeros((2 * n, 1)), rng.standard_normal((2 * n, 1))])
    return GatedSystem(W=W, U=np.zeros((rows, n)), b=b, C=np.ones((1, n)), by=np.zeros(1), cell="lstm", dt=1.0)


@pytest.mark.parametrize("share", [1e-3, 1e-7, 1e-9, 2e-10, 2e-11])
@pytest.mark.parametrize("ulps", [-4, 0, 4])
def test_cells_that_forget_hardly_anything_are_certified_for_every_machine(share, ulps, monkeypatch):
    system = remembering(share)
    certificate = certify_delta_iss(system, input_range=(-np.ones(1), np.ones(1)))
    assert 1 - 1.001 * share < certificate.rate < 1 - 0.8 * share
    exact = gated.sigmoid
    monkeypatch.setattr(gated, "sigmoid", lambda v: exact(v) * (1 + ulps * np.finfo(float).eps))
    assert certificate.verify(system) > 0


def test_cells_that_rounding_decides_about_are_refused_in_words():
    for share in (1e-12, 1e-14, 1e-17):
        with pytest.raises(CertificationError, match="narrow input_range"):
            certify_delta_iss(remembering(share), input_range=(-np.ones(1), np.ones(1)))
