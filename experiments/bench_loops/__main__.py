"""Run the bench."""

from experiments.bench_loops.study import main

raise SystemExit(main())
