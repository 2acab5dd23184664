"""Upper bound on the effect of noise on the outputs, for all trajectories, from norms of the matrices alone.

Let d be the difference between a noisy and the noise-free run: input noise e (zero mean, independent from sample to
sample, standard deviations s), state noise v. For every neuron dw = (m + r delta) dv with m, r the middle and half the
width of the activation's slope interval and |delta| <= 1. Moving m into the linear part (K = (I - m D11)^-1) leaves

    d+ = A d + B e + v + B1 q,   |q_k| <= |p_k|,   p_k = C_k d + E_k e + sum_{j<k} D_kj q_j   (layer by layer)

with A, B, ... now the shifted matrices. d and e are independent and e has zero mean, so the cross term vanishes in
E|A d + B e|^2 <= |A|^2 V + |B s|_F^2 with V = E|d|^2, and likewise in C_k d + E_k e. It does not vanish for the part
through the neurons, because delta depends on both: there, root mean squares add up (Minkowski). With n_k >= rms(p_k):
n = (I - |D_kj|)^-1 sqrt(|C_k|^2 V + |E_k s|_F^2),

    V+ <= ( sqrt(|A|^2 V + |B s|_F^2) + min(sum_k |B1_k| n_k, |B1| |n|) )^2 + |v|^2,      V[0] = tr(Gamma)

and E|dy|^2 in the same way. For the basic RNN x+ = s(A x + B u) this is the geometric sum of Amini, Liu, Motee
("Robust learning of recurrent neural networks in presence of exogenous noise", IEEE CDC 2021), eq. (16),

    rho_t <= |C|^2 ( |A|^2t tr Gamma + sum_{i<t} |A|^2i |B|^2 tr S ),

sharper in tr(B S B') <= |B|^2 tr S. Their eq. (11) for the general RNN is not used: as printed its input term has the
Lipschitz constant of the input where its proof (13)-(14) has twice the square, and weights the noises backwards in
time.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from controlrnn.checks import count, positive
from controlrnn.errors import SettingError
from controlrnn.identification.losses.base import Batch, Simulation, Term
from controlrnn.identification.losses.noise_covariance import Std, check_deviations, check_last, deviations
from controlrnn.systems import Laws, LureSystem, System
from controlrnn.typed import typed


@typed()
def output_noise_bound(
    system: LureSystem, steps: int, *, input_std: Std, state_std: Std = 0.0, initial_std: Std = 0.0
) -> Tensor:
    """Upper bound on E|y_noisy[t] - y_clean[t]|^2 for all inputs, and so on the trace of the covariance of y.

    The bound is finite for every number of steps; it stays bounded in time where `step_norm` is below one.

    Args:
        system: A system of tensors; noise is in the units of its signals, which are scaled ones in training.
        steps: Number of samples T.
        input_std: Standard deviation of the noise on the inputs, one number or one a channel.
        state_std: Standard deviation of the noise that is added to every next state.
        initial_std: Standard deviation of the states at sample 0.

    Returns:
        Shape (T,).

    Raises:
        ShapeError: A list of standard deviations does not fit the system.
        SettingError: The system is not a `LureSystem` of tensors, or a number is out of range.
    """
    _check(system)
    gains = _Gains(system, deviations("input_std", input_std, system.nu, system.by))
    pushed = _trace(deviations("state_std", state_std, system.nx, system.by))
    V = _trace(deviations("initial_std", initial_std, system.nx, system.by))[None]
    values = []
    for _ in range(count("steps", steps)):
        values.append(V)
        V = gains.next_state(V) + pushed
    return gains.output(torch.stack(values))[:, 0]


@typed()
def step_norm(system: LureSystem) -> Tensor:
    """Bound on the factor by which one step stretches the difference of two states; below one, the system contracts.

    Args:
        system: A system of tensors.

    Raises:
        SettingError: It is not a `LureSystem` of tensors.
    """
    _check(system)
    gains = _Gains(system, system.by.new_zeros(system.nu))
    return gains.next_state(system.by.new_ones(1))[0].sqrt()


@dataclass(frozen=True)
@typed()
class NoiseUpperBound(Term):
    """Mean of `output_noise_bound` over a window: an upper bound for all data, cheaper than `NoiseCovariance`.

    Where a step may stretch states (`step_norm` above one) it grows exponentially with the window; train with
    `StretchPenalty` or start from a model with a norm below one, such as `StableRNN`.

    Args:
        input_std: Standard deviation of the noise on the inputs in scaled units, where 1 is the input's own spread;
            one number or one a channel.
        state_std: Standard deviation of the noise on every next state.
        initial_std: Standard deviation of the noise on the states at the start of a window.
        washout: Samples at the start of each window that do not count.
        last: Take only the first output that all inputs of a window have reached, as for classification: that of its
            last sample, or without feedthrough the one after it.

    Raises:
        SettingError: A number is out of range, or ``last`` comes with a washout.
    """

    input_std: Std
    state_std: Std = 0.0
    initial_std: Std = 0.0
    washout: int = 0
    last: bool = False

    def __post_init__(self) -> None:
        check_deviations(self)
        check_last(self)

    def __call__(self, system: LureSystem, batch: Batch, simulation: Simulation) -> Tensor:  # noqa: ARG002
        """Mean of the bound over samples; it is the same for every window."""
        steps = batch.u.shape[1] + (self.last and not system.has_feedthrough)
        bound = output_noise_bound(
            system, steps, input_std=self.input_std, state_std=self.state_std, initial_std=self.initial_std
        )
        return bound[-1] if self.last else bound[self.washout :].mean()


@dataclass(frozen=True)
@typed()
class StretchPenalty(Term):
    """Penalty for stable training of any Lur'e model: the square of the excess of `step_norm` over ``rate``.

    This is the soft form of the paper's stable learning, which cuts singular values after every step; a model that is
    stable by construction, such as `StableRNN`, needs neither.

    Args:
        rate: Norm up to which the penalty is zero; below one the model contracts.

    Raises:
        SettingError: ``rate`` is not positive.
    """

    rate: float = 0.99
    washout = 0

    def __post_init__(self) -> None:
        positive("rate", self.rate)

    def __call__(self, system: LureSystem, batch: Batch, simulation: Simulation) -> Tensor:  # noqa: ARG002
        """Value of the penalty."""
        return (step_norm(system) - self.rate).clamp_min(0).square()


@dataclass(frozen=True, eq=False)
class _Signal:
    """Norms of the maps to one signal: |A|^2, |B s|^2, |B1_k| of each layer (L, 1), and |B1|."""

    state: Tensor
    noise: Tensor
    layers: Tensor
    neurons: Tensor

    def mean_square(self, V: Tensor, n: Tensor) -> Tensor:
        """Bound (..., 1) on the signal's mean square from E|d|^2 <= V (..., 1) and the layers' rms <= n (..., L)."""
        linear = _root(self.state * V + self.noise)
        return (linear + torch.minimum(n @ self.layers, self.neurons * n.norm(dim=-1, keepdim=True))).square()


class _Gains:
    """Norms of the shifted system of the module docstring, and the bounds that follow from them.

    Args:
        system: A system of tensors.
        std: Standard deviations of the noise on the inputs, shape (nu,).
    """

    def __init__(self, system: LureSystem, std: Tensor) -> None:
        if isinstance(system.activation, Laws):
            raise SettingError(
                "NoiseUpperBound knows systems of one activation only, got neurons with laws of their own: use "
                "another regulariser"
            )
        alpha, beta = system.activation.slope
        middle, radius = (alpha + beta) / 2, (beta - alpha) / 2
        one = torch.eye(system.nv, dtype=std.dtype, device=std.device)
        # The slopes' middle goes into the linear part, the radius stays with the uncertain part.
        K = torch.linalg.solve_triangular(one - middle * system.D11, one, upper=False, unitriangular=True)
        C, E, D = K @ system.C1, K @ system.D12, radius * system.D11 @ K
        layers = system.blocks
        self._state = torch.stack([_norm(C[a:b]) for a, b in layers] or [std.new_zeros(())]).square()
        self._noise = torch.stack([_trace(E[a:b] * std) for a, b in layers] or [std.new_zeros(())])
        self._through = torch.linalg.inv(
            torch.eye(len(self._state), dtype=std.dtype, device=std.device) - _block_norms(D, layers)
        )

        def signal(A: Tensor, B1: Tensor, B2: Tensor) -> _Signal:
            inner = radius * B1 @ K
            by_layer = torch.stack([_norm(inner[:, a:b]) for a, b in layers] or [std.new_zeros(())])
            shifted = A + middle * B1 @ C, B2 + middle * B1 @ E
            whole = _norm(inner) if layers else std.new_zeros(())
            return _Signal(_norm(shifted[0]).square(), _trace(shifted[1] * std), by_layer[:, None], whole)

        self._next = signal(system.A, system.B1, system.B2)
        self._output = signal(system.C2, system.D21, system.D22)

    def next_state(self, V: Tensor) -> Tensor:
        """Bound on E|d+|^2 from E|d|^2 <= V, both (..., 1)."""
        return self._next.mean_square(V, self._layers(V))

    def output(self, V: Tensor) -> Tensor:
        """Bound on E|dy|^2 from E|d|^2 <= V, both (..., 1)."""
        return self._output.mean_square(V, self._layers(V))

    def _layers(self, V: Tensor) -> Tensor:
        """Bounds n (..., L) on the root mean squares of the layers' inputs from E|d|^2 <= V (..., 1)."""
        n: Tensor = _root(self._state * V + self._noise) @ self._through.T
        return n


def _check(system: System) -> None:
    """Refuse a system that is not a `LureSystem` of tensors."""
    if not isinstance(system, LureSystem) or system.is_frozen:
        raise SettingError(
            f"norms need a LureSystem of tensors, got {type(system).__name__}: pass model.system(), and use "
            "NoiseCovariance for gated models"
        )


def _norm(matrix: Tensor) -> Tensor:
    """Spectral norm."""
    value: Tensor = torch.linalg.matrix_norm(matrix, ord=2)
    return value


def _trace(matrix: Tensor) -> Tensor:
    """Sum of the squares of all entries, tr(M M')."""
    return matrix.square().sum()


def _root(square: Tensor) -> Tensor:
    """Square root, made slightly larger so that its derivative is finite at zero."""
    return (square + 1e-30).sqrt()


def _block_norms(D: Tensor, layers: tuple[tuple[int, int], ...]) -> Tensor:
    """Norms |D_kj| for all pairs of layers, shape (L, L)."""
    if len(layers) == len(D):
        return D.abs() if layers else D.new_zeros(1, 1)
    zero = D.new_zeros(())
    rows = [[_norm(D[a:b, c:d]) if c < a else zero for c, d in layers] for a, b in layers]
    return torch.stack([torch.stack(row) for row in rows])
