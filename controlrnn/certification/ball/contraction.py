"""Ball-arithmetic checks of claims about one step: contraction, dissipation and l2 gains.

Each is one linear matrix inequality in z = (dw, du, dx), formed and eliminated without rounding.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from controlrnn.certification.ball import fields
from controlrnn.certification.ball.arithmetic import beside, diagonal, flint, matrix, number, row, semidefinite
from controlrnn.certification.ball.horizon import semidefinite_metric
from controlrnn.certification.ball.model import Difference, Plant
from controlrnn.certification.certificates.contraction import ContractionCertificate
from controlrnn.certification.certificates.dissipation import DissipationCertificate
from controlrnn.certification.certificates.l2_gain import L2GainCertificate
from controlrnn.checks import Array
from controlrnn.errors import CertificationError
from controlrnn.systems import LureSystem

if TYPE_CHECKING:
    from flint import arb_mat


def check_contraction(plant: Plant, c: ContractionCertificate) -> float:
    """Prove a rate and the input gains; returns the least relative pivot."""
    nx, nu, nv = plant.A.nrows(), plant.B2.ncols(), plant.C1.nrows()
    rate = fields.scalar("rate", c.rate, above=0.0)
    if not rate < 1:
        raise CertificationError(f"rate must be below 1, got {rate}: the file was altered")
    M = fields.metric("metric", c.metric, nx)
    lam = fields.array("multipliers", c.multipliers, (nv,), least=0.0)
    gains = fields.array("input_gain", c.input_gain, (nu,), least=0.0)
    own = fields.array("input_multipliers", c.input_multipliers, (nu, nv), least=0.0)
    P = matrix(M)
    form = Difference.of(plant, [])
    contracts = form.inequality(_image(form, P), row(lam), [], number(rate) ** 2 * P)
    margin = min(semidefinite_metric(M), semidefinite(contracts))
    for channel, (gain, mu) in enumerate(zip(gains, own, strict=True)):
        # From equal states and one input at a time: the triangle inequality adds them up.
        single = Difference.of(plant, [channel], state=False)
        if all(M[i, channel].is_zero() for M in (plant.B2, plant.D12) for i in range(M.nrows())):
            continue  # what reaches neither states nor neurons moves nothing
        moved = single.inequality(_image(single, P), row(mu), [number(gain) ** 2])
        margin = min(margin, semidefinite(moved))
    return margin


def check_dissipation(system: LureSystem, c: DissipationCertificate) -> float:
    """Prove dissipation of the supply, and for an l2 gain of its exact supply; returns the least relative pivot."""
    nx, nu, ny = system.nx, system.nu, system.ny
    rate = fields.scalar("rate", c.rate, above=0.0, most=1.0)
    M = fields.metric("metric", c.metric, nx)
    lam = fields.array("multipliers", c.multipliers, (system.nv,), least=0.0)
    Q, R = fields.metric("Q", c.Q, ny), fields.metric("R", c.R, nu)
    S = fields.array("S", c.S, (nu, ny))
    margin = semidefinite_metric(M)
    supplies = [(matrix(Q), matrix(S), matrix(R))]
    if isinstance(c, L2GainCertificate):
        supplies.append(_gain_supply(c, nu, ny))
    for supply in supplies:
        margin = min(margin, _dissipates(system, matrix(M), rate, lam, *supply))
    return margin


def _dissipates(system: LureSystem, P: arb_mat, rate: float, lam: Array, Q: arb_mat, S: arb_mat, R: arb_mat) -> float:
    """Prove dissipation of one supply; returns the least relative pivot."""
    form = Difference.of(Plant.of(system), range(system.nu))
    nv, nu, nx = form.nv, form.nu, system.nx
    none = flint().arb_mat
    du = beside(none(nu, nv), diagonal(row([1.0] * nu)), none(nu, nx))
    cross = du.transpose() * S * form.Y
    supplied = form.Y.transpose() * Q * form.Y + cross + cross.transpose() + du.transpose() * R * du
    return semidefinite(form.inequality(_image(form, P) - supplied, row(lam), [], number(rate) ** 2 * P))


def _gain_supply(c: L2GainCertificate, nu: int, ny: int) -> tuple[arb_mat, arb_mat, arb_mat]:
    """Supply of the claimed gain in its units, formed without rounding."""
    gamma = number(fields.scalar("gamma", c.gamma, above=0.0))
    inputs = fields.array("input_scale", c.input_scale, (nu,), least=5e-324)
    outputs = fields.array("output_scale", c.output_scale, (ny,), least=5e-324)
    Q = diagonal([-1 / (gamma * s**2) for s in row(outputs)])
    return Q, flint().arb_mat(nu, ny), diagonal([gamma / s**2 for s in row(inputs)])


def _image(form: Difference, P: arb_mat) -> arb_mat:
    """The matrix T'PT of a difference system."""
    made: arb_mat = form.T.transpose() * P * form.T
    return made
