"""Net: what comes of one request, and when?

A `Lane` is what `rest.Rest` sends through.  The request is handed to the exchange in this
process at a moment of its way; the rules in force say what goes wrong.  Nothing here judges.
"""

import json
import re
from decimal import Decimal
from urllib.parse import parse_qsl

from perps_bot.transport import Answer
from perps_bot.wire import decoded

ROOT = "/api/v3/brokerage"
LATENCY = (0.01, 0.08)
# A token is good from five seconds before it was made until so many seconds after.
TOKEN_EARLY, TOKEN_LIFE = 5, 115
HTML = b"<html><head><title>error</title></head><body><h1>error code: %d</h1></body></html>"
JSON_STATUS = {
    400: {"error": "INVALID_ARGUMENT", "message": "refused on demand"},
    403: {"error": "PERMISSION_DENIED", "message": "refused on demand"},
    408: {"error": "unknown", "message": "Request Timeout"},
    409: {"error": "unknown", "message": "Conflict"},
    429: {"errors": [{"id": "rate_limit_exceeded", "message": "Too many requests"}]},
}
# What is done to a body that was answered.
SPOILED = {
    "truncated":  lambda body: body[:len(body) // 2],
    "html":       lambda body: HTML % 200,
    "empty":      lambda body: b"",
    "list":       lambda body: b"[]",
    "nan":        lambda body: re.sub(rb'"-?[0-9.]+"', b"NaN", body, count=3) + b" ",
    "twice":      lambda body: body.replace(b"{", b'{"success":true,"success":false,', 1),
    "null":       lambda body: b"null",
    "utf8":       lambda body: body[:-1] + b'"\xff":1}',
    "new fields": lambda body: body.replace(b"{", b'{"brand_new":{"a":[1.5,null,true]},', 1),
}
encode = json.JSONEncoder(separators=(",", ":")).encode
_numbers = json.JSONDecoder(parse_float=Decimal, parse_int=Decimal).decode


def sound(body):
    """Decode what this process wrote itself."""
    return _numbers(body.decode())


class Rule:
    """What goes wrong with some requests.

    match   a part of "METHOD /path"
    how     refuse, lose, answer_lost, reset, late, status, spoil, slow, stale
    times   how many requests it still hits; None: until it is removed
    """

    def __init__(self, how, match="", times=1, **more):
        self.how, self.match, self.times, self.more = how, match, times, more


class Asked:
    """One request, as the wire saw it."""

    __slots__ = ("number", "at", "method", "path", "query", "body", "reached", "status", "answer",
                 "delivered", "process", "tick", "fault")

    def __str__(self):
        body = f" {encode(self.body)}" if self.body is not None else ""
        query = "&".join(f"{name}={value}" for name, value in self.query)
        end = "" if self.delivered else " NOT DELIVERED" if self.reached else " NOT REACHED"
        fault = f" ({self.fault})" if self.fault else ""
        return f"{self.method} {self.path}?{query}{body} -> {self.status}{end}{fault}"


class Lane:
    """The line that REST talks over, one of two."""

    def __init__(self, wire, name):
        self.wire, self.name, self.used_at = wire, name, 0

    def ask(self, request, until, meanwhile):
        if meanwhile:
            meanwhile()
        return self.wire.ask(self, request, until)

    def close(self):
        pass


class Wire:
    """The network between one bot and one exchange.

    venue    answers `request(...)`, and moves to the moment by `arrive()`
    heard    called with each request before and after the exchange answers it
    """

    def __init__(self, time, dice, venue, digest, step):
        self.time, self.dice, self.venue, self.digest, self.step = time, dice, venue, digest, step
        self.rules, self.count, self.struck = [], 0, 0
        self.before = self.after = lambda asked: None
        self.ordered = lambda: None
        self.process = self.tick = 0
        self.is_dead = False
        self._last, self._sound = {}, None

    def add(self, rule):
        self.rules.append(rule)
        return rule

    def drop(self, rule):
        if rule in self.rules:
            self.rules.remove(rule)

    def ask(self, lane, request, until):
        self.step("net before")
        asked = self._read(request)
        if asked.method == "POST":
            self.ordered()
        if until.forbids_to_begin():
            return Answer(trouble="not sent, a signal waits", was_sent=False)
        rule = self._hitting(asked)
        asked.fault = rule.how if rule else ""
        self.before(asked)
        begun = self.time.mono
        answer = self._carried(asked, request, rule, until)
        answer.seconds = self.time.mono - begun
        lane.used_at = self.time.mono
        self.digest(b"%d %s %s %d " % (self.count, asked.method.encode(), asked.path.encode(),
                                       answer.status) + answer.body)
        self.after(asked)
        self.step("net after")
        return answer

    def decoded(self, body):
        """As `wire.decoded`, without its suspicion of what the exchange itself just wrote."""
        return sound(body) if body is self._sound else decoded(body)

    def _read(self, request):
        asked, self.count = Asked(), self.count + 1
        asked.number, asked.at, asked.method = self.count, self.time.mono, request.method
        asked.path, _, query = request.target.partition("?")
        asked.query = parse_qsl(query)
        body = request.body or b""
        asked.body = json.loads(body) if body else None
        asked.reached = asked.delivered = False
        asked.status, asked.answer, asked.fault = 0, None, ""
        asked.process, asked.tick = self.process, self.tick
        self.digest(f"{asked.at:.3f} {asked.method} {asked.path} {asked.query} ".encode() + body)
        return asked

    def _hitting(self, asked):
        name = f"{asked.method} {asked.path.removeprefix(ROOT)}$"
        for rule in self.rules:
            if rule.match in name:
                self.struck += 1
                if rule.times is not None:
                    rule.times -= 1
                    if not rule.times:
                        self.rules.remove(rule)
                return rule
        return None

    def _carried(self, asked, request, rule, until):
        how, low_high = rule.how if rule else "", LATENCY
        way = self.dice.uniform(*low_high)
        if how == "refuse":
            self._wait(self.time.mono + way, until)
            return Answer(trouble="ConnectionRefusedError: refused", was_sent=False)
        if how == "lose":
            return self._timed_out(until)
        if how == "late":
            self.time.at(rule.more["seconds"], self._deliver, asked, request)
            return self._timed_out(until)
        if not self._wait(self.time.mono + way / 2, until):
            return Answer(trouble=until.why)
        if how == "status" and not rule.more.get("accepts"):
            return self._refused(asked, rule)
        status, body = self._deliver(asked, request)
        self.step("net answered")
        if how == "answer_lost":
            return self._timed_out(until)
        if how == "reset":
            return Answer(trouble="ConnectionResetError: reset by peer")
        if how == "status":
            return self._refused(asked, rule)
        slow = rule.more["seconds"] if how == "slow" else 0
        if not self._wait(self.time.mono + way / 2 + slow, until):
            return Answer(trouble=until.why)
        asked.delivered = True
        self._sound = body if status == 200 else None
        if how == "spoil":
            asked.delivered = rule.more["what"] == "new fields"
            return Answer(status, SPOILED[rule.more["what"]](body))
        if how == "stale" and asked.path in self._last:
            status, body = self._last[asked.path]
            asked.answer = json.loads(body)
        elif asked.method == "GET" and status == 200:
            self._last[asked.path] = status, body
        if how == "clock" and b"epochMillis" in body:
            body = _moved(body, rule.more["seconds"])
        return Answer(status, body)

    def _deliver(self, asked, request):
        """The request is at the exchange."""
        if self.is_dead and asked.method == "GET":
            return 0, b""
        self.venue.arrive()
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        refusal = token and not self._is_good(float(token))
        asked.reached = True
        if refusal:
            asked.status, asked.answer = 401, "Unauthorized"
        else:
            asked.status, asked.answer = self.venue.request(
                asked.method, asked.path, asked.query, asked.body, bool(token))
        self.venue.answered(asked)
        answer = asked.answer
        return asked.status, answer.encode() if isinstance(answer, str) else encode(answer).encode()

    def _is_good(self, made):
        now = self.time.venue().timestamp()
        return made - TOKEN_EARLY - 5 <= now < made + TOKEN_LIFE

    def _refused(self, asked, rule):
        status = rule.more["status"]
        asked.status = status if not asked.reached else asked.status
        if status == 401:
            return Answer(401, b"Unauthorized")
        if status in JSON_STATUS:
            return Answer(status, encode(JSON_STATUS[status]).encode(),
                          rule.more.get("retry_after"))
        return Answer(status, HTML % status)

    def _timed_out(self, until):
        while (left := until.left()) > 0:
            self.time.pass_until(self.time.mono + left)
        return Answer(trouble=until.why)

    def _wait(self, moment, until):
        """Wait until the moment; whether it came before the deadline."""
        while self.time.mono < moment:
            left = until.left()
            if left <= 0:
                return False
            self.time.pass_until(min(moment, self.time.mono + left))
        return until.left() > 0


def _moved(body, seconds):
    """An answer of /time, off by so many seconds."""
    said = json.loads(body)
    millis = int(said["epochMillis"]) + int(seconds * 1000)
    return encode({**said, "epochMillis": str(millis)}).encode()
