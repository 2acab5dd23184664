"""Run the study."""

from experiments.bench_scan.study import main

raise SystemExit(main())
