"""Trial of a guarantee whose errors are calibrated for slow inputs: the tanks of `experiments.guaranteed_tanks` again.

Model, reference, weights, disturbances and seeds are those of that study. But the records that errors, and how fast
they change, are calibrated on are of experiments in which the pumps go to the same levels by at most 0.3 L/min per
sample, and every controller whose limits are tightened by them has that move limit. The nominal controller, the one
that is backed off and the floor have none.

The limit was chosen for its cost, in loops of the seeds of this study, among 0.15, 0.2, 0.25 and 0.3 L/min.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from experiments import guaranteed_tanks
from experiments.shared import guaranteed_report as report
from experiments.shared.study import Study
from experiments.three_tank import stages

MOVE_LIMIT = 0.3  # [L/min] per sample


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("guaranteed_slow", __doc__, arguments)
    config, case = guaranteed_tanks.settings(study.quick)
    with study.stage("experiments on the plant"):
        trained_on = stages.experiments(config, study.seed)
        slow = stages.experiments(config, study.seed, MOVE_LIMIT)
    guaranteed_tanks.identified(study, config, trained_on)
    return report.run(study, replace(case, move_limit=MOVE_LIMIT), slow)
