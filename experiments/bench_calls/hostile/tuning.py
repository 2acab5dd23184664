"""Calls of `controlrnn.tune`."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any

from controlrnn import tune
from experiments.bench_calls.hostile.call import Call, call
from experiments.bench_calls.hostile.kit import Kit


def tuning_calls(kit: Kit) -> Iterator[Call]:
    """Yield calls of spaces, results and a short search."""
    at = "controlrnn.tune"
    space = {"weight": tune.Real(0.1, 10.0, log=True), "horizon": tune.Whole(2, 9), "model": tune.Choice(("a", "b"))}
    yield call(f"{at}.Real", tune.Real, low=0.1, high=10.0, log=True)
    yield call(f"{at}.Whole", tune.Whole, low=2, high=9, log=False)
    yield call(f"{at}.Choice", tune.Choice, of=("a", "b"))
    found = {"cost": 1.5, "conservatism": 0.1, "solve_time": 1e-3}
    yield call(f"{at}.TradeOff", tune.TradeOff, **found)
    trial: dict[str, Any] = {"number": 1, "setting": {"weight": 0.5}, "found": tune.TradeOff(**found), "refused": ""}
    yield call(f"{at}.Trial", tune.Trial, **trial)
    yield call(f"{at}.Tuning", tune.Tuning, trials=(tune.Trial(**trial),))

    def search(**given: Any) -> tune.Tuning:
        return tune.tune(storage=kit.folder / f"{uuid.uuid4().hex}.db", **given)  # each call begins anew

    yield call(f"{at}.tune", search, 0.02, evaluate=_worth, space=space, trials=2, name="search", seed=3, workers=1,
               progress=None, _spoils=("space", "evaluate", "name", "seed"))  # fmt: skip


def _worth(setting: Mapping[str, Any]) -> tune.TradeOff:
    return tune.TradeOff(float(setting["weight"]), 0.1 * setting["horizon"], 1e-3)
