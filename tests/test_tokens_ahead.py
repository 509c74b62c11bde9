"""The tokens of orders and cancels are there before they are needed, and never too old.

Rest, over real sockets, with a key of its own and clocks that are moved by hand.  What the venue
would say of a token is asked of the exchange's own check.
"""

import threading
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import jwt
import pytest
from bad_server import BadServer, answer, says, the_time
from exchange.harness import Keys
from exchange.tokens import TokenCheck

from perps_bot import rest as room
from perps_bot.errors import OrderRejected, VenueUnavailable
from perps_bot.keys import load_credentials
from perps_bot.rest import SIGNED_AHEAD, Rest, VenueClock

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC)
GOOD = says({"ok": "1"})
KEYS, OTHER_KEYS = Keys(), Keys("ed25519")
SENDS = {
    "/orders": lambda rest: rest.send("/orders", {"side": "BUY"}, opens=True),
    "/orders/close_position": lambda rest: rest.send("/orders/close_position", {"size": "1"}),
    "/orders/batch_cancel": lambda rest: rest.cancel({"order_ids": ["1"]}),
}


class Signs:
    """A real signer that notes what it signed, and when the venue's clock said so."""

    def __init__(self, keys, ahead=None):
        self._signer = load_credentials(
            SimpleNamespace(api_key=keys.name, api_secret=keys.secret, api_key_file=None), {})
        self.name, self.signed, self.ahead = self._signer.name, [], ahead

    def rest_token(self, method, host, path, now):
        self.signed.append((method, path.removeprefix(room.ROOT), now))
        if method == "POST" and self.ahead:
            self.ahead.set()
        return self._signer.rest_token(method, host, path, now)


class Desk:
    """One Rest, its venue, and two clocks: the machine's and the venue's.

    Seconds pass on both; `steps` moves what only one of them shows.
    """

    def __init__(self, *answers, keys=KEYS):
        self.passed, self.venue_ahead, self.wall_ahead = 0, 0, 0
        self.server = BadServer(*(answers or [GOOD]),
                                time=lambda link: link.sendall(the_time(self.venue_now)))
        self.signs = Signs(keys)
        clock = VenueClock(lambda: self._at(self.wall_ahead), lambda: float(self.passed))
        self.rest = Rest(self.server.url, self.signs, clock)
        self.check = TokenCheck(keys.name, keys.public_pem)

    def __enter__(self):
        self.server.__enter__()
        return self

    def __exit__(self, *error):
        self.rest.close()
        self.server.__exit__(*error)

    @property
    def venue_now(self):
        return self._at(self.venue_ahead)

    def _at(self, ahead):
        return NOON + timedelta(seconds=self.passed + ahead)

    def reads(self, count=len(SIGNED_AHEAD)):
        for _ in range(count):
            self.rest.get("/cfm/positions")

    def token(self, request=None):
        """The token of a request, by default of the last one that came."""
        given = (request or self.server.requests[-1]).headers["authorization"]
        return given.removeprefix("Bearer ")

    def refusal(self):
        """Why the venue would refuse the last request, "" where it would not."""
        request = self.server.requests[-1]
        uri = f"{request.method} 127.0.0.1:{self.server.port}{request.target}"
        return self.check.refusal(self.token(request), self.venue_now, (uri,))


def age(token, now):
    """Seconds since a token was made: it says that it began five seconds earlier."""
    begun = jwt.decode(token, options={"verify_signature": False})["nbf"]
    return now.timestamp() - begun - 5


@pytest.fixture(params=SENDS)
def route(request):
    return request.param


def test_nothing_is_signed_between_the_wish_and_the_first_byte(route):
    with Desk() as desk:
        desk.reads()
        before = len(desk.signs.signed)
        assert {path for method, path, _ in desk.signs.signed if method == "POST"} == set(SENDS)
        SENDS[route](desk.rest)
        assert len(desk.signs.signed) == before
        assert desk.refusal() == ""


def test_it_is_signed_while_an_answer_is_awaited(monkeypatch):
    """The answer comes only after the token was made: else this read would find none."""
    monkeypatch.setattr(Rest, "_tend", lambda *_: None)
    signed = threading.Event()

    def waits(link):
        link.sendall(GOOD if signed.wait(10) else answer(404))

    with Desk(waits) as desk:
        desk.signs.ahead = signed
        desk.reads(1)
        assert len(desk.server.requests) == 1


@pytest.mark.parametrize("seconds", [0, 1, 29, 31, 59, 61, 115, 125, 3600, 86_400])
def test_no_token_on_the_wire_is_too_old_however_long_nobody_asked(route, seconds):
    with Desk() as desk:
        desk.reads()
        desk.passed += seconds
        SENDS[route](desk.rest)
        assert desk.refusal() == ""
        assert age(desk.token(), desk.venue_now) <= room.READY_AGE_MAX.total_seconds()


def test_it_is_renewed_long_before_it_would_be_too_old(monkeypatch):
    """A tick reads before it sends: whatever the interval, nothing is signed at the order."""
    monkeypatch.setattr(room, "REQUESTS_PER_SECOND_MAX", 100)
    with Desk() as desk:
        for _ in range(20):
            desk.passed += 5
            desk.reads()
            for route in SENDS:
                made = [now for _, path, now in desk.signs.signed if path == route]
                assert desk.venue_now - made[-1] <= room.RENEWED_AFTER
        assert len(made) == 3, "and not more often"


def test_each_is_used_once(route):
    with Desk() as desk:
        desk.reads()
        for _ in range(3):
            SENDS[route](desk.rest)
            assert desk.refusal() == "", "a nonce that the venue has seen is refused"


def test_a_cancel_that_is_repeated_brings_another_token(monkeypatch):
    monkeypatch.setattr(room, "BACK_OFF_SECONDS", 0.01)
    with Desk(GOOD, GOOD, GOOD, says({}, 503), GOOD) as desk:
        desk.reads()
        SENDS[room.CANCEL](desk.rest)
        first, second = map(desk.token, desk.server.requests[-2:])
        assert first != second and desk.refusal() == ""


def test_without_one_it_is_signed_at_once_and_nothing_is_asked_first(route):
    with Desk() as desk:
        SENDS[route](desk.rest)
        assert len(desk.server.requests) == 1
        assert desk.server.time_requests == []
        assert desk.refusal() == ""


@pytest.mark.parametrize("refused", ["read", "order"])
def test_a_401_throws_all_of_them_away(refused, monkeypatch):
    monkeypatch.setattr(room, "READ_ATTEMPTS_MAX", 1)
    with Desk(GOOD, GOOD, GOOD, answer(401), GOOD) as desk:
        desk.reads()
        with pytest.raises(OrderRejected if refused == "order" else VenueUnavailable):
            SENDS["/orders"](desk.rest) if refused == "order" else desk.reads(1)
        before = len(desk.signs.signed)
        SENDS[room.CANCEL](desk.rest)
        assert len(desk.signs.signed) == before + 1


@pytest.mark.parametrize("seconds", [-86_400, -300, -6, 6, 59, 300, 86_400])
def test_a_step_of_the_machines_clock_leaves_none_that_the_venue_would_refuse(
        route, seconds, monkeypatch):
    """Before the venue's time is known, the machine's is all there is: both are set together."""
    monkeypatch.setattr(Rest, "_tend", lambda *_: None)
    with Desk() as desk:
        desk.reads()
        assert desk.rest.clock.age_seconds() is None
        desk.wall_ahead = desk.venue_ahead = seconds
        SENDS[route](desk.rest)
        assert desk.refusal() == ""


@pytest.mark.parametrize("seconds", [-50, -6, 6, 50])
def test_nor_does_a_new_measurement_of_the_venues(route, seconds):
    with Desk() as desk:
        desk.reads()
        desk.venue_ahead = seconds
        desk.rest.measure_clock()
        SENDS[route](desk.rest)
        assert desk.refusal() == ""


def test_a_step_of_the_machines_clock_changes_nothing_once_the_venues_is_known(route):
    with Desk() as desk:
        desk.reads()
        desk.wall_ahead = 86_400
        before = len(desk.signs.signed)
        SENDS[route](desk.rest)
        assert len(desk.signs.signed) == before and desk.refusal() == ""


def test_another_key_sends_no_token_of_the_first(route):
    with Desk() as desk:
        desk.reads()
        desk.rest.signer = Signs(OTHER_KEYS)
        desk.check = TokenCheck(OTHER_KEYS.name, OTHER_KEYS.public_pem)
        SENDS[route](desk.rest)
        assert desk.refusal() == ""


def test_who_may_not_send_makes_none():
    with Desk() as desk:
        desk.rest.read_only = "dry run"
        desk.reads()
        assert {method for method, _, _ in desk.signs.signed} == {"GET"}


def test_none_of_them_is_shown():
    with Desk() as desk:
        desk.reads()
        assert len(desk.rest._ready) == len(SENDS)
        made = desk.rest._prepared(room._Request("POST", "/orders", {}))
        assert "Bearer eyJ" in made.headers["Authorization"]
        assert "eyJ" not in f"{desk.rest._ready}{made}{vars(desk.rest)}"
