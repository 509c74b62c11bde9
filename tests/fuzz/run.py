"""Run: many seeds, one input each, and what came of them.

An input that breaks something is told with its target, its seed and itself, shortened; the
command that is printed with it does it again.
"""

import argparse
import gc
import logging
import random
import time
import tracemalloc
from collections import Counter, namedtuple
from contextlib import contextmanager

from perps_bot import rest as rest_room
from perps_bot.diary import Line

from . import answers, days, files, frames, words
from .judge import Broken, sound_text

SECONDS_MAX, BYTES_MAX = 0.05, 16 * 2**20
DAY_SECONDS_MAX = 0.5  # of a whole bot, over all its ticks
MEASURES = 4  # of a time, before it counts: a machine may be busy
WEIGHED_EVERY, LONG_BYTES = 50, 100_000  # whose memory is measured: every so many, and the long
TALKS_EVERY = 5  # one of so many runs with the diary of DEBUG
SHOWN_MAX, FAILURES_MAX = 600, 50
LOG = logging.getLogger("perps_bot")

Target = namedtuple("Target", "name share make check seconds_max", defaults=[SECONDS_MAX])
Failure = namedtuple("Failure", "seed target words shown")

TARGETS = (
    # name      share  what makes an input    what looks at what comes of it
    Target("body",     60, answers.make_body,    answers.check_body),
    Target("create",   20, answers.make_create,  answers.check_create),
    Target("session",  6,  answers.make_session, answers.check_session),
    Target("message",  20, frames.make_messages, frames.check_messages),
    Target("frames",   8,  frames.make_conversation, frames.check_conversation),
    Target("response", 3,  frames.make_response, frames.check_response),
    Target("events",   3,  files.make_events,    files.check_events),
    Target("state",    10, files.make_state,     files.check_state),
    Target("recording", 8, files.make_recording, files.check_recording),
    Target("key",      4,  files.make_key,       files.check_key),
    Target("settings", 12, words.make_settings,  words.check_settings),
    Target("argv",     3,  words.make_argv,      words.check_argv),
    Target("day",      .4, days.make_day,        days.check_day, DAY_SECONDS_MAX),
)  # fmt: skip
NAMES = {target.name: target for target in TARGETS}


class Report:
    """counts by target; slowest: seconds and seed; failures"""

    def __init__(self):
        self.count, self.counts, self.failures = 0, Counter(), []
        self.slowest, self.heaviest, self.seconds = (0, None), (0, None), 0.0

    def take(self, other):
        self.count += other.count
        self.counts += other.counts
        self.failures += other.failures
        self.slowest = max(self.slowest, other.slowest, key=lambda each: each[0])
        self.heaviest = max(self.heaviest, other.heaviest, key=lambda each: each[0])

    def text(self):
        counts = " ".join(f"{name}={count}" for name, count in sorted(self.counts.items()))
        lines = [f"{self.count} inputs in {self.seconds:.1f} s, {len(self.failures)} violations",
                 counts,
                 f"slowest {self.slowest[0] * 1000:.1f} ms (seed {self.slowest[1]}), heaviest "
                 f"{self.heaviest[0] / 2**20:.1f} MiB (seed {self.heaviest[1]})"]
        return "\n".join(lines + [told(each) for each in self.failures])


def told(failure):
    only = f" --target {failure.target}"
    return (f"seed {failure.seed}, target {failure.target}: {failure.words}\n"
            f"  input: {failure.shown}\n"
            f"  again: PYTHONPATH=tests python -m fuzz --start {failure.seed} --count 1{only}")


def shortened(given):
    text = ascii(given)
    half = SHOWN_MAX // 2
    if len(text) <= SHOWN_MAX:
        return text
    return f"{text[:half]} ...{len(text) - SHOWN_MAX} more... {text[-half:]}"


class _Listener(logging.Handler):
    """Reads every line of the diary as it would be written."""

    def __init__(self):
        super().__init__()
        self.setFormatter(Line("%(levelname)s %(message)s"))
        self.wrong = ""

    def emit(self, record):
        try:
            sound_text(self.format(record), "a line of the diary")
        except Broken as broken:
            self.wrong = str(broken)


@contextmanager
def in_haste():
    """No waiting between attempts, and a diary that is read instead of written."""
    seams = {"BACK_OFF_SECONDS": 0, "RETRY_AFTER_SECONDS_MAX": 0,
             "REQUESTS_PER_SECOND_MAX": 10**6, "CANCELS_PER_SECOND_MAX": 10**6}
    kept = {name: getattr(rest_room, name) for name in seams}
    handlers, level, passes_on = LOG.handlers, LOG.level, LOG.propagate
    listener = _Listener()
    try:
        for name, value in seams.items():
            setattr(rest_room, name, value)
        LOG.handlers, LOG.propagate = [listener], False
        yield listener
    finally:
        for name, value in kept.items():
            setattr(rest_room, name, value)
        LOG.handlers, LOG.propagate = handlers, passes_on
        LOG.setLevel(level)


def made(seed, only=None):
    """The target and the input of one seed."""
    dice = random.Random(seed)
    target = NAMES[only] if only else dice.choices(
        TARGETS, [each.share for each in TARGETS])[0]
    return target, target.make(random.Random(f"{target.name} {seed}"))


def run(first, count, only=None, deadline=None, failures_max=FAILURES_MAX):
    """Judge `count` inputs from seed `first` on; after `deadline` (monotonic) no more.

    It ends, too, when so many have failed that more would tell nothing new.
    """
    report, begun = Report(), time.monotonic()
    with in_haste() as listener:
        for seed in range(first, first + count):
            is_late = deadline is not None and time.monotonic() > deadline
            if is_late or len(report.failures) >= failures_max:
                break
            _judge(report, listener, seed, only)
    report.seconds = time.monotonic() - begun
    return report


def _judge(report, listener, seed, only):
    target, given = made(seed, only)
    report.count += 1
    report.counts[target.name] += 1
    listener.wrong = ""
    LOG.setLevel(logging.INFO if seed % TALKS_EVERY else logging.DEBUG)
    words, seconds = _timed(target, given)
    for _ in range(MEASURES - 1):
        if words or seconds <= target.seconds_max:
            break
        gc.collect()
        words, again = _timed(target, given)
        seconds = min(seconds, again)
    if not words and seconds > target.seconds_max:
        words = f"{seconds * 1000:.0f} ms of processor time"
    if target.seconds_max == SECONDS_MAX:
        report.slowest = max(report.slowest, (seconds, seed), key=lambda each: each[0])
    shown = None
    if not words and (seed % WEIGHED_EVERY == 0 or _length(given) > LONG_BYTES):
        weight = _weight(target, given)
        report.heaviest = max(report.heaviest, (weight, seed), key=lambda each: each[0])
        words = f"{weight / 2**20:.1f} MiB of memory" if weight > BYTES_MAX else ""
    if words := words or listener.wrong:
        shown = shortened(given)
        report.failures.append(Failure(seed, target.name, words, shown))


def _timed(target, given):
    """What is wrong, or "", and the seconds of processor time that it took to say so."""
    begun, words = time.thread_time(), ""
    try:
        target.check(given)
    except Broken as broken:
        words = str(broken)
    except Exception as error:  # whatever is untyped is what is looked for
        words = f"{_place(error)}: {type(error).__name__}: {ascii(str(error))[:200]}"
    return words, time.thread_time() - begun


def _place(error):
    """The innermost line of the product that the error came through."""
    place, trace = "", error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if "perps_bot" in code.co_filename:
            place = f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def _length(given):
    if isinstance(given, bytes | str):
        return len(given)
    if isinstance(given, dict):
        return sum(map(_length, given.values()))
    return sum(map(_length, given)) if isinstance(given, tuple | list) else 0


def _weight(target, given):
    """The most memory, in bytes, that judging the input took above what was there before."""
    tracemalloc.start()
    try:
        target.check(given)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--start", type=int, default=0, help="the first seed (default 0)")
    parser.add_argument("--count", type=int, default=20_000, help="how many (default 20,000)")
    parser.add_argument("--target", choices=tuple(NAMES), help="this one alone")
    given = parser.parse_args(arguments)
    report = run(given.start, given.count, given.target)
    print(report.text())
    return 1 if report.failures else 0
