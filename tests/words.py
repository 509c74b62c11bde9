"""How the tests of the pure rooms say things: `long 1 @ 100`, `BUY 1 @ 110 fee 2`."""

import dataclasses
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial

from perps_bot.model import (
    Account,
    Fill,
    FundingPayment,
    Mark,
    Order,
    OrderIntent,
    OrderStatus,
    OrderType,
    Position,
    Product,
    Side,
)

NOON = datetime(2025, 5, 1, 12, tzinfo=UTC)
BTC, ETH = "BTC-PERP", "ETH-PERP"


def replace(value, **changes):
    """A copy of one of the model's values with these fields changed."""
    how = value._replace if isinstance(value, tuple) else partial(dataclasses.replace, value)
    return how(**changes)


def hours(count):
    return timedelta(hours=count)


def a_product(symbol=BTC, **changes):
    """A contract of 0.01 BTC on a tick of 5 USD, unless said otherwise; numbers as text."""
    numbers = {
        "contract_size": "0.01", "quantity_increment": "0.01", "price_increment": "5",
        "min_quantity": "0.01", "max_quantity": "1000", "min_notional": "0",
        "long_margin_rate": "0.1", "short_margin_rate": "0.1",
    }
    flags = {name: changes.pop(name) for name in ("tradable", "is_perpetual") if name in changes}
    product_id = changes.pop("product_id", f"{symbol}-ID")
    numbers = {name: Decimal(text) for name, text in (numbers | changes).items()}
    return Product(symbol, product_id, **numbers, **flags)


def a_mark(price, symbol=BTC, at=NOON, sizes=(1000, 1000)):
    """`100` has no spread; `99/101` is bid and ask around their middle; sizes at them."""
    bid, _, ask = price.partition("/")
    bid, ask = Decimal(bid), Decimal(ask or bid)
    return Mark(symbol, (bid + ask) / 2, bid, ask, at, *map(Decimal, sizes))


def a_position(words, symbol=BTC, mark=None):
    """`flat`, `long 1 @ 100` or `short 2 @ 95`; valued at `mark`, or where it was entered."""
    if words == "flat":
        return Position(symbol)
    side, quantity, _, price = words.split()
    sign = {"long": 1, "short": -1}[side]
    return Position(symbol, sign * Decimal(quantity), Decimal(price), Decimal(mark or price))


def said(position):
    if not position.quantity:
        return "flat"
    side = "long" if position.quantity > 0 else "short"
    return f"{side} {abs(position.quantity).normalize():f} @ {position.entry_price.normalize():f}"


def a_fill(words, symbol=BTC, fill_id="1", at=NOON):
    """`BUY 1 @ 100`, with ` fee 2` behind it where there is one."""
    side, quantity, _, price, *fee = words.split()
    return Fill(fill_id, "order-1", symbol, Side[side], Decimal(quantity), Decimal(price),
                Decimal(fee[1] if fee else 0), at)


def a_payment(amount, symbol=BTC, at=NOON):
    return FundingPayment(f"{symbol} {at}", symbol, Decimal(amount), Decimal("0.0001"), at)


def an_intent(words, symbol=BTC, **changes):
    """`BUY 1`, or `BUY 1 @ 100` for a limit."""
    side, quantity, *limit = words.split()
    intent = OrderIntent(symbol, Side[side], Decimal(quantity), **changes)
    if not limit:
        return intent
    return replace(intent, order_type=OrderType.LIMIT, limit_price=Decimal(limit[1]))


def an_order(words, symbol=BTC, status=OrderStatus.OPEN, **changes):
    """An order of ours; fields of its intent go by name."""
    filled = Decimal(changes.pop("filled_quantity", 0))
    return Order(f"pb-{words}", an_intent(words, symbol, **changes), NOON, status,
                 filled_quantity=filled)


def an_account(equity="10000", holding="flat", marks="100", orders=(), loss="0", start="10000"):
    """holding and marks are BTC's in words, or words by symbol; marks="" is none."""
    if isinstance(holding, str):
        holding = {BTC: holding}
    if isinstance(marks, str):
        marks = {BTC: marks} if marks else {}
    return Account(
        NOON, Decimal(equity),
        {symbol: a_position(words, symbol) for symbol, words in holding.items()
         if words != "flat"},
        {symbol: a_mark(words, symbol) for symbol, words in marks.items()},
        tuple(orders), Decimal(start), Decimal(loss),
    )
