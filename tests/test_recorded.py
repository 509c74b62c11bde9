"""`replay --recorded`: a day's events through today's code."""

import functools
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from helpers import BTC, ETH, NOON, Rig, ScriptedVenue, the_settings
from live import LiveRig, at_once
from perps_bot import flow, limits, recorded, risk, strategy, tracker
from perps_bot.cli import main
from perps_bot.errors import ConfigError
from perps_bot.model import OrderType, TradingState
from perps_bot.settings import Settings, described, recorded_settings
from perps_bot.store import read_events
from words import replace

pytestmark = pytest.mark.usefixtures("no_settings_of_the_tester")
ROOT = Path(__file__).resolve().parent.parent
PATIENCE_SECONDS = 60
MAY = datetime(2025, 5, 1, 6, tzinfo=UTC)
KINDS = ["order.intended", "position.updated", "risk.rejected", "state.changed",
         "strategy.signal", "trade.executed"]


@pytest.fixture(scope="module")
def days(tmp_path_factory):
    """The files of two days over which trades win and lose, limits stop entries, and refuse."""
    place = tmp_path_factory.mktemp("days")
    waves = [80000 + abs(n % 60 - 30) * 90 for n in range(200)]
    waves += [80000 + abs(n % 26 - 13) * 60 for n in range(220)]  # too quick for the averages
    rows = [f"{MAY + timedelta(minutes=5 * n):%Y-%m-%dT%H:%M:%SZ},{p},{p + 9},{p - 9},{p}\n"
            for n, p in enumerate(waves)]
    (place / "btc.csv").write_text("time,open,high,low,close\n" + "".join(rows))
    (place / "limits.toml").write_text(
        "max_daily_loss_pct = 0.01\nmax_losses_in_a_row = 3\nenable_shorts = true\n")
    assert main(["replay", str(place / "btc.csv"), "--events", str(place / "events"),
                 "--config", str(place / "limits.toml")]) == 0
    return sorted((place / "events").glob("*.jsonl"))


def rewritten(path, target, change):
    """A day's file after `change` of each event, chained anew."""
    lines, chain = [], 0
    for line in path.read_text().splitlines():
        event = json.loads(line)
        event.pop("crc")
        body = json.dumps(change(event) or event, separators=(",", ":")).removesuffix("}").encode()
        if not lines:
            chain = int(event["chain"], 16)
        chain = zlib.crc32(body, chain)
        lines.append(body + b',"crc":"%08x"}\n' % chain)
    target.parent.mkdir(exist_ok=True)
    target.write_bytes(b"".join(lines))
    return target


def reproduced(path):
    outcome = recorded.replay_day(path)
    assert outcome.difference is None, "\n".join(recorded.lines(outcome))
    return outcome


# A day is reproduced


def test_every_decision_of_a_recorded_day_is_reproduced(days, capsys):
    counts = sum((reproduced(path).reproduced for path in days), start=type(
        reproduced(days[0]).reproduced)())
    assert sorted(counts) == KINDS and len(days) == 2
    for path in days:
        said = [json.loads(line)["type"] for line in path.read_text().splitlines()]
        assert reproduced(path).reproduced["strategy.signal"] == said.count("strategy.signal")
        assert not reproduced(path).not_recorded
    assert main(["replay", "--recorded", str(days[0])]) == 0
    assert capsys.readouterr().out.endswith("every decision was reproduced\n")


CHANGES = {
    # what is changed: (where, name, today's value, the event that differs, a field of it)
    "how long a crossing waits": (
        strategy, "CROSS_AGE_BARS_MAX", 1, "strategy.signal", "memory.pending"),
    "which side the averages show": (
        strategy._Windows, "push", lambda self, close, old=strategy._Windows.push:
        old(self, close) and None, "strategy.signal", "memory.side"),
    "where the trail is": (
        strategy.BaselinePerpsStrategy, "watch", lambda self, mark, position: False,
        "strategy.signal", "memory.best_mark"),
    "what counts as an hour": (
        flow.Flow, "entries_in_hour", lambda self, symbol, now: 99, "order.intended", "codes"),
    "how near liquidation may be": (
        risk, "MARGIN_RATIO_MIN", Decimal(40), "order.intended", "quantity"),
    "how large one order may be": (
        limits.RiskConfig, "most_contracts", lambda self, product: Decimal(1), "order.intended",
        "quantity"),
    "how much may be lost": (
        risk.LiveRiskManager, "_losses", lambda self, account, old=risk.LiveRiskManager._losses:
        old(self, replace(account, daily_loss=account.daily_loss + 70)), "strategy.signal",
        "must_stop"),
    "which losses end entries": (
        risk.LiveRiskManager, "_losses", lambda self, account: {}, "state.changed", "state"),
    "what a fill does": (
        recorded, "apply_fill", lambda position, fill: replace(
            tracker.apply_fill(position, fill), entry_price=fill.price + 1),
        "trade.executed", "entry_price"),
    "what a fee is": (
        tracker, "apply_fill", lambda position, fill, old=tracker.apply_fill: replace(
            old(position, fill), fees=position.fees), "position.updated", "fees"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_of_one_rule_shows_the_first_decision_that_differs(
        change, days, monkeypatch, capsys):
    place, name, value, kind, field = CHANGES[change]
    monkeypatch.setattr(place, name, value)
    code, path = next((1, path) for path in days if main(["replay", "--recorded", str(path)]))
    text = capsys.readouterr().out
    assert main(["replay", "--recorded", str(path), "--json"]) == code
    found = json.loads(capsys.readouterr().out)["difference"]
    assert (found["type"], field in found["fields"]) == (kind, True), found
    (event,) = [e for e in read_events(path.parent) if e.seq == found["seq"]]
    assert (event.type, event.at.isoformat()) == (kind, found["at"])
    sides = found["fields"][field]
    assert sides["recorded"] != sides["today"]
    assert sides["recorded"] == functools.reduce(
        lambda data, name: data.get(name, []), field.split("."), event.data)
    assert f"the first that differs: seq {event.seq}, {event.at.isoformat()}, {kind}" in text


def test_what_was_sent_and_would_be_refused_today_is_shown_with_both_sides(
        days, monkeypatch, capsys):
    monkeypatch.setattr(flow.Flow, "entries_in_hour", lambda self, symbol, now: 99)
    assert main(["replay", "--recorded", str(days[0]), "--json"]) == 1
    fields = json.loads(capsys.readouterr().out)["difference"]["fields"]
    assert fields["event"] == {"recorded": "order.intended", "today": "risk.rejected"}
    assert fields["codes"] == {"recorded": [], "today": ["ENTRIES_EXCEEDED"]}
    assert fields["breaches"]["today"][0]["measured"] == "100"


@pytest.mark.parametrize("kind, field, value, shown", [
    ("strategy.signal", "action", "buy", "action"),
    ("strategy.signal", "long_ma", "80000.1", "long_ma"),
    ("strategy.signal", "mark_price", "80001", "long_ma"),
    ("strategy.signal", "position_quantity", "7", "position_quantity"),
    ("strategy.signal", "daily_loss", "1.25", "daily_loss"),
    ("strategy.signal", "trading_state", "HALTED", "trading_state"),
    ("order.intended", "quantity", "9", "quantity"),
    ("order.intended", "reason", "no reason", "reason"),
    ("order.intended", "reason", "by hand", None),  # no decision of ours: the gate alone is asked
    ("stop", "quantity", "9", "reduces"),
    ("stop", "side", "buy", "reduces"),
    ("risk.rejected", "codes", ["STATE_HALTED"], "codes"),
    ("risk.rejected", "side", "buy", "side"),
    ("state.changed", "reason", "felt so", "reason"),
    ("state.changed", "before", "HALTED", "before"),
    ("trade.executed", "realized_pnl", "3", "realized_pnl"),
    ("trade.executed", "position_quantity", "3", "position_quantity"),
    ("position.updated", "fees", "3", "fees"),
])
def test_whatever_is_compared_can_differ(kind, field, value, shown, days, tmp_path):
    """One field of one event is made another: that event is the first that differs."""
    def is_meant(event):
        if kind == "stop":
            return event.type == "order.intended" and event.data["purpose"] == "stop"
        return event.type == kind and event.data.get("purpose", "entry") == "entry"

    day, meant = next((day, event) for day in days
                      for event in read_events(day.parent, datetime.fromisoformat(day.stem).date())
                      if is_meant(event))
    path = rewritten(day, tmp_path / "changed" / day.name, lambda event: (
        event["seq"] == meant.seq and {**event, field: value}))
    found = recorded.replay_day(path).difference
    if shown is None:
        assert found is None
    else:
        assert found.seq == meant.seq and shown in found.sides


# What is not recorded


NEW = {"strategy.signal": {"bars_ended", "margin"}, "order.intended": {"saw"},
       "risk.rejected": {"saw", "order_type", "limit_price"},
       "state.changed": {"daily_loss", "margin"}, "day.opened": {"settings", "closes", "version"}}


def as_older(event):
    return {name: value for name, value in event.items()
            if name not in NEW.get(event["type"], ())}


def test_a_day_of_an_older_version_says_what_is_not_recorded_and_guesses_nothing(
        days, tmp_path, capsys):
    old = rewritten(days[0], tmp_path / "old" / days[0].name, as_older)
    outcome, whole = reproduced(old), reproduced(days[0])
    assert set(outcome.reproduced) == {"trade.executed", "position.updated"}
    assert outcome.not_recorded["bars_ended of BTC-PERP: an older version wrote the day"] == (
        whole.reproduced["strategy.signal"])
    assert outcome.not_recorded["saw of BTC-PERP: an older version wrote the day"] == sum(
        whole.reproduced[kind] for kind in ("order.intended", "risk.rejected"))
    assert main(["replay", "--recorded", str(old)]) == 0
    assert capsys.readouterr().out.endswith("every decision that could be asked was reproduced\n")


def test_a_day_without_the_settings_of_its_process_is_asked_for_its_books_alone(days, tmp_path):
    later = days[1]  # it has no start: a process ran over midnight
    assert not [e for e in read_events(later.parent) if e.type == "bot.started"
                and e.at.date().isoformat() == later.stem]
    old = rewritten(later, tmp_path / "old" / later.name, lambda event: {
        name: value for name, value in event.items() if name != "settings"})
    outcome = reproduced(old)
    assert set(outcome.reproduced) == {"trade.executed", "position.updated", "order.intended"}
    assert outcome.not_recorded["the settings, before the day's first start"] > 200


@pytest.mark.parametrize("changes", [
    {}, {"profile": "prod", "symbols": (BTC, ETH)}, {"order_type": OrderType.LIMIT},
    {"max_losses_in_a_row": 4, "max_order_qty": Decimal("2.5"), "enter_on_start": True},
    {"trailing_stop_pct": Decimal("0.015"), "kill_switch_enabled": True, "adopt": (ETH,)},
])
def test_the_settings_come_back_from_what_was_recorded(changes):
    settings = the_settings(**changes)
    words = {name: value for name, value, _, _ in described(settings)}
    assert Settings(recorded_settings(words).said, settings.sources) == settings


def test_a_setting_that_is_new_since_that_day_has_its_default():
    words = {name: value for name, value, _, _ in described(the_settings("prod", bar=60))}
    del words["max_entries_per_hour"], words["bar"], words["fee_rate"]
    settings = recorded_settings({**words, "gone_since": "7"})
    assert (settings.max_entries_per_hour, settings.bar) == (8, 3600)  # of the profile
    assert settings.fee_rate == Decimal("0.001")


def test_a_day_whose_settings_are_no_longer_possible_names_the_way_out(days, tmp_path, capsys):
    words = {"long_ma_period": "100000"}
    path = rewritten(days[0], tmp_path / "old" / days[0].name, lambda event: "settings" in event
                     and {**event, "settings": {**event["settings"], **words}})
    assert main(["replay", "--recorded", str(path)]) == 2
    assert capsys.readouterr().err.endswith(
        "long_ma_period (recorded): must be a whole number from 10 to 200 (bars): use the version "
        "that wrote it\n")


def test_a_setting_that_is_no_longer_possible_is_named():
    words = {name: value for name, value, _, _ in described(the_settings())}
    with pytest.raises(ConfigError, match="long_ma_period .recorded.: must be a whole number"):
        recorded_settings({**words, "long_ma_period": "100000"})


# Processes


def test_what_was_observed_is_written_where_moving_the_stop_failed(tmp_path):
    rig = Rig(ScriptedVenue(), folder=tmp_path, bar=60)
    rig.venue.history = {BTC: [90 + n for n in range(30)]}
    rig.venue.prices[BTC] = Decimal(120)
    rig.tick()
    assert rig.held() > 0
    rig.venue.prices[BTC] = Decimal(125)
    rig.venue.down = {"cancel"}
    assert not rig.tick(seconds=60)
    seen = rig.of("strategy.signal")[-1].data
    assert (seen["mark_price"], seen["memory"]["best_mark"]) == (125, 125)
    assert seen["bars_ended"] == [NOON + timedelta(minutes=1)]
    rig.venue.down = set()
    rig.venue.prices[BTC] = Decimal(124)
    assert rig.tick(seconds=60)
    outcome = reproduced(next((tmp_path / "events").glob("*.jsonl")))
    assert outcome.reproduced["strategy.signal"] == 3 and not outcome.not_recorded


def test_a_day_of_several_starts_with_other_settings_and_a_halt_is_reproduced(tmp_path):
    rig = Rig(ScriptedVenue(BTC, ETH), folder=tmp_path, symbols=(BTC, ETH), bar=60)
    rising = [90 + n for n in range(30)]
    rig.venue.history = {BTC: rising, ETH: rising}
    rig.venue.prices = dict.fromkeys((BTC, ETH), Decimal(120))
    for n in range(12):
        rig.venue.prices[BTC] += n % 3
        rig.tick(seconds=30)
    rig.restart(short_ma_period=3, long_ma_period=12, max_position_pct_per_symbol=Decimal("0.05"))
    for n in range(12):  # a gap of several bars, and averages that turn
        rig.venue.prices[ETH] -= n % 4
        rig.tick(seconds=240 if n == 5 else 30)
    rig.restart(kill_switch_enabled=True)
    for n in range(6):
        rig.venue.prices[ETH] += n
        rig.tick(seconds=60)
    assert rig.bot.risk.state is TradingState.HALTED
    outcome = reproduced(next((tmp_path / "events").glob("*.jsonl")))
    signals = outcome.reproduced["strategy.signal"]
    assert signals > 40 and outcome.reproduced["order.intended"] > 3
    assert not outcome.not_recorded


def test_a_difference_after_a_restart_is_found(tmp_path, monkeypatch):
    """The settings of each process are its own: those of the first would not decide so."""
    rig = Rig(ScriptedVenue(), folder=tmp_path, bar=60, enter_on_start=False)
    rig.venue.history = {BTC: [90 + n for n in range(30)]}
    rig.venue.prices[BTC] = Decimal(120)
    rig.tick()
    rig.restart(short_ma_period=2, long_ma_period=10).tick()
    path = next((tmp_path / "events").glob("*.jsonl"))
    reproduced(path)
    second = [e.seq for e in read_events(path.parent) if e.type == "bot.started"][1]
    read = recorded.recorded_settings
    monkeypatch.setattr(recorded, "recorded_settings",
                        lambda words: read({**words, "long_ma_period": "20"}))
    assert recorded.replay_day(path).difference.seq > second


def started(folder, *arguments, **environ):
    """A real process in `folder`."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "perps_bot", *arguments], cwd=folder, text=True,
        env={**kept, "PYTHONPATH": str(ROOT), **environ}, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT)


def signals_in(folder):
    return sum(text.count('"type":"strategy.signal"') for text in
               map(Path.read_text, folder.glob("*.jsonl")))


def test_the_day_of_a_real_process_that_was_killed_and_started_anew_is_reproduced(
        tmp_path, monkeypatch, capsys):
    events = tmp_path / "data/perps_bot/dev/events"
    (tmp_path / "enter.toml").write_text("enter_on_start = true\nenable_shorts = true\n")
    for number, end in enumerate((signal.SIGKILL, signal.SIGTERM)):
        before = signals_in(events)
        bot = started(tmp_path, "--profile", "dev", "--interval", "1", "--bar", "1", "--symbols",
                      BTC, ETH, "--config", "enter.toml", "--short-ma-period", str(3 + number))
        deadline = time.monotonic() + PATIENCE_SECONDS
        while signals_in(events) < before + 8 and time.monotonic() < deadline:
            time.sleep(0.2)
        bot.send_signal(end)
        bot.communicate(timeout=PATIENCE_SECONDS)
    monkeypatch.chdir(tmp_path)
    for path in sorted(events.glob("*.jsonl")):  # two, where midnight passed
        assert main(["replay", "--recorded", path.stem, "--profile", "dev"]) == 0
        assert capsys.readouterr().out.endswith("every decision was reproduced\n")
        assert reproduced(path).reproduced["order.intended"] >= 2


@pytest.mark.parametrize("line", [
    "--profile prod --dry-run", "--profile demo --dry-run --max-position 2000"])
def test_a_paper_run_is_found_among_its_own_events(line, tmp_path, monkeypatch, capsys):
    bot = started(tmp_path, *line.split(), "--dev-fast", PERPS_FORCE_MOCK="1")
    assert bot.communicate(timeout=PATIENCE_SECONDS) and bot.returncode == 0
    profile = line.split()[1]
    monkeypatch.chdir(tmp_path)
    (path,) = (tmp_path / f"data/perps_bot/{profile}/paper-events").glob("*.jsonl")
    monkeypatch.setenv("PERPS_FORCE_MOCK", "1")
    assert main(["replay", "--recorded", path.stem, "--profile", profile]) == 0
    assert f"{path.stem}, profile {profile}" in capsys.readouterr().out
    monkeypatch.delenv("PERPS_FORCE_MOCK")
    assert main(["replay", "--recorded", path.stem, *line.split()[:3]]) == 0
    assert main(["replay", "--recorded", path.stem, "--profile", profile]) == 2
    assert "name the --profile that ran" in capsys.readouterr().err


def test_the_day_of_a_bot_at_the_exchange_is_reproduced(tmp_path, monkeypatch):
    """Two symbols, stops that move and fire, a refusal, a restart: all by HTTP."""
    at_once(monkeypatch)
    with LiveRig(tmp_path, symbols=(BTC, ETH), max_position=Decimal(100000)) as rig:
        rig.rising()
        rig.rising(to=2500, step=1, symbol=ETH)
        rig.start()
        rig.ticks(4)
        assert rig.held() and rig.held(ETH)
        for n in range(1, 9):
            rig.price(60000 + 120 * n)
            rig.tick(30)
        rig.start(short_ma_period=3)
        rig.ticks(3)
        rig.price(59900)
        rig.ticks(6, seconds=20)
        assert not rig.held()
    outcome = reproduced(next((tmp_path / "events").glob("*.jsonl")))
    counts = outcome.reproduced
    assert counts["order.intended"] > 5 and counts["trade.executed"] >= 3
    assert counts["strategy.signal"] > 10 and not outcome.not_recorded


# The file


def fingerprint(folder):
    """Every name, time and byte below a folder."""
    return {str(path): (path.stat().st_mtime_ns, path.stat().st_mode, path.is_file() and
                        hashlib.sha256(path.read_bytes()).hexdigest())
            for path in [folder, *sorted(folder.rglob("*"))]}


@pytest.mark.parametrize("end", [b"", b'{"seq":99999,"ts":"2025'])
def test_nothing_is_changed_by_it(end, days, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "data/perps_bot/dev/events"
    folder.mkdir(parents=True)
    (folder / days[0].name).write_bytes(days[0].read_bytes() + end)  # a write under way
    monkeypatch.chdir(tmp_path)
    before = fingerprint(tmp_path)
    assert main(["replay", "--recorded", days[0].stem]) == 0
    assert main(["replay", "--recorded", days[0].stem, "--json"]) == 0
    assert main(["replay", "--recorded", days[0].stem, "--profile", "prod"]) == 2
    assert fingerprint(tmp_path) == before


def spoilt(days, folder):
    """Files that cannot be used, by what is wrong with them."""
    whole = days[0].read_bytes()
    lines = whole.splitlines(keepends=True)
    texts = {
        "2025-05-01": b"".join(lines[:9] + lines[10:]),
        "2025-05-02": whole,  # renamed
        "2025-05-03": b"",
        "2025-05-04": b"time,open,high,low,close\n",
        "2025-05-06": b"\x00\xff" * 400 + b"\n",
    }
    for name, text in texts.items():
        (folder / f"{name}.jsonl").write_bytes(text)
    rewritten(days[0], folder / "2025-05-07.jsonl", lambda event: event["type"] == "day.opened"
              and {**event, "schema": 2, "day": "2025-05-07"})
    rewritten(days[0], folder / "2025-05-08.jsonl", lambda event: {
        "day.opened": {**event, "day": "2025-05-08"},
        "trade.executed": {"seq": event["seq"], "ts": event["ts"], "type": event["type"]},
    }.get(event["type"]))
    (folder / "2025-05-09.jsonl").mkdir()


@pytest.mark.parametrize("argument, told", [
    ("2025-05-01", "2025-05-01.jsonl line 10: does not follow the line before: restore the day"),
    ("2025-05-02", "2025-05-02.jsonl: holds schema 1 of 2025-05-01: undo the renaming"),
    ("2025-05-03", "2025-05-03.jsonl: holds no events yet"),
    ("2025-05-04", "2025-05-04.jsonl line 1: "),
    ("2025-05-06", "2025-05-06.jsonl line 1: "),
    ("2025-05-07", "2025-05-07.jsonl: holds schema 2 of 2025-05-07: undo the renaming, or use the "
                   "version that wrote it"),
    ("2025-05-08", "this version cannot read it (KeyError 'symbol')"),
    ("2025-05-09", "2025-05-09.jsonl: no events of that day: there are 2025-05-01 to 2025-05-09"),
    ("2024-01-01", "2024-01-01.jsonl: no events of that day: there are 2025-05-01 to"),
    ("yesterday", "--recorded yesterday: neither a day such as 2026-11-23 nor a day's file"),
    ("", "--recorded : neither a day such as 2026-11-23 nor a day's file"),
    ("../btc.csv", "--recorded ../btc.csv: neither a day"),
    ("2025-05-01 btc.csv", "--recorded takes the day's own prices and settings: leave out"),
    ("2025-05-01 --from 2025-05-01", "everything but --profile, --dry-run, --config and --json"),
    ("data/2025-05-01.jsonl", "data/2025-05-01.jsonl: no events of that day: there are none; see"),
    ("data/prices.jsonl", "--recorded data/prices.jsonl: neither a day such as 2026-11-23"),
    ("2025-05-01 --profile demo", "nothing was written there; name the --profile that ran"),
    ("2025-05-01 --bar 60", "--recorded takes the day's own prices and settings: leave out"),
])
def test_what_cannot_be_used_is_named_in_one_line(
        argument, told, days, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "data/perps_bot/dev/events"
    folder.mkdir(parents=True)
    spoilt(days, folder)
    monkeypatch.chdir(tmp_path)
    before = fingerprint(tmp_path)
    first, *rest = argument.split(" ")
    assert main(["replay", f"--recorded={first}", *rest]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and told in err, err
    assert fingerprint(tmp_path) == before


def test_without_a_file_and_without_a_day_replay_says_what_it_needs(capsys):
    assert main(["replay"]) == 2
    assert "name a FILE of prices, or --recorded DAY" in capsys.readouterr().err
