"""Outline of an identification study on a benchmark with one long training record: baselines, networks, medians."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from controlrnn.data import Dataset, benchmarks
from controlrnn.models import Model
from controlrnn.systems import LureSystem
from experiments.shared.identification import linear_baselines, medians, networks, whole_record_options
from experiments.shared.study import Study


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """Settings of one study.

    Args:
        name: Name of the study and of its data (`controlrnn.data.benchmarks`).
        skip: Samples that the score leaves out.
        samples: Samples of the training record that are used, short version first.
        orders: Candidate orders of linear models.
        strictly_proper: Whether outputs answer a sample late.
        families: Networks by name, made from a seed.
        iterations: Iterations of the optimiser for each of them, in the long version.
    """

    name: Literal["silverbox", "wiener_hammerstein"]
    skip: int
    samples: tuple[int, int]
    orders: tuple[int, ...]
    strictly_proper: bool
    families: Mapping[str, Callable[[int], Model]]
    iterations: Mapping[str, int]

    def run(self, study: Study) -> tuple[Dataset, dict[str, LureSystem], dict[str, Any]]:
        """Fit everything; returns the data, the fitted systems by name and the networks' medians over their seeds."""
        data = benchmarks.load(self.name)
        fitted = Dataset((data.train[0][: self.samples[0 if study.quick else 1]],), data.validation)
        linear = Dataset(fitted.train, data.validation, data.test)
        systems = linear_baselines(
            study,
            linear,
            skip=self.skip,
            strictly_proper=self.strictly_proper,
            unit=1e3,
            arx=self.orders,
            subspace=self.orders,
        )
        options = whole_record_options(dict.fromkeys(self.families, 8) if study.quick else dict(self.iterations))
        fits = networks(
            study,
            data,
            fitted,
            dict(self.families),
            skip=self.skip,
            seeds=1 if study.quick else 3,
            unit=1e3,
            options=options,
        )
        systems |= {name: fit.system for name, fit in fits.items()}
        return data, systems, {name: medians(study, name) for name in self.families}
