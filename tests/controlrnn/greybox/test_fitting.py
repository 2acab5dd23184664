# ruff: noqa: ARG005 (equations take the same arguments)
"""Grey boxes find the parameters that made the records, say how well they are known, and what physics leaves over."""

import copy
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest

from controlrnn.certification import certify_contraction
from controlrnn.data import Signal, Trajectory
from controlrnn.errors import DataError, FileFormatError, SettingError, ShapeError
from controlrnn.export import save_system
from controlrnn.greybox import Equations, FitOptions, GreyBoxFit, Parameter, fit_equations, trace
from controlrnn.greybox.fitting import FitProblem
from controlrnn.greybox.residual import Residual

TRUE = {"k": 0.06, "b": 0.11}


def tank(extra=0.0, **start):
    """A tank that drains through a hole; ``extra``: a leak that the equations do not know."""

    def rate(x, u, p, ops):
        return p["b"] * u - p["k"] * ops.sqrt(ops.within(x, 1.0, 60.0)) - extra * x * x

    values = {"k": 0.05, "b": 0.1, **start}
    return Equations(
        dynamics=rate,
        output=lambda x, u, p, ops: 1.0 * x,
        states=[Signal("level", "cm", 1.0, 60.0)],
        inputs=[Signal("pump", "L/min", 0.0, 4.0)],
        parameters=[Parameter(name, value, 0.0, 1.0) for name, value in values.items()],
        dt=10.0,
        substeps=2,
    )


def records(equations, n=2, noise=0.0, seed=0, values=TRUE):
    system, rng = trace(equations, values).system, np.random.default_rng(seed)
    found = []
    for _ in range(n):
        u = np.repeat(rng.uniform(1.5, 3.5, (15, 1)), 20, axis=0)
        y, _ = system.simulate(u, np.array([25.0]))
        found.append(Trajectory(u, y + noise * rng.standard_normal(y.shape), 10.0))
    return found


def test_exact_records_give_the_true_parameters_back():
    fit = fit_equations(tank(k=0.2, b=0.3), records(tank()), FitOptions(iterations=60))
    for name, value in TRUE.items():
        assert np.isclose(fit.values[name], value, rtol=1e-5)
    assert np.allclose(fit.initial_states, 25.0, rtol=1e-4)
    assert fit.residual_share.max() == 0
    assert certify_contraction(fit.system).rate < 1


def test_intervals_cover_the_truth_as_often_as_they_say():
    inside = dict.fromkeys(TRUE, 0)
    for seed in range(30):
        fit = fit_equations(tank(), records(tank(), 1, noise=0.3, seed=seed), FitOptions(iterations=30))
        for name, value in TRUE.items():
            inside[name] += abs(fit.values[name] - value) <= 2 * fit.deviations[name]
    for name, times in inside.items():
        assert times >= 22, (name, times)  # 95 % are expected; 22 of 30 has a probability of 2e-5 below it


def test_fixed_parameters_stay_and_priors_pull():
    data = records(tank(), 1, noise=0.3)
    believed = Parameter("k", 0.08, 0.0, 1.0, fixed=True)
    eq = tank()
    fixed = Equations(**{**_fields(eq), "parameters": [believed, eq.parameters[1]]})
    fit = fit_equations(fixed, data, FitOptions(iterations=30))
    assert fit.values["k"] == 0.08
    assert fit.deviations["k"] == 0
    strong = Equations(
        **{**_fields(eq), "parameters": [Parameter("k", 0.08, 0.0, 1.0, deviation=1e-6), eq.parameters[1]]}
    )
    assert np.isclose(fit_equations(strong, data, FitOptions(iterations=30)).values["k"], 0.08, atol=1e-4)


def _fields(equations):
    return {name: getattr(equations, name) for name in equations.__dataclass_fields__}


def test_a_residual_explains_what_the_equations_do_not_know_and_stays_small():
    data = records(tank(extra=1e-4), noise=0.02)
    alone = fit_equations(tank(), data, FitOptions(iterations=40))
    both = fit_equations(tank(), data, FitOptions(residual=3, penalty=1e-3, iterations=80))
    assert both.costs[0] < 0.7 * alone.costs[0]
    assert 0 < both.residual_share.max() < 0.5
    stiff = fit_equations(tank(), data, FitOptions(residual=3, penalty=1e9, iterations=40))
    assert stiff.residual_share.max() < 1e-6


def test_gradients_are_those_of_the_cost():
    problem = FitProblem(tank(), records(tank(), noise=0.1), FitOptions(residual=2, penalty=0.1, skip=5))
    rng = np.random.default_rng(0)
    x = problem.start(rng, 0.1)
    x = x + 0.1 * rng.standard_normal(x.shape)
    value, gradient, hessian = problem.gauss_newton(x)
    assert np.isclose(value, problem.value(x), rtol=1e-12)
    for i in range(len(x)):
        h = 1e-6 * (1 + abs(x[i]))
        e = h * np.eye(1, len(x), i)[0]
        rise = (problem.value(x + e) - problem.value(x - e)) / (2 * h)
        assert np.isclose(gradient[i], rise, rtol=1e-4, atol=1e-4 * np.abs(gradient).max()), i
    assert np.linalg.eigvalsh(hessian)[0] > -1e-9 * np.abs(hessian).max()


def test_further_starts_never_do_worse():
    data = records(tank(), 1, noise=0.3)
    many = fit_equations(tank(k=0.3), data, FitOptions(starts=3, iterations=30, seed=1))
    assert len(many.costs) == 3
    one = fit_equations(tank(k=0.3), data, FitOptions(iterations=30, seed=1))
    assert many.costs.min() <= one.costs[0] * (1 + 1e-12)


def test_residual_neurons_that_say_nothing_change_nothing():
    traced, residual = trace(tank()), Residual(tank(), 4)
    system = residual.added(traced, residual.start(np.random.default_rng(0))).system
    x, u = np.array([20.0]), np.array([2.0])
    assert np.allclose(system.step(x, u), traced.system.step(x, u), rtol=1e-15)


def test_records_that_do_not_fit_are_refused():
    data = records(tank(), 1)[0]
    with pytest.raises(DataError, match="at least one record"):
        fit_equations(tank(), [])
    with pytest.raises(ShapeError, match="inputs"):
        fit_equations(tank(), [Trajectory(np.hstack([data.u, data.u]), data.y, 10.0)])
    with pytest.raises(SettingError, match="dt"):
        fit_equations(tank(), [Trajectory(data.u, data.y, 5.0)])
    with pytest.raises(DataError, match="longer than skip"):
        fit_equations(tank(), [data], FitOptions(skip=len(data)))
    with pytest.raises(SettingError, match="deviation"):
        fit_equations(tank(), [data], FitOptions(deviation=[-1.0]))


def test_a_fit_is_read_as_it_was_saved(tmp_path):
    made = fit_equations(tank(), records(tank(extra=1e-4), noise=0.1), FitOptions(iterations=15, residual=2))
    made.save(tmp_path / "tank.npz")
    read = GreyBoxFit.load(tmp_path / "tank.npz")
    assert read.digest == made.digest
    assert (read.values, read.deviations, read.condition) == (made.values, made.deviations, made.condition)
    assert (read.system.digest, read.physics.digest) == (made.system.digest, made.physics.digest)
    for name in ("correlation", "residual_share", "initial_states", "costs"):
        np.testing.assert_array_equal(getattr(read, name), getattr(made, name))
    assert str(read) == str(made)
    certify_contraction(read.system).verify(made.system)
    assert replace(read, values={"k": 1.0, "b": 2.0}).digest != made.digest


def test_records_that_name_parameters_twice_or_in_part_are_refused():
    made = fit_equations(tank(), records(tank(), 1), FitOptions(iterations=2))
    with pytest.raises(SettingError, match="deviations must name"):
        replace(made, deviations={"k": 0.1})
    arrays, meta = made.record()
    with pytest.raises(FileFormatError, match="names of their own"):
        GreyBoxFit.from_record(arrays, meta | {"names": ["k", "k"]})
    with pytest.raises(FileFormatError):
        GreyBoxFit.SCHEMA.check(arrays, meta | {"names": ["k"]})


def save_and_load(fit, path):
    fit.save(path)
    return GreyBoxFit.load(path)


FORGED = {
    "a system of other sizes": {"system": lambda made: replace(made.system, dt=2 * made.system.dt)},
    "physics of another sample time": {"physics": lambda made: replace(made.physics, dt=2 * made.physics.dt)},
    "a share of another state": {"residual_share": lambda made: np.append(made.residual_share, 0.5)},
    "initial states of more states": {"initial_states": lambda made: np.hstack([made.initial_states] * 2)},
    "correlations that are no square": {"correlation": lambda made: made.correlation[:1]},
    "correlations of more parameters": {"correlation": lambda _: np.eye(3)},
    "negative deviations": {"deviations": lambda made: dict.fromkeys(made.deviations, -1.0)},
    "values that are no numbers": {"values": lambda made: dict.fromkeys(made.values, np.nan)},
    "a negative condition": {"condition": lambda _: -1.0},
}


@pytest.mark.parametrize("name", FORGED)
def test_fits_whose_parts_contradict_each_other_are_neither_made_nor_read(name, tmp_path):
    """With a fresh checksum, as who forges a file would write it."""
    made = fit_equations(tank(), records(tank(), 1), FitOptions(iterations=2))
    assert (len(made.correlation), len(made.values)) == (2, 2)
    forged = copy.copy(made)
    for field, change in FORGED[name].items():
        object.__setattr__(forged, field, change(made))
    with pytest.raises((DataError, FileFormatError)):
        save_and_load(forged, tmp_path / "forged.npz")  # saving refuses what the schema sees


def test_other_kinds_and_files_with_other_bits_are_refused(tmp_path):
    made = fit_equations(tank(), records(tank(), 1), FitOptions(iterations=2))
    save_system(made.system, tmp_path / "system.npz")
    with pytest.raises(FileFormatError):
        GreyBoxFit.load(tmp_path / "system.npz")
    made.save(tmp_path / "fit.npz")
    raw, rng = (tmp_path / "fit.npz").read_bytes(), np.random.default_rng(0)
    for place in rng.integers(0, len(raw), 60):
        bent = bytes([raw[place] ^ (1 << rng.integers(8))])
        (tmp_path / "bent.npz").write_bytes(raw[:place] + bent + raw[place + 1 :])
        with suppress(FileFormatError):  # some bits of an archive mean nothing
            assert GreyBoxFit.load(tmp_path / "bent.npz").digest == made.digest
