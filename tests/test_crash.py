"""Killed at any moment and started again: nothing is lost, nothing is sent twice.

First in one process, where every line of the events is a moment to die at; then with a real
process on paper and `kill -9`; against the exchange, tests/test_proc.py does it.  PERPS_TEST_KILLS
says how often.  What is checked is read by code that shares nothing with the bot.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from helpers import BTC, ETH, NOON, Rig, WildMarket, repeated, verified

from perps_bot import store as disk
from perps_bot.model import OrderStatus, OrderType
from perps_bot.paper import PaperBroker

REPO = Path(__file__).resolve().parents[1]
KILLS = int(os.environ.get("PERPS_TEST_KILLS", "24"))
WORKERS = 4
SYMBOLS = ("BTC-PERP", "ETH-PERP", "SOL-PERP", "XRP-PERP")
START_SECONDS_MAX = 120
ENDS_MAX = 5


# Every line is a moment to die at.


@pytest.fixture
def quick(monkeypatch):
    """The disk need not turn for what no power cut interrupts."""
    monkeypatch.setattr(disk, "_fsync", lambda fd: None)


def a_wild_rig(folder, now, order_type, seed):
    return Rig(
        PaperBroker(WildMarket(seed)), folder, now, symbols=(BTC, ETH), bar=1, short_ma_period=2,
        long_ma_period=10, interval=Decimal(1), order_type=OrderType(order_type),
        enable_shorts=True, bracket_profit_pct=Decimal("0.01"), max_daily_loss_pct=Decimal(1),
    )


def ticks(rig, count):
    for _ in range(count):
        assert rig.tick(1), rig.bot.trouble


def lines_of(folder):
    (path,) = (folder / "events").glob("*.jsonl")
    return path.name, path.read_bytes().splitlines(keepends=True)


def died_after(folder, name, lines):
    """A folder as it is when the process died after these lines; and the moment of that."""
    events = folder / "events"
    events.mkdir(mode=0o700, parents=True)
    (events / name).write_bytes(b"".join(lines))
    return datetime.fromisoformat(json.loads(lines[-1])["ts"])


@pytest.mark.parametrize("order_type, seed", [("market", 1), ("limit", 2)])
def test_dying_after_any_line_and_again_in_recovery_changes_nothing(
    tmp_path, quick, order_type, seed
):
    first = a_wild_rig(tmp_path / "first", NOON + timedelta(minutes=59, seconds=20), order_type,
                       seed)
    ticks(first, 60)
    first.bot.store.close()
    name, lines = lines_of(tmp_path / "first")
    dice = random.Random(seed)
    for count in range(2 + dice.randrange(9), len(lines) + 1, 9):
        folder = tmp_path / f"once-{count}"
        once = a_wild_rig(folder, died_after(folder, name, lines[:count]), order_type, seed)
        ticks(once, 1)
        once.bot.store.close()
        _, more = lines_of(folder)
        again = dice.randint(count, len(more))
        folder = tmp_path / f"twice-{count}-{again}"
        now = died_after(folder, name, more[:again])
        twice = a_wild_rig(folder, max(now, once.now), order_type, seed)
        ticks(twice, 15)
        twice.tick(60)  # by then an entry that never arrived is given up
        ticks(twice, 8)
        for _ in range(12):  # an exit that the book fills in parts has no stop in between
            if any(map(twice.bot.protector.is_exiting, twice.bot.tracker.positions())):
                ticks(twice, 1)
        check_rig(twice, f"after line {count} and then after line {again}")


def check_rig(rig, when):
    bot, venue = rig.bot, rig.venue
    theirs = {symbol: position.quantity for symbol, position in venue.positions().items()}
    ours = {symbol: position.quantity for symbol, position in bot.tracker.positions().items()}
    assert ours == theirs, when
    assert bot.tracker.equity() == venue.equity(), when
    assert bot.untraded == set(), when
    assert rig.of("reconcile.mismatch") == [], when
    old = [order for order in bot.engine.outstanding()
           if rig.now - order.created_at > timedelta(seconds=70)]
    assert all(order.status is OrderStatus.OPEN for order in old), (when, old)
    for symbol in ours:
        assert bot.protector.stop_price(symbol) or not bot.engine.orders.are_told(symbol), when
    bot.store.close()
    check(verified(rig.folder / "events"))


# What must be true of any events, read by themselves.


def check(events):
    """Fold the events by hand; raise at the first that cannot follow from those before it."""
    assert not repeated(e["client_order_id"] for e in events if e["type"] == "order.intended")
    assert not repeated(e["fill_id"] for e in events if e["type"] == "trade.executed")
    stamps = [event["ts"] for event in events]
    assert stamps == sorted(stamps)
    held, level, state, day = defaultdict(Decimal), {}, {}, None
    for event in events:
        kind, symbol = event["type"], event.get("symbol")
        if kind == "day.opened":
            day = event
        elif kind == "trade.executed":
            sign = 1 if event["side"] == "buy" else -1
            held[symbol] += sign * Decimal(event["quantity"])
            assert held[symbol] == Decimal(event["position_quantity"]), event["seq"]
            if not held[symbol]:
                level.pop(symbol, None)
        elif kind in ("stop.placed", "stop.moved") and held[symbol]:
            new, side = Decimal(event["stop_price"]), 1 if held[symbol] > 0 else -1
            if "-stop-" not in event["client_order_id"]:  # else it came with its entry
                assert (new - level.get(symbol, new)) * side >= 0, f"looser: {event}"
                level[symbol] = new
        elif kind == "strategy.signal":
            assert Decimal(event["position_quantity"]) == held[symbol], event["seq"]
            assert event["trading_state"] == strictest(state), event["seq"]
            if day["seq"] == 1:  # a day that began with the books
                lost = Decimal(day["equity"]) - Decimal(event["equity"])
                assert Decimal(event["daily_loss"]) == lost, event["seq"]
        elif kind == "state.changed":
            state[event["kind"]] = event["state"]
        elif kind == "order.intended" and event["purpose"] == "entry":
            assert strictest(state) == "TRADING", event
    return {symbol: quantity for symbol, quantity in held.items() if quantity}


def strictest(states):
    return max(states.values(), key=["TRADING", "REDUCING", "HALTED"].index, default="TRADING")


# A real process.


class Process:
    """`python -m perps_bot`, its folder, and everything that was seen of its events."""

    def __init__(self, folder, profile="dev", **environ):
        self.folder, self.profile, self.seen = folder, profile, {}
        folder.mkdir()
        (folder / "fast.toml").write_text("enter_on_start = true\ntrailing_stop_pct = 0.005\n")
        self.data = folder / "data" / "perps_bot" / profile
        self.events = self.data / ("events" if profile == "dev" else "paper-events")
        self._environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPO), **environ}

    def command(self, *arguments):
        return subprocess.run([sys.executable, "-m", "perps_bot", *arguments], cwd=self.folder,
                              env=self._environ, capture_output=True, text=True,
                              timeout=START_SECONDS_MAX)

    def start(self):
        arguments = ["--profile", self.profile, "--interval", "1", "--bar", "1", "--config",
                     "fast.toml", "--short-ma-period", "2", "--long-ma-period", "10", "--symbols"]
        self._output = open(self.folder / "output", "ab")
        self._process = subprocess.Popen(
            [sys.executable, "-m", "perps_bot", *arguments, *SYMBOLS], cwd=self.folder,
            env=self._environ, stdout=self._output, stderr=subprocess.STDOUT)
        return self

    def lines(self):
        """The whole lines of every file, by name."""
        return {path.name: path.read_bytes().rpartition(b"\n")[0]
                for path in self.events.glob("*.jsonl")}

    def count(self, kind):
        return b"\n".join(self.lines().values()).count(kind)

    def wait_for(self, condition):
        deadline = time.monotonic() + START_SECONDS_MAX
        while not condition(b"\n".join(self.lines().values())):
            assert self._process.poll() is None, self.said()[-2000:]
            assert time.monotonic() < deadline, "it never came"
            time.sleep(0.02)

    def look(self):
        """Remember what it has acknowledged; nothing of it may ever change."""
        now = self.lines()
        for name, content in self.seen.items():
            assert now[name].startswith(content), f"{name} lost what it had acknowledged"
        self.seen = now

    def kill(self):
        self.look()
        assert self._process.poll() is None, self.said()[-2000:]
        self.end(signal.SIGKILL)

    def end(self, number):
        self._process.send_signal(number)
        code = self._process.wait(timeout=START_SECONDS_MAX)
        self._output.close()
        return code

    def said(self):
        path = self.folder / "output"
        return path.read_text() if path.exists() else ""

    def shown_at(self):
        """The tick that people are shown; None before the first."""
        return self.state()["timestamp"] if (self.data / "last_state.json").exists() else None

    def state(self):
        return json.loads((self.data / "last_state.json").read_text())


# How far a life has come when its seconds begin to run: how fast that goes is the machine's affair.
LIVES = [
    # of ten  at least one more of  then up to so many seconds
    (3,       None,                 1.5),
    (4,       b'"bot.started"',     1.5),
    (3,       b'"trade.executed"',  0.3),
]


def kill_again_and_again(folder, kills, seed):
    """Return the types of all events that the process lived through."""
    dice, process = random.Random(seed), Process(folder)
    for _ in range(kills):
        _, kind, seconds = dice.choices(LIVES, [weight for weight, _, _ in LIVES])[0]
        before = process.count(kind) if kind else 0
        process.start()
        if kind:
            process.wait_for(lambda text, kind=kind, more=before: text.count(kind) > more)
        time.sleep(dice.uniform(0, seconds))
        process.kill()
        if process.events.exists():
            check(whole(process.events))
            check_state(process)
    # An exit that the book fills in parts may be under way, and whoever ends then says so.
    assert any(ends_well(process) for _ in range(ENDS_MAX))
    events = verified(process.events)
    return [event["type"] for event in events]


def ends_well(process):
    """End it in good order after a whole tick; whether all that it holds has its stop then.

    Its code says whether it could confirm everything, and its words what it could not.
    """
    starts, before = process.count(b'"bot.started"'), len(process.said())
    process.start()
    process.wait_for(lambda text: text.count(b'"bot.started"') > starts)
    for _ in range(2):  # the first may have been under way
        shown = process.shown_at()
        process.wait_for(lambda _, shown=shown: process.shown_at() != shown)
    code = process.end(signal.SIGTERM)
    process.look()
    held, stopped = check(verified(process.events)), verified(process.events)[-1]
    assert stopped["type"] == "bot.stopped"
    assert {s: Decimal(q) for s, q in stopped["positions"].items()} == held
    assert set(stopped["stops"]) == set(held)
    unconfirmed = [line for line in process.said()[before:].splitlines() if "NOT confirmed" in line]
    assert code == (3 if unconfirmed else 0), process.said()[-3000:]
    # Of an entry that never arrived it takes a minute to prove that; every other one is gone.
    assert not [line for line in unconfirmed
                if " entry is " in line and not line.endswith(" is unknown")], unconfirmed
    return all(stopped["stops"].values())


def whole(events):
    """The events of files whose last line may be torn."""
    copy = events.parent / "copy"
    copy.mkdir(exist_ok=True)
    for path in events.glob("*.jsonl"):
        head, newline, _ = path.read_bytes().rpartition(b"\n")
        (copy / path.name).write_bytes(head + newline)
    return verified(copy)


def check_state(process):
    """What people are shown is what the events say up to the tick of which it is."""
    if not (process.data / "last_state.json").exists():
        return
    state = process.state()
    shown = {row["symbol"]: Decimal(row["quantity"]) for row in state["positions"]}
    told = [event for event in whole(process.events) if event["ts"] <= state["timestamp"]]
    assert shown == check(told)
    assert state["trading_state"] == "TRADING"


def test_kill_minus_nine_at_any_instant_loses_nothing_and_sends_nothing_twice(tmp_path):
    shares = [KILLS // WORKERS + (n < KILLS % WORKERS) for n in range(WORKERS)]
    with ThreadPoolExecutor(WORKERS) as pool:
        lives = list(pool.map(kill_again_and_again, (tmp_path / str(n) for n in range(WORKERS)),
                              shares, range(WORKERS)))
    types = [kind for life in lives for kind in life]
    assert types.count("bot.started") > KILLS / 2  # most kills came after the start
    assert types.count("trade.executed") > KILLS / 5


def test_a_halt_outlives_every_kill_until_it_is_lifted(tmp_path):
    process = Process(tmp_path / "prod", "prod", PERPS_FORCE_MOCK="1").start()
    process.wait_for(lambda text: b'"trade.executed"' in text)
    assert process.end(signal.SIGINT) == 0
    halted = verified(process.events)[-1]["seq"]
    dice = random.Random(4)
    for _ in range(6):
        starts = process.count(b'"bot.started"')
        process.start()
        if dice.random() < 0.7:
            process.wait_for(lambda text: text.count(b'"bot.started"') > starts)
        time.sleep(dice.uniform(0, 1.2))
        process.kill()
        later = [event for event in whole(process.events) if event["seq"] > halted]
        assert all(e["trading_state"] == "HALTED" for e in later if e["type"] == "strategy.signal")
        assert not [e for e in later if e.get("purpose") == "entry" and e["type"][:5] == "order"]
        assert process.state()["trading_state"] == "HALTED"
        assert json.loads((process.data / "health.json").read_text())["ok"] is False
    lifted = process.command("resume", "--profile", "prod", "--reason", "looked at everything")
    assert lifted.returncode == 0, lifted.stderr
    starts = process.count(b'"bot.started"')
    process.start()
    process.wait_for(lambda text: text.count(b'"bot.started"') > starts)
    assert process.end(signal.SIGTERM) == 0
    check(verified(process.events))
    assert process.state()["trading_state"] == "TRADING"
