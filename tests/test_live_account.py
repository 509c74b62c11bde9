"""The account: does the bot believe what the venue says of it, and no more than that?

Rows E of the faults, and F as far as the whole bot shows it: a real prod bot against the exchange
process, whose own books are what ours are compared with.
"""

import signal
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from exchange.harness import wait_until

from live import BTC, ETH, IDS, SOL, TICKS, XRP, LiveRig, at_once
from perps_bot.errors import ConfigError
from perps_bot.loop import stop
from perps_bot.model import TradingState
from perps_bot.ops import health

FRIDAY = datetime(2026, 11, 27, 21, tzinfo=UTC)  # an hour before the weekly close
CENT = Decimal("0.005")
BIT = "BIT-25DEC26-CDE"
HOUR = 3600
# An account that is used up to what its margin allows.
BOLD = {"max_position_pct_per_symbol": Decimal(1), "max_exposure_pct": Decimal(1),
        "target_leverage": Decimal(3)}


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Rigs, one a test as a rule; an exchange that broke fails the test."""
    at_once(monkeypatch)
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


def stopped(rig, number=signal.SIGINT):
    return stop(rig.bot, Waits(rig), number)


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
    assert rig.bot.engine.is_protected(BTC) and rig.held() >= 3
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
    rig.history([60000] * 60)
    rig.price(60000)
    rig.start().ticks(2)
    theirs = rig.sim.call("order_by_owner", product_id=IDS[BTC], side="SELL", contracts="2",
                          limit_price="65000")
    rig.rising()
    rig.start().ticks(3) if False else None
    assert theirs


def test_e1_a_trade_by_hand_next_to_our_position_pauses_entries_and_counts_as_exposure(make):
    rig = entered(make(symbols=(BTC, ETH)))
    rig.sim.call("trade_by_owner", product_id=IDS[BTC], side="BUY", contracts="30")
    sent = len(entries(rig))
    rig.rising(2500, "0.5", symbol=ETH)
    rig.tick()
    account = rig.bot.engine.books()
    assert account.foreign_notional > Decimal(17900)
    assert len(entries(rig)) == sent, "36 contracts are beyond every limit on exposure"


def test_e1_a_trade_by_hand_that_was_undone_leaves_no_trace_after_one_clean_read(make):
    rig = entered(make())
    for side in ("BUY", "SELL"):
        rig.sim.call("trade_by_owner", product_id=IDS[BTC], side=side, contracts="2")
        rig.tick()
    rig.ticks(3)
    assert rig.of("reconcile.mismatch") == [] and state(rig) is TradingState.TRADING
    assert rig.books().quantity == Decimal("0.06") and rig.bot.engine.is_protected(BTC)
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


# E2 and E3: what is read of the positions


def test_e2_a_mismatch_that_stands_is_adopted_with_both_numbers_and_reduces(make):
    rig = entered(make())
    rig.sim.call("trade_by_owner", product_id=IDS[BTC], side="SELL", contracts="2")
    sent = len(entries(rig))
    rig.ticks(5)
    (event,) = rig.of("reconcile.mismatch")
    assert (event.data["ours"], event.data["venue"]) == (Decimal("0.06"), Decimal("0.04"))
    assert state(rig) is TradingState.REDUCING and "mismatch" in rig.bot.risk.holds
    assert rig.bot.engine.is_protected(BTC) and len(entries(rig)) == sent
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


@pytest.mark.parametrize("what", BAD_POSITIONS)
def test_e3_a_failed_or_empty_read_of_the_positions_is_never_flat(make, what):
    rig = entered(make())
    sent, stops = creates(rig), [order.id for order in rig.stops()]
    BAD_POSITIONS[what](rig.sim)
    rig.ticks(12)
    assert rig.books().quantity == Decimal("0.06") and rig.held() == 6
    assert [order.id for order in rig.stops()] == stops and cancelled(rig) == []
    assert creates(rig) == sent
    rig.sim.call("network", name="clear")
    rig.sim.fault("clear")
    rig.ticks(3)
    assert not rig.bot.trouble and rig.books().quantity == Decimal("0.06")
    assert_books_agree(rig)


@pytest.mark.parametrize("lags", [
    ("lag_positions",), ("lag_balance",), ("lag_fills",), ("lag_orders",),
    ("lag_positions", "lag_balance", "lag_fills", "lag_orders")], ids="+".join)
def test_e3_reads_that_lag_by_seven_seconds_never_cause_a_second_entry(make, lags):
    rig = make()
    for lag in lags:
        rig.sim.fault(lag, seconds=7)
    rig.rising()
    rig.start().ticks(2)
    for _ in range(20):
        rig.tick(1)
    rig.ticks(4)
    assert len(entries(rig)) == 1 and rig.held() == 6
    assert state(rig) is TradingState.TRADING and rig.of("reconcile.mismatch") == []
    assert rig.bot.engine.is_protected(BTC)
    assert_books_agree(rig)


def test_e3_rows_of_no_contracts_that_linger_after_an_exit_are_flat(make):
    rig = entered(make())
    rig.sim.fault("zero_rows_linger", seconds=60)
    rig.bot.engine.exit(BTC, "a test")
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
    rig.tick(HOUR - 5)
    rig.ticks(30)  # the same hour is shown again and again
    (paid,) = rig.of("funding.paid")
    assert paid.data["amount"] * (-1 if short else 1) * Decimal(rate) > 0
    assert abs(rig.books().funding - Decimal(rig.truth()["funding_accrued"])) < CENT
    assert_books_agree(rig)


def test_e4_the_rate_of_each_hour_is_written_down_even_while_flat(make):
    rig = make()
    rig.history([60000] * 60)
    rig.price(60000)
    rig.start().ticks(2)
    for hour, rate in enumerate(("0.00001", "-0.00002", "0.00003"), 13):
        rig.sim.call("set_product", product_id=IDS[BTC], funding_rate=rate)
        rig.tick(HOUR - 30)
        rig.ticks(6)
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
    rig.bot.engine.exit(BTC, "a test")
    rig.ticks(20)
    assert rig.held() == 0 and len(rig.truth()["accruals"]) == 1
    assert_books_agree(rig)


def a_day(rig, at_hour=lambda hour: None):
    """From noon to just after midnight, an hour and a few seconds at a time."""
    for hour in range(13, 25):
        at_hour(hour)
        rig.tick((rig.now.replace(minute=0, second=0) + timedelta(hours=1, seconds=5)
                  - rig.now).total_seconds())
        rig.ticks(2)


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


@pytest.mark.parametrize("cash", ["0", "-50", "0.01"])
def test_e6_without_equity_nothing_is_sent(make, cash):
    rig = make({"cash": cash})
    rig.rising()
    rig.start().ticks(4)
    assert creates(rig) == 0 and not rig.bot.trouble
    assert rig.of("risk.rejected")


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
    assert not rig.books().quantity or rig.bot.engine.is_protected(BTC)
    assert_books_agree(rig)


def test_e7_what_was_halved_is_not_halved_again_before_the_margin_is_read_anew(make):
    rig = entered(make(**BOLD))
    rig.sim.fault("lag_balance", seconds=7)
    rig.sim.fault("margin_step", long="0.31", short="0.31")
    rig.ticks(8)
    assert abs(rig.held() - 25) <= 1
    assert len(rig.orders("/orders/close_position")) == 1
    assert_books_agree(rig)


def test_e7_an_entry_whose_stop_lies_beyond_liquidation_is_cut_or_refused(make):
    rig = make(**BOLD)
    rig.sim.fault("margin_step", long="0.9", short="0.9")
    rig.rising()
    rig.start().ticks(4)
    truth = rig.truth()
    initial = rig.held() * 600 * Decimal("0.9")
    assert rig.held() == 0 or Decimal(truth["equity"]) / (initial * Decimal("0.88")) > Decimal(1.5)


@pytest.mark.parametrize("field", ["liquidation_threshold", "available_margin", "initial_margin"])
def test_e7_where_the_venues_figures_are_missing_the_guard_says_that_it_is_unarmed(make, field):
    rig = entered(make())
    assert is_armed_by_health(rig)
    rig.sim.fault("fields_missing", path=f"balance_summary.{field}", match="balance_summary")
    rig.ticks(3)
    assert not rig.bot.trouble and not is_armed_by_health(rig)
    assert rig.bot.engine.is_protected(BTC)
    rig.sim.fault("clear")
    rig.tick()
    assert is_armed_by_health(rig)


def is_armed_by_health(rig):
    said = str(health(rig.folder))
    return "unarmed" not in said.lower()
