"""Lines: what does a line of the events say of one thing?

For who reads a million of them and asks each for little: the line is verified as ever, and parsed
no further than what is asked for.  What is not ours raises, and is never mended here.
"""

import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from functools import lru_cache

from perps_bot.event import CRC_LENGTH, UNREADABLE, Event, decoded

NAMES_MAX = 1_000  # names of fields that are remembered as they stand in a line
WORDS_MAX = 200  # characters that an error about foreign bytes may quote
_event_of = tuple.__new__
# How every line begins that we write, and how most of them go on.  No quote stands unescaped in
# a text, so that the next one ends it; a symbol with a backslash is not looked at here.
_head_of = re.compile(rb'\{"seq":(\d+),"ts":"([^"]+)","type":"([a-z._]+)"(?=,)').match
_hold_of = re.compile(rb'\{"seq":(\d+),"ts":"([^"]+)","type":"strategy\.signal",'
                      rb'"symbol":"([^"\\]+)","action":"hold","reason":"[^"]*",'
                      rb'"mark_price":"(\d+(?:\.\d+)?)",').match
HOLD = "strategy.signal hold"  # a decision to hold: its data are symbol and mark price alone
# Of which so much is asked that to parse all of it is quicker than to find each.
_WHOLE = frozenset({b"trade.executed", b"position.updated", b"funding.paid", b"day.opened"})


def said(foreign: object) -> str:
    """What stands in a file, or an error that repeats it: of any length there, not here."""
    return ascii(str(foreign)[:WORDS_MAX])[1:-1]


def unparsed(line: bytes) -> Event:
    """The event of a line that the caller verifies; its fields are looked for as they are asked
    for, which may raise ValueError."""
    if (head := _head_of(line)) is None:
        return decoded(line)
    seq, ts, type = head.groups()
    fields = _Fields(line, head.end(), type in _WHOLE)
    return _event_of(Event, (int(seq), datetime.fromisoformat(ts.decode()), type.decode(), fields,
                             None))


def brief(line: bytes) -> Event:
    """The same, but a decision to hold is a HOLD."""
    if (hold := _hold_of(line)) is None:
        return unparsed(line)
    seq, ts, symbol, price = hold.groups()
    return _event_of(Event, (int(seq), datetime.fromisoformat(ts.decode()), HOLD,
                             (symbol.decode(), price.decode()), None))


@lru_cache(maxsize=NAMES_MAX)
def _key(name: str) -> bytes:
    return b',"%s":"' % name.encode()


class _Fields(Mapping):
    """The fields of a line that is verified but not parsed: texts are found by their names.

    `,"name":"` stands in no text, whose quotes are escaped, and before the first brace it is no
    part of a field.  For everything else the line is parsed; what then cannot be is a ValueError.
    """

    __slots__ = ("_line", "_begin", "_end", "_known", "_is_whole")

    def __init__(self, line: bytes, begin: int, is_wanted_whole: bool) -> None:
        self._line, self._begin, self._known, self._is_whole = line, begin, {}, False
        self._end = begin if is_wanted_whole else line.find(b"{", begin, -CRC_LENGTH)
        if self._end < 0:
            self._end = len(line) - CRC_LENGTH

    def __getitem__(self, name: str) -> object:
        known = self._known
        if name in known or self._is_whole:
            return known[name]
        line, key = self._line, _key(name)
        found = line.find(key, self._begin, self._end)
        begin = found + len(key)
        text = line[begin:line.find(b'"', begin)]
        if found < 0 or b"\\" in text:
            return self._all()[name]
        known[name] = told = text.decode()
        return told

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> dict:
        if not self._is_whole:
            try:
                self._known, self._is_whole = decoded(self._line).data, True
            except UNREADABLE as error:
                raise ValueError(f"its line: {said(error)}") from None
        return self._known
