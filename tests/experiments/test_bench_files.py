"""Damaged and hostile files of every kind end in FileFormatError or another valid object: a small part of the study."""

import json

import numpy as np
import pytest

from controlrnn.certification.certificate import CERTIFICATE_KINDS
from controlrnn.records import Stored, read_archive
from experiments.bench_files.every_record import samples
from experiments.bench_files.mutations import MUTATIONS
from experiments.bench_files.study import read, spoil


@pytest.fixture(scope="module")
def kinds():
    return samples(0, all_kinds=False)


@pytest.fixture(scope="module")
def every_kind():
    return samples(0)


def kinds_of(cls):
    return {one for sub in cls.__subclasses__() for one in (sub, *kinds_of(sub))}


@pytest.mark.slow
def test_every_kind_that_saves_itself_is_there(every_kind):
    headers = [json.loads(read_archive(s.content)["header.json"].tobytes()) for s in every_kind.values()]
    stored = {header["kind"] for header in headers}
    ours = {c.SCHEMA.kind for c in kinds_of(Stored) if hasattr(c, "SCHEMA") and not c.__module__.startswith("test")}
    parts = {"family", "input-error", "scaler", "scores", "settings", "signal", "fit-parts"}
    assert ours - parts <= stored
    assert set(CERTIFICATE_KINDS) | {"lure-system", "gated-system", "training-checkpoint"} <= stored


def test_some_files_of_some_kinds(kinds, tmp_path):
    refuse_the_unexpected(kinds, tmp_path, 4)


@pytest.mark.slow
def test_more_files_of_every_kind(every_kind, tmp_path):
    refuse_the_unexpected(every_kind, tmp_path, 40)


def refuse_the_unexpected(kinds, tmp_path, each):
    for i, (name, sample) in enumerate(kinds.items()):
        row = spoil(sample, tmp_path, [7, i], each)
        outcomes = sum(row[k] for k in ("refused", "another", "same", "raw", "invalid"))
        assert outcomes == row["files"] == each * len(MUTATIONS)
        assert row["raw"] == row["invalid"] == row["unnoticed"] == row["slow"] == 0, (name, row["errors"])
        assert row["memory_mb"] < 300


def test_what_is_counted_can_occur(kinds, tmp_path):
    """The judge is no yes-man: raw errors, unusable objects and unnoticed damage are seen."""
    sample, path = kinds["tightening"], tmp_path / "r.npz"
    path.write_bytes(sample.content)

    def broken(_path):
        raise KeyError("x")

    def useless(_found):
        raise ZeroDivisionError

    other = type(sample)(sample.content, sample.load, "another", useless)
    assert read(sample, path, tmp_path)[0] == "same"
    assert read(type(sample)(sample.content, broken, "", useless), path, tmp_path)[0] == "raw"
    assert read(other, path, tmp_path)[0] == "invalid"
    path.write_bytes(sample.content[:-5])
    assert read(sample, path, tmp_path)[0] == "refused"


@pytest.mark.parametrize("name", MUTATIONS)
def test_mutations_change_something_and_depend_on_the_generator_alone(kinds, name):
    raw = kinds["trajectory"].content
    made = [[MUTATIONS[name](raw, np.random.default_rng(i)) for i in range(20)] for _ in range(2)]
    assert made[0] == made[1]
    assert sum(m != raw for m in made[0]) > 15
    assert len(set(made[0])) > 10
