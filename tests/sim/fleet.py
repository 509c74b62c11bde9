"""Fleet: what came of many cases, run on two processors?

A case is one run of the simulation.  Each is a matter of its seed alone, so that it does not
matter which processor runs it, nor what ran there before.
"""

import gc
import multiprocessing
import shlex
import signal
import tempfile
import time
import zlib
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

from .faults import FAULTS, ORDER_PATH
from .run import NOISY_TICKS, run_seed

WORKERS = 2
BATCH, ROUND = 5, 4  # cases a job, and jobs until the clock is looked at
PAIR_TICKS = 30
TELL_CASES = 1000
FAILURES_SHOWN = 20


class Case(NamedTuple):
    """One run: of what a seed draws, of these kinds of faults, or of a pair one after the other."""

    seed: int
    kinds: tuple | None = None
    ticks: int = NOISY_TICKS
    is_pair: bool = False

    def run(self, traces=False):
        return run_seed(self.seed, self.kinds, self.ticks, traces, self.is_pair)

    def __str__(self):
        if self.is_pair:
            return f"pair {' then '.join(self.kinds)}"
        return f"seed {self.seed}" + ("" if self.kinds is None else f" {','.join(self.kinds)}")

    @property
    def command(self):
        """The arguments that show it again."""
        what = "--pairs" if self.is_pair else "--seeds 1"
        start = self.seed - _own_seed(self.kinds) if self.is_pair else self.seed
        faults = "" if self.kinds is None else f" --faults {shlex.quote(','.join(self.kinds))}"
        return f"{what} --start {start} --ticks {self.ticks}{faults}"


class Report:
    """What came of the cases.  failures: the case and words; struck: how often a kind was drawn."""

    def __init__(self):
        self.cases, self.seconds, self.failures = 0, 0.0, []
        self.figures, self.struck = Counter(), Counter()

    def take(self, rows):
        for case, broken, figures, kinds in rows:
            self.cases += 1
            self.figures.update(figures)
            self.struck.update(kinds)
            if broken:
                self.failures.append((case, broken))

    def violations(self):
        return [f"{case}: {broken}" for case, broken in self.failures]

    def text(self):
        figures = " ".join(f"{name}={count}" for name, count in self.figures.items())
        each = 1000 * self.seconds * WORKERS / max(self.cases, 1)
        return "\n".join([
            f"{self.cases} schedules in {self.seconds:.0f} s ({each:.0f} ms each on one of "
            f"{WORKERS} processors), {len(self.failures)} violations",
            figures, f"{len(self.struck)} kinds of faults of {len(FAULTS)} drawn",
            *self.violations()[:FAILURES_SHOWN]])


def workers():
    """Processes that are like this one, end when they are told to, and whose death is an error."""
    return ProcessPoolExecutor(WORKERS, multiprocessing.get_context("fork"),
                               signal.signal, (signal.SIGTERM, signal.SIG_DFL))


def many(cases, seconds=None, tell=None):
    """Run the cases; after `seconds` no new round is begun."""
    report, begun = Report(), time.monotonic()
    batches = [cases[first:first + BATCH] for first in range(0, len(cases), BATCH)]
    gc.collect()
    gc.freeze()  # what is there now is there for good; each worker collects its own alone
    with workers() as pool:
        for first in range(0, len(batches), ROUND):
            if seconds is not None and time.monotonic() - begun > seconds:
                break
            for rows in pool.map(_batch, batches[first:first + ROUND]):
                report.take(rows)
            if tell and report.cases % TELL_CASES == 0:
                tell(f"{report.cases} schedules, {len(report.failures)} violations")
    gc.unfreeze()
    report.seconds = time.monotonic() - begun
    return report


def _batch(cases):
    gc.disable()  # one pass after each case costs less than many within it
    rows = []
    for case in cases:
        result = case.run()
        broken = result.broken and f"{result.broken}; {_kept(case, result)}"
        rows.append((case, broken, result.figures, result.kinds))
        gc.collect()
    return rows


def _kept(case, result):
    """Run a case that broke again and keep its trace; say so where it is another one."""
    again, folder = case.run(traces=True), Path(tempfile.mkdtemp(prefix="perps-sim-broken-"))
    (folder / "trace").write_text("\n".join(again.trace) + "\n", "utf-8")
    said = "" if again.digest == result.digest else (
        f", of another trace than the first, which is {again.broken or 'not broken'}")
    return f"trace in {folder}{said}"


def random_cases(start, count, kinds=None, ticks=NOISY_TICKS):
    """One case a seed; each seed draws its own kinds where none are given."""
    return [Case(seed, kinds, ticks) for seed in range(start, start + count)]


def single_cases(start, count=1):
    """Each kind of fault alone, under `count` seeds each."""
    return [Case(start + number, (name,)) for name in FAULTS for number in range(count)]


def pair_cases(start, kinds=ORDER_PATH, ticks=PAIR_TICKS):
    """All ordered pairs of the kinds, a kind with itself too; each pair has a seed of its own."""
    pairs = [(first, second) for first in kinds for second in kinds]
    return [Case(start + _own_seed(pair), pair, ticks, True) for pair in pairs]


def _own_seed(pair):
    return zlib.crc32(",".join(pair).encode())
