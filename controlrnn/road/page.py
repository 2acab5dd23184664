"""Report of a road: what its folder holds, as the page that `controlrnn.report` writes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from controlrnn.data import Signal
from controlrnn.report import Parts, write_report
from controlrnn.road.data.splitting import signals_of
from controlrnn.road.ledger import Stage
from controlrnn.road.road import Road

if TYPE_CHECKING:
    from controlrnn.certification import Attack
    from controlrnn.identification import BestFit

_STARTS, _STEPS = 4, 15


def write_page(road: Road, path: Path) -> None:
    """Write the report of a road whose loops have run.

    Args:
        road: The road.
        path: The HTML file.
    """
    inputs, outputs = signals_of(road.file)
    certificates = {"contraction": road.contraction, "predictions": road.certificate}
    loops: dict[str, Any] = {"tightened": road.loops}
    if road.nominal_loops is not None:
        loops["not tightened"] = road.nominal_loops
    entries = road.ledger.entries
    own = {entry.system.digest for entry in road.fit.entries}
    model = str(entries[str(Stage.CERTIFY)].figures["model"])
    others = {} if road.system.digest in own else {model: road.system}
    tightening: Any = road.tightening  # what the report asks of one is a protocol of plain attributes
    write_report(
        Parts(
            title=f"From {', '.join(Path(s.path).name for s in road.file.data.sources)} to a controller",
            about=f"May this controller run, and what keeps its limits? It is {entries[str(Stage.CERTIFY)].words[-2]}.",
            inputs=inputs,
            outputs=outputs,
            data=road.data,
            checked=road.data_report,
            fit=_controlled(road.fit, model, entries[str(Stage.CERTIFY)].words[-2]),
            baselines=others,
            certificates=certificates,
            attack=_attack(road, inputs),
            model_error=road.model_error,
            observer=road.observer,
            tightening=tightening,
            loops=loops,
            files={
                "model": "model.npz",
                "certificate, contraction": "contraction.npz",
                "certificate, predictions": "horizon.npz",
                "model error": "model_error.npz",
                "tightening": "tightening.npz",
            },
            verify=[f"controlrnn verify {road.folder}"],
            notes={name: "; ".join(entry.words) for name, entry in entries.items() if name in ("certify", "simulate")},
        ),
        path,
    )


def _attack(road: Road, inputs: tuple[Signal, ...]) -> Attack | None:
    """How far gradient ascent drives two runs that the certificate of predictions covers; None without input limits."""
    from controlrnn.certification import attack_horizon  # torch, which reading a road does not need

    ends, claim = np.array([[s.lower, s.upper] for s in inputs]).reshape(-1, 2).T, road.certificate
    if not np.isfinite(ends).all() or claim.system_digest != road.system.digest:
        return None
    return attack_horizon(
        road.system,
        claim.horizon,
        initial_radius=claim.initial_radius,
        input_radius=claim.input_error,
        metric=claim.metric,
        input_range=(ends[0], ends[1]),
        starts=_STARTS,
        steps=_STEPS,
        seed=0,
    )


def _controlled(fit: BestFit, model: str, why: str) -> BestFit:
    """The search with the model that is controlled with in the first place, which need not be the one it chose."""
    if model == fit.chosen or model not in {entry.name for entry in fit.entries}:
        return fit
    return replace(fit, chosen=model, reason=f"{why}; the search itself chose {fit.chosen}: {fit.reason}")
