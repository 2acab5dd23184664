"""Starting a model at a linear one, shared by every model with parameters B2, C2, D22, bx, by."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from controlrnn.checks import Array, as_array
from controlrnn.errors import SettingError


@torch.no_grad()
def put_linear(model: Any, A: Array, B: Array, C: Array, D: Array | None = None) -> None:
    """Set the input and output maps of ``model`` to those of a linear model; its state map is set already.

    Args:
        model: A module with parameters ``B2, C2, D22`` (None: no feedthrough) and ``bx, by``.
        A: State map that was set, shape (nx, nx); only its shape matters here.
        B: Shape (nx, nu).
        C: Shape (ny, nx).
        D: Shape (ny, nu); None for zero.

    Raises:
        SettingError: ``D`` is not zero and the model has no feedthrough.
    """
    nx = len(A)
    B, C = as_array("B", B, (nx, model.nu)), as_array("C", C, (model.ny, nx))
    D = np.zeros((model.ny, model.nu)) if D is None else as_array("D", D, (model.ny, model.nu))
    if model.D22 is None and D.any():
        raise SettingError("the linear model has a feedthrough D, the network has none: pass feedthrough=True")
    model.B2.copy_(torch.as_tensor(B))
    model.C2.copy_(torch.as_tensor(C))
    if model.D22 is not None:
        model.D22.copy_(torch.as_tensor(D))
    model.bx.zero_()
    model.by.zero_()
