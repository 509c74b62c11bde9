"""What the tests of execution and loop share: a venue that does as it is told, and a desk."""

import json
import re
import zlib
from collections import Counter, deque
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

from perps_bot.catalog import ProductCatalog
from perps_bot.errors import OrderRejected, OutcomeUnknown, VenueUnavailable
from perps_bot.execution import ExecutionConfig, ExecutionEngine
from perps_bot.model import (
    Fill,
    Mark,
    Order,
    OrderIntent,
    OrderStatus,
    OrderType,
    Position,
    Product,
    Purpose,
    Side,
    TimeInForce,
)
from perps_bot.risk import LiveRiskManager, RiskConfig
from perps_bot.store import EventStore
from perps_bot.tracker import PositionTracker

NOON = datetime(2025, 5, 1, 12, tzinfo=UTC)
BTC, ETH = "BTC-PERP", "ETH-PERP"
LIVE = (OrderStatus.OPEN, OrderStatus.CANCEL_QUEUED)
STOPS = (OrderType.STOP_LIMIT, OrderType.BRACKET)
# Limits that stand in nobody's way.
NO_LIMITS = RiskConfig(max_position_pct_per_symbol=1, max_exposure_pct=1)


def a_product(symbol=BTC, step="0.1", tick="0.5"):
    step = Decimal(step)
    return Product(
        symbol, f"{symbol}-ID", contract_size=step, quantity_increment=step,
        price_increment=Decimal(tick), min_quantity=step, max_quantity=step * 10_000,
        min_notional=Decimal(0), long_margin_rate=Decimal("0.2"),
        short_margin_rate=Decimal("0.25"),
    )


class ScriptedVenue:
    """Both protocols.  It obeys unless told otherwise, keeps its own books and notes every word.

    answers        what the next orders meet: "reject CODE", "unavailable", "lost" (unknown, and
                   it never arrived), "unknown" (unknown, and it did arrive), "rest" (a market
                   order that nothing fills)
    down           names of calls that raise VenueUnavailable
    ..._lag        seconds until a change shows in that read
    cancels        "at once", "queue" (until `finish_cancels`) or "fill" (the order wins)
    overcommitted  what was sent although stops and exits then exceeded the position
    """

    def __init__(self, *symbols, equity="100000"):
        self._products = [a_product(symbol) for symbol in symbols or (BTC,)]
        self.start = Decimal(equity)
        self.now = NOON
        self.prices = {product.symbol: Decimal(100) for product in self._products}
        self.answers, self.down, self.history = deque(), set(), {}
        self.listing_lag = self.fill_lag = self.position_lag = 0
        self.cancels = "at once"
        self.sent, self.cancelled, self.overcommitted, self.payments = [], [], [], []
        self.watch = lambda order: None
        self._orders, self._fills = {}, []

    # MarketData

    def products(self):
        return list(self._products)

    def marks(self, symbols, now):
        self._answer("marks")
        self.now = now
        return {s: Mark(s, p, p, p, now) for s, p in self.prices.items() if s in symbols and p}

    def candles(self, symbol, seconds, count, now):
        self._answer("candles")
        return self.history.get((symbol, seconds), ())

    def funding(self, symbol, now):
        return None

    # Broker

    def equity(self):
        self._answer("equity")
        flow = sum((-f.side.sign * f.quantity * f.price - f.fee for f in self._fills), Decimal(0))
        held = sum((self.held(s) * self.prices[s] for s in self.prices if self.prices[s]),
                   Decimal(0))
        return self.start + flow + held - sum((p.amount for p in self.payments), Decimal(0))

    def positions(self):
        self._answer("positions")
        seen = self.now - timedelta(seconds=self.position_lag)
        held = {s: self.held(s, seen) for s in self.prices}
        return {s: Position(s, q, Decimal(100), self.prices[s]) for s, q in held.items() if q}

    def orders(self, since):
        self._answer("orders")
        seen = self.now - timedelta(seconds=self.listing_lag)
        known = [[order for at, order in states if at <= seen] for states in self._orders.values()]
        return [states[-1] for states in known
                if states and (states[-1].created_at >= since or states[-1].status in LIVE)]

    def fills(self, since):
        self._answer("fills")
        seen = self.now - timedelta(seconds=self.fill_lag)
        return [fill for fill in self._fills if since <= fill.at <= seen]

    def funding_payments(self, since):
        self._answer("funding_payments")
        return [p for p in self.payments if since <= p.at <= self.now]

    def place(self, order, now):
        self.watch(order)
        self.sent.append(order)
        answer, _, code = (self.answers.popleft() if self.answers else "accept").partition(" ")
        if answer == "unavailable":
            raise VenueUnavailable("the line is dead")
        if answer == "lost":
            raise OutcomeUnknown("no answer came")
        if answer == "reject":
            raise OrderRejected(code, f"{code}: the venue says no")
        self._refuse(order)
        self._set(replace(order, status=OrderStatus.OPEN, venue_order_id=f"v-{order.id}"))
        if order.purpose is not Purpose.ENTRY:
            self._count(order)
        if order.intent.order_type is OrderType.MARKET and answer != "rest":
            self.fill(order.id)
        if answer == "unknown":
            raise OutcomeUnknown("no answer came")
        return self.order(order.id)

    def close(self, order, now):
        return self.place(order, now)

    def cancel(self, orders, now):
        self._answer("cancel")
        for order in orders:
            self.cancelled.append(order.id)
            if order.id in self._orders and self.order(order.id).status in LIVE:
                if self.cancels == "fill":
                    self.fill(order.id)
                else:
                    ended = self.cancels == "at once"
                    self.end(order.id, *([] if ended else [OrderStatus.CANCEL_QUEUED]))

    # What the test does to it.

    def order(self, identity):
        return self._orders[identity][-1][1]

    def live(self, symbol=BTC):
        """Orders that may still fill, oldest first."""
        orders = [states[-1][1] for states in self._orders.values()]
        return [o for o in orders if o.status in LIVE and o.symbol == symbol]

    def held(self, symbol=BTC, at=None):
        return sum((f.side.sign * f.quantity for f in self._fills
                    if f.symbol == symbol and (at is None or f.at <= at)), Decimal(0))

    def fill(self, identity, quantity=None, price=None):
        """Fill an order, all of it unless said, at the mark unless said."""
        order = self.order(identity)
        quantity = order.remaining if quantity is None else Decimal(quantity)
        price = Decimal(price or order.intent.stop_price or self.prices[order.symbol] or 0)
        filled = order.filled_quantity + quantity
        self._fills.append(Fill(f"{identity}:{filled}", identity, order.symbol, order.side,
                                quantity, price, quantity * price / 1000, self.now))
        status = OrderStatus.FILLED if filled == order.quantity else order.status
        self._set(replace(order, filled_quantity=filled, average_price=price, status=status))
        if order.intent.attached_stop_price is not None:
            self._attach(order, quantity, filled)

    def trade_by_hand(self, quantity, symbol=BTC):
        """What the owner does in the venue's app; the bot cannot explain it."""
        quantity = Decimal(quantity)
        side = Side.BUY if quantity > 0 else Side.SELL
        self._fills.append(Fill(f"hand-{len(self._fills)}", "", symbol, side, abs(quantity),
                                self.prices[symbol], Decimal(0), self.now))

    def end(self, identity, status=OrderStatus.CANCELLED):
        self._set(replace(self.order(identity), status=status))

    def finish_cancels(self):
        for states in tuple(self._orders.values()):
            if states[-1][1].status is OrderStatus.CANCEL_QUEUED:
                self.end(states[-1][1].id)

    def _set(self, order):
        self._orders.setdefault(order.id, []).append((self.now, order))

    def _attach(self, entry, quantity, filled):
        """The bracket that came with an entry rests on what was filled of it."""
        intent = OrderIntent(
            entry.symbol, entry.side.opposite, quantity, OrderType.BRACKET, Purpose.STOP,
            entry.intent.limit_price * (1 + entry.side.sign * Decimal("0.2")),
            entry.intent.attached_stop_price, TimeInForce.GTC,
        )
        identity = f"child-{entry.id}-{filled}"
        self._set(Order(identity, intent, self.now, OrderStatus.OPEN, f"v-{identity}",
                        originating_order_id=entry.venue_order_id))

    def _answer(self, name):
        if name in self.down:
            raise VenueUnavailable(f"{name}: the line is dead")

    def _refuse(self, order):
        """As Coinbase does: a bracket cannot exceed the position; a stop-limit can."""
        intent, price = order.intent, self.prices[order.symbol]
        if intent.order_type in STOPS and price:
            if (intent.stop_price - price) * order.side.sign <= 0:
                above = "ABOVE" if order.side is Side.SELL else "BELOW"
                code = f"PREVIEW_STOP_PRICE_{above}_LAST_TRADE_PRICE"
                raise OrderRejected(code, f"{code}: {intent.stop_price} against {price}")
        if intent.order_type is OrderType.BRACKET:
            reserved = sum(o.remaining for o in self.live(order.symbol)
                           if o.intent.order_type in STOPS)
            if intent.quantity + reserved > abs(self.held(order.symbol)):
                code = "PREVIEW_BRACKET_ORDER_SIZE_EXCEEDS_POSITION"
                raise OrderRejected(code, f"{code}: {intent.quantity}")

    def _count(self, order):
        reducing = sum(o.remaining for o in self.live(order.symbol)
                       if o.side is order.side and o.purpose is not Purpose.ENTRY)
        held = max(-order.side.sign * self.held(order.symbol), Decimal(0))
        if reducing > held:
            self.overcommitted.append((order.id, reducing, held))


class Desk:
    """An engine with everything that it needs, over one venue, and its own clock."""

    def __init__(self, venue=None, folder=None, now=NOON, limits=NO_LIMITS, **config):
        self.venue = venue or ScriptedVenue()
        self.folder, self.now, self._limits, self._config = folder, now, limits, config
        self.store = EventStore(folder, now)
        self.tracker = PositionTracker(self.store)
        self.risk = LiveRiskManager(limits, self.store)
        self.catalog = ProductCatalog()
        self.catalog.load_from_brokerage(self.venue)
        self.engine = ExecutionEngine(ExecutionConfig(**config), self.store, self.venue,
                                      self.catalog, self.risk, self.tracker)
        self.events, self.trail_to = [], {}
        self.store.subscribe(self.events.append)
        if not self.store.recover().events:
            self.store.open_day(now.date(), {}, equity=self.venue.start)
        self.engine.recover()

    def restart(self, **config):
        """A new process over the same files and the same venue."""
        self.store.close()
        return Desk(self.venue, self.folder, self.now, self._limits, **{**self._config, **config})

    def tick(self, seconds=5):
        """What the loop does around the engine, without a strategy."""
        self.now += timedelta(seconds=seconds)
        self.store.now = self.venue.now = self.now
        self.engine.see(self.venue.marks(self.venue.prices, self.now))
        self.engine.settle()
        for symbol in self.venue.prices:
            self.engine.work(symbol, self.trail_to.get(symbol))

    def price(self, price, symbol=BTC):
        self.venue.prices[symbol] = price and Decimal(price)

    def hold(self, quantity="1", symbol=BTC, stop="99"):
        """Open a position at the mark, with its stop."""
        side = Side.BUY if Decimal(quantity) > 0 else Side.SELL
        self.trail_to[symbol] = stop and Decimal(stop)
        self.tick(0)
        self.engine.enter(symbol, side, abs(Decimal(quantity)), "a cross")
        self.engine.work(symbol, self.trail_to[symbol])
        return self

    def of(self, *types):
        return [event for event in self.events if event.type in types]

    def held(self, symbol=BTC):
        return self.tracker.get_position(symbol).quantity

    def stops(self, symbol=BTC):
        """The venue's live stops in words: `sell 1 at 99`."""
        return [f"{o.side} {plain(o.remaining)} at {plain(o.intent.stop_price)}"
                for o in self.venue.live(symbol) if o.purpose is Purpose.STOP]


def verified(folder):
    """Every event of a folder, read without any help of the store; it raises at any fault."""
    events, crc = [], 0
    for path in sorted(Path(folder).glob("????-??-??.jsonl")):
        for line in path.read_bytes().splitlines(keepends=True):
            found = re.fullmatch(rb'(\{"seq":.*),"crc":"([0-9a-f]{8})"\}\n', line)
            assert found, f"{path}: {line[:80]!r} is no line of ours"
            crc = zlib.crc32(found[1], crc)
            assert int(found[2], 16) == crc, f"{path}: the chain breaks at {line[:80]!r}"
            events.append(json.loads(line))
    assert [event["seq"] for event in events] == list(range(1, len(events) + 1))
    return events


def plain(number):
    """`99`, whether it came as 99.0 or as 99."""
    return f"{number.normalize():f}"


def repeated(values):
    return [value for value, count in Counter(values).items() if count > 1]
