"""What came of a request: Rest, over real sockets, against servers that behave badly.

Rows of the fault model (C1 to C14) are named in the tests that show them.
"""

import gzip
import json
import logging
import os
import random
import socket
import ssl
import threading
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from ipaddress import ip_address
from types import SimpleNamespace

import pytest
from bad_server import (
    BadServer, answer, close_after, drip, forever, hang, reset, says, the_time,
)
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from pace import Stopwatch

from perps_bot import rest as rest_room
from perps_bot import transport
from perps_bot.errors import ConfigError, OrderRejected, OutcomeUnknown, VenueUnavailable
from perps_bot.rest import Rest, VenueClock

GOOD = says({"ok": "1"})
ORDER = {"client_order_id": "a-1", "side": "BUY"}
SLACK_SECONDS = 0.5  # what a call may take beyond its deadline
NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
KEY_NAME = "organizations/o-1/apiKeys/k-1"


class TellTale:
    """A signer whose tokens say what was signed."""

    name = KEY_NAME

    def rest_token(self, method, host, path, now):
        return f"{method}|{host}|{path}|{now.isoformat()}"


@pytest.fixture
def make():
    """Make a Rest for a server or URL; all are closed in the end."""
    made = []

    def rest(server, **options):
        url = server if isinstance(server, str) else server.url
        options = {"signer": TellTale(), "clock": VenueClock(),
                   "jitter": random.Random(1)} | options
        made.append(Rest(url, **options))
        return made[-1]

    yield rest
    for each in made:
        each.close()


@pytest.fixture
def hurried(monkeypatch):
    """Deadlines of a fraction of a second; the back-off nearly none."""
    for name, seconds in {"READ_SECONDS_MAX": 0.5, "READ_ATTEMPT_SECONDS_MAX": 0.2,
                          "CANCEL_SECONDS_MAX": 0.5, "CANCEL_ATTEMPT_SECONDS_MAX": 0.2,
                          "ORDER_SECONDS_MAX": 0.3, "BACK_OFF_SECONDS": 0.01}.items():
        monkeypatch.setattr(rest_room, name, seconds)


@pytest.fixture
def at_once(monkeypatch):
    """The deadlines as they are, and next to no back-off: for what is to succeed in the end."""
    monkeypatch.setattr(rest_room, "BACK_OFF_SECONDS", 0.01)


def asked(rest, how):
    """Do one of the three things that can be asked."""
    return {"get": lambda: rest.get("/orders/historical/batch"),
            "send": lambda: rest.send("/orders", ORDER),
            "cancel": lambda: rest.cancel({"order_ids": ["1"]})}[how]()


def outcome(rest, how):
    """Return what came of it, as the name of the error or "good", and what was said."""
    with Stopwatch() as took:
        try:
            asked(rest, how)
            said = "good", ""
        except (OrderRejected, OutcomeUnknown, VenueUnavailable) as error:
            said = type(error).__name__, str(error)
    limit = {"get": rest_room.READ_SECONDS_MAX, "send": rest_room.ORDER_SECONDS_MAX,
             "cancel": rest_room.CANCEL_SECONDS_MAX}[how]
    assert took.seconds < limit + SLACK_SECONDS
    return said


def signed_at(request):
    return request.headers["authorization"].rpartition("|")[2][:16]


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def others():
    """The threads of other tests, whose clients were not closed, are not counted."""
    OTHERS.clear()
    OTHERS.update(threading.enumerate())


OTHERS = set()


def workers():
    return [each for each in threading.enumerate()
            if each.name.startswith("rest-") and each not in OTHERS]


# What is sent


def test_a_private_read_carries_a_token_of_its_own_and_asks_for_plain_bytes(make):
    with BadServer(GOOD) as server:
        rest = make(server)
        query = [("product_ids", "A"), ("product_ids", "B"), ("start", "2026-11-23T00:00:00+00:00")]
        assert rest.get("/orders/historical/fills", query) == {"ok": "1"}
        rest.get("/orders/historical/fills")
    first, second = server.requests
    assert first.target == ("/api/v3/brokerage/orders/historical/fills?product_ids=A&product_ids=B"
                            "&start=2026-11-23T00%3A00%3A00%2B00%3A00")
    assert first.headers["accept-encoding"] == "identity"
    assert first.headers["cache-control"] == "no-cache"
    signed = first.headers["authorization"].removeprefix("Bearer ").split("|")
    assert signed[:3] == ["GET", f"127.0.0.1:{server.port}",
                          "/api/v3/brokerage/orders/historical/fills"]
    assert first.headers["authorization"] != second.headers["authorization"]


def test_an_order_is_one_post_of_json(make):
    with BadServer(GOOD) as server:
        assert make(server).send("/orders", ORDER) == {"ok": "1"}
    (request,) = server.requests
    assert (request.method, request.path) == ("POST", "/orders")
    assert json.loads(request.body) == ORDER
    assert request.headers["content-type"] == "application/json"
    assert request.headers["authorization"].startswith("Bearer POST|")


def test_a_public_read_carries_no_token_and_works_without_a_key(make):
    with BadServer(GOOD) as server:
        assert make(server, signer=None).get("/market/products", public=True) == {"ok": "1"}
        make(server).get("/market/products", public=True)
    assert all("authorization" not in request.headers for request in server.requests)
    assert server.time_requests == []


@pytest.mark.parametrize("how", ["get", "send", "cancel"])
def test_what_is_private_needs_a_key(make, how):
    with BadServer(GOOD) as server, pytest.raises(ConfigError, match="needs a key"):
        asked(make(server, signer=None), how)
    assert server.connections == 0


@pytest.mark.parametrize("how", ["send", "cancel"])
@pytest.mark.parametrize("later", [False, True])
def test_read_only_sends_nothing_and_opens_nothing(make, how, later):
    with BadServer(GOOD) as server:
        rest = make(server, read_only="" if later else "dry run")
        if later:
            rest.read_only = "dry run"
        # Of an order it is certain that there is none; of what was to be cancelled it is not.
        with pytest.raises(OrderRejected if how == "send" else VenueUnavailable, match="dry run"):
            asked(rest, how)
        assert server.connections == 0
        assert rest.get("/products") == {"ok": "1"}


def test_requests_share_one_connection_and_cancels_have_another(make):
    with BadServer(GOOD) as server:
        rest = make(server)
        for how in ("get", "send", "cancel", "get", "cancel", "send"):
            asked(rest, how)
    lanes = {"cancel" if "cancel" in request.path else "trade": request.connection
             for request in server.requests}
    assert server.connections == 2
    assert lanes["cancel"] != lanes["trade"]


def test_the_connection_of_the_cancels_is_kept_warm_by_looks_at_the_clock(make, monkeypatch):
    with BadServer(GOOD) as server:
        rest = make(server)
        rest.get("/products")
        rest.get("/products")
        assert len(server.time_requests) == 1
        monkeypatch.setattr(rest_room, "WARM_SECONDS_MAX", 0)
        rest.get("/products")
        assert len(server.time_requests) == 2
        asked(rest, "cancel")
    assert {each.connection for each in server.time_requests} == {server.requests[-1].connection}


def test_the_log_shows_no_token_no_query_and_no_body(make, caplog):
    caplog.set_level(logging.DEBUG, logger="perps_bot")
    with BadServer(says({"secret": "word"})) as server:
        rest = make(server)
        rest.get("/products", [("cursor", "hidden")])
        rest.send("/orders", ORDER)
    ours = [record.getMessage() for record in caplog.records if record.name == "perps_bot"]
    assert any("path=/orders status=200" in line for line in ours)
    assert not any(word in line for line in ours
                   for word in ("Bearer", "|", "hidden", "secret", "word", "a-1"))


# What it means


@pytest.mark.parametrize("status, result", [
    (200, "good"), (201, "good"), (204, "OutcomeUnknown"),
    *((status, "OrderRejected") for status in (400, 401, 403, 404, 422)),
    *((status, "OutcomeUnknown") for status in (
        301, 302, 304, 307, 308, 402, 405, 408, 409, 410, 413, 425, 429, 500, 502, 503, 504, 520)),
])
def test_an_order_is_sent_once_whatever_the_answer_C7_C8_C9(make, status, result):
    body = b"" if status in (204, 304) else b'{"error": "NAME", "message": "some words"}'
    with BadServer(answer(status, body)) as server:
        said, words = outcome(make(server), "send")
    assert said == result
    assert len(server.requests) == 1
    assert result == "good" or f"HTTP {status}" in words


@pytest.mark.parametrize("status, times", [
    (400, 1), (404, 1), (422, 1), (401, 2), (403, 2),
    (307, 3), (408, 3), (409, 3), (429, 3), (500, 3), (502, 3), (503, 3), (524, 3),
])
@pytest.mark.parametrize("how", ["get", "cancel"])
def test_what_may_be_asked_twice_is_asked_again_where_that_helps_C7_C8_C9(
        make, at_once, how, status, times):
    with BadServer(says({"error": "NAME", "message": "some words"}, status)) as server:
        said, words = outcome(make(server), how)
    is_definite = status in (400, 401, 403, 404, 422)
    assert said == ("VenueUnavailable" if how == "get" or is_definite else "OutcomeUnknown")
    assert f"HTTP {status} NAME some words" in words
    assert len(server.requests) == times


@pytest.mark.parametrize("how", ["get", "cancel"])
def test_a_failure_that_passes_is_not_noticed(make, at_once, monkeypatch, how):
    for name in ("READ_ATTEMPT_SECONDS_MAX", "CANCEL_ATTEMPT_SECONDS_MAX"):
        monkeypatch.setattr(rest_room, name, 1)
    with BadServer(says({}, 503), hang, GOOD) as server:
        assert outcome(make(server), how) == ("good", "")
    assert len(server.requests) == 3


def test_a_cancel_that_was_once_unknown_stays_so(make, hurried):
    with BadServer(says({}, 503), says({}, 404)) as server:
        assert outcome(make(server), "cancel")[0] == "OutcomeUnknown"


@pytest.mark.parametrize("body, words", [
    ({"error": "INVALID_ARGUMENT", "error_details": "x", "message": "bad filter"},
     "HTTP 400 INVALID_ARGUMENT bad filter"),
    ({"errors": [{"id": "rate_limit_exceeded", "message": "Too many requests"}]},
     "HTTP 400 rate_limit_exceeded Too many requests"),
    ({"error": "a\nb\x1b[2Jc", "message": 7}, "HTTP 400 a?b?[2Jc"),
    ({"message": f"no such key {KEY_NAME}"}, "HTTP 400 no such key (our key)"),
    ({"errors": []}, "HTTP 400"),
    ({"message": "w" * 5000}, "HTTP 400 " + "w" * 200),
], ids=["grpc", "app", "control", "key name", "empty", "long"])
def test_the_words_of_a_refusal_are_the_venues_and_fit_on_a_line(make, body, words):
    with BadServer(says(body, 400)) as server, pytest.raises(OrderRejected) as refused:
        make(server).send("/orders", ORDER)
    assert refused.value.code == "HTTP_400"
    assert str(refused.value) == f"POST /orders: {words}"


@pytest.mark.parametrize("status, result", [(401, "OrderRejected"), (403, "OrderRejected"),
                                            (502, "OutcomeUnknown")])
def test_a_page_for_people_is_never_shown(make, status, result):
    with BadServer(answer(status, b"<html>Unauthorized token=abc</html>")) as server:
        said, words = outcome(make(server), "send")
    assert said == result
    assert "html" not in words and "abc" not in words


@pytest.mark.parametrize("asks_for, waits", [("0", 0), ("1", 0.2), ("99999", 0.2), ("soon", 0.01)])
def test_retry_after_is_heeded_up_to_a_bound_C8(make, monkeypatch, asks_for, waits):
    monkeypatch.setattr(rest_room, "RETRY_AFTER_SECONDS_MAX", 0.2)
    monkeypatch.setattr(rest_room, "BACK_OFF_SECONDS", 0.01)
    with BadServer(says({}, 429, f"Retry-After: {asks_for}"), GOOD) as server, Stopwatch() as took:
        make(server).get("/products")
    assert waits * 0.5 <= took.real and took.seconds < waits + 0.7  # not one second, nor 99999


def test_a_wait_that_cannot_help_is_not_begun_C8(make, hurried):
    with BadServer(says({"error": "busy"}, 429, "Retry-After: 3")) as server, Stopwatch() as took:
        said, words = outcome(make(server), "get")
    assert took.seconds < 0.5  # which is the whole deadline
    assert said == "VenueUnavailable" and "busy" in words
    assert len(server.requests) == 1


def test_the_back_off_doubles_and_its_jitter_comes_from_the_seed(make):
    rest, twin = make("http://127.0.0.1:1"), make("http://127.0.0.1:1")
    reply = SimpleNamespace(retry_after=None)
    pauses = [rest._pause(attempt, reply) for attempt in range(3)]
    assert pauses == [twin._pause(attempt, reply) for attempt in range(3)]
    for attempt, pause in enumerate(pauses):
        assert 0.125 * 2 ** attempt <= pause <= 0.375 * 2 ** attempt
    assert len({pause / 2 ** attempt for attempt, pause in enumerate(pauses)}) == 3


# The clock


class Machine:
    """A wall clock and a monotonic clock, to be moved by hand."""

    def __init__(self):
        self.wall_now, self.elapsed = NOON, 1000.0

    def clock(self):
        return VenueClock(lambda: self.wall_now, lambda: self.elapsed)


def test_the_venues_time_goes_on_by_the_monotonic_clock_whatever_the_wall_clock_does():
    machine = Machine()
    clock = machine.clock()
    assert clock.now() == NOON and clock.age_seconds() is None
    clock.set(NOON + timedelta(seconds=7))
    machine.elapsed += 30
    machine.wall_now -= timedelta(days=3650)
    assert clock.now() == NOON + timedelta(seconds=37)
    assert clock.age_seconds() == 30


@pytest.mark.parametrize("body", [
    {"iso": "bad", "epochSeconds": "0", "epochMillis": "1795435205250"},
    {"iso": "bad", "epochSeconds": 0, "epochMillis": 1795435205250},
    {"iso": "2026-11-23T12:00:05.25Z"},
])
def test_the_clock_is_measured_by_each_form_of_the_venues_answer(make, body):
    clock = Machine().clock()
    with BadServer(time=says(body)) as server:
        offset = make(server, clock=clock, signer=None).measure_clock()
    assert isinstance(offset, Decimal)
    # Half of the round trip is added.
    assert Decimal("5.25") <= offset < Decimal("5.75")
    assert clock.now() - NOON == timedelta(seconds=float(offset))


def test_the_middle_of_the_round_trip_counts(make):
    slow = drip(says({"iso": "2026-11-23T12:00:00Z"}), 0.005)
    with BadServer(time=slow) as server:
        with Stopwatch() as took:
            rest = make(server, clock=Machine().clock())
            asked_at = time.monotonic()
            offset = float(rest.measure_clock())
            most = (time.monotonic() - asked_at) / 2
    assert took.real > 0.3
    assert most - 0.1 - (took.real - took.seconds) < offset <= most


@pytest.mark.parametrize("body", [
    answer(200, b"<html>"), says({}), says({"iso": "yesterday"}), says({"epochMillis": True}),
    says({"epochMillis": "999999999999999"}), says({"epochMillis": "1", "iso": "x"}, 500),
])
def test_a_clock_that_says_nothing_changes_nothing(make, body):
    clock = Machine().clock()
    clock.set(NOON)
    with BadServer(time=body) as server, pytest.raises(VenueUnavailable, match="/time"):
        make(server, clock=clock).measure_clock()
    assert clock.now() == NOON


@pytest.mark.parametrize("body", [
    {"iso": "9999-12-31T23:59:59.999999Z"}, {"epochMillis": "253402300799999"},
    {"iso": "0001-01-01T00:00:00Z"}, {"iso": "2200-01-01T00:00:00Z"}])
def test_a_time_at_the_end_of_the_calendar_is_no_time_even_at_first_E12(make, body):
    clock = Machine().clock()
    with BadServer(time=says(body)) as server, pytest.raises(VenueUnavailable, match="/time"):
        make(server, clock=clock).measure_clock()
    assert clock.age_seconds() is None


def test_tokens_carry_the_venues_time(make):
    venue_now = NOON + timedelta(hours=1)
    with BadServer(time=the_time(venue_now)) as server:
        make(server, clock=Machine().clock()).get("/products")
    assert signed_at(server.requests[0]) == "2026-11-23T13:00"


def test_the_clock_is_measured_anew_when_its_measurement_is_old_B2(make):
    machine = Machine()
    with BadServer(GOOD) as server:
        rest = make(server, clock=machine.clock())
        rest.get("/products")
        machine.elapsed += 599
        rest.get("/products")
        assert len(server.time_requests) == 1
        machine.elapsed += 2
        rest.get("/products")
        rest.get("/products")
        assert len(server.time_requests) == 2


def test_a_failed_look_at_the_clock_is_not_repeated_at_once_and_costs_no_read(make):
    with BadServer(GOOD, time=says({}, 500)) as server:
        rest = make(server)
        for _ in range(3):
            rest.get("/products")
        assert len(server.time_requests) == 1


def test_an_order_never_waits_for_the_clock(make):
    with BadServer(GOOD, time=hang) as server:
        rest = make(server)
        asked(rest, "send")
        asked(rest, "cancel")
        assert server.time_requests == []


def test_a_401_has_the_clock_measured_before_the_second_token_C7(make, at_once):
    machine = Machine()
    clock = machine.clock()
    clock.set(NOON)
    machine.wall_now += timedelta(hours=2)  # the machine slept, and the monotonic clock with it
    with BadServer(says({}, 401), GOOD, time=the_time(NOON + timedelta(hours=2))) as server:
        rest = make(server, clock=clock)
        rest._cancels.used_at = rest._tend_after = time.monotonic() + 60  # not due
        rest.get("/products")
    assert list(map(signed_at, server.requests)) == ["2026-11-23T12:00", "2026-11-23T14:00"]


def test_a_venue_whose_time_leaps_away_from_both_clocks_is_not_believed(make):
    machine = Machine()
    clock = machine.clock()
    clock.set(NOON)
    with BadServer(GOOD, time=the_time(NOON + timedelta(days=40))) as server:
        with pytest.raises(VenueUnavailable, match="not believed"):
            make(server, clock=clock).measure_clock()
    assert clock.now() == NOON


def test_an_order_that_got_401_has_the_next_read_measure_the_clock_C7(make):
    with BadServer(says({}, 401), GOOD) as server:
        rest = make(server)
        rest.measure_clock()
        assert outcome(rest, "send")[0] == "OrderRejected"
        assert len(server.time_requests) == 1
        rest.get("/products")
        assert len(server.time_requests) == 2


# Time


ENDLESS = forever(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\n{\r\n" * 999)
SLOW = (b"HTTP/1.1 200 OK\r\nContent-Length: 400\r\nX-Long: " + b"y" * 400 + b"\r\n\r\n"
        + b"{" + b" " * 398 + b"}")
CLOSING = SLOW.replace(b"X-Long: " + b"y" * 400, b"Connection: close")


def drip_body(link):
    head, _, body = SLOW.partition(b"\r\n\r\n")
    link.sendall(head + b"\r\n\r\n")
    drip(body)(link)


def drip_closing_body(link):
    head, _, body = CLOSING.partition(b"\r\n\r\n")
    link.sendall(head + b"\r\n\r\n")
    drip(body)(link)


def hundred_continue(link):
    while True:
        link.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        time.sleep(0.01)


@pytest.mark.parametrize("how, result", [
    ("get", "VenueUnavailable"), ("send", "OutcomeUnknown"), ("cancel", "OutcomeUnknown")])
@pytest.mark.parametrize("bad", [
    pytest.param(hang, id="says nothing C9"),
    pytest.param(drip(SLOW), id="drips headers C3"),
    pytest.param(drip_body, id="drips the body C3"),
    pytest.param(drip_closing_body, id="drips the body of a closing connection C3"),
    pytest.param(hundred_continue, id="100 Continue without end C3"),
    pytest.param(ENDLESS, id="endless chunks C4"),
    pytest.param(forever(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 99), id="endless headers C4"),
    pytest.param(forever(b"HTTP/1.1 200 OK\r\nX: ", b"y" * 9999), id="endless header C4"),
    pytest.param(forever(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n", b"{" * 9999),
                 id="1 GB C4"),
    pytest.param(forever(b"HTTP/1.1 307 X\r\nLocation: /x\r\nTransfer-Encoding: chunked\r\n\r\n",
                         b"1\r\n{\r\n" * 999), id="a redirect with an endless body C6"),
])
def test_every_call_ends_in_time(make, hurried, bad, how, result):
    with BadServer(bad) as server:
        assert outcome(make(server), how)[0] == result
        until(lambda: len(workers()) <= 2)  # nobody is left waiting for that server
    assert how != "send" or len(server.requests) == 1


@pytest.mark.parametrize("bad, words", [
    pytest.param(answer(200, b"<html>fine</html>"), "HTTP 200, not the JSON", id="HTML C5"),
    pytest.param(answer(200, b""), "HTTP 200, not the JSON", id="empty C5"),
    pytest.param(answer(200, b'{"success": true, "ord'), "HTTP 200, not the JSON", id="cut C5"),
    pytest.param(answer(200, b'["a"]'), "HTTP 200, not a JSON object", id="a list C5"),
    pytest.param(answer(200, b'{"a": 1, "a": 2}'), "HTTP 200, not the JSON", id="twice C5"),
    pytest.param(answer(200, gzip.compress(b'{"a": 1}'), "Content-Encoding: gzip"),
                 "an encoded body", id="gzip C4"),
    pytest.param(answer(200, gzip.compress(b"{}" * 10**7), "Content-Encoding: gzip"),
                 "an encoded body", id="gzip bomb C4"),
    pytest.param(answer(200, b'{"a":"' + b"x" * 1024 * 1024 + b'"}'), "a body above 1048576 bytes",
                 id="over the cap C4"),
    pytest.param(close_after(b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{"a":1}'),
                 "IncompleteRead", id="wrong Content-Length C4"),
    pytest.param(close_after(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{"),
                 "IncompleteRead", id="cut chunk C4"),
    pytest.param(close_after(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"),
                 "", id="no chunk length C4"),
    pytest.param(close_after(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-7\r\n{}\r\n"),
                 "ValueError", id="a chunk of less than nothing C4"),
    pytest.param(close_after(b"nonsense\r\n\r\n"), "BadStatusLine", id="no HTTP C5"),
    pytest.param(close_after(), "RemoteDisconnected", id="closed under it C10"),
    pytest.param(reset, "ConnectionResetError", id="reset C2"),
])
@pytest.mark.parametrize("how, result, times", [
    ("get", "VenueUnavailable", 3), ("send", "OutcomeUnknown", 1), ("cancel", "OutcomeUnknown", 3)])
def test_an_answer_that_is_none_is_a_failed_read_or_unknown(
        make, monkeypatch, bad, words, how, result, times):
    monkeypatch.setattr(rest_room, "BACK_OFF_SECONDS", 0.01)
    with BadServer(bad) as server:
        said, why = outcome(make(server), how)
    assert said == result and words in why
    assert len(server.requests) == times
    assert "\n" not in why and str(server.port) not in why


def test_a_body_at_the_cap_is_read(make):
    body = b'{"a":"' + b"x" * (1024 * 1024 - 8) + b'"}'
    with BadServer(answer(200, body)) as server:
        assert len(make(server).get("/products")["a"]) == 1024 * 1024 - 8


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_not_followed_and_the_order_not_posted_again_C6(make, status):
    with BadServer(GOOD) as other, \
            BadServer(says({}, status, f"Location: {other.url}/x")) as server:
        assert outcome(make(server), "send")[0] == "OutcomeUnknown"
    assert len(server.requests) == 1
    assert other.connections == 0


def test_the_body_of_a_redirect_is_capped_like_any_other_C4_C6(make):
    bad = forever(b"HTTP/1.1 307 X\r\nLocation: /x\r\nTransfer-Encoding: chunked\r\n\r\n",
                  b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
    with BadServer(bad) as server:
        said, why = outcome(make(server), "send")
    assert said == "OutcomeUnknown" and "a body above" in why


def test_a_connection_that_is_of_no_more_use_is_closed_at_once(make):
    gone = threading.Event()

    def pour(link):
        try:
            ENDLESS(link)
        finally:
            gone.set()

    with BadServer(pour) as server:
        rest = make(server)
        assert "a body above" in outcome(rest, "send")[1]
        assert gone.wait(60)
        assert rest._trading._worker.is_alive()


def test_a_client_that_ended_leaves_no_socket_however_often_it_gave_up(make, hurried):
    def held():
        names = [f"/proc/self/fd/{each}" for each in os.listdir("/proc/self/fd")]
        return sum(os.readlink(name).startswith("socket") for name in names if os.path.islink(name))

    with BadServer(GOOD, hang, GOOD, hang, GOOD) as server:
        before = held()
        rest = make(server)
        for _ in range(5):
            outcome(rest, "send")
            asked(rest, "cancel")
        rest.close()
        until(lambda: held() <= before)


def test_no_cookies_are_kept(make):
    with BadServer(says({}, 200, "Set-Cookie: a=b; Path=/")) as server:
        rest = make(server)
        rest.get("/products")
        rest.get("/products")
    assert "cookie" not in server.requests[1].headers


@pytest.mark.parametrize("how", ["get", "send", "cancel"])
def test_a_refused_connection_sent_nothing_C2(make, hurried, how):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    said, why = outcome(make(f"http://127.0.0.1:{port}"), how)
    assert said == "VenueUnavailable" and "ConnectionRefusedError" in why


def test_a_connection_that_was_closed_while_idle_is_replaced_before_anything_is_sent_C10(make):
    def last_words(link):
        close_after(GOOD)(link)

    with BadServer(last_words, GOOD) as server:
        rest = make(server)
        rest.get("/products")
        until(lambda: rest._trading._worker._connection is None
              or not rest._trading._worker._connection.is_connected)
        assert outcome(rest, "send") == ("good", "")
    assert [request.connection for request in server.requests] == [
        server.requests[0].connection, server.connections]


def test_a_connection_that_closes_under_a_post_is_unknown_and_the_post_not_repeated_C10(make):
    with BadServer(GOOD, close_after(), GOOD) as server:
        rest = make(server)
        rest.send("/orders", ORDER)
        assert outcome(rest, "send")[0] == "OutcomeUnknown"
        assert len(server.requests) == 2
        assert outcome(rest, "send") == ("good", "")


# Names and addresses


@pytest.fixture
def resolver(monkeypatch):
    """A resolver that answers, hangs or fails, as its `mood` says."""
    real, state = socket.getaddrinfo, SimpleNamespace(mood="well", awake=threading.Event(), asked=0)

    def getaddrinfo(host, port, *args, **kwargs):
        state.asked += 1
        if state.mood == "hangs":
            state.awake.wait(60)
        if state.mood == "fails":
            raise socket.gaierror(-3, "Temporary failure in name resolution")
        return real(host, port, *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    yield state
    state.mood = "well"
    state.awake.set()


@pytest.mark.parametrize("mood", ["hangs", "fails"])
def test_a_name_that_cannot_be_resolved_means_that_nothing_was_sent_C1(
        make, monkeypatch, resolver, mood):
    monkeypatch.setattr(transport, "RESOLVE_SECONDS_MAX", 0.2)
    resolver.mood = mood
    with BadServer(GOOD) as server:
        with Stopwatch() as took:
            said, why = outcome(make(server), "send")
        assert said == "VenueUnavailable" and "no address" in why
        assert took.seconds < 1.5  # far from the order's deadline
        assert server.connections == 0


@pytest.mark.parametrize("mood", ["hangs", "fails"])
def test_the_last_good_address_outlives_the_resolver_C1(make, monkeypatch, resolver, mood):
    monkeypatch.setattr(transport, "RESOLVE_SECONDS_MAX", 0.2)
    with BadServer(GOOD, close_after(GOOD)) as server:
        rest = make(server)
        for how in ("send", "cancel"):
            assert outcome(rest, how) == ("good", "")
        resolver.mood = mood
        for _ in range(4):
            assert outcome(rest, "send") == ("good", "")
            until(lambda: not rest._trading._worker._connection.is_connected)
        assert server.connections > 3
        hanging = [each for each in threading.enumerate() if each.name == "rest-resolver"
                   and each not in OTHERS]
        assert len(hanging) == (mood == "hangs")
        # Only the first connection waits for a resolver that hangs.
        monkeypatch.setattr(transport, "RESOLVE_SECONDS_MAX", 2)
        with Stopwatch() as took:
            outcome(rest, "send")
        assert took.seconds < 1


def test_a_cancel_finds_its_way_by_what_the_other_connection_learned_C1(
        make, monkeypatch, resolver):
    monkeypatch.setattr(transport, "RESOLVE_SECONDS_MAX", 0.2)
    with BadServer(GOOD) as server:
        rest = make(server)
        assert outcome(rest, "send") == ("good", "")
        resolver.mood = "hangs"
        assert outcome(rest, "cancel") == ("good", "")


def test_the_resolver_is_asked_again_once_it_answers_C1(make, monkeypatch, resolver):
    monkeypatch.setattr(transport, "RESOLVE_SECONDS_MAX", 0.1)
    resolver.mood = "hangs"
    with BadServer(GOOD) as server:
        rest = make(server)
        assert outcome(rest, "send")[0] == "VenueUnavailable"
        resolver.mood = "well"
        resolver.awake.set()
        until(lambda: outcome(rest, "send") == ("good", ""))


def test_an_order_that_was_given_up_unsent_never_leaves_later_C1_C2(make, monkeypatch, resolver):
    monkeypatch.setattr(transport, "RESOLVE_SECONDS_MAX", 30)
    monkeypatch.setattr(rest_room, "ORDER_SECONDS_MAX", 0.2)
    resolver.mood = "hangs"
    with BadServer(GOOD) as server:
        rest = make(server)
        assert outcome(rest, "send")[0] == "VenueUnavailable"
        (abandoned,) = rest._trading._abandoned
        resolver.awake.set()
        abandoned.join(60)
        assert not abandoned.is_alive()
        assert server.requests == []
    with pytest.raises(OSError, match="given up"):
        abandoned.sends()  # whatever may still come: the answer was final


def test_only_so_many_hanging_requests_are_left_behind_C1(make, hurried, monkeypatch, resolver):
    monkeypatch.setattr(transport, "RESOLVE_SECONDS_MAX", 30)
    monkeypatch.setattr(rest_room, "ORDER_SECONDS_MAX", 0.1)
    monkeypatch.setattr(rest_room, "REQUESTS_PER_SECOND_MAX", 1000)
    resolver.mood = "hangs"
    with BadServer(GOOD) as server:
        rest = make(server)
        for _ in range(transport.WORKERS_MAX):
            assert "no answer" in outcome(rest, "send")[1]
        with Stopwatch() as took:
            for _ in range(20):
                assert "still hang" in outcome(rest, "send")[1]
        assert took.seconds < 1.5  # and not the deadline, twenty times
        assert len(workers()) <= transport.WORKERS_MAX + 2  # the next one, and the resolver
        # The cancels' lane is not a victim of it.
        assert "no answer" in outcome(rest, "cancel")[1]
        resolver.awake.set()
        until(lambda: outcome(rest, "send") == ("good", ""))


@pytest.fixture
def black_hole():
    """An address that swallows connections: its queue is full, so no SYN is answered."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    listening.listen(0)
    callers = []
    for _ in range(4):
        caller = socket.socket()
        caller.setblocking(False)
        caller.connect_ex(listening.getsockname())
        callers.append(caller)
    yield listening.getsockname()
    for each in (listening, *callers):
        each.close()


def resolves_to(monkeypatch, *addresses):
    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", address) for address in addresses]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **kwargs: list(found))


def test_a_dead_address_leaves_time_for_the_next_and_comes_last_from_then_on_C13(
        make, monkeypatch, black_hole):
    monkeypatch.setattr(transport, "CONNECT_SECONDS_MAX", 1)
    with BadServer(close_after(GOOD)) as server:
        resolves_to(monkeypatch, black_hole, (server.address, server.port))
        rest = make(server)
        with Stopwatch() as took:
            assert outcome(rest, "send") == ("good", "")
        assert took.real > 0.4 and took.seconds < 0.9
        until(lambda: not rest._trading._worker._connection.is_connected)
        with Stopwatch() as took:
            assert outcome(rest, "send") == ("good", "")
        assert took.seconds < 0.4


def test_many_dead_addresses_share_one_deadline_C13(make, monkeypatch, black_hole):
    monkeypatch.setattr(transport, "CONNECT_SECONDS_MAX", 0.4)
    resolves_to(monkeypatch, *[black_hole] * 50)
    with Stopwatch() as took:
        said, _ = outcome(make("http://127.0.0.1:1"), "send")
    assert said == "VenueUnavailable"
    assert took.real > 0.3 and took.seconds < 0.9


# Signals


def test_a_signal_ends_a_read_at_once(make):
    signals = []
    with BadServer(hang) as server:
        rest = make(server, interrupted=lambda: bool(signals))
        rest.measure_clock()
        threading.Timer(0.2, signals.append, [2]).start()
        with Stopwatch() as took, pytest.raises(VenueUnavailable, match="interrupted by a signal"):
            rest.get("/products")
        assert took.seconds < 1
        with pytest.raises(VenueUnavailable, match="interrupted by a signal"):
            rest.get("/products")
        assert len(server.requests) == 1


def test_a_signal_ends_the_wait_between_two_attempts(make):
    signals = []
    with BadServer(says({}, 503, "Retry-After: 4")) as server:
        rest = make(server, interrupted=lambda: bool(signals))
        threading.Timer(0.2, signals.append, [2]).start()
        with Stopwatch() as took, pytest.raises(VenueUnavailable, match="interrupted by a signal"):
            rest.get("/products")
        assert took.seconds < 1


def test_an_order_in_flight_gets_a_grace_after_a_signal(make, monkeypatch):
    monkeypatch.setattr(rest_room, "ORDER_GRACE_SECONDS", 0.4)
    with BadServer(hang) as server:
        rest = make(server, interrupted=lambda: True)
        # Whoever stood still for longer than the grace finds that its time is over as well.
        words = "interrupted by a signal|timed out"
        with Stopwatch() as took, pytest.raises(OutcomeUnknown, match=words):
            rest.send("/orders", ORDER)
        assert took.real > 0.35 and took.seconds < 1


def test_an_order_that_opens_is_not_begun_once_a_signal_waits_and_any_other_is(make):
    """I-10: the signal may have come while the intent was written."""
    with BadServer(GOOD) as server:
        rest = make(server, interrupted=lambda: True)
        with pytest.raises(VenueUnavailable, match="not sent, a signal waits"):
            rest.send("/orders", ORDER, opens=True)
        assert server.requests == []
        assert rest.send("/orders", ORDER) == {"ok": "1"}


@pytest.mark.parametrize("comes", ["while it waits for its turn", "while it connects"])
def test_nor_is_one_begun_where_the_signal_comes_before_its_first_byte(make, comes, monkeypatch):
    """I-10, H1: a second's requests may be used up, and a connection takes its time."""
    signals = []
    with BadServer(GOOD) as server:
        rest = make(server, interrupted=lambda: bool(signals))
        if comes == "while it connects":
            connected = transport._connected
            monkeypatch.setattr(transport, "_connected", lambda origin: (
                signals.append(2), connected(origin))[1])
        else:
            turns, rest._budget = rest._budget, SimpleNamespace(
                take=lambda: signals.append(2) or 0.3)
        # Whoever stood still for longer than the grace finds that its time is over as well.
        words = "not sent, a signal waits|interrupted by a signal"
        with pytest.raises(VenueUnavailable, match=words):
            rest.send("/orders", ORDER, opens=True)
        assert server.requests == []
        if comes != "while it connects":
            rest._budget = turns
        assert rest.send("/orders", ORDER) == {"ok": "1"}


def test_an_answer_within_the_grace_counts(make, monkeypatch):
    monkeypatch.setattr(rest_room, "ORDER_GRACE_SECONDS", 30)
    with BadServer(drip(GOOD, 0.003)) as server:
        assert make(server, interrupted=lambda: True).send("/orders", ORDER) == {"ok": "1"}


def test_a_cancel_heeds_no_signal(make, at_once):
    with BadServer(says({}, 503), drip(GOOD, 0.001)) as server:
        assert outcome(make(server, interrupted=lambda: True), "cancel") == ("good", "")


def test_what_is_raised_into_the_wait_leaves_a_usable_connection_behind(make):
    class Stop(Exception):
        pass

    def interrupted():
        if server.requests and not raised:
            raised.append(True)
            raise Stop
        return False

    raised = []
    with BadServer(hang, GOOD) as server:
        rest = make(server, interrupted=interrupted)
        with pytest.raises(Stop):
            rest.send("/orders", ORDER)
        with Stopwatch() as took:
            assert outcome(rest, "send") == ("good", "")
        assert took.seconds < 2


def test_a_bug_in_the_thread_is_a_bug_here(make, monkeypatch):
    def broken(response):
        raise KeyError("bug")

    reported = []
    monkeypatch.setattr(threading, "excepthook", reported.append)
    monkeypatch.setattr(transport, "_body", broken)
    with BadServer(GOOD) as server, pytest.raises(RuntimeError, match="transport broke"):
        make(server).send("/orders", ORDER)
    until(lambda: [each.exc_type for each in reported] == [KeyError])


def test_closing_ends_the_threads(make):
    with BadServer(GOOD) as server:
        rest = make(server)
        asked(rest, "get")
        asked(rest, "cancel")
        mine = [rest._trading._worker, rest._cancels._worker]
        rest.close()
        until(lambda: not any(each.is_alive() for each in mine))
        assert not any(each._handle for each in mine)


# The budget


def test_requests_keep_to_their_budget_and_cancels_have_their_own_C8(make, monkeypatch):
    monkeypatch.setattr(rest_room, "REQUESTS_PER_SECOND_MAX", 5)
    monkeypatch.setattr(rest_room, "AFTER_CANCEL_SECONDS", 0)
    with BadServer(GOOD) as server:
        rest = make(server)
        rest.measure_clock()
        with Stopwatch() as took:
            for _ in range(4):
                rest.get("/products")
            assert took.seconds < 0.5
            for _ in range(5):  # however full the others' budget is
                rest.cancel({"order_ids": []})
            assert took.seconds < 0.8
            rest.send("/orders", ORDER)
        assert took.real > 0.9 and took.seconds < 1.6


def test_what_follows_a_cancel_does_not_wait_for_what_came_before_it_C8(make, monkeypatch):
    monkeypatch.setattr(rest_room, "REQUESTS_PER_SECOND_MAX", 3)
    monkeypatch.setattr(rest_room, "AFTER_CANCEL_SECONDS", 0.5)
    with BadServer(GOOD) as server:
        rest = make(server)
        with Stopwatch() as took:
            rest.measure_clock()
            for _ in range(2):
                rest.get("/products")
            rest.cancel({"order_ids": []})
            rest.get("/orders/historical/batch")
            rest.get("/orders/historical/fills")
            rest.send("/orders", ORDER)  # the stop that takes the place of the old one
            assert took.seconds < 0.6
            rest.get("/products")  # this budget is bounded too
        assert took.real > 0.9 and took.seconds < 1.6
        with Stopwatch() as took:
            rest.get("/products")  # and long after a cancel the others' budget counts again
        assert took.seconds < 0.5


def test_the_wait_for_the_budget_is_bounded_and_sends_nothing(make, monkeypatch):
    monkeypatch.setattr(rest_room, "REQUESTS_PER_SECOND_MAX", 1)
    monkeypatch.setattr(rest_room, "ORDER_SECONDS_MAX", 0.3)
    with BadServer(GOOD) as server:
        rest = make(server)
        assert outcome(rest, "send") == ("good", "")
        assert outcome(rest, "send")[0] == "VenueUnavailable"
    assert len(server.requests) == 1


# The environment


def test_the_environment_changes_nothing_C11(make, monkeypatch, tmp_path, authority):
    nowhere = "http://127.0.0.1:9"
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, nowhere)
        monkeypatch.setenv(name.upper(), nowhere)
    monkeypatch.setenv("NO_PROXY", "")
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.setenv(name, str(tmp_path / "absent.pem"))
    monkeypatch.setenv("SSLKEYLOGFILE", str(tmp_path / "keys.log"))
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login evil password evil\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / ".netrc"))
    with BadServer(GOOD) as plain, BadServer(GOOD, tls=authority.server()) as secure:
        for server in (plain, secure):
            assert outcome(make(server, ca_file=authority.file), "send") == ("good", "")
            assert server.requests[0].headers["authorization"].startswith("Bearer POST|")
    assert not (tmp_path / "keys.log").exists()


@pytest.mark.parametrize("name", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "SSL_CERT_FILE"])
def test_no_variable_adds_an_authority_C11(make, monkeypatch, authority, name):
    monkeypatch.setenv(name, authority.file)
    with BadServer(GOOD, tls=authority.server()) as server:
        said, why = outcome(make(server), "send")
    assert said == "VenueUnavailable" and "CERTIFICATE_VERIFY_FAILED" in why


# TLS


def named(name):
    return x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])


class Authority:
    """An authority of ours, and servers with certificates by it."""

    def __init__(self, folder):
        self._folder, self._key = folder, ec.generate_private_key(ec.SECP256R1())
        self._name = named("authority")
        self.file = str(folder / "ca.pem")
        self._certificate = self._signed(self._key, self._name, None, 10)
        self._write("ca.pem", self._certificate.public_bytes(serialization.Encoding.PEM))

    def server(self, address="127.0.0.1", days=10, signed_by_itself=False, version=None):
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = self._signed(key, named("server"), address, days, signed_by_itself and key)
        path = self._write("server.pem", key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption()) + certificate.public_bytes(serialization.Encoding.PEM))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if version:
            context.set_ciphers("ALL:@SECLEVEL=0")
            context.minimum_version = context.maximum_version = version
        context.load_cert_chain(path)
        return context

    def _signed(self, key, subject, address, days, by=None):
        now = datetime.now(UTC)
        builder = (x509.CertificateBuilder().subject_name(subject).issuer_name(self._name)
                   .public_key(key.public_key()).serial_number(x509.random_serial_number())
                   .not_valid_before(now - timedelta(days=20))
                   .not_valid_after(now + timedelta(days=days))
                   .add_extension(x509.BasicConstraints(address is None, None), critical=True))
        if address:
            names = x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))])
            builder = builder.add_extension(names, critical=False)
        return builder.sign(by or self._key, hashes.SHA256())

    def _write(self, name, body):
        (self._folder / name).write_bytes(body)
        return str(self._folder / name)


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    return Authority(tmp_path_factory.mktemp("tls"))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_a_server_with_the_right_certificate_is_heard_C12(make, authority, version):
    with BadServer(GOOD, tls=authority.server(version=version)) as server:
        rest = make(server, ca_file=authority.file)
        for how in ("get", "send", "cancel"):
            assert outcome(rest, how) == ("good", "")


@pytest.mark.parametrize("wrong, why", [
    pytest.param({"signed_by_itself": True}, "CERTIFICATE_VERIFY_FAILED", id="self-signed"),
    pytest.param({"days": -1}, "certificate has expired", id="expired"),
    pytest.param({"address": "127.0.0.2"}, "IP address mismatch", id="another host's"),
    pytest.param({"version": ssl.TLSVersion.TLSv1}, "", id="TLS 1.0"),
    pytest.param({"version": ssl.TLSVersion.TLSv1_1}, "", id="TLS 1.1"),
])
@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_a_server_that_is_not_proved_hears_nothing_C12(make, at_once, authority, wrong, why):
    with BadServer(GOOD, tls=authority.server(**wrong)) as server:
        rest = make(server, ca_file=authority.file)
        for how in ("send", "get"):
            said, words = outcome(rest, how)
            assert said == "VenueUnavailable" and why in words
    assert server.requests == []


def test_the_usual_authorities_do_not_count_beside_one_that_is_named_C12(make, authority):
    rest = make("https://127.0.0.1:1", ca_file=authority.file)
    context = rest._origin.context
    assert [each["subject"] for each in context.get_ca_certs()] == [
        ((("commonName", "authority"),),)]
    with BadServer(GOOD, tls=authority.server()) as server:
        rest = make(server, ca_file=authority.file)
        rest.get("/products")
        assert len(rest._origin.context.get_ca_certs()) == 1


@pytest.mark.parametrize("bad", [hang, drip(SLOW), drip_closing_body])
def test_calls_over_tls_end_in_time_too_C3(make, hurried, authority, bad):
    with BadServer(bad, tls=authority.server()) as server:
        rest = make(server, ca_file=authority.file)
        assert outcome(rest, "send")[0] == "OutcomeUnknown"
        assert outcome(rest, "get")[0] == "VenueUnavailable"
        until(lambda: len(workers()) <= 2)


def test_a_handshake_that_never_ends_is_given_up_unsent_C3(make, hurried):
    with socket.create_server(("127.0.0.1", 0)) as mute:
        rest = make(f"https://127.0.0.1:{mute.getsockname()[1]}")
        assert outcome(rest, "send")[0] == "VenueUnavailable"
        until(lambda: not any(each.is_alive() for each in rest._trading._abandoned))


@pytest.mark.parametrize("url", [
    "http://api.coinbase.com", "https://api.coinbase.com.evil.invalid", "https://evil.invalid",
    "https://evil@api.coinbase.com", "https://api.coinbase.com@evil.invalid",
    "https://api.coinbase.com/x", "https://api.coinbase.com?x", "ftp://127.0.0.1", "",
    "http://10.0.0.1", "http://127.0.0.1.evil.invalid", "https://api.coinbase.com:x",
    "wss://api.coinbase.com", "https://api.coinbase.com\n",
])
def test_no_other_host_is_talked_to_C12_C14(url):
    with pytest.raises(ConfigError, match="COINBASE_API_URL"):
        Rest(url, None, VenueClock())


@pytest.mark.parametrize("url", [
    "https://api.coinbase.com", "https://api-sandbox.coinbase.com", "http://localhost:80",
    "http://127.0.0.1:8080", "https://[::1]:8443", "http://127.9.9.9",
])
def test_coinbase_and_this_computer_are_allowed_C14(url):
    Rest(url, None, VenueClock())


def test_authorities_that_cannot_be_read_are_a_matter_for_the_operator(tmp_path):
    with pytest.raises(ConfigError, match="CA certificates"):
        Rest("https://api.coinbase.com", None, VenueClock(), ca_file=str(tmp_path / "absent"))


def test_descriptors_are_given_back(make, hurried):
    with BadServer(drip_closing_body) as server:
        rest = make(server)
        outcome(rest, "send")
        until(lambda: len(workers()) <= 1)
        before = open_files()
        for _ in range(5):
            outcome(rest, "send")
        until(lambda: open_files() <= before + 8)


def open_files():
    return len(os.listdir("/proc/self/fd"))
