"""How far two trajectories can drift apart over a finite horizon, per step and per output.

The S-procedure with free weights: for every step k and output i

    |dy_k,i|^2 <= dx_0' P_k dx_0 + sum_{j <= k} sum_c rho_j,c du_c^2 <= radius^2 rho_x + sum_j sum_c rho_j,c b_c^2

with the storages of `incremental`. It generalises RNN-SDP (Hamelbeck & Schiffer 2025, arXiv 2509.17898), which has one
weight for everything, one output norm and the last step only; storage form and chordal exactness: see also
Xue et al., CDC 2022 (arXiv 2204.00846).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from controlrnn.certification import incremental, sdp
from controlrnn.certification.certificate import Certificate, current_versions
from controlrnn.certification.incremental import IncrementalForm
from controlrnn.certification.interior import extend, interior
from controlrnn.certification.psd import proven_margin
from controlrnn.certification.riccati import Task, minimise
from controlrnn.checks import Array, Choice, as_array, count, positive, read_only
from controlrnn.errors import CertificationError, DataError, SettingError
from controlrnn.systems import LureSystem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Stages that are optimised one by one; a longer horizon repeats what was found for the middle of these.
_HEAD = 200
_SPREAD = 10  # steps that one optimisation looks at together
# How far the multipliers are moved inside the feasible set, and how much the storages are enlarged, in the order tried.
_SHARES = (0.0, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0)
_PADDINGS = (1e-11, 1e-11, 1e-11, 1e-10, 1e-10, 1e-9, 1e-9, 1e-8, 1e-7)


class Method(Choice):
    """Where the multipliers come from."""

    RICCATI = "riccati"  # our optimisation through the backward recursion
    SDP = "sdp"  # the semidefinite program, through cvxpy


@dataclass(frozen=True, eq=False)
class Family:
    """Multipliers for one output, indexed by the number of steps to go, so that one sweep serves every step.

    Args:
        row: The output.
        multipliers: Shape (K, nv).
        rho: Shape (K, number of channels that differ).
        padding: Relative enlargement of the storages in the recursion.
    """

    row: int
    multipliers: Array
    rho: Array
    padding: float

    def __post_init__(self) -> None:
        for name in ("multipliers", "rho"):
            object.__setattr__(self, name, read_only(getattr(self, name)))


@dataclass(frozen=True, kw_only=True, eq=False)
class HorizonCertificate(Certificate):
    """Two trajectories that start close and have close inputs have outputs within `bounds` of each other, always.

    Args:
        horizon: N; steps 0..N are covered.
        initial_radius: Radius of the set of initial state differences, {dx' metric dx <= radius^2}.
        metric: Shape (nx, nx), positive definite; the identity for a ball in the 2-norm.
        input_radius: Largest input difference per channel and step, shape (nu,), input units.
        bounds: Shape (N + 1, ny), output units.
        families: The multipliers that prove them.
    """

    KIND: ClassVar[str] = "horizon-certificate"

    horizon: int
    initial_radius: float
    metric: Array
    input_radius: Array
    bounds: Array
    families: tuple[Family, ...]

    def __post_init__(self) -> None:
        for name in ("metric", "input_radius", "bounds"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    def _prove(self, system: LureSystem) -> float:
        proven, margin = np.full(self.bounds.shape, np.inf), np.inf
        if self.bounds.shape != (self.horizon + 1, system.ny):
            raise CertificationError(f"bounds must have shape {(self.horizon + 1, system.ny)}, got {self.bounds.shape}")
        problem = Problem(system, self.horizon, self.initial_radius, self.metric, self.input_radius)
        for family in self.families:
            bounds, family_margin = problem.prove(family)
            proven[:, family.row] = np.minimum(proven[:, family.row], bounds)
            margin = min(margin, family_margin)
        if not (proven <= self.bounds).all():
            k, i = (int(n) for n in np.argwhere(~(proven <= self.bounds))[0])
            raise CertificationError(
                f"the bound {self.bounds[k, i]:.6g} at step {k}, output {i} is not proven: its multipliers give "
                f"{proven[k, i]:.6g}; the certificate was altered or its margin is too small: certify again",
                margin=float(margin),
            )
        return float(margin)

    def summary(self) -> str:
        """What is claimed, in words and numbers."""
        radii = ", ".join(f"{r:.3g}" for r in self.input_radius)
        lines = [
            f"Horizon certificate for system {self.system_digest[:12]}, {self.horizon} steps ({self.method}).",
            f"Two trajectories that start within {self.initial_radius:.3g} of each other in the certificate's metric",
            f"and whose inputs differ by at most ({radii}) per channel and step differ by at most:",
        ]
        for k in sorted({0, self.horizon // 4, self.horizon // 2, self.horizon}):
            lines.append(f"  step {k:4d}: " + ", ".join(f"{b:.4g}" for b in self.bounds[k]))
        return "\n".join([*lines, f"Proven in float64, smallest relative pivot {self.margin:.2g}."])

    def plot(self, labels: Sequence[str] = ()) -> Figure:
        """Draw the bounds over the horizon, one line an output; returns the figure."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(6, 3.5), layout="constrained")
        axes = figure.subplots()
        for i, bound in enumerate(self.bounds.T):
            axes.plot(bound, marker=".", label=labels[i] if labels else f"y{i + 1}")
        axes.set(xlabel="step", ylabel="certified difference", ylim=(0, None))
        axes.legend()
        return figure

    def _arrays(self) -> dict[str, NDArray[Any]]:
        arrays: dict[str, NDArray[Any]] = {
            "metric": self.metric, "input_radius": self.input_radius, "bounds": self.bounds,
        }  # fmt: skip
        for n, family in enumerate(self.families):
            arrays |= {f"multipliers_{n}": family.multipliers, f"rho_{n}": family.rho}
        return arrays

    def _meta(self) -> dict[str, Any]:
        families = [{"row": f.row, "padding": f.padding} for f in self.families]
        return {"horizon": self.horizon, "initial_radius": self.initial_radius, "families": families}

    @classmethod
    def _restore(
        cls, arrays: dict[str, NDArray[Any]], meta: dict[str, Any], common: dict[str, Any]
    ) -> HorizonCertificate:
        families = tuple(
            Family(f["row"], arrays[f"multipliers_{n}"], arrays[f"rho_{n}"], f["padding"])
            for n, f in enumerate(meta["families"])
        )
        return cls(
            **common, horizon=meta["horizon"], initial_radius=meta["initial_radius"], families=families,
            metric=arrays["metric"], input_radius=arrays["input_radius"], bounds=arrays["bounds"],
        )  # fmt: skip


def certify_horizon(
    system: LureSystem, horizon: int, *, initial_radius: float, input_radius: float | Array = 0.0,
    metric: Array | None = None, method: Method | str = Method.RICCATI, focus: Sequence[int] | None = None,
    solver: str = "CLARABEL", solver_options: dict[str, Any] | None = None, iterations: int = 300,
) -> HorizonCertificate:  # fmt: skip
    """Bound, for steps 0..horizon and every output, how far two trajectories can differ.

    Args:
        system: A frozen system. It need not be stable.
        horizon: Number of steps N >= 0.
        initial_radius: Radius >= 0 of the set of initial state differences.
        input_radius: Largest difference of each input channel per step, a number for all or shape (nu,), input units.
        metric: Shape (nx, nx): initial differences satisfy dx' metric dx <= initial_radius^2; a 2-norm ball if None.
        method: Where the multipliers come from.
        focus: Steps whose bounds are to be tightest; each costs one optimisation per output. Every step is covered
            whatever the choice. Default: all steps together, and the last one.
        solver: cvxpy's solver, for `Method.SDP`.
        solver_options: Passed on to it.
        iterations: Most iterations, for `Method.RICCATI`.

    Returns:
        A certificate that has been verified.

    Raises:
        SettingError, ShapeError, DataError: An argument makes no sense.
        CertificationError: No bound could be proven.
    """
    problem = Problem(system, horizon, initial_radius, metric, input_radius)
    method = Method(method)
    steps = [problem.horizon] if focus is None else [count("focus", k, least=0) for k in focus]
    if not steps or max(steps) > problem.horizon:
        raise SettingError(f"focus must name steps within 0..{problem.horizon}, got {steps}")
    families: list[Family] = []
    statuses: set[str] = set()
    for row in range(system.ny):
        inside = start = problem.inside(row, steps[-1])
        for weights in _weights(problem, row, inside, steps, together=focus is None):
            task = problem.task(row, weights)
            if method is Method.SDP:
                sizes = problem.sizes(row, inside)
                lam, rho, status = sdp.solve_horizon(task, sizes, solver=solver, options=solver_options)
                statuses.add(status)
                start = lam, rho
            else:
                start = problem.minimise(task, start, iterations)
            families.append(problem.settle(row, start, inside))
    bounds = np.full((problem.horizon + 1, system.ny), np.inf)
    for family in families:
        bounds[:, family.row] = np.minimum(bounds[:, family.row], problem.prove(family)[0])
    certificate = HorizonCertificate(
        system_digest=system.digest, method=str(method), solver_status=",".join(sorted(statuses)), margin=0.0,
        versions=current_versions(), horizon=problem.horizon, initial_radius=problem.radius, metric=problem.metric,
        input_radius=problem.input_radius, bounds=bounds, families=tuple(families),
    )  # fmt: skip
    return replace(certificate, margin=certificate.verify(system))


class Problem:
    """The checked arguments and what follows from them; used to find multipliers and to prove them."""

    def __init__(
        self, system: LureSystem, horizon: int, radius: float, metric: Array | None, input_radius: float | Array
    ) -> None:
        if not system.is_frozen:
            raise SettingError("a certificate needs a frozen system, got one of tensors: call model.freeze() first")
        self.horizon = count("horizon", horizon, least=0)
        self.radius = positive("initial_radius", radius, what="a number >= 0", zero=True)
        radii = np.asarray(input_radius, dtype=np.float64)
        if radii.ndim == 0:
            radii = np.full(system.nu, float(radii))
        radii = as_array("input_radius", radii, (system.nu,), hint="one radius per input channel")
        if (radii < 0).any():
            raise SettingError(f"input_radius must be >= 0 in every channel, got {input_radius}")
        self.input_radius = radii
        self.metric = np.eye(system.nx) if metric is None else as_array("metric", metric, (system.nx, system.nx))
        if not np.array_equal(self.metric, self.metric.T) or proven_margin(self.metric, 0 * self.metric) <= 0:
            raise DataError(
                "metric must be symmetric and positive definite: symmetrise it, or check where it comes from"
            )
        self.form = IncrementalForm.of(system, self.input_radius > 0)
        self.b = self.input_radius[self.input_radius > 0]

    def task(self, row: int, weights: Array) -> Task:
        """The optimisation for one output, in coordinates in which the initial set is a ball."""
        L = np.linalg.cholesky(self.metric)  # xi = L' dx
        back = np.eye(self.form.nz)
        back[: self.form.nx, : self.form.nx] = np.linalg.inv(L.T)
        f = self.form
        local = IncrementalForm(L.T @ f.T @ back, f.Y @ back, f.lower @ back, f.upper @ back, f.nx, f.nu)
        c = local.Y[[row]]
        return Task(local, c.T @ c, weights, weights * self.radius**2, self.b)

    def inside(self, row: int, step: int) -> tuple[Array, Array]:
        """Multipliers well inside the feasible set, for one output."""
        task = self.task(row, self.weights(step))
        head = replace(task, weights=task.weights[:_HEAD], state_weights=task.state_weights[:_HEAD])
        return extend(head, interior(head), self.horizon + 1)

    def minimise(self, task: Task, start: tuple[Array, Array], iterations: int) -> tuple[Array, Array]:
        """Multipliers of the whole horizon, of which only the last `_HEAD` stages are optimised one by one.

        What happens further back arrives at the head as a state difference: the initial one, shrunk as ``start`` says.
        """
        if self.horizon < _HEAD:
            return minimise(task, start, steps=iterations)
        found, _ = incremental.storages(task.form, task.terminal, *start, padding=0.0)
        top = np.array([float(np.linalg.eigvalsh(P)[-1]) for P in found])
        inputs = np.cumsum(start[1] @ task.b**2)
        tail = task.state_weights * top + task.weights * (inputs - inputs[_HEAD - 1])
        weights, state_weights = task.weights[:_HEAD].copy(), task.state_weights[:_HEAD].copy()
        weights[-1] += task.weights[_HEAD:].sum()
        state_weights[-1] += tail[_HEAD:].sum() / top[_HEAD - 1]
        head = replace(task, weights=weights, state_weights=state_weights)
        return extend(head, minimise(head, (start[0][:_HEAD], start[1][:_HEAD]), steps=iterations), self.horizon + 1)

    def weights(self, step: int) -> Array:
        """Weights (N + 1,) that look at one step alone."""
        weights = np.zeros(self.horizon + 1)
        weights[step] = 1.0
        return weights

    def terminal(self, row: int) -> tuple[Array, Array]:
        """The row c (1, nz) and c'c."""
        c = self.form.Y[[row]]
        return c, c.T @ c

    def sizes(self, row: int, start: tuple[Array, Array]) -> Array:
        """Rough size of the storage per stage, shape (N + 1,), for scaling."""
        task = self.task(row, self.weights(0))
        found, _ = incremental.storages(task.form, task.terminal, *start, padding=0.0)
        return np.array([max(float(np.trace(P)) / len(P), 1e-100) for P in found])

    def settle(self, row: int, found: tuple[Array, Array], inside: tuple[Array, Array]) -> Family:
        """A family as close to ``found`` as the proof allows.

        An optimum lies on the boundary of the feasible set, and a solver's answer may lie outside of it; the set is
        convex, so the segment to a point ``inside`` enters it.

        Raises:
            CertificationError: The proof does not even pass at ``inside``.
        """
        for share, padding in zip(_SHARES, _PADDINGS, strict=True):
            lam, rho = ((1 - share) * a + share * b for a, b in zip(found, inside, strict=True))
            family = Family(row, lam, rho, padding)
            try:
                self.prove(family)
            except CertificationError as error:
                failure = error
            else:
                return family
        raise failure

    def best_family(self, row: int, iterations: int) -> Family:
        """One family for one output that is good at all steps."""
        inside = self.inside(row, self.horizon)
        weights = _weights(self, row, inside, [self.horizon], together=True)[0]
        return self.settle(row, self.minimise(self.task(row, weights), inside, iterations), inside)

    def storages(self, family: Family) -> list[Array]:
        """P_0 .. P_N of a family, as its proof computes them."""
        terminal = self.terminal(family.row)[1]
        return incremental.storages(self.form, terminal, family.multipliers, family.rho, family.padding)[0]

    def prove(self, family: Family) -> tuple[Array, float]:
        """Recompute the storages of ``family``, prove every stage, and return bounds (N + 1,) and the margin."""
        form, K = self.form, self.horizon + 1
        lam, rho = family.multipliers, family.rho
        if lam.shape != (K, form.nv) or rho.shape != (K, form.nu) or not 0 <= family.row < len(form.Y):
            raise CertificationError(
                f"multipliers must have shapes {(K, form.nv)} and {(K, form.nu)}, got {lam.shape}, {rho.shape}"
            )
        if not (np.isfinite(lam).all() and np.isfinite(rho).all() and (lam >= 0).all() and (rho >= 0).all()):
            raise CertificationError("multipliers must be finite and >= 0: the certificate was altered")
        c, terminal = self.terminal(family.row)
        P, found = incremental.storages(form, terminal, lam, rho, family.padding)
        if found < K:
            raise CertificationError(
                f"stage {found} of output {family.row} has no storage for these multipliers", margin=-1.0
            )
        margin, energy, bounds = np.inf, 0.0, np.empty(K)
        for j in range(K):
            margin = min(margin, incremental.stage_margin(form, P[j], rho[j], lam[j], P[j - 1] if j else c, not j))
            if margin <= 0:
                raise CertificationError(f"stage {j} of output {family.row}: the proof fails", margin=float(margin))
            energy += float(rho[j] @ self.b**2)
            start = self.radius**2 * incremental.largest_ratio(P[j], self.metric) if self.radius else 0.0
            # Far more than the rounding of these few additions.
            bounds[j] = np.sqrt(start + energy) * (1 + 1e-12)
        return bounds, float(margin)


def _weights(
    problem: Problem, row: int, inside: tuple[Array, Array], steps: Sequence[int], together: bool
) -> list[Array]:
    """Weights (N + 1,) of the optimisations to run for one output."""
    each = [problem.weights(k) for k in dict.fromkeys(steps)]
    if not together or not problem.horizon:
        return each
    # Steps spread over the horizon at once, each relative to its own size, which a first rough solution tells.
    lam, rho = problem.minimise(problem.task(row, each[-1]), inside, 20)
    found, _ = incremental.storages(problem.form, problem.terminal(row)[1], lam, rho, padding=0.0)
    energy = np.cumsum(rho @ problem.b**2)
    spread = np.unique(np.round(np.geomspace(1, problem.horizon + 1, _SPREAD)).astype(int)) - 1
    size = np.array(
        [problem.radius**2 * incremental.largest_ratio(found[k], problem.metric) + energy[k] for k in spread]
    )
    weights = np.zeros(problem.horizon + 1)
    weights[spread] = 1 / np.maximum(size, max(1e-12 * size.max(), 1e-200)) / len(size)
    return [weights, *each]
