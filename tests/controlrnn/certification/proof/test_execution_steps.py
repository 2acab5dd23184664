"""Each part of the bounds on rounding, against its formula in rational numbers or written out for a small system."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
from exact_numbers import exact
from random_systems import random_system

from controlrnn.certification.proof import execution
from controlrnn.certification.proof.arithmetic.enclosure import Enclosure
from controlrnn.certification.proof.execution import FORMATS, Execution, Format, output_gain, plus
from controlrnn.certification.proof.intervals import box_of, next_state, norm_up
from controlrnn.certification.proof.slopes import slopes_on
from controlrnn.errors import CertificationError
from controlrnn.systems import LureSystem

COARSE = Format(2.0**-14, 2.0**-126, 2.0**125, True)  # rounding that is seen beside everything else
NAMES = ("tanh", "sigmoid", "relu", "leaky_relu")


def covers(bound, needed, room=1e-12, more=0.0):
    """Whether a bound is no less than what is needed, both rational, and hardly more."""
    assert np.shape(bound) == np.shape(needed)
    for one, least in zip(np.ravel(bound), np.ravel(needed), strict=True):
        least = Fraction(least)
        assert least <= Fraction(float(one)) <= least * (1 + Fraction(room)) + Fraction(more)


def near(found, wanted, room=1e-9):
    """Whether numbers are the same but for rounding, upwards of them."""
    found, wanted = np.asarray(found), np.asarray(wanted)
    assert found.shape == wanted.shape
    assert (found >= wanted * (1 - 1e-13)).all()
    assert (found <= wanted * (1 + room)).all()


def a_box(rng, n, size=1.0):
    mid = size * rng.uniform(-1, 1, n)
    return box_of((mid - size * rng.random(n), mid + size * rng.random(n)))


def linear(a=0.5, b=1.0, *, bias=0.0):
    """x+ = a x + b u + bias, y = x."""
    return LureSystem(
        A=np.array([[a]]), B1=np.zeros((1, 0)), B2=np.array([[b]]), bx=np.array([bias]), C1=np.zeros((0, 1)),
        D11=np.zeros((0, 0)), D12=np.zeros((0, 1)), bv=np.zeros(0), C2=np.eye(1), D21=np.zeros((1, 0)),
        D22=np.zeros((1, 1)), by=np.zeros(1), layers=(), dt=1.0,
    )  # fmt: skip


def test_sums():
    rng = np.random.default_rng(0)
    terms = [10.0 ** rng.uniform(-20, 20, (2, 3)) for _ in range(4)]
    covers(plus(*terms), sum(exact(one) for one in terms))
    assert (
        plus(np.float32([0.1]), np.float32([0.2])) >= np.float64(np.float32(0.1)) + np.float64(np.float32(0.2))
    ).all()
    assert plus(np.zeros(2), np.zeros(2)).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_sums_that_are_too_long_and_functions_that_are_too_inaccurate(kind):
    most = int(1e-3 / FORMATS[kind].unit)
    third = most // 3
    Execution(SimpleNamespace(nx=third, nu=third, nv=most - 2 * third - 1, activation="tanh"), FORMATS[kind], 1.0)
    small = SimpleNamespace(nx=1, nu=1, nv=1, activation="tanh")
    Execution(small, FORMATS[kind], float(most))
    with pytest.raises(CertificationError, match="precision"):
        Execution(SimpleNamespace(nx=third, nu=third, nv=most - 2 * third, activation="tanh"), FORMATS[kind], 1.0)
    for ulps in (most + 1.0, np.nan):
        with pytest.raises(CertificationError, match="precision"):
            Execution(small, FORMATS[kind], ulps)


def test_formats():
    for kind, numpy_kind in (("float32", np.float32), ("float64", np.float64)):
        info, has = np.finfo(numpy_kind), FORMATS[kind]
        assert has.unit == info.eps / 2
        assert has.tiny >= float(info.tiny)
        assert has.largest * 4 <= float(info.max)
        assert has.rounds_data is (kind == "float32")


def test_what_is_stored():
    size = np.array([[0.0, 1e-30, 3.7], [2.0**-140, 1.0, 1e5]])
    run = Execution(linear(), FORMATS["float64"], 4.0)
    assert run.stored(size).tolist() == np.zeros((2, 3)).tolist()
    run = Execution(linear(), FORMATS["float32"], 4.0)
    covers(run.stored(size), exact(size) * Fraction(1, 2**24) + Fraction(1, 2**126))


def sum_error(run, matrix, bias, size, error):
    """The formula of `Execution._sum_error`, in rational numbers."""
    M, b = exact(np.abs(matrix)), exact(np.abs(bias))
    s, e = exact(size), exact(error)
    unit, tiny = Fraction(run.format.unit), Fraction(run.format.tiny)
    system = run.system
    length = system.nx + system.nu + system.nv + 1
    found = []
    for row, own in zip(M, b, strict=True):
        total = sum(row * s, own)
        terms = sum(one != 0 for one in row) + (own != 0)
        touched = sum(row) + sum(s) + 3 * length
        found.append(Fraction(105, 100) * (terms + 1) * unit * total + 4 * tiny * touched + sum(row * e))
    return np.array(found)


@pytest.mark.parametrize("kind", ["float32", "float64"])
def test_errors_of_sums(kind):
    rng = np.random.default_rng(0)
    system = random_system(0, nx=2, layers=(2,))
    run = Execution(system, FORMATS[kind], 4.0)
    for scale in (1.0, 1e6, 1e-6, 1e-35, 1e-39, 0.0):
        for error_scale in (0.0, 1e-7, 1.0):
            matrix = rng.standard_normal((3, 6)) * 10.0 ** rng.uniform(-3, 3, (3, 6))
            matrix[0] = 0.0
            matrix[1, ::2] = 0.0
            bias = scale * np.array([1.0, 0.0, 10.0 ** rng.uniform(-3, 3)])
            size = scale * 10.0 ** rng.uniform(-3, 3, 6)
            error = error_scale * size * rng.random(6)
            found = run._sum_error(matrix, bias, size, error)
            covers(found, sum_error(run, matrix, bias, size, error), more=1e3 * 2.0**-1019)
    # Numbers so large that flushing an operand of the other side counts.
    matrix, size = np.diag([1e37, 1e30, 1.0, 0, 0, 0])[:3], np.array([1e-38, 0, 1e30, 0, 0, 0])
    found = run._sum_error(matrix, np.array([0, 1e30, 0]), 1e-3 * size, np.zeros(6))
    covers(found, sum_error(run, matrix, np.array([0, 1e30, 0]), 1e-3 * size, np.zeros(6)), more=1e3 * 2.0**-1019)


def test_sums_that_overflow():
    run = Execution(random_system(0, nx=2, layers=(2,)), FORMATS["float32"], 4.0)
    largest, one = 2.0**125, np.ones((1, 1))
    cases = [(one, 0.0, 1.0), (one / 2, 0.0, 1.9), (one * 0, 1.0, 0.0), (one, 0.0, 0.0), (one / 2, 0.4, 1.0)]
    for matrix, bias, size in cases:
        for scale, refused in ((1 - 1e-9, False), (2 + 1e-6, True)):
            times = largest * scale
            where = times, np.array([bias * times]), np.array([size]), np.zeros(1)
            matrices = where[0] * matrix, *where[1:]
            if refused:
                with pytest.raises(CertificationError, match="overflow"):
                    run._sum_error(*matrices)
            else:
                run._sum_error(*matrices)
    with pytest.raises(CertificationError, match="overflow"):
        run._sum_error(one, np.zeros(1), np.array([np.nan]), np.zeros(1))


@pytest.mark.parametrize("kind", ["float32", "float64"])
@pytest.mark.parametrize("activation", NAMES)
def test_errors_of_activations(activation, kind):
    rng = np.random.default_rng(0)
    for ulps in (0.5, 4.0, 1e3):
        run = Execution(random_system(0, activation=activation), FORMATS[kind], ulps)
        unit, tiny = Fraction(FORMATS[kind].unit), Fraction(FORMATS[kind].tiny)
        for size in (1e-38, 1e-3, 1.0, 30.0):
            for shift in (0.0, -2.0, 2.0):
                mid, rad = size * (rng.uniform(-1, 1, 4) + shift), size * rng.random(4)
                error = np.array([0.0, 1e-9, 1e-3, 1.0]) * size
                found = run._activation_error(activation, Enclosure(mid, rad), error)
                farthest = exact(np.abs(mid)) + exact(rad) + exact(error)
                ends = mid - rad - error, mid + rad + error
                steepest = exact(np.nextafter(slopes_on(activation, ends)[1] * (1 - 1e-14), 0.0))
                own = 0 * unit * farthest
                if activation in ("tanh", "sigmoid"):
                    own = Fraction(203, 100) * Fraction(ulps) * unit * np.minimum(farthest, Fraction(1))
                if activation == "sigmoid":
                    own = own / 2 + Fraction(105, 100) * unit
                if activation == "leaky_relu":
                    own = Fraction(41, 10) * unit * farthest
                covers(found, steepest * exact(error) + own + 4 * tiny, 1e-8, 1e3 * 2.0**-1019)


@pytest.mark.parametrize("form", ["float32", "float64"])
@pytest.mark.parametrize("activation", ["tanh", "relu"])
def test_errors_of_a_step(activation, form):
    """Layer by layer, as the computed step goes: what errs is data, sums, functions, and what reads them."""
    rng = np.random.default_rng(1)
    system = random_system(2, nx=3, layers=(2, 1, 2), activation=activation)
    run = Execution(system, FORMATS[form], 4.0)
    x, u = a_box(rng, 3), a_box(rng, 2, 3.0)
    s = system
    limits = [np.abs(b.mid) + b.rad for b in (x, u)]
    data = run.stored(limits[1])
    # One neuron after the other, with the interval of each by the ends of its inputs.
    v_mid, v_rad = s.C1 @ x.mid + s.D12 @ u.mid + s.bv, np.abs(s.C1) @ x.rad + np.abs(s.D12) @ u.rad
    low, high, error = np.zeros(s.nv), np.zeros(s.nv), np.zeros(s.nv)
    layer = np.repeat([0, 1, 2], [2, 1, 2])
    value = np.tanh if activation == "tanh" else lambda v: np.maximum(v, 0.0)
    for i in range(s.nv):
        seen = [j for j in range(s.nv) if layer[j] < layer[i]]
        mid, rad = v_mid[i], v_rad[i]
        for j in seen:
            mid += s.D11[i, j] * (low[j] + high[j]) / 2
            rad += abs(s.D11[i, j]) * (high[j] - low[j]) / 2
        low[i], high[i] = value(mid - rad), value(mid + rad)
        row = np.concatenate([s.C1[i], s.D12[i], s.D11[i, seen]])[None]
        largest = np.maximum(np.abs(low), np.abs(high)) + error
        size = np.concatenate([limits[0], limits[1] + data, largest[seen]])
        before = run._sum_error(row, s.bv[[i]], size, np.concatenate([np.zeros(3), data, error[seen]]))
        error[i] = run._activation_error(activation, Enclosure(np.array([mid]), np.array([rad])), before)[0]
    size = np.concatenate([limits[0], limits[1] + data, np.maximum(np.abs(low), np.abs(high)) + error])
    errors = np.concatenate([np.zeros(3), data, error])
    state, output = run.step_error(x, u)
    near(state, run._sum_error(np.hstack([s.A, s.B2, s.B1]), s.bx, size, errors))
    near(output, run._sum_error(np.hstack([s.C2, s.D22, s.D21]), s.by, size, errors))


def test_hulls():
    a, b = Enclosure(np.array([0.0, 5.0]), np.array([1.0, 0.5])), Enclosure(np.array([2.0, 4.0]), np.array([0.5, 3.0]))
    for both in (execution._hull(a, b), execution._hull(b, a)):
        assert (both.lower() <= [-1.0, 1.0]).all()
        assert (both.upper() >= [2.5, 7.0]).all()
        assert np.allclose([both.lower(), both.upper()], [[-1.0, 1.0], [2.5, 7.0]], rtol=1e-14)
    for mid, rad in ((np.inf, 0.0), (0.0, np.inf), (-np.inf, 0.0), (np.nan, 0.0)):
        with pytest.raises(CertificationError, match="grows"):
            execution._hull(Enclosure(np.array([mid]), np.array([rad])), a[:1])


def test_boxes_are_carried_on_with_the_rounding_of_each_step():
    system = random_system(3, nx=2, layers=(2,))
    run = Execution(system, COARSE, 4.0)
    rng = np.random.default_rng(0)
    start, inputs = a_box(rng, 2), a_box(rng, 2)
    here, low, high = start, start.lower(), start.upper()
    for steps in range(4):
        found = run.carried(start, inputs, steps)
        assert (found.lower() <= low + 1e-300).all()
        assert (found.upper() >= high - 1e-300).all()
        assert np.allclose([found.lower(), found.upper()], [low, high], rtol=0, atol=1e-12)
        exactly = next_state(system, here, inputs)
        here = Enclosure(exactly.mid, exactly.rad + run.step_error(here, inputs)[0])
        low, high = np.minimum(low, here.lower()), np.maximum(high, here.upper())


def worst_norm(error, metric):
    return np.sqrt(error @ np.abs(metric) @ error)


def test_worst_norms():
    metric, error = np.array([[2.0, -0.5], [-0.5, 1.0]]), np.array([0.3, 0.7])
    near(Execution._norm(error, metric), worst_norm(error, metric))


@pytest.mark.parametrize("at", [0.0, 3.0])
@pytest.mark.parametrize("width", [0.0, 0.5])
def test_the_ball_that_is_never_left(at, width, monkeypatch):
    """The ball's radius is the first candidate that the inequality of the theorem holds for, each part written out."""
    monkeypatch.setattr(execution, "_SHRINKINGS", 0)
    system = random_system(3, nx=2, layers=(2,), coupling=0.1)
    run = Execution(system, COARSE, 4.0)
    rate, metric = 0.8, np.array([[2.0, -0.5], [-0.5, 1.0]])
    inputs = box_of((np.array([0.5, -1.0]) - width, np.array([0.5, -1.0]) + width))
    start = box_of((at - np.array([0.5, 0.0]), at + np.array([0.25, 1.0])))
    for gain in (np.array([0.3, 0.7]), np.array([30.0, 70.0])):
        ball = run.confined(start, inputs, rate, metric, gain)
        c = system.simulate(np.tile(inputs.mid, (200, 1)), start.mid)[1][-1]
        assert np.allclose(ball.mid, c, rtol=0, atol=1e-14)
        widths = np.sqrt(np.diag(np.linalg.inv(metric)))
        radius = ball.rad / widths
        assert radius[0] == pytest.approx(radius[1], rel=1e-9)
        point = Enclosure.of(ball.mid)
        by_intervals = norm_up(next_state(system, point, inputs) - point, metric)
        at_middle = norm_up(next_state(system, point, Enclosure.of(inputs.mid)) - point, metric)
        drift = min(by_intervals, at_middle + gain @ inputs.rad)
        away = norm_up(start - point, metric)
        still = worst_norm(run.step_error(point, inputs)[0], metric)
        least = max(away, drift / (1 - rate)) + still / (1 - rate)
        for room in (1.01, 1.1, 2.0, 16.0):
            tried = Enclosure(c, widths * room * least)
            pushed = rate * room * least + drift + worst_norm(run.step_error(tried, inputs)[0], metric)
            if pushed <= room * least:
                break
        assert radius[0] == pytest.approx(room * least, rel=1e-8)
        assert (radius >= room * least * (1 - 1e-13)).all()
    with pytest.raises(CertificationError, match="takes back"):
        run.confined(start, inputs, 0.99999, metric, gain)


def test_what_still_moves_the_centre_counts(monkeypatch):
    """After 200 steps at pole 0.999 the centre is not at rest: under the middle input it moves on."""
    monkeypatch.setattr(execution, "_SHRINKINGS", 0)
    run = Execution(linear(0.999), FORMATS["float64"], 4.0)
    start, inputs = box_of((np.array([100.0]), np.array([100.0]))), box_of((np.array([-1.0]), np.array([1.0])))
    ball = run.confined(start, inputs, 0.9995, np.eye(1), np.array([1.0]))
    assert ball.mid[0] == pytest.approx(100 * 0.999**200)
    moves = 0.001 * ball.mid[0] + 1
    assert 0.9995 * ball.rad[0] + moves <= ball.rad[0] * (1 + 1e-12)


@pytest.mark.parametrize(("low", "high"), [(-0.5, 0.5), (3.0, 4.0), (-4.0, -3.0)])
def test_the_box_that_is_never_left_is_that_of_the_recursion(low, high):
    """R = a R + b + E(R) can be solved; the box holds it and where runs start, and is hardly larger."""
    a = 0.3
    run = Execution(linear(a), COARSE, 4.0)
    start, inputs = box_of((np.array([low]), np.array([high]))), box_of((np.array([-1.0]), np.array([1.0])))
    box = run.confined(start, inputs, a, np.array([[4.0]]), np.array([2.0]))
    more = 1.05 * 3 * COARSE.unit
    data = COARSE.unit + COARSE.tiny
    least = (1 + data) * (1 + more) / (1 - a * (1 + more))
    need = min(low, -least * (1 - 1e-13)), max(high, least * (1 - 1e-13))
    assert box.lower() <= need[0]
    assert box.upper() >= need[1]
    # From the start on the box is what the start's own image adds.
    assert box.upper() <= max(high, least) * (1 + 1e-3)
    assert box.lower() >= min(low, -least) * (1 + 1e-3)


def test_no_perturbed_run_leaves_the_box():
    """Runs that err by as much as a step may, in the worst direction, from the corners of the box they start in."""
    rng = np.random.default_rng(0)
    system = random_system(3, nx=2, layers=(3,), coupling=0.1)
    run = Execution(system, COARSE, 4.0)
    start, inputs = a_box(rng, 2), a_box(rng, 2, 0.2)
    box = run.confined(start, inputs, 0.9, np.eye(2), np.full(2, 10.0))
    corners = np.array([[-1, -1], [-1, 1], [1, -1], [1, 1]])
    for sign in (-1, 1):
        x = start.mid + start.rad * corners
        for _ in range(30):
            u = inputs.mid + inputs.rad * rng.choice([-1, 1], (4, 2))
            error = np.array([run.step_error(Enclosure.of(one), inputs)[0] for one in x])
            x = np.array([system.step(one, now) for one, now in zip(x, u, strict=True)]) + sign * error
            assert (box.lower() <= x).all()
            assert (x <= box.upper()).all()


def test_all_steps_together():
    rng = np.random.default_rng(0)
    system = random_system(3, nx=2, ny=2, layers=(2,))
    run = Execution(system, COARSE, 4.0)
    box, inputs, start = a_box(rng, 2), a_box(rng, 2), rng.random(2)
    metric, rate = np.array([[2.0, -0.5], [-0.5, 1.0]]), 0.7
    gains = rng.random((4, 2))
    state, own = run.step_error(box, inputs)
    first, each = worst_norm(start, metric), worst_norm(state, metric)

    def wanted(k):
        return own + gains[k] * first + gains[:k].sum(axis=0) * each

    for horizon in (0, 1, 3):
        rows = np.array([wanted(k) for k in range(horizon + 1)])
        near(run.accumulated(box, inputs, start, gains, metric, None, horizon), rows)
        near(run.accumulated(box, inputs, start, gains, metric, rate, horizon), rows)
    for_ever = own + gains.max(axis=0) * first + (gains.sum(axis=0) + gains[-1] * rate / (1 - rate)) * each
    near(run.accumulated(box, inputs, start, gains, metric, rate, None), for_ever[None])
    beyond = np.array([*(wanted(k) for k in range(4)), for_ever, for_ever])
    near(run.accumulated(box, inputs, start, gains, metric, rate, 5), beyond)
    near(run.accumulated(box, inputs, start, gains, metric, rate, 4), beyond[:5])
    for horizon in (None, 4):
        with pytest.raises(CertificationError, match="lags"):
            run.accumulated(box, inputs, start, gains, metric, None, horizon)


@pytest.mark.parametrize("activation", NAMES)
def test_gains_from_the_state_to_the_outputs(activation):
    system = random_system(4, nx=3, ny=3, layers=(2, 1, 2), activation=activation)
    system = replace(
        system, C2=system.C2 * np.array([[1.0], [0.0], [1.0]]), C1=system.C1 * (np.arange(5) != 1)[:, None]
    )
    metric = np.diag([1.0, 4.0, 0.25]) + 0.1
    s, slope, inverse = system, 0.25 if activation == "sigmoid" else 1.0, np.linalg.inv(metric)
    moved = np.zeros(s.nv)
    for i in range(s.nv):
        moved[i] = slope * (np.sqrt(s.C1[i] @ inverse @ s.C1[i]) + np.abs(s.D11[i]) @ moved)
    near(output_gain(system, metric), np.sqrt(np.einsum("ij,jk,ik->i", s.C2, inverse, s.C2)) + np.abs(s.D21) @ moved)
    first = np.array([[0.0], [1.0], [1.0]])
    still, *others = output_gain(replace(system, C2=first * s.C2[[1, 0, 2]], D21=first * s.D21), metric)
    assert still < 1e-300
    assert min(others) > 1e-3
