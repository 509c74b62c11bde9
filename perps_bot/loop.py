"""Loop: what happens every few seconds, and in which order?

Time passes here and nowhere below: the clock is read, the loop waits, signals are taken.  One
tick is one function, told in docs/ONE_TICK.md in this order.  No rule of trading lives here: the
strategy wants, risk permits, execution sends.  The same `run` serves live, paper and replay.
"""

import logging
import queue
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from time import monotonic
from typing import Any

from perps_bot import __version__
from perps_bot.catalog import ProductCatalog, quantity_for
from perps_bot.errors import (
    ConfigError, OrderRejected, PerpsBotError, StoreDamaged, VenueUnavailable,
)
from perps_bot.execution import ExecutionConfig, ExecutionEngine
from perps_bot.market import bar_closes, bar_start, cached_closes
from perps_bot.model import (
    ZERO, Account, Action, Decision, Event, Mark, Order, OrderIntent, OrderStatus, Position,
    Purpose, Side, TradingState,
)
from perps_bot.paper import PaperBroker
from perps_bot.risk import RISK_KINDS, LiveRiskManager, RiskConfig, headroom, worst_price
from perps_bot.settings import Settings, described
from perps_bot.store import EPOCH, EventStore, Recovery, read_state
from perps_bot.strategy import (
    CROSS_AGE_BARS_MAX, STOP_CROSSED, BaselinePerpsStrategy, StrategyConfig,
)
from perps_bot.tracker import PositionTracker

log = logging.getLogger("perps_bot")

# Bars that may be missed before the windows start again from nothing.
GAP_BARS_MAX = 2
# Differences between our books and the venue's, tick after tick, before the venue's are taken.
MISMATCHES_MAX = 3
# How long the venue's positions may lag behind its fills.
READS_LAG_MAX = timedelta(seconds=10)
# How often, and how many times, a shutdown looks whether its cancels are confirmed.
LOOK_EVERY_SECONDS, STOP_LOOKS_MAX = Decimal("0.5"), 40
# Three interrupts within so many looks end the process at once.
IMPATIENT_LOOKS_MAX = 20


class StopRequest:
    """The signals that the loop obeys, one at a time, in the order in which they came."""

    SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)

    def __init__(self) -> None:
        # SimpleQueue.put is safe inside a signal handler; Event.set can deadlock there.
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()

    def install(self) -> None:
        for number in self.SIGNALS:
            signal.signal(number, lambda number, _frame: self._signals.put(number))

    def wait(self, seconds: Decimal) -> int | None:
        try:
            return self._signals.get(timeout=max(int(seconds * 1000), 0) / 1000)
        except queue.Empty:
            return None


class SystemClock:
    """The machine's clock, and waits that a signal ends."""

    def __init__(self, stop_request: StopRequest | None = None) -> None:
        self._stop_request = stop_request or StopRequest()
        self._asked_at = monotonic()

    def now(self) -> datetime:
        self._asked_at = monotonic()
        return datetime.now(UTC)

    def elapsed(self) -> Decimal:
        """Seconds since `now` was last asked, by the monotonic clock."""
        return Decimal(str(monotonic() - self._asked_at))

    def wait(self, seconds: Decimal) -> int | None:
        # Counted from the last `now`, so that ticks keep their distance however long one took.
        return self._stop_request.wait(seconds - self.elapsed())

    def is_over(self) -> bool:
        return False


@dataclass
class Bot:
    """The parts, put together, and what one process remembers between ticks.

    folder    the profile's files; None writes none (replay)
    surfaces  what people and monitors read: `publish` after each tick, `say` at a stop
    """

    settings: Settings
    venue: object
    store: EventStore
    catalog: ProductCatalog
    tracker: PositionTracker
    risk: LiveRiskManager
    strategy: BaselinePerpsStrategy
    engine: ExecutionEngine
    broker_name: str
    folder: Path | None = None
    surfaces: Any = None
    lifts_risk_holds_at_midnight: bool = False
    is_started: bool = False
    is_over: bool = False
    trouble: str = ""
    message: str = ""
    last_decisions: dict[str, str] = field(default_factory=dict)
    untraded: set[str] = field(default_factory=set)
    _next_bar: dict[str, datetime] = field(default_factory=dict)
    _decided: dict[str, tuple] = field(default_factory=dict)
    _seen: dict[str, Mark] = field(default_factory=dict)
    _unexplained: dict[str, datetime] = field(default_factory=dict)
    _differs: dict[str, tuple[datetime, int]] = field(default_factory=dict)
    _last_event_at: datetime | None = None

    @property
    def symbols(self) -> tuple[str, ...]:
        return self.settings.symbols

    @property
    def bar(self) -> timedelta:
        return timedelta(seconds=int(self.settings.bar))

    def apply(self, event: Event) -> None:
        self._last_event_at = event.at

    def snapshot(self) -> dict[str, object]:
        """Everything that a restart must know, by part; each part reads its own back."""
        parts = {"tracker": self.tracker, "orders": self.engine.orders, "risk": self.risk,
                 "strategy": self.strategy, "execution": self.engine}
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
    bot = Bot(settings, venue, store, catalog, tracker, risk, strategy, engine, broker_name, folder)
    for part in (strategy, bot):
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
        _publish(bot, clock.now(), str(refusal))
        raise
    finally:
        if not is_clean:
            _record_bug(bot, clock.now())


def _run(bot: Bot, clock: SystemClock, cycles: int | None) -> int:
    done = 0
    while not clock.is_over():
        now = clock.now()
        attempt(bot, now)
        _publish(bot, now)
        done += 1
        if done == cycles:
            code = 1 if bot.trouble else 0
            _record_end(bot, "cycles done", code, [])
            return code
        number = clock.wait(bot.settings.interval)
        if number == signal.SIGUSR1:
            bot.risk.hold("operator", TradingState.REDUCING, "SIGUSR1")
        elif number is not None:
            return stop(bot, clock, number)
    return 0


def attempt(bot: Bot, now: datetime) -> None:
    """Do one tick; when it could not be finished, `bot.trouble` says why."""
    try:
        tick(bot, now)
        bot.trouble = bot.store.trouble
    except (VenueUnavailable, StoreDamaged) as failure:
        bot.trouble = f"{type(failure).__name__}: {failure}"
        log.warning("tick failed: %s", bot.trouble)


def tick(bot: Bot, now: datetime) -> None:
    """One tick.  Raises VenueUnavailable or StoreDamaged; what was done until then stands."""
    bot.store.now = now
    marks = bot.venue.marks(bot.symbols, now)
    _open_day(bot, now)
    if not bot.is_started:
        _start(bot, now)
    bot.engine.see(marks)
    bot.engine.settle()
    account = bot.engine.picture()
    paused = _compare_books(bot)
    bot.risk.post_trade(account)
    wanted, failures = _decide_all(bot, marks, account, paused)
    failures += _work(bot, bot.symbols)
    bot.message = "; ".join(text for symbol in bot.symbols for text in _obstacles(bot, symbol))
    if failures:
        raise failures[0]
    _enter_one(bot, wanted)


def stop(bot: Bot, clock: SystemClock, number: int | None) -> int:
    """End in good order: entries cancelled and confirmed, stops left, the truth reported."""
    name, interrupts = signal.Signals(number).name, 0
    _say(bot, f"{name}: cancelling entries, keeping protective stops")
    for look in range(STOP_LOOKS_MAX):
        bot.store.now = clock.now()
        if number == signal.SIGINT:
            interrupts += 1
            if bot.settings.profile != "dev":
                bot.risk.hold("signal", TradingState.HALTED, "kill -INT")
        left, bare = _wind_down(bot)
        if not (left or bare) or (interrupts >= 3 and look < IMPATIENT_LOOKS_MAX):
            break
        number = clock.wait(LOOK_EVERY_SECONDS)
    code = 3 if left or bare else 0
    _record_end(bot, name, code, left)
    _report_stop(bot, left, bare, code)
    bot.message, bot.is_over = f"stopped by {name}", True
    _publish(bot, bot.store.now)
    return code


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
    bot.store.open_day(now.date(), bot.snapshot(), equity=equity)


def _start(bot: Bot, now: datetime) -> None:
    """Settle what an earlier process left, compare the books, fill the windows, then say so."""
    bot.catalog.load_from_brokerage(bot.venue)
    for symbol in bot.symbols:
        bot.catalog.get(symbol)
    bot.engine.settle()
    _hold_as_set(bot)
    ours = {*bot.tracker.positions(), *(o.symbol for o in bot.engine.outstanding())}
    if left_out := sorted(ours - {*bot.symbols}):
        raise ConfigError(f"{' '.join(left_out)}: still held or with orders of ours; add it to "
                          f"--symbols, or it would be left alone")
    for symbol, position in _differing(bot):
        if symbol in bot.settings.adopt:
            bot.tracker.adopt("position.adopted", position)
        elif not bot.engine.outstanding(symbol):  # else the reads may lag behind our orders
            bot._unexplained[symbol] = now
    for symbol in bot.symbols:
        _fill_window(bot, symbol, now, cached=True)
    # Milliseconds of the start: new for each run, even where a full disk forgot the last one.
    epoch = f"{(now - EPOCH) // timedelta(milliseconds=1):x}"
    bot.engine.config = replace(bot.engine.config, epoch=epoch)
    bot.store.append(
        "bot.started", version=__version__, profile=bot.settings.profile, broker=bot.broker_name,
        symbols=list(bot.symbols), equity=bot.venue.equity(),
        settings={name: str(value) for name, value, _, _ in described(bot.settings)},
    )
    bot.is_started = True


def _hold_as_set(bot: Bot) -> None:
    """`--reduce-only` and `kill_switch_enabled` hold for as long as they are set."""
    config = bot.risk.config
    if config.kill_switch_enabled:
        bot.risk.hold("settings", TradingState.HALTED, "kill_switch_enabled is set")
    elif config.reduce_only_mode:
        if bot.risk.state is TradingState.HALTED:
            bot.risk.lift("settings", "kill_switch_enabled is no longer set")
        bot.risk.hold("settings", TradingState.REDUCING, "--reduce-only is set")
    else:
        bot.risk.lift("settings", "no longer set")


def _differing(bot: Bot) -> list[tuple[str, Position]]:
    theirs = bot.venue.positions()
    return [
        (symbol, theirs.get(symbol) or Position(symbol)) for symbol in bot.symbols
        if (theirs.get(symbol) or Position(symbol)).quantity
        != bot.tracker.get_position(symbol).quantity
    ]


def _compare_books(bot: Bot) -> set[str]:
    """Compare our books with the venue's; return the symbols in which nothing may be opened now.

    The venue's reads lag its fills by seconds: only what differs for longer is a difference.
    """
    differing, told = dict(_differing(bot)), bot.engine.orders.are_told
    bot._differs = {s: seen for s, seen in bot._differs.items() if s in differing and told(s)}
    bot._unexplained = {s: at for s, at in bot._unexplained.items() if s in differing}
    for symbol, position in differing.items():
        if symbol in bot._unexplained:
            _leave_alone(bot, symbol, position)
        elif symbol not in bot.untraded and told(symbol):
            _count_difference(bot, symbol, position)
    return set(differing)


def _count_difference(bot: Bot, symbol: str, theirs: Position) -> None:
    """The venue wins, once its answer has stood for long enough."""
    since, ticks = bot._differs.get(symbol, (bot.store.now, 0))
    bot._differs[symbol] = since, ticks + 1
    if ticks + 1 >= MISMATCHES_MAX and bot.store.now - since >= READS_LAG_MAX:
        ours = bot.tracker.get_position(symbol).quantity
        bot.tracker.adopt("reconcile.mismatch", theirs)
        bot.risk.hold("mismatch", TradingState.REDUCING,
                      f"{symbol}: our books say {ours:f}, the venue {theirs.quantity:f}")


def _leave_alone(bot: Bot, symbol: str, position: Position) -> None:
    """What was there before us and stays unexplained is not ours to touch."""
    if bot.store.now - bot._unexplained[symbol] >= READS_LAG_MAX and symbol not in bot.untraded:
        bot.untraded.add(symbol)
        log.error("%s: the venue holds %s, our events explain %s: untouched until --adopt %s",
                  symbol, position.quantity, bot.tracker.get_position(symbol).quantity, symbol)


def _is_news(bot: Bot, mark: Mark, now: datetime) -> bool:
    """Whether anything can have changed since the last decision: a new mark, or a bar's end."""
    fresh = bot._seen.get(mark.symbol) is not mark
    bot._seen[mark.symbol] = mark
    return fresh or now >= bot._next_bar.get(mark.symbol, now + bot.bar)


def _take_bars(bot: Bot, mark: Mark, now: datetime) -> bool:
    """Give the strategy the bars that ended since the last tick; True when there was one."""
    symbol, bar = mark.symbol, bot.bar
    if mark.candle is not None:
        bot.strategy.observe(symbol, mark.price, now)
        return True
    due = bot._next_bar.setdefault(symbol, bar_start(now, bar) + bar)
    if now < due:
        return False
    missed = (now - due) // bar
    last = due + missed * bar
    if missed and _fill_window(bot, symbol, now):
        due = last  # the newest bar's candle may not be out yet
    elif missed > GAP_BARS_MAX:
        bot.strategy.warm(symbol, [])
        due = last
    while due <= last:
        if due > (bot.strategy.bar_at(symbol) or EPOCH):
            bot.strategy.observe(symbol, mark.price, due)
        due += bar
    bot._next_bar[symbol] = last + bar
    return True


def _fill_window(bot: Bot, symbol: str, now: datetime, cached: bool = False) -> bool:
    """Fill the strategy's windows from the venue's candles, at a start else from the cache."""
    count = bot.settings.long_ma_period + CROSS_AGE_BARS_MAX + 1
    closes = bar_closes(bot.venue, symbol, bot.bar, count, now)
    if cached and not closes and bot.folder is not None:
        cache = read_state(bot.folder / "marks.json")
        closes = cached_closes(cache, symbol, bot.bar, now - (GAP_BARS_MAX + 1) * bot.bar, now)
    if closes:
        bot.strategy.warm(symbol, closes)
    return bool(closes)


def _obstacles(bot: Bot, symbol: str) -> Iterator[str]:
    """What stands in the way in one symbol, for people."""
    bars, needed = bot.strategy.bars(symbol), bot.settings.long_ma_period
    if symbol not in bot.engine.marks:
        yield f"No mark price for symbol {symbol}: check the venue and the spelling"
    if bars < needed:
        yield (f"Strategy generates no signals: {symbol} has {bars} of {needed} bars; wait "
               f"{needed - bars} bars of {bot.settings.bar} s, check mark updates and MA periods")
    if not bot.engine.is_protected(symbol):
        yield f"{symbol} has no stop at the venue: see order.updated for the venue's reason"


def _decide_all(
    bot: Bot, marks: Mapping[str, Mark], account: Account, paused: set[str]
) -> tuple[list[Decision], list[VenueUnavailable]]:
    """Decide every symbol that has news; begin the exits, return the entries wanted."""
    wanted, failures, now = [], [], bot.store.now
    for mark in [marks[s] for s in bot.symbols if s in marks and s not in bot.untraded]:
        if not _is_news(bot, mark, now):
            continue
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
    took_bar = _take_bars(bot, mark, now)
    side = strategy.side(symbol)
    if side and any(entry.side is not side for entry in bot.engine.entries(symbol)):
        bot.engine.cancel_all(symbol)  # the averages turned before it was filled
    position = bot.tracker.get_position(symbol)
    improved = strategy.watch(mark, position)
    trail_to = strategy.trailing_stop(position)
    if took_bar and trail_to is not None and bot.risk.state is not TradingState.HALTED:
        bot.engine.trail(symbol, trail_to)
        position = bot.tracker.get_position(symbol)
    stop_price = bot.engine.stop_price(symbol) or trail_to
    decision = strategy.decide(mark, position, stop_price)
    bot.last_decisions[symbol] = decision.action.value
    said = (decision.action, decision.reason)
    if took_bar or improved or bot._decided.get(symbol) != said:
        bot._decided[symbol] = said
        bot.store.append(
            "strategy.signal", symbol=symbol, action=decision.action, reason=decision.reason,
            **decision.inputs, equity=account.equity, daily_loss=account.daily_loss,
            trading_state=bot.risk.state, limits=vars(bot.risk.config), took_bar=took_bar,
            memory=strategy.memory(symbol),
        )
    return decision


def _close(bot: Bot, decision: Decision) -> None:
    """Begin an exit; under a halt only a crossed stop closes, everything else is the owner's."""
    at_stop = decision.reason == STOP_CROSSED
    if at_stop or bot.risk.state is not TradingState.HALTED:
        bot.engine.exit(decision.symbol, decision.reason, leaves_it_to_the_stop=at_stop)


def _work(bot: Bot, symbols: Iterable[str]) -> list[VenueUnavailable]:
    """Exits and stops, each one step further; return the failures, which hold up no other."""
    failures = []
    for symbol in symbols:
        if symbol not in bot.untraded:
            position = bot.tracker.get_position(symbol)
            try:
                bot.engine.work(symbol, bot.strategy.trailing_stop(position))
            except VenueUnavailable as failure:
                failures.append(failure)
    return failures


def _enter_one(bot: Bot, wanted: list[Decision]) -> None:
    """At most one entry a tick: the first that is neither blocked nor refused."""
    for decision in wanted:
        symbol = decision.symbol
        if bot.engine.outstanding(symbol):
            continue
        side = Side.BUY if decision.action is Action.BUY else Side.SELL
        try:
            bot.engine.enter(symbol, side, _entry_quantity(bot, symbol, side), decision.reason)
        except OrderRejected as refusal:
            bot.message = str(refusal)
            continue
        failures = _work(bot, [symbol])
        if failures:
            raise failures[0]
        return


def _entry_quantity(bot: Bot, symbol: str, side: Side) -> Decimal:
    """Base units that every limit still leaves room for, before the venue's minimum is asked."""
    product, account = bot.catalog.get(symbol), bot.engine.picture()
    room = headroom(symbol, side, account, product, bot.risk.config)
    if room <= 0:
        return product.min_quantity  # so that the gate names the limit that is used up
    mark = account.marks[symbol]
    price = worst_price(OrderIntent(symbol, side, ZERO), mark)
    return quantity_for(product, room, price) or room / price


def _wind_down(bot: Bot) -> tuple[list[Order], list[str]]:
    """Cancel entries, finish exits and stops; return the orders and the symbols not done with."""
    engine, traded = bot.engine, [s for s in bot.symbols if s not in bot.untraded]
    try:
        engine.settle()
        engine.cancel_all()
        if bot.is_started and (failures := _work(bot, bot.symbols)):
            raise failures[0]
    except PerpsBotError as failure:
        bot.trouble = str(failure)
        return list(engine.outstanding()), traded
    left = [o for s in traded for o in engine.outstanding(s)
            if o.purpose is not Purpose.STOP or o.status is not OrderStatus.OPEN]
    return left, [s for s in traded if not engine.is_protected(s)]


def _record_end(bot: Bot, reason: str, code: int, left: list[Order]) -> None:
    if bot.is_started:
        positions = {s: p.quantity for s, p in bot.tracker.positions().items()}
        bot.store.append(
            "bot.stopped", reason=reason, exit_code=code, orders_left=[o.id for o in left],
            positions=positions, stops={s: bot.engine.stop_price(s) for s in positions})


def _report_stop(bot: Bot, left: list[Order], bare: list[str], code: int) -> None:
    for order in left:
        _say(bot, f"NOT confirmed: {order.id} {order.symbol} {order.purpose} is {order.status}")
    for symbol in bare:
        _say(bot, f"NOT confirmed: a stop at the venue for {symbol}")
    for symbol, position in bot.tracker.positions().items():
        stop_price = bot.engine.stop_price(symbol) or "NONE"
        _say(bot, f"position kept: {symbol} {position.quantity:f}, stop at {stop_price}")
    if bot.risk.state is TradingState.HALTED:
        _say(bot, f"HALTED until: perps-bot resume --profile {bot.settings.profile} --reason '...'")
    _say(bot, "stopped: " + ("every entry confirmed gone" if code == 0 else "NOT verified"))


def _say(bot: Bot, text: str) -> None:
    if bot.surfaces is not None:
        bot.surfaces.say(text)


def _publish(bot: Bot, now: datetime, error: str = "") -> None:
    if bot.surfaces is not None:
        bot.surfaces.publish(bot, now, error)


def _record_bug(bot: Bot, now: datetime) -> None:
    """Leave the traceback in the log and `ok: false` behind; the exception goes on."""
    kind, error, _ = sys.exc_info()
    name = kind.__name__ if kind else "exit"
    log.critical("a bug ended the process: %s: %s", name, error, exc_info=True)
    _publish(bot, now, f"bug: {name}: {error}")
