"""Execution: what became of our intents?

At most one order per intent.  The intent is on disk before the order is on the wire; an order is
sent once and then looked up; it is finished when its recorded fills add up to what the venue
says was filled.  This room never decides what to hold, never reads a clock and never waits.
"""

from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from perps_bot.broker import Broker
from perps_bot.catalog import ProductCatalog, quantize_stop, quantized
from perps_bot.errors import ConfigError, OrderRejected, OutcomeUnknown, VenueUnavailable
from perps_bot.market import SyntheticMarket
from perps_bot.model import (
    ZERO, Account, Breach, Fill, FundingPayment, Margin, Mark, Order, OrderIntent, OrderStatus,
    OrderType, Position, Purpose, Side, Ticket, TimeInForce, TradingState, columns, exact, shrinks,
)
from perps_bot.paper import PaperBroker
from perps_bot.risk import LiveRiskManager
from perps_bot.store import EPOCH, EventStore
from perps_bot.tracker import OrderTracker, PositionTracker

# How far before the last known fill or order a read begins; the venue's clock is not ours.
READ_OVERLAP = timedelta(minutes=10)
# Two complete listings without the order, so far apart, prove that it is absent.
ABSENCE_PROOF = timedelta(seconds=10)
# An entry is looked for that long, twice what any read may lag: a second one would be too much.
# So is an order that may be the reason why the position has moved.
ABSENCE_OF_AN_INCREASE = timedelta(minutes=1)
# While nothing of ours can have moved, orders and fills are read so often, and before an entry.
QUIET_LOOK_EVERY = timedelta(seconds=30)

# How the reason of an order begins, or ends, that no decision of the strategy asked for.
BY_HAND, MODIFIED = "by hand", ", modified"
# Of an order in these states nobody has seen that it rests at the venue.
IN_DOUBT = (OrderStatus.UNKNOWN, OrderStatus.LOST, OrderStatus.REJECTED)


@dataclass(frozen=True)
class ExecutionConfig:
    """How orders are sent.

    time_in_force       of resting entries
    entry_gtd_seconds   how long a resting entry lives, so that it dies with a dead bot
    exit_retry_seconds  how long an exit may stay unfilled, and a crossed stop unfired
    bracket_profit_pct  the profit leg's distance, of the entry price
    trailing_stop_pct   the distance of the stop that a resting entry carries, of its price
    stop_move_min_pct   the least by which the trail moves the stop, of its price
    tag, epoch          lead every client order id; the epoch is new for each run
    """

    order_type: OrderType = OrderType.MARKET
    time_in_force: TimeInForce = TimeInForce.GTD
    entry_gtd_seconds: int = 600
    exit_retry_seconds: int = 10
    bracket_profit_pct: Decimal = Decimal("0.20")
    trailing_stop_pct: Decimal = Decimal("0.01")
    stop_move_min_pct: Decimal = Decimal("0.002")
    tag: str = "pb"
    epoch: str = "0"


class ExecutionEngine:
    """Sends and settles.  What must outlive the process is a fold over events."""

    def __init__(
        self, config: ExecutionConfig | None = None, event_store: EventStore | None = None,
        broker: Broker | None = None, catalog: ProductCatalog | None = None,
        risk: LiveRiskManager | None = None, tracker: PositionTracker | None = None,
    ) -> None:
        self.config = config or ExecutionConfig()
        self.store = event_store or EventStore()
        self.broker = broker or PaperBroker(SyntheticMarket())
        self.catalog = catalog or ProductCatalog()
        if catalog is None:
            self.catalog.load_from_brokerage(self.broker)
        self.risk = risk or LiveRiskManager(event_store=self.store)
        self.tracker = tracker or PositionTracker(self.store)
        self.marks: Mapping[str, Mark] = {}
        self.venue_positions: Mapping[str, Position] = {}
        self.margin: Margin | None = None
        self.foreign: tuple[Order, ...] = ()  # open at the venue, and not ours
        self.moved_by_others: dict[str, list[Fill]] = {}  # late fills that are not ours
        self.orders = OrderTracker(self.store, self.config.tag)
        self.outstanding = self.orders.outstanding
        self._pictured: tuple[tuple, Account] | None = None  # as of when, and what
        self._looked_at: datetime | None = None  # when `settle` was last done with everything
        self._found: list[Order] = []
        self._has_skipped = False  # whether the last tick has left that look out
        self._sent_at = EPOCH
        self._asked: set[str] = set()  # ids of orders under way that we asked to cancel
        self._refused: dict[str, tuple] = {}

    def place_order(
        self, symbol: str, side: str, qty: Decimal, order_type: str = "market",
        limit_price: Decimal | None = None, time_in_force: str | None = None,
        reason: str = BY_HAND,
    ) -> Order:
        """Send one order and return what is known of it.  qty is base units, USD per base unit.

        Raises OrderRejected (refused by us or by the venue), VenueUnavailable (not sent),
        StoreDamaged (its intent could not be written, so it was not sent) and ValueError (an
        argument is wrong).  An unknown outcome comes back as an order whose status says so.
        """
        kind = OrderType(order_type)
        intent = OrderIntent(symbol, Side(side), exact("qty", qty), kind, reason=reason)
        if kind is OrderType.LIMIT:
            force = TimeInForce(time_in_force or self.config.time_in_force)
            intent = self._resting(intent, exact("limit_price", limit_price), force)
        elif kind is not OrderType.MARKET:
            raise ValueError(f"order_type: {order_type} is neither market nor limit")
        return self.send(intent)

    def cancel_order(self, order_id: str) -> Order:
        """Ask the venue to cancel and return what became of the order; it may have filled."""
        if order_id in self.orders.tickets:
            self.cancel([self.order(order_id)])
        return self.order(order_id)

    def modify_order(self, order_id: str, limit_price: Decimal) -> Order:
        """Replace a resting limit: cancel, confirmed gone, place what was left of it anew.

        Raises OutcomeUnknown while the cancel is not confirmed; nothing new was then sent.
        """
        old = self.cancel_order(order_id)
        if not old.status.is_terminal:
            raise OutcomeUnknown(f"{order_id}: the cancel is not confirmed; ask again")
        left = old.quantity - old.filled_quantity
        if left <= 0 or old.intent.order_type is not OrderType.LIMIT:
            return old
        price = exact("limit_price", limit_price)
        again = old.intent._replace(quantity=left, reason=f"{old.intent.reason}{MODIFIED}")
        return self.send(self._resting(again, price, old.intent.time_in_force))

    def order(self, order_id: str) -> Order:
        """Return what is known of one of our orders.  Raises ConfigError for a foreign id."""
        order = self.orders.get(order_id)
        if order is None:
            raise ConfigError(f"{order_id}: no such order of ours")
        return order

    def send(self, intent: OrderIntent, account: Account | None = None) -> Order:
        """Quantise, ask the gate, write the intent, send once.  Raises as `place_order`.

        account  the picture that an increase was just sized by; without it all is read anew
        """
        symbol, product = intent.symbol, self.catalog.get(intent.symbol)
        reduces = shrinks(intent, self.tracker.get_position(symbol).quantity, self.outstanding())
        if reduces:
            account = self.books()
        elif account is None:
            if symbol not in self.marks:
                self.see({**self.marks, **self.broker.marks([symbol], self.store.now)})
            account = self.picture()
        mark = self.marks.get(symbol)
        if mark is not None or reduces:  # without a mark the gate says so
            try:
                intent = quantized(product, intent, None if reduces else mark.price)
            except OrderRejected as refusal:
                self._refuse(intent, str(refusal), (Breach(refusal.code, "", "", ""),))
                raise
        verdict = self.risk.pre_trade(intent, account, product)
        if not verdict.approved:
            self._refuse(intent, verdict.reason, verdict.breaches)
            raise OrderRejected(verdict.breaches[0].code, verdict.reason)
        self._refused.pop(symbol, None)
        return self._transmit(intent, reduces)

    def books(self) -> Account:
        """The account as our own books have it, without asking the venue."""
        return Account(
            self.store.now, self.tracker.last_equity or ZERO, self.tracker.positions(),
            self.marks, self.outstanding(), self.tracker.day_start_equity,
            self.tracker.daily_loss(), self.margin,
            self.tracker.notional_beyond(self.venue_positions, self.marks),
        )

    def picture(self) -> Account:
        """Read the account anew: one consistent picture, or VenueUnavailable.

        Where the venue says that it has not moved, and nor have we, the last one still holds.
        """
        revision, seen = self.broker.revision, self._pictured
        as_of = revision, self.store.seq, self.store.now
        if seen is None or revision is None or seen[0] != as_of or seen[1].marks is not self.marks:
            self.tracker.last_equity = self.broker.equity()
            self.margin = self.broker.margin()
            self.venue_positions = self.broker.positions()
            seen = self._pictured = as_of, self.books()
        return seen[1]

    def see(self, marks: Mapping[str, Mark]) -> None:
        """Value everything at this tick's marks."""
        self.marks = marks
        for symbol, mark in marks.items():
            self.tracker.mark(symbol, mark.price)

    def recover(self) -> None:
        """Take up what an earlier process left: every start is a recovery."""
        for ticket in tuple(self.orders.tickets.values()):
            if ticket.order.status is OrderStatus.INTENDED:
                self._doubt(ticket.order, "the process ended before the answer was written")

    def has_asked(self, order_id: str) -> bool:
        """Whether the end of an order is our own wish; True for one of an earlier run."""
        this_run = f"{self.config.tag}-{self.config.epoch}-"
        return order_id in self._asked or not order_id.startswith(this_run)

    def take_found(self, symbol: str) -> list[Order]:
        """Return the stops in `symbol` that `settle` found at the venue, each once."""
        found = [order for order in self._found if order.symbol == symbol]
        if found:
            self._found = [order for order in self._found if order.symbol != symbol]
        return found

    def is_quiet(self) -> bool:
        """Whether nothing is held, under way, lost, somebody else's, or was sent a minute ago.

        By our books and by what the venue said last; then orders and fills can be others' only.
        """
        return not (self.orders.tickets or self.orders.lost or self.foreign or self.moved_by_others
                    or self._found or self.tracker.positions() or self.venue_positions
                    or abs(self.store.now - self._sent_at) < ABSENCE_OF_AN_INCREASE)

    def settle_if_due(self) -> None:
        """As `settle`, but of a quiet account that cannot say when it moves only now and then."""
        is_recent = abs(self.store.now - (self._looked_at or EPOCH)) < QUIET_LOOK_EVERY
        self._has_skipped = is_recent and self.broker.revision is None and self.is_quiet()
        if not self._has_skipped:
            self.settle()

    def may_enter(self) -> bool:
        """Look before an entry, where this tick did not; False where that found anything."""
        if self._has_skipped:
            self.settle()
        return not self._has_skipped or self.is_quiet()

    def settle(self) -> None:
        """Learn what became of every order and book what it did.  Raises VenueUnavailable."""
        orders, since = self.orders, self._since()
        known = [*(ticket.order for ticket in orders.tickets.values()), *self.foreign]
        listed = {order.id: order for order in self.broker.orders(since - READ_OVERLAP, known)}
        self._look_for_missing(listed)
        try:
            self._book_fills(since)
        except VenueUnavailable:  # what is listed holds all the same; an absence proves nothing
            self._learn_all(listed, listed.keys() & orders.tickets.keys())
            raise
        self._learn_all(listed, tuple(orders.tickets))
        self._asked &= orders.tickets.keys()
        self._looked_at = self.store.now

    def _since(self) -> datetime:
        """How far back to look: to the last whole look, and to what that has left in doubt.

        A stop that rested then is asked for by its name, so no look grows with its age.  The first
        one of a process goes back to the oldest order.
        """
        orders, last = self.orders, self._looked_at
        tickets = [*orders.tickets.values(), *orders.lost.values()]
        doubtful = [t.order.created_at for t in tickets if last is None or not t.is_at_rest]
        return min([self.store.now, last or self.store.now, *doubtful])

    def _look_for_missing(self, listed: Mapping[str, Order]) -> None:
        """Take in what is ours and not under way; what then rests there is not ours."""
        others = [order for order in listed.values() if order.id not in self.orders.tickets]
        for order in others:
            if self._is_missing(order, listed):
                self._take_in(order)
        self.foreign = tuple([order for order in others if not order.status.is_terminal
                              and not self.orders.knows(order.id)])

    def enter(
        self, symbol: str, side: Side, quantity: Decimal, reason: str,
        account: Account | None = None,
    ) -> Order:
        """Open a position as the settings say: market, or a limit on our side of the book.

        account  the picture that the quantity comes from
        """
        intent = OrderIntent(symbol, side, quantity, self.config.order_type, reason=reason)
        mark, force = self.marks.get(symbol), self.config.time_in_force
        if intent.order_type is OrderType.MARKET or mark is None:
            return self.send(intent, account)
        ours, theirs = (mark.bid, mark.ask) if side is Side.BUY else (mark.ask, mark.bid)
        takes = self._resting(intent, theirs, TimeInForce.IOC)
        if force is TimeInForce.IOC:
            return self.send(takes, account)
        distance = 1 - self.config.trailing_stop_pct * side.sign
        stop = quantize_stop(self.catalog.get(symbol), ours * distance, side.opposite)
        rests = self._resting(intent, ours, force)._replace(attached_stop_price=stop)
        try:
            return self.send(rests, account)
        except OrderRejected as refusal:
            if "ATTACHED" not in refusal.code:
                raise
            return self.send(takes)  # an entry that cannot carry its stop must not rest

    def entries(self, symbol: str | None = None) -> tuple[Order, ...]:
        """Our outstanding entries."""
        return self.outstanding(symbol, Purpose.ENTRY)

    def cancel_all(self, symbol: str | None = None) -> Sequence[Order]:
        """Ask for every entry to be cancelled, look, and return those not confirmed gone."""
        self.cancel(self.entries(symbol))
        return self.entries(symbol)

    def _resting(self, intent: OrderIntent, price: Decimal, force: TimeInForce) -> OrderIntent:
        ends_at = None
        if force is TimeInForce.GTD:
            ends_at = self.store.now + timedelta(seconds=self.config.entry_gtd_seconds)
        return intent._replace(limit_price=price, time_in_force=force, expires_at=ends_at)

    def _transmit(self, intent: OrderIntent, reduces: bool) -> Order:
        identity = f"{self.config.tag}-{self.config.epoch}-{self.orders.sequence + 1:06d}"
        order, mark = Order(identity, intent, self.store.now), self.marks.get(intent.symbol)
        # An increase whose intent is not on disk raises here and is never sent; a reduction goes
        # on without it.
        self.store.append("order.intended", required=not reduces, noun=order,
                          **order.intent_data(),
                          mark_price=mark.price if mark else None, placed_at=order.created_at,
                          saw=None if reduces else self._saw(intent.symbol))
        self._sent_at = self.store.now
        send = self.broker.close if intent.purpose is Purpose.EXIT else self.broker.place
        try:
            answer = send(order, self.store.now)
        except OrderRejected as refusal:
            self._update(order._replace(status=OrderStatus.REJECTED, reason=str(refusal)),
                         code=refusal.code)
            raise
        except VenueUnavailable as failure:
            self._update(order._replace(status=OrderStatus.LOST, reason=str(failure)))
            raise
        except OutcomeUnknown as doubt:
            self._doubt(order, str(doubt))
            return self.order(identity)
        if answer.filled_quantity:
            self._book_fills(order.created_at)  # first: a restart must never know of less
        self._update(answer)
        return self.order(identity)

    def _refuse(self, intent: OrderIntent, message: str, breaches: tuple[Breach, ...]) -> None:
        """Write a refusal once, not on every tick that repeats it."""
        said = (intent.side, intent.reason, tuple(breach.code for breach in breaches))
        if self._refused.get(intent.symbol) == said:
            return
        self.store.append(
            "risk.rejected", symbol=intent.symbol, side=intent.side, quantity=intent.quantity,
            order_type=intent.order_type, limit_price=intent.limit_price,
            purpose=intent.purpose, reason=intent.reason, codes=list(said[2]), message=message,
            breaches=[{"code": b.code, "limit": b.limit, "measured": b.measured,
                       "allowed": b.allowed, "unit": b.unit} for b in breaches],
            saw=self._saw(intent.symbol),
        )
        self._refused[intent.symbol] = said

    def _saw(self, symbol: str) -> dict[str, object] | None:
        """What the gate judged an increase by, beside what earlier events say."""
        if not self.store.wants(""):
            return None  # no fold reads it
        return {
            "equity": self.tracker.last_equity, "margin": self.margin and self.margin.figures,
            # As text: the mark of what is not ours may be without bound.
            "positions": {s: (p.quantity, f"{p.mark_price:f}")
                          for s, p in self.venue_positions.items()},
            "marks": {s: {**columns(mark), "candle": mark.candle and columns(mark.candle)}
                      for s, mark in self.marks.items()},
            "product": columns(self.catalog.get(symbol)),
        }

    def _update(self, order: Order, code: str = "") -> None:
        before, intent = self.orders.get(order.id), order.intent
        if order.status is OrderStatus.OPEN and before and before.status in IN_DOUBT and (
                before.purpose is Purpose.STOP):
            self._found.append(order)
        self.store.append("order.updated", noun=before and before.answered(order),
                          client_order_id=order.id, symbol=intent.symbol,
                          purpose=intent.purpose, code=code, asked=order.id in self._asked,
                          quantity=intent.quantity, **order.state_data())

    def _doubt(self, order: Order, why: str) -> None:
        self.store.append(
            "order.unknown", client_order_id=order.id, symbol=order.symbol, reason=why)

    def cancel(self, orders: Sequence[Order]) -> None:
        """Ask, then look: only `settle` says that an order is gone."""
        live = [o for o in orders if not self.order(o.id).status.is_terminal]
        if live:
            self._ask_to_cancel(live)
        if orders:  # of one that is over, the fills may still be to come
            self.settle()

    def _ask_to_cancel(self, orders: list[Order]) -> None:
        self._asked.update(order.id for order in orders)
        with suppress(OutcomeUnknown):  # asked or not: the next look tells
            self.broker.cancel(orders, self.store.now)

    def _book_fills(self, since: datetime) -> None:
        if self._looked_at is None:
            since = min(since, self.tracker.last_booked_at or since)
        begin = max(since - READ_OVERLAP, self.tracker.remembers_since or EPOCH)
        self.moved_by_others.clear()
        fills = self.broker.fills(begin)
        for fill in fills:
            if self.tracker.knows(fill.fill_id):
                continue
            ticket = self.orders.find(fill.client_order_id)
            if ticket is not None:
                order = ticket.order
                self.tracker.apply_fill(fill, order.purpose, order.intent.reason,
                                        ticket.mark_price)
                if order.purpose is Purpose.STOP:
                    self.store.append("stop.triggered", symbol=fill.symbol, price=fill.price,
                                      stop_price=order.intent.stop_price, client_order_id=order.id)
            elif fill.is_liquidation:
                self._book_liquidation(fill)
            elif self.store.now - fill.at < READ_OVERLAP:
                self.moved_by_others.setdefault(fill.symbol, []).append(fill)
        for payment in self.broker.funding_payments(begin):
            if not self.tracker.knows(payment.payment_id):
                self._book_funding(payment, fills)
        self.see(self.marks)  # a new fill is worth the mark, not its own price

    def _book_funding(self, payment: FundingPayment, fills: Iterable[Fill]) -> None:
        """Book what falls on our own contracts; what the owner holds beside them is his."""
        ours = self.tracker.get_position(payment.symbol).quantity - sum(
            fill.quantity * fill.side.sign for fill in fills if fill.symbol == payment.symbol
            and fill.at > payment.at and self.tracker.knows(fill.fill_id))
        if payment.held is None or ours == payment.held:
            self.tracker.apply_funding(payment)
        elif ours:
            share = payment.amount * ours / payment.held
            self.tracker.apply_funding(payment._replace(amount=share))

    def _book_liquidation(self, fill: Fill) -> None:
        """Book as much of it as was ours; it is told all the same."""
        if (held := self._held_against(fill)) <= 0 and self.store.now - fill.at >= READ_OVERLAP:
            return  # told already, and resumed from perhaps
        said = f"the venue liquidated {fill.quantity:f} {fill.symbol} at {fill.price:f}"
        self.risk.hold("liquidation", TradingState.REDUCING, said)
        if held > 0:
            ours = fill._replace(quantity=min(fill.quantity, held))
            self.tracker.apply_fill(ours, Purpose.EXIT, "liquidated by the venue", None)

    def _held_against(self, moved: Order | Fill) -> Decimal:
        """Base units of ours that `moved` would reduce; below zero, it would add to them."""
        return self.tracker.get_position(moved.symbol).quantity * -moved.side.sign

    def _learn_all(self, listed: Mapping[str, Order], ids: Iterable[str]) -> None:
        for order_id in ids:
            self._learn(self.orders.tickets[order_id], listed.get(order_id))
        late = [t.order for t in self.orders.tickets.values() if t.is_late
                and t.order.purpose is Purpose.ENTRY and not t.order.status.is_terminal]
        if late:  # what decided them is long past
            with suppress(VenueUnavailable):  # until they are gone, each look asks again
                self._ask_to_cancel(late)

    def _learn(self, ticket: Ticket, listed: Order | None) -> None:
        """Take over what a complete listing says of one order.

        Absence is proof only when it is repeated later; what was recorded of it stands.
        """
        order, now = ticket.order, self.store.now
        if listed is not None:
            ticket.missed_at = None
            is_old = order.status.is_terminal and listed.filled_quantity <= order.filled_quantity
            seen = order.answered(listed, is_resized=order.purpose is Purpose.STOP)
            if not is_old and seen != order:
                self._update(seen)
        elif ticket.recorded == order.quantity and order.venue_order_id:  # its stop names that id
            self._update(order._replace(status=OrderStatus.FILLED, filled_quantity=order.quantity))
        elif not order.status.is_terminal and now < (ticket.missed_at or now + ABSENCE_PROOF):
            ticket.missed_at = now  # the first time, or a clock that was set back
        elif not order.status.is_terminal and self._is_absent(order, now - ticket.missed_at):
            self.store.append("order.lost", client_order_id=order.id, symbol=order.symbol,
                              filled_quantity=ticket.recorded,
                              reason="absent from two complete listings")

    def _is_absent(self, order: Order, missed_for: timedelta) -> bool:
        """Whether so long an absence is proof: the position must be what our books explain."""
        if missed_for >= ABSENCE_OF_AN_INCREASE:
            return True
        if missed_for < ABSENCE_PROOF or order.purpose is Purpose.ENTRY:
            return False
        try:
            positions = self.broker.positions()
        except VenueUnavailable:
            return False  # the next look asks again, and nothing else has to wait for it
        theirs = positions.get(order.symbol) or Position(order.symbol)
        return theirs.quantity == self.tracker.get_position(order.symbol).quantity

    def _is_missing(self, order: Order, listed: Mapping[str, Order]) -> bool:
        """Whether the books lack an order that is ours.

        One that was thought lost, or was recorded as refused or not sent; the stop of one of our
        entries; a stop that a full disk forgot, told by its tag and by the position that it
        protects.  Anything else is somebody's, whatever its tag: another data folder's, perhaps, or
        another machine's.

        The venue's id of an order of ours may be told for the first time in this very listing.
        """
        origin, is_there = order.originating_order_id, order.filled_quantity + order.remaining > 0
        if self.orders.knows(order.id):
            return order.id in self.orders.lost or is_there and self.orders.never_arrived(order.id)
        if origin and (self.orders.is_ours(origin) or any(
                o.venue_order_id == origin and self.orders.knows(o.id) for o in listed.values())):
            return is_there
        return (order.id.startswith(f"{self.config.tag}-") and order.purpose is Purpose.STOP
                and order.remaining > 0 and self._held_against(order) > 0)

    def _take_in(self, order: Order) -> None:
        """Book an order of ours that the books do not have, or one that was thought gone."""
        if known := self.orders.get(order.id):
            self._update(known.answered(order, is_resized=known.purpose is Purpose.STOP))
            return
        self.store.append("order.intended", **order.intent_data(), mark_price=None,
                          placed_at=order.created_at, saw=None)
        self._update(order)
        if order.purpose is Purpose.STOP:
            self._found.append(order)
