"""Lines: what does one line of the events say?

One JSON object, whose crc goes on from the line before; who reads it checks that first.  This
room is pure: text in, events out.  What is not ours raises, and is never mended here.
"""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import datetime
from decimal import Decimal

from perps_bot.model import Event

WORDS_MAX = 200  # characters that an error about foreign bytes may quote
# What decoding raises on text that is not ours: bad UTF-8 or JSON, 1e99999999999999999999, [[[[
UNREADABLE = (ValueError, ArithmeticError, RecursionError)
CRC_FORM = b',"crc":"%08x"}\n'
CRC_LENGTH = len(CRC_FORM % 0)
# How every line begins that we write.
head_of = re.compile(rb'\{"seq":(\d+),"ts":"([^"\\]+)","type":"([^"\\]+)"(?=,)').match
from_json = json.JSONDecoder(parse_float=Decimal, parse_constant=int).decode  # int refuses NaN


def said(foreign: object) -> str:
    """What stands in a file, or an error that repeats it: of any length there, not here."""
    return ascii(str(foreign)[:WORDS_MAX])[1:-1]


def parsed(line: bytes) -> Event:
    """The event of a line that the caller verifies; what is not ours raises UNREADABLE."""
    match from_json(line.decode()):
        case {"seq": int(seq), "ts": str(ts), "type": str(type), "crc": str(), **data}:
            return Event(seq, datetime.fromisoformat(ts), type, data)
    raise ValueError("a field is missing")


def unparsed(line: bytes, head: re.Match) -> Event:
    """The same; its fields are looked for as they are asked for, which may raise ValueError."""
    seq, ts, type = head.groups()
    return Event(int(seq), datetime.fromisoformat(ts.decode()), type.decode(),
                 _Fields(line, head.end()))


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
        if name not in self._known and not self._is_whole:
            key = b',"%s":"' % name.encode()
            found = self._line.find(key, self._begin, self._end)
            begin = found + len(key)
            text = self._line[begin:self._line.find(b'"', begin)]
            if found < 0 or b"\\" in text:
                return self._all()[name]
            self._known[name] = text.decode()
        return self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())

    def _all(self) -> dict:
        if not self._is_whole:
            try:
                self._known, self._is_whole = parsed(self._line).data, True
            except UNREADABLE as error:
                raise ValueError(f"its line: {said(error)}") from None
        return self._known
