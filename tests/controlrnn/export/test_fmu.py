"""FMUs are valid, and behave in a simulator of others as the systems that they are made of."""

import shutil
import sys
import zipfile
from xml.etree import ElementTree

import numpy as np
import pytest
from random_systems import random_system

from controlrnn.data import Signal
from controlrnn.errors import DataError, SettingError
from controlrnn.export import to_fmu
from controlrnn.models import GRU

fmpy = pytest.importorskip("fmpy", reason="fmpy is not installed")
from fmpy.validation import validate_fmu  # noqa: E402

pytestmark = pytest.mark.skipif(
    not (shutil.which("cc") and sys.platform == "linux"), reason="an FMU needs a C compiler, and this test Linux"
)


def simulated(path, u, dt, *, step=None, stop=None, start=None, names=("u1", "u2"), outputs=("y1", "y2")):
    """Outputs at the communication points, by a simulator that is not ours."""
    held = [(k * dt, *row) for k, row in enumerate(u)]
    signals = np.array(held, dtype=[("time", float), *((name, float) for name in names)])
    found = fmpy.simulate_fmu(
        str(path),
        stop_time=stop or (len(u) - 1) * dt,
        step_size=step or dt,
        output_interval=step or dt,
        input=signals,
        start_values=start or {},
        output=list(outputs),
        fmi_type="CoSimulation",
    )
    return found["time"], np.stack([found[name] for name in outputs], axis=1)


@pytest.mark.parametrize("feedthrough", [False, True])
@pytest.mark.parametrize("layers", [(4,), (2, 3)])
def test_another_simulator_finds_the_same_outputs(tmp_path, layers, feedthrough):
    system = random_system(2, layers=layers, feedthrough=feedthrough)
    path = to_fmu(system, tmp_path / "plant.fmu", initial_state=[1.0, -2.0, 0.5])
    assert validate_fmu(str(path)) == []
    u = np.random.default_rng(0).normal(size=(12, 2))
    time, y = simulated(path, u, system.dt)
    np.testing.assert_allclose(time, np.arange(12) * system.dt)
    ours = system.simulate(u, np.array([1.0, -2.0, 0.5]))
    if not feedthrough:
        np.testing.assert_allclose(y, ours[0], rtol=1e-12, atol=1e-12)
    else:  # at a communication point the simulator reads before it sets the next input
        before = np.vstack([u[:1], u[:-1]])
        read = [system.output(x, held) for x, held in zip(ours[1], before, strict=False)]
        np.testing.assert_allclose(y[1:], read[1:], rtol=1e-12, atol=1e-12)


def test_steps_of_any_length_end_at_the_same_states(tmp_path):
    system = random_system(5, feedthrough=False)
    path = to_fmu(system, tmp_path / "plant.fmu")
    u = np.tile([[0.3, -0.4]], (9, 1))
    whole = system.simulate(u)[0]
    for step, each in ((system.dt / 4, 4), (system.dt / 3, 3)):
        _, y = simulated(path, u, system.dt, step=step)
        np.testing.assert_allclose(y[::each], whole, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(y[1], whole[0], rtol=1e-9)  # nothing moves between two samples
    _, y = simulated(path, u, system.dt, step=2 * system.dt)
    np.testing.assert_allclose(y, whole[::2], rtol=1e-9, atol=1e-9)


def test_initial_states_are_parameters_and_units_are_told(tmp_path):
    system = random_system(1, feedthrough=False)
    signals = (Signal("pump <1>", "L/min"), Signal('valve "a"&b', "%"))
    path = to_fmu(system, tmp_path / "tank.fmu", inputs=signals, outputs=[Signal("level", "m"), Signal("flow\x00")])
    assert validate_fmu(str(path)) == []
    described = fmpy.read_model_description(str(path))
    assert [v.name for v in described.modelVariables][:4] == ["pump <1>", 'valve "a"&b', "level", "flow_"]
    assert {v.name: v.unit for v in described.modelVariables}["level"] == "m"
    assert system.digest in described.description
    assert described.defaultExperiment.stepSize == repr(system.dt)
    x0 = np.array([0.1, 0.2, 0.3])
    start = {f"x0[{k + 1}]": v for k, v in enumerate(x0)}
    _, y = simulated(
        path, np.zeros((5, 2)), system.dt, start=start, names=[s.name for s in signals], outputs=["level", "flow_"]
    )
    np.testing.assert_allclose(y, system.simulate(np.zeros((5, 2)), x0)[0], rtol=1e-12, atol=1e-12)


def test_gated_cells_are_exported_too(tmp_path):
    gated = GRU(nu=1, ny=1, nx=3, dt=0.5, seed=0).freeze()
    path = to_fmu(gated, tmp_path / "gru.fmu")
    u = np.random.default_rng(0).normal(size=(8, 1))
    _, y = simulated(path, u, gated.dt, names=["u1"], outputs=["y1"])
    ours, states = gated.simulate(u)
    read = (
        ours
        if not gated.has_feedthrough
        else [gated.output(x, held) for x, held in zip(states, np.vstack([u[:1], u[:-1]]), strict=False)]
    )
    np.testing.assert_allclose(y[1:], read[1:], rtol=1e-9, atol=1e-9)


def test_the_sources_are_inside_and_the_file_is_the_same_each_time(tmp_path):
    one, two = (to_fmu(random_system(0), tmp_path / folder / "m.fmu").read_bytes() for folder in "ab")
    with zipfile.ZipFile(tmp_path / "a" / "m.fmu") as archive:
        names = archive.namelist()
        assert set(names) == {
            "modelDescription.xml",
            "sources/m.c",
            "sources/m.h",
            "sources/fmi2.c",
            "binaries/linux64/m.so",
        }
        root = ElementTree.fromstring(archive.read("modelDescription.xml"))
        assert [f.get("name") for f in root.iter("File")] == ["m.c", "fmi2.c"]
    with zipfile.ZipFile(tmp_path / "b" / "m.fmu") as archive:
        assert archive.namelist() == names
    assert len(one) == len(two)


def test_without_a_compiler_there_are_sources_and_a_warning(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(shutil, "which", lambda _: None)
    path = to_fmu(random_system(0), tmp_path / "m.fmu")
    assert "sources only: no C compiler" in caplog.text
    with zipfile.ZipFile(path) as archive:
        assert not [name for name in archive.namelist() if name.startswith("binaries")]


def test_wrong_calls_are_refused(tmp_path):
    system = random_system(0)
    for name in ("m.zip", "1m.fmu", "a b.fmu", "m;.fmu"):
        with pytest.raises(SettingError):
            to_fmu(system, tmp_path / name)
    with pytest.raises(DataError, match="name 2 channels"):
        to_fmu(system, tmp_path / "m.fmu", inputs=[Signal("a")])
    with pytest.raises(DataError, match="names of their own"):
        to_fmu(system, tmp_path / "m.fmu", inputs=[Signal("a"), Signal("a")])
    with pytest.raises(DataError, match="names of their own"):
        to_fmu(system, tmp_path / "m.fmu", inputs=[Signal("x0[1]"), Signal("a")])
    with pytest.raises(SettingError, match="frozen"):
        to_fmu(GRU(nu=1, ny=1, nx=2, dt=1.0, seed=0).system(), tmp_path / "m.fmu")
    assert not list(tmp_path.iterdir())
