import json

import numpy as np
import pytest

from controlrnn.greybox import trace
from experiments.grey_box import cascaded, others, three_tanks
from plants import MultiTank, simulate
from plants.ops import NUMPY


def test_the_balance_with_true_parameters_is_the_plant():
    """Up to the laminar part of its outlets, and away from the rims."""
    x, u = np.array([45.0, 38.0, 30.0]), np.array([1.5, 2.0])
    ours = three_tanks.balance(x, u, three_tanks.truth(), NUMPY)
    np.testing.assert_allclose(ours, MultiTank().dynamics(x, u), rtol=1e-3)


def test_equations_of_both_plants_become_systems():
    assert trace(three_tanks.equations()).system.nv == 9
    assert trace(cascaded.equations(4.0)).system.ny == 1


@pytest.mark.parametrize("make", [others.quadruple, others.carts])
def test_the_equations_of_the_others_are_their_plants_and_records_stay_in_their_boxes(make):
    other, rng = make(), np.random.default_rng(0)
    boxes, _ = other.equations.boxes()
    x, u = rng.uniform(*boxes.T, (200, len(boxes))), other.excite(rng, 200)
    ours = other.equations.dynamics(x, u, other.truth, NUMPY)
    expected = other.plant.dynamics(x, u)
    np.testing.assert_allclose(ours, expected, atol=1e-2 * np.abs(expected).max())
    start = other.plant.equilibrium(u[0]) if other.name == "quadruple tank" else np.zeros(other.plant.nx)
    reached = simulate(other.plant, u, start).x
    assert ((reached > boxes[:, 0]) & (reached < boxes[:, 1])).all()
    system = trace(other.equations, other.truth).system
    apart = np.abs(system.simulate(u, start)[0] - simulate(other.plant, u, start).y)
    assert apart.max() < 3 * other.deviation


@pytest.mark.slow
def test_the_quick_study_runs_and_physics_beats_networks_with_as_few_records(tmp_path, monkeypatch):
    from experiments.grey_box import __main__ as grey_box

    monkeypatch.delenv("CONTROLRNN_DATA", raising=False)
    assert grey_box.main(["--quick", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    fits = {row["case"]: min(row["fit_percent"]) for row in results["rows"] if "fit_percent" in row}
    for plant, physics in (("tanks", "physics"), *[(p, "physics, a tenth") for p in ("quadruple tank", "four carts")]):
        networks = [fit for case, fit in fits.items() if case.startswith(f"{plant}: R") and "tenth" in case]
        assert networks
        assert fits[f"{plant}: {physics}"] > max(networks)
    assert results["targets"]["tanks_contraction"]["met"]
