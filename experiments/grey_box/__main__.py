"""Grey boxes beside black ones, on the road from records to a closed loop.

Three tanks (simulated, levels to 0.05 cm): contracting networks on all training records and on a tenth, physics with
five parameters and physics with a residual on a tenth; their fit, parameters with intervals, certified rate,
tightening, and loops of the three-tank study. The plant with its true parameters says what unmeasured inflows leave
anyone. Quadruple tank and four carts (simulated): physics on a tenth of the records beside a network. Cascaded tanks
(measured): physics with overflow, official score.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

import numpy as np

from experiments.grey_box import cascaded, others, three_tanks
from experiments.shared.study import Row, Study


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the study; returns the exit status."""
    study = Study.from_command_line("grey_box", __doc__, arguments)
    case = three_tanks.Case.of(study)
    fits = three_tanks.identify_all(study, case)
    promises = {name: three_tanks.promise(study, case, name) for name in ("R2DN", *three_tanks.GREY)}
    _targets(study, fits, promises)
    for other in (others.quadruple(), others.carts()):
        found = others.run(study, other)
        least = {name: float(np.min(row["fit_percent"])) for name, row in found.items()}
        best = max(fit for name, fit in least.items() if name != "physics, a tenth")
        grey = least["physics, a tenth"]
        study.target(f"{other.name}: physics fits better than networks do [%]", f"> {best:.2f}", grey, grey > best)
    if "CONTROLRNN_DATA" in os.environ:
        cascaded.run(study)
    else:
        study.say("cascaded tanks left out: set CONTROLRNN_DATA to the folder of measured data")
    return study.finish()


def _targets(study: Study, fits: dict[str, Row], promises: dict[str, Row]) -> None:
    """Aims of the three tanks."""
    grey = max(three_tanks.GREY, key=lambda name: float(np.min(fits[name]["fit_percent"])))
    least = float(np.min(fits[grey]["fit_percent"]))
    study.target("tanks_fit", ">= 98 % per output with a tenth of the records", least, least >= 98)
    ratio = np.asarray(promises["physics"]["tightening"]) / np.asarray(promises["R2DN"]["tightening"])
    worst = float(ratio.max())
    study.target("tanks_tightening", "<= half of the R2DN's per output", worst, worst <= 0.5)
    rate = float(promises["physics"]["certified_rate"])
    study.target("tanks_contraction", "certified", rate, rate < 1)
    truth, values = three_tanks.truth(), fits["physics"]["values"]
    off = max(abs(values[n] - truth[n]) / fits["physics"]["deviations"][n] for n in truth)
    study.target("tanks_parameters", "within 3 deviations of the truth", off, off <= 3)


if __name__ == "__main__":
    sys.exit(main())
