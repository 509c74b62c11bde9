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
# How every line begins that we write.
head_of = re.compile(rb'\{"seq":(\d+),"ts":"([^"\\]+)","type":"([^"\\]+)"(?=,)').match


def said(foreign: object) -> str:
    """What stands in a file, or an error that repeats it: of any length there, not here."""
    return ascii(str(foreign)[:WORDS_MAX])[1:-1]


def unparsed(line: bytes, head: re.Match) -> Event:
    """The event of a line that the caller verifies; its fields are looked for as they are asked
    for, which may raise ValueError."""
    seq, ts, type = head.groups()
    return Event(int(seq), datetime.fromisoformat(ts.decode()), type.decode(),
                 _Fields(line, head.end()))


@lru_cache(maxsize=NAMES_MAX)
def _key(name: str) -> bytes:
    return b',"%s":"' % name.encode()


class _Fields(Mapping):
    """The fields of a line that is verified but not parsed: texts are found by their names.

    `,"name":"` stands in no text, whose quotes are escaped, and before the first brace it is no
    part of a field.  For everything else the line is parsed; what then cannot be is a ValueError.
    """

    __slots__ = ("_line", "_begin", "_end", "_known", "_is_whole")

    def __init__(self, line: bytes, begin: int) -> None:
        self._line, self._begin, self._known, self._is_whole = line, begin, {}, False
        self._end = line.find(b"{", begin, -CRC_LENGTH)
        if self._end < 0:
            self._end = len(line) - CRC_LENGTH

    def __getitem__(self, name: str) -> object:
        known = self._known
        return known[name] if name in known or self._is_whole else self._find(name)

    def _find(self, name: str) -> object:
        line, key = self._line, _key(name)
        found = line.find(key, self._begin, self._end)
        begin = found + len(key)
        text = line[begin:line.find(b'"', begin)]
        if found < 0 or b"\\" in text:
            return self._all()[name]
        self._known[name] = told = text.decode()
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
