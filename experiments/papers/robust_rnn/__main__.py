"""Run the study."""

from experiments.papers.robust_rnn.study import main

raise SystemExit(main())
