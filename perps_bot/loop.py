"""Loop: what happens every few seconds, and in which order?

Time passes here and nowhere below: the loop asks the clock, waits, and obeys signals.  One
tick is one function, told in docs/ONE_TICK.md in this order.  No rule of trading lives here: the
strategy wants, risk permits, execution sends.  The same `run` serves live, paper and replay.
"""

import logging
import signal
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

from perps_bot import __version__
from perps_bot.bars import Bars
from perps_bot.catalog import ProductCatalog, floor_to, quantity_for
from perps_bot.clock import SystemClock
from perps_bot.errors import ConfigError, OrderRejected, StoreDamaged, VenueUnavailable
from perps_bot.execution import ExecutionConfig, ExecutionEngine
from perps_bot.limits import largest_order
from perps_bot.model import (
    ZERO, Account, Action, Decision, Event, Mark, OrderIntent, OrderStatus, OrderType, Side,
    TradingState,
)
from perps_bot.paper import PaperBroker
from perps_bot.protection import Protector
from perps_bot.reconcile import READS_LAG_MAX, Reconciler, obstacles
from perps_bot.risk import (
    RISK_KINDS, LiveRiskManager, Remedy, RiskConfig, headroom, reduction, remedy, worst_price,
)
from perps_bot.service import Service
from perps_bot.settings import Settings, described
from perps_bot.shutdown import record_end, stop
from perps_bot.store import EPOCH, EventStore, Recovery
from perps_bot.strategy import STOP_CROSSED, BaselinePerpsStrategy, StrategyConfig
from perps_bot.tracker import PositionTracker

log = logging.getLogger("perps_bot")

# How old a product's flags and session may be when an entry is sent.
PRODUCTS_AGE_MAX = timedelta(seconds=60)
# What ends so soon is closed while it can be.
EXPIRES_SOON = timedelta(days=1)
# While an order's outcome is awaited the venue is asked this often, and for so long at most.
AWAIT_SECONDS, AWAIT_FOR = Decimal(1), timedelta(seconds=30)


@dataclass
class Bot:
    """The parts, put together, and what one process remembers between ticks.

    folder    the profile's files; None writes none (replay)
    surfaces  what people and monitors read: `publish` after each tick, `say` at a stop
    feed      live quotes that can wake the loop; None where there are none
    service   the service manager that wants to know that the loop lives, if there is one
    control   what the owner asks of it; None where nobody can (replay)
    """

    settings: Settings
    venue: object
    store: EventStore
    catalog: ProductCatalog
    tracker: PositionTracker
    risk: LiveRiskManager
    strategy: BaselinePerpsStrategy
    engine: ExecutionEngine
    protector: Protector
    books: Reconciler
    bars: Bars
    broker_name: str
    folder: Path | None = None
    surfaces: Any = None
    feed: Any = None
    service: Service = field(default_factory=Service)
    control: Any = None
    lifts_risk_holds_at_midnight: bool = False
    is_settled: bool = False  # what an earlier process left is known: a stop may be sent
    is_started: bool = False
    is_over: bool = False
    trouble: str = ""
    message: str = ""
    last_decisions: dict[str, str] = field(default_factory=dict)
    _observes: str | None = None  # None: not connected; else why nothing can be sent, or ""
    _products_at: datetime | None = None
    _doubts: str = ""  # why the products could not be read anew
    _refused: dict[str, str] = field(default_factory=dict)  # by symbol, since its last decision
    _decided: dict[str, tuple] = field(default_factory=dict)
    _seen: dict[str, Mark] = field(default_factory=dict)
    _last_event_at: datetime | None = None

    @property
    def symbols(self) -> tuple[str, ...]:
        return self.settings.symbols

    @property
    def untraded(self) -> set[str]:
        return self.books.untraded

    def has_price(self, symbol: str) -> bool:
        """Whether there is a mark, or the market is closed and needs none."""
        is_closed = self.is_started and not self.catalog.get(symbol).is_session_open
        return is_closed or symbol in self.engine.marks

    def apply(self, event: Event) -> None:
        self._last_event_at = event.at
        if event.data.get("code") and remedy(event.data["code"]) is Remedy.REFRESH:
            self._products_at = EPOCH  # sizes or steps are not what they were

    def work(self, symbols: Iterable[str]) -> list[VenueUnavailable]:
        """Exits and stops, each one step further; return the failures, which hold up no other."""
        failures = []
        for symbol in symbols:
            if symbol not in self.untraded and not self._observes:
                position = self.tracker.get_position(symbol)
                try:
                    self.protector.work(symbol, self.strategy.trailing_stop(position))
                except VenueUnavailable as failure:
                    failures.append(failure)
        return failures

    def make_ready(self, now: datetime) -> None:
        """Know the products, and what an earlier process left.  Raises VenueUnavailable."""
        with suppress(VenueUnavailable):  # what only reduces needs neither greeting nor price
            if self._observes is None:
                self._observes = self.venue.connect(self.books.traded())
            if not self.is_settled:
                self.engine.see(self.venue.marks(self.symbols, now))
        if not self.is_settled:
            _settle_first(self, now)

    def say(self, text: str) -> None:
        if self.surfaces is not None:
            self.surfaces.say(text)

    def publish(self, now: datetime, error: str = "") -> None:
        if self.surfaces is not None:
            self.surfaces.publish(self, now, error)

    def snapshot(self) -> dict[str, object]:
        """Everything that a restart must know, by part; each part reads its own back."""
        parts = {"tracker": self.tracker, "orders": self.engine.orders, "risk": self.risk,
                 "strategy": self.strategy, "protection": self.protector}
        if self.surfaces is not None:
            parts["surfaces"] = self.surfaces
        return {name: part.snapshot() for name, part in parts.items()}


def assemble(
    settings: Settings, venue: object, store: EventStore, broker_name: str,
    folder: Path | None = None,
) -> Bot:
    """Put the parts together over `venue`, which implements both protocols."""
    tracker = PositionTracker(store)
    risk = LiveRiskManager(configured(RiskConfig, settings), store)
    strategy = BaselinePerpsStrategy(configured(StrategyConfig, settings))
    catalog = ProductCatalog()
    engine = ExecutionEngine(
        configured(ExecutionConfig, settings), store, venue, catalog, risk, tracker)
    protector = Protector(engine)
    books = Reconciler(store, engine, settings.symbols, settings.adopt)
    bars = Bars(settings, venue, store, strategy, folder)
    bot = Bot(settings, venue, store, catalog, tracker, risk, strategy, engine, protector, books,
              bars, broker_name, folder)
    for part in (strategy, books, bot):
        store.subscribe(part.apply)
    return bot


def configured(kind: type, settings: Settings):
    """Return the config class `kind` with every field that is a setting taken from there."""
    names = {each.name for each in fields(kind)} & {each.name for each in fields(settings)}
    return kind(**{name: getattr(settings, name) for name in names})


def recover(bot: Bot) -> Recovery:
    """Read the events back; starting and recovering are the same code."""
    found, books = bot.store.recover(), bot.tracker
    bot.store.now = bot._last_event_at or bot.store.now
    if isinstance(bot.venue, PaperBroker) and books.start_equity is not None:
        bot.venue.restore(
            books.equity() - books.total("unrealized_pnl"), books.positions().values(),
            bot.engine.orders.resting(), bot._last_event_at,
        )
    if found.damage:
        bot.risk.hold("damage", TradingState.REDUCING, found.damage)
    bot.engine.recover()
    return found


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
        bot.trouble = trouble
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
            _settle_first(bot, now)
    if bot.is_settled:
        with suppress(StoreDamaged):  # what was learned before a read failed holds all the same
            bot.work(_bare(bot))


def _bare(bot: Bot) -> list[str]:
    return [symbol for symbol in bot.symbols if not bot.protector.is_protected(symbol)]


def tick(bot: Bot, now: datetime) -> None:
    """One tick.  Raises VenueUnavailable or StoreDamaged; what was done until then stands."""
    bot.store.now = now
    marks = bot.venue.marks(bot.symbols, now)
    _open_day(bot, now)
    if not bot.is_started:
        _start(bot, now)
    _refresh_products(bot, now)
    bot.engine.see(marks)
    bot.engine.settle()
    account = bot.engine.picture()
    paused = bot.books.compare()
    bot.books.note_funding(bot.venue, now)
    bot.risk.post_trade(account)
    if bot.risk.state is not TradingState.TRADING:  # what rests could still open
        with suppress(VenueUnavailable):
            bot.engine.cancel_all()
    _shrink(bot, account)
    wanted, failures = _decide_all(bot, marks, account, paused)
    failures += bot.work(bot.symbols)
    bot.message = "; ".join(text for symbol in bot.symbols for text in obstacles(bot, symbol))
    if failures:
        raise failures[0]
    _enter_one(bot, wanted)


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


def _settle_first(bot: Bot, now: datetime) -> None:
    """Settle what an earlier process left: from here on a position can be given its stop."""
    bot.catalog.load_from_brokerage(bot.venue)
    for symbol in bot.symbols:
        bot.catalog.get(symbol)
    bot._products_at = now
    bot.engine.settle()
    _hold_as_set(bot)
    ours = {*bot.tracker.positions(), *(o.symbol for o in bot.engine.outstanding())}
    if left_out := sorted(ours - {*bot.symbols}):
        raise ConfigError(f"{' '.join(left_out)}: still held or with orders of ours; add it to "
                          f"--symbols, or it would be left alone")
    if not bot.is_settled:
        # Milliseconds of the start: new for each run, even where a full disk forgot the last one.
        epoch = f"{(now - EPOCH) // timedelta(milliseconds=1):x}"
        bot.engine.config, bot.is_settled = replace(bot.engine.config, epoch=epoch), True


def _start(bot: Bot, now: datetime) -> None:
    """Settle, compare the books, fill the windows, then say that it has begun."""
    _settle_first(bot, now)
    account = bot.engine.picture()
    bot.books.begin(now)
    closes = {symbol: bot.bars.closes(symbol, now, cached=True) for symbol in bot.symbols}
    bot.books.check_contracts({symbol: bot.catalog.get(symbol) for symbol in bot.symbols})
    bot.books.check_listing(bot.catalog)
    bot.store.append(
        "bot.started", version=__version__, profile=bot.settings.profile, broker=bot.broker_name,
        symbols=list(bot.symbols), equity=account.equity, contracts=bot.books.contracts(),
        settings=_settings_in_words(bot),
    )
    for symbol in bot.symbols:
        bot.bars.warm(symbol, closes[symbol])
    bot.is_started = True


def _refresh_products(bot: Bot, now: datetime) -> None:
    """Read flags, sessions and steps anew; while that fails the old ones stand, for reductions.

    At once after each hour, too: its funding rate belongs to what was held at its end.
    """
    is_same_hour = now.replace(minute=0, second=0, microsecond=0) <= bot._products_at
    if is_same_hour and timedelta() <= now - bot._products_at < PRODUCTS_AGE_MAX:
        return
    fresh = ProductCatalog()
    try:
        fresh.load_from_brokerage(bot.venue)
        doubts = bot.books.check_listing(fresh)
    except VenueUnavailable as failure:
        doubts = str(failure)
    if doubts and doubts != bot._doubts:  # told once, not at every tick
        log.warning("products not refreshed, so nothing is opened: %s", doubts)
    bot._doubts = doubts
    if not doubts:
        bot._products_at = now
        bot.catalog.take(fresh)
        bot.books.check_contracts({symbol: fresh.get(symbol) for symbol in bot.symbols})


def _shrink(bot: Bot, account: Account) -> None:
    """Give up what is about to end, and part of everything while the margin is running out."""
    kept, last = reduction(account), bot.tracker.last_booked_at
    for symbol, position in bot.tracker.positions().items():
        product = bot.catalog.get(symbol)
        if symbol in bot.untraded or bot.protector.is_exiting(symbol):
            continue
        if product.expires_at and product.expires_at - bot.store.now < EXPIRES_SOON:
            bot.protector.exit(symbol, f"the contract expires at {product.expires_at.isoformat()}")
        elif kept is not None and (last is None or bot.store.now - last >= READS_LAG_MAX):
            # Margin is read late: what the last fill relieved must be in it by now.
            keep = floor_to(abs(position.quantity) * kept, product.quantity_increment)
            bot.protector.exit(symbol, "the liquidation buffer is thin", keep=keep)


def _settings_in_words(bot: Bot) -> dict[str, str]:
    return {name: value for name, value, _, _ in described(bot.settings)}


def _hold_as_set(bot: Bot) -> None:
    """`--reduce-only` and `kill_switch_enabled` hold for as long as they are set."""
    config = bot.risk.config
    if bot._observes:
        bot.risk.hold("observe", TradingState.HALTED, bot._observes)
    else:
        bot.risk.lift("observe", "orders can be sent")
    if config.kill_switch_enabled:
        bot.risk.hold("settings", TradingState.HALTED, "kill_switch_enabled is set")
    elif config.reduce_only_mode:
        if bot.risk.state is TradingState.HALTED:
            bot.risk.lift("settings", "kill_switch_enabled is no longer set")
        bot.risk.hold("settings", TradingState.REDUCING, "--reduce-only is set")
    else:
        bot.risk.lift("settings", "no longer set")


def _is_news(bot: Bot, mark: Mark, now: datetime) -> bool:
    """Whether anything can have changed since the last decision: a new mark, or a bar's end."""
    fresh = bot._seen.get(mark.symbol) is not mark
    bot._seen[mark.symbol] = mark
    return fresh or bot.bars.is_due(mark.symbol, now)


def _decide_all(
    bot: Bot, marks: Mapping[str, Mark], account: Account, paused: set[str]
) -> tuple[list[Decision], list[VenueUnavailable]]:
    """Decide every symbol that has news; begin the exits, return the entries wanted."""
    wanted, failures, now = [], [], bot.store.now
    for mark in [marks[s] for s in bot.symbols if s in marks and s not in bot.untraded]:
        if not _is_news(bot, mark, now):
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
    took_bar, ends = bot.bars.take(mark, now)
    failure = _drop_turned(bot, symbol)
    position = bot.tracker.get_position(symbol)
    improved = strategy.watch(mark, position)
    trail_to = strategy.trailing_stop(position)
    if took_bar and trail_to is not None and bot.risk.state is not TradingState.HALTED:
        failure = _tried(bot.protector.trail, symbol, trail_to) or failure
        position = bot.tracker.get_position(symbol)
    stop_price = bot.protector.stop_price(symbol) or strategy.trailing_stop(position)
    decision = strategy.decide(mark, position, stop_price)
    bot.last_decisions[symbol] = decision.action.value
    said = (decision.action, decision.reason)
    if took_bar or improved or bot._decided.get(symbol) != said:
        bot._decided[symbol] = said
        bot.store.append(
            "strategy.signal", symbol=symbol, action=decision.action, reason=decision.reason,
            **decision.inputs, equity=account.equity, daily_loss=account.daily_loss,
            margin=account.margin and account.margin.figures,
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
    if bot.store.now - bot._products_at >= PRODUCTS_AGE_MAX:
        return  # flags and sessions are not known well enough
    for decision in wanted:
        symbol = decision.symbol
        if bot.engine.outstanding(symbol):
            continue
        side = Side.BUY if decision.action is Action.BUY else Side.SELL
        try:
            bot.engine.enter(symbol, side, entry_quantity(bot, symbol, side), decision.reason)
        except OrderRejected as refusal:
            bot._refused[symbol] = str(refusal)
            bot.message = "; ".join(filter(None, (bot.message, str(refusal))))
            continue
        failures = bot.work([symbol])
        if failures:
            raise failures[0]
        return


def entry_quantity(bot: Bot, symbol: str, side: Side) -> Decimal:
    """Base units that every limit still leaves room for, before the venue's minimum is asked."""
    product, account, limits = bot.catalog.get(symbol), bot.engine.picture(), bot.risk.config
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
