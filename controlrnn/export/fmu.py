"""Export of frozen systems as FMUs: FMI 2.0 for co-simulation, which Simulink, Dymola, OpenModelica and others read.

CasADi exports FMUs of differential equations (``casadi.DaeBuilder.export_fmu``: FMI 3.0, model exchange). A system in
discrete time is none; its FMU is the code of `to_c` with the interface of the standard around it. The sources are
inside, so that it can be compiled anew where the binary of this machine does not fit.

(Modelica Association, "Functional Mock-up Interface 2.0.4", sections 2.2, 4.2 and 4.3.)
"""

from __future__ import annotations

import io
import logging
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from string import Template
from xml.etree import ElementTree as Tree

import numpy as np

from controlrnn.checks import Array, as_array
from controlrnn.data import Signal
from controlrnn.errors import DataError, SettingError
from controlrnn.export.c_code import to_c
from controlrnn.records import digest, write_atomic
from controlrnn.systems import System
from controlrnn.typed import typed

_log = logging.getLogger(__name__)
_FLAGS = ("-std=c99", "-O2", "-shared", "-fPIC", "-fvisibility=hidden")
# Names of the standard for machines, and endings of their libraries (FMI 2.0.4, section 2.3).
_PLATFORMS = {
    ("linux", "x86_64"): ("linux64", ".so"), ("darwin", "x86_64"): ("darwin64", ".dylib"),
    ("win32", "AMD64"): ("win64", ".dll"),
}  # fmt: skip
_WHEN = (1980, 1, 1, 0, 0, 0)  # of all entries, so that the same system makes the same file


@typed()
def to_fmu(
    system: System,
    path: str | os.PathLike[str],
    *,
    inputs: Sequence[Signal] = (),
    outputs: Sequence[Signal] = (),
    initial_state: Array | None = None,
) -> Path:
    """Write a frozen system as an FMU for co-simulation, with its binary for this machine where a compiler is found.

    The state moves at the system's own samples; an input set at a sample is held until the next one. Communication
    steps may have any length. Initial states are parameters ``x0[1]``, ``x0[2]``, and so on. The description holds the
    ``digest`` that certificates name.

    Args:
        system: A frozen system; physical units.
        path: The file, ending in ``.fmu``; its stem, a C identifier, is the model's name. Parent folders are made.
        inputs: Signals that name the inputs, with their units; ``u1``, ``u2``, and so on when left out.
        outputs: Signals that name the outputs, likewise.
        initial_state: Initial state unless the simulator sets another one, shape (nx,); zero when left out.

    Returns:
        The path.

    Raises:
        SettingError: ``system`` is not frozen, ``path`` does not end in ``.fmu``, or its stem is no C identifier.
        DataError: There are more or fewer names than channels, or two of one name.
    """
    target = Path(path)
    if target.suffix != ".fmu":
        raise SettingError(f"path must end in .fmu, got {target.name!r}")
    if not system.is_frozen:
        raise SettingError("to_fmu needs a frozen system, got one of tensors: call model.freeze() first")
    first = np.zeros(system.nx) if initial_state is None else as_array("initial_state", initial_state, (system.nx,))
    channels = [*_named("inputs", inputs, system.nu, "u"), *_named("outputs", outputs, system.ny, "y")]
    names = [_readable(s.name) for s in channels]
    if len({*names}) != len(names) or any(name.startswith("x0[") for name in names):
        raise DataError(f"all channels must have names of their own, got {names}: rename some")
    with tempfile.TemporaryDirectory() as scratch:
        to_c(system, Path(scratch, f"{target.stem}.c"))  # refuses a stem that is no identifier
        code = {file.name: file.read_text() for file in sorted(Path(scratch).iterdir())}
        guid = digest({"first": first}, {"system": system.digest, "names": names, "units": [s.unit for s in channels]})
        words = {
            "name": target.stem, "NAME": target.stem.upper(), "nx": system.nx, "nu": system.nu, "ny": system.ny,
            "guid": guid, "first": ", ".join(repr(v) for v in first.tolist()),
        }  # fmt: skip
        wrapper = (resources.files("controlrnn.export") / "templates" / "fmi2.c").read_text()
        code["fmi2.c"] = Template(wrapper).substitute(words)
        Path(scratch, "fmi2.c").write_text(code["fmi2.c"])
        built = _built(Path(scratch), target.stem)
    entries = {"modelDescription.xml": _description(system, target.stem, guid, channels, first)}
    entries |= {f"sources/{name}": text.encode() for name, text in code.items()} | built
    return write_atomic(target, _zipped(entries))


def _named(kind: str, signals: Sequence[Signal], n: int, letter: str) -> tuple[Signal, ...]:
    if signals and len(signals) != n:
        raise DataError(f"{kind} must name {n} channels, got {len(signals)}")
    return tuple(signals) or tuple(Signal(f"{letter}{i + 1}") for i in range(n))


def _readable(text: str) -> str:
    """A text without characters that XML does not allow or that do not print."""
    return "".join(c if c.isprintable() else "_" for c in text)


def _built(folder: Path, name: str) -> dict[str, bytes]:
    """The binary of this machine by its path in the archive; none, with a warning, where there cannot be one."""
    place, ending = _PLATFORMS.get((sys.platform, platform.machine()), ("", ""))
    compiler = next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)
    if not place or compiler is None:
        _log.warning(
            "the FMU holds sources only: %s",
            "no C compiler was found" if place else "FMI 2.0 does not know this machine",
        )
        return {}
    command = [compiler, *_FLAGS, f"{name}.c", "fmi2.c", "-o", f"{name}{ending}", "-lm"]
    done = subprocess.run(command, cwd=folder, check=False, capture_output=True, text=True)
    if done.returncode:
        _log.warning("the FMU holds sources only: the compiler %s failed: %s", compiler, done.stderr[-2000:])
        return {}
    return {f"binaries/{place}/{name}{ending}": (folder / f"{name}{ending}").read_bytes()}


def _description(system: System, name: str, guid: str, channels: Sequence[Signal], first: Array) -> bytes:
    """The model description (section 2.2)."""
    root = Tree.Element(
        "fmiModelDescription",
        {
            "fmiVersion": "2.0",
            "modelName": name,
            "guid": guid,
            "generationTool": "controlrnn",
            "description": f"Discrete-time model, sample time {system.dt!r} s, digest {system.digest}",
            "variableNamingConvention": "flat",
            "numberOfEventIndicators": "0",
        },
    )
    simulation = Tree.SubElement(
        root,
        "CoSimulation",
        {
            "modelIdentifier": name,
            "canHandleVariableCommunicationStepSize": "true",
            "canGetAndSetFMUstate": "true",
            "canBeInstantiatedOnlyOncePerProcess": "false",
        },
    )
    files = Tree.SubElement(simulation, "SourceFiles")
    for file in (f"{name}.c", "fmi2.c"):
        Tree.SubElement(files, "File", {"name": file})
    units = [unit for unit in dict.fromkeys(_readable(s.unit) for s in channels) if unit]
    if units:
        definitions = Tree.SubElement(root, "UnitDefinitions")
        for unit in units:
            Tree.SubElement(definitions, "Unit", {"name": unit})
    Tree.SubElement(root, "DefaultExperiment", {"startTime": "0.0", "stepSize": repr(system.dt)})
    variables = Tree.SubElement(root, "ModelVariables")
    for k, signal in enumerate(channels):
        kind = "input" if k < system.nu else "output"
        given = {"name": _readable(signal.name), "valueReference": str(k), "causality": kind, "variability": "discrete"}
        one = Tree.SubElement(variables, "ScalarVariable", given)
        real = {"unit": _readable(signal.unit)} if signal.unit else {}
        Tree.SubElement(one, "Real", real | ({"start": "0.0"} if kind == "input" else {}))
    for k, value in enumerate(first.tolist()):
        given = {"name": f"x0[{k + 1}]", "valueReference": str(len(channels) + k), "causality": "parameter"}
        one = Tree.SubElement(variables, "ScalarVariable", given | {"variability": "fixed", "initial": "exact"})
        Tree.SubElement(one, "Real", {"start": repr(value)})
    structure = Tree.SubElement(root, "ModelStructure")
    own = " ".join(str(k + 1) for k in range(system.nu)) if system.has_feedthrough else ""
    for part, more in (("Outputs", {"dependencies": own}), ("InitialUnknowns", {})):
        group = Tree.SubElement(structure, part)
        for k in range(system.ny):
            Tree.SubElement(group, "Unknown", {"index": str(system.nu + k + 1), **more})
    Tree.indent(root)
    return b'<?xml version="1.0" encoding="UTF-8"?>\n' + Tree.tostring(root, encoding="unicode").encode() + b"\n"


def _zipped(entries: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in entries.items():
            archive.writestr(zipfile.ZipInfo(name, _WHEN), content, zipfile.ZIP_DEFLATED)
    return buffer.getvalue()
