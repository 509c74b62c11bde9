"""Ops: what can the owner do, and see?

The files that people and monitors read after each tick, and the commands around a bot that is
not trading at that moment.  Nothing here trades, and nothing here says what was not verified: a
number that is not known is shown as null, a health that is old has an end date in it.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import ROUND_UP, Decimal
from pathlib import Path

from perps_bot.broker import MarketData
from perps_bot.catalog import ProductCatalog, quantity_for
from perps_bot.errors import ConfigError
from perps_bot.loop import Bot, configured
from perps_bot.model import (
    ZERO,
    Account,
    Action,
    Event,
    OrderIntent,
    OrderStatus,
    Product,
    Side,
    TradingState,
)
from perps_bot.risk import RiskConfig, headroom, worst_price
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
# What the diary in the log leaves out: too many, too long, and in the events anyway.
UNLOGGED = frozenset({"day.opened", "strategy.signal", "position.updated"})


class Surfaces:
    """What shows the outside world how the last tick went.  Its counts are per UTC day."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._counts: Counter = Counter()
        self._answered: set[str] = set()
        self._risk_events: list[dict] = []
        self._published_at: datetime | None = None
        self._message = ""
        self.is_live = False  # False while old events are read back

    def apply(self, event: Event) -> None:
        """Count one event, and write it into the diary when it happened now."""
        data, counts = event.data, self._counts
        if event.type == "day.opened":
            self._begin_day(data["snapshot"].get("surfaces", {}))
        elif event.type == "strategy.signal":
            counts["decisions"] += 1
            counts["signals"] += data["action"] != Action.HOLD
        elif event.type == "order.intended":
            counts["sent"] += 1
        elif event.type == "order.updated" and data["client_order_id"] not in self._answered:
            self._answered.add(data["client_order_id"])
            counts["accepted"] += data["status"] not in (OrderStatus.REJECTED, OrderStatus.LOST)
        if event.type in RISK_EVENT_TYPES:
            row = {"seq": event.seq, "ts": event.at, "type": event.type, **data}
            self._risk_events = [*self._risk_events, row][-RISK_EVENTS_MAX:]
        if self.is_live and (event.type not in UNLOGGED or data.get("action", "hold") != "hold"):
            log.log(logging.WARNING if event.type in RISK_EVENT_TYPES else logging.INFO,
                    "%s %s", event.type, diary_line(data))

    def snapshot(self) -> dict[str, object]:
        return {"risk_events": self._risk_events}

    def publish(self, bot: Bot, now: datetime, error: str = "") -> None:
        """Rename the files into place; one that cannot be written stops nothing."""
        ticked_just_now = self._published_at and ZERO_TIME <= now - self._published_at
        if ticked_just_now and now - self._published_at < PUBLISH_EVERY and not error:
            return
        self._published_at = now
        if bot.message != self._message:
            self._message = bot.message
            log.warning("%s", bot.message or "nothing stands in the way any more")
        windows = {
            s: {"bar_at": bot.strategy.bar_at(s), "bar_seconds": bot.settings.bar,
                "closes": bot.strategy.window(s)} for s in bot.symbols
        }
        for name, value in (
            ("health.json", health(bot, now, error)), ("last_state.json", self.state(bot, now)),
            ("risk_events.json", self._risk_events), ("marks.json", windows),
        ):
            try:
                write_state(self._folder / name, value)
            except OSError as failure:
                log.warning("%s was not written: %s", self._folder / name, failure.strerror)

    def say(self, text: str) -> None:
        """Tell the operator at the terminal."""
        print(text, flush=True)

    def state(self, bot: Bot, now: datetime) -> dict[str, object]:
        """What a person wants to see at a glance; never read back."""
        books, counts = bot.tracker, self._counts
        equity = books.equity() if books.last_equity is None else books.last_equity
        notional = sum((p.notional for p in books.positions().values()), ZERO)
        totals = ("realized_pnl", "unrealized_pnl", "fees", "funding")
        return {
            "timestamp": now, "profile": bot.settings.profile, "broker": bot.broker_name,
            "trading_state": bot.risk.state,
            "holds": {kind: hold.reason for kind, hold in bot.risk.holds.items()},
            "account": {"equity": equity, "start_equity": books.start_equity,
                        **{name: books.total(name) for name in totals}},
            "positions": [_position_row(bot, symbol) for symbol in books.positions()],
            "daily_loss": {
                "loss": books.daily_loss(), "day_start_equity": books.day_start_equity,
                "limit": books.day_start_equity * bot.settings.max_daily_loss_pct,
            },
            "leverage": {"used": notional / equity if equity > 0 else None,
                         "limit": bot.risk.config.leverage_limit},
            "signal_rate": _rate(counts["signals"], counts["decisions"]),
            "order_success_rate": _rate(counts["accepted"], counts["sent"]),
            "last_decisions": bot.last_decisions,
        }

    def _begin_day(self, kept: Mapping) -> None:
        self._counts, self._answered = Counter(), set()
        self._risk_events = list(kept.get("risk_events", self._risk_events))


ZERO_TIME = timedelta()


def health(bot: Bot, now: datetime, error: str = "") -> dict[str, object]:
    """What a monitor needs; `ok` is computed from what the last tick saw."""
    error = error or bot.trouble
    missing = [symbol for symbol in bot.symbols if symbol not in bot.engine.marks]
    unwanted = [kind for kind in bot.risk.holds if kind != "settings"]
    halted = bot.risk.state is TradingState.HALTED
    valid = max(HEALTH_TICKS * int(bot.settings.interval), HEALTH_SECONDS_MIN)
    return {
        "timestamp": now,
        "ok": not (error or missing or unwanted or halted or bot.untraded)
        and bot.store.writable,
        "profile": bot.settings.profile,
        "symbols": list(bot.symbols),
        "last_decisions": bot.last_decisions,
        "message": bot.message,
        "error": error,
        "valid_until": now + timedelta(seconds=valid),
        "pid": os.getpid(),
        "broker": bot.broker_name,
        "trading_state": bot.risk.state,
    }


def diary_line(data: Mapping[str, object]) -> str:
    """One event's fields on one line, the nested ones left out."""
    flat = {k: v for k, v in data.items() if not isinstance(v, dict | list) and v not in (None, "")}
    return " ".join(f"{name}={value}" for name, value in flat.items())


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
    account = Account(now, settings.paper_equity, marks=marks)
    for symbol in settings.symbols:
        try:
            product = catalog.get(symbol)
        except ConfigError as refusal:
            yield Check(symbol, False, str(refusal))
            continue
        sides = (Side.BUY, Side.SELL) if settings.enable_shorts else (Side.BUY,)
        for side in sides:
            yield _feasible(product, side, account, limits)


def settings_rows(settings: Settings) -> Iterator[str]:
    """Every value in force and where it came from, one line each."""
    rows = [(n, f"{value} {unit}".rstrip(), source)
            for n, value, unit, source in described(settings)]
    width = max(len(name) for name, _, _ in rows)
    for name, value, source in rows:
        yield f"{name:<{width}}  {value:<34}  {source}"


def _feasible(product: Product, side: Side, account: Account, limits: RiskConfig) -> Check:
    name = f"{product.symbol} {'long' if side is Side.BUY else 'short'}"
    mark = account.marks.get(product.symbol)
    if mark is None:
        return Check(name, False, f"No mark price for symbol {product.symbol}: check the venue")
    price = worst_price(OrderIntent(product.symbol, side, ZERO), mark)
    room = headroom(product.symbol, side, account, product, limits)
    smallest = max(product.min_quantity * price, product.min_notional)
    leverage = limits.leverage_in_force(product, side)
    allowed = quantity_for(product, room, price)
    if allowed >= product.min_quantity and room >= smallest:
        return Check(name, True, f"limits leave {room:.2f} USD at {leverage:.4g}x leverage: "
                                 f"{allowed / product.contract_size:f} contracts of "
                                 f"{product.contract_size * price:.2f} USD")
    way_out = [f"--equity {_up(smallest / leverage / limits.max_position_pct_per_symbol)}"]
    if limits.max_position is not None and limits.max_position < smallest:
        way_out = [f"--max-position {_up(smallest)}"]
        share = account.equity * limits.max_position_pct_per_symbol * leverage
        if share < smallest:
            way_out.append(f"equity of {_up(smallest * account.equity / share)} USD")
    return Check(name, False, f"Quantization failed: Below minimum: the smallest order is "
                              f"{smallest:.2f} USD, the limits leave {room:.2f} USD at "
                              f"{leverage:.4g}x leverage: set {' and '.join(way_out)}")


def _position_row(bot: Bot, symbol: str) -> dict[str, object]:
    position = bot.tracker.get_position(symbol)
    names = ("symbol", "quantity", "entry_price", "mark_price", "unrealized_pnl")
    return {**{name: getattr(position, name) for name in names},
            "stop_price": bot.engine.stop_price(symbol)}


def _up(value: Decimal) -> str:
    """A round number of USD that is enough, with a little room for the price to move."""
    return f"{(value * Decimal('1.1')).quantize(Decimal(10), ROUND_UP):f}"


def _rate(part: int, whole: int) -> Decimal | None:
    return Decimal(part) / whole if whole else None
