"""The theorem of limits that learn, on random systems whose residuals and inputs go to the edge of what is declared."""

from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from guaranteed_cases import SYSTEMS, signals
from mpc_networks import declared_error

from controlrnn.certification import certify_contraction, certify_horizon
from controlrnn.data import Signal
from controlrnn.errors import CertificationError, FileFormatError, InfeasibleError, SettingError, ShapeError
from controlrnn.systems import change_system
from mpc import (
    ErrorMemory,
    ModelError,
    Predictor,
    TightenedMPC,
    Washout,
    certify_changes,
    make_error_memory,
    make_recursive,
    no_tightening,
    terminal_set,
    tighten,
)
from mpc.control.settings import grouped
from mpc.tightening.learnt_errors import LearntErrors

N, M, K, W, STEPS = 12, 5, 4, 30, 80
PUSH = 0.01
NAMES = ("elman", *(pytest.param(n, marks=pytest.mark.slow) for n in ("slow elman", "layers")))


@dataclass(frozen=True, eq=False)
class Remembering:
    """Everything that a controller which recalls is made of."""

    predictor: Predictor
    observer: Washout
    tightening: object
    terminal: object
    drift: ModelError
    changes: tuple
    growth: object
    memory: ErrorMemory
    residual: np.ndarray
    half: np.ndarray
    middle: np.ndarray

    def controller(self, **options):
        settings = {"output_weight": 1 / self.half**2, "input_move_weight": 0.02, "control_horizon": M}
        settings |= {"terminal": self.terminal, "error_memory": self.memory} | options
        return TightenedMPC(self.predictor, self.observer, self.tightening, **grouped(settings))


@cache
def remembering(name):
    system = SYSTEMS[name]
    free = Predictor(system, signals("u", 2, 1.0))
    reached = np.array([free.steady_output(u) for u in np.random.default_rng(0).uniform(-1, 1, (40, 2))])
    middle, half = reached.mean(axis=0), 0.35 * np.ptp(reached, axis=0)
    limits = zip(middle - half, middle + half, strict=True)
    predictor = replace(free, outputs=tuple(Signal(f"y{i}", lower=a, upper=b) for i, (a, b) in enumerate(limits)))
    contraction = certify_contraction(system)
    observer = Washout(predictor, W, contraction=contraction, input_error=PUSH)
    start, residual = observer.restart, 0.15 * half
    joint = certify_horizon(
        system, W + N, initial_radius=start.radius, metric=start.metric, input_radius=PUSH, iterations=60
    )
    growth = certify_horizon(system, N, initial_radius=observer.jump.radius, metric=observer.jump.metric, iterations=60)
    tightened = tighten(declared_error(system, np.tile(residual, (N + 1, 1)), washout=0), joint, observer=observer)
    tightening = make_recursive(tightened, growth, observer=observer)
    terminal = terminal_set(predictor, contraction, horizon=N, jump=observer.jump)
    steps = np.arange(N + 1)[:, None] ** 0.7
    drift = declared_error(system, 0.15 * steps * residual, 1.0, washout=0)
    changes = certify_changes(observer, K, iterations=40)
    memory = make_error_memory(tightening, drift, changes, observer=observer, growth=growth)
    return Remembering(
        predictor, observer, tightening, terminal, drift, changes, growth, memory, residual, half, middle
    )


def loop(case, controller, *, faster=1.0, missing=0.0, seed=3):
    """Residuals and input errors at their edges, in the direction that hurts, turning around now and then.

    Returns:
        Steps, true outputs, and by how much each shifted plan broke its limits under what was measured after it.
    """
    rng, system, predictor = np.random.default_rng(seed), case.predictor.system, case.predictor
    controller.reset()
    x, past = predictor.equilibrium(np.zeros(2)), np.zeros((K, 2))
    gain = np.sign(np.linalg.lstsq(predictor.linearise(x, np.zeros(2))[2], np.eye(2), rcond=None)[0].sum(axis=0))
    corners = np.array([[2.0, 2.0], [-2.0, 2.0], [2.0, -2.0], [0.0, 0.0]])
    taken, outputs, excess = [], [], []
    for t in range(-W, STEPS):
        y = system.output(x, np.zeros(2)) + past[0]
        seen = np.where(rng.random(2) < missing, np.nan, y)
        if t < 0:
            u = np.zeros(2)
            controller.record(seen, u)
        else:
            reference = case.middle + corners[4 * t // STEPS] * case.half
            taken.append(controller.step(seen, reference))
            if t > 0:  # the guess is the plan of the sample before, shifted
                data = controller.last_data
                excess.append(controller.problem.excess(data, data.guess))
            outputs.append(y)
            u = taken[-1].u
        side = np.sign(np.sin(t / 7)) if rng.random() < 0.9 else -1.0
        wanted_residual = side * np.sign(y - case.middle) * case.residual * faster
        allowed = faster * case.drift.bounds[1 : K + 1]
        residual = np.clip(wanted_residual, (past - allowed).max(axis=0), (past + allowed).min(axis=0))
        x = system.step(x, u + PUSH * side * gain)
        past = np.vstack([residual, past[:-1]])
    outputs.append(system.output(x, np.zeros(2)) + past[0])
    return taken, np.array(outputs), np.array(excess)


def inside(case, y):
    lower, upper = (np.array([getattr(s, side) for s in case.predictor.outputs]) for side in ("lower", "upper"))
    return float(np.maximum(y - upper, lower - y).max())


@pytest.mark.parametrize("missing", [0.0, 0.4])
@pytest.mark.parametrize("name", NAMES)
def test_limits_are_kept_and_plans_go_on_whatever_is_measured(name, missing):
    case = remembering(name)
    taken, y, excess = loop(case, case.controller(), missing=missing)
    assert len(excess) == STEPS - 1
    assert excess.max() <= 0
    assert all(step.feasible and not step.outside for step in taken)
    assert inside(case, y) <= 0
    _, plain, _ = loop_without(case)
    assert inside(case, plain) <= 0
    if not missing:  # references lie beyond the limits: memory lets outputs go closer to them
        far, near = (np.abs(one - case.middle) / case.half for one in (y, plain))
        assert far.mean() > near.mean() + 0.01


def loop_without(case):
    """The same controller without memory."""
    return loop(case, case.controller(error_memory=None))


@pytest.mark.parametrize("name", NAMES)
def test_errors_of_all_predictions_lie_in_their_intervals(name):
    """Every prediction from every estimate, under the inputs commanded afterwards."""
    case = remembering(name)
    taken, y, _ = loop(case, case.controller())
    u, reached = np.array([s.u for s in taken]), 0.0
    for t, step in enumerate(taken[: STEPS - N]):
        predicted = case.predictor.predict(step.x, u[t : t + N])
        error, (low, high) = y[t : t + N + 1] - predicted, step.error_interval
        assert (error[1:] >= low[1:]).all()
        assert (error[1:] <= high[1:]).all()
        share = np.abs(error - (low + high) / 2)[1:] / ((high - low) / 2)[1:]
        reached = max(reached, share.max())
        assert (high <= case.memory.absolute).all()
        assert (low >= -case.memory.absolute).all()
    assert reached > 0.6  # the adversary comes near


def test_residuals_that_drift_faster_than_declared_break_it():
    """The theorem needs the drift: otherwise the tests above would show nothing."""
    case = remembering("elman")
    taken, y, excess = loop(case, case.controller(), faster=3.0)
    assert excess.max() > 0 or inside(case, y) > 0
    assert any("drifts faster than calibrated" in step.outside for step in taken)


def test_intervals_shrink_by_hand():
    """One output, K = 2, N = 3, numbers that can be followed."""
    memory = ErrorMemory(
        drift=np.array([[0.1], [0.3]]),
        change=np.array([[0.1], [0.1]]),
        jump=np.full((3, 1), 0.01),
        absolute=np.full((4, 1), 1.0),
        growth=np.array([[0.0], [0.0], [0.02], [0.04]]),
        end=np.array([1.1]),
        promise="",
    )
    errors = LearntErrors(memory, (Signal("y", lower=-5.0, upper=5.0),), None)
    errors.update(np.array([0.5]), certified=True)
    np.testing.assert_allclose(errors.interval[:, :, 0], [[-1, 0.3, 0.1, -1], [1, 0.7, 0.9, 1]], rtol=1e-6)
    lower, upper = errors.limits()
    np.testing.assert_allclose(upper[:, 0], [4.0, 4.3, 4.08, 3.96], rtol=1e-6)
    np.testing.assert_allclose(lower[:, 0], [-4.0, -5.3, -5.08, -3.96], rtol=1e-6)
    errors.advance()
    np.testing.assert_allclose(errors.interval[:, :, 0], [[0.29, 0.09, -1, -1], [0.71, 0.91, 1, 1]], rtol=1e-6)
    errors.update(np.array([np.nan]), certified=True)  # missing: nothing changes
    np.testing.assert_allclose(errors.interval[:, 1, 0], [0.09, 0.91], rtol=1e-6)
    assert errors.update(np.array([0.7]), certified=True) == ""
    np.testing.assert_allclose(errors.interval[:, 1:3, 0], [[0.5, 0.3], [0.9, 1.0]], rtol=1e-6)
    assert "y measured -0.3 from the prediction, possible were 0.29 to 0.71 now and 0.5 to 0.9 next" in errors.update(
        np.array([-0.3]), certified=True
    )
    np.testing.assert_allclose(errors.interval[:, 1:3, 0], [[-0.5, -0.7], [0.9, 1.0]], rtol=1e-6)  # spans both
    errors.update(np.array([0.8]), certified=False)
    np.testing.assert_allclose(np.abs(errors.interval), 1.0)


def test_changes_bound_what_two_trajectories_do(rng):
    """Differences that start anywhere in the ball and inputs that switch; the bounds are not far from what is seen."""
    case = remembering("elman")
    system, start = case.predictor.system, case.observer.restart
    root = np.linalg.cholesky(start.metric).T
    u, runs = rng.uniform(-1, 1, (W + K, 2)), 4000
    away = rng.standard_normal((runs, system.nx))
    away = start.radius * np.linalg.solve(root, (away / np.linalg.norm(away, axis=1, keepdims=True)).T).T
    push = PUSH * np.sign(rng.standard_normal((runs, W + K, 2)))
    push[::2] = np.repeat(push[::2, :1], W + K, axis=1)  # half of them constant until they let go
    push[::2, W:] *= -1
    x = case.observer.initial_state
    y = system.simulate(np.tile(u, (runs, 1, 1)), np.tile(x, (runs, 1)))[0]
    true = system.simulate(u + push, x + away)[0]
    difference = true - y
    for k in range(1, K):
        change = np.abs(difference[:, W + k] - difference[:, W]).max(axis=0)
        assert (change <= case.memory.change[k - 1]).all()
        assert (change >= 0.4 * case.memory.change[k - 1]).all()


def test_what_does_not_belong_together_is_refused():
    case = remembering("elman")
    system, observer = case.predictor.system, case.observer
    good = {"tightening": case.tightening, "drift": case.drift, "changes": case.changes}

    def made(**changed):
        given = good | changed
        return make_error_memory(
            given["tightening"],
            given["drift"],
            given["changes"],
            observer=given.get("observer", observer),
            growth=case.growth,
        )

    assert made().digest == case.memory.digest
    for changed, match in (
        ({"drift": replace(case.drift, disturbance_gain=None)}, "DisturbanceFilter"),
        ({"drift": replace(case.drift, system_digest=64 * "e")}, "different models"),
        ({"drift": replace(case.drift, bounds=case.drift.bounds[:3])}, "1..2 steps"),
        ({"tightening": no_tightening(system.digest, N, 2)}, "certified for this observer"),
        ({"tightening": replace(case.tightening, disturbance_gain=0.2)}, "without disturbance feedback"),
        ({"changes": case.changes[::-1]}, "change 1 must be certified"),
        ({"changes": ()}, "1..12 steps"),
    ):
        with pytest.raises(SettingError, match=match):
            made(**changed)
    small = replace(case.changes[0], initial_radius=0.5 * case.changes[0].initial_radius)
    with pytest.raises(CertificationError, match="must cover"):
        made(changes=(small, *case.changes[1:]))
    bent = replace(case.changes[0], bounds=0.9 * case.changes[0].bounds)
    with pytest.raises(CertificationError, match="not proven"):
        made(changes=(bent, *case.changes[1:]))
    with pytest.raises(SettingError, match="another tightening"):
        case.controller(error_memory=replace(case.memory, digests={}).on_trust())
    with pytest.raises(SettingError, match="horizon"):
        case.controller(terminal=None, horizon=N - 1)
    with pytest.raises(SettingError, match="rows"):
        replace(case.memory, drift=case.memory.drift[:1])
    with pytest.raises(SettingError, match=">= 0"):
        replace(case.memory, change=-case.memory.change)
    with pytest.raises(ShapeError):
        replace(case.memory, jump=case.memory.jump[:, :1])
    with pytest.raises(InfeasibleError, match="nothing of output"):
        LearntErrors(replace(case.memory, end=case.half), case.predictor.outputs, case.terminal)
    assert change_system(system, 1).digest == case.changes[0].system_digest


def test_without_a_terminal_set_the_last_step_is_one_like_the_others():
    case = remembering("elman")
    controller = case.controller(terminal=None)
    for _ in range(W + 1):
        controller.record(case.middle, np.zeros(2))
    step = controller.step(case.middle, case.middle)
    assert step.feasible
    lower, upper = controller.learnt_errors.limits()
    np.testing.assert_allclose(
        upper[-1] - lower[-1], 2 * (case.half - case.memory.growth[-1] - case.memory.absolute[-1])
    )


def test_error_memories_survive_their_file_and_draw_themselves(tmp_path):
    case = remembering("elman")
    case.memory.save(tmp_path / "r.npz")
    again = ErrorMemory.load(tmp_path / "r.npz")
    assert again.digest == case.memory.digest
    assert "drift within 4 samples" in again.promise
    case.tightening.save(tmp_path / "t.npz")
    with pytest.raises(FileFormatError):
        ErrorMemory.load(tmp_path / "t.npz")
    figure = case.memory.plot(["a", "b"])
    assert [panel.get_ylabel() for panel in figure.axes] == ["a", "b"]


def test_the_end_has_room_for_what_comes_before_it_whatever_the_tightening():
    """Where the tightening does not grow by itself, c >= a_{N-1} + G_{N-1} + l_{N-1} alone keeps plans going."""
    case = remembering("elman")
    flat = replace(case.tightening, growth=None)
    growth = replace(case.growth, bounds=case.growth.bounds + 0.05 * case.half)  # so that the last jump counts, too
    made = make_error_memory(flat, case.drift, case.changes, observer=case.observer, growth=growth)
    needed = made.absolute[N - 1] + made.growth[N - 1] + made.jump[N - 1]
    assert (needed > flat.total[N]).all()
    assert (made.end >= needed).all()
    np.testing.assert_allclose(made.end, needed, rtol=1e-8)
    late = np.array(flat.model_error)
    late[N] += 10 * case.half
    made = make_error_memory(
        replace(flat, model_error=late), case.drift, case.changes, observer=case.observer, growth=case.growth
    )
    np.testing.assert_allclose(made.end, made.absolute[N])


def test_plans_end_as_far_from_the_limits_as_the_steady_state_must_be():
    """Limit less c less q of the terminal set at step N, whatever is measured; nothing of q before."""
    case = remembering("elman")
    errors = LearntErrors(case.memory, case.predictor.outputs, case.terminal)
    least, most = (np.array([getattr(s, side) for s in case.predictor.outputs]) for side in ("lower", "upper"))
    moved = case.memory.end + case.terminal.margin
    assert (case.terminal.margin > 0).all()
    for _ in range(2):
        lower, upper = errors.limits()
        np.testing.assert_allclose(upper[-1], most - moved, rtol=1e-12)
        np.testing.assert_allclose(lower[-1], least + moved, rtol=1e-12)
        widest = case.memory.absolute[1:-1] + case.memory.growth[1:-1]
        assert (upper[1:-1] >= most - widest - 1e-12).all()
        errors.update(0.1 * case.memory.absolute[0], certified=True)


def test_what_may_drift_within_few_samples_may_within_more():
    case = remembering("elman")
    bounds = np.array(case.drift.bounds)
    bounds[1] = 3 * bounds[K]
    made = make_error_memory(
        case.tightening, replace(case.drift, bounds=bounds), case.changes, observer=case.observer, growth=case.growth
    )
    np.testing.assert_array_equal(made.drift, np.tile(bounds[1], (K, 1)))


def test_growth_and_end_are_what_the_theorem_needs():
    memory, total = remembering("elman").memory, remembering("elman").tightening.total
    assert not memory.growth[:2].any()
    assert (np.diff(memory.growth[1:], axis=0) >= 2 * memory.jump[1:]).all()
    assert (memory.end >= memory.absolute[N - 1] + memory.growth[N - 1] + memory.jump[N - 1]).all()
    assert (memory.end >= total[N]).all()
    assert (memory.jump > 0).all()
