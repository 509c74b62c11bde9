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
    ZERO,
    Action,
    Decision,
    Event,
    Mark,
    Position,
    Purpose,
    Side,
    fraction,
    maybe_decimal,
    maybe_moment,
)

# A cross that could not be acted on is old news after this many bars.
CROSS_AGE_BARS_MAX = 3
# The reason of a close that a halt does not hold back.
STOP_CROSSED = "trailing stop crossed"


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


class _Memory:
    """What is remembered of one symbol.

    side     the side of the averages at the last bar on which they differed
    pending  the side of a cross that nothing has answered yet; pending_bars its age in bars
    best     the best mark since entry, USD per base unit; None when flat
    """

    __slots__ = (
        "short", "long", "short_sum", "long_sum", "bar_at", "side", "pending", "pending_bars",
        "best",
    )

    def __init__(self, config: StrategyConfig) -> None:
        self.short: deque[Decimal] = deque(maxlen=config.short_ma_period)
        self.long: deque[Decimal] = deque(maxlen=config.long_ma_period)
        self.short_sum = self.long_sum = ZERO
        self.bar_at: datetime | None = None
        self.side: Side | None = None
        self.pending: Side | None = None
        self.pending_bars = 0
        self.best: Decimal | None = None

    def push(self, price: Decimal) -> None:
        """Take one bar close; running sums keep this the same work for any period."""
        for window, name in ((self.short, "short_sum"), (self.long, "long_sum")):
            oldest = window[0] if len(window) == window.maxlen else ZERO
            setattr(self, name, getattr(self, name) + price - oldest)
            window.append(price)

    def take_over(self, old: "_Memory") -> None:
        """Remember the cross that an earlier memory had not answered yet."""
        self.side, self.pending, self.pending_bars = old.side, old.pending, old.pending_bars

    def is_warm(self) -> bool:
        return len(self.long) == self.long.maxlen

    def lean(self) -> Side | None:
        """The side of the averages now; None while warming or exactly equal."""
        if not self.is_warm():
            return None
        # Compared as products of sums: a division would round, and a cross must not.
        difference = self.short_sum * self.long.maxlen - self.long_sum * self.short.maxlen
        if not difference:
            return None
        return Side.BUY if difference > 0 else Side.SELL


class BaselinePerpsStrategy:
    """Moving-average crossover with a trailing stop, one memory per symbol."""

    def __init__(self, config: StrategyConfig | None = None) -> None:
        self.config = config or StrategyConfig()
        self._memories: dict[str, _Memory] = {}

    def observe(self, symbol: str, price: Decimal, bar_at: datetime) -> None:
        """Take the close of the bar that ended at `bar_at`, USD per base unit."""
        memory = self._memory(symbol)
        memory.push(price)
        memory.bar_at = bar_at
        lean = memory.lean()
        if memory.pending:
            memory.pending_bars += 1
        if lean and lean is not memory.side:
            if memory.side or self.config.enter_on_start:
                memory.pending, memory.pending_bars = lean, 0
            memory.side = lean
        if memory.pending and memory.pending_bars >= CROSS_AGE_BARS_MAX:
            memory.pending = None

    def warm(self, symbol: str, closes: list[tuple[datetime, Decimal]]) -> None:
        """Fill the windows from closed bars, oldest first.

        History alone opens nothing: only a bar newer than the last one that an earlier process
        observed can raise a cross here.  `enter_on_start` takes the side on a first start.
        """
        old = self._memory(symbol)
        fresh = self._memories[symbol] = _Memory(self.config)
        fresh.best = old.best
        remembers = bool(closes) and old.bar_at is not None and old.bar_at >= closes[0][0]
        for bar_at, close in closes:
            self.observe(symbol, close, bar_at)
            if not remembers or bar_at <= old.bar_at:
                fresh.pending = None
            if remembers and bar_at == old.bar_at:
                fresh.take_over(old)
        if remembers and old.bar_at > fresh.bar_at:
            fresh.take_over(old)  # the venue's candles lag behind what was already seen
            fresh.bar_at = old.bar_at
        if not remembers and self.config.enter_on_start:
            fresh.pending, fresh.pending_bars = fresh.side, 0

    def watch(self, mark: Mark, position: Position) -> bool:
        """Follow `mark` with the best price since entry; True when it improved."""
        memory = self._memory(mark.symbol)
        if not position.quantity:
            return False
        best = memory.best
        improved = best is None or (
            mark.price > best if position.quantity > 0 else mark.price < best
        )
        if improved:
            memory.best = mark.price
        return improved

    def trailing_stop(self, position: Position) -> Decimal | None:
        """Where the stop belongs now, USD per base unit, not on the tick; None when flat."""
        best = self._memory(position.symbol).best
        if best is None or not position.quantity:
            return None
        distance = best * self.config.trailing_stop_pct
        return best - distance if position.quantity > 0 else best + distance

    def decide(self, mark: Mark, position: Position, stop_price: Decimal | None) -> Decision:
        """Say what to do about `mark.symbol`.

        stop_price  where our stop rests at the venue, or where the trail says it belongs
        """
        memory = self._memory(mark.symbol)
        action, reason = self._judge(memory, mark, position, stop_price)
        inputs = self._inputs(memory, mark, position, stop_price)
        return Decision(mark.symbol, action, reason, inputs)

    def bars(self, symbol: str) -> int:
        """How many bar closes the long window holds."""
        return len(self._memory(symbol).long)

    def window(self, symbol: str) -> list[Decimal]:
        return list(self._memory(symbol).long)

    def side(self, symbol: str) -> Side | None:
        """The side of the averages at the last bar on which they differed."""
        return self._memory(symbol).side

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
        return {
            "bar_at": memory.bar_at,
            "side": memory.side,
            "pending": memory.pending,
            "pending_bars": memory.pending_bars,
            "best_mark": memory.best,
        }

    def _judge(
        self, memory: _Memory, mark: Mark, position: Position, stop_price: Decimal | None
    ) -> tuple[Action, str]:
        if position.quantity:
            if stop_price is not None and _crossed(mark.price, stop_price, position):
                return Action.CLOSE, STOP_CROSSED
            if memory.side and memory.side is not position.side:
                return Action.CLOSE, "averages turned against the position"
            return Action.HOLD, "position follows the averages"
        if not memory.is_warm():
            return Action.HOLD, f"warming: {len(memory.long)} of {memory.long.maxlen} bars"
        if memory.pending is Side.BUY:
            return Action.BUY, f"upward cross {memory.pending_bars} bars ago"
        if memory.pending is Side.SELL and self.config.enable_shorts:
            return Action.SELL, f"downward cross {memory.pending_bars} bars ago"
        return Action.HOLD, "no cross pending"

    def _inputs(
        self, memory: _Memory, mark: Mark, position: Position, stop_price: Decimal | None
    ) -> dict[str, object]:
        return {
            "mark_price": mark.price,
            "bid": mark.bid,
            "ask": mark.ask,
            "mark_at": mark.at,
            "short_ma": memory.short_sum / len(memory.short) if memory.short else None,
            "long_ma": memory.long_sum / len(memory.long) if memory.long else None,
            "bars": len(memory.long),
            "position_quantity": position.quantity,
            "entry_price": position.entry_price,
            "stop_price": stop_price,
        }

    def _memory(self, symbol: str) -> _Memory:
        memory = self._memories.get(symbol)
        if memory is None:
            memory = self._memories[symbol] = _Memory(self.config)
        return memory

    def _restore_memory(self, symbol: str, data: dict) -> None:
        memory = self._memory(symbol)
        memory.bar_at = maybe_moment(data["bar_at"])
        memory.side = Side(data["side"]) if data["side"] else None
        memory.pending = Side(data["pending"]) if data["pending"] else None
        memory.pending_bars = data["pending_bars"]
        memory.best = maybe_decimal(data["best_mark"])

    def _follow_trade(self, data: dict) -> None:
        """An entry answers its cross; a stop answers one of its own side; flat forgets the best."""
        memory = self._memory(data["symbol"])
        quantity, side = Decimal(data["position_quantity"]), Side(data["side"])
        if not quantity:
            memory.best = None
            if data["purpose"] == Purpose.STOP and memory.pending is side.opposite:
                memory.pending = None
        elif data["purpose"] == Purpose.ENTRY:
            entry = Decimal(data["entry_price"])
            best = entry if memory.best is None else memory.best
            memory.best = max(best, entry) if quantity > 0 else min(best, entry)
            if memory.pending is side:
                memory.pending = None


def _crossed(price: Decimal, stop_price: Decimal, position: Position) -> bool:
    return price <= stop_price if position.quantity > 0 else price >= stop_price
