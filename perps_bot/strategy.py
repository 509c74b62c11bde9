"""Strategy: what do we want to hold, and why?

This room is pure.  No clock, no I/O, no sizing, no limits: it sees bar closes, marks and the
position, and answers with a Decision that carries every number it used.  A crossover of two
moving averages opens, the opposite side of the averages closes, and a stop trails the best mark
since entry.  What it must remember over a restart is in its events; what it must not (the
windows) comes back from the venue's candles.
"""

from collections import deque
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal

from perps_bot.model import (
    ZERO, Action, Decision, Event, Mark, Position, Purpose, Side, fraction, maybe_decimal,
    maybe_moment, moment,
)

# A cross that could not be acted on is old news after this many bars.
CROSS_AGE_BARS_MAX = 3
# The reason of a close that a halt does not hold back.
STOP_CROSSED = "trailing stop crossed"
# What `apply` folds.
STRATEGY_EVENTS = ("strategy.signal", "trade.executed", "position.adopted", "reconcile.mismatch",
                   "day.opened")


@dataclass(frozen=True)
class StrategyConfig:
    """How the strategy is tuned.  Fractions and leverage are read exactly, floats by their text.

    short_ma_period, long_ma_period  bars
    target_leverage                  times equity, asked for before any limit
    trailing_stop_pct                fraction of the best mark since entry
    enable_shorts                    whether a downward cross may open a short
    enter_on_start                   the first side that the averages show counts as a cross
    """

    short_ma_period: int = 5
    long_ma_period: int = 20
    target_leverage: Decimal = Decimal(2)
    trailing_stop_pct: Decimal = Decimal("0.01")
    enable_shorts: bool = False
    enter_on_start: bool = False

    def __post_init__(self) -> None:
        for name in ("target_leverage", "trailing_stop_pct"):
            object.__setattr__(self, name, fraction(name, getattr(self, name)))


class _Windows:
    """The newest bar closes; running sums keep a bar the same work, however long the windows."""

    def __init__(self, short: int, long: int) -> None:
        self.closes: deque[Decimal] = deque(maxlen=long)
        self._short, self._long = short, long
        self._short_sum = self._long_sum = ZERO
        self._short_bars, self._long_bars = Decimal(short), Decimal(long)

    def push(self, close: Decimal) -> Side | None:
        """Take a close; return the side of the averages: None while warming or exactly equal."""
        closes, short, long = self.closes, self._short, self._long
        bars = len(closes)
        self._short_sum += close - closes[-short] if bars >= short else close
        self._long_sum += close - closes[0] if bars == long else close
        closes.append(close)
        # Compared as products of sums: a division would round, and a cross must not.
        fast, slow = self._short_sum * self._long_bars, self._long_sum * self._short_bars
        if fast == slow or bars < long - 1:
            return None
        return Side.BUY if fast > slow else Side.SELL

    def are_full(self) -> bool:
        return len(self.closes) == self.closes.maxlen

    def means(self) -> tuple[Decimal | None, Decimal | None]:
        if not self.closes:
            return None, None
        bars = len(self.closes)
        return self._short_sum / min(bars, self._short), self._long_sum / bars


@dataclass(slots=True)
class _Memory:
    """What is remembered of one symbol.

    side     the side of the averages at the last bar on which they differed
    pending  the side of a cross that nothing has answered yet; pending_bars its age in bars
    best     the best mark since entry, USD per base unit; None when flat
    stopped  the side of the last position that a stop closed, and when
    """

    windows: _Windows
    bar_at: datetime | None = None
    side: Side | None = None
    pending: Side | None = None
    pending_bars: int = 0
    best: Decimal | None = None
    stopped: tuple[Side, datetime] | None = None

    def cross(self, side: Side) -> None:
        """Take a cross to `side`, unless a stop of that side has answered it since."""
        stopped, at = self.stopped or (None, None)
        self.pending = None if stopped is side and self.bar_at <= at else side
        self.pending_bars = 0

    def answer(self, side: Side) -> None:
        if self.pending is side:
            self.pending = None


class BaselinePerpsStrategy:
    """Moving-average crossover with a trailing stop, one memory per symbol."""

    def __init__(self, config: StrategyConfig | None = None) -> None:
        self.config = config or StrategyConfig()
        self._memories: dict[str, _Memory] = {}

    def observe(self, symbol: str, price: Decimal, bar_at: datetime) -> bool:
        """Take the close of the bar that ended at `bar_at`, USD per base unit.

        Return whether the averages have turned, now or so lately that nothing has answered it.
        """
        memory = self._memories.get(symbol) or self._memory(symbol)
        lean = memory.windows.push(price)
        memory.bar_at = bar_at
        if memory.pending is None and (lean is memory.side or lean is None):
            return False
        memory.pending_bars += memory.pending is not None
        if lean is not None and lean is not memory.side:
            if memory.side or self.config.enter_on_start:
                memory.cross(lean)
            memory.side = lean
        if memory.pending_bars >= CROSS_AGE_BARS_MAX:
            memory.pending = None
        return True

    def warm(self, symbol: str, closes: list[tuple[datetime, Decimal]]) -> None:
        """Fill the windows from closed bars, oldest first.

        History alone opens nothing: only a bar newer than the last one that an earlier process
        observed can raise a cross here.  `enter_on_start` takes the side on a first start.
        """
        old = self._memory(symbol)
        del self._memories[symbol]
        fresh = self._memory(symbol)
        fresh.best, fresh.stopped = old.best, old.stopped
        seen = sum(bar_at <= old.bar_at for bar_at, _ in closes) if old.side else 0
        for bar_at, close in closes[:seen or None]:
            self.observe(symbol, close, bar_at)
        if not seen:
            fresh.pending = fresh.side if self.config.enter_on_start else None
            fresh.pending_bars = 0
            return
        fresh.bar_at, fresh.side = old.bar_at, old.side
        fresh.pending, fresh.pending_bars = old.pending, old.pending_bars
        for bar_at, close in closes[seen:]:
            self.observe(symbol, close, bar_at)

    def watch(self, mark: Mark, position: Position) -> bool:
        """Follow `mark` with the best price since entry; True when it improved."""
        memory, price, held = self._memory(mark.symbol), mark.price, position.quantity
        if not held or not _is_beyond(price, memory.best, held):
            return False
        memory.best = price
        return True

    def trailing_stop(self, position: Position) -> Decimal | None:
        """Where the stop belongs now, USD per base unit, not on the tick; None when flat."""
        best = self._memory(position.symbol).best
        if best is None or not position.quantity:
            return None
        return best * (1 - self.config.trailing_stop_pct * position.side.sign)

    def decide(self, mark: Mark, position: Position, stop_price: Decimal | None) -> Decision:
        """Say what to do about `mark.symbol`.

        stop_price  where our stop rests at the venue, or where the trail says it belongs
        """
        memory = self._memory(mark.symbol)
        return Decision(mark.symbol, *self._judge(memory, mark, position, stop_price))

    def inputs(
        self, mark: Mark, position: Position, stop_price: Decimal | None
    ) -> dict[str, object]:
        """The numbers that `decide` uses, by name, as events carry them."""
        windows = self._memory(mark.symbol).windows
        short, long = windows.means()
        return {
            "mark_price": mark.price, "bid": mark.bid, "ask": mark.ask, "mark_at": mark.at,
            "short_ma": short, "long_ma": long, "bars": len(windows.closes),
            "position_quantity": position.quantity, "entry_price": position.entry_price,
            "stop_price": stop_price,
        }

    def wants_nothing(self, symbol: str, held: Side | None) -> bool:
        """Whether `decide` holds for as long as no bar ends and no price crosses the stop."""
        memory = self._memory(symbol)
        if held is not None:
            return memory.side is None or memory.side is held
        return memory.pending is None or (
            memory.pending is Side.SELL and not self.config.enable_shorts)

    def bars(self, symbol: str) -> int:
        """How many bar closes the long window holds."""
        return len(self._memory(symbol).windows.closes)

    def window(self, symbol: str) -> list[Decimal]:
        return list(self._memory(symbol).windows.closes)

    def side(self, symbol: str) -> Side | None:
        """The side of the averages at the last bar on which they differed."""
        return self._memory(symbol).side

    def best(self, symbol: str) -> Decimal | None:
        """The best mark since entry, USD per base unit; None when flat."""
        return self._memory(symbol).best

    def bar_at(self, symbol: str) -> datetime | None:
        return self._memory(symbol).bar_at

    def apply(self, event: Event) -> None:
        """Fold one event: what must survive a restart comes back through here."""
        if event.type == "strategy.signal":
            self._restore_memory(event.data["symbol"], event.data["memory"])
        elif event.type == "trade.executed":
            self._follow_trade(event.data)
        elif event.type in ("position.adopted", "reconcile.mismatch"):
            self._memory(event.data["symbol"]).best = None
        elif event.type == "day.opened":
            for symbol, memory in event.data["snapshot"].get("strategy", {}).items():
                self._restore_memory(symbol, memory)

    def snapshot(self) -> dict[str, object]:
        return {symbol: self.memory(symbol) for symbol in self._memories}

    def memory(self, symbol: str) -> dict[str, object]:
        """What an event must carry so that a restart decides as this process would have."""
        memory = self._memory(symbol)
        return {"bar_at": memory.bar_at, "side": memory.side, "pending": memory.pending,
                "pending_bars": memory.pending_bars, "best_mark": memory.best,
                "stopped": memory.stopped}

    def _judge(
        self, memory: _Memory, mark: Mark, position: Position, stop_price: Decimal | None
    ) -> tuple[Action, str]:
        if position.quantity:
            if not _is_beyond(mark.price, stop_price, position.quantity):
                return Action.CLOSE, STOP_CROSSED
            if memory.side and memory.side is not position.side:
                return Action.CLOSE, "averages turned against the position"
            return Action.HOLD, "position follows the averages"
        windows = memory.windows
        if not windows.are_full():
            return Action.HOLD, f"warming: {len(windows.closes)} of {windows.closes.maxlen} bars"
        if memory.pending is Side.BUY:
            return Action.BUY, f"upward cross {memory.pending_bars} bars ago"
        if memory.pending is Side.SELL and self.config.enable_shorts:
            return Action.SELL, f"downward cross {memory.pending_bars} bars ago"
        return Action.HOLD, "no cross pending"

    def _memory(self, symbol: str) -> _Memory:
        memory = self._memories.get(symbol)
        if memory is None:
            short, long = self.config.short_ma_period, self.config.long_ma_period
            memory = self._memories[symbol] = _Memory(_Windows(short, long))
        return memory

    def _restore_memory(self, symbol: str, data: dict) -> None:
        memory = self._memory(symbol)
        memory.bar_at = maybe_moment(data["bar_at"])
        memory.side = Side(data["side"]) if data["side"] else None
        memory.pending = Side(data["pending"]) if data["pending"] else None
        memory.pending_bars = data["pending_bars"]
        memory.best, stopped = maybe_decimal(data["best_mark"]), data["stopped"]
        memory.stopped = (Side(stopped[0]), moment(stopped[1])) if stopped else None

    def _follow_trade(self, data: dict) -> None:
        """An entry answers its cross; a stop answers one of its own side; flat forgets the best."""
        memory = self._memory(data["symbol"])
        quantity, side = Decimal(data["position_quantity"]), Side(data["side"])
        if not quantity:
            memory.best = None
            if data["purpose"] == Purpose.STOP or data["reason"] == STOP_CROSSED:
                memory.stopped = side.opposite, moment(data["filled_at"])
                memory.answer(side.opposite)
        elif data["purpose"] == Purpose.ENTRY:
            entry = Decimal(data["entry_price"])
            memory.best = entry if _is_beyond(entry, memory.best, quantity) else memory.best
            memory.answer(side)


def _is_beyond(price: Decimal, level: Decimal | None, quantity: Decimal) -> bool:
    """Whether `price` lies on the good side of `level` for a position of signed `quantity`."""
    return level is None or (price > level if quantity > ZERO else price < level)
