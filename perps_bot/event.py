"""Event: what is one line of the events?

The value, and the form in which it stands in a file: a JSON object whose crc follows from the
line before.  Whoever reads events needs no more than this, so nothing else may stand here: no
file, no clock, and no noun of trading.
"""

import json
from collections import namedtuple
from datetime import datetime
from decimal import Decimal

SCHEMA = 1
DAY_FILES = "[0-9][0-9][0-9][0-9]-[0-9][0-9]-[0-9][0-9].jsonl"  # as a shell says it
DAY_FILE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}\.jsonl"  # and as `re` does, for who starts often
# What decoding raises on text that is not ours: bad UTF-8 or JSON, 1e99999999999999999999, [[[[
UNREADABLE = (ValueError, ArithmeticError, RecursionError)
CRC_FORM = b',"crc":"%08x"}\n'
CRC_LENGTH = len(CRC_FORM % 0)


class Event(namedtuple("Event", "seq at type data noun", defaults=(None,))):
    """One line of the events: what happened, in order.

    seq   counts from 1 and never repeats
    at    the moment that the loop acted on, venue time
    data  Decimals in memory, their text once read back: readers pass them through Decimal()
    noun  the order, or the position, that came of it; None once read back: then data tells it
    """

    __slots__ = ()


def decoded(line: bytes) -> Event:
    """Read one line.  Raises one of UNREADABLE; whether it follows is not asked."""
    match from_json(line.decode()):
        case {"seq": int(seq), "ts": str(ts), "type": str(type), "crc": str(), **data}:
            return Event(seq, datetime.fromisoformat(ts), type, data)
    raise ValueError("a field is missing")


from_json = json.JSONDecoder(parse_float=Decimal, parse_constant=int).decode  # int refuses NaN
