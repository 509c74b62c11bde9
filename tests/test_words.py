"""The specification of `perps_bot/words.py`: events and numbers, told to a person."""

import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest

from perps_bot import words
from perps_bot.model import Event, Side
from perps_bot.store import EventStore, read_events
from perps_bot.tracker import PositionTracker
from perps_bot.words import SENTENCES, number, percent, plain, signed, told, usd

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
BTC = "BTC-PERP"


def of(type, **data):
    return told(Event(1, NOON, type, data))


# Numbers


@pytest.mark.parametrize("value, meant", [
    ("0.10", "0.10"), (7, "7"), (Decimal("-1.5"), "-1.5"), ("-0", "-0"),
    (None, None), ("", None), ("none", None), (True, None), ([1], None), ({}, None),
    ("NaN", None), ("sNaN", None), ("Infinity", None), ("1e101", None), ("1e-101", None),
    ("1e999999999999999999", None), ("9" * 1000, None), (10**300, None), ("٣", None),
])
def test_only_a_number_of_ours_is_a_number(value, meant):
    assert number(value) == (None if meant is None else Decimal(meant))


@pytest.mark.parametrize("write, value, said", [
    (usd, "10000", "10,000.00 USD"), (usd, "-0.005", "-0.00 USD"), (usd, None, "?"),
    (usd, "1e30", "1,000,000,000,000,000,000,000,000,000,000.00 USD"),
    (signed, "3", "+3.00 USD"), (signed, "-1234.5", "-1,234.50 USD"), (signed, "x", "?"),
    (percent, "0.05", "5.00 %"), (percent, None, "?"),
    (plain, "0.0200", "0.02"), (plain, "100", "100"), (plain, "0.000", "0"), (plain, {}, "?"),
])
def test_a_number_is_written_for_people_and_a_missing_one_is_a_question_mark(write, value, said):
    assert write(value) == said


# Events

TRADE = {"symbol": BTC, "side": "buy", "quantity": "0.020", "price": "70000", "fee": "14.003",
         "purpose": "entry", "realized_pnl": "0", "position_quantity": "0.02",
         "entry_price": "70000", "is_liquidation": False}


@pytest.mark.parametrize("type, data, sentence", [
    ("trade.executed", TRADE,
     "bought 0.02 BTC-PERP at 70000 USD (entry), fee 14.00 USD; now long 0.02 at 70000"),
    ("trade.executed", {**TRADE, "side": Side.SELL, "realized_pnl": "-3.5", "purpose": "stop",
                        "position_quantity": Decimal(0), "is_liquidation": True},
     "LIQUIDATED by the venue: sold 0.02 BTC-PERP at 70000 USD (stop), fee 14.00 USD, "
     "realized -3.50 USD; now flat"),
    ("strategy.signal", {"symbol": BTC, "action": "sell", "mark_price": "70000.50",
                         "reason": "downward cross 1 bars ago"},
     "BTC-PERP: wants to sell short at 70000.5 USD: downward cross 1 bars ago"),
    ("order.updated", {"symbol": BTC, "purpose": "entry", "client_order_id": "pb-1",
                       "status": "rejected", "filled_quantity": "0", "answer": "NO: closed"},
     "BTC-PERP entry order pb-1 is rejected: NO: closed"),
    ("order.updated", {"symbol": BTC, "purpose": "exit", "client_order_id": "pb-1",
                       "status": "open", "filled_quantity": "1", "quantity": "2",
                       "average_price": "5", "answer": ""},
     "BTC-PERP exit order pb-1 is open, 1 of 2 filled at 5"),
    ("risk.rejected", {"symbol": BTC, "side": "buy", "quantity": "1", "purpose": "entry",
                       "breaches": [{"code": "LEVERAGE_EXCEEDED", "measured": "4", "allowed": "3",
                                     "unit": "x equity"}, {"code": "NO_MARK", "measured": "none",
                                                           "allowed": "a fresh mark"}]},
     "not sent: buy 1 BTC-PERP (entry): LEVERAGE_EXCEEDED measured 4, allowed 3 x equity; "
     "NO_MARK measured none, allowed a fresh mark"),
    ("state.changed", {"kind": "operator", "state": "HALTED", "before": "TRADING",
                       "reason": "dinner"}, "HALTED because of operator: dinner (was TRADING)"),
    ("state.changed", {"kind": "operator", "state": "TRADING", "before": "HALTED",
                       "reason": "resumed: looked"},
     "operator no longer holds trading back: resumed: looked"),
    ("funding.paid", {"symbol": BTC, "amount": "-0.125", "rate": "0.00001"},
     "received 0.12 USD of funding for BTC-PERP (rate 0.0010 %)"),
    ("bot.stopped", {"reason": "SIGTERM", "exit_code": 3, "orders_left": ["pb-1", "pb-2"],
                     "positions": {BTC: "0.02", "ETH-PERP": "-1"}, "stops": {BTC: "69300"}},
     "stopped: SIGTERM (exit code 3); positions: BTC-PERP 0.02 with its stop at 69300, "
     "ETH-PERP -1 with its stop at NONE; orders NOT confirmed gone: pb-1, pb-2"),
    ("account.tied_out", {"venue_change": "5", "ledger_change": "-1", "difference": "6",
                          "tolerance": "1", "explained": False},
     "the day's account changed by +5.00 USD, our ledger by -1.00 USD: NOT explained (difference "
     "+6.00 USD, tolerance 1.00 USD)"),
    ("alert", {"code": "NO_STOP", "about": BTC, "message": "none at the venue"},
     "ALERT NO_STOP (BTC-PERP): none at the venue"),
    ("control.requested", {"command": "halt", "args": {"reason": "dinner\n"}},
     "the owner asked: halt: dinner\\n"),
    ("control.answered", {"command": "close-all", "exit_code": 4, "text": "NOT flat\nBTC-PERP"},
     "close-all was answered (exit code 4): NOT flat"),
    ("strategy.warmed", {"symbol": BTC, "closes": [1, 2]},
     "BTC-PERP: the averages were filled from 2 candles"),
    ("comet.seen", {"tail": "long", "of": {"x": 1}}, "comet.seen: tail=long"),
])
def test_an_event_is_told_in_one_sentence(type, data, sentence):
    assert of(type, **data) == sentence


def test_every_type_of_event_has_its_sentence():
    documented = (Path(__file__).parent.parent / "docs/EVENTS.md").read_text("utf-8")
    assert {*re.findall(r"^### `(.+)`$", documented, re.M)} == SENTENCES.keys()


HOSTILE = (None, [], {}, {"a": []}, True, "x\x1b[2J\ny", "9" * 5000, 10**4000, "NaN",
           Decimal("1e999999"), ["\n"] * 3, [{}])


@pytest.mark.parametrize("type", [*SENTENCES, "un\x1bknown"])
def test_whatever_stands_in_an_event_is_told_on_one_printable_line(type):
    class Anything(dict):
        """Every field there is, with the same value."""

        def __contains__(self, name):
            return True

        def get(self, name, default=None):
            return value

        __getitem__ = __missing__ = get

    assert told(Event(1, NOON, type, {})).isprintable()
    for value in HOSTILE:
        said = told(Event(1, NOON, type, Anything(field=value)))
        assert said.isprintable() and len(said) < 12_000


def test_an_event_says_the_same_live_and_read_back(tmp_path):
    live = []
    store = EventStore(tmp_path, NOON)
    store.subscribe(lambda event: live.append(told(event)))
    PositionTracker(store).update_position(BTC, Decimal("0.10"), Decimal("50000.0"))
    store.close()
    assert [told(event) for event in read_events(tmp_path)] == live
    assert live[-1] == "BTC-PERP: long 0.1 at 50000, unrealized +0.00 USD"


def test_a_form_names_only_kinds_of_numbers_that_there_are():
    for form in (form for form in SENTENCES.values() if isinstance(form, str)):
        assert form.format_map(words._Fields({}))
