"""Protection: is what we hold guarded, or on its way out?

Every open position has stops of ours at the venue that cover it, or an exit under way.  What
needs several steps (an exit, a stop that moves) takes its next one at every `work`.  This room
never opens anything, never reads a clock and never waits; it sends and cancels through
`execution`.  What must outlive the process is a fold over events.
"""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal

from perps_bot.catalog import quantize_stop
from perps_bot.errors import OrderRejected, VenueUnavailable
from perps_bot.execution import ExecutionEngine
from perps_bot.model import (
    ZERO, Event, Order, OrderIntent, OrderStatus, OrderType, Position, Purpose,
)
from perps_bot.stops import (
    NOTHING_TO_STOP, OUT_OF_BOUNDS, STOP_PASSED, protective_orders, tightest,
)

# Before a planned close this early, and while it lasts, the trail rests.
CLOSING_SOON = timedelta(minutes=15)


# How a stop ends that the venue accepted and then did not keep.
TAKEN_BACK = (OrderStatus.CANCELLED, OrderStatus.EXPIRED, OrderStatus.REJECTED)


@dataclass
class _Exit:
    """A position that shall be closed, over as many steps as it takes; until then, protected.

    keep     base units that shall stay
    tried    the position when the last closing order was sent, signed base units
    sent_at  when that was; None before the first
    """

    reason: str
    not_before: datetime
    keep: Decimal = ZERO
    tried: Decimal = ZERO
    sent_at: datetime | None = None


class Protector:
    """Stops and exits of every symbol that `engine` trades."""

    def __init__(self, engine: ExecutionEngine) -> None:
        self.engine = engine
        self.store, self.catalog, self.tracker = engine.store, engine.catalog, engine.tracker
        self._exits: dict[str, _Exit] = {}
        self._stop_levels: dict[str, Decimal] = {}
        self._stop_not_before: dict[str, datetime] = {}
        self._unprotected_since: dict[str, datetime] = {}
        self._taken_back: Counter[str] = Counter()  # how often, since the symbol was flat
        self.store.subscribe(self.apply, _FOLDS)

    def is_protected(self, symbol: str) -> bool:
        """Whether open stops cover the whole position."""
        stops = [o for o in self._resting_stops(symbol) if o.status is OrderStatus.OPEN]
        held = abs(self.tracker.get_position(symbol).quantity)
        return sum((o.remaining for o in stops), ZERO) >= held

    def stop_price(self, symbol: str) -> Decimal | None:
        """Where our stop rests, USD per base unit; None while there is none."""
        return next((o.intent.stop_price for o in self._resting_stops(symbol)), None)

    @property
    def has_exits(self) -> bool:
        return bool(self._exits)

    def is_exiting(self, symbol: str) -> bool:
        return symbol in self._exits

    def exit(
        self, symbol: str, reason: str, leaves_it_to_the_stop: bool = False, keep: Decimal = ZERO
    ) -> None:
        """Begin to close `symbol`, all but `keep` base units; an exit under way goes on unchanged.

        A stop that the price has crossed gets some seconds to fill at the venue first.
        """
        under_way = self._exits.get(symbol)
        if under_way is None or keep < under_way.keep:
            waits = leaves_it_to_the_stop and self._resting_stops(symbol)
            not_before = self.store.now + self._patience if waits else self.store.now
            self._exits[symbol] = _Exit(reason, not_before, keep)

    def work(self, symbol: str, trail_to: Decimal | None) -> None:
        """Take the next step of an exit, or bring the protective stop to the position.

        trail_to  where the trail says that the stop belongs, not on the tick; None when unknown
        """
        position, plan = self.tracker.get_position(symbol), self._exits.get(symbol)
        for order in self.engine.take_found(symbol):
            if position.quantity and not self.engine.order(order.id).status.is_terminal:
                self._say_stop(order)  # else it has fired, and its level binds nothing any more
        if plan is not None and abs(position.quantity) <= plan.keep:
            plan = self._exits.pop(symbol) and None
        if not position.quantity:
            self._leave(symbol)
        elif plan is not None and self.catalog.get(symbol).is_session_open:
            self._advance_exit(position, plan, trail_to)
        else:  # a closed market closes nothing, and its stop must not be taken away
            self._protect(position, trail_to)

    def trail(self, symbol: str, trail_to: Decimal) -> None:
        """Ratchet the stops towards `trail_to` when that is worth a cancel and a new order."""
        position, stops = self.tracker.get_position(symbol), self._resting_stops(symbol)
        if symbol in self._exits or not position.quantity or not stops or self._rests(symbol):
            return
        old = tightest(position, [o.intent.stop_price for o in stops])
        new = quantize_stop(self.catalog.get(symbol), trail_to, position.side.opposite)
        # A sell stop only ever rises, a buy stop only ever falls; none is replaced by its equal.
        better = (new - old) * position.side.sign
        if better > 0 and better >= old * self.engine.config.stop_move_min_pct:
            self._stop_not_before.pop(symbol, None)
            self.engine.cancel(stops)
            self.work(symbol, trail_to)

    def _rests(self, symbol: str) -> bool:
        """Whether the market is closed, or will be before a stop could safely be replaced."""
        product = self.catalog.get(symbol)
        closes_at = product.closes_at
        return not product.is_session_open or (
            closes_at is not None and closes_at - self.store.now <= CLOSING_SOON)

    def apply(self, event: Event) -> None:
        """Fold one event into the levels."""
        if fold := _FOLDS.get(event.type):
            fold(self, event)

    def snapshot(self) -> dict[str, object]:
        return {"stop_levels": dict(self._stop_levels)}

    def _fold_trade(self, event: Event) -> None:
        data, order = event.data, self.engine.orders.get(event.data["client_order_id"])
        if order is not None and order.intent.attached_stop_price is not None:
            # The venue brings the stop along: with the first fill, or never; it may not grow it.
            before = abs(Decimal(data["position_quantity"])) - Decimal(data["quantity"])
            stops = self._resting_stops(order.symbol)
            keeps_up = sum((o.remaining for o in stops), ZERO) >= before
            if not before or keeps_up and any(o.originating_order_id for o in stops):
                self._stop_not_before[order.symbol] = event.at + self._patience
        if not Decimal(data["position_quantity"]):
            self._stop_levels.pop(data["symbol"], None)
            del self._taken_back[data["symbol"]]

    def _fold_update(self, event: Event) -> None:
        """A stop accepted and taken back: once more at once, then plain and with patience."""
        data, symbol = event.data, event.data["symbol"]
        is_stop = data["purpose"] == Purpose.STOP and not data["code"]
        if (is_stop and data["status"] in TAKEN_BACK
                and not self.engine.has_asked(data["client_order_id"])):
            self._taken_back[symbol] += 1
            if self._taken_back[symbol] > 1:
                self._stop_not_before[symbol] = event.at + self._patience

    def _fold_stop(self, event: Event) -> None:
        symbol, level = event.data["symbol"], Decimal(event.data["stop_price"])
        kept = self._stop_levels.get(symbol, level)
        self._stop_levels[symbol] = tightest(self.tracker.get_position(symbol), [kept, level])

    def _fold_adoption(self, event: Event) -> None:
        self._stop_levels.pop(event.data["symbol"], None)

    def _fold_day(self, event: Event) -> None:
        levels = event.data["snapshot"].get("protection", {}).get("stop_levels", {})
        self._stop_levels = {symbol: Decimal(price) for symbol, price in levels.items()}

    @property
    def _patience(self) -> timedelta:
        return timedelta(seconds=self.engine.config.exit_retry_seconds)

    def _resting_stops(self, symbol: str) -> tuple[Order, ...]:
        return self.engine.outstanding(symbol, Purpose.STOP)

    def _closing(self, symbol: str) -> tuple[Order, ...]:
        return self.engine.outstanding(symbol, Purpose.EXIT)

    def _leave(self, symbol: str) -> None:
        """Flat: nothing of ours that could open the other way stays behind.

        A stop that came with an entry stays where only the entry's fill is not told yet.
        """
        self._exits.pop(symbol, None)
        self._unprotected_since.pop(symbol, None)
        if not self.engine.orders.awaits_fills(symbol):
            self.engine.cancel(self._resting_stops(symbol))

    def _protect(self, position: Position, trail_to: Decimal | None) -> None:
        """Bring the stops to the position's size: replace what is too much, add what is missing."""
        symbol, now, stops = position.symbol, self.store.now, self._resting_stops(position.symbol)
        kept = self._stop_levels.get(symbol)
        held = abs(position.quantity) + self.engine.orders.untold(symbol)
        if self._committed(position) <= held:  # else all of them are too much
            stops = [o for o in stops if kept is not None and o.intent.stop_price
                     != tightest(position, [kept, o.intent.stop_price])]
        if stops:
            self.engine.cancel(stops)
            position = self.tracker.get_position(symbol)
        if not self._resting_stops(symbol):
            self._unprotected_since.setdefault(symbol, now)
        missing = abs(position.quantity) - self._committed(position)
        level = self._stop_level(position, trail_to)
        has_to_wait = now < self._stop_not_before.get(symbol, now) <= now + self._patience
        if missing > 0 and level is not None and not has_to_wait:
            self._place_stop(position, missing, level)

    def _committed(self, position: Position) -> Decimal:
        """Base units of `position` that our outstanding stops and exits may still close."""
        return sum((o.remaining for o in self.engine.outstanding(position.symbol)
                    if o.side is not position.side), ZERO)

    def _stop_level(self, position: Position, trail_to: Decimal | None) -> Decimal | None:
        """The tighter of where the stop was and where the trail says, on the tick."""
        kept = self._stop_levels.get(position.symbol)
        if trail_to is None or not position.quantity:
            return kept
        level = quantize_stop(self.catalog.get(position.symbol), trail_to, position.side.opposite)
        return level if kept is None else tightest(position, [kept, level])

    def _place_stop(self, position: Position, quantity: Decimal, level: Decimal) -> None:
        symbol = position.symbol
        bracket_refused = self._taken_back[symbol] > 1
        for intent in protective_orders(
                position, quantity, level, self.engine.config.bracket_profit_pct):
            if not self._is_to_try(intent, position, bracket_refused):
                continue
            try:
                order = self.engine.send(intent)
            except OrderRejected as refusal:
                code = refusal.code.removeprefix("PREVIEW_")
                if code in STOP_PASSED:
                    self._give_up_the_stop(symbol, level)
                    return
                if code in NOTHING_TO_STOP:
                    return  # a stop on nothing could open: the comparison of the books decides
                bracket_refused = code not in OUT_OF_BOUNDS
                continue
            if order.status is OrderStatus.OPEN:  # else it has fired, or nobody knows yet
                self._say_stop(order)
            return
        # Every form of it was refused: asking at every tick would only get the account throttled.
        self._stop_not_before[symbol] = self.store.now + self._patience

    def _give_up_the_stop(self, symbol: str, level: Decimal) -> None:
        """No stop is possible there any more: close, at once unless that was just tried."""
        now, plan = self.store.now, self._exits.get(symbol)
        self._stop_not_before[symbol] = now + self._patience
        sent_at = plan and plan.sent_at
        self._exits[symbol] = _Exit(f"the price has passed the stop at {level:f}",
                                    now if sent_at is None else sent_at + self._patience,
                                    sent_at=sent_at)
        if plan is None and self.catalog.get(symbol).is_session_open:
            self.work(symbol, None)

    def _is_to_try(self, intent: OrderIntent, position: Position, bracket_refused: bool) -> bool:
        if intent.order_type is OrderType.BRACKET:
            return not bracket_refused
        # A plain stop on what the venue does not show could open.
        return self._closable(position) >= intent.quantity

    def _say_stop(self, order: Order) -> None:
        """Write down a stop that the venue has confirmed.

        One that came with an entry adds to what rests, and takes nothing's place.
        """
        moved = order.symbol in self._stop_levels and not order.originating_order_id
        bare_since = self._unprotected_since.pop(order.symbol, self.store.now)
        self.store.append(
            "stop.moved" if moved else "stop.placed", symbol=order.symbol,
            client_order_id=order.id, quantity=order.quantity, stop_price=order.intent.stop_price,
            seconds_unprotected=int((self.store.now - bare_since).total_seconds()),
        )

    def _advance_exit(self, position: Position, plan: _Exit, trail_to: Decimal | None) -> None:
        """Close once that can be tried; until then, and where it came to nothing, protect."""
        now, symbol = self.store.now, position.symbol
        waits = now < plan.not_before <= now + self._patience  # beyond it, the clock was set back
        if plan.tried == position.quantity and not self._closing(symbol):
            plan.tried, plan.not_before, waits = ZERO, now + self._patience, True
        try:
            closable = ZERO if waits else self._closable(position) - plan.keep
        except VenueUnavailable:
            self._protect(position, trail_to)
            raise
        if closable > 0:
            self._clear_and_close(position, plan, trail_to, closable)
        else:  # no stop is taken away for a close of nothing
            self._protect(position, trail_to)

    def _clear_and_close(
        self, position: Position, plan: _Exit, trail_to: Decimal | None, closable: Decimal
    ) -> None:
        """Cancel what reserves the position, see it gone, close; unfilled, the stop goes back."""
        now, symbol = self.store.now, position.symbol
        if self.engine.cancel_all(symbol):  # an entry may still fill, and needs the stop
            self._protect(self.tracker.get_position(symbol), trail_to)
            return
        late = [o for o in self._closing(symbol) if now - o.created_at >= self._patience]
        in_the_way = late + [o for o in self.engine.outstanding(symbol)
                             if o.purpose is not Purpose.EXIT]
        if in_the_way:
            self._stop_not_before.pop(symbol, None)
            self.engine.cancel(in_the_way)
        position = self.tracker.get_position(symbol)
        if not position.quantity:
            self._leave(symbol)
        elif late:
            plan.tried, plan.not_before = ZERO, now + self._patience
            self._protect(position, trail_to)
        elif not self.engine.outstanding(symbol):
            self._close(position, min(abs(position.quantity) - plan.keep, closable), plan)

    def _closable(self, position: Position) -> Decimal:
        """The smaller of our ledger and the venue's position, base units.

        Where nothing is there to close, the comparison of the books will say so.
        """
        theirs = self.engine.broker.positions().get(position.symbol)
        if theirs is None or theirs.quantity * position.quantity <= 0:
            return ZERO
        return min(abs(position.quantity), abs(theirs.quantity))

    def _close(self, position: Position, quantity: Decimal, plan: _Exit) -> None:
        """Send the closing order; where it changes nothing, the stop goes back meanwhile."""
        symbol = position.symbol
        if quantity > 0:
            plan.tried, plan.sent_at = position.quantity, self.store.now
            with suppress(OrderRejected):  # the order.updated event has the venue's reason
                self.engine.send(OrderIntent(
                    symbol, position.side.opposite, quantity, OrderType.MARKET, Purpose.EXIT,
                    reason=plan.reason))
        left = self.tracker.get_position(symbol).quantity
        if not left:
            self._leave(symbol)
        elif left == position.quantity and not self.engine.outstanding(symbol):
            plan.tried, plan.not_before = ZERO, self.store.now + self._patience


_FOLDS: Mapping[str, Callable[[Protector, Event], None]] = {
    "trade.executed": Protector._fold_trade,
    "order.updated": Protector._fold_update,
    **dict.fromkeys(("position.adopted", "reconcile.mismatch"), Protector._fold_adoption),
    **dict.fromkeys(("stop.placed", "stop.moved"), Protector._fold_stop),
    "day.opened": Protector._fold_day,
}
