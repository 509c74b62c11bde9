"""Hunt: which violation does a rig report on the package that it imports?

Run as a process of its own, with a planted copy first on the path: prints what was found, in one
line, or nothing.  Nothing here knows what was planted.
"""

import sys
import time

SECONDS_MAX = 120
SEEDS_MAX = 600


def sim(kinds, deadline):
    from sim.run import run_seed

    named = [name for name in kinds.split(",") if name]
    for seed in range(SEEDS_MAX):
        # Every other seed meets these faults alone; the rest meet what they draw, too.
        if broken := run_seed(seed, named).broken:
            return f"seed {seed}: {broken}"
        if time.monotonic() > deadline:
            break
    return ""


RIGS = {"sim": sim}


if __name__ == "__main__":
    print(RIGS[sys.argv[1]](sys.argv[2], time.monotonic() + float(sys.argv[3])))
