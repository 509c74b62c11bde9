"""Ticks: what does one cost, in this process, and does it stay so?

The venue is instant (its answers are there before they are asked for), so that what is measured
is the bot; only the order's path runs against the exchange process, with a disk that turns.
"""

import gc
import json
import os
from collections import deque
from dataclasses import dataclass, field, replace
from datetime import timedelta
from decimal import Decimal
from socket import create_connection, create_server
from statistics import median
from threading import current_thread
from time import perf_counter, process_time
from types import SimpleNamespace

from bench.inputs import Missing
from bench.jobs import memory_mib
from helpers import BTC, NOON, Rig, ScriptedVenue, a_product
from live import IDS, LiveRig, at_once
from recorded_day import RECORDED, WARM_UP, Played, played, recorded

from perps_bot import feed as feed_room
from perps_bot import transport, wire
from perps_bot.feed import MarkFeed
from perps_bot.market import SyntheticMarket
from perps_bot.paper import PaperBroker

TICKS, WARM_TICKS = 2_000, 200
FIFTHS = 5
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

    def orders(self, since):
        return ()

    fills = funding_payments = orders


def idle_desk(count):
    """A bot in `count` symbols whose tick finds nothing new."""
    symbols = [f"T{number}-PERP" for number in range(count)]
    rig = Rig(InstantVenue(*symbols), symbols=symbols, enter_on_start=False)
    return SimpleNamespace(tick=lambda: rig.tick(0))


def frames():
    """Ticker messages as the venue sends them; each price is another."""
    at, number = NOON.isoformat().replace("+00:00", "Z"), 0
    while True:
        number += 1
        bid = 60000 + number % 7 * 5
        yield json.dumps({
            "channel": "ticker", "client_id": "", "timestamp": at, "sequence_num": number,
            "events": [{"type": "snapshot" if number == 1 else "update", "tickers": [{
                "type": "ticker", "product_id": IDS[BTC], "price": f"{bid}", "best_bid": f"{bid}",
                "best_bid_quantity": "50", "best_ask": f"{bid + 5}", "best_ask_quantity": "50",
                "volume_24_h": "12345.67", "low_24_h": "59000", "high_24_h": "61000",
                "low_52_w": "0", "high_52_w": "0", "price_percent_chg_24_h": "1.2345"}]}],
        }).encode()


class HoldDesk:
    """The feed's own reading of a frame, then a whole tick, which decides to hold."""

    def __init__(self):
        venue = InstantVenue(BTC)
        venue._products = [product] = [replace(a_product(BTC, tick="5"), product_id=IDS[BTC])]
        self.rig = Rig(venue, symbols=[BTC], enter_on_start=False)
        self.feed = MarkFeed("ws://127.0.0.1:9", "ws://127.0.0.1:9", None, lambda: NOON,
                             lambda: None)
        self.feed._want([product])
        line = self.feed._market
        line._sequence, line._is_whole = None, True
        self.rig.now, self.frames = NOON, frames()

    def step(self):
        self.feed._market._hear(wire.decoded(next(self.frames)))
        self.rig.venue.the_marks = self.feed.marks((BTC,))
        self.rig.tick(0)
        assert self.rig.bot.last_decisions[BTC] == "hold", self.rig.bot.trouble


class PlainHold:
    """The same chain in straight lines: parse, value, average, size, three limits."""

    def __init__(self):
        self.frames = frames()
        self.short, self.long = deque(maxlen=5), deque(maxlen=20)
        self.sums, self.equity = [Decimal(0), Decimal(0)], Decimal(100000)

    def step(self):
        row = json.loads(next(self.frames))["events"][0]["tickers"][0]
        bid, ask = Decimal(row["best_bid"]), Decimal(row["best_ask"])
        mark = (bid + ask) / 2
        for place, window in enumerate((self.short, self.long)):
            if len(window) == window.maxlen:
                self.sums[place] -= window[0]
            window.append(mark)
            self.sums[place] += mark
        crossed = self.sums[0] * 20 > self.sums[1] * 5
        size = (self.equity / 5 / mark).quantize(Decimal("0.01"))
        notional = size * mark
        fits = notional < self.equity and notional < 50000 and notional * 5 < self.equity
        return "hold" if not crossed or fits else "enter"


@dataclass
class OrderPath:
    """Seconds: of each frame from its arrival to its slot, of each entry from its tick's begin to
    its first byte without the reads, of those reads, and of the parts, each as often as an entry.
    """

    frames: list = field(default_factory=list)
    ticks: list = field(default_factory=list)
    reads: list = field(default_factory=list)
    parts: dict = field(default_factory=dict)


def order_path(folder, hours=4):
    """Play hours of the recorded day against the exchange and time every entry."""
    if not RECORDED.exists():
        raise Missing(f"{RECORDED.name} is not in ../shared/data")
    at_once(SimpleNamespace(setattr=setattr))
    begin = next(recorded(NOON.replace(2025, 5, 12, 0), NOON.replace(2026)))[0]
    with LiveRig(folder, now=begin, with_feed=True, enable_shorts=True,
                 trailing_stop_pct=Decimal("0.005"), max_daily_loss_pct=Decimal(1)) as rig:
        closes = [row[-1] for row in recorded(begin - WARM_UP, begin)]
        rig.history(closes)
        rig.price(closes[-1])
        end = begin + timedelta(hours=hours)
        rig.sim.call("path", product_id=IDS[BTC], rows=list(played(recorded(begin, end))))
        clocks = _Stopwatch(rig, folder)
        try:
            rig.start()
            clocks.watch()
            Played(rig).play(end)
        finally:
            clocks.stop()
    return clocks.found


class _Stopwatch:
    """Notes the times of one bot; after each entry, each part once, as warm as that left it."""

    def __init__(self, rig, folder):
        self.rig, self.found, self._tick = rig, OrderPath(), rig.tick
        self._began, self._reading, self._arrived = None, 0, 0
        self._real = transport._connected, feed_room.wire.decoded
        transport._connected = lambda origin: _Noted(self._real[0](origin), self._sent)
        feed_room.wire.decoded = self._decoded
        self._parts = _Parts(folder)

    def stop(self):
        transport._connected, feed_room.wire.decoded = self._real
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

    def _sent(self, data):
        now = perf_counter()
        if self._began is not None and all(part in data for part in ENTRY):
            self.found.ticks.append(now - self._began - self._reading)
            self.found.reads.append(self._reading)
        if data.startswith(b"POST"):
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
        listener = create_server(("127.0.0.1", 0))
        self._out = create_connection(listener.getsockname())
        self._in, _ = listener.accept()
        listener.close()
        self._order = dict(client_order_id="pb-0-000001", symbol=BTC, side="buy", quantity="1",
                           order_type="market", purpose="entry", mark_price="60000")

    def measure(self, parts, rig):
        frame, body = next(self._frames), json.dumps(self._order).encode()
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


@dataclass
class LongRun:
    """Seconds a tick, early and late; memory and open files that were added in between."""

    first: float
    last: float
    grown_mib: float
    opened: int


def long_run(folder, count):
    """A dev bot over so many ticks of five seconds, with its files."""
    (folder / "bot").mkdir()
    rig = Rig(PaperBroker(SyntheticMarket()), folder=folder / "bot", bar=60)
    share, took, at = count // FIFTHS, [], None
    for part in range(FIFTHS):
        begun = process_time()
        for _ in range(share):
            rig.tick()
            rig.events.clear()
        took.append((process_time() - begun) / share)
        if part == 0:
            gc.collect()
            at = memory_mib("VmRSS"), len(os.listdir("/proc/self/fd"))
    gc.collect()
    rig.bot.store.close()
    return LongRun(took[1], took[-1], max(0, memory_mib("VmRSS") - at[0]),
                   max(0, len(os.listdir("/proc/self/fd")) - at[1]))
