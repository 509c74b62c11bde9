"""Figures: what does the owner see of a bot at a glance?

What last_state.json and metrics.prom hold: account, positions, orders, how much of each limit is
used, by our books and as of the last tick.  It only looks, at most once a second, and asks nobody.
Money is exact; what is not known is None, never zero.
"""

from collections import Counter
from datetime import datetime
from decimal import Decimal
from typing import Any

from perps_bot.limits import age_seconds
from perps_bot.model import ZERO, Account, Order, OrderStatus, Product, Purpose
from perps_bot.usage import Use, rounded

# What is counted since midnight UTC.
COUNTED = ("decisions", "signals", "sent", "accepted")


def figures(bot: Any, now: datetime, counts: Counter) -> dict[str, object]:
    """What a person wants to see at a glance; never read back."""
    account, risk = bot.engine.books(), bot.risk
    products = {s: bot.catalog.get(s) for s in bot.symbols} if bot.is_started else {}
    used = Use(account, risk.config, risk.flow, products)
    return {
        "timestamp": now, "profile": bot.settings.profile, "broker": bot.broker_name,
        "trading_state": risk.state,
        "holds": {kind: {"state": hold.state, "reason": hold.reason, "since": hold.at}
                  for kind, hold in risk.holds.items()},
        "account": _account_row(bot.tracker), "margin": _margin_row(account),
        "positions": [_position_row(bot, symbol, account) for symbol in account.positions],
        "symbols": {s: _symbol_row(bot, s, products.get(s), account) for s in bot.symbols},
        "orders": [_order_row(order) for order in account.outstanding],
        "daily_loss": _loss_row(bot), "leverage": _leverage_row(account, risk.config),
        "limits": list(used.rows(bot.symbols)),
        "signal_rate": _ratio(counts["signals"], counts["decisions"]),
        "order_success_rate": _ratio(counts["accepted"], counts["sent"]),
        "today": {name: counts[name] for name in COUNTED},
        "last_decisions": bot.last_decisions,
    }


def _account_row(books: Any) -> dict[str, object]:
    """By our books, so that it adds up; the venue's is as of the last read."""
    totals = ("realized_pnl", "unrealized_pnl", "fees", "funding")
    return {"equity": None if books.start_equity is None else books.equity(),
            "start_equity": books.start_equity, **{name: books.total(name) for name in totals},
            "venue_equity": books.last_equity}


def _loss_row(bot: Any) -> dict[str, object]:
    start = bot.tracker.day_start_equity or None
    return {"loss": bot.tracker.daily_loss(), "day_start_equity": start,
            "limit": start and start * bot.settings.max_daily_loss_pct}


def _leverage_row(account: Account, limits: Any) -> dict[str, object]:
    notional = sum((p.notional for p in account.positions.values()), ZERO)
    return {"used": _ratio(notional, account.equity), "limit": limits.leverage_limit}


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


def _margin_row(account: Account) -> dict[str, object] | None:
    margin = account.margin
    return margin and {
        "initial": margin.initial, "available": margin.available, "threshold": margin.threshold,
        "ratio": margin.ratio and rounded(margin.ratio)}


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


def _symbol_row(
    bot: Any, symbol: str, product: Product | None, account: Account
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


def _order_row(order: Order) -> dict[str, object]:
    intent = order.intent
    return {"client_order_id": order.id, "symbol": order.symbol, "purpose": order.purpose,
            "side": order.side, "status": order.status, "remaining": order.remaining,
            "limit_price": intent.limit_price, "stop_price": intent.stop_price}


def _ratio(part: Decimal | int, whole: Decimal | int) -> Decimal | None:
    return rounded(Decimal(part) / whole) if whole > 0 else None
