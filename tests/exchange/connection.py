"""Connection: one socket, its bytes logged, and HTTP/1.1 read from it and written to it.

Nothing is decided here.  A request is read whole or not at all; an answer is bytes that the caller
made.  The standard library's server is not used because the log must hold what was really sent.
"""

import json
import select
import socket
import struct
import threading
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote

HEAD_BYTES_MAX = 64 * 1024
BODY_BYTES_MAX = 1024 * 1024
CHUNK_BYTES = 64 * 1024  # more than a TLS record, so a read leaves nothing that select misses
SEND_SECONDS_MAX = 10  # a client that reads nothing for so long is cut off
POLL_SECONDS = 0.1  # how soon a wait notices that the server stops
FILLER = b" " * 16 * 1024  # what hostile answers are made of
CONTROL_PREFIX = b"POST /control/"
REASONS = {200: "OK", 301: "Moved Permanently", 302: "Found", 307: "Temporary Redirect",
           308: "Permanent Redirect", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden",
           404: "Not Found", 429: "Too Many Requests", 500: "Internal Server Error",
           502: "Bad Gateway", 503: "Service Unavailable", 504: "Gateway Timeout"}


class BadRequest(Exception):
    """The bytes are no request that this server reads."""


@dataclass
class Request:
    """What was asked: `path` as sent without the query, header names in lower case."""

    method: str
    path: str
    query: list
    headers: dict = field(default_factory=dict)
    body: bytes = b""

    @property
    def name(self):
        return f"{self.method} {self.path}"


class Connection:
    """A socket with a number and a buffer; its traffic is logged unless it is a control call."""

    def __init__(self, sock, number, log, stopping):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.settimeout(SEND_SECONDS_MAX)
        self.socket, self.number, self.stopping = sock, number, stopping
        self.served = 0  # requests answered on this connection
        self._log, self._buffer = log, b""
        self._logged = None  # not known before the first bytes say whether a test is steering
        self._io = threading.Lock()  # TLS cannot read and write at the same moment

    @property
    def steers(self):
        """Whether a test's control calls come over this connection."""
        return self._logged is False

    # Reading

    def receive(self, seconds=None):
        """Return the next bytes, b"" at the end, None when none came for `seconds`."""
        waited = 0
        while not (self.readable(POLL_SECONDS) or self.stopping.is_set()):
            waited += POLL_SECONDS
            if seconds is not None and waited >= seconds:
                return None
        if self.stopping.is_set():
            return b""
        try:
            with self._io:
                data = self.socket.recv(CHUNK_BYTES)
        except OSError:
            return b""
        if data and self._logged is None:
            self._logged = not data.startswith(CONTROL_PREFIX)
            self.note("open")
        if data and self._logged:
            self._log.data(self.number, "in", data)
        return data

    def readable(self, seconds):
        try:
            return bool(select.select([self.socket], [], [], seconds)[0])
        except (OSError, ValueError):  # closed under us by another thread
            return True

    def take(self, count, seconds=None):
        """Return exactly `count` bytes, or None when the stream ends first."""
        while len(self._buffer) < count:
            data = self.receive(seconds)
            if not data:
                return None
            self._buffer += data
        taken, self._buffer = self._buffer[:count], self._buffer[count:]
        return taken

    def request(self):
        """Return the next request, or None at the end of the stream."""
        while (end := self._buffer.find(b"\r\n\r\n")) < 0:
            if len(self._buffer) > HEAD_BYTES_MAX:
                raise BadRequest("the head is too long")
            data = self.receive()
            if not data:
                return None
            self._buffer += data
        request = decoded_head(self.take(end + 4)[:-4])
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > BODY_BYTES_MAX:
            raise BadRequest(f"content-length {length}")
        if "transfer-encoding" in request.headers:
            raise BadRequest("this server reads no chunks")
        body = self.take(int(length))
        if body is None:
            return None
        request.body = body
        return request

    # Writing

    def send(self, data):
        """Log and send; False when the peer is gone."""
        if self._logged:
            self._log.data(self.number, "out", data)
        return self.pour(data)

    def note(self, kind, **row):
        """Write a line of our own into the log."""
        if self._logged:
            self._log.record(self.number, kind, **row)

    def pour(self, data):
        try:
            with self._io:
                self.socket.sendall(data)
        except OSError:
            return False
        return True

    def filler(self, chunk, count, pause_seconds=0):
        """Send `chunk` again and again, `count` times at most; logged as a number of bytes."""
        sent = 0
        while sent < count and not self.stopping.is_set() and self.pour(chunk):
            sent += 1
            if pause_seconds and self.stopping.wait(pause_seconds):
                break
        self._log.filler(self.number, sent * len(chunk))
        return sent == count

    def filler_apart(self, chunk, count):
        """As `filler`, in a thread of its own, which ends with the connection."""
        threading.Thread(target=self.filler, args=(chunk, count), daemon=True).start()

    def answer(self, status, body=b"", kind="application/json", headers=()):
        return self.send(encoded_answer(status, body, kind, headers))

    def wait_for_the_peer_to_leave(self):
        while self.receive() != b"":
            pass

    def reset(self):
        """Close with RST instead of FIN."""
        with self._io:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close(linger=False)

    def close(self, linger=True):
        """Close the socket; with `linger` the peer reads what was sent first."""
        try:
            if linger:
                socket.socket.shutdown(self.socket, socket.SHUT_RDWR)
        except OSError:
            pass  # the peer was quicker
        self.socket.close()


def decoded_head(head):
    lines = head.decode("latin-1").split("\r\n")
    parts = lines[0].split(" ")
    if len(parts) != 3 or not parts[1].startswith("/"):
        raise BadRequest(f"request line {lines[0]!r}")
    path, _, query = parts[1].partition("?")
    headers = {}
    for line in lines[1:]:
        name, _, value = line.partition(":")
        headers[name.strip().lower()] = value.strip()
    return Request(parts[0], unquote(path), parse_qsl(query, keep_blank_values=True), headers)


def encoded_answer(status, body, kind="application/json", headers=()):
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Status')}"]
    if kind:
        lines.append(f"Content-Type: {kind}")
    lines.append(f"Content-Length: {len(body)}")
    lines += [f"{name}: {value}" for name, value in headers]
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body


def encoded_json(value):
    return json.dumps(value, separators=(",", ":"), default=str).encode()
