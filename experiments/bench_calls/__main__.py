"""Run the study."""

from experiments.bench_calls.study import main

raise SystemExit(main())
