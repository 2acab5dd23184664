"""Multipliers of horizon certificates, and the inequality that they have to satisfy as a search sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np

from controlrnn.certification.input_error import InputError
from controlrnn.certification.proof.horizon import HorizonInequality, Multipliers
from controlrnn.certification.proof.incremental import storages
from controlrnn.certification.proof.slopes import Box
from controlrnn.checks import Array, read_only
from controlrnn.errors import SettingError
from controlrnn.records import Count, Number, Numbers, Schema, Stored
from controlrnn.systems import LureSystem


@dataclass(frozen=True, eq=False)
class Family(Stored):
    """Multipliers for one output, indexed by the number of steps to go, so that one sweep serves every step.

    Args:
        row: The output.
        multipliers: Shape (K, nv).
        rho: Shape (K, number of channels that differ).
        padding: Relative enlargement of the storages in the recursion.
        shares: Weights of the initial state and of each input that is a state, shape (K, 1 + m); empty
            where no input is a state (see `controlrnn.certification.proof.input_error`).
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "family",
        1,
        arrays={
            "multipliers": Numbers("N + 1", "nv", least=0.0),
            "rho": Numbers("N + 1", "m", least=0.0),
            "shares": Numbers("N + 1", "p", least=0.0, otherwise=(0, 0)),
        },
        meta={"row": Count(), "padding": Number(least=0.0)},
        zero=("N", "nu", "nv", "m", "p"),
    )

    row: int
    multipliers: Array
    rho: Array
    padding: float
    shares: Array = field(default_factory=lambda: np.zeros((0, 0)))

    def __post_init__(self) -> None:
        for name in ("multipliers", "rho", "shares"):
            object.__setattr__(self, name, read_only(getattr(self, name)))


class PredictionInequality(HorizonInequality):
    """The inequality of a horizon certificate in the coordinates of a search; arguments as `HorizonInequality`.

    Where inputs are states, ``metric`` is that of the joint initial set of states and inputs, and ``radius`` is one.
    """

    error: InputError

    def __init__(
        self,
        system: LureSystem,
        horizon: int,
        radius: float,
        metric: Array | None,
        input_radius: float | Array | InputError,
        *,
        boxes: tuple[Box, Box] | None = None,
        lifted: bool = False,
    ) -> None:
        if not system.is_frozen:
            raise SettingError("a certificate needs a frozen system, got one of tensors: call model.freeze() first")
        error = InputError.of(input_radius, system.nu)
        super().__init__(system, horizon, radius, metric, error, boxes=boxes, lifted=lifted)
        self.asked = error
        self.claimed_radius = self.radius
        self.claimed_metric = self.metric
        if lifted:
            _, metric, b = self._initial_set
            n, m = len(metric), len(b)
            inputs = np.arange(n, n + m)
            # The set is that of size xi with xi in the ball of states, side by side with inputs of at most one.
            self._size, joint = np.zeros((n + m, n + m)), np.zeros((n + m, n + m))
            self._size[:n, :n] = self.radius * np.linalg.inv(np.linalg.cholesky(metric)).T
            self._size[inputs, inputs] = b
            # For the search an initial state without difference gets some room: its part of the metric must be finite.
            joint[:n, :n] = metric / (self.radius or 1e-6 * float(np.linalg.norm(b))) ** 2
            joint[inputs, inputs] = 1 / b**2
            self.metric = joint / (1 + m)
            self.radius = 1.0

    def terminal(self, row: int) -> tuple[Array, Array]:
        """The output row c (1, nz) at which the recursion starts, and c'c."""
        c = self.form.Y[[row]]
        return c, c.T @ c

    def storages(self, family: Multipliers) -> list[Array]:
        """Compute the storages P_0 .. P_N of a family, as its proof does."""
        terminal = self.terminal(family.row)[1]
        return storages(self.form, terminal, family.multipliers, family.rho, family.padding)[0]

    def family(self, row: int, multipliers: Array, rho: Array, padding: float) -> Family:
        """Build a family from given multipliers, with the best rho and shares that go with them."""
        found = Family(row, multipliers, self.error.evened(rho), padding)
        if not self.lifted:
            return found
        shares = np.array([self._best_shares(P) for P in self.storages(found)])
        return Family(row, found.multipliers, found.rho, padding, shares)

    def _best_shares(self, P: Array) -> Array:
        """Shares (1 + m,) for which the largest ratio of P to the joint metric is small."""
        n, m = len(self.claimed_metric), len(P) - len(self.claimed_metric)
        shares = chosen = np.full(1 + m, 1 / (1 + m))
        best, inside = np.inf, self._size.T @ P @ self._size
        if not np.isfinite(inside).all():
            return chosen  # the proof will say so
        for _ in range(6):
            half = np.concatenate([np.full(n, shares[0]), shares[1:]]) ** -0.5
            values, vectors = np.linalg.eigh(half[:, None] * inside * half)
            if values[-1] < best:
                best, chosen = float(values[-1]), shares
            # For P = p p' the best shares are the sizes of p's parts, which this step finds at once.
            top = (half * vectors[:, -1]) ** 2
            shares = np.sqrt(np.maximum(np.concatenate([[top[:n].sum()], top[n:]]), 1e-8 * top.sum())) * shares
            shares = np.maximum(shares / shares.sum(), 1e-6)
        return chosen
