"""Frames: what may the other end of a socket say?

The feed's messages by themselves; whole WebSocket conversations, greeting and frame headers and
all, through the library; and HTTP responses through the library that reads them.  Of the two
conversations every byte is the other side's, and both ends are in this thread.
"""

import base64
import hashlib
import re
import socket
import struct
import threading
from datetime import timedelta

from bodies import BIP, NOW, a_product

from perps_bot import feed as feed_room
from perps_bot import transport as transport_room
from perps_bot import wire
from perps_bot.feed import MarkFeed
from perps_bot.transport import BODY_BYTES_MAX, Origin, Request

from . import mutate, seeds
from .judge import require, sound, sound_text

MAGIC = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
PRODUCT = a_product()
SYMBOLS = ("BTC-PERP",)
MARK_AGE_MAX = timedelta(seconds=5)
PRICE, NEAR = ("82565", "82570"), ("82600", "82605")


class _Feed:
    """A feed without threads and sockets, and what it did."""

    def __init__(self):
        self.woken = 0
        self.feed = MarkFeed("ws://127.0.0.1:1", "ws://127.0.0.1:1", lambda: "token", lambda: NOW,
                             self._wake)
        self.feed._want([PRODUCT])
        self.feed.watch({"BTC-PERP": (None, None)})
        self.market, self.user = self.feed._connections

    def _wake(self):
        self.woken += 1

    def begin(self, connection):
        connection._sequence, connection._is_whole, connection._is_lost = None, True, False

    def check(self):
        """What may be seen from outside."""
        for mark in self.feed.marks(SYMBOLS).values():
            sound(mark)
            require(mark.symbol in SYMBOLS, "a mark of somebody else's")
            require(mark.bid < mark.price < mark.ask, "the price is not between bid and ask")
            require(abs(mark.at - NOW) <= MARK_AGE_MAX, "a stale mark")
        changes = self.feed.changes()
        require(len(changes) <= 2 * feed_room.CHANGES_MAX, "changes without end")
        sound([[name, data] for name, data in changes], "a change")
        sound([each for each in self.feed.figures().values()], "the figures")


# Messages, one after the other, as the feed hears them


def make_messages(dice):
    """A conversation of the market or the user channel, in which some messages are mutated."""
    told = []
    for number in range(1, dice.randint(2, 7)):
        tree = _message(dice, number)
        if dice.random() < 0.4:
            told.append(mutate.json_bytes(dice, tree, seeds.words()))
        else:
            told.append(mutate.written(tree))
    return dice.choice(("market", "market", "user")), told


def _message(dice, number):
    if dice.random() < 0.25:
        tree = mutate.copied(dice.choice(seeds.bodies()["message"]))
        tree["sequence_num"] = number
        return tree
    bid, ask = dice.choice((PRICE, PRICE, NEAR))
    return {"channel": "ticker", "timestamp": "2026-10-09T23:14:00Z", "sequence_num": number,
            "events": [{"type": "snapshot" if number == 1 else "update", "tickers": [
                {"type": "ticker", "product_id": BIP, "price": bid, "best_bid": bid,
                 "best_bid_quantity": "3", "best_ask": ask, "best_ask_quantity": "4"}]}]}


def check_messages(given):
    whose, messages = given
    heard = _Feed()
    connection = getattr(heard, whose)
    heard.begin(connection)
    for data in messages:
        try:
            connection._hear(wire.decoded(data))
        except feed_room.LOSSES as loss:  # as `_visit` does
            connection._turn(str(loss) if isinstance(loss, feed_room._Lost)
                             else type(loss).__name__)
            heard.begin(connection)
        heard.check()
    require(heard.woken <= len(messages) + 2, "woken without end")


# Whole WebSocket conversations


LENGTHS = (0, 125, 126, 2**16, 2**20 + 1, 2**31, 2**63, 2**64 - 1)


def _frame(dice, payload):
    """One frame; one in four has a header that is not quite right."""
    opcode, fin, rsv, length, mask = 1, 1, 0, len(payload), False
    if dice.random() < 0.25:
        opcode, fin = dice.choice((0, 1, 2, 3, 8, 9, 10, 11, 15)), dice.choice((0, 1))
        rsv = dice.choice((0, 0, 1, 4, 7))
        length = dice.choice((length, length, *LENGTHS))
        mask = dice.random() < 0.2
    head = bytes([fin << 7 | rsv << 4 | opcode])
    flag = mask << 7
    if length < 126:
        head += bytes([flag | length])
    elif length < 2**16:
        head += bytes([flag | 126]) + struct.pack("!H", length)
    else:
        head += bytes([flag | 127]) + struct.pack("!Q", length)
    if mask:
        key = dice.randbytes(4)
        head += key
        payload = bytes(each ^ key[at % 4] for at, each in enumerate(payload))
    return head + payload


GREETINGS = (
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Accept: {accept}\r\n{more}\r\n",
)
HEADERS = (
    "", "", "", "Set-Cookie: a=b; expires=Thu, 99 Foo 9999 99:99:99 GMT\r\n", "X: " + "y" * 300 +
    "\r\n", "Sec-WebSocket-Protocol: chat\r\n", "Sec-WebSocket-Extensions: permessage-deflate\r\n",
    "Set-Cookie: \x00=\x01;;;\r\n", "Set-Cookie: " + "a=b; " * 500 + "\r\n", ": \r\n",
    "no colon\r\n",
    "Content-Length: 99999999999\r\n", "Location: http://example.invalid/\r\n", " folded: x\r\n",
    "Set-Cookie: a=b; domain=\r\n", "Set-Cookie: a[]=\"; path=/\r\n", "Connection: close\r\n",
)
STATUS_LINES = ("HTTP/1.1 200 OK", "HTTP/1.1 301 Moved", "HTTP/1.1 101", "HTTP/1.1", "", "101",
                "HTTP/1.1 abc def", "HTTP/9.9 101 x", "HTTP/1.1 407 Proxy", "HTTP/1.1 ١٠١ x")
CLOSE_CODES = (0, 999, 1000, 1001, 1005, 1006, 1015, 3000, 4999, 5000, 65535)


def make_conversation(dice):
    """A greeting, with its accept key left open, and the frames after it."""
    greeting = GREETINGS[0].replace("{more}", dice.choice(HEADERS))
    if dice.random() < 0.15:
        greeting = greeting.replace("HTTP/1.1 101 Switching Protocols", dice.choice(STATUS_LINES))
    greeting = greeting.encode("utf-8", "surrogatepass")
    if dice.random() < 0.2:
        greeting = mutate.spoiled(dice, greeting)
    frames = b"".join(_frame(dice, mutate.written(_message(dice, number)))
                      for number in range(1, dice.randint(2, 5)))
    roll = dice.random()
    if roll < 0.4:
        frames = mutate.spoiled(dice, frames)
    elif roll < 0.6:
        frames += b"\x88" + bytes([2]) + struct.pack("!H", dice.choice(CLOSE_CODES))
    elif roll < 0.65:
        frames += b"\x01\x05hello" * dice.choice((1, 300)) + b"\x80\x00"
    elif roll < 0.7:
        frames += b"\x89\x00" * dice.choice((1, 500))
    return greeting, frames


class _Peer:
    """The other end, as a socket: it greets, speaks, and is gone."""

    def __init__(self, greeting, frames):
        self._greeting, self._frames, self._asked, self._waiting = greeting, frames, b"", b""
        self._has_greeted, self.sent, self.given = False, 0, 0

    def send(self, data):
        self.sent += len(data)
        self._asked += bytes(data) if not self._has_greeted else b""
        if b"\r\n\r\n" in self._asked and not self._has_greeted:
            self._has_greeted = True
            key = re.search(rb"Sec-WebSocket-Key: (\S+)", self._asked)[1].decode()
            digest = base64.b64encode(hashlib.sha1((key + MAGIC).encode()).digest())
            self._waiting = self._greeting.replace(b"{accept}", digest) + self._frames
        return len(data)

    def recv(self, size):
        piece, self._waiting = self._waiting[:size], self._waiting[size:]
        self.given += len(piece)
        return piece

    def settimeout(self, seconds):
        pass

    def setsockopt(self, *option):
        pass

    def gettimeout(self):
        return feed_room.SOCKET_SECONDS_MAX

    def close(self):
        pass


def check_conversation(given):
    """Whatever it was, it ends in what `_visit` takes for the end of a connection."""
    greeting, frames = given
    heard, peer = _Feed(), _Peer(greeting, frames)
    connection = heard.market
    try:
        connection._listen(feed_room._Line(peer, threading.Event()))
    except feed_room.LOSSES as loss:
        connection._turn(str(loss) if isinstance(loss, feed_room._Lost) else type(loss).__name__)
    heard.check()
    require(peer.sent < 100_000 + 10 * len(frames), "it talks without end")


# HTTP responses


def make_response(dice):
    body = mutate.written(dice.choice(seeds.bodies()[dice.choice(("time", "error", "create"))]))
    headers = [f"Content-Length: {len(body)}", "Content-Type: application/json"]
    roll = dice.random()
    if roll < 0.2:
        headers[0] = f"Content-Length: {dice.choice((mutate.number, mutate.text))(dice)}"
    elif roll < 0.4:
        headers[0] = "Transfer-Encoding: chunked"
        body = b"".join(_chunk(dice, body[at:at + 20]) for at in range(0, len(body), 20)) + (
            dice.choice((b"0\r\n\r\n", b"0\r\nX: y\r\n\r\n", b"", b"-1\r\n", b"0\r\n" + b"a" * 99)))
    for _ in range(dice.randint(0, 2)):
        headers.append(dice.choice(HTTP_HEADERS))
    head = f"{dice.choice(HTTP_STATUS_LINES)}\r\n" + "\r\n".join(headers) + "\r\n\r\n"
    data = head.encode("utf-8", "surrogatepass") + body
    return mutate.spoiled(dice, data) if dice.random() < 0.4 else data


def _chunk(dice, piece):
    size = f"{len(piece):x}".encode()
    if dice.random() < 0.1:
        size = dice.choice((b"", b"-1", b"zz", b"0x5", b"ffffffffffffffff", b"1_0", b"\xd9\xa3",
                            b"5;x=" + b"y" * 99, b" 5 ", b"f" * 300))
    return size + b"\r\n" + piece + b"\r\n"


HTTP_STATUS_LINES = (*["HTTP/1.1 200 OK"] * 12, "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK",
                     "HTTP/1.0 200", "HTTP/1.1 204 No Content", "HTTP/1.1 304 x", "HTTP/1.1 429 x",
                     "HTTP/1.1 307 x", "HTTP/1.1 99 x", "HTTP/1.1 1000 x", "HTTP/1.1 -1 x",
                     "HTTP/2 200", "ICY 200 OK", "HTTP/1.1 ２００ OK", "HTTP/0.9 200 OK", "")
HTTP_HEADERS = (
    "Retry-After: 5", "Retry-After: ５", "Retry-After: " + "9" * 400, "Retry-After: -1",
    "Retry-After: Wed, 21 Oct 2015 07:28:00 GMT", "Content-Encoding: gzip", "Content-Encoding: br",
    "Content-Encoding: identity", "Content-Encoding: ", "Location: http://x.invalid/",
    "Location: //", "Location: http://[::1", "Location: \x00", "Set-Cookie: a=b; domain=.invalid",
    "X: " + "y" * 70_000,
    "Connection: close", "Transfer-Encoding: chunked, chunked", "Transfer-Encoding: identity",
    "Content-Length: 5", "Content-Length: 5, 6", "no colon", " folded", "\x00: \x01", "É: é",
    *["X-Many: " + "\r\nX-Many: ".join("z" * 200)], "Link: <", "Content-Type: \xff",
    "WWW-Authenticate: Basic realm=x", "Keep-Alive: timeout=" + "9" * 30,
)
_ORIGIN = Origin("http://127.0.0.1:1")
REQUEST = Request("GET", "/x", {"Accept": "*/*"})


def check_response(given):
    """An answer whose facts are plain, or what a worker takes for a broken line."""
    answer = _exchanged(given)
    if answer is None:
        return
    require(isinstance(answer.status, int) and 0 <= answer.status < 10_000, "no status")
    require(len(answer.body) <= BODY_BYTES_MAX, "a body above its bound")
    after = answer.retry_after
    require(after is None or 0 <= after < 10**9, "an endless wait asked for")


def _exchanged(data):
    ours, theirs = socket.socketpair()
    worker = object.__new__(transport_room._Worker)
    worker._lock, worker._handle, worker._was_sent = threading.Lock(), None, False
    worker._until = transport_room.Until(1)
    worker._is_over, worker._connection, worker._origin = False, None, _ORIGIN
    worker._adapter = transport_room._Adapter(worker, _ORIGIN)
    worker.opened = lambda connection: ours
    try:
        theirs.setblocking(False)
        theirs.send(data[:100_000])
        theirs.shutdown(socket.SHUT_WR)
        return worker._exchanged(REQUEST, 1)
    except (OSError, transport_room.HTTPException,
            transport_room.BaseHTTPError) as error:  # as `run` does
        sound_text(transport_room._root(error), "the trouble")
        return None
    finally:
        worker._adapter.close()
        ours.close()
        theirs.close()
