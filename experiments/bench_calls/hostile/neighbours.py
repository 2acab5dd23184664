"""Calls of `controlrnn.exchange`."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np

from controlrnn import exchange, export
from experiments.bench_calls.hostile.call import Call, call, first
from experiments.bench_calls.hostile.kit import Kit
from experiments.bench_calls.hostile.parts import NU, NY, signals


def exchange_calls(kit: Kit) -> Iterator[Call]:
    """Yield calls of everything that comes from other libraries or goes there."""
    at, linear = "controlrnn.exchange", kit.linear
    for result in (kit.records[0], kit.dataset, kit.loop, kit.best, kit.tightening):
        for name in ("to_frame", "to_xarray"):
            yield call(f"{at}.{name}", first(getattr(exchange, name), lambda table: len(table)), 0.1, result=result)
    model = SimpleNamespace(A=0.5 * np.eye(2), B=np.ones((2, NU)), C=np.ones((NY, 2)), D=np.zeros((NY, NU)), dt=0.5)
    yield call(f"{at}.from_state_space", exchange.from_state_space, model=model, input_offset=np.ones(NU),
                output_offset=np.ones(NY))  # fmt: skip
    yield call(f"{at}.to_state_space", first(exchange.to_state_space, lambda g: np.array(g.A)), 0.3, system=linear,
                deviations=True, inputs=signals("u", linear.nu, 1.0),
                outputs=signals("y", linear.ny, 1.0))  # fmt: skip
    path = str(kit.folder / "read.onnx")
    export.to_onnx(kit.system, path)
    yield call(f"{at}.from_onnx", exchange.from_onnx, 0.1, path=path, dt=0.5, state="x", input="u",
                next_state="x_next", output="y")  # fmt: skip
