"""Rest: what came of this request?

A request becomes one of few answers: what the venue said, a definite no, nothing happened, or
unknown.  Reads and cancels are repeated within bounds, an order never is; no order is judged or
changed here.  The venue's clock is kept here too, because every token carries its time.  One
thread calls.
"""

import json
import logging
import math
import random
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from time import monotonic
from typing import Any
from urllib.parse import urlencode

from perps_bot.errors import ConfigError, OrderRejected, OutcomeUnknown, VenueUnavailable
from perps_bot.transport import Answer, Lane, Origin, Request, Until, printable
from perps_bot.wire import Malformed, decoded, moment, number

log = logging.getLogger("perps_bot")

ROOT = "/api/v3/brokerage"
CANCEL = "/orders/batch_cancel"
HEADERS = {"User-Agent": "perps-bot", "Accept": "application/json",
           "Accept-Encoding": "identity", "Cache-Control": "no-cache"}

READ_SECONDS_MAX, READ_ATTEMPT_SECONDS_MAX, READ_ATTEMPTS_MAX = 10, 4, 3
CANCEL_SECONDS_MAX, CANCEL_ATTEMPT_SECONDS_MAX, CANCEL_ATTEMPTS_MAX = 9, 3, 3
ORDER_SECONDS_MAX, ORDER_GRACE_SECONDS = 10, 1
CLOCK_SECONDS_MAX = 2
CLOCK_AGE_SECONDS_MAX = 600
YEARS = range(2020, 2200)  # in which a venue can be
CLOCK_STEP_SECONDS_MAX = 60  # from what we carried on, and from this machine's clock
WARM_SECONDS_MAX = 30  # the cancels' connection is used at least so often
BACK_OFF_SECONDS = 0.25
RETRY_AFTER_SECONDS_MAX = 5
REQUESTS_PER_SECOND_MAX = CANCELS_PER_SECOND_MAX = 10
# So long after a cancel, the look at what became of it and the order that takes its place have a
# budget of their own: a position may be bare, and a stop of the bot waits for it.
AFTER_CANCEL_SECONDS = 2
# Tokens of these routes are made ahead, while a read is awaited: renewed from one age on, and not
# used beyond the other.  Each lives two minutes by the venue's clock.
SIGNED_AHEAD = (CANCEL, "/orders", "/orders/close_position")
RENEWED_AFTER, READY_AGE_MAX = timedelta(seconds=30), timedelta(seconds=60)

DEFINITE = (400, 401, 403, 404, 422)
# How often what may be asked twice is asked again; what stands not here: to the last attempt.
ASKED_AGAIN = {400: 0, 404: 0, 422: 0, 401: 1, 403: 1}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_to_json = json.JSONEncoder(allow_nan=False).encode


class VenueClock:
    """The venue's time: as last measured, carried on by the monotonic clock.

    Jumps of the machine's wall clock change nothing; before any measurement it is all we have.
    """

    def __init__(self, wall: Callable[[], datetime] = lambda: datetime.now(UTC),
                 elapsed: Callable[[], float] = monotonic):
        self.wall, self._elapsed = wall, elapsed
        self._measured: tuple[datetime, float] | None = None

    def now(self) -> datetime:
        if self._measured is None:
            return self.wall()
        venue_now, at = self._measured
        return venue_now + timedelta(seconds=self._elapsed() - at)

    def set(self, venue_now: datetime) -> None:
        self._measured = venue_now, self._elapsed()

    def age_seconds(self) -> float | None:
        """Seconds since the last measurement; None before the first."""
        return None if self._measured is None else self._elapsed() - self._measured[1]


class Rest:
    """Requests to one host: a connection for trading, and one kept warm for cancels.

    url          scheme, host and port
    signer       has `name` and `rest_token`; None: public reads only
    interrupted  whether a signal waits: reads then end at once, orders after a short grace
    read_only    why nothing may be sent, or ""; may be assigned later
    ca_file      certificates to trust in place of the usual ones
    """

    def __init__(self, url: str, signer: Any, clock: VenueClock,
                 interrupted: Callable[[], bool] = lambda: False, read_only: str = "",
                 ca_file: str | None = None, jitter: random.Random | None = None):
        self._url, self._origin = url + ROOT, Origin(url, ca_file)
        self.signer, self.clock = signer, clock
        self._interrupted, self.read_only = interrupted, read_only
        self._jitter = jitter or random.Random()
        self._trading, self._cancels = Lane("trading", self._origin), Lane("cancels", self._origin)
        self._budget = _Budget(REQUESTS_PER_SECOND_MAX)
        self._cancel_budget = _Budget(CANCELS_PER_SECOND_MAX)
        self._next_budget, self._cancelled_at = _Budget(REQUESTS_PER_SECOND_MAX), -math.inf
        self._tend_after = monotonic()
        self._ready: dict[str, _Ready] = {}  # tokens made ahead, by path; each is used once

    def get(self, path: str, query: Iterable[tuple[str, str]] = (), public: bool = False) -> dict:
        """Return the answer to a read.  Raises VenueUnavailable."""
        until = Until(READ_SECONDS_MAX, self._interrupted)
        if not public and self.signer is not None:
            self._tend(until)
        reply = self._insist(self._trading, _Request("GET", path, None, tuple(query), public),
                             until, READ_ATTEMPTS_MAX, READ_ATTEMPT_SECONDS_MAX)
        if reply.value is None:
            raise VenueUnavailable(f"GET {path}: {reply.words}")
        return reply.value

    def send(self, path: str, body: dict, opens: bool = False) -> dict:
        """Send an order, once; one that `opens` a position is not begun while a signal waits.

        Raises OrderRejected (it does not exist), VenueUnavailable (it was not sent) or
        OutcomeUnknown (look it up).
        """
        until = Until(ORDER_SECONDS_MAX, self._interrupted, ORDER_GRACE_SECONDS, opens)
        reply = self._ask(self._trading, _Request("POST", path, body), until)
        if reply.status == 401:  # the next read measures the clock; an order never waits for that
            self._tend_after, self._cancels.used_at = 0, 0
        if reply.status in DEFINITE:
            raise OrderRejected(f"HTTP_{reply.status}", f"POST {path}: {reply.words}")
        return _certain(reply, path)

    def cancel(self, body: dict) -> dict:
        """Ask for cancels; harmless to repeat, so it is.  No signal ends it.

        Raises VenueUnavailable (nothing was cancelled) or OutcomeUnknown (some may be).
        """
        return _certain(self._insist(self._cancels, _Request("POST", CANCEL, body),
                                     Until(CANCEL_SECONDS_MAX), CANCEL_ATTEMPTS_MAX,
                                     CANCEL_ATTEMPT_SECONDS_MAX), CANCEL)

    def measure_clock(self) -> Decimal:
        """Set the clock by the venue's; return how many seconds that is ahead of the wall clock.

        Raises VenueUnavailable; the old measurement then stays.
        """
        return self._measure(Until(READ_ATTEMPT_SECONDS_MAX, self._interrupted))

    def close(self) -> None:
        self._trading.close()
        self._cancels.close()

    def _insist(self, lane: Lane, request: "_Request", until: Until,
                attempts: int, seconds: float) -> "_Reply":
        """Ask, and ask again where that can help; return the last reply."""
        may_have_happened = False
        for attempt in range(attempts):
            reply = self._ask(lane, request, until.part(seconds))
            may_have_happened |= reply.may_have_happened
            if reply.value is not None or attempt >= ASKED_AGAIN.get(reply.status, attempts - 1):
                break
            if reply.status == 401 and not request.is_public:
                with suppress(VenueUnavailable):
                    self._measure(until.part(CLOCK_SECONDS_MAX))
            if not until.wait(self._pause(attempt, reply)):
                reply.words = "; ".join(dict.fromkeys((reply.words, until.why)))
                break
        reply.may_have_happened = may_have_happened
        return reply

    def _pause(self, attempt: int, reply: "_Reply") -> float:
        if reply.retry_after is not None:
            return min(reply.retry_after, RETRY_AFTER_SECONDS_MAX)
        return BACK_OFF_SECONDS * 2 ** attempt * (0.5 + self._jitter.random())

    def _ask(self, lane: Lane, request: "_Request", until: Until) -> "_Reply":
        """Send `request` once."""
        if request.path == CANCEL and self.read_only:
            raise VenueUnavailable(f"nothing is cancelled: {self.read_only}")
        if request.method != "GET" and self.read_only:
            raise OrderRejected("READ_ONLY", self.read_only)
        if not request.is_public and self.signer is None:
            raise ConfigError(f"{request.path} needs a key; set COINBASE_API_KEY and "
                              f"COINBASE_API_SECRET, or COINBASE_API_KEY_FILE")
        if not until.wait(self._budget_of(request).take()):
            return _Reply(words=until.why)
        meanwhile = self._sign_ahead if request.method == "GET" else None
        answer = lane.ask(self._prepared(request), until, meanwhile)
        log.debug("rest.answered method=%s path=%s status=%d ms=%d bytes=%d", request.method,
                  request.path, answer.status, 1000 * answer.seconds, len(answer.body))
        reply = _reply(answer)
        if self.signer is not None:
            reply.words = reply.words.replace(self.signer.name, "(our key)")
            if reply.status == 401:  # the key or the clock is not what the others were made with
                self._ready.clear()
        return reply

    def _budget_of(self, request: "_Request") -> "_Budget":
        if request.path == CANCEL:
            self._cancelled_at = monotonic()
            return self._cancel_budget
        is_next = monotonic() - self._cancelled_at < AFTER_CANCEL_SECONDS
        return self._next_budget if is_next else self._budget

    def _prepared(self, request: "_Request") -> Request:
        path, body, more = ROOT + request.path, None, {}
        if request.body is not None:
            more = {"Content-Type": "application/json"}
            body = _to_json(request.body).encode()
        if not request.is_public:
            more |= {"Authorization": f"Bearer {self._token(request.method, request.path)}"}
        target = f"{path}?{urlencode(request.query)}" if request.query else path
        return Request(request.method, target, HEADERS | more, body)

    def _token(self, method: str, path: str) -> str:
        """The token of one request: the one that was made ahead while that is young, else new."""
        now, ready = self.clock.now(), None if method == "GET" else self._ready.pop(path, None)
        if ready is not None and ready.signer is self.signer and ready.is_young(now, READY_AGE_MAX):
            return ready.token
        return self.signer.rest_token(method, self._origin.host, ROOT + path, now)

    def _sign_ahead(self) -> None:
        """Make one token that an order or a cancel will need, while a read is awaited."""
        now = self.clock.now()
        for path in SIGNED_AHEAD if self.signer and not self.read_only else ():
            ready = self._ready.get(path)
            if ready is None or not ready.is_young(now, RENEWED_AFTER):
                token = self.signer.rest_token("POST", self._origin.host, ROOT + path, now)
                self._ready[path] = _Ready(token, self.signer, now)
                return

    def _tend(self, until: Until) -> None:
        """Measure the clock when that is due, over the cancels' connection: so it stays warm."""
        age, now = self.clock.age_seconds(), monotonic()
        is_cold = now - self._cancels.used_at > WARM_SECONDS_MAX
        if now >= self._tend_after and (age is None or age > CLOCK_AGE_SECONDS_MAX or is_cold):
            self._tend_after = now + WARM_SECONDS_MAX
            with suppress(VenueUnavailable):  # the old measurement stays
                self._measure(until.part(CLOCK_SECONDS_MAX))
                self._tend_after = 0

    def _measure(self, until: Until) -> Decimal:
        reply = self._ask(self._cancels, _Request("GET", "/time", is_public=True), until)
        try:
            venue_now = _time_said(reply.value or {})
        except Malformed:
            raise VenueUnavailable(f"GET /time: {reply.words}") from None
        apart = [abs(venue_now - known).total_seconds() for known in
                 (self.clock.now(), self.clock.wall())]
        if self.clock.age_seconds() is not None and min(apart) > CLOCK_STEP_SECONDS_MAX:
            raise VenueUnavailable("GET /time: not believed, neither clock of ours is near it")
        # The venue looked at its clock somewhere between our asking and its answer.
        self.clock.set(venue_now + timedelta(seconds=reply.seconds / 2))
        ahead = self.clock.now() - self.clock.wall()
        return Decimal(ahead // timedelta(microseconds=1)) / 1_000_000


@dataclass(frozen=True, slots=True)
class _Request:
    method: str
    path: str
    body: dict | None = None
    query: tuple[tuple[str, str], ...] = ()
    is_public: bool = False


@dataclass(frozen=True, slots=True)
class _Ready:
    """A token that was made ahead: by whom, and when by the venue's clock, which may be set."""

    token: str = field(repr=False)
    signer: Any
    made_at: datetime

    def is_young(self, now: datetime, age_max: timedelta) -> bool:
        return timedelta() <= now - self.made_at <= age_max


@dataclass(slots=True)
class _Reply:
    """What an answer means.

    status             0 where no whole answer came
    value              the JSON object of a 2xx answer
    words              for people, in one line: the venue's, or what went wrong
    may_have_happened  a byte may have left, and the answer is not definite
    """

    status: int = 0
    value: dict | None = None
    words: str = ""
    may_have_happened: bool = False
    retry_after: int | None = None
    seconds: float = 0


class _Budget:
    """At most so many requests in any second."""

    def __init__(self, per_second: int):
        self._taken = deque(maxlen=per_second)

    def take(self) -> float:
        """Take the next place; return the seconds until it comes."""
        now, is_full = monotonic(), len(self._taken) == self._taken.maxlen
        self._taken.append(max(now, self._taken[0] + 1) if is_full else now)
        return self._taken[-1] - now


def _reply(answer: Answer) -> _Reply:
    reply = _Reply(answer.status, None, answer.trouble,
                   answer.was_sent and answer.status not in DEFINITE,
                   answer.retry_after, answer.seconds)
    if answer.status:
        try:
            value = decoded(answer.body)
            reply.words = f"HTTP {answer.status} {_words(value)}".rstrip()
            reply.value = value if answer.status // 100 == 2 else None
        except Malformed as trouble:
            reply.words = f"HTTP {answer.status}, {trouble}"
    return reply


def _certain(reply: _Reply, path: str) -> dict:
    if reply.value is not None:
        return reply.value
    raise (OutcomeUnknown if reply.may_have_happened else VenueUnavailable)(
        f"POST {path}: {reply.words}")


def _words(value: dict) -> str:
    """Return what an error body says; only the fields that are made for that."""
    listed = value.get("errors")
    if isinstance(listed, list) and listed and isinstance(listed[0], dict):
        value = listed[0]
    said = [value.get(key) for key in ("error", "id", "message")]
    return printable(" ".join(text for text in said if isinstance(text, str)))


def _time_said(value: dict) -> datetime:
    if "epochMillis" not in value:
        said = moment(value.get("iso"), "iso")
    else:
        try:
            millis = int(number(value["epochMillis"], "epochMillis"))
            said = EPOCH + timedelta(milliseconds=millis)
        except OverflowError:
            raise Malformed("epochMillis is not a time") from None
    # Near the end of the calendar, the first addition to it would end the process.
    if said.year not in YEARS:
        raise Malformed("a time of another age")
    return said
