"""Multipliers of horizon certificates, and the inequality that they have to satisfy as a search sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

import numpy as np
from scipy.linalg import eigh

from controlrnn.certification.input_error import InputError
from controlrnn.certification.proof.horizon import HorizonInequality
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


class Problem(HorizonInequality):
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
            # An initial state without difference gets some room: its part of the metric must be finite.
            room = self.radius or 1e-6 * float(np.linalg.norm(b))
            self._parts = metric / room**2, b
            self.metric = self.joint_metric(np.ones(1 + len(b)))
            self.radius = 1.0

    def joint_metric(self, shares: Array) -> Array:
        """Metric whose unit ball holds the initial set of states and input differences, for shares (1 + m,)."""
        weights = shares / shares.sum()
        metric, b = self._parts
        n = len(metric)
        joint = np.zeros((n + len(b), n + len(b)))
        joint[:n, :n] = weights[0] * metric
        joint[np.arange(n, len(joint)), np.arange(n, len(joint))] = weights[1:] / b**2
        return joint

    def family(self, row: int, multipliers: Array, rho: Array, padding: float) -> Family:
        """Build a family from given multipliers, with the best rho and shares that go with them."""
        found = Family(row, multipliers, self.error.evened(rho), padding)
        if not self.lifted:
            return found
        shares = np.array([self._best_shares(P) for P in self.storages(found)])
        return Family(row, found.multipliers, found.rho, padding, shares)

    def _best_shares(self, P: Array) -> Array:
        """Search for shares (1 + m,) with a small largest ratio of P to the joint metric."""
        n, shares = len(self._parts[0]), np.ones(1 + len(self._parts[1]))
        best, chosen = np.inf, shares
        for _ in range(6):
            values, vectors = eigh(P, self.joint_metric(shares))
            if values[-1] < best:
                best, chosen = float(values[-1]), shares
            # For P = p p' the best shares are the sizes of p's parts, which this step finds at once.
            top = self.joint_metric(np.ones(len(shares))) @ vectors[:, -1] ** 2
            shares = np.sqrt(np.maximum(np.concatenate([[top[:n].sum()], top[n:]]), 1e-8 * top.sum())) * shares
            shares = np.maximum(shares / shares.sum(), 1e-6)
        return chosen
