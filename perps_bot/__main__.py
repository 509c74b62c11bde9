"""Is this run as `python -m perps_bot`?

Then it is the same program as `perps-bot`; nothing else may stand here.
"""

import sys

from perps_bot.cli import program

if __name__ == "__main__":
    sys.exit(program())
