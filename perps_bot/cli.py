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
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from decimal import Decimal
from logging.handlers import RotatingFileHandler
from pathlib import Path

from perps_bot import __version__
from perps_bot.errors import ConfigError

DONE, NO, SETTINGS_WRONG, NOT_VERIFIED, LOCKED = 0, 1, 2, 3, 75
LOG_BYTES_MAX, LOG_FILES = 5_000_000, 5
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
    from perps_bot.ops import Surfaces
    from perps_bot.settings import data_folder
    from perps_bot.store import prepare_folder

    settings, signals = _settings(arguments), StopRequest()
    venue = _venue(settings, signals)  # refuses before anything is written
    folder = prepare_folder(data_folder(settings))
    with _alone_in(folder), _alone_on(venue):
        _log_to(settings)
        bot = _bot(settings, venue, folder)
        bot.surfaces = Surfaces(folder, tell)
        bot.store.subscribe(bot.surfaces.apply)
        signals.install()
        found = recover(bot)
        _announce(bot, found)
        _warn(settings, found)
        bot.surfaces.is_live = True
        code = run(bot, _clock(venue, signals), cycles=1 if settings.dev_fast else None)
        if settings.dev_fast:
            _tell_cycle(bot)
        bot.store.close()
        if bot.feed is not None:
            bot.feed.stop()
    return code


def _venue(settings, signals=None):
    """The venue of a profile, on which nothing has happened yet.

    signals  what a blocked call gives way to, and what the feed wakes; None for one question
    """
    from perps_bot.market import SyntheticMarket
    from perps_bot.paper import PaperBroker
    kind = broker_kind(settings)
    if kind == "coinbase":
        return _coinbase(settings, signals, is_live=True)
    if kind == "paper-live":
        market = _coinbase(settings, signals, is_live=False)
    else:
        market = SyntheticMarket(settings.seed)
        known = {product.symbol for product in market.products()}
        for symbol in settings.symbols:
            if symbol not in known:
                raise ConfigError(f"{symbol}: no such product; there are {' '.join(sorted(known))}")
    return PaperBroker(market, settings.paper_equity, settings.fee_rate,
                       settings.fee_per_contract, settings.slippage_bps)


def _coinbase(settings, signals, is_live: bool):
    """The client over REST and, where a loop can be woken, the feed; on paper it cannot send."""
    from perps_bot.client import CoinbasePerpetualsClient
    from perps_bot.feed import MarkFeed
    from perps_bot.keys import load_credentials
    from perps_bot.rest import Rest, VenueClock

    signer = load_credentials(settings, os.environ) if is_live else None
    if is_live and signer is None:
        raise ConfigError(
            f"profile {settings.profile} needs an API key: set COINBASE_API_KEY and "
            f"COINBASE_API_SECRET, or COINBASE_API_KEY_FILE; or use --dry-run, which needs none")
    if is_live and not settings.enable_derivatives:
        raise ConfigError(f"profile {settings.profile} trades futures: say so with "
                          f"COINBASE_ENABLE_DERIVATIVES=1, or use --dry-run")
    clock, feed = VenueClock(), None
    never = "" if is_live else "--dry-run sends nothing"
    rest = Rest(settings.api_url, signer, clock, signals.interrupts if signals else lambda: False,
                read_only=never)
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


class _PrivateLog(RotatingFileHandler):
    """The log file, for its owner's eyes, after every rotation too."""

    def _open(self):
        return open(self.baseFilename, self.mode, encoding=self.encoding,
                    opener=lambda path, flags: os.open(path, flags, 0o600))


def _log_to(settings) -> None:
    """Send the diary to stderr and to the rotated file; nothing else may print there."""
    from perps_bot.store import prepare_folder

    path = prepare_folder(settings.log_dir) / "perps_bot.log"
    try:
        file = _PrivateLog(path, maxBytes=LOG_BYTES_MAX, backupCount=LOG_FILES, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}: mend it or set PERPS_LOG_DIR") from error
    form = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    form.converter = time.gmtime
    # A full disk must not make the logging module print tracebacks over the operator's screen.
    logging.raiseExceptions = False
    log.handlers = [logging.StreamHandler(), file]
    for handler in log.handlers:
        handler.setFormatter(form)
    log.setLevel(settings.log_level)


def _announce(bot, found) -> None:
    """Say what is about to run, within which limits, and what holds it back."""
    settings, config = bot.settings, bot.risk.config
    tell(f"perps-bot {__version__} profile={settings.profile} broker={bot.broker_name} "
         f"symbols={','.join(settings.symbols)} state={bot.risk.state} files={bot.folder} "
         f"events_read={found.events} pid={os.getpid()}")
    tell(f"limits: leverage {min(config.target_leverage, config.leverage_limit):f}x (target "
         f"{config.target_leverage:f}, profile {config.max_leverage:f}, global "
         f"{config.leverage_max_global:f}), {settings.max_position:f} USD a symbol "
         f"({settings.sources['max_position']})")
    for kind, hold in bot.risk.holds.items():
        if kind != "settings":  # those are taken or lifted anew by the first tick
            tell(f"{hold.state} because of {kind}: {hold.reason}; lifted by: perps-bot resume "
                 f"--profile {settings.profile} --reason '...'")


def _warn(settings, found) -> None:
    """Write into the diary what the owner may not have meant, or must look at."""
    if found.torn_bytes:
        log.warning("%s bytes of a last write that did not finish were cut and kept in torn",
                    found.torn_bytes)
    if found.damage:
        log.error("the events are damaged, nothing is increased: %s: see 'Damaged events' in "
                  "docs/RUNBOOK_PERPS.md", found.damage)
    if settings.passphrase:
        log.warning("COINBASE_PASSPHRASE belongs to keys that Coinbase has retired: ignored")
    if settings.order_type == "limit" and settings.time_in_force == "GTC":
        log.warning("time_in_force GTC: a resting entry outlives a dead bot; with GTD it would not")


def _tell_cycle(bot) -> None:
    for symbol in bot.symbols:
        position, mark = bot.tracker.get_position(symbol), bot.engine.marks.get(symbol)
        held = f"{position.quantity:f} @ {position.entry_price:f}" if position.quantity else "flat"
        tell(f"{symbol}: mark {mark.price if mark else 'none'}, "
             f"{bot.strategy.bars(symbol)} of {bot.settings.long_ma_period} bars, "
             f"decision {bot.last_decisions.get(symbol, 'none')}, {held}")
    if bot.message:
        tell(bot.message)
    tell(f"one cycle {f'FAILED: {bot.trouble}' if bot.trouble else 'done'}; equity "
         f"{bot.tracker.equity():f} USD, state {bot.risk.state}")


# check, resume


def _check_arguments(parser: argparse.ArgumentParser) -> None:
    _run_arguments(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _check(arguments: argparse.Namespace) -> int:
    from perps_bot.clock import SystemClock
    from perps_bot.market import SyntheticMarket
    from perps_bot.ops import check
    settings = _settings(arguments)
    kind = broker_kind(settings)
    checks = list(check(settings, SyntheticMarket(settings.seed), SystemClock().now()))
    code = DONE if all(row.ok for row in checks) else NO
    show = _check_json if arguments.json else _check_text
    return _answer(show(settings, kind, checks), code)


def _check_json(settings, kind: str, checks: list) -> str:
    from perps_bot.settings import described

    names = ("name", "value", "unit", "source")
    return json.dumps({
        "ok": all(row.ok for row in checks), "broker": kind,
        "checks": [asdict(row) for row in checks],
        "settings": [dict(zip(names, row)) for row in described(settings)],
    }, indent=2)


def _check_text(settings, kind: str, checks: list) -> str:
    from perps_bot.ops import settings_rows

    lines = [*settings_rows(settings), ""]
    lines += [f"{'ok' if row.ok else 'NO'}  {row.name}: {row.text}" for row in checks]
    lines.append(f"Prices and product rules are the synthetic market's, equity is taken as "
                 f"{settings.paper_equity:f} USD; no venue was asked.")
    if kind != "paper-synthetic":
        lines.append(f"This version cannot reach Coinbase: it runs {settings.profile} on paper, "
                     f"with PERPS_FORCE_MOCK=1.")
    return "\n".join(lines)


def _resume_arguments(parser: argparse.ArgumentParser) -> None:
    add_flags(parser, ("profile",))
    _config_argument(parser)
    parser.add_argument("--reason", required=True, help="what was checked; kept in the events")
    parser.add_argument("--clear-daily-loss", action="store_true",
                        help="resume on the day on which the daily loss limit was hit")


def _resume(arguments: argparse.Namespace) -> int:
    from perps_bot.clock import SystemClock
    from perps_bot.loop import recover
    from perps_bot.settings import data_folder
    from perps_bot.store import prepare_folder

    settings = _settings(arguments)
    venue, folder = _venue(settings), data_folder(settings)
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
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def _replay(arguments: argparse.Namespace) -> int:
    from perps_bot.clock import SystemClock
    from perps_bot.replay import replay, report_lines

    if arguments.symbol:
        arguments.symbols = arguments.symbol
    settings = _settings(arguments)
    outputs, market = list(_outputs(arguments)), _recorded(arguments, settings)
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

    # The parser keeps them under their flags' names, of which one is a keyword.
    begin, end = (_time(flag, vars(arguments)[flag[2:]]) for flag in ("--from", "--to"))
    if begin and end and begin >= end:
        raise ConfigError(f"--from {begin.isoformat()} is not before --to {end.isoformat()}")
    # The profile's bar is for a living market; candles bring their own.
    bar = None if settings.sources["bar"].startswith("profile") else settings.bar
    return RecordedMarket(arguments.files, settings.symbols, arguments.funding, bar, begin, end,
                          arguments.skip_bad_rows)


def _time(flag: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{flag} {text}: not a time such as 2025-05-05 or "
                          f"2025-05-05T12:00:00Z") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _outputs(arguments: argparse.Namespace) -> Iterator[Path | None]:
    """Yield where to write; refuses now what would fail at the end, or destroy something."""
    taken = {os.path.realpath(name) for name in (*arguments.files, *arguments.funding)}
    for flag, name, kind, is_free in (
        ("--events", arguments.events, "empty folder", _is_empty_folder),
        ("--trades", arguments.trades, "plain file", os.path.isfile),
        ("--equity-curve", arguments.equity_curve, "plain file", os.path.isfile),
    ):
        path = name and os.path.realpath(name)
        if path in taken or path and os.path.exists(path) and not is_free(path):
            raise ConfigError(f"{flag} {name}: is in use or no {kind}: name a new one")
        taken.add(path or "")
        yield path and Path(path)


def _is_empty_folder(path: str) -> bool:
    try:
        return not os.path.ismount(path) and not os.listdir(path)
    except OSError:  # a file, or a folder that is not ours to read
        return False


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
                     "perps-bot check --profile demo --max-position 2000", _check_arguments),
    "replay": Command(_replay, "run the same loop over recorded prices",
                      "perps-bot replay btc-1m.csv.gz --symbol BTC-PERP", _replay_arguments),
    "resume": Command(_resume, "lift a halt, with a reason",
                      "perps-bot resume --profile dev --reason 'checked the positions'",
                      _resume_arguments),
}
