"""RNN-SDP's study on three tanks, with the initial state's share apart from the inputs'.

Elman networks are trained as the paper says (three inflows, levels, 1 s, 1000 sequences of 100 steps, 25 of them
washout, a penalty on |W| > 1, early stopping); for every sequence length the Lipschitz constant is certified and set
against random sampling and gradient ascent, in known boxes and without any. (Hamelbeck & Schiffer 2025, arXiv
2509.17898, figure 4: 100 networks, one constant for states and inputs. They report a gap below 1 % at length 1 that
grows to some 30 %, and 1.1 % from known input ranges. Hidden size and tank parameters are not stated there, so two
sizes are shown.)

`slopes_one` is the gain of the network without its nonlinearity. Slopes from 0 to 1 allow it, so no certificate that
knows slopes alone can be lower: what lies between it and the ascent is not the solver's fault, but trajectories on
which all neurons are in their linear range at once and which the network never runs along.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from controlrnn.certification import attack_horizon, certify_horizon, certify_lipschitz
from controlrnn.checks import Array
from controlrnn.export import load_system, save_system
from controlrnn.systems import LureSystem
from experiments.bench_certify.study import RADII, norm_product
from experiments.rnn_sdp_tanks.lipschitz_attack import attack_lengths
from experiments.rnn_sdp_tanks.paper_tanks import inputs_alone, state_alone, train_network
from experiments.shared.study import Row, Study

LENGTHS = (1, 2, 3, 5, 10, 20, 30, 50, 100)
SIZES = {8: 20, 16: 10}  # neurons: networks
_ITERATIONS = 120  # per order of the norm, see `certify_lipschitz`
LIMIT = 1.0  # inputs in their range -1..1, as the paper scales them; states of tanh networks lie there too
_COLUMNS = ("certified", "boxed", "slopes_one", "norm_product", "active", "active_boxed", "random", "initial",
            "initial_active", "inputs", "inputs_active")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("rnn_sdp_tanks", __doc__, arguments)
    lengths = (1, 3, 10) if study.quick else LENGTHS
    for nx, networks in ({8: 2} if study.quick else SIZES).items():
        names = [f"network_{nx}_{n}.npz" for n in range(networks)]
        rows = []
        for n in study.progress(range(networks), f"networks of {nx} neurons"):
            work = partial(one_network, study, names[n], nx, study.seed + n, lengths)
            rows.append(study.row(f"{nx} neurons, network {n}", work, needs=list(lengths), files=[names[n]]))
        _summarise(study, nx, rows, lengths)
        for length in (10,) if study.quick else (10, 50):
            few = names[: 2 if study.quick else 5]
            for radius, b in RADII:
                work = partial(tightening, [_network(study, name) for name in few], length, radius, b, study.seed)
                study.row(f"{nx} neurons, tightening at {length}, radii {radius}, {b}", work)
    return study.finish()


def one_network(study: Study, name: str, nx: int, seed: int, lengths: Sequence[int]) -> Row:
    """Train one network and compute all its constants, one value per length."""
    system, row = train_network(nx, seed, quick=study.quick)
    save_system(system, study.path(name))
    box = tuple((-LIMIT * np.ones(n), LIMIT * np.ones(n)) for n in (system.nu, system.nx))
    columns: dict[str, list[float]] = {name: [] for name in _COLUMNS}
    for length in lengths:
        # The paper's networks have no input at the last step: length N needs N steps, the output looks at the state.
        free = certify_lipschitz(system, length, iterations=_ITERATIONS).constant
        known = certify_lipschitz(
            system, length, input_range=box[0], state_range=box[1], iterations=_ITERATIONS
        ).constant
        columns["certified"].append(free)
        columns["boxed"].append(min(known, free))
        columns["initial"].append(certify_lipschitz(state_alone(system), length, iterations=_ITERATIONS).constant)
        columns["inputs"].append(
            min(
                certify_lipschitz(inputs_alone(system, apart), length, iterations=_ITERATIONS).constant
                for apart in (3.0, 10.0)
            )
        )
        columns["slopes_one"].append(_gain_of(linear_response(system, length)))
        columns["norm_product"].append(_norm_product(system, length))
    search = partial(
        attack_lengths,
        system,
        lengths,
        input_limit=LIMIT,
        state_limit=LIMIT,
        starts=8 if study.quick else 24,
        steps=30 if study.quick else 150,
        seed=seed,
    )
    free_attack, boxed_attack = search(boxed=False), search(boxed=True)
    # What is found inside the boxes counts without them too.
    columns["active"] = [max(pair) for pair in zip(free_attack.ascent, boxed_attack.ascent, strict=True)]
    columns["active_boxed"], columns["random"] = boxed_attack.ascent, boxed_attack.random
    columns["initial_active"] = search(boxed=False, inputs_differ=False).ascent
    columns["inputs_active"] = search(boxed=False, states_differ=False).ascent
    return row | columns


def _network(study: Study, name: str) -> LureSystem:
    system = load_system(study.path(name))
    assert isinstance(system, LureSystem)
    return system


def linear_response(system: LureSystem, length: int) -> Array:
    """Derivative of the last output by (initial state, inputs) if all slopes were one.

    Shape (ny, nx + length nu).
    """
    powers = [system.C2]
    for _ in range(length):
        powers.append(powers[-1] @ system.C1)
    return np.hstack([powers[-1], *(p @ system.D12 for p in powers[:-1])])


def _gain_of(matrix: Array) -> float:
    return float(np.linalg.norm(matrix, 2))


def _norm_product(system: LureSystem, length: int) -> float:
    """Norm product |C| |(|W|^N, |W|^(N-1) |U|, .., |U|)|, which needs no optimisation."""
    W, U = _gain_of(system.C1), _gain_of(system.D12)
    return _gain_of(system.C2) * float(np.sqrt(W ** (2 * length) + U**2 * (W ** (2.0 * np.arange(length))).sum()))


def tightening(systems: Sequence[LureSystem], length: int, radius: float, b: float, seed: int) -> Row:
    """Mean bounds on each output from the paper's constant and from our own weights."""
    found: dict[str, list[Array]] = {
        name: [] for name in ("bound", "bound_over_attack", "single_constant_over_bound", "norm_product_over_bound")
    }
    for system in systems:
        bound = certify_horizon(
            system, length, initial_radius=radius, input_radius=b, focus=[length], iterations=200
        ).bounds[-1]
        limits = -LIMIT * np.ones(system.nu), LIMIT * np.ones(system.nu)
        reached = attack_horizon(
            system, length, initial_radius=radius, input_radius=b, input_range=limits, starts=32, steps=60, seed=seed
        ).differences[-1]
        single = certify_lipschitz(system, length, iterations=_ITERATIONS).constant
        found["bound"].append(bound)
        found["bound_over_attack"].append(bound / reached)
        # The last input reaches no output of these networks, so that `length` of them count.
        found["single_constant_over_bound"].append(single * np.sqrt(radius**2 + length * system.nu * b**2) / bound)
        found["norm_product_over_bound"].append(norm_product(system, length, radius, b) / bound)
    return {"length": length, "radius": radius, "b": b} | {k: float(np.mean(v)) for k, v in found.items()}


def _summarise(study: Study, nx: int, rows: Sequence[Row], lengths: Sequence[int]) -> None:
    every = {name: np.array([r[name] for r in rows]) for name in _COLUMNS}
    mean = {name: values.mean(axis=0) for name, values in every.items()}
    shares = {
        "gap_percent": every["certified"] / every["active"] - 1,
        "gap_boxed_percent": every["boxed"] / every["active_boxed"] - 1,
        "above_slopes_one_percent": every["certified"] / every["slopes_one"] - 1,
        "saved_by_boxes_percent": 1 - every["boxed"] / every["certified"],
    }
    gaps = {name: 100 * values.mean(axis=0) for name, values in shares.items()}
    for n, length in enumerate(lengths):
        values: Row = {"length": length, **{k: v[n] for k, v in mean.items()}, **{k: v[n] for k, v in gaps.items()}}
        needs = [float(v) for v in mean["certified"]]
        study.row(f"{nx} neurons, length {length}, mean of {len(rows)}", partial(dict, values), needs=needs)
    study.figure(f"constants_{nx}", _figure(lengths, mean))
    pairs = (("certified", "active"), ("boxed", "active_boxed"), ("initial", "initial_active"),
             ("inputs", "inputs_active"), ("certified", "random"))  # fmt: skip
    holds = all(bool((every[bound] >= every[attack]).all()) for bound, attack in pairs)
    study.target(f"{nx} neurons: every certified constant above every attack", True, holds, holds)
    stable = max(float(r["spectral_norm"]) for r in rows)
    study.target(f"{nx} neurons: largest |W| of all networks", "< 1", stable, stable < 1)
    first, last = gaps["gap_percent"][0], gaps["gap_percent"][-1]
    study.target(f"{nx} neurons: gap at length 1", "< 1 % (paper)", first, bool(first < 1))
    study.target(f"{nx} neurons: gap at the longest length", "<= 30 % (paper)", last, bool(last <= 30))


def _figure(lengths: Sequence[int], mean: dict[str, Array]) -> Figure:
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    styles = {
        "certified": ("C0-", "certified"), "boxed": ("C0--", "certified, inputs and states in boxes"),
        "slopes_one": ("k:", "all slopes one"), "active": ("C3.-", "gradient ascent"),
        "active_boxed": ("C3.--", "gradient ascent in the boxes"), "random": ("C7.:", "random sampling"),
    }  # fmt: skip
    for name, (style, label) in styles.items():
        left.semilogx(lengths, mean[name], style, label=label)
    left.set(xlabel="sequence length", ylabel="Lipschitz constant of the last output", ylim=(0, None))
    left.legend(fontsize="small")
    for n, (name, label) in enumerate((("initial", "initial state alone"), ("inputs", "inputs alone"))):
        right.semilogx(lengths, mean[name], f"C{n + 1}-", label=f"{label}, certified")
        right.semilogx(lengths, mean[f"{name}_active"], f"C{n + 1}.--", label=f"{label}, gradient ascent")
    right.set(xlabel="sequence length", ylabel="constant of the last output", ylim=(0, None))
    right.legend(fontsize="small")
    return figure
