"""What `risk.py` promises: doubt stops an increase, nothing stops a reduction."""

from datetime import date
from decimal import Decimal

import pytest

from perps_bot.errors import ConfigError
from perps_bot.loop import configured
from perps_bot.model import (
    Account,
    OrderIntent,
    OrderStatus,
    Purpose,
    Side,
    Ticket,
    TradingState,
)
from perps_bot.risk import LiveRiskManager, RiskConfig, headroom, worst_notional, worst_price
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
)

TODAY, TOMORROW = date(2025, 5, 1), date(2025, 5, 2)
UNKNOWN, FILLED = OrderStatus.UNKNOWN, OrderStatus.FILLED


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
    verdict = judged(product=a_product(tradable=False))
    assert codes(verdict) == ["PRODUCT_NOT_TRADABLE"]
    assert "The venue takes no orders in BTC-PERP now" in verdict.reason


@pytest.mark.parametrize("seconds, refused", [
    (0, False), (10, False), (10.000001, True), (-10, False), (-11, True)])
def test_a_mark_is_fresh_only_close_to_now_whichever_clock_is_wrong(seconds, refused):
    mark = a_mark("100", at=NOON - hours(1) * seconds / 3600)
    account = Account(NOON, Decimal(10000), {}, {BTC: mark}, (), Decimal(10000))
    assert codes(judged(account=account)) == ["STALE_MARK"] * refused


def test_the_age_of_a_mark_is_said_in_seconds():
    account = Account(NOON, Decimal(10000), {}, {BTC: a_mark("100", at=NOON - hours(30))})
    (breach,) = judged(account=account).breaches
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
        "DAILY_LOSS_EXCEEDED", "LEVERAGE_EXCEEDED", "POSITION_SHARE_EXCEEDED",
        "EXPOSURE_EXCEEDED", "POSITION_VALUE_EXCEEDED"}


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
    ("BUY 100", [an_order("SELL 60")],                                  True),
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

    def check(self):
        """What the loop does each tick: look at the account as it is."""
        account = Account(self.store.now, Decimal(10000), {}, {}, (),
                          self.tracker.day_start_equity, self.tracker.daily_loss())
        return [breach.code for breach in self.risk.post_trade(account)]

    def answer(self, status, purpose=Purpose.ENTRY):
        self.store.append("order.updated", client_order_id="pb-1", symbol=BTC, purpose=purpose,
                          status=status)
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
