"""Release: which parts does the full run have, and what did each reach within its share of time?

A part is one row of PARTS: a name, how many cases it is asked for, its share of the time, and
where its function stands, as "module:function" with tests/ as the root.  The module is imported
only when its turn comes.  To register a part, write that function and add or change its row:

    def points(deadline, first_seed):
        reached = Reached()
        for seed in itertools.count(first_seed):
            if reached.count >= asked("CRASH points") or time.monotonic() >= deadline:
                return reached
            reached.count += 1
            if broken := the_case_of(seed):
                reached.violations.append(f"seed {seed}: {broken}")

deadline    a moment of time.monotonic(); no case is begun after it
first_seed  the seeds of the part begin here: the same first seed gives the same cases
Reached     cases done, and one line for each that broke something, enough to see it again

Each part runs in a process of its own, which may start others: what it plants or patches is gone
afterwards.  Time that a part leaves over goes to those after it.  A part that is missing, does
nothing, ends by an error or outlives its time is said to have done so and never passes.
"""

import importlib
import multiprocessing
import os
import platform
import signal
import subprocess
import time
import traceback
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

PARTS = (
    # name                 asked        share  where it stands
    ("SIM schedules",      100_000,     26,    "sim.parts:schedules"),
    ("SIM pairs",          0,           8,     "sim.parts:singles_and_pairs"),
    ("SIM same trace",     4_000,       5,     "sim.parts:same_trace"),
    ("CRASH points",       20_000,      12,    "crash.release:points"),
    ("CRASH I/O errors",   0,           6,     "crash.release:io_errors"),
    ("PROC kills",         2_000,       12,    "proc.release:kills"),
    ("PROC interrupts",    1_000,       8,     "proc.release:interrupts"),
    ("PROC silence",       1_000,       3,     "proc.release:silence"),
    ("PROC call times",    0,           2,     "proc.release:calls"),
    ("FUZZ inputs",        1_000_000,   8,     "fuzz.release:inputs"),
    ("INTENTS",            10_000_000,  5,     "sim.parts:intents"),
    ("TEETH",              0,           5,     "teeth.release:planted"),
)
ALL = 0  # asked for: whatever there is; the part itself knows how many that are
MINUTES = 60
GRACE_SECONDS = 30  # beyond its deadline, for the case that it was in
VIOLATIONS_SHOWN = 20
ROOT = Path(__file__).parents[2]
THERE, NOT_THERE, ENDED_BY_ERROR, OVERRAN = "", "not there", "ended by an error", "overran"


@dataclass
class Reached:
    """What a part did.

    count       cases done
    violations  one line for each that broke something
    is_all      whether nothing is left to do, where ALL was asked for
    """

    count: int = 0
    violations: list = field(default_factory=list)
    is_all: bool = False


@dataclass
class Row:
    """One line of the report."""

    name: str
    asked: int
    reached: Reached
    seconds: float
    trouble: str

    @property
    def is_complete(self):
        reached = self.reached
        return reached.is_all or (self.asked != ALL and reached.count >= self.asked)

    @property
    def passes(self):
        return not self.trouble and not self.reached.violations and self.reached.count > 0


def asked(name):
    """Return how many cases the part of that name is asked for."""
    return next(count for each, count, _, _ in PARTS if each == name)


def release(minutes=MINUTES, first_seed=0, parts=PARTS, tell=print):
    """Run the parts in turn and tell the report; whether all of them passed."""
    begun = time.monotonic()
    ends, rows = begun + minutes * 60, []
    for number, (name, count, share, where) in enumerate(parts):
        left = max(0.0, ends - time.monotonic())
        shares = sum(each[2] for each in parts[number:])
        rows.append(_row(name, count, where, left * share / shares, first_seed))
        tell(f"{name}: {_words(rows[-1])}")
    tell(report(rows, time.monotonic() - begun))
    return all(row.passes for row in rows)


def report(rows, seconds):
    """Return the Markdown of a run."""
    lines = [f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {_commit()}, {os.cpu_count()} cores, "
             f"Python {platform.python_version()}, {seconds:.0f} s", "",
             "| part | asked | reached | violations | seconds |", "|---|---|---|---|---|"]
    for row in rows:
        asked_for = f"{row.asked:,}" if row.asked != ALL else "all"
        lines.append(f"| {row.name} | {asked_for} | {_count(row)} | {_violations(row)} | "
                     f"{row.seconds:.0f} |")
    for row in rows:
        if row.reached.violations:
            lines += ["", f"{row.name}:", ""]
            lines += [f"- {line}" for line in row.reached.violations[:VIOLATIONS_SHOWN]]
    passed = sum(row.passes for row in rows)
    short = [row.name for row in rows if row.passes and not row.is_complete]
    lines += ["", f"{passed} of {len(rows)} parts passed"
              + (f"; fewer than asked within the time: {', '.join(short)}" if short else "")]
    return "\n".join(lines)


def _count(row):
    return row.trouble if row.trouble == NOT_THERE else f"{row.reached.count:,}" + (
        f" ({row.trouble})" if row.trouble else "")


def _violations(row):
    """A part that did nothing has seen none, which says nothing."""
    return len(row.reached.violations) if row.reached.count else "-"


def _words(row):
    return f"reached {_count(row)}, violations {_violations(row)}, {row.seconds:.0f} s"


def _row(name, count, where, seconds, first_seed):
    begun = time.monotonic()
    reached, trouble = _apart(where, begun + seconds, first_seed)
    return Row(name, count, reached, time.monotonic() - begun, trouble)


def found(where):
    """Return the function of a part, or None where nobody has written it."""
    module, _, function = where.partition(":")
    try:
        return getattr(importlib.import_module(module), function, None)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise  # the part is there, and something that it needs is not
        return None


def _apart(where, deadline, first_seed):
    """Run a part in a process of its own, whose group ends with it."""
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_live, args=(where, deadline, first_seed, theirs))
    child.start()
    theirs.close()
    try:
        if not ours.poll(max(0.0, deadline - time.monotonic()) + GRACE_SECONDS):
            return Reached(), OVERRAN
        return ours.recv()
    except EOFError:
        return Reached(), ENDED_BY_ERROR
    finally:
        _end(child)


def _live(where, deadline, first_seed, pipe):
    os.setpgid(0, 0)
    try:
        function = found(where)
        pipe.send((Reached(), NOT_THERE) if function is None
                  else (function(deadline, first_seed), THERE))
    except Exception as error:
        traceback.print_exc()
        pipe.send((Reached(violations=[f"{type(error).__name__}: {error}"]), ENDED_BY_ERROR))


def _end(child):
    """End what is left of a part: its own group, and nothing else."""
    try:
        os.killpg(child.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass  # all of it is gone
    child.join()


def _commit():
    """Return the commit that ran, marked where files differ from it."""
    try:
        said = subprocess.run(["git", "describe", "--always", "--dirty", "--abbrev=12"], cwd=ROOT,
                              text=True, capture_output=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return said.stdout.strip() if said.returncode == 0 else "unknown"
