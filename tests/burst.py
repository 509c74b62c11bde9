"""Recorded quotes at many times their speed, through the real feed into real ticks.

The venue's end of a loopback WebSocket sends every quote when it is due; meanwhile the bot ticks,
over a venue that has nothing but the feed's marks.  Where the recording is absent, a walk of about
the same density is made up.
"""

import csv
import gzip
import random
import threading
import time
from collections import deque
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import islice

from helpers import BTC, NOON, Rig, ScriptedVenue, a_product
from recorded_day import DATA
from ws_server import Server

from perps_bot.feed import MarkFeed

QUOTES = DATA / "btcusdt-perp-binance-2024-08-08-quotes.csv.gz"
BUSIEST = 36_054  # the row with which the busiest 20 seconds begin, of 355 quotes a second
TICK_EVERY = 0.02  # seconds: far more often than the loop, which waits for half a second
BIP = "BIP-20DEC30-CDE"


def recorded_quotes(count=None, skip=0):
    """(seconds since the first, bid, its size, ask, its size) of each row of the recording."""
    with gzip.open(QUOTES, "rt", encoding="utf-8") as lines:
        first = None
        for row in islice(csv.DictReader(lines), skip, count and skip + count):
            at = datetime.fromisoformat(row["time"])
            first = first or at
            yield ((at - first) / timedelta(seconds=1), row["bid"], row["bid_size"], row["ask"],
                   row["ask_size"])


def made_up_quotes(count):
    dice, tenths = random.Random(8), 618_002
    for number in range(count):
        tenths += dice.choice((-1, 0, 0, 1))
        bid, ask = Decimal(tenths) / 10, Decimal(tenths + 1) / 10
        yield number / 355, f"{bid}", f"{dice.randrange(1, 9999) / 1000}", f"{ask}", "2.5"


class FedVenue(ScriptedVenue):
    """Flat, with enough history, and no other prices than the feed's."""

    def __init__(self):
        super().__init__(BTC)
        self._products = [replace(a_product(BTC, tick="0.1"), product_id=BIP)]
        self.history, self.feed = {BTC: [100] * 30}, None

    def marks(self, symbols, now):
        self.feed.follow(self._products)
        return self.feed.marks(symbols)


@dataclass
class Look:
    """One tick: how many messages were sent and taken when it began, and which it acted on."""

    sent: int
    taken: int
    acted_on: int


class Burst:
    """The venue's end, the feed and the bot.

    looks  one for each tick
    lags   seconds from the sending of each message to its place in the slot
    """

    def __init__(self):
        self.server, venue = Server(), FedVenue()
        self.feed = venue.feed = MarkFeed(
            self.server.url, self.server.url, None, lambda: datetime.now(UTC), lambda: None)
        self.rig = Rig(venue, now=NOON, symbols=[BTC], enter_on_start=False)
        self.looks, self.lags, self._sent_at, self._numbers = [], deque(), {}, {}
        self.rig.tick()
        self.peer = self.server.peer()
        while self.peer.said()["channel"] != "ticker":
            pass
        self._take, self.feed._market._take = self.feed._market._take, self._timed_take

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.feed.stop()
        self.server.close()

    def play(self, rows, speed):
        """Send every quote when it is due and tick all the while; return the last row."""
        rows = list(rows)
        sender = threading.Thread(target=self._send, args=(rows, speed), daemon=True)
        sender.start()
        while sender.is_alive():
            self.look()
            sender.join(TICK_EVERY)
        return rows[-1]

    def look(self):
        """One tick, with what was there when it began."""
        sent, taken = self.peer.sequence, self._taken()
        self.rig.tick(0)
        mark = self.rig.bot.engine.marks.get(BTC)
        if mark is not None:
            self.looks.append(Look(sent, taken, self._numbers[mark.at]))

    def is_idle(self):
        """Whether everything that was sent was taken."""
        return self._taken() == self.peer.sequence

    def _taken(self):
        """How many messages the feed has taken in; they count from 0."""
        last = self.feed._market._sequence
        return 0 if last is None else int(last) + 1

    def _send(self, rows, speed):
        begun = time.monotonic()
        for seconds, bid, bid_size, ask, ask_size in rows:
            if (early := begun + seconds / speed - time.monotonic()) > 0:
                time.sleep(early)
            now = datetime.now(UTC)
            number = self.peer.sequence
            self._numbers[now], self._sent_at[number] = number, time.monotonic()
            self.peer.say("ticker", {"type": "update" if number else "snapshot", "tickers": [{
                "type": "ticker", "product_id": BIP, "price": bid, "best_bid": bid,
                "best_bid_quantity": bid_size, "best_ask": ask, "best_ask_quantity": ask_size,
            }]}, at=f"{now:%Y-%m-%dT%H:%M:%S.%fZ}")

    def _timed_take(self, events, message):
        self._take(events, message)
        self.lags.append(time.monotonic() - self._sent_at[int(message["sequence_num"])])
