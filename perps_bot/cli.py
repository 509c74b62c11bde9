"""Cli: which parts, put together how?

Arguments in, exit code out: this room parses, wires the parts and prints.  It decides nothing
about trading and hides no error.  Rooms that a command does not need are imported only when it
runs, so that `--version` and the small commands start at once.

Exit codes: 0 done and verified; 1 the answer is no, or a bug; 2 settings; 3 stopped or asked but
not verified; 75 another instance holds the lock.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from decimal import Decimal
from logging.handlers import RotatingFileHandler
from pathlib import Path

from perps_bot import __version__
from perps_bot.errors import ConfigError

DONE, NO, SETTINGS_WRONG, NOT_VERIFIED, LOCKED = 0, 1, 2, 3, 75
LOG_BYTES_MAX, LOG_FILES = 5_000_000, 5
STRATEGY_FLAGS = ("short_ma_period", "long_ma_period", "trailing_stop_pct", "target_leverage",
                  "max_position")
REPLAY_FLAGS = (*STRATEGY_FLAGS, "paper_equity", "fee_rate", "fee_per_contract", "slippage_bps",
                "bar")


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    try:
        return _dispatch(argv)
    except ConfigError as refusal:
        print(f"perps-bot: {refusal}", file=sys.stderr)
        return SETTINGS_WRONG
    except KeyboardInterrupt:
        print("perps-bot: interrupted; nothing was sent", file=sys.stderr)
        return NOT_VERIFIED
    except BrokenPipeError:
        # The reader went away (`| head`): say nothing more into the closed pipe at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return NOT_VERIFIED


@dataclass(frozen=True)
class Command:
    """One command: what runs it, how it is explained, and its own arguments."""

    run: Callable[[argparse.Namespace], int]
    help: str
    example: str
    arguments: Callable[[argparse.ArgumentParser], None]


class _Parser(argparse.ArgumentParser):
    """argparse, with refusals in one line like every other."""

    def error(self, message: str) -> None:
        raise ConfigError(f"{message}; see {self.prog} --help")


def _dispatch(argv: list[str]) -> int:
    if argv[:1] == ["--version"]:
        print(f"perps-bot {__version__}")
        return DONE
    if argv[:1] in (["--help"], ["-h"]):
        print(_overview())
        return DONE
    name = argv[0] if argv and not argv[0].startswith("-") else "run"
    command = COMMANDS.get(name)
    if command is None:
        raise ConfigError(f"{name!r} is no command; there are {' '.join(COMMANDS)}")
    parser = _Parser(
        prog=f"perps-bot {name}", description=command.help, allow_abbrev=False,
        epilog=f"example: {command.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.arguments(parser)
    return command.run(parser.parse_args(argv[1:] if argv[:1] == [name] else argv))


def _overview() -> str:
    rows = "\n".join(f"  {name:<8} {command.help}" for name, command in COMMANDS.items())
    return (f"perps-bot {__version__}: trades perpetual futures, unattended\n\ncommands (without "
            f"one it runs):\n{rows}\n\neach has --help with an example\nexample: "
            f"perps-bot --profile dev --dev-fast")


# run


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    from perps_bot.settings import add_flags

    add_flags(parser)
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings by name")


def _run(arguments: argparse.Namespace) -> int:
    from perps_bot.loop import StopRequest, SystemClock, recover, run
    from perps_bot.ops import Surfaces
    from perps_bot.settings import data_folder
    from perps_bot.store import InstanceLock, prepare_folder

    if not __debug__:
        raise ConfigError("python -O removes checks: start without -O and PYTHONOPTIMIZE")
    settings = _settings(arguments)
    folder = prepare_folder(data_folder(settings))
    lock = InstanceLock(folder / "lock")
    holder = lock.acquire()
    if holder is not None:
        print(f"perps-bot: {folder} is in use by pid {holder}; stop it first: kill -TERM {holder}",
              file=sys.stderr)
        return LOCKED
    _log_to(settings)
    bot = _bot(settings, folder)
    bot.surfaces = Surfaces(folder)
    bot.store.subscribe(bot.surfaces.apply)
    signals = StopRequest()
    signals.install()
    found = recover(bot)
    bot.surfaces.is_live = True
    print(f"perps-bot {__version__} profile={settings.profile} broker={bot.broker_name} "
          f"symbols={','.join(settings.symbols)} state={bot.risk.state} files={folder} "
          f"events_read={found.events} pid={os.getpid()}", flush=True)
    code = run(bot, SystemClock(signals), cycles=1 if settings.dev_fast else None)
    if settings.dev_fast:
        _print_cycle(bot)
    return code


def _settings(arguments: argparse.Namespace, environ: Mapping[str, str] | None = None):
    from perps_bot.settings import resolve

    flags = {k: v for k, v in vars(arguments).items() if k not in ("config", "json", "reason",
                                                                    "clear_daily_loss")}
    return resolve(flags, os.environ if environ is None else environ,
                   getattr(arguments, "config", None))


def _bot(settings, folder: Path):
    """The parts for a profile: which venue, and where its events are kept."""
    from perps_bot.loop import assemble
    from perps_bot.market import SyntheticMarket
    from perps_bot.paper import PaperBroker
    from perps_bot.settings import broker_kind
    from perps_bot.store import EventStore

    kind = broker_kind(settings)
    if kind != "paper-synthetic":
        raise ConfigError(
            f"profile {settings.profile} would need Coinbase, which this program cannot reach: "
            f"use --profile dev, or PERPS_FORCE_MOCK=1 for paper on a synthetic market"
        )
    market = SyntheticMarket(settings.seed)
    known = {product.symbol for product in market.products()}
    for symbol in settings.symbols:
        if symbol not in known:
            raise ConfigError(f"{symbol}: no such product; there are {' '.join(sorted(known))}")
    venue = PaperBroker(market, settings.paper_equity, settings.fee_rate,
                        settings.fee_per_contract, settings.slippage_bps)
    events = folder / ("events" if settings.profile == "dev" else "paper-events")
    return assemble(settings, venue, EventStore(events), kind, folder)


def _log_to(settings) -> None:
    """Send the diary to stderr and to the rotated file; nothing else may print there."""
    from perps_bot.store import prepare_folder

    path = prepare_folder(settings.log_dir) / "perps_bot.log"
    handlers = [logging.StreamHandler(),
                RotatingFileHandler(path, maxBytes=LOG_BYTES_MAX, backupCount=LOG_FILES)]
    os.chmod(path, 0o600)
    # A full disk must not make the logging module print tracebacks over the operator's screen.
    logging.raiseExceptions = False
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", handlers=handlers,
                        level=settings.log_level)


def _print_cycle(bot) -> None:
    for symbol in bot.symbols:
        position, mark = bot.tracker.get_position(symbol), bot.engine.marks.get(symbol)
        held = f"{position.quantity:f} @ {position.entry_price:f}" if position.quantity else "flat"
        print(f"{symbol}: mark {mark.price if mark else 'none'}, "
              f"{bot.strategy.bars(symbol)} of {bot.settings.long_ma_period} bars, "
              f"decision {bot.last_decisions.get(symbol, 'none')}, {held}")
    said = bot.trouble or bot.message
    print(f"one cycle {'FAILED: ' if bot.trouble else 'done'}"
          f"{' ' if said and not bot.trouble else ''}{said}; equity "
          f"{bot.tracker.last_equity} USD, state {bot.risk.state}")


# check, resume


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    _run_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _check(arguments: argparse.Namespace) -> int:
    from perps_bot.loop import SystemClock
    from perps_bot.market import SyntheticMarket
    from perps_bot.ops import check, settings_rows
    from perps_bot.settings import described

    settings = _settings(arguments)
    checks = list(check(settings, SyntheticMarket(settings.seed), SystemClock().now()))
    ok = all(row.ok for row in checks)
    if arguments.json:
        names = ("name", "value", "unit", "source")
        print(json.dumps({"ok": ok, "checks": [asdict(row) for row in checks],
                          "settings": [dict(zip(names, row)) for row in described(settings)]},
                         indent=2, default=str))
    else:
        print("\n".join(settings_rows(settings)))
        for row in checks:
            print(f"{'ok ' if row.ok else 'NO '} {row.name}: {row.text}")
        print(f"prices and product rules of the synthetic market; equity assumed "
              f"{settings.paper_equity} USD; the venue was not asked")
    return DONE if ok else NO


def _resume_arguments(parser: argparse.ArgumentParser) -> None:
    from perps_bot.settings import add_flags

    add_flags(parser, ("profile",))
    parser.add_argument("--reason", required=True, help="what was checked; kept in the events")
    parser.add_argument("--clear-daily-loss", action="store_true",
                        help="resume on the day on which the daily loss limit was hit")


def _resume(arguments: argparse.Namespace) -> int:
    from perps_bot.loop import SystemClock, recover
    from perps_bot.settings import data_folder
    from perps_bot.store import InstanceLock, prepare_folder

    settings = _settings(arguments)
    folder = data_folder(settings)
    if not folder.is_dir():
        raise ConfigError(f"{folder} does not exist: nothing ran there, nothing is halted")
    holder = InstanceLock(prepare_folder(folder) / "lock").acquire()
    if holder is not None:
        print(f"perps-bot: pid {holder} is running: kill -TERM {holder}, then resume",
              file=sys.stderr)
        return LOCKED
    bot = _bot(settings, folder)
    recover(bot)
    bot.store.now = SystemClock().now()
    lifted = bot.risk.resume(arguments.reason, bot.store.now.date(), arguments.clear_daily_loss)
    if not bot.store.writable:
        print(f"perps-bot: not resumed: {bot.store.trouble}", file=sys.stderr)
        return NOT_VERIFIED
    print(f"resumed: {', '.join(lifted) or 'nothing was held'}; state {bot.risk.state}")
    return DONE


# replay


def _replay_arguments(parser: argparse.ArgumentParser) -> None:
    from perps_bot.settings import add_flags

    add_flags(parser, REPLAY_FLAGS)
    parser.add_argument("files", nargs="+", metavar="FILE", help="CSV or .csv.gz, a symbol each")
    for flag, what in (("symbol", "symbol of a file; repeat in the order of the files"),
                       ("funding", "funding rates; repeat in the order of the files")):
        parser.add_argument(f"--{flag}", action="append", default=[], metavar=flag.upper(),
                            help=what)
    parser.add_argument("--from", dest="begin", metavar="TIME", help="first row, ISO 8601, UTC")
    parser.add_argument("--to", dest="end", metavar="TIME", help="rows before this, ISO 8601, UTC")
    parser.add_argument("--events", metavar="DIR", help="write the events there")
    parser.add_argument("--trades", metavar="FILE", help="write every fill as CSV")
    parser.add_argument("--equity-curve", metavar="FILE", help="write time,equity as CSV")
    parser.add_argument("--skip-bad-rows", action="store_true", help="count bad rows and go on")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings by name")


def _replay(arguments: argparse.Namespace) -> int:
    from perps_bot.loop import SystemClock
    from perps_bot.market import RecordedMarket
    from perps_bot.replay import replay

    flags = {name: value for name, value in vars(arguments).items() if name in REPLAY_FLAGS}
    symbols = arguments.symbol or ["BTC-PERP"]
    settings = _settings(argparse.Namespace(
        **flags, profile="dev", symbols=symbols, config=arguments.config))
    bar = settings.bar if settings.sources["bar"].startswith(("flag", "config")) else None
    market = RecordedMarket(
        arguments.files, symbols, arguments.funding, bar, _time("--from", arguments.begin),
        _time("--to", arguments.end), arguments.skip_bad_rows,
    )
    outputs = [None if name is None else Path(name)
               for name in (arguments.events, arguments.trades, arguments.equity_curve)]
    _refuse_overwriting(*outputs)
    progress = _progress if sys.stderr.isatty() else None
    clock = SystemClock()
    result = replay(market, settings, *outputs, progress)
    seconds = clock.elapsed()
    if progress:
        print("\r\033[K", end="", file=sys.stderr)
    row = {**asdict(result), "bars_per_second": result.bars / seconds}
    print(_json(row) if arguments.json else _report(row))
    return DONE


def _time(flag: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError as wrong:
        raise ConfigError(f"{flag} {text}: not a time such as 2025-05-05 or "
                          f"2025-05-05T12:00:00Z") from wrong
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _refuse_overwriting(events: Path | None, *files: Path | None) -> None:
    if events is not None and events.exists() and any(events.iterdir()):
        raise ConfigError(f"--events {events}: is not empty; name a new folder")
    for path in files:
        if path is not None and not path.parent.is_dir():
            raise ConfigError(f"{path}: its folder does not exist")


def _progress(done: Decimal) -> None:
    print(f"\r{done:.0%} read", end="", file=sys.stderr, flush=True)


def _json(row: Mapping[str, object]) -> str:
    def plain(value: object) -> str:
        return f"{value:f}" if isinstance(value, Decimal) else value.isoformat()

    return json.dumps(row, default=plain)


def _report(row: Mapping[str, object]) -> str:
    percent = ("return_pct", "win_rate", "max_drawdown_pct", "exposure")
    lines = []
    for name, value in row.items():
        if name in percent and value is not None:
            value = f"{value:.2%}"
        elif isinstance(value, Decimal):
            value = f"{value:,.2f}"
        elif isinstance(value, dict):
            value = ", ".join(f"{code} {count}" for code, count in value.items()) or "none"
        lines.append(f"{name.replace('_', ' '):<18} {'not defined' if value is None else value}")
    return "\n".join(lines)


COMMANDS = {
    "run": Command(_run, "trade until stopped", "perps-bot --profile dev --dev-fast",
                   _run_arguments),
    "perps": Command(_run, "the same as run", "perps-bot perps --profile dev --dev-fast",
                     _run_arguments),
    "check": Command(_check, "show every setting, and whether orders are possible with them",
                     "perps-bot check --profile demo --max-position 2000", _check_arguments),
    "replay": Command(_replay, "run the same loop over recorded prices",
                      "perps-bot replay btc-1m.csv.gz --symbol BTC-PERP", _replay_arguments),
    "resume": Command(_resume, "lift a halt, with a reason",
                      "perps-bot resume --profile prod --reason 'checked the positions'",
                      _resume_arguments),
}
