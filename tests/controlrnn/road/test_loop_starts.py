"""Where simulated loops begin: within their tightened limits wherever a steady input allows it, or it is said."""

from dataclasses import replace

import numpy as np
import pytest
from small_road import drive, write_road

from controlrnn.road import Stage, open_road
from controlrnn.road.loop_plants import RecordedErrors
from controlrnn.road.loops import controller_of, loop_words, run_loops, start_of, tracking_words
from controlrnn.road.making import observer_of, predictor_of


@pytest.fixture(scope="module")
def road(tmp_path_factory):
    """A tightened road; its limits and set points are changed by each test, its model and certificates stay."""
    place = tmp_path_factory.mktemp("starts")
    write_road(place)
    drive(place, until=Stage.TIGHTEN)
    return open_road(place / "road")


def limited(road, lower, upper, reference):
    """The road file and the predictor with other limits and set points."""
    changed = road.file.outputs[0].model_copy(update={"lower": lower, "upper": upper, "reference": reference})
    file = road.file.model_copy(update={"outputs": [changed]})
    return file, predictor_of(file, road.system)


def reach(road):
    """Steady outputs at the least, the middle and the largest input, and the largest tightening."""
    low, high = road.predictor.input_limits()
    ends = [float(road.predictor.steady_output(u)[0]) for u in (low, 0.5 * (low + high), high)]
    return *ends, float(road.tightening.total.max())


def loops_of(road, file, predictor, held, errors):
    observer = observer_of(file, predictor, road.contraction, road.entry("certify").figures["steps"])
    plant = RecordedErrors(predictor, errors, held)
    return run_loops(
        file, controller_of(file, observer, road.tightening), plant, held, np.zeros(1), None, lambda _: None
    )


@pytest.mark.parametrize("wanted", ["inside", "at the limit"])
def test_loops_begin_within_their_tightened_limits(road, wanted):
    _, middle, top, total = reach(road)
    lower = middle + 0.01 * (top - middle)  # where the middle of the actuators' range is outside
    inner = (lower + total, min(lower + 3 * total, top - 0.01))
    assert inner[0] < inner[1], "the tank reaches too little for this test"
    set_point = 0.5 * (inner[0] + inner[1]) if wanted == "inside" else lower
    file, predictor = limited(road, lower, inner[1] + total, [set_point])
    held, said = start_of(file, predictor, road.tightening, None)
    y = float(predictor.steady_output(held)[0])
    assert y == pytest.approx(set_point if wanted == "inside" else inner[0], abs=1e-3 * total)
    assert "loops begin at a steady state, level" in said
    assert "outside" not in said
    # Errors as large as the bound on them, of either sign: no loop begins outside of its limits, and none leaves them.
    bound = float(road.tightening.model_error.min())
    loops = loops_of(road, file, predictor, held, bound * np.sign(np.sin(np.arange(40.0)))[:, None])
    assert all(loop.excess[0].max() == 0 for loop in loops)
    assert all(loop.violations == 0 for loop in loops)


def test_it_is_said_where_no_steady_input_keeps_the_limits(road):
    _, middle, top, total = reach(road)
    file, predictor = limited(road, top + 1.0, top + 1.0 + 4 * total, [top + 1.0 + 2 * total])
    held, said = start_of(file, predictor, road.tightening, None)
    assert predictor.steady_output(held)[0] == pytest.approx(top, abs=1e-3 * (top - middle))  # as near as it gets
    assert "no steady state was found within the tightened limits, level is" in said
    assert "not the controller's doing" in said
    loops = loops_of(road, file, predictor, held, np.zeros((5, 1)))
    words = loop_words("tightened", loops, predictor.outputs)
    assert "2 of 2 loops left a limit" in words
    assert "2 of them already outside before the controller moved anything" in words
    assert f"soft limits gave way in {sum(loop.steps for loop in loops)} of" in words


def test_who_was_outside_is_counted_apart_from_who_left(road):
    _, middle, _, total = reach(road)
    file, predictor = limited(road, middle - 2 * total, middle + 2 * total, [middle])
    held, _ = start_of(file, predictor, road.tightening, None)
    loops = loops_of(road, file, predictor, held, np.zeros((5, 1)))
    assert "0 of 2 loops left a limit" in loop_words("tightened", loops, predictor.outputs)
    moved = [replace(loop, lower=np.array([loop.y[5:].max() + 0.01])) for loop in loops[:1]]  # all of it below
    inner = [
        replace(loop, upper=np.array([loop.y.max() - 1e-9]), y=np.vstack([[[middle]], loop.y[1:]]))
        for loop in loops[1:]
    ]
    said = loop_words("tightened", [*moved, *inner], predictor.outputs)
    assert "2 of 2 loops left a limit" in said
    assert "(1 of them already outside before" in said


def test_a_set_point_that_is_not_reached_is_said(road):
    """Of a loop that keeps its limits and goes nowhere, limits alone would say that all is well."""
    _, middle, _, total = reach(road)
    points = [middle, middle + 3 * total]  # the second one is beyond the tightened limit, which stands for it
    file, predictor = limited(road, middle - 2 * total, middle + 2 * total, points)
    held, _ = start_of(file, predictor, road.tightening, None)
    loops = loops_of(road, file, predictor, held, np.zeros((5, 1)))

    def stuck(loop, y):
        return replace(loop, predicted=np.full_like(loop.predicted, y))

    at_the_first = [stuck(loop, middle) for loop in loops]
    assert tracking_words(file, at_the_first).endswith(f": level {total:.3g} cm")
    at_the_second = [stuck(loop, middle + total) for loop in loops]
    assert tracking_words(file, [*at_the_second, loops[0]]).endswith(f": level {total:.3g} cm")
    only_limits = file.model_copy(update={"outputs": [file.outputs[0].model_copy(update={"weight": 0.0})]})
    assert tracking_words(only_limits, at_the_first).endswith(": none")
