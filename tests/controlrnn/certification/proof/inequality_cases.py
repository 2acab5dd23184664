"""Systems, inequalities and exact quantities that the tests of the proofs share."""

from dataclasses import dataclass, field, replace
from fractions import Fraction

import numpy as np
from exact_numbers import exact
from hypothesis import settings
from hypothesis import strategies as st
from random_systems import random_system

from controlrnn.certification.proof import incremental as inc
from controlrnn.certification.proof.incremental import IncrementalForm
from controlrnn.systems import LureSystem

SEEDS = st.integers(0, 2**32 - 1)
FAST = settings(max_examples=40)


@dataclass(frozen=True)
class Family:
    row: int
    multipliers: np.ndarray
    rho: np.ndarray
    padding: float = 1e-9
    shares: np.ndarray = field(default_factory=lambda: np.zeros((0, 0)))


def linear(A, B2=None, C2=None, D22=None):
    A, C2 = np.atleast_2d(np.array(A, float)), np.atleast_2d(np.array(C2 if C2 is not None else np.ones(len(A)), float))
    B2 = np.ones((len(A), 1)) if B2 is None else np.array(B2, float)
    z, n, u, p = np.zeros, len(A), B2.shape[1], len(C2)
    return LureSystem(
        A=A, B1=z((n, 0)), B2=B2, bx=z(n), C1=z((0, n)), D11=z((0, 0)), D12=z((0, u)), bv=z(0), C2=C2, D21=z((p, 0)),
        D22=z((p, u)) if D22 is None else np.array(D22, float), by=z(p), layers=(), dt=1.0,
    )  # fmt: skip


def system_of(seed, **more):
    rng = np.random.default_rng(seed)
    shape = {"nx": 2, "nu": 2, "ny": 2, "layers": (2,), "coupling": 0.3} | more
    return random_system(seed, activation=str(rng.choice(["tanh", "leaky_relu", "sigmoid"])), **shape)


def form_of(seed, **more):
    form = IncrementalForm.of(system_of(seed, **more))
    rng = np.random.default_rng(seed)
    alpha = rng.uniform(0, 0.3, form.nv) * (rng.random() < 0.6)
    return replace(form, alpha=alpha, beta=alpha + rng.uniform(0.1, 0.7, form.nv))


def blocks(form, P, rho):
    whole = np.zeros((form.nz, form.nz), dtype=object) + Fraction(0)
    whole[: form.nx, : form.nx] = exact(P)
    for c, r in enumerate(exact(rho)):
        whole[form.nx + c, form.nx + c] = r
    return whole


def stage_margins(form, P, rho, lam, c, **settings):
    return inc.stage_margins(form, P[None], rho[None], lam[None], c[None], **settings)[0]
