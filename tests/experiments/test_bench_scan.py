"""The benchmark runs without its peers and says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from experiments.bench_scan import equal_size
from experiments.bench_scan import study as bench_scan


@pytest.mark.slow
def test_quick_version_times_both_of_our_paths(tmp_path: Path) -> None:
    assert bench_scan.main(["--quick", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    cells = [row for row in results["rows"] if "ours_ms" in row]
    pairs = [row for row in results["rows"] if "r2dn_over_ren" in row]
    assert [row["records"] for row in pairs] == [records for records, _ in equal_size.SIZES]
    assert {row["model"] for row in cells} == {"elman", "ren", "r2dn"}
    assert all(row["ours_ms"] > 0 and row["eager_ratio"] > 1 for row in cells)
    assert "left out" in results["peers"]
    assert results["targets"]["first call, cached [s]"]["value"] > 0


def test_the_two_models_have_about_as_many_parameters() -> None:
    numbers = [equal_size.model(kind, quick=False).n_parameters for kind in ("ren", "r2dn")]
    assert max(numbers) < 1.1 * min(numbers)
    assert equal_size.leaves(equal_size.model("r2dn", quick=True).system()).feedforward
    assert not equal_size.leaves(equal_size.model("ren", quick=True).system()).feedforward
