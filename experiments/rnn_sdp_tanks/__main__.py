"""Run the study."""

from experiments.rnn_sdp_tanks.study import main

raise SystemExit(main())
