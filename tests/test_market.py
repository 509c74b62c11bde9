"""Specification of `perps_bot.market`: the synthetic and the recorded market."""

import gzip
import os
import subprocess
import sys
import tracemalloc
from collections import deque
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from statistics import correlation, pstdev

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from perps_bot import market as market_room
from perps_bot.broker import MarketData
from perps_bot.errors import ConfigError
from perps_bot.market import (
    ACTIVITY_MOST,
    BAR_LENGTH_ROWS,
    BUSY_SECONDS_MAX,
    LINE_LENGTH_MAX,
    OCTAVES,
    SYNTHETIC_PRODUCTS,
    RecordedMarket,
    SyntheticMarket,
    cached_closes,
    window_row,
)
from perps_bot.model import Side

REPO = Path(__file__).parents[1]
DATA = REPO.parent / "shared" / "data"
MIDNIGHT = datetime(2026, 11, 23, tzinfo=UTC)
SYMBOLS = ("BTC-PERP", "ETH-PERP", "SOL-PERP", "XRP-PERP")
BARS = "time,open,high,low,close,volume"
MARK_BARS = "time,open,high,low,close"
TRADES = "time,recv_ns,trade_id,price,size,taker_side"
QUOTES = "time,recv_ns,bid,bid_size,ask,ask_size"
FUNDING = "time,funding_rate"

needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"the recorded market data is not at {DATA}"
)


def after(seconds):
    return MIDNIGHT + timedelta(seconds=seconds)


def at(clock):
    """Return today at `clock`, as 00:01:30.5; the rows below are written in the same way."""
    return datetime.fromisoformat(f"2026-11-23T{clock}Z")


# --- the synthetic market ------------------------------------------------------------------


@pytest.fixture
def synthetic():
    return SyntheticMarket(seed=1)


def mid(market, symbol, moment):
    return market.marks([symbol], moment)[symbol].price


def crossovers(closes):
    """Return the moments at which the 5-bar average passes the 20-bar average."""
    sides = []
    for end in range(20, len(closes) + 1):
        difference = sum(closes[end - 5:end]) * 4 - sum(closes[end - 20:end])
        if difference:
            sides.append(difference > 0)
    return sum(one != other for one, other in pairwise(sides))


def returns_of(prices):
    return [float(later / earlier) - 1 for earlier, later in pairwise(prices)]


def closes(market, symbol, seconds, count):
    return [candle.close for candle in market.candles(symbol, seconds, count, MIDNIGHT)]


@pytest.mark.parametrize("symbol, product_id, contract, tick, largest", [
    ("BTC-PERP", "BIP-20DEC30-CDE", "0.01", "5",      "50"),
    ("ETH-PERP", "ETP-20DEC30-CDE", "0.1",  "0.5",    "500"),
    ("SOL-PERP", "SLP-20DEC30-CDE", "5",    "0.01",   "25000"),
    ("XRP-PERP", "XPP-20DEC30-CDE", "500",  "0.0001", "2500000"),
])
def test_the_products_are_like_the_venues(symbol, product_id, contract, tick, largest):
    product = {p.symbol: p for p in SyntheticMarket().products()}[symbol]
    size = Decimal(contract)
    assert product.product_id == product_id
    assert product.contract_size == product.quantity_increment == product.min_quantity == size
    assert product.price_increment == Decimal(tick)
    assert product.max_quantity == Decimal(largest)
    assert product.min_notional == 0
    assert product.is_perpetual and product.tradable


@pytest.mark.parametrize("product", SYNTHETIC_PRODUCTS, ids=SYMBOLS)
def test_three_times_leverage_fits_a_long_and_a_short_needs_more_margin(product):
    assert 0 < product.margin_rate(Side.BUY) * 3 <= 1
    assert product.margin_rate(Side.BUY) < product.margin_rate(Side.SELL) < 1


@pytest.mark.parametrize("symbol, clock, price", [
    ("BTC-PERP", "00:00:00", "83327.5"),
    ("BTC-PERP", "12:34:56", "84050.0"),
    ("ETH-PERP", "12:34:56", "3088.50"),
    ("SOL-PERP", "12:34:56", "145.485"),
    ("XRP-PERP", "12:34:56", "2.19945"),
])
def test_the_path_is_the_same_on_every_machine_and_python(synthetic, symbol, clock, price):
    assert str(mid(synthetic, symbol, at(clock))) == price


def test_two_markets_of_one_seed_agree_and_of_two_seeds_do_not(synthetic):
    twin, other = SyntheticMarket(seed=1), SyntheticMarket(seed=2)
    assert twin.marks(SYMBOLS, MIDNIGHT) == synthetic.marks(SYMBOLS, MIDNIGHT)
    assert twin.candles("ETH-PERP", 60, 9, MIDNIGHT) == synthetic.candles(
        "ETH-PERP", 60, 9, MIDNIGHT)
    assert twin.funding("BTC-PERP", MIDNIGHT) == synthetic.funding("BTC-PERP", MIDNIGHT)
    assert mid(other, "BTC-PERP", MIDNIGHT) != mid(synthetic, "BTC-PERP", MIDNIGHT)


@pytest.mark.parametrize("hash_seed", ["0", "1", "4711"])
def test_another_process_sees_the_same_market(synthetic, hash_seed):
    program = (
        "from datetime import *; from perps_bot.market import *; m = SyntheticMarket(seed=1)\n"
        "now = datetime(2026, 11, 23, tzinfo=UTC)\n"
        "print(m.marks(['BTC-PERP', 'XRP-PERP'], now), m.candles('SOL-PERP', 7, 3, now))"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(REPO)}
    printed = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    ).stdout
    here = synthetic.marks(["BTC-PERP", "XRP-PERP"], MIDNIGHT)
    assert printed == f"{here} {synthetic.candles('SOL-PERP', 7, 3, MIDNIGHT)}\n"


def test_the_order_of_the_questions_changes_no_answer(synthetic):
    moments = [after(17 * step) for step in range(200)]
    forward = [synthetic.marks(SYMBOLS, moment) for moment in moments]
    backward = [SyntheticMarket().marks(reversed(SYMBOLS), moment) for moment in moments[::-1]]
    assert forward == backward[::-1]


def test_symbols_move_each_in_its_own_way(synthetic):
    btc, eth = (returns_of(closes(synthetic, symbol, 60, 500)) for symbol in SYMBOLS[:2])
    assert abs(correlation(btc, eth)) < 0.3


def test_a_mark_is_a_two_sided_quote_on_the_tick_at_the_whole_second(synthetic):
    spreads, bid_sizes, ask_sizes = set(), set(), set()
    for step in range(2000):
        for product in SYNTHETIC_PRODUCTS:
            mark = synthetic.marks([product.symbol], after(step + 0.75))[product.symbol]
            assert mark.at == after(step)
            assert mark.price == (mark.bid + mark.ask) / 2
            assert mark.bid % product.price_increment == 0
            spreads.add((mark.ask - mark.bid) / product.price_increment)
            bid_sizes.add(mark.bid_size / product.contract_size)
            ask_sizes.add(mark.ask_size / product.contract_size)
    assert spreads == {1, 2, 3}
    assert bid_sizes == ask_sizes == set(range(1, 41))


def test_now_in_another_time_zone_is_the_same_moment(synthetic):
    there = MIDNIGHT.astimezone(timezone(timedelta(hours=-5)))
    assert synthetic.marks(SYMBOLS, there) == synthetic.marks(SYMBOLS, MIDNIGHT)


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_the_price_moves_without_jumps(synthetic, symbol):
    prices = [mid(synthetic, symbol, after(second)) for second in range(3000)]
    assert max(abs(b / a - 1) for a, b in pairwise(prices)) < Decimal("0.0005")
    assert len(set(prices)) > 30


def test_the_amplitudes_cannot_leave_the_band():
    most = sum(
        amplitude * (ACTIVITY_MOST if period <= BUSY_SECONDS_MAX else 1)
        for period, amplitude in OCTAVES
    )
    assert most < 75_000  # millionths; ln(1 - 0.075) = -0.078, so within 8 % both ways


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.integers(0, 4_000_000_000), st.sampled_from(SYMBOLS), st.integers(0, 99))
def test_the_price_stays_within_8_percent_of_its_base_forever(second, symbol, seed):
    base = dict(zip(SYMBOLS, map(Decimal, ("82570", "3100", "145", "2.2"))))[symbol]
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=second)
    price = mid(SyntheticMarket(seed), symbol, moment)
    assert Decimal("0.923") < price / base < Decimal("1.083")


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_minutes_are_as_restless_as_a_real_market_and_restless_in_clusters(synthetic, symbol):
    returns = returns_of(closes(synthetic, symbol, 60, 4000))
    sizes = [abs(change) for change in returns]
    assert 0.0003 < pstdev(returns) < 0.0008
    assert correlation(sizes[:-1], sizes[1:]) > 0.15
    assert correlation(sizes[:-5], sizes[5:]) > 0.10


@pytest.mark.parametrize("symbol", SYMBOLS)
@pytest.mark.parametrize("seconds", [1, 60])
def test_averages_of_5_and_20_bars_cross_every_20_to_40_bars(synthetic, symbol, seconds):
    assert 20 <= 4000 / crossovers(closes(synthetic, symbol, seconds, 4000)) <= 40


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(1, 90_000), st.integers(1, 5), st.integers(0, 10**9), st.sampled_from(SYMBOLS))
def test_candles_agree_with_the_marks(seconds, count, second, symbol):
    market, now = SyntheticMarket(), after(second) + timedelta(microseconds=999_999)
    candles = market.candles(symbol, seconds, count, now)
    assert len(candles) == count
    length = timedelta(seconds=seconds)
    assert now - length < candles[-1].opened_at + length <= now
    for candle in candles:
        assert (candle.opened_at - datetime(1970, 1, 1, tzinfo=UTC)) % length == timedelta(0)
        assert candle.open == mid(market, symbol, candle.opened_at)
        assert candle.close == mid(market, symbol, candle.opened_at + length)
        assert candle.low <= min(candle.open, candle.close)
        assert candle.high >= max(candle.open, candle.close)
        assert candle.volume > 0
    for one, other in pairwise(candles):
        assert other.opened_at - one.opened_at == length
        assert other.open == one.close


def test_high_and_low_see_what_happens_inside_a_bar(synthetic):
    candles = synthetic.candles("BTC-PERP", 3600, 50, MIDNIGHT)
    assert any(c.high > max(c.open, c.close) for c in candles)
    assert any(c.low < min(c.open, c.close) for c in candles)


def test_no_candles_are_no_candles(synthetic):
    assert list(synthetic.candles("BTC-PERP", 60, 0, MIDNIGHT)) == []


def test_funding_is_of_the_hour_that_ended_and_small(synthetic):
    hours = [synthetic.funding("BTC-PERP", after(3600 * hour + 3599)) for hour in range(1000)]
    assert [rate.at for rate in hours] == [after(3600 * hour) for hour in range(1000)]
    assert synthetic.funding("BTC-PERP", after(3600)) == hours[1]
    rates = [rate.rate for rate in hours]
    assert max(map(abs, rates)) <= Decimal("0.00005")
    assert sum(abs(rate) <= Decimal("0.00003") for rate in rates) > 900
    assert min(rates) < 0 < max(rates) and len(set(rates)) > 100


def test_what_is_not_listed_is_absent(synthetic):
    assert set(synthetic.marks(["BTC-PERP", "DOGE-PERP"], MIDNIGHT)) == {"BTC-PERP"}
    assert list(synthetic.candles("DOGE-PERP", 60, 5, MIDNIGHT)) == []
    assert synthetic.funding("DOGE-PERP", MIDNIGHT) is None
    chosen = SyntheticMarket(symbols=["SOL-PERP"])
    assert [p.symbol for p in chosen.products()] == ["SOL-PERP"]
    assert set(chosen.marks(SYMBOLS, MIDNIGHT)) == {"SOL-PERP"}
    with pytest.raises(ConfigError, match="DOGE-PERP.*BTC-PERP, ETH-PERP, SOL-PERP, XRP-PERP"):
        SyntheticMarket(symbols=["DOGE-PERP"])


# --- the recorded market -------------------------------------------------------------------


@pytest.fixture
def recorded(tmp_path):
    """Return a function that writes rows to files and opens a market on them.

    A file is its header and its rows; a row's time is written as in `at`.
    """
    def write(number, header, *rows):
        path = tmp_path / f"{number}.csv"
        lines = (f"2026-11-23T{row.replace(',', 'Z,', 1)}" for row in rows)
        path.write_text("\n".join([header, *lines, ""]), encoding="utf-8")
        return path

    def open_market(*files, funding=(), **options):
        paths = [write(number, *file) for number, file in enumerate(files)]
        rates = [write(f"funding{number}", FUNDING, *rows) for number, rows in enumerate(funding)]
        return RecordedMarket(paths, SYMBOLS[:len(paths)], rates, **options)

    return open_market


def bar(clock, close="5"):
    return f"{clock},{close},9,1,{close},2.5"


def told(market):
    """Return what the market says, moment by moment: the clock and each symbol's new price."""
    lines, seen = [], {}
    while now := market.advance():
        marks = market.marks(SYMBOLS, now)
        fresh = [f"{s[:3]} {m.price}" for s, m in marks.items() if seen.get(s) is not m]
        seen = dict(marks)
        lines.append(f"{now:%H:%M:%S} {', '.join(sorted(fresh))}")
    return lines


@pytest.mark.parametrize("market", [SyntheticMarket, RecordedMarket])
def test_both_markets_have_every_question_of_the_protocol(market):
    questions = {name for name in vars(MarketData) if not name.startswith("_")}
    assert questions == {"connect", "products", "marks", "candles", "funding"} & set(dir(market))


def test_a_candle_is_told_at_its_end(recorded):
    market = recorded((BARS, "00:00:00,5,7.5,4,6.25,2.5", bar("00:01:00")))
    now = market.advance()
    mark = market.marks(SYMBOLS, now)["BTC-PERP"]
    assert now == mark.at == at("00:01:00")
    assert mark.price == mark.bid == mark.ask == Decimal("6.25")
    assert mark.bid_size is None and mark.ask_size is None
    assert mark.candle.opened_at == at("00:00:00")
    assert [mark.candle.open, mark.candle.high, mark.candle.low, mark.candle.close,
            mark.candle.volume] == [5, Decimal("7.5"), 4, Decimal("6.25"), Decimal("2.5")]


def test_marks_that_were_read_are_told_again_and_history_is_for_those_who_ask(recorded):
    read = recorded((BARS, *(f"00:{n:02}:00,5,{7 + n},4,6,1" for n in range(5))))
    marks = []
    while read.advance():
        marks += read.marks(SYMBOLS, None).values()
    market = RecordedMarket([iter(marks[3:])], ["BTC-PERP"], history=marks[:3])
    assert market.candles("BTC-PERP", 60, 2, at("00:04:00")) == [m.candle for m in marks[1:3]]
    assert market.candles("BTC-PERP", 3600, 2, at("00:04:00")) == []
    assert market.candles("ETH-PERP", 60, 2, at("00:04:00")) == []
    for mark in marks[3:]:
        assert market.advance() == mark.at
        assert market.marks(SYMBOLS, mark.at) == {"BTC-PERP": mark}
    assert market.advance() is None
    assert (market.rows, market.bad_rows, market.progress()) == (2, 0, 0)


def test_a_mark_candle_has_no_volume(recorded):
    market = recorded((MARK_BARS, "00:00:00,5,7,4,6", "08:00:00,6,6,6,6"))
    assert market.advance() == at("08:00:00")
    assert market.marks(SYMBOLS, at("08:00:00"))["BTC-PERP"].candle.volume == 0


@pytest.mark.parametrize("rows, bar_seconds, ends", [
    (["00:00:00", "00:01:00", "00:05:00"], None, ["00:01:00", "00:02:00", "00:06:00"]),
    (["00:00:00", "00:05:00", "00:06:00"], None, ["00:01:00", "00:06:00", "00:07:00"]),
    (["00:00:00", "08:00:00"],             None, ["08:00:00", "16:00:00"]),
    (["00:00:00", "00:01:00", "00:05:00"], 30,   ["00:00:30", "00:01:30", "00:05:30"]),
    (["00:00:00"],                         60,   ["00:01:00"]),
])
def test_a_bar_is_as_long_as_the_smallest_spacing_or_as_told(recorded, rows, bar_seconds, ends):
    market = recorded((BARS, *map(bar, rows)), bar_seconds=bar_seconds)
    assert [line[:8] for line in told(market)] == ends


def test_only_the_first_rows_tell_the_length_of_a_bar(recorded):
    clocks = [f"{n // 30:02}:{n % 30 * 2:02}:00" for n in range(BAR_LENGTH_ROWS)]
    with pytest.raises(ConfigError, match=f"line {BAR_LENGTH_ROWS + 2}: .* out of order"):
        told(recorded((BARS, *map(bar, clocks), bar("16:39:00"))))
    with pytest.raises(ConfigError, match="one row does not tell a bar's length"):
        recorded((BARS, bar("00:00:00")))


def test_begin_does_not_change_the_length_of_a_bar(recorded):
    file = (BARS, *map(bar, ["00:00:00", "00:01:00", "00:05:00"]))
    assert told(recorded(file, begin=at("00:05:00"))) == ["00:06:00 BTC 5"]


def test_files_run_on_one_clock(recorded):
    market = recorded(
        (BARS, bar("00:00:00", "2"), bar("00:01:00", "3"), bar("00:03:00", "4")),
        (BARS, bar("00:01:00", "5"), bar("00:02:00", "6"), bar("00:03:00", "7")),
        (QUOTES, "00:01:59.5,1,7,1,9,1", "00:02:00,1,6,1,8,1"),
    )
    assert told(market) == [
        "00:01:00 BTC 2",
        "00:01:59 SOL 8.0",
        "00:02:00 BTC 3, ETH 5, SOL 7.0",
        "00:03:00 ETH 6",
        "00:04:00 BTC 4, ETH 7",
    ]


def test_a_symbol_without_news_keeps_its_mark_and_the_dict_is_never_copied(recorded):
    market = recorded((BARS, *map(bar, ["00:00:00", "00:01:00"])), (BARS, *map(
        bar, ["00:00:00", "00:02:00"])), bar_seconds=60)
    first = market.marks(SYMBOLS, market.advance())
    kept = first["ETH-PERP"]
    second = market.marks(SYMBOLS, market.advance())
    assert second is first
    assert second["ETH-PERP"] is kept
    assert second["BTC-PERP"].at == at("00:02:00")


def test_a_symbol_is_absent_until_its_first_row(recorded):
    market = recorded((BARS, bar("00:00:00")), (BARS, bar("00:01:00")), bar_seconds=60)
    assert market.marks(SYMBOLS, at("00:00:00")) == {}
    assert set(market.marks(SYMBOLS, market.advance())) == {"BTC-PERP"}
    assert set(market.marks(SYMBOLS, market.advance())) == {"BTC-PERP", "ETH-PERP"}
    assert market.advance() is None
    assert market.advance() is None


def test_a_trade_is_a_price_without_sizes(recorded):
    market = recorded((TRADES, "00:00:00.322,17,4,61800.30,0.006,buy"))
    mark = market.marks(SYMBOLS, market.advance())["BTC-PERP"]
    assert mark.price == mark.bid == mark.ask == Decimal("61800.30")
    assert (mark.bid_size, mark.ask_size, mark.candle) == (None, None, None)
    assert mark.at == at("00:00:00.322")


def test_a_quote_has_two_sides_and_their_mid(recorded):
    market = recorded((QUOTES, "00:00:00.5,17,61800.20,2.507,61800.30,2.5"))
    mark = market.marks(SYMBOLS, market.advance())["BTC-PERP"]
    assert mark.price == Decimal("61800.25")
    assert (mark.bid, mark.ask) == (Decimal("61800.20"), Decimal("61800.30"))
    assert (mark.bid_size, mark.ask_size) == (Decimal("2.507"), Decimal("2.5"))


@pytest.mark.parametrize("rows, moments", [
    # of one moment the newest counts
    (["00:00:01.5 2", "00:00:01.5 3", "00:00:02 4"], ["00:00:01 BTC 3", "00:00:02 BTC 4"]),
    # a little late: the clock stands still, and the row that came last counts
    (["00:00:01 2", "00:00:02 3", "00:00:01 4"],     ["00:00:01 BTC 2", "00:00:02 BTC 4"]),
    (["00:00:02 2", "00:00:01.5 3", "00:00:01 4", "00:00:03 5"],
     ["00:00:02 BTC 4", "00:00:03 BTC 5"]),
])
def test_trades_may_share_a_moment_and_be_a_little_late(recorded, rows, moments):
    trades = [f"{clock},1,1,{price},1,sell" for clock, price in map(str.split, rows)]
    assert told(recorded((TRADES, *trades))) == moments


def test_what_is_later_than_the_bound_is_a_bad_row(recorded):
    rows = ["00:00:02,1,1,5,1,buy", "00:00:00.999999,1,1,6,1,buy"]
    with pytest.raises(ConfigError, match="0.csv line 3: .*out of order"):
        recorded((TRADES, *rows)).advance()


@pytest.mark.parametrize("begin, end, ends", [
    (None,       None,       ["00:01:00", "00:02:00", "00:03:00", "00:04:00"]),
    ("00:01:00", None,       ["00:02:00", "00:03:00", "00:04:00"]),
    (None,       "00:02:00", ["00:01:00", "00:02:00"]),
    ("00:01:00", "00:02:00", ["00:02:00"]),
    ("00:09:00", None,       []),
])
def test_begin_and_end_choose_the_rows(recorded, begin, end, ends):
    file = (BARS, *(bar(f"00:0{minute}:00") for minute in range(4)))
    market = recorded(file, begin=begin and at(begin), end=end and at(end))
    assert [line[:8] for line in told(market)] == ends
    assert market.rows == len(ends)
    assert market.progress() == 1


def test_nothing_behind_the_end_is_read(recorded):
    file = (BARS, bar("00:00:00"), bar("00:01:00"), "nonsense,")
    assert len(told(recorded(file, end=at("00:01:00"), bar_seconds=60))) == 1


BAD_ROWS = [
    # header     the row that stands after one of 00:05:00     said of it
    (BARS,       "00:06:00,5,9,1,5",                           "5 columns instead of 6"),
    (BARS,       "00:06:00,5,9,1,5,2,2",                       "7 columns instead of 6"),
    (BARS,       "00:06:00,",                                  "2 columns instead of 6"),
    (BARS,       "00:06:00,5,9,1,NaN,2",                       "close 'NaN' is not a plain number"),
    (BARS,       "00:06:00,5,Infinity,1,5,2",                  "high 'Infinity'"),
    (BARS,       "00:06:00,5,9,1,5e0,2",                       "close '5e0'"),
    (BARS,       "00:06:00,-5,9,1,5,2",                        "open '-5'"),
    (BARS,       "00:06:00,+5,9,1,5,2",                        r"open '\+5'"),
    (BARS,       "00:06:00, 5,9,1,5,2",                        "open ' 5'"),
    (BARS,       "00:06:00,5_0,90,1,5,2",                      "open '5_0'"),
    (BARS,       "00:06:00,5.,9,1,5,2",                        r"open '5\.'"),
    (BARS,       "00:06:00,.5,9,0.1,5,2",                      r"open '\.5'"),
    (BARS,       "00:06:00,,9,1,5,2",                          "open ''"),
    (BARS,       "00:06:00,٥,9,1,5,2",                         "open '٥'"),
    (BARS,       "00:06:00,5,1234567890123456,1,5,2",          "high '1234567890123456'"),
    (BARS,       "00:06:00,5,9,1.1234567890123456789,5,2",     "low '1.1234567890123456789'"),
    (BARS,       "00:06:00,5,9,1,5,-2",                        "volume '-2'"),
    (BARS,       "00:06:00,5,9,0,5,2",                         "price is zero"),
    (BARS,       "00:06:00,5,4,1,3,2",                         "do not enclose"),
    (BARS,       "00:06:00,5,9,6,7,2",                         "do not enclose"),
    (BARS,       "00:06:00,3,4,1,5,2",                         "do not enclose"),
    (BARS,       "00:06:00,7,9,6,5,2",                         "do not enclose"),
    (BARS,       "00:05:00,5,9,1,5,2",                         "out of order or repeated"),
    (BARS,       "00:04:00,5,9,1,5,2",                         "out of order or repeated"),
    (BARS,       "00:05:59,5,9,1,5,2",                         "out of order or repeated"),
    (BARS,       "00:61:00,5,9,1,5,2",                         "minute must be in"),
    (BARS,       "0:06:00,5,9,1,5,2",                          "is not a UTC time"),
    (MARK_BARS,  "00:06:00,5,9,1,5,2",                         "6 columns instead of 5"),
    (MARK_BARS,  "00:06:00,5,4,1,3",                           "do not enclose"),
    (TRADES,     "00:06:00,1,1,0,1,buy",                       "price or size is zero"),
    (TRADES,     "00:06:00,1,1,5,0.0,buy",                     "price or size is zero"),
    (TRADES,     "00:06:00,1,1,5,1,hold",                      "taker_side 'hold'.*buy or sell"),
    (TRADES,     "00:06:00,1,x,5,1,buy",                       "trade_id 'x'.*whole number"),
    (TRADES,     "00:06:00,1.5,1,5,1,buy",                     "recv_ns '1.5'.*whole number"),
    (QUOTES,     "00:06:00,1,5,1,5,1",                         "bid 5 is not below ask 5"),
    (QUOTES,     "00:06:00,1,6,1,5,1",                         "bid 6 is not below ask 5"),
    (QUOTES,     "00:06:00,1,0,1,5,1",                         "something is zero"),
    (QUOTES,     "00:06:00,1,4,0,5,1",                         "something is zero"),
    (QUOTES,     "00:06:00,1,4,1,5,0",                         "something is zero"),
]
GOOD_ROWS = {
    BARS: "{},5,9,1,5,2.5", MARK_BARS: "{},5,9,1,5", TRADES: "{},1,1,5,1,buy",
    QUOTES: "{},1,4,1,6,1",
}


@pytest.mark.parametrize("header, row, said", BAD_ROWS)
def test_a_bad_row_is_refused_with_file_line_reason_and_way_out(recorded, header, row, said):
    file = (header, GOOD_ROWS[header].format("00:05:00"), row)
    with pytest.raises(ConfigError, match=rf"0\.csv line 3: .*{said}.*; .*--skip-bad-rows"):
        told(recorded(file, bar_seconds=60))


@pytest.mark.parametrize("header, row, said", BAD_ROWS)
def test_a_bad_row_is_skipped_and_counted_when_the_owner_says_so(recorded, header, row, said):
    good = [GOOD_ROWS[header].format(clock) for clock in ("00:05:00", "00:07:00")]
    market = recorded((header, good[0], row, good[1]), bar_seconds=60, skip_bad_rows=True)
    assert len(told(market)) == 2
    assert (market.rows, market.bad_rows) == (2, 1)


@pytest.mark.parametrize("time, good", [
    ("2026-11-23T00:06:00Z",             True),
    ("2026-11-23T00:06:00.123456Z",      True),
    ("2026-11-23 00:06:00+00:00",        True),
    ("2026-11-23T00:06:00",              False),  # naive
    ("2026-11-23T00:06:00+01:00",        False),
    ("2026-11-23",                       False),
    ("20261123T000600Z",                 False),
    ("1795392360",                       False),
    ("9999-12-31T23:59:59Z",             False),  # the end of the bar would overflow
    ("2026-02-30T00:06:00Z",             False),
])
def test_only_times_in_utc_are_good(tmp_path, time, good):
    path = tmp_path / "bars.csv"
    path.write_text(f"{BARS}\n{time},5,9,1,5,2\n")
    market = None
    try:
        market = RecordedMarket([path], ["BTC-PERP"], bar_seconds=60)
    except ConfigError as refusal:
        assert "bars.csv line 2" in str(refusal)
    assert (market is not None) is good


def test_skipped_rows_are_counted_once_also_where_the_bar_length_is_read(recorded):
    rows = [bar("00:00:00"), "00:01:00,", bar("00:01:00"), bar("00:01:00"), bar("00:02:00")]
    market = recorded((BARS, *rows), skip_bad_rows=True)
    assert [line[:8] for line in told(market)] == ["00:01:00", "00:02:00", "00:03:00"]
    assert (market.rows, market.bad_rows) == (3, 2)


def test_a_bad_row_does_not_move_the_clock(recorded):
    rows = ["00:00:01,1,4,1,6,1", "00:09:00,1,6,1,4,1", "00:00:02,1,4,1,6,1"]
    market = recorded((QUOTES, *rows), skip_bad_rows=True)
    assert [line[:8] for line in told(market)] == ["00:00:01", "00:00:02"]


GOOD_FILE = f"{BARS}\n2026-11-23T00:00:00Z,5,9,1,5,2\n".encode()
WHOLE_GZ = gzip.compress(GOOD_FILE + b"2026-11-23T00:01:00Z,5,9,1,5,2\n", mtime=0)


@pytest.mark.parametrize("name, content, said", [
    ("none.csv",    None,                                    "cannot be read: .*No such file"),
    ("empty.csv",   b"",                                     "header ''"),
    ("empty.csv.gz", b"",                                    "header ''"),
    ("header.csv",  BARS.encode(),                           "not one usable row"),
    ("other.csv",   b"date,price\n1,2\n",                    "header 'date,price' is none of"),
    ("space.csv",   GOOD_FILE.replace(b"\n", b" \n", 1),     "header 'time.*volume ' is none of"),
    ("fund.csv",    b"time,funding_rate\n",                  "header 'time,funding_rate' is"),
    ("plain.csv.gz", GOOD_FILE,                              "cannot be read: Not a gzipped file"),
    ("packed.csv",  gzip.compress(GOOD_FILE, mtime=0),                "cannot be read: .*decode"),
    ("cut.csv.gz",  WHOLE_GZ[:-12],                          "cannot be read: .*ended before"),
    ("flip.csv.gz", WHOLE_GZ[:-6] + b"\0" + WHOLE_GZ[-5:],   "cannot be read: CRC check failed"),
    ("body.csv.gz", WHOLE_GZ[:10] + b"\xff" * 40,            "cannot be read: .*invalid block"),
    ("latin.csv",   GOOD_FILE + b"2026-11-23T00:01:00Z,5,9,1,5,\xe9\n", "cannot be read: .*decode"),
    ("long.csv",    GOOD_FILE + b"7" * 10 * LINE_LENGTH_MAX, "line 3: over 1000 characters"),
    ("longhead.csv", b"time," * LINE_LENGTH_MAX,             "header 'time,"),
])
@pytest.mark.parametrize("skip", [False, True])
def test_a_file_that_cannot_be_used_is_named(tmp_path, name, content, said, skip):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=rf"{name}.*{said}") as refusal:
        market = RecordedMarket([path], ["BTC-PERP"], bar_seconds=60, skip_bad_rows=skip)
        while market.advance():
            pass
    assert len(str(refusal.value)) < 500


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ConfigError, match=f"{tmp_path} cannot be read: .*directory"):
        RecordedMarket([tmp_path], ["BTC-PERP"])


def test_a_file_of_bad_rows_only_is_of_no_use(recorded):
    with pytest.raises(ConfigError, match="not one usable row"):
        recorded((BARS, "00:00:00,", "00:01:00,"), bar_seconds=60, skip_bad_rows=True)


@pytest.mark.parametrize("write", [
    lambda path, text: path.write_text(text),
    lambda path, text: path.write_text(text.rstrip("\n")),
    lambda path, text: path.write_bytes(text.replace("\n", "\r\n").encode()),
    lambda path, text: path.with_suffix(".csv.gz").write_bytes(gzip.compress(text.encode())),
], ids=["plain", "no last line end", "line ends of Windows", "gz"])
def test_ways_to_write_the_same_file(tmp_path, write):
    write(tmp_path / "bars.csv", GOOD_FILE.decode() + "2026-11-23T00:01:00Z,6,9,1,6,2\n")
    market = RecordedMarket(list(tmp_path.iterdir()), ["BTC-PERP"])
    assert told(market) == ["00:01:00 BTC 5", "00:02:00 BTC 6"]


@pytest.mark.parametrize("files, symbols, funding", [
    ([],         [],                       []),
    (["a"],      [],                       []),
    (["a", "b"], ["BTC-PERP"],             []),
    (["a", "b"], ["BTC-PERP", "BTC-PERP"], []),
    (["a"],      ["BTC-PERP"],             ["f", "g"]),
])
def test_files_and_symbols_must_fit(files, symbols, funding):
    with pytest.raises(ConfigError, match=f"{len(files)} files, {len(symbols)} symbols"):
        RecordedMarket(files, symbols, funding)


def test_products_are_the_synthetic_ones_or_the_owners(recorded):
    file = (BARS, bar("00:00:00"))
    assert recorded(file, bar_seconds=60).products() == SYNTHETIC_PRODUCTS[:1]
    mine = [*SYNTHETIC_PRODUCTS][::-1]
    assert recorded(file, bar_seconds=60, products=mine).products() == SYNTHETIC_PRODUCTS[:1]
    with pytest.raises(ConfigError, match="'BTC-PERP'; choose of ETH-PERP"):
        recorded(file, bar_seconds=60, products=SYNTHETIC_PRODUCTS[1:2])


def test_a_recording_has_no_history_before_it_starts(recorded):
    market = recorded((BARS, bar("00:00:00")), bar_seconds=60)
    assert len(market.candles("BTC-PERP", 60, 20, market.advance())) == 0


def test_progress_and_rows_follow_the_reading(tmp_path):
    path = tmp_path / "bars.csv"
    rows = (f"{after(60 * n):%Y-%m-%dT%H:%M:%SZ},5,9,1,5,2\n" for n in range(5000))
    path.write_text(BARS + "\n" + "".join(rows))
    market = RecordedMarket([path], ["BTC-PERP"])
    for _ in range(2500):
        market.advance()
    assert Fraction(45, 100) < market.progress() < Fraction(60, 100)
    assert market.rows == 2501
    assert len(told(market)) == 2500
    assert (market.rows, market.progress()) == (5000, 1)


def test_a_long_recording_needs_no_more_memory_than_a_short_one(tmp_path):
    path = tmp_path / "bars.csv.gz"
    with gzip.open(path, "wt") as file:
        file.write(BARS + "\n")
        for n in range(20_000):
            file.write(f"{after(60 * n):%Y-%m-%dT%H:%M:%SZ},5,9,1,5,{n}\n")
    tracemalloc.start()
    market = RecordedMarket([path], ["BTC-PERP"])
    deque(iter(market.advance, None), maxlen=0)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert market.rows == 20_000
    assert peak < 400_000  # bytes; the rows themselves would need 20 times as much


# --- funding -------------------------------------------------------------------------------

RATES = ["00:00:00.017,0.0001", "01:00:00,-0.00025", "02:00:00.001,0"]


@pytest.mark.parametrize("clock, rate, since", [
    ("00:00:00",     None,       None),
    ("00:00:00.017", "0.0001",   "00:00:00.017"),
    ("00:59:59",     "0.0001",   "00:00:00.017"),
    ("01:00:00",     "-0.00025", "01:00:00"),
    ("02:00:00",     "-0.00025", "01:00:00"),
    ("23:00:00",     "0",        "02:00:00.001"),
])
def test_the_rate_is_the_newest_at_or_before_now(recorded, clock, rate, since):
    market = recorded((BARS, bar("00:00:00")), funding=[RATES], bar_seconds=60)
    found = market.funding("BTC-PERP", at(clock))
    assert (found and found.rate) == (rate and Decimal(rate))
    assert (found and found.at) == (since and at(since))


def test_a_symbol_without_a_funding_file_pays_none(recorded):
    files = (BARS, bar("00:00:00")), (BARS, bar("00:00:00"))
    market = recorded(*files, funding=[RATES], bar_seconds=60)
    assert market.funding("ETH-PERP", at("23:00:00")) is None


@pytest.mark.parametrize("rows, said", [
    (["00:00:00,0.1", "00:00:00,0.1"],       "line 3: .*out of order or repeated"),
    (["01:00:00,0.1", "00:59:59.999,0.1"],   "line 3: .*out of order or repeated"),
    (["00:00:00,0.1", "01:00:00,1e-4"],      "line 3: funding_rate '1e-4' is not a plain number"),
    (["00:00:00,0.1", "01:00:00,--0.1"],     "line 3: funding_rate '--0.1'"),
    (["00:00:00,"],                          "line 2: funding_rate ''"),
    (["00:00:00,0.1", "01:00:00,0.1,0.1"],   "line 3: 3 columns instead of 2"),
    ([],                                     "not one usable row"),
])
def test_a_bad_funding_row_is_refused(recorded, rows, said):
    with pytest.raises(ConfigError, match=rf"funding0\.csv:? ?{said}"):
        recorded((BARS, bar("00:00:00")), funding=[rows], bar_seconds=60).funding(
            "BTC-PERP", at("23:00:00"))


def test_a_bad_funding_row_is_skipped_and_counted_when_the_owner_says_so(recorded):
    rates = ["00:00:00,0.1", "00:30:00,x", "01:00:00,0.2"]
    market = recorded(
        (BARS, bar("00:00:00")), funding=[rates], bar_seconds=60, skip_bad_rows=True)
    assert market.funding("BTC-PERP", at("02:00:00")).rate == Decimal("0.2")
    assert market.bad_rows == 1


def test_prices_are_no_funding(tmp_path):
    path = tmp_path / "bars.csv"
    path.write_bytes(GOOD_FILE)
    with pytest.raises(ConfigError, match="bars.csv: header 'time,open.*of .'time,funding_rate"):
        RecordedMarket([path], ["BTC-PERP"], [path], bar_seconds=60)


# --- what was really recorded --------------------------------------------------------------


def run(names, funding=(), **options):
    """Run a market of real files to its end; return it, its moments and its last mark."""
    files, rates = ([DATA / name for name in chosen] for chosen in (names, funding))
    market = RecordedMarket(files, SYMBOLS[:len(files)], rates, **options)
    moments = list(iter(market.advance, None))
    assert all(earlier < later for earlier, later in pairwise(moments))
    return market, moments, market.marks(SYMBOLS, moments[-1])["BTC-PERP"]


@needs_data
@pytest.mark.parametrize("name, rows, moments, first, last", [
    ("perp-binance-1m-2025-05.csv.gz", 43198, 43198, "2025-05-04T15:34", "2025-06-03T15:31"),
    ("perp-binance-5m-2025-03.csv.gz", 10906, 10906, "2025-03-06T10:35", "2025-04-13T07:20"),
    ("perp-binance-mark-8h-2025.csv",  266,   266,   "2025-03-07T00:00", "2025-06-03T08:00"),
    ("perp-binance-2024-08-08-trades.csv.gz",
     21313, 5260,  "2024-08-08T23:54", "2024-08-08T23:59"),
    ("perp-binance-2024-08-08-quotes.csv.gz",
     66089, 34246, "2024-08-08T23:54", "2024-08-09T00:00"),
])
def test_every_kind_of_real_file_is_read_to_its_end(name, rows, moments, first, last):
    market, seen, _ = run([f"btcusdt-{name}"])
    assert (market.rows, market.bad_rows, len(seen)) == (rows, 0, moments)
    assert [f"{moment:%Y-%m-%dT%H:%M}" for moment in (seen[0], seen[-1])] == [first, last]
    assert market.progress() == 1


@needs_data
def test_ten_years_of_days_with_volumes_of_13_places_are_read_to_the_end():
    market, moments, _ = run(["btcusd-coinbase-1d-2015-2025.csv"])
    assert market.rows == len(moments) == 3718
    assert moments[-1] == datetime(2025, 9, 25, tzinfo=UTC)


@needs_data
def test_the_thin_market_of_2015_has_missing_minutes_and_one_minute_bars():
    _, moments, mark = run(
        ["btcusd-bitfinex-1m-2015.csv.gz"], end=datetime(2015, 1, 8, tzinfo=UTC))
    assert len(moments) < 7 * 24 * 60 * 0.95
    assert mark.at - mark.candle.opened_at == timedelta(minutes=1)


@needs_data
def test_four_real_symbols_run_on_one_clock_with_their_funding():
    coins = ["btc", "eth", "sol", "xrp"]
    market, moments, _ = run(
        [f"{coin}usdt-perp-binance-1m-2025-05.csv.gz" for coin in coins],
        [f"{coin}usdt-perp-binance-funding-2025.csv" for coin in coins],
        end=datetime(2025, 5, 7, tzinfo=UTC))
    assert {s: f"{m.price}" for s, m in market.marks(SYMBOLS, moments[-1]).items()} == {
        "BTC-PERP": "96798.9", "ETH-PERP": "1816.22", "SOL-PERP": "146.83", "XRP-PERP": "2.154"}
    newest = {f"{market.funding('BTC-PERP', moment).at:%d %H}" for moment in moments[60:]}
    assert sorted(newest) == ["04 16", "05 00", "05 08", "05 16", "06 00", "06 08", "06 16"]
    assert market.funding("XRP-PERP", moments[-1]).at <= moments[-1]


@needs_data
@pytest.mark.parametrize("name, rows", [
    ("btcusd-perp-dydx-funding-2022-2023.csv.gz",     17520),
    ("btcusdt-perp-binance-funding-2020-2023.csv",    4383),
    ("ethusdt-perp-binance-funding-2025.csv",         267),
])
def test_every_real_funding_file_is_read_to_its_end(name, rows):
    prices = DATA / "btcusdt-perp-binance-mark-8h-2025.csv"
    market = RecordedMarket([prices], ["BTC-PERP"], [DATA / name])
    moment, seen = datetime(2020, 1, 1, tzinfo=UTC), set()
    while moment < datetime(2026, 1, 1, tzinfo=UTC):
        moment += timedelta(hours=1)
        rate = market.funding("BTC-PERP", moment)
        seen.add(rate and rate.at)
    assert len(seen - {None}) == rows


# The cache of mark windows


CACHED_AT = datetime(2025, 5, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def cached(**changes):
    """What a cache of three closes tells, after a row of it was changed."""
    row = window_row("BTC-PERP", CACHED_AT, 60, [Decimal("100"), Decimal("1.5"), Decimal("7.25")])
    return cached_closes({"BTC-PERP": row | changes}, "BTC-PERP", MINUTE, CACHED_AT - MINUTE,
                         CACHED_AT + MINUTE)


def test_a_window_that_was_cached_comes_back_with_the_ends_of_its_bars():
    assert cached() == [(CACHED_AT - 2 * MINUTE, Decimal("100")),
                        (CACHED_AT - MINUTE, Decimal("1.5")), (CACHED_AT, Decimal("7.25"))]


@pytest.mark.parametrize("changes", [
    {"closes": ["900", "1.5", "7.25"]}, {"closes": ["100", "1.5"]}, {"closes": "100"},
    {"bar_at": "2025-05-01T11:59:00+00:00"}, {"bar_at": "2025-05-01T12:00:00"}, {"crc": 0},
    {"crc": None}, {"bar_seconds": "60"}, {"bar_seconds": 10**30},
])
def test_a_window_that_was_changed_is_none_I22(changes):
    """A14: garbage in a state file changes no decision."""
    assert cached(**changes) == []


@pytest.mark.parametrize("close", [
    "NaN", "sNaN", "Infinity", "1E2000011", "0", "0.00", "-5", "1_0", "١٢٣", " 5", "", 5, None,
    True, [0, [1], 5], "9" * 16])
def test_what_is_no_price_in_a_cache_is_none_even_with_a_crc_that_fits_G1_G2(close):
    """F8, A14: it would end the process at every start, as the file stays."""
    closes = ["100", close]
    crc = market_room._window_crc("BTC-PERP", {
        "bar_at": CACHED_AT.isoformat(), "bar_seconds": 60, "closes": closes})
    assert cached(closes=closes, crc=crc) == []


@pytest.mark.parametrize("row", [None, 3, [], {}, {"bar_at": "never"}, {"closes": None}])
@pytest.mark.parametrize("cache", [{}, None, []])
def test_what_is_no_cache_is_none(cache, row):
    cache = {**cache, "BTC-PERP": row} if isinstance(cache, dict) else cache
    assert cached_closes(cache, "BTC-PERP", MINUTE, CACHED_AT, CACHED_AT) == []
