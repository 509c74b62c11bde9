"""The specification of `replay`: the same loop on recorded prices, and an honest report of it."""

import csv
import gzip
import json
import os
import pty
import re
import resource
import signal
import subprocess
import sys
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest

from perps_bot.cli import main
from perps_bot.errors import OrderRejected
from perps_bot.paper import PaperBroker
from perps_bot.store import read_events

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(__file__).parents[2] / "shared" / "data"
PATIENCE_SECONDS = 60
MAY = datetime(2025, 5, 1, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
# Of each 100 minutes 50 rise and 50 fall; every third such wave is high enough to earn its fees.
HEIGHTS = (1, 2, 12)


@pytest.fixture(autouse=True)
def a_folder_of_its_own(tmp_path, monkeypatch):
    for name in [n for n in os.environ if n.startswith(("PERPS_", "COINBASE_"))]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def waves(count, price=80000, step=4, begin=MAY):
    """Rows of candles, a minute each, never flat for long."""
    rows, close = [], price
    for number in range(count):
        opened, sign = close, 1 if number % 100 < 50 else -1
        close += sign * step * HEIGHTS[number // 100 % 3] + number % 7 - 3
        rows.append((begin + number * MINUTE, opened, max(opened, close) + 5,
                     min(opened, close) - 5, close))
    return rows


def candles(name, rows):
    lines = [f"{at:%Y-%m-%dT%H:%M:%SZ},{','.join(map(str, prices))}\n" for at, *prices in rows]
    Path(name).write_text("time,open,high,low,close\n" + "".join(lines))
    return name


@pytest.fixture
def btc():
    return candles("btc.csv", waves(2000))


@pytest.fixture
def over_three_days():
    """As many rows, on three days: enough for two daily returns."""
    return candles("days.csv", waves(2000, begin=MAY - 240 * MINUTE))


@pytest.fixture
def eth():
    return candles("eth.csv", waves(2000, price=30000, step=2))


@pytest.fixture
def funding():
    lines = [f"{MAY + hour * 60 * MINUTE:%Y-%m-%dT%H:%M:%SZ},0.0001\n" for hour in range(30)]
    Path("funding.csv").write_text("time,funding_rate\n" + "".join(lines))
    return "funding.csv"


@pytest.fixture
def replayed(capsys):
    """A function that replays in this process and returns code, output and the JSON in it."""

    def run(*argv, **config):
        if config:
            Path("perps.toml").write_text(
                "".join(f"{name} = {value}\n" for name, value in config.items()))
            argv += ("--config", "perps.toml")
        capsys.readouterr()
        code = main(["replay", *map(str, argv)])
        out, err = capsys.readouterr()
        return SimpleNamespace(code=code, out=out, err=err,
                               report=json.loads(out) if "--json" in argv and not code else None)

    return run


def written(name):
    with open(name, newline="") as file:
        return list(csv.DictReader(file))


def lines_of(folder):
    return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


def spawned(*argv, limit=None, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **environ):
    """Replay in a process of its own, whose files may not grow beyond `limit` bytes."""
    bound = (lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))) if limit else None
    return subprocess.Popen(
        [sys.executable, "-B", "-m", "perps_bot", "replay", *map(str, argv)], preexec_fn=bound,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environ}, text=True, stdout=stdout,
        stderr=stderr)


# What it prints

NUMBERS = """start_equity end_equity return_pct realized_pnl unrealized_pnl fees funding win_rate
profit_factor sharpe sortino max_drawdown_pct exposure bars_per_second""".split()
COSTLY = ("--fee-rate", "0.004")  # so that there are losses too, and every number is defined
COUNTS = "trades bars bad_rows halts".split()


def test_json_is_one_object_of_decimals_as_strings_and_counts(over_three_days, replayed):
    answer = replayed(over_three_days, "--json", *COSTLY)
    assert answer.code == 0
    assert len(answer.out.splitlines()) == 1
    report = answer.report
    assert set(report) == {*NUMBERS, *COUNTS, "symbols", "start", "end", "refusals", "message"}
    for name in NUMBERS:
        assert isinstance(report[name], str) and Decimal(report[name]).is_finite(), name
        assert "E" not in report[name], name
    for name in COUNTS:
        assert type(report[name]) is int, name
    assert report["bars"] == 2000 and report["trades"] > 5
    assert report["symbols"] == ["BTC-PERP"]
    assert (report["start"], report["end"]) == ("2025-04-30T20:01:00+00:00",
                                                "2025-05-02T05:20:00+00:00")
    assert report["message"] == "" and report["refusals"] == {}


def test_what_is_not_defined_is_null_and_never_a_made_up_number(replayed):
    report = replayed(candles("few.csv", waves(19)), "--json").report
    assert report["trades"] == 0
    assert {n for n in NUMBERS if report[n] is None} == {"win_rate", "profit_factor", "sharpe",
                                                         "sortino"}


def test_the_books_of_a_run_add_up_to_the_last_digit(btc, eth, funding, replayed):
    report = replayed(btc, eth, "--symbol", "BTC-PERP", "--symbol", "ETH-PERP",
                      "--funding", funding, "--json").report
    money = {name: Decimal(report[name]) for name in NUMBERS[:7]}
    assert money["funding"] != 0 and money["realized_pnl"] != 0
    assert money["end_equity"] == (money["start_equity"] + money["realized_pnl"]
                                   + money["unrealized_pnl"] - money["fees"] - money["funding"])
    assert money["return_pct"] == money["end_equity"] / money["start_equity"] - 1


def test_the_text_report_says_the_same_rounded_for_people(over_three_days, replayed):
    report = replayed(over_three_days, "--json", *COSTLY).report
    text = replayed(over_three_days, *COSTLY).out
    head, *rows, speed = text.splitlines()
    assert head == "BTC-PERP, 2025-04-30 20:01 to 2025-05-02 05:20 UTC, 2,000 bars"
    said = {row[:16].strip(): row[16:30].strip() for row in rows}
    assert said == {
        "start equity": "10,000.00", "end equity": f"{Decimal(report['end_equity']):,.2f}",
        "return": f"{Decimal(report['return_pct']):.2%}",
        "realized P&L": f"{Decimal(report['realized_pnl']):,.2f}",
        "unrealized P&L": f"{Decimal(report['unrealized_pnl']):,.2f}",
        "fees": f"{Decimal(report['fees']):,.2f}", "funding": "0.00",
        "trades": str(report["trades"]), "win rate": f"{Decimal(report['win_rate']):.2%}",
        "profit factor": f"{Decimal(report['profit_factor']):,.2f}",
        "Sharpe": f"{Decimal(report['sharpe']):,.2f}",
        "Sortino": f"{Decimal(report['sortino']):,.2f}",
        "max drawdown": f"{Decimal(report['max_drawdown_pct']):.2%}",
        "exposure": f"{Decimal(report['exposure']):.2%}",
        "halts": "0", "refused orders": "none",
    }
    assert re.fullmatch(r"speed [\d,]+ bars a second", speed)
    assert max(map(len, text.splitlines())) < 80


@pytest.mark.parametrize("is_terminal", [True, False])
def test_the_progress_line_is_for_a_terminal_alone(is_terminal, btc):
    leader, follower = pty.openpty() if is_terminal else os.pipe()
    run = spawned(candles("long.csv", waves(6000)), stderr=follower)
    os.close(follower)
    assert run.communicate(timeout=PATIENCE_SECONDS)[0].startswith("BTC-PERP")
    shown = b""
    try:
        while more := os.read(leader, 1000):
            shown += more
    except OSError:  # how a terminal says that nobody writes to it any more
        pass
    os.close(leader)
    assert (re.search(rb"\r\d+% read.*\r\x1b\[K$", shown, re.S) is not None) is is_terminal
    assert is_terminal or shown == b""


# What it writes


def test_nothing_is_written_unless_it_is_asked_for(btc, replayed):
    replayed(btc)
    assert os.listdir() == [btc]


def test_every_fill_is_a_row_of_the_trades_and_an_event(btc, eth, replayed):
    report = replayed(btc, eth, "--symbol", "BTC-PERP", "--symbol", "ETH-PERP", "--json",
                      "--events", "events", "--trades", "trades.csv").report
    fills = [e.data for e in read_events("events") if e.type == "trade.executed"]
    rows = written("trades.csv")
    assert list(rows[0]) == "time symbol side quantity price fee order_id reason".split()
    assert [[row[name] for name in row] for row in rows] == [
        [f["filled_at"], f["symbol"], f["side"], f["quantity"], f["price"], f["fee"],
         f["client_order_id"], f["reason"]] for f in fills]
    assert sum(Decimal(row["fee"]) for row in rows) == Decimal(report["fees"])
    assert {row["symbol"] for row in rows} == {"BTC-PERP", "ETH-PERP"}
    closed = Counter(f["symbol"] for f in fills if not Decimal(f["position_quantity"]))
    assert closed.total() == report["trades"]


def test_the_score_is_that_of_the_finished_trips_after_fees_and_funding(btc, replayed):
    rates = [f"{MAY + 7 * n * MINUTE:%Y-%m-%dT%H:%M:%SZ},0.001\n" for n in range(1, 280)]
    Path("dear.csv").write_text("time,funding_rate\n" + "".join(rates))
    report = replayed(btc, "--funding", "dear.csv", "--json", "--events", "events").report
    net, held = [], Decimal(0)
    for event in read_events("events"):
        data = {name: event.data.get(name) for name in ("quantity", "price", "fee", "amount")}
        if event.type == "trade.executed":
            signed = Decimal(data["quantity"]) * (1 if event.data["side"] == "buy" else -1)
            net += [] if held else [Decimal(0)]
            held += signed
            net[-1] -= signed * Decimal(data["price"]) + Decimal(data["fee"])
        elif event.type == "funding.paid":
            net[-1] -= Decimal(data["amount"])
    assert Decimal(report["funding"]) > 100
    net = net if not held else net[:-1]
    won = sum(gain for gain in net if gain > 0)
    assert report["trades"] == len(net)
    assert Decimal(report["win_rate"]) == Decimal(sum(gain > 0 for gain in net)) / len(net)
    assert Decimal(report["profit_factor"]) == won / (won - sum(net))


def test_the_equity_curve_has_a_row_a_tick_and_its_drawdown(btc, replayed):
    report = replayed(btc, "--json", "--equity-curve", "curve.csv").report
    curve = [(datetime.fromisoformat(row["time"]), Decimal(row["equity"]))
             for row in written("curve.csv")]
    assert [at for at, _ in curve] == [MAY + n * MINUTE for n in range(1, 2001)]
    assert curve[0][1] == Decimal(report["start_equity"])
    assert curve[-1][1] == Decimal(report["end_equity"])
    peak = deepest = Decimal(0)
    for _, equity in curve:
        peak = max(peak, equity)
        deepest = max(deepest, (peak - equity) / peak)
    assert Decimal(report["max_drawdown_pct"]) == deepest > 0


def test_the_last_row_of_the_curve_knows_what_the_last_tick_cost(replayed):
    """Trades, a bar a second: the last one crosses upwards, and is bought at once."""
    prices = [*(80000 - n for n in range(30)), 80900]
    rows = [f"{MAY + timedelta(seconds=n):%Y-%m-%dT%H:%M:%SZ},{n},{n},{price},1,buy\n"
            for n, price in enumerate(prices)]
    Path("trades.csv").write_text("time,recv_ns,trade_id,price,size,taker_side\n" + "".join(rows))
    report = replayed("trades.csv", "--bar", "1", "--json", "--equity-curve", "curve.csv").report
    assert Decimal(report["fees"]) > 0
    assert written("curve.csv")[-1]["equity"] == report["end_equity"]


def test_the_exposure_is_the_share_of_the_time_with_a_position(btc, replayed):
    report = replayed(btc, "--json", "--trades", "trades.csv").report
    held, at, during = Decimal(0), None, timedelta()
    for row in written("trades.csv"):
        filled_at = datetime.fromisoformat(row["time"])
        if held:
            during += filled_at - at
        held, at = held + Decimal(row["quantity"]) * (1 if row["side"] == "buy" else -1), filled_at
    if held:
        during += datetime.fromisoformat(report["end"]) - at
    assert Decimal(report["exposure"]) == Decimal(during // MINUTE) / 1999


def test_the_same_run_twice_gives_the_same_files_byte_for_byte(btc, eth, funding, replayed):
    for run in "ab":
        replayed(btc, eth, "--symbol", "BTC-PERP", "--symbol", "ETH-PERP", "--funding", funding,
                 "--events", f"{run}-events", "--trades", f"{run}.csv",
                 "--equity-curve", f"{run}-curve.csv")
    assert len(lines_of("a-events")) == 2
    assert lines_of("a-events") == lines_of("b-events")
    assert Path("a.csv").read_bytes() == Path("b.csv").read_bytes()
    assert Path("a-curve.csv").read_bytes() == Path("b-curve.csv").read_bytes()


def test_two_processes_with_different_hash_seeds_write_the_same_events(btc, eth):
    for seed in "12":
        run = spawned(btc, eth, "--symbol", "BTC-PERP", "--symbol", "ETH-PERP", "--events", seed,
                      PYTHONHASHSEED=seed)
        assert run.communicate(timeout=PATIENCE_SECONDS)[1] == ""
    assert lines_of("1") == lines_of("2")


MONTH = [f"{coin}usdt-perp-binance-1m-2025-05.csv.gz" for coin in ("btc", "eth", "sol", "xrp")]


@pytest.mark.skipif(not (DATA / MONTH[0]).exists(), reason="the recorded data is not here")
def test_four_symbols_of_a_real_month_give_the_same_events_twice(replayed):
    pairs = [argument for coin in ("BTC", "ETH", "SOL", "XRP")
             for argument in ("--symbol", f"{coin}-PERP")]
    rates = [argument for name in MONTH for argument in (
        "--funding", DATA / f"{name.partition('-')[0]}-perp-binance-funding-2025.csv")]
    files = [DATA / name for name in MONTH]
    span = ("--from", "2025-05-20T20:00", "--to", "2025-05-21T06:00")
    reports = [replayed(*files, *pairs, *rates, *span, "--json", "--events", run).report
               for run in "ab"]
    assert lines_of("a") == lines_of("b") and len(lines_of("a")) == 2
    assert reports[0]["bars"] == 4 * 600 and reports[0]["trades"] > 20
    paid = [e for e in read_events("a") if e.type == "funding.paid"]
    assert {e.data["symbol"] for e in paid} <= {f"{c}-PERP" for c in ("BTC", "ETH", "SOL", "XRP")}


# What it was told


@pytest.mark.parametrize("span, bars", [
    (("--from", "2025-05-01T01:00:00Z"),                               1940),
    (("--to", "2025-05-01T01:00:00+00:00"),                            60),
    (("--from", "2025-05-01T01:00", "--to", "2025-05-01 02:00"),       60),
    (("--from", "2025-05-02"),                                         560),
    (("--from", "2025-05-01T03:00+02:00", "--to", "2025-05-01T02:00"), 60),
])
def test_from_and_to_choose_rows_by_their_opening(span, bars, btc, replayed):
    assert replayed(btc, *span, "--json").report["bars"] == bars


def settings_of(folder):
    return next(e.data["settings"] for e in read_events(folder) if e.type == "bot.started")


def test_a_flag_beats_the_config_file_which_beats_the_limits_of_dev(btc, replayed):
    replayed(btc, "--to", "2025-05-01T01:00", "--events", "plain")
    plain = settings_of("plain")
    assert (plain["profile"], plain["max_position"], plain["enable_shorts"]) == ("dev", "10000",
                                                                                 "no")
    replayed(btc, "--to", "2025-05-01T01:00", "--events", "told", "--short-ma-period", "3",
             short_ma_period=4, long_ma_period=30, enable_shorts="true", paper_equity=5000)
    told = settings_of("told")
    assert (told["short_ma_period"], told["long_ma_period"]) == ("3", "30")
    assert (told["enable_shorts"], told["paper_equity"]) == ("yes", "5000")


def test_the_symbols_may_stand_in_the_config_file_and_a_flag_replaces_them(btc, eth, replayed):
    both = replayed(btc, eth, "--json", symbols='["ETH-PERP", "BTC-PERP"]').report
    assert both["symbols"] == ["ETH-PERP", "BTC-PERP"]
    one = replayed(btc, "--symbol", "SOL-PERP", "--json", symbols='["ETH-PERP"]').report
    assert one["symbols"] == ["SOL-PERP"]


@pytest.mark.parametrize("flags, changes", [
    (("--equity", "20000"),            lambda r: Decimal(r["start_equity"]) == 20000),
    (("--fee-rate", "0", "--fee-per-contract", "0"), lambda r: Decimal(r["fees"]) == 0),
    (("--max-position", "900"),        lambda r: r["trades"] > 5),
    (("--max-position", "100"),        lambda r: list(r["refusals"]) == ["BELOW_MINIMUM"]),
    (("--leverage", "1"),              lambda r: Decimal(r["fees"]) < 100),
    (("--long-ma-period", "200"),      lambda r: r["trades"] < 25),
])
def test_each_flag_reaches_the_run(flags, changes, btc, replayed):
    report = replayed(btc, *flags, "--json").report
    assert report != replayed(btc, "--json").report
    assert changes(report)


def test_slippage_costs_what_it_says(btc, replayed):
    def fills(*flags):
        replayed(btc, "--trades", "trades.csv", *flags)
        return written("trades.csv")

    plain, slipped = fills(), fills("--slippage-bps", "10")
    for one, other in zip(plain[:1], slipped[:1]):
        assert Decimal(other["price"]) == Decimal(one["price"]) * Decimal("1.001")


def test_what_stood_in_the_way_at_the_end_is_said(btc, eth, replayed):
    few = replayed(btc, "--to", "2025-05-01T00:12")
    assert "at the end: Strategy generates no signals: BTC-PERP has 12 of 20 bars" in few.out
    late = candles("late.csv", waves(60, price=30000, step=2, begin=MAY + timedelta(days=3)))
    for file, words in ((late, "at the end: No mark price for symbol ETH-PERP"), (eth, None)):
        out = replayed(btc, file, "--symbol", "BTC-PERP", "--symbol", "ETH-PERP",
                       "--to", "2025-05-02").out
        assert words in out if words else "at the end" not in out


def test_refused_orders_are_counted_by_reason(btc, eth, replayed):
    answer = replayed(btc, "--max-position", "100", "--json")
    assert answer.report["trades"] == 0
    assert answer.report["refusals"]["BELOW_MINIMUM"] > 5
    text = replayed(btc, "--max-position", "100").out
    assert re.search(r"^refused orders +\d+  BELOW_MINIMUM$", text, re.M)


def test_what_the_venue_refused_is_counted_too(btc, replayed, monkeypatch):
    def refuse(*_):
        raise OrderRejected("INSUFFICIENT_FUNDS", "INSUFFICIENT_FUNDS: 0 free")

    monkeypatch.setattr(PaperBroker, "place", refuse)
    report = replayed(btc, "--json").report
    assert report["trades"] == 0 and report["halts"] > 0
    assert report["refusals"]["INSUFFICIENT_FUNDS"] >= 3


def test_a_risk_halt_lifts_at_midnight_and_is_counted(replayed):
    """Waves so short that every trip loses: 5 % of the day are gone long before it ends."""
    answer = replayed(candles("lossy.csv", waves(3 * 1440 - 10, step=1)), "--fee-rate", "0.01",
                      "--json", "--events", "events", "--trades", "trades.csv")
    changes = [e for e in read_events("events") if e.type == "state.changed"]
    assert {e.data["kind"] for e in changes} == {"daily_loss"}
    assert answer.report["halts"] == sum(e.data["state"] == "REDUCING" for e in changes) == 3
    assert [e.at.hour for e in changes if e.data["state"] == "TRADING"] == [0, 0]
    days = {row["time"][:10] for row in written("trades.csv") if row["side"] == "buy"}
    assert days == {"2025-05-01", "2025-05-02", "2025-05-03"}


# Bad input, and runs that do not end well


@pytest.mark.parametrize("line, words", [
    ("btc.csv btc.csv",                                  "give each file a symbol of its own"),
    ("btc.csv --symbol BTC-PERP --symbol ETH-PERP",      "give each file a symbol of its own"),
    ("btc.csv --symbol DOGE-PERP",                       "DOGE-PERP"),
    ("btc.csv --symbol btc",                             "names such as BTC-PERP"),
    ("btc.csv --from yesterday",                         "--from yesterday: not a time"),
    ("btc.csv --to 2025-05-32",                          "--to 2025-05-32: not a time"),
    ("btc.csv --from 2025-05-02 --to 2025-05-01",        "is not before --to"),
    ("btc.csv --from 2025-05-02 --to 2025-05-02",        "is not before --to"),
    ("btc.csv --from 2031-01-01",                        "no row lies between"),
    ("btc.csv --to 2001-01-01",                          "no row lies between"),
    ("btc.csv --funding btc.csv",                        "btc.csv: header"),
    ("btc.csv --funding a.csv --funding b.csv",          "2 funding files"),
    ("btc.csv --bar 900",                                "(bars of 900 s: is --bar right?)"),
    ("btc.csv --equity 0",                               "paper_equity (flag --equity)"),
    ("btc.csv --fee-rate 1",                             "fee_rate (flag --fee-rate)"),
    ("btc.csv --leverage 6",                             "target_leverage (flag --leverage)"),
    ("btc.csv --symbols BTC-PERP",                       "unrecognized arguments: --symbols"),
    ("btc.csv --events full",                            "--events full"),
    ("btc.csv --events btc.csv",                         "--events btc.csv"),
    ("btc.csv --events other.csv",                       "--events other.csv"),
    ("btc.csv --trades full",                            "--trades full"),
    ("btc.csv --trades btc.csv",                         "--trades btc.csv"),
    ("btc.csv --trades ./btc.csv",                       "--trades ./btc.csv"),
    ("btc.csv --trades link.csv",                        "--trades link.csv"),
    ("btc.csv --trades /dev/null",                       "--trades /dev/null"),
    ("btc.csv --trades nowhere/t.csv",                   "No such file or directory"),
    ("btc.csv --trades t.csv --equity-curve t.csv",      "--equity-curve t.csv"),
    ("btc.csv --trades t.csv --events t.csv",            "--trades t.csv"),
    ("bad.csv",                                          "bad.csv line 5"),
    ("bad.csv --trades t.csv --events e --equity-curve c.csv", "bad.csv line 5"),
    ("late.csv --trades t.csv --events e --equity-curve c.csv", "late.csv line 1002"),
    ("empty.csv",                                        "empty.csv"),
])
def test_a_bad_argument_or_row_is_one_line_and_leaves_nothing(line, words, btc, replayed):
    Path("full").mkdir()
    Path("full/kept").write_text("precious")
    Path("other.csv").write_text("precious")
    Path("link.csv").symlink_to("btc.csv")
    Path("empty.csv").write_text("time,open,high,low,close\n")
    for name, at in (("bad.csv", 4), ("late.csv", 1001)):
        rows = Path("btc.csv").read_text().splitlines()
        rows[at] = rows[at].replace(",8", ",eighty")
        Path(name).write_text("\n".join(rows) + "\n")
    before = sorted(os.listdir())
    answer = replayed(*line.split())
    assert (answer.code, answer.out) == (2, "")
    assert words in answer.err and len(answer.err.splitlines()) == 1
    assert sorted(os.listdir()) == before
    assert Path("full/kept").read_text() == Path("other.csv").read_text() == "precious"


def test_bad_rows_are_counted_and_reported_when_that_is_asked_for(btc, replayed):
    rows = Path(btc).read_text().splitlines()
    rows[4], rows[900] = "nonsense", rows[900] + ",7"
    Path("bad.csv").write_text("\n".join(rows) + "\n")
    report = replayed("bad.csv", "--skip-bad-rows", "--json").report
    assert (report["bad_rows"], report["bars"]) == (2, 1998)
    assert "1,998 bars, 2 bad rows skipped" in replayed("bad.csv", "--skip-bad-rows").out


def test_an_old_result_stays_until_the_new_one_is_complete(btc, replayed):
    Path("trades.csv").write_text("old")
    Path("bad.csv").write_text(Path(btc).read_text() + "nonsense\n")
    assert replayed("bad.csv", "--trades", "trades.csv").code == 2
    assert Path("trades.csv").read_text() == "old"
    assert replayed(btc, "--trades", "trades.csv").code == 0
    assert len(written("trades.csv")) > 5


def test_an_empty_folder_takes_the_events_and_a_link_keeps_its_target(btc, replayed):
    Path("events").mkdir()
    Path("real.csv").write_text("old")
    Path("link.csv").symlink_to("real.csv")
    assert replayed(btc, "--events", "events", "--trades", "link.csv").code == 0
    assert len(list(read_events("events"))) > 1000
    assert Path("link.csv").is_symlink() and len(written("real.csv")) > 5


@pytest.mark.parametrize("number, code", [(signal.SIGINT, 3), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_run_that_is_ended_early_claims_no_result(number, code):
    run = spawned(candles("long.csv", waves(60000)), "--events", "events", "--trades",
                  "trades.csv", "--equity-curve", "curve.csv")
    try:
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not list(Path().glob("events.*/*.jsonl")) and time.monotonic() < deadline:
            time.sleep(0.01)
        run.send_signal(number)
        out, err = run.communicate(timeout=PATIENCE_SECONDS)
    finally:
        run.kill()
    assert (run.returncode, out) == (code, "")
    left = sorted(os.listdir())
    if number == signal.SIGINT:
        assert err == "perps-bot: interrupted; nothing was sent\n"
        assert left == ["long.csv"]
    assert not {"events", "trades.csv", "curve.csv"} & set(left)
    assert all(name.endswith(".part") for name in left if name != "long.csv")


@pytest.mark.parametrize("flag", ["--events", "--trades", "--equity-curve"])
def test_a_disk_that_fills_up_ends_the_run_in_one_line(flag, btc):
    run = spawned(btc, flag, "result", limit=1000)
    out, err = run.communicate(timeout=PATIENCE_SECONDS)
    assert (run.returncode, out) == (2, "")
    assert "result" in err and "nothing was kept" in err and len(err.splitlines()) == 1
    assert os.listdir() == [btc]


def test_an_answer_that_nobody_could_read_is_not_verified(btc):
    with open("/dev/full", "w") as full:
        run = spawned(btc, "--json", stdout=full)
        run.communicate(timeout=PATIENCE_SECONDS)
    assert run.returncode == 3


def test_recorded_files_may_be_compressed(btc, replayed):
    Path("btc.csv.gz").write_bytes(gzip.compress(Path(btc).read_bytes()))
    plain, packed = (replayed(name, "--json").report for name in (btc, "btc.csv.gz"))
    assert {**plain, "bars_per_second": 0} == {**packed, "bars_per_second": 0}
