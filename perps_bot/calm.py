"""Calm: can anything but the averages have changed since the last whole look?

Our state is a fold of events, and the venue's account moves its revision.  While neither has
moved, another look would find the same, unless a price comes to where something is done about it
or a moment passes.  A venue that cannot say its revision is looked at every time, and so is
whatever is under way: an entry, an exit, an order in doubt.  Nothing is sent or decided here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from perps_bot.limits import INFINITY
from perps_bot.model import ZERO, Mark, OrderStatus, Purpose, Side, Ticket, TradingState

# What ends so soon is closed while it can be.
EXPIRES_SOON = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Watch:
    """One symbol in which nothing is done while its price stays between `below` and `above`.

    side      of what is held; None when flat
    trail_at  the stop that the trail would have to reach to be followed, USD per base unit
    """

    symbol: str
    side: Side | None
    below: Decimal
    above: Decimal
    trail_at: Decimal


@dataclass(frozen=True, slots=True)
class Calm:
    """What the last whole look has left.

    revision, seq  of the venue's account and of our events, as that look knew them
    watches        one for each symbol; None where something is to be done at the next tick
    until          the first moment at which something is; None: no time is known
    """

    revision: int
    seq: int
    watches: tuple[Watch, ...] | None
    until: datetime | None


def found(bot: Any, marks: Mapping[str, Mark], revision: int | None) -> Calm | None:
    """What the whole look that ends has found, or None where the next tick has to look again.

    revision  of the venue's account before that look
    """
    engine, books = bot.engine, bot.books
    is_told = revision is not None and revision == bot.venue.revision and books.agrees and not (
        engine.foreign or engine.moved_by_others) and all(
            map(_is_at_rest, engine.orders.tickets.values()))
    if not is_told:
        return None
    watches, until = _watches(bot, marks), [*bot._next_bar.values()]
    for watch in watches or ():
        ends_at = watch.side and bot.catalog.get(watch.symbol).expires_at
        until += [ends_at - EXPIRES_SOON] if ends_at else []
    return Calm(revision, bot.store.seq, watches, min(until, default=None))


def is_still(bot: Any) -> bool:
    """Whether neither the venue's account nor our events have moved since the last whole look."""
    calm = bot.calm
    return (calm is not None and calm.seq == bot.store.seq
            and calm.revision == bot.venue.revision)


def passes(bot: Any, marks: Mapping[str, Mark], now: datetime) -> bool:
    """Take the tick's prices; False where they, or the time, ask for a whole look.

    What was taken until then stands: a whole look takes no bar twice.
    """
    calm, strategy, fresh = bot.calm, bot.strategy, []
    if calm.watches is None or bot.protector.has_exits or calm.until and now >= calm.until:
        return False
    for watch in calm.watches:
        symbol, side = watch.symbol, watch.side
        mark = marks.get(symbol)
        if mark is bot._seen[symbol]:
            continue
        if mark is None or not watch.below < mark.price < watch.above:
            return False
        if mark.candle is None:
            bot.risk.flow.see((mark,))
        else:
            strategy.observe(symbol, mark.price, now)
            if not strategy.wants_nothing(symbol, side):
                return False
        if side is not None:
            position = bot.tracker.get_position(symbol)
            if strategy.watch(mark, position) and (
                    strategy.trailing_stop(position) - watch.trail_at) * side.sign >= 0:
                return False
        fresh.append(mark)
    bot.engine.see(marks)
    bot.books.note_funding(bot.venue, now)
    if bot.tracker.positions() and bot.risk.post_trade(bot.engine.picture()):
        return False
    bot._seen.update((mark.symbol, mark) for mark in fresh)
    bot.message = None
    return True


def _is_at_rest(ticket: Ticket) -> bool:
    """Whether it rests at the venue as our books have it."""
    order = ticket.order
    return (order.status is OrderStatus.OPEN and order.filled_quantity == ticket.recorded
            and ticket.missed_at is None and not ticket.is_late)


def _watches(bot: Any, marks: Mapping[str, Mark]) -> tuple[Watch, ...] | None:
    if bot._refused or bot.protector.has_exits or bot.risk.state is not TradingState.TRADING:
        return None
    tells = bot.store.wants("strategy.signal")
    watches = tuple(_watch(bot, symbol, marks.get(symbol), tells) for symbol in bot.symbols)
    return None if None in watches else watches


def _watch(bot: Any, symbol: str, mark: Mark | None, tells: bool) -> Watch | None:
    """tells: whether the strategy's signals are read, for then each of them is an event."""
    position, orders = bot.tracker.get_position(symbol), bot.engine.outstanding(symbol)
    side, strategy = position.side, bot.strategy
    if (mark is None or bot._seen.get(symbol) is not mark or tells and mark.candle is not None
            or not strategy.wants_nothing(symbol, side)):
        return None
    if side is None:
        return None if orders else Watch(symbol, None, ZERO, INFINITY, ZERO)
    if len(orders) != 1 or orders[0].purpose is not Purpose.STOP or (
            orders[0].remaining != abs(position.quantity)):
        return None
    stop, trail_to = orders[0].intent.stop_price, strategy.trailing_stop(position)
    trail_at = stop * (1 + bot.engine.config.stop_move_min_pct * side.sign)
    if trail_to is None or (trail_to - trail_at) * side.sign >= 0:
        return None
    best = strategy.best(symbol) if tells else INFINITY * side.sign
    below, above = (stop, best) if side is Side.BUY else (best, stop)
    return Watch(symbol, side, below, above, trail_at)
