"""Linear dynamics as they show in records: delays, feedthrough, memory, integrators, order, feedback."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import Array
from controlrnn.data.checking.excitation import excitation_orders, still_inputs
from controlrnn.data.checking.regression import Regression, regress, rows
from controlrnn.data.trajectory import Timing, Trajectory

_SURE = 6.0  # standard deviations of the statistic of coefficients that are there
_LONGEST = 2000  # samples of an impulse response
_LASTS = 0.25  # of its largest value, an impulse response at its end, from which on it is an integrator's
_NEAR = 0.05  # of the largest value of a step response, within which it has settled
_LEFT = 0.01  # share of the response that memory leaves out
_BLOCK = 20  # block rows of the Hankel matrix of the impulse response
_ENOUGH = 15_000  # rows of a second look
_TELLING = 5  # order of excitation from which on feedback and feedthrough can be told
_SMALL = 0.02  # singular values below this share of the largest are not counted
_WRONG_WAY = 0.05  # share of the final value by which a step response first goes the wrong way


@dataclass(frozen=True, eq=False)
class Dynamics:
    """Linear dynamics of a plant as its records show them.

    Args:
        delays: Samples of dead time from each input to each output, (ny, nu); NaN where nothing is seen to act.
        direct: Whether y[t] answers to u[t] of the same sample, shape (ny, nu).
        time_constants: Dominant time constant of each pair [s], shape (ny, nu); NaN where nothing acts.
        gains: Steady gain of each pair, output units per input unit, shape (ny, nu); NaN where nothing acts, and for
            integrators.
        memory: Samples after which 1 % of the longest response is left.
        integrating: Whether each output keeps what it was given, or forgets too slowly to tell, shape (ny,).
        inverse: Whether a step response first goes the wrong way, shape (ny, nu): a zero outside of the unit circle.
        swinging: Whether some response changes its sign often: an oscillation.
        corner: Frequency [Hz] around which the plant answers most, or begins to fall off.
        order: Number of states that a linear model needs.
        noise: Root mean square error of the best linear prediction by one sample, shape (ny,), output units.
        bent: Share of the error of linear prediction, by one sample or from inputs alone, that squares, cubes and
            products of the signals explain, shape (ny,).
        feedback: Whether each input answers to outputs, shape (nu,).
    """

    delays: Array
    direct: NDArray[np.bool_]
    time_constants: Array
    gains: Array
    memory: int
    integrating: NDArray[np.bool_]
    inverse: NDArray[np.bool_]
    swinging: bool
    corner: float
    order: int
    noise: Array
    bent: Array
    feedback: NDArray[np.bool_]


def dynamics_of(records: Sequence[Trajectory]) -> Dynamics:
    """Estimate the dynamics from a long ARX model of all records.

    Args:
        records: Records of the same channels, sample time and timing.

    Raises:
        DataError: There are too few samples.
    """
    found, dt = regress(records), records[0].dt
    ny, nu = found.B.shape[1:]
    first = found.first_lags(_SURE)
    acts = ~np.isnan(first)
    late = 0.0 if records[0].timing is Timing.INPUT_FIRST else 1.0  # lag 1 is no dead time where u[t] acts after y[t]
    g = found.impulse_response(min(_LONGEST, max(len(r) for r in records) // 2))
    g = np.where(acts, g, 0.0)
    size = np.abs(g).max(axis=0, initial=0.0)
    lasting = np.abs(g[-max(len(g) // 20, 1) :]).mean(axis=0) > _LASTS * np.where(size > 0, size, np.inf)
    integrating = lasting.any(axis=1) | (len(g) < min(_LONGEST, max(len(r) for r in records) // 2))
    step = np.cumsum(g, axis=0)
    memory = np.array([[_memory(step[:, i, j]) for j in range(nu)] for i in range(ny)])
    final = step[-1]
    noise = np.median(found.B_std, axis=0)
    wrong = np.where(np.sign(final) > 0, -step.min(axis=0), step.max(axis=0)) > np.maximum(
        _WRONG_WAY * np.abs(final), 4.0 * noise * np.sqrt(np.maximum(memory, 1))
    )
    first = _sure_lags(first, found, step, memory, integrating)
    delays = np.maximum(first - late, 0.0)
    settled = acts & ~integrating[:, None]
    unit = found.outputs.scale[:, None] / found.inputs.scale
    dead = np.nan_to_num(delays)
    answers, direct = _answers(records, found)
    return Dynamics(
        delays=delays,
        direct=direct,
        time_constants=np.where(acts, np.maximum(memory - dead, 0.5) / -np.log(_LEFT) * dt, np.nan),
        gains=np.where(settled, final * unit, np.nan),
        memory=int(memory.max(initial=1)),
        integrating=integrating,
        inverse=wrong & settled & (np.abs(final) > 0.05 * np.abs(step).max(axis=0, initial=0.0)),
        swinging=_swings(g, noise),
        corner=_corner(g, memory, noise, dt),
        order=_order(g, int(memory.max(initial=1)), float(np.median(found.B_std[:, acts])) if acts.any() else 0.0),
        noise=found.noise,
        bent=np.maximum(_bent(records, found), _bent_at_large(records, found, g[: 2 * int(memory.max(initial=1)) + 2])),
        feedback=answers,
    )


def _memory(step: Array) -> int:
    """Samples after which 1 % of a step response (K,) is left, from those after which it stays within 5 %.

    Errors of an impulse response cancel in its sum, so that a small rest of a step response is seen where that of an
    impulse response is not.
    """
    size = np.abs(step).max(initial=0.0)
    if not size > 0:
        return 0
    far = np.flatnonzero(np.abs(step - step[-1]) > _NEAR * size)
    return round((int(far[-1]) + 1) * np.log(_LEFT) / np.log(_NEAR)) if len(far) else 0


def _sure_lags(first: Array, found: Regression, step: Array, memory: Array, integrating: NDArray[np.bool_]) -> Array:
    """First lags of `Regression.first_lags`, made shorter where so small an effect could not have been seen.

    A dead time is one where the step response, with three standard errors, has stayed below half of what a plant of the
    same time constant without dead time would have reached by then.
    """
    sure = first.copy()
    for i, j in np.argwhere(first > 1):
        d, tau = int(first[i, j]), max(memory[i, j] / -np.log(_LEFT), 1.0)
        while d > 1 and not integrating[i]:
            lags = min(d, len(found.B)) - 1
            reached = 0.5 * abs(step[-1, i, j]) * (1.0 - np.exp(-lags / tau))
            if abs(step[lags, i, j]) + 3.0 * found.sum_std(lags)[i, j] < reached:
                break
            d -= 1
        sure[i, j] = d
    return sure


def _corner(g: Array, memory: Array, noise: Array, dt: float) -> float:
    """Frequency [Hz] of the peak of the response (K, ny, nu) that swings, else of the slowest time constant."""
    if _swings(g, noise):
        size = np.abs(g).max(axis=0, initial=0.0)
        power = np.abs(np.fft.rfft(g / np.where(size > 0, size, 1.0), n=4 * len(g), axis=0)).max(axis=(1, 2))
        return float(np.fft.rfftfreq(4 * len(g), dt)[int(np.argmax(power))])
    return float(-np.log(_LEFT) / (2 * np.pi * max(int(memory.max(initial=1)), 1) * dt))


def _swings(g: Array, noise: Array) -> bool:
    """Whether some impulse response (K, ny, nu) changes its sign at least four times while it is large."""
    large = np.where(np.abs(g) > np.maximum(0.1 * np.abs(g).max(axis=0, initial=0.0), 5.0 * noise), np.sign(g), 0.0)
    changes = [int((np.diff(c[c != 0]) != 0).sum()) for c in large.reshape(len(g), -1).T]
    return max(changes, default=0) >= 4


def _order(g: Array, memory: int, noise: float) -> int:
    """Number of large singular values of the Hankel matrix of an impulse response (K, ny, nu) (Ho & Kalman 1966).

    Those that errors of size ``noise`` alone would have, about noise (sqrt(rows) + sqrt(columns)), are not counted.
    """
    block = min(_BLOCK, (len(g) - 1) // 2)
    if block < 1 or not np.abs(g).max(initial=0.0):
        return 1
    size = np.abs(g).max(axis=(0, 2))
    scaled = g / np.where(size > 0, size, 1.0)[None, :, None]
    noise /= float(np.median(size[size > 0]))
    # Responses that are slow against the sample time are looked at in larger steps.
    stride = max(1, min(len(g) - 1, memory) // (2 * block))
    sampled = scaled[1::stride][: 2 * block]
    block = len(sampled) // 2
    H = np.concatenate([np.concatenate(list(sampled[a : a + block]), axis=1) for a in range(block)])
    values = np.linalg.svd(H, compute_uv=False)
    floor = 2.0 * noise * (H.shape[0] ** 0.5 + H.shape[1] ** 0.5)
    return max(1, int((values > max(_SMALL * values[0], floor)).sum()))


def _bent(records: Sequence[Trajectory], found: Regression) -> Array:
    """Share of the one-step error that squares and products of the last outputs and inputs explain, shape (ny,)."""
    n, ny, nu = len(found.A), *found.B.shape[1:]
    R, _ = rows(records, n, found.inputs, found.outputs)
    R, error = R[:_ENOUGH], found.error[:_ENOUGH]
    z = np.concatenate([R[:, :ny], R[:, n * ny + nu : n * ny + 2 * nu]], axis=1)[:, :8]
    pairs = [z[:, a] * z[:, b] for a in range(z.shape[1]) for b in range(a, z.shape[1])]
    X = np.stack([*pairs, *(z**3).T, np.ones(len(z))], axis=1)
    # What is linear in the regressors is no news: it is taken out first.
    X = X - R @ np.linalg.lstsq(R, X, rcond=1e-8)[0]
    fitted = X @ np.linalg.lstsq(X, error, rcond=1e-8)[0]
    whole = (error**2).sum(axis=0)
    explained = (fitted**2).sum(axis=0) / np.where(whole > 0, whole, 1.0)
    return np.asarray(np.maximum(0.0, explained - X.shape[1] / max(len(X), 1)))  # what chance explains


def _bent_at_large(records: Sequence[Trajectory], found: Regression, g: Array) -> Array:
    """Share of the error of a linear run from inputs alone that the square and cube of its outputs explain, (ny,)."""
    ny, nu = found.B.shape[1:]
    runs, errors = [], []
    for r in records:
        u = found.inputs.apply(r.u[:_ENOUGH])
        y = found.outputs.apply_measured(r.y[:_ENOUGH])
        pairs = [[np.convolve(u[:, j], g[:, i, j])[: len(u)] for j in range(nu)] for i in range(ny)]
        run = np.sum(pairs, axis=1).T.reshape(len(u), ny)
        runs.append(run[len(g) :])
        errors.append((y - run)[len(g) :])
    shares = np.zeros(ny)
    for i in range(ny):
        x, e = np.concatenate([z[:, i] for z in runs]), np.concatenate([z[:, i] for z in errors])
        x, e = x[~np.isnan(e)], e[~np.isnan(e)]
        if len(x) < 50:
            continue
        straight = np.stack([np.ones(len(x)), x], axis=1)
        bends = np.stack([x**2, x**3], axis=1)
        left = [z - straight @ np.linalg.lstsq(straight, z, rcond=1e-8)[0] for z in (bends, e)]
        fitted = left[0] @ np.linalg.lstsq(left[0], left[1], rcond=1e-8)[0]
        # An error that is correlated in time fits by chance more often: each memory counts once.
        chance = 2.0 * min(len(g), len(x)) / len(x)
        shares[i] = max(0.0, float(fitted @ fitted) / max(float(left[1] @ left[1]), 1e-300) - chance)
    return shares


def _answers(records: Sequence[Trajectory], found: Regression) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether inputs answer to outputs, shape (nu,), and whether outputs answer to inputs at once, shape (ny, nu).

    Past outputs that help to predict an input are feedback. What an input and an output have in common within a sample
    may be either: a feedthrough has the same slope whether the input moves much or little, while an input that answers
    to noisy readings moves much for other reasons.
    """
    n, ny, nu = len(found.A), *found.B.shape[1:]
    R, Y = (z[:_ENOUGH] for z in rows(records, n, found.inputs, found.outputs))
    past_y, now, past_u = R[:, : n * ny], R[:, n * ny : n * ny + nu], R[:, n * ny + nu :]
    both = np.concatenate([past_u, past_y], axis=1)
    alone = now - past_u @ np.linalg.lstsq(past_u, now, rcond=1e-8)[0]
    joint = now - both @ np.linalg.lstsq(both, now, rcond=1e-8)[0]
    before, after = (alone**2).sum(axis=0), (joint**2).sum(axis=0)
    q, free = past_y.shape[1], max(len(R) - both.shape[1], 1)
    F = (before - after) / np.maximum(after / free, 1e-12 * len(R))  # chi square of q degrees, if outputs do not help
    # An input that its own past predicts, or that excites few coefficients, tells nothing of this.
    tells = ~still_inputs(records) & (before > 1e-4 * len(R)) & (excitation_orders(records) > _TELLING)
    answers = ((F - q) / np.sqrt(2.0 * q) > 8.0) & (after < 0.9 * before) & tells
    news = Y - both @ np.linalg.lstsq(both, Y, rcond=1e-8)[0]
    direct = np.zeros((ny, nu), dtype=bool)
    for j in np.flatnonzero(tells):
        large = np.abs(joint[:, j]) > np.quantile(np.abs(joint[:, j]), 0.9)
        for i in range(ny):
            if abs(float(np.corrcoef(joint[:, j], news[:, i])[0, 1])) < _SURE / len(R) ** 0.5:
                continue
            much, little = (_slope(joint[m, j], news[m, i]) for m in (large, ~large))
            if abs(much - little) < 0.5 * max(abs(much), abs(little)):
                direct[i, j] = True
            else:
                answers[j] = True
    return answers, direct


def _slope(u: Array, y: Array) -> float:
    """Slope of the line through zero."""
    return float(u @ y / max(float(u @ u), np.finfo(np.float64).tiny))
