"""RNN-SDP: one certified constant from initial state and inputs to the last output, by program and by search.

P. Hamelbeck, J. Schiffer, "Lipschitz-based robustness certification for recurrent neural networks via convex
relaxation", arXiv 2509.17898, 2025. Elman networks on three tanks, trained as in `experiments.rnn_sdp_tanks`; the paper
has 100 networks, of a size that it does not state. For every sequence length the constant is certified by the
semidefinite program and by our Riccati search, with and without known boxes, and set against gradient ascent and random
sampling. What known boxes save is smaller than the error of the search, so that the program alone decides on it.

Boxes: inputs in [-1, 1], initial states in [-1, 1], carried on by intervals; a neuron has its own slopes at every step.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.figure import Figure

from controlrnn.certification import certify_lipschitz
from experiments.papers.claims import Claim, claimed, decide, decide_all, decide_value, finish, unrefuted
from experiments.rnn_sdp_tanks.lipschitz_attack import attack_lengths
from experiments.rnn_sdp_tanks.paper_tanks import inputs_alone, state_alone, train_network
from experiments.shared.study import Row, Study

PAPER = "RNN-SDP"
NEURONS = 8
NETWORKS = 12, 100  # quick, full
LONG, LONGER = (50, 100), 5  # lengths of some networks, and of how many, in full
LIMIT = 1.0
_ITERATIONS = 120
_APART = 10.0  # unit of the states in which their differences hardly count
_ASCENT = "the gap counts what the ascent does not find, so that it cannot refute"
_FLAT = 0.05  # change beyond ten steps up to which a curve is called flat; the paper states none


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("papers.rnn_sdp", __doc__, arguments)
    networks = NETWORKS[0 if study.quick else 1]
    lengths = (1, 3, 10, 30) if study.quick else (1, 2, 3, 5, 10, 20, 30)
    rows = []
    for n in study.progress(range(networks), "networks"):
        work = partial(one_network, study.seed + n, lengths, quick=study.quick)
        rows.append(study.row(f"network {n}", work, needs=list(lengths)))
    seeds = () if study.quick else range(study.seed, study.seed + LONGER)
    longer = [study.row(f"long {n}", partial(long_network, n), needs=list(LONG)) for n in seeds]
    found = [*claims(rows, lengths), long_claim(longer)]
    study.figure("constants", _figure(rows, lengths))
    return finish(study, found)


def one_network(seed: int, lengths: Sequence[int], *, quick: bool) -> Row:
    """Train one network and find its constants, one for each length."""
    system, row = train_network(NEURONS, seed, quick=False)
    boxes = {"input_range": _box(system.nu), "state_range": _box(system.nx)}
    columns: dict[str, list[float]] = {}
    for name, made, options in (
        ("sdp", system, {"method": "sdp"}),
        ("riccati", system, {"iterations": _ITERATIONS}),
        ("sdp_boxed", system, {"method": "sdp"} | boxes),
        ("riccati_boxed", system, {"iterations": _ITERATIONS} | boxes),
        ("state", state_alone(system), {"method": "sdp"}),
        ("inputs", inputs_alone(system, _APART), {"method": "sdp"}),
    ):
        began = time.process_time()
        columns[name] = [certify_lipschitz(made, length, **options).constant for length in lengths]
        columns[f"{name}_s"] = [(time.process_time() - began) / len(lengths)]
    search = partial(
        attack_lengths,
        system,
        lengths,
        input_limit=LIMIT,
        state_limit=LIMIT,
        starts=8 if quick else 24,
        steps=60 if quick else 150,
        seed=seed,
    )
    free, boxed = search(boxed=False), search(boxed=True)
    columns["active"] = [max(pair) for pair in zip(free.ascent, boxed.ascent, strict=True)]
    columns["active_boxed"], columns["random"] = boxed.ascent, boxed.random
    return row | columns


def long_network(seed: int) -> Row:
    """Gap [%] of one network at the longest sequences, by program, by search and by ascent."""
    system, row = train_network(NEURONS, seed, quick=False)
    found = attack_lengths(
        system, LONG, input_limit=LIMIT, state_limit=LIMIT, starts=24, steps=150, seed=seed, boxed=False
    )
    sdp, riccati = (
        [certify_lipschitz(system, n, **options).constant for n in LONG]
        for options in ({"method": "sdp"}, {"iterations": _ITERATIONS})
    )
    gap = [100 * (bound / best - 1) for bound, best in zip(sdp, found.ascent, strict=True)]
    return row | {"sdp": sdp, "riccati": riccati, "active": list(found.ascent), "gap": gap}


def long_claim(rows: Sequence[Row]) -> Claim:
    """The claim on the gap at the longest sequences."""
    gap = [row["gap"][-1] for row in rows]
    return claimed(
        PAPER,
        f"the gap stays within 30 % (length {LONG[-1]})",
        "some 30 % (fig. 4)",
        gap,
        unrefuted(decide([30 - value for value in gap])),
        "%",
        _ASCENT if rows else f"{LONGER} networks, in the full run alone",
    )


def claims(rows: Sequence[Row], lengths: Sequence[int]) -> list[Claim]:
    """Decide the paper's claims from the rows of all networks."""
    every = {name: np.array([row[name] for row in rows]) for name in rows[0] if isinstance(rows[0][name], list)}
    sdp, boxed, active = every["sdp"], every["sdp_boxed"], every["active"]
    gap = 100 * (sdp / active - 1)
    saved = 100 * (1 - boxed / sdp)
    error = 100 * (every["riccati"] / sdp - 1)
    ten, last = list(lengths).index(10), len(lengths) - 1
    beyond = 100 * np.abs(sdp[:, last] / sdp[:, ten] - 1)
    share = 100 * every["random"][:, last] / every["active_boxed"][:, last]
    sound = [
        bool((a >= b).all()) for a, b in ((sdp, active), (every["riccati"], active), (boxed, every["active_boxed"]))
    ]

    claim = partial(claimed, PAPER)
    ratio = every["state"] / every["inputs"]

    def boxes(value: float, at: int) -> Claim:
        errs = f"{np.median(error[:, at]):.2f} %"
        remark = f"by the program, the search errs by {errs}; size and plant of the paper's networks are not stated"
        text, published = f"known boxes save {value} % at length {lengths[at]}", f"{value} % (sec. V)"
        return claim(text, published, saved[:, at], decide_value(saved[:, at], value), "%", remark)

    return [
        claim("no attack exceeds a certified constant", "by theorem", sdp[:, last] / active[:, last],
              decide_all(sound), "certified over found", "both methods, all lengths, with and without boxes"),
        claim("the gap to the ascent is below 1 % at length 1", "< 1 % (fig. 4)", gap[:, 0],
              unrefuted(decide(1 - gap[:, 0])), "%", _ASCENT),
        claim(f"the gap stays within 30 % (length {lengths[last]})", "some 30 % (fig. 4)", gap[:, last],
              unrefuted(decide(30 - gap[:, last])), "%", _ASCENT),
        claim("the constant falls with the sequence length at first (1 to 10)", "falls (fig. 4)",
              100 * (sdp[:, ten] / sdp[:, 0] - 1), decide(sdp[:, 0] - sdp[:, ten]), "% change",
              "the plant's time constants decide, and the paper's are not stated"),
        claim(f"the constant is flat after ten steps (to {lengths[last]})", "flat (fig. 4)", beyond,
              decide(100 * _FLAT - beyond), "% change", f"flat: changes by less than {100 * _FLAT:.0f} %"),
        *(boxes(value, at) for value, at in ((0.8, 0), (1.2, ten), (1.3, last))),
        claim("random sampling stays far below the ascent", "far below (fig. 4)", share, decide(90 - share), "% of it",
              "far: at least a tenth below, in the same boxes, at as many trajectories"),
        *(
            claim(f"initial states matter more than inputs at length {lengths[at]}", "often underestimated (abstract)",
                  ratio[:, at], decide(ratio[:, at] - 1), "times", "constants of either alone; their units differ")
            for at in (0, last)
        ),
    ]  # fmt: skip


def _box(n: int) -> tuple[np.ndarray, np.ndarray]:
    return -LIMIT * np.ones(n), LIMIT * np.ones(n)


def _figure(rows: Sequence[Row], lengths: Sequence[int]) -> Figure:
    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    mean = {name: np.mean([row[name] for row in rows], axis=0) for name in ("sdp", "riccati", "active", "random")}
    styles = {
        "sdp": ("C0-", "semidefinite program"), "riccati": ("C1--", "Riccati search"),
        "active": ("C3.-", "gradient ascent"), "random": ("C7.:", "random sampling"),
    }  # fmt: skip
    for name, (style, label) in styles.items():
        left.semilogx(lengths, mean[name], style, label=label)
    left.set(xlabel="sequence length", ylabel=f"constant, mean of {len(rows)} networks", ylim=(0, None))
    for name, other, label in (("riccati", "sdp", "error of the search"), ("sdp_boxed", "sdp", "saved by known boxes")):
        change = 100 * np.abs(1 - np.array([row[name] for row in rows]) / np.array([row[other] for row in rows]))
        right.errorbar(lengths, change.mean(axis=0), change.std(axis=0), capsize=3, label=label)
    right.set(xscale="log", xlabel="sequence length", ylabel="per cent of the constant", ylim=(0, None))
    for axes in (left, right):
        axes.legend(fontsize="small")
    return figure


if __name__ == "__main__":
    sys.exit(main())
