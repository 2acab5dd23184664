"""Lipschitz RNN: propositions by numbers, four units on digits, ablations, perturbations, curvature, and carts.

N. B. Erichson, O. Azencot, A. Queiruga, L. Hodgkinson, M. W. Mahoney, "Lipschitz recurrent neural networks", ICLR 2021
(arXiv 2006.12070): Lipschitz, antisymmetric, neural-ODE and Cayley units of 128 states, from the start of the released
code, on the split of table 3: 98 samples of 8 pixels, in order and permuted (there after the permutation, all pixels in
0..1). Published values are those of long trainings: quick, with 3000 images and 3 epochs, no claim about accuracy is
decided. Full: 40 epochs of all images (a day), and 784 samples of one pixel for Lipschitz units of 128 and 64 states,
30 epochs (14 h).

White noise and salt and pepper act on pixels in 0..1; PGD has 7 steps of 0.01 along the sign of the gradient, as the
paper says, which does not state its radius, nor that of DeepFool: here the size of DeepFool's perturbation is compared,
relative to the image. The Hessian is that of the last epoch's recurrent weights over training images. The units are
also identified on four carts and certified; units of two states learn a pendulum, for their vector fields.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

from controlrnn.checks import Array
from controlrnn.data import Trajectory
from controlrnn.identification import SimulationError, identify
from controlrnn.models import AntisymmetricRNN, CayleyRNN, LipschitzRNN, Model, NeuralODERNN
from controlrnn.systems import LureSystem
from experiments import four_carts
from experiments.papers.claims import finish
from experiments.papers.classification import Digits, Sequences, Training, accuracy, digits, train
from experiments.papers.curvature import spectrum
from experiments.papers.lipschitz_claims import PIXELS, SALT, WHITE, claims, more_claims
from experiments.papers.perturbations import attacked, fooling, salted, white
from experiments.papers.resuming import training_row
from experiments.shared.identification import certified_rate
from experiments.shared.study import Row, Study
from plants import Pendulum, simulate

NX, SHAPE = 128, (98, 8)
_START = 0.1 / NX
# Constructor and learning rate of each unit.
UNITS: dict[str, tuple[Callable[..., Model], float]] = {
    "lipschitz": (partial(LipschitzRNN, nu=8, ny=10, nx=NX, step=0.03, init_std=_START), 3e-3),
    "antisymmetric": (partial(AntisymmetricRNN, nu=8, ny=10, nx=NX, step=0.01, gamma=1e-4, init_std=_START), 2e-3),
    "ode": (partial(NeuralODERNN, nu=8, ny=10, nx=NX, step=0.03, decay=0.0, init_std=_START), 3e-3),
    "cayley": (partial(CayleyRNN, nu=8, ny=10, nx=NX), 1e-3),
}
PERMUTED_RATES = {"lipschitz": 3.5e-3}  # learning rates that are others for permuted pixels
ALPHAS, BETAS = (0.0, 0.5, 1.0, 1.5, 2.0), (0.5, 0.65, 0.8, 1.0)
FIELDS = (0.5, 0.65, 0.8, 1.0)  # weights of the skew part of units that learn a pendulum
PERMUTATION = 12008  # seed of the released code
_ATTACKED = 1000  # test images that PGD changes
_DRAWS = 300


@dataclass(frozen=True)
class Sizes:
    """How long a run is: epochs, images (None: all), seeds of ablations, fooled images, steps of Lanczos, of Adam."""

    epochs: int
    images: int | None
    perturbed: int | None
    ablations: int
    fooled: int
    lanczos: int
    carts: int


QUICK = Sizes(epochs=3, images=3000, perturbed=2000, ablations=1, fooled=50, lanczos=12, carts=600)
FULL = Sizes(epochs=40, images=None, perturbed=None, ablations=3, fooled=1000, lanczos=60, carts=6000)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("papers.lipschitz_rnn", __doc__, arguments)
    sizes = QUICK if study.quick else FULL
    theory = study.row("propositions", partial(propositions, study.seed))
    data = digits(SHAPE, standardised=False, most=sizes.images)
    shuffled = permuted(data)
    rows: dict[str, list[Row]] = {unit: [] for unit in UNITS}
    for seed in study.progress(range(study.seed, study.seed + 3), "seeds"):
        for unit in UNITS:
            work = partial(one_training, data, unit, seed, sizes, study.device)
            found = training_row(study, f"{unit} {seed}", work, needs=vars(sizes))
            make, rate = UNITS[unit]
            rate = PERMUTED_RATES.get(unit, rate)
            other = trained_row(study, f"{unit} permuted {seed}", shuffled, (make, rate), seed, sizes)
            rows[unit].append(found | {"permuted": other})
    variants = ablations(study, data, sizes)
    carts = on_carts(study, sizes)
    pixels = {} if study.quick else single_pixels(study)
    judged = claims(rows, theory, short=study.quick) + more_claims(rows, variants, carts, pixels, short=study.quick)
    study.figure("perturbed", _figure(rows))
    study.figure("ablations", _ablations(variants))
    study.figure("spectra", spectra(study.seed))
    study.figure("pendulum", vector_fields(study.seed))
    return finish(study, judged)


def permuted(data: Digits) -> Digits:
    """The same digits with their pixels in another order, one for all images."""
    rng = torch.Generator().manual_seed(PERMUTATION)

    def shuffled(part: Sequences) -> Sequences:
        order = torch.randperm(part.u[0].numel(), generator=rng.manual_seed(PERMUTATION))
        return replace(part, u=part.u.flatten(1)[:, order].reshape(part.u.shape))

    return Digits(*(shuffled(part) for part in (data.train, data.validation, data.test)))


def settings_of(rate: float, seed: int, epochs: int, device: str) -> Training:
    """The paper's training: the learning rate falls to a tenth for the last tenth of the epochs."""
    drop_at = max(int(0.9 * epochs), 1)
    return Training(epochs=epochs, batch_size=128, learning_rate=rate, drop_at=drop_at, seed=seed, device=device)


def trained_row(
    study: Study, key: str, data: Digits, unit: tuple[Callable[..., Model], float], seed: int, sizes: Sizes
) -> Row:
    """Test accuracy [%] of one training."""
    make, rate = unit

    def work(checkpoint: Path) -> Row:
        settings = settings_of(rate, seed, sizes.epochs, study.device)
        trained = train(make(seed=seed), data, settings, checkpoint=checkpoint)
        return {"accuracy": 100 * accuracy(trained.system, data.test), "validation": 100 * max(trained.validation)}

    return training_row(study, key, work, needs=vars(sizes))


def ablations(study: Study, data: Digits, sizes: Sizes) -> dict[str, dict[float, list[Row]]]:
    """Lipschitz units of other weights of the linear part, of other mixtures, and of the implicit scheme."""
    cases = {"alpha": ALPHAS, "beta": BETAS, "implicitness": (0.0, 1.0)}
    found: dict[str, dict[float, list[Row]]] = {name: {value: [] for value in values} for name, values in cases.items()}
    make, rate = UNITS["lipschitz"]
    for name, values in cases.items():
        for value in values:
            for seed in range(study.seed, study.seed + sizes.ablations):
                changed = {"beta": 0.65} | {name: value}  # 0.65 is the paper's for the ordered task
                unit = partial(make, **changed), rate
                found[name][value].append(trained_row(study, f"{name} {value} {seed}", data, unit, seed, sizes))
    return found


def on_carts(study: Study, sizes: Sizes) -> dict[str, Row]:
    """The units with 10 states identified on the four carts, with what can be certified afterwards."""
    data = four_carts.experiments(study)

    def identified(unit: str) -> Row:
        some: dict[str, Any] = {"nu": 1, "ny": 1, "nx": 10, "seed": study.seed}
        make = {"lipschitz": LipschitzRNN, "antisymmetric": AntisymmetricRNN, "ode": NeuralODERNN, "cayley": CayleyRNN}
        fit = identify(
            make[unit](**some),
            data,
            loss=SimulationError(washout=four_carts.WASHOUT),
            window=400,
            batch_size=16,
            steps=sizes.carts,
            learning_rate=1e-2,
            seed=study.seed,
        )
        return {"unit": unit, "rate": certified_rate(fit.system)} | four_carts.errors_of(fit.system, data)

    return {unit: study.row(f"carts {unit}", partial(identified, unit), needs=vars(sizes)) for unit in UNITS}


def single_pixels(study: Study) -> dict[str, list[Row]]:
    """The Lipschitz unit on 784 samples of one pixel, in order and permuted: 30 epochs of all images."""
    data = digits((784, 1), standardised=False)
    sizes, some = replace(FULL, epochs=30), {"ordered": data, "permuted": permuted(data)}

    def trained(task: str, states: int, seed: int) -> Row:
        make = partial(LipschitzRNN, nu=1, ny=10, nx=states, step=0.03, init_std=0.1 / states)
        unit = make, PERMUTED_RATES["lipschitz"] if task == "permuted" else UNITS["lipschitz"][1]
        return trained_row(study, f"pixels {task} {states} {seed}", some[task], unit, seed, sizes)

    seeds = range(study.seed, study.seed + 3)
    return {f"{task} {states}": [trained(task, states, seed) for seed in seeds] for task, states, _ in PIXELS}


def propositions(seed: int) -> Row:
    """Both propositions as printed and as corrected, on random matrices of 6 states.

    With S = M + M' and A = (1 - beta) S + beta (M - M') - gamma I, proposition 2 as printed puts Re lambda(A) - gamma
    between the ends of (1 - beta) lambda(S) - gamma, though A has gamma in it already: Re lambda(A) between those of
    (1 - beta) lambda(S). With beta = 1 every real part is -gamma, below both ends, which are zero.
    """
    rng = np.random.default_rng(seed)
    printed, corrected, stable, conditions = [], [], [], 0
    for _ in range(_DRAWS):
        beta, gamma = rng.uniform(0.5, 1.0), rng.uniform(0.0, 1.0)
        M, W = rng.normal(size=(2, 6, 6)) / 6**0.5
        A = mixed(M, beta, gamma)
        real = np.linalg.eigvals(A).real
        ends = (1 - beta) * np.linalg.eigvalsh(M + M.T)[[0, -1]]
        printed.append(bool(ends[0] - 1e-9 <= real.min() and real.max() <= ends[1] + 1e-9))
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


def one_training(
    data: Digits, unit: str, seed: int, sizes: Sizes, device: str = "cpu", *, checkpoint: Path | None = None
) -> Row:
    """Train one classifier, perturb its images, and find the curvature of its loss."""
    make, rate = UNITS[unit]
    model = make(seed=seed)
    trained = train(model, data, settings_of(rate, seed, sizes.epochs, device), checkpoint=checkpoint)
    rng = torch.Generator().manual_seed(seed)
    test = data.test.take(torch.arange(len(data.test))[: sizes.perturbed])
    some = data.test.take(torch.arange(min(_ATTACKED, len(test))))
    share = partial(accuracy, trained.system)
    fooled = data.test.u[: sizes.fooled]
    bent = spectrum(
        model,
        data.train.take(torch.arange(min(200, len(data.train)))),
        steps=sizes.lanczos,
        draws=sizes.lanczos,
        seed=seed,
    )
    return {
        "unit": unit,
        "accuracy": 100 * share(data.test),
        "validation": 100 * max(trained.validation),
        "white": [100 * share(white(test, sigma, rng)) for sigma in WHITE],
        "salt": [100 * share(salted(test, part, rng)) for part in SALT],
        "pgd": 100 * share(attacked(trained.system, some)),
        "deepfool_2": float(fooling(trained.system, fooled, infinity=False).median()),
        "deepfool_inf": float(fooling(trained.system, fooled, infinity=True).median()),
    } | bent._asdict()


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


def _ablations(variants: dict[str, dict[float, list[Row]]]) -> Figure:
    figure = Figure(figsize=(9, 3.5), layout="constrained")
    for axes, name in zip(figure.subplots(1, 2, sharey=True), ("alpha", "beta"), strict=True):
        curves = np.array([[row["accuracy"] for row in own] for own in variants[name].values()])
        axes.plot(list(variants[name]), curves, ".", color="C0")
        axes.plot(list(variants[name]), np.median(curves, axis=1), color="C0")
        axes.set_xlabel({"alpha": "weight alpha of the linear part", "beta": "weight beta of the skew part"}[name])
    figure.axes[0].set_ylabel("test accuracy [%]")
    return figure


def pendulum_unit(beta: float, seed: int) -> LipschitzRNN:
    """Unit whose two states are angle and rate of a free pendulum, trained on steps of a tenth of a second."""
    plant, rng = Pendulum(dt=0.1), np.random.default_rng(seed)
    starts = rng.uniform((-2.0, -4.0), (2.0, 4.0), (200, 2))
    rest: Any = np.zeros((len(starts), 20, 1))
    records: tuple[Trajectory, ...] = simulate(plant, rest, starts)
    runs = torch.tensor(np.stack([np.asarray(r.x) for r in records]), dtype=torch.float64)
    before, after = (part.reshape(-1, 2) for part in (runs[:, :-1], runs[:, 1:]))
    unit = LipschitzRNN(nu=1, ny=1, nx=2, step=plant.dt, beta=beta, init_std=0.5, seed=seed).double()
    optimiser = torch.optim.Adam(unit.parameters(), lr=0.02)
    for _ in range(600):
        optimiser.zero_grad()
        (stepped(unit.system(), before) - after).square().mean().backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    return unit


def stepped(system: LureSystem, x: Tensor) -> Tensor:
    """Next states (n, nx) of a unit without input."""
    after: Tensor = x @ system.A.T + torch.tanh(x @ system.C1.T + system.bv) @ system.B1.T
    return after


@torch.no_grad()
def vector_fields(seed: int) -> Figure:
    """Fields of units trained on a pendulum, for growing weights of the skew part; figure 1 of the paper."""
    figure = Figure(figsize=(12, 3.4), layout="constrained")
    angle, rate = np.meshgrid(np.linspace(-2, 2, 25), np.linspace(-4, 4, 25))
    at = torch.tensor(np.stack([angle.ravel(), rate.ravel()], axis=1))
    panels = figure.subplots(1, len(FIELDS), sharey=True)
    for axes, beta in zip(panels, FIELDS, strict=True):
        with torch.enable_grad():
            unit = pendulum_unit(beta, seed)
        change = (stepped(unit.system(), at) - at).numpy() / unit.step
        axes.streamplot(angle, rate, *change.T.reshape(2, *angle.shape), density=0.8, linewidth=0.7, arrowsize=0.7)
        pole = np.linalg.eigvals(mixed(unit.M.numpy(), beta, unit.gamma[0])).real.max()
        axes.set(title=f"beta = {beta:g}\nlargest Re lambda(A) {pole:.2f}", xlabel="angle [rad]")
    panels[0].set_ylabel("rate [rad/s]")
    return figure


def spectra(seed: int) -> Figure:
    """Eigenvalues of the construction from one matrix of 64 states, for growing weights of the skew part."""
    figure = Figure(figsize=(12, 3), layout="constrained")
    M = np.random.default_rng(seed).normal(size=(64, 64)) / 64**0.5
    betas = (0.5, 0.65, 0.75, 0.85, 1.0)
    for axes, beta in zip(figure.subplots(1, len(betas), sharey=True, sharex=True), betas, strict=True):
        values = np.linalg.eigvals(mixed(M, beta, 0.1))
        axes.plot(values.real, values.imag, ".")
        axes.axvline(0, color="0.7", zorder=0)
        axes.set(title=f"beta = {beta}", xlabel="real part")
    figure.axes[0].set_ylabel("imaginary part")
    return figure


if __name__ == "__main__":
    sys.exit(main())
