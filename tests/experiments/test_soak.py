"""The soak's sums, and a short soak."""

import gc
import json

import numpy as np
import pytest

from experiments import soak
from experiments.three_tank.config import Config
from plants import MultiTank


def row(process, resident, steps=5000):
    return {"process": process, "resident_mb": resident, "steps": steps}


def test_growth_is_that_of_the_second_half_of_one_process():
    leak = [row("a", 900.0), *(row("b", 100.0 + 50 * (i < 3) + 3.0 * i) for i in range(8)), row("a", 10.0)]
    slope, steps = soak.growth(leak)
    np.testing.assert_allclose(slope, 6.0)  # 3 MB per 5000 steps
    assert steps == 4 * 5000
    assert soak.growth([row("a", 1.0)]) == (None, 0)


def test_references_are_steady_states_below_the_limit():
    config, plant = Config(), MultiTank()
    rows = soak.wanted(config, 300, np.random.default_rng(0))
    assert rows.shape == (300, 3)
    levels, counts = np.unique(rows[:, 0], return_counts=True)
    assert len(levels) >= 3
    assert levels.min() > 45 - 1e-6
    assert levels.max() < plant.level_limit
    assert counts.max() <= 100
    for level in levels:
        np.testing.assert_allclose(
            plant.step(rows[rows[:, 0] == level][0], soak.stages.steady_input(config, level)),
            rows[rows[:, 0] == level][0],
            atol=1e-6,
        )


def test_resident_memory_sees_an_allocation():
    before = soak.resident()
    block = np.ones(8_000_000)
    assert soak.resident() - before > 0.8 * block.nbytes


def test_frozen_objects_are_no_work_for_the_garbage_collector():
    before = gc.get_freeze_count()
    kept = [[] for _ in range(1000)]
    with soak.frozen_heap():
        assert gc.get_freeze_count() >= before + len(kept)
        assert len(gc.get_objects()) < gc.get_freeze_count()
    assert gc.get_freeze_count() == 0


@pytest.mark.slow
def test_quick_soak_counts_everything_and_resumes(tmp_path, capsys):
    assert soak.main(["--quick", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    rows = {r["case"]: r for r in results["rows"]}
    total = rows["all chunks"]
    assert total["steps"] == sum(results["statuses"].values()) == 1000
    assert sum(results["fallbacks"].values()) == total["fallbacks"] == total["failed_solves"] > 0
    assert sum(results["rejected"].values()) == total["readings_rejected"] > 0
    other = rows["chunk 0, backed off"]
    assert (other["steps"], other["trial_loops"] >= 4) == (250, True)
    assert other["cost"] > 0 < rows["chunk 0"]["cost"]
    met = {name: t["met"] for name, t in results["targets"].items()}
    assert met["all inputs finite and within limits"]
    assert met["steps beyond the sample time"]
    assert met["failed solves beside forced time-outs"]
    assert (tmp_path / "soak.png").exists()
    capsys.readouterr()
    (tmp_path / "times_3.npz").unlink()
    assert soak.main(["--quick", "--out", str(tmp_path)]) == 0
    said = capsys.readouterr().out
    assert "chunk 2: taken from the earlier run" in said
    assert "chunk 3: taken" not in said
