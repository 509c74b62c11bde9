"""Sight: is the bot well, and is that still true?

A bot's two state files and who holds its lock, weighed against the clock.  Nothing here asks the
venue, and nothing changes a byte.  What is old says so; what is not known is no number; a file may
hold anything, and is only believed word by word.  Monitors ask often, so no more is loaded here
than that needs.
"""

import json
import os
from collections import namedtuple
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import cached_property
from itertools import islice

from perps_bot.errors import ConfigError
from perps_bot.event import UNREADABLE, Event
from perps_bot.reading import holder, opened, refuse_without
from perps_bot.rooms import rooms
from perps_bot.settings import events_folder
from perps_bot.words import alert_words, number, text

OK, NO, NOT_VERIFIED = 0, 1, 3
STATE_BYTES_MAX = 1 << 20
# How far the venue's time, which the files have, may be ahead of this machine's.
CLOCK_AHEAD_MAX = timedelta(seconds=10)
SECONDS_GIVEN_MAX = 31_536_000
EVENTS_SHOWN, EVENTS_SCANNED_MAX, ROWS_SHOWN_MAX = 10, 2000, 50
NO_NEWS = frozenset({b"position.updated", b"day.opened", b"funding.rate", b"strategy.warmed",
                     b"alert.sent"})


class Sight(namedtuple("Sight", "folder now state health troubles holder")):
    """What is there: both files (None where one cannot be used, and why), the lock's holder.

    holder  pid; 0 where it cannot be read, None while nobody holds the lock
    """

    @property
    def age(self) -> timedelta | None:
        at = moment(at_path(self.health, "timestamp"))
        return None if at is None else self.now - at

    @property
    def age_seconds(self) -> Decimal | None:
        return None if self.age is None else Decimal(self.age // timedelta(milliseconds=1)) / 1000

    def verdict(self, age_max: Decimal | None = None) -> tuple[int, str]:
        """The exit code and the reason: whether the bot runs, speaks of now, and is well.

        age_max  seconds, in place of the time for which the file says that it is valid
        """
        code, why = self._liveness(age_max)
        if code == OK and at_path(self.health, "ok") is not True:
            code, why = NO, f"NOT ok: {self._ailments()}"
        return code, why

    @cached_property
    def events(self) -> tuple[list[Event], str]:
        """The last ten that are worth a line, oldest first, and why there are none."""
        if (folder := events_of(self)) is None:
            return [], "which events are this bot's is not known"
        try:
            found = rooms.journal.newest(folder, wants=_is_news, lines_max=EVENTS_SCANNED_MAX)
            return [*islice(found, EVENTS_SHOWN)][::-1], ""
        except ConfigError as trouble:
            return [], str(trouble)

    def is_current(self) -> bool:
        """Whether the figures, too, are of the bot that runs, as of now."""
        at, said = (moment(at_path(each, "timestamp")) for each in (self.state, self.health))
        until = moment(at_path(self.health, "valid_until"))
        return self._liveness(None)[0] == OK and at is not None and self.now - at <= until - said

    def _liveness(self, age_max: Decimal | None) -> tuple[int, str]:
        until, pid = moment(at_path(self.health, "valid_until")), at_path(self.health, "pid")
        age = self.age
        if age is None or until is None:
            return NOT_VERIFIED, "; ".join(self.troubles) or "health.json has no time in it"
        lasts = until - self.now + age
        if age_max is not None:
            lasts = timedelta(milliseconds=int(age_max * 1000))
        said = f"its last word is {ago(age)} old"
        if self.holder is None:
            word = at_path(self.health, "error") or at_path(self.health, "message")
            return NO, f"the bot is NOT running; {said}{f': {text(word)}' if word else ''}"
        if self.holder and self.holder != pid:
            return NO, f"pid {self.holder} works there and has said nothing yet; {said}"
        if age < -CLOCK_AHEAD_MAX:
            return NO, "health.json is from the future: check the clock of this machine"
        if age > lasts:
            return NO, f"pid {self.holder} runs but says nothing: it hangs, or cannot write; {said}"
        return OK, f"ok, {ago(age)} ago"

    def _ailments(self) -> str:
        said, health = [], self.health
        if (state := text(health.get("trading_state"))) != "TRADING":
            said.append(state)
        said += [text(health[name]) for name in ("error", "message") if health.get(name)]
        said += [alert_words(row) for row in rows_of(health.get("alerts"))]
        return "; ".join(said) or "it does not say why"


def look(folder: str | os.PathLike, now: datetime) -> Sight:
    """Read what is there.  Raises ConfigError where there is no such folder."""
    refuse_without(folder)
    troubles, files = [], []
    for name in ("last_state.json", "health.json"):
        try:
            files.append(peek(os.path.join(folder, name)))
        except ConfigError as trouble:
            files.append(None)
            troubles.append(str(trouble))
    lock = os.path.join(folder, "lock")
    try:
        pid = holder(lock)
    except OSError as error:
        raise ConfigError(f"{lock}: {error.strerror}: run as its owner") from error
    return Sight(folder, now, *files, tuple(troubles), pid)


def peek(path: str) -> Mapping:
    """A state file's JSON object, read without touching it; ConfigError says why not."""
    if not os.path.lexists(path):
        raise ConfigError(f"{path} is missing: has a bot run there? To begin: perps-bot run")
    try:
        with opened(path) as file:
            body = file.read(STATE_BYTES_MAX + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror}); look what it is") from None
    try:
        value = _from_json(body.decode())
    except UNREADABLE:
        value = None
    if not isinstance(value, dict) or len(body) > STATE_BYTES_MAX:
        raise ConfigError(f"{path}: not a file of this bot, or half of one: a running bot replaces "
                          f"it within seconds")
    return value


def in_the_way(sight: Sight, events: str) -> str:
    """What stands in the way of trading as of now; empty where `events` are not this bot's."""
    if events_of(sight) != events:
        return ""
    code, why = sight.verdict()
    message = at_path(sight.health, "message")
    return why if code or not message else text(message)


def seconds_given(flag: str, given: str | None) -> Decimal | None:
    value = number(given)
    if given is None or value is not None and 0 < value <= SECONDS_GIVEN_MAX:
        return value
    raise ConfigError(f"{flag} {text(given)}: must be seconds, above 0 and up to "
                      f"{SECONDS_GIVEN_MAX}")


def events_of(sight: Sight) -> str | None:
    """Where the events are of the run whose files these are; None where they do not say."""
    profile, broker = (at_path(sight.health or sight.state, name) for name in ("profile", "broker"))
    is_known = isinstance(profile, str) and isinstance(broker, str)
    return events_folder(sight.folder, profile, broker) if is_known else None


def _is_news(line: bytes) -> bool:
    """Judged by the line's own bytes: within a text every quote is escaped, so none looks so."""
    type, _, data = line.partition(b'"type":"')[2].partition(b'"')
    is_hold = type == b"strategy.signal" and data.partition(b'"action":"')[2].startswith(b'hold"')
    return not is_hold and type not in NO_NEWS


def at_path(value: object, *keys: str) -> object:
    """What stands in nested objects; None where anything on the way is missing."""
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def rows_of(value: object) -> list[Mapping]:
    """The objects of a list; what is something else is left out."""
    rows = value[:ROWS_SHOWN_MAX] if isinstance(value, list) else ()
    return [row for row in rows if isinstance(row, Mapping)]


def moment(value: object) -> datetime | None:
    """The time that `value` tells, in UTC; None for everything else."""
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
        return at.astimezone(UTC) if at and at.utcoffset() is not None else None
    except (ValueError, ArithmeticError):
        return None


def ago(age: timedelta) -> str:
    seconds = max(int(age / timedelta(seconds=1)), 0)
    for size, unit in ((86_400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


_from_json = json.JSONDecoder(parse_float=number, parse_constant=lambda _: None).decode
