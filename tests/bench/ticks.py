"""Ticks: what does one cost, in this process, and does it stay so?

The venue is instant (its answers are there before they are asked for), so that what is measured
is the bot; only the order's path runs against the exchange process, with a disk that turns.
"""

import json
import os
from collections import deque
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from http.client import HTTPConnection
from statistics import median
from time import perf_counter, process_time
from types import SimpleNamespace

from bench.inputs import Missing
from helpers import BTC, NOON, Rig, ScriptedVenue, a_product
from live import IDS, LiveRig, at_once
from recorded_day import RECORDED, WARM_UP, Played, played, recorded

from perps_bot import wire
from perps_bot.feed import MarkFeed
from perps_bot.model import Purpose, Side
from perps_bot.store import EventStore

TICKS, WARM_TICKS = 2_000, 200
PARTS_ROUNDS = 200
ENTRY = b"POST /api/v3/brokerage/orders HTTP"


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
        venue._products = [product] = [a_product(BTC, tick="5")]
        self.rig = Rig(venue, symbols=[BTC], enter_on_start=False)
        self.feed = MarkFeed("ws://127.0.0.1:9", "ws://127.0.0.1:9", None, lambda: NOON,
                             lambda: None)
        self.feed._products = {IDS[BTC]: product}
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
    """Seconds of each entry from its tick's begin to its first byte, and of the parts in all."""

    wall: list = field(default_factory=list)
    cpu: list = field(default_factory=list)
    parts: float = 0


def order_path(folder, hours=4):
    """Play hours of the recorded day against the exchange and time every entry."""
    if not RECORDED.exists():
        raise Missing(f"{RECORDED.name} is not in ../shared/data")
    at_once(SimpleNamespace(setattr=setattr))
    begin = next(recorded(NOON.replace(2025, 5, 12, 0), NOON.replace(2026)))[0]
    found, clocks, send = OrderPath(), {}, HTTPConnection.send

    def sends(connection, data):
        if clocks and data.startswith(ENTRY):
            found.wall.append(perf_counter() - clocks["wall"])
            found.cpu.append(process_time() - clocks["cpu"])
        if data.startswith(b"POST"):
            clocks.clear()  # what follows a cancel or a close is another path
        return send(connection, data)

    with LiveRig(folder, now=begin, with_feed=True, enable_shorts=True,
                 trailing_stop_pct=Decimal("0.005"), max_daily_loss_pct=Decimal(1)) as rig:
        closes = [row[-1] for row in recorded(begin - WARM_UP, begin)]
        rig.history(closes)
        rig.price(closes[-1])
        end = begin + timedelta(hours=hours)
        rig.sim.call("path", product_id=IDS[BTC], rows=list(played(recorded(begin, end))))
        tick = rig.tick

        def timed_tick(seconds=5):
            clocks.update(wall=perf_counter(), cpu=process_time())
            try:
                return tick(seconds)
            finally:
                clocks.clear()

        rig.tick, HTTPConnection.send = timed_tick, sends
        try:
            rig.start()
            Played(rig).play(end)
            found.parts = _parts(rig, folder)
        finally:
            HTTPConnection.send = send
    return found


def _parts(rig, folder):
    """Processor seconds of what no order can do without: parse, append durably, sign, write."""
    frame, store = next(frames()), EventStore(folder / "parts")
    store.now = rig.now
    reader, writer = os.pipe()
    order = dict(client_order_id="pb-0-000001", symbol=BTC, side=Side.BUY, quantity=Decimal(1),
                 purpose=Purpose.ENTRY, mark_price=Decimal(60000))
    body = json.dumps(order, default=str).encode()
    parts = (
        lambda: json.loads(frame),
        lambda: store.append("order.intended", required=True, **order),
        lambda: rig.rest.signer.rest_token("POST", "127.0.0.1", "/api/v3/brokerage/orders",
                                           rig.now),
        lambda: (os.write(writer, body), os.read(reader, len(body))),
    )
    total = sum(milliseconds_each(part, 1, PARTS_ROUNDS) for part in parts) / 1000
    store.close()
    os.close(reader)
    os.close(writer)
    return total
