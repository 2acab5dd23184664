"""Run all cases and print how they end; ``--page`` writes the table into the page that shows it.

python -m experiments.bad_data
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from experiments.bad_data.case import judge
from experiments.bad_data.table import PAGE, cases, with_table


def main(arguments: Sequence[str] | None = None) -> int:
    """Run all cases; returns how many end otherwise than they have to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--page", action="store_true", help="write the table into the page")
    page, wrong = parser.parse_args(arguments).page, 0
    for case in cases():
        with tempfile.TemporaryDirectory() as folder:
            ended = judge(case, Path(folder))
        wrong += not ended.as_wanted
        print(f"{'  ' if ended.as_wanted else '!!'} {ended.ending:8} {case.kind}: {ended.words}")
    print(f"{len(cases())} cases, {wrong} of them end otherwise than they have to")
    if page:
        PAGE.write_text(with_table(PAGE.read_text()))
    return wrong


if __name__ == "__main__":
    sys.exit(main())
