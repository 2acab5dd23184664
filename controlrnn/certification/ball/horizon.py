"""Ball-arithmetic checks of claims over a horizon: output bounds, gains per lag, Lipschitz constants.

From multipliers lambda_j and weights rho_j follow storages P_k with |c z_k|^2 <= dx_0' P_k dx_0 + sum_j du' R_{k-j} du
(`model.Difference.storages`). A bound B of step k is proven where, without any rounding,

    (B^2 - energy_k) M - r^2 P_k >= 0                             for dx_0' M dx_0 <= r^2
    (B^2 - energy_k) blkdiag(w_0 M / r^2, w_c / b_c^2) - P_k >= 0  where du is a state too, for some w >= 0, sum w <= 1.

The claim says which of them: differences of inputs are states only where they are claimed to go on by themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from controlrnn.certification.ball import fields, input_errors
from controlrnn.certification.ball.arithmetic import (
    UndecidedError,
    diagonal,
    eliminate,
    from_rows,
    matrix,
    number,
    row,
    semidefinite,
    total,
)
from controlrnn.certification.ball.model import Difference, Plant, boxed_slopes, joined, only, square
from controlrnn.certification.ball.structure import differing
from controlrnn.certification.certificates.gains import GainCertificate
from controlrnn.certification.certificates.horizon import HorizonCertificate
from controlrnn.certification.certificates.lipschitz import LipschitzCertificate
from controlrnn.certification.families import Family
from controlrnn.certification.input_error import InputError
from controlrnn.checks import Array
from controlrnn.errors import CertificationError
from controlrnn.systems import LureSystem

if TYPE_CHECKING:
    from flint import arb, arb_mat


def check_horizon(system: LureSystem, c: HorizonCertificate) -> float:
    """Prove every bound of a horizon certificate; returns the least relative pivot."""
    steps = fields.length("horizon", c.horizon)
    bounds = fields.array("bounds", c.bounds, (steps + 1, system.ny), least=0.0)
    radius = fields.scalar("initial_radius", c.initial_radius, above=-5e-324)
    M = fields.metric("metric", c.metric, system.nx)
    error = fields.input_error(c.input_error, system.nu)
    input_errors.check_box(error, fields.array("input_radius", c.input_radius, (system.nu,), least=0.0), steps)
    boxes = fields.box(c.input_range, c.state_range, system.nu, system.nx)
    slopes = None if boxes is None else joined(boxed_slopes(system, *boxes, steps))
    margin = semidefinite_metric(M)
    # A bound counts once any family, or the gains, prove it.
    proven = np.zeros(bounds.shape, bool)
    channels = [int(i) for i in np.flatnonzero(error.b > 0)]
    plain = Difference.of(Plant.of(system), channels, slopes)
    undecided: UndecidedError | None = None
    for family in c.families:
        lifted = family.shares.size > 0
        if lifted and not error.is_state:
            raise CertificationError(
                f"a family's multipliers are for differences of the inputs that go on by themselves, but the claim "
                f"allows {error}: the file was altered"
            )
        form = plain.inputs_as_states(input_errors.changing(error)) if lifted else plain
        claim = _Claim(matrix(M), number(radius), error, family.shares if lifted else None)
        found, doubt = _prove_family(form, family, claim, bounds, proven)
        undecided = doubt or undecided
        margin = min(margin, found)
    if c.gains is not None:
        if c.gains.horizon != steps or not np.array_equal(c.gains.metric, M):
            raise CertificationError("the gains are of another horizon or metric: the file was altered")
        if c.gains.system_digest != system.digest:
            raise CertificationError("the gains are of another system: the file was altered")
        margin = min(margin, check_gains(system, c.gains))
        _add_gains(c.gains, radius, error, bounds, proven)
    if not proven.all():
        k, i = (int(n) for n in np.argwhere(~proven)[0])
        kind = CertificationError if undecided is None else UndecidedError
        raise kind(f"the bound {bounds[k, i]:.6g} at step {k}, output {i} is not proven: certify again", margin=0.0)
    return margin


class _Claim:
    """The sets of initial differences and of inputs that are states, as a horizon certificate claims them."""

    def __init__(self, M: arb_mat, radius: arb, error: InputError, shares: Array | None) -> None:
        self.M = M
        self.radius = radius
        self.error = error
        self.shares = shares
        self.b = row(error.b[error.b > 0])

    def inequality(self, room: arb, P: arb_mat, k: int) -> arb_mat:
        """Matrix that is positive semidefinite if z' P z <= ``room`` for all initial differences z."""
        if self.shares is None:
            return room * self.M - self.radius**2 * P
        n, m = self.M.nrows(), len(self.b)
        weights = row(self.shares[k])
        whole = total(weights)
        if self.radius.is_zero():  # the states do not differ: only du counts
            whole = total(weights[1:])
            # Only the block of du counts.
            inner = from_rows([[P[n + i, n + j] for j in range(m)] for i in range(m)], m)
            return diagonal([room * w / (whole * b**2) for w, b in zip(weights[1:], self.b, strict=True)]) - inner
        made = -P
        for i in range(n):
            for j in range(n):
                made[i, j] = made[i, j] + room * weights[0] / whole * self.M[i, j] / self.radius**2
        for c, (w, b) in enumerate(zip(weights[1:], self.b, strict=True), start=n):
            made[c, c] = made[c, c] + room * w / (whole * b**2)
        return made


def _prove_family(
    form: Difference, family: Family, claim: _Claim, bounds: Array, proven: np.ndarray
) -> tuple[float, UndecidedError | None]:
    """Mark in ``proven`` which bounds of its output a family proves; returns the margin and any doubt."""
    K, lifted = len(bounds), claim.shares is not None
    index = fields.length("the output of a family", family.row)
    if index >= bounds.shape[1]:
        raise CertificationError(f"a family speaks of output {index}, of {bounds.shape[1]}: the file was altered")
    lam = fields.array("multipliers", family.multipliers, (K, form.nv), least=0.0)
    rho = fields.array("rho", family.rho, (K, form.nu), least=0.0)
    if claim.shares is not None:
        shares = fields.array("shares", family.shares, (K, 1 + len(claim.b)), least=0.0)
        if not (shares > 0).all():
            raise CertificationError("shares must be > 0: the file was altered")
    costs = input_errors.energies(claim.error, rho, lifted=lifted)
    margin, undecided = np.inf, None
    for k, (P, least) in enumerate(form.storages(square(only(form.Y, index)), lam, rho)):
        margin = min(margin, least)
        if proven[k, index]:
            continue
        try:
            room = number(bounds[k, index]) ** 2 - costs[k]
            if claim.radius.is_zero() and not lifted:
                holds(room >= 0, room < 0)
            else:
                margin = min(margin, semidefinite(claim.inequality(room, P, k)))
            proven[k, index] = True
        except UndecidedError as error:
            undecided = error
        except CertificationError:  # this family does not show it: another may
            continue
    return margin, undecided


def holds(true: bool, false: bool) -> None:
    """Raise unless an inequality of balls is known to be true.

    Raises:
        CertificationError: It is known to be false.
        UndecidedError: It is not known.
    """
    if not true:
        raise (CertificationError if false else UndecidedError)("an inequality does not hold", margin=0.0)


def _add_gains(gains: GainCertificate, radius: float, error: InputError, bounds: Array, proven: np.ndarray) -> None:
    """Mark in ``proven`` which bounds follow from proven gains by the triangle inequality."""
    for i in range(bounds.shape[1]):
        from_inputs = input_errors.added(error, gains.inputs[:, i])
        for k, pushed in enumerate(from_inputs):
            proven[k, i] |= bool(number(bounds[k, i]) >= number(gains.initial[k, i]) * number(radius) + pushed)


def semidefinite_metric(M: Array) -> float:
    """Prove that a metric is positive definite; returns the least relative pivot."""
    _, least = eliminate(matrix(M), len(M))
    if not np.all(M.diagonal() > 0) or not least > 0:
        raise CertificationError("the metric is not positive definite: the file was altered")
    return least


def check_gains(system: LureSystem, c: GainCertificate) -> float:
    """Prove every gain of a gain certificate; returns the least relative pivot."""
    K = fields.length("horizon", c.horizon) + 1
    ny, nu, nv = system.ny, system.nu, system.nv
    initial = fields.array("initial", c.initial, (K, ny), least=0.0)
    inputs = fields.array("inputs", c.inputs, (K, ny, nu), least=0.0)
    mu = fields.array("input_multipliers", c.input_multipliers, (K, ny, nu, nv), least=0.0)
    M = fields.metric("metric", c.metric, system.nx)
    margin = semidefinite_metric(M)
    plant = Plant.of(system)
    still = Difference.of(plant, [])
    single = [Difference.of(plant, [channel], state=False) for channel in range(nu)]
    every, no, eye = np.ones(system.nx, bool), np.zeros(system.nx, bool), np.eye(nu, dtype=bool)
    from_start = differing(system, every, np.zeros(nu, bool), K)
    from_inputs = [differing(system, no, eye[channel], K) for channel in range(nu)]
    if sorted(fields.length("the output of a family", f.row) for f in c.families) != list(range(ny)):
        raise CertificationError("every output needs exactly one family of multipliers: the file was altered")
    for family in c.families:
        i = family.row
        lam = fields.array("multipliers", family.multipliers, (K, nv), least=0.0)
        seen = square(only(still.Y, i))
        before: arb_mat | None = None
        for k, (P, least) in enumerate(still.storages(seen, lam, np.zeros((K, 0)))):
            margin = min(margin, least)
            if from_start[k, i]:
                margin = min(margin, semidefinite(number(initial[k, i]) ** 2 * matrix(M) - P))
            for channel, form in enumerate(single):
                if not from_inputs[channel][k, i]:
                    continue
                demand = square(only(form.Y, i)) if before is None else form.T.transpose() * before * form.T
                gain = [number(inputs[k, i, channel]) ** 2]
                proof = form.inequality(demand, row(mu[k, i, channel]), gain)
                margin = min(margin, semidefinite(proof))
            before = P
    return margin


def check_lipschitz(system: LureSystem, c: LipschitzCertificate) -> float:
    """Prove the constant of a Lipschitz certificate; returns the least relative pivot."""
    steps = fields.length("horizon", c.horizon)
    constant = fields.scalar("constant", c.constant, above=-5e-324)
    lam = fields.array("multipliers", c.multipliers, (steps + 1, system.nv), least=0.0)
    rho = fields.array("rho", c.rho, (steps + 1, system.nu), least=0.0)
    boxes = fields.box(c.input_range, c.state_range, system.nu, system.nx)
    slopes = None if boxes is None else boxed_slopes(system, *boxes, steps)[::-1]  # by steps to go
    form = Difference.of(Plant.of(system), range(system.nu))
    largest = number(constant) ** 2
    if not all(number(r) <= largest for r in rho.ravel()):
        raise CertificationError("the constant is below what an input can do by its weight rho", margin=0.0)
    storages = list(form.storages(square(form.Y), lam, rho, slopes))
    margin = min(least for _, least in storages)
    return min(margin, semidefinite(largest * diagonal(row(np.ones(system.nx))) - storages[-1][0]))
