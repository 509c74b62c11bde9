"""History: what did the events of a range amount to?

A fold over one profile's events, oldest first; what grows with time is thinned or cut by a named
number.  The money is the tracker's own books, the statistics are `score`'s: nothing is counted
here in a second way.  No clock, no file, and what the events do not say is None.
"""

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from decimal import Decimal
from operator import sub

from perps_bot.errors import ConfigError
from perps_bot.lines import HOLD
from perps_bot.model import ZERO, Event, Fill, Position, Purpose, Side
from perps_bot.score import MONEY, Figures, Score, standing
from perps_bot.stats import RoundTrip
from perps_bot.store import EventStore
from perps_bot.tracker import PositionTracker, fill_of
from perps_bot.words import plain, rough, usd
from perps_bot.words import told as words_of

STRETCHES_MAX = 600  # of a curve; each keeps two points.  Even, so that they merge in pairs
TRIPS_MAX = 2_000  # the newest round trips that are kept with their stories
STEPS_MAX = 60  # of one story
HOUR = timedelta(hours=1)
# What reading an event raises that is not ours.
FOREIGN = (LookupError, TypeError, ValueError, ArithmeticError, AttributeError)


def fold(events: Iterable[Event], folder: object, *takers: Callable[[Event], object]) -> None:
    """Hand each event to every taker; ConfigError where the chain vouches for what is not ours."""
    event = None
    try:
        for event in events:
            for take in takers:
                take(event)
    except FOREIGN as error:
        said = f"event {event.seq} ({event.type})" if event else "the first event"
        raise not_understood(folder, said, error) from error


def not_understood(folder: object, said: str, error: Exception) -> ConfigError:
    return ConfigError(f"{folder}: {said} cannot be understood ({ascii(str(error)):.60}): use the "
                       f"version that wrote it")


class Thinned:
    """A curve of bounded length.

    It is divided into at most STRETCHES_MAX stretches of equally many points.  Of each the lowest
    and the highest stay, and of the whole the first and the last.
    """

    def __init__(self) -> None:
        self._stretches: list[tuple] = []  # the lowest and the highest point of each
        self._size, self._left = 1, 0  # points of a full stretch; what the last still takes
        self._count = 0
        self._first: tuple | None = None
        self._last: tuple | None = None

    def add(self, at: datetime, value: Decimal) -> None:
        self._last = point = (self._count, at, value)
        self._count += 1
        if self._left:
            low, high = self._stretches[-1]
            if value < low[2]:
                self._stretches[-1] = point, high
            elif value > high[2]:
                self._stretches[-1] = low, point
        else:
            self._first = self._first or point
            self._stretches.append((point, point))
            self._left = self._size
        self._left -= 1
        if not self._left and len(self._stretches) > STRETCHES_MAX:
            self._halve()

    def points(self) -> list[tuple[datetime, Decimal]]:
        ends = filter(None, (self._first, self._last))
        kept = {*ends, *(point for pair in self._stretches for point in pair)}
        return [(at, value) for _, at, value in sorted(kept)]

    def _halve(self) -> None:
        """Merge neighbours; a last one alone is begun anew, as a stretch of twice the points."""
        pairs = self._stretches
        merged = [_extremes(a, b) for a, b in zip(pairs[::2], pairs[1::2])]
        self._stretches = merged + pairs[len(merged) * 2:]
        self._left = len(pairs) % 2 * self._size
        self._size *= 2


def _extremes(one: tuple, other: tuple) -> tuple:
    return (min(one[0], other[0], key=_value), max(one[1], other[1], key=_value))


def _value(point: tuple) -> Decimal:
    return point[2]


# A moment, and what says in words what happened then: most stories are never read.
Step = tuple[datetime, Callable[[object], str], object]


@dataclass(slots=True)
class Trip:
    """One round trip, and how it came about.

    is_carried  it was open when the range began: its entry is the books' average price
    steps       what happened, and how to say it; stops  where the protective stop came to rest
    """

    number: int
    round: RoundTrip
    is_carried: bool = False
    entry_reason: str = ""
    exit_reason: str = ""
    steps: list[Step] = field(default_factory=list)
    stops: list[tuple[datetime, Decimal]] = field(default_factory=list)
    left_out: int = 0

    def tell(self, step: Step) -> None:
        """Add a step; beyond STEPS_MAX it takes the place of the last one."""
        if len(self.steps) >= STEPS_MAX:
            self.steps.pop()
            self.left_out += 1
        self.steps.append(step)

    def row(self) -> dict[str, object]:
        """Its figures; what only a finished trip has is None before."""
        trip, gone = self.round, self.round.quantity - self.round.held
        is_over = not trip.held
        spent = trip.closed_at - trip.opened_at
        return {
            "number": self.number, "symbol": trip.symbol,
            "side": "long" if trip.side is Side.BUY else "short",
            "opened_at": trip.opened_at, "closed_at": trip.closed_at if is_over else None,
            "seconds": spent.days * 86400 + spent.seconds if is_over else None,
            "quantity": trip.quantity, "entry_price": trip.entered / trip.quantity,
            "exit_price": trip.left / gone if gone else None,
            "realized_pnl": trip.realized_pnl if is_over else None,
            "fees": trip.fees, "funding": trip.funding,
            "net_pnl": trip.net_pnl if is_over else None,
            "entry_reason": self.entry_reason, "exit_reason": self.exit_reason,
            "carried": self.is_carried,
        }

    def story(self) -> list[str]:
        """The steps as lines, and how it ended."""
        lines = [f"{at:%Y-%m-%d %H:%M:%S} {say(what)}" for at, say, what in self.steps]
        if self.is_carried:
            lines.insert(0, "It was open when the range began: its entry is the average price.")
        if self.left_out:
            lines.insert(-1, f"({self.left_out} steps between are left out)")
        row = self.row()
        if row["closed_at"] is None:
            return [*lines, "It is still open."]
        return [*lines, f"Result: {row['realized_pnl']:+,.2f} USD, fees {row['fees']:,.2f}, "
                        f"funding {row['funding']:+,.2f}: {row['net_pnl']:+,.2f} USD net."]


TRIP_COLUMNS = ("number", "symbol", "side", "opened_at", "closed_at", "seconds", "quantity",
                "entry_price", "exit_price", "realized_pnl", "fees", "funding", "net_pnl",
                "entry_reason", "exit_reason", "carried")


@dataclass(slots=True)
class Slippage:
    """What fills cost against the price that was wanted; above zero it cost us.

    fills, measured  all, and those whose wanted price is known
    notional, cost   USD of the measured ones: at the wanted price, and beyond it
    """

    fills: int = 0
    measured: int = 0
    notional: Decimal = ZERO
    cost: Decimal = ZERO

    def add(self, fill: Fill, wanted: Decimal | None) -> None:
        self.fills += 1
        if wanted:
            self.measured += 1
            self.notional += wanted * fill.quantity
            self.cost += (fill.price - wanted) * fill.quantity * fill.side.sign


class History:
    """Everything that a report shows.

    begin    events before it only bring the books to where they stood
    on_trip  called with each trip whose figures are final, in the order of their ends by symbol
    on_point called with each moment and the equity after it
    is_told  whether curves and stories are kept; else only figures and the trips' own
    """

    def __init__(self, begin: datetime | None = None,
                 on_trip: Callable[[Trip], None] | None = None,
                 on_point: Callable[[datetime, Decimal], None] | None = None,
                 is_told: bool = True) -> None:
        self._begin, self._on_trip, self._on_point = begin, on_trip or (lambda trip: None), on_point
        self._is_told = is_told
        self.books = PositionTracker(EventStore())
        self.score = Score(self._finish)
        self.profile = self.broker = ""
        self.begun: dict[str, Decimal] | None = None  # `standing` when the range began
        self.equity, self.drawdown = Thinned(), Thinned()
        self.prices: dict[str, Thinned] = {}
        self.days: dict[date, dict[str, Decimal]] = {}
        self.hours: dict[int, Decimal] = {}
        self.slippage = {purpose.value: Slippage() for purpose in Purpose}
        self.trips: deque[Trip] = deque(maxlen=TRIPS_MAX)
        self.trips_begun = self.events = 0
        self._symbols: dict[str, Position] = {}  # what each was when the range began
        self._open: dict[str, Trip] = {}
        self._final: dict[str, list[Trip]] = {}  # funding may still be charged to the newest two
        self._orders: dict[str, Mapping] = {}  # today's, and those under way
        self._decided: dict[str, Event | None] = {}  # None: to hold
        self._prologue: dict[str, list[Step]] = {}
        self._at: datetime | None = None  # the moment that is under way
        self._now: Decimal | None = None  # the equity; None: to be asked anew
        self._last: datetime | None = None  # the moment before it
        self._times: list[datetime] = []  # moments of one hour, which are counted together
        self._equities: list[Decimal] = []  # after each of them
        self._hour_end: datetime | None = None
        self._equity = ZERO  # after the last that was counted

    def apply(self, event: Event) -> None:
        """Fold the next event."""
        _, at, type, data, _ = event
        if at != self._at:
            self._observe()
            self._at = at
        if self.begun is None and self._is_beginning(event):
            self._begin_at(event)
        if type == HOLD:
            self._decide(at, *data)
        elif type == "strategy.signal":
            self._decide(at, data["symbol"], data["mark_price"], event)
        else:
            self._take(event, data.get("symbol"))

    def _take(self, event: Event, symbol: str | None) -> None:
        """Anything but a decision."""
        self._know(event, symbol)
        before = self.books.positions()
        self.books.apply(event)
        self._now = None
        if self.begun is None:
            return
        self.events += 1
        if event.type in MOVES:
            self._take_over(event, before)
        self._count(event, symbol)
        if self._is_told and event.type in TOLD:
            self._tell(event, symbol)

    def close(self) -> None:
        """Take the last moment; nothing comes after it."""
        self._observe()
        self._settle()
        if self._last:
            self.score.hold(self._last, bool(self.books.positions()))
        for trips in self._final.values():
            for trip in trips:
                self._on_trip(trip)
        for trip in self._open.values():
            self._on_trip(trip)

    def figures(self) -> Figures | None:
        """None where the account's equity was never read in the range."""
        if self.begun is None or self.score.end is None:
            return None
        return Figures(**self.score.figures(tuple(sorted(self._symbols)), self.books, self.begun))

    def by_symbol(self) -> list[dict[str, object]]:
        """What each symbol earned in the range; the nets add up to the change of equity."""
        rows = []
        for symbol, begun in sorted(self._symbols.items()):
            now = self.books.get_position(symbol)
            row = {name: getattr(now, name) - getattr(begun, name) for name in MONEY}
            net = row["realized_pnl"] + row["unrealized_pnl"] - row["fees"] - row["funding"]
            rows.append({"symbol": symbol, **row, "net_pnl": net, "held": now.quantity})
        return rows

    # The range

    def _is_beginning(self, event: Event) -> bool:
        """The first event of the range, once the equity is known; a day's opening is before it."""
        return (self.books.start_equity is not None and event.type != "day.opened"
                and (self._begin is None or event.at >= self._begin))

    def _begin_at(self, event: Event) -> None:
        self.begun = standing(self.books)
        self._equity = self.begun["equity"]
        self._symbols = {symbol: self.books.get_position(symbol) for symbol in self._symbols}
        for symbol, held in self.books.positions().items():
            self._fill(_made_up(event.at, symbol, held.quantity, held.entry_price),
                       is_carried=True)

    def _know(self, event: Event, symbol: str | None) -> None:
        """Remember names and orders, of a day before the range too."""
        data = event.data
        if event.type == "day.opened":
            tickets = data["snapshot"].get("orders", {}).get("tickets", ())
            self._orders = {row["client_order_id"]: row for row in tickets}
            self.profile = data.get("profile", self.profile)
            for symbol in (data["snapshot"].get("tracker") or {}).get("positions", ()):
                self._symbols.setdefault(symbol, Position(symbol))
        elif event.type == "bot.started":
            self.profile, self.broker = data["profile"], data["broker"]
        elif event.type == "order.intended":
            self._orders[data["client_order_id"]] = data
        if symbol is not None and symbol not in self._symbols:
            self._symbols[symbol] = Position(symbol)

    def _decide(self, at: datetime, symbol: str, price: str, event: Event | None = None) -> None:
        """A decision: most events are one, and change no more than the value of what is held."""
        if symbol not in self._symbols:
            self._symbols[symbol] = Position(symbol)
        if symbol in self.books.positions():
            self.books.mark(symbol, Decimal(price))
            self._now = None
        self._decided[symbol] = event
        if self.begun is None:
            return
        self.events += 1
        if self._is_told:
            if symbol not in self.prices:
                self.prices[symbol] = Thinned()
            self.prices[symbol].add(at, Decimal(price))

    def _observe(self) -> None:
        """A moment is over: what do the books say?"""
        if self.begun is None:
            return
        self._last = at = max(self._at, self._last or self._at)  # time may step back a little
        if self._hour_end is None or at >= self._hour_end:
            self._settle()
            self._hour_end = at.replace(minute=0, second=0, microsecond=0) + HOUR
        if self._now is None:
            self._now = self.books.equity()
            self.score.hold(at, bool(self.books.positions()))
        self._times.append(at)
        self._equities.append(self._now)

    def _settle(self) -> None:
        """Count the moments of an hour."""
        times, equities, self._times, self._equities = self._times, self._equities, [], []
        if not times:
            return
        day, hour = self._day(times[0]), times[0].hour
        gains = list(map(sub, equities, [self._equity, *equities]))
        day["pnl"], day["equity"] = sum(gains, day["pnl"]), equities[-1]
        self.hours[hour] = sum(gains, self.hours.get(hour, ZERO))
        self._equity = equities[-1]
        curve = self.score.curve
        for at, equity in zip(times, equities):
            curve.observe(at, equity)
            if self._is_told:
                self.equity.add(at, equity)
                self.drawdown.add(at, curve.drawdown)
            if self._on_point:
                self._on_point(at, equity)

    def _day(self, at: datetime) -> dict[str, Decimal]:
        day = at.date()
        if day not in self.days:
            self._settle()  # which may be what begins the day
            self.days.setdefault(day, {"pnl": ZERO, "equity": self._equity, "fees": ZERO,
                                       "funding": ZERO, "trades": 0})
        return self.days[day]

    # Counting

    def _count(self, event: Event, symbol: str | None) -> None:
        data = event.data
        if event.type == "trade.executed":
            fill = fill_of(data)
            self.slippage[data["purpose"]].add(fill, self._wanted(data, fill))
            self._day(event.at)["fees"] += fill.fee
            self._fill(fill, words_of, event, data["reason"])
            return
        if event.type == "funding.paid":
            self._day(event.at)["funding"] += Decimal(data["amount"])
        self.score.apply(event)

    def _wanted(self, data: Mapping, fill: Fill) -> Decimal | None:
        """The mark of the decision; of a stop its level, or its profit leg where that is nearer."""
        if data["purpose"] != Purpose.STOP:
            return Decimal(data["mark_price"]) if data["mark_price"] is not None else None
        order = self._orders.get(data["client_order_id"], {})
        levels = [Decimal(order[name]) for name in ("stop_price", "limit_price") if order.get(name)]
        return min(levels, key=lambda level: abs(level - fill.price), default=None)

    def _take_over(self, event: Event, before: Mapping[str, Position]) -> None:
        """A position that moved without a fill: the trips follow the books."""
        after, price = self.books.positions(), event.data.get("mark_price")
        for symbol in sorted(before.keys() | after.keys()):
            was, now = before.get(symbol, Position(symbol)), after.get(symbol, Position(symbol))
            if was.quantity == now.quantity:
                continue
            if event.type == "position.updated":
                moves = [(now.quantity - was.quantity, Decimal(price))]
            else:
                moves = [(-was.quantity, was.mark_price), (now.quantity, now.mark_price)]
            for quantity, at_price in moves:
                if quantity:
                    fill = _made_up(event.at, symbol, quantity, at_price)
                    self._fill(fill, _moved, (fill, event.type), event.type)

    def _fill(self, fill: Fill, say: Callable = words_of, what: object = None, reason: str = "",
              is_carried: bool = False) -> None:
        """Book it into the round trips, and tell it to those that it opened, changed or left."""
        symbol, current = fill.symbol, self._open.get(fill.symbol)
        if current is not None and fill.side is not current.round.side:
            current.exit_reason = reason
            current.tell((fill.at, say, what))
        self.score.trips.fill(fill)
        newest = self.score.trips.newest(symbol)
        if newest is not None and newest.held and symbol not in self._open:
            self.trips_begun += 1
            trip = Trip(self.trips_begun, newest, is_carried, reason)
            trip.steps = self._prologue.pop(symbol, [])
            self._open[symbol] = trip
            self.trips.append(trip)
        if not is_carried and fill.side is newest.side and symbol in self._open:
            self._open[symbol].tell((fill.at, say, what))

    def _finish(self, round_trip: RoundTrip) -> None:
        trip = self._open.pop(round_trip.symbol)
        self._day(round_trip.closed_at)["trades"] += 1
        waiting = self._final.setdefault(round_trip.symbol, [])
        waiting.append(trip)
        if len(waiting) > 2:
            self._on_trip(waiting.pop(0))

    # The stories

    def _tell(self, event: Event, symbol: str) -> None:
        """Add what happened to the symbol's story."""
        data, trip = event.data, self._open.get(symbol)
        if event.type == "order.intended" and data["purpose"] == Purpose.STOP:
            return
        if trip is None and event.type == "stop.triggered" and symbol in self._final:
            trip = self._final[symbol][-1]  # which the fill before it has ended
        steps = [*self._why(event, symbol), (event.at, words_of, event)]
        if trip is None and event.type == "order.intended":
            self._prologue[symbol] = steps
        elif trip is not None:
            for step in steps:
                trip.tell(step)
            if event.type in ("stop.placed", "stop.moved"):
                trip.stops = [*trip.stops[:STEPS_MAX - 1],
                              (event.at, Decimal(data["stop_price"]))]

    def _why(self, event: Event, symbol: str) -> list[Step]:
        """The decision that an order came of."""
        decision = self._decided.get(symbol)
        if event.type != "order.intended" or decision is None or decision.data["action"] == "hold":
            return []
        return [(decision.at, _decision, decision)]


# Events after which the books may hold another quantity without a fill.
MOVES = frozenset({"position.adopted", "reconcile.mismatch", "position.updated", "day.opened"})


def _made_up(at: datetime, symbol: str, quantity: Decimal, price: Decimal) -> Fill:
    side = Side.BUY if quantity > 0 else Side.SELL
    return Fill("", "", symbol, side, abs(quantity), price, ZERO, at)


def _moved(move: tuple[Fill, str]) -> str:
    fill, reason = move
    return (f"the books were moved without a fill ({reason}): as if {fill.side} "
            f"{plain(fill.quantity)} at {plain(fill.price)}")


def _decision(event: Event) -> str:
    """A decision with the numbers that it came of."""
    data = event.data
    return (f"{words_of(event)} (short average {rough(data['short_ma'], 8)}, long average "
            f"{rough(data['long_ma'], 8)}, {data['bars']} bars, equity {usd(data['equity'])})")


# What the story of a round trip tells, besides its fills and the decisions behind its orders.
TOLD = frozenset({
    "order.intended", "order.unknown", "order.lost", "stop.placed", "stop.moved", "stop.triggered",
    "funding.paid",
})
