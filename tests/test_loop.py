"""The specification of `perps_bot/loop.py`: what happens every few seconds, and in which order?"""

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from helpers import (
    BTC,
    ETH,
    FALLING,
    NOON,
    RISING,
    Rig,
    ScriptedVenue,
    repeated,
    verified,
)

from perps_bot import recorded
from perps_bot import store as disk
from perps_bot.clock import StopRequest, SystemClock
from perps_bot.loop import GAP_BARS_MAX
from perps_bot.reconcile import MISMATCHES_MAX
from perps_bot.market import SyntheticMarket
from perps_bot.model import OrderType, Position, Purpose, TradingState
from perps_bot.paper import PaperBroker

REPO = Path(__file__).resolve().parents[1]
READS = ("marks", "orders", "fills", "equity", "positions", "funding_payments")
MOCK = {"PERPS_FORCE_MOCK": "1"}


def a_rig(folder=None, *, trends=(RISING,), symbols=(BTC, ETH), **settings):
    """A bot that wants to enter what rises."""
    symbols = symbols[:len(trends)]
    venue = ScriptedVenue(*symbols)
    venue.history = dict(zip(symbols, trends))
    return Rig(venue, folder, symbols=symbols, **settings)


@pytest.fixture
def rig(tmp_path):
    return a_rig(tmp_path / "data")


def sent(rig):
    return [f"{order.purpose} {order.symbol}" for order in rig.venue.sent]


# One tick.


def test_a_tick_reads_first_then_exits_then_enters_and_protects(tmp_path):
    rig = a_rig(tmp_path, trends=(RISING, RISING))
    rig.tick()
    rig.bot.protector.exit(BTC, "enough")
    rig.venue.calls.clear()
    rig.tick()
    calls = rig.venue.calls
    actions = [call for call in calls if " " in call or call == "cancel"]
    assert actions == ["cancel", f"exit {BTC}", f"entry {ETH}", f"stop {ETH}"]
    before = calls[:calls.index("cancel")]
    assert [before.index(read) for read in ("marks", "orders", "fills")] == sorted(
        before.index(read) for read in ("marks", "orders", "fills"))
    assert {"equity", "positions"} <= set(before)
    between = calls[calls.index(f"exit {BTC}"):calls.index(f"entry {ETH}")]
    assert "equity" in between  # an increase reads the account anew


def test_one_tick_opens_at_most_one_position(tmp_path):
    rig = a_rig(tmp_path, trends=(RISING, RISING))
    rig.tick()
    assert sent(rig) == [f"entry {BTC}", f"stop {BTC}"]
    rig.tick()
    assert sent(rig)[2:] == [f"entry {ETH}", f"stop {ETH}"]
    rig.tick()
    assert len(sent(rig)) == 4


def test_an_entry_that_is_refused_makes_room_for_the_next_symbol(tmp_path):
    rig = a_rig(tmp_path, trends=(RISING, RISING))
    rig.venue.answers.append("reject PRODUCT_HALTED")
    rig.tick()
    assert sent(rig) == [f"entry {BTC}", f"entry {ETH}", f"stop {ETH}"]
    assert "PRODUCT_HALTED" in rig.bot.message


@pytest.mark.parametrize("read", READS)
def test_a_failed_read_fails_the_tick_and_decides_nothing(rig, read):
    if read in ("orders", "fills", "funding_payments"):
        rig.tick()  # only with something held is there anything to settle
    count, signals = len(rig.venue.sent), len(rig.of("strategy.signal"))
    rig.venue.down.add(read)
    rig.venue.prices[BTC] = Decimal(50)  # far below the stop
    assert not rig.tick()
    assert (len(rig.venue.sent), len(rig.of("strategy.signal"))) == (count, signals)
    health = rig.file("health.json")
    assert health["ok"] is False
    assert f"{read}: the line is dead" in health["error"]
    rig.venue.down.clear()
    assert rig.tick()
    assert rig.file("health.json")["error"] == ""


def test_the_loop_goes_on_after_failed_ticks(rig):
    rig.venue.down.add("marks")

    def heal(number):
        if number == 5:
            rig.venue.down.clear()

    assert rig.run(ticks=8, on_wait=heal) == 0
    assert rig.held() > 0


def test_a_symbol_without_a_mark_is_named_and_the_others_trade(tmp_path):
    rig = a_rig(tmp_path, trends=(RISING, RISING))
    rig.venue.prices[BTC] = None
    assert rig.tick()
    assert sent(rig) == [f"entry {ETH}", f"stop {ETH}"]
    health = rig.file("health.json")
    assert health["ok"] is False
    assert f"No mark price for symbol {BTC}" in health["message"]


def test_an_exit_goes_on_without_a_mark(rig):
    rig.tick()
    rig.venue.answers.append("reject NOT_NOW")
    rig.bot.protector.exit(BTC, "enough")
    rig.tick()
    rig.venue.prices[BTC] = None
    for _ in range(4):
        rig.tick()
    assert rig.venue.held() == 0


def test_a_window_that_is_not_full_is_said(rig):
    rig.venue.history[BTC] = RISING[-3:]
    rig.tick()
    assert "Strategy generates no signals: BTC-PERP has 3 of 20 bars" in rig.bot.message
    assert rig.venue.sent == []


# Our books and the venue's.


def test_a_mismatch_pauses_entries_and_is_adopted_at_the_third_tick(tmp_path):
    rig = a_rig(tmp_path, trends=(RISING, FALLING))
    rig.tick()
    held = rig.held()
    rig.venue.trade_by_hand("2.5", BTC)
    for n in range(1, MISMATCHES_MAX):
        rig.tick()
        assert (rig.held(), rig.bot.risk.state) == (held, TradingState.TRADING)
    rig.tick()
    assert rig.held() == held + Decimal("2.5")
    assert rig.bot.risk.state is TradingState.REDUCING
    (event,) = rig.of("reconcile.mismatch")
    assert (event.data["ours"], event.data["venue"]) == (held, held + Decimal("2.5"))
    assert sum(order.remaining for order in rig.venue.live()) == rig.venue.held()


def test_a_symbol_whose_books_differ_opens_nothing(rig):
    rig.venue.prices[BTC] = None
    rig.tick()
    rig.venue.prices[BTC] = Decimal(100)
    rig.venue.trade_by_hand("1")
    rig.tick()
    assert rig.venue.sent == []


def test_a_mismatch_that_heals_is_forgotten(rig):
    rig.tick()
    for _ in range(4):
        rig.venue.trade_by_hand("1")
        rig.tick()
        rig.tick()
        rig.venue.trade_by_hand("-1")
        rig.tick()
    assert rig.of("reconcile.mismatch") == []
    assert rig.bot.risk.state is TradingState.TRADING


@pytest.mark.parametrize("lag", ["fill_lag", "position_lag"])
def test_a_read_that_lags_its_fill_by_seconds_is_no_mismatch(tmp_path, lag):
    """Positions and fills lag by seconds (the venue's reference, 5.1); ticks may be a second."""
    rig = a_rig(tmp_path, interval=Decimal(1))
    setattr(rig.venue, lag, 5)
    for _ in range(15):
        rig.tick(1)
    assert rig.of("reconcile.mismatch") == []
    assert rig.held() == rig.venue.held() > 0
    assert rig.bot.risk.state is TradingState.TRADING


@pytest.mark.parametrize("lag", [12, 30, 45])
@pytest.mark.parametrize("by_hand", [0, 3])
def test_what_was_closed_is_not_believed_to_be_back_however_long_positions_lag(rig, lag, by_hand):
    rig.tick()
    rig.now += timedelta(minutes=2)
    rig.tick()
    held, rig.venue.position_lag = rig.held(), lag
    rig.bot.protector.exit(BTC, "enough")
    if by_hand:
        rig.venue.trade_by_hand(str(by_hand))
    for _ in range(50):
        rig.tick(2)
        assert rig.held() in (held, 0, by_hand)
    assert held and rig.held() == rig.venue.held() == by_hand
    assert [event.data["venue"] for event in rig.of("reconcile.mismatch")] == [by_hand][:by_hand]


def test_what_nobody_explained_at_the_start_is_left_alone(tmp_path, caplog):
    rig = a_rig(tmp_path, trends=(RISING, RISING))
    rig.venue.trade_by_hand("3", BTC)
    for _ in range(5):
        rig.tick()
    said = [line for line in caplog.messages if line.endswith(f"untouched until --adopt {BTC}")]
    assert len(said) == 1
    assert sent(rig) == [f"entry {ETH}", f"stop {ETH}"]
    assert rig.bot.untraded == {BTC}
    assert rig.file("health.json")["ok"] is False
    assert rig.venue.cancelled == []


def test_adopting_takes_it_over_and_protects_it(tmp_path):
    rig = a_rig(tmp_path)
    rig.venue.trade_by_hand("3", BTC)
    rig.tick()
    rig.restart(adopt=(BTC,))
    rig.tick()
    assert rig.held() == 3
    assert sent(rig) == [f"stop {BTC}"]
    (event,) = rig.of("position.adopted")
    assert (event.data["ours"], event.data["venue"]) == (0, 3)
    rig.restart(adopt=())
    rig.tick()
    assert rig.bot.untraded == set()


def test_a_fill_that_is_told_late_after_a_restart_is_still_ours(tmp_path):
    """Killed right after an entry, started again before the venue's lists have caught up."""
    rig = a_rig(tmp_path)
    rig.venue.fill_lag = rig.venue.listing_lag = 4
    rig.tick()
    rig.restart()
    for _ in range(12):
        rig.tick(1)
    assert rig.bot.untraded == set()
    assert rig.held() == rig.venue.held() > 0
    assert sum(order.remaining for order in rig.venue.live()) == rig.venue.held()


# Days.


def test_each_utc_day_opens_with_a_snapshot_and_the_equity_before_its_first_mark(tmp_path):
    rig = a_rig(tmp_path)
    rig.tick()
    rig.now = NOON.replace(hour=23, minute=59, second=50)
    rig.venue.prices[BTC] = Decimal(102)
    rig.tick()
    before = rig.venue.equity()
    rig.venue.prices[BTC] = Decimal(103)
    rig.tick(10)
    event = rig.of("day.opened")[-1]
    assert event.data["day"].isoformat() == "2025-05-02"
    assert event.data["equity"] == before
    assert rig.bot.tracker.daily_loss() == -rig.held()
    first = (tmp_path / "events" / "2025-05-02.jsonl").read_text().splitlines()[0]
    assert json.loads(first)["type"] == "day.opened"


def test_after_a_midnight_without_the_bot_the_day_starts_at_the_last_known_equity(tmp_path):
    rig = a_rig(tmp_path)
    rig.tick()
    rig.tick()
    known = rig.venue.equity()
    rig.now += timedelta(hours=20)
    rig.venue.prices[BTC] = Decimal("99.5")
    rig.restart()
    rig.tick()
    assert rig.bot.tracker.day_start_equity == known
    assert rig.bot.tracker.daily_loss() == rig.held() / 2


def test_a_clock_that_goes_back_opens_no_day_twice(tmp_path):
    rig = a_rig(tmp_path)
    rig.now = NOON.replace(hour=23, minute=59, second=59)
    rig.tick(0)
    rig.tick(5)
    rig.tick(-5)
    rig.tick(5)
    assert [str(event.data["day"]) for event in rig.of("day.opened")] == [
        "2025-05-01", "2025-05-02"]


def test_a_daily_loss_survives_the_restart_and_holds_entries(tmp_path):
    rig = a_rig(tmp_path, max_daily_loss_pct=Decimal("0.0005"))
    rig.tick()
    rig.venue.prices[BTC] = Decimal("99.5")
    rig.tick()
    loss = rig.bot.tracker.daily_loss()
    assert rig.bot.risk.state is TradingState.REDUCING
    rig.restart()
    rig.tick()
    assert rig.bot.tracker.daily_loss() == loss > 0
    assert rig.bot.risk.state is TradingState.REDUCING


# Starts.


def test_a_start_under_a_halt_runs_on_halted_and_says_so(tmp_path):
    rig = a_rig(tmp_path)
    rig.bot.store.now = NOON
    rig.bot.store.open_day(NOON.date(), {}, equity=rig.venue.start)
    rig.bot.risk.activate_kill_switch("Manual intervention required")
    rig.restart()
    for _ in range(3):
        assert rig.tick()
    assert rig.venue.sent == []
    health = rig.file("health.json")
    assert (health["ok"], health["trading_state"]) == (False, "HALTED")


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 0), (signal.SIGINT, 0)])
def test_a_first_start_without_the_venue_leaves_the_books_sound(tmp_path, number, code):
    """Stopped before it ever saw the venue; the next start, on the same day, must know equity."""
    rig = a_rig(tmp_path, profile="prod", environ=MOCK)
    rig.venue.down.add("marks")
    rig.run(signals={2: number})
    rig.venue.down.clear()
    rig.restart()
    rig.tick()
    assert rig.bot.tracker.start_equity == rig.venue.start
    assert rig.bot.tracker.day_start_equity == rig.venue.start


def test_a_venue_that_is_down_at_the_start_is_no_exit(rig):
    rig.venue.down.add("candles")
    assert not rig.tick()
    assert rig.venue.sent == []
    rig.venue.down.clear()
    assert rig.tick()
    assert len(rig.of("bot.started")) == 1


def test_every_start_has_an_epoch_of_its_own_even_with_a_full_disk(tmp_path, monkeypatch):
    rig = a_rig(tmp_path, trends=(RISING, FALLING))
    rig.tick()
    refuse_writes(monkeypatch)
    rig.restart()
    rig.bot.protector.exit(BTC, "enough")
    rig.tick()
    monkeypatch.undo()
    rig.restart()  # what the full disk refused is gone
    rig.tick()
    rig.bot.engine.place_order(ETH, "buy", Decimal(1))
    # The venue is flat, so it refuses the stop of the position that the books still have.
    assert sent(rig) == [
        f"entry {BTC}", f"stop {BTC}", f"exit {BTC}", f"stop {BTC}", f"entry {ETH}"]
    assert not repeated(order.id for order in rig.venue.sent)


def test_what_recovery_writes_carries_the_time_of_this_run(tmp_path):
    class Dead(BaseException):
        pass

    def die(order):
        raise Dead

    rig = a_rig(tmp_path)
    rig.venue.watch = die
    with pytest.raises(Dead):
        rig.tick()
    rig.venue.watch = lambda order: None
    rig.restart()
    rig.tick()
    events = verified(tmp_path / "events")
    assert [e["type"] for e in events].count("order.unknown") == 1
    assert [e["ts"] for e in events] == sorted(e["ts"] for e in events)


def test_after_damage_to_the_only_day_the_equity_is_still_the_venues(tmp_path):
    def start():
        return Rig(PaperBroker(SyntheticMarket(1)), tmp_path / "data", NOON)

    rig = start()
    rig.tick()
    rig.bot.store.close()
    (path,) = (tmp_path / "data" / "events").glob("*.jsonl")
    path.write_bytes(path.read_bytes().replace(b"day", b"dax", 1))
    start().bot.store.close()  # recovered, and ended before its first tick
    rig = start()
    rig.tick()
    assert rig.bot.risk.state is TradingState.REDUCING
    assert rig.bot.tracker.start_equity == rig.venue.equity() == 10_000


# Signals.


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("profile", ["dev", "prod"])
def test_a_stop_cancels_entries_keeps_stops_and_tells_the_truth(tmp_path, profile, number):
    rig = a_rig(tmp_path, trends=(RISING, RISING), profile=profile, environ=MOCK, bar=60,
                order_type=OrderType.LIMIT)
    rig.tick()
    rig.venue.fill(rig.venue.sent[0].id)
    rig.tick()
    assert rig.run(signals={1: number}) == 0
    live = [order for symbol in (BTC, ETH) for order in rig.venue.live(symbol)]
    assert [order.purpose for order in live] == [Purpose.STOP]
    (event,) = rig.of("bot.stopped")
    assert (event.data["exit_code"], event.data["orders_left"]) == (0, [])
    assert event.data["stops"] == {BTC: live[0].intent.stop_price}
    halts = number == signal.SIGINT and profile == "prod"
    rig.restart()
    assert rig.bot.risk.state is (TradingState.HALTED if halts else TradingState.TRADING)


@pytest.mark.parametrize("finish_at, code", [(3, 0), (None, 3)])
def test_a_stop_waits_until_the_venue_confirms_and_not_for_ever(tmp_path, finish_at, code):
    rig = a_rig(tmp_path, order_type=OrderType.LIMIT)
    rig.tick()
    rig.venue.cancels = "queue"
    begun = rig.now

    def heal(number):
        rig.venue.now += timedelta(milliseconds=500)
        if number == finish_at:
            rig.venue.finish_cancels()

    assert rig.run(signals={1: signal.SIGTERM}, on_wait=heal) == code
    assert (rig.now - begun).total_seconds() <= 30
    (event,) = rig.of("bot.stopped")
    assert (event.data["exit_code"], len(event.data["orders_left"])) == (code, code // 3)
    assert any("NOT confirmed" in line for line in rig.said) == (code == 3)


def test_a_stop_does_not_leave_an_exit_half_done(tmp_path):
    """The stop's cancel is queued when the signal comes: the position must not end up bare."""
    rig = a_rig(tmp_path)
    rig.tick()
    rig.venue.cancels = "queue"
    rig.bot.protector.exit(BTC, "enough")
    rig.tick()

    def heal(number):
        rig.venue.now += timedelta(milliseconds=500)
        if number == 4:
            rig.venue.finish_cancels()

    code = rig.run(signals={1: signal.SIGTERM}, on_wait=heal)
    rig.venue.finish_cancels()
    stops = sum(order.remaining for order in rig.venue.live())
    assert code == 0
    assert stops == rig.venue.held()


def test_a_stop_finishes_the_replacement_of_a_stop(tmp_path):
    rig = a_rig(tmp_path)
    rig.tick()
    rig.venue.cancels = "queue"
    rig.venue.prices[BTC] = Decimal(105)
    rig.tick(60)

    def heal(number):
        rig.venue.now += timedelta(milliseconds=500)
        if number == 4:
            rig.venue.finish_cancels()

    assert rig.run(signals={1: signal.SIGTERM}, on_wait=heal) == 0
    rig.venue.finish_cancels()
    assert sum(order.remaining for order in rig.venue.live()) == rig.venue.held() > 0


@pytest.mark.parametrize("signals, waits_at_most", [
    ({1: signal.SIGINT, 2: signal.SIGINT}, None),
    ({1: signal.SIGINT, 2: signal.SIGINT, 3: signal.SIGINT}, 3),
    ({1: signal.SIGTERM, 2: signal.SIGINT, 3: signal.SIGINT, 4: signal.SIGINT}, 4),
])
def test_only_the_third_interrupt_within_ten_seconds_ends_the_wait(tmp_path, signals,
                                                                   waits_at_most):
    rig, waits = a_rig(tmp_path, order_type=OrderType.LIMIT), []
    rig.tick()
    rig.venue.cancels = "queue"
    assert rig.run(signals=signals, on_wait=waits.append) == 3
    if waits_at_most:
        assert len(waits) == waits_at_most + 2  # the last two last no time: what came meanwhile?
        assert any(rig.venue.sent[0].id in line for line in rig.said)
    else:
        assert len(waits) > 20


@pytest.mark.parametrize("cancels, comes_at", [("queue", 3), ("at once", 2)])
def test_an_interrupt_during_an_orderly_stop_is_an_emergency_after_all(
    tmp_path, cancels, comes_at
):
    rig = a_rig(tmp_path, profile="prod", environ=MOCK, order_type=OrderType.LIMIT, bar=60)
    rig.tick()
    rig.venue.cancels = cancels
    rig.run(signals={1: signal.SIGTERM, comes_at: signal.SIGINT})
    rig.restart()
    assert rig.bot.risk.state is TradingState.HALTED


def test_an_interrupt_while_the_end_is_written_down_halts_too(tmp_path):
    """H5: a slow disk makes seconds of that."""
    rig = a_rig(tmp_path, profile="prod", environ=MOCK)
    rig.tick()
    signals = {1: signal.SIGTERM}
    rig.bot.store.subscribe(lambda event: event.type == "bot.stopped" and signals.update(
        dict.fromkeys(range(2, 9), signal.SIGINT)))
    assert rig.run(signals=signals) == 0
    rig.restart()
    assert rig.bot.risk.state is TradingState.HALTED


def test_sigusr1_reduces_in_the_running_process(tmp_path):
    rig = a_rig(tmp_path)
    rig.tick()
    rig.run(signals={1: signal.SIGUSR1}, ticks=4)
    assert rig.bot.risk.state is TradingState.REDUCING
    assert rig.held() > 0  # nothing is flattened by it
    rig.restart()
    assert rig.bot.risk.state is TradingState.REDUCING


@pytest.mark.parametrize("state", [TradingState.REDUCING, TradingState.HALTED])
def test_in_no_state_but_trading_does_an_entry_rest(tmp_path, state):
    """A limit that filled later would raise what may only shrink."""
    rig = a_rig(tmp_path)
    rig.venue.answers.append("rest")
    rig.tick()
    (entry,) = rig.venue.live()
    rig.venue.down = {"cancel"}
    rig.bot.risk.hold("rejects", state, "by the test")
    assert rig.tick(), "that it cannot be asked holds up nothing else"
    rig.venue.down = set()
    rig.tick()
    assert rig.venue.cancelled == [entry.id] and rig.venue.live() == []


def test_a_hold_by_sigusr1_is_dated_when_it_came_not_at_the_last_tick(tmp_path):
    """H6: ticks that fail before they begin leave the time of the events where it was."""
    rig = a_rig(tmp_path)
    rig.tick()
    rig.run(signals={1: signal.SIGUSR1}, ticks=1)
    assert [event.at for event in rig.of("state.changed")] == [rig.now]


def test_a_halt_freezes_the_trail_but_not_the_stop(tmp_path):
    rig = a_rig(tmp_path)
    rig.tick()
    (stop,) = rig.venue.live()
    rig.bot.risk.activate_kill_switch("enough")
    rig.venue.prices[BTC] = Decimal(110)
    rig.tick(60)
    assert rig.venue.live() == [stop]
    rig.venue.end(stop.id)
    rig.tick()
    assert sum(order.remaining for order in rig.venue.live()) == rig.venue.held()


def test_under_a_halt_a_crossed_stop_closes_and_turned_averages_do_not(tmp_path):
    rig = a_rig(tmp_path, interval=Decimal(1))
    rig.tick()
    rig.bot.risk.activate_kill_switch("enough")
    rig.venue.history[BTC] = FALLING
    rig.restart()
    rig.tick(60 * 30)
    assert rig.bot.last_decisions[BTC] == "close"
    assert rig.venue.held() > 0
    rig.venue.prices[BTC] = Decimal(90)
    for _ in range(15):
        rig.tick(1)
    assert rig.venue.held() == 0


def test_a_signal_ends_the_wait_of_the_real_clock_at_once():
    request = StopRequest()
    old = {number: signal.getsignal(number) for number in StopRequest.SIGNALS}
    try:
        request.install()
        clock = SystemClock(request)
        clock.now()
        os.kill(os.getpid(), signal.SIGUSR1)
        begun = time.monotonic()
        assert clock.wait(Decimal(30)) == signal.SIGUSR1
        assert time.monotonic() - begun < 5
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


# Bars.


def closes(rig, symbol=BTC):
    return rig.bot.strategy.window(symbol)


def test_bars_close_at_marks_on_the_grid_of_the_clock(tmp_path):
    rig = a_rig(tmp_path, trends=([],))
    for second in range(5, 185, 5):
        rig.venue.prices[BTC] = Decimal(second)
        rig.tick()
    # ticks at 12:00:05 .. 12:03:00; bars end at 12:01:00, 12:02:00 and 12:03:00
    assert closes(rig) == [60, 120, 180]


def test_the_windows_fill_from_the_venues_candles(rig):
    rig.tick()
    assert closes(rig) == RISING[-20:]


@pytest.mark.parametrize("bar, length, expected", [
    (300, 60, [84, 89, 94, 99]),  # every fifth close of the finer candles ends a bar
    (90, 60, []),                 # 60 does not divide 90
    (60, 300, []),                # nor are longer candles any use
])
def test_longer_bars_fill_from_finer_candles(tmp_path, bar, length, expected):
    rig = a_rig(tmp_path, trends=(list(range(80, 103)),), bar=bar)
    rig.now = NOON + timedelta(seconds=180)
    rig.venue.candle_seconds = length
    rig.tick(5)
    assert closes(rig) == expected


@pytest.mark.parametrize("missed, bars", [(0, 3), (1, 4), (GAP_BARS_MAX, 5), (GAP_BARS_MAX + 1, 1)])
def test_a_gap_of_more_than_two_bars_starts_the_window_anew(tmp_path, missed, bars):
    """F8: what a gap has poisoned is worth nothing."""
    rig = a_rig(tmp_path, trends=([],))
    rig.tick(0)
    rig.tick(60)
    rig.tick(60)
    rig.tick(60 * (missed + 1))
    assert len(closes(rig)) == bars
    assert rig.bot.strategy.bar_at(BTC) == rig.now


def test_a_gap_is_filled_from_candles_where_the_venue_has_them(tmp_path):
    rig = a_rig(tmp_path)
    rig.tick()
    rig.venue.history[BTC] = list(range(200, 224))
    rig.tick(60 * 10)
    assert closes(rig)[-2:] == [222, 223]


def test_a_restart_within_a_bar_or_two_takes_the_windows_from_the_cache(tmp_path):
    rig = a_rig(tmp_path, trends=([],))
    for price in range(100, 125):
        rig.venue.prices[BTC] = Decimal(price)
        rig.tick(60)
    window = closes(rig)
    rig.restart()
    rig.tick(30)
    assert closes(rig) == window


@pytest.mark.parametrize("absence, setting", [(600, {}), (30, {"bar": 120})])
def test_a_cache_that_is_old_or_of_other_bars_is_not_used(tmp_path, absence, setting):
    rig = a_rig(tmp_path, trends=([],))
    for _ in range(25):
        rig.tick(60)
    rig.restart(**setting)
    rig.tick(absence)
    assert len(closes(rig)) < 2


@pytest.mark.parametrize("content", [b"", b"[]", b"{", b'{"BTC-PERP": 3}', b'{"BTC-PERP": {}}',
                                     b'{"BTC-PERP": {"bar_at": "never"}}', b"\xff" * 99])
def test_a_broken_cache_is_no_reason_not_to_start(tmp_path, content):
    rig = a_rig(tmp_path, trends=([],))
    (tmp_path / "marks.json").write_bytes(content)
    assert rig.tick()


# Health.


@pytest.mark.parametrize("change, ok", [
    (lambda rig, disk: None, True),
    (lambda rig, disk: rig.venue.down.add("equity"), False),
    (lambda rig, disk: rig.venue.prices.update({BTC: None}), False),
    (lambda rig, disk: rig.bot.risk.activate_kill_switch("enough"), False),
    (lambda rig, disk: rig.bot.risk.hold("operator", TradingState.REDUCING, "said so"), False),
    (lambda rig, disk: rig.bot.untraded.add(BTC), False),
    (lambda rig, disk: refuse_appends(disk), False),
])
def test_health_is_ok_only_while_nothing_is_wrong(rig, monkeypatch, change, ok):
    rig.tick()
    change(rig, monkeypatch)
    rig.tick(60)
    assert rig.file("health.json")["ok"] is ok


def test_what_was_asked_for_is_not_unhealthy(tmp_path):
    rig = a_rig(tmp_path, reduce_only_mode=True)
    rig.tick()
    health = rig.file("health.json")
    assert (health["ok"], health["trading_state"]) == (True, "REDUCING")


@pytest.mark.parametrize("interval, valid", [("1", 10), ("5", 15), ("60", 180)])
def test_health_expires_after_three_ticks_and_not_before_ten_seconds(tmp_path, interval, valid):
    rig = a_rig(tmp_path, interval=Decimal(interval))
    rig.tick()
    health = rig.file("health.json")
    told = datetime.fromisoformat(health["timestamp"])
    assert told.utcoffset() == timedelta()
    assert datetime.fromisoformat(health["valid_until"]) - told == timedelta(seconds=valid)
    assert health["pid"] == os.getpid()


# A full disk.


def refuse_writes(monkeypatch):
    def refuse(fd, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(disk, "_write", refuse)


def refuse_appends(monkeypatch):
    """Only the events' file is full; health can still say so."""
    def refuse(fd, data):
        if data.startswith(b'{"seq"'):
            raise OSError(28, "No space left on device")
        return write(fd, data)

    write = disk._write
    monkeypatch.setattr(disk, "_write", refuse)


def test_a_full_disk_stops_entries_only_and_heals_with_the_space(tmp_path, monkeypatch):
    rig = a_rig(tmp_path, trends=(RISING, RISING))
    rig.tick()
    refuse_writes(monkeypatch)
    assert not rig.tick()
    assert sent(rig) == [f"entry {BTC}", f"stop {BTC}"]
    rig.bot.protector.exit(BTC, "enough")
    rig.tick()
    assert sent(rig)[-1] == f"exit {BTC}"
    assert rig.venue.held(BTC) == 0
    monkeypatch.undo()
    assert rig.tick()
    assert rig.venue.held(ETH) > 0
    rig.bot.store.close()
    events = verified(tmp_path / "events")
    assert [e["purpose"] for e in events if e["type"] == "order.intended"] == [
        "entry", "stop", "exit", "entry", "stop"]


# The same seed, the same run.


def a_run(folder, seed=7, ticks=120):
    symbols = ("BTC-PERP", "ETH-PERP", "SOL-PERP", "XRP-PERP")
    rig = Rig(PaperBroker(SyntheticMarket(seed)), folder, symbols=symbols, bar=1,
              short_ma_period=2, long_ma_period=10, interval=Decimal(1))
    rig.run(ticks=ticks)
    rig.bot.store.close()
    return {path.name: path.read_bytes() for path in (folder / "events").glob("*.jsonl")}


def test_the_same_seed_is_the_same_run_byte_for_byte(tmp_path):
    first, again = a_run(tmp_path / "first"), a_run(tmp_path / "again")
    assert first == again
    assert first != a_run(tmp_path / "other", seed=8)
    trades = [line for line in b"".join(first.values()).splitlines() if b"trade.executed" in line]
    assert len(trades) > 5


def test_the_run_does_not_depend_on_hash_seed_time_zone_or_folder(tmp_path):
    code = textwrap.dedent(f"""
        import sys; sys.path[:0] = [{str(REPO)!r}, {str(REPO / "tests")!r}]
        from pathlib import Path
        import test_loop
        test_loop.a_run(Path(sys.argv[1]))
    """)
    runs = []
    for number, zone in (("1", "UTC"), ("77", "Pacific/Chatham")):
        here = tmp_path / zone.replace("/", "")
        here.mkdir()
        env = {**os.environ, "PYTHONHASHSEED": number, "TZ": zone}
        subprocess.run([sys.executable, "-c", code, "data"], cwd=here, env=env, check=True,
                       timeout=60)
        runs.append({p.name: p.read_bytes() for p in (here / "data" / "events").iterdir()})
    assert runs[0] == runs[1] != {}


# A bug.


@pytest.mark.parametrize("where", ["loop._decide", "execution.ExecutionEngine.settle"])
def test_a_bug_ends_the_process_with_a_traceback_and_health_not_ok(tmp_path, where):
    code = textwrap.dedent(f"""
        import sys; sys.path.insert(0, {str(REPO)!r})
        from perps_bot import execution, loop
        from perps_bot.cli import main
        def broken(*arguments):
            raise ZeroDivisionError("planted")
        {where} = broken
        sys.exit(main(["--profile", "dev", "--interval", "1"]))
    """)
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True,
                          text=True, timeout=60, env={"PATH": os.environ["PATH"]})
    assert done.returncode == 1
    health = json.loads((tmp_path / "data/perps_bot/dev/health.json").read_text())
    assert health["ok"] is False
    assert "ZeroDivisionError" in health["error"]
    log = (tmp_path / "logs/perps_bot.log").read_text()
    assert "Traceback" in log
    assert "ZeroDivisionError: planted" in log


def test_a_restart_tells_the_venue_what_was_traded_before(tmp_path):
    rig = Rig(folder=tmp_path)
    rig.tick()
    assert rig.venue.traded_before == []
    rig.restart()
    rig.tick()
    assert rig.venue.traded_before == [rig.bot.catalog.get(BTC).product_id]


def changed(rig, **facts):
    rig.venue._products = [replace(product, **facts) for product in rig.venue._products]


RESTRICTIONS = (
    # what happens to the product              what is said of it
    ({"symbol": "GONE-PERP"},                                   "BTC-PERP: no such product"),
    ({"tradable": False, "note": "no longer listed"},           "no longer listed"),
    ({"tradable": False, "note": "cancel_only"},                "cancel_only"),
    ({"tradable": False, "note": "trading_disabled", "is_session_open": False},
                                                                "trading_disabled"),
)  # fmt: skip


@pytest.mark.parametrize("facts, said", RESTRICTIONS)
def test_what_is_held_and_delisted_or_flagged_is_not_ok_and_an_alert(tmp_path, facts, said):
    """E10: delisted; E8: flagged."""
    rig = a_rig(tmp_path / "data")
    rig.tick()
    rig.tick()
    assert rig.held() and rig.file("health.json")["ok"]
    listed = list(rig.venue._products)
    changed(rig, **facts)
    for _ in range(3):
        rig.tick(60)
    health = rig.file("health.json")
    assert not health["ok"] and said in health["message"]
    (alert,) = [e for e in rig.of("alert") if e.data["code"] == "RESTRICTED"]
    assert alert.data["about"] == BTC and said in alert.data["message"]
    assert rig.held() and [o.purpose for o in rig.venue.live()] == [Purpose.STOP]
    rig.venue._products = listed
    rig.tick(60)
    assert rig.file("health.json")["ok"]


def test_a_delisted_product_that_is_not_held_alerts_nobody(tmp_path):
    rig = a_rig(tmp_path / "data", trends=(FALLING,))
    rig.tick()
    changed(rig, tradable=False, note="no longer listed")
    rig.tick(60)
    assert rig.file("health.json")["ok"] and not rig.of("alert")
    assert "no longer listed" in rig.file("health.json")["message"]


def test_a_held_product_whose_session_closes_is_ok(tmp_path):
    rig = a_rig(tmp_path / "data")
    rig.tick()
    changed(rig, tradable=False, is_session_open=False,
            note="cancel_only, session closed: maintenance")
    rig.tick(60)
    assert rig.held() and rig.file("health.json")["ok"] and not rig.of("alert")


def test_a_start_with_a_flagged_product_in_hand_is_not_ok(tmp_path):
    rig = a_rig(tmp_path / "data")
    rig.tick()
    changed(rig, tradable=False, note="view_only")
    rig.restart().tick()
    assert len(rig.of("alert")) == 1 and not rig.file("health.json")["ok"]


@pytest.mark.parametrize("down, said", [("equity", "tick failed"),
                                        ("products", "products not refreshed")])
def test_a_lasting_outage_is_logged_once(caplog, down, said):
    rig = a_rig()
    rig.tick()
    rig.venue.down.add(down)
    for _ in range(5):
        rig.tick(60)
    rig.venue.down.clear()
    rig.tick(60)
    rig.venue.down.add(down)
    rig.tick(60)
    assert sum(said in record.message for record in caplog.records) == 2


def test_what_the_owner_holds_and_nobody_can_value_refuses_an_entry_and_ends_nothing(tmp_path):
    """A row of the account that cannot be read, or whose contract size nobody says."""
    venue = ScriptedVenue(BTC)
    truth, beside = venue.positions, Position("XYZ-26", Decimal(1), mark_price=Decimal("Infinity"))
    venue.positions = lambda: {**truth(), beside.symbol: beside}
    rig = Rig(venue, tmp_path, bar=60)
    venue.history = {BTC: RISING}
    assert rig.tick() and rig.tick() and not rig.held()
    (refused,) = rig.of("risk.rejected")
    assert refused.data["saw"]["positions"] == {"XYZ-26": (Decimal(1), "Infinity")}
    day = recorded.find_day(str(NOON.date()), tmp_path / "events")
    assert recorded.replay_day(day).difference is None
