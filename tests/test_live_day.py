"""A recorded day of BTC, played through the exchange, with a real prod bot in the market.

How it is played, and what must hold after every tick: recorded_day.py.  A few answers to orders
are lost.  The day is a Monday: no weekly close lies in it.  Its first 8 hours are played, and all
of it, with the tie-out at midnight, where PERPS_TEST_DAY_HOURS=24 says so.  The month: bin/bench.
"""

import os
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from helpers import repeated, verified
from live import BTC, IDS, LiveRig, at_once
from recorded_day import (
    RECORDED,
    WARM_UP,
    Played,
    differences,
    played,
    recorded,
    sent_while_in_doubt,
)

from perps_bot import store as disk
from perps_bot.report import Reading, told

DAY = datetime(2025, 5, 12, tzinfo=UTC)
HOURS = int(os.environ.get("PERPS_TEST_DAY_HOURS", "8"))
# The hours that the exchange books funding into the cash, and the rate of each hour.
BOOKINGS = (6, 12)
RATE = "0.0001"
# Hours after which the answer to the next order is lost, although the order was taken.
LOST_ANSWERS = (1, 3, 5, 11, 17, 21)


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
        day = Played(rig, [DAY + timedelta(hours=hour) for hour in LOST_ANSWERS])
        rig.start()
        day.play(end)
        assert day.unfinished == []
        assert day.bare == [], "a position without a stop"
        assert differences(rig) == []
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
        assert sent_while_in_doubt(
            (event["type"], event.get("client_order_id")) for event in events) == []
        kinds = {event["type"] for event in events}
        assert not kinds & {"reconcile.mismatch", "order.lost", "alert", "feed.stale"}
        assert all(event["explained"] for event in events if event["type"] == "account.tied_out")
        assert HOURS < 24 or "account.tied_out" in kinds
        told_of, books = told(Reading(tmp_path / "events")).figures(), rig.bot.tracker
        assert all(getattr(told_of, name) == books.total(name)
                   for name in ("realized_pnl", "fees", "funding"))
        figures = rig.feed.figures()["market"]
        assert figures["connects"] == 1
        assert figures["gaps"] == figures["repeats"] == figures["errors"] == 0
        asked = len(rig.sim.requests("GET", "/best_bid_ask"))
        assert asked < day.ticks * 0.6, "the quotes of every other tick came by the feed alone"
        rig.start()
        rig.tick(0)
        assert differences(rig) == []
