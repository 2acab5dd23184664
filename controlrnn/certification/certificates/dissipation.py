"""Incremental dissipation: stored differences of trajectories grow by no more than the supply.

    |dx+|_P^2 <= rate^2 |dx|_P^2 + dy'Q dy + 2 du'S dy + du'R du

as blkdiag(rate^2 P, 0, 0) + supply - T'PT - S(lambda) >= 0 on z = (dx, du, dw), with one P and one set of diagonal
multipliers. (Revay, Wang, Manchester, "Recurrent equilibrium networks", TAC 2023, def. 2 and th. 1; passivity, gain and
output-strict variants are choices of Q, S, R; proof: docs/theory/dissipation.md.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from controlrnn.certification import figures
from controlrnn.certification.certificate import LONGEST_METHOD, Certificate, certificate_schema, current_versions
from controlrnn.certification.proof.stationary import prove_dissipation
from controlrnn.checks import Array, as_array, read_only, text
from controlrnn.errors import SettingError
from controlrnn.records import Number, Numbers, Schema
from controlrnn.systems import LureSystem
from controlrnn.typed import typed

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, kw_only=True, eq=False)
@typed(infinite=("*",), stored=False)
class DissipationCertificate(Certificate):
    """Proof that differences of trajectories dissipate the supply (Q, S, R), in physical units.

    Args:
        rate: In (0, 1].
        metric: P, shape (nx, nx), positive definite.
        multipliers: Shape (nv,).
        Q: Shape (ny, ny), symmetric.
        S: Shape (nu, ny).
        R: Shape (nu, nu), symmetric.
    """

    KIND: ClassVar[str] = "dissipation-certificate"
    UNITS: ClassVar[dict[str, str]] = {
        "rate": "per step",
        "metric": "dx' P dx in units of the supply",
        "Q": "supply per output units squared",
        "S": "supply per input unit and output unit",
        "R": "supply per input units squared",
    }

    SCHEMA: ClassVar[Schema] = certificate_schema(
        KIND,
        UNITS,
        arrays={
            "metric": Numbers("nx", "nx"),
            "multipliers": Numbers("nv", least=0.0),
            "Q": Numbers("ny", "ny"),
            "S": Numbers("nu", "ny"),
            "R": Numbers("nu", "nu"),
        },
        meta={"rate": Number(above=0.0, most=1.0)},
    )

    rate: float
    metric: Array
    multipliers: Array
    Q: Array
    S: Array
    R: Array

    def __post_init__(self) -> None:
        for name in self._names():
            object.__setattr__(self, name, read_only(getattr(self, name)))

    @classmethod
    def prove(
        cls, system: LureSystem, *, metric: Array, multipliers: Array, rate: float, method: str, **claim: Any
    ) -> Self:
        """Build the certificate from given numbers and prove it.

        Args:
            system: A frozen system.
            metric: P, shape (nx, nx).
            multipliers: Shape (nv,).
            rate: In (0, 1].
            method: Where the numbers come from, for the record.
            claim: The remaining fields of the certificate.

        Raises:
            CertificationError: They do not prove it.
        """
        if not system.is_frozen:
            raise SettingError("a certificate needs a frozen system, got one of tensors: call model.freeze() first")
        P = as_array("metric", metric, (system.nx, system.nx))
        certificate = cls(
            system_digest=system.digest,
            method=text("method", method, most=LONGEST_METHOD),
            solver_status="",
            margin=0.0,
            versions=current_versions(),
            rate=float(rate),
            metric=0.5 * (P + P.T),
            multipliers=as_array("multipliers", multipliers, (system.nv,)),
            **claim,
        )
        return certificate.issue(system)

    def storage(self, dx: Array) -> float:
        """Stored difference |dx|_P^2 of two states that differ by ``dx`` (nx,)."""
        return float(dx @ self.metric @ dx)

    def _prove(self, system: LureSystem, room: float) -> float:
        supply = self.Q, self.S, self.R
        return prove_dissipation(system, self.rate, self.metric, self.multipliers, supply, room=room)

    def _claim(self) -> str:
        return (
            f"Dissipation certificate for system {self.system_digest[:12]}: differences of trajectories dissipate the "
            f"supply (Q, S, R), |Q| = {np.linalg.norm(self.Q, 2):.3g}, |S| = {np.linalg.norm(self.S, 2):.3g}, "
            f"|R| = {np.linalg.norm(self.R, 2):.3g}, at rate {self.rate:.5f}. "
            f"Proven in float64, smallest relative pivot {self.margin:.2g}."
        )

    def plot(self, labels: Sequence[str] = ()) -> Figure:
        """Draw the supply of every pair of channels, and how a stored difference decays without supply.

        Args:
            labels: One for each output, then one for each input.
        """
        figure, (left, right) = figures.panels(2)
        ny, nu = len(self.Q), len(self.R)
        supply = np.block([[self.Q, self.S.T], [self.S, self.R]])
        size = float(np.abs(supply).max()) or 1.0
        image = left.imshow(supply, cmap="RdBu", vmin=-size, vmax=size)
        own = [f"dy{i + 1}" for i in range(ny)] + [f"du{i + 1}" for i in range(nu)]
        names = [labels[i] if labels else own[i] for i in range(ny + nu)]
        left.set(title="supply", xticks=range(ny + nu), yticks=range(ny + nu), xticklabels=names, yticklabels=names)
        figure.colorbar(image, ax=left)
        sizes = np.linalg.eigvalsh(self.metric)[::-1]
        steps = np.arange(101)
        for value, name in ((sizes[0], "direction that stores most"), (sizes[-1], "direction that stores least")):
            right.semilogy(steps, value * self.rate ** (2.0 * steps), label=name)
        right.set(xlabel="step", ylabel="storage of a unit state difference,\nequal inputs and outputs")
        right.legend()
        return figure

    def _names(self) -> tuple[str, ...]:
        """Names of the fields that are arrays."""
        return ("metric", "multipliers", "Q", "S", "R")
