"""docs/FAQ.md: its figures are what a replay of the recorded prices says."""

import csv
import gzip
import json
import os
import re
from decimal import Decimal
from pathlib import Path

import pytest

from perps_bot.cli import main
from perps_bot.settings import PROFILES

ROOT = Path(__file__).resolve().parent.parent
FAQ = (ROOT / "docs/FAQ.md").read_text("utf-8")
DATA = ROOT.parent / "shared" / "data"
IS_LONG = "PERPS_TEST_FAQ" in os.environ  # the long row is run too
COINS = ("btc", "eth", "sol", "xrp")
MONTH = [f"{coin}usdt-perp-binance-1m-2025-05.csv.gz" for coin in COINS]
SYMBOLS = [word for coin in COINS for word in ("--symbol", f"{coin.upper()}-PERP")]
RATES = [f"{coin}usdt-perp-binance-funding-2025.csv" for coin in COINS]
HEAD = "| prices | bars | profile | round trips | fees | return |"
RUNS = {
    # prices and bars of a row: files, funding, more arguments
    ("BTC, 4 May to 3 June 2025", "1 minute"): (MONTH[:1], RATES[:1], []),
    ("BTC, 4 to 8 May 2025", "1 minute"): (MONTH[:1], RATES[:1], ["--to", "2025-05-08"]),
    ("BTC, 4 May to 3 June 2025", "1 hour"): (MONTH[:1], RATES[:1], []),
    ("BTC, 6 March to 13 April 2025", "1 hour"): (
        ["btcusdt-perp-binance-5m-2025-03.csv.gz"], RATES[:1], []),
    ("BTC, January 2022", "1 hour"): (["btc-perp-1m-2022-01.csv.gz"], [], []),
    ("BTC, ETH, SOL, XRP, 4 May to 3 June 2025", "1 hour"): (MONTH, RATES, SYMBOLS),
    ("BTC, 2020 to September 2025", "1 day"): (
        ["btcusd-coinbase-1d-2015-2025.csv"], [], ["--from", "2020-01-01"]),
}
ROWS = [tuple(cell.strip() for cell in row.strip("|").split("|"))
        for row in FAQ.partition(HEAD)[2].split("\n\n")[0].splitlines()[2:]]

pytestmark = [
    pytest.mark.skipif(not DATA.exists(), reason="the recorded data is not in ../shared"),
    pytest.mark.usefixtures("no_settings_of_the_tester"),
]


def hourly(source, target):
    """Candles of an hour made of shorter ones."""
    hours = {}
    with gzip.open(source, "rt") as file:
        for time, *prices in csv.reader(file):
            hours.setdefault(time[:13], []).append(prices)
    del hours["time"]
    rows = ["time,open,high,low,close\n"]
    for hour, candles in hours.items():
        _, highs, lows, *_ = zip(*candles)
        rows.append(f"{hour}:00:00Z,{candles[0][0]},{max(highs, key=Decimal)},"
                    f"{min(lows, key=Decimal)},{candles[-1][3]}\n")
    target.write_text("".join(rows))
    return target


@pytest.fixture(scope="module")
def hours(tmp_path_factory):
    """Makes the hourly candles of a file, once."""
    place = tmp_path_factory.mktemp("hours")

    def made(name):
        target = place / f"{name}.csv"
        return target if target.exists() else hourly(DATA / name, target)

    return made


def result(capsys, files, funding, more, *arguments):
    rates = [word for name in funding for word in ("--funding", str(DATA / name))]
    assert main(["replay", *map(str, files), *rates, *more, *arguments, "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_each_row_of_the_table_is_one_of_these_runs():
    assert len(ROWS) == 8 and {row[:2] for row in ROWS} == set(RUNS)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: ", ".join(row[:3]))
def test_a_row_is_what_the_replay_says(row, hours, capsys):
    prices, bars, profile, trips, fees, gain = row
    files, funding, more = RUNS[prices, bars]
    if (bars, more) == ("1 minute", []) and not IS_LONG:
        pytest.skip("a month of minutes takes a while: set PERPS_TEST_FAQ=1")
    made = [hours(name) if bars == "1 hour" else DATA / name for name in files]
    said = result(capsys, made, funding, more, "--profile", profile)
    assert f"{said['trades']:,}" == trips
    assert f"{Decimal(said['fees']):,.2f}" == fees
    assert f"{Decimal(said['return_pct']):.2%}" == gain


def test_the_words_about_the_table_are_true_of_it(hours, capsys):
    gains = [Decimal(row[5].rstrip("%")) for row in ROWS]
    assert sum(gain < 0 for gain in gains) == 6 and "six of eight runs lose" in FAQ
    assert gains[6] == max(gains) and f"{gains[7]} % is what daily bars brought" in FAQ
    free = result(capsys, [hours(MONTH[0])], RATES[:1], [], "--fee-rate", "0",
                  "--fee-per-contract", "0")
    told = re.search(r"Without any fee the third row would have ended at (.+?%)", FAQ)[1]
    assert f"{Decimal(free['return_pct']):.2%}" == told
    trips, a_day = int(ROWS[0][3].replace(",", "")), re.search(r"(\d+)\nround trips a day", FAQ)[1]
    assert round(trips / 30) == int(a_day)
    assert [PROFILES[name]["bar"] for name in ("dev", "demo", "prod")] == [60, 3600, 3600]
