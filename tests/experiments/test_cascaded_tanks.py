import json
import os

import pytest


@pytest.mark.slow
@pytest.mark.skipif("CONTROLRNN_DATA" not in os.environ, reason="set CONTROLRNN_DATA to the folder of measured data")
def test_quick_study_beats_the_linear_baselines_and_resumes(tmp_path, capsys):
    from experiments import cascaded_tanks

    assert cascaded_tanks.main(["--quick", "--out", str(tmp_path)]) == 0
    first = json.loads((tmp_path / "results.json").read_text())
    rows = {row["case"]: row for row in first["rows"]}
    assert {"arx", "subspace", "linear", "residual", "contracting_r2dn"} == {row["model"] for row in first["rows"]}
    linear = min(rows[name]["test_rmse"] for name in ("arx", "subspace", "linear"))
    assert max(rows["residual_0"]["test_rmse"], rows["contracting_r2dn_0"]["test_rmse"]) < linear
    assert rows["contracting_r2dn_0"]["certified_rate"] < 1
    assert (tmp_path / "test_record.png").exists()
    capsys.readouterr()
    assert cascaded_tanks.main(["--quick", "--out", str(tmp_path)]) == 0
    again = json.loads((tmp_path / "results.json").read_text())
    assert again["rows"] == first["rows"]
