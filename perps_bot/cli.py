"""Cli: which command was asked for, and with which arguments?

Arguments in, exit code out: this room parses, dispatches and turns what was raised into one line.
What a command does stands in `commands`.  Only the rooms that every command needs are imported
here, so that `--version` and `--help` start at once.

Exit codes: 0 done and verified; 1 the answer is no, or a bug; 2 settings; 3 stopped or asked but
not verified; 4 orders or positions unknown; 75 another instance holds the lock.
"""

import argparse
import sys
from collections import namedtuple
from collections.abc import Collection
from functools import partial

from perps_bot import __version__, commands, process
from perps_bot.commands import DONE, LOCKED, NOT_VERIFIED, SETTINGS_WRONG
from perps_bot.errors import ConfigError, InUse, VenueUnavailable
from perps_bot.rooms import rooms

REPLAY_FLAGS = ("short_ma_period", "long_ma_period", "trailing_stop_pct", "target_leverage",
                "max_position", "paper_equity", "fee_rate", "fee_per_contract", "slippage_bps",
                "bar")
# What is asked every minute and beside a bot that trades: it starts no thread, logs nothing, loads
# as little as it can, and is over at once.
BRIEF = ("--version", "status", "health")


def program() -> int:
    """Be the process: run what the command line says, and end with its exit code."""
    process.begin()
    is_brief = sys.argv[1:] and sys.argv[1] in BRIEF and "--watch" not in sys.argv
    if not is_brief:
        process.begin_work()
    try:
        code = main()
    finally:
        process.end()
    if is_brief:
        process.leave(code)
    return code


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        return _dispatch(sys.argv[1:] if argv is None else argv)
    except ConfigError as refusal:
        process.complain(str(refusal))
        return LOCKED if isinstance(refusal, InUse) else SETTINGS_WRONG
    except VenueUnavailable as failure:
        process.complain(f"the venue could not be asked: {failure}; perps-bot check tells more")
        return NOT_VERIFIED
    except KeyboardInterrupt:
        process.complain("interrupted; nothing was sent")
        return NOT_VERIFIED


class Command(namedtuple("Command", "run help example settings arguments notes",
                         defaults=("",))):
    """One command: what runs it, how it is explained, and what may be said to it.

    run        takes the parsed arguments and returns the exit code
    example    that works, behind perps-bot
    settings   the rows of the settings' table that are flags of it; None: all that have one
    arguments  its own, as argparse takes them: name and form
    notes      what its --help says besides
    """

    __slots__ = ()


class _Parser(argparse.ArgumentParser):
    """argparse, with refusals in one line like every other."""

    def error(self, message: str) -> None:
        raise ConfigError(f"{message}; see {self.prog} --help")

    def print_help(self, file=None) -> None:
        self.exit(DONE if process.answer(self.format_help().rstrip()) else NOT_VERIFIED)


def _dispatch(argv: list[str]) -> int:
    if argv[:1] in (["--version"], ["--help"], ["-h"]):
        text = f"perps-bot {__version__}" if argv[0] == "--version" else _overview()
        return DONE if process.answer(text) else NOT_VERIFIED
    if not __debug__:
        raise ConfigError("python -O removes checks: start without -O and PYTHONOPTIMIZE")
    name, rest = ("run", argv) if not argv or argv[0].startswith("-") else (argv[0], argv[1:])
    if name not in COMMANDS:
        raise ConfigError(f"{name!r} is no command; there are {' '.join(COMMANDS)}: see "
                          f"perps-bot --help")
    try:
        arguments = _parser(name).parse_args(rest)
    except SystemExit as printed:  # --help
        return printed.code
    if name not in BRIEF:  # the diary goes where `run` says; else Python would print warnings
        import logging

        logging.getLogger("perps_bot").handlers = [logging.NullHandler()]
    return COMMANDS[name].run(arguments)


def _parser(name: str) -> argparse.ArgumentParser:
    command = COMMANDS[name]
    parser = _Parser(
        prog=f"perps-bot {name}", description=command.help, allow_abbrev=False,
        epilog=f"example: perps-bot {command.example}{command.notes}",
        formatter_class=_unshown,
    )
    parser.color = False  # newer ones paint help, and `answer` prints no foreign codes
    add_flags(parser, command.settings)
    for argument, form in command.arguments:
        parser.add_argument(argument, **form)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def _unshown(prog: str) -> argparse.HelpFormatter:
    """argparse makes one with every argument, and would ask each time how wide the terminal is."""
    return argparse.HelpFormatter(prog, width=80)


def _overview() -> str:
    groups = ("".join((f"\n{heading}\n", *(f"  {name:<10} {row.help}\n"
                                           for name, row in rows.items())))
              for heading, rows in GROUPS.items())
    return (f"perps-bot {__version__}: trades perpetual futures, unattended\n\n"
            f"commands (without one it runs):\n{''.join(groups)}\n"
            f"each has --help with an example; begin with: perps-bot init")


# The settings table as flags


def add_flags(parser: argparse.ArgumentParser, names: Collection[str] | None = None) -> None:
    """Add the table's flags, all or only `names`, as raw text: only `resolve` refuses.

    A flag that is not given is absent from the namespace.
    """
    for row in rooms.settings.SETTINGS:
        if row.flag is None or (names is not None and row.name not in names):
            continue
        if bool in row.kind.types:
            flag, form = switch(row.flag, _flag_help(row))
        else:
            taking = texts if list in row.kind.types else text
            flag, form = taking(row.flag, row.kind.metavar, _flag_help(row))
        parser.add_argument(flag, dest=row.name, default=argparse.SUPPRESS, **form)


def _flag_help(row) -> str:
    if bool in row.kind.types:
        return row.help
    said = "by profile" if row.name in rooms.settings.PROFILES["dev"] else (
        rooms.settings.printable(row, row.default))
    facts = filter(None, (row.unit, row.kind.allowed, f"default {said}"))
    return f"{row.help} ({'; '.join(facts)})"


# The arguments that are not settings


def text(name: str, shown: str, help: str, **form: object) -> tuple[str, dict]:
    return name, {"metavar": shown, "help": help, **form}


def switch(name: str, help: str, **form: object) -> tuple[str, dict]:
    return name, {"action": "store_true", "help": help, **form}


# Several at once; and one with each time that it is said.
texts, each = partial(text, action="extend", nargs="+"), partial(text, action="append")
PROFILE, RUN = ("profile",), ("profile", "dry_run")
CONFIG = text("--config", "FILE", "TOML file with settings by name")
USUAL = CONFIG, switch("--json", "print one JSON object")
KILL = switch("--kill", "end a bot that does not answer within 10 s, and act without it")
ROWS = (  # of a file
    text("--from", "TIME", "first row, ISO 8601, UTC"),
    text("--to", "TIME", "rows before this, ISO 8601, UTC"),
    switch("--skip-bad-rows", "count bad rows and go on"),
)
HISTORY = (  # whose events, and which of them
    text("folder", "FOLDER", "what replay --events made, in place of a profile's events",
         nargs="?"),
    text("--from", "TIME", "first event, ISO 8601, UTC"),
    text("--to", "TIME", "events before this, ISO 8601, UTC"),
    switch("--force", "replace files that are there"),
)

# How the overview shows them.
GROUPS = {
    "before a start": {
        "init": Command(
            commands.init, "write a commented config file, make the folders, say what next",
            "init --profile dev", PROFILE, (
                text("--config", "FILE", "the file to write, in DIR (default perps.toml)",
                     default="perps.toml"),
                text("--dir", "DIR", "where (default: here)", default="."), USUAL[1])),
        "check": Command(
            commands.check, "show every setting, and whether orders are possible with them",
            "check --profile dev --max-position 2000", None, (
                *USUAL, switch("--send-test-alert", "post one to PERPS_ALERT_WEBHOOK_URL"))),
        "products": Command(
            commands.products, "list what can be traded, with sizes, margin and session",
            "products --profile dev", ("profile", "seed"), USUAL),
        "symbol": Command(
            commands.symbol, "one product in full, and whether an order is possible now",
            "symbol BTC-PERP",
            ("profile", "seed", "bar", "paper_equity", "max_position", "target_leverage"),
            (*USUAL, text("name", "SYMBOL", "as BTC-PERP, or the venue's id"))),
        "validate": Command(
            commands.validate, "validation scripts: client, ws, strategy, e2e",
            "validate e2e", None,
            (CONFIG, ("what", {"choices": ("client", "ws", "strategy", "e2e")}))),
        "drill": Command(
            commands.drill, "rehearse the emergencies on paper, and write the page",
            "drill --profile dev --out drills", None, (
                *USUAL, text("--out", "DIR|FILE.md",
                             "where the page goes (default: a new folder for temporary files)"))),
    },
    "run": {
        "run": Command(
            commands.run, "trade until stopped", "--profile dev --dev-fast", None, (CONFIG,)),
        "perps": Command(
            commands.run, "the same as run", "perps --profile dev --dev-fast", None, (CONFIG,)),
    },
    "watch": {
        "status": Command(
            commands.status, "what it holds, earns and may still do, and whether that is of now",
            "status --profile dev", RUN, (
                *USUAL, switch("--watch",
                               "redraw every second; keys: q quits, space pages, h helps")),
            "\nexit code: 0 shown and all well, 1 not well or not running, 2 settings, no such\n"
            "  bot, 3 something cannot be known"),
        "health": Command(
            commands.health, "one line and an exit code for a monitor",
            "health --profile dev --max-age 60", RUN, (
                *USUAL, text("--max-age", "SECONDS",
                             "the oldest health that is fresh (default: as long as it says)")),
            "\nexit code: 0 ok and fresh, 1 not ok, too old or not running, 2 settings,\n"
            "  no such bot, or no health.json that can be read"),
        "tail": Command(
            commands.tail, "the newest events in plain words", "tail --profile dev -n 5", RUN, (
                *USUAL,
                text("-n", "N", "events to begin with (default 20)", dest="count", default="20"),
                switch("-f", "go on with what comes, until Ctrl-C", dest="follow"),
                texts("--type", "TYPE", "only these, as trade.executed; order stands for order.*",
                      default=[]))),
        "why": Command(
            commands.why, "why it did not trade: the last decisions on a symbol",
            "why BTC-PERP --profile dev --ticks 50", RUN, (
                *USUAL, text("name", "SYMBOL", "as BTC-PERP"),
                text("--ticks", "N", "decisions to look back (default 20)", default="20"))),
    },
    "emergency": {
        "halt": Command(
            commands.halt, "open nothing any more, and take back resting entries",
            "halt 'the news' --profile dev", RUN, (
                *USUAL, KILL,
                ("reason", {"help": "why, as one argument; kept in the events"}),
                switch("--reduce-only", dest="stays",
                       help="REDUCING instead of HALTED: positions may still be managed"))),
        "close-all": Command(
            commands.close_all, "cancel every order, close every position, and stay HALTED",
            "close-all --profile dev --yes", RUN, (
                *USUAL, KILL,
                texts("--symbols", "SYMBOL", "only these (default: all that the bot trades)",
                      default=argparse.SUPPRESS),
                text("--reason", None, "why; kept in the events", default="close-all by the owner"),
                switch("--yes", "do not ask"))),
        "resume": Command(
            commands.resume, "lift a halt, with a reason",
            "resume --profile dev --reason 'checked the positions'", RUN, (
                *USUAL, KILL,
                text("--reason", None, "what was checked; kept in the events", required=True),
                switch("--clear-daily-loss",
                       "resume on the day on which the daily loss limit was hit"))),
    },
    "understand": {
        "report": Command(
            commands.report, "how it did: figures, trades, costs; as text or a page",
            "report --profile dev --from 2026-11-01", RUN, (
                *USUAL, *HISTORY, text("--html", "FILE", "write one page that opens offline"),
                text("--csv", "FILE", "write the trade table"))),
        "export": Command(
            commands.export, "write events as tables for a spreadsheet",
            "export --profile dev --csv trades trades.csv", RUN, (
                CONFIG, *HISTORY,
                each("--csv", ("KIND", "FILE"), "trades, fills, equity, events or funding, and "
                     "where to; repeat", nargs=2, required=True))),
        "replay": Command(
            commands.replay, "run the same loop over recorded prices",
            "replay btc-1m.csv.gz --symbol BTC-PERP", (*RUN, *REPLAY_FLAGS), (
                *USUAL, text("files", "FILE", "CSV or .csv.gz, a symbol each", nargs="*"),
                text("--recorded", "DAY",
                     "instead of a FILE: the recorded day 2026-11-23, or its events' file, through "
                     "today's code, with the day's own settings"),
                each("--symbol", "SYMBOL", "symbol of a file (default BTC-PERP); repeat in the "
                     "files' order", default=[]),
                each("--funding", "FILE", "funding rates; repeat in the order of the files",
                     default=[]),
                *ROWS,
                text("--events", "DIR", "write the events there, into a new folder"),
                text("--trades", "FILE", "write every fill as CSV"),
                text("--equity-curve", "FILE", "write time,equity as CSV"))),
        "sweep": Command(
            commands.sweep, "compare settings on prices they were not chosen by",
            "sweep btc-1m.csv.gz --set short_ma_period=5,10 --set long_ma_period=20,50 --split 0.7",
            (*PROFILE, *REPLAY_FLAGS), (
                *USUAL, text("file", "FILE", "CSV or .csv.gz of candles"),
                each("--set", "NAME=V,V", "values to try of a setting, by its name in the config "
                     "file; repeat for a grid", default=[]),
                text("--list", "FILE", "combinations to try: CSV or JSON, a row each"),
                text("--split", "N", "fraction of the bars that is in sample (default 0.7)",
                     default="0.7"),
                text("--jobs", "N", "processes (default: all processors)"),
                text("--top", "N", "rows to print (default 20)", default="20"),
                text("--symbol", "SYMBOL", "symbol of the file (default BTC-PERP)",
                     default="BTC-PERP"),
                *ROWS,
                text("--out", "FILE",
                     "keep each result there; the same command goes on from it"),
                text("--csv", "FILE", "write all rows with all figures"),
                text("--funding", "FILE", "funding rates", nargs=1, default=[])),
            "\neach combination runs twice: over the first part of the bars, and over the rest, "
            "from the\n  same equity, flat, its averages warmed on the bars before the split "
            "without trading;\n  the second ranks.  exit code: 0 all done, 2 settings, 3 not all "
            "done"),
    },
    "keep": {
        "backup": Command(
            commands.backup, "copy the events to a folder, verified, while it runs",
            "backup backups --profile dev --keep-days 30", PROFILE, (
                *USUAL, text("folder", "DEST", "an existing folder, best on another disk"),
                text("--keep-days", "N",
                     "then remove backups of this profile that are older (default: none)"))),
        "restore": Command(
            commands.restore, "put a backup into an empty folder, halted",
            "restore backups/perps-bot-dev-20261123T030000Z", PROFILE, (
                *USUAL, text("folder", "SRC", "a folder that backup made"))),
    },
}
COMMANDS = {name: row for rows in GROUPS.values() for name, row in rows.items()}
