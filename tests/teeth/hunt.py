"""Hunt: which violation does a rig report on the package that it imports?

Run as a process of its own, with a planted copy first on the path: prints what was found, in one
line, or nothing.  Nothing here knows what was planted.
"""

import sys
import time
from pathlib import Path

import perps_bot  # before a rig puts the checkout before it

SECONDS_MAX = 120
INTENTS_AT_ONCE = 5000
INPUTS_MAX, CALLS_MAX = 1_000_000, 100_000


def sim(kinds, deadline):
    """Seeds with these kinds of faults, and as many with those that they draw."""
    from sim.run import run_seed

    named, seed = [name for name in kinds.split(",") if name], 0
    while time.monotonic() < deadline:
        if broken := run_seed(seed, named if seed % 3 else None).broken:
            return f"seed {seed}: {broken}"
        seed += 1
    return ""


def intents(_, deadline):
    from intents import hold

    seed = 0
    while time.monotonic() < deadline:
        if wrong := hold(INTENTS_AT_ONCE, seed).wrong:
            return wrong[0]
        seed += 1
    return ""


def fuzz(target, deadline):
    from fuzz.run import run, told

    failures = run(0, INPUTS_MAX, target, deadline, 1).failures
    return told(failures[0]) if failures else ""


def crash(scene, deadline):
    from crash.points import Explorer, Plan
    from crash.scenes import SCENES

    failures = Explorer(SCENES[scene], Plan(again=0), deadline).run().failures
    return f"{failures[0][0]}: {failures[0][1]}" if failures else ""


def errors(scene, deadline):
    from crash.errors import Failing, every_kind
    from crash.points import Plan
    from crash.scenes import SCENES

    failures = Failing(SCENES[scene], Plan(), every_kind, CALLS_MAX, deadline).run().failures
    return f"{failures[0][0]}: {failures[0][1]}" if failures else ""


RIGS = {"sim": sim, "intents": intents, "fuzz": fuzz, "crash": crash, "errors": errors}


def main(rig, told, seconds, copy):
    if not Path(perps_bot.__file__).is_relative_to(copy):
        raise SystemExit(f"{perps_bot.__file__} is not in {copy}")
    print(" ".join(RIGS[rig](told, time.monotonic() + float(seconds)).split()))


if __name__ == "__main__":
    main(*sys.argv[1:])
