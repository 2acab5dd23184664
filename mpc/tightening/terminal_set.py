"""Terminal set around an artificial steady state, and the theorem of recursive feasibility.

A plan holds inputs u_0, ..., u_{M-1}, the last of which, u_s, is kept from step M - 1 on; states x_0 = xhat, x_{k+1} =
f(x_k, u_k) up to x_N, M <= N; x_s = f(x_s, u_s), which exists and is unique because f contracts, |f(x, u) - f(z, u)|_P
<= p |x - z|_P. It has to keep, besides the limits of inputs and of moves |u_k - u_{k-1}|,

    (1)  |y_k| within limits tightened by c_k, k = 1..N-1 (also k = 0 where the output answers to the input at once),
    (2)  |x_N - x_s|_P <= a,
    (3)  g(x_s, u_s) within limits tightened by c_N + q, where |g(x, u) - g(x_s, u)| <= q whenever |x - x_s|_P <= a.

Let the estimate jump by at most e, |xhat+ - f(xhat, u_0)|_P <= e, let l_k bound what that does to outputs k steps later
(a `HorizonCertificate` of initial radius e and equal inputs), and let

    (A)  c_{k+1} >= c_k + l_k   (`mpc.make_recursive`),             (B)  p a + p^N e <= a   (`TerminalSet`).

Theorem: if a plan keeps (1)-(3) from xhat, then the shifted plan u_1, ..., u_{M-1}, u_s keeps them from xhat+. (Proof:
docs/theory/recursive_feasibility.md.)

Hence the problem stays feasible for ever once it was feasible, for any answer of the solver: the shifted plan may
always be applied. If c_k also covers every prediction error of step k (`mpc.tighten`), the true outputs keep their
limits. The conditions do not depend on references, which may change at any time. A horizon N longer than M costs only
simulation and makes a small: the artificial steady state (Limon et al., Automatica 2008) replaces a terminal set
designed in advance. Incremental tubes: Koehler, Soloperto, Mueller, Allgoewer, IEEE TAC 2021; no feedback is needed
since f contracts.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from controlrnn.checks import Array, as_array, count, definite, positive, put, read_only
from controlrnn.errors import CertificationError, DataError, SettingError
from controlrnn.kernels.dense import dot, product
from controlrnn.portable import told_apart
from controlrnn.records import Count, Digest, Number, Numbers, Part, Schema, TableOf, digest
from controlrnn.systems import LureSystem
from controlrnn.typed import typed
from mpc.observers.state_error import ROUNDING, StateError
from mpc.predictor import Predictor, output_scale
from mpc.promises.made_again import MadeAgain, refuse_other_words
from mpc.promises.premises import Premises, premises_of

if TYPE_CHECKING:
    from controlrnn.certification import ContractionCertificate, HorizonCertificate

_ROOM = 1.0 + 1e-6  # factor on the least radius by (B), so that rounding does not matter


@dataclass(frozen=True, kw_only=True, eq=False)
@typed()
class TerminalSet(MadeAgain):
    """Ball around an artificial steady state in which plans end; see the module docstring.

    Args:
        metric: Metric P, shape (nx, nx).
        radius: Radius a, in the metric.
        rate: Contraction rate p, in (0, 1).
        horizon: Prediction horizon N.
        jump: Bound e on the estimate's jump, in the metric.
        margin: Largest effect q on the outputs, shape (ny,), output units.
        digests: Sources by name: ``system``, ``contraction``, ``outputs`` and ``jump``.
        premises: Premises of the set, or None.
    """

    SCHEMA: ClassVar[Schema] = Schema(
        "terminal-set", 4,  # 2: without premises; 3: without their move_window
        arrays={"metric": Numbers("nx", "nx"), "margin": Numbers("ny", least=0.0)},
        meta={
            "radius": Number(above=0.0), "rate": Number(above=0.0, below=1.0), "horizon": Count(1),
            "jump": Number(least=0.0), "digests": TableOf(Digest(), ("system", "contraction", "outputs", "jump")),
        },
        parts={"premises": Part(Premises, none=True, own=True)},
    )  # fmt: skip

    metric: Array
    radius: float
    rate: float
    horizon: int
    jump: float
    margin: Array
    digests: dict[str, str] = field(default_factory=dict)
    premises: Premises | None = None

    def __post_init__(self) -> None:
        put(self, metric=definite("metric", self.metric))
        object.__setattr__(self, "margin", read_only(as_array("margin", self.margin, ("ny",))))
        try:
            self.root  # noqa: B018 -- factorised now, not in a control step
        except np.linalg.LinAlgError:
            raise SettingError("metric must be positive definite: take that of a certificate") from None
        positive("radius", self.radius)
        positive("jump", self.jump, zero=True)
        count("horizon", self.horizon)
        if not 0 < self.rate < 1:
            raise SettingError(f"rate must lie in (0, 1), got {self.rate}: the model has to contract")
        least = least_radius(self.rate, self.horizon, self.jump) / _ROOM  # condition (B)
        if self.radius < least:
            needed, got = told_apart(least, self.radius)
            raise CertificationError(
                f"radius must be at least rate^horizon jump / (1 - rate) = {needed}, got {got}: a jump "
                "could throw the end of a plan out of the set; take a larger radius or a longer horizon",
                margin=self.radius - least,
            )

    @cached_property
    def root(self) -> Array:
        """Cholesky factor R with R'R = P, shape (nx, nx)."""
        return np.asarray(np.linalg.cholesky(self.metric).T)

    def radii(self, gap: Array) -> float:
        """Distance of x_N from the steady state, ``gap`` (nx,), in radii of the set: inside if at most 1."""
        found = self._radii(as_array("gap", gap, (len(self.metric),)))
        if not np.isfinite(found):
            raise DataError("gap is beyond what float64 can square: check its units")
        return found

    def _radii(self, gap: Array) -> float:
        scaled = product(self.root, gap)
        return float(np.sqrt(dot(scaled, scaled))) / self.radius

    def verify(
        self,
        system: LureSystem,
        contraction: ContractionCertificate,
        outputs: HorizonCertificate,
        *,
        jump: StateError | None = None,
    ) -> None:
        """Verify that the set follows from the certificates that it was made from.

        Args:
            system: The model.
            contraction: Certificate of rate and metric.
            outputs: Certificate of the margin.
            jump: The `Observer.jump` that the set has to allow for; a set that comes from a file is not verified
                without.

        Raises:
            CertificationError: A certificate does not hold, or the set claims more than the certificates.
        """
        contraction.verify(system)
        outputs.verify(system)
        # A claim may be weaker than its certificate, never stronger.
        claims = {
            "rate": self.rate >= contraction.rate,
            "metric": np.array_equal(self.metric, contraction.metric) and np.array_equal(self.metric, outputs.metric),
            "radius": self.radius <= outputs.initial_radius,
            "margin": bool((self.margin >= outputs.bounds[0]).all()),
            "jump": jump is None or self.jump >= jump.needed_in(self.metric),
            "reach": not outputs.input_range.size,  # nothing keeps estimates in the boxes of a certificate
        }
        for name, holds in claims.items():
            if not holds:
                raise CertificationError(
                    f"the terminal set's {name} does not follow from its certificates: make it anew"
                )
        sources = {"system": system.digest, "contraction": contraction.digest, "outputs": outputs.digest}
        if jump is not None:
            sources["jump"] = jump_digest(jump)
        refuse_other_words("the terminal set", {n: self.digests.get(n) for n in sources}, sources)
        if jump is not None:
            self._made()


@typed()
def terminal_set(
    predictor: Predictor,
    contraction: ContractionCertificate,
    *,
    horizon: int,
    jump: StateError,
    outputs: HorizonCertificate | None = None,
    share: float = 0.005,
) -> TerminalSet:
    """Make the terminal set for plans of one horizon.

    Args:
        predictor: Model.
        contraction: Its certificate, verified here.
        horizon: Prediction horizon N.
        jump: Bound on the jump of the estimate, `Observer.jump`.
        outputs: Bound on the output difference of two states within its initial radius of each other in the
            contraction's metric, under equal inputs; that radius becomes the set's. Made here when left out.
        share: Size of the set where ``outputs`` is left out and the jump allows it: its margin takes this share of some
            output's range. A larger set is easier to reach.

    Raises:
        CertificationError: A certificate does not hold, or its radius is too small for the jump.
        SettingError: ``outputs`` is about another model or metric.
    """
    from controlrnn.certification import certify_horizon

    system, P = predictor.system, contraction.metric
    contraction.verify(system)
    horizon = count("horizon", horizon)
    least = least_radius(contraction.rate, horizon, jump.radius_in(P))
    if outputs is None:  # margins are proportional to the radius: scale that of a unit ball to the wanted share
        unit = certify_horizon(system, 0, initial_radius=1.0, metric=P).bounds[0]
        moved = unit > 0  # by the set; the others bound no radius
        allowed = (positive("share", share) * output_scale(predictor)[moved] / unit[moved]).min(initial=np.inf)
        radius = max(least, float(allowed) if np.isfinite(allowed) else 1.0)
        outputs = certify_horizon(system, 0, initial_radius=radius, metric=P)
    elif outputs.system_digest != system.digest or not np.array_equal(outputs.metric, P):
        raise SettingError("outputs must be certified for this model in the contraction's metric: pass metric=...")
    made = TerminalSet(
        metric=P,
        radius=float(outputs.initial_radius),
        rate=float(contraction.rate),
        horizon=horizon,
        jump=jump.radius_in(P),
        margin=outputs.bounds[0],
        digests={
            "system": system.digest,
            "contraction": contraction.digest,
            "outputs": outputs.digest,
            "jump": jump_digest(jump),
        },
        premises=premises_of(predictor).also(horizon=horizon),
    )
    made.verify(system, contraction, outputs, jump=jump)
    return made


def least_radius(rate: float, horizon: int, jump: float) -> float:
    """Least radius by condition (B) of the module docstring, with a small margin for rounding."""
    return float(rate) ** horizon * jump / (1.0 - float(rate)) * ROUNDING * _ROOM


def jump_digest(jump: StateError) -> str:
    """SHA-256 of a bound on the jump, for the check that tightening and terminal set use the same one."""
    return digest({"metric": jump.metric}, {"radius": float(jump.radius)})
