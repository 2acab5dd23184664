"""An independent check of the proofs: the same matrices in ball arithmetic (Arb), from a certificate's own numbers.

Nothing of the library's error bounds is used: entries are formed in 200-bit balls and eliminated there; a pivot is
positive only if its whole ball is.
"""

import numpy as np
import pytest
from random_systems import random_elman, random_system

from controlrnn.certification import certify_around, certify_horizon
from controlrnn.certification.families import Problem
from controlrnn.certification.passes import Case
from controlrnn.certification.slopes import secant_slopes
from controlrnn.systems import Activation

flint = pytest.importorskip("flint", reason="python-flint gives the ball arithmetic of this independent check")


@pytest.fixture(autouse=True)
def precision():
    before = flint.ctx.prec
    flint.ctx.prec = 200
    yield
    flint.ctx.prec = before


def balls(array):
    return flint.arb_mat([[flint.arb(float(v)) for v in row] for row in np.atleast_2d(array)])


def diagonal(values):
    return balls(np.diag(values)) if len(values) else flint.arb_mat(0, 0)


def is_positive_definite(M):
    """Elimination without pivoting; true only where it is proven."""
    n = M.nrows()
    rows = [[M[i, j] for j in range(n)] for i in range(n)]
    for k in range(n):
        if not rows[k][k] > 0:
            return False
        for i in range(k + 1, n):
            factor = rows[i][k] / rows[k][k]
            rows[i] = [a - factor * b for a, b in zip(rows[i], rows[k], strict=True)]
    return True


def test_the_check_itself():
    assert is_positive_definite(balls([[2.0, 1.0], [1.0, 1.0]]))
    assert not is_positive_definite(balls([[1.0, 1.0], [1.0, 1.0]]))
    assert not is_positive_definite(balls([[1.0, 2.0], [2.0, 1.0]]))


@pytest.mark.parametrize("system", [
    random_elman(0, nx=3), random_elman(1, nx=3, activation="sigmoid"),
    random_system(2, nx=2, ny=1, layers=(2, 1), activation="leaky_relu"),
    random_system(3, nx=2, ny=1, layers=(2,), norm=1.3),
])  # fmt: skip
def test_every_stage_of_a_horizon_certificate(system):
    certificate = certify_horizon(system, 4, initial_radius=0.5, input_radius=0.1, iterations=30)
    problem = Problem(system, 4, 0.5, None, 0.1)
    n, (alpha, beta) = system.nx, system.activation.slope
    u = system.nu
    columns = (np.zeros((system.nv, n + u)), np.eye(system.nv))
    N = balls(np.hstack([system.C1, system.D12, system.D11]))
    W = balls(np.hstack(columns))
    T = balls(np.hstack([system.A, system.B2, system.B1]))
    lower, upper = W - flint.arb(alpha) * N, flint.arb(beta) * N - W
    for family in certificate.families:
        c = balls(np.hstack([system.C2, system.D22, system.D21])[[family.row]])
        energy, before = flint.arb(0), None
        for j, P in enumerate(problem.storages(family)):
            demand = c.transpose() * c if before is None else T.transpose() * balls(before) * T
            half = lower.transpose() * diagonal(family.multipliers[j]) * upper
            supply = np.zeros((problem.form.nz, problem.form.nz))
            supply[:n, :n] = P
            supply[range(n, n + u), range(n, n + u)] = family.rho[j]
            assert is_positive_definite(balls(supply) - demand - half - half.transpose())
            energy += sum((flint.arb(r) * flint.arb(0.1) ** 2 for r in family.rho[j]), flint.arb(0))
            # bound^2 = energy + 0.5^2 lambda, with lambda I - P > 0: the bound of this family is not below its claim.
            claim = flint.arb(float(problem.prove(family)[0][j]))
            assert is_positive_definite((claim**2 - energy) / flint.arb(0.25) * diagonal(np.ones(n)) - balls(P))
            before = P


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "relu"])
def test_every_step_of_a_tube(activation):
    system = random_elman(2, nx=3, activation=activation)
    rng = np.random.default_rng(0)
    x0, u = rng.standard_normal(3), rng.standard_normal((5, 2))
    certificate = certify_around(system, x0, u, initial_radius=0.3, input_radius=0.1)
    case, tube = Case(system, x0, u, 0.3, None, 0.1), None
    for multipliers, shares in zip(certificate.multipliers, certificate.shares, strict=True):
        tube = case.run(multipliers, shares, certificate.padding, tube)
        for k, t in enumerate(tube.used):
            step, L = tube.steps[k], balls(tube.factors[k])
            d, (low, high) = step.d, step.slopes
            middle = diagonal(0.5 * (low + high))
            half = np.maximum(0.5 * (high - low) + 2.0**-51, 1e-6)
            seen, moved = balls(system.C1) * L, balls(system.D12)
            NL, NU = diagonal(d).inv() * seen, diagonal(d).inv() * moved
            Z = (middle * seen, middle * moved, diagonal(half) * diagonal(d))  # x+ = s(v)
            T2, zero = 2 * diagonal(t), flint.arb_mat(3, 3)
            rho = [flint.arb(s) / flint.arb(0.1) ** 2 for s in shares[k][1:]]
            tau = flint.arb(float(shares[k][0])) * diagonal(np.ones(3))
            W = [
                [tau - NL.transpose() * T2 * NL, -NL.transpose() * T2 * NU, zero],
                [-NU.transpose() * T2 * NL, flint.arb_mat([[rho[0], 0], [0, rho[1]]]) - NU.transpose() * T2 * NU,
                 flint.arb_mat(2, 3)],
                [zero, flint.arb_mat(3, 2), T2],
            ]  # fmt: skip
            F = balls(tube.factors[k + 1])
            blocks = [[*row, z.transpose()] for row, z in zip(W, Z, strict=True)] + [[*Z, F * F.transpose()]]
            assert is_positive_definite(joined(blocks))


def joined(blocks):
    rows = []
    for line in blocks:
        for i in range(line[0].nrows()):
            rows.append([block[i, j] for block in line for j in range(block.ncols())])
    return flint.arb_mat(rows)


def value(activation, v):
    return v.tanh() if activation is Activation.TANH else 1 / (1 + (-v).exp())


@pytest.mark.parametrize("activation", [Activation.TANH, Activation.SIGMOID])
def test_chords_in_ball_arithmetic(activation):
    """Slopes from float64 against chords without rounding, also very short ones and where chords touch the curve."""
    rng = np.random.default_rng(1)
    base, reach = 2 * rng.standard_normal(60), 10.0 ** rng.uniform(-9, 0.7, 60)
    low, high = secant_slopes(activation, base, np.zeros(60), reach)
    for a, d, least, most in zip(base, reach, low, high, strict=True):
        end = flint.arb(float(a))
        for share in np.linspace(-1, 1, 24):
            h = flint.arb(float(d)) * flint.arb(float(share))
            chord = (value(activation, end + h) - value(activation, end)) / h
            assert chord >= flint.arb(float(least))
            assert chord <= flint.arb(float(most))
