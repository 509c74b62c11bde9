"""Command: run many schedules, and make a failing one small.

    perps-sim --seeds 200                 200 random schedules, on two processors
    perps-sim --seeds 1 --start 77        one of them
    perps-sim --seeds 1 --start 77 --faults "429,power cut" --shrink
    perps-sim --pairs                     all ordered pairs of the faults on the order path
    perps-sim --pairs --faults "429,500"  the pairs of these alone
    perps-sim --release --minutes 60      every rig in turn, and a report of what each reached
    perps-sim --list                      the kinds of faults, each with its row of the fault map

Exit codes: 0 nothing was broken; 1 something was, or a part of the full run did not pass; 2 an
argument is wrong.  The trace of the first failing schedule is printed, with --shrink a small one.
"""

import argparse

from . import fleet
from .faults import FAULTS
from .release import MINUTES, release
from .run import NOISY_TICKS

TICKS_MIN, TICKS_MAX = 1, 10_000
SEEDS_DEFAULT, SEEDS_MAX = 100, 10_000_000
MINUTES_MAX = 24 * 60
TRACE_LINES = 120  # from the end of a trace; the beginning is seldom the cause
LINE_LENGTH = 400
EXIT_BROKEN, EXIT_USAGE = 1, 2


def main(arguments=None):
    given = _arguments(arguments)
    if given.list:
        for name, fault in FAULTS.items():
            print(f"{fault.row:6} {name}")
        return 0
    if given.release:
        return 0 if release(given.minutes or MINUTES, given.start) else EXIT_BROKEN
    report = fleet.many(_cases(given), given.seconds, print)
    print(report.text())
    if not report.failures:
        return 0
    show(report.failures[0][0], given.shrink)
    return EXIT_BROKEN


def _cases(given):
    if given.pairs:
        return fleet.pair_cases(given.start, given.faults or fleet.ORDER_PATH,
                                given.ticks or fleet.PAIR_TICKS)
    return fleet.random_cases(given.start, given.seeds, given.faults, given.ticks or NOISY_TICKS)


def show(case, shrinks=False):
    """Print the end of a failing schedule's trace, made small first where that was asked for."""
    if shrinks:
        case = shrunk(case)
    result = case.run(traces=True)
    if not case.is_pair:
        case = case._replace(kinds=tuple(result.kinds))
    left_out = len(result.trace) - TRACE_LINES
    if left_out > 0:
        print(f"... {left_out} lines before these")
    print(*(line[:LINE_LENGTH] for line in result.trace[-TRACE_LINES:]), sep="\n")
    print(f"{case}, {case.ticks} noisy ticks, {len(case.kinds)} kinds of faults")
    print(f"BROKEN {result.broken}")
    print(f"again: bin/perps-sim {case.command}")


def shrunk(case):
    """Return a case of fewer kinds of faults and fewer noisy ticks that breaks the same thing."""
    first = case.run()
    case, name = case._replace(kinds=tuple(first.kinds)), first.broken.split(":")[0]

    def still(smaller):
        return smaller.run().broken.split(":")[0] == name

    for kind in () if case.is_pair else case.kinds:
        fewer = case._replace(kinds=tuple(each for each in case.kinds if each != kind))
        if still(fewer):
            case = fewer
    step = case.ticks // 2
    while step:
        while case.ticks - step >= TICKS_MIN and still(case._replace(ticks=case.ticks - step)):
            case = case._replace(ticks=case.ticks - step)
        step //= 2
    return case


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message):
        self.exit(EXIT_USAGE, f"{self.prog}: {message}; see --help\n")


def _arguments(arguments):
    parser = _Parser(
        prog="perps-sim", description="Random fault schedules over the real bot, one a seed.",
        formatter_class=argparse.RawDescriptionHelpFormatter, epilog=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--seeds", type=_number(1, SEEDS_MAX), metavar="N",
        help=f"how many schedules (default {SEEDS_DEFAULT})")
    add("--start", type=_number(0, 2 ** 63), default=0, metavar="S",
        help="the first seed (default 0)")
    add("--ticks", type=_number(TICKS_MIN, TICKS_MAX), metavar="N",
        help=f"noisy ticks of each (default {NOISY_TICKS}; of pairs {fleet.PAIR_TICKS})")
    add("--faults", type=_kinds, metavar="A,B",
        help="these kinds instead of those that each seed draws; '' for none")
    add("--seconds", type=_number(1, MINUTES_MAX * 60), metavar="N",
        help="begin no schedule after so many seconds")
    add("--shrink", action="store_true", help="make the first failure small")
    add("--pairs", action="store_true", help="all ordered pairs, each once")
    add("--release", action="store_true", help=f"the full run: {MINUTES} minutes at most")
    add("--minutes", type=_number(1, MINUTES_MAX), metavar="M", help="of --release")
    add("--list", action="store_true", help="list the kinds of faults")
    given = parser.parse_args(arguments)
    if wrong := _contradiction(given):
        parser.error(wrong)
    given.seeds = given.seeds or SEEDS_DEFAULT
    return given


def _contradiction(given):
    """What is asked for together and has no meaning together, in words; "" where nothing is."""
    if given.minutes and not given.release:
        return "--minutes is of --release"
    if given.release and (given.seeds or given.pairs or given.faults is not None or given.seconds
                          or given.shrink or given.ticks):
        return "--release takes --start and --minutes alone"
    if given.pairs and given.seeds:
        return "--pairs runs each pair once: leave out --seeds"
    return ""


def _number(least, most):
    def read(text):
        if not (text.isascii() and text.isdigit() and least <= int(text) <= most):
            raise argparse.ArgumentTypeError(f"{text!r} is no whole number from {least} to {most}")
        return int(text)
    return read


def _kinds(text):
    kinds = tuple(name.strip() for name in text.split(",") if name.strip())
    if unknown := [name for name in kinds if name not in FAULTS]:
        raise argparse.ArgumentTypeError(f"no such kind: {', '.join(unknown)} (--list names them)")
    return kinds
