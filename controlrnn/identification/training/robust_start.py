"""Start of a robust RNN (2020) close to any linear model, also to one whose gain is above the model's bound.

Revay, Wang, Manchester, "A convex parameterization of robust recurrent neural networks", IEEE L-CSS 2020, sec. V: the
linear model, from a subspace method, draws samples of its own state map; a semidefinite program finds the network of
the convex set that reproduces them best. `RobustRNN.start_linear` is exact and cheaper where the linear model lies in
the set; this one also uses the neurons, and finds the nearest member where it does not.
"""

from __future__ import annotations

import numpy as np
import torch

from controlrnn.certification.search import sdp
from controlrnn.checks import Array, as_array, count
from controlrnn.errors import CertificationError
from controlrnn.models import RobustRNN
from controlrnn.systems.ops import NUMPY
from controlrnn.typed import typed


@typed()
def start_robust_rnn(
    model: RobustRNN,
    A: Array,
    B: Array,
    C: Array,
    D: Array | None = None,
    *,
    samples: int = 2000,
    spread: float = 3.0,
    seed: int = 0,
    solver: str = "CLARABEL",
) -> None:
    """Set ``model`` to the network of its set that is closest to a linear model, given in scaled units.

    Args:
        model: The model, changed in place; its neurons keep their directions.
        A: State map, shape (nx, nx).
        B: Input map, shape (nx, nu).
        C: Output map, shape (ny, nx).
        D: Feedthrough, shape (ny, nu); None for zero.
        samples: Number of states and inputs to draw.
        spread: Standard deviation of both.
        seed: Seed of the samples.
        solver: cvxpy's name of the solver.

    Raises:
        CertificationError: The solver failed, or its answer does not lie inside the set.
    """
    nx, nu, ny = model.nx, model.nu, model.ny
    A, B, C = as_array("A", A, (nx, nx)), as_array("B", B, (nx, nu)), as_array("C", C, (ny, nx))
    D = np.zeros((ny, nu)) if D is None else as_array("D", D, (ny, nu))
    rng = np.random.default_rng(seed)
    x, u = (spread * rng.normal(size=(count("samples", samples), n)) for n in (nx, nu))
    with torch.no_grad():
        explicit = model.system().frozen()
    w = model.activation.apply(NUMPY, x @ explicit.C1.T + u @ explicit.D12.T + explicit.bv)
    with np.errstate(over="ignore", invalid="ignore"):  # refused by the search
        data = {"next": x @ A.T + u @ B.T, "x": x, "u": u, "w": w, "y": x @ C.T + u @ D.T}
    found = sdp.fit_robust_rnn(
        data, explicit.C1, explicit.D12, model.gamma, model.rate, model.D22 is not None, solver=solver
    )
    before = [p.detach().clone() for p in model.parameters()]
    # The inequality may be scaled: give E the mean eigenvalue one, as `RobustRNN` starts with.
    c = nx / float(np.trace(found["E"]))
    inner = {name: c * found[name] for name in ("E", "P", "F", "B1", "B2", "L")}
    drive = {"C1": inner["L"][:, None] * explicit.C1, "D12": inner["L"][:, None] * explicit.D12}
    outer = {name: found[name] for name in ("C2", "D21", "D22", "bx", "by")}
    model.put(c, **inner, **drive, **outer)
    if not model.is_feasible():
        with torch.no_grad():
            for p, old in zip(model.parameters(), before, strict=True):
                p.copy_(old)
        raise CertificationError("the solver's network does not lie inside the set: raise gamma or the rate")
