"""Terminal sets: every number by its formula, every claim at its edge, with certificates that are written down."""

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from mpc_networks import elman, signals

from controlrnn import certification
from controlrnn.data import Signal
from controlrnn.errors import CertificationError, ControlRnnError, DataError, SettingError, ShapeError
from controlrnn.records import digest
from mpc import Predictor, StateError, TerminalSet, terminal_set
from mpc.observers.state_error import ROUNDING
from mpc.tightening.terminal_set import jump_digest, least_radius

P = np.array([[2.0, 0.5], [0.5, 1.0]])
RATE, N, JUMP = 0.8, 4, 0.3
LEAST = RATE**N * JUMP / (1 - RATE)


@dataclass(frozen=True)
class Written:
    """A certificate that holds for its system."""

    system_digest: str
    metric: np.ndarray = field(default_factory=lambda: P)
    rate: float = RATE
    initial_radius: float = 0.7
    bounds: np.ndarray = field(default_factory=lambda: np.array([[0.1, 0.2], [5.0, 5.0]]))
    input_range: np.ndarray = field(default_factory=lambda: np.zeros((2, 0)))
    digest: str = 64 * "a"

    def verify(self, system):
        if system.digest != self.system_digest:
            raise CertificationError(f"another system than that of {self.digest[:4]}")


SYSTEM = elman(nx=2)
PREDICTOR = Predictor(SYSTEM, signals("u", 2, 1.0), (Signal("y1", lower=-2, upper=2), Signal("y2", lower=0, upper=1)))
CONTRACTION, OUTPUTS = Written(SYSTEM.digest), Written(SYSTEM.digest, digest=64 * "b")
ERROR = StateError(JUMP, P)


def written(**fields):
    claim = {
        "metric": P, "radius": 0.7, "rate": RATE, "horizon": N, "jump": JUMP, "margin": np.array([0.1, 0.2]),
        "digests": {
            "system": SYSTEM.digest, "contraction": 64 * "a", "outputs": 64 * "b", "jump": jump_digest(ERROR),
        },
    }  # fmt: skip
    return TerminalSet(**(claim | fields))


def test_the_least_radius_takes_up_the_jump():
    assert least_radius(RATE, N, JUMP) == pytest.approx(LEAST * (1 + 1e-6), rel=1e-8)
    assert least_radius(RATE, N, JUMP) >= LEAST * (1 + 1e-6) * ROUNDING * (1 - 1e-15)
    assert least_radius(RATE, N, 0.0) == 0.0
    assert written(radius=LEAST * (1 + 1e-8)).radius == LEAST * (1 + 1e-8)
    with pytest.raises(CertificationError, match="could throw the end of a plan") as refused:
        written(radius=LEAST * (1 - 1e-6))
    assert refused.value.margin == pytest.approx(-1e-6 * LEAST, rel=1e-2)


def test_a_gap_is_measured_in_radii_of_the_set():
    one = written()
    assert np.allclose(one.root.T @ one.root, P)
    for gap in (np.array([0.3, -0.4]), np.array([0.0, 0.7]), np.zeros(2)):
        assert one.radii(gap) == pytest.approx(np.sqrt(gap @ P @ gap) / 0.7, rel=1e-12)
    with pytest.raises(DataError, match="beyond what float64"):
        one.radii(np.array([1e200, 0.0]))
    for wrong in (np.zeros(3), np.zeros((1, 2)), np.array([np.nan, 0.0])):
        with pytest.raises(ControlRnnError, match="gap"):
            one.radii(wrong)


@pytest.mark.parametrize(("wrong", "match"), [
    ({"metric": np.array([[1.0, 2.0], [2.0, 1.0]])}, "metric"), ({"metric": np.triu(P)}, "metric"),
    ({"metric": P[:1]}, "metric"), ({"radius": 0.0}, "radius"), ({"radius": -1.0}, "radius"), ({"jump": -0.1}, "jump"),
    ({"horizon": 0}, "horizon"), ({"rate": 0.0}, "rate"), ({"rate": 1.0}, "rate"), ({"rate": 1.2}, "rate"),
    ({"margin": np.zeros((1, 2))}, "margin"), ({"margin": np.array([np.nan, 0.0])}, "margin"),
], ids=lambda v: next(iter(v)) if isinstance(v, dict) else "")  # fmt: skip
def test_numbers_that_make_no_set(wrong, match):
    with pytest.raises(ControlRnnError, match=match):
        written(**wrong)


def test_a_set_without_jumps_may_be_small():
    assert written(jump=0.0, radius=1e-9, horizon=1).jump == 0.0
    assert not written().margin.flags.writeable


def test_claims_may_be_weaker_than_the_certificates_never_stronger():
    one = written()
    one.verify(SYSTEM, CONTRACTION, OUTPUTS, jump=ERROR)
    assert one.verified
    weaker = {"rate": 0.81, "radius": 0.69, "jump": 0.31, "margin": np.array([0.1, 0.3])}
    for name, value in weaker.items():
        if name == "radius":
            written(radius=value).verify(SYSTEM, CONTRACTION, OUTPUTS, jump=ERROR)
        else:
            written(**{name: value}).verify(SYSTEM, CONTRACTION, OUTPUTS, jump=ERROR)
    stronger = {
        "rate": {"rate": 0.79}, "radius": {"radius": 0.71}, "jump": {"jump": 0.29},
        "margin": {"margin": np.array([0.1, 0.19])}, "metric": {"metric": 1.5 * P},
    }  # fmt: skip
    for name, fields in stronger.items():
        with pytest.raises(CertificationError, match=f"the terminal set's {name} does not follow"):
            written(**fields).verify(SYSTEM, CONTRACTION, OUTPUTS, jump=ERROR)
    with pytest.raises(CertificationError, match="margin does not follow"):
        written(margin=np.array([0.09, 0.2])).verify(SYSTEM, CONTRACTION, OUTPUTS, jump=ERROR)
    for which in (0, 1):
        pair = [CONTRACTION, OUTPUTS]
        pair[which] = replace(pair[which], metric=1.5 * P)
        with pytest.raises(CertificationError, match="metric does not follow"):
            one.verify(SYSTEM, *pair, jump=ERROR)
    with pytest.raises(CertificationError, match="reach does not follow"):
        one.verify(SYSTEM, CONTRACTION, replace(OUTPUTS, input_range=np.zeros((2, 2))), jump=ERROR)


def test_certificates_are_verified_and_named():
    one = written()
    one.verify(SYSTEM, CONTRACTION, OUTPUTS)
    assert not one.verified  # without the jump nothing says that it is allowed for
    for pair in (
        (replace(CONTRACTION, system_digest=64 * "e"), OUTPUTS),
        (CONTRACTION, replace(OUTPUTS, system_digest="")),
    ):
        with pytest.raises(CertificationError, match="another system"):
            one.verify(SYSTEM, *pair, jump=ERROR)
    for name in ("system", "contraction", "outputs", "jump"):
        with pytest.raises(CertificationError, match=f"the terminal set names another {name}"):
            written(digests=one.digests | {name: 64 * "e"}).verify(SYSTEM, CONTRACTION, OUTPUTS, jump=ERROR)
    other = StateError(JUMP * (1 - 1e-9), P)
    with pytest.raises(CertificationError, match="names another jump"):
        one.verify(SYSTEM, CONTRACTION, OUTPUTS, jump=other)
    assert jump_digest(ERROR) == digest({"metric": P}, {"radius": JUMP})


def test_a_set_follows_from_the_certificates_that_it_is_given():
    made = terminal_set(PREDICTOR, CONTRACTION, horizon=N, jump=ERROR, outputs=OUTPUTS)
    assert (made.radius, made.rate, made.horizon, made.jump) == (0.7, RATE, N, JUMP)
    assert made.metric.tolist() == P.tolist()
    assert made.margin.tolist() == [0.1, 0.2]
    assert made.digests == written().digests
    assert made.premises.horizon == N
    assert made.verified
    for outputs in (replace(OUTPUTS, system_digest=64 * "e"), replace(OUTPUTS, metric=2 * P)):
        with pytest.raises(SettingError, match="outputs must be certified for this model"):
            terminal_set(PREDICTOR, CONTRACTION, horizon=N, jump=ERROR, outputs=outputs)
    with pytest.raises(CertificationError, match="another system"):
        terminal_set(PREDICTOR, replace(CONTRACTION, system_digest=64 * "e"), horizon=N, jump=ERROR, outputs=OUTPUTS)
    for horizon in (0, -1, -(2**63), 2**62):
        with pytest.raises(SettingError, match="horizon must be"):
            terminal_set(PREDICTOR, CONTRACTION, horizon=horizon, jump=ERROR, outputs=OUTPUTS)
    far = StateError(JUMP, 4 * P)  # half as far in P
    assert terminal_set(PREDICTOR, CONTRACTION, horizon=N, jump=far, outputs=OUTPUTS).jump == pytest.approx(JUMP / 2)


@pytest.mark.parametrize(("unit", "radius"), [
    ([0.5, 0.5], 0.005 * 1 / 0.5), ([4.0, 0.1], 0.005 * 4 / 4.0), ([0.0, 0.1], 0.005 * 1 / 0.1), ([0.0, 0.0], 1.0),
])  # fmt: skip
def test_the_size_of_a_set_is_a_share_of_the_outputs_ranges(unit, radius, monkeypatch):
    """The search is not run; its answer is proportional to the radius asked for."""
    asked = []

    def search(system, horizon, *, initial_radius, metric):
        asked.append((system.digest, horizon, initial_radius, metric.tolist()))
        return replace(OUTPUTS, initial_radius=initial_radius, bounds=initial_radius * np.array([unit]))

    monkeypatch.setattr(certification, "certify_horizon", search)
    calm = StateError(0.0, P)
    made = terminal_set(PREDICTOR, CONTRACTION, horizon=N, jump=calm)
    assert made.radius == pytest.approx(radius, rel=1e-12)
    assert asked == [(SYSTEM.digest, 0, 1.0, P.tolist()), (SYSTEM.digest, 0, made.radius, P.tolist())]
    assert made.margin == pytest.approx(made.radius * np.array(unit))
    if any(unit):
        twice = terminal_set(PREDICTOR, CONTRACTION, horizon=N, jump=calm, share=0.01)
        assert twice.radius == pytest.approx(2 * radius, rel=1e-12)
    rough = terminal_set(PREDICTOR, CONTRACTION, horizon=N, jump=StateError(10.0, P))
    assert rough.radius == pytest.approx(RATE**N * 10 / (1 - RATE), rel=1e-5)
    for share in (0.0, -1.0):
        with pytest.raises(SettingError, match="share"):
            terminal_set(PREDICTOR, CONTRACTION, horizon=N, jump=calm, share=share)


def test_what_is_stored_is_read_again():
    one = written()
    again = TerminalSet.from_record(*one.record())
    assert again.digest == one.digest
    with pytest.raises(ShapeError):
        written(margin=np.zeros(()))
