"""The report says what the events say: to the last digit, all of it, and nothing else."""

import csv
import json
import os
import random
import shutil
import stat
import subprocess
import sys
import zlib
from collections import Counter, defaultdict
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import browser
import pytest

from helpers import the_settings
from perps_bot import history as history_room
from perps_bot.cli import main
from perps_bot.drift import drift_lines, measure
from perps_bot.history import STRETCHES_MAX, History, Thinned
from perps_bot.market import RecordedMarket
from perps_bot.model import Position
from perps_bot.outputs import cell
from perps_bot.replay import replay
from perps_bot.report import Reading, days_in, told
from perps_bot.score import Figures
from perps_bot.store import EventStore, read_events
from perps_bot.tracker import PositionTracker

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT.parent / "shared" / "data"
MAY = datetime(2025, 5, 1, tzinfo=UTC)
ZERO = Decimal(0)
HOSTILE = "</script><img src=x onerror=\"document.title='owned'\"><b>&amp;"


def candles(path, prices):
    rows = [f"{MAY + timedelta(minutes=10 * n):%Y-%m-%dT%H:%M:%SZ},{p},{p + 9},{p - 9},{p}\n"
            for n, p in enumerate(prices)]
    path.write_text("time,open,high,low,close\n" + "".join(rows))
    return str(path)


def saw(seed, base, step):
    """Prices that rise and fall in turns of their own length."""
    dice, price = random.Random(seed), base
    while True:
        for sign in (1, -1):
            for _ in range(dice.randint(15, 60)):
                price += sign * step * dice.randint(0, 3)
                yield price


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """Four days of two symbols, as `replay` recorded and as it scored them."""
    place = tmp_path_factory.mktemp("ran")
    files = [candles(place / f"{name}.csv", [next(prices) for _ in range(600)])
             for name, prices in (("btc", saw(1, 80_000, 40)), ("eth", saw(2, 3_000, 3)))]
    rates = "".join(f"{MAY + timedelta(hours=h):%Y-%m-%dT%H:%M:%SZ},0.0003\n"
                    for h in range(1, 90, 8))
    (place / "rates.csv").write_text("time,funding_rate\n" + rates)
    settings = the_settings(symbols=("BTC-PERP", "ETH-PERP"), enable_shorts=True)
    market = RecordedMarket(files, settings.symbols, [str(place / "rates.csv")] * 2)
    events, trades = place / "events", place / "trades.csv"
    return events, replay(market, settings, events, trades)


@pytest.fixture
def events(ran, tmp_path):
    return shutil.copytree(ran[0], tmp_path / "events")


@pytest.fixture(scope="module")
def said(ran):
    """What `report --json` prints, numbers as they are written."""
    run = subprocess.run([sys.executable, "-P", "-m", "perps_bot", "report", ran[0], "--json"],
                         env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True,
                         text=True, check=True)
    return json.loads(run.stdout)


def folded(folder, begin=None, end=None):
    return told(Reading(folder, begin, end), is_told=True)


def lines_of(folder):
    for path in sorted(folder.glob("*.jsonl")):
        yield from map(json.loads, path.read_text().splitlines())


def tree(folder):
    """Names, contents, modes and times of all below."""
    return {str(path): (path.read_bytes() if stat.S_ISREG(path.lstat().st_mode) else b"",
                        path.lstat().st_mode, path.lstat().st_mtime_ns)
            for path in [folder, *folder.rglob("*")]}


# The figures


def test_the_figures_are_those_that_the_replay_printed(ran):
    figures, result = folded(ran[0]).figures(), ran[1]
    for name in Figures.__dataclass_fields__:
        assert getattr(figures, name) == getattr(result, name), name
    assert figures.trades > 20 and figures.funding and figures.win_rate


@pytest.mark.skipif(not DATA.exists(), reason="the recorded files are not in ../shared")
def test_the_figures_of_recorded_days_are_those_that_the_replay_printed(tmp_path):
    settings = the_settings()
    market = RecordedMarket(
        [str(DATA / "btcusdt-perp-binance-5m-2025-03.csv.gz")], settings.symbols,
        [str(DATA / "btcusdt-perp-binance-funding-2025.csv")], None,
        datetime(2025, 3, 8, tzinfo=UTC), datetime(2025, 3, 11, tzinfo=UTC))
    result = replay(market, settings, tmp_path / "events")
    figures = folded(tmp_path / "events").figures()
    assert all(getattr(figures, name) == getattr(result, name)
               for name in Figures.__dataclass_fields__)
    assert figures.trades > 10


def test_a_fold_of_its_own_over_the_lines_finds_the_same_money(ran, said):
    """Cash in and out, counted from the text: no book, no average, no code of ours."""
    cash, held, marks = defaultdict(Decimal), defaultdict(Decimal), {}
    fees, funding, fills = defaultdict(Decimal), defaultdict(Decimal), 0
    for line in lines_of(ran[0]):
        symbol = line.get("symbol")
        if line["type"] == "trade.executed":
            signed = Decimal(line["quantity"]) * (1 if line["side"] == "buy" else -1)
            cash[symbol] -= signed * Decimal(line["price"])
            held[symbol] += signed
            fees[symbol] += Decimal(line["fee"])
            fills += 1
        elif line["type"] == "funding.paid":
            funding[symbol] += Decimal(line["amount"])
        elif line["type"] == "strategy.signal":
            marks[symbol] = Decimal(line["mark_price"])
    net = {s: cash[s] + held[s] * marks[s] - fees[s] - funding[s] for s in marks}
    assert {row["symbol"]: Decimal(row["net_pnl"]) for row in said["by_symbol"]} == net
    assert Decimal(said["figures"]["end_equity"]) == 10_000 + sum(net.values())
    assert Decimal(said["figures"]["fees"]) == sum(fees.values())
    assert Decimal(said["figures"]["funding"]) == sum(funding.values())
    assert sum(row["fills"] for row in said["slippage"]) == fills == sum(
        row["measured"] for row in said["slippage"])


def test_what_symbols_days_hours_and_trades_earned_adds_up_to_the_change_of_equity(ran):
    history = folded(ran[0])
    figures = history.figures()
    gain = figures.end_equity - figures.start_equity
    assert gain
    assert sum(row["net_pnl"] for row in history.by_symbol()) == gain
    assert sum(row["pnl"] for row in history.days.values()) == gain
    assert sum(history.hours.values()) == gain
    assert sum(worth(trip, history.books) for trip in history.trips) == gain
    assert [t for t in history.trips if t.row()["net_pnl"] is None] and history.books.positions()
    assert max(value for _, value in history.drawdown.points()) == figures.max_drawdown_pct
    assert history.equity.points()[-1][1] == figures.end_equity


def worth(trip, books):
    """What a trade earned so far, with what it still holds at the mark."""
    trip, mark = trip.round, books.get_position(trip.round.symbol).mark_price
    return (trip.left - trip.entered + trip.held * mark) * trip.side.sign - trip.fees - trip.funding


@pytest.mark.parametrize("cut", [MAY + timedelta(days=2), MAY + timedelta(days=1, hours=7)])
def test_two_ranges_that_touch_make_up_the_whole(ran, cut):
    first, second, whole = folded(ran[0], end=cut), folded(ran[0], cut), folded(ran[0])
    a, b, all_ = first.figures(), second.figures(), whole.figures()
    assert a.end < cut <= b.start and a.end_equity == b.start_equity
    for name in ("realized_pnl", "unrealized_pnl", "fees", "funding", "halts"):
        assert getattr(a, name) + getattr(b, name) == getattr(all_, name), name
    carried = [trip.row() for trip in second.trips if trip.is_carried]
    assert {row["symbol"]: row["side"] for row in carried} == {
        s: "long" if p.quantity > 0 else "short" for s, p in first.books.positions().items()}
    assert a.trades + b.trades == all_.trades


def test_a_position_that_the_venue_moved_ends_one_trade_and_begins_another(tmp_path):
    store = EventStore(tmp_path / "events", MAY)
    store.open_day(MAY.date(), {}, equity=Decimal(1000))
    books = PositionTracker(store)
    store.append("bot.started", profile="prod", broker="coinbase", equity=Decimal(1000))
    books.update_position("BTC-PERP", Decimal(2), Decimal(100))
    books.adopt("reconcile.mismatch", Position("BTC-PERP", Decimal(-1), Decimal(90), Decimal(95)))
    history = folded(tmp_path / "events")
    closed, now = [trip.row() for trip in history.trips]
    assert (closed["side"], closed["net_pnl"], closed["exit_reason"]) == (
        "long", ZERO, "reconcile.mismatch")
    assert (now["side"], now["quantity"], now["entry_price"]) == ("short", 1, 95)
    assert "without a fill" in history.trips[0].story()[-2]


def test_slippage_is_measured_against_what_was_wanted():
    history = History()
    feed(history, order("e", "entry", mark="100"), fill("e", "entry", "buy", "101", mark="100"),
         order("s", "stop", stop="95", limit="120", mark="101"),
         fill("s", "stop", "sell", "94", mark="101"))
    entry, stop = history.slippage["entry"], history.slippage["stop"]
    assert (entry.cost, entry.notional) == (1, 100)
    assert (stop.cost, stop.notional) == (1, 95)  # not 7: what was wanted is its level
    feed(history, fill("x", "exit", "buy", "94", mark=None))
    assert (history.slippage["exit"].fills, history.slippage["exit"].measured) == (1, 0)


def feed(history, *rows):
    """Have `history` fold events that the store numbers."""
    store = EventStore()
    store.subscribe(history.apply)
    store.now = MAY
    if not history.events:
        store.append("day.opened", day=date(2025, 5, 1), equity="1000", snapshot={})
        store.append("bot.started", profile="dev", broker="replay", equity="1000")
    for kind, data in rows:
        store.append(kind, **data)


def order(identity, purpose, mark=None, stop=None, limit=None):
    return "order.intended", dict(
        client_order_id=identity, symbol="BTC-PERP", side="buy", quantity="1", purpose=purpose,
        order_type="market", limit_price=limit, stop_price=stop, time_in_force="IOC",
        reason="why", mark_price=mark)


def fill(identity, purpose, side, price, mark):
    return "trade.executed", dict(
        fill_id=f"{identity}-fill", client_order_id=identity, symbol="BTC-PERP", side=side,
        quantity="1", price=price, fee="0", filled_at=MAY.isoformat(), purpose=purpose,
        reason="why", is_liquidation=False, mark_price=mark)


# The curve, the trades, the stories


def test_a_thinned_curve_is_bounded_and_keeps_ends_minima_and_maxima():
    dice, curve, values = random.Random(5), Thinned(), []
    for n in range(20_011):
        values.append((MAY + timedelta(seconds=n), Decimal(dice.randint(0, 10**9))))
        curve.add(*values[-1])
    points = curve.points()
    assert STRETCHES_MAX / 2 < len(points) <= 2 * (STRETCHES_MAX + 1) + 2
    assert points == sorted(points) and set(points) <= set(values)
    assert (points[0], points[-1]) == (values[0], values[-1])
    size = 64  # 20,011 points in at most 601 stretches whose size is a power of two
    for n in range(0, len(values) - size, size):
        stretch = values[n:n + size]
        assert min(stretch, key=lambda point: point[1]) in points
        assert max(stretch, key=lambda point: point[1]) in points


def test_a_short_curve_is_kept_whole():
    curve = Thinned()
    for n in range(STRETCHES_MAX):
        curve.add(MAY + timedelta(seconds=n), Decimal(n))
    assert len(curve.points()) == STRETCHES_MAX


def test_only_the_newest_trades_are_kept_and_the_table_has_all(ran, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(history_room, "TRIPS_MAX", 5)
    assert main(["report", str(ran[0]), "--json", "--csv", str(tmp_path / "all.csv")]) == 0
    said = json.loads(capsys.readouterr().out)
    rows = list(csv.DictReader((tmp_path / "all.csv").open()))
    assert len(said["trips"]) == 5 and said["trips_begun"] == len(rows) > 20
    assert sorted(int(row["number"]) for row in rows) == list(range(1, len(rows) + 1))
    assert said["trips"][-1]["number"] == len(rows)


def test_funding_that_comes_late_is_in_the_trade_that_the_table_has(ran, tmp_path, said):
    assert main(["report", str(ran[0]), "--csv", str(tmp_path / "trades.csv")]) == 0
    rows = {int(row["number"]): row for row in csv.DictReader((tmp_path / "trades.csv").open())}
    for trip in said["trips"]:
        assert rows[trip["number"]]["funding"] == trip["funding"]
        assert rows[trip["number"]]["net_pnl"] == (trip["net_pnl"] or "")
    assert any(Decimal(trip["funding"]) for trip in said["trips"])


def test_a_trade_tells_its_story_in_the_order_in_which_it_happened(said):
    stopped = next(t for t in said["trips"] if t["exit_reason"] == "protective stop")
    story = " | ".join(stopped["story"])
    places = [story.index(words) for words in (
        "wants to ", "short average", "will send entry order", "(entry), fee", "rests at the venue",
        "was filled at", "Result: ")]
    assert places == sorted(places)
    turned = next(t for t in said["trips"] if t["exit_reason"].startswith("averages turned"))
    assert "wants to close at " in " ".join(turned["story"])
    assert stopped["stops"]


def test_a_long_story_keeps_its_beginning_and_its_end():
    history = History()
    feed(history, order("e", "entry", mark="100"), fill("e", "entry", "buy", "100", mark="100"),
         *[("stop.moved", dict(symbol="BTC-PERP", client_order_id="s", quantity="1",
                               stop_price=str(n), seconds_unprotected=0)) for n in range(1, 200)])
    (trip,) = history.trips
    story = trip.story()
    assert len(story) <= history_room.STEPS_MAX + 2 and "steps between are left out" in story[-3]
    assert story[0].endswith("market: why") and "moved to 199" in story[-2]
    assert len(trip.stops) <= history_room.STEPS_MAX and trip.stops[-1][1] == 199


def test_refused_orders_are_counted_by_code():
    history = History()
    feed(history, ("risk.rejected", {"symbol": "BTC-PERP", "codes": ["A", "B"]}),
         ("risk.rejected", {"symbol": "BTC-PERP", "codes": ["A"]}))
    history.close()
    assert history.figures().refusals == {"A": 2, "B": 1}


def test_halts_are_those_of_a_risk_limit():
    history = History()
    feed(history, *[("state.changed", dict(kind=kind, state=state, reason="", before="TRADING"))
                    for kind, state in (("daily_loss", "REDUCING"), ("daily_loss", "TRADING"),
                                        ("settings", "REDUCING"), ("operator", "HALTED"))])
    history.close()
    assert history.figures().halts == 1


# What is printed


def test_the_text_fits_a_terminal_of_80_columns(ran, capsys):
    assert main(["report", str(ran[0])]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line for line in lines[2:] if len(line) > 80] == []  # a folder's name may be longer
    for title in ("P&L by symbol", "P&L by day", "P&L by hour", "slippage", "trades: ",
                  "refused orders", "paper versus live: not measured", "Sharpe"):
        assert any(line.startswith(title) for line in lines), title


def test_files_that_were_written_are_named_and_nothing_else_is_printed(ran, tmp_path, capsys):
    target = tmp_path / "t.csv"
    main(["report", str(ran[0]), "--csv", str(target)])
    assert capsys.readouterr().out == f"written: {target}\n"
    main(["export", str(ran[0]), "--csv", "fills", f"{target}2"])
    assert capsys.readouterr().out == f"written: fills to {target}2\n"


def test_progress_is_told_day_by_day(ran):
    seen = []
    told(Reading(ran[0], progress=seen.append))
    assert seen == [Decimal(n) / 5 for n in range(5)]


def test_a_clock_that_steps_back_a_little_spoils_nothing():
    history = History()
    feed(history, fill("e", "entry", "buy", "100", mark="100"))
    store = EventStore()
    store.subscribe(history.apply)
    for minutes in (10, 9, 20):
        store.now = MAY + timedelta(minutes=minutes)
        store.append("funding.rate", symbol="BTC-PERP")
    history.close()
    figures = history.figures()
    assert figures.exposure == 1 and figures.end == MAY + timedelta(minutes=20)
    times = [at for at, _ in history.equity.points()]
    assert times == sorted(times)


def test_time_that_steps_back_after_a_trade_of_yesterday_spoils_nothing():
    history = History()
    feed(history, fill("e", "entry", "buy", "100", mark="100"))
    store = EventStore()
    store.subscribe(history.apply)
    yesterday = (MAY - timedelta(minutes=1)).isoformat()
    left = {**fill("x", "exit", "sell", "100", mark="100")[1], "filled_at": yesterday}
    for minutes, kind, data in ((10, "alert", {}), (20, "alert", {}), (15, "trade.executed", left)):
        store.now = MAY + timedelta(minutes=minutes)
        store.append(kind, **data)
    history.close()
    times = [at for at, _ in history.equity.points()]
    assert times == sorted(times) and history.figures().end == MAY + timedelta(minutes=20)


@pytest.mark.parametrize("is_told", [True, False])
def test_what_is_read_briefly_amounts_to_the_same(ran, is_told):
    """Every field parsed, each moment and curve kept: and only what is asked for."""
    plain, points = History(), [[], []]
    plain._on_point = lambda *point: points[0].append(point)
    for event in read_events(ran[0]):
        plain.apply(event)
    plain.close()
    quick = History(on_point=lambda *point: points[1].append(point), is_told=is_told)
    for event in Reading(ran[0]):
        quick.apply(event)
    quick.close()
    assert repr(quick.figures()) == repr(plain.figures()) and points[0] == points[1]
    for name in ("days", "hours", "slippage", "events", "trips_begun"):
        assert repr(getattr(quick, name)) == repr(getattr(plain, name)), name
    assert repr([t.row() for t in quick.trips]) == repr([t.row() for t in plain.trips])
    if is_told:
        assert [t.story() for t in quick.trips] == [t.story() for t in plain.trips]
        for name in ("equity", "drawdown"):
            assert repr(getattr(quick, name).points()) == repr(getattr(plain, name).points())
        assert {s: c.points() for s, c in quick.prices.items()} == {
            s: c.points() for s, c in plain.prices.items()}


def test_the_json_is_one_object_with_every_digit(ran, said):
    assert Decimal(said["figures"]["end_equity"]) == ran[1].end_equity
    assert isinstance(said["figures"]["end_equity"], str) and said["whole"] is True


@pytest.mark.parametrize("kind, count", [
    ("fills", lambda types: types["trade.executed"]), ("funding", lambda t: t["funding.paid"]),
    ("events", lambda types: types.total()), ("equity", None), ("trades", None)])
def test_a_table_has_what_the_events_have(kind, count, ran, tmp_path):
    target = tmp_path / "table.csv"
    assert main(["export", str(ran[0]), "--csv", kind, str(target)]) == 0
    rows, lines = list(csv.DictReader(target.open())), list(lines_of(ran[0]))
    assert target.stat().st_mode & 0o777 == 0o600
    assert os.listdir(tmp_path) == ["table.csv"]
    if count:
        assert len(rows) == count(Counter(line["type"] for line in lines))
    if kind == "fills":
        fills = [line for line in lines if line["type"] == "trade.executed"]
        assert [row["fee"] for row in rows] == [line["fee"] for line in fills]
    if kind == "equity":
        assert Decimal(rows[-1]["equity"]) == ran[1].end_equity
        assert len(rows) == len({line["ts"] for line in lines})


def test_a_table_of_a_range_has_only_that_range(ran, tmp_path):
    main(["export", str(ran[0]), "--from", "2025-05-02T06:00", "--to", "2025-05-03",
          "--csv", "events", str(tmp_path / "e.csv")])
    times = [row["time"] for row in csv.DictReader((tmp_path / "e.csv").open())]
    assert min(times) >= "2025-05-02T06:00" and max(times) < "2025-05-03" and times


@pytest.mark.parametrize("value, shown", [
    ("=1+1", "'=1+1"), ("+1", "'+1"), ("-1", "'-1"), ("@x", "'@x"), ("a=1", "a=1"),
    ("\t=1", "\\t=1"), ("a\nb", "a\\nb"), (Decimal("-0.10"), "-0.10"), (Decimal("1E-9"),
     "0.000000001"), (None, ""), (7, "7"), (MAY, "2025-05-01T00:00:00+00:00"),
])
def test_a_cell_is_data_and_never_a_formula(value, shown):
    assert cell(value) == shown


# Which events


def a_profile(tmp_path, monkeypatch, ran, *kinds):
    root = tmp_path / "data" / "perps_bot" / "prod"
    for kind in kinds:
        shutil.copytree(ran[0], root / kind)
    monkeypatch.chdir(tmp_path)
    return root


@pytest.mark.parametrize("kinds, flags, folder, note", [
    (["events"], [], "events", None),
    (["events", "paper-events"], [], "events", "there are paper-events too: take --dry-run"),
    (["events", "paper-events"], ["--dry-run"], "paper-events", "leave --dry-run out"),
    (["paper-events"], [], "paper-events", "there are no real orders"),
    (["paper-events"], ["--dry-run"], "paper-events", None),
])
def test_it_says_which_events_were_taken(kinds, flags, folder, note, tmp_path, monkeypatch, ran,
                                         capsys):
    a_profile(tmp_path, monkeypatch, ran, *kinds)
    assert main(["report", "--profile", "prod", "--json", *flags]) == 0
    said = json.loads(capsys.readouterr().out)
    assert Path(said["folder"]).name == folder
    assert note in " ".join(said["notes"]) if note else said["notes"] == []


def test_paper_that_did_the_same_has_no_drift(tmp_path, monkeypatch, ran, capsys):
    a_profile(tmp_path, monkeypatch, ran, "events", "paper-events")
    main(["report", "--profile", "prod"])
    lines = capsys.readouterr().out.splitlines()
    at = lines.index("paper versus live: 5 days measured, as live/paper")
    assert "same decisions 286 of 286" in lines[at + 1]


def test_drift_shows_the_first_decision_that_differs(ran, tmp_path):
    settings = the_settings(symbols=("BTC-PERP", "ETH-PERP"), short_ma_period=2)
    files = [str(ran[0].parent / f"{name}.csv") for name in ("btc", "eth")]
    replay(RecordedMarket(files, settings.symbols), settings, tmp_path / "paper-events")
    drift = measure(ran[0], tmp_path / "paper-events", days_in(ran[0])[:1], is_paper=False)
    (row,) = drift["days"]
    assert len(list(drift_lines(drift))) == 3
    decided = [{(line["memory"]["bar_at"], line["symbol"]): line["action"]
                for line in lines_of(folder) if line["type"] == "strategy.signal"
                and line["took_bar"] and line["ts"] < "2025-05-02"}
               for folder in (ran[0], tmp_path / "paper-events")]
    differ = sorted(key for key in decided[0] if decided[0][key] != decided[1][key])
    assert row["compared"] - row["same"] == len(differ) > 0
    assert row["first_difference"].startswith(" ".join(differ[0]) + ": live ")
    assert row["live_fills"] != row["paper_fills"]


def test_what_cannot_be_read_of_the_other_kind_is_not_measured(ran, tmp_path):
    other = shutil.copytree(ran[0], tmp_path / "paper-events")
    spoil(other, "damaged")
    newer(other)
    drift = measure(ran[0], other, days_in(ran[0]), is_paper=False)
    assert [row["day"] for row in drift["days"]] == ["2025-05-03", "2025-05-04", "2025-05-05"]
    assert "use the version that wrote it" in drift["why"] and "line 41" in drift["why"]


def test_drift_of_days_that_only_one_has_is_not_measured(ran, tmp_path):
    other = tmp_path / "paper-events"
    other.mkdir()
    drift = measure(ran[0], other, days_in(ran[0]), is_paper=False)
    assert drift == {"days": [], "why": "paper-events have no day of this range"}


# What cannot be read, and what must not be touched


@pytest.mark.parametrize("command", [
    ["report"], ["report", "--json"], ["report", "--html", "out.html", "--csv", "out.csv"],
    ["export", "--csv", "events", "out.csv"]])
@pytest.mark.parametrize("state", ["whole", "torn", "damaged"])
def test_no_byte_of_what_is_read_is_changed(command, state, tmp_path, monkeypatch, ran):
    pytest.importorskip("plotly", reason="the extra `report` is not installed")
    root = a_profile(tmp_path, monkeypatch, ran, "events", "paper-events")
    spoil(root / "events", state)
    before = tree(tmp_path / "data")
    assert main([*command, "--profile", "prod"]) == (3 if state == "damaged" else 0)
    assert tree(tmp_path / "data") == before


def spoil(folder, state):
    paths = sorted(folder.glob("*.jsonl"))
    if state == "torn":
        with paths[-1].open("ab") as file:
            file.write(b'{"seq":99')
    if state == "damaged":
        text = paths[1].read_bytes().splitlines(keepends=True)
        paths[1].write_bytes(b"".join([*text[:40], text[40].replace(b"PERP", b"PREP"), *text[41:]]))


def test_a_damaged_day_is_reported_up_to_the_damage_and_that_is_said(events, capsys):
    spoil(events, "damaged")
    assert main(["report", str(events), "--json"]) == 3
    printed = capsys.readouterr()
    said = json.loads(printed.out)
    (note,) = said["notes"]
    assert "2025-05-02.jsonl line 41: does not follow the line before" in note
    assert "--from 2025-05-03 shows the rest" in note and note in printed.err
    assert said["figures"]["end"] < "2025-05-02T12" and not said["whole"]
    assert main(["report", str(events)]) == 3
    printed = capsys.readouterr()
    assert "! DAMAGED: " in printed.out and printed.err == ""  # said once
    assert main(["report", str(events), "--from", "2025-05-03"]) == 0


def test_a_day_that_is_missing_is_said(events, capsys):
    (events / "2025-05-02.jsonl").unlink()
    assert main(["report", str(events)]) == 3
    words = " ".join(capsys.readouterr().out.split())
    assert "2025-05-03.jsonl line 1: does not follow the line before" in words
    assert "--from 2025-05-03 shows the rest" in words
    assert main(["report", str(events), "--from", "2025-05-03"]) == 0


def test_an_unfinished_last_line_is_said(events, capsys):
    spoil(events, "torn")
    assert main(["report", str(events)]) == 0
    assert "2025-05-05.jsonl ends in 9 bytes of an unfinished line" in capsys.readouterr().out


def test_what_lies_in_quarantine_is_said(events, capsys):
    (events / "quarantine").mkdir()
    (events / "quarantine" / "2025-05-02.jsonl.12-34").write_text("what could not be used")
    main(["report", str(events)])
    assert "2025-05-02 was damaged once" in capsys.readouterr().out


def newer(events):
    body = (b'{"seq":1,"ts":"2025-05-01T00:00:00+00:00","type":"day.opened","schema":2,'
            b'"day":"2025-05-01","chain":"00000000","snapshot":{}')
    (events / "2025-05-01.jsonl").write_bytes(body + b',"crc":"%08x"}\n' % zlib.crc32(body))


def foreign(events):
    (events / "2025-05-01.jsonl").write_text("not ours\n")


def odd(events):
    shutil.rmtree(events)
    store = EventStore(events, MAY)
    store.open_day(MAY.date(), {}, equity=Decimal(1))
    store.append("bot.started", profile="dev", broker="replay", equity=Decimal(1))
    store.append("trade.executed", symbol="BTC-PERP", side="sideways")


def strange(events):
    """A decision of another version, which only the story of its trade reads."""
    shutil.rmtree(events)
    store = EventStore(events, MAY)
    store.open_day(MAY.date(), {}, equity=Decimal(1))
    store.append("bot.started", profile="dev", broker="replay", equity=Decimal(1))
    store.append("strategy.signal", symbol="BTC-PERP", action="buy", mark_price="1", equity="1",
                 reason="new")
    for type, data in (order("e", "entry"), fill("e", "entry", "buy", "100", mark="100")):
        store.append(type, **data)


def bare(events):
    shutil.rmtree(events)
    EventStore(events, MAY).open_day(MAY.date(), {})


def nameless(events):
    (events / "2025-99-99.jsonl").write_text("")


@pytest.mark.parametrize("spoiled, arguments, words", [
    (None, ["report", "nowhere"], "nowhere: is no folder of events"),
    (None, ["report"], "holds no events: start the bot, or name another --profile or a folder"),
    (None, ["report", "--profile", "prod", "--dry-run"], "paper-events: holds no events"),
    (None, ["report", "--profile", "demo"], "events: Too many levels of symbolic links: run as"),
    (None, ["report", "events", "--from", "2026-01-01"],
     "there are 2025-05-01 to 2025-05-05: widen --from and --to"),
    (None, ["report", "events", "--from", "2025-05-05T23:00"], "widen --from and --to"),
    (None, ["report", "events", "--from", "2025-05-03", "--to", "2025-05-02"], "is not before"),
    (None, ["report", "events", "--from", "May"], "not a time such as"),
    (None, ["report", "events", "--csv", "taken.csv"], "is there already: name a new one, or add"),
    (None, ["report", "events", "--csv", "events", "--force"], "is there already: name a file"),
    (None, ["report", "events", "--csv", "no/such.csv"], "its folder is not there"),
    (None, ["export", "events", "--csv", "trips", "x.csv"], "--csv trips: is no table; there are"),
    (None, ["export", "events", "--csv", "fills", "x", "--csv", "trades", "x"], "into one file"),
    (None, ["export", "events"], "--csv"),
    (newer, ["report", "events"], "use the version that wrote it"),
    (foreign, ["report", "events"], "nothing before it can be read"),
    (odd, ["report", "events"], "events: event 3 (trade.executed) cannot be understood"),
    (strange, ["report", "events", "--json"], "events: a trade's story cannot be understood"),
    (bare, ["report", "events"], "none that names the equity"),
    (nameless, ["report", "events"], "take what is no day's file away"),
])
def test_what_is_wrong_is_one_line_with_the_way_out(spoiled, arguments, words, events, tmp_path,
                                                    monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken.csv").write_text("mine")
    (tmp_path / "data/perps_bot").mkdir(parents=True)
    (tmp_path / "data/perps_bot/demo").symlink_to("demo")
    if spoiled:
        spoiled(events)
    before = tree(tmp_path)
    assert main(arguments) == 2
    printed = capsys.readouterr()
    (line,) = printed.err.splitlines()
    assert words in line and printed.out == ""
    assert tree(tmp_path) == before


def test_force_replaces_a_file_and_a_failure_keeps_it(events, tmp_path, capsys):
    target = tmp_path / "t.csv"
    target.write_text("mine")
    foreign(events)
    assert main(["report", str(events), "--csv", str(target), "--force"]) == 2
    assert target.read_text() == "mine"
    shutil.rmtree(events)
    feed_folder(events)
    assert main(["report", str(events), "--csv", str(target), "--force"]) == 0
    assert target.read_text().startswith("number,symbol,side")


def feed_folder(folder, symbol="BTC-PERP", reason="why"):
    """A folder with one trade whose words are foreign."""
    store = EventStore(folder, MAY)
    store.open_day(MAY.date(), {}, equity=Decimal(1000))
    store.append("bot.started", profile="dev", broker="replay", equity=Decimal(1000))
    for n, (purpose, side, price) in enumerate((("entry", "buy", "100"), ("exit", "sell", "110"))):
        store.now = MAY + timedelta(hours=n)
        store.append("strategy.signal", symbol=symbol, action=side, reason=reason, bars=20,
                     mark_price=price, short_ma=price, long_ma=price, equity="1000")
        for kind, data in (order(str(n), purpose, mark=price),
                           fill(str(n), purpose, side, price, price)):
            store.append(kind, **{**data, "symbol": symbol, "reason": reason,
                                  "filled_at": store.now})
    store.append("risk.rejected", symbol=symbol, codes=[reason])
    store.close()


def test_without_the_extra_one_line_says_how_to_get_it(ran, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "plotly", None)
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    assert main(["report", str(ran[0]), "--html", str(tmp_path / "r.html")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    (extra,) = [row for row in (ROOT / "setup.cfg").read_text().split() if "plotly" in row]
    versions = (ROOT / "setup.cfg").read_text().partition(extra)[2].split()[0]
    assert f"extra `report`: {sys.executable} -m pip install 'plotly{versions}'" in line
    assert os.listdir(tmp_path) == []


# The page, in a real browser


@pytest.fixture(scope="module")
def chromium(tmp_path_factory):
    if browser.chromium() is None:
        pytest.skip("chromium is not installed: apt-get install chromium")
    if subprocess.run([browser.chromium(), "--version"], capture_output=True).returncode:
        pytest.skip("chromium is there and does not run: its installation was not finished")
    driven = browser.Browser(tmp_path_factory.mktemp("chromium"))
    yield driven
    driven.close()


def a_page(folder, target):
    pytest.importorskip("plotly", reason="the extra `report` is not installed")
    assert main(["report", str(folder), "--html", str(target)]) == 0
    assert target.stat().st_mode & 0o777 == 0o600
    return target


@pytest.fixture(scope="module")
def page(ran, tmp_path_factory):
    return a_page(ran[0], tmp_path_factory.mktemp("page") / "report.html")


OVERFLOW = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
CARD = "getComputedStyle(document.querySelector('section')).backgroundColor"
BEHIND = "document.querySelector('#equity .main-svg').style.backgroundColor"
STORY = "document.getElementById('story').open && document.getElementById('story').innerText"
CHARTS = ["equity", "drawdown", "price0", "price1", "days", "hours"]


@pytest.mark.parametrize("width, scheme, card, is_phone", [
    (1280, "light", "rgb(255, 255, 255)", False), (360, "dark", "rgb(24, 32, 40)", True)])
def test_the_page_is_whole_quiet_and_as_wide_as_the_screen(width, scheme, card, is_phone, page,
                                                           chromium, said):
    chromium.open(page, width, scheme=scheme, is_phone=is_phone)
    assert chromium.run(OVERFLOW) == 0 and chromium.run("innerWidth") == width
    assert chromium.run(CARD) == card
    paths = [chromium.run(f"document.querySelectorAll('#{chart} svg path').length")
             for chart in CHARTS]
    assert all(paths), paths
    assert chromium.run("document.querySelectorAll('tr.trade').length") == len(said["trips"])
    for selector, which in (("tr.trade button", 0), ("#price0 .scatterlayer .point", 2)):
        chromium.click(selector, which)
        story = browser.eventually(lambda: chromium.run(STORY))
        assert "wants to " in story and "will send entry" in story and "fee " in story
        chromium.run("document.getElementById('story').close()")
    number = said["trips"][-1]["number"]
    chromium.click("tr.trade button")
    assert f"Trade {number}: " in browser.eventually(lambda: chromium.run(STORY))
    chromium.call("Emulation.setEmulatedMedia",
                  features=[{"name": "prefers-color-scheme", "value": "light"}])
    browser.eventually(lambda: chromium.run(BEHIND) == "rgb(255, 255, 255)")
    assert chromium.complaints() == []
    assert chromium.requests() == [page.as_uri()]


def test_what_events_say_is_text_on_the_page(chromium, tmp_path):
    feed_folder(tmp_path / "events", symbol=HOSTILE, reason=HOSTILE)
    hostile = a_page(tmp_path / "events", tmp_path / "hostile.html")
    assert HOSTILE not in hostile.read_text()
    chromium.open(hostile, 360, is_phone=True)
    chromium.click("tr.trade button")
    assert HOSTILE in browser.eventually(lambda: chromium.run(STORY))
    assert "owned" not in chromium.run("document.title")
    assert chromium.run("document.images.length") == 0
    assert HOSTILE in chromium.run("document.querySelector('#refusals').innerText")
    assert chromium.run(OVERFLOW) == 0
    assert chromium.complaints() == [] and chromium.requests() == [hostile.as_uri()]


def test_the_page_forbids_itself_everything_else(chromium, page, tmp_path):
    """A script or an address that got in all the same would do nothing."""
    text = page.read_text()
    assert text.count("Content-Security-Policy") == text.count("default-src 'none'; script-") == 1
    spoiled = tmp_path / "spoiled.html"
    spoiled.write_text(text.replace("<main>", "<main><script>document.title = 'owned'</script>"
                                    "<img src='http://refused.invalid/x.png'>", 1))
    chromium.open(spoiled, 1280)
    assert chromium.run("document.title") == "perps-bot report"
    refused = [row["entry"]["text"] for row in chromium.complaints() if "entry" in row]
    assert len(refused) == 2 and all("Content Security Policy" in text for text in refused)


def test_all_events_are_folded_by_the_tracker_that_trades(ran):
    books = PositionTracker(EventStore())
    for event in read_events(ran[0]):
        books.apply(event)
    assert folded(ran[0]).books.snapshot() == books.snapshot()
