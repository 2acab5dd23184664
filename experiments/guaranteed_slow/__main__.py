"""Run the study."""

from experiments.guaranteed_slow.study import main

raise SystemExit(main())
