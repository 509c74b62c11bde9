"""Ticks: what does one cost, in this process, and does it stay so?

The venue is instant (its answers are there before they are asked for), so that what is measured
is the bot; only the order's path runs against the exchange process, with a disk that turns.
"""

import json
import logging
import os
from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from decimal import Decimal
from math import inf
from socket import IPPROTO_TCP, TCP_NODELAY, create_connection, create_server
from statistics import median
from threading import Event, current_thread
from time import perf_counter, process_time
from types import SimpleNamespace

import websocket
import ws_server
from bench.inputs import Missing
from exchange.harness import wait_until
from helpers import BTC, NOON, Rig, ScriptedVenue, a_product
from live import ETH, IDS, SOL, XRP, LiveRig, at_once
from recorded_day import RECORDED, WARM_UP, Played, played, recorded

from perps_bot import feed as feed_room
from perps_bot import store as disk
from perps_bot import transport, wire
from perps_bot.feed import MarkFeed
from perps_bot.loop import attempt
TICKS, WARM_TICKS = 2_000, 200
MINUTE, IDLE_INTERVAL = timedelta(minutes=1), timedelta(seconds=5)
ENTRY = b"POST /api/v3/brokerage/orders HTTP", b"market_market_ioc"  # no stop, which is a bracket


def milliseconds_each(step, rounds, count=TICKS):
    """Processor time of one call: the median round of so many."""
    for _ in range(WARM_TICKS):
        step()
    took = []
    for _ in range(rounds):
        begun = process_time()
        for _ in range(count):
            step()
        took.append((process_time() - begun) * 1000 / count)
    return median(took)


class InstantVenue(ScriptedVenue):
    """Flat, and nothing ever happens."""

    def __init__(self, *symbols):
        super().__init__(*symbols)
        self.history = {symbol: [100] * 30 for symbol in symbols}
        self.the_marks = super().marks(symbols, NOON)
        self.the_equity = super().equity()

    def marks(self, symbols, now):
        return self.the_marks

    def equity(self):
        return self.the_equity

    def positions(self):
        return {}

    def orders(self, since, known=()):
        return ()

    fills = funding_payments = orders


def idle_desk(count):
    """A bot in `count` symbols whose tick finds nothing new."""
    symbols = [f"T{number}-PERP" for number in range(count)]
    rig = Rig(InstantVenue(*symbols), symbols=symbols, enter_on_start=False)
    return SimpleNamespace(tick=lambda: rig.tick(0))


def frames():
    """Ticker messages as the venue sends them, framed; each price is another."""
    at, number = NOON.isoformat().replace("+00:00", "Z"), 0
    while True:
        number += 1
        bid = 60000 + number % 7 * 5
        yield ws_server.frame(json.dumps({
            "channel": "ticker", "client_id": "", "timestamp": at, "sequence_num": number,
            "events": [{"type": "snapshot" if number == 1 else "update", "tickers": [{
                "type": "ticker", "product_id": IDS[BTC], "price": f"{bid}", "best_bid": f"{bid}",
                "best_bid_quantity": "50", "best_ask": f"{bid + 5}", "best_ask_quantity": "50",
                "volume_24_h": "12345.67", "low_24_h": "59000", "high_24_h": "61000",
                "low_52_w": "0", "high_52_w": "0", "price_percent_chg_24_h": "1.2345"}]}],
        }).encode())


class HoldDesk:
    """A frame comes by a socket; the feed's own reading of it; a whole tick, which holds."""

    def __init__(self):
        venue = InstantVenue(BTC)
        venue._products = [product] = [replace(a_product(BTC, tick="5"), product_id=IDS[BTC])]
        self.rig = Rig(venue, symbols=[BTC], enter_on_start=False)
        self.feed = MarkFeed("ws://127.0.0.1:9", "ws://127.0.0.1:9", None, lambda: NOON,
                             lambda: None)
        self.feed._want([product])
        self.market = self.feed._market
        self.market._sequence, self.market._is_whole = None, True
        self.rig.now, self.frames = NOON, frames()
        self.theirs, ours = _pair()
        line = feed_room._Line(ours, Event())
        line.recv, line.allowance, line.patient_until = line.read_ahead, inf, inf
        self.client = _listening(line, line)

    def step(self):
        self.theirs.send(next(self.frames))
        _, frame = self.client.recv_data_frame()
        self.market._hear(wire.decoded(frame.data))
        self.rig.venue.the_marks = self.feed.marks((BTC,))
        self.rig.tick(0)
        assert self.rig.bot.last_decisions[BTC] == "hold", self.rig.bot.trouble


def _pair():
    """Both ends of a connection on loopback."""
    with create_server(("127.0.0.1", 0)) as listener:
        ours = create_connection(listener.getsockname())
        theirs, _ = listener.accept()
    theirs.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
    return theirs, ours


def _listening(sock, buffer=None):
    """The library's end of a WebSocket that is open."""
    client = websocket.WebSocket(skip_utf8_validation=True)
    client.sock, client.connected = sock, True
    client.frame_buffer = buffer or client.frame_buffer
    return client


class PlainHold:
    """The same chain in straight lines, with every check that a hold rests on, and no object.

    The frame by the same library; its number, form, age and jump; the mark; equity, the day's
    loss, drawdown, margin and exposure against their limits; the bar's end, the averages and the
    stop; what an entry would be, and its three limits.
    """

    def __init__(self):
        self.theirs, ours = _pair()
        self.client, self.frames = _listening(ours), frames()
        self.short, self.long = deque(maxlen=5), deque(maxlen=20)
        self.sums, self.cash = [Decimal(0), Decimal(0)], Decimal(100000)
        self.sequence, self.last, self.peak = 0, None, self.cash
        self.quantity, self.entry, self.stop = Decimal(0), Decimal(0), None
        self.bar_ends = NOON + timedelta(hours=1)

    def step(self):
        self.theirs.send(next(self.frames))
        _, frame = self.client.recv_data_frame()
        message = json.loads(frame.data.decode("utf-8"), object_pairs_hook=_once)
        row = message["events"][0]["tickers"][0]
        assert row["product_id"] == IDS[BTC] and message["channel"] == "ticker"
        assert message["sequence_num"] == self.sequence + 1
        self.sequence += 1
        bid, ask = Decimal(row["best_bid"]), Decimal(row["best_ask"])
        sizes = Decimal(row["best_bid_quantity"]), Decimal(row["best_ask_quantity"])
        at = datetime.fromisoformat(message["timestamp"])
        assert 0 < bid < ask and min(sizes) > 0 and abs(NOON - at) < timedelta(seconds=5)
        mark = (bid + ask) / 2
        assert self.last is None or abs(mark - self.last) <= self.last * Decimal("0.05")
        self.last = mark
        equity = self.cash + (mark - self.entry) * self.quantity
        self.peak = max(self.peak, equity)
        loss, drawdown = self.cash - equity, 1 - equity / self.peak
        exposure = abs(self.quantity) * mark / equity
        sound = loss < self.cash * Decimal("0.05") and drawdown < 1 and exposure < Decimal("0.8")
        if NOON >= self.bar_ends or len(self.long) < 20:
            for place, window in enumerate((self.short, self.long)):
                if len(window) == window.maxlen:
                    self.sums[place] -= window[0]
                window.append(mark)
                self.sums[place] += mark
        is_stopped = self.stop is not None and mark <= self.stop
        crossed = self.sums[0] * 20 > self.sums[1] * 5
        notional = (equity / 5 / mark).quantize(Decimal("0.01")) * mark
        fits = notional < equity and notional < 50000 and notional * 5 < equity
        return "hold" if sound and not is_stopped and not (crossed and fits) else "act"


def _once(pairs):
    found = dict(pairs)
    assert len(found) == len(pairs)
    return found


class LiveIdle:
    """A prod bot in four symbols against the exchange process, flat, with the feed's quotes.

    Whatever it reads counts, and the files that it leaves; the feed's thread and the transport's.
    """

    PRICES = dict(zip((BTC, ETH, SOL, XRP), ("60000", "2500", "150", "2"), strict=True))

    def __init__(self, folder):
        at_once(SimpleNamespace(setattr=setattr))
        self.rig = LiveRig(folder, with_feed=True, symbols=tuple(self.PRICES),
                           enter_on_start=False)
        for symbol, price in self.PRICES.items():
            self.rig.history([price] * 60, symbol)
            self.rig.price(price, symbol)
        self.rig.start()
        self.rig.tick()

    def minute(self):
        """Processor seconds of a tick, and of its files: means of a minute's, at every 5 s.

        Not one tick's: what is read less often than at each is in it as often as it comes.
        """
        count = MINUTE // IDLE_INTERVAL
        ticks, files = zip(*(self.step() for _ in range(count)), strict=True)
        return sum(ticks) / count, sum(files) / count

    def step(self):
        rig = self.rig
        rig.now += IDLE_INTERVAL
        rig.sim.advance(rig.now)
        for symbol, price in self.PRICES.items():
            rig.price(price, symbol)
        wait_until(Played(rig)._is_heard, "the newest quotes")
        begun = process_time()
        attempt(rig.bot, SimpleNamespace(now=lambda: rig.now))
        ticked = process_time()
        rig.bot.publish(rig.now)
        assert not rig.bot.trouble, rig.bot.trouble
        return ticked - begun, process_time() - ticked


@dataclass
class OrderPath:
    """Seconds: of each frame from its arrival to its slot, of each entry from its tick's begin to
    its first byte without the reads, of those reads, of the disk's turn within it, and of the
    parts, each as often as an entry.
    """

    frames: list = field(default_factory=list)
    ticks: list = field(default_factory=list)
    reads: list = field(default_factory=list)
    syncs: list = field(default_factory=list)
    parts: dict = field(default_factory=dict)


def order_path(folder, hours=4):
    """Play hours of the recorded day against the exchange and time every entry."""
    if not RECORDED.exists():
        raise Missing(f"{RECORDED.name} is not in ../shared/data")
    at_once(SimpleNamespace(setattr=setattr))
    begin = next(recorded(NOON.replace(2025, 5, 12, 0), NOON.replace(2026)))[0]
    with a_diary(folder), LiveRig(
            folder, now=begin, with_feed=True, enable_shorts=True,
            trailing_stop_pct=Decimal("0.005"), max_daily_loss_pct=Decimal(1)) as rig:
        closes = [row[-1] for row in recorded(begin - WARM_UP, begin)]
        rig.history(closes)
        rig.price(closes[-1])
        end = begin + timedelta(hours=hours)
        rig.sim.call("path", product_id=IDS[BTC], rows=list(played(recorded(begin, end))))
        clocks = _Stopwatch(rig, folder)
        try:
            rig.start()
            rig.bot.surfaces.is_live = True  # what a run writes into its log, it writes here
            clocks.watch()
            Played(rig).play(end)
        finally:
            clocks.stop()
    return clocks.found


@contextmanager
def a_diary(folder):
    """The log of a run, without the terminal's copy."""
    log = logging.getLogger("perps_bot")
    before, log.propagate, log.handlers = (log.handlers, log.propagate, log.level), False, [
        logging.FileHandler(folder / "perps_bot.log")]
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.handlers, log.propagate, log.level = before


class _Stopwatch:
    """Notes the times of one bot; after each entry, each part once, as warm as that left it."""

    def __init__(self, rig, folder):
        self.rig, self.found, self._tick = rig, OrderPath(), rig.tick
        self._began, self._reading, self._arrived, self._head = None, 0, 0, (0, b"")
        self._real, self._sync = (transport._connected, feed_room.wire.decoded, disk._fsync), 0
        transport._connected = lambda origin: _Noted(self._real[0](origin), self._sent)
        feed_room.wire.decoded, disk._fsync = self._decoded, self._synced
        self._parts = _Parts(folder)

    def stop(self):
        transport._connected, feed_room.wire.decoded, disk._fsync = self._real
        self._parts.close()

    def watch(self):
        """Begin with the bot that was started."""
        client, market = self.rig.client, self.rig.feed._market
        for name in ("equity", "positions", "orders", "fills"):
            setattr(client, name, self._as_read(getattr(client, name)))
        take = market._take

        def timed_take(events, message):
            take(events, message)
            self.found.frames.append(perf_counter() - self._arrived)

        market._take, self.rig.tick = timed_take, self._timed_tick

    def _as_read(self, ask):
        def timed(*arguments):
            begun = perf_counter()
            try:
                return ask(*arguments)
            finally:
                self._reading += perf_counter() - begun

        return timed

    def _timed_tick(self, seconds=5):
        before, self._reading, self._began = len(self.found.ticks), 0, perf_counter()
        try:
            return self._tick(seconds)
        finally:
            self._began = None
            if len(self.found.ticks) > before:
                self._parts.measure(self.found.parts, self.rig)

    def _decoded(self, body):
        if current_thread().name == "feed-market":
            self._arrived = perf_counter()
        return self._real[1](body)

    def _synced(self, target):
        begun = perf_counter()
        self._real[2](target)
        self._sync = perf_counter() - begun

    def _sent(self, data):
        """The head of a request goes out before its body, which says what it is."""
        if data.startswith((b"GET", b"POST")):
            self._head = perf_counter(), data
            return
        first_byte, head = self._head
        if self._began is not None and all(part in head + data for part in ENTRY):
            self.found.ticks.append(first_byte - self._began - self._reading)
            self.found.reads.append(self._reading)
            self.found.syncs.append(self._sync)
        self._began = None  # what follows a cancel or a close is another path


class _Noted:
    """A socket that says what it has sent."""

    def __init__(self, link, sent):
        self._link, self._sent = link, sent

    def __getattr__(self, name):
        return getattr(self._link, name)

    def sendall(self, data):
        self._link.sendall(data)
        self._sent(data)


class _Parts:
    """What no order can do without, in straight lines: parse, append durably, sign, write."""

    def __init__(self, folder):
        self._frames, self._file = frames(), os.open(folder / "parts", os.O_CREAT | os.O_WRONLY)
        self._out, self._in = _pair()
        self._order = dict(client_order_id="pb-0-000001", symbol=BTC, side="buy", quantity="1",
                           order_type="market", purpose="entry", mark_price="60000")

    def measure(self, parts, rig):
        frame, body = next(self._frames)[4:], json.dumps(self._order).encode()
        for name, part in (
            ("parse", lambda: json.loads(frame)),
            ("append", lambda: (os.write(self._file, json.dumps(self._order).encode() + b"\n"),
                                os.fsync(self._file))),
            ("sign", lambda: rig.rest.signer.rest_token(
                "POST", "127.0.0.1", "/api/v3/brokerage/orders", rig.now)),
            ("write", lambda: self._out.sendall(body)),
        ):
            begun = perf_counter()
            part()
            parts.setdefault(name, []).append(perf_counter() - begun)
        self._in.recv(len(body))

    def close(self):
        os.close(self._file)
        self._out.close()
        self._in.close()
