"""Tries an installed wheel: run it outside of the checkout, with the interpreter that the wheel was installed for."""

import importlib
import subprocess
import sysconfig
import tempfile
from importlib import resources
from pathlib import Path

PACKAGES = (
    "plants", "controlrnn.data", "controlrnn.systems", "controlrnn.models", "controlrnn.kernels", "controlrnn.export",
    "controlrnn.identification", "controlrnn.certification", "controlrnn.records", "controlrnn.report",
    "controlrnn.road", "controlrnn.command", "mpc",
)  # fmt: skip


def installed() -> None:
    """Every package comes from where packages are installed, with its types."""
    for package in PACKAGES:
        module = importlib.import_module(package)
        assert "site-packages" in (module.__file__ or ""), f"{package} comes from {module.__file__}: leave the checkout"
    for package in ("plants", "controlrnn", "mpc"):
        assert resources.files(package).joinpath("py.typed").is_file(), f"{package} says nothing of its types"


def commands() -> None:
    """The console command is where commands are installed."""
    command = Path(sysconfig.get_path("scripts")) / "controlrnn"
    said = subprocess.run([command, "--version"], check=True, capture_output=True, text=True).stdout
    assert said.startswith("controlrnn "), said


def works() -> None:
    """A certificate is made, read back and verified; a controller's C code, whose templates are data, is written."""
    from controlrnn.certification import certify_contraction, load_certificate
    from controlrnn.models import ContractingR2DN
    from mpc import Predictor, TightenedMPC, Tracking, Washout, controller_to_c, no_tightening
    from plants import MultiTank

    tank = MultiTank(1)
    system = ContractingR2DN(nu=1, ny=1, nx=2, nv=2, layers=(3,), dt=tank.dt, seed=0).freeze()
    predictor = Predictor(system, tank.inputs, tank.outputs)
    certificate = certify_contraction(predictor.system)
    controller = TightenedMPC(
        predictor,
        Washout(predictor, 5, contraction=certificate),
        no_tightening(predictor.system.digest, 5, 1),
        Tracking(output_weight=1.0, input_move_weight=1.0),
    )
    with tempfile.TemporaryDirectory() as folder:
        certificate.save(Path(folder) / "certificate.npz")
        assert load_certificate(Path(folder) / "certificate.npz").verify(predictor.system) > 0
        assert all(path.stat().st_size for path in controller_to_c(controller, Path(folder) / "controller.c"))


if __name__ == "__main__":
    installed()
    commands()
    works()
