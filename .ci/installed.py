"""Tries an installed wheel: run it outside of the checkout, with the interpreter that the wheel was installed for."""

import importlib
import tempfile
from importlib import resources
from pathlib import Path

PACKAGES = (
    "plants", "controlrnn.data", "controlrnn.systems", "controlrnn.models", "controlrnn.kernels", "controlrnn.export",
    "controlrnn.identification", "controlrnn.certification", "controlrnn.records", "mpc",
)  # fmt: skip

for package in PACKAGES:
    module = importlib.import_module(package)
    assert "site-packages" in (module.__file__ or ""), f"{package} comes from {module.__file__}: leave the checkout"
for package in ("plants", "controlrnn", "mpc"):
    assert resources.files(package).joinpath("py.typed").is_file(), f"{package} says nothing of its types"

from controlrnn.models import ContractingR2DN  # noqa: E402
from mpc import Predictor, TightenedMPC, Washout, controller_to_c, nominal  # noqa: E402
from plants import MultiTank  # noqa: E402

system = ContractingR2DN(nu=1, ny=1, nx=2, nv=2, layers=(3,), seed=0).freeze()
tank = MultiTank(1)
predictor = Predictor(system, tank.inputs, tank.outputs)
controller = TightenedMPC(
    predictor, Washout(predictor, 5), nominal(system.digest, 5, 1), output_weight=1.0, input_move_weight=1.0
)
with tempfile.TemporaryDirectory() as folder:
    written = controller_to_c(controller, Path(folder) / "controller.c")
    assert any(Path(folder).iterdir()), written
