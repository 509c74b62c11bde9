"""Ops: what can the owner do, and see?

The files that people and monitors read after each tick, and the commands around a bot that is
not trading at that moment.  Nothing here trades, and nothing here says what was not verified: a
number that is not known is shown as null, a health that is old has an end date in it.
"""

import hashlib
import logging
import os
from argparse import Namespace
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

from perps_bot import __version__, emergency
from perps_bot.alerts import Alerts
from perps_bot.errors import ConfigError
from perps_bot.figures import figures
from perps_bot.bot import Bot
from perps_bot.market import window_row
from perps_bot.metrics import exposition
from perps_bot.model import Action, Event, OrderStatus, TradingState
from perps_bot.settings import Settings, described, same_run
from perps_bot.store import Recovery, write_state
from perps_bot.words import fields_line

log = logging.getLogger("perps_bot")

# How many ticks health stays valid without a new one, and the least in seconds.
HEALTH_TICKS, HEALTH_SECONDS_MIN = 3, 10
# The files are renamed into place at most this often.
PUBLISH_EVERY = timedelta(seconds=1)
# Risk events kept in risk_events.json.
RISK_EVENTS_MAX = 200
RISK_EVENT_TYPES = frozenset({
    "risk.rejected", "state.changed", "order.unknown", "order.lost", "stop.triggered",
    "reconcile.mismatch", "feed.stale", "feed.recovered", "alert", "alert.cleared",
    "alert.failed",
})
# What the diary in the log leaves out: too many, too long, and in the events anyway.
UNLOGGED = frozenset({"day.opened", "strategy.warmed", "strategy.signal", "position.updated"})
# An order may follow at once, and its way to the venue is not the time to write lines.
LOGGED_LATER = frozenset({"strategy.signal", "order.intended"})

close_all_positions = emergency.close_all_positions


class Surfaces:
    """What shows the outside world how the last tick went.  Its counts are per UTC day.

    say     tells the operator at the terminal, and raises nothing
    alerts  what a person must know, and whether it was posted
    """

    def __init__(self, folder: Path, say: Callable[[str], object],
                 alerts: Alerts | None = None) -> None:
        self._folder = folder
        self.say, self.alerts = say, alerts or Alerts()
        self._counts: Counter = Counter()
        self._answered: set[str] = set()
        self._risk_events: list[dict] = []
        self._published_at: datetime | None = None
        self._message = ""
        self._unsaid: list[Event] = []  # for the diary, with the next event or after the tick
        self._unwritten, self._written = set(), {}  # names; and by name, what changes seldom
        self._named: tuple[Settings | None, str] = None, ""  # settings, and their hash
        self.is_live = False  # False while old events are read back

    def apply(self, event: Event) -> None:
        """Count one event, and write it into the diary when it happened now."""
        if event.type == "day.opened":
            self._begin_day(event.data["snapshot"].get("surfaces", {}))
        self._count(event.type, event.data)
        if event.type in RISK_EVENT_TYPES:
            row = {"seq": event.seq, "ts": event.at, "type": event.type, **event.data}
            self._risk_events = [*self._risk_events, row][-RISK_EVENTS_MAX:]
        is_worth_it = event.type not in UNLOGGED or event.data.get("action", "hold") != "hold"
        if event.type == "alert" and self.is_live:
            self._write_diary()
            log.error("alert %s: see 'Alerts' in docs/RUNBOOK_PERPS.md", fields_line(event.data))
        elif self.is_live and is_worth_it:
            self._unsaid.append(event)
            if event.type not in LOGGED_LATER:
                self._write_diary()
        self.alerts.apply(event, self.is_live)

    def snapshot(self) -> dict[str, object]:
        return {"risk_events": self._risk_events, "alerts": self.alerts.snapshot()}

    def publish(self, bot: Bot, now: datetime, error: str = "") -> None:
        """Rename the files into place; one that cannot be written stops nothing."""
        self._write_diary()
        bot.store.look_for_the_file()
        is_news = self.alerts.look(bot, now, error) or bool(error) or bot.message != self._message
        since = None if self._published_at is None else now - self._published_at
        if not is_news and since is not None and timedelta() <= since < PUBLISH_EVERY:
            return
        self._published_at = now
        if bot.message != self._message:
            self._message = bot.message
            log.warning("%s", bot.message or "nothing stands in the way any more")
        said = health(bot, now, error)
        self.alerts.beat(now, said["ok"])
        self._write("health.json", said)
        state = figures(bot, now, self._counts)
        self._write("last_state.json", state)
        self._write("metrics.prom", exposition(state, said))
        for name, seldom in (("risk_events.json", self._risk_events),
                             ("marks.json", _windows(bot))):
            if seldom != self._written.get(name) or not os.path.exists(self._folder / name):
                self._write(name, seldom)

    def _write_diary(self) -> None:
        for event in self._unsaid:
            level = logging.WARNING if event.type in RISK_EVENT_TYPES else logging.INFO
            log.log(level, "%s %s", event.type, fields_line(event.data))
        self._unsaid.clear()

    def name_of(self, settings: Settings) -> str:
        """The hash of the settings in force, made once: they do not change."""
        if self._named[0] is not settings:
            self._named = settings, settings_hash(settings)
        return self._named[1]

    def _count(self, type: str, data: Mapping) -> None:
        counts = self._counts
        if type == "strategy.signal":
            counts["decisions"] += 1
            counts["signals"] += data["action"] != Action.HOLD
        elif type == "order.intended":
            counts["sent"] += 1
        elif type == "order.updated" and data["client_order_id"] not in self._answered:
            self._answered.add(data["client_order_id"])
            counts["accepted"] += data["status"] not in (OrderStatus.REJECTED, OrderStatus.LOST)

    def _begin_day(self, kept: Mapping) -> None:
        self._counts, self._answered = Counter(), set()
        self._risk_events = list(kept.get("risk_events", self._risk_events))

    def _write(self, name: str, value: object) -> None:
        """Rename one file into place; that it cannot be written is said once."""
        try:
            self._written.pop(name, None)
            write_state(self._folder / name, value)
            self._unwritten.discard(name)
            self._written[name] = value
        except OSError as failure:
            if name not in self._unwritten:
                log.warning("%s was not written: %s", self._folder / name, failure.strerror)
            self._unwritten.add(name)


def health(bot: Bot, now: datetime, error: str = "") -> dict[str, object]:
    """What a monitor needs; `ok` is what the last tick saw, until the bot has stopped."""
    error = error or bot.trouble
    missing = [symbol for symbol in bot.symbols if not bot.has_price(symbol)]
    unwanted = [kind for kind in bot.risk.holds if kind != "settings"]
    halted = bot.risk.state is TradingState.HALTED
    bare = [symbol for symbol in bot.symbols if not bot.protector.is_protected(symbol)]
    ok = not any((error, missing, unwanted, halted, bare, bot.untraded, bot.books.restricted,
                  bot.is_over)) and bot.store.writable
    valid = max(HEALTH_TICKS * int(bot.settings.interval), HEALTH_SECONDS_MIN)
    return {
        "timestamp": now, "ok": ok, "profile": bot.settings.profile,
        "symbols": list(bot.symbols), "last_decisions": bot.last_decisions,
        "message": bot.message, "error": error,
        "valid_until": now if bot.is_over else now + timedelta(seconds=valid),
        "pid": os.getpid(), "broker": bot.broker_name, "trading_state": bot.risk.state,
        "liquidation_guard": "armed" if bot.engine.margin is not None else "unarmed",
        "feed": None if bot.feed is None else bot.feed.figures(),
        "version": __version__, "settings_hash": bot.surfaces.name_of(bot.settings),
        "alerts": bot.surfaces.alerts.rows(), "delivery": bot.surfaces.alerts.delivery(),
    }


def settings_hash(settings: Settings) -> str:
    """Name the settings in force, so that two runs can be told apart; of secrets only whether."""
    said = repr([(name, value) for name, value, _, _ in described(settings)])
    return hashlib.sha256(said.encode()).hexdigest()[:12]


def start_lines(bot: Bot, found: Recovery) -> Iterator[str]:
    """Say what is about to run, within which limits, and what holds it back."""
    settings, config = bot.settings, bot.risk.config
    yield (f"perps-bot {__version__} profile={settings.profile} broker={bot.broker_name} "
           f"symbols={','.join(settings.symbols)} state={bot.risk.state} files={bot.folder} "
           f"events_read={found.events} pid={os.getpid()}")
    yield (f"limits: leverage {min(config.target_leverage, config.leverage_limit):f}x (target "
           f"{config.target_leverage:f}, profile {config.max_leverage:f}, global "
           f"{config.leverage_max_global:f}), {settings.max_position:f} USD a symbol "
           f"({settings.sources['max_position']})")
    for kind, hold in bot.risk.holds.items():
        if kind != "settings":  # those are taken or lifted anew by the first tick
            yield (f"{hold.state} because of {kind}: {hold.reason}; lifted by: perps-bot resume "
                   f"{same_run(settings)} --reason '...'")


def warn(settings: Settings, found: Recovery) -> None:
    """Write into the diary what the owner may not have meant, or must look at."""
    if found.torn_bytes:
        log.warning("%s bytes of a last write that did not finish were cut and kept in torn",
                    found.torn_bytes)
    if found.damage:
        log.error("the events are damaged, nothing is increased: %s: see 'Damaged events' in "
                  "docs/RUNBOOK_PERPS.md", found.damage)
    if settings.passphrase:
        log.warning("COINBASE_PASSPHRASE belongs to keys that Coinbase has retired: ignored")
    if settings.api_secret and settings.profile == "prod":
        log.warning("the key stands in the environment, where what else runs as this user may read "
                    "it: a file of mode 0600 is safer, see COINBASE_API_KEY_FILE")
    if settings.order_type == "limit" and settings.time_in_force == "GTC":
        log.warning("time_in_force GTC: a resting entry outlives a dead bot; with GTD it would not")


def cycle_lines(bot: Bot) -> Iterator[str]:
    """What a single cycle saw, decided and left behind."""
    for symbol in bot.symbols:
        position, mark = bot.tracker.get_position(symbol), bot.engine.marks.get(symbol)
        held = f"{position.quantity:f} @ {position.entry_price:f}" if position.quantity else "flat"
        yield (f"{symbol}: mark {mark.price if mark else 'none'}, "
               f"{bot.strategy.bars(symbol)} of {bot.settings.long_ma_period} bars, "
               f"decision {bot.last_decisions.get(symbol, 'none')}, {held}")
    if bot.message:
        yield bot.message
    yield (f"one cycle {f'FAILED: {bot.trouble}' if bot.trouble else 'done'}; equity "
           f"{bot.tracker.equity():f} USD, state {bot.risk.state}")


def time_given(flag: str, text: str | None) -> datetime | None:
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigError(f"{flag} {text}: not a time such as 2025-05-05 or "
                          f"2025-05-05T12:00:00Z") from None
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def output_paths(arguments: Namespace) -> Iterator[Path | None]:
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


def _windows(bot: Bot) -> dict[str, object]:
    """The mark-window cache: the closes that the averages are made of."""
    return {
        symbol: window_row(symbol, bot.strategy.bar_at(symbol), bot.settings.bar,
                           bot.strategy.window(symbol)) for symbol in bot.symbols
    }
