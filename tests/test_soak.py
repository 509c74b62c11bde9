"""Nothing grows: what a bot holds after three times as long is what it held before.

Counted, not timed: every container that can be reached from the bot, the state files, what opens
a day, open files and threads.  `bin/bench --only growth` runs as long as one likes, with a clock.
"""

import os
import threading
from collections import Counter, deque
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from types import (
    BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType, SimpleNamespace,
)

import pytest
from live import LiveRig

from perps_bot import client, flow, ops, paper, reconcile, rest, store, tracker
from perps_bot.bot import assemble, recover
from perps_bot.loop import attempt
from perps_bot.market import RecordedMarket
from perps_bot.ops import Surfaces
from perps_bot.paper import PaperBroker
from perps_bot.store import EventStore

from helpers import the_settings

BTC, ETH = SYMBOLS = ("BTC-PERP", "ETH-PERP")
MAY = datetime(2025, 5, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
# A third of the run, in ticks of an hour; it holds whole days and whole waves of the market.
THIRD, WAVE = 24 * 36, 24
# A container may be so much longer at one time than at another; what grows does not stop there.
SLACK = 2
LOOK_EVERY = 31  # ticks; not the same hour each day
LIVE_TICKS = 120
NO_STATE = (type, ModuleType, FunctionType, BuiltinFunctionType, CodeType)


def is_container(thing):
    return isinstance(thing, (dict, list, tuple, set, frozenset, deque))


def sizes(root):
    """The longest container at each place that can be reached from `root`, and all objects."""
    seen, found, todo = {}, Counter(), [(root, "bot")]
    while todo:
        thing, place = todo.pop()
        if id(thing) in seen or isinstance(thing, NO_STATE):
            continue
        seen[id(thing)] = thing
        if is_container(thing):
            found[place] = max(found[place], len(thing))
            values = thing.values() if isinstance(thing, dict) else thing
            todo += [(value, f"{place}[]") for value in values]
        todo += [(value, f"{place}.{name}") for name, value in parts_of(thing)]
    found["all objects"] = len(seen)
    return found


def parts_of(thing):
    """What an object of a class of Python's own making consists of."""
    if isinstance(thing, MethodType):
        yield "self", thing.__self__
    yield from getattr(thing, "__dict__", {}).items()
    for kind in type(thing).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in [slots] if isinstance(slots, str) else slots:
            if hasattr(thing, name):
                yield name, getattr(thing, name)


def the_longest(many):
    """At each place, the longest of several looks."""
    found = Counter()
    for one in many:
        found |= one
    return found


def grown(early, late):
    """What is longer in the later looks than in all of the earlier ones."""
    early, late = the_longest(early), the_longest(late)
    return {place: (early[place], count) for place, count in late.items()
            if count > early[place] + SLACK + (place == "all objects") * early[place] // 20}


def test_a_list_that_somebody_forgot_is_found():
    keeper = SimpleNamespace(kept={"orders": []}, newest=deque(maxlen=3))
    looks = []
    for number in range(12):
        keeper.kept["orders"].append(number)
        keeper.newest.append(number)
        looks.append(sizes(keeper))
    assert grown(looks[:4], looks[8:]) == {"bot.kept[]": (4, 12), "all objects": (8, 16)}


class PaperSoak:
    """A paper bot over hourly candles that go up and down each day, with all of its files."""

    def __init__(self, folder):
        self.folder, prices = folder, [100 + min(n, WAVE - n) * 3 for n in range(WAVE)]
        paths = []
        for number, symbol in enumerate(SYMBOLS, 1):
            paths.append(folder / f"{symbol}.csv")
            with open(paths[-1], "w", encoding="utf-8") as file:
                file.write("time,open,high,low,close\n")
                for n in range(3 * THIRD):
                    at, price = MAY + n * HOUR, prices[(n + 7 * number) % WAVE] * number * 100
                    file.write(f"{at.isoformat()},{price},{price + 9},{price - 9},{price + 1}\n")
        self.market = RecordedMarket(paths, SYMBOLS)
        (folder / "bot").mkdir()
        settings = the_settings(symbols=SYMBOLS, bar=3600, short_ma_period=2, long_ma_period=10,
                                paper_equity=Decimal(100_000), trailing_stop_pct=Decimal("0.05"))
        events = EventStore(folder / "bot" / "events", sync=False)
        self.bot = assemble(settings, PaperBroker(self.market, settings.paper_equity), events,
                            "paper-recorded", folder / "bot")
        self.bot.lifts_risk_holds_at_midnight = True
        self.bot.surfaces = Surfaces(folder / "bot", lambda text: None)
        events.subscribe(self.bot.surfaces.apply)
        self.fills = 0
        events.subscribe(self._count)
        recover(self.bot)

    def _count(self, event):
        self.fills += event.type == "trade.executed"

    def ticks(self, count):
        """Tick and publish now and then; return what was held then."""
        looks = []
        for number in range(count):
            now = self.market.advance()
            attempt(self.bot, SimpleNamespace(now=lambda now=now: now))
            assert not self.bot.trouble
            if number % LOOK_EVERY == 0:
                self.bot.publish(now)
                looks.append(sizes(self.bot))
        return looks


@pytest.fixture
def little_is_kept(monkeypatch):
    """The named bounds are reached early; that they hold is what is tested."""
    for room, name in ((tracker, "FINISHED_MAX"), (paper, "HISTORY_MAX"), (flow, "KEPT_MAX"),
                       (ops, "RISK_EVENTS_MAX"), (client, "OWNERS_MAX"),
                       (client, "PAYMENTS_MAX"), (reconcile, "CHANGES_MAX")):
        assert getattr(room, name) >= 20
        monkeypatch.setattr(room, name, 20)


def files_of(folder):
    return {path.name: path.stat().st_size for path in folder.iterdir() if path.is_file()}


def openings(folder):
    """How long the line is that opens each day."""
    days = sorted((folder / "events").glob("*.jsonl"))
    return [len(path.open("rb").readline()) for path in days]


def test_a_paper_bot_holds_no_more_after_a_hundred_days_than_after_thirty(
        tmp_path, little_is_kept):
    soak = PaperSoak(tmp_path)
    first, files = soak.ticks(THIRD), files_of(tmp_path / "bot")
    fds, threads, fills = len(os.listdir("/proc/self/fd")), threading.active_count(), soak.fills
    assert fills > 100, "it trades"
    soak.ticks(THIRD)
    last = soak.ticks(THIRD)
    assert soak.fills > 2.8 * fills, "to the end"
    assert grown(first, last) == {}
    assert len(os.listdir("/proc/self/fd")) <= fds and threading.active_count() <= threads
    later = files_of(tmp_path / "bot")
    assert later.keys() == files.keys()
    # Sums get longer by a digit or two.
    assert {name: (files[name], size) for name, size in later.items()
            if size > files[name] * 1.1 + 100} == {}
    days = openings(tmp_path / "bot")
    assert max(days[-30:]) <= max(days[:36]) * 1.1
    soak.bot.store.close()


def test_a_start_opens_one_days_file_of_a_long_history(tmp_path, little_is_kept, monkeypatch):
    soak = PaperSoak(tmp_path)
    soak.ticks(24 * 20)
    soak.bot.store.close()
    opened, real = [], store._open

    def noting(path, flags):
        opened.append(os.fspath(path))
        return real(path, flags)

    monkeypatch.setattr(store, "_open", noting)
    again = EventStore(tmp_path / "bot" / "events", sync=False)
    assert again.recover().events > 5
    again.close()
    newest = max((tmp_path / "bot" / "events").glob("*.jsonl"))
    assert {path for path in opened if path.endswith(".jsonl")} == {str(newest)}


def test_a_live_bot_holds_no_more_after_many_trades_than_after_some(
        tmp_path, little_is_kept, monkeypatch):
    """An hour a tick, five days; what is remembered for days is remembered for hours here."""
    monkeypatch.setattr(rest, "REQUESTS_PER_SECOND_MAX", 60)
    monkeypatch.setattr(tracker, "SEEN_FOR", 6 * HOUR)
    settings = dict(bar=3600, enable_shorts=True, max_daily_loss_pct=Decimal(1),
                    max_drawdown_pct=Decimal(1), short_ma_period=2, long_ma_period=10)
    with LiveRig(tmp_path, with_feed=True, **settings) as rig:
        rig.history([60000 - 10 * n for n in range(60, 0, -1)], seconds=3600)
        rig.price(60000)
        rig.start()
        looks, fds = [], []
        for number in range(LIVE_TICKS):
            rig.price(60000 + min(number % 16, 16 - number % 16) * 100)
            rig.tick(3600)
            looks.append(sizes(rig.bot))
            fds.append(len(os.listdir("/proc/self/fd")))
        assert len(rig.of("trade.executed")) > 15 and not rig.bot.trouble
        assert grown(looks[48:84], looks[84:]) == {}
        assert max(fds[84:]) <= max(fds[:48])
