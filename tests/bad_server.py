"""A server on loopback that answers as it is told to, byte by byte, and remembers every request.

An answer is bytes, sent as they are, or a function of the connection that does worse.  The last
answer repeats.  `GET /time` has answers of its own, so that the clock is never in a test's way.
"""

import contextlib
import json
import socket
import struct
import threading
from dataclasses import dataclass
from datetime import UTC, datetime

REASONS = {200: "OK", 307: "Temporary Redirect", 400: "Bad Request", 503: "Unavailable"}


@dataclass(frozen=True)
class Request:
    """One request as it came.  connection counts from 1; headers have lower-case names."""

    connection: int
    method: str
    target: str
    headers: dict
    body: bytes

    @property
    def path(self):
        return self.target.partition("?")[0].removeprefix("/api/v3/brokerage")


class BadServer:
    """Use as a context manager; `tls` is a server's SSLContext."""

    def __init__(self, *answers, time=None, tls=None, address="127.0.0.1"):
        self._answers, self._tls = list(answers) or [says({})], tls
        self._time = time or (lambda link: link.sendall(the_time(datetime.now(UTC))))
        self._listening = socket.create_server((address, 0))
        self._open, self._lock = [], threading.Lock()
        self.address, self.port = address, self._listening.getsockname()[1]
        self.requests, self.time_requests, self.connections = [], [], 0
        self.stopped = threading.Event()

    @property
    def url(self):
        return f"{'https' if self._tls else 'http'}://{self.address}:{self.port}"

    def __enter__(self):
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.stopped.set()
        for link in (self._listening, *self._open):
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
            link.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                link, _ = self._listening.accept()
                self.connections += 1
                self._open.append(link)
                threading.Thread(target=self._serve, args=(link, self.connections),
                                 daemon=True).start()

    def _serve(self, link, number):
        with contextlib.suppress(OSError, ValueError), link:
            link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self._tls:
                link = self._tls.wrap_socket(link, server_side=True)
                self._open.append(link)
            with link, link.makefile("rb") as reader:
                while (request := _read_request(reader, number)) is not None:
                    answer = self._answer_to(request)
                    if isinstance(answer, bytes):
                        link.sendall(answer)
                    else:
                        answer(link)

    def _answer_to(self, request):
        with self._lock:
            if request.path == "/time":
                self.time_requests.append(request)
                return self._time
            self.requests.append(request)
            return self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]


def _read_request(reader, number):
    first = reader.readline().decode().split()
    if len(first) != 3:
        return None
    headers = {}
    while line := reader.readline().decode().strip():
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    return Request(number, first[0], first[1], headers,
                   reader.read(int(headers.get("content-length", 0))))


# Answers


def answer(status, body=b"", *headers):
    length = f"Content-Length: {len(body)}"
    lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'X')}", length, *headers, "", ""]
    return "\r\n".join(lines).encode() + body


def says(value, status=200, *headers):
    return answer(status, json.dumps(value).encode(), *headers)


def the_time(now):
    return says({"iso": now.strftime("%Y-%m-%dT%H:%M:%SZ"),
                 "epochSeconds": str(int(now.timestamp())),
                 "epochMillis": str(int(now.timestamp() * 1000))})


def hang(link):
    """Say nothing until the other side goes."""
    link.settimeout(60)
    if not link.recv(1):
        raise OSError("gone")


def drip(data, seconds=0.05):
    """Send one byte at a time; never slow enough for a timeout between two of them."""
    def slowly(link):
        link.settimeout(seconds)
        for each in data:
            link.sendall(bytes([each]))
            with contextlib.suppress(TimeoutError):
                if not link.recv(1):
                    return
    return slowly


def forever(head, piece):
    """Send `head`, then `piece` without end."""
    def pour(link):
        link.sendall(head)
        while True:
            link.sendall(piece)
    return pour


def close_after(data=b""):
    """Send `data`, then close in good order."""
    def close(link):
        link.sendall(data)
        link.shutdown(socket.SHUT_RDWR)
        raise OSError("closed")
    return close


def reset(link):
    link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    link.close()
    raise OSError("reset")
