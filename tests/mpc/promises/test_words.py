"""What a promise says, word for word: readers have nothing else to go by."""

from dataclasses import dataclass

import pytest

from controlrnn.errors import SettingError
from mpc import Operation
from mpc.promises.promise import CoverageUnit, Loop, conditions, coverage_over, words, words_over


@dataclass
class Data:
    coverage: float = 0.9
    confidence: float | None = None
    unit: CoverageUnit = CoverageUnit.RECORD
    n: int = 19
    length: int = 100
    starts: int = 40
    loop: Loop = Loop.OPEN
    missing: float | None = None


STEP = "the prediction from a sample drawn at random of a new "
KIND = "open-loop (not under feedback) trajectory of the same kind as the 19 calibration trajectories"
CLOSED = (
    "closed-loop (under the controller of the records, unchanged) trajectory of the same kind as the 19 calibration "
)


def test_what_stays_inside_and_under_which_conditions():
    whole = f"a new {KIND} and no longer (100 samples, 40 predictions) stays inside at all its times, steps and outputs"
    assert conditions(Data()) == whole
    assert conditions(Data(missing=0.25)) == whole.replace("predictions)", "predictions, 0.25 of the readings missing)")
    assert conditions(Data(loop=Loop.CLOSED)).startswith(f"a new {CLOSED}trajectories and no longer (")
    one = f"{STEP}{KIND} (100 samples) stays inside at all steps and outputs"
    assert conditions(Data(unit=CoverageUnit.STEP)) == one
    missing = conditions(Data(unit=CoverageUnit.STEP, missing=0.0))
    assert missing == one.replace("samples)", "samples, 0 of the readings missing)")


def test_with_what_probability():
    said = conditions(Data())
    chosen = " (over the choice of the calibration trajectories, too)"
    assert words(Data()) == f"with probability >= 0.9, {said}{chosen}"
    sure = " (for this calibration set with confidence 0.95, if trajectories are independent)"
    assert words(Data(confidence=0.95)) == f"with probability >= 0.9, {said}{sure}"


def test_what_follows_for_longer_operation():
    assert words_over(Data(), 40) == words(Data())
    stationary = "if the process is stationary from the end of the washout on: all of "
    assert words_over(Data(), 41) == f"{stationary}41 predictions are inside with probability >= 0.8"
    nothing = f"{stationary}401 predictions are inside with a probability of which nothing is promised"
    assert words_over(Data(), 401) == nothing
    sure = "with confidence 0.95 in the calibration set, "
    assert words_over(Data(confidence=0.95), 401) == sure + nothing
    step = Data(unit=CoverageUnit.STEP)
    each = "; each of them with probability >= 0.9, and on average at most "
    assert words_over(step, 4) == f"{stationary}4 predictions are inside with probability >= 0.6{each}0.4 are not"
    assert words_over(step, 41) == nothing.replace("401", "41") + f"{each}4.1 are not"


@pytest.mark.parametrize(
    ("steps", "left"), [(1, 0.9), (40, 0.9), (41, 0.8), (80, 0.8), (81, 0.7), (360, 0.1), (900, 0.0)]
)
def test_stretches_add_up(steps, left):
    assert coverage_over(Data(), steps) == pytest.approx(left, abs=1e-12)
    assert coverage_over(Data(unit=CoverageUnit.STEP), steps) == pytest.approx(max(1 - 0.1 * steps, 0.0), abs=1e-12)


def test_kinds_of_operation():
    assert Operation() == Operation(loop="open", missing=0.0, seed=0)
    assert Operation(loop="closed").loop is Loop.CLOSED
    assert Operation(missing=0.999).missing == 0.999
    for missing in (1.0, -1e-9, 1.5, float("nan")):
        with pytest.raises(SettingError, match="missing"):
            Operation(missing=missing)
    with pytest.raises(SettingError, match="loop"):
        Operation(loop="ajar")
