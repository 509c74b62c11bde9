"""Growth: a bot that runs for long, in a process of its own, and what a clock and /proc say of it.

What it holds is counted by tests/test_soak.py; here is what that costs.
"""

import gc
import os
from pathlib import Path
from time import perf_counter, process_time

from bench.jobs import memory_mib

FIFTHS = 5
TICK_SECONDS = 5
TRIAL_TICKS = 200


def long_run(folder, count, seconds_max):
    """A dev bot over so many ticks with its files, or as many as fit into `seconds_max`.

    Five parts of equally many ticks; the first is left out, for it fills what is bounded.
    """
    share = _share(int(count), int(seconds_max), Path(folder) / "trial")
    rig, seen = _rig(Path(folder) / "bot"), []
    for _ in range(FIFTHS):
        begun = process_time()
        for _ in range(share):
            rig.tick(TICK_SECONDS)
            rig.events.clear()
        took = (process_time() - begun) / share
        gc.collect()
        seen.append((took, memory_mib("VmRSS"), len(os.listdir("/proc/self/fd"))))
    rig.bot.store.close()
    (_, first_mib, first_files), (second, _, _), *_, (last, last_mib, last_files) = seen
    return {"ticks": share * FIFTHS, "days": share * FIFTHS * TICK_SECONDS // 86_400,
            "early_seconds": second, "late_seconds": last, "early_mib": first_mib,
            "late_mib": last_mib, "opened": last_files - first_files}


def _share(count, seconds_max, folder):
    """Ticks of a fifth, so that all of them fit into the time: a few are timed before."""
    rig, begun = _rig(folder), perf_counter()
    for _ in range(TRIAL_TICKS):
        rig.tick(TICK_SECONDS)
    rig.bot.store.close()
    fit = int(seconds_max * TRIAL_TICKS / (perf_counter() - begun))
    return max(min(count, fit) // FIFTHS, 1)


def _rig(folder):
    from helpers import Rig
    from perps_bot.market import SyntheticMarket
    from perps_bot.paper import PaperBroker

    folder.mkdir()
    return Rig(PaperBroker(SyntheticMarket()), folder=folder, bar=60)
