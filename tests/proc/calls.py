"""Calls: does every HTTP call end at its deadline, whatever the server does?

With the deadlines that are in force (tests/test_rest.py asks the same with hurried ones): servers
that hang, drip, pour without end, or never finish a TLS handshake.
"""

import random
import socket
import threading
import time
from contextlib import contextmanager, suppress

import bad_server
from bad_server import BadServer
from pace import Stopwatch

from perps_bot import rest as rest_room
from perps_bot.errors import OrderRejected, OutcomeUnknown, VenueUnavailable
from perps_bot.rest import Rest, VenueClock

SLACK_SECONDS = 0.5
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"
SLOW_HEAD = OK + b"Content-Length: 400\r\nX-Long: " + b"y" * 400
HUGE = OK + b"Content-Length: 1000000000\r\n\r\n"


def drip_after(head):
    def slowly(link):
        link.sendall(head)
        bad_server.drip(b"{" + b" " * 398 + b"}")(link)

    return slowly


SERVERS = {
    # what it does           how
    "hangs":                 bad_server.hang,
    "drips its headers":     bad_server.drip(SLOW_HEAD),
    "drips its body":        drip_after(OK + b"Content-Length: 400\r\n\r\n"),
    "drips and closes":      drip_after(OK + b"Connection: close\r\nContent-Length: 400\r\n\r\n"),
    "endless chunks":        bad_server.forever(CHUNKED, b"1\r\n{\r\n" * 999),
    "endless headers":       bad_server.forever(OK, b"X: y\r\n" * 99),
    "one endless header":    bad_server.forever(OK + b"X: ", b"y" * 9999),
    "100 without end":       bad_server.drip(b"HTTP/1.1 100 Continue\r\n\r\n" * 50),
    "a body of 1 GB":        bad_server.forever(HUGE, b"{" * 9999),
}  # fmt: skip
# A TLS record that promises a kilobyte of greeting.
GREETING = b"\x16\x03\x03\x04\x00\x02\x00\x03\xfc" + b"\x03" * 1015
HANDSHAKES = {
    "no TLS handshake":      lambda link: link.recv(1) and time.sleep(LINGER_SECONDS),
    "a dripping handshake":  bad_server.drip(GREETING),
}  # fmt: skip
LINGER_SECONDS = 15  # longer than any deadline
ASKS = {
    # how       its deadline                     the call
    "get":     ("READ_SECONDS_MAX",    lambda rest: rest.get("/orders/historical/batch")),
    "send":    ("ORDER_SECONDS_MAX",   lambda rest: rest.send("/orders", {"client_order_id": "x"})),
    "cancel":  ("CANCEL_SECONDS_MAX",  lambda rest: rest.cancel({"order_ids": ["1"]})),
}  # fmt: skip


class Signer:
    name = "a key"

    def rest_token(self, *_):
        return "a token"


@contextmanager
def a_server(kind):
    """The address of a server of that kind."""
    if kind in SERVERS:
        with BadServer(SERVERS[kind]) as bad:
            yield bad.url
        return
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_greet, args=(listening, HANDSHAKES[kind]), daemon=True).start()
        yield f"https://127.0.0.1:{listening.getsockname()[1]}"


def _greet(listening, greet):
    with suppress(OSError):
        while True:
            link, _ = listening.accept()
            threading.Thread(target=_say, args=(link, greet), daemon=True).start()


def _say(link, greet):
    with suppress(OSError), link:
        greet(link)


def cases():
    return [(server, how) for server in (*SERVERS, *HANDSHAKES) for how in ASKS]


def late(case):
    """Ask one server one thing; return what is wrong with the time that took, or ""."""
    server, how = case
    limit, ask = ASKS[how]
    with a_server(server) as url:
        rest = Rest(url, Signer(), VenueClock(), jitter=random.Random(1))
        what = ""
        try:
            with Stopwatch() as took:
                ask(rest)
            what = f"{server}: {how} came to something"
        except (OrderRejected, OutcomeUnknown, VenueUnavailable):
            most = getattr(rest_room, limit) + SLACK_SECONDS
            if took.seconds > most:
                what = f"{server}: {how} took {took.seconds:.2f} s, more than {most}"
        finally:
            rest.close()
    return what
