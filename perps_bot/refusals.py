"""Refusals: what is wrong with an order as it is written?

This room is pure: no venue, no clock, no state.  It knows which fields an order must have and how
its prices must lie, in the venue's own words.  Whether the account can carry it is asked elsewhere.
"""

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from functools import partial

from perps_bot.errors import OrderRejected
from perps_bot.model import OrderIntent, OrderType, Side, TimeInForce

MARKET, LIMIT, STOP_LIMIT, BRACKET = OrderType
STOPS = (STOP_LIMIT, BRACKET)


def refusal(code: str, text: str) -> OrderRejected:
    return OrderRejected(code, f"{code}: {text}")


def first(*rows: tuple[object, str, Callable[[], str]]) -> OrderRejected | None:
    """The refusal of the first row that applies; only its text is put together."""
    for refused, code, text in rows:
        if refused:
            return refusal(code, text())
    return None


def incomplete(intent: OrderIntent, now: datetime) -> OrderRejected | None:
    kind, limit, ends_at = intent.order_type, intent.limit_price, intent.expires_at
    is_gtd = intent.time_in_force is TimeInForce.GTD
    said = partial("limit {}, ends at {}".format, limit, ends_at)
    return first(
        (kind is LIMIT and limit is None, "INVALID_LIMIT_PRICE", said),
        (kind is MARKET and limit is not None, "PRICE_NOT_ALLOWED_FOR_MARKET_ORDERS", said),
        (kind in STOPS and (limit is None or intent.stop_price is None),
         "INVALID_BRACKET_PRICES", said),
        (is_gtd and ends_at is None, "GTD_ORDERS_MUST_HAVE_END_TIME", said),
        (ends_at is not None and ends_at <= now, "END_TIME_IS_IN_THE_PAST", said),
    )


def misplaced(intent: OrderIntent, price: Decimal) -> OrderRejected | None:
    """Prices on the wrong side of the market, or of each other."""
    limit, stop, attached = intent.limit_price, intent.stop_price, intent.attached_stop_price
    kind, sign = intent.order_type, intent.side.sign
    beyond, short = ("ABOVE", "BELOW") if intent.side is Side.SELL else ("BELOW", "ABOVE")
    said = partial("limit {}, stop {}, last {}".format, limit, stop or attached, price)
    return first(
        (stop is not None and (stop - price) * sign <= 0,
         f"PREVIEW_STOP_PRICE_{beyond}_LAST_TRADE_PRICE", said),
        (kind is BRACKET and (limit - price) * sign >= 0, "INVALID_BRACKET_PRICES", said),
        (kind is STOP_LIMIT and (limit - stop) * sign < 0,
         f"PREVIEW_STOP_PRICE_{short}_LIMIT_PRICE", said),
        (attached is not None and (attached - (limit or price)) * sign >= 0,
         "INVALID_ATTACHED_STOP_LOSS_PRICE", said),
    )
