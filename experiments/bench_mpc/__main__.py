"""Run the study."""

from experiments.bench_mpc.study import main

raise SystemExit(main())
