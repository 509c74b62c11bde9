"""Loop: what happens every few seconds, and in which order?

Time passes here and nowhere below: the loop asks the clock, waits, and obeys signals.  One
tick is one function, told in docs/ONE_TICK.md in this order.  No rule of trading lives here: the
strategy wants, risk permits, execution sends.  The same `run` serves live, paper and replay.
"""

import logging
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal

from perps_bot import __version__, calm
from perps_bot.bot import PRODUCTS_AGE_MAX, Bot, settle_first
from perps_bot.catalog import ProductCatalog, floor_to, quantity_for
from perps_bot.clock import SystemClock
from perps_bot.errors import ConfigError, OrderRejected, StoreDamaged, VenueUnavailable
from perps_bot.limits import largest_order
from perps_bot.market import bar_closes, bar_start, cached_closes
from perps_bot.model import (
    ZERO, Account, Action, Decision, Mark, OrderIntent, OrderStatus, OrderType, Side,
    TradingState,
)
from perps_bot.reconcile import READS_LAG_MAX
from perps_bot.risk import RISK_KINDS, headroom, reduction, worst_price
from perps_bot.settings import described
from perps_bot.shutdown import record_end, stop
from perps_bot.store import EPOCH, read_state
from perps_bot.strategy import CROSS_AGE_BARS_MAX, STOP_CROSSED

log = logging.getLogger("perps_bot")

# Bars that may be missed before the windows start again from nothing.
GAP_BARS_MAX = 2
# While an order's outcome is awaited the venue is asked this often, and for so long at most.
AWAIT_SECONDS, AWAIT_FOR = Decimal(1), timedelta(seconds=30)


def run(bot: Bot, clock: SystemClock, cycles: int | None = None) -> int:
    """Tick until a signal, the end of time or `cycles`; return the process's exit code.

    A tick that fails says so in health and the loop goes on.  A bug ends the process: health
    says so, the traceback is in the log, and the restart is the recovery that every start is.
    """
    is_clean = False
    try:
        code = _run(bot, clock, cycles)
        is_clean = True
        return code
    except ConfigError as refusal:
        is_clean = True
        bot.publish(clock.now(), str(refusal))
        raise
    finally:
        if not is_clean:
            _record_bug(bot, clock.now())


def _run(bot: Bot, clock: SystemClock, cycles: int | None) -> int:
    done = 0
    while not clock.is_over():
        # Before anything else is sent, and after each wait.
        number = bot.control.obey(bot, clock) if bot.control else None
        if number is None:
            now = attempt(bot, clock)
            bot.publish(now)
            _listen(bot)
            if bot.service.listens:
                bot.service.tick_ended(
                    f"{bot.risk.state}; {bot.trouble or bot.message or 'all is well'}")
            done += 1
            if done == cycles:
                code = 1 if bot.trouble else 0
                record_end(bot, "cycles done", code, [])
                return code
            number = clock.wait(_pause(bot, now))
        if number == signal.SIGUSR1:
            bot.store.now = clock.now()  # ticks that fail may not have set it for a while
            bot.risk.hold("operator", TradingState.REDUCING, "SIGUSR1")
        elif number is not None:
            return stop(bot, clock, number)
    return 0


def attempt(bot: Bot, clock: SystemClock) -> datetime:
    """Do one tick and return its time; when it could not be finished, `bot.trouble` says why."""
    now = clock.now()
    try:
        if bot._observes is None:
            bot._observes = bot.venue.connect(bot.books.traded())
            now = clock.now()  # the venue's time, from here on
        tick(bot, now)
        bot.trouble = bot.store.trouble
    except (VenueUnavailable, StoreDamaged) as failure:
        trouble = f"{type(failure).__name__}: {failure}"
        if trouble != bot.trouble:  # an outage is told once, not at every tick
            log.warning("tick failed: %s", trouble)
        bot.trouble, bot.calm = trouble, None
        _protect_all(bot, now)
    return now


def _protect_all(bot: Bot, now: datetime) -> None:
    """A read that failed decides nothing, but a position without its stop gets it all the same."""
    if bot._observes is None or bot.is_settled and not _bare(bot):
        return
    with suppress(VenueUnavailable, StoreDamaged):
        if bot.is_settled:
            bot.engine.settle()
        else:
            _open_day(bot, now)
            settle_first(bot, now)
    if bot.is_settled:
        with suppress(StoreDamaged):  # what was learned before a read failed holds all the same
            bot.work(_bare(bot))


def _bare(bot: Bot) -> list[str]:
    return [symbol for symbol in bot.symbols if not bot.protector.is_protected(symbol)]


def tick(bot: Bot, now: datetime) -> None:
    """One tick.  Raises VenueUnavailable or StoreDamaged; what was done until then stands."""
    bot.store.now = now
    marks = bot.venue.marks(bot.symbols, now)
    if bot.store.day is None or now.date() > bot.store.day:
        _open_day(bot, now)
    if not bot.is_started:
        _start(bot, now)
    if not bot._products_at <= now < bot._products_due:
        _refresh_products(bot, now)
    is_still = calm.is_still(bot)
    if not (is_still and calm.passes(bot, marks, now)):
        bot.calm = _look(bot, marks, is_still)


def _look(bot: Bot, marks: Mapping[str, Mark], is_still: bool) -> calm.Calm | None:
    """A whole look, and what it has left; is_still: the account and our books cannot differ."""
    revision, paused = bot.venue.revision, set()
    bot.engine.see(marks)
    if not is_still:
        bot.engine.settle_if_due()
    account = bot.engine.picture()
    if not is_still:
        paused = bot.books.compare()
    bot.books.note_funding(bot.venue, bot.store.now)
    bot.risk.post_trade(account)
    if bot.risk.state is not TradingState.TRADING:  # what rests could still open
        with suppress(VenueUnavailable):
            bot.engine.cancel_all()
    _shrink(bot, account)
    wanted, failures = _decide_all(bot, marks, account, paused)
    failures += bot.work(symbol for symbol in bot.symbols if not calm.stands(bot, symbol))
    bot.message = None
    if failures:
        raise failures[0]
    _enter_one(bot, wanted)
    return None if paused else calm.found(bot, account, revision)


def _open_day(bot: Bot, now: datetime) -> None:
    """Begin the venue's new UTC day with a snapshot; a clock that goes back never resets it."""
    if bot.store.day is not None and now.date() <= bot.store.day:
        return
    # Known before today's first mark: the equity that the day's loss is measured against.
    equity = bot.tracker.last_equity
    if equity is None:
        equity = bot.venue.equity()
    if bot.lifts_risk_holds_at_midnight:
        for kind in RISK_KINDS:
            bot.risk.lift(kind, "a new UTC day")
    if bot.store.day is not None:
        bot.books.tie_out(equity)
    bot.store.open_day(
        now.date(), bot.snapshot(), equity=equity, version=__version__,
        settings=_settings_in_words(bot),
        closes={symbol: bot.strategy.window(symbol) for symbol in bot.symbols})


def _start(bot: Bot, now: datetime) -> None:
    """Settle, compare the books, fill the windows, then say that it has begun."""
    settle_first(bot, now)
    for symbol in bot.symbols:
        bot.catalog.get(symbol)  # what is not listed ends a start, but keeps nothing else bare
    account = bot.engine.picture()
    bot.books.begin(now)
    closes = {symbol: _closes(bot, symbol, now, cached=True) for symbol in bot.symbols}
    bot.books.check_contracts({symbol: bot.catalog.get(symbol) for symbol in bot.symbols})
    bot.books.check_listing(bot.catalog)
    bot.store.append(
        "bot.started", version=__version__, profile=bot.settings.profile, broker=bot.broker_name,
        symbols=list(bot.symbols), equity=account.equity, contracts=bot.books.contracts(),
        settings=_settings_in_words(bot),
    )
    for symbol in bot.symbols:
        _warm(bot, symbol, closes[symbol])
    bot.is_started = True


def _refresh_products(bot: Bot, now: datetime) -> None:
    """Read flags, sessions and steps anew; while that fails the old ones stand, for reductions.

    At once after each hour, too: its funding rate belongs to what was held at its end.
    """
    try:
        listing = bot.venue.products()
        if listing is bot._listing and not bot._doubts:
            bot.know_products(now)
            return
        fresh = ProductCatalog()
        fresh.load(listing)
        doubts = bot.books.check_listing(fresh)
    except VenueUnavailable as failure:
        doubts = str(failure)
    if doubts and doubts != bot._doubts:  # told once, not at every tick
        log.warning("products not refreshed, so nothing is opened: %s", doubts)
    bot._doubts, bot.calm = doubts, None
    if not doubts:
        bot.know_products(now)
        bot._listing = listing
        bot.catalog.take(fresh)
        bot.books.check_contracts({symbol: fresh.get(symbol) for symbol in bot.symbols})


def _shrink(bot: Bot, account: Account) -> None:
    """Give up what is about to end, and part of everything while the margin is running out."""
    kept, last = reduction(account), bot.tracker.last_booked_at
    for symbol, position in bot.tracker.positions().items():
        product = bot.catalog.get(symbol)
        if symbol in bot.untraded or bot.protector.is_exiting(symbol):
            continue
        if product.expires_at and product.expires_at - bot.store.now < calm.EXPIRES_SOON:
            bot.protector.exit(symbol, f"the contract expires at {product.expires_at.isoformat()}")
        elif kept is not None and (last is None or bot.store.now - last >= READS_LAG_MAX):
            # Margin is read late: what the last fill relieved must be in it by now.
            keep = floor_to(abs(position.quantity) * kept, product.quantity_increment)
            bot.protector.exit(symbol, "the liquidation buffer is thin", keep=keep)


def _settings_in_words(bot: Bot) -> dict[str, str]:
    return {name: value for name, value, _, _ in described(bot.settings)}


def _is_news(bot: Bot, mark: Mark, now: datetime) -> bool:
    """Whether anything can have changed since the last decision: a new mark, or a bar's end."""
    fresh = bot._seen.get(mark.symbol) is not mark
    bot._seen[mark.symbol] = mark
    return fresh or now >= bot._next_bar.get(mark.symbol, now + bot.bar)


def _take_bars(bot: Bot, mark: Mark, now: datetime) -> tuple[bool, list[datetime]]:
    """Whether a bar ended since the last tick, and the ends that the strategy was given now."""
    symbol, bar = mark.symbol, bot.bar
    if mark.candle is not None:
        if bot.strategy.bar_at(symbol) != now:  # else taken before the calm ended
            bot.strategy.observe(symbol, mark.price, now)
        return True, [now]
    due = bot._next_bar.setdefault(symbol, bar_start(now, bar) + bar)
    if now < due:
        return False, []
    missed, ends = (now - due) // bar, []
    last = due + missed * bar
    if missed and _warm(bot, symbol, _closes(bot, symbol, now)):
        due = last  # the newest bar's candle may not be out yet
    elif missed > GAP_BARS_MAX:
        _warm(bot, symbol, [], anew=True)
        due = last
    while due <= last:
        if due > (bot.strategy.bar_at(symbol) or EPOCH):
            bot.strategy.observe(symbol, mark.price, due)
            ends.append(due)
        due += bar
    bot._next_bar[symbol] = last + bar
    return True, ends


def _warm(
    bot: Bot, symbol: str, closes: list[tuple[datetime, Decimal]], anew: bool = False
) -> bool:
    """Fill the strategy's windows with `closes`; without any, only where they begin anew."""
    if closes or anew:
        bot.strategy.warm(symbol, closes)
        bot.store.append("strategy.warmed", symbol=symbol, closes=closes)
    return bool(closes)


def _closes(
    bot: Bot, symbol: str, now: datetime, cached: bool = False
) -> list[tuple[datetime, Decimal]]:
    """Bars that have ended, from the venue's candles, at a start else from the cache."""
    count = bot.settings.long_ma_period + CROSS_AGE_BARS_MAX + 1
    closes = bar_closes(bot.venue, symbol, bot.bar, count, now)
    if cached and not closes and bot.folder is not None:
        cache = read_state(bot.folder / "marks.json")
        closes = cached_closes(cache, symbol, bot.bar, now - (GAP_BARS_MAX + 1) * bot.bar, now)
    return closes


def _decide_all(
    bot: Bot, marks: Mapping[str, Mark], account: Account, paused: set[str]
) -> tuple[list[Decision], list[VenueUnavailable]]:
    """Decide every symbol that has news of which anything can come; begin the exits, return the
    entries wanted."""
    wanted, failures, now = [], [], bot.store.now
    for mark in [marks[s] for s in bot.symbols if s in marks and s not in bot.untraded]:
        if not _is_news(bot, mark, now) or calm.keeps(bot, mark, now):
            continue
        bot._refused.pop(mark.symbol, None)
        try:
            decision = _decide(bot, mark, account, now)
        except VenueUnavailable as failure:
            failures.append(failure)  # it holds up no other symbol's exit or stop
            continue
        if decision.action is Action.CLOSE:
            _close(bot, decision)
        elif decision.action is not Action.HOLD and mark.symbol not in paused:
            wanted.append(decision)
    return wanted, failures


def _decide(bot: Bot, mark: Mark, account: Account, now: datetime) -> Decision:
    """Ask the strategy and write down what it was asked with, when that is worth a line."""
    symbol, strategy = mark.symbol, bot.strategy
    took_bar, ends = _take_bars(bot, mark, now)
    failure = _drop_turned(bot, symbol)
    position = bot.tracker.get_position(symbol)
    improved = strategy.watch(mark, position)
    trail_to = strategy.trailing_stop(position)
    if took_bar and trail_to is not None and bot.risk.state is not TradingState.HALTED:
        failure = _tried(bot.protector.trail, symbol, trail_to) or failure
        position = bot.tracker.get_position(symbol)
    stop_price = bot.protector.stop_price(symbol) or strategy.trailing_stop(position)
    decision = strategy.decide(mark, position, stop_price)
    bot.last_decisions[symbol] = decision.action
    said = (decision.action, decision.reason)
    is_worth_it = took_bar or improved or bot._decided.get(symbol) != said
    if is_worth_it and bot.store.wants("strategy.signal"):
        bot._decided[symbol] = said
        bot.store.append(
            "strategy.signal", symbol=symbol, action=decision.action, reason=decision.reason,
            **strategy.inputs(mark, position, stop_price), equity=account.equity,
            daily_loss=account.daily_loss, margin=account.margin and account.margin.figures,
            trading_state=bot.risk.state, limits=vars(bot.risk.config), took_bar=took_bar,
            bars_ended=ends, memory=strategy.memory(symbol),
        )
    if failure:
        raise failure
    return decision


def _drop_turned(bot: Bot, symbol: str) -> VenueUnavailable | None:
    """Cancel an entry that the averages have turned against before it was filled."""
    side = bot.strategy.side(symbol)
    if side and any(entry.side is not side for entry in bot.engine.entries(symbol)):
        return _tried(bot.engine.cancel_all, symbol)
    return None


def _tried(step: Callable, *arguments: object) -> VenueUnavailable | None:
    """Take a step at the venue; return its failure, for what was observed must be written first."""
    try:
        step(*arguments)
    except VenueUnavailable as failure:
        return failure
    return None


def _close(bot: Bot, decision: Decision) -> None:
    """Begin an exit; under a halt only a crossed stop closes, everything else is the owner's."""
    at_stop = decision.reason == STOP_CROSSED
    if at_stop or bot.risk.state is not TradingState.HALTED:
        bot.protector.exit(decision.symbol, decision.reason, leaves_it_to_the_stop=at_stop)


def _enter_one(bot: Bot, wanted: list[Decision]) -> None:
    """At most one entry a tick: the first that is neither blocked nor refused."""
    if bot.store.now >= bot._products_at + PRODUCTS_AGE_MAX:
        return  # flags and sessions are not known well enough
    if wanted and not bot.engine.may_enter():
        return  # what was found there is for the next look
    for decision in wanted:
        symbol = decision.symbol
        if bot.engine.outstanding(symbol):
            continue
        side = Side.BUY if decision.action is Action.BUY else Side.SELL
        try:
            account = bot.engine.picture()
            quantity = entry_quantity(bot, symbol, side, account)
            bot.engine.enter(symbol, side, quantity, decision.reason, account)
        except OrderRejected as refusal:
            bot.message = "; ".join(filter(None, (bot.message, str(refusal))))
            bot._refused[symbol] = str(refusal)
            continue
        failures = bot.work([symbol])
        if failures:
            raise failures[0]
        return


def entry_quantity(bot: Bot, symbol: str, side: Side, account: Account) -> Decimal:
    """Base units that every limit still leaves room for, before the venue's minimum is asked."""
    product, limits = bot.catalog.get(symbol), bot.risk.config
    room = headroom(symbol, side, account, product, limits)
    if room <= 0:
        return product.min_quantity  # so that the gate names the limit that is used up
    entry = OrderIntent(symbol, side, ZERO, bot.settings.order_type)
    mark = account.marks[symbol]
    price = worst_price(entry, mark)
    wanted = quantity_for(product, room, price) or room / price
    return min(wanted, max(largest_order(entry, mark, product, limits), product.min_quantity))


def _listen(bot: Bot) -> None:
    """Write down what became of the feed, and let it wake us when a mark crosses a stop."""
    if bot.feed is None:
        return
    for type, data in bot.feed.changes() if bot.is_started else ():
        bot.store.append(type, **data)
    levels = {}
    for symbol, position in bot.tracker.positions().items():
        stop_price = bot.protector.stop_price(symbol)
        levels[symbol] = (stop_price, None) if position.quantity > 0 else (None, stop_price)
    bot.feed.watch(levels)


def _pause(bot: Bot, now: datetime) -> Decimal:
    """How long to sleep: less while the outcome of an order is awaited."""
    if bot.calm is not None and bot.calm.losses is not None:
        return bot.settings.interval
    awaited = any(
        order.status is not OrderStatus.OPEN or order.intent.order_type is OrderType.MARKET
        for order in bot.engine.outstanding() if now - order.created_at < AWAIT_FOR)
    return min(bot.settings.interval, AWAIT_SECONDS) if awaited else bot.settings.interval


def _record_bug(bot: Bot, now: datetime) -> None:
    """Leave the traceback in the log and `ok: false` behind; the exception goes on."""
    kind, error, _ = sys.exc_info()
    name = kind.__name__ if kind else "exit"
    log.critical("a bug ended the process: %s: %s", name, error, exc_info=True)
    bot.publish(now, f"bug: {name}: {error}")
