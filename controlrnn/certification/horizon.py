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

from controlrnn.certification import sdp
from controlrnn.certification.certificate import Certificate, current_versions
from controlrnn.certification.families import Family, Problem
from controlrnn.certification.search import Search, families_for, tail_for
from controlrnn.checks import Array, Choice, count, read_only
from controlrnn.errors import CertificationError, SettingError
from controlrnn.systems import LureSystem

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Method(Choice):
    """Where the multipliers come from."""

    RICCATI = "riccati"  # our optimisation through the backward recursion
    SDP = "sdp"  # the semidefinite program, through cvxpy


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
    UNITS: ClassVar[dict[str, str]] = {
        "initial_radius": "sqrt(dx' metric dx)", "metric": "per state unit squared", "input_radius": "input units",
        "bounds": "output units",
    }  # fmt: skip

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
    tail = tail_for(problem)
    for row in range(system.ny):
        search = Search(problem, row, tail)
        if method is Method.RICCATI:
            families += families_for(search, steps, focus is None, iterations)
            continue
        found, status = _by_sdp(search, steps, focus is None, solver, solver_options)
        families += found
        statuses |= status
    bounds = np.full((problem.horizon + 1, system.ny), np.inf)
    for family in families:
        bounds[:, family.row] = np.minimum(bounds[:, family.row], problem.prove(family)[0])
    certificate = HorizonCertificate(
        system_digest=system.digest, method=str(method), solver_status=",".join(sorted(statuses)), margin=0.0,
        versions=current_versions(), horizon=problem.horizon, initial_radius=problem.radius, metric=problem.metric,
        input_radius=problem.input_radius, bounds=bounds, families=tuple(families),
    )  # fmt: skip
    return replace(certificate, margin=certificate.verify(system))


def _by_sdp(
    search: Search, steps: Sequence[int], together: bool, solver: str, options: dict[str, Any] | None
) -> tuple[list[Family], set[str]]:
    """Families of one output from the semidefinite program, and the solver's words."""
    if search.head < search.stages:
        raise SettingError(
            f"method 'sdp' takes at most {search.head - 1} steps, got {search.stages - 1}: use 'riccati'"
        )
    families, statuses = [], set()
    for weights in search.plan(steps, together):
        lam, rho, status = sdp.solve_horizon(search.task(weights), search.sizes(), solver=solver, options=options)
        families.append(search.settle((lam, rho)))
        statuses.add(status)
    return families, statuses
