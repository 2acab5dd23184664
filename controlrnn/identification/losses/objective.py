"""Objective of the refinement: the loss over whole records as a function of one vector, parameters and initial states.

Where initial states are estimated, each record's starting state is a variable. With *shooting* the records are cut into
segments that start from variable states of their own, with a penalty on the jumps between them: shorter simulations
have a smoother error, also where a model is unstable. (Bock 1981; Ribeiro, Tiels, Umenberger, Schoen, Aguirre, "On the
smoothness of nonlinear system identification", Automatica 2020.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from controlrnn.checks import Array
from controlrnn.data import Trajectory
from controlrnn.errors import DataError, SettingError
from controlrnn.identification.losses.base import Batch, Loss, Simulation, SimulationError, WeightedSum
from controlrnn.identification.losses.regularisers import L2
from controlrnn.kernels import simulate
from controlrnn.kernels.sensitivity import Sensitivities
from controlrnn.models import Model
from controlrnn.systems import MATRICES, LureSystem

_Singular: type[Exception] = torch.linalg.LinAlgError  # type: ignore[attr-defined]  # missing in torch's own stubs
_MOST = 4_000_000  # most numbers of a Jacobian that are held at a time


@dataclass(frozen=True, eq=False)
class _Group:
    """Segments of equal length: u (B, T, nu), y (B, T, ny), the rows of their starting states, and their weight."""

    u: Tensor
    y: Tensor
    rows: list[int]
    weight: float


class Objective:
    """Value, gradient and Gauss-Newton Hessian of the loss over all records.

    Args:
        model: A float64 model; its parameters are set at each evaluation.
        records: Training records, physical units.
        loss: Loss to minimise. In Gauss-Newton, terms other than `SimulationError` and `L2` have no curvature.
        states: Starting state of each record, shape (R, nx); None fixes them at zero.
        free: Whether these states are variables, too.
        segment: Samples per segment; None simulates whole records.
        stiffness: Weight of the squared jumps between segments.
        step: Value of ``Batch.step``.

    Raises:
        SettingError: Segments of records whose starting states are fixed, or a loss with a washout in segments.
    """

    def __init__(
        self,
        model: Model,
        records: Sequence[Trajectory],
        loss: Loss,
        states: Array | None,
        *,
        free: bool = True,
        segment: int | None = None,
        stiffness: float = 1.0,
        step: int = 0,
    ) -> None:
        if segment is not None and (states is None or loss.washout):
            raise SettingError(
                "shooting needs initial_state='estimated' and a loss without washout: a segment starts where the one "
                "before it ended"
            )
        self.model = model
        self.loss = loss
        self.step = step
        self.stiffness = stiffness
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.n_parameters = sum(p.numel() for p in self.parameters)
        self._cut(records, segment)
        self._states = np.zeros((len(self._pieces), model.nx)) if states is None else self._begin(records, states)
        self.n_states = 0 if states is None or not free else self._states.size

    def start(self) -> Array:
        """Vector of the model's present parameters and the given starting states."""
        values = [p.detach().numpy().ravel() for p in self.parameters]
        return np.concatenate([*values, self._states.ravel()[: self.n_states]]).astype(np.float64)

    def put(self, vector: Array) -> None:
        """Set the model's parameters from the vector."""
        with torch.no_grad():
            at = 0
            for p in self.parameters:
                p.copy_(torch.as_tensor(vector[at : at + p.numel()]).reshape(p.shape))
                at += p.numel()

    def value(self, vector: Array) -> float:
        """Loss at a vector; infinite where the simulation diverges or a matrix of the model becomes singular."""
        self.put(vector)
        with torch.no_grad():
            return self._guarded(self._table(vector))[0]

    def value_and_gradient(self, vector: Array) -> tuple[float, Array]:
        """Loss and its gradient, shape (n,); the gradient is zero where the loss is infinite."""
        self.put(vector)
        self.model.zero_grad(set_to_none=True)
        table = self._table(vector).requires_grad_(self.n_states > 0)
        value, total = self._guarded(table)
        gradient = np.zeros(len(vector))
        if total is None:
            return np.inf, gradient
        total.backward()  # type: ignore[no-untyped-call]
        leaves = [*self.parameters, table] if self.n_states else self.parameters
        parts = [np.zeros(p.numel()) if p.grad is None else p.grad.numpy().ravel() for p in leaves]
        gradient = np.concatenate(parts)
        return (value, gradient) if np.isfinite(gradient).all() else (np.inf, np.zeros(len(vector)))

    def gauss_newton(self, vector: Array) -> tuple[float, Array, Array]:
        """Loss, its gradient (n,) and its Gauss-Newton Hessian (n, n)."""
        value, gradient = self.value_and_gradient(vector)
        if not np.isfinite(value):
            return value, gradient, np.full((len(vector),) * 2, np.nan)
        system = self.model.system()
        by_parameters, selected = _explicit(system, self.parameters)
        normal = self._normal(system.frozen(), selected, self._table(vector).numpy())
        n = int(selected.sum())
        # The chain rule from matrix entries to parameters; the starting states are unchanged.
        left = by_parameters.T @ normal[:n]
        top = np.concatenate([left[:, :n] @ by_parameters, left[:, n : n + self.n_states]], axis=1)
        bottom = np.concatenate(
            [top[:, self.n_parameters :].T, normal[n:, n:][: self.n_states, : self.n_states]], axis=1
        )
        return value, gradient, np.concatenate([top, bottom])

    def _cut(self, records: Sequence[Trajectory], segment: int | None) -> None:
        """Cut the records into segments, in groups of equal length; `_links` holds pairs of consecutive segments."""
        inputs, outputs, washout = self.model.input_scaler, self.model.output_scaler, self.loss.washout
        self._pieces: list[tuple[int, int, int]] = []
        self._links: list[tuple[int, int]] = []
        for i, record in enumerate(records):
            length = len(record) if segment is None else segment
            for a in range(0, len(record), length):
                if a:
                    self._links.append((len(self._pieces) - 1, len(self._pieces)))
                self._pieces.append((i, a, min(a + length, len(record))))
        # Each group counts by its share of the scored outputs, so that the total is the mean over all of them.
        scored = sum(int((~np.isnan(records[i].y[a + washout : b])).sum()) for i, a, b in self._pieces)
        if min(b - a for _, a, b in self._pieces) <= washout:
            raise DataError(f"every training record must be longer than the loss's washout of {washout} samples")
        lengths = sorted({b - a for _, a, b in self._pieces})
        self._groups = []
        for length in lengths:
            rows = [k for k, (_, a, b) in enumerate(self._pieces) if b - a == length]
            cuts = [(records[i], a, b) for i, a, b in (self._pieces[k] for k in rows)]
            u = torch.as_tensor(np.stack([inputs.apply(r.u[a:b]) for r, a, b in cuts]))
            y = torch.as_tensor(np.stack([outputs.apply_measured(r.y[a:b]) for r, a, b in cuts]))
            self._groups.append(_Group(u, y, rows, int((~y[:, washout:].isnan()).sum()) / max(scored, 1)))

    def _begin(self, records: Sequence[Trajectory], states: Array) -> Array:
        """Starting states of all segments, taken from a free run of each record."""
        system = self.model.freeze()
        begin = np.empty((len(self._pieces), self.model.nx))
        for k, (i, a, _) in enumerate(self._pieces):
            begin[k] = states[i] if a == 0 else simulate(system, records[i].u[:a], states[i])[1][-1]
        return begin

    def _table(self, vector: Array) -> Tensor:
        """Starting states of all segments, one a row, from the vector or as fixed."""
        if not self.n_states:
            return torch.as_tensor(self._states)
        return torch.tensor(vector[self.n_parameters :]).reshape(self._states.shape)

    def _guarded(self, table: Tensor) -> tuple[float, Tensor | None]:
        """Loss as a number and as a tensor; infinity and None where it is not finite."""
        try:
            total = self._total(table)
        except (_Singular, DataError):
            return np.inf, None
        value = float(total.detach())
        return (value, total) if np.isfinite(value) else (np.inf, None)

    def _total(self, table: Tensor) -> Tensor:
        """Loss with all penalties at the model's present parameters and the starting states of ``table``."""
        system = self.model.system()
        ends = table.new_zeros(table.shape)
        total = table.new_zeros(())
        for group in self._groups:
            start = table[group.rows]
            y, x = simulate(system, group.u, start)
            total = total + group.weight * self.loss(
                system, Batch(group.u, group.y, start, self.step), Simulation(y, x)
            )
            if self._links:
                ends = ends.index_add(0, torch.as_tensor(group.rows), x[:, -1])
        if self._links:
            before, after = (list(side) for side in zip(*self._links, strict=True))
            total = total + self.stiffness * (ends[before] - table[after]).square().mean()
        penalty = self.model.penalty(1.0)
        return total if penalty is None else total + penalty

    def _normal(self, system: LureSystem, selected: np.ndarray, table: Array) -> Array:
        """Gauss-Newton matrix 2 J'J of the weighted squares by (entries, starting states), square."""
        n, nx, links = int(selected.sum()), system.nx, dict(self._links)
        total = np.zeros((n + table.size,) * 2)
        weight, washout = square_weight(self.loss), self.loss.washout
        scored = max(sum(int((~g.y[:, washout:].isnan()).sum()) for g in self._groups), 1)
        tool = Sensitivities(system, selected)
        block = max(1, _MOST // ((n + nx) * system.ny))
        for group in self._groups:
            us = group.u.numpy()
            # In blocks of samples, so that the Jacobian of a long record need not fit into memory.
            x = simulate(system, us, table[group.rows])[1]
            for b, row in enumerate(group.rows):
                product, carry = np.zeros((n + nx,) * 2), tool.start()
                for a in range(0, us.shape[1], block):
                    dy, carry = tool.run(us[b, a : a + block], x[b, a : a + block][: len(us[b, a : a + block])], carry)
                    missing = group.y[b, a : a + block].isnan().numpy()
                    dy[missing] = 0.0
                    J = dy[max(0, washout - a) :].reshape(-1, n + nx)
                    product += J.T @ J
                where = np.r_[0:n, n + row * nx : n + (row + 1) * nx]
                total[np.ix_(where, where)] += 2 * weight / scored * product
                if row in links:
                    after = n + links[row] * nx + np.arange(nx)
                    jump = np.concatenate([carry, -np.eye(nx)], axis=1)
                    both = np.concatenate([where, after])
                    total[np.ix_(both, both)] += 2 * self.stiffness / (len(self._links) * nx) * jump.T @ jump
        total[np.arange(n), np.arange(n)] += 2 * _ridge(self.loss, system)[selected]
        return total


def _explicit(system: LureSystem, parameters: Sequence[Tensor]) -> tuple[Array, np.ndarray]:
    """Derivatives (n, p) of the matrix entries that depend on the parameters, and the mask of these entries."""
    flat = torch.cat([getattr(system, name).reshape(-1) for name in MATRICES])
    seeds = torch.eye(len(flat), dtype=flat.dtype)
    parts = torch.autograd.grad(flat, parameters, seeds, is_grads_batched=True, allow_unused=True)
    pairs = zip(parts, parameters, strict=True)
    columns = [
        np.zeros((len(flat), p.numel())) if part is None else part.numpy().reshape(len(flat), -1) for part, p in pairs
    ]
    jacobian = np.concatenate(columns, axis=1)
    selected = (jacobian != 0).any(axis=1)
    return jacobian[selected], selected


def square_weight(loss: Loss) -> float:
    """Total weight of the simulation error in a loss.

    Raises:
        SettingError: The loss has no simulation error (Gauss-Newton needs squares), or several with other washouts.
    """
    squares = [(weight, term.washout) for weight, term in _terms(loss) if isinstance(term, SimulationError)]
    if len({washout for _, washout in squares}) != 1:
        raise SettingError("refine='levenberg_marquardt' needs a loss with one SimulationError term: use 'lbfgs'")
    return float(sum(weight for weight, _ in squares))


def _ridge(loss: Loss, system: LureSystem) -> Array:
    """Weight of the square of each matrix entry in the loss, flattened in the order of `MATRICES`."""
    weights = dict.fromkeys(MATRICES, 0.0)
    for weight, term in _terms(loss):
        for name in term.matrices if isinstance(term, L2) else ():
            weights[name] += weight
    return np.concatenate([np.full(getattr(system, name).size, weights[name]) for name in MATRICES])


def _terms(loss: Loss) -> tuple[tuple[float, Loss], ...]:
    """Pairs (weight, term) of a loss."""
    return loss.terms if isinstance(loss, WeightedSum) else ((1.0, loss),)
