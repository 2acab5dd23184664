"""Run the study."""

from experiments.papers.r2dn.study import main

raise SystemExit(main())
