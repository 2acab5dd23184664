"""Run the study."""

from experiments.coverage.study import main

raise SystemExit(main())
