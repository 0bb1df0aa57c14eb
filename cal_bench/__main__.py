"""`python -m cal_bench`, which is what launchers start."""

import sys

from cal_bench.cli import main

sys.exit(main())
