"""The shape of the code: which package may import which, what no file may contain, what every public name documents."""

from __future__ import annotations

import ast
import dataclasses
import enum
import graphlib
import importlib
import inspect
import re
import subprocess
import sys
import typing
from collections import Counter
from functools import cache, cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("controlrnn", "plants", "mpc", "experiments")
FILES = {p.relative_to(ROOT).as_posix(): p for name in OURS for p in sorted((ROOT / name).rglob("*.py"))}
LIBRARY = [name for name in FILES if not name.startswith("experiments/")]
TESTS = [p.relative_to(ROOT).as_posix() for p in sorted((ROOT / "tests").rglob("*.py"))]

LEAVES = {
    f"controlrnn.{leaf}"
    for leaf in (
        "arithmetic",
        "checks",
        "cluster",
        "errors",
        "neighbours",
        "portable",
        "printing",
        "quasi_newton",
        "records",
        "typed",
        "workers",
    )
}
DATA = LEAVES | {"controlrnn", "controlrnn.data"}
SYSTEMS = DATA | {"controlrnn.systems"}
# Package: what it may import of ours, besides itself. The longest matching name decides.
MAY_IMPORT = {
    "controlrnn": LEAVES | {"controlrnn.road"},  # __init__, whose `open` leads there; errors, checks, records
    "controlrnn.__main__": {"controlrnn.command"},
    "controlrnn.data": DATA,
    "controlrnn.systems": SYSTEMS,
    "controlrnn.models": SYSTEMS | {"controlrnn.kernels"},
    "controlrnn.kernels": SYSTEMS,
    "controlrnn.export": SYSTEMS,
    "controlrnn.certification": SYSTEMS | {"controlrnn.kernels", "controlrnn.models"},
    "controlrnn.identification": {"controlrnn"},
    "controlrnn.tune": LEAVES,
    "controlrnn.greybox": SYSTEMS | {"controlrnn.kernels", "controlrnn.identification"},
    "controlrnn.exchange": SYSTEMS,
    "controlrnn.report": SYSTEMS
    | {"controlrnn.certification", "controlrnn.identification", "controlrnn.greybox", "controlrnn.kernels"},
    "controlrnn.road": {"controlrnn", "mpc", "plants"},
    "controlrnn.command": {"controlrnn", "mpc", "plants"},
    "plants": DATA,
    "mpc": {"controlrnn"},
    "experiments": set(OURS),
}
# These may import the whole of controlrnn.
WHOLE = ("mpc", "experiments", "controlrnn.identification", "controlrnn.road", "controlrnn.command")
# What stands on everything else, and the files beside it that lead there.
TOP = {
    "controlrnn.road": ("controlrnn/road/", "controlrnn/command/", "controlrnn/__init__.py"),
    "controlrnn.command": ("controlrnn/command/", "controlrnn/__main__.py"),
}
# Floors of a package, from the bottom: a file imports from its own folder and from those before it.
FLOORS = {
    "mpc": (
        "c_tables", "quadratic", "predictor", "promises", "observers", "calibration", "tightening", "problem",
        "solvers", "safety", "control", "c_code", "loops", "online",
    ),
    "controlrnn.certification": (
        "proof.arithmetic", "proof", "input_error", "families", "certificate", "figures", "search", "certificates",
        "attacks", "ball", "refutation",
    ),
    "controlrnn.identification": ("optimisers", "states", "scores", "linear", "losses", "training", "selection"),
    "controlrnn.models": ("parts", "base", ""),
    "controlrnn.report": (
        "charts", "scales", "texts", "drawing", "cells", "blocks", "page", "parts", "sections", "road",
    ),
    "controlrnn.road": ("file", "data", ""),
}  # fmt: skip
UPWARDS = {
    # A second opinion on every kind of certificate, which an extra installs: `verify(rigour="ball")` asks for it.
    ("controlrnn/certification/certificate.py", "controlrnn.certification.ball"),
    ("controlrnn/certification/certificates/execution_error.py", "controlrnn.certification.ball"),
}
MOST_FILES = 12
# Folders with more files, and why.
MANY_FILES = {
    "controlrnn/kernels": "one kernel a file",
    "controlrnn/models": "one paper's model a file",
    "plants": "one plant a file",
    "experiments/bench_calls/hostile": "the calls of one package a file",
    "controlrnn/certification/ball": "the checker has one file for each of the proofs that it does again",
}
MOST_ARGUMENTS = 10
# Functions with more arguments, and why.
MANY_ARGUMENTS = {
    "controlrnn/kernels/": "compiled loops, to which every array is passed by name",
    "controlrnn/models/base.py: lure": "the matrices of a Lur'e system",
    "controlrnn/models/dissipative_ren.py: __init__": "the sizes and the supply rate of the paper",
    "controlrnn/models/lipschitz_r2dn.py: __init__": "the sizes and the bound of the paper",
    "controlrnn/models/lipschitz_rnn.py: __init__": "the sizes and the settings of the paper",
    "controlrnn/certification/certificates/horizon.py: certify_horizon": "what is claimed, and how it is searched for",
    "controlrnn/certification/certificates/reinitialisation.py: certify_reinitialisation": "likewise, of an observer",
    "controlrnn/command/app.py: init": "the options of a command",
    "mpc/calibration/model_error.py: calibrate": "what is calibrated, of which operation, with which promise",
    "mpc/observers/moving_horizon.py: __init__": "premises, weights and the solver of an observer that optimises",
}
MOST_NAMES = 10
# Files with more public functions and classes, and why.
MANY_NAMES = {
    "controlrnn/checks.py": "one check a function",
    "controlrnn/errors.py": "one kind of error a class",
    "controlrnn/records/values.py": "one kind of value a class",
    "controlrnn/road/file/schema.py": "one table of the file a class",
    "controlrnn/systems/ops.py": "one operation for numpy and torch a function",
    "controlrnn/certification/ball/arithmetic.py": "one operation on balls a function",
    "controlrnn/certification/ball/intervals.py": "one operation on intervals a function",
    "controlrnn/certification/proof/arithmetic/enclosure.py": "one operation with enclosed rounding a function",
    "controlrnn/certification/proof/incremental.py": "the inequality that all proofs share, one part a function",
    "controlrnn/certification/proof/intervals.py": "one operation on intervals a function",
    "mpc/loops/faults.py": "one kind of fault a class",
}
# Modules that only the files below a prefix may import.
ONLY_IN = {
    "cvxpy": ("controlrnn/certification/search/sdp.py",),
    "clarabel": ("controlrnn/certification/search/sdp.py",),
    "do_mpc": ("mpc/solvers/dompc.py", "mpc/solvers/dompc_model.py"),
    "numba": ("controlrnn/kernels/",),
    "asyncua": ("mpc/online/opc_ua.py",),
    "jinja2": ("controlrnn/report/page.py",),
    "flint": ("controlrnn/certification/ball/", "controlrnn/certification/refutation/"),
    "torch": ("controlrnn/", "experiments/"),
    "dask": ("controlrnn/cluster.py",),
    "distributed": ("controlrnn/cluster.py",),
    "optuna": ("controlrnn/tune/",),
    "daqp": ("mpc/quadratic.py",),
    "pydantic": ("controlrnn/road/",),
    "typer": ("controlrnn/command/",),
    "pickle": (),
    "joblib": (),
    "dill": (),
}
# What `fmt: skip` may keep as it is: dicts, lists and tuples, these calls, and one hostile call a row.
TABLES = ("Schema", "certificate_schema", "LureSystem", "GatedSystem", "np.array", "np.block", "frozenset")
ROWS = "experiments/bench_calls/hostile/"
# Files of tests that use attributes whose names begin with _, and why.
LOOK_INSIDE = {
    "tests/controlrnn/certification/ball/test_ball_execution.py": "parts of a check, each against its formula",
    "tests/controlrnn/certification/proof/test_execution_steps.py": "steps of a proof, each against its formula",
    "tests/mpc/control/test_offset_free.py": "switches a correction off, to show that without it loops miss set points",
    "tests/mpc/tightening/test_learnt_errors.py": "sets the ends of an interval to the last digit",
    "tests/mutation/judge.py": "pytest and hypothesis say it in no other way",
}
PUBLIC = (
    "controlrnn.data", "controlrnn.systems", "controlrnn.models", "controlrnn.kernels", "controlrnn.certification",
    "controlrnn.export", "controlrnn.identification", "controlrnn.greybox", "plants", "mpc",
    "controlrnn.certification.ball",
    "controlrnn.certification.refutation", "controlrnn.records", "controlrnn.report", "controlrnn.road",
    "controlrnn.exchange", "controlrnn.tune",
)  # fmt: skip


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(FILES[name].read_text(), name)


@cache
def imports(name: str) -> set[str]:
    """Every module that a file imports, also inside functions; of ``from a import b`` both a and a module a.b."""
    found = set()
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno} imports relatively"
            found.add(node.module)
            found |= {f"{node.module}.{a.name}" for a in node.names if _is_module(f"{node.module}.{a.name}")}
    return found


def _is_module(dotted: str) -> bool:
    path = ROOT.joinpath(*dotted.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


def _within(module: str, packages: set[str] | tuple[str, ...]) -> bool:
    return any(module == p or module.startswith(p + ".") for p in packages)


def _package(name: str) -> str:
    module = name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    return max((p for p in MAY_IMPORT if _within(module, (p,))), key=len)


@pytest.mark.parametrize("name", FILES)
def test_imports_point_one_way(name):
    own = _package(name)
    allowed = MAY_IMPORT[own] | ({own} if own != "controlrnn" else set())
    exact = {"controlrnn"} if own not in WHOLE else set()
    for module in imports(name):
        if not _within(module, OURS) or module in exact & allowed:
            continue
        assert _within(module, allowed - exact), f"{name} imports {module}; {own} may import {sorted(allowed)}"


@pytest.mark.parametrize("package", TOP)
def test_nothing_stands_on_the_road(package):
    for name in LIBRARY:
        if any(_within(module, (package,)) for module in imports(name)):
            assert name.startswith(TOP[package]), f"{name} imports {package}"


def floor_of(module: str) -> tuple[str, int] | None:
    """The package of floors that a module is in, and on which floor."""
    for package, floors in FLOORS.items():
        if module.startswith(package + "."):
            inside = [f for f in floors if _within(module, (f"{package}.{f}" if f else package,))]
            return package, floors.index(max(inside, key=len)) if inside else -1
    return None


@pytest.mark.parametrize("name", [n for n in LIBRARY if floor_of(n.replace("/", "."))])
def test_inside_a_package_imports_point_down(name):
    if name.endswith("/__init__.py"):
        return  # shows what is below it
    package, own = floor_of(name.removesuffix(".py").removesuffix("/__init__").replace("/", "."))
    assert own >= 0, f"{name} is in no folder of {package}: {FLOORS[package]}"
    for module in imports(name):
        there = floor_of(module)
        if there and there[0] == package and there[1] > own and (name, module) not in UPWARDS:
            raise AssertionError(f"{name} imports {module}, which lies on a higher floor")


def test_no_module_imports_itself_in_a_circle():
    """Also where only a type checker looks."""
    graph = {n.removesuffix(".py").replace("/", "."): imports(n) for n in LIBRARY if not n.endswith("__init__.py")}
    order = graphlib.TopologicalSorter({m: found & graph.keys() for m, found in graph.items()})
    order.prepare()


@pytest.mark.parametrize("folder", sorted({str(Path(name).parent) for name in FILES}))
def test_a_folder_is_seen_at_one_glance(folder):
    files = [n for n in FILES if str(Path(n).parent) == folder and not n.endswith("__init__.py")]
    assert len(files) <= MOST_FILES or folder in MANY_FILES, f"{folder} has {len(files)} files: make folders"


@pytest.mark.parametrize("module", ONLY_IN)
def test_heavy_and_unsafe_modules_stay_where_they_belong(module):
    for name in FILES:
        if any(_within(found, (module,)) for found in imports(name)):
            assert name.startswith(ONLY_IN[module] or ("nowhere",)), f"{name} imports {module}"


def private_reads(code: ast.Module) -> list[tuple[int, str]]:
    """Lines with attributes whose names begin with _, of anything but self and cls."""
    found = []
    for node in ast.walk(code):
        if isinstance(node, ast.Attribute) and re.match(r"_[^_]", node.attr):
            own = isinstance(node.value, ast.Name) and node.value.id in ("self", "cls")
            found += [] if own else [(node.lineno, ast.unparse(node))]
        if isinstance(node, ast.ImportFrom):
            found += [(node.lineno, alias.name) for alias in node.names if re.match(r"_[^_]", alias.name)]
    return found


def patched_privates(code: ast.Module) -> list[tuple[int, str]]:
    """Lines of ``setattr(thing, "_name", ...)``, monkeypatch's included."""
    calls = [n for n in ast.walk(code) if isinstance(n, ast.Call) and getattr(n.func, "attr", "") == "setattr"]
    names = [(n.lineno, a.value) for n in calls for a in n.args if isinstance(a, ast.Constant)]
    return [(line, name) for line, name in names if re.search(r"(^|\.)_[^_]", str(name))]


def test_tests_use_public_names():
    found = {}
    for path in sorted((ROOT / "tests").rglob("*.py")):
        code = ast.parse(path.read_text())
        inside = [(n, what) for n, what in private_reads(code) + patched_privates(code) if what != "os._exit"]
        found |= {path.relative_to(ROOT).as_posix(): inside} if inside else {}
    assert not {name: inside for name, inside in found.items() if name not in LOOK_INSIDE}
    assert set(LOOK_INSIDE) == set(found)  # what is excepted needs it


@pytest.mark.parametrize("name", [name for name in LIBRARY if name.startswith("mpc/c_code/")])
def test_what_writes_c_reads_tables_and_public_names_only(name):
    assert private_reads(tree(name)) == []


@pytest.mark.parametrize("name", LIBRARY)
def test_what_no_library_file_contains(name):
    for node in ast.walk(tree(name)):
        where = f"{name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id not in {"print", "eval", "exec", "breakpoint", "input"}, where
        if isinstance(node, ast.ExceptHandler):
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            names = {c.id for c in caught if isinstance(c, ast.Name)}
            assert node.type is not None, f"{where} catches everything"
            assert "Exception" not in names, f"{where} catches everything"
            if "BaseException" in names:  # to clean up, and no more
                assert isinstance(node.body[-1], ast.Raise), f"{where} swallows everything"
                assert node.body[-1].exc is None, f"{where} hides what happened"
        if isinstance(node, ast.Name):
            assert node.id != "NotImplementedError", where
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Attribute):
            chain = f"{ast.unparse(node.value)}.{node.attr}"
            allowed = {"np.random.default_rng", "np.random.Generator", "np.random.SeedSequence"}
            assert not chain.startswith("np.random.") or chain in allowed, f"{where} draws from the global generator"


@pytest.mark.parametrize("name", LIBRARY)
def test_nothing_global_is_changed(name):
    quiet = {  # a warning may be silenced where nothing else is
        id(inner)
        for node in ast.walk(tree(name))
        if isinstance(node, ast.With) and "warnings.catch_warnings" in ast.unparse(node.items[0])
        for inner in ast.walk(node)
    }
    forbidden = {"manual_seed_all", "set_default_dtype", "set_num_threads", "set_printoptions", "simplefilter"}
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            call = ast.unparse(node.func)
            assert node.func.attr not in forbidden or id(node) in quiet, f"{name}:{node.lineno} calls {call}"
            assert call not in {"torch.manual_seed", "random.seed"}, f"{name}:{node.lineno} calls {call}"


@pytest.mark.parametrize("name", FILES)
def test_files_and_functions_are_short(name):
    assert len(FILES[name].read_text().splitlines()) <= 450, f"{name}: one concept a file"
    for node in ast.walk(tree(name)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            doc = node.body[0].end_lineno - node.lineno if ast.get_docstring(node) else 0
            assert node.end_lineno - node.lineno - doc <= 60, f"{name}: {node.name} does not fit a screen"


def is_table(value: ast.expr | None) -> bool:
    if isinstance(value, ast.BinOp):
        return is_table(value.left) or is_table(value.right)
    shown = isinstance(value, ast.Dict | ast.List | ast.Tuple | ast.Set)
    return shown or (isinstance(value, ast.Call) and ast.unparse(value.func) in TABLES)


def head(node: ast.stmt) -> range:
    """Lines of a statement with its decorators, without those of the block that it may lead."""
    body, decorators = getattr(node, "body", None), getattr(node, "decorator_list", [])
    return range(min(n.lineno for n in (node, *decorators)), body[0].lineno if body else node.end_lineno + 1)


def holds_table(node: ast.stmt, line: int) -> bool:
    """Whether what stands on a line of a statement is set, returned, gone through or decorated with as a table."""
    if any(d.lineno <= line <= d.end_lineno for d in getattr(node, "decorator_list", [])):
        return True
    if isinstance(node, ast.For):
        return is_table(node.iter)
    return is_table(node.value) if isinstance(node, ast.Assign | ast.AugAssign | ast.AnnAssign | ast.Return) else False


@pytest.mark.parametrize("name", [n for n in [*FILES, *TESTS] if not n.startswith(ROWS)])
def test_only_tables_and_matrices_are_formatted_by_hand(name):
    text = (ROOT / name).read_text()
    lines = [n for n, line in enumerate(text.splitlines(), 1) if line.endswith("# fmt: skip")]
    statements = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.stmt)] if lines else []
    for line in lines:
        node = min((s for s in statements if line in head(s)), key=lambda s: len(head(s)))
        assert holds_table(node, line), f"{name}:{line}: no table or matrix"


@pytest.mark.parametrize("name", FILES)
def test_no_line_sets_two_attributes_to_win_one(name):
    """What one call or iterator returns may be unpacked."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Tuple):
            for target in node.targets:
                several = isinstance(target, ast.Tuple) and sum(isinstance(e, ast.Attribute) for e in target.elts) > 1
                assert not several, f"{name}:{node.lineno}: {ast.unparse(node)}"


def long_signatures(name):
    for node in ast.walk(tree(name)):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            a = node.args
            named = [arg.arg for arg in (*a.posonlyargs, *a.args, *a.kwonlyargs) if arg.arg not in ("self", "cls")]
            if len(named) + bool(a.vararg) + bool(a.kwarg) > MOST_ARGUMENTS:
                yield f"{name}: {node.name}"


@pytest.mark.parametrize("name", FILES)
def test_signatures_are_read_in_one_breath(name):
    for place in long_signatures(name):
        assert place.startswith(tuple(MANY_ARGUMENTS)), f"{place} has more than {MOST_ARGUMENTS} arguments: group them"


def public_names(name):
    kinds = (ast.FunctionDef, ast.ClassDef)
    return [node.name for node in tree(name).body if isinstance(node, kinds) and not node.name.startswith("_")]


@pytest.mark.parametrize("name", LIBRARY)
def test_a_file_holds_few_public_names(name):
    names = public_names(name)
    assert len(names) <= MOST_NAMES or name in MANY_NAMES, f"{name} has {len(names)}: {names}"


def test_what_is_excepted_needs_it():
    assert {name for name in LIBRARY if len(public_names(name)) > MOST_NAMES} == set(MANY_NAMES)
    long = [place for name in FILES for place in long_signatures(name)]
    assert all(any(place.startswith(excepted) for place in long) for excepted in MANY_ARGUMENTS)


def test_modules_of_tests_have_names_of_their_own():
    """Of two files of one name in different folders pytest takes one, or stops."""
    names = Counter(p.name for p in (ROOT / "tests").rglob("*.py") if p.name not in ("conftest.py", "__init__.py"))
    assert [name for name, n in names.items() if n > 1] == []


def test_test_modules_do_not_import_each_other():
    """What several share lies in a file of its own beside them, in `tests` or in `tests/mpc`."""
    tests = {p.stem for p in (ROOT / "tests").rglob("test_*.py")}
    for path in (ROOT / "tests").rglob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            found = [node.module] if isinstance(node, ast.ImportFrom) else []
            found += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            assert not set(found) & tests, f"{path.relative_to(ROOT)} imports {set(found) & tests}"


@pytest.mark.parametrize("name", LIBRARY)
def test_files_start_with_what_they_are(name):
    assert ast.get_docstring(tree(name)), f"{name} has no module docstring"


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_light_imports_stay_light():
    probe = "import sys, {}; print(*sorted({{'torch', 'casadi', 'cvxpy', 'numba', 'matplotlib'}} & set(sys.modules)))"
    leaves = (
        "controlrnn, controlrnn.errors, controlrnn.checks, controlrnn.records, controlrnn.portable, controlrnn.typed"
    )
    assert run(probe.format(leaves)) == ""
    assert run(probe.format("controlrnn.data, controlrnn.systems, plants")) == ""


def test_what_deploys_or_verifies_imports_neither_torch_nor_cvxpy():
    heavy = {"torch", "cvxpy", "clarabel", "do_mpc", "matplotlib", "scipy.optimize", "scipy.stats"}
    code = f"import sys, time, mpc, controlrnn.certification; print(*sorted({heavy} & set(sys.modules)))"
    assert run(code) == ""
    # 1.3 s of processor time where this was written, most of it numba's and CasADi's own; it was 9 s.
    assert float(run("import mpc, time; print(time.process_time())")) < 4.0


def test_importing_everything_is_silent_and_touches_neither_logging_nor_plotting():
    modules = ", ".join(PUBLIC)
    rest = "assert not logging.getLogger().handlers; assert 'matplotlib' not in sys.modules"
    assert run(f"import logging, sys, {modules}; {rest}") == ""


def public_objects():
    for package in PUBLIC:
        module = importlib.import_module(package)
        for name in module.__all__:
            yield package, name


@pytest.mark.parametrize("package", PUBLIC)
def test_all_is_sorted_and_complete(package):
    module = importlib.import_module(package)
    assert len(set(module.__all__)) == len(module.__all__)
    for name in module.__all__:
        assert hasattr(module, name), f"{package}.{name} does not exist"


def test_the_reference_page_lists_every_public_package():
    listed = re.findall(r"^   ([\w.]+)$", (ROOT / "docs" / "api.md").read_text(), re.MULTILINE)
    assert sorted(listed) == sorted(PUBLIC)


def test_the_page_on_the_house_leads_to_folders_and_names():
    """Every folder stands on it, and the file of each name in its last table is the one where the name is defined."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    for package, folders in FLOORS.items():
        for folder in filter(None, folders):
            assert re.search(rf"`{folder.replace('.', '/')}(/|\.py)`", page), f"{package}.{folder}"
    found = {}
    for names, path in re.findall(
        r"^\| (`.*`) \| `(\S+\.py)` \|$", page.split("## Where to find what")[1], re.MULTILINE
    ):
        defined = re.findall(r"^(?:class|def) (\w+)", (ROOT / path).read_text(), re.MULTILINE)
        defined.append(Path(path).stem)
        found |= {name: name in defined for name in re.findall(r"`(\w+)`", names)}
    assert all(found.values()), found
    readme = (ROOT / "README.md").read_text()
    used = re.findall(
        r"^    (\w+),$|^from (?:controlrnn|mpc|plants)[\w.]* import ([\w, ]+)$",
        readme,
        re.MULTILINE,
    )
    named = {name for pair in used for name in re.split(r", |,", "".join(pair)) if name}
    public = {name for _, name in public_objects()}
    named |= set(re.findall(r"\b[A-Z]\w*[a-z]\w*", " ".join(re.findall(r"`[^`\n]+`", readme)))) & public
    assert named <= set(found), named - set(found)


@pytest.mark.parametrize(("package", "name"), list(public_objects()))
def test_public_names_document_every_argument(package, name):
    thing = getattr(importlib.import_module(package), name)
    if inspect.ismodule(thing):
        assert inspect.getdoc(thing), f"{package}.{name} has no docstring"
    if not callable(thing):
        return
    assert inspect.getdoc(thing), f"{package}.{name} has no docstring"
    assert_documented(thing, f"{package}.{name}")
    if inspect.isclass(thing):
        for method, value in vars(thing).items():
            function = inspect.unwrap(getattr(value, "__func__", value))
            described = inspect.isfunction(function) or isinstance(value, property | cached_property)
            if described and not method.startswith("_"):
                assert inspect.getdoc(getattr(thing, method)), f"{package}.{name}.{method} has no docstring"


def assert_documented(thing, where):
    if typing.is_typeddict(thing):  # keywords of a function whose settings document them
        return
    if inspect.isclass(thing):
        if issubclass(thing, (enum.Enum, Exception)) or inspect.isabstract(thing) or getattr(thing, "_is_protocol", 0):
            return
        # The docstrings of the bases document what is inherited.
        text = "\n".join(inspect.cleandoc(base.__doc__ or "") for base in thing.__mro__)
        arguments = (
            [f.name for f in dataclasses.fields(thing) if f.init]
            if dataclasses.is_dataclass(thing)
            else [p for p in inspect.signature(thing).parameters if p not in ("args", "kwargs")]
        )
    else:
        text = inspect.getdoc(thing) or ""
        arguments = [
            p.name for p in inspect.signature(thing).parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD
        ]
        if same := re.search(r"Arguments as `(\w+)`", text):
            text += inspect.getdoc(getattr(sys.modules[thing.__module__], same[1])) or ""
    missing = [a for a in arguments if not re.search(rf"^\s*(\w+, )*\*?{a}(, \w+)*:", text, re.MULTILINE)]
    assert not missing, f"{where} does not document {missing} under Args"
