"""Tracker: what do we hold, and what did it earn?

This room is pure: no clock, no I/O; it may call the event store that it was handed.  It keeps
average-price books by symbol as a fold over events, so that a restart reads the same books.  It
never asks the venue and never decides.  At every moment, to the last digit:

    equity = start + realized + unrealized - fees - funding
"""

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Protocol

from perps_bot.model import (
    ZERO,
    Event,
    Fill,
    FundingPayment,
    Position,
    Purpose,
    Side,
    exact,
    maybe_decimal,
    maybe_moment,
    moment,
)

# Entry prices are kept to this many decimals; what rounding leaves over is realized at once, so
# the identity above stays exact.
ENTRY_PRICE_STEP = Decimal("1E-10")
# How long a fill's or a payment's id is remembered, so that overlapping reads book it once.
SEEN_FOR = timedelta(days=2)


class EventSink(Protocol):
    """What the tracker needs of an event store."""

    def append(self, type: str, required: bool = False, **data: object) -> Event: ...

    def subscribe(self, apply) -> None: ...


def apply_fill(position: Position, fill: Fill) -> Position:
    """Return `position` after `fill`: a larger one averages, a smaller one realizes.

    A fill beyond flat closes at its price and opens the rest there.
    """
    signed = fill.quantity * fill.side.sign
    held, entry = position.quantity, position.entry_price
    left = held + signed
    fees = position.fees + fill.fee
    if held * signed >= 0:
        average = fill.price
        if held:
            cost = entry * held + fill.price * signed
            average = (cost / left).quantize(ENTRY_PRICE_STEP)
            rest = average * left - cost
            return replace(position, quantity=left, entry_price=average, fees=fees,
                           realized_pnl=position.realized_pnl + rest)
        return replace(position, quantity=left, entry_price=average, fees=fees)
    closed = held if held * left < 0 or not left else -signed
    realized = position.realized_pnl + (fill.price - entry) * closed
    opened_at = entry if held * left > 0 else fill.price if left else ZERO
    return replace(position, quantity=left, entry_price=opened_at, fees=fees, realized_pnl=realized)


class PositionTracker:
    """The books.  Their state changes only in `apply` and `mark`."""

    def __init__(self, event_store: EventSink) -> None:
        self._store = event_store
        self._positions: dict[str, Position] = {}
        self._seen: dict[str, datetime] = {}
        self.start_equity: Decimal | None = None  # the venue's, when the books began
        self.last_equity: Decimal | None = None  # the venue's, as last read
        self.day_start_equity = ZERO
        self._day_start_pnl = ZERO
        self.last_booked_at: datetime | None = None  # venue time of the newest fill or payment
        event_store.subscribe(self.apply)

    def update_position(self, symbol: str, qty: Decimal, price: Decimal) -> Position:
        """Add `qty` base units (a sale is negative) at `price`, without a fee."""
        quantity, price = exact("qty", qty), exact("price", price)
        position = self.get_position(symbol)
        if quantity:
            side = Side.BUY if quantity > 0 else Side.SELL
            fill = Fill("", "", symbol, side, abs(quantity), price, ZERO, self._store.now)
            position = apply_fill(position, fill)
        self._publish(replace(position, mark_price=price))
        return self.get_position(symbol)

    def get_position(self, symbol: str) -> Position:
        return self._positions.get(symbol) or Position(symbol)

    def apply_fill(
        self, fill: Fill, purpose: Purpose, reason: str, mark_price: Decimal | None
    ) -> None:
        """Book `fill` once; a repeat does nothing.

        mark_price  what the decision saw, for the slippage; None where nothing was decided
        """
        if fill.fill_id in self._seen:
            return
        before = self.get_position(fill.symbol)
        after = apply_fill(before, fill)
        self._store.append(
            "trade.executed", fill_id=fill.fill_id, client_order_id=fill.client_order_id,
            symbol=fill.symbol, side=fill.side, quantity=fill.quantity, price=fill.price,
            fee=fill.fee, filled_at=fill.at, purpose=purpose, reason=reason,
            is_liquidation=fill.is_liquidation, mark_price=mark_price,
            realized_pnl=after.realized_pnl - before.realized_pnl,
            position_quantity=after.quantity, entry_price=after.entry_price,
        )
        self._publish(self.get_position(fill.symbol))

    def apply_funding(self, payment: FundingPayment) -> None:
        """Book `payment` once; a repeat does nothing."""
        if payment.payment_id not in self._seen:
            self._store.append(
                "funding.paid", payment_id=payment.payment_id, symbol=payment.symbol,
                amount=payment.amount, rate=payment.rate, paid_at=payment.at,
            )

    def adopt(self, event_type: str, position: Position, **data: object) -> None:
        """Take the venue's position where the books differ; the event carries both numbers."""
        ours = self.get_position(position.symbol)
        self._store.append(
            event_type, symbol=position.symbol, ours=ours.quantity, venue=position.quantity,
            entry_price=position.entry_price, mark_price=position.mark_price, **data,
        )

    def mark(self, symbol: str, price: Decimal) -> None:
        """Value the position in `symbol` at `price`, USD per base unit."""
        position = self._positions.get(symbol)
        if position is not None and position.quantity and position.mark_price != price:
            self._positions[symbol] = replace(position, mark_price=price)

    def positions(self) -> Mapping[str, Position]:
        """Open positions by symbol."""
        return {s: p for s, p in self._positions.items() if p.quantity}

    def knows(self, identity: str) -> bool:
        """Whether a fill or payment with this id was booked."""
        return identity in self._seen

    def total(self, name: str) -> Decimal:
        """The sum over symbols of one of the books' columns, USD (`fees`, `unrealized_pnl`)."""
        return sum((getattr(p, name) for p in self._positions.values()), ZERO)

    def pnl(self) -> Decimal:
        """USD since the books began: realized + unrealized - fees - funding."""
        return sum(
            (p.realized_pnl + p.unrealized_pnl - p.fees - p.funding
             for p in self._positions.values()),
            ZERO,
        )

    def equity(self) -> Decimal:
        return (self.start_equity or ZERO) + self.pnl()

    def daily_loss(self) -> Decimal:
        """USD lost since the venue's midnight by the ledger; a gain is negative."""
        return self._day_start_pnl - self.pnl()

    def apply(self, event: Event) -> None:
        """Fold one event into the books."""
        fold = _FOLDS.get(event.type)
        if fold is not None:
            fold(self, event.data)

    def snapshot(self) -> dict[str, object]:
        return {
            "start_equity": self.start_equity,
            "last_booked_at": self.last_booked_at,
            "positions": {
                s: {name: getattr(p, name) for name in _COLUMNS} for s, p in self._positions.items()
            },
            "seen": dict(self._seen),
        }

    def _publish(self, position: Position) -> None:
        fields = {name: getattr(position, name) for name in _COLUMNS}
        self._store.append(
            "position.updated", symbol=position.symbol, unrealized_pnl=position.unrealized_pnl,
            **fields,
        )

    def _fold_trade(self, data: Mapping) -> None:
        fill = Fill(
            data["fill_id"], data["client_order_id"], data["symbol"], Side(data["side"]),
            Decimal(data["quantity"]), Decimal(data["price"]), Decimal(data["fee"]),
            moment(data["filled_at"]),
        )
        position = apply_fill(self.get_position(fill.symbol), fill)
        if not position.mark_price:
            position = replace(position, mark_price=fill.price)
        self._positions[fill.symbol] = position
        self._remember(fill.fill_id, fill.at)

    def _fold_funding(self, data: Mapping) -> None:
        position = self.get_position(data["symbol"])
        paid = position.funding + Decimal(data["amount"])
        self._positions[position.symbol] = replace(position, funding=paid)
        self._remember(data["payment_id"], moment(data["paid_at"]))

    def _fold_position(self, data: Mapping) -> None:
        fields = {name: Decimal(data[name]) for name in _COLUMNS}
        self._positions[data["symbol"]] = Position(data["symbol"], **fields)

    def _fold_adoption(self, data: Mapping) -> None:
        self._positions[data["symbol"]] = replace(
            self.get_position(data["symbol"]), quantity=Decimal(data["venue"]),
            entry_price=Decimal(data["entry_price"]), mark_price=Decimal(data["mark_price"]),
        )

    def _fold_signal(self, data: Mapping) -> None:
        self.last_equity = Decimal(data["equity"])
        self.mark(data["symbol"], Decimal(data["mark_price"]))

    def _fold_day(self, data: Mapping) -> None:
        books = data["snapshot"].get("tracker")
        if books:
            self.start_equity = maybe_decimal(books["start_equity"])
            for symbol, fields in books["positions"].items():
                self._fold_position({"symbol": symbol, **fields})
            self._seen = {name: moment(at) for name, at in books["seen"].items()}
            self.last_booked_at = maybe_moment(books["last_booked_at"])
        if "equity" in data:
            self.day_start_equity = self.last_equity = Decimal(data["equity"])
            if self.start_equity is None:
                self.start_equity = self.day_start_equity - self.pnl()
        self._day_start_pnl = self.pnl()

    def _remember(self, identity: str, at: datetime) -> None:
        if self.last_booked_at is None or at > self.last_booked_at:
            self.last_booked_at = at
        self._seen[identity] = at
        while (oldest := next(iter(self._seen))) and at - self._seen[oldest] > SEEN_FOR:
            del self._seen[oldest]


_COLUMNS = ("quantity", "entry_price", "mark_price", "realized_pnl", "fees", "funding")

_FOLDS = {
    "trade.executed": PositionTracker._fold_trade,
    "funding.paid": PositionTracker._fold_funding,
    "position.updated": PositionTracker._fold_position,
    "position.adopted": PositionTracker._fold_adoption,
    "reconcile.mismatch": PositionTracker._fold_adoption,
    "strategy.signal": PositionTracker._fold_signal,
    "day.opened": PositionTracker._fold_day,
}

