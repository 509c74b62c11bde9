"""The specification of `perps_bot/execution.py`: what became of our intents?"""

import json
import random
import shutil
from datetime import timedelta
from decimal import Decimal

import pytest
from helpers import BTC, ETH, NOON, Desk, ScriptedVenue, repeated, verified

from perps_bot import store as disk
from perps_bot.errors import (
    ConfigError,
    OrderRejected,
    OutcomeUnknown,
    StoreDamaged,
    VenueUnavailable,
)
from perps_bot.execution import ExecutionEngine
from perps_bot.model import (
    FundingPayment,
    Mark,
    OrderStatus,
    OrderType,
    Position,
    Purpose,
    Side,
    TimeInForce,
)
from perps_bot.risk import RiskConfig

SELL_STOP_PASSED = "reject PREVIEW_STOP_PRICE_ABOVE_LAST_TRADE_PRICE"
OUT_OF_BOUNDS = "reject BRACKET_LIMIT_PRICE_OUT_OF_BOUNDS"


@pytest.fixture
def desk():
    return Desk()


@pytest.fixture
def full_disk(monkeypatch):
    """A switch: after `full_disk()` no line can be written, after `full_disk(False)` all can."""
    def switch(is_full=True):
        def refuse(fd, data):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(disk, "_write", refuse if is_full else write)

    write = disk._write
    return switch


def buy(desk, quantity="1", **more):
    return desk.engine.place_order(BTC, "buy", Decimal(quantity), **more)


def rest(desk, price="90", quantity="1", **more):
    """A resting limit entry."""
    return buy(desk, quantity, order_type="limit", limit_price=Decimal(price), **more)


# Intent before order.


def test_the_intent_is_on_disk_before_the_order_is_on_the_wire(tmp_path):
    desk, seen = Desk(folder=tmp_path / "events"), []

    def look(order):
        lines = (tmp_path / "events" / "2025-05-01.jsonl").read_text().splitlines()
        seen.append((order, json.loads(lines[-1])))

    desk.venue.watch = look
    desk.hold()
    desk.protector.exit(BTC, "enough")
    desk.tick()
    assert [order.purpose for order, _ in seen] == [Purpose.ENTRY, Purpose.STOP, Purpose.EXIT]
    for order, line in seen:
        assert line["type"] == "order.intended"
        assert line["client_order_id"] == order.id
        assert Decimal(line["quantity"]) == order.quantity
        assert (line["side"], line["symbol"]) == (order.side, order.symbol)


def test_an_entry_whose_intent_cannot_be_written_is_never_sent(tmp_path, full_disk):
    desk = Desk(folder=tmp_path)
    full_disk()
    with pytest.raises(StoreDamaged):
        buy(desk)
    assert desk.venue.sent == []
    full_disk(False)
    assert buy(desk).status is OrderStatus.FILLED
    desk.store.close()
    assert len(desk.of("order.intended")) == 1
    verified(tmp_path)


def test_stop_cancel_and_exit_go_on_while_nothing_can_be_written(tmp_path, full_disk):
    desk = Desk(folder=tmp_path)
    desk.tick(0)
    desk.engine.enter(BTC, Side.BUY, Decimal(1), "a cross")
    full_disk()
    desk.trail_to[BTC] = Decimal(99)
    desk.tick()
    assert desk.stops() == ["sell 1 at 99"]
    desk.protector.exit(BTC, "enough")
    desk.tick()
    assert desk.venue.held() == desk.held() == 0
    full_disk(False)
    desk.tick()
    desk.store.append("alert")
    desk.store.close()
    assert [e["purpose"] for e in verified(tmp_path) if e["type"] == "order.intended"] == [
        "entry", "stop", "exit"]


def test_an_order_that_was_never_sent_is_finished_and_may_be_tried_again(desk):
    desk.venue.answers.append("unavailable")
    with pytest.raises(VenueUnavailable):
        buy(desk)
    assert desk.engine.outstanding() == ()
    assert buy(desk).status is OrderStatus.FILLED
    assert not repeated(order.id for order in desk.venue.sent)


# Unknown outcomes.


@pytest.mark.parametrize("arrived, held", [("unknown", 1), ("lost", 0)])
def test_an_unknown_outcome_is_looked_up_and_never_sent_again(desk, arrived, held):
    desk.tick(0)
    desk.venue.answers.append(arrived)
    desk.venue.listing_lag = desk.venue.fill_lag = 3
    order = buy(desk)
    assert order.status is OrderStatus.UNKNOWN
    for _ in range(14):
        desk.tick()
    assert desk.held() == held
    assert desk.engine.order(order.id).status is (
        OrderStatus.FILLED if held else OrderStatus.LOST)
    assert [sent.id for sent in desk.venue.sent if sent.purpose is Purpose.ENTRY] == [order.id]


def test_an_unknown_outcome_blocks_its_symbol_for_increases_only():
    desk = Desk(ScriptedVenue(BTC, ETH))
    desk.tick(0)
    desk.venue.answers.append("lost")
    buy(desk)
    with pytest.raises(OrderRejected, match="unknown outcome"):
        buy(desk)
    assert desk.engine.place_order(ETH, "buy", Decimal(1)).status is OrderStatus.FILLED


@pytest.mark.parametrize("seconds, status", [
    ((0,), OrderStatus.UNKNOWN),
    ((0, 59), OrderStatus.UNKNOWN),
    ((0, 20, 20, 19), OrderStatus.UNKNOWN),
    ((0, 60), OrderStatus.LOST),
    ((0, 20, 40), OrderStatus.LOST),
])
def test_an_entry_is_lost_after_two_complete_listings_a_minute_apart(desk, seconds, status):
    desk.tick(0)
    desk.venue.answers.append("lost")
    order = buy(desk)
    for pause in seconds:
        desk.tick(pause)
    assert desk.engine.order(order.id).status is status


@pytest.mark.parametrize("seconds, status", [
    ((0, 9), OrderStatus.UNKNOWN), ((0, 3, 3, 3), OrderStatus.UNKNOWN),
    ((0, 10), OrderStatus.LOST), ((0, 3, 7), OrderStatus.LOST),
])
def test_a_reduction_is_lost_after_two_complete_listings_ten_seconds_apart(desk, seconds, status):
    desk.hold(stop=None)
    desk.venue.answers.append("lost")
    desk.protector.exit(BTC, "enough")
    desk.tick(0)
    (order,) = desk.engine.outstanding()
    for pause in seconds:
        desk.store.now += timedelta(seconds=pause)
        desk.engine.settle()
    assert desk.engine.order(order.id).status is status


def test_a_listing_that_failed_proves_nothing(desk):
    desk.tick(0)
    desk.venue.answers.append("lost")
    order = buy(desk)
    desk.venue.down.add("orders")
    for _ in range(5):
        with pytest.raises(VenueUnavailable):
            desk.tick()
    desk.venue.down.clear()
    desk.tick()
    assert desk.engine.order(order.id).status is OrderStatus.UNKNOWN


def test_an_order_seen_again_starts_its_proof_of_absence_anew(desk):
    desk.tick(0)
    desk.venue.answers.append("unknown")
    order = rest(desk)
    states = desk.venue._orders.pop(order.id)
    desk.tick()
    desk.venue._orders[order.id] = states
    desk.tick()
    assert desk.engine.order(order.id).status is OrderStatus.OPEN
    del desk.venue._orders[order.id]
    desk.tick()
    assert desk.engine.order(order.id).status is OrderStatus.OPEN


def test_a_lost_order_that_turns_up_after_all_is_booked_and_protected(desk):
    desk.tick(0)
    desk.venue.listing_lag = desk.venue.fill_lag = 30
    desk.venue.answers.append("unknown")
    buy(desk)
    desk.trail_to[BTC] = Decimal(99)
    for _ in range(8):
        desk.tick()
    assert desk.held() == desk.venue.held() == 1
    assert desk.stops() == ["sell 1 at 99"]


# Finished when the fills add up.


def test_the_fill_of_an_old_stop_is_booked_however_late_it_is_told(desk):
    desk.hold()
    desk.tick(86_400)
    (stop,) = desk.venue.live()
    desk.venue.fill_lag = 1200
    desk.venue.fill(stop.id)
    for _ in range(90):
        desk.tick(15)
    assert desk.held() == 0
    assert [event.data["purpose"] for event in desk.of("trade.executed")] == ["entry", "stop"]


def test_an_order_where_no_mark_was_known_is_judged_by_the_one_that_it_asks_for():
    engine = ExecutionEngine()
    assert BTC not in engine.picture().marks
    assert engine.place_order(BTC, "buy", Decimal("0.01")).status is OrderStatus.FILLED


def test_an_order_is_finished_only_when_its_recorded_fills_add_up(desk):
    desk.tick(0)
    desk.venue.fill_lag = 7
    order = buy(desk)
    assert order.status is OrderStatus.FILLED
    assert desk.engine.outstanding() != ()
    desk.tick()
    assert (desk.held(), len(desk.engine.outstanding())) == (0, 1)
    desk.tick()
    assert (desk.held(), desk.engine.outstanding()) == (1, ())


def test_every_fill_is_booked_once_however_often_it_is_read(desk):
    desk.hold()
    desk.protector.exit(BTC, "enough")
    for _ in range(4):
        desk.tick()
    booked = [event.data["fill_id"] for event in desk.of("trade.executed")]
    assert len(booked) == 2
    assert not repeated(booked)


def test_partial_fills_move_the_position_by_what_was_filled(desk):
    desk.tick(0)
    order = rest(desk, quantity="3")
    for quantity, held in (("1", 1), ("1.5", Decimal("2.5"))):
        desk.venue.fill(order.id, quantity)
        desk.tick()
        assert desk.held() == held
    desk.venue.end(order.id)
    desk.tick()
    assert desk.engine.order(order.id).status is OrderStatus.CANCELLED
    assert [order for order in desk.engine.outstanding() if order.purpose is Purpose.ENTRY] == []


def test_a_fill_that_beats_the_cancel_is_booked(desk):
    desk.tick(0)
    order = rest(desk)
    desk.venue.cancels = "fill"
    assert desk.engine.cancel_order(order.id).status is OrderStatus.FILLED
    assert desk.held() == 1


def test_funding_is_booked_once_however_long_a_stop_rests(desk):
    desk.hold()
    for hour in range(1, 73):
        at = desk.now + timedelta(hours=1)
        desk.venue.payments.append(FundingPayment(f"f{hour}", BTC, Decimal(1), Decimal(0), at))
        desk.tick(3600)
        desk.tick()
        desk.now = at
    paid = [event.data["payment_id"] for event in desk.of("funding.paid")]
    assert not repeated(paid)
    assert desk.tracker.total("funding") == len(desk.venue.payments) == 72


@pytest.mark.parametrize("ours, by_hand, booked", [
    ("0", "3", None), ("1", "0", "0.5"), ("1", "3", "0.5"), ("1", "-3", "0.5"), ("-2", "1", "-1"),
])
def test_only_what_falls_on_our_own_contracts_is_booked_as_our_funding(desk, ours, by_hand, booked):
    """The venue charges the account: half a dollar a contract here."""
    desk.hold(ours, stop=None) if ours != "0" else desk.tick(0)
    held = Decimal(ours) + Decimal(by_hand)
    due = FundingPayment("f", BTC, held / 2, Decimal("0.005"), desk.now + timedelta(hours=1), held)
    desk.tick(3599)
    desk.tick(2)
    desk.venue.payments.append(due)
    for _ in range(2):
        desk.tick(1)
    assert [event.data["amount"] for event in desk.of("funding.paid")] == (
        [] if booked is None else [Decimal(booked)])


def test_funding_is_of_what_was_held_at_the_end_of_its_hour_however_late_it_is_told(desk):
    desk.hold("2", stop=None)
    desk.venue.payments.append(FundingPayment(
        "f", BTC, Decimal(4), Decimal("0.01"), desk.now + timedelta(hours=1), Decimal(4)))
    desk.venue.down.add("funding_payments")
    with pytest.raises(VenueUnavailable):
        desk.tick(3610)
    desk.engine.broker.down.clear()
    desk.protector.exit(BTC, "x")
    desk.tick(1)
    desk.venue.payments.append(FundingPayment(
        "g", BTC, Decimal(4), Decimal("0.01"), desk.now - timedelta(seconds=5), Decimal(4)))
    desk.tick(1)
    assert desk.held() == 0
    assert [event.data["amount"] for event in desk.of("funding.paid")] == [2, 2]


# Protective stops.


@pytest.mark.parametrize("quantity, stop, rests", [
    ("1", "99", "sell 1 at 99"),
    ("-2", "101", "buy 2 at 101"),
    ("1", "98.74", "sell 1 at 98.5"),  # on the tick, and no earlier than asked
    ("-1", "101.26", "buy 1 at 101.5"),
])
def test_a_position_gets_a_bracket_of_its_size_right_after_the_fill(desk, quantity, stop, rests):
    desk.hold(quantity, stop=stop)
    assert desk.stops() == [rests]
    order = desk.venue.sent[-1]
    assert order.intent.order_type is OrderType.BRACKET
    assert order.intent.limit_price == 100 + 20 * (1 if Decimal(quantity) > 0 else -1)
    assert [event.data["seconds_unprotected"] for event in desk.of("stop.placed")] == [0]


def test_nothing_is_protected_at_a_level_that_nobody_named(desk):
    desk.hold(stop=None)
    desk.tick()
    assert desk.stops() == []


@pytest.mark.parametrize("refusals, limit", [(1, "110"), (2, "105"), (3, "102.5")])
def test_the_profit_leg_is_halved_while_it_is_out_of_bounds(desk, refusals, limit):
    desk.venue.answers.extend(["accept"] + [OUT_OF_BOUNDS] * refusals)
    desk.hold()
    (stop,) = desk.venue.live()
    assert stop.intent.order_type is OrderType.BRACKET
    assert stop.intent.limit_price == Decimal(limit)


@pytest.mark.parametrize("refusals, tried", [
    ([OUT_OF_BOUNDS] * 4, 4),
    (["reject ORDER_TYPE_NOT_ALLOWED"], 1),
])
def test_where_no_bracket_is_taken_a_stop_limit_protects(desk, refusals, tried):
    desk.venue.answers.extend(["accept"] + refusals)
    desk.hold()
    (stop,) = desk.venue.live()
    assert len(desk.venue.sent) == 1 + tried + 1
    assert stop.intent.order_type is OrderType.STOP_LIMIT
    assert (stop.intent.stop_price, stop.intent.limit_price) == (99, Decimal("94.5"))


def test_a_stop_refused_in_every_form_is_tried_again_but_not_at_every_step(desk):
    desk.venue.answers.extend(["accept", "reject A", "reject B"])
    desk.hold()
    assert desk.stops() == []
    sent = len(desk.venue.sent)
    desk.tick(7)
    assert len(desk.venue.sent) == sent
    desk.tick(3)
    assert desk.stops() == ["sell 1 at 99"]
    assert desk.of("stop.placed")[0].data["seconds_unprotected"] == 10


def test_a_grown_position_gets_another_stop_for_the_difference(desk):
    desk.tick(0)
    desk.trail_to[BTC] = Decimal(89)
    order = rest(desk, quantity="3")
    for quantity in ("1", "2"):
        desk.venue.fill(order.id, quantity)
        desk.tick()
    assert desk.stops() == ["sell 1 at 89", "sell 2 at 89"]


def test_a_stop_bigger_than_the_position_is_replaced(desk):
    desk.hold("3")
    desk.venue.trade_by_hand("-2")
    desk.tracker.adopt("reconcile.mismatch", desk.venue.positions()[BTC])
    desk.tick()
    assert desk.stops() == ["sell 1 at 99"]


def test_no_stop_is_left_behind_when_the_position_is_gone(desk):
    desk.hold("2")
    desk.venue.trade_by_hand("-2")
    desk.tracker.adopt("reconcile.mismatch", Position(BTC))
    desk.tick()
    assert desk.venue.live() == []


def test_a_stop_that_the_price_has_passed_means_exit_at_once(desk):
    desk.venue.answers.extend(["accept", SELL_STOP_PASSED])
    desk.hold()
    assert desk.held() == desk.venue.held() == 0
    assert [order.purpose for order in desk.venue.sent] == [
        Purpose.ENTRY, Purpose.STOP, Purpose.EXIT]


def test_a_stop_of_the_last_position_does_not_bind_the_next(desk):
    desk.hold()
    desk.venue.trade_by_hand("-1")
    desk.tracker.adopt("reconcile.mismatch", Position(BTC))
    desk.tick()
    desk.price(50)
    desk.tick(600)  # so fast a fall would pause the entries
    desk.hold(stop="49")
    assert desk.stops() == ["sell 1 at 49"]
    assert desk.held() == 1


# The ratchet.


@pytest.mark.parametrize("quantity, stop, to, rests", [
    ("1", "99", "99.1", "sell 1 at 99"),     # on the tick it is the same
    ("1", "99", "99.5", "sell 1 at 99.5"),   # 0.5 %
    ("1", "99", "98", "sell 1 at 99"),       # never looser
    ("-1", "101", "100.5", "buy 1 at 100.5"),
    ("-1", "101", "102", "buy 1 at 101"),
])
def test_the_stop_only_ever_gets_tighter(desk, quantity, stop, to, rests):
    desk.hold(quantity, stop=stop)
    desk.protector.trail(BTC, Decimal(to))
    assert desk.stops() == [rests]


@pytest.mark.parametrize("to, rests", [("1001.5", "sell 1 at 1000"), ("1002", "sell 1 at 1002")])
def test_the_stop_moves_by_at_least_a_fifth_of_a_percent(to, rests):
    desk = Desk()
    desk.price(1010)
    desk.hold(stop="1000")
    desk.protector.trail(BTC, Decimal(to))
    assert desk.stops() == [rests]


@pytest.mark.parametrize("to, sent", [("98.9", 2), ("99", 2), ("99.5", 3)])
def test_a_stop_is_not_replaced_by_its_equal_even_where_every_move_is_worth_it(to, sent):
    desk = Desk(stop_move_min_pct=Decimal(0)).hold(stop="99")
    desk.protector.trail(BTC, Decimal(to))
    assert len(desk.venue.sent) == sent


def test_a_stop_that_fires_as_it_is_placed_leaves_no_level_behind():
    class Hasty(ScriptedVenue):
        def place(self, order, now):
            placed = super().place(order, now)
            if order.purpose is Purpose.STOP and order.intent.stop_price == 99:
                self.fill(order.id)
            return self.order(placed.id)

    desk = Desk(Hasty())
    desk.hold()
    assert desk.held() == 0
    desk.price(50)
    desk.tick(600)  # so fast a fall would pause the entries
    desk.hold(stop="49")
    assert desk.stops() == ["sell 1 at 49"]


def test_the_old_stop_is_confirmed_gone_before_the_new_one_is_sent(desk):
    desk.hold()
    desk.venue.cancels = "queue"
    desk.protector.trail(BTC, Decimal("99.5"))
    assert len(desk.venue.sent) == 2
    desk.venue.finish_cancels()
    desk.trail_to[BTC] = Decimal("99.5")
    desk.tick(3)
    assert desk.stops() == ["sell 1 at 99.5"]
    assert desk.venue.overcommitted == []


def test_a_stop_that_fills_while_it_is_moved_ends_the_position(desk):
    desk.hold()
    desk.venue.cancels = "fill"
    desk.protector.trail(BTC, Decimal("99.5"))
    assert desk.held() == 0
    assert desk.venue.live() == []
    assert [event.data["stop_price"] for event in desk.of("stop.triggered")] == [99]


def test_the_trail_moves_the_stops_of_a_grown_position_too(desk):
    desk.tick(0)
    desk.trail_to[BTC] = Decimal(89)
    order = rest(desk, quantity="3")
    for quantity in ("1", "2"):
        desk.venue.fill(order.id, quantity)
        desk.tick()
    desk.protector.trail(BTC, Decimal(95))
    desk.tick()
    assert sum(order.remaining for order in desk.venue.live()) == 3
    assert {order.intent.stop_price for order in desk.venue.live()} == {Decimal(95)}


# Exits.


def test_an_exit_cancels_the_stop_sees_it_gone_and_closes(desk):
    desk.hold("2")
    (stop,) = desk.venue.live()
    desk.venue.cancels = "queue"
    desk.protector.exit(BTC, "enough")
    desk.tick()
    assert (desk.venue.cancelled, desk.held()) == ([stop.id], 2)
    desk.venue.finish_cancels()
    desk.tick()
    assert desk.held() == desk.venue.held() == 0
    close = desk.venue.sent[-1]
    assert (close.purpose, close.side, close.quantity) == (Purpose.EXIT, Side.SELL, 2)
    assert desk.engine.orders.are_told(BTC)


@pytest.mark.parametrize("by_hand, closed", [("-2", 1), ("4", 3)])
def test_an_exit_closes_the_smaller_of_our_ledger_and_the_venue(desk, by_hand, closed):
    desk.hold("3")
    desk.venue.trade_by_hand(by_hand)
    desk.protector.exit(BTC, "enough")
    desk.tick()
    assert desk.venue.sent[-1].purpose is Purpose.EXIT
    assert desk.venue.sent[-1].quantity == closed


@pytest.mark.parametrize("by_hand", ["-3", "-5"])
def test_nothing_is_closed_where_the_venue_holds_nothing_on_our_side(desk, by_hand):
    desk.hold("3")
    desk.venue.trade_by_hand(by_hand)
    desk.protector.exit(BTC, "enough")
    desk.tick()
    assert [order.purpose for order in desk.venue.sent] == [Purpose.ENTRY, Purpose.STOP]


def test_a_stop_that_fills_meanwhile_is_the_exit(desk):
    desk.hold()
    desk.venue.cancels = "fill"
    desk.protector.exit(BTC, "enough")
    desk.tick()
    assert desk.held() == desk.venue.held() == 0
    assert [order.purpose for order in desk.venue.sent] == [Purpose.ENTRY, Purpose.STOP]
    assert desk.engine.orders.are_told(BTC)


def test_an_exit_needs_no_mark(desk):
    desk.hold()
    desk.price(None)
    desk.protector.exit(BTC, "enough")
    desk.tick()
    assert desk.venue.sent[-1].purpose is Purpose.EXIT


def test_an_unfilled_exit_puts_the_stop_back_before_it_tries_again(desk):
    desk.hold()
    desk.venue.answers.append("rest")
    desk.protector.exit(BTC, "enough")
    desk.tick()
    first = desk.venue.sent[-1]
    desk.tick(9)
    assert desk.venue.cancelled.count(first.id) == 0
    desk.tick(1)
    assert desk.venue.order(first.id).status is OrderStatus.CANCELLED
    assert desk.stops() == ["sell 1 at 99"]
    desk.tick(9)
    assert desk.stops() == ["sell 1 at 99"]
    desk.tick(1)
    assert desk.held() == desk.venue.held() == 0
    assert [order.purpose.value for order in desk.venue.sent] == [
        "entry", "stop", "exit", "stop", "exit"]
    assert desk.venue.overcommitted == []


def test_a_rejected_close_puts_the_stop_back_and_tries_again_later(desk):
    desk.hold()
    desk.venue.answers.append("reject MARKET_CLOSED")
    desk.protector.exit(BTC, "enough")
    desk.tick(1)
    desk.tick(1)
    assert desk.stops() == ["sell 1 at 99"]
    assert desk.held() == 1
    for _ in range(10):
        desk.tick(1)
    assert desk.held() == desk.venue.held() == 0


@pytest.mark.parametrize("close, fill_lag", [
    ("rest", 0), ("reject MARKET_CLOSED", 0), ("accept", 15), ("unknown", 15), ("lost", 0),
])
def test_a_close_that_fails_below_its_stop_tries_again_without_a_storm(desk, close, fill_lag):
    desk.hold()
    desk.venue.fill_lag = fill_lag
    desk.protector.exit(BTC, "enough")
    desk.price(98)  # below the stop: it cannot be put back
    desk.venue.answers.append(close)
    sent = len(desk.venue.sent)
    for _ in range(12):
        desk.tick(1)
    assert len(desk.venue.sent) - sent <= 15
    for _ in range(12):
        desk.tick(1)
    assert desk.held() == desk.venue.held() == 0


def test_a_crossed_stop_waits_ten_seconds_for_the_venue_and_then_closes(desk):
    desk.hold()
    desk.protector.exit(BTC, "trailing stop crossed", leaves_it_to_the_stop=True)
    for _ in range(9):
        desk.tick(1)
    assert desk.stops() == ["sell 1 at 99"]
    desk.tick(1)
    assert desk.held() == desk.venue.held() == 0
    assert desk.venue.sent[-1].purpose is Purpose.EXIT


def test_a_crossed_stop_that_the_venue_fills_needs_nothing_from_us(desk):
    desk.hold()
    (stop,) = desk.venue.live()
    desk.protector.exit(BTC, "trailing stop crossed", leaves_it_to_the_stop=True)
    desk.tick(3)
    desk.venue.fill(stop.id)
    desk.tick(3)
    assert desk.held() == 0
    assert len(desk.venue.sent) == 2


def test_a_crossed_stop_that_does_not_rest_is_not_waited_for(desk):
    desk.hold(stop=None)
    desk.protector.exit(BTC, "trailing stop crossed", leaves_it_to_the_stop=True)
    desk.tick(1)
    assert desk.held() == 0


@pytest.mark.parametrize("answer, held", [("unknown", 0), ("lost", 1)])
def test_an_exit_of_unknown_outcome_is_looked_up_before_another_is_sent(desk, answer, held):
    desk.hold()
    desk.venue.listing_lag = desk.venue.fill_lag = 4
    desk.venue.answers.append(answer)
    desk.protector.exit(BTC, "enough")
    for _ in range(9):
        desk.tick(1)
    assert [o.purpose for o in desk.venue.sent].count(Purpose.EXIT) == 1
    assert desk.venue.held() == held
    for _ in range(60):
        desk.tick(1)
    assert desk.held() == desk.venue.held() == 0
    assert desk.venue.overcommitted == []


# A resting entry carries its stop.


@pytest.fixture
def resting():
    desk = Desk(order_type=OrderType.LIMIT)
    desk.tick(0)
    desk.trail_to[BTC] = Decimal(99)
    desk.entry = desk.engine.enter(BTC, Side.BUY, Decimal(3), "a cross")
    return desk


def test_a_resting_entry_carries_a_stop_that_becomes_ours_with_the_fill(resting):
    assert resting.entry.intent.attached_stop_price == 99
    resting.venue.fill(resting.entry.id)
    resting.tick()
    assert resting.held() == 3
    assert resting.stops() == ["sell 3 at 99"]
    assert len(resting.venue.sent) == 1
    assert resting.protector.stop_price(BTC) == 99


def test_an_attached_stop_that_is_listed_late_is_not_placed_again(resting):
    resting.venue.fill(resting.entry.id)
    resting.venue.listing_lag = 4
    for _ in range(10):
        resting.tick(1)
    assert resting.stops() == ["sell 3 at 99"]
    assert resting.venue.overcommitted == []


def test_a_later_part_of_an_entry_waits_for_the_stop_that_comes_with_it(resting):
    resting.venue.fill(resting.entry.id, 1)
    resting.venue.listing_lag = 4
    for number in range(30):
        if number == 20:
            resting.venue.fill(resting.entry.id)
        resting.tick(1)
    assert resting.stops() == ["sell 1 at 99", "sell 2 at 99"]
    assert len(resting.venue.sent) == 1


def test_the_stop_of_an_entry_whose_answer_was_lost_is_never_taken_for_a_strangers():
    desk = Desk(order_type=OrderType.LIMIT)
    desk.tick(0)
    desk.venue.answers.append("unknown")
    entry = desk.engine.enter(BTC, Side.BUY, Decimal(3), "a cross")
    desk.venue.fill(entry.id)
    desk.tick()
    assert desk.engine.foreign == ()
    assert desk.protector.is_protected(BTC) and len(desk.venue.live()) == 1


def test_an_attached_stop_that_fired_before_it_was_seen_is_booked(resting):
    resting.venue.fill(resting.entry.id)
    (child,) = resting.venue.live()
    resting.venue.fill(child.id)
    resting.tick()
    assert resting.held() == resting.venue.held() == 0
    assert len(resting.of("trade.executed")) == 2
    # Its level would bind the next position, and close a short at once.
    assert not resting.of("stop.placed") and not resting.protector.snapshot()["stop_levels"]


def test_where_no_stop_can_be_attached_the_entry_does_not_rest():
    desk = Desk(order_type=OrderType.LIMIT)
    desk.tick(0)
    desk.venue.answers.append("reject ATTACHED_ORDER_NOT_ALLOWED")
    order = desk.engine.enter(BTC, Side.BUY, Decimal(3), "a cross")
    assert order.intent.time_in_force is TimeInForce.IOC
    assert order.intent.attached_stop_price is None


def test_a_partly_filled_entry_is_protected_for_what_was_filled(resting):
    for quantity, stops in (("1", ["sell 1 at 99"]), ("2", ["sell 1 at 99", "sell 2 at 99"])):
        resting.venue.fill(resting.entry.id, quantity)
        resting.tick()
        assert resting.stops() == stops


# What is reduced is never more than what is held.


def test_a_filled_stop_whose_fill_is_not_told_yet_is_not_placed_again(desk):
    desk.hold()
    (stop,) = desk.venue.live()
    desk.venue.fill_lag = 8
    desk.venue.fill(stop.id)
    for _ in range(4):
        desk.tick(3)
    assert [order.purpose for order in desk.venue.sent] == [Purpose.ENTRY, Purpose.STOP]
    assert desk.venue.overcommitted == []
    assert desk.held() == 0


def test_the_untold_part_of_a_stop_is_not_added_again(desk):
    desk.hold("3")
    (stop,) = desk.venue.live()
    desk.venue.fill_lag = 8
    desk.venue.fill(stop.id, "1")
    for _ in range(4):
        desk.tick(3)
    assert desk.stops() == ["sell 2 at 99"]
    assert desk.venue.overcommitted == []
    assert desk.held() == 2


def test_an_entry_whose_fill_is_not_told_yet_counts_against_every_limit():
    limits = RiskConfig(max_position_pct_per_symbol=1, max_exposure_pct=1, leverage_max_global=1)
    desk = Desk(ScriptedVenue(BTC, ETH, equity="1000"), limits=limits)
    desk.tick(0)
    desk.venue.fill_lag = 8
    desk.engine.place_order(BTC, "buy", Decimal(9))
    with pytest.raises(OrderRejected, match="Leverage exceeds limit"):
        desk.engine.place_order(ETH, "buy", Decimal(9))


@pytest.mark.parametrize("seed", range(60))
def test_no_schedule_lets_reducing_orders_exceed_the_position(seed):
    """Lags, lost answers, races and the owner's impatience in random order."""
    dice, desk = random.Random(seed), Desk()
    venue, passive = desk.venue, ["accept"] * 6 + ["rest", "unknown", "lost", "reject X"]
    for _ in range(60):
        venue.listing_lag, venue.fill_lag = dice.choice([(0, 0), (2, 0), (0, 4), (4, 7)])
        venue.cancels = dice.choice(["at once", "at once", "queue", "fill"])
        venue.finish_cancels() if dice.random() < 0.5 else None
        venue.answers.append(dice.choice(passive))
        live = venue.live()
        if live and dice.random() < 0.2:
            order = dice.choice(live)
            venue.fill(order.id, dice.choice([order.remaining, Decimal("0.1")]))
        move(desk, dice)
        assert venue.overcommitted == []
        assert venue.held() >= 0
    calm(desk)
    assert desk.held() == venue.held()
    assert not repeated(order.id for order in venue.sent)
    protected = sum(order.remaining for order in venue.live() if order.purpose is Purpose.STOP)
    assert protected == venue.held()


def move(desk, dice):
    """One step of the schedule: the bot ticks, and sometimes something is wanted of it."""
    wish = dice.random()
    try:
        desk.tick(dice.choice([1, 2, 5]))
        if wish < 0.25 and not desk.engine.outstanding(BTC) and not desk.held():
            desk.trail_to[BTC] = Decimal(90)
            desk.engine.enter(BTC, Side.BUY, Decimal(dice.choice(["0.5", "1", "3"])), "a cross")
        elif wish < 0.4 and desk.held():
            desk.protector.exit(BTC, "enough")
        elif wish < 0.6 and desk.held():
            desk.trail_to[BTC] = min(desk.trail_to[BTC] + 1, Decimal(99))
            desk.protector.trail(BTC, desk.trail_to[BTC])
    except (OrderRejected, VenueUnavailable):
        pass


def calm(desk):
    """Everything works again, for two minutes."""
    desk.venue.listing_lag = desk.venue.fill_lag = 0
    desk.venue.cancels = "at once"
    desk.venue.answers.clear()
    desk.venue.finish_cancels()
    for order in desk.venue.live():
        if order.intent.order_type is OrderType.MARKET:
            desk.venue.fill(order.id)
    for _ in range(24):
        desk.tick()


# By hand.


def test_cancelling_twice_asks_once_and_says_the_same(desk):
    desk.tick(0)
    order = rest(desk)
    assert desk.engine.cancel_order(order.id).status is OrderStatus.CANCELLED
    assert desk.engine.cancel_order(order.id).status is OrderStatus.CANCELLED
    assert desk.venue.cancelled == [order.id]


def test_a_cancel_that_is_only_queued_says_so(desk):
    desk.tick(0)
    order = rest(desk)
    desk.venue.cancels = "queue"
    assert desk.engine.cancel_order(order.id).status is OrderStatus.CANCEL_QUEUED


@pytest.mark.parametrize("call", [
    lambda engine: engine.cancel_order("pb-9-000009"),
    lambda engine: engine.order("pb-9-000009"),
    lambda engine: engine.modify_order("pb-9-000009", Decimal(1)),
    lambda engine: engine.place_order(BTC, "up", Decimal(1)),
    lambda engine: engine.place_order(BTC, "buy", Decimal(1), "bracket"),
    lambda engine: engine.place_order("NO-PERP", "buy", Decimal(1)),
    lambda engine: engine.place_order(
        BTC, "buy", Decimal(1), "limit", Decimal(9), time_in_force="never"),
])
def test_a_wrong_argument_is_named_and_nothing_is_sent(desk, call):
    with pytest.raises((ConfigError, OrderRejected, ValueError)):
        call(desk.engine)
    assert desk.venue.sent == []


@pytest.mark.parametrize("quantity", [1.0, "1", None, True])
def test_a_quantity_that_is_no_decimal_is_refused(desk, quantity):
    with pytest.raises(TypeError):
        desk.engine.place_order(BTC, "buy", quantity)
    assert desk.venue.sent == []


def test_a_limit_order_without_a_price_is_refused(desk):
    with pytest.raises(TypeError):
        desk.engine.place_order(BTC, "buy", Decimal(1), "limit")


def test_modifying_replaces_what_is_left(desk):
    desk.tick(0)
    old = rest(desk, "90", "3")
    desk.venue.fill(old.id, "1")
    new = desk.engine.modify_order(old.id, Decimal("91"))
    assert new.id != old.id
    assert (new.quantity, new.intent.limit_price) == (2, 91)
    assert [order.id for order in desk.venue.live()] == [new.id]


def test_modifying_sends_nothing_while_the_cancel_is_not_confirmed(desk):
    desk.tick(0)
    old = rest(desk)
    desk.venue.cancels = "queue"
    with pytest.raises(OutcomeUnknown):
        desk.engine.modify_order(old.id, Decimal(91))
    assert len(desk.venue.sent) == 1


def test_modifying_an_order_that_filled_meanwhile_sends_nothing(desk):
    desk.tick(0)
    old = rest(desk)
    desk.venue.cancels = "fill"
    assert desk.engine.modify_order(old.id, Decimal(91)).status is OrderStatus.FILLED
    assert len(desk.venue.sent) == 1


@pytest.mark.parametrize("side, force, price", [
    ("buy", "GTD", "99.5"), ("buy", "IOC", "100.5"), ("sell", "GTD", "100.5"),
    ("sell", "IOC", "99.5"),
])
def test_a_limit_entry_rests_on_our_side_and_takes_on_theirs(side, force, price):
    desk = Desk(order_type=OrderType.LIMIT, time_in_force=TimeInForce(force))
    desk.tick(0)
    quote = Mark(BTC, Decimal(100), Decimal("99.5"), Decimal("100.5"), desk.now)
    desk.engine.see({BTC: quote})
    order = desk.engine.enter(BTC, Side(side), Decimal(1), "a cross")
    assert order.intent.limit_price == Decimal(price)
    assert (order.intent.expires_at is not None) == (force == "GTD")
    if force == "GTD":
        assert (order.intent.expires_at - desk.now).total_seconds() == 600


def test_cancelling_everything_spares_the_stops_and_names_what_is_left(desk):
    desk.hold()
    order = rest(desk, quantity="2", time_in_force="GTC")
    desk.venue.cancels = "queue"
    assert [left.id for left in desk.engine.cancel_all()] == [order.id]
    desk.venue.finish_cancels()
    assert not desk.engine.cancel_all()
    assert desk.stops() == ["sell 1 at 99"]


# Refusals.


def test_a_refusal_is_written_once_until_something_changes():
    desk = Desk(limits=RiskConfig(leverage_max_global=1))
    desk.tick(0)
    for quantity in ("2000", "2001", "2002"):
        with pytest.raises(OrderRejected):
            buy(desk, quantity)
    assert len(desk.of("risk.rejected")) == 1
    buy(desk, "1")
    with pytest.raises(OrderRejected):
        buy(desk, "2000")
    assert len(desk.of("risk.rejected")) == 2
    assert len(desk.venue.sent) == 1


@pytest.mark.parametrize("quantity, code", [("0.01", "BELOW_MINIMUM"), ("0", "BELOW_MINIMUM")])
def test_what_is_below_the_minimum_is_refused_and_never_rounded_up(desk, quantity, code):
    desk.tick(0)
    with pytest.raises(OrderRejected, match="Quantization failed: Below minimum") as refusal:
        buy(desk, quantity)
    assert refusal.value.code == code
    assert desk.of("risk.rejected")[0].data["codes"] == [code]
    assert desk.venue.sent == []


def test_without_a_mark_nothing_is_opened(desk):
    desk.price(None)
    with pytest.raises(OrderRejected, match="No mark price for symbol"):
        buy(desk)
    assert desk.venue.sent == []


# Restarts.


def test_ids_are_unique_over_restarts(tmp_path):
    desk = Desk(folder=tmp_path)
    for epoch in range(4):
        desk = desk.restart(epoch=f"{epoch:04d}")
        desk.hold()
        desk.protector.exit(BTC, "enough")
        desk.tick()
    desk.store.close()
    intended = [e["client_order_id"] for e in verified(tmp_path) if e["type"] == "order.intended"]
    assert len(intended) == 12
    assert not repeated(intended)


def test_an_order_without_an_answer_is_unknown_after_a_restart_and_not_sent_again(tmp_path):
    class Dead(BaseException):
        pass

    def die(order):
        raise Dead

    desk = Desk(folder=tmp_path)
    desk.tick(0)
    desk.venue.watch = die
    with pytest.raises(Dead):
        buy(desk)
    desk.venue.watch = lambda order: None
    desk = desk.restart(epoch="1")
    assert [order.status for order in desk.engine.outstanding()] == [OrderStatus.UNKNOWN]
    for _ in range(14):
        desk.tick()
    assert desk.engine.outstanding() == ()
    assert desk.venue.sent == []


def test_what_recovery_writes_carries_a_time_of_this_run(tmp_path):
    desk = Desk(folder=tmp_path)
    desk.venue.answers.append("lost")
    desk.tick(0)
    buy(desk)
    desk.store.close()
    days = {event["ts"][:10] for event in verified(tmp_path)}
    assert days == {"2025-05-01"}


@pytest.mark.parametrize("by_snapshot", [False, True])
def test_the_state_after_a_restart_is_the_state_before_it(tmp_path, by_snapshot):
    """At every moment of a busy run, through the events or through a day's snapshot."""
    dice, desk = random.Random(5), Desk(folder=tmp_path / "events")
    for step in range(80):
        desk.venue.fill_lag = dice.choice([0, 0, 4])
        desk.venue.cancels = dice.choice(["at once", "queue"])
        desk.venue.answers.append(dice.choice(["accept"] * 5 + ["lost", "unknown", "reject X"]))
        desk.venue.finish_cancels()
        if desk.venue.live() and dice.random() < 0.2:
            desk.venue.fill(dice.choice(desk.venue.live()).id, "0.1")
        move(desk, dice)
        if by_snapshot and step % 10 == 9:
            desk.now += timedelta(days=1)
            desk.store.now = desk.venue.now = desk.now
            parts = {"tracker": desk.tracker, "risk": desk.risk, "protection": desk.protector}
            desk.store.open_day(desk.now.date(), {n: p.snapshot() for n, p in parts.items()},
                                equity=desk.venue.equity())
        shutil.copytree(tmp_path / "events", tmp_path / f"copy-{step}")
        again = Desk(desk.venue, tmp_path / f"copy-{step}", desk.now)
        assert known(again) == known(desk)
        again.store.close()


def known(desk):
    """Everything that must outlive the process; marks come back with the next tick."""
    tracker = desk.tracker.snapshot()
    tracker["positions"] = {s: {k: v for k, v in row.items() if k != "mark_price"}
                            for s, row in tracker["positions"].items()}
    return disk._WHOLE.text({"protection": desk.protector.snapshot(), "tracker": tracker,
                             "risk": desk.risk.snapshot()})


def test_the_engine_trades_on_paper_when_it_is_given_no_venue():
    engine = ExecutionEngine()
    order = engine.place_order("BTC-PERP", "buy", Decimal("0.1"))
    assert order.status is OrderStatus.FILLED
    assert engine.tracker.get_position("BTC-PERP").quantity == Decimal("0.1")


@pytest.mark.parametrize("types, is_seen", [(("",), True), (("order.intended",), False)])
def test_what_the_gate_saw_is_put_together_only_where_everything_is_read(types, is_seen):
    venue, store, told = ScriptedVenue(), disk.EventStore(now=NOON), []
    store.subscribe(told.append, types)
    engine = ExecutionEngine(event_store=store, broker=venue)
    engine.see(venue.marks(venue.prices, NOON))
    engine.place_order(BTC, "buy", Decimal(1))
    (intended,) = [event for event in told if event.type == "order.intended"]
    assert (intended.data["saw"] is not None) is is_seen
