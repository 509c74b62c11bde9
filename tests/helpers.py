"""What the tests of execution and loop share: a venue that does as it is told, and a desk."""

import json
import random
import re
import zlib
from collections import Counter, deque
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

from perps_bot.catalog import ProductCatalog
from perps_bot.errors import OrderRejected, OutcomeUnknown, VenueUnavailable
from perps_bot.execution import ExecutionConfig, ExecutionEngine
from perps_bot.bot import assemble, recover
from perps_bot.loop import attempt, run
from perps_bot.model import (
    Candle,
    Fill,
    FundingRate,
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
from perps_bot.ops import Surfaces
from perps_bot.protection import Protector
from perps_bot.risk import LiveRiskManager, RiskConfig
from perps_bot.settings import resolve
from perps_bot.store import EventStore
from perps_bot.tracker import PositionTracker
from words import replace

NOON = datetime(2025, 5, 1, 12, tzinfo=UTC)
BTC, ETH = "BTC-PERP", "ETH-PERP"
LIVE = (OrderStatus.OPEN, OrderStatus.CANCEL_QUEUED)
STOPS = (OrderType.STOP_LIMIT, OrderType.BRACKET)
# Limits that stand in nobody's way.
NO_LIMITS = RiskConfig(max_position_pct_per_symbol=1, max_exposure_pct=1, max_mark_move_pct=1)


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

    revision = None

    def __init__(self, *symbols, equity="100000"):
        self._products = [a_product(symbol) for symbol in symbols or (BTC,)]
        self.start, self.observes, self.the_margin = Decimal(equity), "", None
        self.now = NOON
        self.prices = {product.symbol: Decimal(100) for product in self._products}
        self.answers, self.down, self.history = deque(), set(), {}
        self.listing_lag = self.fill_lag = self.position_lag = 0
        self.cancels, self.candle_seconds = "at once", 60
        self.calls = []
        self.sent, self.cancelled, self.overcommitted, self.payments = [], [], [], []
        self.watch = lambda order: None
        self._orders, self._fills = {}, []

    # MarketData

    def connect(self, traded=()):
        self.traded_before = list(traded)
        self._answer("connect")
        return self.observes

    def products(self):
        self._answer("products")
        return list(self._products)

    def marks(self, symbols, now):
        self._answer("marks")
        self.now = now
        return {s: Mark(s, p, p, p, now) for s, p in self.prices.items() if s in symbols and p}

    def candles(self, symbol, seconds, count, now):
        """`history` holds closes by symbol; each call finds them just before `now`."""
        self._answer("candles")
        length, closes = timedelta(seconds=seconds), self.history.get(symbol, ())
        if seconds != self.candle_seconds:
            return ()
        end = now - (now - datetime(1970, 1, 1, tzinfo=UTC)) % length
        starts = [end - (len(closes) - n) * length for n in range(len(closes))]
        return [Candle(at, *[Decimal(close)] * 4) for at, close in zip(starts, closes)][-count:]

    def funding(self, symbol, now):
        return None

    # Broker

    def equity(self):
        self._answer("equity")
        flow = sum((-f.side.sign * f.quantity * f.price - f.fee for f in self._fills), Decimal(0))
        held = sum((self.held(s) * self.prices[s] for s in self.prices if self.prices[s]),
                   Decimal(0))
        return self.start + flow + held - sum((p.amount for p in self.payments), Decimal(0))

    def margin(self):
        return self.the_margin

    def positions(self):
        self._answer("positions")
        seen = self.now - timedelta(seconds=self.position_lag)
        held = {s: self.held(s, seen) for s in self.prices}
        return {s: Position(s, q, Decimal(100), self.prices[s]) for s, q in held.items() if q}

    def orders(self, since, known=()):
        self._answer("orders")
        seen, named = self.now - timedelta(seconds=self.listing_lag), {order.id for order in known}
        told = [[order for at, order in states if at <= seen] for states in self._orders.values()]
        return [states[-1] for states in told
                if states and (states[-1].created_at >= since or states[-1].status in LIVE
                               or states[-1].id in named)]

    def fills(self, since):
        self._answer("fills")
        seen = self.now - timedelta(seconds=self.fill_lag)
        return [fill for fill in self._fills if since <= fill.at <= seen]

    def funding_payments(self, since):
        self._answer("funding_payments")
        return [p for p in self.payments if since <= p.at <= self.now]

    def place(self, order, now):
        self.calls.append(f"{order.purpose} {order.symbol}")
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
        self.calls.append(name)
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
        self.protector = Protector(self.engine)
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
            self.protector.work(symbol, self.trail_to.get(symbol))

    def price(self, price, symbol=BTC):
        self.venue.prices[symbol] = price and Decimal(price)

    def hold(self, quantity="1", symbol=BTC, stop="99"):
        """Open a position at the mark, with its stop."""
        side = Side.BUY if Decimal(quantity) > 0 else Side.SELL
        self.trail_to[symbol] = stop and Decimal(stop)
        self.tick(0)
        self.engine.enter(symbol, side, abs(Decimal(quantity)), "a cross")
        self.protector.work(symbol, self.trail_to[symbol])
        return self

    def of(self, *types):
        return [event for event in self.events if event.type in types]

    def held(self, symbol=BTC):
        return self.tracker.get_position(symbol).quantity

    def stops(self, symbol=BTC):
        """The venue's live stops in words: `sell 1 at 99`."""
        return [f"{o.side} {plain(o.remaining)} at {plain(o.intent.stop_price)}"
                for o in self.venue.live(symbol) if o.purpose is Purpose.STOP]


class WildMarket:
    """Prices that jump, books that are thin: the seed and the second decide everything."""

    def __init__(self, seed, *symbols, begin=NOON - timedelta(minutes=10), seconds=9000):
        self._products = [a_product(symbol) for symbol in symbols or (BTC, ETH)]
        self._begin, self._seconds = begin, seconds
        self._paths = {p.symbol: self._path(f"{seed} {p.symbol}") for p in self._products}

    def connect(self, traded=()):
        return ""

    def products(self):
        return list(self._products)

    def marks(self, symbols, now):
        return {s: self._mark(s, now) for s in symbols if s in self._paths}

    def candles(self, symbol, seconds, count, now):
        length, newest = timedelta(seconds=seconds), self._second(now) // seconds * seconds
        starts = [n for n in range(newest - count * seconds, newest, seconds) if n >= 0]
        prices = [[self._paths[symbol][n][0] for n in range(a, a + seconds + 1)] for a in starts]
        return [Candle(self._begin + a // seconds * length, p[0], max(p), min(p), p[-1])
                for a, p in zip(starts, prices)]

    def funding(self, symbol, now):
        at = now.replace(minute=0, second=0, microsecond=0)
        return FundingRate(symbol, Decimal("0.0003"), at)

    def _path(self, seed):
        dice, price, path = random.Random(seed), 200, []
        for _ in range(self._seconds):
            step = dice.choice([3, 1, 1, 0, 0, 0, -1, -1, -3]) * (1 if dice.random() < 0.9 else 4)
            price = min(max(price + step, 100), 400)
            path.append((Decimal(price) / 2, *(dice.randint(1, 200) for _ in range(2))))
        return path

    def _second(self, now):
        return (now - self._begin) // timedelta(seconds=1)

    def _mark(self, symbol, now):
        price, bid_size, ask_size = self._paths[symbol][self._second(now)]
        half = Decimal("0.5")
        return Mark(symbol, price, price - half, price + half, now, bid_size * half / 5,
                    ask_size * half / 5)


RISING, FALLING = [80 + n for n in range(24)], [124 - n for n in range(24)]


class VirtualClock:
    """Time that passes only by waiting.

    signals  by the number of the wait in which they come, counted from 1
    """

    def __init__(self, now=NOON, ticks=1000, signals=None, on_wait=lambda number: None):
        self._now, self.ticks, self.waits = now, ticks, 0
        self.signals, self._on_wait = signals or {}, on_wait

    def now(self):
        return self._now

    def wait(self, seconds):
        self.waits += 1
        self._now += timedelta(milliseconds=int(seconds * 1000))
        self._on_wait(self.waits)
        return self.signals.get(self.waits)

    def heed(self):
        pass

    def is_over(self):
        return self.waits >= self.ticks


def the_settings(profile="dev", symbols=(BTC,), environ=None, **changes):
    flags = {"profile": profile, "symbols": list(symbols)}
    return resolve(flags, environ or {}).replace(**changes)


class Rig:
    """A bot over a venue, and the processes that it lives through."""

    def __init__(self, venue=None, folder=None, now=NOON, **settings):
        self.venue = venue or ScriptedVenue()
        self.folder, self.now = folder, now
        self.settings = the_settings(**{"enter_on_start": True, **settings})
        self.said = []
        self.start()

    def start(self, **settings):
        """A new process over the same files."""
        self.settings = self.settings.replace(**settings)
        store = EventStore(self.folder and self.folder / "events")
        self.bot = assemble(self.settings, self.venue, store, "scripted", self.folder)
        self.events = []
        store.subscribe(self.events.append)
        if self.folder:
            self.bot.surfaces = Surfaces(self.folder, self.said.append)
            store.subscribe(self.bot.surfaces.apply)
        recover(self.bot)
        return self

    def restart(self, **settings):
        self.bot.store.close()
        return self.start(**settings)

    def tick(self, seconds=5):
        """One tick, as `run` does it; whether it could be finished."""
        self.now += timedelta(seconds=seconds)
        self.venue.now = self.now
        attempt(self.bot, SimpleNamespace(now=lambda: self.now))
        done = not self.bot.trouble
        if self.bot.surfaces:
            self.bot.surfaces.publish(self.bot, self.now)
        return done

    def run(self, cycles=None, **clock):
        """`run` until a signal or the clock's end; its exit code."""
        clock = VirtualClock(self.now, **clock)
        code = run(self.bot, clock, cycles)
        self.now = clock.now()
        return code

    def of(self, *types):
        return [event for event in self.events if event.type in types]

    def file(self, name):
        return json.loads((self.folder / name).read_text())

    def held(self, symbol=BTC):
        return self.bot.tracker.get_position(symbol).quantity


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


def rechained(path, old, new):
    """A whole file with one word exchanged and the chain made right again."""
    lines, crc, out = path.read_bytes().splitlines(keepends=True), None, []
    for line in lines:
        chain = int(json.loads(line)["chain"], 16) if crc is None else crc
        body = line[:line.rindex(b',"crc"')].replace(old, new)
        crc = zlib.crc32(body, chain)
        out.append(body + b',"crc":"%08x"}\n' % crc)
    path.write_bytes(b"".join(out))


def plain(number):
    """`99`, whether it came as 99.0 or as 99."""
    return f"{number.normalize():f}"


def repeated(values):
    return [value for value, count in Counter(values).items() if count > 1]
