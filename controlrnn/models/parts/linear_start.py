"""Start of a model at a linear one that has the guaranteed property itself.

A model that guarantees a supply (a gain bound, passivity, ...) can start exactly at x+ = A x + B u, y = C x + D u if
the linear model dissipates that supply with a margin. Its storage N solves

    rate^2 N - [A B]'N [A B] + supply(x, u) - weight |V (x, u)|^2 >= 0        on blkdiag(N, 0)

where v = V (x, u) drives the nonlinear part: that part has no effect yet, but its input counts in the inequality. The
smallest such N is a discrete-time Riccati solution (bounded real lemma; derived here: the papers start only contracting
models at linear ones).

What a linear model does to its outputs does not depend on the coordinates of its state, but the room that a
parameterisation leaves around it does: `balancing` changes them where they are in the way.
"""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, TypeVar, cast

import numpy as np
import scipy.linalg
import torch

from controlrnn.checks import Array, as_array
from controlrnn.errors import SettingError
from controlrnn.models.parts.guarantee import Supply

_log = logging.getLogger(__name__)
_LARGEST = 1e50  # entry of a matrix, so that products of a few are within float64
_SHARE = 0.9  # share of a gain bound that a linear model is scaled down to, so that the neurons have the rest
_SPREAD = 1e4  # of the states' sizes, beyond which equations in the given coordinates are not worth solving
_SHRINKS = (1.0, 0.99, 0.98, 0.97, 0.96, 0.95)  # of the state map
_GAIN_LOSS = 0.8  # share of the steady gain that a shrunk model keeps at least

F = TypeVar("F", bound=Callable[..., None])


@dataclass(frozen=True, eq=False)
class Linear:
    """Linear model in scaled units: A (nx, nx), B (nx, nu), C (ny, nx), D (ny, nu)."""

    A: Array
    B: Array
    C: Array
    D: Array

    @classmethod
    def of(cls, sizes: tuple[int, int, int], A: Array, B: Array, C: Array, D: Array | None) -> Linear:
        """Make a linear model after checking shapes against ``sizes`` (nx, nu, ny); D = None stands for zero."""
        nx, nu, ny = sizes
        D = np.zeros((ny, nu)) if D is None else as_array("D", D, (ny, nu))
        made = cls(as_array("A", A, (nx, nx)), as_array("B", B, (nx, nu)), as_array("C", C, (ny, nx)), D)
        for name in ("A", "B", "C", "D"):
            if (largest := np.abs(getattr(made, name)).max(initial=0.0)) > _LARGEST:
                raise SettingError(f"{name} must have entries up to {_LARGEST:g}, got {largest:g}: check the units")
        return made

    def gain(self, rate: float = 1.0) -> float:
        """Largest gain on a grid of the circle |z| = rate, a lower bound of the l2 gain; infinite if unstable there."""
        if np.abs(np.linalg.eigvals(self.A)).max(initial=0.0) >= rate:
            return np.inf
        # Dense near z = 1, where slow plants have their peak.
        angles = np.concatenate([[0.0], np.geomspace(1e-5, np.pi, 400)])
        z = rate * np.exp(1j * angles)[:, None, None]
        response = self.C @ np.linalg.solve(z * np.eye(len(self.A)) - self.A, self.B.astype(complex)) + self.D
        return float(np.linalg.norm(response, 2, axis=(1, 2)).max())

    def steady_gain(self) -> float:
        """Largest gain at rest, |C (I - A)^-1 B + D|; infinite with a pole at one."""
        try:
            rest = np.linalg.solve(np.eye(len(self.A)) - self.A, self.B)
        except np.linalg.LinAlgError:
            return np.inf
        return float(np.linalg.norm(self.C @ rest + self.D, 2))

    def reach(self) -> Array:
        """Covariance of the state under white inputs of variance one, shape (nx, nx), up to the unit circle."""
        radius = float(np.abs(np.linalg.eigvals(self.A)).max(initial=0.0))
        A = self.A / max(1.0, 1.0001 * radius)
        W = self.B @ self.B.T
        # Doubling: sums and products only, so that each entry is as accurate in any units of the states.
        for _ in range(20):
            W = W + A @ W @ A.T
            A = A @ A
        return np.asarray(W)

    def sizes(self) -> Array:
        """Size of each state under white inputs, shape (nx,); 1 for one that they do not reach."""
        size = np.sqrt(np.diag(self.reach()))
        return np.where((size > 0) & np.isfinite(size), size, 1.0)

    def balanced(self) -> Linear:
        """The same model in coordinates in which white inputs move the state alike in all directions.

        A map with such a state contracts in the 2-norm, or nearly: A A' + B B' = I (input-normal coordinates, Moore,
        "Principal component analysis in linear systems", IEEE TAC 1981).
        """
        size = self.sizes()
        scaled = Linear(self.A * size / size[:, None], self.B / size[:, None], self.C * size, self.D)
        W = scaled.reach()
        if not np.isfinite(W).all():
            return self
        L = np.linalg.cholesky(W + 1e-6 * np.eye(len(W)))  # the addition is for states that no input reaches
        return Linear(np.linalg.solve(L, scaled.A @ L), np.linalg.solve(L, scaled.B), scaled.C @ L, self.D)

    def with_gain_below(self, gamma: float | None, rate: float = 1.0) -> Linear:
        """Scale the outputs down where the gain is above 0.9 ``gamma``; None leaves the model unchanged."""
        peak = 0.0 if gamma is None else self.gain(rate)
        if gamma is None or peak <= _SHARE * gamma or not np.isfinite(peak):
            return self
        _log.info("scaled the linear model down from gain %.4g to %.4g", peak, _SHARE * gamma)
        shrink = _SHARE * gamma / peak
        return Linear(self.A, self.B, shrink * self.C, shrink * self.D)


def balancing(start: F) -> F:
    """Decorate a method ``start_linear`` so that the units and coordinates of the linear model's state do not matter.

    The model is tried as it is given, then in balanced coordinates, then with its state map shrunk by up to 5 % as long
    as it keeps four fifths of its steady gain, with a warning; not where the model bounds its gain. What
    the method refuses even then is refused, and leaves the model as it was.
    """

    @functools.wraps(start)
    def start_linear(self: Any, A: Array, B: Array, C: Array, D: Array | None = None) -> None:
        given = Linear.of((self.nx, self.nu, self.ny), A, B, C, D)
        size = given.sizes()
        plain = size.max() <= _SPREAD * size.min()
        failure: SettingError | None = None
        # Within a bound on its gain a model is refused, not shrunk: the caller decides between bound and model.
        bounded = getattr(self, "gamma", None) is not None or hasattr(self, "supply")
        shrinks = _SHRINKS[:1] if bounded else _SHRINKS
        before = copy.deepcopy(self.state_dict())
        for linear, shrink in [(given, 1.0)] * int(plain) + [(given.balanced(), s) for s in shrinks]:
            tried = replace(linear, A=shrink * linear.A)
            if shrink < 1 and tried.steady_gain() < _GAIN_LOSS * given.steady_gain():
                break
            try:
                start(self, tried.A, tried.B, tried.C, tried.D)
            except SettingError as error:
                failure = failure or error
                continue
            if shrink < 1:
                _log.warning(
                    "the linear start of %s is another model: its state map was shrunk by %.0f %%, which changes its "
                    "steady gain from %.4g to %.4g; a larger rate leaves it as it is",
                    type(self).__name__,
                    100 * (1 - shrink),
                    given.steady_gain(),
                    tried.steady_gain(),
                )
            return
        assert failure is not None
        self.load_state_dict(before)  # what was tried last need not even be inside the model's set
        raise failure

    return cast(F, start_linear)


def storages(linear: Linear, V: Array, supply: Supply, rate: float) -> Iterator[tuple[Array, float]]:
    """Yield solutions (N, weight) of the inequality in the module docstring, with a smaller and smaller margin.

    Args:
        linear: The linear model.
        V: Map from (x, u) to the inputs of the nonlinear part, shape (nv, nx + nu).
        supply: Supply in scaled units.
        rate: Contraction rate.
    """
    A, B, C, D = linear.A / rate, linear.B / rate, linear.C, linear.D
    n, nu = B.shape
    # The supply as a quadratic form of (x, u), by way of (y, u) = z (x, u).
    z = np.block([[C, D], [np.zeros((nu, n)), np.eye(nu)]])
    form = z.T @ np.block([[supply.Q, supply.S.T], [supply.S, supply.R]]) @ z
    size = max(float(np.linalg.norm(V, 2)) ** 2, 1e-12)
    least = float(np.linalg.eigvalsh(form[n:, n:])[0])
    if least <= 0:  # no storage leaves a margin: at x = 0 the supply is not positive for every input
        return
    floor = max(float(-np.trace(form[:n, :n])) / n, 1e-6 * least)
    for room in 0.5 ** np.arange(16):
        # One part of the margin covers the neurons' inputs, the other keeps the inequality strict.
        weight = room * min(floor, least) / size
        need = form - weight * V.T @ V - 0.1 * room * scipy.linalg.block_diag(floor * np.eye(n), least * np.eye(nu))
        try:
            N = scipy.linalg.solve_discrete_are(A, B, -need[:n, :n], -need[n:, n:], s=-need[:n, n:])
        except (np.linalg.LinAlgError, ValueError):
            continue
        N = 0.5 * (N + N.T) / rate**2
        if np.isfinite(N).all() and np.linalg.eigvalsh(N)[0] > 0:
            yield N, weight


def gain_refusal(linear: Linear, gamma: float, rate: float) -> str:
    """Message of the error that refuses ``linear`` as the start of a model with gain below ``gamma``."""
    weighted = "" if rate == 1 else f" (weighted with the rate {rate})"
    return (
        f"the linear model must have a gain{weighted} below gamma = {gamma:g} with room to spare, got at least "
        f"{linear.gain(rate):.4g}: raise gamma, or scale the linear model's output down"
    )


@torch.no_grad()
def put_linear(model: Any, A: Array, B: Array, C: Array, D: Array | None = None) -> None:
    """Set the input and output maps of ``model`` to those of a linear model; its state map is set already.

    Args:
        model: A module with parameters ``B2, C2, D22`` (None: no feedthrough) and ``bx, by``.
        A: State map that was set, shape (nx, nx); only its shape matters here.
        B: Input map, shape (nx, nu).
        C: Output map, shape (ny, nx).
        D: Feedthrough, shape (ny, nu); None for zero.

    Raises:
        SettingError: ``D`` is not zero and the model has no feedthrough.
    """
    nx = len(A)
    B, C = as_array("B", B, (nx, model.nu)), as_array("C", C, (model.ny, nx))
    D = np.zeros((model.ny, model.nu)) if D is None else as_array("D", D, (model.ny, model.nu))
    if model.D22 is None and D.any():
        raise SettingError("the linear model has a feedthrough D, the network has none: pass feedthrough=True")
    model.B2.copy_(torch.as_tensor(np.ascontiguousarray(B)))
    model.C2.copy_(torch.as_tensor(np.ascontiguousarray(C)))
    if model.D22 is not None:
        model.D22.copy_(torch.as_tensor(np.ascontiguousarray(D)))
    model.bx.zero_()
    model.by.zero_()
