"""Valid calls of all public names, and hostile values that replace one of their arguments at a time."""

from __future__ import annotations

import importlib
import inspect
from typing import Any

from experiments.bench_calls.hostile.call import Call
from experiments.bench_calls.hostile.certification import certification_calls
from experiments.bench_calls.hostile.control import control_functions, control_parts, loop_calls
from experiments.bench_calls.hostile.control_methods import control_methods
from experiments.bench_calls.hostile.identification import identification_calls
from experiments.bench_calls.hostile.kit import Kit
from experiments.bench_calls.hostile.library import (
    data_calls,
    enum_calls,
    export_calls,
    grey_calls,
    kernel_calls,
    model_calls,
    plant_calls,
    system_calls,
)
from experiments.bench_calls.hostile.neighbours import exchange_calls
from experiments.bench_calls.hostile.reports import report_calls
from experiments.bench_calls.hostile.road import road_calls
from experiments.bench_calls.hostile.tuning import tuning_calls

PACKAGES = (
    "plants", "plants.excitation", "controlrnn.data", "controlrnn.systems", "controlrnn.export",
    "controlrnn.exchange", "controlrnn.greybox", "controlrnn.report",
    "controlrnn.identification", "controlrnn.certification", "controlrnn.models", "controlrnn.kernels",
    "controlrnn.road", "controlrnn.tune", "mpc",
)  # fmt: skip
# Public names that no user calls with arguments: protocols, base classes, and plain containers that are made anew
# at every step of a controller, solver or optimiser.
UNCALLED = {
    "plants": ("PLANTS", "Plant", "excitation"),
    "plants.excitation": ("TAPS",),
    "controlrnn.data": ("Advice", "DataReport", "Dynamics", "Finding"),
    "controlrnn.systems": ("MATRICES", "System"),
    "controlrnn.identification": ("Batch", "Callback", "Loss", "Options", "Simulation", "Term"),
    "controlrnn.certification": ("Certificate",),
    "controlrnn.models": ("Model",),
    "controlrnn.greybox": ("GreyBoxFit", "Traced"),
    "controlrnn.road": ("Draft", "Entry", "RoadFile", "Verdict"),
    "controlrnn.tune": ("Dimension",),
    "mpc": (
        "ActuatorFault",
        "Backend",
        "EstimateInfo",
        "Fault",
        "GuardedObserver",
        "MpcStep",
        "Observer",
        "SensorFault",
        "Solution",
        "StepData",
        "operate",  # needs a server: tests/mpc/online
    ),
}


def calls(kit: Kit) -> list[Call]:
    """Yield one or more calls of every public name."""
    found: list[Call] = []
    for part in (
        plant_calls,
        data_calls,
        system_calls,
        grey_calls,
        report_calls,
        exchange_calls,
        tuning_calls,
        export_calls,
        model_calls,
        kernel_calls,
        identification_calls,
        certification_calls,
        control_parts,
        control_functions,
        loop_calls,
        control_methods,
        road_calls,
    ):
        found += part(kit)
    return found + [c for package in PACKAGES for c in enum_calls(package)]


def uncalled(known: list[Call]) -> list[str]:
    """Public names without a call."""
    named = {call.name for call in known}
    missing = []
    for package in PACKAGES:
        module = importlib.import_module(package)
        public = getattr(module, "__all__", None) or [n for n, v in vars(module).items() if _own(module, n, v)]
        for name in public:
            full = f"{package}.{name}"
            if name not in UNCALLED.get(package, ()) and not any(n == full or n.startswith(f"{full}.") for n in named):
                missing.append(full)
    return missing


def _own(module: Any, name: str, value: Any) -> bool:
    return not name.startswith("_") and inspect.isfunction(value) and value.__module__ == module.__name__
