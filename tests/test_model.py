"""What `model.py` promises: exact numbers, and orders that count until they are in the books."""

from datetime import datetime
from decimal import Decimal

import pytest

from perps_bot.model import (
    Breach,
    Order,
    OrderIntent,
    OrderStatus,
    OrderType,
    Position,
    Purpose,
    RiskVerdict,
    Side,
    Ticket,
    TimeInForce,
    TradingState,
    exact,
    fraction,
    maybe_decimal,
    maybe_moment,
    moment,
)
from perps_bot.store import EventStore, read_events
from words import BTC, ETH, NOON, a_position, an_account, an_intent, an_order, hours

# Numbers


@pytest.mark.parametrize("value, number", [
    (Decimal("0.05"), "0.05"), (3, "3"), (0.05, "0.05"), (0.1, "0.1"), (1e-7, "0.0000001"),
    (2.0, "2"),
])
def test_a_fraction_is_read_through_its_shortest_text(value, number):
    assert fraction("max_daily_loss_pct", value) == Decimal(number)


@pytest.mark.parametrize("read", [exact, fraction])
@pytest.mark.parametrize("value, error", [
    (True, TypeError), ("0.05", TypeError), (None, TypeError),
    (Decimal("NaN"), ValueError), (Decimal("sNaN"), ValueError), (Decimal("Infinity"), ValueError),
])
def test_what_is_no_number_is_refused_by_its_name(read, value, error):
    with pytest.raises(error, match="^qty: "):
        read("qty", value)


@pytest.mark.parametrize("value", [0.1, float("nan")])
def test_a_float_is_no_exact_number(value):
    with pytest.raises(TypeError, match="is a float; pass a Decimal"):
        exact("qty", value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_float_that_is_no_number_is_no_fraction(value):
    with pytest.raises(ValueError, match="is not a number"):
        fraction("max_exposure_pct", value)


@pytest.mark.parametrize("read, value, expected", [
    (maybe_decimal, None, None), (maybe_decimal, "1.50", Decimal("1.5")),
    (maybe_decimal, Decimal(2), 2),
    (maybe_moment, None, None), (maybe_moment, NOON.isoformat(), NOON), (moment, NOON, NOON),
])
def test_what_an_event_carries_is_read_from_memory_and_from_text(read, value, expected):
    assert read(value) == expected


# Sides, states and positions


@pytest.mark.parametrize("side, sign, opposite", [
    (Side.BUY, 1, Side.SELL), (Side.SELL, -1, Side.BUY)])
def test_a_side_has_a_sign_and_an_opposite(side, sign, opposite):
    assert (side.sign, side.opposite) == (sign, opposite)


def test_trading_states_grow_stricter():
    assert sorted(TradingState, key=lambda state: state.severity) == [
        TradingState.TRADING, TradingState.REDUCING, TradingState.HALTED]


@pytest.mark.parametrize("held, mark, pnl, notional, side", [
    ("long 2 @ 100",  "110", "20",  "220", Side.BUY),
    ("short 2 @ 100", "110", "-20", "220", Side.SELL),
    ("flat",          None,  "0",   "0",   None),
])
def test_a_position_is_worth_what_its_mark_says(held, mark, pnl, notional, side):
    position = a_position(held, mark=mark)
    assert (position.unrealized_pnl, position.notional) == (Decimal(pnl), Decimal(notional))
    assert position.side is side


# Orders


@pytest.mark.parametrize("status, is_terminal", [
    (OrderStatus.INTENDED, False), (OrderStatus.UNKNOWN, False), (OrderStatus.OPEN, False),
    (OrderStatus.CANCEL_QUEUED, False), (OrderStatus.FILLED, True), (OrderStatus.CANCELLED, True),
    (OrderStatus.EXPIRED, True), (OrderStatus.REJECTED, True), (OrderStatus.LOST, True),
])
def test_only_what_the_venue_ended_is_over(status, is_terminal):
    assert status.is_terminal is is_terminal
    assert an_order("BUY 3", status=status).remaining == (0 if is_terminal else 3)


@pytest.mark.parametrize("status, filled, recorded, remaining, finished", [
    (OrderStatus.OPEN,      "1", "1",   "2",   False),
    (OrderStatus.OPEN,      "1", "0",   "3",   False),  # the listing came before the fill
    (OrderStatus.OPEN,      "0", "1",   "2",   False),  # the fill came before the listing
    (OrderStatus.UNKNOWN,   "0", "0",   "3",   False),
    (OrderStatus.FILLED,    "3", "0",   "3",   False),
    (OrderStatus.FILLED,    "3", "3",   "0",   True),
    (OrderStatus.CANCELLED, "1", "0.4", "0.6", False),
    (OrderStatus.CANCELLED, "1", "1",   "0",   True),
    (OrderStatus.CANCELLED, "1", "1.5", "0",   True),   # never less than nothing
    (OrderStatus.REJECTED,  "0", "0",   "0",   True),
])
def test_a_ticket_shows_its_order_as_the_books_have_it(
        status, filled, recorded, remaining, finished):
    order = an_order("BUY 3", status=status, filled_quantity=filled)
    ticket = Ticket(order, recorded=Decimal(recorded))
    assert ticket.booked().filled_quantity == Decimal(recorded)
    assert ticket.booked().remaining == Decimal(remaining)
    assert ticket.is_finished is finished


def test_a_ticket_comes_back_from_a_snapshot():
    order = an_order("BUY 3 @ 90", filled_quantity="1")
    ticket = Ticket(order, Decimal("91.5"), Decimal("0.4"))
    assert Ticket.from_data(ticket.as_data()) == ticket
    assert Ticket.from_data(Ticket(order).as_data()) == Ticket(order)


def test_an_order_comes_back_from_the_events_as_it_was_written(tmp_path):
    intent = OrderIntent(
        BTC, Side.SELL, Decimal("0.10"), OrderType.BRACKET, Purpose.STOP, Decimal("120.5"),
        Decimal("90"), TimeInForce.GTD, NOON + hours(1), Decimal("80"), "protective stop")
    order = Order("pb-1-000001", intent, NOON, OrderStatus.OPEN, "venue-1", Decimal("0.04"),
                  Decimal("91.25"), "what the venue said", "venue-0")
    store = EventStore(tmp_path / "events", NOON)
    store.append("order.intended", **order.intent_data())
    store.append("order.updated", **order.state_data())
    store.close()
    _, intended, updated = read_events(tmp_path / "events")
    assert Order.from_data(intended.data, intended.at).with_state(updated.data) == order
    assert Order.from_data(order.intent_data(), NOON).with_state(order.state_data()) == order


def test_an_order_without_optional_numbers_comes_back_without_them():
    order = Order("pb-1-000001", an_intent("BUY 1"), NOON)
    assert Order.from_data(order.intent_data(), NOON).with_state(order.state_data()) == order


# The account


def test_a_symbol_that_is_absent_is_flat():
    assert an_account().position(ETH) == Position(ETH)


SEVERAL = [
    an_order("SELL 3", filled_quantity="1"), an_order("SELL 5", status=OrderStatus.UNKNOWN),
    an_order("SELL 7", status=OrderStatus.FILLED), an_order("SELL 11", ETH), an_order("BUY 13"),
]


@pytest.mark.parametrize("held, orders, intent, reduces", [
    ("long 2 @ 100",  [],                            "SELL 2",   True),
    ("long 2 @ 100",  [],                            "SELL 2.1", False),
    ("long 2 @ 100",  [],                            "BUY 1",    False),
    ("short 2 @ 100", [],                            "BUY 2",    True),
    ("short 2 @ 100", [],                            "BUY 2.1",  False),
    ("flat",          [],                            "SELL 1",   False),
    ("long 2 @ 100",  [],                            "SELL 0",   False),  # no order at all
    ("long 2 @ 100",  [],                            "SELL -1",  False),
    ("long 2 @ 100",  [an_order("SELL 1.5")],        "SELL 0.5", True),
    ("long 2 @ 100",  [an_order("SELL 1.5")],        "SELL 0.6", False),
    ("long 2 @ 100",  [an_order("BUY 9")],           "SELL 2",   True),
    ("long 2 @ 100",  [an_order("SELL 9", ETH)],     "SELL 2",   True),
    ("long 2 @ 100",  [an_order("SELL 2", status=OrderStatus.UNKNOWN)],       "SELL 1", False),
    ("long 2 @ 100",  [an_order("SELL 2", status=OrderStatus.CANCEL_QUEUED)], "SELL 1", False),
    ("long 2 @ 100",  [an_order("SELL 2", status=OrderStatus.CANCELLED)],     "SELL 1", True),
    # Filled at the venue, not in our books: the position is gone already.
    ("long 2 @ 100",
     [Ticket(an_order("SELL 2", status=OrderStatus.FILLED, filled_quantity="2")).booked()],
     "SELL 1", False),
    ("long 12 @ 100", SEVERAL,                       "SELL 5",   True),
    ("long 12 @ 100", SEVERAL,                       "SELL 5.1", False),
])
def test_reductions_never_add_up_to_more_than_the_position(held, orders, intent, reduces):
    account = an_account(holding=held, orders=orders)
    assert account.reduces(an_intent(intent)) is reduces


# Verdicts


def test_a_verdict_without_breaches_is_a_yes():
    assert RiskVerdict(an_intent("BUY 1")).approved
    assert RiskVerdict(an_intent("BUY 1")).reason == ""


def test_a_verdict_names_every_breach_with_what_was_measured_and_allowed():
    breaches = (Breach("A", "max_a", "3", "2", "USD", "Too much"),
                Breach("B", "", "none", "a mark", "", "No mark"))
    verdict = RiskVerdict(an_intent("BUY 1"), breaches)
    assert not verdict.approved
    assert verdict.reason == ("Too much: max_a measured 3 allowed 2 USD; "
                              "No mark: measured none allowed a mark")


def test_what_travels_cannot_be_changed_on_the_way():
    for value, field in ((an_intent("BUY 1"), "quantity"), (an_order("BUY 1"), "status"),
                         (a_position("flat"), "quantity"), (an_account(), "equity")):
        with pytest.raises(AttributeError):
            setattr(value, field, Decimal(9))


def test_times_are_aware():
    assert datetime.fromisoformat(NOON.isoformat()).utcoffset() is not None
