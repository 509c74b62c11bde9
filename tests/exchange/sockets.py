"""Sockets: what does each WebSocket client hear, and with which sequence number?

RFC 6455 by hand, one counter a connection across all channels, subscriptions with tokens, and the
faults of a stream.  What the messages say comes from the exchange.  All of it runs under the
server's lock, save for the reading of frames.
"""

import base64
import hashlib
import json
import struct
import time
from collections import deque

from .connection import FILLER, encoded_json

CHANNELS = {"heartbeats", "ticker", "ticker_batch", "level2", "market_trades", "candles", "status",
            "user", "futures_balance_summary"}
PRIVATE = {"user", "futures_balance_summary"}
SUBSCRIBED_AS = {"l2_data": "level2"}  # delivered under another name than asked for
HANDSHAKE_SALT = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
TEXT, CLOSE, PING, PONG = 1, 8, 9, 10
GOING_AWAY = struct.pack("!H", 1001)
FRAME_BYTES_MAX = 1024 * 1024
REPLAYED_MAX = 50
FRAGMENTS_MAX = 1_000_000
QUOTES = ("best_bid", "best_bid_quantity", "best_ask", "best_ask_quantity")


class Hub:
    """All open sockets.  The caller holds the lock, except in `serve`."""

    def __init__(self, exchange, lock, tokens, subscribe_seconds=5, idle_seconds=75):
        self.exchange, self.lock, self.tokens = exchange, lock, tokens
        self.open, self.modes = [], []
        self.replayed = deque(maxlen=REPLAYED_MAX)
        self._subscribe_seconds, self._idle_seconds = subscribe_seconds, idle_seconds

    def serve(self, connection, request):
        """Shake hands and listen until the client leaves; runs in the connection's thread."""
        refused = self._refuses_upgrades()
        connection.note("upgrade", path=request.path, status=403 if refused else 101)
        if refused:
            connection.answer(403, b"Forbidden", "text/plain")
            return
        key = request.headers.get("sec-websocket-key", "").encode()
        accept = base64.b64encode(hashlib.sha1(key + HANDSHAKE_SALT).digest()).decode()
        connection.send(f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: "
                        f"Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode())
        socket = Socket(self, connection)
        with self.lock:
            self.open.append(socket)
        try:
            socket.listen()
        finally:
            with self.lock:
                self.open.remove(socket)

    def _refuses_upgrades(self):
        with self.lock:
            refusing = [mode for mode in self.modes if mode["name"] == "ws_no_upgrade"]
            for mode in refusing[:1]:
                if mode["times"] is not None:
                    mode["times"] -= 1
                    self.modes = [kept for kept in self.modes if kept["times"] != 0]
        return bool(refusing)

    def publish(self, payloads):
        for payload in payloads:
            if payload["channel"] == "user":
                self.replayed.append(payload["events"])
            for socket in self.open:
                socket.deliver(payload["channel"], payload["events"])

    def beat(self):
        for socket in self.open:
            socket.heartbeat()

    def expire(self):
        """Close sockets that never subscribed, and sockets without news for too long."""
        now = time.monotonic()
        for socket in self.open:
            limit = self._idle_seconds if socket.subscriptions else self._subscribe_seconds
            if now - socket.active_at > limit:
                socket.leave()

    def fault(self, name, times=None, channel=None, **numbers):
        """Do it to every socket (that has subscribed to `channel`); say how many were hit.

        What lasts, lasts until "ws_clear"; only refused upgrades can be counted in `times`.
        """
        if name == "ws_clear":
            self.modes.clear()
            return 0
        hit = [one for one in self.open if channel is None or channel in one.subscriptions]
        if name in MODES:
            self.modes.append({"name": name, "channel": channel, "times": times})
        elif name in BLOWS:
            for socket in hit:
                BLOWS[name](socket, **numbers)
        else:
            raise ValueError(f"no fault {name!r}; there are {sorted(MODES | set(BLOWS))}")
        return len(hit)

    def in_force(self, name, socket):
        return any(mode["name"] == name and (mode["channel"] in (None, *socket.subscriptions))
                   for mode in self.modes)

    def picture(self):
        return [{"connection": one.connection.number, "sequence_num": one.next_number - 1,
                 "messages": one.messages,
                 "subscriptions": {name: sorted(ids) for name, ids in one.subscriptions.items()}}
                for one in self.open]


class Socket:
    """One client: its subscriptions, its sequence, and what is to go wrong with the next message.

    subscriptions  channel -> product ids, empty for all
    next_number    the sequence number of the next message
    """

    def __init__(self, hub, connection):
        self.hub, self.connection = hub, connection
        self.subscriptions, self.next_number, self.beats, self.messages = {}, 0, 0, 0
        self.active_at = time.monotonic()
        self.joined, self.twice = b"", False
        self.swapping, self.held = False, None
        self.left = self.muted = False

    # Listening

    def listen(self):
        while (frame := self.frame()) is not None:
            opcode, data = frame
            with self.hub.lock:
                if opcode == TEXT:
                    self.told(data)
                elif opcode == PING:
                    self.send_frame(PONG, data)
                elif opcode == CLOSE:
                    self.send_frame(CLOSE, data[:2])
                    return

    def frame(self):
        """Return (opcode, payload) of the next whole message; fragments are joined."""
        while (part := self.part(FRAME_BYTES_MAX - len(self.joined))) is not None:
            is_last, opcode, data = part
            if opcode >= CLOSE:  # may stand between two fragments
                return opcode, data
            self.joined += data
            if is_last:
                whole, self.joined = self.joined, b""
                return TEXT, whole
        return None

    def part(self, bytes_max):
        """Return (is it the last, opcode, payload) of the next frame, None when none can come."""
        head = self.connection.take(2)
        if head is None or not head[1] & 0x80 or self.left:  # clients must mask
            return None
        size = head[1] & 0x7F
        if size > 125:
            wide = self.connection.take(2 if size == 126 else 8)
            size = int.from_bytes(wide or b"\xff" * 8, "big")
        masked = self.connection.take(4 + size) if size <= bytes_max else None
        if masked is None:
            return None
        return bool(head[0] & 0x80), head[0] & 0x0F, unmasked(masked[4:], masked[:4])

    def told(self, data):
        """Act on a subscribe or unsubscribe."""
        self.connection.note("heard", text=data.decode("utf-8", "replace"))
        try:
            message = json.loads(data)
            channel = message["channel"]
            ids = [str(one) for one in message.get("product_ids") or ()]
            change = {"subscribe": self.subscribe, "unsubscribe": self.unsubscribe}[message["type"]]
        except (ValueError, LookupError, TypeError, AttributeError):
            self.error("invalid message")
            return
        if self.refused(channel, message.get("jwt")):
            self.error("authentication failure")
            return
        change(channel, ids)

    def refused(self, channel, token):
        if channel not in CHANNELS or (channel in PRIVATE and not token):
            return True
        return bool(token) and bool(self.hub.tokens.refusal(token, self.hub.exchange.now))

    def subscribe(self, channel, ids):
        known = self.subscriptions.setdefault(channel, set())
        known.update(ids)
        self.list_subscriptions()
        if channel == "heartbeats":
            self.heartbeat()
            return
        for event in self.hub.exchange.snapshot(channel, sorted(known)):
            name = "l2_data" if channel == "level2" else channel
            self.deliver(name, [event])
        if channel == "user" and self.hub.in_force("ws_replay", self):
            for events in self.hub.replayed:
                self.deliver(channel, events)

    def unsubscribe(self, channel, ids):
        left = self.subscriptions.pop(channel, set()) - set(ids)
        if ids and left:
            self.subscriptions[channel] = left
        self.list_subscriptions()

    def list_subscriptions(self):
        listed = {name: sorted(ids) for name, ids in self.subscriptions.items()}
        self.message("subscriptions", [{"subscriptions": listed}])

    # Speaking

    def deliver(self, channel, events):
        """Send what of `events` this client has subscribed to."""
        asked = SUBSCRIBED_AS.get(channel, channel)
        if asked not in self.subscriptions:
            return
        ids = self.subscriptions[asked]
        wanted = [event for event in (picked(event, ids) for event in events) if event]
        if channel == "ticker":
            if self.hub.in_force("ws_freeze_ticker", self):
                return
            if self.hub.in_force("ws_empty_quotes", self):
                wanted = [without_quotes(event) for event in wanted]
        if wanted:
            self.message(channel, wanted)

    def heartbeat(self):
        if "heartbeats" in self.subscriptions:
            self.beats += 1
            now = self.hub.exchange.now.strftime("%Y-%m-%d %H:%M:%S.%f000 +0000 UTC")
            self.message("heartbeats", [{"current_time": f"{now} m=+{self.beats}.000000001",
                                         "heartbeat_counter": str(self.beats)}])

    def message(self, channel, events):
        stamp = self.hub.exchange.now.strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
        text = encoded_json({"channel": channel, "client_id": "", "timestamp": stamp,
                             "sequence_num": self.next_number, "events": events})
        self.next_number += 1
        if self.hub.in_force("ws_silence", self):
            return  # made, numbered and lost
        if self.swapping and self.held is None:
            self.held = text
            return
        self.say(text)
        if self.twice:
            self.say(text)
        if self.held:
            self.say(self.held)
        self.twice, self.swapping, self.held = False, False, None

    def say(self, text):
        self.active_at = time.monotonic()
        self.messages += 1
        self.send_frame(TEXT, text)

    def error(self, message="internal error"):
        self.say(encoded_json({"type": "error", "message": message}))

    def send_frame(self, opcode, data):
        if not self.muted and not self.connection.send(encoded_frame(opcode, data)):
            self.left = True

    # Blows

    def leave(self, how="close"):
        """Go: with a close frame, without a word ("drop"), or with RST ("reset")."""
        if how == "close":
            self.send_frame(CLOSE, GOING_AWAY)
        self.left = True
        if how == "reset":
            self.connection.reset()
        else:
            self.connection.close()

    def skip(self, count=1):
        self.next_number += count

    def double(self):
        self.twice = True

    def swap(self):
        self.swapping = True

    def garbage(self, text="<html>not JSON</html>"):
        self.say(text.encode())

    def huge_frame(self, bytes=1 << 40, sent=64 * 1024 * 1024):
        """Announce a frame of `bytes` and send up to `sent` of them."""
        self.muted = True
        self.connection.send(b"\x81\x7f" + struct.pack("!Q", bytes))
        self.connection.filler_apart(FILLER, max(1, min(bytes, sent) // len(FILLER)))

    def endless_fragments(self, count=FRAGMENTS_MAX):
        self.muted = True
        self.connection.send(b"\x01\x7e" + struct.pack("!H", len(FILLER)) + FILLER)
        self.connection.filler_apart(
            b"\x00\x7e" + struct.pack("!H", len(FILLER)) + FILLER, count)


MODES = {"ws_silence", "ws_freeze_ticker", "ws_empty_quotes", "ws_no_upgrade", "ws_replay"}
BLOWS = {"ws_drop": Socket.leave, "ws_gap": Socket.skip, "ws_duplicate": Socket.double,
         "ws_reorder": Socket.swap, "ws_error": Socket.error, "ws_garbage": Socket.garbage,
         "ws_huge_frame": Socket.huge_frame, "ws_endless_fragments": Socket.endless_fragments}


def picked(event, ids):
    """Return `event` with the rows of `ids` only, None when nothing of it is left."""
    if not ids or event.get("product_id") in ids:
        return event
    if "product_id" in event:
        return None
    event, dropped = dict(event), False
    for key, rows in event.items():
        if isinstance(rows, list) and rows:
            event[key] = [row for row in rows if row.get("product_id", row.get("id")) in ids]
            dropped = dropped or not event[key]
    return None if dropped and event.get("type") != "snapshot" else event


def without_quotes(event):
    rows = [{**row, **dict.fromkeys(QUOTES, "")} for row in event["tickers"]]
    return {**event, "tickers": rows}


def encoded_frame(opcode, data):
    head = bytes([0x80 | opcode])
    if len(data) < 126:
        return head + bytes([len(data)]) + data
    if len(data) < 1 << 16:
        return head + b"\x7e" + struct.pack("!H", len(data)) + data
    return head + b"\x7f" + struct.pack("!Q", len(data)) + data


def unmasked(data, mask):
    whole = mask * (len(data) // 4 + 1)
    number = int.from_bytes(data, "big") ^ int.from_bytes(whole[:len(data)], "big")
    return number.to_bytes(len(data), "big")
