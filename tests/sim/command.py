"""Command: run many seeds, and make a failing one small.

    perps-sim --seeds 200                 200 seeds on two processes
    perps-sim --seeds 1 --start 77        one seed
    perps-sim --seeds 1 --start 77 --faults "429,power cut" --shrink
    perps-sim --release                   100,000 seeds, or as many as an hour allows
    perps-sim --list                      the kinds of faults, each with its row of the fault map
"""

import argparse
import gc
import multiprocessing
import time
from collections import Counter

from .faults import FAULTS
from .run import NOISY_TICKS, run_seed

WORKERS = 2
BATCH, ROUND = 5, 20  # seeds a job, and jobs until the clock is looked at
TELL_SEEDS = 1000
RELEASE_SEEDS, RELEASE_SECONDS = 100_000, 3600
TICKS_MIN, TICKS_MAX = 1, 10_000
FAILURES_SHOWN = 20
EXIT_BROKEN = 1


def main(arguments=None):
    given = _arguments(arguments)
    if given.list:
        for name, fault in FAULTS.items():
            print(f"{fault.row:6} {name}")
        return 0
    kinds = given.faults
    if given.release:
        given.seeds, given.seconds = RELEASE_SEEDS, given.seconds or RELEASE_SECONDS
    report = many(given.start, given.seeds, kinds, given.ticks, given.seconds, print)
    print(report.text())
    if not report.failures:
        return 0
    show(report.failures[0][0], kinds, given.ticks, given.shrink)
    return EXIT_BROKEN


class Report:
    """What came of many seeds.  failures: seed and words; digests: in the order of the seeds."""

    def __init__(self):
        self.seeds, self.seconds, self.failures = 0, 0.0, []
        self.digests, self.figures, self.struck = {}, Counter(), Counter()

    def take(self, rows):
        for seed, broken, digest, figures, kinds in rows:
            self.seeds += 1
            self.digests[seed] = digest
            self.figures.update(figures)
            self.struck.update(kinds)
            if broken:
                self.failures.append((seed, broken))

    def text(self):
        figures = " ".join(f"{name}={count}" for name, count in self.figures.items())
        lines = [f"{self.seeds} seeds in {self.seconds:.0f} s, {len(self.failures)} violations",
                 figures, f"{len(self.struck)} kinds of faults of {len(FAULTS)} drawn"]
        lines += [f"seed {seed}: {broken}" for seed, broken in self.failures[:FAILURES_SHOWN]]
        return "\n".join(lines)


def many(start, count, kinds=None, ticks=NOISY_TICKS, seconds=None, tell=None):
    """Run the seeds on both processors; after `seconds` no new batch is begun."""
    report, begun = Report(), time.monotonic()
    batches = [(first, min(BATCH, start + count - first), kinds, ticks)
               for first in range(start, start + count, BATCH)]
    gc.collect()
    gc.freeze()  # what is there now is there for good; each worker collects its own alone
    with multiprocessing.get_context("fork").Pool(WORKERS) as pool:
        for first in range(0, len(batches), ROUND):
            if seconds is not None and time.monotonic() - begun > seconds:
                break
            for rows in pool.imap(_batch, batches[first:first + ROUND]):
                report.take(rows)
            if tell and report.seeds % TELL_SEEDS == 0:
                tell(f"{report.seeds} seeds, {len(report.failures)} violations")
    report.seconds = time.monotonic() - begun
    return report


def _batch(batch):
    first, count, kinds, ticks = batch
    gc.disable()  # one pass after each seed costs less than many within it
    rows = []
    for seed in range(first, first + count):
        result = run_seed(seed, kinds, ticks)
        rows.append((seed, result.broken, result.digest, result.figures, result.kinds))
        gc.collect()
    return rows


def show(seed, kinds=None, ticks=NOISY_TICKS, shrinks=False):
    """Print the trace of a failing seed, made small first where that was asked for."""
    if shrinks:
        kinds, ticks = shrunk(seed, kinds, ticks)
    result = run_seed(seed, kinds, ticks, traces=True)
    print(*result.trace, sep="\n")
    print(f"seed {seed}, {ticks} noisy ticks, faults {','.join(result.kinds) or 'none'}")
    print(f"BROKEN {result.broken}")
    print(f"again: bin/perps-sim --seeds 1 --start {seed} --ticks {ticks} "
          f"--faults '{','.join(result.kinds)}'")


def shrunk(seed, kinds=None, ticks=NOISY_TICKS):
    """Return fewer kinds of faults and fewer noisy ticks that still break the same invariant."""
    first = run_seed(seed, kinds, ticks)
    kinds, name = list(first.kinds), first.broken.split(":")[0]

    def still(kinds, ticks):
        return run_seed(seed, kinds, ticks).broken.split(":")[0] == name

    for kind in list(kinds):
        fewer = [each for each in kinds if each != kind]
        if still(fewer, ticks):
            kinds = fewer
    step = ticks // 2
    while step:
        while ticks - step >= TICKS_MIN and still(kinds, ticks - step):
            ticks -= step
        step //= 2
    return kinds, ticks


def _arguments(arguments):
    parser = argparse.ArgumentParser(
        prog="perps-sim", description="Random fault schedules over the real bot, one a seed.",
        formatter_class=argparse.RawDescriptionHelpFormatter, epilog=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many (default 100)")
    parser.add_argument("--start", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--ticks", type=int, default=NOISY_TICKS,
                        choices=range(TICKS_MIN, TICKS_MAX), metavar="N",
                        help=f"noisy ticks a seed (default {NOISY_TICKS})")
    parser.add_argument("--faults", type=_kinds, metavar="A,B",
                        help="these kinds instead of those that each seed draws; '' for none")
    parser.add_argument("--seconds", type=float, help="begin no seed after so many seconds")
    parser.add_argument("--shrink", action="store_true", help="make the first failure small")
    parser.add_argument("--release", action="store_true",
                        help=f"{RELEASE_SEEDS:,} seeds, {RELEASE_SECONDS // 60} minutes at most")
    parser.add_argument("--list", action="store_true", help="list the kinds of faults")
    return parser.parse_args(arguments)


def _kinds(text):
    kinds = [name.strip() for name in text.split(",") if name.strip()]
    if unknown := [name for name in kinds if name not in FAULTS]:
        raise argparse.ArgumentTypeError(f"no such kind: {', '.join(unknown)}; see --list")
    return kinds
