"""Is this run as `python -m perps_bot`?

Then it is the same program as `perps-bot`; nothing else may stand here.
"""

import gc
import sys

# Before anything is loaded: of that, nothing is garbage, however often it is looked through.
gc.set_threshold(20_000)

from perps_bot.cli import program

if __name__ == "__main__":
    sys.exit(program())
