"""Identification of grey boxes: physical parameters, residual neurons and initial states by Levenberg-Marquardt.

The cost is the mean square of the free run's error in units of the outputs' declared deviations, plus priors of the
parameters and the ridge on the residual's weights. Its derivatives are exact: those of the outputs by the matrices from
`controlrnn.kernels.sensitivity`, those of the matrices by the parameters from the trace.

Errors of a free run are coloured, so that the covariance of the parameters is the sandwich (J'J)^-1 J' O J (J'J)^-1
with the errors' autocovariance O (Newey & West, Econometrica 1987, Bartlett's window), valid for many samples where the
model's errors are small and do not come from the structure.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from controlrnn.checks import Array, as_array, checked_seed, count, positive, put, read_only
from controlrnn.data import Trajectory
from controlrnn.errors import DataError, FileFormatError, SettingError, ShapeError
from controlrnn.greybox.equations import Equations
from controlrnn.greybox.residual import Residual
from controlrnn.greybox.tracing import Traced, trace
from controlrnn.identification.optimisers.levenberg_marquardt import LevenbergMarquardt
from controlrnn.kernels import simulate
from controlrnn.kernels.sensitivity import Sensitivities
from controlrnn.records import ListOf, Numbers, Part, Schema, Stored, Text
from controlrnn.systems import MATRICES, LureSystem
from controlrnn.typed import typed

_log = logging.getLogger(__name__)
_SETTLED = 1e-9  # relative decrease of the cost over ten iterations at which a start has converged
_SHOWN = 12  # parameters that a fit prints
_ARRAYS = ("correlation", "residual_share", "initial_states", "costs")  # of a fit
_DEVIATION = 0.01  # of the outputs' own deviation, where none is declared


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """Options of the fit of a grey box.

    Args:
        residual: Number of tanh neurons beside the equations; zero for physics alone.
        penalty: Weight of the residual's squares: a squared weight W costs as much as this share of the cost of an
            error of one deviation at every sample.
        deviation: Standard deviation of the outputs' errors that counts as one, shape (ny,); a hundredth of the
            records' when left out. Only its relation between outputs, to priors and to the penalty matters.
        starts: Number of starting points; the first is what is believed.
        spread: Standard deviation of further starts in the parameters' unbounded coordinates.
        iterations: Largest number of iterations of each start.
        skip: Samples at the start of each record that do not count.
        seed: Seed of starts and residual neurons.
    """

    residual: int = 0
    penalty: float = 1.0
    deviation: Sequence[float] | None = None
    starts: int = 1
    spread: float = 0.3
    iterations: int = 100
    skip: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        put(
            self,
            residual=count("residual", self.residual, least=0),
            starts=count("starts", self.starts),
            iterations=count("iterations", self.iterations),
            skip=count("skip", self.skip, least=0),
            seed=checked_seed(self.seed),
            **{name: positive(name, getattr(self, name), zero=True) for name in ("penalty", "spread")},
        )
        if self.deviation is not None:
            put(self, deviation=tuple(as_array("deviation", self.deviation, ("ny",)).tolist()))


@dataclass(frozen=True, eq=False)
class GreyBoxFit(Stored):
    """An identified grey box, which saves itself.

    Args:
        system: The system, frozen, in physical units.
        physics: The same without residual neurons.
        values: Parameters by name.
        deviations: Their standard deviations by name; see `controlrnn.greybox.fitting`. Zero for fixed ones, infinity
            where the records say nothing.
        correlation: Correlations of the parameters that are not fixed, shape (P, P).
        condition: Ratio of the largest to the smallest singular value of the errors' derivatives by these parameters,
            scaled to equal size: beyond a thousand or so some of them are told apart by little.
        residual_share: Share of the variance of each state's changes that the residual makes, shape (nx,).
        initial_states: Of each record, shape (R, nx).
        costs: Final cost of each start.

    Raises:
        SettingError: Values and deviations name different parameters, or the parts are of different sizes.
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "grey-box-fit", 1,
        arrays={
            "values": Numbers("P"), "deviations": Numbers("P", least=0.0, infinite=True),
            "correlation": Numbers("F", "F", nan=True), "condition": Numbers(least=0.0, infinite=True),
            "residual_share": Numbers("nx", least=0.0, nan=True), "initial_states": Numbers("R", "nx"),
            "costs": Numbers("S", infinite=True),
        },
        meta={"names": ListOf(Text(64), "P")},
        parts={"system": Part(LureSystem, own=True), "physics": Part(LureSystem, own=True)}, zero=("P", "F"),
    )  # fmt: skip

    system: LureSystem
    physics: LureSystem
    values: dict[str, float]
    deviations: dict[str, float]
    correlation: Array
    condition: float
    residual_share: Array
    initial_states: Array
    costs: Array

    def __post_init__(self) -> None:
        if list(self.values) != list(self.deviations):
            raise SettingError(f"deviations must name {list(self.values)}, got {list(self.deviations)}")
        named = {name: {n: float(v) for n, v in getattr(self, name).items()} for name in ("values", "deviations")}
        arrays = {name: read_only(getattr(self, name)) for name in _ARRAYS}
        put(self, **named, **arrays, condition=float(self.condition))
        sizes = [(s.nx, s.nu, s.ny, s.dt) for s in (self.system, self.physics)]
        if sizes[0] != sizes[1]:
            raise SettingError(f"physics must have the system's (nx, nu, ny, dt) {sizes[0]}, got {sizes[1]}")
        nx, most = self.system.nx, len(self.values)
        if self.residual_share.shape != (nx,) or self.initial_states.shape[1:] != (nx,):
            raise SettingError(
                f"residual_share and initial_states must be of {nx} states, got {self.residual_share.shape} and "
                f"{self.initial_states.shape}"
            )
        if len(set(self.correlation.shape)) != 1 or self.correlation.ndim != 2 or len(self.correlation) > most:
            raise SettingError(
                f"correlation must be a square matrix of at most {most} parameters, got {self.correlation.shape}"
            )

    def record(self) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
        """Arrays and JSON values of this result, both systems included; see `Stored.record`."""
        arrays = {name: np.array(list(getattr(self, name).values()), dtype=float) for name in ("values", "deviations")}
        arrays |= {name: np.asarray(getattr(self, name), dtype=float) for name in (*_ARRAYS, "condition")}
        meta: dict[str, Any] = {"names": list(self.values)}
        for name in ("system", "physics"):
            inner, meta[name] = getattr(self, name).record()
            arrays |= {f"{name}.{n}": array for n, array in inner.items()}
        return arrays, meta

    @classmethod
    def _fields(cls, values: dict[str, Any]) -> dict[str, Any]:
        names = values.pop("names")
        if len(set(names)) < len(names):
            raise FileFormatError(f"parameters must have names of their own, got {names}")
        named = {n: dict(zip(names, values[n].tolist(), strict=True)) for n in ("values", "deviations")}
        return values | named | {"condition": float(values["condition"])}

    def __repr__(self) -> str:
        shown = list(self.values)[:_SHOWN]
        rows = [f"  {name} = {self.values[name]:.6g} +- {self.deviations[name]:.2g}" for name in shown]
        rows += [f"  and {len(self.values) - _SHOWN} more parameters"] if len(self.values) > _SHOWN else []
        system, residual = self.system, float(self.residual_share.max(initial=0.0))
        return "\n".join(
            [
                f"GreyBoxFit: {system.nx} states, {system.nu} inputs, {system.ny} outputs, dt {system.dt:g} s",
                *rows,
                f"  residual: {100 * residual:.2g} % of the changes' variance",
                f"  lowest cost of {len(self.costs)} starts {float(np.min(self.costs, initial=np.inf)):.4g}; "
                f"digest {system.digest[:16]}",
            ]
        )


@typed()
def fit_equations(equations: Equations, records: Sequence[Trajectory], options: FitOptions | None = None) -> GreyBoxFit:
    """Identify a grey box from records.

    Args:
        equations: The equations with their parameters.
        records: Records in physical units.
        options: How; the defaults when left out.

    Raises:
        SettingError, ShapeError, DataError: Equations and records do not fit together.
        DataError: No start has a finite cost.
    """
    options = options or FitOptions()
    problem = FitProblem(equations, records, options)
    rng, best, costs = np.random.default_rng(options.seed), None, []
    for k in range(options.starts):
        x = problem.start(rng, options.spread if k else 0.0)
        descent = LevenbergMarquardt(problem, x)
        values = [descent.value]
        for _ in range(options.iterations):
            if not descent.iterate():
                break
            values.append(descent.value)
            if len(values) > 10 and values[-11] - values[-1] <= _SETTLED * values[-1]:
                break
        _log.info("start %d: cost %.6g after %d iterations", k, descent.value, len(values) - 1)
        costs.append(descent.value)
        if np.isfinite(descent.value) and (best is None or descent.value < best.value):
            best = descent
    if best is None:
        raise DataError("no start has a finite free run: take more sub-steps, or bound the parameters")
    return problem.result(best.x, np.array(costs))


class FitProblem:
    """The least-squares problem of `fit_equations`: unknowns (parameters, residual, initial states)."""

    def __init__(self, equations: Equations, records: Sequence[Trajectory], options: FitOptions) -> None:
        self.equations = equations
        self.records = list(records)
        self.options = options
        if not self.records:
            raise DataError("at least one record is needed, got none")
        self.free = [i for i, p in enumerate(equations.parameters) if not p.fixed]
        self.residual = Residual(equations, options.residual)
        self.q = len(self.free) + sum(self.residual.sizes)
        self.nx, nu = len(equations.states), len(equations.inputs)
        ny = trace(equations).system.ny
        for record in self.records:
            if (record.nu, record.ny) != (nu, ny):
                raise ShapeError(
                    f"records must have {nu} inputs and {ny} outputs, as the equations, got {record.nu}, {record.ny}"
                )
            if not np.isclose(record.dt, equations.dt, rtol=1e-9, atol=0.0):
                raise SettingError(f"records must have dt = {equations.dt} s, as the equations, got {record.dt}")
            if len(record) <= options.skip:
                raise DataError(f"records must be longer than skip = {options.skip}, got {len(record)} samples")
        y = np.concatenate([r.y[options.skip :] for r in self.records])
        if options.deviation is None:
            self.deviation = _DEVIATION * np.maximum(y.std(axis=0), 1e-12)
        else:
            self.deviation = as_array("deviation", options.deviation, (ny,))
            if not (self.deviation > 0).all():
                raise SettingError(f"deviation must be positive, got {self.deviation}")
        self.count = y.size

    def start(self, rng: np.random.Generator, spread: float) -> Array:
        """Starting point: what is believed, moved by ``spread``, with the initial states that fit best."""
        p = self.equations.parameters
        inner = np.array([p[i].inner(p[i].value) for i in self.free]) + spread * rng.standard_normal(len(self.free))
        theta = np.concatenate([inner, self.residual.start(rng)])
        box = self.equations.boxes()[0]
        x0 = np.tile(box.mean(axis=1), (len(self.records), 1))
        system = self.system(theta)[0].system
        for r, record in enumerate(self.records):
            x0[r] = self._settled(system, record, x0[r])
        return np.concatenate([theta, x0.ravel()])

    def _settled(self, system: LureSystem, record: Trajectory, x: Array) -> Array:
        """Initial state of a record by a few damped Gauss-Newton steps on its first samples, kept in its box."""
        box, head = self.equations.boxes()[0], min(len(record), 50)
        damping, sensitivities = 1e-3, Sensitivities(system)
        u, y = record.u[:head], record.y[:head]
        for _ in range(15):
            out, states = simulate(system, u, x)
            J = (sensitivities.run(u, states[:-1], sensitivities.start())[0] / self.deviation[:, None]).reshape(
                -1, len(x)
            )
            e = ((y - out) / self.deviation).ravel()
            if not (np.isfinite(J).all() and np.isfinite(e).all()):
                break
            H = J.T @ J
            step = np.linalg.solve(
                H + damping * (np.diag(H.diagonal()) + 1e-9 * np.eye(len(x)) * (1 + H.trace())), J.T @ e
            )
            x = np.clip(x + step, box[:, 0], box[:, 1])
        return x

    def values(self, x: Array) -> tuple[dict[str, float], Array]:
        """Parameters by name, and the derivatives of the free ones by their unknowns."""
        found, slopes = self.equations.believed, np.ones(len(self.free))
        for k, i in enumerate(self.free):
            one = self.equations.parameters[i]
            found[one.name], slopes[k] = one.outer(float(x[k]))
        return found, slopes

    def system(self, x: Array) -> tuple[Traced, Array]:
        """The system at some unknowns, and its entries' derivatives by the first q of them, (entries, q)."""
        values, slopes = self.values(x)
        P, F = len(self.equations.parameters), len(self.free)
        whole = self.residual.added(trace(self.equations, values), x[F : self.q])
        by = np.concatenate([whole.derivatives[name].reshape(-1, P + self.q - F) for name in MATRICES])
        return whole, np.hstack([by[:, self.free] * slopes, by[:, P:]])

    def value(self, x: Array) -> float:
        """Cost."""
        try:
            with np.errstate(all="ignore"):
                system = self.system(x)[0].system
                errors = [self._error(system, r, x0) for r, x0 in zip(self.records, self.initial(x), strict=True)]
                total = sum(float((e**2).sum()) for e in errors) / self.count + float((self._beliefs(x)[0] ** 2).sum())
        except (SettingError, OverflowError):
            return np.inf
        return total if np.isfinite(total) else np.inf

    def initial(self, x: Array) -> Array:
        """Initial states, shape (R, nx)."""
        return x[self.q :].reshape(len(self.records), self.nx)

    def _error(self, system: LureSystem, record: Trajectory, x0: Array) -> Array:
        """Errors of a free run in units of the deviations, shape (T - skip, ny)."""
        y = simulate(system, record.u, x0)[0]
        return np.asarray((y - record.y)[self.options.skip :] / self.deviation)

    def _beliefs(self, x: Array) -> tuple[Array, Array]:
        """Residuals of priors and ridge, and their derivatives by all unknowns."""
        values, slopes = self.values(x)
        rows, by, P = [], [], self.equations.parameters
        for k, i in enumerate(self.free):
            if np.isfinite(P[i].deviation):
                weight = 1 / (P[i].deviation * np.sqrt(self.count))
                rows.append((values[P[i].name] - P[i].value) * weight)
                by.append(slopes[k] * weight * np.eye(1, len(x), k)[0])
        W = self.residual.weights
        root = np.sqrt(self.options.penalty)
        for j in range(W.start, W.stop):
            rows.append(root * x[len(self.free) + j])
            by.append(root * np.eye(1, len(x), len(self.free) + j)[0])
        return np.array(rows), np.array(by).reshape(-1, len(x))

    def jacobians(self, x: Array) -> tuple[list[Array], list[Array]]:
        """Errors (T', ny) of each record and their derivatives (T', ny, n) by all unknowns."""
        traced, by = self.system(x)
        selected = np.asarray(by.any(axis=1))
        sensitivities = Sensitivities(traced.system, selected)
        errors, slopes = [], []
        for r, (record, x0) in enumerate(zip(self.records, self.initial(x), strict=True)):
            y, states = simulate(traced.system, record.u, x0)
            dy, _ = sensitivities.run(record.u, states[:-1], sensitivities.start())
            J = np.zeros((*y.shape, len(x)))
            J[..., : self.q] = dy[..., : sensitivities.n_entries] @ by[selected]
            here = self.q + r * self.nx
            J[..., here : here + self.nx] = dy[..., sensitivities.n_entries :]
            skip = self.options.skip
            errors.append((y - record.y)[skip:] / self.deviation)
            slopes.append(J[skip:] / self.deviation[:, None])
        return errors, slopes

    def gauss_newton(self, x: Array) -> tuple[float, Array, Array]:
        """Cost, gradient and approximate Hessian."""
        with np.errstate(all="ignore"):
            errors, slopes = self.jacobians(x)
            extra, by = self._beliefs(x)
            value, gradient = float((extra**2).sum()), 2 * by.T @ extra
            hessian = 2 * by.T @ by
            for e, J in zip(errors, slopes, strict=True):
                flat = J.reshape(-1, J.shape[-1])
                value += float((e**2).sum()) / self.count
                gradient = gradient + 2 / self.count * flat.T @ e.ravel()
                hessian = hessian + 2 / self.count * flat.T @ flat
        return value, gradient, hessian

    def result(self, x: Array, costs: Array) -> GreyBoxFit:
        """Result of the fit at these unknowns."""
        traced, _ = self.system(x)
        system, F = traced.system, len(self.free)
        values, slopes = self.values(x)
        covariance, condition = self._covariance(x)
        deviation = np.sqrt(np.maximum(covariance.diagonal(), 0.0)) * np.abs(slopes)
        scale = np.where(deviation > 0, deviation / np.abs(slopes), 1.0)
        names = [self.equations.parameters[i].name for i in self.free]
        found = dict.fromkeys(values, 0.0) | dict(zip(names, deviation.tolist(), strict=True))
        runs = [simulate(system, r.u, x0)[1][:-1] for r, x0 in zip(self.records, self.initial(x), strict=True)]
        share = np.zeros(self.nx)
        if self.options.residual:
            share = self.residual.share(system, np.concatenate(runs), np.concatenate([r.u for r in self.records]))
        physics = trace(self.equations, values).system
        correlation = covariance[:F, :F] / np.outer(scale, scale)
        return GreyBoxFit(system, physics, values, found, correlation, condition, share, self.initial(x).copy(), costs)

    def _covariance(self, x: Array) -> tuple[Array, float]:
        """Sandwich covariance (F, F) of the free parameters' unknowns, and the condition of their derivatives."""
        F = len(self.free)
        errors, slopes = self.jacobians(x)
        _, by = self._beliefs(x)
        J = np.concatenate([s.reshape(-1, len(x)) for s in slopes])
        information = J.T @ J + self.count * by.T @ by
        size = np.sqrt(np.maximum(information.diagonal(), 1e-300))
        inverse = np.linalg.pinv(information / size[:, None] / size, rcond=1e-14, hermitian=True)
        inverse = inverse / size[:, None] / size
        middle = self.count * by.T @ by
        for e, s in zip(errors, slopes, strict=True):
            lags = max(1, int(4 * (len(e) / 100) ** (2 / 9) * np.sqrt(len(e)) / 4))
            push = np.einsum("tyn,ty->tn", s, e)  # gradient of each sample
            for lag in range(min(lags, len(e) - 1) + 1):
                part = push[lag:].T @ push[: len(push) - lag]
                middle = middle + (1 - lag / (lags + 1)) * (part if lag == 0 else part + part.T)
        covariance = (inverse @ middle @ inverse)[:F, :F]
        own = J[:, :F]
        norms = np.sqrt((own**2).sum(axis=0))
        if not F or not norms.all():
            return covariance, np.inf if F else 1.0
        singular = np.linalg.svd(own / norms, compute_uv=False)
        return covariance, float(singular[0] / max(singular[-1], 1e-300))


def physics_alone(fit: GreyBoxFit) -> GreyBoxFit:
    """A fit whose system is its physics."""
    return replace(fit, system=fit.physics)
