"""Limits that learn from measured errors: intervals for future prediction errors, and recursive feasibility with them.

The tightening of `mpc.tighten` covers the largest error that may ever occur. But the error of a prediction from the
estimate xhat at t, made at t for t + k, differs little from the error measured now:

    y[t+k] - yhat[k|t] = e[t] + ( r[t+k] - r[t] ) + ( D[k] - D[0] ),

    e[t] = y[t] - g(xhat[t]),    r[t] = y[t] - g(x*[t]),    D[k] = g(x*[t+k]) - g(xhat[k|t]) .

The first bracket is at most the *drift* rho_k, calibrated like any model error, with dhat = e (`DisturbanceFilter(1)`;
measurement noise is part of r). The second is at most the *change* of the difference of two trajectories, certified on
`controlrnn.systems.change_system`. So the error lies in the interval M_k = e[t] +- (rho_k + change_k), in A_k = +-a_k,
where a is the predictive tightening, and in the interval that earlier measurements give for the same sample:

    E_k[t+1] = ( E_{k+1}[t] + [-l_k, l_k] ) n A_k n M_k ,      E_k = A_k at first, E_N = A_N n M_N,

with l_k the certified effect of the estimate's jump (`mpc.tightening.terminal_set`). The first summand needs the
certified error of both estimates, xhat[t] and xhat[t+1], and their jump; where one is missing (at the first estimate
that may be used, after a gap, after a late measurement that moved the estimate further than a jump) E_k = A_k again.
The intervals hold for every plan. Let plans keep

    (1)  y_k + E_k widened by G_k within limits, k = 1..N-1, with G_1 = 0 and G_{k+1} = G_k + 2 l_k,
    (2)  |x_N - x_s|_P <= a and (3) g(x_s, u_s) within limits tightened by c + q of `mpc.tightening.terminal_set`,
         where now c >= a_{N-1} + G_{N-1} + l_{N-1}.

Theorem: if a plan keeps (1)-(3) from xhat, then the shifted plan keeps them from xhat+ for all measurements there. True
outputs keep their limits by (1) at k = 1. (Proof: docs/theory/limits_that_learn.md.)

The steady state at the end of a plan has a margin for the largest error, the next samples only for errors that are
possible until then: a plan may go close to its limits as long as it can come back. Measurements may be missing. One
that contradicts earlier ones, with e[t] outside E_0 or M_k disjoint from E_k, is an outlier or violates a declared
bound: the interval then spans both, and the step reports it and is not certified, since the theorem does not cover it.
Intersections of intervals over time are the consistency sets of set-membership identification (Milanese & Vicino,
Automatica 1991; in MPC: Tanaskovic, Fagiano, Smith, Morari, Automatica 2014).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from controlrnn.checks import Array, as_array, count, nonnegative, put, read_only, shown
from controlrnn.errors import CertificationError, SettingError
from controlrnn.portable import told_apart
from controlrnn.records import Digest, Numbers, Part, Schema, TableOf, Text, digest
from controlrnn.systems import change_system
from controlrnn.typed import typed
from mpc.calibration.model_error import ModelError
from mpc.observers.base import Observer
from mpc.observers.state_error import ROUNDING
from mpc.promises.made_again import MadeAgain, refuse_other, refuse_other_words
from mpc.promises.premises import Premises
from mpc.tightening.predictions import covers_inputs, input_set, refuse_boxes, start_of
from mpc.tightening.premises import calibrated_premises
from mpc.tightening.tightening import Tightening, growth_per_step

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from controlrnn.certification import HorizonCertificate

_FREE = 1e3  # weight of stored outputs in the metric, relative to the states: they start equal, and cost nothing
_PARTS = ("drift", "change", "jump", "absolute", "growth")


@dataclass(frozen=True, kw_only=True, eq=False)
@typed()
class ErrorMemory(MadeAgain):
    """Bounds on the difference of future prediction errors from the error measured now, in output units.

    Args:
        drift: Drift rho_k for k = 1..K, calibrated, shape (K, ny), not decreasing.
        change: Certified change of the difference of two trajectories for k = 1..K, shape (K, ny).
        jump: Effect l_k of the estimate's jump for k = 0..N-1, shape (N, ny).
        absolute: Bound a_k without measurements for k = 0..N, shape (N + 1, ny).
        growth: Widening G_k for recursive feasibility for k = 0..N, shape (N + 1, ny).
        end: Tightening c of the steady state at the end of plans, shape (ny,).
        promise: Text of what holds.
        digests: Sources by name: ``system``, ``observer``, ``tightening``, ``drift``, ``changes``, ``growth``.
        premises: Premises of the bounds, or None.
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "error-memory", 4,  # 2: without premises; 3: without their move_window
        arrays={
            "drift": Numbers("K", "ny", least=0.0), "change": Numbers("K", "ny", least=0.0),
            "jump": Numbers("N", "ny", least=0.0), "absolute": Numbers("N + 1", "ny", least=0.0),
            "growth": Numbers("N + 1", "ny", least=0.0), "end": Numbers("ny", least=0.0),
        },
        meta={
            "promise": Text(),
            "digests": TableOf(Digest(), ("system", "observer", "tightening", "drift", "changes", "growth")),
        },
        parts={"premises": Part(Premises, none=True, own=True)},
    )  # fmt: skip

    drift: Array
    change: Array
    jump: Array
    absolute: Array
    growth: Array
    end: Array
    promise: str
    digests: dict[str, str] = field(default_factory=dict)
    premises: Premises | None = None

    def __post_init__(self) -> None:
        ny = len(as_array("end", self.end, ("ny",)))
        for name in (*_PARTS, "end"):
            put(self, **{name: nonnegative(name, getattr(self, name), ("steps", ny) if name != "end" else (ny,))})
        lengths = {name: len(getattr(self, name)) for name in _PARTS}
        K, N = lengths["drift"], lengths["jump"]
        if lengths["change"] != K or not 1 <= K <= N or lengths["absolute"] != N + 1 or lengths["growth"] != N + 1:
            raise SettingError(f"parts must have K, K, N, N + 1 and N + 1 rows with 1 <= K <= N, got {lengths}")

    @property
    def steps(self) -> int:
        """Number K of samples that a measurement is remembered for."""
        return len(self.drift)

    @property
    def horizon(self) -> int:
        """Number N of prediction steps."""
        return len(self.jump)

    @property
    def spread(self) -> Array:
        """Half width of the interval about the error measured now that holds the one k = 1..K samples later."""
        return read_only((self.drift + self.change) * ROUNDING)

    def verify(
        self,
        tightening: Tightening,
        drift: ModelError,
        changes: Sequence[HorizonCertificate],
        *,
        observer: Observer,
        growth: HorizonCertificate | None = None,
    ) -> None:
        """Recompute the error memory from its sources and raise unless it agrees with them.

        Arguments as `make_error_memory`. The tightening has a `Tightening.verify` of its own; the drift's promise is
        trusted.

        Raises:
            CertificationError: A certificate does not hold, or the memory does not follow from its sources.
            SettingError: The parts do not belong together.
        """
        made = make_error_memory(tightening, drift, changes, observer=observer, growth=growth)
        (own, words), (arrays, meta) = self.record(), made.record()
        refuse_other("the error memory", own, arrays)
        refuse_other_words(
            "the error memory",
            {"promise": self.promise, "premises": _word(self.premises), **words["digests"]},
            {"promise": made.promise, "premises": _word(made.premises), **meta["digests"]},
        )
        self._made(made)

    def plot(self, labels: Sequence[str] = ()) -> Figure:
        """Draw drift and change over the steps against the bound without measurements, one panel per output."""
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator

        n = len(self.end)
        figure = Figure(figsize=(6, 2.2 * n), layout="constrained")
        ahead = np.arange(1, self.steps + 1)
        for i, panel in enumerate(figure.subplots(n, 1, sharex=True, squeeze=False)[:, 0]):
            parts = [self.drift[:, i], self.change[:, i]]
            panel.stackplot(ahead, *parts, labels=("drift (calibrated)", "change (certified)"), step="mid", alpha=0.8)
            panel.plot(np.arange(self.horizon + 1), self.absolute[:, i], color="C3", label="without measurements")
            panel.set(ylabel=labels[i] if labels else f"output {i + 1}", ylim=(0, None))
            panel.margins(x=0)
        figure.axes[0].legend(fontsize="small")
        figure.axes[-1].set_xlabel("prediction step")
        figure.axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))
        return figure


@typed()
def certify_changes(
    observer: Observer, steps: int, *, iterations: int = 200, progress: Callable[[int, int], None] | None = None
) -> tuple[HorizonCertificate, ...]:
    """Certify bounds on the change of the output difference of two trajectories within k = 1..K samples.

    Args:
        observer: The controller's observer, with a certified error.
        steps: Number K of samples; each costs one search per output on a system with k more outputs in its state.
        iterations: Iterations for the multipliers of each.
        progress: Called with (done, of) after each.

    Raises:
        SettingError: The observer certifies nothing, or the model has feedthrough.
        CertificationError: Nothing could be proven.
    """
    from controlrnn.certification import certify_horizon

    found = []
    for k in range(1, count("steps", steps) + 1):
        system, start, ahead = change_system(observer.system, k), *start_of(observer)
        # The state of the change system is that of the model, followed by stored outputs.
        metric = _FREE * float(np.linalg.eigvalsh(start.metric)[-1]) * np.eye(system.nx)
        metric[: len(start.metric), : len(start.metric)] = start.metric
        end = ahead + k
        found.append(
            certify_horizon(
                system,
                end,
                initial_radius=start.radius,
                metric=metric,
                input_radius=input_set(observer),
                focus=[end],
                iterations=iterations,
            )
        )
        if progress is not None:
            progress(k, steps)
    return tuple(found)


@typed()
def make_error_memory(
    tightening: Tightening,
    drift: ModelError,
    changes: Sequence[HorizonCertificate],
    *,
    observer: Observer,
    growth: HorizonCertificate | None = None,
) -> ErrorMemory:
    """Make an `ErrorMemory` from a tightening, a calibrated drift and certified changes.

    Raises where they do not fit together.

    Args:
        tightening: From `mpc.make_recursive` (for plans with a terminal set) or `mpc.tighten`, without disturbance
            feedback.
        drift: From `mpc.calibrate` with ``DisturbanceFilter(1.0)`` and no observer, over at least K steps.
        changes: From `certify_changes`, for k = 1..K; verified here.
        observer: The controller's observer.
        growth: The certificate given to `mpc.make_recursive`; None where there is no jump.

    Raises:
        SettingError: The parts belong to different models or observers, or were calibrated for something else.
        CertificationError: A certificate does not hold or covers too little.
    """
    K, N, system = len(changes), tightening.horizon, observer.system
    if observer.jump is None:
        raise SettingError(f"the observer states no jump ({observer.describe()}): certify it")
    if not system.digest == tightening.digests.get("system") == drift.system_digest:
        raise SettingError("tightening, drift and observer belong to different models: use one of them")
    if tightening.digests.get("observer") != observer.digest or "certificate" not in tightening.digests:
        raise SettingError("tightening must be certified for this observer: tighten(..., certificate, observer=...)")
    if "execution" in tightening.digests:
        raise SettingError("what limits learn does not count rounding: tighten without execution")
    if tightening.disturbance_gain is not None:
        raise SettingError("tightening must be without disturbance feedback: calibrate it with disturbance=None")
    if drift.disturbance_gain != 1.0 or drift.observer_digest:
        raise SettingError(
            "drift must be the change of the residual itself: calibrate(..., disturbance=DisturbanceFilter(1.0)) "
            f"without an observer, got gain {drift.disturbance_gain}"
        )
    if not 1 <= K <= min(N, drift.horizon):
        raise SettingError(f"changes must name 1..{min(N, drift.horizon)} steps, got {K}: certify fewer")
    # By k samples the residual drifts (calibrated), and the model's own error changes (certified).
    change = np.array([_proven(one, k, observer) for k, one in enumerate(changes, 1)])
    jumps, a = growth_per_step(growth, observer.jump, observer, tightening.predictive), tightening.predictive
    # Each sample's jump may move the candidate plan and its error interval: hence twice per step.
    G = np.zeros_like(a)
    for k in range(1, N):
        G[k + 1] = (G[k] + 2 * jumps[k]) * ROUNDING
    digests = {
        "system": system.digest,
        "observer": observer.digest,
        "tightening": tightening.digest,
        "drift": drift.digest,
        "changes": digest({}, {str(k): one.digest for k, one in enumerate(changes, 1)}),
    }
    return ErrorMemory(
        drift=np.maximum.accumulate(drift.bounds[1 : K + 1]),
        change=change,
        jump=jumps,
        absolute=a,
        growth=G,
        end=np.maximum(tightening.total[N], (a[N - 1] + G[N - 1] + jumps[N - 1]) * ROUNDING),
        promise=f"{tightening.promise}; errors drift within {K} samples by no more than a bound which {drift.promise}",
        digests=digests | ({} if growth is None else {"growth": growth.digest}),
        premises=_drift_premises(tightening, drift, observer),
    )._made(tightening)


def _word(premises: Premises | None) -> str:
    return "" if premises is None else premises.digest


def _drift_premises(tightening: Tightening, drift: ModelError, observer: Observer) -> Premises:
    """Premises of the tightening, after comparing them with those of the observer and of the drift's records."""
    own = calibrated_premises(drift, observer).also(horizon=tightening.horizon, length=None, missing=None, loop=None)
    if tightening.premises is None:
        return own
    tightening.premises.refuse_other("the tightening", own, "the drift")
    return tightening.premises.beside(own)


def _proven(certificate: HorizonCertificate, k: int, observer: Observer) -> Array:
    """Certified change within k samples, shape (ny,), after checks of the certificate."""
    if not hasattr(certificate, "system_digest"):
        raise SettingError(f"changes must hold certificates from certify_changes, got {shown(certificate)}")
    # As in `mpc.tightening.tightening`: system, horizon, initial radius and input radius have to cover this observer's.
    system, (start, ahead) = change_system(observer.system, k), start_of(observer)
    if certificate.system_digest != system.digest or certificate.horizon < ahead + k:
        raise SettingError(
            f"change {k} must be certified for change_system(model, {k}) over {ahead + k} steps, got "
            f"{certificate.horizon} steps for system {certificate.system_digest[:12]}: use certify_changes"
        )
    refuse_boxes(certificate)
    n = len(start.metric)
    radius, inputs = start.needed_in(certificate.metric[:n, :n]), observer.prediction_input_error
    if not (radius <= certificate.initial_radius and covers_inputs(certificate, observer)):
        needed, got = told_apart(radius, certificate.initial_radius)
        raise CertificationError(
            f"change {k} must cover an initial error of {needed} and input errors {inputs}, got "
            f"{got} and {certificate.input_radius}: certify_changes with this observer"
        )
    certificate.verify(system)
    return np.asarray(certificate.bounds[ahead + k])
