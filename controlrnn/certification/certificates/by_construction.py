"""Certificates by construction: guarantees that a model's parameterisation implies, proven for its numbers."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

import numpy as np

from controlrnn.certification.certificate import LONGEST_METHOD, current_versions
from controlrnn.certification.certificates.contraction import ContractionCertificate, smallest_input_gains
from controlrnn.certification.certificates.dissipation import DissipationCertificate
from controlrnn.certification.certificates.l2_gain import L2GainCertificate
from controlrnn.certification.proof.incremental import IncrementalForm, largest_ratio, smallest_storage
from controlrnn.certification.search.stationary import slowed
from controlrnn.checks import Array, as_array, text
from controlrnn.errors import CertificationError, SettingError
from controlrnn.systems import LureSystem
from controlrnn.typed import typed

if TYPE_CHECKING:
    from controlrnn.models.parts.guarantee import Guarantee

_METHOD = "by construction"


class Guaranteed(Protocol):
    """Interface of a model that carries a guarantee; `controlrnn.models.Model` is one."""

    def freeze(self) -> LureSystem:
        """Freeze the model to the system that is deployed."""

    def guarantee(self) -> Guarantee | None:
        """Guarantee that the parameterisation implies for the frozen system, or None."""


@dataclass(frozen=True, eq=False)
@typed()
class Construction:
    """A frozen system with the certificates of its construction.

    Args:
        system: The frozen system.
        contraction: At the rate that the model was built for; where that is 1, at the best rate its metric proves.
        dissipation: The gain (`L2GainCertificate`) or the general supply, where the model promises one.
    """

    system: LureSystem
    contraction: ContractionCertificate
    dissipation: DissipationCertificate | None


def certify_by_construction(model: Guaranteed) -> Construction:
    """Freeze a model and prove the guarantee of its parameterisation.

    Args:
        model: A model whose parameterisation carries a guarantee.

    Raises:
        CertificationError: The model promises nothing, or the proof fails.
    """
    promise = model.guarantee()
    if promise is None:
        raise CertificationError(
            f"{type(model).__name__} promises nothing by construction: use certify_contraction(model.freeze())"
        )
    system = model.freeze()
    P, lam, rate, supply = promise.metric, promise.multipliers, promise.rate, promise.supply
    contraction = certificate_from(system, P, lam, rate, method=_METHOD)
    dissipation: DissipationCertificate | None = None
    if supply is not None and supply.gamma is not None:
        dissipation = L2GainCertificate.prove_gain(
            system,
            supply.gamma,
            metric=P,
            multipliers=lam,
            input_scale=supply.input_scale,
            output_scale=supply.output_scale,
            rate=rate,
            method=_METHOD,
        )
    elif supply is not None:
        dissipation = DissipationCertificate.prove(
            system, metric=P, multipliers=lam, rate=rate, method=_METHOD, Q=supply.Q, S=supply.S, R=supply.R
        )
    return Construction(system, contraction, dissipation)


@typed()
def certificate_from(
    system: LureSystem, metric: Array, multipliers: Array, rate: float | None = None, *, method: str = "given"
) -> ContractionCertificate:
    """Prove contraction with a metric and multipliers found elsewhere.

    Args:
        system: A frozen system.
        metric: P, shape (nx, nx).
        multipliers: Shape (nv,).
        rate: Rate in (0, 1) to prove; None, or 1, for the smallest that these numbers prove.
        method: Where they come from, for the record; at most 200 characters.

    Raises:
        CertificationError: They do not prove contraction.
    """
    if not system.is_frozen:
        raise SettingError("a certificate needs a frozen system, got one of tensors: call model.freeze() first")
    method = text("method", method, most=LONGEST_METHOD)
    P = as_array("metric", metric, (system.nx, system.nx))
    P, lam = 0.5 * (P + P.T), as_array("multipliers", multipliers, (system.nv,))
    channels = [IncrementalForm.of_input(system, c) for c in range(system.nu)]
    # One gain a channel: by the triangle inequality their sum bounds all inputs together.
    gains, used = smallest_input_gains(channels, P, np.tile(lam, (system.nu, 1)), lam)
    claim = ContractionCertificate(
        system_digest=system.digest,
        method=method,
        solver_status="",
        margin=0.0,
        versions=current_versions(),
        rate=1.0,
        metric=P,
        multipliers=lam,
        input_gain=gains,
        input_multipliers=used,
    )
    if rate is not None and rate < 1:
        return replace(claim, rate=float(rate)).issue(system)
    best = _smallest_rate(system, P, lam)
    # The smallest rate lies on the boundary of what holds; the proof needs a little room.
    for room in (1e-6, 1e-4, 1e-2, 0.1, 0.5):
        try:
            return replace(claim, rate=slowed(best, room)).issue(system)
        except CertificationError as error:
            failure = error
    raise failure


def _smallest_rate(system: LureSystem, P: Array, multipliers: Array) -> float:
    """Smallest contraction rate that a metric and multipliers prove, to rounding."""
    form = IncrementalForm.of(system, np.zeros(system.nu, bool))
    # rate^2 P has to exceed the least storage that one step demands.
    after = smallest_storage(form, form.T.T @ P @ form.T, multipliers, np.zeros(0), 1e-14)
    try:
        rate = np.inf if after is None else float(np.sqrt(largest_ratio(after, P)) * (1 + 1e-12))
    except CertificationError:
        rate = np.inf
    if rate >= 1:
        raise CertificationError("this metric and these multipliers prove no contraction at any rate < 1")
    return rate
