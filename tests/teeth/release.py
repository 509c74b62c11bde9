"""Release: every plant, each under its rig, two at a time."""

import time
from concurrent.futures import ThreadPoolExecutor

from sim.release import Reached

from .hunt import SECONDS_MAX
from .plants import PLANTS
from .rig import found

WORKERS = 2


def planted(deadline, first_seed):
    """Count the plants that were found; one that was looked for in vain is a violation.

    The plants are few and each hunt has seeds of its own, so `first_seed` changes nothing.
    """
    reached = Reached()
    with ThreadPoolExecutor(WORKERS) as pool:
        for plant, said in zip(PLANTS, pool.map(lambda each: _hunted(each, deadline), PLANTS)):
            if said is None:
                return reached
            reached.count += bool(said)
            if not said:
                reached.violations.append(f"not found: {plant.name} ({plant.rig} {plant.with_})")
    reached.is_all = True
    return reached


def _hunted(plant, deadline):
    """What its rig says; None where no time is left for it."""
    if time.monotonic() >= deadline:
        return None
    return found(plant, min(SECONDS_MAX, max(1, deadline - time.monotonic())))
