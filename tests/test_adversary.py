"""What an owner's hand, a full disk, a lagging read or one dead endpoint must not do to the bot."""

import errno
import signal
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal

import pytest
from helpers import BTC, ETH, FALLING, RISING, Desk, Rig, ScriptedVenue, VirtualClock

from perps_bot import store as disk
from perps_bot.errors import ConfigError, OrderRejected, VenueUnavailable
from perps_bot.loop import run
from perps_bot.model import (
    Fill, Order, OrderIntent, OrderStatus, OrderType, Purpose, Side, TimeInForce, TradingState,
)
from words import replace


def a_rig(folder=None, trends=(RISING,), **settings):
    symbols = (BTC, ETH)[:len(trends)]
    venue = ScriptedVenue(*symbols)
    for symbol, closes in zip(symbols, trends):
        venue.history[symbol] = closes
        venue.prices[symbol] = Decimal(closes[-1])
    return Rig(venue, folder, **{"symbols": symbols, "bar": 60, **settings})


def purposes(rig, symbol=BTC):
    return [order.purpose for order in rig.venue.live(symbol)]


class Killed(BaseException):
    """Stands for a kill: no handler of the bot's may catch it."""


def test_a_restart_within_the_venues_lag_still_protects_its_position(tmp_path):
    rig = a_rig(tmp_path)

    def die(event):
        if event.type == "order.updated":  # between the entry's answer and its stop
            raise Killed

    rig.bot.store.subscribe(die)
    with pytest.raises(Killed):
        rig.tick()
    assert rig.venue.held() > 0 and not rig.venue.live()
    rig.venue.position_lag = 8
    rig.restart()
    rig.tick()
    rig.venue.position_lag = 0
    for _ in range(4):
        rig.tick()
    assert rig.bot.untraded == set()
    assert purposes(rig) == [Purpose.STOP]


def close_by_hand(rig):
    """The owner closes in the app, and the venue drops the bracket of a position that is gone."""
    rig.venue.trade_by_hand(-rig.venue.held())
    for order in rig.venue.live():
        rig.venue.end(order.id)


def test_no_stop_rests_on_a_position_that_the_owner_closed():
    rig = a_rig()
    rig.tick()
    close_by_hand(rig)
    rig.tick()
    rig.tick()
    assert rig.venue.live() == []


def test_an_exit_of_what_the_owner_closed_ends_in_equal_books():
    rig = a_rig()
    rig.tick()
    close_by_hand(rig)
    rig.venue.prices[BTC] = Decimal(90)  # below the stop: an exit begins at once
    for _ in range(6):
        rig.tick()
    assert rig.held() == rig.venue.held() == 0
    assert len(rig.of("reconcile.mismatch")) == 1


def test_a_stop_that_a_full_disk_forgot_is_not_doubled_after_a_restart(tmp_path, monkeypatch):
    rig, write = a_rig(tmp_path), disk._write
    rig.tick()

    def refuse(fd, data):
        if data.startswith(b'{"seq"'):
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(fd, data)

    monkeypatch.setattr(disk, "_write", refuse)
    rig.venue.prices[BTC] += 10
    for _ in range(15):
        rig.tick()
    monkeypatch.undo()
    rig.restart()
    for _ in range(5):
        rig.tick()
    assert rig.venue.overcommitted == []
    assert sum(order.remaining for order in rig.venue.live()) == rig.venue.held() > 0


def test_a_lost_entry_that_fills_in_parts_is_taken_up_and_its_rest_cancelled():
    desk = Desk()
    desk.tick()
    desk.venue.listing_lag = 10_000
    desk.venue.answers.append("unknown")
    desk.engine.config = replace(desk.engine.config, order_type=OrderType.LIMIT,
                                 time_in_force=TimeInForce.GTC)
    desk.engine.enter(BTC, Side.BUY, Decimal(2), "x")
    for _ in range(14):
        desk.tick()
    (order,) = desk.venue.live()
    assert desk.engine.outstanding() == ()
    desk.venue.fill(order.id, 1)
    desk.tick()
    assert desk.held() == 1
    desk.venue.listing_lag = 0
    for _ in range(2):
        desk.tick()
    assert [o.purpose for o in desk.venue.live()] == [Purpose.STOP]
    assert desk.engine.order(order.id).filled_quantity == 1


def test_a_symbol_that_is_still_held_cannot_be_left_out(tmp_path):
    rig = a_rig(tmp_path, trends=(RISING, RISING))
    rig.tick()
    rig.tick()
    assert rig.venue.held(ETH) > 0
    rig.restart(symbols=(BTC,))
    with pytest.raises(ConfigError, match=f"{ETH}: still held .* add it to --symbols"):
        rig.tick()


def test_a_position_whose_stop_the_venue_refuses_is_not_ok(tmp_path):
    rig = a_rig(tmp_path)
    rig.venue.watch = lambda order: order.purpose is Purpose.STOP and rig.venue.answers.append(
        "reject TRADING_DISABLED")
    rig.tick()
    rig.tick()
    assert rig.venue.held() and not rig.venue.live()
    health = rig.file("health.json")
    assert not health["ok"]
    assert f"{BTC} has no stop at the venue" in health["message"]


def test_a_dead_cancel_in_one_symbol_holds_up_the_stop_of_no_other():
    rig = a_rig(trends=(RISING, RISING), order_type=OrderType.LIMIT)
    rig.venue._attach = lambda *_: None  # a venue that forgets what came with the entry
    rig.tick()
    rig.tick()
    rig.venue.fill(rig.venue.live(ETH)[0].id)
    rig.venue.history[BTC] = FALLING
    rig.bot.strategy.warm(
        BTC, [(rig.now + timedelta(minutes=n), Decimal(200 - 5 * n)) for n in range(24)])
    rig.venue.down.add("cancel")
    for _ in range(4):
        rig.tick()
    assert "cancel" in rig.bot.trouble
    assert Purpose.STOP in purposes(rig, ETH)


def test_a_stop_that_came_with_an_entry_an_hour_ago_is_replaced_at_once_when_it_is_gone():
    desk = Desk(order_type=OrderType.LIMIT, time_in_force=TimeInForce.GTC)
    desk.tick(0)
    entry = desk.engine.enter(BTC, Side.BUY, Decimal(1), "x")
    desk.venue.now = desk.now + timedelta(minutes=1)
    desk.venue.fill(entry.id)
    desk.tick(3600)
    desk.venue.end(desk.engine.outstanding()[0].id)
    desk.tick(5)
    desk.tick(5)
    assert desk.of("order.lost") == []
    assert [o.purpose for o in desk.venue.live()] == [Purpose.STOP]


def test_a_stop_with_our_tag_of_a_position_that_our_books_do_not_have_is_left_alone(tmp_path):
    rig = Rig(folder=tmp_path)
    stop = OrderIntent(BTC, Side.SELL, Decimal(1), OrderType.BRACKET, Purpose.STOP, Decimal(120),
                       Decimal(90), TimeInForce.GTC)
    rig.venue.trade_by_hand("1")
    rig.venue._set(Order("pb-1-000009", stop, rig.now, OrderStatus.OPEN, "v-9"))
    for _ in range(5):
        rig.tick()
    assert rig.venue.cancelled == [] and rig.bot.untraded == {BTC}
    assert "left alone" in rig.bot.message


def test_a_liquidation_of_what_is_not_ours_is_told_and_not_booked(tmp_path):
    rig = Rig(folder=tmp_path)
    rig.tick()
    rig.venue._fills.append(Fill("liq", "", BTC, Side.SELL, Decimal(3), Decimal(100), Decimal(0),
                                 rig.now, is_liquidation=True))
    rig.tick(30)  # of a quiet account, fills are read twice a minute
    assert rig.held() == 0 and not rig.of("trade.executed")
    assert "liquidation" in rig.bot.risk.holds


def test_of_a_liquidation_only_what_was_ours_is_booked():
    desk = Desk().hold("2")
    desk.venue._fills.append(Fill("liq", "", BTC, Side.SELL, Decimal(5), Decimal(98), Decimal(0),
                                  desk.now, is_liquidation=True))
    desk.tick(0)
    assert [event.data["quantity"] for event in desk.of("trade.executed")] == [2, 2]
    assert desk.tracker.get_position(BTC).quantity == 0


def test_a_failing_read_of_the_balance_does_not_keep_a_position_without_its_stop(tmp_path):
    rig = a_rig(tmp_path)
    rig.venue.answers.extend(["accept", "reject A", "reject B"])
    rig.tick()
    assert rig.held() > 0 and not rig.bot.protector.is_protected(BTC)
    rig.venue.down.add("equity")
    rig.tick(11)
    assert rig.bot.trouble and rig.bot.protector.is_protected(BTC)


@pytest.mark.parametrize("positions", ["empty", "down"])
def test_an_exit_takes_no_stop_away_while_nothing_is_seen_to_close(positions):
    desk = Desk().hold()
    (stop,) = desk.venue.live()
    desk.venue.position_lag = 10_000 if positions == "empty" else 0
    desk.venue.down |= {"positions"} if positions == "down" else set()
    desk.protector.exit(BTC, "enough")
    for _ in range(3):
        with suppress(VenueUnavailable):
            desk.tick()
    assert desk.venue.live() == [stop] and desk.venue.cancelled == []
    desk.venue.position_lag, desk.venue.down = 0, set()
    desk.tick()
    assert desk.held() == 0 and desk.venue.live() == []


def test_a_row_that_is_missing_from_the_positions_for_half_a_minute_costs_no_stop(tmp_path):
    rig = a_rig(tmp_path, trends=(RISING, RISING))
    rig.tick()
    rig.tick()
    (stop,) = rig.venue.live(ETH)
    theirs = rig.venue.positions
    rig.venue.positions = lambda: {s: p for s, p in theirs().items() if s != ETH}
    for _ in range(6):
        rig.tick(5)
    rig.venue.positions = theirs
    rig.tick(5)
    assert rig.held(ETH) > 0 and not rig.of("reconcile.mismatch")
    assert rig.venue.live(ETH) == [stop] and not rig.bot.risk.holds


def test_an_entry_that_fills_bit_by_bit_and_brings_no_stop_has_one_after_ten_seconds():
    desk = Desk(order_type=OrderType.LIMIT)
    desk.tick(0)
    desk.venue.answers.append("rest")
    entry = desk.engine.enter(BTC, Side.BUY, Decimal(8), "a cross")
    desk.venue._attach, desk.trail_to = lambda *_: None, {BTC: Decimal(99)}
    for _ in range(4):
        desk.venue.fill(entry.id, 1)
        desk.tick(4)
    assert desk.protector.is_protected(BTC) and desk.tracker.get_position(BTC).quantity == 4
    desk.venue.fill(entry.id, 1)
    desk.tick(4)
    assert desk.protector.is_protected(BTC)


def test_a_stop_that_the_venue_accepts_and_takes_back_is_replaced_by_a_plain_one_with_patience():
    desk, forms = Desk().hold(), []
    for number in range(4):
        (stop,) = desk.venue.live()
        forms.append(stop.intent.order_type)
        desk.venue.end(stop.id)
        desk.tick(2)
        assert len(desk.venue.live()) == (number == 0)
        desk.tick(10)
    assert forms == [OrderType.BRACKET, OrderType.BRACKET, OrderType.STOP_LIMIT,
                     OrderType.STOP_LIMIT]
    assert len(desk.venue.sent) == 1 + 5


def test_an_exit_that_the_venue_takes_and_ends_unfilled_lets_the_stop_go_back():
    desk, bare = Desk().hold(), 0
    desk.protector.exit(BTC, "enough")
    for _ in range(20):
        desk.venue.answers.append("rest")
        desk.tick(2)
        for order in desk.venue.live():
            if order.purpose is Purpose.EXIT:
                desk.venue.end(order.id)
        desk.venue.answers.clear()
        bare += not desk.stops()
    exits = [order for order in desk.venue.sent if order.purpose is Purpose.EXIT]
    assert 2 <= len(exits) <= 5 and bare <= len(exits)


def test_the_stop_that_came_with_an_entry_stays_while_the_fill_is_not_told_yet():
    desk = Desk(order_type=OrderType.LIMIT)
    desk.tick(0)
    entry = desk.engine.enter(BTC, Side.BUY, Decimal(1), "a cross")
    desk.trail_to = {BTC: Decimal(99)}
    desk.venue.fill(entry.id)
    desk.venue.fill_lag = 3
    for _ in range(5):
        desk.tick(2)
    assert desk.venue.cancelled == [] and len(desk.venue.live()) == 1
    assert desk.protector.is_protected(BTC)


def test_the_stop_that_came_with_an_entry_stays_while_only_a_part_of_its_fills_is_told():
    desk = Desk(order_type=OrderType.LIMIT)
    desk.tick(0)
    entry = desk.engine.enter(BTC, Side.BUY, Decimal(8), "a cross")
    desk.trail_to = {BTC: Decimal(99)}
    for part in (3, 5):
        desk.venue.fill(entry.id, part)
    told = desk.venue.fills
    desk.venue.fills = lambda since: told(since)[:1]
    for _ in range(3):
        desk.tick(2)
    assert desk.held() == 3
    desk.venue.fills = told
    desk.tick(2)
    assert desk.venue.cancelled == [] and desk.stops() == ["sell 3 at 99", "sell 5 at 99"]
    assert desk.held() == 8 and desk.protector.is_protected(BTC)


def test_the_parts_of_an_entry_whose_stop_covers_only_the_first_are_covered_in_time():
    desk, brought = Desk(order_type=OrderType.LIMIT), []
    desk.tick(0)
    entry = desk.engine.enter(BTC, Side.BUY, Decimal(30), "a cross")
    desk.trail_to[BTC], attach = Decimal(99), desk.venue._attach
    desk.venue._attach = lambda *said: brought or (brought.append(1), attach(*said))
    for _ in range(15):
        desk.venue.fill(entry.id, 1)
        desk.tick(4)
    covered = sum(o.remaining for o in desk.venue.live() if o.purpose is Purpose.STOP)
    assert desk.held() == 15 and covered >= 11 and not desk.venue.overcommitted


@pytest.mark.parametrize("kept", [0, 1])
def test_a_price_beyond_the_stop_that_nothing_fills_is_tried_at_the_pace_of_exits(kept):
    desk = Desk().hold("2")
    desk.venue.end(desk.venue.live()[0].id)
    desk.price(90)
    desk.protector.exit(BTC, "thin", keep=Decimal(kept))
    begun = len(desk.venue.sent)
    desk.venue.watch = lambda o: o.purpose is Purpose.EXIT and desk.venue.answers.append("rest")
    for _ in range(30):
        desk.tick(1)
        for order in desk.venue.live():
            desk.venue.end(order.id)
    sent = desk.venue.sent[begun:]
    exits = [o.quantity for o in sent if o.purpose is Purpose.EXIT]
    assert exits == [2 - kept, 2, 2] and len(sent) - len(exits) <= 4
    desk.venue.watch = lambda order: None
    desk.tick(10)
    assert desk.held() == 0


@pytest.mark.parametrize("answer", ["unknown", "lost"])
def test_a_stop_of_unknown_outcome_is_told_once_the_venue_shows_it(answer):
    desk = Desk().hold(stop=None)
    assert desk.held() == 1 and not desk.of("stop.placed")
    desk.trail_to[BTC] = Decimal(99)
    desk.venue.answers.append(answer)
    desk.venue.listing_lag = 4
    desk.tick(2)
    assert len(desk.venue.sent) == 2 and not desk.of("stop.placed")
    for _ in range(9):
        desk.tick(2)
    (placed,) = desk.of("stop.placed")
    assert placed.data["client_order_id"] == desk.venue.live()[0].id
    assert placed.data["seconds_unprotected"] == (6 if answer == "unknown" else 14)
    assert placed.data["stop_price"] == 99 and not desk.of("stop.moved")


@pytest.mark.parametrize("order_type", [OrderType.MARKET, OrderType.LIMIT])
def test_a_stop_of_the_process_looks_for_the_fills_of_an_entry_that_is_over(order_type):
    rig = a_rig(order_type=order_type)
    rig.tick()
    clock = VirtualClock(rig.now, signals={1: signal.SIGTERM})
    clock._on_wait = lambda _: setattr(rig.venue, "now", clock.now())
    if order_type is OrderType.LIMIT:
        rig.venue.fill_lag = 4
        rig.venue.fill(rig.bot.engine.entries()[0].id)
    else:
        rig = a_rig()
        rig.venue.fill_lag = 4
        clock._now = rig.now
    assert run(rig.bot, clock) == 0
    assert rig.held() == rig.venue.held() > 0
    assert [o.purpose for o in rig.venue.live()] == [Purpose.STOP]


def test_no_plain_stop_is_placed_on_a_position_that_the_venue_does_not_show():
    rig = a_rig()
    rig.tick()
    rig.tick()
    told = rig.venue.fills
    rig.venue.fills = lambda since: [f for f in told(since) if not f.fill_id.startswith("hand")]
    rig.venue.trade_by_hand(-rig.venue.held())
    rig.venue._refuse = lambda order: None  # a bracket is accepted, and taken back
    for _ in range(30):
        for order in rig.venue.live():
            if order.intent.order_type is OrderType.BRACKET:
                rig.venue.end(order.id)
        rig.tick(3)
        assert not [o for o in rig.venue.live() if o.intent.order_type is OrderType.STOP_LIMIT]


def test_an_exit_leaves_the_stop_while_an_entry_may_still_fill():
    desk = Desk()
    desk.trail_to[BTC] = Decimal(99)
    desk.tick(0)
    listed = desk.venue.orders
    desk.venue.answers.append("unknown")
    entry = desk.engine.enter(BTC, Side.BUY, Decimal(1), "x")
    desk.venue.orders = lambda since, known=(): [o for o in listed(since) if o.id != entry.id]
    desk.tick(2)
    desk.protector.exit(BTC, "enough")
    bare = 0
    for _ in range(40):
        desk.tick(2)
        bare += bool(desk.venue.held()) and not desk.stops()
    assert desk.held() == desk.venue.held() == 0 and bare <= 5


def test_a_liquidation_of_what_is_not_ours_can_be_resumed_from():
    rig = a_rig()
    rig.tick()
    rig.tick()
    rig.venue.fill(rig.venue.live()[0].id)
    rig.tick()
    for side in (Side.SELL, Side.BUY):
        rig.venue._fills.append(Fill(f"liq-{side}", "", BTC, side, Decimal(3), Decimal(100),
                                     Decimal(0), rig.now, is_liquidation=side is Side.SELL))
    rig.bot.risk.hold("operator", TradingState.REDUCING, "nothing is opened meanwhile")
    rig.tick()
    assert "liquidation" in rig.bot.risk.holds
    rig.tick(3600)
    rig.bot.risk.resume("looked", rig.now.date())
    rig.tick()
    assert not rig.bot.risk.holds


def test_an_old_trade_by_hand_does_not_explain_a_row_that_is_missing_now():
    rig = a_rig(trends=(RISING, RISING))
    rig.tick()
    rig.tick()
    rig.venue.trade_by_hand("1", ETH)
    rig.venue.trade_by_hand("-1", ETH)
    for _ in range(30):
        rig.tick(60)
    stops, theirs = rig.venue.live(ETH), rig.venue.positions
    rig.venue.positions = lambda: {s: p for s, p in theirs().items() if s != ETH}
    for _ in range(6):
        rig.tick(5)
    rig.venue.positions = theirs
    rig.tick(5)
    assert rig.held(ETH) > 0 and rig.venue.live(ETH) == stops


def test_a_row_that_is_missing_at_a_start_for_some_seconds_leaves_nothing_alone(tmp_path):
    rig = a_rig(tmp_path)
    rig.tick()
    rig.tick()
    rig.venue.end(rig.venue.live()[0].id)
    theirs = rig.venue.positions
    rig.venue.positions = lambda: {}
    rig.restart()
    for _ in range(4):
        rig.tick(5)
    rig.venue.positions = theirs
    rig.tick(5)
    assert rig.bot.untraded == set() and purposes(rig) == [Purpose.STOP]


def test_positions_that_cannot_be_read_hold_up_the_stop_of_no_other_symbol():
    rig = a_rig(trends=(RISING, RISING))
    rig.tick()
    rig.tick()
    rig.venue.end(rig.venue.live(BTC)[0].id)
    rig.venue.answers.append("lost")
    rig.tick()  # the new stop of BTC has an unknown outcome
    rig.tick(9)
    rig.venue.down.add("positions")
    rig.tick(11)  # now its absence would be proved by the positions
    rig.venue.end(rig.venue.live(ETH)[0].id)
    for _ in range(4):
        rig.tick(2)
    assert [o.purpose for o in rig.venue.live(ETH)] == [Purpose.STOP]


@pytest.mark.parametrize("what", ["candles", "equity", "marks", "positions"])
def test_a_start_that_cannot_be_finished_gives_a_bare_position_its_stop(tmp_path, what):
    rig = a_rig(tmp_path)

    def die(event):
        if event.type == "order.updated":
            raise Killed

    rig.bot.store.subscribe(die)
    with pytest.raises(Killed):
        rig.tick()
    rig.venue.down.add(what)
    rig.restart()
    rig.tick()
    assert what in rig.bot.trouble and not rig.bot.is_started
    assert purposes(rig) == [Purpose.STOP] and rig.bot.protector.is_protected(BTC)
    rig.venue.down.clear()
    rig.tick()
    assert rig.bot.is_started and purposes(rig) == [Purpose.STOP] and not rig.venue.overcommitted


def test_a_read_of_the_fills_that_fails_after_a_stop_was_cancelled_costs_no_stop():
    rig = a_rig()
    rig.tick()
    rig.tick()
    rig.venue.prices[BTC] += 10
    cancel, bare = rig.venue.cancel, 0

    def then_silence(orders, now):
        cancel(orders, now)
        rig.venue.down.add("fills")

    rig.venue.cancel = then_silence
    for _ in range(30):
        rig.tick(5)
        bare += not rig.venue.live()
    assert "fills" in rig.bot.trouble and bare == 0 and not rig.venue.overcommitted
    assert len(rig.venue.cancelled) == 1


def test_an_order_that_is_missing_while_the_fills_cannot_be_read_is_not_proved_absent():
    desk = Desk()
    desk.tick()
    desk.venue.answers.append("lost")
    desk.engine.enter(BTC, Side.BUY, Decimal(1), "x")
    desk.venue.down.add("fills")
    for _ in range(30):
        with suppress(VenueUnavailable):
            desk.tick(5)
    assert not desk.of("order.lost")
    desk.venue.down.clear()
    desk.tick()
    assert not desk.of("order.lost")  # the first listing that counts


def turn_up(desk, order, **state):
    """`order`, which our events say has ended, is at the venue after all."""
    desk.venue._set(replace(order, status=OrderStatus.OPEN, venue_order_id="v-late", **state))


@pytest.mark.parametrize("cancel", ["at once", "down"])
@pytest.mark.parametrize("answer", ["reject INVALID_BRACKET_PRICES", "unavailable"])
def test_an_entry_that_rests_although_it_was_refused_or_not_sent_is_cancelled(answer, cancel):
    """D4, I-20: nothing of ours rests at the venue without a place in our books."""
    desk = Desk(order_type=OrderType.LIMIT)
    desk.trail_to[BTC] = Decimal(99)
    desk.tick(0)
    desk.venue.answers.append(answer)
    with suppress(OrderRejected, VenueUnavailable):
        desk.engine.enter(BTC, Side.BUY, Decimal(2), "x")
    assert desk.engine.outstanding() == () and not desk.venue.live()
    turn_up(desk, desk.venue.sent[0])
    desk.venue.fill(desk.venue.sent[0].id, 1)
    desk.venue.down |= {cancel}
    desk.tick()
    assert desk.engine.entries() and desk.held() == 1
    desk.venue.down.clear()
    desk.tick()
    assert desk.venue.order(desk.venue.sent[0].id).status is OrderStatus.CANCELLED
    desk.tick()
    assert not desk.engine.entries() and desk.stops() == ["sell 1 at 99"]
    desk.tick(60)
    assert len(desk.venue.cancelled) == 1 and not desk.engine.foreign


def test_an_entry_that_turned_up_and_could_not_be_cancelled_is_cancelled_after_a_restart(tmp_path):
    desk = Desk(folder=tmp_path, order_type=OrderType.LIMIT)
    desk.tick(0)
    desk.venue.answers.append("unavailable")
    with suppress(VenueUnavailable):
        desk.engine.enter(BTC, Side.BUY, Decimal(2), "x")
    turn_up(desk, desk.venue.sent[0])
    desk.venue.down = {"cancel"}
    desk.tick()
    desk.store.open_day(desk.now.date() + timedelta(days=1),
                        {"orders": desk.engine.orders.snapshot()})
    desk = desk.restart()
    desk.venue.down = set()
    desk.tick()
    assert desk.venue.live() == []


def test_a_close_that_was_executed_although_it_was_refused_is_booked_as_ours():
    desk = Desk().hold()
    desk.protector.exit(BTC, "enough")
    desk.venue.answers.append("reject X")
    desk.tick()
    turn_up(desk, desk.venue.sent[-1])
    desk.venue.fill(desk.venue.sent[-1].id)
    desk.tick()
    assert desk.held() == 0 and not desk.engine.moved_by_others
    assert desk.of("trade.executed")[-1].data["purpose"] == Purpose.EXIT


def test_a_stop_that_rests_although_it_was_refused_is_not_doubled():
    desk = Desk().hold()
    desk.venue.end(desk.venue.live()[0].id)
    desk.venue._refuse = lambda order: None
    desk.venue.answers.extend(["reject A", "reject B"])
    desk.tick()
    assert desk.venue.live() == []
    turn_up(desk, desk.venue.sent[-1])
    for _ in range(4):
        desk.tick()
    assert desk.stops() == ["sell 1 at 99"] and not desk.venue.overcommitted
    assert desk.protector.is_protected(BTC)


def test_an_order_that_the_venue_lists_as_refused_is_refused_once():
    desk = Desk()
    desk.tick(0)
    desk.venue.answers.append("reject X")
    with suppress(OrderRejected):
        desk.engine.enter(BTC, Side.BUY, Decimal(1), "x")
    desk.venue._set(replace(desk.venue.sent[0], status=OrderStatus.REJECTED, venue_order_id="v-9"))
    desk.tick()
    assert len(desk.of("order.updated")) == 1


@pytest.mark.parametrize("by, sent", [("the venue", 3), ("us", 5)])
def test_entries_that_the_venue_takes_back_at_once_are_not_repeated_for_ever(by, sent):
    rig = a_rig(order_type=OrderType.LIMIT)
    for _ in range(5):
        rig.tick(20)
        for entry in rig.venue.live():
            if by == "us":
                rig.bot.engine.cancel_all()
            else:
                rig.venue.end(entry.id)
    assert len(rig.venue.sent) == sent
    assert ("SYMBOL_PAUSED" in str(rig.of("risk.rejected"))) == (by == "the venue")


def test_a_stop_that_grows_at_the_venue_with_its_entry_is_known_in_full(tmp_path):
    desk = Desk(folder=tmp_path, order_type=OrderType.LIMIT)
    desk.tick(0)
    entry = desk.engine.enter(BTC, Side.BUY, Decimal(8), "a cross")
    desk.trail_to[BTC] = Decimal(99)
    desk.venue.fill(entry.id, 3)
    desk.tick(2)
    (child,) = desk.venue.live()[1:]
    desk.venue._attach = lambda *_: None
    desk.venue.fill(entry.id, 5)
    desk.venue._set(replace(child, intent=replace(child.intent, quantity=Decimal(8))))
    for _ in range(4):
        desk.tick(10)
    assert desk.protector.is_protected(BTC) and len(desk.venue.sent) == 1
    desk = desk.restart()
    desk.tick()
    assert desk.protector.is_protected(BTC) and len(desk.venue.sent) == 1
    assert [order.remaining for order in desk.venue.live()] == [8]


def test_the_size_of_a_stop_that_a_listing_does_not_say_stays_what_it_was():
    desk = Desk().hold("2")
    (stop,) = desk.venue.live()
    desk.venue._set(replace(stop, intent=replace(stop.intent, quantity=Decimal(0))))
    desk.tick(60)
    assert desk.protector.is_protected(BTC) and len(desk.venue.sent) == 2
