"""Selection of the model order by the Hankel singular values of the data and by validation.

The singular values are those of past-output MOESP (`controlrnn.identification.linear.subspace`), once for all orders;
every candidate's linear model then simulates the validation records freely. Champneys et al., "Baseline results for
selected nonlinear system identification benchmarks", 2024, ask for such a linear baseline beside every nonlinear
result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from controlrnn.checks import Array, read_only
from controlrnn.data import Trajectory
from controlrnn.errors import DataError
from controlrnn.identification.linear.regression import checked
from controlrnn.identification.linear.subspace import SubspaceModel, identify_subspace, order_from_gap
from controlrnn.identification.scores.free_run import free_run, initial_states
from controlrnn.identification.scores.metrics import rmse
from controlrnn.typed import typed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PARSIMONY = 1.02  # a smaller order is preferred up to this factor of the lowest error


@dataclass(frozen=True, eq=False)
@typed(infinite=("errors",))
class OrderSelection:
    """Candidate orders with their validation errors, singular values and models.

    Args:
        orders: Candidate orders, shape (n,).
        errors: Free-run RMSE on the validation records over the training outputs' spread, mean over outputs, (n,).
        singular_values: Singular values of the projected future outputs, descending.
        models: One model per candidate.
    """

    orders: Array
    errors: Array
    singular_values: Array
    models: tuple[SubspaceModel, ...]

    def __post_init__(self) -> None:
        for name in ("orders", "errors", "singular_values"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    @property
    def by_validation(self) -> int:
        """Smallest order within 2 % of the lowest validation error."""
        return int(self.orders[np.argmax(self.errors <= _PARSIMONY * self.errors.min())])

    @property
    def by_gap(self) -> int:
        """Order after which the singular values drop most."""
        return order_from_gap(self.singular_values)

    @property
    def best(self) -> SubspaceModel:
        """Model of order `by_validation`."""
        return self.models[int(np.argmax(self.orders == self.by_validation))]

    def plot(self) -> Figure:
        """Draw singular values and validation errors over the order; returns the figure."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(9, 3), layout="constrained")
        left, right = figure.subplots(1, 2)
        shown = self.singular_values[: 2 * int(self.orders.max()) + 1]
        left.semilogy(np.arange(1, len(shown) + 1), np.maximum(shown, 1e-16 * shown[0]), "o-")
        left.set_ylabel("Hankel singular value")
        right.plot(self.orders, self.errors, "o-")
        right.axvline(self.by_validation, color="0.7")
        right.set_ylabel("validation NRMSE, free run")
        for panel in (left, right):
            panel.set_xlabel("order")
        return figure


@typed()
def select_order(
    train: Sequence[Trajectory],
    validation: Sequence[Trajectory],
    *,
    orders: Sequence[int] = range(1, 11),
    skip: int = 0,
    strictly_proper: bool | None = None,
    horizon: int | None = None,
) -> OrderSelection:
    """Identify subspace models of several orders and score them on other records.

    Args:
        train: Records to identify from.
        validation: Records to score by.
        orders: Candidate orders.
        skip: Samples at the start of each validation record that do not count; the initial state is estimated from them
            (0: it is zero).
        strictly_proper: Whether y[t] does not depend on u[t]; as in `identify_subspace` when left out.
        horizon: Block rows of the Hankel matrices; None lets `identify_subspace` choose for each order.

    Raises:
        DataError: No candidate, or none with a finite simulation, or records too short.
        SettingError: An order is not a positive number.
    """
    train, validation, wanted = checked(train), checked(validation), sorted(set(orders))
    if not wanted:
        raise DataError("orders must name at least one candidate, got none")
    models, errors = [], []
    for order in wanted:
        model = identify_subspace(train, order, horizon=horizon, strictly_proper=strictly_proper)
        runs, _ = free_run(model.system, validation, initial_states(model.system, validation, skip))
        models.append(model)
        errors.append(float(np.mean(rmse([r.y for r in validation], runs, skip=skip) / model.outputs.scale)))
    if not np.isfinite(errors).any():
        raise DataError(f"no model of the orders {wanted} has a finite free run: record more, or detrend the data")
    return OrderSelection(np.array(wanted), np.array(errors), models[-1].singular_values, tuple(models))
