"""The C code of a controller does what the controller does; its QP solver solves what is hard for QP solvers."""

import re
import shutil
import subprocess

import numpy as np
import pytest
from c_loops import controller, learnt, network, run
from c_quadratic import KINDS, CQuadratic, objective, program
from guaranteed_cases import M, guaranteed
from mpc_networks import NormContraction, elman

from controlrnn.errors import SettingError
from controlrnn.systems import Activation
from experiments.bench_mpc.c_code import CompiledController, compiler
from mpc import (
    Fallback,
    Limits,
    RunningOn,
    SolverOptions,
    StateObserver,
    Status,
    TightenedMPC,
    Tracking,
    Washout,
    chain,
    controller_to_c,
    no_tightening,
    observer_system,
)
from mpc.control.settings import grouped
from mpc.quadratic import QuadraticProgram
from mpc.solvers.condensed import CondensedBackend

CC = compiler()
needs_compiler = pytest.mark.skipif(CC is None, reason="no C compiler (cc or gcc) on the path")
STRICT = ["-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]

RELU, SIGMOID, LEAKY = Activation.RELU, Activation.SIGMOID, Activation.LEAKY_RELU
# Network, controller, loop. Together: 1 to 3 inputs and outputs, all observers, limits of all kinds.
CASES = {
    "limits_reached": ({"seed": 1}, {"observer": "innovation"}, {}),
    "out_of_reach": (
        {"seed": 2, "nu": 3, "ny": 2, "layers": (3, 4), "through": True},
        {"move_limit": 0.1},
        {"reach": 1.5},
    ),
    "hard": ({"seed": 3, "nu": 2, "ny": 3}, {"soft": False, "limit": 0.15, "observer": "washout"}, {"noise": 0.03}),
    "one_of_each": (
        {"seed": 4, "nu": 1, "ny": 1, "layers": (1,) * 5, "activation": SIGMOID},
        {"limit": None, "control_horizon": 1},
        {},
    ),
    "linear": ({"seed": 5, "nu": 3, "ny": 1, "layers": ()}, {"move_limit": [np.inf, 0.2, 0.02]}, {}),
    "once": ({"seed": 6, "ny": 1, "activation": RELU}, {"options": SolverOptions(rti=True)}, {"preview": 6}),
    "cut_short": (
        {"seed": 7, "nu": 1, "ny": 2, "activation": LEAKY, "through": True},
        {"options": SolverOptions(max_iterations=2), "control_horizon": 4, "limit": [0.1, np.inf]},
        {"reach": 1.0},
    ),
}

SLOW = ("limits_reached", "linear", "once")  # left out where time is short


@pytest.fixture(scope="module")
def solver(tmp_path_factory):
    if CC is None:
        pytest.skip("no C compiler (cc or gcc) on the path")
    return CQuadratic(CC, tmp_path_factory.mktemp("qp"))


def kkt_error(z, multipliers, H, g, C, lower, upper, price):
    """Largest violation of the optimality conditions, multipliers relative to their size."""
    values, prices = np.concatenate([z, C @ z]), np.concatenate([np.full(len(z), np.inf), price])
    size = 1.0 + np.abs(multipliers).max(initial=0.0)
    slope = np.abs(H @ z + g + multipliers[: len(z)] + C.T @ multipliers[len(z) :]).max() / size
    above, below = np.maximum(values - upper, 0.0), np.maximum(lower - values, 0.0)
    # Beyond a limit the multiplier is at the price; where it is not zero, the value is at a limit or beyond.
    paid = np.where(np.isfinite(prices), np.abs(np.abs(multipliers) - prices) / size, np.inf)
    excess = np.minimum(above + below, paid)
    held = np.where(multipliers > 0, np.maximum(upper - values, 0.0), np.maximum(values - lower, 0.0))
    idle = np.minimum(np.abs(multipliers) / size, held)
    over_price = np.maximum(np.abs(multipliers) - prices, 0.0) / size
    return float(max(slope, excess.max(), idle.max(), over_price.max()))


@pytest.mark.parametrize("kind", KINDS)
def test_quadratic_programs_are_solved(solver, kind):
    # Without curvature only so much is determined that rounding errors of 1e-16 / 1e-10 leave.
    accuracy = 1e-4 if kind == "flat" else 1e-6
    for seed in range(150):
        problem = program(seed, kind)
        status, z, multipliers = solver.solve(*problem)
        assert status == "solved", seed
        assert kkt_error(z, multipliers, *problem) <= accuracy, seed
        other = QuadraticProgram(len(z), problem[-1]).solve(*problem[:-1])
        if other is None:
            assert kind == "flat"
            continue
        (ours, kept), (theirs, _) = objective(z, *problem), objective(other.z, *problem)
        assert kept <= accuracy, seed
        assert ours <= theirs + accuracy * (1 + abs(theirs)), seed
        if kind != "flat":
            np.testing.assert_allclose(z, other.z, atol=1e-5, err_msg=str(seed))


@pytest.mark.parametrize("kind", ["soft", "hard", "moves", "repeated", "bounds_again"])
def test_programs_are_solved_again_under_other_limits(solver, kind):
    for seed in range(150):
        H, g, C, lower, upper, price = program(seed, kind)
        solver.solve(H, g, C, lower, upper, price)
        rng = np.random.default_rng(seed)
        moved = rng.choice([0.01, 0.3]) * rng.standard_normal(len(upper)) * (np.arange(len(upper)) >= len(g))
        problem = H, g, C, lower + moved, upper + moved, price
        status, z, multipliers = solver.solve(*problem, again=True)
        anew, expected, _ = solver.solve(*problem)
        assert status == anew, seed
        if anew == "solved":
            assert kkt_error(z, multipliers, *problem) <= 1e-6, seed
            np.testing.assert_allclose(z, expected, atol=1e-8, err_msg=str(seed))


def test_contradictions_are_noticed(solver):
    for seed in range(100):
        H, g, C, lower, upper, price = program(seed, "soft")
        if len(price) < 2:
            continue
        n = len(g)
        price[0] = np.inf
        far, high = lower.copy(), upper.copy()
        far[n] = np.abs(C[0]).sum() + 0.01  # out of the box
        high[n] = far[n] + 1
        assert solver.solve(H, g, C, far, high, price)[0] == "infeasible"
        C[1], price[1], upper[n : n + 2], lower[n : n + 2] = -C[0], np.inf, -0.01, -np.inf
        assert solver.solve(H, g, C, lower, upper, price)[0] == "infeasible"


@pytest.mark.parametrize("bad", [np.nan, np.inf, -1.0])
def test_what_is_not_convex_fails(solver, bad):
    H, g, C, lower, upper, price = program(1, "soft")
    H[0, 0] = bad
    assert solver.solve(H, g, C, lower, upper, price)[0] == "failed"


@needs_compiler
@pytest.mark.parametrize("case", [pytest.param(c, marks=[pytest.mark.slow] * (c in SLOW)) for c in CASES])
def test_closed_loops_agree(case, tmp_path):
    of_network, of_controller, of_loop = CASES[case]
    system = network(**of_network)
    ours = controller(system, **of_controller)
    theirs = CompiledController(ours, tmp_path)
    expected, found = (run(acting, ours, **of_loop) for acting in (ours, theirs))
    lower, upper = ours.predictor.input_limits()
    for what in ("status", "fallback", "iterations", "certified", "feasible"):
        assert getattr(found, what) == getattr(expected, what), what
    # A steady input that stands in comes from another least-squares method, and its errors live on in the plant.
    accuracy = 1e-4 if case == "cut_short" else 1e-6
    np.testing.assert_array_less(np.abs(found.u - expected.u) / (upper - lower), accuracy)
    np.testing.assert_allclose(found.cost, expected.cost, rtol=10 * accuracy, atol=1e-9)  # NaN where not solved
    assert np.isfinite(expected.cost).sum() >= 40
    # The header says how much memory it takes.
    assert f"({theirs.memory} bytes, " in (tmp_path / "controlrnn_mpc.h").read_text()


def ending_at_rest(name, **options):
    """A controller whose plans end in a terminal set."""
    case = guaranteed(name)
    observer = RunningOn(case.predictor, 1, contraction=case.contraction)
    return TightenedMPC(
        case.predictor,
        observer,
        case.tightening,
        terminal=case.terminal,
        **grouped(
            dict(
                output_weight=case.weight,
                input_move_weight=0.05,
                control_horizon=M,
                move_limit=0.4,
                options=SolverOptions(max_iterations=4),
                **options,
            )
        ),
    )


@needs_compiler
@pytest.mark.parametrize("name", ["layers", pytest.param("feedthrough", marks=pytest.mark.slow)])
def test_plans_that_end_in_a_terminal_set_agree(name, tmp_path):
    case, ours = guaranteed(name), ending_at_rest(name)
    theirs = CompiledController(ours, tmp_path)
    expected, found = (run(acting, ours, steps=100, reach=1.0, noise=0.01) for acting in (ours, theirs))
    for what in ("status", "fallback", "iterations", "feasible", "certified"):
        assert getattr(found, what) == getattr(expected, what), what
    cut_short = sum(status is Status.MAX_ITERATIONS for status in expected.status)
    assert (0 if name == "feedthrough" else 1) <= cut_short < 60
    assert np.mean(expected.feasible) > 0.9
    np.testing.assert_allclose(found.u, expected.u, atol=2e-6)
    assert case.terminal.digest in (tmp_path / "controlrnn_mpc.h").read_text()


def remembering(kind, **believed):
    """A controller whose limits learn: one that plans to come to rest, one that does not, one that loses its error."""
    if kind == "terminal":
        case = guaranteed("layers")
        return ending_at_rest("layers", error_memory=learnt(case.tightening, case.half, **believed))
    system = elman(rate=0.6, seed=2)
    base, model = controller(system, limit=0.4).predictor, NormContraction.of(system)
    observer = Washout(base, 8, contraction=model)
    if kind == "innovation":
        gain = 0.3 * system.C2.T / np.linalg.norm(system.C2, 2) ** 2
        own = NormContraction.of(observer_system(system, gain))
        skewed = NormContraction(own.system_digest, 0.9, np.diag([1.0, 1.0, 1.0, 4.0]), 2 * own.input_gain)
        observer = StateObserver(base, gain, 30, residual_bound=0.05, contraction=model, observer_contraction=skewed)
    tightening = no_tightening(system.digest, 8, 2)
    memory = learnt(tightening, np.full(2, 0.4), steps=6, **believed)
    return TightenedMPC(
        base,
        observer,
        tightening,
        Tracking(output_weight=1.0, input_move_weight=0.1),
        error_memory=memory,
        limits=Limits(soft=False),
    )


@needs_compiler
@pytest.mark.parametrize("kind", ["terminal", "washout", "innovation"])
def test_limits_that_learn_agree(kind, tmp_path):
    """With missing and infinite readings, one that cannot be, and samples that somebody else chose the input of."""
    ours = remembering(kind)
    theirs = CompiledController(ours, tmp_path)
    loop = {"steps": 80, "reach": 1.0, "noise": 0.001, "off": 0.01, "outlier": 2.0}
    expected, found = (run(acting, ours, **loop) for acting in (ours, theirs))
    for what in ("status", "fallback", "iterations", "feasible", "certified", "contradicts"):
        assert getattr(found, what) == getattr(expected, what), what
    np.testing.assert_allclose(found.u, expected.u, rtol=0, atol=2e-6 if kind == "terminal" else 1e-9)
    np.testing.assert_allclose(found.errors, expected.errors, rtol=0, atol=1e-6 if kind == "terminal" else 1e-12)
    # The loop shows something: limits learn and count, the outlier is noticed.
    assert expected.contradicts[60]
    assert sum(expected.contradicts) < 5
    blind = remembering(kind, drift=10.0)
    assert np.abs(run(blind, blind, **loop).u - expected.u).max() > 1e-3
    theirs.reset()
    np.testing.assert_array_equal(theirs.errors[1], ours.learnt_errors.memory.absolute)
    assert ours.learnt_errors.memory.digest in (tmp_path / "controlrnn_mpc.h").read_text()


@needs_compiler
def test_somebody_elses_samples_teach_limits_until_a_long_gap(tmp_path):
    ours = remembering("innovation")
    theirs, system, u = CompiledController(ours, tmp_path), ours.predictor.system, np.zeros(2)
    absolute, known = ours.learnt_errors.memory.absolute, []
    for t in range(60):
        y = system.output(ours.observer.state, u) + 0.02 + 0.6 * (t == 38)
        for acting in (ours, theirs):
            acting.record(np.full(2, np.nan) if 40 <= t < 44 else y, u)
        np.testing.assert_allclose(theirs.errors, ours.learnt_errors.interval, rtol=0, atol=1e-14)
        known.append(np.ptp(theirs.errors[:, 1], axis=0) / (2 * absolute[1]))
    shares = np.max(known, axis=1)
    assert (shares[[29, 42, 53]] == 1).all()  # the estimate's certified error does not hold, and all is forgotten
    assert (shares[[30, 37, 39, 57]] < 0.4).all()
    assert 0.4 < shares[38] < 1  # either what was known is wrong or the outlier


def test_writing_the_code_forgets_nothing(tmp_path):
    ours = remembering("washout")
    for _ in range(12):
        ours.record(ours.predictor.system.output(ours.observer.state, np.zeros(2)), np.zeros(2))
    known = ours.learnt_errors.interval
    assert (np.ptp(known, axis=0) < 2 * ours.learnt_errors.memory.absolute).any()
    controller_to_c(ours, tmp_path)
    np.testing.assert_array_equal(ours.learnt_errors.interval, known)


@pytest.fixture(scope="module")
def plain():
    """A controller for all that does not need a particular one."""
    return controller(network(1, nx=3), horizon=5, limit=[0.2, np.inf], move_limit=[0.3, np.inf])


def build(source, folder, *flags):
    """Compile the self-test strictly; returns what running it gives."""
    target = folder / "self_test"
    name = source.stem.upper()
    command = [CC, *STRICT, f"-D{name}_SELF_TEST", *flags, str(source), "-o", str(target), "-lm"]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return subprocess.run([str(target)], capture_output=True, text=True, check=False)


@needs_compiler
@pytest.mark.parametrize(
    "case", ["hard", *(pytest.param(c, marks=pytest.mark.slow) for c in (*CASES, "terminal", "recall") if c != "hard")]
)
def test_self_test_is_clean_under_sanitizers(case, tmp_path):
    if case == "terminal":
        made = ending_at_rest("feedthrough")
    elif case == "recall":
        made = remembering("terminal")
    else:
        of_network, of_controller, _ = CASES[case]
        made = controller(network(**of_network), **of_controller)
    source, _ = controller_to_c(made, tmp_path)
    flags = ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    probe = tmp_path / "probe.c"
    probe.write_text("int main(void) { return 0; }")
    works = subprocess.run([CC, *flags, str(probe), "-o", str(tmp_path / "probe")], capture_output=True, check=False)
    if works.returncode:
        pytest.skip("the compiler has no sanitizers")
    done = build(source, tmp_path, *flags)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stderr == ""


@needs_compiler
def test_self_test_notices_a_changed_number(plain, tmp_path):
    source, _ = controller_to_c(plain, tmp_path)
    assert build(source, tmp_path).returncode == 0
    text = source.read_text()
    changed = re.sub(r"(double Mx\[[^]]*\] = \{\s*)[^,]+", r"\g<1>0.9", text)
    assert changed != text
    source.write_text(changed)
    assert build(source, tmp_path).returncode == 1


@needs_compiler
@pytest.mark.parametrize("flag", ["-ffast-math", "-Ofast", "-ffinite-math-only"])
def test_arithmetic_without_nan_is_refused_when_compiled(plain, flag, tmp_path):
    """A missing reading would be used as a number, and bounds count on the order of sums."""
    source, _ = controller_to_c(plain, tmp_path)
    command = [CC, *STRICT, flag, "-c", str(source), "-o", str(tmp_path / "fast.o")]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    assert made.returncode != 0
    assert "missing readings are NaN" in made.stderr
    assert (
        subprocess.run([*command[:-1], str(tmp_path / "o"), "-fno-fast-math", "-fno-finite-math-only"]).returncode == 0
    )


@needs_compiler
@pytest.mark.skipif(shutil.which("nm") is None, reason="no nm on the path")
def test_nothing_but_the_maths_library_is_called(plain, tmp_path):
    source, _ = controller_to_c(plain, tmp_path, name="mine")
    target = tmp_path / "mine.o"
    subprocess.run([CC, *STRICT, "-O2", "-c", str(source), "-o", str(target)], check=True)
    symbols = subprocess.run(["nm", str(target)], capture_output=True, text=True, check=True).stdout
    needed = set(re.findall(r" U (\w+)", symbols)) - {"_GLOBAL_OFFSET_TABLE_", "__stack_chk_fail"}
    assert needed <= {"tanh", "sqrt", "fmin", "fmax", "fabs", "memcpy", "memset"}
    offered = set(re.findall(r" T (\w+)", symbols))
    assert offered == {
        f"mine_{k}"
        for k in (
            "init",
            "step",
            "step_preview",
            "step_watched",
            "record",
            "start_from",
            "clear_estimate",
            "model_step",
            "model_output",
        )
    }
    assert not re.findall(r" [BDC] (\w+)", symbols)  # no variable outside of the state


def test_same_controller_same_files_and_it_is_left_alone(plain, tmp_path):
    plain.reset()
    y = np.zeros(2)
    for _ in range(4):
        plain.step(y, y)
    first = [path.read_bytes() for path in controller_to_c(plain, tmp_path / "a" / "pump.c")]
    middle = plain.step(y, y).u
    second = [path.read_bytes() for path in controller_to_c(plain, tmp_path / "b" / "pump.c")]
    assert first == second
    plain.reset()
    for _ in range(4):
        plain.step(y, y)
    np.testing.assert_array_equal(plain.step(y, y).u, middle)
    header = (tmp_path / "a" / "pump.h").read_text()
    for digest in (plain.predictor.system.digest, plain.tightening.digest):
        assert digest in header
    assert plain.tightening.promise in header


@needs_compiler
@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("move", [0.5, 0.05])
def test_what_stands_in_for_a_solution_is_the_same(soft, move, tmp_path):
    """Solves that are cut short at once, from inside the limits and from far outside."""
    options = SolverOptions(max_iterations=1, tolerance=1e-14)
    ours = controller(network(8, nu=2, ny=3), options=options, limit=0.1, soft=soft, move_limit=move)
    theirs = CompiledController(ours, tmp_path)
    predictor, used = ours.predictor, set()
    lower, upper = predictor.input_limits()
    middle = predictor.steady_output(np.mean([lower, upper], axis=0))
    for share in (0.5, 0.9, 0.0):
        for reach in (0.05, 1.0):
            for acting in (ours, theirs):
                acting.reset()
                for _ in range(4):
                    acting.record(middle, lower + share * (upper - lower))
            wanted = middle + reach * np.array([1.0, -1.0, 0.5])
            for _ in range(6):
                mine, other = (acting.step(np.full(3, np.nan), wanted) for acting in (ours, theirs))
                assert (mine.status, mine.fallback, mine.feasible) == (other.status, other.fallback, other.feasible)
                assert mine.inside_after == other.inside_after
                np.testing.assert_allclose(other.u, mine.u, atol=1e-4 * (upper - lower).max())
                used.add(mine.fallback)
    assert len(used) >= 2


@needs_compiler
@pytest.mark.parametrize("ends", [True, False])
def test_ways_back_inside_are_the_same(ends, tmp_path):
    """From outside hard limits, in the fewest samples."""
    case = guaranteed("layers")
    ours = ending_at_rest("layers") if ends else controller(network(3, ny=2), soft=False, limit=0.05, move_limit=0.2)
    theirs, predictor = CompiledController(ours, tmp_path), ours.predictor
    lower, upper = predictor.input_limits()
    wanted = case.middle if ends else np.zeros(2)
    for share in (0.0, 1.0, 0.8):
        home, excess = [], []
        for acting in (ours, theirs):
            acting.reset()
            held = lower + share * (upper - lower)
            x, u = np.array(ours.observer.initial_state), held
            said, over = [], []
            for t in range(45):
                if t < 25:
                    acting.record(np.full(ours.predictor.ny, np.nan), held)
                else:
                    step = acting.step(np.full(ours.predictor.ny, np.nan), wanted)
                    u = step.u
                    said.append(step.inside_after)
                    assert step.feasible <= (step.inside_after == 0)
                x = predictor.system.step(x, u)
                y = predictor.system.output(x, u)
                limits = np.array([[signal.lower, signal.upper] for signal in predictor.outputs])
                over.append(np.maximum(np.maximum(limits[:, 0] - y, y - limits[:, 1]), 0).max() if t >= 25 else 0.0)
            assert step.feasible
            assert max(over[-10:]) <= 1e-9
            home.append(next(t for t, after in enumerate(said) if after == 0))
            excess.append(sum(over))
        # Problems without a solution end where rounding has it: the two solvers' ways are equally good, not equal.
        assert abs(home[0] - home[1]) <= 1
        np.testing.assert_allclose(excess[1], excess[0], rtol=0.02, atol=1e-6)


@needs_compiler
@pytest.mark.parametrize(("limit", "share", "chosen"), [(0.05, 0.0, Fallback.PLAN), (0.15, 1.0, Fallback.STEADY)])
def test_a_plan_that_is_inside_sooner_than_the_way_back_is_the_same(limit, share, chosen, tmp_path):
    """A way back inside in fewer samples than the plan of least violation, but not than another of less violation."""
    system = network(4, ny=2, nu=1, nx=3, layers=(3,), through=True)
    ours = controller(system, soft=False, limit=limit, horizon=6, control_horizon=3)
    theirs = CompiledController(ours, tmp_path)
    lower, upper = ours.predictor.input_limits()
    for acting in (ours, theirs):
        acting.reset()
        for _ in range(25):
            acting.record(np.full(2, np.nan), lower + share * (upper - lower))
    used = []
    for _ in range(3):
        mine, other = (acting.step(np.full(2, np.nan), np.zeros(2)) for acting in (ours, theirs))
        used.append(mine.fallback)
        assert (mine.fallback, mine.inside_after) == (other.fallback, other.inside_after)
        # A plan of least violation ends where rounding has it (see above); all else is the same.
        share = 5e-3 if mine.fallback is Fallback.LEAST else 1e-4
        np.testing.assert_allclose(other.u, mine.u, atol=share * (upper - lower).max())
    assert used[1] is chosen


@needs_compiler
@pytest.mark.parametrize("kind", ["innovation", "washout"])
def test_a_copy_of_the_state_is_a_saved_controller(kind, tmp_path):
    ours = remembering(kind)
    theirs, y = CompiledController(ours, tmp_path), np.zeros(2)
    for t in range(40):
        theirs.step(y, np.array([0.2 * np.sin(t), 0.1]))
    theirs.save()
    runs = []
    for _ in range(2):
        theirs.load()
        runs.append([theirs.step(y + 0.01 * t, np.array([0.1, -0.1])).u for t in range(10)])
        theirs.step(np.full(2, np.nan), np.full(2, np.inf))
    np.testing.assert_array_equal(*runs)


@needs_compiler
@pytest.mark.parametrize("kind", ["innovation", "washout"])
def test_taking_over_and_clearing_agree(kind, tmp_path):
    ours = remembering(kind)
    theirs = CompiledController(ours, tmp_path)
    for t in range(80):
        if t == 0:
            for acting in (ours, theirs):
                acting.start_from([0.3, 0.2])
        if t == 45:
            for acting in (ours, theirs):
                acting.clear_estimate()
        y = 0.05 * np.array([np.sin(t / 5), np.cos(t / 7)])
        mine, other = (acting.step(y, np.array([0.1, 0.1])) for acting in (ours, theirs))
        assert (mine.status, mine.fallback) == (other.status, other.fallback), t
        np.testing.assert_allclose(other.u, mine.u, atol=1e-5, err_msg=str(t))
        if t == 0:
            np.testing.assert_array_equal(mine.u, [0.3, 0.2])
        if t == 45:
            assert mine.status is Status.WARMING_UP


@needs_compiler
def test_set_points_of_any_size_or_none_are_the_same(plain, tmp_path):
    theirs, y = CompiledController(plain, tmp_path), np.zeros(2)
    plain.reset()
    for wanted in (np.nan, 0.1, np.nan, np.inf, -np.inf, 1e300, -1e300, 0.0, 0.0, 0.0, 0.0):
        mine, other = (acting.step(y, np.array([wanted, 0.1])) for acting in (plain, theirs))
        assert (mine.status, mine.fallback) == (other.status, other.fallback)
        assert mine.status in (Status.SOLVED, Status.WARMING_UP)
        np.testing.assert_allclose(other.u, mine.u, atol=1e-5)
    blind = theirs.step(np.full(2, np.nan), y)
    assert blind.status is Status.SOLVED


@needs_compiler
def test_an_estimate_is_certified_when_python_says_so(tmp_path):
    system = elman(rate=0.6, seed=2)
    base = controller(system, limit=1.0).predictor
    gain = 0.3 * system.C2.T / np.linalg.norm(system.C2, 2) ** 2
    model, own = NormContraction.of(system), NormContraction.of(observer_system(system, gain))
    skewed = NormContraction(own.system_digest, 0.9, np.diag([1.0, 1.0, 1.0, 4.0]), 2 * own.input_gain)
    observer = StateObserver(base, gain, 30, residual_bound=0.05, contraction=model, observer_contraction=skewed)
    tightening = no_tightening(system.digest, 6, 2)
    ours = TightenedMPC(base, observer, tightening, Tracking(output_weight=1.0, input_move_weight=0.1))
    expected, found = (run(acting, ours, steps=80) for acting in (ours, CompiledController(ours, tmp_path)))
    assert found.certified == expected.certified
    assert 10 < sum(expected.certified) < 50  # lost in gaps and found again


def test_what_has_no_c_code_is_refused(plain, tmp_path):
    predictor = plain.predictor
    base = no_tightening(predictor.system.digest, 4, 2)

    def other(observer=None, **options):
        weights = {"output_weight": 1.0, "input_move_weight": 0.1}
        return TightenedMPC(predictor, observer or RunningOn(predictor, 1), base, **grouped(dict(**weights, **options)))

    class Mine(RunningOn):
        pass

    refused = {
        "CondensedBackend only": other(backend=chain(CondensedBackend)),
        "max_wall_time": other(options=SolverOptions(max_wall_time=1.0)),
        "observer must be": other(Mine(predictor, 1)),
    }
    for message, bad in refused.items():
        with pytest.raises(SettingError, match=message):
            controller_to_c(bad, tmp_path)
    with pytest.raises(SettingError, match="C identifier"):
        controller_to_c(plain, tmp_path / "2nd-pump.c")
    assert not list(tmp_path.iterdir())
    source, header = controller_to_c(plain, tmp_path / "2nd-pump.c", name="pump")
    assert '#include "2nd-pump.h"' in source.read_text()
    assert "pump_step(" in header.read_text()
