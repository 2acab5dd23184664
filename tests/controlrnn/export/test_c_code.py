"""C code: compiled, it gives the numbers of the system it was written from."""

import ctypes
import shutil
import subprocess

import numpy as np
import pytest
import torch
from export_cases import SYSTEMS
from random_systems import random_system

from controlrnn.errors import SettingError
from controlrnn.export import to_c
from controlrnn.models import LTI

COMPILER = shutil.which("gcc") or shutil.which("cc")
STRICT = ("-std=c99", "-pedantic", "-Wall", "-Wextra", "-Werror", "-O1")
compiled = pytest.mark.skipif(COMPILER is None, reason="no C compiler (gcc or cc) on the path")


def build(source, target, *flags):
    done = subprocess.run(
        [COMPILER, *STRICT, *flags, str(source), "-o", str(target), "-lm"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return target


def run(library, function, out, *arrays):
    """Call a function of the library; ``out`` is a shape, or an array to write into."""
    out = np.full(out, np.nan) if np.isscalar(out) else out
    pointers = [a.ctypes.data_as(ctypes.POINTER(ctypes.c_double)) for a in (*arrays, out)]
    getattr(library, function)(*pointers)
    return out


@compiled
@pytest.mark.parametrize("system", SYSTEMS.values(), ids=list(SYSTEMS))
def test_compiled_code_simulates_the_system(system, tmp_path):
    source, header = to_c(system, tmp_path / "new folder" / "plant.c")
    assert header.name == "plant.h"
    library = ctypes.CDLL(str(build(source, tmp_path / "plant.so", "-shared", "-fPIC")))
    rng = np.random.default_rng(0)
    u, x = 2 * rng.normal(size=(50, system.nu)), rng.normal(size=system.nx)
    y_expected, x_expected = system.simulate(u, x)
    x = x.copy()
    for t in range(50):
        y = run(library, "plant_output", system.ny, x, u[t])
        apart = run(library, "plant_step", system.nx, x, u[t])
        run(library, "plant_step", x, x, u[t])  # in place
        np.testing.assert_array_equal(x, apart)
        np.testing.assert_allclose(y, y_expected[t], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(x, x_expected[t + 1], rtol=1e-12, atol=1e-12)


@compiled
@pytest.mark.parametrize("name", ["layers (2, 3, 1)", "lstm"])
def test_self_test_passes_and_notices_a_changed_weight(name, tmp_path):
    source, _ = to_c(SYSTEMS[name], tmp_path / "model.c", name="Tank2")
    done = subprocess.run([build(source, tmp_path / "good", "-DTANK2_SELF_TEST")], capture_output=True, check=False)
    assert done.returncode == 0, done.stdout
    text = source.read_text()
    weight = repr(float(SYSTEMS[name].by[0]))
    assert weight in text
    source.write_text(text.replace(weight, "1e-3 + " + weight, 1))
    done = subprocess.run([build(source, tmp_path / "bad", "-DTANK2_SELF_TEST")], capture_output=True, check=False)
    assert done.returncode == 1


@compiled
def test_two_models_link_together(tmp_path):
    to_c(SYSTEMS["gru"], tmp_path / "one.c")
    to_c(SYSTEMS["elman"], tmp_path / "two.c")
    main = tmp_path / "main.c"
    main.write_text(
        '#include "one.h"\n#include "one.h"\n#include "two.h"\n'
        "int main(void) { double x[ONE_NX] = {0}, u[ONE_NU] = {0}, y[TWO_NY], z[TWO_NX] = {0};\n"
        "one_step(x, u, x); two_output(z, u, y); return ONE_DT > 0 && sizeof ONE_DIGEST == 65 ? 0 : 1; }\n"
    )
    program = build(main, tmp_path / "both", str(tmp_path / "one.c"), str(tmp_path / "two.c"))
    assert subprocess.run([program], check=False).returncode == 0


def test_weights_come_back_bit_for_bit(tmp_path):
    system = random_system(0)
    text = to_c(system, tmp_path / "m.c")[0].read_text()
    body = text.split("Mx[")[1].split("{")[1].split("}")[0]
    found = np.array([float(v) for v in body.split(",")]).reshape(system.nx, -1)
    assert found.tobytes() == np.ascontiguousarray(np.hstack([system.A, system.B2, system.B1])).tobytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("m.cpp",), "end in .c"),
        (("my model.c",), "identifier"),
        (("2.c",), "identifier"),
        (("m.c", "a-b"), "identifier"),
    ],
)
def test_bad_names_are_refused_and_nothing_is_written(arguments, message, tmp_path):
    with pytest.raises(SettingError, match=message):
        to_c(random_system(0), tmp_path / arguments[0], name=arguments[1] if arguments[1:] else None)
    assert not list(tmp_path.iterdir())


def test_systems_of_tensors_are_refused(tmp_path):
    with torch.no_grad(), pytest.raises(SettingError, match="frozen"):
        to_c(LTI(nu=1, ny=1, nx=2).system(), tmp_path / "m.c")
