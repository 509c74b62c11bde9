"""Stage: a bot, an exchange and a script, so that one run is always the same run.

The simulation of tests/sim with nothing drawn: prices follow the scene's path, the scene's acts
happen at their seconds, and the run ends when all has converged, or when it had to have.
"""

import hashlib
import os
import shutil
from contextlib import suppress
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

from exchange.forms import plain
from perps_bot.model import OrderType, TimeInForce
from perps_bot.settings import resolve
from perps_bot.store import EventStore
from sim.checks import Broken
from sim.run import Over, Sim
from sim.seams import Killed
from sim.world import BTC, HISTORY_BARS, IDS, STEP_SECONDS, TICKS

from .disk import EVENTS, ROOT, CrashDisk
from .judge import Judge

STARTED = 1000.0  # what the monotonic clock says when a scene begins
SETTLED_TICKS, QUIET_TICKS_MAX, QUIET_SECONDS_MAX = 4, 60, 240
COPY = "copy"  # of the events, beside the bot's folder
GIVES_UP_SECONDS = 60
PROCESSES_MAX = 6  # without crashes
BASE = {
    "symbols": (BTC,), "enter_on_start": True, "bar": 60, "short_ma_period": 5,
    "long_ma_period": 20, "enable_shorts": True, "interval": Decimal(5),
    "order_type": OrderType.MARKET, "time_in_force": TimeInForce.GTD,
    "trailing_stop_pct": Decimal("0.01"), "bracket_profit_pct": Decimal("0.2"),
    "max_position": Decimal(1500),
}


class Stage(Sim):
    """One scene, played once.

    visit    told of every operation: (stage, where, size)
    crashes  how often the power went, or the process was killed
    """

    def __init__(self, scene, visit, traces=False):
        self.scene, self.visit = scene, visit
        # The hours, the sizes of pages and the stand-in for `requests` go by the seed.
        super().__init__(scene.seed, ROOT, ["midnight"] if scene.at_midnight else [], 0, traces)
        self.with_feed, self.crashes, self.resumed = False, 0, 0
        self.spared = 0  # processes that may end as often as they like
        self.stays, self.stays_until = False, float("inf")  # whether it goes on though all is well
        self.disk = CrashDisk(self.step, self._noted)
        self.disk.now_is = self.time.monotonic
        self.checks = Judge(self)
        self.wire.before, self.world.heard = self.checks.before_request, self._heard
        self.wire.delivered = 0
        self._write_history()
        self.time._agenda.clear()
        self.time.at(0, self._move)
        for seconds, act, *arguments in scene.acts:
            self.time.at(seconds, self._act, act, arguments)

    def _drawn_settings(self):
        settings = resolve({"profile": "prod", "symbols": [BTC]}, {})
        return settings.replace(**{**BASE, **self.scene.settings})

    def _write_history(self):
        """The minutes before: the averages stand as the scene wants them to."""
        end, slope = int(self.time.venue().timestamp()) // 60 * 60, self.scene.history
        for symbol in self.settings.symbols:
            price = self.world.prices[symbol]
            self.world.exchange.candles_from(IDS[symbol], [
                [end - 60 * n, *[plain(price - slope * n * TICKS[symbol])] * 4, "5"]
                for n in range(HISTORY_BARS, 0, -1)])

    @property
    def second(self):
        return self.time.mono - STARTED

    # The script

    def _move(self):
        """One step of the price."""
        self.world.arrive()
        ticks = next((each for until, each in self.scene.path if self.second < until), None)
        self._steps = getattr(self, "_steps", 0) + 1
        for symbol in self.settings.symbols:
            step = ticks if ticks is not None else (1 if self._steps % 2 else -1)
            self.world.prices[symbol] += step * TICKS[symbol]
            self.world.show(symbol)
        self.world.told(self.world.exchange.take_events())
        self.time.at(STEP_SECONDS, self._move)

    def _act(self, act, arguments):
        self.say(f"act: {getattr(act, '__name__', act)}")
        self.world.arrive()
        act(self, *arguments)

    def _heard(self, asked):
        self.wire.delivered += 1
        self.checks.answered(asked)

    def signal(self, name):
        if self.bot is not None:  # else nobody hears it
            super().signal(name)

    # The processes

    def step(self, where, size=0):
        super().step(where, size)
        self.visit(self, where, size)

    def crash(self, name, image):
        """The process is killed, or the machine stops and finds this when it is on again."""
        self.disk.next_image, self.disk.is_kill = image, name.startswith("kill")
        self.power, self.crashes = True, self.crashes + 1
        self._wire_hash = hashlib.sha256()  # from here on, for I-22
        self.kill("here")

    def _process(self):
        self.spared += self.stays
        if self.processes - self.spared > PROCESSES_MAX + 2 * self.crashes:
            self.checks.fail("A24", "it does not come up again")
        return super()._process()

    def _between(self, how):
        super()._between(how)
        if how == "killed":
            self.recover_twice()
        if self.stays and self.second > self.scene.ends + GIVES_UP_SECONDS:
            self.stays, self.disk.error = False, None  # it did not come up, and the owner saw it

    def recover_twice(self):
        """I-21, I-16, I-17, on a copy: the second recovery changes nothing and reads the same."""
        if not os.path.isdir(EVENTS):
            return
        image, visit = days(EVENTS), self.visit
        self.disk.is_dead, self.visit = False, lambda *about: None
        shutil.copytree(EVENTS, COPY)
        first, second = recovery(COPY), recovery(COPY)
        shutil.rmtree(COPY)
        self.visit = visit
        self.checks.recovered(image, *first[:2])
        if first != second:
            self.checks.fail("I-21", "a second recovery finds something else than the first left")

    def recover_every_byte(self):
        """A line is being written: what does a recovery make of each part of it?  How many."""
        path, line = self.disk.inflight
        kept = self.operations, self.visit, self.disk.inflight
        self.visit = lambda *about: None
        shutil.copytree(EVENTS, COPY)
        name = os.path.basename(path)
        before = days(COPY)[name]
        for count in range(len(line) + 1):
            for aside in ("torn", "quarantine"):
                shutil.rmtree(f"{COPY}/{aside}", ignore_errors=True)
            Path(COPY, name).write_bytes(before + line[:count])
            first, second = recovery(COPY), recovery(COPY)
            is_whole = count == len(line)
            if first[0][name] != before + (line if is_whole else b"") or first != second or (
                    first[1] != ([] if is_whole or not count else [line[:count]])):
                self.checks.fail("I-17", f"{count} bytes of {line[:80]} are not recovered from")
        shutil.rmtree(COPY)
        self.operations, self.visit, self.disk.inflight = kept
        return len(line) + 1

    def _resume(self):
        """As the owner does, who asks again where the machine stopped over it."""
        if self.resumed >= self.scene.resumes:
            return
        for _ in range(3):
            with suppress(Killed):
                super()._resume()
            if not self.disk.is_dead:
                break
            self.checks.process_ended("killed")
            self.disk.lose_power(None)
            self.power = False
            self.checks.files_changed()
        self.resumed += 1

    # The end

    def _pace(self):
        if self.stays and self.second < self.stays_until:
            return
        if not self.is_quiet:
            if self.second >= self.scene.ends:
                self.calm()
                self._calm_from = self.tick, self.time.mono
            return
        ticks, seconds = self.tick - self._calm_from[0], self.time.mono - self._calm_from[1]
        too_long = ticks >= QUIET_TICKS_MAX or seconds >= QUIET_SECONDS_MAX
        if too_long or ticks >= SETTLED_TICKS and self._is_settled():
            self.is_over = True
            raise Over

    def _is_settled(self):
        try:
            self.checks.is_settled()
        except Broken:
            return False
        return True

    def calm(self):
        self.is_quiet = self.world.quiet = True
        self.say("quiet from here on")


def recovery(folder):
    """What a recovery leaves and finds: day files, what it kept of what it cut, and the events."""
    store, events = EventStore(folder), []
    store.subscribe(events.append)
    store.recover()
    store.close()
    kept = [path.read_bytes() for aside in ("torn", "quarantine")
            for path in sorted(Path(folder, aside).glob("*"))]
    return days(folder), kept, events


def days(folder):
    """The day files in a folder, by name."""
    return {path.name: path.read_bytes() for path in sorted(Path(folder).glob("*.jsonl"))}
