"""Statistics of a closed loop, from a result that is written down, and what its file has to hold."""

from dataclasses import replace

import numpy as np
import pytest

from controlrnn.errors import ControlRnnError, DataError
from mpc import ClosedLoopResult, Fallback, LoopTarget, Status, Verdict
from mpc.loops.result import times_of
from mpc.loops.rounds import excess_of, within_total
from mpc.promises.coverage_met import met, stretches

K, N = 4, 2


def made(**fields):
    nan = np.nan
    claim = {
        "y": np.array([[0.0, 5.0], [1.1, 0.0], [0.5, -3.0], [0.0, 0.0], [2.0, 1.0]]), "readings": np.zeros((K, 2)),
        "u": np.arange(4.0)[:, None], "applied": np.arange(4.0)[:, None], "u_before": np.zeros(1),
        "reference": np.zeros((K + 1, 2)), "x": np.zeros((K, 3)), "disturbance": np.zeros((K, 2)),
        "predicted": np.zeros((K, N + 1, 2)),
        "errors": np.array([
            [[0.0, 0.0], [0.1, -0.2], [0.3, 0.1]], [[0.2, 0.0], [0.1, 0.1], [-0.4, 0.2]],
            [[0.0, 0.1], [0.1, 0.0], [nan, nan]], [[0.0, 0.0], [nan, nan], [nan, nan]],
        ]),
        "bounds": np.array([[0.1, 0.1], [0.1, 0.2], [0.3, 0.2]]), "slack": np.zeros(K),
        "solve_time": np.array([0.1, 0.4, 0.2, 0.3]), "iterations": np.arange(4),
        "status": (Status.WARMING_UP, Status.SOLVED, Status.FAILED, Status.SOLVED),
        "fallback": (Fallback.NONE, Fallback.NONE, Fallback.PLAN, Fallback.PLAN), "certified": np.array([1, 1, 0, 1]),
        "verdicts": np.array([[0, 0], [Verdict.MISSING, 0], [0, Verdict.MISSING], [0, 0]]),
        "faults": np.zeros((K, 1), bool), "lower": np.array([-1.0, -2.0]), "upper": np.array([1.0, np.inf]),
        "cost": 3.0, "dt": 0.25, "seed": 7, "names": ("a", "b", "c"), "fault_kinds": ("DropOut",),
        "outside": ("", "far", "", "odd"),
    }  # fmt: skip
    return ClosedLoopResult(**(claim | fields))


def test_violations_are_on_either_side_before_and_after_the_input():
    one = made()
    wanted = np.array([[0, 0], [0.1, 0], [0, 1.0], [0, 0], [1.0, 0]])
    np.testing.assert_allclose(one.excess, wanted, atol=1e-12)
    assert (one.violations, one.max_violation) == (3, pytest.approx(1.0))
    after = np.array([[0.0, -2.5], [1.3, 0.0], [0.0, 0.0], [0.0, 0.0]])
    fed = made(after=after)
    np.testing.assert_allclose(fed.excess, [[0, 0.5], [0.3, 0], [0, 1.0], [0, 0], [1.0, 0]], atol=1e-12)
    assert fed.violations == 4
    assert one.after.tolist() == one.y[:-1].tolist()
    assert made(y=np.zeros((K + 1, 2))).violations == 0
    assert one.steps_kept().tolist() == [False, False, True, False]
    assert one.steps_kept("limits").tolist() == one.steps_kept(LoopTarget.LIMITS).tolist()
    edge = made(y=np.tile([1.0, -2.0], (K + 1, 1)))
    assert edge.violations == 0
    assert edge.steps_kept().all()


def test_errors_inside_of_their_bounds():
    one = made()
    # Of nine known predictions those of (1, 0), (1, 2) are outside.
    assert one.inside == pytest.approx(7 / 9)
    assert one.steps_kept("predictions").tolist() == [True, False, True, True]
    low, high = one.error_ends
    assert low.shape == high.shape == (K, N + 1, 2)
    assert (high[2] == one.bounds).all()
    assert (low[1] == -one.bounds).all()
    ends = np.stack([one.errors - 0.25, one.errors + 0.75], axis=1)
    learnt = made(intervals=np.nan_to_num(ends, nan=0.0))
    assert learnt.error_ends[0].tolist() == np.nan_to_num(ends[:, 0], nan=0.0).tolist()
    assert learnt.inside == 1.0
    known = ~np.isnan(one.errors)
    np.testing.assert_allclose(learnt.error_use[known], 0.5)
    np.testing.assert_allclose(one.error_use[0], [[0, 0], [1, 1], [1, 0.5]], atol=1e-12)
    zero = made(bounds=np.zeros((N + 1, 2)))
    assert np.isnan(zero.error_use).all()
    np.testing.assert_allclose(one.realised, [[0.2, 0.1], [0.1, 0.2], [0.4, 0.2]])
    np.testing.assert_allclose(one.bound_use, [[2, 1], [1, 1], [4 / 3, 1]], rtol=1e-12)
    for edge, share in ((0.1, 1.0), (-0.1, 1.0), (0.1001, 0.0), (-0.1001, 0.0)):
        errors = np.full((K, N + 1, 2), edge)
        flat = made(errors=errors, bounds=np.full((N + 1, 2), 0.1))
        assert flat.inside == share
        assert flat.steps_kept("predictions").all() == bool(share)


def test_coverage_is_counted_in_stretches():
    one = made()
    for target in ("limits", "predictions"):
        for stretch in (1, 2, 3):
            kept = stretches(one.steps_kept(target), stretch)
            assert one.coverage_met(target, stretch=stretch) == met("stretches", kept, confidence=0.95, anytime=True)
    whole = met("stretches", stretches(one.steps_kept(), K), confidence=0.5, anytime=True)
    assert one.coverage_met(confidence=0.5) == whole


def test_counts():
    one = made()
    assert one.steps == K
    assert one.failed_solves == 1
    assert one.status_counts == {"warming_up": 1, "solved": 2, "failed": 1}
    assert one.fallback_counts == {"plan": 2}
    assert one.steps_outside == 2
    assert one.rejected == {"missing": 2}
    assert made(outside=()).outside == ("",) * K
    assert (one.deadline_misses(), one.deadline_misses(0.3), one.deadline_misses(0.05)) == (2, 1, 4)
    with pytest.raises(ControlRnnError, match="deadline"):
        one.deadline_misses(0.0)
    times = np.linspace(0, 1, 1001)
    assert times_of(times) == pytest.approx({"median": 0.5, "p95": 0.95, "p99.9": 0.999, "max": 1.0})
    assert one.times["max"] == 0.4


def test_words_become_named_values():
    one = made(status=("solved",) * K, fallback=("plan",) * K)
    assert {type(s) for s in one.status} == {Status}
    assert {type(f) for f in one.fallback} == {Fallback}


def test_outputs_after_inputs_are_rows():
    with pytest.raises(ControlRnnError, match="after"):
        made(after=0.5)


def test_rows_of_different_lengths_are_refused():
    with pytest.raises(ControlRnnError, match="rows of one length"):
        made(iterations=[[1, 2], [3], [4], [5]])


def test_what_is_kept_cannot_be_changed():
    given = np.zeros((K + 1, 2))
    one = made(y=given)
    given[0] = 9.0
    assert not one.y.any()
    for name in ("y", "u", "errors", "certified", "verdicts", "after"):
        assert not getattr(one, name).flags.writeable
    assert one.certified.dtype == bool
    assert one.verdicts.dtype == np.int8
    assert made(status=("solved",) * K).status == (Status.SOLVED,) * K
    assert made(fallback=("plan",) * K).fallback == (Fallback.PLAN,) * K
    for wrong in (np.full((K, 2), 99), np.full((K, 2), 0.5)):
        with pytest.raises(ControlRnnError, match="verdicts"):
            made(verdicts=wrong)


def test_a_result_is_read_as_it_was_stored():
    for one in (
        made(),
        made(outside=()),
        made(outside=("", "", "", "last")),
        made(outside=("first\0part", "", "", "")),
        made(outside=("\0", "a \ud800", "", "")),
    ):
        arrays, meta = one.record()
        again = ClosedLoopResult.from_record(arrays, meta)
        assert again.digest == one.digest
        assert again.outside == one.outside
        assert (again.status, again.fallback, again.names, again.cost) == (one.status, one.fallback, one.names, 3.0)
        assert again.fault_kinds == ("DropOut",)
        assert type(again.cost) is float


def test_what_no_file_could_hold_of_a_text_is_left_out():
    made_of = made(outside=("\0", "first\0part", "a \ud800", ""))
    assert made_of.outside == ("", "firstpart", "a ?", "")
    with pytest.raises(ControlRnnError, match=r"outside\[0\] must be text"):
        made(outside=(1, "", "", ""))


@pytest.mark.parametrize(("at", "text"), [
    ([1], b"far\0odd"), ([1, 3], b"far"), ([3, 1], b"far\0odd"), ([1, 1], b"far\0odd"), ([1, 4], b"far\0odd"),
    ([1, 3], b"far\0"), ([], b"far"), ([1, 3], b"far\0\xff"), ([1], b""),
])  # fmt: skip
def test_texts_that_belong_to_no_step_are_refused(at, text):
    arrays, meta = made().record()
    forged = arrays | {"outside_at": np.array(at, dtype=np.int64), "outside_text": np.frombuffer(text, np.uint8)}
    with pytest.raises(DataError):
        ClosedLoopResult.from_record(forged, meta)
    good = arrays | {"outside_at": np.array([0, 3]), "outside_text": np.frombuffer(b"far\0odd", np.uint8)}
    assert ClosedLoopResult.from_record(good, meta).outside == ("far", "", "", "odd")


def test_runs_with_a_fault_and_texts_are_drawn():
    one = made(faults=np.array([[True], [False], [False], [True]]))
    assert len(one.plot().axes) == 3
    assert len(replace(one, outside=()).plot().axes) == 3


def test_what_a_round_of_calibration_sees_of_a_loop():
    """The largest distance beyond the limits on either side, negative inside; the first sample is no answer."""
    y = np.array([[9.0, -9.0], [0.5, -1.0], [-1.25, -2.5], [0.25, 0.0], [0.75, 1.0]])
    assert excess_of(made(y=y)) == pytest.approx([0.25, 0.5])
    assert excess_of(made(y=0.5 * y)) == pytest.approx([-0.375, -0.75])
    after = np.array(y[:-1])
    assert excess_of(made(y=y, after=after)) == pytest.approx([0.25, 0.5])
    after[1] = [3.0, -1.0]  # just after the input
    assert excess_of(made(y=y, after=after)) == pytest.approx([2.0, 0.5])
    total = np.array([[0.1, 0.2], [0.3, 0.4]])
    for errors, inside in ((total, True), (total * (1 + 1e-9), False), (np.where(total > 0.2, np.nan, total), True)):
        assert within_total(errors[None], total) is inside
