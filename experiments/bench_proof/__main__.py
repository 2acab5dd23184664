"""Run the study."""

from experiments.bench_proof.study import main

raise SystemExit(main())
