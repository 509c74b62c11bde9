"""The specification of `perps_bot/ops.py`: what the owner sees, and what `check` proves."""

import json
import logging
import os
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import pytest

from perps_bot import __version__
from perps_bot.checklist import check, settings_text
from perps_bot.diary import log_to
from perps_bot.errors import OrderRejected, StoreDamaged, VenueUnavailable
from perps_bot.event import Event
from perps_bot.bot import assemble, recover
from perps_bot.loop import attempt
from perps_bot.market import SyntheticMarket
from perps_bot.model import Side, TradingState
from perps_bot.ops import (
    HEALTH_SECONDS_MIN, RISK_EVENTS_MAX, Surfaces, health, settings_hash, warn,
)
from perps_bot.paper import PaperBroker
from perps_bot.settings import resolve
from perps_bot.store import EventStore, Recovery, read_events
from perps_bot.words import fields_line

ROOT = Path(__file__).resolve().parent.parent
NOON = datetime(2025, 5, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
BTC, ETH = "BTC-PERP", "ETH-PERP"


class QuietMarket(SyntheticMarket):
    """A synthetic market that has no quote for the symbols in `silent`."""

    silent: tuple = ()

    def marks(self, symbols, now):
        marks = super().marks(symbols, now)
        return {symbol: mark for symbol, mark in marks.items() if symbol not in self.silent}


class ADesk:
    """A bot over a synthetic market, with its surfaces, in a folder."""

    market_of = QuietMarket

    def __init__(self, folder, **flags):
        self.folder, self.told, self.now = folder, [], NOON
        self.settings = resolve(flags, {})
        self.market = self.market_of(self.settings.seed)
        store = EventStore(folder / "events", NOON)
        self.bot = assemble(self.settings, PaperBroker(self.market), store, "paper-synthetic",
                            folder)
        self.surfaces = self.bot.surfaces = Surfaces(folder, self.told.append)
        store.subscribe(self.surfaces.apply)
        recover(self.bot)
        self.surfaces.is_live = True

    def tick(self, after=SECOND):
        self.now += after
        attempt(self.bot, SimpleNamespace(now=lambda: self.now))
        self.surfaces.publish(self.bot, self.now)
        return self

    def buy(self, quantity, symbol=BTC):
        return self.bot.engine.place_order(symbol, "buy", Decimal(quantity))

    def health(self):
        return json.loads((self.folder / "health.json").read_text())

    def state(self):
        return json.loads((self.folder / "last_state.json").read_text())

    def risk_events(self):
        return json.loads((self.folder / "risk_events.json").read_text())


@pytest.fixture
def desk(tmp_path):
    return ADesk(tmp_path, symbols=[BTC, ETH]).tick()


# health.json


def test_health_has_the_promised_fields_in_their_order(desk):
    assert desk.health() == {
        "timestamp": desk.now.isoformat(), "ok": True, "profile": "dev", "symbols": [BTC, ETH],
        "last_decisions": {BTC: "hold", ETH: "hold"}, "message": "", "error": "",
        "valid_until": (desk.now + timedelta(seconds=15)).isoformat(), "pid": os.getpid(),
        "broker": "paper-synthetic", "trading_state": "TRADING", "liquidation_guard": "armed",
        "feed": None, "version": __version__, "settings_hash": settings_hash(desk.settings),
        "alerts": [], "delivery": None,
    }
    assert list(desk.health())[:7] == ["timestamp", "ok", "profile", "symbols", "last_decisions",
                                       "message", "error"]


def hold(kind, state):
    return lambda desk: desk.bot.risk.hold(kind, state, "by the test")


@pytest.mark.parametrize("spoil, is_ok", [
    (lambda desk: None,                                                   True),
    (hold("settings", TradingState.REDUCING),                             True),
    (hold("operator", TradingState.REDUCING),                             False),
    (hold("settings", TradingState.HALTED),                               False),
    (lambda desk: desk.bot.untraded.add(BTC),                             False),
    (lambda desk: setattr(desk.bot, "trouble", "VenueUnavailable: down"), False),
    (lambda desk: setattr(desk.bot.store, "trouble", "disk full"),        False),
    (lambda desk: setattr(desk.bot.engine, "marks", {}),                  False),
    (lambda desk: setattr(desk.bot, "is_over", True),                     False),
])
def test_health_is_ok_only_when_nothing_needs_a_person(desk, spoil, is_ok):
    spoil(desk)
    assert health(desk.bot, desk.now)["ok"] is is_ok


def test_a_failed_tick_stands_in_health_and_the_next_good_one_takes_it_away(desk, monkeypatch):
    def down(*_):
        raise VenueUnavailable("nobody answers")

    with monkeypatch.context() as venue:
        venue.setattr(desk.market, "marks", down)
        said = desk.tick().health()
    assert (said["ok"], said["error"]) == (False, "VenueUnavailable: nobody answers")
    assert desk.tick().health()["error"] == ""


@pytest.mark.parametrize("interval, seconds", [("1", HEALTH_SECONDS_MIN), ("30", 90)])
def test_health_is_valid_for_some_ticks_and_then_expires(tmp_path, interval, seconds):
    desk = ADesk(tmp_path, interval=interval).tick()
    valid_until = datetime.fromisoformat(desk.health()["valid_until"])
    assert valid_until - desk.now == timedelta(seconds=seconds)


def test_the_health_of_a_bot_that_stopped_has_expired(desk):
    desk.bot.is_over = True
    said = health(desk.bot, desk.now)
    assert said["valid_until"] == said["timestamp"] == desk.now


def test_a_symbol_without_a_mark_is_named(desk):
    desk.market.silent = (ETH,)
    said = desk.tick().health()
    assert not said["ok"]
    assert "No mark price for symbol ETH-PERP" in said["message"]


@pytest.mark.parametrize("moved", [".", "events"])
def test_a_folder_that_is_moved_away_under_a_bot_ends_its_entries_and_not_its_exits_A13(
        desk, moved, caplog):
    """Nothing fails by itself: the open file goes with its folder, and takes every line."""
    desk.buy("0.01")
    desk.tick()
    folder = desk.folder if moved == "." else desk.folder / moved
    elsewhere = folder.rename(folder.with_name("elsewhere"))
    with caplog.at_level(logging.ERROR, "perps_bot"):
        desk.tick()
    assert "was moved away while in use" in desk.bot.store.trouble
    assert "alert code=EVENTS_NOT_WRITTEN" in caplog.text
    assert not health(desk.bot, desk.now)["ok"]
    with pytest.raises((OrderRejected, StoreDamaged)):
        desk.buy("0.02")
    desk.bot.protector.exit(BTC, "out")
    desk.tick().tick()
    assert desk.bot.tracker.get_position(BTC).quantity == 0
    kept = elsewhere if moved == "events" else elsewhere / "events"
    assert [e.type for e in read_events(kept)].count("trade.executed") == 2


def test_health_names_the_version_and_the_settings_K5(tmp_path):
    one, same, other = (ADesk(tmp_path / name, interval=interval).tick().health()
                        for name, interval in (("a", "5"), ("b", "5"), ("c", "6")))
    assert one["version"] == __version__ and len(one["settings_hash"]) == 12
    assert one["settings_hash"] == same["settings_hash"] != other["settings_hash"]


# last_state.json


def test_the_state_adds_up_and_shows_the_stop(tmp_path):
    desks = (ADesk(tmp_path / str(seed), seed=str(seed)).tick() for seed in range(40))
    desk = next(d for d in desks if d.bot.strategy.memory(BTC)["side"] is Side.BUY)
    desk.buy("0.02")
    state = desk.tick().state()
    account = {name: Decimal(value) for name, value in state["account"].items()}
    assert account["equity"] == (
        account["start_equity"] + account["realized_pnl"] + account["unrealized_pnl"]
        - account["fees"] - account["funding"]) == account["venue_equity"]
    (position,) = state["positions"]
    assert (position["symbol"], position["quantity"]) == (BTC, "0.02")
    assert Decimal(position["stop_price"]) < Decimal(position["entry_price"])
    (order,) = state["orders"]
    assert (order["purpose"], order["side"], order["status"], order["remaining"]) == (
        "stop", "sell", "open", "0.02")
    assert order["stop_price"] == position["stop_price"]
    notional = Decimal("0.02") * Decimal(position["mark_price"])
    assert abs(Decimal(state["leverage"]["used"]) - notional / account["equity"]) <= Decimal(
        "0.00005")
    assert len(state["leverage"]["used"]) == len("0.1659")
    assert state["leverage"]["limit"] == "3"
    loss = state["daily_loss"]
    assert Decimal(loss["loss"]) == account["start_equity"] - account["equity"]
    assert Decimal(loss["limit"]) == 500


def test_the_success_rate_counts_todays_orders(desk, monkeypatch):
    assert desk.state()["order_success_rate"] is None
    desk.buy("0.01")
    desk.tick()
    assert desk.state()["order_success_rate"] == "1.0000"
    resting = desk.bot.engine.place_order(BTC, "buy", Decimal("0.02"), "limit", Decimal(70000))
    desk.bot.engine.cancel_order(resting.id)
    assert desk.tick().state()["order_success_rate"] == "1.0000"  # one order, two answers
    monkeypatch.setattr(desk.bot.venue, "place", refuse)
    with pytest.raises(OrderRejected, match="TRADING_DISABLED"):
        desk.buy("0.03")
    sent = sum(event.type == "order.intended" for event in desk.bot.store.read())
    rate = Decimal(desk.tick().state()["order_success_rate"])
    assert rate == (1 - Decimal(1) / sent).quantize(Decimal("0.0001"))
    assert desk.tick(timedelta(days=1)).state()["order_success_rate"] is None


def refuse(*_):
    raise OrderRejected("TRADING_DISABLED", "TRADING_DISABLED: closed")


def test_the_signal_rate_is_the_share_of_decisions_that_were_no_hold(desk):
    def rate(**action):
        desk.surfaces.apply(seen[-1]._replace(data={**seen[-1].data, **action}))
        return desk.tick().state()["signal_rate"]

    seen = [event for event in desk.bot.store.read() if event.type == "strategy.signal"]
    assert desk.state()["signal_rate"] == "0.0000"
    assert rate(action="buy") == "0.3333"
    assert rate(action="close") == "0.5000"


def test_a_restart_goes_on_counting_the_day(desk):
    desk.buy("0.01")
    before = desk.tick().state()
    again = ADesk(desk.folder, symbols=[BTC, ETH])
    again.now = desk.now
    assert again.tick().state()["order_success_rate"] == before["order_success_rate"] == "1.0000"


# When, and whether, files are written


def test_the_files_are_renamed_at_most_once_a_second(desk):
    before = desk.health()["timestamp"]
    assert desk.tick(SECOND / 2).health()["timestamp"] == before
    assert desk.tick(SECOND / 2).health()["timestamp"] == desk.now.isoformat()


@pytest.mark.parametrize("error, message", [("bug: KeyError: 'x'", ""), ("", "stopped by SIGINT")])
def test_what_a_person_must_read_is_written_at_once(desk, error, message):
    desk.bot.message = message
    desk.surfaces.publish(desk.bot, desk.now + SECOND / 10, error)
    assert (desk.health()["error"], desk.health()["message"]) == (error, message)


def test_a_clock_that_went_back_does_not_silence_the_files(desk):
    desk.surfaces.publish(desk.bot, desk.now - timedelta(hours=1))
    assert desk.health()["timestamp"] == (desk.now - timedelta(hours=1)).isoformat()


def test_a_file_that_cannot_be_written_is_said_once_and_stops_nothing(desk, caplog):
    (desk.folder / "health.json").unlink()
    (desk.folder / "health.json").mkdir()
    (desk.folder / "health.json" / "x").touch()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            desk.tick()
    assert sum("health.json was not written" in line for line in caplog.messages) == 1
    assert desk.state()["timestamp"] == desk.now.isoformat()
    (desk.folder / "health.json" / "x").unlink()
    (desk.folder / "health.json").rmdir()
    assert desk.tick().health()["ok"]
    (desk.folder / "health.json").unlink()
    (desk.folder / "health.json").mkdir()
    with caplog.at_level(logging.WARNING):
        desk.tick()
    assert sum("health.json was not written" in line for line in caplog.messages) == 2


# risk_events.json and the diary


def test_risk_events_are_an_array_with_the_newest_last_and_bounded(desk):
    assert desk.risk_events() == []
    for number in range(RISK_EVENTS_MAX + 5):
        desk.bot.store.append("feed.stale", text=f"number {number}")
    rows = desk.tick().risk_events()
    assert len(rows) == RISK_EVENTS_MAX
    assert rows[-1]["text"] == f"number {RISK_EVENTS_MAX + 4}"
    assert rows[-1].keys() == {"seq", "ts", "type", "text"}
    assert [row["seq"] for row in rows] == sorted(row["seq"] for row in rows)


@pytest.mark.parametrize("name", ["risk_events.json", "marks.json"])
def test_what_says_the_same_is_left_alone_and_made_again_where_it_is_gone(desk, name):
    path = desk.folder / name
    before = path.stat().st_ino, path.read_bytes()
    desk.tick()
    assert (path.stat().st_ino, path.read_bytes()) == before
    path.unlink()
    desk.tick()
    assert path.read_bytes() == before[1]
    desk.bot.store.append("feed.stale", text="news")
    desk.tick(timedelta(minutes=2))
    assert path.read_bytes() != before[1]


def test_risk_events_outlive_the_day_and_the_process(desk):
    desk.bot.store.append("feed.stale", text="yesterday")
    desk.tick(timedelta(days=1))
    again = ADesk(desk.folder, symbols=[BTC, ETH])
    again.now = desk.now
    assert [row["text"] for row in again.tick().risk_events()] == ["yesterday"]


def test_the_diary_has_a_line_for_what_happened_and_none_for_a_hold(desk, caplog):
    with caplog.at_level(logging.INFO, "perps_bot"):
        desk.buy("0.01")
        desk.bot.risk.activate_kill_switch("enough")
        desk.tick()
    said = [(record.levelname, record.message.split()[0]) for record in caplog.records]
    assert ("INFO", "trade.executed") in said
    assert ("WARNING", "state.changed") in said
    assert not [line for line in caplog.messages if "action=hold" in line]


def test_a_line_of_an_order_is_written_after_its_answer_or_its_tick_and_in_order(desk, caplog):
    def happens(type):
        desk.surfaces.apply(Event(1, desk.now, type, {"client_order_id": "one"}))
        return [line.split()[0] for line in caplog.messages]

    with caplog.at_level(logging.INFO, "perps_bot"):
        assert happens("order.intended") == []
        assert happens("order.unknown") == ["order.intended", "order.unknown"]
        caplog.clear()
        assert happens("order.intended") == []
        desk.surfaces.publish(desk.bot, desk.now)
        assert caplog.messages == ["order.intended client_order_id=one"]


def test_events_that_are_only_read_back_are_not_written_into_the_diary_again(desk, caplog):
    desk.buy("0.01")
    with caplog.at_level(logging.INFO, "perps_bot"):
        caplog.clear()
        ADesk(desk.folder, symbols=[BTC, ETH])
    assert not [line for line in caplog.messages if "trade.executed" in line]


@pytest.mark.parametrize("data, line", [
    ({"symbol": BTC, "quantity": Decimal("0.10")},   "symbol=BTC-PERP quantity=0.10"),
    ({"side": Side.BUY, "at": NOON},                 "side=buy at=2025-05-01T12:00:00+00:00"),
    ({"a": "", "b": None, "c": {"d": 1}, "e": [1]},  ""),
    ({"filled": 0},                                  "filled=0"),
    ({"answer": "no\n2025 INFO all is well\x1b[0m"}, r"answer='no\n2025 INFO all is well\x1b[0m'"),
])
def test_an_event_is_one_line_of_the_diary_whatever_the_venue_wrote(data, line):
    assert fields_line(data) == line


# check


def rows_of(*symbols, market=None, **flags):
    settings = resolve({"symbols": list(symbols or (BTC,)), **flags}, {})
    return list(check(settings, market or SyntheticMarket(1), NOON))


def test_check_proves_one_order_for_each_symbol_and_side():
    assert [(row.name, row.ok) for row in rows_of(BTC, ETH, profile="prod")] == [
        ("BTC-PERP long", True), ("BTC-PERP short", True),
        ("ETH-PERP long", True), ("ETH-PERP short", True),
    ]
    assert [row.name for row in rows_of(BTC, profile="dev")] == ["BTC-PERP long"]


@pytest.mark.parametrize("flags, leverage", [
    ({"profile": "dev"}, "at 2x"), ({"profile": "demo"}, "at 1x"),
    ({"profile": "prod", "target_leverage": "5"}, "at 3x"),
])
def test_check_names_the_leverage_in_force(flags, leverage):
    assert leverage in rows_of(**flags)[0].text


def test_check_never_lets_pass_what_the_loop_could_not_buy():
    """Around the least equity that buys one contract, `check` and the loop agree to the cent."""
    price = SyntheticMarket(1).marks([BTC], NOON)[BTC].ask
    enough = price * Decimal("0.01") / Decimal("0.4")  # 20 % of equity at 2x
    for equity, ok in ((enough, True), (enough - Decimal("0.01"), False)):
        (row,) = rows_of(paper_equity=f"{equity:f}")
        assert row.ok is ok


def test_the_advice_of_check_leaves_room_for_the_price_to_move():
    (row,) = rows_of(profile="demo")
    least, advised = re.search(r"smallest order is ([\d.]+) USD: set --max-position (\d+)",
                               row.text).groups()
    assert Decimal("1.08") < int(advised) / Decimal(least) < Decimal("1.13")


def test_check_says_what_is_not_listed_and_what_has_no_price():
    market = QuietMarket(1)
    market.silent = (ETH,)
    unlisted, unpriced = rows_of("DOGE-PERP", ETH, market=market)
    assert not unlisted.ok and "DOGE-PERP: no such product" in unlisted.text
    assert not unpriced.ok and "No mark price for symbol ETH-PERP" in unpriced.text


def test_the_settings_stand_in_columns_without_secrets():
    settings = resolve({}, {"COINBASE_API_KEY": "swordfish"})
    rows = settings_text(settings).splitlines()
    assert len({line.rindex("  ") for line in rows if line.endswith("  default")}) == 1
    assert "swordfish" not in "".join(rows)


# What the owner is warned of at a start


@pytest.mark.parametrize("found, flags, level, words", [
    (Recovery(torn_bytes=17), {}, "WARNING", "17 bytes of a last write that did not finish"),
    (Recovery(damage="1.jsonl line 3"), {}, "ERROR",
     "the events are damaged, nothing is increased: 1.jsonl line 3: see 'Damaged events'"),
    (Recovery(), {"order_type": "limit", "time_in_force": "GTC"}, "WARNING",
     "a resting entry outlives a dead bot"),
], ids=["torn", "damaged", "GTC"])
def test_a_start_warns_of_what_the_owner_must_look_at(found, flags, level, words, caplog):
    warn(resolve(flags, {}), found)
    (record,) = caplog.records
    assert record.levelname == level and words in record.message


def test_a_start_with_nothing_the_matter_warns_of_nothing(caplog):
    warn(resolve({}, {}), Recovery())
    assert caplog.records == []


def test_what_stands_in_the_way_is_said_and_that_it_no_longer_does(desk, caplog):
    with caplog.at_level(logging.WARNING, "perps_bot"):
        desk.market.silent = (BTC,)
        desk.tick()
        desk.market.silent = ()
        desk.tick()
    said = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert said[0].startswith(f"No mark price for symbol {BTC}")
    assert said[-1] == "nothing stands in the way any more"


# The log


WRITER = """
import logging, sys
from perps_bot import diary
from perps_bot.settings import resolve

diary.LOG_BYTES_MAX, diary.LOG_FILES = 5_000, 90
diary.log_to(resolve({}, {}))
log = logging.getLogger("perps_bot")
log.handlers = log.handlers[1:]
print("begun", flush=True)
sys.stdin.readline()
for n in range(1500):
    log.warning("bot %s line %s end", sys.argv[1], n)
"""


def test_bots_that_share_a_log_lose_no_line_of_it(tmp_path):
    """As `dev` and `demo` do that are started in the same folder."""
    bots = [subprocess.Popen([sys.executable, "-c", WRITER, name], cwd=tmp_path, text=True,
                             stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                             env={**os.environ, "PYTHONPATH": str(ROOT)}) for name in "ab"]
    for bot in bots:
        assert bot.stdout.readline() == "begun\n"
    for bot in bots:
        bot.stdin.write("\n")
        bot.stdin.flush()
    for bot in bots:
        bot.communicate()
        assert bot.returncode == 0
    files = list((tmp_path / "logs").iterdir())
    lines = [line for path in files for line in path.read_text().splitlines()]
    said = sorted(re.sub(r"^\S+ WARNING ", "", line) for line in lines)
    assert said == sorted(f"bot {name} line {n} end" for name in "ab" for n in range(1500))
    assert len(files) > 10 and {path.stat().st_mode & 0o777 for path in files} == {0o600}


def test_a_log_that_somebody_removed_is_written_anew(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    log_to(resolve({}, {}))
    log = logging.getLogger("perps_bot")
    log.warning("one")
    path = tmp_path / "logs" / "perps_bot.log"
    path.rename(tmp_path / "taken")
    log.warning("two")
    for handler in log.handlers:
        handler.close()
    log.handlers = []
    assert "two" in path.read_text() and "one" in (tmp_path / "taken").read_text()
