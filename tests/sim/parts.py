"""Parts: what of the simulation does the full run take?  See `release` for what a part is.

The gate's intents are here as well: their rig is one room that knows no deadline.
"""

import itertools
import time

from . import fleet, same
from .release import Reached, asked

INTENTS_AT_ONCE = 20_000  # in each process until the clock is looked at
SAME_AT_ONCE = 25  # seeds in each environment until the clock is looked at


def schedules(deadline, first_seed):
    """Random fault schedules, one a seed."""
    count = asked("SIM schedules")
    return _reached(fleet.random_cases(first_seed, count), deadline)


def singles_and_pairs(deadline, first_seed):
    """Each kind alone under two seeds, and all ordered pairs of those on the order path."""
    return _reached(fleet.single_cases(first_seed, 2) + fleet.pair_cases(first_seed), deadline)


def _reached(cases, deadline):
    report = fleet.many(cases, deadline - time.monotonic())
    return Reached(report.cases, report.violations(), report.cases == len(cases))


def same_trace(deadline, first_seed):
    """One seed, one trace, in every environment."""
    reached, last = Reached(), first_seed + asked("SIM same trace") // len(same.ENVIRONMENTS)
    for seed in range(first_seed, last, SAME_AT_ONCE):
        if time.monotonic() >= deadline:
            break
        seeds = range(seed, min(seed + SAME_AT_ONCE, last))
        reached.violations += same.differing(seeds)
        reached.count += len(seeds) * len(same.ENVIRONMENTS)
    return reached


def intents(deadline, first_seed):
    """Intents at the gate, every limit at its edges."""
    from intents import hold  # a rig of its own, which may not be there

    reached, seeds = Reached(), itertools.count(first_seed)
    with fleet.workers() as pool:
        while reached.count < asked("INTENTS") and time.monotonic() < deadline:
            jobs = [(INTENTS_AT_ONCE, next(seeds)) for _ in range(fleet.WORKERS)]
            for counts in pool.map(hold, *zip(*jobs)):
                reached.count += counts.intents
                reached.violations += counts.wrong
    return reached
