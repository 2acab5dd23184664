"""Run the study, with one BLAS thread a process."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

from experiments.bench_files.study import main

raise SystemExit(main())
