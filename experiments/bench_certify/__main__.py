"""Run the study."""

from experiments.bench_certify.study import main

raise SystemExit(main())
