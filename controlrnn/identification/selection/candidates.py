"""Candidates of a search: families with sizes, and the moves from one candidate to its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from controlrnn.checks import Choice
from controlrnn.identification.losses.base import Loss, SimulationError
from controlrnn.identification.losses.regularisers import L2
from controlrnn.models import LTI, ContractingR2DN, Model, ResidualRNN
from controlrnn.records import Count, Flag, Number, Schema, Stored, Text
from controlrnn.systems import Activation
from controlrnn.typed import typed


class Family(Choice):
    """Kind of model that a search tries."""

    LINEAR = "linear"
    """`LTI`: a contracting linear system, refined like the networks, which start at it; tried before any of them."""
    FREE = "free"
    """`ResidualRNN`: a linear system with neurons beside it; no guarantee by construction."""
    CONTRACTING = "contracting"
    """`ContractingR2DN`: contracts for every value of its parameters, with a certificate by construction."""


@dataclass(frozen=True)
@typed()
class Candidate(Stored):
    """Family and size of a model.

    Args:
        family: The family.
        nx: Number of states.
        nv: Number of neurons; a linear model has none, whatever is said here.
        activation: Activation function.
        ridge: Weight of `L2` in the loss.
        refined: Whether a network starts at the refined linear model of its order; otherwise at a subspace model.
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "candidate", 2,
        meta={
            "family": Text(choices=Family), "nx": Count(1), "nv": Count(), "activation": Text(choices=Activation),
            "ridge": Number(least=0.0), "refined": Flag(),
        },
    )  # fmt: skip

    family: Family
    nx: int
    nv: int
    activation: Activation = Activation.TANH
    ridge: float = 0.0
    refined: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "family", Family(self.family))
        object.__setattr__(self, "activation", Activation(self.activation))

    @property
    def label(self) -> str:
        """Short text for tables."""
        if self.family is Family.LINEAR:
            return f"{self.family}, {self.nx} states"
        text = f"{self.family}, {self.nx} states, {self.nv} {self.activation}"
        text += f", ridge {self.ridge:g}" if self.ridge else ""
        return text + (", from the refined linear model" if self.refined else "")

    def build(self, nu: int, ny: int, feedthrough: bool, seed: int) -> Model:
        """Untrained model."""
        if self.family is Family.LINEAR:
            return LTI(nu=nu, ny=ny, nx=self.nx, feedthrough=feedthrough, seed=seed)
        if self.family is Family.FREE:
            return ResidualRNN(
                nu=nu, ny=ny, nx=self.nx, nv=self.nv, activation=self.activation, feedthrough=feedthrough, seed=seed
            )
        channel = max(2, min(self.nx, self.nv // 2))
        return ContractingR2DN(
            nu=nu,
            ny=ny,
            nx=self.nx,
            nv=channel,
            layers=(self.nv,),
            activation=self.activation,
            feedthrough=feedthrough,
            seed=seed,
        )

    def loss(self) -> Loss:
        """Loss of its fit."""
        return SimulationError() + self.ridge * L2() if self.ridge else SimulationError()

    def cost(self, nu: int, ny: int) -> float:
        """Multiplications of one Levenberg-Marquardt iteration per sample; those of matrix products count an eighth."""
        n, v = self.nx, 0 if self.family is Family.LINEAR else self.nv
        unknowns = n * (n + nu + v + ny + 1) + v * (n + nu + 1)
        return unknowns * n * (n + ny) + unknowns**2 * ny / 8


Move = Callable[[Candidate], Candidate]


def moves(orders: Sequence[int], *, ridge: bool) -> list[Move]:
    """Moves that a search tries one after the other from the best candidate of a family.

    Args:
        orders: Numbers of states to try.
        ridge: Whether the weight of the ridge is worth a choice: records are short.
    """
    # The refined linear model is near the best network or, where the plant bends much, in another valley.
    found: list[Move] = [lambda c: c, lambda c: replace(c, refined=not c.refined), lambda c: replace(c, nv=2 * c.nv)]
    found += [lambda c, n=n: replace(c, nx=n) for n in orders]  # type: ignore[misc]  # bound now
    if ridge:
        found += [lambda c: replace(c, ridge=10 * c.ridge), lambda c: replace(c, ridge=c.ridge / 10)]
    found += [
        lambda c: replace(c, nv=max(2, c.nv // 2)),
        lambda c: replace(c, activation=Activation.RELU if c.activation is Activation.TANH else Activation.TANH),
        lambda c: replace(c, nv=c.nv + c.nv // 2),
        lambda c: replace(c, nx=c.nx + 1),
    ]
    return found + ([lambda c: replace(c, ridge=10 * c.ridge)] if ridge else [])
