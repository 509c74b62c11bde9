"""Where: which room does the time go to?

The replay and the report, each once under cProfile, which makes calls dearer than they are: the
order of the rows holds, the shares roughly.  What a room calls outside the package counts as its
own.
"""

import cProfile
import pstats
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import inputs, jobs
from bench.suite import ROOT, Bench

BARS, EVENTS = 20_000, 20_000
ROOMS_SHOWN = 12
FORM = "{:<14} {:>7} {:>12}"


def where(cache, out=print):
    """Tell it for both."""
    bench = Bench("smoke", 1, cache)
    with TemporaryDirectory(dir=cache) as folder:
        inputs.history(bench, Path(folder), EVENTS)
        for title, counted, job in (
            (f"replay of {BARS:,} bars", "bars",
             lambda: jobs.replay(inputs.bars(bench.cache, BARS))),
            (f"report over {EVENTS:,} events", "events", lambda: jobs.report(folder)),
        ):
            profile = cProfile.Profile()
            number = profile.runcall(job)[counted]
            out(FORM.format(title.partition(" ")[0], "share", f"calls/{counted[:-1]}"))
            for room, share, calls in rooms(pstats.Stats(profile).stats):
                out(FORM.format(room, f"{share:.1%}", f"{calls / number:.1f}"))
            out("")


def rooms(stats):
    """Yield room, share of the time and calls, the largest first."""
    seconds, calls = Counter(), Counter()
    for place, (_, count, own, _, callers) in stats.items():
        if room := _room(place):
            seconds[room] += own
            calls[room] += count
            continue
        for caller, (_, _, taken, _) in callers.items():
            seconds[_room(caller) or "the rest"] += taken
    total = sum(seconds.values())
    for room, taken in seconds.most_common(ROOMS_SHOWN):
        yield room, taken / total, calls[room]


def _room(place):
    path = Path(place[0])
    return path.stem if path.parent == ROOT / "perps_bot" else ""
