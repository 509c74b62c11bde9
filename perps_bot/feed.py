"""Feed: what is the market saying now?

Two WebSocket connections, one thread each.  A thread writes the latest mark per symbol into a
slot and nothing else: no decision, no event, no file.  What the venue tells of our orders only
wakes the loop, as the ledger comes from REST.  A mark leaves this room only while it
is fresh by our monotonic clock and by the venue's time; a connection that is silent, has lost a
message or says an error is distrusted first and mended afterwards.
"""

import json
import logging
import random
import re
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from http.cookies import CookieError
from math import inf
from urllib.parse import urlsplit

import requests
import websocket

from perps_bot import wire
from perps_bot.errors import ConfigError
from perps_bot.model import Mark, Product

# A quote may be so old, by each of two clocks; a connection may be silent for so long: with one
# more call of the socket that is noticed within five seconds.
QUOTE_SECONDS_MAX, SILENCE_SECONDS_MAX = 5, 4.5
# One step of connecting, one call of the socket, and the end of both threads.
CONNECT_SECONDS_MAX, SOCKET_SECONDS_MAX, STOP_SECONDS_MAX = 1, 0.5, 2
# Before the next attempt; after a connection that held for the longest, the shortest again.
BACKOFF_SECONDS = (0.25, 30)
CONNECTS_MAX, CONNECTS_SECONDS, CHANGES_MAX = 6, 60, 100
# The venue's greeting, one frame, and all fragments of one message, in bytes.
GREETING_BYTES_MAX, FRAME_BYTES_MAX, MESSAGE_BYTES_MAX = 2**14, 2**20, 2**21
AHEAD_BYTES = 2**14  # what one call of the socket may bring of later messages
BEST = ("best_bid", "best_bid_quantity", "best_ask", "best_ask_quantity")
# After a jump so far and so soon no mark is given until a second message agrees with a price.
JUMP_PCT, JUMP_SECONDS = Decimal("0.05"), 1
# The one error text that is repeated to the operator: a key or a channel was not accepted.
REFUSED = "authentication failure"
LOOPBACK = re.compile(r"localhost|127(\.[0-9]{1,3}){3}|::1")
# What ends a connection but not its thread; a hostile greeting may carry a hostile cookie.
LOSSES = (websocket.WebSocketException, OSError, wire.Malformed, CookieError)

Channels = Mapping[str, tuple[str, ...]]  # with their product ids; none: all products
Levels = Mapping[str, tuple[Decimal | None, Decimal | None]]
log = logging.getLogger(__name__)


class MarkFeed:
    """The latest marks, and a nudge when something happened.

    url, user_url  market data; our orders and our balance
    token          makes a fresh token for each private message; None: market data only
    now            the venue's time
    wake           called from the feed's threads; must be cheap and must not raise
    ca_file        certificates to trust instead of the usual ones
    """

    def __init__(
        self, url: str, user_url: str, token: Callable[[], str] | None,
        now: Callable[[], datetime], wake: Callable[[], object], ca_file: str | None = None,
    ) -> None:
        self._now, self._wake = now, wake
        self._products: dict[str, Product] = {}  # by product id
        self._wanted: Channels = {}
        self._slots: dict[str, tuple[Mark, float]] = {}  # by symbol, and when it was received
        self._trusted_since = -inf  # what was received before it may not be used
        self._doubted: dict[str, tuple[Mark, dict]] = {}  # a jump, and the message it came in
        self._levels: Levels = {}
        self._crossed: dict[str, tuple] = {}  # the levels that have woken
        self._market = _Connection("market", url, ca_file, None, lambda: self._wanted, self._take,
                                   self._distrust)
        self._connections = [self._market]
        if token:
            channels: Channels = {"user": (), "futures_balance_summary": ()}
            self._connections.append(_Connection(
                "user", user_url, ca_file, token, lambda: channels, self._hear, wake))

    def follow(self, products: Iterable[Product]) -> None:
        """Ask for these products and no others.  The first call starts the threads."""
        self._want(products)
        for connection in self._connections:
            if connection.thread.ident is None:
                connection.thread.start()

    def _want(self, products: Iterable[Product]) -> None:
        self._products = {product.product_id: product for product in products}
        self._wanted = {"ticker": tuple(sorted(self._products))} if self._products else {}

    def marks(self, symbols: Iterable[str]) -> dict[str, Mark]:
        """Return what is fresh and trusted; a symbol that is absent is for REST to ask."""
        since = max(self._trusted_since, time.monotonic() - QUOTE_SECONDS_MAX)
        slots = {symbol: self._slots.get(symbol) for symbol in symbols
                 if symbol not in self._doubted}
        now, age_max = self._now(), timedelta(seconds=QUOTE_SECONDS_MAX)
        return {symbol: slot[0] for symbol, slot in slots.items()
                if slot and slot[1] >= since and abs(now - slot[0].at) <= age_max}

    def watch(self, levels: Levels) -> None:
        """Wake once when a mark goes to or below the first level, to or above the second."""
        self._levels = dict(levels)

    def changes(self) -> list[tuple[str, dict]]:
        """Return what was lost and what came back since the last call."""
        return [change for connection in self._connections for change in connection.changes()]

    def figures(self) -> dict[str, dict]:
        """Return by connection how old its last message is, and what it has counted."""
        return {connection.name: connection.figures() for connection in self._connections}

    def stop(self) -> None:
        """End the threads, which close their sockets; one that hangs is left behind."""
        until = time.monotonic() + STOP_SECONDS_MAX
        for connection in self._connections:
            connection.stopping.set()
        for connection in self._connections:
            if connection.thread.ident is not None:
                connection.thread.join(max(0, until - time.monotonic()))

    # What follows runs in the market's thread.

    def _distrust(self) -> None:
        self._trusted_since = time.monotonic()

    def _hear(self, _events: list[dict], message: dict) -> None:
        """News of our orders wakes; the balance may come with every trade of the market."""
        if message["channel"] == "user":
            self._wake()

    def _take(self, events: list[dict], message: dict) -> None:
        for row in (row for event in events for row in wire.rows(event, "tickers")):
            product = self._products.get(wire.word(row.get("product_id")))
            if product is not None:
                self._take_quote(row, product, message)

    def _take_quote(self, row: dict, product: Product, message: dict) -> None:
        try:
            mark = wire.best(product, message.get("timestamp"), *map(row.get, BEST))
        except wire.Malformed:
            mark = None
        if mark and self._is_plausible(mark, message):
            self._slots[mark.symbol] = mark, time.monotonic()
            self._doubted.pop(mark.symbol, None)
            self._compare(mark, self._levels.get(mark.symbol, (None, None)))
            return
        self._market.counts["unusable"] += 1
        if not (row.get("best_bid") and row.get("best_ask")):
            self._slots.pop(product.symbol, None)  # no quote any more, as in a closed market

    def _is_plausible(self, mark: Mark, message: dict) -> bool:
        last, at = self._slots.get(mark.symbol, (mark, -inf))
        if time.monotonic() - at > JUMP_SECONDS or _are_near(mark, last):
            return True
        doubted, source = self._doubted.get(mark.symbol, (mark, message))
        self._doubted[mark.symbol] = mark, message
        return source is not message and _are_near(mark, doubted)

    def _compare(self, mark: Mark, levels: tuple[Decimal | None, Decimal | None]) -> None:
        low, high = levels
        if (low is None or mark.price > low) and (high is None or mark.price < high):
            self._crossed.pop(mark.symbol, None)
        elif self._crossed.get(mark.symbol) != levels:
            self._crossed[mark.symbol] = levels
            self._wake()


class _Connection:
    """One address and its thread: connect, subscribe, listen, and again.

    take      takes the events of the subscribed channels, and the message they came in
    distrust  called when something was missed, or will be
    """

    def __init__(
        self, name: str, url: str, ca_file: str | None, token: Callable[[], str] | None,
        channels: Callable[[], Channels], take: Callable[[list[dict], dict], object],
        distrust: Callable[[], object],
    ) -> None:
        self.name, self._url, self._token = name, url, token
        self._channels, self._take, self._distrust = channels, take, distrust
        self._address, self._secured = _reachable(url, ca_file)
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self._run, name=f"feed-{name}", daemon=True)
        self._is_stale: bool | None = None  # None before the first message and the first failure
        self._heard_at, self._gap_at, self._failures = inf, -inf, 0
        self._changes: deque[tuple[str, dict]] = deque(maxlen=CHANGES_MAX)
        self._connects: deque[float] = deque(maxlen=CONNECTS_MAX)
        self.counts = dict.fromkeys(("connects", "gaps", "repeats", "errors", "unusable"), 0)

    def changes(self) -> list[tuple[str, dict]]:
        if time.monotonic() - self._heard_at > 2 * SILENCE_SECONDS_MAX:
            self._turn("its thread hangs")  # else the thread would have said it
        return [self._changes.popleft() for _ in range(len(self._changes))]

    def figures(self) -> dict:
        is_heard = self._heard_at < inf
        age = int(time.monotonic() - self._heard_at) if is_heard else None
        return {"stale": self._is_stale is not False, "age_seconds": age, **self.counts}

    def _run(self) -> None:
        try:
            while not self.stopping.wait(self._pause()):
                self._visit()
        finally:  # a bug ends this thread, which is news even of a connection that was stale
            self._is_stale = False
            self._turn("its thread ended")

    def _pause(self) -> float:
        """Seconds until the next attempt, by back-off and by the attempts of the last minute."""
        shortest, longest = BACKOFF_SECONDS
        most = min(longest, shortest * 2**min(self._failures, 10))
        pause = random.uniform(most / 2, most) if self._failures else 0
        if len(self._connects) == CONNECTS_MAX:
            pause = max(pause, self._connects[0] + CONNECTS_SECONDS - time.monotonic())
        return pause

    def _visit(self) -> None:
        """One connection from beginning to end; it always ends in a loss."""
        began = time.monotonic()
        self._connects.append(began)
        self.counts["connects"] += 1
        try:
            with socket.create_connection(self._address, CONNECT_SECONDS_MAX) as plain:
                with self._secured(plain) as line:
                    self._listen(_Line(line, self.stopping))
        except LOSSES as error:
            self._turn(str(error) if isinstance(error, _Lost) else type(error).__name__)
        held = time.monotonic() - began > BACKOFF_SECONDS[1]
        self._failures = 1 if held else self._failures + 1

    def _listen(self, line: "_Line") -> None:
        client = websocket.WebSocket(skip_utf8_validation=True)  # wire.decoded is strict
        client.frame_buffer = line
        # Handed a socket, the library asks the environment for no proxy, bundle or key log.
        client.connect(self._url, socket=line, redirect_limit=0)
        line.recv = line.read_ahead
        self._sequence, self._is_whole, self._is_lost, subscribed = None, True, False, {}
        self._say(client, "subscribe", {"heartbeats": ()})  # the venue closes what is quiet
        while True:
            if self._is_lost or subscribed != self._channels():
                self._say(client, "unsubscribe", subscribed)
                subscribed, self._is_lost = self._channels(), False
                self._say(client, "subscribe", subscribed)
            line.allowance = MESSAGE_BYTES_MAX
            opcode, frame = client.recv_data_frame()
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                raise _Lost("closed by the venue")
            self._hear(wire.decoded(frame.data))
            line.patient_until = self._heard_at + SILENCE_SECONDS_MAX

    def _say(self, client: websocket.WebSocket, verb: str, channels: Channels) -> None:
        for channel, product_ids in channels.items():
            message = {"type": verb, "channel": channel}
            message |= {"product_ids": product_ids} if product_ids else {}
            message |= {"jwt": self._token()} if self._token else {}
            client.send(json.dumps(message))

    def _hear(self, message: dict) -> None:
        """Take a message, unless its number says that it is an old one."""
        if message.get("type") == "error":
            self.counts["errors"] += 1
            log.warning("feed.error connection=%s", self.name)
            raise _Lost(REFUSED if message.get("message") == REFUSED else "an error message")
        channel, last = wire.text(message.get("channel"), "channel"), self._sequence
        sequence = wire.number(message.get("sequence_num"), "sequence_num")
        log.debug("feed.message connection=%s channel=%.40r %s", self.name, channel, sequence)
        if last is not None and sequence <= last:
            self.counts["repeats"] += 1
            return
        self._sequence, self._heard_at = sequence, time.monotonic()
        if last is not None and sequence > last + 1:
            self._note_gap()
        events = wire.rows(message, "events") if channel in self._channels() else []
        self._is_whole |= any(event.get("type") == "snapshot" for event in events)
        if self._is_whole:
            self._turn("")
            if events:
                self._take(events, message)
        elif self._heard_at - self._gap_at > SILENCE_SECONDS_MAX:
            raise _Lost("no snapshot after a gap")

    def _note_gap(self) -> None:
        """Subscribe anew, which brings snapshots; after a second gap within 5 s, connect anew."""
        self.counts["gaps"] += 1
        self._turn("a message was lost")
        if self._heard_at - self._gap_at < SILENCE_SECONDS_MAX:
            raise _Lost("messages are lost again and again")
        self._gap_at, self._is_whole, self._is_lost = self._heard_at, False, True

    def _turn(self, reason: str) -> None:
        """Note that the connection became stale, or with no reason that it recovered."""
        was_stale, self._is_stale = bool(self._is_stale), bool(reason)
        if was_stale is self._is_stale:
            return
        if not self.stopping.is_set():  # the end that was asked for is no news
            change = {"connection": self.name, "reason": reason or "messages arrive"}
            self._changes.append(("feed.stale" if reason else "feed.recovered", change))
        if reason:
            self._distrust()


class _Lost(ConnectionError):
    """This connection is of no more use; the message says why, in our words."""


class _Line(websocket.frame_buffer):
    """A socket without endless waits, and its frames without endless messages.

    patient_until  when to give up, by the monotonic clock
    allowance      bytes that may come until a message is complete
    """

    def __init__(self, line: socket.socket, stopping: threading.Event) -> None:
        super().__init__(self._read, skip_utf8_validation=True)
        self._line, self._stopping, self.allowance = line, stopping, GREETING_BYTES_MAX
        self.patient_until = time.monotonic() + SILENCE_SECONDS_MAX
        self.send, self.close, self.gettimeout = line.send, line.close, line.gettimeout
        line.settimeout(SOCKET_SECONDS_MAX)
        line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # each word goes out at once

    def recv_length(self) -> None:
        super().recv_length()
        if self.length > min(FRAME_BYTES_MAX, self.allowance):  # judged before the payload
            raise _Lost("a message too long")

    def read_ahead(self, size: int) -> bytes:
        """Read what is there: `recv_strict` keeps what is left over for the next call."""
        return self._read(size, AHEAD_BYTES)

    def _read(self, size: int, ahead: int = 0) -> bytes:
        while size <= self.allowance and not self._stopping.is_set():
            if time.monotonic() > self.patient_until:
                raise _Lost(f"no message for {SILENCE_SECONDS_MAX} s")
            try:
                found = self._line.recv(max(size, ahead))
            except TimeoutError:
                continue
            if not found:
                raise _Lost("closed without a word")
            self.allowance -= len(found)
            return found
        raise _Lost("a message without end")  # or the stop, of which nobody is told


def _are_near(mark: Mark, other: Mark) -> bool:
    return abs(mark.price - other.price) <= other.price * JUMP_PCT


def _reachable(url: str, ca_file: str | None) -> tuple[tuple[str, int], Callable]:
    """Return host and port, and what verifies who answers there.  Raises ConfigError."""
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (80 if parts.scheme == "ws" else 443)
    if parts.scheme == "ws" and LOOPBACK.fullmatch(host):
        return (host, port), lambda line: line
    if parts.scheme != "wss" or not host:
        raise ConfigError(f"{url}: only wss, and ws to a loopback address: correct the address")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # verifies the certificate and the host name
    tls.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        tls.load_verify_locations(ca_file or requests.certs.where())
    except OSError as error:
        raise ConfigError(f"{ca_file}: {error}: name a file of certificates") from None
    return (host, port), lambda line: tls.wrap_socket(line, server_hostname=host)
