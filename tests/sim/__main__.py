"""The command `bin/perps-sim`: many seeds, or one that failed, made small; or `crash` points."""

import sys

from crash.command import main as crash

from .command import main

sys.exit(crash(sys.argv[2:]) if sys.argv[1:2] == ["crash"] else main())
