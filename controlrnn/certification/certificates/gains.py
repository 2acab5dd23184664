"""Gains per lag: bounds on the effect of an initial difference and of single inputs some steps later.

For equal inputs after the disturbance the storages P_0, P_1, ... of one output (see `incremental`) give

    |dy_k| <= l_k |dx_0|,  l_k^2 = max eig P_k,       |dy_m| <= g_m,c |du_c|  for one input at lag m,

the second from a step at equal states, gain^2 - T_c' P_{m-1} T_c - S(mu) >= 0. Together, for any differences whatever,

    |dy_k| <= l_k |dx_0| + sum_{j <= k} sum_c g_{k-j,c} |du_{j,c}|        (proof: docs/theory/horizon.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from controlrnn.certification import figures
from controlrnn.certification.certificate import PROOF_ROOM, Certificate, certificate_schema, current_versions, in_words
from controlrnn.certification.families import Family, PredictionInequality
from controlrnn.certification.input_error import InputError
from controlrnn.certification.proof.arithmetic.enclosure import times_up
from controlrnn.certification.proof.horizon import gain_margins, prove_gains
from controlrnn.certification.proof.incremental import IncrementalForm, schur_top
from controlrnn.certification.proof.structure import reaching
from controlrnn.certification.search.horizon import Search, best_family, issued_bounds, tail_for
from controlrnn.certification.search.units import Units
from controlrnn.checks import Array, positive, read_only
from controlrnn.errors import CertificationError
from controlrnn.records import Count, Numbers, Part, Schema
from controlrnn.systems import LureSystem
from controlrnn.typed import typed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_INFLATIONS = (1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 0.1)  # of the gains, so that the proof has room


@dataclass(frozen=True, kw_only=True, eq=False)
@typed(infinite=("*",), stored=False)
class GainCertificate(Certificate):
    """Proof of gains per lag from the initial state and from inputs, for differences of any size.

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
        "initial": "output units per sqrt(dx' metric dx)",
        "inputs": "output units per input unit",
        "metric": "per state unit squared",
    }

    SCHEMA: ClassVar[Schema] = certificate_schema(
        KIND,
        UNITS,
        arrays={
            "metric": Numbers("nx", "nx"),
            "initial": Numbers("N + 1", "ny", least=0.0),
            "inputs": Numbers("N + 1", "ny", "nu", least=0.0),
            "input_multipliers": Numbers("N + 1", "ny", "nu", "nv", least=0.0),
        },
        meta={"horizon": Count(size="N")},
        parts={"families": Part(Family, many=True)},
    )

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
        """Bounds on output differences per step, shape (N + 1, ny), as sums of the gains.

        Args:
            initial_radius: Bound on the initial difference, in the metric.
            input_radius: Bound on every input difference per step, a number for all channels or shape (nu,); or what
                else is known of them.
        """
        radius = positive("initial_radius", initial_radius, what="a number >= 0", zero=True)
        error = InputError.of(input_radius, self.inputs.shape[2])
        total = times_up(self.initial, radius) + error.added(self.inputs)
        return np.where(total == 0, 0.0, np.nextafter(total, np.inf))

    def _prove(self, system: LureSystem, room: float) -> float:
        K = self.horizon + 1
        shapes = {
            "initial": (K, system.ny),
            "inputs": (K, system.ny, system.nu),
            "input_multipliers": (K, system.ny, system.nu, system.nv),
        }
        for name, shape in shapes.items():
            value = getattr(self, name)
            if value.shape != shape or not np.isfinite(value).all() or (value < 0).any():
                raise CertificationError(
                    f"{name} must have shape {shape} and entries >= 0: the certificate was altered"
                )
        initial, margin = prove_gains(
            system, self.horizon, self.metric, self.families, self.input_multipliers, self.inputs, room=room
        )
        if not (initial <= self.initial).all():
            lag, row = (int(n) for n in np.argwhere(~(initial <= self.initial))[0])
            raise CertificationError(
                f"the gain {self.initial[lag, row]:.17g} from the initial state at lag {lag} on output {row} is not "
                f"proven: its multipliers give {initial[lag, row]:.17g}; certify again"
            )
        return margin

    def _claim(self) -> str:
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


@typed()
@in_words
def certify_gains(
    system: LureSystem, horizon: int, *, metric: Array | None = None, iterations: int = 300
) -> GainCertificate:
    """Prove the gains of all lags, from one backward recursion per output.

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
    problem = PredictionInequality(system, horizon, 1.0, metric, 0.0)
    K = problem.horizon + 1
    initial, inputs = np.empty((K, system.ny)), np.zeros((K, system.ny, system.nu))
    multipliers = np.zeros((K, system.ny, system.nu, system.nv))
    # No input has a size of its own here: each counts in units of its effect.
    units = Units.of(system, None, start=1 / np.sqrt(problem.metric.diagonal()))
    scaled = units.problem(problem, system, None)
    families, tail = [], tail_for(scaled)
    for row in range(system.ny):
        family = best_family(Search(problem, scaled, units, row, tail), iterations)
        families.append(family)
        states, reached = reaching(system, row, K)
        initial[:, row] = np.where(states.any(axis=1), issued_bounds(problem, family), 0.0)
        P = np.array(problem.storages(replace(family, padding=2 * family.padding)))  # see `issued_bounds`
        for c in range(system.nu):
            # Where no path leads to the output the gain is zero, without multipliers.
            lags = np.flatnonzero(reached[:, c])
            found = [_least_gain(system, row, c, P[lag - 1] if lag else None, family.multipliers[lag]) for lag in lags]
            multipliers[lags, row, c] = np.array([mu for _, mu in found]).reshape(len(lags), system.nv)
            least = np.zeros(K)
            least[lags] = [gain for gain, _ in found]
            inputs[:, row, c] = _issued(system, row, c, P, multipliers[:, row, c], least, lags)
    certificate = GainCertificate(
        system_digest=system.digest,
        method="riccati",
        solver_status="",
        margin=0.0,
        versions=current_versions(),
        horizon=K - 1,
        metric=problem.metric,
        initial=initial,
        inputs=inputs,
        families=tuple(families),
        input_multipliers=multipliers,
    )
    return certificate.issue(system)


def _least_gain(system: LureSystem, row: int, channel: int, P: Array | None, multipliers: Array) -> tuple[float, Array]:
    """Least gain of one input at one lag over multiples of given multipliers; returns both. Not proven.

    Multipliers for which a storage exists bound a step from equal states too.
    """
    form = IncrementalForm.of_input(system, channel)
    demanded = form.Y[[row]].T @ form.Y[[row]] if P is None else form.T.T @ P @ form.T
    candidates = [factor * multipliers for factor in 2.0 ** np.arange(-6, 7)]
    squares = [schur_top(demanded + form.multiplier_form(lam)) for lam in candidates]
    best = int(np.argmin(squares))
    if not np.isfinite(squares[best]):
        raise CertificationError(
            "no gain from an input could be proven, since the multipliers do not exist at equal states"
        )
    return float(np.sqrt(max(squares[best], 1e-290))), candidates[best]


def _issued(
    system: LureSystem, row: int, channel: int, P: Array, mu: Array, least: Array, lags: NDArray[np.intp]
) -> Array:
    """Gains (K,) a little above the ``least`` ones that pass their proof at these lags; zero at other lags."""
    gains = np.zeros(len(least))
    rest = lags
    for inflation in _INFLATIONS:
        gains[rest] = least[rest] * (1 + inflation)
        margins = gain_margins(system, row, channel, P, mu, gains, room=PROOF_ROOM)[rest]
        rest = rest[~(margins > 0)]
        if not len(rest):
            return gains
    raise CertificationError(f"no gain of input {channel} on output {row} could be proven", margin=float(margins.min()))
