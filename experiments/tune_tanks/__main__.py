"""Run the study."""

from experiments.tune_tanks.study import main

if __name__ == "__main__":  # worker processes import this file, too
    raise SystemExit(main())
