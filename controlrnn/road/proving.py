"""Verification of a road's folder: every claim in it is proven or computed again, without torch and without solvers.

What is trusted in the end: the records (that they were measured on this plant, as the road file says), that no model of
the search saw the calibration records, the premises that the promise names, and the code of the proofs.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

import mpc
from controlrnn import __version__
from controlrnn.checks import Array
from controlrnn.errors import CertificationError, ControlRnnError
from controlrnn.road.keys import made_from
from controlrnn.road.ledger import Stage
from controlrnn.road.loops import references_of, seed_of
from controlrnn.road.making import calibrate_error
from controlrnn.road.road import Road
from controlrnn.typed import typed
from mpc.promises.made_again import refuse_other

# Another processor rounds sums over records in another order.
_SAME = 1e-9


@dataclass(frozen=True)
class Verdict:
    """One claim and whether it holds.

    Args:
        claim: The claim in words.
        holds: Whether it was proven or computed again.
        words: With which margin, or why not.
    """

    claim: str
    holds: bool
    words: str


@typed()
def verify_folder(folder: str | os.PathLike[str]) -> tuple[Verdict, ...]:
    """Prove or compute again what a road's folder claims, with numpy and the compiled simulation alone.

    Stages that are not done claim nothing. A claim that fails is no exception but a verdict.

    Args:
        folder: The folder.

    Returns:
        One verdict a claim.

    Raises:
        MissingDataError: It is no folder of a road.
        SettingError: Its copy of the road file is not valid.
    """
    road = Road(folder)
    done = {Stage(name) for name in road.ledger.entries}
    claims: list[tuple[Stage, str, Callable[[Road], str]]] = [
        (Stage.CHECK, "the records are those that were dealt out, and no sample serves two purposes", _records),
        (Stage.CERTIFY, "the model forgets its start (contraction)", _contraction),
        (Stage.CERTIFY, "bounds on the model's prediction errors (horizon)", _horizon),
        (Stage.TIGHTEN, "the model error follows from the calibration records", _model_error),
        (Stage.TIGHTEN, "the tightening is the sum of what is proven and calibrated", _tightening),
        (Stage.SIMULATE, "the loops ran with this tightening", _loops),
    ]
    found = [_files(road), _fresh(road)]
    for stage, claim, prove in claims:
        if stage not in done:
            continue
        try:
            found.append(Verdict(claim, True, prove(road)))
        except ControlRnnError as error:
            found.append(Verdict(claim, False, str(error)))
    return tuple(found)


def _files(road: Road) -> Verdict:
    """Whether all files are those that the stages wrote."""
    ledger = road.ledger
    changed = [name for stage in ledger.entries for name in ledger.changed(Stage(stage))]
    total = sum(len(entry.files) for entry in ledger.entries.values())
    said = f"{total} files" if not changed else f"changed or missing: {', '.join(changed[:5])}"
    return Verdict("the files are those that the stages wrote", not changed and total > 0, said)


def _fresh(road: Road) -> Verdict:
    """Whether what is there belongs together; a page of the report claims nothing of its own."""
    stages = [Stage(name) for name in road.ledger.entries if name != Stage.REPORT]
    others = {stage: words for stage in stages if (words := made_from(stage, road.file, road.ledger))}
    versions = sorted({e.version for e in road.ledger.entries.values()} - {__version__})
    said = f"{len(stages)} stages" + "".join(f"; settings of version {v} are not compared" for v in versions)
    if others:
        said = f"{'; '.join(f'{s} from {w}' for s, w in others.items())}: `controlrnn run` makes them anew"
    return Verdict("each stage was made from this road file and from what is here", not others, said)


def _records(road: Road) -> str:
    return f"{len(road.data.all)} records"


def _contraction(road: Road) -> str:
    margin = road.contraction.verify(road.system)
    return f"rate {road.contraction.rate:.5f}, margin {margin:.2g}, model {road.system.digest[:12]}"


def _horizon(road: Road) -> str:
    margin = road.certificate.verify(road.system)
    initial = road.initial_certificate
    if initial is not None:
        initial.verify(road.system)
    return f"{road.certificate.horizon} steps, margin {margin:.2g}"


def _model_error(road: Road) -> str:
    stored, made = road.model_error, calibrate_error(road.file, road.data, road.observer)
    if stored.bounds.shape != made.bounds.shape or not np.allclose(stored.bounds, made.bounds, rtol=_SAME, atol=0.0):
        raise CertificationError("the records give another bound: the file was altered, or made from others")
    # All that it promises counts, not its bounds alone: for how long, of what, and from how many experiments.
    if replace(stored, bounds=made.bounds).digest != made.digest:
        raise CertificationError(
            "it names other records, another probability or another promise than the records and the road file give: "
            f"it says {stored.promise!r}, they give {made.promise!r}; `controlrnn tighten --redo` makes it anew"
        )
    return f"{made.n} records from {made.sources} experiment(s), probability {made.coverage:g}"


def _tightening(road: Road) -> str:
    total = road.tightening.total.max(axis=0)
    return f"at most {', '.join(f'{t:.3g}' for t in total)}"


def _loops(road: Road) -> str:
    total, zero = road.tightening.total, np.zeros_like(road.tightening.total)
    loops, nominal = road.loops.results, road.nominal_loops
    _ran(road, "the loops with tightening", loops, total)
    if nominal is not None:
        _ran(road, "the loops without tightening", nominal.results, zero)
    return f"{road.loops.runs_with_violation} of {len(loops)} left a limit"


def _ran(road: Road, what: str, loops: Sequence[mpc.ClosedLoopResult], bounds: Array) -> None:
    """Raise CertificationError unless loops are those of the road file, with these bounds within its limits."""
    outputs, wanted = road.predictor.outputs, references_of(road.file)
    made = {
        "bounds": bounds,
        "lower": np.array([s.lower for s in outputs]),
        "upper": np.array([s.upper for s in outputs]),
        "reference": np.concatenate([wanted, wanted[-1:]]),
        "dt": np.array(road.predictor.dt),
    }
    seeds = [seed_of(road.file, i) for i in range(road.file.simulate.loops)]
    if [loop.seed for loop in loops] != seeds:
        raise CertificationError(f"{what} are not the {len(seeds)} that the road file asks for: simulate again")
    for loop in loops:
        refuse_other(f"one of {what}", {name: np.asarray(getattr(loop, name)) for name in made}, made)
