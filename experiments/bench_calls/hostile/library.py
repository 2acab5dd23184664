"""Calls of plants, data, systems, export, models and kernels."""

from __future__ import annotations

import enum
import importlib
import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

import mpc
import plants
from controlrnn import data, export, greybox, kernels, models, systems
from experiments.bench_calls.hostile.call import Call, again, call, first
from experiments.bench_calls.hostile.kit import Kit
from experiments.bench_calls.hostile.parts import NU, NX, NY, fields_of, signals
from plants import excitation
from plants.tanks import TankPlant


def plant_calls(_: Kit) -> Iterator[Call]:
    """Yield calls of plants and test signals."""
    tank = plants.MultiTank(2)
    u, x = np.tile(tank.nominal_input, (4, 1)), tank.initial_state()
    for make in (
        plants.MultiTank, plants.QuadrupleTank, plants.CascadedTanks, plants.MassSpringDamperChain, plants.Pendulum,
        plants.ReactionDiffusion,
    ):  # fmt: skip
        name, plant = f"plants.{make.__name__}", make()
        yield call(name, make, **fields_of(plant))
        at, held = plant.initial_state(), plant.nominal_input
        yield call(f"{name}.step", plant.step, 0.3, x=at, u=held, w=np.zeros(plant.nw))
        yield call(f"{name}.dynamics", plant.dynamics, x=at, u=held, w=np.zeros(plant.nw))
        yield call(f"{name}.output", plant.output, x=at, u=held)
        yield call(f"{name}.equilibrium", plant.equilibrium, u=held)
        yield call(f"{name}.equilibrium_input", plant.equilibrium_input, y=plant.output(at, held))
        yield call(f"{name}.checked_input", plant.checked_input, u=held)
        yield call(f"{name}.checked_state", plant.checked_state, x=at)
        if isinstance(plant, TankPlant):
            yield call(f"{name}.overflow", plant.overflow, x=at, u=held, w=np.zeros(plant.nw))
    chain = plants.MassSpringDamperChain(2)
    yield call("plants.MassSpringDamperChain.energy", chain.energy, x=chain.initial_state())
    yield call("plants.Pendulum.energy", plants.Pendulum().energy, x=np.zeros(2))
    yield call(
        "plants.simulate", plants.simulate, 0.3, plant=tank, u=u, x0=x, noise_std=0.1,
        disturbance=np.zeros((4, tank.nw)), seed=3,
    )  # fmt: skip
    yield call("plants.as_plant", first(plants.as_plant, lambda plant: plant.nx), process=tank)
    yield call("plants.to_casadi", first(plants.to_casadi, lambda f: np.array(f[0](x, u[0], np.zeros(tank.nw)))), 0.1,
               plant=tank, substeps=3)  # fmt: skip
    yield call("plants.Signal", plants.Signal, name="y", unit="m", lower=-1.0, upper=1.0,
                _infinite=("lower", "upper"))  # fmt: skip
    limits = ((0.0, 1.0), (-1.0, 2.0))
    yield call("plants.excitation.prbs", excitation.prbs, length=20, limits=limits, hold=2, order=4, seed=3)
    for hold in (3, (2, 4)):
        yield call("plants.excitation.random_steps", excitation.random_steps, length=20, limits=limits, hold=hold,
                    seed=3)  # fmt: skip
    yield call("plants.excitation.multisine", excitation.multisine, length=40, limits=limits, dt=0.5,
                band=(0.05, 0.6), seed=3)  # fmt: skip
    yield call("plants.excitation.register", excitation.register, order=4)


def data_calls(kit: Kit) -> Iterator[Call]:
    """Yield calls of records and scalers."""
    record, scaler = kit.records[0], data.Scaler(np.zeros(2), np.array([2.0, 3.0]))
    limited = {"lower", "upper"}
    frame = pd.DataFrame({"t [ms]": 500 * np.arange(40), "u": record.u[:, 0], "y": record.y[:, 0]})
    columns = {"inputs": ("u",), "outputs": ("y",), "time": "t", "dt": 0.5, "name": "r"}
    yield call("controlrnn.data.read_records", data.read_records, path=frame, **columns, _infinite={*limited, "y"})
    yield call("controlrnn.data.Trajectory.from_frame", data.Trajectory.from_frame, frame=frame, **columns,
                _infinite={*limited, "y"})  # fmt: skip
    yield call("controlrnn.data.check_data", data.check_data, 0.5, data=kit.records[:4],
                _infinite={*limited, "delays", "time_constants", "gains"})  # fmt: skip
    yield call("controlrnn.data.Reading", data.Reading, separator=";", decimal=",", encoding="utf-8", date_format="%Y",
                time_unit="ms", zone="UTC", missing=(-9999.0,), sort=True, jitter=0.1, longest_hold=3,
                longest_gap=5)  # fmt: skip
    yield call("controlrnn.data.Trajectory", data.Trajectory, u=record.u, y=record.y, dt=1.0, x=np.ones((40, 3)),
                inputs=signals("u", 2, 1.0), outputs=signals("y", 2, 1.0), name="r",
                _infinite={*limited, "y"})  # fmt: skip
    yield call("controlrnn.data.Trajectory.cut", record.__getitem__, window=slice(2, 9), _infinite={*limited, "y"})
    yield call("controlrnn.data.Dataset", data.Dataset, **fields_of(kit.dataset), _infinite=limited)
    yield call("controlrnn.data.Dataset.split", data.Dataset.split, records=kit.records, counts=(3, 2, 2, 2), seed=3,
                _infinite=limited)  # fmt: skip
    yield call("controlrnn.data.Scaler", data.Scaler, **fields_of(scaler))
    yield call("controlrnn.data.Scaler.identity", data.Scaler.identity, n=3)
    yield call("controlrnn.data.Scaler.fit", data.Scaler.fit, records=[record.u, record.y])
    yield call("controlrnn.data.Scaler.apply", scaler.apply, physical=record.u)
    yield call("controlrnn.data.Scaler.apply_measured", scaler.apply_measured, physical=record.u, _infinite={""})
    yield call("controlrnn.data.Dataset.from_record", data.Dataset.from_record, record=record,
                fractions=(0.5, 0.1, 0.1, 0.3), gap=2, pieces=2, _infinite={*limited, "y"})  # fmt: skip
    yield call("controlrnn.data.Scaler.invert", scaler.invert, scaled=record.u)
    yield call("controlrnn.data.Signal", data.Signal, name="y", unit="m", lower=-1.0, upper=1.0, _infinite=limited)


def system_calls(kit: Kit) -> Iterator[Call]:
    """Yield calls of both kinds of systems."""
    x, u, U = np.full(NX, 0.1), np.full(NU, 0.2), kit.records[0].u[:5]
    for system in (kit.system, kit.gated):
        name = f"controlrnn.systems.{type(system).__name__}"
        yield again(name, system)
        yield call(f"{name}.step", system.step, x=x, u=u)
        yield call(f"{name}.output", system.output, x=x, u=u)
        yield call(f"{name}.simulate", system.simulate, u=U, x0=x, _infinite=("",))
        scaler = data.Scaler(np.ones(2), np.full(2, 2.0))
        yield call(f"{name}.scaled", system.scaled, inputs=scaler, outputs=scaler)
        arrays, meta = system.record()
        yield call(f"{name}.from_record", lambda s=system, m=meta, **a: type(s).from_record(a, m), **arrays)
    yield call("controlrnn.systems.Neuron", systems.Neuron, law="signed_root", low=-1.0, high=2.0, width=0.1)
    yield call("controlrnn.systems.Laws", lambda neurons: len(systems.Laws(neurons)), neurons=["tanh", "identity"])
    yield call("controlrnn.systems.LureSystem.neurons", kit.system.neurons, x=x, drive=np.ones(NX))
    carried = systems.carry_input(kit.through)
    for name in ("carry_input", "without_feedthrough", "carries_input"):
        yield call(f"controlrnn.systems.{name}", getattr(systems, name), system=kit.through)
    yield call("controlrnn.systems.delay_input", systems.delay_input, system=kit.system)
    for name in ("just_after", "answers_through_neurons", "answers_late"):
        yield call(f"controlrnn.systems.{name}", getattr(systems, name), carried=carried)
    yield call("controlrnn.systems.change_system", systems.change_system, system=kit.system, delay=2)
    for package, function in (("controlrnn.systems", systems.observer_system), ("mpc", mpc.observer_system)):
        yield call(f"{package}.observer_system", function, system=kit.system, gain=np.full((NX, NY), 0.1))


def grey_calls(_: Kit) -> Iterator[Call]:
    """Yield calls of grey boxes."""
    k, b = (greybox.Parameter(name, 0.1, 0.0, 1.0, unit="1/s") for name in "kb")
    tank = greybox.Equations(
        dynamics=lambda x, u, p, ops: p["b"] * u - p["k"] * ops.sqrt(x), output=lambda x, u, p, ops: 1.0 * x,  # noqa: ARG005
        states=[data.Signal("level", "cm", 1.0, 60.0)], inputs=[data.Signal("pump", "L/min", 0.0, 4.0)],
        parameters=[k, b], dt=10.0, substeps=1,
    )  # fmt: skip
    system = greybox.trace(tank).system
    u = np.linspace(1.0, 3.0, 20)[:, None]
    record = data.Trajectory(u, system.simulate(u, np.array([20.0]))[0], 10.0)
    name = "controlrnn.greybox"
    yield call(f"{name}.Parameter", greybox.Parameter, **fields_of(k), _infinite=("lower", "upper", "deviation"))
    yield call(f"{name}.Equations", greybox.Equations, **fields_of(tank), _infinite=("lower", "upper", "deviation"))
    yield call(f"{name}.trace", first(greybox.trace, lambda t: t.system), 0.1, equations=tank,
                values={"k": 0.2, "b": 0.1})  # fmt: skip
    yield call(f"{name}.beyond_ranges", greybox.beyond_ranges, system=system, x=np.ones((20, 1)), u=u)
    yield call(f"{name}.FitOptions", greybox.FitOptions, **fields_of(greybox.FitOptions()))
    yield call(f"{name}.fit_equations", first(greybox.fit_equations, lambda f: f.system), 0.05, equations=tank,
                records=[record], options=greybox.FitOptions(iterations=3))  # fmt: skip


def export_calls(kit: Kit) -> Iterator[Call]:
    """Yield calls of exports and model files."""
    file = str(kit.folder / "system.npz")
    export.save_system(kit.system, file)
    yield call("controlrnn.export.to_casadi", first(export.to_casadi, _at_zero),
                0.3, system=kit.system, symbolic="SX")  # fmt: skip
    yield call("controlrnn.export.to_c", export.to_c, 0.1, system=kit.system, path=str(kit.folder / "m.c"), name="m",
                _spoils=("system", "name"))  # fmt: skip
    yield call("controlrnn.export.save_system", export.save_system, 0.1, system=kit.system, path=file,
                _spoils=("system",))  # fmt: skip
    yield call("controlrnn.export.load_system", export.load_system, 0.3, path=file)
    yield call("controlrnn.export.to_fmu", export.to_fmu, 0.03, system=kit.system, path=str(kit.folder / "m.fmu"),
                inputs=signals("u", NU, 1.0), outputs=signals("y", NY, 1.0), initial_state=np.zeros(NX),
                _spoils=("system", "inputs", "outputs", "initial_state"))  # fmt: skip
    yield call("controlrnn.export.to_onnx", export.to_onnx, 0.1, system=kit.system, path=str(kit.folder / "m.onnx"),
                _spoils=("system",))  # fmt: skip


def model_calls(_: Kit) -> Iterator[Call]:
    """Yield calls of every model's constructor."""
    more: dict[str, dict[str, Any]] = {
        "LipschitzREN": {"gamma": 2.0}, "LipschitzR2DN": {"gamma": 2.0}, "RobustRNN": {"gamma": 5.0},
        "DissipativeREN": {"Q": -np.eye(NY), "S": np.zeros((NU, NY)), "R": np.eye(NU)}, "LipschitzRNN": {},
    }  # fmt: skip
    for name in models.__all__:
        kind = getattr(models, name)
        if inspect.isabstract(kind) or name == "Model":
            continue
        signature = inspect.signature(kind).parameters
        given = {"nu": NU, "ny": NY, "nx": NX, "dt": 0.5, "seed": 3} | more.get(name, {})
        given |= {p: v.default for p, v in signature.items() if p not in given and v.default not in (v.empty, None)}
        if "rate" in given:
            given["rate"] = 0.9
        yield call(f"controlrnn.models.{name}", first(kind, lambda m: m.freeze()), 0.4, **given)
    model = models.Elman(nu=NU, ny=NY, nx=NX)
    scaler = data.Scaler(np.zeros(2), np.ones(2))
    yield call("controlrnn.models.Elman.set_units", model.set_units, inputs=scaler, outputs=scaler, dt=1.0)
    lti = models.LTI(nu=NU, ny=NY, nx=NX)
    yield call("controlrnn.models.LTI.start_linear", lti.start_linear, A=0.5 * np.eye(NX), B=np.ones((NX, NU)),
                C=np.ones((NY, NX)), D=np.zeros((NY, NU)))  # fmt: skip


def kernel_calls(kit: Kit) -> Iterator[Call]:
    """Yield calls of the compiled scans."""
    U, x = kit.records[0].u[:5], np.full(NX, 0.1)
    by_input = np.zeros((4, NU, 3))
    yield call("controlrnn.kernels.step", kernels.step, system=kit.system, x=x, u=U[0], _infinite=("",))
    yield call("controlrnn.kernels.output", kernels.output, system=kit.system, x=x, u=U[0], _infinite=("",))
    yield call("controlrnn.kernels.rollout", kernels.rollout, system=kit.system, u=U, x0=x, _infinite=("",))
    yield call("controlrnn.kernels.simulate", kernels.simulate, system=kit.system, u=U, x0=x, _infinite=("",))
    yield call("controlrnn.kernels.Recording", first(kernels.Recording, lambda r: (r.y, r.x)), system=kit.system,
                u=U[None], x0=x, _infinite=("",))  # fmt: skip
    yield call("controlrnn.kernels.Responses", first(kernels.Responses, lambda _: None), system=kit.system,
                by_input=by_input)  # fmt: skip
    yield call("controlrnn.kernels.Responses.run", lambda u, x0: kernels.Responses(kit.system, by_input).run(u, x0),
                u=U[:4], x0=x, _infinite=("y", "x", ""))  # fmt: skip


def enum_calls(package: str) -> Iterator[Call]:
    """Yield calls of the enums of a package."""
    module = importlib.import_module(package)
    for name in getattr(module, "__all__", ()):
        kind = getattr(module, name)
        if inspect.isclass(kind) and issubclass(kind, enum.Enum):
            yield call(f"{package}.{name}", kind, 0.3, value=str(next(iter(kind))) if issubclass(kind, str) else 0)


def _at_zero(functions: tuple[Any, Any]) -> Any:
    """The next state of a CasADi function, whatever its sizes."""
    return np.array(functions[0](*(np.zeros(functions[0].size1_in(i)) for i in range(2))))
