"""R2DN against REN at equal parameter counts: three tasks, and how times grow with size, batch and length.

I. R. Manchester, N. H. Barbara, R. Wang, "R2DN: scalable parameterization of contracting and Lipschitz recurrent deep
networks", arXiv 2504.01250, 2025: identification of the F-16, an observer of reaction and diffusion, a robust policy in
a feedback loop. The paper measures on a GPU with unrolled loops; here processor times of the compiled scan (fused) and
of the loop over samples in torch (eager), in turns. Same seeds, batches and steps for both.

Quick: F-16 2 epochs of 70, observer 200 batches of 40 000, policy 80 steps of 320 on a quarter of the rollouts: losses
are not decided. Full: some 4 hours.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from functools import partial

import numpy as np
import torch
from matplotlib.figure import Figure

from controlrnn.certification import certify_by_construction
from controlrnn.errors import CertificationError
from controlrnn.kernels import simulate
from experiments.bench_scan import equal_size
from experiments.papers.claims import finish
from experiments.papers.r2dn import timing
from experiments.papers.r2dn.judging import GROWN, claims
from experiments.papers.r2dn.tasks import KINDS, Task, feedback, identification, observer
from experiments.shared.study import Row, Study

TASKS = {"F-16": identification, "observer": observer, "feedback": feedback}
SEEDS = 3
ROUNDS = 3  # of the four F-16 sizes
_CLIP = 10.0
_LINEAR = 3.0  # ratio of times at twice the length, below which they grow in proportion and not with the square


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("papers.r2dn", __doc__, arguments)
    turns = {"fused": 5, "eager": 3} if study.quick else {"fused": 31, "eager": 5}
    times: dict[str, Row] = {}
    trained: dict[str, dict[str, list[Row]]] = {}
    for name, make in TASKS.items():
        with study.stage(name):
            task = make(quick=study.quick)
            work = partial(timing.of_task, task, turns, 16 if study.quick else 256)
            times[name] = study.row(f"times {name}", work)
            trained[name] = {kind: [] for kind in KINDS}
            for seed in range(study.seed, study.seed + SEEDS):
                for kind in KINDS:
                    training = partial(one_training, task, kind, seed)
                    trained[name][kind].append(study.row(f"{name} {kind} {seed}", training, needs=task.steps))
    with study.stage("times at the F-16's size"):
        sizes = {
            (records, samples): study.row(f"sizes B={records} T={samples}", partial(f16_size, records, samples))
            for records, samples in sorted({*equal_size.SIZES, *GROWN["batch"], *GROWN["length"]})
        }
    with study.stage("scaling"):
        horizons = {"fused": timing.HORIZON, "eager": 8 if study.quick else timing.HORIZON}
        scaled = study.row(
            "scaling", partial(timing.scaling, turns, horizons, every=3 if study.quick else 1), needs=horizons
        )
    ratio = study.row("eager backward", timing.eager_backward)["ratio"]
    study.target("eager backward, 784 samples over 392", f"< {_LINEAR}", ratio, ratio < _LINEAR)
    found = claims(times, trained, sizes, scaled, short=study.quick)
    study.figure("scaling", _scaling(scaled))
    study.figure("losses", _losses(trained))
    return finish(study, found)


def one_training(task: Task, kind: str, seed: int) -> Row:
    """Train one model: its losses, its error on data that it was not trained on, and its certificate."""
    model = task.models[kind](seed=seed)
    optimiser = torch.optim.Adam(model.parameters(), lr=task.learning_rate)
    batches, state, losses = task.batches(seed), None, []
    began = time.process_time()
    for step in range(task.steps):
        if step in {int(share * task.steps) for share in task.drops}:
            optimiser.param_groups[0]["lr"] *= 0.1
        loss, state = task.loss(model.system(), next(batches), state, simulate)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), _CLIP)
        optimiser.step()
        losses.append(float(loss.detach()))
    seconds = time.process_time() - began
    with torch.no_grad():
        test = task.test(model.system())
    rate = None
    try:
        certificate = certify_by_construction(model).contraction
        certificate.verify(model.freeze())
        rate = certificate.rate
    except CertificationError:
        pass
    tenth = max(task.steps // 10, 1)
    curve = np.array_split(losses, min(task.steps, 40))
    return {
        "task": task.name, "kind": kind, "parameters": model.n_parameters, "loss": float(np.mean(losses[-tenth:])),
        "test": test, "training_s": seconds, "rate": rate, "curve": [float(part.mean()) for part in curve],
    }  # fmt: skip


def f16_size(records: int, samples: int) -> Row:
    """Ratio of times at one size of the F-16 benchmark, in some rounds."""
    rounds = [equal_size.compare(records, samples, quick=False) for _ in range(ROUNDS)]
    return {
        "records": records, "samples": samples, "ren_ms": [r["ren_ms"] for r in rounds],
        "r2dn_ms": [r["r2dn_ms"] for r in rounds], "ratio": [r["ren_ms"] / r["r2dn_ms"] for r in rounds],
    }  # fmt: skip


def _scaling(row: Row) -> Figure:
    figure = Figure(figsize=(11, 4.5), layout="constrained")
    panels = figure.subplots(1, 2, sharey=True)
    for axes, what in zip(panels, ("training", "inference"), strict=True):
        for kind, published in (("ren", timing.REN_SIZES), ("r2dn", timing.R2DN_SIZES)):
            expressive = [100 / published[n] for n in row["sizes"][kind]]
            for path, style in (("fused", "-o"), ("eager", "--s")):
                middle = np.median(row[f"{what}_{path}_{kind}"], axis=0)
                colour = {"ren": "C0", "r2dn": "C1"}[kind]
                axes.loglog(expressive, middle, style, color=colour, label=f"{kind.upper()} {path}")
        axes.set(title=what, xlabel="1 / NRMSE, as published for the size")
        axes.set_xticks((20, 50, 100, 200, 400), ("20", "50", "100", "200", "400"))
        axes.minorticks_off()
        axes.grid(visible=True, alpha=0.3)
    panels[0].set_ylabel("ms (eager: fewer samples)")
    panels[1].legend(fontsize="small")
    return figure


def _losses(trained: dict[str, dict[str, list[Row]]]) -> Figure:
    figure = Figure(figsize=(12, 4), layout="constrained")
    for axes, (name, rows) in zip(figure.subplots(1, len(trained)), trained.items(), strict=True):
        for n, (kind, own) in enumerate(rows.items()):
            curves = np.array([row["curve"] for row in own])
            at = np.linspace(0, 100, curves.shape[1])
            axes.semilogy(at, np.median(curves, axis=0), color=f"C{n}", label=kind.upper())
            axes.fill_between(at, curves.min(axis=0), curves.max(axis=0), color=f"C{n}", alpha=0.2)
        axes.set(title=name, xlabel="% of the steps", ylabel="training loss")
    figure.axes[0].legend()
    return figure


if __name__ == "__main__":
    sys.exit(main())
