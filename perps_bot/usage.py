"""Usage: how much of each limit is used?

One row for every limit in force, measured as the gate would measure an entry, but without one.
This room is pure and decides nothing: the gate (`risk`) has its own rows, and is the only one
that refuses.  What cannot be measured now is None, never zero.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from perps_bot.limits import (
    RiskConfig, age_seconds, notional_of_others, turnover_with, worst_notional,
)
from perps_bot.model import ZERO, Account, OrderIntent, OrderStatus, Product, Side

# What was divided is shown to this step, and not at all with more digits before the point: a
# figure that cannot be rounded must not end the bot.
STEP, DIGITS_MAX = Decimal("0.0001"), 20


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
        for scope, rows in ((("",), WHOLE), (symbols, BY_SYMBOL)):
            for symbol in scope:
                for limit, measure, unit in rows:
                    allowed = getattr(self.limits, limit)
                    if allowed is not None:
                        yield {"limit": limit, "symbol": symbol, "allowed": allowed, "unit": unit,
                               "used": _shown(measure(self, symbol)), "is_per_order": False}
        for limit, unit in PER_ORDER:
            if getattr(self.limits, limit) is not None:
                yield {"limit": limit, "symbol": "", "allowed": getattr(self.limits, limit),
                       "unit": unit, "used": None, "is_per_order": True}

    def leverage(self, _: str = "") -> Decimal | None:
        return _over(notional_of_others(self.account, ""), self.account.equity)

    def exposure(self, _: str = "") -> Decimal | None:
        margins = [self._margin(symbol) for symbol in self._held()]
        margins.append(_over(self.account.foreign_notional, self.limits.leverage_limit))
        return None if None in margins else _over(sum(margins, ZERO), self.account.equity)

    def share(self, symbol: str) -> Decimal | None:
        margin = self._margin(symbol)
        return None if margin is None else _over(margin, self.account.equity)

    def notional(self, symbol: str) -> Decimal:
        return worst_notional(self.account, symbol)

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

    def moved(self, symbol: str) -> Decimal:
        return self.flow.moved(symbol, self.account.at)

    def open_orders(self, symbol: str) -> Decimal:
        return Decimal(sum(order.symbol == symbol for order in self.account.outstanding))

    def unknown(self, _: str) -> Decimal:
        return Decimal(sum(order.status is OrderStatus.UNKNOWN
                           for order in self.account.outstanding))

    def _margin(self, symbol: str) -> Decimal | None:
        """Initial margin of one symbol at the leverage in force, USD."""
        product = self.products.get(symbol)
        side = self.account.position(symbol).side or Side.BUY
        return product and _over(worst_notional(self.account, symbol),
                                 self.limits.leverage_in_force(product, side))

    def _held(self) -> list[str]:
        return sorted({*self.account.positions, *(o.symbol for o in self.account.outstanding)})


def _count(measure: Callable) -> Callable[[Use, str], Decimal]:
    return lambda use, symbol: Decimal(measure(use, symbol))


WHOLE = (
    # RiskConfig field        used now                                        unit
    ("leverage_limit",        Use.leverage,                                   "x equity"),
    ("max_exposure_pct",      Use.exposure,                                   "of equity"),
    ("max_daily_loss_pct",    Use.loss,                               "of day-start equity"),
    ("max_drawdown_pct",      lambda use, _: use.flow.curve.drawdown,         "of the peak"),
    ("max_losses_in_a_row",   _count(lambda use, _: use.flow.losses),         "in a row"),
    ("max_orders_per_minute", _count(lambda use, _: use.flow.orders_in_minute(use.account.at)),
     "a minute"),
    ("max_messages_per_second",
     _count(lambda use, _: use.flow.messages_in_second(use.account.at)),      "a second"),
    ("max_unknown_orders",    Use.unknown,                                    "orders"),
)  # fmt: skip
BY_SYMBOL = (
    ("max_position",                Use.notional,                             "USD"),
    ("max_position_pct_per_symbol", Use.share,                                "of equity"),
    ("max_daily_turnover",          Use.turnover,                             "x max_position"),
    ("max_orders_per_minute_per_symbol",
     _count(lambda use, symbol: use.flow.orders_in_minute(use.account.at, symbol)), "a minute"),
    ("max_entries_per_hour",
     _count(lambda use, symbol: use.flow.entries_in_hour(symbol, use.account.at)), "an hour"),
    ("max_open_orders",             Use.open_orders,                          "orders"),
    ("max_spread_pct",              Use.spread,                               "of the mark"),
    ("mark_staleness_seconds_max",  Use.age,                                  "s"),
    ("quote_staleness_seconds_max", Use.age,                                  "s"),
    ("max_mark_move_pct",           Use.moved,                                "of the mark"),
)  # fmt: skip
PER_ORDER = (
    ("max_order_notional", "USD"), ("max_order_qty", "contracts"),
    ("price_collar_pct", "of the mark"), ("max_top_of_book_pct", "of the size there"),
    ("duplicate_window_seconds", "s"),
)


def _over(part: Decimal, whole: Decimal) -> Decimal | None:
    return part / whole if whole > 0 and part.is_finite() else None


def rounded(value: Decimal) -> Decimal | None:
    """What was divided, for people; None where nobody could read it."""
    return value.quantize(STEP) if value.is_finite() and value.adjusted() < DIGITS_MAX else None


def _shown(value: Decimal | None) -> Decimal | None:
    """A measure for people: money and counts are exact, what was divided is rounded."""
    is_exact = value is not None and value.is_finite() and -value.as_tuple().exponent <= 10
    return value if is_exact or value is None else rounded(value)
