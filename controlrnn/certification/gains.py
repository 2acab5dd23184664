"""Gains per lag: what an initial difference, and what a single wrong input, can still do some steps later.

For equal inputs after the disturbance the storages P_0, P_1, ... of one output (see `incremental`) give

    |dy_k| <= l_k |dx_0|,  l_k^2 = max eig P_k,       |dy_m| <= g_m,c |du_c|  for one input at lag m,

the second from a step at equal states, gain^2 - T_c' P_{m-1} T_c - S(mu) >= 0. The slope condition does not depend on
time, so two trajectories with many differences are joined by a chain of trajectories that differ in one thing each:

    |dy_k| <= l_k |dx_0| + sum_{j <= k} sum_c g_{k-j,c} |du_{j,c}|        for any differences whatever.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from controlrnn.certification import figures, incremental
from controlrnn.certification.certificate import Certificate, certificate_schema, current_versions
from controlrnn.certification.families import Family, Problem
from controlrnn.certification.incremental import IncrementalForm, stage_margin
from controlrnn.certification.input_error import InputError
from controlrnn.certification.search import Search, best_family, issued_bounds, tail_for
from controlrnn.checks import Array, count, positive, read_only
from controlrnn.errors import CertificationError
from controlrnn.records import Count, Numbers, Part, Schema
from controlrnn.systems import LureSystem

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INFLATION = 1 + 1e-9  # of the squared gains, so that the proof has room


@dataclass(frozen=True, kw_only=True, eq=False)
class GainCertificate(Certificate):
    """Gains that hold for any size of the differences.

    Args:
        horizon: N.
        metric: Norm of the initial difference, sqrt(dx' metric dx), shape (nx, nx).
        initial: l, shape (N + 1, ny): output units per unit of that norm.
        inputs: g, shape (N + 1, ny, nu): output units per input unit, by lag.
        families: Multipliers behind the storages.
        input_multipliers: mu, shape (N + 1, ny, nu, nv).
    """

    KIND: ClassVar[str] = "gain-certificate"
    UNITS: ClassVar[dict[str, str]] = {
        "initial": "output units per sqrt(dx' metric dx)", "inputs": "output units per input unit",
        "metric": "per state unit squared",
    }  # fmt: skip

    SCHEMA: ClassVar[Schema] = certificate_schema(
        KIND, UNITS,
        arrays={
            "metric": Numbers("nx", "nx"), "initial": Numbers("N + 1", "ny", least=0.0),
            "inputs": Numbers("N + 1", "ny", "nu", least=0.0),
            "input_multipliers": Numbers("N + 1", "ny", "nu", "nv", least=0.0),
        },
        meta={"horizon": Count(size="N")}, parts={"families": Part(Family, many=True)},
    )  # fmt: skip

    horizon: int
    metric: Array
    initial: Array
    inputs: Array
    families: tuple[Family, ...]
    input_multipliers: Array

    def __post_init__(self) -> None:
        for name in ("metric", "initial", "inputs", "input_multipliers"):
            object.__setattr__(self, name, read_only(getattr(self, name)))

    def bounds(self, initial_radius: float, input_radius: float | Array | InputError = 0.0) -> Array:
        """Largest output differences per step, shape (N + 1, ny), by adding up the gains.

        Args:
            initial_radius: Bound on the initial difference, in the metric.
            input_radius: Bound on every input difference per step, a number for all channels or shape (nu,); or what
                else is known of them.
        """
        radius = positive("initial_radius", initial_radius, what="a number >= 0", zero=True)
        error = InputError.of(input_radius, self.inputs.shape[2])
        return np.asarray((self.initial * radius + error.added(self.inputs)) * (1 + 1e-12))

    def _prove(self, system: LureSystem) -> float:
        K = self.horizon + 1
        shapes = {
            "initial": (K, system.ny), "inputs": (K, system.ny, system.nu),
            "input_multipliers": (K, system.ny, system.nu, system.nv),
        }  # fmt: skip
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value.shape != shape or not np.isfinite(value).all() or (value < 0).any():
                raise CertificationError(
                    f"{name} must have shape {shape} and entries >= 0: the certificate was altered"
                )
        if sorted(f.row for f in self.families) != list(range(system.ny)):
            raise CertificationError("every output needs exactly one family of multipliers")
        problem = Problem(system, self.horizon, 1.0, self.metric, 0.0)
        channels = _channels(system)
        margin = np.inf
        for family in self.families:
            bounds, family_margin = problem.prove(family)
            margin = min(margin, family_margin)
            if not (bounds <= self.initial[:, family.row]).all():
                lag = int(np.argmin(bounds <= self.initial[:, family.row]))
                raise CertificationError(
                    f"the gain {self.initial[lag, family.row]:.17g} from the initial state at lag {lag} on output "
                    f"{family.row} is not proven: its multipliers give {bounds[lag]:.17g}; certify again"
                )
            P = problem.storages(family)
            for lag in range(K):
                before = P[lag - 1] if lag else np.zeros((0, 0))
                for c, form in enumerate(channels):
                    gain = np.array([self.inputs[lag, family.row, c] ** 2])
                    terminal = form.Y[[family.row]] if not lag else before
                    mu = self.input_multipliers[lag, family.row, c]
                    margin = min(margin, stage_margin(form, np.zeros((0, 0)), gain, mu, terminal, not lag))
                    if not margin > 0:
                        raise CertificationError(
                            f"the gain of input {c} at lag {lag} on output {family.row} is not proven", margin=margin
                        )
        return float(margin)

    def summary(self) -> str:
        """What is claimed, in words and numbers."""
        total = np.cumsum(self.inputs, axis=0)[-1]
        return (
            f"Gain certificate for system {self.system_digest[:12]}, lags 0..{self.horizon}. From the initial state, "
            f"last lag: {np.array2string(self.initial[-1], precision=4)}; inputs, summed over lags (outputs x inputs): "
            f"{np.array2string(total, precision=4)}. Proven in float64, smallest relative pivot {self.margin:.2g}."
        )

    def plot(self, labels: Sequence[str] = ()) -> Figure:
        """Draw the gains by lag, from the initial state and from all inputs together.

        Args:
            labels: One for each output.
        """
        figure, axes = figures.panels(2)
        drawn = ((self.initial, "initial state"), (self.inputs.sum(axis=2), "one unit in every input"))
        for one, (gains, title) in zip(axes, drawn, strict=True):
            for i, gain in enumerate(gains.T):
                one.plot(gain, marker=".", label=figures.label(labels, i, "y"))
            one.set(title=title, xlabel="lag [steps]", ylabel="certified gain", ylim=(0, None))
            one.legend()
        return figure


def certify_gains(
    system: LureSystem, horizon: int, *, metric: Array | None = None, iterations: int = 300
) -> GainCertificate:
    """Prove the gains of all lags from one sweep per output.

    Args:
        system: A frozen system.
        horizon: Largest lag N >= 0.
        metric: Norm of the initial difference, shape (nx, nx); the 2-norm if None.
        iterations: Most iterations of the search for multipliers.

    Returns:
        A certificate that has been verified.

    Raises:
        SettingError, ShapeError, DataError: An argument makes no sense.
        CertificationError: No gains could be proven.
    """
    problem = Problem(system, horizon, 1.0, metric, 0.0)
    K, channels = count("horizon", horizon, least=0) + 1, _channels(system)
    initial = np.empty((K, system.ny))
    inputs = np.empty((K, system.ny, system.nu))
    multipliers = np.empty((K, system.ny, system.nu, system.nv))
    families, tail = [], tail_for(problem)
    for row in range(system.ny):
        family = best_family(Search(problem, row, tail), iterations)
        families.append(family)
        initial[:, row] = issued_bounds(problem, family)
        P = problem.storages(replace(family, padding=2 * family.padding))  # see `issued_bounds`
        for lag in range(K):
            for c, form in enumerate(channels):
                demand = form.Y[[row]].T @ form.Y[[row]] if not lag else form.T.T @ P[lag - 1] @ form.T
                # Multipliers for which the storage exists bound a step from equal states too.
                gain, mu = smallest_gain(form, demand, family.multipliers[lag])
                inputs[lag, row, c], multipliers[lag, row, c] = gain, mu
    certificate = GainCertificate(
        system_digest=system.digest, method="riccati", solver_status="", margin=0.0, versions=current_versions(),
        horizon=K - 1, metric=problem.metric, initial=initial, inputs=inputs, families=tuple(families),
        input_multipliers=multipliers,
    )  # fmt: skip
    return replace(certificate, margin=certificate.verify(system))


def smallest_gain(form: IncrementalForm, demand: Array, multipliers: Array) -> tuple[float, Array]:
    """The smallest proven gain of a single input at equal states, over multiples of given multipliers.

    Args:
        form: A form `at_equal_states` with one input.
        demand: H, shape (1 + nv, 1 + nv).
        multipliers: Shape (nv,), feasible at least when multiplied by a large number.

    Returns:
        The gain (a little inflated), and the multipliers that prove it, shape (nv,).
    """
    best, chosen = np.inf, multipliers
    for factor in 2.0 ** np.arange(-6, 7):
        lam = factor * multipliers
        G = demand + form.multiplier_form(lam)
        square = incremental.schur_top(G)
        if square < best:
            best, chosen = square, lam
    if not np.isfinite(best):
        raise CertificationError("no gain from an input could be proven: the multipliers do not exist at equal states")
    size = float(np.abs(demand).max()) + float(np.abs(form.multiplier_form(chosen)).max())
    return float(np.sqrt(best * _INFLATION + 1e-12 * size)), chosen


def _channels(system: LureSystem) -> list[IncrementalForm]:
    eye = np.eye(system.nu, dtype=bool)
    return [IncrementalForm.of(system, eye[c]).at_equal_states() for c in range(system.nu)]
