"""A recorded day of BTC, played through the exchange, with a real prod bot in the market.

How time is played: the exchange's clock and the bot's are one clock of ours, which moves by half a
minute at a step.  Each recorded minute becomes four prices on the tick of the contract: its open
when it begins, the nearer and then the farther of low and high, and its close one second before
it ends.  The exchange plays them in that order by itself, so a stop fires between two ticks of
the bot.  Those come just before the half minute and at the minute's end and, as in the loop, a
second after an order whose outcome is awaited.  Quotes come by WebSocket, at every other tick
compared with REST; everything else comes by HTTP.  After each step the test waits until the feed
has read the newest message.  A few answers to orders are lost.

The day is a Monday: no weekly close lies in it.  Its first 15 hours are played, and all of it,
with the tie-out at midnight, where PERPS_TEST_DAY_HOURS=24 says so.
"""

import csv
import gzip
import os
from collections import deque
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from exchange.harness import wait_until
from helpers import repeated, verified
from live import BTC, IDS, TICKS, LiveRig, at_once

from perps_bot import store as disk
from perps_bot.loop import _pause
from perps_bot.model import OrderStatus, Purpose

RECORDED = Path(__file__).parents[2] / "shared" / "data" / "btcusdt-perp-binance-1m-2025-05.csv.gz"
DAY = datetime(2025, 5, 12, tzinfo=UTC)
HOURS = int(os.environ.get("PERPS_TEST_DAY_HOURS", "15"))
WARM_UP = timedelta(minutes=60)
# Seconds of each minute at which the bot looks: the first before the feed is due to be compared.
LOOKS = (29, 60)
MINUTE, INTERVAL, AWAITED = timedelta(minutes=1), 5, timedelta(seconds=1)
# The hours that the exchange books funding into the cash, and the rate of each hour.
BOOKINGS = (6, 12)
RATE = "0.0001"
# Hours after which the answer to the next order is lost, although the order was taken.
LOST_ANSWERS = (1, 3, 5, 11, 17, 21)


def on_tick(price):
    return (Decimal(price) / TICKS[BTC]).quantize(Decimal(1)) * TICKS[BTC]


def recorded(begin, end):
    """(time, open, high, low, close) of each minute, on the tick."""
    with gzip.open(RECORDED, "rt", encoding="utf-8") as lines:
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


class Day:
    """The day as it is played, and what must hold after every tick."""

    def __init__(self, rig):
        self.rig, self.bare, self.unfinished, self.ticks = rig, [], [], 0

    def play(self, end):
        """Ticks until `end`, each with the newest quote in the bot's hands."""
        rig, lost = self.rig, [DAY + timedelta(hours=hour) for hour in LOST_ANSWERS]
        looks = looks_at(end)
        while rig.now < end:
            # As the loop does: soon again while the outcome of an order is awaited.
            soon = rig.bot.is_started and _pause(rig.bot, rig.now) < INTERVAL
            while looks[0] <= rig.now:
                looks.popleft()
            rig.now = min(looks[0], rig.now + AWAITED if soon else looks[0])
            rig.sim.advance(rig.now)
            if rig.bot.is_started:  # the first tick starts the feed
                wait_until(self._is_heard, "the newest quote")
            if lost and rig.now >= lost[0]:
                lost.pop(0)
                rig.sim.network("reset_after_accept", match="POST /orders$")
            rig.tick(0)
            self.ticks += 1
            self._look()

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


def looks_at(end):
    begin = [DAY + timedelta(minutes=minute) for minute in range((end - DAY) // MINUTE)]
    return deque(at + timedelta(seconds=second) for at in begin for second in LOOKS)


def books_equal(rig):
    """Every book of the bot is the exchange's, to the last digit."""
    truth, books = rig.truth(), rig.bot.tracker
    ours = {name: books.total(name)
            for name in ("realized_pnl", "unrealized_pnl", "fees", "funding")}
    theirs = {name: Decimal(truth[name]) for name in ("realized_pnl", "unrealized_pnl", "fees")}
    theirs["funding"] = Decimal(truth["funding_booked"]) + Decimal(truth["funding_accrued"])
    assert ours == theirs
    assert books.equity() == Decimal(truth["equity"])
    position = truth["positions"].get(IDS[BTC], {"contracts": 0, "contract_size": 0})
    assert rig.books().quantity == (
        Decimal(position["contracts"]) * Decimal(position["contract_size"]))


def sent_while_in_doubt(events):
    """The orders that were sent while the outcome of another was not known."""
    doubts, sent = set(), []
    for event in events:
        identity = event.get("client_order_id")
        if event["type"] == "order.unknown":
            doubts.add(identity)
        elif event["type"] in ("order.updated", "order.lost", "trade.executed"):
            doubts.discard(identity)
        elif event["type"] == "order.intended" and doubts:
            sent.append(identity)
    return sent


@pytest.mark.skipif(not RECORDED.exists(), reason="the recorded day lies in ../shared")
def test_after_a_recorded_day_the_bots_books_are_the_exchanges_to_the_cent(tmp_path, monkeypatch):
    at_once(monkeypatch)
    # No power cut comes in this test: the disk need not turn.
    monkeypatch.setattr(disk, "_fsync", lambda fd: None)
    end = DAY + timedelta(hours=HOURS)
    scenario = {"funding_booked_at_utc_hours": BOOKINGS}
    with LiveRig(tmp_path, scenario, now=DAY, with_feed=True, enable_shorts=True,
                 trailing_stop_pct=Decimal("0.005"), max_daily_loss_pct=Decimal(1)) as rig:
        history = [closed for *_, closed in recorded(DAY - WARM_UP, DAY)]
        rig.history(history)
        rig.price(history[-1])
        rig.sim.call("set_product", product_id=IDS[BTC], funding_rate=RATE)
        rig.sim.call("path", product_id=IDS[BTC], rows=list(played(recorded(DAY, end))))
        day = Day(rig)
        rig.start()
        day.play(end)
        assert day.unfinished == []
        assert day.bare == [], "a position without a stop"
        books_equal(rig)
        truth, events = rig.truth(), verified(tmp_path / "events")
        trades = [event for event in events if event["type"] == "trade.executed"]
        assert len(trades) == len(truth["fills"]) > 5 * HOURS
        assert {trade["side"] for trade in trades} == {"buy", "sell"}
        assert {trade["purpose"] for trade in trades} == {"entry", "exit", "stop"}
        assert len(truth["accruals"]) > HOURS / 2
        assert len(truth["bookings"]) == sum(hour <= HOURS for hour in BOOKINGS)
        assert repeated(order["client_order_id"] for order in truth["orders"]) == []
        assert sum(event["type"] == "order.unknown" for event in events) == sum(
            hour < HOURS for hour in LOST_ANSWERS)
        assert sent_while_in_doubt(events) == []
        kinds = {event["type"] for event in events}
        assert not kinds & {"reconcile.mismatch", "order.lost", "alert", "feed.stale"}
        assert all(event["explained"] for event in events if event["type"] == "account.tied_out")
        assert HOURS < 24 or "account.tied_out" in kinds
        figures = rig.feed.figures()["market"]
        assert figures["connects"] == 1
        assert figures["gaps"] == figures["repeats"] == figures["errors"] == 0
        asked = len(rig.sim.requests("GET", "/best_bid_ask"))
        assert asked < day.ticks * 0.6, "the quotes of every other tick came by the feed alone"
        rig.start()
        rig.tick(0)
        books_equal(rig)
