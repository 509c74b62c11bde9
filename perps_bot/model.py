"""Model: what do we talk about?

The nouns that travel between rooms, with their units and signs; all but Ticket are frozen.  What
an order makes on its way is a tuple with names, which is made in a third of the time.
Values only: no rule, no rounding, no clock, no I/O.  Money, prices and quantities are `Decimal`;
quantities are in base units (BTC, not contracts); times are aware UTC `datetime`s.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from operator import attrgetter
from types import MappingProxyType
from typing import NamedTuple

from perps_bot.event import Event  # the one noun that is read where nothing trades

ZERO = Decimal(0)
# Makes one of the nouns below from all of its fields, four times as fast as calling it.
tuple_of = tuple.__new__
NOTHING: Mapping = MappingProxyType({})


def exact(name: str, value: object) -> Decimal:
    """Return `value` as a finite Decimal.  Raises TypeError for a float, ValueError for a NaN."""
    if isinstance(value, bool) or not isinstance(value, Decimal | int):
        raise TypeError(f"{name}: {value!r} is a {type(value).__name__}; pass a Decimal")
    number = Decimal(value)
    if not number.is_finite():
        raise ValueError(f"{name}: {value} is not a number")
    return number


def fraction(name: str, value: object) -> Decimal:
    """Like `exact`, for settings in code: a float is read through its shortest decimal text."""
    return exact(name, Decimal(str(value)) if isinstance(value, float) else value)


# What an event carries, in memory or as text.


def maybe_decimal(value: Decimal | str | None) -> Decimal | None:
    return None if value is None else Decimal(value)


def columns(value: object) -> dict[str, object]:
    """The fields of one frozen value, by name, as events carry them."""
    names = value._fields if isinstance(value, tuple) else value.__slots__
    return {name: getattr(value, name) for name in names}


def moment(value: datetime | str) -> datetime:
    return datetime.fromisoformat(value) if isinstance(value, str) else value


def maybe_moment(value: datetime | str | None) -> datetime | None:
    return None if value is None else moment(value)


class Side(StrEnum):
    """Which way an order or a fill goes."""

    sign: int  # of what it adds to a position
    opposite: "Side"

    BUY = "buy"
    SELL = "sell"


Side.BUY.sign, Side.BUY.opposite = 1, Side.SELL
Side.SELL.sign, Side.SELL.opposite = -1, Side.BUY


class Action(StrEnum):
    """What the strategy wants for one symbol at one moment."""

    HOLD = "hold"
    BUY = "buy"
    SELL = "sell"
    CLOSE = "close"


class OrderType(StrEnum):
    MARKET = "market"
    LIMIT = "limit"
    STOP_LIMIT = "stop_limit"
    BRACKET = "bracket"  # a profit limit and a stop on one position; whichever comes first


class TimeInForce(StrEnum):
    GTC = "GTC"
    IOC = "IOC"
    GTD = "GTD"
    FOK = "FOK"


class Purpose(StrEnum):
    """Why an order exists: only an entry may raise exposure."""

    ENTRY = "entry"
    EXIT = "exit"
    STOP = "stop"


class OrderStatus(StrEnum):
    is_terminal: bool  # whether nothing more can come of it

    INTENDED = "intended"  # on disk, not known to be sent
    UNKNOWN = "unknown"  # sent, and no answer that can be trusted
    OPEN = "open"
    CANCEL_QUEUED = "cancel_queued"  # may still fill
    FILLED = "filled"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    REJECTED = "rejected"
    LOST = "lost"  # proved absent at the venue


for _status in OrderStatus:
    _status.is_terminal = _status in ("filled", "cancelled", "expired", "rejected", "lost")


class TradingState(StrEnum):
    """What the bot may do at all, from most to least."""

    severity: int

    TRADING = "TRADING"
    REDUCING = "REDUCING"  # only orders that shrink a position
    HALTED = "HALTED"  # cancels, protective stops and exits


for _severity, _state in enumerate(TradingState):
    _state.severity = _severity


@dataclass(frozen=True, slots=True)
class Product:
    """One perpetual contract and the steps in which it may be traded.

    symbol              the operator's name, `BTC-PERP`; product_id is the venue's
    contract_size       base units in one contract
    quantity_increment  base units; quantities are whole multiples of it
    price_increment     USD per base unit; the tick
    min_quantity        base units
    max_quantity        base units in one order
    min_notional        USD
    long_margin_rate    initial margin as a fraction of notional, the overnight rate
    short_margin_rate   the same for a short
    tradable            False while the venue takes no new entries (halt, closed session, flags)
    note                why not, or what the venue says of the session, for people
    is_session_open     False while no order at all is taken: then quotes are absent, not stale
    closes_at           the next planned close or maintenance; None where none is known
    expires_at          when the contract ends; None where the venue does not say
    """

    symbol: str
    product_id: str
    contract_size: Decimal
    quantity_increment: Decimal
    price_increment: Decimal
    min_quantity: Decimal
    max_quantity: Decimal
    min_notional: Decimal
    long_margin_rate: Decimal
    short_margin_rate: Decimal
    is_perpetual: bool = True
    tradable: bool = True
    note: str = ""
    is_session_open: bool = True
    closes_at: datetime | None = None
    expires_at: datetime | None = None

    def margin_rate(self, side: Side) -> Decimal:
        return self.long_margin_rate if side is Side.BUY else self.short_margin_rate


# A bar each, and a tuple is made in a third of the time.
class Candle(NamedTuple):
    """Trades of one bar.  Prices in USD per base unit; `opened_at` is the bar's first moment."""

    opened_at: datetime
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: Decimal = ZERO


class Mark(NamedTuple):
    """The newest fair price of one symbol.

    price               USD per base unit, the mid of a two-sided quote where there is one
    bid, ask            USD per base unit
    bid_size, ask_size  base units at the best price; None where the source does not say
    at                  the venue's time of the quote
    candle              the bar that this mark closes, when the source is a recording of candles
    """

    symbol: str
    price: Decimal
    bid: Decimal
    ask: Decimal
    at: datetime
    bid_size: Decimal | None = None
    ask_size: Decimal | None = None
    candle: Candle | None = None


@dataclass(frozen=True, slots=True)
class FundingRate:
    """The rate of the hour that ended at `at`, a fraction of notional; positive: longs pay."""

    symbol: str
    rate: Decimal
    at: datetime


class FundingPayment(NamedTuple):
    """Funding booked for one symbol.  amount is USD; what we pay is positive.

    held  what the account held then, base units, signed, the owner's own with ours; None: only ours
    """

    payment_id: str
    symbol: str
    amount: Decimal
    rate: Decimal
    at: datetime
    held: Decimal | None = None


class OrderIntent(NamedTuple):
    """An order that we would like to send; nothing has happened yet.

    quantity             base units, positive; `side` gives the direction
    limit_price          USD per base unit; a bracket's profit leg
    stop_price           USD per base unit; where a stop or a bracket's stop leg fires
    expires_at           the end of a GTD order
    attached_stop_price  the stop that the venue shall place with a resting entry's fill
    reason               why, in the strategy's or the operator's words
    """

    symbol: str
    side: Side
    quantity: Decimal
    order_type: OrderType = OrderType.MARKET
    purpose: Purpose = Purpose.ENTRY
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    time_in_force: TimeInForce = TimeInForce.IOC
    expires_at: datetime | None = None
    attached_stop_price: Decimal | None = None
    reason: str = ""


# An intent's fields in the order of the class, and how each is read back from an event.
_INTENT_FIELDS = {
    "symbol": str, "side": Side, "quantity": Decimal, "order_type": OrderType, "purpose": Purpose,
    "limit_price": maybe_decimal, "stop_price": maybe_decimal, "time_in_force": TimeInForce,
    "expires_at": maybe_moment, "attached_stop_price": maybe_decimal, "reason": str,
}


class Order(NamedTuple):
    """One order of ours and what is known of it.

    id               the client order id, made before sending and never changed
    venue_order_id   the venue's; empty until it answered
    filled_quantity  base units
    average_price    USD per base unit of the filled part; None before the first fill
    reason           why the venue refused or ended it, in its own words

    originating_order_id  the venue order that this one was attached to; ours if that one is
    """

    id: str
    intent: OrderIntent
    created_at: datetime
    status: OrderStatus = OrderStatus.INTENDED
    venue_order_id: str = ""
    filled_quantity: Decimal = ZERO
    average_price: Decimal | None = None
    reason: str = ""
    originating_order_id: str = ""

    symbol = property(attrgetter("intent.symbol"))
    side = property(attrgetter("intent.side"))
    quantity = property(attrgetter("intent.quantity"))
    purpose = property(attrgetter("intent.purpose"))

    @property
    def remaining(self) -> Decimal:
        """Base units that may still fill; zero once the order is finished."""
        if self.status.is_terminal:
            return ZERO
        return max(self.intent.quantity - self.filled_quantity, ZERO)

    def intent_data(self) -> dict[str, object]:
        """The fields that are fixed before sending, by name, as events carry them."""
        return {"client_order_id": self.id, **dict(zip(_INTENT_FIELDS, self.intent)),
                "originating_order_id": self.originating_order_id}

    def answered(self, said: "Order", is_resized: bool = True) -> "Order":
        """Return this order with the state that the venue says, and its size but for a zero."""
        intent = self.intent
        if is_resized and said.intent is not intent and said.quantity:
            intent = intent._replace(quantity=said.quantity)
        return Order(self.id, intent, self.created_at, said.status, said.venue_order_id,
                     said.filled_quantity, said.average_price, said.reason,
                     self.originating_order_id)

    def state_data(self) -> dict[str, object]:
        """The fields that the venue's answers change, by name, as events carry them."""
        return {
            "status": self.status, "venue_order_id": self.venue_order_id,
            "filled_quantity": self.filled_quantity, "average_price": self.average_price,
            "answer": self.reason,
        }

    def with_state(self, data: Mapping) -> "Order":
        """Return this order with the fields of `state_data`, in memory or as text.

        So is a `quantity` among them, but for a zero: that one could not be read.
        """
        quantity = maybe_decimal(data.get("quantity")) or self.quantity
        return self._replace(
            intent=self.intent._replace(quantity=quantity), status=OrderStatus(data["status"]),
            venue_order_id=data["venue_order_id"], filled_quantity=Decimal(data["filled_quantity"]),
            average_price=maybe_decimal(data["average_price"]), reason=data["answer"],
        )

    @classmethod
    def from_data(cls, data: Mapping, created_at: datetime) -> "Order":
        """Return the order of `intent_data`, in memory or as text."""
        intent = OrderIntent(**{name: read(data[name]) for name, read in _INTENT_FIELDS.items()})
        return cls(data["client_order_id"], intent, created_at,
                   originating_order_id=data["originating_order_id"])


@dataclass(slots=True)
class Ticket:
    """One order under way: what the venue says of it, and what our books recorded.

    mark_price  what the decision saw, USD per base unit
    recorded    base units of its fills that our books have
    missed_at   the first complete listing without the order
    is_late     whether it turned up after it was thought gone: nothing wants it any more
    """

    order: Order
    mark_price: Decimal | None = None
    recorded: Decimal = ZERO
    missed_at: datetime | None = None
    is_late: bool = False

    @property
    def is_finished(self) -> bool:
        return self.order.status.is_terminal and self.recorded >= self.order.filled_quantity

    @property
    def is_at_rest(self) -> bool:
        """Whether it is a stop that rests at the venue, all of its fills in our books."""
        order = self.order
        return (order.intent.purpose is Purpose.STOP and order.status is OrderStatus.OPEN
                and order.filled_quantity == self.recorded
                and self.missed_at is None and not self.is_late)

    def booked(self) -> Order:
        """The order as our books have it: what was filled but not told yet is still to come."""
        order = self.order
        if order.status.is_terminal:
            intent = order.intent._replace(quantity=order.filled_quantity)
            order = order._replace(intent=intent, status=OrderStatus.CANCEL_QUEUED)
        known = order.filled_quantity == self.recorded
        return order if known else order._replace(filled_quantity=self.recorded)

    def as_data(self) -> dict[str, object]:
        order = self.order
        return {"created_at": order.created_at, **order.intent_data(), **order.state_data(),
                "recorded": self.recorded, "mark_price": self.mark_price,
                "is_late": self.is_late}

    @classmethod
    def from_data(cls, row: Mapping) -> "Ticket":
        order = Order.from_data(row, moment(row["created_at"])).with_state(row)
        return cls(order, maybe_decimal(row["mark_price"]), Decimal(row["recorded"]),
                   is_late=row.get("is_late", False))


class Fill(NamedTuple):
    """One execution.  quantity in base units, positive; fee in USD, what we pay is positive.

    client_order_id is empty where the venue acted by itself (a liquidation, a manual trade).
    """

    fill_id: str
    client_order_id: str
    symbol: str
    side: Side
    quantity: Decimal
    price: Decimal
    fee: Decimal
    at: datetime
    is_liquidation: bool = False


class Position(NamedTuple):
    """What we hold in one symbol.

    quantity      base units, signed: above zero is long
    entry_price   average price of the open quantity, USD per base unit; zero when flat
    mark_price    USD per base unit, as of the account's picture
    realized_pnl  USD since the books began, before fees and funding; a gain is positive
    fees          USD since the books began; what we paid is positive
    funding       USD since the books began; what we paid is positive
    """

    symbol: str
    quantity: Decimal = ZERO
    entry_price: Decimal = ZERO
    mark_price: Decimal = ZERO
    realized_pnl: Decimal = ZERO
    fees: Decimal = ZERO
    funding: Decimal = ZERO

    def valued(self, price: Decimal) -> "Position":
        """The same at another mark."""
        return tuple_of(Position, (*self[:3], price, *self[4:]))

    @property
    def unrealized_pnl(self) -> Decimal:
        return (self.mark_price - self.entry_price) * self.quantity

    @property
    def notional(self) -> Decimal:
        return abs(self.quantity) * self.mark_price

    @property
    def side(self) -> Side | None:
        """The side that opened it; None when flat."""
        return None if not self.quantity else Side.BUY if self.quantity > ZERO else Side.SELL


class Margin(NamedTuple):
    """The venue's own margin numbers, USD.

    initial       margin of everything held, by the stricter window
    available     what is left to lose; it may fall as far as `threshold`
    threshold     available margin at or below this liquidates; zero when flat

    unbooked_funding  accrued and not yet in the cash, a gain is positive; None: nobody says
    """

    initial: Decimal
    available: Decimal
    threshold: Decimal
    unbooked_funding: Decimal | None = None

    @property
    def ratio(self) -> Decimal | None:
        """Available margin over the threshold; at 1 it liquidates.  None when flat."""
        return self.available / self.threshold if self.threshold > 0 else None

    @property
    def figures(self) -> tuple[Decimal, Decimal, Decimal]:
        """Initial, available and threshold, as events carry them."""
        return self.initial, self.available, self.threshold


class Account(NamedTuple):
    """One consistent picture of what we have, as of `at`.

    equity            USD: cash balance plus unrealized profit and loss
    positions         by symbol; a symbol that is absent is flat
    marks             by symbol; a symbol that is absent has no fresh price
    outstanding       our orders that are not finished; an unknown outcome counts as live
    day_start_equity  USD at the venue's last UTC midnight
    daily_loss        USD lost since then by the ledger; a gain is negative
    margin            None: the venue did not say, and nobody guards against liquidation
    foreign_notional  USD held in the account that our books do not explain; it counts as exposure
    """

    at: datetime
    equity: Decimal
    positions: Mapping[str, Position] = NOTHING
    marks: Mapping[str, Mark] = NOTHING
    outstanding: tuple[Order, ...] = ()
    day_start_equity: Decimal = ZERO
    daily_loss: Decimal = ZERO
    margin: Margin | None = None
    foreign_notional: Decimal = ZERO

    def position(self, symbol: str) -> Position:
        return self.positions.get(symbol) or Position(symbol)

    def reduces(self, intent: OrderIntent) -> bool:
        """Whether `intent`, with our other orders on its side filled, only shrinks the position."""
        position = self.positions.get(intent.symbol)
        return position is not None and shrinks(intent, position.quantity, self.outstanding)


def shrinks(intent: OrderIntent, held: Decimal, outstanding: Iterable[Order]) -> bool:
    """Whether `intent`, with `outstanding` orders on its side filled, only shrinks what is held."""
    side, symbol = intent.side, intent.symbol
    free = held * -side.sign
    for order in outstanding if free > 0 else ():
        if order.intent.side is side and order.intent.symbol == symbol:
            free -= order.remaining
    return 0 < intent.quantity <= free


class Breach(NamedTuple):
    """One limit that an order would break.

    code      stable and searchable, `LEVERAGE_EXCEEDED`
    limit     the setting that sets it
    measured  as if the order and everything outstanding had filled
    allowed   in the same unit as `measured`
    """

    code: str
    limit: str
    measured: str
    allowed: str
    unit: str = ""
    message: str = ""

    def __str__(self) -> str:
        said = (self.limit, "measured", self.measured, "allowed", self.allowed, self.unit)
        return f"{self.message}: {' '.join(filter(None, said))}"


class RiskVerdict(NamedTuple):
    """Yes (no breaches) or no, with every limit named."""

    intent: OrderIntent
    breaches: tuple[Breach, ...] = ()

    @property
    def approved(self) -> bool:
        return not self.breaches

    @property
    def reason(self) -> str:
        return "; ".join(map(str, self.breaches))


class Decision(NamedTuple):
    """What the strategy wants for one symbol."""

    symbol: str
    action: Action
    reason: str
