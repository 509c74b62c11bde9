"""Flow: what was sent, traded and lost lately?

This room is pure: a fold over events, and of marks for what only a minute remembers.  It measures
for the gate and judges nothing.  What it needs of earlier days stands in the day's snapshot, so
no count begins anew with a restart.
"""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from itertools import takewhile

from perps_bot.limits import INFINITY, RiskConfig
from perps_bot.model import (
    ZERO, Event, Mark, OrderIntent, OrderStatus, Purpose, Side, moment,
)

SECOND, MINUTE, HOUR = timedelta(seconds=1), timedelta(minutes=1), timedelta(hours=1)
# How long nothing is opened in a symbol after its mark has moved too far within a minute.
MOVE_PAUSE = timedelta(minutes=5)
# The drawdown is measured from the highest point of so many days.
PEAK_DAYS = timedelta(days=30)
# The most that is kept of anything that only ages out.
KEPT_MAX = 1000
NOTHING_CAME_OF_IT = (OrderStatus.REJECTED, OrderStatus.LOST, OrderStatus.CANCELLED,
                      OrderStatus.EXPIRED)


@dataclass(slots=True)
class _Entry:
    """One entry that was sent.

    came_of_it  False once it is known that nothing was traded
    is_over     whether the position has been flat since
    """

    order_id: str
    side: Side
    quantity: Decimal
    at: datetime
    came_of_it: bool = True
    is_over: bool = False


class Flow:
    """Counts of one account.

    runaway  the symbol in which one entry more was wanted than an hour may have, or ""
    losses   losing round trips since the last one that won
    """

    def __init__(self, limits: RiskConfig) -> None:
        self.runaway, self.losses = "", 0
        self._limits = limits
        self._entries: dict[str, deque[_Entry]] = {}  # by symbol, of the last hour
        self._messages: deque[datetime] = deque(maxlen=KEPT_MAX)
        self._traded: dict[str, Decimal] = {}  # USD by symbol, since the venue's midnight
        self._trips: dict[str, Decimal] = {}  # USD that the open round trip has earned
        self._marks: dict[str, _Window] = {}
        self._moved: dict[str, tuple[Decimal, datetime]] = {}
        self.curve = _Curve()

    def see(self, marks: Iterable[Mark]) -> None:
        """Note how far each mark has moved within a minute; a candle says nothing of that."""
        for mark in marks:
            if mark.candle is not None:
                continue
            window = self._marks.get(mark.symbol)
            if window is None:
                window = self._marks[mark.symbol] = _Window()
            if mark is not window.newest:
                lowest, highest = window.take(mark)
                if highest > lowest * (1 + self._limits.max_mark_move_pct):
                    self._moved[mark.symbol] = highest / lowest - 1, mark.at

    def moved(self, symbol: str, now: datetime) -> Decimal:
        """The move for which `symbol` pauses, a fraction of its price; zero where none does."""
        share, at = self._moved.get(symbol, (ZERO, now))
        return share if abs(now - at) < MOVE_PAUSE else ZERO

    def orders_in_minute(self, now: datetime, symbol: str | None = None) -> int:
        """Entries that were sent, in one symbol or in all."""
        chosen = self._entries if symbol is None else (symbol,)
        return sum(_within(MINUTE, now, self._entries.get(each, ())) for each in chosen)

    def messages_in_second(self, now: datetime) -> int:
        """Orders of any purpose that were sent."""
        return sum(1 for _ in takewhile(lambda at: abs(now - at) < SECOND,
                                        reversed(self._messages)))

    def entries_in_hour(self, symbol: str, now: datetime) -> int:
        """Entries of which something may have come."""
        return sum(entry.came_of_it and abs(now - entry.at) < HOUR
                   for entry in self._entries.get(symbol, ()))

    def repeats(self, intent: OrderIntent, now: datetime) -> Decimal:
        """Seconds since the newest entry that `intent` would repeat; infinite without one."""
        same = (abs(now - entry.at) for entry in self._entries.get(intent.symbol, ())
                if entry.came_of_it and not entry.is_over
                and (entry.side, entry.quantity) == (intent.side, intent.quantity))
        return min((Decimal(age // timedelta(milliseconds=1)) / 1000 for age in same),
                   default=INFINITY)

    def traded(self, symbol: str) -> Decimal:
        """USD of fills in `symbol` since the venue's midnight."""
        return self._traded.get(symbol, ZERO)

    def apply(self, event: Event) -> None:
        if fold := _FOLDS.get(event.type):
            fold(self, event)

    def forgive(self, kind: str) -> None:
        """A person has looked: what led to this hold counts anew."""
        if kind == "entries":
            self.runaway = ""
            self._entries.clear()
        elif kind == "losses":
            self.losses = 0
        elif kind == "drawdown":
            self.curve.begin_anew()

    def snapshot(self) -> dict[str, object]:
        entries = {symbol: [asdict(entry) for entry in sent]
                   for symbol, sent in self._entries.items() if sent}
        return {"entries": entries, "runaway": self.runaway, "losses": self.losses,
                "trips": dict(self._trips), "moved": dict(self._moved),
                "curve": self.curve.snapshot()}

    def _fold_intent(self, event: Event) -> None:
        data = event.data
        at = moment(data.get("placed_at", event.at))
        self._messages.append(at)
        if data["purpose"] == Purpose.ENTRY:
            sent = self._entries.setdefault(data["symbol"], deque(maxlen=KEPT_MAX))
            while sent and at - sent[0].at >= HOUR:
                sent.popleft()
            sent.append(_Entry(data["client_order_id"], Side(data["side"]),
                               Decimal(data["quantity"]), at))

    def _fold_answer(self, event: Event) -> None:
        data = event.data
        nothing = (data.get("status", OrderStatus.LOST) in NOTHING_CAME_OF_IT
                   and not Decimal(data["filled_quantity"]))
        for entry in self._entries.get(data["symbol"], ()):
            if entry.order_id == data["client_order_id"]:
                entry.came_of_it = not nothing

    def _fold_trade(self, event: Event) -> None:
        data, symbol = event.data, event.data["symbol"]
        worth = Decimal(data["quantity"]) * Decimal(data["price"])
        self._traded[symbol] = self.traded(symbol) + worth
        earned = Decimal(data["realized_pnl"]) - Decimal(data["fee"])
        self._trips[symbol] = self._trips.get(symbol, ZERO) + earned
        if not Decimal(data["position_quantity"]):
            self.losses = self.losses + 1 if self._trips.pop(symbol) < 0 else 0
            for entry in self._entries.get(symbol, ()):
                entry.is_over = True

    def _fold_signal(self, event: Event) -> None:
        self.curve.see(Decimal(event.data["daily_loss"]))

    def _fold_refusal(self, event: Event) -> None:
        """What a restart must know of a refusal: it is written once, not at every repetition."""
        codes, symbol = event.data["codes"], event.data["symbol"]
        if "ENTRIES_EXCEEDED" in codes:
            self.runaway = symbol
        if "MARK_MOVED" in codes and not self.moved(symbol, event.at):
            self._moved[symbol] = self._limits.max_mark_move_pct, event.at

    def _fold_start(self, event: Event) -> None:
        self.curve.begin(Decimal(event.data["equity"]))

    def _fold_state(self, event: Event) -> None:
        if event.data.get("clears_loss"):
            self.curve.count_anew()

    def _fold_day(self, event: Event) -> None:
        data = event.data["snapshot"].get("risk", {}).get("flow")
        if data:
            self._restore(data)
        self._traded = {}
        equity = event.data.get("equity")
        self.curve.open_day(event.at.date(), ZERO if equity is None else Decimal(equity))

    def _restore(self, data: Mapping) -> None:
        self._entries = {symbol: deque((_read_entry(row) for row in rows), maxlen=KEPT_MAX)
                         for symbol, rows in data["entries"].items()}
        self.runaway, self.losses = data["runaway"], data["losses"]
        self._trips = {symbol: Decimal(earned) for symbol, earned in data["trips"].items()}
        self._moved = {s: (Decimal(share), moment(at)) for s, (share, at) in data["moved"].items()}
        self.curve.restore(data["curve"])


class _Window:
    """The lowest and the highest mark of the last minute, each new one at constant cost."""

    def __init__(self) -> None:
        self.newest: Mark | None = None
        self._falling: deque[Mark] = deque(maxlen=KEPT_MAX)  # the highest first
        self._rising: deque[Mark] = deque(maxlen=KEPT_MAX)  # the lowest first

    def take(self, mark: Mark) -> tuple[Decimal, Decimal]:
        self.newest = mark
        for kept, sign in ((self._rising, 1), (self._falling, -1)):
            while kept and (kept[-1].price - mark.price) * sign >= 0:
                kept.pop()
            kept.append(mark)
            while abs(mark.at - kept[0].at) > MINUTE:  # either way: a clock may be set back
                kept.popleft()
        return self._rising[0].price, self._falling[0].price


class _Curve:
    """What one unit of equity has become, by the ledger: deposits and withdrawals never count.

    level  now; the highs are those of PEAK_DAYS, by day, the newest last
    """

    def __init__(self) -> None:
        self._level = self._base = self._peak = Decimal(1)  # None: to be worked out anew
        # A loss that is not below the least makes no new high.
        self._start, self._loss, self._least = ZERO, ZERO, INFINITY
        self._highs: list[tuple[date | None, Decimal]] = [(None, self._base)]

    @property
    def level(self) -> Decimal:
        if self._level is None:
            self._level = self._base * (1 - self._loss / self._start)
        return self._level

    @property
    def drawdown(self) -> Decimal:
        """The fraction that was lost since the highest point."""
        return 1 - self.level / self._peak if self._peak > 0 else Decimal(1)

    def loss_at(self, share: Decimal) -> Decimal | None:
        """Today's loss, USD, at which so much is left of the highest point; None: of nothing."""
        if self._start <= 0 or self._base <= 0:
            return None
        return self._start * (1 - self._peak * share / self._base)

    def see(self, loss: Decimal) -> None:
        """Take today's loss so far, USD; a gain is negative."""
        if loss == self._loss:
            return
        self._loss = loss
        if self._start > 0:
            self._level = None
            if loss < self._least:
                self._rise()

    def count_anew(self) -> None:
        """The day's loss was cleared: it counts from zero again, and what it cost stays."""
        self._base, self._loss, self._least = self.level, ZERO, INFINITY

    def begin(self, start: Decimal) -> None:
        """A day that had to be opened before the venue answered begins when it has."""
        self._start = self._start or start

    def begin_anew(self) -> None:
        """Nothing before now counts as a high any more."""
        day, _ = self._highs[-1]
        self._highs, self._peak, self._least = [(day, self.level)], self.level, INFINITY

    def open_day(self, day: date, start: Decimal) -> None:
        self._base, self._loss, self._start = self.level, ZERO, start
        self._least = INFINITY
        self._highs = [(at, high) for at, high in self._highs
                       if at is not None and day - at <= PEAK_DAYS]
        self._highs.append((day, self.level))
        self._peak = max(high for _, high in self._highs)

    def snapshot(self) -> dict[str, object]:
        return {"level": self.level, "highs": [[str(day), high] for day, high in self._highs
                                               if day is not None]}

    def restore(self, data: Mapping) -> None:
        self._level = Decimal(data["level"])
        self._highs = [(date.fromisoformat(day), Decimal(high)) for day, high in data["highs"]]

    def _rise(self) -> None:
        day, high = self._highs[-1]
        if self._base > 0:  # else a larger loss is a higher level
            self._least = self._loss
        if self.level > high:
            self._highs[-1] = day, self.level
            self._peak = max(self._peak, self.level)


def _within(span: timedelta, now: datetime, entries: Iterable[_Entry]) -> int:
    return sum(abs(now - entry.at) < span for entry in entries)


def _read_entry(row: Mapping) -> _Entry:
    return _Entry(row["order_id"], Side(row["side"]), Decimal(row["quantity"]),
                  moment(row["at"]), row["came_of_it"], row["is_over"])


_FOLDS = {
    "order.intended": Flow._fold_intent,
    "order.updated": Flow._fold_answer,
    "order.lost": Flow._fold_answer,
    "trade.executed": Flow._fold_trade,
    "strategy.signal": Flow._fold_signal,
    "risk.rejected": Flow._fold_refusal,
    "state.changed": Flow._fold_state,
    "bot.started": Flow._fold_start,
    "day.opened": Flow._fold_day,
}
FLOW_EVENTS = tuple(_FOLDS)
