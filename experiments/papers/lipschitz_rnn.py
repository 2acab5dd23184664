"""Lipschitz RNN: its two propositions by numbers, and four units on digits of 98 samples of 8 pixels.

N. B. Erichson, O. Azencot, A. Queiruga, L. Hodgkinson, M. W. Mahoney, "Lipschitz recurrent neural networks", ICLR 2021
(arXiv 2006.12070): Lipschitz, antisymmetric, neural-ODE and Cayley units of 128 states, from the start of the released
code, on the split of table 3. The published values of that table are those of long trainings: quick, with 5000 images
and 4 epochs, no claim about accuracy is decided; full, 40 epochs of all images.

White noise and salt and pepper act on pixels in 0..1; PGD has 7 steps of 0.01 along the sign of the gradient, as the
paper says, which does not state its radius.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor
from torch.nn.functional import cross_entropy

from controlrnn.checks import Array
from controlrnn.kernels import simulate
from controlrnn.models import AntisymmetricRNN, CayleyRNN, LipschitzRNN, Model, NeuralODERNN
from controlrnn.systems import LureSystem
from experiments.papers.claims import Claim, Decision, decide, decide_all
from experiments.papers.classification import Digits, Sequences, Training, accuracy, digits, readout, train
from experiments.shared.study import Row, Study

PAPER = "Lipschitz RNN"
NX, SHAPE = 128, (98, 8)
_START = 0.1 / NX
# Constructor and learning rate of each unit.
UNITS: dict[str, tuple[Callable[..., Model], float]] = {
    "lipschitz": (partial(LipschitzRNN, nu=8, ny=10, nx=NX, step=0.03, init_std=_START), 3e-3),
    "antisymmetric": (partial(AntisymmetricRNN, nu=8, ny=10, nx=NX, step=0.01, gamma=1e-4, init_std=_START), 2e-3),
    "ode": (partial(NeuralODERNN, nu=8, ny=10, nx=NX, step=0.03, decay=0.0, init_std=_START), 3e-3),
    "cayley": (partial(CayleyRNN, nu=8, ny=10, nx=NX), 1e-3),
}
PGD = {"lipschitz": 93.0, "antisymmetric": 84.7, "ode": 88.5}  # table 3: accuracy [%] after PGD
WHITE, SALT = (0.1, 0.2, 0.4), (0.05, 0.1, 0.2)
_STEPS, _STEP = 7, 0.01
_ATTACKED = 1000  # test images that PGD changes
_DRAWS = 300


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("papers.lipschitz_rnn", __doc__, arguments)
    epochs, images = (4, 5000) if study.quick else (40, None)
    theory = study.row("propositions", partial(propositions, study.seed))
    data = digits(SHAPE, standardised=False, most=images)
    rows: dict[str, list[Row]] = {unit: [] for unit in UNITS}
    for seed in study.progress(range(3), "seeds"):
        for unit in UNITS:
            work = partial(one_training, data, unit, study.seed + seed, epochs)
            rows[unit].append(study.row(f"{unit} {seed}", work, needs=[epochs, images]))
    found = claims(rows, theory, short=study.quick)
    for claim in found:
        study.target(claim.claim, claim.published, claim.row()["ours"], claim.decided is Decision.YES)
    study.figure("perturbed", _figure(rows))
    return study.finish(claims=[claim.row() for claim in found])


def propositions(seed: int) -> Row:
    """Both propositions as printed and as corrected, on random matrices of 6 states.

    With S = (M + M') and A = (1 - beta) S + beta (M - M') - gamma I, proposition 2 as printed bounds the real parts of
    A's eigenvalues by (1 - beta) lambda(S) - gamma for A that has gamma in it already: gamma counts twice.
    """
    rng = np.random.default_rng(seed)
    printed, corrected, stable, conditions = [], [], [], 0
    for _ in range(_DRAWS):
        beta, gamma = rng.uniform(0.5, 1.0), rng.uniform(0.0, 1.0)
        M, W = rng.normal(size=(2, 6, 6)) / 6**0.5
        A = mixed(M, beta, gamma)
        real = np.linalg.eigvals(A).real
        ends = (1 - beta) * np.linalg.eigvalsh(M + M.T)[[0, -1]]
        printed.append(bool(real.max() <= ends[1] - 2 * gamma + 1e-9))
        corrected.append(bool(ends[0] - gamma - 1e-9 <= real.min() and real.max() <= ends[1] - gamma + 1e-9))
        room = -np.linalg.eigvalsh(A + A.T)[-1] / 2
        if room > 0:  # a W of almost that norm, and slopes as tanh may have them
            conditions += 1
            W *= 0.99 * room / np.linalg.norm(W, 2)
            slopes = rng.uniform(0, 1, (20, 6))
            stable.append(max(np.linalg.eigvals(A + s[:, None] * W).real.max() for s in slopes) < 0)
    # h' = -0.1 h + tanh(5 h): A is Hurwitz, and yet a millionth grows; Euler steps of 0.01 over 5 time units.
    h = 1e-6
    for _ in range(500):
        h += 0.01 * (-0.1 * h + np.tanh(5 * h))
    return {
        "printed_2": float(np.mean(printed)), "corrected_2": float(np.mean(corrected)), "grown_1": float(h / 1e-6),
        "corrected_1": float(np.mean(stable)), "conditions": conditions,
    }  # fmt: skip


def mixed(M: Array, beta: float, gamma: float) -> Array:
    """The paper's symmetric-skew construction, eq. (9)."""
    return np.asarray((1 - beta) * (M + M.T) + beta * (M - M.T) - gamma * np.eye(len(M)))


def one_training(data: Digits, unit: str, seed: int, epochs: int) -> Row:
    """Train one classifier and perturb its images."""
    make, rate = UNITS[unit]
    settings = Training(
        epochs=epochs, batch_size=128, learning_rate=rate, drop_at=max(int(0.9 * epochs), 1), seed=seed
    )  # fmt: skip
    trained = train(make(seed=seed), data, settings)
    rng = torch.Generator().manual_seed(seed)
    some = Sequences(data.test.u[:_ATTACKED], data.test.labels[:_ATTACKED])
    share = partial(accuracy, trained.system)
    return {
        "unit": unit, "accuracy": 100 * share(data.test), "validation": 100 * max(trained.validation),
        "white": [100 * share(white(data.test, sigma, rng)) for sigma in WHITE],
        "salt": [100 * share(salted(data.test, part, rng)) for part in SALT],
        "pgd": 100 * share(attacked(trained.system, some)),
    }  # fmt: skip


def white(data: Sequences, sigma: float, rng: torch.Generator) -> Sequences:
    """White noise of deviation ``sigma`` on every pixel."""
    return replace(data, u=data.u + sigma * torch.randn(data.u.shape, generator=rng))


def salted(data: Sequences, part: float, rng: torch.Generator) -> Sequences:
    """Replace a ``part`` of the pixels by 0 or 1, each as often; eqs. 17-19."""
    chance = torch.rand(data.u.shape, generator=rng)
    u = torch.where(chance < part / 2, torch.ones_like(data.u), data.u)
    return replace(data, u=torch.where((chance >= part / 2) & (chance < part), torch.zeros_like(u), u))


def attacked(system: LureSystem, data: Sequences, *, steps: int = _STEPS, size: float = _STEP) -> Sequences:
    """Images after projected gradient ascent of the loss within the box of pixels 0..1."""
    u = data.u.clone()
    for _ in range(steps):
        moved: list[Tensor] = []
        for part, labels in zip(torch.split(u, 250), torch.split(data.labels, 250), strict=True):
            at = part.clone().requires_grad_()
            loss = cross_entropy(readout(system, simulate(system, at)[1]), labels)
            loss.backward()  # type: ignore[no-untyped-call]
            assert at.grad is not None
            moved.append((part + size * at.grad.sign()).clamp(0, 1))
        u = torch.cat(moved)
    return replace(data, u=u)


def claims(rows: dict[str, list[Row]], theory: Row, *, short: bool) -> list[Claim]:
    """Decide the paper's claims; those about accuracy only after long training."""
    found = []

    def add(text: str, published: str, ours: Sequence[float], decided: Decision, unit: str, remark: str) -> None:
        values = tuple(float(v) for v in ours)
        found.append(
            Claim(paper=PAPER, claim=text, published=published, ours=values, unit=unit, decided=decided, remark=remark)
        )

    add("a Hurwitz A makes every equilibrium stable", "proposition 1", [theory["grown_1"]],
        decide_all([theory["grown_1"] < 1]), "times after 5 time units",
        "counterexample h' = -0.1 h + tanh(5 h) at 0: a millionth grows")  # fmt: skip
    add("it does where lambda_max(A + A')/2 + |W| < 0", "corrected proposition 1", [100 * theory["corrected_1"]],
        decide_all([theory["corrected_1"] == 1, theory["conditions"] >= 20]), "% of cases",
        f"{theory['conditions']} random pairs that meet it, 20 slope patterns each")  # fmt: skip
    add("Re lambda(A) is at most (1 - beta) lambda_max(M + M') - 2 gamma", "proposition 2 as printed",
        [100 * theory["printed_2"]], decide_all([theory["printed_2"] == 1]), "% of cases",
        "gamma counts twice")  # fmt: skip
    add("Re lambda(A) lies within (1 - beta) lambda(M + M') - gamma", "corrected proposition 2",
        [100 * theory["corrected_2"]], decide_all([theory["corrected_2"] == 1]), "% of cases", "")  # fmt: skip
    remark = "4 epochs of 5000 images: too short to decide" if short else ""
    columns = {"accuracy": "clean", "pgd": "after PGD"}
    columns |= {f"white{n}": f"white noise {sigma}" for n, sigma in enumerate(WHITE)}
    columns |= {f"salt{n}": f"salt and pepper {part}" for n, part in enumerate(SALT)}
    for column, where in columns.items():
        for other in (unit for unit in UNITS if unit != "lipschitz"):
            own, others = (np.array([_value(row, column) for row in rows[unit]]) for unit in ("lipschitz", other))
            published = "figure 3, table 1"
            if column == "pgd":
                published = f"{PGD['lipschitz']} %, {PGD[other]} % (table 3)" if other in PGD else "not stated"
            decided = Decision.NOT_DECIDED if short else decide(own - others)
            add(f"more accurate than {other}: {where}", published, own - others, decided, "% points",
                "; ".join(part for part in (f"Lipschitz {np.median(own):.1f} %", remark) if part))  # fmt: skip
    return found


def _value(row: Row, column: str) -> float:
    """Value of a column; ``white1`` is the second of the list ``white``."""
    return float(row[column[:-1]][int(column[-1])] if column[-1].isdigit() else row[column])


def _figure(rows: dict[str, list[Row]]) -> Figure:
    figure = Figure(figsize=(9, 4), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, name, at in zip(panels, ("white", "salt"), (WHITE, SALT), strict=True):
        for unit, own in rows.items():
            curves = np.array([[row["accuracy"], *row[name]] for row in own])
            (line,) = axes.plot((0.0, *at), np.median(curves, axis=0), marker=".", label=unit)
            axes.fill_between((0.0, *at), curves.min(axis=0), curves.max(axis=0), alpha=0.2, color=line.get_color())
    panels[0].set(xlabel="deviation of white noise", ylabel="test accuracy [%]", ylim=(0, 100))
    panels[1].set(xlabel="share of pixels that are salt or pepper")
    panels[0].legend()
    return figure


if __name__ == "__main__":
    sys.exit(main())
