"""The hyperbolic tangent of compiled loops: within what execution errors trust, however it is compiled."""

import ctypes
import subprocess
from importlib import resources

import numpy as np
import pytest

from mpc.loops.compiled.library import FLAGS, NATIVE, compiler

pytestmark = pytest.mark.skipif(compiler() is None, reason="no C compiler (cc, gcc or clang) on the path")
BUILDS = {
    "as loops are": (*FLAGS, *NATIVE[1]),
    "portable": FLAGS,
    "plain": ("-std=c99", "-O0", "-shared", "-fPIC"),
    "unfused": ("-std=c99", "-O2", "-ffp-contract=off", "-shared", "-fPIC"),
}
TRUSTED = 3.0


@pytest.fixture(scope="module", params=BUILDS)
def quick(request, tmp_path_factory):
    source = (resources.files("mpc.c_code") / "templates" / "loop.c").read_text()
    start, stop = source.index("typedef double Lanes"), source.index("#define tanh quick_tanh")
    head = "#include <math.h>\n#include <stdint.h>\n#include <string.h>\n"
    every = "void all(int n, const double *v, double *w) { for (int i = 0; i < n; ++i) w[i] = quick_tanh(v[i]); }\n"
    folder = tmp_path_factory.mktemp("tanh")
    (folder / "t.c").write_text(head + source[start:stop] + every)
    built = subprocess.run([compiler(), *BUILDS[request.param], "t.c", "-o", "t.so", "-lm"], cwd=folder, check=False)
    if built.returncode:
        pytest.skip("the compiler does not know these flags")
    code, double = ctypes.CDLL(str(folder / "t.so")), np.ctypeslib.ndpointer(float, flags="C")
    code.all.argtypes = [ctypes.c_int, double, double]

    def values(v):
        w = np.empty_like(v)
        code.all(len(v), v, w)
        return w

    return values


def points(rng, n=100_000):
    """Everywhere, around the points at which 2|v| / ln 2 is rounded to another whole number, at 20, and subnormal."""
    turns = 0.5 * np.log(2) * 0.5 * rng.integers(0, 120, n)
    yield rng.uniform(0, 25, n)
    yield np.exp(rng.uniform(-745, 3, n))
    yield turns * (1 + (rng.random(n) - 0.5) * 2.0 ** -rng.integers(0, 52, n))
    yield rng.uniform(0.1, 0.4, n)  # where the error is largest
    yield 20 * (1 + 1e-15 * rng.integers(-99, 99, 1000))
    yield 5e-324 * rng.integers(0, 2**62, 1000) * 2.0 ** -rng.integers(0, 60, 1000)


def test_error_is_within_three_ulp(quick):
    if np.finfo(np.longdouble).nmant < 60:
        pytest.skip("needs long doubles")
    rng, worst = np.random.default_rng(0), 0.0
    for v in points(rng):
        v *= rng.choice([-1.0, 1.0], len(v))
        exact, found = np.tanh(v.astype(np.longdouble)), quick(v)
        unit = np.spacing(np.abs(exact).astype(float)).astype(np.longdouble)
        worst = max(worst, float((np.abs(found - exact) / unit).max()))
        assert (np.abs(found) <= 1.0).all()
    assert 1.0 < worst <= TRUSTED


def test_special_values(quick):
    v = np.array([0.0, -0.0, np.inf, -np.inf, np.nan, 1e300, -1e300, 5e-324, -5e-324, 1e-308])
    np.testing.assert_array_equal(quick(v), np.tanh(v))
    np.testing.assert_array_equal(np.signbit(quick(v[:4])), np.signbit(v[:4]))
