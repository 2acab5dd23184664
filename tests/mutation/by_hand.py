"""Would the fast tests notice a wrong promise? Changes made by hand: ``python tests/mutation/by_hand.py [PART ..]``.

Each changes one place of a copy of the code, runs the fast tests named beside it, and is *killed* if one of them fails.
They are what mutmut does not think of, and what would go unseen for longest: results stay plausible.
"""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
import traceback
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COPIED = ("controlrnn", "mpc", "plants", "experiments", "tests", "setup.cfg")


@dataclass(frozen=True)
class Mutant:
    """A change.

    Args:
        name: What is wrong then.
        file: Where, from the root.
        before: Text that occurs once in it.
        after: What it becomes.
        tests: Files of tests that have to notice.
    """

    name: str
    file: str
    before: str
    after: str
    tests: str


_RANK = "math.ceil((n + 1) * coverage - _EPS)"
_JUMP = "np.clip(ends[1:] + sign * jump, -widest[:-1], widest[:-1])"
_LEAST = "float(rate) ** horizon * jump / (1.0 - float(rate)) * ROUNDING * _ROOM"
_END = "end=np.maximum(tightening.total[N], (a[N - 1] + G[N - 1] + jumps[N - 1]) * ROUNDING)"
_OVER = "self.terminal._radii(gap) - 1.0 - _ROUNDED"
_SAFE = "safety=Safety(safe_input=[1.6, 1.6])"
_BELOW = "np.maximum(self.y - self.upper, self.lower - self.y)"

_PROOF = "controlrnn/certification/proof"

# First what mutmut leaves out of the proofs, since it changes functions only: constants.
MUTANTS = (
    Mutant("rounding by half as much", f"{_PROOF}/arithmetic/enclosure.py", "UNIT = 2.0**-53", "UNIT = 2.0**-54",
           "test_enclosure"),
    Mutant("nothing underflows", f"{_PROOF}/arithmetic/enclosure.py", "TINY = 2.0**-1019", "TINY = 0.0",
           "test_enclosure"),
    Mutant("halves that are too long to multiply", f"{_PROOF}/arithmetic/twofold.py", "2.0**27 + 1", "2.0**25 + 1",
           "test_enclosure"),
    Mutant("values of activations without rounding", f"{_PROOF}/intervals.py", "_ULPS = 64 * UNIT", "_ULPS = 0 * UNIT",
           "test_intervals"),
    Mutant("slopes of activations without rounding", f"{_PROOF}/slopes.py", "_WIDEN = 1e-12", "_WIDEN = 0.0",
           "test_slopes"),
    Mutant("a sigmoid that is too flat", f"{_PROOF}/slopes.py", '"sigmoid": (0.0, 0.25)', '"sigmoid": (0.0, 0.2499)',
           "test_slopes"),
    Mutant("slopes of laws without rounding", f"{_PROOF}/laws.py", "_WIDEN = 1e-12", "_WIDEN = 0.0", "test_laws_of_neurons"),
    Mutant("values of laws without rounding", f"{_PROOF}/laws.py", "_ULPS = 256 * UNIT", "_ULPS = 0 * UNIT",
           "test_laws_of_neurons"),
    Mutant("a root whose slope rises", f"{_PROOF}/laws.py", '_FALLING = ("root", "reciprocal")',
           '_FALLING = ("reciprocal",)', "test_laws_of_neurons"),
    Mutant("a signed root whose slope rises", f"{_PROOF}/laws.py", '_EVEN = ("signed_root", "sine")',
           '_EVEN = ("sine",)', "test_laws_of_neurons"),
    Mutant("neurons that stay above zero", f"{_PROOF}/reachable.py", '"tanh": (-1.0, 1.0)', '"tanh": (0.0, 1.0)',
           "test_reachable"),
    Mutant("single precision that rounds by half as much", f"{_PROOF}/execution.py", "Format(2.0**-24,",
           "Format(2.0**-25,", "test_execution_steps"),
    Mutant("gates without rounding", f"{_PROOF}/gated.py", "_ULP = 1e-14", "_ULP = 0.0", "test_comparison"),
    Mutant("conformal rank one less", "mpc/promises/order_statistics.py", _RANK, _RANK + " - 1", "test_order_statistics"),
    Mutant("conformal rank one more", "mpc/promises/order_statistics.py", _RANK, _RANK + " + 1", "test_order_statistics"),
    Mutant("n instead of n + 1", "mpc/promises/order_statistics.py", _RANK, _RANK.replace("(n + 1)", "n"),
           "test_order_statistics"),
    Mutant("confident rank one less", "mpc/promises/order_statistics.py", "int(np.argmax(enough)) + 1", "int(np.argmax(enough))",
           "test_order_statistics"),
    Mutant("model error: score one below", "mpc/calibration/model_error.py", "[rank - 1]", "[rank - 2]", "test_model_error"),
    Mutant("model error: score one above", "mpc/calibration/model_error.py", "[rank - 1]", "[min(rank, len(scores) - 1)]",
           "test_model_error"),
    Mutant("estimates: score one below", "mpc/observers/estimate_error.py", "self.coverage) - 1]", "self.coverage) - 2]",
           "test_estimate_error"),
    Mutant("estimates: score one above", "mpc/observers/estimate_error.py", "self.coverage) - 1]", "self.coverage) % self.n]",
           "test_estimate_error"),
    Mutant("region: score one below", "mpc/calibration/region.py", "scores[rank - 1]", "scores[rank - 2]", "test_region"),
    Mutant("region: score one above", "mpc/calibration/region.py", "scores[rank - 1]", "scores[rank % len(scores)]", "test_region"),
    Mutant("coverage of one side", "mpc/calibration/model_error.py", "(np.abs(e) <= bounds)", "(e <= bounds)", "test_model_error"),
    Mutant("coverage of the other side", "mpc/calibration/model_error.py", "(np.abs(e) <= bounds)", "(e >= -bounds)",
           "test_model_error"),
    Mutant("scores of one side", "mpc/calibration/model_error.py", "np.abs(e / scale)).max", "e / scale).max", "test_model_error"),
    Mutant("error memory without jump", "mpc/tightening/learnt_errors.py", _JUMP, _JUMP.replace("sign * jump", "0 * sign * jump"),
           "test_error_memory"),
    Mutant("error memory without growth", "mpc/tightening/error_memory.py", "(G[k] + 2 * jumps[k])", "(G[k] + 0 * jumps[k])", "test_error_memory"),
    Mutant("error memory with half the growth", "mpc/tightening/error_memory.py", "(G[k] + 2 * jumps[k])", "(G[k] + jumps[k])", "test_error_memory"),
    Mutant("error memory's end without the jump", "mpc/tightening/error_memory.py", _END, _END.replace(" + jumps[N - 1]", ""), "test_error_memory"),
    Mutant("drift that is not accumulated", "mpc/tightening/error_memory.py", "np.maximum.accumulate(drift.bounds[1 : K + 1])",
           "drift.bounds[1 : K + 1]", "test_error_memory"),
    Mutant("terminal set without margin", "mpc/tightening/terminal_set.py", "margin=outputs.bounds[0],",
           "margin=0 * outputs.bounds[0],", "test_terminal"),
    Mutant("margin that is not compared", "mpc/tightening/terminal_set.py", '"margin": bool((self.margin >= outputs.bounds[0]).all())',
           '"margin": True', "test_terminal"),
    Mutant("plans without the terminal margin", "mpc/control/modes.py", "end[horizon] = terminal.margin",
           "end[horizon] = 0 * terminal.margin", "test_terminal"),
    Mutant("recalling plans without the terminal margin", "mpc/tightening/learnt_errors.py",
           "moved = memory.end + terminal.margin", "moved = memory.end", "test_error_memory"),
    Mutant("terminal radius for a longer horizon", "mpc/tightening/terminal_set.py", _LEAST,
           _LEAST.replace("horizon", "(horizon + 1)"), "test_terminal"),
    Mutant("terminal radius for a shorter horizon", "mpc/tightening/terminal_set.py", _LEAST,
           _LEAST.replace("horizon", "(horizon - 1)"), "test_terminal"),
    Mutant("terminal radius of the rate alone", "mpc/tightening/terminal_set.py", _LEAST, _LEAST.replace(" ** horizon", ""),
           "test_terminal"),
    Mutant("excess without the terminal set", "mpc/problem/ocp.py", _OVER, "-np.inf", "test_terminal"),
    Mutant("growth without the jump's effect", "mpc/tightening/tightening.py", "(least[k] + needed[k]) * ROUNDING", "least[k]",
           "test_terminal"),
    Mutant("limits tightened below alone", "mpc/tightening/tightening.py", "for s in outputs]) - total",
           "for s in outputs])", "test_tightening"),
    Mutant("a nominal controller at the price of nothing: tanks", "experiments/three_tank/stages.py",
           _SAFE, "limits=None if claims else __import__('mpc').Limits(penalty=1e-6), " + _SAFE,
           "test_three_tank"),
    Mutant("a nominal controller at the price of nothing: studies", "experiments/shared/guaranteed.py",
           "tightening, **grouped(dict(mode=Mode.PRACTICAL, **",
           "tightening, **grouped(dict(mode=Mode.PRACTICAL, penalty=1e-6, **",
           "test_guaranteed"),
    Mutant("violations that are always 0", "mpc/loops/result.py",
           "return int((self.excess > 0).any(axis=1).sum())", "return 0", "test_closed_loop"),
    Mutant("violations above alone", "mpc/loops/result.py", _BELOW, "self.y - self.upper", "test_closed_loop"),
    Mutant("coverage of one stretch for any", "mpc/promises/promise.py", "math.ceil(steps / each)", "(steps // each)",
           "test_model_error"),
    Mutant("attempts that cost nothing", "mpc/loops/calibration.py", "1 - (1 - coverage) / self.attempts",
           "coverage", "test_closed_loop_calibration"),
    Mutant("loops that are counted before they are run", "mpc/loops/calibration.py", "if last.kept >= rank",
           "if last.kept >= rank - 1", "test_closed_loop_calibration"),
)  # fmt: skip


def fails(place: Path, tests: str) -> bool:
    """Whether a fast test fails there; in a process of its own, forked after what takes long to import."""
    path = str(next((ROOT / "tests").rglob(f"{Path(tests).name}.py")).relative_to(ROOT))
    arguments = ["-x", "-q", "-n", "0", "-m", "not slow", "-p", "no:cacheprovider", "--rootdir", str(place), path]
    arguments += [
        "-W",
        "ignore::pytest.PytestAssertRewriteWarning",
    ]  # plugins may be imported by what is imported before
    with open(place / "log.txt", "w") as log:
        child = os.fork()
        if not child:
            status = 4
            try:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
                os.chdir(place)
                sys.path[0] = str(place)
                status = int(pytest.main(arguments))
            except BaseException:  # noqa: BLE001  # said in the log, for the parent to show
                traceback.print_exc()
            finally:  # nothing of the parent's may run here
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status not in (0, 1):
        raise SystemExit(f"{path} could not be run ({status}):\n{(place / 'log.txt').read_text()[-4000:]}")
    return status == 1


def main(*parts: str) -> int:
    """Judge all whose name holds one of the ``parts``; returns the number of survivors."""
    chosen = [one for one in MUTANTS if not parts or any(part in one.name for part in parts)]
    survivors = 0
    for name in ("casadi", "cvxpy", "do_mpc", "matplotlib.figure", "numba", "scipy.optimize", "torch"):
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name in COPIED:
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, place / name)
        for tests in sorted({one.tests for one in chosen}):
            if fails(place, tests):
                raise SystemExit(f"{tests} fails without any change:\n{(place / 'log.txt').read_text()[-4000:]}")
        for one in chosen:
            file = place / one.file
            text = file.read_text()
            if text.count(one.before) != 1:
                raise SystemExit(f"{one.name}: {one.file} must hold {one.before!r} once, got {text.count(one.before)}")
            file.write_text(text.replace(one.before, one.after))
            killed = fails(place, one.tests)
            file.write_text(text)
            survivors += not killed
            print(f"{'killed' if killed else 'SURVIVED':9} {one.name}", flush=True)
    print(f"{len(chosen)} changes, {survivors} survived")
    return survivors


if __name__ == "__main__":
    raise SystemExit(min(main(*sys.argv[1:]), 1))
