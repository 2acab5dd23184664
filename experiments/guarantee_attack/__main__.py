"""Run the study."""

from experiments.guarantee_attack.study import main

raise SystemExit(main())
