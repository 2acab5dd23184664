"""Exports: the same numbers in CasADi, the same bits in a file, nothing else accepted."""

import casadi
import numpy as np
import pytest
import torch
from random_systems import random_system

from controlrnn.errors import FileFormatError, SettingError
from controlrnn.export import load_system, save_system, to_casadi
from controlrnn.models import LTI
from controlrnn.records import read_record, write_record
from controlrnn.systems import MATRICES


@pytest.mark.parametrize("symbolic", ["SX", "MX"])
@pytest.mark.parametrize("layers", [(), (4,), (2, 3, 1)], ids=str)
@pytest.mark.parametrize("activation", ["tanh", "relu", "sigmoid", "leaky_relu"])
def test_casadi_functions_agree_and_name_their_arguments(symbolic, layers, activation):
    system = random_system(1, layers=layers, activation=activation)
    step, output = to_casadi(system, symbolic=symbolic)
    assert (step.name_in(), step.name_out()) == (["x", "u"], ["x_next"])
    assert (output.name_in(), output.name_out()) == (["x", "u"], ["y"])
    rng = np.random.default_rng(0)
    for _ in range(10):
        x, u = rng.normal(size=system.nx), rng.normal(size=system.nu)
        np.testing.assert_allclose(step(x, u).full().ravel(), system.step(x, u), rtol=1e-12, atol=1e-13)
        np.testing.assert_allclose(output(x, u).full().ravel(), system.output(x, u), rtol=1e-12, atol=1e-13)


def test_casadi_derivatives_are_those_of_the_system():
    system = random_system(2, layers=(3, 2))
    step, _ = to_casadi(system)
    x, u = casadi.SX.sym("x", 3), casadi.SX.sym("u", 2)
    jacobian = casadi.Function("j", [x, u], [casadi.jacobian(step(x, u), x)])
    point, inputs, h = np.array([0.3, -0.2, 0.1]), np.array([0.5, -1.0]), 1e-6
    differences = [
        (system.step(point + h * e, inputs) - system.step(point - h * e, inputs)) / (2 * h) for e in np.eye(3)
    ]
    np.testing.assert_allclose(jacobian(point, inputs).full(), np.array(differences).T, atol=1e-8)


@pytest.mark.parametrize("layers", [(), (4,), (2, 3, 1)], ids=str)
def test_files_restore_every_bit(tmp_path, layers):
    system = random_system(3, layers=layers, activation="relu")
    save_system(system, tmp_path / "s.npz")
    again = load_system(tmp_path / "s.npz")
    assert again.digest == system.digest
    assert (again.activation, again.layers, again.dt) == (system.activation, system.layers, system.dt)
    for name in MATRICES:
        assert getattr(again, name).tobytes() == getattr(system, name).tobytes()
        assert not getattr(again, name).flags.writeable


def test_altered_content_with_a_fresh_checksum_is_refused_or_another_system(tmp_path):
    path = tmp_path / "s.npz"
    save_system(random_system(3), path)
    _, version, arrays, meta = read_record(path)
    write_record(path, "lure-system", version, arrays | {"A": arrays["A"] * (1 + 1e-15)}, meta)
    assert load_system(path).digest != random_system(3).digest
    write_record(path, "lure-system", version, arrays | {"A": arrays["A"] * np.nan}, meta)
    with pytest.raises(FileFormatError, match="A must be finite"):
        load_system(path)
    write_record(path, "lure-system", version, {n: a for n, a in arrays.items() if n != "A"}, meta)
    with pytest.raises(FileFormatError, match="lacks 'A'"):
        load_system(path)
    write_record(path, "lure-system", version, arrays | {"A": arrays["A"][:2]}, meta)
    with pytest.raises(FileFormatError, match="shape"):
        load_system(path)
    write_record(path, "lure-system", version, arrays, meta | {"activation": "softplus"})
    with pytest.raises(FileFormatError, match="activation must be"):
        load_system(path)


def test_systems_of_tensors_are_refused(tmp_path):
    with torch.no_grad():
        system = LTI(nu=1, ny=1, nx=2).system()
    with pytest.raises(SettingError, match="freeze"):
        save_system(system, tmp_path / "s.npz")
    with pytest.raises(SettingError, match="freeze"):
        to_casadi(system)
    with pytest.raises(SettingError, match="freeze"):
        _ = system.digest
