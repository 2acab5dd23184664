"""Refuters answer claims of anything with yes or no."""

from dataclasses import fields, replace

import numpy as np
import pytest

pytest.importorskip("flint")

from controlrnn.certification import certify_delta_iss
from controlrnn.certification.refutation import (
    Pair,
    Scenario,
    refute_around,
    refute_contraction,
    refute_delta_iss,
    refute_dissipation,
    refute_gains,
    refute_horizon,
    refute_lipschitz,
    refute_reinitialisation,
)
from experiments.bench_proof.study import MAKERS, gated, network

REFUTERS = {
    "horizon, box": refute_horizon, "horizon, rate_limited": refute_horizon, "horizon, boxes": refute_horizon,
    "gains": refute_gains, "lipschitz": refute_lipschitz, "contraction": refute_contraction,
    "l2 gain": refute_dissipation, "tube": refute_around, "re-initialisation": refute_reinitialisation,
    "delta-iss": refute_delta_iss,
}  # fmt: skip


def not_finite(certificate):
    """The certificate with one number after the other replaced."""
    for field in fields(certificate):
        value = getattr(certificate, field.name)
        for wrong in (np.nan, np.inf, -np.inf):
            if isinstance(value, float):
                yield field.name, wrong, replace(certificate, **{field.name: wrong})
            elif isinstance(value, np.ndarray) and value.size:
                array = value.copy()
                array.flat[0] = wrong
                yield field.name, wrong, replace(certificate, **{field.name: array})


@pytest.mark.parametrize("kind", REFUTERS)
def test_claims_that_are_not_finite_get_an_answer(kind):
    gates = kind == "delta-iss"
    system = gated(0, "lstm") if gates else network(0)
    ends = np.ones(system.nu)
    made = certify_delta_iss(system, input_range=(-ends, ends)) if gates else MAKERS[kind](system)
    x0, u = (made.x0, made.u) if kind == "tube" else (np.full(system.nx, 0.1), np.full((3, system.nu), 0.1))
    pair = Pair(x0, u, x0 + 0.01, u)
    if kind == "re-initialisation":
        pair = Scenario(past=u[0], recorded_past=u[0], u=u, recorded=u, washout=1)
    assert not REFUTERS[kind](system, made, pair)
    tried = 0
    for name, wrong, claim in not_finite(made):
        false = REFUTERS[kind](system, claim, pair)
        assert false in (True, False), (name, wrong)
        assert not (false and np.isnan(wrong)), f"{name}: nothing contradicts a number that is none"
        tried += 1
    assert tried >= 6
