"""The command `python -m fuzz`: inputs by seed, or one that broke something, once more."""

import sys

from .run import main

sys.exit(main())
