"""What `risk.py` promises: doubt stops an increase, nothing stops a reduction."""

import re
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from perps_bot.errors import ConfigError
from perps_bot.bot import configured
from perps_bot.model import (
    Account,
    Margin,
    OrderIntent,
    OrderStatus,
    Purpose,
    Side,
    Ticket,
    TradingState,
)
from perps_bot.risk import (
    RISK_KINDS,
    LiveRiskManager,
    Remedy,
    RiskConfig,
    headroom,
    is_armed,
    reduction,
    remedy,
    worst_notional,
    worst_price,
)
from perps_bot.settings import resolve
from perps_bot.store import EventStore
from perps_bot.tracker import PositionTracker
from words import (
    BTC,
    ETH,
    NOON,
    a_fill,
    a_mark,
    a_product,
    an_account,
    an_intent,
    an_order,
    hours,
    replace,
)

TODAY, TOMORROW = date(2025, 5, 1), date(2025, 5, 2)
UNKNOWN, FILLED, REJECTED = OrderStatus.UNKNOWN, OrderStatus.FILLED, OrderStatus.REJECTED
REFERENCE = Path(__file__).parents[2] / "shared" / "reference" / "coinbase.md"


def margin(initial, available, threshold="0"):
    return Margin(Decimal(initial), Decimal(available), Decimal(threshold))


def a_manager(store=None, **limits):
    return LiveRiskManager(RiskConfig(**limits), store)


def judged(intent="BUY 1", account=None, product=None, **limits):
    intent = an_intent(intent) if isinstance(intent, str) else intent
    account, product = account or an_account(), product or a_product(intent.symbol)
    return a_manager(**limits).pre_trade(intent, account, product)


def codes(verdict):
    return [breach.code for breach in verdict.breaches]


# The limits


def test_an_ordinary_entry_passes():
    assert judged("BUY 1").approved


@pytest.mark.parametrize("code, setting, measured, allowed, intent, account, limits", [
    # Leverage in force is 5: equity of 10,000 carries 50,000 USD, a symbol a fifth of that.
    ("LEVERAGE_EXCEEDED", "leverage_max_global", "5.01", "5", "BUY 501", {}, {}),
    ("LEVERAGE_EXCEEDED", "max_leverage", "2.01", "2", "BUY 201", {}, {"max_leverage": 2}),
    ("POSITION_SHARE_EXCEEDED", "max_position_pct_per_symbol", "0.2002", "0.2", "BUY 100.1",
     {}, {}),
    ("POSITION_SHARE_EXCEEDED", "max_position_pct_per_symbol", "0.201", "0.2", "BUY 40.2",
     {}, {"target_leverage": 2}),
    ("EXPOSURE_EXCEEDED", "max_exposure_pct", "0.1002", "0.1", "BUY 0.1",
     {"holding": {ETH: "long 10 @ 500"}, "marks": {BTC: "100", ETH: "500"}},
     {"max_exposure_pct": Decimal("0.1")}),
    ("POSITION_VALUE_EXCEEDED", "max_position", "100.5", "100", "BUY 1.005", {},
     {"max_position": 100}),
    ("DAILY_LOSS_EXCEEDED", "max_daily_loss_pct", "0.0501", "0.05", "BUY 1",
     {"loss": "501"}, {}),
    ("DAILY_LOSS_EXCEEDED", "max_daily_loss_pct", "0.05", "0.05", "BUY 1", {"loss": "500"}, {}),
    ("DAILY_LOSS_EXCEEDED", "max_daily_loss_pct", "1", "0.05", "BUY 1",
     {"loss": "1", "start": "0"}, {}),  # nothing to measure it against
    ("STATE_REDUCING", "trading state", "REDUCING", "TRADING", "BUY 1", {},
     {"reduce_only_mode": True}),
    ("STATE_HALTED", "trading state", "HALTED", "TRADING", "BUY 1", {},
     {"kill_switch_enabled": True}),
    ("SHORTS_DISABLED", "enable_shorts", "a short", "longs", "SELL 1", {},
     {"enable_shorts": False}),
    ("POSITION_OPPOSED", "", "an order through flat", "an exit first", "SELL 1.1",
     {"holding": "long 1 @ 100"}, {}),
    ("NO_MARK", "", "none", "a fresh mark", "BUY 1", {"marks": ""}, {}),
    ("EQUITY_NOT_POSITIVE", "", "0", "above 0", "BUY 1", {"equity": "0"}, {}),
    ("EQUITY_NOT_POSITIVE", "", "-12.5", "above 0", "BUY 1", {"equity": "-12.5"}, {}),
    ("LEVERAGE_EXCEEDED", "leverage_max_global", "Infinity", "5", "BUY 1", {"equity": "0"}, {}),
    ("OUTCOME_UNKNOWN", "", "pb-BUY 2", "none", "BUY 1",
     {"orders": [an_order("BUY 2", status=UNKNOWN)]}, {}),
    ("QUANTITY_NOT_POSITIVE", "", "0", "above 0", "BUY 0", {}, {}),
    ("QUANTITY_NOT_POSITIVE", "", "-1", "above 0", "SELL -1", {"holding": "long 5 @ 100"}, {}),
    ("NOT_REDUCING", "", "an increase", "a reduction", an_intent("SELL 1", purpose=Purpose.STOP),
     {}, {}),
    ("NOT_REDUCING", "", "an increase", "a reduction", an_intent("SELL 2", purpose=Purpose.EXIT),
     {"holding": "long 1 @ 100"}, {}),
])
def test_an_increase_is_refused_with_what_was_measured_and_allowed(
        code, setting, measured, allowed, intent, account, limits):
    verdict = judged(intent, an_account(**account), **limits)
    assert not verdict.approved
    (breach,) = [breach for breach in verdict.breaches if breach.code == code]
    assert (breach.limit, breach.measured, breach.allowed) == (setting, measured, allowed)
    assert f"measured {measured} allowed {allowed}" in verdict.reason


def test_an_increase_is_refused_while_the_venue_takes_no_orders():
    """E8: flags."""
    verdict = judged(product=a_product(tradable=False))
    assert codes(verdict) == ["PRODUCT_NOT_TRADABLE"]
    assert "The venue takes no orders in BTC-PERP now: " in verdict.reason


def test_a_closed_market_takes_no_entry_and_says_what_the_venue_says_of_it():
    """E9: maintenance or a closed market."""
    verdict = judged(product=replace(a_product(), is_session_open=False, note="maintenance"))
    assert codes(verdict) == ["PRODUCT_NOT_TRADABLE"]
    assert "The venue takes no orders in BTC-PERP now (maintenance)" in verdict.reason


@pytest.mark.parametrize("field, left, code, measured, unit", [
    ("closes_at",  timedelta(minutes=15, seconds=1), "", "", ""),
    ("closes_at",  timedelta(minutes=15), "CLOSING_SOON", "15", "minutes"),
    ("closes_at",  timedelta(seconds=90), "CLOSING_SOON", "1.5", "minutes"),
    ("closes_at",  timedelta(hours=-1),   "CLOSING_SOON", "-60", "minutes"),  # an old answer
    ("expires_at", timedelta(days=7, seconds=1), "", "", ""),
    ("expires_at", timedelta(days=7),     "EXPIRING_SOON", "7", "days"),
    ("expires_at", timedelta(hours=6),    "EXPIRING_SOON", "0.25", "days"),
])
def test_nothing_is_opened_shortly_before_a_close_or_the_contracts_end(
        field, left, code, measured, unit):
    """E9, E10."""
    product = replace(a_product(), **{field: NOON + left})
    found = [(b.code, b.measured, b.unit) for b in judged(product=product).breaches]
    assert found == ([(code, measured, unit)] if code else [])
    assert judged("SELL 1", an_account(holding="long 1 @ 100"), product).approved


@pytest.mark.parametrize("quote, intent, refused", [
    ("10000/10050",   "BUY 0.1",         False),
    ("10000/10050.5", "BUY 0.1",         True),
    ("10000/10050.5", "SELL 0.1",        True),
    ("10000/10100",   "BUY 0.1 @ 10000", False),  # a limit says what it pays
    ("100/110",       "BUY 1",           False),  # two ticks of 5 USD are the grain of the market
    ("100/110.01",    "BUY 1",           True),
])
def test_no_market_order_is_sent_into_a_wide_spread(quote, intent, refused):
    verdict = judged(intent, an_account(marks=quote))
    assert codes(verdict) == ["SPREAD_TOO_WIDE"] * refused


def test_a_wide_spread_is_said_in_dollars():
    (breach,) = judged("BUY 0.1", an_account(marks="9970/10030")).breaches
    assert (breach.measured, breach.allowed, breach.unit) == ("60", "50", "USD")


@pytest.mark.parametrize("seconds, refused", [
    (0, False), (10, False), (10.000001, True), (-10, False), (-11, True)])
def test_a_mark_is_fresh_only_close_to_now_whichever_clock_is_wrong(seconds, refused):
    mark = a_mark("100", at=NOON - hours(1) * seconds / 3600)
    account = Account(NOON, Decimal(10000), {}, {BTC: mark}, (), Decimal(10000))
    assert codes(judged("BUY 1 @ 100", account)) == ["STALE_MARK"] * refused


def test_the_age_of_a_mark_is_said_in_seconds():
    account = Account(NOON, Decimal(10000), {}, {BTC: a_mark("100", at=NOON - hours(30))})
    (breach,) = judged("BUY 1 @ 100", account).breaches
    assert (breach.code, breach.measured, breach.allowed, breach.unit) == (
        "STALE_MARK", "108000", "10", "s")


@pytest.mark.parametrize("intent, account, limits", [
    ("BUY 100", {}, {}),                                # exactly a fifth
    ("BUY 1", {"loss": "499.99"}, {}),
    ("BUY 1", {"loss": "-9000"}, {}),                   # a gain is no loss
    ("BUY 1", {"loss": "0", "start": "0"}, {}),
    ("BUY 1", {}, {"max_position": 100}),
    ("SELL 1", {"holding": "short 3 @ 90"}, {}),
    ("BUY 40", {"holding": "long 60 @ 90"}, {"max_exposure_pct": Decimal("0.2")}),
    ("BUY 1", {"orders": [an_order("BUY 1", ETH, UNKNOWN)], "marks": {BTC: "100", ETH: "9"}}, {}),
])
def test_what_only_reaches_a_limit_passes(intent, account, limits):
    assert judged(intent, an_account(**account), **limits).approved


def test_every_limit_that_would_break_is_named_at_once():
    account = an_account(equity="1000", loss="600", orders=[an_order("BUY 1", status=UNKNOWN)])
    verdict = judged("SELL 60", account, a_product(tradable=False), enable_shorts=False,
                     reduce_only_mode=True, max_position=100)
    assert set(codes(verdict)) == {
        "STATE_REDUCING", "SHORTS_DISABLED", "PRODUCT_NOT_TRADABLE", "OUTCOME_UNKNOWN",
        "DAILY_LOSS_EXCEEDED", "LEVERAGE_EXCEEDED", "POSITION_SHARE_EXCEEDED", "SELF_CROSS",
        "EXPOSURE_EXCEEDED", "POSITION_VALUE_EXCEEDED", "ORDER_VALUE_EXCEEDED"}


def test_the_words_that_an_operator_searches_for():
    leverage = judged("BUY 501")
    assert ("Risk check failed: Leverage exceeds limit (lower --leverage, add equity, check "
            "positions): leverage_max_global measured 5.01 allowed 5 x equity") in leverage.reason
    assert "No mark price for symbol BTC-PERP: " in judged(account=an_account(marks="")).reason


def test_the_reason_of_a_halt_is_in_the_refusal():
    manager = a_manager()
    manager.activate_kill_switch("Manual intervention required")
    manager.hold("daily_loss", TradingState.REDUCING, "lost 600")
    reason = manager.pre_trade(an_intent("BUY 1"), an_account(), a_product()).reason
    assert ("Risk check failed: Trading is HALTED because of kill_switch (Manual intervention "
            "required), daily_loss (lost 600); perps-bot resume --reason lifts it") in reason


# As if everything outstanding had filled


@pytest.mark.parametrize("holding, orders, notional", [
    ("flat",          [],                                                     "0"),
    ("long 2 @ 90",   [],                                                     "200"),
    ("short 2 @ 90",  [],                                                     "200"),
    ("long 2 @ 90",   [an_order("BUY 1")],                                    "300"),
    ("flat",          [an_order("BUY 1", status=UNKNOWN)],                    "100"),
    ("flat",          [an_order("BUY 3", filled_quantity="1")],               "200"),
    ("flat",          [an_order("BUY 1", status=FILLED)],                     "0"),
    # Filled at the venue, not in our books.
    ("flat",  [Ticket(an_order("BUY 1", status=FILLED, filled_quantity="1")).booked()], "100"),
    ("flat",          [an_order("BUY 1 @ 120")],                              "120"),  # its limit
    ("flat",          [an_order("SELL 1 @ 80")],                              "100"),  # the mark
    ("flat",          [an_order("BUY 1"), an_order("SELL 3")],                "300"),  # the worse
    ("long 2 @ 90",   [an_order("SELL 1")],                                   "200"),
    ("long 2 @ 90",   [an_order("SELL 2", purpose=Purpose.STOP)],             "200"),
    ("flat",          [an_order("SELL 2", purpose=Purpose.STOP)],             "200"),  # orphaned
    ("flat",          [an_order("BUY 5", ETH)],                               "0"),
])
def test_outstanding_orders_count_as_filled_the_worse_way(holding, orders, notional):
    account = an_account(holding=holding, orders=orders)
    assert worst_notional(account, BTC) == Decimal(notional)


def test_an_order_counts_at_the_highest_price_in_sight():
    mark = a_mark("99/103")
    assert worst_price(an_intent("BUY 1"), mark) == worst_price(an_intent("SELL 1"), mark) == 103
    assert worst_price(an_intent("SELL 1 @ 110"), mark) == 110
    assert worst_price(an_intent("BUY 1 @ 90"), mark) == 103


@pytest.mark.parametrize("intent, orders, approved", [
    ("BUY 40",  [an_order("BUY 60")],                                   True),
    ("BUY 41",  [an_order("BUY 60")],                                   False),
    ("BUY 41",  [an_order("BUY 60", status=OrderStatus.CANCEL_QUEUED)], False),
    ("BUY 41",  [an_order("BUY 60", status=OrderStatus.CANCELLED)],     True),
    ("BUY 100", [an_order("SELL 60 @ 101")],                            True),
])
def test_a_symbols_share_counts_what_is_under_way(intent, orders, approved):
    assert judged(intent, an_account(orders=orders)).approved is approved


def test_exposure_counts_what_is_held_and_under_way_in_every_symbol():
    marks = {BTC: "100", ETH: "10"}
    orders = [an_order("BUY 1000", ETH, UNKNOWN), an_order("SELL 1000", "SOL-PERP")]
    account = an_account(holding={ETH: "long 2000 @ 9", "SOL-PERP": "long 1000 @ 10"},
                         marks=marks, orders=orders)
    assert codes(judged("BUY 1", account)) == ["EXPOSURE_EXCEEDED"]  # 100 + 30,000 + 10,000
    fewer = an_account(holding={ETH: "long 2000 @ 9"}, marks=marks, orders=orders[:1])
    assert judged("BUY 1", fewer).approved


def test_what_has_no_price_counts_as_infinite():
    account = an_account(orders=[an_order("BUY 1", ETH)])  # a market order, and no mark of ETH
    verdict = judged("BUY 1", account)
    assert codes(verdict) == ["LEVERAGE_EXCEEDED", "EXPOSURE_EXCEEDED"]
    assert "measured Infinity" in verdict.reason
    assert headroom(BTC, Side.BUY, account, a_product(), RiskConfig()) == 0
    finished = an_account(orders=[an_order("BUY 1", ETH, FILLED)])
    assert judged("BUY 1", finished).approved


def test_what_the_account_holds_beside_our_books_counts_where_all_symbols_do():
    """E1: foreign contracts."""
    account = replace(an_account(), foreign_notional=Decimal(39_950))
    assert codes(judged("BUY 1", account)) == ["EXPOSURE_EXCEEDED"]
    assert headroom(BTC, Side.BUY, account, a_product(), RiskConfig()) == 50
    assert codes(judged("BUY 1", account, leverage_max_global=4)) == [
        "LEVERAGE_EXCEEDED", "EXPOSURE_EXCEEDED"]
    assert judged("BUY 0.5", account).approved
    assert judged("BUY 100", an_account()).approved


@pytest.mark.parametrize("leverage, margin_rate, in_force", [
    ({"target_leverage": 2}, "0.1", "2"),
    ({"target_leverage": 4, "max_leverage": 3}, "0.1", "3"),
    ({"leverage_max_global": 1}, "0.1", "1"),
    ({}, "0.25", "4"),
    ({}, "0", "5"),
])
def test_the_strictest_leverage_is_in_force(leverage, margin_rate, in_force):
    product = a_product(long_margin_rate=margin_rate, short_margin_rate="1")
    limits = RiskConfig(**leverage)
    assert limits.leverage_in_force(product, Side.BUY) == Decimal(in_force)
    assert limits.leverage_in_force(product, Side.SELL) == 1


# Liquidation

# 10,000 USD at a long rate of 0.2, a stop 1 % away: a USD of notional takes 0.01 to its stop and
# 1.5 * 0.2 * 0.99 of margin there, 0.307 in all; a short 0.01 + 1.5 * 0.2 * 1.01, 0.313.
FREE = {"max_position_pct_per_symbol": 1, "max_exposure_pct": 1}


@pytest.mark.parametrize("intent, account, held, limits, passes", [
    ("BUY 325.7",  {}, margin("0", "10000"), {}, True),
    ("BUY 325.8",  {}, margin("0", "10000"), {}, False),
    ("SELL 319.4", {}, margin("0", "10000"), {}, True),
    ("SELL 319.5", {}, margin("0", "10000"), {}, False),
    ("BUY 325.7",  {}, margin("0", "9998"), {}, False),   # the less of equity and what is free
    ("BUY 325.7",  {"equity": "9998"}, margin("0", "10000"), {}, False),
    ("BUY 276.8",  {}, margin("1000", "10000"), {}, True),
    ("BUY 276.9",  {}, margin("1000", "10000"), {}, False),
    ("BUY 225.7",  {"holding": "long 100 @ 100"}, margin("0", "10000"), {}, True),
    ("BUY 225.8",  {"holding": "long 100 @ 100"}, margin("0", "10000"), {}, False),
    ("BUY 225.8",  {"orders": [an_order("BUY 100")]}, margin("0", "10000"), {}, False),
    ("BUY 298.5",  {}, margin("0", "10000"), {"trailing_stop_pct": Decimal("0.05")}, True),
    ("BUY 298.6",  {}, margin("0", "10000"), {"trailing_stop_pct": Decimal("0.05")}, False),
    ("BUY 1",      {}, margin("7000", "10000"), {}, False),  # the account is full without it
    ("BUY 325.8",  {}, None, {}, True),                      # unarmed: nobody guesses
])
def test_an_entry_is_refused_whose_stop_would_lie_beyond_liquidation(
        intent, account, held, limits, passes):
    account = replace(an_account(**account), margin=held)
    product = a_product(long_margin_rate="0.2", short_margin_rate="0.2")
    verdict = judged(intent, account, product, **FREE, **limits)
    assert codes(verdict) == ["STOP_BEYOND_LIQUIDATION"] * (not passes)


@pytest.mark.parametrize("side", list(Side))
@pytest.mark.parametrize("rate", ["0.1", "0.21025", "0.55975"])
@pytest.mark.parametrize("initial", ["0", "3000"])
def test_what_there_is_room_for_does_not_end_in_a_reduction_at_its_stop(side, rate, initial):
    product = a_product(long_margin_rate=rate, short_margin_rate=rate)
    limits = RiskConfig(**FREE, leverage_max_global=20, max_leverage=20, target_leverage=20)
    account = replace(an_account(), margin=margin(initial, "10000"))
    notional = headroom(BTC, side, account, product, limits)
    assert notional > 0
    intent = replace(an_intent("BUY 1"), side=side, quantity=notional / 100)
    assert LiveRiskManager(limits).pre_trade(intent, account, product).approved
    # The venue's own arithmetic at the stop, with its threshold at 0.88 of initial margin.
    at_stop = notional * (1 - side.sign * limits.trailing_stop_pct)
    needed = (Decimal(initial) + at_stop * Decimal(rate)) * Decimal("0.88")
    left = Decimal(10000) - notional * limits.trailing_stop_pct
    after = replace(account, margin=Margin(needed, left, needed))
    assert after.margin.ratio > Decimal("1.5") and reduction(after) is None


@pytest.mark.parametrize("held, kept", [
    (None,                             None),
    (margin("0", "100", "0"),          None),   # flat
    (margin("0", "125", "100"),        None),
    (margin("0", "124.99", "100"),     "0.5"),
    (margin("0", "110", "100"),        "0.5"),
    (margin("0", "109.99", "100"),     "0"),
    (margin("0", "-5", "100"),         "0"),
])
def test_positions_shrink_in_steps_as_liquidation_comes_nearer(held, kept):
    account = replace(an_account(), margin=held)
    assert reduction(account) == (None if kept is None else Decimal(kept))


def test_the_guard_is_armed_only_with_the_venues_numbers():
    assert is_armed(replace(an_account(), margin=margin("0", "1")))
    assert not is_armed(an_account())


# A reduction


@pytest.mark.parametrize("account", [
    {}, {"equity": "-5000"}, {"equity": "0", "start": "0"}, {"loss": "9999"}, {"marks": ""},
    {"orders": [an_order("BUY 9", status=UNKNOWN)]}, {"orders": [an_order("SELL 9", ETH, UNKNOWN)]},
])
@pytest.mark.parametrize("limits", [
    {}, {"kill_switch_enabled": True}, {"reduce_only_mode": True}, {"enable_shorts": False},
    {"max_position": Decimal("0.01"), "max_exposure_pct": Decimal("0.0001")},
])
@pytest.mark.parametrize("purpose", list(Purpose))
def test_a_reduction_passes_in_any_state_and_under_any_limit(account, limits, purpose):
    account = an_account(holding="long 2 @ 100", **account)
    intent = an_intent("SELL 2", purpose=purpose)
    assert judged(intent, account, a_product(tradable=False), **limits).approved


def test_a_second_reduction_passes_only_for_what_is_left():
    account = an_account(holding="short 2 @ 100", orders=[an_order("BUY 1.5", status=UNKNOWN)])
    assert judged("BUY 0.5", account).approved
    assert not judged("BUY 0.51", account).approved


# Room for an entry


def dev_limits(**flags):
    return configured(RiskConfig, resolve({"profile": "dev", **flags}, {}))


def room(account=None, side=Side.BUY, limits=None, **product):
    return headroom(BTC, side, account or an_account(), a_product(**product),
                    limits or dev_limits())


@pytest.mark.parametrize("account, limits, expected", [
    ({}, {}, "4000"),                                         # 10,000 * 0.2 * 2
    ({"equity": "1000000"}, {}, "10000"),                     # dev's dollars
    ({}, {"max_position": "1500"}, "1500"),
    ({}, {"target_leverage": "5"}, "6000"),                   # dev's 3x
    ({"holding": "long 10 @ 90"}, {}, "3000"),                # at the mark
    ({"orders": [an_order("BUY 10 @ 120")]}, {}, "2800"),
    ({"holding": "long 50 @ 100"}, {}, "0"),
    ({"holding": {ETH: "long 150 @ 100"}}, {}, "1000"),       # 80 % of all is 16,000
    ({"equity": "0"}, {}, "0"),
    ({"equity": "-1"}, {}, "0"),
    ({"marks": ""}, {}, "0"),
])
def test_there_is_room_for_what_every_limit_leaves(account, limits, expected):
    assert room(an_account(**account), limits=dev_limits(**limits)) == Decimal(expected)


def test_margin_leaves_less_room_than_the_leverage_that_was_asked_for():
    assert room(long_margin_rate="0.8") == 2500
    assert room(side=Side.SELL, long_margin_rate="0.8") == 4000


def test_with_the_shown_defaults_an_entry_of_that_size_passes():
    limits, mark = dev_limits(), a_mark("64999/65001")
    account = Account(NOON, Decimal(10000), {}, {BTC: mark}, (), Decimal(10000))
    quantity = room(account) // (mark.ask * Decimal("0.01")) * Decimal("0.01")
    gate = LiveRiskManager(limits)
    assert quantity == Decimal("0.06")
    assert gate.pre_trade(an_intent(f"BUY {quantity}"), account, a_product()).approved
    assert not gate.pre_trade(an_intent("BUY 0.07"), account, a_product()).approved


# The settings


def test_the_runbooks_sample_is_read_through_its_shortest_text():
    limits = RiskConfig(leverage_max_global=5, max_daily_loss_pct=0.05, max_exposure_pct=0.8,
                        reduce_only_mode=False, kill_switch_enabled=False)
    assert limits == RiskConfig()
    assert (limits.max_daily_loss_pct, limits.max_exposure_pct) == (
        Decimal("0.05"), Decimal("0.8"))


@pytest.mark.parametrize("limits, error", [
    ({"leverage_max_global": 0}, ConfigError),
    ({"trailing_stop_pct": 0}, ConfigError),
    ({"max_daily_loss_pct": Decimal("-0.05")}, ConfigError),
    ({"max_position": 0}, ConfigError),
    ({"target_leverage": float("nan")}, ValueError),
    ({"max_exposure_pct": "0.8"}, TypeError),
    ({"max_exposure_pct": None}, TypeError),
    ({"max_leverage": True}, TypeError),
    ({"enable_shorts": "no"}, TypeError),
    ({"kill_switch_enabled": 0}, TypeError),
])
def test_a_limit_that_is_none_is_refused_by_its_name(limits, error):
    with pytest.raises(error, match=f"^{next(iter(limits))}: "):
        RiskConfig(**limits)


# The trading state


class Desk:
    """A manager and the books over one store, which can be started again."""

    def __init__(self, folder=None, **limits):
        self.folder, self._limits = folder, limits
        self.store = EventStore(folder, NOON)
        self.tracker = PositionTracker(self.store)
        self.risk = a_manager(self.store, **limits)
        self.changes = []
        self.store.subscribe(self._note)
        if not self.store.recover().events:
            self.store.open_day(TODAY, {}, equity=Decimal(10000))
        self.changes.clear()

    def _note(self, event):
        if event.type == "state.changed":
            self.changes.append((event.data["kind"], event.data["before"], event.data["state"]))

    def restart(self, **limits):
        self.store.close()
        desk = Desk(self.folder, **{**self._limits, **limits})
        desk.store.now = self.store.now
        return desk

    def next_day(self):
        self.store.now += hours(24)
        snapshot = {"risk": self.risk.snapshot(), "tracker": self.tracker.snapshot()}
        self.store.open_day(self.store.now.date(), snapshot, equity=Decimal(10000))

    def lose(self, usd):
        fill = a_fill(f"BUY 1 @ 100 fee {usd}", fill_id=f"after {self.tracker.total('fees')}",
                      at=self.store.now)
        self.tracker.apply_fill(fill, Purpose.ENTRY, "", None)
        return self

    def account(self, margin=None):
        marks = {symbol: a_mark("100", symbol, self.store.now) for symbol in (BTC, ETH)}
        return Account(self.store.now, Decimal(10000), {}, marks, (),
                       self.tracker.day_start_equity, self.tracker.daily_loss(), margin)

    def check(self, margin=None):
        """What the loop does each tick: look at the account as it is."""
        return [breach.code for breach in self.risk.post_trade(self.account(margin))]

    def refusals(self, symbol=BTC):
        intent = an_intent("BUY 1", symbol)
        return codes(self.risk.pre_trade(intent, self.account(), a_product(symbol)))

    def wait(self, seconds):
        self.store.now += timedelta(seconds=seconds)
        return self

    def answer(self, status, purpose=Purpose.ENTRY, answer="INSUFFICIENT_FUNDS: 0 free", **more):
        self.store.append("order.updated", client_order_id="pb-1", symbol=BTC, purpose=purpose,
                          status=status, answer=answer, filled_quantity=Decimal(0), **more)
        return self

    def send(self, purpose=Purpose.ENTRY, symbol=BTC, words="BUY 1", identity="pb-1"):
        intent = an_intent(words, symbol, purpose=purpose)
        self.store.append("order.intended", purpose=purpose, symbol=symbol, side=intent.side,
                          quantity=intent.quantity, client_order_id=identity,
                          placed_at=self.store.now)
        return self


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path / "events")


def test_trading_is_free_until_something_holds_it(desk):
    assert desk.risk.state is TradingState.TRADING
    assert desk.check() == [] and desk.changes == []


def test_the_kill_switch_halts_and_is_an_event(desk):
    desk.risk.activate_kill_switch("Manual intervention required")
    assert desk.risk.state is TradingState.HALTED
    assert desk.changes == [("kill_switch", "TRADING", "HALTED")]
    assert desk.restart().risk.state is TradingState.HALTED
    assert desk.restart().risk.holds["kill_switch"].reason == "Manual intervention required"


def test_the_strictest_hold_rules(desk):
    desk.risk.hold("operator", TradingState.REDUCING, "SIGUSR1")
    desk.risk.hold("kill_switch", TradingState.HALTED, "by hand")
    desk.risk.hold("mismatch", TradingState.REDUCING, "books differ")
    assert desk.risk.state is TradingState.HALTED
    assert desk.risk.lift("kill_switch", "looked") and not desk.risk.lift("kill_switch", "again")
    assert desk.risk.state is TradingState.REDUCING


def test_a_hold_grows_stricter_and_never_milder_by_itself(desk):
    for state in (TradingState.REDUCING, TradingState.HALTED, TradingState.REDUCING):
        desk.risk.hold("operator", state, "again")
    assert desk.changes == [("operator", "TRADING", "REDUCING"), ("operator", "REDUCING", "HALTED")]
    assert desk.risk.state is TradingState.HALTED


def test_holds_survive_restarts_and_midnights(desk):
    desk.risk.activate_kill_switch("by hand")
    desk.answer(OrderStatus.REJECTED)
    for _ in range(3):
        desk.next_day()
        before, desk = desk.risk, desk.restart()
        assert desk.risk.snapshot() == before.snapshot()
        assert desk.risk.state is TradingState.HALTED
    assert desk.risk.holds["kill_switch"].at == NOON


@pytest.mark.parametrize("limits, state", [
    ({"reduce_only_mode": True}, TradingState.REDUCING),
    ({"kill_switch_enabled": True}, TradingState.HALTED),
    ({"kill_switch_enabled": True, "reduce_only_mode": True}, TradingState.HALTED),
])
def test_what_the_settings_hold_is_held_for_as_long_as_they_are_set(desk, limits, state):
    held = desk.restart(**limits)
    held.risk.resume("the settings still say so", TODAY)
    assert held.risk.state is state
    assert held.restart(reduce_only_mode=False, kill_switch_enabled=False).risk.state is (
        TradingState.TRADING)


def test_a_daily_loss_at_its_limit_turns_to_reducing_and_says_why(desk):
    assert desk.lose("499.99").check() == []
    assert desk.lose("0.01").check() == ["DAILY_LOSS_EXCEEDED"]
    assert desk.risk.state is TradingState.REDUCING
    assert desk.risk.holds["daily_loss"].reason == (
        "Risk check failed: Daily loss exceeds limit (wait for the next UTC day, then resume): "
        "max_daily_loss_pct measured 0.05 allowed 0.05 of day-start equity")
    desk.check()
    assert desk.changes == [("daily_loss", "TRADING", "REDUCING")]  # once


def test_a_daily_loss_holds_over_restart_and_midnight_until_somebody_resumes(desk):
    desk.lose("500").check()
    desk = desk.restart()
    assert (desk.risk.state, desk.tracker.daily_loss()) == (TradingState.REDUCING, 500)
    desk.next_day()
    assert desk.check() == [] and desk.risk.state is TradingState.REDUCING
    assert desk.risk.resume("a new day", TOMORROW) == ["daily_loss"]
    assert desk.restart().risk.state is TradingState.TRADING


def test_on_the_same_day_a_daily_loss_is_resumed_only_by_clearing_it(desk):
    desk.lose("500").check()
    with pytest.raises(ConfigError, match="hit today .* wait .* or add --clear-daily-loss"):
        desk.risk.resume("I looked", TODAY)
    assert desk.risk.state is TradingState.REDUCING
    desk.risk.resume("I looked", TODAY, clear_daily_loss=True)
    desk = desk.restart()
    assert desk.check() == [] and desk.risk.state is TradingState.TRADING
    assert desk.lose("500").check() == ["DAILY_LOSS_EXCEEDED"]  # it counts again from there


def test_a_daily_loss_hold_of_a_later_date_does_not_end_when_the_clock_goes_back(desk):
    desk.next_day()
    desk.lose("500").check()
    with pytest.raises(ConfigError):
        desk.risk.resume("the clock says so", TODAY)


def test_another_hold_is_resumed_without_forgetting_the_days_loss(desk):
    desk.lose("400").risk.activate_kill_switch("by hand")
    desk.risk.resume("looked", TODAY, clear_daily_loss=True)
    assert desk.tracker.daily_loss() == 400


@pytest.mark.parametrize("reason", ["", "   ", "\n"])
def test_nothing_is_resumed_without_a_reason(desk, reason):
    desk.risk.activate_kill_switch("by hand")
    with pytest.raises(ConfigError, match="resume needs a reason"):
        desk.risk.resume(reason, TODAY, clear_daily_loss=True)
    assert desk.risk.state is TradingState.HALTED


def test_resuming_lifts_every_hold_and_says_which(desk):
    desk.risk.activate_kill_switch("by hand")
    desk.risk.hold("mismatch", TradingState.REDUCING, "books differ")
    assert desk.risk.resume("compared", TODAY) == ["kill_switch", "mismatch"]
    assert desk.risk.resume("again", TODAY) == []
    assert desk.restart().risk.holds == {}


@pytest.mark.parametrize("answers, turned", [
    ([OrderStatus.REJECTED] * 2,                                                False),
    ([OrderStatus.REJECTED] * 3,                                                True),
    ([OrderStatus.REJECTED] * 2 + [OrderStatus.OPEN, OrderStatus.REJECTED],     False),
    ([OrderStatus.REJECTED] * 2 + [OrderStatus.FILLED, OrderStatus.REJECTED],   False),
    # One that never arrived was judged by nobody.
    ([OrderStatus.REJECTED] * 2 + [OrderStatus.LOST, OrderStatus.REJECTED],     True),
])
def test_three_rejected_entries_in_a_row_turn_to_reducing(desk, answers, turned):
    for status in answers:
        desk.answer(status)
    desk = desk.restart()
    assert desk.check() == ["REPEATED_REJECTS"] * turned
    assert desk.risk.state is (TradingState.REDUCING if turned else TradingState.TRADING)


def test_rejected_stops_and_exits_are_not_counted_as_entries(desk):
    for purpose in (Purpose.STOP, Purpose.EXIT) * 3:
        desk.answer(OrderStatus.REJECTED, purpose)
    assert desk.check() == []


def test_rejects_count_anew_after_a_resume(desk):
    for _ in range(3):
        desk.answer(OrderStatus.REJECTED)
    desk.check()
    desk.risk.resume("found why", TODAY)
    desk = desk.restart().answer(OrderStatus.REJECTED).answer(OrderStatus.REJECTED)
    assert desk.check() == [] and desk.risk.state is TradingState.TRADING
    assert desk.answer(OrderStatus.REJECTED).check() == ["REPEATED_REJECTS"]


# What the venue refuses


REASONS = (
    (Remedy.DROP, "INSUFFICIENT_FUND INSUFFICIENT_FUNDS PREVIEW_INSUFFICIENT_FUNDS_FOR_FUTURES "
     "INVALID_LEDGER_BALANCE INVALID_LIMIT_PRICE_POST_ONLY INVALID_LIMIT_PRICE "
     "INVALID_NO_LIQUIDITY LIMIT_PRICE_TOO_FAR_FROM_MARKET DUPLICATE_CLIENT_ORDER_ID"),
    (Remedy.DROP, "END_TIME_TOO_FAR_IN_FUTURE END_TIME_IS_IN_THE_PAST PREVIEW_INVALID_END_TIME"),
    # An entry that may not carry its stop is sent anew without it.
    (Remedy.DROP, "INVALID_ATTACHED_TAKE_PROFIT_PRICE INVALID_ATTACHED_STOP_LOSS_PRICE "
     "INVALID_ATTACHED_STOP_LOSS_PRICE_OUT_OF_BOUNDS ATTACHED_ORDER_SIZE_MUST_BE_NIL "
     "ATTACHED_ORDER_NOT_ALLOWED INVALID_ATTACHED_TAKE_PROFIT_PRICE_OUT_OF_BOUNDS"),
    (Remedy.DROP, "INVALID_BRACKET_PRICES INVALID_BRACKET_LIMIT_PRICE OPEN_BRACKET_ORDERS "
     "INVALID_BRACKET_STOP_TRIGGER_PRICE BRACKET_LIMIT_PRICE_OUT_OF_BOUNDS "
     "STOP_TRIGGER_PRICE_OUT_OF_BOUNDS STOP_ALREADY_TRIGGERED PREVIEW_STOP_TRIGGERED "
     "STOP_LOSS_PRICE_TOO_LOW STOP_LOSS_PRICE_TOO_HIGH TAKE_PROFIT_PRICE_TOO_LOW "
     "TAKE_PROFIT_PRICE_TOO_HIGH PREVIEW_STOP_PRICE_ABOVE_LIMIT_PRICE "
     "PREVIEW_STOP_PRICE_BELOW_LIMIT_PRICE PREVIEW_STOP_PRICE_ABOVE_LAST_TRADE_PRICE "
     "PREVIEW_STOP_PRICE_BELOW_LAST_TRADE_PRICE PREVIEW_INVALID_BRACKET_ORDER_SIDE "
     "PREVIEW_BRACKET_ORDER_SIZE_EXCEEDS_POSITION PREVIEW_ORDER_SIZE_EXCEEDS_BRACKETED_POSITION "
     "CANNOT_CLOSE_ZERO_POSITION PREVIEW_CLOSE_ONLY_FAILURE ORDER_IS_PENDING_CANCEL "
     "TOO_MANY_PENDING_REPLACES MODIFY_POSITION_WORKFLOW_ALREADY_RUNNING"),
    (Remedy.DROP, "UNKNOWN_CANCEL_ORDER ORDER_IS_FULLY_FILLED DUPLICATE_CANCEL_REQUEST "
     "ORDER_IS_BEING_REPLACED"),
    (Remedy.REFRESH, "INVALID_SIZE_PRECISION INVALID_PRICE_PRECISION "
     "PREVIEW_INVALID_BASE_SIZE_TOO_SMALL PREVIEW_INVALID_BASE_SIZE_TOO_LARGE "
     "PREVIEW_INVALID_STOP_PRICE_PRECISION INVALID_ATTACHED_STOP_LOSS_PRICE_PRECISION "
     "INVALID_ATTACHED_TAKE_PROFIT_PRICE_PRECISION"),
    (Remedy.PAUSE, "UNKNOWN_FAILURE_REASON COMMANDER_REJECTED_NEW_ORDER INVALID_REQUEST "
     "INVALID_SIDE INVALID_PRODUCT_ID UNSUPPORTED_ORDER_CONFIGURATION INVALID_MARGIN_TYPE "
     "INVALID_LEVERAGE PREVIEW_OPPOSITE_MARGIN_TYPE_EXISTS PREVIEW_NON_NUMERIC_ORDER_SIZE "
     "QUOTE_SIZE_NOT_ALLOWED_FOR_BRACKET BRACKET_ORDER_NOT_SUPPORTED FOK_DISABLED "
     "FOK_ONLY_ALLOWED_ON_LIMIT_ORDERS POST_ONLY_NOT_ALLOWED_WITH_FOK "
     "GTD_ORDERS_MUST_HAVE_END_TIME END_TIME_AFTER_CONTRACT_EXPIRATION "
     "PRICE_NOT_ALLOWED_FOR_MARKET_ORDERS REDUCE_ONLY_NOT_ALLOWED_ON_VENUE "
     "REDUCE_ONLY_INCREASED_POSITION_SIZE POSITION_SIZE_INCREASE_REJECT "
     "PREVIEW_RISK_PROXY_FAILURE MISSING_MARKET_TRADE_DATA RFQ_DISABLED "
     "PREVIEW_INVALID_QUOTE_SIZE_TOO_SMALL"),
    (Remedy.PAUSE, "UNTRADABLE_PRODUCT INELIGIBLE_PAIR PRODUCT_TRADING_HALTED TRADING_DISABLED "
     "INVALID_FCM_TRADING_SESSION PREVIEW_NOT_ALLOWED_BY_MARKET_STATE "
     "FUTURES_AFTER_HOUR_INVALID_ORDER_TYPE FUTURES_AFTER_HOUR_INVALID_TIME_IN_FORCE "
     "LIMIT_ORDER_PRICE_EXCEEDS_PRICE_BAND_ON_BUY LIMIT_ORDER_PRICE_EXCEEDS_PRICE_BAND_ON_SELL "
     "PREVIEW_BREACHED_PRICE_LIMIT PREVIEW_BREACHED_COMPANY_POSITION_LIMIT "
     "PREVIEW_BREACHED_OPEN_INTEREST_LIMIT PREVIEW_MAX_DAILY_VOLUME_NOTIONAL_BREACHED"),
    (Remedy.PAUSE, "INVALID_CANCEL_REQUEST INVALID_CANCEL_PRODUCT_ID NOT_ALLOWED_TO_CANCEL "
     "COMMANDER_REJECTED_CANCEL_ORDER UNKNOWN_CANCEL_FAILURE_REASON "
     "INVALID_CANCEL_FCM_TRADING_SESSION"),
    (Remedy.PAUSE, "SOMETHING_NEW PREVIEW_ HTTP_400 HTTP_404 HTTP_422 IN_LIQUIDATION_2 funds\xa0"),
    (Remedy.HALT, "GEOFENCING_RESTRICTION ORDER_ENTRY_DISABLED IN_LIQUIDATION "
     "BREACHED_RISK_LIMIT PREVIEW_INVALID_MARGIN_HEALTH PREVIEW_UNTRADABLE_FCM_ACCOUNT_STATUS "
     "PREVIEW_BREACHED_ACCOUNT_POSITION_LIMIT HTTP_401 HTTP_403"),
)


@pytest.mark.parametrize("what, reason", [
    (what, reason) for what, reasons in REASONS for reason in reasons.split(" ")])
def test_every_reason_to_refuse_has_its_remedy(what, reason):
    """D5."""
    assert remedy(reason) is what


@pytest.mark.parametrize("text", ["", "\n", "a\nb", "(", "PREVIEW_PREVIEW_"])
def test_a_reason_that_is_no_word_pauses(text):
    assert remedy(text) is Remedy.PAUSE


def test_the_reasons_above_are_all_that_the_venue_documents():
    if not REFERENCE.exists():
        pytest.skip("the reference of the venue is not here")
    text, known = REFERENCE.read_text("utf-8"), " ".join(reasons for _, reasons in REASONS)
    create = text[text.index("**Failure reasons**"):text.index("**reduce_only.**")]
    cancel = text[text.index("| failure_reason"):text.index("A malformed (non-UUID)")]
    cancel = " ".join(row.split("|")[1] for row in cancel.splitlines() if row.startswith("| "))
    words = set(re.findall(r"[A-Z]+(?:_[A-Z]+)+", create + cancel))
    assert len(words) > 90
    # A word may be the beginning of several, as in STOP_PRICE_ABOVE/BELOW_LIMIT_PRICE.
    missing = {word for word in words if word.removeprefix("PREVIEW_") not in known}
    assert missing == set()


def test_a_pause_is_of_one_symbol_and_ends():
    """D5: a reason that nobody knows pauses the symbol."""
    desk = Desk().answer(REJECTED, answer="SOMETHING_NEW: try later")
    assert desk.refusals() == ["SYMBOL_PAUSED"] and desk.refusals(ETH) == []
    (breach,) = desk.risk.pre_trade(an_intent("BUY 1"), desk.account(), a_product()).breaches
    assert breach.measured == "SOMETHING_NEW"
    assert "refused BTC-PERP at 12:00:00 UTC; entries pause for 10 minutes" in str(breach)
    assert desk.wait(599).refusals() == ["SYMBOL_PAUSED"]
    assert desk.wait(1).refusals() == []


@pytest.mark.parametrize("answer, purpose, refused", [
    ("TRADING_DISABLED: halted",             Purpose.ENTRY, True),
    ("TRADING_DISABLED",                     Purpose.ENTRY, True),
    ("TRADING_DISABLED halted",              Purpose.ENTRY, True),
    ("",                                     Purpose.ENTRY, True),
    ("TRADING_DISABLED: halted",             Purpose.STOP,  False),
    ("INSUFFICIENT_FUNDS: 0 free",           Purpose.ENTRY, False),
    ("INSUFFICIENT_FUNDS 0 free",            Purpose.ENTRY, False),
    ("INVALID_SIZE_PRECISION: 0.5",          Purpose.ENTRY, False),
    ("ATTACHED_ORDER_NOT_ALLOWED: no",       Purpose.ENTRY, False),  # it is sent anew at once
])
def test_only_what_outlasts_the_order_pauses_its_symbol(answer, purpose, refused):
    desk = Desk().answer(REJECTED, purpose, answer)
    assert desk.refusals() == ["SYMBOL_PAUSED"] * refused
    assert desk.check() == []


@pytest.mark.parametrize("code, found", [
    ("HTTP_403", ["ACCOUNT_REFUSED"]), ("INSUFFICIENT_FUNDS", []), ("", [])])
def test_the_code_of_a_refusal_goes_before_its_words(code, found):
    assert Desk().answer(REJECTED, answer="POST /orders: no", code=code).check() == found


def test_an_order_that_was_not_refused_pauses_nothing():
    for status in (OrderStatus.LOST, OrderStatus.CANCELLED, OrderStatus.OPEN):
        assert Desk().answer(status, answer="TRADING_DISABLED: halted").refusals() == []


def test_entries_that_the_venue_accepts_and_takes_back_three_times_in_a_row_pause_their_symbol():
    """D5: what is accepted and never filled is as good as refused."""
    desk = Desk()
    for _ in range(3):
        assert desk.refusals() == []
        desk.answer(OrderStatus.OPEN).answer(OrderStatus.CANCELLED, answer="")
    assert desk.refusals() == ["SYMBOL_PAUSED"] and desk.refusals(ETH) == []
    assert desk.wait(600).refusals() == []
    assert desk.answer(OrderStatus.CANCELLED).refusals() == ["SYMBOL_PAUSED"]


@pytest.mark.parametrize("end", [
    {"status": OrderStatus.CANCELLED, "asked": True}, {"status": OrderStatus.EXPIRED},
    {"status": OrderStatus.CANCELLED, "purpose": Purpose.STOP}])
def test_what_was_cancelled_as_we_wished_or_ran_out_was_not_taken_back(end):
    desk = Desk()
    for _ in range(5):
        desk.answer(**end)
    assert desk.refusals() == []


def test_a_fill_ends_the_row_of_entries_that_were_taken_back():
    desk = Desk()
    for filled in ("0", "0", "1", "0", "0"):
        desk.store.append("order.updated", client_order_id="pb-1", symbol=BTC, answer="",
                          purpose=Purpose.ENTRY, status=OrderStatus.CANCELLED, asked=False,
                          filled_quantity=Decimal(filled))
    assert desk.refusals() == []


def test_entries_that_were_taken_back_are_counted_over_restarts_and_midnights(desk):
    desk.answer(OrderStatus.CANCELLED).answer(OrderStatus.CANCELLED)
    desk.next_day()
    desk = desk.restart()
    assert desk.refusals() == []
    assert desk.answer(OrderStatus.CANCELLED).refusals() == ["SYMBOL_PAUSED"]


def test_pauses_and_the_throttle_survive_restarts_and_midnights(desk):
    desk.store.now = NOON.replace(hour=23, minute=59, second=40)
    desk.answer(REJECTED, answer="TRADING_DISABLED: halted")
    desk.wait(-24 * 3600 + 40).next_day()
    for number in range(6):
        assert desk.refusals() == ["SYMBOL_PAUSED"]
        desk.send(words=f"BUY 0.{number}").wait(1)
    before, desk = desk.risk, desk.restart()
    assert desk.risk.snapshot() == before.snapshot()
    assert desk.refusals() == ["SYMBOL_PAUSED", "ORDER_THROTTLED"]


def test_a_snapshot_from_before_there_were_pauses_is_read(desk):
    desk.store.now += hours(24)
    old = {"rejects_in_a_row": 2, "holds": {}}
    desk.store.open_day(desk.store.now.date(), {"risk": old}, equity=Decimal(10000))
    assert desk.answer(REJECTED).check() == ["REPEATED_REJECTS"]


@pytest.mark.parametrize("purpose", list(Purpose))
def test_a_refusal_of_the_account_stops_entries_everywhere_until_somebody_looked(desk, purpose):
    """C7, D5: whichever order it was that showed it."""
    desk.answer(REJECTED, purpose, "IN_LIQUIDATION: no")
    assert desk.refusals(BTC) == desk.refusals(ETH) == ["SYMBOL_PAUSED"]  # in this tick already
    assert desk.check() == ["ACCOUNT_REFUSED"]
    assert desk.risk.state is TradingState.REDUCING
    assert "measured IN_LIQUIDATION" in desk.risk.holds["refusal"].reason
    desk = desk.wait(86_000).restart()
    assert desk.check() == [] and desk.refusals(ETH) == ["STATE_REDUCING"]
    desk.risk.resume("asked the venue", TODAY)
    assert desk.restart().check() == [] and desk.refusals(ETH) == []


def test_a_refusal_under_a_hold_does_not_outlast_the_resume(desk):
    desk.answer(REJECTED, answer="HTTP_401: no").check()
    desk.answer(REJECTED, answer="HTTP_401: no").check()
    desk.risk.resume("a new key", TODAY)
    assert desk.check() == [] and desk.refusals() == []


def test_only_so_many_entries_a_minute_are_sent_in_one_symbol():
    """D13, I-8: a retry storm."""
    desk = Desk()
    for _ in range(6):
        assert desk.refusals() == []
        desk.send(words="BUY 2").wait(10)
    assert desk.refusals() == []  # the first was a minute ago
    assert desk.wait(-1).refusals() == ["ORDER_THROTTLED"] and desk.refusals(ETH) == []
    (breach,) = desk.risk.pre_trade(an_intent("BUY 1"), desk.account(), a_product()).breaches
    assert (breach.measured, breach.allowed, breach.unit) == ("7", "6", "a minute")


def test_exits_and_stops_are_not_throttled_and_count_for_no_more_than_a_second():
    desk = Desk()
    for purpose in (Purpose.STOP, Purpose.EXIT) * 9:
        desk.send(purpose)
    assert desk.wait(1).refusals() == []


@pytest.mark.parametrize("held, turned", [
    (None,                              False),
    (margin("100", "1000", "0"),        False),
    (margin("100", "150", "100"),       False),
    (margin("100", "149.99", "100"),    True),
    (margin("100", "-1", "100"),        True),
])
def test_a_thinning_buffer_turns_to_reducing_with_its_numbers(desk, held, turned):
    assert desk.check(held) == ["LIQUIDATION_NEAR"] * turned
    assert desk.risk.state is (TradingState.REDUCING if turned else TradingState.TRADING)
    reasons = [h.reason for k, h in desk.risk.holds.items() if k == "liquidation_distance"]
    assert len(reasons) == turned
    for reason in reasons:
        assert f"measured {held.ratio.normalize():f} allowed 1.5 x the liquidation" in reason
    assert desk.check() == [] and desk.risk.holds.keys() <= set(RISK_KINDS)


def test_without_a_store_the_manager_holds_and_resumes_too():
    manager = LiveRiskManager(RiskConfig())
    manager.activate_kill_switch("Manual intervention required")
    manager.hold("daily_loss", TradingState.REDUCING, "lost")
    assert manager.state is TradingState.HALTED
    with pytest.raises(ConfigError):
        manager.resume("nobody knows the day", TOMORROW)
    assert manager.resume("looked", TOMORROW, clear_daily_loss=True)
    assert manager.state is TradingState.TRADING


def test_an_intent_is_judged_and_never_edited():
    intent = OrderIntent(BTC, Side.BUY, Decimal("12.3456"), reason="a cross")
    assert judged(intent).intent is intent
