"""What `stats.py` promises, with values worked out by hand."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perps_bot.model import Fill, FundingPayment, Side
from perps_bot.stats import (
    EquityCurve,
    TripSummary,
    daily_returns,
    exposure,
    max_drawdown_pct,
    profit_factor,
    round_trips,
    sharpe,
    sortino,
    total_return,
    win_rate,
)

START = datetime(2025, 5, 1, tzinfo=UTC)


def at(hours):
    return START + timedelta(minutes=int(Decimal(hours) * 60))


def fills(text, symbol="BTC-PERP"):
    """Read `BUY 1 @ 100 fee 2, SELL …`: one fill an hour from START; ` at 5` sets the hour."""
    made = []
    for number, line in enumerate(text.split(",")):
        words = line.split()
        side, quantity, price = Side[words[0]], Decimal(words[1]), Decimal(words[3])
        rest = dict(zip(words[4::2], words[5::2]))
        made.append(Fill(str(number), "", symbol, side, quantity, price,
                         Decimal(rest.get("fee", 0)), at(rest.get("at", number))))
    return made


def funding(hours, amount, symbol="BTC-PERP"):
    return FundingPayment(f"f{hours}", symbol, Decimal(amount), Decimal(0), at(hours))


def said(trip):
    side = "long" if trip.side is Side.BUY else "short"
    return f"{side} {trip.quantity:f} {trip.entry_price:f}->{trip.exit_price:f}"


def trips_of(*net_pnls):
    """Trips whose net P&L is as given: bought at 1000, fee 1 in all."""
    lines = (f"BUY 1 @ 1000 fee 1, SELL 1 @ {1001 + Decimal(pnl)}" for pnl in net_pnls)
    return round_trips(fills(", ".join(lines)))


def curve(*equities, hours=24):
    return [(at(hours * number), Decimal(equity)) for number, equity in enumerate(equities)]


def numbers(text):
    return [Decimal(word) for word in text.split()]


@pytest.mark.parametrize("text, expected", [
    ("BUY 1 @ 100",                                       []),
    ("BUY 1 @ 100, SELL 0.4 @ 110",                       []),
    ("BUY 1 @ 100, SELL 1 @ 110",                         [("long 1 100->110", "10", "0")]),
    ("SELL 2 @ 100 fee 1, BUY 2 @ 90 fee 3",              [("short 2 100->90", "20", "4")]),
    ("BUY 1 @ 100, BUY 3 @ 120, SELL 4 @ 115",            [("long 4 115->115", "0", "0")]),
    ("BUY 4 @ 100, SELL 1 @ 110, SELL 3 @ 102 fee 2",     [("long 4 100->104", "16", "2")]),
    ("BUY 2 @ 100, SELL 1 @ 110, BUY 1 @ 104, SELL 2 @ 95", [("long 3 101.3333->100", "-4", "0")]),
    # A flip of 4: 1 closes the long (a quarter of the fee), 3 open the short.
    ("BUY 1 @ 100 fee 1, SELL 4 @ 110 fee 8, BUY 3 @ 100 fee 5",
     [("long 1 100->110", "10", "3"), ("short 3 110->100", "30", "11")]),
])
def test_fills_pair_from_flat_to_flat(text, expected):
    found = [(said(t), t.realized_pnl, t.fees) for t in round_trips(fills(text))]
    rounded = [(s.replace("101.3333333333333333333333333", "101.3333"), p, f) for s, p, f in found]
    assert rounded == [(trip, Decimal(pnl), Decimal(fees)) for trip, pnl, fees in expected]


def test_a_trip_knows_when_it_opened_and_closed():
    (trip,) = round_trips(fills("BUY 1 @ 100 at 2, SELL 0.5 @ 100 at 3, SELL 0.5 @ 100 at 7"))
    assert (trip.opened_at, trip.closed_at) == (at(2), at(7))


def test_symbols_are_paired_apart_and_listed_in_the_order_of_closing():
    btc = fills("BUY 1 @ 100 at 0, SELL 1 @ 101 at 9")
    eth = fills("BUY 1 @ 10 at 1, SELL 1 @ 11 at 2", "ETH-PERP")
    assert [t.symbol for t in round_trips(btc + eth)] == ["ETH-PERP", "BTC-PERP"]


@pytest.mark.parametrize("hour, payer", [
    ("0",   "first"),   # opened at that very moment, and nothing was held before
    ("1",   "first"),
    ("2",   "first"),   # the flip at 2 came after the hour that is paid for
    ("3",   "second"),
    ("4",   "second"),
    ("5",   "second"),  # booked late
    ("6",   "third"),
    ("7",   "third"),
    ("-1",  None),      # nothing of ours explains it
    ("8.5", None),      # the trip that is still open pays
])
def test_funding_goes_to_the_trip_that_was_held(hour, payer):
    held = ("BUY 1 @ 100 at 0, SELL 2 @ 100 at 2, BUY 1 @ 100 at 4,"
            "BUY 1 @ 100 at 6, SELL 1 @ 100 at 7, BUY 1 @ 100 at 8")
    trips = round_trips(fills(held), [funding(hour, "0.5")])
    paid = {"first": trips[0], "second": trips[1], "third": trips[2]}
    assert {name for name, trip in paid.items() if trip.funding} == ({payer} - {None})
    assert sum(trip.net_pnl for trip in trips) == (Decimal("-0.5") if payer else 0)


def test_funding_of_another_symbol_is_not_ours():
    (trip,) = round_trips(fills("BUY 1 @ 1, SELL 1 @ 2"), [funding("0.5", "9", "ETH-PERP")])
    assert trip.net_pnl == 1


@pytest.mark.parametrize("net_pnls, rate, factor", [
    ("",         None,    None),
    ("10",       "1",     None),    # no loss: undefined, not infinite
    ("-10",      "0",     "0"),
    ("0",        "0",     None),    # breaking even is no win
    ("30 -10 -5 0", "0.25", "2"),
])
def test_win_rate_and_profit_factor_count_net_of_costs(net_pnls, rate, factor):
    trips = trips_of(*net_pnls.split()) if net_pnls else []
    assert win_rate(trips) == (rate and Decimal(rate))
    assert profit_factor(trips) == (factor and Decimal(factor))


@pytest.mark.parametrize("equities, gain, drawdown", [
    ("",                     None,    None),
    ("100",                  "0",     "0"),
    ("100 110 121",          "0.21",  "0"),
    ("100 80 90",            "-0.1",  "0.2"),
    ("100 90 200 150 190",   "0.9",   "0.25"),
    ("100 50 60 200 120",    "0.2",   "0.5"),   # the deeper fall is the earlier one
    ("100 -50",              "-1.5",  "1.5"),   # more was lost than was there
    ("0 10 5",               None,    "0.5"),
    ("-5 -10",               None,    None),    # never had anything to fall from
])
def test_return_and_drawdown(equities, gain, drawdown):
    points = curve(*equities.split())
    assert total_return(points) == (gain and Decimal(gain))
    assert max_drawdown_pct(points) == (drawdown and Decimal(drawdown))


@pytest.mark.parametrize("hours, equities, expected", [
    (24, "100",                    ""),
    (24, "100 110 99",             "0.1 -0.1"),
    (8,  "90 95 100 50 200 110",   "0.1"),       # the last equity of each day counts
    (48, "100 120 90",             "0.2 -0.25"), # over a day without a word: to the next one seen
    (24, "100 -50 10 20",          "-1.5 1"),    # no return on what is not there
])
def test_daily_returns(hours, equities, expected):
    assert daily_returns(curve(*equities.split(), hours=hours)) == numbers(expected)


@pytest.mark.parametrize("returns, expected_sharpe, expected_sortino", [
    ("",                 None,       None),
    ("0.01",             None,       None),
    ("-0.01",            None,       None),
    ("0.01 0.01",        None,       None),      # no deviation
    ("0 0.01",           "13.5093",  None),      # .005 / .0070711 * sqrt(365)
    ("-0.01 -0.01",      None,       "-13.5093"),  # -.01 / sqrt(.0002) * sqrt(365)
    ("0.01 0.02",        "40.5278",  None),      # .015 / .0070711 * 19.10497; no loss
    ("0.03 -0.01",       "6.7546",   "19.1050"),   # .01 / .0282843; .01 / .01
    ("0.02 -0.01 -0.01", "0",        "0"),
])
def test_sharpe_and_sortino(returns, expected_sharpe, expected_sortino):
    for measure, expected in ((sharpe, expected_sharpe), (sortino, expected_sortino)):
        found = measure(numbers(returns))
        assert found == expected or found.quantize(Decimal("0.0001")) == Decimal(expected)


@pytest.mark.parametrize("spans, expected", [
    ("",                "0"),
    ("0-10",            "1"),
    ("2-3 5-6",         "0.2"),
    ("1-5 2-3 4-7",     "0.6"),   # two symbols at once are one time
    ("-5-1 9-20",       "0.2"),   # only what lies in between
    ("-9--5 12-15",     "0"),
])
def test_exposure_is_the_share_of_time_with_a_position(spans, expected):
    trips = []
    for number, span in enumerate(spans.split()):
        opened, closed = span[: span.index("-", 1)], span[span.index("-", 1) + 1 :]
        line = f"BUY 1 @ 1 at {opened}, SELL 1 @ 1 at {closed}"
        trips += round_trips(fills(line, f"COIN{number}-PERP"))
    assert exposure(trips, at(0), at(10)) == Decimal(expected)


def test_exposure_of_no_time_is_undefined():
    assert exposure([], START, START) is None


prices = st.decimals("0.01", "100000", places=2)
quantities = st.decimals("-10", "10", places=3).filter(bool)
fees = st.decimals("-1", "5", places=4)


@st.composite
def books_that_end_flat(draw):
    legs = draw(st.lists(st.tuples(quantities, prices, fees), max_size=12))
    left = sum((leg[0] for leg in legs), Decimal(0))
    legs += [(-left, draw(prices), draw(fees))] if left else []
    return [
        Fill(str(n), "", "BTC-PERP", Side.BUY if q > 0 else Side.SELL, abs(q), price, fee, at(n))
        for n, (q, price, fee) in enumerate(legs)
    ]


@given(books_that_end_flat())
def test_trips_that_end_flat_add_up_to_the_cash_that_moved(book):
    trips = round_trips(book)
    cash = sum((-f.side.sign * f.quantity * f.price for f in book), Decimal(0))
    assert sum((t.realized_pnl for t in trips), Decimal(0)) == cash
    paid = sum((t.fees for t in trips), Decimal(0))
    assert abs(paid - sum((f.fee for f in book), Decimal(0))) < Decimal("1e-20")


@given(books_that_end_flat())
def test_trips_of_a_symbol_follow_one_another(book):
    trips = round_trips(book)
    assert all(t.quantity > 0 and t.opened_at < t.closed_at for t in trips)
    assert all(before.closed_at <= after.opened_at for before, after in zip(trips, trips[1:]))


@given(books_that_end_flat())
def test_the_running_summary_agrees_with_the_kept_trips(book):
    seen, trips = TripSummary(), round_trips(book)
    for fill in book:
        seen.fill(fill)
    assert (seen.trips, seen.win_rate) == (len(trips), win_rate(trips))
    assert seen.profit_factor == profit_factor(trips)


def test_the_running_summary_charges_funding_to_the_trip_that_is_open():
    seen, (opening, closing) = TripSummary(), fills("BUY 1 @ 100, SELL 1 @ 110")
    for step in (opening, funding(0.5, 12), funding(0.5, 99, "ETH-PERP"), closing, funding(3, 99)):
        (seen.fill if isinstance(step, Fill) else seen.charge)(step)
    assert (seen.trips, seen.wins, seen.won, seen.lost) == (1, 0, 0, 2)


@given(st.lists(st.decimals("1", "100000", places=2), min_size=1), st.integers(1, 30))
def test_the_running_curve_agrees_with_the_kept_one(equities, hours):
    seen, points = EquityCurve(), curve(*equities, hours=hours)
    for point in points:
        seen.observe(*point)
    peaks = accumulate(equities, max)
    deepest = max((p - e) / p for p, e in zip(peaks, equities))
    last_of_day = list({moment.date(): equity for moment, equity in points}.values())
    assert (seen.first, seen.last, seen.peak) == (equities[0], equities[-1], max(equities))
    assert seen.max_drawdown_pct == deepest
    assert seen.daily_returns == [(b - a) / a for a, b in zip(last_of_day, last_of_day[1:])]
