"""Rows on disk: what is damaged is not taken for a row, and what cannot be stored takes nothing with it."""

from pathlib import Path

import pyarrow.parquet as parquet
import pytest

from experiments.shared.rows.stored import StoredRows

ROWS = {
    f"{i:032x}" * 2: {
        "case": f"c{i}",
        "n": i,
        "rmse": 0.1 * i,
        "nested": {"a": [1, None]},
        "list": [1.0, 2.0],
        "on": True,
    }
    for i in range(1, 6)
}


def test_no_damaged_byte_gives_another_row(tmp_path):
    written = StoredRows(tmp_path, say=pytest.fail)
    for mark, row in ROWS.items():
        written.put(mark, row, now=False)
    written.close()
    (path,) = tmp_path.iterdir()
    content, said = path.read_bytes(), []
    intact = StoredRows(tmp_path, say=said.append)
    assert {mark: intact.get(mark) for mark in ROWS} == ROWS
    assert said == []
    for at in [*range(40), *range(40, len(content), 13), len(content) - 1]:
        for bit in (1, 32):
            path.write_bytes(content[:at] + bytes([content[at] ^ bit]) + content[at + 1 :])
            found = StoredRows(tmp_path, say=said.append)
            assert len(found) == 0
            assert "rows are computed again" in said[-1]
    path.write_bytes(content[:-100])
    assert len(StoredRows(tmp_path, say=said.append)) == 0


@pytest.mark.parametrize(("wrong", "error"), [(Path("x"), TypeError), ("\ud800", UnicodeEncodeError)])
def test_a_row_that_cannot_be_stored_takes_no_other_with_it(wrong, error, tmp_path):
    rows = StoredRows(tmp_path, say=pytest.fail)
    rows.put("aa" * 32, {"n": 1}, now=False)
    with pytest.raises(error):
        rows.put("bb" * 32, {"value": wrong}, now=False)
    rows.put("cc" * 32, {"n": 1, "more": None}, now=False)
    rows.close()
    again = StoredRows(tmp_path, say=pytest.fail)
    assert [again.get(mark * 32) for mark in ("aa", "bb", "cc")] == [{"n": 1}, None, {"n": 1, "more": None}]


def test_rows_of_two_kinds_that_alternate_are_read_from_disk_once(tmp_path, monkeypatch):
    rows = StoredRows(tmp_path, say=pytest.fail)
    made = {f"{i:032x}" * 2: {"n": i, "late": None if i % 2 else 0.5} for i in range(20)}
    for mark, row in made.items():
        rows.put(mark, row, now=False)
    rows.close()
    read, before = [], parquet.read_table
    again = StoredRows(tmp_path, say=pytest.fail)
    monkeypatch.setattr(parquet, "read_table", lambda content: read.append(content) or before(content))
    assert {mark: again.get(mark) for mark in made} == made
    assert len(read) == 2
