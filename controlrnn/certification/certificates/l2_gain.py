"""Bound on the incremental l2 gain: dissipation with Q = -I / gamma, S = 0, R = gamma I in declared units.

For two trajectories from states that differ by dx0,

    sum_t |dy_t / output_scale|^2 <= gamma^2 sum_t |du_t / input_scale|^2 + gamma |dx0|_P^2.

(Revay, Wang, Manchester, TAC 2023, def. 1; with rate < 1 the same also holds weighted with rate^-2t; proof:
docs/theory/dissipation.md.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from controlrnn.certification import figures
from controlrnn.certification.certificate import FORMAT_VERSION
from controlrnn.certification.certificates.dissipation import DissipationCertificate
from controlrnn.certification.proof.incremental import IncrementalForm
from controlrnn.certification.proof.stationary import gain_supply
from controlrnn.certification.search.stationary import contract, least_gain
from controlrnn.certification.search.units import Units
from controlrnn.checks import Array, scales
from controlrnn.errors import CertificationError, SettingError
from controlrnn.kernels.linearisation import linearise_trajectory
from controlrnn.records import Exactly, Number, Numbers, Schema
from controlrnn.systems import LureSystem
from controlrnn.typed import typed

_ROOMS = (0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True, eq=False)
@typed(infinite=("*",), stored=False)
class L2GainCertificate(DissipationCertificate):
    """Proof that the incremental l2 gain is at most `gamma`, in units of the two scales.

    Args:
        gamma: The bound.
        input_scale: Unit of each input, shape (nu,), positive.
        output_scale: Unit of each output, shape (ny,), positive.
    """

    KIND: ClassVar[str] = "l2-gain-certificate"
    UNITS: ClassVar[dict[str, str]] = DissipationCertificate.UNITS | {
        "gamma": "scaled outputs per scaled inputs",
        "input_scale": "input units",
        "output_scale": "output units",
    }

    SCHEMA: ClassVar[Schema] = DissipationCertificate.SCHEMA.extended(
        KIND,
        FORMAT_VERSION,
        arrays={"input_scale": Numbers("nu", above=0.0), "output_scale": Numbers("ny", above=0.0)},
        meta={"gamma": Number(above=0.0), "units": Exactly(UNITS)},
    )

    gamma: float
    input_scale: Array
    output_scale: Array

    @classmethod
    def prove_gain(
        cls,
        system: LureSystem,
        gamma: float,
        *,
        metric: Array,
        multipliers: Array,
        input_scale: Array,
        output_scale: Array,
        rate: float = 1.0,
        method: str = "given",
    ) -> L2GainCertificate:
        """Build the certificate from given numbers and prove it; arguments as the fields.

        Raises:
            CertificationError: They do not prove it.
        """
        Q, S, R = gain_supply(gamma, np.asarray(input_scale), np.asarray(output_scale))
        return cls.prove(
            system,
            metric=metric,
            multipliers=multipliers,
            rate=rate,
            method=method,
            Q=Q,
            S=S,
            R=R,
            gamma=float(gamma),
            input_scale=input_scale,
            output_scale=output_scale,
        )

    def _prove(self, system: LureSystem, room: float) -> float:
        if not (0 < self.gamma < np.inf and (self.input_scale > 0).all() and (self.output_scale > 0).all()):
            raise CertificationError("gamma and the scales must be positive: the certificate was altered")
        if self.input_scale.shape != (system.nu,) or self.output_scale.shape != (system.ny,):
            raise CertificationError(
                "the scales must have one number per input and output: the certificate was altered"
            )
        expected = gain_supply(self.gamma, self.input_scale, self.output_scale)
        if not all(np.array_equal(a, b) for a, b in zip(expected, (self.Q, self.S, self.R), strict=True)):
            raise CertificationError("the supply does not belong to gamma and the scales: the certificate was altered")
        return super()._prove(system, room)

    def _claim(self) -> str:
        return (
            f"Gain certificate for system {self.system_digest[:12]}: the incremental l2 gain is at most "
            f"{self.gamma:.5g} with inputs in units of {np.array2string(self.input_scale, precision=3)} and outputs in "
            f"units of {np.array2string(self.output_scale, precision=3)}. "
            f"Proven in float64, smallest relative pivot {self.margin:.2g}."
        )

    def plot(self, labels: Sequence[str] = (), *, system: LureSystem | None = None) -> Figure:  # noqa: ARG002
        """Draw the bound over the size of the input difference, and beside the gains of a linearisation.

        Args:
            labels: Ignored: the norm has all channels.
            system: The certified system; with it, the frequency response of its linearisation at rest is set against
                the bound, which no linearisation exceeds.
        """
        figure, axes = figures.panels(1 if system is None else 2)
        supplied = np.geomspace(1e-2, 1e2, 100)
        for stored in (0.0, 1.0, 10.0):
            reached = np.sqrt((self.gamma * supplied) ** 2 + self.gamma * stored)
            axes[0].loglog(supplied, reached, label=f"stored at the start: {stored:g}")
        axes[0].set(xlabel="energy norm of the inputs' difference", ylabel="at most, of the outputs' difference")
        axes[0].legend()
        if system is not None:
            frequency, gains = gains_at_rest(system, self.input_scale, self.output_scale)
            axes[1].semilogx(frequency, gains, label="linearisation at rest")
            axes[1].axhline(self.gamma, color="k", ls="--", label="certified bound")
            axes[1].set(xlabel="frequency [rad per sample]", ylabel="gain", ylim=(0, None))
            axes[1].legend()
        return figure

    def _names(self) -> tuple[str, ...]:
        """Names of the fields that are arrays."""
        return (*super()._names(), "input_scale", "output_scale")


@typed()
def certify_l2_gain(
    system: LureSystem, *, input_scale: float | Array = 1.0, output_scale: float | Array = 1.0
) -> L2GainCertificate:
    """Bound how much of the energy of an input difference reaches the outputs, over the infinite horizon.

    The smallest gain that one metric and diagonal multipliers prove; for a linear system its H-infinity norm.

    Args:
        system: A frozen system, trained in any way.
        input_scale: Unit in which each input counts, shape (nu,) or a number for all.
        output_scale: Unit in which each output counts, shape (ny,) or a number for all.

    Raises:
        CertificationError: No gain can be proven, because no contraction can. That does not mean that there is none.
    """
    if not system.is_frozen:
        raise SettingError("a certificate needs a frozen system, got one of tensors: call model.freeze() first")
    inputs, outputs = scales("input_scale", input_scale, system.nu), scales("output_scale", output_scale, system.ny)
    units = Units.of(system, inputs, outputs)
    form = IncrementalForm.of(units.system(system))
    try:
        start = contract(form, 1.0)
    except CertificationError as error:
        raise CertificationError(
            f"no l2 gain can be proven: {error}. A finite-horizon certificate may still exist; for an infinite one "
            "train a model with a gain by design, such as LipschitzREN",
            margin=error.margin,
        ) from error
    rho, P, lam = least_gain(form, start)
    # Back to the user's state units, in which everything is proven.
    P, gamma = P / units.x[:, None] / units.x, float(np.sqrt(rho))
    for room in _ROOMS:
        # On the boundary of what holds the proof fails; single precision moved it a little.
        larger = gamma * (1 + room)
        try:
            return L2GainCertificate.prove_gain(
                system,
                larger,
                metric=P / larger,
                multipliers=lam / larger,
                input_scale=inputs,
                output_scale=outputs,
                method="barrier",
            )
        except CertificationError as error:
            failure = error
    raise failure


def gains_at_rest(system: LureSystem, input_scale: Array, output_scale: Array) -> tuple[Array, Array]:
    """Frequency response of the linearisation at rest: frequencies (K,) up to pi and largest gains (K,).

    Args:
        system: A frozen system that contracts.
        input_scale: Unit of each input, shape (nu,).
        output_scale: Unit of each output, shape (ny,).
    """
    u = np.zeros((1, system.nu))
    # A contracting system is at the equilibrium of zero input after so many steps.
    x = system.simulate(np.zeros((2000, system.nu)))[1][-1:]
    at_rest = linearise_trajectory(system, x, u)
    A, B, C, D = at_rest.A[0], at_rest.B[0] * input_scale, at_rest.C[0] / output_scale[:, None], at_rest.D[0]
    D = D * input_scale / output_scale[:, None]
    frequency = np.geomspace(1e-3, np.pi, 200)
    circle = np.exp(1j * frequency)[:, None, None] * np.eye(system.nx)
    response = C @ np.linalg.solve(circle - A, np.broadcast_to(B, (len(frequency), *B.shape)).astype(complex)) + D
    return frequency, np.asarray(np.linalg.norm(response, 2, axis=(1, 2)))
