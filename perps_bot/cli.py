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

from perps_bot import __version__, commands, process
from perps_bot.commands import DONE, LOCKED, NOT_VERIFIED, SETTINGS_WRONG
from perps_bot.errors import ConfigError, InUse, VenueUnavailable

REPLAY_FLAGS = ("short_ma_period", "long_ma_period", "trailing_stop_pct", "target_leverage",
                "max_position", "paper_equity", "fee_rate", "fee_per_contract", "slippage_bps",
                "bar")
KEEP_DAYS_MAX = 36_500
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


# How the overview shows them; what is named nowhere stands at its end.
GROUPS = (
    ("before a start", "init check products symbol validate drill"),
    ("run",            "run perps"),
    ("watch",          "status health tail why"),
    ("emergency",      "halt close-all resume"),
    ("understand",     "report export replay sweep"),
    ("keep",           "backup restore"),
)


class Command(namedtuple("Command", "run help example arguments")):
    """One command: what runs it, how it is explained, and its own arguments.

    run        takes the parsed arguments and returns the exit code
    arguments  adds them to a parser
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
    if name not in BRIEF:
        _hush()
    return COMMANDS[name].run(arguments)


def _hush() -> None:
    """The diary goes where `run` says; without this, Python would print warnings on its own."""
    import logging

    logging.getLogger("perps_bot").handlers = [logging.NullHandler()]


def _parser(name: str) -> argparse.ArgumentParser:
    command = COMMANDS[name]
    parser = _Parser(
        prog=f"perps-bot {name}", description=command.help, allow_abbrev=False,
        epilog=f"example: {command.example}",
        formatter_class=_unshown,
    )
    parser.color = False  # newer ones paint help, and `answer` prints no foreign codes
    command.arguments(parser)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    return parser


def _unshown(prog: str) -> argparse.HelpFormatter:
    """argparse makes one with every argument, and would ask each time how wide the terminal is."""
    return argparse.HelpFormatter(prog, width=80)


def _overview() -> str:
    placed = [name for _, names in GROUPS for name in names.split()]
    groups = (*GROUPS, ("more", " ".join(name for name in COMMANDS if name not in placed)))
    parts = [f"perps-bot {__version__}: trades perpetual futures, unattended\n\n"
             f"commands (without one it runs):\n"]
    for heading, names in groups:
        rows = [f"  {name:<10} {COMMANDS[name].help}\n" for name in names.split()
                if name in COMMANDS]
        parts += (f"\n{heading}\n", *rows) if rows else ()
    return "".join((*parts, "\neach has --help with an example; begin with: perps-bot init"))


# The settings table as flags


def add_flags(parser: argparse.ArgumentParser, names: Collection[str] | None = None) -> None:
    """Add the table's flags, all or only `names`, as raw text: only `resolve` refuses.

    A flag that is not given is absent from the namespace.
    """
    from perps_bot.settings import SETTINGS

    for row in SETTINGS:
        if row.flag is None or (names is not None and row.name not in names):
            continue
        if bool in row.kind.types:
            form = {"action": "store_true"}
        elif list in row.kind.types:
            form = {"action": "extend", "nargs": "+", "metavar": row.kind.metavar}
        else:
            form = {"metavar": row.kind.metavar}
        parser.add_argument(
            row.flag, dest=row.name, default=argparse.SUPPRESS, help=_flag_help(row), **form)


def _flag_help(row) -> str:
    from perps_bot.settings import PROFILES, printable

    if bool in row.kind.types:
        return row.help
    said = "by profile" if row.name in PROFILES["dev"] else printable(row, row.default)
    facts = filter(None, (row.unit, row.kind.allowed, f"default {said}"))
    return f"{row.help} ({'; '.join(facts)})"


# The arguments of each command


def _config_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings by name")


def _json_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    add_flags(parser)
    _config_argument(parser)


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    _run_arguments(parser)
    _json_argument(parser)
    parser.add_argument("--send-test-alert", action="store_true",
                        help="post one to PERPS_ALERT_WEBHOOK_URL")


def _products_arguments(parser: argparse.ArgumentParser) -> None:
    add_flags(parser, ("profile", "seed"))
    _config_argument(parser)
    _json_argument(parser)


def _symbol_arguments(parser: argparse.ArgumentParser) -> None:
    add_flags(parser, ("profile", "seed", "bar", "paper_equity", "max_position", "target_leverage"))
    _config_argument(parser)
    _json_argument(parser)
    parser.add_argument("name", metavar="SYMBOL", help="as BTC-PERP, or the venue's id")


def _validate_arguments(parser: argparse.ArgumentParser) -> None:
    _run_arguments(parser)
    parser.add_argument("what", choices=("client", "ws", "strategy", "e2e"))


def _init_arguments(parser: argparse.ArgumentParser) -> None:
    add_flags(parser, ("profile",))
    parser.add_argument("--config", metavar="FILE", default="perps.toml",
                        help="the file to write, in DIR (default perps.toml)")
    parser.add_argument("--dir", metavar="DIR", default=".", help="where (default: here)")
    _json_argument(parser)


def _drill_arguments(parser: argparse.ArgumentParser) -> None:
    _run_arguments(parser)
    _json_argument(parser)
    parser.add_argument("--out", metavar="DIR|FILE.md",
                        help="where the page goes (default: a new folder for temporary files)")


def _emergency_arguments(parser: argparse.ArgumentParser) -> None:
    add_flags(parser, ("profile", "dry_run"))
    _config_argument(parser)
    _json_argument(parser)
    parser.add_argument("--kill", action="store_true",
                        help="end a bot that does not answer within 10 s, and act without it")


def _halt_arguments(parser: argparse.ArgumentParser) -> None:
    _emergency_arguments(parser)
    parser.add_argument("reason", help="why, as one argument; kept in the events")
    parser.add_argument("--reduce-only", dest="stays", action="store_true",
                        help="REDUCING instead of HALTED: positions may still be managed")


def _close_all_arguments(parser: argparse.ArgumentParser) -> None:
    _emergency_arguments(parser)
    parser.add_argument("--symbols", nargs="+", action="extend", default=argparse.SUPPRESS,
                        metavar="SYMBOL", help="only these (default: all that the bot trades)")
    parser.add_argument("--reason", default="close-all by the owner",
                        help="why; kept in the events")
    parser.add_argument("--yes", action="store_true", help="do not ask")


def _resume_arguments(parser: argparse.ArgumentParser) -> None:
    _emergency_arguments(parser)
    parser.add_argument("--reason", required=True, help="what was checked; kept in the events")
    parser.add_argument("--clear-daily-loss", action="store_true",
                        help="resume on the day on which the daily loss limit was hit")


def _profile_arguments(parser: argparse.ArgumentParser) -> None:
    add_flags(parser, ("profile", "dry_run"))
    _config_argument(parser)
    _json_argument(parser)


def _status_arguments(parser: argparse.ArgumentParser) -> None:
    _profile_arguments(parser)
    parser.epilog += ("\nexit code: 0 shown and all well, 1 not well or not running, 2 settings, "
                      "no such\n  bot, 3 something cannot be known")
    parser.add_argument("--watch", action="store_true",
                        help="redraw every second; keys: q quits, space pages, h helps")


def _health_arguments(parser: argparse.ArgumentParser) -> None:
    _profile_arguments(parser)
    parser.epilog += ("\nexit code: 0 ok and fresh, 1 not ok, too old or not running, 2 settings,\n"
                      "  no such bot, or no health.json that can be read")
    parser.add_argument("--max-age", metavar="SECONDS",
                        help="the oldest health that is fresh (default: as long as it says)")


def _events_arguments(parser: argparse.ArgumentParser) -> None:
    _profile_arguments(parser)


def _why_arguments(parser: argparse.ArgumentParser) -> None:
    _events_arguments(parser)
    parser.add_argument("name", metavar="SYMBOL", help="as BTC-PERP")
    parser.add_argument("--ticks", metavar="N", default="20",
                        help="decisions to look back (default 20)")


def _tail_arguments(parser: argparse.ArgumentParser) -> None:
    _events_arguments(parser)
    parser.add_argument("-n", dest="count", metavar="N", default="20",
                        help="events to begin with (default 20)")
    parser.add_argument("-f", dest="follow", action="store_true",
                        help="go on with what comes, until Ctrl-C")
    parser.add_argument("--type", nargs="+", action="extend", default=[], metavar="TYPE",
                        help="only these, as trade.executed; order stands for order.*")


def _backup_arguments(parser: argparse.ArgumentParser) -> None:
    _restore_arguments(parser, "DEST", "an existing folder, best on another disk")
    parser.add_argument("--keep-days", type=_keep_days, metavar="N",
                        help="then remove backups of this profile that are older (default: none)")


def _restore_arguments(parser: argparse.ArgumentParser, name: str = "SRC",
                       what: str = "a folder that backup made") -> None:
    add_flags(parser, ("profile",))
    _config_argument(parser)
    _json_argument(parser)
    parser.add_argument("folder", metavar=name, help=what)


def _keep_days(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text[:6]) <= KEEP_DAYS_MAX):
        raise ConfigError(f"--keep-days {text[:20]}: must be a whole number from 1 to "
                          f"{KEEP_DAYS_MAX}; days")
    return int(text)


def _replay_arguments(parser: argparse.ArgumentParser) -> None:
    add_flags(parser, ("profile", "dry_run", *REPLAY_FLAGS))
    _config_argument(parser)
    parser.add_argument("files", nargs="*", metavar="FILE", help="CSV or .csv.gz, a symbol each")
    parser.add_argument("--recorded", metavar="DAY",
                        help="instead of a FILE: the recorded day 2026-11-23, or its events' file, "
                             "through today's code, with the day's own settings")
    for flag, shown, what in (
        ("--symbol", "SYMBOL", "symbol of a file (default BTC-PERP); repeat in the files' order"),
        ("--funding", "FILE", "funding rates; repeat in the order of the files"),
    ):
        parser.add_argument(flag, action="append", default=[], metavar=shown, help=what)
    for flag, shown, what in (
        ("--from", "TIME", "first row, ISO 8601, UTC"),
        ("--to", "TIME", "rows before this, ISO 8601, UTC"),
        ("--events", "DIR", "write the events there, into a new folder"),
        ("--trades", "FILE", "write every fill as CSV"),
        ("--equity-curve", "FILE", "write time,equity as CSV"),
    ):
        parser.add_argument(flag, metavar=shown, help=what)
    parser.add_argument("--skip-bad-rows", action="store_true", help="count bad rows and go on")
    _json_argument(parser)


def _sweep_arguments(parser: argparse.ArgumentParser) -> None:
    add_flags(parser, ("profile", *REPLAY_FLAGS))
    _config_argument(parser)
    parser.epilog += (
        "\neach combination runs twice: over the first part of the bars, and over the rest, from "
        "the\n  same equity, flat, its averages warmed on the bars before the split without "
        "trading;\n  the second ranks.  exit code: 0 all done, 2 settings, 3 not all done")
    parser.add_argument("file", metavar="FILE", help="CSV or .csv.gz of candles")
    parser.add_argument("--set", action="append", default=[], metavar="NAME=V,V",
                        help="values to try of a setting, by its name in the config file; repeat "
                             "for a grid")
    for flag, shown, default, what in (
        ("--list", "FILE", None, "combinations to try: CSV or JSON, a row each"),
        ("--split", "N", "0.7", "fraction of the bars that is in sample (default 0.7)"),
        ("--jobs", "N", None, "processes (default: all processors)"),
        ("--top", "N", "20", "rows to print (default 20)"),
        ("--symbol", "SYMBOL", "BTC-PERP", "symbol of the file (default BTC-PERP)"),
        ("--from", "TIME", None, "first row, ISO 8601, UTC"),
        ("--to", "TIME", None, "rows before this, ISO 8601, UTC"),
        ("--out", "FILE", None, "keep each result there; the same command goes on from it"),
        ("--csv", "FILE", None, "write all rows with all figures"),
    ):
        parser.add_argument(flag, metavar=shown, default=default, help=what)
    parser.add_argument("--funding", metavar="FILE", nargs=1, default=[], help="funding rates")
    parser.add_argument("--skip-bad-rows", action="store_true", help="count bad rows and go on")
    _json_argument(parser)


def _history_arguments(parser: argparse.ArgumentParser) -> None:
    """Whose events, and which of them."""
    add_flags(parser, ("profile", "dry_run"))
    _config_argument(parser)
    parser.add_argument("folder", nargs="?", metavar="FOLDER",
                        help="what replay --events made, in place of a profile's events")
    parser.add_argument("--from", metavar="TIME", help="first event, ISO 8601, UTC")
    parser.add_argument("--to", metavar="TIME", help="events before this, ISO 8601, UTC")
    parser.add_argument("--force", action="store_true", help="replace files that are there")


def _report_arguments(parser: argparse.ArgumentParser) -> None:
    _history_arguments(parser)
    _json_argument(parser)
    parser.add_argument("--html", metavar="FILE", help="write one page that opens offline")
    parser.add_argument("--csv", metavar="FILE", help="write the trade table")


def _export_arguments(parser: argparse.ArgumentParser) -> None:
    _history_arguments(parser)
    parser.add_argument("--csv", nargs=2, action="append", required=True,
                        metavar=("KIND", "FILE"),
                        help="trades, fills, equity, events or funding, and where to; repeat")


COMMANDS = {
    "init": Command(commands.init, "write a commented config file, make the folders, say what next",
                    "perps-bot init --profile dev", _init_arguments),
    "run": Command(commands.run, "trade until stopped", "perps-bot --profile dev --dev-fast",
                   _run_arguments),
    "perps": Command(commands.run, "the same as run", "perps-bot perps --profile dev --dev-fast",
                     _run_arguments),
    "check": Command(commands.check,
                     "show every setting, and whether orders are possible with them",
                     "perps-bot check --profile dev --max-position 2000", _check_arguments),
    "status": Command(commands.status,
                      "what it holds, earns and may still do, and whether that is of now",
                      "perps-bot status --profile dev", _status_arguments),
    "health": Command(commands.health,
                      "one line and an exit code for a monitor",
                      "perps-bot health --profile dev --max-age 60", _health_arguments),
    "why": Command(commands.why, "why it did not trade: the last decisions on a symbol",
                   "perps-bot why BTC-PERP --profile dev --ticks 50", _why_arguments),
    "tail": Command(commands.tail, "the newest events in plain words",
                    "perps-bot tail --profile dev -n 5", _tail_arguments),
    "products": Command(commands.products,
                        "list what can be traded, with sizes, margin and session",
                        "perps-bot products --profile dev", _products_arguments),
    "symbol": Command(commands.symbol, "one product in full, and whether an order is possible now",
                      "perps-bot symbol BTC-PERP", _symbol_arguments),
    "validate": Command(commands.validate, "validation scripts: client, ws, strategy, e2e",
                        "perps-bot validate e2e", _validate_arguments),
    "replay": Command(commands.replay, "run the same loop over recorded prices",
                      "perps-bot replay btc-1m.csv.gz --symbol BTC-PERP", _replay_arguments),
    "sweep": Command(commands.sweep, "compare settings on prices they were not chosen by",
                     "perps-bot sweep btc-1m.csv.gz --set short_ma_period=5,10 --set "
                     "long_ma_period=20,50 --split 0.7", _sweep_arguments),
    "halt": Command(commands.halt, "open nothing any more, and take back resting entries",
                    "perps-bot halt 'the news' --profile dev", _halt_arguments),
    "close-all": Command(commands.close_all,
                         "cancel every order, close every position, and stay HALTED",
                         "perps-bot close-all --profile dev --yes", _close_all_arguments),
    "report": Command(commands.report, "how it did: figures, trades, costs; as text or a page",
                      "perps-bot report --profile dev --from 2026-11-01", _report_arguments),
    "export": Command(commands.export, "write events as tables for a spreadsheet",
                      "perps-bot export --profile dev --csv trades trades.csv", _export_arguments),
    "resume": Command(commands.resume, "lift a halt, with a reason",
                      "perps-bot resume --profile dev --reason 'checked the positions'",
                      _resume_arguments),
    "backup": Command(commands.backup, "copy the events to a folder, verified, while it runs",
                      "perps-bot backup backups --profile dev --keep-days 30",
                      _backup_arguments),
    "restore": Command(commands.restore, "put a backup into an empty folder, halted",
                       "perps-bot restore backups/perps-bot-dev-20261123T030000Z",
                       _restore_arguments),
    "drill": Command(commands.drill, "rehearse the emergencies on paper, and write the page",
                     "perps-bot drill --profile dev --out drills", _drill_arguments),
}
