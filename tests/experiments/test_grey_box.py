import json

import numpy as np
import pytest

from controlrnn.greybox import trace
from experiments.grey_box import cascaded, three_tanks
from plants import MultiTank
from plants.ops import NUMPY


def test_the_balance_with_true_parameters_is_the_plant():
    """Up to the laminar part of its outlets, and away from the rims."""
    x, u = np.array([45.0, 38.0, 30.0]), np.array([1.5, 2.0])
    ours = three_tanks.balance(x, u, three_tanks.truth(), NUMPY)
    np.testing.assert_allclose(ours, MultiTank().dynamics(x, u), rtol=1e-3)


def test_equations_of_both_plants_become_systems():
    assert trace(three_tanks.equations()).system.nv == 9
    assert trace(cascaded.equations(4.0)).system.ny == 1


@pytest.mark.slow
def test_the_quick_study_runs_and_physics_beats_networks_with_as_few_records(tmp_path, monkeypatch):
    from experiments.grey_box import __main__ as grey_box

    monkeypatch.delenv("CONTROLRNN_DATA", raising=False)
    assert grey_box.main(["--quick", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    fits = {row["model"]: min(row["fit_percent"]) for row in results["rows"] if "fit_percent" in row}
    assert fits["physics"] > max(fit for name, fit in fits.items() if "tenth" in name)
    assert results["targets"]["tanks_contraction"]["met"]
