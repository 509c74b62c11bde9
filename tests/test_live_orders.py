"""What becomes of an order of the live bot when the wire, the venue or the bot itself fails.

Part D of the fault list, and of part C what concerns an order: the real bot against the exchange
process.  Whatever happened, `agreed` compares the bot's books with the exchange's own.
"""

from collections import Counter
from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from exchange.harness import API
from live import BTC, ETH, IDS, LiveRig, at_once

from perps_bot import rest as rest_room
from perps_bot import risk as risk_room
from perps_bot import store as disk
from perps_bot.errors import OrderRejected, OutcomeUnknown
from perps_bot.model import OrderStatus, OrderType, Purpose, Side, TimeInForce, TradingState

CREATE, CLOSE, CANCEL = "/orders", "/orders/close_position", "/orders/batch_cancel"
LISTING = "GET /orders/historical/batch"
SIZE = Decimal("0.01")  # base units a contract
LIVE = ("PENDING", "OPEN", "QUEUED", "CANCEL_QUEUED")


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
    {"name": "close_after_accept"}, {"name": "truncate"}, {"name": "wrong_length"},
    {"name": "html_200"}, {"name": "empty_200"}, {"name": "wrong_type"},
    *({"name": "status", "status": code, "accept": True} for code in (408, 409, 429, 500, 502,
                                                                      503, 504)),
    {"name": "redirect", "status": 307, "to": "https://example.invalid/", "accept": True},
    {"name": "answer", "body": '{"success": true}'},
    {"name": "answer", "body": '{"success": true, "success": false}'},
)


def named(fault):
    return " ".join(str(value) for value in fault.values())


@pytest.mark.parametrize("fault", ACCEPTED, ids=named)
def test_an_order_whose_answer_got_lost_is_looked_up_adopted_and_protected_d2_c2_c5_c6_c9(
    rig, impatient, fault
):
    rig.start()
    rig.sim.fault("lag_orders", seconds=8)
    rig.sim.fault("lag_fills", seconds=8)
    rig.sim.fault("lag_positions", seconds=8)
    rig.sim.network(**{"match": "POST /orders$", **fault})
    rig.tick()
    (order,) = rig.bot.engine.outstanding()
    assert order.status is OrderStatus.UNKNOWN
    with pytest.raises(OrderRejected, match="OUTCOME_UNKNOWN"):
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
def test_an_order_that_never_arrived_is_given_up_after_two_listings_ten_seconds_apart_d2_d4(
    rig, impatient, fault
):
    rig.start()
    rig.sim.network(**{"match": "POST /orders$", **fault})
    rig.tick()
    begun = rig.now
    while not rig.of("order.lost"):
        assert rig.now - begun < timedelta(seconds=30)
        assert len(rig.orders()) == 1
        rig.tick(3)
    assert rig.now - begun >= timedelta(seconds=10)
    rig.ticks(3)  # the averages decide afresh: a new intent with an id of its own
    assert len({body["client_order_id"] for body in entries(rig)}) == 2
    assert [order["filled_size"] for order in of_the_bot(rig, "MARKET")] == ["6"]
    agreed(rig)


def test_an_order_is_sent_once_over_a_stale_connection_c10(rig):
    rig.start()
    rig.sim.network("close_keepalive", match="POST /orders$")
    rig.ticks(6)
    first, *others = [row for row in rig.sim.requests("POST", CREATE) if row["body"]["side"] == "BUY"]
    assert first["body"]["client_order_id"] not in {
        row["body"]["client_order_id"] for row in others}
    assert rig.held() == 6
    agreed(rig)


@pytest.mark.parametrize("placed", [True, False])
@pytest.mark.parametrize("older", [True, False])
def test_an_answer_that_speaks_of_another_order_is_no_answer_d1(rig, older, placed):
    rig.start()
    if older:  # one that looks the same: only its id tells
        rig.ticks(2)
        rig.bot.engine.exit(BTC, "to begin anew")
        rig.tick()
        assert rig.held() == 0
    rig.sim.fault("echo_other_order", placed=placed, times=1)
    rig.bot.engine.send_before = None
    if older:
        order = rig.bot.engine.place_order(BTC, "buy", 6 * SIZE)
    else:
        rig.tick()
        (order,) = rig.bot.engine.outstanding()
    held = 6 if placed else 0
    assert rig.held() == held
    rig.ticks(4)
    if placed:
        assert rig.bot.engine.order(order.id).status is OrderStatus.FILLED
    else:
        assert [event.data["client_order_id"] for event in rig.of("order.lost")] == [order.id]
    if older or placed:  # else the averages decide afresh
        assert rig.held() == held
    agreed(rig)


@pytest.mark.parametrize("shape", ["failure_with_id", "success_without_id"])
@pytest.mark.parametrize("placed", [True, False])
def test_a_yes_that_is_also_a_no_is_looked_up_d1_d2(rig, shape, placed):
    rig.start()
    rig.sim.fault("contradiction", shape=shape, placed=placed, times=1)
    rig.tick()
    (order,) = rig.bot.engine.outstanding()
    assert order.status is OrderStatus.UNKNOWN
    rig.ticks(5)
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


@pytest.mark.parametrize("seconds", [0, 5, 9, 11, 15, 30])
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
    if "positions" not in lags or seconds <= 10:
        assert rig.held() == 6  # what cannot be seen in any way may be decided afresh
        assert len(entries(rig)) == 1
    agreed(rig)


@pytest.mark.parametrize("seconds", [5, 20])
def test_a_resting_entry_that_turns_up_late_is_cancelled_d4(rig, seconds):
    rig.start(order_type=OrderType.LIMIT)
    rig.sim.fault("lag_orders", seconds=seconds)
    rig.sim.network("reset_after_accept", match="POST /orders$")
    rig.tick()
    rig.sim.fault("clear")
    rig.sim.fault("lag_orders", seconds=0)
    rig.ticks(7)
    first, *later = of_the_bot(rig, "LIMIT")
    assert first["status"] == ("OPEN" if seconds < 10 else "CANCELLED")
    assert len(resting(rig, "LIMIT")) == 1
    assert len(later) == (seconds > 10)
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
        rig.sim.fault(**fault)
    else:
        rig.sim.network(**{"match": LISTING, "times": None, **fault})
    for _ in range(10):
        assert not rig.tick()
    assert rig.of("order.lost") == []
    assert len(rig.orders()) == 1
    rig.sim.network("clear")
    rig.sim.fault("clear")
    cleared = rig.now
    rig.tick()
    assert rig.of("order.lost") == []
    rig.ticks(5)
    (lost,) = rig.of("order.lost")
    assert lost.at - cleared >= timedelta(seconds=10)
    assert rig.held() == 6
    agreed(rig)
