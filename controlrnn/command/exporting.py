"""Exports of a road's model and controller."""

from __future__ import annotations

from pathlib import Path

from controlrnn.errors import SettingError
from controlrnn.export import to_c, to_casadi, to_fmu, to_onnx
from controlrnn.records import write_atomic
from controlrnn.road import Road


def export_road(folder: Path, to: str, out: Path) -> list[Path]:
    """Write the model or the controller of a road in another format.

    Args:
        folder: The road's folder.
        to: ``"c"``, ``"casadi"``, ``"onnx"`` or ``"fmu"``.
        out: Folder to write to.

    Returns:
        The files.

    Raises:
        SettingError: A package that the format needs is missing.
        MissingDataError: The stages before it are not done.
    """
    road = Road(folder)
    if to == "c":
        from mpc import controller_to_c

        model = out / "model.c"
        to_c(road.system, model)
        return [*controller_to_c(road.controller(), out / "controller.c"), model, model.with_suffix(".h")]
    if to == "onnx":
        try:
            return [to_onnx(road.system, out / "model.onnx")]
        except ModuleNotFoundError as error:
            raise SettingError("ONNX needs a package: pip install 'controlrnn[onnx]'") from error
    if to == "casadi":
        return _casadi(road, out)
    predictor, start = road.predictor, road.observer.initial_state
    return [
        to_fmu(road.system, out / "model.fmu", inputs=predictor.inputs, outputs=predictor.outputs, initial_state=start)
    ]


def _casadi(road: Road, out: Path) -> list[Path]:
    """Functions of one step, as CasADi reads them with ``casadi.Function.deserialize``."""
    paths = []
    for name, function in zip(("step", "output"), to_casadi(road.system), strict=True):
        path = out / f"model_{name}.casadi"
        write_atomic(path, function.serialize().encode())
        paths.append(path)
    return paths
