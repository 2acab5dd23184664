import json

import pytest


@pytest.mark.slow
def test_quick_benchmark_finds_all_solvers_in_agreement(tmp_path):
    from experiments.bench_mpc import study as bench_mpc

    assert bench_mpc.main(["--quick", "--out", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "results.json").read_text())
    targets = {name: value["met"] for name, value in results["targets"].items()}
    on_load = ("faster_than_do_mpc", "without_thread_variables", "of_a_step_python", "of_a_step_c")
    assert all(met for name, met in targets.items() if not name.endswith(on_load))
    speeds = {row["case"]: row for row in results["rows"] if row["case"].endswith("/speed")}
    other = ("busy", "watching", *speeds)
    rows = {row["case"]: row for row in results["rows"] if not row["case"].startswith(other)}
    assert len(results["rows"]) - len(rows) - len(speeds) in (5, 6)
    for case, row in speeds.items():
        base, ours = rows[case.replace("speed", "do_mpc")], rows[case.replace("speed", "condensed")]
        assert row["step_cold"] == base["step_median"] / ours["step_median"]
    assert all(row["failed"] == 0 for row in rows.values())
    assert all(row["deviation"] <= 1e-3 for case, row in rows.items() if not case.endswith(("rti", "loose")))
    assert rows["n8_N8/condensed"]["iterations_max"] <= 6
    assert (tmp_path / "solve_times.png").exists()
