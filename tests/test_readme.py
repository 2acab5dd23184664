"""What the README says is there is there, and its example runs."""

import re
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_example_runs(tmp_path, monkeypatch, capsys):
    """With fewer training steps: the example's promises hold for any model."""
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (printed,) = re.findall(r"It prints\n\n```text\n(.*?)```", README, re.DOTALL)
    assert example.count("steps=300") == 1
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "readme"}
    exec(compile(example.replace("steps=300", "steps=30"), "README.md", "exec"), names)
    assert names["fit"].scores["test"].fit_percent.min() > 80
    assert names["certificate"].verify(names["system"]) > 0
    assert (names["tightening"].total[1:] >= names["error"].bounds[1:]).all()
    assert names["run"].violations == 0
    assert np.all(names["run"].y.max() > 15)  # it does go towards the limit
    labels = [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]
    assert labels == [line.split(":")[0] for line in printed.splitlines()]


def test_files_folders_and_commands_exist():
    texts = README + (ROOT / "CONTRIBUTING.md").read_text()
    for link in re.findall(r"\]\(([^)#:]+)\)", texts):
        assert (ROOT / link).exists(), link
    for folder in re.findall(r"^\| `([\w/]+/)` \|", README, re.MULTILINE):
        assert (ROOT / folder).is_dir(), folder
    for module in re.findall(r"python -m (experiments\.\w+)", texts):
        path = ROOT / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or path.is_dir() or module == "experiments.NAME", module
    targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert set(re.findall(r"^make ([\w-]+)", texts, re.MULTILINE)) <= set(targets)
    assert (ROOT / "docs" / "closed_loop.png").stat().st_size < 150_000
