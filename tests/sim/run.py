"""Run: what happens under one seed?

A schedule of faults over the real bot: noisy ticks, then quiet ones in which it must converge.
Its result is a hash of everything that was sent, answered, recorded and published.
"""

import hashlib
import json
import logging
import os
import random
import shutil
import signal
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from pathlib import Path

from perps_bot import client as client_room
from perps_bot import feed as feed_room
from perps_bot import ops as ops_room
from perps_bot import rest as rest_room
from perps_bot import store as store_room
from perps_bot.bot import assemble, recover
from perps_bot.client import CoinbasePerpetualsClient
from perps_bot.clock import StopRequest, SystemClock
from perps_bot.control import Control
from perps_bot.errors import ConfigError
from perps_bot.loop import run
from perps_bot.mailbox import Mailbox
from perps_bot.model import OrderType, TimeInForce
from perps_bot.ops import Surfaces
from perps_bot.rest import Rest, VenueClock
from perps_bot.settings import resolve
from perps_bot.store import EventStore

from .checks import Broken, Checks
from .faults import FAULTS, Pair
from .net import Lane, Wire
from .stream import Stream
from .seams import Disk, Killed, SignalQueue, Signer, Time, wired
from .world import BTC, ETH, World

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)  # a Monday
NOISY_TICKS = 60
# It must have converged after the most; where it has after the least, the rest is not looked at.
QUIET_TICKS_MIN, QUIET_TICKS = 12, 26
NOISY_SECONDS, QUIET_SECONDS = 4, 5  # a tick takes so long at least, on the whole
URL = "http://127.0.0.1:9"  # never opened
RESTART_SECONDS = 10
PUBLISH_SECONDS = 24  # where nothing changes; every tenth seed publishes at each tick
PROCESSES_MAX = 200
UNTRACED = (b'"type":"strategy.signal"', b'"type":"position.updated"', b'"type":"funding.rate"')
LOG = logging.getLogger("perps_bot")


class Over(BaseException):
    """The schedule is done."""


class Result:
    """What came of one seed.

    broken  the invariant that did not hold, in words; "" when all held
    digest  the hash of the trace; `wire` that of requests and answers alone
    """

    def __init__(self, sim, broken):
        self.seed, self.kinds, self.ticks, self.broken = sim.seed, sim.kinds, sim.tick, broken
        self.digest, self.wire = sim._hash.hexdigest(), sim._wire_hash.hexdigest()
        self.trace, self.figures = sim.trace, sim.figures()


# Drawn apart, so that every other schedule stays what it was.
ASKED = ("halt asked", "close-all asked")


class Clock(SystemClock):
    """The loop's clock; between two ticks the schedule looks at what came of the last."""

    def __init__(self, sim, *arguments):
        super().__init__(*arguments)
        self._sim = sim

    def wait(self, seconds):
        self._sim.after_tick()
        number = super().wait(seconds)
        self._sim.before_tick()
        return number

    def wall(self):
        return self._sim.time.wall()


class Sim:
    """One seed: a world, a bot that dies and comes back, and what must hold after each step."""

    def __init__(self, seed, folder, kinds=None, ticks=NOISY_TICKS, traces=False, is_pair=False):
        self.seed, self.folder, self.noisy_ticks, self.traces = seed, Path(folder), ticks, traces
        self._folder_names = str(self.folder).encode(), json.dumps(str(self.folder))[1:-1].encode()
        # Streams of their own: leaving out one kind of fault leaves the others as they were.
        self.dice = random.Random(f"{seed} schedule")
        self.kinds, self.is_pair = self._drawn() if kinds is None else list(kinds), is_pair
        self.trace, self._hash, self._wire_hash = [], hashlib.sha256(), hashlib.sha256()
        begin = NOON
        if "midnight" in self.kinds:
            begin = datetime(2026, 11, 23, 23, 57, tzinfo=UTC)
        self.time = Time(begin)
        self.settings = self._drawn_settings()
        self.world = World(self.time, random.Random(f"{seed} world"), self.settings.symbols)
        self.disk = Disk(self.step, self._noted)
        self.wire = Wire(self.time, random.Random(f"{seed} wire"), self.world, self.digest,
                         self.step)
        self.with_feed = random.Random(f"{seed} feed").random() < 0.5 or any(
            FAULTS[kind].row.startswith("F") and kind.startswith("feed") for kind in self.kinds)
        self.stream = Stream(self)
        self.world.told = self.stream.publish
        self.checks = Checks(self)
        self.wire.before, self.wire.after = self.checks.before_request, self._after_request
        self.world.heard = self.checks.answered
        self.wire.ordered, self.at_orders = self._ordered, []
        self.disturbed_until, self.is_quiet, self.is_over = 0.0, False, False
        self.tick = self.processes = self.operations = self.asked = 0
        self.bot = self.signals = self.clock = None
        self._due_ops, self.power, self.exits = [], False, []
        self._ticked_at = None

    # What is drawn

    def _drawn(self):
        count = self.dice.choice((0, 1, 2, 2, 3, 3, 4, 5, 6, 8, 12, 16))
        drawn = self.dice.sample(sorted(FAULTS.keys() - {*ASKED}), count)
        dice = random.Random(f"{self.seed} asked")
        return sorted(drawn + [name for name in ASKED if dice.random() < 0.15])

    def _drawn_settings(self):
        dice = random.Random(f"{self.seed} settings")
        bar = dice.choice((5, 10, 60))
        return resolve({"profile": "prod", "symbols": [BTC]}, {}).replace(
            symbols=dice.choice(((BTC,), (BTC,), (BTC, ETH))), enter_on_start=True, bar=bar,
            short_ma_period=2 if bar < 60 else 5, long_ma_period=10 if bar < 60 else 20,
            enable_shorts=dice.random() < 0.8, interval=Decimal(5),
            order_type=dice.choice((OrderType.MARKET, OrderType.LIMIT)),
            time_in_force=dice.choice((TimeInForce.GTD, TimeInForce.GTD, TimeInForce.IOC)),
            trailing_stop_pct=Decimal(dice.choice(("0.005", "0.01"))),
            bracket_profit_pct=Decimal(dice.choice(("0.01", "0.2"))),
            max_position=Decimal(dice.choice((1500, 50_000))),
        )

    # The whole

    def run(self):
        broken = ""
        lane = lambda name, origin: Lane(self.wire, name)  # noqa: E731
        signals = partial(SignalQueue, self.time)
        more = [
            (ops_room, "PUBLISH_EVERY", timedelta(
                seconds=1 if self.seed % 10 == 0 else PUBLISH_SECONDS)),
            (client_room, "PAGE_ROWS", 3 if self.seed % 4 == 1 else client_room.PAGE_ROWS),
        ]
        if self.seed % 10 != 5:  # the others have the real parts
            more += [(rest_room, "decoded", self.wire.decoded),
                     (ops_room, "exposition", lambda state, said: "")]
        level = LOG.level
        LOG.setLevel(logging.CRITICAL + 1)  # for its children, too
        try:
            with wired(self.time, self.disk, lane, signals, more):
                for fault in ([Pair(*self.kinds)] if self.is_pair
                              else [FAULTS[name] for name in self.kinds]):
                    fault.begin(self)
                self._live()
                self.checks.at_the_end()
        except Broken as error:
            broken = str(error)
        finally:
            feed_room.threading = threading
            self._close()
            LOG.setLevel(level)
        return Result(self, broken)

    def figures(self):
        return {"requests": self.wire.count, "struck": self.wire.struck + self.disk.struck,
                "processes": self.processes, "creates": len(self.checks.creates),
                "fills": len(self.world.engine.fills), "ticks": self.tick,
                "events": self.checks.journal.seq}

    def _live(self):
        """One process after the other, until the schedule is done."""
        while not self.is_over:
            self.processes += 1
            if self.processes > PROCESSES_MAX:
                self.checks.fail("A24", "it does not stop crashing")
            how = self._process()
            self.say(f"process {self.processes} ended: {how}")
            try:
                if not self.is_over:
                    self._between(how)
            except Over:
                pass

    def _process(self):
        """The life of one process; how it ended."""
        try:
            self._start()
            self.before_tick()
            code = run(self.bot, self.clock)
            self.checks.process_stopped(code)
            return f"exit {code}"
        except Killed:
            return "killed"
        except Over:
            self.is_over = True
            return "over"
        except ConfigError as refusal:
            return f"exit 2: {refusal}"
        except Broken:
            raise
        except Exception as bug:
            if os.environ.get("PERPS_SIM_RAISE"):
                raise
            self.checks.fail("untyped", f"a bug ended the process: {type(bug).__name__}: {bug}")

    def _start(self):
        self.disk.revive()
        self.wire.is_dead = False
        self.wire.process = self.processes
        self.checks.process_starts()
        self.signals = StopRequest()
        clock = VenueClock(self.time.wall, self.time.monotonic)
        self.rest = Rest(URL, Signer(), clock, self.signals.interrupts,
                         jitter=random.Random(f"{self.seed} {self.processes}"))
        feed = self._feed(clock) if self.with_feed else None
        client = CoinbasePerpetualsClient(self.rest, feed, self.settings.symbols)
        profile = self.folder / "profile"
        store = EventStore(profile / "events")
        self.bot = assemble(self.settings, client, store, "coinbase", profile)
        self.bot.feed = feed
        mailbox = Mailbox(profile / "control")
        self.bot.control, self.signals.is_asked = Control(store, mailbox), mailbox.is_asked
        self.bot.surfaces = Surfaces(profile, self.say)
        store.subscribe(self.bot.surfaces.apply)
        recover(self.bot)
        self.clock = Clock(self, self.signals, clock.now)

    def _feed(self, clock):
        make = self.stream.feed(clock.now, self.signals.wake)
        feed_room.threading = self.stream.threading
        return make()

    def _between(self, how):
        """Nobody runs: what a supervisor and the owner do."""
        self._close()
        self.checks.process_ended(how)
        if how == "killed":
            if self.power:
                self.disk.lose_power(self.dice)
            self.power = False
        self.disk.stamp(self.folder, 1_000_000_000 + self.processes)
        self.time.advance(RESTART_SECONDS)
        self.checks.files_changed()
        if "exit" in how and (self.is_quiet or self.dice.random() < 0.7):
            self._resume()
        self.tick += 1  # so that one that dies or refuses at each start does not do so for ever
        self._pace()

    def _resume(self):
        """The owner lifts what holds, as `perps-bot resume` does."""
        self.disk.revive()
        store = None
        try:
            store = EventStore(self.folder / "profile" / "events")
            bot = assemble(self.settings, _Nobody(), store, "coinbase", self.folder / "profile")
            recover(bot)
            bot.store.now = self.time.venue()
            bot.risk.resume("the schedule says so", bot.store.now.date(), clear_daily_loss=True)
        except (Killed, ConfigError):  # it dies, or the disk refuses it: what holds still holds
            pass
        if store is not None:
            store.close()
        self.checks.files_changed()

    def _close(self):
        if self.bot is not None:
            self.bot.store.close()
            self.bot = None

    # Steps

    def before_tick(self):
        self.wire.tick = self.tick
        self._ticked_at = self.time.mono
        self.checks.tick_begins()

    def after_tick(self):
        if self.bot is None:
            return
        self.world.arrive()
        self.checks.tick_ended(self.time.mono - self._ticked_at)
        self.tick += 1
        self._pace()

    def _pace(self):
        if not self.is_quiet and self._is_done(self.noisy_ticks, 0, 1000.0, NOISY_SECONDS):
            self.calm()
            self._calm_from = self.tick, self.time.mono
        if self.is_quiet and (self._is_done(QUIET_TICKS, *self._calm_from, QUIET_SECONDS)
                              or self._has_converged()):
            self.is_over = True
            raise Over

    def _has_converged(self):
        """Whether all that must hold at the end holds early; every tenth seed goes on anyway."""
        return (self.seed % 10 and self._is_done(QUIET_TICKS_MIN, *self._calm_from, QUIET_SECONDS)
                and self.checks.are_settled())

    def _is_done(self, ticks, since_tick, since, seconds):
        """Whether so many ticks and their time are over: a woken loop ticks more often."""
        return (self.tick - since_tick >= ticks and self.time.mono - since >= ticks * seconds)

    def calm(self):
        """From here on nothing goes wrong."""
        self.is_quiet = self.world.quiet = True
        self._due_ops = []
        self.wire.rules.clear()
        self.say("quiet from here on")
        self.world.exchange.fault("clear")
        for name in self.kinds:
            FAULTS[name].end(self)
        for symbol in self.settings.symbols:
            self.world.show(symbol)

    def step(self, where, size=0):
        """One operation of the bot: here it may die, or a signal may come."""
        if self.disk.is_dead:
            raise Killed
        self.operations += 1
        if self._due_ops:
            for due in [each for each in self._due_ops if each[0] <= self.operations]:
                self._due_ops.remove(due)
                due[1](where, size)

    def at_operation(self, count, do):
        self._due_ops.append((self.operations + count, do))

    def _ordered(self):
        if not self.is_quiet:
            self.world.arrive()
            for fault, dice in self.at_orders:
                fault.at_an_order(self, dice)

    def kill(self, where="", size=0):
        self.say(f"killed at {where}")
        self.disk.die()
        self.wire.is_dead = True
        raise Killed(self.dice.randrange(size + 1) if size else 0)

    def signal(self, name):
        if self.signals is not None and not self.disk.is_dead:
            self.say(f"signal {name}")
            self.checks.signalled(name)
            self.signals._take(getattr(signal, name), None)

    def ask(self, command, args):
        """The owner's command, which is a process of its own and on a disk that works."""
        self.asked += 1
        place = self.folder / "profile" / "control"
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
        for folder in (place, *place.parents[:1]):
            folder.chmod(0o700)
        request = {"id": f"{self.asked:032x}", "command": command, "at": self.time.wall(),
                   "args": {"reason": "the schedule says so", **args}}
        self.say(f"asked: {command}")
        (place / "new").write_text(json.dumps(request, default=datetime.isoformat), "utf-8")
        (place / "new").chmod(0o600)
        (place / "new").rename(place / "request.json")

    def disturb(self, seconds):
        """Say that until then nobody can expect order."""
        self.disturbed_until = max(self.disturbed_until, self.time.mono + seconds)

    # The trace

    def digest(self, data):
        self._hash.update(data)
        self._wire_hash.update(data)

    def say(self, text):
        self._hash.update(self._without_folder(text.encode()))
        if self.traces:
            self.trace.append(f"{self.time.mono - 1000:8.2f} tick {self.tick:2d}  {text}")

    def _without_folder(self, data):
        """Where it ran is no part of the trace, as text or as JSON writes it."""
        for name in self._folder_names:
            data = data.replace(name, b"<folder>")
        return data

    def _noted(self, what, data):
        """A line or a published file, acknowledged by the disk."""
        if what != b"line":
            with open(data, "rb", 0) as file:
                data = file.read()
        self._hash.update(what + self._without_folder(data))
        if self.traces and what == b"line" and not any(each in data for each in UNTRACED):
            self.say("  " + data.decode("ascii", "replace")[:300].rstrip())

    def _after_request(self, asked):
        if self.traces and (asked.method != "GET" or asked.fault):
            self.say(f"{asked}"[:400] + f" = {asked.answer}"[:500])
        self.checks.after_request(asked)


class _Nobody:
    """The venue of a command that asks none."""


def run_seed(seed, kinds=None, ticks=NOISY_TICKS, traces=False, is_pair=False, base=None):
    """Run one seed in a folder of its own, below `base` or in memory where there is such a place.

    is_pair  the two kinds strike one after the other as an order leaves, not at random
    """
    base = base or ("/dev/shm" if os.access("/dev/shm", os.W_OK) else None)
    folder = tempfile.mkdtemp(prefix="perps-sim-", dir=base)
    try:
        return Sim(seed, folder, kinds, ticks, traces, is_pair).run()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def find(seeds, faults=None, ticks=NOISY_TICKS):
    """Return the first violation that one of the seeds shows, or None where all of them hold.

    For a test that planted a bug in this process: each seed runs here, one after the other, with
    `faults` instead of those that it draws, and none is begun after the one that found something.
    A bug of the product that ends a run by an untyped error is a violation too.
    """
    return next(filter(None, (run_seed(seed, faults, ticks).broken for seed in seeds)), None)
