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
from typing import Any, NamedTuple

from perps_bot.limits import INFINITY
from perps_bot.model import ZERO, Account, Action, Mark, Order, Position, Side, TradingState
from perps_bot.risk import MARGIN_RATIO_MIN

# What ends so soon is closed while it can be.
EXPIRES_SOON = timedelta(days=1)
# Before so little of a limit is left, nobody asks it.
A_LITTLE = Decimal("0.001")


class Watch(NamedTuple):
    """One symbol in which nothing is done while its price stays between `below` and `above`.

    quantity  of what is held, signed, and `side`, None when flat; orders  its stop, or none
    trail_at  the stop that the trail would have to reach to be followed, USD per base unit
    """

    quantity: Decimal
    side: Side | None
    orders: tuple[Order, ...]
    below: Decimal
    above: Decimal
    trail_at: Decimal


@dataclass(slots=True)
class Calm:
    """What the last whole look has left.

    revision, seq  of the venue's account and of our events, as that look knew them; revision is
                   None where something is under way
    watches        by symbol; none where something is to be done at the next tick
    losses         today's, USD, between which no limit turns; None: the next tick looks
    until          the first moment at which something is to be done; None: no time is known
    """

    revision: int | None
    seq: int
    watches: dict[str, Watch]
    losses: tuple[Decimal, Decimal] | None
    until: datetime | None


def found(bot: Any, account: Account, revision: int | None) -> Calm | None:
    """What the whole look that ends has found, or None where the next tick has to ask everything.

    account   what it has seen; revision  of the venue's account before it did
    """
    now, engine = bot.venue.revision, bot.engine
    if revision is None or not bot.books.agrees or engine.foreign or engine.moved_by_others:
        return None
    moving = {t.order.symbol for t in engine.orders.tickets.values() if not t.is_at_rest}
    watches = _watches(bot, account, moving)
    if moving or revision != now and not _have_only_sent(bot, account):
        return Calm(None, bot.store.seq, watches, None, None)
    losses = _losses(bot) if len(watches) == len(bot.symbols) else None
    return Calm(now, bot.store.seq, watches, losses, _until(bot))


def is_still(bot: Any) -> bool:
    """Whether neither the venue's account nor our events have moved since the last whole look."""
    calm = bot.calm
    return (calm is not None and calm.seq == bot.store.seq
            and calm.revision == bot.venue.revision)


def passes(bot: Any, marks: Mapping[str, Mark], now: datetime) -> bool:
    """Take the tick's prices; False where they, or the time, ask for a whole look.

    What was taken until then stands: a whole look decides only those that have left their watch.
    """
    calm, seen, left = bot.calm, bot._seen, []
    if calm.losses is None or bot.protector.has_exits or calm.until and now >= calm.until:
        return False
    for symbol, watch in calm.watches.items():
        mark = marks.get(symbol)
        if mark is seen[symbol]:
            continue
        if mark is not None and _follows(bot, watch, mark, now):
            seen[symbol] = mark
        else:
            left.append(symbol)
    if left:
        for symbol in left:
            del calm.watches[symbol]
        return False
    bot.engine.see(marks)
    bot.books.note_funding(bot.venue, now)
    bot.message = None
    return not bot.tracker.positions() or _stays_within(bot, calm)


def keeps(bot: Any, mark: Mark, now: datetime) -> bool:
    """Whether a whole look that something else has asked for has nothing to decide in a symbol."""
    symbol = mark.symbol
    return (stands(bot, symbol) and now < bot._next_bar.get(symbol, now + bot.bar)
            and _follows(bot, bot.calm.watches[symbol], mark, now))


def stands(bot: Any, symbol: str) -> bool:
    """Whether position and orders are those that a watch was made for: no stop is missing."""
    watch = bot.calm and bot.calm.watches.get(symbol)
    return (watch is not None and watch.orders == bot.engine.outstanding(symbol)
            and watch.quantity == bot.tracker.get_position(symbol).quantity
            and not bot.protector.is_exiting(symbol))


def _follows(bot: Any, watch: Watch, mark: Mark, now: datetime) -> bool:
    """Take a new mark; False where something is to be done at it."""
    if not watch.below < mark.price < watch.above:
        return False
    symbol, side, strategy = mark.symbol, watch.side, bot.strategy
    if mark.candle is None:
        bot.risk.flow.see((mark,))
    elif strategy.observe(symbol, mark.price, now) and not strategy.wants_nothing(symbol, side):
        return False
    if side is None:
        return True
    position = bot.tracker.get_position(symbol)
    return not strategy.watch(mark, position) or (
        strategy.trailing_stop(position) - watch.trail_at) * side.sign < 0


def _stays_within(bot: Any, calm: Calm) -> bool:
    """Read what the prices have made of the account; False near a limit on losses."""
    bot.tracker.last_equity = bot.venue.equity()
    loss = bot.tracker.daily_loss()
    bot.risk.flow.curve.see(loss)
    if loss < calm.losses[0]:  # a new high, from which a drawdown counts
        calm.losses = _losses(bot)
    return loss < calm.losses[1]


def _until(bot: Any) -> datetime | None:
    """The first moment at which something is to be done; None where no time is known."""
    ends = [bot.catalog.get(symbol).expires_at for symbol in bot.tracker.positions()]
    return min([*bot._next_bar.values(), *(at - EXPIRES_SOON for at in ends if at)], default=None)


def _losses(bot: Any) -> tuple[Decimal, Decimal] | None:
    """The losses of today, USD, between which no limit on losses turns; None: there are none.

    The lower one is a new high, from which a drawdown is measured; the other leaves some room.
    """
    limits, curve, base = bot.risk.config, bot.risk.flow.curve, bot.tracker.day_start_equity
    high, deepest = curve.loss_at(Decimal(1)), curve.loss_at(1 - limits.max_drawdown_pct)
    if high is None or base <= 0:
        return None
    most = min(deepest, base * limits.max_daily_loss_pct)
    return high, most - abs(most) * A_LITTLE


def _have_only_sent(bot: Any, account: Account) -> bool:
    """Whether the account has moved since `account` by nothing but orders of ours that rest."""
    listed = bot.venue.orders(bot.store.now)
    resting = {order.id: order.filled_quantity for order in listed if not order.status.is_terminal}
    known = {each: ticket.recorded for each, ticket in bot.engine.orders.tickets.items()}
    return resting == known and account.positions is bot.tracker.positions()


def _watches(bot: Any, account: Account, moving: set[str]) -> dict[str, Watch]:
    if bot.risk.state is not TradingState.TRADING:
        return {}
    watches = {s: _watch(bot, s, account) for s in bot.symbols if s not in moving}
    return {symbol: watch for symbol, watch in watches.items() if watch is not None}


def _watch(bot: Any, symbol: str, account: Account) -> Watch | None:
    mark, position = account.marks.get(symbol), bot.tracker.get_position(symbol)
    if not bot.strategy.wants_nothing(symbol, position.side) or symbol in bot._refused:
        return None
    # Where the signals are read, each end of a bar is an event.
    tells = bot.store.wants("strategy.signal")
    if mark is None or bot._seen.get(symbol) is not mark or tells and mark.candle is not None:
        return None
    if bot.last_decisions.get(symbol) != Action.HOLD:
        return None
    orders = bot.engine.outstanding(symbol)
    if position.quantity:
        return _watch_held(bot, account, position, orders, tells)
    return None if orders else Watch(ZERO, None, (), ZERO, INFINITY, ZERO)


def _watch_held(
    bot: Any, account: Account, position: Position, orders: tuple[Order, ...], tells: bool
) -> Watch | None:
    """One stop on exactly the position, and the price between it and what would move it."""
    symbol, side, margin = position.symbol, position.side, account.margin
    trail_to, price = bot.strategy.trailing_stop(position), account.marks[symbol].price
    if [order.remaining for order in orders] != [abs(position.quantity)]:
        return None
    if trail_to is None or margin is None or bot.protector.is_exiting(symbol):
        return None
    stop = orders[0].intent.stop_price
    trail_at = stop * (1 + bot.engine.config.stop_move_min_pct * side.sign)
    if (trail_to - trail_at) * side.sign >= 0:
        return None
    # Each better price is an event, too: one beyond the best so far.
    best = bot.strategy.best(symbol) if tells else INFINITY * side.sign
    below, above = (stop, best.next_plus()) if side is Side.BUY else (best.next_minus(), stop)
    # What liquidates may grow with the price, by less than the position is worth.
    room = (margin.available - MARGIN_RATIO_MIN * margin.threshold) / len(bot.tracker.positions())
    move = room / (3 * abs(position.quantity))
    return Watch(position.quantity, side, orders, max(below, price - move),
                 min(above, price + move), trail_at)
