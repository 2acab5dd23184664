"""Run the study."""

from experiments.reinitialisation.study import main

raise SystemExit(main())
