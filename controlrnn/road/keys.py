"""Settings of the road file and files that each stage of a road is made from; a stage is redone where they changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from controlrnn import __version__
from controlrnn.records import digest
from controlrnn.road.file.schema import RoadFile
from controlrnn.road.ledger import Ledger, Stage, sha_of

_PLANT = "plant"  # name of the source of a plant of one's own


def settings_of(stage: Stage, file: RoadFile) -> dict[str, Any]:
    """Settings that a stage depends on, so that a new limit does not start a new search.

    Args:
        stage: The stage.
        file: The road file.
    """
    whole = file.model_dump()
    channels = [[c[n] for n in ("name", "unit")] for c in (*whole["inputs"], *whole["outputs"])]
    limits = [{n: c[n] for n in ("lower", "upper")} for c in (*whole["inputs"], *whole["outputs"])]
    errors = [[i[n] for n in ("error", "command_error")] for i in whole["inputs"]]
    names = {
        Stage.CHECK: ("seed", "data", "split"),
        Stage.IDENTIFY: ("seed", "identify"),
        Stage.CERTIFY: ("seed", "identify", "observer", "certificate", "control"),
        Stage.TIGHTEN: ("promise", "control", "observer"),
        Stage.SIMULATE: ("seed", "inputs", "outputs", "control", "simulate", "promise"),
        Stage.REPORT: tuple(whole),
    }[stage]
    used = {name: whole[name] for name in names}
    if stage is Stage.IDENTIFY:
        used["identify"] = {n: v for n, v in whole["identify"].items() if n != "model"}
    if stage in (Stage.CERTIFY, Stage.TIGHTEN):
        used["control"] = {"horizon": whole["control"]["horizon"]}
        used |= {"limits": limits, "errors": errors}
    if stage is Stage.CHECK:
        used |= {"channels": channels, "needed": file.promise.washout + file.control.horizon + 1}
    return used


def sources_of(stage: Stage, file: RoadFile, ledger: Ledger, base: Path) -> dict[str, str]:
    """SHA-256 of the files that a stage reads, by name.

    Args:
        stage: The stage.
        file: The road file.
        ledger: What was done.
        base: Folder that paths in the road file are relative to.
    """
    if stage is Stage.CHECK:
        return {source.path: sha_of(base / source.path) for source in file.data.sources}
    found = earlier(stage, ledger)
    if stage is Stage.SIMULATE and file.simulate.plant != "model":
        found[_PLANT] = sha_of(base / (file.simulate.plant.partition(":")[0].replace(".", "/") + ".py"))
    return found


def earlier(stage: Stage, ledger: Ledger) -> dict[str, str]:
    """SHA-256 of what the stages before one wrote, by name.

    Args:
        stage: The stage.
        ledger: What was done.
    """
    before = list(Stage)[: list(Stage).index(stage)]
    return {f"{s}/{name}": sha for s in before for name, sha in ledger.outputs(s).items()}


def key_of(stage: Stage, settings: dict[str, Any], sources: dict[str, str]) -> str:
    """Digest of what a stage is made from.

    Args:
        stage: The stage.
        settings: From `settings_of`.
        sources: From `sources_of`.
    """
    return digest({}, {"stage": str(stage), "version": __version__, "settings": settings, "sources": sources})


def made_from(stage: Stage, file: RoadFile, ledger: Ledger) -> str:
    """From what a stage that is done was made: "" if from this road file and what the stages before it wrote.

    Measurements and a plant of one's own need not be at hand: the ledger names them.

    Args:
        stage: The stage.
        file: The road file.
        ledger: What was done.
    """
    entry = ledger.entries[str(stage)]
    read = {name: sha for name, sha in entry.sources.items() if name != _PLANT}
    if stage is not Stage.CHECK and read != earlier(stage, ledger):
        return "other results of the stages before it"
    # Another version may have other settings, or none of their defaults.
    same = entry.version != __version__ or entry.key == key_of(stage, settings_of(stage, file), entry.sources)
    return "" if same else "another road file"
