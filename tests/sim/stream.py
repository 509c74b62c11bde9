"""Stream: what do the WebSockets say, and how do they break?

The feed's threads never run: this drives its connections in virtual time, from greeting to loss,
as its own `_visit` and `_listen` do, with every message through the feed's own `_hear`.
"""

import json
import threading
from types import SimpleNamespace

from exchange.forms import iso

from perps_bot import wire
from perps_bot.feed import LOSSES, MarkFeed

from .net import sound

URL = "ws://127.0.0.1:9"  # never opened
CONNECT_SECONDS, HEARTBEAT_SECONDS, LATENCY_SECONDS = 0.1, 1.0, 0.02
MARKET, USER = ("ticker",), ("user", "futures_balance_summary")
SILENCE_SECONDS = 5.1
encode = json.JSONEncoder(separators=(",", ":")).encode


class Stream:
    """The WebSockets of one bot, one process after the other.

    mute     until when nothing arrives at all
    frozen   until when only heartbeats arrive
    refuses  until when no connection is accepted
    skip     messages that the next ones lose; repeat: whether the last one comes again
    odd      bytes that arrive instead of the next message
    """

    def __init__(self, sim):
        self.sim, self.time = sim, sim.time
        self.mute = self.frozen = self.refuses = 0.0
        self.skip, self.repeat, self.odd = 0, False, None
        self._links, self._life = [], 0

    def feed(self, now, wake):
        """The feed of a new process."""
        self._life += 1
        self._links = []
        life = self._life

        class Thread:
            def __init__(thread, target, name, daemon):
                thread.ident, thread.link = None, Link(self, target.__self__, life)

            def start(thread):
                thread.ident = 1
                self._links.append(thread.link)
                thread.link.plan()

            def is_alive(thread):
                return True

            def join(thread, timeout):
                pass

        self.threading = SimpleNamespace(Event=threading.Event, Thread=Thread)
        return lambda: MarkFeed(URL, URL, lambda: "token", now, wake)

    def is_current(self, life):
        return life == self._life and not self.sim.disk.is_dead and self.sim.bot is not None

    def publish(self, rows):
        """What happened at the exchange."""
        for link in self._links:
            for row in rows:
                if row["channel"] in link.channels and self.time.mono >= self.frozen:
                    link.say(row["channel"], row["events"])


class Link:
    """One connection of the feed."""

    def __init__(self, stream, connection, life):
        self.stream, self.connection, self.life = stream, connection, life
        self.time = stream.time
        self.channels = MARKET if connection.name == "market" else USER
        self.is_up, self.number, self.visit, self.heard_at = False, 0, 0, 0.0

    def plan(self):
        """Connect after the feed's own pause."""
        self.is_up = False
        self.time.at(self.connection._pause() + CONNECT_SECONDS, self._connect)

    def _connect(self):
        if not self.stream.is_current(self.life):
            return
        link, now = self.connection, self.time.mono
        link._connects.append(now)
        link.counts["connects"] += 1
        self.visit += 1
        if now < self.stream.refuses:
            self._lost(ConnectionRefusedError())
            return
        self.is_up, self.number, self.heard_at, self.began = True, 0, now, now
        link._sequence, link._is_whole, link._is_lost = None, True, False
        self._snapshot(self.visit)
        self.time.at(HEARTBEAT_SECONDS, self._beat, self.visit)

    def _snapshot(self, visit):
        names = list(self.connection._channels().get("ticker", ()))
        for channel in self.channels:
            for event in self.stream.sim.world.exchange.snapshot(channel, names):
                if visit == self.visit:
                    self.say(channel, [event])

    def _beat(self, visit):
        if visit != self.visit or not self.is_up or not self.stream.is_current(self.life):
            return
        self.say("heartbeats", [{"current_time": "", "heartbeat_counter": self.number}])
        if self.is_up and self.time.mono - self.heard_at > SILENCE_SECONDS:
            self._lost(ConnectionError())
        self.time.at(HEARTBEAT_SECONDS, self._beat, visit)

    def say(self, channel, events):
        """One message, or what became of it."""
        stream, link = self.stream, self.connection
        if not self.is_up or not stream.is_current(self.life):
            return
        self.number += 1
        if stream.skip and channel != "heartbeats":
            stream.skip -= 1
            return
        if self.time.mono < stream.mute:
            return
        said = {"channel": channel, "client_id": "", "sequence_num": self.number,
                "timestamp": iso(self.time.venue()), "events": events}
        body, odd = encode(said).encode(), stream.odd
        stream.odd = None
        copies, stream.repeat = (2 if stream.repeat else 1), False
        stream.sim.digest(odd or body)
        try:
            for _ in range(copies):
                self.heard_at = self.time.mono
                link._hear(wire.decoded(odd) if odd else sound(body))
        except LOSSES as error:
            self._lost(error)
            return
        if channel == "ticker" and not odd:
            stream.sim.checks.quoted(row for event in events for row in event["tickers"])
        if link._is_lost:  # it subscribes anew, and the venue answers with snapshots
            link._is_lost = False
            self.time.at(LATENCY_SECONDS, self._snapshot, self.visit)

    def close(self):
        if self.is_up:
            self._lost(ConnectionError())

    def _lost(self, error):
        link = self.connection
        link._turn(type(error).__name__)
        held = self.is_up and self.time.mono - self.began > 30
        link._failures = 1 if held else link._failures + 1
        self.plan()
