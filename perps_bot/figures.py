"""Figures: what does the owner see of a bot at a glance?

What last_state.json and metrics.prom hold: account, positions, orders, how much of each limit is
used, by our books and as of the last tick.  It only looks, at most once a second, asks nobody and
decides nothing: the gate (`risk`) has its own rows, and is the only one that refuses.  Money is
exact; what is not known is None, never zero.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from perps_bot.limits import (
    RiskConfig, age_seconds, notional_of_others, turnover_with, worst_notional,
)
from perps_bot.model import (
    ZERO, Account, Margin, OrderIntent, OrderStatus, Product, Purpose, Side,
)

# What is counted since midnight UTC.
COUNTED = ("decisions", "signals", "sent", "accepted")
TOTALS = ("realized_pnl", "unrealized_pnl", "fees", "funding")
# What was divided is shown to this step, and not at all with more digits before the point: a
# figure that cannot be rounded must not end the bot.
STEP, DIGITS_MAX = Decimal("0.0001"), 20


def figures(bot: Any, now: datetime, counts: Counter) -> dict[str, object]:
    """What a person wants to see at a glance; never read back."""
    account, risk, books = bot.engine.books(), bot.risk, bot.tracker
    products = {s: bot.catalog.get(s) for s in bot.symbols} if bot.is_started else {}
    notional = sum((p.notional for p in account.positions.values()), ZERO)
    start = books.day_start_equity or None
    return {
        "timestamp": now, "profile": bot.settings.profile, "broker": bot.broker_name,
        "trading_state": risk.state,
        "holds": {kind: {"state": hold.state, "reason": hold.reason, "since": hold.at}
                  for kind, hold in risk.holds.items()},
        "account": _account_row(books), "margin": account.margin and _margin_row(account.margin),
        "positions": [_position_row(bot, symbol, account) for symbol in account.positions],
        "symbols": {s: _symbol_row(bot, s, products.get(s), account) for s in bot.symbols},
        "orders": [{"client_order_id": order.id, "symbol": order.symbol, "purpose": order.purpose,
                    "side": order.side, "status": order.status, "remaining": order.remaining,
                    "limit_price": order.intent.limit_price, "stop_price": order.intent.stop_price}
                   for order in account.outstanding],
        "daily_loss": {"loss": books.daily_loss(), "day_start_equity": start,
                       "limit": start and start * bot.settings.max_daily_loss_pct},
        "leverage": {"used": _ratio(notional, account.equity), "limit": risk.config.leverage_limit},
        "limits": list(Use(account, risk.config, risk.flow, products).rows(bot.symbols)),
        "signal_rate": _ratio(counts["signals"], counts["decisions"]),
        "order_success_rate": _ratio(counts["accepted"], counts["sent"]),
        "today": {name: counts[name] for name in COUNTED},
        "last_decisions": bot.last_decisions,
    }


def _account_row(books: Any) -> dict[str, object]:
    """By our books, so that it adds up; the venue's is as of the last read."""
    return {"equity": None if books.start_equity is None else books.equity(),
            "start_equity": books.start_equity, **{name: books.total(name) for name in TOTALS},
            "venue_equity": books.last_equity}


def _margin_row(margin: Margin) -> dict[str, object]:
    return {"initial": margin.initial, "available": margin.available,
            "threshold": margin.threshold, "ratio": margin.ratio and rounded(margin.ratio)}


def _position_row(bot: Any, symbol: str, account: Account) -> dict[str, object]:
    position = bot.tracker.get_position(symbol)
    stops = [order for order in bot.engine.outstanding(symbol)
             if order.purpose is Purpose.STOP and order.status is OrderStatus.OPEN]
    names = ("symbol", "quantity", "entry_price", "mark_price", "notional", "unrealized_pnl",
             "realized_pnl", "fees", "funding")
    return {**{name: getattr(position, name) for name in names},
            "stop_price": bot.protector.stop_price(symbol),
            "stop_quantity": sum((order.remaining for order in stops), ZERO),
            "stop_orders": [order.venue_order_id or order.id for order in stops],
            "is_protected": bot.protector.is_protected(symbol),
            "liquidation_distance_pct": _liquidation_distance(account)}


def _liquidation_distance(account: Account) -> Decimal | None:
    """How far all marks may move against us at once, a fraction of them; rather too near.

    The threshold is taken to grow with the move, as a short's does.
    """
    held = sum((p.notional for p in account.positions.values()), account.foreign_notional)
    if account.margin is None or account.margin.threshold <= 0 or not held.is_finite():
        return None
    buffer = account.margin.available - account.margin.threshold
    distance = _ratio(buffer, held + account.margin.threshold)
    return None if distance is None else max(distance, ZERO)


def _symbol_row(bot: Any, symbol: str, product: Product | None, account: Account
                ) -> dict[str, object]:
    """One traded symbol, held or flat; None for what is not known."""
    mark = account.marks.get(symbol)
    return {
        "position_quantity": bot.tracker.get_position(symbol).quantity,
        "mark_price": mark and mark.price, "bid": mark and mark.bid, "ask": mark and mark.ask,
        "mark_at": mark and mark.at, "mark_age_seconds": mark and age_seconds(mark, account.at),
        "is_session_open": product and product.is_session_open,
        "is_tradable": product and product.tradable, "note": product and product.note,
    }


def _ratio(part: Decimal | int, whole: Decimal | int) -> Decimal | None:
    return rounded(Decimal(part) / whole) if whole > 0 else None


# How much of each limit is used: a row for every limit in force, measured as the gate would measure
# an entry, but without one.


@dataclass(frozen=True)
class Use:
    """What is measured against: the account, the limits, what was sent lately, and products.

    flow      of the risk manager
    products  by symbol; one that is missing is not known
    """

    account: Account
    limits: RiskConfig
    flow: Any
    products: Mapping[str, Product]

    def rows(self, symbols: tuple[str, ...]) -> Iterator[dict[str, object]]:
        """Yield limit, symbol ("" for all), allowed, unit and used, which is None where unknown.

        A limit on a single order has no use between orders.
        """
        for scope, rows in ((("",), WHOLE), (symbols, BY_SYMBOL), (("",), PER_ORDER)):
            for symbol in scope:
                for limit, measure, unit in rows:
                    if (allowed := getattr(self.limits, limit)) is not None:
                        yield {"limit": limit, "symbol": symbol, "allowed": allowed, "unit": unit,
                               "used": measure and _shown(measure(self, symbol)),
                               "is_per_order": measure is None}

    def leverage(self, _: str = "") -> Decimal | None:
        return _over(notional_of_others(self.account, ""), self.account.equity)

    def exposure(self, _: str = "") -> Decimal | None:
        symbols = {*self.account.positions, *(o.symbol for o in self.account.outstanding)}
        margins = [self._margin(symbol) for symbol in sorted(symbols)]
        margins.append(_over(self.account.foreign_notional, self.limits.leverage_limit))
        return None if None in margins else _over(sum(margins, ZERO), self.account.equity)

    def share(self, symbol: str) -> Decimal | None:
        margin = self._margin(symbol)
        return None if margin is None else _over(margin, self.account.equity)

    def loss(self, _: str) -> Decimal | None:
        return _over(max(self.account.daily_loss, ZERO), self.account.day_start_equity)

    def turnover(self, symbol: str) -> Decimal | None:
        if symbol not in self.account.marks:
            return None
        nothing_more = OrderIntent(symbol, Side.BUY, ZERO)
        traded = turnover_with(self.flow.traded(symbol), nothing_more, self.account)
        return _over(traded, self.limits.max_position or ZERO)

    def spread(self, symbol: str) -> Decimal | None:
        mark = self.account.marks.get(symbol)
        return mark and _over(mark.ask - mark.bid, mark.price)

    def age(self, symbol: str) -> Decimal | None:
        mark = self.account.marks.get(symbol)
        return mark and age_seconds(mark, self.account.at)

    def open_orders(self, symbol: str) -> int:
        return sum(order.symbol == symbol for order in self.account.outstanding)

    def unknown(self, _: str) -> int:
        return sum(order.status is OrderStatus.UNKNOWN for order in self.account.outstanding)

    def _margin(self, symbol: str) -> Decimal | None:
        """Initial margin of one symbol at the leverage in force, USD."""
        product = self.products.get(symbol)
        side = self.account.position(symbol).side or Side.BUY
        return product and _over(worst_notional(self.account, symbol),
                                 self.limits.leverage_in_force(product, side))


WHOLE = (
    # RiskConfig field        used now                                        unit
    ("leverage_limit",        Use.leverage,                                   "x equity"),
    ("max_exposure_pct",      Use.exposure,                                   "of equity"),
    ("max_daily_loss_pct",    Use.loss,                               "of day-start equity"),
    ("max_drawdown_pct",      lambda use, _: use.flow.curve.drawdown,         "of the peak"),
    ("max_losses_in_a_row",   lambda use, _: use.flow.losses,                 "in a row"),
    ("max_orders_per_minute", lambda use, _: use.flow.orders_in_minute(use.account.at),
     "a minute"),
    ("max_messages_per_second",
     lambda use, _: use.flow.messages_in_second(use.account.at),              "a second"),
    ("max_unknown_orders",    Use.unknown,                                    "orders"),
)  # fmt: skip
BY_SYMBOL = (
    ("max_position",                lambda use, symbol: worst_notional(use.account, symbol), "USD"),
    ("max_position_pct_per_symbol", Use.share,                                "of equity"),
    ("max_daily_turnover",          Use.turnover,                             "x max_position"),
    ("max_orders_per_minute_per_symbol",
     lambda use, symbol: use.flow.orders_in_minute(use.account.at, symbol),   "a minute"),
    ("max_entries_per_hour",
     lambda use, symbol: use.flow.entries_in_hour(symbol, use.account.at),    "an hour"),
    ("max_open_orders",             Use.open_orders,                          "orders"),
    ("max_spread_pct",              Use.spread,                               "of the mark"),
    ("mark_staleness_seconds_max",  Use.age,                                  "s"),
    ("quote_staleness_seconds_max", Use.age,                                  "s"),
    ("max_mark_move_pct",
     lambda use, symbol: use.flow.moved(symbol, use.account.at),              "of the mark"),
)  # fmt: skip
PER_ORDER = (
    ("max_order_notional", None, "USD"), ("max_order_qty", None, "contracts"),
    ("price_collar_pct", None, "of the mark"), ("max_top_of_book_pct", None, "of the size there"),
    ("duplicate_window_seconds", None, "s"),
)


def _over(part: Decimal, whole: Decimal) -> Decimal | None:
    return part / whole if whole > 0 and part.is_finite() else None


def rounded(value: Decimal) -> Decimal | None:
    """What was divided, for people; None where nobody could read it."""
    return value.quantize(STEP) if value.is_finite() and value.adjusted() < DIGITS_MAX else None


def _shown(value: Decimal | int | None) -> Decimal | None:
    """A measure for people: money and counts are exact, what was divided is rounded."""
    value = None if value is None else Decimal(value)
    is_exact = value is None or value.is_finite() and -value.as_tuple().exponent <= 10
    return value if is_exact else rounded(value)
