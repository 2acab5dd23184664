# mypy: disable-error-code="import-not-found"
# ruff: noqa: ARG001 (every library is asked in the same way)
"""A peer's side of `experiments.bench_scan`: times one library on request, in the peers' own environment.

Reads one JSON request a line, {"library", "kind", "nx", "nv", "layers", "steps", "batch", "least", "seconds"}, answers
with {"ms": [...]} or {"note": why not}. Gradients of mean(y^2) with respect to all matrices, float32.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from functools import cache
from typing import Any

import numpy as np

Gradient = Callable[[], Any]


def draw(rng: np.random.Generator, *shape: int) -> Any:
    return (rng.normal(size=shape) * 0.3 / max(1, shape[-1]) ** 0.5).astype(np.float32)


def jax_gradient(kind: str, nx: int, nv: int, layers: list[int], steps: int, batch: int) -> Gradient:
    """Gradient through ``jax.lax.scan`` under jit; a REN's triangular layer is a scan over its neurons."""
    import jax
    import jax.numpy as jnp

    rng = np.random.default_rng(0)
    u = jnp.asarray(rng.normal(size=(steps, batch, 1)).astype(np.float32))
    if kind == "elman":
        p = {
            "W": draw(rng, nx, nx),
            "U": draw(rng, nx, 1),
            "b": draw(rng, nx),
            "C2": draw(rng, 1, nx),
            "by": draw(rng, 1),
        }
    else:
        shapes = {"A": (nx, nx), "B1": (nx, nv), "B2": (nx, 1), "bx": (nx,), "C1": (nv, nx), "D11": (nv, nv),
                  "D12": (nv, 1), "bv": (nv,), "C2": (1, nx), "D21": (1, nv), "D22": (1, 1), "by": (1,)}  # fmt: skip
        p = {name: draw(rng, *shape) for name, shape in shapes.items()}
    if kind == "ren":
        p["D11"] = np.tril(p["D11"], -1)

    def neurons(p: Any, v: Any) -> Any:
        if kind == "ren":

            def neuron(w: Any, i: Any) -> Any:
                return w.at[:, i].set(jnp.tanh(v[:, i] + w @ p["D11"][i])), None

            return jax.lax.scan(neuron, jnp.zeros_like(v), jnp.arange(nv))[0]
        done: list[Any] = []
        start = 0
        for n in layers:
            z = v[:, start : start + n]
            if done:
                z = z + jnp.concatenate(done, 1) @ p["D11"][start : start + n, :start].T
            done.append(jnp.tanh(z))
            start += n
        return jnp.concatenate(done, 1)

    def loss(p: Any, u: Any) -> Any:
        def step(x: Any, u: Any) -> Any:
            if kind == "elman":
                return jnp.tanh(x @ p["W"].T + u @ p["U"].T + p["b"]), x @ p["C2"].T + p["by"]
            w = neurons(p, x @ p["C1"].T + u @ p["D12"].T + p["bv"])
            y = x @ p["C2"].T + w @ p["D21"].T + u @ p["D22"].T + p["by"]
            return x @ p["A"].T + w @ p["B1"].T + u @ p["B2"].T + p["bx"], y

        return (jax.lax.scan(step, jnp.zeros((batch, nx), jnp.float32), u)[1] ** 2).mean()

    compiled, p = jax.jit(jax.value_and_grad(loss)), {name: jnp.asarray(value) for name, value in p.items()}
    return lambda: jax.block_until_ready(compiled(p, u))


def tsfast_gradient(kind: str, nx: int, nv: int, layers: list[int], steps: int, batch: int) -> Gradient:
    """Gradient through tsfast's rollouts of explicit matrices.

    A C++ kernel for a REN, eager on a CPU for an R2DN.
    """
    import torch
    from tsfast.models.architectures.ren.core import REN, fused_rollout
    from tsfast.models.architectures.ren.r2dn import R2DNCore, R2DNSpec

    def leaf(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            return value.detach().clone().requires_grad_()
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return dataclasses.replace(
                value, **{f.name: leaf(getattr(value, f.name)) for f in dataclasses.fields(value)}
            )
        return type(value)(leaf(v) for v in value) if isinstance(value, tuple | list) else value

    torch.manual_seed(0)
    u, x0 = torch.randn(batch, steps, 1), torch.zeros(batch, nx)
    if kind == "ren":
        model = REN(1, 1, n_state=nx, n_nl=nv)
        explicit = leaf(model.core.explicit())
        return lambda: fused_rollout(model.spec, u, x0, explicit)[0].square().mean().backward()
    core = R2DNCore(R2DNSpec(nx, 1, 1, 16, tuple(layers), "contracting", 1.0, "tanh"))
    explicit = leaf(core.explicit())
    return lambda: core.rollout(explicit, u, x0)[0].square().mean().backward()


def neural_ssm_gradient(kind: str, nx: int, nv: int, layers: list[int], steps: int, batch: int) -> Gradient:
    """Gradient through neural-ssm's REN.

    It maps its parameters to matrices in every call, which is small beside its loops.
    """
    import torch
    from neural_ssm.rens.ren import REN

    torch.manual_seed(0)
    model, u = REN(1, 1, nx, nv, initialization_std=0.1), torch.randn(batch, steps, 1)
    return lambda: model(u).square().mean().backward()


LIBRARIES = {
    "jax": (jax_gradient, ("elman", "ren", "r2dn")),
    "tsfast": (tsfast_gradient, ("ren", "r2dn")),
    "neural-ssm": (neural_ssm_gradient, ("ren",)),
}


@cache
def prepared(library: str, kind: str, nx: int, nv: int, layers: tuple[int, ...], steps: int, batch: int) -> Gradient:
    gradient = LIBRARIES[library][0](kind, nx, nv, list(layers), steps, batch)
    gradient()  # compiles
    return gradient


def timings(gradient: Gradient, least: int, seconds: float) -> Iterator[float]:
    """Measure repeated calls [ms], ``least`` of them at least and for about ``seconds``."""
    count, began = 0, time.perf_counter()
    while count < least or time.perf_counter() - began < seconds:
        start = time.perf_counter()
        gradient()
        yield 1e3 * (time.perf_counter() - start)
        count += 1


def answer(request: dict[str, Any]) -> dict[str, Any]:
    least, seconds, library = request.pop("least"), request.pop("seconds"), request["library"]
    if request["kind"] not in LIBRARIES[library][1]:
        return {"note": "has no such model"}
    request["layers"] = tuple(request["layers"])
    try:
        return {"ms": list(timings(prepared(**request), least, seconds))}
    except (ImportError, RuntimeError) as error:
        return {"note": f"{type(error).__name__}: {error}"[:200]}


def main() -> None:
    """Serve requests until the input ends; ``sys.argv[1]`` is the number of threads."""
    threads = int(sys.argv[1])
    cpus = sorted(os.sched_getaffinity(0))[:threads]
    os.sched_setaffinity(0, cpus)  # the only way to make jax use fewer threads
    os.environ |= {"OMP_NUM_THREADS": str(threads), "JAX_PLATFORMS": "cpu"}
    reply = sys.stdout
    for line in sys.stdin:
        with redirect_stdout(sys.stderr):
            result = answer(json.loads(line))
        print(json.dumps(result), file=reply, flush=True)


if __name__ == "__main__":
    main()
