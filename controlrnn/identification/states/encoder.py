"""State encoder: a learned map from the last few inputs and outputs to the model's state.

x_t = E(u_{t-n}, y_{t-n}, .., u_{t-1}, y_{t-1}) with E linear plus one hidden layer, as in the encoder of SUBNET
(Beintema, Schoukens, Toth, "Deep subspace encoders for nonlinear system identification", Automatica 2023). Here it is
fitted to the states x* that an identified model has along its records, so that the model stays as it was certified. A
washout needs a record as long as the model's memory; the encoder also uses what was measured and needs less.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch

from controlrnn.checks import Array, as_array, count, numbers, positive, read_only
from controlrnn.data import Scaler, Trajectory
from controlrnn.errors import DataError, SettingError, ShapeError
from controlrnn.kernels import simulate
from controlrnn.kernels.dense import product
from controlrnn.records import Count, Digest, Numbers, Part, Schema, Stored
from controlrnn.systems import LureSystem
from controlrnn.typed import typed

_ARRAYS = ("linear", "inner", "bias", "outer")
_MOST_STEPS = 100_000  # some minutes for a small layer, which has settled long before


@dataclass(frozen=True, kw_only=True, eq=False)
@typed()
class StateEncoder(Stored):
    """Fitted encoder from the last few inputs and outputs to a model's state, in float64.

    Args:
        past: Number n of past samples used.
        inputs: Scaler of the inputs.
        outputs: Scaler of the outputs.
        linear: Linear part, shape (nx, 1 + n (nu + ny)); the first column is a constant.
        inner: Weights of the hidden layer, shape (hidden, n (nu + ny)).
        bias: Biases of the hidden layer, shape (hidden,).
        outer: Weights from the hidden layer to the state, shape (nx, hidden).
        system_digest: Digest of the model whose states it encodes.
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "state-encoder", 2,
        arrays={
            "linear": Numbers("nx", "f + 1"), "inner": Numbers("hidden", "f"), "bias": Numbers("hidden"),
            "outer": Numbers("nx", "hidden"),
        },
        meta={"past": Count(1), "system_digest": Digest()},
        parts={"inputs": Part(Scaler), "outputs": Part(Scaler)}, zero=("hidden",),
    )  # fmt: skip

    past: int
    inputs: Scaler
    outputs: Scaler
    linear: Array
    inner: Array
    bias: Array
    outer: Array
    system_digest: str

    def __post_init__(self) -> None:
        for name, axes in zip(_ARRAYS, (2, 2, 1, 2), strict=True):
            object.__setattr__(self, name, read_only(as_array(name, getattr(self, name), ["n"] * axes)))
        features = self.past * (len(self.inputs.shift) + len(self.outputs.shift))
        if self.linear.shape[1] != 1 + features or self.inner.shape[1] != features:
            raise ShapeError(
                f"linear and inner must have 1 + {features} and {features} columns for {self.past} samples, got "
                f"{self.linear.shape[1]} and {self.inner.shape[1]}"
            )

    def estimate(self, u: Array, y: Array) -> Array:
        """Estimate the state at the sample after a window.

        Args:
            u: Inputs, shape (..., past, nu), input units.
            y: Outputs, shape (..., past, ny), output units.

        Returns:
            Shape (..., nx).

        Raises:
            ShapeError: A window has the wrong shape.
        """
        u, y = numbers("u", u), numbers("y", y)
        for name, value, scaler in (("u", u, self.inputs), ("y", y, self.outputs)):
            if value.shape[-2:] != (self.past, len(scaler.shift)):
                raise ShapeError(
                    f"{name} must have shape (..., past, n) = (..., {self.past}, {len(scaler.shift)}), got "
                    f"{value.shape}: pass the last {self.past} samples"
                )
        if u.shape[:-2] != y.shape[:-2]:
            raise ShapeError(f"u and y must hold the same windows, got {u.shape} and {y.shape}")
        z = _flat(self.inputs.apply(u), self.outputs.apply(y))
        rows = z.reshape(-1, z.shape[-1])
        hidden = np.tanh(product(rows, self.inner.T) + self.bias)
        x = self.linear[:, 0] + product(rows, self.linear[:, 1:].T) + product(hidden, self.outer.T)
        return x.reshape(*z.shape[:-1], -1)


@typed()
def fit_encoder(
    system: LureSystem,
    records: Sequence[Trajectory],
    *,
    past: int,
    washout: int,
    hidden: int = 16,
    steps: int = 300,
    ridge: float = 1e-4,
    seed: int = 0,
) -> StateEncoder:
    """Fit an encoder to the states of a frozen model along records.

    Args:
        system: The model, physical units.
        records: Records to learn from, those the model was trained on.
        past: Number n of past samples that the encoder uses.
        washout: Samples after which the model's run from zero serves as x*; at least ``past``.
        hidden: Units of the hidden layer; 0 for a linear encoder.
        steps: Optimiser steps of the hidden layer, at most 100 000.
        ridge: Weight of the squared linear coefficients, relative to the number of windows.
        seed: Seed of the hidden layer.

    Raises:
        SettingError: A setting is out of range.
        DataError: No record is longer than the washout.
    """
    past, washout = count("past", past), count("washout", washout)
    positive("ridge", ridge)
    hidden, steps = count("hidden", hidden, least=0), count("steps", steps, least=0, most=_MOST_STEPS)
    if not system.is_frozen or washout < past:
        raise SettingError(f"fit_encoder needs a frozen system and washout >= past = {past}, got washout {washout}")
    inputs, outputs = Scaler.fit([r.u for r in records]), Scaler.fit([r.y for r in records])
    features, states = [], []
    for record in records:
        if len(record) <= washout:
            continue
        x = simulate(system, record.u)[1]
        u, y = inputs.apply(record.u), outputs.apply_measured(record.y)
        windows = [np.lib.stride_tricks.sliding_window_view(a, past, axis=0).swapaxes(1, 2) for a in (u, y)]
        found = _flat(*(w[washout - past : len(record) - past] for w in windows))
        complete = ~np.isnan(found).any(axis=1)  # windows in which no sample is missing
        features.append(found[complete])
        states.append(x[washout : len(record)][complete])
    if not sum(map(len, features)):
        raise DataError(
            f"fit_encoder needs records longer than washout = {washout}, with {past} complete samples in a row: lower "
            "washout or past, or record for longer"
        )
    z, x = np.concatenate(features), np.concatenate(states)
    # Ridge regression for the linear part, whose constant is not penalised.
    one = np.hstack([np.ones((len(z), 1)), z])
    penalty = ridge * len(z) * np.diag([0.0] + [1.0] * z.shape[1])
    linear = np.linalg.solve(one.T @ one + penalty, one.T @ x).T
    inner, bias, outer = _hidden_layer(z, x - one @ linear.T, hidden, steps, seed)
    return StateEncoder(
        past=past,
        inputs=inputs,
        outputs=outputs,
        linear=linear,
        inner=inner,
        bias=bias,
        outer=outer,
        system_digest=system.digest,
    )


def _hidden_layer(z: Array, rest: Array, hidden: int, steps: int, seed: int) -> tuple[Array, Array, Array]:
    """Fit the weights of the hidden layer to the residual of the linear part."""
    rng = np.random.default_rng(seed)
    scale = rest.std(axis=0) + 1e-12
    start = (
        rng.normal(size=(hidden, z.shape[1])) / z.shape[1] ** 0.5,
        rng.normal(size=hidden),
        np.zeros((rest.shape[1], hidden)),
    )
    if not hidden:
        return start
    inner, bias, outer = (torch.tensor(a, requires_grad=True) for a in start)
    features, target = torch.tensor(z), torch.tensor(rest / scale)
    optimiser = torch.optim.Adam([inner, bias, outer], lr=1e-2)
    pick = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        batch = torch.randint(len(z), (min(len(z), 512),), generator=pick)
        optimiser.zero_grad()
        out = torch.tanh(features[batch] @ inner.T + bias) @ outer.T
        torch.autograd.backward(((out - target[batch]) ** 2).mean())
        optimiser.step()
    return inner.detach().numpy(), bias.detach().numpy(), scale[:, None] * outer.detach().numpy()


def _flat(u: Array, y: Array) -> Array:
    """Join windows (..., n, nu) and (..., n, ny) to features (..., n (nu + ny))."""
    return np.concatenate([u.reshape(*u.shape[:-2], -1), y.reshape(*y.shape[:-2], -1)], axis=-1)
