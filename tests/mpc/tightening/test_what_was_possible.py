"""What a reading may say: intervals that follow from certified estimates alone, and readings that cannot be."""

import numpy as np
import pytest
from one_tank import RESIDUAL, N, W, innovating, running

from controlrnn.data import Signal
from experiments.bench_mpc.c_code import CompiledController, compiler
from mpc import ErrorMemory, StateObserver, TightenedMPC
from mpc.observers.state_error import StateError
from mpc.tightening.learnt_errors import LearntErrors

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler (cc or gcc) on the path")
BOTH = [False, pytest.param(True, marks=needs_compiler)]


def acting(controller, compiled, folder):
    return CompiledController(controller, folder) if compiled else controller


@pytest.mark.parametrize("compiled", BOTH)
@pytest.mark.parametrize("missing", [True, False])
def test_the_first_usable_estimate_knows_nothing_of_the_ones_before(compiled, missing, tmp_path):
    """The plant comes from the edge of what its inputs reach, where the error of the estimate is nearly its bound."""
    controller, memory = running()
    theirs = acting(controller, compiled, tmp_path)
    x = 10.0
    for _ in range(W):
        theirs.record([x + RESIDUAL], [0.0])
        x *= 0.9
    worst = -np.inf
    for t in range(8):
        step = theirs.step([np.nan if t == 0 and missing else x + RESIDUAL], [5.0])
        if t == 0 and not compiled:
            assert abs(x - step.x[0]) > 0.99 * controller.observer.error.euclidean  # the case is one at the edge
            width = np.abs(step.error_interval[:, 1])
            assert width.max() == pytest.approx(memory.absolute[1].item(), rel=1e-12)
        assert step.certified
        assert step.feasible
        x = 0.9 * x + step.u[0]
        worst = max(worst, x + RESIDUAL)
    assert 0.95 < worst <= 1.0


@pytest.mark.parametrize("compiled", BOTH)
def test_what_was_learnt_is_forgotten_with_the_estimate_that_follows(compiled, tmp_path):
    """Readings that the first certified estimate cannot have are not carried on to it."""
    controller, memory = running()
    theirs = acting(controller, compiled, tmp_path)

    def known():
        return theirs.errors if compiled else controller.learnt_errors.interval

    for t in range(W + 1):
        np.testing.assert_array_equal(known()[1], memory.absolute)
        theirs.record([0.01], [0.0])
        assert (np.ptp(known()[:, 1], axis=0) < 2 * memory.absolute[1]).all() == (t == W)


def made_up(**changed):
    parts = {
        "drift": np.array([[0.1], [0.3]]), "change": np.array([[0.1], [0.1]]), "jump": np.full((3, 1), 0.01),
        "absolute": np.full((4, 1), 1.0), "growth": np.zeros((4, 1)), "end": np.array([1.1]), "promise": "",
    }  # fmt: skip
    return ErrorMemory(**(parts | changed))


def test_an_error_beyond_everything_declared_is_a_contradiction():
    """Drift and change say nothing against it, the bound on errors does."""
    errors = LearntErrors(made_up(), (Signal("y", lower=-9.0, upper=9.0),), None)
    assert errors.update(np.array([1.0]), certified=True) == ""
    errors.reset()
    assert "possible were -1 to 1 now" in errors.update(np.array([1.05]), certified=True)
    errors.reset()
    assert errors.update(np.array([0.5]), certified=True) == ""
    errors.advance()
    # Row 1 of the interval is wide by now; what is measured has to lie in row 0 all the same.
    assert errors.update(np.array([0.75]), certified=True) != ""
    errors.reset()
    errors.update(np.array([0.5]), certified=True)
    errors.advance()
    assert errors.update(np.array([0.70]), certified=True) == ""


@pytest.mark.parametrize("compiled", BOTH)
def test_a_step_with_such_an_error_is_not_certified(compiled, tmp_path):
    controller, memory = running()
    theirs = acting(controller, compiled, tmp_path)
    for _ in range(W):
        theirs.record([0.0], [0.0])
    fine = theirs.step([0.99 * memory.absolute[0, 0]], [0.5])
    assert fine.certified
    theirs.reset()
    for _ in range(W):
        theirs.record([0.0], [0.0])
    wrong = theirs.step([1.01 * memory.absolute[0, 0]], [0.5])
    assert not wrong.certified
    assert wrong.contradictions == 1 if compiled else "y1 measured" in wrong.outside


def late(moved):
    """A recalling controller whose estimate a late measurement moves by so many certified jumps."""
    controller, memory = running()
    observer = controller.observer

    class Moved(type(observer)):
        def _late(self, age, y):  # noqa: ARG002
            return self._state + moved * self.jump.radius

        def _own_jump(self):
            return StateError(1e-3, np.eye(1))

    observer.__class__ = Moved
    for _ in range(W + 2):
        controller.record([0.01], [0.0])
    before = controller.learnt_errors.interval
    assert (np.ptp(before[:, 1], axis=0) < 2 * memory.absolute[1]).all()
    controller.correct(0, [0.01])
    return before, controller.learnt_errors.interval, memory


def test_late_measurements_keep_what_was_learnt_while_the_theorem_does():
    for moved, kept in ((0.0, True), (0.9, True), (-1.0, True), (1.1, False), (-2.0, False)):
        before, after, memory = late(moved)
        if kept:
            np.testing.assert_array_equal(after, before)
        else:
            np.testing.assert_array_equal(after[1], memory.absolute)


def test_a_second_late_measurement_does_not_hide_the_leap_of_the_first():
    controller = innovating()
    observer = controller.observer
    for _ in range(W + 10):
        controller.record([0.0], [0.0])
    for age, y in ((4, 0.035), (3, 0.045), (2, 0.054), (1, 0.063)):  # each possible; together more than an innovation
        assert observer.certified
        observer.correct(age, [y])
    assert not observer.certified
    observer.correct(0, [0.0])
    assert not observer.certified
    controller.record([0.0], [0.0])
    assert observer.certified


@pytest.mark.parametrize("compiled", BOTH)
@pytest.mark.parametrize("off", [-1.5, 0.3, 30.0])
def test_readings_that_cannot_be_do_not_move_a_certified_estimate(compiled, off, tmp_path):
    """A single wrong reading: its sample says so, the estimate keeps its bound, the output its limit."""
    controller = innovating()
    theirs, observer = acting(controller, compiled, tmp_path), controller.observer
    x, taken, levels, errors = 0.0, [], [], []
    for _ in range(W):
        theirs.record([x], [0.0])
    for t in range(30):
        y = x + (off if t == 12 else -RESIDUAL)
        taken.append(theirs.step([y], [5.0]))
        if not compiled:
            errors.append(abs(x - taken[-1].x[0]))
        x = 0.9 * x + 0.3 * taken[-1].u[0]
        levels.append(x)
    assert [t for t, step in enumerate(taken) if not step.certified] == [12]
    assert all(step.feasible for step in taken)
    assert 0.95 < max(levels) <= 1.0
    if not compiled:
        assert max(errors) <= observer.error.radius
        assert "y1 measured" in taken[12].outside
    else:
        assert [step.contradictions for step in taken] == [int(t == 12) for t in range(30)]


def test_the_largest_innovation_is_reached_and_is_not_passed(gentle, rng):
    """Whatever is declared may happen without a reading being refused, and little more may."""
    predictor, gain, model, own = gentle
    system, declared = predictor.system, 0.05
    observer = StateObserver(predictor, gain, 30, residual_bound=declared, contraction=model, observer_contraction=own)
    refused = []
    for run in range(40):
        observer.start()
        x = np.tanh(rng.standard_normal(system.nx))
        for _ in range(60):
            u = rng.choice([-1.0, 1.0], 2)
            r = declared * (rng.choice([-1.0, 1.0], 2) if run % 2 else np.ones(2))
            y = system.output(x, u) + r
            if observer.ready:
                expected = system.output(observer.state, u)
                refused.append(observer.implausible(expected + (y - expected) / 0.3)[0].any())
            observer.update(u, y)
            assert observer.contradiction == ""
            x = system.step(x, u)
    assert any(refused)  # what is a few times larger


def test_horizon_of_the_cases_is_that_of_their_controllers():
    assert isinstance(innovating(), TightenedMPC)
    assert innovating().horizon == running()[0].horizon == N
