"""What `stats.py` promises, with values worked out by hand."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perps_bot.model import Fill, FundingPayment, Side
from perps_bot.stats import EquityCurve, TripSummary, sharpe, sortino

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
    return f"{side} {trip.quantity:f} for {trip.entered:f}->{trip.left:f}"


def round_trips(fills, payments=()):
    """The finished trips in the order of their closing."""
    finished = []
    summary = TripSummary(finished.append)
    for item in sorted((*fills, *payments), key=lambda item: item.at):
        (summary.fill if isinstance(item, Fill) else summary.charge)(item)
    return finished


def summed(*items):
    seen = TripSummary()
    for item in items:
        (seen.fill if isinstance(item, Fill) else seen.charge)(item)
    return seen


def curve(equities, hours=24):
    seen = EquityCurve()
    for number, equity in enumerate(equities):
        seen.observe(at(hours * number), Decimal(equity))
    return seen


def numbers(text):
    return [Decimal(word) for word in text.split()]


@pytest.mark.parametrize("text, expected", [
    ("BUY 1 @ 100",                                   []),
    ("BUY 1 @ 100, SELL 0.4 @ 110",                   []),
    ("BUY 1 @ 100, SELL 1 @ 110",                     [("long 1 for 100->110", "10", "0")]),
    ("SELL 2 @ 100 fee 1, BUY 2 @ 90 fee 3",          [("short 2 for 200->180", "20", "4")]),
    ("BUY 1 @ 100, BUY 3 @ 120, SELL 4 @ 115",        [("long 4 for 460->460", "0", "0")]),
    ("BUY 4 @ 100, SELL 1 @ 110, SELL 3 @ 102 fee 2", [("long 4 for 400->416", "16", "2")]),
    ("BUY 2 @ 100, SELL 1 @ 110, BUY 1 @ 104, SELL 2 @ 95",
     [("long 3 for 304->300", "-4", "0")]),
    # A flip of 4: 1 closes the long (a quarter of the fee), 3 open the short.
    ("BUY 1 @ 100 fee 1, SELL 4 @ 110 fee 8, BUY 3 @ 100 fee 5",
     [("long 1 for 100->110", "10", "3"), ("short 3 for 330->300", "30", "11")]),
])
def test_fills_pair_from_flat_to_flat(text, expected):
    found = [(said(t), t.realized_pnl, t.fees) for t in round_trips(fills(text))]
    assert found == [(trip, Decimal(pnl), Decimal(fees)) for trip, pnl, fees in expected]


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
    lines = (f"BUY 1 @ 1000 fee 1, SELL 1 @ {1001 + Decimal(pnl)}" for pnl in net_pnls.split())
    seen = summed(*fills(", ".join(lines))) if net_pnls else summed()
    assert seen.trips == len(net_pnls.split())
    assert seen.win_rate == (rate and Decimal(rate))
    assert seen.profit_factor == (factor and Decimal(factor))


@pytest.mark.parametrize("hour, amount, won, lost", [
    ("0.5", "12", 0, 2),    # while it is open: the gain of 10 becomes a loss
    ("2",   "12", 0, 2),    # booked late: what was counted is counted anew
    ("2",   "-5", 15, 0),
    ("-1",  "12", 10, 0),   # paid before it was opened
])
def test_funding_decides_whether_a_trip_won(hour, amount, won, lost):
    opening, closing = fills("BUY 1 @ 100, SELL 1 @ 110")
    paid, others = funding(hour, amount), funding(hour, "99", "ETH-PERP")
    early = Decimal(hour) < 1
    for order in ([opening, paid, others, closing] if early else [opening, closing, paid, others],
                  [opening, closing, paid]):
        seen = summed(*order)
        assert (seen.trips, seen.wins, seen.won, seen.lost) == (1, won > 0, won, lost)


def test_the_summary_keeps_two_trips_of_a_symbol_however_many_pass():
    legs = ", ".join("BUY 1 @ 100, SELL 2 @ 100, BUY 1 @ 100" for _ in range(50))
    seen = summed(*fills(legs))
    assert seen.trips == 100
    assert [len(trips) for trips in seen._latest.values()] == [2]


@pytest.mark.parametrize("equities, drawdown", [
    ("",                     None),
    ("100",                  "0"),
    ("100 110 121",          "0"),
    ("100 80 90",            "0.2"),
    ("100 90 200 150 190",   "0.25"),
    ("100 50 60 200 120",    "0.5"),   # the deeper fall is the earlier one
    ("100 -50",              "1.5"),   # more was lost than was there
    ("0 10 5",               "0.5"),
    ("-5 -10",               None),    # never had anything to fall from
])
def test_the_drawdown_is_the_deepest_fall_from_a_peak(equities, drawdown):
    assert curve(equities.split()).max_drawdown_pct == (drawdown and Decimal(drawdown))


@pytest.mark.parametrize("hours, equities, expected", [
    (24, "",                       ""),
    (24, "100",                    ""),
    (24, "100 110 99",             "0.1 -0.1"),
    (8,  "90 95 100 50 200 110",   "0.1"),       # the last equity of each day counts
    (48, "100 120 90",             "0.2 -0.25"), # over a day without a word: to the next one seen
    (24, "100 -50 10 20",          "-1.5 1"),    # no return on what is not there
])
def test_daily_returns(hours, equities, expected):
    assert curve(equities.split(), hours).daily_returns == numbers(expected)


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


@given(books_that_end_flat(), st.lists(st.tuples(st.integers(0, 12), fees), max_size=5))
def test_the_running_summary_agrees_with_the_listed_trips(book, paid):
    payments = [funding(hours, amount) for hours, amount in paid]
    seen = summed(*sorted([*book, *payments], key=lambda item: item.at))
    nets = [trip.net_pnl for trip in round_trips(book, payments)]
    assert (seen.trips, seen.wins) == (len(nets), sum(net > 0 for net in nets))
    for found, expected in ((seen.won, sum(net for net in nets if net > 0)),
                            (seen.lost, -sum(net for net in nets if net < 0))):
        assert abs(found - expected) < Decimal("1e-15")  # a fee that was split may round


@given(st.lists(st.decimals("1", "100000", places=2), min_size=1), st.integers(1, 30))
def test_the_running_curve_agrees_with_the_kept_one(equities, hours):
    seen = curve(equities, hours)
    deepest = max((p - e) / p for p, e in zip(accumulate(equities, max), equities))
    last_of_day = list({at(hours * n).date(): equity for n, equity in enumerate(equities)}.values())
    assert (seen.peak, seen.max_drawdown_pct) == (max(equities), deepest)
    assert seen.daily_returns == [(b - a) / a for a, b in zip(last_of_day, last_of_day[1:])]
