"""Hard and soft limits side by side, and the first priority before the next, strictly: in Python and in the C code."""

from dataclasses import replace

import numpy as np
import pytest
from c_loops import controller, network, run
from ocp_cases import problem, sample
from scipy.optimize import linprog

from controlrnn.errors import SettingError, ShapeError
from experiments.bench_mpc.c_code import CompiledController, compiler
from mpc import RunningOn, SolverOptions, Status
from mpc.problem.priorities import by_priority, less, violation
from mpc.problem.ranking import KEPT, Ranking, ranked
from mpc.problem.settings import Limits
from mpc.solvers.condensed import CondensedBackend
from mpc.solvers.dompc import DoMpcBackend
from mpc.solvers.fatrop import FatropBackend

needs_compiler = pytest.mark.skipif(compiler() is None, reason="no C compiler (cc or gcc) on the path")


def least(ocp, data):
    """The least violation of each rank, the first first, of a linear model: a linear programme each."""
    N, nu, ny = ocp.horizon, ocp.predictor.nu, ocp.predictor.ny
    free = ocp.predictor.predict(data.x, np.zeros((N, nu)))
    G = np.stack([ocp.predictor.predict(data.x, e.reshape(N, nu)) - free for e in np.eye(N * nu)], axis=-1)[1:].reshape(
        N * ny, N * nu
    )
    base, low, high = free[1:].ravel(), data.lower[1:].ravel(), data.upper[1:].ravel()
    scale = np.tile(ocp.output_scale, N)
    A = np.block([[G, -np.diag(scale)], [-G, -np.diag(scale)]])
    b = np.concatenate([high - base, base - low])
    kept = np.isfinite(b)
    lower, upper = ocp.predictor.input_limits()
    bounds = [*zip(np.tile(lower, N), np.tile(upper, N), strict=True), *[(0, None)] * (N * ny)]
    rows, ends, found = A[kept], b[kept], []
    for level in range(ocp.ranking.levels):
        cost = np.concatenate([np.zeros(N * nu), np.tile(ocp.limit_weight * ocp.ranking.at(level), N)])
        answer = linprog(cost, A_ub=rows, b_ub=ends, bounds=bounds)
        assert answer.status == 0
        found.append(answer.fun)
        rows, ends = np.vstack([rows, cost]), np.append(ends, answer.fun + 1e-6)
    return found


def conflict(seed, ny=3, levels=3):
    """Outputs that two inputs cannot all keep within their limits."""
    rng = np.random.default_rng(seed)
    system = network(seed, layers=(), nu=2, ny=ny)
    rank = tuple(int(r) for r in rng.permutation(ny) % levels)
    limits = []
    for _ in range(ny):
        middle, half = rng.uniform(-0.6, 0.6), rng.uniform(0.02, 0.2)
        limits.append((middle - half, middle + half))
    hard = tuple(r == 0 for r in rank) if seed % 2 else (False,) * ny
    ocp = problem(system, 6, limit=limits, ranking=Ranking(hard, rank), soft=not any(hard))
    return ocp, sample(ocp, rng.uniform(-1, 1, ny), x=rng.uniform(-0.5, 0.5, system.nx), before=0.1)


def test_each_rank_is_violated_as_little_as_can_be_once_those_before_it_are():
    exceeded = [0, 0, 0]
    for seed in range(40):
        ocp, data = conflict(seed)
        backend = CondensedBackend(ocp, SolverOptions())
        answer = by_priority(backend, ocp, data, backend.solve(data), np.inf)
        over = ocp.excess_of(data, ocp.outcome(data.x, answer.u)[0])
        got, best = violation(ocp, over), least(ocp, data)
        hard = ocp.hard.any() and best[0] > 1e-5
        assert answer.status is (Status.INFEASIBLE if hard else Status.SOLVED), seed
        for level in range(3):
            assert got[level] <= 1e-4 + (1 + 1e-4) * best[level], (seed, level, got, best)
            exceeded[level] += best[level] > 1e-3
    assert min(exceeded) >= 5  # so that every rank was put to the test


def test_a_rank_that_needs_no_solve_of_its_own_costs_none():
    solves = []

    class Counting(CondensedBackend):
        def solve(self, data):
            solves.append(data.kept_ranks)
            return super().solve(data)

    ocp, data = conflict(2)
    easy = replace(data, lower=np.full_like(data.lower, -50.0), upper=np.full_like(data.upper, 50.0))
    backend = Counting(ocp, SolverOptions())
    solution = backend.solve(easy)
    assert by_priority(backend, ocp, easy, solution, np.inf) is solution
    assert solves == [0]


def test_no_solve_is_begun_after_the_deadline():
    ocp, data = conflict(4)
    backend = CondensedBackend(ocp, SolverOptions())
    solution = backend.solve(data)
    assert by_priority(backend, ocp, data, solution, -np.inf) is solution


def test_differences_below_rounding_leave_it_to_the_next_rank():
    assert less((1.0, 0.0), (2.0, 0.0))
    assert not less((2.0, 0.0), (1.0, 5.0))
    assert less((1.0 + 0.5 * KEPT, 1.0), (1.0, 2.0))
    assert less((np.inf, 1.0), (np.inf, 2.0))
    assert not less((1.0,), (1.0,))


def prioritised(seed=11, **options):
    """A controller of three outputs in narrow limits, of which it can keep two."""
    return controller(network(seed, nu=2, ny=3), limit=0.06, **options)


class Told(RunningOn):
    """Estimates what it is told."""

    told = np.zeros(0)

    def _next(self, _u, _y):
        return self.told


RANKS = {
    "priorities": {"priority": (2, 1, 3)},
    "hard and soft": {"soft": (False, True, True)},
    "hard and soft priorities": {"soft": (True, False, True), "priority": (2, 1, 3)},
    "hard priorities": {"soft": False, "priority": (1, 2, 2), "move_limit": 0.2},
}


@needs_compiler
@pytest.mark.parametrize("kind", RANKS)
def test_the_c_code_ranks_limits_alike(kind, tmp_path):
    ours = prioritised(**RANKS[kind])
    theirs = CompiledController(ours, tmp_path)
    first, second = run(ours, ours, steps=60, reach=1.5), run(theirs, ours, steps=60, reach=1.5)
    assert first.status == second.status
    assert first.fallback == second.fallback
    assert first.feasible == second.feasible
    np.testing.assert_allclose(first.u, second.u, atol=2e-5)
    np.testing.assert_allclose(first.cost, second.cost, rtol=1e-4, atol=1e-6)
    assert not all(first.feasible)  # so that ranks mattered


def test_a_step_exceeds_the_limits_of_whom_it_puts_first_least():
    gained = 0
    for seed in range(6):
        found = {}
        for first in range(3):
            made = prioritised(priority=[1 + (i != first) for i in range(3)])
            rng = np.random.default_rng(seed)
            x = made.predictor.equilibrium(made.safe_input) + rng.uniform(-0.5, 0.5, made.predictor.nx)
            made.observer.__class__, made.observer.told = Told, x
            for _ in range(2):
                made.record(made.predictor.system.output(x, made.safe_input), made.safe_input)
            step = made.step(made.predictor.system.output(x, made.safe_input), np.zeros(3))
            assert step.status is Status.SOLVED
            found[first] = step.slack.sum(axis=0)
        for i in range(3):
            others = min(found[k][i] for k in range(3) if k != i)
            assert found[i][i] <= others + 1e-4, (seed, found)
            gained += found[i][i] < others - 1e-3
    assert gained >= 5


def test_hard_limits_hold_beside_soft_ones_that_cannot():
    made = prioritised(soft=(False, True, True), penalty=[1.0, 1e6, 1e6])
    loop_ = run(made, made, steps=60, reach=2.0, noise=0.0, off=0.0)
    assert {Status.SOLVED, Status.WARMING_UP} >= set(loop_.status)
    assert not all(loop_.feasible)


@pytest.mark.parametrize(
    ("given", "error", "says"),
    [
        ({"soft": (True, False)}, ShapeError, "soft must have one entry for each of 3 outputs, got 2"),
        ({"priority": (1, 2)}, ShapeError, "priority must have one entry"),
        ({"priority": (0, 1, 2)}, SettingError, "priority must be a whole number >= 1"),
        ({"soft": (True, False, True), "priority": (1, 2, 3)}, SettingError, "a soft limit must not have priority"),
        ({"priority": (1, 2, 3), "backend": FatropBackend}, SettingError, "FatropBackend knows neither priorities"),
        ({"soft": (True, False, True), "backend": DoMpcBackend}, SettingError, "DoMpcBackend knows neither"),
    ],
)
def test_ranks_that_cannot_be_are_refused(given, error, says):
    with pytest.raises(error, match=says):
        prioritised(**given)


def test_ranks_are_refused_with_a_terminal_set_and_limited_in_number():
    with pytest.raises(SettingError, match="terminal set needs limits that are all hard"):
        ranked(Limits(soft=(False, False), priority=(1, 2)), 2, terminal=True)
    with pytest.raises(SettingError, match="4 ranks at most, got 5"):
        ranked(Limits(soft=None, priority=(1, 2, 3, 4, 5)), 5, terminal=False)
    assert ranked(Limits(soft=None, priority=(7, 7)), 2, terminal=False) == (True, None)
    assert ranked(Limits(soft=(False, True), priority=None), 2, terminal=False) == (
        False,
        Ranking((True, False), (0, 1)),
    )
