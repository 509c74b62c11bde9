"""The command `bin/perps-sim`: many seeds, or one that failed, made small."""

import sys

from .command import main

sys.exit(main())
