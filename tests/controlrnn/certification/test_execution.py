"""Rounding is bounded: runs in float64 and float32, compiled C among them, against runs in 200 bits."""

from __future__ import annotations

import platform
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
import torch
from random_systems import random_elman, random_system

from controlrnn import kernels
from controlrnn.certification import (
    ContractionCertificate,
    ExecutionError,
    certify_contraction,
    certify_gains,
    execution_error,
)
from controlrnn.certification.certificates.contraction import smallest_input_gains
from controlrnn.certification.proof.incremental import IncrementalForm
from controlrnn.errors import CertificationError, FileFormatError, SettingError
from controlrnn.export import to_c
from controlrnn.systems import MATRICES, LureSystem
from controlrnn.systems.activations import LEAK

flint = pytest.importorskip("flint", reason="needs controlrnn[audit]")
COMPILER = shutil.which("gcc") or shutil.which("cc")
X86 = platform.machine() in ("x86_64", "AMD64")
BUILDS = {"O2": ["-O2"], "native": ["-O3", "-march=native", "-ffp-contract=fast"]}
if X86:
    BUILDS |= {"fused": ["-O2", "-mfma", "-ffp-contract=fast"], "flushed": ["-O2", "-DFLUSHED"]}
ACTIVATIONS = ("tanh", "relu", "sigmoid", "leaky_relu")
DRIVER = """
#include <stdio.h>
#include "m.h"
#ifdef FLUSHED
#include <xmmintrin.h>
#endif
int main(void) {
    REAL x[M_NX], u[M_NU], y[M_NY];
#ifdef FLUSHED
    _mm_setcsr(_mm_getcsr() | 0x8040); /* subnormal operands and results become zero */
#endif
    if (fread(x, sizeof *x, M_NX, stdin) != M_NX) return 1;
    while (fread(u, sizeof *u, M_NU, stdin) == M_NU) {
        m_output(x, u, y);
        fwrite(y, sizeof *y, M_NY, stdout);
        m_step(x, u, x);
    }
    return 0;
}
"""


def activated(kind, v):
    if kind == "tanh":
        return v.tanh()
    if kind == "sigmoid":
        return (1 + (v / 2).tanh()) / 2
    below = 0 if kind == "relu" else flint.arb(LEAK)
    return v if v > 0 else below * v


def errors(system, u, x0, computed):
    """|computed - exact| (T, ny), from one run in balls of 200 bits."""
    was, flint.ctx.prec = flint.ctx.prec, 200
    try:
        M = {name: flint.arb_mat(np.atleast_2d(getattr(system, name)).tolist()) for name in MATRICES if system.nv}
        M |= {name: M[name].transpose() for name in ("bx", "bv", "by")}
        blocks = [(a, b, flint.arb_mat(system.D11[a:b, :a].tolist()) if a else None) for a, b in system.blocks]
        x, found = flint.arb_mat(x0[:, None].tolist()), []
        for t in range(len(u)):
            now = flint.arb_mat(u[t][:, None].tolist())
            v = M["C1"] * x + M["D12"] * now + M["bv"]
            w: list = []
            for a, b, D in blocks:
                more = D * flint.arb_mat([[one] for one in w]) if D is not None else None
                w += [
                    activated(system.activation, v[i, 0] + (0 if more is None else more[i - a, 0])) for i in range(a, b)
                ]
            w = flint.arb_mat([[one] for one in w])
            y = M["C2"] * x + M["D21"] * w + M["D22"] * now + M["by"]
            found.append([float(abs(y[i, 0] - float(computed[t, i])).upper()) for i in range(system.ny)])
            x = M["A"] * x + M["B1"] * w + M["B2"] * now + M["bx"]
        return np.array(found)
    finally:
        flint.ctx.prec = was


class Compiled:
    """The exported C code of a system as programs, one for each way to compile it."""

    def __init__(self, system, folder, precision):
        self.kind, self.ny = np.dtype(precision), system.ny
        to_c(system, folder / "m.c", precision=precision)
        (folder / "main.c").write_text(DRIVER)
        self.programs = {}
        for name, flags in BUILDS.items():
            real = f"-DREAL={'float' if precision == 'float32' else 'double'}"
            line = [COMPILER, "-std=gnu99", real, *flags, "m.c", "main.c", "-o", name, "-lm"]
            subprocess.run(line, cwd=folder, check=True, capture_output=True)
            self.programs[name] = folder / name

    def runs(self, u, x0):
        data = x0.astype(self.kind).tobytes() + u.astype(self.kind).tobytes()
        for name, program in self.programs.items():
            done = subprocess.run([program], input=data, capture_output=True, check=True)
            yield name, np.frombuffer(done.stdout, self.kind).reshape(-1, self.ny).astype(np.float64)


def python_runs(system, u, x0, precision):
    """Runs of the library itself in a precision."""
    if precision == "float64":
        yield "eager", system.simulate(u, x0)[0]
        yield "kernel", kernels.simulate(system, u, x0)[0]
        x, y = x0, []
        for now in u:
            y.append(system.output(x, now))
            x = system.step(x, now)
        yield "steps", np.array(y)
    elif system.activation != "sigmoid":  # torch's own sigmoid is another formula
        single = replace(system, **{n: torch.tensor(getattr(system, n), dtype=torch.float32) for n in MATRICES})
        arguments = torch.tensor(u, dtype=torch.float32), torch.tensor(x0, dtype=torch.float32)
        yield "eager", single.simulate(*arguments)[0].double().numpy()
        yield "kernel", kernels.simulate(single, *arguments)[0].double().numpy()


def all_runs(system, u, x0, precision, folder):
    yield from python_runs(system, u, x0, precision)
    if COMPILER is not None:
        yield from Compiled(system, folder, precision).runs(u, x0)


def boxes(system, u=1.0, x=1.0):
    return {
        "input_range": (np.full(system.nu, -u), np.full(system.nu, u)),
        "state_range": (np.full(system.nx, -x), np.full(system.nx, x)),
    }


def closest(system, bound, precision, folder, *, steps=200, u=1.0, x=1.0, seed=0):
    """Least ratio bound / error over outputs, at the worst step of any run; every error is below its bound."""
    rng = np.random.default_rng(seed)
    inputs = u * rng.choice([-1.0, 1.0, 0.3], (steps, system.nu)) * rng.uniform(0.5, 1, (steps, system.nu))
    start, limits = x * rng.uniform(-1, 1, system.nx), bound.over(steps - 1)
    ratio = np.inf
    for name, y in all_runs(system, inputs, start, precision, folder):
        found = errors(system, inputs, start, y)
        assert (found <= limits).all(), (name, (found / limits).max())
        ratio = min(ratio, float((limits.max(axis=0) / np.maximum(found.max(axis=0), 1e-300)).min()))
    return ratio


def elman_certificate(system, norm):
    """Contraction of an Elman network with |W|_2 <= norm in the 2-norm, written down."""
    rate, eye = 0.5 + 0.5 * norm, np.eye(system.nx)
    multipliers = np.full(system.nv, 1.0 + 0.5 * (rate**2 / norm**2 - 1))
    channels = [IncrementalForm.of_input(system, c) for c in range(system.nu)]
    gains, used = smallest_input_gains(channels, eye, np.tile(multipliers, (system.nu, 1)), multipliers)
    return ContractionCertificate(
        system_digest=system.digest,
        method="by hand",
        solver_status="",
        margin=0.0,
        versions={},
        rate=rate,
        metric=eye,
        multipliers=multipliers,
        input_gain=gains,
        input_multipliers=used,
    ).issue(system)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(("nx", "layers"), [(1, (1,)), (3, (4,)), (4, (2, 3, 2))])
def test_no_run_errs_by_more(nx, layers, activation, precision, tmp_path):
    system = random_system(nx, nx=nx, layers=layers, activation=activation, coupling=0.2)
    contraction = certify_contraction(system)
    bound = execution_error(system, **boxes(system), contraction=contraction, precision=precision)
    bound.verify(system)
    ratio = closest(system, bound, precision, tmp_path)
    assert 1 <= ratio < (500 if len(layers) == 1 else 10_000)


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("n", [16, 64])
def test_wide_networks(n, precision, tmp_path):
    system = random_elman(0, nx=n, norm=0.8)
    bound = execution_error(system, **boxes(system), contraction=elman_certificate(system, 0.8), precision=precision)
    ratio = closest(system, bound, precision, tmp_path, steps=60)
    assert 1 <= ratio < 10_000


@pytest.mark.skipif(np.finfo(np.longdouble).nmant < 60, reason="needs long doubles")
@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("n", [1, 2, 3])
def test_sums_of_few_terms_come_near_their_bounds(n, precision, tmp_path):
    """20000 inputs to one short sum: roundings hardly cancel, so that a quarter of the bound would not do."""
    rng, none = np.random.default_rng(0), np.zeros
    system = LureSystem(
        A=none((1, 1)), B1=none((1, 0)), B2=none((1, n)), bx=none(1), C1=none((0, 1)), D11=none((0, 0)),
        D12=none((0, n)), bv=none(0), C2=none((1, 1)), D21=none((1, 0)), D22=rng.uniform(0.5, 1, (1, n)), by=none(1),
        layers=(), dt=1.0,
    )  # fmt: skip
    ranges = {"input_range": (np.full(n, 0.95), np.ones(n)), "state_range": (none(1), none(1))}
    bound = execution_error(system, **ranges, contraction=certify_contraction(system), precision=precision).bounds[0]
    u, runs = rng.uniform(0.95, 1, (20_000, n)), []
    exact = u.astype(np.longdouble) @ system.D22[0].astype(np.longdouble)
    if COMPILER is not None:
        runs += Compiled(system, tmp_path, precision).runs(u, none(1))
    if precision == "float64":
        runs += [("eager", system.simulate(u, none(1))[0])]
    for name, y in runs:
        ratio = float(np.abs(y[:, 0] - exact).max() / bound[0])
        assert 0.25 < ratio <= 1, name


def _shifted(system, **change):
    return replace(system, **{name: np.broadcast_to(v, getattr(system, name).shape) for name, v in change.items()})


def _kinks():
    """Pre-activations that are zero or nearly so at all inputs in {-1, 0.3, 1}."""
    system = random_system(3, nx=2, layers=(3,), activation="relu", coupling=0.2)
    return replace(system, C1=1e-9 * system.C1, bv=np.array([0.3, -0.3, 0.0]), D12=np.eye(3, 2))


SMALL = random_system(5, nx=2, layers=(3,), coupling=0.2)
HARD = {
    "large output bias": (_shifted(random_elman(0, nx=3), by=np.array([1e6, -3e5])), 1.0, 1.0),
    "large state bias": (_shifted(SMALL, bx=np.array([1e8, -1e3])), 1.0, 1.0),
    "saturated": (
        _shifted(replace(SMALL, C1=30 * SMALL.C1, B1=SMALL.B1 / 100), bv=np.array([3e3, -3e3, 9.0])), 1.0, 1.0,
    ),
    "saturated sigmoid": (
        _shifted(replace(SMALL, B1=SMALL.B1 / 100, activation="sigmoid"), bv=np.array([3e2, -3e2, 9.0])), 1.0, 1.0,
    ),
    "kinks": (_kinks(), 1.0, 1.0),
    "subnormal": (_shifted(SMALL, bx=0.0, bv=0.0, by=0.0), 1e-40, 1e-40),
    "subnormal doubles": (_shifted(SMALL, bx=0.0, bv=0.0, by=0.0), 1e-310, 1e-310),
    "cancelling": (replace(SMALL, C2=1e6 * np.array([[1.0, 1.0], [1.0, -1.0]]), by=np.array([1e-6, 0.0])), 1.0, 1.0),
    "slow": (replace(SMALL, A=np.diag([0.999, -0.998]), B1=SMALL.B1 / 1e4), 1.0, 1.0),
}  # fmt: skip


@pytest.mark.parametrize("precision", ["float64", "float32"])
@pytest.mark.parametrize("name", HARD)
def test_hard_cases(name, precision, tmp_path):
    system, u, x = HARD[name]
    bound = execution_error(system, **boxes(system, u, x), contraction=certify_contraction(system), precision=precision)
    ratio = closest(system, bound, precision, tmp_path, u=u, x=x, steps=400)
    assert ratio >= 1


@pytest.mark.parametrize("precision", ["float64", "float32"])
def test_gains_alone_gains_for_ever_and_contraction_alone_all_hold(precision, tmp_path):
    system = random_system(2, nx=3, layers=(4,), coupling=0.2)
    contraction = certify_contraction(system)
    gains = certify_gains(system, 20, metric=contraction.metric)
    made = {
        "alone": {"gains": gains, "horizon": 20},
        "longer": {"gains": gains, "contraction": contraction, "horizon": 40},
        "for ever": {"gains": gains, "contraction": contraction},
        "contraction": {"contraction": contraction, "horizon": 40},
    }
    bounds = {}
    for name, arguments in made.items():
        bound = execution_error(system, **boxes(system), precision=precision, **arguments)
        bound.verify(system)
        folder = tmp_path / name
        folder.mkdir()
        assert closest(system, bound, precision, folder, steps=21) >= 1
        bounds[name] = bound
    assert bounds["longer"].bounds.shape == (41, 2)
    assert bounds["for ever"].bounds.shape == (1, 2)
    assert (bounds["longer"].bounds[:21] <= bounds["for ever"].bounds * (1 + 1e-12)).all()
    assert (np.diff(bounds["alone"].bounds[1:], axis=0) >= -1e-3 * bounds["alone"].bounds[1:-1]).all()
    with pytest.raises(SettingError, match="20"):
        bounds["alone"].over(21)


def test_computed_states_stay_in_the_box():
    system = random_system(4, nx=3, layers=(4,), coupling=0.2)
    bound = execution_error(system, **boxes(system), contraction=certify_contraction(system))
    rng = np.random.default_rng(0)
    u, x0 = rng.choice([-1.0, 1.0], (500, 300, 2)), rng.choice([-1.0, 1.0], (500, 3))
    x = kernels.simulate(system, u, x0)[1]
    low, high = bound.computed_range
    assert (low <= x).all()
    assert (x <= high).all()


def test_what_the_certificate_did_not_cover_is_covered():
    """Two float64 runs differ by more than is certified, but not by twice the execution error more."""
    system = HARD["large output bias"][0]
    bound = execution_error(system, **boxes(system, 5.0, 5.0), contraction=certify_contraction(system)).bounds[0]
    rng = np.random.default_rng(0)
    x, d = rng.uniform(-4, 4, (4000, 3)), rng.standard_normal((4000, 3))
    d *= 1e-11 / np.linalg.norm(d, axis=1, keepdims=True)
    u = rng.uniform(-4, 4, (4000, 4, 2))
    apart = np.abs(system.simulate(u, x)[0] - system.simulate(u, x + d)[0]).max(axis=(0, 1))
    real = 1e-11 * np.linalg.norm(system.C2, axis=1)
    assert (apart > real).all()
    assert (apart <= real + 2 * bound).all()


def test_each_part_counts():
    """Float32 data, the function's accuracy and the biases make the bound larger, each by what theory says."""
    system = random_system(1, nx=2, layers=(3,), coupling=0.2)
    contraction = certify_contraction(system)

    def of(one, certificate, **arguments):
        return execution_error(one, **boxes(one), contraction=certificate, **arguments)

    plain = of(system, contraction)
    single = of(system, contraction, precision="float32")
    assert (single.bounds > 2.0**29 * plain.bounds).all()
    assert (of(system, contraction, tanh_ulps=4000.0).bounds > 10 * plain.bounds).all()
    other = _shifted(system, by=np.array([1e9, 0.0]))
    moved = of(other, certify_contraction(other))
    assert moved.output_error[0] >= 2.0**-53 * 1e9
    assert moved.output_error[1] == pytest.approx(plain.output_error[1], rel=1e-6)


def test_an_expansive_loop_or_numbers_that_overflow_are_refused():
    system = random_system(0, nx=2, layers=(3,), coupling=0.2)
    contraction = certify_contraction(system)
    wild = replace(system, A=3 * np.eye(2))
    with pytest.raises(CertificationError):
        execution_error(wild, **boxes(wild), contraction=contraction)
    with pytest.raises(CertificationError, match="overflow"):
        execution_error(system, **boxes(system, u=1e37), contraction=contraction, precision="float32")
    with pytest.raises(CertificationError, match="precision"):
        execution_error(system, **boxes(system), contraction=contraction, precision="float32", tanh_ulps=1e6)
    slow = LureSystem(
        A=np.array([[1 - 1e-7]]), B1=np.zeros((1, 0)), B2=np.array([[1e-6]]), bx=np.zeros(1), C1=np.zeros((0, 1)),
        D11=np.zeros((0, 0)), D12=np.zeros((0, 1)), bv=np.zeros(0), C2=np.eye(1), D21=np.zeros((1, 0)),
        D22=np.zeros((1, 1)), by=np.zeros(1), layers=(), dt=1.0,
    )  # fmt: skip
    proven = certify_contraction(slow, rate=1 - 0.5e-7)
    assert execution_error(slow, **boxes(slow), contraction=proven).bounds[0, 0] < 1.0
    with pytest.raises(CertificationError, match="takes back"):
        execution_error(slow, **boxes(slow), contraction=proven, precision="float32")


def test_it_is_stored_and_a_smaller_claim_is_refused(tmp_path):
    system = random_system(0, nx=2, layers=(3,), coupling=0.2)
    contraction = certify_contraction(system)
    bound = execution_error(system, **boxes(system), contraction=contraction, precision="float32")
    bound.save(tmp_path / "e.npz")
    again = ExecutionError.load(tmp_path / "e.npz")
    assert again.digest == bound.digest
    assert "float32" in again.summary()
    assert again.plot(("a", "b")).axes
    again.verify(system)
    for change in (
        {"bounds": 0.9 * bound.bounds}, {"state_error": 0.5 * bound.state_error},
        {"computed_range": 0.5 * bound.computed_range}, {"precision": "float64", "bounds": 1e-10 * bound.bounds},
        {"tanh_ulps": 4e3}, {"input_range": 100 * bound.input_range}, {"bounds": bound.bounds * np.nan},
    ):  # fmt: skip
        with pytest.raises(CertificationError):
            replace(bound, **change).verify(system)
    forged = replace(contraction, rate=0.5 * contraction.rate)
    with pytest.raises(CertificationError):
        replace(bound, contraction=forged).verify(system)
    with pytest.raises(CertificationError, match="share a metric"):
        replace(bound, gains=certify_gains(system, 3)).verify(system)
    with pytest.raises(CertificationError, match="another system"):
        bound.verify(replace(system, dt=2.0))
    (tmp_path / "e.npz").write_bytes(b"nothing")
    with pytest.raises(FileFormatError):
        ExecutionError.load(tmp_path / "e.npz")
