"""What becomes of an order of the live bot when the wire, the venue or the bot itself fails.

Part D of the fault list, and of part C what concerns an order: the real bot against the exchange
process.  Whatever happened, `agreed` compares the bot's books with the exchange's own.
"""

import random
from collections import Counter
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from exchange.harness import API
from live import BTC, ETH, IDS, LiveRig, at_once

from perps_bot import rest as rest_room
from perps_bot import store as disk
from perps_bot.errors import OrderRejected, OutcomeUnknown, VenueUnavailable
from perps_bot.model import OrderStatus, OrderType, Side, TimeInForce, TradingState

CREATE, CLOSE, CANCEL = "/orders", "/orders/close_position", "/orders/batch_cancel"
LISTING = "GET /orders/historical/batch"
SIZE = Decimal("0.01")  # base units a contract
LIVE = ("PENDING", "OPEN", "QUEUED", "CANCEL_QUEUED")
# So many orders at once are no ordinary trading.
A_CROWD = dict.fromkeys((
    "max_orders_per_minute_per_symbol", "max_orders_per_minute", "max_messages_per_second",
    "max_entries_per_hour", "max_open_orders"), 1000)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    at_once(monkeypatch)
    monkeypatch.setattr(rest_room, "BACK_OFF_SECONDS", 0.001)
    monkeypatch.setattr(disk, "_fsync", lambda fd: None)


@pytest.fixture
def impatient(monkeypatch):
    """What never answers need not be waited for ten seconds."""
    for name in ("ORDER_SECONDS_MAX", "CANCEL_ATTEMPT_SECONDS_MAX"):
        monkeypatch.setattr(rest_room, name, 0.5)


@pytest.fixture
def rig(tmp_path):
    with LiveRig(tmp_path) as rig:
        rig.rising()
        yield rig


def long_of(rig, **settings):
    """A bot that holds six contracts, with its stop at the venue."""
    rig.start(**settings)
    rig.ticks(2)
    assert rig.held() == 6
    agreed(rig)
    return rig


# The judge: everything here is read from the exchange's own books.


def of_the_bot(rig, *kinds):
    return [order for order in rig.truth()["orders"]
            if order["by"] in ("key", "venue") and order["order_type"] in (kinds or
            ("MARKET", "LIMIT", "BRACKET", "STOP_LIMIT"))]


def resting(rig, *kinds):
    return [order for order in of_the_bot(rig, *kinds) if order["status"] in LIVE]


def left(order):
    return Decimal(order["size"]) - Decimal(order["filled_size"])


def agreed(rig, symbol=BTC):
    """The bot's books are the exchange's, the position is covered, and nothing ever flipped it."""
    truth = rig.truth()
    ours, theirs = rig.books(symbol), truth["positions"].get(IDS[symbol])
    assert ours.quantity == (Decimal(theirs["contracts"]) * SIZE if theirs else 0)
    assert not theirs or ours.entry_price == pytest.approx(Decimal(theirs["entry_price"]))
    assert rig.bot.tracker.total("fees") == Decimal(truth["fees"])
    assert rig.bot.tracker.total("realized_pnl") == pytest.approx(
        Decimal(truth["realized_pnl"]), abs=Decimal("0.005"))
    covered(rig, symbol, ours.side if ours.quantity else None)
    never_twice(rig, truth)


def covered(rig, symbol, side):
    """Stops for exactly what is held; none where nothing is."""
    stops = [order for order in resting(rig, "BRACKET", "STOP_LIMIT")
             if order["product_id"] == IDS[symbol]]
    assert sum(map(left, stops)) == abs(rig.held(symbol))
    assert side is None or {stop["side"] for stop in stops} == {side.opposite.value.upper()}


def never_twice(rig, truth):
    """No id was used for two orders, and no fill took a position through zero."""
    ids = Counter(order["client_order_id"] for order in truth["orders"])
    assert [identity for identity, count in ids.items() if count > 1] == []
    held = Counter()
    for fill in truth["fills"]:
        before, size = held[fill["product_id"]], Decimal(fill["size"])
        held[fill["product_id"]] = after = before + (size if fill["side"] == "BUY" else -size)
        assert before * after >= 0, f"flipped by {fill}"


def sent(rig):
    """The paths of what was posted, in order, with what counts of the body."""
    return [(row["path"].removeprefix(API), row["body"]) for row in rig.sim.requests("POST")]


def posts(rig):
    return [path for path, _ in sent(rig)]


def entries(rig):
    """The orders of the wire that could open a position."""
    return [body for body in rig.orders() if body["side"] == "BUY"]


def variants(rig):
    return [next(iter(body["order_configuration"])) for body in rig.orders()]


# D1 and D2: what a create's answer may be worth.

# How the answer to an order that was booked can get lost.
ACCEPTED = (
    {"name": "timeout_after_accept"}, {"name": "reset_after_accept"},
    {"name": "truncate"}, {"name": "wrong_length"},
    {"name": "html_200"}, {"name": "empty_200"}, {"name": "wrong_type"},
    *({"name": "status", "status": code, "accept": True} for code in (408, 429, 500, 502)),
    {"name": "redirect", "status": 307, "to": "https://example.invalid/", "accept": True},
    {"name": "answer", "body": '{"success": true}'},
    {"name": "answer", "body": '{"success": true, "success": false}'},
)


def named(fault):
    return " ".join(str(value) for value in fault.values())


def break_wire(rig, fault, **more):
    more |= fault
    rig.sim.network(more.pop("name"), **more)


@pytest.mark.parametrize("fault", ACCEPTED, ids=named)
def test_an_order_whose_answer_got_lost_is_looked_up_adopted_and_protected_d2_c2_c5_c6_c9(
    rig, impatient, fault
):
    rig.start()
    rig.sim.fault("lag_orders", seconds=8)
    rig.sim.fault("lag_fills", seconds=8)
    rig.sim.fault("lag_positions", seconds=8)
    break_wire(rig, fault, match="POST /orders$")
    rig.tick()
    (order,) = rig.bot.engine.outstanding()
    assert order.status is OrderStatus.UNKNOWN
    with pytest.raises(OrderRejected, match="unknown outcome"):
        rig.bot.engine.place_order(BTC, "buy", SIZE)
    rig.tick()
    assert len(rig.orders()) == 1  # the averages still say buy, and nothing is sent
    rig.sim.fault("clear")
    rig.ticks(2)
    assert len(entries(rig)) == 1
    assert rig.held() == 6
    agreed(rig)


@pytest.mark.parametrize("fault", [
    {"name": "reset_before"}, {"name": "status", "status": 500}, {"name": "status", "status": 502},
    {"name": "status", "status": 429}, {"name": "hang"},
    {"name": "redirect", "status": 307, "to": "https://example.invalid/"},
], ids=named)
def test_an_entry_that_never_arrived_is_given_up_after_two_listings_a_minute_apart_d2_d4(
    rig, impatient, fault
):
    rig.start()
    break_wire(rig, fault, match="POST /orders$")
    rig.tick()
    begun = rig.now
    while not rig.of("order.lost"):
        assert rig.now - begun < timedelta(seconds=90)
        assert len(rig.orders()) == 1
        rig.tick()
    assert rig.now - begun >= timedelta(minutes=1)
    rig.ticks(3)  # the averages decide afresh: a new intent with an id of its own
    assert len({body["client_order_id"] for body in entries(rig)}) == 2
    assert [order["filled_size"] for order in of_the_bot(rig, "MARKET")] == ["6"]
    agreed(rig)


def test_an_order_is_sent_once_over_a_stale_connection_c10(rig):
    rig.start()
    rig.sim.network("close_keepalive", match="POST /orders$")
    rig.ticks(15)
    ids = [body["client_order_id"] for body in entries(rig)]
    assert len(ids) == len(set(ids))
    assert rig.held() == 6
    agreed(rig)


@pytest.mark.parametrize("placed", [True, False])
@pytest.mark.parametrize("older", [True, False])
def test_an_answer_that_speaks_of_another_order_is_no_answer_d1(rig, older, placed):
    rig.start()
    if older:  # one that looks the same: only its id tells
        rig.ticks(2)
        rig.bot.protector.exit(BTC, "to begin anew")
        rig.ticks(2)
        assert rig.held() == 0
    rig.sim.fault("echo_other_order", placed=placed, times=1)
    if older:
        order = rig.bot.engine.place_order(BTC, "buy", 6 * SIZE)
        assert order.status is OrderStatus.UNKNOWN
    else:
        rig.tick()
        (order,) = rig.bot.engine.outstanding()
    held = 6 if placed else 0
    assert rig.held() == held
    rig.ticks(15)
    if placed:
        assert rig.bot.engine.order(order.id).status is OrderStatus.FILLED
    else:
        assert [event.data["client_order_id"] for event in rig.of("order.lost")] == [order.id]
    if older or placed:  # else the averages decide afresh
        assert rig.held() == held
    agreed(rig)


def test_an_answer_with_a_product_that_was_not_asked_for_is_no_answer_d1(rig):
    rig.price(3000, ETH)
    rig.sim.call("trade_by_owner", product_id=IDS[ETH], side="BUY", contracts="1")
    rig.start()
    rig.sim.fault("echo_other_order", placed=True, times=1)
    rig.tick()
    (order,) = rig.bot.engine.outstanding()
    assert order.status is OrderStatus.UNKNOWN
    rig.ticks(3)
    assert len(entries(rig)) == 1
    assert rig.held() == 6
    covered(rig, BTC, Side.BUY)


@pytest.mark.parametrize("shape", ["failure_with_id", "success_without_id"])
@pytest.mark.parametrize("placed", [True, False])
def test_a_yes_that_is_also_a_no_is_looked_up_d1_d2(rig, shape, placed):
    rig.start()
    rig.sim.fault("contradiction", shape=shape, placed=placed, times=1)
    rig.tick()
    (order,) = rig.bot.engine.outstanding()
    assert order.status is OrderStatus.UNKNOWN
    rig.ticks(15)
    assert len(entries(rig)) == (1 if placed else 2)
    assert rig.held() == 6
    agreed(rig)


@pytest.mark.parametrize("mode", ["duplicate_error", "no_dedup"])
def test_the_bot_never_needs_to_send_an_id_twice_d3(rig, mode):
    rig.start()
    rig.sim.fault(mode)
    rig.sim.network("reset_after_accept", match="POST /orders$")
    rig.ticks(4)
    assert rig.held() == 6
    ids = [body["client_order_id"] for body in rig.orders()]
    assert len(ids) == len(set(ids))
    agreed(rig)


# D3 and D4: absence.


@pytest.mark.parametrize("seconds", [9, 30])
@pytest.mark.parametrize("lags", [("orders",), ("orders", "fills"),
                                  ("orders", "fills", "positions")], ids=" ".join)
def test_a_listing_that_lags_makes_no_second_order_d4(rig, lags, seconds):
    rig.start()
    for name in lags:
        rig.sim.fault(f"lag_{name}", seconds=seconds)
    rig.sim.network("reset_after_accept", match="POST /orders$")
    rig.ticks(12)
    rig.sim.fault("clear")
    rig.ticks(6)
    assert rig.held() == 6
    assert len(entries(rig)) == 1
    agreed(rig)


@pytest.mark.parametrize("seconds", [5, 70])
def test_a_resting_entry_that_turns_up_late_is_cancelled_d4(rig, seconds):
    rig.start(order_type=OrderType.LIMIT)
    rig.sim.fault("lag_orders", seconds=seconds)
    rig.sim.network("reset_after_accept", match="POST /orders$")
    rig.tick()
    rig.sim.fault("clear")
    rig.sim.fault("lag_orders", seconds=0)
    rig.ticks(17)
    first, *later = of_the_bot(rig, "LIMIT")
    assert first["status"] == ("OPEN" if seconds < 60 else "CANCELLED")
    assert len(resting(rig, "LIMIT")) == 1
    assert len(later) == (seconds > 60)
    agreed(rig)


@pytest.mark.parametrize("fault", [
    {"name": "partial_page", "listing": "orders", "cursor": ""},
    {"name": "partial_page", "listing": "orders", "cursor": "repeated"},
    {"name": "status", "status": 500}, {"name": "truncate"}, {"name": "html_200"},
    {"name": "reset_before"},
], ids=named)
def test_a_listing_that_is_not_complete_proves_nothing_d4_d10(rig, fault):
    rig.start()
    rig.sim.network("reset_before", match="POST /orders$")
    rig.tick()
    if fault["name"] == "partial_page":
        rig.sim.fault("partial_page", listing="orders", cursor=fault["cursor"])
    else:
        break_wire(rig, fault, match=LISTING, times=None)
    for _ in range(10):
        assert not rig.tick()
    assert rig.of("order.lost") == []
    assert len(rig.orders()) == 1
    rig.sim.network("clear")
    rig.sim.fault("clear")
    cleared = rig.now
    rig.tick()
    assert rig.of("order.lost") == []
    rig.ticks(15)
    (lost,) = rig.of("order.lost")
    assert lost.at - cleared >= timedelta(minutes=1)
    assert rig.held() == 6
    agreed(rig)


def test_a_position_that_has_moved_forbids_the_proof_of_absence_d4(rig):
    rig.start()
    for name in ("orders", "fills"):
        rig.sim.fault(f"lag_{name}", seconds=30)
    rig.sim.network("reset_after_accept", match="POST /orders$")
    rig.ticks(7)
    assert rig.of("order.lost", "reconcile.mismatch") == []
    rig.sim.fault("clear")
    rig.ticks(3)
    assert rig.bot.risk.state is TradingState.TRADING
    agreed(rig)


# D5: refusals.


@pytest.mark.parametrize("reason", [
    "INSUFFICIENT_FUND", "PREVIEW_INSUFFICIENT_FUNDS_FOR_FUTURES", "INVALID_NO_LIQUIDITY"])
def test_a_refusal_that_concerns_one_order_is_dropped_d5(rig, reason):
    rig.start()
    rig.sim.fault("reject", reason=reason, times=1)
    rig.tick()
    assert rig.held() == 0
    rig.ticks(2)
    assert len(entries(rig)) == 2
    assert rig.held() == 6
    agreed(rig)


@pytest.mark.parametrize("reason", ["PREVIEW_INVALID_BASE_SIZE_TOO_SMALL", "INVALID_SIZE_PRECISION",
                                    "INVALID_PRICE_PRECISION"])
def test_a_refused_size_or_price_reads_the_product_anew_d5(rig, reason):
    rig.start()
    rig.sim.fault("reject", reason=reason, times=1)
    rig.tick()
    reads = len(rig.sim.requests("GET", "/products"))
    rig.ticks(2)
    assert len(rig.sim.requests("GET", "/products")) == reads + 1
    assert rig.held() == 6
    agreed(rig)


@pytest.mark.parametrize("reason", ["UNKNOWN_FAILURE_REASON", "A_REASON_OF_NEXT_YEAR",
                                    "UNSUPPORTED_ORDER_CONFIGURATION", "HTTP 400"])
def test_an_unknown_refusal_pauses_the_symbol_d5_c7(rig, reason):
    rig.history([59400 + 10 * n for n in range(60)], seconds=3600)
    rig.start(bar=3600)  # so that the cross outlasts the pause
    if reason == "HTTP 400":
        rig.sim.network("status", status=400, match="POST /orders$")
    else:
        rig.sim.fault("reject", reason=reason, times=1)
    rig.ticks(5, seconds=110)
    assert len(rig.orders()) == 1
    assert rig.bot.risk.state is TradingState.TRADING
    rig.ticks(2, seconds=110)
    rig.tick()
    assert len(entries(rig)) == 2
    assert rig.held() == 6
    agreed(rig)


@pytest.mark.parametrize("reason", ["ORDER_ENTRY_DISABLED", "GEOFENCING_RESTRICTION",
                                    "PREVIEW_UNTRADABLE_FCM_ACCOUNT_STATUS", 401, 403])
def test_a_refusal_of_the_account_stops_every_entry_until_a_person_looked_d5_c7(rig, reason):
    rig.start()
    if isinstance(reason, int):
        rig.sim.network("status", status=reason, match="POST /orders$")
    else:
        rig.sim.fault("reject", reason=reason, times=1)
    rig.ticks(8, seconds=100)
    assert len(rig.orders()) == 1
    assert rig.bot.risk.state is not TradingState.TRADING
    rig.start()
    rig.ticks(3)
    assert len(rig.orders()) == 1  # not even a restart lifts it
    agreed(rig)


def test_the_same_refusal_three_times_ends_the_attempts_d5_d13(rig):
    rig.start()
    rig.sim.fault("reject", reason="INSUFFICIENT_FUND")
    rig.ticks(30, seconds=20)
    assert len(rig.orders()) == 3
    assert rig.bot.risk.state is TradingState.REDUCING
    agreed(rig)


def test_a_stop_that_is_always_refused_is_asked_for_without_a_storm_d13(rig):
    rig.start()
    rig.sim.fault("bracket_refused", reason="UNSUPPORTED_ORDER_CONFIGURATION")
    rig.sim.fault("stop_refused", reason="UNSUPPORTED_ORDER_CONFIGURATION")
    rig.ticks(13)
    assert rig.held() == 6
    assert "no stop at the venue" in rig.bot.message
    assert len(rig.orders()) <= 1 + 2 * 7  # two forms, at most every ten seconds
    rig.sim.fault("clear")
    rig.ticks(3)
    agreed(rig)


# D6: partial fills, and what else may become of an entry.


@pytest.mark.parametrize("ends_filled", [True, False])
def test_a_partial_fill_is_held_and_protected_for_what_it_is_d6(rig, ends_filled):
    rig.start()
    rig.sim.fault("partial_fill", fraction="0.5", times=1, kind="MARKET")
    if ends_filled:
        rig.sim.fault("partial_ends_filled", times=1)
    rig.ticks(4)
    assert rig.held() == 3
    assert len(entries(rig)) == 1
    agreed(rig)


def test_a_market_order_that_waits_is_not_sent_again_d2_d6(rig):
    rig.start()
    rig.sim.fault("no_fill_yet", seconds=40, times=1, kind="MARKET")
    rig.ticks(7)
    assert rig.held() == 0
    rig.ticks(4)
    assert len(entries(rig)) == 1
    assert rig.held() == 6
    agreed(rig)


@pytest.mark.parametrize("reads", [3, 8])
def test_an_order_of_unknown_status_is_waited_for_d2(rig, reads):
    rig.start()
    rig.sim.fault("status_unknown", reads=reads)
    rig.ticks(6)
    assert len(entries(rig)) == 1
    assert rig.held() == 6
    agreed(rig)


def test_an_entry_that_the_venue_takes_back_at_once_is_no_position_d2(rig):
    rig.start()
    rig.sim.fault("accepted_then_cancelled", times=1)
    rig.ticks(2)
    assert rig.held() == 6 * (len(entries(rig)) - 1)
    rig.tick()
    agreed(rig)


# Limits, end to end.


def resting_entry(rig, force=TimeInForce.GTD):
    """A bot whose limit buy rests at the bid, with its bracket attached."""
    rig.start(order_type=OrderType.LIMIT, time_in_force=force)
    rig.ticks(2)
    (order,) = resting(rig, "LIMIT")
    assert Decimal(order["limit_price"]) == 60000
    return order


@pytest.mark.parametrize("force", [TimeInForce.GTD, TimeInForce.GTC])
def test_a_resting_entry_brings_its_stop_along_and_fills_in_parts_d6(rig, force):
    resting_entry(rig, force)
    (body,) = rig.orders()
    assert list(body["order_configuration"]) == [f"limit_limit_{force.lower()}"]
    assert body["attached_order_configuration"]["trigger_bracket_gtc"] == {
        "limit_price": "72000", "stop_trigger_price": "59400"}
    for _ in range(3):  # the market comes down to it, twice for two contracts, then for all
        rig.price(59995, ask_size="2" if rig.held() < 4 else "50")
        rig.ticks(2)
    assert rig.held() == Decimal(body["order_configuration"][f"limit_limit_{force.lower()}"]
                                 ["base_size"])
    rig.ticks(4)  # beyond the patience with a bracket that does not grow
    assert len(rig.orders()) == 1
    assert [o.status for o in rig.stops()] == [OrderStatus.OPEN]
    agreed(rig)


def test_a_resting_entry_dies_with_a_dead_bot_and_its_stop_does_not_d14(rig):
    resting_entry(rig)
    rig.price(59995, ask_size="2")
    rig.ticks(2)
    rig.end_process()
    rig.now += timedelta(hours=1)
    rig.sim.advance(rig.now)
    assert resting(rig, "LIMIT") == []
    (stop,) = resting(rig)
    assert (stop["order_type"], left(stop)) == ("BRACKET", rig.held())
    rig.start()
    rig.ticks(3)
    assert len(rig.orders()) == 1
    agreed(rig)


def test_every_increase_that_could_outlive_the_bot_has_an_end_d14(rig):
    resting_entry(rig)
    (body,) = rig.orders()
    ends = datetime.fromisoformat(
        body["order_configuration"]["limit_limit_gtd"]["end_time"].replace("Z", "+00:00"))
    assert timedelta() < ends - rig.now <= timedelta(minutes=10)
    rig.ticks(5, seconds=125)
    assert [order["status"] for order in of_the_bot(rig, "LIMIT")][0] == "EXPIRED"
    assert len(resting(rig, "LIMIT")) <= 1
    agreed(rig)


def test_the_remainder_of_an_ioc_is_not_chased(rig):
    rig.price(60000, ask_size="1")
    rig.start(order_type=OrderType.LIMIT, time_in_force=TimeInForce.IOC)
    rig.ticks(6)
    assert variants(rig)[0] == "sor_limit_ioc"
    assert [order["status"] for order in of_the_bot(rig, "LIMIT")] == ["CANCELLED"]
    assert rig.held() == 1
    agreed(rig)


def test_where_no_bracket_may_be_attached_the_entry_takes_instead_of_resting(rig):
    rig.sim.fault("attached_refused", reason="ATTACHED_ORDERS_NOT_ALLOWED")
    rig.start(order_type=OrderType.LIMIT)
    rig.ticks(3)
    assert variants(rig) == ["limit_limit_gtd", "sor_limit_ioc", "trigger_bracket_gtc"]
    assert rig.held() == 6
    agreed(rig)


def test_an_attached_bracket_that_fails_at_the_fill_is_replaced_by_our_own(rig):
    resting_entry(rig)
    rig.sim.fault("attached_refused", late=True)
    rig.price(59995)
    rig.ticks(4)
    assert variants(rig) == ["limit_limit_gtd", "trigger_bracket_gtc"]
    assert rig.held() == 6
    agreed(rig)


# Protective stops.


@pytest.mark.parametrize(("bound", "profit"), [("0.15", "66010"), ("0.06", "63010"),
                                               ("0.03", "61510")])
def test_a_profit_leg_out_of_bounds_is_halved(rig, bound, profit):
    rig.sim.fault("profit_out_of_bounds", pct=bound)
    rig.start()
    rig.ticks(3)
    (stop,) = resting(rig)
    assert (stop["order_type"], stop["limit_price"]) == ("BRACKET", profit)
    agreed(rig)


def test_after_three_halvings_a_plain_stop_is_used(rig):
    rig.sim.fault("profit_out_of_bounds", pct="0.01")
    rig.start()
    rig.ticks(3)
    assert variants(rig)[1:] == 4 * ["trigger_bracket_gtc"] + ["stop_limit_stop_limit_gtc"]
    agreed(rig)


@pytest.mark.parametrize("reason", ["UNSUPPORTED_ORDER_CONFIGURATION", "UNKNOWN_FAILURE_REASON"])
def test_where_brackets_are_refused_a_stop_limit_protects_and_fires(rig, reason):
    rig.sim.fault("bracket_refused", reason=reason)
    long_of(rig)
    (stop,) = resting(rig)
    assert (stop["order_type"], stop["stop_price"], stop["limit_price"]) == (
        "STOP_LIMIT", "59400", "56430")
    rig.price(59300)
    rig.ticks(2)
    assert rig.held() == 0
    assert rig.of("stop.triggered")
    agreed(rig)


def test_a_stop_that_the_price_has_passed_is_an_exit_at_once(rig):
    rig.start()
    rig.tick()
    rig.price(60000, last=59000)  # the last trade is beyond it, the book is not
    rig.ticks(3)
    assert rig.held() == 0
    assert posts(rig) == [CREATE, CREATE, CLOSE]
    agreed(rig)


def test_a_stop_whose_outcome_is_unknown_is_not_placed_twice_d2_d11(rig):
    rig.start()
    rig.tick()
    rig.sim.fault("lag_orders", seconds=7)
    rig.sim.network("reset_after_accept", match="POST /orders$")
    rig.ticks(2)
    assert len(rig.orders()) == 2
    rig.sim.fault("clear")
    rig.ticks(2)
    assert len(rig.orders()) == 2
    agreed(rig)


def test_a_stop_that_never_arrived_is_placed_after_the_proof_of_its_absence_d2_d4(rig):
    rig.start()
    rig.tick()
    rig.sim.network("reset_before", match="POST /orders$")
    rig.ticks(5)
    assert len(rig.orders()) == 3
    agreed(rig)


# D7 and D9: cancels.


@pytest.mark.parametrize("fault", [
    ("cancel_slow", {"seconds": 12}), ("cancel_slow", {"seconds": 4}),
    ("cancel_refused", {"times": 2}), ("cancel_lost", {"times": 2}),
], ids=str)
def test_a_cancel_is_repeated_until_the_listing_says_gone_d9(rig, fault):
    resting_entry(rig)
    rig.sim.fault(fault[0], kind="LIMIT", **fault[1])
    looks = 0
    while rig.bot.engine.cancel_all():
        assert resting(rig, "LIMIT")  # not gone before the venue says so
        rig.now += timedelta(seconds=5)
        rig.sim.advance(rig.now)
        rig.bot.store.now = rig.now
        looks += 1
        assert looks < 6
    assert looks
    assert resting(rig) == []
    assert rig.held() == 0
    agreed(rig)


@pytest.mark.parametrize("fault", [
    *({"name": name} for name in ("reset_before", "reset_after_accept", "html_200",
                                  "wrong_type", "timeout_after_accept")),
    {"name": "status", "status": 429}, {"name": "status", "status": 502, "accept": True},
], ids=named)
@pytest.mark.parametrize("times", [3])
def test_a_cancel_whose_answer_got_lost_is_asked_again_and_looked_up_d9_c8(
    rig, impatient, fault, times
):
    resting_entry(rig)
    break_wire(rig, fault, match="POST /orders/batch_cancel", times=times)
    for _ in range(3):
        try:
            if not rig.bot.engine.cancel_all():
                break
        except VenueUnavailable:
            assert resting(rig, "LIMIT")
    assert resting(rig) == []
    agreed(rig)


@pytest.mark.parametrize("seconds", [0, 4])
def test_an_entry_that_fills_while_its_cancel_is_queued_is_kept_and_protected_d7(rig, seconds):
    resting_entry(rig)
    rig.sim.fault("cancel_fills", kind="LIMIT")
    if seconds:
        rig.sim.fault("cancel_slow", kind="LIMIT", seconds=seconds)
    rig.bot.engine.cancel_all()
    rig.price(60000)
    rig.ticks(4)
    assert rig.held() == 6
    agreed(rig)


def test_a_fill_that_is_read_after_the_cancel_is_still_booked_d7(rig):
    resting_entry(rig)
    rig.sim.fault("lag_fills", seconds=12)
    rig.price(59995, ask_size="2")
    rig.bot.engine.cancel_all()
    rig.ticks(5)
    assert rig.held() == 2
    agreed(rig)


def test_hundreds_of_orders_are_cancelled_by_hundreds_and_each_answer_is_read_d9(tmp_path):
    with LiveRig(tmp_path, {"cash": "100000000"}) as rig:
        rig.history([60000] * 60)
        rig.price(60000)
        rig.start(max_position=Decimal(10_000_000), **A_CROWD)
        rig.tick()
        for number in range(130):
            rig.bot.engine.place_order(
                BTC, "buy", SIZE * (1 + number), "limit", 30000 + 5 * number, "GTC")
        rig.sim.fault("cancel_refused", times=3, kind="LIMIT")
        rig.sim.fault("cancel_lost", times=2, kind="LIMIT")
        stubborn = rig.bot.engine.cancel_all()
        assert len(stubborn) == len(resting(rig)) == 5
        asked = [body["order_ids"] for path, body in sent(rig) if path == CANCEL]
        assert [len(ids) for ids in asked] == [100, 30]
        assert not rig.bot.engine.cancel_all()
        assert resting(rig) == []
        agreed(rig)


def test_a_hundred_that_fail_do_not_hold_up_the_others_d9(tmp_path):
    with LiveRig(tmp_path, {"cash": "100000000"}) as rig:
        rig.history([60000] * 60)
        rig.price(60000)
        rig.start(max_position=Decimal(10_000_000), **A_CROWD)
        rig.tick()
        for number in range(120):
            rig.bot.engine.place_order(
                BTC, "buy", SIZE * (1 + number), "limit", 30000 + 5 * number, "GTC")
        rig.sim.network("status", status=500, match="POST /orders/batch_cancel", times=3)
        assert len(rig.bot.engine.cancel_all()) == len(resting(rig)) == 100
        assert not rig.bot.engine.cancel_all()
        assert resting(rig) == []


# Moving a resting entry.


def test_a_modified_order_is_cancelled_seen_gone_and_placed_again(rig):
    resting_entry(rig)
    (old,) = rig.bot.engine.entries()
    new = rig.bot.engine.modify_order(old.id, Decimal(59900))
    rows = [(row["method"], row["path"].removeprefix(API)) for row in rig.sim.requests()]
    asked = len(rows) - rows[::-1].index(("POST", CANCEL)) - 1
    placed = len(rows) - rows[::-1].index(("POST", CREATE)) - 1
    assert ("GET", "/orders/historical/batch") in rows[asked:placed]
    (order,) = resting(rig, "LIMIT")
    assert (order["client_order_id"], order["limit_price"]) == (new.id, "59900")
    agreed(rig)


def test_an_order_whose_cancel_is_not_confirmed_is_not_placed_again(rig):
    resting_entry(rig)
    (old,) = rig.bot.engine.entries()
    rig.sim.fault("cancel_slow", seconds=8)
    with pytest.raises(OutcomeUnknown):
        rig.bot.engine.modify_order(old.id, Decimal(59900))
    assert len(rig.orders()) == 1
    rig.now += timedelta(seconds=9)
    rig.sim.advance(rig.now)
    rig.bot.store.now = rig.now
    rig.bot.engine.modify_order(old.id, Decimal(59900))
    assert [order["limit_price"] for order in resting(rig, "LIMIT")] == ["59900"]
    agreed(rig)


@pytest.mark.parametrize("filled", [2, 6])
def test_a_modified_order_that_filled_meanwhile_is_placed_for_what_is_left_d7(rig, filled):
    resting_entry(rig)
    (old,) = rig.bot.engine.entries()
    rig.price(59995, ask_size=str(filled))
    rig.price(60000)
    answer = rig.bot.engine.modify_order(old.id, Decimal(59900))
    assert (answer.id == old.id) is (filled == 6)
    assert sum(map(left, resting(rig, "LIMIT"))) == 6 - filled
    assert rig.held() == filled
    rig.ticks(4)
    agreed(rig)


# D10: pages.


def test_an_unknown_order_is_found_behind_250_others_d10(rig):
    rig.start()
    rig.sim.fault("lag_orders", seconds=1)
    rig.sim.network("reset_after_accept", match="POST /orders$")
    rig.tick()
    (order,) = rig.bot.engine.outstanding()
    for _ in range(250):
        rig.sim.call("order_by_owner", product_id=IDS[ETH], side="BUY", contracts="1",
                     limit_price="1")
    rig.tick()
    assert rig.bot.engine.order(order.id).status is OrderStatus.FILLED
    pages = [row for row in rig.sim.requests("GET", "/orders/historical/batch")
             if any(name == "cursor" for name, _ in row["query"])]
    assert len(pages) >= 2
    rig.ticks(2)
    assert len(entries(rig)) == 1
    agreed(rig)


@pytest.mark.parametrize("times", [1, 3, 9])
def test_a_listing_that_hides_its_second_half_loses_no_stop_d10(rig, times):
    long_of(rig)
    rig.sim.fault("has_next_lies", listing="orders", times=times)
    rig.ticks(8)
    assert len(rig.orders()) == 2 or times == 9
    agreed(rig)


def test_fills_whose_last_page_has_a_cursor_are_read_to_their_end_d10(rig):
    rig.sim.fault("last_page_cursor")
    long_of(rig)


# The ratchet.


def ratcheted(rig):
    """The market rises over the end of a bar, so that the stop has to follow."""
    rig.price(61000)
    rig.tick(60)


def test_the_ratchet_cancels_sees_it_gone_and_places_d9(rig):
    long_of(rig)
    ratcheted(rig)
    rows = [(row["method"], row["path"].removeprefix(API)) for row in rig.sim.requests()]
    asked, placed = rows.index(("POST", CANCEL)), len(rows) - rows[::-1].index(("POST", CREATE)) - 1
    assert ("GET", "/orders/historical/batch") in rows[asked:placed]
    (stop,) = resting(rig)
    assert stop["stop_price"] == "60390"
    agreed(rig)


@pytest.mark.parametrize("fault", [
    ("cancel_slow", {"seconds": 12}), ("cancel_slow", {"reads": 3}),
    ("cancel_refused", {"times": 2}), ("cancel_lost", {"times": 2}),
], ids=str)
def test_no_second_stop_is_placed_before_the_first_is_gone_d9_d11(rig, fault):
    long_of(rig)
    rig.sim.fault(fault[0], kind="BRACKET", **fault[1])
    ratcheted(rig)
    rig.ticks(6)
    agreed(rig)
    rig.sim.fault("clear")
    rig.price(61500)
    rig.tick(60)
    rig.ticks(2)
    assert [stop["stop_price"] for stop in resting(rig)] == ["60885"]
    assert not any("rejected" in str(event.data["status"]) for event in rig.of("order.updated"))
    agreed(rig)


def test_a_stop_that_fills_while_it_is_being_moved_is_the_exit_d7_d11(rig):
    long_of(rig)
    rig.sim.fault("cancel_fills", kind="BRACKET")
    ratcheted(rig)
    rig.ticks(3)
    assert rig.held() == 0
    assert posts(rig).count(CLOSE) == 0
    agreed(rig)


@pytest.mark.parametrize("fault", [{"name": "reset_before"}, {"name": "reset_after_accept"},
                                   {"name": "status", "status": 503}], ids=named)
@pytest.mark.parametrize("path", [CANCEL, CREATE])
def test_a_ratchet_over_a_broken_wire_ends_with_one_stop_d2_d9(rig, path, fault):
    long_of(rig)
    break_wire(rig, fault, match=f"POST {path}$", times=1 if path == CREATE else 3)
    ratcheted(rig)
    rig.ticks(5)
    agreed(rig)


# The exit, and two reducers at once.


def test_the_exit_cancels_the_stop_sees_it_gone_and_closes_an_explicit_size_d11(rig):
    long_of(rig)
    rig.bot.protector.exit(BTC, "by hand")
    rig.ticks(3)
    assert posts(rig) == [CREATE, CREATE, CANCEL, CLOSE]
    (body,) = rig.orders(CLOSE)
    assert (body["product_id"], Decimal(body["size"])) == (IDS[BTC], 6)
    assert rig.held() == 0
    agreed(rig)


def test_nothing_is_closed_before_the_stop_is_gone_even_where_the_venue_would_d11(rig):
    long_of(rig)
    rig.sim.fault("close_ignores_brackets")
    rig.sim.fault("cancel_slow", kind="BRACKET", seconds=12)
    rig.bot.protector.exit(BTC, "by hand")
    for _ in range(3):
        rig.tick()
        if resting(rig):
            assert CLOSE not in posts(rig)
    rig.ticks(2)
    assert rig.held() == 0
    agreed(rig)


CANCELS = (None, ("cancel_slow", {"seconds": 7}), ("cancel_refused", {"times": 1}),
           ("cancel_lost", {"times": 1}), ("cancel_fills", {}))
CLOSES = (
    None, ("close_refused", {"reason": "UNKNOWN_FAILURE_REASON", "times": 1}),
    ("no_fill_yet", {"seconds": 25, "times": 1, "kind": "MARKET"}),
    ("partial_fill", {"fraction": "0.5", "times": 1, "kind": "MARKET"}),
    {"name": "reset_after_accept"}, {"name": "reset_before"}, {"name": "html_200"},
)


@pytest.mark.parametrize(("cancel", "close"), [
    *((cancel, close) for cancel in CANCELS[:2] for close in CLOSES),
    *((cancel, CLOSES[1]) for cancel in CANCELS[2:]),
], ids=str)
def test_an_exit_ends_flat_and_never_flips_whatever_fills_when_d7_d9_d11(rig, cancel, close):
    long_of(rig)
    if cancel:
        rig.sim.fault(cancel[0], kind="BRACKET", **cancel[1])
    if isinstance(close, dict):
        break_wire(rig, close, match="POST /orders/close_position")
    elif close:
        rig.sim.fault(close[0], **close[1])
    rig.bot.protector.exit(BTC, "by hand")
    for _ in range(16):
        rig.tick()
        if rig.held() == 0:
            break
    rig.ticks(3)
    assert rig.held() == 0
    agreed(rig)


@pytest.mark.parametrize("close", CLOSES[1:], ids=str)
def test_a_market_that_falls_through_the_stop_during_an_exit_never_flips_it_d11(rig, close):
    long_of(rig, enable_shorts=False)
    if isinstance(close, dict):
        break_wire(rig, close, match="POST /orders/close_position")
    else:
        rig.sim.fault(close[0], **close[1])
    rig.bot.protector.exit(BTC, "by hand")
    for step in range(12):
        rig.price(60000 - 150 * step)
        rig.tick()
    rig.ticks(3)
    assert rig.held() == 0
    agreed(rig)


@pytest.mark.parametrize("mode", ["flip", "clip"])
def test_an_owner_who_sells_during_the_exit_is_not_sold_twice_d11(rig, mode):
    """The venue that would turn a close too large into a short; the size is read just before."""
    long_of(rig)
    rig.sim.fault("close_oversize", mode=mode)
    rig.sim.fault("cancel_slow", kind="BRACKET", seconds=4)
    rig.bot.protector.exit(BTC, "by hand")
    rig.tick()
    rig.sim.call("trade_by_owner", product_id=IDS[BTC], side="SELL", contracts="4")
    rig.ticks(8)
    assert rig.held() == 0
    never_twice(rig, rig.truth())


def test_a_stop_left_behind_by_the_venue_is_cancelled_when_the_position_is_gone_d11(rig):
    long_of(rig)
    rig.sim.fault("bracket_left_behind")
    rig.sim.fault("close_ignores_brackets")
    rig.sim.call("trade_by_owner", product_id=IDS[BTC], side="SELL", contracts="6")
    rig.ticks(8)
    assert rig.held() == 0
    assert resting(rig) == []
    never_twice(rig, rig.truth())


# D12, and a death at every step.


class Died(Exception):
    """The process ended here: nothing that comes after it in the program happens."""


# A whole life: entry, stop, ratchet, averages that turn, exit.  The bid, and seconds until it.
LIFE = ((60000, 5), (60000, 5), (60700, 50), (60700, 10), (60300, 60), (60300, 60), (60150, 60),
        (60150, 60), (60150, 10), (60150, 10))
AVERAGES = {"short_ma_period": 2, "long_ma_period": 5, "enable_shorts": False}


def live_through(rig, dies=lambda rig: None):
    """Play LIFE; where the bot dies it is started again, with a whole disk and a whole wire."""
    rig.start(**AVERAGES)
    deaths = 0
    dies(rig)
    for bid, seconds in LIFE:
        rig.price(bid)
        try:
            rig.tick(seconds)
        except Died:
            deaths += 1
            rig.start()
    for _ in range(4):
        rig.tick()
    return deaths


def lived_well(rig):
    """One position was opened and closed, by no more orders than that takes."""
    assert rig.held() == 0
    filled = [order for order in of_the_bot(rig) if Decimal(order["filled_size"])]
    assert [order["filled_size"] for order in filled] == ["6", "6"]
    assert not rig.of("reconcile.mismatch")
    assert rig.bot.untraded == set()
    assert rig.bot.risk.state is TradingState.TRADING
    agreed(rig)


def at_request(number, before):
    """Die at the nth order or cancel of this life, before it leaves or after it was answered."""
    def prepare(rig):
        count = iter(range(1, 1000))

        def dying(really):
            def request(*arguments, **named):
                mine = next(count) == number
                if mine and before:
                    raise Died
                answer = really(*arguments, **named)
                if mine:
                    raise Died
                return answer
            return request

        rig.rest.send, rig.rest.cancel = dying(rig.rest.send), dying(rig.rest.cancel)
    return prepare


def at_event(number):
    """Die before the nth event of this life is written."""
    def prepare(rig):
        count, really = iter(range(1, 1000)), rig.bot.store.append

        def append(*arguments, **data):
            if next(count) == number:
                raise Died
            return really(*arguments, **data)

        rig.bot.store.append = append
    return prepare


REQUESTS, EVENTS = 6, 29  # of a whole life


def test_a_life_without_a_death(rig):
    assert live_through(rig) == 0
    assert posts(rig) == [CREATE, CREATE, CANCEL, CREATE, CANCEL, CLOSE]
    lived_well(rig)
    assert len(posts(rig)) == REQUESTS
    assert EVENTS - 5 <= len(rig.events) <= EVENTS


@pytest.mark.parametrize("number", range(1, REQUESTS + 1))
def test_a_death_before_any_request_of_a_life_sends_nothing_twice_d12(rig, number):
    assert live_through(rig, at_request(number, before=True)) == 1
    lived_well(rig)


@pytest.mark.parametrize("number", range(2, EVENTS, 2))
def test_a_death_before_any_event_of_a_life_sends_nothing_twice_d12(rig, number):
    live_through(rig, at_event(number))
    lived_well(rig)


@pytest.mark.parametrize("before", [True, False])
def test_what_was_on_its_way_at_a_death_is_of_unknown_outcome_d2_d12(rig, before):
    rig.start()
    for name in ("orders", "fills", "positions"):
        rig.sim.fault(f"lag_{name}", seconds=8)
    at_request(1, before)(rig)
    with pytest.raises(Died):
        rig.tick()
    rig.start()
    rig.tick()
    (order,) = rig.bot.engine.outstanding()
    assert order.status is OrderStatus.UNKNOWN
    with pytest.raises(OrderRejected, match="unknown outcome"):
        rig.bot.engine.place_order(BTC, "buy", SIZE)


@pytest.mark.parametrize("number", range(1, REQUESTS - 1))  # the late stop needs no ratchet
def test_a_death_after_any_request_while_reads_lag_sends_nothing_twice_d4_d12(rig, number):
    for name in ("orders", "fills", "positions"):
        rig.sim.fault(f"lag_{name}", seconds=7)
    assert live_through(rig, at_request(number, before=False)) == 1, posts(rig)
    rig.ticks(3)
    lived_well(rig)


@pytest.mark.parametrize("number", range(4, 12))
def test_a_death_around_a_resting_entry_leaves_one_that_brings_its_stop_d12_d14(rig, number):
    rig.start(order_type=OrderType.LIMIT)
    at_event(number)(rig)
    for bid in (60000, 60000, 60000, 59995, 59995, 59995, 59995, 59995, 59995):
        rig.price(bid)
        try:
            rig.tick()
        except Died:
            rig.start()
    assert rig.held() == 6
    assert sum(Decimal(order["filled_size"]) for order in of_the_bot(rig, "LIMIT")) == 6
    assert len(resting(rig)) == 1
    agreed(rig)


# What several failures together once led to.


def test_the_stop_of_an_entry_known_by_its_fill_alone_is_ours_d2_d7(rig):
    rig.start(order_type=OrderType.LIMIT)
    rig.sim.fault("lag_orders", seconds=7)
    rig.sim.network("reset_after_accept", match="POST /orders$")
    rig.tick()
    rig.price(59995)  # it fills before any listing shows it
    rig.ticks(6)
    assert len(rig.orders()) == 1
    assert [o.status for o in rig.stops()] == [OrderStatus.OPEN]
    assert rig.bot.engine.foreign == ()
    agreed(rig)


def test_an_exit_that_never_arrived_while_the_owner_closed_is_given_up_d4(rig):
    """A position that moved forbids no proof for ever: it may have moved for another reason."""
    long_of(rig)
    rig.sim.network("reset_before", match="POST /orders/close_position")
    rig.bot.protector.exit(BTC, "by hand")
    rig.tick()
    rig.sim.call("trade_by_owner", product_id=IDS[BTC], side="SELL", contracts="6")
    rig.ticks(30)
    assert rig.bot.engine.outstanding() == ()
    assert rig.books().quantity == 0


WIRE = [fault for fault in ACCEPTED if fault["name"] != "timeout_after_accept"] + [
    {"name": "reset_before"}, {"name": "status", "status": 500}]
ONCE = {"times": 1}
BOOKS = (
    ("cancel_slow", {"seconds": 7}), ("cancel_refused", ONCE), ("cancel_lost", ONCE),
    ("cancel_fills", ONCE), ("partial_fill", {"fraction": "0.5", **ONCE}),
    ("no_fill_yet", {"seconds": 15, "kind": "MARKET", **ONCE}), ("status_unknown", {"reads": 3}),
    *((f"lag_{name}", {"seconds": 7}) for name in ("orders", "fills", "positions")),
    *((f"{name}_refused", {"reason": "NEW", **ONCE}) for name in ("bracket", "stop", "close")),
    ("partial_page", {"listing": "orders", "times": 2}), ("accepted_then_cancelled", ONCE),
    ("contradiction", {"shape": "failure_with_id", "placed": True, **ONCE}),
    ("echo_other_order", {"placed": True, **ONCE}),
    ("echo_other_order", {"placed": False, **ONCE}),
)
POSTS = ("POST /orders$", "POST /orders/batch_cancel", "POST /orders/close_position")


def something_breaks(rig, dice):
    if dice.random() < 0.25:
        name, arguments = dice.choice(BOOKS)
        rig.sim.fault(name, **arguments)
    if dice.random() < 0.15:
        break_wire(rig, dice.choice(WIRE), match=dice.choice(POSTS))
    if dice.random() < 0.2:
        rig.sim.fault("clear")


@pytest.mark.parametrize("order_type", [OrderType.MARKET, OrderType.LIMIT])
@pytest.mark.parametrize("seed", [1, 2])
def test_whatever_breaks_in_whatever_order_the_books_agree_in_the_end(rig, seed, order_type):
    dice, bid = random.Random(seed), 60000
    rig.start(short_ma_period=2, long_ma_period=5, order_type=order_type)
    for _ in range(50):
        something_breaks(rig, dice)
        if dice.random() < 0.1:
            at_event(dice.randrange(1, 10))(rig)
        bid += dice.choice([-300, -150, -50, -20, 0, 20, 50, 150, 300]) // 5 * 5
        rig.price(bid, ask_size=dice.choice(["50", "2"]), bid_size=dice.choice(["50", "2"]))
        try:
            rig.tick(dice.choice([5, 5, 5, 20, 60]))
        except Died:
            rig.start()
    never_twice(rig, rig.truth())
    rig.sim.fault("clear")
    rig.sim.network("clear")
    rig.price(bid)
    rig.start()
    rig.ticks(14)
    rig.bot.risk.hold("test", TradingState.REDUCING, "no news for the judge")
    rig.ticks(3)
    agreed(rig)


# What rests for weeks.


def listings(rig, *paths):
    """The queries of these lists, in order, each as a dict."""
    return [dict(row["query"]) for path in paths
            for row in rig.sim.requests("GET", f"/orders/historical/{path}")]


def test_a_stop_that_rests_for_days_makes_no_look_longer(rig):
    long_of(rig)
    rig.ticks(3, seconds=86_400)
    before = len(listings(rig, "batch")), len(listings(rig, "fills"))
    rig.ticks(2)
    orders, fills = listings(rig, "batch")[before[0]:], listings(rig, "fills")[before[1]:]
    begun = [query["start_date"] for query in orders if "start_date" in query]
    begun += [query["start_sequence_timestamp"] for query in fills]
    assert len(begun) == 4 and not [query for query in orders if "order_ids" in query]
    assert all(rig.now - datetime.fromisoformat(at) < timedelta(minutes=11) for at in begun)
    agreed(rig)


@pytest.mark.parametrize("then", ["it fires", "the owner cancels it"])
def test_the_end_of_a_stop_that_rested_for_days_is_known_at_the_next_look(rig, then):
    stop, _ = long_of(rig).stops()[0], rig.ticks(3, seconds=86_400)
    if then == "it fires":
        rig.price(stop.intent.stop_price - 10)
    else:
        rig.rest.cancel({"order_ids": [stop.venue_order_id]})
    rig.tick()
    ended = rig.of("order.updated")
    assert [e.data["status"] for e in ended if e.data["client_order_id"] == stop.id][-1] == (
        "filled" if then == "it fires" else "cancelled")
    agreed(rig)


def test_an_order_that_the_owner_queued_days_ago_is_still_known(rig):
    long_of(rig)
    rig.sim.call("set_session", product_id=IDS[BTC], is_open=False)
    queued = rig.sim.call("order_by_owner", product_id=IDS[BTC], side="BUY", contracts="2",
                          limit_price="50000")
    for _ in range(4):
        rig.tick(3600)
        assert [order.venue_order_id for order in rig.bot.engine.foreign] == [queued]


@pytest.mark.parametrize("venue", ["takes no names beside other filters", "tells of no name"])
def test_a_stop_that_cannot_be_asked_for_by_its_name_is_found_by_its_date(rig, venue):
    stop, _ = long_of(rig).stops()[0], rig.ticks(3, seconds=86_400)
    get = rig.rest.get

    def answered(path, query=(), **more):
        if "order_ids" not in dict(query):
            return get(path, query, **more)
        if "no name" in venue:
            return {"orders": [], "has_next": False, "cursor": ""}
        raise VenueUnavailable("cannot pass order_ids with other filters")

    rig.rest.get = answered
    rig.rest.cancel({"order_ids": [stop.venue_order_id]})
    rig.tick()
    assert rig.bot.engine.order(stop.id).status is OrderStatus.CANCELLED
    agreed(rig)
