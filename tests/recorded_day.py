"""Recorded minutes of BTC, played through the exchange, with a real prod bot in the market.

How time is played: the exchange's clock and the bot's are one clock of ours, which moves by half a
minute at a step.  Each recorded minute becomes four prices on the tick of the contract: its open
when it begins, the nearer and then the farther of low and high, and its close one second before
it ends.  The exchange plays them in that order by itself, so a stop fires between two ticks of
the bot.  Those come just before the half minute and at the minute's end and, as in the loop, a
second after an order whose outcome is awaited.  Quotes come by WebSocket, at every other tick
compared with REST; everything else comes by HTTP.  After each step we wait until the feed has
read the newest message.
"""

import csv
import gzip
from collections import deque
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

from exchange.harness import wait_until
from live import BTC, IDS, TICKS

from perps_bot.loop import _pause
from perps_bot.model import OrderStatus, Purpose
from perps_bot.tracker import ENTRY_PRICE_STEP

DATA = Path(__file__).parents[2] / "shared" / "data"
RECORDED = DATA / "btcusdt-perp-binance-1m-2025-05.csv.gz"
WARM_UP = timedelta(minutes=60)
# Seconds of each minute at which the bot looks: the first before the feed is due to be compared.
LOOKS = (29, 60)
MINUTE, INTERVAL, AWAITED = timedelta(minutes=1), 5, timedelta(seconds=1)
GAINS = ("realized_pnl", "unrealized_pnl")


def on_tick(price):
    return (Decimal(price) / TICKS[BTC]).quantize(Decimal(1)) * TICKS[BTC]


def recorded(begin, end, path=RECORDED):
    """(time, open, high, low, close) of each minute, on the tick."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            at = datetime.fromisoformat(row["time"])
            if begin <= at < end:
                yield at, *(on_tick(row[name]) for name in ("open", "high", "low", "close"))


def played(minutes):
    """The four prices of each minute as rows of bid, ask and last trade."""
    for at, opened, high, low, closed in minutes:
        near, far = (low, high) if closed >= opened else (high, low)
        for second, price in ((0, opened), (20, near), (40, far), (59, closed)):
            yield [(at + timedelta(seconds=second)).isoformat(), str(price),
                   str(price + TICKS[BTC]), str(price)]


class Played:
    """Time as it is played, and what must hold after every tick.

    lost_at     when the answer to the next order is lost, although the order was taken
    bare        ticks after which a position had no stop, and nothing that explains it
    unfinished  ticks that could not be finished, and why
    """

    def __init__(self, rig, lost_at=()):
        self.rig, self.lost_at = rig, deque(lost_at)
        self.bare, self.unfinished, self.ticks = [], [], 0

    def play(self, end):
        """Ticks until `end`, each with the newest quote in the bot's hands."""
        rig = self.rig
        looks = looks_at(rig.now, end)
        while rig.now < end:
            # As the loop does: soon again while the outcome of an order is awaited.
            soon = rig.bot.is_started and self.is_awaited()
            while looks[0] <= rig.now:
                looks.popleft()
            rig.now = min(looks[0], rig.now + AWAITED if soon else looks[0])
            rig.sim.advance(rig.now)
            if rig.bot.is_started:  # the first tick starts the feed
                wait_until(self._is_heard, "the newest quote")
            if self.lost_at and rig.now >= self.lost_at[0]:
                self.lost_at.popleft()
                rig.sim.network("reset_after_accept", match="POST /orders$")
            rig.tick(0)
            self.ticks += 1
            self._look()

    def is_awaited(self):
        """Whether the loop would look again soon, because of an order whose outcome is open."""
        return _pause(self.rig.bot, self.rig.now) < INTERVAL

    def _is_heard(self):
        """Whether the feed's thread has taken in everything that the exchange has sent it."""
        sent = [row["sequence_num"] for row in self.rig.sim.sockets()
                if "ticker" in row["subscriptions"]]
        return sent == [self.rig.feed._market._sequence]

    def _look(self):
        rig = self.rig
        if rig.bot.trouble:
            self.unfinished.append((rig.now, rig.bot.trouble))
        held = rig.books().quantity
        covered = sum(order.remaining for order in rig.stops()
                      if order.status is OrderStatus.OPEN)
        # Its exit was sent in place of the stop, or an answer was lost: the next look tells.
        awaited = any(order.purpose is Purpose.EXIT or order.status is OrderStatus.UNKNOWN
                      for order in rig.bot.engine.outstanding())
        if held and covered != abs(held) and not awaited:
            self.bare.append((rig.now, held, covered))


def looks_at(begin, end):
    """Every moment at which the bot looks in the minutes from that of `begin` to `end`."""
    start = begin.replace(second=0, microsecond=0)
    minutes = [start + n * MINUTE for n in range(-((start - end) // MINUTE))]
    return deque(at + timedelta(seconds=second) for at in minutes for second in LOOKS)


def differences(rig):
    """Where the bot's books are not the exchange's, to the last digit: (name, ours, theirs).

    An entry price that no decimal says exactly (an order that took several levels) is rounded in
    our books, and what that leaves over counts as realized: then the gain is compared as a whole.
    """
    truth, books, held = rig.truth(), rig.bot.tracker, rig.books()
    position = truth["positions"].get(IDS[BTC])
    theirs = {name: Decimal(truth[name]) for name in (*GAINS, "fees", "equity")}
    theirs["funding"] = Decimal(truth["funding_booked"]) + Decimal(truth["funding_accrued"])
    theirs["gain"] = sum(theirs[name] for name in GAINS)
    ours = {name: books.total(name) for name in (*GAINS, "fees", "funding")}
    ours |= {"equity": books.equity(), "gain": sum(ours[name] for name in GAINS)}
    ours["quantity"] = held.quantity
    theirs["quantity"] = position and (
        Decimal(position["contracts"]) * Decimal(position["contract_size"])) or Decimal(0)
    entry = Decimal(position["entry_price"]) if position else held.entry_price
    if 0 < abs(held.entry_price - entry) < ENTRY_PRICE_STEP:
        ours = {name: value for name, value in ours.items() if name not in GAINS}
    return [(name, value, theirs[name]) for name, value in ours.items() if value != theirs[name]]


def sent_while_in_doubt(events):
    """The orders that were sent while the outcome of another was not known.

    events  (type, client order id or None) of each, in order
    """
    doubts, sent = set(), []
    for kind, identity in events:
        if kind == "order.unknown":
            doubts.add(identity)
        elif kind in ("order.updated", "order.lost", "trade.executed"):
            doubts.discard(identity)
        elif kind == "order.intended" and doubts:
            sent.append(identity)
    return sent
