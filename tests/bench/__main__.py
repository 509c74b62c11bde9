"""bin/bench: arguments in, figures out."""

import argparse
import logging
import sys
from datetime import date
from pathlib import Path

from bench.month import MONTHS, month
from bench.suite import BENCHES, CACHE, SIZES, Bench, as_json, not_run, run_benches
from bench.where import where


def main(argv=None):
    argv = sys.argv[1:] if argv is None else argv
    logging.getLogger("perps_bot").addHandler(logging.NullHandler())
    if argv[:1] == ["where"]:
        return where_command(argv[1:])
    return month_command(argv[1:]) if argv[:1] == ["month"] else suite_command(argv)


def where_command(argv):
    parser = argparse.ArgumentParser(
        prog="bin/bench where", description="Tell which room the time of a replay and of a report "
        "goes to.")
    parser.parse_args(argv)
    CACHE.mkdir(parents=True, exist_ok=True)
    where(CACHE, _say)
    return 0


def month_command(argv):
    parser = argparse.ArgumentParser(
        prog="bin/bench month", description="Play a recorded month of BTC through the exchange; "
        "exit code 1 when the bot's books are not the exchange's.")
    parser.add_argument("--days", type=int, metavar="N", help="so many days (default: all)")
    parser.add_argument("--start-day", type=date.fromisoformat, metavar="D",
                        help="the first, as 2025-05-12 (default: the first whole one)")
    parser.add_argument("--month", choices=MONTHS, default=next(iter(MONTHS)))
    given = parser.parse_args(argv)
    return month(given.days, given.start_day, given.month, out=_say)


def suite_command(argv):
    parser = argparse.ArgumentParser(
        prog="bin/bench", description="Measure, each figure beside a plain-Python reference of "
        "the same run.  'bin/bench month' plays a recorded month instead, 'bin/bench where' tells "
        "which room the time goes to.")
    parser.add_argument("--only", action="append", default=[], choices=BENCHES, metavar="NAME",
                        help=f"only this one; repeat: {' '.join(BENCHES)}")
    parser.add_argument("--size", choices=SIZES, default="quick",
                        help="how much; full is 1,000,000 bars, events and ticks")
    parser.add_argument("--rounds", type=int, default=3, choices=range(1, 100), metavar="N",
                        help="runs of which the median counts")
    parser.add_argument("--peers", default="", metavar="NAME,NAME",
                        help="other engines, installed on demand under build/bench")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there, too")
    given = parser.parse_args(argv)
    if given.json and not given.json.absolute().parent.is_dir():  # before an hour is spent
        parser.error(f"--json {given.json}: its folder is not there")
    peers = [name for name in given.peers.split(",") if name]
    if peers and given.only and "replay" not in given.only:
        _say(not_run("peers", "they run beside replay: add --only replay"))
    bench = Bench(given.size, given.rounds, CACHE, peers)
    figures = run_benches(bench, given.only, _say)
    if given.json:
        given.json.write_text(as_json(bench, figures), "utf-8")
    return 0


def _say(text):
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
