"""Run the papers' studies one after the other and write one page of all claims, `papers.html`.

What was computed before is taken from there, so that a run that was stopped goes on. `--quick` takes 30 to 60 minutes
in one process (robust_rnn 5 to 10, r2dn 3 to 6, rnn_sdp 8 to 11, noise_robust 8 to 20, lipschitz_rnn 7 to 14; long on a
slow machine beside two busy programs).
`--full`, which is what runs without either, takes days, and says the hours of each study before it begins.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from controlrnn.data.benchmarks import load
from experiments.papers import lipschitz_rnn, noise_robust, rnn_sdp
from experiments.papers.page import write_page
from experiments.papers.r2dn import study as r2dn
from experiments.papers.robust_rnn import study as robust_rnn
from experiments.shared.study import Study

STUDIES = {
    "robust_rnn": robust_rnn.main, "r2dn": r2dn.main, "rnn_sdp": rnn_sdp.main, "noise_robust": noise_robust.main,
    "lipschitz_rnn": lipschitz_rnn.main,
}  # fmt: skip
HOURS = {"robust_rnn": 4, "r2dn": 4, "rnn_sdp": 3, "noise_robust": 9, "lipschitz_rnn": 38}  # in full, estimated
DATA: dict[str, str] = {"r2dn": "f16_two_inputs", "noise_robust": "mnist", "lipschitz_rnn": "mnist"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all studies; returns the exit status."""
    study = Study.from_command_line("papers", __doc__, arguments)
    for name in sorted({DATA[name] for name in STUDIES if name in DATA}):
        load(name)  # what is missing, or another file, is said before hours of work
    if not study.quick:
        named = ", ".join(f"{name} {HOURS[name]}" for name in STUDIES if name in HOURS)
        study.say(f"in full; hours of one processor, estimated: {named}. What is stopped goes on from its last row.")
    given = list(sys.argv[1:] if arguments is None else arguments)
    for name, run in STUDIES.items():
        # The last --out counts: each study has a folder of its own below the page's.
        with study.stage(name):
            run([*given, "--out", str(study.path(name))])
    page = write_page(study.path("papers.html"), {name: study.path(name) for name in STUDIES})
    study.say(f"page: {page}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
