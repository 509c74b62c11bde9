"""Ops: what can the owner do, and see?

The files that people and monitors read after each tick, and the commands around a bot that is
not trading at that moment.  Nothing here trades, and nothing here says what was not verified: a
number that is not known is shown as null, a health that is old has an end date in it.
"""

import logging
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_UP, Decimal
from pathlib import Path

from perps_bot.broker import MarketData
from perps_bot.catalog import ProductCatalog, ceil_to, quantity_for, quantize_quantity
from perps_bot.errors import BelowMinimum, ConfigError
from perps_bot.loop import Bot, configured
from perps_bot.model import (
    ZERO, Account, Action, Event, OrderIntent, OrderStatus, Product, Side, TradingState,
)
from perps_bot.risk import LiveRiskManager, RiskConfig, headroom, worst_price
from perps_bot.settings import Settings, described
from perps_bot.store import write_state

log = logging.getLogger("perps_bot")

# How many ticks health stays valid without a new one, and the least in seconds.
HEALTH_TICKS, HEALTH_SECONDS_MIN = 3, 10
# The files are renamed into place at most this often.
PUBLISH_EVERY = timedelta(seconds=1)
# Risk events kept in risk_events.json.
RISK_EVENTS_MAX = 200
RISK_EVENT_TYPES = frozenset({
    "risk.rejected", "state.changed", "order.unknown", "order.lost", "stop.triggered",
    "reconcile.mismatch", "feed.stale", "feed.recovered", "alert",
})
# Ratios that were computed for people; money stays exact.
SHOWN_RATIO = Decimal("0.0001")
# What the advice of `check` adds to what is needed now, for the price to move.
SPARE = Decimal("1.1")
# What the diary in the log leaves out: too many, too long, and in the events anyway.
UNLOGGED = frozenset({"day.opened", "strategy.signal", "position.updated"})


class Surfaces:
    """What shows the outside world how the last tick went.  Its counts are per UTC day.

    say  tells the operator at the terminal, and raises nothing
    """

    def __init__(self, folder: Path, say: Callable[[str], object]) -> None:
        self._folder = folder
        self.say = say
        self._counts: Counter = Counter()
        self._answered: set[str] = set()
        self._risk_events: list[dict] = []
        self._published_at: datetime | None = None
        self._message = ""
        self._unwritten: set[str] = set()
        self.is_live = False  # False while old events are read back

    def apply(self, event: Event) -> None:
        """Count one event, and write it into the diary when it happened now."""
        if event.type == "day.opened":
            self._begin_day(event.data["snapshot"].get("surfaces", {}))
        self._count(event.type, event.data)
        is_risk = event.type in RISK_EVENT_TYPES
        if is_risk:
            row = {"seq": event.seq, "ts": event.at, "type": event.type, **event.data}
            self._risk_events = [*self._risk_events, row][-RISK_EVENTS_MAX:]
        is_worth_it = event.type not in UNLOGGED or event.data.get("action", "hold") != "hold"
        if self.is_live and is_worth_it:
            log.log(logging.WARNING if is_risk else logging.INFO, "%s %s", event.type,
                    diary_line(event.data))

    def snapshot(self) -> dict[str, object]:
        return {"risk_events": self._risk_events}

    def publish(self, bot: Bot, now: datetime, error: str = "") -> None:
        """Rename the files into place; one that cannot be written stops nothing."""
        is_news = bool(error) or bot.message != self._message
        since = None if self._published_at is None else now - self._published_at
        if not is_news and since is not None and timedelta() <= since < PUBLISH_EVERY:
            return
        self._published_at = now
        if bot.message != self._message:
            self._message = bot.message
            log.warning("%s", bot.message or "nothing stands in the way any more")
        self._write("health.json", health(bot, now, error))
        self._write("last_state.json", self.state(bot, now))
        self._write("risk_events.json", self._risk_events)
        self._write("marks.json", _windows(bot))

    def state(self, bot: Bot, now: datetime) -> dict[str, object]:
        """What a person wants to see at a glance; never read back."""
        books, counts = bot.tracker, self._counts
        notional = sum((p.notional for p in books.positions().values()), ZERO)
        totals = ("realized_pnl", "unrealized_pnl", "fees", "funding")
        return {
            "timestamp": now, "profile": bot.settings.profile, "broker": bot.broker_name,
            "trading_state": bot.risk.state,
            "holds": {kind: hold.reason for kind, hold in bot.risk.holds.items()},
            # By our books, so that it adds up; the venue's is as of the last read.
            "account": {"equity": books.equity(), "start_equity": books.start_equity,
                        **{name: books.total(name) for name in totals},
                        "venue_equity": books.last_equity},
            "positions": [_position_row(bot, symbol) for symbol in books.positions()],
            "daily_loss": {
                "loss": books.daily_loss(), "day_start_equity": books.day_start_equity,
                "limit": books.day_start_equity * bot.settings.max_daily_loss_pct,
            },
            "leverage": {"used": _ratio(notional, books.last_equity or ZERO),
                         "limit": bot.risk.config.leverage_limit},
            "signal_rate": _ratio(counts["signals"], counts["decisions"]),
            "order_success_rate": _ratio(counts["accepted"], counts["sent"]),
            "last_decisions": bot.last_decisions,
        }

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
            write_state(self._folder / name, value)
            self._unwritten.discard(name)
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
    bare = [symbol for symbol in bot.symbols if not bot.engine.is_protected(symbol)]
    ok = not any((error, missing, unwanted, halted, bare, bot.untraded, bot.is_over)) and (
        bot.store.writable)
    valid = max(HEALTH_TICKS * int(bot.settings.interval), HEALTH_SECONDS_MIN)
    return {
        "timestamp": now, "ok": ok, "profile": bot.settings.profile,
        "symbols": list(bot.symbols), "last_decisions": bot.last_decisions,
        "message": bot.message, "error": error,
        "valid_until": now if bot.is_over else now + timedelta(seconds=valid),
        "pid": os.getpid(), "broker": bot.broker_name, "trading_state": bot.risk.state,
        "liquidation_guard": "armed" if bot.engine.margin is not None else "unarmed",
        "feed": None if bot.feed is None else bot.feed.figures(),
    }


def diary_line(data: Mapping[str, object]) -> str:
    """One event's fields on one line, the nested ones left out."""
    said = []
    for name, value in data.items():
        if not isinstance(value, dict | list) and value not in (None, ""):
            text = value.isoformat() if isinstance(value, datetime) else str(value)
            # What a venue or a person wrote must not look like a line of its own.
            said.append(f"{name}={text if text.isprintable() else ascii(text)}")
    return " ".join(said)


@dataclass(frozen=True)
class Check:
    """One line of `check`: what was looked at, whether it is well, and what to do if not."""

    name: str
    ok: bool
    text: str


def check(settings: Settings, market: MarketData, now: datetime) -> Iterator[Check]:
    """Prove that the settings in force can produce a legal order in every symbol."""
    catalog = ProductCatalog()
    catalog.load_from_brokerage(market)
    limits = configured(RiskConfig, settings)
    marks = market.marks(settings.symbols, now)
    account = Account(now, settings.paper_equity, marks=market.marks(settings.symbols, now))
    for symbol in settings.symbols:
        try:
            product = catalog.get(symbol)
        except ConfigError as refusal:
            yield Check(symbol, False, str(refusal))
            continue
        for side in (Side.BUY, Side.SELL) if settings.enable_shorts else (Side.BUY,):
            yield _feasible(product, side, account, limits)


def settings_rows(settings: Settings) -> Iterator[str]:
    """Every value in force and where it came from, one line each."""
    rows = [(n, f"{value} {unit}".rstrip(), source)
            for n, value, unit, source in described(settings)]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    for name, value, source in rows:
        yield f"{name:<{widths[0]}}  {value:<{widths[1]}}  {source}"


def _feasible(product: Product, side: Side, account: Account, limits: RiskConfig) -> Check:
    """Size, quantise and ask the gate, as the loop does for an entry."""
    name = f"{product.symbol} {'long' if side is Side.BUY else 'short'}"
    mark = account.marks.get(product.symbol)
    if mark is None:
        return Check(name, False, f"No mark price for symbol {product.symbol}: check the venue")
    price = worst_price(OrderIntent(product.symbol, side, ZERO), mark)
    room = headroom(product.symbol, side, account, product, limits)
    said = (f"the limits leave {room:.2f} USD at "
            f"{limits.leverage_in_force(product, side):.4g}x leverage")
    try:
        quantity = quantize_quantity(product, quantity_for(product, room, price), price)
    except BelowMinimum:
        return Check(name, False, f"Quantization failed: Below minimum: {said}, "
                                  f"{_way_out(product, side, account, limits, price)}")
    intent = OrderIntent(product.symbol, side, quantity)
    verdict = LiveRiskManager(limits).pre_trade(intent, account, product)
    size = product.contract_size
    return Check(name, verdict.approved, verdict.reason or (
        f"{said}: {quantity / size:f} contracts of {size * price:.2f} USD"))


def _way_out(
    product: Product, side: Side, account: Account, limits: RiskConfig, price: Decimal
) -> str:
    """The smallest order, and every number to change so that it becomes possible."""
    step = product.quantity_increment
    least = max(product.min_quantity, ceil_to(product.min_notional / price, step)) * price
    leverage = limits.leverage_in_force(product, side)
    share = leverage * min(limits.max_position_pct_per_symbol, limits.max_exposure_pct)
    numbers = (
        # flag             what it allows now                     what it must be, USD
        ("--max-position", limits.max_position,                   least),
        ("--equity",       account.equity * share,                least / share),
    )  # fmt: skip
    changes = [f"{flag} {(needed * SPARE).quantize(Decimal('1E1'), ROUND_UP):f}"
               for flag, allowed, needed in numbers if allowed is not None and allowed < least]
    return f"the smallest order is {least:.2f} USD: set {' and '.join(changes)}"


def _windows(bot: Bot) -> dict[str, object]:
    """The mark-window cache: the closes that the averages are made of."""
    return {
        symbol: {"bar_at": bot.strategy.bar_at(symbol), "bar_seconds": bot.settings.bar,
                 "closes": bot.strategy.window(symbol)} for symbol in bot.symbols
    }


def _position_row(bot: Bot, symbol: str) -> dict[str, object]:
    position = bot.tracker.get_position(symbol)
    names = ("symbol", "quantity", "entry_price", "mark_price", "unrealized_pnl")
    return {**{name: getattr(position, name) for name in names},
            "stop_price": bot.engine.stop_price(symbol)}


def _ratio(part: Decimal | int, whole: Decimal | int) -> Decimal | None:
    return (Decimal(part) / whole).quantize(SHOWN_RATIO) if whole > 0 else None
