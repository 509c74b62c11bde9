"""Stops: in which forms can a position be protected?

This room is pure: no venue, no clock, no state.  It knows the forms of a protective stop, from
the best to the plainest, and the venue's words for why one is refused.  It never says when.
"""

from collections.abc import Iterator
from decimal import Decimal

from perps_bot.model import OrderIntent, OrderType, Position, Purpose, TimeInForce

# The venue's words, without PREVIEW_: the price has passed this stop; there is less to stop; the
# profit leg is too far.
STOP_PASSED = ("STOP_PRICE_ABOVE_LAST_TRADE_PRICE", "STOP_PRICE_BELOW_LAST_TRADE_PRICE",
               "STOP_ALREADY_TRIGGERED", "STOP_TRIGGERED")
NOTHING_TO_STOP = ("BRACKET_ORDER_SIZE_EXCEEDS_POSITION", "NOT_REDUCING")
OUT_OF_BOUNDS = ("BRACKET_LIMIT_PRICE_OUT_OF_BOUNDS", "INVALID_BRACKET_LIMIT_PRICE",
                 "INVALID_BRACKET_PRICES", "TAKE_PROFIT_PRICE_TOO_HIGH",
                 "TAKE_PROFIT_PRICE_TOO_LOW")


def tightest(position: Position, prices: list[Decimal]) -> Decimal:
    """The stop that would fire first."""
    return max(prices) if position.quantity > 0 else min(prices)


# How often a bracket's profit leg is halved before a plain stop is used instead.
PROFIT_HALVINGS_MAX = 3
# A plain stop's limit lies this far beyond its trigger.
STOP_LIMIT_BEYOND_PCT = Decimal("0.05")


def protective_orders(
    position: Position, quantity: Decimal, level: Decimal, profit_pct: Decimal
) -> Iterator[OrderIntent]:
    """Yield the stops to try at `level`: brackets with ever nearer profit legs, then a plain one.

    profit_pct  the first profit leg's distance, a fraction of the entry price
    """
    side = position.side.opposite
    for _ in range(PROFIT_HALVINGS_MAX + 1):
        profit = position.entry_price * (1 - profit_pct * side.sign)
        yield OrderIntent(position.symbol, side, quantity, OrderType.BRACKET, Purpose.STOP,
                          profit, level, TimeInForce.GTC, reason="protective stop")
        profit_pct /= 2
    beyond = level * (1 + STOP_LIMIT_BEYOND_PCT * side.sign)
    yield OrderIntent(position.symbol, side, quantity, OrderType.STOP_LIMIT, Purpose.STOP,
                      beyond, level, TimeInForce.GTC, reason="protective stop")
