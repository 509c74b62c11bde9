"""The account: does the bot believe what the venue says of it, and no more than that?

Rows E of the faults, and F as far as the whole bot shows it: a real prod bot against the exchange
process, whose own books are what ours are compared with.
"""

import copy
import signal
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import SimpleNamespace

import pytest
from exchange.harness import wait_until
from exchange.products import default_products

from live import BTC, ETH, IDS, NOON, SOL, TICKS, XRP, LiveRig, at_once
from perps_bot import rest as rest_room
from perps_bot import shutdown
from perps_bot.control import Control
from perps_bot.errors import ConfigError
from perps_bot.mailbox import Request
from perps_bot.model import TradingState
from perps_bot.ops import health
from perps_bot.shutdown import stop

FRIDAY = datetime(2026, 11, 27, 21, tzinfo=UTC)  # an hour before the weekly close
CENT = Decimal("0.005")
BIT = "BIT-25DEC26-CDE"
HOUR = 3600
# An account that is used up to what its margin allows.
BOLD = {"max_position_pct_per_symbol": Decimal(1), "max_exposure_pct": Decimal(1),
        "target_leverage": Decimal(3), "max_top_of_book_pct": Decimal(1)}


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Rigs, one a test as a rule; an exchange that broke fails the test."""
    at_once(monkeypatch)
    monkeypatch.setattr(rest_room, "BACK_OFF_SECONDS", 0.001)  # which is real time
    made = []

    def rig(scenario=None, **settings):
        folder = tmp_path / str(len(made))
        folder.mkdir()
        made.append(LiveRig(folder, scenario, **settings))
        return made[-1]

    yield rig
    for one in made:
        one.__exit__(None, None, None)


def entered(rig, short=False, ticks=2):
    """A long (or a short) of the bot's own, and its stop."""
    rig.falling() if short else rig.rising()
    rig.start().ticks(ticks)
    assert rig.held() * (-1 if short else 1) > 0 and rig.stops()
    return rig


def assert_books_agree(rig):
    """Quantities exactly, and money to the cent."""
    truth, books = rig.truth(), rig.bot.tracker
    held = {name: Decimal(row["contracts"]) * Decimal(row["contract_size"])
            for name, row in truth["positions"].items()}
    assert held == {IDS[symbol]: p.quantity for symbol, p in books.positions().items()}
    funding = Decimal(truth["funding_booked"]) + Decimal(truth["funding_accrued"])
    for ours, theirs in ((books.total("fees"), truth["fees"]), (books.total("funding"), funding),
                         (books.total("realized_pnl"), truth["realized_pnl"]),
                         (books.equity(), truth["equity"])):
        assert abs(ours - Decimal(theirs)) < CENT, (ours, theirs)


def creates(rig):
    return len(rig.orders()) + len(rig.orders("/orders/close_position"))


def entries(rig):
    """The creates that could have opened or enlarged a position."""
    return [body for body in rig.orders() if "trigger_bracket_gtc" not in
            body["order_configuration"] and "stop_limit_stop_limit_gtc" not in
            body["order_configuration"]]


def cancelled(rig):
    return [one for body in rig.orders("/orders/batch_cancel") for one in body["order_ids"]]


def state(rig):
    return rig.bot.risk.state


class Waits:
    """Time that passes at the exchange while a shutdown waits."""

    def __init__(self, rig):
        self.rig = rig

    def now(self):
        return self.rig.now

    def heed(self):
        pass

    def wait(self, seconds):
        self.rig.now += timedelta(milliseconds=int(seconds * 1000))
        self.rig.sim.advance(self.rig.now)


def stopped(rig):
    """What a kill -INT comes to: its exit code."""
    return stop(rig.bot, Waits(rig), signal.SIGINT)


# E1: what is not ours


def test_e1_what_the_owner_holds_at_start_is_left_alone_until_it_is_adopted(make):
    rig = make()
    rig.rising()
    rig.sim.call("trade_by_owner", product_id=IDS[BTC], side="BUY", contracts="3")
    rig.start().ticks(5)
    assert BTC in rig.bot.untraded and creates(rig) == 0
    assert rig.bot.engine.books().foreign_notional >= Decimal("1800")
    assert stopped(rig) == 0
    assert rig.held() == 3 and creates(rig) == 0 and cancelled(rig) == []

    rig.bot.risk.lift("signal", "the test goes on")
    rig.start(adopt=(BTC,)).ticks(3)
    (event,) = rig.of("position.adopted")
    assert (event.data["ours"], event.data["venue"]) == (0, Decimal("0.03"))
    assert rig.bot.protector.is_protected(BTC) and rig.held() >= 3
    assert rig.orders()[0]["order_configuration"].keys() == {"trigger_bracket_gtc"}


def test_e1_a_resting_order_of_the_owners_is_never_cancelled_and_blocks_the_symbol(make):
    rig = make()
    rig.rising()
    theirs = rig.sim.call("order_by_owner", product_id=IDS[BTC], side="BUY", contracts="2",
                          limit_price="55000")
    rig.start().ticks(4)
    assert BTC in rig.bot.untraded and creates(rig) == 0
    assert stopped(rig) == 0
    assert theirs not in cancelled(rig)
    (order,) = rig.truth()["orders"]
    assert order["status"] == "OPEN"


def test_e1_an_order_that_the_owner_places_later_blocks_entries_until_one_clean_read(make):
    rig = make()
    rig.rising()
    rig.start()
    rig.bot.risk.hold("operator", TradingState.REDUCING, "a test")
    rig.ticks(2)
    theirs = rig.sim.call("order_by_owner", product_id=IDS[BTC], side="SELL", contracts="2",
                          limit_price="65000")
    rig.bot.risk.lift("operator", "a test")
    rig.ticks(3)
    assert creates(rig) == 0 and rig.bot.untraded == set()
    rig.client.rest.cancel({"order_ids": [theirs]})  # as the owner does in the app
    rig.ticks(2)
    assert len(entries(rig)) == 1 and rig.bot.protector.is_protected(BTC)


@pytest.mark.parametrize("contracts,into_eth", [("2", True), ("30", False)])
def test_e1_a_trade_by_hand_blocks_its_symbol_and_counts_as_exposure(make, contracts, into_eth):
    rig = make(symbols=(BTC, ETH))
    rig.rising()
    rig.rising(2500, "0.5", symbol=ETH)
    rig.start()
    rig.bot.risk.hold("operator", TradingState.REDUCING, "a test")
    rig.ticks(2)
    rig.sim.call("trade_by_owner", product_id=IDS[BTC], side="BUY", contracts=contracts)
    rig.bot.risk.lift("operator", "a test")
    rig.ticks(2)
    assert rig.bot.engine.books().foreign_notional > 600 * int(contracts) - 1
    assert {body["product_id"] for body in entries(rig)} == ({IDS[ETH]} if into_eth else set())
    refused = [event.data for event in rig.of("risk.rejected") if event.data["symbol"] == ETH]
    assert into_eth or "EXPOSURE_EXCEEDED" in refused[-1]["codes"]


def test_e1_a_trade_by_hand_that_was_undone_leaves_no_trace_after_one_clean_read(make):
    rig = entered(make())
    for side in ("BUY", "SELL"):
        rig.sim.call("trade_by_owner", product_id=IDS[BTC], side=side, contracts="2")
        rig.tick()
    rig.ticks(3)
    assert rig.of("reconcile.mismatch") == [] and state(rig) is TradingState.TRADING
    assert rig.books().quantity == Decimal("0.06") and rig.bot.protector.is_protected(BTC)
    # The owner's fees and gains are not ours.
    assert rig.books().fees == Decimal("4.5003")


def test_e1_a_dated_future_of_the_owners_counts_as_exposure_and_is_never_touched(make):
    rig = make()
    rig.rising()
    rig.sim.price(BIT, "83395", "83400")
    rig.sim.call("trade_by_owner", product_id=BIT, side="BUY", contracts="20")
    rig.start().ticks(4)
    assert rig.bot.engine.books().foreign_notional >= Decimal("16600")
    assert creates(rig) == 0, "16,000 USD are all that two times 0.8 of the equity allow"
    assert rig.of("risk.rejected")
    assert stopped(rig) == 0
    assert rig.truth()["positions"][BIT]["contracts"] == "20" and creates(rig) == 0


@pytest.mark.parametrize("adopt", [(), (BTC,)], ids=["left alone", "adopted"])
def test_e1_what_the_owner_added_while_we_were_down_is_told_apart_at_the_start(make, adopt):
    rig = entered(make())
    stops = [order.id for order in rig.stops()]
    rig.end_process()
    rig.sim.call("trade_by_owner", product_id=IDS[BTC], side="BUY", contracts="3")
    rig.start(adopt=adopt).ticks(5)
    assert len(entries(rig)) == 1 and not rig.orders("/orders/close_position")
    covered = sum(order.remaining for order in rig.stops())
    if adopt:
        assert rig.books().quantity == covered == Decimal("0.09") and not rig.bot.untraded
    else:
        assert rig.bot.untraded == {BTC} and covered == Decimal("0.06")
        assert [order.id for order in rig.stops()] == stops and cancelled(rig) == []
    assert stopped(rig) == 0 and rig.held() == 9


# E2 and E3: what is read of the positions


@pytest.mark.parametrize("contracts,left", [("6", 0), ("9", -3)], ids=["closed", "turned"])
def test_e2_a_position_that_the_owner_closed_or_turned_is_never_sold_again(make, contracts, left):
    rig = entered(make())
    rig.sim.call("trade_by_owner", product_id=IDS[BTC], side="SELL", contracts=contracts)
    rig.bot.protector.exit(BTC, "a test")
    rig.ticks(2)
    assert not rig.orders("/orders/close_position"), "there is nothing of ours to close"
    rig.ticks(6)
    sold = [fill for fill in rig.truth()["fills"] if fill["by"] == "key" and fill["side"] == "SELL"]
    assert sold == [] and state(rig) is TradingState.REDUCING
    if not left:
        assert rig.held() == 0 and not rig.bot.engine.outstanding()
    assert rig.held() in (left, 0) and rig.books().quantity * 100 == rig.held()


def test_e2_a_mismatch_that_stands_is_adopted_with_both_numbers_and_reduces(make):
    rig = entered(make())
    rig.sim.call("trade_by_owner", product_id=IDS[BTC], side="SELL", contracts="2")
    sent = len(entries(rig))
    rig.ticks(5)
    (event,) = rig.of("reconcile.mismatch")
    assert (event.data["ours"], event.data["venue"]) == (Decimal("0.06"), Decimal("0.04"))
    assert state(rig) is TradingState.REDUCING and "mismatch" in rig.bot.risk.holds
    assert rig.bot.protector.is_protected(BTC) and len(entries(rig)) == sent
    assert rig.books().quantity == Decimal("0.04")
    # A restart still knows.
    rig.start().ticks(2)
    assert state(rig) is TradingState.REDUCING and rig.books().quantity == Decimal("0.04")


BAD_POSITIONS = {
    "empty": lambda sim: sim.fault("empty_positions"),
    "refused": lambda sim: sim.call("network", name="status", status=403,
                                    match="GET /cfm/positions", times=None),
    "broken": lambda sim: sim.call("network", name="status", status=502,
                                   match="GET /cfm/positions", times=None),
    "without a list": lambda sim: sim.fault("fields_missing", path="positions",
                                            match="/cfm/positions"),
    "without a size": lambda sim: sim.fault(
        "fields_missing", path="positions.number_of_contracts", match="/cfm/positions"),
    "of an unknown side": lambda sim: sim.fault(
        "fields_missing", path="positions.side", value="SIDEWAYS", match="/cfm/positions"),
    "half an answer": lambda sim: sim.call("network", name="truncate",
                                           match="GET /cfm/positions", times=None),
}


def test_e3_a_failed_or_empty_read_of_the_positions_is_never_flat(make):
    rig = entered(make())
    sent, stops = creates(rig), [order.id for order in rig.stops()]
    for what, make_bad in BAD_POSITIONS.items():
        make_bad(rig.sim)
        rig.ticks(5, 6)  # longer than any read may lag
        assert rig.books().quantity == Decimal("0.06") and rig.held() == 6, what
        assert [order.id for order in rig.stops()] == stops and cancelled(rig) == [], what
        assert creates(rig) == sent, what
        rig.sim.call("network", name="clear")
        rig.sim.fault("clear")
        rig.ticks(2)
        assert not rig.bot.trouble and state(rig) is TradingState.TRADING, what
    assert_books_agree(rig)


@pytest.mark.parametrize("lags", [
    ("lag_positions",), ("lag_fills",), ("lag_orders",),
    ("lag_positions", "lag_balance"),
    ("lag_positions", "lag_balance", "lag_fills", "lag_orders")], ids="+".join)
def test_e3_reads_that_lag_by_seven_seconds_never_cause_a_second_entry(make, lags):
    rig = make()
    for lag in lags:
        rig.sim.fault(lag, seconds=7)
    rig.rising()
    rig.start().tick()
    rig.ticks(20, 1)
    rig.ticks(3)
    assert len(entries(rig)) == 1 and rig.held() == 6
    assert state(rig) is TradingState.TRADING and rig.of("reconcile.mismatch") == []
    assert rig.bot.protector.is_protected(BTC)
    assert_books_agree(rig)


def test_e3_rows_of_no_contracts_that_linger_after_an_exit_are_flat(make):
    rig = entered(make())
    rig.sim.fault("zero_rows_linger", seconds=60)
    rig.bot.protector.exit(BTC, "a test")
    rig.ticks(4)
    assert rig.held() == 0 and not rig.books().quantity
    assert rig.of("reconcile.mismatch") == [] and not rig.bot.trouble
    assert_books_agree(rig)


# E4: funding


@pytest.mark.parametrize("short", [False, True], ids=["long", "short"])
@pytest.mark.parametrize("rate", ["0.0004", "-0.0004"])
def test_e4_funding_accrues_each_hour_once_and_with_the_right_sign(make, short, rate):
    rig = entered(make(), short=short)
    rig.sim.call("set_product", product_id=IDS[BTC], funding_rate=rate)
    rig.tick()
    lost = rig.bot.tracker.daily_loss()
    rig.tick(HOUR - 10)
    rig.ticks(30)  # the same hour is shown again and again
    (paid,) = rig.of("funding.paid")
    assert paid.data["amount"] * (-1 if short else 1) * Decimal(rate) > 0
    assert rig.bot.tracker.daily_loss() - lost == paid.data["amount"]
    assert abs(rig.books().funding - Decimal(rig.truth()["funding_accrued"])) < CENT
    assert_books_agree(rig)


def test_e4_the_rate_of_each_hour_is_written_down_even_while_flat(make):
    rig = make()
    rig.history([60000] * 60)
    rig.price(60000)
    rig.start().ticks(2)
    for hour, rate in enumerate(("0.00001", "-0.00002", "0.00003"), 13):
        rig.sim.call("set_product", product_id=IDS[BTC], funding_rate=rate)
        to_the_hour(rig)
        rig.tick(60)
    events = rig.of("funding.rate")
    assert [event.data["ended_at"].hour for event in events] == [12, 13, 14, 15]
    assert [event.data["rate"] for event in events][1:] == [
        Decimal("0.00001"), Decimal("-0.00002"), Decimal("0.00003")]
    assert rig.of("funding.paid") == [] and entries(rig) == []


def test_e4_funding_of_an_hour_is_paid_by_what_was_held_at_its_end(make):
    rig = entered(make())
    rig.sim.call("set_product", product_id=IDS[BTC], funding_rate="0.0004")
    rig.tick(HOUR - 15)  # just before the hour's end: the products were read now
    rig.tick(10)
    rig.bot.protector.exit(BTC, "a test")
    rig.ticks(20)
    assert rig.held() == 0 and len(rig.truth()["accruals"]) == 1
    assert_books_agree(rig)


def test_e4_an_hour_of_the_owners_is_not_booked_on_what_we_open_after_it(make):
    rig = make(now=NOON + timedelta(minutes=59), enter_on_start=False)
    rig.rising()
    rig.start().ticks(1)
    rig.sim.call("set_product", product_id=IDS[BTC], funding_rate="0.0004")
    rig.tick(53)
    rig.sim.call("trade_by_owner", product_id=IDS[BTC], side="BUY", contracts="5")
    rig.ticks(2, seconds=4)
    rig.sim.call("trade_by_owner", product_id=IDS[BTC], side="SELL", contracts="5")
    rig.ticks(4, seconds=60)
    assert len(rig.truth()["accruals"]) == 1
    rig.bot.engine.place_order(BTC, "buy", Decimal("0.05"))
    rig.ticks(20, seconds=60)
    assert rig.of("funding.paid") == [] and rig.books().funding == 0
    assert rig.books().quantity == Decimal("0.05")


def test_e4_a_restart_within_the_hour_books_it_once(make):
    rig = entered(make())
    rig.sim.call("set_product", product_id=IDS[BTC], funding_rate="0.0004")
    rig.tick(1800)
    rig.start().ticks(2)
    to_the_hour(rig)
    rig.ticks(2)
    assert len(rig.of("funding.paid")) == 1
    rig.start().ticks(2, 61)
    assert len(rig.of("funding.paid")) == 1, "the one that was read back"
    assert_books_agree(rig)


def to_the_hour(rig):
    """One tick, five seconds after the next full hour."""
    then = rig.now.replace(minute=0, second=5) + timedelta(hours=1)
    rig.tick((then - rig.now).total_seconds())


def a_day(rig, at_hour=lambda hour: None):
    """From noon to just after midnight, two ticks an hour."""
    for hour in range(13, 25):
        at_hour(hour)
        to_the_hour(rig)
        rig.tick(60)


@pytest.mark.parametrize("hidden", [False, True], ids=["shown", "hidden until booked"])
def test_e4_a_day_with_its_two_bookings_ties_out_to_the_cent(make, hidden):
    rig = entered(make())
    if hidden:
        rig.sim.fault("funding_hidden")
    rig.sim.call("set_product", product_id=IDS[BTC], funding_rate="0.0003")
    a_day(rig)
    assert len(rig.of("funding.paid")) == 12 and len(rig.truth()["bookings"]) == 2
    (tied,) = rig.of("account.tied_out")
    assert tied.data["explained"] and rig.of("alert") == []
    assert_books_agree(rig)


def test_e4_a_deposit_is_an_alert_at_the_tie_out_and_neither_loss_nor_gain(make):
    rig = entered(make())
    before = rig.bot.tracker.daily_loss()

    def deposit(hour):
        if hour == 15:
            rig.sim.call("deposit", usd="2500")
            rig.tick()
            assert abs(rig.bot.tracker.daily_loss() - before) < 1

    a_day(rig, deposit)
    (tied,) = rig.of("account.tied_out")
    assert not tied.data["explained"] and abs(tied.data["difference"] - 2500) < 1
    (alert,) = rig.of("alert")
    assert alert.data["code"] == "TIE_OUT"
    assert abs(rig.bot.tracker.equity() + 2500 - Decimal(rig.truth()["equity"])) < CENT


def test_e4_a_withdrawal_is_no_daily_loss(make):
    rig = entered(make())
    rig.sim.call("deposit", usd="-3000")
    rig.ticks(5)
    assert abs(rig.bot.tracker.daily_loss()) < 10 and state(rig) is TradingState.TRADING
    assert rig.bot.engine.books().equity < 7000


# E5 to E7: liquidation, equity, margin


def test_e5_a_liquidation_is_noticed_named_and_ends_entries_for_the_day(make):
    rig = entered(make())
    sent = len(entries(rig))
    rig.sim.fault("liquidate")
    rig.ticks(5)
    assert rig.held() == 0 and not rig.books().quantity
    hold = rig.bot.risk.holds["liquidation"]
    assert state(rig) is TradingState.REDUCING and "liquidated 0.06 BTC-PERP" in hold.reason
    (trade,) = [e for e in rig.of("trade.executed") if e.data["is_liquidation"]]
    assert trade.data["reason"] == "liquidated by the venue"
    rig.rising(61000)
    rig.ticks(30)
    rig.start().ticks(3)
    assert len(entries(rig)) == sent and state(rig) is TradingState.REDUCING
    assert_books_agree(rig)


def test_e5_a_liquidation_at_the_threshold_is_booked_as_the_venue_did_it(make):
    rig = entered(make(**BOLD))
    rig.sim.fault("margin_step", long="0.45", short="0.45")
    rig.ticks(5)
    assert len(rig.truth()["liquidations"]) == 1 and rig.held() == 0
    assert "liquidation" in rig.bot.risk.holds and len(entries(rig)) == 1
    assert rig.bot.engine.outstanding() == ()
    assert_books_agree(rig)


@pytest.mark.parametrize("cash", ["-50", "0.01"])
def test_e6_without_equity_nothing_is_sent(make, cash):
    rig = make({"cash": cash})
    rig.rising()
    rig.start().ticks(4)
    assert creates(rig) == 0 and not rig.bot.trouble
    codes = rig.of("risk.rejected")[-1].data["codes"]
    assert ("EQUITY_NOT_POSITIVE" in codes) == (Decimal(cash) <= 0) and codes


def test_e6_a_balance_that_nobody_can_read_sends_nothing(make):
    rig = make()
    rig.rising()
    rig.sim.fault("summary_null")
    rig.start()
    assert not rig.tick() and not rig.tick()
    assert creates(rig) == 0


MARGIN_STEPS = [
    # the overnight rate   state                    what is left of 49 contracts
    ("0.22",               TradingState.TRADING,    49),
    ("0.27",               TradingState.REDUCING,   49),
    ("0.31",               TradingState.REDUCING,   25),
    ("0.36",               TradingState.REDUCING,   0),
]


@pytest.mark.parametrize("rate,expected,left", MARGIN_STEPS)
def test_e7_a_thinning_buffer_ends_entries_then_halves_then_closes(make, rate, expected, left):
    rig = entered(make(**BOLD))
    assert rig.held() == 49
    rig.sim.fault("margin_step", long=rate, short=rate)
    rig.ticks(10)
    assert state(rig) is expected and abs(rig.held() - left) <= 1
    assert ("liquidation_distance" in rig.bot.risk.holds) == (expected is not TradingState.TRADING)
    assert rig.truth()["liquidations"] == []
    assert not rig.books().quantity or rig.bot.protector.is_protected(BTC)
    assert_books_agree(rig)


def test_e7_what_was_halved_is_not_halved_again_before_the_margin_is_read_anew(make):
    rig = entered(make(**BOLD))
    rig.sim.fault("lag_balance", seconds=7)
    rig.sim.fault("margin_step", long="0.31", short="0.31")
    rig.ticks(12, 2)
    assert abs(rig.held() - 25) <= 1
    assert len(rig.orders("/orders/close_position")) == 1
    assert_books_agree(rig)


def test_e7_an_entry_whose_stop_lies_beyond_liquidation_is_cut_or_refused(make):
    rig = make(**BOLD)
    rig.sim.fault("margin_step", long="0.9", short="0.9")
    rig.rising()
    rig.start().ticks(4)
    initial = rig.held() * 600 * Decimal("0.9")
    assert rig.held() > 0 and Decimal(rig.truth()["equity"]) > initial * Decimal("1.5")
    assert state(rig) is TradingState.TRADING and not rig.orders("/orders/close_position")


def test_e7_where_the_venues_figures_are_missing_the_guard_says_that_it_is_unarmed(make):
    rig = entered(make())
    for name in ("liquidation_threshold", "available_margin", "initial_margin"):
        assert is_armed_by_health(rig)
        rig.sim.fault("fields_missing", path=f"balance_summary.{name}", match="balance_summary")
        rig.ticks(2)
        assert not rig.bot.trouble and not is_armed_by_health(rig)
        assert rig.bot.protector.is_protected(BTC)
        rig.sim.fault("clear")
        rig.tick()
    assert is_armed_by_health(rig)


def is_armed_by_health(rig):
    return health(rig.bot, rig.now)["liquidation_guard"] == "armed"


# E8: what a product's row forbids

RESTRICTED = {
    **{flag: {flag: True} for flag in (
        "is_disabled", "trading_disabled", "cancel_only", "limit_only", "post_only", "view_only",
        "auction_mode")},
    "a flag that nobody knows": {"extra": {"only_on_tuesdays": True}},
    "a flag that is missing": {"unset": ["cancel_only"]},
    "a flag of another type": {"trading_disabled": "false"},
    "no session": {"extra": {"fcm_trading_session_details": None}},
    "no margin rate": {"overnight_margin_rate": None},
    "a product that is not tradable": {"extra": {"is_restricted": True}},
}


def test_e8_flags_that_could_not_be_read_for_a_minute_open_nothing(make):
    rig = make()
    rig.rising()
    rig.start()
    rig.bot.risk.hold("operator", TradingState.REDUCING, "a test")
    rig.tick()
    rig.sim.call("network", name="status", status=503, match="GET /products$", times=None)
    rig.tick(61)
    rig.bot.risk.lift("operator", "a test")
    rig.ticks(3)
    assert creates(rig) == 0 and BTC in rig.bot.engine.marks
    rig.sim.call("network", name="clear")
    rig.ticks(2)
    assert len(entries(rig)) == 1


# Where these are true the venue takes nothing but cancels.
NOTHING_TAKEN = ("is_disabled", "trading_disabled", "view_only", "cancel_only")


def test_e8_every_restriction_blocks_an_entry_and_only_while_it_stands(make):
    rig = make()
    (row,) = [row for row in default_products() if row["product_id"] == IDS[BTC]]
    for change in [*RESTRICTED.values(), {}]:
        rig.sim.call("set_product", product_id=IDS[BTC], add=copy.deepcopy(row))
        rig.sim.call("set_product", product_id=IDS[BTC], **change)
        rig.rising()
        rig.start().tick(1)
        refused = rig.of("risk.rejected")
        if change:
            assert entries(rig) == [], change
            assert refused and "PRODUCT_NOT_TRADABLE" in refused[-1].data["codes"], change
    assert len(entries(rig)) == 1


@pytest.mark.parametrize("what", [what for what in RESTRICTED
                                  if what not in (*NOTHING_TAKEN, "no session")])
def test_e8_a_restricted_product_is_left_or_the_exit_keeps_trying(make, what):
    rig = entered(make())
    rig.sim.call("set_product", product_id=IDS[BTC], **RESTRICTED[what])
    rig.tick(60)
    rig.bot.protector.exit(BTC, "a test")
    rig.ticks(3)
    assert rig.orders("/orders/close_position")
    if what in ("limit_only", "post_only", "auction_mode"):  # the venue takes no market order
        assert rig.held() == 6
        rig.sim.call("set_product", product_id=IDS[BTC], **{what: False})
        rig.ticks(2, 30)
    assert rig.held() == 0 and len(entries(rig)) == 1
    assert_books_agree(rig)


def test_e8_where_nothing_but_cancels_is_taken_an_exit_leaves_the_stop_alone(make):
    rig = entered(make())
    stops = [order.id for order in rig.stops()]
    for flag in NOTHING_TAKEN:
        alone = {name: name == flag for name in NOTHING_TAKEN}
        rig.sim.call("set_product", product_id=IDS[BTC], **alone)
        rig.tick(60)
        rig.bot.protector.exit(BTC, "a test")
        rig.ticks(2)
        assert [order.id for order in rig.stops()] == stops and rig.bot.protector.is_protected(BTC)
    rig.sim.call("set_product", product_id=IDS[BTC], **dict.fromkeys(NOTHING_TAKEN, False))
    rig.tick(60)
    rig.ticks(3)
    assert rig.held() == 0
    assert_books_agree(rig)


# E9: sessions


def test_e9_before_during_and_after_the_weekly_close_entries_wait_for_the_open(make):
    rig = make({"friday_close": True}, now=FRIDAY + timedelta(minutes=50))
    rig.rising()
    rig.start().ticks(3)
    assert any("CLOSING_SOON" in event.data["codes"] for event in rig.of("risk.rejected"))
    for _ in range(14):  # to 23:00
        assert rig.tick(300), rig.bot.trouble  # no quotes are no error
        assert creates(rig) == 0
    rig.ticks(2)
    rig.end_process()
    rig.rising()
    rig.start().ticks(3)
    assert len(entries(rig)) == 1 and rig.bot.protector.is_protected(BTC)


def test_e9_the_trail_rests_before_the_close_and_the_stop_stays_while_it_lasts(make):
    rig = make({"friday_close": True}, now=FRIDAY)
    entered(rig)
    (before,) = rig.stops()
    rig.tick(46 * 60)  # 21:46
    for price in (61000, 62000, 63000):
        rig.price(price)
        rig.tick(60)
    assert [order.id for order in rig.stops()] == [before.id] and cancelled(rig) == []
    rig.tick(15 * 60)  # 22:04, closed
    assert not rig.bot.catalog.get(BTC).is_session_open and rig.bot.protector.is_protected(BTC)
    rig.bot.protector.exit(BTC, "a test")
    for _ in range(8):
        assert rig.tick(300), rig.bot.trouble
    assert cancelled(rig) == [] and not rig.orders("/orders/close_position")
    assert [order.id for order in rig.stops()] == [before.id] and rig.held() == 6
    rig.tick(17 * 60)  # 23:01
    rig.price(63000)
    rig.ticks(4)
    assert rig.held() == 0 and rig.orders("/orders/close_position")
    assert_books_agree(rig)


def test_an_order_that_the_owner_queued_in_a_closed_market_is_closed_with_everything_else(make):
    """The list of what is open leaves it out, and no list of late has it."""
    rig = make()
    rig.rising()
    rig.start()
    rig.sim.call("set_session", product_id=IDS[BTC], is_open=False)
    rig.sim.call("order_by_owner", product_id=IDS[BTC], side="BUY", contracts="2",
                 limit_price="50000")
    for _ in range(20):
        rig.tick(60)

    def wait(_):
        rig.now += timedelta(seconds=1)
        rig.sim.advance(rig.now)

    clock = SimpleNamespace(now=lambda: rig.now, wall=lambda: rig.now, wait=wait)
    rig.bot.control = Control(rig.bot.store)
    request = Request("0" * 32, "close-all", {"reason": "all", "symbols": [BTC]}, rig.now)
    rig.bot.control.perform(rig.bot, clock, request)
    answer = rig.bot.control.answers[request.id]
    assert answer.exit_code == 0 and ", not ours, buy: gone\n" in answer.text
    assert [order["status"] for order in rig.truth()["orders"]
            if order["status"] not in ("FILLED", "CANCELLED")] == []


@pytest.mark.parametrize("reason", ["EXCHANGE_MAINTENANCE", "A_REASON_OF_TOMORROW"])
def test_e9_maintenance_keeps_the_position_its_stop_and_sends_nothing(make, reason):
    rig = entered(make())
    sent = creates(rig)
    rig.sim.call("set_session", product_id="*", is_open=False, reason=reason)
    rig.price(50000)
    for _ in range(6):
        assert rig.tick(60), rig.bot.trouble
    assert creates(rig) == sent and cancelled(rig) == [] and rig.held() == 6
    assert "the market is closed" in rig.bot.message
    rig.sim.call("set_session", product_id="*", is_open=True)
    rig.ticks(4, 30)
    assert rig.held() == 0, "the stop was passed while it was closed"
    assert_books_agree(rig)


def test_e9_an_announced_maintenance_is_no_time_for_entries(make):
    rig = make()
    begin, end = (rig.now + timedelta(minutes=m) for m in (10, 30))
    rig.rising()
    rig.sim.call("set_session", product_id=IDS[BTC], is_open=None, maintenance={
        "start_time": begin.isoformat().replace("+00:00", "Z"),
        "end_time": end.isoformat().replace("+00:00", "Z")})
    rig.start().ticks(5)
    for _ in range(6):
        rig.tick(300)
        assert creates(rig) == 0 or rig.now > end


def test_e9_in_a_halt_an_exit_keeps_trying_and_the_position_keeps_a_stop(make):
    rig = entered(make())
    rig.sim.call("set_product", product_id=IDS[BTC], halted=True)
    rig.bot.protector.exit(BTC, "a test")
    rig.ticks(6)
    assert rig.held() == 6 and len(rig.orders("/orders/close_position")) >= 1
    rig.ticks(1, 10)
    rig.sim.call("set_product", product_id=IDS[BTC], halted=False)
    rig.ticks(6)
    assert rig.held() == 0
    assert_books_agree(rig)


def test_e9_a_stop_in_a_closed_market_keeps_trying_and_never_claims_success(make, monkeypatch):
    rig = make({"friday_close": True}, now=FRIDAY)
    rig.rising()
    rig.start(order_type="limit", time_in_force="GTC").ticks(2)
    (entry,) = rig.bot.engine.entries()
    rig.tick(61 * 60)  # 22:01, closed
    asked = len(cancelled(rig))
    monkeypatch.setattr(shutdown, "STOP_LOOKS_MAX", 6)
    assert stopped(rig) == 3
    assert len(cancelled(rig)) > asked
    assert any(f"NOT confirmed: {entry.id}" in line for line in rig.said)
    assert rig.said[-1] == "stopped: NOT verified"
    (ended,) = rig.of("bot.stopped")
    assert ended.data["exit_code"] == 3 and ended.data["orders_left"] == [entry.id]


def test_e9_a_stop_just_before_the_opening_keeps_trying_until_cancels_are_taken(make):
    rig = make({"friday_close": True}, now=FRIDAY)
    rig.rising()
    rig.start(order_type="limit", time_in_force="GTC").ticks(2)
    assert rig.bot.engine.entries()
    rig.tick((FRIDAY + timedelta(seconds=2 * HOUR - 3) - rig.now).total_seconds())  # 22:59:57
    assert stopped(rig) == 0
    assert rig.now >= FRIDAY + timedelta(hours=2), "no cancel is taken before that"
    assert rig.said[-1] == "stopped: every entry confirmed gone"
    (order,) = rig.truth()["orders"]
    assert order["status"] == "CANCELLED"


def test_e9_a_stop_during_an_exit_that_cannot_happen_keeps_the_position_protected(make):
    rig = entered(make())
    rig.sim.call("set_session", product_id="*", is_open=False)
    rig.tick(60)
    rig.bot.protector.exit(BTC, "a test")
    rig.ticks(2)
    stopped(rig)
    assert rig.held() == 6 and rig.stops() and rig.bot.protector.is_protected(BTC)
    assert any("position kept: BTC-PERP 0.06" in line for line in rig.said)


def test_e9_after_the_reopening_the_trail_goes_on(make):
    rig = make({"friday_close": True}, now=FRIDAY)
    entered(rig)
    (before,) = rig.stops()
    for _ in range(2):
        to_the_hour(rig)
    rig.price(62000)
    rig.ticks(3, 61)
    (after,) = rig.stops()
    assert after.intent.stop_price >= 61000 > before.intent.stop_price
    assert rig.bot.protector.is_protected(BTC)
    assert_books_agree(rig)


def test_e9_a_stop_with_only_a_protected_position_succeeds_in_a_closed_market(make):
    rig = entered(make())
    stops = [order.id for order in rig.stops()]
    rig.sim.call("set_session", product_id="*", is_open=False)
    rig.tick(60)
    assert stopped(rig) == 0 and cancelled(rig) == []
    assert any("position kept: BTC-PERP 0.06, stop at" in line for line in rig.said)
    assert [order.id for order in rig.stops()] == stops


def test_e9_a_stop_that_meets_a_dead_venue_does_not_claim_success(make, monkeypatch):
    rig = make()
    rig.rising()
    rig.start(order_type="limit", time_in_force="GTC").ticks(2)
    assert rig.bot.engine.entries()
    rig.sim.call("network", name="status", status=503, match="/orders", times=None)
    monkeypatch.setattr(shutdown, "STOP_LOOKS_MAX", 6)
    assert stopped(rig) == 3 and rig.said[-1] == "stopped: NOT verified"


# E10 and E11: what becomes of a product


def test_e10_a_contract_that_ends_within_a_week_takes_no_entry(make):
    rig = make()
    rig.sim.call("set_product", product_id=IDS[BTC], contract_expiry="2026-11-30T11:00:00Z")
    rig.rising()
    rig.start().ticks(4)
    assert creates(rig) == 0
    assert any("EXPIRING_SOON" in event.data["codes"] for event in rig.of("risk.rejected"))


def test_e10_a_contract_that_ends_within_a_day_is_closed(make):
    rig = entered(make())
    rig.sim.call("set_product", product_id=IDS[BTC], contract_expiry="2026-11-29T11:00:00Z")
    rig.tick(60)
    assert rig.held() == 6
    rig.sim.call("set_product", product_id=IDS[BTC], contract_expiry="2026-11-24T11:00:00Z")
    rig.tick(60)
    rig.ticks(3)
    assert rig.held() == 0 and len(entries(rig)) == 1
    assert "expires" in rig.of("trade.executed")[-1].data["reason"]
    assert_books_agree(rig)


def test_e10_a_delisted_product_keeps_its_books_and_its_stop_and_is_said(make):
    rig = entered(make())
    sent = creates(rig)
    rig.sim.call("set_product", product_id=IDS[BTC], remove=True)
    rig.tick(60)
    rig.ticks(3)
    assert rig.books().quantity == Decimal("0.06") and rig.bot.protector.is_protected(BTC)
    assert creates(rig) == sent and not rig.bot.catalog.get(BTC).tradable
    assert "no longer listed" in rig.bot.message


def test_e10_a_product_that_was_delisted_before_the_start_is_named_and_refused(make):
    rig = make()
    rig.sim.call("set_product", product_id=IDS[BTC], remove=True)
    rig.start()
    with pytest.raises(ConfigError, match=BTC):
        rig.tick()
    assert creates(rig) == 0


@pytest.mark.parametrize("change", [{"contract_size": "0.02"}, {"price_increment": "10"}],
                         ids=lambda change: next(iter(change)))
def test_e11_a_held_contract_that_changes_is_said_and_reduces(make, change):
    rig = entered(make())
    rig.sim.call("set_product", product_id=IDS[BTC], **change)
    rig.tick(60)
    rig.ticks(2)
    assert state(rig) is TradingState.REDUCING
    assert "tick and product were 0.01, 5 and " in rig.bot.risk.holds["contract"].reason


def test_e11_a_tick_that_changes_while_flat_is_used_after_the_next_read(make):
    rig = make()
    rig.rising()
    rig.start()
    rig.bot.risk.hold("operator", TradingState.REDUCING, "a test")
    rig.ticks(2)
    rig.sim.call("set_product", product_id=IDS[BTC], price_increment="25")
    rig.sim.price(IDS[BTC], "60000", "60025", last="60000")
    rig.tick(60)
    rig.bot.risk.lift("operator", "a test")
    rig.ticks(3)
    (stop_order,) = rig.stops()
    assert stop_order.intent.stop_price % 25 == 0 and state(rig) is TradingState.TRADING
    rejected = [order for order in rig.truth()["orders"] if order["status"] == "FAILED"]
    assert rejected == []
    assert_books_agree(rig)


def test_e11_a_smallest_size_that_grew_makes_no_order_larger(make):
    rig = make()
    rig.sim.call("set_product", product_id=IDS[BTC], base_min_size="20")
    rig.rising()
    rig.start().ticks(3)
    assert creates(rig) == 0 and rig.of("risk.rejected")


# E12: words and fields that are not as they were


def test_e12_unknown_words_take_the_careful_branch_and_new_fields_are_ignored(make):
    rig = make()
    rig.sim.call("set_product", product_id=IDS[BTC], extra={
        "a_new_field": {"deep": ["er"]}, "another": "1", "one_more": None})
    rig.sim.fault("fields_missing", path="orders.a_new_field", value="X", match="/orders")
    entered(rig)
    rig.sim.fault("status_unknown", reads=3)
    rig.ticks(8)
    assert len(entries(rig)) == 1 and rig.held() == 6 and rig.bot.protector.is_protected(BTC)
    assert not rig.bot.trouble
    assert_books_agree(rig)


def test_e12_a_session_in_a_state_that_is_not_known_to_be_open_takes_no_entry(make):
    rig = make()
    state_of = {"path": "products.fcm_trading_session_details.session_state", "match": "/products"}
    for word in ("FCM_TRADING_SESSION_STATE_HALTED", "A_NEW_STATE", "", None):
        rig.sim.fault("fields_missing", value=word, **state_of)
        rig.rising()
        rig.start().ticks(2, 1)
        assert creates(rig) == 0
        assert "PRODUCT_NOT_TRADABLE" in rig.of("risk.rejected")[-1].data["codes"]
        rig.sim.fault("clear")
    rig.start().ticks(2, 1)
    assert len(entries(rig)) == 1


MISSING = {
    "a product's smallest size": ("products.base_min_size", "/products"),
    "a product's tick": ("products.price_increment", "/products"),
    "the total of the balance": ("balance_summary.unrealized_pnl", "/balance_summary"),
    "a position's price": ("positions.avg_entry_price", "/cfm/positions"),
    "an order's side": ("orders.side", "/orders/historical/batch"),
    "an order's size": ("orders.filled_size", "/orders/historical/batch"),
    "a fill's price": ("fills.price", "/orders/historical/fills"),
    "a fill's fee": ("fills.commission", "/orders/historical/fills"),
}


@pytest.mark.parametrize("what", MISSING)
def test_e12_what_a_read_must_say_and_does_not_is_a_failed_read(make, what):
    path, match = MISSING[what]
    rig = entered(make())
    for value in ({}, {"value": [1]}, {"value": "NaN"}):  # absent, a list, no number
        rig.sim.fault("fields_missing", path=path, match=match, **value)
        rig.tick(61)
        rig.ticks(3)
        assert rig.books().quantity == Decimal("0.06") and rig.held() == 6
        assert len(entries(rig)) == 1 and cancelled(rig) == []
        assert rig.bot.trouble or "product" in what, "only old products are good enough"
        rig.sim.fault("clear")
        rig.tick(61)
        assert not rig.bot.trouble and rig.bot.protector.is_protected(BTC)
    assert_books_agree(rig)


def test_e12_venue_time_that_goes_back_neither_books_twice_nor_opens_a_new_day(make):
    rig = entered(make())
    rig.ticks(3)
    rig.now -= timedelta(minutes=3)
    for _ in range(4):
        rig.now += timedelta(seconds=5)
        rig.bot.store.now = rig.now
        rig.tick(0)
    assert len(rig.of("day.opened")) == 1 and len(rig.of("trade.executed")) == 1
    assert len(entries(rig)) == 1


# E13: the key


def test_e13_prod_refuses_a_key_that_can_transfer_and_says_which_one_to_make(make):
    rig = make({"permissions": {"can_transfer": True}})
    rig.rising()
    rig.start()
    with pytest.raises(ConfigError, match="View and Trade only"):
        rig.tick()
    assert rig.sim.requests("POST") == []


def test_e13_a_key_that_can_only_view_observes(make):
    rig = make({"permissions": {"can_trade": False}})
    rig.rising()
    rig.start().ticks(4)
    assert state(rig) is TradingState.HALTED and "observe" in rig.bot.risk.holds
    assert rig.sim.requests("POST") == [] and not rig.bot.trouble
    assert rig.of("strategy.signal")[0].data["action"] == "buy"
    assert stopped(rig) == 0 and rig.sim.requests("POST") == []


@pytest.mark.parametrize("granted", [{"can_view": False}, {"can_trade": None},
                                     {"can_transfer": "false"}], ids=str)
def test_e13_a_key_whose_rights_are_not_known_sends_nothing(make, granted):
    rig = make({"permissions": granted})
    rig.rising()
    rig.start()
    if granted == {"can_view": False}:
        with pytest.raises(ConfigError, match="cannot view"):
            rig.tick()
    else:
        assert not rig.tick() and not rig.tick()
    assert rig.sim.requests("POST") == []


def test_e13_a_key_that_is_revoked_under_way_sends_nothing_more_and_says_so(make):
    rig = entered(make())
    sent = creates(rig)
    rig.sim.call("network", name="status", status=401, match="", times=None)
    for _ in range(3):
        assert not rig.tick()
    assert "401" in rig.bot.trouble and creates(rig) == sent
    assert rig.books().quantity == Decimal("0.06") and rig.held() == 6


# Four symbols at once


def test_four_symbols_are_entered_protected_and_left_with_books_equal_to_the_cent(make):
    prices = {BTC: (60000, 10), ETH: (2500, "0.5"), SOL: (100, "0.02"), XRP: ("1.2", "0.0005")}
    rig = make(symbols=tuple(prices))
    for symbol, (price, step) in prices.items():
        rig.rising(price, step, symbol=symbol)
        rig.sim.call("set_product", product_id=IDS[symbol], funding_rate="0.0002")
    rig.start().ticks(8)
    assert len(entries(rig)) == 4 and all(map(rig.bot.protector.is_protected, prices))
    assert all(rig.held(symbol) > 0 for symbol in prices)
    to_the_hour(rig)
    rig.tick(60)
    assert len(rig.of("funding.paid")) == 4
    for symbol, (price, _) in prices.items():
        rig.price(Decimal(price) + TICKS[symbol] * 3, symbol)
    rig.ticks(2)
    assert_books_agree(rig)
    for symbol in prices:
        rig.bot.protector.exit(symbol, "a test")
    rig.ticks(6)
    assert not any(rig.held(symbol) for symbol in prices)
    assert {body["product_id"] for body in rig.orders("/orders/close_position")} == {*IDS.values()}
    assert_books_agree(rig)


# F: the bot over a live feed


def follows(rig, symbol=BTC):
    """Wait until the feed has a quote of that symbol that is as new as the exchange's."""
    wait_until(lambda: symbol in rig.feed.marks([symbol]), "a quote by the feed")


def test_f1_a_feed_that_falls_silent_is_replaced_by_rest(make):
    rig = make(with_feed=True)
    rig.rising()
    rig.start().tick()
    follows(rig)
    rig.ticks(2)
    assert rig.held() == 6 and rig.bot.protector.is_protected(BTC)
    rig.sim.call("network", name="ws_silence")
    rig.price(60300)
    for _ in range(4):
        assert rig.tick(), rig.bot.trouble
    assert rig.bot.engine.marks[BTC].bid == 60300, "by REST"
    assert_books_agree(rig)


def test_f2_a_ticker_that_is_frozen_while_heartbeats_go_on_is_found_out(make):
    rig = make(with_feed=True)
    rig.rising()
    rig.start().tick()
    follows(rig)
    rig.ticks(2)
    rig.sim.call("network", name="ws_freeze_ticker")
    rig.price(61500)
    for _ in range(8):
        assert rig.tick(), rig.bot.trouble
    assert rig.bot.engine.marks[BTC].bid == 61500
    assert_books_agree(rig)


NO_PRICES = (
    {"best_bid": "0"}, {"best_bid": "-60000"}, {"best_ask": "NaN"}, {"best_ask": "1e400"},
    {"best_bid": "60100"}, {"best_bid": ""})


def test_f6_what_is_no_price_in_the_feed_is_not_traded_on(make):
    rig = make(with_feed=True)
    rig.rising()
    rig.start()
    rig.bot.risk.hold("operator", TradingState.REDUCING, "a test")
    rig.tick()
    follows(rig)

    def dropped():
        return rig.feed.figures()["market"]["unusable"]

    for number, values in enumerate(NO_PRICES):
        assert dropped() == number
        rig.sim.fault("ticker_fields", product_id=IDS[BTC], values=values)
        rig.price(60000)  # tells everybody who listens
        wait_until(lambda: dropped() > number, "the end of that message")
        rig.tick(1)
        assert rig.bot.engine.marks[BTC].bid == 60000, values
    rig.bot.risk.lift("operator", "a test")
    rig.ticks(2)
    (fill,) = rig.truth()["fills"]
    assert (fill["price"], fill["size"]) == ("60005", "6")


def test_f2_a_feed_that_differs_from_rest_is_not_believed(make):
    rig = make(with_feed=True)
    rig.rising()
    rig.start()
    rig.bot.risk.hold("operator", TradingState.REDUCING, "a test")
    rig.tick()
    follows(rig)
    rig.now += timedelta(seconds=30)
    rig.sim.advance(rig.now)
    rig.sim.fault("ticker_fields", product_id=IDS[BTC],
                  values={"best_bid": "62000", "best_ask": "62005"})
    rig.price(60000)
    # The quote from before is stale by now: there is none until the new one has come.
    wait_until(lambda: any(m.bid == 62000 for m in rig.feed.marks([BTC]).values()), "that quote")
    for seconds in (0, 1, 1):  # the first of them compares; the others remember
        rig.tick(seconds)
        assert rig.feed.marks([BTC])[BTC].bid == 62000 and rig.bot.engine.marks[BTC].bid == 60000


@pytest.mark.parametrize("fault", ["ws_duplicate", "ws_reorder", "ws_gap", "ws_drop"])
def test_d8_user_events_that_repeat_or_are_missing_change_no_books(make, fault):
    """The user channel tells sums, not trades: it wakes, and the books come from the fills."""
    rig = make(with_feed=True)
    rig.rising()
    rig.start()
    for _ in range(3):
        rig.sim.call("network", name=fault)
        rig.tick()
    follows(rig)
    rig.ticks(2)
    assert rig.held() == 6 and rig.bot.protector.is_protected(BTC)
    for price in (59700, 59400):
        rig.sim.call("network", name=fault)
        rig.price(price)
        rig.ticks(3)
    assert rig.held() == 0
    rig.ticks(2)
    assert_books_agree(rig)


def test_f3_gaps_repeats_and_rubbish_in_the_feed_leave_the_price_right(make):
    rig = make(with_feed=True)
    rig.rising()
    rig.start().tick()
    follows(rig)
    rig.ticks(2)
    for number, fault in enumerate(("ws_gap", "ws_duplicate", "ws_reorder", "ws_garbage",
                                    "ws_drop", "ws_empty_quotes"), 1):
        rig.sim.call("network", name=fault)
        rig.price(60000 + 20 * number)
        rig.ticks(2)
        assert not rig.bot.trouble
    rig.ticks(8)
    assert rig.bot.engine.marks[BTC].bid == 60120 and rig.held() == 6
    assert_books_agree(rig)


def test_f6_a_crossed_or_one_sided_quote_by_rest_opens_nothing(make):
    rig = make()
    rig.rising()
    rig.start()
    for bid, ask in (("60100", "60000"), ("60000", "0"), ("0", "60005"), ("60000", "60000")):
        rig.sim.price(IDS[BTC], bid, ask, last="")
        rig.ticks(2, 1)
        assert creates(rig) == 0
        assert "No mark price" in rig.bot.message
    rig.price(60000)
    rig.tick(1)
    assert len(entries(rig)) == 1


def test_f7_a_quote_that_is_old_opens_nothing_and_holds_up_no_exit(make):
    old = {"path": "pricebooks.time", "value": "2026-11-23T11:59:30.000000Z",
           "match": "best_bid_ask"}
    rig = make()
    rig.rising()
    rig.sim.fault("fields_missing", **old)
    rig.start().ticks(3)
    assert creates(rig) == 0
    assert "STALE_MARK" in rig.of("risk.rejected")[-1].data["codes"]
    rig.sim.fault("clear")
    rig.ticks(3)
    assert rig.held() == 6
    rig.sim.fault("fields_missing", **old)
    rig.bot.protector.exit(BTC, "a test")
    rig.ticks(3)
    assert rig.held() == 0
    assert_books_agree(rig)
