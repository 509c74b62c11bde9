"""Cli: which parts, put together how?

Arguments in, exit code out: this room parses, wires the parts and prints.  It decides nothing
about trading and hides no error.  Rooms that a command does not need are imported only when it
runs, so that `--version` and `--help` start at once.

Exit codes: 0 done and verified; 1 the answer is no, or a bug; 2 settings; 3 stopped or asked but
not verified; 75 another instance holds the lock.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from decimal import Decimal
from pathlib import Path

from perps_bot import __version__
from perps_bot.errors import ConfigError, VenueUnavailable

DONE, NO, SETTINGS_WRONG, NOT_VERIFIED, LOCKED = 0, 1, 2, 3, 75
REPLAY_FLAGS = ("short_ma_period", "long_ma_period", "trailing_stop_pct", "target_leverage",
                "max_position", "paper_equity", "fee_rate", "fee_per_contract", "slippage_bps",
                "bar")

log = logging.getLogger("perps_bot")


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    try:
        return _dispatch(sys.argv[1:] if argv is None else argv)
    except ConfigError as refusal:
        _complain(str(refusal))
        return LOCKED if isinstance(refusal, _InUse) else SETTINGS_WRONG
    except VenueUnavailable as failure:
        _complain(f"the venue could not be asked: {failure}")
        return NOT_VERIFIED
    except KeyboardInterrupt:
        _complain("interrupted; nothing was sent")
        return NOT_VERIFIED


def tell(text: str) -> bool:
    """Print for whoever asked; False where standard output takes no more."""
    try:
        print(text, flush=True)
    except OSError:
        # What stays in the buffer must not fail once more when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return False
    return True


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

    def print_help(self, file=None) -> None:
        tell(self.format_help().rstrip())


class _InUse(ConfigError):
    """Another instance works in this folder."""


def _complain(text: str) -> None:
    """One line on stderr, whatever text it repeats."""
    with suppress(OSError):
        print("perps-bot:", text if text.isprintable() else ascii(text), file=sys.stderr)


def _dispatch(argv: list[str]) -> int:
    if argv[:1] == ["--version"]:
        return _answer(f"perps-bot {__version__}")
    if argv[:1] in (["--help"], ["-h"]):
        return _answer(_overview())
    if not __debug__:
        raise ConfigError("python -O removes checks: start without -O and PYTHONOPTIMIZE")
    # The diary goes where `run` says; without this, Python would print warnings on its own.
    log.handlers = [logging.NullHandler()]
    name, rest = ("run", argv) if not argv or argv[0].startswith("-") else (argv[0], argv[1:])
    if name not in COMMANDS:
        raise ConfigError(f"{name!r} is no command; there are {' '.join(COMMANDS)}")
    try:
        arguments = _parser(name).parse_args(rest)
    except SystemExit:  # --help was printed
        return DONE
    return COMMANDS[name].run(arguments)


def _parser(name: str) -> argparse.ArgumentParser:
    command = COMMANDS[name]
    parser = _Parser(
        prog=f"perps-bot {name}", description=command.help, allow_abbrev=False,
        epilog=f"example: {command.example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    command.arguments(parser)
    return parser


def _overview() -> str:
    rows = "\n".join(f"  {name:<8} {command.help}" for name, command in COMMANDS.items())
    return (f"perps-bot {__version__}: trades perpetual futures, unattended\n\ncommands (without "
            f"one it runs):\n{rows}\n\neach has --help with an example\nexample: "
            f"perps-bot --profile dev --dev-fast")


def _answer(text: str, code: int = DONE) -> int:
    """Print a command's whole answer; one that nobody could read is not verified."""
    return code if tell(text) else NOT_VERIFIED


def _config_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", metavar="FILE", help="TOML file with settings by name")


def _settings(arguments: argparse.Namespace):
    from perps_bot.settings import SETTINGS, resolve

    names = {row.name for row in SETTINGS}
    flags = {name: value for name, value in vars(arguments).items() if name in names}
    return resolve(flags, os.environ, arguments.config)


@contextmanager
def _alone_in(folder: Path) -> Iterator[None]:
    """Be the only writer of `folder` for a while."""
    from perps_bot.store import InstanceLock

    lock = InstanceLock(folder / "lock")
    try:
        holder = lock.acquire()
    except OSError as error:
        raise ConfigError(f"{folder / 'lock'}: {error.strerror}: move it away") from error
    if holder is not None:
        raise _InUse(f"{folder} is in use by pid {holder}; stop it first: kill -TERM {holder}")
    try:
        yield
    finally:
        lock.release()


# The settings table as flags, and as a choice of venue


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


def broker_kind(settings) -> str:
    """Return "paper-synthetic", "paper-live" (real prices, cannot send) or "coinbase"."""
    if settings.profile == "dev" or settings.force_mock:
        return "paper-synthetic"
    if settings.profile == "prod" and settings.sandbox:
        raise ConfigError(
            f"sandbox ({settings.sources['sandbox']}) with --profile prod: Coinbase's sandbox "
            f"has no market; use --profile demo, or --dry-run without the sandbox"
        )
    return "paper-live" if settings.dry_run or settings.sandbox else "coinbase"


# run


def _run_arguments(parser: argparse.ArgumentParser) -> None:
    add_flags(parser)
    _config_argument(parser)


def _run(arguments: argparse.Namespace) -> int:
    from perps_bot.clock import StopRequest
    from perps_bot.loop import recover, run
    from perps_bot.ops import Surfaces, cycle_lines, log_to, start_lines, warn
    from perps_bot.settings import data_folder, refuse_foreign_variables
    from perps_bot.store import prepare_folder

    settings, signals = _settings(arguments), StopRequest()
    if broker_kind(settings) == "coinbase":
        refuse_foreign_variables(settings, os.environ)
    venue = _venue(settings, signals)  # refuses before anything is written
    folder = prepare_folder(data_folder(settings))
    with _alone_in(folder), _alone_on(venue):
        log_to(settings)
        bot = _bot(settings, venue, folder)
        bot.surfaces = Surfaces(folder, tell)
        bot.store.subscribe(bot.surfaces.apply)
        signals.install()
        found = recover(bot)
        for line in start_lines(bot, found):
            tell(line)
        warn(settings, found)
        bot.surfaces.is_live = True
        code = run(bot, _clock(venue, signals), cycles=1 if settings.dev_fast else None)
        if settings.dev_fast:
            tell("\n".join(cycle_lines(bot)))
        bot.store.close()
        if bot.feed is not None:
            bot.feed.stop()
    return code


def _venue(settings, signals=None):
    """The venue of a profile, on which nothing has happened yet.

    signals  what a blocked call gives way to, and what the feed wakes; None for one question
    """
    from perps_bot.paper import PaperBroker

    if broker_kind(settings) == "coinbase":
        return _coinbase(settings, signals)
    return PaperBroker(_market(settings, signals), settings.paper_equity, settings.fee_rate,
                       settings.fee_per_contract, settings.slippage_bps)


def _market(settings, signals=None):
    """The market of a profile, asked without a key."""
    from perps_bot.market import SyntheticMarket

    if broker_kind(settings) != "paper-synthetic":
        return _client(settings, None, signals, "--dry-run sends nothing")
    market = SyntheticMarket(settings.seed)
    known = {product.symbol for product in market.products()}
    for symbol in settings.symbols:
        if symbol not in known:
            raise ConfigError(f"{symbol}: no such product; there are {' '.join(sorted(known))}")
    return market


def _coinbase(settings, signals):
    """The client that can send, for a profile that may trade futures with a key."""
    from perps_bot.keys import load_credentials

    signer = load_credentials(settings, os.environ)
    if signer is None:
        raise ConfigError(
            f"profile {settings.profile} needs an API key: set COINBASE_API_KEY and "
            f"COINBASE_API_SECRET, or COINBASE_API_KEY_FILE; or use --dry-run, which needs none")
    if not settings.enable_derivatives:
        raise ConfigError(f"profile {settings.profile} trades futures: say so with "
                          f"COINBASE_ENABLE_DERIVATIVES=1, or use --dry-run")
    return _client(settings, signer, signals, "")


def _client(settings, signer, signals, read_only: str):
    """The client over REST and, where a loop can be woken, the feed.

    read_only  why nothing may be sent, or ""
    """
    from perps_bot.client import CoinbasePerpetualsClient
    from perps_bot.feed import MarkFeed
    from perps_bot.rest import Rest, VenueClock

    clock, feed = VenueClock(), None
    rest = Rest(settings.api_url, signer, clock, signals.interrupts if signals else lambda: False,
                read_only=read_only)
    if signals is not None:
        token = signer and (lambda: signer.websocket_token(clock.now()))
        feed = MarkFeed(settings.ws_url, settings.ws_user_url, token, clock.now, signals.wake)
    return CoinbasePerpetualsClient(rest, feed, settings.symbols)


def _client_of(venue):
    """The Coinbase client that stands behind a venue; None on a synthetic market."""
    client = getattr(venue, "market", venue)
    return client if hasattr(client, "rest") else None


def _clock(venue, signals):
    from perps_bot.clock import SystemClock

    client = _client_of(venue)
    return SystemClock(signals, client.rest.clock.now if client else None)


@contextmanager
def _alone_on(venue) -> Iterator[None]:
    """Be the only process of this host that trades with this API key."""
    from perps_bot.store import account_lock

    client = _client_of(venue)
    if client is None or client.rest.signer is None:
        yield
        return
    held = account_lock(client.rest.signer.name)
    if held is None:
        raise _InUse("another process on this host trades with this API key: stop it first")
    with held:
        yield


def _bot(settings, venue, folder: Path):
    """The parts, put together over the profile's events."""
    from perps_bot.loop import assemble
    from perps_bot.store import EventStore

    kind = broker_kind(settings)
    is_paper = settings.profile != "dev" and kind != "coinbase"
    store = EventStore(folder / ("paper-events" if is_paper else "events"))
    bot, client = assemble(settings, venue, store, kind, folder), _client_of(venue)
    bot.feed = client and client.feed
    return bot


# check, products, symbol, validate


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    _run_arguments(parser)
    _json_argument(parser)
    parser.add_argument("--send-test-alert", action="store_true",
                        help="post one to PERPS_ALERT_WEBHOOK_URL")


def _json_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _check(arguments: argparse.Namespace) -> int:
    from perps_bot.checklist import (
        check, check_alerts, check_text, check_values, check_venue,
    )
    from perps_bot.clock import SystemClock

    settings = _settings(arguments)
    kind, sends = broker_kind(settings), arguments.send_test_alert
    if kind == "paper-synthetic":
        checks = list(check(settings, _market(settings), SystemClock().now()))
        checks += check_alerts(settings, sends) if sends else ()
    else:
        checks = list(check_venue(_inquiry(settings, sends)))
    is_well = all(row.ok is not False for row in checks)
    text = (_json(check_values(settings, kind, checks)) if arguments.json else
            check_text(settings, kind, checks))
    return _answer(text, DONE if is_well else NO)


def _inquiry(settings, sends_alert: bool):
    from perps_bot.checklist import Inquiry
    from perps_bot.settings import data_folder

    client, trouble = _asking(settings)
    return Inquiry(settings, client, data_folder(settings), os.environ, trouble, sends_alert)


def _asking(settings):
    """The client that asks with the key, where there is one, and sends nothing."""
    from perps_bot.clock import StopRequest
    from perps_bot.keys import load_credentials

    signer, trouble = None, ""
    try:
        signer = load_credentials(settings, os.environ)
    except ConfigError as refusal:
        trouble = str(refusal)
    return _client(settings, signer, StopRequest(), "only a run sends orders"), trouble


def _json(value: object) -> str:
    return json.dumps(value, indent=2, default=_plain)


def _products_arguments(parser: argparse.ArgumentParser) -> None:
    add_flags(parser, ("profile", "seed"))
    _config_argument(parser)
    _json_argument(parser)


def _products(arguments: argparse.Namespace) -> int:
    from perps_bot.checklist import in_columns, product_columns, product_rows

    _, market, now = _opened(arguments)
    rows = product_rows(market, now)
    text = _json({"products": rows}) if arguments.json else in_columns(list(product_columns(rows)))
    return _answer(text)


def _opened(arguments: argparse.Namespace) -> tuple:
    """The settings, their market without a key, and its time."""
    settings = _settings(arguments)
    market = _market(settings)
    market.connect()
    return settings, market, _clock(market, None).now()


def _symbol_arguments(parser: argparse.ArgumentParser) -> None:
    add_flags(parser, ("profile", "seed", "bar", "paper_equity", "max_position", "target_leverage"))
    _config_argument(parser)
    _json_argument(parser)
    parser.add_argument("name", metavar="SYMBOL", help="as BTC-PERP, or the venue's id")


def _symbol(arguments: argparse.Namespace) -> int:
    from perps_bot.checklist import in_columns, symbol_columns, symbol_report

    settings, market, now = _opened(arguments)
    try:
        report = symbol_report(market, arguments.name, settings, now)
    except ConfigError as unknown:
        _complain(str(unknown))
        return NO
    return _answer(_json(report) if arguments.json else in_columns(list(symbol_columns(report))))


def _validate_arguments(parser: argparse.ArgumentParser) -> None:
    _run_arguments(parser)
    parser.add_argument("what", choices=("client", "ws", "strategy", "e2e"))


def _validate(arguments: argparse.Namespace) -> int:
    """One line for each step; the first that fails is the last."""
    from perps_bot.validate import line, sandbox_steps, validate

    settings, what = _settings(arguments), arguments.what
    if not settings.run_sandbox_validations:
        raise ConfigError("validations run only where they are asked for: set "
                          "RUN_SANDBOX_VALIDATIONS=1")
    if settings.use_real_adapter and settings.sandbox:
        steps = sandbox_steps(what, settings)
    else:
        venue, trouble = _asking(settings) if settings.use_real_adapter else (
            _venue(replace(settings, force_mock=True)), "")
        if trouble:
            raise ConfigError(trouble)
        steps = validate(what, settings, venue, _clock(venue, None))
    for step in steps:
        if not tell(line(step)):
            return NOT_VERIFIED
        if step[1] is False:
            return NO
    return DONE


# resume


def _resume_arguments(parser: argparse.ArgumentParser) -> None:
    add_flags(parser, ("profile", "dry_run"))
    _config_argument(parser)
    parser.add_argument("--reason", required=True, help="what was checked; kept in the events")
    parser.add_argument("--clear-daily-loss", action="store_true",
                        help="resume on the day on which the daily loss limit was hit")


def _resume(arguments: argparse.Namespace) -> int:
    from perps_bot.clock import SystemClock
    from perps_bot.loop import recover
    from perps_bot.market import SyntheticMarket
    from perps_bot.paper import PaperBroker
    from perps_bot.settings import data_folder
    from perps_bot.store import prepare_folder

    settings, venue = _settings(arguments), PaperBroker(SyntheticMarket())  # it is not asked
    folder = data_folder(settings)
    if not arguments.reason.strip():
        raise ConfigError("--reason is empty: say what was checked")
    if not folder.is_dir():
        raise ConfigError(f"{folder} does not exist: nothing ran there, nothing is halted")
    with _alone_in(prepare_folder(folder)):
        bot = _bot(settings, venue, folder)
        recover(bot)
        bot.store.now = SystemClock().now()
        lifted = bot.risk.resume(arguments.reason, bot.store.now.date(), arguments.clear_daily_loss)
        bot.store.close()
    if not bot.store.writable:
        _complain(f"not resumed: {bot.store.trouble}")
        return NOT_VERIFIED
    return _answer(f"resumed: {', '.join(lifted) or 'nothing was held'}; state {bot.risk.state}")


# replay


def _replay_arguments(parser: argparse.ArgumentParser) -> None:
    add_flags(parser, REPLAY_FLAGS)
    _config_argument(parser)
    parser.add_argument("files", nargs="+", metavar="FILE", help="CSV or .csv.gz, a symbol each")
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


def _replay(arguments: argparse.Namespace) -> int:
    from perps_bot.clock import SystemClock
    from perps_bot.ops import output_paths
    from perps_bot.replay import replay, report_lines

    if arguments.symbol:
        arguments.symbols = arguments.symbol
    settings = _settings(arguments)
    outputs, market = list(output_paths(arguments)), _recorded(arguments, settings)
    is_watched, clock = sys.stderr is not None and sys.stderr.isatty(), SystemClock()
    try:
        result = replay(market, settings, *outputs, _progress if is_watched else None)
    finally:
        if is_watched:
            print("\r\033[K", end="", file=sys.stderr, flush=True)
    speed = (result.bars / clock.elapsed()).quantize(Decimal("0.1"))
    if arguments.json:
        row = {**asdict(result), "bars_per_second": speed}
        return _answer(json.dumps(row, default=_plain))
    return _answer("\n".join((*report_lines(result), f"speed {speed:,.0f} bars a second")))


def _recorded(arguments: argparse.Namespace, settings):
    from perps_bot.market import RecordedMarket
    from perps_bot.ops import time_given

    # The parser keeps them under their flags' names, of which one is a keyword.
    begin, end = (time_given(flag, vars(arguments)[flag[2:]]) for flag in ("--from", "--to"))
    if begin and end and begin >= end:
        raise ConfigError(f"--from {begin.isoformat()} is not before --to {end.isoformat()}")
    # The profile's bar is for a living market; candles bring their own.
    bar = None if settings.sources["bar"].startswith("profile") else settings.bar
    return RecordedMarket(arguments.files, settings.symbols, arguments.funding, bar, begin, end,
                          arguments.skip_bad_rows)


def _progress(done: Decimal) -> None:
    print(f"\r{done:.0%} read", end="", file=sys.stderr, flush=True)


def _plain(value: object) -> str:
    return f"{value:f}" if isinstance(value, Decimal) else value.isoformat()


COMMANDS = {
    "run": Command(_run, "trade until stopped", "perps-bot --profile dev --dev-fast",
                   _run_arguments),
    "perps": Command(_run, "the same as run", "perps-bot perps --profile dev --dev-fast",
                     _run_arguments),
    "check": Command(_check, "show every setting, and whether orders are possible with them",
                     "perps-bot check --profile dev --max-position 2000", _check_arguments),
    "products": Command(_products, "list what can be traded, with sizes, margin and session",
                        "perps-bot products --profile dev", _products_arguments),
    "symbol": Command(_symbol, "one product in full, and whether an order is possible now",
                      "perps-bot symbol BTC-PERP", _symbol_arguments),
    "validate": Command(_validate, "validation scripts: client, ws, strategy, e2e",
                        "perps-bot validate e2e", _validate_arguments),
    "replay": Command(_replay, "run the same loop over recorded prices",
                      "perps-bot replay btc-1m.csv.gz --symbol BTC-PERP", _replay_arguments),
    "resume": Command(_resume, "lift a halt, with a reason",
                      "perps-bot resume --profile dev --reason 'checked the positions'",
                      _resume_arguments),
}
