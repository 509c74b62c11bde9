"""Specification of `perps_bot.strategy`: what do we want to hold, and why?"""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perps_bot.model import Action, Event, Mark, Position, Purpose, Side
from perps_bot.strategy import STOP_CROSSED, BaselinePerpsStrategy, StrategyConfig

BTC, ETH = "BTC-PERP", "ETH-PERP"
START = datetime(2025, 5, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
BUY, SELL, HOLD, CLOSE = Action.BUY, Action.SELL, Action.HOLD, Action.CLOSE
# Averages of 2 and 4 bars: the long one falls below the short one with the last of each row.
FALLING, UP_CROSS = [14, 13, 12, 11], [14, 13, 12, 11, 16]
RISING, DOWN_CROSS = [11, 12, 13, 14], [11, 12, 13, 14, 9]


def a_strategy(closes=(), **config):
    """Averages of 2 and 4 bars, shorts enabled, that saw `closes` as they came."""
    config = {"short_ma_period": 2, "long_ma_period": 4, "enable_shorts": True, **config}
    return see(BaselinePerpsStrategy(StrategyConfig(**config)), closes)


def see(strategy, closes, first=0, symbol=BTC):
    """Show one close an hour; `first` counts the bars that were before."""
    for number, close in enumerate(closes, first + 1):
        strategy.observe(symbol, Decimal(close), START + number * HOUR)
    return strategy


def bars(closes):
    """The same closes as history."""
    return [(START + n * HOUR, Decimal(close)) for n, close in enumerate(closes, 1)]


def a_mark(price, symbol=BTC):
    price = Decimal(price)
    return Mark(symbol, price, price - 1, price + 1, START)


def a_position(text="flat", symbol=BTC):
    """Read `long 1 @ 100` or `flat`."""
    if text == "flat":
        return Position(symbol)
    side, quantity, _, price = text.split()
    sign = 1 if side == "long" else -1
    return Position(symbol, sign * Decimal(quantity), Decimal(price), Decimal(price))


def asked(price=100, held="flat", stop=None, symbol=BTC):
    return a_mark(price, symbol), a_position(held, symbol), stop and Decimal(stop)


def decided(strategy, *rest, **named):
    return strategy.decide(*asked(*rest, **named))


def action(strategy, *rest, **named):
    return decided(strategy, *rest, **named).action


def a_trade(purpose, side, left="flat", reason="because", hours=100):
    """A fill and the position that it leaves, `hours` after the start."""
    position = a_position(left)
    return Event(1, START, "trade.executed", {
        "symbol": BTC, "side": Side[side], "purpose": purpose, "reason": reason,
        "filled_at": START + hours * HOUR, "position_quantity": position.quantity,
        "entry_price": position.entry_price})


def a_signal(strategy, symbol=BTC):
    return Event(1, START, "strategy.signal", {"symbol": symbol, "memory": strategy.memory(symbol)})


def as_read(event):
    """The event as the file has it: numbers and times are text."""
    return Event(event.seq, event.at, event.type, json.loads(json.dumps(event.data, default=str)))


def restarted(strategy, *events, closes=()):
    """A new process that reads what the old one wrote, and then the venue's candles."""
    fresh = BaselinePerpsStrategy(strategy.config)
    for event in (a_signal(strategy), *events):
        fresh.apply(as_read(event))
    fresh.warm(BTC, bars(closes))
    return fresh


# --- the crossover -----------------------------------------------------------------------------


@pytest.mark.parametrize("closes, wanted", [
    ([],                          HOLD),
    (FALLING,                     HOLD),
    (UP_CROSS[:-1],               HOLD),
    (UP_CROSS,                    BUY),
    (DOWN_CROSS,                  SELL),
    # The first side that the averages show is no cross: nothing was crossed.
    (RISING,                      HOLD),
    ([10, 10, 10, 10, 12],        HOLD),
    # Averages that touch have no side, and touching is no cross:
    ([14, 13, 12, 11, 13],        HOLD),       # 12 against 12.25
    ([14, 13, 12, 11, 14],        HOLD),       # 12.5 against 12.5
    ([14, 13, 12, 11, 14, 8],     HOLD),       # back to where they came from
    ([14, 13, 12, 11, 14, 15],    BUY),        # through
    ([11, 12, 13, 14, 11],        HOLD),
    ([11, 12, 13, 14, 11, 17],    HOLD),
    ([11, 12, 13, 14, 11, 10],    SELL),
    ([10, 10, 10, 10, 10, 10],    HOLD),
    # A third of a cent is a cross; nothing is rounded away.
    ([14, 13, 12, 11, "14.000000000000000000000001"], BUY),
    ([14, 13, 12, 11, "13.999999999999999999999999"], HOLD),
])
def test_a_cross_is_the_bar_on_which_the_averages_change_sides(closes, wanted):
    assert action(a_strategy(closes)) is wanted


@pytest.mark.parametrize("moves, wanted", [("up", BUY), ("down", SELL)])
def test_five_and_twenty_bars_are_the_default(moves, wanted):
    sign = 1 if moves == "up" else -1
    away = [1000 - sign * n for n in range(20)]
    strategy = see(BaselinePerpsStrategy(StrategyConfig(enable_shorts=True)), away)
    # With the fourth of these bars both means lie exactly 8 from where the price turned.
    for number, expected in enumerate((HOLD, HOLD, HOLD, HOLD, wanted)):
        see(strategy, [away[-1] + sign * 10], 20 + number)
        assert action(strategy) is expected


def test_while_warming_nothing_is_wanted_and_the_reason_counts_the_bars():
    strategy = a_strategy()
    for count, close in enumerate(UP_CROSS[:3]):
        assert decided(strategy).reason == f"warming: {count} of 4 bars"
        assert strategy.bars(BTC) == count
        see(strategy, [close], count)
    assert strategy.side(BTC) is None


def test_symbols_do_not_know_of_each_other():
    strategy = see(a_strategy(UP_CROSS), DOWN_CROSS, symbol=ETH)
    assert (action(strategy), action(strategy, symbol=ETH)) == (BUY, SELL)
    assert (strategy.side(BTC), strategy.side(ETH)) == (Side.BUY, Side.SELL)


def test_the_windows_hold_their_bars_and_no_more():
    strategy = a_strategy(range(1, 100))
    assert strategy.window(BTC) == [96, 97, 98, 99]
    assert (strategy.bars(BTC), strategy.bar_at(BTC)) == (4, START + 99 * HOUR)


@given(st.lists(st.integers(1, 6), max_size=40), st.sampled_from([(2, 4), (3, 5), (2, 3)]))
@settings(max_examples=100, deadline=None)
def test_the_side_is_that_of_the_last_bar_on_which_exact_means_differed(closes, periods):
    short, long = periods
    strategy = a_strategy(closes, short_ma_period=short, long_ma_period=long)
    side = None
    for end in range(long, len(closes) + 1):
        difference = (Fraction(sum(closes[end - short:end]), short)
                      - Fraction(sum(closes[end - long:end]), long))
        side = side if not difference else Side.BUY if difference > 0 else Side.SELL
    assert strategy.side(BTC) is side


# --- a cross is pending until it is answered ---------------------------------------------------


@pytest.mark.parametrize("cross, wanted", [(UP_CROSS, BUY), (DOWN_CROSS, SELL)])
def test_a_cross_stays_pending_for_three_bars(cross, wanted):
    strategy = a_strategy(cross)
    further = 5 if wanted is BUY else -2
    for age in range(3):
        for _ in range(3):  # however many ticks were blocked
            decision = decided(strategy)
            assert decision.action is wanted
            assert decision.reason.endswith(f"cross {age} bars ago")
        see(strategy, [cross[-1] + further], 5 + age)
    assert decided(strategy).reason == "no cross pending"


def test_an_opposite_cross_takes_the_place_of_one_that_waits():
    strategy = see(a_strategy(UP_CROSS), [4], 5)
    assert decided(strategy).reason == "downward cross 0 bars ago"


def test_shorts_are_opened_only_where_they_are_enabled_but_a_downward_cross_always_opposes():
    longs_only = a_strategy(DOWN_CROSS, enable_shorts=False)
    assert action(longs_only) is HOLD
    assert action(see(a_strategy(UP_CROSS, enable_shorts=False), [4], 5)) is HOLD


@pytest.mark.parametrize("cross, trade, wanted", [
    (UP_CROSS,   a_trade("entry", "BUY", "long 1 @ 16"),     HOLD),
    (DOWN_CROSS, a_trade("entry", "SELL", "short 1 @ 9"),    HOLD),
    # A stop answers a cross of its own side; the other side's waits on.
    (UP_CROSS,   a_trade("stop", "SELL"),                    HOLD),
    (DOWN_CROSS, a_trade("stop", "BUY"),                     HOLD),
    (UP_CROSS,   a_trade("stop", "BUY"),                     BUY),
    (DOWN_CROSS, a_trade("stop", "SELL"),                    SELL),
    (UP_CROSS,   a_trade("stop", "SELL", "long 1 @ 16"),     BUY),
    # So does the market order that replaces a stop; another exit does not.
    (UP_CROSS,   a_trade("exit", "SELL", reason=STOP_CROSSED), HOLD),
    (UP_CROSS,   a_trade("exit", "SELL"),                    BUY),
    (DOWN_CROSS, a_trade("exit", "BUY"),                     SELL),
    (UP_CROSS,   a_trade("exit", "SELL", "long 1 @ 16"),     BUY),
    (DOWN_CROSS, a_trade("exit", "SELL", "long 1 @ 16"),     SELL),
])
def test_a_cross_is_answered_by_its_entry_and_by_a_stop_of_its_side(cross, trade, wanted):
    strategy = a_strategy(cross)
    strategy.apply(as_read(trade))
    assert action(strategy) is wanted


def test_an_answered_cross_does_not_come_back():
    strategy = a_strategy(UP_CROSS)
    strategy.apply(a_trade("entry", "BUY", "long 1 @ 16"))
    see(strategy, [17], 5)
    strategy.apply(a_trade("stop", "SELL"))
    for number in range(4):
        see(strategy, [18 + number], 6 + number)
        assert action(strategy) is HOLD


@pytest.mark.parametrize("hours, wanted", [(4, BUY), (5, HOLD), (6, HOLD)])
def test_a_cross_that_a_stop_has_answered_already_is_not_raised(hours, wanted):
    strategy = a_strategy(FALLING)
    strategy.apply(as_read(a_trade("stop", "SELL", hours=hours)))
    assert action(see(strategy, [16], 4)) is wanted


def test_a_cross_that_is_not_raised_still_opposes_and_the_other_side_is_free():
    strategy = a_strategy(DOWN_CROSS)
    strategy.apply(a_trade("stop", "SELL", hours=6))
    assert action(strategy) is SELL
    assert action(see(strategy, [20], 5)) is HOLD
    strategy = a_strategy(FALLING)
    strategy.apply(a_trade("stop", "BUY", hours=6))
    assert action(see(strategy, [16], 4)) is BUY


# --- restart -----------------------------------------------------------------------------------


def test_a_restart_loses_no_cross_that_waits():
    old = a_strategy(UP_CROSS)
    assert decided(restarted(old, closes=UP_CROSS)) == decided(old)
    later = restarted(old, closes=[*UP_CROSS, 17])
    assert decided(later) == decided(see(old, [17], 5))
    assert decided(later).reason == "upward cross 1 bars ago"


def test_a_cross_is_as_old_after_a_restart_as_before():
    old = a_strategy([*UP_CROSS, 17, 18])
    new = restarted(old, closes=[*UP_CROSS, 17, 18])
    assert decided(new).reason == "upward cross 2 bars ago"
    assert action(see(new, [19], 7)) is HOLD


def test_a_restart_revives_no_cross_that_was_answered():
    old = a_strategy(UP_CROSS)
    old.apply(a_trade("entry", "BUY", "long 1 @ 16"))
    assert action(restarted(old, closes=UP_CROSS)) is HOLD
    assert action(restarted(a_strategy(UP_CROSS), a_trade("entry", "BUY", "long 1 @ 16"),
                            closes=UP_CROSS)) is HOLD


@pytest.mark.parametrize("down_for, wanted", [
    ([16], BUY), ([16, 17, 18], BUY), ([16, 17, 18, 19], HOLD), ([16, 4], SELL), ([10], HOLD)])
def test_a_cross_of_a_bar_that_nobody_watched_is_taken_while_it_is_young(down_for, wanted):
    old = a_strategy(FALLING)
    assert action(restarted(old, closes=[*FALLING, *down_for])) is wanted


@pytest.mark.parametrize("hours, wanted", [(5, BUY), (6, HOLD), (7, HOLD)])
def test_a_position_that_was_stopped_out_while_the_bot_was_down_is_not_opened_again(hours, wanted):
    """The averages turn down at bar 5 and up at bar 6, with nobody there; the stop fires at …"""
    old = a_strategy(RISING)
    stop = a_trade("stop", "SELL", hours=hours)
    assert action(restarted(old, stop, closes=[*RISING, 9, 20])) is wanted


def test_the_stop_out_is_remembered_while_the_windows_are_filled_again():
    strategy = a_strategy(RISING)
    strategy.apply(a_trade("stop", "SELL", hours=6))
    for _ in range(2):
        strategy.warm(BTC, bars([*RISING, 9, 20]))
        assert action(strategy) is HOLD


def test_a_bar_that_the_venue_has_no_candle_of_loses_no_cross():
    old = a_strategy(UP_CROSS)
    candles = bars([*UP_CROSS, 17])
    del candles[4]  # nobody traded in the hour of the cross
    strategy = BaselinePerpsStrategy(old.config)
    strategy.apply(as_read(a_signal(old)))
    strategy.warm(BTC, candles)
    assert decided(strategy).reason == "upward cross 1 bars ago"


def test_candles_that_lag_behind_what_was_seen_lose_no_cross():
    old = a_strategy(UP_CROSS)
    strategy = restarted(old, closes=FALLING)
    assert action(strategy) is BUY
    assert strategy.bar_at(BTC) == old.bar_at(BTC)


def test_history_alone_raises_nothing():
    for closes in (UP_CROSS, DOWN_CROSS, [*UP_CROSS, 4], [*DOWN_CROSS, 20, 21]):
        strategy = a_strategy()
        strategy.warm(BTC, bars(closes))
        assert decided(strategy).reason == "no cross pending"
    assert action(see(strategy, [4], 7)) is SELL


def test_an_absence_longer_than_the_windows_is_a_first_start():
    old = a_strategy(FALLING)
    strategy = BaselinePerpsStrategy(old.config)
    strategy.apply(as_read(a_signal(old)))
    strategy.warm(BTC, bars([0, 0, 0, 0, 0, *UP_CROSS])[5:])
    assert action(strategy) is HOLD
    assert strategy.side(BTC) is Side.BUY


def test_a_process_that_ended_before_its_windows_were_full_was_no_start():
    old = a_strategy(FALLING[:3])
    assert action(restarted(old, closes=UP_CROSS)) is HOLD
    assert action(restarted(a_strategy(FALLING[:3], enter_on_start=True), closes=UP_CROSS)) is BUY


def test_windows_that_start_again_from_nothing_remember_only_the_position():
    strategy = a_strategy(UP_CROSS)
    strategy.apply(a_trade("entry", "BUY", "long 1 @ 16"))
    strategy.warm(BTC, [])
    assert (strategy.bars(BTC), strategy.side(BTC), strategy.bar_at(BTC)) == (0, None, None)
    assert strategy.trailing_stop(a_position("long 1 @ 16")) == Decimal("15.84")


# --- enter_on_start ----------------------------------------------------------------------------


@pytest.mark.parametrize("closes, shorts, wanted", [
    (UP_CROSS, True, BUY), (RISING, True, BUY), (FALLING, True, SELL), (FALLING, False, HOLD),
    ([10, 10, 10, 10], True, HOLD), (RISING[:3], True, HOLD),
    ([11, 12, 13, 14, 11], True, BUY),  # they touch: the side before counts
])
@pytest.mark.parametrize("seen_as", ["history", "bars"])
def test_enter_on_start_takes_the_side_that_the_averages_show(closes, shorts, wanted, seen_as):
    strategy = a_strategy(enter_on_start=True, enable_shorts=shorts)
    if seen_as == "history":
        strategy.warm(BTC, bars(closes))
    else:
        see(strategy, closes)
    assert action(strategy) is wanted


def test_the_side_at_start_waits_three_bars_like_any_cross():
    strategy = a_strategy(enter_on_start=True)
    strategy.warm(BTC, bars([1, 2, 3, *RISING]))
    assert decided(strategy).reason == "upward cross 0 bars ago"
    see(strategy, [15, 16], 7)
    assert action(strategy) is BUY
    assert action(see(strategy, [17], 9)) is HOLD


def test_a_restart_is_not_a_start():
    old = a_strategy(RISING, enter_on_start=True)
    old.apply(a_trade("entry", "BUY", "long 1 @ 14"))
    old.apply(a_trade("stop", "SELL"))
    assert action(restarted(old, closes=RISING)) is HOLD
    assert action(restarted(old, closes=[*RISING, 15])) is HOLD


# --- holding -----------------------------------------------------------------------------------


@pytest.mark.parametrize("held, closes, wanted, reason", [
    ("long 1 @ 10",  RISING,      HOLD,  "position follows the averages"),
    ("long 1 @ 10",  DOWN_CROSS,  CLOSE, "averages turned against the position"),
    ("long 1 @ 10",  [*DOWN_CROSS, 8, 8, 8, 8], CLOSE, "averages turned against the position"),
    ("short 1 @ 10", FALLING,     HOLD,  "position follows the averages"),
    ("short 1 @ 10", UP_CROSS,    CLOSE, "averages turned against the position"),
    ("short 1 @ 10", RISING,      CLOSE, "averages turned against the position"),
    # No side yet, and averages that only touch.
    ("long 1 @ 10",  FALLING[:3], HOLD,  "position follows the averages"),
    ("long 1 @ 10",  [11, 12, 13, 14, 11], HOLD, "position follows the averages"),
    # A position that is there opens nothing more.
    ("long 1 @ 10",  UP_CROSS,    HOLD,  "position follows the averages"),
])
def test_a_position_is_closed_when_the_averages_are_on_the_other_side(held, closes, wanted, reason):
    decision = decided(a_strategy(closes), held=held)
    assert (decision.action, decision.reason) == (wanted, reason)


@pytest.mark.parametrize("held, price, stop, wanted", [
    ("long 1 @ 100",  "99.1",  "99",  HOLD), ("long 1 @ 100",  "99",  "99",  CLOSE),
    ("long 1 @ 100",  "90",    "99",  CLOSE), ("long 1 @ 100", "90",  None,  HOLD),
    ("short 1 @ 100", "100.9", "101", HOLD), ("short 1 @ 100", "101", "101", CLOSE),
    ("short 1 @ 100", "110",   "101", CLOSE), ("short 1 @ 100", "110", None, HOLD),
    ("flat",          "90",    "99",  HOLD),
])
def test_a_position_is_closed_when_the_mark_reaches_its_stop(held, price, stop, wanted):
    decision = decided(a_strategy(), price, held, stop)
    assert decision.action is wanted
    assert (decision.reason == STOP_CROSSED) == (wanted is CLOSE)


def test_a_crossed_stop_is_the_first_reason():
    assert decided(a_strategy(DOWN_CROSS), 90, "long 1 @ 100", 99).reason == STOP_CROSSED


# --- the trail ---------------------------------------------------------------------------------


@pytest.mark.parametrize("side, held, marks, improved, stop", [
    ("BUY",  "long 1 @ 100",  [],                  [],                    "99"),
    ("BUY",  "long 1 @ 100",  [90],                [False],               "99"),
    ("BUY",  "long 1 @ 100",  [100],               [False],               "99"),
    ("BUY",  "long 1 @ 100",  [101, 99, 105, 104], [True, False, True, False], "103.95"),
    ("SELL", "short 1 @ 100", [],                  [],                    "101"),
    ("SELL", "short 1 @ 100", [110, 99, 100, 95],  [False, True, False, True], "95.95"),
])
def test_the_stop_trails_the_best_mark_since_entry(side, held, marks, improved, stop):
    strategy, position = a_strategy(), a_position(held)
    strategy.apply(as_read(a_trade("entry", side, held)))
    assert [strategy.watch(a_mark(price), position) for price in marks] == improved
    assert strategy.trailing_stop(position) == Decimal(stop)


def test_the_distance_of_the_trail_is_a_setting():
    strategy = a_strategy(trailing_stop_pct=Decimal("0.05"))
    strategy.apply(a_trade("entry", "BUY", "long 1 @ 200"))
    assert strategy.trailing_stop(a_position("long 1 @ 200")) == 190


@pytest.mark.parametrize("side, first, then, stop", [
    ("BUY", "long 1 @ 100", "long 2 @ 98", "99"), ("BUY", "long 1 @ 100", "long 2 @ 102", "100.98"),
    ("SELL", "short 1 @ 100", "short 2 @ 102", "101"),
    ("SELL", "short 1 @ 100", "short 2 @ 98", "98.98"),
])
def test_a_position_that_grows_keeps_its_best(side, first, then, stop):
    strategy = a_strategy()
    for held in (first, then):
        strategy.apply(a_trade("entry", side, held))
    assert strategy.trailing_stop(a_position(then)) == Decimal(stop)


@pytest.mark.parametrize("purpose, reason", [
    ("stop", ""), ("exit", "averages turned"), ("exit", STOP_CROSSED), ("entry", "by hand")])
def test_a_flat_position_forgets_its_best(purpose, reason):
    strategy, held = a_strategy(), a_position("long 1 @ 100")
    strategy.apply(a_trade("entry", "BUY", "long 1 @ 100"))
    strategy.apply(a_trade(purpose, "SELL", "flat", reason))
    assert strategy.trailing_stop(held) is None
    strategy.apply(a_trade("entry", "BUY", "long 1 @ 50"))
    assert strategy.trailing_stop(a_position("long 1 @ 50")) == Decimal("49.5")


def test_a_position_that_only_shrinks_keeps_its_best():
    strategy = a_strategy()
    strategy.apply(a_trade("entry", "BUY", "long 2 @ 100"))
    strategy.apply(a_trade("exit", "SELL", "long 1 @ 100"))
    assert strategy.trailing_stop(a_position("long 1 @ 100")) == 99


def test_without_a_position_nothing_is_followed():
    strategy = a_strategy()
    assert strategy.watch(a_mark(100), a_position()) is False
    assert strategy.trailing_stop(a_position()) is None
    assert strategy.trailing_stop(a_position("long 1 @ 100")) is None
    strategy.apply(a_trade("entry", "BUY", "long 1 @ 100"))
    assert strategy.trailing_stop(a_position()) is None


@pytest.mark.parametrize("type", ["position.adopted", "reconcile.mismatch"])
def test_a_position_that_was_taken_over_trails_from_the_next_mark(type):
    strategy, held = a_strategy(), a_position("long 1 @ 100")
    strategy.apply(a_trade("entry", "BUY", "long 1 @ 100"))
    strategy.apply(Event(1, START, type, {"symbol": BTC}))
    assert strategy.trailing_stop(held) is None
    assert strategy.watch(a_mark(50), held) is True
    assert strategy.trailing_stop(held) == Decimal("49.5")


def test_the_best_mark_is_kept_over_a_restart():
    strategy, held = a_strategy(RISING), a_position("long 1 @ 14")
    entry = a_trade("entry", "BUY", "long 1 @ 14")
    strategy.apply(entry)
    strategy.watch(a_mark(20), held)
    assert restarted(strategy, closes=RISING).trailing_stop(held) == Decimal("19.8")
    # The entry alone is enough when the process ended before it could say more.
    assert restarted(a_strategy(RISING), entry).trailing_stop(held) == Decimal("13.86")


# --- what is written down ----------------------------------------------------------------------


def test_a_decision_carries_every_number_that_it_used():
    assert a_strategy(UP_CROSS).inputs(*asked(17, "long 2 @ 16", "15.5")) == {
        "mark_price": 17, "bid": 16, "ask": 18, "mark_at": START, "short_ma": Decimal("13.5"),
        "long_ma": 13, "bars": 4, "position_quantity": 2, "entry_price": 16,
        "stop_price": Decimal("15.5")}
    nothing = a_strategy().inputs(*asked())
    assert (nothing["short_ma"], nothing["long_ma"], nothing["stop_price"]) == (None, None, None)
    assert a_strategy([10, 12, 15]).inputs(*asked())["long_ma"] == Decimal(37) / 3


def judged(inputs, memory, config):
    """The decision again, from an event's text and the settings alone."""
    quantity, price = Decimal(inputs["position_quantity"]), Decimal(inputs["mark_price"])
    if quantity:
        toward = 1 if quantity > 0 else -1
        stop = inputs["stop_price"]
        stopped = stop is not None and (price - Decimal(stop)) * toward <= 0
        turned = memory["side"] == ("sell" if toward > 0 else "buy")
        return CLOSE if stopped or turned else HOLD
    if inputs["bars"] < config.long_ma_period or memory["pending"] is None:
        return HOLD
    if memory["pending"] == "sell":
        return SELL if config.enable_shorts else HOLD
    return BUY


@given(st.lists(st.integers(1, 6), max_size=12), st.sampled_from([0, 1, -1]),
       st.integers(1, 6), st.sampled_from([None, 2, 3, 4]), st.booleans(), st.booleans())
@settings(max_examples=200, deadline=None)
def test_a_decision_can_be_made_again_from_its_event(closes, held, price, stop, shorts, at_start):
    strategy = a_strategy(closes, enable_shorts=shorts, enter_on_start=at_start)
    position = Position(BTC, Decimal(held), Decimal(3), Decimal(price))
    numbers = a_mark(price), position, None if stop is None else Decimal(stop)
    decision = strategy.decide(*numbers)
    written = as_read(Event(1, START, "strategy.signal", {
        **strategy.inputs(*numbers), "memory": strategy.memory(BTC)})).data
    assert decision.action is judged(written, written["memory"], strategy.config)


def test_the_snapshot_of_a_day_brings_everything_back():
    strategy = see(a_strategy(UP_CROSS), DOWN_CROSS, symbol=ETH)
    strategy.apply(a_trade("entry", "BUY", "long 1 @ 16"))
    opened = Event(1, START, "day.opened", {"snapshot": {"strategy": strategy.snapshot()}})
    fresh = BaselinePerpsStrategy(strategy.config)
    fresh.apply(as_read(opened))
    assert fresh.snapshot() == strategy.snapshot()
    assert set(fresh.snapshot()) == {BTC, ETH}
    fresh.apply(Event(1, START, "day.opened", {"snapshot": {}}))  # the very first day
    assert fresh.snapshot() == strategy.snapshot()


def test_events_of_others_change_nothing():
    strategy = a_strategy(UP_CROSS)
    before = strategy.snapshot()
    for type in ("order.updated", "funding.paid", "bot.started"):
        strategy.apply(Event(1, START, type, {"symbol": BTC}))
    assert strategy.snapshot() == before


def lived(closes, blocked, stops, restarts, config):
    """One decision per bar, entries and exits filled at once; what was decided, bar by bar.

    blocked   the bars on which an entry is refused
    stops     the bars before whose end the stop of what is held fires
    restarts  by bar: the process ends before it, and comes back before its end or after it
    """
    strategy, position, events, decisions = BaselinePerpsStrategy(config), "flat", [], []

    def write(event):
        events.append(as_read(event))
        strategy.apply(event)

    for number, close in enumerate(closes, 1):
        if number in stops and position != "flat":
            write(a_trade("stop", "SELL" if "long" in position else "BUY", hours=number - 0.5))
            position = "flat"
        if number in restarts:
            strategy = BaselinePerpsStrategy(config)
            for event in events:
                strategy.apply(event)
            known = bars(closes[:number - (restarts[number] == "before its end")])
            strategy.warm(BTC, known[-config.long_ma_period - 4:])
        if restarts.get(number) != "after its end":
            see(strategy, [close], number - 1)
        mark, held = a_mark(close * 10), a_position(position)
        strategy.watch(mark, held)
        decision = strategy.decide(mark, held, strategy.trailing_stop(held))
        decisions.append(decision)
        write(Event(1, START, "strategy.signal", {
            "symbol": BTC, "memory": strategy.memory(BTC)}))
        if decision.action is CLOSE:
            side = "SELL" if "long" in position else "BUY"
            write(a_trade("exit", side, reason=decision.reason, hours=number))
            position = "flat"
        elif decision.action is not HOLD and number not in blocked:
            position = f"{'long' if decision.action is BUY else 'short'} 1 @ {close * 10}"
            write(a_trade("entry", decision.action.name, position, hours=number))
    return decisions


BARS = st.integers(1, 40)


@given(st.lists(st.integers(1, 6), min_size=10, max_size=40), st.sets(BARS), st.sets(BARS),
       st.dictionaries(BARS, st.sampled_from(["before its end", "after its end"])),
       st.builds(StrategyConfig, st.integers(2, 3), st.integers(4, 6),
                 trailing_stop_pct=st.just(Decimal("0.3")), enable_shorts=st.booleans(),
                 enter_on_start=st.booleans()))
@settings(max_examples=300, deadline=None)
def test_restarts_change_no_decision(closes, blocked, stops, restarts, config):
    assert lived(closes, blocked, stops, restarts, config) == lived(
        closes, blocked, stops, {}, config)


# --- settings and cost -------------------------------------------------------------------------


def test_fractions_and_leverage_may_be_written_as_in_the_runbook():
    config = StrategyConfig(short_ma_period=5, long_ma_period=20, target_leverage=2,
                            trailing_stop_pct=0.01, enable_shorts=False)
    assert config == StrategyConfig()
    assert (config.target_leverage, config.trailing_stop_pct) == (Decimal(2), Decimal("0.01"))
    assert BaselinePerpsStrategy().config == config
    for wrong in (True, "0.01", None):
        with pytest.raises(TypeError, match="trailing_stop_pct"):
            StrategyConfig(trailing_stop_pct=wrong)


class Counted:
    """A number that counts what is done with it, and with whatever came out of it."""

    done = 0

    def __init__(self, value):
        self.value = value

    def _do(name):
        def do(self, other=0):
            Counted.done += 1
            value = getattr(self.value, name)(getattr(other, "value", other))
            return value if isinstance(value, bool) else Counted(value)
        return do

    __add__, __radd__, __sub__, __rsub__ = map(_do, ("__add__", "__radd__", "__sub__", "__rsub__"))
    __mul__, __rmul__, __gt__, __lt__ = map(_do, ("__mul__", "__rmul__", "__gt__", "__lt__"))
    __truediv__ = _do("__truediv__")

    def __bool__(self):
        return bool(self.value)


def test_a_bar_and_a_decision_cost_the_same_for_any_period():
    costs = set()
    for short, long in ((2, 10), (5, 20), (50, 200)):
        strategy = a_strategy(short_ma_period=short, long_ma_period=long)
        for number in range(300):
            Counted.done = 0
            strategy.observe(BTC, Counted(Decimal(number % 7)), START + number * HOUR)
            decided(strategy)
        costs.add(Counted.done)
    assert len(costs) == 1 and costs.pop() < 20


def test_what_a_stop_answered_survives_a_days_snapshot():
    at = datetime(2025, 5, 1, 12, tzinfo=UTC)
    old, new = BaselinePerpsStrategy(), BaselinePerpsStrategy()
    old.apply(Event(1, at, "trade.executed", {
        "symbol": "BTC-PERP", "position_quantity": Decimal(0), "side": Side.SELL,
        "purpose": Purpose.STOP, "reason": "protective stop", "filled_at": at}))
    new.apply(Event(2, at, "day.opened", {"snapshot": {"strategy": old.snapshot()}}))
    assert new.snapshot()["BTC-PERP"]["stopped"] == (Side.BUY, at)
