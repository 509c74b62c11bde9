"""Parts: what of the simulation does the full run take?"""

import time

from .command import many
from .release import Reached, asked


def schedules(deadline, first_seed):
    """Random fault schedules, one a seed."""
    report = many(first_seed, asked("SIM schedules"), seconds=deadline - time.monotonic())
    return Reached(report.seeds, [f"seed {seed}: {broken}" for seed, broken in report.failures])
