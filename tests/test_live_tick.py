"""What stands between a frame and the order, counted: syncs, requests, queues.

How long it takes is measured by `bin/bench --only hold --only order --only burst`.
"""

import os

import pytest
from burst import BUSIEST, QUOTES, Burst, made_up_quotes, recorded_quotes
from exchange.harness import wait_until
from live import BTC, IDS, LiveRig, at_once

from perps_bot import store as disk
from perps_bot import transport
from perps_bot.model import TradingState

SYNC = "sync"


@pytest.fixture
def wire(monkeypatch):
    """Syncs and requests, in the order in which they happened."""
    done = []

    def synced(target, real=disk._fsync):
        done.append(SYNC)
        return real(target)

    def prepared(request, real=transport._prepared):
        done.append(f"{request.method} {request.target.partition('?')[0].rpartition('/')[2]}")
        return real(request)

    at_once(monkeypatch)
    for room, name, seam in ((disk, "_fsync", synced), (os, "fsync", synced),
                             (os, "fdatasync", synced), (transport, "_prepared", prepared)):
        monkeypatch.setattr(room, name, seam)
    return done


def before(done, request):
    """How many syncs stand between each such request and the one before it."""
    counts, since = [], 0
    for each in done:
        if each == request:
            counts.append(since)
        since = since + 1 if each == SYNC else 0
    return counts


def test_the_disk_turns_once_before_each_order_and_never_where_nothing_happens(tmp_path, wire):
    """The entry, then its stop: each intent is on disk before its order is on the wire."""
    with LiveRig(tmp_path) as rig:
        rig.rising()
        rig.start()
        rig.ticks(2)
        assert rig.held() > 0 and len(rig.stops()) == 1
        assert before(wire, "POST orders") == [1, 1]
        wire.clear()
        rig.price(60010)
        for bid in (60015, 60005, 60010):
            rig.price(bid)
            rig.tick()
            assert rig.bot.last_decisions[BTC] == "hold" and not rig.bot.trouble
        assert len([each for each in wire if each.startswith("GET")]) > 10
        assert SYNC not in wire


def test_one_picture_sizes_an_entry_and_passes_the_gate(tmp_path, wire):
    with LiveRig(tmp_path) as rig:
        rig.rising()
        rig.start()
        rig.tick()
        assert rig.held() > 0
        read = wire[:wire.index("POST orders")].count("GET balance_summary")
        assert read == 4  # the day's, the start's, the tick's and the entry's


def test_nothing_else_turns_it_in_the_tick_that_enters(tmp_path, wire):
    with LiveRig(tmp_path) as rig:
        rig.rising()
        rig.start()
        rig.bot.risk.hold("operator", TradingState.REDUCING, "not yet")
        rig.ticks(2)
        assert "POST orders" not in wire
        rig.bot.risk.lift("operator", "now")
        wire.clear()
        rig.tick()
        assert wire[:wire.index("POST orders")].count(SYNC) == 1


def test_and_once_before_the_order_that_closes_beside_what_was_learned_of_the_stop(tmp_path, wire):
    with LiveRig(tmp_path, bar=60) as rig:
        rig.rising()
        rig.start()
        rig.ticks(2)
        wire.clear()
        rig.bot.protector.exit(BTC, "by hand")
        while rig.held():
            rig.tick()
        # That the stop is gone is a fact that was just read; the other is the intent.
        assert before(wire, "POST close_position") == [2]


def test_a_quiet_account_is_asked_for_positions_each_time_and_for_orders_twice_a_minute(
        tmp_path, wire):
    with LiveRig(tmp_path, enter_on_start=False) as rig:
        rig.history([60000] * 60)
        rig.price(60000)
        rig.start()
        rig.ticks(2)
        wire.clear()
        rig.ticks(24)
        assert rig.bot.last_decisions[BTC] == "hold" and not rig.bot.trouble
        assert wire.count("GET positions") == wire.count("GET balance_summary") == 24
        assert wire.count("GET fills") == 4 and wire.count("GET batch") == 3 * 4


@pytest.mark.parametrize("is_there", [False, True], ids=["nothing", "an order of the owner's"])
def test_before_an_entry_orders_and_fills_are_read_all_the_same(tmp_path, wire, is_there):
    with LiveRig(tmp_path) as rig:
        rig.rising()
        rig.start()
        rig.bot.risk.hold("operator", TradingState.REDUCING, "not yet")
        rig.ticks(8)
        assert rig.bot.engine.is_quiet()
        rig.bot.risk.lift("operator", "now")
        if is_there:
            rig.sim.call("order_by_owner", product_id=IDS[BTC], side="BUY", contracts="1",
                         limit_price="50000")
        wire.clear()
        rig.tick()
        if is_there:
            assert rig.bot.engine.foreign and not rig.orders()
        else:
            assert rig.held() > 0
            assert {"GET fills", "GET batch"} <= {*wire[:wire.index("POST orders")]}
        rig.ticks(6)
        assert bool(rig.orders()) is not is_there
        assert wire.count("GET fills") >= 7  # at every tick again


def held(holder):
    """How many things stand in each of its containers."""
    return {name: len(value) for name, value in vars(holder).items()
            if hasattr(value, "__len__") and not isinstance(value, str)}


@pytest.mark.parametrize("quotes", ["recorded", "made up"])
def test_at_ten_times_their_speed_no_queue_grows_and_the_newest_quote_is_acted_on(quotes):
    if quotes == "recorded" and not QUOTES.exists():
        pytest.skip("the recorded quotes lie in ../shared")
    rows = made_up_quotes(4000) if quotes == "made up" else recorded_quotes(7000, skip=BUSIEST)
    with Burst() as burst:
        parts = burst.feed, burst.feed._market, burst.rig.bot.engine, burst.rig.bot.strategy
        burst.play([next(rows)], speed=1)
        wait_until(burst.is_idle, "the first quote")
        burst.look()
        at_first = [held(part) for part in parts]
        last = burst.play(rows, speed=10)
        wait_until(burst.is_idle, "what was sent was read")
        burst.look()
        mark = burst.rig.bot.engine.marks[BTC]
        assert (f"{mark.bid:f}", f"{mark.ask:f}") == (last[1], last[3])
        # One may have been counted as taken and be on its way into the slot.
        assert all(look.acted_on >= look.taken - 2 for look in burst.looks)
        assert len(burst.looks) > 10
        assert [held(part) for part in parts] == at_first
        counts = burst.feed.figures()["market"]
        assert {name: counts[name] for name in ("connects", "gaps", "repeats", "unusable")} == {
            "connects": 1, "gaps": 0, "repeats": 0, "unusable": 0}
