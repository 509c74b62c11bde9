"""Release: as many inputs as the full run asks for, on both processors."""

import time

from sim.fleet import workers
from sim.release import Reached, asked

from .run import Report, run, told

PART, BATCH = "FUZZ inputs", 500


def inputs(deadline, first_seed):
    """The inputs from `first_seed` on; none is begun after `deadline` (monotonic)."""
    report, count = Report(), asked(PART)
    batches = ((first, min(BATCH, first_seed + count - first), deadline)
               for first in range(first_seed, first_seed + count, BATCH))
    with workers() as pool:
        for part in pool.map(_batch, _until(deadline, batches)):
            report.take(part)
    return Reached(report.count, [told(each).replace("\n", ";") for each in report.failures])


def _until(deadline, batches):
    for batch in batches:
        if time.monotonic() >= deadline:
            return
        yield batch


def _batch(batch):
    first, count, deadline = batch
    return run(first, count, deadline=deadline)
