"""Tracker: what do we hold, what is under way, and what did it earn?

This room is pure: no clock, no I/O; it may call the event store that it was handed.  It keeps
average-price books by symbol, and our orders, as folds over events, so that a restart reads the
same ones.  It never asks the venue and never decides.  At every moment, to the last digit:

    equity = start + realized + unrealized - fees - funding
"""

from collections.abc import Mapping
from datetime import datetime, timedelta
from decimal import Decimal

from perps_bot.model import (
    ZERO, Event, Fill, FundingPayment, Mark, Order, OrderStatus, Position, Purpose, Side, Ticket,
    exact, maybe_decimal, maybe_moment, moment,
)

# Entry prices are kept to this many decimals; what rounding leaves over is realized at once, so
# the identity above stays exact.
ENTRY_PRICE_STEP = Decimal("1E-10")
INFINITY = Decimal("Infinity")
# How far behind the newest booking the ids of fills and payments are remembered, so that
# overlapping reads book each once.  What is older counts as booked.
SEEN_FOR = timedelta(days=2)
# How long a lost order is looked for, in case it turns up after all.
LOST_FOR = timedelta(hours=24)
# Finished orders that are kept for look-ups.
FINISHED_MAX = 500


def apply_fill(position: Position, fill: Fill) -> Position:
    """Return `position` after `fill`: a larger one averages, a smaller one realizes.

    A fill beyond flat closes what was held and opens the rest, both at its price.
    """
    signed = fill.quantity * fill.side.sign
    held, entry = position.quantity, position.entry_price
    left = held + signed
    if held * signed > 0:
        cost = entry * held + fill.price * signed
        average = (cost / left).quantize(ENTRY_PRICE_STEP)
        gain = average * left - cost
    else:
        stays = held * left > 0
        average = entry if stays else fill.price if left else ZERO
        gain = (fill.price - entry) * (-signed if stays else held)
    return Position(position.symbol, left, average, position.mark_price,
                    position.realized_pnl + gain, position.fees + fill.fee, position.funding)


class PositionTracker:
    """The books.  Their state changes only in `apply` and `mark`."""

    def __init__(self, event_store) -> None:
        self._store = event_store
        self._positions: dict[str, Position] = {}
        self._open: dict[str, Position] = {}
        self._booked = ZERO  # realized - fees - funding
        self._pnl: Decimal | None = ZERO  # None: to be summed up anew
        self._seen: dict[str, datetime] = {}
        self.start_equity: Decimal | None = None  # the venue's, when the books began
        self.last_equity: Decimal | None = None  # the venue's, as last read
        self.day_start_equity = ZERO
        self._day_start_pnl = ZERO
        self._at: datetime | None = None  # of the event that is being folded
        self.last_booked_at: datetime | None = None  # venue time of the newest fill or payment
        self.remembers_since: datetime | None = None  # no read needs to reach further back
        # What is told besides comes from here, or is what the loop has just valued us at.
        event_store.subscribe(self.apply, _FOLDS, ("position.updated", "strategy.signal"))

    def update_position(self, symbol: str, qty: Decimal, price: Decimal) -> Position:
        """Add `qty` base units (a sale is negative) at `price`, without a fee."""
        quantity, price = exact("qty", qty), exact("price", price)
        side = Side.BUY if quantity > 0 else Side.SELL
        fill = Fill("", "", symbol, side, abs(quantity), price, ZERO, self._store.now)
        after = apply_fill(self.get_position(symbol), fill).valued(price)
        self._set(after)
        self._publish(after)
        return after

    def get_position(self, symbol: str) -> Position:
        return self._positions.get(symbol) or Position(symbol)

    def apply_fill(
        self, fill: Fill, purpose: Purpose, reason: str, mark_price: Decimal | None
    ) -> None:
        """Book `fill` once; a repeat does nothing.

        mark_price  what the decision saw, for the slippage; None where nothing was decided
        """
        if self._is_booked(fill.fill_id, fill.at):
            return
        before = self.get_position(fill.symbol)
        if not before.quantity:
            before = before.valued(fill.price)  # the old mark is from long ago
        after = apply_fill(before, fill)
        self._store.append(
            "trade.executed", noun=after, fill_id=fill.fill_id,
            client_order_id=fill.client_order_id, symbol=fill.symbol, side=fill.side,
            quantity=fill.quantity, price=fill.price, fee=fill.fee, filled_at=fill.at,
            purpose=purpose, reason=reason, is_liquidation=fill.is_liquidation,
            mark_price=mark_price, realized_pnl=after.realized_pnl - before.realized_pnl,
            position_quantity=after.quantity, entry_price=after.entry_price,
        )
        self._publish(after)

    def apply_funding(self, payment: FundingPayment) -> None:
        """Book `payment` once; a repeat does nothing."""
        if not self._is_booked(payment.payment_id, payment.at):
            self._store.append(
                "funding.paid", payment_id=payment.payment_id, symbol=payment.symbol,
                amount=payment.amount, rate=payment.rate, paid_at=payment.at,
            )

    def adopt(self, event_type: str, position: Position, **data: object) -> None:
        """Take the venue's position where the books differ; the event carries both numbers.

        Neither a gain nor a loss: what we held is realized at its last mark, and what `position`
        earned before is not ours.
        """
        ours = self.get_position(position.symbol)
        self._store.append(
            event_type, symbol=position.symbol, ours=ours.quantity, venue=position.quantity,
            entry_price=position.entry_price, mark_price=position.mark_price, **data,
        )

    def mark(self, symbol: str, price: Decimal) -> None:
        """Value the position in `symbol` at `price`, USD per base unit."""
        position = self._open.get(symbol)
        if position is not None and position.mark_price != price:
            valued = self._positions[symbol] = position.valued(price)
            self._open, self._pnl = {**self._open, symbol: valued}, None

    def positions(self) -> Mapping[str, Position]:
        """Open positions by symbol, as they are now: what changes is put into another dict."""
        return self._open

    def knows(self, identity: str) -> bool:
        """Whether a fill or payment with this id was booked."""
        return identity in self._seen

    def total(self, name: str) -> Decimal:
        """The sum over symbols of one of the books' columns, USD (`fees`, `unrealized_pnl`)."""
        return sum((getattr(p, name) for p in self._positions.values()), ZERO)

    def pnl(self) -> Decimal:
        """USD since the books began: realized + unrealized - fees - funding."""
        if self._pnl is None:
            pnl = self._booked
            for held in self._open.values():
                pnl += (held.mark_price - held.entry_price) * held.quantity
            self._pnl = pnl
        return self._pnl

    def equity(self) -> Decimal:
        return (self.start_equity or ZERO) + self.pnl()

    def daily_loss(self) -> Decimal:
        """USD lost since the venue's midnight by the ledger; a gain is negative."""
        return self._day_start_pnl - self.pnl()

    def notional_beyond(
        self, theirs: Mapping[str, Position], marks: Mapping[str, Mark]
    ) -> Decimal:
        """USD that the venue holds beyond our books; what has no price counts as infinite."""
        total = ZERO
        for symbol, position in theirs.items():
            ours, mark = self.get_position(symbol).quantity, marks.get(symbol)
            if position.quantity == ours:
                continue
            if position.quantity * ours <= 0 or abs(position.quantity) > abs(ours):
                price = mark.price if mark else position.mark_price
                total += abs(position.quantity - ours) * (price or INFINITY)
        return total

    def apply(self, event: Event) -> None:
        """Fold one event into the books."""
        fold = _FOLDS.get(event.type)
        if fold is not None:
            self._at = event.at
            fold(self, event)

    def snapshot(self) -> dict[str, object]:
        return {
            "start_equity": self.start_equity, "last_booked_at": self.last_booked_at,
            "positions": {symbol: _columns(p) for symbol, p in self._positions.items()},
            "seen": dict(self._seen),
        }

    def _set(self, position: Position) -> None:
        self._positions[position.symbol], self._pnl = position, None
        self._open = {s: p for s, p in self._positions.items() if p.quantity}
        self._booked = sum((p.realized_pnl - p.fees - p.funding
                            for p in self._positions.values()), ZERO)

    def _after(self, trade: Mapping) -> Position:
        """The position after a `trade.executed` that was read back."""
        before = self.get_position(trade["symbol"])
        if not before.quantity:
            before = before.valued(Decimal(trade["price"]))
        return apply_fill(before, fill_of(trade))

    def _publish(self, position: Position) -> None:
        if self._store.wants("position.updated"):
            self._store.append("position.updated", symbol=position.symbol,
                               unrealized_pnl=position.unrealized_pnl, **_columns(position))

    def _fold_trade(self, event: Event) -> None:
        data = event.data
        self._set(event.noun or self._after(data))
        self._remember(data["fill_id"], moment(data["filled_at"]))

    def _fold_funding(self, event: Event) -> None:
        data = event.data
        position = self.get_position(data["symbol"])
        self._set(position._replace(funding=position.funding + Decimal(data["amount"])))
        self._remember(data["payment_id"], moment(data["paid_at"]))

    def _fold_position(self, event: Event) -> None:
        self._set(_position(event.data["symbol"], event.data))

    def _fold_adoption(self, event: Event) -> None:
        data = event.data
        ours, entry = self.get_position(data["symbol"]), Decimal(data["entry_price"])
        theirs = ours._replace(quantity=Decimal(data["venue"]), entry_price=entry,
                               mark_price=Decimal(data["mark_price"]) or entry)
        realized = ours.realized_pnl + ours.unrealized_pnl - theirs.unrealized_pnl
        self._set(theirs._replace(realized_pnl=realized))

    def _fold_signal(self, event: Event) -> None:
        self.last_equity = Decimal(event.data["equity"])
        self.mark(event.data["symbol"], Decimal(event.data["mark_price"]))

    def _fold_state(self, event: Event) -> None:
        data = event.data
        if data.get("clears_loss"):
            known = maybe_decimal(data.get("pnl"))  # at the marks of then, which a restart forgets
            self._day_start_pnl = self.pnl() if known is None else known

    def _fold_day(self, event: Event) -> None:
        data = event.data
        books = data["snapshot"].get("tracker")
        if books:
            self.start_equity = maybe_decimal(books["start_equity"])
            for symbol, fields in books["positions"].items():
                self._set(_position(symbol, fields))
            self.last_booked_at = maybe_moment(books["last_booked_at"])
            self._seen = {identity: moment(at) for identity, at in books["seen"].items()}
            self._forget()
        if "equity" in data:
            self.day_start_equity = self.last_equity = Decimal(data["equity"])
            if self.start_equity is None:
                self.start_equity = self.day_start_equity - self.pnl()
        self._day_start_pnl = self.pnl()

    def _fold_start(self, event: Event) -> None:
        """A day that had to be opened before the venue answered begins when it has."""
        if self.start_equity is None:
            self.day_start_equity = self.last_equity = Decimal(event.data["equity"])
            self.start_equity = self.day_start_equity - self.pnl()
            self._day_start_pnl = self.pnl()

    def _is_booked(self, identity: str, at: datetime) -> bool:
        return identity in self._seen or bool(self.remembers_since and at < self.remembers_since)

    def _remember(self, identity: str, at: datetime) -> None:
        self._seen[identity] = at
        at = min(at, self._at)  # a time from the future must not make everything else too old
        self.last_booked_at = max(at, self.last_booked_at or at)

    def _forget(self) -> None:
        # Only as a day opens: by then whatever was read together has been booked together.
        if self.last_booked_at is not None:
            self.remembers_since = since = self.last_booked_at - SEEN_FOR
            self._seen = {identity: at for identity, at in self._seen.items() if at >= since}


def fill_of(trade: Mapping) -> Fill:
    """The fill of a `trade.executed`."""
    return Fill(trade["fill_id"], trade["client_order_id"], trade["symbol"], Side(trade["side"]),
                Decimal(trade["quantity"]), Decimal(trade["price"]), Decimal(trade["fee"]),
                moment(trade["filled_at"]))


_COLUMNS = Position._fields[1:]  # all but the symbol


def _position(symbol: str, data: Mapping) -> Position:
    return Position(symbol, *(Decimal(data[name]) for name in _COLUMNS))


def _columns(position: Position) -> dict[str, Decimal]:
    return dict(zip(_COLUMNS, position[1:]))


_FOLDS = {
    "trade.executed": PositionTracker._fold_trade,
    "funding.paid": PositionTracker._fold_funding,
    "position.updated": PositionTracker._fold_position,
    "position.adopted": PositionTracker._fold_adoption,
    "reconcile.mismatch": PositionTracker._fold_adoption,
    "strategy.signal": PositionTracker._fold_signal,
    "state.changed": PositionTracker._fold_state,
    "day.opened": PositionTracker._fold_day,
    "bot.started": PositionTracker._fold_start,
}


class OrderTracker:
    """Our orders.  They change only in `apply`.

    tickets   under way: not finished, or filled at the venue and not yet in our books
    lost      proved absent, and still looked for
    sequence  the highest number in an id that begins with `tag`
    """

    def __init__(self, event_store, tag: str) -> None:
        self.tickets: dict[str, Ticket] = {}
        self.lost: dict[str, Ticket] = {}
        self.sequence = 0
        self._finished: dict[str, Order | None] = {}  # None: of an earlier day, by its id only
        self._outstanding: dict[tuple, tuple[Order, ...]] = {}  # as said since the last fold
        self._tag = tag
        event_store.subscribe(self.apply, _ORDER_FOLDS)

    def find(self, order_id: str) -> Ticket | None:
        """Return the ticket of an order that is under way or lost."""
        return self.tickets.get(order_id) or self.lost.get(order_id)

    def get(self, order_id: str) -> Order | None:
        """Return what the venue last said of any order that is remembered."""
        ticket = self.find(order_id)
        return ticket.order if ticket else self._finished.get(order_id)

    def knows(self, order_id: str) -> bool:
        return self.find(order_id) is not None or order_id in self._finished

    def never_arrived(self, order_id: str) -> bool:
        """Whether it was refused or not sent, so that the venue has never named it."""
        ended = self._finished.get(order_id)
        return ended is not None and not ended.venue_order_id

    def is_ours(self, venue_order_id: str) -> bool:
        tickets = (t.order for t in (*self.tickets.values(), *self.lost.values()))
        orders = (*tickets, *self._finished.values())
        return bool(venue_order_id) and any(
            order is not None and order.venue_order_id == venue_order_id for order in orders)

    def outstanding(
        self, symbol: str | None = None, purpose: Purpose | None = None
    ) -> tuple[Order, ...]:
        """Orders that may still move the position; an unknown outcome counts as live."""
        said = self._outstanding.get((symbol, purpose))
        if said is None:
            said = self._outstanding[symbol, purpose] = tuple([
                ticket.booked() for ticket in self.tickets.values()
                if (symbol is None or ticket.order.intent.symbol == symbol)
                and (purpose is None or ticket.order.intent.purpose is purpose)])
        return said

    def resting(self) -> list[Order]:
        """What still rests at the venue by our own books, which may know of later fills."""
        return [t.booked() for t in self.tickets.values() if t.order.venue_order_id
                and not t.order.status.is_terminal and t.recorded < t.order.quantity]

    def awaits_fills(self, symbol: str) -> bool:
        """Whether the venue says that more was filled than our books were told."""
        return any(t.order.symbol == symbol and t.recorded < t.order.filled_quantity
                   for t in self.tickets.values())

    def untold(self, symbol: str) -> Decimal:
        """Base units that the venue says our entries have added, and our books were not told."""
        return sum((t.order.filled_quantity - t.recorded for t in self.tickets.values()
                    if t.order.symbol == symbol and t.order.purpose is Purpose.ENTRY
                    and t.order.filled_quantity > t.recorded), ZERO)

    def are_told(self, symbol: str) -> bool:
        """Whether all orders of `symbol` are open, and all of their fills in our books."""
        return all(
            t.order.status is OrderStatus.OPEN and t.recorded == t.order.filled_quantity
            for t in self.tickets.values() if t.order.symbol == symbol
        )

    def apply(self, event: Event) -> None:
        """Fold one event into the orders."""
        if fold := _ORDER_FOLDS.get(event.type):
            self._outstanding.clear()
            fold(self, event)

    def snapshot(self) -> dict[str, object]:
        tickets = (*self.tickets.values(), *self.lost.values())
        return {"sequence": self.sequence, "tickets": [ticket.as_data() for ticket in tickets],
                "finished": list(self._finished)}

    def _fold_intended(self, event: Event) -> None:
        order = event.noun or Order.from_data(
            event.data, moment(event.data.get("placed_at", event.at)))
        self.tickets[order.id] = Ticket(order, maybe_decimal(event.data["mark_price"]))
        head, _, number = order.id.rpartition("-")
        if head.startswith(f"{self._tag}-") and number.isdigit():
            self.sequence = max(self.sequence, int(number))

    def _fold_state(self, event: Event) -> None:
        data, identity = event.data, event.data["client_order_id"]
        ticket = self.tickets.get(identity)
        if ticket is None:
            if identity not in self.lost and not self.never_arrived(identity):
                return
            # It turned up after all.
            ticket = self.lost.pop(identity, None) or Ticket(self._finished.pop(identity))
            ticket.order, ticket.is_late = ticket.order._replace(status=OrderStatus.UNKNOWN), True
            self.tickets[identity] = ticket
        if event.type == "trade.executed":
            ticket.recorded += Decimal(data["quantity"])
        elif event.type == "order.updated":
            ticket.order = event.noun or ticket.order.with_state(data)
        else:
            status = OrderStatus(event.type.removeprefix("order."))
            ticket.order = ticket.order._replace(status=status, filled_quantity=ticket.recorded)
        if ticket.is_finished:
            self._finish(self.tickets.pop(identity), event.type == "order.lost")

    def _finish(self, ticket: Ticket, is_lost: bool) -> None:
        if is_lost:
            self.lost[ticket.order.id] = ticket
            return
        self._finished[ticket.order.id] = ticket.order
        if len(self._finished) > FINISHED_MAX:
            del self._finished[next(iter(self._finished))]

    def _fold_day(self, event: Event) -> None:
        data = event.data["snapshot"].get("orders")
        if data is None:
            return
        tickets = {row["client_order_id"]: Ticket.from_data(row) for row in data["tickets"]}
        self.sequence = data["sequence"]
        self._finished = {i: self._finished.get(i) for i in data["finished"]}
        self.tickets = {i: t for i, t in tickets.items() if not t.is_finished}
        self.lost = {i: t for i, t in tickets.items()
                     if t.is_finished and event.at - t.order.created_at < LOST_FOR}


_ORDER_FOLDS = {
    "order.intended": OrderTracker._fold_intended,
    **dict.fromkeys(("order.updated", "order.unknown", "order.lost", "trade.executed"),
                    OrderTracker._fold_state),
    "day.opened": OrderTracker._fold_day,
}
