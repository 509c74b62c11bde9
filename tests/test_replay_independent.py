"""The replay, computed again in plain lines that share no code with the bot."""

import csv
import gzip
import json
from decimal import Decimal
from pathlib import Path

import pytest

from perps_bot.cli import main

DATA = Path(__file__).parents[2] / "shared" / "data"
FILES = ("btcusdt-perp-binance-5m-2025-03.csv.gz", "btcusdt-perp-binance-1m-2025-05.csv.gz")


def crossover(rows, contract=Decimal("0.01"), tick=Decimal(5)):
    """5/20 crossover, 1 % trailing stop, dev's limits: (fills, end equity)."""
    cash, held, entry, order, stop, side, cross, age, closes, fills = (
        Decimal(10000), Decimal(0), Decimal(0), None, None, 0, 0, 0, [], [])

    def fill(quantity, price):
        nonlocal cash, held, entry
        cash += -held * (entry - price) if held else 0
        size = abs(quantity)
        cash -= size * price * Decimal("0.001") + size / contract * Decimal("0.15")
        held, entry = held + quantity, price
        fills.append((quantity, price))

    for opened, high, low, close in rows:
        if order:  # what was decided on the last close fills at this open
            fill(order, opened)
            best, stop, order = opened, None, None
            cross = cross if not held else 0
        if held and stop and low <= stop:  # at the worse of the stop's level and the open
            fill(-held, min(stop, opened))
            stop = None
        if held:
            best = max(best, close)
            trail = best * Decimal("0.99") // tick * tick
            stop = trail if stop is None or trail - stop >= stop * Decimal("0.002") else stop
        closes = [*closes[-19:], close]
        lean = (sum(closes[-5:]) * 4 > sum(closes)) - (sum(closes[-5:]) * 4 < sum(closes))
        if len(closes) == 20:
            age += 1
            if lean and lean != side:
                side, cross, age = lean, lean if side else 0, 0
            if held and (side < 0 or close <= stop):
                order, stop = -held, None
            elif not held and cross > 0 and age < 3:
                equity = cash
                most = min(equity * Decimal("0.2") * 2, Decimal(10000))
                order = most // (close * contract) * contract or None
    return fills, cash + held * (close - entry)


@pytest.mark.parametrize("name", FILES)
def test_the_replay_gets_the_trades_and_the_profit_of_twenty_plain_lines(name, tmp_path, capsys):
    path = DATA / name
    if not path.exists():
        pytest.skip(f"recorded data {path.name} is not here")
    with gzip.open(path, "rt") as file:
        rows = [tuple(map(Decimal, row[1:5])) for row in list(csv.reader(file))[1:]]
    expected, equity = crossover(rows)
    code = main(["replay", str(path), "--json", "--trades", str(tmp_path / "trades.csv")])
    report = json.loads(capsys.readouterr().out)
    with open(tmp_path / "trades.csv") as file:
        trades = [(Decimal(t["quantity"]) * (1 if t["side"] == "buy" else -1), Decimal(t["price"]))
                  for t in csv.DictReader(file)]
    assert code == 0
    assert len(expected) > 100
    assert trades == expected
    assert Decimal(report["end_equity"]) == equity
