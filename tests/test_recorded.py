"""`replay --recorded`: a day's events through today's code."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
import zlib
from dataclasses import replace
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
from perps_bot.settings import described, recorded_settings
from perps_bot.store import read_events

ROOT = Path(__file__).resolve().parent.parent
PATIENCE_SECONDS = 60
MAY = datetime(2025, 5, 1, 6, tzinfo=UTC)
KINDS = ["order.intended", "position.updated", "risk.rejected", "state.changed",
         "strategy.signal", "trade.executed"]


@pytest.fixture(autouse=True)
def no_settings_of_the_tester(monkeypatch):
    for name in [n for n in os.environ if n.startswith(("PERPS_", "COINBASE_", "EVENT_STORE"))]:
        monkeypatch.delenv(name)


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
        strategy, "CROSS_AGE_BARS_MAX", 1, "strategy.signal", "memory"),
    "which side the averages show": (
        strategy._Memory, "lean", lambda self: None, "strategy.signal", "memory"),
    "where the trail is": (
        strategy.BaselinePerpsStrategy, "watch", lambda self, mark, position: False,
        "strategy.signal", "memory"),
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
    assert sides["recorded"] == event.data.get(field, [])
    assert f"the first that differs: seq {event.seq}, {event.at.isoformat()}, {kind}" in text
